//! What a text says without asking a model: who and what is named in it, when, and
//! which facts it states. Deterministic, and biased towards English.
//!
//! Names come from their shape (addresses, handles, tags, paths, versions,
//! identifiers), from capitals, from quotation marks and from what is known
//! already; facts from about thirty relations, and from JSON as it stands.
//! Precision is wanted more than recall: what is not found here can still be found
//! as text.

mod capitals;
mod common;
mod dates;
mod relations;
mod sentences;
mod shapes;
mod triples;
mod words;

use std::collections::HashMap;
use std::ops::Range;

use agentry_domain::Timestamp;
use agentry_domain::named;

use crate::gazetteer::Gazetteer;
use crate::names::normalised;

pub use self::dates::{Period, When, day_of};
pub use self::relations::{Effect, is_single};
use self::sentences::{Subject, Thing, sentence_span};
use self::shapes::Shape;
pub use self::triples::{TRIPLES_MAX, is_json};
use self::words::words;

/// The version of these rules; it grows when they find other things.
pub const EXTRACTOR_VERSION: u32 = 1;
/// What facts found here say of their origin.
pub const EXTRACTOR: &str = "rules";
/// Bytes of a text that are looked at.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Different names in one text.
pub const NAMES_MAX: usize = 128;
/// Whoever speaks and has no name.
pub const NAMELESS: &str = "user";

named! {
    /// What kind of thing a name is of.
    pub enum Kind {
        /// Something with a name.
        Name = "entity",
        /// Somebody.
        Person = "person",
        /// An animal.
        Animal = "animal",
        /// A place.
        Place = "place",
        /// A company, a school, a club.
        Organisation = "organisation",
        /// A book, a film, a song.
        Title = "title",
        /// `@name`
        Handle = "handle",
        /// `#topic`
        Tag = "tag",
        /// A web address.
        Url = "url",
        /// A mail address.
        Email = "email",
        /// A file's place.
        Path = "path",
        /// A version's number.
        Version = "version",
        /// A name in a program, an issue's key, a digest.
        Identifier = "identifier",
    }
}

impl Kind {
    fn may_be_person(self) -> bool {
        matches!(self, Self::Name | Self::Person)
    }
}

/// A text, who says it, and when.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// What is said.
    pub text: &'a str,
    /// Who says it; none when that is not known. `Name:` before the text is
    /// understood, and comes first.
    pub speaker: Option<&'a str>,
    /// When it is said.
    pub at: Timestamp,
}

/// Something that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As it is written where it comes first.
    pub name: String,
    /// As it is compared.
    pub normalised: String,
    /// What it is.
    pub kind: Kind,
    /// Where, in bytes; empty for a speaker who is not named in the text.
    pub spans: Vec<Range<usize>>,
}

/// What a fact says of its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The named one at this place.
    Named(usize),
    /// Something that is not named.
    Literal(String),
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Whom it is about: a place of [`Extraction::names`].
    pub subject: usize,
    /// The relation, in snake case.
    pub predicate: String,
    /// To what.
    pub object: Object,
    /// Whether it holds from then on, held before, or ends then.
    pub effect: Effect,
    /// When it becomes so.
    pub valid_at: Timestamp,
    /// The part of the text that says it.
    pub quote: Range<usize>,
    /// How sure that is, in thousandths.
    pub confidence: i64,
}

/// What a text says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extraction {
    /// Who and what is named, each once.
    pub names: Vec<Named>,
    /// The one of them who speaks.
    pub speaker: Option<usize>,
    /// What is stated.
    pub facts: Vec<Fact>,
    /// Which days are meant.
    pub dates: Vec<When>,
}

/// Reads a text.
pub fn extract(turn: &Turn<'_>, known: &Gazetteer) -> Extraction {
    if let Some(found) = triples::extract(turn) {
        return found;
    }
    let text = &turn.text[..turn.text.floor_char_boundary(TEXT_BYTES_MAX)];
    let (said_by, body) = prefix(text);
    let offset = text.len() - body.len();
    let mut names = Names::default();
    let speaker_name = said_by.or(turn.speaker);
    let speaker = speaker_name.and_then(|name| names.add(name, Kind::Person, None));
    let words = words(body);
    collect(body, &words, known, &mut names);
    let dates = dates::dates(&words, turn.at);
    let said = sentences::facts(body, &words, &names.all, &dates);
    let mut facts = Vec::with_capacity(said.len());
    let mut speaker = speaker;
    for said in said {
        let subject = match said.subject {
            Subject::Named(nth) => nth,
            Subject::Speaker => {
                let Some(nth) = speaker.or_else(|| names.add(NAMELESS, Kind::Person, None)) else {
                    continue;
                };
                speaker = Some(nth);
                nth
            }
        };
        let object = match said.object {
            Thing::Named(nth, kind) => {
                names.specify(nth, kind);
                Object::Named(nth)
            }
            Thing::Name(text, kind) => match names.add(&text, kind, None) {
                Some(nth) => Object::Named(nth),
                None => continue,
            },
            Thing::Words(text) => Object::Literal(text),
        };
        if object == Object::Named(subject) {
            continue;
        }
        names.specify_subject(subject, &said.predicate);
        let quote = sentence_span(&words, said.sentence, body);
        let dated = dates.iter().find(|when| {
            words.get(when.words.0).is_some_and(|word| word.sentence == said.sentence)
        });
        let valid_at = dated
            .filter(|_| said.predicate != "birthday" && said.effect != Effect::Held)
            .and_then(|when| when.period.begins())
            .unwrap_or(turn.at);
        let fact = Fact {
            subject,
            predicate: said.predicate,
            object,
            effect: said.effect,
            valid_at,
            quote: quote.start + offset..quote.end + offset,
            confidence: said.confidence,
        };
        if !facts.iter().any(|other: &Fact| same(other, &fact)) {
            facts.push(fact);
        }
    }
    let mut names = names.all;
    for span in names.iter_mut().flat_map(|name| &mut name.spans) {
        *span = span.start + offset..span.end + offset;
    }
    Extraction { names, speaker, facts, dates }
}

