//! Carries a plan out: threads that make the load, and one place that collects
//! what they tell, second by second, into the run file and the summary.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::machine::{self, ThreadUse, Watcher};
use crate::metrics::Scrape;
use crate::recorder::{Phase, Taken};
use crate::run_file::{
    Acknowledged, End, Header, Interval, Line, LoadHeader, SCHEMA_VERSION, StageHeader, Teardown,
    Writer,
};
use crate::scenario::{Arrivals, Load, Plan, Prometheus, SharedPlan, Until, Watch};
use crate::summary::{Point, Summary};
use crate::transport::Connector;
use crate::worker::{self, Shared, Told};

/// How long the target may take to accept the first connection.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// From the start of the threads to the first request.
const THREADS_READY: Duration = Duration::from_millis(20);
/// What threads told and nobody has read yet.
const TOLD_MAX: usize = 64;
/// Failed answers of one run that are kept.
const SAMPLES_MAX: usize = 500;
/// The name of the run file in its directory.
pub(crate) const RUN_FILE: &str = "run.jsonl";

/// What a run is called and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) scenario: String,
    pub(crate) scenario_text: String,
    pub(crate) run: String,
    pub(crate) command: String,
    pub(crate) threads: usize,
    pub(crate) out: Option<PathBuf>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMeasured {
    #[error("{target} cannot be found: {error}")]
    NotFound { target: String, error: io::Error },
    #[error("{target} cannot be reached: {error}")]
    NotReached { target: String, error: io::Error },
    #[error("{target} cannot be reached over TLS: {detail}")]
    NotSecured { target: String, detail: String },
    #[error("{0}")]
    NoCertificates(String),
    #[error("the request for the target's metrics: {0}")]
    NoMetrics(String),
    #[error("{path} cannot be written: {error}")]
    NoRunFile { path: String, error: io::Error },
    #[error("a thread of the generator failed: {0}")]
    Thread(io::Error),
    #[error("the generator could not start: {0}")]
    Start(io::Error),
}

/// A run that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) summary: Summary,
    /// Why the run file is not whole.
    pub(crate) not_written: Option<String>,
}

/// Carries it out; `progress` hears of every second. Blocks until it is over,
/// or until `interrupt` says that it shall be.
pub(crate) fn drive(
    plan: Plan,
    options: &Options,
    interrupt: &watch::Receiver<bool>,
    progress: &mut dyn FnMut(&Summary, &Point),
) -> Result<Finished, NotMeasured> {
    let plan = Arc::new(plan);
    let target = plan.target.url();
    let address = plan
        .target
        .resolve()
        .map_err(|error| NotMeasured::NotFound { target: target.clone(), error })?;
    let connector = plan.transport.connector(&plan.target).map_err(NotMeasured::NoCertificates)?;
    reach(&connector, target, address)?;
    let header = header(&plan, options, address);
    let mut writer = None;
    if let Some(directory) = &options.out {
        let path = directory.join(RUN_FILE);
        let made = fs::create_dir_all(directory).and_then(|()| {
            let mut writer = Writer::create(&path)?;
            writer.write(&Line::Header(Box::new(header.clone())))?;
            Ok(writer)
        });
        let shown = path.display().to_string();
        writer = Some(made.map_err(|error| NotMeasured::NoRunFile { path: shown, error })?);
    }
    let watcher = match plan.watch {
        Watch::Nothing => None,
        Watch::Pid(pid) => Watcher::of(pid),
        Watch::Auto if address.ip().is_loopback() => Watcher::of_listener(address),
        Watch::Auto => None,
    };
    let shared = Arc::new(Shared {
        plan: Arc::clone(&plan),
        address,
        connector,
        threads: options.threads,
        started: Instant::now() + THREADS_READY,
        taken: AtomicU64::new(0),
        interrupted: interrupt.clone(),
    });
    let scrape = plan.metrics.as_ref().map(|metrics| scrape(&plan, metrics, &shared));
    let scrape = scrape.transpose()?;
    let mut collector = Collector {
        writer,
        not_written: None,
        watcher,
        summary: Summary::new(header),
        seconds: BTreeMap::new(),
        next: 0,
        reached: vec![0; options.threads],
        ended: 0,
        started: shared.started,
        ended_at: None,
        acknowledged: Acknowledged::default(),
        audits: plan.steps().any(|step| step.acknowledged.is_some()),
        teardown: (!plan.teardown.is_empty()).then(Teardown::default),
        samples: 0,
    };
    let (told, mut hears) = mpsc::channel(TOLD_MAX);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|thread| {
                let (shared, told) = (Arc::clone(&shared), told.clone());
                std::thread::Builder::new()
                    .name(format!("lab-{thread}"))
                    .spawn_scoped(scope, move || worker::run(&shared, thread, told))
            })
            .collect();
        let (over, hears_over) = watch::channel(false);
        let reader = scrape.map(|scrape| {
            let told = told.clone();
            std::thread::Builder::new()
                .name("lab-metrics".to_owned())
                .spawn_scoped(scope, move || scrape.run(&told, hears_over))
        });
        drop(told);
        // Ends when every thread has dropped its end.
        while let Some(told) = hears.blocking_recv() {
            collector.hear(told, progress);
            if collector.ended == options.threads {
                over.send_replace(true);
            }
        }
        for thread in threads.into_iter().chain(reader) {
            let thread = thread.map_err(NotMeasured::Start)?;
            match thread.join() {
                Ok(ended) => ended.map_err(NotMeasured::Thread)?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    Ok(collector.finish(*interrupt.borrow()))
}

/// How the target's own metrics are read.
fn scrape(plan: &Plan, metrics: &Prometheus, shared: &Shared) -> Result<Scrape, NotMeasured> {
    let request = plan.plain_get(&metrics.request);
    let request = request.map_err(|error| NotMeasured::NoMetrics(error.to_string()))?;
    let (address, connector) = match &metrics.target {
        None => (shared.address, shared.connector.clone()),
        Some(other) => {
            let named = other.resolve();
            let target = other.url();
            let address = named.map_err(|error| NotMeasured::NotFound { target, error })?;
            let connector = plan.transport.connector(other);
            (address, connector.map_err(NotMeasured::NoCertificates)?)
        }
    };
    let (series, started) = (metrics.series.clone(), shared.started);
    Ok(Scrape { address, connector, request, series, started })
}

/// Whether it is there, and whether its certificate will do.
fn reach(
    connector: &Connector,
    target: String,
    address: std::net::SocketAddr,
) -> Result<(), NotMeasured> {
    if let Err(error) = std::net::TcpStream::connect_timeout(&address, REACHED_WITHIN) {
        return Err(NotMeasured::NotReached { target, error });
    }
    if !connector.is_secure() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NotMeasured::Start)?;
    let made = runtime
        .block_on(async { tokio::time::timeout(REACHED_WITHIN, connector.connect(address)).await });
    match made {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(failure)) => Err(NotMeasured::NotSecured { target, detail: failure.detail }),
        Err(_) => {
            let detail = format!("no handshake within {REACHED_WITHIN:?}");
            Err(NotMeasured::NotSecured { target, detail })
        }
    }
}

