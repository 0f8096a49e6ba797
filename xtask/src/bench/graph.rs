//! `cargo xtask bench-graph`: what a graph of a million nodes costs. It is imported
//! through the server, on both engines, and then asked about by many clients at a time:
//! statistics, categories, searches, traversals of two steps. Beside each figure stands
//! the one to reach.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::load::{Driver, Outcome, Request, Requests};
use super::procfs::resident_bytes;
use super::report::Machine;
use super::{build, git, http, machine};
use crate::guarded::{Guarded, Spec};
use crate::postgres::{Cluster, log_file};
use crate::workspace::{output, target};

const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long degrees and counters may take to be folded after an import.
const FOLDED_WITHIN: Duration = Duration::from_secs(600);
const CONNECTIONS: u32 = 50;
const SLICE: Duration = Duration::from_secs(3);
/// The import of one call.
const CALL_NODES: u64 = 100_000;
const CALL_EDGES_EACH: u64 = 5;
/// How often the memory of the server is looked at while it imports.
const WATCH_EVERY: Duration = Duration::from_millis(20);

/// What is asked by many, and what is to be reached.
struct Asked {
    name: &'static str,
    path: &'static str,
    body: Option<&'static str>,
    rate: Option<f64>,
    p95_micros: Option<u64>,
}

impl Asked {
    /// A call that has no figure to reach.
    const fn plain(name: &'static str, path: &'static str) -> Self {
        Self { name, path, body: None, rate: None, p95_micros: None }
    }

    /// A call that reads counters or an index: 5,000 a second, 5 ms.
    const fn counted(name: &'static str, path: &'static str) -> Self {
        Self { rate: Some(5_000.0), p95_micros: Some(5_000), ..Self::plain(name, path) }
    }
}

