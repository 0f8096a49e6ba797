//! The servers that are measured: each started on a free port of the loopback
//! and stopped when dropped.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::http;
use crate::bench::load::{Request, Requests, SLICE};
use crate::guarded::{Guarded, Preload, Spec};
use crate::postgres::{Cluster, free_port};
use crate::python;
use crate::workspace::root;

/// A debug build compiles its statements slowly; a first start migrates.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// What is read in turn, so that no single row stays in every cache.
const AGENTS: usize = 100;
const AGENT: &str = r#"{"name":"bench","description":"made by the bench","instructions":"Answer briefly.","metadata":{"team":"blue","tier":2}}"#;
/// At least a page of them.
const SESSIONS: usize = 20;
const SESSION: &str = r#"{"user_id":"ada","origin":"bench"}"#;
const RUN: &str = r#"{"message":"hello"}"#;
const USER: &str = r#"{"name":"Ada","user_data":{"team":"blue"}}"#;
const MEMORY: &str =
    r#"{"name":"tea","content":"Ada prefers tea to coffee.","metadata":{"source":"bench"}}"#;
const GOAL: &str = r#"{"description":"Plan the trip","priority":7,"success_criteria":["booked"]}"#;
const TASK: &str =
    r#"{"description":"Book a room","task_type":"travel","input_data":{"city":"Lisbon"}}"#;
/// The delay of the slow disk, as the shim `slowsync` makes it.
pub const SLOW_SYNC_MS: u32 = 5;
const PEER_KEY: &str = "ak_peer";

/// What a case does to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The bare server's one answer.
    Hello,
    /// One agent by its id.
    Read,
    /// Twenty agents.
    List,
    /// One agent made, durably.
    Create,
    /// One run with the builtin model in a session of its own.
    Run,
    /// One user made.
    Users,
    /// One memory made, which can be searched from then on.
    Memories,
    /// One goal made.
    Goals,
    /// One task made.
    Tasks,
    /// Twenty sessions.
    Sessions,
    /// The mix of `full_api`: six runs to one list of agents in short, one list of
    /// sessions, one user and one memory.
    FullApi,
}

/// A running server.
#[derive(Debug)]
pub struct Target {
    server: Guarded,
    /// `HOST:PORT`.
    pub address: String,
    /// The database's process, when there is one apart.
    pub database: Option<u32>,
    key: Option<String>,
    ids: Vec<String>,
}

impl Target {
    /// Axum alone.
    ///
    /// # Errors
    /// When it does not start.
    pub fn bare(program: &Path, logs: &Path) -> Result<Self> {
        let spec = Spec::new([program.to_string_lossy()], &logs.join("bare.log"));
        let mut server = Guarded::start(spec)?;
        let address = listening(&mut server)?;
        Ok(Self { server, address, database: None, key: None, ids: Vec::new() })
    }

    /// The same on one CPU.
    ///
    /// # Errors
    /// When it does not start.
    pub fn bare_on(program: &Path, logs: &Path, cpu: &str) -> Result<Self> {
        let command = ["taskset", "-c", cpu, &program.to_string_lossy()].map(str::to_owned);
        let mut server = Guarded::start(Spec::new(command, &logs.join("bare.log")))?;
        let address = listening(&mut server)?;
        Ok(Self { server, address, database: None, key: None, ids: Vec::new() })
    }

    /// `agentry serve` with its defaults, on SQLite in `dir` or on a database of
    /// a cluster; `preload` is loaded into it.
    ///
    /// # Errors
    /// When it does not start or refuses to make agents.
    pub fn agentry(
        program: &Path,
        dir: &Path,
        cluster: Option<&Cluster>,
        preload: Option<&Preload>,
    ) -> Result<Self> {
        Self::agentry_with(program, dir, cluster, preload, &[])
    }

    /// The same with settings of its own, as the environment has them.
    ///
    /// # Errors
    /// When it does not start or refuses to make agents.
    pub fn agentry_with(
        program: &Path,
        dir: &Path,
        cluster: Option<&Cluster>,
        preload: Option<&Preload>,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut command = vec![program.to_string_lossy().into_owned(), "serve".to_owned()];
        command.extend(["--listen", "127.0.0.1:0", "--data"].map(str::to_owned));
        command.push(dir.to_string_lossy().into_owned());
        if let Some(cluster) = cluster {
            command.extend(["--database".to_owned(), cluster.create_database(&name(dir))?]);
        }
        let mut spec = Spec::new(command, &dir.with_extension("log")).preload(preload);
        for (name, value) in settings {
            spec = spec.env(name, *value);
        }
        let mut server = Guarded::start(spec)?;
        let address = listening(&mut server)?;
        let key = std::fs::read_to_string(dir.join("owner.key"))
            .context("the server left no owner key")?;
        let database = cluster.map(Cluster::pid);
        Self::with_rows(server, address, database, key.trim().to_owned())
    }

