//! A run as server-sent events, in one way for all: a run that is started with
//! `stream`, one that is followed later, one that is over. Each event has the place
//! behind it as its id, with which a client goes on after a break. A comment
//! every few seconds keeps proxies from closing a silent stream.

use std::convert::Infallible;
use std::time::Duration;

use agentry_domain::tools::RunCall;
use agentry_domain::{Caller, Code, Error, Fault, Result, RunId, SessionId};
use agentry_engine::{RunCursor, RunEvent, RunEvents, RunNews};
use agentry_events::KeyWatch;
use agentry_gateway::{Authenticated, Failure, RequestContext};
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::answer::{Handled, put};
use crate::extract::{PathId, Query};
use crate::fields::{Fields, FromFields};
use crate::openapi::NotFound;
use crate::problem::{self, Problem};
use crate::query_parameters;
use crate::runs::{RunAnswer, RunToolCallAnswer, RunToolOutputAnswer};
use crate::state::ApiState;

/// How often a silent stream says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Tells a proxy in front not to hold events back.
pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Where a client of server-sent events resumes.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Names the run of a stream or a completion.
pub(crate) const X_RUN_ID: HeaderName = HeaderName::from_static("x-run-id");
/// How soon a client comes back that was told to.
const RETRY: Duration = Duration::from_millis(500);
/// Characters of an event's id at most.
const CURSOR_CHARS_MAX: usize = 48;

#[derive(Serialize)]
struct Started {
    run_id: RunId,
    session_id: SessionId,
    attempt: i64,
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct ToolFinished<'a> {
    #[serde(flatten)]
    call: RunToolCallAnswer<'a>,
    output: Option<RunToolOutputAnswer<'a>>,
}

impl<'a> ToolFinished<'a> {
    fn new(call: &'a RunCall) -> Result<Self> {
        Ok(Self { call: RunToolCallAnswer::new(call)?, output: RunToolOutputAnswer::new(call) })
    }
}

#[derive(Serialize)]
struct Place {
    attempt: i64,
    offset: u64,
}

#[derive(Serialize)]
struct Reconnect {
    after: String,
}

#[derive(Serialize)]
struct Expired {
    run_id: RunId,
}

/// From where a run's events are told.
pub struct RunEventQuery {
    after: Option<String>,
}

query_parameters!(RunEventQuery);

impl FromFields for RunEventQuery {
    fn read(fields: &mut Fields) -> Self {
        let after = fields
            .text("after", 1..=CURSOR_CHARS_MAX)
            .about("The id of the last event that one has; without it, from the start.")
            .optional();
        if after.as_ref().is_some_and(|after| after.parse::<RunCursor>().is_err()) {
            fields.fault("after", "malformed", NO_EVENT_ID);
        }
        Self { after }
    }
}

const NO_EVENT_ID: &str = "must be the id of one of the run's events";

