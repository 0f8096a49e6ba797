//! Facts from sentences: the table of relations, and the few turns of phrase that
//! do not fit it ("my sister is Anna", "I am 34"). What is asked, wished, planned or
//! only possible is no fact.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use super::dates::When;
use super::relations::{Effect, RELATIONS, Relation, Wants, attribute, relative};
use super::words::{Gap, Word};
use super::{Kind, Named};

/// A fact as a sentence says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) subject: Subject,
    pub(crate) predicate: String,
    pub(crate) object: Thing,
    pub(crate) effect: Effect,
    pub(crate) sentence: usize,
    /// In thousandths.
    pub(crate) confidence: i64,
}

/// Whom a fact is about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subject {
    /// Whoever speaks.
    Speaker,
    /// The named one at this place of the names.
    Named(usize),
}

/// What a fact says of its subject.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Thing {
    /// The named one at this place of the names, which is of this kind.
    Named(usize, Kind),
    /// Some words.
    Words(String),
    /// Some words that name something of this kind.
    Name(String, Kind),
}

/// Words of an object that is not a name.
const PHRASE_WORDS_MAX: usize = 4;
/// Words between a relation and its object's name.
const SKIPPED_MAX: usize = 3;

const SURE: i64 = 900;
const LIKELY: i64 = 700;

/// What may stand between a subject and what is said of it.
const FILLERS: &[&str] = &[
    "have",
    "has",
    "had",
    "am",
    "is",
    "are",
    "was",
    "were",
    "just",
    "recently",
    "now",
    "currently",
    "also",
    "still",
    "always",
    "really",
    "finally",
    "actually",
    "both",
    "already",
    "absolutely",
    "do",
    "did",
    "does",
    "then",
    "totally",
    "officially",
    "once",
    "only",
    "even",
    "ve",
    "been",
    "all",
];
/// What makes it no fact.
const UNREAL: &[&str] = &[
    "will",
    "would",
    "could",
    "should",
    "might",
    "may",
    "can",
    "shall",
    "want",
    "wants",
    "wanted",
    "hope",
    "hoping",
    "plan",
    "planning",
    "wish",
    "going",
    "if",
    "thinking",
    "almost",
    "never",
    "not",
    "without",
    "considering",
    "dream",
    "ought",
    "need",
    "let",
    "try",
    "trying",
    "gonna",
];
const DETERMINERS: &[&str] =
    &["the", "a", "an", "my", "our", "his", "her", "their", "this", "that", "some", "its"];
/// What ends the words of an object.
const STOPS: &[&str] = &[
    "and",
    "but",
    "because",
    "so",
    "since",
    "when",
    "while",
    "if",
    "with",
    "for",
    "in",
    "on",
    "at",
    "from",
    "to",
    "than",
    "that",
    "which",
    "who",
    "as",
    "after",
    "before",
    "now",
    "today",
    "yesterday",
    "over",
    "or",
    "though",
    "although",
    "until",
    "by",
    "about",
    "too",
    "anymore",
    "ago",
    "last",
    "next",
    "this",
    "where",
    "is",
    "are",
    "was",
    "were",
    "has",
    "have",
    "had",
    "will",
    "would",
    "it",
    "i",
    "we",
    "you",
    "he",
    "she",
    "they",
    "them",
    "lol",
    "these",
    "recently",
    "instead",
    "more",
    "very",
    "much",
    "again",
    "then",
    "right",
];
/// Objects that mean nothing by themselves.
const EMPTY: &[&str] = &[
    "it",
    "that",
    "this",
    "them",
    "him",
    "her",
    "you",
    "me",
    "us",
    "one",
    "ones",
    "everything",
    "something",
    "anything",
    "nothing",
    "how",
    "what",
    "to",
    "there",
    "here",
    "all",
    "some",
    "any",
    "those",
    "these",
    "things",
    "thing",
    "lot",
    "lots",
    "way",
    "kind",
    "both",
    "each",
    "idea",
    "fun",
    "bit",
    "your",
    "seeing",
    "hearing",
    "being",
    "when",
    "if",
    "the",
    "a",
    "an",
    "my",
    "time",
    "part",
];

/// A word of a sentence, contractions taken apart.
struct Token<'a> {
    text: &'a str,
    /// The word it is of.
    word: usize,
}

