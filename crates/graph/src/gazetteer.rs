//! The names that a group knows: found in texts however they are written, and
//! asked whether a new name is one of them spelt in another way.

use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::names::{alike, normalised, trigrams};

/// Names of one group that are kept at hand; further ones are still compared in the
/// store, exactly.
pub const GAZETTEER_NAMES_MAX: usize = 20_000;
/// Shorter names are not looked for in texts: too many words hold them.
const NAME_LETTERS_MIN: usize = 3;
/// Names that are compared one by one before the automaton is made anew.
const FRESH_MAX: usize = 64;
/// Names that share a trigram with a new one and are looked at.
const ALIKE_LOOKED_AT_MAX: usize = 64;

/// The names of one group.
#[derive(Default)]
pub struct Gazetteer {
    names: Vec<String>,
    by: HashMap<String, u32>,
    by_trigram: HashMap<[char; 3], Vec<u32>>,
    automaton: Option<AhoCorasick>,
    /// Names that the automaton has; those behind are fresh.
    automated: usize,
}

impl std::fmt::Debug for Gazetteer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gazetteer").field("names", &self.names.len()).finish_non_exhaustive()
    }
}

impl Gazetteer {
    /// How many names it has.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds a name.
    pub fn add(&mut self, name: &str) {
        let normalised = normalised(name);
        if normalised.is_empty()
            || self.by.contains_key(&normalised)
            || self.names.len() >= GAZETTEER_NAMES_MAX
        {
            return;
        }
        let nth = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let mut all = trigrams(&normalised);
        all.dedup();
        for trigram in all {
            self.by_trigram.entry(trigram).or_default().push(nth);
        }
        self.by.insert(normalised.clone(), nth);
        self.names.push(normalised);
        let fresh = self.names.len() - self.automated;
        if fresh > FRESH_MAX.max(self.automated / 8) {
            self.automate();
        }
    }

    fn automate(&mut self) {
        let long = |name: &&String| name.chars().count() >= NAME_LETTERS_MIN;
        // A name too short to be looked for keeps its place, as something no text has.
        let patterns: Vec<&str> = self
            .names
            .iter()
            .map(|name| if long(&name) { name.as_str() } else { "\u{1}\u{2}\u{1}" })
            .collect();
        self.automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns)
            .ok();
        self.automated = self.names.len();
    }

    /// Whether a normalised name is known.
    pub fn knows(&self, name: &str) -> bool {
        self.by.contains_key(name)
    }

    /// The known name that this normalised one is another spelling of.
    pub fn alike(&self, name: &str) -> Option<&str> {
        if self.by.contains_key(name) {
            return None;
        }
        // The rarest trigrams first: a spelling shares nearly all of them.
        let mut lists: Vec<&Vec<u32>> =
            trigrams(name).iter().filter_map(|trigram| self.by_trigram.get(trigram)).collect();
        lists.sort_by_key(|list| list.len());
        let mut looked_at = 0;
        for list in lists.into_iter().take(3) {
            for nth in list {
                looked_at += 1;
                if looked_at > ALIKE_LOOKED_AT_MAX {
                    return None;
                }
                let known = self.names.get(*nth as usize)?;
                if alike(known, name) {
                    return Some(known);
                }
            }
        }
        None
    }

    /// The known names in a text, whole words alone, longest first where two begin
    /// at one place.
    pub fn find(&self, text: &str, mut found: impl FnMut(Range<usize>, &str)) {
        let whole = |span: &Range<usize>| {
            let before = text[..span.start].chars().next_back();
            let after = text[span.end..].chars().next();
            let joins = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
            !joins(before) && !joins(after)
        };
        if let Some(automaton) = &self.automaton {
            for hit in automaton.find_iter(text) {
                let span = hit.range();
                if text.is_char_boundary(span.start)
                    && text.is_char_boundary(span.end)
                    && whole(&span)
                {
                    found(span, &self.names[hit.pattern().as_usize()]);
                }
            }
        }
        let fresh = &self.names[self.automated..];
        if fresh.is_empty() {
            return;
        }
        let lower = text.to_ascii_lowercase();
        for name in fresh.iter().filter(|name| name.chars().count() >= NAME_LETTERS_MIN) {
            for (at, _) in lower.match_indices(name.as_str()) {
                let span = at..at + name.len();
                if whole(&span) {
                    found(span, name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(gazetteer: &Gazetteer, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        gazetteer.find(text, |span, name| all.push(format!("{name}@{}", span.start)));
        all.sort();
        all
    }

    #[test]
    fn names_are_found_as_whole_words_fresh_or_not() {
        let mut gazetteer = Gazetteer::default();
        for name in ["New York", "York", "Al", "Rex"] {
            gazetteer.add(name);
        }
        let text = "in NEW YORK al met rex, not rexes; york";
        let fresh = found(&gazetteer, text);
        assert!(fresh.contains(&"new york@3".to_owned()) && fresh.contains(&"york@35".to_owned()));
        for nth in 0..200 {
            gazetteer.add(&format!("Thing number {nth}"));
        }
        assert!(gazetteer.automaton.is_some());
        assert_eq!(found(&gazetteer, text), ["new york@3", "rex@19", "york@35"]);
        assert_eq!(found(&gazetteer, "thing number 199"), ["thing number 199@0"]);
    }

    #[test]
    fn another_spelling_is_recognised() {
        let mut gazetteer = Gazetteer::default();
        gazetteer.add("Northwind Traders");
        assert_eq!(gazetteer.alike("northwind trader"), Some("northwind traders"));
        assert_eq!(gazetteer.alike("northwind traders"), None);
        assert_eq!(gazetteer.alike("southwind farmers"), None);
    }
}
