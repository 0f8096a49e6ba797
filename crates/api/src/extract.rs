//! What handlers take out of a request: a JSON body or a query read field by
//! field, and an id in the path. Each refuses in the one error format.

use std::str::FromStr;

use agentry_domain::idempotency::IDEMPOTENCY_KEY_CHARS_MAX;
use agentry_domain::{Code, Error, Fault, Once, Result};
use agentry_gateway::{Failure, RequestContext, body};
use axum::extract::{FromRequest, FromRequestParts, Path, Query as PairsOf, Request};
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use serde_json::{Map, Value};

use crate::fields::{
    Change, FromFields, ResourceFields, nul_fault, pointer, read_body, read_query,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A JSON body, read with every fault collected.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: FromBody> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        check_media_type(&parts.headers)?;
        let bytes = body::read(body).await?;
        Ok(parse(&bytes).map(Self)?)
    }
}

/// The JSON body of a POST, which takes effect once when the client says so
/// with an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct Posted<T> {
    /// The body.
    pub body: T,
    /// What makes this request the same as another one.
    pub once: Option<Once>,
}

impl<S: Send + Sync, T: FromBody> FromRequest<S> for Posted<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        check_media_type(&parts.headers)?;
        let key = idempotency_key(&parts.headers)?;
        let bytes = body::read(body).await?;
        let body = parse(&bytes)?;
        Ok(Self { body, once: key.map(|key| once(&parts, key, &bytes)) })
    }
}

/// A POST without a body, which takes effect once when the client says so with an
/// `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct Bare {
    /// What makes this request the same as another one.
    pub once: Option<Once>,
}

impl<S: Send + Sync> FromRequestParts<S> for Bare {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let key = idempotency_key(&parts.headers)?;
        Ok(Self { once: key.map(|key| once(parts, key, &[])) })
    }
}

pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.to_str().unwrap_or_default();
    let is_key = (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) && !key.contains('\t');
    if !is_key || keys.next().is_some() {
        let detail = format!(
            "must be sent once and have 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters of ASCII"
        );
        let fault = Fault::new("header:Idempotency-Key", "malformed", detail);
        return Err(Error::invalid(vec![fault]));
    }
    Ok(Some(key.to_owned()))
}

fn once(parts: &Parts, key: String, body: &[u8]) -> Once {
    let caller = parts.extensions.get::<RequestContext>().and_then(|context| context.caller);
    Once {
        caller: caller.and_then(|caller| caller.key),
        operation: format!("{} {}", parts.method, parts.uri.path()),
        key,
        body: *blake3::hash(body).as_bytes(),
    }
}

/// Something that is read out of a JSON object.
pub trait FromBody: Sized {
    /// Reads it; `faults` are those that were found already.
    fn from_body(object: Map<String, Value>, faults: Vec<Fault>) -> Result<Self>;
}

impl<T: FromFields> FromBody for T {
    fn from_body(object: Map<String, Value>, faults: Vec<Fault>) -> Result<Self> {
        read_body(object, faults)
    }
}

impl<R: ResourceFields> FromBody for Change<R> {
    fn from_body(object: Map<String, Value>, faults: Vec<Fault>) -> Result<Self> {
        Ok(Self::new(object, faults))
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<()> {
    let sent = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    match sent {
        Some(sent) if is_json(sent) => Ok(()),
        Some(sent) => Err(Error::new(
            Code::UnsupportedMediaType,
            format!("Content-Type must be application/json, not {sent}"),
        )),
        None => Err(Error::new(
            Code::UnsupportedMediaType,
            "Content-Type is missing; it must be application/json",
        )),
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads a body's bytes. Depth is bounded by the parser (128), the last of
/// several equal keys counts, and unpaired surrogates are malformed.
pub(crate) fn parse<T: FromBody>(bytes: &[u8]) -> Result<T> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Code::MalformedJson, error.to_string()))?;
    let mut faults = Vec::new();
    // U+0000 can only come in escaped; without the escape there is nothing to
    // look for.
    if bytes.windows(NUL_ESCAPE.len()).any(|window| window == NUL_ESCAPE) {
        find_nul(&value, "", &mut faults);
    }
    let Value::Object(object) = value else {
        return Err(Error::invalid(vec![Fault::new("", "wrong_type", "must be an object")]));
    };
    T::from_body(object, faults)
}

const NUL_ESCAPE: &[u8] = br"\u0000";

/// Collects where U+0000 stands, in values and in keys.
fn find_nul(value: &Value, at: &str, faults: &mut Vec<Fault>) {
    match value {
        Value::String(text) if text.contains('\0') => faults.push(nul_fault(at.to_owned())),
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                find_nul(value, &pointer(at, &index.to_string()), faults);
            }
        }
        Value::Object(object) => {
            for (key, value) in object {
                let at = pointer(at, key);
                if key.contains('\0') {
                    faults.push(nul_fault(at.clone()));
                }
                find_nul(value, &at, faults);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The query, read with every fault collected.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: FromFields> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let pairs = PairsOf::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| {
                Error::invalid(vec![Fault::new("query", "malformed", error.to_string())])
            })?
            .0;
        Ok(read_query(pairs).map(Self)?)
    }
}

