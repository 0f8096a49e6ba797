//! API keys: `ak_` and 256 random bits in base-16. Only the BLAKE3 of the whole text
//! is kept, so the store gives nothing away and replicas share no secret.

use serde::{Deserialize, Serialize};

use crate::caller::{Caller, Permission, Role, Scopes};
use crate::ids::{KeyId, OrgId};
use crate::log::EntityKind;
use crate::resources::{Entity, Resource};
use crate::time::Timestamp;

/// What every secret begins with.
pub const SECRET_PREFIX: &str = "ak_";
/// How much of a secret may be shown to tell keys apart, in characters.
pub const SHOWN_PREFIX_CHARS: usize = 10;

/// A key, without its secret.
pub type Key = Entity<KeyBody>;

/// What a key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBody {
    /// What people call it.
    pub name: String,
    /// What its holder is; for good.
    pub role: Role,
    /// What its holder may do of what the role allows, for good; all of it when
    /// this is empty.
    pub scopes: Vec<Permission>,
    /// From when on it opens nothing.
    pub expires_at: Option<Timestamp>,
    /// The secret's first [`SHOWN_PREFIX_CHARS`] characters.
    pub prefix: String,
    /// The key that made it; none for the first one.
    pub created_by: Option<KeyId>,
}

impl KeyBody {
    /// Whoever shows this key.
    pub fn caller(&self, org: OrgId, id: KeyId) -> Caller {
        let scopes = Scopes::of(&self.scopes);
        Caller { scopes, until: self.expires_at, ..Caller::of(org, Some(id), self.role) }
    }
}

impl Resource for KeyBody {
    type Id = KeyId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::Key;

    fn also(&self, _id: KeyId) {}
}
