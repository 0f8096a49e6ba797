//! Memories in the store: rows, and what search knows of them. Both change in
//! one write, so that a memory is found from the moment it is acknowledged.

use std::sync::LazyLock;

use agentry_domain::memories::{MemoryAccess, MemoryBody, MemoryReadMode};
use agentry_domain::{Document, MemoryId, OrgId};

use crate::resources::{Column, Statements, Table, document};
use crate::text::{Mark, Scope, Sought};
use crate::value::{Value, values};
use crate::write::Write;
use crate::{Result, Store};

/// Which memories a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryFilter {
    /// Exactly this name.
    pub name: Option<String>,
    /// Of this user.
    pub user_id: Option<String>,
    /// For this agent.
    pub agent_id: Option<String>,
    /// From this session.
    pub session_id: Option<String>,
    /// Read like this.
    pub read_mode: Option<MemoryReadMode>,
    /// Found by these.
    pub access: Option<MemoryAccess>,
}

impl Table for MemoryBody {
    const TABLE: &'static str = "memory";
    const COLUMNS: &'static [Column] = &[
        Column::index("user_id"),
        Column::index("session_id"),
        Column::index("agent_id"),
        Column::index("name"),
        Column::filter("read_mode"),
        Column::filter("access"),
    ];
    const COUNTER: &'static str = "memories";
    type Filter = MemoryFilter;

    fn columns(&self) -> Vec<Value> {
        values![
            self.user_id.as_ref(),
            self.session_id.as_ref(),
            self.agent_id.as_ref(),
            self.name.as_ref(),
            self.read_mode.as_str(),
            self.access.as_str(),
        ]
    }

    fn asked(filter: &MemoryFilter) -> Vec<Value> {
        values![
            filter.user_id.as_ref(),
            filter.session_id.as_ref(),
            filter.agent_id.as_ref(),
            filter.name.as_ref(),
            filter.read_mode.map(MemoryReadMode::as_str),
            filter.access.map(MemoryAccess::as_str),
        ]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<MemoryBody>);
        &STATEMENTS
    }
}

const AGENT: &str = "agent";
const SESSION: &str = "session";
const READ_MODE: &str = "read_mode";

/// Which memories a search looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySought<'a> {
    /// This user's own beside the shared ones; none for the shared ones alone.
    pub user_id: Option<&'a str>,
    /// Those for this agent.
    pub agent_id: Option<&'a str>,
    /// Those from this session.
    pub session_id: Option<&'a str>,
}

impl MemorySought<'_> {
    fn own_and_shared(user_id: Option<&str>, org: OrgId) -> Sought {
        let shared = Scope::memories(org);
        match user_id {
            Some(user_id) => Sought::within_either(Scope::memories_of(org, user_id), shared),
            None => Sought::within(shared),
        }
    }

    /// What a search looks at.
    pub fn in_search(self, org: OrgId) -> Sought {
        let mut sought = Self::own_and_shared(self.user_id, org);
        for (field, value) in [(AGENT, self.agent_id), (SESSION, self.session_id)] {
            if let Some(value) = value {
                sought = sought.marked(vec![Mark::of(field, value)]);
            }
        }
        sought
    }

    /// What a run of this agent recalls by itself: memories that are read
    /// automatically and are for this agent or for all.
    pub fn in_run(user_id: Option<&str>, agent_id: &str, org: OrgId) -> Sought {
        Self::own_and_shared(user_id, org)
            .marked(vec![Mark::of(READ_MODE, MemoryReadMode::Auto.as_str())])
            .marked(vec![Mark::of(AGENT, agent_id), Mark::none(AGENT)])
    }
}

/// Where a memory is found, and by what else than its words.
fn found_by(body: &MemoryBody, org: OrgId) -> (Scope, [Mark; 3]) {
    let scope = match body.private_to() {
        Some(user_id) => Scope::memories_of(org, user_id),
        None => Scope::memories(org),
    };
    let mark = |field: &str, value: Option<&String>| match value {
        Some(value) => Mark::of(field, value),
        None => Mark::none(field),
    };
    let marks = [
        mark(AGENT, body.agent_id.as_ref()),
        mark(SESSION, body.session_id.as_ref()),
        Mark::of(READ_MODE, body.read_mode.as_str()),
    ];
    (scope, marks)
}

impl Write {
    /// Makes a new memory findable.
    pub fn memory_index(&mut self, id: MemoryId, body: &MemoryBody) {
        let (scope, marks) = found_by(body, self.org);
        self.text_insert_memory(id, scope, &marks, &body.text());
    }

    /// Makes a memory findable as it is now, and no longer as it was.
    pub fn memory_index_again(&mut self, id: MemoryId, was: &MemoryBody, body: &MemoryBody) {
        let org = self.org;
        if found_by(was, org) != found_by(body, org) || was.text() != body.text() {
            self.text_forget(id.to_bytes());
            self.memory_index(id, body);
        }
    }

    /// Deletes a memory of this version with what search knows of it.
    pub fn memory_delete(&mut self, id: MemoryId, version: i64) {
        self.resource_delete::<MemoryBody>(id, version);
        self.text_forget(id.to_bytes());
    }
}

impl Store {
    /// The memories with these ids, in their order, without those that are gone.
    pub async fn memory_get_each(
        &self,
        org: OrgId,
        ids: &[MemoryId],
    ) -> Result<Vec<Document<MemoryBody>>> {
        let bound = ids.iter().map(|id| values![org, *id]).collect();
        let found = self.scan_each(MemoryBody::statements().by_id(), bound, document).await?;
        Ok(found.into_iter().flatten().collect())
    }
}
