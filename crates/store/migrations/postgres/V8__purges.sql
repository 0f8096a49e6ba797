-- Jobs that people ask for and look at, and what a purge looks for.

create table admin_job (
    org bytea not null,
    id bytea not null,
    kind text collate "C" not null,
    state text collate "C" not null,
    holder bytea,
    rest text collate "C",
    result text collate "C" not null,
    error text collate "C",
    created_at bigint not null,
    started_at bigint,
    finished_at bigint,
    primary key (org, id)
);

create index run_by_user_id on run (user_id, org, id) where user_id is not null;
