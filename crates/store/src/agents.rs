//! Agents in the store.

use std::sync::LazyLock;

use agentry_domain::agents::{AgentBody, AgentStatus, AgentSummary};
use agentry_domain::{AgentId, Document, OrgId};

use crate::resources::{Column, Statements, Table, document};
use crate::sql::statements;
use crate::value::{Value, values};
use crate::{Result, Store};

statements! {
    AGENT_BY_NAME = sqlite "select id, version, created_at, updated_at, shape, document \
        from agent indexed by agent_by_name where org = $1 and name = $2 order by id limit $3"
        postgres "select id, version, created_at, updated_at, shape, document from agent \
        where org = $1 and name = $2 order by id limit $3";
    AGENT_SUMMARIES = "select id, name, description from agent where org = $1 \
        order by id desc limit $2";
}

/// Which agents a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// Exactly this name.
    pub name: Option<String>,
    /// This status.
    pub status: Option<AgentStatus>,
    /// Exactly this type.
    pub agent_type: Option<String>,
}

impl Table for AgentBody {
    const TABLE: &'static str = "agent";
    const COLUMNS: &'static [Column] = &[
        Column::index("name"),
        Column::plain("description"),
        Column::filter("status"),
        Column::filter("agent_type"),
    ];
    const COUNTER: &'static str = "agents";
    type Filter = AgentFilter;

    fn columns(&self) -> Vec<Value> {
        values![&self.name, &self.description, self.status.as_str(), &self.agent_type]
    }

    fn asked(filter: &AgentFilter) -> Vec<Value> {
        values![
            filter.name.as_ref(),
            filter.status.map(AgentStatus::as_str),
            filter.agent_type.as_ref(),
        ]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<AgentBody>);
        &STATEMENTS
    }
}

impl Store {
    /// Agents of this name, oldest first, at most `limit`.
    pub async fn agent_by_name(
        &self,
        org: OrgId,
        name: &str,
        limit: u32,
    ) -> Result<Vec<Document<AgentBody>>> {
        self.rows(&AGENT_BY_NAME, values![org, name.to_owned(), limit], document).await
    }

    /// Id, name and description of the newest agents, at most `limit`.
    pub async fn agent_summaries(&self, org: OrgId, limit: u32) -> Result<Vec<AgentSummary>> {
        self.scan(&AGENT_SUMMARIES, values![org, limit], |row| {
            Ok(AgentSummary {
                id: AgentId::from_bytes(row.id()?),
                name: row.text()?,
                description: row.text()?,
            })
        })
        .await
    }
}