fn header(plan: &SharedPlan, options: &Options, address: std::net::SocketAddr) -> Header {
    let profile = &plan.profile;
    let (seconds, iterations) = match profile.until {
        Until::Elapsed(lasts) => (Some(lasts.as_secs_f64()), None),
        Until::Iterations(count) => (None, Some(count)),
    };
    let mut load = LoadHeader { users: profile.users(), seconds, iterations, ..Default::default() };
    match &profile.load {
        Load::Closed { think, ramp, .. } => {
            load.model = "closed".to_owned();
            load.think_seconds = Some([think.0.as_secs_f64(), think.1.as_secs_f64()]);
            load.ramp_per_second = *ramp;
        }
        Load::Open { arrivals, stages, .. } => {
            load.model = "open".to_owned();
            let name = match arrivals {
                Arrivals::Constant => "constant",
                Arrivals::Poisson => "poisson",
            };
            load.arrivals = Some(name.to_owned());
            let stage = |stage: &crate::scenario::Stage| StageHeader {
                from_per_second: stage.from,
                to_per_second: stage.to,
                seconds: stage.lasts.as_secs_f64(),
            };
            load.stages = stages.iter().map(stage).collect();
        }
    }
    Header {
        schema: SCHEMA_VERSION,
        started_at: format!("{:.0}", jiff::Timestamp::now()),
        lab: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: options.scenario.clone(),
        scenario_text: options.scenario_text.clone(),
        profile: profile.name.clone(),
        seed: plan.seed,
        run: options.run.clone(),
        target: plan.target.url(),
        load,
        warmup_seconds: profile.warmup.as_secs_f64(),
        timeout_seconds: plan.timeout.as_secs_f64(),
        endpoints: plan.endpoints.clone(),
        rows: plan.rows.clone(),
        slo: plan.slos.iter().map(|slo| slo.text.clone()).collect(),
        threads: options.threads,
        machine: machine::describe(address.ip()),
        command: options.command.clone(),
    }
}

struct Collector {
    writer: Option<Writer>,
    not_written: Option<String>,
    watcher: Option<Watcher>,
    summary: Summary,
    /// Seconds that not all threads have told of.
    seconds: BTreeMap<u64, Second>,
    /// The next second to be written.
    next: u64,
    /// Seconds that each thread has told of; the largest number when it ended.
    reached: Vec<u64>,
    ended: usize,
    started: Instant,
    ended_at: Option<Instant>,
    acknowledged: Acknowledged,
    audits: bool,
    teardown: Option<Teardown>,
    samples: usize,
}

#[derive(Default)]
struct Second {
    warmup: Phase,
    measured: Phase,
    queue_max: u64,
    connects: u64,
    users: u64,
    used: Vec<ThreadUse>,
}

