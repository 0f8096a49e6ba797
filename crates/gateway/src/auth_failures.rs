//! Credentials that were refused, counted by the address that showed them, within a
//! bound for each: a rate with a burst (the generic cell rate algorithm, GCRA, of
//! ITU-T I.371). Past it a credential is refused without a look at it.
//!
//! Behind one address there may be many: a company's, or all of a proxy that is not
//! trusted. So what was good here lately is never refused for what its neighbours
//! do; it is looked at as ever, and opens nothing when it was revoked meanwhile. A
//! credential that this process has not seen good waits until its address has room
//! again. Successes count for nothing, and requests without a credential neither.
//!
//! An attempt is counted when it has failed, so those under way at once may go past
//! the bound by as many as they are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::audit::network;
use agentry_domain::limits::Rate;
use agentry_domain::{Code, Error};
use ahash::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Networks that are counted by themselves at once; those beyond share one count.
const NETWORKS_COUNTED_MAX: usize = 65_536;
/// How often networks are forgotten whose count makes no difference any more.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// Credentials that are remembered as good; 8 bytes each. One beyond takes the place
/// of another.
const GOOD_REMEMBERED_MAX: usize = 65_536;
/// How long a credential is remembered that was good, in minutes.
const GOOD_MINUTES: u32 = 60;

/// What the credentials of each network did.
pub struct AuthFailures {
    bound: Option<Bound>,
    networks: Mutex<Networks>,
    good: Good,
    /// Of what addresses and credentials are hashed with: nobody outside knows.
    hasher: RandomState,
    started: Instant,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// A rate, as GCRA counts it.
#[derive(Clone, Copy)]
struct Bound {
    /// How long until one more may fail.
    interval: Duration,
    /// How far the count may run ahead of the clock.
    tolerance: Duration,
}

#[derive(Default)]
struct Networks {
    /// When the count of each would be even with its rate (GCRA's theoretical
    /// arrival time).
    even_at: HashMap<IpAddr, Instant, RandomState>,
    /// The same, of those that found no room.
    others_even_at: Option<Instant>,
    forgotten_at: Option<Instant>,
}

/// What was done so far, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthFailureActivity {
    /// Credentials that were looked at and refused.
    pub failed: u64,
    /// Requests that were refused without a look at their credential.
    pub refused: u64,
    /// Networks that are counted.
    pub networks: usize,
}

impl std::fmt::Debug for AuthFailures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthFailures").field("activity", &self.activity()).finish_non_exhaustive()
    }
}

impl Bound {
    fn new(rate: Rate) -> Self {
        let interval = Duration::from_secs(60) / rate.per_minute.get();
        Self { interval, tolerance: interval * (rate.burst.get() - 1) }
    }

    /// How long until a count that is even then has room; none when it has.
    fn wait(&self, even_at: Option<Instant>, now: Instant) -> Option<Duration> {
        let ahead = even_at?.saturating_duration_since(now);
        ahead.checked_sub(self.tolerance).filter(|wait| !wait.is_zero())
    }

    /// When the count is even after one more.
    fn after(&self, even_at: Option<Instant>, now: Instant) -> Instant {
        even_at.map_or(now, |even_at| even_at.max(now)) + self.interval
    }
}

impl Networks {
    fn even_at(&self, network: IpAddr) -> Option<Instant> {
        match self.even_at.get(&network) {
            Some(even_at) => Some(*even_at),
            None if self.even_at.len() >= NETWORKS_COUNTED_MAX => self.others_even_at,
            None => None,
        }
    }

    fn count(&mut self, network: IpAddr, bound: Bound, now: Instant) {
        if self.forgotten_at.is_none_or(|at| now >= at + FORGET_EVERY) {
            self.even_at.retain(|_, even_at| *even_at > now);
            self.forgotten_at = Some(now);
        }
        let is_full = self.even_at.len() >= NETWORKS_COUNTED_MAX;
        match self.even_at.entry(network) {
            Entry::Occupied(mut counted) => {
                let even_at = bound.after(Some(*counted.get()), now);
                counted.insert(even_at);
            }
            Entry::Vacant(_) if is_full => {
                self.others_even_at = Some(bound.after(self.others_even_at, now));
            }
            Entry::Vacant(place) => {
                place.insert(bound.after(None, now));
            }
        }
    }
}

/// Credentials that were good lately: a table without locks that forgets when two
/// want the same place. Each place has the upper half of a credential's hash, and the
/// minute in which it was good.
struct Good(Box<[AtomicU64]>);

impl Good {
    fn new() -> Self {
        Self((0..GOOD_REMEMBERED_MAX).map(|_| AtomicU64::new(0)).collect())
    }

    fn place(&self, hash: u64) -> Option<&AtomicU64> {
        // The lower half: the upper one is what is kept.
        self.0.get(hash as u32 as usize % GOOD_REMEMBERED_MAX)
    }

    fn remember(&self, hash: u64, minute: u32) {
        let wanted = (hash >> 32) << 32 | u64::from(minute);
        let Some(place) = self.place(hash) else { return };
        // Written once a minute, so that processors need not take it from each other.
        if place.load(Ordering::Relaxed) != wanted {
            place.store(wanted, Ordering::Relaxed);
        }
    }

    fn knows(&self, hash: u64, minute: u32) -> bool {
        let found = self.place(hash).map_or(0, |place| place.load(Ordering::Relaxed));
        let good_in = found as u32;
        found >> 32 == hash >> 32 && good_in > 0 && minute.saturating_sub(good_in) < GOOD_MINUTES
    }
}