/// What the rules look at.
pub(crate) struct Reading<'a> {
    text: &'a str,
    words: &'a [Word<'a>],
    names: &'a [Named],
    tokens: Vec<Token<'a>>,
    /// For each word, the name that it is part of.
    name_of: Vec<Option<usize>>,
    asks: Vec<bool>,
    dates: &'a [When],
    /// Nothing has a capital, so that nothing is a name.
    careless: bool,
}

type Triggers = HashMap<&'static str, Vec<(Vec<&'static str>, &'static Relation)>>;

static TRIGGERS: LazyLock<Triggers> = LazyLock::new(|| {
    let mut triggers: Triggers = HashMap::new();
    for relation in RELATIONS {
        for says in relation.says {
            let mut words: Vec<&'static str> = says.split(' ').collect();
            let first = words.remove(0);
            triggers.entry(first).or_default().push((words, relation));
        }
    }
    for all in triggers.values_mut() {
        all.sort_by_key(|(words, _)| std::cmp::Reverse(words.len()));
    }
    triggers
});

/// The facts that the sentences of a text say.
pub(crate) fn facts<'a>(
    text: &'a str,
    words: &'a [Word<'a>],
    names: &'a [Named],
    dates: &'a [When],
) -> Vec<Said> {
    if words.is_empty() {
        return Vec::new();
    }
    let reading = Reading::new(text, words, names, dates);
    let mut found: Vec<Said> = Vec::new();
    let mut at = 0;
    while at < reading.tokens.len() {
        let token = &reading.tokens[at];
        let sentence = words[token.word].sentence;
        if reading.asks[sentence] {
            at += 1;
            continue;
        }
        let before = found.len();
        if token.text == "my" || words[token.word].possessive {
            reading.belongings(at, &mut found);
        }
        if token.text == "i" {
            reading.of_oneself(at, &mut found);
        }
        let mut length = 1;
        if let Some((relation, words)) = reading.trigger(at) {
            length = words;
            reading.related(at, words, relation, &mut found);
        }
        for said in &mut found[before..] {
            said.sentence = sentence;
        }
        at += length;
    }
    found
}

impl<'a> Reading<'a> {
    fn new(text: &'a str, words: &'a [Word<'a>], names: &'a [Named], dates: &'a [When]) -> Self {
        let mut tokens = Vec::with_capacity(words.len() + 4);
        for (nth, word) in words.iter().enumerate() {
            split(&word.lower, |text| tokens.push(Token { text, word: nth }));
        }
        let mut name_of = vec![None; words.len()];
        for (nth, name) in names.iter().enumerate() {
            for span in &name.spans {
                let first = words.partition_point(|word| word.end() <= span.start);
                for (place, word) in name_of.iter_mut().zip(words).skip(first) {
                    if word.start >= span.end {
                        break;
                    }
                    place.get_or_insert(nth);
                }
            }
        }
        let sentences = words.last().map_or(0, |word| word.sentence) + 1;
        let mut asks = vec![false; sentences];
        for (nth, word) in words.iter().enumerate() {
            let until = words.get(nth + 1).map_or(text.len(), |next| next.start);
            if text.get(word.end()..until).is_some_and(|between| between.contains('?')) {
                asks[word.sentence] = true;
            }
        }
        let careless = !words
            .iter()
            .any(|word| word.is_capital() && word.text != "I" && !word.text.starts_with("I'"));
        Self { text, words, names, tokens, name_of, asks, dates, careless }
    }

    fn word(&self, token: usize) -> Option<&Word<'a>> {
        Some(&self.words[self.tokens.get(token)?.word])
    }

    fn lower(&self, token: usize) -> &str {
        self.tokens.get(token).map_or("", |token| token.text)
    }

    /// Whether a token goes on with what the one before it began: the same
    /// sentence, and no comma between them.
    fn goes_on(&self, token: usize) -> bool {
        match (token.checked_sub(1), self.tokens.get(token)) {
            (Some(before), Some(it)) => {
                self.tokens[before].word == it.word || self.words[it.word].gap == Gap::Space
            }
            _ => false,
        }
    }

    fn name_at(&self, token: usize) -> Option<usize> {
        self.name_of[self.tokens.get(token)?.word]
    }

    /// The relation that is said from here on, and in how many tokens.
    fn trigger(&self, at: usize) -> Option<(&'static Relation, usize)> {
        if self.name_at(at).is_some() {
            return None;
        }
        TRIGGERS.get(self.lower(at))?.iter().find_map(|(rest, relation)| {
            let fits = rest
                .iter()
                .enumerate()
                .all(|(nth, word)| self.goes_on(at + nth + 1) && self.lower(at + nth + 1) == *word);
            fits.then_some((*relation, rest.len() + 1))
        })
    }

