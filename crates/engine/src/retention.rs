//! Retention: what is older than configured is deleted, by one task, in small
//! bulk writes that go after everything that a client waits for.
//!
//! A session is as old as the last thing that was said in it or changed of it,
//! and goes with all that is in it; a run and a job are as old as their end. A
//! file that was never wholly sent goes with what arrived of it. The log is
//! shortened by its own rules, and requests that took effect are forgotten
//! with their keys. Several processes may do this on one database: whoever comes
//! second finds nothing.

use std::time::Duration;

use agentry_domain::{Code, Error, OrgId, Result, Timestamp};
use agentry_store::Write;
use uuid::Uuid;

use crate::Engine;

/// Sessions that are looked at in one go.
const SESSIONS_AT_ONCE: u32 = 100;
/// Runs, or jobs, that one write deletes.
const DELETED_AT_ONCE: u32 = 100;
/// Abandoned uploads that are looked up in one go.
const UPLOADS_AT_ONCE: u32 = 100;

/// How long things are kept; none for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Sessions, since something was last said in them.
    pub sessions: Option<Duration>,
    /// Runs, since they ended.
    pub runs: Option<Duration>,
    /// Jobs that people look at, since they ended.
    pub admin_jobs: Option<Duration>,
    /// What arrived of a file that was never wholly sent, since it began.
    pub uploads: Duration,
    /// How long after a round the next one begins.
    pub every: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            sessions: None,
            runs: None,
            admin_jobs: Some(Duration::from_secs(30 * 24 * 3_600)),
            uploads: Duration::from_secs(3_600),
            every: Duration::from_secs(600),
        }
    }
}

/// The smallest id that can be made at this time (RFC 9562, section 5.7), as the
/// bound of what was made before.
fn id_at(time: Timestamp) -> [u8; 16] {
    let millis = time.micros().max(0).unsigned_abs() / 1_000;
    let mut id = [0; 16];
    id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    id
}

/// When an id was made.
fn made_at(id: [u8; 16]) -> Timestamp {
    let (seconds, nanos) =
        Uuid::from_bytes(id).get_timestamp().map_or((0, 0), |time| time.to_unix());
    let micros = i64::try_from(seconds).unwrap_or(0) * 1_000_000 + i64::from(nanos) / 1_000;
    Timestamp::from_micros(micros)
}

impl Engine {
    /// Deletes what is too old, round after round, until the tasks stop.
    pub(crate) async fn retain(&self) {
        let stopping = self.0.tasks.stopping().clone();
        let every = self.0.options.retention.every;
        loop {
            match stopping.run_until_cancelled(self.retention_round()).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::error!(error = %error.chain(), "what is too old could not be deleted");
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    async fn retention_round(&self) -> Result<()> {
        let Retention { sessions, runs, admin_jobs, uploads, .. } = self.0.options.retention;
        let now = self.now();
        self.uploads_expire(now.minus(uploads)).await?;
        for org in self.0.store.org_ids().await? {
            if let Some(kept) = sessions {
                self.sessions_expire(org, now.minus(kept)).await?;
            }
            if let Some(kept) = runs {
                self.runs_expire(org, now.minus(kept)).await?;
            }
            if let Some(kept) = admin_jobs {
                self.admin_jobs_expire(org, now.minus(kept)).await?;
            }
        }
        Ok(())
    }

    async fn uploads_expire(&self, before: Timestamp) -> Result<()> {
        loop {
            let batch = self.0.store.file_upload_old(before, UPLOADS_AT_ONCE).await?;
            for (org, session, content) in &batch {
                let mut write = Write::new(*org).bulk();
                write.file_upload_end(*session, *content);
                self.0.store.write(write).await?;
            }
            if batch.is_empty() {
                return Ok(());
            }
        }
    }

    async fn admin_jobs_expire(&self, org: OrgId, before: Timestamp) -> Result<()> {
        let mut after = [0; 16];
        loop {
            let within = (after, id_at(before));
            let batch = self.0.store.admin_job_old(org, within, before, DELETED_AT_ONCE).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.to_bytes();
            let mut write = Write::new(org).bulk();
            for id in batch {
                write.admin_job_delete(id);
            }
            unless_in_use(self.0.store.write(write).await.map(drop).map_err(Error::from))?;
        }
    }

    async fn sessions_expire(&self, org: OrgId, before: Timestamp) -> Result<()> {
        let store = &self.0.store;
        let mut after = [0; 16];
        loop {
            let batch = store.session_old(org, (after, id_at(before)), SESSIONS_AT_ONCE).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.id.to_bytes();
            for session in batch.iter().filter(|session| session.updated_at < before) {
                let newest = store.message_newest(org, session.id).await?;
                if newest.is_some_and(|id| made_at(id.to_bytes()) >= before) {
                    continue;
                }
                unless_in_use(self.session_expire(org, session).await)?;
            }
        }
    }

    async fn runs_expire(&self, org: OrgId, before: Timestamp) -> Result<()> {
        let mut after = [0; 16];
        loop {
            let within = (after, id_at(before));
            let batch = self.0.store.run_old(org, within, before, DELETED_AT_ONCE).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.id.to_bytes();
            let mut write = Write::new(org).bulk();
            write.runs_purge(batch.iter().map(|run| run.id));
            for run in &batch {
                let messages = self.0.store.run_messages(org, run).await?;
                write.messages_run_forget(run.session, &messages);
            }
            unless_in_use(self.0.store.write(write).await.map(drop).map_err(Error::from))?;
        }
    }
}

/// What is being used, or deleted by somebody else, is left for another round.
fn unless_in_use(deleted: Result<()>) -> Result<()> {
    match deleted {
        Err(error)
            if matches!(error.code, Code::Conflict | Code::PreconditionFailed | Code::NotFound) =>
        {
            Ok(())
        }
        deleted => deleted,
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::ports::{Entropy as _, SystemEntropy};

    use super::*;

    #[test]
    fn ids_and_times_go_together() {
        let entropy = SystemEntropy::default();
        let time = Timestamp::from_micros(1_790_000_000_123_000);
        let id = entropy.uuid(time).into_bytes();
        assert_eq!(made_at(id), time);
        assert!(id_at(time) < id);
        assert!(id < id_at(time.plus(Duration::from_millis(1))));
    }
}
