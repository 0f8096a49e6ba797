//! Events over HTTP: as server-sent events, how things stand, and tickets for
//! pages in browsers. WebSockets are in [`crate::events_socket`].

use std::collections::HashSet;
use std::time::Duration;

use agentry_domain::log::EntityKind;
use agentry_domain::{Caller, Code, Error, Fault, Result, Timestamp};
use agentry_engine::TICKET_LIFETIME_MAX;
use agentry_events::{Delivery, FILTER_ITEMS_MAX, Filter, Start, Subscription, WhenLate};
use agentry_gateway::{Authenticated, Failure};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::answer::{Handled, json};
use crate::extract::{Json, Query};
use crate::fields::kinds::EXTERNAL_ID_CHARS_MAX;
use crate::fields::{Fields, FromFields};
use crate::run_stream::{HEARTBEAT, LAST_EVENT_ID, X_ACCEL_BUFFERING};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

/// Characters of a list in the query.
const LIST_CHARS_MAX: usize = 4_096;
/// Characters of an event's type, as a filter names it.
const EVENT_TYPE_CHARS_MAX: usize = 100;
/// How long a ticket is good for when nobody says otherwise.
const TICKET_LIFETIME_DEFAULT: Duration = Duration::from_secs(30);
/// How soon a client of server-sent events comes back, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// Which events, and from where.
pub struct EventQuery {
    /// Which.
    pub filter: Filter,
    /// After which place of the log; none for what happens from now on.
    pub after: Option<i64>,
}

query_parameters!(EventQuery);

impl FromFields for EventQuery {
    fn read(fields: &mut Fields) -> Self {
        let mut list = |name, about| {
            let text = fields.text(name, 0..=LIST_CHARS_MAX).about(about).optional();
            text.map(|text| -> Vec<String> {
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(str::to_owned)
                    .collect()
            })
        };
        let event_types = list(
            "event_types",
            "Types of events, separated by commas; one with a `*` at its end means all that begin \
             so.",
        );
        let entity_types =
            list("entity_types", "Kinds of things, such as `agent`, separated by commas.");
        let entity_ids = list("entity_ids", "Ids of things, separated by commas.");
        let group_ids = list(
            "group_ids",
            "Groups of graphs, separated by commas: what is in one of them, and nothing that is in \
             no group.",
        );
        let after = fields
            .integer("after", 0..=i64::MAX)
            .about("The `seq` of the last event that one has; without it, from now on.")
            .optional();
        let mut faults = Vec::new();
        let lists = FilterLists { event_types, entity_types, entity_ids, group_ids };
        let filter = read_filter("", lists, &mut faults);
        for Fault { pointer, code, detail } in faults {
            fields.fault(&pointer, code, detail);
        }
        Self { filter, after }
    }
}

/// The lists of a filter, as they are sent.
#[derive(Debug, Default)]
pub struct FilterLists {
    /// Types of events.
    pub event_types: Option<Vec<String>>,
    /// Kinds of things.
    pub entity_types: Option<Vec<String>>,
    /// Ids of things.
    pub entity_ids: Option<Vec<String>>,
    /// Groups of graphs.
    pub group_ids: Option<Vec<String>>,
}

