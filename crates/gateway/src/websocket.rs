//! WebSocket over HTTP/1.1 (RFC 6455): the handshake, and a connection that
//! carries frames which were written once for all clients. Reading, masking,
//! fragments, UTF-8 and the closing handshake are tungstenite's; frames that
//! go out are handed to the socket as they are, without a copy. What messages
//! mean belongs to `api`.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::{Code, Error};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as Fault, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use crate::context::Failure;
use crate::server::Place;
use crate::socket::Socket;

/// The subprotocol that clients may ask for; a browser that asks for one at all
/// must be given one.
pub const SUBPROTOCOL: &str = "agentry.events";
/// Bytes of a client's message at most, in one frame or several. Clients send
/// filters, which are short.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1_024;
/// Bytes of a client's frame at most.
pub const FRAME_BYTES_MAX: usize = 64 * 1_024;
/// What is read at once, and so what an idle connection holds.
const READ_BYTES: usize = 1_024;
/// What the kernel holds of a connection that is not read. Without it a client
/// that stops reading would cost megabytes. The kernel doubles it.
const SEND_BUFFER_BYTES: usize = 64 * 1_024;
/// How long the closing handshake may take (RFC 6455, section 7.1.1).
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// What is still read of a peer that was told to go.
const DISCARDED_BYTES_MAX: usize = 256 * 1_024;
/// How long the connection may take to become a WebSocket.
const UPGRADE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a control frame's payload at most (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: usize = 125;
/// Bytes of a `Sec-WebSocket-Key` once decoded (RFC 6455, section 4.1).
const KEY_BYTES: usize = 16;

const TEXT_FRAME: u8 = 0x81;
const CLOSE_FRAME: u8 = 0x88;
const PING_FRAME: u8 = 0x89;

/// Why a connection is closed (RFC 6455, section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseWhy {
    /// The server stops.
    GoingAway,
    /// The peer broke the protocol.
    Protocol,
    /// The peer sent what is not read here.
    Unsupported,
    /// A text is not UTF-8.
    NotUtf8,
    /// The peer may not be here any more.
    Policy,
    /// A frame or message is too large.
    TooBig,
    /// A failure on our side.
    Internal,
}

impl CloseWhy {
    /// The status code.
    pub const fn code(self) -> u16 {
        match self {
            CloseWhy::GoingAway => 1001,
            CloseWhy::Protocol => 1002,
            CloseWhy::Unsupported => 1003,
            CloseWhy::NotUtf8 => 1007,
            CloseWhy::Policy => 1008,
            CloseWhy::TooBig => 1009,
            CloseWhy::Internal => 1011,
        }
    }
}

/// What a client sent.
#[derive(Debug)]
pub enum Incoming {
    /// A text.
    Text(String),
    /// Bytes.
    Binary,
    /// A ping, which was answered, or a pong.
    Alive,
    /// The end: the closing handshake is over, or the connection broke.
    Gone,
    /// The peer broke a rule and has to be told.
    Broken(CloseWhy),
}

type Serve = Box<dyn FnOnce(WebSocket) -> BoxFuture<'static, ()> + Send>;

/// A request that asks for a WebSocket, checked as RFC 6455, section 4.2.1 wants
/// it; `upgrade_required` for any other.
pub struct WebSocketUpgrade {
    accept: String,
    has_subprotocol: bool,
    on_upgrade: OnUpgrade,
    place: Option<Place>,
}

/// What takes a connection over once its answer was sent. Travels in the
/// answer's extensions, which want clones.
#[derive(Clone)]
pub(crate) struct Takeover(Arc<Mutex<Option<Taking>>>);

struct Taking {
    on_upgrade: OnUpgrade,
    place: Option<Place>,
    serve: Serve,
}

