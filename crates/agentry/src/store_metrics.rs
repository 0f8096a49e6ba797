//! What the store did, as metrics; the store keeps the counts.

use std::sync::Arc;

use agentry_gateway::Metrics;
use agentry_store::Store;

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
        to.gauge("store_writes_waiting", "Writes that wait for a transaction", of.waiting)
    });
}
