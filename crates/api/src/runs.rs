//! Runs over HTTP: starting one and waiting for its end or following it as a
//! stream ([`crate::run_stream`]), and reading those that were.

use std::borrow::Cow;
use std::time::Duration;

use agentry_domain::chat::ChatMessage;
use agentry_domain::runs::{
    Handling, IfBusy, MESSAGE_LIMIT_MAX, OnDisconnect, RUN_TIMEOUT_MAX, Run, RunError, RunRequest,
    RunStatus, UserGiven, Warning,
};
use agentry_domain::tools::{RunCall, RunCallStatus};
use agentry_domain::{
    AgentId, Caller, Done, Error, Fault, Once, Order, PageRequest, Result, RunId, SessionId,
    Timestamp,
};
use agentry_engine::{AgentRef, RunFilter, RunNew, SessionRef};
use agentry_gateway::{Authenticated, RequestContext};
use axum::extract::State;
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{Handled, json, put, raw, replay};
use crate::extract::{PathId, PathName, Posted, Query};
use crate::fields::{Fields, FromFields};
use crate::lists::{List, list, page_request};
use crate::messages::{CONTENT_CHARS_MAX, SpokenRole};
use crate::openapi::{Conflict, NotFound, TooManyRequests};
use crate::sessions::ORIGIN_CHARS_MAX;
use crate::state::ApiState;
use crate::users::{Email, PhoneNumber};
use crate::{body_schema, query_parameters, run_stream};

/// Messages that may be given with a run.
const GIVEN_MESSAGES_MAX: usize = 1_000;
const SYSTEM_PROMPT_CHARS_MAX: usize = 200_000;
/// How long a wait takes when it does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// How long a wait may be.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// A run: one message handled by one agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Run)]
pub struct RunAnswer<'a> {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: RunId,
    /// The same.
    #[schema(value_type = String, format = "uuid")]
    run_id: RunId,
    /// The agent.
    #[schema(value_type = String, format = "uuid")]
    agent_id: AgentId,
    /// The session.
    #[schema(value_type = String, format = "uuid")]
    session_id: SessionId,
    /// The caller's id of the user.
    user_id: Option<&'a str>,
    /// What was said of the user.
    user: Option<UserGivenAnswer<'a>>,
    /// What of the request had no effect.
    warnings: Vec<WarningAnswer<'a>>,
    /// What was asked.
    input: &'a str,
    /// The reply's text; null when there is none (yet). Of a run that did not succeed, as
    /// far as it came.
    message: Option<&'a str>,
    /// Whether the model answered.
    success: bool,
    /// queued, running, succeeded, failed, cancelled, interrupted or timed_out.
    #[schema(example = "succeeded")]
    status: &'static str,
    /// Why it did not succeed.
    error: Option<RunErrorAnswer<'a>>,
    /// The tools that the model called and this server carried out, in the order in which they
    /// were begun.
    tool_calls: Vec<RunToolCallAnswer<'a>>,
    /// What they gave, in the same order; nothing yet of those that were begun.
    tool_outputs: Vec<RunToolOutputAnswer<'a>>,
    /// Tokens, as the provider counted them.
    usage: UsageAnswer,
    /// How long it took.
    timings: TimingsAnswer,
    /// The client's own.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// As asked for.
    message_limit: Option<u32>,
    /// As given.
    messages: Vec<GivenMessageAnswer<'a>>,
    /// As given.
    system_prompt: Option<&'a str>,
    /// As given: any JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    context: Option<&'a RawValue>,
    /// As given.
    #[schema(value_type = Option<Object>)]
    parameters: Option<&'a RawValue>,
    /// As asked for, in milliseconds.
    timeout_ms: Option<u64>,
    /// The model that was asked for in place of the agent's.
    model: Option<&'a str>,
    /// The model that answered, which may be a fallback; null when none did, or it was not
    /// said.
    answered_by: Option<&'a str>,
    /// Why the model's reply ended: stop, length, tool_calls, content_filter, or the
    /// provider's word.
    finish_reason: Option<&'a str>,
    /// What was to become of it in a busy session.
    #[schema(example = "enqueue")]
    if_busy: &'static str,
    /// What was to become of it when its client went away.
    #[schema(example = "cancel")]
    on_disconnect: &'static str,
    /// Whether nobody waited for it.
    background: bool,
    /// How many further requests joined their input to it (`if_busy: merge`).
    merged: i64,
    /// Whether it is to end early, and has not yet.
    stopping: bool,
    /// The run whose reply it repeats, of an agent that allows that.
    #[schema(value_type = Option<String>, format = "uuid")]
    cached_from: Option<RunId>,
    /// How often it was begun; more than once when a process ended in it.
    attempt: i64,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was first begun.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

