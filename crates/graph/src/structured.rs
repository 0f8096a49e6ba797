//! Extraction by a model: what it is shown of some turns, the form that its answer has
//! to take, and how that answer is checked.
//!
//! The model sees no id. Turns, known entities and known facts go in under small
//! integers, and every integer that comes back must be one of them. What a fact rests
//! on is quoted, and a quote that is not in its turn, word for word, refuses the fact:
//! nothing enters the graph that nobody said.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use agentry_domain::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::extract::Kind;
use crate::names::normalised;

/// What facts that a model found say of their origin; the model's name follows it.
pub const EXTRACTOR_MODEL: &str = "model";
/// The version of what models are asked and of how their answers are checked.
pub const EXTRACTOR_MODEL_VERSION: u32 = 1;
/// How sure a fact of a model's is, in thousandths.
pub const CONFIDENCE_MODEL: i64 = 800;
/// Bytes of a turn that a model is shown.
pub const TURN_SHOWN_BYTES_MAX: usize = 8 << 10;
/// Known entities and facts that a model is shown with a batch.
pub const KNOWN_SHOWN_MAX: usize = 40;
/// Entities, and facts, of one answer; more are refused.
pub const ANSWER_ITEMS_MAX: usize = 256;
/// Characters of a predicate at most.
const PREDICATE_CHARS_MAX: usize = 60;
/// Characters of a name, and of a value that is no entity, at most.
const NAME_CHARS_MAX: usize = 200;
/// Shorter quotes are everywhere, and show nothing.
const QUOTE_CHARS_MIN: usize = 3;
/// Places of a name in a turn that are told.
const PLACES_MAX: usize = 8;
/// Refusals that a repair is told of.
const REFUSALS_TOLD_MAX: usize = 8;

/// What a model is told to do, whatever it is shown.
pub const INSTRUCTIONS: &str = "\
You extract a knowledge graph from turns of a conversation. The input is JSON: turns, \
known_entities and known_facts, each under an integer, and reference_time.
Rules:
- State only what a turn says to be so. What is asked, wished, planned, imagined or denied is \
no fact.
- entities: who and what the facts are about. Number those that are not known yet upwards from \
first_new_entity. When one of them is a known entity under another name, give that integer as \
duplicate_of, otherwise null. Refer to known entities by their own integers; do not list them.
- Whoever says \"I\" is the turn's speaker; use the speaker's name.
- facts: subject is the integer of an entity. The object is either object_entity, an integer, or \
object_text, a short value; the other one is null. predicate is snake_case, in the present \
tense. Prefer: lives_in, works_at, works_as, owns, likes, knows, member_of, married_to, \
birthday, age, email, phone, located_in, part_of, uses.
- turn is the integer of the turn that says it, and quote the words of that turn that say it, \
copied exactly, character by character.
- valid_at is when it became so, as an ISO 8601 date or time, resolved against the turn's own \
time; null when the turn does not say.
- duplicate_of is the known fact that says the same, otherwise null. contradicts lists the known \
facts that are not so any more because of this one.
- Answer with JSON alone. Empty lists are a good answer.";

/// A turn that a model is shown.
#[derive(Clone, Copy, Debug)]
pub struct ShownTurn<'a> {
    /// Who says it.
    pub speaker: &'a str,
    /// What is said.
    pub text: &'a str,
    /// When.
    pub at: Timestamp,
}

impl<'a> ShownTurn<'a> {
    /// The part of the text that the model sees.
    pub fn shown(&self) -> &'a str {
        &self.text[..self.text.floor_char_boundary(TURN_SHOWN_BYTES_MAX)]
    }
}

/// An entity that the group knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownEntity {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: String,
}

/// A fact that the group knows, and that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownFact {
    /// The fact as a sentence.
    pub text: String,
    /// Since when it holds, if that is known.
    pub valid_at: Option<Timestamp>,
}

/// All that a model is shown for one answer.
#[derive(Clone, Debug, Default)]
pub struct Material<'a> {
    /// What was said, oldest first.
    pub turns: Vec<ShownTurn<'a>>,
    /// The nearest of what is known.
    pub entities: Vec<ShownEntity>,
    /// See [`Material::entities`].
    pub facts: Vec<ShownFact>,
}

