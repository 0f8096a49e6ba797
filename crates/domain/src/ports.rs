//! What the rules need from outside: who a credential belongs to, the time, and
//! fresh ids. All come in as values, so that every rule can be replayed.

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::{ContextV7, Uuid};

use crate::audit::Denial;
use crate::caller::Caller;
use crate::error::Result;
use crate::limits::{Limited, Work};
use crate::time::Timestamp;
use crate::tokens::Claims;

/// Tells who a credential belongs to.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    /// The caller that `secret` belongs to; `unauthenticated` when it is unknown
    /// or no longer valid.
    async fn authenticate(&self, secret: &str) -> Result<Caller>;

    /// The caller whom this ticket was given to. A ticket opens one stream, once,
    /// shortly after it was made; `unauthenticated` for any other.
    async fn redeem(&self, ticket: &str) -> Result<Caller>;

    /// The caller whom an identity provider's token names, whose signature and
    /// times were checked; `unauthenticated` when there is no such organisation.
    async fn accept_token(&self, claims: &Claims) -> Result<Caller>;
}

/// Counts requests against the caller's limits. A caller without a tier has none.
#[async_trait]
pub trait Limit: Send + Sync + 'static {
    /// Counts one request of this kind of work. When a limit is reached the
    /// request counts against none that is wider than it.
    async fn check(&self, caller: &Caller, work: Work) -> Limited;
}

/// Hears of requests that were refused for who sent them.
pub trait Audit: Send + Sync + 'static {
    /// Takes note of one. Never waits, and what it keeps has a bound.
    fn denied(&self, denial: Denial<'_>);
}

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// Makes ids and secrets.
pub trait Entropy: Send + Sync + 'static {
    /// A fresh UUIDv7 for this instant, greater than every one made before in
    /// this process.
    fn uuid(&self, now: Timestamp) -> Uuid;

    /// 256 random bits.
    fn secret(&self) -> [u8; 32];
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The machine's randomness.
#[derive(Debug)]
pub struct SystemEntropy {
    // The counter in it keeps ids of one millisecond in order; a message must
    // never sort before the one it answers.
    context: Mutex<ContextV7>,
}

impl Default for SystemEntropy {
    fn default() -> Self {
        Self { context: Mutex::new(ContextV7::new()) }
    }
}

impl Entropy for SystemEntropy {
    fn uuid(&self, now: Timestamp) -> Uuid {
        let micros = now.micros().max(0).unsigned_abs();
        let nanos = u32::try_from(micros % 1_000_000).unwrap_or(0) * 1_000;
        let context = self.context.lock();
        Uuid::new_v7(uuid::Timestamp::from_unix(&*context, micros / 1_000_000, nanos))
    }

    fn secret(&self) -> [u8; 32] {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_only_grow_even_when_the_clock_goes_back() {
        let entropy = SystemEntropy::default();
        let mut last = entropy.uuid(Timestamp::from_micros(5_000_000));
        for micros in [5_000_000, 4_000_000, 5_000_001, 4_999_999, 6_000_000] {
            for _ in 0..1_000 {
                let next = entropy.uuid(Timestamp::from_micros(micros));
                assert!(next > last, "{next} after {last}");
                last = next;
            }
        }
    }
}
