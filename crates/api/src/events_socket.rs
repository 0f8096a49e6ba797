//! Events over WebSocket. What the client may send: the text `ping`,
//! `{"action":"filter",...}` and `{"action":"resume","after":seq}`. What it gets:
//! `ready`, events, and an answer to each of those; docs/events.md shows all.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::time::Duration;

use agentry_domain::{Code, Error, Fault, Result};
use agentry_events::{Batch, Delivery, Filter, Subscription, WhenLate};
use agentry_gateway::{Authenticated, CloseWhy, Incoming, WebSocket, WebSocketUpgrade};
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::answer::Handled;
use crate::events::{EventQuery, FilterLists, check_filter, read_filter, start};
use crate::extract::Query;
use crate::state::ApiState;

/// How often the server asks a silent client whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that has been silent for so many of these is gone.
const PINGS_UNANSWERED_MAX: u32 = 2;
/// How long a client may leave what was sent unread.
const STALL_MAX: Duration = Duration::from_secs(30);
/// A connection ends after this; its client resumes elsewhere.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Pieces of a batch that one call hands to the socket.
const PIECES_MAX: usize = 64;

/// Follow events over WebSocket
///
/// Everything the caller may hear of, unless the query or a message says less.
#[utoipa::path(
    get,
    path = "/api/v1/ws/events",
    tag = "events",
    params(EventQuery),
    responses(
        (status = 101, description = "The connection speaks WebSocket."),
        (status = 426, description = "The request does not ask for a WebSocket."),
    ),
)]
pub async fn event_socket(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(EventQuery { filter, after }): Query<EventQuery>,
    upgrade: WebSocketUpgrade,
) -> Handled {
    check_filter(&filter, &caller)?;
    let subscription = state.events.subscribe(caller, filter, start(after), WhenLate::Tell).await?;
    Ok(upgrade.serve(|socket| serve(socket, subscription)))
}

/// Follow some events over WebSocket
///
/// Nothing, until the query or a message says what.
#[utoipa::path(
    get,
    path = "/api/v1/ws/events/filtered",
    tag = "events",
    params(EventQuery),
    responses(
        (status = 101, description = "The connection speaks WebSocket."),
        (status = 426, description = "The request does not ask for a WebSocket."),
    ),
)]
pub async fn event_socket_filtered(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(EventQuery { mut filter, after }): Query<EventQuery>,
    upgrade: WebSocketUpgrade,
) -> Handled {
    if filter == Filter::default() {
        filter = Filter::nothing();
    }
    check_filter(&filter, &caller)?;
    let subscription = state.events.subscribe(caller, filter, start(after), WhenLate::Tell).await?;
    Ok(upgrade.serve(|socket| serve(socket, subscription)))
}

/// How a connection ends.
enum End {
    /// The client is gone, or is not to be told.
    Silent,
    /// The client is told why.
    Told(CloseWhy, &'static str),
}

async fn serve(socket: WebSocket, subscription: Subscription) {
    let mut connection =
        Connection { socket, subscription, opened: Instant::now(), heard: true, unanswered: 0 };
    let ready = json!({"type": "ready", "after": connection.subscription.cursor()});
    connection.socket.text(&ready.to_string());
    if let End::Told(why, reason) = connection.run().await {
        connection.socket.close(why, reason).await;
    }
}

struct Connection {
    socket: WebSocket,
    subscription: Subscription,
    opened: Instant,
    /// Whether the client was heard of since the last ping.
    heard: bool,
    unanswered: u32,
}

impl Connection {
    /// Serves until something ends it.
    async fn run(&mut self) -> End {
        let ended = self.subscription.ended().clone();
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Nothing is read while the client leaves something unread: answers to
            // what it sends would have nowhere to go.
            if self.socket.is_blocked() {
                let stalled = Instant::now() + STALL_MAX;
                tokio::select! {
                    biased;
                    () = ended.cancelled() => return self.ending(),
                    sent = self.socket.unblock() => if sent.is_err() { return End::Silent },
                    () = sleep_until(stalled) => return End::Silent,
                }
                continue;
            }
            tokio::select! {
                biased;
                () = ended.cancelled() => return self.ending(),
                incoming = self.socket.receive() => {
                    self.heard = true;
                    match incoming {
                        Incoming::Text(text) => self.obey(&text),
                        Incoming::Alive => {}
                        Incoming::Binary => {
                            return End::Told(CloseWhy::Unsupported, "send texts");
                        }
                        Incoming::Gone => return End::Silent,
                        Incoming::Broken(why) => return End::Told(why, ""),
                    }
                }
                delivery = self.subscription.next() => match delivery {
                    Ok(delivery) => if self.deliver(&delivery).is_err() { return End::Silent },
                    Err(error) => {
                        tracing::warn!(error = %error.chain(), "a subscription failed");
                        return End::Told(CloseWhy::Internal, "the log cannot be read");
                    }
                },
                _ = pings.tick() => if let Some(end) = self.beat() { return end },
            }
        }
    }

