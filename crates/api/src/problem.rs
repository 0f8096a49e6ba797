//! How an error is written: `application/problem+json` (RFC 9457), and OpenAI's
//! shape under `/v1`. The only place that knows which status a code has, and
//! the one place where the cause of a failure is logged.

use std::borrow::Cow;
use std::time::Duration;

use agentry_domain::{Code, Error, Fault};
use agentry_gateway::ErrorContext;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";
/// What `Retry-After` says when the error does not.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// A failure.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem<'a> {
    /// Where the code is explained.
    #[serde(rename = "type")]
    #[schema(example = "/errors/not_found")]
    kind: String,
    /// What the code means, for people.
    #[schema(example = "There is no such resource")]
    title: &'a str,
    /// The HTTP status.
    #[schema(example = 404)]
    status: u16,
    /// What happened this time and what to do, for people.
    detail: &'a str,
    /// The request's id, as in `X-Request-Id` and in the server's log.
    instance: &'a str,
    /// What kind of failure, for programs. Stable.
    #[schema(example = "not_found")]
    code: &'a str,
    /// Every broken rule, when rules were broken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemFault<'a>>,
}

/// One broken rule.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemFault<'a> {
    /// A JSON pointer into the body, or a parameter's name.
    #[schema(example = "/name")]
    pointer: &'a str,
    /// Which rule, for programs.
    #[schema(example = "required")]
    code: &'a str,
    /// What is wrong, for people.
    detail: &'a str,
}

impl<'a> Problem<'a> {
    /// The problem that an error is, in the request with this id.
    pub fn new(error: &'a Error, request_id: &'a str) -> Self {
        Self {
            kind: format!("/errors/{}", error.code),
            title: error.code.title(),
            status: status(error.code).as_u16(),
            detail: &error.detail,
            instance: request_id,
            code: error.code.as_str(),
            errors: error
                .faults
                .iter()
                .map(|Fault { pointer, code, detail }| ProblemFault { pointer, code, detail })
                .collect(),
        }
    }
}

/// A failure in OpenAI's shape.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiError<'a> {
    error: OpenAiErrorBody<'a>,
}

/// What is in an [`OpenAiError`].
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiErrorBody<'a> {
    /// What happened, for people.
    message: Cow<'a, str>,
    /// The family of the failure.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    kind: &'a str,
    /// The first parameter that is at fault.
    param: Option<String>,
    /// What kind of failure, for programs: the same codes as everywhere.
    #[schema(example = "validation_failed")]
    code: &'a str,
}

impl<'a> OpenAiError<'a> {
    /// The same error in OpenAI's shape.
    pub fn new(error: &'a Error) -> Self {
        // There is room for one parameter only, so the message names the rest.
        let message = match error.faults.as_slice() {
            [] | [_] => Cow::Borrowed(error.detail.as_ref()),
            faults => {
                let each =
                    faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail));
                Cow::Owned(each.collect::<Vec<_>>().join("; "))
            }
        };
        let param = error.faults.first().map(|fault| {
            fault.pointer.strip_prefix('/').unwrap_or(&fault.pointer).replace('/', ".")
        });
        let body = OpenAiErrorBody {
            message,
            kind: openai_type(status(error.code)),
            param,
            code: error.code.as_str(),
        };
        Self { error: body }
    }
}

fn openai_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

/// The status of a code.
pub const fn status(code: Code) -> StatusCode {
    match code {
        Code::MalformedJson => StatusCode::BAD_REQUEST,
        Code::ValidationFailed
        | Code::NotSupportedYet
        | Code::IdempotencyKeyReused
        | Code::RunLimitReached
        | Code::ModelUnknown => StatusCode::UNPROCESSABLE_ENTITY,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
        Code::Conflict
        | Code::AlreadyDone
        | Code::CallInterrupted
        | Code::AlreadyExists
        | Code::AmbiguousName
        | Code::QuotaExceeded
        | Code::SessionBusy
        | Code::McpServerStopped
        | Code::ToolNotApproved
        | Code::RunCancelled => StatusCode::CONFLICT,
        Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Code::SessionQueueFull
        | Code::OrgQueueFull
        | Code::QueueFull
        | Code::RateLimited
        | Code::TooManyAuthFailures
        | Code::DailyQuotaExceeded
        | Code::GraphQueueFull
        | Code::ModelRateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::Overloaded
        | Code::ShuttingDown
        | Code::StorageUnavailable
        | Code::TokenKeysUnavailable
        | Code::SealingKeyMissing
        | Code::ModelCircuitOpen
        | Code::GraphOff
        | Code::RunInterrupted => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded | Code::ModelTimeout | Code::McpTimeout | Code::RunTimedOut => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Code::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        Code::ModelUnreachable
        | Code::ModelUnauthorized
        | Code::ModelRejected
        | Code::ModelFailed
        | Code::ModelBadResponse
        | Code::McpUnreachable
        | Code::McpUnauthorized
        | Code::McpRejected
        | Code::McpBadResponse => StatusCode::BAD_GATEWAY,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Writes an error as the answer of a request; the gateway calls it.
pub fn render(error: &Error, context: &ErrorContext<'_>) -> Response {
    log(error, context.request_id.as_str());
    let status = status(error.code);
    let body = if is_openai(context.path) {
        serde_json::to_vec(&OpenAiError::new(error))
    } else {
        serde_json::to_vec(&Problem::new(error, context.request_id.as_str()))
    };
    let media_type = if is_openai(context.path) { "application/json" } else { PROBLEM_JSON };
    // Only strings and numbers are written, which cannot fail.
    let mut response = (status, body.unwrap_or_default()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        // RFC 9110, section 15.5.22, and RFC 6455, section 4.4.
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if let Some(after) = retry_after(error, status) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after));
    }
    response
}

