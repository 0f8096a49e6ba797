//! Agents: a model, its instructions and how it uses memory.

use serde::{Deserialize, Serialize};

use crate::ids::AgentId;
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};
use crate::tools::AgentLimits;

/// The model of an agent that names none.
pub const MODEL_DEFAULT: &str = "builtin/recall";
/// The type of an agent that names none.
pub const AGENT_TYPE_DEFAULT: &str = "general";
/// The agent that a fresh server has.
pub const FIRST_AGENT_NAME: &str = "simple_agent";
/// Another name of [`FIRST_AGENT_NAME`].
pub const FIRST_AGENT_ALIAS: &str = "simple";
/// Recalled passages per run when the agent does not say.
pub const RECALL_LIMIT_DEFAULT: u32 = 5;
/// How long replies may be used again at most, in seconds: a day.
pub const CACHE_TTL_S_MAX: u32 = 86_400;
/// Models that may be asked in place of an agent's own.
pub const FALLBACK_MODELS_MAX: usize = 5;
/// Recalled passages per run at most.
pub const RECALL_LIMIT_MAX: u32 = 50;

named! {
    /// Where an agent is in its life. Clients set it; runs do not change it.
    #[derive(Default)]
    pub enum AgentStatus {
        /// Made.
        #[default]
        Created = "created",
        /// In use.
        Active = "active",
        /// In use, without work.
        Idle = "idle",
        /// In use, at work.
        Busy = "busy",
        /// Set aside.
        Suspended = "suspended",
        /// Ended.
        Terminated = "terminated",
        /// Broken.
        Error = "error",
    }
}

/// How an agent uses memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// Whether a run looks up memories, and what was said before in other
    /// sessions of its user.
    pub recall: bool,
    /// Whether what is said in a run can be recalled later.
    pub remember: bool,
    /// Passages per run, 1 to [`RECALL_LIMIT_MAX`].
    pub limit: u32,
}

impl Default for MemoryPolicy {
    fn default() -> Self {
        Self { recall: true, remember: true, limit: RECALL_LIMIT_DEFAULT }
    }
}

/// An agent.
pub type Agent = Entity<AgentBody>;

/// What an agent is. `configuration`, `metadata` and `resource_limits` belong to
/// the client and are kept as sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentBody {
    /// What people call it; need not be unique.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// A label.
    pub agent_type: String,
    /// Where it is in its life.
    pub status: AgentStatus,
    /// `provider/model`.
    pub model: String,
    /// The models that are asked in its place, in this order, while it cannot answer.
    #[serde(default)]
    pub fallback_models: Vec<String>,
    /// The system prompt.
    pub instructions: String,
    /// A JSON array: see [`crate::tools::AgentTool::list`].
    pub tools: JsonText,
    /// What it lowers of the bounds of a run.
    #[serde(default)]
    pub limits: AgentLimits,
    /// How it uses memory.
    pub memory: MemoryPolicy,
    /// How long the reply of one run may serve another that asks the same, in
    /// seconds; 0: never.
    #[serde(default)]
    pub cache_ttl_s: u32,
    /// Whether runs that ask the same at the same time share one reply.
    #[serde(default)]
    pub coalesce: bool,
    /// Whether such a reply may be another user's.
    #[serde(default)]
    pub cache_shared: bool,
    /// A JSON object.
    pub configuration: JsonText,
    /// A JSON object.
    pub metadata: JsonText,
    /// A JSON object.
    pub resource_limits: JsonText,
    /// `did:agent:<name>:<8 hex>`: made with the agent, and kept when its name changes.
    pub did: String,
}

impl Default for AgentBody {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            agent_type: AGENT_TYPE_DEFAULT.to_owned(),
            status: AgentStatus::default(),
            model: MODEL_DEFAULT.to_owned(),
            fallback_models: Vec::new(),
            instructions: String::new(),
            tools: JsonText::known("[]".to_owned()),
            limits: AgentLimits::default(),
            memory: MemoryPolicy::default(),
            cache_ttl_s: 0,
            coalesce: false,
            cache_shared: false,
            configuration: JsonText::empty(),
            metadata: JsonText::empty(),
            resource_limits: JsonText::empty(),
            did: String::new(),
        }
    }
}

impl Resource for AgentBody {
    type Id = AgentId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::Agent;
    const SHAPE: i64 = 4;

    fn also(&self, _id: AgentId) {}
}

/// The part of an agent that `GET /agent/list` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSummary {
    /// Its id.
    pub id: AgentId,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub description: String,
}

/// Makes an agent's decentralised identifier: its name reduced to
/// `[a-z0-9_-]`, and the last eight hex digits of its id, which are random.
pub fn did(name: &str, id: AgentId) -> String {
    let slug: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' })
        .map(|c| c.to_ascii_lowercase())
        .take(64)
        .collect();
    let id = id.to_string();
    format!("did:agent:{slug}:{}", &id[id.len() - 8..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_did_holds_the_name_and_eight_hex_digits() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(did("My Agent/1", id), "did:agent:my-agent-1:099a8057");
    }
}
