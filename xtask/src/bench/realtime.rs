//! `cargo xtask bench-realtime`: what it costs to tell many listeners. A server
//! holds connections of several client processes; writers make agents over HTTP
//! as fast as they can (the peak), then at half of the rate that this gave, and
//! then as many as make half of the deliveries that are aimed at and half of those
//! that are the floor.
//! A delivery is one event read by one client; its lag is from the writer's
//! instant in the event to the client's read, sampled at the newest event of each
//! read. Server, writers and clients share the processors, so what a delivery
//! costs the server says more than how many there were.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::procfs::{CpuClock, resident_bytes};
use super::report::Machine;
use super::{git, machine};
use crate::guarded::{Guarded, Spec};
use crate::workspace::{cargo, output, run, target};

/// Connections of writers; a server shares a commit among those that wait.
const WRITERS: usize = 16;
/// Deliveries a second that are aimed at, and fewer than which are too few.
const DELIVERIES_AIM: f64 = 800_000.0;
const DELIVERIES_FLOOR: f64 = 400_000.0;
/// What comes before each measurement.
const SETTLE: Duration = Duration::from_secs(2);
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Steps of the lag's histogram for each factor of e: a step is 1 %.
const STEPS: f64 = 100.0;
const BUCKETS: usize = 2_400;

/// How to bench.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cargo profile of the server.
    pub profile: String,
    /// Whether the program is taken as it was built before.
    pub built: bool,
    /// Listeners, over all processes.
    pub connections: usize,
    /// Processes that hold them.
    pub processes: usize,
    /// How long each load is measured, in seconds.
    pub seconds: u64,
}

/// What one bench found.
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
    /// Listeners.
    pub connections: usize,
    /// Processes that held them.
    pub processes: usize,
    /// Resident bytes of the server for each idle connection.
    pub idle_bytes_each: u64,
    /// The loads.
    pub loads: Vec<Load>,
}

/// One load.
#[derive(Debug, Serialize)]
pub struct Load {
    /// `peak`, `half`, `half of the aim` or `half of the floor`.
    pub name: &'static str,
    /// Writes that were acknowledged, a second.
    pub writes_per_second: f64,
    /// Events that clients read, a second, all of them together.
    pub deliveries_per_second: f64,
    /// The server's CPU time for a delivery, writes included, in microseconds.
    pub server_cpu_micros: f64,
    /// The clients' and the bench's own, in microseconds.
    pub client_cpu_micros: f64,
    /// Processors that the server kept busy.
    pub server_cpus: f64,
    /// Lag, in microseconds.
    pub lag_p50_micros: u64,
    /// Lag, in microseconds.
    pub lag_p99_micros: u64,
    /// Clients that were told that they lag.
    pub lagged: u64,
}

/// What a client process says when it is asked.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Heard {
    deliveries: u64,
    lagged: u64,
    lag: Vec<u64>,
}

/// Builds, starts, loads and stops everything.
///
/// # Errors
/// When something does not build or start, or a client breaks off.
pub fn bench(options: &Options) -> Result<Report> {
    ensure!(options.processes > 0 && options.connections >= options.processes, "no connections");
    let mut build = cargo();
    // The listeners are this program, built like the server: what they cost is taken
    // from the same processors.
    build.args(["build", "--profile", &options.profile, "-p", "agentry", "--bin", "agentry"]);
    build.args(["-p", "xtask", "--bin", "xtask"]);
    if !options.built {
        run(&mut build)?;
    }
    let dir = target().join(if options.profile == "dev" { "debug" } else { &options.profile });
    let place = target().join("bench");
    std::fs::create_dir_all(&place)?;
    let place = tempfile::tempdir_in(place)?;
    let (server, address, key) = serve(&dir.join("agentry"), place.path(), options.connections)?;
    let before = resident_bytes(server.pid())?;
    let mut clients = Vec::new();
    for nth in 0..options.processes {
        let share = options.connections / options.processes
            + usize::from(nth < options.connections % options.processes);
        clients.push(Client::start(&dir.join("xtask"), &address, &key, share)?);
    }
    pause(SETTLE);
    let idle = resident_bytes(server.pid())?.saturating_sub(before);
    let load = Loader { server: &server, address: &address, key: &key, options };
    let peak = load.measure("peak", None, &mut clients)?;
    let writes = |deliveries: f64| Some(deliveries / options.connections as f64);
    let loads = vec![
        load.measure("half", Some(peak.writes_per_second / 2.0), &mut clients)?,
        load.measure("half of the aim", writes(DELIVERIES_AIM / 2.0), &mut clients)?,
        load.measure("half of the floor", writes(DELIVERIES_FLOOR / 2.0), &mut clients)?,
    ];
    Ok(Report {
        at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        commit: output(git().args(["describe", "--always", "--dirty"]))?.trim().to_owned(),
        profile: options.profile.clone(),
        machine: machine(place.path())?,
        connections: options.connections,
        processes: options.processes,
        idle_bytes_each: idle / options.connections as u64,
        loads: std::iter::once(peak).chain(loads).collect(),
    })
}

