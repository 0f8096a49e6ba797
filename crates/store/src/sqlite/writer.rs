//! The one writer: a thread that takes all waiting writes, applies them in one
//! transaction, commits once, and only then answers. The cost of a sync is shared
//! by everyone who waited for it.
//!
//! A write that a guard refuses must not take the others with it. Savepoints
//! around each write see to that, and cost a copy of every page that it changes;
//! so a group goes without them first, and again with them when one was refused.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::{Connection, params, params_from_iter, types::ValueRef};
use tokio::sync::{oneshot, watch};

use crate::counters::COUNTER_ADD;
use crate::log::{LOG_HEAD, LOG_HEAD_SET, LOG_INSERT};
use crate::pools::{PoolActivity, Waits};
use crate::sql::Sql;
use crate::turns;
use crate::value::Value;
use crate::write::{CounterKey, Expect, Probe, Statement, Urgency, Write, Written};
use crate::{Activity, Result, StoreError};

/// Writes that share one commit at most: what one of them can be held up by the
/// others.
const GROUP_WRITES_MAX: usize = 256;

/// Groups from this size on wait for company: for as many writes as the last
/// group had, since the clients that it answered come back at about one time.
const COMPANY_WRITES_MIN: usize = 8;
/// They wait at most this part of what the last commit took, so that the wait
/// costs less than the commit that it may spare.
const COMPANY_PART_OF_COMMIT: u32 = 4;
/// A shorter wait is not worth waking up for: the disk is fast enough. The writer
/// lets others have its processor instead, as long as that brings it company.
const COMPANY_WAIT_MIN: Duration = Duration::from_micros(100);
const COMPANY_YIELDS_MAX: u32 = 4;
/// What a wait adds to a write at most.
const COMPANY_WAIT_MAX: Duration = Duration::from_millis(1);

type Answer = oneshot::Sender<Answered>;

/// What came of a write, and the write itself: whoever made it frees it, on the
/// thread that it has its memory from.
struct Answered {
    result: Result<Written>,
    _write: Write,
}

struct Waiting {
    write: Write,
    answer: Answer,
    since: Instant,
}

#[derive(Default)]
struct Queues {
    interactive: VecDeque<Waiting>,
    bulk: VecDeque<Waiting>,
    closed: bool,
    /// How many writes the writer waits for.
    wanted: usize,
}

impl Queues {
    fn waiting(&self) -> usize {
        self.interactive.len() + self.bulk.len()
    }
}

