//! Who is asking, and what a role may do.

use std::net::IpAddr;

use crate::ids::{KeyId, OrgId};
use crate::limits::Tier;
use crate::log::EntityKind;
use crate::named;
use crate::time::Timestamp;

named! {
    /// What an operation needs, and what a key's scopes may name. One per family
    /// of operations.
    pub enum Permission {
        /// Read agents.
        AgentsRead = "agents:read",
        /// Create, change and delete agents.
        AgentsWrite = "agents:write",
        /// Read sessions, their messages and their files.
        SessionsRead = "sessions:read",
        /// Create, change and delete sessions, append messages, put files.
        SessionsWrite = "sessions:write",
        /// Read runs.
        RunsRead = "runs:read",
        /// Start runs.
        RunsWrite = "runs:write",
        /// Read users.
        UsersRead = "users:read",
        /// Create, change and delete users.
        UsersWrite = "users:write",
        /// Read and search memories.
        MemoriesRead = "memories:read",
        /// Create, change and delete memories.
        MemoriesWrite = "memories:write",
        /// Read goals, plans and tasks.
        GoalsRead = "goals:read",
        /// Create, change and delete goals, plans and tasks.
        GoalsWrite = "goals:write",
        /// Read and search graphs.
        GraphRead = "graph:read",
        /// Create, change, delete and import nodes and edges.
        GraphWrite = "graph:write",
        /// Follow events.
        EventsRead = "events:read",
        /// Read webhooks and their deliveries.
        WebhooksRead = "webhooks:read",
        /// Register, change and delete webhooks.
        WebhooksWrite = "webhooks:write",
        /// Read which keys there are.
        KeysRead = "keys:read",
        /// Make and revoke keys.
        KeysWrite = "keys:write",
        /// Read which organisations there are.
        OrgsRead = "orgs:read",
        /// Make organisations.
        OrgsWrite = "orgs:write",
        /// Read the server's metrics.
        MetricsRead = "metrics",
        /// Read who did what, and from where.
        AuditRead = "audit:read",
        /// Look at and take part in the server's own work: backups, jobs.
        Administer = "admin",
        /// Read MCP servers and what they offer.
        McpRead = "mcp:read",
        /// Register, change, start and stop MCP servers, and approve their tools.
        McpWrite = "mcp:write",
        /// Call tools that lead out of this server, directly or in a run.
        ToolsCall = "tools:call",
    }
}

/// The weakest kind of role that may do something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Viewer,
    Member,
    Admin,
    Owner,
}

impl Permission {
    /// What it takes to hear of events of this kind of thing.
    pub const fn to_follow(kind: EntityKind) -> Self {
        match kind {
            EntityKind::Agent => Self::AgentsRead,
            EntityKind::Session | EntityKind::Message | EntityKind::File => Self::SessionsRead,
            EntityKind::Run => Self::RunsRead,
            EntityKind::Key => Self::KeysRead,
            EntityKind::User => Self::UsersRead,
            EntityKind::Memory => Self::MemoriesRead,
            EntityKind::Goal | EntityKind::Plan | EntityKind::Task => Self::GoalsRead,
            EntityKind::Org => Self::OrgsRead,
            EntityKind::Webhook => Self::WebhooksRead,
            EntityKind::McpServer => Self::McpRead,
            EntityKind::Job => Self::Administer,
            EntityKind::Access => Self::AuditRead,
            EntityKind::Node | EntityKind::Edge | EntityKind::Graph => Self::GraphRead,
        }
    }

    const fn level(self) -> Level {
        match self {
            Self::AgentsRead
            | Self::SessionsRead
            | Self::RunsRead
            | Self::UsersRead
            | Self::MemoriesRead
            | Self::GoalsRead
            | Self::GraphRead
            | Self::EventsRead
            | Self::McpRead => Level::Viewer,
            Self::AgentsWrite
            | Self::SessionsWrite
            | Self::RunsWrite
            | Self::UsersWrite
            | Self::MemoriesWrite
            | Self::GoalsWrite
            | Self::GraphWrite
            | Self::ToolsCall => Level::Member,
            Self::WebhooksRead
            | Self::WebhooksWrite
            | Self::KeysRead
            | Self::KeysWrite
            | Self::McpWrite
            | Self::MetricsRead
            | Self::AuditRead
            | Self::Administer => Level::Admin,
            Self::OrgsRead | Self::OrgsWrite => Level::Owner,
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
            Role::Owner => true,
            Role::Admin => !matches!(permission.level(), Level::Owner),
            Role::Member | Role::Service => {
                matches!(permission.level(), Level::Viewer | Level::Member)
            }
            Role::Viewer => matches!(permission.level(), Level::Viewer),
        }
    }
}

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes(u64);

