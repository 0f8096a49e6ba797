//! OpenAI's conversations: sessions, and their messages as items.

use agentry_domain::chat::ChatMessage;
use agentry_domain::sessions::{Session, SessionBody};
use agentry_domain::{Code, Done, Error, JsonText, Order, PageRequest, Result, SessionId};
use agentry_engine::Engine;
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use crate::answer::{Handled, json as answer_json, replay};
use crate::body_schema;
use crate::extract::{Json, PathName, PathNames, Posted, Query};
use crate::fields::{Fields, FromFields};
use crate::response_items::{Items, item_message, list, message_item};
use crate::responses::{ItemQuery, ORIGIN, conversation_id, conversation_session};
use crate::state::ApiState;

/// Items that may be added at once.
const ITEMS_AT_ONCE_MAX: usize = 20;

/// Body of a conversation.
pub struct ConversationCreate {
    metadata: String,
    items: Vec<ChatMessage>,
}

body_schema!(ConversationCreate, "ConversationCreate");

impl FromFields for ConversationCreate {
    fn read(fields: &mut Fields) -> Self {
        Self {
            metadata: fields
                .object("metadata")
                .about("The client's own, kept with the session.")
                .or("{}".to_owned()),
            items: fields
                .field("items", Items { max: ITEMS_AT_ONCE_MAX, or_text: false })
                .about("What it begins with.")
                .or(Vec::new()),
        }
    }
}

/// Body of a change of a conversation.
pub struct ConversationUpdate {
    metadata: String,
}

body_schema!(ConversationUpdate, "ConversationUpdate");

impl FromFields for ConversationUpdate {
    fn read(fields: &mut Fields) -> Self {
        let metadata = fields.object("metadata").about("Replaces what it was.").required();
        Self { metadata }
    }
}

/// Body of added items.
pub struct ItemsCreate {
    items: Vec<ChatMessage>,
}

body_schema!(ItemsCreate, "ConversationItemsCreate");

impl FromFields for ItemsCreate {
    fn read(fields: &mut Fields) -> Self {
        let items = fields
            .field("items", Items { max: ITEMS_AT_ONCE_MAX, or_text: false })
            .about("Messages, calls of functions, and their outputs.")
            .required();
        if fields.is_faultless() && items.is_empty() {
            fields.fault("items", "too_short", "must have 1 item or more");
        }
        Self { items }
    }
}

/// A session as a conversation.
fn conversation(session: &Session) -> Value {
    let metadata = session.body.metadata.as_str();
    json!({
        "id": conversation_id(session.id),
        "object": "conversation",
        "created_at": session.created_at.micros().div_euclid(1_000_000),
        "metadata": serde_json::from_str::<Value>(metadata).unwrap_or_else(|_| json!({})),
    })
}

/// The same error, in the words of this surface.
fn missing(id: &str) -> impl Fn(Error) -> Error {
    let id = id.to_owned();
    move |error| match error.code {
        Code::NotFound => Error::not_found("conversation", &id),
        _ => error,
    }
}

async fn conversation_found(
    engine: &Engine,
    caller: &agentry_domain::Caller,
    id: &str,
) -> Result<Session> {
    let session = conversation_session(id)?;
    let found = engine.resource_get::<SessionBody>(caller, session).await;
    found.map_err(missing(id))?.entity()
}

/// Create a conversation
#[utoipa::path(
    post,
    path = "/v1/conversations",
    operation_id = "conversation_create",
    tag = "openai",
    request_body = ConversationCreate,
    responses((status = 200, description = "The conversation.", body = Value)),
)]
pub async fn conversation_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: create }: Posted<ConversationCreate>,
) -> Handled {
    let body = SessionBody {
        origin: Some(ORIGIN.to_owned()),
        metadata: JsonText::known(create.metadata),
        ..SessionBody::default()
    };
    let Done { value, replayed } =
        state.engine.session_create_with(&caller, once.as_ref(), body, create.items).await?;
    let answer = answer_json(StatusCode::OK, &conversation(&value.entity()?))?;
    Ok(replay(answer, replayed))
}

/// Read a conversation
///
/// Any session can be read as one: its id is `conv_` and the 32 digits of the session's.
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}",
    operation_id = "conversation_get",
    tag = "openai",
    params(("id" = String, Path, description = "The conversation's id.")),
    responses(
        (status = 200, description = "The conversation.", body = Value),
    ),
)]
pub async fn conversation_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
) -> Handled {
    let session = conversation_found(&state.engine, &caller, &id).await?;
    answer_json(StatusCode::OK, &conversation(&session))
}

