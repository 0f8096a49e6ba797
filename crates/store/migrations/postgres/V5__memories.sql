create table memory (
    org bytea not null,
    id bytea not null,
    name text collate "C",
    user_id text collate "C",
    agent_id text collate "C",
    session_id text collate "C",
    read_mode text collate "C" not null,
    access text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
-- Most memories name few of these; those that name none cost no index entry.
create index memory_by_name on memory (name, org, id) where name is not null;
create index memory_by_user_id on memory (user_id, org, id) where user_id is not null;
create index memory_by_agent_id on memory (agent_id, org, id) where agent_id is not null;
create index memory_by_session_id on memory (session_id, org, id) where session_id is not null;
