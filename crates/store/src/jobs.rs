//! Jobs: durable work in lanes.
//!
//! A lane is first in, first out: only its head can be claimed, and the write
//! that ends the head promotes the next. Every write that touches a lane
//! changes the lane's row first, so that two of them go one after the other.
//! A lane's row exists exactly while the lane has a job.

use std::collections::HashMap;
use std::time::Duration;

use agentry_domain::jobs::JobKind;
use agentry_domain::{Code, Error, JobId, KeyId, OrgId, Timestamp, WorkerId};

use crate::sql::{Sql, statements};
use crate::value::{self, Columns, Value, values};
use crate::write::{Probe, Write, Written};
use crate::{Result, Store, StoreError};

statements! {
    JOB_INSERT_HEAD = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at, flow) values ($1, $2, $3, 1, $4, 1, 0, $5, 0, 0, $6, \
        $6, $7)";
    LANE_OPEN = "insert into lane (org, id, depth, tail) values ($1, $2, 1, 1) \
        on conflict (org, id) do nothing";
    LANE_JOIN = "update lane set depth = depth + 1, tail = tail + 1 \
        where org = $1 and id = $2 and depth < $3";
    LANE_JOIN_FRONT = "update lane set depth = depth + 1 \
        where org = $1 and id = $2 and depth < $3";
    LANE_DEPTH = "select depth from lane where org = $1 and id = $2";
    LANE_LEAVE = "update lane set depth = depth - 1 where org = $1 and id = $2";
    LANE_CLOSE = "delete from lane where org = $1 and id = $2 and depth = 0";
    LANE_FRONT = "select id, head, claimed from job where org = $1 and lane = $2 \
        order by position limit $3";
    JOB_INSERT_CLAIMED = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at, flow) values ($1, $2, $3, 1, $4, 1, 1, $5, 1, 1, $6, \
        $6, $7)";
    JOB_INSERT_WAITING = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at, flow) values ($1, $2, $3, \
        (select tail from lane where org = $1 and id = $3), $4, 0, 0, $5, 0, 0, $6, $6, $7)";
    // The head goes one place forward, and what is next takes the place it had:
    // it is before all that wait, and behind what is under way.
    JOB_HEAD_FORWARD = "update job set position = position - 1 \
        where org = $1 and lane = $2 and head = 1";
    JOB_INSERT_NEXT = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at, flow) values ($1, $2, $3, \
        (select position + 1 from job where org = $1 and lane = $3 and head = 1), \
        $4, 0, 0, $5, 0, 0, $6, $6, $7)";
    JOB_INSERT_BEFORE = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at, flow) values ($1, $2, $3, \
        (select position - 1 from job where org = $1 and lane = $3 and head = 1), \
        $4, 0, 0, $5, 0, 0, $6, $6, $7)";
    JOB_IS_HEAD = "select 1 from job where org = $1 and id = $2 and lane = $3 and head = 1 \
        and claimed = $4";
    JOB_STEP_BACK = "update job set head = 0 where org = $1 and id = $2 and lane = $3 \
        and head = 1 and claimed = 0";
    JOB_HELD = sqlite "select fence from job where org = $1 and id = $2 and worker = $3 \
        and fence = $4 and claimed = 1"
        postgres "select fence from job where org = $1 and id = $2 and worker = $3 \
        and fence = $4 and claimed = 1 for update";
    JOB_DELETE = "delete from job where org = $1 and id = $2 and worker = $3 and fence = $4 \
        and claimed = 1";
    JOB_DELETE_WAITING = "delete from job where org = $1 and id = $2 and lane = $3 \
        and claimed = 0";
    JOB_PROMOTE = "update job set head = 1 where org = $1 and lane = $2 and position = \
        (select min(position) from job where org = $1 and lane = $2) and head = 0 \
        returning position";
    JOB_CLAIM = sqlite "update job set claimed = 1, worker = $1, fence = fence + 1, \
        attempts = attempts + 1 where (org, id) in (select org, id from job \
        where head = 1 and claimed = 0 and org = $2 and flow = $3 and next_at <= $4 \
        order by next_at limit $5) returning org, id, lane, kind, fence, attempts, flow"
        postgres "with due as materialized (select org, id from job \
        where head = 1 and claimed = 0 and org = $2 and flow = $3 and next_at <= $4 \
        order by next_at limit $5 \
        for update skip locked) update job set claimed = 1, worker = $1, fence = fence + 1, \
        attempts = attempts + 1 from due where job.org = due.org and job.id = due.id \
        returning job.org, job.id, job.lane, job.kind, job.fence, job.attempts, job.flow";
    // From one organisation that has waiting jobs to the next, each a step into
    // the index of those that wait, however many wait in each.
    ORGS_WAITING = sqlite "with recursive reached (org, n) as (select (select org from job \
        where head = 1 and claimed = 0 and org > $1 order by org limit 1), 1 union all \
        select (select job.org from job where job.head = 1 and job.claimed = 0 \
        and job.org > reached.org order by job.org limit 1), reached.n + 1 from reached \
        where reached.org is not null and reached.n < $2) \
        select org from reached where org is not null"
        postgres "with recursive reached (org, n) as (select (select org from job \
        where head = 1 and claimed = 0 and org > $1 order by org limit 1), 1::bigint union all \
        select (select job.org from job where job.head = 1 and job.claimed = 0 \
        and job.org > reached.org order by job.org limit 1), reached.n + 1 from reached \
        where reached.org is not null and reached.n < $2) \
        select org from reached where org is not null";
    FLOWS_WAITING = sqlite "with recursive reached (flow, n) as (select (select flow from job \
        where head = 1 and claimed = 0 and org = $1 and flow > $2 order by flow limit 1), 1 \
        union all select (select job.flow from job where job.head = 1 and job.claimed = 0 \
        and job.org = $1 and job.flow > reached.flow order by job.flow limit 1), reached.n + 1 \
        from reached where reached.flow is not null and reached.n < $3) \
        select flow from reached where flow is not null"
        postgres "with recursive reached (flow, n) as (select (select flow from job \
        where head = 1 and claimed = 0 and org = $1 and flow > $2 order by flow limit 1), \
        1::bigint union all select (select job.flow from job where job.head = 1 \
        and job.claimed = 0 and job.org = $1 and job.flow > reached.flow order by job.flow \
        limit 1), reached.n + 1 from reached where reached.flow is not null and reached.n < $3) \
        select flow from reached where flow is not null";
    WORKER_BEAT = sqlite "insert into worker (id, until) values ($1, \
        cast(unixepoch('subsec') * 1000000 as integer) + $2) \
        on conflict (id) do update set until = excluded.until"
        postgres "insert into worker (id, until) values ($1, \
        (extract(epoch from clock_timestamp()) * 1000000)::bigint + $2) \
        on conflict (id) do update set until = excluded.until";
    WORKER_LIVES = sqlite ""
        postgres "select until from worker where id = $1 and until >= \
        (extract(epoch from clock_timestamp()) * 1000000)::bigint";
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
    JOB_CLAIMED_BY = "select org, id, lane, kind, worker, fence, attempts, flow from job \
        where worker = $1 and claimed = 1";
    JOB_RELEASE = "update job set claimed = 0 where org = $1 and id = $2 and worker = $3 \
        and fence = $4 and claimed = 1";
    JOB_DEFER = "update job set claimed = 0, next_at = $1 where org = $2 and id = $3 \
        and worker = $4 and fence = $5 and claimed = 1";
}

