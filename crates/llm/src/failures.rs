//! What went wrong at a provider, as a code and a sentence for the caller. The
//! provider's own message is quoted, bounded, and with the key taken out,
//! because some servers repeat the key that they refuse.

use std::time::Duration;

use agentry_domain::{Code, Error};
use agentry_outbound::{Failure, Reply};
use http::{StatusCode, header};
use serde_json::Value;

use crate::provider::Endpoint;

/// Characters of a provider's message that are passed on.
const MESSAGE_CHARS_MAX: usize = 500;
/// The longest wait that a provider may ask for and that is passed on.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// There is no answer, or no whole one.
pub(crate) fn of_transport(endpoint: &Endpoint, failure: Failure) -> Error {
    let name = &endpoint.name;
    let (code, detail) = match &failure {
        Failure::Connect(_) => (
            Code::ModelUnreachable,
            format!("no connection to the provider {name:?} could be made"),
        ),
        Failure::ConnectTimeout { .. } => {
            (Code::ModelUnreachable, format!("the provider {name:?} cannot be reached: {failure}"))
        }
        Failure::FirstByteTimeout { .. } | Failure::IdleTimeout { .. } => {
            (Code::ModelTimeout, format!("the provider {name:?} is too slow: {failure}"))
        }
        Failure::Deadline => (
            Code::ModelTimeout,
            format!("the provider {name:?} did not answer before the run's deadline"),
        ),
        Failure::TooLarge { .. } => {
            (Code::ModelBadResponse, format!("the provider {name:?}: {failure}"))
        }
        Failure::Broken(_) => (
            Code::ModelBadResponse,
            format!("the connection to the provider {name:?} broke before the answer was complete"),
        ),
        Failure::BreakerOpen { retry_after } => {
            let detail = format!("the provider {name:?} is left alone: {failure}");
            let retry_after = (*retry_after).max(Duration::from_secs(1));
            return Error::new(Code::ModelCircuitOpen, detail).retry_after(retry_after);
        }
        Failure::Refused(_) | Failure::Invalid(_) => return Error::internal(failure),
    };
    Error::new(code, detail).caused_by(failure)
}

/// The provider answered with a status other than 200.
pub(crate) async fn of_status(endpoint: &Endpoint, reply: Reply) -> Error {
    let status = reply.status();
    let retry_after = agentry_outbound::retry_after(reply.headers());
    let is_html = reply
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    // The status alone says enough when the body cannot be read.
    let body = reply.bytes().await.unwrap_or_default();
    let said = match serde_json::from_slice::<Value>(&body) {
        Ok(json) => message(&json),
        Err(_) if is_html => None,
        Err(_) => Some(String::from_utf8_lossy(&body).into_owned()),
    };
    let error = of_code(endpoint, status, said);
    match retry_after {
        Some(after) if error.code.retryable() => error.retry_after(after.min(RETRY_AFTER_MAX)),
        _ => error,
    }
}

