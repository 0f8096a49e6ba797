//! Edges of graphs over HTTP.

use agentry_domain::graph::{
    EDGE_WEIGHT_DEFAULT, EDGE_WEIGHT_MAX, Edge, EdgeBody, GRAPH_KIND_CHARS_MAX, GroupId,
};
use agentry_domain::{EdgeId, Order, PageRequest};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::{StatusCode, header};
use serde_json::Value;

use crate::answer::{Handled, IfMatch, IfNoneMatch, entity_tag, json, no_content, put};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::kinds::{ExternalId, Number, Text};
use crate::fields::{Create, Fields, FromFields, ResourceFields};
use crate::graph::{ChangeInGroup, EdgeShown, GroupGiven, GroupQuery, InGroup, group};
use crate::graph_nodes::made;
use crate::lists::{List, list, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

/// Characters of who made something.
const ORIGIN_CHARS_MAX: usize = 100;

type EdgeCreate = InGroup<Create<EdgeBody>>;
type EdgePatch = ChangeInGroup<EdgeBody>;

body_schema!(EdgeCreate, "GraphEdgeCreate");

/// Reads what an edge weighs.
pub(crate) fn weight(fields: &mut Fields, was: Option<f64>) -> f64 {
    let was = was.map(Value::from);
    fields
        .field("weight", Number { range: -EDGE_WEIGHT_MAX..=EDGE_WEIGHT_MAX })
        .about("How much it counts. Kept as a 64-bit floating-point number.")
        .example(EDGE_WEIGHT_DEFAULT)
        .or_was(Value::from(EDGE_WEIGHT_DEFAULT), was.as_ref())
        .as_f64()
        .unwrap_or(EDGE_WEIGHT_DEFAULT)
}

impl ResourceFields for EdgeBody {
    const NAME: &'static str = "GraphEdge";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        let from = fields.reference("from").about("The node where it begins, for good.");
        let from = match was {
            None => from.required(),
            Some(was) => from.fixed(Some(&Some(was.from))).unwrap_or(was.from),
        };
        let to = fields.reference("to").about("The node where it ends, for good.");
        let to = match was {
            None => to.required(),
            Some(was) => to.fixed(Some(&Some(was.to))).unwrap_or(was.to),
        };
        let kind = fields
            .text("kind", 1..=GRAPH_KIND_CHARS_MAX)
            .about(
                "What it says, for good. Between two nodes, in one direction, there is one of a \
                 kind.",
            )
            .example("calls");
        let kind = match was {
            None => kind.required(),
            Some(was) => {
                kind.fixed(Some(&Some(was.kind.clone()))).unwrap_or_else(|| was.kind.clone())
            }
        };
        Self {
            from,
            to,
            kind,
            weight: weight(fields, was.map(|was| was.weight)),
            properties: fields.own_object("properties", was.map(|was| &was.properties)),
        }
    }

    fn made(fields: &mut Fields) {
        fields.made("group_id", ExternalId, "The group it is in.");
        fields.made("origin", Text::of(1..=ORIGIN_CHARS_MAX), "Who made it: `client`.");
    }
}

/// Which edges.
pub struct EdgeQuery(GroupId, PageRequest);

query_parameters!(EdgeQuery);

impl FromFields for EdgeQuery {
    fn read(fields: &mut Fields) -> Self {
        Self(group(fields), page_request(fields, Order::default()))
    }
}

fn tagged_edge(edge: &Edge) -> Handled {
    let mut response = json(StatusCode::OK, edge)?;
    put(&mut response, header::ETAG, &entity_tag(edge.version));
    Ok(response)
}

/// Create an edge
#[utoipa::path(
    post,
    path = "/api/v1/graph/edges",
    tag = "graph",
    params(GroupGiven),
    request_body = EdgeCreate,
    responses(
        (status = 201, description = "The edge.", body = EdgeShown, headers(
            ("Location" = String, description = "Where it is."),
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn edge_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(given): Query<GroupGiven>,
    Posted { once, body: InGroup { group, of: Create(body) } }: Posted<EdgeCreate>,
) -> Handled {
    let group = given.or(group)?;
    let done = state.engine.edge_create(&caller, once.as_ref(), group, body).await?;
    let tag = entity_tag(done.value.version);
    Ok(made(done, "/api/v1/graph/edges", &tag))
}

/// List edges
///
/// All of a group's; those of one node are found by a traversal.
#[utoipa::path(
    get,
    path = "/api/v1/graph/edges",
    tag = "graph",
    params(EdgeQuery),
    responses((status = 200, description = "A page of edges.", body = List<EdgeShown>)),
)]
pub async fn edge_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(EdgeQuery(group, page)): Query<EdgeQuery>,
) -> Handled {
    let edges = state.engine.edge_list(&caller, &group, &page).await?;
    list(&edges, page.order, Ok)
}

/// Get an edge
#[utoipa::path(
    get,
    path = "/api/v1/graph/edges/{id}",
    tag = "graph",
    params(
        ("id" = String, Path, description = "The edge's id.", format = "uuid"),
        GroupQuery,
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The edge.", body = EdgeShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn edge_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<EdgeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
    known: IfNoneMatch,
) -> Handled {
    let edge = state.engine.edge_get(&caller, &group, id).await?;
    known.not_modified(edge.version).map_or_else(|| tagged_edge(&edge), Ok)
}

/// Change an edge's weight or properties
///
/// What is absent stays; `null` makes a field the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/graph/edges/{id}",
    tag = "graph",
    params(
        ("id" = String, Path, description = "The edge's id.", format = "uuid"),
        GroupGiven,
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = EdgePatch,
    responses(
        (status = 200, description = "The edge.", body = EdgeShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn edge_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<EdgeId>,
    Query(given): Query<GroupGiven>,
    IfMatch(version): IfMatch,
    Json(EdgePatch { group, change }): Json<EdgePatch>,
) -> Handled {
    let group = given.or(group)?;
    let changed = |was: &EdgeBody| change.apply(was);
    tagged_edge(&state.engine.edge_update(&caller, &group, id, version, changed).await?)
}

/// Delete an edge
#[utoipa::path(
    delete,
    path = "/api/v1/graph/edges/{id}",
    tag = "graph",
    params(
        ("id" = String, Path, description = "The edge's id.", format = "uuid"),
        GroupQuery,
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn edge_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<EdgeId>,
    Query(GroupQuery(group)): Query<GroupQuery>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.edge_delete(&caller, &group, id, version).await?;
    Ok(no_content())
}
