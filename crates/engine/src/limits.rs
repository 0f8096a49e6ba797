//! How much each caller may ask for, counted in this process: rates of keys, end
//! users, organisations and kinds of work (GCRA), and requests of a day.
//!
//! The day's requests are added up in memory and in the store, where other
//! processes add theirs: after a restart the day goes on where it was, less what
//! was not written down yet (half a second of it after a crash). Rates begin anew.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::limits::{Allowance, Limited, Limits, Rate, Subject, TierLimits, Work};
use agentry_domain::ports::Limit;
use agentry_domain::{Caller, Error, KeyId, OrgId, Result, Tier, Timestamp};
use async_trait::async_trait;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::Engine;

/// How long the day's requests are gathered before they are written down.
const QUOTAS_GATHERED_FOR: Duration = Duration::from_millis(500);
/// How often what limits know of callers who are as good as new is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// End users whose rates are known at once; those beyond share one rate for each
/// organisation.
const USERS_KNOWN_MAX: usize = 200_000;
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Distinguishes hashes of users from everything else that is hashed.
const USER_CONTEXT: &str = "agentry 2026-11 rate of an end user";

type Id = [u8; 16];

/// One rate, for many ids.
struct Rates {
    limiter: RateLimiter<Id, DashMapStateStore<Id>, DefaultClock, StateInformationMiddleware>,
    burst: u64,
    /// How long until one more request is let through.
    interval: Duration,
}

impl Rates {
    fn new(rate: Rate) -> Self {
        let quota = Quota::per_minute(rate.per_minute).allow_burst(rate.burst);
        Self {
            limiter: RateLimiter::dashmap(quota).with_middleware(),
            burst: u64::from(rate.burst.get()),
            interval: quota.replenish_interval(),
        }
    }

    /// Counts a request: what is left, or the allowance that is spent and when it
    /// lets the next one through.
    fn take(&self, subject: Subject, id: &Id) -> Result<Allowance, (Allowance, Duration)> {
        let left = |remaining: u64| Allowance {
            subject,
            limit: self.burst,
            remaining,
            reset: self.interval * u32::try_from(self.burst - remaining).unwrap_or(u32::MAX),
        };
        match self.limiter.check_key(id) {
            Ok(state) => Ok(left(u64::from(state.remaining_burst_capacity()).min(self.burst))),
            Err(refused) => Err((left(0), refused.wait_time_from(self.limiter.clock().now()))),
        }
    }
}

/// The rates of one tier.
#[derive(Default)]
struct TierRates {
    key: Option<Rates>,
    user: Option<Rates>,
    org: Option<Rates>,
    reads: Option<Rates>,
    memory_creation: Option<Rates>,
    runs: Option<Rates>,
}

impl TierRates {
    fn new(limits: &TierLimits) -> Self {
        Self {
            key: limits.key.map(Rates::new),
            user: limits.user.map(Rates::new),
            org: limits.org.map(Rates::new),
            reads: limits.reads.map(Rates::new),
            memory_creation: limits.memory_creation.map(Rates::new),
            runs: limits.runs.map(Rates::new),
        }
    }

    fn of(&self, work: Work) -> Option<&Rates> {
        match work {
            Work::Read => self.reads.as_ref(),
            Work::MemoryCreate => self.memory_creation.as_ref(),
            Work::Run => self.runs.as_ref(),
            Work::Other => None,
        }
    }

    fn each(&self) -> impl Iterator<Item = &Rates> {
        [&self.key, &self.user, &self.org, &self.reads, &self.memory_creation, &self.runs]
            .into_iter()
            .flatten()
    }
}

/// An organisation's requests of a day.
struct DayCount {
    /// Days since 1970.
    day: i64,
    /// As far as it was written down, by every process.
    stored: AtomicU64,
    /// Of this process, since.
    taken: AtomicU64,
}

/// What this process knows of how much was asked for.
pub(crate) struct Counted {
    limits: Limits,
    tiers: [TierRates; 3],
    days: RwLock<HashMap<OrgId, Arc<DayCount>>>,
    asked: Notify,
    /// Too many users are known.
    users_full: AtomicBool,
    refused: [AtomicU64; Subject::ALL.len()],
}

