create table memory (
    org blob not null,
    id blob not null,
    name text,
    user_id text,
    agent_id text,
    session_id text,
    read_mode text not null,
    access text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
-- Most memories name few of these; those that name none cost no index entry.
create index memory_by_name on memory (org, name, id) where name is not null;
create index memory_by_user_id on memory (org, user_id, id) where user_id is not null;
create index memory_by_agent_id on memory (org, agent_id, id) where agent_id is not null;
create index memory_by_session_id on memory (org, session_id, id) where session_id is not null;
