//! Webhooks over HTTP.

use agentry_domain::log::EntityKind;
use agentry_domain::webhooks::{DeliveryState, Webhook, WebhookBody, WebhookDelivery};
use agentry_domain::{Done, Fault, Order, PageRequest, Result, Timestamp, WebhookId};
use agentry_engine::{WebhookFilter, WebhookMade};
use agentry_events::FILTER_ITEMS_MAX;
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use uuid::Uuid as Id;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, json, no_content, replay, tagged};
use crate::events::{FilterLists, read_filter};
use crate::extract::{Bare, Json, PathId, PathIds, Posted, Query};
use crate::fields::kinds::{EXTERNAL_ID_CHARS_MAX, Kind, Site, Text, Uuid, list_schema};
use crate::fields::{Change, Create, Fields, FromFields, Purpose, ResourceFields, Shown};
use crate::lists::{List, documents, list, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

const URL_CHARS_MAX: usize = 2_000;
const DESCRIPTION_CHARS_MAX: usize = 10_000;
const ITEM_CHARS_MAX: usize = 100;

type WebhookCreate = Create<WebhookBody>;
type WebhookPatch = Change<WebhookBody>;
type WebhookShown = Shown<WebhookBody>;

/// A list of what a filter names.
#[derive(Clone, Copy, Debug)]
enum Texts {
    /// Types of events, or their beginnings.
    Types,
    /// Kinds of things.
    Kinds,
    /// Ids of things.
    Ids,
    /// Groups of graphs.
    Groups,
}

impl Texts {
    /// What each item is, as the document says it; [`read_filter`] holds it to that.
    fn item(self, purpose: Purpose) -> Schema {
        match self {
            Self::Types => Text::of(1..=ITEM_CHARS_MAX).schema(purpose),
            Self::Groups => Text::of(1..=EXTERNAL_ID_CHARS_MAX).schema(purpose),
            Self::Kinds => {
                let names = EntityKind::ALL.iter().map(|kind| kind.as_str());
                let text = ObjectBuilder::new().schema_type(Type::String);
                Schema::Object(text.enum_values(Some(names)).build())
            }
            Self::Ids => Uuid.schema(purpose),
        }
    }
}

impl Kind for Texts {
    type Out = Vec<String>;

    fn schema(&self, purpose: Purpose) -> Schema {
        list_schema(self.item(purpose), &(0..=FILTER_ITEMS_MAX))
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<String>> {
        let Value::Array(items) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        if items.len() > FILTER_ITEMS_MAX {
            return site.fault("too_many", format!("may have {FILTER_ITEMS_MAX} items"));
        }
        let text = match self {
            Self::Groups => Text::of(1..=EXTERNAL_ID_CHARS_MAX),
            Self::Types | Self::Kinds | Self::Ids => Text::of(1..=ITEM_CHARS_MAX),
        };
        let texts: Vec<String> =
            items.into_iter().map_while(|item| text.read(item, site)).collect();
        Some(texts)
    }

    fn placeholder(&self) -> Vec<String> {
        Vec::new()
    }

    fn show(&self, default: &Vec<String>) -> Option<Value> {
        serde_json::to_value(default).ok()
    }
}

impl ResourceFields for WebhookBody {
    const NAME: &'static str = "Webhook";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        let mut texts = |name, item, about, was: Option<&Vec<String>>| {
            fields.field(name, item).about(about).or_was(Vec::new(), was)
        };
        let event_types = texts(
            "event_types",
            Texts::Types,
            "Types of events that it hears of; one with a `*` at its end means all that begin so. \
             All when this is empty.",
            was.map(|was| &was.event_types),
        );
        let entity_types = texts(
            "entity_types",
            Texts::Kinds,
            "Kinds of things, such as `agent`, that it hears of. All that administrators may follow \
             when this is empty.",
            was.map(|was| &was.entity_types),
        );
        let entity_ids = texts(
            "entity_ids",
            Texts::Ids,
            "Ids of things that it hears of. All when this is empty.",
            was.map(|was| &was.entity_ids),
        );
        let group_ids = texts(
            "group_ids",
            Texts::Groups,
            "Groups of graphs whose things it hears of, and of nothing else. All, and what is in no \
             group, when this is empty.",
            was.map(|was| &was.group_ids),
        );
        let given = |list: &Vec<String>| Some(list.clone());
        let mut faults = Vec::new();
        let lists = FilterLists {
            event_types: given(&event_types),
            entity_types: given(&entity_types),
            entity_ids: given(&entity_ids),
            group_ids: given(&group_ids),
        };
        read_filter("", lists, &mut faults);
        for Fault { pointer, code, detail } in faults {
            fields.fault(&pointer, code, detail);
        }
        Self {
            url: fields
                .text("url", 1..=URL_CHARS_MAX)
                .about(
                    "Where deliveries go: an http or https URL at a public address, without \
                     credentials.",
                )
                .example("https://app.example/agentry")
                .required_or_was(was.map(|was| &was.url)),
            description: fields
                .text("description", 0..=DESCRIPTION_CHARS_MAX)
                .about("What it is for.")
                .or_was(String::new(), was.map(|was| &was.description)),
            enabled: fields
                .boolean("enabled")
                .about(
                    "Whether anything is delivered. Enabled again, it goes on where it stopped, as \
                     far as the log reaches.",
                )
                .or_was(true, was.map(|was| &was.enabled)),
            event_types,
            entity_types,
            entity_ids,
            group_ids,
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
            // The engine's, at the beginning and for good.
            created_by: was.and_then(|was| was.created_by),
        }
    }

    fn made(fields: &mut Fields) {
        fields.made_optional("created_by", Uuid, "The key that registered it.", true);
    }
}

