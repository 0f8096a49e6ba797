//! The command line of `agentry lab`. Stdout is data, stderr is talk.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::sync::watch;

use crate::calibrate;
use crate::drive::{self, Finished, RUN_FILE};
use crate::hit;
use crate::machine;
use crate::mock::{Delay, Mock, Stall, Tokens};
use crate::progress::{Progress, give_back_terminal, say};
use crate::report;
use crate::scenario::{Overrides, Plan, SCHEMA, SHIPPED, Surroundings, shipped};
use crate::stress;
use crate::summary::Summary;
use crate::transport::{Protocol, Transport};
use crate::units;
use crate::verdict::{Exit, judge};

/// The load lab.
#[derive(Args, Debug)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Load one URL.
    Hit(HitArgs),
    /// Run a scenario: a file, or one that is shipped.
    Run(RunArgs),
    /// Raise the rate until the target breaks.
    Stress(StressArgs),
    /// Measure this machine's own error.
    Calibrate(CalibrateArgs),
    /// Find the faults of a scenario without running it.
    Check(CheckArgs),
    /// Make the reports of a run file again.
    Report(ReportArgs),
    /// Say what results cannot claim.
    Audit(AuditArgs),
    /// Serve a target whose delays are known.
    Mock(MockArgs),
}

#[derive(Args, Debug)]
pub(crate) struct HitArgs {
    /// http://HOST:PORT/PATH, or https://
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    /// Users who wait for each answer.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: u32,
    /// How long.
    #[arg(short, long, default_value = "10s", value_parser = units::duration, conflicts_with = "requests")]
    pub(crate) duration: Duration,
    /// How many, instead of how long.
    #[arg(short = 'n', long)]
    pub(crate) requests: Option<u64>,
    /// Open load: so many a second, whatever the target does, such as 500/s.
    #[arg(short, long, value_parser = units::rate, conflicts_with = "requests")]
    pub(crate) rate: Option<f64>,
    /// Open load with random gaps.
    #[arg(long, requires = "rate")]
    pub(crate) poisson: bool,
    /// How many may be under way at once in an open load.
    #[arg(long, default_value_t = 1000, requires = "rate", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) users: u32,
    /// What comes before is not in the results.
    #[arg(long, default_value = "0s", value_parser = units::duration)]
    pub(crate) warmup: Duration,
    /// How long a request may take.
    #[arg(long, default_value = "60s", value_parser = units::duration)]
    pub(crate) timeout: Duration,
    #[arg(short = 'X', long, default_value = "GET")]
    pub(crate) method: String,
    /// NAME: VALUE
    #[arg(short = 'H', long = "header")]
    pub(crate) headers: Vec<String>,
    /// The body, sent as JSON unless a header says otherwise.
    #[arg(short, long)]
    pub(crate) body: Option<String>,
    /// Threads of the generator.
    #[arg(long, default_value_t = threads_by_default(), value_parser = threads)]
    pub(crate) threads: usize,
    /// The directory for the run file and the reports.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// How connections are made.
#[derive(Args, Clone, Debug)]
pub(crate) struct TransportArgs {
    /// auto (over TLS what the target chooses, else HTTP/1.1), http1 or http2.
    #[arg(long)]
    pub(crate) protocol: Option<Protocol>,
    /// Trust any certificate.
    #[arg(long, conflicts_with = "ca")]
    pub(crate) insecure: bool,
    /// A PEM file: trust what it certifies, and nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

impl TransportArgs {
    pub(crate) fn transport(&self) -> Transport {
        Transport {
            protocol: self.protocol.unwrap_or_default(),
            insecure: self.insecure,
            ca: self.ca.clone(),
        }
    }

