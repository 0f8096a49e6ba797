//! What happened with the model providers, as metrics. Read when asked; `outbound`
//! keeps the counts.

use std::fmt;

use agentry_gateway::Metrics;
use agentry_llm::{Models, UpstreamCounts};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

struct ModelCollector(Models);

impl fmt::Debug for ModelCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelCollector")
    }
}

/// A counter's name, what it counts, and where it stands.
type Column = (&'static str, &'static str, fn(&UpstreamCounts) -> u64);

const COUNTERS: [Column; 6] = [
    ("model_calls", "Calls to a model provider, without retries", |it| it.calls),
    ("model_retries", "Calls that were sent again", |it| it.retries),
    ("model_retries_denied", "Retries that the budget did not allow", |it| it.retries_denied),
    ("model_failures", "Calls, retries among them, that failed", |it| it.failures),
    ("model_calls_refused", "Calls that the breaker refused", |it| it.refused),
    ("model_breaker_opened", "Times that the breaker opened", |it| it.breaker_opened),
];

impl Collector for ModelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.counts();
        if counts.is_empty() {
            return Ok(());
        }
        for (name, help, read) in COUNTERS {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for of in &counts {
                let labels = [("provider", of.name.as_str())];
                ConstCounter::new(read(of)).encode(family.encode_family(&labels)?)?;
            }
        }
        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "How a provider's breaker stands: 0 closed, 1 ramp, 2 half open, 3 open";
        let mut family = encoder.encode_descriptor("model_breaker", help, None, kind)?;
        for of in &counts {
            let labels = [("provider", of.name.as_str())];
            ConstGauge::new(of.breaker.severity()).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Adds the counts of the providers to the metrics.
pub(crate) fn register(metrics: &Metrics, models: Models) {
    metrics.register(|registry| registry.register_collector(Box::new(ModelCollector(models))));
}
