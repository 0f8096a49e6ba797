//! Who is asking, and what a role may do.

use crate::ids::{KeyId, OrgId};

/// What an operation needs. One per family of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Permission {
    /// Read agents.
    AgentsRead,
    /// Create, change and delete agents.
    AgentsWrite,
    /// Read sessions and their messages.
    SessionsRead,
    /// Create, change and delete sessions, append messages.
    SessionsWrite,
    /// Read runs.
    RunsRead,
    /// Start runs.
    RunsWrite,
    /// Read the server's metrics.
    MetricsRead,
}

/// What a caller is in its organisation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Everything.
    Owner,
    /// Everything but what concerns owners.
    Admin,
    /// Works with the resources.
    Member,
    /// Only reads.
    Viewer,
    /// A program: works with the resources.
    Service,
}

impl Role {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
            Role::Viewer => "viewer",
            Role::Service => "service",
        }
    }

    /// Reads the stable text.
    pub fn parse(text: &str) -> Option<Self> {
        [Role::Owner, Role::Admin, Role::Member, Role::Viewer, Role::Service]
            .into_iter()
            .find(|role| role.as_str() == text)
    }

    /// Whether the role may do what the operation needs.
    pub const fn allows(self, permission: Permission) -> bool {
        use Permission::{
            AgentsRead, AgentsWrite, MetricsRead, RunsRead, RunsWrite, SessionsRead, SessionsWrite,
        };
        match self {
            Role::Owner | Role::Admin => true,
            Role::Member | Role::Service => match permission {
                AgentsRead | AgentsWrite | SessionsRead | SessionsWrite | RunsRead | RunsWrite => {
                    true
                }
                MetricsRead => false,
            },
            Role::Viewer => match permission {
                AgentsRead | SessionsRead | RunsRead => true,
                AgentsWrite | SessionsWrite | RunsWrite | MetricsRead => false,
            },
        }
    }
}

/// An authenticated caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The organisation that every read and write of this caller is within.
    pub org: OrgId,
    /// The key that was shown; none with `--auth none`.
    pub key: Option<KeyId>,
    /// What the caller may do.
    pub role: Role,
}