fn serve(program: &Path, place: &Path, connections: usize) -> Result<(Guarded, String, String)> {
    let data = place.join("data");
    let room = (connections + 100).to_string();
    let program = program.to_string_lossy().into_owned();
    let data_text = data.to_string_lossy().into_owned();
    let command = [program.as_str(), "serve", "--listen", "127.0.0.1:0", "--data", &data_text];
    let spec = Spec::new(command, &place.join("server.log"))
        .env("AGENTRY_HTTP__CONNECTIONS_MAX", &room)
        .env("AGENTRY_HTTP__SUBSCRIPTIONS_MAX", &room);
    let mut server = Guarded::start(spec)?;
    let address = server.wait_for(READY_WITHIN, |line| {
        line.strip_prefix("listening on http://").map(|address| address.trim().to_owned())
    })?;
    let key = std::fs::read_to_string(data.join("owner.key"))?.trim().to_owned();
    Ok((server, address, key))
}

/// A process that holds connections; it ends when its stdin does.
struct Client {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Client {
    fn start(program: &Path, address: &str, key: &str, connections: usize) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["listen", address, &connections.to_string()])
            .env("LISTEN_KEY", key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("the pipe was asked for")?;
        let mut client = Self { child, lines: BufReader::new(stdout).lines() };
        ensure!(client.line()? == "ready", "a client did not connect");
        Ok(client)
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().context("a client broke off")??)
    }

    /// What it heard since it was last asked.
    fn heard(&mut self) -> Result<Heard> {
        self.child.stdin.as_mut().context("the pipe was asked for")?.write_all(b"\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

struct Loader<'a> {
    server: &'a Guarded,
    address: &'a str,
    key: &'a str,
    options: &'a Options,
}

impl Loader<'_> {
    fn measure(
        &self,
        name: &'static str,
        rate: Option<f64>,
        clients: &mut [Client],
    ) -> Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        let pace = rate.map(|rate| Duration::from_secs_f64(WRITERS as f64 / rate.max(1.0)));
        let writers: Vec<_> = (0..WRITERS)
            .map(|nth| {
                let (stop, writes) = (Arc::clone(&stop), Arc::clone(&writes));
                let (address, key) = (self.address.to_owned(), self.key.to_owned());
                // Their turns are spread: writers in step would be bursts of sixteen.
                let turn = pace.map(|every| (every * nth as u32 / WRITERS as u32, every));
                std::thread::spawn(move || write(&address, &key, turn, &stop, &writes))
            })
            .collect();
        pause(SETTLE);
        let clock = CpuClock::new()?;
        // The writers are threads of ours, the server and the clients children.
        let all = || clock.used_by(std::process::id());
        for client in clients.iter_mut() {
            client.heard()?;
        }
        let (begun, done) = (Instant::now(), writes.load(Ordering::Relaxed));
        let (server_before, all_before) = (clock.used_by(self.server.pid())?, all()?);
        pause(Duration::from_secs(self.options.seconds));
        let (server_after, all_after) = (clock.used_by(self.server.pid())?, all()?);
        let took = begun.elapsed().as_secs_f64();
        let done = writes.load(Ordering::Relaxed) - done;
        let mut heard = Heard { lag: vec![0; BUCKETS], ..Heard::default() };
        for client in clients.iter_mut() {
            let one = client.heard()?;
            heard.deliveries += one.deliveries;
            heard.lagged += one.lagged;
            for (all, one) in heard.lag.iter_mut().zip(one.lag) {
                *all += one;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        let server = server_after.saturating_sub(server_before).as_secs_f64();
        let others = all_after.saturating_sub(all_before).as_secs_f64() - server;
        let each = |seconds: f64| seconds * 1e6 / heard.deliveries.max(1) as f64;
        Ok(Load {
            name,
            writes_per_second: done as f64 / took,
            deliveries_per_second: heard.deliveries as f64 / took,
            server_cpu_micros: each(server),
            client_cpu_micros: each(others),
            server_cpus: server / took,
            lag_p50_micros: percentile(&heard.lag, 0.5),
            lag_p99_micros: percentile(&heard.lag, 0.99),
            lagged: heard.lagged,
        })
    }
}

const BODY: &str = r#"{"name":"told"}"#;

/// Makes agents until told to stop, one at a time; with a turn, which is its first
/// time and what is between two, each at its time.
fn write(
    address: &str,
    key: &str,
    turn: Option<(Duration, Duration)>,
    stop: &AtomicBool,
    writes: &AtomicU64,
) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let length = BODY.len();
    let request = format!(
        "POST /api/v1/agents HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{BODY}"
    );
    let mut answer = vec![0; 16 * 1_024];
    let mut due = Instant::now() + turn.map_or(Duration::ZERO, |(first, _)| first);
    while !stop.load(Ordering::Relaxed) {
        if let Some((_, every)) = turn {
            pause(due.saturating_duration_since(Instant::now()));
            due += every;
        }
        stream.write_all(request.as_bytes())?;
        let mut read = 0;
        loop {
            let more = stream.read(&mut answer[read..])?;
            ensure!(more > 0, "the server closed a writer's connection");
            read += more;
            if is_whole(&answer[..read]) {
                break;
            }
        }
        ensure!(answer.starts_with(b"HTTP/1.1 201"), "an agent was not made");
        writes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether an answer has as many bytes as its head says.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    length
        .and_then(|length| length.trim().parse().ok())
        .is_some_and(|length: usize| answer.len() >= head + 4 + length)
}

#[expect(clippy::disallowed_methods, reason = "a bench measures over time")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn percentile(lag: &[u64], share: f64) -> u64 {
    let all: u64 = lag.iter().sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut seen = 0;
    for (bucket, count) in lag.iter().enumerate() {
        seen += count;
        if seen >= wanted && seen > 0 {
            return (bucket as f64 / STEPS).exp() as u64;
        }
    }
    0
}

