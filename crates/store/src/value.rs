//! Values that go into statements and rows that come out, the same for both
//! engines.

use agentry_domain::{
    AgentId, EdgeId, EpisodeId, FactId, FileId, GoalId, JobId, KeyId, McpServerId, MemoryId,
    MessageId, NodeId, OrgId, PlanId, RunId, SessionId, TaskId, Timestamp, UserId, WebhookId,
    WorkerId,
};

use crate::error::StoreError;

/// A bound value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's null.
    Null,
    /// A whole number; booleans are 0 and 1, times microseconds.
    Int(i64),
    /// Any other number.
    Real(f64),
    /// A text without U+0000.
    Text(String),
    /// A static text.
    Static(&'static str),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An id.
    Id([u8; 16]),
}

macro_rules! value_from_id {
    ($($id:ty),*) => {$(
        impl From<$id> for Value {
            fn from(id: $id) -> Self {
                Value::Id(id.to_bytes())
            }
        }
        impl From<Option<$id>> for Value {
            fn from(id: Option<$id>) -> Self {
                id.map_or(Value::Null, Value::from)
            }
        }
    )*};
}
value_from_id!(
    AgentId,
    EdgeId,
    EpisodeId,
    FactId,
    FileId,
    GoalId,
    JobId,
    KeyId,
    McpServerId,
    MemoryId,
    MessageId,
    NodeId,
    OrgId,
    PlanId,
    RunId,
    SessionId,
    TaskId,
    UserId,
    WebhookId,
    WorkerId
);

impl From<i64> for Value {
    fn from(int: i64) -> Self {
        Value::Int(int)
    }
}

impl From<f64> for Value {
    fn from(real: f64) -> Self {
        Value::Real(real)
    }
}

impl From<u32> for Value {
    fn from(int: u32) -> Self {
        Value::Int(i64::from(int))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Int(i64::from(flag))
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Value::Int(time.micros())
    }
}

impl From<Option<Timestamp>> for Value {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Value::Null, Value::from)
    }
}

impl From<Option<u64>> for Value {
    fn from(int: Option<u64>) -> Self {
        int.map_or(Value::Null, |int| Value::Int(i64::try_from(int).unwrap_or(i64::MAX)))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Value::Text(text.clone())
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Value::Static(text)
    }
}

impl From<Option<&String>> for Value {
    fn from(text: Option<&String>) -> Self {
        text.map_or(Value::Null, Value::from)
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        text.map_or(Value::Null, Value::from)
    }
}

impl From<Option<&'static str>> for Value {
    fn from(text: Option<&'static str>) -> Self {
        text.map_or(Value::Null, Value::from)
    }
}

impl From<[u8; 16]> for Value {
    fn from(id: [u8; 16]) -> Self {
        Value::Id(id)
    }
}

impl From<Option<Vec<u8>>> for Value {
    fn from(value: Option<Vec<u8>>) -> Self {
        value.map_or(Value::Null, Value::from)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(bytes)
    }
}

/// Makes a list of bound values.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::value::Value::from($value)),*] };
}
pub(crate) use values;

/// A row of either engine.
pub(crate) enum RowRef<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

/// Reads a row's columns from left to right, in the order of the statement's
/// select list.
pub(crate) struct Columns<'a> {
    row: RowRef<'a>,
    next: usize,
}

type Read<T> = Result<T, StoreError>;

impl<'a> Columns<'a> {
    pub(crate) fn new(row: RowRef<'a>) -> Self {
        Self { row, next: 0 }
    }

    fn take<T>(&mut self) -> Read<T>
    where
        T: rusqlite::types::FromSql + for<'r> tokio_postgres::types::FromSql<'r>,
    {
        let index = self.next;
        self.next += 1;
        match &self.row {
            RowRef::Sqlite(row) => row.get(index).map_err(StoreError::from),
            RowRef::Postgres(row) => row.try_get(index).map_err(StoreError::from),
        }
    }

    pub(crate) fn int(&mut self) -> Read<i64> {
        let RowRef::Sqlite(row) = &self.row else { return self.take() };
        let int = row.get_ref(self.next)?;
        self.next += 1;
        int.as_i64().map_err(|_| StoreError::unreadable("a whole number"))
    }

    pub(crate) fn opt_int(&mut self) -> Read<Option<i64>> {
        self.take()
    }

    pub(crate) fn real(&mut self) -> Read<f64> {
        self.take()
    }

    pub(crate) fn text(&mut self) -> Read<String> {
        let RowRef::Sqlite(row) = &self.row else { return self.take() };
        let text = row.get_ref(self.next)?;
        self.next += 1;
        text.as_str().map(str::to_owned).map_err(|_| StoreError::unreadable("a text"))
    }

    pub(crate) fn opt_text(&mut self) -> Read<Option<String>> {
        self.take()
    }

    pub(crate) fn id(&mut self) -> Read<[u8; 16]> {
        let index = self.next;
        self.next += 1;
        match &self.row {
            RowRef::Sqlite(row) => {
                let bytes = row.get_ref(index).map_err(StoreError::from)?;
                to_id(bytes.as_blob().map_err(|_| StoreError::unreadable("an id"))?)
            }
            RowRef::Postgres(row) => to_id(row.try_get::<_, &[u8]>(index)?),
        }
    }

    pub(crate) fn bytes(&mut self) -> Read<Vec<u8>> {
        self.take()
    }

    pub(crate) fn opt_bytes(&mut self) -> Read<Option<Vec<u8>>> {
        self.take()
    }

    pub(crate) fn opt_id(&mut self) -> Read<Option<[u8; 16]>> {
        let index = self.next;
        self.next += 1;
        match &self.row {
            RowRef::Sqlite(row) => {
                let bytes = row.get_ref(index).map_err(StoreError::from)?;
                bytes
                    .as_blob_or_null()
                    .map_err(|_| StoreError::unreadable("an id"))?
                    .map(to_id)
                    .transpose()
            }
            RowRef::Postgres(row) => row.try_get::<_, Option<&[u8]>>(index)?.map(to_id).transpose(),
        }
    }

    pub(crate) fn time(&mut self) -> Read<Timestamp> {
        Ok(Timestamp::from_micros(self.int()?))
    }

    pub(crate) fn opt_time(&mut self) -> Read<Option<Timestamp>> {
        Ok(self.opt_int()?.map(Timestamp::from_micros))
    }
}

/// The row's one column, a whole number.
pub(crate) fn int(row: &mut Columns<'_>) -> Read<i64> {
    row.int()
}

/// The row's one column, a text.
pub(crate) fn text(row: &mut Columns<'_>) -> Read<String> {
    row.text()
}

fn to_id(bytes: &[u8]) -> Read<[u8; 16]> {
    bytes.try_into().map_err(|_| StoreError::unreadable("an id of 16 bytes"))
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Int(int) => ValueRef::Integer(*int),
            Value::Real(real) => ValueRef::Real(*real),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Static(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
            Value::Id(id) => ValueRef::Blob(id),
        }))
    }
}
