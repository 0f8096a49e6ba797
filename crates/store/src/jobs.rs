//! Jobs: durable work in lanes.
//!
//! A lane is first in, first out: only its head can be claimed, and the write
//! that ends the head promotes the next. Every write that touches a lane
//! changes the lane's row first, so that two of them go one after the other.
//! A lane's row exists exactly while the lane has a job.

use std::time::Duration;

use agentry_domain::jobs::JobKind;
use agentry_domain::{Code, Error, JobId, OrgId, Timestamp, WorkerId};

use crate::sql::statements;
use crate::value::{self, Value, values};
use crate::write::{Probe, Write, Written};
use crate::{Result, Store, StoreError};

statements! {
    JOB_INSERT_HEAD = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at) values ($1, $2, $3, 1, $4, 1, 0, $5, 0, 0, $6, $6)";
    LANE_OPEN = "insert into lane (org, id, depth, tail) values ($1, $2, 1, 1) \
        on conflict (org, id) do nothing";
    LANE_JOIN = "update lane set depth = depth + 1, tail = tail + 1 \
        where org = $1 and id = $2 and depth < $3";
    LANE_DEPTH = "select depth from lane where org = $1 and id = $2";
    LANE_LEAVE = "update lane set depth = depth - 1 where org = $1 and id = $2";
    LANE_CLOSE = "delete from lane where org = $1 and id = $2 and depth = 0";
    JOB_INSERT_CLAIMED = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at) values ($1, $2, $3, 1, $4, 1, 1, $5, 1, 1, $6, $6)";
    JOB_INSERT_WAITING = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at) values ($1, $2, $3, \
        (select tail from lane where org = $1 and id = $3), $4, 0, 0, $5, 0, 0, $6, $6)";
    JOB_HELD = sqlite "select fence from job where org = $1 and id = $2 and worker = $3 \
        and fence = $4 and claimed = 1"
        postgres "select fence from job where org = $1 and id = $2 and worker = $3 \
        and fence = $4 and claimed = 1 for update";
    JOB_DELETE = "delete from job where org = $1 and id = $2 and worker = $3 and fence = $4 \
        and claimed = 1";
    JOB_PROMOTE = "update job set head = 1 where org = $1 and lane = $2 and position = \
        (select min(position) from job where org = $1 and lane = $2) returning position";
    JOB_CLAIM = sqlite "update job set claimed = 1, worker = $1, fence = fence + 1, \
        attempts = attempts + 1 where (org, id) in (select org, id from job \
        where head = 1 and claimed = 0 and next_at <= $2 order by next_at limit $3) \
        returning org, id, lane, kind, fence, attempts"
        postgres "with due as materialized (select org, id from job \
        where head = 1 and claimed = 0 and next_at <= $2 order by next_at limit $3 \
        for update skip locked) update job set claimed = 1, worker = $1, fence = fence + 1, \
        attempts = attempts + 1 from due where job.org = due.org and job.id = due.id \
        returning job.org, job.id, job.lane, job.kind, job.fence, job.attempts";
    WORKER_BEAT = sqlite "insert into worker (id, until) values ($1, \
        cast(unixepoch('subsec') * 1000000 as integer) + $2) \
        on conflict (id) do update set until = excluded.until"
        postgres "insert into worker (id, until) values ($1, \
        (extract(epoch from clock_timestamp()) * 1000000)::bigint + $2) \
        on conflict (id) do update set until = excluded.until";
    WORKER_GONE = "delete from worker where id = $1";
    // One process holds an SQLite store, so whatever another worker claimed is
    // an earlier process's.
    JOB_RECLAIM = sqlite "update job set claimed = 0 where claimed = 1 and worker <> $1 \
        returning fence"
        postgres "update job set claimed = 0 where claimed = 1 and worker <> $1 and not exists \
        (select 1 from worker where worker.id = job.worker and worker.until >= \
        (extract(epoch from clock_timestamp()) * 1000000)::bigint) returning fence";
    scan WORKER_EXPIRED_DELETE = sqlite "delete from worker where until + $1 < \
        cast(unixepoch('subsec') * 1000000 as integer) and id <> $2"
        postgres "delete from worker where until + $1 < \
        (extract(epoch from clock_timestamp()) * 1000000)::bigint and id <> $2";
    JOB_CLAIMED_BY = "select org, id, lane, kind, worker, fence, attempts from job \
        where worker = $1 and claimed = 1";
    JOB_RELEASE = "update job set claimed = 0 where org = $1 and id = $2 and worker = $3 \
        and fence = $4 and claimed = 1";
    JOB_DEFER = "update job set claimed = 0, next_at = $1 where org = $2 and id = $3 \
        and worker = $4 and fence = $5 and claimed = 1";
    // The first row of the index of claimable jobs.
    scan JOB_OLDEST = "select next_at from job where head = 1 and claimed = 0 order by next_at limit 1";
}

