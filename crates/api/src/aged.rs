//! Answers that may be old: how old they are and may become (RFC 9111), a tag of what
//! is in them, and whether a client wants none of it.

use std::time::Duration;

use agentry_domain::{Error, Result};
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use crate::answer::{Handled, is_known, json, put};

/// Hexadecimal digits of a tag: collisions would be told as no change.
const TAG_CHARS: usize = 32;

/// How old an answer is, and may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aged {
    /// How old it is.
    pub age: Duration,
    /// How old it may become; zero when it is as things are.
    pub age_max: Duration,
}

impl Aged {
    /// The answer with its age and tag or, when the client has it, 304.
    pub fn answer(self, sent: &HeaderMap, tag: &str, body: &impl Serialize) -> Handled {
        let mut response = match is_known(sent, tag) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => json(StatusCode::OK, body)?,
        };
        put(&mut response, header::ETAG, &format!("W/{tag}"));
        // Rounded so that no cache keeps it longer than it may be kept.
        let age = self.age.as_secs() + u64::from(self.age.subsec_nanos() > 0);
        let lifetime = match self.age_max.as_secs() {
            0 => "private, no-cache".to_owned(),
            seconds => format!("private, max-age={seconds}"),
        };
        put(&mut response, header::CACHE_CONTROL, &lifetime);
        put(&mut response, header::AGE, &age.to_string());
        Ok(response)
    }
}

/// The tag of an answer's content, without `W/`.
pub fn content_tag(content: &impl Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(content).map_err(Error::internal)?;
    let hash = blake3::hash(&bytes).to_hex();
    Ok(format!("\"{}\"", &hash[..TAG_CHARS]))
}

/// Whether the client takes nothing that was kept (RFC 9111, sections 5.2.1.1, 5.2.1.4).
pub fn wants_fresh(headers: &HeaderMap) -> bool {
    let sent = headers.get_all(header::CACHE_CONTROL).iter();
    let mut directives =
        sent.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    directives.any(|one| {
        let one = one.trim();
        ["no-cache", "no-store", "max-age=0"].iter().any(|fresh| one.eq_ignore_ascii_case(fresh))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_client_may_want_it_fresh() {
        for (sent, fresh) in [
            ("no-cache", true),
            ("No-Cache", true),
            ("max-age=0", true),
            ("no-store, no-transform", true),
            ("max-age=10", false),
            ("only-if-cached", false),
        ] {
            assert_eq!(wants_fresh(&headers(header::CACHE_CONTROL, sent)), fresh, "{sent}");
        }
        assert!(!wants_fresh(&HeaderMap::new()));
    }

    #[test]
    fn an_age_is_rounded_so_that_nothing_is_kept_too_long() {
        for (age_ms, age_max_s, age, control) in [
            (0, 1, "0", "private, max-age=1"),
            (1, 1, "1", "private, max-age=1"),
            (1_000, 5, "1", "private, max-age=5"),
            (1_001, 5, "2", "private, max-age=5"),
            (0, 0, "0", "private, no-cache"),
        ] {
            let (age_found, age_max) =
                (Duration::from_millis(age_ms), Duration::from_secs(age_max_s));
            let aged = Aged { age: age_found, age_max };
            let response = aged.answer(&HeaderMap::new(), "\"t\"", &"body").unwrap();
            assert_eq!(response.headers()[header::AGE], age, "{age_ms} ms");
            assert_eq!(response.headers()[header::CACHE_CONTROL], control);
            assert_eq!(response.headers()[header::ETAG], "W/\"t\"");
            assert_eq!(response.status(), StatusCode::OK);
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let aged = Aged { age: Duration::ZERO, age_max: Duration::from_secs(1) };
        let tag = content_tag(&1).unwrap();
        assert_ne!(tag, content_tag(&2).unwrap());
        let known = HeaderValue::from_str(&format!("\"other\", W/{tag}")).unwrap();
        let sent = HeaderMap::from_iter([(header::IF_NONE_MATCH, known)]);
        let response = aged.answer(&sent, &tag, &1).unwrap();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(response.headers().contains_key(header::ETAG));
        assert_eq!(aged.answer(&sent, "\"new\"", &1).unwrap().status(), StatusCode::OK);
    }
}
