//! Facts over HTTP, recall from a group, and nodes that turn out to be one.

use std::time::Instant as Clock;

use agentry_domain::facts::{Evidence, Fact, FactObject};
use agentry_domain::graph::GroupId;
use agentry_domain::{EpisodeId, FactId, NodeId, Order, PageRequest, Result, Timestamp};
use agentry_engine::{
    FactFilter, GRAPH_HITS_DEFAULT, GRAPH_HITS_MAX, GraphAsk, GraphHit, GraphItem, NodeMerge,
};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{Handled, json, no_content, raw};
use crate::episodes::EpisodeAnswer;
use crate::extract::{Json, PathId, PathIds, Query};
use crate::fields::kinds::Instant;
use crate::fields::{Fields, FromFields};
use crate::graph::{GroupGiven, GroupQuery, InGroup, group};
use crate::lists::{List, list, page_request};
use crate::openapi::{Conflict, NotFound};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

const PREDICATE_CHARS_MAX: usize = 100;
const QUERY_CHARS_MAX: usize = 10_000;
const CAUSE_CHARS_MAX: usize = 500;
/// A token of a language model has about four bytes of English text.
const BYTES_PER_TOKEN: i64 = 4;
const TOKENS_MAX: i64 = 1_000_000;

/// The words of an episode that a fact rests on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FactEvidence)]
pub struct EvidenceAnswer<'a> {
    /// The episode.
    #[schema(value_type = String, format = "uuid")]
    episode_id: EpisodeId,
    /// Its words.
    quote: &'a str,
}

/// A fact.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fact)]
pub struct FactAnswer<'a> {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: FactId,
    /// The group it is in.
    #[schema(value_type = String)]
    group_id: &'a GroupId,
    /// The node that it is about.
    #[schema(value_type = String, format = "uuid")]
    subject: NodeId,
    /// The relation.
    #[schema(example = "lives_in")]
    predicate: &'a str,
    /// The node that it relates to; null when it is a value.
    #[schema(value_type = Option<String>, format = "uuid")]
    object_node: Option<NodeId>,
    /// The value; null when it is a node.
    object_text: Option<&'a str>,
    /// The fact as a sentence.
    #[schema(example = "Ada lives in Lisbon")]
    text: &'a str,
    /// From when it holds; null when that is not known.
    #[schema(value_type = Option<String>, format = DateTime)]
    valid_at: Option<Timestamp>,
    /// Until when; null when it still holds.
    #[schema(value_type = Option<String>, format = DateTime)]
    invalid_at: Option<Timestamp>,
    /// Since when it is known.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Since when it is known that it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    expired_at: Option<Timestamp>,
    /// How sure it is, 0 to 1.
    confidence: f64,
    /// What drew it out of an episode.
    extractor: &'a str,
    /// That one's version.
    extractor_version: &'a str,
    /// More about it.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// What it rests on, the oldest pieces.
    evidence: Vec<EvidenceAnswer<'a>>,
}

impl<'a> FactAnswer<'a> {
    fn new((fact, evidence): &'a (Fact, Vec<Evidence>)) -> Result<Self> {
        Self::of(fact, evidence)
    }

    fn of(fact: &'a Fact, evidence: &'a [Evidence]) -> Result<Self> {
        let (object_node, object_text) = match &fact.object {
            FactObject::Node(id) => (Some(*id), None),
            FactObject::Text(text) => (None, Some(text.as_str())),
        };
        Ok(Self {
            id: fact.id,
            group_id: &fact.group_id,
            subject: fact.subject,
            predicate: &fact.predicate,
            object_node,
            object_text,
            text: &fact.text,
            valid_at: fact.valid_at,
            invalid_at: fact.invalid_at,
            created_at: fact.created_at,
            expired_at: fact.expired_at,
            confidence: fact.confidence,
            extractor: &fact.extractor,
            extractor_version: &fact.extractor_version,
            metadata: raw(fact.metadata.as_str())?,
            evidence: evidence
                .iter()
                .map(|it| EvidenceAnswer { episode_id: it.episode_id, quote: &it.quote })
                .collect(),
        })
    }
}

/// Which facts.
pub struct FactQuery(GroupId, FactFilter, PageRequest);

query_parameters!(FactQuery);

impl FromFields for FactQuery {
    fn read(fields: &mut Fields) -> Self {
        let group = group(fields);
        let subject = fields.reference("subject").about("About this node.").optional();
        let predicate =
            fields.text("predicate", 1..=PREDICATE_CHARS_MAX).about("Of this relation.").optional();
        let object =
            fields.reference("object").about("To this node; not with the others.").optional();
        if object.is_some() && (subject.is_some() || predicate.is_some()) {
            fields.fault("object", "exclusive", "goes with neither subject nor predicate");
        }
        let as_of = fields
            .field("as_of", Instant)
            .about("Only those that held at this moment in the world; without it, those of every time.")
            .optional();
        let known_at = fields
            .field("known_at", Instant)
            .about("As far as was known here at this moment.")
            .optional();
        let page = page_request(fields, Order::Descending);
        if page.order == Order::Ascending {
            fields.fault("order", "not_supported_yet", "facts are listed newest first");
        }
        Self(group, FactFilter { subject, predicate, object, as_of, known_at }, page)
    }
}

