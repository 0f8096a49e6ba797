//! How much there is in a graph, with a declared age: what was read is answered again
//! for a while, and those who ask at the same time share one read. An aggregate alone
//! may be as old as that; entities and lists are read each time, because who waits for
//! a read that began earlier could miss a write that was acknowledged to him.

use std::sync::Arc;
use std::time::Duration;

use agentry_domain::graph::{GraphStats, GroupId};
use agentry_domain::{Caller, Error, OrgId, Result};
use tokio::time::Instant;

use crate::Engine;

/// Groups whose statistics are remembered at once; each has two lists of at most 200
/// kinds.
const GROUPS_REMEMBERED_MAX: u64 = 1_000;

/// Statistics that were read lately.
pub(crate) struct StatsSeen(moka::future::Cache<(OrgId, GroupId), Arc<GraphStatsAt>>);

/// Statistics, and when they were read.
#[derive(Debug)]
pub struct GraphStatsAt {
    /// What there is.
    pub stats: GraphStats,
    /// The read began then.
    at: Instant,
}

impl GraphStatsAt {
    /// How old they are.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }
}

impl StatsSeen {
    pub(crate) fn new(age_max: Duration) -> Self {
        let seen = moka::future::Cache::builder().max_capacity(GROUPS_REMEMBERED_MAX);
        Self(seen.time_to_live(age_max).build())
    }
}

impl Engine {
    /// How old statistics of graphs may be; zero when they are read each time.
    pub fn graph_stats_age_max(&self) -> Duration {
        self.0.options.graph.stats_age_max
    }

    /// How much there is in a group, as it was within the last
    /// [`Engine::graph_stats_age_max`], or as it is when it must be `fresh`.
    pub async fn graph_stats(
        &self,
        caller: &Caller,
        group: &GroupId,
        fresh: bool,
    ) -> Result<Arc<GraphStatsAt>> {
        let age_max = self.graph_stats_age_max();
        let (org, seen) = (caller.org, &self.0.graph_stats.0);
        let read = async || {
            // From here on: the age is that of the oldest thing in it.
            let at = Instant::now();
            let stats = self.0.store.graph_stats_of_kinds(org, group).await?;
            Ok::<_, Error>(Arc::new(GraphStatsAt { stats, at }))
        };
        if age_max.is_zero() {
            return read().await;
        }
        let key = (org, group.clone());
        if !fresh {
            let found = seen.try_get_with(key.clone(), read()).await;
            let found = found.map_err(|error| again(&error))?;
            // Older when the read itself took that long.
            if found.age() <= age_max {
                return Ok(found);
            }
        }
        let read = read().await?;
        seen.insert(key, Arc::clone(&read)).await;
        Ok(read)
    }
}

/// An error that several wait for, for one of them.
fn again(error: &Arc<Error>) -> Error {
    let again = Error::new(error.code, error.detail.clone()).caused_by(error.chain());
    match error.retry_after {
        Some(after) => again.retry_after(after),
        None => again,
    }
}
