//! Many streamed runs at once, whose readers drop and come back at random, with a
//! kill in the middle. What each reader was told is compared with what the model
//! sent; then the server must be as small as before.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentry_testkit::{Answer, Behaviour, Chunking, ModelServer};
use futures::future::join_all;
use parking_lot::Mutex;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::json;

use crate::on_both_engines;
use crate::run_reader::{Reader, RunStream};
use crate::server::{Engine, Home, Process, wait_until};

on_both_engines! {
    soak_many_streams_survive_drops_and_a_kill,
}

/// Runs, in the short and in the long form.
const RUNS: usize = 200;
const RUNS_SOAK: usize = 1_000;
/// Events of each run, on average, that were read when the server is killed.
const EVENTS_BEFORE_KILL: usize = 6;
/// How many descriptors and tasks may be more than at the start: the probes' own.
const LEFT_MAX: usize = 8;
/// How much more memory a server may hold after a second crowd than after the first,
/// which has filled its caches.
const MEMORY_GROWN_MAX: u64 = 24 * 1_024 * 1_024;
/// How long until somebody tries again whose server is away.
const AWAY_PAUSE: Duration = Duration::from_millis(50);

/// Where servers can be reached now.
#[derive(Clone)]
struct Where(Arc<Mutex<Vec<String>>>);

struct Crowd {
    servers: Where,
    client: Client,
    key: String,
    path: String,
    heard: AtomicUsize,
}

impl Crowd {
    /// A request to one of the servers.
    fn request(&self, dice: &mut u64, method: Method, path: &str) -> RequestBuilder {
        let servers = self.servers.0.lock();
        let server = &servers[roll(dice, servers.len())];
        self.client.request(method, format!("{server}{path}")).header("x-api-key", &self.key)
    }

    /// Starts a run and reads it to its end, through drops of its own and others'.
    async fn run(&self, nth: usize) -> (Reader, usize) {
        let mut dice = nth as u64 + 1;
        let mut reader = Reader::default();
        let body = json!({"message": input(nth), "stream": true});
        let mut breaks = 0;
        // The request goes again, with its key, until its run is known.
        let (run, mut stream) = loop {
            let request = self
                .request(&mut dice, Method::POST, &self.path)
                .header("idempotency-key", format!("crowd-{nth}"))
                .json(&body);
            match request.send().await {
                Ok(response) if response.status() == StatusCode::OK => {
                    let run = response.headers()["x-run-id"].to_str().unwrap().to_owned();
                    break (run, RunStream::of(response));
                }
                _ => tokio::time::sleep(AWAY_PAUSE).await,
            }
        };
        loop {
            let patience = 1 + roll(&mut dice, 12);
            for _ in 0..patience {
                let Some(told) = stream.event().await else { break };
                reader.take(&told);
                self.heard.fetch_add(1, Ordering::Relaxed);
                if reader.finished.is_some() {
                    return (reader, breaks);
                }
            }
            breaks += 1;
            drop(stream);
            stream = loop {
                let path = format!("/api/v1/runs/{run}/events");
                let mut request = self.request(&mut dice, Method::GET, &path);
                if let Some(after) = &reader.after {
                    request = request.header("last-event-id", after);
                }
                match request.send().await {
                    Ok(response) if response.status() == StatusCode::OK => {
                        break RunStream::of(response);
                    }
                    _ => tokio::time::sleep(AWAY_PAUSE).await,
                }
            };
        }
    }
}

fn input(nth: usize) -> String {
    format!("Nr. {nth}: Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 🦆 Ende.")
}

/// The next of a row of numbers that look like chance (xorshift64).
fn roll(dice: &mut u64, sides: usize) -> usize {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    usize::try_from(*dice % sides as u64).unwrap()
}

