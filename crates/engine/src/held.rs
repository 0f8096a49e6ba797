//! The jobs that this process is at work on. A job that the store says is ours
//! and that nobody here is at work on was lost on the way (a task that panicked,
//! an answer of the database that never came) and is given up, so that it is
//! begun again.

use std::collections::HashSet;
use std::sync::Arc;

use agentry_domain::JobId;
use agentry_store::ClaimedJob;
use parking_lot::Mutex;

/// The set, and what the last look found that is in nobody's hands.
#[derive(Default)]
pub(crate) struct HeldJobs {
    held: Arc<Mutex<HashSet<JobId>>>,
    suspects: Mutex<HashSet<JobId>>,
}

/// As long as it lives, the job is being worked on.
pub(crate) struct Held {
    held: Arc<Mutex<HashSet<JobId>>>,
    job: JobId,
}

impl HeldJobs {
    pub(crate) fn hold(&self, job: JobId) -> Held {
        self.held.lock().insert(job);
        Held { held: Arc::clone(&self.held), job }
    }

    /// Of the jobs that the store says are ours, those that nobody holds now
    /// and nobody held at the last look: one look alone may come between a
    /// claim and its beginning, or between an end and its news.
    pub(crate) fn lost(&self, ours: Vec<ClaimedJob>) -> Vec<ClaimedJob> {
        let held = self.held.lock();
        let unheld: Vec<ClaimedJob> =
            ours.into_iter().filter(|job| !held.contains(&job.id)).collect();
        drop(held);
        let now = unheld.iter().map(|job| job.id).collect();
        let before = std::mem::replace(&mut *self.suspects.lock(), now);
        unheld.into_iter().filter(|job| before.contains(&job.id)).collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.lock().remove(&self.job);
    }
}
