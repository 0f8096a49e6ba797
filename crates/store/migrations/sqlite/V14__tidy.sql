-- When a key was last used, and what abandoned uploads and the notes of requests
-- about one thing are found by.

alter table key_secret add column used_at integer;
create index file_upload_by_time on file_upload (at);
create index idempotency_by_id on idempotency (org, id);
