//! Which turns of a conversation answer a question best, from what text search found:
//! BM25 with the scope's statistics, to which neighbouring turns lend some of theirs,
//! and what the question says of who, when and how many. One configuration for all
//! data; every part of a score is told with it.

mod kindred;

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use agentry_domain::Timestamp;
use agentry_domain::text::terms;

use crate::extract::{Period, dates_in, day_of};

/// BM25's term saturation and length normalisation.
const K1: f64 = 0.9;
const B: f64 = 0.4;
/// What a turn gets of its neighbours' scores: of the one before, of the ones before
/// that, of the one after, and of the second after.
const BEFORE: [f64; 3] = [0.4, 0.25, 0.08];
const AFTER: [f64; 2] = [0.31, 0.3];
/// What the turn after a question gets of the question's score besides.
const ANSWER: f64 = 0.48;
/// What a name of somebody who speaks weighs as a word: it is said to them, not by them.
const NAME_WEIGHT: f64 = 0.3;
/// What a kindred word weighs.
const KINDRED_WEIGHT: f64 = 0.48;
/// What two words of the question side by side are worth.
const PAIR: f64 = 0.96;
/// By how much a turn gains: when somebody whom the question names says it,
const SPEAKER: f64 = 0.77;
/// when the question asks when and it says,
const WHEN: f64 = 0.32;
/// when the question asks how many and it says,
const COUNT: f64 = 0.4;
/// when the question asks for a name and it has one,
const PROPER: f64 = 0.2;
/// when it was said at the time that the question is about,
const DATE: f64 = 2.0;
/// as much as its session answers the question,
const SESSION: f64 = 0.3;
/// when the question is about now, the newest one.
const RECENT: f64 = 0.3;
/// What a turn loses that asks itself, and one of a few words.
const ASKS: f64 = 0.16;
const SHORT: f64 = 0.18;
const SHORT_TERMS: usize = 4;
/// Sessions in which so many matching turns are, saturate.
const SESSION_K: f64 = 1.2;
/// After so many days a turn is only half about a day that the question names.
const DATE_DAYS: f64 = 10.0;

/// A text that was found, as search knows it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its terms.
    pub tokens: Vec<String>,
}

/// What search knows of a scope.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// How many documents there are.
    pub documents: u64,
    /// How many terms they have on average.
    pub mean_length: f64,
    /// In how many of them each term of the question is.
    pub counts: HashMap<String, u64>,
}

/// A question, taken apart.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its own terms, each once, in their order.
    pub terms: Vec<String>,
    /// Terms that may stand for them.
    pub kindred: Vec<String>,
    words: HashSet<String>,
    asks_when: bool,
    asks_count: bool,
    asks_name: bool,
    asks_now: bool,
    periods: Vec<Period>,
}

static KINDRED: LazyLock<HashMap<String, Vec<String>>> = LazyLock::new(|| {
    let mut all: HashMap<String, Vec<String>> = HashMap::new();
    for words in kindred::KINDRED {
        let stems: Vec<String> = words.iter().flat_map(|word| terms(word)).collect();
        for stem in &stems {
            let others = stems.iter().filter(|other| *other != stem).cloned();
            all.entry(stem.clone()).or_default().extend(others);
        }
    }
    all
});

impl Question {
    /// Reads a question that is asked at a moment.
    pub fn of(text: &str, at: Timestamp) -> Self {
        let mut own: Vec<String> = Vec::new();
        for term in terms(text) {
            if !own.contains(&term) {
                own.push(term);
            }
        }
        let mut also: Vec<String> = Vec::new();
        for term in own.iter().filter_map(|term| KINDRED.get(term)).flatten() {
            if !own.contains(term) && !also.contains(term) {
                also.push(term.clone());
            }
        }
        let lower = text.to_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
        let words: HashSet<String> = lower
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let begins = |parts: &[&str]| parts.iter().any(|part| lower.trim_start().starts_with(part));
        let mut periods: Vec<Period> =
            dates_in(text, at).into_iter().map(|(_, period)| period).collect();
        if periods.is_empty() {
            periods.extend(months_in(text, at));
        }
        Self {
            asks_when: begins(&["when"])
                || has(&[
                    "what year",
                    "which year",
                    "how long",
                    "what date",
                    "which month",
                    "what month",
                    "what day",
                ]),
            asks_count: has(&["how many", "how much", "how old", "how long", "how often"]),
            asks_name: begins(&["who", "where", "which"])
                || has(&["name", "what city", "what country"]),
            asks_now: ["now", "currently", "today", "latest", "nowadays"]
                .iter()
                .any(|word| words.contains(*word)),
            terms: own,
            kindred: also,
            words,
            periods,
        }
    }

