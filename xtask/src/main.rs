//! `cargo xtask`: the command line of the house. It parses and prints; the
//! work is in the library beside it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xtask::bench::{Options, bench, generators, goodput, graph, mcp, realtime, recall, runs};
use xtask::powercut::{Journal, Operation, Replay, Unsynced};
use xtask::surroundings::{Surroundings, cargo_soak, cargo_test};
use xtask::{code_graph, shims, workspace};

/// What the house needs around its code.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs `cargo test` with PostgreSQL, Python and the shims around it.
    Test {
        /// Passed to `cargo test`; the whole workspace unless they choose packages.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs the tests with `soak` in their name in their long form.
    Soak {
        /// Passed to `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs any command with what the tests need around it.
    With {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Measures throughput, latency and CPU beside a bare server and a peer.
    Bench {
        /// The cargo profile of the servers; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Rounds, in each of which every case has its slice.
        #[arg(long, default_value_t = 8)]
        rounds: usize,
        /// Takes the programs as they were built before.
        #[arg(long)]
        built: bool,
        /// Only cases whose names contain this.
        #[arg(long)]
        only: Option<String>,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Fails when a floor does not hold.
        #[arg(long)]
        gate: bool,
    },
    /// Measures the lab itself beside wrk, oha and Locust: requests a second and
    /// CPU for each, and memory.
    BenchLab {
        /// The cargo profile of the programs; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Rounds, in each of which every generator has its slice.
        #[arg(long, default_value_t = 8)]
        rounds: usize,
        /// Takes the programs as they were built before.
        #[arg(long)]
        built: bool,
        /// Where oha is (`cargo install oha --locked --root DIR`); on the path
        /// without it, and left out when it is not there either.
        #[arg(long)]
        oha: Option<PathBuf>,
        /// How long the run lasts whose memory is watched, in seconds.
        #[arg(long, default_value_t = 120)]
        long: u64,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Measures what it costs to tell many listeners: deliveries a second, their
    /// lag, CPU for each, and memory for an idle one.
    BenchRealtime {
        /// The cargo profile of the server; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Take the program as it was built before.
        #[arg(long)]
        built: bool,
        /// Listeners, over all processes.
        #[arg(long, default_value_t = 5_000)]
        connections: usize,
        /// Processes that hold them.
        #[arg(long, default_value_t = 4)]
        processes: usize,
        /// How long each load is measured, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Measures what a run costs over calling its model directly: time, rate, time to
    /// the first token, commits and bytes.
    BenchRuns {
        /// The cargo profile of server and mock; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Take the programs as they were built before.
        #[arg(long)]
        built: bool,
        /// Slices of each kind.
        #[arg(long, default_value_t = 6)]
        rounds: usize,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Measures what the gateway costs, in processor time: the whole of it over a bare
    /// route, the checks of keys, tokens, roles and limits.
    BenchGateway {
        /// The cargo profile; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Fails when something costs more than it may.
        #[arg(long)]
        gate: bool,
    },
    /// Measures what the server answers well when it is asked once, twice and five
    /// times what it can do, and what an organisation waits beside one that asks for
    /// ten times its share, with the lab.
    BenchGoodput {
        /// The cargo profile of the server; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Take the programs as they were built before.
        #[arg(long)]
        built: bool,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Fails when too little is left under overload.
        #[arg(long)]
        gate: bool,
    },
    /// Measures a graph of a million nodes: its import, statistics, categories,
    /// searches and traversals, on both engines.
    BenchGraph {
        /// The cargo profile of the server; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Take the program as it was built before.
        #[arg(long)]
        built: bool,
        /// Nodes of the graph.
        #[arg(long, default_value_t = 1_000_000)]
        nodes: u64,
        /// Slices of each case.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// `sqlite` or `postgres` alone.
        #[arg(long)]
        only: Option<String>,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Writes this repository as a graph of crates, modules, functions and calls: the
    /// lines that `POST /api/v1/graph/import` reads.
    CodeGraph {
        /// Where the lines go; stdout without it.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Measures what a call of an MCP server costs over the bare exchange: call, list and
    /// connect, over pipes and HTTP.
    BenchMcp {
        /// The cargo profile of the server; final figures come from `release`.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Take the program as it was built before.
        #[arg(long)]
        built: bool,
        /// Calls of each kind.
        #[arg(long, default_value_t = 1_000)]
        calls: usize,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Measures how much of the evidence for a question recall finds, beside plain full
    /// text: recall at 5, 10, 20 and 50, and nDCG at 10.
    BenchRecall {
        /// A file in the shape of LoCoMo; it is no part of this project.
        #[arg(long)]
        data: PathBuf,
        /// The cargo profile of the server.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Takes the program as it was built before.
        #[arg(long)]
        built: bool,
        /// A `postgres://` URL, to keep the state there; SQLite without it.
        #[arg(long)]
        database: Option<String>,
        /// Where the results go, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Holds connections for `bench-realtime`, which starts it.
    #[command(hide = true)]
    Listen {
        /// `HOST:PORT` of the server.
        address: String,
        /// How many.
        connections: usize,
    },
    /// Builds the preloaded libraries into target/shims.
    Shims,
    /// Looks into a journal of the shim `powercut`.
    #[command(subcommand)]
    Powercut(Powercut),
}

#[derive(Subcommand)]
enum Powercut {
    /// Lists what was recorded, one record a line.
    Show {
        /// The journal.
        journal: PathBuf,
    },
    /// Writes the directory that a power cut would have left, and says how many
    /// answers had left before it.
    Replay {
        /// The journal.
        journal: PathBuf,
        /// The recorded directory as it was before the first record; empty
        /// when this is missing.
        #[arg(long)]
        base: Option<PathBuf>,
        /// The power is cut before this record; after the last when missing.
        #[arg(long)]
        at: Option<usize>,
        /// An empty directory.
        #[arg(long)]
        into: PathBuf,
        /// Keeps some of what was not synced, by chance from this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Tears unsynced writes at sectors.
        #[arg(long, requires = "seed")]
        torn: bool,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().task {
        Task::Test { args } => Surroundings::prepare()?.run(&mut cargo_test(&args)).map(code),
        Task::Soak { args } => Surroundings::prepare()?.run(&mut cargo_soak(&args)).map(code),
        Task::With { command } => {
            let (program, args) = command.split_first().context("there is no command")?;
            Surroundings::prepare()?.run(Command::new(program).args(args)).map(code)
        }
        Task::Bench { profile, rounds, built, only, out, gate } => {
            let report = bench(&Options { profile, built, rounds, only })?;
            let out =
                out.unwrap_or_else(|| workspace::root().join("bench/results/local/latest.json"));
            write_results(&report, &report.table(), &out)?;
            let failed = gate && !report.holds();
            Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Task::BenchLab { profile, rounds, built, oha, long, out } => {
            let options = generators::Options { profile, built, rounds, oha, long_seconds: long };
            let report = generators::bench(&options)?;
            let out = out.unwrap_or_else(|| workspace::root().join("bench/results/local/lab.json"));
            write_results(&report, &report.table(), &out)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::BenchRealtime { profile, built, connections, processes, seconds, out } => {
            let options = realtime::Options { profile, built, connections, processes, seconds };
            let report = realtime::bench(&options)?;
            let out =
                out.unwrap_or_else(|| workspace::root().join("bench/results/local/realtime.json"));
            write_results(&report, &report.table(), &out)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::BenchRuns { profile, built, rounds, out } => {
            let report = runs::bench(&runs::Options { profile, built, rounds })?;
            let out = out.unwrap_or_else(|| runs::out(&workspace::root()));
            write_results(&report, &report.table(), &out)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::BenchGateway { profile, out, gate } => {
            let out =
                out.unwrap_or_else(|| workspace::root().join("bench/results/local/gateway.json"));
            if let Some(dir) = out.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let mut bench = workspace::cargo();
            bench.args(["bench", "--workspace", "--bench", "gateway", "--profile", &profile]);
            if gate {
                bench.args(["--", "--gate"]);
            }
            let status = bench.env("AGENTRY_BENCH_OUT", &out).status()?;
            eprintln!("written to {}", out.display());
            Ok(code(status))
        }
        Task::BenchGoodput { profile, built, out, gate } => {
            let report = goodput::bench(&profile, built)?;
            let out =
                out.unwrap_or_else(|| workspace::root().join("bench/results/local/goodput.json"));
            write_results(&report, &report.table(), &out)?;
            let failed = gate && !report.holds();
            Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Task::BenchGraph { profile, built, nodes, rounds, only, out } => {
            let options = graph::Options { profile, built, nodes, rounds, only };
            let report = graph::bench(&options)?;
            let out = out.unwrap_or_else(|| graph::out(&workspace::root()));
            write_results(&report, &report.table(), &out)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::CodeGraph { out } => {
            let counts = match out {
                Some(out) => {
                    let mut file = std::io::BufWriter::new(std::fs::File::create(out)?);
                    let counts = code_graph::write(&mut file)?;
                    file.flush()?;
                    counts
                }
                None => code_graph::write(&mut std::io::stdout().lock())?,
            };
            let [contains, imports, calls] = counts.edges;
            eprintln!("{} nodes; {contains} contain, {imports} import, {calls} call", counts.nodes);
            Ok(ExitCode::SUCCESS)
        }
        Task::BenchMcp { profile, built, calls, out } => {
            let report = mcp::bench(&mcp::Options { profile, built, calls })?;
            let out = out.unwrap_or_else(|| mcp::out(&workspace::root()));
            write_results(&report, &report.table(), &out)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::BenchRecall { data, profile, built, database, out } => {
            let options = recall::Options { profile, built, data, database, out };
            let holds = recall::bench(&options)?;
            Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Task::Listen { address, connections } => {
            realtime::listen(&address, connections)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Shims => {
            shims::build(&workspace::target().join("shims"))?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Powercut(task) => powercut(task).map(|()| ExitCode::SUCCESS),
    }
}

fn write_results(report: &impl serde::Serialize, table: &str, out: &Path) -> Result<()> {
    if let Some(dir) = out.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(out, serde_json::to_string_pretty(report)? + "\n")?;
    std::io::stdout().lock().write_all(table.as_bytes())?;
    eprintln!("written to {}", out.display());
    Ok(())
}

fn powercut(task: Powercut) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match task {
        Powercut::Show { journal } => {
            for (index, record) in Journal::read(&journal)?.records.iter().enumerate() {
                let what = match &record.operation {
                    Operation::Write { offset, data } => {
                        format!("Write {} bytes at {offset}", data.len())
                    }
                    other => format!("{other:?}"),
                };
                writeln!(out, "{index} {} {what}", record.path)?;
            }
        }
        Powercut::Replay { journal, base, at, into, seed, torn } => {
            let journal = Journal::read(&journal)?;
            let mut replay = Replay::new(&journal, base.as_deref())?;
            replay.advance_to(at.unwrap_or(journal.records.len()))?;
            let unsynced = match seed {
                Some(seed) => Unsynced::Subset { seed, torn },
                None => Unsynced::Dropped,
            };
            std::fs::create_dir_all(&into)?;
            replay.write_to(&into, unsynced)?;
            writeln!(out, "{}", replay.acknowledged().len())?;
        }
    }
    Ok(())
}

/// The exit code of the command becomes ours.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