/// What limits did so far, for the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitActivity {
    /// Requests that were refused, by whose limit it was.
    pub refused: Vec<(Subject, u64)>,
    /// Keys, users and organisations whose rates are remembered.
    pub remembered: usize,
}

impl Counted {
    pub(crate) fn new(limits: Limits) -> Self {
        let rates = |tier| TierRates::new(limits.of(tier));
        Self {
            limits,
            tiers: [rates(Tier::Free), rates(Tier::Standard), rates(Tier::Enterprise)],
            days: RwLock::default(),
            asked: Notify::new(),
            users_full: AtomicBool::new(false),
            refused: Default::default(),
        }
    }

    fn rates(&self, tier: Tier) -> &TierRates {
        &self.tiers[tier as usize]
    }

    /// Says that a limit is reached.
    fn refuse(&self, spent: Allowance, retry_after: Duration) -> Limited {
        self.refused[spent.subject as usize].fetch_add(1, Ordering::Relaxed);
        let per = spent.subject.as_str();
        let refused = Some(spent.refusal(per, retry_after));
        Limited { allowance: Some(spent), refused }
    }

    /// From the narrowest to the widest, so that who is over the own limit takes
    /// nothing from the others of the organisation.
    fn check_rates(&self, caller: &Caller, tier: Tier, work: Work) -> Limited {
        let rates = self.rates(tier);
        let key = caller.key.map_or([0; 16], KeyId::to_bytes);
        let org = caller.org.to_bytes();
        let mut tightest: Option<Allowance> = None;
        for (subject, rates, id) in [
            (Subject::Work, rates.of(work), &key),
            (Subject::Key, rates.key.as_ref(), &key),
            (Subject::Org, rates.org.as_ref(), &org),
        ] {
            let Some(rates) = rates else { continue };
            match rates.take(subject, id) {
                Ok(left) => tightest = Some(tightest.map_or(left, |so_far| so_far.tighter(left))),
                Err((spent, retry_after)) => return self.refuse(spent, retry_after),
            }
        }
        Limited { allowance: tightest, refused: None }
    }

    fn activity(&self) -> LimitActivity {
        let refused = Subject::ALL
            .iter()
            .map(|subject| (*subject, self.refused[*subject as usize].load(Ordering::Relaxed)));
        let remembered =
            self.tiers.iter().flat_map(TierRates::each).map(|rates| rates.limiter.len()).sum();
        LimitActivity { refused: refused.collect(), remembered }
    }

    /// Forgets what makes no difference any more.
    fn forget(&self, today: i64) {
        for rates in self.tiers.iter().flat_map(TierRates::each) {
            rates.limiter.retain_recent();
            rates.limiter.shrink_to_fit();
        }
        let users: usize =
            self.tiers.iter().filter_map(|tier| tier.user.as_ref()).map(|r| r.limiter.len()).sum();
        self.users_full.store(users >= USERS_KNOWN_MAX, Ordering::Relaxed);
        let is_old =
            |count: &DayCount| count.day < today && count.taken.load(Ordering::Relaxed) == 0;
        self.days.write().retain(|_, count| !is_old(count));
    }
}

fn day_of(now: Timestamp) -> i64 {
    now.micros().div_euclid(i64::try_from(DAY.as_micros()).unwrap_or(i64::MAX))
}

/// Until the day ends.
fn left_of_day(now: Timestamp) -> Duration {
    let day = i64::try_from(DAY.as_micros()).unwrap_or(i64::MAX);
    Duration::from_micros((day - now.micros().rem_euclid(day)).unsigned_abs())
}