    /// The times that it is about.
    pub fn periods(&self) -> &[Period] {
        &self.periods
    }

    /// Whether it names somebody.
    fn names(&self, speaker: &str) -> bool {
        let lower = speaker.to_lowercase();
        let mut words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.next().is_some_and(|first| self.words.contains(first))
    }
}

/// Months that are named without a day or a preposition: "What did Ada do, May 2023?"
fn months_in(text: &str, at: Timestamp) -> Vec<Period> {
    // "in" before a month makes an expression of time of it.
    const MONTHS: &[&str] = &[
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let named = MONTHS
        .iter()
        .find(|month| text.split(|c: char| !c.is_alphanumeric()).any(|word| word == **month));
    let Some(month) = named else { return Vec::new() };
    dates_in(&format!("in {month}"), at).into_iter().map(|(_, period)| period).collect()
}

/// How much a term tells.
fn inverse_frequency(n: u64, documents: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let (n, documents) = (n.max(1) as f64, documents.max(n).max(1) as f64);
    (1.0 + (documents - n + 0.5) / (n + 0.5)).ln()
}

/// A question's terms with what they weigh in a scope, among these speakers.
#[derive(Clone, Debug)]
pub struct Weighed {
    weights: HashMap<String, f64>,
    own: Vec<(String, f64)>,
    pairs: Vec<(String, String)>,
    mean_length: f64,
}

impl Weighed {
    /// Weighs a question.
    pub fn of<'a>(
        question: &Question,
        statistics: &Statistics,
        speakers: impl Iterator<Item = &'a str>,
    ) -> Self {
        let names: HashSet<String> = speakers.flat_map(terms).collect();
        let idf = |term: &String| {
            inverse_frequency(
                statistics.counts.get(term).copied().unwrap_or(0),
                statistics.documents,
            )
        };
        let mut own = Vec::with_capacity(question.terms.len());
        let mut weights = HashMap::new();
        for term in &question.terms {
            let share = if names.contains(term) { NAME_WEIGHT } else { 1.0 };
            own.push((term.clone(), share * idf(term)));
            weights.insert(term.clone(), share * idf(term));
        }
        for term in &question.kindred {
            weights.insert(term.clone(), KINDRED_WEIGHT * idf(term));
        }
        let is_name = |term: &String| names.contains(term);
        let pairs = question
            .terms
            .windows(2)
            .filter(|pair| !is_name(&pair[0]) && !is_name(&pair[1]))
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect();
        Self { weights, own, pairs, mean_length: statistics.mean_length.max(1.0) }
    }

    /// The BM25 of a text, with what stands side by side.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn score(&self, document: &Document) -> f64 {
        let mut frequencies: HashMap<&str, f64> = HashMap::new();
        for token in &document.tokens {
            if let Some((term, _)) = self.weights.get_key_value(token) {
                *frequencies.entry(term).or_default() += 1.0;
            }
        }
        let length = document.tokens.len() as f64 / self.mean_length;
        let norm = K1 * (1.0 - B + B * length);
        let mut each: Vec<(&str, f64)> = frequencies.into_iter().collect();
        // In one order, so that the sum is the same everywhere.
        each.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let words: f64 =
            each.iter().map(|(term, f)| self.weights[*term] * f * (K1 + 1.0) / (f + norm)).sum();
        let pairs = self.pairs.iter().filter(|(one, other)| {
            document.tokens.windows(2).any(|pair| pair[0] == *one && pair[1] == *other)
        });
        words + PAIR * pairs.count() as f64
    }

    /// The share of the question's own weight that a text has, 0 to 1.
    pub fn coverage(&self, document: &Document) -> f64 {
        let whole: f64 = self.own.iter().map(|(_, weight)| weight).sum();
        if whole <= 0.0 {
            return 0.0;
        }
        let held = self.own.iter().filter(|(term, _)| document.tokens.contains(term));
        held.map(|(_, weight)| weight).sum::<f64>() / whole
    }
}

/// A turn that may answer.
#[derive(Clone, Debug)]
pub struct Turn<'a> {
    /// What was said.
    pub text: &'a str,
    /// Its terms.
    pub document: Document,
    /// Who said it.
    pub speaker: Option<&'a str>,
    /// When.
    pub at: Timestamp,
    /// Which session it is in; turns of one have the same number.
    pub session: usize,
    /// The turns before it, nearest first, and those after it, by their places among
    /// the turns; missing ones are none.
    pub before: [Option<usize>; 3],
    /// See [`Turn::before`].
    pub after: [Option<usize>; 2],
}

