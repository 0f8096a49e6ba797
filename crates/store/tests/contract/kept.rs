//! Agents and sessions as wholes, for the cases: what the store takes and gives
//! as body and document is one thing here.

use agentry_domain::agents::{Agent, AgentBody};
use agentry_domain::sessions::Session;
use agentry_domain::{AgentId, Entity, OrgId, Page, PageRequest, Resource, SessionId};
use agentry_store::resources::Table;
use agentry_store::{AgentFilter, Result, SessionFilter, Store, Write};

/// The next version of something that keeps its body.
fn next<R: Resource>(was: &Entity<R>) -> Entity<R> {
    Entity { version: was.version + 1, ..was.clone() }
}

pub(crate) trait WriteWhole {
    fn agent_insert(&mut self, agent: &Agent);
    fn agent_update(&mut self, was: &Agent);
    fn agent_delete(&mut self, id: AgentId, version: i64);
    fn session_put(&mut self, session: &Session);
    fn session_update(&mut self, was: &Session);
}

impl WriteWhole for Write {
    fn agent_insert(&mut self, agent: &Agent) {
        self.resource_insert(&agent.body, &agent.document().unwrap());
    }

    fn agent_update(&mut self, was: &Agent) {
        self.resource_update(&was.body, &next(was).document().unwrap());
    }

    fn agent_delete(&mut self, id: AgentId, version: i64) {
        self.resource_delete::<AgentBody>(id, version);
    }

    fn session_put(&mut self, session: &Session) {
        self.session_insert(&session.body, &session.document().unwrap());
    }

    fn session_update(&mut self, was: &Session) {
        self.resource_update(&was.body, &next(was).document().unwrap());
    }
}

pub(crate) trait ReadWhole {
    async fn agent_get(&self, org: OrgId, id: AgentId) -> Result<Option<Agent>>;
    async fn session_get(&self, org: OrgId, id: SessionId) -> Result<Option<Session>>;
    async fn agent_list(
        &self,
        org: OrgId,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<Agent>>;
    async fn session_list(
        &self,
        org: OrgId,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<Session>>;
}

async fn get<R: Table>(store: &Store, org: OrgId, id: R::Id) -> Result<Option<Entity<R>>> {
    let found = store.resource_get::<R>(org, id).await?;
    Ok(found.map(|document| document.entity().unwrap()))
}

async fn list<R: Table>(
    store: &Store,
    org: OrgId,
    filter: &R::Filter,
    page: &PageRequest,
) -> Result<Page<Entity<R>>> {
    let Page { items, total, total_capped, limit, next } =
        store.resource_list::<R>(org, filter, page).await?;
    let items = items.iter().map(|document| document.entity().unwrap()).collect();
    Ok(Page { items, total, total_capped, limit, next })
}

impl ReadWhole for Store {
    async fn agent_get(&self, org: OrgId, id: AgentId) -> Result<Option<Agent>> {
        get(self, org, id).await
    }

    async fn session_get(&self, org: OrgId, id: SessionId) -> Result<Option<Session>> {
        get(self, org, id).await
    }

    async fn agent_list(
        &self,
        org: OrgId,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<Agent>> {
        list(self, org, filter, page).await
    }

    async fn session_list(
        &self,
        org: OrgId,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<Session>> {
        list(self, org, filter, page).await
    }
}
