-- Files of sessions. A content has an id of its own, under which its chunks are.

create table session_file (
    org blob not null,
    session blob not null,
    id blob not null,
    path text not null,
    media_type text not null,
    bytes integer not null,
    content blob not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    primary key (org, session, id)
) strict, without rowid;
create unique index session_file_by_path on session_file (org, session, path);

create table file_chunk (
    org blob not null,
    content blob not null,
    n integer not null,
    data blob not null,
    primary key (org, content, n)
) strict;

-- Contents that are still arriving.
create table file_upload (
    org blob not null,
    session blob not null,
    content blob not null,
    at integer not null,
    primary key (org, session, content)
) strict, without rowid;
