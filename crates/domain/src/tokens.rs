//! Tokens of an identity provider (JSON Web Tokens): what one says of its holder,
//! once its signature and its times were checked.

use crate::caller::Role;
use crate::ids::{KeyId, OrgId};
use crate::time::Timestamp;

/// Distinguishes ids that are made here from everything else that is hashed.
const HOLDER_CONTEXT: &str = "agentry 2026-11 id of the holder of a token";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who signed it.
    pub issuer: String,
    /// Whom it is about, as the issuer calls them.
    pub subject: String,
    /// The organisation.
    pub org: OrgId,
    /// What the holder is in it.
    pub role: Role,
    /// When it is worth nothing any more.
    pub expires_at: Timestamp,
}

impl Claims {
    /// The id under which its holder acts: the same for every token that this
    /// issuer gives to this subject.
    pub fn holder(&self) -> KeyId {
        let mut hasher = blake3::Hasher::new_derive_key(HOLDER_CONTEXT);
        hasher.update(&(self.issuer.len() as u64).to_be_bytes());
        hasher.update(self.issuer.as_bytes());
        hasher.update(self.subject.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        KeyId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_one_subject_of_one_issuer() {
        let claims = |issuer: &str, subject: &str| Claims {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            org: OrgId::from_bytes([1; 16]),
            role: Role::Member,
            expires_at: Timestamp::from_micros(1),
        };
        let ada = claims("https://id.example", "ada").holder();
        let again = Claims { role: Role::Viewer, ..claims("https://id.example", "ada") };
        assert_eq!(again.holder(), ada);
        assert_ne!(claims("https://id.example", "bob").holder(), ada);
        assert_ne!(claims("https://id.example/", "ada").holder(), ada);
        assert_ne!(claims("https://id.examplea", "da").holder(), ada);
    }
}