/// Something that facts are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEntity {
    /// Its name.
    pub name: String,
    /// What it is, as [`Kind`] names it.
    pub kind: String,
    /// Its place among the known entities, if it is one of them.
    pub known: Option<usize>,
}

/// What a fact says of its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundObject {
    /// The entity at this place of [`Found::entities`].
    Entity(usize),
    /// A value.
    Text(String),
}

/// A fact that stood every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFact {
    /// Whom it is about: a place of [`Found::entities`].
    pub subject: usize,
    /// The relation, in snake case.
    pub predicate: String,
    /// To what.
    pub object: FoundObject,
    /// The place of the turn that says it.
    pub turn: usize,
    /// Where in the turn.
    pub quote: Range<usize>,
    /// When it became so; none for when it was said.
    pub valid_at: Option<Timestamp>,
    /// The place of the known fact that says the same.
    pub same: Option<usize>,
    /// The places of the known facts that end with it.
    pub ends: Vec<usize>,
}

/// Why parts of an answer were refused, and how many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// A field is missing or of another type.
    pub form: u32,
    /// An integer stands for nothing that was shown.
    pub integer: u32,
    /// A quote is not in its turn.
    pub quote: u32,
    /// A name or a predicate is empty or too long, or an entity is in no turn and no fact.
    pub name: u32,
    /// A time cannot be read.
    pub time: u32,
}

impl Refusals {
    /// How many in all.
    pub fn total(&self) -> u32 {
        self.form + self.integer + self.quote + self.name + self.time
    }
}

/// What a model found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whom and what it is about.
    pub entities: Vec<FoundEntity>,
    /// What holds of them.
    pub facts: Vec<FoundFact>,
    /// What of the answer was refused.
    pub refused: Refusals,
}

/// An answer of which nothing can be used; the text says why, for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unusable {
    /// What is wrong, in sentences.
    pub reason: String,
    /// What was refused on the way.
    pub refused: Refusals,
}

enum Refusal {
    Form,
    Integer,
    Quote,
    Name,
    Time,
}

#[derive(Deserialize)]
struct Answer {
    entities: Vec<Value>,
    facts: Vec<Value>,
}

#[derive(Deserialize)]
struct AnswerEntity {
    entity: u64,
    name: String,
    kind: String,
    duplicate_of: Option<u64>,
}

#[derive(Deserialize)]
struct AnswerFact {
    subject: u64,
    predicate: String,
    object_entity: Option<u64>,
    object_text: Option<String>,
    turn: u64,
    quote: String,
    valid_at: Option<String>,
    duplicate_of: Option<u64>,
    contradicts: Vec<u64>,
}

/// The form of an answer as a JSON Schema, in the part of it that providers can hold
/// their models to: every property is required, and there are no others.
pub fn schema() -> Value {
    let integer = json!({"type": "integer"});
    let integer_or_null = json!({"type": ["integer", "null"]});
    let text = json!({"type": "string"});
    let text_or_null = json!({"type": ["string", "null"]});
    let object = |properties: Value| {
        let names: Vec<String> =
            properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        json!({"type": "object", "properties": properties, "required": names,
            "additionalProperties": false})
    };
    let kinds = ["person", "animal", "place", "organisation", "title", "entity"];
    let entity = object(json!({
        "entity": integer,
        "name": text,
        "kind": {"type": "string", "enum": kinds},
        "duplicate_of": integer_or_null,
    }));
    let fact = object(json!({
        "subject": integer,
        "predicate": text,
        "object_entity": integer_or_null,
        "object_text": text_or_null,
        "turn": integer,
        "quote": text,
        "valid_at": text_or_null,
        "duplicate_of": integer_or_null,
        "contradicts": {"type": "array", "items": integer},
    }));
    object(json!({
        "entities": {"type": "array", "items": entity},
        "facts": {"type": "array", "items": fact},
    }))
}

