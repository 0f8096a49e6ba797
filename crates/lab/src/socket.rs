//! One user's WebSocket (RFC 6455). A task of its own reads it from the moment
//! it is open, so that a frame's time of arrival is its own and not that of the
//! step that asks for it, and pings are answered while the user pauses.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderName, HeaderValue, Uri};
use serde_json::Value;
use serde_json_path::JsonPath;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::connection::{Failure, Wire};
use crate::delivery::{self, Account};
use crate::recorder::{Frame, Recorder};
use crate::transport::Made;

/// The largest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The most header fields of a handshake.
const HEADERS_MAX: usize = 100;
/// Frames that wait for a step to ask for them; the oldest make room.
const INBOX_MAX: usize = 4096;
/// What is kept of a refusal's body, in bytes.
const SHOWN_BODY_BYTES: usize = 2 << 10;

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}
type Stream = WebSocketStream<Box<dyn Duplex>>;

/// What of each frame is followed.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// Only frames at which all of these stand are followed.
    pub(crate) matching: Vec<(JsonPath, Option<Value>)>,
    pub(crate) seq: Option<JsonPath>,
    pub(crate) source: Option<JsonPath>,
    pub(crate) time: Option<JsonPath>,
    /// What the latest frame that is followed leaves for expressions, by slot.
    pub(crate) save: Vec<(usize, JsonPath)>,
}

/// What a user has of its subscription; it outlives the connections.
pub(crate) struct Feed {
    /// The step that opens it.
    pub(crate) endpoint: usize,
    track: Arc<Track>,
    account: RefCell<Account>,
    saved: RefCell<Vec<(usize, Value)>>,
    recorder: Rc<RefCell<Recorder>>,
}

/// A frame that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) text: String,
    /// Null when it is not JSON.
    pub(crate) json: Value,
}

/// An open connection.
pub(crate) struct Socket {
    sink: SplitSink<Stream, Message>,
    inbox: Rc<Inbox>,
    /// Ends with us.
    _reader: JoinSet<()>,
}

struct Inbox {
    feed: Rc<Feed>,
    frames: RefCell<VecDeque<Arrived>>,
    /// Frames are kept for steps to come, not only for one that waits.
    keeps: bool,
    waiting: Cell<bool>,
    arrived: Notify,
    closed: RefCell<Option<Failure>>,
    /// When the target was asked to go on where it had stopped.
    resumed: Cell<Option<Instant>>,
}

/// Why there is no connection.
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    pub(crate) status: Option<u16>,
    pub(crate) body: Vec<u8>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, status: None, body: Vec::new() }
    }
}

impl Feed {
    pub(crate) fn new(
        endpoint: usize,
        track: Arc<Track>,
        recorder: Rc<RefCell<Recorder>>,
    ) -> Rc<Self> {
        let (account, saved) = (RefCell::default(), RefCell::default());
        Rc::new(Self { endpoint, track, account, saved, recorder })
    }

    /// Moves what the latest frames left to where expressions find it.
    pub(crate) fn save_into(&self, slots: &mut [Option<Value>]) {
        for (slot, value) in self.saved.borrow_mut().drain(..) {
            slots[slot] = Some(value);
        }
    }

    /// Nothing will come any more: what is missing is lost.
    pub(crate) fn end(&self) {
        let lost = self.account.borrow_mut().end();
        if lost > 0 {
            self.recorder.borrow_mut().lost(self.endpoint, Instant::now(), lost);
        }
    }

    fn follow(&self, frame: &Arrived, resumed: &Cell<Option<Instant>>) {
        let mut recorded = Frame { bytes: frame.text.len() as u64, ..Frame::default() };
        if stands(&frame.json, &self.track.matching) {
            self.account(&frame.json, &mut recorded);
            if recorded.delivered.is_some() || self.track.seq.is_none() {
                recorded.resumed = resumed.take().map(|asked| frame.at - asked);
            }
            let mut saved = self.saved.borrow_mut();
            for (slot, path) in &self.track.save {
                let Some(value) = path.query(&frame.json).first() else { continue };
                saved.retain(|(other, _)| other != slot);
                saved.push((*slot, value.clone()));
            }
        }
        self.recorder.borrow_mut().frame(self.endpoint, frame.at, &recorded);
    }

