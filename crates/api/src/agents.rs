//! Agents over HTTP.

use agentry_domain::agents::{
    AGENT_TYPE_DEFAULT, Agent, AgentBody, AgentStatus, AgentSummary, CACHE_TTL_S_MAX,
    FALLBACK_MODELS_MAX, MODEL_DEFAULT, MemoryPolicy, RECALL_LIMIT_MAX,
};
use agentry_domain::tools::{AGENT_TOOLS_MAX, AgentLimits, AgentTool};
use agentry_domain::{AgentId, JsonText, Order, PageRequest};
use agentry_engine::AgentFilter;
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, json, no_content, tagged};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::bounds::{
    DESCRIPTION_CHARS_MAX, DID_CHARS_MAX, LABEL_CHARS_MAX, NAME_CHARS_MAX,
};
use crate::fields::kinds::{FreeList, Kind, Site, Text, list_schema};
use crate::fields::{Change, Create, Fields, FromFields, Purpose, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{NotFound, PreconditionFailed};
use crate::query_parameters;
use crate::state::ApiState;

const INSTRUCTIONS_CHARS_MAX: usize = 200_000;

type AgentCreate = Create<AgentBody>;
type AgentPatch = Change<AgentBody>;
type AgentShown = Shown<AgentBody>;

impl ResourceFields for AgentBody {
    const NAME: &'static str = "Agent";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        Self {
            name: fields
                .text("name", 1..=NAME_CHARS_MAX)
                .about("What people call it; need not be unique.")
                .example("support")
                .required_or_was(was.map(|was| &was.name)),
            description: fields
                .text("description", 0..=DESCRIPTION_CHARS_MAX)
                .about("What it is for.")
                .or_was(String::new(), was.map(|was| &was.description)),
            agent_type: fields
                .text("agent_type", 1..=LABEL_CHARS_MAX)
                .about("A label.")
                .or_was(AGENT_TYPE_DEFAULT.to_owned(), was.map(|was| &was.agent_type)),
            status: fields
                .choice("status")
                .about("Where it is in its life. Clients set it; runs do not change it.")
                .or_was(AgentStatus::default(), was.map(|was| &was.status)),
            model: fields
                .text("model", 1..=LABEL_CHARS_MAX)
                .about("`provider/model`.")
                .or_was(MODEL_DEFAULT.to_owned(), was.map(|was| &was.model)),
            fallback_models: fields
                .field("fallback_models", FallbackModels)
                .about("Models that are asked in its place, in this order, while its provider cannot answer.")
                .or_was(Vec::new(), was.map(|was| &was.fallback_models)),
            instructions: fields
                .text("instructions", 0..=INSTRUCTIONS_CHARS_MAX)
                .about("The system prompt.")
                .or_was(String::new(), was.map(|was| &was.instructions)),
            tools: fields
                .field("tools", Tools)
                .about(
                    "What its runs may call: the name of a built-in tool, or \
                     `{\"type\": \"builtin\", \"name\"}`, or `{\"type\": \"mcp\", \"server\", \"tools\"}`, \
                     all approved tools of the server when it names none. A run calls nothing that \
                     its caller may not do. `builtin/recall` calls no tools.",
                )
                .or_was(Tools.placeholder(), was.map(|was| &was.tools)),
            limits: fields
                .nested("limits", |fields| read_limits(fields, was.map(|was| &was.limits)))
                .about("Lowers the installation's bounds of a run; those that are null stay.")
                .or_was(AgentLimits::default(), was.map(|was| &was.limits)),
            memory: fields
                .nested("memory", |fields| read_memory(fields, was.map(|was| &was.memory)))
                .about("How it uses memory.")
                .or_was(MemoryPolicy::default(), was.map(|was| &was.memory)),
            cache_ttl_s: read_cache_ttl(fields, was),
            coalesce: fields
                .boolean("coalesce")
                .about("Whether runs that ask the same at the same time share one reply.")
                .or_was(false, was.map(|was| &was.coalesce)),
            cache_shared: fields
                .boolean("cache_shared")
                .about("Whether a reply that is used again may be another user's.")
                .or_was(false, was.map(|was| &was.cache_shared)),
            configuration: fields.own_object("configuration", was.map(|was| &was.configuration)),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
            resource_limits: fields
                .own_object("resource_limits", was.map(|was| &was.resource_limits)),
            // The engine's, at the beginning and for good.
            did: was.map(|was| was.did.clone()).unwrap_or_default(),
        }
    }

    fn made(fields: &mut Fields) {
        fields.made(
            "did",
            Text::of(1..=DID_CHARS_MAX),
            "Its decentralised identifier, `did:agent:<name>:<8 hex>`.",
        );
    }
}