#[derive(Default)]
struct Counts {
    commits: AtomicU64,
    writes: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

struct Shared {
    queues: Mutex<Queues>,
    wake: Condvar,
    counts: Counts,
    waits: Waits,
    /// A group is being applied.
    working: AtomicBool,
    head: watch::Sender<i64>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    waiting_max: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(connection: Connection, path: PathBuf, waiting_max: usize) -> Result<Self> {
        let seq = connection.query_row(LOG_HEAD.sqlite, [], |row| row.get(0))?;
        let shared = Arc::new(Shared {
            queues: Mutex::new(Queues::default()),
            wake: Condvar::new(),
            counts: Counts::default(),
            waits: Waits::default(),
            working: AtomicBool::new(false),
            head: watch::Sender::new(seq),
        });
        let mut group = Group {
            connection: Some(connection),
            path,
            seq,
            savepoints: false,
            commit_took: Duration::ZERO,
        };
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let mut last = 0;
                while let Some(waiting) = theirs.next_group(last, group.commit_took) {
                    last = waiting.len();
                    theirs.working.store(true, Ordering::Relaxed);
                    group.commit(waiting, &theirs);
                    theirs.working.store(false, Ordering::Relaxed);
                }
            })
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        Ok(Self { shared, waiting_max, thread: Mutex::new(Some(thread)) })
    }

    pub(super) async fn write(&self, write: Write) -> Result<Written> {
        let (answer, answered) = oneshot::channel();
        let enough = {
            let mut queues = self.shared.queues.lock();
            if queues.closed {
                return Err(StoreError::Closed);
            }
            if queues.waiting() >= self.waiting_max && write.urgency != Urgency::Lease {
                return Err(StoreError::Overloaded);
            }
            let waiting = Waiting { write, answer, since: Instant::now() };
            match waiting.write.urgency {
                Urgency::Lease => queues.interactive.push_front(waiting),
                Urgency::Interactive => queues.interactive.push_back(waiting),
                Urgency::Bulk => queues.bulk.push_back(waiting),
            }
            queues.waiting() >= queues.wanted
        };
        if enough {
            self.shared.wake.notify_one();
        }
        answered.await.map_err(|_| StoreError::Closed)?.result
    }

    pub(super) fn log_changed(&self) -> watch::Receiver<i64> {
        self.shared.head.subscribe()
    }

    pub(super) fn activity(&self) -> Activity {
        let counts = &self.shared.counts;
        let queues = self.shared.queues.lock();
        Activity {
            commits: counts.commits.load(Ordering::Relaxed),
            writes: counts.writes.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            waiting: queues.waiting() as u64,
        }
    }

    pub(super) fn pool(&self) -> PoolActivity {
        let working = self.shared.working.load(Ordering::Relaxed);
        let waiting = self.shared.queues.lock().waiting() as u64;
        PoolActivity { waiting, ..self.shared.waits.activity("writers", 1, working.into()) }
    }

    pub(super) async fn close(&self) {
        self.shared.queues.lock().closed = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's writer ended with a panic");
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queues.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    /// Waits for writes and takes them: interactive ones first. None when the
    /// store is closed and nothing waits. `last` is the last group's size, and
    /// `commit_took` what its commit took.
    fn next_group(&self, last: usize, commit_took: Duration) -> Option<Vec<Waiting>> {
        let mut queues = self.queues.lock();
        queues.wanted = 1;
        while queues.waiting() == 0 {
            if queues.closed {
                return None;
            }
            self.wake.wait(&mut queues);
        }
        let wait = (commit_took / COMPANY_PART_OF_COMMIT).min(COMPANY_WAIT_MAX);
        if last >= COMPANY_WRITES_MIN && wait >= COMPANY_WAIT_MIN {
            queues.wanted = last;
            let until = Instant::now() + wait;
            while queues.waiting() < last && !queues.closed {
                if self.wake.wait_until(&mut queues, until).timed_out() {
                    break;
                }
            }
        } else if last >= COMPANY_WRITES_MIN {
            // Those who were answered just now are about to ask again, if only they
            // get a processor; on an idle machine this costs nothing.
            queues.wanted = usize::MAX;
            for _ in 0..COMPANY_YIELDS_MAX {
                let before = queues.waiting();
                MutexGuard::unlocked(&mut queues, std::thread::yield_now);
                if queues.waiting() == before {
                    break;
                }
            }
        }
        // Until this group is answered nobody waits, and nobody need be woken.
        queues.wanted = usize::MAX;
        let org = |waiting: &Waiting| waiting.write.org();
        let mut group = turns::take(&mut queues.interactive, GROUP_WRITES_MAX, org);
        let rest = GROUP_WRITES_MAX - group.len();
        group.append(&mut turns::take(&mut queues.bulk, rest, org));
        drop(queues);
        let waited = group.iter().map(|waiting| waiting.since.elapsed()).sum();
        self.waits.add(group.len() as u64, waited);
        Some(group)
    }
}

/// The connection that writes, and the log's last place.
struct Group {
    /// None after a failed commit, until it could be opened again.
    connection: Option<Connection>,
    path: PathBuf,
    seq: i64,
    /// Whether the last group had a refused write, so that the next may too.
    savepoints: bool,
    /// What the last commit took, most of it the sync.
    commit_took: Duration,
}

/// How applying a group ended.
enum Applied {
    /// Each write's own result; those that are `Ok` are committed.
    Committed(Vec<Result<Written>>),
    /// Nothing of the group is in the store.
    Undone(StoreError),
}

