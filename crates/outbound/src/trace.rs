//! The span of a call, for traces, and how whoever is called hears of it. Off, and
//! nothing is sent, unless the process collects traces.

use std::sync::OnceLock;

use http::HeaderMap;
use reqwest::Url;
use tracing::Span;

/// Names the current span in a call's headers.
type Carry = fn(&mut HeaderMap);

static CARRY: OnceLock<Carry> = OnceLock::new();

/// Says how calls name their span. The first one counts.
pub fn carry_with(carry: Carry) {
    let _ = CARRY.set(carry);
}

/// The span of a call (OpenTelemetry's semantic conventions for HTTP clients). Not
/// the path: it may hold what is nobody's business.
pub(crate) fn span(method: &str, url: &Url) -> Span {
    tracing::trace_span!(
        target: "traces",
        "call",
        otel.name = method,
        otel.kind = "client",
        http.request.method = method,
        server.address = url.host_str(),
    )
}

/// Names the current span in a call's headers, if it is collected.
pub(crate) fn carry(headers: &mut HeaderMap) {
    if let Some(carry) = CARRY.get().filter(|_| !Span::current().is_disabled()) {
        carry(headers);
    }
}
