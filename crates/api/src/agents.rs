//! Agents over HTTP.

use agentry_domain::agents::{
    AGENT_TYPE_DEFAULT, Agent, AgentStatus, AgentSummary, MODEL_DEFAULT, MemoryPolicy,
    RECALL_LIMIT_MAX,
};
use agentry_domain::{AgentId, Order, PageRequest, Result, Timestamp};
use agentry_engine::{AgentChange, AgentFilter, AgentNew, JsonPatch, MemoryChange};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, json, no_content, raw, tagged};
use crate::extract::{Json, PathId, Query};
use crate::fields::kinds::{FreeObject, Kind, Site, list_schema};
use crate::fields::{Fields, FromFields};
use crate::lists::{List, list, page_request};
use crate::openapi::{NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

const NAME_CHARS_MAX: usize = 200;
const LABEL_CHARS_MAX: usize = 200;
const DESCRIPTION_CHARS_MAX: usize = 10_000;
const INSTRUCTIONS_CHARS_MAX: usize = 200_000;

/// An agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Agent)]
pub struct AgentAnswer<'a> {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: AgentId,
    /// What people call it; need not be unique.
    #[schema(example = "support")]
    name: &'a str,
    /// What it is for.
    description: &'a str,
    /// A label.
    #[schema(example = "general")]
    agent_type: &'a str,
    /// Where it is in its life. Clients set it; runs do not change it.
    #[schema(example = "created")]
    status: &'static str,
    /// `provider/model`.
    #[schema(example = "builtin/recall")]
    model: &'a str,
    /// The system prompt.
    instructions: &'a str,
    /// Always empty: tools do not exist yet.
    #[schema(value_type = Vec<Object>)]
    tools: &'a RawValue,
    /// How it uses memory.
    memory: MemoryAnswer,
    /// The client's own.
    #[schema(value_type = Object)]
    configuration: &'a RawValue,
    /// The client's own.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// The client's own.
    #[schema(value_type = Object)]
    resource_limits: &'a RawValue,
    /// Its decentralised identifier.
    #[schema(example = "did:agent:support:5c0e8a41")]
    did: &'a str,
    /// Grows with every change, from 1; the entity tag is it in quotes.
    version: i64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// How an agent uses memory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemoryPolicy)]
pub struct MemoryAnswer {
    /// Whether a run looks up what was said before in other sessions of its user.
    recall: bool,
    /// Whether what is said in a run can be recalled later.
    remember: bool,
    /// Recalled passages per run.
    limit: u32,
}

impl<'a> AgentAnswer<'a> {
    fn new(agent: &'a Agent) -> Result<Self> {
        let MemoryPolicy { recall, remember, limit } = agent.memory;
        Ok(Self {
            id: agent.id,
            name: &agent.name,
            description: &agent.description,
            agent_type: &agent.agent_type,
            status: agent.status.as_str(),
            model: &agent.model,
            instructions: &agent.instructions,
            tools: raw(&agent.tools)?,
            memory: MemoryAnswer { recall, remember, limit },
            configuration: raw(&agent.configuration)?,
            metadata: raw(&agent.metadata)?,
            resource_limits: raw(&agent.resource_limits)?,
            did: &agent.did,
            version: agent.version,
            created_at: agent.created_at,
            updated_at: agent.updated_at,
        })
    }
}

/// Body of a creation.
pub struct AgentCreate(AgentNew);

body_schema!(AgentCreate, "AgentCreate");

impl FromFields for AgentCreate {
    fn read(fields: &mut Fields) -> Self {
        Self(AgentNew {
            name: fields
                .text("name", 1..=NAME_CHARS_MAX)
                .about("What people call it; need not be unique.")
                .example("support")
                .required(),
            description: fields
                .text("description", 0..=DESCRIPTION_CHARS_MAX)
                .about("What it is for.")
                .or(String::new()),
            agent_type: fields
                .text("agent_type", 1..=LABEL_CHARS_MAX)
                .about("A label.")
                .or(AGENT_TYPE_DEFAULT.to_owned()),
            status: fields
                .choice("status")
                .about("Where it is in its life.")
                .or(AgentStatus::default()),
            model: fields
                .text("model", 1..=LABEL_CHARS_MAX)
                .about("`provider/model`.")
                .or(MODEL_DEFAULT.to_owned()),
            instructions: fields
                .text("instructions", 0..=INSTRUCTIONS_CHARS_MAX)
                .about("The system prompt.")
                .or(String::new()),
            tools: fields.field("tools", NoTools).about(NO_TOOLS).or(NoTools.placeholder()),
            memory: fields
                .nested("memory", read_memory)
                .about("How it uses memory.")
                .or(MemoryPolicy::default()),
            configuration: fields.object("configuration").about(OWN).or("{}".to_owned()),
            metadata: fields.object("metadata").about(OWN).or("{}".to_owned()),
            resource_limits: fields.object("resource_limits").about(OWN).or("{}".to_owned()),
        })
    }
}

const OWN: &str = "The client's own, kept as it is.";
const NO_TOOLS: &str = "Not supported yet: must be absent or empty.";
const RECALL: &str = "Whether a run looks up what was said before in other sessions of its user.";
const REMEMBER: &str = "Whether what is said in a run can be recalled later.";
const LIMIT: &str = "Recalled passages per run.";

fn read_memory(fields: &mut Fields) -> MemoryPolicy {
    let default = MemoryPolicy::default();
    let limit = fields.integer("limit", 1..=RECALL_LIMIT_MAX.into()).about(LIMIT);
    let limit = limit.or(default.limit.into());
    MemoryPolicy {
        recall: fields.boolean("recall").about(RECALL).or(default.recall),
        remember: fields.boolean("remember").about(REMEMBER).or(default.remember),
        limit: u32::try_from(limit).unwrap_or(RECALL_LIMIT_MAX),
    }
}

/// Body of a change.
pub struct AgentPatch(AgentChange);

body_schema!(AgentPatch, "AgentPatch");

impl FromFields for AgentPatch {
    fn read(fields: &mut Fields) -> Self {
        let default = MemoryPolicy::default();
        let all_default = MemoryChange {
            recall: Some(default.recall),
            remember: Some(default.remember),
            limit: Some(default.limit),
        };
        Self(AgentChange {
            name: fields.text("name", 1..=NAME_CHARS_MAX).change(),
            description: fields
                .text("description", 0..=DESCRIPTION_CHARS_MAX)
                .change_or(String::new()),
            agent_type: fields
                .text("agent_type", 1..=LABEL_CHARS_MAX)
                .change_or(AGENT_TYPE_DEFAULT.to_owned()),
            status: fields.choice("status").change_or(AgentStatus::default()),
            model: fields.text("model", 1..=LABEL_CHARS_MAX).change_or(MODEL_DEFAULT.to_owned()),
            instructions: fields
                .text("instructions", 0..=INSTRUCTIONS_CHARS_MAX)
                .change_or(String::new()),
            tools: fields.field("tools", NoTools).about(NO_TOOLS).change_or(NoTools.placeholder()),
            memory: fields
                .nested("memory", read_memory_change)
                .change_or(all_default)
                .unwrap_or_default(),
            configuration: merge_patch(fields, "configuration"),
            metadata: merge_patch(fields, "metadata"),
            resource_limits: merge_patch(fields, "resource_limits"),
        })
    }
}

fn read_memory_change(fields: &mut Fields) -> MemoryChange {
    let default = MemoryPolicy::default();
    let limit = fields.integer("limit", 1..=RECALL_LIMIT_MAX.into()).about(LIMIT);
    let limit = limit.change_or(default.limit.into());
    MemoryChange {
        recall: fields.boolean("recall").about(RECALL).change_or(default.recall),
        remember: fields.boolean("remember").about(REMEMBER).change_or(default.remember),
        limit: limit.map(|limit| u32::try_from(limit).unwrap_or(RECALL_LIMIT_MAX)),
    }
}

/// A merge patch for one of the client's own objects; `null` empties it.
pub(crate) fn merge_patch(fields: &mut Fields, name: &'static str) -> Option<JsonPatch> {
    fields
        .merge_patch(name)
        .about("A merge patch for the client's own object (RFC 7396).")
        .change_or(serde_json::Value::Null)
        .map(JsonPatch)
}

/// The field `tools` until tools exist: an empty list, as JSON text.
#[derive(Clone, Copy, Debug)]
struct NoTools;

impl Kind for NoTools {
    type Out = String;

    fn schema(&self) -> utoipa::openapi::schema::Schema {
        list_schema(FreeObject.schema(), &(0..=0))
    }

    fn read(&self, value: serde_json::Value, site: &mut Site<'_>) -> Option<String> {
        match value {
            serde_json::Value::Array(tools) if tools.is_empty() => Some(self.placeholder()),
            serde_json::Value::Array(_) => {
                site.fault("not_supported_yet", "agents have no tools yet")
            }
            _ => site.fault("wrong_type", "must be a list"),
        }
    }

    fn placeholder(&self) -> String {
        "[]".to_owned()
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
        (status = 201, description = "The agent.", body = AgentAnswer<'static>, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
    ),
)]
pub async fn agent_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Json(AgentCreate(new)): Json<AgentCreate>,
) -> Handled {
    let agent = state.engine.agent_create(&caller, new).await?;
    let location = format!("/api/v1/agents/{}", agent.id);
    created(&AgentAnswer::new(&agent)?, &location, agent.version)
}

