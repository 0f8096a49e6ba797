//! HDR histograms of durations, in nanoseconds, with three significant digits.
//! Written they are text in HdrHistogram's own V2 encoding (deflated, base64),
//! which its tools in any language read.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::de::Error as _;
use serde::ser::Error as _;

/// Values below are not told apart: 512 ns after rounding to a power of two.
const LOWEST_NS: u64 = 1_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// A histogram that grows with its largest value, never with their number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sketch {
    ns: Histogram<u64>,
}

impl Default for Sketch {
    fn default() -> Self {
        // Both bounds are constants that the library takes.
        let made = Histogram::new_with_bounds(LOWEST_NS, 2 * LOWEST_NS, SIGNIFICANT_DIGITS);
        let mut ns = made.unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        ns.auto(true);
        Self { ns }
    }
}

impl Sketch {
    pub(crate) fn record(&mut self, duration: Duration) {
        // Durations are below 2^63 ns, 292 years, so that it can always grow.
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 1);
        // Only `record` grows; saturating would clamp to what fits now.
        let recorded = self.ns.record(ns);
        debug_assert!(recorded.is_ok(), "it grows up to the largest duration");
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let added = self.ns.add(&other.ns);
        debug_assert!(added.is_ok(), "both grow by themselves");
    }

    pub(crate) fn count(&self) -> u64 {
        self.ns.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ns.is_empty()
    }

    /// The value that the share `q` of all is not above, in seconds. Exact
    /// up to a thousandth of it.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        self.ns.value_at_quantile(q) as f64 / 1e9
    }

    pub(crate) fn mean(&self) -> f64 {
        self.ns.mean() / 1e9
    }

    pub(crate) fn min(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.ns.min() as f64 / 1e9 }
    }

    pub(crate) fn max(&self) -> f64 {
        self.ns.max() as f64 / 1e9
    }
}

impl serde::Serialize for Sketch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.ns, &mut bytes).map_err(S::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> serde::Deserialize<'de> for Sketch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let read = Deserializer::new().deserialize(&mut bytes.as_slice());
        let mut ns: Histogram<u64> = read.map_err(D::Error::custom)?;
        ns.auto(true);
        Ok(Self { ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl Iterator<Item = u64>) -> Sketch {
        let mut sketch = Sketch::default();
        values.for_each(|us| sketch.record(Duration::from_micros(us)));
        sketch
    }

    #[test]
    fn merged_halves_are_the_whole() {
        let all = of((1..=100_000).map(|n| n * 17 % 90_001));
        let mut merged = of((1..=40_000).map(|n| n * 17 % 90_001));
        merged.merge(&of((40_001..=100_000).map(|n| n * 17 % 90_001)));
        assert_eq!(merged.count(), 100_000);
        for q in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(merged.quantile(q), all.quantile(q), "{q}");
        }
    }

    #[test]
    fn quantiles_are_right_to_a_thousandth() {
        let sketch = of(1..=1_000_000);
        for q in [0.01, 0.5, 0.95, 0.99, 0.999] {
            let exact = q;
            let found = sketch.quantile(q);
            assert!((found / exact - 1.0).abs() < 0.0011, "{q}: {found}");
        }
    }

    #[test]
    fn text_holds_everything() {
        let sketch = of([1, 20, 300, 4_000_000].into_iter());
        let text = serde_json::to_string(&sketch).unwrap();
        assert!(text.len() < 400, "{text}");
        let read: Sketch = serde_json::from_str(&text).unwrap();
        assert_eq!(read, sketch);
        assert!(serde_json::from_str::<Sketch>("\"AAAA\"").is_err());
    }
}
