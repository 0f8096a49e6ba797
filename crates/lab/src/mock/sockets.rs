//! The mock's WebSockets. `/ws/echo` sends back what it gets. `/ws/events`
//! sends to every client what any of them sends, each message with a number
//! that grows by one and the time at which it was made; on request it loses,
//! doubles and reorders messages, and counts how many.
//!
//! A message is `{type: "event", seq, event_type, entity_type, entity_id,
//! timestamp, sent_us, data}`, where `data` is what was sent; one whose data has
//! `safe: true` is neither lost nor doubled nor held back. Text `ping` is
//! answered `{"type":"pong"}`. `{"action":"resume","after":seq}` sends again
//! what came later, as far as it is kept; with `?resume=wait` nothing is sent
//! before that. A client that is too slow gets `{"type":"lagged","from","to"}`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::stream::SplitSink;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Answer, Delay, whole};
use crate::dice::Dice;
use crate::timers::Timers;
use crate::units;

/// Messages that one client may be behind.
const BEHIND_MAX: usize = 16_384;
/// Messages that are kept for those who resume.
const HISTORY_MAX: usize = 16_384;

type Sink = SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>;

/// What is sent to all.
pub(super) struct Room {
    send: broadcast::Sender<Rc<Post>>,
    history: RefCell<VecDeque<Rc<Post>>>,
    last: Cell<u64>,
    pub(super) counts: RefCell<Counts>,
}

/// A message.
pub(super) struct Post {
    seq: u64,
    made: Instant,
    /// Nothing befalls it.
    safe: bool,
    text: String,
}

/// What was done to the messages of all clients.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Counts {
    opened: u64,
    posted: u64,
    sent: u64,
    lost: u64,
    doubled: u64,
    reordered: u64,
    resumed: u64,
}

/// What one client wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    delay: Delay,
    lose: f64,
    double: f64,
    reorder: f64,
    /// Messages after which the connection is closed.
    close_after: Option<u64>,
    waits: bool,
}

impl Wishes {
    pub(super) fn read(query: Option<&str>) -> Result<Self, String> {
        let mut wishes = Self {
            delay: Delay::Constant(Duration::ZERO),
            lose: 0.0,
            double: 0.0,
            reorder: 0.0,
            close_after: None,
            waits: false,
        };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("delay", delay)) => wishes.delay = delay.parse()?,
                Some(("lose", share)) => wishes.lose = units::share(share)?,
                Some(("double", share)) => wishes.double = units::share(share)?,
                Some(("reorder", share)) => wishes.reorder = units::share(share)?,
                Some(("resume", "wait")) => wishes.waits = true,
                Some(("close_after", count)) => {
                    let count = count.parse().map_err(|_| format!("`{count}` is no number"))?;
                    wishes.close_after = Some(count);
                }
                // Clients may add whatever they like.
                _ => {}
            }
        }
        Ok(wishes)
    }
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            send: broadcast::channel(BEHIND_MAX).0,
            history: RefCell::default(),
            last: Cell::default(),
            counts: RefCell::default(),
        }
    }

    /// Sends it to all who are there, and says its number.
    pub(super) fn post(&self, data: &Value) -> u64 {
        let seq = self.last.get() + 1;
        self.last.set(seq);
        let now = jiff::Timestamp::now();
        let text = json!({
            "type": "event", "seq": seq, "event_type": "mock.posted", "entity_type": "mock",
            "entity_id": seq.to_string(), "timestamp": format!("{now:.6}"),
            "sent_us": now.as_microsecond(), "data": data,
        });
        let post = Rc::new(Post {
            seq,
            made: Instant::now(),
            safe: data["safe"] == true,
            text: text.to_string(),
        });
        let mut history = self.history.borrow_mut();
        if history.len() == HISTORY_MAX {
            history.pop_front();
        }
        history.push_back(Rc::clone(&post));
        self.counts.borrow_mut().posted += 1;
        // Nobody may be there.
        drop(self.send.send(post));
        seq
    }
}

