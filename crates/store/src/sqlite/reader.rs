//! Reads on SQLite: a stack of connections. Short reads run where the caller
//! is; scans run on blocking threads, and end when nobody waits for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rusqlite::{Connection, params_from_iter};
use tokio::sync::Semaphore;

use crate::pools::{PoolActivity, Waits};
use crate::sql::Sql;
use crate::value::{Columns, RowRef, Value};
use crate::{Map, Result, StoreError};

/// Scans at once; further ones wait.
const SCANS_MAX: usize = 8;
/// Connections that are opened at the start.
const WARM: usize = 4;
/// Virtual machine instructions between two looks whether a scan was given up.
const PROGRESS_INSTRUCTIONS: i32 = 10_000;

pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Reader>>,
    closed: AtomicBool,
    scans: Semaphore,
    waits: Waits,
}

struct Reader {
    connection: Connection,
    given_up: Arc<AtomicBool>,
}

/// Tells a scan that nobody waits for it any more.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Readers {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let readers = Self {
            path,
            idle: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
            scans: Semaphore::new(SCANS_MAX),
            waits: Waits::default(),
        };
        for _ in 0..WARM {
            let reader = readers.connect()?;
            for statement in super::statements().filter(|sql| sql.sqlite.starts_with("select")) {
                reader.connection.prepare_cached(statement.sqlite)?;
            }
            readers.idle.lock().push(reader);
        }
        Ok(readers)
    }

    fn connect(&self) -> Result<Reader> {
        let mut connection = super::open_reader(&self.path)?;
        let given_up = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&given_up);
        connection
            .progress_handler(PROGRESS_INSTRUCTIONS, Some(move || asked.load(Ordering::Relaxed)))?;
        Ok(Reader { connection, given_up })
    }

    fn take(&self) -> Result<Reader> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        let idle = self.idle.lock().pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    fn give_back(&self, reader: Reader) {
        // As many as ever read at once: callers on the runtime's threads and
        // `SCANS_MAX` scans, so the stack is bounded without a bound of its own.
        self.idle.lock().push(reader);
    }

    pub(super) fn rows<T>(&self, sql: &Sql, values: &[Value], map: Map<T>) -> Result<Vec<T>> {
        let reader = self.take()?;
        let rows = reader.rows(sql, values, map);
        self.give_back(reader);
        rows
    }

    pub(super) async fn scan_each<T: Send + 'static>(
        readers: &Arc<Self>,
        sql: &'static Sql,
        lists: Vec<Vec<Value>>,
        map: Map<T>,
    ) -> Result<Vec<Vec<T>>> {
        let waited = readers.waits.wait(readers.scans.acquire());
        let _permit = waited.await.map_err(|_| StoreError::Closed)?;
        let reader = readers.take()?;
        let owner = Arc::clone(readers);
        reader.given_up.store(false, Ordering::Relaxed);
        let give_up = GiveUp(Arc::clone(&reader.given_up));
        let scanned = tokio::task::spawn_blocking(move || {
            let found =
                lists.iter().map(|values| reader.rows(sql, values, map)).collect::<Result<_>>();
            (reader, found)
        })
        .await;
        drop(give_up);
        let (reader, found) = scanned.map_err(|_| StoreError::Closed)?;
        reader.given_up.store(false, Ordering::Relaxed);
        owner.give_back(reader);
        found
    }

    pub(super) fn pool(&self) -> PoolActivity {
        let in_use = SCANS_MAX.saturating_sub(self.scans.available_permits());
        self.waits.activity("scans", SCANS_MAX as u64, in_use as u64)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.idle.lock().clear();
    }

    pub(super) fn full_scans(
        &self,
        statements: impl Iterator<Item = &'static Sql>,
    ) -> Result<Vec<String>> {
        let reader = self.take()?;
        let mut found = Vec::new();
        for sql in statements.filter(|sql| !sql.scans) {
            let mut explained =
                reader.connection.prepare(&format!("explain query plan {}", sql.sqlite))?;
            let count = explained.parameter_count();
            let nulls = vec![Value::Null; count];
            let mut rows = explained.query(params_from_iter(nulls))?;
            while let Some(row) = rows.next()? {
                let detail: String = row.get(3)?;
                // A scan of a subquery's few rows, of a virtual table through its
                // own index or of a constant is none of a table.
                let whole = detail.starts_with("SCAN ")
                    && !detail.contains("VIRTUAL TABLE INDEX")
                    && !detail.contains("CONSTANT ROW")
                    && !detail.contains("USING INDEX")
                    && !detail.starts_with("SCAN (")
                    && !detail.starts_with("SCAN counted")
                    && !detail.starts_with("SCAN cut")
                    && !detail.starts_with("SCAN looked")
                    && !detail.starts_with("SCAN reached");
                if whole {
                    found.push(format!("{}: {detail}", sql.name));
                }
            }
        }
        self.give_back(reader);
        Ok(found)
    }
}

impl Reader {
    fn rows<T>(&self, sql: &Sql, values: &[Value], map: Map<T>) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql.sqlite)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(map(&mut Columns::new(RowRef::Sqlite(row)))?);
        }
        Ok(found)
    }
}
