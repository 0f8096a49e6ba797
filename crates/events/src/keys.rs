//! Streams end with their key. Every key that has a stream open here is looked
//! up once a second, and at once when the log says that something happened to a
//! key, so that a revocation anywhere closes them within a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::ports::{Clock as _, SystemClock};
use agentry_domain::{Caller, KeyId, OrgId, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Inner;

/// How often keys with open streams are looked up.
const LOOK_EVERY: Duration = Duration::from_millis(900);

/// A key or, with its end, a token.
type Shown = (OrgId, KeyId, Option<Timestamp>);

/// The keys that have streams open.
pub(crate) struct Keys {
    closing: CancellationToken,
    open: Mutex<HashMap<Shown, Watched>>,
    look: Notify,
}

struct Watched {
    token: CancellationToken,
    streams: usize,
}

/// As long as it lives, a stream's key is watched.
pub(crate) struct Watch {
    inner: Arc<Inner>,
    key: Option<Shown>,
    /// Cancelled when the stream has to end.
    pub(crate) ended: CancellationToken,
}

/// The key of a stream that is no subscription.
pub struct KeyWatch(Watch);

impl KeyWatch {
    pub(crate) fn new(inner: &Arc<Inner>, caller: &Caller) -> Self {
        Self(Watch::new(Arc::clone(inner), caller))
    }

    /// Waits until the key is no longer valid. Once the server stops nobody looks.
    pub async fn revoked(&self) {
        self.0.ended.cancelled().await;
        if self.0.inner.closing.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

impl Keys {
    pub(crate) fn new(closing: CancellationToken) -> Self {
        Self { closing, open: Mutex::default(), look: Notify::new() }
    }

    pub(crate) fn look_now(&self) {
        self.look.notify_one();
    }
}

impl Watch {
    pub(crate) fn new(inner: Arc<Inner>, caller: &Caller) -> Self {
        // Nobody revokes a token: it ends when it says.
        let until = caller.until.filter(|_| caller.is_token);
        let key = caller.key.map(|key| (caller.org, key, until));
        // A token of its own for each stream: waiting on a shared one would have
        // every poll of every stream take the same lock.
        let ended = match key {
            None => inner.keys.closing.child_token(),
            Some(key) => {
                let mut open = inner.keys.open.lock();
                let watched = open.entry(key).or_insert_with(|| Watched {
                    token: inner.keys.closing.child_token(),
                    streams: 0,
                });
                watched.streams += 1;
                watched.token.child_token()
            }
        };
        Self { inner, key, ended }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut open = self.inner.keys.open.lock();
        if let Some(watched) = open.get_mut(&key) {
            watched.streams -= 1;
            if watched.streams == 0 {
                open.remove(&key);
            }
        }
    }
}

/// Looks keys up until `stopping`.
pub(crate) async fn watch(inner: Arc<Inner>, stopping: CancellationToken) {
    let watching = async {
        loop {
            let _ = tokio::time::timeout(LOOK_EVERY, inner.keys.look.notified()).await;
            let keys: Vec<Shown> = inner.keys.open.lock().keys().copied().collect();
            for (org, id, until) in keys {
                let now = SystemClock.now();
                let is_valid = match until {
                    Some(until) => Ok(until > now),
                    None => inner.store.key_is_valid(org, id, now).await,
                };
                match is_valid {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::info!(key = %id, "a key is no longer valid: its streams end");
                        if let Some(watched) = inner.keys.open.lock().get(&(org, id, until)) {
                            watched.token.cancel();
                        }
                    }
                    // A storage that is away revokes nothing; it is asked again.
                    Err(error) => tracing::warn!(%error, "a key could not be looked up"),
                }
            }
        }
    };
    stopping.run_until_cancelled(watching).await;
}
