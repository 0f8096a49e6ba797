//! Memories: what a user, an agent or the whole organisation is to remember.

use serde::{Deserialize, Serialize};

use crate::ids::MemoryId;
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};

/// Memories that are made in one request at most.
pub const MEMORIES_BATCH_MAX: usize = 100;
/// Hits of a search when the caller does not say.
pub const MEMORY_HITS_DEFAULT: u32 = 10;
/// Hits of a search at most.
pub const MEMORY_HITS_MAX: u32 = 50;

named! {
    /// When a memory is read.
    #[derive(Default)]
    pub enum MemoryReadMode {
        /// By every run that it may help, and by searches.
        #[default]
        Auto = "auto",
        /// By searches alone.
        Manual = "manual",
    }
}

named! {
    /// Who finds a memory of a user. A memory of no user is the organisation's
    /// either way.
    #[derive(Default)]
    pub enum MemoryAccess {
        /// Its user alone.
        #[default]
        Private = "private",
        /// Everyone in the organisation.
        Shared = "shared",
    }
}

/// A memory.
pub type Memory = Entity<MemoryBody>;

/// What a memory is. The ids are the caller's own, whatever they name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBody {
    /// What people call it; need not be unique.
    pub name: Option<String>,
    /// What is to be remembered.
    pub content: String,
    /// What it is about.
    pub description: String,
    /// Whose it is; none for the organisation's.
    pub user_id: Option<String>,
    /// The agent it is for; none for all.
    pub agent_id: Option<String>,
    /// The session it comes from.
    pub session_id: Option<String>,
    /// When it is read.
    pub read_mode: MemoryReadMode,
    /// Who finds it.
    pub access: MemoryAccess,
    /// A JSON object of the client's.
    pub metadata: JsonText,
}

impl MemoryBody {
    /// The user who alone finds it; none when the whole organisation does.
    pub fn private_to(&self) -> Option<&str> {
        match self.access {
            MemoryAccess::Private => self.user_id.as_deref(),
            MemoryAccess::Shared => None,
        }
    }

    /// All of its words, for search.
    pub fn text(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        format!("{name}\n{}\n{}", self.description, self.content)
    }
}

impl Resource for MemoryBody {
    type Id = MemoryId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::Memory;

    fn also(&self, _id: MemoryId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_user_s_own_memory_is_private() {
        let memory = |user: Option<&str>, access| MemoryBody {
            user_id: user.map(str::to_owned),
            access,
            ..MemoryBody::default()
        };
        assert_eq!(memory(Some("u"), MemoryAccess::Private).private_to(), Some("u"));
        assert_eq!(memory(Some("u"), MemoryAccess::Shared).private_to(), None);
        assert_eq!(memory(None, MemoryAccess::Private).private_to(), None);
    }
}
