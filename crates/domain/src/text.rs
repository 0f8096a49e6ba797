//! The terms of a text: what search indexes and compares. Pure, so that every
//! engine and every model counts the same words.

use std::sync::LazyLock;

use rust_stemmers::{Algorithm, Stemmer};
use unicode_segmentation::UnicodeSegmentation as _;

/// English words that carry no content, and words that only address a memory
/// ("tell", "remember").
const STOP_WORDS: &[&str] = &[
    "a", "about", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be",
    "been", "but", "by", "can", "could", "did", "do", "does", "for", "from", "give", "had", "has",
    "have", "he", "her", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its",
    "just", "know", "many", "me", "mine", "much", "my", "of", "on", "or", "our", "ours", "please",
    "remember", "remind", "said", "say", "she", "should", "show", "so", "some", "tell", "than",
    "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to",
    "told", "us", "was", "we", "were", "what", "when", "where", "which", "who", "whom", "whose",
    "why", "will", "with", "would", "you", "your", "yours",
];

/// The bytes of a term; a longer one is cut. Indexes have a limit here.
const TERM_BYTES_MAX: usize = 64;

static STEMMER: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));

/// The terms of a text, in order: words (Unicode, UAX 29) in lower case without
/// possessives, cut at what is neither letter nor digit, without English stop
/// words, stemmed for English (Snowball).
pub fn terms(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    for word in text.unicode_words() {
        let word = word.to_lowercase();
        let word =
            word.strip_suffix("'s").or_else(|| word.strip_suffix("\u{2019}s")).unwrap_or(&word);
        for part in word.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()) {
            if STOP_WORDS.binary_search(&part).is_err() {
                let mut term = STEMMER.stem(part).into_owned();
                term.truncate(term.floor_char_boundary(TERM_BYTES_MAX));
                terms.push(term);
            }
        }
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_terms() {
        let check = |text: &str, expected: &[&str]| assert_eq!(terms(text), expected, "{text}");
        check("What is my dog's name?", &["dog", "name"]);
        check("The cats were RUNNING, quickly!", &["cat", "run", "quick"]);
        check(
            "M\u{fc}ller\u{2019}s caf\u{e9}, v2.10 user_id=7",
            &["m\u{fc}ller", "caf\u{e9}", "v2", "10", "user", "id", "7"],
        );
        check("Where did I park my parents\u{2019}s cars, again?", &["park", "parent", "car"]);
        check("\u{a7}00 ' \" & | ( )", &["00"]);
        check("What is it?", &[]);
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
    }
}
