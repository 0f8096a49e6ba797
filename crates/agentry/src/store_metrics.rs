//! What the store did, as metrics; the store keeps the counts.

use std::sync::Arc;

use agentry_gateway::Metrics;
use agentry_store::{PoolActivity, Store};

use crate::figures;

/// Adds the store's counts to the metrics.
pub(crate) fn register(metrics: &Metrics, store: Arc<Store>) {
    figures::register(metrics, move |to| {
        let of = store.activity();
        to.counter("store_commits", "Transactions committed", of.commits)?;
        let help = "Writes applied; over commits it is the mean group";
        to.counter("store_writes", help, of.writes)?;
        to.counter("store_writes_refused", "Writes that a guard refused", of.refused)?;
        to.counter("store_writes_failed", "Writes that failed with the storage", of.failed)?;
        to.gauge("store_writes_waiting", "Writes that wait for a transaction", of.waiting)?;
        let pools = store.pools();
        let of = |read: fn(&PoolActivity) -> u64| pools.map(|pool| (pool.name, read(&pool)));
        let help = "How many of a pool there may be: connections that scan, and writers";
        to.gauges("store_pool_size", help, ("pool", &of(|pool| pool.size)))?;
        let help = "How many of a pool are at work";
        to.gauges("store_pool_in_use", help, ("pool", &of(|pool| pool.in_use)))?;
        let help = "Who waits for one of a pool";
        to.gauges("store_pool_waiting", help, ("pool", &of(|pool| pool.waiting)))?;
        let help = "How often one of a pool was had, or a write taken by a writer";
        to.counters("store_pool_taken", help, ("pool", &of(|pool| pool.taken)))?;
        let help = "How long that was waited for, all together";
        let waited = pools.map(|pool| (pool.name, pool.waited.as_secs_f64()));
        to.counters("store_pool_wait_seconds", help, ("pool", &waited))
    });
}