/// List agents
#[utoipa::path(
    get,
    path = "/api/v1/agents",
    tag = "agents",
    params(AgentQuery),
    responses((status = 200, description = "A page of agents.", body = List<AgentAnswer<'static>>)),
)]
pub async fn agent_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(AgentQuery(filter, page)): Query<AgentQuery>,
) -> Handled {
    let agents = state.engine.agent_list(&caller, filter, page).await?;
    list(&agents, page.order, AgentAnswer::new)
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
        (status = 200, description = "The agent.", body = AgentAnswer<'static>, headers(
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
    let agent = state.engine.agent_get(&caller, id).await?;
    if let Some(not_modified) = known.not_modified(agent.version) {
        return Ok(not_modified);
    }
    tagged(&AgentAnswer::new(&agent)?, agent.version)
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
        (status = 200, description = "The agent.", body = AgentAnswer<'static>, headers(
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
    Json(AgentPatch(change)): Json<AgentPatch>,
) -> Handled {
    let agent = state.engine.agent_update(&caller, id, change, version).await?;
    tagged(&AgentAnswer::new(&agent)?, agent.version)
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
    state.engine.agent_delete(&caller, id, version).await?;
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
    use crate::fields::kinds::Named as _;
    use crate::fields::read_body;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("not an object") };
        object
    }

    #[test]
    fn a_name_is_enough_and_the_rest_has_defaults() {
        let AgentCreate(new) = read_body(object(json!({"name": "n"})), Vec::new()).unwrap();
        assert_eq!(new.agent_type, "general");
        assert_eq!(new.model, "builtin/recall");
        assert_eq!(new.tools, "[]");
        assert_eq!(new.memory, MemoryPolicy::default());
        assert_eq!(new.configuration, "{}");
    }

    #[test]
    fn tools_are_not_supported_yet() {
        let body = object(json!({"name": "n", "tools": [{"name": "x"}]}));
        let error = read_body::<AgentCreate>(body, Vec::new()).err().unwrap();
        assert_eq!(error.code, agentry_domain::Code::NotSupportedYet);
        assert_eq!(error.faults[0].pointer, "/tools");
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_resets() {
        let AgentPatch(change) = read_body(Map::new(), Vec::new()).unwrap();
        assert!(change.name.is_none() && change.memory.limit.is_none());
        assert!(change.metadata.is_none());
        let body = object(json!({
            "model": null, "memory": {"limit": 9, "recall": null}, "metadata": null,
            "configuration": {"a": null},
        }));
        let AgentPatch(change) = read_body(body, Vec::new()).unwrap();
        assert_eq!(change.model.as_deref(), Some("builtin/recall"));
        assert_eq!(change.memory.limit, Some(9));
        assert_eq!(change.memory.recall, Some(true));
        assert_eq!(change.memory.remember, None);
        assert_eq!(change.metadata, Some(JsonPatch(Value::Null)));
        assert_eq!(change.configuration, Some(JsonPatch(json!({"a": null}))));
        let body = object(json!({"name": null}));
        assert!(read_body::<AgentPatch>(body, Vec::new()).is_err());
    }

    #[test]
    fn every_status_can_be_asked_for() {
        for status in AgentStatus::ALL {
            let pairs = vec![("status".to_owned(), status.name().to_owned())];
            let AgentQuery(filter, _) = crate::fields::read_query(pairs).unwrap();
            assert_eq!(filter.status, Some(*status));
        }
    }
}