/// List facts, newest first
///
/// `total` counts the group's facts, whatever is filtered.
#[utoipa::path(
    get,
    path = "/api/v1/graph/facts",
    tag = "graph",
    params(FactQuery),
    responses((status = 200, description = "A page of facts.", body = List<FactAnswer<'static>>)),
)]
pub async fn fact_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(FactQuery(group, filter, page)): Query<FactQuery>,
) -> Handled {
    let facts = state.engine.fact_list(&caller, &group, &filter, page).await?;
    list(&facts, page.order, FactAnswer::new)
}

/// Read a fact
#[utoipa::path(
    get,
    path = "/api/v1/graph/facts/{id}",
    tag = "graph",
    params(("id" = String, Path, description = "The fact's id.", format = "uuid"), GroupQuery),
    responses(
        (status = 200, description = "The fact.", body = FactAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn fact_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<FactId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
) -> Handled {
    let found = state.engine.fact_get(&caller, &group, id).await?;
    json(StatusCode::OK, &FactAnswer::new(&found)?)
}

/// What is asked of a group.
pub struct GraphSearchBody {
    query: String,
    limit: i64,
    as_of: Option<Timestamp>,
    known_at: Option<Timestamp>,
    tokens_max: Option<i64>,
    facts: bool,
    episodes: bool,
}

type GraphSearch = InGroup<GraphSearchBody>;

body_schema!(GraphSearch, "GraphSearch");

impl FromFields for GraphSearchBody {
    fn read(fields: &mut Fields) -> Self {
        Self {
            query: fields
                .text("query", 1..=QUERY_CHARS_MAX)
                .about("Words, or a question.")
                .example("Where does Ada live?")
                .required(),
            limit: fields
                .integer("limit", 1..=GRAPH_HITS_MAX.into())
                .about("How many hits at most.")
                .or(GRAPH_HITS_DEFAULT.into()),
            as_of: fields
                .field("as_of", Instant)
                .about("The moment in the world that it is about. Without it, what the question says (\"last year\"), or now.")
                .optional(),
            known_at: fields
                .field("known_at", Instant)
                .about("As far as was known here at this moment.")
                .optional(),
            tokens_max: fields
                .integer("tokens_max", 1..=TOKENS_MAX)
                .about("What the hits' texts may take together, in tokens of about four bytes.")
                .optional(),
            facts: fields.boolean("facts").about("Whether facts are wanted.").or(true),
            episodes: fields.boolean("episodes").about("Whether episodes are wanted.").or(true),
        }
    }
}

/// What the score of a hit is made of.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphSignals)]
pub struct SignalsAnswer {
    /// Its place in its own list, facts or episodes, from 1; the lists are fused by it.
    rank: usize,
    /// BM25 of its own words.
    text: f64,
    /// What neighbouring episodes of its session lend it.
    neighbours: f64,
    /// What it gains because somebody whom the query names said it.
    speaker: f64,
    /// Because of when it was said, or because it says when.
    time: f64,
    /// Because its session answers the query.
    session: f64,
    /// Because it says what kind of thing is asked for; below 0 when it asks itself.
    form: f64,
    /// Because it is new, and the query is about now.
    recency: f64,
    /// How near it is to the query as a vector, from 0 to 1; 0 without an embedding model,
    /// and when it is far. It counts by its rank among the nearest.
    vector: f64,
}

/// Something that answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphHit)]
pub struct GraphHitAnswer<'a> {
    /// fact or episode.
    #[serde(rename = "type")]
    #[schema(example = "fact")]
    kind: &'static str,
    /// The id of the fact or the episode.
    #[schema(value_type = String, format = "uuid")]
    id: String,
    /// What it says.
    text: &'a str,
    /// Comparable only within one search.
    score: f64,
    /// The share of the query's term weight that it has, 0 to 1.
    coverage: f64,
    /// What the score is made of.
    signals: SignalsAnswer,
    /// The fact, with what it rests on; null for an episode.
    fact: Option<FactAnswer<'a>>,
    /// The episode; null for a fact.
    episode: Option<EpisodeAnswer<'a>>,
}