    fn related(&self, at: usize, length: usize, relation: &Relation, found: &mut Vec<Said>) {
        let Some((subject, mut effect)) = self.subject(at, relation.effect) else { return };
        let from = at + length;
        let Some((object, end)) = self.object(from, relation.wants) else { return };
        if effect == Effect::Holds
            && (from..end + 4).any(|nth| self.goes_on(nth) && self.lower(nth) == "anymore")
        {
            effect = Effect::Ends;
        }
        // What one is said to be or do by habit only.
        let confidence = match relation.wants {
            Wants::Name(_) => SURE,
            _ => LIKELY,
        };
        if matches!(relation.predicate, "prefers" | "likes")
            && let Thing::Words(words) = &object
            && words.split(' ').count() > 3
        {
            return;
        }
        // Moved from Porto to Lisbon; switched from one to the other.
        let turns = self.goes_on(end) && matches!(relation.predicate, "lives_in" | "uses");
        let other = match (effect, self.lower(end)) {
            (Effect::Ends, "to") if turns => Some(Effect::Holds),
            (_, "from") if turns && relation.effect == Effect::Holds => Some(Effect::Ends),
            _ => None,
        };
        if let Some(effect) = other
            && let Some((thing, _)) = self.object(end + 1, relation.wants)
        {
            found.push(said(subject.clone(), relation.predicate, thing, effect, SURE));
        }
        found.push(said(subject, relation.predicate, object, effect, confidence));
    }

    /// Who does what is said at a token; none when nobody can be told, or when it
    /// is not said as a fact.
    fn subject(&self, at: usize, effect: Effect) -> Option<(Subject, Effect)> {
        let mut effect = effect;
        let mut nth = at;
        for _ in 0..6 {
            if !self.goes_on(nth) {
                return None;
            }
            nth -= 1;
            let text = self.lower(nth);
            if let Some(name) = self.name_at(nth) {
                return Some((Subject::Named(name), effect));
            }
            match text {
                "i" | "we" => {
                    let supposed = self.goes_on(nth)
                        && matches!(
                            self.lower(nth.wrapping_sub(1)),
                            "if" | "wish" | "unless" | "until"
                        );
                    let have =
                        (nth..at).any(|it| matches!(self.lower(it), "have" | "has" | "been"));
                    // "I lived in Rome", but "I have lived in Rome since 2019".
                    let past = matches!(self.lower(at), "lived" | "worked") && !have;
                    if past && effect == Effect::Holds {
                        effect = Effect::Held;
                    }
                    return (!supposed).then_some((Subject::Speaker, effect));
                }
                // "I used to live in"
                "to" if nth > 0 && self.lower(nth - 1) == "used" => {
                    effect = Effect::Held;
                    nth -= 1;
                }
                // "I no longer live in"
                "longer" if nth > 0 && self.lower(nth - 1) == "no" => {
                    effect = Effect::Ends;
                    nth -= 1;
                }
                // "I do not live in Porto anymore", but not "I do not live in Porto".
                "not" if self.anymore_behind(at) => effect = Effect::Ends,
                "who" => {
                    let name = nth.checked_sub(1).and_then(|before| self.name_at(before))?;
                    return Some((Subject::Named(name), effect));
                }
                _ if UNREAL.contains(&text) => return None,
                _ if FILLERS.contains(&text) => {}
                _ => return None,
            }
        }
        None
    }

    fn anymore_behind(&self, at: usize) -> bool {
        (at..at + 10)
            .take_while(|nth| *nth == at || self.goes_on(*nth))
            .any(|nth| self.lower(nth) == "anymore")
    }

    /// What stands from a token on, and the token behind it.
    fn object(&self, from: usize, wants: Wants) -> Option<(Thing, usize)> {
        match wants {
            Wants::Name(kind) => self.name_object(from, kind).or_else(|| {
                let (words, end) = self.careless.then(|| self.phrase(from, 2)).flatten()?;
                // "i live in lisbon": not "in the city".
                let determined = DETERMINERS.contains(&self.lower(from));
                let short = words.split(' ').count() <= 2 && !determined;
                let nameable = matches!(kind, Kind::Place | Kind::Organisation | Kind::Person);
                (short && nameable).then_some((Thing::Name(words, kind), end))
            }),
            Wants::NameOrWords(kind) => self.name_object(from, kind).or_else(|| {
                let (words, end) = self.phrase(from, PHRASE_WORDS_MAX)?;
                Some((Thing::Words(words), end))
            }),
            Wants::Words => {
                let (words, end) = self.phrase(from, PHRASE_WORDS_MAX)?;
                Some((Thing::Words(words), end))
            }
        }
    }

