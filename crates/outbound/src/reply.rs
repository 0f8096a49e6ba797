//! An answer whose body is still to be read, within a size, an idle time-out
//! and the call's deadline.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::failure::Failure;

/// The status and headers of an answer, and the way to its body. Dropping it
/// gives the body up.
#[derive(Debug)]
pub struct Reply {
    response: reqwest::Response,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) deadline: Instant,
    pub(crate) idle_timeout: Duration,
    pub(crate) bytes_max: u64,
}

impl Reply {
    pub(crate) fn new(response: reqwest::Response, limits: Limits) -> Self {
        Self { response, limits }
    }

    /// The status, whatever it is.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The whole body. Fails with `TooLarge` without reading on, and before
    /// reading anything when the headers already announce too much.
    pub async fn bytes(self) -> Result<Bytes, Failure> {
        if self.response.content_length().is_some_and(|length| length > self.limits.bytes_max) {
            return Err(Failure::TooLarge { bytes_max: self.limits.bytes_max });
        }
        let whole = self.chunks().try_fold(BytesMut::new(), |mut whole, chunk| async move {
            whole.extend_from_slice(&chunk);
            Ok(whole)
        });
        whole.await.map(BytesMut::freeze)
    }

    /// The body as it comes, in pieces that mean nothing. The first failure is
    /// the last item.
    pub fn chunks(self) -> BoxStream<'static, Result<Bytes, Failure>> {
        let Self { response, limits } = self;
        futures::stream::try_unfold((response, 0), move |(mut response, mut read)| async move {
            let Some(chunk) = next(&mut response, limits).await? else { return Ok(None) };
            read += chunk.len() as u64;
            if read > limits.bytes_max {
                return Err(Failure::TooLarge { bytes_max: limits.bytes_max });
            }
            Ok(Some((chunk, (response, read))))
        })
        .boxed()
    }
}

async fn next(response: &mut reqwest::Response, limits: Limits) -> Result<Option<Bytes>, Failure> {
    let idle_ends = Instant::now() + limits.idle_timeout;
    let ends = idle_ends.min(limits.deadline);
    match tokio::time::timeout_at(ends, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(Failure::Broken(error.without_url().into())),
        Err(_) if idle_ends < limits.deadline => {
            Err(Failure::IdleTimeout { after: limits.idle_timeout })
        }
        Err(_) => Err(Failure::Deadline),
    }
}