fn read_cache_ttl(fields: &mut Fields, was: Option<&AgentBody>) -> u32 {
    let was = was.map(|was| i64::from(was.cache_ttl_s));
    let ttl = fields
        .integer("cache_ttl_s", 0..=CACHE_TTL_S_MAX.into())
        .about("For how many seconds a reply may serve another run that asks the same; 0: never.")
        .or_was(0, was.as_ref());
    u32::try_from(ttl).unwrap_or(CACHE_TTL_S_MAX)
}

fn read_memory(fields: &mut Fields, was: Option<&MemoryPolicy>) -> MemoryPolicy {
    let default = MemoryPolicy::default();
    let limit = fields
        .integer("limit", 1..=RECALL_LIMIT_MAX.into())
        .about("Recalled passages per run.")
        .or_was(default.limit.into(), was.map(|was| i64::from(was.limit)).as_ref());
    MemoryPolicy {
        recall: fields
            .boolean("recall")
            .about("Whether a run looks up memories, and what was said before in other sessions of its user.")
            .or_was(default.recall, was.map(|was| &was.recall)),
        remember: fields
            .boolean("remember")
            .about("Whether what is said in a run can be recalled later.")
            .or_was(default.remember, was.map(|was| &was.remember)),
        limit: u32::try_from(limit).unwrap_or(RECALL_LIMIT_MAX),
    }
}

/// Names of models, as `provider/model`.
#[derive(Clone, Copy, Debug)]
struct FallbackModels;

impl Kind for FallbackModels {
    type Out = Vec<String>;

    fn schema(&self, purpose: Purpose) -> utoipa::openapi::schema::Schema {
        list_schema(Text::of(1..=LABEL_CHARS_MAX).schema(purpose), &(0..=FALLBACK_MODELS_MAX))
    }

    fn read(&self, value: serde_json::Value, site: &mut Site<'_>) -> Option<Vec<String>> {
        let serde_json::Value::Array(names) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        if names.len() > FALLBACK_MODELS_MAX {
            let detail = format!("must have {FALLBACK_MODELS_MAX} models at most");
            return site.fault("too_long", detail);
        }
        let name = Text::of(1..=LABEL_CHARS_MAX);
        names.into_iter().map(|value| name.read(value, site)).collect()
    }

    fn placeholder(&self) -> Vec<String> {
        Vec::new()
    }

    fn show(&self, default: &Vec<String>) -> Option<serde_json::Value> {
        Some(default.clone().into())
    }
}