/// Whether a path is of the surface that mirrors OpenAI's.
fn is_openai(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

/// Whole seconds, rounded up, because the header knows no smaller unit.
fn retry_after(error: &Error, status: StatusCode) -> Option<u64> {
    let asked_to_wait =
        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let after = error.retry_after.or(asked_to_wait.then_some(RETRY_AFTER_DEFAULT))?;
    Some(after.as_secs() + u64::from(after.subsec_nanos() > 0))
}

/// Logs the cause of a failure on our side. Refusals under load are counted and
/// not logged: a line for each would be load of its own.
pub fn log(error: &Error, request_id: &str) {
    if !status(error.code).is_server_error()
        || matches!(error.code, Code::Overloaded | Code::ShuttingDown | Code::TokenKeysUnavailable)
    {
        return;
    }
    tracing::error!(
        request_id,
        code = error.code.as_str(),
        cause = error.chain(),
        "request failed"
    );
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_problem_has_every_member() {
        let faults = vec![
            Fault::new("/name", "required", "is required"),
            Fault::new("/size", "wrong_type", "must be an integer"),
        ];
        let error = Error::invalid(faults);
        let problem = serde_json::to_value(Problem::new(&error, "r-1")).unwrap();
        assert_eq!(
            problem,
            json!({
                "type": "/errors/validation_failed",
                "title": "The request breaks a rule",
                "status": 422,
                "detail": "2 rules are broken; see errors",
                "instance": "r-1",
                "code": "validation_failed",
                "errors": [
                    {"pointer": "/name", "code": "required", "detail": "is required"},
                    {"pointer": "/size", "code": "wrong_type", "detail": "must be an integer"},
                ],
            })
        );
        let error = Error::not_found("agent", "x").caused_by("private");
        let text = serde_json::to_string(&Problem::new(&error, "r-1")).unwrap();
        assert!(!text.contains("private") && !text.contains("errors\":"), "{text}");
    }

    #[test]
    fn openai_s_shape_names_the_parameter_and_every_fault() {
        let faults = vec![
            Fault::new("/messages/0/content", "wrong_type", "must be text"),
            Fault::new("/n", "not_supported_yet", "one choice only"),
        ];
        let error = serde_json::to_value(OpenAiError::new(&Error::invalid(faults))).unwrap();
        assert_eq!(
            error,
            json!({"error": {
                "message": "/messages/0/content: must be text; /n: one choice only",
                "type": "invalid_request_error",
                "param": "messages.0.content",
                "code": "validation_failed",
            }})
        );
        let error = serde_json::to_value(OpenAiError::new(&Error::internal("x"))).unwrap();
        assert_eq!(error["error"]["param"], Value::Null);
        assert_eq!(error["error"]["type"], "server_error");
    }

    #[test]
    fn who_may_try_again_is_told_when() {
        let retry = |error: Error| retry_after(&error, status(error.code));
        assert_eq!(retry(Error::new(Code::Overloaded, "")), Some(1));
        assert_eq!(retry(Error::new(Code::SessionQueueFull, "")), Some(1));
        let soon = Duration::from_millis(2_100);
        assert_eq!(retry(Error::new(Code::Overloaded, "").retry_after(soon)), Some(3));
        assert_eq!(retry(Error::new(Code::StorageFull, "").retry_after(soon)), Some(3));
        assert_eq!(retry(Error::new(Code::NotFound, "")), None);
    }

    #[test]
    fn a_code_that_may_be_retried_is_no_fault_of_the_request() {
        for code in Code::ALL {
            let status = status(*code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
            if code.retryable() {
                let blames = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
                assert!(!blames, "{code} is retryable and {status}");
            }
        }
    }
}
