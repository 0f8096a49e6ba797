//! `cargo xtask bench-mcp`: what a call of an MCP server's tool costs through this
//! server over the bare exchange. The official "everything" server is asked by
//! ourselves, over its pipes and over HTTP on a connection that stays open, and through
//! our HTTP, one call after the other, in turns, so that both see the same machine.
//! Added is the median of what a pair of neighbours differs by.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::report::Machine;
use super::{build, git, machine};
use crate::guarded::{Guarded, Spec};
use crate::node;
use crate::workspace::{output, target};

const READY_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Calls of each kind before any is timed.
const WARM_UP: usize = 50;
/// Of a handshake and of a start.
const CONNECTS: usize = 10;
/// What the published benchmark has, in milliseconds: call, list, connect.
const BASELINES_MS: [(&str, f64); 3] = [("call", 100.0), ("list", 50.0), ("connect", 200.0)];
/// What a call or a list may cost beyond the bare exchange, in microseconds.
const ADDED_MICROS_MAX: i64 = 1_000;
/// The same of a connect, which also reads the catalogue and stores where the server is.
const CONNECT_ADDED_MICROS_MAX: i64 = 50_000;
/// 32 bytes in base-64.
const SEALING_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// How to bench.
#[derive(Debug)]
pub struct Options {
    /// The cargo profile of the server.
    pub profile: String,
    /// Whether the program is taken as it was built before.
    pub built: bool,
    /// Calls of each kind.
    pub calls: usize,
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
}

/// One operation over one transport, in microseconds.
#[derive(Debug, Serialize)]
pub struct Case {
    /// stdio or http.
    pub transport: &'static str,
    /// call, list or connect.
    pub operation: &'static str,
    /// How often.
    pub count: usize,
    /// The bare exchange.
    pub bare_p50_micros: u64,
    /// The same.
    pub bare_p99_micros: u64,
    /// Through this server, end to end over HTTP.
    pub p50_micros: u64,
    /// The same.
    pub p99_micros: u64,
    /// What it takes longer, the median of pairs.
    pub added_p50_micros: i64,
    /// The published baseline.
    pub baseline_micros: u64,
    /// Whether it is ten times under its baseline and adds at most a millisecond; of a
    /// connect, whether it is within the baseline, or exceeds it for the server's sake alone.
    pub holds: bool,
}

/// Builds, starts, asks and stops everything.
///
/// # Errors
/// When something does not build or start, or answers something else.
pub fn bench(options: &Options) -> Result<Report> {
    ensure!(options.calls > 0, "at least one call");
    let programs = build(&options.profile, options.built)?;
    let script = node::everything()?;
    let place = target().join("bench");
    std::fs::create_dir_all(&place)?;
    let place = tempfile::tempdir_in(place)?;
    let server = Server::start(&programs.agentry, place.path())?;
    let mut cases = Vec::new();
    let body = json!({
        "name": "pipes", "type": "stdio", "command": "node",
        "args": [script.to_string_lossy(), "stdio"],
    });
    let through = server.register(&body)?;
    let mut bare = Pipes::start(&script)?;
    cases.extend(measure("stdio", &mut bare, through, options.calls)?);
    let connect = || Pipes::start(&script).map(drop);
    cases.push(connects("stdio", connect, server.register(&rename(&body, "again"))?)?);

    let (_theirs, address) = over_http(&script, place.path())?;
    let body = json!({"name": "http", "type": "http", "url": format!("http://{address}/mcp")});
    let through = server.register(&body)?;
    let mut bare = Exchange::start(&address)?;
    cases.extend(measure("http", &mut bare, through, options.calls)?);
    let connect = || Exchange::start(&address).map(drop);
    cases.push(connects("http", connect, server.register(&rename(&body, "http again"))?)?);
    Ok(Report {
        at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        commit: output(git().args(["describe", "--always", "--dirty"]))?.trim().to_owned(),
        profile: options.profile.clone(),
        machine: machine(place.path())?,
        cases,
    })
}

fn rename(body: &Value, name: &str) -> Value {
    let mut body = body.clone();
    body["name"] = name.into();
    body
}

/// Whoever is asked as the protocol says.
trait Bare {
    fn ask(&mut self, method: &str, params: &Value) -> Result<Value>;
}

fn initialize() -> Value {
    json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    })
}

