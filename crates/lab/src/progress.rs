//! What a run shows while it goes: a live view where a terminal is attached to
//! stderr, otherwise a line now and then.

#[cfg(feature = "terminal")]
use std::io::IsTerminal as _;

use tokio::sync::watch;

use crate::drive::Options;
#[cfg(feature = "terminal")]
use crate::live::{About, View};
use crate::scenario::Plan;
#[cfg(feature = "terminal")]
use crate::scenario::Until;
use crate::summary::{Point, Summary};
use crate::units::{show_bytes, show_rate, show_seconds};

/// Seconds from one line to the next.
const LINE_EVERY: u64 = 10;

/// See the module.
pub(crate) struct Progress {
    #[cfg(feature = "terminal")]
    view: Option<View>,
    #[cfg(feature = "terminal")]
    interrupt: watch::Receiver<bool>,
}

impl Progress {
    pub(crate) fn start(plan: &Plan, options: &Options, interrupt: &watch::Receiver<bool>) -> Self {
        let profile = &plan.profile;
        let kind = if profile.is_open() { "open" } else { "closed" };
        let (url, users) = (plan.target.url(), profile.users());
        let load = format!("{url}, {kind} load, {users} users");
        #[cfg(feature = "terminal")]
        let view = {
            let iterations = match profile.until {
                Until::Iterations(count) => Some(count),
                Until::Elapsed(_) => None,
            };
            let title = format!("{} ({})", options.scenario, profile.name);
            let about = About { title, load: load.clone(), iterations };
            // Where a view cannot be had, lines are as good.
            std::io::stderr().is_terminal().then(|| View::start(about).ok()).flatten()
        };
        #[cfg(feature = "terminal")]
        let progress = Self { view, interrupt: interrupt.clone() };
        #[cfg(not(feature = "terminal"))]
        let progress = {
            let _ = interrupt;
            Self {}
        };
        if !progress.is_live() {
            eprintln!("lab: {} ({}) on {load}", options.scenario, profile.name);
        }
        progress
    }

    fn is_live(&self) -> bool {
        #[cfg(feature = "terminal")]
        return self.view.is_some();
        #[cfg(not(feature = "terminal"))]
        return false;
    }

    /// A second has passed.
    pub(crate) fn second(&mut self, summary: &Summary, point: &Point) {
        #[cfg(feature = "terminal")]
        if let Some(view) = &mut self.view {
            let ending = *self.interrupt.borrow();
            view.show(summary, point, ending);
            return;
        }
        if !(point.second + 1).is_multiple_of(LINE_EVERY) || point.seconds < 1.0 {
            return;
        }
        let whole = summary.header.load.seconds.map(|whole| match point.second {
            second if (second as f64) < whole => format!(" of {whole:.0} s"),
            _ => " (the load is over, answers are awaited)".to_owned(),
        });
        let target = point.target.map(|used| {
            let memory = show_bytes(used.resident_bytes as f64);
            format!(", target {:.2} CPU {memory}", used.cpu_seconds)
        });
        eprintln!(
            "{:>5} s{}  {}  {} failed  p50 {}  p99 {}{}{}",
            point.second + 1,
            whole.unwrap_or_default(),
            show_rate((point.ok + point.failed) as f64 / point.seconds),
            point.failed,
            show_seconds(point.p50),
            show_seconds(point.p99),
            target.unwrap_or_default(),
            if point.warmup { "  (warm-up)" } else { "" },
        );
    }
}

impl Progress {
    /// Whatever it had of the terminal is given back.
    #[cfg_attr(
        not(feature = "terminal"),
        expect(clippy::unused_self, reason = "lines have nothing")
    )]
    pub(crate) fn end(self) {
        #[cfg(feature = "terminal")]
        drop(self.view);
    }
}

/// Says something on stderr, unless a view would be drawn over by it.
pub(crate) fn say(text: &str) {
    #[cfg(feature = "terminal")]
    if crate::screen::is_taken() {
        return;
    }
    eprintln!("lab: {text}");
}

/// Before the process ends at once.
pub(crate) fn give_back_terminal() {
    #[cfg(feature = "terminal")]
    crate::screen::leave();
}