const CASES: [Asked; 9] = [
    Asked::counted("stats", "/api/v1/graph/stats"),
    Asked::counted("entry_points", "/api/v1/graph/categories/entry_points"),
    Asked::counted("hubs", "/api/v1/graph/categories/hubs"),
    Asked::counted("leaves", "/api/v1/graph/categories/leaves"),
    Asked::counted("isolated", "/api/v1/graph/categories/isolated"),
    Asked::plain("search", "/api/v1/graph/nodes/search?name=${pick(ids)}&limit=10"),
    Asked::plain("search_common", "/api/v1/graph/nodes/search?name=node&limit=10"),
    Asked::plain("callers", "/api/v1/graph/query/callers?symbol=${pick(ids)}"),
    Asked {
        body: Some(r#"{"start_node":"${pick(ids)}","max_depth":2,"direction":"both"}"#),
        p95_micros: Some(10_000),
        ..Asked::plain("traverse_2", "/api/v1/graph/traverse")
    },
];

/// How to bench.
#[derive(Debug)]
pub struct Options {
    /// The cargo profile of the server.
    pub profile: String,
    /// Whether the program is taken as it was built before.
    pub built: bool,
    /// Nodes of the graph.
    pub nodes: u64,
    /// Slices of each case.
    pub rounds: usize,
    /// One engine alone.
    pub only: Option<String>,
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
    /// Nodes of the graph.
    pub nodes: u64,
    /// The imports.
    pub imports: Vec<Imported>,
    /// The cases.
    pub cases: Vec<Case>,
}

/// An import in one call.
#[derive(Debug, Serialize)]
pub struct Imported {
    /// The engine.
    pub engine: &'static str,
    /// Nodes.
    pub nodes: u64,
    /// Edges.
    pub edges: u64,
    /// Bytes of lines.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// How much longer it took until statistics counted everything.
    pub folded_seconds: f64,
    /// Resident memory of the server before, in bytes.
    pub resident_before: u64,
    /// Resident memory of the server at most, in bytes.
    pub resident_peak: u64,
}

/// What is asked by many.
#[derive(Debug, Serialize)]
pub struct Case {
    /// The engine.
    pub engine: &'static str,
    /// What.
    pub name: &'static str,
    /// Answers a second.
    pub rate: f64,
    /// In microseconds.
    pub p50_micros: u64,
    /// In microseconds.
    pub p95_micros: u64,
    /// In microseconds.
    pub p99_micros: u64,
    /// Requests that did not end as they should.
    pub failed: u64,
    /// The rate to reach.
    pub rate_to_reach: Option<f64>,
    /// The 95th percentile to reach, in microseconds.
    pub p95_to_reach_micros: Option<u64>,
}

/// Imports and asks, on each engine.
///
/// # Errors
/// When something cannot be built or started, or an import is refused.
pub fn bench(options: &Options) -> Result<Report> {
    let programs = build(&options.profile, options.built)?;
    let place = tempfile::tempdir_in(target())?;
    let place = place.path();
    let cluster = Cluster::start(&log_file("bench-graph"), None)?;
    let graph = place.join("graph.jsonl");
    write_graph(&graph, options.nodes, 1)?;
    let call = place.join("call.jsonl");
    write_graph(&call, CALL_NODES, CALL_EDGES_EACH)?;
    let (mut imports, mut cases) = (Vec::new(), Vec::new());
    for engine in ["sqlite", "postgres"] {
        if options.only.as_ref().is_some_and(|only| only != engine) {
            continue;
        }
        let database = match engine {
            "postgres" => Some(cluster.create_database("graph")?),
            _ => None,
        };
        let server = Server::start(&programs.agentry, place, engine, database)?;
        imports.push(server.import(engine, &call, "call", CALL_NODES, CALL_EDGES_EACH)?);
        imports.push(server.import(engine, &graph, "default", options.nodes, 1)?);
        for case in CASES {
            let case = server.ask(engine, &programs.agentry, place, &case, options)?;
            eprintln!("{} {}: {:.0}/s, p95 {} us", engine, case.name, case.rate, case.p95_micros);
            cases.push(case);
        }
    }
    Ok(Report {
        at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        commit: output(git().args(["describe", "--always", "--dirty"]))?.trim().to_owned(),
        profile: options.profile.clone(),
        machine: machine(place)?,
        nodes: options.nodes,
        imports,
        cases,
    })
}

/// Nodes that are called differently, and from each edges to others all over the graph.
/// Nodes to which none leads are entry points; half of them are like that.
fn write_graph(path: &Path, nodes: u64, edges_each: u64) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for n in 0..nodes {
        let kind = ["function", "class", "module"][usize::try_from(n % 3)?];
        writeln!(
            out,
            r#"{{"type":"node","key":"k{n}","kind":"{kind}","name":"node {n}","properties":{{"line":{n}}}}}"#
        )?;
    }
    for n in 0..nodes {
        for nth in 0..edges_each {
            let to = ((n * 7_919 + nth * 104_729 + 13) % nodes) / 2;
            writeln!(out, r#"{{"type":"edge","from":"k{n}","to":"k{to}","kind":"calls"}}"#)?;
        }
    }
    out.flush()?;
    Ok(())
}

struct Server {
    process: Guarded,
    address: String,
    key: String,
}

impl Server {
    fn start(agentry: &Path, place: &Path, engine: &str, database: Option<String>) -> Result<Self> {
        let data = place.join(engine);
        let program = agentry.to_string_lossy().into_owned();
        let mut command = vec![program, "serve".to_owned()];
        command.extend(["--listen", "127.0.0.1:0", "--data"].map(str::to_owned));
        command.push(data.to_string_lossy().into_owned());
        command.extend(database.into_iter().flat_map(|url| ["--database".to_owned(), url]));
        let mut process = Guarded::start(Spec::new(command, &place.join(format!("{engine}.log"))))?;
        let address = process.wait_for(READY_WITHIN, |line| {
            let (_, address) = line.split_once("listening on http://")?;
            Some(address.trim().to_owned())
        })?;
        let key = std::fs::read_to_string(data.join("owner.key"))?.trim().to_owned();
        Ok(Self { process, address, key })
    }

    /// Sends a file in one call, and waits until all of it is counted.
    fn import(
        &self,
        engine: &'static str,
        file: &Path,
        group: &str,
        nodes: u64,
        edges_each: u64,
    ) -> Result<Imported> {
        let bytes = std::fs::metadata(file)?.len();
        let pid = self.process.pid();
        let resident_before = resident_bytes(pid)?;
        let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let watch = std::thread::spawn({
            let (peak, done) = (Arc::clone(&peak), Arc::clone(&done));
            move || {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(resident) = resident_bytes(pid) {
                        peak.fetch_max(resident, Ordering::Relaxed);
                    }
                    std::thread::park_timeout(WATCH_EVERY);
                }
            }
        });
        let begun = Instant::now();
        let report = self.send(file, bytes, group)?;
        let seconds = begun.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        watch.thread().unpark();
        watch.join().ok().context("the watch over the memory ended early")?;
        ensure!(report["bad_lines"] == 0, "lines were refused: {report}");
        let edges = report["edges"]["created"].as_u64().context("no edges are reported")?;
        let begun = Instant::now();
        let mut wait = Duration::from_millis(1);
        loop {
            let path = format!("/api/v1/graph/stats?group_id={group}");
            let stats: Value = serde_json::from_str(&http::get(&self.address, &path, &self.key)?)?;
            // Each node has an edge that begins there, so that none stands alone.
            let counted = stats["total_nodes"] == nodes
                && stats["total_relationships"] == edges
                && (edges_each == 0 || stats["categories"]["isolated"] == 0);
            if counted {
                break;
            }
            ensure!(begun.elapsed() < FOLDED_WITHIN, "not counted: {stats}");
            std::thread::park_timeout(wait);
            wait = (wait * 2).min(Duration::from_millis(100));
        }
        let imported = Imported {
            engine,
            nodes,
            edges,
            bytes,
            seconds,
            folded_seconds: begun.elapsed().as_secs_f64(),
            resident_before,
            resident_peak: peak.load(Ordering::Relaxed),
        };
        eprintln!("{engine}: {nodes} nodes and {edges} edges in {seconds:.1} s");
        Ok(imported)
    }

    fn send(&self, file: &Path, bytes: u64, group: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(
            stream,
            "POST /api/v1/graph/import?group_id={group} HTTP/1.1\r\nhost: {}\r\nx-api-key: {}\r\n\
             content-type: application/x-ndjson\r\ncontent-length: {bytes}\r\n\
             connection: close\r\n\r\n",
            self.address, self.key
        )?;
        std::io::copy(&mut File::open(file)?, &mut stream)?;
        let mut answer = BufReader::new(stream);
        let mut status = String::new();
        answer.read_line(&mut status)?;
        let mut rest = String::new();
        answer.read_to_string(&mut rest)?;
        let (_, body) = rest.split_once("\r\n\r\n").context("an answer without a body")?;
        ensure!(status.contains(" 200 "), "an import answered {status} {body}");
        Ok(serde_json::from_str(body)?)
    }

    fn ask(
        &self,
        engine: &'static str,
        agentry: &Path,
        place: &Path,
        asked: &Asked,
        options: &Options,
    ) -> Result<Case> {
        let Asked { name, path, body, rate, p95_micros } = *asked;
        let method = if body.is_some() { "post" } else { "get" };
        let request = Request { weight: 1, method, path, body, tokens: false };
        // Keys of nodes all over the graph.
        let ids = match path.contains("pick(ids)") || body.is_some() {
            true => (0..1_000).map(|n| format!("k{}", n * 997 % options.nodes)).collect(),
            false => Vec::new(),
        };
        let key = Some(self.key.clone());
        let requests = Requests { key, mix: vec![request], ids, slice: SLICE };
        let driver = Driver::new(
            agentry,
            place,
            &format!("{engine}-{name}"),
            &self.address,
            CONNECTIONS,
            &requests,
        )?;
        let mut outcome = Outcome::none()?;
        for _ in 0..options.rounds {
            outcome.merge(&driver.slice()?)?;
        }
        Ok(Case {
            engine,
            name,
            rate: outcome.rate(),
            p50_micros: outcome.percentile_micros(0.5),
            p95_micros: outcome.percentile_micros(0.95),
            p99_micros: outcome.percentile_micros(0.99),
            failed: outcome.failed,
            rate_to_reach: rate,
            p95_to_reach_micros: p95_micros,
        })
    }
}

