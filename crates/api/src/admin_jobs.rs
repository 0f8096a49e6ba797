//! The server's own jobs over HTTP: what was asked for and goes on in the
//! background.

use agentry_domain::jobs::AdminJob;
use agentry_domain::{JobId, Order, PageRequest, Result, Timestamp, UserId};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::{Handled, json, put};
use crate::extract::{PathId, Query};
use crate::fields::{Fields, FromFields};
use crate::lists::{List, list, page_request};
use crate::openapi::NotFound;
use crate::query_parameters;
use crate::state::ApiState;

/// A job of the server's own.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobAnswer<'a> {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: JobId,
    /// What it does: `purge`.
    #[schema(example = "purge")]
    kind: &'static str,
    /// queued, running or succeeded. One whose process ended goes on where it was.
    #[schema(example = "succeeded")]
    state: &'static str,
    /// The user that it is about.
    #[schema(value_type = Option<String>, format = "uuid")]
    user: Option<UserId>,
    /// What it deleted so far.
    result: PurgedAnswer,
    /// Why it did not get on when it was last tried.
    error: Option<&'a str>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was first begun.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// When it was done.
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

/// How much a purge deleted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Purged)]
pub struct PurgedAnswer {
    /// Users.
    users: u64,
    /// Sessions.
    sessions: u64,
    /// Messages.
    messages: u64,
    /// Runs.
    runs: u64,
    /// Memories.
    memories: u64,
    /// Files of sessions.
    files: u64,
    /// What recall had of messages.
    documents: u64,
    /// Episodes, with what rested on them alone.
    episodes: u64,
}

impl<'a> JobAnswer<'a> {
    #[expect(clippy::unnecessary_wraps, reason = "what lists take")]
    fn new(job: &'a AdminJob) -> Result<Self> {
        let result = &job.result;
        Ok(Self {
            id: job.id,
            kind: job.kind.as_str(),
            state: job.state.as_str(),
            user: job.user,
            result: PurgedAnswer {
                users: result.users,
                sessions: result.sessions,
                messages: result.messages,
                runs: result.runs,
                memories: result.memories,
                files: result.files,
                documents: result.documents,
                episodes: result.episodes,
            },
            error: job.error.as_deref(),
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
        })
    }
}

/// 202 with a job, and where it can be looked at.
pub(crate) fn accepted(job: &AdminJob) -> Handled {
    let mut answer = json(StatusCode::ACCEPTED, &JobAnswer::new(job)?)?;
    put(&mut answer, header::LOCATION, &format!("/api/v1/admin/jobs/{}", job.id));
    Ok(answer)
}

/// Which jobs.
pub struct JobQuery(PageRequest);

query_parameters!(JobQuery);

impl FromFields for JobQuery {
    fn read(fields: &mut Fields) -> Self {
        Self(page_request(fields, Order::default()))
    }
}

/// List the server's own jobs
#[utoipa::path(
    get,
    path = "/api/v1/admin/jobs",
    tag = "server",
    params(JobQuery),
    responses((status = 200, description = "A page of jobs.", body = List<JobAnswer<'static>>)),
)]
pub async fn admin_job_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(JobQuery(page)): Query<JobQuery>,
) -> Handled {
    let jobs = state.engine.admin_job_list(&caller, page).await?;
    list(&jobs, page.order, JobAnswer::new)
}

/// Read a job of the server's own
#[utoipa::path(
    get,
    path = "/api/v1/admin/jobs/{id}",
    tag = "server",
    params(("id" = String, Path, description = "The job's id.", format = "uuid")),
    responses(
        (status = 200, description = "The job.", body = JobAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn admin_job_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<JobId>,
) -> Handled {
    let job = state.engine.admin_job_get(&caller, id).await?;
    json(StatusCode::OK, &JobAnswer::new(&job)?)
}