impl Material<'_> {
    /// What the model is shown, as JSON.
    pub fn prompt(&self) -> String {
        let turn = |(nth, turn): (usize, &ShownTurn<'_>)| {
            json!({"turn": nth + 1, "speaker": turn.speaker, "at": turn.at.to_string(),
                "text": turn.shown()})
        };
        let entity = |(nth, entity): (usize, &ShownEntity)| json!({"entity": nth + 1, "name": entity.name, "kind": entity.kind});
        let fact = |(nth, fact): (usize, &ShownFact)| {
            let since = fact.valid_at.map(|at| at.to_string());
            json!({"fact": nth + 1, "text": fact.text, "since": since})
        };
        let newest = self.turns.iter().map(|turn| turn.at).max();
        json!({
            "reference_time": newest.map(|at| at.to_string()),
            "turns": self.turns.iter().enumerate().map(turn).collect::<Vec<_>>(),
            "known_entities": self.entities.iter().enumerate().map(entity).collect::<Vec<_>>(),
            "known_facts": self.facts.iter().enumerate().map(fact).collect::<Vec<_>>(),
            "first_new_entity": self.entities.len() + 1,
        })
        .to_string()
    }

    /// Checks an answer: what stands every check, or why nothing does. An answer that
    /// finds nothing is a good one; one of which everything was refused is not.
    pub fn check(&self, answer: &str) -> Result<Found, Unusable> {
        let bare = without_fence(answer);
        let unusable = |reason: String| Unusable { reason, refused: Refusals::default() };
        let answer: Answer = serde_json::from_str(bare)
            .map_err(|error| unusable(format!("The answer is not the JSON asked for: {error}.")))?;
        let mut checking = Checking::new(self);
        for (nth, entity) in answer.entities.iter().enumerate() {
            let checked = if nth < ANSWER_ITEMS_MAX {
                checking.entity(entity)
            } else {
                Err((Refusal::Form, "there are too many".to_owned()))
            };
            checking.note("entities", nth, checked);
        }
        for (nth, fact) in answer.facts.iter().enumerate() {
            let checked = if nth < ANSWER_ITEMS_MAX {
                checking.fact(fact)
            } else {
                Err((Refusal::Form, "there are too many".to_owned()))
            };
            checking.note("facts", nth, checked);
        }
        let told = std::mem::take(&mut checking.told);
        let found = checking.end();
        if found.facts.is_empty() && found.entities.is_empty() && found.refused.total() > 0 {
            let reason = format!("Nothing of the answer can be used. {}", told.join(" "));
            return Err(Unusable { reason, refused: found.refused });
        }
        Ok(found)
    }
}

/// The JSON of an answer that some models put between fences.
fn without_fence(answer: &str) -> &str {
    let bare = answer.trim();
    let Some(inner) = bare.strip_prefix("```") else { return bare };
    let inner = inner.strip_prefix("json").unwrap_or(inner);
    inner.strip_suffix("```").unwrap_or(inner).trim()
}

type Checked = Result<(), (Refusal, String)>;

struct Checking<'m, 'a> {
    material: &'m Material<'a>,
    found: Found,
    told: Vec<String>,
    /// The answer's integers of entities, and their places.
    places: BTreeMap<u64, usize>,
}

impl<'m, 'a> Checking<'m, 'a> {
    fn new(material: &'m Material<'a>) -> Self {
        Self { material, found: Found::default(), told: Vec::new(), places: BTreeMap::new() }
    }

    fn note(&mut self, list: &str, nth: usize, checked: Checked) {
        let Err((refusal, why)) = checked else { return };
        let refused = &mut self.found.refused;
        *match refusal {
            Refusal::Form => &mut refused.form,
            Refusal::Integer => &mut refused.integer,
            Refusal::Quote => &mut refused.quote,
            Refusal::Name => &mut refused.name,
            Refusal::Time => &mut refused.time,
        } += 1;
        if self.told.len() < REFUSALS_TOLD_MAX {
            self.told.push(format!("{list}[{nth}]: {why}."));
        }
    }

    fn entity(&mut self, item: &Value) -> Checked {
        let entity: AnswerEntity = read(item)?;
        let name = entity.name.trim();
        if normalised(name).is_empty() || name.chars().count() > NAME_CHARS_MAX {
            return Err((Refusal::Name, format!("{name:?} is no name")));
        }
        let known = entity.duplicate_of.map(|nth| self.known_entity(nth)).transpose()?;
        let is_new = entity.entity > self.material.entities.len() as u64;
        if !is_new && known.is_none() {
            // It lists a known one again, which is one way to refer to it.
            self.known_entity(entity.entity)?;
            return Ok(());
        }
        if self.places.contains_key(&entity.entity) {
            let why = format!("the integer {} is given twice", entity.entity);
            return Err((Refusal::Integer, why));
        }
        let kind = Kind::parse(&entity.kind).unwrap_or(Kind::Name).as_str().to_owned();
        self.places.insert(entity.entity, self.found.entities.len());
        self.found.entities.push(FoundEntity { name: name.to_owned(), kind, known });
        Ok(())
    }

