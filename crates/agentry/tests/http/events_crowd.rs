//! Many listeners at once: crowds, cuts, kills, several processes. What each of
//! them heard is compared with the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use agentry_testkit::WAIT_MAX;
use futures::future::join_all;
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde_json::json;

use crate::on_both_engines;
use crate::server::{Engine, Home, Process};
use crate::socket::{CLOSE, Frame, PING, Socket, TEXT};

on_both_engines! {
    a_revoked_key_closes_its_streams,
}

async fn a_revoked_key_closes_its_streams(engine: Engine) {
    let home = Home::new(engine).await;
    let process = Process::start(&home);
    let mut open = vec![
        Socket::open(&process, "/ws/events").await,
        Socket::open(&process, "/ws/events/filtered").await,
    ];
    let mut stream = process.request(reqwest::Method::GET, "/events").send().await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    // As another process would: nothing tells this one but the store.
    home.execute("delete from key_secret").await;
    for socket in &mut open {
        // What the server did as it started may be told first.
        let frame = loop {
            let frame = socket.frame().await.unwrap();
            if frame.opcode() == CLOSE {
                break frame;
            }
        };
        assert_eq!(frame.code(), Some(1008));
        assert_eq!(socket.frame().await, None);
    }
    let ended = async { while stream.chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    tokio::time::timeout(WAIT_MAX, ended).await.expect("the stream ends");
}

/// Where the server is now; it changes when it is killed.
#[derive(Clone)]
struct Address(Arc<Mutex<String>>);

impl Address {
    fn get(&self) -> String {
        self.0.lock().clone()
    }
}

/// What a client does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Reads nothing until the writing is over.
    Sleeps,
    /// Reads, and drops the connection after so many events.
    Drops(usize),
}

struct Listener {
    address: Address,
    key: String,
    habit: Habit,
    cursor: i64,
    seen: Vec<i64>,
}

/// The place of an event, without reading the rest of it.
fn seq_of(payload: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(payload).ok()?;
    let rest = text.strip_prefix(r#"{"type":"event","seq":"#)?;
    rest.split(',').next()?.parse().ok()
}

impl Listener {
    /// Listens until it has heard the event at `last`, which is set when the
    /// writing is over.
    async fn listen(mut self, over: Arc<AtomicBool>, last: Arc<Mutex<i64>>) -> Self {
        while !(over.load(Ordering::SeqCst) && self.cursor >= *last.lock()) {
            // While the server is away nobody answers; it comes back elsewhere.
            let Some(mut socket) = self.connect().await else {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            };
            if self.habit == Habit::Sleeps {
                while !over.load(Ordering::SeqCst) {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            self.read(&mut socket, &over, &last).await;
        }
        self
    }

    async fn connect(&self) -> Option<Socket> {
        let (url, key) = (self.address.get(), self.key.clone());
        let path = format!("/ws/events?after={}", self.cursor);
        Socket::try_open(&url, &key, &path).await
    }

    /// Reads until the connection ends, is dropped, or has told everything.
    async fn read(&mut self, socket: &mut Socket, over: &AtomicBool, last: &Mutex<i64>) {
        let mut heard = 0;
        while let Some(frame) = socket.frame_now().await {
            let Frame { first, payload } = &frame;
            if first & 15 == PING {
                continue;
            }
            if *first != 0x80 | TEXT {
                return;
            }
            if let Some(seq) = seq_of(payload) {
                assert!(seq > self.cursor, "{seq} after {}: a double", self.cursor);
                self.cursor = seq;
                self.seen.push(seq);
                heard += 1;
            } else if frame.json()["type"] == "lagged" {
                // Who is too slow asks again.
                let resume = json!({"action": "resume", "after": self.cursor});
                socket.say(&resume.to_string()).await;
                while socket.frame_now().await.is_some_and(|frame| {
                    frame.opcode() == PING || frame.json()["type"] != "resumed"
                }) {}
            }
            if over.load(Ordering::SeqCst) {
                if self.cursor >= *last.lock() {
                    return;
                }
            } else if self.habit == Habit::Drops(heard) {
                return;
            }
        }
    }
}

/// The most memory that a process had at once, in bytes.
fn memory_peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1_024
}

const LISTENERS: usize = 500;
const WRITERS: usize = 16;
const WRITES_BEFORE_KILL: usize = 700;
const WRITES: usize = 1_400;
/// What 500 listeners may add: 20 KiB each, the ring of 4 MiB and a batch beside
/// it; the rest is the page cache of the store, which grows with what is written.
const MEMORY_ADDED_MAX: u64 = 500 * 20 * 1_024 + 5 * 1_024 * 1_024 + 48 * 1_024 * 1_024;

/// Half of 500 clients do not read, the others drop and resume, writers write at
/// full speed, and the server is killed in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_clients_lose_nothing_to_a_kill() {
    let home = Home::new(Engine::Sqlite).await;
    let process = Process::start(&home);
    let (probe, begin) = Socket::open_at(&process.url, &process.key, "/ws/events").await;
    drop(probe);
    let alone = memory_peak(process.id());
    let address = Address(Arc::new(Mutex::new(process.url.clone())));
    let over = Arc::new(AtomicBool::new(false));
    let last = Arc::new(Mutex::new(i64::MAX));
    let listeners: Vec<_> = (0..LISTENERS)
        .map(|nth| {
            let habit = if nth % 2 == 0 { Habit::Sleeps } else { Habit::Drops(50 + nth * 7 % 400) };
            let listener = Listener {
                address: address.clone(),
                key: process.key.clone(),
                habit,
                cursor: begin,
                seen: Vec::new(),
            };
            tokio::spawn(listener.listen(Arc::clone(&over), Arc::clone(&last)))
        })
        .collect();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            tokio::spawn(write(address.clone(), process.key.clone(), Arc::clone(&acknowledged)))
        })
        .collect();
    while acknowledged.load(Ordering::SeqCst) < WRITES_BEFORE_KILL {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let before_kill = memory_peak(process.id());
    process.kill();
    let process = Process::start(&home);
    *address.0.lock() = process.url.clone();
    for writer in writers {
        writer.await.unwrap();
    }
    let (_, status) = process.get("/ws/status").await;
    *last.lock() = status["newest"].as_i64().unwrap();
    over.store(true, Ordering::SeqCst);
    let newest = *last.lock();
    let all: Vec<i64> = (begin + 1..=newest).collect();
    assert!(all.len() >= WRITES, "the log has what was acknowledged");
    for listener in join_all(listeners).await {
        let Listener { seen, habit, .. } = listener.unwrap();
        assert!(seen == all, "{habit:?}: {} of {}", seen.len(), all.len());
    }
    for (peak, when) in [(before_kill, "before the kill"), (memory_peak(process.id()), "after")] {
        let added = peak.saturating_sub(alone);
        assert!(added <= MEMORY_ADDED_MAX, "{added} bytes more {when}");
    }
}