    fn account(&self, json: &Value, recorded: &mut Frame) {
        let at = |path: &Option<JsonPath>| path.as_ref().and_then(|path| path.query(json).first());
        if let Some(sent) = at(&self.track.time).and_then(delivery::moment) {
            // A clock that is ahead of ours makes no time negative.
            recorded.lag = Some(SystemTime::now().duration_since(sent).unwrap_or_default());
        }
        if let Some(number) = at(&self.track.seq).and_then(delivery::number) {
            let source = at(&self.track.source).map(crate::expression::as_text);
            let source = source.unwrap_or_default();
            recorded.delivered = Some(self.account.borrow_mut().take(&source, number));
        }
    }
}

/// Whether all of it stands there.
pub(crate) fn stands(json: &Value, wanted: &[(JsonPath, Option<Value>)]) -> bool {
    wanted.iter().all(|(path, value)| {
        let found = path.query(json).first();
        value.as_ref().map_or(found.is_some(), |value| found == Some(value))
    })
}

impl Socket {
    /// Shakes hands; `request` is written as for HTTP/1.1.
    pub(crate) async fn open(
        wire: &Wire,
        request: &[u8],
        feed: Rc<Feed>,
        keeps: bool,
    ) -> Result<Self, Refused> {
        let request = read_request(request)?;
        let stream: Box<dyn Duplex> = match wire.connector.connect_http1(wire.address).await? {
            Made::Plain(stream) | Made::PlainH2(stream) => Box::new(stream),
            Made::Tls(stream) | Made::TlsH2(stream) => stream,
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let opened = client_async_with_config(request, stream, Some(config)).await;
        let (stream, _) = opened.map_err(refused)?;
        let (sink, stream) = stream.split();
        let inbox = Rc::new(Inbox {
            feed,
            keeps,
            frames: RefCell::default(),
            waiting: Cell::default(),
            arrived: Notify::new(),
            closed: RefCell::default(),
            resumed: Cell::default(),
        });
        let mut reader = JoinSet::new();
        reader.spawn_local(read(stream, Rc::clone(&inbox)));
        Ok(Self { sink, inbox, _reader: reader })
    }

    /// Why it is closed, once it is.
    pub(crate) fn closed(&self) -> Option<Failure> {
        let closed = self.inbox.closed.borrow();
        closed.as_ref().map(|failure| Failure::new(failure.class, failure.detail.clone()))
    }

    /// Says that we go; nobody waits for the target to say so too.
    pub(crate) async fn close(mut self) {
        // One that is gone already needs no farewell.
        drop(self.sink.close().await);
    }

    pub(crate) async fn send(&mut self, text: String) -> Result<(), Failure> {
        self.sink.send(Message::text(text)).await.map_err(|error| broken(&error))
    }

    /// The next frames tell how long the target took to go on.
    pub(crate) fn resumes(&self) {
        self.inbox.resumed.set(Some(Instant::now()));
    }

    /// From here on frames are kept for [`Self::next`].
    pub(crate) fn listen(&self) {
        if !self.inbox.keeps {
            self.inbox.frames.borrow_mut().clear();
        }
        self.inbox.waiting.set(true);
    }

    /// The next frame that is wanted: with `since` the first after that, while
    /// others stay for steps to come; without it the first since the last that
    /// was taken, and what came before it is passed over.
    pub(crate) async fn next(
        &self,
        since: Option<Instant>,
        wanted: impl Fn(&Arrived) -> bool,
    ) -> Result<Arrived, Failure> {
        let is_new = |frame: &Arrived| since.is_none_or(|since| frame.at >= since);
        loop {
            let found = {
                let mut frames = self.inbox.frames.borrow_mut();
                let found = frames.iter().position(|frame| is_new(frame) && wanted(frame));
                if let (Some(position), None) = (found, since) {
                    frames.drain(..position);
                }
                let at = if since.is_none() { found.map(|_| 0) } else { found };
                at.and_then(|position| frames.remove(position))
            };
            if let Some(frame) = found {
                return Ok(frame);
            }
            if let Some(failure) = self.closed() {
                return Err(failure);
            }
            self.inbox.arrived.notified().await;
        }
    }

    /// No step waits any more.
    pub(crate) fn heard(&self) {
        self.inbox.waiting.set(false);
        if !self.inbox.keeps {
            self.inbox.frames.borrow_mut().clear();
        }
    }
}

async fn read(mut stream: SplitStream<Stream>, inbox: Rc<Inbox>) {
    loop {
        let message = stream.next().await;
        let at = Instant::now();
        match message {
            Some(Ok(Message::Text(text))) => inbox.take(at, text.as_str()),
            Some(Ok(Message::Binary(bytes))) => inbox.take(at, &String::from_utf8_lossy(&bytes)),
            Some(Ok(Message::Close(frame))) => {
                let detail = frame.map_or_else(
                    || "without a code".to_owned(),
                    |frame| format!("code {} {}", u16::from(frame.code), frame.reason),
                );
                return inbox.close(Failure::new("ws_closed", detail));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Err(error)) => return inbox.close(broken(&error)),
            None => return inbox.close(Failure::new("ws_closed", "without a closing frame")),
        }
    }
}

impl Inbox {
    fn take(&self, at: Instant, text: &str) {
        let json = serde_json::from_str(text).unwrap_or_default();
        let frame = Arrived { at, text: text.to_owned(), json };
        self.feed.follow(&frame, &self.resumed);
        if !self.keeps && !self.waiting.get() {
            return;
        }
        let mut frames = self.frames.borrow_mut();
        if frames.len() == INBOX_MAX {
            frames.pop_front();
            self.feed.recorder.borrow_mut().forgotten(self.feed.endpoint, at);
        }
        frames.push_back(frame);
        self.arrived.notify_one();
    }

