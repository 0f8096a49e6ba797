//! Memories over HTTP.

use agentry_domain::memories::{
    MEMORIES_BATCH_MAX, MEMORY_HITS_DEFAULT, MEMORY_HITS_MAX, Memory, MemoryAccess, MemoryBody,
    MemoryReadMode,
};
use agentry_domain::{MemoryId, Order, PageRequest, Result};
use agentry_engine::{MemoryFilter, MemoryHit, MemorySought};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{
    Handled, IfMatch, IfNoneMatch, created, json, no_content, raw, replay, tagged,
};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::bounds::{DESCRIPTION_CHARS_MAX, NAME_CHARS_MAX};
use crate::fields::{Change, Create, Fields, FromFields, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

const CONTENT_CHARS_MAX: usize = 100_000;
const QUERY_CHARS_MAX: usize = 10_000;

type MemoryCreate = Create<MemoryBody>;
type MemoryPatch = Change<MemoryBody>;
type MemoryShown = Shown<MemoryBody>;

impl ResourceFields for MemoryBody {
    const NAME: &'static str = "Memory";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        Self {
            name: fields
                .text("name", 1..=NAME_CHARS_MAX)
                .about("What people call it; need not be unique.")
                .optional_or_was(was.map(|was| &was.name)),
            content: fields
                .text("content", 1..=CONTENT_CHARS_MAX)
                .about("What is to be remembered.")
                .example("Ada prefers tea to coffee.")
                .required_or_was(was.map(|was| &was.content)),
            description: fields
                .text("description", 0..=DESCRIPTION_CHARS_MAX)
                .about("What it is about.")
                .or_was(String::new(), was.map(|was| &was.description)),
            user_id: fields
                .external_id("user_id")
                .about(
                    "The caller's id of the user whose it is, for good; null for the \
                     organisation's. One who is unknown is made.",
                )
                .fixed(was.map(|was| &was.user_id)),
            agent_id: fields
                .external_id("agent_id")
                .about("The agent it is for, whose runs alone recall it; null for all agents.")
                .optional_or_was(was.map(|was| &was.agent_id)),
            session_id: fields
                .external_id("session_id")
                .about("The session it comes from.")
                .optional_or_was(was.map(|was| &was.session_id)),
            read_mode: fields
                .choice("read_mode")
                .about("`auto`: runs recall it and searches find it; `manual`: searches alone.")
                .or_was(MemoryReadMode::default(), was.map(|was| &was.read_mode)),
            access: fields
                .choice("access")
                .about(
                    "`private`: found for its user alone; `shared`: for everyone in the \
                     organisation, as one without a user is in any case.",
                )
                .or_was(MemoryAccess::default(), was.map(|was| &was.access)),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
        }
    }
}

/// Which memories.
pub struct MemoryQuery(MemoryFilter, PageRequest);

query_parameters!(MemoryQuery);

impl FromFields for MemoryQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = MemoryFilter {
            name: fields.text("name", 1..=NAME_CHARS_MAX).about("Exactly this name.").optional(),
            user_id: fields.external_id("user_id").about("Of this user.").optional(),
            agent_id: fields.external_id("agent_id").about("For this agent.").optional(),
            session_id: fields.external_id("session_id").about("From this session.").optional(),
            read_mode: fields.choice("read_mode").about("Read like this.").optional(),
            access: fields.choice("access").about("With this access.").optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// The body of several new memories.
pub struct MemoryBatch(Vec<MemoryBody>);

body_schema!(MemoryBatch, "MemoryBatch");

impl FromFields for MemoryBatch {
    fn read(fields: &mut Fields) -> Self {
        let memories = fields
            .items("memories", 1..=MEMORIES_BATCH_MAX, |fields| MemoryBody::fields(fields, None))
            .about("The memories, each as in `POST /memories`.")
            .required();
        Self(memories)
    }
}

/// What is searched for.
pub struct MemorySearch {
    query: String,
    user_id: Option<String>,
    agent_id: Option<String>,
    session_id: Option<String>,
    limit: i64,
}

body_schema!(MemorySearch, "MemorySearch");

impl FromFields for MemorySearch {
    fn read(fields: &mut Fields) -> Self {
        Self {
            query: fields
                .text("query", 1..=QUERY_CHARS_MAX)
                .about("Words, or a question.")
                .example("What does Ada drink?")
                .required(),
            user_id: fields
                .external_id("user_id")
                .about("For whom: that user's own memories are searched too, not only shared ones.")
                .optional(),
            agent_id: fields.external_id("agent_id").about("Only those for this agent.").optional(),
            session_id: fields
                .external_id("session_id")
                .about("Only those from this session.")
                .optional(),
            limit: fields
                .integer("limit", 1..=MEMORY_HITS_MAX.into())
                .about("How many at most.")
                .or(MEMORY_HITS_DEFAULT.into()),
        }
    }
}

/// Memories that were made together.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemoryBatchAnswer<'a> {
    /// In the order in which they were sent.
    #[schema(value_type = Vec<MemoryShown>)]
    items: Vec<&'a RawValue>,
}

