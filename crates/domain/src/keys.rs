//! API keys: `ak_` and 256 random bits in base-16. Only the BLAKE3 of the whole text
//! is kept, so the store gives nothing away and replicas share no secret.

use crate::caller::Role;
use crate::ids::{KeyId, OrgId};
use crate::time::Timestamp;

/// What every secret begins with.
pub const SECRET_PREFIX: &str = "ak_";
/// How much of a secret may be shown to tell keys apart, in characters.
pub const SHOWN_PREFIX_CHARS: usize = 10;

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The organisation it opens.
    pub org: OrgId,
    /// Its id.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// BLAKE3 of the secret's text.
    pub hash: [u8; 32],
    /// The secret's first [`SHOWN_PREFIX_CHARS`] characters.
    pub prefix: String,
    /// When it was made.
    pub created_at: Timestamp,
}