/// Why a run did not succeed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunError)]
pub struct RunErrorAnswer<'a> {
    /// The code; explained at `/errors/{code}`.
    #[schema(example = "model_unreachable")]
    code: &'static str,
    /// What happened, for people.
    message: &'a str,
}

/// Tokens, as the provider counted them; null when it did not.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub struct UsageAnswer {
    /// Tokens read.
    input_tokens: Option<u64>,
    /// Those of them that the provider had in its cache.
    cached_input_tokens: Option<u64>,
    /// Tokens written.
    output_tokens: Option<u64>,
    /// What they cost, in the currency of the configured prices; null when the model has
    /// none.
    cost: Option<f64>,
}

/// How long a run took, in milliseconds; null for what has not ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Timings)]
pub struct TimingsAnswer {
    /// From its acceptance to its begin.
    queued_ms: Option<f64>,
    /// From its begin to its end.
    run_ms: Option<f64>,
    /// From its acceptance to its end.
    total_ms: Option<f64>,
}

/// What a run said of its user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserGiven)]
pub struct UserGivenAnswer<'a> {
    /// A mail address.
    email: Option<&'a str>,
    /// A phone number.
    phone_number: Option<&'a str>,
    /// The client's own.
    #[schema(value_type = Object)]
    user_data: &'a RawValue,
}

/// Something of a request that had no effect.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Warning)]
pub struct WarningAnswer<'a> {
    /// A JSON pointer into the body.
    #[schema(example = "/user/email")]
    pointer: &'a str,
    /// `taken`: it leads to another user. `known`: the user is, and stays as it was.
    #[schema(example = "taken")]
    code: &'a str,
    /// What happened, for people.
    detail: &'a str,
}

/// A message that was given with a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GivenMessage)]
pub struct GivenMessageAnswer<'a> {
    /// Who speaks.
    role: &'static str,
    /// What is said.
    content: Cow<'a, str>,
}

/// A call of a tool in a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunToolCall)]
pub struct RunToolCallAnswer<'a> {
    /// Its id, unique within the run.
    id: &'a str,
    /// The tool, as the model calls it.
    name: &'a str,
    /// The name of the MCP server that the tool is of.
    server: Option<&'a str>,
    /// An object; the text that the model wrote, when that was none.
    #[schema(value_type = serde_json::Value)]
    arguments: &'a RawValue,
    /// started, succeeded, failed or refused.
    #[schema(example = "succeeded")]
    status: &'static str,
    /// Which answer of the model asked for it, from 1.
    step: u32,
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

impl<'a> RunToolCallAnswer<'a> {
    /// How a call is written.
    pub fn new(call: &'a RunCall) -> Result<Self> {
        Ok(Self {
            id: &call.id,
            name: &call.name,
            server: call.server.as_deref(),
            arguments: raw(call.arguments.as_str())?,
            status: call.status.as_str(),
            step: call.step,
            started_at: call.started_at,
            finished_at: call.finished_at,
        })
    }
}

/// What a tool gave in a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunToolOutput)]
pub struct RunToolOutputAnswer<'a> {
    /// The call's id.
    tool_call_id: &'a str,
    /// The tool, as the model calls it.
    name: &'a str,
    /// What the model was told.
    output: &'a str,
    /// Whether more was given, and cut off.
    truncated: bool,
    /// Whether the call failed or was refused.
    is_error: bool,
    /// Why; null when the tool itself says that it failed.
    #[schema(example = "mcp_timeout")]
    error_code: Option<&'a str>,
}

impl<'a> RunToolOutputAnswer<'a> {
    /// How what a call gave is written; nothing of one that has not ended.
    pub fn new(call: &'a RunCall) -> Option<Self> {
        Some(Self {
            tool_call_id: &call.id,
            name: &call.name,
            output: call.output.as_deref()?,
            truncated: call.truncated,
            is_error: call.status != RunCallStatus::Succeeded,
            error_code: call.error_code.as_deref(),
        })
    }
}

