//! What is left undone for a while, so that the rest goes on: models are not asked while
//! they fail, or while much waits to be read, and nothing is read while clients send more
//! than this process keeps up with. Episodes are taken and found as text all the same,
//! and everything goes on by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::episodes::ModelWork;
use agentry_outbound::breaker::{Admission, Breaker, BreakerRules, BreakerState, Outcome};
use agentry_store::GraphBacklog;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::GraphOptions;
use crate::Engine;

/// How often the backlog is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
/// Newest calls of a model that its breaker looks at, and failures among them that open
/// it, if they are half of them.
const BREAKER_WINDOW_CALLS: usize = 8;
const BREAKER_FAILURES_MIN: usize = 3;
/// Reading pauses only while the backlog grows by at least this share of what pauses it
/// from one look to the next: otherwise reading would keep up, and end the backlog.
const FLOOD_SHARE: u64 = 100;

/// What pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphPause {
    /// Models are not asked about episodes.
    pub models: bool,
    /// Episodes are not read.
    pub drawing: bool,
}

/// How the graph's work stands in this process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GraphStanding {
    /// How much waits to be read, in all groups.
    pub backlog: GraphBacklog,
    /// Episodes that wait for a model to draw from them.
    pub extraction_pending: u64,
    /// Episodes that wait to be turned into vectors.
    pub embedding_pending: u64,
    /// What pauses because of that.
    pub pause: GraphPause,
    /// Whether the extraction model is left alone because it failed.
    pub extraction_open: bool,
    /// Whether the embedding model is.
    pub embedding_open: bool,
}

/// What pauses and why.
pub(crate) struct Pressure {
    pause: watch::Sender<GraphPause>,
    standing: Mutex<GraphStanding>,
    breakers: [Mutex<Breaker>; 2],
    opened: [AtomicU64; 2],
}

/// That a call of a model may go out. Dropped, it says that nothing is known of it.
pub(crate) struct Permit<'p> {
    pressure: &'p Pressure,
    work: ModelWork,
    admission: Option<Admission>,
}

impl Permit<'_> {
    /// Tells what became of the call.
    pub(crate) fn tell(mut self, outcome: Outcome) {
        self.say(outcome);
    }

    fn say(&mut self, outcome: Outcome) {
        let Some(admission) = self.admission.take() else { return };
        let (pressure, work) = (self.pressure, self.work);
        let mut breaker = pressure.breakers[nth(work)].lock();
        let before = breaker.opened();
        breaker.tell(admission, outcome, Instant::now());
        if breaker.opened() > before {
            pressure.opened[nth(work)].fetch_add(1, Ordering::Relaxed);
            tracing::warn!(work = work.as_str(), "a model of the graph is left alone for a while");
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.say(Outcome::Unknown);
    }
}

fn nth(work: ModelWork) -> usize {
    match work {
        ModelWork::Extract => 0,
        ModelWork::Embed => 1,
    }
}

impl Pressure {
    pub(crate) fn new(options: &GraphOptions) -> Self {
        let rules = BreakerRules {
            window_calls: BREAKER_WINDOW_CALLS,
            failures_min: BREAKER_FAILURES_MIN,
            open: options.model_breaker_open,
            probes: 1,
            ramp_calls: 1,
        };
        Self {
            pause: watch::Sender::default(),
            standing: Mutex::default(),
            breakers: [Mutex::new(Breaker::new(rules)), Mutex::new(Breaker::new(rules))],
            opened: Default::default(),
        }
    }

    /// Waits until episodes may be read.
    pub(crate) async fn drawing_allowed(&self) {
        // It ends only with this value, which outlives whoever waits.
        let _ = self.pause.subscribe().wait_for(|pause| !pause.drawing).await;
    }

    pub(crate) fn is_drawing_paused(&self) -> bool {
        self.pause.borrow().drawing
    }

    /// Waits until models may be asked about episodes.
    pub(crate) async fn models_allowed(&self) {
        let _ = self.pause.subscribe().wait_for(|pause| !pause.models).await;
    }

    /// Lets a call of a model out, or says how long it is left alone.
    pub(crate) fn admit(&self, work: ModelWork) -> Result<Permit<'_>, Duration> {
        let admission = self.breakers[nth(work)].lock().admit(Instant::now())?;
        Ok(Permit { pressure: self, work, admission: Some(admission) })
    }

    /// How often the breaker opened so far.
    pub(crate) fn opened(&self, work: ModelWork) -> u64 {
        self.opened[nth(work)].load(Ordering::Relaxed)
    }

    fn is_open(&self, work: ModelWork) -> bool {
        let state = self.breakers[nth(work)].lock().state();
        matches!(state, BreakerState::Open | BreakerState::HalfOpen)
    }
}

/// What pauses at a backlog that was so much at the look before.
fn pause(options: &GraphOptions, pending: u64, before: u64) -> GraphPause {
    let drawing_from = options.drawing_paused_from_episodes;
    let grows = pending.saturating_sub(before) >= (drawing_from / FLOOD_SHARE).max(1);
    GraphPause {
        models: pending >= options.models_paused_from_episodes,
        drawing: pending >= drawing_from && grows,
    }
}

impl Engine {
    /// How the graph's work stands in this process, as it was at the last look.
    pub fn graph_standing(&self) -> GraphStanding {
        let pressure = &self.0.graph.pressure;
        GraphStanding {
            extraction_open: pressure.is_open(ModelWork::Extract),
            embedding_open: pressure.is_open(ModelWork::Embed),
            ..pressure.standing.lock().clone()
        }
    }

    /// Looks at the backlog every now and then, and pauses what has to wait.
    pub(crate) async fn watch_graph(&self) {
        let stopping = self.0.tasks.stopping().clone();
        let pressure = &self.0.graph.pressure;
        let mut before = 0;
        while !stopping.is_cancelled() {
            let looked = async {
                let store = &self.0.store;
                Ok::<_, agentry_store::StoreError>((
                    store.graph_backlog().await?,
                    store.asks_count().await?,
                ))
            };
            match looked.await {
                Ok((backlog, asks)) => {
                    let count = |work| asks.iter().find(|it| it.0 == work).map_or(0, |it| it.1);
                    let pause = pause(&self.0.options.graph, backlog.pending, before);
                    before = backlog.pending;
                    *pressure.standing.lock() = GraphStanding {
                        backlog,
                        extraction_pending: count(ModelWork::Extract),
                        embedding_pending: count(ModelWork::Embed),
                        pause,
                        ..GraphStanding::default()
                    };
                    let was = pressure.pause.send_replace(pause);
                    if was != pause {
                        tracing::info!(
                            pending = backlog.pending,
                            models_paused = pause.models,
                            drawing_paused = pause.drawing,
                            "the graph's work pauses or goes on"
                        );
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the graph's backlog cannot be read");
                }
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(LOOKED_AT_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_pauses_while_clients_flood_it_and_goes_on_by_itself() {
        let options = GraphOptions {
            models_paused_from_episodes: 100,
            drawing_paused_from_episodes: 1_000,
            ..GraphOptions::default()
        };
        for (pending, before, models, drawing) in [
            (0, 0, false, false),
            (99, 0, false, false),
            (100, 0, true, false),
            (999, 0, true, false),
            (1_000, 0, true, true),
            (1_010, 1_000, true, true),
            // A trickle: reading is faster.
            (1_009, 1_000, true, false),
            (1_500, 1_500, true, false),
            (1_400, 1_500, true, false),
            (50, 1_400, false, false),
        ] {
            let expected = GraphPause { models, drawing };
            assert_eq!(pause(&options, pending, before), expected, "{pending} {before}");
        }
    }
}
