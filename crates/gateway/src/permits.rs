//! How many requests are worked on at once. Who finds no place waits in a short
//! queue for a short while, so that a burst is smoothed and not refused; who finds
//! the queue full, or waits in vain, is refused: a longer wait is what overload
//! does to its victims.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a queue for places may be, and how long one waits in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Requests that wait at once at most.
    pub waiting_max: usize,
    /// How long each waits at most.
    pub wait_max: Duration,
}

/// A counter with a bound and a queue.
#[derive(Clone, Debug)]
pub struct Permits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    taken: AtomicUsize,
    max: usize,
    waiting: AtomicUsize,
    patience: Patience,
    freed: Notify,
    refused: AtomicU64,
}

/// One taken place; dropping it gives it back.
#[derive(Debug)]
pub struct Permit(Arc<Inner>);

/// A place in the queue.
struct Queued<'a>(&'a Inner);

impl Permits {
    /// With this many places.
    pub fn new(max: usize, patience: Patience) -> Self {
        Self(Arc::new(Inner {
            taken: AtomicUsize::new(0),
            max,
            waiting: AtomicUsize::new(0),
            patience,
            freed: Notify::new(),
            refused: AtomicU64::new(0),
        }))
    }

    /// A place, at once or after a short wait; none when there is too much to do.
    pub async fn take(&self) -> Option<Permit> {
        // Who waits already goes first.
        if self.0.waiting.load(Ordering::Acquire) == 0
            && let Some(permit) = self.try_take()
        {
            return Some(permit);
        }
        let permit = self.wait().await;
        if permit.is_none() {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    fn try_take(&self) -> Option<Permit> {
        // Counting first and looking after keeps this to one atomic operation
        // when there is room; a refused taker puts its count back.
        let before = self.0.taken.fetch_add(1, Ordering::AcqRel);
        if before < self.0.max {
            return Some(Permit(Arc::clone(&self.0)));
        }
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        None
    }

    async fn wait(&self) -> Option<Permit> {
        let _queued = Queued::enter(&self.0)?;
        let until = Instant::now() + self.0.patience.wait_max;
        loop {
            // Listens before the look, so that no place becomes free in between.
            let mut freed = std::pin::pin!(self.0.freed.notified());
            freed.as_mut().enable();
            if let Some(permit) = self.try_take() {
                return Some(permit);
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return self.try_take();
            }
        }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Acquire).min(self.0.max)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Acquire)
    }

    /// How many were refused so far.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn max(&self) -> usize {
        self.0.max
    }
}

impl<'a> Queued<'a> {
    fn enter(inner: &'a Inner) -> Option<Self> {
        let queued = Self(inner);
        let before = inner.waiting.fetch_add(1, Ordering::AcqRel);
        (before < inner.patience.waiting_max).then_some(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        if self.0.waiting.load(Ordering::Acquire) > 0 {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_QUEUE: Patience = Patience { waiting_max: 0, wait_max: Duration::ZERO };

    #[tokio::test]
    async fn the_bound_holds_and_places_come_back() {
        let permits = Permits::new(2, NO_QUEUE);
        let first = permits.take().await.unwrap();
        let second = permits.take().await.unwrap();
        assert!(permits.take().await.is_none());
        assert_eq!(permits.taken(), 2, "a refusal takes nothing");
        assert_eq!((permits.refused(), permits.waiting()), (1, 0));
        drop(first);
        assert!(permits.take().await.is_some());
        drop(second);
        assert_eq!(permits.taken(), 0);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_refused() {
        let patience = Patience { waiting_max: 1, wait_max: Duration::from_millis(20) };
        let permits = Permits::new(1, patience);
        let _first = permits.take().await.unwrap();
        let begun = Instant::now();
        assert!(permits.take().await.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert_eq!((permits.taken(), permits.waiting(), permits.refused()), (1, 0, 1));
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_becomes_free_and_the_queue_is_short() {
        let patience = Patience { waiting_max: 1, wait_max: Duration::from_secs(60) };
        let permits = Permits::new(1, patience);
        let first = permits.take().await.unwrap();
        let (second, third, ()) = tokio::join!(permits.take(), permits.take(), async {
            assert_eq!(permits.waiting(), 1);
            drop(first);
        });
        assert!(second.is_some(), "it waited, and a place became free");
        assert!(third.is_none(), "the queue was full");
        drop(second);
        assert_eq!((permits.taken(), permits.waiting()), (0, 0));
    }
}
