-- Keys and organisations become resources: documents as clients read them. What
-- authentication needs of a key stands apart, by the hash of its secret.

create table key_secret (
    hash blob primary key,
    org blob not null,
    id blob not null,
    role text not null,
    scopes text not null,
    expires_at integer
) strict, without rowid;
create unique index key_secret_by_id on key_secret (org, id);
insert into key_secret select hash, org, id, role, '', null from api_key;

create table api_key_kept (
    org blob not null,
    id blob not null,
    name text not null,
    role text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
insert into api_key_kept select org, id, name, role, 1, created_at, created_at, 0,
    json_object('name', name, 'role', role, 'scopes', json('[]'), 'expires_at', null,
    'prefix', prefix, 'created_by', null) from api_key;
insert into counter (org, kind, key, n) select org, 'keys', x'', count(*) from api_key group by org;
drop table api_key;
alter table api_key_kept rename to api_key;

create table org_kept (
    org blob not null,
    id blob not null,
    name text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
insert into org_kept select (select id from org order by id limit 1), id, name, 1, created_at, created_at, 0,
    json_object('name', name) from org;
drop table org;
alter table org_kept rename to org;
insert into counter (org, kind, key, n) select org, 'orgs', x'', count(*) from org group by org;
