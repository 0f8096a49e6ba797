-- What was said in a run is an episode by the id of its message, and nobody asks for it by
-- what it says; so a run writes into one tree less.
drop index graph_episode_by_hash;
create unique index graph_episode_by_hash on graph_episode (org, group_id, hash)
    where message is null;
