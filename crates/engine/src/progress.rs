//! Progress of long work, as entries of the log: whoever listens sees how far it
//! is, beside [`agentry_domain::jobs::AdminJob`], which says the same when asked.

use std::time::Duration;

use agentry_domain::jobs::{AdminJob, JobKind};
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::{JobId, Timestamp};

/// Entries about one piece of work are at least this far apart, but for its end.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What an entry tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It goes on.
    Progress,
    /// It is done.
    Finished,
}

/// How far a piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What it is.
    pub(crate) job: JobId,
    /// What it does.
    pub(crate) work: &'static str,
    /// How much of it is done.
    pub(crate) done: u64,
    /// How much there is in all, as far as that is known.
    pub(crate) total: u64,
}

impl Progress {
    /// The entry that tells it. It is the server's own doing, and names no key.
    pub(crate) fn entry(&self, told: Told, at: Timestamp) -> LogEntry {
        let Self { job, work, done, .. } = *self;
        let total = self.total.max(done);
        let kind = match told {
            Told::Progress => "job.progress",
            Told::Finished => "job.finished",
        };
        let data = format!(r#"{{"kind":"{work}","done":{done},"total":{total}}}"#);
        LogEntry {
            at,
            kind,
            entity: EntityKind::Job,
            id: job.to_bytes(),
            actor: None,
            address: None,
            data,
        }
    }
}

/// How far a purge is: of a user's in sessions and memories, otherwise in the
/// messages of the session that it empties.
pub(crate) fn of_purge(record: &AdminJob, total: Option<u64>) -> Progress {
    let result = &record.result;
    let done = match record.user {
        Some(_) => result.sessions + result.memories,
        None => result.messages,
    };
    Progress { job: record.id, work: JobKind::Purge.as_str(), done, total: total.unwrap_or(done) }
}