impl AuthFailures {
    /// With this many failures of each network; none sets no bound.
    pub fn new(rate: Option<Rate>) -> Self {
        Self {
            bound: rate.map(Bound::new),
            networks: Mutex::default(),
            good: Good::new(),
            hasher: RandomState::new(),
            started: Instant::now(),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether this credential may be looked at; else `too_many_auth_failures`.
    pub fn check(&self, address: IpAddr, credential: &str, now: Instant) -> Result<(), Error> {
        let Some(bound) = self.bound else { return Ok(()) };
        let even_at = {
            let networks = self.networks.lock();
            // Almost always nobody failed.
            if networks.even_at.is_empty() {
                return Ok(());
            }
            networks.even_at(network(address))
        };
        let Some(wait) = bound.wait(even_at, now) else { return Ok(()) };
        if self.good.knows(self.hasher.hash_one(credential), self.minute(now)) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let detail = "too many credentials from this address were refused; this one was not \
                      looked at";
        Err(Error::new(Code::TooManyAuthFailures, detail).retry_after(wait))
    }

    /// Notes that this credential was good.
    pub fn succeeded(&self, credential: &str, now: Instant) {
        if self.bound.is_some() {
            self.good.remember(self.hasher.hash_one(credential), self.minute(now));
        }
    }

    /// Counts one that was not.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Some(bound) = self.bound {
            self.networks.lock().count(network(address), bound, now);
        }
    }

    /// From 1 on: 0 is an empty place.
    fn minute(&self, now: Instant) -> u32 {
        let minutes = now.saturating_duration_since(self.started).as_secs() / 60;
        u32::try_from(minutes).unwrap_or(u32::MAX - 1) + 1
    }

    /// What was done so far.
    pub fn activity(&self) -> AuthFailureActivity {
        AuthFailureActivity {
            failed: self.failed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            networks: self.networks.lock().even_at.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const NEAR: &str = "192.0.2.1";
    const FAR: &str = "192.0.2.2";

    fn failures(per_minute: u32, burst: u32) -> AuthFailures {
        let number = |of| NonZeroU32::new(of).unwrap();
        AuthFailures::new(Some(Rate { per_minute: number(per_minute), burst: number(burst) }))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How long the next credential from there has to wait, in milliseconds.
    fn wait(of: &AuthFailures, from: &str, credential: &str, now: Instant) -> Option<u128> {
        let checked = of.check(address(from), credential, now);
        checked.err().map(|error| {
            assert_eq!(error.code, Code::TooManyAuthFailures);
            error.retry_after.unwrap().as_millis()
        })
    }

    #[test]
    fn an_address_has_a_burst_and_then_its_rate() {
        let failures = failures(60, 3);
        let now = failures.started;
        for _ in 0..3 {
            assert_eq!(wait(&failures, NEAR, "bad", now), None);
            failures.failed(address(NEAR), now);
        }
        assert_eq!(wait(&failures, NEAR, "bad", now), Some(1_000));
        assert_eq!(wait(&failures, FAR, "bad", now), None, "each address has its own");
        // To ask meanwhile makes the wait no longer.
        let later = now + Duration::from_millis(900);
        assert_eq!(wait(&failures, NEAR, "bad", later), Some(100));
        let later = now + Duration::from_secs(1);
        assert_eq!(wait(&failures, NEAR, "bad", later), None);
        failures.failed(address(NEAR), later);
        assert_eq!(wait(&failures, NEAR, "bad", later), Some(1_000), "one came back, not three");
        let activity = AuthFailureActivity { failed: 4, refused: 3, networks: 1 };
        assert_eq!(failures.activity(), activity);
    }

    #[test]
    fn what_was_good_lately_pays_for_no_neighbour() {
        let failures = failures(60, 1);
        let now = failures.started;
        failures.succeeded("good", now);
        failures.failed(address(NEAR), now);
        assert_eq!(wait(&failures, NEAR, "good", now), None);
        assert_eq!(wait(&failures, NEAR, "new", now), Some(1_000));
        // Not for good.
        let much_later = now + Duration::from_secs(u64::from(GOOD_MINUTES) * 60);
        failures.failed(address(NEAR), much_later);
        assert_eq!(wait(&failures, NEAR, "good", much_later), Some(1_000));
    }

    #[test]
    fn a_host_cannot_choose_among_the_addresses_of_its_network() {
        let failures = failures(60, 1);
        let now = failures.started;
        failures.failed(address("2001:db8::1"), now);
        assert!(wait(&failures, "2001:db8::2", "bad", now).is_some());
        assert!(wait(&failures, "2001:db8:0:1::2", "bad", now).is_none());
    }

    #[test]
    fn memory_has_a_bound_and_those_beyond_share_a_count() {
        let failures = failures(60, 2);
        let now = failures.started;
        let of = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        for n in 0..NETWORKS_COUNTED_MAX + 1 {
            failures.failed(of(n), now);
        }
        assert_eq!(failures.activity().networks, NETWORKS_COUNTED_MAX);
        assert_eq!(wait(&failures, "255.0.0.1", "bad", now), None);
        failures.failed(address("255.0.0.1"), now);
        assert!(wait(&failures, "255.0.0.2", "bad", now).is_some(), "they share one");
        assert_eq!(wait(&failures, "0.0.0.7", "bad", now), None, "who is counted does not");
        // Whoever would have to wait no more makes room.
        let later = now + FORGET_EVERY;
        failures.failed(address("255.0.0.3"), later);
        assert_eq!(failures.activity().networks, 1);
        assert_eq!(wait(&failures, "255.0.0.2", "bad", later), None);
    }

    #[test]
    fn without_a_bound_nobody_waits() {
        let failures = AuthFailures::new(None);
        for _ in 0..1_000 {
            failures.failed(address(NEAR), failures.started);
        }
        assert!(failures.check(address(NEAR), "bad", failures.started).is_ok());
        assert_eq!(failures.activity().failed, 1_000);
    }
}
