//! Runs under everything at once: clients send runs of every policy, wait, stream,
//! go away and cancel, while processes are killed and paused past their lease. What
//! was accepted ends, once; every session is a row of whole turns; and a process
//! that wakes cannot write to what another one finished.
//!
//! Which operations come, in which order for each client, is given by a seed.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agentry_testkit::postgres::Database;
use agentry_testkit::{Behaviour, ModelServer};
use futures::future::join_all;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::home::{copy_of, database_in};
use crate::invariants::{faults_on_postgres, faults_on_sqlite};
use crate::kill::at_rest;
use crate::server::{Engine, Home, Process, wait_until};
use crate::{is_soak, seed};

const CLIENTS: usize = 8;
const SESSIONS: usize = 4;
/// What each client does in a round.
const OPERATIONS: usize = 25;
/// Rounds, each with so many kills and pauses, short and long.
const ROUNDS: [usize; 2] = [2, 40];
const DISTURBANCES: usize = 3;
const LEASE: (&str, &str) = ("AGENTRY_RUNS__LEASE_MS", "1000");
/// How long a process is paused: longer than its lease.
const PAUSE: Duration = Duration::from_millis(2_500);
/// The longest that a client stays, and the longest between two disturbances.
const STAY_MAX: Duration = Duration::from_millis(40);
const QUIET_MAX: Duration = Duration::from_millis(400);
/// A request that is not answered by then is given up: its process was killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the clients know.
#[derive(Default)]
struct Known {
    /// Runs that were accepted, with what was said for them.
    accepted: BTreeMap<String, Vec<String>>,
    faults: Vec<String>,
}

struct Field {
    model: ModelServer,
    home: Home,
    url: Option<String>,
    agent: String,
    sessions: Vec<String>,
    key: String,
    /// Where each process can be reached now.
    urls: Mutex<Vec<String>>,
    known: Mutex<Known>,
    client: Client,
}

fn serve(home: &Home, url: Option<&str>, model: &ModelServer) -> Process {
    let base = model.base_url();
    let mut settings = vec![LEASE, ("AGENTRY_PROVIDERS__NEAR__BASE_URL", base.as_str())];
    settings.push(("AGENTRY_LOG", "off"));
    settings.extend(url.map(|url| ("AGENTRY_DATABASE", url)));
    Process::start_with(home, &settings)
}

