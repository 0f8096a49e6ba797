//! The embedded engine: one writer thread that commits in groups, and read
//! connections of their own.

mod reader;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentry_domain::{Code, Error};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, watch};

use crate::sql::{self, Sql};
use crate::value::Value;
use crate::write::{Write, Written};
use crate::{Activity, Map, Options, PoolActivity, Result, StoreError, backup};

use reader::Readers;
use writer::Writer;

pub(crate) mod migrations {
    refinery::embed_migrations!("migrations/sqlite");
}

/// The oldest SQLite whose WAL code is known to be sound for us.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// The database's file in the data directory.
pub(crate) const FILE_NAME: &str = "agentry.db";
/// Held by the process that serves the data directory.
pub(crate) const LOCK_NAME: &str = "lock";
/// How long to wait for a lock of the database's file that another program holds.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Statements kept prepared per connection; more than there are.
const STATEMENTS_CACHED_MAX: usize = 1_024;
/// Pages in the log before they are copied into the database. More pages share
/// the copying and its syncs; a start after a crash reads them again.
const CHECKPOINT_PAGES: i64 = 8_000;
/// What the writer keeps of the database, in KiB. Commits in which pages changed places
/// look through all of it: with four times as much a run cost a tenth more.
const WRITER_CACHE_KIB: i64 = 8_192;

/// The SQLite engine.
pub(crate) struct Engine {
    writer: Writer,
    readers: Arc<Readers>,
    /// The data directory.
    pub(crate) data: PathBuf,
    /// Given away while a backup is being made.
    pub(crate) backups: Arc<Semaphore>,
    _lock: File,
}

impl Engine {
    pub(crate) async fn open(options: &Options) -> Result<Self> {
        let options = options.clone();
        tokio::task::spawn_blocking(move || Self::open_blocking(&options))
            .await
            .map_err(|_| StoreError::Closed)?
    }

    fn open_blocking(options: &Options) -> Result<Self> {
        let version = rusqlite::version_number();
        if version < SQLITE_VERSION_MIN {
            return Err(StoreError::Bug(format!(
                "SQLite {version} is older than {SQLITE_VERSION_MIN}"
            )));
        }
        let unavailable = |error: std::io::Error| StoreError::Unavailable(error.into());
        std::fs::create_dir_all(&options.data).map_err(unavailable)?;
        let lock = lock(&options.data)?;
        backup::clear(&options.data).map_err(unavailable)?;
        let path = options.data.join(FILE_NAME);
        let mut connection = open_writer(&path)?;
        // Grouped: otherwise a migration and the note that it was made are two
        // transactions, and a crash between them makes it again over its own tables.
        migrations::migrations::runner()
            .set_grouped(true)
            .run(&mut connection)
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        for statement in statements() {
            connection.prepare_cached(statement.sqlite).map_err(|error| {
                StoreError::Bug(format!("{} does not prepare: {error}", statement.name))
            })?;
        }
        // The directory's entry of a new database must survive a power cut too.
        File::open(&options.data).and_then(|dir| dir.sync_all()).map_err(unavailable)?;
        let readers = Arc::new(Readers::open(path.clone())?);
        let writer = Writer::start(connection, path, options.writes_waiting_max)?;
        let backups = Arc::new(Semaphore::new(1));
        Ok(Self { writer, readers, data: options.data.clone(), backups, _lock: lock })
    }

    pub(crate) async fn write(&self, write: Write) -> Result<Written> {
        self.writer.write(write).await
    }

    pub(crate) fn rows<T>(&self, sql: &Sql, values: &[Value], map: Map<T>) -> Result<Vec<T>> {
        self.readers.rows(sql, values, map)
    }

    pub(crate) async fn scan_each<T: Send + 'static>(
        &self,
        sql: &'static Sql,
        lists: Vec<Vec<Value>>,
        map: Map<T>,
    ) -> Result<Vec<Vec<T>>> {
        Readers::scan_each(&self.readers, sql, lists, map).await
    }

    pub(crate) fn pools(&self) -> [PoolActivity; 2] {
        [self.readers.pool(), self.writer.pool()]
    }

    pub(crate) fn log_changed(&self) -> watch::Receiver<i64> {
        self.writer.log_changed()
    }

    pub(crate) fn activity(&self) -> Activity {
        self.writer.activity()
    }

    pub(crate) async fn close(&self) {
        self.writer.close().await;
        self.readers.close();
    }

    pub(crate) fn full_scans(&self) -> Result<Vec<String>> {
        self.readers.full_scans(statements())
    }
}

fn statements() -> impl Iterator<Item = &'static Sql> {
    sql::all().filter(|statement| !statement.sqlite.is_empty())
}

