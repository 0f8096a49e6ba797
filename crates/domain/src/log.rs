//! The log: what happened, in order, written together with the effect.

use std::net::IpAddr;

use crate::ids::{KeyId, OrgId};
use crate::time::Timestamp;

macro_rules! entity_kinds {
    ($($(#[$doc:meta])* $kind:ident = $text:literal),* $(,)?) => {
        /// What kind of thing an entry is about.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum EntityKind {
            $($(#[$doc])* $kind,)*
        }

        impl EntityKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Reads the stable text.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
            }

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $text,)*
                }
            }

            /// The entry's kind when one was made.
            pub const fn created(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($text, ".created"),)*
                }
            }

            /// The entry's kind when one was changed.
            pub const fn updated(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($text, ".updated"),)*
                }
            }

            /// The entry's kind when one was deleted.
            pub const fn deleted(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($text, ".deleted"),)*
                }
            }
        }
    };
}

entity_kinds! {
    /// An agent.
    Agent = "agent",
    /// A session.
    Session = "session",
    /// A message.
    Message = "message",
    /// A run.
    Run = "run",
    /// An organisation.
    Org = "org",
    /// An API key.
    Key = "key",
    /// A user.
    User = "user",
    /// A memory.
    Memory = "memory",
    /// A goal.
    Goal = "goal",
    /// A plan.
    Plan = "plan",
    /// A task.
    Task = "task",
    /// A file of a session.
    File = "file",
    /// A webhook.
    Webhook = "webhook",
    /// A server of tools.
    McpServer = "mcp_server",
    /// A job that people look at.
    Job = "job",
    /// What somebody may reach.
    Access = "access",
    /// A node of a graph.
    Node = "node",
    /// An edge of a graph.
    Edge = "edge",
    /// A whole group of a graph: what is imported into it.
    Graph = "graph",
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
    /// From where; none for the server itself.
    pub address: Option<IpAddr>,
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
    /// From where, as text.
    pub address: Option<String>,
    /// More about it, as JSON text.
    pub data: String,
}
