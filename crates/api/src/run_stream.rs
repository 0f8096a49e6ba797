//! A run as server-sent events: `run.started`, `message.delta`,
//! `message.completed`, `run.finished`, and `error` when the stream itself
//! fails. A comment every few seconds keeps proxies from closing a silent one.

use std::convert::Infallible;
use std::time::Duration;

use agentry_domain::{Result, RunId, SessionId};
use agentry_engine::{RunEvent, RunHandle};
use agentry_gateway::RequestContext;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use crate::problem::{self, Problem};
use crate::runs::RunAnswer;

/// How often a silent stream says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Tells a proxy in front not to hold events back.
pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

#[derive(Serialize)]
struct Started {
    run_id: RunId,
    session_id: SessionId,
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Reset {
    attempt: i64,
    offset: u64,
}

/// Answers with a run's events.
pub fn answer(handle: RunHandle, context: &RequestContext) -> Response {
    let mut writer = Writer {
        attempt: handle.run.attempt,
        request_id: context.request_id.as_str().to_owned(),
        sent: Sent::default(),
    };
    let events = handle.followed().flat_map(move |event| stream::iter(writer.write(event)));
    sse(events.map(Ok))
}

/// Answers with a stream of events.
pub fn sse(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    let mut response = Sse::new(events).keep_alive(heartbeat).into_response();
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// An event of a name with JSON data. What is written are strings and numbers,
/// and JSON that was stored as such, so that it cannot fail.
pub fn event(name: Option<&str>, data: &impl Serialize) -> Event {
    let event = name.map_or_else(Event::default, |name| Event::default().event(name));
    event.data(serde_json::to_string(data).unwrap_or_default())
}

/// What of a reply was sent in pieces.
#[derive(Debug, Default)]
pub struct Sent(String);

/// What is still to be sent when the whole reply is known.
#[derive(Debug, PartialEq, Eq)]
pub enum Rest<'a> {
    /// Nothing.
    Nothing,
    /// This: the reader was too slow for the pieces, or there were none.
    More(&'a str),
    /// The pieces are not the reply's beginning.
    Different,
}

impl Sent {
    /// Another piece was sent.
    pub fn add(&mut self, piece: &str) {
        self.0.push_str(piece);
    }

    /// What of the whole reply is missing.
    pub fn rest<'a>(&self, reply: &'a str) -> Rest<'a> {
        match reply.strip_prefix(&self.0) {
            Some("") => Rest::Nothing,
            Some(rest) => Rest::More(rest),
            None => Rest::Different,
        }
    }
}

struct Writer {
    attempt: i64,
    request_id: String,
    sent: Sent,
}

impl Writer {
    fn write(&mut self, event_of_run: Result<RunEvent>) -> Vec<Event> {
        match event_of_run {
            Ok(RunEvent::Started { run, session }) => {
                let started = Started { run_id: run, session_id: session };
                vec![event(Some("run.started"), &started)]
            }
            Ok(RunEvent::Delta(text)) => {
                self.sent.add(&text);
                vec![event(Some("message.delta"), &Text { text: &text })]
            }
            // What was missed comes with the end.
            Ok(RunEvent::Lagged) => Vec::new(),
            Ok(RunEvent::Finished(run)) => {
                let mut events = Vec::new();
                if let Some(reply) = &run.reply {
                    match self.sent.rest(reply) {
                        Rest::Nothing => {}
                        Rest::More(rest) => {
                            events.push(event(Some("message.delta"), &Text { text: rest }));
                        }
                        Rest::Different => {
                            let reset = Reset { attempt: self.attempt, offset: 0 };
                            events.push(event(Some("reset"), &reset));
                        }
                    }
                    events.push(event(Some("message.completed"), &Text { text: reply }));
                }
                match RunAnswer::new(&run) {
                    Ok(answer) => events.push(event(Some("run.finished"), &answer)),
                    Err(error) => events.push(self.failed(&error)),
                }
                events
            }
            Err(error) => vec![self.failed(&error)],
        }
    }

    fn failed(&self, error: &agentry_domain::Error) -> Event {
        problem::log(error, &self.request_id);
        event(Some("error"), &Problem::new(error, &self.request_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_slow_reader_missed_is_sent_with_the_end() {
        let mut sent = Sent::default();
        assert_eq!(sent.rest("whole"), Rest::More("whole"));
        sent.add("wh");
        sent.add("o");
        assert_eq!(sent.rest("whole"), Rest::More("le"));
        assert_eq!(sent.rest("who"), Rest::Nothing);
        assert_eq!(sent.rest("other"), Rest::Different);
    }
}
