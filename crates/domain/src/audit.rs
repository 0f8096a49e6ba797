//! The audit: who was refused, and how the log is sealed. A seal covers a row of
//! the log's entries in order; each contains the one before it, so that nothing
//! behind a seal can be changed, taken out or put in without breaking it.

use std::net::{IpAddr, Ipv6Addr};

use crate::caller::Caller;
use crate::error::Code;
use crate::ids::KeyId;
use crate::log::LoggedEntry;

/// A request that was refused for who sent it.
#[derive(Clone, Copy, Debug)]
pub struct Denial<'a> {
    /// Who it was, when that is known.
    pub caller: Option<&'a Caller>,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// Why it was refused.
    pub code: Code,
}

/// How much of an IPv6 address tells hosts apart: the rest is a host's own choice.
const IPV6_PREFIX_BITS: u32 = 64;

/// The network that an address is in, as far as one host has a whole one.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let mask = u128::MAX << (128 - IPV6_PREFIX_BITS);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// A hash of the chain.
pub type Hash = [u8; HASH_BYTES];
/// What the first seal has before it.
pub const CHAIN_BEGIN: Hash = [0; HASH_BYTES];

const ENTRIES_CONTEXT: &str = "agentry 2026-11 audit entries";
const SEAL_CONTEXT: &str = "agentry 2026-11 audit seal";
const HEAD_CONTEXT: &str = "agentry 2026-11 audit head";

/// The hash of entries, in order. Every field counts, with its length.
pub struct EntriesHash {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Default for EntriesHash {
    fn default() -> Self {
        let hasher = blake3::Hasher::new_derive_key(ENTRIES_CONTEXT);
        Self { hasher, buffer: Vec::with_capacity(512) }
    }
}

impl std::fmt::Debug for EntriesHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EntriesHash")
    }
}

impl EntriesHash {
    /// Adds an entry.
    pub fn add(&mut self, entry: &LoggedEntry) {
        let text = |buffer: &mut Vec<u8>, text: &[u8]| {
            buffer.extend_from_slice(&(text.len() as u64).to_be_bytes());
            buffer.extend_from_slice(text);
        };
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.extend_from_slice(&entry.seq.to_be_bytes());
        buffer.extend_from_slice(&entry.org.to_bytes());
        buffer.extend_from_slice(&entry.at.micros().to_be_bytes());
        text(buffer, entry.kind.as_bytes());
        text(buffer, entry.entity.as_bytes());
        buffer.extend_from_slice(&entry.id);
        text(buffer, entry.actor.map(KeyId::to_bytes).as_ref().map_or(&[], |id| id));
        text(buffer, entry.address.as_deref().unwrap_or_default().as_bytes());
        text(buffer, entry.data.as_bytes());
        self.hasher.update(buffer);
    }

    /// The hash of all that were added.
    pub fn finish(&self) -> Hash {
        *self.hasher.finalize().as_bytes()
    }
}

/// A seal: a row of entries, and what binds it to the seals before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The place of its first entry.
    pub first: i64,
    /// The place of its last entry.
    pub last: i64,
    /// The hash of its entries.
    pub entries: Hash,
    /// The chain's hash up to here.
    pub chain: Hash,
}

impl Seal {
    /// The seal of these entries behind a chain.
    pub fn new(before: &Hash, first: i64, last: i64, entries: Hash) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SEAL_CONTEXT);
        hasher.update(before);
        hasher.update(&first.to_be_bytes());
        hasher.update(&last.to_be_bytes());
        hasher.update(&entries);
        Self { first, last, entries, chain: *hasher.finalize().as_bytes() }
    }

    /// Whether it stands behind this chain.
    pub fn follows(&self, before: &Hash) -> bool {
        Self::new(before, self.first, self.last, self.entries) == *self
    }
}

/// Where the chain ends: kept apart, and marked with a key that is not in the
/// store, so that the last seals cannot be taken away, nor the whole chain made
/// anew, by who can only write to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// The place of the last sealed entry.
    pub seq: i64,
    /// How many seals there are.
    pub seals: i64,
    /// The chain's hash.
    pub chain: Hash,
}

impl ChainHead {
    /// Of a chain without a seal.
    pub const EMPTY: Self = Self { seq: 0, seals: 0, chain: CHAIN_BEGIN };

    /// The head behind one more seal.
    #[must_use]
    pub fn after(&self, seal: &Seal) -> Self {
        Self { seq: seal.last, seals: self.seals + 1, chain: seal.chain }
    }

    /// Its mark with a key.
    pub fn mark(&self, key: &[u8; 32]) -> Hash {
        let key = blake3::derive_key(HEAD_CONTEXT, key);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(&self.seq.to_be_bytes());
        hasher.update(&self.seals.to_be_bytes());
        hasher.update(&self.chain);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::OrgId;
    use crate::time::Timestamp;

    fn entry(seq: i64) -> LoggedEntry {
        LoggedEntry {
            seq,
            org: OrgId::from_bytes([1; 16]),
            at: Timestamp::from_micros(seq),
            kind: "agent.created".to_owned(),
            entity: "agent".to_owned(),
            id: [2; 16],
            actor: Some(KeyId::from_bytes([3; 16])),
            address: Some("127.0.0.1".to_owned()),
            data: "{}".to_owned(),
        }
    }

    fn hash(entries: &[LoggedEntry]) -> Hash {
        let mut hash = EntriesHash::default();
        entries.iter().for_each(|entry| hash.add(entry));
        hash.finish()
    }

    #[test]
    fn every_field_of_an_entry_counts() {
        let whole = hash(&[entry(1)]);
        let other: Vec<LoggedEntry> = vec![
            entry(2),
            LoggedEntry { org: OrgId::from_bytes([9; 16]), ..entry(1) },
            LoggedEntry { at: Timestamp::from_micros(2), ..entry(1) },
            LoggedEntry { kind: "agent.updated".to_owned(), ..entry(1) },
            LoggedEntry { entity: "goal".to_owned(), ..entry(1) },
            // What one field loses another one gains.
            LoggedEntry {
                kind: "agent.create".to_owned(),
                entity: "dagent".to_owned(),
                ..entry(1)
            },
            LoggedEntry { id: [4; 16], ..entry(1) },
            LoggedEntry { actor: None, ..entry(1) },
            LoggedEntry { address: None, ..entry(1) },
            LoggedEntry { data: "{ }".to_owned(), ..entry(1) },
        ];
        for changed in other {
            assert_ne!(hash(std::slice::from_ref(&changed)), whole, "{changed:?}");
        }
        assert_eq!(hash(&[entry(1)]), whole);
        assert_ne!(hash(&[entry(1), entry(2)]), hash(&[entry(2), entry(1)]));
    }

    #[test]
    fn a_seal_stands_behind_one_chain_only() {
        let first = Seal::new(&CHAIN_BEGIN, 1, 2, hash(&[entry(1), entry(2)]));
        let second = Seal::new(&first.chain, 3, 3, hash(&[entry(3)]));
        assert!(first.follows(&CHAIN_BEGIN) && second.follows(&first.chain));
        assert!(!second.follows(&CHAIN_BEGIN));
        assert!(!Seal { last: 4, ..second }.follows(&first.chain));
        let head = ChainHead::EMPTY.after(&first).after(&second);
        assert_eq!((head.seq, head.seals, head.chain), (3, 2, second.chain));
        assert_ne!(head.mark(&[1; 32]), head.mark(&[2; 32]));
        assert_ne!(ChainHead::EMPTY.after(&first).mark(&[1; 32]), head.mark(&[1; 32]));
    }
}