/// Where results go when nobody says.
pub fn out(root: &Path) -> PathBuf {
    root.join("bench/results/local/graph.json")
}

impl Report {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} ({}), {} cpus, {} nodes, {CONNECTIONS} connections\n",
            self.commit, self.profile, self.machine.cpus, self.nodes
        );
        let mib = |bytes: u64| bytes >> 20;
        for it in &self.imports {
            let _ = writeln!(
                text,
                "{:9} import of {} nodes and {} edges ({} MiB): {:.1} s, {:.0} lines/s, \
                 counted {:.1} s later, resident {} MiB, at most {} MiB",
                it.engine,
                it.nodes,
                it.edges,
                mib(it.bytes),
                it.seconds,
                (it.nodes + it.edges) as f64 / it.seconds,
                it.folded_seconds,
                mib(it.resident_before),
                mib(it.resident_peak),
            );
        }
        text += &format!(
            "{:9} {:14} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}\n",
            "engine", "case", "a second", "to reach", "p50 us", "p95 us", "to reach", "failed"
        );
        for case in &self.cases {
            let shown = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_owned());
            let holds = case.rate_to_reach.is_none_or(|rate| case.rate >= rate)
                && case.p95_to_reach_micros.is_none_or(|p95| case.p95_micros <= p95)
                && case.failed == 0;
            let _ = writeln!(
                text,
                "{:9} {:14} {:>9.0} {:>9} {:>9} {:>9} {:>9} {:>7}  {}",
                case.engine,
                case.name,
                case.rate,
                shown(case.rate_to_reach.map(|rate| format!("{rate:.0}"))),
                case.p50_micros,
                case.p95_micros,
                shown(case.p95_to_reach_micros.map(|p95| p95.to_string())),
                case.failed,
                if holds { "holds" } else { "MISSED" },
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_has_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g");
        write_graph(&path, 10, 2).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 30);
        assert_eq!(lines.iter().filter(|line| line["type"] == "edge").count(), 20);
    }
}
