//! The scale-out engine: PostgreSQL, shared by several processes.

use tokio::sync::watch;

use crate::sql::Sql;
use crate::value::Value;
use crate::write::{Write, Written};
use crate::{Activity, Map, Options, Result};

pub(crate) struct Engine {}

impl Engine {
    pub(crate) async fn open(_url: &str, _options: &Options) -> Result<Self> {
        todo!()
    }
    pub(crate) async fn write(&self, _write: Write) -> Result<Written> {
        todo!()
    }
    pub(crate) async fn rows<T>(
        &self,
        _sql: &Sql,
        _values: &[Value],
        _map: Map<T>,
    ) -> Result<Vec<T>> {
        todo!()
    }
    pub(crate) async fn scan_each<T>(
        &self,
        _sql: &'static Sql,
        _lists: &[Vec<Value>],
        _map: Map<T>,
    ) -> Result<Vec<Vec<T>>> {
        todo!()
    }
    pub(crate) fn log_changed(&self) -> watch::Receiver<i64> {
        todo!()
    }
    pub(crate) fn activity(&self) -> Activity {
        todo!()
    }
    pub(crate) async fn close(&self) {
        todo!()
    }
    pub(crate) async fn full_scans(&self) -> Result<Vec<String>> {
        todo!()
    }
}
