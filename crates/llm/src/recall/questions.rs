//! Which sentences ask and which say something. Biased towards English, as the
//! builtin model is.

use unicode_segmentation::UnicodeSegmentation as _;

/// What a question begins with.
const INTERROGATIVES: &[&str] = &[
    "who", "whom", "whose", "what", "when", "where", "which", "why", "how", "who's", "what's",
    "when's", "where's", "how's", "whats", "wheres",
];
/// What begins a question when one of [`ASKED_ABOUT`] follows; alone it may be
/// a name ("Will works here.") or an order ("Have a nice day.").
const QUESTION_VERBS: &[&str] = &[
    "am", "are", "can", "could", "did", "do", "does", "had", "has", "have", "is", "may", "shall",
    "should", "was", "were", "will", "would",
];
const ASKED_ABOUT: &[&str] = &[
    "he", "her", "his", "i", "it", "its", "my", "our", "she", "that", "the", "their", "there",
    "these", "they", "this", "those", "we", "you", "your",
];
/// What a request to be told something begins with.
const REQUESTS: &[(&str, &str)] = &[
    ("tell", "me"),
    ("remind", "me"),
    ("show", "me"),
    ("give", "me"),
    ("list", "my"),
    ("list", "all"),
    ("please", "tell"),
    ("please", "remind"),
    ("please", "show"),
    ("please", "give"),
    ("please", "list"),
];
const QUESTION_MARKS: &[char] = &['?', '\u{ff1f}', '\u{61f}'];
const STATEMENT_ENDS: &[char] = &['.', '!', '\u{3002}'];

/// Whether any sentence of a text asks.
pub(super) fn asks(text: &str) -> bool {
    text.unicode_sentences().any(is_question)
}

/// The sentences of a text that say something, and nothing else of it; the
/// trimmed text itself when no sentence asks.
pub(super) fn without_questions(text: &str) -> String {
    let said: String = text.split_sentence_bounds().filter(|part| !is_question(part)).collect();
    said.trim().to_owned()
}

/// Whether two texts hold the same words in the same order.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.unicode_words().map(str::to_lowercase).eq(other.unicode_words().map(str::to_lowercase))
}

fn is_question(sentence: &str) -> bool {
    let sentence = sentence.trim_end_matches(|c: char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '\u{201d}' | '\u{2019}')
    });
    if sentence.ends_with(QUESTION_MARKS) {
        return true;
    }
    let mut words = sentence.unicode_words().map(str::to_lowercase);
    let (Some(first), second) = (words.next(), words.next()) else { return false };
    let second = second.unwrap_or_default();
    let (first, second) = (first.as_str(), second.as_str());
    if REQUESTS.contains(&(first, second))
        || (QUESTION_VERBS.contains(&first) && ASKED_ABOUT.contains(&second))
    {
        return true;
    }
    // "When I was ten, we lived in Rome." begins like a question and is none.
    INTERROGATIVES.contains(&first) && !sentence.ends_with(STATEMENT_ENDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_statements_are_told_apart() {
        for question in [
            "Where is it?",
            "where is it",
            "It is where?",
            "Hello. Where is it?",
            "Tell me where it is.",
            "is my dog called Rex",
            "Do you know where it is.",
            "What's the plan",
            "(Really?)",
            "どこですか？",
        ] {
            assert!(asks(question), "{question}");
        }
        for statement in [
            "It is here.",
            "When I was ten, we lived in Rome.",
            "Whatever you say",
            "",
            "Will works here.",
            "Have a nice day",
            "Please remember that it is here.",
        ] {
            assert!(!asks(statement), "{statement}");
        }
    }

    #[test]
    fn statements_are_kept() {
        for (text, said) in [
            (" It is here. ", "It is here."),
            ("Hello. Where is it? It is here.", "Hello. It is here."),
            ("Where is it?", ""),
        ] {
            assert_eq!(without_questions(text), said);
        }
    }

    #[test]
    fn the_same_words_are_the_same_text() {
        assert!(same("What is it?", "what  is it"));
        assert!(!same("What is it?", "what is"));
    }
}
