//! A text cut into words, with what the rules need to know of each: its case,
//! its sentence, and what stands between it and the word before.

use super::shapes::{self, Shape};

/// How a word is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// `house`, or a number.
    Lower,
    /// `House`.
    Capital,
    /// `USA`.
    Upper,
    /// `iPhone`, `v2`.
    Mixed,
}

/// What stands before a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Nothing but white space, or a hyphen.
    Space,
    /// A comma, a bracket, a quotation mark, a dash.
    Break,
    /// The end of a sentence, or the beginning of the text.
    Sentence,
}

/// A word.
#[derive(Clone, Debug)]
pub(crate) struct Word<'a> {
    /// As it is written, without a possessive.
    pub(crate) text: &'a str,
    /// In lower case.
    pub(crate) lower: String,
    /// Where it begins, in bytes.
    pub(crate) start: usize,
    /// How it is written.
    pub(crate) case: Case,
    /// What stands before it.
    pub(crate) gap: Gap,
    /// Which sentence it is in.
    pub(crate) sentence: usize,
    /// Whether it had a possessive.
    pub(crate) possessive: bool,
    /// What it is when it is no word: an address, a path.
    pub(crate) shape: Option<Shape>,
}

impl Word<'_> {
    pub(crate) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    pub(crate) fn is_capital(&self) -> bool {
        self.shape.is_none() && self.case != Case::Lower && self.begins_with_letter()
    }

    fn begins_with_letter(&self) -> bool {
        self.text.starts_with(char::is_alphabetic)
    }
}

/// Words of a text that are looked at; the rest of a longer one is not.
pub(crate) const WORDS_MAX: usize = 4_000;

/// Abbreviations whose full stop ends no sentence.
const ABBREVIATIONS: &[&str] = &[
    "approx", "apr", "aug", "co", "dec", "dr", "e.g", "etc", "feb", "i.e", "inc", "jan", "jr",
    "ltd", "mr", "mrs", "ms", "no", "nov", "oct", "prof", "sept", "sr", "st", "vs",
];

/// Cuts a text.
pub(crate) fn words(text: &str) -> Vec<Word<'_>> {
    let mut found = Vec::with_capacity(text.len() / 6 + 1);
    let mut gap = Gap::Sentence;
    let mut sentence = 0;
    let mut at = 0;
    for chunk in text.split_inclusive(char::is_whitespace) {
        let begin = at;
        at += chunk.len();
        let bare = chunk.trim_end();
        if bare.is_empty() {
            if chunk.contains('\n') {
                gap = Gap::Sentence;
            }
            continue;
        }
        if found.len() >= WORDS_MAX {
            break;
        }
        let inner = bare.trim_start_matches(is_opening);
        let start = begin + bare.len() - inner.len();
        if start > begin {
            gap = widest(gap, Gap::Break);
        }
        let core = inner.trim_end_matches(is_closing);
        let after = &inner[core.len()..];
        if !core.is_empty() {
            if gap == Gap::Sentence && !found.is_empty() {
                sentence += 1;
            }
            if let Some((shape, text)) = shapes::shape(core) {
                let start = start + (text.as_ptr() as usize - core.as_ptr() as usize);
                found.push(Word {
                    text,
                    lower: text.to_lowercase(),
                    start,
                    case: Case::Mixed,
                    gap,
                    sentence,
                    possessive: false,
                    shape: Some(shape),
                });
            } else {
                cut(core, start, gap, sentence, &mut found);
            }
            gap = Gap::Space;
        }
        let abbreviation = is_abbreviation(core, after);
        let ends = after.contains(['.', '!', '?', '…']) && !abbreviation;
        if ends || chunk.contains('\n') {
            gap = Gap::Sentence;
        } else if !(after.is_empty() || (abbreviation && after == ".")) {
            gap = widest(gap, Gap::Break);
        }
    }
    found
}

