-- The episodes of a group that wait for what they say to be drawn out of them. A row
-- is there exactly while one waits. Every write that adds an episode, takes some or
-- ends the group's job changes this row first, so that two of them go one after the
-- other. lane is the group's lane of jobs; since is not after the oldest one came.
create table graph_queue (
    org bytea not null,
    lane bytea not null,
    group_id text collate "C" not null,
    pending bigint not null,
    since bigint not null,
    primary key (org, lane)
);
