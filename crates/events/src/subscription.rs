//! One listener. It is subscribed to the ring first, then reads the log from its
//! cursor until the ring covers the rest, and drops by their place what it has
//! had; so there is no gap and no double, whatever is written meanwhile.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentry_domain::{Caller, OrgId, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Inner;
use crate::batch::Batch;
use crate::filter::{Filter, Sieve};
use crate::keys::Watch;
use crate::ring::{Place, Ring};

/// Entries that are read from the log at once by a listener that catches up.
const PAGE_ENTRIES: u32 = 250;

/// Where a listener begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what happens from now on.
    Now,
    /// After this place of the log.
    After(i64),
}

/// What a listener gets that is too slow for the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenLate {
    /// The news that it missed something, and then what is newest.
    Tell,
    /// What it missed, from the log.
    CatchUp,
}

/// What a listener gets.
#[derive(Debug)]
pub enum Delivery {
    /// Events; [`Subscription::run`] says which of the batch.
    Events {
        /// The batch.
        batch: Arc<Batch>,
        /// The first of its entries that is new.
        from: usize,
    },
    /// It was too slow: the entries from and up to these places are left out.
    Lagged {
        /// The first place that was missed.
        from: i64,
        /// The last one.
        to: i64,
    },
    /// Its cursor is of no use: what comes after it was deleted, or it is ahead of
    /// the log. It goes on with what is newest or, with [`WhenLate::CatchUp`],
    /// with the oldest entry.
    Expired {
        /// The oldest cursor that can be resumed after.
        oldest: i64,
    },
}

/// A listener's place in the log.
pub struct Subscription {
    inner: Arc<Inner>,
    ring: Arc<Ring>,
    changed: watch::Receiver<u64>,
    watch: Watch,
    caller: Caller,
    sieve: Sieve,
    when_late: WhenLate,
    /// Everything up to here was handed out or left out on purpose.
    cursor: i64,
    /// The number of the next batch of the ring; none while it catches up.
    next: Option<u64>,
}

impl Subscription {
    pub(crate) async fn open(
        inner: Arc<Inner>,
        caller: Caller,
        filter: Filter,
        start: Start,
        when_late: WhenLate,
    ) -> Result<Self> {
        let ring = {
            let mut rings = inner.rings.lock();
            let ring = rings.entry(caller.org).or_insert_with(|| Arc::new(Ring::new()));
            ring.joined();
            Arc::clone(ring)
        };
        inner.counts.subscriptions.fetch_add(1, Ordering::Relaxed);
        let mut subscription = Self {
            changed: ring.changed(),
            watch: Watch::new(Arc::clone(&inner), &caller),
            sieve: Sieve::new(filter, &caller),
            caller,
            when_late,
            cursor: 0,
            next: None,
            ring,
            inner,
        };
        if !subscription.ring.is_attached() {
            subscription.inner.wanted.notify_one();
        }
        while !subscription.ring.is_attached() {
            // The sender is in the ring that we hold, so this cannot fail.
            let _ = subscription.changed.changed().await;
        }
        match start {
            Start::Now => subscription.go_live(),
            Start::After(cursor) => subscription.resume(cursor),
        }
        Ok(subscription)
    }

    /// Everything up to this place was handed out or left out.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Whom it is for.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Cancelled when it has to end: the key was revoked, or the server stops.
    pub fn ended(&self) -> &CancellationToken {
        &self.watch.ended
    }

    /// Whether it has to end because the server stops.
    pub fn is_closing(&self) -> bool {
        self.inner.closing.is_cancelled()
    }

    /// Changes the filter for everything that was not handed out yet.
    pub fn filter(&mut self, filter: Filter) {
        self.sieve = Sieve::new(filter, &self.caller);
    }

    /// Goes back, or on, to a place of the log.
    pub fn resume(&mut self, cursor: i64) {
        self.cursor = cursor;
        self.next = None;
    }

    /// Goes back to what was handed out and could not be sent. Other than
    /// [`Subscription::resume`], who is live stays live: when the ring has moved
    /// on meanwhile, it lags.
    pub fn rewind(&mut self, cursor: i64) {
        self.cursor = cursor;
        // No batch of a ring that has moved on has the number 0.
        self.next = self.next.map(|_| self.ring.place_after(cursor).unwrap_or(0));
    }