/// Jobs at the front of a lane that a busy session's next run may concern: the
/// head, and those that wait behind it.
const LANE_FRONT_JOBS: u32 = 3;

/// Organisations of which it is remembered whose turn was last.
const TURNS_REMEMBERED_MAX: usize = 10_000;

/// Organisations, or flows of one, that are looked at as a whole; of more, only
/// those behind whoever was last.
const RING_MAX: usize = 128;

/// Whose a job is, when it comes to whose turn it is: within an organisation
/// flows go round robin, however many jobs each has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow([u8; 16]);

impl Flow {
    /// The server's own work for an organisation.
    pub const SERVER: Self = Self([0; 16]);

    /// A user's.
    pub fn of_user(user_id: &str) -> Self {
        let mut flow = [0; 16];
        flow.copy_from_slice(&blake3::hash(user_id.as_bytes()).as_bytes()[..16]);
        Self(flow)
    }

    /// Whoever's who showed this key, of work for no user.
    pub const fn of_key(key: KeyId) -> Self {
        Self(key.to_bytes())
    }
}

impl From<Flow> for Value {
    fn from(flow: Flow) -> Self {
        Value::Id(flow.0)
    }
}

/// A job that is new in its lane.
#[derive(Clone, Copy, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// Where it waits.
    pub lane: [u8; 16],
    /// What it does.
    pub kind: JobKind,
    /// Whose it is.
    pub flow: Flow,
    /// When it is due.
    pub at: Timestamp,
}