/// The provider reported a failure within an answer that began well.
pub(crate) fn of_error_object(endpoint: &Endpoint, error: &Value) -> Error {
    let said = message(error);
    let numeric = ["code", "status"]
        .into_iter()
        .filter_map(|field| error.get(field)?.as_u64())
        .filter_map(|number| StatusCode::from_u16(u16::try_from(number).ok()?).ok())
        .find(|status| status.is_client_error() || status.is_server_error());
    if let Some(status) = numeric {
        return of_code(endpoint, status, said);
    }
    // The words of OpenAI's, Anthropic's and Google's servers.
    let says = |words: &[&str]| {
        ["code", "type", "status"]
            .into_iter()
            .filter_map(|field| error.get(field)?.as_str())
            .any(|said| words.iter().any(|word| said.to_ascii_lowercase().contains(word)))
    };
    let status = if says(&["rate_limit", "resource_exhausted"]) {
        StatusCode::TOO_MANY_REQUESTS
    } else if says(&["invalid_request", "invalid_argument", "not_found"]) {
        StatusCode::BAD_REQUEST
    } else if says(&["authentication", "permission", "unauthenticated"]) {
        StatusCode::UNAUTHORIZED
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    of_code(endpoint, status, said)
}

/// The answer is not what the protocol says.
pub(crate) fn unreadable(
    endpoint: &Endpoint,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    let detail = format!("the provider {:?} sent something unreadable", endpoint.name);
    Error::new(Code::ModelBadResponse, detail).caused_by(cause)
}

/// The answer ended too early.
pub(crate) fn incomplete(endpoint: &Endpoint) -> Error {
    let detail =
        format!("the provider {:?} ended its answer before it was complete", endpoint.name);
    Error::new(Code::ModelBadResponse, detail)
}

fn of_code(endpoint: &Endpoint, status: StatusCode, said: Option<String>) -> Error {
    let name = &endpoint.name;
    let (code, what) = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if endpoint.key.is_none() => (
            Code::ModelUnauthorized,
            format!("the provider {name:?} wants a key and none is configured"),
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            (Code::ModelUnauthorized, format!("the provider {name:?} refused the configured key"))
        }
        StatusCode::TOO_MANY_REQUESTS => {
            (Code::ModelRateLimited, format!("the provider {name:?} asks to slow down"))
        }
        StatusCode::REQUEST_TIMEOUT => {
            (Code::ModelTimeout, format!("the provider {name:?} gave up waiting"))
        }
        status if status.is_client_error() => {
            (Code::ModelRejected, format!("the provider {name:?} refused the request"))
        }
        status if status.is_server_error() => {
            (Code::ModelFailed, format!("the provider {name:?} failed"))
        }
        status if status.is_redirection() => (
            Code::ModelBadResponse,
            format!("the provider {name:?} redirects; base_url has to be the final address"),
        ),
        _ => (Code::ModelBadResponse, format!("the provider {name:?} sent no answer")),
    };
    let detail = match said.map(|said| presentable(&said, endpoint.key.as_deref())) {
        Some(said) if !said.is_empty() => format!("{what} ({}): {said}", status.as_u16()),
        _ => format!("{what} ({})", status.as_u16()),
    };
    Error::new(code, detail)
}

/// The message in the forms that servers use for it.
fn message(error: &Value) -> Option<String> {
    let inner = error.get("error").unwrap_or(error);
    ["message", "detail", "error"]
        .into_iter()
        .find_map(|field| inner.get(field)?.as_str())
        .or(inner.as_str())
        .or(error.get("message").and_then(Value::as_str))
        .map(str::to_owned)
        .or_else(|| (!inner.is_null()).then(|| inner.to_string()))
}

/// One line without the key and of bounded length. The key goes first: cut
/// through, it would no longer be found.
fn presentable(said: &str, key: Option<&str>) -> String {
    let said = match key {
        Some(key) => said.replace(key, "[key]"),
        None => said.to_owned(),
    };
    let words: Vec<&str> = said.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let line: String =
        words.into_iter().filter(|word| !word.is_empty()).fold(String::new(), |mut line, word| {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            line
        });
    match line.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::ProviderOptions;

    fn endpoint() -> Endpoint {
        let options = ProviderOptions {
            key: Some("sk-12345".to_owned()),
            ..ProviderOptions::new("http://127.0.0.1:1/v1")
        };
        crate::models::endpoint("p", &options, &agentry_outbound::Options::default()).unwrap()
    }

    #[test]
    fn messages_are_found_in_every_form() {
        for (body, expected) in [
            (json!({"error": {"message": "m"}}), "m"),
            (json!({"error": "m"}), "m"),
            (json!({"message": "m"}), "m"),
            (json!({"detail": "m"}), "m"),
            (json!({"error": {"code": 5}}), r#"{"code":5}"#),
        ] {
            assert_eq!(message(&body).as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn messages_are_one_bounded_line_without_the_key() {
        assert_eq!(presentable(" a\n\tb\u{0} sk-1 c", Some("sk-1")), "a b [key] c");
        let long = format!("{}sk-1", "ä".repeat(MESSAGE_CHARS_MAX - 2));
        let shown = presentable(&long, Some("sk-1"));
        assert_eq!(shown.chars().count(), MESSAGE_CHARS_MAX + 1);
        assert!(!shown.contains("sk"));
    }

    #[test]
    fn error_objects_say_which_code_they_are() {
        for (error, code) in [
            (json!({"message": "x", "code": 429}), Code::ModelRateLimited),
            (json!({"message": "x", "type": "rate_limit_exceeded"}), Code::ModelRateLimited),
            (json!({"message": "x", "code": 400}), Code::ModelRejected),
            (json!({"message": "x", "code": 200}), Code::ModelFailed),
            (json!({"message": "x", "code": "server_error"}), Code::ModelFailed),
            (json!("x"), Code::ModelFailed),
        ] {
            let mapped = of_error_object(&endpoint(), &error);
            assert_eq!(mapped.code, code, "{error}");
            assert!(mapped.detail.ends_with(": x"), "{mapped}");
        }
    }
}
