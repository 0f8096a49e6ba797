//! `cargo xtask bench`: what a request costs, beside a bare server and beside
//! the same work written the usual way.
//!
//! The processors of a shared machine change their speed from second to second,
//! so nothing is measured apart. Every server runs all the time; they are
//! driven one after the other in slices of less than half a second, each
//! between two slices of the bare server, in rounds whose order alternates. A
//! ratio is taken within a round, and the median of the rounds stands.
//!
//! The lab drives in a closed loop: each connection asks again as soon as it has
//! its answer. The latencies are those at saturation and say nothing of what a
//! client sees at a lower load.

pub mod fairness;
pub mod generators;
pub mod goodput;
pub mod graph;
pub mod http;
pub mod load;
pub mod mcp;
pub mod procfs;
pub mod realtime;
pub mod recall;
pub mod report;
pub mod runs;
pub mod targets;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};

use crate::guarded::Preload;
use crate::postgres::{Cluster, log_file};
use crate::shims;
use crate::workspace::{cargo, output, root, run, target};
use load::{Driver, Outcome, SLICE};
use procfs::CpuClock;
use report::{Machine, Measured, Ratio, Report, Rounds};
use targets::{Programs, SLOW_SYNC_MS, Target, Work};

/// Fewer do not even out what the machine does.
pub const ROUNDS_MIN: usize = 6;
const CONNECTIONS: u32 = 50;
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
const SETTLE_STEP: Duration = Duration::from_millis(30);

/// How to bench.
#[derive(Debug)]
pub struct Options {
    /// The cargo profile of the servers.
    pub profile: String,
    /// Whether the programs are taken as they were built before.
    pub built: bool,
    /// Rounds, at least [`ROUNDS_MIN`].
    pub rounds: usize,
    /// Only cases whose names contain this.
    pub only: Option<String>,
}

/// Some work on one of the targets.
#[derive(Debug)]
struct Case {
    name: &'static str,
    target: &'static str,
    work: Work,
    connections: u32,
    /// What its rate must reach of the bare server's.
    floor: Option<f64>,
}

const fn case(name: &'static str, target: &'static str, work: Work) -> Case {
    Case { name, target, work, connections: CONNECTIONS, floor: None }
}

impl Case {
    const fn floor(self, floor: f64) -> Self {
        Self { floor: Some(floor), ..self }
    }

    const fn one_by_one(self) -> Self {
        Self { connections: 1, ..self }
    }
}

const BARE: Case = case("bare hello", "bare", Work::Hello);

/// The mix of `full_api` has servers of its own, which hold what it makes: beside
/// the cases that make agents it would measure a list of a thousand of them.
const CASES: &[Case] = &[
    case("sqlite read", "sqlite", Work::Read).floor(0.4),
    case("sqlite list of 20", "sqlite", Work::List).floor(0.2),
    case("sqlite create", "sqlite", Work::Create).floor(0.3),
    case("sqlite run", "sqlite", Work::Run).floor(0.03),
    case("postgres read", "postgres", Work::Read),
    case("fastapi read", "fastapi", Work::Read),
    case("postgres list of 20", "postgres", Work::List),
    case("postgres create", "postgres", Work::Create),
    case("fastapi create", "fastapi", Work::Create),
    case("postgres run", "postgres", Work::Run),
    case("sqlite users", "sqlite", Work::Users),
    case("sqlite memories", "sqlite", Work::Memories),
    case("sqlite goals", "sqlite", Work::Goals),
    case("sqlite tasks", "sqlite", Work::Tasks),
    case("sqlite sessions list", "sqlite", Work::Sessions),
    case("sqlite full_api", "mixed sqlite", Work::FullApi).floor(0.05),
    case("postgres users", "postgres", Work::Users),
    case("fastapi users", "fastapi", Work::Users),
    case("postgres memories", "postgres", Work::Memories),
    case("fastapi memories", "fastapi", Work::Memories),
    case("postgres goals", "postgres", Work::Goals),
    case("fastapi goals", "fastapi", Work::Goals),
    case("postgres tasks", "postgres", Work::Tasks),
    case("fastapi tasks", "fastapi", Work::Tasks),
    case("postgres sessions list", "postgres", Work::Sessions),
    case("fastapi sessions list", "fastapi", Work::Sessions),
    case("postgres full_api", "mixed postgres", Work::FullApi),
    case("fastapi full_api", "mixed fastapi", Work::FullApi),
];

