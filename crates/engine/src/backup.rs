//! Backups of the whole installation, for its owner.

use agentry_domain::{Caller, Code, Error, Result, Role};
use agentry_store::backup::Backup;

use crate::Engine;

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
        let backup = self.0.store.backup(self.now()).await?;
        tracing::info!(
            bytes = backup.manifest.bytes,
            log = backup.manifest.log,
            "a backup was made"
        );
        Ok(backup)
    }
}
