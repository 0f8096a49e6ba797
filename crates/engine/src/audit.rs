//! The audit: what was done, by whom and from where, and the follower that seals
//! it. The log is what is sealed; a seal covers what came since the last one, a
//! second of it or so. Of several processes one has this work, by a lease.

use std::collections::BTreeMap;
use std::time::Duration;

use agentry_domain::audit::{ChainHead, EntriesHash, Seal};
use agentry_domain::log::LoggedEntry;
use agentry_domain::{Caller, Code, KeyId, Page, PageRequest, Result};
use agentry_store::audit::{StoredHead, goes_on};
use agentry_store::{AUDIT_FOLLOWER, AuditFilter, StoreError, Write};
use tokio::time::Instant;

use crate::{Engine, SealingKey};

/// Entries of one seal at most.
const SEAL_ENTRIES_MAX: u32 = 1_000;
/// How long entries gather until they are sealed.
const GATHER: Duration = Duration::from_secs(1);
/// The pause after a round that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Who showed this key.
    Key(KeyId),
    /// Who showed a token of this issuer about this subject.
    Token {
        /// The id under which the holder acts.
        id: KeyId,
        /// Who signed it.
        issuer: String,
        /// Whom it is about.
        subject: String,
    },
}

/// What the follower remembers between rounds.
struct Sealer {
    stored: StoredHead,
    /// Whether the end of the chain gets its mark. Not when it did not have the
    /// right one when this process found it: marking it would hide that.
    marks: bool,
    held_until: Option<Instant>,
}

impl Engine {
    /// A page of what was done in the caller's organisation, and who the actors are.
    pub async fn audit_list(
        &self,
        caller: &Caller,
        filter: &AuditFilter,
        page: &PageRequest,
    ) -> Result<(Page<LoggedEntry>, BTreeMap<KeyId, Actor>)> {
        let found = self.0.store.audit_list(caller.org, filter, page).await?;
        let mut actors = BTreeMap::new();
        for id in found.items.iter().filter_map(|item| item.actor) {
            if actors.contains_key(&id) {
                continue;
            }
            let actor = match self.0.store.token_holder(caller.org, id).await? {
                Some((issuer, subject)) => Actor::Token { id, issuer, subject },
                None => Actor::Key(id),
            };
            actors.insert(id, actor);
        }
        Ok((found, actors))
    }

    /// Seals the log until the tasks stop.
    pub(crate) async fn seal_log(&self) {
        let stopping = self.0.tasks.stopping().clone();
        let mut changed = self.0.store.log_changed();
        let mut sealer = None;
        while !stopping.is_cancelled() {
            changed.mark_unchanged();
            match self.seal_round(&mut sealer).await {
                Ok(true) => continue,
                Ok(false) => {
                    // A log that grows all the time is sealed in pieces of a
                    // second; one that rests wakes nobody.
                    let more = async {
                        let _ = tokio::time::timeout(self.0.options.lease, changed.changed()).await;
                        tokio::time::sleep(GATHER).await;
                    };
                    stopping.run_until_cancelled(more).await;
                }
                Err(error) => {
                    sealer = None;
                    if error.code != Code::Conflict {
                        tracing::warn!(error = %error.chain(), "the log could not be sealed");
                    }
                    stopping.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
        // What was done until now is sealed before this process ends.
        while let Ok(true) = self.seal_round(&mut sealer).await {}
        if sealer.is_some() && !self.0.store.is_sqlite() {
            let _ = self.0.store.follower_leave(AUDIT_FOLLOWER, self.0.worker).await;
        }
    }

    /// Seals what is there, up to a bound; whether there may be more.
    async fn seal_round(&self, sealer: &mut Option<Sealer>) -> Result<bool> {
        let lease = self.0.options.lease;
        let now = Instant::now();
        let held = sealer.as_ref().and_then(|sealer| sealer.held_until);
        if held.is_none_or(|until| now + lease * 2 / 3 >= until) {
            if !self.0.store.follower_hold(AUDIT_FOLLOWER, self.0.worker, lease).await? {
                *sealer = None;
                return Ok(false);
            }
            if let Some(sealer) = sealer {
                sealer.held_until = Some(now + lease);
            }
        }
        let sealer = match sealer {
            Some(sealer) => sealer,
            None => sealer.insert(self.sealer(now + lease).await?),
        };
        let before = sealer.stored.head;
        let entries = self.0.store.log_read_all(before.seq, SEAL_ENTRIES_MAX).await?;
        let Some(seal) = seal_of(&before, &entries) else { return Ok(false) };
        let after = before.after(&seal);
        let key = self.0.sealing_key.get().filter(|_| sealer.marks);
        let mark = key.map(|key| after.mark(&key.chain_key()));
        let mut write = Write::new(agentry_domain::orgs::INSTALLATION_ORG).bulk();
        write.audit_seal(&before, &seal, (&after, mark));
        self.0.store.write(write).await?;
        (sealer.stored.head, sealer.stored.mark) = (after, mark);
        Ok(entries.len() == SEAL_ENTRIES_MAX as usize)
    }

    async fn sealer(&self, held_until: Instant) -> Result<Sealer, StoreError> {
        let stored = self.0.store.audit_head().await?;
        let key = self.0.sealing_key.get().map(SealingKey::chain_key);
        let marks = goes_on(&stored, key.as_ref());
        if !marks {
            tracing::error!(
                "the end of the audit chain does not have this installation's mark: look at it \
                 with `agentry audit verify`"
            );
        }
        Ok(Sealer { stored, marks, held_until: Some(held_until) })
    }
}

/// The seal of these entries.
fn seal_of(before: &ChainHead, entries: &[LoggedEntry]) -> Option<Seal> {
    let (first, last) = (entries.first()?, entries.last()?);
    let mut hash = EntriesHash::default();
    entries.iter().for_each(|entry| hash.add(entry));
    Some(Seal::new(&before.chain, first.seq, last.seq, hash.finish()))
}