/// With every sync delayed, so that only sharing it between requests helps.
const SLOW_CASES: &[Case] = &[
    case("slow sqlite create", "slow sqlite", Work::Create),
    case("slow sqlite create, one", "slow sqlite", Work::Create).one_by_one(),
    case("slow sqlite run", "slow sqlite", Work::Run),
    case("slow sqlite run, one", "slow sqlite", Work::Run).one_by_one(),
    case("slow postgres create", "slow postgres", Work::Create),
    case("slow postgres create, one", "slow postgres", Work::Create).one_by_one(),
    case("slow postgres run", "slow postgres", Work::Run),
    case("slow postgres run, one", "slow postgres", Work::Run).one_by_one(),
];

/// Ratios between cases of one group, and the floor of each.
const RATIOS: &[(&str, &str, Option<f64>)] = &[
    ("postgres read", "fastapi read", Some(4.0)),
    ("postgres create", "fastapi create", Some(3.0)),
    ("postgres users", "fastapi users", None),
    ("postgres memories", "fastapi memories", None),
    ("postgres goals", "fastapi goals", None),
    ("postgres tasks", "fastapi tasks", None),
    ("postgres sessions list", "fastapi sessions list", None),
    ("postgres full_api", "fastapi full_api", None),
    ("slow sqlite create", "slow sqlite create, one", Some(15.0)),
    ("slow sqlite run", "slow sqlite run, one", None),
    ("slow postgres create", "slow postgres create, one", None),
    ("slow postgres run", "slow postgres run, one", None),
];

/// Builds, starts, drives and stops everything.
///
/// # Errors
/// When something does not build or start, or the lab does not report.
pub fn bench(options: &Options) -> Result<Report> {
    ensure!(options.rounds >= ROUNDS_MIN, "at least {ROUNDS_MIN} rounds are needed");
    let wanted = |cases: &'static [Case]| -> Vec<&'static Case> {
        let only = options.only.as_deref().unwrap_or_default();
        cases.iter().filter(|case| case.name.contains(only)).collect()
    };
    let (cases, slow_cases) = (wanted(CASES), wanted(SLOW_CASES));
    let programs = build(&options.profile, options.built)?;

    let place = target().join("bench");
    std::fs::create_dir_all(&place)?;
    let place = tempfile::tempdir_in(place)?;
    let mut report = Report {
        at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        commit: output(git().args(["describe", "--always", "--dirty"]))?.trim().to_owned(),
        profile: options.profile.clone(),
        machine: machine(place.path())?,
        slice_ms: SLICE.as_millis().try_into()?,
        cases: Vec::new(),
        ratios: Vec::new(),
    };
    if !cases.is_empty() {
        let group = Group::start(&programs, place.path(), Some(&BARE), &cases, false)?;
        group.measure(options.rounds, &mut report)?;
    }
    if !slow_cases.is_empty() {
        let group = Group::start(&programs, place.path(), None, &slow_cases, true)?;
        group.measure(options.rounds, &mut report)?;
    }
    Ok(report)
}

/// A case that is being measured.
struct Lane {
    case: &'static Case,
    driver: Driver,
    total: Outcome,
    rates: Vec<f64>,
    to_bare: Vec<f64>,
    server_cpu: Duration,
    database_cpu: Duration,
}

/// The cases that are interleaved with each other, and their servers.
struct Group {
    targets: BTreeMap<&'static str, Target>,
    clock: CpuClock,
    bare: Option<Lane>,
    lanes: Vec<Lane>,
    // The servers go before the database under them.
    _cluster: Option<Cluster>,
}

