//! What happened with streams of events, as metrics. Read when asked; `events`
//! keeps the counts.

use std::fmt;

use agentry_events::Events;
use agentry_gateway::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

struct EventCollector(Events);

impl fmt::Debug for EventCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventCollector")
    }
}

impl Collector for EventCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let activity = self.0.activity();
        let counters = [
            ("events_delivered", "Events handed to connections", activity.delivered),
            ("events_lagged", "Times that a stream was too slow and was told", activity.lagged),
            ("events_encoded", "Events written down, once for all streams", activity.encoded),
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
        let open = ConstGauge::new(i64::try_from(activity.subscriptions).unwrap_or(i64::MAX));
        open.encode(encoder.encode_descriptor(
            "events_subscriptions",
            "Open streams of events",
            None,
            open.metric_type(),
        )?)
    }
}

/// Adds the counts of streams to the metrics.
pub(crate) fn register(metrics: &Metrics, events: Events) {
    metrics.register(|registry| registry.register_collector(Box::new(EventCollector(events))));
}
