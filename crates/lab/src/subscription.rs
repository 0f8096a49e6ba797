//! What a user does with its WebSocket: the steps `connect`, `send`, `receive`
//! and `reconnect`, with the same times and outcomes as any other step. A
//! socket that the target closed fails the step that finds it so; the next one
//! opens it again first.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use serde_json_path::JsonPath;

use crate::connection::Failure;
use crate::expression::{Escape, NoValue, Scope};
use crate::recorder::{Failed, Outcome, Times};
use crate::scenario::{Act, Connect, Piece, Step, Wanted, render};
use crate::socket::{Arrived, Feed, Refused, Socket, stands};
use crate::worker::{User, Worker};

/// One user's socket, and what it has got over it.
pub(crate) struct Subscription {
    pub(crate) feed: Rc<Feed>,
    /// None while it is away, and when it could not be opened again.
    socket: Option<Socket>,
    /// A step has failed because it is closed.
    told: bool,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feed.end();
    }
}

impl Subscription {
    pub(crate) async fn close(mut self: Box<Self>) {
        if let Some(socket) = self.socket.take() {
            socket.close().await;
        }
    }

    fn is_gone(&self) -> bool {
        self.socket.as_ref().is_none_or(|socket| socket.closed().is_some())
    }
}

/// What a step brought.
struct Heard {
    first_byte: Option<Instant>,
    done: Instant,
    bytes: u64,
    text: String,
    saved: Vec<(usize, Value)>,
}

impl Heard {
    fn nothing() -> Self {
        let (text, saved) = (String::new(), Vec::new());
        Self { first_byte: None, done: Instant::now(), bytes: 0, text, saved }
    }
}

impl From<NoValue> for Refused {
    fn from(error: NoValue) -> Self {
        Failure::new("no_value", error.to_string()).into()
    }
}

/// A number of the iteration, and how often it has drawn.
type Turn<'a> = (u64, &'a Cell<u64>);

impl Worker {
    pub(crate) async fn socket_step(
        &self,
        user: &mut User,
        (step, act): (&Step, &Act),
        turn: Turn<'_>,
        mut intended: Instant,
        mut eligible: Instant,
    ) -> (Instant, bool) {
        match act {
            Act::Connect(_) => {}
            Act::Reconnect { away } => {
                if let Some(subscription) = &mut user.subscription {
                    subscription.socket = None;
                }
                self.timers.sleep(*away).await;
                (intended, eligible) = (Instant::now(), Instant::now());
            }
            Act::Send { .. } | Act::Receive { .. } => {
                if user.subscription.as_ref().is_some_and(|all| all.told && all.is_gone()) {
                    if !self.open_again(user, turn).await {
                        return (Instant::now(), false);
                    }
                    (intended, eligible) = (Instant::now(), Instant::now());
                }
            }
        }
        let sent = Instant::now();
        let timeout = self.shared.plan.timeout;
        let ended = tokio::time::timeout(timeout, self.act(user, step, act, turn)).await;
        let ended = ended
            .unwrap_or_else(|_| Err(Failure::new("timeout", format!("after {timeout:?}")).into()));
        if let Some(socket) = user.subscription.as_ref().and_then(|all| all.socket.as_ref()) {
            socket.heard();
        }
        let times = Times { intended, eligible, sent, first_byte: None, done: Instant::now() };
        self.told(user, step.endpoint, times, ended)
    }

    /// Records it.
    fn told(
        &self,
        user: &mut User,
        endpoint: usize,
        mut times: Times,
        ended: Result<Heard, Refused>,
    ) -> (Instant, bool) {
        match ended {
            Ok(heard) => {
                (times.first_byte, times.done) = (heard.first_byte, heard.done);
                user.failures_to_connect = 0;
                for (slot, value) in heard.saved {
                    user.saved[slot] = Some(value);
                }
                let body = heard.text.as_bytes();
                let outcome = Outcome::Ok { body_bytes: heard.bytes, body, streamed: None };
                self.recorder.borrow_mut().request(endpoint, &times, &outcome);
                (times.done, true)
            }
            Err(refused) => {
                let failure = &refused.failure;
                if failure.is_of_connecting() {
                    user.failures_to_connect = user.failures_to_connect.saturating_add(1);
                }
                if let Some(subscription) = &mut user.subscription {
                    subscription.told |= subscription.is_gone();
                }
                self.failure(
                    endpoint,
                    &times,
                    &Failed {
                        class: failure.class,
                        detail: &failure.detail,
                        status: refused.status,
                        body_bytes: refused.body.len() as u64,
                        body: &refused.body,
                    },
                );
                (times.done, false)
            }
        }
    }

