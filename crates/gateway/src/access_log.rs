//! One structured line per request, under the target `access`, so that it can be
//! filtered apart: `info` for what was answered, `warn` for answers of 500 and
//! above that are not mere overload. When the target is off a request pays one
//! atomic load.

use std::time::Duration;

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
