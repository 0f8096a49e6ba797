//! Where a case's store lives, and waiting for conditions.

use std::future::Future;
use std::time::Duration;

use agentry_store::{Options, Store};
use agentry_testkit::postgres::Database;
use agentry_testkit::{TempDir, WAIT_MAX};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// An empty place for one store.
pub(crate) enum Bed {
    Sqlite(TempDir),
    Postgres(Database),
}

impl Bed {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(TempDir::new())
    }

    pub(crate) async fn postgres() -> Self {
        Self::Postgres(Database::create().await)
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = match self {
            Self::Sqlite(directory) => Options::sqlite(directory.path()),
            Self::Postgres(database) => Options::postgres(database.url()),
        };
        options.postgres_readers_max = 6;
        options.postgres_writers_max = 2;
        options
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.options()).await.unwrap()
    }

    /// Runs SQL beside the store, which must be closed if it is SQLite.
    pub(crate) async fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(directory) => {
                let path = directory.path().join("agentry.db");
                rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
            }
            Self::Postgres(database) => database.execute(sql).await.unwrap(),
        }
    }
}

/// Waits until the condition holds.
pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    assert!(tokio::time::timeout(WAIT_MAX, waited).await.is_ok(), "never: {what}");
}
