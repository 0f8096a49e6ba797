//! What the store did, as metrics. Read when asked; the store keeps the counts.

use std::fmt;
use std::sync::Arc;

use agentry_gateway::Metrics;
use agentry_store::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

struct StoreCollector(Arc<Store>);

impl fmt::Debug for StoreCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreCollector")
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let activity = self.0.activity();
        let counters = [
            ("store_commits", "Transactions committed", activity.commits),
            ("store_writes", "Writes applied; over commits it is the mean group", activity.writes),
            ("store_writes_refused", "Writes that a guard refused", activity.refused),
            ("store_writes_failed", "Writes that failed with the storage", activity.failed),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        let waiting = ConstGauge::new(i64::try_from(activity.waiting).unwrap_or(i64::MAX));
        waiting.encode(encoder.encode_descriptor(
            "store_writes_waiting",
            "Writes that wait for a transaction",
            None,
            waiting.metric_type(),
        )?)
    }
}

/// Adds the store's counts to the metrics.
pub(crate) fn register(metrics: &Metrics, store: Arc<Store>) {
    metrics.register(|registry| registry.register_collector(Box::new(StoreCollector(store))));
}