/// The answer that turns a connection into a WebSocket; none when the request
/// does not ask for one.
pub(super) fn accept(headers: &HeaderMap) -> Option<Response<Answer>> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let accepted = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()?;
    let mut response = Response::new(Answer::Whole(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    Some(response)
}

pub(super) fn not_a_socket() -> Response<Answer> {
    whole(StatusCode::UPGRADE_REQUIRED, &json!({"error": "this is a WebSocket"}))
}

pub(super) async fn echo(upgraded: Upgraded) {
    let io = TokioIo::new(upgraded);
    let (mut sink, mut stream) =
        WebSocketStream::from_raw_socket(io, Role::Server, None).await.split();
    while let Some(Ok(message)) = stream.next().await {
        let is_data = message.is_text() || message.is_binary();
        if is_data && sink.send(message).await.is_err() {
            return;
        }
    }
}

/// One client of `/ws/events`.
pub(super) struct Client {
    pub(super) room: Rc<Room>,
    pub(super) wishes: Wishes,
    pub(super) dice: Dice,
    pub(super) timers: Timers,
    pub(super) record: Box<dyn Fn(Duration)>,
}

impl Client {
    /// Until the client goes, or is sent away.
    pub(super) async fn serve(self, upgraded: Upgraded) {
        // From here on, so that nothing is missed that is posted after the handshake.
        let mut posts = self.room.send.subscribe();
        self.room.counts.borrow_mut().opened += 1;
        let io = TokioIo::new(upgraded);
        let stream = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let (mut sink, mut stream) = stream.split();
        let mut state = State { waits: self.wishes.waits, ..State::default() };
        loop {
            let went = tokio::select! {
                heard = stream.next() => match heard {
                    Some(Ok(Message::Text(text))) => {
                        self.heard(text.as_str(), &mut sink, &mut state).await
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => Ok(()),
                },
                post = posts.recv(), if !state.waits => match post {
                    Ok(post) if post.seq <= state.reached => Ok(()),
                    Ok(post) => self.deliver(&post, &mut sink, &mut state).await,
                    Err(broadcast::error::RecvError::Lagged(count)) => {
                        let (from, to) = (state.reached + 1, state.reached + count);
                        let lagged = json!({"type": "lagged", "from": from, "to": to});
                        say(&mut sink, &lagged).await
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            };
            if went.is_err() {
                return;
            }
            if self.wishes.close_after.is_some_and(|most| state.delivered >= most) {
                // A client that has gone needs no farewell.
                drop(sink.close().await);
                return;
            }
        }
    }

    async fn heard(&self, text: &str, sink: &mut Sink, state: &mut State) -> io::Result<()> {
        if text == "ping" {
            return say(sink, &json!({"type": "pong"})).await;
        }
        let data: Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        match data["action"].as_str() {
            Some("resume") => {
                let after = data["after"].as_u64().unwrap_or_default();
                self.resume(after, sink, state).await
            }
            Some("filter") => Ok(()),
            _ => {
                self.room.post(&data);
                Ok(())
            }
        }
    }

    async fn resume(&self, after: u64, sink: &mut Sink, state: &mut State) -> io::Result<()> {
        state.waits = false;
        self.room.counts.borrow_mut().resumed += 1;
        let kept: Vec<Rc<Post>> = self.room.history.borrow().iter().cloned().collect();
        if let Some(oldest) = kept.first().map(|post| post.seq).filter(|oldest| after + 1 < *oldest)
        {
            say(sink, &json!({"type": "expired", "oldest": oldest})).await?;
        }
        for post in kept.iter().filter(|post| post.seq > after) {
            self.deliver(post, sink, state).await?;
        }
        Ok(())
    }

    /// As it was wished: late, not at all, twice, or after the next.
    async fn deliver(&self, post: &Rc<Post>, sink: &mut Sink, state: &mut State) -> io::Result<()> {
        state.reached = post.seq;
        let until = post.made + self.wishes.delay.draw(self.dice, post.seq);
        self.timers.sleep_until(until).await;
        let drawn = self.dice.unit(post.seq);
        let Wishes { lose, double, reorder, .. } = self.wishes;
        if drawn < lose && !post.safe {
            self.room.counts.borrow_mut().lost += 1;
        } else if drawn < lose + reorder && state.held.is_none() && !post.safe {
            state.held = Some(Rc::clone(post));
            return Ok(());
        } else {
            self.send(post, sink, state).await?;
            if drawn >= 1.0 - double && !post.safe {
                self.room.counts.borrow_mut().doubled += 1;
                self.send(post, sink, state).await?;
            }
            if let Some(held) = state.held.take() {
                self.room.counts.borrow_mut().reordered += 1;
                self.send(&held, sink, state).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, post: &Post, sink: &mut Sink, state: &mut State) -> io::Result<()> {
        // What the client sees begins when we let go of it.
        (self.record)(post.made.elapsed());
        sink.send(Message::text(post.text.as_str())).await.map_err(io::Error::other)?;
        state.delivered += 1;
        self.room.counts.borrow_mut().sent += 1;
        Ok(())
    }
}

/// How far one client is.
#[derive(Default)]
struct State {
    waits: bool,
    reached: u64,
    delivered: u64,
    /// It goes out after the next.
    held: Option<Rc<Post>>,
}

async fn say(sink: &mut Sink, what: &Value) -> io::Result<()> {
    sink.send(Message::text(what.to_string())).await.map_err(io::Error::other)
}