    fn name_object(&self, from: usize, kind: Kind) -> Option<(Thing, usize)> {
        for nth in from..=from + SKIPPED_MAX {
            // A title stands in quotation marks, which are a break otherwise.
            let titled = |name: usize| self.names[name].kind == Kind::Title;
            let quoted = nth == from && self.name_at(nth).is_some_and(titled);
            if !(self.goes_on(nth) || quoted) {
                return None;
            }
            if let Some(name) = self.name_at(nth) {
                let mut end = nth + 1;
                while self.name_at(end) == Some(name) {
                    end += 1;
                }
                // "Anna's house" is not Anna.
                if self.word(end - 1).is_some_and(|word| word.possessive) {
                    return None;
                }
                return Some((Thing::Named(name, kind), end));
            }
            let text = self.lower(nth);
            let skipped = DETERMINERS.contains(&text)
                || matches!(
                    text,
                    "new"
                        | "beautiful"
                        | "sunny"
                        | "lovely"
                        | "company"
                        | "team"
                        | "city"
                        | "town"
                        | "downtown"
                        | "north"
                        | "south"
                        | "east"
                        | "west"
                        | "startup"
                        | "old"
                        | "book"
                        | "movie"
                        | "film"
                        | "called"
                        | "named"
                );
            if !skipped {
                return None;
            }
        }
        None
    }

    /// A few words, without a determiner before them.
    fn phrase(&self, from: usize, words_max: usize) -> Option<(String, usize)> {
        let mut first = from;
        while self.goes_on(first) && DETERMINERS.contains(&self.lower(first)) {
            first += 1;
        }
        let mut end = first;
        while end < first + words_max && self.goes_on(end) && !self.ends_phrase(end) {
            end += 1;
        }
        let cut = end == first + words_max && self.goes_on(end) && !self.ends_phrase(end);
        if end == first || cut || EMPTY.contains(&self.lower(first)) {
            return None;
        }
        let begin = self.word(first)?.start;
        let until = self.word(end - 1)?.end();
        Some((self.text.get(begin..until)?.to_lowercase(), end))
    }

    fn ends_phrase(&self, token: usize) -> bool {
        let Some(word) = self.tokens.get(token).map(|token| token.word) else { return true };
        STOPS.contains(&self.lower(token))
            || self.dates.iter().any(|when| (when.words.0..when.words.1).contains(&word))
    }

