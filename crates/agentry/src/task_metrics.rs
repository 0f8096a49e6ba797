//! How many background tasks go on, as a metric: what never comes back to its
//! level leaks. Read when asked.

use std::fmt;

use agentry_domain::background::Tasks;
use agentry_gateway::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Debug)]
struct TaskCollector(Tasks);

impl Collector for TaskCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = ConstGauge::new(i64::try_from(self.0.count()).unwrap_or(i64::MAX));
        count.encode(encoder.encode_descriptor(
            "background_tasks",
            "Connections, runs, followed runs and workers that go on",
            None,
            count.metric_type(),
        )?)
    }
}

/// Adds the number of background tasks to the metrics.
pub(crate) fn register(metrics: &Metrics, tasks: Tasks) {
    metrics.register(|registry| registry.register_collector(Box::new(TaskCollector(tasks))));
}
