//! MCP servers over HTTP: registering them, starting and stopping them, and what
//! they offer.

use std::time::Duration;

use agentry_domain::mcp_servers::{
    MCP_KEY_HEADER_DEFAULT, MCP_RESULT_BYTES_DEFAULT, MCP_RESULT_BYTES_MAX, MCP_TIMEOUT_MS_DEFAULT,
    MCP_TIMEOUT_MS_MAX, McpAuth, McpAuthKind, McpSecretsGiven, McpServer, McpServerBody, McpStatus,
    McpTool, McpTransport,
};
use agentry_domain::{JsonText, McpServerId, Order, PageRequest, Result};
use agentry_engine::{McpHealth, McpServerFilter};
use agentry_gateway::{Authenticated, RequestContext};
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;

use crate::answer::{
    Handled, IfMatch, IfNoneMatch, created, json, json_text, no_content, raw, replay, tagged,
};
use crate::extract::{Json, PathId, PathIds, Posted, Query};
use crate::fields::bounds::{DESCRIPTION_CHARS_MAX, NAME_CHARS_MAX};
use crate::fields::kinds::{Boolean, Kind, Site, Text, Uuid, list_schema, one_of_schema};
use crate::fields::{Change, Create, Fields, FromFields, Purpose, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{Conflict, McpFailed, NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

const URL_CHARS_MAX: usize = 2_000;
const COMMAND_CHARS_MAX: usize = 4_000;
const ARGS_MAX: usize = 100;
const ARG_CHARS_MAX: usize = 10_000;
const SECRET_CHARS_MAX: usize = 10_000;
const FINGERPRINT_CHARS: usize = 32;

type McpServerCreate = Create<McpServerBody>;
type McpServerPatch = Change<McpServerBody>;
type McpServerShown = Shown<McpServerBody>;

/// The arguments of a program.
#[derive(Clone, Copy, Debug)]
struct Texts {
    count: usize,
    chars: usize,
}

impl Kind for Texts {
    type Out = Vec<String>;

    fn schema(&self, purpose: Purpose) -> Schema {
        list_schema(Text::of(0..=self.chars).schema(purpose), &(0..=self.count))
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<String>> {
        let Value::Array(items) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        if items.len() > self.count {
            return site.fault("too_many", format!("may have {} items", self.count));
        }
        let text = Text::of(0..=self.chars);
        items.into_iter().map(|item| text.read(item, site)).collect()
    }

    fn placeholder(&self) -> Vec<String> {
        Vec::new()
    }

    fn show(&self, default: &Vec<String>) -> Option<Value> {
        serde_json::to_value(default).ok()
    }
}

/// How a server is spoken to. The transport before streamable HTTP is known, and
/// not built.
#[derive(Clone, Copy, Debug)]
struct Transport;

impl Kind for Transport {
    type Out = McpTransport;

    fn schema(&self, _purpose: Purpose) -> Schema {
        one_of_schema([McpTransport::Stdio.as_str(), McpTransport::Http.as_str()])
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<McpTransport> {
        match value.as_str() {
            Some("sse") => site.fault("not_supported_yet", "the transport sse; use http"),
            Some(name) => match McpTransport::parse(name) {
                Some(transport) => Some(transport),
                None => site.fault("unknown", "must be stdio or http"),
            },
            None => site.fault("wrong_type", "must be a string"),
        }
    }

    fn placeholder(&self) -> McpTransport {
        McpTransport::Stdio
    }
}

impl ResourceFields for McpServerBody {
    const NAME: &'static str = "McpServer";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        let args = Texts { count: ARGS_MAX, chars: ARG_CHARS_MAX };
        let timeout_ms = fields
            .integer("timeout_ms", 1..=MCP_TIMEOUT_MS_MAX.into())
            .about("How long a call may take, in milliseconds.")
            .or_was(MCP_TIMEOUT_MS_DEFAULT.into(), was.map(|was| was.timeout_ms.into()).as_ref());
        let result_bytes_max = fields
            .integer("result_bytes_max", 1..=MCP_RESULT_BYTES_MAX.into())
            .about("Bytes of what a call gives at most.")
            .or_was(
                MCP_RESULT_BYTES_DEFAULT.into(),
                was.map(|was| was.result_bytes_max.into()).as_ref(),
            );
        Self {
            name: fields
                .text("name", 1..=NAME_CHARS_MAX)
                .about("What agents call it; unique within the organisation.")
                .example("files")
                .required_or_was(was.map(|was| &was.name)),
            description: fields
                .text("description", 0..=DESCRIPTION_CHARS_MAX)
                .about("What it is for.")
                .or_was(String::new(), was.map(|was| &was.description)),
            transport: fields
                .field("type", Transport)
                .about(
                    "`stdio`: a process of the server's machine. `http`: a URL, streamable HTTP.",
                )
                .required_or_was(was.map(|was| &was.transport)),
            command: fields
                .text("command", 1..=COMMAND_CHARS_MAX)
                .about("The program of a stdio server.")
                .optional_or_was(was.map(|was| &was.command)),
            args: fields
                .field("args", args)
                .about("Its arguments.")
                .or_was(Vec::new(), was.map(|was| &was.args)),
            env: fields.own_object_named(
                "env",
                None,
                "Variables of its environment that are no secrets, all texts. It gets PATH, LANG, \
                 LC_ALL, a HOME and a TMPDIR of its own, and nothing else.",
                was.map(|was| &was.env),
            ),
            url: fields
                .text("url", 1..=URL_CHARS_MAX)
                .about(
                    "Where a server over http is: an http or https URL at a public address, \
                     without credentials.",
                )
                .optional_or_was(was.map(|was| &was.url)),
            auth: fields
                .nested("auth", |fields| read_auth(fields, was.map(|was| &was.auth)))
                .about("What a server over http wants to see.")
                .or_was(McpAuth::default(), was.map(|was| &was.auth)),
            timeout_ms: u32::try_from(timeout_ms).unwrap_or(MCP_TIMEOUT_MS_MAX),
            result_bytes_max: u32::try_from(result_bytes_max).unwrap_or(MCP_RESULT_BYTES_MAX),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
            given: McpSecretsGiven {
                secret: fields
                    .text("secret", 1..=SECRET_CHARS_MAX)
                    .about(
                        "The bearer token, the API key or the client's secret. It is sealed, and \
                         in no answer.",
                    )
                    .write_only(),
                env: fields
                    .object("secret_env")
                    .about(
                        "Variables of a stdio server's environment that are secrets, all texts; a \
                         change replaces all of them. They are sealed, and in no answer.",
                    )
                    .write_only()
                    .map(|env| env.map(JsonText::known)),
            },
            // The engine's.
            status: was.map(|was| was.status).unwrap_or_default(),
            status_detail: was.and_then(|was| was.status_detail.clone()),
            has_secret: was.is_some_and(|was| was.has_secret),
            secret_env_names: was.map(|was| was.secret_env_names.clone()).unwrap_or_default(),
            created_by: was.and_then(|was| was.created_by),
        }
    }

    fn made(fields: &mut Fields) {
        let names = Texts { count: ARGS_MAX, chars: ARG_CHARS_MAX };
        fields.made("status", Status, "`stopped`, `starting`, `running` or `error`.");
        let detail = Text::of(0..=ARG_CHARS_MAX);
        fields.made_optional("status_detail", detail, "Why it is in error.", true);
        fields.made("has_secret", Boolean, "Whether there is a secret for `auth`.");
        fields.made("secret_env_names", names, "The names in `secret_env`.");
        fields.made_optional("created_by", Uuid, "The key that registered it.", true);
    }
}

fn read_auth(fields: &mut Fields, was: Option<&McpAuth>) -> McpAuth {
    McpAuth {
        kind: fields
            .choice::<McpAuthKind>("type")
            .about("`oauth` gets a token by client credentials.")
            .or_was(McpAuthKind::default(), was.map(|was| &was.kind)),
        header: fields
            .text("header", 1..=NAME_CHARS_MAX)
            .about("The header of an API key; `X-API-Key` when there is none.")
            .example(MCP_KEY_HEADER_DEFAULT)
            .optional_or_was(was.map(|was| &was.header)),
        token_url: fields
            .text("token_url", 1..=URL_CHARS_MAX)
            .about("Where tokens are issued.")
            .optional_or_was(was.map(|was| &was.token_url)),
        client_id: fields
            .text("client_id", 1..=NAME_CHARS_MAX)
            .about("Who asks for a token.")
            .optional_or_was(was.map(|was| &was.client_id)),
        scope: fields
            .text("scope", 1..=NAME_CHARS_MAX)
            .about("What the token is to be good for.")
            .optional_or_was(was.map(|was| &was.scope)),
    }
}

/// Where a server is, in answers.
#[derive(Clone, Copy, Debug)]
struct Status;

impl Kind for Status {
    type Out = String;

    fn schema(&self, _purpose: Purpose) -> Schema {
        one_of_schema(["stopped", "starting", "running", "error"])
    }

    fn read(&self, _value: Value, site: &mut Site<'_>) -> Option<String> {
        site.fault("immutable", "is not set by clients")
    }

    fn placeholder(&self) -> String {
        String::new()
    }
}

/// Which MCP servers.
pub struct McpServerQuery(McpServerFilter, PageRequest);

query_parameters!(McpServerQuery);

impl FromFields for McpServerQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = McpServerFilter {
            name: fields.text("name", 1..=NAME_CHARS_MAX).about("Exactly this name.").optional(),
            status: fields.choice::<McpStatus>("status").about("This status.").optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// A tool of an MCP server.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = McpTool)]
pub struct ToolAnswer<'a> {
    /// Its name.
    name: &'a str,
    /// What people call it.
    title: Option<&'a str>,
    /// What models are told of it.
    description: Option<&'a str>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Object)]
    input_schema: &'a RawValue,
    /// The JSON schema of its structured result.
    #[schema(value_type = Option<Object>)]
    output_schema: Option<&'a RawValue>,
    /// What its server says of its effects.
    #[schema(value_type = Option<Object>)]
    annotations: Option<&'a RawValue>,
    /// Tells this description of it from every other one.
    fingerprint: &'a str,
    /// Whether it may be called as it is described now.
    approved: bool,
}

impl<'a> ToolAnswer<'a> {
    fn new(tool: &'a McpTool) -> Result<Self> {
        Ok(Self {
            name: &tool.name,
            title: tool.title.as_deref(),
            description: tool.description.as_deref(),
            input_schema: raw(tool.input_schema.as_str())?,
            output_schema: tool.output_schema.as_ref().map(|it| raw(it.as_str())).transpose()?,
            annotations: tool.annotations.as_ref().map(|it| raw(it.as_str())).transpose()?,
            fingerprint: &tool.fingerprint,
            approved: tool.is_approved(),
        })
    }
}

/// The tools of an MCP server.
#[derive(Debug, Serialize, ToSchema)]
pub struct McpTools<'a> {
    /// By name.
    items: Vec<ToolAnswer<'a>>,
    /// How many.
    total: usize,
}

/// How an MCP server is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = McpHealth)]
pub struct HealthAnswer {
    /// Where it is to be.
    #[schema(example = "running")]
    status: &'static str,
    /// Whether it answered.
    healthy: bool,
    /// How long its answer took, in milliseconds.
    latency_ms: Option<f64>,
    /// Why it did not answer.
    error: Option<HealthError>,
}

/// Why an MCP server did not answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = McpHealthError)]
pub struct HealthError {
    /// The code; explained at `/errors/{code}`.
    #[schema(example = "mcp_unreachable")]
    code: &'static str,
    /// What happened, for people.
    message: String,
}

/// Arguments of a tool.
pub struct ToolArguments(Map<String, Value>);

body_schema!(ToolArguments, "McpToolCall");

impl FromFields for ToolArguments {
    fn read(fields: &mut Fields) -> Self {
        let arguments = fields
            .object("arguments")
            .about("As the tool's `input_schema` has them; none when absent.")
            .or("{}".to_owned());
        Self(serde_json::from_str(&arguments).unwrap_or_default())
    }
}

/// Which description of a tool is approved.
pub struct ToolApproval(Option<String>);

body_schema!(ToolApproval, "McpToolApproval");

impl FromFields for ToolApproval {
    fn read(fields: &mut Fields) -> Self {
        let fingerprint = fields
            .text("fingerprint", FINGERPRINT_CHARS..=FINGERPRINT_CHARS)
            .about("The one that was read; 409 when the tool is described otherwise by now.")
            .optional();
        Self(fingerprint)
    }
}

/// What a tool gave, as the Model Context Protocol has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct McpToolResult {
    /// Pieces of text, images and other things.
    #[schema(value_type = Vec<Object>)]
    content: (),
    /// The same as JSON, of a tool that has an `output_schema`.
    #[serde(rename = "structuredContent")]
    #[schema(value_type = Option<serde_json::Value>)]
    structured_content: (),
    /// Whether the tool failed.
    #[serde(rename = "isError")]
    is_error: Option<bool>,
}

/// The resources of an MCP server, as the Model Context Protocol has them.
#[derive(Debug, Serialize, ToSchema)]
pub struct McpResources {
    /// Each with its `uri` and `name`.
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
    /// How many.
    total: usize,
}

/// Register an MCP server
///
/// Nothing is started. Its name is unique; its secrets are sealed, and no answer has them.
#[utoipa::path(
    post,
    path = "/api/v1/mcp/servers",
    tag = "mcp",
    request_body = McpServerCreate,
    responses(
        (status = 201, description = "The server.", body = McpServerShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 409, response = Conflict),
    ),
)]
pub async fn mcp_server_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<McpServerCreate>,
) -> Handled {
    let made = state.engine.mcp_server_create(&caller, once.as_ref(), body).await?;
    created(made, "/api/v1/mcp/servers")
}