    /// As they were given, each with a space before it.
    pub(crate) fn words(&self) -> String {
        let protocol = self.protocol.map(|protocol| format!(" --protocol {protocol}"));
        let insecure = self.insecure.then(|| " --insecure".to_owned());
        let ca = self.ca.as_ref().map(|ca| format!(" --ca {}", ca.display()));
        [protocol, insecure, ca].into_iter().flatten().collect()
    }
}

#[derive(Args, Debug)]
struct RunArgs {
    /// A file, or the name of a shipped scenario.
    scenario: String,
    #[command(flatten)]
    transport: TransportArgs,
    /// http://HOST:PORT, instead of the scenario's.
    #[arg(long)]
    target: Option<String>,
    /// Which of the scenario's profiles; `normal` or the first without it.
    #[arg(long)]
    profile: Option<String>,
    /// How long, instead of what the profile says.
    #[arg(long, value_parser = units::duration)]
    duration: Option<Duration>,
    /// How many iterations, instead of how long.
    #[arg(long)]
    requests: Option<u64>,
    /// How many users, who wait for their answers.
    #[arg(long)]
    concurrency: Option<u32>,
    /// How long a request may take.
    #[arg(long, value_parser = units::duration)]
    timeout: Option<Duration>,
    /// Only this entry of the mix; may be repeated.
    #[arg(long, value_name = "ENDPOINT")]
    only: Vec<String>,
    /// One run for each of these numbers of users.
    #[arg(long, value_delimiter = ',', conflicts_with = "concurrency")]
    sweep: Vec<u32>,
    /// Another seed than the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads of the generator.
    #[arg(long, default_value_t = threads_by_default(), value_parser = threads)]
    threads: usize,
    /// The directory for the run file and the reports.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct StressArgs {
    /// http://HOST:PORT/PATH, a scenario's file, or the name of a shipped one.
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    /// http://HOST:PORT, instead of the scenario's.
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// NAME: VALUE, for a URL.
    #[arg(short = 'H', long = "header")]
    pub(crate) headers: Vec<String>,
    /// Where to begin.
    #[arg(long, default_value = "50/s", value_parser = units::rate)]
    pub(crate) from: f64,
    /// Where to end at the latest.
    #[arg(long, default_value = "1000000/s", value_parser = units::rate)]
    pub(crate) to: f64,
    /// Each step's rate, times that of the step before.
    #[arg(long, default_value_t = 1.5, value_parser = factor)]
    pub(crate) factor: f64,
    /// How long each step lasts.
    #[arg(long, default_value = "5s", value_parser = units::duration)]
    pub(crate) step: Duration,
    /// More errors than this are a break.
    #[arg(long, default_value = "1%", value_parser = units::share)]
    pub(crate) errors: f64,
    /// A longer 95th percentile is a break.
    #[arg(long, default_value = "1s", value_parser = units::duration)]
    pub(crate) p95: Duration,
    /// How many may be under way at once.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) users: u32,
    /// How long a request may take.
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    pub(crate) timeout: Duration,
    /// Threads of the generator.
    #[arg(long, default_value_t = threads_by_default(), value_parser = threads)]
    pub(crate) threads: usize,
    /// The directory for a run file and reports of each step.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (1.01..=10.0).contains(&factor) => Ok(factor),
        _ => Err("from 1.01 to 10".to_owned()),
    }
}

#[derive(Args, Debug)]
struct CalibrateArgs {
    /// How long each part lasts.
    #[arg(long, default_value = "5s", value_parser = units::duration)]
    duration: Duration,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// A file, or the name of a shipped scenario.
    #[arg(required_unless_present = "schema")]
    scenario: Option<String>,
    /// Print the JSON Schema of scenarios, for editors and programs.
    #[arg(long, conflicts_with = "scenario")]
    schema: bool,
}

#[derive(Args, Debug)]
struct ReportArgs {
    /// A run file, or the directory of one.
    run: PathBuf,
    /// Where to; the directory of the run file without it.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct AuditArgs {
    /// Run files or their directories, Locust `_stats.csv`, k6 summaries, or
    /// figures and claims as YAML; several are the phases of one report.
    #[arg(required = true)]
    results: Vec<PathBuf>,
}

#[derive(Args, Debug)]
struct MockArgs {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// none, constant:5ms, bimodal:2ms,50ms,10% or lognormal:5ms,0.8
    #[arg(long, default_value = "none")]
    delay: Delay,
    /// How many requests are answered 500, such as 1%.
    #[arg(long, default_value = "0%", value_parser = units::share)]
    errors: f64,
    /// Nothing is answered for so long ...
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    stall: Option<Duration>,
    /// ... from this long after the first request.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::duration, requires = "stall")]
    stall_at: Duration,
    /// How many writes of items are acknowledged and not carried out.
    #[arg(long, default_value = "0%", value_parser = units::share)]
    lose: f64,
    /// Tokens of a completion.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    tokens: u32,
    /// Tokens in one event of a streamed completion.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    tokens_per_event: u32,
    /// Between two events.
    #[arg(long, default_value = "5ms", value_parser = units::duration)]
    token_gap: Duration,
    /// Tear every event over two chunks.
    #[arg(long)]
    torn: bool,
    /// Speak TLS, with a certificate made at the start.
    #[arg(long)]
    tls: bool,
    /// Where to write that certificate, for clients that are to trust it.
    #[arg(long, value_name = "FILE", requires = "tls")]
    certificate: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Half of the CPUs, so that a target on the same machine has the other half.
fn threads_by_default() -> usize {
    (std::thread::available_parallelism().map_or(1, std::num::NonZero::get) / 2).max(1)
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=256) => Ok(threads),
        _ => Err("from 1 to 256".to_owned()),
    }
}

