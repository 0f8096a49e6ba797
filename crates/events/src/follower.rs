//! The one reader of the log in this process. It works while somebody listens:
//! a server without listeners reads nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentry_domain::log::LoggedEntry;
use agentry_domain::{OrgId, Result};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Inner;
use crate::batch::Batch;
use crate::ring::Ring;

/// Entries that are read at once, and in one batch at most.
const PAGE_ENTRIES: u32 = 500;
/// How often to look without having been told: a hint may be lost.
const POLL: Duration = Duration::from_millis(500);
/// The pause after the log could not be read.
const PAUSE: Duration = Duration::from_millis(250);
/// What it costs, about, to wake a listener and write to its socket, with the
/// kernel's part (12 us measured over loopback), and some room. The follower waits
/// for company as long as waking everybody takes, so that events share the calls: a
/// lone event goes at once, and under load the price of an event does not grow with
/// the rate. A shorter wait fills the processors with calls, and then everybody waits.
const WAKE_COST: Duration = Duration::from_micros(15);
const GATHER_MIN: Duration = Duration::from_millis(1);
/// Events wait for company at most this long.
const GATHER_MAX: Duration = Duration::from_millis(100);

/// Follows the log until `stopping`.
pub(crate) async fn follow(inner: Arc<Inner>, stopping: CancellationToken) {
    let mut follower = Follower { changed: inner.store.log_changed(), inner, position: None };
    let following = async {
        loop {
            let begun = Instant::now();
            match follower.round().await {
                Ok(moved) => follower.rest(moved, begun).await,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "the log could not be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    stopping.run_until_cancelled(following).await;
}

struct Follower {
    inner: Arc<Inner>,
    changed: watch::Receiver<i64>,
    /// The place up to which everything was handed on; none while nobody listens.
    position: Option<i64>,
}

impl Follower {
    /// Hands on what is new: how many entries.
    async fn round(&mut self) -> Result<usize> {
        let rings = self.rings();
        if rings.is_empty() {
            self.position = None;
            return Ok(0);
        }
        // Before reading, so that nothing between reading and waiting is missed.
        self.changed.mark_unchanged();
        let position = match self.position {
            Some(position) => position,
            None => self.inner.store.log_head().await?,
        };
        self.position = Some(position);
        self.inner.processed.fetch_max(position, Ordering::AcqRel);
        for (_, ring) in rings.iter().filter(|(_, ring)| !ring.is_attached()) {
            ring.attach(position);
        }
        let entries = self.inner.store.log_read_all(position, PAGE_ENTRIES).await?;
        let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(0) };
        // The log is dense, so a jump is retention having overtaken us: what the
        // rings hold does not reach the new entries any more.
        if entries.first().is_some_and(|first| first.seq != position + 1) {
            tracing::warn!(position, "the log was trimmed before it was handed on");
            for (_, ring) in &rings {
                ring.attach(entries.first().map_or(position, |first| first.seq - 1));
            }
        }
        if entries.iter().any(|entry| entry.entity == "key") {
            self.inner.keys.look_now();
        }
        self.hand_on(&rings, &entries);
        // Only now: whoever reads this place takes the rings for filled up to it.
        self.inner.processed.fetch_max(last, Ordering::AcqRel);
        self.position = Some(last);
        Ok(entries.len())
    }

    fn rings(&self) -> Vec<(OrgId, Arc<Ring>)> {
        let rings = self.inner.rings.lock();
        rings.iter().map(|(org, ring)| (*org, Arc::clone(ring))).collect()
    }

    fn hand_on(&self, rings: &[(OrgId, Arc<Ring>)], entries: &[LoggedEntry]) {
        let bytes_max = self.inner.options.ring_bytes_max;
        for (org, ring) in rings {
            let batch = if entries.iter().all(|entry| entry.org == *org) {
                Batch::encode(entries)
            } else {
                let theirs: Vec<LoggedEntry> =
                    entries.iter().filter(|entry| entry.org == *org).cloned().collect();
                if theirs.is_empty() {
                    continue;
                }
                Batch::encode(&theirs)
            };
            let count = batch.entries().len() as u64;
            self.inner.counts.encoded.fetch_add(count, Ordering::Relaxed);
            ring.push(batch, bytes_max);
        }
    }

    /// Waits for company after a round that moved something, and for news.
    async fn rest(&mut self, moved: usize, begun: Instant) {
        if moved > 0 {
            let listeners = u32::try_from(self.inner.counts.subscriptions.load(Ordering::Relaxed));
            let gather = WAKE_COST.saturating_mul(listeners.unwrap_or(u32::MAX)).min(GATHER_MAX);
            // A shorter wait is rounded up by the timer, and would delay alone.
            if gather >= GATHER_MIN {
                tokio::time::sleep_until(begun + gather).await;
            }
        }
        if moved == PAGE_ENTRIES as usize {
            return;
        }
        if self.position.is_none() {
            self.inner.wanted.notified().await;
            return;
        }
        tokio::select! {
            _ = self.changed.changed() => {}
            () = self.inner.wanted.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