fn read_limits(fields: &mut Fields, was: Option<&AgentLimits>) -> AgentLimits {
    let mut bound = |name, about, was: Option<Option<u64>>| {
        let was = was.map(|was| was.and_then(|was| i64::try_from(was).ok()));
        let read = fields.integer(name, 1..=i64::MAX).about(about).optional_or_was(was.as_ref());
        read.map(i64::unsigned_abs)
    };
    let small = |bound: Option<u64>| bound.map(|it| u32::try_from(it).unwrap_or(u32::MAX));
    AgentLimits {
        steps_max: small(bound(
            "steps_max",
            "How often the model is asked.",
            was.map(|was| was.steps_max.map(u64::from)),
        )),
        tool_calls_max: small(bound(
            "tool_calls_max",
            "Calls of tools.",
            was.map(|was| was.tool_calls_max.map(u64::from)),
        )),
        tokens_max: bound(
            "tokens_max",
            "Tokens read and written, as far as the provider counts them.",
            was.map(|was| was.tokens_max),
        ),
        cost_nanos_max: bound(
            "cost_nanos_max",
            "What they cost, in billionths of the currency of the configured prices.",
            was.map(|was| was.cost_nanos_max),
        ),
        time_ms_max: bound(
            "time_ms_max",
            "How long a run takes that may call tools, in milliseconds.",
            was.map(|was| was.time_ms_max),
        ),
        output_bytes_max: bound(
            "output_bytes_max",
            "Bytes of what its tools give and its model writes.",
            was.map(|was| was.output_bytes_max),
        ),
    }
}

/// The field `tools`: kept as it is sent, once it can be read.
#[derive(Clone, Copy, Debug)]
struct Tools;

impl Kind for Tools {
    type Out = JsonText;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let item =
            ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Object]));
        list_schema(Schema::Object(item.build()), &(0..=AGENT_TOOLS_MAX))
    }

    fn read(&self, value: serde_json::Value, site: &mut Site<'_>) -> Option<JsonText> {
        match AgentTool::list(&value) {
            Ok(_) => FreeList { count: 0..=AGENT_TOOLS_MAX }.read(value, site),
            Err(fault) => site.fault_within(&fault.pointer, fault.code, fault.detail),
        }
    }

    fn placeholder(&self) -> JsonText {
        JsonText::empty_list()
    }

    fn show(&self, default: &JsonText) -> Option<serde_json::Value> {
        serde_json::from_str(default.as_str()).ok()
    }
}

/// Which agents.
pub struct AgentQuery(AgentFilter, PageRequest);

query_parameters!(AgentQuery);

impl FromFields for AgentQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = AgentFilter {
            name: fields.text("name", 1..=NAME_CHARS_MAX).about("Exactly this name.").optional(),
            status: fields.choice::<AgentStatus>("status").about("This status.").optional(),
            agent_type: fields
                .text("agent_type", 1..=LABEL_CHARS_MAX)
                .about("Exactly this type.")
                .optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create an agent
#[utoipa::path(
    post,
    path = "/api/v1/agents",
    tag = "agents",
    request_body = AgentCreate,
    responses(
        (status = 201, description = "The agent.", body = AgentShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
    ),
)]
pub async fn agent_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<AgentCreate>,
) -> Handled {
    created(state.engine.agent_create(&caller, once.as_ref(), body).await?, "/api/v1/agents")
}

/// List agents
#[utoipa::path(
    get,
    path = "/api/v1/agents",
    tag = "agents",
    params(AgentQuery),
    responses((status = 200, description = "A page of agents.", body = List<AgentShown>)),
)]
pub async fn agent_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(AgentQuery(filter, page)): Query<AgentQuery>,
) -> Handled {
    let agents = state.engine.resource_list::<AgentBody>(&caller, &filter, &page).await?;
    documents(&agents, page.order)
}

/// Read an agent
#[utoipa::path(
    get,
    path = "/api/v1/agents/{id}",
    tag = "agents",
    params(
        ("id" = String, Path, description = "The agent's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The agent.", body = AgentShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn agent_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<AgentId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.resource_get::<AgentBody>(&caller, id).await?)
}