/// Why a turn has the score that it has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// BM25 of the turn itself.
    pub text: f64,
    /// What its neighbours lend it.
    pub neighbours: f64,
    /// By how much it gains as each of these.
    pub speaker: f64,
    /// See [`Signals::speaker`].
    pub time: f64,
    /// See [`Signals::speaker`].
    pub session: f64,
    /// See [`Signals::speaker`]: whether it says what kind of thing is asked for.
    pub form: f64,
    /// See [`Signals::speaker`].
    pub recency: f64,
    /// The cosine of the angle to the question, as vectors; 0 when that is not known.
    /// It counts by its rank beside the rank by all others.
    pub vector: f64,
}

/// A turn with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Its place among the turns.
    pub turn: usize,
    /// Its score; comparable only within one search.
    pub score: f64,
    /// The share of the question's weight that it has, 0 to 1.
    pub coverage: f64,
    /// What the score is made of.
    pub signals: Signals,
}

/// Ranks turns, best first.
pub fn rank(question: &Question, statistics: &Statistics, turns: &[Turn<'_>]) -> Vec<Ranked> {
    let speakers: HashSet<&str> = turns.iter().filter_map(|turn| turn.speaker).collect();
    let weighed = Weighed::of(question, statistics, speakers.iter().copied());
    let base: Vec<f64> = turns.iter().map(|turn| weighed.score(&turn.document)).collect();
    let sessions = sessions(&weighed, turns);
    let newest = turns.iter().map(|turn| turn.at).max();
    let oldest = turns.iter().map(|turn| turn.at).min();
    let asks: Vec<bool> = turns.iter().map(|turn| is_question(turn.text)).collect();
    let mut ranked: Vec<Ranked> = turns
        .iter()
        .enumerate()
        .map(|(nth, turn)| {
            let lent = |places: &[Option<usize>], shares: &[f64]| -> f64 {
                let of = |(place, share): (&Option<usize>, &f64)| {
                    place.map_or(0.0, |at| base[at] * share)
                };
                places.iter().zip(shares).map(of).sum()
            };
            let answers = turn.before[0]
                .filter(|before| asks[*before])
                .map_or(0.0, |before| base[before] * ANSWER);
            let neighbours = lent(&turn.before, &BEFORE) + lent(&turn.after, &AFTER) + answers;
            let speaker = match turn.speaker {
                Some(speaker) if question.names(speaker) => SPEAKER,
                _ => 0.0,
            };
            let recency = match (question.asks_now, newest, oldest) {
                (true, Some(newest), Some(oldest)) if newest > oldest => {
                    RECENT * turn.at.since(oldest).as_secs_f64()
                        / newest.since(oldest).as_secs_f64()
                }
                _ => 0.0,
            };
            let signals = Signals {
                text: base[nth],
                neighbours,
                speaker,
                time: DATE * nearness(question, turn.at)
                    + if question.asks_when && says_when(turn) { WHEN } else { 0.0 },
                session: SESSION * sessions.get(&turn.session).copied().unwrap_or(0.0),
                form: form(question, turn, asks[nth]),
                recency,
                vector: 0.0,
            };
            let gains =
                [signals.speaker, signals.time, signals.session, signals.form, signals.recency];
            let score =
                gains.iter().fold(base[nth] + neighbours, |score, gain| score * (1.0 + gain));
            Ranked { turn: nth, score, coverage: weighed.coverage(&turn.document), signals }
        })
        .collect();
    // Equal scores: the newer one.
    ranked.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then(turns[b.turn].at.cmp(&turns[a.turn].at))
            .then(b.turn.cmp(&a.turn))
    });
    ranked
}