    fn known_entity(&self, nth: u64) -> Result<usize, (Refusal, String)> {
        place(nth, self.material.entities.len())
            .ok_or_else(|| (Refusal::Integer, format!("{nth} is no known entity")))
    }

    fn known_fact(&self, nth: u64) -> Result<usize, (Refusal, String)> {
        place(nth, self.material.facts.len())
            .ok_or_else(|| (Refusal::Integer, format!("{nth} is no known fact")))
    }

    /// The place of the entity that an integer stands for.
    fn refer(&mut self, nth: u64) -> Result<usize, (Refusal, String)> {
        if let Some(place) = self.places.get(&nth) {
            return Ok(*place);
        }
        let known = place(nth, self.material.entities.len())
            .ok_or_else(|| (Refusal::Integer, format!("{nth} is no entity")))?;
        let shown = &self.material.entities[known];
        let entity =
            FoundEntity { name: shown.name.clone(), kind: shown.kind.clone(), known: Some(known) };
        self.found.entities.push(entity);
        self.places.insert(nth, self.found.entities.len() - 1);
        Ok(self.found.entities.len() - 1)
    }

    fn fact(&mut self, item: &Value) -> Checked {
        let fact: AnswerFact = read(item)?;
        let turn = place(fact.turn, self.material.turns.len())
            .ok_or_else(|| (Refusal::Integer, format!("{} is no turn", fact.turn)))?;
        let quote = fact.quote.trim();
        let at = self.material.turns[turn].shown().find(quote);
        let at = at.filter(|_| quote.chars().count() >= QUOTE_CHARS_MIN).ok_or_else(|| {
            (Refusal::Quote, format!("the quote is not in turn {}: {quote:?}", fact.turn))
        })?;
        let same = fact.duplicate_of.map(|nth| self.known_fact(nth)).transpose()?;
        let mut ends: Vec<usize> =
            fact.contradicts.iter().map(|nth| self.known_fact(*nth)).collect::<Result<_, _>>()?;
        ends.sort_unstable();
        ends.dedup();
        ends.retain(|ended| Some(*ended) != same);
        let valid_at = match fact.valid_at.as_deref().map(str::trim).filter(|it| !it.is_empty()) {
            None => None,
            Some(text) => {
                Some(moment(text).ok_or_else(|| (Refusal::Time, format!("{text:?} is no time")))?)
            }
        };
        let predicate = snake(&fact.predicate)
            .ok_or_else(|| (Refusal::Name, format!("{:?} is no predicate", fact.predicate)))?;
        // Last, since it may add a known entity: only what is kept refers to it.
        let subject = self.refer(fact.subject)?;
        let text = fact.object_text.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let object = match (fact.object_entity, text) {
            (Some(nth), _) => FoundObject::Entity(self.refer(nth)?),
            (None, Some(text)) if text.chars().count() <= NAME_CHARS_MAX => {
                FoundObject::Text(text.to_owned())
            }
            (None, _) => return Err((Refusal::Form, "the fact has no object".to_owned())),
        };
        if object == FoundObject::Entity(subject) {
            return Err((Refusal::Integer, "the object is the subject".to_owned()));
        }
        let quote = at..at + quote.len();
        let fact = FoundFact { subject, predicate, object, turn, quote, valid_at, same, ends };
        self.found.facts.push(fact);
        Ok(())
    }

    /// Without entities that no fact is about and no turn names.
    fn end(mut self) -> Found {
        let mut used: HashSet<usize> = HashSet::new();
        for fact in &self.found.facts {
            used.insert(fact.subject);
            if let FoundObject::Entity(place) = fact.object {
                used.insert(place);
            }
        }
        let turns = &self.material.turns;
        let named = |name: &str| turns.iter().any(|turn| !places(turn.shown(), name).is_empty());
        let mut moved: Vec<usize> = Vec::with_capacity(self.found.entities.len());
        let mut kept: Vec<FoundEntity> = Vec::new();
        for (nth, entity) in std::mem::take(&mut self.found.entities).into_iter().enumerate() {
            moved.push(kept.len());
            if used.contains(&nth) || named(&entity.name) {
                kept.push(entity);
            } else if entity.known.is_none() {
                self.found.refused.name += 1;
            }
        }
        for fact in &mut self.found.facts {
            fact.subject = moved[fact.subject];
            if let FoundObject::Entity(place) = &mut fact.object {
                *place = moved[*place];
            }
        }
        self.found.entities = kept;
        self.found
    }
}