/// An id in the path. What is no id is the id of nothing: 404.
#[derive(Clone, Copy, Debug)]
pub struct PathId<T>(pub T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for PathId<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let PathName(text) = PathName::from_request_parts(parts, state).await?;
        let id = text.parse().map_err(|_| Error::not_found("resource", &text))?;
        Ok(Self(id))
    }
}

/// One of the names of an enum in the path. What is none of them is nothing: 404.
#[derive(Clone, Copy, Debug)]
pub struct PathChoice<T>(pub T);

impl<S: Send + Sync, T: agentry_domain::Named> FromRequestParts<S> for PathChoice<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let PathName(text) = PathName::from_request_parts(parts, state).await?;
        let choice = T::ALL.iter().copied().find(|choice| choice.text() == text);
        Ok(choice.map(Self).ok_or_else(|| Error::not_found("resource", &text))?)
    }
}

/// Two ids in the path: of a thing, and of what belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct PathIds<A, B>(pub A, pub B);

impl<S: Send + Sync, A: FromStr, B: FromStr> FromRequestParts<S> for PathIds<A, B> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let found = Path::<(String, String)>::from_request_parts(parts, state).await.ok();
        let ids = found.and_then(|Path((a, b))| Some(Self(a.parse().ok()?, b.parse().ok()?)));
        ids.ok_or_else(|| Failure::from(Error::not_found("path", parts.uri.path())))
    }
}

/// A name or an id in the path.
#[derive(Clone, Debug)]
pub struct PathName(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) if !text.contains('\0') => Ok(Self(text)),
            // Bytes that are no text, or a text that cannot be stored.
            _ => Err(Failure::from(Error::not_found("path", parts.uri.path()))),
        }
    }
}

/// Two names in the path: of a thing, and of what belongs to it.
#[derive(Clone, Debug)]
pub struct PathNames(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathNames {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((a, b))) if !a.contains('\0') && !b.contains('\0') => Ok(Self(a, b)),
            // Bytes that are no text, or a text that cannot be stored.
            _ => Err(Failure::from(Error::not_found("path", parts.uri.path()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[derive(Debug)]
    struct Name(String);

    impl FromFields for Name {
        fn read(fields: &mut crate::fields::Fields) -> Self {
            Self(fields.text("name", 1..=9).required())
        }
    }

    #[test]
    fn a_media_type_is_json_or_refused() {
        for (sent, accepted) in [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("Application/JSON", true),
            ("application/merge-patch+json", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(sent));
            assert_eq!(check_media_type(&headers).is_ok(), accepted, "{sent}");
        }
        let missing = check_media_type(&HeaderMap::new()).unwrap_err();
        assert_eq!(missing.code, Code::UnsupportedMediaType);
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let deep = format!("{{\"name\":\"n\",\"x\":{deep}}}");
        for body in [
            "",
            "{",
            "{\"name\":}",
            "{\"name\":\"\\ud800\"}",
            "{\"name\":\"a\u{1}\"}",
            "{} {}",
            "{\"name\":\"n\",\"x\":1e999}",
            "{'name':'n'}",
            &deep,
        ] {
            let error = parse::<Name>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::MalformedJson, "{body}");
        }
        let error = parse::<Name>(b"{\"name\":\"\xff\"}").unwrap_err();
        assert_eq!(error.code, Code::MalformedJson);
    }

    #[test]
    fn what_is_no_object_is_invalid_and_the_last_key_counts() {
        for body in ["[]", "3", "null", "\"text\""] {
            let error = parse::<Name>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::ValidationFailed, "{body}");
        }
        let name = parse::<Name>(br#"{"name":"a","name":"b"}"#).unwrap();
        assert_eq!(name.0, "b");
    }

    #[test]
    fn u_0000_is_found_wherever_it_stands() {
        let body = br#"{"name":"a\u0000","x":{"k\u0000":[1,"\u0000"]},"fine":"\\u0000"}"#;
        let error = parse::<Name>(body).unwrap_err();
        let pointers: Vec<_> = error.faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/name", "/x/k\0", "/x/k\0/1"]);
        assert!(error.faults.iter().all(|fault| fault.code == "nul"));
    }
}
