//! Nodes of graphs over HTTP.

use std::time::Instant;

use agentry_domain::graph::{
    GRAPH_KIND_CHARS_MAX, GRAPH_NODES_DEFAULT, GRAPH_NODES_MAX, GroupId, NODE_ALIASES_MAX,
    NODE_LANGUAGE_CHARS_MAX, NODE_NAME_CHARS_MAX, Node, NodeBody,
};
use agentry_domain::{Done, NodeId, Order, PageRequest};
use agentry_engine::{GraphMade, NodesFound};
use agentry_gateway::Authenticated;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::{Handled, IfMatch, is_known, json, json_text, no_content, put, replay};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::kinds::{ExternalId, Integer, Text, Texts};
use crate::fields::{Create, Fields, FromFields, ResourceFields};
use crate::graph::{
    ChangeInGroup, GroupGiven, GroupQuery, InGroup, NodeShown, group, milliseconds,
};
use crate::lists::{List, list, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

/// The kind of a node that names none.
const NODE_KIND_DEFAULT: &str = "node";
/// Characters of who made something.
const ORIGIN_CHARS_MAX: usize = 100;

type NodeCreate = InGroup<Create<NodeBody>>;
type NodePatch = ChangeInGroup<NodeBody>;

body_schema!(NodeCreate, "GraphNodeCreate");

impl ResourceFields for NodeBody {
    const NAME: &'static str = "GraphNode";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        let aliases = Texts { count: 0..=NODE_ALIASES_MAX, chars: 1..=NODE_NAME_CHARS_MAX };
        Self {
            key: fields
                .external_id("key")
                .about("The caller's own id of it; one node of the group alone has it.")
                .optional_or_was(was.map(|was| &was.key)),
            kind: fields
                .text("kind", 1..=GRAPH_KIND_CHARS_MAX)
                .about("What kind of thing it is.")
                .example("function")
                .or_was(NODE_KIND_DEFAULT.to_owned(), was.map(|was| &was.kind)),
            name: fields
                .text("name", 1..=NODE_NAME_CHARS_MAX)
                .about("What it is called.")
                .example("Store::write")
                .required_or_was(was.map(|was| &was.name)),
            aliases: fields
                .field("aliases", aliases)
                .about("What else it is called.")
                .or_was(Vec::new(), was.map(|was| &was.aliases)),
            language: fields
                .text("language", 1..=NODE_LANGUAGE_CHARS_MAX)
                .about("The language it is in, of people or of programs.")
                .optional_or_was(was.map(|was| &was.language)),
            properties: fields.own_object("properties", was.map(|was| &was.properties)),
        }
    }

    fn made(fields: &mut Fields) {
        let degree = || Integer::between(0..=i64::MAX);
        fields.made("group_id", ExternalId, "The group it is in.");
        fields.made("origin", Text::of(1..=ORIGIN_CHARS_MAX), "Who made it: `client`.");
        fields.made("in_degree", degree(), "How many edges end here.");
        fields.made("out_degree", degree(), "How many edges begin here.");
    }
}

/// Which nodes.
pub struct NodeQuery(GroupId, Option<String>, PageRequest);

query_parameters!(NodeQuery);

impl FromFields for NodeQuery {
    fn read(fields: &mut Fields) -> Self {
        let group = group(fields);
        let kind = fields.text("kind", 1..=GRAPH_KIND_CHARS_MAX).about("Of this kind.").optional();
        Self(group, kind, page_request(fields, Order::default()))
    }
}

/// What nodes are searched by.
pub struct NodeSearch {
    group: GroupId,
    name: Option<String>,
    kind: Option<String>,
    limit: i64,
}

query_parameters!(NodeSearch);

impl FromFields for NodeSearch {
    fn read(fields: &mut Fields) -> Self {
        Self {
            group: group(fields),
            name: fields
                .text("name", 1..=NODE_NAME_CHARS_MAX)
                .about("How a name begins, or a later word of one. All nodes without.")
                .optional(),
            kind: fields.text("kind", 1..=GRAPH_KIND_CHARS_MAX).about("Of this kind.").optional(),
            limit: fields
                .integer("limit", 1..=GRAPH_NODES_MAX.into())
                .about("How many nodes at most.")
                .or(GRAPH_NODES_DEFAULT.into()),
        }
    }
}

/// What a search found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphNodesFound)]
pub struct NodesFoundAnswer<'a> {
    /// The nodes: who is called exactly so, whose name ends so, whose name begins so, who has a later
    /// word that begins so.
    #[schema(value_type = Vec<NodeShown>)]
    results: &'a [Node],
    /// How many there are.
    total_count: u64,
    /// Whether there are more than were counted: 2,000 names are looked at.
    total_capped: bool,
    /// How long it took, in milliseconds.
    execution_time_ms: f64,
}

/// The entity tag of a node: its version, and the degrees, which change without it.
fn node_tag(node: &Node) -> String {
    format!("\"{}.{}.{}\"", node.version, node.in_degree, node.out_degree)
}