impl Scopes {
    /// Every permission, also those that a later version adds.
    pub const ALL: Self = Self(u64::MAX);

    /// What a key's `scopes` mean: these, or all when there are none.
    pub fn of(scopes: &[Permission]) -> Self {
        if scopes.is_empty() { Self::ALL } else { Self::only(scopes.iter().copied()) }
    }

    /// These and no others.
    pub fn only(permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | Self::bit(permission)))
    }

    const fn bit(permission: Permission) -> u64 {
        1 << permission as u32
    }

    /// Reads what [`Scopes::to_text`] wrote. What only a newer version knows opens
    /// nothing here.
    pub fn of_text(text: &str) -> Self {
        if text.is_empty() {
            return Self::ALL;
        }
        Self::only(text.split(' ').filter_map(Permission::parse))
    }

    /// Their names with spaces between them; empty for all.
    pub fn to_text(self) -> String {
        if self == Self::ALL {
            return String::new();
        }
        let names = Permission::ALL.iter().filter(|permission| self.hold(**permission));
        names.map(|permission| permission.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Whether this is one of them.
    pub const fn hold(self, permission: Permission) -> bool {
        self.0 & Self::bit(permission) != 0
    }
}

/// An authenticated caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The organisation that every read and write of this caller is within.
    pub org: OrgId,
    /// The key that was shown; of the holder of a token an id that its issuer and
    /// its subject make; none with `--auth none`.
    pub key: Option<KeyId>,
    /// Whether a token was shown and no key.
    pub is_token: bool,
    /// What the caller is.
    pub role: Role,
    /// What the caller may do of what the role allows.
    pub scopes: Scopes,
    /// When the key expires, or the token.
    pub until: Option<Timestamp>,
    /// How much the caller may ask for; none when nothing limits it.
    pub tier: Option<Tier>,
    /// Where the request came from, as far as that is known.
    pub address: Option<IpAddr>,
}

impl Caller {
    /// A caller who may do all that the role allows, for good.
    pub const fn of(org: OrgId, key: Option<KeyId>, role: Role) -> Self {
        Self {
            org,
            key,
            is_token: false,
            role,
            scopes: Scopes::ALL,
            until: None,
            tier: None,
            address: None,
        }
    }

    /// Whether the caller may do what the operation needs.
    pub const fn allows(&self, permission: Permission) -> bool {
        self.role.allows(permission) && self.scopes.hold(permission)
    }

    /// Whether the caller may hear of events of this kind of thing.
    pub const fn may_follow(&self, kind: EntityKind) -> bool {
        self.allows(Permission::to_follow(kind))
    }

    /// Whether the caller may hear of whatever happens in the organisation.
    pub fn may_follow_all(&self) -> bool {
        self.scopes == Scopes::ALL && EntityKind::ALL.iter().all(|kind| self.may_follow(*kind))
    }

    /// Whether the key has not expired.
    pub fn is_in_time(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_narrow_what_the_role_allows_and_never_widen_it() {
        let org = OrgId::from_bytes([1; 16]);
        for role in Role::ALL {
            for scope in Permission::ALL {
                let narrow =
                    Caller { scopes: Scopes::of(&[*scope]), ..Caller::of(org, None, *role) };
                for permission in Permission::ALL {
                    let expected = permission == scope && role.allows(*permission);
                    assert_eq!(narrow.allows(*permission), expected, "{role:?} {scope:?}");
                }
            }
            let wide = Caller { scopes: Scopes::of(&[]), ..Caller::of(org, None, *role) };
            assert!(Permission::ALL.iter().all(|it| wide.allows(*it) == role.allows(*it)));
        }
    }
}
