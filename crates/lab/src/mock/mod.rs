//! A target with known delays, to hold the lab (or any other client) against:
//! HTTP with a chosen distribution of delays, errors and stalls; a chat
//! completion in OpenAI's shape, whole or streamed; items that are made, read,
//! changed and removed, and on request lost. It keeps the exact truth ([`record`]).
//!
//! | path | answers |
//! |---|---|
//! | `POST /items` | 201 with the item and its `id` |
//! | `GET`, `PATCH`, `DELETE /items/{id}` | 200, or 404 |
//! | `POST /v1/chat/completions` | a completion; `stream: true` for events |
//! | `/status/{code}`, `/hang`, `/endless`, `/reset` | that status; nothing, for ever; a body without end; a broken connection |
//! | `/ws/echo`, `/ws/events`, `POST /ws/posts` | WebSockets: see [`sockets`]; 202, and the body is sent to all of `/ws/events` |
//! | `GET /metrics` | a few series in Prometheus' text format |
//! | `GET /lab/record`, `DELETE /lab/record` | the true delays by path; forget them |
//! | anything else | `{"ok": true}` |
//!
//! `?delay=`, `?errors=` override the options for a request. It speaks HTTP/1.1
//! and HTTP/2 on one port, and both over TLS when it is told to. One thread
//! serves all: it is not made to be fast, it is made to be known.

mod certificate;
mod delay;
mod items;
mod record;
mod sockets;
mod stream;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsAcceptor;

pub use delay::Delay;
pub use stream::Tokens;

use crate::dice::Dice;
use crate::timers::Timers;
use crate::units;
use items::Items;
use record::Record;

/// The largest request body, in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// What the mock does unless a request asks for something else.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long an answer takes.
    pub delay: Delay,
    /// How many requests are answered 500, from 0 to 1.
    pub errors: f64,
    /// When nothing at all is answered.
    pub stall: Option<Stall>,
    /// How many writes of items are acknowledged and not carried out, from 0
    /// to 1.
    pub lose: f64,
    /// How completions are streamed.
    pub tokens: Tokens,
    /// TLS, with a certificate of its own.
    pub tls: bool,
    /// All draws follow from it.
    pub seed: u64,
}

impl Default for Options {
    /// A free port of the loopback, no delay, nothing amiss, one token.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            delay: Delay::Constant(Duration::ZERO),
            errors: 0.0,
            stall: None,
            lose: 0.0,
            tokens: Tokens { count: 1, per_event: 1, gap: Duration::ZERO, torn: false },
            tls: false,
            seed: 1,
        }
    }
}

/// From `at` after the first request, for `lasts`, nothing is answered; whoever
/// waits is answered at its end.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// After the first request since the start or since the record was cleared.
    pub at: Duration,
    /// How long.
    pub lasts: Duration,
}

/// A mock that runs on its own thread until it is dropped.
#[derive(Debug)]
pub struct Mock {
    address: SocketAddr,
    certificate: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Mock {
    /// Listens, and serves from then on.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let secured = if options.tls { Some(certificate::make()?) } else { None };
        let (acceptor, certificate) = secured.unzip();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("mock".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, async {
                let server = Server::new(options)?;
                tokio::select! {
                    ended = server.serve(TcpListener::from_std(listener)?, acceptor) => ended,
                    ended = server.timers.drive() => ended,
                    // Dropped or told: both mean the end.
                    _ = stopped => Ok(()),
                }
            })
        })?;
        Ok(Self { address, certificate, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://HOST:PORT`, or `https://HOST:PORT`.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Its certificate as PEM, when it speaks TLS.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; nothing is left to do with it.
            drop(thread.join());
        }
    }
}

