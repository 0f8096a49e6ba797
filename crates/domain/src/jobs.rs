//! Jobs: durable work in lanes, and those among them that people ask for and
//! look at.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, SessionId, UserId};
use crate::named;
use crate::time::Timestamp;

named! {
    /// What a job does.
    pub enum JobKind {
        /// Carries out the run of its id.
        Run = "run",
        /// Deletes what belonged to something that is gone.
        Purge = "purge",
        /// Delivers to the webhook of its id what waits for it.
        Webhook = "webhook",
        /// Draws out of the episodes of a group what they say; its id is the group's lane.
        Graph = "graph",
        /// Asks a model about the episodes of a group; its id is its lane.
        GraphModel = "graph_model",
    }
}

named! {
    /// Where a job is that people look at.
    pub enum JobState {
        /// Not begun.
        Queued = "queued",
        /// Begun, and begun again when its process ended.
        Running = "running",
        /// Done.
        Succeeded = "succeeded",
    }
}

/// A job that people look at. Its work is a job in a lane, of the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminJob {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where it is.
    pub state: JobState,
    /// The user that it is about.
    pub user: Option<UserId>,
    /// What is left to do; none when it is done.
    pub rest: Option<PurgeRest>,
    /// What it did so far.
    pub result: Purged,
    /// Why it did not get on when it was last tried.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was first begun.
    pub started_at: Option<Timestamp>,
    /// When it was done.
    pub finished_at: Option<Timestamp>,
}

/// What a purge has yet to delete. Kept with it, in the write that deletes, so
/// that any process can go on where another one ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeRest {
    /// What sessions and runs call the user.
    pub user_ids: Vec<String>,
    /// A session that is gone, and whose messages and runs are not yet.
    pub emptying: Option<SessionId>,
    /// How much there was to delete when it began: sessions and memories of a user,
    /// or messages of a session. None before it was counted.
    #[serde(default)]
    pub total: Option<u64>,
}

/// How much a purge deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Users.
    pub users: u64,
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// Runs.
    pub runs: u64,
    /// Memories.
    #[serde(default)]
    pub memories: u64,
    /// Files of sessions.
    #[serde(default)]
    pub files: u64,
    /// What recall had of messages.
    pub documents: u64,
    /// Episodes, with what rested on them alone.
    #[serde(default)]
    pub episodes: u64,
}
