//! The writes that wait: bounded, interactive ones before bulk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::write::{Urgency, Write, Written};
use crate::{Activity, Result, StoreError};

/// Writes that share one transaction at most: what one of them can be held up
/// by the others.
const GROUP_WRITES_MAX: usize = 64;

/// A write and who waits for it.
pub(super) struct Waiting {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<Written>>,
}

#[derive(Default)]
struct Lanes {
    interactive: VecDeque<Waiting>,
    bulk: VecDeque<Waiting>,
    closed: bool,
}

impl Lanes {
    fn len(&self) -> usize {
        self.interactive.len() + self.bulk.len()
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
    pub(super) counts: Counts,
}

impl Queue {
    pub(super) fn new(waiting_max: usize) -> Self {
        Self {
            lanes: Mutex::new(Lanes::default()),
            waiting_max,
            arrived: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// Puts a write in and waits for its answer.
    pub(super) async fn write(&self, write: Write) -> Result<Written> {
        let (answer, answered) = oneshot::channel();
        {
            let mut lanes = self.lanes.lock();
            if lanes.closed {
                return Err(StoreError::Closed);
            }
            if lanes.len() >= self.waiting_max {
                return Err(StoreError::Overloaded);
            }
            let waiting = Waiting { write, answer };
            match waiting.write.urgency {
                Urgency::Interactive => lanes.interactive.push_back(waiting),
                Urgency::Bulk => lanes.bulk.push_back(waiting),
            }
        }
        self.arrived.notify_one();
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Waits for writes and takes them: interactive ones first. None when the
    /// queue is closed and nothing waits.
    pub(super) async fn next_group(&self) -> Option<Vec<Waiting>> {
        loop {
            {
                let mut lanes = self.lanes.lock();
                let waiting = lanes.len();
                if waiting > 0 {
                    let first = lanes.interactive.len().min(GROUP_WRITES_MAX);
                    let mut group: Vec<Waiting> = lanes.interactive.drain(..first).collect();
                    let rest = lanes.bulk.len().min(GROUP_WRITES_MAX - first);
                    group.extend(lanes.bulk.drain(..rest));
                    if waiting > group.len() {
                        // What is left is another writer's.
                        self.arrived.notify_one();
                    }
                    return Some(group);
                }
                if lanes.closed {
                    self.arrived.notify_one();
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Takes no further writes; those that wait are still done.
    pub(super) fn close(&self) {
        self.lanes.lock().closed = true;
        self.arrived.notify_one();
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
