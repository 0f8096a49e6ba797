//! How much of a question's terms a text holds.

use std::collections::HashSet;

use agentry_domain::text;

/// Different terms of one question that are looked for.
const TERMS_MAX: usize = 256;

/// The stems of a text's words.
#[derive(Debug)]
pub(super) struct Stems(HashSet<String>);

impl Stems {
    pub(super) fn of(text: &str) -> Self {
        Self(text::terms(text).into_iter().collect())
    }
}

/// The different stems that a question asks for.
#[derive(Debug)]
pub(super) struct Terms(Vec<String>);

impl Terms {
    pub(super) fn of(text: &str) -> Self {
        let mut terms = text::terms(text);
        terms.sort_unstable();
        terms.dedup();
        terms.truncate(TERMS_MAX);
        Self(terms)
    }

    /// How many of the terms a text holds.
    pub(super) fn found_in(&self, stems: &Stems) -> usize {
        self.0.iter().filter(|term| stems.0.contains(*term)).count()
    }

    /// The terms with the weight that BM25 gives them in these texts: a term
    /// that few of them hold, or none, weighs most.
    pub(super) fn weighted_by(&self, texts: &[&Stems]) -> Weighted<'_> {
        let count = as_f64(texts.len());
        let weights = self.0.iter().map(|term| {
            let holding = as_f64(texts.iter().filter(|stems| stems.0.contains(term)).count());
            (term.as_str(), (1.0 + (count - holding + 0.5) / (holding + 0.5)).ln())
        });
        Weighted(weights.collect())
    }
}

/// Terms and their weights.
#[derive(Debug)]
pub(super) struct Weighted<'a>(Vec<(&'a str, f64)>);

impl Weighted<'_> {
    /// 0 to 1: the share of the terms' weight that a text holds.
    pub(super) fn coverage(&self, stems: &Stems) -> f64 {
        let whole: f64 = self.0.iter().map(|(_, weight)| weight).sum();
        let held: f64 = self
            .0
            .iter()
            .filter(|(term, _)| stems.0.contains(*term))
            .map(|(_, weight)| weight)
            .sum();
        if whole > 0.0 { held / whole } else { 0.0 }
    }
}

fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_stems_of_the_words_that_matter() {
        assert_eq!(
            Terms::of("Where did I park my parents\u{2019}s cars, again?").0,
            ["car", "parent", "park"]
        );
        assert!(Terms::of("What is it?").0.is_empty());
    }

    #[test]
    fn rare_terms_weigh_more() {
        let texts = [Stems::of("dog name"), Stems::of("boat name"), Stems::of("cat food")];
        let texts: Vec<&Stems> = texts.iter().collect();
        let terms = Terms::of("the name of the dog");
        let weighted = terms.weighted_by(&texts);
        let coverages: Vec<f64> = texts.iter().map(|stems| weighted.coverage(stems)).collect();
        assert!((coverages[0] - 1.0).abs() < 1e-9);
        assert!(coverages[1] > 0.0 && coverages[1] < 0.5);
        assert!(coverages[2].abs() < 1e-9);
    }
}
