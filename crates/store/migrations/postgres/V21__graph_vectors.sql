-- Episodes as vectors, of length 1, each number four bytes, little end first. Those of
-- one model alone can be compared. made_at is when it was stored, which is how other
-- processes find what is new.
create table graph_vector (
    org bytea not null,
    group_id text collate "C" not null,
    episode bytea not null,
    model text collate "C" not null,
    made_at bigint not null,
    vector bytea not null,
    primary key (org, group_id, episode)
);
create index graph_vector_by_made_at on graph_vector (org, group_id, made_at, episode);