/// Makes agents until enough were acknowledged, whatever happens to the server.
async fn write(address: Address, key: String, acknowledged: Arc<AtomicUsize>) {
    let client = reqwest::Client::new();
    while acknowledged.load(Ordering::SeqCst) < WRITES {
        let request = client
            .post(format!("{}/api/v1/agents", address.get()))
            .header("x-api-key", &key)
            .json(&json!({"name": "crowd"}));
        match request.send().await {
            Ok(answer) if answer.status() == StatusCode::CREATED => {
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

/// Two processes on one PostgreSQL, 32 writers: whoever listens at either hears
/// every entry once and in the same order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_tell_the_same_story() {
    const EACH: usize = 12;
    let home = Home::new(Engine::Postgres).await;
    let processes = [Process::start(&home), Process::start(&home)];
    let (probe, begin) = Socket::open_at(&processes[0].url, &processes[0].key, "/ws/events").await;
    drop(probe);
    let mut sockets = Vec::new();
    for nth in 0..6 {
        let path = format!("/ws/events?event_types=agent.created&after={begin}");
        sockets.push(Socket::open(&processes[nth % 2], &path).await);
    }
    let writers = (0..32).map(|nth| {
        let process = &processes[nth % 2];
        async move {
            let mut made = Vec::new();
            for _ in 0..EACH {
                let (status, agent) =
                    process.post("/api/v1/agents", json!({"name": format!("w{nth}")})).await;
                assert_eq!(status, StatusCode::CREATED, "{agent}");
                made.push(agent["id"].as_str().unwrap().to_owned());
            }
            made
        }
    });
    let readers = sockets.iter_mut().map(async |socket| {
        let mut heard = Vec::new();
        while heard.len() < 32 * EACH {
            let event = socket.json().await;
            let id = event["entity_id"].as_str().unwrap().to_owned();
            heard.push((event["seq"].as_i64().unwrap(), id));
        }
        heard
    });
    let (made, heard) = tokio::join!(join_all(writers), join_all(readers));
    let made: HashSet<String> = made.into_iter().flatten().collect();
    assert_eq!(made.len(), 32 * EACH);
    for one in &heard {
        assert!(one.is_sorted_by(|one, next| one.0 < next.0), "out of order");
        assert_eq!(one, &heard[0], "all hear the same");
        assert_eq!(one.iter().map(|(_, id)| id.clone()).collect::<HashSet<_>>(), made);
    }
}
