//! Content codings: answers that are whole in memory and long enough are
//! compressed for clients that take it, and requests may come compressed, within
//! the same bound as others. Streams are never compressed: an event must not wait
//! in a compressor.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};

use agentry_domain::{Code, Error, Result};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use http::{HeaderMap, HeaderValue, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;

/// A coding that both sides know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// How hard is compressed. More takes several times the processor for a few
/// percent of JSON.
const ZSTD_LEVEL: i32 = 1;
const GZIP_LEVEL: u32 = 3;
/// The largest window of a request's zstd frame, in bits: 8 MiB, the format's own
/// recommendation.
const ZSTD_WINDOW_BITS_MAX: u32 = 23;
/// The largest answer that is compressed, in bytes: it takes time on the thread
/// that answers others, too.
const COMPRESSED_BYTES_MAX: u64 = 4 * 1_024 * 1_024;

impl Coding {
    fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        })
    }

    /// The best that a client takes.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut gzip = false;
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for part in value.to_str().ok()?.split(',') {
                let (name, weight) = part.split_once(';').unwrap_or((part, ""));
                let weight = weight.trim().strip_prefix("q=").map(|q| q.trim().parse::<f32>());
                let is_refused = matches!(weight, Some(Ok(0.0) | Err(_)));
                match name.trim() {
                    name if is_refused || name.is_empty() => {}
                    name if name.eq_ignore_ascii_case("zstd") => return Some(Coding::Zstd),
                    name if name.eq_ignore_ascii_case("gzip") => gzip = true,
                    _ => {}
                }
            }
        }
        gzip.then_some(Coding::Gzip)
    }
}

thread_local! {
    // A compressor has some hundred kilobytes, which are made once for a thread.
    static ZSTD: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses an answer, if it is worth it and the client takes it.
pub async fn compress(response: Response, coding: Option<Coding>, bytes_min: u64) -> Response {
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    if bytes < bytes_min || bytes > COMPRESSED_BYTES_MAX || !is_compressible(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let Some(coding) = coding else { return Response::from_parts(parts, body) };
    // It is in memory: this does not wait.
    let Ok(whole) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Response::from_parts(parts, Body::empty());
    };
    let compressed = match coding {
        Coding::Zstd => zstd(&whole),
        Coding::Gzip => gzip(&whole),
    };
    match compressed {
        Ok(smaller) if smaller.len() < whole.len() => {
            parts.headers.insert(header::CONTENT_ENCODING, coding.name());
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, Body::from(smaller))
        }
        _ => Response::from_parts(parts, Body::from(whole)),
    }
}

fn is_compressible(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::CONTENT_ENCODING) || headers.contains_key(header::CONTENT_RANGE)
    {
        return false;
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| {
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        media_type != "text/event-stream"
            && (media_type.starts_with("text/")
                || media_type.ends_with("json")
                || media_type.ends_with("javascript")
                || media_type.ends_with("xml")
                || media_type == "application/openmetrics-text")
    })
}

fn zstd(whole: &[u8]) -> io::Result<Vec<u8>> {
    ZSTD.with_borrow_mut(|compressor| {
        if compressor.is_none() {
            *compressor = Some(zstd::bulk::Compressor::new(ZSTD_LEVEL)?);
        }
        match compressor {
            Some(compressor) => compressor.compress(whole),
            None => Err(io::Error::other("no compressor")),
        }
    })
}

fn gzip(whole: &[u8]) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(whole.len() / 2);
    let mut encoder = flate2::write::GzEncoder::new(room, Compression::new(GZIP_LEVEL));
    encoder.write_all(whole)?;
    encoder.finish()
}

/// The coding of a request's body; none when it is plain. One that is not known
/// is `unsupported_media_type`.
pub fn of_request(headers: &HeaderMap) -> Result<Option<Coding>> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let name = value.to_str().unwrap_or_default().trim();
    let known = [("identity", None), ("zstd", Some(Coding::Zstd)), ("gzip", Some(Coding::Gzip))]
        .into_iter()
        .find_map(|(known, coding)| name.eq_ignore_ascii_case(known).then_some(coding));
    match known {
        Some(coding) if values.next().is_none() => Ok(coding),
        _ => Err(unsupported()),
    }
}

