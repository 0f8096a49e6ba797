//! The pages that explain the error codes, one for each, built into the binary
//! from docs/errors. A code without a page does not compile.

use agentry_domain::{Code, Error};
use axum::response::{IntoResponse, Response};
use http::header;

use crate::answer::Handled;
use crate::extract::PathName;
use crate::openapi::NotFound;

macro_rules! pages {
    ($($code:ident => $file:literal,)*) => {
        /// The page of a code, in Markdown.
        pub const fn page(code: Code) -> &'static str {
            match code {
                $(Code::$code => include_str!(concat!("../../../docs/errors/", $file, ".md")),)*
            }
        }

        #[cfg(test)]
        const FILES: &[(Code, &str)] = &[$((Code::$code, $file),)*];
    };
}

pages! {
    MalformedJson => "malformed_json",
    ValidationFailed => "validation_failed",
    NotSupportedYet => "not_supported_yet",
    UnsupportedMediaType => "unsupported_media_type",
    UpgradeRequired => "upgrade_required",
    BodyTooLarge => "body_too_large",
    Unauthenticated => "unauthenticated",
    Forbidden => "forbidden",
    GraphOff => "graph_off",
    GraphQueueFull => "graph_queue_full",
    NotFound => "not_found",
    MethodNotAllowed => "method_not_allowed",
    Conflict => "conflict",
    AlreadyDone => "already_done",
    CallInterrupted => "call_interrupted",
    AlreadyExists => "already_exists",
    IdempotencyKeyReused => "idempotency_key_reused",
    AmbiguousName => "ambiguous_name",
    QuotaExceeded => "quota_exceeded",
    PreconditionFailed => "precondition_failed",
    SealingKeyMissing => "sealing_key_missing",
    SessionQueueFull => "session_queue_full",
    OrgQueueFull => "org_queue_full",
    QueueFull => "queue_full",
    SessionBusy => "session_busy",
    Overloaded => "overloaded",
    ShuttingDown => "shutting_down",
    DeadlineExceeded => "deadline_exceeded",
    RateLimited => "rate_limited",
    TooManyAuthFailures => "too_many_auth_failures",
    DailyQuotaExceeded => "daily_quota_exceeded",
    TokenKeysUnavailable => "token_keys_unavailable",
    StorageFull => "storage_full",
    StorageUnavailable => "storage_unavailable",
    ModelUnknown => "model_unknown",
    ModelUnreachable => "model_unreachable",
    ModelTimeout => "model_timeout",
    ModelUnauthorized => "model_unauthorized",
    ModelRejected => "model_rejected",
    ModelRateLimited => "model_rate_limited",
    ModelFailed => "model_failed",
    ModelCircuitOpen => "model_circuit_open",
    ModelBadResponse => "model_bad_response",
    McpServerStopped => "mcp_server_stopped",
    ToolNotApproved => "tool_not_approved",
    McpUnreachable => "mcp_unreachable",
    McpTimeout => "mcp_timeout",
    McpUnauthorized => "mcp_unauthorized",
    McpRejected => "mcp_rejected",
    McpBadResponse => "mcp_bad_response",
    RunLimitReached => "run_limit_reached",
    RunTimedOut => "run_timed_out",
    RunCancelled => "run_cancelled",
    RunInterrupted => "run_interrupted",
    Internal => "internal",
}

/// Explain an error code
///
/// What happened and what to do, in Markdown. A problem's `type` leads here.
#[utoipa::path(
    get,
    path = "/errors/{code}",
    tag = "server",
    params(("code" = String, Path, description = "An error code.", example = "not_found")),
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/markdown"),
        (status = 404, response = NotFound),
    ),
)]
pub async fn error_page_get(PathName(code): PathName) -> Handled {
    let found = Code::parse(&code).ok_or_else(|| Error::not_found("error code", &code))?;
    Ok(markdown(page(found)))
}

fn markdown(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::status;

    #[test]
    fn every_code_has_its_own_page_with_its_status() {
        assert_eq!(FILES.len(), Code::ALL.len());
        for (code, file) in FILES {
            assert_eq!(code.as_str(), *file);
            let page = page(*code);
            assert!(page.starts_with(&format!("# {code}\n")), "{code}");
            let line = page.lines().find(|line| line.starts_with("Status ")).unwrap_or_default();
            assert!(line.contains(status(*code).as_str()), "{code} says: {line}");
        }
    }
}
