//! The server about itself: health, readiness, metrics, the OpenAPI document.

use agentry_domain::Error;
use agentry_gateway::metrics;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::{Handled, json};
use crate::state::ApiState;

/// That the process answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The server's version.
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// Whether the process answers
#[utoipa::path(
    get,
    path = "/health",
    tag = "server",
    responses((status = 200, description = "It does.", body = Health)),
)]
pub async fn health_get() -> Handled {
    json(StatusCode::OK, &Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Whether the server should be sent requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    /// `ready` or `not_ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// What was looked at.
    checks: Vec<ReadyCheck>,
}

/// One thing that must hold for the server to be ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadyCheck {
    /// Its name.
    name: &'static str,
    /// Whether it holds.
    ok: bool,
    /// Why not, or what is to be known of it all the same.
    detail: Option<String>,
}

/// Whether the server should be sent requests
#[utoipa::path(
    get,
    path = "/ready",
    tag = "server",
    responses(
        (status = 200, description = "It should.", body = Ready),
        (status = 503, description = "It should not; the checks say why.", body = Ready),
    ),
)]
pub async fn ready_get(State(state): State<ApiState>) -> Handled {
    let report = state.readiness.report();
    let checks = report.checks.into_iter().map(|check| ReadyCheck {
        name: check.name,
        ok: check.problem.is_none(),
        detail: check.problem.or(check.note).map(std::borrow::Cow::into_owned),
    });
    let (code, status) = if report.ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    json(code, &Ready { status, checks: checks.collect() })
}

/// The server's metrics
///
/// In OpenMetrics' text format, or in Prometheus' older one for who accepts that alone.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "server",
    responses((
        status = 200,
        description = "The metrics.",
        content((String = "application/openmetrics-text"), (String = "text/plain")),
    )),
)]
pub async fn metrics_get(State(state): State<ApiState>, headers: HeaderMap) -> Handled {
    let text = state.metrics.encode().map_err(Error::internal)?;
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let accepted = accepted.unwrap_or_default();
    if accepted.contains("text/plain") && !accepted.contains("openmetrics") {
        let media_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE_PLAIN)];
        return Ok((media_type, metrics::plain(&text)).into_response());
    }
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "server",
    responses((status = 200, description = "The OpenAPI document.", body = Object)),
)]
pub async fn openapi_get(State(state): State<ApiState>) -> Handled {
    let media_type = HeaderValue::from_static("application/json");
    let document = state.document.clone().map_err(Error::internal)?;
    Ok(([(header::CONTENT_TYPE, media_type)], document).into_response())
}
