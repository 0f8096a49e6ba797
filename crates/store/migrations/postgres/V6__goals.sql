-- Goals, plans and tasks: what is to be reached, by which steps, and the work.

create table goal (
    org bytea not null,
    id bytea not null,
    parent_goal_id bytea,
    agent_id bytea,
    status text collate "C" not null,
    priority bigint not null,
    goal_type text collate "C",
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
create index goal_by_parent_goal_id on goal (parent_goal_id, org, id);
create index goal_by_agent_id on goal (agent_id, org, id);

create table plan (
    org bytea not null,
    id bytea not null,
    goal_id bytea,
    agent_id bytea,
    status text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
create index plan_by_goal_id on plan (goal_id, org, id);
create index plan_by_agent_id on plan (agent_id, org, id);

-- plan_id is the caller's own.
create table task (
    org bytea not null,
    id bytea not null,
    plan_id text collate "C",
    agent_id bytea,
    status text collate "C" not null,
    task_type text collate "C",
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
create index task_by_plan_id on task (plan_id, org, id);
create index task_by_agent_id on task (agent_id, org, id);

-- What each task depends on: the same as in its document.
create table task_dependency (
    org bytea not null,
    task bytea not null,
    needs bytea not null,
    primary key (org, task, needs)
);
create index task_dependency_by_needs on task_dependency (needs, org, task);
