//! What became of deliveries to webhooks, as metrics. Read when asked; the engine
//! keeps the counts.

use std::fmt;

use agentry_engine::Engine;
use agentry_gateway::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

struct WebhookCollector(Engine);

impl fmt::Debug for WebhookCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookCollector")
    }
}

impl Collector for WebhookCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let activity = self.0.webhook_activity();
        let counters = [
            ("webhook_deliveries", "Deliveries to webhooks that arrived", activity.delivered),
            ("webhook_retries", "Tries that failed and are followed by another", activity.failed),
            ("webhook_given_up", "Deliveries that were given up", activity.given_up),
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
        let open = ConstGauge::new(i64::try_from(activity.delivering).unwrap_or(i64::MAX));
        open.encode(encoder.encode_descriptor(
            "webhook_delivering",
            "Webhooks that are being delivered to",
            None,
            open.metric_type(),
        )?)
    }
}

/// Adds what became of deliveries to the metrics.
pub(crate) fn register(metrics: &Metrics, engine: Engine) {
    metrics.register(|registry| registry.register_collector(Box::new(WebhookCollector(engine))));
}
