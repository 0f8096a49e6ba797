//! The jobs that this process is at work on, and the way to tell whoever is that
//! it is to stop. A job that the store says is ours and that nobody here is at
//! work on was lost on the way (a task that panicked, an answer of the database
//! that never came) and is given up, so that it is begun again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use agentry_domain::JobId;
use agentry_domain::runs::Stop;
use agentry_store::ClaimedJob;
use parking_lot::Mutex;
use tokio::sync::watch;

type Stops = watch::Sender<Option<Stop>>;

/// The set, and what the last look found that is in nobody's hands.
#[derive(Default)]
pub(crate) struct HeldJobs {
    held: Arc<Mutex<HashMap<JobId, Stops>>>,
    suspects: Mutex<HashSet<JobId>>,
}

/// As long as it lives, the job is being worked on.
pub(crate) struct Held {
    held: Arc<Mutex<HashMap<JobId, Stops>>>,
    job: JobId,
    stop: watch::Receiver<Option<Stop>>,
}

impl HeldJobs {
    pub(crate) fn hold(&self, job: JobId) -> Held {
        let (stops, stop) = watch::channel(None);
        self.held.lock().insert(job, stops);
        Held { held: Arc::clone(&self.held), job, stop }
    }

    /// Tells whoever is at work on this job that it is to stop. A hint: what was
    /// asked for is in the store.
    pub(crate) fn stop(&self, job: JobId, stop: Stop) {
        if let Some(stops) = self.held.lock().get(&job) {
            stops.send_if_modified(|was| {
                let is_news = Some(stop) > *was;
                *was = (*was).max(Some(stop));
                is_news
            });
        }
    }

    /// Whether somebody here is at work on this job.
    pub(crate) fn is_held(&self, job: JobId) -> bool {
        self.held.lock().contains_key(&job)
    }

    /// Whether nobody here is at work.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.lock().is_empty()
    }

    /// Of the jobs that the store says are ours, those that nobody holds now
    /// and nobody held at the last look: one look alone may come between a
    /// claim and its beginning, or between an end and its news.
    pub(crate) fn lost(&self, ours: Vec<ClaimedJob>) -> Vec<ClaimedJob> {
        let held = self.held.lock();
        let unheld: Vec<ClaimedJob> =
            ours.into_iter().filter(|job| !held.contains_key(&job.id)).collect();
        drop(held);
        let now = unheld.iter().map(|job| job.id).collect();
        let before = std::mem::replace(&mut *self.suspects.lock(), now);
        unheld.into_iter().filter(|job| before.contains(&job.id)).collect()
    }
}

impl Held {
    /// Waits until the job is to stop.
    pub(crate) async fn stopped(&mut self) -> Stop {
        match self.stop.wait_for(Option::is_some).await.map(|stop| *stop) {
            Ok(Some(stop)) => stop,
            // Nobody can ask any more.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.lock().remove(&self.job);
    }
}