    fn close(&self, failure: Failure) {
        self.feed.recorder.borrow_mut().closed(self.feed.endpoint, Instant::now());
        *self.closed.borrow_mut() = Some(failure);
        self.arrived.notify_one();
    }
}

fn broken(error: &Error) -> Failure {
    let class = match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(
            ProtocolError::SendAfterClosing | ProtocolError::ResetWithoutClosingHandshake,
        ) => "ws_closed",
        Error::Io(_) => "reset",
        Error::Capacity(_) => "ws_message_too_large",
        _ => "garbage",
    };
    Failure::new(class, error.to_string())
}

fn refused(error: Error) -> Refused {
    if let Error::Http(response) = error {
        let status = response.status().as_u16();
        let mut body = response.into_body().unwrap_or_default();
        body.truncate(SHOWN_BODY_BYTES);
        let failure = Failure::new("ws_refused", format!("status {status}"));
        return Refused { failure, status: Some(status), body };
    }
    broken(&error).into()
}

/// The request of the handshake, with the fields that make it one.
fn read_request(bytes: &[u8]) -> Result<http::Request<()>, Failure> {
    let wrong = |detail: String| Failure::new("bad_request", detail);
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    head.parse(bytes).map_err(|error| wrong(error.to_string()))?;
    let mut request = http::Request::new(());
    let headers = request.headers_mut();
    let mut host = "";
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(wrong(format!("the field {}", field.name)));
        };
        if name == http::header::HOST {
            host = std::str::from_utf8(field.value).unwrap_or_default();
        }
        headers.append(name, value);
    }
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
    let key = HeaderValue::try_from(generate_key()).map_err(|error| wrong(error.to_string()))?;
    headers.insert("sec-websocket-key", key);
    let uri = format!("ws://{host}{}", head.path.unwrap_or("/"));
    *request.uri_mut() = uri.parse::<Uri>().map_err(|error| wrong(error.to_string()))?;
    Ok(request)
}