fn same(one: &Fact, other: &Fact) -> bool {
    (one.subject, &one.predicate, &one.object, one.effect)
        == (other.subject, &other.predicate, &other.object, other.effect)
}

/// The days that a text means, as seen from a moment.
pub fn dates_in(text: &str, at: Timestamp) -> Vec<(Range<usize>, Period)> {
    let words = words(text);
    let span = |when: &When| {
        let (first, last) = (words.get(when.words.0)?, words.get(when.words.1 - 1)?);
        Some((first.start..last.end(), when.period))
    };
    dates::dates(&words, at).iter().filter_map(span).collect()
}

/// The names in a text, normalised; for questions, where lower case names count too.
pub fn names_in(text: &str, known: &Gazetteer) -> Vec<String> {
    let mut names = Names::default();
    collect(text, &words(text), known, &mut names);
    names.all.into_iter().map(|name| name.normalised).collect()
}

/// `Anna Smith: what she says`.
pub fn prefix(text: &str) -> (Option<&str>, &str) {
    const SPEAKER_BYTES_MAX: usize = 60;
    let head = &text[..text.floor_char_boundary(SPEAKER_BYTES_MAX)];
    let Some((name, _)) = head.split_once(": ") else { return (None, text) };
    let words = || name.split(' ');
    let is_name = (1..=3).contains(&words().count())
        && words().all(|word| {
            word.starts_with(char::is_uppercase)
                && word.chars().all(|c| c.is_alphanumeric() || "'.-_\u{2019}".contains(c))
                && !common::is_common(&word.to_lowercase())
        });
    if is_name { (Some(name), &text[name.len() + 2..]) } else { (None, text) }
}