/// List MCP servers
#[utoipa::path(
    get,
    path = "/api/v1/mcp/servers",
    tag = "mcp",
    params(McpServerQuery),
    responses((status = 200, description = "A page of servers.", body = List<McpServerShown>)),
)]
pub async fn mcp_server_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(McpServerQuery(filter, page)): Query<McpServerQuery>,
) -> Handled {
    let servers = state.engine.resource_list::<McpServerBody>(&caller, &filter, &page).await?;
    documents(&servers, page.order)
}

/// Read an MCP server
#[utoipa::path(
    get,
    path = "/api/v1/mcp/servers/{id}",
    tag = "mcp",
    params(
        ("id" = String, Path, description = "The server's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The server.", body = McpServerShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn mcp_server_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.resource_get::<McpServerBody>(&caller, id).await?)
}

/// Change an MCP server
///
/// What is absent stays; `null` makes a field the default again. When the server is elsewhere then,
/// or is run in another way, its secrets have to be sent again.
#[utoipa::path(
    patch,
    path = "/api/v1/mcp/servers/{id}",
    tag = "mcp",
    params(
        ("id" = String, Path, description = "The server's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = McpServerPatch,
    responses(
        (status = 200, description = "The server.", body = McpServerShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn mcp_server_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
    IfMatch(version): IfMatch,
    Json(change): Json<McpServerPatch>,
) -> Handled {
    let changed = |was: &McpServer| change.apply(was);
    tagged(state.engine.mcp_server_update(&caller, id, version, changed).await?)
}

/// Delete an MCP server
///
/// With its secrets and its catalogue; its connections and processes end.
#[utoipa::path(
    delete,
    path = "/api/v1/mcp/servers/{id}",
    tag = "mcp",
    params(
        ("id" = String, Path, description = "The server's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn mcp_server_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.mcp_server_delete(&caller, id, version).await?;
    Ok(no_content())
}

/// Start an MCP server
///
/// It is connected and its catalogue is read. The tools of the first catalogue are approved by
/// that; what it describes otherwise later, or adds, is called only when it is approved.
#[utoipa::path(
    post,
    path = "/api/v1/mcp/servers/{id}/start",
    tag = "mcp",
    params(("id" = String, Path, description = "The server's id.", format = "uuid")),
    responses(
        (status = 200, description = "The server, which runs.", body = McpServerShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 502, response = McpFailed),
    ),
)]
pub async fn mcp_server_start(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
) -> Handled {
    tagged(state.engine.mcp_server_start(&caller, id).await?)
}

/// Stop an MCP server
///
/// Its connections and processes end, and none of its tools is called until it is started.
#[utoipa::path(
    post,
    path = "/api/v1/mcp/servers/{id}/stop",
    tag = "mcp",
    params(("id" = String, Path, description = "The server's id.", format = "uuid")),
    responses(
        (status = 200, description = "The server, which is stopped.", body = McpServerShown,
            headers(("ETag" = String, description = "Its version."))),
        (status = 404, response = NotFound),
    ),
)]
pub async fn mcp_server_stop(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
) -> Handled {
    tagged(state.engine.mcp_server_stop(&caller, id).await?)
}

