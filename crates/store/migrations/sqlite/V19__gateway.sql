-- What the gateway keeps: from where things were done, how much an organisation may
-- ask for and has asked for today, who holds tokens, and the seals of the log.

alter table log add column address text;
alter table org add column tier text not null default 'standard';
alter table ticket add column scopes text;
alter table ticket add column token_until integer;

create table quota_use (
    org blob not null,
    day integer not null,
    n integer not null,
    primary key (org, day)
) strict, without rowid;

create table token_holder (
    org blob not null,
    id blob not null,
    issuer text not null,
    subject text not null,
    seen_at integer not null,
    primary key (org, id)
) strict, without rowid;

create table audit_seal (
    last integer primary key,
    first integer not null,
    entries blob not null,
    chain blob not null
) strict;

create table audit_head (
    one integer primary key check (one = 1),
    seq integer not null,
    seals integer not null,
    chain blob not null,
    mark blob,
    trimmed integer not null
) strict, without rowid;
insert into audit_head (one, seq, seals, chain, mark, trimmed) select 1, 0, 0,
    x'0000000000000000000000000000000000000000000000000000000000000000', null, oldest
    from (select coalesce((select min(seq) from log) - 1, (select seq from log_head)) as oldest) as log;
