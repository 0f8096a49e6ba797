//! Goals over HTTP.

use std::collections::HashMap;
use std::fmt::Write as _;

use agentry_domain::goals::{GOAL_PRIORITY_DEFAULT, GOAL_PRIORITY_MAX, Goal, GoalBody, GoalStatus};
use agentry_domain::{GoalId, JsonText, Order, PageRequest};
use agentry_engine::{GoalFilter, GoalTree};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use utoipa::ToSchema;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, json_text, no_content, tagged};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::bounds::{DESCRIPTION_CHARS_MAX, DID_CHARS_MAX, LABEL_CHARS_MAX};
use crate::fields::kinds::{Text, Uuid};
use crate::fields::{Change, Create, Fields, FromFields, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::query_parameters;
use crate::state::ApiState;

const CRITERIA_MAX: usize = 200;

type GoalCreate = Create<GoalBody>;
type GoalPatch = Change<GoalBody>;
type GoalShown = Shown<GoalBody>;

impl ResourceFields for GoalBody {
    const NAME: &'static str = "Goal";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        Self {
            agent_id: fields
                .reference("agent_id")
                .about("Whose it is: an agent that is there.")
                .optional_or_was(was.map(|was| &was.agent_id)),
            // The engine's: the agent's own.
            agent_did: was.and_then(|was| was.agent_did.clone()),
            description: fields
                .text("description", 1..=DESCRIPTION_CHARS_MAX)
                .alias("goal_text")
                .about("What is to be reached; required, under either name.")
                .example("Plan the trip to Lisbon")
                .required_or_was(was.map(|was| &was.description)),
            success_criteria: fields
                .own_list("success_criteria", 0..=CRITERIA_MAX)
                .about("How one sees that it is reached: any JSON values.")
                .or_was(JsonText::empty_list(), was.map(|was| &was.success_criteria)),
            priority: read_priority(fields, was),
            status: fields
                .choice("status")
                .about("How far it is. Clients set it.")
                .or_was(GoalStatus::default(), was.map(|was| &was.status)),
            goal_type: fields
                .text("goal_type", 1..=LABEL_CHARS_MAX)
                .about("A label.")
                .optional_or_was(was.map(|was| &was.goal_type)),
            parent_goal_id: fields
                .reference("parent_goal_id")
                .about("The goal that it is a part of, which is there; goals make no circle.")
                .optional_or_was(was.map(|was| &was.parent_goal_id)),
            constraints: fields.own_object("constraints", was.map(|was| &was.constraints)),
            decomposition_strategy: fields
                .text("decomposition_strategy", 1..=LABEL_CHARS_MAX)
                .about("A label: how it is to be taken apart.")
                .optional_or_was(was.map(|was| &was.decomposition_strategy)),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
        }
    }

    fn made(fields: &mut Fields) {
        fields.made("goal_id", Uuid, "Its id.");
        let did = Text::of(1..=DID_CHARS_MAX);
        fields.made_optional("agent_did", did, "The agent's decentralised identifier.", true);
    }
}

fn read_priority(fields: &mut Fields, was: Option<&GoalBody>) -> u32 {
    let priority = fields
        .integer("priority", 1..=GOAL_PRIORITY_MAX.into())
        .about("How urgent it is; 10 is the most urgent.")
        .or_was(GOAL_PRIORITY_DEFAULT.into(), was.map(|was| i64::from(was.priority)).as_ref());
    u32::try_from(priority).unwrap_or(GOAL_PRIORITY_DEFAULT)
}

/// Which goals.
pub struct GoalQuery(GoalFilter, PageRequest);

query_parameters!(GoalQuery);

