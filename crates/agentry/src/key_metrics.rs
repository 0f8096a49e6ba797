//! How often a key had to be looked up, as metrics; the engine keeps the counts.

use agentry_engine::Engine;
use agentry_gateway::Metrics;

use crate::figures;

/// Adds what the cache of keys did to the metrics.
pub(crate) fn register(metrics: &Metrics, engine: Engine) {
    figures::register(metrics, move |to| {
        let of = engine.key_activity();
        to.counter("key_cache_hits", "Keys that were looked up a moment ago", of.hits)?;
        to.counter("key_cache_misses", "Keys that were looked up, or looked for", of.misses)?;
        to.gauge("key_cache_size", "Keys that are remembered", of.remembered)
    });
}