fn signal(process: &Process, name: &str) {
    let sent = Command::new("kill").args([name, &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

impl Field {
    async fn new(url: Option<&str>) -> (Self, Process) {
        let model = ModelServer::start().await;
        model.by_default(Behaviour {
            write_delay: Duration::from_millis(2),
            ..Behaviour::text("Yes, that is so, of course.")
        });
        let home = Home::new(Engine::Sqlite).await;
        let first = serve(&home, url, &model);
        let agent = json!({"name": "llm", "model": "compatible/near/m"});
        let (_, agent) = first.post("/api/v1/agents", agent).await;
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let (_, session) = first.post("/api/v1/sessions", json!({})).await;
            sessions.push(session["id"].as_str().unwrap().to_owned());
        }
        let field = Self {
            model,
            agent: agent["id"].as_str().unwrap().to_owned(),
            sessions,
            key: first.key.clone(),
            urls: Mutex::new(vec![first.url.clone()]),
            known: Mutex::default(),
            client: Client::new(),
            url: url.map(str::to_owned),
            home,
        };
        (field, first)
    }

    /// One request at one of the processes: none when there was no answer.
    async fn send(
        &self,
        chance: &mut StdRng,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(StatusCode, Value)> {
        let url = {
            let urls = self.urls.lock();
            urls[chance.random_range(0..urls.len())].clone()
        };
        let mut request = self.client.request(method, format!("{url}{path}"));
        request = request.header("x-api-key", &self.key).timeout(PATIENCE);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answered = async {
            let response = request.send().await.ok()?;
            let status = response.status();
            let text = response.text().await.ok()?;
            // A stream's last event is the run.
            let last = text.lines().rev().find_map(|line| line.strip_prefix("data:"));
            let text = last.unwrap_or(&text);
            Some((status, serde_json::from_str(text).ok()?))
        };
        answered.await
    }

    async fn act(&self, chance: &mut StdRng, said: &str) {
        let known = {
            let known = self.known.lock();
            let nth = chance.random_range(0..known.accepted.len().max(1));
            known.accepted.keys().nth(nth).cloned()
        };
        match (chance.random_range(0..10_u32), known) {
            (0, Some(id)) => {
                let path = format!("/api/v1/runs/{id}/cancel");
                let answered = self.send(chance, Method::POST, &path, None).await;
                self.judge(&answered, &[200, 202], "cancel");
            }
            (1, Some(id)) => {
                let path = format!("/api/v1/runs/{id}/wait?timeout_ms=50");
                let answered = self.send(chance, Method::GET, &path, None).await;
                self.judge(&answered, &[200, 202], "wait");
            }
            _ => self.run(chance, said).await,
        }
    }

    async fn run(&self, chance: &mut StdRng, said: &str) {
        let policies = ["enqueue", "enqueue", "reject", "interrupt", "rollback", "merge"];
        let body = json!({
            "message": said,
            "session_id": self.sessions[chance.random_range(0..SESSIONS)],
            "if_busy": policies[chance.random_range(0..policies.len())],
        });
        let mut body = body;
        let (is_background, is_streamed, leaves) = match chance.random_range(0..4_u32) {
            0 => (true, false, false),
            1 => (false, true, false),
            2 => (false, chance.random(), true),
            _ => (false, false, false),
        };
        body["background"] = json!(is_background);
        body["stream"] = json!(is_streamed);
        let path = format!("/api/v1/agents/{}/runs", self.agent);
        let stay = chance.random_range(Duration::ZERO..STAY_MAX);
        let sent = self.send(chance, Method::POST, &path, Some(&body));
        let answered =
            if leaves { tokio::time::timeout(stay, sent).await.ok().flatten() } else { sent.await };
        self.judge(&answered, &[200, 202, 409], "run");
        if let Some((status, run)) = answered
            && status.is_success()
            && let Some(id) = run["run_id"].as_str()
        {
            let mut known = self.known.lock();
            known.accepted.entry(id.to_owned()).or_default().push(said.to_owned());
        }
    }

    /// Notes an answer that nobody should get. Who asks a process that is going down
    /// or has lost its claims may hear of that.
    fn judge(&self, answered: &Option<(StatusCode, Value)>, fine: &[u16], what: &str) {
        let Some((status, body)) = answered else { return };
        let is_fine = fine.contains(&status.as_u16())
            || *status == StatusCode::SERVICE_UNAVAILABLE
            || *status == StatusCode::TOO_MANY_REQUESTS;
        if !is_fine {
            self.known.lock().faults.push(format!("{what}: {status} {body}"));
        }
    }

    /// Kills processes and starts others, and pauses them where another one goes on.
    async fn disturb(&self, chance: &mut StdRng, mut processes: Vec<Process>) -> Vec<Process> {
        for _ in 0..DISTURBANCES {
            tokio::time::sleep(chance.random_range(Duration::ZERO..QUIET_MAX)).await;
            let nth = chance.random_range(0..processes.len());
            if processes.len() > 1 && chance.random() {
                signal(&processes[nth], "-STOP");
                tokio::time::sleep(PAUSE).await;
                signal(&processes[nth], "-CONT");
                continue;
            }
            let killed = processes.remove(nth);
            tokio::task::block_in_place(|| {
                killed.kill();
                processes.insert(nth, serve(&self.home, self.url.as_deref(), &self.model));
            });
            *self.urls.lock() = processes.iter().map(|process| process.url.clone()).collect();
        }
        processes
    }

    /// What can be read afterwards: every run that was accepted has ended and says
    /// what was said, and sessions are rows of whole turns, in which nothing stands
    /// twice.
    async fn look(&self, server: &Process) {
        let mut faults = std::mem::take(&mut self.known.lock().faults);
        let accepted = self.known.lock().accepted.clone();
        for (id, said) in &accepted {
            let (status, run) = server.get(&format!("/api/v1/runs/{id}")).await;
            let inputs: Vec<&str> =
                run["input"].as_str().unwrap_or_default().split("\n\n").collect();
            let holds = said.iter().all(|said| inputs.contains(&said.as_str()));
            let outcome = run["status"].as_str().unwrap_or_default();
            let ended = ["succeeded", "cancelled", "interrupted"].contains(&outcome);
            if status != StatusCode::OK || !holds || !ended {
                faults.push(format!("{said:?} became {run}"));
            }
        }
        for session in &self.sessions {
            let path = format!("/api/v1/sessions/{session}/messages?order=asc&limit=500");
            let (_, page) = server.get(&path).await;
            let messages = page["items"].as_array().unwrap();
            let mut seen: Vec<&str> = Vec::new();
            let mut last = "assistant";
            for message in messages {
                let (role, content) =
                    (message["role"].as_str().unwrap(), message["content"].as_str().unwrap());
                if role == "assistant" && last == "assistant" {
                    faults.push(format!("two replies in a row in {session}"));
                }
                if role == "user" {
                    for said in content.split("\n\n") {
                        if seen.contains(&said) {
                            faults.push(format!("{said} stands twice in {session}"));
                        }
                        seen.push(said);
                    }
                }
                last = role;
            }
            let path = format!("/api/v1/runs?limit=500&status=succeeded&session_id={session}");
            let (_, page) = server.get(&path).await;
            for run in page["items"].as_array().unwrap() {
                let inputs = run["input"].as_str().unwrap().split("\n\n");
                for missing in inputs.filter(|said| !seen.contains(said)) {
                    faults.push(format!("{missing} was answered and stands nowhere"));
                }
            }
        }
        assert!(faults.is_empty(), "seed {}:\n{}", seed(), faults.join("\n"));
    }
}

/// One round: on its own store, with one process or two.
async fn round(nth: usize, database: Option<&Database>) {
    let url = database.map(Database::url);
    let (field, first) = Field::new(url).await;
    let mut processes = vec![first];
    if let Some(url) = url {
        processes.push(serve(&field.home, Some(url), &field.model));
    }
    *field.urls.lock() = processes.iter().map(|process| process.url.clone()).collect();
    let field = Arc::new(field);
    let clients = (0..CLIENTS).map(|client| {
        let field = Arc::clone(&field);
        async move {
            let mut chance = StdRng::seed_from_u64(seed() + (nth * CLIENTS + client) as u64);
            for operation in 0..OPERATIONS {
                let said = format!("round {nth} client {client} operation {operation}");
                field.act(&mut chance, &said).await;
            }
        }
    });
    let mut chance = StdRng::seed_from_u64(seed() ^ nth as u64);
    let (_, processes) = tokio::join!(join_all(clients), field.disturb(&mut chance, processes));
    let server = &processes[0];
    at_rest(server).await;
    field.look(server).await;
    for process in processes {
        process.kill();
    }
    let faults = match url {
        Some(url) => faults_on_postgres(url).await,
        None => faults_on_sqlite(&database_in(copy_of(field.home.data.path()).path())),
    };
    assert!(faults.is_empty(), "seed {}, round {nth}:\n{}", seed(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn soak_runs_end_whatever_happens_on_sqlite() {
    for nth in 0..ROUNDS[usize::from(is_soak())] {
        round(nth, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn soak_runs_end_whatever_happens_between_two_processes() {
    for nth in 0..ROUNDS[usize::from(is_soak())] {
        let database = Database::create().await;
        round(nth, Some(&database)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_wakes_cannot_write_to_what_another_finished() {
    let database = Database::create().await;
    let (field, first) = Field::new(Some(database.url())).await;
    let second = serve(&field.home, Some(database.url()), &field.model);
    field.model.next(Behaviour::text("The old one."));
    field.model.next(Behaviour::text("The new one."));
    field.model.hold();
    let path = format!("/api/v1/agents/{}/runs", field.agent);
    let body = json!({"message": "Which one?", "session_id": field.sessions[0]});
    let asked = first.request(Method::POST, &path).json(&body).send();
    let lookers = async {
        field.model.wait_held(1).await;
        signal(&first, "-STOP");
        // Its lease ends, and the other process begins the run again.
        field.model.wait_received(2).await;
        field.model.release();
        let list = format!("/api/v1/runs?session_id={}", field.sessions[0]);
        wait_until(|| async { second.get(&list).await.1["items"][0]["status"] == "succeeded" })
            .await;
        let ended = second.get(&list).await.1["items"][0].clone();
        assert_eq!((&ended["message"], &ended["attempt"]), (&json!("The new one."), &json!(2)));
        signal(&first, "-CONT");
        ended
    };
    let (answered, ended) = tokio::join!(asked, lookers);
    // The client of the process that slept hears how the run ended.
    let answered = answered.unwrap();
    assert_eq!(answered.status(), StatusCode::OK);
    let answered: Value = answered.json().await.unwrap();
    assert_eq!(answered, ended);
    let path = format!("/api/v1/sessions/{}/messages?order=asc", field.sessions[0]);
    let (_, page) = second.get(&path).await;
    let said: Vec<&Value> =
        page["items"].as_array().unwrap().iter().map(|message| &message["content"]).collect();
    assert_eq!(said, ["Which one?", "The new one."]);
    let faults = faults_on_postgres(database.url()).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
