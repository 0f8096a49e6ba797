//! Episodes over HTTP: taken, looked at, and, when they were put aside, tried again or
//! dropped.

use agentry_domain::episodes::{
    EPISODE_CONTENT_CHARS_MAX, EPISODE_LABEL_CHARS_MAX, Episode, EpisodeAside, EpisodeKind,
    EpisodeState,
};
use agentry_domain::graph::GroupId;
use agentry_domain::{
    EpisodeId, JsonText, MessageId, NodeId, Order, PageRequest, Result, Timestamp,
};
use agentry_engine::{EpisodeNew, EpisodeSeen};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{Handled, json, put, raw, replay};
use crate::extract::{PathId, Posted, Query};
use crate::fields::kinds::Instant;
use crate::fields::{Fields, FromFields};
use crate::graph::{GroupGiven, GroupQuery, InGroup, group};
use crate::lists::{List, list, page_request};
use crate::openapi::{Conflict, NotFound};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

/// Where an episode names a node.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EpisodeMention)]
pub struct MentionAnswer {
    /// The node.
    #[schema(value_type = String, format = "uuid")]
    node_id: NodeId,
    /// The first byte of the content that names it.
    start: usize,
    /// The one after the last; equal to `start` for whoever speaks and is not named.
    end: usize,
}

/// An episode.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Episode)]
pub struct EpisodeAnswer<'a> {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: EpisodeId,
    /// The group it is in.
    #[schema(value_type = String)]
    group_id: &'a GroupId,
    /// text or json.
    #[schema(example = "text")]
    kind: &'static str,
    /// Who spoke.
    role: &'a str,
    /// The name of who spoke.
    speaker: Option<&'a str>,
    /// Where it comes from.
    source: &'a str,
    /// What was said; of a JSON episode, its text.
    content: &'a str,
    /// The session it was said in.
    session_id: Option<&'a str>,
    /// The user whose it is.
    user_id: Option<&'a str>,
    /// The message of a run that it repeats.
    #[schema(value_type = Option<String>, format = "uuid")]
    message_id: Option<MessageId>,
    /// When it was said.
    #[schema(value_type = String, format = DateTime)]
    occurred_at: Timestamp,
    /// When it came.
    #[schema(value_type = String, format = DateTime)]
    ingested_at: Timestamp,
    /// pending, done, dead or dropped. It is found as text in any of them.
    #[schema(example = "done")]
    state: &'static str,
    /// What drew from it.
    extractor: Option<&'a str>,
    /// How often that was tried.
    attempts: i64,
    /// Why it failed when it was last tried.
    error: Option<&'a str>,
    /// The client's own.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// Which nodes it names; in lists, none are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    mentions: Option<Vec<MentionAnswer>>,
}

impl<'a> EpisodeAnswer<'a> {
    pub(crate) fn new(episode: &'a Episode) -> Result<Self> {
        Ok(Self {
            id: episode.id,
            group_id: &episode.group_id,
            kind: episode.kind.as_str(),
            role: &episode.role,
            speaker: episode.speaker.as_deref(),
            source: &episode.source,
            content: &episode.content,
            session_id: episode.session_id.as_deref(),
            user_id: episode.user_id.as_deref(),
            message_id: episode.message,
            occurred_at: episode.occurred_at,
            ingested_at: episode.ingested_at,
            state: episode.state.as_str(),
            extractor: episode.extractor.as_deref(),
            attempts: episode.attempts,
            error: episode.error.as_deref(),
            metadata: raw(episode.metadata.as_str())?,
            mentions: None,
        })
    }

    fn seen(seen: &'a EpisodeSeen) -> Result<Self> {
        let mention = |mention: &agentry_engine::Mention| MentionAnswer {
            node_id: mention.node,
            start: mention.span.0,
            end: mention.span.1,
        };
        let mentions = Some(seen.mentions.iter().map(mention).collect());
        Ok(Self { mentions, ..Self::new(&seen.episode)? })
    }
}

/// Body of a new episode.
pub struct EpisodeBody {
    kind: EpisodeKind,
    role: String,
    speaker: Option<String>,
    source: String,
    content: String,
    session_id: Option<String>,
    user_id: Option<String>,
    occurred_at: Option<Timestamp>,
    metadata: JsonText,
}

type EpisodeCreate = InGroup<EpisodeBody>;

body_schema!(EpisodeCreate, "EpisodeCreate");