/// A job that this process has claimed. Its fence guards every write for it:
/// when the job was given to another process, the guard fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedJob {
    /// The organisation.
    pub org: OrgId,
    /// The job; a run's job has the run's id.
    pub id: JobId,
    /// The lane, such as a session.
    pub lane: [u8; 16],
    /// What it does.
    pub kind: JobKind,
    /// Who claimed it.
    pub worker: WorkerId,
    /// How often it was claimed, by anyone.
    pub fence: i64,
    /// How often it was begun.
    pub attempts: i64,
}

/// The error of a write for a job that is no longer this process's.
fn lease_lost() -> Error {
    Error::new(Code::Conflict, "the job was taken over by another process")
}

impl Write {
    /// Opens an idle lane with a job that this process begins at once. When
    /// the lane has work, the write fails with `conflict`: join it instead.
    pub fn job_begin(&mut self, id: JobId, lane: [u8; 16], worker: WorkerId, now: Timestamp) {
        self.contend(lane);
        self.add(&LANE_OPEN, values![self.org, lane])
            .expect_one(Probe::always(|| Error::new(Code::Conflict, "the lane has work")));
        self.add(
            &JOB_INSERT_CLAIMED,
            values![self.org, id, lane, JobKind::Run.as_str(), worker, now],
        );
    }

    /// Appends a job to a lane that has work, if fewer than `depth_max` are in
    /// it. When the lane is idle, the write fails with `conflict`: begin instead.
    pub fn job_enqueue(
        &mut self,
        id: JobId,
        lane: [u8; 16],
        worker: WorkerId,
        depth_max: u32,
        now: Timestamp,
    ) {
        let probe = Probe::read(&LANE_DEPTH, values![self.org, lane], move |depth| match depth {
            None => Error::new(Code::Conflict, "the lane is idle"),
            // On PostgreSQL the probe may see more than its guard did: a lane that
            // was idle for the guard and was opened before the probe is not full.
            Some(depth) if depth < i64::from(depth_max) => {
                Error::new(Code::Conflict, "the lane was idle")
            }
            Some(depth) => Error::new(
                Code::SessionQueueFull,
                format!(
                    "{depth} runs are in this session already (session_queue_runs_max = {depth_max})"
                ),
            ),
        });
        self.contend(lane);
        self.add(&LANE_JOIN, values![self.org, lane, depth_max]).expect_one(probe);
        self.add(
            &JOB_INSERT_WAITING,
            values![self.org, id, lane, JobKind::Run.as_str(), worker, now],
        );
    }

    /// Adds a job that is alone in a lane of its own, for any process to claim.
    pub fn job_add(&mut self, id: JobId, kind: JobKind, now: Timestamp) {
        let lane = id.to_bytes();
        self.add(&LANE_OPEN, values![self.org, lane])
            .expect_one(Probe::always(|| Error::new(Code::Conflict, "the lane has work")));
        let nobody = WorkerId::from_bytes([0; 16]);
        self.add(&JOB_INSERT_HEAD, values![self.org, id, lane, kind.as_str(), nobody, now]);
    }

    /// Guard: the job is still this process's, and stays so until the write is done.
    pub fn job_held(&mut self, job: &ClaimedJob) {
        self.contend(job.lane);
        self.add(&JOB_HELD, values![self.org, job.id, job.worker, job.fence])
            .expect_one(Probe::always(lease_lost));
    }

    /// Gives a claim up until a later time, if it is still this process's.
    pub fn job_defer(&mut self, job: &ClaimedJob, until: Timestamp) {
        self.contend(job.lane);
        self.add(&JOB_DEFER, values![until, self.org, job.id, job.worker, job.fence])
            .expect_one(Probe::always(lease_lost));
    }