fn read<'de, T: Deserialize<'de>>(item: &'de Value) -> Result<T, (Refusal, String)> {
    T::deserialize(item).map_err(|error| (Refusal::Form, error.to_string()))
}

/// The place of what is shown under an integer, which begin with 1.
fn place(nth: u64, count: usize) -> Option<usize> {
    let place = usize::try_from(nth.checked_sub(1)?).ok()?;
    (place < count).then_some(place)
}

/// A date, or a time with or without a zone; without one it is UTC.
fn moment(text: &str) -> Option<Timestamp> {
    let micros = |at: jiff::Timestamp| Timestamp::from_micros(at.as_microsecond());
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(micros(at));
    }
    let civil = match text.parse::<Date>() {
        Ok(date) if text.len() <= 10 => date.at(0, 0, 0, 0),
        _ => text.parse::<jiff::civil::DateTime>().ok()?,
    };
    Some(micros(civil.to_zoned(TimeZone::UTC).ok()?.timestamp()))
}

/// A predicate in snake case.
fn snake(text: &str) -> Option<String> {
    let mut words = String::with_capacity(text.len());
    for letter in text.trim().chars() {
        if letter.is_alphanumeric() {
            words.extend(letter.to_lowercase());
        } else if !words.is_empty() && !words.ends_with('_') {
            words.push('_');
        }
    }
    let words = words.trim_end_matches('_');
    let fits = !words.is_empty() && words.chars().count() <= PREDICATE_CHARS_MAX;
    fits.then(|| words.to_owned())
}

