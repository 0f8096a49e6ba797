//! `cargo xtask bench-lab`: the lab beside wrk, oha, Locust and a loop around
//! hyper's client (`crates/lab/examples/hyper_client.rs`), against the same bare
//! server. The server has one CPU and each generator in turn another; what
//! is compared is the CPU time that a generator spends on a request, its start
//! and its report included (Locust's without the start of Python, which would
//! be most of it). Slices alternate, and medians of the rounds' ratios stand.
//!
//! Rates depend on the one CPU of the server, which is the limit of all but
//! Locust: they say that a generator is quick enough, not how quick it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::procfs::{CpuClock, resident_bytes, used_by_ended_children};
use super::report::{Machine, Rounds};
use super::{ROUNDS_MIN, build, git, machine};
use crate::bench::targets::{Programs, Target};
use crate::guarded::{Guarded, Spec};
use crate::packages::install;
use crate::python;
use crate::workspace::{cargo, on_path, output, root, run, target};

const CONNECTIONS: u32 = 50;
/// wrk counts in whole seconds.
const SLICE: Duration = Duration::from_secs(2);
const SERVER_CPU: &str = "0";
const GENERATOR_CPU: &str = "1";
/// How long idle users have to be there before memory is looked at.
const IDLE_FOR: Duration = Duration::from_secs(12);
const IDLE_USERS: [u32; 3] = [1, 1_000, 10_000];
/// Samples of a long run's memory.
const LONG_SAMPLES: u64 = 6;

/// How to bench.
#[derive(Debug)]
pub struct Options {
    /// The cargo profile of server and lab.
    pub profile: String,
    /// Whether the programs are taken as they were built before.
    pub built: bool,
    /// Rounds, at least [`ROUNDS_MIN`].
    pub rounds: usize,
    /// Where oha is.
    pub oha: Option<PathBuf>,
    /// How long the run lasts whose memory is watched.
    pub long_seconds: u64,
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
    /// Open at a time.
    pub connections: u32,
    /// How long a slice lasts, in seconds.
    pub slice_seconds: f64,
    /// The generators.
    pub generators: Vec<Measured>,
    /// CPU time for a request: of the lab's over another's, round by round.
    pub cpu_ratios: Vec<CpuRatio>,
    /// Resident memory of the lab while users pause.
    pub idle: Vec<Idle>,
    /// Resident memory of the lab under load: seconds and bytes.
    pub long_run: Vec<(f64, u64)>,
}

/// One generator.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Which, and what it did.
    pub name: String,
    /// What it calls itself.
    pub version: String,
    /// Requests per second.
    pub rate: Rounds,
    /// CPU time for a request, in microseconds.
    pub cpu_micros: Rounds,
    /// Requests of all rounds.
    pub requests: u64,
}

/// The lab's CPU time for a request over that of another.
#[derive(Debug, Serialize)]
pub struct CpuRatio {
    /// What the lab did.
    pub of: String,
    /// The other.
    pub to: String,
    /// Below 1 the lab is cheaper.
    pub ratio: Rounds,
}

/// The memory of users that pause.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// How many.
    pub users: u32,
    /// Of the whole process.
    pub resident_bytes: u64,
    /// For each user more than one.
    pub bytes_per_user: Option<f64>,
}

/// A generator and what it is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generator {
    Lab,
    LabScenario,
    Wrk,
    Hyper,
    Oha,
    Locust,
    LocustScenario,
}

impl Generator {
    const fn name(self) -> &'static str {
        match self {
            Self::Lab => "lab",
            Self::LabScenario => "lab, scenario",
            Self::Wrk => "wrk",
            Self::Hyper => "hyper client",
            Self::Oha => "oha",
            Self::Locust => "locust",
            Self::LocustScenario => "locust, scenario",
        }
    }
}

/// What one slice brought.
struct Slice {
    requests: u64,
    seconds: f64,
    cpu: Duration,
}

struct Lane {
    generator: Generator,
    rates: Vec<f64>,
    cpu_micros: Vec<f64>,
    requests: u64,
}

struct Bench<'a> {
    programs: &'a Programs,
    place: &'a Path,
    url: String,
    hyper_client: PathBuf,
    oha: Option<PathBuf>,
    locust: Option<PathBuf>,
    clock: CpuClock,
}