impl<'a> GraphHitAnswer<'a> {
    fn new(hit: &'a GraphHit) -> Result<Self> {
        let signals = &hit.signals;
        let signals = SignalsAnswer {
            rank: hit.rank,
            text: signals.text,
            neighbours: signals.neighbours,
            speaker: signals.speaker,
            time: signals.time,
            session: signals.session,
            form: signals.form,
            recency: signals.recency,
            vector: signals.vector,
        };
        let (kind, id, text, fact, episode) = match &hit.item {
            GraphItem::Fact(fact, evidence) => {
                let answer = FactAnswer::of(fact, evidence)?;
                ("fact", fact.id.to_string(), fact.text.as_str(), Some(answer), None)
            }
            GraphItem::Episode(episode) => {
                let answer = EpisodeAnswer::new(episode)?;
                ("episode", episode.id.to_string(), episode.content.as_str(), None, Some(answer))
            }
        };
        Ok(Self {
            kind,
            id,
            text,
            score: hit.score,
            coverage: hit.coverage,
            signals,
            fact,
            episode,
        })
    }
}

/// What a search found.
#[derive(Debug, Serialize, ToSchema)]
pub struct GraphSearchAnswer<'a> {
    /// Best first; empty when nothing was found.
    hits: Vec<GraphHitAnswer<'a>>,
    /// How long it took.
    execution_time_ms: f64,
}

/// Recall from a group
///
/// Facts that hold at the moment asked about, and episodes, best first; each says what its
/// score is made of and what it rests on.
#[utoipa::path(
    post,
    path = "/api/v1/graph/search",
    tag = "graph",
    params(GroupGiven),
    request_body = GraphSearch,
    responses((status = 200, description = "What was found.", body = GraphSearchAnswer<'static>)),
)]
pub async fn graph_search(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(given): Query<GroupGiven>,
    Json(InGroup { group, of: body }): Json<GraphSearch>,
) -> Handled {
    let begun = Clock::now();
    let bytes = |tokens: i64| usize::try_from(tokens * BYTES_PER_TOKEN).unwrap_or(usize::MAX);
    let ask = GraphAsk {
        group: given.or(group)?,
        query: body.query,
        as_of: body.as_of,
        known_at: body.known_at,
        limit: usize::try_from(body.limit).unwrap_or(usize::MAX),
        bytes_max: body.tokens_max.map(bytes),
        facts: body.facts,
        episodes: body.episodes,
    };
    let found = state.engine.graph_search(&caller, &ask).await?;
    let answer = GraphSearchAnswer {
        hits: found.iter().map(GraphHitAnswer::new).collect::<Result<_>>()?,
        execution_time_ms: begun.elapsed().as_secs_f64() * 1_000.0,
    };
    json(StatusCode::OK, &answer)
}

/// A node that is another one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NodeMerge)]
pub struct MergeAnswer<'a> {
    /// It.
    #[schema(value_type = String, format = "uuid")]
    merged: NodeId,
    /// The one that it is.
    #[schema(value_type = String, format = "uuid")]
    into: NodeId,
    /// Why.
    cause: &'a str,
    /// When that was said.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// What a node is merged with.
pub struct MergeBody {
    node_id: NodeId,
    cause: String,
}

type MergeCreate = InGroup<MergeBody>;

body_schema!(MergeCreate, "NodeMergeCreate");

impl FromFields for MergeBody {
    fn read(fields: &mut Fields) -> Self {
        Self {
            node_id: fields
                .reference("node_id")
                .about("The node that is this one, too.")
                .required(),
            cause: fields.text("cause", 0..=CAUSE_CHARS_MAX).about("Why.").or("client".to_owned()),
        }
    }
}

/// Merge another node into this one
///
/// From then on what episodes say of the other is stored of this one, and a search for this
/// one finds what names the other. Nothing else changes, so that it can be undone.
#[utoipa::path(
    post,
    path = "/api/v1/graph/nodes/{id}/merge",
    tag = "graph",
    params(("id" = String, Path, description = "The node that stays.", format = "uuid"), GroupGiven),
    request_body = MergeCreate,
    responses(
        (status = 201, description = "The merge.", body = MergeAnswer<'static>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn node_merge(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<NodeId>,
    Query(given): Query<GroupGiven>,
    Json(InGroup { group, of: MergeBody { node_id, cause } }): Json<MergeCreate>,
) -> Handled {
    let group = given.or(group)?;
    let merge = state.engine.node_merge(&caller, &group, (node_id, id), cause).await?;
    let NodeMerge { merged, into, cause, created_at } = &merge;
    let answer = MergeAnswer { merged: *merged, into: *into, cause, created_at: *created_at };
    json(StatusCode::CREATED, &answer)
}

/// Undo the merge of another node into this one
#[utoipa::path(
    delete,
    path = "/api/v1/graph/nodes/{id}/merge/{merged}",
    tag = "graph",
    params(
        ("id" = String, Path, description = "The node that stayed.", format = "uuid"),
        ("merged" = String, Path, description = "The node that was merged into it.", format = "uuid"),
        GroupQuery,
    ),
    responses((status = 204, description = "It is undone."), (status = 404, response = NotFound)),
)]
pub async fn node_unmerge(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathIds(id, merged): PathIds<NodeId, NodeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
) -> Handled {
    state.engine.node_unmerge(&caller, &group, (merged, id)).await?;
    Ok(no_content())
}
