//! Agents: create, find, change, delete, list.

use agentry_domain::agents::{
    Agent, AgentStatus, AgentSummary, FIRST_AGENT_ALIAS, FIRST_AGENT_NAME, MemoryPolicy, did,
};
use agentry_domain::log::EntityKind;
use agentry_domain::{AgentId, Caller, Code, Error, Page, PageRequest, Result, Timestamp};
use agentry_store::agents::agent_missing;
use agentry_store::{AgentFilter, Write};

use crate::guarded::until_unchanged;
use crate::{Engine, JsonPatch, entry};

/// Agents in the bare list at most; who has more pages through them.
pub(crate) const AGENT_SUMMARIES_MAX: u32 = 1_000;
/// Agents of one name that an `ambiguous_name` error lists at most.
const AMBIGUOUS_IDS_MAX: u32 = 20;

/// A new agent. JSON fields are texts that were checked at the edge.
#[derive(Clone, Debug)]
pub struct AgentNew {
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// A label.
    pub agent_type: String,
    /// Where it is in its life.
    pub status: AgentStatus,
    /// `provider/model`.
    pub model: String,
    /// The system prompt.
    pub instructions: String,
    /// A JSON array.
    pub tools: String,
    /// How it uses memory.
    pub memory: MemoryPolicy,
    /// A JSON object.
    pub configuration: String,
    /// A JSON object.
    pub metadata: String,
    /// A JSON object.
    pub resource_limits: String,
}

/// A change of an agent's memory policy; what is absent stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryChange {
    /// See [`MemoryPolicy::recall`].
    pub recall: Option<bool>,
    /// See [`MemoryPolicy::remember`].
    pub remember: Option<bool>,
    /// See [`MemoryPolicy::limit`].
    pub limit: Option<u32>,
}

/// A change of an agent; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct AgentChange {
    /// A new name.
    pub name: Option<String>,
    /// A new description.
    pub description: Option<String>,
    /// A new label.
    pub agent_type: Option<String>,
    /// A new status.
    pub status: Option<AgentStatus>,
    /// A new model.
    pub model: Option<String>,
    /// A new system prompt.
    pub instructions: Option<String>,
    /// A new JSON array.
    pub tools: Option<String>,
    /// A change of the memory policy.
    pub memory: MemoryChange,
    /// A merge patch.
    pub configuration: Option<JsonPatch>,
    /// A merge patch.
    pub metadata: Option<JsonPatch>,
    /// A merge patch.
    pub resource_limits: Option<JsonPatch>,
}

impl AgentChange {
    fn apply(self, agent: &mut Agent) -> Result<()> {
        fn set<T>(field: &mut T, new: Option<T>) {
            if let Some(new) = new {
                *field = new;
            }
        }
        fn patch(name: &str, field: &mut String, patch: Option<JsonPatch>) -> Result<()> {
            if let Some(patch) = patch {
                *field = patch.apply(name, field)?;
            }
            Ok(())
        }
        set(&mut agent.name, self.name);
        set(&mut agent.description, self.description);
        set(&mut agent.agent_type, self.agent_type);
        set(&mut agent.status, self.status);
        set(&mut agent.model, self.model);
        set(&mut agent.instructions, self.instructions);
        set(&mut agent.tools, self.tools);
        set(&mut agent.memory.recall, self.memory.recall);
        set(&mut agent.memory.remember, self.memory.remember);
        set(&mut agent.memory.limit, self.memory.limit);
        patch("configuration", &mut agent.configuration, self.configuration)?;
        patch("metadata", &mut agent.metadata, self.metadata)?;
        patch("resource_limits", &mut agent.resource_limits, self.resource_limits)
    }
}

/// A whole agent out of what a client gave.
pub(crate) fn agent_from(new: AgentNew, id: AgentId, now: Timestamp) -> Agent {
    Agent {
        id,
        did: did(&new.name, id),
        name: new.name,
        description: new.description,
        agent_type: new.agent_type,
        status: new.status,
        model: new.model,
        instructions: new.instructions,
        tools: new.tools,
        memory: new.memory,
        configuration: new.configuration,
        metadata: new.metadata,
        resource_limits: new.resource_limits,
        version: 1,
        created_at: now,
        updated_at: now,
    }
}