    fn ending(&self) -> End {
        if self.subscription.is_closing() {
            End::Told(CloseWhy::GoingAway, "the server stops")
        } else {
            End::Told(CloseWhy::Policy, "the key is no longer valid")
        }
    }

    /// Asks whether the client is there.
    fn beat(&mut self) -> Option<End> {
        self.unanswered = if self.heard { 0 } else { self.unanswered + 1 };
        self.heard = false;
        if self.unanswered >= PINGS_UNANSWERED_MAX {
            return Some(End::Silent);
        }
        if self.opened.elapsed() > AGE_MAX {
            return Some(End::Told(CloseWhy::GoingAway, "the connection reached its age"));
        }
        self.socket.ping();
        None
    }

    fn deliver(&mut self, delivery: &Delivery) -> io::Result<()> {
        match delivery {
            Delivery::Events { batch, from } => return self.send(batch, *from),
            Delivery::Lagged { from, to } => {
                self.say(&json!({"type": "lagged", "from": from, "to": to}));
            }
            Delivery::Expired { oldest } => {
                self.say(&json!({"type": "expired", "oldest": oldest}));
            }
        }
        Ok(())
    }

    /// Hands the frames of a batch to the socket. What it does not take is left
    /// to be asked for again: only the rest of a frame that was begun is kept, so
    /// that a slow client holds one event and not a batch.
    fn send(&mut self, batch: &Batch, from: usize) -> io::Result<()> {
        let mut at = from;
        loop {
            let mut runs: Vec<Range<usize>> = Vec::with_capacity(1);
            while runs.len() < PIECES_MAX
                && let Some(run) = self.subscription.run(batch, at)
            {
                at = run.end;
                runs.push(run);
            }
            if runs.is_empty() {
                return Ok(());
            }
            let pieces: Vec<IoSlice<'_>> =
                runs.iter().map(|run| IoSlice::new(batch.frames(run.clone()))).collect();
            let mut left = self.socket.send(&pieces)?;
            for run in runs {
                let frames = batch.frames(run.clone());
                if left < frames.len() {
                    self.stop_within(batch, run, left);
                    return Ok(());
                }
                left -= frames.len();
                self.subscription.delivered(run.len());
            }
        }
    }

    /// The socket took only so many bytes of a run.
    fn stop_within(&mut self, batch: &Batch, run: Range<usize>, sent: usize) {
        let entries = &batch.entries()[run.clone()];
        let end = |nth: usize| batch.frame_end(run.start, run.start + nth);
        let whole = (0..entries.len()).take_while(|nth| end(*nth) <= sent).count();
        let begun_at = whole.checked_sub(1).map_or(0, end);
        let cursor = if sent > begun_at {
            self.socket.rest(&batch.frames(run.clone())[sent..end(whole)]);
            self.subscription.delivered(whole + 1);
            entries[whole].seq
        } else {
            self.subscription.delivered(whole);
            whole.checked_sub(1).map_or(entries[0].seq - 1, |last| entries[last].seq)
        };
        self.subscription.rewind(cursor);
    }

    fn say(&mut self, message: &Value) {
        self.socket.text(&message.to_string());
    }

    /// Does what a text asks for, and answers it.
    fn obey(&mut self, text: &str) {
        let answer = match read(text) {
            Ok(Asked::Ping) => Ok(json!({"type": "pong"})),
            Ok(Asked::Resume(after)) => {
                self.subscription.resume(after);
                Ok(json!({"type": "resumed", "after": after}))
            }
            Ok(Asked::Filter(filter, sent)) => check_filter(&filter, self.subscription.caller())
                .map(|()| {
                    self.subscription.filter(filter);
                    sent
                }),
            Err(error) => Err(error),
        };
        let answer = answer.unwrap_or_else(|error| {
            let faults: Vec<Value> = error
                .faults
                .iter()
                .map(|Fault { pointer, code, detail }| {
                    json!({"pointer": pointer, "code": code, "detail": detail})
                })
                .collect();
            json!({
                "type": "error", "code": error.code.as_str(), "detail": error.detail,
                "errors": faults,
            })
        });
        self.say(&answer);
    }
}

