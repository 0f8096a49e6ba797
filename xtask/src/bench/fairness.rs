//! What a user's waiting runs cost another: one user leaves ten thousand runs to a
//! model that takes half a minute, each in a session of its own, so that each
//! could begin; others, who were never here before, ask one that takes half a second,
//! once each, before and while those wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::http;

/// Runs that wait when the others ask.
const WAITING_RUNS: usize = 10_000;
/// Clients that queue them.
const QUEUERS: usize = 8;
/// First runs of others, each before and while those wait: enough for a 99th percentile.
const FIRST_RUNS: usize = 100;
/// Others that ask at a time, so that all have asked while many still wait.
const OTHERS: usize = 10;

/// Of one engine.
#[derive(Debug, Serialize)]
pub struct Fairness {
    /// The engine.
    pub engine: &'static str,
    /// Runs of the one user that waited when the others began to ask.
    pub waiting_before: u64,
    /// How many of them still waited when the last one had its answer; with none, what
    /// was measured is not what waiting runs cost.
    pub waiting_after: u64,
    /// A first run of a user on an idle server, in microseconds.
    pub idle_p50_micros: u64,
    /// The same.
    pub idle_p99_micros: u64,
    /// While those wait.
    pub busy_p50_micros: u64,
    /// The same.
    pub busy_p99_micros: u64,
}

/// Where to ask.
pub(super) struct Asked<'a> {
    pub(super) engine: &'static str,
    pub(super) address: &'a str,
    pub(super) key: &'a str,
    /// The agent of the others.
    pub(super) slow: &'a str,
    /// The agent of the one user.
    pub(super) stuck: &'a str,
}

impl Asked<'_> {
    pub(super) fn measure(&self) -> Result<Fairness> {
        let idle = self.first_runs("idle")?;
        std::thread::scope(|scope| {
            let queuers: Vec<_> =
                (0..QUEUERS).map(|_| scope.spawn(|| self.queue(WAITING_RUNS / QUEUERS))).collect();
            queuers.into_iter().try_for_each(|queuer| {
                queuer.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
            })
        })?;
        let waiting_before = self.waiting()?;
        let busy = self.first_runs("busy")?;
        let waiting_after = self.waiting()?;
        Ok(Fairness {
            engine: self.engine,
            waiting_before,
            waiting_after,
            idle_p50_micros: percentile(&idle, 0.5),
            idle_p99_micros: percentile(&idle, 0.99),
            busy_p50_micros: percentile(&busy, 0.5),
            busy_p99_micros: percentile(&busy, 0.99),
        })
    }

    fn run(&self, agent: &str, body: &Value) -> Result<Value> {
        let path = format!("/api/v1/agents/{agent}/runs");
        http::post(self.address, &path, self.key, &body.to_string())
    }

    fn queue(&self, runs: usize) -> Result<()> {
        for _ in 0..runs {
            let run = json!({"message": "hello", "user_id": "many", "background": true});
            self.run(self.stuck, &run)?;
        }
        Ok(())
    }

    /// What each took, sorted.
    fn first_runs(&self, when: &str) -> Result<Vec<Duration>> {
        let some = |other: usize| {
            let mut took = Vec::with_capacity(FIRST_RUNS / OTHERS);
            for nth in 0..FIRST_RUNS / OTHERS {
                let user = format!("{when}-{other}-{nth}");
                let begun = Instant::now();
                let run = self.run(self.slow, &json!({"message": "hello", "user_id": user}))?;
                ensure!(run["success"] == true, "a run did not succeed: {run}");
                took.push(begun.elapsed());
            }
            Ok(took)
        };
        let mut took = Vec::with_capacity(FIRST_RUNS);
        std::thread::scope(|scope| {
            let others: Vec<_> =
                (0..OTHERS).map(|other| scope.spawn(move || some(other))).collect();
            for other in others {
                took.extend(other.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
            }
            anyhow::Ok(())
        })?;
        took.sort_unstable();
        Ok(took)
    }

    fn waiting(&self) -> Result<u64> {
        let page = http::get(self.address, "/api/v1/runs?status=queued&limit=1", self.key)?;
        let page: Value = serde_json::from_str(page.trim())?;
        page["total"].as_u64().context("a list without a total")
    }
}

fn percentile(sorted: &[Duration], share: f64) -> u64 {
    let nth = (sorted.len() as f64 * share).ceil() as usize;
    let at = sorted.get(nth.saturating_sub(1)).copied().unwrap_or_default();
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}
