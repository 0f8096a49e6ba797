//! `cargo xtask bench-runs`: what a run costs over calling its model directly. The
//! lab's mock is the model: it answers at once, or after 50 ms. It is asked
//! directly and through a run of an agent (which makes a session, stores the
//! run, its messages and its end), whole and streamed, by 10, 50 and 200 clients at
//! a time that each wait for their answer. Direct calls and runs take turns in
//! slices, so that both see the same machine; generator, mock and server share
//! its processors. At last, what a user's waiting runs cost another (`fairness.rs`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::json;

use super::fairness::{Asked, Fairness};
use super::load::{Driver, Outcome, Request, Requests};
use super::procfs::written_bytes;
use super::report::Machine;
use super::{build, git, http, machine};
use crate::guarded::{Guarded, Spec};
use crate::postgres::{Cluster, log_file};
use crate::workspace::{output, target};

const CONNECTIONS: [u32; 3] = [10, 50, 200];
/// The models' names, as providers and of the agents that ask them; how long each
/// takes; and a streamed completion by that agent.
const MODELS: [(&str, &str, &str); 2] = [
    (
        "instant",
        "none",
        r#"{"model":"instant","messages":[{"role":"user","content":"hello"}],"stream":true}"#,
    ),
    (
        "after50",
        "constant:50ms",
        r#"{"model":"after50","messages":[{"role":"user","content":"hello"}],"stream":true}"#,
    ),
];
/// What the first runs of others ask, while a user's many runs hold their places with
/// the other one; no case asks them.
const SLOW: (&str, &str) = ("slow", "constant:500ms");
const STUCK: (&str, &str) = ("stuck", "constant:30s");
/// Long beside the runs that are cut off at its end, whose writes are counted too.
const SLICE: Duration = Duration::from_secs(3);
const READY_WITHIN: Duration = Duration::from_secs(60);
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
const CHAT_STREAM: &str =
    r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true}"#;
const RUN: &str = r#"{"message":"hello"}"#;

/// How to bench.
#[derive(Debug)]
pub struct Options {
    /// The cargo profile of server and mock.
    pub profile: String,
    /// Whether the programs are taken as they were built before.
    pub built: bool,
    /// Slices of each kind.
    pub rounds: usize,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Seconds since 1970.
    pub at: u64,
    /// What was measured, as git names it.
    pub commit: String,
    /// The profile of the build.
    pub profile: String,
    /// Where.
    pub machine: Machine,
    /// The cases.
    pub cases: Vec<Case>,
    /// What waiting runs cost others, on each engine.
    pub fairness: Vec<Fairness>,
}

/// Runs of one model, on one engine, by so many clients.
#[derive(Debug, Serialize)]
pub struct Case {
    /// The engine.
    pub engine: &'static str,
    /// The model.
    pub model: &'static str,
    /// Clients at a time.
    pub connections: u32,
    /// Direct calls a second.
    pub direct_rate: f64,
    /// Runs a second.
    pub rate: f64,
    /// Of a direct call, in microseconds.
    pub direct_p50_micros: u64,
    /// Of a direct call, in microseconds.
    pub direct_p99_micros: u64,
    /// What a run takes longer, in microseconds.
    pub added_p50_micros: i64,
    /// What a run takes longer, in microseconds.
    pub added_p99_micros: i64,
    /// From the request to the first token of a streamed completion, in
    /// microseconds: asked directly.
    pub direct_first_token_p50_micros: u64,
    /// The same, through the server.
    pub first_token_p50_micros: u64,
    /// Transactions for a run; several runs share one.
    pub commits_each: f64,
    /// Writes for a run.
    pub writes_each: f64,
    /// Bytes that the server's process had written for a run; on PostgreSQL its own
    /// alone, which has no database.
    pub bytes_each: f64,
    /// Requests that failed.
    pub failed: u64,
}