impl Group {
    fn start(
        programs: &Programs,
        place: &Path,
        bare: Option<&'static Case>,
        cases: &[&'static Case],
        slow: bool,
    ) -> Result<Self> {
        let needed =
            |name: &str| cases.iter().chain(bare.as_ref()).any(|case| case.target.ends_with(name));
        let mut preloaded = Vec::new();
        if slow {
            let dir = target().join("shims");
            shims::build(&dir)?;
            preloaded.push(Preload {
                library: shims::library(&dir, "slowsync"),
                env: ("SLOWSYNC_MS", SLOW_SYNC_MS.to_string()),
            });
        }
        let preload = preloaded.first();
        let cluster = if needed("postgres") || needed("fastapi") {
            Some(Cluster::start(&log_file("bench"), preload)?)
        } else {
            None
        };
        let mut targets = BTreeMap::new();
        for case in cases.iter().copied().chain(bare) {
            if targets.contains_key(case.target) {
                continue;
            }
            eprintln!("starting {}", case.target);
            let dir = place.join(case.target.replace(' ', "-"));
            let engine = case.target.rsplit(' ').next().unwrap_or_default();
            let target = match (engine, &cluster) {
                ("bare", _) => Target::bare(&programs.bare, place)?,
                ("sqlite", _) => Target::agentry(&programs.agentry, &dir, None, preload)?,
                // The disk under its database is the slow one.
                ("postgres", Some(cluster)) => {
                    Target::agentry(&programs.agentry, &dir, Some(cluster), None)?
                }
                ("fastapi", Some(cluster)) => Target::fastapi(&dir, cluster)?,
                (other, _) => bail!("there is no target {other}"),
            };
            targets.insert(case.target, target);
        }
        let lane = |case: &'static Case| {
            let target = &targets[case.target];
            let name = case.name.replace([' ', ','], "-");
            let requests = target.requests(case.work);
            let (address, connections) = (&target.address, case.connections);
            let agentry = &programs.agentry;
            let driver = Driver::new(agentry, place, &name, address, connections, &requests)?;
            Ok(Lane {
                case,
                driver,
                total: Outcome::none()?,
                rates: Vec::new(),
                to_bare: Vec::new(),
                server_cpu: Duration::ZERO,
                database_cpu: Duration::ZERO,
            })
        };
        let bare = bare.map(lane).transpose()?;
        let lanes = cases.iter().copied().map(lane).collect::<Result<_>>()?;
        Ok(Self { targets, clock: CpuClock::new()?, bare, lanes, _cluster: cluster })
    }

    fn measure(mut self, rounds: usize, report: &mut Report) -> Result<()> {
        eprintln!("warming up");
        for lane in self.bare.iter().chain(&self.lanes) {
            lane.driver.slice()?;
        }
        for round in 0..rounds {
            eprintln!("round {} of {rounds}", round + 1);
            self.round(round % 2 == 1)?;
        }
        self.check_slowness()?;
        let lanes = self.bare.iter().chain(&self.lanes);
        report.cases.extend(lanes.map(|lane| self.measured(lane)));
        self.ratios(report);
        Ok(())
    }

    /// A preloaded library that does not load is only warned about; then one
    /// durable write after the other would be faster than the syncs allow.
    fn check_slowness(&self) -> Result<()> {
        let possible = 1000.0 / f64::from(SLOW_SYNC_MS);
        for lane in &self.lanes {
            let alone = lane.case.target.starts_with("slow ") && lane.case.connections == 1;
            ensure!(
                !alone || lane.total.rate() <= possible,
                "{} does more than {possible} syncs a second: the shim is not at work",
                lane.case.name
            );
        }
        Ok(())
    }

    /// Every case once, each between two slices of the bare server.
    fn round(&mut self, backwards: bool) -> Result<()> {
        let Self { targets, clock, bare, lanes, .. } = self;
        let mut order: Vec<&mut Lane> = lanes.iter_mut().collect();
        if backwards {
            order.reverse();
        }
        let mut before = bare.as_mut().map(|bare| slice(bare, targets, *clock)).transpose()?;
        for lane in order {
            let rate = slice(lane, targets, *clock)?;
            let after = bare.as_mut().map(|bare| slice(bare, targets, *clock)).transpose()?;
            if let (Some(before), Some(after)) = (before, after) {
                lane.to_bare.push(rate / ((before + after) / 2.0));
            }
            before = after;
        }
        Ok(())
    }

    fn measured(&self, lane: &Lane) -> Measured {
        let Lane { case, total, .. } = lane;
        let for_each =
            |cpu: Duration| cpu.as_secs_f64() * 1e6 / total.requests_with_warmup.max(1) as f64;
        let database = self.targets[case.target].database;
        Measured {
            name: case.name.to_owned(),
            connections: case.connections,
            rate: Rounds::new(lane.rates.clone()),
            p50_micros: total.percentile_micros(0.5),
            p99_micros: total.percentile_micros(0.99),
            server_cpu_micros: for_each(lane.server_cpu),
            database_cpu_micros: database.map(|_| for_each(lane.database_cpu)),
            generator_cpu_micros: for_each(total.generator_cpu),
            failed: total.failed,
            requests: total.requests,
        }
    }