/// A run of letters, with what is between its parts, into words.
fn cut<'a>(core: &'a str, start: usize, gap: Gap, sentence: usize, found: &mut Vec<Word<'a>>) {
    let mut gap = gap;
    let mut at = 0;
    let mut bytes = core.char_indices().peekable();
    let mut begin = None;
    let push = |from: usize, to: usize, gap: Gap, found: &mut Vec<Word<'a>>| {
        let text = &core[from..to];
        let (text, possessive) = without_possessive(text);
        let text = text.trim_end_matches(['\'', '\u{2019}']);
        if text.is_empty() {
            return;
        }
        found.push(Word {
            text,
            lower: text.to_lowercase().replace('\u{2019}', "'"),
            start: start + from,
            case: case_of(text),
            gap,
            sentence,
            possessive,
            shape: None,
        });
    };
    while let Some((here, letter)) = bytes.next() {
        let next_is_letter = bytes.peek().is_some_and(|(_, next)| next.is_alphanumeric());
        let inside = letter.is_alphanumeric()
            || (begin.is_some()
                && next_is_letter
                && matches!(letter, '\'' | '\u{2019}' | '-' | '&' | '.' | '+'))
            || (begin.is_some() && matches!(letter, '+' | '#'));
        match (inside, begin) {
            (true, None) => begin = Some(here),
            (false, Some(from)) => {
                push(from, here, gap, found);
                gap = Gap::Break;
                begin = None;
            }
            _ => {}
        }
        at = here + letter.len_utf8();
    }
    if let Some(from) = begin {
        push(from, at, gap, found);
    }
}

fn without_possessive(text: &str) -> (&str, bool) {
    for ending in ["'s", "\u{2019}s", "'S"] {
        if let Some(bare) = text.strip_suffix(ending) {
            // It's, he's, that's: a verb, not a possessive.
            let lower = bare.to_ascii_lowercase();
            let verb = matches!(
                lower.as_str(),
                "it" | "he"
                    | "she"
                    | "that"
                    | "there"
                    | "here"
                    | "what"
                    | "who"
                    | "where"
                    | "how"
                    | "let"
                    | "when"
            );
            return if verb { (text, false) } else { (bare, true) };
        }
    }
    (text, false)
}

fn case_of(text: &str) -> Case {
    let letters = || text.chars().filter(|letter| letter.is_alphabetic());
    let Some(first) = letters().next() else { return Case::Lower };
    if text.starts_with(|c: char| c.is_numeric()) {
        return Case::Lower;
    }
    let uppers = letters().filter(|letter| letter.is_uppercase()).count();
    let all = letters().count();
    match (first.is_uppercase(), uppers, all) {
        (_, 0, _) => Case::Lower,
        (true, uppers, all) if uppers == all && all > 1 => Case::Upper,
        (true, 1, _) => Case::Capital,
        // O'Neill, Jean-Luc, McDonald
        (true, ..) => Case::Capital,
        (false, ..) => Case::Mixed,
    }
}

fn widest(one: Gap, other: Gap) -> Gap {
    if one == Gap::Space { other } else { one }
}

fn is_opening(letter: char) -> bool {
    matches!(
        letter,
        '(' | '['
            | '{'
            | '"'
            | '\''
            | '\u{201c}'
            | '\u{2018}'
            | '<'
            | '*'
            | '«'
            | '-'
            | '—'
            | '–'
            | '>'
            | '`'
    )
}

fn is_closing(letter: char) -> bool {
    matches!(
        letter,
        ')' | ']'
            | '}'
            | '"'
            | '\''
            | '\u{201d}'
            | '\u{2019}'
            | '>'
            | '*'
            | '»'
            | '.'
            | ','
            | ';'
            | ':'
            | '!'
            | '?'
            | '…'
            | '-'
            | '—'
            | '–'
            | '`'
    )
}

fn is_abbreviation(core: &str, after: &str) -> bool {
    if !after.starts_with('.') || after.contains(['!', '?']) {
        return false;
    }
    let lower = core.to_ascii_lowercase();
    // An initial, as in "J. Smith".
    let initial = core.len() == 1 && core.starts_with(char::is_uppercase) && core != "I";
    initial || ABBREVIATIONS.binary_search(&lower.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_their_case_and_their_sentence() {
        let found = words("Dr. Ada's dog met (Tom) in NYC. It ran, I think!\nBye");
        let shown: Vec<(&str, usize)> =
            found.iter().map(|word| (word.text, word.sentence)).collect();
        assert_eq!(
            shown,
            [
                ("Dr", 0),
                ("Ada", 0),
                ("dog", 0),
                ("met", 0),
                ("Tom", 0),
                ("in", 0),
                ("NYC", 0),
                ("It", 1),
                ("ran", 1),
                ("I", 1),
                ("think", 1),
                ("Bye", 2),
            ]
        );
        assert!(found[1].possessive && found[6].case == Case::Upper);
        assert_eq!((found[4].gap, found[5].gap), (Gap::Break, Gap::Break));
    }

    #[test]
    fn abbreviations_are_sorted() {
        assert!(ABBREVIATIONS.is_sorted());
    }
}
