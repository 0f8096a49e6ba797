-- What models do for the graph. Nothing here holds a client up: an episode is stored,
-- found as text and read by rules without any of it.

-- Episodes that wait for a model: work says what it is to do. tokens is a guess of how
-- long the episode is for it, at is when the episode came.
create table graph_ask (
    org blob not null,
    group_id text not null,
    work text not null,
    episode blob not null,
    tokens integer not null,
    at integer not null,
    primary key (org, group_id, work, episode)
) strict, without rowid;

-- A group and a work, and the lane of the job that asks: a row is there exactly while
-- an episode waits. Every write that adds one or ends the job changes this row first.
-- attempts is how often the oldest ones were asked about in vain.
create table graph_asking (
    org blob not null,
    lane blob not null,
    group_id text not null,
    work text not null,
    attempts integer not null,
    primary key (org, lane)
) strict, without rowid;

-- What a model said of some episodes, checked, until the job of the group's own lane,
-- which alone changes its graph, has stored it. The group has a row in graph_queue
-- meanwhile.
create table graph_answer (
    org blob not null,
    group_id text not null,
    id blob not null,
    body text not null,
    created_at integer not null,
    primary key (org, group_id, id)
) strict, without rowid;
