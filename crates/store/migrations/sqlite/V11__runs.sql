-- Whose turn it is: waiting jobs are claimed round robin over organisations, and
-- in each over flows, which are its users.

alter table job add column flow blob not null default x'00000000000000000000000000000000';
drop index job_claimable;
create index job_waiting on job (org, flow, next_at) where head = 1 and claimed = 0;

-- How a run is attended, who else joined it, why it is to end early, and whose
-- reply it repeats.

alter table run add column handling text;
alter table run add column merged integer not null default 0;
alter table run add column stop integer not null default 0;
alter table run add column fingerprint blob;
alter table run add column cached_from blob;
create index run_stopping on run (org, id) where stop > 0 and finished_at is null;
create index run_by_fingerprint on run (org, fingerprint, id) where fingerprint is not null;

-- Runs that wait are counted, per organisation and, under the id of none, in all.

insert into counter (org, kind, key, n) select org, 'runs_waiting', x'', count(*) from run
    where status = 'queued' group by org;
insert into counter (org, kind, key, n) select x'00000000000000000000000000000000', 'runs_waiting', x'', count(*) from run
    where status = 'queued' having count(*) > 0;
