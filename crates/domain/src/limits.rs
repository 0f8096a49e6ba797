//! How much a caller may ask for: tiers, what is limited, and what a limit says.
//! The numbers are the configuration's; counting is behind the port
//! [`Limit`](crate::ports::Limit).

use std::num::NonZeroU32;
use std::time::Duration;

use crate::error::{Code, Error};
use crate::named;

named! {
    /// How much an organisation may ask for. Each tier's numbers are in the
    /// configuration.
    #[derive(Default, PartialOrd, Ord)]
    pub enum Tier {
        /// For trying out.
        Free = "free",
        /// What an organisation has unless its maker says otherwise.
        #[default]
        Standard = "standard",
        /// For those who agreed on more.
        Enterprise = "enterprise",
    }
}

named! {
    /// What kind of work a request is, as far as limits are concerned. What has no
    /// limit of its own is `Other`.
    pub enum Work {
        /// Reads.
        Read = "reads",
        /// Makes memories.
        MemoryCreate = "memory_creation",
        /// Starts runs.
        Run = "runs",
        /// Everything else.
        Other = "other",
    }
}

named! {
    /// Whose limit it is.
    pub enum Subject {
        /// That of one key or token holder.
        Key = "key",
        /// That of one key or token holder, for one kind of work.
        Work = "work",
        /// That of one end user.
        User = "user",
        /// That of an organisation.
        Org = "organisation",
        /// An organisation's for a day.
        Day = "day",
    }
}

/// A rate with the burst that it allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Requests a minute in the long run.
    pub per_minute: NonZeroU32,
    /// Requests at once at most.
    pub burst: NonZeroU32,
}

/// The numbers of a tier; what is none has no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TierLimits {
    /// Of each key.
    pub key: Option<Rate>,
    /// Of each end user.
    pub user: Option<Rate>,
    /// Of the organisation.
    pub org: Option<Rate>,
    /// Reads of each key.
    pub reads: Option<Rate>,
    /// Memories that each key makes.
    pub memory_creation: Option<Rate>,
    /// Runs that each key starts.
    pub runs: Option<Rate>,
    /// Requests of the organisation from midnight to midnight (UTC).
    pub daily_requests: Option<u64>,
}

impl TierLimits {
    /// The rate of a kind of work.
    pub fn of(&self, work: Work) -> Option<Rate> {
        match work {
            Work::Read => self.reads,
            Work::MemoryCreate => self.memory_creation,
            Work::Run => self.runs,
            Work::Other => None,
        }
    }
}

/// The numbers of every tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Of [`Tier::Free`].
    pub free: TierLimits,
    /// Of [`Tier::Standard`].
    pub standard: TierLimits,
    /// Of [`Tier::Enterprise`].
    pub enterprise: TierLimits,
}

impl Limits {
    /// The numbers of a tier.
    pub fn of(&self, tier: Tier) -> &TierLimits {
        match tier {
            Tier::Free => &self.free,
            Tier::Standard => &self.standard,
            Tier::Enterprise => &self.enterprise,
        }
    }
}

/// What is left of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Whose limit it is.
    pub subject: Subject,
    /// Requests that it allows at once, or in a day.
    pub limit: u64,
    /// How many more it would let through now.
    pub remaining: u64,
    /// Until it is whole again.
    pub reset: Duration,
}

impl Allowance {
    /// Of two limits the one that will say no sooner.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        if other.remaining < self.remaining { other } else { self }
    }

    /// What a caller is told whose limit is reached and lets the next one through
    /// after this long.
    pub fn refusal(&self, per: &str, retry_after: Duration) -> Error {
        let code = match self.subject {
            Subject::Day => Code::DailyQuotaExceeded,
            Subject::Key | Subject::Work | Subject::User | Subject::Org => Code::RateLimited,
        };
        let detail = format!("the limit of this {per} ({} requests) is reached", self.limit);
        Error::new(code, detail).retry_after(retry_after)
    }
}

/// How a request fares: what is left of its tightest limit, or that one is reached.
#[derive(Debug)]
pub struct Limited {
    /// What is left; none when nothing limits the caller.
    pub allowance: Option<Allowance>,
    /// Why it is refused; none when it is not.
    pub refused: Option<Error>,
}

impl Limited {
    /// Nothing limits the caller.
    pub const FREE: Self = Self { allowance: None, refused: None };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_is_told() {
        let left = |subject, remaining| Allowance {
            subject,
            limit: 100,
            remaining,
            reset: Duration::from_secs(1),
        };
        let tight = left(Subject::Key, 7).tighter(left(Subject::Org, 3));
        assert_eq!(tight.subject, Subject::Org);
        assert_eq!(tight.tighter(left(Subject::Day, 3)).subject, Subject::Org);
    }

    #[test]
    fn a_day_s_end_has_a_code_of_its_own() {
        for (subject, code) in [
            (Subject::Key, Code::RateLimited),
            (Subject::Work, Code::RateLimited),
            (Subject::User, Code::RateLimited),
            (Subject::Org, Code::RateLimited),
            (Subject::Day, Code::DailyQuotaExceeded),
        ] {
            let spent =
                Allowance { subject, limit: 5, remaining: 0, reset: Duration::from_secs(9) };
            let error = spent.refusal("key", Duration::from_secs(2));
            assert_eq!((error.code, error.retry_after), (code, Some(Duration::from_secs(2))));
        }
    }
}
