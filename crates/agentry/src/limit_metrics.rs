//! Whom limits refused, as metrics. Read when asked; the engine keeps the counts.

use std::fmt;

use agentry_engine::Engine;
use agentry_gateway::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

struct LimitCollector(Engine);

impl fmt::Debug for LimitCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LimitCollector")
    }
}

impl Collector for LimitCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let activity = self.0.limit_activity();
        let (name, help) = ("limits_refused", "Requests that a limit refused, by whose it was");
        let mut refused = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (subject, count) in &activity.refused {
            let labels = [("subject", subject.as_str())];
            ConstCounter::new(*count).encode(refused.encode_family(&labels)?)?;
        }
        let remembered = ConstGauge::new(i64::try_from(activity.remembered).unwrap_or(i64::MAX));
        remembered.encode(encoder.encode_descriptor(
            "limits_remembered",
            "Keys, users and organisations whose rates are remembered",
            None,
            remembered.metric_type(),
        )?)
    }
}

/// Adds what limits did to the metrics.
pub(crate) fn register(metrics: &Metrics, engine: Engine) {
    metrics.register(|registry| registry.register_collector(Box::new(LimitCollector(engine))));
}