#[async_trait]
impl Limit for Engine {
    async fn check(&self, caller: &Caller, work: Work) -> Limited {
        let Some(tier) = caller.tier else { return Limited::FREE };
        let counted = &self.0.counted;
        let limited = counted.check_rates(caller, tier, work);
        let Some(max) = counted.limits.of(tier).daily_requests else { return limited };
        if limited.refused.is_some() {
            return limited;
        }
        let now = self.now();
        let count = match self.day_count(caller.org, day_of(now)).await {
            Ok(count) => count,
            Err(error) => return Limited { refused: Some(error), ..limited },
        };
        let before =
            count.taken.fetch_add(1, Ordering::Relaxed) + count.stored.load(Ordering::Relaxed);
        let remaining = max.saturating_sub(before + 1);
        let reset = left_of_day(now);
        let left = Allowance { subject: Subject::Day, limit: max, remaining, reset };
        if before >= max {
            count.taken.fetch_sub(1, Ordering::Relaxed);
            return counted.refuse(left, reset);
        }
        counted.asked.notify_one();
        let allowance = limited.allowance.map_or(left, |rate| rate.tighter(left));
        Limited { allowance: Some(allowance), refused: None }
    }
}

impl Engine {
    /// Counts a request of an end user; an error when the user's rate is reached.
    pub(crate) fn limit_user(&self, caller: &Caller, user_id: Option<&str>) -> Result<()> {
        let (Some(tier), Some(user_id)) = (caller.tier, user_id) else { return Ok(()) };
        let counted = &self.0.counted;
        let Some(rates) = &counted.rates(tier).user else { return Ok(()) };
        let mut hasher = blake3::Hasher::new_derive_key(USER_CONTEXT);
        hasher.update(&caller.org.to_bytes());
        if !counted.users_full.load(Ordering::Relaxed) {
            hasher.update(user_id.as_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        match rates.take(Subject::User, &id) {
            Ok(_) => Ok(()),
            Err((spent, retry_after)) => {
                let refused = counted.refuse(spent, retry_after).refused;
                Err(refused.unwrap_or_else(|| Error::internal("a refusal without an error")))
            }
        }
    }

    /// What limits did so far.
    pub fn limit_activity(&self) -> LimitActivity {
        self.0.counted.activity()
    }

    async fn day_count(&self, org: OrgId, day: i64) -> Result<Arc<DayCount>> {
        let days = &self.0.counted.days;
        let known = || days.read().get(&org).filter(|count| count.day == day).map(Arc::clone);
        if let Some(count) = known() {
            return Ok(count);
        }
        let stored = self.0.store.quota_get(org, day).await?;
        let mut days = days.write();
        match days.get(&org) {
            // Somebody else looked meanwhile.
            Some(count) if count.day == day => Ok(Arc::clone(count)),
            _ => {
                let (stored, taken) = (AtomicU64::new(stored), AtomicU64::new(0));
                let count = Arc::new(DayCount { day, stored, taken });
                days.insert(org, Arc::clone(&count));
                Ok(count)
            }
        }
    }

    /// Writes down how much was asked for, soon after it was, until this process
    /// stops, and then what is left.
    pub(crate) async fn keep_quotas(&self) {
        let stopping = self.0.tasks.stopping().clone();
        let mut forget_at = tokio::time::Instant::now() + FORGET_EVERY;
        while !stopping.is_cancelled() {
            let asked = async {
                tokio::select! {
                    () = self.0.counted.asked.notified() => {}
                    () = tokio::time::sleep_until(forget_at) => {}
                }
                tokio::time::sleep(QUOTAS_GATHERED_FOR).await;
            };
            stopping.run_until_cancelled(asked).await;
            if let Err(error) = self.quotas_write().await {
                tracing::warn!(error = %error.chain(), "the day's requests could not be noted");
            }
            if tokio::time::Instant::now() >= forget_at {
                self.0.counted.forget(day_of(self.now()));
                forget_at = tokio::time::Instant::now() + FORGET_EVERY;
            }
        }
    }

    async fn quotas_write(&self) -> Result<()> {
        let days: Vec<(OrgId, Arc<DayCount>)> = {
            let days = self.0.counted.days.read();
            days.iter().map(|(org, count)| (*org, Arc::clone(count))).collect()
        };
        for (org, count) in days {
            let taken = count.taken.load(Ordering::Relaxed);
            if taken == 0 {
                continue;
            }
            let stored = self.0.store.quota_add(org, count.day, taken).await?;
            count.taken.fetch_sub(taken, Ordering::Relaxed);
            count.stored.store(stored, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The limits that hold when nothing else is configured.
pub fn limits_default() -> Limits {
    let rate =
        |per_minute: u32, burst: u32| match (NonZeroU32::new(per_minute), NonZeroU32::new(burst)) {
            (Some(per_minute), Some(burst)) => Some(Rate { per_minute, burst }),
            _ => None,
        };
    let tier = |per_minute: u32, daily_requests| TierLimits {
        key: rate(per_minute, per_minute / 5),
        user: rate(per_minute / 2, per_minute / 10),
        org: rate(per_minute * 10, per_minute * 2),
        reads: None,
        memory_creation: rate(per_minute / 2, per_minute / 10),
        runs: rate(per_minute / 2, per_minute / 10),
        daily_requests,
    };
    Limits {
        free: tier(100, Some(10_000)),
        standard: tier(1_000, Some(1_000_000)),
        enterprise: tier(60_000, None),
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::{Code, Role};

    use super::*;

    fn rate(per_minute: u32, burst: u32) -> Option<Rate> {
        let (per_minute, burst) = (NonZeroU32::new(per_minute)?, NonZeroU32::new(burst)?);
        Some(Rate { per_minute, burst })
    }

    fn caller(org: u8, key: u8) -> Caller {
        let (org, key) = (OrgId::from_bytes([org; 16]), KeyId::from_bytes([key; 16]));
        Caller { tier: Some(Tier::Standard), ..Caller::of(org, Some(key), Role::Member) }
    }

    fn counted(standard: TierLimits) -> Counted {
        Counted::new(Limits { standard, ..Limits::default() })
    }

    #[test]
    fn a_key_is_held_to_its_rate_and_others_are_not() {
        let counted = counted(TierLimits { key: rate(1, 3), ..TierLimits::default() });
        let check = |key| counted.check_rates(&caller(1, key), Tier::Standard, Work::Other);
        for remaining in [2, 1, 0] {
            let allowance = check(1).allowance.unwrap();
            assert_eq!((allowance.remaining, allowance.limit), (remaining, 3));
        }
        let refused = check(1).refused.unwrap();
        assert_eq!(refused.code, Code::RateLimited);
        let after = refused.retry_after.unwrap();
        assert!((Duration::from_secs(55)..=Duration::from_secs(60)).contains(&after), "{after:?}");
        assert_eq!(check(2).allowance.unwrap().remaining, 2);
        let key = counted.activity().refused[Subject::Key as usize];
        assert_eq!(key, (Subject::Key, 1));
    }

    #[test]
    fn who_is_over_the_own_limit_takes_nothing_from_the_organisation() {
        let limits = TierLimits { key: rate(1, 1), org: rate(1, 3), ..TierLimits::default() };
        let counted = counted(limits);
        let check = |key| counted.check_rates(&caller(1, key), Tier::Standard, Work::Other);
        for _ in 0..10 {
            check(1);
        }
        assert!(check(2).refused.is_none());
        assert!(check(3).refused.is_none());
        let refused = check(4).refused.unwrap();
        assert!(refused.detail.contains("organisation"), "{}", refused.detail);
        let elsewhere = counted.check_rates(&caller(2, 9), Tier::Standard, Work::Other);
        assert!(elsewhere.refused.is_none());
    }

    #[test]
    fn each_kind_of_work_has_its_rate() {
        let limits = TierLimits { key: rate(60, 100), runs: rate(1, 2), ..TierLimits::default() };
        let counted = counted(limits);
        let check = |work| counted.check_rates(&caller(1, 1), Tier::Standard, work);
        assert!(check(Work::Run).refused.is_none());
        assert_eq!(check(Work::Run).allowance.unwrap().subject, Subject::Work);
        assert!(check(Work::Run).refused.is_some());
        assert!(check(Work::Read).refused.is_none());
        assert!(check(Work::MemoryCreate).refused.is_none());
    }

    #[test]
    fn a_day_ends_at_midnight() {
        let day = i64::try_from(DAY.as_micros()).unwrap();
        let at = |micros| Timestamp::from_micros(micros);
        assert_eq!((day_of(at(day - 1)), day_of(at(day))), (0, 1));
        assert_eq!(left_of_day(at(day - 1)), Duration::from_micros(1));
        assert_eq!(left_of_day(at(day)), DAY);
    }
}