/// Reads the lists of a filter; faults name the field after `at`.
pub fn read_filter(at: &str, lists: FilterLists, faults: &mut Vec<Fault>) -> Filter {
    let FilterLists { event_types, entity_types, entity_ids, group_ids } = lists;
    let lists = [
        ("event_types", &event_types),
        ("entity_types", &entity_types),
        ("entity_ids", &entity_ids),
        ("group_ids", &group_ids),
    ];
    for (name, list) in lists {
        if list.as_ref().is_some_and(|list| list.len() > FILTER_ITEMS_MAX) {
            let detail = format!("may have {FILTER_ITEMS_MAX} items");
            faults.push(Fault::new(format!("{at}{name}"), "too_long", detail));
        }
    }
    let bounds = [
        ("event_types", &event_types, EVENT_TYPE_CHARS_MAX),
        ("group_ids", &group_ids, EXTERNAL_ID_CHARS_MAX),
    ];
    for (name, list, chars_max) in bounds {
        if list.iter().flatten().any(|text| text.chars().count() > chars_max) {
            let detail = format!("an item may have {chars_max} characters");
            faults.push(Fault::new(format!("{at}{name}"), "too_long", detail));
        }
    }
    let mut fault = |name: &str, detail: String| {
        faults.push(Fault::new(format!("{at}{name}"), "unknown_value", detail));
    };
    let entity_types = entity_types.map(|names| {
        let read = |name: &String| {
            EntityKind::parse(name).or_else(|| {
                fault("entity_types", format!("{name} is no kind of thing"));
                None
            })
        };
        names.iter().filter_map(read).collect()
    });
    let entity_ids = entity_ids.map(|ids| {
        let mut read = HashSet::new();
        for id in &ids {
            match Uuid::try_parse(id) {
                Ok(id) => drop(read.insert(id.into_bytes())),
                Err(_) => fault("entity_ids", format!("{id} is no id")),
            }
        }
        read
    });
    let group_ids = group_ids.map(|groups| groups.into_iter().collect());
    Filter { event_types, entity_types, entity_ids, group_ids, nothing: false }
}

/// Refuses a filter that asks for what the caller may not hear of.
pub fn check_filter(filter: &Filter, caller: &Caller) -> Result<()> {
    let asked = filter.entity_types.iter().flatten();
    match asked.copied().find(|kind| !caller.may_follow(*kind)) {
        None => Ok(()),
        Some(kind) => {
            Err(Error::new(Code::Forbidden, format!("this key may not follow {}", kind.as_str())))
        }
    }
}

/// Where a subscription begins.
pub fn start(after: Option<i64>) -> Start {
    after.map_or(Start::Now, Start::After)
}

