//! Bodies with bounds: how large a request's may be, how long an answer's may
//! go on, and what is still read of a request that was refused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use agentry_domain::{Code, Error, Result};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::{Instant, Sleep};

/// How much is read, at most, of a refused request's body. Closing a socket with
/// unread bytes resets it, and the client would lose the refusal.
const REFUSED_BODY_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// How long reading a refused request's body may take.
const REFUSED_BODY_WITHIN: Duration = Duration::from_secs(2);

/// How long a request's body may take to arrive. Shorter than the deadline of a
/// run, which is long because models are slow, not clients.
const BODY_READ_WITHIN: Duration = Duration::from_secs(30);

/// The body, refused when it says that it is too large, and cut off with an
/// error when it turns out to be.
pub fn limit(body: Body, bytes_max: usize) -> std::result::Result<Body, Refused> {
    let hint = body.size_hint();
    let max = bytes_max as u64;
    if hint.lower() > max {
        return Err(Refused { body, error: too_large(bytes_max) });
    }
    // hyper holds a body to its declared length, so a known length is a bound.
    if hint.upper().is_some_and(|upper| upper <= max) {
        return Ok(body);
    }
    Ok(Body::new(Limited::new(body, bytes_max)))
}

/// A body that is too large, still unread.
#[derive(Debug)]
pub struct Refused {
    /// The body.
    pub body: Body,
    /// Why.
    pub error: Error,
}

/// `body_too_large`.
fn too_large(bytes_max: usize) -> Error {
    Error::new(Code::BodyTooLarge, format!("the body may have {bytes_max} bytes"))
}

/// Reads a request's whole body, which [`limit`] has bounded. `body_too_large`
/// past the bound, `malformed_json` when the client broke off,
/// `deadline_exceeded` when it took more than 30 s.
pub async fn read(body: Body) -> Result<Bytes> {
    read_within(body, BODY_READ_WITHIN).await
}

async fn read_within(body: Body, within: Duration) -> Result<Bytes> {
    match tokio::time::timeout(within, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if is_length_limit(&error) => {
            Err(Error::new(Code::BodyTooLarge, "the body is larger than the server accepts"))
        }
        Ok(Err(error)) => {
            Err(Error::new(Code::MalformedJson, "the body ended early").caused_by(error))
        }
        Err(_elapsed) => Err(Error::new(
            Code::DeadlineExceeded,
            format!("the body did not arrive within {} ms", within.as_millis()),
        )),
    }
}

/// The next part of a request's body, for what is not read as a whole; none at
/// its end. Errors as [`read`] has them; the request's deadline bounds the time.
pub async fn next(body: &mut Body) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        match frame {
            // What is no data is trailers.
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Err(error) if is_length_limit(&error) => {
                let detail = "the body is larger than the server accepts";
                return Err(Error::new(Code::BodyTooLarge, detail));
            }
            Err(error) => {
                let early = Error::new(Code::MalformedJson, "the body ended early");
                return Err(early.caused_by(error));
            }
        }
    }
    Ok(None)
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.is::<LengthLimitError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Reads what a refused client is still sending, within bounds, so that it gets
/// to read the refusal. A client that waits for `100 Continue` sends nothing.
pub async fn discard(mut body: Body, headers: &HeaderMap) {
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return;
    }
    let reading = async {
        let mut read = 0_u64;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if read > REFUSED_BODY_BYTES_MAX {
                break;
            }
        }
    };
    // Past the time the client gets the refusal and, perhaps, a reset.
    let _ = tokio::time::timeout(REFUSED_BODY_WITHIN, reading).await;
}

/// A streamed answer: ends with an error when it outlives its age, and holds
/// something (the request's permit and its metrics) until it ends.
pub struct Streamed<G> {
    inner: Body,
    age_max: Pin<Box<Sleep>>,
    guard: Option<G>,
}

impl<G> std::fmt::Debug for Streamed<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streamed").finish_non_exhaustive()
    }
}

impl<G: Send + Unpin + 'static> Streamed<G> {
    /// Wraps an answer's body until the instant.
    pub fn wrap(inner: Body, until: Instant, guard: G) -> Body {
        let age_max = Box::pin(tokio::time::sleep_until(until));
        Body::new(Self { inner, age_max, guard: Some(guard) })
    }
}

impl<G: Send + Unpin + 'static> http_body::Body for Streamed<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.guard.is_none() {
            return Poll::Ready(None);
        }
        let inner = &mut this.inner;
        // A panic in a stream ends the stream; without this it would end the
        // connection and every other request on it.
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx)));
        let frame = match polled {
            Ok(Poll::Ready(frame)) => frame,
            Ok(Poll::Pending) => {
                if this.age_max.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                Some(Err(axum::Error::new(Broken("the stream reached its age"))))
            }
            Err(_panic) => {
                tracing::error!("a streamed answer panicked");
                Some(Err(axum::Error::new(Broken("the stream failed"))))
            }
        };
        if !matches!(frame, Some(Ok(_))) {
            this.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.guard.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(&'static str);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::stream;

    use super::*;

    fn chunks(chunks: Vec<&'static str>) -> Body {
        Body::from_stream(stream::iter(
            chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk))),
        ))
    }

    #[tokio::test]
    async fn a_body_of_known_or_unknown_length_is_held_to_the_limit() {
        assert_eq!(read(limit(Body::from("12345"), 5).unwrap()).await.unwrap(), "12345");
        let refused = limit(Body::from("123456"), 5).unwrap_err();
        assert_eq!(refused.error.code, Code::BodyTooLarge);
        let fits = limit(chunks(vec!["12", "345"]), 5).unwrap();
        assert_eq!(read(fits).await.unwrap(), "12345");
        let over = limit(chunks(vec!["12", "3456"]), 5).unwrap();
        assert_eq!(read(over).await.unwrap_err().code, Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let error = read_within(silent, Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn the_guard_lives_until_the_body_ends() {
        let held = Arc::new(());
        let until = Instant::now() + Duration::from_secs(60);
        let body = Streamed::wrap(chunks(vec!["a", "b"]), until, Arc::clone(&held));
        assert_eq!(Arc::strong_count(&held), 2);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "ab");
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_stream_past_its_age_breaks_and_lets_go() {
        let held = Arc::new(());
        let until = Instant::now() + Duration::from_millis(5);
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut body = Streamed::wrap(silent, until, Arc::clone(&held));
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(Instant::now() >= until);
    }

    #[tokio::test]
    async fn a_panic_in_a_stream_breaks_it_alone() {
        let until = Instant::now() + Duration::from_secs(60);
        let broken = Body::from_stream(stream::poll_fn(
            |_| -> Poll<Option<Result<Bytes, std::io::Error>>> { panic!("on purpose") },
        ));
        let mut body = Streamed::wrap(broken, until, ());
        assert!(body.frame().await.unwrap().is_err());
    }
}
