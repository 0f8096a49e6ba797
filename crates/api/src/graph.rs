//! Graphs over HTTP: how much there is, what nodes there are by their edges, and
//! where edges lead. Nodes and edges themselves are in [`crate::graph_nodes`] and
//! [`crate::graph_edges`], imports in [`crate::graph_import`].

use std::collections::BTreeMap;
use std::time::Instant;

use agentry_domain::graph::{
    Category, Direction, Edge, EdgeBody, GRAPH_KIND_CHARS_MAX, GRAPH_NODES_DEFAULT,
    GRAPH_NODES_MAX, GROUP_DEFAULT, GraphStats, GroupId, Node, NodeBody, QueryType,
    TRAVERSE_DEPTH_DEFAULT, TRAVERSE_DEPTH_MAX, TRAVERSE_KINDS_MAX,
};
use agentry_domain::page::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, PAGE_OFFSET_MAX};
use agentry_domain::{EdgeId, Error, Fault, NodeId, Result};
use agentry_engine::{
    Reached, Subgraph, SubgraphAsked, SymbolEdge, SymbolEdges, SymbolQuery, Traverse, Traversed,
};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::aged::{Aged, content_tag, wants_fresh};
use crate::answer::{Handled, json};
use crate::extract::{FromBody, Json, PathChoice, PathName, Query};
use crate::fields::kinds::{EXTERNAL_ID_CHARS_MAX, ExternalId, Kind as _, Texts};
use crate::fields::{
    Change, Fields, FromFields, Purpose, ResourceFields, Shown, pointer, resource_schema,
};
use crate::openapi::NotFound;
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

/// What a group is, for the document.
const GROUP: &str = "The caller's own name for a part of the organisation's graph. What one group \
    holds no other one sees.";
/// Nodes that a subgraph is around at most.
const SUBGRAPH_AROUND_MAX: usize = 100;
/// Steps from the nodes that a subgraph is around at most.
const SUBGRAPH_DEPTH_MAX: i64 = 5;
/// Characters of a symbol that is asked about.
const SYMBOL_CHARS_MAX: usize = 500;

pub(crate) type NodeShown = Shown<NodeBody>;
pub(crate) type EdgeShown = Shown<EdgeBody>;

/// The group that a query names.
pub(crate) fn group(fields: &mut Fields) -> GroupId {
    let named = fields.external_id("group_id").about(GROUP).or(GROUP_DEFAULT.to_owned());
    GroupId::new(named)
}

/// The group in the query of a call that has a body, which may name it too.
pub struct GroupGiven(pub(crate) Option<String>);

query_parameters!(GroupGiven);

impl FromFields for GroupGiven {
    fn read(fields: &mut Fields) -> Self {
        Self(fields.external_id("group_id").about(GROUP).optional())
    }
}

impl GroupGiven {
    /// The group that query or body name, or both alike.
    pub(crate) fn or(self, in_body: Option<String>) -> Result<GroupId> {
        match (self.0, in_body) {
            (Some(query), Some(body)) if query != body => {
                let detail = "names another group than the query does";
                Err(Error::invalid(vec![Fault::new("/group_id", "exclusive", detail)]))
            }
            (given, in_body) => Ok(given.or(in_body).map_or_else(GroupId::default, GroupId::new)),
        }
    }
}

/// The group of a call that has no other query.
pub struct GroupQuery(pub(crate) GroupId);

query_parameters!(GroupQuery);

impl FromFields for GroupQuery {
    fn read(fields: &mut Fields) -> Self {
        Self(group(fields))
    }
}

/// A body that may name its group.
#[derive(Clone, Debug)]
pub struct InGroup<T> {
    pub(crate) group: Option<String>,
    pub(crate) of: T,
}

impl<T: FromFields> FromFields for InGroup<T> {
    fn read(fields: &mut Fields) -> Self {
        let group = fields.external_id("group_id").about(GROUP).optional();
        Self { group, of: T::read(fields) }
    }
}