/// Stop an MCP server and start it again
#[utoipa::path(
    post,
    path = "/api/v1/mcp/servers/{id}/restart",
    tag = "mcp",
    params(("id" = String, Path, description = "The server's id.", format = "uuid")),
    responses(
        (status = 200, description = "The server, which runs.", body = McpServerShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 502, response = McpFailed),
    ),
)]
pub async fn mcp_server_restart(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
) -> Handled {
    tagged(state.engine.mcp_server_restart(&caller, id).await?)
}

/// Ask an MCP server whether it is there
#[utoipa::path(
    get,
    path = "/api/v1/mcp/servers/{id}/health",
    tag = "mcp",
    params(("id" = String, Path, description = "The server's id.", format = "uuid")),
    responses(
        (status = 200, description = "How it is, well or not.", body = HealthAnswer),
        (status = 404, response = NotFound),
    ),
)]
pub async fn mcp_server_health(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
) -> Handled {
    let McpHealth { status, healthy, latency, error } =
        state.engine.mcp_server_health(&caller, id).await?;
    let millis = |latency: Duration| latency.as_secs_f64() * 1_000.0;
    let error = error.map(|(code, message)| HealthError { code: code.as_str(), message });
    let status = status.as_str();
    json(StatusCode::OK, &HealthAnswer { status, healthy, latency_ms: latency.map(millis), error })
}

