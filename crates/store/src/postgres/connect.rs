//! Connections: where the server is, how a session is set up, and the
//! statements that are prepared on it.
//!
//! Plans must not hang on statistics that a new database does not have: every
//! statement has an index to go by (a test explains each one), so sequential
//! scans and sorts are priced out, and one plan per statement serves all values.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::time::Duration;

use agentry_domain::background::Tasks;
use deadpool_postgres::Connect;
use futures::future::{BoxFuture, try_join_all};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Notification, Row, Statement,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::sql::{self, Sql};
use crate::{Result, StoreError};

use super::tls;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent data may stay unacknowledged before a connection counts as lost.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Read,
    Write,
    Keep,
    Migrate,
}

impl Purpose {
    /// Settings for a session of this purpose, in the server's own words.
    fn settings(self) -> &'static str {
        match self {
            // Callers have deadlines of their own; this ends what they left behind.
            Purpose::Read => "set statement_timeout = '60s'",
            // A transaction that lost its client must not hold its locks, nor
            // whoever asks what became of it.
            Purpose::Write => {
                "set idle_in_transaction_session_timeout = '10s'; set lock_timeout = '10s'"
            }
            // A dead keeper's lock is free when the server notices.
            Purpose::Keep => {
                "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; \
                 set tcp_keepalives_count = 3; set statement_timeout = '60s'"
            }
            Purpose::Migrate => "",
        }
    }
}

const PLANS: &str = "set enable_seqscan = off; set enable_sort = off; \
    set plan_cache_mode = force_generic_plan; set jit = off; set client_min_messages = warning";
const WHOLE_TABLES: &str = "set enable_seqscan = on; set enable_sort = on";
/// Acknowledged means durable, whatever the server's default is; a stronger
/// setting than `on` is left alone.
const DURABLE: &str = "select set_config('synchronous_commit', 'on', false) \
    where current_setting('synchronous_commit') in ('off', 'local')";

/// The server, and how to reach it.
#[derive(Clone)]
pub(crate) struct Target {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    pub(super) tasks: Tasks,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (url, authorities) = tls::split(url);
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            // The cause names the faulty part, never the password.
            StoreError::Unavailable(format!("the database's URL is not valid: {error}").into())
        })?;
        if config.get_application_name().is_none() {
            config.application_name("agentry");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
        let encrypted = match config.get_ssl_mode() {
            SslMode::Disable => false,
            SslMode::Prefer => !is_local(&config),
            _ => true,
        };
        let tls = encrypted.then(|| tls::connector(authorities.as_deref())).transpose()?;
        Ok(Self { config, tls, tasks: Tasks::default() })
    }

    /// Opens a session. `hear` is called with each notification.
    pub(super) async fn connect(
        &self,
        purpose: Purpose,
        hear: impl Fn(&Notification) + Send + 'static,
    ) -> Result<Client> {
        let (client, _) = self.dial(hear).await.map_err(unreachable)?;
        set_up(&client, purpose).await.map_err(unreachable)?;
        Ok(client)
    }

    /// Opens a session that reads whole tables, for as long as that takes.
    pub(crate) async fn look_around(&self) -> Result<Client> {
        let client = self.connect(Purpose::Migrate, |_| ()).await?;
        client.batch_execute(WHOLE_TABLES).await.map_err(unreachable)?;
        Ok(client)
    }

    async fn dial(
        &self,
        hear: impl Fn(&Notification) + Send + 'static,
    ) -> std::result::Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                Ok((client, self.tasks.spawn(drive(connection, hear))))
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                Ok((client, self.tasks.spawn(drive(connection, hear))))
            }
        }
    }

    /// Asks the server to end what a session is doing.
    pub(super) fn cancel(&self, token: tokio_postgres::CancelToken) {
        let tls = self.tls.clone();
        self.tasks.spawn(async move {
            let asked = match tls {
                None => token.cancel_query(NoTls).await,
                Some(tls) => token.cancel_query(tls).await,
            };
            if let Err(error) = asked {
                tracing::debug!(%error, "a query that nobody waits for could not be cancelled");
            }
        });
    }

    /// What the pool of scanning sessions needs.
    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }
}

impl Connect for Target {
    fn connect(
        &self,
        _: &Config,
    ) -> BoxFuture<'_, std::result::Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(async move {
            let (client, task) = self.dial(|_| ()).await?;
            set_up(&client, Purpose::Read).await?;
            Ok((client, task))
        })
    }
}

async fn set_up(
    client: &Client,
    purpose: Purpose,
) -> std::result::Result<(), tokio_postgres::Error> {
    client.batch_execute(&format!("{PLANS}; {}; {DURABLE}", purpose.settings())).await
}

/// Whatever went wrong while a session was opened, the server is not usable.
fn unreachable(error: tokio_postgres::Error) -> StoreError {
    StoreError::Unavailable(error.into())
}

fn is_local(config: &Config) -> bool {
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    });
    hosts && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// Carries the bytes of one session until it ends.
async fn drive<S, T>(mut connection: Connection<S, T>, hear: impl Fn(&Notification))
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => hear(&notification),
            Some(Ok(_)) => (),
            Some(Err(error)) => {
                tracing::debug!(%error, "a session with the database ended");
                return;
            }
            None => return,
        }
    }
}

/// A session and the statements that are prepared on it.
pub(super) struct Link {
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    merged: HashMap<&'static str, Statement>,
}