impl<'a> RunAnswer<'a> {
    /// How a run is written.
    pub fn new(run: &'a Run) -> Result<Self> {
        let request = &run.request;
        let given = |message: &'a ChatMessage| GivenMessageAnswer {
            role: message.role().as_str(),
            content: message.text(),
        };
        let user = |user: &'a UserGiven| -> Result<UserGivenAnswer<'a>> {
            Ok(UserGivenAnswer {
                email: user.email.as_deref(),
                phone_number: user.phone_number.as_deref(),
                user_data: raw(user.user_data.as_str())?,
            })
        };
        let warning = |warning: &'a Warning| WarningAnswer {
            pointer: &warning.pointer,
            code: &warning.code,
            detail: &warning.detail,
        };
        let error = |error: &'a RunError| RunErrorAnswer {
            code: error.code.as_str(),
            message: &error.detail,
        };
        Ok(Self {
            id: run.id,
            run_id: run.id,
            agent_id: run.agent,
            session_id: run.session,
            user_id: run.user_id.as_deref(),
            user: request.user.as_ref().map(user).transpose()?,
            warnings: run.warnings.iter().map(warning).collect(),
            input: &request.input,
            message: run.reply.as_deref(),
            success: run.status == RunStatus::Succeeded,
            status: run.status.as_str(),
            error: run.error.as_ref().map(error),
            tool_calls: run.tools.iter().map(RunToolCallAnswer::new).collect::<Result<_>>()?,
            tool_outputs: run.tools.iter().filter_map(RunToolOutputAnswer::new).collect(),
            usage: UsageAnswer {
                input_tokens: run.usage.input_tokens,
                cached_input_tokens: run.usage.cached_input_tokens,
                output_tokens: run.usage.output_tokens,
                cost: run.usage.cost_nanos.map(cost),
            },
            timings: timings(run),
            metadata: raw(&run.metadata)?,
            message_limit: request.message_limit,
            messages: request.messages.iter().map(given).collect(),
            system_prompt: request.system_prompt.as_deref(),
            context: request.context.as_deref().map(raw).transpose()?,
            parameters: request.parameters.as_deref().map(raw).transpose()?,
            timeout_ms: request
                .timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            model: request.model.as_deref(),
            answered_by: run.answered_by.as_deref(),
            finish_reason: run.finish_reason.as_deref(),
            if_busy: request.handling.if_busy.as_str(),
            on_disconnect: request.handling.on_disconnect.as_str(),
            background: request.handling.background,
            merged: run.merged,
            stopping: run.stop.is_some() && !run.status.is_final(),
            cached_from: run.cached_from,
            attempt: run.attempt,
            created_at: run.created_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
        })
    }
}

