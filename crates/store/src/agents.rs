//! Agents in the store.

use agentry_domain::agents::{Agent, AgentStatus, AgentSummary, MemoryPolicy};
use agentry_domain::{AgentId, Code, Error, OrgId, Page, PageRequest};

use crate::counters::AGENTS;
use crate::lists::{cursor, list_page};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    AGENT_INSERT = "insert into agent (org, id, name, description, agent_type, status, model, \
        instructions, tools, recall, remember, recall_limit, configuration, metadata, \
        resource_limits, did, version, created_at, updated_at) values ($1, $2, $3, $4, $5, $6, \
        $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";
    AGENT_UPDATE = "update agent set name = $1, description = $2, agent_type = $3, status = $4, \
        model = $5, instructions = $6, tools = $7, recall = $8, remember = $9, \
        recall_limit = $10, configuration = $11, metadata = $12, resource_limits = $13, \
        version = version + 1, updated_at = $14 where org = $15 and id = $16 and version = $17";
    AGENT_DELETE = "delete from agent where org = $1 and id = $2 and version = $3";
    AGENT_VERSION = "select version from agent where org = $1 and id = $2";
    AGENT_GET = "select id, name, description, agent_type, status, model, instructions, tools, \
        recall, remember, recall_limit, configuration, metadata, resource_limits, did, version, \
        created_at, updated_at from agent where org = $1 and id = $2";
    AGENT_BY_NAME = "select id, name, description, agent_type, status, model, instructions, \
        tools, recall, remember, recall_limit, configuration, metadata, resource_limits, did, \
        version, created_at, updated_at from agent where org = $1 and name = $2 \
        order by id limit $3";
    AGENT_SUMMARIES = "select id, name, description from agent where org = $1 \
        order by id desc limit $2";
    AGENT_LIST_DESC = "select id, name, description, agent_type, status, model, instructions, \
        tools, recall, remember, recall_limit, configuration, metadata, resource_limits, did, \
        version, created_at, updated_at from agent where org = $1 and id < $2 \
        order by id desc limit $3 offset $4";
    AGENT_LIST_ASC = "select id, name, description, agent_type, status, model, instructions, \
        tools, recall, remember, recall_limit, configuration, metadata, resource_limits, did, \
        version, created_at, updated_at from agent where org = $1 and id > $2 \
        order by id limit $3 offset $4";
    AGENT_FILTER_DESC = "select id, name, description, agent_type, status, model, instructions, \
        tools, recall, remember, recall_limit, configuration, metadata, resource_limits, did, \
        version, created_at, updated_at from agent where org = $1 and id < $2 \
        and (name = $3 or $3 is null) and (status = $4 or $4 is null) \
        and (agent_type = $5 or $5 is null) order by id desc limit $6 offset $7";
    AGENT_FILTER_ASC = "select id, name, description, agent_type, status, model, instructions, \
        tools, recall, remember, recall_limit, configuration, metadata, resource_limits, did, \
        version, created_at, updated_at from agent where org = $1 and id > $2 \
        and (name = $3 or $3 is null) and (status = $4 or $4 is null) \
        and (agent_type = $5 or $5 is null) order by id limit $6 offset $7";
    AGENT_FILTER_COUNT = "select count(*) from (select 1 from agent where org = $1 \
        and (name = $2 or $2 is null) and (status = $3 or $3 is null) \
        and (agent_type = $4 or $4 is null) limit $5) as counted";
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

impl AgentFilter {
    fn values(&self) -> Vec<Value> {
        values![
            self.name.as_ref(),
            self.status.map_or(Value::Null, |status| Value::Static(status.as_str())),
            self.agent_type.as_ref(),
        ]
    }
}

/// The error for an agent that is not there.
pub fn agent_missing(id: AgentId) -> Error {
    Error::not_found("agent", id)
}

fn version_guard(org: OrgId, id: AgentId) -> Probe {
    Probe::read(&AGENT_VERSION, values![org, id], move |version| match version {
        None => agent_missing(id),
        Some(version) => Error::new(
            Code::PreconditionFailed,
            format!("agent {id} has changed; its version is now {version}"),
        ),
    })
}

