-- Keys and organisations become resources: documents as clients read them. What
-- authentication needs of a key stands apart, by the hash of its secret.

create table key_secret (
    hash bytea primary key,
    org bytea not null,
    id bytea not null,
    role text collate "C" not null,
    scopes text collate "C" not null,
    expires_at bigint
);
create unique index key_secret_by_id on key_secret (org, id);
insert into key_secret select hash, org, id, role, '', null::bigint from api_key;

create table api_key_kept (
    org bytea not null,
    id bytea not null,
    name text collate "C" not null,
    role text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
insert into api_key_kept select org, id, name, role, 1, created_at, created_at, 0,
    json_build_object('name', name, 'role', role, 'scopes', json_build_array(), 'expires_at', null,
    'prefix', prefix, 'created_by', null)::text from api_key;
insert into counter (org, kind, key, n) select org, 'keys', ''::bytea, count(*) from api_key group by org;
drop table api_key;
alter table api_key_kept rename to api_key;

create table org_kept (
    org bytea not null,
    id bytea not null,
    name text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
insert into org_kept select (select id from org order by id limit 1), id, name, 1, created_at, created_at, 0,
    json_build_object('name', name)::text from org;
drop table org;
alter table org_kept rename to org;
insert into counter (org, kind, key, n) select org, 'orgs', ''::bytea, count(*) from org group by org;
