//! The scale-out engine: PostgreSQL, shared by several processes.
//!
//! Writes wait in one queue; a few writers take them in groups, one transaction
//! each (`writer`, `group`). A commit without an answer is settled by a mark that
//! the transaction itself left (`marks`). Short reads share sessions, scans have
//! their own (`reader`). One process at a time numbers the log and folds the
//! counters (`keeper`). Sessions that are lost are replaced by whoever uses them.

mod connect;
mod explain;
mod group;
mod keeper;
mod marks;
mod pipeline;
mod queue;
mod reader;
mod tls;
mod values;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::run_changes::RunsChanged;
use crate::sql::Sql;
use crate::value::Value;
use crate::write::{Write, Written};
use crate::{Activity, Map, Options, PoolActivity, Result, StoreError};

use connect::Purpose;
pub(crate) use connect::Target;
use keeper::{Keeper, Signal};
use queue::Queue;
use reader::Readers;
use writer::Writer;

pub(crate) mod migrations {
    refinery::embed_migrations!("migrations/postgres");
}

/// Held while a process migrates, so that replicas may start at once; an
/// arbitrary number, per database.
const MIGRATION_LOCK: i64 = 0x6167_656e_7472_7902;
/// How long sessions may take to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// Statements that only this engine has.
pub(crate) fn statements() -> impl Iterator<Item = &'static Sql> {
    [marks::STATEMENTS, keeper::STATEMENTS].into_iter().flatten().copied()
}

/// The PostgreSQL engine.
pub(crate) struct Engine {
    target: Target,
    queue: Arc<Queue>,
    readers: Readers,
    writers: u64,
    signal: Arc<Signal>,
}

impl Engine {
    pub(crate) async fn open(url: &str, options: &Options) -> Result<Self> {
        let target = Target::parse(url)?;
        migrate(&target).await?;
        let queue = Arc::new(Queue::new(options.writes_waiting_max));
        let signal = Arc::new(Signal::new());
        let mut writers = Vec::new();
        for _ in 0..options.postgres_writers_max.max(1) {
            let (target, queue, signal) = (target.clone(), Arc::clone(&queue), Arc::clone(&signal));
            writers.push(Writer::open(target, queue, signal).await?);
        }
        let readers = Readers::open(target.clone(), options.postgres_readers_max).await?;
        let writers_count = writers.len() as u64;
        for writer in writers {
            target.tasks.spawn(writer.run());
        }
        target.tasks.spawn(Keeper::new(target.clone(), Arc::clone(&signal)).run());
        Ok(Self { target, queue, readers, writers: writers_count, signal })
    }

    pub(crate) async fn write(&self, write: Write) -> Result<Written> {
        self.queue.write(write).await
    }

    pub(crate) async fn rows<T>(
        &self,
        sql: &'static Sql,
        values: &[Value],
        map: Map<T>,
    ) -> Result<Vec<T>> {
        self.readers.rows(sql, values, map).await
    }

    pub(crate) async fn scan_each<T>(
        &self,
        sql: &'static Sql,
        lists: &[Vec<Value>],
        map: Map<T>,
    ) -> Result<Vec<Vec<T>>> {
        self.readers.scan_each(sql, lists, map).await
    }

    pub(crate) fn log_changed(&self) -> watch::Receiver<i64> {
        self.signal.head()
    }

    pub(crate) fn runs_changed(&self) -> broadcast::Receiver<RunsChanged> {
        self.signal.runs.heard()
    }

    pub(crate) fn activity(&self) -> Activity {
        self.queue.activity()
    }

    pub(crate) fn pools(&self) -> [PoolActivity; 2] {
        [self.readers.pool(), self.queue.pool(self.writers)]
    }

    pub(crate) async fn close(&self) {
        // The writers' sessions end with the last write, the others now.
        self.queue.close();
        self.readers.close();
        if !self.target.tasks.stop(CLOSE_WITHIN).await {
            tracing::warn!("sessions with the database were still open");
        }
    }

    pub(crate) async fn full_scans(&self) -> Result<Vec<String>> {
        explain::full_scans(&self.target).await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
        self.target.tasks.stopping().cancel();
    }
}

/// The newest migration that this binary knows.
pub(crate) fn newest_schema() -> i64 {
    let runner = migrations::migrations::runner();
    runner.get_migrations().iter().map(|known| i64::from(known.version())).max().unwrap_or(0)
}

/// Brings the tables up to date, alone.
async fn migrate(target: &Target) -> Result<()> {
    let mut client = target.connect(Purpose::Migrate, |_| ()).await?;
    // Freed with the session, however it ends.
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    // Grouped: otherwise a migration and the note that it was made are two
    // transactions, and a crash between them makes it again over its own tables.
    migrations::migrations::runner()
        .set_grouped(true)
        .run_async(&mut client)
        .await
        .map(drop)
        .map_err(|error| StoreError::Unavailable(error.into()))
}