/// List the tools of an MCP server
///
/// Of one that is stopped, as they were last.
#[utoipa::path(
    get,
    path = "/api/v1/mcp/servers/{id}/tools",
    tag = "mcp",
    params(("id" = String, Path, description = "The server's id.", format = "uuid")),
    responses(
        (status = 200, description = "The tools.", body = McpTools<'static>),
        (status = 404, response = NotFound),
        (status = 502, response = McpFailed),
    ),
)]
pub async fn mcp_tool_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
) -> Handled {
    let tools = state.engine.mcp_tool_list(&caller, id).await?;
    let items: Vec<ToolAnswer<'_>> = tools.iter().map(ToolAnswer::new).collect::<Result<_>>()?;
    json(StatusCode::OK, &McpTools { total: items.len(), items })
}

/// Approve a tool
///
/// From now on it may be called as its server describes it now.
#[utoipa::path(
    post,
    path = "/api/v1/mcp/servers/{id}/tools/{tool}/approve",
    tag = "mcp",
    params(
        ("id" = String, Path, description = "The server's id.", format = "uuid"),
        ("tool" = String, Path, description = "The tool's name."),
    ),
    request_body = ToolApproval,
    responses(
        (status = 200, description = "The tool.", body = ToolAnswer<'static>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn mcp_tool_approve(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathIds(id, tool): PathIds<McpServerId, String>,
    Json(ToolApproval(fingerprint)): Json<ToolApproval>,
) -> Handled {
    let fingerprint = fingerprint.as_deref();
    let tool = state.engine.mcp_tool_approve(&caller, id, &tool, fingerprint).await?;
    json(StatusCode::OK, &ToolAnswer::new(&tool)?)
}

/// Call a tool
///
/// Within the server's `timeout_ms` and `result_bytes_max`. A tool that fails answers 200 with
/// `isError`. With an `Idempotency-Key` it is called once: a request with the same key waits for
/// what came of it, and gets that, a failure too, unless it was too long to keep (64 KiB). When
/// the server ended meanwhile that is `call_interrupted`.
#[utoipa::path(
    post,
    path = "/api/v1/mcp/servers/{id}/tools/{tool}/call",
    tag = "mcp",
    params(
        ("id" = String, Path, description = "The server's id.", format = "uuid"),
        ("tool" = String, Path, description = "The tool's name."),
    ),
    request_body = ToolArguments,
    responses(
        (status = 200, description = "What it gave.", body = McpToolResult),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 502, response = McpFailed),
    ),
)]
pub async fn mcp_tool_call(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathIds(id, tool): PathIds<McpServerId, String>,
    context: RequestContext,
    Posted { once, body: ToolArguments(arguments) }: Posted<ToolArguments>,
) -> Handled {
    let call = (tool.as_str(), arguments);
    let called = state.engine.mcp_tool_call(&caller, once.as_ref(), id, call, context.deadline);
    let result = called.await?;
    Ok(replay(json_text(StatusCode::OK, result.json), result.replayed))
}

/// List the resources of an MCP server
#[utoipa::path(
    get,
    path = "/api/v1/mcp/servers/{id}/resources",
    tag = "mcp",
    params(("id" = String, Path, description = "The server's id.", format = "uuid")),
    responses(
        (status = 200, description = "The resources.", body = McpResources),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 502, response = McpFailed),
    ),
)]
pub async fn mcp_resource_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<McpServerId>,
) -> Handled {
    let items = state.engine.mcp_resource_list(&caller, id).await?;
    json(StatusCode::OK, &McpResources { total: items.len(), items })
}