/// Follow events as server-sent events
///
/// Each has its place in the log as `id`, its type as `event` and the same JSON as over WebSocket as
/// `data`. The first is `ready`. Who comes back with `Last-Event-ID` gets everything after that;
/// when retention has deleted some of it, the event `expired` says so and the oldest entry follows.
/// A page in a browser opens it with `?ticket=`.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    tag = "events",
    params(
        EventQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "Comes before `after`."),
    ),
    responses((
        status = 200,
        description = "The events.",
        body = String,
        content_type = "text/event-stream",
    )),
)]
pub async fn event_stream(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(EventQuery { filter, after }): Query<EventQuery>,
    headers: HeaderMap,
) -> Handled {
    check_filter(&filter, &caller)?;
    let after = last_event_id(&headers)?.or(after);
    let subscription =
        state.events.subscribe(caller, filter, start(after), WhenLate::CatchUp).await?;
    Ok(stream_answer(subscription))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Failure> {
    let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let id = id.to_str().ok().filter(|id| !id.is_empty());
    match id.map(str::parse::<i64>) {
        None => Ok(None),
        Some(Ok(id)) if id >= 0 => Ok(Some(id)),
        Some(_) => {
            let detail = "must be the id of an event";
            let fault = Fault::new("header:Last-Event-ID", "malformed", detail);
            Err(Error::invalid(vec![fault]).into())
        }
    }
}

fn stream_answer(subscription: Subscription) -> Response {
    let after = subscription.cursor();
    let ready = format!(
        "retry: {RETRY_MS}\nid: {after}\nevent: ready\ndata: {{\"type\":\"ready\",\"after\":{after}}}\n\n"
    );
    let ended = subscription.ended().clone();
    let state = (subscription, ended, Some(Bytes::from(ready)));
    let chunks = stream::unfold(state, |(mut subscription, ended, first)| async move {
        let chunk = match first {
            Some(first) => Ok(first),
            None => tokio::select! {
                biased;
                () = ended.cancelled() => return None,
                delivery = subscription.next() => {
                    delivery.map(|delivery| write(&subscription, &delivery))
                }
                () = tokio::time::sleep(HEARTBEAT) => Ok(Bytes::from_static(b": heartbeat\n\n")),
            },
        };
        Some((chunk, (subscription, ended, None)))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

fn write(subscription: &Subscription, delivery: &Delivery) -> Bytes {
    let mut text = Vec::new();
    match delivery {
        Delivery::Events { batch, from } => {
            let mut at = *from;
            let mut count = 0;
            while let Some(run) = subscription.run(batch, at) {
                at = run.end;
                count += run.len();
                for entry in &batch.entries()[run] {
                    text.extend_from_slice(b"id: ");
                    text.extend_from_slice(entry.seq.to_string().as_bytes());
                    text.extend_from_slice(b"\nevent: ");
                    text.extend_from_slice(batch.kind(entry));
                    text.extend_from_slice(b"\ndata: ");
                    text.extend_from_slice(batch.json(entry));
                    text.extend_from_slice(b"\n\n");
                }
            }
            subscription.delivered(count);
        }
        Delivery::Lagged { from, to } => {
            let lagged = format!(
                "event: lagged\ndata: {{\"type\":\"lagged\",\"from\":{from},\"to\":{to}}}\n\n"
            );
            text.extend_from_slice(lagged.as_bytes());
        }
        Delivery::Expired { oldest } => {
            let expired = format!(
                "id: {oldest}\nevent: expired\ndata: {{\"type\":\"expired\",\"oldest\":{oldest}}}\n\n"
            );
            text.extend_from_slice(expired.as_bytes());
        }
    }
    text.into()
}

/// How things stand with events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventStatus {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Streams of this organisation that are open at this process.
    connections: u64,
    /// Streams of all organisations that are open at this process.
    connections_of_process: u64,
    /// Events that this process handed to connections.
    delivered: u64,
    /// How often a stream of this process was too slow and was told.
    lagged: u64,
    /// The newest place of the log.
    newest: i64,
    /// The oldest place after which one can resume.
    oldest: i64,
}

/// How things stand with events
#[utoipa::path(
    get,
    path = "/api/v1/ws/status",
    tag = "events",
    responses((status = 200, description = "How things stand.", body = EventStatus)),
)]
pub async fn event_status(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
) -> Handled {
    let status = state.events.status(caller.org).await?;
    let answer = EventStatus {
        status: "ok",
        connections: status.subscriptions,
        connections_of_process: status.activity.subscriptions,
        delivered: status.activity.delivered,
        lagged: status.activity.lagged,
        newest: status.newest,
        oldest: status.oldest,
    };
    json(StatusCode::OK, &answer)
}

/// Body of a new ticket.
pub struct TicketCreate(Duration);

body_schema!(TicketCreate, "TicketCreate");

impl FromFields for TicketCreate {
    fn read(fields: &mut Fields) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let lifetime = fields
            .integer("lifetime_ms", 1_000..=millis(TICKET_LIFETIME_MAX))
            .about("How long it is good for, in milliseconds.")
            .or(millis(TICKET_LIFETIME_DEFAULT));
        Self(Duration::from_millis(lifetime.unsigned_abs()))
    }
}

/// A ticket.
#[derive(Debug, Serialize, ToSchema)]
pub struct TicketAnswer {
    /// What to give as `?ticket=`, or as the subprotocol `agentry.ticket.` with it at the end.
    ticket: String,
    /// When it is worth nothing any more.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Make a ticket for one stream
///
/// A page in a browser cannot send a key with a stream. A ticket stands for the caller once, soon.
#[utoipa::path(
    post,
    path = "/api/v1/events/tickets",
    tag = "events",
    request_body = TicketCreate,
    responses((status = 201, description = "The ticket.", body = TicketAnswer)),
)]
pub async fn ticket_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Json(TicketCreate(lifetime)): Json<TicketCreate>,
) -> Handled {
    let made = state.engine.ticket_create(&caller, lifetime).await?;
    let answer = TicketAnswer { ticket: made.ticket, expires_at: made.expires_at };
    let mut response = json(StatusCode::CREATED, &answer)?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