/// A merge patch that may name the group, which it does not change.
#[derive(Clone, Debug)]
pub struct ChangeInGroup<R> {
    pub(crate) group: Option<String>,
    pub(crate) change: Change<R>,
}

impl<R: ResourceFields> FromBody for ChangeInGroup<R> {
    fn from_body(mut object: Map<String, Value>, mut faults: Vec<Fault>) -> Result<Self> {
        let group = match object.remove("group_id") {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
                Some(number.to_string())
            }
            Some(Value::String(text))
                if (1..=EXTERNAL_ID_CHARS_MAX).contains(&text.chars().count()) =>
            {
                Some(text)
            }
            Some(_) => {
                let at = pointer("", "group_id");
                faults.push(Fault::new(at, "wrong_type", "must be the name of a group"));
                None
            }
        };
        Ok(Self { group, change: Change::new(object, faults) })
    }
}

impl<R: ResourceFields> PartialSchema for ChangeInGroup<R> {
    fn schema() -> RefOr<Schema> {
        let mut schema = resource_schema::<R>(Purpose::Change);
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            let group = RefOr::T(ExternalId.schema(Purpose::Change));
            object.properties.insert("group_id".to_owned(), group);
        }
        schema
    }
}

impl<R: ResourceFields> ToSchema for ChangeInGroup<R> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("{}Patch", R::NAME).into()
    }
}

/// How long a call took, in milliseconds.
pub(crate) fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// How much there is in a group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GraphStatsAnswer<'a> {
    /// The group.
    group_id: &'a str,
    /// Nodes.
    total_nodes: u64,
    /// Edges.
    total_relationships: u64,
    /// How many nodes there are of each kind, by name, of at most 200 kinds.
    node_types: BTreeMap<&'a str, u64>,
    /// How many edges there are of each kind, likewise.
    relationship_types: BTreeMap<&'a str, u64>,
    /// How many nodes are in each category.
    categories: BTreeMap<&'static str, u64>,
    /// How long it took, in milliseconds.
    execution_time_ms: f64,
}

/// How much there is in a group
///
/// Counters. The answer may be as old as `Cache-Control` declares, by default a second, and
/// `Age` says how old it is; with `Cache-Control: no-cache` in the request it is as the counters
/// are, which are right at once on SQLite and within a second on PostgreSQL.
#[utoipa::path(
    get,
    path = "/api/v1/graph/stats",
    tag = "graph",
    params(GroupQuery),
    responses(
        (status = 200, description = "How much there is.", body = GraphStatsAnswer<'static>, headers(
            ("ETag" = String, description = "Of all but how long it took."),
            ("Cache-Control" = String, description = "How old it may become, in seconds."),
            ("Age" = i64, description = "How old it is, in seconds, rounded up."),
        )),
        (status = 304, description = "It has not changed."),
    ),
)]
pub async fn graph_stats(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    Query(GroupQuery(group)): Query<GroupQuery>,
) -> Handled {
    let begun = Instant::now();
    let found = state.engine.graph_stats(&caller, &group, wants_fresh(&headers)).await?;
    let answer = stats_answer(&group, &found.stats, begun);
    let aged = Aged { age: found.age(), age_max: state.engine.graph_stats_age_max() };
    let tag = content_tag(&GraphStatsAnswer { execution_time_ms: 0.0, ..answer.clone() })?;
    aged.answer(&headers, &tag, &answer)
}

fn stats_answer<'a>(
    group: &'a GroupId,
    stats: &'a GraphStats,
    begun: Instant,
) -> GraphStatsAnswer<'a> {
    let of =
        |kinds: &'a [(String, u64)]| kinds.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    GraphStatsAnswer {
        group_id: group.as_str(),
        total_nodes: stats.nodes,
        total_relationships: stats.edges,
        node_types: of(&stats.node_kinds),
        relationship_types: of(&stats.edge_kinds),
        categories: Category::ALL.iter().map(|it| (it.as_str(), stats.of(*it))).collect(),
        execution_time_ms: milliseconds(begun),
    }
}

