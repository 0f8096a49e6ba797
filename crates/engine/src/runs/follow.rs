//! Following a run that this process does not carry out: out of the store,
//! whenever another process says that the run went on, and now and then without
//! having been told, because a hint may be lost.

use std::sync::{Arc, Weak};
use std::time::Duration;

use agentry_domain::tools::tool_news;
use agentry_domain::{Caller, Result, RunId};
use agentry_store::RunsChanged;
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::Engine;
use crate::live::LiveRun;
use crate::run_events::{RunCursor, RunEvents};

/// How often a run is looked at without a hint. Where one process has the store,
/// it tells itself everything.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The pause after the store could not be read.
const PAUSE: Duration = Duration::from_millis(250);
/// Chunks that are read at once.
const CHUNKS_AT_ONCE_MAX: u32 = 64;

impl Engine {
    /// The events of a run after a place, or all of them. None when nothing comes
    /// after that place.
    pub async fn run_events(
        &self,
        caller: &Caller,
        id: RunId,
        after: Option<RunCursor>,
    ) -> Result<Option<RunEvents>> {
        let run = self.run_get(caller, id).await?;
        let mut events = self.run_listen(caller, id, after);
        if run.status.is_final() {
            self.0.live.ended(&run);
            return Ok((!events.is_over()).then_some(events));
        }
        Ok(Some(events))
    }

    /// Listens to a run of the caller's organisation.
    pub(crate) fn run_listen(
        &self,
        caller: &Caller,
        id: RunId,
        after: Option<RunCursor>,
    ) -> RunEvents {
        RunEvents::new(self.clone(), self.0.live.open(caller.org, id), after)
    }

    /// Sees to it that a live run hears of its run: a run that is not carried out
    /// here is followed through the store, once for all who want it.
    pub(crate) fn run_follow(&self, live: &Arc<LiveRun>) {
        if !live.begin_following() {
            return;
        }
        let (engine, hint, live) = (self.clone(), Arc::clone(&live.hint), Arc::downgrade(live));
        self.0.tasks.spawn(async move { engine.follow_run(&live, &hint).await });
    }

    /// Follows a run until it has ended, is carried out here, or nobody wants it.
    async fn follow_run(&self, live: &Weak<LiveRun>, hint: &Notify) {
        let stopping = self.0.tasks.stopping().clone();
        while !stopping.is_cancelled() {
            // Held only while it looks: whoever follows may go away meanwhile.
            let Some(found) = live.upgrade() else { return };
            let looked = self.look_at_run(&found).await;
            if !found.goes_on_following() {
                return;
            }
            let id = found.id;
            drop(found);
            if let Err(error) = looked {
                tracing::warn!(run = %id, error = %error.chain(), "a run could not be followed");
                stopping.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                continue;
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = hint.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if !self.0.store.is_sqlite() => {}
            }
        }
    }

    async fn look_at_run(&self, live: &LiveRun) -> Result<()> {
        let store = &self.0.store;
        let Some(progress) = store.run_progress(live.org, live.id).await? else {
            live.gone();
            return Ok(());
        };
        if progress.status.is_final() {
            match store.run_get(live.org, live.id).await? {
                Some(run) => live.ended(Arc::new(run)),
                None => live.gone(),
            }
            return Ok(());
        }
        if progress.attempt == 0 || !live.is_text_wanted() {
            return Ok(());
        }
        let attempt = progress.attempt;
        let Some(mut from) = live.begun_elsewhere(attempt, progress.session) else {
            return Ok(());
        };
        let calls = store.run_tools(live.org, live.id, attempt).await?;
        if !calls.is_empty() {
            live.tools_stored(attempt, tool_news(&calls));
        }
        loop {
            let chunks =
                store.run_chunks(live.org, live.id, attempt, from, CHUNKS_AT_ONCE_MAX).await?;
            for chunk in &chunks {
                live.append_stored(attempt, chunk.offset, &chunk.text);
                from = from.max(chunk.offset + chunk.text.len() as u64);
            }
            if chunks.len() < CHUNKS_AT_ONCE_MAX as usize {
                return Ok(());
            }
        }
    }

    /// Wakes whoever follows a run when another process says that it went on.
    pub(crate) async fn hear_of_runs(&self, mut changes: Receiver<RunsChanged>) {
        let stopping = self.0.tasks.stopping().clone();
        while let Some(changed) = stopping.run_until_cancelled(changes.recv()).await {
            match changed {
                Ok(RunsChanged::These(runs)) => {
                    for run in runs.iter() {
                        self.0.live.hint(*run);
                    }
                }
                Ok(RunsChanged::Any) | Err(RecvError::Lagged(_)) => self.0.live.hint_all(),
                Err(RecvError::Closed) => return,
            }
        }
    }
}