fn bucket(micros: u64) -> usize {
    (((micros.max(1) as f64).ln() * STEPS) as usize).min(BUCKETS - 1)
}

/// A client process: holds connections, says `ready`, and for each line on stdin
/// what it heard since the last one.
///
/// # Errors
/// When a connection cannot be made or breaks off.
pub fn listen(address: &str, connections: usize) -> Result<()> {
    let key = std::env::var("LISTEN_KEY").context("LISTEN_KEY is not set")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let heard = Arc::new(Shared::new());
    let address = address.to_owned();
    let theirs = Arc::clone(&heard);
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let connected = runtime.block_on(async {
            let local = tokio::task::LocalSet::new();
            for _ in 0..connections {
                let stream = connect(&address, &key).await?;
                local.spawn_local(hear(stream, Arc::clone(&theirs)));
            }
            let _ = ready.send(());
            local.await;
            anyhow::Ok(())
        });
        if let Err(error) = connected {
            eprintln!("a listener: {error:#}");
        }
    });
    is_ready.recv().context("not every connection came about")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", serde_json::to_string(&heard.take())?)?;
        out.flush()?;
    }
    Ok(())
}

/// What the connections of one process heard. One thread counts, another asks.
struct Shared {
    deliveries: AtomicU64,
    lagged: AtomicU64,
    lag: Vec<AtomicU64>,
}

impl Shared {
    fn new() -> Self {
        Self {
            deliveries: AtomicU64::new(0),
            lagged: AtomicU64::new(0),
            lag: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn take(&self) -> Heard {
        Heard {
            deliveries: self.deliveries.swap(0, Ordering::Relaxed),
            lagged: self.lagged.swap(0, Ordering::Relaxed),
            lag: self.lag.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect(),
        }
    }
}

async fn connect(address: &str, key: &str) -> Result<tokio::net::TcpStream> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let path = "/ws/events?event_types=agent.created";
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\
         x-api-key: {key}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // The head and the frame `ready`, which ends it: nothing is written yet.
    let mut read = Vec::new();
    while !read.windows(7).any(|bytes| bytes == b"\"ready\"") {
        let more = stream.read_buf(&mut read).await?;
        ensure!(more > 0 && read.len() < 16 * 1_024, "no WebSocket came about");
    }
    Ok(stream)
}

const READ_BYTES: usize = 64 * 1_024;

/// Reads frames: their number, and how old the newest of each read is.
async fn hear(stream: tokio::net::TcpStream, heard: Arc<Shared>) {
    // The rest of a frame that was not there as a whole.
    let mut rest: Vec<u8> = Vec::new();
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> =
            std::cell::RefCell::new(Vec::with_capacity(2 * READ_BYTES));
    }
    while stream.readable().await.is_ok() {
        let goes_on = BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            buffer.append(&mut rest);
            match stream.try_read_buf(buffer) {
                Ok(0) => false,
                Ok(_) => {
                    let used = count(buffer, &heard);
                    rest.extend_from_slice(&buffer[used..]);
                    true
                }
                Err(error) => {
                    rest.extend_from_slice(buffer);
                    error.kind() == std::io::ErrorKind::WouldBlock
                }
            }
        });
        if !goes_on {
            return;
        }
    }
}

