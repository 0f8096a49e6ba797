//! What the mock knows of itself: every delay as it really was, not as it was
//! drawn, so that a client's figures can be held against the truth.
//!
//! Exact: all values are kept, none is bucketed. Bounded: past
//! [`VALUES_MAX`] per name values are counted and not kept, and the record
//! says so.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

/// How many delays are kept for each name: 16 MB of them.
const VALUES_MAX: usize = 2_000_000;
/// How many names are kept.
const NAMES_MAX: usize = 64;

/// Delays by name, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Record {
    by_name: BTreeMap<String, Values>,
    not_kept: u64,
}

#[derive(Debug, Default)]
struct Values {
    ns: Vec<u64>,
    not_kept: u64,
}

impl Record {
    pub(crate) fn add(&mut self, name: &str, delay: Duration) {
        if !self.by_name.contains_key(name) {
            if self.by_name.len() == NAMES_MAX {
                self.not_kept += 1;
                return;
            }
            self.by_name.insert(name.to_owned(), Values::default());
        }
        let Some(values) = self.by_name.get_mut(name) else { return };
        if values.ns.len() == VALUES_MAX {
            values.not_kept += 1;
        } else {
            values.ns.push(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// `{names: {NAME: {count, not_kept, min_us, mean_us, p50_us, ...}}}`. The
    /// q-th percentile is the smallest value that q of all are not above.
    pub(crate) fn to_json(&self) -> Value {
        let names: serde_json::Map<String, Value> =
            self.by_name.iter().map(|(name, values)| (name.clone(), values.to_json())).collect();
        json!({ "names": names, "not_kept": self.not_kept })
    }
}

impl Values {
    fn to_json(&self) -> Value {
        let mut sorted = self.ns.clone();
        sorted.sort_unstable();
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |q: f64| {
            let rank = (q * sorted.len() as f64).ceil() as usize;
            us(sorted.get(rank.max(1) - 1).copied().unwrap_or_default())
        };
        let sum: u128 = sorted.iter().copied().map(u128::from).sum();
        json!({
            "count": sorted.len(),
            "not_kept": self.not_kept,
            "min_us": at(0.0),
            "mean_us": sum as f64 / 1e3 / sorted.len().max(1) as f64,
            "p50_us": at(0.5),
            "p90_us": at(0.9),
            "p95_us": at(0.95),
            "p99_us": at(0.99),
            "p99_9_us": at(0.999),
            "max_us": at(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let mut record = Record::default();
        for ms in (1..=1000).rev() {
            record.add("/", Duration::from_millis(ms));
        }
        let shown = &record.to_json()["names"]["/"];
        assert_eq!(shown["count"], 1000);
        assert_eq!(shown["p50_us"], 500_000.0);
        assert_eq!(shown["p99_us"], 990_000.0);
        assert_eq!(shown["p99_9_us"], 999_000.0);
        assert_eq!(shown["min_us"], 1000.0);
        assert_eq!(shown["max_us"], 1_000_000.0);
        record.clear();
        assert_eq!(record.to_json()["names"], json!({}));
    }
}
