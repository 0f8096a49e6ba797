//! Whether a run may be believed, whether it kept its thresholds, and what
//! limited it.

use crate::run_file::SocketInterval;
use crate::scenario::{Figure, Measure, Slo, SocketCount, Subject};
use crate::sketch::Sketch;
use crate::summary::{EndpointSummary, Summary};
use crate::units::{show_count, show_rate, show_seconds, show_share};

/// The generator may be late by this share of the 99th percentile ...
const LAG_SHARE_MAX: f64 = 0.05;
/// ... or by this, whichever is more, in seconds.
const LAG_SECONDS_MAX: f64 = 0.001;
/// The share of the time that a thread of the generator may wait for a CPU.
const SCHEDULER_DELAY_MAX: f64 = 0.1;
/// A thread that runs more than this has no time left.
const BUSY: f64 = 0.9;
/// Offered and not achieved beyond this means that something is full.
const ACHIEVED_MIN: f64 = 0.98;

/// Response times that exceed service times by more have waited in the lab.
const WAITED: f64 = 1.1;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything held.
    Pass,
    /// A threshold was broken, or an acknowledged write was lost.
    Broken,
    /// The result means nothing: the generator was the limit, or nothing was
    /// measured.
    Invalid,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Broken => 1,
            Self::Invalid => 4,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Broken => "broken",
            Self::Invalid => "invalid",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Why the run means nothing.
    pub(crate) invalid: Vec<String>,
    pub(crate) thresholds: Vec<Threshold>,
    /// Other faults of the target.
    pub(crate) broken: Vec<String>,
    /// What a reader has to know.
    pub(crate) notes: Vec<String>,
    pub(crate) limited_by: String,
}

#[derive(Debug)]
pub(crate) struct Threshold {
    pub(crate) text: String,
    pub(crate) value: String,
    pub(crate) holds: bool,
}

impl Verdict {
    pub(crate) fn exit(&self) -> Exit {
        if !self.invalid.is_empty() {
            Exit::Invalid
        } else if !self.broken.is_empty() || self.thresholds.iter().any(|t| !t.holds) {
            Exit::Broken
        } else {
            Exit::Pass
        }
    }
}

/// Judges a run by the thresholds of its scenario.
pub(crate) fn judge(summary: &Summary, slos: &[Slo]) -> Verdict {
    let mut broken = Vec::new();
    if let Some(audit) = summary.acknowledged() {
        let all = audit.acknowledged;
        for (count, what) in [
            (audit.lost, "could not be read back"),
            (audit.changed, "were read back with other fields than were sent"),
            (audit.undone, "were removals of what is still there"),
        ] {
            if count > 0 {
                broken.push(format!("{count} of {all} acknowledged writes {what}"));
            }
        }
    }
    Verdict {
        invalid: invalid(summary),
        thresholds: slos.iter().map(|slo| threshold(summary, slo)).collect(),
        broken,
        notes: notes(summary),
        limited_by: limited_by(summary),
    }
}

/// How late the generator may have been, in seconds.
fn lag_allowed(summary: &Summary) -> f64 {
    (LAG_SHARE_MAX * summary.all.ok.response.quantile(0.99)).max(LAG_SECONDS_MAX)
}

#[cfg(feature = "terminal")]
/// Whether what was measured so far is not the generator's own doing.
pub(crate) fn keeps_up(summary: &Summary) -> bool {
    summary.generator.dispatch_lag.quantile(0.99) <= lag_allowed(summary)
        && summary.generator.scheduler_delay() <= SCHEDULER_DELAY_MAX
}

fn invalid(summary: &Summary) -> Vec<String> {
    let mut reasons = Vec::new();
    if summary.all.count() == 0 {
        reasons.push("nothing was measured".to_owned());
        return reasons;
    }
    let p99 = summary.all.ok.response.quantile(0.99);
    let lag = summary.generator.dispatch_lag.quantile(0.99);
    let allowed = lag_allowed(summary);
    if lag > allowed {
        reasons.push(format!(
            "the generator was late: 99th percentile of its dispatch lag {}, allowed {}",
            show_seconds(lag),
            show_seconds(allowed)
        ));
    }
    let delay = summary.generator.scheduler_delay();
    if delay > SCHEDULER_DELAY_MAX {
        reasons.push(format!(
            "the generator waited for a CPU {} of the time, allowed {}",
            show_share(delay),
            show_share(SCHEDULER_DELAY_MAX)
        ));
    }
    let open = summary.header.load.model == "open";
    let queued = p99 - summary.all.ok.service.quantile(0.99);
    let busy = summary.generator.busiest_thread();
    if open && busy > BUSY && (queued > allowed || summary.generator.shed > 0) {
        reasons.push(format!(
            "the generator was the limit: its busiest thread ran {} of the time while requests \
             waited for it",
            show_share(busy)
        ));
    }
    reasons
}