fn request(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// The server as a process of ours.
struct Pipes {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    asked: u64,
}

impl Pipes {
    fn start(script: &Path) -> Result<Self> {
        let mut command = Command::new("node");
        command.arg(script).arg("stdio").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut pipes = Self { child, input, output, asked: 0 };
        pipes.ask("initialize", &initialize())?;
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        writeln!(pipes.input, "{ready}")?;
        Ok(pipes)
    }
}

impl Bare for Pipes {
    fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.asked += 1;
        let id = self.asked;
        self.input.write_all((request(id, method, params) + "\n").as_bytes())?;
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "the MCP server went away");
            let answer: Value = serde_json::from_str(&line)?;
            if answer["id"] == id {
                return Ok(answer);
            }
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that stays open.
struct Open {
    stream: BufReader<TcpStream>,
    address: String,
}

impl Open {
    fn to(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self { stream: BufReader::new(stream), address: address.to_owned() })
    }

    /// Sends a request and reads all of its answer: status, headers, body.
    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(u16, String, String)> {
        let (address, length) = (&self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(self.stream.read_line(&mut head)? > 0, "the connection ended");
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.context("no status")?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let mut text = Vec::new();
        if header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                self.stream.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16)?;
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk)?;
                if size == 0 {
                    break;
                }
                text.extend_from_slice(&chunk[..size]);
            }
        } else {
            let length = header("content-length").map_or(Ok(0), |length| length.parse())?;
            text.resize(length, 0);
            self.stream.read_exact(&mut text)?;
        }
        Ok((status, head.clone(), String::from_utf8(text)?))
    }
}

/// The server over HTTP, asked by ourselves.
struct Exchange {
    open: Open,
    session: String,
    asked: u64,
}

impl Exchange {
    fn start(address: &str) -> Result<Self> {
        let mut exchange = Self { open: Open::to(address)?, session: String::new(), asked: 0 };
        exchange.ask("initialize", &initialize())?;
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        exchange.post(&ready.to_string())?;
        Ok(exchange)
    }

    fn post(&mut self, body: &str) -> Result<String> {
        let headers = format!(
            "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-11-25\r\n{}",
            self.session
        );
        let (status, head, text) = self.open.send("POST", "/mcp", &headers, body)?;
        ensure!((200..300).contains(&status), "the MCP server answered {status} {text}");
        let session = head.lines().find(|line| {
            line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("mcp-session-id"))
        });
        if let Some(session) = session {
            self.session = format!("{session}\r\n");
        }
        Ok(text)
    }
}

impl Bare for Exchange {
    fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.asked += 1;
        let text = self.post(&request(self.asked, method, params))?;
        let mut answers = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let last = answers.next_back().unwrap_or(&text);
        serde_json::from_str(last).context("an answer that is no JSON")
    }
}

/// Our server.
struct Server {
    _process: Guarded,
    address: String,
    key: String,
}

/// A server that is registered with ours.
struct Through {
    open: Open,
    headers: String,
    path: String,
}

impl Server {
    fn start(agentry: &Path, place: &Path) -> Result<Self> {
        let data = place.join("data");
        let mut command = vec![agentry.to_string_lossy().into_owned(), "serve".to_owned()];
        command.extend(["--listen", "127.0.0.1:0", "--data"].map(str::to_owned));
        command.push(data.to_string_lossy().into_owned());
        let spec = Spec::new(command, &place.join("server.log"))
            .env("AGENTRY_OUTBOUND__LOOPBACK_TARGETS_ALLOWED", "true")
            .env("AGENTRY_SEALING_KEY", SEALING_KEY);
        let mut process = Guarded::start(spec)?;
        let address = process.wait_for(READY_WITHIN, |line| {
            let (_, address) = line.split_once("listening on http://")?;
            Some(address.trim().to_owned())
        })?;
        let key = std::fs::read_to_string(data.join("owner.key"))?.trim().to_owned();
        Ok(Self { _process: process, address, key })
    }

    fn register(&self, body: &Value) -> Result<Through> {
        let headers = format!("x-api-key: {}\r\n", self.key);
        let mut open = Open::to(&self.address)?;
        let (status, _, text) =
            open.send("POST", "/api/v1/mcp/servers", &headers, &body.to_string())?;
        ensure!(status == 201, "registering answered {status} {text}");
        let made: Value = serde_json::from_str(&text)?;
        let id = made["id"].as_str().context("a new server has no id")?;
        let path = format!("/api/v1/mcp/servers/{id}");
        let mut through = Through { open, headers, path };
        through.act("start")?;
        Ok(through)
    }
}

impl Through {
    fn send(&mut self, method: &str, path: &str, body: &str) -> Result<String> {
        let path = format!("{}/{path}", self.path);
        let (status, _, text) = self.open.send(method, &path, &self.headers, body)?;
        ensure!(status == 200, "{method} {path} answered {status} {text}");
        Ok(text)
    }

    fn act(&mut self, action: &str) -> Result<()> {
        self.send("POST", action, "").map(drop)
    }
}

