//! Plans over HTTP.

use agentry_domain::plans::{Plan, PlanBody, PlanStatus};
use agentry_domain::{JsonText, Order, PageRequest, PlanId};
use agentry_engine::PlanFilter;
use agentry_gateway::Authenticated;
use axum::extract::State;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, no_content, tagged};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::bounds::{DESCRIPTION_CHARS_MAX, LABEL_CHARS_MAX};
use crate::fields::kinds::Uuid;
use crate::fields::{Change, Create, Fields, FromFields, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{NotFound, PreconditionFailed};
use crate::query_parameters;
use crate::state::ApiState;

const STEPS_MAX: usize = 500;

type PlanCreate = Create<PlanBody>;
type PlanPatch = Change<PlanBody>;
type PlanShown = Shown<PlanBody>;

impl ResourceFields for PlanBody {
    const NAME: &'static str = "Plan";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        Self {
            name: fields
                .text("name", 1..=LABEL_CHARS_MAX)
                .about("What people call it; need not be unique.")
                .example("By train")
                .required_or_was(was.map(|was| &was.name)),
            description: fields
                .text("description", 0..=DESCRIPTION_CHARS_MAX)
                .about("What it is about.")
                .or_was(String::new(), was.map(|was| &was.description)),
            goal_id: fields
                .reference("goal_id")
                .about("The goal it is for, which is there.")
                .optional_or_was(was.map(|was| &was.goal_id)),
            agent_id: fields
                .reference("agent_id")
                .about("Whose it is: an agent that is there.")
                .optional_or_was(was.map(|was| &was.agent_id)),
            status: fields
                .choice("status")
                .about("How far it is. Clients set it.")
                .or_was(PlanStatus::default(), was.map(|was| &was.status)),
            steps: fields
                .own_list("steps", 0..=STEPS_MAX)
                .about("Any JSON values, kept as they are.")
                .or_was(JsonText::empty_list(), was.map(|was| &was.steps)),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
        }
    }

    fn made(fields: &mut Fields) {
        fields.made("plan_id", Uuid, "Its id.");
    }
}

/// Which plans.
pub struct PlanQuery(PlanFilter, PageRequest);

query_parameters!(PlanQuery);

impl FromFields for PlanQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = PlanFilter {
            goal_id: fields.reference("goal_id").about("For this goal.").optional(),
            agent_id: fields.reference("agent_id").about("Of this agent.").optional(),
            status: fields.choice::<PlanStatus>("status").about("This status.").optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create a plan
#[utoipa::path(
    post,
    path = "/api/v1/plans",
    tag = "plans",
    request_body = PlanCreate,
    responses(
        (status = 201, description = "The plan.", body = PlanShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 404, response = NotFound),
    ),
)]
pub async fn plan_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<PlanCreate>,
) -> Handled {
    created(state.engine.plan_create(&caller, once.as_ref(), body).await?, "/api/v1/plans")
}

/// List plans
#[utoipa::path(
    get,
    path = "/api/v1/plans",
    tag = "plans",
    params(PlanQuery),
    responses((status = 200, description = "A page of plans.", body = List<PlanShown>)),
)]
pub async fn plan_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(PlanQuery(filter, page)): Query<PlanQuery>,
) -> Handled {
    let plans = state.engine.resource_list::<PlanBody>(&caller, &filter, &page).await?;
    documents(&plans, page.order)
}

/// Read a plan
#[utoipa::path(
    get,
    path = "/api/v1/plans/{id}",
    tag = "plans",
    params(
        ("id" = String, Path, description = "The plan's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The plan.", body = PlanShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn plan_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<PlanId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.resource_get::<PlanBody>(&caller, id).await?)
}

/// Change a plan
///
/// What is absent stays; `null` removes a field or makes it the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/plans/{id}",
    tag = "plans",
    params(
        ("id" = String, Path, description = "The plan's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = PlanPatch,
    responses(
        (status = 200, description = "The plan.", body = PlanShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn plan_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<PlanId>,
    IfMatch(version): IfMatch,
    Json(change): Json<PlanPatch>,
) -> Handled {
    let changed = |was: &Plan| change.apply(was);
    tagged(state.engine.plan_update(&caller, id, version, changed).await?)
}

/// Delete a plan
///
/// Tasks that name it stay: a task's `plan_id` is its caller's own.
#[utoipa::path(
    delete,
    path = "/api/v1/plans/{id}",
    tag = "plans",
    params(
        ("id" = String, Path, description = "The plan's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn plan_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<PlanId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.resource_delete::<PlanBody>(&caller, id, version).await?;
    Ok(no_content())
}
