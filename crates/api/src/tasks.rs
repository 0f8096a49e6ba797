//! Tasks over HTTP, also served at `/api/v1/plans/tasks`.

use agentry_domain::tasks::{TASK_DEPENDENCIES_MAX, Task, TaskBody, TaskStatus, name_of};
use agentry_domain::{Order, PageRequest, TaskId};
use agentry_engine::TaskFilter;
use agentry_gateway::Authenticated;
use axum::extract::State;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, no_content, tagged};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::bounds::{DESCRIPTION_CHARS_MAX, LABEL_CHARS_MAX};
use crate::fields::kinds::{References, Uuid};
use crate::fields::{Change, Create, Fields, FromFields, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::query_parameters;
use crate::state::ApiState;

type TaskCreate = Create<TaskBody>;
type TaskPatch = Change<TaskBody>;
type TaskShown = Shown<TaskBody>;

impl ResourceFields for TaskBody {
    const NAME: &'static str = "Task";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        let named = fields.has("name");
        let (name, description) = read_name(fields, was);
        if name.is_empty() && fields.is_faultless() {
            let field = if named { "name" } else { "description" };
            fields.fault(field, "required", "a name or a description is required");
        }
        Self {
            plan_id: fields
                .external_id("plan_id")
                .about("The caller's own id of the plan it belongs to.")
                .optional_or_was(was.map(|was| &was.plan_id)),
            agent_id: fields
                .reference("agent_id")
                .about("Who does it: an agent that is there.")
                .optional_or_was(was.map(|was| &was.agent_id)),
            name,
            description,
            task_type: fields
                .text("task_type", 1..=LABEL_CHARS_MAX)
                .about("A label.")
                .optional_or_was(was.map(|was| &was.task_type)),
            input_data: fields.own_object_named(
                "input_data",
                Some("inputs"),
                "What it works on: the client's own.",
                was.map(|was| &was.input_data),
            ),
            output_data: fields.own_object_named(
                "output_data",
                Some("outputs"),
                "What came of it: the client's own.",
                was.map(|was| &was.output_data),
            ),
            depends_on: fields
                .field("depends_on", References::of(0..=TASK_DEPENDENCIES_MAX))
                .about("Tasks that come before it, which are there; they make no circle.")
                .or_was(Vec::new(), was.map(|was| &was.depends_on)),
            status: fields
                .choice("status")
                .about("How far it is. Clients set any.")
                .or_was(TaskStatus::default(), was.map(|was| &was.status)),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
        }
    }

    fn made(fields: &mut Fields) {
        fields.made("task_id", Uuid, "Its id.");
    }
}

/// Reads name and description; without a name the description's start is one.
fn read_name(fields: &mut Fields, was: Option<&TaskBody>) -> (String, String) {
    let description = fields
        .text("description", 0..=DESCRIPTION_CHARS_MAX)
        .about("What is to be done; required when there is no name.")
        .example("Book the train to Lisbon")
        .or_was(String::new(), was.map(|was| &was.description));
    let name = fields
        .text("name", 1..=LABEL_CHARS_MAX)
        .about("What people call it. Without one it is the start of the description.")
        .or_else_was(|| name_of(&description), was.map(|was| &was.name));
    (name, description)
}

/// Which tasks.
pub struct TaskQuery(TaskFilter, PageRequest);

query_parameters!(TaskQuery);

impl FromFields for TaskQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = TaskFilter {
            plan_id: fields.external_id("plan_id").about("Of this plan.").optional(),
            agent_id: fields.reference("agent_id").about("Of this agent.").optional(),
            status: fields.choice::<TaskStatus>("status").about("This status.").optional(),
            task_type: fields
                .text("task_type", 1..=LABEL_CHARS_MAX)
                .about("Exactly this type.")
                .optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create a task
#[utoipa::path(
    post,
    path = "/api/v1/tasks",
    tag = "tasks",
    request_body = TaskCreate,
    responses(
        (status = 201, description = "The task.", body = TaskShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 404, response = NotFound),
    ),
)]
pub async fn task_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<TaskCreate>,
) -> Handled {
    created(state.engine.task_create(&caller, once.as_ref(), body).await?, "/api/v1/tasks")
}

/// List tasks
#[utoipa::path(
    get,
    path = "/api/v1/tasks",
    tag = "tasks",
    params(TaskQuery),
    responses((status = 200, description = "A page of tasks.", body = List<TaskShown>)),
)]
pub async fn task_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(TaskQuery(filter, page)): Query<TaskQuery>,
) -> Handled {
    let tasks = state.engine.resource_list::<TaskBody>(&caller, &filter, &page).await?;
    documents(&tasks, page.order)
}

/// Read a task
#[utoipa::path(
    get,
    path = "/api/v1/tasks/{id}",
    tag = "tasks",
    params(
        ("id" = String, Path, description = "The task's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The task.", body = TaskShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn task_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<TaskId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.resource_get::<TaskBody>(&caller, id).await?)
}

/// Change a task
///
/// What is absent stays; `null` removes a field or makes it the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/tasks/{id}",
    tag = "tasks",
    params(
        ("id" = String, Path, description = "The task's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = TaskPatch,
    responses(
        (status = 200, description = "The task.", body = TaskShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn task_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<TaskId>,
    IfMatch(version): IfMatch,
    Json(change): Json<TaskPatch>,
) -> Handled {
    let changed = |was: &Task| change.apply(was);
    tagged(state.engine.task_update(&caller, id, version, changed).await?)
}

/// Delete a task
///
/// 409 while tasks depend on it: delete them first, or change them.
#[utoipa::path(
    delete,
    path = "/api/v1/tasks/{id}",
    tag = "tasks",
    params(
        ("id" = String, Path, description = "The task's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn task_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<TaskId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.task_delete(&caller, id, version).await?;
    Ok(no_content())
}