/// How well each session answers, from 0 to 1 for the best.
fn sessions(weighed: &Weighed, turns: &[Turn<'_>]) -> HashMap<usize, f64> {
    let mut counts: HashMap<(usize, &str), f64> = HashMap::new();
    for turn in turns {
        for (term, _) in &weighed.own {
            let n = turn.document.tokens.iter().filter(|token| *token == term).count();
            if n > 0 {
                #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
                let n = n as f64;
                *counts.entry((turn.session, term.as_str())).or_default() += n;
            }
        }
    }
    let mut scores: HashMap<usize, f64> = HashMap::new();
    let mut each: Vec<_> = counts.into_iter().collect();
    each.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for ((session, term), n) in each {
        *scores.entry(session).or_default() += weighed.weights[term] * n / (n + SESSION_K);
    }
    let best = scores.values().copied().fold(f64::MIN_POSITIVE, f64::max);
    scores.values_mut().for_each(|score| *score /= best);
    scores
}

/// How near a moment is to what the question is about, 0 to 1. What is told of a day
/// is told on it or in the days behind it.
fn nearness(question: &Question, at: Timestamp) -> f64 {
    let Some(day) = day_of(at) else { return 0.0 };
    let near = |period: &Period| {
        if period.holds(day) {
            return 1.0;
        }
        let Ok(behind) = day.since(period.until) else { return 0.0 };
        let days = f64::from(behind.get_days());
        if (0.0..=DATE_DAYS).contains(&days) { 0.5 } else { 0.0 }
    };
    question.periods.iter().map(near).fold(0.0, f64::max)
}

fn says_when(turn: &Turn<'_>) -> bool {
    !dates_in(turn.text, turn.at).is_empty() || {
        let lower = turn.text.to_lowercase();
        [
            "week",
            "month",
            "year",
            "yesterday",
            "today",
            "tomorrow",
            "ago",
            "since",
            "summer",
            "weekend",
        ]
        .iter()
        .any(|word| lower.contains(word))
    }
}

/// Whether a turn says what kind of thing is asked for.
fn form(question: &Question, turn: &Turn<'_>, asks: bool) -> f64 {
    let mut gain = 1.0;
    if asks {
        gain *= 1.0 - ASKS;
    }
    if turn.document.tokens.len() < SHORT_TERMS {
        gain *= 1.0 - SHORT;
    }
    if question.asks_count && has_number(turn.text) {
        gain *= 1.0 + COUNT;
    }
    if question.asks_name && has_name(turn.text) {
        gain *= 1.0 + PROPER;
    }
    gain - 1.0
}

fn is_question(text: &str) -> bool {
    text.trim_end().ends_with('?')
}

fn has_number(text: &str) -> bool {
    const NUMBERS: &[&str] =
        &["one", "two", "three", "four", "five", "six", "seven", "once", "twice", "couple", "few"];
    text.split(|c: char| !c.is_alphanumeric()).any(|word| {
        word.starts_with(|c: char| c.is_ascii_digit())
            || NUMBERS.contains(&word.to_lowercase().as_str())
    })
}

/// Whether a word within a sentence has a capital.
fn has_name(text: &str) -> bool {
    let mut begins = true;
    text.split_whitespace().any(|word| {
        let name = !begins
            && word.len() > 2
            && word.starts_with(char::is_uppercase)
            && !word.starts_with("I'");
        begins = word.ends_with(['.', '!', '?']);
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn turn<'a>(text: &'a str, speaker: &'a str, day: i64, session: usize) -> Turn<'a> {
        let document = Document { tokens: terms(text) };
        let at = Timestamp::from_micros(1_684_324_800_000_000 + day * DAY);
        Turn {
            text,
            document,
            speaker: Some(speaker),
            at,
            session,
            before: [None; 3],
            after: [None; 2],
        }
    }

    fn best(question: &str, turns: &[Turn<'_>]) -> usize {
        let question = Question::of(question, turns.last().unwrap().at);
        let mut counts: HashMap<String, u64> = HashMap::new();
        for turn in turns {
            let own: HashSet<&String> = turn.document.tokens.iter().collect();
            for token in own {
                *counts.entry(token.clone()).or_default() += 1;
            }
        }
        let statistics = Statistics { documents: turns.len() as u64, mean_length: 6.0, counts };
        rank(&question, &statistics, turns)[0].turn
    }

    #[test]
    fn the_answer_is_found_beside_the_question() {
        let mut turns = [
            turn("What instrument do you play these days?", "Tom", 0, 0),
            turn("The clarinet, every evening.", "Ada", 0, 0),
            turn("I fixed the roof with my neighbour.", "Ada", 1, 1),
        ];
        turns[1].before[0] = Some(0);
        turns[0].after[0] = Some(1);
        assert_eq!(best("Which instrument does Ada play?", &turns), 1);
    }

    #[test]
    fn who_speaks_and_when_count() {
        let turns = [
            turn("I went to the museum and saw a statue.", "Tom", 0, 0),
            turn("I went to the museum and saw a statue.", "Ada", 0, 0),
            turn("I went to the museum and saw a statue.", "Tom", 60, 1),
        ];
        assert_eq!(best("What did Ada see in the museum?", &turns), 1);
        assert_eq!(best("What was in the museum on May 17, 2023?", &turns[..1]), 0);
    }

    #[test]
    fn irregular_forms_are_kindred() {
        let turns = [
            turn("We bought a red bicycle.", "Ada", 0, 0),
            turn("The red sky was nice.", "Ada", 0, 0),
        ];
        assert_eq!(best("What did Ada buy?", &turns), 0);
    }
}
