-- What a browser shows instead of a key when it opens a stream: once, and soon.
create table ticket (
    hash bytea primary key,
    org bytea not null,
    key bytea,
    role text collate "C" not null,
    expires_at bigint not null
);
create index ticket_by_expiry on ticket (expires_at);
