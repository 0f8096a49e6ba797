//! How many background tasks go on, as a metric: what never comes back to its level
//! leaks.

use agentry_domain::background::Tasks;
use agentry_gateway::Metrics;

use crate::figures;

/// Adds the number of background tasks to the metrics.
pub(crate) fn register(metrics: &Metrics, tasks: Tasks) {
    figures::register(metrics, move |to| {
        let help = "Connections, runs, followed runs and workers that go on";
        to.gauge("background_tasks", help, tasks.count() as u64)
    });
}