impl<S: Send + Sync> FromRequestParts<S> for WebSocketUpgrade {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let refused = |detail: &'static str| Error::new(Code::UpgradeRequired, detail);
        let headers = &parts.headers;
        if parts.method != Method::GET || parts.version != Version::HTTP_11 {
            return Err(refused("a WebSocket is asked for with GET over HTTP/1.1").into());
        }
        if !has_token(headers, &header::CONNECTION, "upgrade")
            || !has_token(headers, &header::UPGRADE, "websocket")
        {
            return Err(refused("send Connection: Upgrade and Upgrade: websocket").into());
        }
        if one(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(refused("Sec-WebSocket-Version must be 13").into());
        }
        let key = one(headers, &header::SEC_WEBSOCKET_KEY)
            .filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES))
            .ok_or_else(|| refused("Sec-WebSocket-Key must be 16 bytes in base64, once"))?;
        let accept = derive_accept_key(key.as_bytes());
        let has_subprotocol = subprotocols(headers).any(|name| name == SUBPROTOCOL);
        let on_upgrade = parts
            .extensions
            .remove::<OnUpgrade>()
            .ok_or_else(|| refused("this connection cannot be upgraded"))?;
        let place = parts.extensions.remove::<Place>();
        Ok(Self { accept, has_subprotocol, on_upgrade, place })
    }
}

impl WebSocketUpgrade {
    /// Answers 101 and gives the connection to `serve`. The request's permit, its
    /// place among the connections and its line in the log last until `serve` ends.
    pub fn serve<F>(self, serve: impl FnOnce(WebSocket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { accept, has_subprotocol, on_upgrade, place } = self;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if has_subprotocol {
            let name = HeaderValue::from_static(SUBPROTOCOL);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
        let serve: Serve = Box::new(|socket| serve(socket).boxed());
        let taking = Taking { on_upgrade, place, serve };
        response.extensions_mut().insert(Takeover(Arc::new(Mutex::new(Some(taking)))));
        response
    }
}

impl Takeover {
    /// Serves the WebSocket to its end.
    pub(crate) async fn run(self) {
        let Some(taking) = self.0.lock().take() else { return };
        let Taking { on_upgrade, place: _place, serve } = taking;
        // A client that goes away before it read the answer is nobody's fault.
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_WITHIN, on_upgrade).await else {
            return;
        };
        match downcast::<TokioIo<Socket>>(upgraded) {
            Ok(parts) => {
                let stream = parts.io.into_inner().into_stream();
                let read = parts.read_buf.to_vec();
                // However little is in it, it holds all that HTTP read into.
                drop(parts.read_buf);
                let socket = WebSocket::new(stream, read).await;
                serve(socket).await;
            }
            Err(_) => tracing::error!("an upgraded connection is not one of our own"),
        }
    }
}

/// The subprotocols that a client offers.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL)
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The value of a header that must come once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(value)
}

/// A WebSocket, on the server's side.
pub struct WebSocket {
    inner: WebSocketStream<TcpStream>,
    /// The rest of what was begun to be sent, or waits to be. Nothing else may be
    /// written before it.
    pending: Vec<u8>,
    /// Whether the peer is slower than we are.
    blocked: bool,
}

