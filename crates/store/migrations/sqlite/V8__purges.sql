-- Jobs that people ask for and look at, and what a purge looks for.

create table admin_job (
    org blob not null,
    id blob not null,
    kind text not null,
    state text not null,
    holder blob,
    rest text,
    result text not null,
    error text,
    created_at integer not null,
    started_at integer,
    finished_at integer,
    primary key (org, id)
) strict, without rowid;

create index run_by_user_id on run (org, user_id, id) where user_id is not null;
