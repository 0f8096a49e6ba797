//! Sealing: how secrets that have to be read again are stored. AES-256-GCM with a
//! key that is not in the store: whoever has a copy of the data alone has no
//! secret. What a secret is for and whose it is, is sealed with it, so that one
//! put into another's place does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use agentry_domain::{Code, Error, OrgId, Result};

use crate::Engine;

/// What a sealed secret begins with: the form of the rest.
const FORM: u8 = 1;
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Distinguishes the mark from everything else that is derived from a key.
const MARK_CONTEXT: &str = "agentry 2026-11 mark of the sealing key";
const CHAIN_CONTEXT: &str = "agentry 2026-11 key of the audit chain";
/// Bytes of the mark: enough to tell keys apart.
const MARK_BYTES: usize = 16;

/// The key that secrets are sealed with.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey([u8; KEY_BYTES]);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

/// What is sealed, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// What the secret is for, such as `webhook`.
    pub purpose: &'static str,
    /// The organisation.
    pub org: OrgId,
    /// The thing that it belongs to.
    pub id: [u8; 16],
}

impl Sealed {
    fn aad(&self) -> Aad<Vec<u8>> {
        Aad::from([self.purpose.as_bytes(), &[0], &self.org.to_bytes(), &self.id].concat())
    }
}

impl SealingKey {
    /// A key of these 256 random bits.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads a key: 32 bytes in base-64.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.trim()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The key in base-64.
    pub fn to_text(&self) -> String {
        BASE64_STANDARD.encode(self.0)
    }

    /// Tells this key from others and says nothing else about it.
    pub fn mark(&self) -> [u8; MARK_BYTES] {
        let mut mark = [0; MARK_BYTES];
        mark.copy_from_slice(&blake3::derive_key(MARK_CONTEXT, &self.0)[..MARK_BYTES]);
        mark
    }

    /// The key that the end of the audit's chain is marked with.
    pub fn chain_key(&self) -> [u8; KEY_BYTES] {
        blake3::derive_key(CHAIN_CONTEXT, &self.0)
    }

    fn cipher(&self) -> Result<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &self.0);
        key.map(LessSafeKey::new).map_err(|_| Error::internal("no cipher of this key"))
    }

    /// Seals a secret; `random` is 256 random bits that serve nothing else.
    pub fn seal(&self, what: &Sealed, secret: &[u8], random: [u8; 32]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&random[..NONCE_LEN]);
        let mut text = secret.to_vec();
        self.cipher()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), what.aad(), &mut text)
            .map_err(|_| Error::internal("a secret could not be sealed"))?;
        Ok([&[FORM], nonce.as_slice(), &text].concat())
    }

    /// Opens what was sealed with this key for this very thing.
    pub fn open(&self, what: &Sealed, sealed: &[u8]) -> Result<Vec<u8>> {
        let refused = || Error::internal("a sealed secret does not open");
        let (form, rest) = sealed.split_first().ok_or_else(refused)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or_else(refused)?;
        if *form != FORM {
            return Err(refused());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let mut text = text.to_vec();
        let opened = self.cipher()?.open_in_place(nonce, what.aad(), &mut text);
        Ok(opened.map_err(|_| refused())?.to_vec())
    }
}

impl Engine {
    /// Whether secrets of this store were sealed with another key than this
    /// process has, or with one that it does not have.
    pub async fn sealing_check(&self) -> Result<()> {
        let Some(mark) = self.0.store.sealing_mark().await? else { return Ok(()) };
        self.own_mark(&mark).map(|_| ())
    }

    /// Whether secrets of this store were sealed already.
    pub async fn sealing_is_used(&self) -> Result<bool> {
        Ok(self.0.store.sealing_mark().await?.is_some())
    }

    fn own_mark(&self, mark: &[u8]) -> Result<&SealingKey> {
        let missing = |detail: &'static str| Error::new(Code::SealingKeyMissing, detail);
        match self.0.sealing_key.get() {
            None => Err(missing("this server has no sealing_key; see its configuration")),
            Some(key) if key.mark() == mark => Ok(key),
            Some(_) => {
                Err(missing("the secrets of this installation are sealed with another sealing_key"))
            }
        }
    }

    /// The key, if it is the one that this store's secrets are sealed with. The
    /// first one that seals something is.
    pub(crate) async fn sealing(&self) -> Result<&SealingKey> {
        let mark = match self.0.store.sealing_mark().await? {
            Some(mark) => Some(mark),
            None => match self.0.sealing_key.get() {
                Some(key) => self.0.store.sealing_mark_set(&key.mark()).await?,
                None => None,
            },
        };
        self.own_mark(mark.as_deref().unwrap_or_default())
    }

    /// Gives this process its key, once, before it begins to work.
    pub fn sealing_use(&self, key: SealingKey) {
        let _ = self.0.sealing_key.set(key);
    }

    /// A fresh key.
    pub fn sealing_key_new(&self) -> SealingKey {
        SealingKey(self.0.entropy.secret())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_with_its_key_in_its_place_and_nowhere_else() {
        let key = SealingKey::new([7; 32]);
        let what = Sealed { purpose: "webhook", org: OrgId::from_bytes([1; 16]), id: [2; 16] };
        let sealed = key.seal(&what, b"secret", [3; 32]).unwrap();
        assert_eq!(key.open(&what, &sealed).unwrap(), b"secret");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(key.seal(&what, b"secret", [4; 32]).unwrap(), sealed);
        for other in [
            Sealed { purpose: "mcp", ..what },
            Sealed { org: OrgId::from_bytes([9; 16]), ..what },
            Sealed { id: [9; 16], ..what },
        ] {
            assert!(key.open(&other, &sealed).is_err());
        }
        assert!(SealingKey::new([8; 32]).open(&what, &sealed).is_err());
        for nth in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[nth] ^= 1;
            assert!(key.open(&what, &changed).is_err(), "byte {nth}");
            assert!(key.open(&what, &sealed[..nth]).is_err(), "{nth} bytes");
        }
    }

    #[test]
    fn a_key_is_its_text_and_its_mark_tells_it_apart() {
        let key = SealingKey::new([7; 32]);
        assert_eq!(SealingKey::parse(&key.to_text()), Some(key.clone()));
        assert_eq!(SealingKey::parse(&format!(" {}\n", key.to_text())), Some(key.clone()));
        assert_eq!(SealingKey::parse("c2hvcnQ="), None);
        assert_eq!(SealingKey::parse("no key"), None);
        assert_ne!(key.mark(), SealingKey::new([8; 32]).mark());
        assert_eq!(format!("{key:?}"), "SealingKey");
    }
}
