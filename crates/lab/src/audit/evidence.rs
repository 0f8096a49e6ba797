//! Figures and claims, whatever they were read from. The same form is taken as
//! YAML, for the tables and sentences of a report that somebody published.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Phases, and what is claimed of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evidence {
    #[serde(default)]
    pub(crate) phases: Vec<Phase>,
    #[serde(default)]
    pub(crate) claims: Vec<Claim>,
}

/// One load test.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// Users who wait for their answers.
    pub(crate) users: Option<f64>,
    /// Their mean pause, in seconds; 0 when they do not pause.
    pub(crate) think_seconds: Option<f64>,
    /// Requests of an iteration, between two pauses.
    pub(crate) requests_per_pause: Option<f64>,
    pub(crate) minutes: Option<f64>,
    /// Whether the target's memory and descriptors were recorded.
    #[serde(default)]
    pub(crate) resources_measured: bool,
    /// Whether times are of all answers, or of those that succeeded.
    #[serde(default)]
    pub(crate) times_include_failures: bool,
    /// Why the lab says that the run means nothing.
    #[serde(default)]
    pub(crate) invalid: Vec<String>,
    /// How busy the busiest thread of the generator was, from 0 to 1.
    pub(crate) generator_busy: Option<f64>,
    #[serde(default)]
    pub(crate) total: Row,
    #[serde(default)]
    pub(crate) endpoints: BTreeMap<String, Row>,
}

/// Times in milliseconds, the rate per second.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) requests: Option<f64>,
    pub(crate) failures: Option<f64>,
    /// As it was stated, in percent.
    pub(crate) failures_percent: Option<f64>,
    pub(crate) rate: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) mean: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p95: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    /// How many different bodies there were; 3 stands for more.
    pub(crate) bodies: Option<u8>,
    /// Whether different requests should have had different answers.
    #[serde(default)]
    pub(crate) should_vary: bool,
}

/// What a report says.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Claim {
    /// What it would do with so many users.
    Projection { users: f64 },
    /// The time of all phases together.
    Duration { minutes: f64 },
    /// What it does in total.
    TotalRate { rate: f64 },
    /// Its best throughput.
    BestRate { rate: f64 },
    /// So many users make so many requests a second.
    Traffic { users: f64, calls_per_minute: f64, rate_from: f64, rate_to: f64 },
    /// A percentile stays below so many milliseconds.
    Below { percentile: Percentile, milliseconds: f64 },
    /// Nothing leaks.
    NoLeaks,
    /// It got slower or faster by a ratio, read from that column.
    Ratio { column: String },
    /// It is compared with a figure.
    Baseline { measured: bool },
    /// That is how long a component takes; what was timed stood in for it.
    Timed { component: String, stand_in: bool },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Percentile {
    P50,
    P95,
    P99,
}

impl Percentile {
    pub(crate) fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::P50 => row.p50,
            Self::P95 => row.p95,
            Self::P99 => row.p99,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
        }
    }
}

impl Row {
    /// From 0 to 1.
    pub(crate) fn failure_share(&self) -> Option<f64> {
        let counted = self.failures.zip(self.requests).filter(|(_, requests)| *requests > 0.0);
        let counted = counted.map(|(failures, requests)| failures / requests);
        counted.or_else(|| self.failures_percent.map(|percent| percent / 100.0))
    }
}

/// # Errors
/// Where it is wrong.
pub(super) fn read(text: &str) -> Result<Evidence, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