/// The whole answer, or one that is made while it is sent.
enum Answer {
    Whole(Option<Bytes>),
    Made(Pin<Box<dyn Stream<Item = io::Result<Bytes>>>>),
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Made(stream) => {
                stream.as_mut().poll_next(cx).map(|part| part.map(|part| part.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(body) => {
                let bytes = body.as_ref().map_or(0, Bytes::len);
                hyper::body::SizeHint::with_exact(bytes as u64)
            }
            Self::Made(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// The streams of one HTTP/2 connection; they end with it.
#[derive(Clone, Default)]
struct Streams(Rc<RefCell<JoinSet<()>>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut streams = self.0.borrow_mut();
        while streams.try_join_next().is_some() {}
        streams.spawn_local(stream);
    }
}

struct Server {
    options: Options,
    dice: Dice,
    timers: Timers,
    requests: Cell<u64>,
    /// The stall counts from here.
    first: Cell<Option<Instant>>,
    record: Rc<RefCell<Record>>,
    items: RefCell<Items>,
    room: Rc<sockets::Room>,
    sockets_made: Cell<u64>,
    /// They end with the mock.
    sockets: RefCell<JoinSet<()>>,
}

impl Server {
    fn new(options: Options) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            dice: Dice::new(options.seed, "mock"),
            options,
            timers: Timers::new()?,
            requests: Cell::default(),
            first: Cell::default(),
            record: Rc::default(),
            items: RefCell::default(),
            room: Rc::new(sockets::Room::new()),
            sockets_made: Cell::default(),
            sockets: RefCell::default(),
        }))
    }

