//! What is too old or too much goes from the front of the log, a little at a
//! time and behind everybody who waits to write.

use std::sync::Arc;
use std::time::Duration;

use agentry_domain::Timestamp;
use agentry_store::LogKeep;
use tokio_util::sync::CancellationToken;

use crate::Inner;

/// Entries that are deleted in one write.
const TRIM_ENTRIES: u32 = 500;
/// The pause between two of them, so that other writes have most of the time.
const TRIM_PAUSE: Duration = Duration::from_millis(20);
/// How often to look whether there is something to delete.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Trims the log until `stopping`.
pub(crate) async fn trim(inner: Arc<Inner>, stopping: CancellationToken) {
    let trimming = async {
        loop {
            let pause = match inner.store.log_trim(keep(&inner), TRIM_ENTRIES).await {
                Ok(TRIM_ENTRIES) => TRIM_PAUSE,
                Ok(_) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "the log could not be trimmed");
                    LOOK_EVERY
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    stopping.run_until_cancelled(trimming).await;
}

fn keep(inner: &Inner) -> LogKeep {
    let age = i64::try_from(inner.options.retention.as_micros()).unwrap_or(i64::MAX);
    LogKeep {
        since: Timestamp::from_micros(inner.clock.now().micros().saturating_sub(age)),
        entries_max: i64::try_from(inner.options.retention_entries_max).unwrap_or(i64::MAX),
    }
}