/// Runs the command. The exit code is 0 when everything held, 1 when a
/// threshold was broken or faults were found, 4 when nothing valid was
/// measured.
pub fn main(args: LabArgs) -> ExitCode {
    machine::use_small_pages();
    let ended = match args.command {
        LabCommand::Hit(args) => hit(&args),
        LabCommand::Run(args) => run(&args),
        LabCommand::Stress(args) => stress::stress(&args),
        LabCommand::Calibrate(args) => calibrate::calibrate(args.duration),
        LabCommand::Check(args) => check(&args),
        LabCommand::Report(args) => make_report(&args),
        LabCommand::Audit(args) => audit(&args),
        LabCommand::Mock(args) => serve_mock(&args),
    };
    match ended {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(message) => {
            eprintln!("lab: {message}");
            ExitCode::from(Exit::Invalid.code())
        }
    }
}

fn hit(args: &HitArgs) -> Result<Exit, String> {
    let (plan, options) = hit::plan(args)?;
    Ok(carry_out(plan, &options)?.0)
}

fn run(args: &RunArgs) -> Result<Exit, String> {
    let text = read_scenario(&args.scenario)?;
    let env = |name: &str| std::env::var(name).ok();
    let run = run_name();
    let mut worst = Exit::Pass;
    let mut swept = Vec::new();
    let sweep: Vec<Option<u32>> = match args.sweep.as_slice() {
        [] => vec![args.concurrency],
        numbers => numbers.iter().copied().map(Some).collect(),
    };
    for (n, concurrency) in sweep.iter().enumerate() {
        let overrides = Overrides {
            target: args.target.clone(),
            profile: args.profile.clone(),
            duration: args.duration,
            requests: args.requests,
            concurrency: *concurrency,
            timeout: args.timeout,
            only: args.only.clone(),
            seed: args.seed,
            protocol: args.transport.protocol,
            insecure: args.transport.insecure,
            ca: args.transport.ca.clone(),
        };
        // Users of one run must not meet what those of another left.
        let run = if args.sweep.is_empty() { run.clone() } else { format!("{run}-{n}") };
        let surroundings = Surroundings { env: &env, run: &run };
        let plan = Plan::read(&text, &overrides, &surroundings)
            .map_err(|faults| report::faults(&args.scenario, &faults))?;
        let out = match (&args.out, concurrency) {
            (Some(out), Some(users)) if !args.sweep.is_empty() => {
                Some(out.join(format!("c{users}")))
            }
            (out, _) => out.clone(),
        };
        let name = Path::new(&args.scenario).file_stem().unwrap_or_default();
        let options = drive::Options {
            scenario: name.to_string_lossy().into_owned(),
            scenario_text: text.clone(),
            run,
            command: run_command(args, *concurrency),
            threads: args.threads,
            out,
        };
        let (exit, summary) = carry_out(plan, &options)?;
        if exit.code() > worst.code() {
            worst = exit;
        }
        swept.push((exit, summary));
        // Whoever ends one run wants none of those that would follow.
        if swept.last().is_some_and(|(_, summary)| summary.was_ended()) {
            break;
        }
    }
    if !args.sweep.is_empty() {
        print(&report::sweep(&swept));
    }
    Ok(worst)
}

/// The command that does this one run again.
fn run_command(args: &RunArgs, concurrency: Option<u32>) -> String {
    let mut words = vec![format!("agentry lab run {}", args.scenario)];
    let mut flag = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name} {value}")));
    };
    flag("target", args.target.clone());
    flag("profile", args.profile.clone());
    flag("duration", args.duration.map(|duration| format!("{duration:?}")));
    flag("requests", args.requests.map(|requests| requests.to_string()));
    flag("concurrency", concurrency.map(|users| users.to_string()));
    flag("timeout", args.timeout.map(|timeout| format!("{timeout:?}")));
    args.only.iter().for_each(|only| flag("only", Some(only.clone())));
    flag("seed", args.seed.map(|seed| seed.to_string()));
    flag("threads", Some(args.threads.to_string()));
    words.join(" ") + &args.transport.words()
}

/// The text of a file, or of a shipped scenario.
pub(crate) fn read_scenario(name: &str) -> Result<String, String> {
    if let Some(text) = shipped(name) {
        return Ok(text.to_owned());
    }
    std::fs::read_to_string(name).map_err(|error| {
        let known: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        format!("{name}: {error}; shipped scenarios are {}", known.join(", "))
    })
}

/// Differs from one run to the next.
pub(crate) fn run_name() -> String {
    format!("{:x}", jiff::Timestamp::now().as_millisecond())
}

