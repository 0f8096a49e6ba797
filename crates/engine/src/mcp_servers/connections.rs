//! The connections to MCP servers of this process: made when one is needed, once
//! for all who need it, kept while they stand, and made anew when the server is
//! configured otherwise. After a failure a server is left alone for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::mcp_servers::{McpServer, McpServerBody, McpStatus};
use agentry_domain::{Code, Error, McpServerId, OrgId, Result};
use agentry_mcp::Connection;
use agentry_store::McpMarks;
use agentry_store::resources::missing;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::{Catalogue, target};
use crate::Engine;

/// The first pause after a server could not be connected; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a caller waits before trying again when there are too many connections.
const RETRY_FULL: Duration = Duration::from_secs(1);

type Slots = HashMap<(OrgId, McpServerId), Arc<Slot>>;

/// The connections of this process.
pub(crate) struct Connections {
    slots: Mutex<Slots>,
    connections_max: usize,
    server_calls_max: usize,
    /// What came of a claimed call was stored.
    pub(super) settled: Notify,
}

/// What this process has of one server.
pub(crate) struct Slot {
    /// Held by whoever connects.
    connecting: tokio::sync::Mutex<()>,
    /// Places for calls.
    pub(super) calls: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    catalogue: Option<Arc<Catalogue>>,
    failure: Option<FailedBefore>,
}

/// A connection that stands, and when it was made.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) connection: Connection,
    epoch: i64,
    /// Of the catalogue, when this was asked for.
    pub(super) revision: i64,
    pub(super) slot: Arc<Slot>,
}

/// A server as it stands in the store.
pub(crate) struct Known {
    pub(crate) server: McpServer,
    marks: McpMarks,
}

struct FailedBefore {
    epoch: i64,
    pause: Duration,
    until: Instant,
    code: Code,
    detail: String,
}

impl Connections {
    pub(crate) fn new(connections_max: usize, server_calls_max: usize) -> Self {
        let settled = Notify::new();
        Self { slots: Mutex::default(), connections_max, server_calls_max, settled }
    }

    /// What this process has of a server; a new one only if there is room.
    fn slot(&self, org: OrgId, id: McpServerId) -> Result<Arc<Slot>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&(org, id)) {
            return Ok(Arc::clone(slot));
        }
        if slots.len() >= self.connections_max {
            slots.retain(|_, slot| slot.is_used());
        }
        if slots.len() >= self.connections_max {
            let max = self.connections_max;
            let detail = format!("this process has {max} connections to MCP servers already");
            return Err(Error::new(Code::Overloaded, detail).retry_after(RETRY_FULL));
        }
        let slot = Arc::new(Slot {
            connecting: tokio::sync::Mutex::new(()),
            calls: Semaphore::new(self.server_calls_max),
            state: Mutex::default(),
        });
        slots.insert((org, id), Arc::clone(&slot));
        Ok(slot)
    }

    /// What was last read of a server's catalogue here.
    pub(crate) fn catalogue(&self, org: OrgId, id: McpServerId) -> Option<Arc<Catalogue>> {
        self.slots.lock().get(&(org, id))?.catalogue()
    }

    /// Lets go of a server.
    pub(crate) fn let_go(&self, org: OrgId, id: McpServerId) {
        let slot = self.slots.lock().remove(&(org, id));
        if let Some(slot) = slot {
            slot.let_go();
        }
    }

    /// Lets go of a server, and waits until nothing is left of it.
    pub(crate) async fn end(&self, org: OrgId, id: McpServerId) {
        let slot = self.slots.lock().remove(&(org, id));
        let open = slot.and_then(|slot| slot.let_go());
        if let Some(open) = open {
            open.connection.ended().await;
        }
    }
}

impl Slot {
    /// Whether it stands, or somebody is at it.
    fn is_used(self: &Arc<Self>) -> bool {
        let is_open = self.state.lock().open.as_ref().is_some_and(|open| open.connection.is_open());
        is_open || Arc::strong_count(self) > 1
    }

    fn let_go(&self) -> Option<Open> {
        let open = self.state.lock().open.take();
        if let Some(open) = &open {
            open.connection.close();
        }
        open
    }

    pub(super) fn catalogue(&self) -> Option<Arc<Catalogue>> {
        self.state.lock().catalogue.clone()
    }

