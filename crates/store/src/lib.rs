//! Durable state. Reads, writes as values, jobs and the log, on SQLite (one
//! machine, nothing else installed) or PostgreSQL (several replicas).
//!
//! Promises: a [`Store::write`] that returns `Ok` is on disk; a write takes
//! effect as a whole or not at all; a read that begins after a write was
//! acknowledged sees it; nothing is asked without an organisation, but for the
//! few calls whose name says that they work for the whole installation.
//! It makes no ids and tells no time: callers bring both.

mod admin_jobs;
pub mod agents;
pub mod asks;
pub mod audit;
pub mod backup;
mod counters;
pub mod doctor;
pub mod episodes;
mod error;
pub mod facts;
pub mod files;
pub mod goals;
pub mod graph;
pub mod idempotency;
pub mod jobs;
pub mod keys;
mod lists;
mod log;
pub mod mcp_servers;
pub mod memories;
mod messages;
#[cfg(test)]
mod migrated;
pub mod orgs;
pub mod plans;
mod pools;
mod postgres;
mod purges;
mod quotas;
pub mod resources;
mod run_changes;
mod run_chunks;
mod run_tools;
pub mod runs;
mod sealing;
pub mod sessions;
mod sql;
mod sqlite;
pub mod tasks;
pub mod text;
mod tickets;
mod token_holders;
mod turns;
pub mod users;
pub mod value;
pub mod vectors;
mod webhooks;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentry_domain::Code;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tracing::Instrument as _;

pub use agents::AgentFilter;
pub use asks::{Ask, Asking, StoredAnswer};
pub use audit::{AUDIT_FOLLOWER, AuditFilter, AuditVerdict};
pub use episodes::{GraphBacklog, Mention, NodeMerge, NodeNamed, OldEpisode};
pub use error::StoreError;
pub use facts::{FactClose, FactFilter};
pub use goals::{GoalFilter, GoalNode};
pub use graph::{NameMatch, Outward};
pub use jobs::{ClaimedJob, Flow, LaneJob, NewJob, Share, Turns};
pub use keys::KeyFilter;
pub use log::LogKeep;
pub use mcp_servers::{McpMarks, McpServerFilter};
pub use memories::{MemoryFilter, MemorySought};
pub use orgs::OrgFilter;
pub use plans::PlanFilter;
pub use pools::PoolActivity;
pub use purges::{Contents, OldRun, OldSession};
pub use resources::Table;
pub use run_changes::RunsChanged;
pub use run_chunks::{RunChunk, RunProgress};
pub use runs::RunFilter;
pub use sessions::SessionFilter;
pub use tasks::TaskFilter;
pub use text::{Hit, Mark, PoolDocument, Scope, Sought, TextPool};
pub use tickets::Ticket;
pub use users::UserFilter;
pub use vectors::EpisodeVector;
pub use webhooks::{FeedMove, WEBHOOK_FOLLOWER, WebhookFilter};
pub use write::{Urgency, Write, Written};

use sql::Sql;
use value::{Columns, Value};

/// The result of a store call.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// How one row becomes a thing.
pub(crate) type Map<T> = fn(&mut Columns<'_>) -> Result<T>;

/// Where the state is kept, and the bounds.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the SQLite database; created when missing.
    pub data: PathBuf,
    /// A `postgres://` URL; when given, the state is there instead.
    pub database: Option<String>,
    /// Writes that may wait at once; the next one is refused with `overloaded`.
    pub writes_waiting_max: usize,
    /// Connections to PostgreSQL for reads.
    pub postgres_readers_max: usize,
    /// Connections to PostgreSQL for writes.
    pub postgres_writers_max: usize,
}

impl Options {
    /// An SQLite store in this directory, with the default bounds.
    pub fn sqlite(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            database: None,
            writes_waiting_max: 10_000,
            postgres_readers_max: 16,
            postgres_writers_max: 4,
        }
    }

    /// A PostgreSQL store at this URL, with the default bounds.
    pub fn postgres(url: impl Into<String>) -> Self {
        Self { database: Some(url.into()), ..Self::sqlite("") }
    }
}

/// What the store did so far, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Transactions that were committed.
    pub commits: u64,
    /// Writes that were applied; over `commits` it is the mean group.
    pub writes: u64,
    /// Writes that a guard refused.
    pub refused: u64,
    /// Writes that failed with the storage.
    pub failed: u64,
    /// Writes that wait now.
    pub waiting: u64,
}

/// The store. Shared by reference; [`Store::close`] ends it.
pub struct Store {
    engine: Engine,
}