impl WebSocket {
    async fn new(stream: TcpStream, read: Vec<u8>) -> Self {
        // When it cannot be set the connection only costs more.
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(MESSAGE_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let inner =
            WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
        Self { inner, pending: Vec::new(), blocked: false }
    }

    /// The next thing from the client. Not to be called while
    /// [`WebSocket::is_blocked`]: an answer to a ping must not come into the
    /// middle of a frame. May be dropped and called again.
    pub async fn receive(&mut self) -> Incoming {
        match self.inner.next().await {
            Some(Ok(Message::Text(text))) => Incoming::Text(text.as_str().to_owned()),
            Some(Ok(Message::Binary(_) | Message::Frame(_))) => Incoming::Binary,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::Alive,
            Some(Ok(Message::Close(_))) => {
                // The answer was queued; the server closes first (section 7.1.1).
                let _ = tokio::time::timeout(CLOSE_WITHIN, self.inner.flush()).await;
                self.hang_up().await;
                Incoming::Gone
            }
            Some(Err(fault)) => why(&fault).map_or(Incoming::Gone, Incoming::Broken),
            None => Incoming::Gone,
        }
    }

    /// Whether something waits for the peer to read.
    pub fn is_blocked(&self) -> bool {
        self.blocked || !self.pending.is_empty()
    }

    /// Sends what waits. May be dropped and called again.
    pub async fn unblock(&mut self) -> io::Result<()> {
        self.inner.flush().await.map_err(io::Error::other)?;
        while !self.pending.is_empty() {
            self.inner.get_ref().writable().await?;
            match self.inner.get_ref().try_write(&self.pending) {
                Ok(sent) => drop(self.pending.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        // What is idle holds nothing.
        self.pending = Vec::new();
        if self.blocked {
            self.inner.get_ref().writable().await?;
            self.blocked = false;
        }
        Ok(())
    }

    /// Adds a text of our own to what waits.
    pub fn text(&mut self, text: &str) {
        self.pending.push(TEXT_FRAME);
        match (u8::try_from(text.len()), u16::try_from(text.len())) {
            (Ok(short), _) if usize::from(short) <= CONTROL_BYTES_MAX => self.pending.push(short),
            (_, Ok(medium)) => {
                self.pending.push(126);
                self.pending.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                self.pending.push(127);
                self.pending.extend_from_slice(&(text.len() as u64).to_be_bytes());
            }
        }
        self.pending.extend_from_slice(text.as_bytes());
    }

    /// Adds a ping to what waits.
    pub fn ping(&mut self) {
        self.pending.extend_from_slice(&[PING_FRAME, 0]);
    }

    /// Hands frames to the socket, as many bytes as it takes at once; how many.
    /// Whoever sees that it were not all must call [`WebSocket::rest`] with the
    /// rest of the frame that was begun, if there is one. Not to be called while
    /// [`WebSocket::is_blocked`].
    pub fn send(&mut self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        // An answer to a ping may still be on its way.
        match self.inner.flush().now_or_never() {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => {
                self.blocked = true;
                return Ok(0);
            }
        }
        let all: usize = frames.iter().map(|frame| frame.len()).sum();
        let sent = match self.inner.get_ref().try_write_vectored(frames) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.blocked = sent < all;
        Ok(sent)
    }

    /// The rest of a frame that was begun.
    pub fn rest(&mut self, rest: &[u8]) {
        self.pending.extend_from_slice(rest);
    }

    /// Tells the peer why the connection ends, and ends it.
    pub async fn close(mut self, why: CloseWhy, reason: &str) {
        let reason = &reason.as_bytes()[..reason.len().min(CONTROL_BYTES_MAX - 2)];
        self.pending.extend_from_slice(&[CLOSE_FRAME, 2 + reason.len() as u8]);
        self.pending.extend_from_slice(&why.code().to_be_bytes());
        self.pending.extend_from_slice(reason);
        self.blocked = false;
        if let Ok(Ok(())) = tokio::time::timeout(CLOSE_WITHIN, self.finish()).await {
            self.hang_up().await;
        }
    }

    /// Sends what waits, whatever state the protocol is in.
    async fn finish(&mut self) -> io::Result<()> {
        let _ = self.inner.flush().await;
        let pending = std::mem::take(&mut self.pending);
        self.inner.get_mut().write_all(&pending).await
    }

    /// Closes our side and reads what the peer still sends, so that closing does
    /// not throw away what it has not read yet.
    async fn hang_up(&mut self) {
        let stream = self.inner.get_mut();
        let discarding = async {
            let _ = stream.shutdown().await;
            let mut bytes = [0; 512];
            let mut discarded = 0;
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                discarded += read;
                if discarded > DISCARDED_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, discarding).await;
    }
}

/// What a peer that caused this has to be told; none when it is gone.
fn why(fault: &Fault) -> Option<CloseWhy> {
    match fault {
        Fault::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::ReceivedAfterClosing,
        )
        | Fault::ConnectionClosed
        | Fault::AlreadyClosed
        | Fault::Io(_) => None,
        Fault::Utf8(_) => Some(CloseWhy::NotUtf8),
        Fault::Capacity(_) => Some(CloseWhy::TooBig),
        Fault::Protocol(_) | Fault::AttackAttempt => Some(CloseWhy::Protocol),
        _ => Some(CloseWhy::Internal),
    }
}
