//! The newest events of one organisation, for everybody who listens to it. The
//! listeners read at their own pace, so that a slow one costs nothing but its
//! own place: when that is gone, it is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::batch::Batch;

pub(crate) struct Ring {
    held: RwLock<Held>,
    /// The number of the next batch; changes wake the listeners.
    next: watch::Sender<u64>,
    listeners: AtomicU64,
}

struct Held {
    batches: VecDeque<Arc<Batch>>,
    /// The number of the first batch in `batches`.
    first: u64,
    bytes: usize,
    /// Everything after this place of the log is here; none until the follower
    /// has begun to fill the ring.
    since: Option<i64>,
}

/// What is at a place of the ring.
pub(crate) enum Place {
    /// A batch.
    Here(Arc<Batch>),
    /// Nothing yet.
    Ahead,
    /// Nothing any more: everything after `since` begins with batch `first`.
    Gone {
        /// The number of the first batch that is still there.
        first: u64,
        /// Everything after this place of the log is there.
        since: i64,
    },
}

impl Ring {
    pub(crate) fn new() -> Self {
        Self {
            held: RwLock::new(Held { batches: VecDeque::new(), first: 0, bytes: 0, since: None }),
            next: watch::Sender::new(0),
            listeners: AtomicU64::new(0),
        }
    }

    pub(crate) fn listeners(&self) -> u64 {
        self.listeners.load(Ordering::Relaxed)
    }

    pub(crate) fn joined(&self) {
        self.listeners.fetch_add(1, Ordering::Relaxed);
    }

    /// How many listeners are left.
    pub(crate) fn left(&self) -> u64 {
        self.listeners.fetch_sub(1, Ordering::Relaxed) - 1
    }

    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.held.read().since.is_some()
    }

    /// From here on the ring is filled: everything after this place will be in
    /// it. What was in it before goes.
    pub(crate) fn attach(&self, since: i64) {
        let mut held = self.held.write();
        held.first += held.batches.len() as u64;
        held.batches.clear();
        held.bytes = 0;
        held.since = Some(since);
        drop(held);
        // Wakes those who wait for it to be attached.
        self.next.send_modify(|_| ());
    }

    pub(crate) fn push(&self, batch: Batch, bytes_max: usize) {
        let mut held = self.held.write();
        held.bytes += batch.bytes();
        held.batches.push_back(Arc::new(batch));
        while held.bytes > bytes_max && held.batches.len() > 1 {
            if let Some(oldest) = held.batches.pop_front() {
                held.bytes -= oldest.bytes();
                held.first += 1;
                held.since = Some(oldest.last_seq());
            }
        }
        let next = held.first + held.batches.len() as u64;
        drop(held);
        self.next.send_replace(next);
    }

    /// What is at a number.
    pub(crate) fn at(&self, number: u64) -> Place {
        let held = self.held.read();
        match number.checked_sub(held.first) {
            None => Place::Gone { first: held.first, since: held.since.unwrap_or_default() },
            Some(nth) => match usize::try_from(nth).ok().and_then(|nth| held.batches.get(nth)) {
                Some(batch) => Place::Here(Arc::clone(batch)),
                None => Place::Ahead,
            },
        }
    }

    /// The number of the batch in which the first entry after a cursor is or will
    /// be; none when that entry may be gone already.
    pub(crate) fn place_after(&self, cursor: i64) -> Option<u64> {
        let held = self.held.read();
        if held.since.is_none_or(|since| cursor < since) {
            return None;
        }
        let nth = held.batches.partition_point(|batch| batch.last_seq() <= cursor);
        Some(held.first + nth as u64)
    }

    /// The number of the next batch.
    pub(crate) fn end(&self) -> u64 {
        let held = self.held.read();
        held.first + held.batches.len() as u64
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.held.read().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::tests::entry;

    fn batch(seqs: std::ops::Range<i64>) -> Batch {
        let entries: Vec<_> = seqs.map(|seq| entry(seq, "agent.created", "agent", "{}")).collect();
        Batch::encode(&entries)
    }

    #[test]
    fn the_bound_holds_and_a_place_that_is_gone_is_told() {
        let ring = Ring::new();
        assert_eq!(ring.place_after(i64::MAX), None, "nothing fills it yet");
        ring.attach(10);
        assert_eq!(ring.place_after(9), None);
        assert_eq!(ring.place_after(10), Some(0));
        let one = batch(11..13).bytes();
        for nth in 0..5 {
            ring.push(batch(11 + 2 * nth..13 + 2 * nth), 2 * one);
            assert!(ring.bytes() <= 2 * one);
        }
        let Place::Gone { first: 3, since: 16 } = ring.at(2) else { panic!("it is gone") };
        assert!(matches!(ring.at(3), Place::Here(batch) if batch.last_seq() == 18));
        assert!(matches!(ring.at(5), Place::Ahead));
        assert_eq!(ring.place_after(15), None);
        assert_eq!(ring.place_after(16), Some(3));
        assert_eq!(ring.place_after(17), Some(3), "in the middle of a batch");
        assert_eq!(ring.place_after(18), Some(4));
        assert_eq!(ring.place_after(99), Some(5));
        // One batch stays, however large.
        ring.push(batch(21..90), one);
        assert_eq!((ring.end(), ring.place_after(20)), (6, Some(5)));
        // After a gap the numbers go on, so that no old place means a new batch.
        ring.attach(200);
        assert!(matches!(ring.at(5), Place::Gone { first: 6, since: 200 }));
    }
}
