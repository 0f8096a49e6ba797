//! Fetching a page for an agent: through the guarded client, and each redirect as
//! carefully as the first URL.

use agentry_domain::tools::ToolOutcome;
use agentry_domain::{Code, Error, Result};
use agentry_outbound::{Ask, Failure, Url};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::arguments::required;
use crate::Engine;

const URL_CHARS_MAX: usize = 4_000;
/// Redirects that are followed.
const REDIRECTS_MAX: u32 = 5;
/// What is text, by the beginning of its media type or a part of it.
const TEXTS: [&str; 4] = ["text/", "json", "xml", "javascript"];

impl Engine {
    /// Fetches what is at a URL, if it is text.
    pub(super) async fn http_fetch(
        &self,
        arguments: &Map<String, Value>,
        until: Instant,
    ) -> Result<ToolOutcome> {
        let given = required(arguments, "url", URL_CHARS_MAX)?;
        let mut url = Url::parse(given)
            .map_err(|error| Error::new(Code::ValidationFailed, format!("url: {error}")))?;
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = HeaderMap::new();
            let accepted = HeaderValue::from_static("text/*, application/json, */*;q=0.1");
            headers.insert(header::ACCEPT, accepted);
            let ask = Ask { method: Method::GET, url: url.clone(), headers, deadline: until };
            let reply = match self.0.fetch_client.ask(ask).await {
                Ok(reply) => reply,
                Err(failure) => return Ok(failed(&failure)),
            };
            let status = reply.status();
            if status.is_redirection()
                && let Some(to) = reply.headers().get(header::LOCATION)
            {
                let next = to.to_str().ok().and_then(|to| url.join(to).ok());
                let Some(next) = next else {
                    let detail = "the page leads to something that is no URL";
                    return Ok(ToolOutcome::failed(None, detail));
                };
                url = next;
                continue;
            }
            let media_type = reply.headers().get(header::CONTENT_TYPE);
            let media_type = media_type.and_then(|it| it.to_str().ok()).unwrap_or_default();
            let media_type = media_type.to_ascii_lowercase();
            let is_text = media_type.is_empty() || TEXTS.iter().any(|it| media_type.contains(it));
            if !is_text {
                let detail = format!("the page is no text but {media_type}");
                return Ok(ToolOutcome::failed(None, detail));
            }
            let body = match reply.bytes().await {
                Ok(body) => body,
                Err(failure) => return Ok(failed(&failure)),
            };
            let text = String::from_utf8_lossy(&body).replace('\0', "\u{fffd}");
            let given = json!({
                "url": url.as_str(),
                "status": status.as_u16(),
                "media_type": media_type,
            });
            let text = format!("{given}\n\n{text}");
            return Ok(if status.is_success() {
                ToolOutcome::succeeded(text)
            } else {
                ToolOutcome::failed(None, text)
            });
        }
        let detail = format!("the page leads on more than {REDIRECTS_MAX} times");
        Ok(ToolOutcome::failed(None, detail))
    }
}

fn failed(failure: &Failure) -> ToolOutcome {
    match failure {
        Failure::Refused(refused) => {
            ToolOutcome::refused(Code::Forbidden, format!("the page is not fetched: {refused}"))
        }
        failure => ToolOutcome::failed(None, format!("the page could not be fetched: {failure}")),
    }
}
