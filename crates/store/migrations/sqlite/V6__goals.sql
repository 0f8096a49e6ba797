-- Goals, plans and tasks: what is to be reached, by which steps, and the work.

create table goal (
    org blob not null,
    id blob not null,
    parent_goal_id blob,
    agent_id blob,
    status text not null,
    priority integer not null,
    goal_type text,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
create index goal_by_parent_goal_id on goal (org, parent_goal_id, id);
create index goal_by_agent_id on goal (org, agent_id, id);

create table plan (
    org blob not null,
    id blob not null,
    goal_id blob,
    agent_id blob,
    status text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
create index plan_by_goal_id on plan (org, goal_id, id);
create index plan_by_agent_id on plan (org, agent_id, id);

-- plan_id is the caller's own.
create table task (
    org blob not null,
    id blob not null,
    plan_id text,
    agent_id blob,
    status text not null,
    task_type text,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
create index task_by_plan_id on task (org, plan_id, id);
create index task_by_agent_id on task (org, agent_id, id);

-- What each task depends on: the same as in its document.
create table task_dependency (
    org blob not null,
    task blob not null,
    needs blob not null,
    primary key (org, task, needs)
) strict, without rowid;
create index task_dependency_by_needs on task_dependency (org, needs, task);
