//! JSON as facts: every object is a thing, every member a fact about it.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::relations::Effect;
use super::{Extraction, Fact, Kind, Named, Object, Turn};
use crate::names::normalised;

/// Facts of one document.
pub const TRIPLES_MAX: usize = 256;
/// Objects within objects that are followed.
const DEPTH_MAX: usize = 8;
/// Bytes of a value that is kept as a fact's object.
const LITERAL_BYTES_MAX: usize = 500;
/// Members that say what an object is called.
const NAMES: &[&str] = &["name", "title", "full_name", "label", "id", "key", "email"];
const SURE: i64 = 1_000;

/// Whether a text is a JSON object or list.
pub fn is_json(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// The facts of a JSON text; none when it is none.
pub(super) fn extract(turn: &Turn<'_>) -> Option<Extraction> {
    let text = turn.text.trim();
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let mut walk = Walk { turn, found: Extraction::default(), by: HashMap::new() };
    match &value {
        Value::Object(object) => {
            walk.object(object, "document", DEPTH_MAX);
        }
        Value::Array(items) => {
            for item in items {
                if let Value::Object(object) = item {
                    walk.object(object, "document", DEPTH_MAX);
                }
            }
        }
        _ => return None,
    }
    Some(walk.found)
}

struct Walk<'a> {
    turn: &'a Turn<'a>,
    found: Extraction,
    by: HashMap<String, usize>,
}

impl Walk<'_> {
    fn name(&mut self, name: &str, kind: Kind) -> Option<usize> {
        let normalised = normalised(name);
        if normalised.is_empty() {
            return None;
        }
        if let Some(nth) = self.by.get(&normalised) {
            return Some(*nth);
        }
        let nth = self.found.names.len();
        let spans = self.turn.text.find(name).map(|at| at..at + name.len()).into_iter().collect();
        self.by.insert(normalised.clone(), nth);
        self.found.names.push(Named { name: name.to_owned(), normalised, kind, spans });
        Some(nth)
    }

    /// The object as something named, with what it says.
    fn object(&mut self, object: &Map<String, Value>, role: &str, depth: usize) -> Option<usize> {
        let called = NAMES.iter().find_map(|key| match object.get(*key)? {
            Value::String(text) if !text.trim().is_empty() => Some((*key, text.clone())),
            Value::Number(number) => Some((*key, format!("{role} {number}"))),
            _ => None,
        });
        let (key, name) = called.unwrap_or(("", role.to_owned()));
        let subject = self.name(&name, kind_of(role))?;
        for (member, value) in object {
            if member != key {
                self.member(subject, member, value, depth);
            }
        }
        Some(subject)
    }

    fn member(&mut self, subject: usize, member: &str, value: &Value, depth: usize) {
        if self.found.facts.len() >= TRIPLES_MAX || depth == 0 {
            return;
        }
        let predicate = snake_case(member);
        if predicate.is_empty() {
            return;
        }
        let object = match value {
            Value::Null => return,
            Value::Array(items) => {
                for item in items {
                    self.member(subject, member, item, depth - 1);
                }
                return;
            }
            Value::Object(inner) => match self.object(inner, member, depth - 1) {
                Some(nth) if nth != subject => Object::Named(nth),
                _ => return,
            },
            Value::String(text) if names_something(text) => {
                match self.name(text.trim(), kind_of(member)) {
                    Some(nth) if nth != subject => Object::Named(nth),
                    _ => return,
                }
            }
            Value::String(text) => {
                Object::Literal(text[..text.floor_char_boundary(LITERAL_BYTES_MAX)].to_owned())
            }
            Value::Bool(flag) => Object::Literal(flag.to_string()),
            Value::Number(number) => Object::Literal(number.to_string()),
        };
        self.found.facts.push(Fact {
            subject,
            predicate,
            object,
            effect: Effect::Holds,
            valid_at: self.turn.at,
            quote: 0..self.turn.text.len(),
            confidence: SURE,
        });
    }
}

/// A short text that begins with a capital is taken for a name.
fn names_something(text: &str) -> bool {
    let text = text.trim();
    text.len() <= 60
        && text.starts_with(char::is_uppercase)
        && text.split_whitespace().count() <= 4
        && !text.ends_with(['.', '!', '?'])
}

fn kind_of(role: &str) -> Kind {
    match role.to_ascii_lowercase().trim_end_matches('s') {
        "person" | "user" | "author" | "owner" | "customer" | "employee" | "manager"
        | "contact" => Kind::Person,
        "company" | "organisation" | "organization" | "employer" | "team" => Kind::Organisation,
        "city" | "country" | "place" | "location" | "addres" => Kind::Place,
        "title" | "book" | "film" | "movie" => Kind::Title,
        _ => Kind::Name,
    }
}

fn snake_case(member: &str) -> String {
    let mut text = String::with_capacity(member.len());
    for letter in member.chars().take(64) {
        if letter.is_uppercase() && text.ends_with(|c: char| c.is_lowercase() || c.is_numeric()) {
            text.push('_');
        }
        if letter.is_alphanumeric() {
            text.extend(letter.to_lowercase());
        } else if !text.is_empty() && !text.ends_with('_') {
            text.push('_');
        }
    }
    text.trim_end_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use agentry_domain::Timestamp;

    use super::*;

    #[test]
    fn a_document_becomes_facts() {
        let text = r#"{"type":"employee","name":"Ada Byron","worksAt":{"name":"Acme","city":"London"},
            "skills":["Rust","SQL"],"age":36,"boss":null}"#;
        let turn = Turn { text, speaker: None, at: Timestamp::from_micros(0) };
        let found = extract(&turn).unwrap();
        let facts: Vec<String> = found
            .facts
            .iter()
            .map(|fact| {
                let object = match &fact.object {
                    Object::Named(nth) => found.names[*nth].name.clone(),
                    Object::Literal(text) => format!("'{text}'"),
                };
                format!("{} {} {object}", found.names[fact.subject].name, fact.predicate)
            })
            .collect();
        let expected = [
            "Ada Byron type 'employee'",
            "Acme city London",
            "Ada Byron works_at Acme",
            "Ada Byron skills Rust",
            "Ada Byron skills SQL",
            "Ada Byron age '36'",
        ];
        let mut sorted = (facts.clone(), expected.to_vec());
        sorted.0.sort();
        sorted.1.sort_unstable();
        assert_eq!(sorted.0, sorted.1);
        assert!(extract(&Turn { text: "{not json", ..turn }).is_none());
    }
}
