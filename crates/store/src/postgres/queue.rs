//! The writes that wait: bounded, interactive ones before bulk.
//!
//! A transaction costs much the same for one write as for twenty, so a writer
//! does not begin a small one while another is at work: it waits for company,
//! though never for long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::pools::{PoolActivity, Waits};
use crate::turns;
use crate::write::{Urgency, Write, Written};
use crate::{Activity, Result, StoreError};

/// Writes that share one transaction at most: what one of them can be held up
/// by the others.
const GROUP_WRITES_MAX: usize = 64;

/// Waiting writes for which a second writer begins while another is at work.
const COMPANY_WRITES: usize = 24;
/// How long writes wait for company at most.
const COMPANY_WITHIN: Duration = Duration::from_millis(2);

/// A write and who waits for it.
pub(super) struct Waiting {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<Written>>,
    since: Instant,
}

#[derive(Default)]
struct Lanes {
    interactive: VecDeque<Waiting>,
    bulk: VecDeque<Waiting>,
    /// Since when something waits.
    since: Option<Instant>,
    /// Writers that are at work.
    working: usize,
    closed: bool,
}

impl Lanes {
    fn len(&self) -> usize {
        self.interactive.len() + self.bulk.len()
    }

    /// Whether a writer should begin.
    fn due(&self) -> bool {
        let waiting = self.len();
        let late = || self.since.is_some_and(|since| since.elapsed() >= COMPANY_WITHIN);
        waiting > 0 && (self.working == 0 || self.closed || waiting >= COMPANY_WRITES || late())
    }

    fn take(&mut self) -> Vec<Waiting> {
        let org = |waiting: &Waiting| waiting.write.org();
        let mut group = turns::take(&mut self.interactive, GROUP_WRITES_MAX, org);
        let rest = GROUP_WRITES_MAX - group.len();
        group.append(&mut turns::take(&mut self.bulk, rest, org));
        self.since = (self.len() > 0).then(Instant::now);
        self.working += 1;
        group
    }
}

/// What the writers did so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) commits: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
}

pub(super) struct Queue {
    lanes: Mutex<Lanes>,
    waiting_max: usize,
    arrived: Notify,
    waits: Waits,
    pub(super) counts: Counts,
}

impl Queue {
    pub(super) fn new(waiting_max: usize) -> Self {
        Self {
            lanes: Mutex::new(Lanes::default()),
            waiting_max,
            arrived: Notify::new(),
            waits: Waits::default(),
            counts: Counts::default(),
        }
    }

    /// Puts a write in and waits for its answer.
    pub(super) async fn write(&self, write: Write) -> Result<Written> {
        let (answer, answered) = oneshot::channel();
        let wake = {
            let mut lanes = self.lanes.lock();
            if lanes.closed {
                return Err(StoreError::Closed);
            }
            if lanes.len() >= self.waiting_max && write.urgency != Urgency::Lease {
                return Err(StoreError::Overloaded);
            }
            let waiting = Waiting { write, answer, since: Instant::now() };
            match waiting.write.urgency {
                Urgency::Lease => lanes.interactive.push_front(waiting),
                Urgency::Interactive => lanes.interactive.push_back(waiting),
                Urgency::Bulk => lanes.bulk.push_back(waiting),
            }
            // The first one wakes a writer to watch the time.
            lanes.since.get_or_insert_with(Instant::now);
            lanes.len() == 1 || lanes.due()
        };
        if wake {
            self.arrived.notify_one();
        }
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Waits for writes and takes them: interactive ones first. None when the
    /// queue is closed and nothing waits.
    pub(super) async fn next_group(&self) -> Option<Vec<Waiting>> {
        loop {
            let watch = {
                let mut lanes = self.lanes.lock();
                if lanes.due() {
                    let group = lanes.take();
                    if lanes.len() > 0 {
                        // What is left is another writer's, at once or in a while.
                        self.arrived.notify_one();
                    }
                    drop(lanes);
                    let waited = group.iter().map(|waiting| waiting.since.elapsed()).sum();
                    self.waits.add(group.len() as u64, waited);
                    return Some(group);
                }
                if lanes.closed {
                    self.arrived.notify_one();
                    return None;
                }
                lanes.len() > 0
            };
            if watch {
                let _ = tokio::time::timeout(COMPANY_WITHIN, self.arrived.notified()).await;
            } else {
                self.arrived.notified().await;
            }
        }
    }

    /// A writer has answered its group.
    pub(super) fn done(&self) {
        let mut lanes = self.lanes.lock();
        lanes.working -= 1;
        if lanes.due() {
            self.arrived.notify_one();
        }
    }

    /// Takes no further writes; those that wait are still done.
    pub(super) fn close(&self) {
        self.lanes.lock().closed = true;
        self.arrived.notify_one();
    }

    /// How these writers stand.
    pub(super) fn pool(&self, writers: u64) -> PoolActivity {
        let lanes = self.lanes.lock();
        let (working, waiting) = (lanes.working as u64, lanes.len() as u64);
        PoolActivity { waiting, ..self.waits.activity("writers", writers, working) }
    }

    pub(super) fn activity(&self) -> Activity {
        Activity {
            commits: self.counts.commits.load(Ordering::Relaxed),
            writes: self.counts.writes.load(Ordering::Relaxed),
            refused: self.counts.refused.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            waiting: self.lanes.lock().len() as u64,
        }
    }
}