/// Builds, starts, drives and stops everything. A generator that cannot be had
/// is left out and named on stderr.
///
/// # Errors
/// When the server does not start, or a generator does not report.
pub fn bench(options: &Options) -> Result<Report> {
    ensure!(options.rounds >= ROUNDS_MIN, "at least {ROUNDS_MIN} rounds are needed");
    let programs = build(&options.profile, options.built)?;
    if on_path("wrk").is_none() {
        install(&["wrk"], "the load generator wrk")?;
    }
    let oha = options.oha.clone().or_else(|| on_path("oha"));
    if oha.is_none() {
        eprintln!("oha is left out: it is not on the path, and --oha was not given");
    }
    let requirements = root().join("bench/generators/requirements.txt");
    let locust = python::venv("venv-locust", &requirements);
    let locust = locust.map_err(|error| eprintln!("locust is left out: {error:#}")).ok();
    let place = target().join("bench");
    std::fs::create_dir_all(&place)?;
    let place = tempfile::tempdir_in(place)?;
    let server = Target::bare_on(&programs.bare, place.path(), SERVER_CPU)?;
    let bench = Bench {
        programs: &programs,
        place: place.path(),
        url: format!("http://{}", server.address),
        hyper_client: build_hyper_client(&options.profile, options.built)?,
        oha,
        locust,
        clock: CpuClock::new()?,
    };
    let lanes = bench.rounds(options.rounds)?;
    eprintln!("memory");
    Ok(Report {
        at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        commit: output(git().args(["describe", "--always", "--dirty"]))?.trim().to_owned(),
        profile: options.profile.clone(),
        machine: machine(place.path())?,
        connections: CONNECTIONS,
        slice_seconds: SLICE.as_secs_f64(),
        cpu_ratios: cpu_ratios(&lanes),
        generators: lanes.into_iter().map(|lane| bench.measured(lane)).collect(),
        idle: bench.idle()?,
        long_run: bench.long_run(options.long_seconds)?,
    })
}

