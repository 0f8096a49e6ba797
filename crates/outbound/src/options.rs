//! The settings of the client. Times are whole milliseconds so that a
//! configuration file can hold them as they are.

use std::time::Duration;

use crate::breaker::BreakerRules;
use crate::guard::Guard;

/// How long calls may wait and how large answers may become.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Name resolution, TCP and TLS together.
    pub connect_timeout_ms: u64,
    /// From the start of a call, connecting included, to the answer's headers.
    /// A model that does not stream is silent until it has written everything.
    pub first_byte_timeout_ms: u64,
    /// Between two pieces of an answer's body.
    pub idle_timeout_ms: u64,
    /// The largest body that is read, in bytes.
    pub response_bytes_max: u64,
    /// Unused connections that are kept for each host.
    pub idle_connections_per_host_max: usize,
    /// How long an unused connection is kept.
    pub idle_connection_ms: u64,
    /// How often a call to an upstream is sent again at most.
    pub retries_max: u32,
    /// Retries of an upstream as a share of its calls, in percent.
    pub retry_budget_percent: u32,
    /// The longest wait before the first retry; doubled for each further one. How long
    /// it is within that is chance.
    pub retry_wait_ms: u64,
    /// The longest wait before a retry, also when the upstream asks for more: then the
    /// call fails and says so.
    pub retry_wait_max_ms: u64,
    /// Newest calls of an upstream that its breaker looks at.
    pub breaker_window_calls: usize,
    /// Failures among them that open it, if they are half of them.
    pub breaker_failures_min: usize,
    /// How long it stays open the first time.
    pub breaker_open_ms: u64,
    /// Calls that have to succeed, one after the other, before more go out.
    pub breaker_probes: u32,
    /// Calls that have to succeed in each of the three steps after that.
    pub breaker_ramp_calls: u32,
    /// Whether guarded calls may go to this machine's own loopback addresses.
    pub loopback_targets_allowed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 120_000,
            idle_timeout_ms: 60_000,
            response_bytes_max: 16 * 1024 * 1024,
            idle_connections_per_host_max: 64,
            // Longer than bursts are apart, shorter than most servers and the
            // load balancers before them keep a silent connection.
            idle_connection_ms: 30_000,
            retries_max: 2,
            retry_budget_percent: 20,
            retry_wait_ms: 250,
            retry_wait_max_ms: 10_000,
            breaker_window_calls: 20,
            breaker_failures_min: 10,
            breaker_open_ms: 5_000,
            breaker_probes: 2,
            breaker_ramp_calls: 5,
            loopback_targets_allowed: false,
        }
    }
}

impl Options {
    /// Which targets guarded calls may go to.
    pub fn guard(&self) -> Guard {
        Guard { loopback_allowed: self.loopback_targets_allowed }
    }

    pub(crate) fn breaker_rules(&self) -> BreakerRules {
        BreakerRules {
            window_calls: self.breaker_window_calls.max(1),
            failures_min: self.breaker_failures_min.max(1),
            open: Duration::from_millis(self.breaker_open_ms),
            probes: self.breaker_probes.max(1),
            ramp_calls: self.breaker_ramp_calls.max(1),
        }
    }

    /// How long to wait before a retry, after so many: chance within a bound that
    /// doubles, so that those who failed together do not come back together.
    pub(crate) fn retry_wait(&self, retries: u32) -> Duration {
        let bound = self.retry_wait_ms.saturating_mul(1 << retries.min(16));
        let bound = bound.min(self.retry_wait_max_ms);
        Duration::from_millis(rand::random_range(0..=bound))
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn first_byte_timeout(&self) -> Duration {
        Duration::from_millis(self.first_byte_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }
}
