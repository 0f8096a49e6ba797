-- Resources keep the document that clients read. Rows from before have the
-- shape 0: their document is the body alone, and is written anew when read.

alter table agent add column shape bigint not null default 0,
    add column document text collate "C";
update agent set document = json_build_object('name', name, 'description', description,
    'agent_type', agent_type, 'status', status, 'model', model, 'instructions', instructions,
    'tools', tools::json, 'memory', json_build_object('recall', recall <> 0,
        'remember', remember <> 0, 'limit', recall_limit),
    'configuration', configuration::json, 'metadata', metadata::json,
    'resource_limits', resource_limits::json, 'did', did)::text;
alter table agent alter column shape drop default, alter column document set not null,
    drop column model, drop column instructions, drop column tools, drop column recall,
    drop column remember, drop column recall_limit, drop column configuration,
    drop column metadata, drop column resource_limits, drop column did;

alter table session add column shape bigint not null default 0,
    add column document text collate "C";
update session set document = json_build_object('name', name, 'user_id', nullif(user_id, ''),
    'origin', origin, 'status', status, 'metadata', metadata::json)::text;
alter table session alter column shape drop default, alter column document set not null,
    drop column origin, drop column metadata;
alter index session_by_user rename to session_by_user_id;

create table idempotency (
    org bytea not null,
    caller bytea not null,
    operation text collate "C" not null,
    key text collate "C" not null,
    body bytea not null,
    at bigint not null,
    id bytea not null,
    answer text collate "C",
    primary key (org, caller, operation, key)
);
create index idempotency_by_time on idempotency (at);