fn threshold(summary: &Summary, slo: &Slo) -> Threshold {
    let row = match &slo.subject {
        Subject::All => Some(&summary.all),
        Subject::Endpoint(name) => summary.endpoints.iter().find(|row| row.name == *name),
    };
    let measured = match row {
        Some(row) if slo.measure.is_of_sockets() => measure_socket(row, slo.measure),
        Some(row) if row.count() > 0 => {
            measure(summary, row, slo.measure, slo.subject == Subject::All)
        }
        _ => Err("not measured"),
    };
    let (value, holds) = match measured {
        Ok(value) => (show(slo.measure, value), slo.holds(value)),
        Err(why) => (why.to_owned(), false),
    };
    Threshold { text: slo.text.clone(), value, holds }
}

fn show(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Errors => show_share(value),
        Measure::Rate => show_rate(value),
        // A count: whole, and far below what a f64 holds exactly.
        Measure::Socket(_) => show_count(value as u64),
        Measure::Response(_) | Measure::Lag(_) | Measure::Resume(_) => show_seconds(value),
    }
}

fn figure(sketch: &Sketch, figure: Figure) -> f64 {
    match figure {
        Figure::Quantile(q) => sketch.quantile(q),
        Figure::Mean => sketch.mean(),
        Figure::Max => sketch.max(),
    }
}

fn measure(
    summary: &Summary,
    row: &EndpointSummary,
    measure: Measure,
    all: bool,
) -> Result<f64, &'static str> {
    Ok(match measure {
        // Times of an endpoint that never succeeded are no times.
        Measure::Response(_) if row.ok.count == 0 => return Err("nothing succeeded"),
        Measure::Response(of) => figure(&row.ok.response, of),
        Measure::Errors if all => summary.error_share(),
        Measure::Errors => row.error_share(),
        // Only what succeeded was done.
        Measure::Rate if all => summary.goodput(),
        Measure::Rate => summary.rate_of(row) * (1.0 - row.error_share()),
        Measure::Lag(_) | Measure::Resume(_) | Measure::Socket(_) => {
            return measure_socket(row, measure);
        }
    })
}

/// Of what came over the sockets of the row; where nothing came, nothing can be
/// said of its order or its lag.
fn measure_socket(row: &EndpointSummary, measure: Measure) -> Result<f64, &'static str> {
    const NOTHING: &str = "nothing came over it";
    let nothing = SocketInterval::default();
    let socket = match row.ok.socket.as_deref() {
        Some(socket) => socket,
        None if row.ok.count > 0 => &nothing,
        None => return Err("not measured"),
    };
    let of = |sketch: &Sketch, of| {
        if sketch.is_empty() { Err("not measured") } else { Ok(figure(sketch, of)) }
    };
    let told = |count: u64| if socket.frames == 0 { Err(NOTHING) } else { Ok(count as f64) };
    match measure {
        Measure::Lag(figure) => of(&socket.lag, figure),
        Measure::Resume(figure) => of(&socket.resume, figure),
        Measure::Socket(count) => match count {
            SocketCount::Frames => Ok(socket.frames as f64),
            SocketCount::Lost => told(socket.lost),
            SocketCount::Doubled => told(socket.doubled),
            SocketCount::Reordered => told(socket.reordered),
            SocketCount::Reconnects => Ok(socket.reconnects as f64),
            SocketCount::Resumed => Ok(socket.resumed as f64),
            SocketCount::Closed => Ok(socket.closed as f64),
            SocketCount::Forgotten => Ok(socket.forgotten as f64),
        },
        Measure::Response(_) | Measure::Errors | Measure::Rate => Err("not measured"),
    }
}