fn over_http(script: &Path, place: &Path) -> Result<(Guarded, String)> {
    // It cannot be asked for a free port; one that was free a moment ago is.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let command =
        ["node".to_owned(), script.to_string_lossy().into_owned(), "streamableHttp".to_owned()];
    let spec = Spec::new(command, &place.join("theirs.log")).env("PORT", port.to_string());
    let process = Guarded::start(spec)?;
    let address = format!("127.0.0.1:{port}");
    let begun = Instant::now();
    while TcpStream::connect(&address).is_err() {
        ensure!(begun.elapsed() < READY_WITHIN, "the MCP server does not listen");
    }
    Ok((process, address))
}

fn measure(
    transport: &'static str,
    bare: &mut impl Bare,
    mut through: Through,
    calls: usize,
) -> Result<Vec<Case>> {
    let echo = json!({"name": "echo", "arguments": {"message": "hello"}});
    let body = json!({"arguments": {"message": "hello"}}).to_string();
    let mut cases = Vec::new();
    for operation in ["call", "list"] {
        let mut pairs = Vec::with_capacity(calls);
        for n in 0..WARM_UP + calls {
            let begun = Instant::now();
            let answer = match operation {
                "call" => bare.ask("tools/call", &echo)?,
                _ => bare.ask("tools/list", &json!({}))?,
            };
            let direct = begun.elapsed();
            ensure!(answer["result"].is_object(), "the MCP server answered {answer}");
            let begun = Instant::now();
            let text = match operation {
                "call" => through.send("POST", "tools/echo/call", &body)?,
                _ => through.send("GET", "tools", "")?,
            };
            let ours = begun.elapsed();
            ensure!(text.contains("echo") || text.contains("Echo"), "answered {text}");
            if n >= WARM_UP {
                pairs.push((direct, ours));
            }
        }
        cases.push(Case::of(transport, operation, &pairs));
    }
    Ok(cases)
}

fn connects(
    transport: &'static str,
    connect: impl Fn() -> Result<()>,
    mut through: Through,
) -> Result<Case> {
    let mut pairs = Vec::new();
    for _ in 0..CONNECTS {
        let begun = Instant::now();
        connect()?;
        let direct = begun.elapsed();
        through.act("stop")?;
        let begun = Instant::now();
        through.act("start")?;
        pairs.push((direct, begun.elapsed()));
    }
    Ok(Case::of(transport, "connect", &pairs))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn at<T: Copy + Ord>(values: &mut [T], share: f64) -> T {
    values.sort_unstable();
    let place = ((values.len() - 1) as f64 * share).round() as usize;
    values[place]
}

impl Case {
    fn of(
        transport: &'static str,
        operation: &'static str,
        pairs: &[(Duration, Duration)],
    ) -> Self {
        let mut bare: Vec<u64> = pairs.iter().map(|(bare, _)| micros(*bare)).collect();
        let mut ours: Vec<u64> = pairs.iter().map(|(_, ours)| micros(*ours)).collect();
        let mut added: Vec<i64> = pairs
            .iter()
            .map(|(bare, ours)| micros(*ours).cast_signed() - micros(*bare).cast_signed())
            .collect();
        let baseline = BASELINES_MS.iter().find(|(name, _)| *name == operation);
        let baseline_ms = baseline.map_or(0.0, |(_, ms)| *ms);
        let baseline_micros = (baseline_ms * 1_000.0) as u64;
        let (p50, added) = (at(&mut ours, 0.5), at(&mut added, 0.5));
        let is_warm = operation != "connect";
        let holds = if is_warm {
            p50 * 10 <= baseline_micros && added <= ADDED_MICROS_MAX
        } else {
            // Starting Node.js alone may take longer than the baseline has.
            let is_theirs = at(&mut bare, 0.5) > baseline_micros;
            p50 <= baseline_micros || (is_theirs && added <= CONNECT_ADDED_MICROS_MAX)
        };
        Self {
            transport,
            operation,
            count: pairs.len(),
            bare_p50_micros: at(&mut bare, 0.5),
            bare_p99_micros: at(&mut bare, 0.99),
            p50_micros: p50,
            p99_micros: at(&mut ours, 0.99),
            added_p50_micros: added,
            baseline_micros,
            holds,
        }
    }
}

/// Where results go when nobody says.
pub fn out(root: &Path) -> PathBuf {
    root.join("bench/results/local/mcp.json")
}

impl Report {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<6} {:<8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
            "", "", "bare p50", "p99", "ours p50", "p99", "added", "baseline"
        );
        for case in &self.cases {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<6} {:<8} {:>8}us {:>8}us {:>8}us {:>8}us {:>8}us {:>8}us {}",
                case.transport,
                case.operation,
                case.bare_p50_micros,
                case.bare_p99_micros,
                case.p50_micros,
                case.p99_micros,
                case.added_p50_micros,
                case.baseline_micros,
                if case.holds { "holds" } else { "MISSED" }
            );
        }
        text
    }
}