/// A webhook that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookCreated {
    #[serde(flatten)]
    #[schema(value_type = WebhookShown)]
    webhook: WebhookShown,
    /// What its receiver checks signatures with. This answer alone has it; null when the request was
    /// sent before.
    #[schema(example = "whsec_...")]
    secret: Option<String>,
}

/// A webhook's new secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookSecret {
    /// What its receiver checks signatures with. It is not shown again: `null` in the answer
    /// to a request that was sent before.
    #[schema(example = "whsec_...")]
    secret: Option<String>,
}

/// Which webhooks.
pub struct WebhookQuery(WebhookFilter, PageRequest);

query_parameters!(WebhookQuery);

impl FromFields for WebhookQuery {
    fn read(fields: &mut Fields) -> Self {
        let enabled =
            fields.boolean("enabled").about("Whether anything is delivered to them.").optional();
        Self(WebhookFilter { enabled }, page_request(fields, Order::default()))
    }
}

/// Which deliveries.
pub struct DeliveryQuery(Option<DeliveryState>, PageRequest);

query_parameters!(DeliveryQuery);

impl FromFields for DeliveryQuery {
    fn read(fields: &mut Fields) -> Self {
        let state = fields.choice::<DeliveryState>("state").about("In this state.").optional();
        Self(state, page_request(fields, Order::default()))
    }
}

/// From where a webhook hears everything again.
pub struct WebhookReplay {
    after: i64,
}

body_schema!(WebhookReplay, "WebhookReplay");

impl FromFields for WebhookReplay {
    fn read(fields: &mut Fields) -> Self {
        let after = fields
            .integer("after", 0..=i64::MAX)
            .about("The `seq` after which it begins; 0 for all that the log has.")
            .required();
        Self { after }
    }
}

/// One event on its way to a webhook.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct DeliveryAnswer<'a> {
    /// Its id, as in the header `webhook-id`: the same at every try.
    #[schema(value_type = String, format = "uuid")]
    id: Id,
    /// The event's place in the log; null for a test.
    seq: Option<i64>,
    /// The event's type; `ping` for a test, `gap` for the news that events are gone.
    #[schema(example = "agent.updated")]
    event_type: &'a str,
    /// waiting, delivered or dead.
    #[schema(example = "delivered")]
    state: &'static str,
    /// How often it was tried.
    attempts: i64,
    /// The status of the last answer.
    status: Option<i64>,
    /// Why the last try failed.
    error: Option<&'a str>,
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last tried.
    #[schema(value_type = Option<String>, format = DateTime)]
    attempted_at: Option<Timestamp>,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_at: Option<Timestamp>,
    /// When it was delivered or given up.
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

impl<'a> DeliveryAnswer<'a> {
    #[expect(clippy::unnecessary_wraps, reason = "what lists take")]
    fn new(delivery: &'a WebhookDelivery) -> Result<Self> {
        Ok(Self {
            id: Id::from_bytes(delivery.id),
            seq: (delivery.seq > 0).then_some(delivery.seq),
            event_type: &delivery.event_type,
            state: delivery.state.as_str(),
            attempts: delivery.attempts,
            status: delivery.status,
            error: delivery.error.as_deref(),
            created_at: delivery.created_at,
            attempted_at: delivery.attempted_at,
            next_at: delivery.next_at,
            finished_at: delivery.finished_at,
        })
    }
}

/// Register a webhook
///
/// From now on the URL gets what happens, each event at least once and in order, signed as in
/// Standard Webhooks with the secret in this answer, which is not shown again.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks",
    tag = "webhooks",
    request_body = WebhookCreate,
    responses(
        (status = 201, description = "The webhook.", body = WebhookCreated, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 409, response = Conflict),
    ),
)]
pub async fn webhook_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<WebhookCreate>,
) -> Handled {
    let made = state.engine.webhook_create(&caller, once.as_ref(), body).await?;
    let WebhookMade { mut webhook, secret } = made;
    // A webhook's document is an object, and the secret is base-64.
    webhook.value.json.pop();
    match secret {
        Some(secret) => webhook.value.json.push_str(&format!(r#","secret":"{secret}"}}"#)),
        None => webhook.value.json.push_str(r#","secret":null}"#),
    }
    created(webhook, "/api/v1/webhooks")
}

/// List webhooks
#[utoipa::path(
    get,
    path = "/api/v1/webhooks",
    tag = "webhooks",
    params(WebhookQuery),
    responses((status = 200, description = "A page of webhooks.", body = List<WebhookShown>)),
)]
pub async fn webhook_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(WebhookQuery(filter, page)): Query<WebhookQuery>,
) -> Handled {
    let webhooks = state.engine.resource_list::<WebhookBody>(&caller, &filter, &page).await?;
    documents(&webhooks, page.order)
}