    /// As a step of its own, in the row of the one that opened it.
    async fn open_again(&self, user: &mut User, turn: Turn<'_>) -> bool {
        let Some(endpoint) = user.subscription.as_ref().map(|all| all.feed.endpoint) else {
            return false;
        };
        let sent = Instant::now();
        let timeout = self.shared.plan.timeout;
        let ended = tokio::time::timeout(timeout, self.reconnect(user, turn)).await;
        let ended = ended.unwrap_or_else(|_| {
            Err(Failure::new("connect_timeout", format!("after {timeout:?}")).into())
        });
        let times =
            Times { intended: sent, eligible: sent, sent, first_byte: None, done: Instant::now() };
        self.told(user, endpoint, times, ended).1
    }

    async fn act(
        &self,
        user: &mut User,
        step: &Step,
        act: &Act,
        turn: Turn<'_>,
    ) -> Result<Heard, Refused> {
        match act {
            Act::Connect(connect) => self.connect(user, step, connect, turn).await,
            Act::Reconnect { .. } => self.reconnect(user, turn).await,
            Act::Send { frame, answer } => {
                self.send(user, (frame, answer.as_ref()), &step.save, turn).await
            }
            Act::Receive { count, wanted } => {
                self.receive(user, (*count, wanted), &step.save, turn).await
            }
        }
    }

    async fn connect(
        &self,
        user: &mut User,
        step: &Step,
        connect: &Connect,
        (iteration, draws): Turn<'_>,
    ) -> Result<Heard, Refused> {
        if let Some(before) = user.subscription.take() {
            before.close().await;
        }
        let request = step.request.render(&self.scope(user, iteration, draws))?;
        let recorder = Rc::clone(&self.recorder);
        let feed = Feed::new(step.endpoint, Arc::clone(&connect.track), recorder);
        // Also when it fails, so that it can be opened later.
        let subscription = Subscription { feed: Rc::clone(&feed), socket: None, told: true };
        let subscription = user.subscription.insert(Box::new(subscription));
        self.recorder.borrow_mut().connects += 1;
        let socket = Socket::open(&self.wire, &request, feed, self.keeps_frames).await?;
        (subscription.socket, subscription.told) = (Some(socket), false);
        let done = Instant::now();
        Ok(Heard { first_byte: Some(done), done, ..Heard::nothing() })
    }