    /// Ends a job, if it is still this process's, and promotes the lane's next;
    /// the place says whether there was one, see [`Written::promoted`].
    pub fn job_end(&mut self, job: &ClaimedJob) -> usize {
        self.contend(job.lane);
        self.add(&LANE_LEAVE, values![self.org, job.lane]);
        self.add(&JOB_DELETE, values![self.org, job.id, job.worker, job.fence])
            .expect_one(Probe::always(lease_lost));
        self.add(&LANE_CLOSE, values![self.org, job.lane]);
        let place = self.next();
        self.add(&JOB_PROMOTE, values![self.org, job.lane]).returning();
        place
    }
}

impl Written {
    /// Whether ending a job made another one claimable.
    pub fn promoted(&self, place: usize) -> bool {
        !self.rows(place).is_empty()
    }
}

/// No organisation: claiming and reclaiming work for the whole installation.
const SYSTEM: OrgId = OrgId::from_bytes([0; 16]);

impl Store {
    /// Claims up to `limit` jobs that are due, oldest first.
    pub async fn job_claim(
        &self,
        worker: WorkerId,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<ClaimedJob>> {
        let mut write = Write::new(SYSTEM);
        write.add(&JOB_CLAIM, values![worker, now, limit]).returning();
        let written = self.write(write).await?;
        written
            .rows(0)
            .iter()
            .map(|row| match row.as_slice() {
                [org, id, lane, Value::Text(job), Value::Int(fence), Value::Int(attempts)] => {
                    Ok(ClaimedJob {
                        org: OrgId::from_bytes(bytes(org)?),
                        id: JobId::from_bytes(bytes(id)?),
                        lane: bytes(lane)?,
                        kind: kind(job)?,
                        worker,
                        fence: *fence,
                        attempts: *attempts,
                    })
                }
                _ => Err(StoreError::unreadable("a claimed job")),
            })
            .collect()
    }

    /// What this process has claimed, as the store sees it.
    pub async fn job_claimed_by(&self, worker: WorkerId) -> Result<Vec<ClaimedJob>> {
        self.scan(&JOB_CLAIMED_BY, values![worker], |row| {
            Ok(ClaimedJob {
                org: OrgId::from_bytes(row.id()?),
                id: JobId::from_bytes(row.id()?),
                lane: row.id()?,
                kind: kind(&row.text()?)?,
                worker: WorkerId::from_bytes(row.id()?),
                fence: row.int()?,
                attempts: row.int()?,
            })
        })
        .await
    }

    /// Gives a claim up, so that any process may take the job.
    pub async fn job_release(&self, job: &ClaimedJob) -> Result<()> {
        let mut write = Write::new(job.org);
        write.add(&JOB_RELEASE, values![job.org, job.id, job.worker, job.fence]);
        self.write(write).await.map(|_| ())
    }

    /// When the oldest claimable job is due; none when there is none.
    pub async fn job_oldest(&self) -> Result<Option<Timestamp>> {
        self.point(&JOB_OLDEST, values![], value::time).await
    }

    /// Says that this process lives until its lease ends, and gives up the
    /// claims of processes whose leases ended. How many jobs that freed.
    ///
    /// The database's clock decides: processes on several machines share no
    /// other. On SQLite there is one process, and everything that another
    /// claimed is free at once.
    pub async fn worker_beat(&self, worker: WorkerId, lease: Duration) -> Result<usize> {
        let lease = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        let mut write = Write::new(SYSTEM);
        write.add(&WORKER_BEAT, values![worker, lease]);
        write.add(&JOB_RECLAIM, values![worker]).returning();
        // Kept for ten leases: a process that comes back finds out by its
        // fences, the row is only for people who look.
        write.add(&WORKER_EXPIRED_DELETE, values![lease.saturating_mul(10), worker]);
        Ok(self.write(write).await?.rows(1).len())
    }

    /// Says that this process has stopped, so that its claims need not wait for
    /// the lease to end.
    pub async fn worker_gone(&self, worker: WorkerId) -> Result<()> {
        let mut write = Write::new(SYSTEM);
        write.add(&WORKER_GONE, values![worker]);
        self.write(write).await.map(|_| ())
    }
}

fn kind(text: &str) -> Result<JobKind> {
    JobKind::parse(text).ok_or_else(|| StoreError::unreadable("a job's kind"))
}

fn bytes(value: &Value) -> Result<[u8; 16]> {
    match value {
        Value::Bytes(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    }
    .ok_or_else(|| StoreError::unreadable("an id of 16 bytes"))
}
