//! A real server for one test: the binary, on a free port, with a directory or
//! a database of its own. Killed with its value.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use agentry_testkit::TempDir;
use agentry_testkit::postgres::Database;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;

/// Which engine keeps the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Where a server keeps its state; outlives it, so that another can take over.
pub(crate) struct Home {
    pub(crate) data: TempDir,
    database: Option<Database>,
}

impl Home {
    pub(crate) async fn new(engine: Engine) -> Self {
        let database = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Database::create().await),
        };
        Self { data: TempDir::new(), database }
    }

    /// Runs SQL on what is kept here, beside whoever serves it.
    pub(crate) async fn execute(&self, sql: &str) {
        match &self.database {
            Some(database) => database.execute(sql).await.unwrap(),
            None => {
                let path = self.data.path().join("agentry.db");
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(agentry_testkit::WAIT_MAX).unwrap();
                connection.execute_batch(sql).unwrap();
            }
        }
    }

    /// What a statement says that counts something, beside whoever serves it.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        match &self.database {
            Some(database) => database.number(sql).await.unwrap(),
            None => {
                let path = self.data.path().join("agentry.db");
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(agentry_testkit::WAIT_MAX).unwrap();
                connection.query_row(sql, [], |row| row.get(0)).unwrap()
            }
        }
    }

    /// The command that serves this home on a free port.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentry"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(self.data.path());
        if let Some(database) = &self.database {
            command.args(["--database", database.url()]);
        }
        command
    }

    /// What a command needs to work on this home.
    pub(crate) fn arguments(&self, command: &str) -> Vec<String> {
        let data = self.data.path().to_string_lossy().into_owned();
        let mut arguments = vec![command.to_owned(), "--data".to_owned(), data];
        if let Some(database) = &self.database {
            arguments.extend(["--database".to_owned(), database.url().to_owned()]);
        }
        arguments
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        let sql = format!("select count(*) from {table}");
        match &self.database {
            Some(database) => database.number(&sql).await.unwrap(),
            None => {
                let path = self.data.path().join("agentry.db");
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(agentry_testkit::WAIT_MAX).unwrap();
                connection.query_row(&sql, [], |row| row.get(0)).unwrap()
            }
        }
    }

    /// Where the state is, when it is in PostgreSQL.
    pub(crate) fn database_url(&self) -> Option<&str> {
        self.database.as_ref().map(Database::url)
    }

    pub(crate) fn key(&self) -> String {
        let path: &Path = self.data.path();
        std::fs::read_to_string(path.join("owner.key")).unwrap().trim().to_owned()
    }
}

/// A serving process.
pub(crate) struct Process {
    child: Child,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) client: Client,
}

impl Process {
    /// Starts a server and waits until it listens.
    pub(crate) fn start(home: &Home) -> Self {
        Self::start_with(home, &[])
    }

    pub(crate) fn start_with(home: &Home, environment: &[(&str, &str)]) -> Self {
        let mut command = home.command();
        command.envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { child, url, key: home.key(), client: Client::new() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).header("x-api-key", &self.key)
    }

    /// A request with another credential than the owner's key.
    pub(crate) fn request_by(
        &self,
        credential: &str,
        method: Method,
        path: &str,
    ) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(credential)
    }

    /// The secret of a new key with these fields.
    pub(crate) async fn key_of(&self, body: Value) -> String {
        let (status, key) = self.post("/api/v1/keys", body).await;
        assert_eq!(status, StatusCode::CREATED, "{key}");
        key["secret"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> StatusCode {
        answer(self.request(Method::DELETE, path)).await.0
    }

    /// Ends the process as a power cut would, as far as it can tell.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request: the status and the JSON body, null when there is none.
pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// A server with a home of its own.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) home: Home,
}

impl Server {
    pub(crate) async fn start(engine: Engine) -> Self {
        Self::start_with(engine, &[]).await
    }

    pub(crate) async fn start_with(engine: Engine, environment: &[(&str, &str)]) -> Self {
        let home = Home::new(engine).await;
        Self { process: Process::start_with(&home, environment), home }
    }
}

impl std::ops::Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not within [`agentry_testkit::WAIT_MAX`].
pub(crate) async fn wait_until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let waited = tokio::time::timeout(agentry_testkit::WAIT_MAX, async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the condition holds in time");
}