    async fn serve(
        self: &Rc<Self>,
        listener: TcpListener,
        acceptor: Option<TlsAcceptor>,
    ) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                // Those that ended make room.
                Some(_) = connections.join_next() => continue,
            };
            // Without it a client's second packet waits for our acknowledgement.
            stream.set_nodelay(true)?;
            let (server, acceptor) = (Rc::clone(self), acceptor.clone());
            connections.spawn_local(async move {
                let Some(acceptor) = acceptor else { return server.converse(stream).await };
                // Who does not trust us goes away.
                if let Ok(stream) = acceptor.accept(stream).await {
                    server.converse(stream).await;
                }
            });
        }
    }

    async fn converse(
        self: Rc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) {
        let service = service_fn(|request| {
            let server = Rc::clone(&self);
            async move { server.answer(request).await }
        });
        let builder = auto::Builder::new(Streams::default());
        // A client that goes away is its own affair.
        drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
    }

    async fn answer(
        self: Rc<Self>,
        request: http::Request<Incoming>,
    ) -> io::Result<Response<Answer>> {
        let received = Instant::now();
        if let path @ ("/ws/echo" | "/ws/events") = request.uri().path() {
            let is_events = path == "/ws/events";
            return Ok(self.open_socket(request, is_events));
        }
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Ok(whole(StatusCode::PAYLOAD_TOO_LARGE, &json!({"error": "too large"})));
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let path = parts.uri.path();
        match (&parts.method, path) {
            (&Method::GET, "/lab/record") => {
                let mut shown = self.record.borrow().to_json();
                shown["sockets"] = json!(*self.room.counts.borrow());
                return Ok(whole(StatusCode::OK, &shown));
            }
            (&Method::DELETE, "/lab/record") => {
                self.record.borrow_mut().clear();
                self.first.set(None);
                *self.room.counts.borrow_mut() = sockets::Counts::default();
                return Ok(whole(StatusCode::OK, &json!({"ok": true})));
            }
            (&Method::POST, "/ws/posts") => {
                let data = serde_json::from_slice(&body).unwrap_or_default();
                let seq = self.room.post(&data);
                return Ok(whole(StatusCode::ACCEPTED, &json!({"seq": seq})));
            }
            (&Method::GET, "/metrics") => return Ok(self.metrics()),
            (_, "/hang") => std::future::pending::<()>().await,
            (_, "/reset") => return Err(io::Error::other("asked to break the connection")),
            (_, "/endless") => return Ok(endless()),
            _ => {}
        };
        let wishes = match Wishes::read(parts.uri.query(), &self.options) {
            Ok(wishes) => wishes,
            Err(fault) => return Ok(whole(StatusCode::BAD_REQUEST, &json!({"error": fault}))),
        };
        if self.first.get().is_none() {
            self.first.set(Some(received));
        }
        let n = self.requests.replace(self.requests.get() + 1);
        self.wait(received + wishes.delay.draw(self.dice, n)).await;

        let fails = self.dice.fork(1).unit(n) < wishes.errors;
        let name = if path.starts_with("/items/") { "/items/{id}" } else { path };
        if !fails && (&parts.method, path) == (&Method::POST, "/v1/chat/completions") {
            let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
            if asked["stream"] == true {
                return Ok(self.stream_tokens(received));
            }
        }
        let answer = if fails {
            whole(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": "as asked", "request": n}))
        } else {
            self.plain_answer(&parts.method, path, &body, n)
        };
        self.record.borrow_mut().add(name, received.elapsed());
        Ok(answer)
    }

    fn open_socket(
        self: &Rc<Self>,
        mut request: http::Request<Incoming>,
        is_events: bool,
    ) -> Response<Answer> {
        let wishes = match sockets::Wishes::read(request.uri().query()) {
            Ok(wishes) => wishes,
            Err(fault) => return whole(StatusCode::BAD_REQUEST, &json!({"error": fault})),
        };
        let Some(answer) = sockets::accept(request.headers()) else {
            return sockets::not_a_socket();
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let number = self.sockets_made.replace(self.sockets_made.get() + 1);
        let server = Rc::clone(self);
        let mut open = self.sockets.borrow_mut();
        while open.try_join_next().is_some() {}
        open.spawn_local(async move {
            // A client that goes away during the handshake has no socket.
            let Ok(upgraded) = upgrade.await else { return };
            if !is_events {
                return sockets::echo(upgraded).await;
            }
            let record = Rc::clone(&server.record);
            let client = sockets::Client {
                room: Rc::clone(&server.room),
                wishes,
                dice: server.dice.fork(3).fork(number),
                timers: server.timers.clone(),
                record: Box::new(move |lag| record.borrow_mut().add("/ws/events lag", lag)),
            };
            client.serve(upgraded).await;
        });
        answer
    }

    fn metrics(&self) -> Response<Answer> {
        let text = format!(
            "# HELP mock_requests_total Requests that were answered.\n\
             # TYPE mock_requests_total counter\nmock_requests_total {}\n\
             # TYPE mock_items gauge\nmock_items{{kind=\"kept\"}} {}\n",
            self.requests.get(),
            self.items.borrow().len(),
        );
        let mut response = Response::new(Answer::Whole(Some(text.into())));
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    /// Until then, and past the end of a stall that falls on it.
    async fn wait(&self, until: Instant) {
        self.timers.sleep_until(until).await;
        let (Some(stall), Some(first)) = (self.options.stall, self.first.get()) else { return };
        let (begins, ends) = (first + stall.at, first + stall.at + stall.lasts);
        if (begins..ends).contains(&Instant::now()) {
            self.timers.sleep_until(ends).await;
        }
    }

    fn plain_answer(&self, method: &Method, path: &str, body: &[u8], n: u64) -> Response<Answer> {
        if let Some(code) = path.strip_prefix("/status/") {
            let code = code.parse().ok().and_then(|code: u16| StatusCode::from_u16(code).ok());
            let code = code.unwrap_or(StatusCode::BAD_REQUEST);
            return whole(code, &json!({"status": code.as_u16()}));
        }
        let lost = self.dice.fork(2).unit(n) < self.options.lose;
        if let Some((status, item)) = self.items.borrow_mut().answer(method, path, body, lost) {
            return whole(status, &item);
        }
        if path == "/v1/chat/completions" {
            return whole(StatusCode::OK, &self.options.tokens.completion());
        }
        whole(StatusCode::OK, &json!({"ok": true}))
    }

    fn stream_tokens(&self, received: Instant) -> Response<Answer> {
        let parts = self.options.tokens.stream(self.timers.clone(), {
            let record = Rc::clone(&self.record);
            move |moment| {
                let name = format!("/v1/chat/completions {moment}");
                record.borrow_mut().add(&name, received.elapsed());
            }
        });
        let mut response = Response::new(Answer::Made(Box::pin(parts)));
        let kind = http::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// What one request wants.
struct Wishes {
    delay: Delay,
    errors: f64,
}

impl Wishes {
    fn read(query: Option<&str>, options: &Options) -> Result<Self, String> {
        let mut wishes = Self { delay: options.delay, errors: options.errors };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("delay", delay)) => wishes.delay = delay.parse()?,
                Some(("errors", share)) => wishes.errors = units::share(share)?,
                // Clients may number their requests, or whatever they like.
                _ => {}
            }
        }
        Ok(wishes)
    }
}

fn whole(status: StatusCode, body: &Value) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(body.to_string().into())));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn endless() -> Response<Answer> {
    let part = Bytes::from_static(&[b'x'; 16 << 10]);
    let parts = futures::stream::repeat_with(move || Ok(part.clone()));
    Response::new(Answer::Made(Box::pin(parts)))
}
