-- Webhooks, how far each is in the log, and what became of deliveries; how far
-- followers of the log are; what tells the sealing key of this store from others.

create table webhook (
    org blob not null,
    id blob not null,
    enabled integer not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;

create table webhook_feed (
    org blob not null,
    id blob not null,
    cursor integer not null,
    wanted integer not null,
    asked integer not null,
    secret blob not null,
    secret_before blob,
    secret_before_until integer,
    primary key (org, id)
) strict, without rowid;

create table webhook_delivery (
    org blob not null,
    webhook blob not null,
    id blob not null,
    seq integer not null,
    event_type text not null,
    state text not null,
    attempts integer not null,
    status integer,
    error text,
    body text not null,
    created_at integer not null,
    attempted_at integer,
    next_at integer,
    finished_at integer,
    asked integer not null,
    primary key (org, webhook, id)
) strict, without rowid;
create index webhook_delivery_waiting on webhook_delivery (org, webhook, id)
    where state = 'waiting';

create table follower (
    name text primary key,
    seq integer not null,
    holder blob not null,
    until integer not null
) strict, without rowid;

create table sealing (
    one integer primary key check (one = 1),
    mark blob not null
) strict, without rowid;
