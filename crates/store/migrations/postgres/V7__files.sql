-- Files of sessions. A content has an id of its own, under which its chunks are.

create table session_file (
    org bytea not null,
    session bytea not null,
    id bytea not null,
    path text collate "C" not null,
    media_type text collate "C" not null,
    bytes bigint not null,
    content bytea not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    primary key (org, session, id)
);
create unique index session_file_by_path on session_file (session, org, path);

create table file_chunk (
    org bytea not null,
    content bytea not null,
    n bigint not null,
    data bytea not null,
    primary key (org, content, n)
);

-- Contents that are still arriving.
create table file_upload (
    org bytea not null,
    session bytea not null,
    content bytea not null,
    at bigint not null,
    primary key (org, session, content)
);
