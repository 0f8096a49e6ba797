//! One user's HTTP/2 connection (RFC 9113): one request at a time, with the
//! same four times as HTTP/1.1. The connection is kept going by a task of its
//! own, so that pings are answered while the user pauses.

use std::future::poll_fn;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::connection::{Exchange, Failure};

/// What the target may send before it has to wait for us, in bytes.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// The most header fields of a request.
const HEADERS_MAX: usize = 100;

#[derive(Debug)]
pub(crate) struct Http2 {
    send: SendRequest<Bytes>,
    scheme: Scheme,
    /// Ends when the connection does, and ends with us.
    task: JoinSet<()>,
}

impl Http2 {
    /// Must be called on a thread that has a `LocalSet`.
    pub(crate) async fn over<S>(stream: S, secure: bool) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (send, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEAD_BYTES_MAX)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|error| Failure::new("connect_failed", error.to_string()))?;
        let mut task = JoinSet::new();
        // How it ends is told by the request that it fails.
        task.spawn_local(async move { drop(connection.await) });
        let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Self { send, scheme, task })
    }

    pub(crate) fn was_closed(&mut self) -> bool {
        self.task.try_join_next().is_some() || self.task.is_empty()
    }

    /// Sends the request, which is written as for HTTP/1.1, and reads its answer.
    pub(crate) async fn exchange(
        &mut self,
        request: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        let (request, body) = self.read_request(request)?;
        let mut send = self.send.clone().ready().await.map_err(|error| failure(&error))?;
        let sent = send.send_request(request, body.is_empty());
        let (response, mut stream) = sent.map_err(|error| failure(&error))?;
        if !body.is_empty() {
            // Held back there as long as the target's window is full.
            stream.send_data(body, true).map_err(|error| failure(&error))?;
        }
        let response = response.await.map_err(|error| failure(&error))?;
        exchange.done = Instant::now();
        exchange.first_byte = Some(exchange.done);
        let (parts, mut body) = response.into_parts();
        exchange.answer.head_read(parts.status.as_u16(), &parts.headers);
        while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
            let piece = piece.map_err(|error| failure(&error))?;
            exchange.done = Instant::now();
            exchange.take_piece(&piece)?;
            let flow = body.flow_control();
            flow.release_capacity(piece.len()).map_err(|error| failure(&error))?;
        }
        exchange.done = Instant::now();
        exchange.answer.finish();
        Ok(())
    }

    /// The fields that only HTTP/1.1 has are left out (RFC 9113, 8.2.2).
    fn read_request(&self, bytes: &[u8]) -> Result<(http::Request<()>, Bytes), Failure> {
        let wrong = |detail: String| Failure::new("bad_request", detail);
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        let used = match head.parse(bytes) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => return Err(wrong("its head has no end".to_owned())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let mut request = http::Request::new(());
        let method = Method::from_bytes(head.method.unwrap_or_default().as_bytes());
        *request.method_mut() = method.map_err(|error| wrong(error.to_string()))?;
        *request.version_mut() = http::Version::HTTP_2;
        let mut uri = Uri::default().into_parts();
        uri.scheme = Some(self.scheme.clone());
        let path = PathAndQuery::try_from(head.path.unwrap_or_default());
        uri.path_and_query = Some(path.map_err(|error| wrong(error.to_string()))?);
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("host") {
                let authority = Authority::try_from(field.value);
                uri.authority = Some(authority.map_err(|error| wrong(error.to_string()))?);
                continue;
            }
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let value = HeaderValue::from_bytes(field.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(wrong(format!("the field {}", field.name)));
            };
            request.headers_mut().append(name, value);
        }
        let uri = Uri::from_parts(uri).map_err(|error| wrong(error.to_string()))?;
        *request.uri_mut() = uri;
        Ok((request, Bytes::copy_from_slice(&bytes[used..])))
    }
}

fn failure(error: &h2::Error) -> Failure {
    let class = if error.is_io() || (error.is_reset() && error.is_remote()) {
        "reset"
    } else if error.is_go_away() && error.is_remote() {
        "closed"
    } else {
        "garbage"
    };
    Failure::new(class, error.to_string())
}