/// Change a conversation
#[utoipa::path(
    post,
    path = "/v1/conversations/{id}",
    operation_id = "conversation_update",
    tag = "openai",
    params(("id" = String, Path, description = "The conversation's id.")),
    request_body = ConversationUpdate,
    responses(
        (status = 200, description = "The conversation.", body = Value),
    ),
)]
pub async fn conversation_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
    Json(update): Json<ConversationUpdate>,
) -> Handled {
    let session = conversation_session(&id)?;
    let change = |was: &Session| {
        let metadata = JsonText::known(update.metadata.clone());
        Ok(SessionBody { metadata, ..was.body.clone() })
    };
    let changed = state.engine.resource_update(&caller, session, None, change).await;
    let session = changed.map_err(missing(&id))?.entity()?;
    answer_json(StatusCode::OK, &conversation(&session))
}

/// Delete a conversation
///
/// The session, with its messages and its runs; 409 while one has not ended.
#[utoipa::path(
    delete,
    path = "/v1/conversations/{id}",
    operation_id = "conversation_delete",
    tag = "openai",
    params(("id" = String, Path, description = "The conversation's id.")),
    responses(
        (status = 200, description = "It is gone.", body = Value),
    ),
)]
pub async fn conversation_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
) -> Handled {
    let session = conversation_session(&id)?;
    state.engine.session_delete(&caller, session, None).await.map_err(missing(&id))?;
    let deleted = json!({"id": id, "object": "conversation.deleted", "deleted": true});
    answer_json(StatusCode::OK, &deleted)
}

/// List a conversation's items
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}/items",
    operation_id = "conversation_item_list",
    tag = "openai",
    params(("id" = String, Path, description = "The conversation's id."), ItemQuery),
    responses(
        (status = 200, description = "A page of items.", body = Value),
    ),
)]
pub async fn conversation_item_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
    Query(query): Query<ItemQuery>,
) -> Handled {
    let session = conversation_session(&id)?;
    let after = match &query.after {
        None => None,
        Some(item) => Some(item_of(&state.engine, &caller, session, item).await?.id.to_bytes()),
    };
    let limit = u32::try_from(query.limit).unwrap_or(u32::MAX);
    let order: Order = query.order;
    let page = PageRequest { limit, after, offset: 0, order };
    let found = state.engine.message_list(&caller, session, page).await.map_err(missing(&id))?;
    let items: Vec<_> = found.items.iter().map(message_item).collect();
    answer_json(StatusCode::OK, &list(&items, found.next.is_some()))
}

/// Add items to a conversation
#[utoipa::path(
    post,
    path = "/v1/conversations/{id}/items",
    operation_id = "conversation_item_create",
    tag = "openai",
    params(("id" = String, Path, description = "The conversation's id.")),
    request_body = ItemsCreate,
    responses(
        (status = 200, description = "The items.", body = Value),
    ),
)]
pub async fn conversation_item_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
    Posted { once, body: create }: Posted<ItemsCreate>,
) -> Handled {
    let session = conversation_session(&id)?;
    let made = state.engine.messages_append(&caller, once.as_ref(), session, create.items).await;
    let Done { value, replayed } = made.map_err(missing(&id))?;
    let items: Vec<_> = value.iter().map(message_item).collect();
    let answer = answer_json(StatusCode::OK, &list(&items, false))?;
    Ok(replay(answer, replayed))
}

async fn item_of(
    engine: &Engine,
    caller: &agentry_domain::Caller,
    session: SessionId,
    item: &str,
) -> Result<agentry_domain::sessions::Message> {
    let nothing = || Error::not_found("item", item);
    let id = item_message(item).ok_or_else(nothing)?;
    engine.message_find(caller, session, id).await.map_err(|error| match error.code {
        Code::NotFound => nothing(),
        _ => error,
    })
}

/// Read an item of a conversation
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}/items/{item}",
    operation_id = "conversation_item_get",
    tag = "openai",
    params(
        ("id" = String, Path, description = "The conversation's id."),
        ("item" = String, Path, description = "The item's id."),
    ),
    responses(
        (status = 200, description = "The item.", body = Value),
    ),
)]
pub async fn conversation_item_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathNames(id, item): PathNames,
) -> Handled {
    let session = conversation_session(&id)?;
    let message = item_of(&state.engine, &caller, session, &item).await?;
    answer_json(StatusCode::OK, &message_item(&message))
}

/// Delete an item of a conversation
#[utoipa::path(
    delete,
    path = "/v1/conversations/{id}/items/{item}",
    operation_id = "conversation_item_delete",
    tag = "openai",
    params(
        ("id" = String, Path, description = "The conversation's id."),
        ("item" = String, Path, description = "The item's id."),
    ),
    responses(
        (status = 200, description = "The conversation, without it.", body = Value),
    ),
)]
pub async fn conversation_item_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathNames(id, item): PathNames,
) -> Handled {
    let session = conversation_session(&id)?;
    let message = item_of(&state.engine, &caller, session, &item).await?;
    state.engine.message_delete(&caller, session, message.id).await?;
    let session = conversation_found(&state.engine, &caller, &id).await?;
    answer_json(StatusCode::OK, &conversation(&session))
}