impl NewJob {
    fn values(&self, org: OrgId, worker: WorkerId) -> Vec<Value> {
        values![org, self.id, self.lane, self.kind.as_str(), worker, self.at, self.flow]
    }
}

/// A job near the front of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneJob {
    /// The job.
    pub id: JobId,
    /// Whether it is the lane's head.
    pub is_head: bool,
    /// Whether a process has it.
    pub is_claimed: bool,
}

/// Where the round of turns is: a process's own, and no more than a hint. Without
/// it turns begin with the first organisation again.
#[derive(Debug, Default)]
pub struct Turns {
    org: Option<OrgId>,
    flows: HashMap<OrgId, Flow>,
}

/// How many jobs of a flow may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The organisation.
    pub org: OrgId,
    /// The flow.
    pub flow: Flow,
    /// How many at most.
    pub most: usize,
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
    /// Whose it is.
    pub flow: Flow,
}

/// The error of a write for a job that is no longer this process's.
fn lease_lost() -> Error {
    Error::new(Code::Conflict, "the job was taken over by another process")
}

/// The error of a write that found the lane in another state than its caller had.
fn lane_changed() -> Error {
    Error::new(Code::Conflict, "the lane has changed")
}

/// Nobody: the worker of a job that was never claimed.
const NOBODY: WorkerId = WorkerId::from_bytes([0; 16]);

impl Write {
    /// Opens an idle lane with a job that this process begins at once. When
    /// the lane has work, the write fails with `conflict`: join it instead.
    pub fn job_begin(&mut self, job: &NewJob, worker: WorkerId) {
        self.lane_open(job);
        self.add(&JOB_INSERT_CLAIMED, job.values(self.org, worker));
    }

    /// Opens an idle lane with a job for any process to claim. When the lane has
    /// work, the write fails with `conflict`.
    pub fn job_add(&mut self, job: &NewJob) {
        self.lane_open(job);
        self.add(&JOB_INSERT_HEAD, job.values(self.org, NOBODY));
    }

    fn lane_open(&mut self, job: &NewJob) {
        self.contend(job.lane);
        self.add(&LANE_OPEN, values![self.org, job.lane])
            .expect_one(Probe::always(|| Error::new(Code::Conflict, "the lane has work")));
    }

    /// Appends a job to a lane that has work, if fewer than `depth_max` are in
    /// it. When the lane is idle, the write fails with `conflict`: begin instead.
    pub fn job_enqueue(&mut self, job: &NewJob, depth_max: u32) {
        self.lane_join(&LANE_JOIN, job, depth_max);
        self.add(&JOB_INSERT_WAITING, job.values(self.org, NOBODY));
    }

    /// Puts a job before all that wait in a lane whose head is claimed, and must
    /// be this one.
    pub fn job_enqueue_next(&mut self, job: &NewJob, head: JobId, depth_max: u32) {
        self.lane_join(&LANE_JOIN_FRONT, job, depth_max);
        self.job_is_head(head, job.lane, true);
        self.add(&JOB_HEAD_FORWARD, values![self.org, job.lane]);
        self.add(&JOB_INSERT_NEXT, job.values(self.org, NOBODY));
    }

    /// Makes a job the head of a lane whose head waits, and must be this one;
    /// that waits behind it.
    pub fn job_enqueue_before(&mut self, job: &NewJob, head: JobId, depth_max: u32) {
        self.lane_join(&LANE_JOIN_FRONT, job, depth_max);
        self.job_is_head(head, job.lane, false);
        self.add(&JOB_INSERT_BEFORE, job.values(self.org, NOBODY));
        self.add(&JOB_STEP_BACK, values![self.org, head, job.lane])
            .expect_one(Probe::always(lane_changed));
        self.add(&JOB_PROMOTE, values![self.org, job.lane]);
    }

