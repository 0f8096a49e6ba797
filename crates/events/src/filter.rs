//! Which events a listener wants, and which it may have.

use std::collections::HashSet;

use agentry_domain::Caller;
use agentry_domain::log::{EntityKind, LoggedEntry};

use crate::batch::{Batch, Entry};

/// Items in each list of a filter at most.
pub const FILTER_ITEMS_MAX: usize = 256;

/// What a listener hears of: what fits every list that was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Types of events: exactly, or all that begin with what stands before a
    /// `*` at the end.
    pub event_types: Option<Vec<String>>,
    /// Kinds of things.
    pub entity_types: Option<Vec<EntityKind>>,
    /// Ids of things.
    pub entity_ids: Option<HashSet<[u8; 16]>>,
    /// Nothing at all, until another filter comes.
    pub nothing: bool,
}

impl Filter {
    /// Nothing, until another filter comes.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Whether an entry of the log fits every list.
    pub fn fits(&self, entry: &LoggedEntry) -> bool {
        !self.nothing
            && self.entity_types.as_ref().is_none_or(|kinds| {
                EntityKind::parse(&entry.entity).is_some_and(|kind| kinds.contains(&kind))
            })
            && self.entity_ids.as_ref().is_none_or(|ids| ids.contains(&entry.id))
            && self.event_types.as_ref().is_none_or(|types| {
                types.iter().any(|wanted| matches(wanted.as_bytes(), entry.kind.as_bytes()))
            })
    }
}

/// A filter together with what the listener may hear of.
#[derive(Clone, Debug)]
pub(crate) struct Sieve {
    filter: Filter,
    /// One bit for each kind of thing; the highest for unknown ones.
    entities: u32,
    /// Everything passes.
    open: bool,
}

const UNKNOWN: u32 = 1 << 31;

impl Sieve {
    pub(crate) fn new(filter: Filter, caller: &Caller) -> Self {
        let wanted = |kind: &EntityKind| {
            filter.entity_types.as_ref().is_none_or(|kinds| kinds.contains(kind))
        };
        let mut entities = EntityKind::ALL
            .iter()
            .filter(|kind| caller.may_follow(**kind) && wanted(kind))
            .fold(0, |bits, kind| bits | bit(Some(*kind)));
        let all = caller.may_follow_all();
        // What only a newer version of the server knows, only those hear of who
        // may hear of everything.
        if all && filter.entity_types.is_none() {
            entities |= UNKNOWN;
        }
        let open = all && filter == Filter::default();
        Self { filter, entities, open }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) fn passes(&self, batch: &Batch, entry: &Entry) -> bool {
        self.open
            || (!self.filter.nothing
                && self.entities & bit(entry.entity) != 0
                && self.filter.entity_ids.as_ref().is_none_or(|ids| ids.contains(&entry.id))
                && self.filter.event_types.as_ref().is_none_or(|types| {
                    let kind = batch.kind(entry);
                    types.iter().any(|wanted| matches(wanted.as_bytes(), kind))
                }))
    }
}

fn bit(kind: Option<EntityKind>) -> u32 {
    kind.map_or(UNKNOWN, |kind| 1 << (kind as u32))
}

fn matches(wanted: &[u8], kind: &[u8]) -> bool {
    match wanted.strip_suffix(b"*") {
        Some(beginning) => kind.starts_with(beginning),
        None => wanted == kind,
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::{OrgId, Role};

    use super::*;
    use crate::batch::tests::entry;

    fn passing(filter: Filter, role: Role) -> Vec<i64> {
        let batch = Batch::encode(&[
            entry(1, "agent.created", "agent", "{}"),
            entry(2, "agent.updated", "agent", "{}"),
            entry(3, "run.created", "run", "{}"),
            entry(4, "key.created", "key", "{}"),
            entry(5, "comet.created", "comet", "{}"),
        ]);
        let org = OrgId::from_bytes([1; 16]);
        let sieve = Sieve::new(filter, &Caller::of(org, None, role));
        let passing = batch.entries().iter().filter(|entry| sieve.passes(&batch, entry));
        passing.map(|entry| entry.seq).collect()
    }

    #[test]
    fn an_event_passes_when_it_fits_every_list_and_the_role() {
        let types = |types: &[&str]| Filter {
            event_types: Some(types.iter().map(|text| (*text).to_owned()).collect()),
            ..Filter::default()
        };
        let entities = |kinds: &[EntityKind]| Filter {
            entity_types: Some(kinds.to_vec()),
            ..Filter::default()
        };
        assert_eq!(passing(Filter::default(), Role::Owner), [1, 2, 3, 4, 5]);
        assert_eq!(passing(Filter::default(), Role::Member), [1, 2, 3]);
        assert_eq!(passing(Filter::default(), Role::Viewer), [1, 2, 3]);
        assert_eq!(passing(Filter::nothing(), Role::Owner), [0; 0]);
        assert_eq!(passing(types(&["agent.created"]), Role::Owner), [1]);
        assert_eq!(passing(types(&["agent.*", "run.created"]), Role::Owner), [1, 2, 3]);
        assert_eq!(passing(types(&["*"]), Role::Owner), [1, 2, 3, 4, 5]);
        assert_eq!(passing(types(&["agent"]), Role::Owner), [0; 0]);
        assert_eq!(passing(types(&[]), Role::Owner), [0; 0]);
        assert_eq!(passing(entities(&[EntityKind::Run, EntityKind::Key]), Role::Owner), [3, 4]);
        assert_eq!(passing(entities(&[EntityKind::Run, EntityKind::Key]), Role::Service), [3]);
        let both = Filter { entity_types: Some(vec![EntityKind::Run]), ..types(&["*.created"]) };
        assert_eq!(passing(both, Role::Owner), [0; 0], "a star stands at the end alone");
        let of = |id| Filter { entity_ids: Some(HashSet::from([id])), ..types(&["agent.*"]) };
        assert_eq!(passing(of([0xab; 16]), Role::Owner), [1, 2]);
        assert_eq!(passing(of([0; 16]), Role::Owner), [0; 0]);
    }
}