    fn ratios(&self, report: &mut Report) {
        let judged = |ratio: &Rounds, floor: Option<f64>, failed: u64| {
            floor.map(|floor| ratio.median >= floor && failed == 0)
        };
        for lane in self.lanes.iter().filter(|lane| !lane.to_bare.is_empty()) {
            let ratio = Rounds::new(lane.to_bare.clone());
            report.ratios.push(Ratio {
                of: lane.case.name.to_owned(),
                to: BARE.name.to_owned(),
                holds: judged(&ratio, lane.case.floor, lane.total.failed),
                per_cpu_second: None,
                ratio,
                floor: lane.case.floor,
            });
        }
        let cpu = |lane: &Lane| self.measured(lane).server_cpu_micros;
        for (of, to, floor) in RATIOS {
            let find = |name: &str| self.lanes.iter().find(|lane| lane.case.name == name);
            let (Some(above), Some(below)) = (find(of), find(to)) else { continue };
            // Both went through the same rounds in the same order.
            let each = above.rates.iter().zip(&below.rates).map(|(above, below)| above / below);
            let ratio = Rounds::new(each.collect());
            let failed = above.total.failed + below.total.failed;
            report.ratios.push(Ratio {
                of: (*of).to_owned(),
                to: (*to).to_owned(),
                holds: judged(&ratio, *floor, failed),
                per_cpu_second: Some(cpu(below) / cpu(above)),
                ratio,
                floor: *floor,
            });
        }
    }
}

/// Drives one slice, books it, waits until the server is idle, and gives the
/// rate.
fn slice(
    lane: &mut Lane,
    targets: &BTreeMap<&'static str, Target>,
    clock: CpuClock,
) -> Result<f64> {
    let target = &targets[lane.case.target];
    let used = || -> Result<(Duration, Duration)> {
        let database = target.database.map(|pid| clock.used_by(pid)).transpose()?;
        Ok((clock.used_by(target.pid())?, database.unwrap_or_default()))
    };
    let before = used()?;
    let outcome = lane.driver.slice()?;
    // What a request leaves to be done later is a part of its price.
    let after = settled(used)?;
    lane.server_cpu += after.0.saturating_sub(before.0);
    lane.database_cpu += after.1.saturating_sub(before.1);
    let rate = outcome.rate();
    lane.rates.push(rate);
    lane.total.merge(&outcome)?;
    Ok(rate)
}

/// Waits until the time that is used stands still, or for [`SETTLE_WITHIN`]: a
/// server that is still at work would take from the next one's slice.
fn settled<T: PartialEq>(used: impl Fn() -> Result<T>) -> Result<T> {
    let until = Instant::now() + SETTLE_WITHIN;
    let mut last = used()?;
    loop {
        #[expect(clippy::disallowed_methods, reason = "idleness has no event to wait for")]
        std::thread::sleep(SETTLE_STEP);
        let now = used()?;
        if now == last || Instant::now() > until {
            return Ok(now);
        }
        last = now;
    }
}

/// The servers, and the generator that is one of them.
pub(crate) fn build(profile: &str, built: bool) -> Result<Programs> {
    let mut command = cargo();
    command.args(["build", "--profile", profile, "-p", "agentry-testkit", "--bin", "bare"]);
    command.args(["-p", "agentry", "--bin", "agentry"]);
    if !built {
        run(&mut command)?;
    }
    // Cargo keeps the profile `dev` in a directory of another name.
    let dir = target().join(if profile == "dev" { "debug" } else { profile });
    Ok(Programs { agentry: dir.join("agentry"), bare: dir.join("bare") })
}

pub(crate) fn machine(data: &Path) -> Result<Machine> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let file_system = |dir: &Path| -> Result<String> {
        let mut stat = Command::new("stat");
        Ok(output(stat.args(["-f", "-c", "%T"]).arg(dir))?.trim().to_owned())
    };
    Ok(Machine {
        cpus: std::thread::available_parallelism()?.get(),
        cpu: cpu.to_owned(),
        kernel: output(Command::new("uname").arg("-r"))?.trim().to_owned(),
        data_file_system: file_system(data)?,
        postgres_file_system: file_system(&std::env::temp_dir())?,
        sync_micros: sync_micros(data)?,
    })
}

/// What a commit waits for at least.
fn sync_micros(dir: &Path) -> Result<u64> {
    const SYNCS: usize = 101;
    const BLOCK_BYTES: usize = 4096;
    let mut file = File::create(dir.join("sync"))?;
    let mut took = Vec::new();
    for _ in 0..SYNCS {
        file.write_all(&[1; BLOCK_BYTES])?;
        let begun = Instant::now();
        file.sync_data()?;
        took.push(begun.elapsed().as_micros());
    }
    took.sort_unstable();
    Ok(took[SYNCS / 2].try_into()?)
}

pub(crate) fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(root());
    git
}
