//! The span of a request, for traces. Its level keeps it out of every log; without
//! a collector it is off, and costs one look at a static.

use std::sync::OnceLock;

use http::{HeaderMap, Method, StatusCode};
use tracing::Span;
use tracing::field::Empty;

/// Makes the span that a request's headers name the parent of a span.
type Link = fn(&Span, &HeaderMap);

static LINK: OnceLock<Link> = OnceLock::new();

/// Says how spans of requests find their parents. The first one counts.
pub fn link_with(link: Link) {
    let _ = LINK.set(link);
}

/// The span of a request (OpenTelemetry's semantic conventions for HTTP servers).
pub(crate) fn span(method: &Method, path: &str, route: &str, headers: &HeaderMap) -> Span {
    let span = tracing::trace_span!(
        target: "traces",
        "request",
        otel.name = Empty,
        otel.kind = "server",
        http.request.method = %method,
        http.route = route,
        url.path = path,
        http.response.status_code = Empty,
        otel.status_code = Empty,
    );
    if !span.is_disabled() {
        span.record("otel.name", format!("{method} {route}"));
        if let Some(link) = LINK.get() {
            link(&span, headers);
        }
    }
    span
}

/// Says how the request was answered.
pub(crate) fn answered(span: &Span, status: StatusCode) {
    if !span.is_disabled() {
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
    }
}
