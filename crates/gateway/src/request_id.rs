//! The id of a request: the client's own `X-Request-Id` when it is usable, else
//! one that is made here. Errors, the log and the answer's header carry it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries it, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's id may have this many characters; a longer one is replaced.
pub const REQUEST_ID_CHARS_MAX: usize = 128;

/// A request id: 1 to [`REQUEST_ID_CHARS_MAX`] visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The text.
    pub fn as_str(&self) -> &str {
        // Only visible ASCII gets in, so the empty text cannot come out.
        self.0.to_str().unwrap_or_default()
    }

    /// The header's value; a clone shares the bytes.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// Makes request ids: a random part for the process and a counter, so that one
/// id costs no system call and the order of arrival can be read from it.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// Takes 64 random bits that tell this process from every other.
    pub fn new(process: u64) -> Self {
        Self { process, next: AtomicU64::new(1) }
    }

    /// The client's id, or a fresh one.
    pub fn identify(&self, headers: &HeaderMap) -> RequestId {
        match headers.get(X_REQUEST_ID) {
            Some(value) if usable(value.as_bytes()) => RequestId(value.clone()),
            _ => self.make(),
        }
    }

    fn make(&self) -> RequestId {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = String::with_capacity(32);
        // Writing to a String cannot fail.
        let _ = write!(text, "{:016x}-{counter:08x}", self.process);
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(text));
        RequestId(value.unwrap_or(HeaderValue::from_static("unknown")))
    }
}

fn usable(bytes: &[u8]) -> bool {
    (1..=REQUEST_ID_CHARS_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_id_is_kept_and_any_other_replaced() {
        let ids = RequestIds::new(7);
        let long = "x".repeat(REQUEST_ID_CHARS_MAX);
        for (sent, kept) in [
            ("abc-123", true),
            ("~!", true),
            (long.as_str(), true),
            ("", false),
            ("with space", false),
            ("tab\t", false),
            ("\u{e9}", false),
            (&format!("{long}x"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(sent.as_bytes()).unwrap());
            let id = ids.identify(&headers);
            assert_eq!(id.as_str() == sent, kept, "{sent:?} became {id:?}");
            assert!(usable(id.as_str().as_bytes()));
        }
    }

    #[test]
    fn made_ids_differ() {
        let ids = RequestIds::new(7);
        let first = ids.identify(&HeaderMap::new());
        assert_ne!(first, ids.identify(&HeaderMap::new()));
        assert_eq!(first.as_str(), "0000000000000007-00000001");
    }
}
