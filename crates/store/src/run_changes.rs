//! Which runs were begun, went on or ended, told from process to process. It is
//! a hint: whoever follows a run reads the store when it hears of it, and looks
//! by itself now and then, because a hint may be lost.
//!
//! What is told is gathered for a moment, so that many runs share a message and
//! a run that changes often is told once.

use std::collections::HashSet;
use std::sync::Arc;

use agentry_domain::RunId;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};

/// Ids in one message: PostgreSQL's notifications hold less than 8,000 bytes.
const IDS_PER_MESSAGE: usize = 240;
/// Runs that are told by their ids in one go; of more it is said that any run
/// may have changed.
const RUNS_TOLD_MAX: usize = 10 * IDS_PER_MESSAGE;
/// Messages that wait for this process's reader; when more come it is told that
/// any run may have changed.
const MESSAGES_WAITING_MAX: usize = 256;
/// The message that any run may have changed.
const ANY: &str = "*";
const ID_HEX_BYTES: usize = 32;

/// Runs to look at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunsChanged {
    /// These.
    These(Arc<[RunId]>),
    /// Any: something was missed, or it were too many.
    Any,
}

/// What one process has to tell, and what it hears.
pub(crate) struct RunSignal {
    pending: Mutex<Pending>,
    told: Notify,
    heard: broadcast::Sender<RunsChanged>,
}

#[derive(Default)]
struct Pending {
    runs: HashSet<RunId>,
    too_many: bool,
}

impl RunSignal {
    pub(crate) fn new() -> Self {
        Self {
            pending: Mutex::default(),
            told: Notify::new(),
            heard: broadcast::Sender::new(MESSAGES_WAITING_MAX),
        }
    }

    /// A run was changed here.
    pub(crate) fn tell(&self, run: RunId) {
        let mut pending = self.pending.lock();
        if pending.runs.len() < RUNS_TOLD_MAX {
            pending.runs.insert(run);
        } else {
            pending.too_many = true;
        }
        drop(pending);
        self.told.notify_one();
    }

    /// Waits until there is something to tell.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// The messages that say what there is to tell.
    pub(crate) fn take(&self) -> Vec<String> {
        let Pending { runs, too_many } = std::mem::take(&mut *self.pending.lock());
        if too_many {
            return vec![ANY.to_owned()];
        }
        let ids: Vec<String> = runs.into_iter().map(|run| hex(run.to_bytes())).collect();
        ids.chunks(IDS_PER_MESSAGE).map(<[String]>::concat).collect()
    }

    /// A message came from some process.
    pub(crate) fn hear(&self, message: &str) {
        let changed = match read(message) {
            Some(runs) => RunsChanged::These(runs.into()),
            // What only a newer version says may be about any run.
            None => RunsChanged::Any,
        };
        // Without a receiver nobody follows a run.
        let _ = self.heard.send(changed);
    }

    /// Messages may have come that were not heard.
    pub(crate) fn missed(&self) {
        let _ = self.heard.send(RunsChanged::Any);
    }

    pub(crate) fn heard(&self) -> broadcast::Receiver<RunsChanged> {
        self.heard.subscribe()
    }
}

fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

fn read(message: &str) -> Option<Vec<RunId>> {
    let ids = message.as_bytes().chunks(ID_HEX_BYTES).map(|digits| {
        let digits = std::str::from_utf8(digits).ok().filter(|text| text.len() == ID_HEX_BYTES)?;
        let id = u128::from_str_radix(digits, 16).ok()?;
        Some(RunId::from_bytes(id.to_be_bytes()))
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u128) -> RunId {
        RunId::from_bytes(n.to_be_bytes())
    }

    #[tokio::test]
    async fn what_is_told_is_heard_once_and_in_few_messages() {
        let signal = RunSignal::new();
        let mut heard = signal.heard();
        for n in (0..300).chain(0..300) {
            signal.tell(run(n));
        }
        let messages = signal.take();
        assert_eq!(messages.len(), 2);
        assert!(messages.iter().all(|message| message.len() < 8_000));
        assert!(signal.take().is_empty());
        let mut runs = HashSet::new();
        for message in messages {
            signal.hear(&message);
            let Ok(RunsChanged::These(these)) = heard.recv().await else { panic!("runs") };
            runs.extend(these.iter().copied());
        }
        assert_eq!(runs, (0..300).map(run).collect());
    }

    #[tokio::test]
    async fn too_many_runs_are_any_run() {
        let signal = RunSignal::new();
        for n in 0..=RUNS_TOLD_MAX as u128 {
            signal.tell(run(n));
        }
        assert_eq!(signal.take(), [ANY]);
        signal.tell(run(1));
        assert_eq!(signal.take().len(), 1, "it was told, and begins anew");
        let mut heard = signal.heard();
        signal.hear(ANY);
        assert_eq!(heard.recv().await, Ok(RunsChanged::Any));
        signal.hear("nonsense");
        assert_eq!(heard.recv().await, Ok(RunsChanged::Any));
    }
}
