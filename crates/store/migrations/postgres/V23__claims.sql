-- Requests whose effect is somebody else's, a call of a tool: claimed by a process before
-- the effect, and settled behind it. 0 is settled, 1 is claimed, 2 is failed.

alter table idempotency add column state bigint not null default 0;
alter table idempotency add column holder bytea;
