//! One user's connection, kept alive, made when it is needed: HTTP/1.1 as it
//! stands or over TLS, or HTTP/2. One buffer for each thread serves all its
//! connections of HTTP/1.1, so that an idle one costs a socket and little else.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::http1::{Answer, Keep};
use crate::http2::Http2;
use crate::tokens::{Dialect, EventStream};
use crate::transport::{Connector, Made};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 << 10;
/// The largest body that is read to its end, in bytes.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// What the connections of one thread share.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    pub(crate) connector: Rc<Connector>,
    scratch: Rc<RefCell<Box<[u8]>>>,
}

impl Wire {
    pub(crate) fn new(address: SocketAddr, connector: Connector) -> Self {
        let scratch = vec![0; READ_BYTES].into_boxed_slice();
        Self { address, connector: Rc::new(connector), scratch: Rc::new(RefCell::new(scratch)) }
    }
}

/// Kept open between requests as long as the target does.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    link: Option<Link>,
}

#[derive(Debug)]
enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Http2(Box<Http2>),
}

impl Link {
    async fn make(wire: &Wire) -> Result<Self, Failure> {
        Ok(match wire.connector.connect(wire.address).await? {
            Made::Plain(stream) => Self::Plain(stream),
            Made::Tls(stream) => Self::Tls(stream),
            Made::PlainH2(stream) => {
                Self::Http2(Box::new(Box::pin(Http2::over(stream, false)).await?))
            }
            Made::TlsH2(stream) => {
                Self::Http2(Box::new(Box::pin(Http2::over(stream, true)).await?))
            }
        })
    }
}

/// What is asked, and what of the answer matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) request: &'a [u8],
    pub(crate) head: bool,
    pub(crate) keep: Keep,
    pub(crate) stream: Option<Dialect>,
    pub(crate) timeout: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) answer: Answer,
    pub(crate) events: Option<EventStream>,
    pub(crate) first_byte: Option<Instant>,
    pub(crate) done: Instant,
    /// Whether a connection had to be made.
    pub(crate) connected: bool,
    pub(crate) failure: Option<Failure>,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: &'static str,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(class: &'static str, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into() }
    }

    /// No request went out.
    pub(crate) fn is_of_connecting(&self) -> bool {
        self.class.starts_with("connect_")
    }
}

impl Connection {
    /// Sends a request and reads its answer. The connection is given up after
    /// any failure.
    pub(crate) async fn exchange(&mut self, wire: &Wire, ask: Ask<'_>) -> Exchange {
        let mut exchange = Exchange {
            answer: Answer::new(ask.keep, ask.head),
            events: ask.stream.map(EventStream::new),
            first_byte: None,
            done: Instant::now(),
            connected: false,
            failure: None,
        };
        let attempt = self.attempt(wire, ask.request, &mut exchange);
        let failure = match tokio::time::timeout(ask.timeout, attempt).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) if self.link.is_none() => Some(Failure::new("connect_timeout", "")),
            Err(_) => Some(Failure::new("timeout", format!("after {:?}", ask.timeout))),
        };
        if failure.is_some() || !exchange.answer.keeps_alive() {
            self.link = None;
        }
        if failure.is_some() {
            exchange.done = Instant::now();
        }
        exchange.failure = failure;
        exchange
    }

    async fn attempt(
        &mut self,
        wire: &Wire,
        request: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        if self.was_closed(wire).await {
            self.link = None;
        }
        let link = match &mut self.link {
            Some(link) => link,
            None => {
                exchange.connected = true;
                self.link.insert(Link::make(wire).await?)
            }
        };
        match link {
            Link::Plain(stream) => ask(stream, wire, request, exchange).await,
            // Boxed, so that whoever speaks neither pays for neither.
            Link::Tls(stream) => Box::pin(ask(&mut **stream, wire, request, exchange)).await,
            Link::Http2(connection) => Box::pin(connection.exchange(request, exchange)).await,
        }
    }

    /// Whether the target closed the connection, or said something unasked,
    /// since the last answer.
    async fn was_closed(&mut self, wire: &Wire) -> bool {
        match &mut self.link {
            None => false,
            Some(Link::Plain(stream)) => has_more(stream, wire).await,
            Some(Link::Tls(stream)) => has_more(&mut **stream, wire).await,
            Some(Link::Http2(connection)) => connection.was_closed(),
        }
    }
}

async fn has_more(stream: &mut (impl AsyncRead + Unpin), wire: &Wire) -> bool {
    poll_fn(|cx| {
        let mut scratch = wire.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buffer).is_ready())
    })
    .await
}

/// One request of HTTP/1.1.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    wire: &Wire,
    request: &[u8],
    exchange: &mut Exchange,
) -> Result<(), Failure> {
    // A target may answer and close before it has read everything; its answer
    // says more than the broken write.
    let written = match stream.write_all(request).await {
        // TLS keeps what it could not write.
        Ok(()) => stream.flush().await,
        Err(error) => Err(error),
    };
    let read = read_answer(stream, wire, exchange).await;
    match (written, read) {
        (Err(error), Err(_)) if exchange.first_byte.is_none() => {
            Err(Failure::new("reset", error.to_string()))
        }
        (_, read) => read,
    }
}

async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
    wire: &Wire,
    exchange: &mut Exchange,
) -> Result<(), Failure> {
    loop {
        let done = poll_fn(|cx| {
            let mut scratch = wire.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            exchange.done = Instant::now();
            Poll::Ready(match read {
                Ok(()) => exchange.take(buffer.filled()),
                // TLS that was not ended before the connection was.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Err(Failure::new("closed", error.to_string()))
                }
                Err(error) => Err(Failure::new("reset", error.to_string())),
            })
        })
        .await?;
        if done {
            return Ok(());
        }
    }
}

impl Exchange {
    /// The next bytes; none when the connection was closed.
    fn take(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        if bytes.is_empty() {
            if self.answer.closed() {
                return Ok(true);
            }
            return Err(match self.first_byte {
                None => Failure::new("closed", "before an answer"),
                Some(_) => Failure::new("closed", "in the middle of an answer"),
            });
        }
        let now = self.done;
        self.first_byte.get_or_insert(now);
        let events = &mut self.events;
        let fed = self.answer.feed(bytes, |status, piece| {
            if let Some(events) = events
                && (200..300).contains(&status)
            {
                events.feed(piece, now);
            }
        });
        let done = fed.map_err(|garbage| Failure::new("garbage", garbage.to_string()))?;
        self.within_bounds().map(|()| done)
    }

    /// A piece of a body that HTTP/2 brought, at `done`.
    pub(crate) fn take_piece(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let (events, now) = (&mut self.events, self.done);
        self.answer.piece_read(piece, |status, piece| {
            if let Some(events) = events
                && (200..300).contains(&status)
            {
                events.feed(piece, now);
            }
        });
        self.within_bounds()
    }

    fn within_bounds(&self) -> Result<(), Failure> {
        if self.answer.body_bytes > BODY_BYTES_MAX {
            return Err(Failure::new("body_too_large", "more than 256 MiB"));
        }
        Ok(())
    }
}
