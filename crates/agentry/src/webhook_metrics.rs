//! What became of deliveries to webhooks, as metrics; the engine keeps the counts.

use agentry_engine::Engine;
use agentry_gateway::Metrics;

use crate::figures;

/// Adds what became of deliveries to the metrics.
pub(crate) fn register(metrics: &Metrics, engine: Engine) {
    figures::register(metrics, move |to| {
        let of = engine.webhook_activity();
        to.counter("webhook_deliveries", "Deliveries to webhooks that arrived", of.delivered)?;
        let help = "Tries that failed and are followed by another";
        to.counter("webhook_retries", help, of.failed)?;
        to.counter("webhook_given_up", "Deliveries that were given up", of.given_up)?;
        to.gauge("webhook_delivering", "Webhooks that are being delivered to", of.delivering)
    });
}
