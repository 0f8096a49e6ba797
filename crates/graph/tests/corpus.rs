//! The rules against a small corpus that was written for them, beside the naive rule
//! that every run of capitalised words is a name. `--nocapture` prints precision and
//! recall, and what was missed.

#![expect(clippy::unwrap_used, reason = "a corpus that cannot be read fails here")]

use std::collections::BTreeSet;

use agentry_domain::Timestamp;
use agentry_graph::extract::{Effect, Object, Turn, extract, prefix};
use agentry_graph::gazetteer::Gazetteer;
use agentry_graph::names::normalised;

const CORPUS: &str = include_str!("corpus.txt");
const AT: Timestamp = Timestamp::from_micros(1_684_324_800_000_000);

#[derive(Default)]
struct Text {
    said: String,
    names: BTreeSet<String>,
    facts: BTreeSet<String>,
}

fn corpus() -> Vec<Text> {
    let mut texts: Vec<Text> = Vec::new();
    for line in CORPUS.lines() {
        let Some((mark, rest)) = line.split_once(' ') else { continue };
        match mark {
            ">" => texts.push(Text { said: rest.to_owned(), ..Text::default() }),
            "=" => drop(texts.last_mut().unwrap().names.insert(normalised(rest))),
            "+" | "~" => drop(texts.last_mut().unwrap().facts.insert(line.to_owned())),
            _ => {}
        }
    }
    texts
}

/// What was found, what of it was expected, and what was expected.
#[derive(Default)]
struct Tally {
    found: usize,
    right: usize,
    expected: usize,
}

impl Tally {
    fn add(&mut self, found: &BTreeSet<String>, expected: &BTreeSet<String>) {
        self.found += found.len();
        self.right += found.intersection(expected).count();
        self.expected += expected.len();
    }

    #[expect(clippy::cast_precision_loss, reason = "there are hundreds")]
    fn precision(&self) -> f64 {
        self.right as f64 / self.found.max(1) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "there are hundreds")]
    fn recall(&self) -> f64 {
        self.right as f64 / self.expected.max(1) as f64
    }

    fn said(&self, what: &str) -> String {
        format!("{what:<24} precision {:.3}  recall {:.3}", self.precision(), self.recall())
    }
}

/// Every run of words that begin with a capital.
fn naive(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut run: Vec<&str> = Vec::new();
    for word in text.split(|c: char| !c.is_alphanumeric() && c != '\'') {
        if word.starts_with(char::is_uppercase) {
            run.push(word);
        } else if !run.is_empty() {
            names.insert(normalised(&run.join(" ")));
            run.clear();
        }
    }
    names.insert(normalised(&run.join(" ")));
    names.remove("");
    names
}

#[test]
fn names_and_facts_are_found_far_better_than_by_capitals_alone() {
    let (mut names, mut capitals, mut facts) =
        (Tally::default(), Tally::default(), Tally::default());
    for text in corpus() {
        let turn = Turn { text: &text.said, speaker: None, at: AT };
        let found = extract(&turn, &Gazetteer::default());
        let called = |nth: usize| found.names[nth].normalised.clone();
        let named: BTreeSet<String> = found
            .names
            .iter()
            .filter(|name| !name.spans.is_empty())
            .map(|name| name.normalised.clone())
            .chain(found.facts.iter().filter_map(|fact| match fact.object {
                Object::Named(nth) => Some(called(nth)),
                Object::Literal(_) => None,
            }))
            .collect();
        let stated: BTreeSet<String> = found
            .facts
            .iter()
            .map(|fact| {
                let mark = if fact.effect == Effect::Holds { '+' } else { '~' };
                let object = match &fact.object {
                    Object::Named(nth) => called(*nth),
                    Object::Literal(text) => text.clone(),
                };
                format!("{mark} {} | {} | {object}", called(fact.subject), fact.predicate)
            })
            .collect();
        let facts_expected: BTreeSet<String> =
            text.facts.iter().map(|fact| fact.replace("| the ", "| ")).collect();
        for (what, found, expected) in
            [("name", &named, &text.names), ("fact", &stated, &facts_expected)]
        {
            for missed in expected.difference(found) {
                println!("missed {what}: {missed:?} in {:?}", text.said);
            }
            for wrong in found.difference(expected) {
                println!("wrong {what}: {wrong:?} in {:?}", text.said);
            }
        }
        names.add(&named, &text.names);
        capitals.add(&naive(prefix(&text.said).1), &text.names);
        facts.add(&stated, &facts_expected);
    }
    println!("{}", names.said("names"));
    println!("{}", capitals.said("names, capitals alone"));
    println!("{}", facts.said("facts"));
    assert!(names.precision() >= 0.93 && names.recall() >= 0.93, "names");
    assert!(facts.precision() >= 0.93 && facts.recall() >= 0.85, "facts");
    assert!(capitals.precision() < names.precision() && capitals.recall() < names.recall());
}
