//! Ending runs early, and waiting for their end.
//!
//! A run that nobody is at work on ends in the write that asks for it. One that a
//! process has is asked to stop: what is asked for is in its row, so that the
//! process finds it whatever happens in between, and the hint goes there at once.

use std::time::Duration;

use agentry_domain::log::EntityKind;
use agentry_domain::runs::{Run, RunStatus, Stop};
use agentry_domain::{Caller, Code, Error, JobId, Result, RunId, Timestamp};
use agentry_store::{RunsChanged, Write};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::carry_out::store_reply;
use super::left_behind::LeftBehind;
use super::steps::given_up;
use super::{LANE_TRIES_MAX, run_entry};
use crate::{Engine, entry};

/// How long whoever cancels a run waits for its end before it is told that the run
/// is still stopping.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);
/// How often runs that are to stop are looked for without a hint, which may be
/// lost. Only with a store that several processes share.
const LOOK_FOR_STOPS: Duration = Duration::from_secs(2);
/// How soon after a look the next hint counts.
const STOPS_PAUSE: Duration = Duration::from_millis(25);

impl Engine {
    /// Ends a run before it has its answer, wherever it is; how it then stands. One
    /// that has ended stays as it is.
    pub async fn run_cancel(&self, caller: &Caller, id: RunId) -> Result<Run> {
        self.run_stop(caller, id, Stop::Cancel).await?;
        self.run_wait(caller, id, CANCELLED_WITHIN).await
    }

    /// Cancels a run whose client went away. One that other requests joined goes on.
    pub(crate) async fn run_disconnected(&self, caller: &Caller, id: RunId) -> Result<()> {
        self.run_stop(caller, id, Stop::Disconnect).await
    }

    /// Waits until a run has ended or the time is over; how it then stands.
    pub async fn run_wait(&self, caller: &Caller, id: RunId, within: Duration) -> Result<Run> {
        let handle = self.run_attach(caller, id).await?.value;
        match tokio::time::timeout(within, handle.finished()).await {
            Ok(Ok(run)) => Ok(run),
            Ok(Err(_)) | Err(_) => self.run_get(caller, id).await,
        }
    }

    async fn run_stop(&self, caller: &Caller, id: RunId, stop: Stop) -> Result<()> {
        for _ in 0..LANE_TRIES_MAX {
            let run = self.run_get(caller, id).await?;
            let is_joined = stop == Stop::Disconnect && run.merged > 0;
            if run.status.is_final() || is_joined {
                return Ok(());
            }
            let ended = match run.status {
                RunStatus::Queued => self.end_waiting(caller, &run, stop).await,
                _ => Err(Error::new(Code::Conflict, "the run is under way")),
            };
            let asked = match ended {
                Err(error) if error.code == Code::Conflict => {
                    self.ask_to_stop(caller, &run, stop).await
                }
                ended => ended,
            };
            match asked {
                // It has ended, or was joined by another, or both is still to be seen.
                Err(error) if [Code::Conflict, Code::PreconditionFailed].contains(&error.code) => {}
                asked => return asked,
            }
        }
        Err(Error::new(Code::Conflict, format!("run {id} changes too fast to be stopped")))
    }

    /// Ends a run that waits and that no process has.
    async fn end_waiting(&self, caller: &Caller, run: &Run, stop: Stop) -> Result<()> {
        let mut write = Write::new(caller.org);
        write.job_withdraw(JobId::from_bytes(run.id.to_bytes()), run.session.to_bytes());
        let nothing = LeftBehind::default();
        let ended = self.end_unclaimed(&mut write, caller, run, (stop, nothing), self.now())?;
        self.0.store.write(write).await?;
        // Another one may be the head of the lane now.
        self.0.claimable.notify_one();
        self.0.live.ended(&ended);
        Ok(())
    }

    /// Adds the end of a run that no process has, with what it had said when it was
    /// under way before; the write withdraws its job.
    pub(super) fn end_unclaimed(
        &self,
        write: &mut Write,
        caller: &Caller,
        run: &Run,
        (stop, left): (Stop, LeftBehind),
        at: Timestamp,
    ) -> Result<Run> {
        let mut ended = run.clone();
        if run.status == RunStatus::Queued {
            ended.become_status(RunStatus::Cancelled)?;
            write.run_waiting_count(-1);
        } else {
            ended.become_status(stop.status())?;
        }
        ended.stop = run.stop.max(Some(stop));
        ended.error = Some(stop.error());
        ended.finished_at = Some(at);
        if !left.tools.is_empty() {
            ended.tools = left.tools;
            given_up(&mut ended.tools, at);
        }
        if stop == Stop::Rollback {
            withdraw_input(write, caller, &mut ended, at);
        } else if !left.text.is_empty() {
            ended.reply = Some(left.text);
            ended.reply_message = Some(self.message_id(at, ended.turn_messages().pop()));
        }
        write.run_finish(&ended, run.stop, None);
        store_reply(write, caller, &ended, None, None);
        write.log(run_entry(caller, at, "run.finished", &ended));
        Ok(ended)
    }

    /// Asks whoever is at work on a run to stop.
    async fn ask_to_stop(&self, caller: &Caller, run: &Run, stop: Stop) -> Result<()> {
        let mut write = Write::new(caller.org);
        write.session_exists(run.session);
        write.run_stop(run.id, stop);
        write.log(run_entry(caller, self.now(), "run.stopping", run));
        self.0.store.write(write).await?;
        self.0.held.stop(JobId::from_bytes(run.id.to_bytes()), stop);
        Ok(())
    }

    /// Hears of runs of this process that another one asked to stop: whoever asks
    /// says that the run has changed.
    pub(crate) async fn hear_stops(&self, mut changes: Receiver<RunsChanged>) {
        let stopping = self.0.tasks.stopping().clone();
        loop {
            let may_be_ours = tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK_FOR_STOPS) => true,
                changed = changes.recv() => match changed {
                    Ok(RunsChanged::These(runs)) => runs
                        .iter()
                        .any(|run| self.0.held.is_held(JobId::from_bytes(run.to_bytes()))),
                    Ok(RunsChanged::Any) | Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => return,
                },
            };
            if !may_be_ours || self.0.held.is_empty() {
                continue;
            }
            match self.0.store.runs_stopping().await {
                Ok(runs) => {
                    for (_, run, stop) in runs {
                        self.0.held.stop(JobId::from_bytes(run.to_bytes()), stop);
                    }
                }
                Err(error) => {
                    let error = Error::from(error);
                    tracing::warn!(error = %error.chain(),
                        "runs that are to stop could not be looked for");
                }
            }
            tokio::time::sleep(STOPS_PAUSE).await;
        }
    }
}

/// Takes what a run said out of its session, and out of what recall finds.
pub(super) fn withdraw_input(write: &mut Write, caller: &Caller, run: &mut Run, at: Timestamp) {
    let messages = run.turn_messages();
    if run.message.take().is_none() {
        return;
    }
    write.session_messages_purge(run.session, &messages);
    let kind = EntityKind::Message;
    for message in messages {
        let data = format!(r#"{{"session_id":"{}","run_id":"{}"}}"#, run.session, run.id);
        write.log(entry(caller, at, kind.deleted(), kind, message.to_bytes(), data));
    }
}
