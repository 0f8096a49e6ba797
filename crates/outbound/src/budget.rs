//! How many calls may be sent again: a share of those that were sent at first, so
//! that retries cannot multiply the load on an upstream that is down. Each call
//! puts its share in, each retry takes a whole one out; there is nothing in it at
//! the beginning, so that the share is never exceeded, not even by the first calls.

/// Shares of a call are counted in hundredths.
const CALL: u64 = 100;
/// Retries that may be saved up for a burst of failures.
const SAVED_RETRIES_MAX: u64 = 20;

/// The budget of one upstream.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    saved: u64,
}

impl RetryBudget {
    /// Retries for this share of the calls, in percent.
    pub fn new(percent: u32) -> Self {
        Self { percent: percent.into(), saved: 0 }
    }

    /// A call is sent for the first time.
    pub fn earn(&mut self) {
        self.saved = (self.saved + self.percent).min(SAVED_RETRIES_MAX * CALL);
    }

    /// Takes a retry, if there is one.
    pub fn spend(&mut self) -> bool {
        let left = self.saved.checked_sub(CALL);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_never_more_than_their_share() {
        let mut budget = RetryBudget::new(20);
        let mut retries = 0;
        for calls in 1..=1_000_u64 {
            budget.earn();
            while budget.spend() {
                retries += 1;
            }
            assert!(retries * 100 <= calls * 20, "{retries} of {calls}");
        }
        assert_eq!(retries, 200);
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let mut budget = RetryBudget::new(20);
        for _ in 0..100_000 {
            budget.earn();
        }
        let mut retries = 0;
        while budget.spend() {
            retries += 1;
        }
        assert_eq!(retries, SAVED_RETRIES_MAX);
        assert!(!RetryBudget::new(0).spend());
    }
}
