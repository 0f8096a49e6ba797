//! Backups of the whole installation, for its owner.

use agentry_domain::{Caller, Code, Error, JobId, OrgId, Result, Role};
use agentry_store::Write;
use agentry_store::backup::Backup;

use crate::Engine;
use crate::progress::{PROGRESS_EVERY, Progress, Told};

/// What a backup is called in the log.
const WORK: &str = "backup";

impl Engine {
    /// Copies everything as it is at one moment, while it is served. It holds
    /// every organisation, so that only the installation's own people may.
    pub async fn backup(&self, caller: &Caller) -> Result<Backup> {
        let may = matches!(caller.role, Role::Owner | Role::Admin);
        if caller.org != self.anyone().org || !may {
            return Err(Error::new(
                Code::Forbidden,
                "a backup holds every organisation: only the installation's own keys may make one",
            ));
        }
        let now = self.now();
        let job = JobId::from_uuid(self.uuid(now));
        let backup = {
            let mut making = std::pin::pin!(self.0.store.backup(now));
            loop {
                tokio::select! {
                    made = &mut making => break made?,
                    () = tokio::time::sleep(PROGRESS_EVERY) => {
                        if let Some((done, total)) = self.0.store.backup_progress() {
                            let progress = Progress { job, work: WORK, done, total };
                            self.backup_told(caller.org, &progress, Told::Progress).await;
                        }
                    }
                }
            }
        };
        let bytes = backup.manifest.bytes;
        let progress = Progress { job, work: WORK, done: bytes, total: bytes };
        self.backup_told(caller.org, &progress, Told::Finished).await;
        tracing::info!(
            bytes = backup.manifest.bytes,
            log = backup.manifest.log,
            "a backup was made"
        );
        Ok(backup)
    }

    /// Tells how far a backup is; that this cannot be stored is no reason not to
    /// make it.
    async fn backup_told(&self, org: OrgId, progress: &Progress, told: Told) {
        let mut write = Write::new(org).bulk();
        write.log(progress.entry(told, self.now()));
        if let Err(error) = self.0.store.write(write).await {
            tracing::debug!(%error, "the progress of a backup could not be stored");
        }
    }
}