/// Billionths as a number. Sums are made of the billionths themselves.
#[expect(clippy::cast_precision_loss, reason = "exact up to nine million of the currency")]
fn cost(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn timings(run: &Run) -> TimingsAnswer {
    let between = |from: Option<Timestamp>, to: Option<Timestamp>| {
        Some(to?.since(from?).as_secs_f64() * 1_000.0)
    };
    let created = Some(run.created_at);
    TimingsAnswer {
        queued_ms: between(created, run.started_at),
        run_ms: between(run.started_at, run.finished_at),
        total_ms: between(created, run.finished_at),
    }
}

/// Body of a run.
pub struct RunCreate {
    session_id: Option<String>,
    session_name: Option<String>,
    session_origin: Option<String>,
    user_id: Option<String>,
    request: RunRequest,
    metadata: String,
    stream: bool,
    asked: AskedHandling,
}

/// What a request says of how it is to be handled.
pub(crate) struct AskedHandling {
    if_busy: IfBusy,
    on_disconnect: Option<OnDisconnect>,
    background: bool,
}

impl AskedHandling {
    /// Reads what every surface has.
    pub(crate) fn read(fields: &mut Fields) -> Self {
        Self {
            if_busy: fields.choice::<IfBusy>("if_busy").about(IF_BUSY).or(IfBusy::default()),
            on_disconnect: fields
                .choice::<OnDisconnect>("on_disconnect")
                .about(ON_DISCONNECT)
                .optional(),
            background: false,
        }
    }

    /// How the run is handled. One that may be asked for again, or that nobody waits
    /// for, goes on when its client goes away.
    pub(crate) fn settle(&self, once: Option<&Once>) -> Result<Handling> {
        let goes_on = once.is_some() || self.background;
        if goes_on && self.on_disconnect == Some(OnDisconnect::Cancel) {
            return Err(Error::invalid(vec![Fault::new(
                "/on_disconnect",
                "exclusive",
                "a run in the background or with an Idempotency-Key goes on by itself",
            )]));
        }
        let usual = if goes_on { OnDisconnect::Continue } else { OnDisconnect::Cancel };
        Ok(Handling {
            if_busy: self.if_busy,
            on_disconnect: self.on_disconnect.unwrap_or(usual),
            background: self.background,
            ..Handling::default()
        })
    }
}

body_schema!(RunCreate, "RunCreate");

impl FromFields for RunCreate {
    fn read(fields: &mut Fields) -> Self {
        let is_named = fields.has("user_id");
        if fields.has("session_id") && fields.has("session_name") {
            fields.fault("session_name", "exclusive", "send session_id or session_name, not both");
        }
        let run = Self {
            session_id: fields
                .text("session_id", 1..=ORIGIN_CHARS_MAX)
                .about("The session, which must exist. Without one the run gets its own.")
                .optional(),
            session_name: fields
                .external_id("session_name")
                .about("The user's session of this name, made when it is missing.")
                .optional(),
            session_origin: fields
                .text("session_origin", 1..=ORIGIN_CHARS_MAX)
                .about("The label of a session that is made for the run.")
                .optional(),
            user_id: fields
                .external_id("user_id")
                .about("The caller's id of the user; recall stays within it.")
                .optional(),
            request: RunRequest { user: read_user(fields, is_named), ..read_request(fields) },
            metadata: fields
                .object("metadata")
                .about("The client's own, kept as it is.")
                .or("{}".to_owned()),
            stream: fields
                .boolean("stream")
                .about("Answer with server-sent events instead of the finished run.")
                .or(false),
            asked: AskedHandling {
                background: fields.boolean("background").about(BACKGROUND).or(false),
                ..AskedHandling::read(fields)
            },
        };
        if run.stream && run.asked.background {
            fields.fault("stream", "exclusive", "a run in the background is not streamed");
        }
        run
    }
}

/// Reads `user`; one of whom nothing is said is none.
fn read_user(fields: &mut Fields, is_named: bool) -> Option<UserGiven> {
    let user = fields
        .nested("user", |fields| UserGiven {
            email: fields.field("email", Email).about("A mail address.").optional(),
            phone_number: fields
                .field("phone_number", PhoneNumber)
                .about("A phone number.")
                .optional(),
            user_data: fields.own_object("user_data", None),
        })
        .about(USER)
        .optional()?;
    if user == UserGiven::default() {
        return None;
    }
    if !is_named && user.email.is_none() && user.phone_number.is_none() {
        let detail = "needs user_id beside it, or an email or a phone_number in it";
        fields.fault("user", "required", detail);
    }
    Some(user)
}

const USER: &str = "What a user begins with who is made for this run. Without `user_id` it says who \
the user is. A user who is known stays as it is, and `warnings` says so.";
const IF_BUSY: &str = "What to do when the session has a run under way: `enqueue` waits for it; \
`reject` is 409 and names it; `interrupt` ends it, keeps what it said so far, and is next; \
`rollback` ends it, takes its messages back, and is next; `merge` adds the input to the run that has \
waited longest, which is the answer, if that asks for the same otherwise.";
const ON_DISCONNECT: &str = "What to do when the client goes away before the end: `cancel` the run, or \
`continue`. A run with an `Idempotency-Key` or in the background continues.";
const BACKGROUND: &str = "Answer 202 with the run as soon as it is accepted.";

fn read_request(fields: &mut Fields) -> RunRequest {
    let timeout_max = i64::try_from(RUN_TIMEOUT_MAX.as_millis()).unwrap_or(i64::MAX);
    RunRequest {
        user: None,
        input: fields
            .text("message", 1..=CONTENT_CHARS_MAX)
            .alias("message_content")
            .about("What the user says; required, under either name.")
            .example("What did I tell you about Lisbon?")
            .required(),
        message_limit: fields
            .integer("message_limit", 1..=MESSAGE_LIMIT_MAX.into())
            .about("How many of the session's messages the model is shown.")
            .optional()
            .and_then(|limit| u32::try_from(limit).ok()),
        messages: fields
            .items("messages", 0..=GIVEN_MESSAGES_MAX, |fields| {
                let role = fields.choice::<SpokenRole>("role").required();
                let content = fields.text("content", 0..=CONTENT_CHARS_MAX).required();
                ChatMessage::said(role.into(), content)
            })
            .about("Messages for the model before the input; not stored in the session.")
            .or(Vec::new()),
        system_prompt: fields
            .text("system_prompt", 0..=SYSTEM_PROMPT_CHARS_MAX)
            .about("Replaces the agent's instructions.")
            .optional(),
        context: fields
            .json("context")
            .about("Any JSON: background for the model, shown after the instructions.")
            .optional(),
        parameters: fields
            .object("parameters")
            .about("For the model's provider, such as `temperature`.")
            .optional(),
        timeout: fields
            .integer("timeout_ms", 1..=timeout_max)
            .about("How long the run may take, in milliseconds.")
            .optional()
            .and_then(|ms| u64::try_from(ms).ok())
            .map(Duration::from_millis),
        ..RunRequest::default()
    }
}

/// The session with this id; text that is no id is the id of none.
pub(crate) fn session_by_id(text: &str) -> Result<SessionRef> {
    text.parse().map(SessionRef::Id).map_err(|_| Error::not_found("session", text))
}

/// Start a run of an agent
///
/// 200 when it has ended, also when the model failed: then `success` is false
/// and `error` says how. With `stream` the answer is the stream of the run's events, see
/// `/api/v1/runs/{id}/events`, where it can be taken up again after a break. With
/// `background` the answer is 202 with the run as it was accepted.
#[utoipa::path(
    post,
    path = "/api/v1/agents/{id}/runs",
    tag = "runs",
    params(("id" = String, Path, description = "The agent's id.", format = "uuid")),
    request_body = RunCreate,
    responses(
        (status = 200, description = "The run has ended.", content(
            (RunAnswer<'static> = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 202, description = "The run goes on in the background.", body = RunAnswer<'static>,
            headers(("Location" = String, description = "Where it is."))),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 429, response = TooManyRequests),
    ),
)]
pub async fn run_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<AgentId>,
    context: RequestContext,
    posted: Posted<RunCreate>,
) -> Handled {
    start(&state, &caller, AgentRef::Id(id), posted, &context).await
}