/// Which part of a category.
pub struct CategoryQuery {
    group: GroupId,
    offset: u32,
    limit: u32,
}

query_parameters!(CategoryQuery);

impl FromFields for CategoryQuery {
    fn read(fields: &mut Fields) -> Self {
        let group = group(fields);
        let limit = fields
            .integer("limit", 1..=PAGE_ITEMS_MAX.into())
            .about("How many nodes at most.")
            .or(PAGE_ITEMS_DEFAULT.into());
        let offset = fields
            .integer("offset", 0..=PAGE_OFFSET_MAX.into())
            .about("How many nodes to skip.")
            .or(0);
        Self { group, offset: small(offset), limit: small(limit) }
    }
}

/// An integer whose range is within this one's.
fn small(integer: i64) -> u32 {
    u32::try_from(integer).unwrap_or_default()
}

/// Some nodes of a category.
#[derive(Debug, Serialize, ToSchema)]
pub struct CategoryAnswer<'a> {
    /// The category.
    category: &'static str,
    /// The group.
    group_id: &'a str,
    /// How many nodes it has.
    total: u64,
    /// How many were skipped.
    offset: u32,
    /// The most nodes that this answer could have.
    limit: u32,
    /// The nodes.
    #[schema(value_type = Vec<NodeShown>)]
    nodes: &'a [Node],
    /// How long it took, in milliseconds.
    execution_time_ms: f64,
}

/// List the nodes of a category
///
/// `entry_points`: edges begin there and none end there. `leaves`: edges end there and none begin
/// there. `isolated`: neither. `hubs`: the quarter of the group's nodes, rounded up, with the most
/// edges, by how many they have and then by id, without isolated ones. The others are in the order
/// of their ids.
#[utoipa::path(
    get,
    path = "/api/v1/graph/categories/{category}",
    tag = "graph",
    params(
        ("category" = String, Path, description = "`entry_points`, `hubs`, `leaves` or `isolated`."),
        CategoryQuery,
    ),
    responses(
        (status = 200, description = "Some of its nodes.", body = CategoryAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn graph_category(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathChoice(category): PathChoice<Category>,
    Query(CategoryQuery { group, offset, limit }): Query<CategoryQuery>,
) -> Handled {
    let begun = Instant::now();
    let (total, nodes) =
        state.engine.graph_category(&caller, &group, category, (offset, limit)).await?;
    let answer = CategoryAnswer {
        category: category.as_str(),
        group_id: group.as_str(),
        total,
        offset,
        limit,
        nodes: &nodes,
        execution_time_ms: milliseconds(begun),
    };
    json(StatusCode::OK, &answer)
}

/// How far a traversal goes.
struct Reach {
    direction: Direction,
    edge_kinds: Option<Vec<String>>,
    max_depth: u32,
    limit: u32,
}

fn edge_kinds(fields: &mut Fields) -> Option<Vec<String>> {
    let texts = Texts { count: 1..=TRAVERSE_KINDS_MAX, chars: 1..=GRAPH_KIND_CHARS_MAX };
    let kinds = fields
        .field("edge_kinds", texts)
        .about("The kinds of edges that are followed; all without, and `calls` for a call chain.");
    let mut kinds = kinds.optional()?;
    // Each once: an edge must not be read twice.
    kinds.sort_unstable();
    kinds.dedup();
    Some(kinds)
}

fn nodes_limit(fields: &mut Fields) -> u32 {
    let limit = fields
        .integer("limit", 1..=GRAPH_NODES_MAX.into())
        .about("How many nodes at most. Edges are looked at in proportion.")
        .or(GRAPH_NODES_DEFAULT.into());
    small(limit)
}

impl FromFields for Reach {
    fn read(fields: &mut Fields) -> Self {
        Self {
            direction: fields
                .choice("direction")
                .about("Which way edges are followed.")
                .or(Direction::default()),
            edge_kinds: edge_kinds(fields),
            max_depth: small(
                fields
                    .integer("max_depth", 0..=TRAVERSE_DEPTH_MAX.into())
                    .about("How many steps from the first node at most.")
                    .or(TRAVERSE_DEPTH_DEFAULT.into()),
            ),
            limit: nodes_limit(fields),
        }
    }
}

/// Where to begin, and how far to go.
pub struct TraverseBody {
    start: String,
    query_type: QueryType,
    reach: Reach,
}

impl FromFields for TraverseBody {
    fn read(fields: &mut Fields) -> Self {
        Self {
            start: fields
                .external_id("start_node")
                .about("The id or the key of the node where it begins.")
                .required(),
            query_type: fields
                .choice("query_type")
                .about(
                    "The order of the nodes: `bfs`, the nearest first; `dfs`, each path to its \
                     end first; `call_chain`, the same along calls.",
                )
                .or(QueryType::default()),
            reach: Reach::read(fields),
        }
    }
}

type TraverseInGroup = InGroup<TraverseBody>;

body_schema!(TraverseInGroup, "GraphTraverse");

/// A node that was reached.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphReached)]
pub struct ReachedAnswer<'a> {
    #[serde(flatten)]
    #[schema(value_type = NodeShown)]
    node: &'a Node,
    /// How many steps it is from the first node, by the shortest way.
    depth: u32,
    /// The edge by which it was first reached; null for the first node.
    #[schema(value_type = Option<String>, format = "uuid")]
    via: Option<EdgeId>,
}

fn reached(reached: &[Reached]) -> Vec<ReachedAnswer<'_>> {
    reached
        .iter()
        .map(|Reached { node, depth, via }| ReachedAnswer { node, depth: *depth, via: *via })
        .collect()
}