/// Builds, starts, loads and stops everything.
///
/// # Errors
/// When something does not build or start, or nothing was measured.
pub fn bench(options: &Options) -> Result<Report> {
    ensure!(options.rounds > 0, "at least one round");
    let programs = build(&options.profile, options.built)?;
    let place = target().join("bench");
    std::fs::create_dir_all(&place)?;
    let place = tempfile::tempdir_in(place)?;
    let place = place.path();
    let cluster = Cluster::start(&log_file("bench-runs"), None)?;
    let mut models = Vec::new();
    for (name, delay, _) in MODELS {
        models.push((name, Model::start(&programs.agentry, place, name, delay)?));
    }
    for (name, delay) in [SLOW, STUCK] {
        models.push((name, Model::start(&programs.agentry, place, name, delay)?));
    }
    let (mut cases, mut fairness) = (Vec::new(), Vec::new());
    for engine in ["sqlite", "postgres"] {
        let database = match engine {
            "postgres" => Some(cluster.create_database("runs")?),
            _ => None,
        };
        let server = Server::start(&programs.agentry, place, engine, database, &models)?;
        for (nth, (name, _, streamed)) in MODELS.into_iter().enumerate() {
            let (_, model) = &models[nth];
            for connections in CONNECTIONS {
                let bench = Bench {
                    programs: &programs.agentry,
                    place,
                    model,
                    server: &server,
                    agent: &server.agents[nth],
                    connections,
                };
                cases.push(bench.measure(engine, name, streamed, options.rounds)?);
            }
        }
        let [.., slow, stuck] = server.agents.as_slice() else { bail!("models without agents") };
        let Server { address, key, .. } = &server;
        // What was measured before is not lost with it.
        match (Asked { engine, address, key, slow, stuck }).measure() {
            Ok(measured) => fairness.push(measured),
            Err(error) => eprintln!("fairness on {engine}: {error:#}"),
        }
    }
    Ok(Report {
        at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        commit: output(git().args(["describe", "--always", "--dirty"]))?.trim().to_owned(),
        profile: options.profile.clone(),
        machine: machine(place)?,
        cases,
        fairness,
    })
}

/// The lab's mock.
struct Model {
    _mock: Guarded,
    address: String,
}

impl Model {
    fn start(agentry: &Path, place: &Path, name: &str, delay: &str) -> Result<Self> {
        let program = agentry.to_string_lossy().into_owned();
        // A run always asks for a stream. The answer is one event, as a direct call
        // gets one body: gaps between tokens would be counted as what a run adds.
        let answer = ["--tokens", "16", "--tokens-per-event", "16", "--token-gap", "0ms"];
        let command = [program.as_str(), "lab", "mock", "--delay", delay].into_iter().chain(answer);
        let command: Vec<String> = command.map(str::to_owned).collect();
        let spec = Spec::new(command, &place.join(format!("{name}.log")));
        let mut mock = Guarded::start(spec)?;
        let address = listening(&mut mock)?;
        Ok(Self { _mock: mock, address })
    }
}

struct Server {
    process: Guarded,
    address: String,
    key: String,
    /// An agent for each model.
    agents: Vec<String>,
}

impl Server {
    fn start(
        agentry: &Path,
        place: &Path,
        engine: &str,
        database: Option<String>,
        models: &[(&str, Model)],
    ) -> Result<Self> {
        let data = place.join(engine);
        let program = agentry.to_string_lossy().into_owned();
        let mut command = vec![program, "serve".to_owned()];
        command.extend(["--listen", "127.0.0.1:0", "--data"].map(str::to_owned));
        command.push(data.to_string_lossy().into_owned());
        command.extend(database.into_iter().flat_map(|url| ["--database".to_owned(), url]));
        let mut spec = Spec::new(command, &place.join(format!("{engine}.log")));
        for (name, model) in models {
            let variable = format!("AGENTRY_PROVIDERS__{}__BASE_URL", name.to_uppercase());
            spec = spec.env(&variable, format!("http://{}/v1", model.address));
        }
        let mut process = Guarded::start(spec)?;
        let address = listening(&mut process)?;
        let key = std::fs::read_to_string(data.join("owner.key"))?.trim().to_owned();
        let mut agents = Vec::new();
        for (name, _) in models {
            let body = json!({"name": name, "model": format!("compatible/{name}/m")});
            let agent = http::post(&address, "/api/v1/agents", &key, &body.to_string())?;
            agents.push(agent["id"].as_str().context("a new agent has no id")?.to_owned());
        }
        Ok(Self { process, address, key, agents })
    }

    /// A metric of the server's.
    fn metric(&self, name: &str) -> Result<f64> {
        let text = http::get(&self.address, "/metrics", &self.key)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }
}

/// What is measured together.
struct Bench<'a> {
    programs: &'a Path,
    place: &'a Path,
    model: &'a Model,
    server: &'a Server,
    agent: &'a str,
    connections: u32,
}

/// Counts of the server, before and after.
#[derive(Clone, Copy)]
struct Counts {
    commits: f64,
    writes: f64,
    bytes: u64,
}

