//! Runs of which nothing is to be kept: what was said in one is deleted once whoever asked
//! has the answer. Until then it is kept like any other, so that another process may carry
//! it out. That it was, how it ended and what it cost stays.

use std::time::Duration;

use agentry_domain::runs::{RUN_TIMEOUT_MAX, Run};
use agentry_domain::{Caller, Code, Result, RunId};
use agentry_store::{OldRun, Write};

use crate::Engine;

/// The first wait before it is tried again, when the storage failed; it doubles.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Forgets a run when it goes: whoever gives the answer keeps it until then.
pub struct Forgetting {
    engine: Engine,
    caller: Caller,
    run: RunId,
}

impl Drop for Forgetting {
    fn drop(&mut self) {
        let (engine, caller, run) = (self.engine.clone(), self.caller, self.run);
        let tasks = engine.0.tasks.clone();
        tasks.spawn(async move { engine.run_forget(&caller, run).await });
    }
}

impl Engine {
    /// Has a run forgotten behind its end, but not before this goes.
    pub fn run_forgetting(&self, caller: &Caller, run: RunId) -> Forgetting {
        Forgetting { engine: self.clone(), caller: *caller, run }
    }

    /// Waits for the end of a run, and forgets what was said in it.
    async fn run_forget(&self, caller: &Caller, id: RunId) {
        let mut wait = AGAIN_FIRST;
        loop {
            let ended = tokio::select! {
                ended = self.run_wait(caller, id, RUN_TIMEOUT_MAX) => ended,
                () = self.0.tasks.stopping().cancelled() => self.run_get(caller, id).await,
            };
            let forgotten = match ended {
                Ok(run) if run.status.is_final() => self.run_forgotten(caller, &run).await,
                // It goes on elsewhere; whoever begins it again forgets it.
                Ok(_) if self.0.tasks.stopping().is_cancelled() => return,
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match forgotten {
                Ok(()) => return,
                Err(error) if error.code == Code::NotFound => return,
                Err(error) => {
                    tracing::error!(run = %id, error = %error.chain(),
                        "what was said in a run could not be forgotten");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(AGAIN_MAX),
                () = self.0.tasks.stopping().cancelled() => return,
            }
        }
    }

    /// Forgets what was said in a run that has ended.
    pub(super) async fn run_forgotten(&self, caller: &Caller, run: &Run) -> Result<()> {
        let said = self.0.store.run_messages(caller.org, &OldRun::from(run)).await?;
        let mut write = Write::new(caller.org);
        write.session_exists(run.session);
        write.run_forget(run);
        write.idempotency_forget(run.id.to_bytes());
        write.session_messages_purge(run.session, &said);
        self.0.store.write(write).await?;
        Ok(())
    }
}