impl Write {
    /// Stores a new agent.
    pub fn agent_insert(&mut self, agent: &Agent) {
        self.add(
            &AGENT_INSERT,
            values![
                self.org,
                agent.id,
                &agent.name,
                &agent.description,
                &agent.agent_type,
                agent.status.as_str(),
                &agent.model,
                &agent.instructions,
                &agent.tools,
                agent.memory.recall,
                agent.memory.remember,
                agent.memory.limit,
                &agent.configuration,
                &agent.metadata,
                &agent.resource_limits,
                &agent.did,
                agent.version,
                agent.created_at,
                agent.updated_at,
            ],
        );
        self.count(AGENTS, &[], 1);
    }

    /// Stores a changed agent, if its version is still the one it was read with.
    pub fn agent_update(&mut self, agent: &Agent) {
        self.contend(agent.id.to_bytes());
        let guard = version_guard(self.org, agent.id);
        self.add(
            &AGENT_UPDATE,
            values![
                &agent.name,
                &agent.description,
                &agent.agent_type,
                agent.status.as_str(),
                &agent.model,
                &agent.instructions,
                &agent.tools,
                agent.memory.recall,
                agent.memory.remember,
                agent.memory.limit,
                &agent.configuration,
                &agent.metadata,
                &agent.resource_limits,
                agent.updated_at,
                self.org,
                agent.id,
                agent.version,
            ],
        )
        .expect_one(guard);
    }

    /// Deletes an agent of this version.
    pub fn agent_delete(&mut self, id: AgentId, version: i64) {
        self.contend(id.to_bytes());
        let guard = version_guard(self.org, id);
        self.add(&AGENT_DELETE, values![self.org, id, version]).expect_one(guard);
        self.count(AGENTS, &[], -1);
    }
}

impl Store {
    /// The agent with this id.
    pub async fn agent_get(&self, org: OrgId, id: AgentId) -> Result<Option<Agent>> {
        self.point(&AGENT_GET, values![org, id], agent).await
    }

    /// Agents of this name, oldest first, at most `limit`.
    pub async fn agent_by_name(&self, org: OrgId, name: &str, limit: u32) -> Result<Vec<Agent>> {
        self.rows(&AGENT_BY_NAME, values![org, name.to_owned(), limit], agent).await
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

    /// A page of agents.
    pub async fn agent_list(
        &self,
        org: OrgId,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<Agent>> {
        let id = |agent: &Agent| agent.id.to_bytes();
        let (after, limit, offset) = cursor(page);
        if *filter == AgentFilter::default() {
            let sql = list_page(page, &AGENT_LIST_ASC, &AGENT_LIST_DESC);
            let rows = self.list(page, sql, values![org, after, limit, offset], agent).await?;
            let total = self.counter(org, AGENTS, &[]).await?;
            return Ok(Page::from_rows(rows, page, total, id));
        }
        let sql = list_page(page, &AGENT_FILTER_ASC, &AGENT_FILTER_DESC);
        let mut bound = values![org, after];
        bound.extend(filter.values());
        bound.extend(values![limit, offset]);
        let rows = self.scan(sql, bound, agent).await?;
        self.filtered_page(rows, page, &AGENT_FILTER_COUNT, org, filter.values(), id).await
    }
}

fn agent(row: &mut Columns<'_>) -> Result<Agent> {
    Ok(Agent {
        id: AgentId::from_bytes(row.id()?),
        name: row.text()?,
        description: row.text()?,
        agent_type: row.text()?,
        status: AgentStatus::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("an agent's status"))?,
        model: row.text()?,
        instructions: row.text()?,
        tools: row.text()?,
        memory: MemoryPolicy {
            recall: row.flag()?,
            remember: row.flag()?,
            limit: u32::try_from(row.int()?)
                .map_err(|_| StoreError::unreadable("a recall limit"))?,
        },
        configuration: row.text()?,
        metadata: row.text()?,
        resource_limits: row.text()?,
        did: row.text()?,
        version: row.int()?,
        created_at: row.time()?,
        updated_at: row.time()?,
    })
}