impl Second {
    fn add(&mut self, taken: Taken, used: ThreadUse, users: u64) -> Vec<crate::run_file::Sample> {
        self.warmup.merge(taken.warmup);
        self.measured.merge(taken.measured);
        self.queue_max += taken.queue_max;
        self.connects += taken.connects;
        self.users += users;
        self.used.push(used);
        taken.samples
    }
}

impl Collector {
    fn hear(&mut self, told: Told, progress: &mut dyn FnMut(&Summary, &Point)) {
        let samples = match told {
            Told::Second { thread, second, taken, used, users } => {
                self.reached[thread] = second + 1;
                self.seconds.entry(second).or_default().add(*taken, used, users)
            }
            Told::Ended { thread, taken, used } => {
                let second = std::mem::replace(&mut self.reached[thread], u64::MAX);
                self.ended += 1;
                self.ended_at = Some(Instant::now());
                self.seconds.entry(second).or_default().add(*taken, used, 0)
            }
            Told::Audited(audited) => {
                self.acknowledged.merge(*audited);
                Vec::new()
            }
            Told::TornDown(torn) => {
                self.teardown.get_or_insert_default().merge(*torn);
                Vec::new()
            }
            Told::Metrics(metrics) => {
                self.summary.add_metrics(&metrics);
                self.write(&Line::Metrics(*metrics));
                Vec::new()
            }
        };
        for sample in samples {
            if self.samples < SAMPLES_MAX {
                self.samples += 1;
                self.summary.samples.push(sample.clone());
                self.write(&Line::Sample(sample));
            }
        }
        let all_told = self.reached.iter().min().copied().unwrap_or_default();
        while self.next < all_told {
            let Some(second) = self.seconds.remove(&self.next) else { break };
            let number = self.next;
            self.next += 1;
            self.second_over(number, second);
            if let Some(point) = self.summary.timeline.last().cloned() {
                progress(&self.summary, &point);
            }
        }
    }

    fn second_over(&mut self, number: u64, second: Second) {
        // The last is as long as it was.
        let last = self.ended == self.reached.len() && self.seconds.is_empty();
        let seconds = match self.ended_at {
            Some(at) if last => {
                let ran = at.saturating_duration_since(self.started).as_secs_f64();
                (ran - number as f64).clamp(0.000_001, 1.0)
            }
            _ => 1.0,
        };
        let target = self.watcher.as_mut().and_then(Watcher::lap);
        // Ready and not running, and running, as shares of the lap.
        let most = |part: fn(&ThreadUse) -> f64| {
            let shares = second.used.iter().filter(|used| used.seconds > 0.0);
            shares.map(|used| part(used) / used.seconds).fold(0.0, f64::max)
        };
        let busiest_thread = most(|used| used.running_seconds).min(1.0);
        let scheduler_delay = most(|used| used.waiting_seconds).min(1.0);
        let cpu_seconds = second.used.iter().map(|used| used.running_seconds).sum();
        let mut phases = vec![(false, second.measured), (true, second.warmup)];
        phases.retain(|(warmup, phase)| !phase.is_empty() || !warmup);
        // What the threads and the target used belongs to one of the two.
        let in_warmup = (number as f64) + seconds <= self.summary.header.warmup_seconds;
        for (warmup, phase) in phases {
            if in_warmup && !warmup && phase.is_empty() {
                continue;
            }
            let (endpoints, errors, mut generator) = phase.into_parts();
            let mut interval = Interval {
                second: number,
                seconds,
                warmup,
                endpoints,
                errors,
                ..Interval::default()
            };
            if warmup == in_warmup {
                generator.queue_max = second.queue_max;
                generator.connects = second.connects;
                generator.users = second.users;
                generator.cpu_seconds = cpu_seconds;
                generator.busiest_thread = busiest_thread;
                generator.scheduler_delay = scheduler_delay;
                interval.target = target;
            }
            interval.generator = generator;
            self.summary.add(&interval);
            self.write(&Line::Interval(Box::new(interval)));
        }
    }

    /// A full disk does not end a run; it ends its file.
    fn write(&mut self, line: &Line) {
        let Some(writer) = &mut self.writer else { return };
        if let Err(error) = writer.write(line) {
            self.not_written = Some(error.to_string());
            self.writer = None;
        }
    }

    fn finish(mut self, interrupted: bool) -> Finished {
        let ended_at = self.ended_at.unwrap_or_else(Instant::now);
        let end = End {
            seconds: ended_at.saturating_duration_since(self.started).as_secs_f64(),
            complete: !interrupted,
            acknowledged: self.audits.then(|| std::mem::take(&mut self.acknowledged)),
            teardown: self.teardown.take(),
        };
        self.write(&Line::End(end.clone()));
        self.summary.end = Some(end);
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.finish()
        {
            self.not_written = Some(error.to_string());
        }
        Finished { summary: self.summary, not_written: self.not_written }
    }
}