    /// The same work by FastAPI and asyncpg; its log is beside `place`, and its
    /// database is called like it.
    ///
    /// # Errors
    /// When Python or its packages cannot be had, or it does not start.
    pub fn fastapi(place: &Path, cluster: &Cluster) -> Result<Self> {
        let dir = root().join("bench/peers/fastapi_asyncpg");
        let python = python::venv("venv-fastapi", &dir.join("requirements.txt"))?;
        // A process for each processor, as uvicorn's manual advises.
        let workers = std::thread::available_parallelism()?.get();
        let port = free_port()?;
        let (dir, workers_text) = (dir.to_string_lossy().into_owned(), workers.to_string());
        let port_text = port.to_string();
        // uvicorn says on stderr that it is ready; the guard listens on stdout.
        let mut command = vec!["sh", "-c", r#"exec "$@" 2>&1"#, "uvicorn"];
        let python = python.to_string_lossy();
        command.extend([&*python, "-m", "uvicorn", "app:app", "--app-dir", &dir]);
        command.extend(["--host", "127.0.0.1", "--port", &port_text]);
        command.extend(["--workers", &workers_text, "--loop", "uvloop", "--http", "httptools"]);
        command.extend(["--no-access-log"]);
        let spec = Spec::new(command, &place.with_extension("log"))
            .env("PEER_DATABASE", cluster.create_database(&name(place))?)
            .env("PEER_KEY", PEER_KEY)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut server = Guarded::start(spec)?;
        let ready = Cell::new(0);
        server.wait_for(READY_WITHIN, |line| {
            ready.set(ready.get() + usize::from(line.contains("Application startup complete")));
            (ready.get() == workers).then_some(())
        })?;
        let database = Some(cluster.pid());
        Self::with_rows(server, format!("127.0.0.1:{port}"), database, PEER_KEY.to_owned())
    }

    fn with_rows(
        server: Guarded,
        address: String,
        database: Option<u32>,
        key: String,
    ) -> Result<Self> {
        let made = (0..AGENTS).map(|_| {
            let agent = http::post(&address, "/api/v1/agents", &key, AGENT)?;
            Ok(agent["id"].as_str().context("a new agent has no id")?.to_owned())
        });
        let ids = made.collect::<Result<_>>()?;
        for _ in 0..SESSIONS {
            http::post(&address, "/api/v1/sessions", &key, SESSION)?;
        }
        Ok(Self { server, address, database, key: Some(key), ids })
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The requests of a kind of work.
    pub fn requests(&self, work: Work) -> Requests {
        let request = |method, path, body| Request { weight: 1, method, path, body, tokens: false };
        let get = |path: &'static str| request("get", path, None);
        let post = |path, body| request("post", path, Some(body));
        let summaries = get("/api/v1/agent/list");
        let sessions = get("/api/v1/sessions?limit=20");
        let run = post("/api/v1/agent/simple/run", RUN);
        let user = post("/api/v1/users", USER);
        let memory = post("/api/v1/memories", MEMORY);
        let mix = match work {
            Work::Hello => vec![get("/")],
            Work::Read => vec![get("/api/v1/agents/${pick(ids)}")],
            Work::List => vec![get("/api/v1/agents?limit=20")],
            Work::Create => vec![post("/api/v1/agents", AGENT)],
            Work::Run => vec![run],
            Work::Users => vec![user],
            Work::Memories => vec![memory],
            Work::Goals => vec![post("/api/v1/goals", GOAL)],
            Work::Tasks => vec![post("/api/v1/tasks", TASK)],
            Work::Sessions => vec![sessions],
            Work::FullApi => {
                vec![Request { weight: 6, ..run }, summaries, sessions, user, memory]
            }
        };
        let ids = if work == Work::Read { self.ids.clone() } else { Vec::new() };
        Requests { key: self.key.clone(), mix, ids, slice: SLICE }
    }
}

fn name(place: &Path) -> String {
    // Not a name that PostgreSQL has taken itself.
    format!("bench-{}", place.file_name().unwrap_or_default().to_string_lossy())
}

fn listening(server: &mut Guarded) -> Result<String> {
    server.wait_for(READY_WITHIN, |line| {
        line.strip_prefix("listening on http://").map(|address| address.trim().to_owned())
    })
}

/// The programs of a build profile.
#[derive(Debug)]
pub struct Programs {
    /// `agentry`.
    pub agentry: PathBuf,
    /// `bare`.
    pub bare: PathBuf,
}