    /// My sister is Anna; my sister Anna; my favourite colour is green; Anna's boss is Tom.
    fn belongings(&self, at: usize, found: &mut Vec<Said>) {
        let subject = if self.lower(at) == "my" {
            Subject::Speaker
        } else {
            let Some(name) = self.name_at(at) else { return };
            Subject::Named(name)
        };
        if at > 0 && self.goes_on(at) && UNREAL.contains(&self.lower(at - 1)) {
            return;
        }
        let mut noun = at + 1;
        while self.goes_on(noun)
            && matches!(
                self.lower(noun),
                "new"
                    | "older"
                    | "younger"
                    | "little"
                    | "big"
                    | "best"
                    | "good"
                    | "old"
                    | "dear"
                    | "current"
                    | "close"
                    | "twin"
            )
        {
            noun += 1;
        }
        if !self.goes_on(noun) {
            return;
        }
        let text = self.lower(noun);
        // My favourite colour is green.
        if matches!(text, "favourite" | "favorite") {
            let Some(is) = (noun + 1..noun + 4)
                .find(|nth| self.goes_on(*nth) && matches!(self.lower(*nth), "is" | "are"))
            else {
                return;
            };
            let what = self.tokens[noun + 1..is].iter().map(|token| token.text).collect::<Vec<_>>();
            if what.is_empty() {
                return;
            }
            let predicate = format!("favourite_{}", singular(&what.join("_")));
            let object = self.object(is + 1, Wants::NameOrWords(Kind::Name));
            if let Some((object, _)) = object {
                found.push(said(subject, &predicate, object, Effect::Holds, SURE));
            }
            return;
        }
        if let Some((predicate, kind)) = relative(text) {
            let after = noun + 1;
            // My sister Anna. Two commas around the name do not matter.
            let apposed = self
                .name_at(after)
                .filter(|_| self.word(after).is_some_and(|word| word.gap != Gap::Sentence));
            if let Some(name) = apposed {
                let possessive = self.word(after).is_some_and(|word| word.possessive);
                if !possessive || !self.goes_on(after + 1) {
                    found.push(said(
                        subject,
                        predicate,
                        Thing::Named(name, kind),
                        Effect::Holds,
                        SURE,
                    ));
                }
                return;
            }
            let named =
                self.word(noun).is_some_and(|word| word.possessive) && self.lower(after) == "name";
            let is = if named { after + 1 } else { after };
            let says = matches!(self.lower(is), "is" | "named" | "called");
            let from =
                if matches!(self.lower(is + 1), "called" | "named") { is + 2 } else { is + 1 };
            if says
                && self.goes_on(is)
                && let Some(name) = self.name_at(from).filter(|_| self.goes_on(from))
            {
                let thing = Thing::Named(name, kind);
                found.push(said(subject, predicate, thing, Effect::Holds, SURE));
            }
            return;
        }
        let (predicate, is) = match (attribute(text), self.lower(noun + 1)) {
            (Some("phone"), "number") => ("phone", noun + 2),
            (Some(predicate), _) => (predicate, noun + 1),
            (None, "address") if text == "mail" => ("email", noun + 2),
            _ => return,
        };
        if !(self.goes_on(is) && matches!(self.lower(is), "is" | "was"))
            || self.lower(is + 1) == "not"
        {
            return;
        }
        let effect = if self.lower(is) == "was" { Effect::Held } else { Effect::Holds };
        let object = self.object(is + 1, Wants::NameOrWords(Kind::Name)).map(|(object, _)| object);
        let dated = || {
            self.dates.iter().find(|when| {
                when.words.0 == self.tokens.get(is + 1).map_or(usize::MAX, |token| token.word)
            })
        };
        if predicate == "birthday" {
            if let Some(when) = dated() {
                found.push(said(
                    subject,
                    predicate,
                    Thing::Words(when.period.from.strftime("%-d %B").to_string()),
                    effect,
                    SURE,
                ));
            }
            return;
        }
        if let Some(object) = object {
            found.push(said(subject, predicate, object, effect, SURE));
        }
    }

    /// I am 34; I am a nurse; I am vegan; I am Anna; call me Annie; I have two kids.
    fn of_oneself(&self, at: usize, found: &mut Vec<Said>) {
        let next = self.lower(at + 1);
        if !self.goes_on(at + 1) {
            return;
        }
        let me = Subject::Speaker;
        if matches!(next, "am" | "turned" | "just") {
            let nth = at
                + 2
                + usize::from(
                    self.lower(at + 2) == "turned"
                        || matches!(self.lower(at + 2), "now" | "a" | "an"),
                );
            if !self.goes_on(nth) {
                return;
            }
            let text = self.lower(nth);
            let number: Option<u32> = text.parse().ok().filter(|age| (1..130).contains(age));
            if let Some(age) = number {
                let ended = !self.goes_on(nth + 1)
                    || matches!(
                        self.lower(nth + 1),
                        "years" | "now" | "and" | "today" | "yesterday"
                    );
                if ended
                    && (next == "turned"
                        || self.lower(nth.saturating_sub(1)) == "turned"
                        || !self.goes_on(nth + 1)
                        || self.lower(nth + 2) == "old")
                {
                    found.push(said(me, "age", Thing::Words(age.to_string()), Effect::Holds, SURE));
                }
                return;
            }
            if next != "am" {
                return;
            }
            if matches!(text, "vegan" | "vegetarian" | "pescatarian") {
                found.push(said(me, "diet", Thing::Words(text.to_owned()), Effect::Holds, SURE));
                return;
            }
            let article = matches!(self.lower(at + 2), "a" | "an");
            if article
                && let Some((words, _)) = self.phrase(at + 2, 3)
                && is_occupation(&words)
            {
                found.push(said(me, "works_as", Thing::Words(words), Effect::Holds, LIKELY));
                return;
            }
            if let Some(name) = self.name_at(at + 2)
                && self.goes_on(at + 2)
            {
                let mut end = at + 3;
                while self.name_at(end) == Some(name) {
                    end += 1;
                }
                let whole = !self.goes_on(end) || matches!(self.lower(end), "and" | "from");
                if whole && self.names[name].kind.may_be_person() {
                    found.push(said(
                        me,
                        "name",
                        Thing::Named(name, Kind::Person),
                        Effect::Holds,
                        LIKELY,
                    ));
                }
            }
            return;
        }
        if matches!(next, "have" | "got" | "adopted")
            || (next == "just" && matches!(self.lower(at + 2), "got" | "adopted"))
        {
            // I have a dog named Rex.
            let named = (at + 2..at + 8)
                .take_while(|nth| self.goes_on(*nth))
                .find(|nth| matches!(self.lower(*nth), "named" | "called"));
            if let Some(named) = named {
                let kind = relative(self.lower(named - 1));
                if let (Some((predicate, kind)), Some(name)) = (kind, self.name_at(named + 1)) {
                    found.push(said(me, predicate, Thing::Named(name, kind), Effect::Holds, SURE));
                }
                return;
            }
            // I have two kids.
            let count = self.lower(at + 2);
            let kids = matches!(self.lower(at + 3), "kids" | "children" | "sons" | "daughters");
            if next == "have" && kids && self.goes_on(at + 3) {
                let predicate = match self.lower(at + 3) {
                    "kids" | "children" => "children",
                    other => other,
                };
                if matches!(count, "two" | "three" | "four" | "five" | "six")
                    || count.parse::<u32>().is_ok()
                {
                    found.push(said(
                        me,
                        predicate,
                        Thing::Words(count.to_owned()),
                        Effect::Holds,
                        SURE,
                    ));
                }
            }
        }
    }
}