impl Group {
    fn commit(&mut self, mut waiting: Vec<Waiting>, shared: &Shared) {
        // Whoever gave up before its turn gets nothing done.
        waiting.retain(|waiting| !waiting.answer.is_closed());
        if waiting.is_empty() {
            return;
        }
        let (writes, answers): (Vec<Write>, Vec<Answer>) =
            waiting.into_iter().map(|waiting| (waiting.write, waiting.answer)).unzip();
        match self.apply(&writes) {
            Applied::Committed(results) => {
                self.answer(results, writes.into_iter().zip(answers), shared);
            }
            Applied::Undone(StoreError::Bug(reason)) if writes.len() > 1 => {
                // One of them does not fit in; alone, the others do.
                tracing::error!(reason, "a group was rolled back; its writes go one by one");
                let since = Instant::now();
                for (write, answer) in writes.into_iter().zip(answers) {
                    self.commit(vec![Waiting { write, answer, since }], shared);
                }
            }
            Applied::Undone(error) => {
                tracing::error!(writes = writes.len(), %error, "a group could not be committed");
                shared.counts.failed.fetch_add(answers.len() as u64, Ordering::Relaxed);
                let is_full = matches!(error, StoreError::Full(_));
                let mut first = Some(error);
                for (write, answer) in writes.into_iter().zip(answers) {
                    let error = first.take().unwrap_or_else(|| {
                        let cause = "the group's commit failed".into();
                        if is_full {
                            StoreError::Full(cause)
                        } else {
                            StoreError::Unavailable(cause)
                        }
                    });
                    let _ = answer.send(Answered { result: Err(error), _write: write });
                }
            }
        }
    }

    fn answer(
        &self,
        results: Vec<Result<Written>>,
        asked: impl Iterator<Item = (Write, Answer)>,
        shared: &Shared,
    ) {
        let done = results.iter().filter(|result| result.is_ok()).count() as u64;
        let refused = results.len() as u64 - done;
        shared.counts.commits.fetch_add(u64::from(done > 0), Ordering::Relaxed);
        shared.counts.writes.fetch_add(done, Ordering::Relaxed);
        shared.counts.refused.fetch_add(refused, Ordering::Relaxed);
        for (result, (write, answer)) in results.into_iter().zip(asked) {
            let _ = answer.send(Answered { result, _write: write });
        }
        shared.head.send_if_modified(|head| std::mem::replace(head, self.seq) != self.seq);
    }

    fn apply(&mut self, writes: &[Write]) -> Applied {
        let connection = match self.connection.take().map_or_else(|| self.reopen(), Ok) {
            Ok(connection) => connection,
            Err(error) => return Applied::Undone(error),
        };
        let before = self.seq;
        let mut applied = self.apply_group(&connection, writes, self.savepoints);
        if let Ok(None) = applied {
            applied = self.apply_group(&connection, writes, true);
        }
        match applied {
            Ok(results) => {
                let results = results.unwrap_or_default();
                self.connection = Some(connection);
                self.savepoints = results.iter().any(Result::is_err);
                Applied::Committed(results)
            }
            Err(error) => {
                self.seq = before;
                // What a connection thinks after a failed commit or a lost
                // transaction is not worth knowing: a new one reads the truth.
                if connection.is_autocommit() || connection.execute_batch("rollback").is_err() {
                    drop(connection);
                } else if matches!(error, StoreError::Bug(_)) {
                    self.connection = Some(connection);
                }
                Applied::Undone(error)
            }
        }
    }

    /// Applies the writes in one transaction and commits it: each write's result, or
    /// none when one was refused and the others need savepoints. An error says that
    /// nothing was committed.
    fn apply_group(
        &mut self,
        connection: &Connection,
        writes: &[Write],
        savepoints: bool,
    ) -> Result<Option<Vec<Result<Written>>>> {
        execute(connection, "begin immediate")?;
        let alone = writes.len() == 1;
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let result = if savepoints && !alone {
                apply_in_savepoint(connection, write)
            } else {
                apply_statements(connection, write)
            };
            // A full disk, an I/O error or a lack of memory rolls back everything.
            if connection.is_autocommit() {
                return Err(result.err().unwrap_or(StoreError::Closed));
            }
            if let Err(error @ (StoreError::Full(_) | StoreError::Unavailable(_))) = result {
                return Err(error);
            }
            if result.is_err() && (alone || !savepoints) {
                execute(connection, "rollback")?;
                return Ok(alone.then(|| vec![result]));
            }
            results.push(result);
        }
        let applied = || writes.iter().zip(&results).filter(|(_, r)| r.is_ok()).map(|(w, _)| w);
        for (sql, values) in applied().flat_map(|write| &write.full_text) {
            change(connection, sql, values)?;
        }
        let mut counts: HashMap<&CounterKey, i64> = HashMap::new();
        for (key, delta) in applied().flat_map(|write| &write.counts) {
            *counts.entry(key).or_default() += delta;
        }
        for (key, delta) in counts.into_iter().filter(|(_, delta)| *delta != 0) {
            change(
                connection,
                &COUNTER_ADD,
                &[key.org.into(), key.kind.into(), key.key.clone().into(), delta.into()],
            )?;
        }
        let first = self.seq;
        let mut insert = connection.prepare_cached(LOG_INSERT.sqlite)?;
        for (write, entry) in applied().flat_map(|w| w.log.iter().map(move |entry| (w, entry))) {
            self.seq += 1;
            insert.execute(params![
                self.seq,
                Value::from(write.org),
                Value::from(entry.at),
                entry.kind,
                entry.entity.as_str(),
                Value::from(entry.id),
                Value::from(entry.actor),
                entry.data,
                Value::from(entry.address.map(|address| address.to_string())),
            ])?;
        }
        drop(insert);
        if self.seq != first {
            change(connection, &LOG_HEAD_SET, &[Value::Int(self.seq)])?;
        }
        let begun = Instant::now();
        execute(connection, "commit")?;
        self.commit_took = begun.elapsed();
        Ok(Some(results))
    }

    fn reopen(&mut self) -> Result<Connection> {
        let connection = super::open_writer(&self.path)?;
        self.seq = connection.query_row(LOG_HEAD.sqlite, [], |row| row.get(0))?;
        tracing::info!("the store's writer has a new connection");
        Ok(connection)
    }
}