impl Engine {
    /// Makes an agent.
    pub async fn agent_create(&self, caller: &Caller, new: AgentNew) -> Result<Agent> {
        let now = self.now();
        let agent = agent_from(new, AgentId::from_uuid(self.uuid(now)), now);
        let mut write = Write::new(caller.org);
        write.agent_insert(&agent);
        write.log(entry(caller, now, "agent.created", EntityKind::Agent, agent.id.to_bytes()));
        self.0.store.write(write).await?;
        Ok(agent)
    }

    /// The agent with this id.
    pub async fn agent_get(&self, caller: &Caller, id: AgentId) -> Result<Agent> {
        self.0.store.agent_get(caller.org, id).await?.ok_or_else(|| agent_missing(id))
    }

    /// The agent with this id or, if there is exactly one, with this name.
    pub async fn agent_find(&self, caller: &Caller, name_or_id: &str) -> Result<Agent> {
        if let Ok(id) = name_or_id.parse::<AgentId>()
            && let Some(agent) = self.0.store.agent_get(caller.org, id).await?
        {
            return Ok(agent);
        }
        let named = |name| self.0.store.agent_by_name(caller.org, name, AMBIGUOUS_IDS_MAX);
        let mut found = named(name_or_id).await?;
        if found.is_empty() && name_or_id == FIRST_AGENT_ALIAS {
            found = named(FIRST_AGENT_NAME).await?;
        }
        if found.len() > 1 {
            let ids: Vec<String> = found.iter().map(|agent| agent.id.to_string()).collect();
            return Err(Error::new(
                Code::AmbiguousName,
                format!("several agents are called {name_or_id}: {}", ids.join(", ")),
            ));
        }
        found.pop().ok_or_else(|| Error::not_found("agent", name_or_id))
    }

    /// Changes an agent. With `if_match`, only if that is its version;
    /// otherwise the change is made on top of whatever came first.
    pub async fn agent_update(
        &self,
        caller: &Caller,
        id: AgentId,
        change: AgentChange,
        if_match: Option<i64>,
    ) -> Result<Agent> {
        until_unchanged(if_match, || async {
            let mut agent = self.agent_get(caller, id).await?;
            agent.version = if_match.unwrap_or(agent.version);
            change.clone().apply(&mut agent)?;
            let now = self.now();
            agent.updated_at = now;
            let mut write = Write::new(caller.org);
            write.agent_update(&agent);
            write.log(entry(caller, now, "agent.updated", EntityKind::Agent, id.to_bytes()));
            self.0.store.write(write).await?;
            agent.version += 1;
            Ok(agent)
        })
        .await
    }

    /// Deletes an agent. Its runs stay.
    pub async fn agent_delete(
        &self,
        caller: &Caller,
        id: AgentId,
        if_match: Option<i64>,
    ) -> Result<()> {
        until_unchanged(if_match, || async {
            let version = match if_match {
                Some(version) => version,
                None => self.agent_get(caller, id).await?.version,
            };
            let mut write = Write::new(caller.org);
            write.agent_delete(id, version);
            let now = self.now();
            write.log(entry(caller, now, "agent.deleted", EntityKind::Agent, id.to_bytes()));
            self.0.store.write(write).await?;
            Ok(())
        })
        .await
    }

    /// A page of agents.
    pub async fn agent_list(
        &self,
        caller: &Caller,
        filter: AgentFilter,
        page: PageRequest,
    ) -> Result<Page<Agent>> {
        Ok(self.0.store.agent_list(caller.org, &filter, &page).await?)
    }

    /// Id, name and description of the newest agents, at most
    /// [`AGENT_SUMMARIES_MAX`].
    pub async fn agent_summaries(&self, caller: &Caller) -> Result<Vec<AgentSummary>> {
        Ok(self.0.store.agent_summaries(caller.org, AGENT_SUMMARIES_MAX).await?)
    }
}