/// What a statement did.
pub(super) struct Ran {
    /// Rows that it changed or, when it reads, found.
    pub(super) affected: u64,
    pub(super) rows: Vec<Row>,
}

impl Link {
    /// Prepares the statements on a session; all of them travel at once.
    pub(super) async fn prepare(
        client: Client,
        statements: impl Iterator<Item = &'static Sql>,
    ) -> Result<Self> {
        let prepared = try_join_all(statements.map(|sql| prepare(&client, sql))).await?;
        let statements = prepared.into_iter().collect();
        Ok(Self { client, statements, merged: HashMap::new() })
    }

    /// Prepares the forms for many rows of the statements that insert one.
    pub(super) async fn prepare_merged(&mut self) -> Result<()> {
        let inserts = statements().filter_map(|sql| {
            Some((sql, many_rows(sql.postgres, self.statements.get(sql.name)?.params())?))
        });
        let client = &self.client;
        let prepared = inserts.map(|(sql, text)| async move {
            let prepared = client.prepare(&text).await;
            Ok::<_, StoreError>((sql.name, prepared.map_err(|error| unprepared(sql, error))?))
        });
        let prepared: Vec<_> = try_join_all(prepared).await?;
        self.merged = prepared.into_iter().collect();
        Ok(())
    }

    /// The form for many rows of a statement that inserts one: it takes each
    /// parameter as an array.
    pub(super) fn merged(&self, sql: &Sql) -> Option<&Statement> {
        self.merged.get(sql.name)
    }

    pub(super) fn statement(&self, sql: &'static Sql) -> Result<&Statement> {
        self.statements
            .get(sql.name)
            .ok_or_else(|| StoreError::Bug(format!("{} is not prepared here", sql.name)))
    }
}

async fn prepare(client: &Client, sql: &'static Sql) -> Result<(&'static str, Statement)> {
    match client.prepare(sql.postgres).await {
        Ok(statement) => Ok((sql.name, statement)),
        Err(error) => Err(unprepared(sql, error)),
    }
}

pub(super) fn unprepared(sql: &Sql, error: tokio_postgres::Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Bug(reason) => {
            StoreError::Bug(format!("{} does not prepare: {reason}", sql.name))
        }
        other => other,
    }
}

/// `insert into t (...) values ($1, ..., $n)` for many rows; none for any other
/// statement.
fn many_rows(text: &str, types: &[Type]) -> Option<String> {
    let (head, values) = text.strip_prefix("insert into ")?.split_once(" values (")?;
    let values: Vec<&str> = values.strip_suffix(')')?.split(", ").collect();
    let in_order = |(nth, value): (usize, &&str)| **value == format!("${}", nth + 1);
    if values.len() != types.len() || !values.iter().enumerate().all(in_order) {
        return None;
    }
    let arrays: Vec<String> = types
        .iter()
        .enumerate()
        .map(|(nth, ty)| format!("${}::{}[]", nth + 1, ty.name()))
        .collect();
    Some(format!("insert into {head} select * from unnest({})", arrays.join(", ")))
}

/// Runs a prepared statement to its end.
pub(super) async fn run<P>(
    client: &Client,
    statement: &Statement,
    values: impl IntoIterator<Item = P, IntoIter: ExactSizeIterator>,
) -> std::result::Result<Ran, tokio_postgres::Error>
where
    P: tokio_postgres::types::BorrowToSql,
{
    use futures::TryStreamExt as _;
    let stream = client.query_raw(statement, values).await?;
    futures::pin_mut!(stream);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    Ok(Ran { affected: stream.rows_affected().unwrap_or(0), rows })
}

/// Whether an error means that the session is over.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(state) => {
            matches!(&state.code()[..2], "08")
                || [
                    SqlState::ADMIN_SHUTDOWN,
                    SqlState::CRASH_SHUTDOWN,
                    SqlState::CANNOT_CONNECT_NOW,
                    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                ]
                .contains(state)
        }
        None => {
            error.is_closed()
                || std::error::Error::source(error)
                    .is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
        }
    }
}

/// Every statement that PostgreSQL has.
pub(super) fn statements() -> impl Iterator<Item = &'static Sql> {
    sql::all().filter(|sql| !sql.postgres.is_empty())
}

/// The statements that only read.
pub(super) fn reads() -> impl Iterator<Item = &'static Sql> {
    statements().filter(|sql| {
        let text = sql.postgres;
        let begins =
            ["select", "with found", "with recursive"].iter().any(|it| text.starts_with(it));
        begins && !text.contains(" for update") && !text.contains(" for key share")
    })
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration's own form leaves the password out.
        f.debug_struct("Target").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_of_one_row_has_a_form_for_many() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(many_rows(text, &[Type::BYTEA, Type::INT8]).as_deref(), expected, "{text}");
        };
        check(
            "insert into t (a, b) values ($1, $2)",
            Some("insert into t (a, b) select * from unnest($1::bytea[], $2::int8[])"),
        );
        check("insert into t (a, b) values ($2, $1)", None);
        check("insert into t (a, b, c) values ($1, $2, $2)", None);
        check("insert into t (a, b) values ($1, f($2))", None);
        check("insert into t (a, b) values ($1, $2) on conflict do nothing", None);
        check("update t set a = $1 where b = $2", None);
    }
}