/// `unsupported_media_type` for a coding.
pub fn unsupported() -> Error {
    let detail = "Content-Encoding may be gzip or zstd, once, and not for files";
    Error::new(Code::UnsupportedMediaType, detail)
}

/// The plain body of a compressed one: `body_too_large` when it has more than this
/// many bytes, `malformed_json` when it is not what it says.
pub fn decompress(coding: Coding, body: &[u8], bytes_max: usize) -> Result<Bytes> {
    let plain = match coding {
        Coding::Gzip => bounded(flate2::bufread::MultiGzDecoder::new(body), bytes_max),
        Coding::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(body).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_BITS_MAX)?;
                Ok(decoder)
            });
            decoder.and_then(|decoder| bounded(decoder, bytes_max))
        }
    };
    let plain = plain.map_err(|error| {
        let detail = "the body is not what its Content-Encoding says";
        Error::new(Code::MalformedJson, detail).caused_by(error)
    })?;
    if plain.len() > bytes_max {
        let detail = format!("the body may have {bytes_max} bytes when it is not compressed");
        return Err(Error::new(Code::BodyTooLarge, detail));
    }
    Ok(plain.into())
}

/// Reads one byte more than there may be, at most.
fn bounded(from: impl io::Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    from.take(bytes_max as u64 + 1).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_client_says_what_it_takes() {
        for (accept, coding) in [
            ("gzip", Some(Coding::Gzip)),
            ("GZIP;q=0.5", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("zstd;q=0, gzip", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=0.0", None),
            ("br", None),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(Coding::accepted(&accepting(accept)), coding, "{accept}");
        }
        assert_eq!(Coding::accepted(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn what_is_long_and_text_comes_compressed_and_back() {
        let long = "agents and sessions; ".repeat(200);
        for (media_type, bytes_min, coding, is_smaller) in [
            ("application/json", 1_000, Some(Coding::Zstd), true),
            ("application/problem+json", 1_000, Some(Coding::Gzip), true),
            ("application/json", 1_000, None, false),
            ("application/json", 100_000, Some(Coding::Gzip), false),
            ("text/event-stream", 1_000, Some(Coding::Gzip), false),
            ("application/octet-stream", 1_000, Some(Coding::Zstd), false),
        ] {
            let response = Response::builder()
                .header(header::CONTENT_TYPE, media_type)
                .body(Body::from(long.clone()))
                .unwrap();
            let response = compress(response, coding, bytes_min).await;
            let encoded = response.headers().get(header::CONTENT_ENCODING).cloned();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len() < long.len(), is_smaller, "{media_type} {coding:?}");
            let coding = coding.filter(|_| is_smaller);
            assert_eq!(encoded, coding.map(Coding::name));
            let plain = match coding {
                Some(coding) => decompress(coding, &body, long.len()).unwrap(),
                None => body,
            };
            assert_eq!(plain, long);
        }
    }

    #[test]
    fn a_bomb_is_too_large_and_nonsense_is_malformed() {
        let bomb = vec![0_u8; 64 << 20];
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = match coding {
                Coding::Gzip => gzip(&bomb).unwrap(),
                Coding::Zstd => zstd(&bomb).unwrap(),
            };
            assert!(packed.len() < 1 << 20);
            let error = decompress(coding, &packed, 1 << 20).unwrap_err();
            assert_eq!(error.code, Code::BodyTooLarge);
            let half = decompress(coding, &packed[..packed.len() / 2], 128 << 20).unwrap_err();
            assert_eq!(half.code, Code::MalformedJson);
            let error = decompress(coding, b"nonsense", 100).unwrap_err();
            assert_eq!(error.code, Code::MalformedJson);
        }
    }
}