/// Start a run of an agent by name
///
/// The same as a run by the agent's id.
#[utoipa::path(
    post,
    path = "/api/v1/agent/{agent}/run",
    tag = "runs",
    params(("agent" = String, Path, description = "The agent's name or id.")),
    request_body = RunCreate,
    responses(
        (status = 200, description = "The run has ended.", content(
            (RunAnswer<'static> = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 202, description = "The run goes on in the background.", body = RunAnswer<'static>,
            headers(("Location" = String, description = "Where it is."))),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 429, response = TooManyRequests),
    ),
)]
pub async fn run_create_by_name(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(name): PathName,
    context: RequestContext,
    posted: Posted<RunCreate>,
) -> Handled {
    start(&state, &caller, AgentRef::Name(name), posted, &context).await
}

async fn start(
    state: &ApiState,
    caller: &Caller,
    agent: AgentRef,
    Posted { body, once }: Posted<RunCreate>,
    context: &RequestContext,
) -> Handled {
    let session = match (body.session_id, body.session_name) {
        (Some(id), _) => session_by_id(&id)?,
        (None, Some(name)) => SessionRef::Name(name),
        (None, None) => SessionRef::None,
    };
    let handling = body.asked.settle(once.as_ref())?;
    let new = RunNew {
        agent,
        session,
        origin: body.session_origin,
        user_id: body.user_id,
        request: RunRequest { handling, ..body.request },
        metadata: body.metadata,
    };
    let Done { value: handle, replayed } = state.engine.run_start(caller, once, new).await?;
    if handling.background {
        let location = format!("/api/v1/runs/{}", handle.run.id);
        let mut response = json(StatusCode::ACCEPTED, &RunAnswer::new(&handle.run)?)?;
        put(&mut response, header::LOCATION, &location);
        return Ok(replay(response, replayed));
    }
    if body.stream {
        let run = handle.run.id;
        let answer = run_stream::answer(handle.followed(), run, state, caller, context);
        return Ok(replay(answer, replayed));
    }
    let run = handle.finished().await?;
    Ok(replay(json(StatusCode::OK, &RunAnswer::new(&run)?)?, replayed))
}