/// What a search found.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemorySearchAnswer<'a> {
    /// Best first; empty when nothing was found.
    hits: Vec<MemoryHitAnswer<'a>>,
}

/// A memory that was found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemoryHit)]
pub struct MemoryHitAnswer<'a> {
    /// Comparable only within one search.
    #[schema(example = 1.7)]
    score: f64,
    /// The share of the query's term weight that it holds, 0 to 1.
    #[schema(example = 0.8)]
    coverage: f64,
    /// The memory.
    #[schema(value_type = MemoryShown)]
    memory: &'a RawValue,
}

impl<'a> MemoryHitAnswer<'a> {
    fn new(hit: &'a MemoryHit) -> Result<Self> {
        let MemoryHit { score, coverage, memory } = hit;
        Ok(Self { score: *score, coverage: *coverage, memory: raw(&memory.json)? })
    }
}

/// Create a memory
///
/// Searches find it from the moment it is acknowledged.
#[utoipa::path(
    post,
    path = "/api/v1/memories",
    tag = "memories",
    request_body = MemoryCreate,
    responses(
        (status = 201, description = "The memory.", body = MemoryShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
    ),
)]
pub async fn memory_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<MemoryCreate>,
) -> Handled {
    created(state.engine.memory_create(&caller, once.as_ref(), body).await?, "/api/v1/memories")
}

/// List memories
#[utoipa::path(
    get,
    path = "/api/v1/memories",
    tag = "memories",
    params(MemoryQuery),
    responses((status = 200, description = "A page of memories.", body = List<MemoryShown>)),
)]
pub async fn memory_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(MemoryQuery(filter, page)): Query<MemoryQuery>,
) -> Handled {
    let memories = state.engine.resource_list::<MemoryBody>(&caller, &filter, &page).await?;
    documents(&memories, page.order)
}

/// Read a memory
#[utoipa::path(
    get,
    path = "/api/v1/memories/{id}",
    tag = "memories",
    params(
        ("id" = String, Path, description = "The memory's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The memory.", body = MemoryShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn memory_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<MemoryId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.resource_get::<MemoryBody>(&caller, id).await?)
}

/// Change a memory
///
/// What is absent stays; `null` makes a field the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/memories/{id}",
    tag = "memories",
    params(
        ("id" = String, Path, description = "The memory's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = MemoryPatch,
    responses(
        (status = 200, description = "The memory.", body = MemoryShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn memory_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<MemoryId>,
    IfMatch(version): IfMatch,
    Json(change): Json<MemoryPatch>,
) -> Handled {
    let changed = |was: &Memory| change.apply(was);
    tagged(state.engine.memory_update(&caller, id, version, changed).await?)
}

/// Delete a memory
#[utoipa::path(
    delete,
    path = "/api/v1/memories/{id}",
    tag = "memories",
    params(
        ("id" = String, Path, description = "The memory's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn memory_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<MemoryId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.memory_delete(&caller, id, version).await?;
    Ok(no_content())
}

/// Create several memories
///
/// All of them or none.
#[utoipa::path(
    post,
    path = "/api/v1/memories/batch",
    tag = "memories",
    request_body = MemoryBatch,
    responses((status = 201, description = "The memories.", body = MemoryBatchAnswer<'static>)),
)]
pub async fn memory_create_batch(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: MemoryBatch(bodies) }: Posted<MemoryBatch>,
) -> Handled {
    let done = state.engine.memory_create_batch(&caller, once.as_ref(), bodies).await?;
    let items = done.value.iter().map(|memory| raw(&memory.json)).collect::<Result<_>>()?;
    let answer = MemoryBatchAnswer { items };
    Ok(replay(json(StatusCode::CREATED, &answer)?, done.replayed))
}

/// Search memories
///
/// By their words: name, description and content; other forms of a word and everyday
/// synonyms count for less. What belongs to another user is not found; an unknown user
/// finds what is shared. When no memory holds half of what is asked, weighed by how rare
/// each word is, nothing is found.
#[utoipa::path(
    post,
    path = "/api/v1/memories/search",
    tag = "memories",
    request_body = MemorySearch,
    responses((status = 200, description = "The hits.", body = MemorySearchAnswer<'static>)),
)]
pub async fn memory_search(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Json(search): Json<MemorySearch>,
) -> Handled {
    let sought = MemorySought {
        user_id: search.user_id.as_deref(),
        agent_id: search.agent_id.as_deref(),
        session_id: search.session_id.as_deref(),
    };
    let limit = usize::try_from(search.limit).unwrap_or_default();
    let hits = state.engine.memory_search(&caller, sought, &search.query, limit).await?;
    let hits = hits.iter().map(MemoryHitAnswer::new).collect::<Result<_>>()?;
    json(StatusCode::OK, &MemorySearchAnswer { hits })
}