impl Bench<'_> {
    fn rounds(&self, rounds: usize) -> Result<Vec<Lane>> {
        use Generator::{Hyper, Lab, LabScenario, Locust, LocustScenario, Oha, Wrk};
        let mut lanes: Vec<Lane> = [Lab, Wrk, Hyper, LabScenario, Oha, Locust, LocustScenario]
            .into_iter()
            .filter(|generator| match generator {
                Oha => self.oha.is_some(),
                Locust | LocustScenario => self.locust.is_some(),
                _ => true,
            })
            .map(|generator| Lane { generator, rates: vec![], cpu_micros: vec![], requests: 0 })
            .collect();
        for round in 0..rounds {
            eprintln!("round {} of {rounds}", round + 1);
            let mut order: Vec<&mut Lane> = lanes.iter_mut().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for lane in order {
                let slice = self
                    .slice(lane.generator)
                    .with_context(|| format!("{} did not report", lane.generator.name()))?;
                lane.rates.push(slice.requests as f64 / slice.seconds);
                lane.cpu_micros.push(slice.cpu.as_secs_f64() * 1e6 / slice.requests.max(1) as f64);
                lane.requests += slice.requests;
            }
        }
        Ok(lanes)
    }

    fn slice(&self, generator: Generator) -> Result<Slice> {
        let before = used_by_ended_children(self.clock)?;
        let begun = Instant::now();
        let mut slice = match generator {
            Generator::Lab => self.lab(&["hit", &format!("{}/", self.url)], Some(CONNECTIONS))?,
            Generator::LabScenario => {
                let scenario = root().join("bench/generators/scenario.yaml");
                let scenario = scenario.to_string_lossy();
                self.lab(&["run", &scenario, "--target", &self.url], Some(CONNECTIONS))?
            }
            Generator::Wrk => self.wrk()?,
            Generator::Hyper => self.hyper()?,
            Generator::Oha => self.oha()?,
            Generator::Locust => self.locust("plain")?,
            Generator::LocustScenario => self.locust("scenario")?,
        };
        ensure!(slice.requests > 0 && begun.elapsed() >= SLICE, "nothing was sent");
        if slice.cpu.is_zero() {
            slice.cpu = used_by_ended_children(self.clock)?.saturating_sub(before);
        }
        Ok(slice)
    }

    fn lab(&self, args: &[&str], users: Option<u32>) -> Result<Slice> {
        let out = self.place.join("lab");
        let mut lab = pinned(&self.programs.agentry);
        lab.arg("lab").args(args).args(["--threads", "1"]).arg("--out").arg(&out);
        lab.args(["--duration", &format!("{}s", SLICE.as_secs())]);
        lab.args(users.map(|users| format!("--concurrency={users}")));
        // A busy machine makes a run invalid; its report is there all the same.
        let output = lab.output()?;
        let text = std::fs::read_to_string(out.join("report.json"))
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let report: Value = serde_json::from_str(&text)?;
        ensure!(report["all"]["failed"] == 0, "requests failed: {}", report["errors"]);
        let requests = report["all"]["requests"].as_u64().context("no requests")?;
        let seconds = report["seconds"].as_f64().context("no seconds")?;
        Ok(Slice { requests, seconds, cpu: Duration::ZERO })
    }

    fn wrk(&self) -> Result<Slice> {
        let mut wrk = pinned(Path::new("wrk"));
        wrk.args(["--threads=1", &format!("--connections={CONNECTIONS}"), "--latency"]);
        wrk.args([&format!("--duration={}s", SLICE.as_secs()), &self.url]);
        let text = output(&mut wrk)?;
        let line = text.lines().find(|line| line.contains(" requests in ")).context("no result")?;
        let (requests, rest) = line.trim().split_once(" requests in ").context("no result")?;
        let (seconds, _) = rest.split_once("s,").context("no seconds")?;
        Ok(Slice { requests: requests.parse()?, seconds: seconds.parse()?, cpu: Duration::ZERO })
    }

    fn hyper(&self) -> Result<Slice> {
        let mut client = pinned(&self.hyper_client);
        client.arg(self.url.trim_start_matches("http://"));
        client.args([CONNECTIONS.to_string(), SLICE.as_secs().to_string()]);
        let report: Value = serde_json::from_str(&output(&mut client)?)?;
        let requests = report["requests"].as_u64().context("no requests")?;
        let seconds = report["seconds"].as_f64().context("no seconds")?;
        Ok(Slice { requests, seconds, cpu: Duration::ZERO })
    }

    fn oha(&self) -> Result<Slice> {
        let mut oha = pinned(self.oha.as_deref().context("no oha")?);
        oha.args(["-z", &format!("{}s", SLICE.as_secs()), "-c", &CONNECTIONS.to_string()]);
        oha.args(["--no-tui", "--output-format", "json", &self.url]);
        let report: Value = serde_json::from_str(&output(&mut oha)?)?;
        let seconds = report["summary"]["total"].as_f64().context("no total")?;
        let rate = report["summary"]["requestsPerSec"].as_f64().context("no rate")?;
        Ok(Slice { requests: (rate * seconds).round() as u64, seconds, cpu: Duration::ZERO })
    }

    fn locust(&self, kind: &str) -> Result<Slice> {
        let mut locust = pinned(self.locust.as_deref().context("no locust")?);
        locust.arg(root().join("bench/generators/locustfile.py")).args([&self.url, kind]);
        locust.args([CONNECTIONS.to_string(), SLICE.as_secs().to_string()]);
        locust.env("PYTHONDONTWRITEBYTECODE", "1").stderr(Stdio::null());
        let text = output(&mut locust)?;
        let report: Value = serde_json::from_str(text.trim())?;
        ensure!(report["failed"] == 0, "requests failed: {report}");
        let number = |name: &str| report[name].as_f64().context("no figure");
        Ok(Slice {
            requests: number("requests")? as u64,
            seconds: number("seconds")?,
            cpu: Duration::try_from_secs_f64(number("cpu_seconds")?)?,
        })
    }

    fn measured(&self, lane: Lane) -> Measured {
        let lab = || {
            let commit = output(git().args(["describe", "--always", "--dirty"]));
            commit.unwrap_or_default()
        };
        let version = match lane.generator {
            Generator::Lab | Generator::LabScenario | Generator::Hyper => lab(),
            // It says so on its help and ends with an error.
            Generator::Wrk => Command::new("wrk").arg("--version").output().map_or_else(
                |_| String::new(),
                |output| {
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    text.split(" Copyright").next().unwrap_or_default().to_owned()
                },
            ),
            Generator::Oha => self.oha.as_deref().map_or_else(String::new, |oha| {
                output(Command::new(oha).arg("--version")).unwrap_or_default()
            }),
            Generator::Locust | Generator::LocustScenario => {
                let text = include_str!("../../../bench/generators/requirements.txt");
                text.lines().find(|line| line.starts_with("locust")).unwrap_or_default().to_owned()
            }
        };
        Measured {
            name: lane.generator.name().to_owned(),
            version: version.trim().to_owned(),
            rate: Rounds::new(lane.rates),
            cpu_micros: Rounds::new(lane.cpu_micros),
            requests: lane.requests,
        }
    }

    fn idle(&self) -> Result<Vec<Idle>> {
        let mut found: Vec<Idle> = Vec::new();
        for users in IDLE_USERS {
            let users_text = users.to_string();
            let scenario = root().join("bench/generators/scenario.yaml");
            let scenario = scenario.to_string_lossy();
            let args = ["run", &scenario, "--profile", "idle", "--concurrency", &users_text];
            let lab = self.in_background(&args)?;
            pause(IDLE_FOR);
            let resident_bytes = resident_bytes(lab.pid())?;
            let more = found.first().map(|first| {
                resident_bytes.saturating_sub(first.resident_bytes) as f64
                    / f64::from(users - first.users)
            });
            found.push(Idle { users, resident_bytes, bytes_per_user: more });
        }
        Ok(found)
    }

    fn long_run(&self, seconds: u64) -> Result<Vec<(f64, u64)>> {
        let duration = format!("{}s", seconds + 10);
        let (url, users) = (format!("{}/", self.url), CONNECTIONS.to_string());
        let lab = self.in_background(&["hit", &url, "-c", &users, "-d", &duration])?;
        let (begun, step) = (Instant::now(), Duration::from_secs(seconds) / LONG_SAMPLES as u32);
        let mut samples = Vec::new();
        for _ in 0..LONG_SAMPLES {
            pause(step);
            samples.push((begun.elapsed().as_secs_f64(), resident_bytes(lab.pid())?));
        }
        Ok(samples)
    }

    /// The lab against the bare server until it is dropped.
    fn in_background(&self, args: &[&str]) -> Result<Guarded> {
        let agentry = self.programs.agentry.to_string_lossy().into_owned();
        let mut command = vec!["taskset", "-c", GENERATOR_CPU, &agentry, "lab"];
        command.extend(args);
        if args.first() == Some(&"run") {
            command.extend(["--target", &self.url]);
        }
        command.extend(["--threads", "1"]);
        let mut spec = Spec::new(command, &self.place.join("lab.log"));
        spec.signal = "INT";
        Guarded::start(spec)
    }
}

