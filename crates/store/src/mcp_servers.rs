//! MCP servers in the store: their documents, and beside each its sealed secrets
//! and the catalogue of its tools.

use std::sync::LazyLock;

use agentry_domain::mcp_servers::{McpServerBody, McpState, McpStatus};
use agentry_domain::{Code, Document, Error, McpServerId, OrgId};

use crate::resources::{Column, Statements, Table, document, missing};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store};

statements! {
    MCP_ROOM = "select 1 where (select count(*) from mcp_server where org = $1) <= $2";
    MCP_BY_NAME = "select id, version, created_at, updated_at, shape, document from mcp_server \
        where org = $1 and name = $2";
    MCP_GET_MARKED = "select mcp_server.id, mcp_server.version, mcp_server.created_at, \
        mcp_server.updated_at, mcp_server.shape, mcp_server.document, mcp_state.revision, \
        mcp_state.epoch from mcp_server join mcp_state on mcp_state.org = mcp_server.org \
        and mcp_state.id = mcp_server.id where mcp_server.org = $1 and mcp_server.id = $2";
    STATE_INSERT = "insert into mcp_state (org, id, secrets, catalogue, revision, epoch) \
        values ($1, $2, $3, null, 0, 0)";
    STATE_SECRETS = "update mcp_state set secrets = $1 where org = $2 and id = $3";
    STATE_EPOCH = "update mcp_state set epoch = epoch + 1 where org = $1 and id = $2";
    STATE_CATALOGUE = "update mcp_state set catalogue = $1, revision = revision + 1 \
        where org = $2 and id = $3 and revision = $4";
    STATE_GET = "select secrets, catalogue, revision, epoch from mcp_state \
        where org = $1 and id = $2";
    STATE_MARKS = "select revision, epoch from mcp_state where org = $1 and id = $2";
    STATE_DELETE = "delete from mcp_state where org = $1 and id = $2";
}

/// Which MCP servers a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct McpServerFilter {
    /// Exactly this name.
    pub name: Option<String>,
    /// In this status.
    pub status: Option<McpStatus>,
}

impl Table for McpServerBody {
    const TABLE: &'static str = "mcp_server";
    const COLUMNS: &'static [Column] = &[Column::filter("name"), Column::filter("status")];
    const COUNTER: &'static str = "mcp_servers";
    type Filter = McpServerFilter;

    fn columns(&self) -> Vec<Value> {
        values![&self.name, self.status.as_str()]
    }

    fn asked(filter: &McpServerFilter) -> Vec<Value> {
        values![
            filter.name.as_ref(),
            filter.status.map_or(Value::Null, |status| Value::Static(status.as_str())),
        ]
    }

    fn taken() -> Error {
        Error::new(Code::AlreadyExists, "another MCP server has this name")
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<McpServerBody>);
        &STATEMENTS
    }
}

/// What tells whether what one has of a server is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McpMarks {
    /// [`McpState::revision`].
    pub revision: i64,
    /// [`McpState::epoch`].
    pub epoch: i64,
}

impl Write {
    /// Stores what a new server has beside its document. Guard: its organisation has
    /// no more than `servers_max`.
    pub fn mcp_state_insert(&mut self, id: McpServerId, secrets: Option<&[u8]>, servers_max: u32) {
        let room = Probe::always(move || {
            let detail = format!("an organisation may have {servers_max} MCP servers");
            Error::new(Code::QuotaExceeded, detail)
        });
        self.add(&MCP_ROOM, values![self.org, servers_max]).expect_one(room);
        self.add(&STATE_INSERT, values![self.org, id, secrets.map(<[u8]>::to_vec)]);
    }

    /// Stores other secrets of a server.
    pub fn mcp_secrets_set(&mut self, id: McpServerId, secrets: Option<&[u8]>) {
        self.add(&STATE_SECRETS, values![secrets.map(<[u8]>::to_vec), self.org, id]);
    }

    /// Says that connections to a server that were made before are to be made anew.
    pub fn mcp_connections_end(&mut self, id: McpServerId) {
        self.add(&STATE_EPOCH, values![self.org, id]);
    }

    /// Stores the catalogue of a server, if nothing came between it and this revision.
    pub fn mcp_catalogue_set(&mut self, id: McpServerId, catalogue: &str, revision: i64) {
        let changed = || Error::new(Code::PreconditionFailed, "the catalogue has changed");
        self.add(&STATE_CATALOGUE, values![catalogue.to_owned(), self.org, id, revision])
            .expect_one(Probe::always(changed));
    }

    /// Deletes a server with all that it has.
    pub fn mcp_server_delete(&mut self, id: McpServerId, version: i64) {
        self.resource_delete::<McpServerBody>(id, version);
        self.add(&STATE_DELETE, values![self.org, id]);
    }
}

impl Store {
    /// The server with this name.
    pub async fn mcp_server_by_name(
        &self,
        org: OrgId,
        name: &str,
    ) -> Result<Option<Document<McpServerBody>>> {
        self.point(&MCP_BY_NAME, values![org, name.to_owned()], document).await
    }

    /// A server, and what tells whether what one has of it is current: one read for a call.
    pub async fn mcp_server_marked(
        &self,
        org: OrgId,
        id: McpServerId,
    ) -> Result<Option<(Document<McpServerBody>, McpMarks)>> {
        self.point(&MCP_GET_MARKED, values![org, id], |row| {
            let found = document(row)?;
            Ok((found, McpMarks { revision: row.int()?, epoch: row.int()? }))
        })
        .await
    }

    /// What a server has beside its document.
    pub async fn mcp_state(&self, org: OrgId, id: McpServerId) -> Result<McpState> {
        let found = self.point(&STATE_GET, values![org, id], state).await?;
        found.ok_or_else(|| missing::<McpServerBody>(id).into())
    }

    /// Whether what one has of a server is current.
    pub async fn mcp_marks(&self, org: OrgId, id: McpServerId) -> Result<McpMarks> {
        let found = self.point(&STATE_MARKS, values![org, id], |row| {
            Ok(McpMarks { revision: row.int()?, epoch: row.int()? })
        });
        found.await?.ok_or_else(|| missing::<McpServerBody>(id).into())
    }
}

fn state(row: &mut Columns<'_>) -> Result<McpState> {
    Ok(McpState {
        secrets: row.opt_bytes()?,
        catalogue: row.opt_text()?,
        revision: row.int()?,
        epoch: row.int()?,
    })
}