/// Where edges lead.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphTraversed)]
pub struct TraversedAnswer<'a> {
    /// The group.
    group_id: &'a str,
    /// Where it began.
    #[schema(value_type = String, format = "uuid")]
    start_node: NodeId,
    /// The order of the nodes.
    query_type: &'static str,
    /// Which way edges were followed.
    direction: &'static str,
    /// The nodes, with the first one.
    nodes: Vec<ReachedAnswer<'a>>,
    /// The edges that were followed between them.
    #[schema(value_type = Vec<EdgeShown>)]
    edges: &'a [Edge],
    /// Whether it ended before it went as far as it was asked to.
    truncated: bool,
    /// The bound that ended it: `limit`, the nodes that were asked for, or `edges_read`, 20 edges
    /// for each of these and 500 in any case; null when none did.
    truncated_by: Option<&'static str>,
    /// How long it took, in milliseconds.
    execution_time_ms: f64,
}

async fn traverse(
    (state, caller): (ApiState, agentry_domain::Caller),
    group: GroupId,
    TraverseBody { start, query_type, reach }: TraverseBody,
) -> Handled {
    let begun = Instant::now();
    let start_node = state.engine.node_find(&caller, &group, &start).await?;
    let Reach { direction, edge_kinds, max_depth, limit } = reach;
    let asked = Traverse { start: start_node, query_type, direction, edge_kinds, max_depth, limit };
    let Traversed { nodes, edges, truncated_by } =
        state.engine.graph_traverse(&caller, &group, asked).await?;
    let answer = TraversedAnswer {
        group_id: group.as_str(),
        start_node,
        query_type: query_type.as_str(),
        direction: direction.as_str(),
        nodes: reached(&nodes),
        edges: &edges,
        truncated: truncated_by.is_some(),
        truncated_by,
        execution_time_ms: milliseconds(begun),
    };
    json(StatusCode::OK, &answer)
}

