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
//! | `GET /lab/record`, `DELETE /lab/record` | the true delays by path; forget them |
//! | anything else | `{"ok": true}` |
//!
//! `?delay=`, `?errors=` override the options for a request. One thread serves
//! all: it is not made to be fast, it is made to be known.

mod delay;
mod items;
mod record;
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
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

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
    /// All draws follow from it.
    pub seed: u64,
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
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("mock".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, async {
                let server = Server::new(options)?;
                tokio::select! {
                    ended = server.serve(TcpListener::from_std(listener)?) => ended,
                    ended = server.timers.drive() => ended,
                    // Dropped or told: both mean the end.
                    _ = stopped => Ok(()),
                }
            })
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
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

struct Server {
    options: Options,
    dice: Dice,
    timers: Timers,
    requests: Cell<u64>,
    /// The stall counts from here.
    first: Cell<Option<Instant>>,
    record: Rc<RefCell<Record>>,
    items: RefCell<Items>,
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
        }))
    }

    async fn serve(self: &Rc<Self>, listener: TcpListener) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                // Those that ended make room.
                Some(_) = connections.join_next() => continue,
            };
            // Without it a client's second packet waits for our acknowledgement.
            stream.set_nodelay(true)?;
            let server = Rc::clone(self);
            connections.spawn_local(async move {
                let service = service_fn(|request| {
                    let server = Rc::clone(&server);
                    async move { server.answer(request).await }
                });
                // A client that goes away is its own affair.
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    }

    async fn answer(
        self: Rc<Self>,
        request: http::Request<Incoming>,
    ) -> io::Result<Response<Answer>> {
        let received = Instant::now();
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
                return Ok(whole(StatusCode::OK, &self.record.borrow().to_json()));
            }
            (&Method::DELETE, "/lab/record") => {
                self.record.borrow_mut().clear();
                self.first.set(None);
                return Ok(whole(StatusCode::OK, &json!({"ok": true})));
            }
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
