//! The messages of a session over HTTP.

use std::borrow::Cow;

use agentry_domain::chat::ChatMessage;
use agentry_domain::sessions::{Message, MessageRole};
use agentry_domain::{MessageId, Order, PageRequest, Result, RunId, SessionId, Timestamp};
use agentry_engine::MessageNew;
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{Handled, json, raw, replay};
use crate::extract::{PathName, Posted, Query};
use crate::fields::{Fields, FromFields};
use crate::lists::{List, list, page_request};
use crate::openapi::{Conflict, NotFound};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

/// Characters of what is said; the body's own bound comes first for most texts.
pub(crate) const CONTENT_CHARS_MAX: usize = 1_000_000;

agentry_domain::named! {
    /// Who can be said to speak by text alone.
    pub(crate) enum SpokenRole {
        /// The instructions.
        System = "system",
        /// The person or program that asks.
        User = "user",
        /// The model.
        Assistant = "assistant",
    }
}

impl From<SpokenRole> for MessageRole {
    fn from(role: SpokenRole) -> Self {
        match role {
            SpokenRole::System => Self::System,
            SpokenRole::User => Self::User,
            SpokenRole::Assistant => Self::Assistant,
        }
    }
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub struct MessageAnswer<'a> {
    /// Its id; order by id is the order of the conversation.
    #[schema(value_type = String, format = "uuid")]
    id: MessageId,
    /// The session it is in.
    #[schema(value_type = String, format = "uuid")]
    session_id: SessionId,
    /// The run that it started or that wrote it; null when it was appended.
    #[schema(value_type = Option<String>, format = "uuid")]
    run_id: Option<RunId>,
    /// Who speaks.
    #[schema(example = "user")]
    role: &'static str,
    /// What is said.
    content: &'a str,
    /// All of it, when it is more than text: `parts` with images, `calls` of tools, the
    /// `call_id` that a result belongs to.
    #[schema(value_type = Option<Object>)]
    chat: Option<Cow<'a, ChatMessage>>,
    /// The client's own.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl<'a> MessageAnswer<'a> {
    fn new(message: &'a Message) -> Result<Self> {
        Ok(Self {
            id: message.id,
            session_id: message.session,
            run_id: message.run,
            role: message.role.as_str(),
            content: &message.content,
            chat: message.chat.as_ref().map(ChatMessage::shown),
            metadata: raw(&message.metadata)?,
            created_at: message.created_at,
        })
    }
}

/// Body of an appended message.
pub struct MessageCreate(MessageNew);

body_schema!(MessageCreate, "MessageCreate");

impl FromFields for MessageCreate {
    fn read(fields: &mut Fields) -> Self {
        Self(MessageNew {
            role: fields.choice::<SpokenRole>("role").about("Who speaks.").required().into(),
            content: fields
                .text("content", 1..=CONTENT_CHARS_MAX)
                .about("What is said.")
                .required(),
            metadata: fields
                .object("metadata")
                .about("The client's own, kept as it is.")
                .or("{}".to_owned()),
        })
    }
}

/// Which messages.
pub struct MessageQuery(PageRequest);

query_parameters!(MessageQuery);

impl FromFields for MessageQuery {
    fn read(fields: &mut Fields) -> Self {
        // A conversation is read from its beginning.
        Self(page_request(fields, Order::Ascending))
    }
}

/// List a session's messages
///
/// Oldest first, unless `order` says otherwise.
#[utoipa::path(
    get,
    path = "/api/v1/sessions/{session}/messages",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        MessageQuery,
    ),
    responses(
        (status = 200, description = "A page of messages.", body = List<MessageAnswer<'static>>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn message_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(session): PathName,
    Query(MessageQuery(page)): Query<MessageQuery>,
) -> Handled {
    let session = session_id(&state, &caller, &session).await?;
    let messages = state.engine.message_list(&caller, session, page).await?;
    list(&messages, page.order, MessageAnswer::new)
}

/// Append a message to a session
///
/// Later runs see it and can recall it.
#[utoipa::path(
    post,
    path = "/api/v1/sessions/{session}/messages",
    tag = "sessions",
    params(("session" = String, Path, description = "Its id or, when only one has it, its name.")),
    request_body = MessageCreate,
    responses(
        (status = 201, description = "The message.", body = MessageAnswer<'static>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn message_append(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(session): PathName,
    Posted { once, body: MessageCreate(new) }: Posted<MessageCreate>,
) -> Handled {
    let done = state.engine.message_append(&caller, once.as_ref(), &session, new).await?;
    let answer = json(StatusCode::CREATED, &MessageAnswer::new(&done.value)?)?;
    Ok(replay(answer, done.replayed))
}

/// The session that is meant. Many clients name their sessions by UUIDs of their
/// own, so that what looks like an id may still be a name.
async fn session_id(
    state: &ApiState,
    caller: &agentry_domain::Caller,
    id_or_name: &str,
) -> Result<SessionId> {
    Ok(state.engine.session_find(caller, id_or_name).await?.id)
}
