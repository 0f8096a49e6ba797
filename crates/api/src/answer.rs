//! How answers are written: JSON, entity tags, what was created and where.

use std::convert::Infallible;

use agentry_domain::{Document, Done, Error, Resource, Result};
use agentry_gateway::Failure;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;

/// What a handler gives back.
pub type Handled = Result<Response, Failure>;

/// Room for most answers without growing.
const ANSWER_BYTES_USUAL: usize = 4_096;

/// An answer of JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Handled {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES_USUAL);
    serde_json::to_writer(&mut bytes, body).map_err(Error::internal)?;
    let media_type = HeaderValue::from_static("application/json");
    Ok((status, [(header::CONTENT_TYPE, media_type)], bytes).into_response())
}

/// An answer of JSON that is written already.
pub fn json_text(status: StatusCode, json: String) -> Response {
    let media_type = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, media_type)], json).into_response()
}

/// 201 with the document, where it is and its tag.
pub fn created<R: Resource>(done: Done<Document<R>>, collection: &str) -> Handled {
    let Done { value: document, replayed } = done;
    let location = format!("{collection}/{}", document.id);
    let tag = entity_tag(document.version);
    let mut response = json_text(StatusCode::CREATED, document.json);
    put(&mut response, header::LOCATION, &location);
    put(&mut response, header::ETAG, &tag);
    Ok(replay(response, replayed))
}

/// Says of an answer whether it is that of an earlier request.
pub fn replay(mut response: Response, replayed: bool) -> Response {
    if replayed {
        let yes = HeaderValue::from_static("true");
        response.headers_mut().insert(HeaderName::from_static("idempotency-replayed"), yes);
    }
    response
}

/// 200 with the document and its tag.
pub fn tagged<R: Resource>(document: Document<R>) -> Handled {
    let tag = entity_tag(document.version);
    let mut response = json_text(StatusCode::OK, document.json);
    put(&mut response, header::ETAG, &tag);
    Ok(response)
}

/// 204.
pub fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// Adds a header whose value is visible ASCII of our own making.
pub fn put(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// JSON text that is stored as such, to be written as it is.
pub fn raw(text: &str) -> Result<&RawValue> {
    serde_json::from_str(text).map_err(Error::internal)
}

/// Whether the client has what this tag, a strong one, is of.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let sent = headers.get_all(header::IF_NONE_MATCH).iter();
    let tags = sent.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tags.map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// A strong entity tag (RFC 9110, section 8.8.3): the version in quotes.
pub fn entity_tag(version: i64) -> String {
    format!("\"{version}\"")
}

/// `If-Match`: the version that the client changes or deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IfMatch(pub Option<i64>);

/// What matches no version; versions count from 1.
const NO_VERSION: i64 = 0;

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        Ok(if_match(&parts.headers)?)
    }
}

fn if_match(headers: &HeaderMap) -> Result<IfMatch> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(IfMatch(None)) };
    let value = value.to_str().unwrap_or_default().trim();
    if values.next().is_some() || value.contains(',') {
        return Err(Error::not_supported("header:If-Match", "send one entity tag"));
    }
    if value == "*" {
        return Ok(IfMatch(None));
    }
    // The comparison is strong, so that a weak tag matches nothing.
    Ok(IfMatch(Some(quoted_version(value).unwrap_or(NO_VERSION))))
}

/// `If-None-Match`: what the client already has.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IfNoneMatch {
    any: bool,
    versions: Vec<i64>,
}

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(if_none_match(&parts.headers))
    }
}

fn if_none_match(headers: &HeaderMap) -> IfNoneMatch {
    let mut found = IfNoneMatch::default();
    for value in headers.get_all(header::IF_NONE_MATCH) {
        for tag in value.to_str().unwrap_or_default().split(',') {
            let tag = tag.trim();
            found.any |= tag == "*";
            // The comparison is weak.
            found.versions.extend(quoted_version(tag.strip_prefix("W/").unwrap_or(tag)));
        }
    }
    found
}

fn quoted_version(tag: &str) -> Option<i64> {
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

impl IfNoneMatch {
    /// Whether it is `*`: whatever there is, the client has it.
    pub fn is_any(&self) -> bool {
        self.any
    }

    /// The document or, when the client has this version, 304.
    pub fn answer<R: Resource>(&self, document: Document<R>) -> Handled {
        self.not_modified(document.version).map_or_else(|| tagged(document), Ok)
    }

    /// 304 when the client has this version; its answer must still carry the tag.
    pub fn not_modified(&self, version: i64) -> Option<Response> {
        if !self.any && !self.versions.contains(&version) {
            return None;
        }
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        put(&mut response, header::ETAG, &entity_tag(version));
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::Code;

    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn if_match_is_one_strong_tag() {
        for (sent, expected) in [
            (&[][..], None),
            (&["*"], None),
            (&["\"3\""], Some(3)),
            (&[" \"3\" "], Some(3)),
            (&["W/\"3\""], Some(NO_VERSION)),
            (&["3"], Some(NO_VERSION)),
            (&["\"x\""], Some(NO_VERSION)),
        ] {
            let read = if_match(&headers(&header::IF_MATCH, sent)).unwrap();
            assert_eq!(read, IfMatch(expected), "{sent:?}");
        }
        for several in [&["\"1\", \"2\""][..], &["\"1\"", "\"2\""]] {
            let error = if_match(&headers(&header::IF_MATCH, several)).unwrap_err();
            assert_eq!(error.code, Code::NotSupportedYet);
        }
    }

    #[test]
    fn if_none_match_is_any_of_several_weak_or_strong_tags() {
        for (sent, matches) in [
            (&[][..], false),
            (&["*"], true),
            (&["\"3\""], true),
            (&["W/\"3\""], true),
            (&["\"2\", W/\"3\""], true),
            (&["\"2\"", "\"3\""], true),
            (&["\"2\""], false),
            (&["3"], false),
        ] {
            let read = if_none_match(&headers(&header::IF_NONE_MATCH, sent));
            assert_eq!(read.not_modified(3).is_some(), matches, "{sent:?}");
        }
    }
}