/// Runs a plan, tells about it, writes its reports.
fn carry_out(plan: Plan, options: &drive::Options) -> Result<(Exit, Summary), String> {
    let slos = plan.slos.clone();
    let interrupt = interrupted_by_signal()?;
    let mut progress = Progress::start(&plan, options, &interrupt);
    let finished = drive::drive(plan, options, &interrupt, &mut |summary, point| {
        progress.second(summary, point);
    });
    progress.end();
    let Finished { summary, not_written } = finished.map_err(|error| error.to_string())?;
    let verdict = judge(&summary, &slos);
    print(&report::text(&summary, &verdict));
    if let Some(directory) = &options.out {
        let made = report::write_all(directory, &summary, &verdict);
        if let Some(error) = not_written.or_else(|| made.err().map(|error| error.to_string())) {
            let shown = directory.display();
            return Err(format!("{shown}: {error}; what was written before stands"));
        }
        eprintln!("lab: reports are in {}", directory.display());
    }
    Ok((verdict.exit(), summary))
}

/// Turns true at the first SIGINT or SIGTERM; the second ends the process.
pub(crate) fn interrupted_by_signal() -> Result<watch::Receiver<bool>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let (mut interrupt, mut terminate) = runtime
        .block_on(async {
            Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
        })
        .map_err(|error: std::io::Error| error.to_string())?;
    let wait = move || {
        runtime.block_on(async {
            for round in 0.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if round > 0 {
                    give_back_terminal();
                    std::process::exit(130);
                }
                say("ending; what was measured will be reported");
                sender.send_replace(true);
            }
        });
    };
    // Waits for signals as long as the process lives.
    std::thread::Builder::new()
        .name("lab-signals".to_owned())
        .spawn(wait)
        .map_err(|error| error.to_string())?;
    Ok(receiver)
}

fn check(args: &CheckArgs) -> Result<Exit, String> {
    let Some(name) = &args.scenario else {
        print(SCHEMA);
        return Ok(Exit::Pass);
    };
    let text = read_scenario(name)?;
    // A scenario is right or wrong by itself, whatever this machine has set.
    let env = |name: &str| Some(std::env::var(name).unwrap_or_default());
    let surroundings = Surroundings { env: &env, run: "check" };
    match Plan::read(&text, &Overrides::default(), &surroundings) {
        Ok(plan) => {
            print(&format!("{name}: right\n"));
            for flow in &plan.flows {
                print(&format!(
                    "  {} (weight {}), {} steps\n",
                    flow.name,
                    flow.weight,
                    flow.steps.len()
                ));
            }
            Ok(Exit::Pass)
        }
        Err(faults) => {
            print(&format!("{}\n", report::faults(name, &faults)));
            Ok(Exit::Broken)
        }
    }
}

fn make_report(args: &ReportArgs) -> Result<Exit, String> {
    let path = if args.run.is_dir() { args.run.join(RUN_FILE) } else { args.run.clone() };
    let (summary, slos) = report::read(&path)?;
    let verdict = judge(&summary, &slos);
    print(&report::text(&summary, &verdict));
    let directory = match (&args.out, path.parent()) {
        (Some(out), _) => out.clone(),
        (None, Some(parent)) => parent.to_owned(),
        (None, None) => PathBuf::from("."),
    };
    report::write_all(&directory, &summary, &verdict)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    eprintln!("lab: reports are in {}", directory.display());
    Ok(verdict.exit())
}

fn audit(args: &AuditArgs) -> Result<Exit, String> {
    let evidence = crate::audit::read(&args.results)?;
    let findings = crate::audit::audit(&evidence);
    for finding in &findings {
        print(&format!("{}: {}\n", finding.check, finding.says));
    }
    let (checks, phases) = (crate::audit::CHECKS.len(), evidence.phases.len());
    print(&format!("{} findings of {checks} checks on {phases} phases\n", findings.len()));
    Ok(if findings.is_empty() { Exit::Pass } else { Exit::Broken })
}

fn serve_mock(args: &MockArgs) -> Result<Exit, String> {
    let options = crate::mock::Options {
        listen: args.listen,
        delay: args.delay,
        errors: args.errors,
        stall: args.stall.map(|lasts| Stall { at: args.stall_at, lasts }),
        lose: args.lose,
        tokens: Tokens {
            count: args.tokens,
            per_event: args.tokens_per_event,
            gap: args.token_gap,
            torn: args.torn,
        },
        tls: args.tls,
        seed: args.seed,
    };
    let mut interrupted = interrupted_by_signal()?;
    let mock = Mock::start(options).map_err(|error| format!("{}: {error}", args.listen))?;
    if let (Some(path), Some(certificate)) = (&args.certificate, mock.certificate()) {
        std::fs::write(path, certificate)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    print(&format!("listening on {}\n", mock.url()));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // An error means that the signals' thread is gone, which ends it as well.
    drop(runtime.block_on(interrupted.wait_for(|interrupted| *interrupted)));
    Ok(Exit::Pass)
}

/// Data goes to stdout; a reader that went away is no fault of ours.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    drop(written);
}
