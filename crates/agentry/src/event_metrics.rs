//! What happened with streams of events, as metrics; `events` keeps the counts.

use agentry_events::Events;
use agentry_gateway::Metrics;

use crate::figures;

/// Adds the counts of streams to the metrics.
pub(crate) fn register(metrics: &Metrics, events: Events) {
    figures::register(metrics, move |to| {
        let of = events.activity();
        to.counter("events_delivered", "Events handed to connections", of.delivered)?;
        let help = "Times that a stream was too slow and was told";
        to.counter("events_lagged", help, of.lagged)?;
        to.counter("events_encoded", "Events written down, once for all streams", of.encoded)?;
        to.gauge("events_subscriptions", "Open streams of events", of.subscriptions)
    });
}