impl Bench<'_> {
    fn measure(
        &self,
        engine: &'static str,
        model: &'static str,
        streamed: &'static str,
        rounds: usize,
    ) -> Result<Case> {
        let post = |path: &'static str, body: &'static str, tokens| Request {
            weight: 1,
            method: "post",
            path,
            body: Some(body),
            tokens,
        };
        let through = |key: Option<&str>, request| Requests {
            key: key.map(str::to_owned),
            mix: vec![request],
            ids: vec![self.agent.to_owned()],
            slice: SLICE,
        };
        let key = Some(self.server.key.as_str());
        let (mock, server) = (&self.model.address, &self.server.address);
        let chat_path = "/v1/chat/completions";
        let driver = |name: &str, address: &str, requests: Requests| {
            Driver::new(self.programs, self.place, name, address, self.connections, &requests)
        };
        let direct = driver("direct", mock, through(None, post(chat_path, CHAT, false)))?;
        let run_path = "/api/v1/agents/${pick(ids)}/runs";
        let run = driver("run", server, through(key, post(run_path, RUN, false)))?;
        let direct_stream =
            driver("direct-stream", mock, through(None, post(chat_path, CHAT_STREAM, true)))?;
        let stream = driver("stream", server, through(key, post(chat_path, streamed, true)))?;
        let mut outcomes = [Outcome::none()?, Outcome::none()?, Outcome::none()?, Outcome::none()?];
        let (mut commits, mut writes, mut bytes) = (0.0, 0.0, 0);
        for _ in 0..rounds {
            outcomes[0].merge(&direct.slice()?)?;
            let before = self.counts()?;
            outcomes[1].merge(&run.slice()?)?;
            let after = self.counts()?;
            commits += after.commits - before.commits;
            writes += after.writes - before.writes;
            bytes += after.bytes - before.bytes;
            outcomes[2].merge(&direct_stream.slice()?)?;
            outcomes[3].merge(&stream.slice()?)?;
        }
        let [direct, run, direct_stream, stream] = outcomes;
        let each = |count: f64| count / (run.requests_with_warmup.max(1) as f64);
        let added = |share| {
            let of = |outcome: &Outcome| i64::try_from(outcome.percentile_micros(share));
            Ok::<_, anyhow::Error>(of(&run)? - of(&direct)?)
        };
        Ok(Case {
            engine,
            model,
            connections: self.connections,
            direct_rate: direct.rate(),
            rate: run.rate(),
            direct_p50_micros: direct.percentile_micros(0.5),
            direct_p99_micros: direct.percentile_micros(0.99),
            added_p50_micros: added(0.5)?,
            added_p99_micros: added(0.99)?,
            direct_first_token_p50_micros: direct_stream.first_token_micros(0.5),
            first_token_p50_micros: stream.first_token_micros(0.5),
            commits_each: each(commits),
            writes_each: each(writes),
            bytes_each: each(bytes as f64),
            failed: [&direct, &run, &direct_stream, &stream].map(|it| it.failed).iter().sum(),
        })
    }

    fn counts(&self) -> Result<Counts> {
        Ok(Counts {
            commits: self.server.metric("agentry_store_commits_total")?,
            writes: self.server.metric("agentry_store_writes_total")?,
            bytes: written_bytes(self.server.process.pid())?,
        })
    }
}

fn listening(server: &mut Guarded) -> Result<String> {
    server.wait_for(READY_WITHIN, |line| {
        let (_, address) = line.split_once("listening on http://")?;
        Some(address.trim().to_owned())
    })
}

/// Where results go when nobody says.
pub fn out(root: &Path) -> PathBuf {
    root.join("bench/results/local/runs.json")
}

impl Report {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} ({}), {} cpus\n{:9} {:8} {:>5} {:>9} {:>9} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>9} {:>6}\n",
            self.commit,
            self.profile,
            self.machine.cpus,
            "engine",
            "model",
            "at",
            "direct/s",
            "runs/s",
            "+p50 us",
            "+p99 us",
            "first us",
            "run first",
            "commits",
            "writes",
            "bytes",
            "failed",
        );
        for case in &self.cases {
            let _ = writeln!(
                text,
                "{:9} {:8} {:>5} {:>9.0} {:>9.0} {:>10} {:>10} {:>10} {:>10} {:>8.3} {:>8.2} {:>9.0} {:>6}",
                case.engine,
                case.model,
                case.connections,
                case.direct_rate,
                case.rate,
                case.added_p50_micros,
                case.added_p99_micros,
                case.direct_first_token_p50_micros,
                case.first_token_p50_micros,
                case.commits_each,
                case.writes_each,
                case.bytes_each,
                case.failed,
            );
        }
        let _ = writeln!(
            text,
            "\na user's first run, idle and beside another's waiting runs\n{:9} {:>8} {:>12} {:>12} \
             {:>12} {:>12} {:>6}",
            "engine",
            "waiting",
            "idle p50 us",
            "idle p99 us",
            "busy p50 us",
            "busy p99 us",
            "p99 x",
        );
        for of in &self.fairness {
            let _ = writeln!(
                text,
                "{:9} {:>6}-{:<5} {:>12} {:>12} {:>12} {:>12} {:>6.2}{}",
                of.engine,
                of.waiting_before,
                of.waiting_after,
                of.idle_p50_micros,
                of.idle_p99_micros,
                of.busy_p50_micros,
                of.busy_p99_micros,
                of.busy_p99_micros as f64 / of.idle_p99_micros.max(1) as f64,
                if of.waiting_after == 0 { " (not shown: none waited at the end)" } else { "" },
            );
        }
        text
    }
}
