-- Terms begin with their scope, so that next to none of them is shared: gathering them
-- first saves nothing, and every search looks through what was gathered. That took ten
-- times as long as the search itself.
alter index text_doc_by_term set (fastupdate = off);
select gin_clean_pending_list('text_doc_by_term');

-- What was said in a run is an episode by the id of its message, and nobody asks for it by
-- what it says; so a run writes into one tree less.
drop index graph_episode_by_hash;
create unique index graph_episode_by_hash on graph_episode (hash, org, group_id)
    where message is null;
