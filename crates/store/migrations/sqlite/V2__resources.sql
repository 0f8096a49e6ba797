-- Resources keep the document that clients read. Rows from before have the
-- shape 0: their document is the body alone, and is written anew when read.
-- Without rowid a row lies where its key is, so that a list reads neighbours.

create table agent_kept (
    org blob not null,
    id blob not null,
    name text not null,
    description text not null,
    status text not null,
    agent_type text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
insert into agent_kept select org, id, name, description, status, agent_type, version, created_at,
    updated_at, 0, json_object('name', name, 'description', description, 'agent_type', agent_type,
    'status', status, 'model', model, 'instructions', instructions, 'tools', json(tools),
    'memory', json_object('recall', json(iif(recall, 'true', 'false')),
        'remember', json(iif(remember, 'true', 'false')), 'limit', recall_limit),
    'configuration', json(configuration), 'metadata', json(metadata),
    'resource_limits', json(resource_limits), 'did', did) from agent;
drop table agent;
alter table agent_kept rename to agent;
create index agent_by_name on agent (org, name, id);

create table session_kept (
    org blob not null,
    id blob not null,
    name text,
    user_id text not null,
    status text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
insert into session_kept select org, id, name, user_id, status, version, created_at, updated_at, 0,
    json_object('name', name, 'user_id', nullif(user_id, ''), 'origin', origin, 'status', status,
    'metadata', json(metadata)) from session;
drop table session;
alter table session_kept rename to session;
create unique index session_by_name on session (org, name, user_id) where name is not null;
create index session_by_user_id on session (org, user_id, id);

create table idempotency (
    org blob not null,
    caller blob not null,
    operation text not null,
    key text not null,
    body blob not null,
    at integer not null,
    id blob not null,
    answer text,
    primary key (org, caller, operation, key)
) strict;
create index idempotency_by_time on idempotency (at);