/// Follow edges from a node
///
/// Level by level: a node's `depth` is the length of the shortest way to it, in every order.
#[utoipa::path(
    post,
    path = "/api/v1/graph/traverse",
    tag = "graph",
    params(GroupGiven),
    request_body = TraverseInGroup,
    responses(
        (status = 200, description = "Where they lead.", body = TraversedAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn graph_traverse(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(given): Query<GroupGiven>,
    Json(body): Json<TraverseInGroup>,
) -> Handled {
    let group = given.or(body.group)?;
    traverse((state, caller), group, body.of).await
}

/// How far a call chain goes.
pub struct CallChainQuery(GroupId, Reach);

query_parameters!(CallChainQuery);

impl FromFields for CallChainQuery {
    fn read(fields: &mut Fields) -> Self {
        Self(group(fields), Reach::read(fields))
    }
}

/// Follow calls from a node
///
/// What it calls and what that calls or, with `direction=in`, who calls it and who calls those: each
/// path to its end first.
#[utoipa::path(
    get,
    path = "/api/v1/graph/call-chain/{id}",
    tag = "graph",
    params(("id" = String, Path, description = "The node's id or key."), CallChainQuery),
    responses(
        (status = 200, description = "Where calls lead.", body = TraversedAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn graph_call_chain(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(start): PathName,
    Query(CallChainQuery(group, reach)): Query<CallChainQuery>,
) -> Handled {
    let query_type = QueryType::CallChain;
    traverse((state, caller), group, TraverseBody { start, query_type, reach }).await
}

/// Which nodes a subgraph is around.
pub struct SubgraphBody(SubgraphAsked);

impl FromFields for SubgraphBody {
    fn read(fields: &mut Fields) -> Self {
        let ids = Texts { count: 1..=SUBGRAPH_AROUND_MAX, chars: 1..=EXTERNAL_ID_CHARS_MAX };
        let texts = fields
            .field("node_ids", ids)
            .about("The ids of the nodes that it is around; in a query with commas between them.")
            .required();
        let mut nodes: Vec<NodeId> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(id) if nodes.contains(&id) => {}
                Ok(id) => nodes.push(id),
                Err(_) => {
                    let at = format!("/node_ids/{index}");
                    fields.fault_at(&at, "not_an_id", "must be the id of a node, a UUID");
                }
            }
        }
        let depth = fields
            .integer("depth", 0..=SUBGRAPH_DEPTH_MAX)
            .about("How many steps from these nodes, either way, at most.")
            .or(1);
        let edge_kinds = edge_kinds(fields);
        let limit = nodes_limit(fields);
        Self(SubgraphAsked { nodes, depth: small(depth), edge_kinds, limit })
    }
}

type SubgraphInGroup = InGroup<SubgraphBody>;

body_schema!(SubgraphInGroup, "GraphSubgraphQuery");

/// The same in a query.
pub struct SubgraphParameters(GroupId, SubgraphBody);

query_parameters!(SubgraphParameters);

impl FromFields for SubgraphParameters {
    fn read(fields: &mut Fields) -> Self {
        Self(group(fields), SubgraphBody::read(fields))
    }
}

/// Nodes and all edges between them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphSubgraph)]
pub struct SubgraphAnswer<'a> {
    /// The group.
    group_id: &'a str,
    /// The nodes, the nearest first.
    nodes: Vec<ReachedAnswer<'a>>,
    /// The edges between them.
    #[schema(value_type = Vec<EdgeShown>)]
    edges: &'a [Edge],
    /// Nodes that were asked for and are not there.
    #[schema(value_type = Vec<String>)]
    missing: &'a [NodeId],
    /// Whether something was left out.
    truncated: bool,
    /// The bound that left it out: `limit` or `edges_read`, as in a traversal.
    truncated_by: Option<&'static str>,
    /// How long it took, in milliseconds.
    execution_time_ms: f64,
}

async fn subgraph(
    (state, caller): (ApiState, agentry_domain::Caller),
    group: GroupId,
    SubgraphBody(asked): SubgraphBody,
) -> Handled {
    let begun = Instant::now();
    let Subgraph { nodes, edges, missing, truncated_by } =
        state.engine.graph_subgraph(&caller, &group, &asked).await?;
    let answer = SubgraphAnswer {
        group_id: group.as_str(),
        nodes: reached(&nodes),
        edges: &edges,
        missing: &missing,
        truncated: truncated_by.is_some(),
        truncated_by,
        execution_time_ms: milliseconds(begun),
    };
    json(StatusCode::OK, &answer)
}

/// Get nodes, what is around them, and the edges between all of these
#[utoipa::path(
    get,
    path = "/api/v1/graph/subgraph",
    tag = "graph",
    params(SubgraphParameters),
    responses((status = 200, description = "The subgraph.", body = SubgraphAnswer<'static>)),
)]
pub async fn graph_subgraph(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(SubgraphParameters(group, body)): Query<SubgraphParameters>,
) -> Handled {
    subgraph((state, caller), group, body).await
}

/// Get nodes, what is around them, and the edges between all of these, for many nodes
#[utoipa::path(
    post,
    path = "/api/v1/graph/subgraph",
    tag = "graph",
    params(GroupGiven),
    request_body = SubgraphInGroup,
    responses((status = 200, description = "The subgraph.", body = SubgraphAnswer<'static>)),
)]
pub async fn graph_subgraph_query(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(given): Query<GroupGiven>,
    Json(body): Json<SubgraphInGroup>,
) -> Handled {
    let group = given.or(body.group)?;
    subgraph((state, caller), group, body.of).await
}

/// Which symbol.
pub struct SymbolParameters {
    group: GroupId,
    symbol: String,
    limit: u32,
}

query_parameters!(SymbolParameters);

impl FromFields for SymbolParameters {
    fn read(fields: &mut Fields) -> Self {
        let group = group(fields);
        let symbol = fields
            .text("symbol", 1..=SYMBOL_CHARS_MAX)
            .about("The id, the key or the name of a node, or the last words of its name.")
            .required();
        let limit = fields
            .integer("limit", 1..=GRAPH_NODES_MAX.into())
            .about("How many edges at most.")
            .or(GRAPH_NODES_DEFAULT.into());
        Self { group, symbol, limit: small(limit) }
    }
}

/// An edge of a symbol, with the node at its other end.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphSymbolEdge)]
pub struct SymbolEdgeAnswer<'a> {
    /// The node at its other end.
    #[schema(value_type = NodeShown)]
    node: &'a Node,
    /// The edge.
    #[schema(value_type = EdgeShown)]
    edge: &'a Edge,
}

