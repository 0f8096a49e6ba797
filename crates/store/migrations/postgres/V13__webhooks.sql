-- Webhooks, how far each is in the log, and what became of deliveries; how far
-- followers of the log are; what tells the sealing key of this store from others.

create table webhook (
    org bytea not null,
    id bytea not null,
    enabled bigint not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);

create table webhook_feed (
    org bytea not null,
    id bytea not null,
    cursor bigint not null,
    wanted bigint not null,
    asked bigint not null,
    secret bytea not null,
    secret_before bytea,
    secret_before_until bigint,
    primary key (org, id)
);

create table webhook_delivery (
    org bytea not null,
    webhook bytea not null,
    id bytea not null,
    seq bigint not null,
    event_type text collate "C" not null,
    state text collate "C" not null,
    attempts bigint not null,
    status bigint,
    error text collate "C",
    body text collate "C" not null,
    created_at bigint not null,
    attempted_at bigint,
    next_at bigint,
    finished_at bigint,
    asked bigint not null,
    primary key (org, webhook, id)
);
create index webhook_delivery_waiting on webhook_delivery (org, webhook, id)
    where state = 'waiting';

create table follower (
    name text collate "C" primary key,
    seq bigint not null,
    holder bytea not null,
    until bigint not null
);

create table sealing (
    one bigint primary key check (one = 1),
    mark bytea not null
);