/// Where a text has a name, as whole words, in whatever case; the first places.
pub fn places(text: &str, name: &str) -> Vec<Range<usize>> {
    let joins = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    let mut found = Vec::new();
    let mut until = 0;
    for (at, _) in text.char_indices() {
        let Some(part) = text.get(at..at + name.len()) else { continue };
        let is_whole = || {
            !joins(text[..at].chars().next_back()) && !joins(text[at + name.len()..].chars().next())
        };
        if at >= until && part.eq_ignore_ascii_case(name) && is_whole() {
            until = at + name.len();
            found.push(at..until);
            if found.len() == PLACES_MAX {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_micros(1_684_324_800_000_000);

    fn material() -> Material<'static> {
        Material {
            turns: vec![
                ShownTurn { speaker: "Ada", text: "I moved to Lisbon in May.", at: AT },
                ShownTurn { speaker: "Tom", text: "Maria joined Globex.", at: AT },
            ],
            entities: vec![ShownEntity { name: "Ada".to_owned(), kind: "person".to_owned() }],
            facts: vec![ShownFact { text: "Ada lives in Porto".to_owned(), valid_at: None }],
        }
    }

    fn fact(change: impl Fn(&mut Value)) -> Value {
        let mut fact = json!({"subject": 1, "predicate": "lives in", "object_entity": 2,
            "object_text": null, "turn": 1, "quote": "I moved to Lisbon", "valid_at": "2023-05-01",
            "duplicate_of": null, "contradicts": [1]});
        change(&mut fact);
        fact
    }

    fn check(facts: &[Value]) -> Result<Found, Unusable> {
        let lisbon = json!({"entity": 2, "name": "Lisbon", "kind": "place", "duplicate_of": null});
        material().check(&json!({"entities": [lisbon], "facts": facts}).to_string())
    }

    #[test]
    fn what_stands_every_check_is_found() {
        let found = check(&[fact(|_| {})]).unwrap();
        let names: Vec<(&str, Option<usize>)> =
            found.entities.iter().map(|it| (it.name.as_str(), it.known)).collect();
        assert_eq!(names, [("Lisbon", None), ("Ada", Some(0))]);
        let fact = &found.facts[0];
        assert_eq!((fact.subject, &fact.object), (1, &FoundObject::Entity(0)));
        assert_eq!((fact.predicate.as_str(), fact.quote.clone()), ("lives_in", 0..17));
        assert_eq!(fact.valid_at, Some(Timestamp::from_micros(1_682_899_200_000_000)));
        assert_eq!((fact.same, fact.ends.as_slice()), (None, &[0][..]));
        assert_eq!(found.refused, Refusals::default());
    }

    #[test]
    fn every_integer_is_checked_and_an_invented_quote_is_refused() {
        type Change = fn(&mut Value);
        type Counted = fn(&Refusals) -> u32;
        let cases: [(Change, Counted); 14] = [
            (|it| it["subject"] = json!(9), |it| it.integer),
            (|it| it["subject"] = json!(0), |it| it.integer),
            (|it| it["subject"] = json!(-1), |it| it.form),
            (|it| it["subject"] = json!(1.5), |it| it.form),
            (|it| it["subject"] = json!("1"), |it| it.form),
            (|it| it["subject"] = json!(2), |it| it.integer),
            (|it| it["object_entity"] = json!(3), |it| it.integer),
            (|it| it["turn"] = json!(3), |it| it.integer),
            (|it| it["turn"] = json!(2), |it| it.quote),
            (|it| it["quote"] = json!("I moved to Paris"), |it| it.quote),
            (|it| it["quote"] = json!("I"), |it| it.quote),
            (|it| it["duplicate_of"] = json!(2), |it| it.integer),
            (|it| it["contradicts"] = json!([1, 2]), |it| it.integer),
            (|it| it["valid_at"] = json!("soon"), |it| it.time),
        ];
        for (nth, (change, counted)) in cases.iter().enumerate() {
            let found = check(&[fact(change), fact(|_| {})]).unwrap();
            assert_eq!((found.facts.len(), found.refused.total()), (1, 1), "case {nth}");
            assert_eq!(counted(&found.refused), 1, "case {nth}");
        }
    }

    #[test]
    fn an_answer_of_which_nothing_can_be_used_says_why() {
        for (answer, says) in [
            ("{", "not the JSON"),
            ("[]", "not the JSON"),
            (r#"{"entities": []}"#, "not the JSON"),
            (r#"{"entities": [], "facts": [{"subject": 1}]}"#, "facts[0]"),
        ] {
            let unusable = material().check(answer).unwrap_err();
            assert!(unusable.reason.contains(says), "{answer}: {unusable}");
        }
        let nothing = "```json\n{\"entities\": [], \"facts\": []}\n```";
        assert_eq!(material().check(nothing).unwrap(), Found::default());
        // One that nobody named, and one that is known under another name.
        let entities = json!([
            {"entity": 2, "name": "Atlantis", "kind": "place", "duplicate_of": null},
            {"entity": 3, "name": "Maria", "kind": "person", "duplicate_of": 1},
            {"entity": 3, "name": "Globex", "kind": "company", "duplicate_of": null},
            {"entity": 4, "name": "Globex", "kind": "company", "duplicate_of": 7},
        ]);
        let answer = json!({"entities": entities, "facts": []}).to_string();
        let found = material().check(&answer).unwrap();
        assert_eq!(found.entities.len(), 1);
        assert_eq!((found.entities[0].name.as_str(), found.entities[0].known), ("Maria", Some(0)));
        assert_eq!((found.refused.name, found.refused.integer), (1, 2));
    }

    #[test]
    fn the_schema_is_one_that_providers_hold_their_models_to() {
        fn strict(schema: &Value) {
            if let Some(properties) = schema["properties"].as_object() {
                assert_eq!(schema["additionalProperties"], false);
                let required: HashSet<&str> = schema["required"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|it| it.as_str().unwrap())
                    .collect();
                assert!(properties.keys().all(|name| required.contains(name.as_str())));
                properties.values().for_each(strict);
            }
            if !schema["items"].is_null() {
                strict(&schema["items"]);
            }
        }
        strict(&schema());
        let prompt: Value = serde_json::from_str(&material().prompt()).unwrap();
        assert_eq!(prompt["turns"][1]["turn"], 2);
        assert_eq!(
            prompt["known_facts"][0],
            json!({"fact": 1, "text": "Ada lives in Porto", "since": null})
        );
        assert_eq!(prompt["first_new_entity"], 2);
    }

    #[test]
    fn names_are_found_as_whole_words() {
        assert_eq!(places("Ana and Anabel, ana", "Ana"), [0..3, 16..19]);
        assert_eq!(places("Über", "ber"), Vec::<Range<usize>>::new());
    }
}
