//! A client that waits for its run. When it goes away before the end, the run is
//! cancelled; runs with an `Idempotency-Key`, in the background, or whose client
//! said so, have no attendance.

use agentry_domain::{Caller, RunId};

use crate::Engine;

/// As long as it lives, somebody waits for the run.
pub struct Attendance {
    engine: Engine,
    caller: Caller,
    run: RunId,
    is_over: bool,
}

impl Attendance {
    pub(super) fn new(engine: Engine, caller: Caller, run: RunId) -> Self {
        Self { engine, caller, run, is_over: false }
    }

    /// Nobody need wait any more.
    pub fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        // A server that stops closes connections too; what goes on in it is taken
        // up again at the next start.
        if self.is_over || self.engine.0.closing.is_cancelled() {
            return;
        }
        let (engine, caller, run) = (self.engine.clone(), self.caller, self.run);
        self.engine.0.tasks.spawn(async move {
            if let Err(error) = engine.run_disconnected(&caller, run).await {
                tracing::warn!(%run, error = %error.chain(),
                    "a run whose client went away could not be cancelled");
            }
        });
    }
}