/// Change an agent
///
/// What is absent stays; `null` makes a field the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/agents/{id}",
    tag = "agents",
    params(
        ("id" = String, Path, description = "The agent's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = AgentPatch,
    responses(
        (status = 200, description = "The agent.", body = AgentShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn agent_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<AgentId>,
    IfMatch(version): IfMatch,
    Json(change): Json<AgentPatch>,
) -> Handled {
    let changed = |was: &Agent| change.apply(was);
    tagged(state.engine.resource_update(&caller, id, version, changed).await?)
}

/// Delete an agent
///
/// Its runs stay.
#[utoipa::path(
    delete,
    path = "/api/v1/agents/{id}",
    tag = "agents",
    params(
        ("id" = String, Path, description = "The agent's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn agent_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<AgentId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.resource_delete::<AgentBody>(&caller, id, version).await?;
    Ok(no_content())
}

/// What `GET /agent/list` says of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentSummary)]
pub struct AgentSummaryAnswer<'a> {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: AgentId,
    /// What people call it.
    name: &'a str,
    /// What it is for.
    description: &'a str,
}

impl<'a> AgentSummaryAnswer<'a> {
    fn new(agent: &'a AgentSummary) -> Self {
        Self { id: agent.id, name: &agent.name, description: &agent.description }
    }
}

/// List the newest agents in short
///
/// A bare array of at most 1,000 agents; who has more pages through `/agents`.
#[utoipa::path(
    get,
    path = "/api/v1/agent/list",
    tag = "agents",
    responses(
        (status = 200, description = "The agents.", body = Vec<AgentSummaryAnswer<'static>>),
    ),
)]
pub async fn agent_summaries(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
) -> Handled {
    let agents = state.engine.agent_summaries(&caller).await?;
    let short: Vec<_> = agents.iter().map(AgentSummaryAnswer::new).collect();
    json(StatusCode::OK, &short)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::fields::{read_body, read_change};

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("not an object") };
        object
    }

    #[test]
    fn a_name_is_enough_and_the_rest_has_defaults() {
        let Create(new) =
            read_body::<AgentCreate>(object(json!({"name": "n"})), Vec::new()).unwrap();
        assert_eq!(new, AgentBody { name: "n".into(), ..AgentBody::default() });
    }

    #[test]
    fn tools_are_kept_as_sent_and_must_be_readable() {
        let tools = json!(["memory_save", {"type": "mcp", "server": "x", "tools": ["echo"]}]);
        let body = object(json!({"name": "n", "tools": tools}));
        let Create(new) = read_body::<AgentCreate>(body, Vec::new()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(new.tools.as_str()).unwrap(), tools);
        for (tool, code, pointer) in [
            (json!("no_such_tool"), agentry_domain::Code::ValidationFailed, "/tools/0"),
            (json!({"type": "mcp"}), agentry_domain::Code::ValidationFailed, "/tools/0/server"),
            (json!({"type": "function"}), agentry_domain::Code::NotSupportedYet, "/tools/0/type"),
        ] {
            let body = object(json!({"name": "n", "tools": [tool]}));
            let error = read_body::<AgentCreate>(body, Vec::new()).err().unwrap();
            assert_eq!((error.code, error.faults[0].pointer.as_str()), (code, pointer));
        }
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_resets() {
        let was = AgentBody {
            name: "n".into(),
            model: "compatible/a/b".into(),
            memory: MemoryPolicy { recall: false, remember: false, limit: 7 },
            configuration: JsonText::known(r#"{"a":1,"b":2}"#.into()),
            ..AgentBody::default()
        };
        assert_eq!(read_change(Map::new(), Vec::new(), &was).unwrap(), was);
        let body = object(json!({
            "model": null, "memory": {"limit": 9, "recall": null}, "metadata": null,
            "configuration": {"a": null},
        }));
        let expected = AgentBody {
            model: "builtin/recall".into(),
            memory: MemoryPolicy { recall: true, remember: false, limit: 9 },
            configuration: JsonText::known(r#"{"b":2}"#.into()),
            ..was.clone()
        };
        assert_eq!(read_change(body, Vec::new(), &was).unwrap(), expected);
        assert!(read_change(object(json!({"name": null})), Vec::new(), &was).is_err());
    }

    #[test]
    fn every_status_can_be_asked_for() {
        for status in AgentStatus::ALL {
            let pairs = vec![("status".to_owned(), status.as_str().to_owned())];
            let AgentQuery(filter, _) = crate::fields::read_query(pairs).unwrap();
            assert_eq!(filter.status, Some(*status));
        }
    }
}
