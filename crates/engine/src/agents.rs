//! Agents: what is particular to them beside what every resource can do.

use agentry_domain::agents::{
    Agent, AgentBody, AgentSummary, FIRST_AGENT_ALIAS, FIRST_AGENT_NAME, did,
};
use agentry_domain::{AgentId, Caller, Code, Document, Done, Error, Once, Result};

use crate::Engine;

/// Agents in the bare list at most; who has more pages through them.
pub(crate) const AGENT_SUMMARIES_MAX: u32 = 1_000;
/// Agents of one name that an `ambiguous_name` error lists at most.
const AMBIGUOUS_IDS_MAX: u32 = 20;

impl Engine {
    /// Makes an agent. Its `did` is made here.
    pub async fn agent_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: AgentBody,
    ) -> Result<Done<Document<AgentBody>>> {
        let identified = |id: AgentId| AgentBody { did: did(&body.name, id), ..body };
        self.resource_create_with(caller, once, identified, |_, _| {}).await
    }

    /// The agent with this id.
    pub async fn agent_get(&self, caller: &Caller, id: AgentId) -> Result<Agent> {
        self.resource_get(caller, id).await?.entity()
    }

    /// The agent with this id or, if there is exactly one, with this name.
    pub async fn agent_find(&self, caller: &Caller, name_or_id: &str) -> Result<Agent> {
        if let Ok(id) = name_or_id.parse::<AgentId>()
            && let Some(agent) = self.0.store.resource_get::<AgentBody>(caller.org, id).await?
        {
            return agent.entity();
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
        found.pop().ok_or_else(|| Error::not_found("agent", name_or_id))?.entity()
    }

    /// Id, name and description of the newest agents, at most
    /// [`AGENT_SUMMARIES_MAX`].
    pub async fn agent_summaries(&self, caller: &Caller) -> Result<Vec<AgentSummary>> {
        Ok(self.0.store.agent_summaries(caller.org, AGENT_SUMMARIES_MAX).await?)
    }
}