fn notes(summary: &Summary) -> Vec<String> {
    let mut notes = Vec::new();
    match &summary.end {
        None => notes.push(format!(
            "The run has no end: it was killed. What was measured until then stands{}.",
            if summary.torn { "; its last line was torn and is left out" } else { "" }
        )),
        Some(end) if !end.complete => {
            notes.push(format!("The run was ended after {}.", show_seconds(end.seconds)));
        }
        Some(_) => {}
    }
    if summary.header.machine.shared_with_target {
        notes.push(format!(
            "Generator and target shared the {} CPUs of one machine: each took from the other.",
            summary.header.machine.cpus
        ));
    }
    if summary.generator.shed > 0 {
        let shed = summary.generator.shed;
        notes.push(format!("{shed} iterations were due and never sent; they count as errors."));
    }
    if let Some(audit) = summary.acknowledged()
        && audit.acknowledged > 0
    {
        let checked = audit.acknowledged - audit.not_checked;
        notes.push(format!(
            "Of {} acknowledged writes {} were read back: {} found, {} of them changed, {} lost, \
             {} removed and gone, {} removed and still there, {} unknown.",
            audit.acknowledged,
            checked,
            audit.found,
            audit.changed,
            audit.lost,
            audit.gone,
            audit.undone,
            audit.unknown
        ));
    }
    if let Some(torn) = summary.end.as_ref().and_then(|end| end.teardown.as_ref())
        && torn.failed + torn.not_done > 0
    {
        notes.push(format!(
            "The teardown left something behind: of {} requests {} failed, and {} of {} users had \
             no turn.",
            torn.requests, torn.failed, torn.not_done, torn.users
        ));
    }
    if let Some(fault) = &summary.series_fault {
        notes.push(format!("The target's metrics could not be read all the time: {fault}."));
    }
    if summary.all.ok.count < 1000 && summary.all.ok.count > 0 {
        let count = summary.all.ok.count;
        notes.push(format!("{count} answers are too few for percentiles above the 99th."));
    }
    notes
}

fn limited_by(summary: &Summary) -> String {
    let load = &summary.header.load;
    let busy = summary.generator.busiest_thread();
    let cpus = summary.target_cpus();
    let of = summary.header.machine.cpus;
    let target = match cpus {
        Some(used) => format!("the target used {used:.2} of {of} CPUs"),
        None => "the target's CPU was not measured".to_owned(),
    };
    let delay = summary.generator.scheduler_delay();
    if delay > SCHEDULER_DELAY_MAX {
        return format!(
            "The CPUs of the generator's machine: it waited for one {} of the time; {target}.",
            show_share(delay)
        );
    }
    if load.model == "open" {
        let iterations = summary.offered_rate();
        let per_iteration = summary.all.count() as f64
            / summary.generator.offered.saturating_sub(summary.generator.shed).max(1) as f64;
        let ended = summary.rate() / per_iteration.max(1.0);
        let achieved = ended / iterations.max(f64::MIN_POSITIVE);
        let (response, service) = (&summary.all.ok.response, &summary.all.ok.service);
        // What waited for a free user shows in the one and not in the other.
        let late = response.mean() > WAITED * service.mean()
            || response.quantile(0.99) > 2.0 * service.quantile(0.99);
        let offered = show_rate(iterations);
        return if achieved < ACHIEVED_MIN {
            let shed = summary.generator.shed;
            let unsent = match shed {
                0 => String::new(),
                shed => format!(", {} were never sent", show_count(shed)),
            };
            format!(
                "The target or the number of users ({}): of {offered} offered, {} ended while the \
                 load lasted; the others waited{unsent}; {target}.",
                load.users,
                show_rate(ended)
            )
        } else if late {
            format!(
                "The target or the number of users: all of {offered} offered was sent, but part of \
                 it had to wait; {target}."
            )
        } else {
            format!("The offered rate, {offered}: everything was sent when it was due; {target}.")
        };
    }
    if busy > BUSY {
        return format!(
            "The generator: its busiest thread ran {} of the time, so the rate is less than the \
             target can do; {target}.",
            show_share(busy)
        );
    }
    let think = load.think_seconds.map_or(0.0, |[low, high]| f64::midpoint(low, high));
    let response = summary.all.ok.response.mean();
    if think > response {
        let per_pause = summary.all.count() as f64 / summary.generator.offered.max(1) as f64;
        let most = f64::from(load.users) / think * per_pause.max(1.0);
        return format!(
            "The users' pauses: {} users that pause {} make at most {} however fast the target \
             is; {target}.",
            load.users,
            show_seconds(think),
            show_rate(most)
        );
    }
    format!("The target, at {} users who wait for each answer: {target}.", load.users)
}
