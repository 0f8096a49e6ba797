//! What the graph's memory does, as metrics, and how much waits for it, in `/ready` too.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::ports::{Clock as _, SystemClock};
use agentry_engine::{Engine, GraphBacklog};
use agentry_gateway::{Metrics, Readiness};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// How often the backlog is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);

struct GraphCollector {
    engine: Engine,
    backlog: Arc<Mutex<GraphBacklog>>,
}

impl fmt::Debug for GraphCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GraphCollector")
    }
}

impl Collector for GraphCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let activity = self.engine.graph_activity();
        let counters = [
            ("graph_episodes_drawn", "Episodes that this process drew from", activity.drawn),
            ("graph_episodes_dead", "Episodes that this process put aside", activity.failed),
            ("graph_facts_stored", "Facts that this process stored", activity.facts),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        let backlog = *self.backlog.lock();
        let waited = backlog.since.map_or(0, |since| micros(SystemClock.now().since(since)));
        let gauges = [
            ("graph_episodes_pending", "Episodes that wait to be drawn from", backlog.pending),
            ("graph_groups_pending", "Groups that have some", backlog.groups),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        let times = [
            ("graph_lag_seconds", "How long the newest batch had waited", activity.lag_micros),
            ("graph_oldest_seconds", "How long some wait at most", waited),
        ];
        for (name, help, micros) in times {
            let gauge = ConstGauge::new(Duration::from_micros(micros).as_secs_f64());
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Adds what the graph does to the metrics, and a note about its backlog to `/ready`.
pub(crate) fn register(
    metrics: &Metrics,
    readiness: &Readiness,
    engine: &Engine,
    noted: u64,
    tasks: &Tasks,
) {
    let backlog: Arc<Mutex<GraphBacklog>> = Arc::default();
    let collector = GraphCollector { engine: engine.clone(), backlog: Arc::clone(&backlog) };
    metrics.register(|registry| registry.register_collector(Box::new(collector)));
    let shown = Arc::clone(&backlog);
    readiness.note("graph", move || {
        let pending = shown.lock().pending;
        (pending >= noted).then(|| format!("{pending} episodes wait to be drawn from").into())
    });
    let (engine, stopping) = (engine.clone(), tasks.stopping().clone());
    tasks.spawn(async move {
        loop {
            match engine.graph_backlog().await {
                Ok(found) => *backlog.lock() = found,
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "the graph's backlog cannot be read");
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOKED_AT_EVERY) => {}
            }
        }
    });
}