/// Follow a run as server-sent events
///
/// From its start, or after the event named by `Last-Event-ID`, whether the run goes on, in this
/// process or another, or is over: the same events as those of a run that is started with `stream`.
/// Each has the place behind it as its `id`: `ATTEMPT-OFFSET`, the offset in bytes of UTF-8 of
/// the reply, and `.NEWS` behind it when tools were called. `run.started` {run_id, session_id,
/// attempt}, `message.delta` {text}, `tool.started` (the call) and `tool.finished` (the call and its
/// `output`) where they happened in the text,
/// `message.completed` {text}, `run.finished` (the run). `reset` {attempt, offset} voids the text
/// from the offset on: the run began again, or text was lost with its process. `reconnect` {after}
/// ends the stream of a client that is too slow, or whose server stops: come back with the
/// id. `expired` {run_id}: the run was deleted. `error` (a problem): the stream failed, or its key is
/// not valid any more.
/// 204 when nothing comes after that event.
#[utoipa::path(
    get,
    path = "/api/v1/runs/{id}/events",
    tag = "runs",
    params(
        ("id" = String, Path, description = "The run's id.", format = "uuid"),
        RunEventQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "Comes before `after`."),
    ),
    responses(
        (
            status = 200,
            description = "The events.",
            // Neither a text nor one event of it: whoever reads this as JSON
            // Schema is told nothing wrong.
            body = serde_json::Value,
            content_type = "text/event-stream",
        ),
        (status = 204, description = "The run is over, and that was its last event."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn run_event_stream(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RunId>,
    Query(RunEventQuery { after }): Query<RunEventQuery>,
    context: RequestContext,
    headers: HeaderMap,
) -> Handled {
    let after = match last_event_id(&headers)? {
        Some(after) => Some(after),
        None => after.and_then(|after| after.parse().ok()),
    };
    match state.engine.run_events(&caller, id, after).await? {
        Some(events) => Ok(answer(events, id, &state, &caller, &context)),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<RunCursor>, Failure> {
    let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else { return Ok(None) };
    match id.to_str().ok().and_then(|id| id.parse().ok()) {
        Some(after) => Ok(Some(after)),
        None => {
            let fault = Fault::new("header:Last-Event-ID", "malformed", NO_EVENT_ID);
            Err(Error::invalid(vec![fault]).into())
        }
    }
}

/// Answers with a run's events.
pub fn answer(
    events: RunEvents,
    run: RunId,
    state: &ApiState,
    caller: &Caller,
    context: &RequestContext,
) -> Response {
    let writer = Writer { run, request_id: context.request_id.as_str().to_owned() };
    let following = (Watched::new(events, state, caller), writer, state.stop.parting());
    let events = stream::unfold(following, |(mut events, writer, parting)| async move {
        let news = tokio::select! {
            biased;
            news = events.next() => news?,
            () = parting.cancelled() => Ok(events.reconnect()?),
        };
        let event = match news {
            Ok(news) => writer.write(&news),
            Err(error) => writer.failed(&error),
        };
        Some((Ok(event), (events, writer, parting)))
    });
    let mut response = sse(events);
    put(&mut response, X_RUN_ID, &run.to_string());
    response
}

/// What happens in a run, for a reader whose key is good.
pub(crate) struct Watched {
    events: Option<RunEvents>,
    key: KeyWatch,
}

impl Watched {
    pub(crate) fn new(events: RunEvents, state: &ApiState, caller: &Caller) -> Self {
        Self { events: Some(events), key: state.events.watch(caller) }
    }

    /// The next event; none after the last one. When the key is revoked or expires it is
    /// an error, after which nothing comes, and whoever waited for the run does so no
    /// more: it ends as if the client had gone away. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Result<RunNews>> {
        let events = self.events.as_mut()?;
        tokio::select! {
            biased;
            () = self.key.revoked() => {
                // At once, and not when the client has read this.
                self.events = None;
                let detail = "the key of this stream is not valid any more";
                Some(Err(Error::new(Code::Unauthenticated, detail)))
            }
            news = events.next() => news,
        }
    }

    /// From now on the run goes on when the reader goes away.
    pub(crate) fn unattended(&mut self) {
        if let Some(events) = &mut self.events {
            events.unattended();
        }
    }

    /// Ends it with the news that the reader has to come back; none when it is over.
    fn reconnect(&mut self) -> Option<RunNews> {
        self.events.as_mut()?.reconnect()
    }
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

/// Writes a run's events.
struct Writer {
    run: RunId,
    request_id: String,
}

impl Writer {
    fn write(&self, RunNews { cursor, event: news }: &RunNews) -> Event {
        let event = match news {
            RunEvent::Started { run, session } => {
                let attempt = cursor.attempt;
                event(Some("run.started"), &Started { run_id: *run, session_id: *session, attempt })
            }
            RunEvent::Delta(text) => event(Some("message.delta"), &Text { text }),
            RunEvent::ToolStarted(call) => match RunToolCallAnswer::new(call) {
                Ok(call) => event(Some("tool.started"), &call),
                Err(error) => self.failed(&error),
            },
            RunEvent::ToolFinished(call) => match ToolFinished::new(call) {
                Ok(finished) => event(Some("tool.finished"), &finished),
                Err(error) => self.failed(&error),
            },
            RunEvent::Reset => {
                let RunCursor { attempt, offset, .. } = *cursor;
                event(Some("reset"), &Place { attempt, offset })
            }
            RunEvent::Completed(run) => {
                let text = run.reply.as_deref().unwrap_or_default();
                event(Some("message.completed"), &Text { text })
            }
            RunEvent::Finished(run) => match RunAnswer::new(run) {
                Ok(answer) => event(Some("run.finished"), &answer),
                Err(error) => self.failed(&error),
            },
            RunEvent::Reconnect => {
                event(Some("reconnect"), &Reconnect { after: cursor.to_string() }).retry(RETRY)
            }
            RunEvent::Expired => event(Some("expired"), &Expired { run_id: self.run }),
        };
        event.id(cursor.to_string())
    }

    fn failed(&self, error: &Error) -> Event {
        problem::log(error, &self.request_id);
        event(Some("error"), &Problem::new(error, &self.request_id))
    }
}

/// The error of a stream whose client cannot be told to forget what it has.
pub fn began_again() -> Error {
    Error::new(
        Code::RunInterrupted,
        "the run began again in the middle of its reply; the run's own answer has all of it",
    )
}
