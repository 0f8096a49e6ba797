//! The log: what happened, in order, written together with the effect.

use crate::ids::{KeyId, OrgId};
use crate::time::Timestamp;

/// What kind of thing an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum EntityKind {
    /// An agent.
    Agent,
    /// A session.
    Session,
    /// A message.
    Message,
    /// A run.
    Run,
    /// An API key.
    Key,
}

impl EntityKind {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            EntityKind::Agent => "agent",
            EntityKind::Session => "session",
            EntityKind::Message => "message",
            EntityKind::Run => "run",
            EntityKind::Key => "key",
        }
    }
}

/// An entry as a writer appends it; its place in the order is given by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// When, by the writer's clock.
    pub at: Timestamp,
    /// What happened, such as `agent.created`.
    pub kind: &'static str,
    /// What it happened to.
    pub entity: EntityKind,
    /// Its id.
    pub id: [u8; 16],
    /// Who did it; none for the server itself.
    pub actor: Option<KeyId>,
    /// More about it, as JSON text; `{}` when there is nothing to say.
    pub data: String,
}

/// An entry as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEntry {
    /// Its place: dense, from 1, over all organisations.
    pub seq: i64,
    /// The organisation.
    pub org: OrgId,
    /// When, by the writer's clock.
    pub at: Timestamp,
    /// What happened.
    pub kind: String,
    /// What kind of thing it happened to.
    pub entity: String,
    /// Its id.
    pub id: [u8; 16],
    /// Who did it.
    pub actor: Option<KeyId>,
    /// More about it, as JSON text.
    pub data: String,
}