fn said(subject: Subject, predicate: &str, object: Thing, effect: Effect, confidence: i64) -> Said {
    Said { subject, predicate: predicate.to_owned(), object, effect, sentence: 0, confidence }
}

fn singular(noun: &str) -> &str {
    noun.strip_suffix('s').filter(|stem| stem.len() > 2 && !stem.ends_with('s')).unwrap_or(noun)
}

/// Whether some words name what somebody does for a living.
fn is_occupation(words: &str) -> bool {
    let last = words.rsplit(' ').next().unwrap_or_default();
    const ALSO: &[&str] = &[
        "nurse",
        "chef",
        "cook",
        "pilot",
        "judge",
        "student",
        "coach",
        "vet",
        "surgeon",
        "clerk",
        "architect",
        "athlete",
        "dentist",
    ];
    const NOT: &[&str] = &[
        "member",
        "lover",
        "believer",
        "fighter",
        "winner",
        "beginner",
        "runner",
        "sister",
        "brother",
        "mother",
        "father",
        "daughter",
        "swimmer",
        "hiker",
        "reader",
        "owner",
        "customer",
        "user",
        "starter",
        "sucker",
        "loser",
        "number",
        "matter",
        "fan",
        "master",
        "disaster",
        "newcomer",
        "helper",
        "supporter",
        "planner",
        "survivor",
        "morning",
    ];
    let ending = ["er", "or", "ist", "ian", "eer"].iter().any(|ending| last.ends_with(ending));
    ALSO.contains(&last) || (ending && last.len() > 4 && !NOT.contains(&last))
}

/// A word in lower case, contractions taken apart.
fn split<'a>(lower: &'a str, mut push: impl FnMut(&'a str)) {
    if !lower.contains('\'') {
        return match lower {
            "cannot" => {
                push("can");
                push("not");
            }
            _ => push(lower),
        };
    }
    for (ending, full) in [
        ("'m", "am"),
        ("'re", "are"),
        ("'ve", "have"),
        ("'ll", "will"),
        ("'d", "would"),
        ("n't", "not"),
    ] {
        if let Some(stem) = lower.strip_suffix(ending) {
            let stem = match (ending, stem) {
                ("n't", "ca") => "can",
                ("n't", "wo") => "will",
                _ => stem,
            };
            push(stem);
            return push(full);
        }
    }
    if let Some(stem) = lower.strip_suffix("'s") {
        push(stem);
        return push("is");
    }
    push(lower);
}

/// The bytes of a sentence.
pub(crate) fn sentence_span(words: &[Word<'_>], sentence: usize, text: &str) -> Range<usize> {
    let first = words.partition_point(|word| word.sentence < sentence);
    let last = words.partition_point(|word| word.sentence <= sentence);
    let Some(begin) = words.get(first).map(|word| word.start) else { return 0..0 };
    let end = words.get(last).map_or(text.len(), |next| next.start);
    let kept = text.get(begin..end).map_or(0, |sentence| sentence.trim_end().len());
    begin..begin + kept
}
