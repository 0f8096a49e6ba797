-- What a browser shows instead of a key when it opens a stream: once, and soon.
create table ticket (
    hash blob primary key,
    org blob not null,
    key blob,
    role text not null,
    expires_at integer not null
) strict, without rowid;
create index ticket_by_expiry on ticket (expires_at);