/// What was asked about a symbol.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphSymbol)]
pub struct SymbolAnswer<'a> {
    /// What was asked.
    query: &'static str,
    /// The group.
    group_id: &'a str,
    /// The symbol.
    symbol: &'a str,
    /// The nodes that it may mean, at most 20.
    #[schema(value_type = Vec<NodeShown>)]
    symbols: &'a [Node],
    /// Their edges.
    results: Vec<SymbolEdgeAnswer<'a>>,
    /// How many `results` has.
    total: usize,
    /// Whether there are more.
    truncated: bool,
    /// How long it took, in milliseconds.
    execution_time_ms: f64,
}

/// Ask who calls a symbol, what it calls, or what refers to it
///
/// Calls are edges of the kind `calls`; references are all edges that end there but those of the
/// kind `contains`.
#[utoipa::path(
    get,
    path = "/api/v1/graph/query/{query}",
    tag = "graph",
    params(
        ("query" = String, Path, description = "`callers`, `callees` or `references`."),
        SymbolParameters,
    ),
    responses(
        (status = 200, description = "What was asked.", body = SymbolAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn graph_symbol(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathChoice(query): PathChoice<SymbolQuery>,
    Query(SymbolParameters { group, symbol, limit }): Query<SymbolParameters>,
) -> Handled {
    let begun = Instant::now();
    let SymbolEdges { symbols, found, truncated } =
        state.engine.graph_symbol(&caller, &group, (query, &symbol), limit).await?;
    let results: Vec<_> =
        found.iter().map(|SymbolEdge { node, edge }| SymbolEdgeAnswer { node, edge }).collect();
    let answer = SymbolAnswer {
        query: query.as_str(),
        group_id: group.as_str(),
        symbol: &symbol,
        symbols: &symbols,
        total: results.len(),
        results,
        truncated,
        execution_time_ms: milliseconds(begun),
    };
    json(StatusCode::OK, &answer)
}