/// The newest migration that a database has seen; 0 when there was none.
pub(crate) fn schema(connection: &Connection) -> Result<i64> {
    let newest = "select coalesce(max(version), 0) from refinery_schema_history";
    Ok(connection.query_row(newest, [], |row| row.get(0))?)
}

/// The newest migration that this binary knows.
pub(crate) fn newest_schema() -> i64 {
    let runner = migrations::migrations::runner();
    runner.get_migrations().iter().map(|known| i64::from(known.version())).max().unwrap_or(0)
}

/// Takes a data directory for this process.
pub(crate) fn lock(data: &Path) -> Result<File> {
    let path = data.join(LOCK_NAME);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| StoreError::Unavailable(error.into()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Refused(Error::new(
            Code::StorageUnavailable,
            format!("another process serves {}", data.display()),
        ))),
        Err(TryLockError::Error(error)) => Err(StoreError::Unavailable(error.into())),
    }
}

pub(crate) fn open_writer(path: &PathBuf) -> Result<Connection> {
    let connection = Connection::open(path)?;
    prepare_connection(&connection)?;
    // FULL syncs the log of every commit, before the commit is answered.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    Ok(connection)
}

pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare_connection(&connection)?;
    connection.pragma_update(None, "cache_size", -4_096)?;
    Ok(connection)
}

fn prepare_connection(connection: &Connection) -> Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED_MAX);
    // Plans must not depend on bound values: with the statistics that SQLite is
    // built with, a statement with a range would be prepared anew for every
    // value, which measured a quarter of a list's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // A reader takes its memory map down after every commit of somebody else's;
    // doing so and faulting the pages in again measured half of a run's time.
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agents, goals, jobs, runs, sessions, tasks};

    /// A plan without a full scan can still walk an organisation's every row:
    /// without statistics SQLite may take the order of the key for worth more
    /// than a second column that is known.
    #[test]
    fn lookups_take_the_index_that_was_made_for_them() {
        let directory = agentry_testkit::TempDir::new();
        let path = directory.path().join(FILE_NAME);
        let mut connection = open_writer(&path).unwrap();
        migrations::migrations::runner().run(&mut connection).unwrap();
        let by = |name: &str| sql::all().find(|sql| sql.name == name).unwrap();
        for (sql, index) in [
            (by("session_by_user_id_desc"), "session_by_user_id (org=? AND user_id=? AND id<?)"),
            (by("agent_by_name_asc"), "agent_by_name (org=? AND name=? AND id>?)"),
            (&agents::AGENT_BY_NAME, "agent_by_name (org=? AND name=?)"),
            (by("agent_list_desc"), "PRIMARY KEY (org=? AND id<?)"),
            (by("agent_get"), "PRIMARY KEY (org=? AND id=?)"),
            (&sessions::SESSION_BY_NAME, "session_by_name (org=? AND name=?)"),
            (&sessions::SESSION_OF_USER, "session_by_name (org=? AND name=? AND user_id=?)"),
            (&runs::RUN_SESSION_DESC, "run_by_session (org=? AND session=? AND id<?)"),
            (by("goal_by_agent_id_asc"), "goal_by_agent_id (org=? AND agent_id=? AND id>?)"),
            (&goals::GOAL_TREE, "goal_by_parent_goal_id (org=? AND parent_goal_id=?)"),
            (&goals::GOAL_ABOVE, "PRIMARY KEY (org=? AND id=?)"),
            (&goals::GOAL_DELETE, "goal_by_parent_goal_id (org=? AND parent_goal_id=?)"),
            (&tasks::TASK_REACHED, "PRIMARY KEY (org=? AND task=?)"),
            (&tasks::TASK_DELETE, "task_dependency_by_needs (org=? AND needs=?)"),
            (&jobs::JOB_CLAIM, "job_waiting (org=? AND flow=? AND next_at<?)"),
            (&jobs::ORGS_WAITING, "job_waiting (org>?)"),
            (&jobs::FLOWS_WAITING, "job_waiting (org=? AND flow>?)"),
        ] {
            let mut explained =
                connection.prepare(&format!("explain query plan {}", sql.sqlite)).unwrap();
            let nulls = vec![Value::Null; explained.parameter_count()];
            let plan: Vec<String> = explained
                .query_map(rusqlite::params_from_iter(nulls), |row| row.get(3))
                .unwrap()
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            assert!(plan.iter().any(|step| step.contains(index)), "{}: {plan:?}", sql.name);
            let walks = |step: &String| step.ends_with("(org=?)");
            assert!(!plan.iter().any(walks), "{}: {plan:?}", sql.name);
        }
    }
}