    fn lane_join(&mut self, join: &'static Sql, job: &NewJob, depth_max: u32) {
        let lane = values![self.org, job.lane];
        let probe = Probe::read(&LANE_DEPTH, lane, move |depth| match depth {
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
        self.contend(job.lane);
        self.add(join, values![self.org, job.lane, depth_max]).expect_one(probe);
    }

    fn job_is_head(&mut self, head: JobId, lane: [u8; 16], is_claimed: bool) {
        self.add(&JOB_IS_HEAD, values![self.org, head, lane, is_claimed])
            .expect_one(Probe::always(lane_changed));
    }

    /// Ends a job that waits; when it was the head the next is promoted.
    pub fn job_withdraw(&mut self, id: JobId, lane: [u8; 16]) {
        self.contend(lane);
        self.add(&LANE_LEAVE, values![self.org, lane]);
        self.add(&JOB_DELETE_WAITING, values![self.org, id, lane])
            .expect_one(Probe::always(lane_changed));
        self.add(&LANE_CLOSE, values![self.org, lane]);
        self.add(&JOB_PROMOTE, values![self.org, lane]);
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
    /// Whose turn it is, after whom it was last: at most `limit` flows, spread
    /// over the organisations that have waiting jobs.
    pub async fn job_turns(&self, turns: &Turns, limit: usize) -> Result<Vec<Vec<(OrgId, Flow)>>> {
        let last = turns.org.map(OrgId::to_bytes);
        let orgs = self.in_turn(&ORGS_WAITING, &[], last, limit).await?;
        let each = (limit / orgs.len().max(1)).max(1);
        let mut found = Vec::with_capacity(orgs.len());
        for org in orgs {
            let org = OrgId::from_bytes(org);
            let last = turns.flows.get(&org).map(|flow| flow.0);
            let flows = self.in_turn(&FLOWS_WAITING, &[Value::from(org)], last, each).await?;
            found.push(flows.into_iter().map(|flow| (org, Flow(flow))).collect());
        }
        Ok(found)
    }

    /// At most `limit` of those that wait, beginning behind the one that came last.
    /// The statement ends with what to begin behind and how many to find.
    async fn in_turn(
        &self,
        sql: &'static Sql,
        of: &[Value],
        last: Option<[u8; 16]>,
        limit: usize,
    ) -> Result<Vec<[u8; 16]>> {
        let read = async |after: Vec<u8>, most: usize| {
            let mut bound = of.to_vec();
            bound.extend(values![after, i64::try_from(most).unwrap_or(i64::MAX)]);
            self.rows(sql, bound, id).await
        };
        let is_next = |it: &[u8; 16]| last.is_none_or(|last| *it > last);
        let mut all = read(Vec::new(), RING_MAX).await?;
        if all.len() < RING_MAX {
            // All that wait, in a ring that is turned to the one behind the last.
            let first = all.iter().position(is_next).unwrap_or(0);
            all.rotate_left(first);
            all.truncate(limit);
            return Ok(all);
        }
        let mut next = read(last.map(Vec::from).unwrap_or_default(), limit).await?;
        let room = limit.saturating_sub(next.len());
        next.extend(all.into_iter().filter(|it| !is_next(it)).take(room));
        Ok(next)
    }

    /// Claims jobs that are due, of each flow the oldest.
    pub async fn job_claim(
        &self,
        worker: WorkerId,
        now: Timestamp,
        shares: &[Share],
    ) -> Result<Vec<ClaimedJob>> {
        let mut write = Write::new(SYSTEM);
        for share in shares {
            let most = i64::try_from(share.most).unwrap_or(i64::MAX);
            write.add(&JOB_CLAIM, values![worker, share.org, share.flow, now, most]).returning();
        }
        let written = self.write(write).await?;
        let rows = (0..shares.len()).flat_map(|place| written.rows(place));
        rows.map(|row| match row.as_slice() {
            [org, id, lane, Value::Text(job), Value::Int(fence), Value::Int(attempts), flow] => {
                Ok(ClaimedJob {
                    org: OrgId::from_bytes(bytes(org)?),
                    id: JobId::from_bytes(bytes(id)?),
                    lane: bytes(lane)?,
                    kind: kind(job)?,
                    worker,
                    fence: *fence,
                    attempts: *attempts,
                    flow: Flow(bytes(flow)?),
                })
            }
            _ => Err(StoreError::unreadable("a claimed job")),
        })
        .collect()
    }

    /// The first jobs of a lane, in order: the head and those behind it.
    pub async fn lane_front(&self, org: OrgId, lane: [u8; 16]) -> Result<Vec<LaneJob>> {
        self.rows(&LANE_FRONT, values![org, lane, LANE_FRONT_JOBS], |row| {
            Ok(LaneJob {
                id: JobId::from_bytes(row.id()?),
                is_head: row.int()? == 1,
                is_claimed: row.int()? == 1,
            })
        })
        .await
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
                flow: Flow(row.id()?),
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

    /// Says that this process lives until its lease ends, and gives up the
    /// claims of processes whose leases ended. How many jobs that freed.
    ///
    /// The database's clock decides: processes on several machines share no
    /// other. On SQLite there is one process, and everything that another
    /// claimed is free at once.
    pub async fn worker_beat(&self, worker: WorkerId, lease: Duration) -> Result<usize> {
        let lease = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        let mut write = Write::new(SYSTEM).lease();
        write.add(&WORKER_BEAT, values![worker, lease]);
        write.add(&JOB_RECLAIM, values![worker]).returning();
        // Kept for ten leases: a process that comes back finds out by its
        // fences, the row is only for people who look.
        write.add(&WORKER_EXPIRED_DELETE, values![lease.saturating_mul(10), worker]);
        Ok(self.write(write).await?.rows(1).len())
    }

    /// Whether another process still has its lease. One process holds an SQLite store, so
    /// that another one there is an earlier one.
    pub async fn worker_lives(&self, other: WorkerId) -> Result<bool> {
        if self.is_sqlite() {
            return Ok(false);
        }
        Ok(self.point(&WORKER_LIVES, values![other], value::int).await?.is_some())
    }

    /// Says that this process has stopped, so that its claims need not wait for
    /// the lease to end.
    pub async fn worker_gone(&self, worker: WorkerId) -> Result<()> {
        let mut write = Write::new(SYSTEM);
        write.add(&WORKER_GONE, values![worker]);
        self.write(write).await.map(|_| ())
    }
}

impl Turns {
    /// Shares places out: one after the other to the organisations, in each to
    /// the flows, to each flow at most as many as `room` has for it. Whoever got
    /// the last one is behind all others next time.
    pub fn share(
        &mut self,
        waiting: &[Vec<(OrgId, Flow)>],
        places: usize,
        room: impl Fn(OrgId, Flow) -> usize,
    ) -> Vec<Share> {
        if self.flows.len() > TURNS_REMEMBERED_MAX {
            self.flows.clear();
        }
        let mut shares: Vec<Vec<Share>> = waiting
            .iter()
            .map(|flows| flows.iter().map(|(org, flow)| Share { org: *org, flow: *flow, most: 0 }))
            .map(Iterator::collect)
            .collect();
        let mut next = vec![0; shares.len()];
        let mut left = places;
        let mut went = true;
        while left > 0 && went {
            went = false;
            for (flows, next) in shares.iter_mut().zip(&mut next) {
                // The next flow of the organisation that has room for one more.
                let many = flows.len();
                let found = (0..many).map(|step| (*next + step) % many).find(|nth| {
                    let share = &flows[*nth];
                    share.most < room(share.org, share.flow)
                });
                let (Some(nth), true) = (found, left > 0) else { continue };
                let share = &mut flows[nth];
                share.most += 1;
                self.org = Some(share.org);
                self.flows.insert(share.org, share.flow);
                *next = nth + 1;
                left -= 1;
                went = true;
            }
        }
        shares.into_iter().flatten().filter(|share| share.most > 0).collect()
    }
}

fn id(row: &mut Columns<'_>) -> Result<[u8; 16]> {
    row.id()
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