/// Read a webhook
#[utoipa::path(
    get,
    path = "/api/v1/webhooks/{id}",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The webhook.", body = WebhookShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn webhook_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<WebhookId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.resource_get::<WebhookBody>(&caller, id).await?)
}

/// Change a webhook
///
/// What is absent stays; `null` makes a field the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/webhooks/{id}",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = WebhookPatch,
    responses(
        (status = 200, description = "The webhook.", body = WebhookShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn webhook_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<WebhookId>,
    IfMatch(version): IfMatch,
    Json(change): Json<WebhookPatch>,
) -> Handled {
    let changed = |was: &Webhook| change.apply(was);
    tagged(state.engine.webhook_update(&caller, id, version, changed).await?)
}

/// Delete a webhook
///
/// What waits to be delivered goes with it, and so does what is remembered of its deliveries.
#[utoipa::path(
    delete,
    path = "/api/v1/webhooks/{id}",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn webhook_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<WebhookId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.webhook_delete(&caller, id, version).await?;
    Ok(no_content())
}

/// Make another secret
///
/// Deliveries are signed with it from now on, and for a day with the one before, too.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{id}/rotate-secret",
    tag = "webhooks",
    params(("id" = String, Path, description = "The webhook's id.", format = "uuid")),
    responses(
        (status = 200, description = "The secret.", body = WebhookSecret),
        (status = 404, response = NotFound),
    ),
)]
pub async fn webhook_rotate(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<WebhookId>,
    Bare { once }: Bare,
) -> Handled {
    let secret = state.engine.webhook_rotate(&caller, once.as_ref(), id).await?;
    let replayed = secret.is_none();
    Ok(replay(json(StatusCode::OK, &WebhookSecret { secret })?, replayed))
}

/// Send a test
///
/// A delivery of the type `ping` goes out as soon as possible, and is tried once. How it went is in
/// the list of deliveries.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{id}/ping",
    tag = "webhooks",
    params(("id" = String, Path, description = "The webhook's id.", format = "uuid")),
    responses(
        (status = 202, description = "The delivery.", body = DeliveryAnswer<'static>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn webhook_ping(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<WebhookId>,
    Bare { once }: Bare,
) -> Handled {
    asked(&state.engine.webhook_ping(&caller, once.as_ref(), id).await?)
}

/// Deliver again from a place of the log
///
/// Everything that concerns the webhook and comes after that place is delivered, under the same
/// ids as before. When the log does not reach back so far, it begins with a `gap`.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{id}/replay",
    tag = "webhooks",
    params(("id" = String, Path, description = "The webhook's id.", format = "uuid")),
    request_body = WebhookReplay,
    responses(
        (status = 202, description = "It begins."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn webhook_replay(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<WebhookId>,
    Json(WebhookReplay { after }): Json<WebhookReplay>,
) -> Handled {
    state.engine.webhook_replay(&caller, id, after).await?;
    json(StatusCode::ACCEPTED, &serde_json::json!({ "after": after }))
}

/// List a webhook's deliveries
#[utoipa::path(
    get,
    path = "/api/v1/webhooks/{id}/deliveries",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id.", format = "uuid"),
        DeliveryQuery,
    ),
    responses(
        (status = 200, description = "A page of deliveries.", body = List<DeliveryAnswer<'static>>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn webhook_delivery_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<WebhookId>,
    Query(DeliveryQuery(delivery_state, page)): Query<DeliveryQuery>,
) -> Handled {
    let deliveries = state.engine.webhook_delivery_list(&caller, id, delivery_state, &page).await?;
    list(&deliveries, page.order, DeliveryAnswer::new)
}

/// Try a delivery once more
///
/// Of one that was delivered or given up. It is tried once, as soon as possible.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{id}/deliveries/{delivery}/retry",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id.", format = "uuid"),
        ("delivery" = String, Path, description = "The delivery's id.", format = "uuid"),
    ),
    responses(
        (status = 202, description = "The delivery.", body = DeliveryAnswer<'static>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn webhook_delivery_retry(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathIds(id, delivery): PathIds<WebhookId, Id>,
    Bare { once }: Bare,
) -> Handled {
    let (once, delivery) = (once.as_ref(), delivery.into_bytes());
    asked(&state.engine.webhook_delivery_retry(&caller, once, id, delivery).await?)
}

/// 202 with a delivery that somebody asked for.
fn asked(done: &Done<WebhookDelivery>) -> Handled {
    let answer = json(StatusCode::ACCEPTED, &DeliveryAnswer::new(&done.value)?)?;
    Ok(replay(answer, done.replayed))
}