fn build_hyper_client(profile: &str, built: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--profile", profile, "-p", "agentry-lab"]);
    command.args(["--example", "hyper_client"]);
    if !built {
        run(&mut command)?;
    }
    let dir = target().join(if profile == "dev" { "debug" } else { profile });
    Ok(dir.join("examples/hyper_client"))
}

fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "what is measured is what time does")]
    std::thread::sleep(time);
}

fn pinned(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", GENERATOR_CPU]).arg(program).stdin(Stdio::null());
    command
}

/// Plain with plain, a scenario with Locust's and with plain wrk, which has
/// none.
fn cpu_ratios(lanes: &[Lane]) -> Vec<CpuRatio> {
    use Generator::{Hyper, Lab, LabScenario, Locust, LocustScenario, Oha, Wrk};
    let find = |wanted: Generator| lanes.iter().find(|lane| lane.generator == wanted);
    [
        (Lab, Wrk),
        (Lab, Hyper),
        (Lab, Oha),
        (Lab, Locust),
        (LabScenario, Wrk),
        (LabScenario, LocustScenario),
    ]
    .into_iter()
    .filter_map(|(of, to)| Some((find(of)?, find(to)?)))
    .map(|(of, to)| {
        let each = of.cpu_micros.iter().zip(&to.cpu_micros).map(|(of, to)| of / to);
        CpuRatio {
            of: of.generator.name().to_owned(),
            to: to.generator.name().to_owned(),
            ratio: Rounds::new(each.collect()),
        }
    })
    .collect()
}

impl Report {
    /// The tables for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} connections, one CPU for the server and one for the generator; {} build of {}\n",
            self.connections, self.profile, self.commit
        );
        let _ =
            writeln!(text, "{:<18} {:>9} {:>15} {:>17}", "generator", "req/s", "CPU us", "range");
        for Measured { name, rate, cpu_micros, .. } in &self.generators {
            let range = format!("{:.2} - {:.2}", cpu_micros.min, cpu_micros.max);
            let (rate, cpu) = (rate.median, cpu_micros.median);
            let _ = writeln!(text, "{name:<18} {rate:>9.0} {cpu:>15.2} {range:>17}");
        }
        let _ = writeln!(text, "\nCPU of the lab over that of another, for a request");
        for CpuRatio { of, to, ratio } in &self.cpu_ratios {
            let range = format!("{:.3} - {:.3}", ratio.min, ratio.max);
            let _ = writeln!(text, "{of:<18} {to:<18} {:>8.3} {range:>17}", ratio.median);
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let _ = writeln!(text, "\nidle users, resident MB, bytes for each user more");
        for Idle { users, resident_bytes, bytes_per_user } in &self.idle {
            let more = bytes_per_user.map_or_else(|| "-".to_owned(), |more| format!("{more:.0}"));
            let _ = writeln!(text, "{users:>10} {:>12.1} {more:>12}", megabytes(*resident_bytes));
        }
        let _ = writeln!(text, "\nunder load: seconds, resident MB");
        for (seconds, bytes) in &self.long_run {
            let _ = writeln!(text, "{seconds:>10.0} {:>12.1}", megabytes(*bytes));
        }
        text
    }
}
