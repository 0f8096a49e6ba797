//! The settings of the client. Times are whole milliseconds so that a
//! configuration file can hold them as they are.

use std::time::Duration;

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
            loopback_targets_allowed: false,
        }
    }
}

impl Options {
    /// Which targets guarded calls may go to.
    pub fn guard(&self) -> Guard {
        Guard { loopback_allowed: self.loopback_targets_allowed }
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
