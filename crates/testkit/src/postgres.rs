//! A PostgreSQL database for one test. The cluster is started by `make test`
//! (xtask), which says in [`URL_VARIABLE`] where it is; each [`Database`] is
//! fresh, has a name of its own and is dropped with its value. A test that
//! kills PostgreSQL does so with a [`Cluster`] of its own.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join;
use tokio_postgres::{Error, NoTls};

/// The URL of a superuser's database on the tests' cluster.
pub const URL_VARIABLE: &str = "AGENTRY_TEST_POSTGRES";
/// The directory of `initdb` and `postgres`.
pub const BINARIES_VARIABLE: &str = "AGENTRY_TEST_POSTGRES_BIN";
/// `UID:GID` of whom PostgreSQL runs as, when the tests run as root.
pub const USER_VARIABLE: &str = "AGENTRY_TEST_POSTGRES_USER";
/// What a failed start may say in a test's message.
const SAID_BYTES_MAX: usize = 16 * 1024;
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

    /// Asks this database for one number, on a connection of its own.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses the query.
    pub async fn number(&self, sql: &str) -> Result<i64, Error> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        let query = async move { client.query_one(sql, &[]).await?.try_get(0) };
        let (found, _) = join(query, connection).await;
        found
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

/// A PostgreSQL of a test's own, to be killed and started again. Everything
/// that was committed is there afterwards; fsync is on.
#[derive(Debug)]
pub struct Cluster {
    // Fields drop in order: the server goes before its directory.
    server: Option<Server>,
    dir: tempfile::TempDir,
    port: u16,
    url: String,
}

/// A running postmaster, and the shell that stops it when we are gone: it
/// waits for the end of a pipe that only we hold open.
#[derive(Debug)]
struct Server {
    guard: Child,
    pid: String,
    ended: Receiver<()>,
}

// Ignoring the signals of the terminal leaves it to the pipe when to stop.
const GUARD: &str = r#"
trap '' INT
"$@" 2>&1 &
echo "$!"
exec >/dev/null 2>&1
cat
kill -QUIT "$!"
wait "$!"
"#;
/// The data directory in the cluster's.
const DATA: &str = "data";
const READY_WITHIN: Duration = Duration::from_secs(60);

impl Cluster {
    /// Makes a cluster and waits until it accepts connections. It takes a
    /// second or two, so a test that kills nothing uses [`Database`].
    ///
    /// # Panics
    /// When the programs are missing (run `make test`) or it does not start.
    pub fn start() -> Self {
        Self::start_with(|_| String::new())
    }

    /// The same, with these lines in its `postgresql.conf`; they may name the
    /// directory that they are given, in which PostgreSQL may make what it likes.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub fn start_with(settings: impl FnOnce(&Path) -> String) -> Self {
        Self::make(|dir| {
            let mut initdb = program("initdb");
            initdb.arg("--pgdata").arg(dir.join(DATA));
            initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
            done(&mut initdb);
            configure(dir, &settings(dir));
        })
    }

    /// A PostgreSQL on a copy of this base backup, that recovers as these lines
    /// in its `postgresql.conf` say.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub fn recover(base: &Path, settings: &str) -> Self {
        Self::make(|dir| {
            done(unprivileged("cp").arg("-a").arg(base).arg(dir.join(DATA)));
            configure(dir, settings);
            done(unprivileged("touch").arg(dir.join(DATA).join("recovery.signal")));
        })
    }

    fn make(fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("agentry-cluster-").tempdir();
        let dir = dir.unwrap_or_else(|error| panic!("no directory for PostgreSQL: {error}"));
        if let Some((uid, gid)) = server_user() {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid))
                .unwrap_or_else(|error| panic!("cannot give PostgreSQL its directory: {error}"));
        }
        fill(dir.path());
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap_or_else(|error| panic!("no free port: {error}"))
            .port();
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let mut cluster = Self { server: None, dir, port, url };
        cluster.start_again();
        cluster
    }

    /// `postgres://postgres@127.0.0.1:PORT/postgres`, the same after every start.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The directory that PostgreSQL may write to; it goes with this value.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// A command line of PostgreSQL's own, to be run as the user that owns the
    /// cluster; its first word is the program.
    ///
    /// # Panics
    /// When there is no word.
    pub fn command(&self, words: &[&str]) -> Command {
        let (name, arguments) = words.split_first().unwrap_or_else(|| panic!("no command"));
        let mut command = program(name);
        command.args(arguments);
        command
    }

    /// Makes a directory that PostgreSQL may write to, in its own one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_directory(&self, path: &Path) {
        done(unprivileged("mkdir").arg("-p").arg(path));
    }

    /// Ends it at once and without a checkpoint, as `pg_ctl stop -m immediate`
    /// does, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        // Dropping it is that; see `GUARD`.
        assert!(self.server.take().is_some(), "PostgreSQL was not running");
    }

    /// Starts it again with this certificate and key, in PEM, and takes only
    /// encrypted connections from now on.
    ///
    /// # Panics
    /// When its files cannot be written, or it does not start.
    pub fn encrypt(&mut self, certificate: &str, key: &str) {
        self.kill();
        let data = self.dir.path().join("data");
        let write = |name: &str, content: &str| {
            let path = data.join(name);
            std::fs::write(&path, content)
                .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o600)))
                .and_then(|()| match server_user() {
                    Some((uid, gid)) => std::os::unix::fs::chown(&path, Some(uid), Some(gid)),
                    None => Ok(()),
                })
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        };
        write("server.crt", certificate);
        write("server.key", key);
        write("postgresql.auto.conf", "ssl = on\n");
        write("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n");
        self.start_again();
    }

    /// Starts it after [`Cluster::kill`] and waits until it has recovered.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        self.server = Some(Server::start(&self.dir.path().join(DATA), self.port));
    }
}

