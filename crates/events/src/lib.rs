//! The log, followed live. One follower per process reads the log once, writes
//! each entry down once in the form in which every client gets it, and keeps the
//! newest of them in a bounded ring for each organisation that somebody listens
//! to. A [`Subscription`] reads the ring at its own pace, and the log itself for
//! what is older, so that it has every entry once, in order and without a gap,
//! from any cursor that retention still covers.
//!
//! Nothing here is the only copy of anything: whoever falls out of the ring is
//! told so and reads the log. Sockets and formats around an event belong to `api`.

mod batch;
mod filter;
mod follower;
mod keys;
mod retention;
mod ring;
mod subscription;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::ports::Clock;
use agentry_domain::{Caller, OrgId, Result};
use agentry_store::Store;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use batch::{Batch, Entry, event_json};
pub use filter::{FILTER_ITEMS_MAX, Filter};
pub use keys::KeyWatch;
pub use subscription::{Delivery, Start, Subscription, WhenLate};

use keys::Keys;
use ring::Ring;

/// The bounds of the log and of what is kept of it for listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of events that are kept in memory for each organisation that has a
    /// listener; who is further behind is told that it lags.
    pub ring_bytes_max: usize,
    /// How long entries of the log are kept.
    pub retention: Duration,
    /// Entries of the log, of all organisations together, that are kept at most.
    pub retention_entries_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes_max: 4 * 1_024 * 1_024,
            retention: Duration::from_secs(7 * 24 * 3_600),
            retention_entries_max: 10_000_000,
        }
    }
}

/// What following needs.
pub struct Parts {
    /// Where the log is.
    pub store: Arc<Store>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Owns what runs in the background.
    pub tasks: Tasks,
    /// The bounds.
    pub options: Options,
    /// Cancelled when streams have to end because the server stops.
    pub closing: CancellationToken,
}

/// The log, to be listened to. A cheap handle; clones share everything.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Options,
    pub(crate) keys: Keys,
    pub(crate) closing: CancellationToken,
    pub(crate) rings: Mutex<HashMap<OrgId, Arc<Ring>>>,
    /// A ring was made and waits to be filled.
    pub(crate) wanted: Notify,
    /// Every ring holds what it should up to this place of the log.
    pub(crate) processed: AtomicI64,
    pub(crate) counts: Counts,
}

/// What happened so far in this process.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) subscriptions: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) lagged: AtomicU64,
    pub(crate) encoded: AtomicU64,
}

/// What this process did so far, for all organisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Subscriptions open now.
    pub subscriptions: u64,
    /// Events that were handed to connections.
    pub delivered: u64,
    /// How often a subscription was too slow and was told.
    pub lagged: u64,
    /// Events that were written down, once for all who get them.
    pub encoded: u64,
}

/// How things stand for an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What this process did so far, for all organisations.
    pub activity: Activity,
    /// Subscriptions of this organisation that are open at this process.
    pub subscriptions: u64,
    /// The newest place of the log.
    pub newest: i64,
    /// The oldest cursor that can be resumed after.
    pub oldest: i64,
}

impl Events {
    /// Puts it together and starts what works in the background; that ends when
    /// the tasks stop.
    pub fn start(parts: Parts) -> Self {
        let Parts { store, clock, tasks, options, closing } = parts;
        let events = Self(Arc::new(Inner {
            store,
            clock,
            options,
            keys: Keys::new(closing.clone()),
            closing,
            rings: Mutex::default(),
            wanted: Notify::new(),
            processed: AtomicI64::new(0),
            counts: Counts::default(),
        }));
        tasks.spawn(follower::follow(Arc::clone(&events.0), tasks.stopping().clone()));
        tasks.spawn(keys::watch(Arc::clone(&events.0), tasks.stopping().clone()));
        tasks.spawn(retention::trim(Arc::clone(&events.0), tasks.stopping().clone()));
        events
    }

    /// Listens to what a caller may hear of. The subscription ends when the
    /// caller's key is revoked or the server stops, see [`Subscription::ended`].
    pub async fn subscribe(
        &self,
        caller: Caller,
        filter: Filter,
        start: Start,
        when_late: WhenLate,
    ) -> Result<Subscription> {
        Subscription::open(Arc::clone(&self.0), caller, filter, start, when_late).await
    }

    /// How things stand for an organisation.
    pub async fn status(&self, org: OrgId) -> Result<Status> {
        let newest = self.0.store.log_head().await?;
        let oldest = self.0.store.log_oldest().await? - 1;
        let of_org = self.0.rings.lock().get(&org).map_or(0, |ring| ring.listeners());
        Ok(Status { activity: self.activity(), subscriptions: of_org, newest, oldest })
    }

    /// What this process did so far.
    pub fn activity(&self) -> Activity {
        let Counts { subscriptions, delivered, lagged, encoded } = &self.0.counts;
        Activity {
            subscriptions: subscriptions.load(Ordering::Relaxed),
            delivered: delivered.load(Ordering::Relaxed),
            lagged: lagged.load(Ordering::Relaxed),
            encoded: encoded.load(Ordering::Relaxed),
        }
    }

    /// Watches the key of another stream of a caller's.
    pub fn watch(&self, caller: &Caller) -> KeyWatch {
        KeyWatch::new(&self.0, caller)
    }

    /// Looks at once, instead of within a second, whether the keys of open
    /// subscriptions are still good.
    pub fn keys_changed(&self) {
        self.0.keys.look_now();
    }
}