/// Which runs.
pub struct RunQuery {
    session_id: Option<String>,
    agent_id: Option<String>,
    filter: RunFilter,
    page: PageRequest,
}

query_parameters!(RunQuery);

impl FromFields for RunQuery {
    fn read(fields: &mut Fields) -> Self {
        Self {
            session_id: fields
                .text("session_id", 1..=ORIGIN_CHARS_MAX)
                .about("In this session.")
                .optional(),
            agent_id: fields
                .text("agent_id", 1..=ORIGIN_CHARS_MAX)
                .about("Of this agent.")
                .optional(),
            filter: RunFilter {
                user_id: fields.external_id("user_id").about("Of this user.").optional(),
                status: fields.choice::<RunStatus>("status").about("In this status.").optional(),
                ..RunFilter::default()
            },
            page: page_request(fields, Order::default()),
        }
    }
}

/// List runs
#[utoipa::path(
    get,
    path = "/api/v1/runs",
    tag = "runs",
    params(RunQuery),
    responses(
        (status = 200, description = "A page of runs.", body = List<RunAnswer<'static>>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn run_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(query): Query<RunQuery>,
) -> Handled {
    let RunQuery { session_id, agent_id, mut filter, page } = query;
    if let Some(text) = session_id {
        filter.session = Some(text.parse().map_err(|_| Error::not_found("session", &text))?);
    }
    if let Some(text) = agent_id {
        filter.agent = Some(text.parse().map_err(|_| Error::not_found("agent", &text))?);
    }
    let runs = state.engine.run_list(&caller, filter, page).await?;
    list(&runs, page.order, RunAnswer::new)
}

/// Read a run
#[utoipa::path(
    get,
    path = "/api/v1/runs/{id}",
    tag = "runs",
    params(("id" = String, Path, description = "The run's id.", format = "uuid")),
    responses(
        (status = 200, description = "The run.", body = RunAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn run_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RunId>,
) -> Handled {
    let run = state.engine.run_get(&caller, id).await?;
    json(StatusCode::OK, &RunAnswer::new(&run)?)
}

/// End a run early
///
/// Answers with the run once it has ended; a run that has ended already stays as it is. What
/// the model said so far stays. 202 when it is still ending, which `stopping` tells.
#[utoipa::path(
    post,
    path = "/api/v1/runs/{id}/cancel",
    tag = "runs",
    params(("id" = String, Path, description = "The run's id.", format = "uuid")),
    responses(
        (status = 200, description = "The run has ended.", body = RunAnswer<'static>),
        (status = 202, description = "It is ending.", body = RunAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn run_cancel(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RunId>,
) -> Handled {
    as_it_stands(&state.engine.run_cancel(&caller, id).await?)
}

/// How long to wait.
pub struct WaitQuery(Duration);

query_parameters!(WaitQuery);

impl FromFields for WaitQuery {
    fn read(fields: &mut Fields) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let wait = fields
            .integer("timeout_ms", 0..=millis(WAIT_MAX))
            .about("How long to wait, in milliseconds.")
            .or(millis(WAIT_DEFAULT));
        Self(Duration::from_millis(wait.unsigned_abs()))
    }
}

/// Wait for the end of a run
///
/// 200 with the run when it has ended, wherever it is carried out; 202 with the run as it
/// stands when the time is over before. Whoever waits may go away: the run goes on.
#[utoipa::path(
    get,
    path = "/api/v1/runs/{id}/wait",
    tag = "runs",
    params(("id" = String, Path, description = "The run's id.", format = "uuid"), WaitQuery),
    responses(
        (status = 200, description = "The run has ended.", body = RunAnswer<'static>),
        (status = 202, description = "It goes on.", body = RunAnswer<'static>),
        (status = 404, response = NotFound),
    ),
)]
pub async fn run_wait(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RunId>,
    Query(WaitQuery(within)): Query<WaitQuery>,
) -> Handled {
    as_it_stands(&state.engine.run_wait(&caller, id, within).await?)
}

fn as_it_stands(run: &Run) -> Handled {
    let status = if run.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    json(status, &RunAnswer::new(run)?)
}

#[cfg(test)]
mod tests {
    use agentry_domain::sessions::MessageRole;
    use agentry_domain::{Code, JsonText};
    use serde_json::{Value, json};

    use super::*;
    use crate::fields::read_body;

    fn read(value: Value) -> Result<RunCreate> {
        let Value::Object(object) = value else { panic!("not an object") };
        read_body(object, Vec::new())
    }

    #[test]
    fn everything_that_is_sent_is_kept() {
        let run = read(json!({
            "message_content": "hi", "session_name": 3, "session_origin": "web", "user_id": 42,
            "message_limit": 10, "messages": [{"role": "assistant", "content": "before"}],
            "system_prompt": "be brief", "context": [1, {"a": null}],
            "parameters": {"temperature": 0.5}, "timeout_ms": 1_500, "metadata": {"k": "v"},
            "stream": true, "if_busy": "merge", "background": false, "on_disconnect": "continue",
            "user": {"email": "a@b", "phone_number": null, "user_data": {"k": 1}},
        }))
        .unwrap();
        assert_eq!(run.session_name.as_deref(), Some("3"));
        assert_eq!(run.session_origin.as_deref(), Some("web"));
        assert_eq!(run.user_id.as_deref(), Some("42"));
        assert!(run.stream);
        assert_eq!(run.metadata, r#"{"k":"v"}"#);
        let expected = RunRequest {
            input: "hi".into(),
            user: Some(UserGiven {
                email: Some("a@b".into()),
                phone_number: None,
                user_data: JsonText::known(r#"{"k":1}"#.into()),
            }),
            message_limit: Some(10),
            messages: vec![ChatMessage::said(MessageRole::Assistant, "before")],
            system_prompt: Some("be brief".into()),
            context: Some(r#"[1,{"a":null}]"#.into()),
            parameters: Some(r#"{"temperature":0.5}"#.into()),
            timeout: Some(Duration::from_millis(1_500)),
            ..RunRequest::default()
        };
        assert_eq!(run.request, expected);
        let expected = Handling {
            if_busy: IfBusy::Merge,
            on_disconnect: OnDisconnect::Continue,
            background: false,
            ..Handling::default()
        };
        assert_eq!(run.asked.settle(None).unwrap(), expected);
    }

    #[test]
    fn what_goes_on_by_itself_is_not_cancelled_by_a_disconnect() {
        let once = Once { caller: None, operation: "o".into(), key: "k".into(), body: [0; 32] };
        let settled = |body: Value, once: Option<&Once>| {
            let mut all = json!({"message": "hi"});
            all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            read(all).and_then(|run| run.asked.settle(once)).map(|it| it.on_disconnect)
        };
        let background = json!({"background": true});
        assert_eq!(settled(json!({}), None).unwrap(), OnDisconnect::Cancel);
        assert_eq!(settled(json!({}), Some(&once)).unwrap(), OnDisconnect::Continue);
        assert_eq!(settled(background, None).unwrap(), OnDisconnect::Continue);
        let cancel = json!({"on_disconnect": "cancel"});
        assert!(settled(cancel.clone(), None).is_ok());
        assert_eq!(settled(cancel, Some(&once)).unwrap_err().faults[0].pointer, "/on_disconnect");
        let both = json!({"background": true, "stream": true});
        assert_eq!(settled(both, None).unwrap_err().faults[0].pointer, "/stream");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(read(json!({"message": "hi", "user": {}})).unwrap().request.user.is_none());
        let nobody = json!({"message": "hi", "user": {"user_data": {"k": 1}}});
        assert_eq!(read(nobody).err().unwrap().faults[0].pointer, "/user");
        let both = json!({"message": "hi", "session_id": "a", "session_name": "b"});
        assert_eq!(read(both).err().unwrap().code, Code::ValidationFailed);
        assert_eq!(session_by_id("nonsense").unwrap_err().code, Code::NotFound);
    }
}