    fn go_live(&mut self) {
        self.next = Some(self.ring.end());
        self.cursor = self.cursor.max(self.inner.processed.load(Ordering::Acquire));
    }

    /// What comes next. May be dropped and called again; nothing is lost.
    pub async fn next(&mut self) -> Result<Delivery> {
        loop {
            let delivery = match self.next {
                Some(number) => self.live(number).await,
                // On the heap, while it lasts: what it takes would be held by every
                // listener, of whom most are live.
                None => Box::pin(self.catch_up()).await?,
            };
            if let Some(delivery) = delivery {
                return Ok(delivery);
            }
        }
    }

    async fn live(&mut self, number: u64) -> Option<Delivery> {
        // Before looking, so that a change after the look is seen by the wait.
        self.changed.mark_unchanged();
        match self.ring.at(number) {
            Place::Here(batch) => {
                self.next = Some(number + 1);
                self.hand_out(batch)
            }
            Place::Gone { .. } if self.when_late == WhenLate::CatchUp => {
                self.next = None;
                None
            }
            Place::Gone { first, since } => {
                let from = self.cursor + 1;
                self.cursor = self.cursor.max(since);
                self.next = Some(first);
                self.inner.counts.lagged.fetch_add(1, Ordering::Relaxed);
                (from <= since).then_some(Delivery::Lagged { from, to: since })
            }
            Place::Ahead => {
                let _ = self.changed.changed().await;
                None
            }
        }
    }

    async fn catch_up(&mut self) -> Result<Option<Delivery>> {
        if let Some(number) = self.ring.place_after(self.cursor) {
            let processed = self.inner.processed.load(Ordering::Acquire);
            if self.cursor > processed && self.cursor > self.inner.store.log_head().await? {
                return self.expired().await.map(Some);
            }
            self.next = Some(number);
            return Ok(None);
        }
        // What was handed on before the page was read is in the page.
        let processed = self.inner.processed.load(Ordering::Acquire);
        let store = &self.inner.store;
        let page = store.log_read(self.caller.org, self.cursor, PAGE_ENTRIES).await?;
        // Asked afterwards: what was deleted meanwhile may be missing above.
        if self.cursor + 1 < store.log_oldest().await? {
            return self.expired().await.map(Some);
        }
        if page.len() < PAGE_ENTRIES as usize {
            let last = page.last().map_or(self.cursor, |entry| entry.seq);
            let delivery = self.hand_out(Arc::new(Batch::encode(&page)));
            self.cursor = self.cursor.max(processed).max(last);
            return Ok(delivery);
        }
        Ok(self.hand_out(Arc::new(Batch::encode(&page))))
    }

    async fn expired(&mut self) -> Result<Delivery> {
        let oldest = self.inner.store.log_oldest().await? - 1;
        match self.when_late {
            WhenLate::CatchUp => self.resume(oldest),
            WhenLate::Tell => {
                self.cursor = 0;
                self.go_live();
            }
        }
        Ok(Delivery::Expired { oldest })
    }

    /// The events of a batch that were not handed out yet; none when nothing of
    /// it passes.
    fn hand_out(&mut self, batch: Arc<Batch>) -> Option<Delivery> {
        let from = batch.after(self.cursor);
        self.cursor = self.cursor.max(batch.last_seq());
        self.run(&batch, from).map(|_| Delivery::Events { batch, from })
    }

    /// The next entries of a batch, from this one on, that pass and lie side by
    /// side; none when no more pass.
    pub fn run(&self, batch: &Batch, from: usize) -> Option<Range<usize>> {
        let entries = batch.entries();
        if self.sieve.is_open() {
            return (from < entries.len()).then_some(from..entries.len());
        }
        let passes = |nth: &usize| self.sieve.passes(batch, &entries[*nth]);
        let start = (from..entries.len()).find(|nth| passes(nth))?;
        let end = (start + 1..entries.len()).find(|nth| !passes(nth)).unwrap_or(entries.len());
        Some(start..end)
    }

    /// Events were handed to the connection; for the counts.
    pub fn delivered(&self, events: usize) {
        self.inner.counts.delivered.fetch_add(events as u64, Ordering::Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inner.counts.subscriptions.fetch_sub(1, Ordering::Relaxed);
        let mut rings = self.inner.rings.lock();
        // Under the lock, so that nobody joins a ring that goes.
        if self.ring.left() == 0 {
            let org: OrgId = self.caller.org;
            rings.remove(&org);
        }
    }
}
