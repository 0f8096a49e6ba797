//! What the target acknowledged, to be asked for again after the run: what was
//! made and must be there, with the fields that were sent, and what was removed
//! and must be gone. Later writes of the same path replace what earlier ones
//! said of it, field by field.
//!
//! A write whose outcome nobody knows (no answer, or an error of the server's)
//! leaves what it may have changed unchecked: the audit accuses nobody of what
//! was never promised. Values are kept as hashes, so that an item costs about a
//! hundred bytes whatever its size.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

/// Items that one thread remembers.
const ITEMS_MAX: usize = 200_000;
/// Names of fields that are told apart; further ones are not checked.
const NAMES_MAX: usize = 1_000;

/// What a write did, when it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The item is there.
    Kept,
    /// It is not there any more.
    Gone,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    items: HashMap<Box<str>, Item>,
    names: Vec<Box<str>>,
    not_remembered: u64,
}

/// What is known of one path.
#[derive(Debug)]
pub(crate) struct Item {
    /// Of the write that made it, whose step says how it is asked for.
    pub(crate) endpoint: usize,
    /// None when nobody knows.
    pub(crate) effect: Option<Effect>,
    /// Number of the name, hash of the value.
    fields: Vec<(u16, u64)>,
}

impl Ledger {
    /// The target acknowledged a write; `fields` are those of its body that
    /// have to stand in the item from now on.
    pub(crate) fn acknowledged<'a>(
        &mut self,
        endpoint: usize,
        path: String,
        effect: Effect,
        fields: impl Iterator<Item = (&'a str, &'a Value)>,
    ) {
        if self.items.len() == ITEMS_MAX && !self.items.contains_key(path.as_str()) {
            self.not_remembered += 1;
            return;
        }
        let fields: Vec<(u16, u64)> =
            fields.filter_map(|(name, value)| Some((self.number(name)?, hash(value)))).collect();
        let item = self.items.entry(path.into_boxed_str()).or_insert_with(|| Item {
            endpoint,
            effect: None,
            fields: Vec::new(),
        });
        item.effect = Some(effect);
        for (name, value) in fields {
            item.fields.retain(|(known, _)| *known != name);
            item.fields.push((name, value));
        }
    }

    /// Nobody knows whether a write was carried out.
    pub(crate) fn uncertain<'a>(
        &mut self,
        path: &str,
        effect: Effect,
        fields: impl Iterator<Item = &'a str>,
    ) {
        let Some(item) = self.items.get_mut(path) else { return };
        if effect == Effect::Gone {
            item.effect = None;
        }
        for name in fields {
            let number = self.names.iter().position(|known| **known == *name);
            item.fields.retain(|(known, _)| Some(usize::from(*known)) != number);
        }
    }

    /// A write could not be remembered.
    pub(crate) fn forgot(&mut self) {
        self.not_remembered += 1;
    }

    /// Writes that could not be remembered, and all items.
    pub(crate) fn into_items(self) -> (u64, Vec<(Box<str>, Item)>, Names) {
        (self.not_remembered, self.items.into_iter().collect(), Names(self.names))
    }

    fn number(&mut self, name: &str) -> Option<u16> {
        let known = self.names.iter().position(|known| **known == *name);
        let number = known.or_else(|| {
            (self.names.len() < NAMES_MAX).then(|| {
                self.names.push(name.into());
                self.names.len() - 1
            })
        })?;
        u16::try_from(number).ok()
    }
}

/// The names of fields, by number.
#[derive(Debug)]
pub(crate) struct Names(Vec<Box<str>>);

impl Item {
    pub(crate) fn has_fields(&self) -> bool {
        !self.fields.is_empty()
    }

    /// The names of fields that are missing or have another value.
    pub(crate) fn differences(&self, found: &Value, names: &Names) -> Vec<String> {
        let differs = |(name, value): &(u16, u64)| {
            let name = &names.0[usize::from(*name)];
            (found.get(&**name).map(hash) != Some(*value)).then(|| name.to_string())
        };
        self.fields.iter().filter_map(differs).collect()
    }
}

/// The same for values that are the same JSON, in whatever order their members
/// stand.
fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_into(value, &mut hasher);
    hasher.finish()
}

fn hash_into(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            (6, members.len()).hash(hasher);
            for (name, value) in members {
                name.hash(hasher);
                hash_into(value, hasher);
            }
        }
        Value::Array(items) => {
            (5, items.len()).hash(hasher);
            items.iter().for_each(|item| hash_into(item, hasher));
        }
        Value::String(text) => (4, text).hash(hasher),
        other => (3, other.to_string()).hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write(ledger: &mut Ledger, path: &str, effect: Effect, body: &Value) {
        let fields = body.as_object().unwrap();
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value));
        ledger.acknowledged(0, path.to_owned(), effect, fields);
    }

    #[test]
    fn later_writes_replace_what_earlier_ones_said() {
        let mut ledger = Ledger::default();
        write(&mut ledger, "/a", Effect::Kept, &json!({"x": 1, "y": [1, {"b": 2, "a": null}]}));
        write(&mut ledger, "/a", Effect::Kept, &json!({"x": "two"}));
        write(&mut ledger, "/b", Effect::Kept, &json!({"x": 1}));
        write(&mut ledger, "/b", Effect::Gone, &json!({}));
        let (missed, items, names) = ledger.into_items();
        assert_eq!((missed, items.len()), (0, 2));
        let item = |path: &str| &items.iter().find(|(known, _)| **known == *path).unwrap().1;
        assert_eq!(
            (item("/a").effect, item("/b").effect),
            (Some(Effect::Kept), Some(Effect::Gone))
        );
        let differences = |found: Value| {
            let mut found = item("/a").differences(&found, &names);
            found.sort();
            found.join(" ")
        };
        assert_eq!(differences(json!({"id": 7, "x": "two", "y": [1, {"a": null, "b": 2}]})), "");
        assert_eq!(differences(json!({"x": 1, "y": [1, {"a": null, "b": 2}]})), "x");
        assert_eq!(differences(json!({"x": "two", "y": [{"a": null, "b": 2}, 1]})), "y");
        assert_eq!(differences(json!("no object")), "x y");
    }

    #[test]
    fn what_nobody_knows_is_not_held_against_the_target() {
        let mut ledger = Ledger::default();
        write(&mut ledger, "/a", Effect::Kept, &json!({"x": 1, "y": 2}));
        ledger.uncertain("/a", Effect::Kept, ["x", "z"].into_iter());
        write(&mut ledger, "/b", Effect::Kept, &json!({}));
        ledger.uncertain("/b", Effect::Gone, std::iter::empty());
        ledger.uncertain("/never", Effect::Gone, std::iter::empty());
        let (_, items, names) = ledger.into_items();
        for (path, item) in &items {
            match &**path {
                "/a" => assert_eq!(item.differences(&json!({"x": 9, "y": 2}), &names), [""; 0]),
                _ => assert_eq!(item.effect, None),
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_what_it_does_not_hold_is_counted() {
        let mut ledger = Ledger::default();
        for n in 0..ITEMS_MAX + 3 {
            ledger.acknowledged(0, n.to_string(), Effect::Kept, std::iter::empty());
        }
        ledger.acknowledged(0, "0".to_owned(), Effect::Gone, std::iter::empty());
        let (missed, items, _) = ledger.into_items();
        assert_eq!((missed, items.len()), (3, ITEMS_MAX));
    }
}