impl Server {
    fn start(data: &Path, port: u16) -> Self {
        let postgres = program("postgres");
        let mut command = unprivileged("sh");
        command.args(["-c", GUARD, "guard"]).arg(postgres.get_program()).arg("-D").arg(data);
        command.arg("-c").arg(format!("port={port}"));
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=on"] {
            command.args(["-c", setting]);
        }
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard =
            command.spawn().unwrap_or_else(|error| panic!("cannot start PostgreSQL: {error}"));
        let stdout = guard.stdout.take().unwrap_or_else(|| panic!("the pipe was asked for"));
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let pid = lines.next().unwrap_or_else(|| panic!("the shell gave no process id"));
        let (ready, becomes_ready) = channel();
        let (end, ended) = channel();
        std::thread::spawn(move || {
            let mut said = String::new();
            for line in lines {
                if line.contains("ready to accept connections") {
                    let _ = ready.send(Ok(()));
                }
                if said.len() < SAID_BYTES_MAX {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
            let _ = ready.send(Err(said));
            drop(end);
        });
        let server = Self { guard, pid, ended };
        match becomes_ready.recv_timeout(READY_WITHIN) {
            Ok(Ok(())) => server,
            Ok(Err(said)) => panic!("PostgreSQL did not start: {said}"),
            Err(_) => panic!("PostgreSQL was not ready within {READY_WITHIN:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(DROP_WITHIN) {
            let _ = Command::new("kill").args(["-KILL", &self.pid]).status();
        }
        let _ = self.guard.wait();
    }
}

/// Runs a command to its end.
fn done(command: &mut Command) {
    let name = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// Adds lines to a cluster's settings.
fn configure(dir: &Path, lines: &str) {
    let path = dir.join(DATA).join("postgresql.conf");
    let added = std::fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| {
        file.write_all(b"\n")?;
        file.write_all(lines.as_bytes())
    });
    added.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// A program of PostgreSQL, run as a user that it accepts.
fn program(name: &str) -> Command {
    let dir = std::env::var_os(BINARIES_VARIABLE).unwrap_or_else(|| {
        panic!("{BINARIES_VARIABLE} is not set: run `make test`, which finds PostgreSQL")
    });
    unprivileged(Path::new(&dir).join(name))
}

fn unprivileged(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn server_user() -> Option<(u32, u32)> {
    let user = std::env::var(USER_VARIABLE).ok()?;
    let (uid, gid) = user.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
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

    #[tokio::test]
    async fn a_cluster_keeps_what_was_committed_when_it_is_killed() {
        let mut cluster = Cluster::start();
        execute(cluster.url(), "CREATE TABLE a (x int); INSERT INTO a VALUES (7)").await.unwrap();
        cluster.kill();
        assert!(execute(cluster.url(), "SELECT 1").await.is_err());
        cluster.start_again();
        // Divides by zero when the row is missing.
        execute(cluster.url(), "SELECT 1 / count(*) FROM a WHERE x = 7").await.unwrap();
    }
}