impl FromFields for EpisodeBody {
    fn read(fields: &mut Fields) -> Self {
        let label = || 0..=EPISODE_LABEL_CHARS_MAX;
        let content = fields
            .text("content", 1..=EPISODE_CONTENT_CHARS_MAX)
            .about("What was said. `Name:` before it says who spoke. Either this or `json`.")
            .example("Ada: I moved to Lisbon last month.")
            .optional();
        let document = fields
            .json("json")
            .about("A JSON object or list, which becomes facts as it stands, instead of `content`.")
            .optional();
        let (kind, content) = match (content, document) {
            (Some(content), None) => (EpisodeKind::Text, content),
            (None, Some(document)) => {
                if !document.starts_with(['{', '[']) {
                    fields.fault("json", "malformed", "must be an object or a list");
                }
                if document.chars().count() > EPISODE_CONTENT_CHARS_MAX {
                    let detail =
                        format!("must have {EPISODE_CONTENT_CHARS_MAX} characters at most");
                    fields.fault("json", "out_of_range", detail);
                }
                (EpisodeKind::Json, document)
            }
            (Some(_), Some(_)) => {
                fields.fault("json", "exclusive", "is sent instead of content");
                (EpisodeKind::Text, String::new())
            }
            (None, None) => {
                if fields.reads() {
                    fields.fault("content", "required", "must be sent, or json");
                }
                (EpisodeKind::Text, String::new())
            }
        };
        Self {
            kind,
            content,
            role: fields.text("role", label()).about("Who spoke: user, assistant, system, or the client's own word.").or("user".to_owned()),
            speaker: fields
                .text("speaker", 1..=EPISODE_LABEL_CHARS_MAX)
                .about("The name of who spoke; whom `I` means. Without it, the user's id, or the role.")
                .optional(),
            source: fields.text("source", label()).about("Where it comes from, in the client's words.").or("message".to_owned()),
            session_id: fields.external_id("session_id").about("The conversation it belongs to; neighbours in it help to find each other.").optional(),
            user_id: fields
                .external_id("user_id")
                .about("The caller's id of the user whose it is; a purge of the user deletes it. One who is unknown is made.")
                .optional(),
            occurred_at: fields.field("occurred_at", Instant).about("When it was said; now when it is left out. `yesterday` in it is the day before.").optional(),
            metadata: fields.own_object("metadata", None),
        }
    }
}

/// Which episodes.
pub struct EpisodeQuery(GroupId, Option<EpisodeState>, PageRequest);

query_parameters!(EpisodeQuery);

impl FromFields for EpisodeQuery {
    fn read(fields: &mut Fields) -> Self {
        let group = group(fields);
        let state = fields
            .choice::<EpisodeAside>("state")
            .about("Only those that are in this state; without it, those in any, also done.")
            .optional()
            .map(EpisodeState::from);
        Self(group, state, page_request(fields, Order::default()))
    }
}

/// Take an episode
///
/// It is stored, and found as text, when this is answered; what it says is drawn out of it
/// soon after. One that was sent before, equal in everything, comes back with its first id.
#[utoipa::path(
    post,
    path = "/api/v1/graph/episodes",
    tag = "graph",
    params(GroupGiven),
    request_body = EpisodeCreate,
    responses(
        (status = 202, description = "The episode.", body = EpisodeAnswer<'static>, headers(
            ("Location" = String, description = "Where it is."),
        )),
        (status = 429, description = "The group's queue is full.", body = crate::problem::Problem<'static>,
            content_type = "application/problem+json"),
    ),
)]
pub async fn episode_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(given): Query<GroupGiven>,
    Posted { once, body: InGroup { group, of: body } }: Posted<EpisodeCreate>,
) -> Handled {
    let new = EpisodeNew {
        group: given.or(group)?,
        kind: body.kind,
        role: body.role,
        speaker: body.speaker,
        source: body.source,
        content: body.content,
        session_id: body.session_id,
        user_id: body.user_id,
        occurred_at: body.occurred_at,
        metadata: body.metadata,
    };
    let done = state.engine.episode_create(&caller, once.as_ref(), new).await?;
    let mut answer = json(StatusCode::ACCEPTED, &EpisodeAnswer::new(&done.value)?)?;
    put(&mut answer, header::LOCATION, &format!("/api/v1/graph/episodes/{}", done.value.id));
    Ok(replay(answer, done.replayed))
}

/// List episodes
#[utoipa::path(
    get,
    path = "/api/v1/graph/episodes",
    tag = "graph",
    params(EpisodeQuery),
    responses((status = 200, description = "A page of episodes.", body = List<EpisodeAnswer<'static>>)),
)]
pub async fn episode_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(EpisodeQuery(group, in_state, page)): Query<EpisodeQuery>,
) -> Handled {
    let episodes = state.engine.episode_list(&caller, &group, in_state, page).await?;
    list(&episodes, page.order, EpisodeAnswer::new)
}

/// Read an episode, and which nodes it names
#[utoipa::path(
    get,
    path = "/api/v1/graph/episodes/{id}",
    tag = "graph",
    params(("id" = String, Path, description = "The episode's id.", format = "uuid"), GroupQuery),
    responses(
        (status = 200, description = "The episode.", body = EpisodeAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn episode_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<EpisodeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
) -> Handled {
    let seen = state.engine.episode_get(&caller, &group, id).await?;
    json(StatusCode::OK, &EpisodeAnswer::seen(&seen)?)
}

/// Try an episode again that was put aside
#[utoipa::path(
    post,
    path = "/api/v1/graph/episodes/{id}/retry",
    tag = "graph",
    params(("id" = String, Path, description = "The episode's id.", format = "uuid"), GroupQuery),
    responses(
        (status = 202, description = "The episode, which waits again.", body = EpisodeAnswer<'static>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn episode_retry(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<EpisodeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
) -> Handled {
    let episode = state.engine.episode_retry(&caller, &group, id).await?;
    json(StatusCode::ACCEPTED, &EpisodeAnswer::new(&episode)?)
}

/// Drop an episode that was put aside
///
/// It stays, and is found as text; nothing is drawn from it.
#[utoipa::path(
    post,
    path = "/api/v1/graph/episodes/{id}/drop",
    tag = "graph",
    params(("id" = String, Path, description = "The episode's id.", format = "uuid"), GroupQuery),
    responses(
        (status = 200, description = "The episode.", body = EpisodeAnswer<'static>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn episode_drop(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<EpisodeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
) -> Handled {
    let episode = state.engine.episode_drop(&caller, &group, id).await?;
    json(StatusCode::OK, &EpisodeAnswer::new(&episode)?)
}
