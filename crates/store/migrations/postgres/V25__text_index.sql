-- Terms begin with their scope, so that next to none of them is shared: gathering them
-- first saves nothing, and every search looks through what was gathered. That took ten
-- times as long as the search itself.
alter index text_doc_by_term set (fastupdate = off);
select gin_clean_pending_list('text_doc_by_term');
