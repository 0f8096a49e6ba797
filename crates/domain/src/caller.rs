//! Who is asking, and what a role may do.

use crate::ids::{KeyId, OrgId};
use crate::log::EntityKind;
use crate::named;

/// What an operation needs. One per family of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Permission {
    /// Read agents.
    AgentsRead,
    /// Create, change and delete agents.
    AgentsWrite,
    /// Read sessions, their messages and their files.
    SessionsRead,
    /// Create, change and delete sessions, append messages, put files.
    SessionsWrite,
    /// Read runs.
    RunsRead,
    /// Start runs.
    RunsWrite,
    /// Read users.
    UsersRead,
    /// Create, change and delete users.
    UsersWrite,
    /// Read and search memories.
    MemoriesRead,
    /// Create, change and delete memories.
    MemoriesWrite,
    /// Read goals, plans and tasks.
    GoalsRead,
    /// Create, change and delete goals, plans and tasks.
    GoalsWrite,
    /// Follow events.
    EventsRead,
    /// Read webhooks and their deliveries.
    WebhooksRead,
    /// Register, change and delete webhooks.
    WebhooksWrite,
    /// Read which keys there are.
    KeysRead,
    /// Make and revoke keys.
    KeysWrite,
    /// Read the server's metrics.
    MetricsRead,
    /// Look at and take part in the server's own work: backups, jobs.
    Administer,
}

/// The weakest kind of role that may do something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Viewer,
    Member,
    Admin,
}

impl Permission {
    const fn level(self) -> Level {
        match self {
            Self::AgentsRead
            | Self::SessionsRead
            | Self::RunsRead
            | Self::UsersRead
            | Self::MemoriesRead
            | Self::GoalsRead
            | Self::EventsRead => Level::Viewer,
            Self::AgentsWrite
            | Self::SessionsWrite
            | Self::RunsWrite
            | Self::UsersWrite
            | Self::MemoriesWrite
            | Self::GoalsWrite => Level::Member,
            Self::WebhooksRead
            | Self::WebhooksWrite
            | Self::KeysRead
            | Self::KeysWrite
            | Self::MetricsRead
            | Self::Administer => Level::Admin,
        }
    }
}

named! {
    /// What a caller is in its organisation.
    pub enum Role {
        /// Everything.
        Owner = "owner",
        /// Everything but what concerns owners.
        Admin = "admin",
        /// Works with the resources.
        Member = "member",
        /// Only reads.
        Viewer = "viewer",
        /// A program: works with the resources.
        Service = "service",
    }
}

impl Role {
    /// Whether the role may do what the operation needs.
    pub const fn allows(self, permission: Permission) -> bool {
        match self {
            Role::Owner | Role::Admin => true,
            Role::Member | Role::Service => !matches!(permission.level(), Level::Admin),
            Role::Viewer => matches!(permission.level(), Level::Viewer),
        }
    }

    /// Whether the role may hear of what happens to this kind of thing: whoever
    /// may read it may.
    pub const fn may_follow(self, kind: EntityKind) -> bool {
        self.allows(match kind {
            EntityKind::Agent => Permission::AgentsRead,
            EntityKind::Session | EntityKind::Message | EntityKind::File => {
                Permission::SessionsRead
            }
            EntityKind::Run => Permission::RunsRead,
            EntityKind::Key => Permission::KeysRead,
            EntityKind::User => Permission::UsersRead,
            EntityKind::Memory => Permission::MemoriesRead,
            EntityKind::Goal | EntityKind::Plan | EntityKind::Task => Permission::GoalsRead,
            EntityKind::Webhook => Permission::WebhooksRead,
        })
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