    pub(super) fn catalogue_set(&self, catalogue: Arc<Catalogue>) {
        self.state.lock().catalogue = Some(catalogue);
    }

    fn standing(&self, epoch: i64) -> Option<Open> {
        let state = self.state.lock();
        state.open.clone().filter(|open| open.epoch == epoch && open.connection.is_open())
    }

    /// Why it is not worth trying yet.
    fn left_alone(&self, epoch: i64) -> Option<Error> {
        let state = self.state.lock();
        let failed = state.failure.as_ref().filter(|it| it.epoch == epoch)?;
        let rest = failed.until.checked_duration_since(Instant::now())?;
        Some(Error::new(failed.code, failed.detail.clone()).retry_after(rest))
    }

    fn failed(&self, epoch: i64, error: &Error) {
        let mut state = self.state.lock();
        let before = state.failure.as_ref().filter(|it| it.epoch == epoch);
        let pause = before.map_or(PAUSE_FIRST, |it| (it.pause * 2).min(PAUSE_MAX));
        state.failure = Some(FailedBefore {
            epoch,
            pause,
            until: Instant::now() + pause,
            code: error.code,
            detail: error.detail.clone().into_owned(),
        });
    }
}

impl Engine {
    /// A server that is to be used.
    pub(crate) async fn mcp_known(&self, org: OrgId, id: McpServerId) -> Result<Known> {
        let found = self.0.store.mcp_server_marked(org, id).await?;
        let (server, marks) = found.ok_or_else(|| missing::<McpServerBody>(id))?;
        Ok(Known { server: server.entity()?, marks })
    }

    /// A connection to a server that is to be used.
    pub(crate) async fn mcp_open(
        &self,
        org: OrgId,
        Known { server, marks }: &Known,
        deadline: Instant,
    ) -> Result<Open> {
        if server.status == McpStatus::Stopped {
            let detail = format!("the MCP server {:?} is stopped; start it first", server.name);
            return Err(Error::new(Code::McpServerStopped, detail));
        }
        let (marks, slot) = (*marks, self.0.mcp.slot(org, server.id)?);
        if let Some(open) = slot.standing(marks.epoch) {
            return Ok(Open { revision: marks.revision, ..open });
        }
        if let Some(error) = slot.left_alone(marks.epoch) {
            return Err(error);
        }
        self.mcp_connect(org, server, &slot, marks, deadline).await
    }

    /// The same, whatever the status says and however often it failed.
    pub(super) async fn mcp_connected(
        &self,
        org: OrgId,
        server: &McpServer,
        deadline: Instant,
    ) -> Result<Open> {
        let marks = self.0.store.mcp_marks(org, server.id).await?;
        let slot = self.0.mcp.slot(org, server.id)?;
        self.mcp_connect(org, server, &slot, marks, deadline).await
    }

    async fn mcp_connect(
        &self,
        org: OrgId,
        server: &McpServer,
        slot: &Arc<Slot>,
        McpMarks { revision, epoch }: McpMarks,
        deadline: Instant,
    ) -> Result<Open> {
        let timed_out = || Error::new(Code::McpTimeout, "the MCP server was not connected in time");
        let connecting = tokio::time::timeout_at(deadline, slot.connecting.lock()).await;
        let _connecting = connecting.map_err(|_| timed_out())?;
        if let Some(open) = slot.standing(epoch) {
            return Ok(Open { revision, ..open });
        }
        let target = target(server, self.mcp_secrets(org, server.id).await?)?;
        let within = deadline.min(Instant::now() + self.0.options.mcp.connect_timeout);
        match self.0.mcp_connector.connect(target, within).await {
            Ok(connection) => {
                let open = Open { connection, epoch, revision, slot: Arc::clone(slot) };
                let before = {
                    let mut state = slot.state.lock();
                    state.failure = None;
                    state.catalogue = None;
                    state.open.replace(open.clone())
                };
                if let Some(before) = before {
                    before.connection.close();
                }
                let (engine, server, kept) = (self.clone(), server.id, open.clone());
                self.0.tasks.spawn(async move {
                    engine.mcp_catalogue_keep(org, server, kept).await;
                });
                Ok(open)
            }
            Err(error) => {
                slot.failed(epoch, &error);
                Err(error)
            }
        }
    }
}
