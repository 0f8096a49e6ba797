//! A PostgreSQL database for one test. The cluster is started by `make test`
//! (xtask), which says in [`URL_VARIABLE`] where it is; each [`Database`] is
//! fresh, has a name of its own and is dropped with its value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join;
use tokio_postgres::{Error, NoTls};

/// The URL of a superuser's database on the tests' cluster.
pub const URL_VARIABLE: &str = "AGENTRY_TEST_POSTGRES";
const DROP_WITHIN: Duration = Duration::from_secs(10);

static MADE: AtomicU64 = AtomicU64::new(0);

/// An empty database that is dropped with this value.
#[derive(Debug)]
pub struct Database {
    cluster: String,
    name: String,
    url: String,
}

impl Database {
    /// Creates an empty database.
    ///
    /// # Panics
    /// When there is no cluster (the message says how to get one) or it does
    /// not do as told.
    pub async fn create() -> Self {
        let cluster = std::env::var(URL_VARIABLE).unwrap_or_else(|_| {
            panic!("{URL_VARIABLE} is not set: run `make test`, which starts PostgreSQL")
        });
        let name = unique_name();
        let url = with_database(&cluster, &name);
        execute(&cluster, &format!("CREATE DATABASE {name}"))
            .await
            .unwrap_or_else(|error| panic!("cannot create {name}: {error}"));
        Self { cluster, name, url }
    }

    /// `postgres://USER:PASSWORD@HOST:PORT/NAME`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs SQL statements in this database, on a connection of their own.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses a statement.
    pub async fn execute(&self, sql: &str) -> Result<(), Error> {
        execute(&self.url, sql).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A test's runtime cannot be waited on from its own thread, and
        // may be on its way out.
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let cluster = self.cluster.clone();
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let dropped = tokio::time::timeout(DROP_WITHIN, execute(&cluster, &sql)).await;
                dropped.map_err(std::io::Error::other)?.map_err(std::io::Error::other)
            })
        });
        // The whole cluster goes after the tests, so what stays behind here
        // takes nothing but room until then.
        if let Ok(Err(error)) = dropping.join() {
            eprintln!("the database {} stays behind: {error}", self.name);
        }
    }
}

async fn execute(url: &str, sql: &str) -> Result<(), Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // The connection ends when its client is dropped, so both are awaited here
    // and no task is left behind.
    let statement = async move { client.batch_execute(sql).await };
    let (done, _) = join(statement, connection).await;
    done
}

/// Unique among the processes and tests that share a cluster.
fn unique_name() -> String {
    let nth = MADE.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("agentry_test_{}_{}_{nth}", std::process::id(), since.as_nanos())
}

/// The same URL with another database.
fn with_database(url: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap_or((url, ""));
    format!("{server}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_is_fresh_and_gone_after_use() {
        let one = Database::create().await;
        let other = Database::create().await;
        one.execute("CREATE TABLE a (x int)").await.unwrap();
        assert!(other.execute("SELECT x FROM a").await.is_err(), "they share a table");
        let url = one.url().to_owned();
        drop(one);
        let Err(error) = execute(&url, "SELECT 1").await else { panic!("it is still there") };
        let code = tokio_postgres::error::SqlState::INVALID_CATALOG_NAME;
        assert_eq!(error.code(), Some(&code), "{error}");
    }
}
