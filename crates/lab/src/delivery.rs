//! What a subscriber was owed and what it got: messages carry a number that
//! grows by one (for each source, when there are several), so that one that is
//! missing, comes twice or comes late can be told. It does no I/O.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Sources that one subscriber tells apart; messages of further ones are
/// counted and not followed.
const SOURCES_MAX: usize = 10_000;
/// Missing numbers that one subscriber waits for; those that find no room are
/// lost at once.
const MISSING_MAX: usize = 10_000;

/// One subscriber's account. It outlives its connections.
#[derive(Debug, Default)]
pub(crate) struct Account {
    sources: HashMap<String, Source>,
    missing: usize,
}

#[derive(Debug, Default)]
struct Source {
    next: u64,
    missing: BTreeSet<u64>,
}

/// What one message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// The first of its source: whatever came before was not owed.
    First,
    /// The one that was due.
    InOrder,
    /// Later than one that was sent after it.
    Late,
    /// A second time.
    Again,
    /// Some before it have not come; so many found no room to be waited for.
    Early { lost: u64 },
    /// Of a source too many.
    NotFollowed,
}

impl Account {
    pub(crate) fn take(&mut self, source: &str, number: u64) -> Delivered {
        let Some(account) = self.sources.get_mut(source) else {
            if self.sources.len() == SOURCES_MAX {
                return Delivered::NotFollowed;
            }
            let next = number.saturating_add(1);
            self.sources.insert(source.to_owned(), Source { next, ..Source::default() });
            return Delivered::First;
        };
        if number < account.next {
            if account.missing.remove(&number) {
                self.missing -= 1;
                return Delivered::Late;
            }
            return Delivered::Again;
        }
        let gap = number - account.next;
        let room = (MISSING_MAX - self.missing) as u64;
        let waited_for = gap.min(room);
        // The newest are the likeliest to come still.
        account.missing.extend(number - waited_for..number);
        self.missing += usize::try_from(waited_for).unwrap_or(usize::MAX);
        account.next = number.saturating_add(1);
        if gap == 0 { Delivered::InOrder } else { Delivered::Early { lost: gap - waited_for } }
    }

    /// How many have not come, now that nothing will come any more.
    pub(crate) fn end(&mut self) -> u64 {
        self.sources.clear();
        std::mem::take(&mut self.missing) as u64
    }
}

/// A moment that a message carries: RFC 3339, or a number since 1970 in
/// seconds, milliseconds, microseconds or nanoseconds, whichever puts it
/// between 1973 and 5138.
pub(crate) fn moment(value: &Value) -> Option<SystemTime> {
    if let Some(text) = value.as_str()
        && let Ok(moment) = text.parse::<jiff::Timestamp>()
    {
        return Some(moment.into());
    }
    let number = match value {
        Value::String(text) => text.parse().ok()?,
        other => other.as_f64()?,
    };
    let per_second = match number {
        1e8..1e11 => 1.0,
        1e11..1e14 => 1e3,
        1e14..1e17 => 1e6,
        1e17..1e20 => 1e9,
        _ => return None,
    };
    Some(UNIX_EPOCH + Duration::try_from_secs_f64(number / per_second).ok()?)
}

/// The number that a message carries.
pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_twice_or_late_is_told() {
        let mut account = Account::default();
        let took: Vec<Delivered> =
            [7, 8, 8, 11, 9, 9, 12].into_iter().map(|n| account.take("", n)).collect();
        let early = Delivered::Early { lost: 0 };
        let (first, next) = (Delivered::First, Delivered::InOrder);
        let (late, again) = (Delivered::Late, Delivered::Again);
        assert_eq!(took, [first, next, again, early, late, again, next]);
        // 10 alone never came; another source has numbers of its own.
        assert_eq!(account.take("other", 3), Delivered::First);
        assert_eq!((account.end(), account.end()), (1, 0));
    }

    #[test]
    fn what_is_waited_for_is_bounded_and_the_rest_lost_at_once() {
        let mut account = Account::default();
        account.take("", 0);
        let gap = MISSING_MAX as u64 + 5;
        assert_eq!(account.take("", gap + 1), Delivered::Early { lost: 5 });
        assert_eq!(account.take("", gap), Delivered::Late);
        assert_eq!(account.take("", 1), Delivered::Again, "it was given up");
        assert_eq!(account.end(), MISSING_MAX as u64 - 1);
        assert_eq!(account.take("", u64::MAX), Delivered::First);
        for n in 1..SOURCES_MAX {
            account.take(&n.to_string(), 0);
        }
        assert_eq!(account.take("one too many", 0), Delivered::NotFollowed);
    }

    #[test]
    fn moments_are_read_in_every_unit() {
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        for value in [
            json!("2023-11-14T22:13:20.25Z"),
            json!(1_700_000_000.25),
            json!(1_700_000_000_250_u64),
            json!(1_700_000_000_250_000_u64),
            json!("1700000000250000"),
        ] {
            assert_eq!(moment(&value), Some(at), "{value}");
        }
        for value in [json!("soon"), json!(7), json!(null), json!(-1e12)] {
            assert_eq!(moment(&value), None, "{value}");
        }
        assert_eq!(
            (number(&json!("12")), number(&json!(12)), number(&json!(-1))),
            (Some(12), Some(12), None)
        );
    }
}