fn tagged_node(node: &Node) -> Handled {
    let mut response = json(StatusCode::OK, node)?;
    put(&mut response, header::ETAG, &node_tag(node));
    Ok(response)
}

pub(crate) fn made<I: std::fmt::Display>(
    done: Done<GraphMade<I>>,
    collection: &str,
    tag: &str,
) -> Response {
    let Done { value: made, replayed } = done;
    let location = format!("{collection}/{}", made.id);
    let mut response = json_text(StatusCode::CREATED, made.json);
    put(&mut response, header::LOCATION, &location);
    put(&mut response, header::ETAG, tag);
    replay(response, replayed)
}

/// Create a node
#[utoipa::path(
    post,
    path = "/api/v1/graph/nodes",
    tag = "graph",
    params(GroupGiven),
    request_body = NodeCreate,
    responses(
        (status = 201, description = "The node.", body = NodeShown, headers(
            ("Location" = String, description = "Where it is."),
            ("ETag" = String, description = "Its version and degrees."),
        )),
        (status = 409, response = Conflict),
    ),
)]
pub async fn node_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(given): Query<GroupGiven>,
    Posted { once, body: InGroup { group, of: Create(body) } }: Posted<NodeCreate>,
) -> Handled {
    let group = given.or(group)?;
    let done = state.engine.node_create(&caller, once.as_ref(), group, body).await?;
    let tag = format!("\"{}.0.0\"", done.value.version);
    Ok(made(done, "/api/v1/graph/nodes", &tag))
}

/// List nodes
#[utoipa::path(
    get,
    path = "/api/v1/graph/nodes",
    tag = "graph",
    params(NodeQuery),
    responses((status = 200, description = "A page of nodes.", body = List<NodeShown>)),
)]
pub async fn node_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(NodeQuery(group, kind, page)): Query<NodeQuery>,
) -> Handled {
    let nodes = state.engine.node_list(&caller, &group, kind.as_deref(), &page).await?;
    list(&nodes, page.order, Ok)
}

/// Search nodes by name
///
/// Names are compared in lower case, as words of letters and digits: `parse config` finds
/// `parse_config::File`, and `file` does too.
#[utoipa::path(
    get,
    path = "/api/v1/graph/nodes/search",
    tag = "graph",
    params(NodeSearch),
    responses((status = 200, description = "The nodes.", body = NodesFoundAnswer<'static>)),
)]
pub async fn node_search(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(NodeSearch { group, name, kind, limit }): Query<NodeSearch>,
) -> Handled {
    let begun = Instant::now();
    let sought = (name.as_deref(), kind.as_deref());
    let limit = u32::try_from(limit).unwrap_or_default();
    let NodesFound { nodes, total, total_capped } =
        state.engine.node_search(&caller, &group, sought, limit).await?;
    let answer = NodesFoundAnswer {
        results: &nodes,
        total_count: total,
        total_capped,
        execution_time_ms: milliseconds(begun),
    };
    json(StatusCode::OK, &answer)
}

/// Get a node
#[utoipa::path(
    get,
    path = "/api/v1/graph/nodes/{id}",
    tag = "graph",
    params(
        ("id" = String, Path, description = "The node's id.", format = "uuid"),
        GroupQuery,
        ("If-None-Match" = Option<String>, Header, description = "The tag one has."),
    ),
    responses(
        (status = 200, description = "The node.", body = NodeShown, headers(
            ("ETag" = String, description = "Its version and degrees."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn node_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<NodeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
    headers: HeaderMap,
) -> Handled {
    let node = state.engine.node_get(&caller, &group, id).await?;
    let tag = node_tag(&node);
    if is_known(&headers, &tag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        put(&mut response, header::ETAG, &tag);
        return Ok(response);
    }
    tagged_node(&node)
}

/// Change a node
///
/// What is absent stays; `null` makes a field the default again. The group does not change.
#[utoipa::path(
    patch,
    path = "/api/v1/graph/nodes/{id}",
    tag = "graph",
    params(
        ("id" = String, Path, description = "The node's id.", format = "uuid"),
        GroupGiven,
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = NodePatch,
    responses(
        (status = 200, description = "The node.", body = NodeShown, headers(
            ("ETag" = String, description = "Its version and degrees."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn node_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<NodeId>,
    Query(given): Query<GroupGiven>,
    IfMatch(version): IfMatch,
    Json(NodePatch { group, change }): Json<NodePatch>,
) -> Handled {
    let group = given.or(group)?;
    let changed = |was: &NodeBody| change.apply(was);
    tagged_node(&state.engine.node_update(&caller, &group, id, version, changed).await?)
}

/// Delete a node
///
/// Its edges go with it. Of a node with more than 1,000 most go before it.
#[utoipa::path(
    delete,
    path = "/api/v1/graph/nodes/{id}",
    tag = "graph",
    params(
        ("id" = String, Path, description = "The node's id.", format = "uuid"),
        GroupQuery,
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn node_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<NodeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.node_delete(&caller, &group, id, version).await?;
    Ok(no_content())
}