/// Open descriptors, background tasks, and bytes of memory of a server.
async fn size(process: &Process) -> (usize, usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let metrics = process.request(Method::GET, "/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let name = "agentry_background_tasks ";
    let tasks = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    (descriptors, tasks.parse().unwrap(), kib * 1_024)
}

async fn soak_many_streams_survive_drops_and_a_kill(engine: Engine) {
    let soak = std::env::var_os("AGENTRY_TEST_SOAK").is_some_and(|value| value == "1");
    let runs = if soak { RUNS_SOAK } else { RUNS };
    let model = ModelServer::start().await;
    let chunking = Chunking { token_chars: 3, ..Chunking::default() };
    model.by_default(Behaviour {
        chunking,
        write_delay: Duration::from_millis(40),
        ..Behaviour::new(Answer::Numbered)
    });
    let home = Home::new(engine).await;
    let url = model.base_url();
    let settings = [
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str()),
        // A process that is only slow must not lose its runs.
        ("AGENTRY_RUNS__LEASE_MS", if soak { "15000" } else { "5000" }),
        ("AGENTRY_LOG", "error"),
    ];
    let start = || Process::start_with(&home, &settings);
    let mut processes = vec![start()];
    if engine == Engine::Postgres {
        processes.push(start());
    }
    let body = json!({
        "name": "llm", "model": "compatible/near/m", "memory": {"recall": false, "remember": false},
    });
    let (status, agent) = processes[0].post("/api/v1/agents", body).await;
    assert_eq!(status, StatusCode::CREATED, "{agent}");
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let (_, run) = processes[0].post(&path, json!({"message": "to begin with"})).await;
    assert_eq!(run["success"], true, "{run}");
    let before = size(&processes[0]).await;

    let servers = processes.iter().map(|process| process.url.clone()).collect();
    let crowd = Crowd {
        servers: Where(Arc::new(Mutex::new(servers))),
        client: Client::new(),
        key: processes[0].key.clone(),
        path,
        heard: AtomicUsize::new(0),
    };
    let kill = async {
        while crowd.heard.load(Ordering::Relaxed) < runs * EVENTS_BEFORE_KILL {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let killed = processes.pop().unwrap();
        killed.kill();
        let again = start();
        *crowd.servers.0.lock() =
            processes.iter().chain([&again]).map(|process| process.url.clone()).collect();
        processes.push(again);
    };
    let (told, ()) = tokio::join!(join_all((0..runs).map(|nth| crowd.run(nth))), kill);
    let (breaks, resets) = check(&told, 0, &model);
    // The kill came while runs went on.
    assert!(resets > 0 && breaks > runs, "{resets} resets, {breaks} breaks");
    assert_eq!(home.number("select count(*) from run_chunk").await, 0);
    assert_eq!(home.number("select count(*) from job").await, 0);
    let first: Vec<u64> = join_all(processes.iter().map(async |it| size(it).await.2)).await;

    // Once more, without a kill, to see whether anything grows.
    let told = join_all((runs..2 * runs).map(|nth| crowd.run(nth))).await;
    check(&told, runs, &model);
    drop(crowd);
    model.stop().await;
    for (process, first) in processes.iter().zip(first) {
        wait_until(|| async {
            let (descriptors, tasks, memory) = size(process).await;
            descriptors <= before.0 + LEFT_MAX
                && tasks <= before.1 + LEFT_MAX
                && memory <= first + MEMORY_GROWN_MAX
        })
        .await;
        let after = size(process).await;
        eprintln!(
            "{engine:?}: {runs} runs twice, {breaks} breaks, {resets} resets; descriptors, tasks, \
             memory: {before:?} before, {first} after the first, {after:?} after the second"
        );
    }
}

/// Compares what readers were told with what the model said: how often they came
/// back, and how often text was void.
fn check(told: &[(Reader, usize)], begin: usize, model: &ModelServer) -> (usize, usize) {
    let mut said: HashMap<String, Vec<String>> = HashMap::new();
    for text in model.said() {
        let input = text.split_once(": ").unwrap().1.to_owned();
        said.entry(input).or_default().push(text);
    }
    let (mut breaks, mut resets) = (0, 0);
    for (nth, (reader, broken)) in told.iter().enumerate() {
        let finished = reader.finished.as_ref().unwrap();
        assert_eq!(finished["status"], "succeeded", "{finished}");
        assert_eq!(finished["message"], reader.text);
        assert_eq!(finished["attempt"], reader.attempt);
        let said = &said[&input(begin + nth)];
        assert!(said.contains(&reader.text), "{} of {said:?}", reader.text);
        breaks += broken;
        resets += reader.resets;
    }
    (breaks, resets)
}
