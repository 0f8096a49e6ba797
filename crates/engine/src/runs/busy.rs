//! What becomes of a run whose session has one under way. Each policy is one write
//! with its guard on the lane's state; when that has changed, the write fails with
//! `conflict` and whoever called looks again.

use agentry_domain::runs::{IfBusy, Run, RunStatus, Stop};
use agentry_domain::{Code, Error, JobId, Result, RunId};
use agentry_store::{LaneJob, Write};
use serde_json::{Map, Value};

use super::left_behind::LeftBehind;
use super::{Asked, RUN_ANSWER, Stored, run_entry};
use crate::Engine;

/// What stands between two inputs that are one run's.
const MERGED_BETWEEN: &str = "\n\n";
/// Characters of an input that others may still join; as long as one message may be.
const MERGED_INPUT_CHARS_MAX: usize = 1_000_000;

fn run_of(job: JobId) -> RunId {
    RunId::from_bytes(job.to_bytes())
}

impl Engine {
    /// Stores a run in a session that has work, as it asks for.
    pub(super) async fn store_busy(&self, asked: &Asked<'_>, run: &Run) -> Result<Stored> {
        let stop = match run.request.handling.if_busy {
            IfBusy::Enqueue => return self.enqueue(asked, run).await,
            IfBusy::Reject | IfBusy::Merge => None,
            IfBusy::Interrupt => Some(Stop::Interrupt),
            IfBusy::Rollback => Some(Stop::Rollback),
        };
        let front = self.0.store.lane_front(asked.caller.org, asked.job.lane).await?;
        let Some(head) = front.iter().find(|job| job.is_head) else {
            return Err(Error::new(Code::Conflict, "the session is idle again"));
        };
        match stop {
            Some(stop) => self.take_place_of(asked, run, head, stop).await,
            None if run.request.handling.if_busy == IfBusy::Merge => {
                self.merge(asked, run, &front).await
            }
            None => Err(Error::new(
                Code::SessionBusy,
                format!("run {} is under way in session {}", run_of(head.id), run.session),
            )),
        }
    }

    /// At the end of the session's queue.
    async fn enqueue(&self, asked: &Asked<'_>, run: &Run) -> Result<Stored> {
        let depth_max = self.0.options.session_queue_runs_max;
        let join = |write: &mut Write| {
            write.job_enqueue(&asked.job, depth_max);
            Ok(())
        };
        self.store_waiting(asked, run, join).await
    }

    /// At the front of the queue; what is under way is to stop.
    async fn take_place_of(
        &self,
        asked: &Asked<'_>,
        run: &Run,
        head: &LaneJob,
        stop: Stop,
    ) -> Result<Stored> {
        let Asked { caller, job, .. } = asked;
        let depth_max = self.0.options.session_queue_runs_max;
        let before = self.run_get(caller, run_of(head.id)).await?;
        if before.status.is_final() {
            return Err(Error::new(Code::Conflict, "the run under way has ended"));
        }
        if head.is_claimed {
            let join = |write: &mut Write| {
                write.job_enqueue_next(job, head.id, depth_max);
                write.run_stop(before.id, stop);
                write.log(run_entry(caller, job.at, "run.stopping", &before));
                Ok(())
            };
            let stored = self.store_waiting(asked, run, join).await?;
            self.0.held.stop(head.id, stop);
            return Ok(stored);
        }
        // Nobody is at work in the session. One that was never begun only waits
        // longer for being interrupted; what was begun before, by a process that
        // is gone, ends here.
        let waits_on = stop == Stop::Interrupt && before.status == RunStatus::Queued;
        let left = match waits_on {
            true => LeftBehind::default(),
            false => self.left_behind(caller.org, &before).await?,
        };
        let mut ended = None;
        let join = |write: &mut Write| {
            write.job_enqueue_before(job, head.id, depth_max);
            if !waits_on {
                write.job_withdraw(head.id, job.lane);
                ended = Some(self.end_unclaimed(write, caller, &before, (stop, left), job.at)?);
            }
            Ok(())
        };
        let stored = self.store_waiting(asked, run, join).await?;
        if let Some(ended) = ended {
            self.0.live.ended(&ended);
        }
        self.0.claimable.notify_one();
        Ok(stored)
    }

    /// With the run that has waited longest, when that asks for the same in all but
    /// its input; otherwise at the end of the queue.
    async fn merge(&self, asked: &Asked<'_>, run: &Run, front: &[LaneJob]) -> Result<Stored> {
        let Asked { caller, once, job, .. } = asked;
        let mut oldest = None;
        for waiting in front.iter().filter(|job| !job.is_claimed) {
            let found = self.run_get(caller, run_of(waiting.id)).await?;
            if found.status == RunStatus::Queued {
                oldest = Some(found);
                break;
            }
        }
        let Some(oldest) = oldest else { return self.enqueue(asked, run).await };
        let more = format!("{MERGED_BETWEEN}{}", run.request.input);
        let chars = oldest.request.input.chars().count() + more.chars().count();
        let fits = oldest.serves(&run.request)
            && oldest.agent == run.agent
            && oldest.user_id == run.user_id
            && chars <= MERGED_INPUT_CHARS_MAX;
        if !fits {
            return self.enqueue(asked, run).await;
        }
        let metadata = merged_metadata(&oldest.metadata, &run.metadata)?;
        let mut write = asked.write()?;
        write.run_merge(&oldest, &more, &metadata, MERGED_INPUT_CHARS_MAX);
        write.log(run_entry(caller, job.at, "run.merged", &oldest));
        let noted = (oldest.id.to_bytes(), RUN_ANSWER);
        match self.write_once(caller, *once, write, noted, job.at).await {
            Ok(None) => Ok(Stored::Joined(oldest.id)),
            Ok(Some(before)) => Ok(Stored::Before(RunId::from_bytes(before.id))),
            // It was begun, or joined by another one, meanwhile.
            Err(error) if error.code == Code::PreconditionFailed => {
                Err(Error::new(Code::Conflict, "the waiting run has changed"))
            }
            Err(error) => Err(error),
        }
    }
}

/// The client's own of both; where they say different things, the later one counts.
fn merged_metadata(was: &str, more: &str) -> Result<String> {
    let read = |text: &str| -> Result<Map<String, Value>> {
        serde_json::from_str(text).map_err(Error::internal)
    };
    let more = read(more)?;
    if more.is_empty() {
        return Ok(was.to_owned());
    }
    let mut all = read(was)?;
    all.extend(more);
    Ok(Value::Object(all).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_both_is_kept_and_the_later_one_counts() {
        let merged = |was, more| merged_metadata(was, more).unwrap();
        assert_eq!(merged(r#"{"a": 1}"#, "{}"), r#"{"a": 1}"#);
        assert_eq!(merged(r#"{"a":1,"b":2}"#, r#"{"b":3,"c":4}"#), r#"{"a":1,"b":3,"c":4}"#);
    }
}
