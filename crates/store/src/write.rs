//! Writes are values: a short list of statements with what each must do, the
//! log entries and counts that belong to them. One `Write` is applied as a
//! whole or not at all, and no code of the caller runs inside the transaction.

use agentry_domain::log::LogEntry;
use agentry_domain::{Error, OrgId, RunId};

use crate::sql::Sql;
use crate::value::Value;

/// What a statement must do for the write to stand.
pub(crate) enum Expect {
    /// Anything.
    Any,
    /// Change or return exactly one row; otherwise the probe says why not.
    One(Probe),
}

/// Asked when a guard failed: reads at most one row and says what was wrong.
pub(crate) struct Probe {
    /// What to read; none when the verdict needs nothing.
    pub(crate) read: Option<(&'static Sql, Vec<Value>)>,
    /// Turns the row's first column, if there is a row, into the error.
    pub(crate) verdict: Box<dyn Fn(Option<i64>) -> Error + Send + Sync>,
}

impl Probe {
    /// A guard whose failure means one thing.
    pub(crate) fn always(verdict: impl Fn() -> Error + Send + Sync + 'static) -> Self {
        Self { read: None, verdict: Box::new(move |_| verdict()) }
    }

    /// A guard whose failure is told by a number read in its place.
    pub(crate) fn read(
        sql: &'static Sql,
        values: Vec<Value>,
        verdict: impl Fn(Option<i64>) -> Error + Send + Sync + 'static,
    ) -> Self {
        Self { read: Some((sql, values)), verdict: Box::new(verdict) }
    }
}

/// One statement of a write.
pub(crate) struct Statement {
    pub(crate) sql: &'static Sql,
    pub(crate) values: Vec<Value>,
    pub(crate) expect: Expect,
    /// What a taken unique value means here.
    pub(crate) taken: Option<Box<dyn Fn() -> Error + Send + Sync>>,
    /// Whether the rows that it returns are wanted.
    pub(crate) returns: bool,
}

/// A change of a counter. On SQLite it is made in the same transaction; on
/// PostgreSQL it is appended and folded within a second.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct CounterKey {
    pub(crate) org: OrgId,
    pub(crate) kind: &'static str,
    pub(crate) key: Vec<u8>,
}

/// How urgent a write is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Urgency {
    /// What this process keeps its runs by: goes first, and is never one too many.
    Lease,
    /// A client waits for it.
    #[default]
    Interactive,
    /// Imports, clean-up: goes after every interactive write that waits.
    Bulk,
}

/// A list of statements that take effect together.
pub struct Write {
    pub(crate) org: OrgId,
    pub(crate) statements: Vec<Statement>,
    /// Run after the statements of every write of the group: full-text rows,
    /// which FTS5 would otherwise flush at each savepoint.
    pub(crate) full_text: Vec<(&'static Sql, Vec<Value>)>,
    pub(crate) log: Vec<LogEntry>,
    pub(crate) counts: Vec<(CounterKey, i64)>,
    pub(crate) urgency: Urgency,
    /// The run that it ends has no text in chunks.
    pub(crate) without_chunks: bool,
    /// The run that it ends has no calls of tools that are kept apart.
    pub(crate) without_tools: bool,
    /// The run that whoever follows it, in any process, should look at again.
    pub(crate) run_changed: Option<RunId>,
    /// The row that other writes may want at the same time: a lane, a session,
    /// an agent. PostgreSQL applies the writes of a group in this order, so that
    /// two groups do not wait for each other in a circle.
    pub(crate) contended: [u8; 16],
}

impl Write {
    /// A write within one organisation that does nothing yet.
    pub fn new(org: OrgId) -> Self {
        Self {
            org,
            statements: Vec::with_capacity(8),
            full_text: Vec::new(),
            log: Vec::with_capacity(2),
            counts: Vec::with_capacity(2),
            urgency: Urgency::Interactive,
            without_chunks: false,
            without_tools: false,
            run_changed: None,
            contended: [0; 16],
        }
    }

    /// The same write, after every interactive one that waits.
    pub fn bulk(mut self) -> Self {
        self.urgency = Urgency::Bulk;
        self
    }

    /// The same write, before every other that waits, and even when no other is
    /// taken any more.
    pub(crate) fn lease(mut self) -> Self {
        self.urgency = Urgency::Lease;
        self
    }

    /// The organisation it is within.
    pub fn org(&self) -> OrgId {
        self.org
    }

    /// Appends an entry to the log, in the order of the calls.
    pub fn log(&mut self, entry: LogEntry) {
        self.log.push(entry);
    }

    pub(crate) fn add(&mut self, sql: &'static Sql, values: Vec<Value>) -> &mut Statement {
        self.statements.push(Statement {
            sql,
            values,
            expect: Expect::Any,
            taken: None,
            returns: false,
        });
        let last = self.statements.len() - 1;
        &mut self.statements[last]
    }

    /// Adds a statement before all others, whose places it moves by one; none of
    /// them may have been asked for its rows.
    pub(crate) fn add_first(&mut self, sql: &'static Sql, values: Vec<Value>) -> &mut Statement {
        debug_assert!(self.statements.iter().all(|statement| !statement.returns));
        let first = Statement { sql, values, expect: Expect::Any, taken: None, returns: false };
        self.statements.insert(0, first);
        &mut self.statements[0]
    }

    pub(crate) fn count(&mut self, kind: &'static str, key: &[u8], delta: i64) {
        self.counts.push((CounterKey { org: self.org, kind, key: key.to_vec() }, delta));
    }

    /// Says that a run was begun, goes on or has ended.
    pub(crate) fn run_changed(&mut self, run: RunId) {
        self.run_changed = Some(run);
    }

    /// The same for the whole installation, under the organisation of none.
    pub(crate) fn count_in_all(&mut self, kind: &'static str, delta: i64) {
        let org = OrgId::from_bytes([0; 16]);
        self.counts.push((CounterKey { org, kind, key: Vec::new() }, delta));
    }

    /// Says which row others may want too; the first one counts.
    pub(crate) fn contend(&mut self, row: [u8; 16]) {
        if self.contended == [0; 16] {
            self.contended = row;
        }
    }

    /// How many statements it has so far: the place of the next one's rows in
    /// [`Written::rows`].
    pub(crate) fn next(&self) -> usize {
        self.statements.len()
    }
}

impl Statement {
    pub(crate) fn expect_one(&mut self, probe: Probe) -> &mut Self {
        self.expect = Expect::One(probe);
        self
    }

    pub(crate) fn taken_means(
        &mut self,
        error: impl Fn() -> Error + Send + Sync + 'static,
    ) -> &mut Self {
        self.taken = Some(Box::new(error));
        self
    }

    pub(crate) fn returning(&mut self) -> &mut Self {
        self.returns = true;
        self
    }
}

/// What a write returned: the rows of each statement that was asked for them.
#[derive(Debug, Default, Clone)]
pub struct Written {
    pub(crate) rows: Vec<(usize, Vec<Vec<Value>>)>,
}

impl Written {
    /// The rows of the statement at this place.
    pub(crate) fn rows(&self, statement: usize) -> &[Vec<Value>] {
        self.rows
            .iter()
            .find(|(place, _)| *place == statement)
            .map_or(&[], |(_, rows)| rows.as_slice())
    }
}