/// What a client asks for.
enum Asked {
    Ping,
    Resume(i64),
    /// A filter, and how its setting is answered.
    Filter(Filter, Value),
}

#[derive(Deserialize)]
struct Action {
    action: String,
    after: Option<i64>,
    event_types: Option<Vec<String>>,
    entity_types: Option<Vec<String>>,
    entity_ids: Option<Vec<String>>,
    group_ids: Option<Vec<Group>>,
    /// One of `group_ids`.
    group_id: Option<Group>,
}

/// A group's name; an integer is one too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Group {
    Text(String),
    Number(i64),
}

impl Group {
    fn name(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

/// The texts that a client may send instead of `{"action":"ping"}`.
const PINGS: [&str; 2] = ["ping", "\"ping\""];

fn read(text: &str) -> Result<Asked> {
    if PINGS.contains(&text.trim()) {
        return Ok(Asked::Ping);
    }
    let action: Action = serde_json::from_str(text)
        .map_err(|error| Error::new(Code::MalformedJson, format!("not an action: {error}")))?;
    let fault = |pointer: &str, code, detail: String| {
        Error::invalid(vec![Fault::new(pointer, code, detail)])
    };
    match action.action.as_str() {
        "ping" => Ok(Asked::Ping),
        "resume" => match action.after {
            Some(after) if after >= 0 => Ok(Asked::Resume(after)),
            _ => Err(fault("/after", "required", "must be the seq of an event".to_owned())),
        },
        "filter" => {
            let Action { event_types, entity_types, entity_ids, group_ids, group_id, .. } = action;
            let group_ids: Option<Vec<String>> =
                (group_ids.is_some() || group_id.is_some()).then(|| {
                    group_ids.into_iter().flatten().chain(group_id).map(Group::name).collect()
                });
            let sent = json!({
                "type": "filtered", "event_types": event_types, "entity_types": entity_types,
                "entity_ids": entity_ids, "group_ids": group_ids,
            });
            let mut faults = Vec::new();
            let lists = FilterLists { event_types, entity_types, entity_ids, group_ids };
            let filter = read_filter("/", lists, &mut faults);
            if faults.is_empty() {
                Ok(Asked::Filter(filter, sent))
            } else {
                Err(Error::invalid(faults))
            }
        }
        other => Err(fault("/action", "unknown_value", format!("{other} is no action"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_asks_for_is_read_or_refused() {
        for (text, code) in [
            ("pong", Code::MalformedJson),
            ("{}", Code::MalformedJson),
            ("[]", Code::MalformedJson),
            (r#"{"action":"filter","event_types":"x"}"#, Code::MalformedJson),
            (r#"{"action":"jump"}"#, Code::ValidationFailed),
            (r#"{"action":"resume"}"#, Code::ValidationFailed),
            (r#"{"action":"resume","after":-1}"#, Code::ValidationFailed),
            (r#"{"action":"filter","entity_types":["agents"]}"#, Code::ValidationFailed),
            (r#"{"action":"filter","entity_ids":["7"]}"#, Code::ValidationFailed),
            (r#"{"action":"filter","group_ids":"g"}"#, Code::MalformedJson),
            (r#"{"action":"filter","group_id":["g"]}"#, Code::MalformedJson),
        ] {
            assert_eq!(read(text).err().map(|error| error.code), Some(code), "{text}");
        }
        assert!(matches!(read(" ping\n"), Ok(Asked::Ping)));
        assert!(matches!(read(r#"{"action":"resume","after":7}"#), Ok(Asked::Resume(7))));
        let filter = r#"{"action":"filter","event_types":["a.*"],"entity_types":null}"#;
        let Ok(Asked::Filter(filter, sent)) = read(filter) else { panic!("a filter") };
        assert_eq!(filter.event_types, Some(vec!["a.*".to_owned()]));
        assert_eq!(filter.entity_types, None);
        assert_eq!(sent["type"], "filtered");
        assert_eq!(filter.group_ids, None);
        let groups = r#"{"action":"filter","group_ids":["a",7],"group_id":"b"}"#;
        let Ok(Asked::Filter(filter, sent)) = read(groups) else { panic!("a filter") };
        assert_eq!(filter.group_ids.map(|groups| groups.len()), Some(3));
        assert_eq!(sent["group_ids"], json!(["a", "7", "b"]));
    }
}