/// Counts the whole frames and says how many bytes they have.
fn count(buffer: &[u8], heard: &Shared) -> usize {
    let (mut at, mut events, mut newest) = (0, 0, None);
    while let Some((begin, end)) = frame(&buffer[at..]) {
        let payload = &buffer[at + begin..at + end];
        if payload.starts_with(br#"{"type":"event""#) {
            events += 1;
            newest = Some(payload);
        } else if payload.windows(8).any(|bytes| bytes == br#""lagged""#) {
            heard.lagged.fetch_add(1, Ordering::Relaxed);
        }
        at += end;
    }
    heard.deliveries.fetch_add(events, Ordering::Relaxed);
    if let Some(lag) = newest.and_then(age_micros) {
        heard.lag[bucket(lag)].fetch_add(1, Ordering::Relaxed);
    }
    at
}

/// Where the payload of a frame of a server begins and ends.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (begin, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => return None,
        short => (2, usize::from(short)),
    };
    (bytes.len() >= begin + length).then_some((begin, begin + length))
}

const MINUTE_MICROS: u64 = 60_000_000;

/// How old an event is. Only the seconds of its time are read; nothing here is a
/// minute old.
fn age_micros(event: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(event).ok()?;
    let (_, time) = text.split_once(r#""timestamp":""#)?;
    let seconds: u64 = time.get(17..19)?.parse().ok()?;
    let micros: u64 = time.get(20..26)?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_micros() as u64 % MINUTE_MICROS;
    Some((now + MINUTE_MICROS - (seconds * 1_000_000 + micros)) % MINUTE_MICROS)
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} connections of {} processes, {} x {}, {} build of {}; {} bytes for each idle one\n",
            self.connections,
            self.processes,
            self.machine.cpus,
            self.machine.cpu,
            self.profile,
            self.commit,
            self.idle_bytes_each,
        );
        let _ = writeln!(
            text,
            "| load | writes/s | deliveries/s | server us each | clients us each | server CPUs | lag \
             p50 ms | p99 ms | lagged |\n|---|---|---|---|---|---|---|---|---|"
        );
        for load in &self.loads {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {} |",
                load.name,
                load.writes_per_second,
                load.deliveries_per_second,
                load.server_cpu_micros,
                load.client_cpu_micros,
                load.server_cpus,
                load.lag_p50_micros as f64 / 1e3,
                load.lag_p99_micros as f64 / 1e3,
                load.lagged,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_and_their_age_read() {
        let heard = Shared::new();
        let event = |seq: u64| {
            let text = format!(
                r#"{{"type":"event","seq":{seq},"event_type":"agent.created","entity_type":"agent","timestamp":"2026-11-21T12:00:00.000000Z"}}"#
            );
            [&[0x81, u8::try_from(text.len()).unwrap_or(0)][..], text.as_bytes()].concat()
        };
        let bytes = [event(1), event(2), vec![0x89, 0], event(3)].concat();
        let used = count(&bytes[..bytes.len() - 5], &heard);
        assert_eq!(used, event(1).len() * 2 + 2);
        assert_eq!(heard.take().deliveries, 2);
        assert_eq!(count(&bytes[used..], &heard), event(3).len());
        let taken = heard.take();
        assert_eq!((taken.deliveries, taken.lag.iter().sum::<u64>()), (1, 1));
    }

    #[test]
    fn percentiles_are_within_a_step() {
        let mut lag = vec![0; BUCKETS];
        for micros in 1..=1_000 {
            lag[bucket(micros * 100)] += 1;
        }
        let (p50, p99) = (percentile(&lag, 0.5), percentile(&lag, 0.99));
        assert!((48_000..=51_000).contains(&p50), "{p50}");
        assert!((97_000..=100_000).contains(&p99), "{p99}");
    }
}
