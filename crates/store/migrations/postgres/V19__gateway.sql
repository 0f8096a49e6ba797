-- What the gateway keeps: from where things were done, how much an organisation may
-- ask for and has asked for today, who holds tokens, and the seals of the log.

alter table log add column address text collate "C";
alter table log_pending add column address text collate "C";
alter table org add column tier text collate "C" not null default 'standard';
alter table ticket add column scopes text collate "C";
alter table ticket add column token_until bigint;

create table quota_use (
    org bytea not null,
    day bigint not null,
    n bigint not null,
    primary key (org, day)
);

create table token_holder (
    org bytea not null,
    id bytea not null,
    issuer text collate "C" not null,
    subject text collate "C" not null,
    seen_at bigint not null,
    primary key (org, id)
);

create table audit_seal (
    last bigint primary key,
    first bigint not null,
    entries bytea not null,
    chain bytea not null
);

create table audit_head (
    one bigint primary key check (one = 1),
    seq bigint not null,
    seals bigint not null,
    chain bytea not null,
    mark bytea,
    trimmed bigint not null
);
insert into audit_head (one, seq, seals, chain, mark, trimmed) select 1, 0, 0,
    '\x0000000000000000000000000000000000000000000000000000000000000000', null, oldest
    from (select coalesce((select min(seq) from log) - 1, (select seq from log_head)) as oldest) as log;
