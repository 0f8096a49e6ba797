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
    /// Groups of graphs: what is in one of them, and nothing that is in no group.
    pub group_ids: Option<HashSet<String>>,
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
            && self.group_ids.as_ref().is_none_or(|groups| in_group(entry.data.as_bytes(), groups))
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
                })
                && self
                    .filter
                    .group_ids
                    .as_ref()
                    .is_none_or(|groups| in_group(data(batch.json(entry)), groups)))
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

/// What stands before the data in an event, whose other fields are words of our own.
const DATA: &[u8] = b"\"data\":";
/// How the data of what is in a group begins.
const GROUP: &[u8] = b"{\"group_id\":";

/// The data of an event that is written down.
fn data(json: &[u8]) -> &[u8] {
    let at = json.windows(DATA.len()).position(|window| window == DATA);
    at.map_or(&[], |at| &json[at + DATA.len()..])
}

fn in_group(data: &[u8], groups: &HashSet<String>) -> bool {
    let named = data.strip_prefix(GROUP).map(serde_json::Deserializer::from_slice);
    let name = named.and_then(|json| json.into_iter::<String>().next());
    name.is_some_and(|name| name.is_ok_and(|name| groups.contains(&name)))
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
    fn a_group_passes_with_what_is_in_it() {
        let batch = Batch::encode(&[
            entry(1, "node.created", "node", r#"{"group_id":"a","version":1}"#),
            entry(2, "edge.created", "edge", r#"{"group_id":"a\"b"}"#),
            entry(3, "run.created", "run", r#"{"session_id":"x","group_id":"a"}"#),
            entry(4, "node.created", "node", "{}"),
        ]);
        let caller = Caller::of(OrgId::from_bytes([1; 16]), None, Role::Member);
        let passing = |groups: &[&str]| {
            let group_ids = Some(groups.iter().map(|group| (*group).to_owned()).collect());
            let filter = Filter { group_ids, ..Filter::default() };
            let sieve = Sieve::new(filter.clone(), &caller);
            let entries = batch.entries().iter();
            let passed: Vec<i64> = entries
                .filter(|entry| sieve.passes(&batch, entry))
                .map(|entry| entry.seq)
                .collect();
            passed
        };
        assert_eq!(passing(&["a"]), [1]);
        assert_eq!(passing(&["a\"b", "c"]), [2]);
        assert_eq!(passing(&["a", "a\"b"]), [1, 2]);
        assert_eq!(passing(&[]), [0; 0]);
        let of_a = Filter { group_ids: Some(HashSet::from(["a".to_owned()])), ..Filter::default() };
        assert!(of_a.fits(&entry(1, "node.created", "node", r#"{"group_id":"a"}"#)));
        assert!(!of_a.fits(&entry(1, "node.created", "node", r#"{"group_id":"ab"}"#)));
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
