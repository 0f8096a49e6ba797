//! One structured line per request, under the target `access`, so that it can be
//! filtered apart: `info` for what was answered, `warn` for answers of 500 and
//! above that are not mere overload. When the target is off a request pays one
//! atomic load.

use std::net::IpAddr;
use std::time::Duration;

use agentry_domain::KeyId;
use http::{Method, StatusCode};

use crate::request_id::RequestId;

/// The target of the line.
pub const TARGET: &str = "access";

/// What the line says.
#[derive(Debug)]
pub struct Line<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, without the query, which may hold what must not be logged.
    pub path: &'a str,
    /// The route's template; `unmatched` when there is none.
    pub route: &'a str,
    /// The answer's status; none when the client went away first.
    pub status: Option<StatusCode>,
    /// From the request's head to the end of the answer.
    pub elapsed: Duration,
    /// The request's id.
    pub request_id: &'a RequestId,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// Who asked.
    pub key: Option<KeyId>,
    /// What took how long.
    pub stages: Stages,
}

/// When the stages of a request ended, from its head on; none for those that it
/// did not reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// The caller was known.
    pub authenticated: Option<Duration>,
    /// There was a place to work on it, within the caller's limits.
    pub admitted: Option<Duration>,
    /// The answer's head was made.
    pub answered: Option<Duration>,
}

fn micros(stage: Option<Duration>) -> Option<u64> {
    stage.map(|stage| u64::try_from(stage.as_micros()).unwrap_or(u64::MAX))
}

/// Whether lines are written at all.
pub fn is_on() -> bool {
    tracing::event_enabled!(target: TARGET, tracing::Level::INFO)
}

/// Writes the line.
pub fn write(line: &Line<'_>) {
    macro_rules! event {
        ($level:expr) => {
            tracing::event!(
                target: TARGET,
                $level,
                method = line.method.as_str(),
                path = line.path,
                route = line.route,
                status = line.status.map(|status| status.as_u16()),
                cancelled = line.status.is_none(),
                duration_us = u64::try_from(line.elapsed.as_micros()).unwrap_or(u64::MAX),
                authenticated_us = micros(line.stages.authenticated),
                admitted_us = micros(line.stages.admitted),
                answered_us = micros(line.stages.answered),
                address = line.address.map(tracing::field::display),
                key = line.key.map(tracing::field::display),
                request_id = line.request_id.as_str(),
                "request answered"
            )
        };
    }
    match line.status {
        Some(status) if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
            event!(tracing::Level::WARN);
        }
        _ => event!(tracing::Level::INFO),
    }
}