fn apply_statements(connection: &Connection, write: &Write) -> Result<Written> {
    let mut written = Written::default();
    for (place, statement) in write.statements.iter().enumerate() {
        run(connection, place, statement, &mut written)?;
    }
    Ok(written)
}

/// Applies one write so that a failure leaves nothing of it behind.
fn apply_in_savepoint(connection: &Connection, write: &Write) -> Result<Written> {
    execute(connection, "savepoint one")?;
    let outcome = apply_statements(connection, write);
    if outcome.is_err() && !connection.is_autocommit() {
        execute(connection, "rollback to one")?;
    }
    if !connection.is_autocommit() {
        execute(connection, "release one")?;
    }
    outcome
}

fn run(
    connection: &Connection,
    place: usize,
    statement: &Statement,
    written: &mut Written,
) -> Result<()> {
    if statement.sql.sqlite.is_empty() {
        return Ok(());
    }
    let affected = affect(connection, place, statement, written).map_err(|error| {
        match (&error, &statement.taken) {
            (StoreError::Taken, Some(taken)) => StoreError::Refused(taken()),
            _ => error,
        }
    })?;
    match &statement.expect {
        Expect::One(probe) if affected != 1 => Err(refuse(connection, probe)),
        _ => Ok(()),
    }
}

/// Runs a statement: how many rows it changed or, when it reads, found.
fn affect(
    connection: &Connection,
    place: usize,
    statement: &Statement,
    written: &mut Written,
) -> Result<usize> {
    let mut prepared = connection.prepare_cached(statement.sql.sqlite)?;
    if prepared.column_count() == 0 {
        return Ok(prepared.execute(params_from_iter(&statement.values))?);
    }
    let columns = prepared.column_count();
    let mut rows = prepared.query(params_from_iter(&statement.values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let row = (0..columns)
            .map(|column| Ok(owned(row.get_ref(column)?)))
            .collect::<Result<Vec<Value>>>()?;
        found.push(row);
    }
    let affected = found.len();
    if statement.returns {
        written.rows.push((place, found));
    }
    Ok(affected)
}

fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Integer(int) => Value::Int(int),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Null => Value::Null,
    }
}

fn refuse(connection: &Connection, probe: &Probe) -> StoreError {
    let found = match &probe.read {
        None => Ok(None),
        Some((sql, values)) => first_int(connection, sql, values),
    };
    match found {
        Ok(found) => StoreError::Refused((probe.verdict)(found)),
        Err(error) => error,
    }
}

fn first_int(connection: &Connection, sql: &Sql, values: &[Value]) -> Result<Option<i64>> {
    let mut prepared = connection.prepare_cached(sql.sqlite)?;
    let mut rows = prepared.query(params_from_iter(values))?;
    Ok(match rows.next()? {
        Some(row) => row.get(0)?,
        None => None,
    })
}

fn change(connection: &Connection, sql: &Sql, values: &[Value]) -> Result<usize> {
    if sql.sqlite.is_empty() {
        return Ok(0);
    }
    Ok(connection.prepare_cached(sql.sqlite)?.execute(params_from_iter(values))?)
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