fn collect(text: &str, words: &[words::Word<'_>], known: &Gazetteer, names: &mut Names) {
    for word in words {
        if let Some(shape) = word.shape {
            names.add(word.text, kind_of(shape), Some(word.start..word.end()));
        }
    }
    for title in capitals::titles(text) {
        names.add(&text[title.clone()], Kind::Title, Some(title));
    }
    for run in capitals::runs(words, |name| known.knows(name)) {
        let (Some(first), Some(last)) = (words.get(run.words.start), words.get(run.words.end - 1))
        else {
            continue;
        };
        let span = first.start..last.end();
        if names.covers(&span) {
            continue;
        }
        let kind = if run.person { Kind::Person } else { Kind::Name };
        names.add(&text[span.clone()], kind, Some(span));
    }
    known.find(text, |span, name| {
        if !names.covers(&span) {
            names.add(name, Kind::Name, Some(span));
        }
    });
}

fn kind_of(shape: Shape) -> Kind {
    match shape {
        Shape::Url => Kind::Url,
        Shape::Email => Kind::Email,
        Shape::Handle => Kind::Handle,
        Shape::Tag => Kind::Tag,
        Shape::Path => Kind::Path,
        Shape::Version => Kind::Version,
        Shape::Identifier => Kind::Identifier,
    }
}

/// Names as they are collected.
#[derive(Default)]
struct Names {
    all: Vec<Named>,
    by: HashMap<String, usize>,
}

impl Names {
    fn add(&mut self, name: &str, kind: Kind, span: Option<Range<usize>>) -> Option<usize> {
        let normalised = normalised(name);
        if normalised.is_empty() {
            return None;
        }
        if let Some(nth) = self.by.get(&normalised) {
            self.all[*nth].spans.extend(span);
            return Some(*nth);
        }
        if self.all.len() >= NAMES_MAX {
            return None;
        }
        let nth = self.all.len();
        self.by.insert(normalised.clone(), nth);
        let spans = span.into_iter().collect();
        self.all.push(Named { name: name.to_owned(), normalised, kind, spans });
        Some(nth)
    }

    fn covers(&self, span: &Range<usize>) -> bool {
        self.all
            .iter()
            .flat_map(|name| &name.spans)
            .any(|other| other.start < span.end && span.start < other.end)
    }

    /// Something with a name turns out to be of a kind.
    fn specify(&mut self, nth: usize, kind: Kind) {
        if self.all[nth].kind == Kind::Name {
            self.all[nth].kind = kind;
        }
    }

    fn specify_subject(&mut self, nth: usize, predicate: &str) {
        const OF_PEOPLE: &[&str] = &[
            "lives_in",
            "works_at",
            "works_as",
            "married_to",
            "engaged_to",
            "dates",
            "age",
            "has_pet",
            "sister",
            "brother",
        ];
        if OF_PEOPLE.contains(&predicate) {
            self.specify(nth, Kind::Person);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Timestamp = Timestamp::from_micros(1_684_324_800_000_000);

    fn facts(text: &str) -> Vec<String> {
        let turn = Turn { text, speaker: Some("Ada"), at: AT };
        let found = extract(&turn, &Gazetteer::default());
        let name = |nth: usize| found.names[nth].normalised.clone();
        found
            .facts
            .iter()
            .map(|fact| {
                let object = match &fact.object {
                    Object::Named(nth) => name(*nth),
                    Object::Literal(text) => format!("'{text}'"),
                };
                let effect = match fact.effect {
                    Effect::Holds => "",
                    Effect::Held => " (held)",
                    Effect::Ends => " (ends)",
                };
                format!("{} {} {object}{effect}", name(fact.subject), fact.predicate)
            })
            .collect()
    }

    #[test]
    fn sentences_state_facts() {
        let check = |text: &str, expected: &[&str]| assert_eq!(facts(text), expected, "{text}");
        check("I live in Porto.", &["ada lives_in porto"]);
        check("I've just moved to Lisbon last week!", &["ada lives_in lisbon"]);
        check(
            "I moved from Porto to Lisbon.",
            &["ada lives_in lisbon", "ada lives_in porto (ends)"],
        );
        check(
            "I moved to Lisbon from Porto.",
            &["ada lives_in porto (ends)", "ada lives_in lisbon"],
        );
        check("I used to live in Paris.", &["ada lives_in paris (held)"]);
        check("I no longer work at Initech.", &["ada works_at initech (ends)"]);
        check("I don't work at Initech anymore.", &["ada works_at initech (ends)"]);
        check("I don't live in Porto.", &[]);
        check("I might move. I will live in Rome. Do I live in Rome?", &[]);
        check("Bob works at Acme Corp and likes chess.", &["bob works_at acme corp"]);
        check("My sister is Anna. My dog Rex barks.", &["ada sister anna", "ada has_pet rex"]);
        check("My favourite colour is dark green.", &["ada favourite_colour 'dark green'"]);
        check("my name is Ada Byron", &["ada name ada byron"]);
        check("I am 34 years old and I'm vegan.", &["ada age '34'", "ada diet 'vegan'"]);
        check("I work as a software engineer at Acme.", &["ada works_as 'software engineer'"]);
        check("i moved to lisbon", &["ada lives_in lisbon"]);
        check(
            "We switched from MySQL to PostgreSQL.",
            &["ada uses postgresql", "ada uses mysql (ends)"],
        );
        check("I have a cat named Tom.", &["ada has_pet tom"]);
        check("Anna's boss is Tom Becker.", &["anna boss tom becker"]);
        check("I'm allergic to peanuts.", &["ada allergic_to 'peanuts'"]);
    }

    #[test]
    fn a_speaker_may_stand_before_the_text() {
        let turn = Turn { text: "Bob Stone: I live in Oslo.", speaker: Some("x"), at: AT };
        let found = extract(&turn, &Gazetteer::default());
        assert_eq!(found.names[found.facts[0].subject].normalised, "bob stone");
        let quote = &turn.text[found.facts[0].quote.clone()];
        assert_eq!(quote, "I live in Oslo.");
        assert_eq!(prefix("Note: this"), (None, "Note: this"));
    }

    #[test]
    fn a_date_in_the_sentence_says_since_when() {
        let turn =
            Turn { text: "I moved to Oslo in March 2021. I like tea.", speaker: None, at: AT };
        let found = extract(&turn, &Gazetteer::default());
        assert_eq!(found.facts[0].valid_at.to_string(), "2021-03-01T00:00:00.000000Z");
        assert_eq!(found.facts[1].valid_at, AT);
        assert_eq!(found.names[found.speaker.unwrap()].normalised, NAMELESS);
    }

    #[test]
    fn what_is_known_is_found_in_lower_case() {
        let mut known = Gazetteer::default();
        known.add("Northwind");
        let names = names_in("what about northwind and northwinds", &known);
        assert_eq!(names, ["northwind"]);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_spans_are_of_the_text(text in "(\\PC{0,12}[ .?\"'’]){0,20}") {
            let turn = Turn { text: &text, speaker: Some("Ada"), at: AT };
            let found = extract(&turn, &Gazetteer::default());
            for name in &found.names {
                for span in &name.spans {
                    prop_assert!(text.get(span.clone()).is_some());
                }
            }
            for fact in &found.facts {
                prop_assert!(text.get(fact.quote.clone()).is_some());
                prop_assert!(fact.subject < found.names.len());
            }
        }
    }
}
