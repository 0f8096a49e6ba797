//! Organisations over HTTP.

use agentry_domain::orgs::{Org, OrgBody};
use agentry_domain::{Order, OrgId, PageRequest, Tier};
use agentry_engine::OrgFilter;
use agentry_gateway::Authenticated;
use axum::extract::State;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, tagged};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::bounds::NAME_CHARS_MAX;
use crate::fields::{Change, Create, Fields, FromFields, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{NotFound, PreconditionFailed};
use crate::query_parameters;
use crate::state::ApiState;

type OrgCreate = Create<OrgBody>;
type OrgPatch = Change<OrgBody>;
type OrgShown = Shown<OrgBody>;

impl ResourceFields for OrgBody {
    const NAME: &'static str = "Org";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        Self {
            name: fields
                .text("name", 1..=NAME_CHARS_MAX)
                .about("What people call it; need not be unique.")
                .required_or_was(was.map(|was| &was.name)),
            tier: fields
                .choice("tier")
                .about("How much its keys may ask for; the configuration has the numbers.")
                .or_was(Tier::default(), was.map(|was| &was.tier)),
        }
    }
}

/// Which organisations.
pub struct OrgQuery(OrgFilter, PageRequest);

query_parameters!(OrgQuery);

impl FromFields for OrgQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = OrgFilter {
            name: fields.text("name", 1..=NAME_CHARS_MAX).about("Exactly this name.").optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create an organisation
///
/// For the installation's owner. Its first key is made with its id as `org_id`.
#[utoipa::path(
    post,
    path = "/api/v1/orgs",
    tag = "orgs",
    request_body = OrgCreate,
    responses(
        (status = 201, description = "The organisation.", body = OrgShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
    ),
)]
pub async fn org_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<OrgCreate>,
) -> Handled {
    created(state.engine.org_create(&caller, once.as_ref(), body).await?, "/api/v1/orgs")
}

/// List organisations
#[utoipa::path(
    get,
    path = "/api/v1/orgs",
    tag = "orgs",
    params(OrgQuery),
    responses((status = 200, description = "A page of organisations.", body = List<OrgShown>)),
)]
pub async fn org_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(OrgQuery(filter, page)): Query<OrgQuery>,
) -> Handled {
    let orgs = state.engine.org_list(&caller, &filter, &page).await?;
    documents(&orgs, page.order)
}

/// Read an organisation
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{id}",
    tag = "orgs",
    params(
        ("id" = String, Path, description = "The organisation's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The organisation.", body = OrgShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn org_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<OrgId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.org_get(&caller, id).await?)
}

/// Change an organisation
///
/// What is absent stays. Another tier holds for its keys within a second.
#[utoipa::path(
    patch,
    path = "/api/v1/orgs/{id}",
    tag = "orgs",
    params(
        ("id" = String, Path, description = "The organisation's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = OrgPatch,
    responses(
        (status = 200, description = "The organisation.", body = OrgShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn org_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<OrgId>,
    IfMatch(version): IfMatch,
    Json(change): Json<OrgPatch>,
) -> Handled {
    let changed = |was: &Org| change.apply(was);
    tagged(state.engine.org_update(&caller, id, version, changed).await?)
}
