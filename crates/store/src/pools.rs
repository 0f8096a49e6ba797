//! What is had by one at a time and waited for: connections that scan, and writers. Who
//! waits, and for how long, is counted the same way on both engines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How a pool stands, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolActivity {
    /// What it is of: `scans` or `writers`.
    pub name: &'static str,
    /// How many there may be.
    pub size: u64,
    /// How many are at work.
    pub in_use: u64,
    /// Who waits for one.
    pub waiting: u64,
    /// How often one was had so far.
    pub taken: u64,
    /// How long those who had one had waited for it, all together.
    pub waited: Duration,
}

/// Those who wait, and what they waited.
#[derive(Default)]
pub(crate) struct Waits {
    waiting: AtomicU64,
    taken: AtomicU64,
    waited_nanos: AtomicU64,
}

/// One who waits; dropping it ends that.
struct OneWaits<'a>(&'a Waits);

impl Drop for OneWaits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Waits {
    /// Waits for one, and counts that.
    pub(crate) async fn wait<T>(&self, one: impl Future<Output = T>) -> T {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = OneWaits(self);
        let since = Instant::now();
        let one = one.await;
        drop(waits);
        self.add(1, since.elapsed());
        one
    }

    /// Counts some who had one after they had waited this long together.
    pub(crate) fn add(&self, many: u64, waited: Duration) {
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.taken.fetch_add(many, Ordering::Relaxed);
        self.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How a pool stands of which so many are at work.
    pub(crate) fn activity(&self, name: &'static str, size: u64, in_use: u64) -> PoolActivity {
        PoolActivity {
            name,
            size,
            in_use,
            waiting: self.waiting.load(Ordering::Relaxed),
            taken: self.taken.load(Ordering::Relaxed),
            waited: Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed)),
        }
    }
}