    async fn reconnect(
        &self,
        user: &mut User,
        (iteration, draws): Turn<'_>,
    ) -> Result<Heard, Refused> {
        let Some(feed) = user.subscription.as_ref().map(|all| Rc::clone(&all.feed)) else {
            return Err(not_connected());
        };
        feed.save_into(&mut user.saved);
        let step = self.shared.plan.step(feed.endpoint);
        let Some((step, Some(Act::Connect(connect)))) =
            step.map(|step| (step, step.socket.as_deref()))
        else {
            return Err(not_connected());
        };
        let scope = self.scope(user, iteration, draws);
        // Whoever has got nothing yet has nothing to go on from.
        let again = match &connect.again {
            Some(request) => match request.render(&scope) {
                Err(NoValue::NotSaved(_)) => None,
                rendered => Some(rendered?),
            },
            None => None,
        };
        let goes_on = again.is_some();
        let request = again.map_or_else(|| step.request.render(&scope), Ok)?;
        let resume = match &connect.resume {
            Some(pieces) => match text_of(pieces, &scope) {
                Ok(text) => Some(text),
                Err(NoValue::NotSaved(_)) => None,
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        self.recorder.borrow_mut().connects += 1;
        let endpoint = feed.endpoint;
        let mut socket = Socket::open(&self.wire, &request, feed, self.keeps_frames).await?;
        let first_byte = Some(Instant::now());
        self.recorder.borrow_mut().reconnected(endpoint, Instant::now());
        if goes_on || resume.is_some() {
            socket.resumes();
        }
        if let Some(resume) = resume {
            socket.send(resume).await?;
        }
        if let Some(subscription) = &mut user.subscription {
            (subscription.socket, subscription.told) = (Some(socket), false);
        }
        Ok(Heard { first_byte, ..Heard::nothing() })
    }

    async fn send(
        &self,
        user: &mut User,
        (frame, answer): (&[Piece], Option<&Wanted>),
        save: &[(usize, JsonPath)],
        (iteration, draws): Turn<'_>,
    ) -> Result<Heard, Refused> {
        let scope = self.scope(user, iteration, draws);
        let text = text_of(frame, &scope)?;
        let wanted = answer.map(|answer| Rendered::of(answer, &scope)).transpose()?;
        let socket = open_socket(user)?;
        if wanted.is_some() {
            socket.listen();
        }
        let since = Instant::now();
        socket.send(text).await?;
        let Some(wanted) = wanted else { return Ok(Heard::nothing()) };
        let frame = socket.next(Some(since), |frame| wanted.is(frame)).await?;
        let bytes = frame.text.len() as u64;
        let saved = saved(save, &frame)?;
        Ok(Heard { first_byte: Some(frame.at), done: frame.at, bytes, text: frame.text, saved })
    }

    async fn receive(
        &self,
        user: &mut User,
        (count, wanted): (u64, &Wanted),
        save: &[(usize, JsonPath)],
        (iteration, draws): Turn<'_>,
    ) -> Result<Heard, Refused> {
        let wanted = Rendered::of(wanted, &self.scope(user, iteration, draws))?;
        let began = Instant::now();
        let socket = open_socket(user)?;
        let mut heard = Heard::nothing();
        for number in 1..=count {
            let frame = socket.next(None, |frame| wanted.is(frame)).await?;
            // What came while nobody asked was there at once.
            heard.first_byte.get_or_insert(frame.at.max(began));
            heard.done = frame.at.max(began);
            heard.bytes += frame.text.len() as u64;
            if number == count {
                heard.saved = saved(save, &frame)?;
                heard.text = frame.text;
            }
        }
        Ok(heard)
    }
}

fn not_connected() -> Refused {
    Failure::new("ws_not_connected", "no step has connected").into()
}

fn open_socket(user: &mut User) -> Result<&mut Socket, Refused> {
    let socket = user.subscription.as_mut().and_then(|all| all.socket.as_mut());
    let Some(socket) = socket else { return Err(not_connected()) };
    Ok(socket)
}

fn text_of(pieces: &[Piece], scope: &Scope<'_>) -> Result<String, NoValue> {
    let mut bytes = Vec::new();
    render(pieces, scope, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn saved(save: &[(usize, JsonPath)], frame: &Arrived) -> Result<Vec<(usize, Value)>, Refused> {
    let found = save.iter().map(|(slot, path)| match path.query(&frame.json).first() {
        Some(value) => Ok((*slot, value.clone())),
        None => Err(Failure::new("save", format!("nothing stands at {path}")).into()),
    });
    found.collect()
}

/// A frame that is waited for, with this iteration's values.
struct Rendered {
    json: Vec<(JsonPath, Option<Value>)>,
    text: Option<String>,
}

impl Rendered {
    fn of(wanted: &Wanted, scope: &Scope<'_>) -> Result<Self, NoValue> {
        let json = wanted.json.iter().map(|(path, expected)| {
            let value = expected.as_ref().map(|expected| expected.value(scope)).transpose()?;
            Ok((path.clone(), value.map(std::borrow::Cow::into_owned)))
        });
        let json = json.collect::<Result<_, NoValue>>()?;
        let text = wanted.text.as_ref().map(|template| {
            let mut bytes = Vec::new();
            template.render(scope, &mut bytes, Escape::None)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        Ok(Self { json, text: text.transpose()? })
    }

    fn is(&self, frame: &Arrived) -> bool {
        self.text.as_ref().is_none_or(|text| frame.text.contains(text.as_str()))
            && stands(&frame.json, &self.json)
    }
}