/// Takes a data directory, so that nobody serves it as long as the file is
/// open; none when another process has it.
pub fn lock(data: &Path) -> Result<Option<File>> {
    match sqlite::lock(data) {
        Ok(lock) => Ok(Some(lock)),
        Err(StoreError::Refused(error)) if error.code == Code::StorageUnavailable => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there is an embedded database in this data directory.
pub fn exists(data: &Path) -> bool {
    data.join(sqlite::FILE_NAME).is_file()
}

enum Engine {
    Sqlite(sqlite::Engine),
    Postgres(Box<postgres::Engine>),
}

impl Store {
    /// Opens the store: checks versions, migrates, prepares every statement and
    /// warms the connections.
    pub async fn open(options: &Options) -> Result<Self> {
        let engine = match &options.database {
            None => Engine::Sqlite(sqlite::Engine::open(options).await?),
            Some(url) => Engine::Postgres(Box::new(postgres::Engine::open(url, options).await?)),
        };
        Ok(Self { engine })
    }

    /// Applies a write. `Ok` says that it is on disk as a whole; an error, that
    /// nothing of it is, unless the storage itself failed while it committed.
    ///
    /// When the returned future is dropped before the write's turn, it is not
    /// applied.
    pub async fn write(&self, write: Write) -> Result<Written> {
        let span = tracing::trace_span!(target: "traces", "store.write");
        let writing = async {
            match &self.engine {
                Engine::Sqlite(engine) => engine.write(write).await,
                Engine::Postgres(engine) => engine.write(write).await,
            }
        };
        writing.instrument(span).await
    }

    /// Reads at most one row by its key.
    pub(crate) async fn point<T: Send + 'static>(
        &self,
        sql: &'static Sql,
        values: Vec<Value>,
        map: Map<T>,
    ) -> Result<Option<T>> {
        Ok(self.rows(sql, values, map).await?.pop())
    }

    /// Reads a few rows by their key; on SQLite on the calling thread.
    pub(crate) async fn rows<T: Send + 'static>(
        &self,
        sql: &'static Sql,
        values: Vec<Value>,
        map: Map<T>,
    ) -> Result<Vec<T>> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.rows(sql, &values, map),
            Engine::Postgres(engine) => engine.rows(sql, &values, map).await,
        }
    }

    /// Reads many rows; on SQLite on a thread of its own. Dropping the future
    /// ends the work.
    pub(crate) async fn scan<T: Send + 'static>(
        &self,
        sql: &'static Sql,
        values: Vec<Value>,
        map: Map<T>,
    ) -> Result<Vec<T>> {
        Ok(self.scan_each(sql, vec![values], map).await?.pop().unwrap_or_default())
    }

    /// Runs one statement for each list of values, in one go.
    pub(crate) async fn scan_each<T: Send + 'static>(
        &self,
        sql: &'static Sql,
        lists: Vec<Vec<Value>>,
        map: Map<T>,
    ) -> Result<Vec<Vec<T>>> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.scan_each(sql, lists, map).await,
            Engine::Postgres(engine) => engine.scan_each(sql, &lists, map).await,
        }
    }

    /// Changes whenever the log may have grown. A hint: it carries the head as
    /// far as this process knows it.
    pub fn log_changed(&self) -> watch::Receiver<i64> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.log_changed(),
            Engine::Postgres(engine) => engine.log_changed(),
        }
    }

    /// Says which runs other processes, or this one, have begun, added text to or
    /// ended. A hint, soon after the commit. None when no other process shares the
    /// store, and there is nothing to be told.
    pub fn runs_changed(&self) -> Option<broadcast::Receiver<RunsChanged>> {
        match &self.engine {
            Engine::Sqlite(_) => None,
            Engine::Postgres(engine) => Some(engine.runs_changed()),
        }
    }

    /// Whether the storage answers.
    pub async fn ping(&self) -> Result<()> {
        self.log_head().await.map(|_| ())
    }

    /// What the store did so far.
    pub fn activity(&self) -> Activity {
        match &self.engine {
            Engine::Sqlite(engine) => engine.activity(),
            Engine::Postgres(engine) => engine.activity(),
        }
    }

    /// How its pools stand: what scans, and what writes. Short reads wait for nobody:
    /// they share sessions (PostgreSQL) or run where their caller is (SQLite).
    pub fn pools(&self) -> [PoolActivity; 2] {
        match &self.engine {
            Engine::Sqlite(engine) => engine.pools(),
            Engine::Postgres(engine) => engine.pools(),
        }
    }

    /// Whether this is the embedded engine.
    pub fn is_sqlite(&self) -> bool {
        matches!(self.engine, Engine::Sqlite(_))
    }

    /// The data directory of the embedded engine.
    fn sqlite_data(&self) -> Option<&Path> {
        match &self.engine {
            Engine::Sqlite(engine) => Some(&engine.data),
            Engine::Postgres(_) => None,
        }
    }

    /// The right to make a backup, which one at a time has.
    fn backups(&self) -> Option<OwnedSemaphorePermit> {
        match &self.engine {
            Engine::Sqlite(engine) => Arc::clone(&engine.backups).try_acquire_owned().ok(),
            Engine::Postgres(_) => None,
        }
    }

    /// Finishes the writes that wait and closes the store; later calls fail.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(engine) => engine.close().await,
            Engine::Postgres(engine) => engine.close().await,
        }
    }

    /// Checks that no list, filter or claim reads a whole table that it was not
    /// meant to read: the names of the statements that do, with their plans.
    pub async fn full_scans(&self) -> Result<Vec<String>> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.full_scans(),
            Engine::Postgres(engine) => engine.full_scans().await,
        }
    }
}