impl FromFields for GoalQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = GoalFilter {
            agent_id: fields.reference("agent_id").about("Of this agent.").optional(),
            parent_goal_id: fields
                .reference("parent_goal_id")
                .about("Directly below this goal.")
                .optional(),
            status: fields.choice::<GoalStatus>("status").about("This status.").optional(),
            priority: fields
                .integer("priority", 1..=GOAL_PRIORITY_MAX.into())
                .about("This priority.")
                .optional()
                .and_then(|priority| u32::try_from(priority).ok()),
            goal_type: fields
                .text("goal_type", 1..=LABEL_CHARS_MAX)
                .about("Exactly this type.")
                .optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create a goal
#[utoipa::path(
    post,
    path = "/api/v1/goals",
    tag = "goals",
    request_body = GoalCreate,
    responses(
        (status = 201, description = "The goal.", body = GoalShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn goal_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<GoalCreate>,
) -> Handled {
    created(state.engine.goal_create(&caller, once.as_ref(), body).await?, "/api/v1/goals")
}

/// List goals
#[utoipa::path(
    get,
    path = "/api/v1/goals",
    tag = "goals",
    params(GoalQuery),
    responses((status = 200, description = "A page of goals.", body = List<GoalShown>)),
)]
pub async fn goal_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(GoalQuery(filter, page)): Query<GoalQuery>,
) -> Handled {
    let goals = state.engine.resource_list::<GoalBody>(&caller, &filter, &page).await?;
    documents(&goals, page.order)
}

/// Read a goal
#[utoipa::path(
    get,
    path = "/api/v1/goals/{id}",
    tag = "goals",
    params(
        ("id" = String, Path, description = "The goal's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The goal.", body = GoalShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn goal_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<GoalId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.resource_get::<GoalBody>(&caller, id).await?)
}

/// Change a goal
///
/// What is absent stays; `null` removes a field or makes it the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/goals/{id}",
    tag = "goals",
    params(
        ("id" = String, Path, description = "The goal's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = GoalPatch,
    responses(
        (status = 200, description = "The goal.", body = GoalShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn goal_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<GoalId>,
    IfMatch(version): IfMatch,
    Json(change): Json<GoalPatch>,
) -> Handled {
    let changed = |was: &Goal| change.apply(was);
    tagged(state.engine.goal_update(&caller, id, version, changed).await?)
}

/// Delete a goal
///
/// 409 while goals are below it: delete them first, or put them elsewhere. Its plans stay.
#[utoipa::path(
    delete,
    path = "/api/v1/goals/{id}",
    tag = "goals",
    params(
        ("id" = String, Path, description = "The goal's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn goal_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<GoalId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.goal_delete(&caller, id, version).await?;
    Ok(no_content())
}

/// Read a goal and the goals below it
///
/// Down to 50 goals below one another, and at most 1,000 goals, the nearest
/// first; `truncated` says when there are more.
#[utoipa::path(
    get,
    path = "/api/v1/goals/{id}/tree",
    tag = "goals",
    params(("id" = String, Path, description = "The root's id.", format = "uuid")),
    responses(
        (status = 200, description = "The tree.", body = GoalTreeShown),
        (status = 404, response = NotFound),
    ),
)]
pub async fn goal_tree(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<GoalId>,
) -> Handled {
    Ok(json_text(StatusCode::OK, written(&state.engine.goal_tree(&caller, id).await?)))
}

/// A goal and the goals below it, for the description of answers.
#[derive(Debug, ToSchema)]
#[schema(as = GoalTree)]
pub struct GoalTreeShown {
    /// The goal, with the goals directly below it as `children`, and so on.
    #[schema(value_type = Object)]
    pub root: (),
    /// How many goals are shown.
    pub goals: u32,
    /// Whether there are more.
    pub truncated: bool,
}

/// Writes a tree: each goal's document with `children`, oldest first.
fn written(tree: &GoalTree) -> String {
    let mut children: HashMap<GoalId, Vec<usize>> = HashMap::new();
    for (place, node) in tree.nodes.iter().enumerate().skip(1) {
        if let Some(parent) = node.parent {
            children.entry(parent).or_default().push(place);
        }
    }
    let mut json = String::from(r#"{"root":"#);
    write_node(tree, 0, &children, &mut json);
    // Writing to a String cannot fail.
    let _ = write!(json, r#","goals":{},"truncated":{}}}"#, tree.nodes.len(), tree.truncated);
    json
}

/// As deep as the tree, which is bounded.
fn write_node(
    tree: &GoalTree,
    place: usize,
    children: &HashMap<GoalId, Vec<usize>>,
    json: &mut String,
) {
    let goal = &tree.nodes[place].goal;
    json.push_str(goal.json.strip_suffix('}').unwrap_or(&goal.json));
    json.push_str(r#","children":["#);
    for (nth, child) in children.get(&goal.id).into_iter().flatten().enumerate() {
        if nth > 0 {
            json.push(',');
        }
        write_node(tree, *child, children, json);
    }
    json.push_str("]}");
}
