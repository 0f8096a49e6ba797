//! Names by their capitals: runs of capitalised words, with guards for the
//! beginnings of sentences and for shouting, and titles in quotation marks.

use std::ops::Range;

use super::common::{is_adjective, is_common, is_loud};
use super::dates::is_calendar;
use super::words::{Case, Gap, Word};

/// Words of one name.
const NAME_WORDS_MAX: usize = 7;
/// Of the words of a sentence, the share in capitals from which it is shouted.
const SHOUTED_SHARE: f64 = 0.5;
/// A sentence with fewer words is never taken for shouted.
const SHOUTED_WORDS_MIN: usize = 3;
/// Words of a title in quotation marks.
const TITLE_WORDS_MAX: usize = 9;

/// What may stand inside a name in lower case.
const CONNECTORS: &[&str] =
    &["of", "de", "la", "van", "von", "der", "den", "di", "da", "del", "du", "bin", "al", "the"];
/// What stands before a person's name.
const HONORIFICS: &[&str] = &[
    "mr",
    "mrs",
    "ms",
    "dr",
    "prof",
    "professor",
    "doctor",
    "sir",
    "lady",
    "aunt",
    "uncle",
    "captain",
    "president",
];
/// What follows a name that begins a sentence.
const AFTER_A_NAME: &[&str] = &[
    "is",
    "was",
    "has",
    "had",
    "will",
    "would",
    "can",
    "could",
    "should",
    "did",
    "does",
    "said",
    "says",
    "told",
    "asked",
    "went",
    "goes",
    "came",
    "comes",
    "got",
    "gets",
    "took",
    "made",
    "moved",
    "lives",
    "lived",
    "works",
    "worked",
    "likes",
    "loves",
    "loved",
    "hates",
    "prefers",
    "wants",
    "wanted",
    "needs",
    "thinks",
    "thought",
    "knows",
    "knew",
    "left",
    "joined",
    "quit",
    "started",
    "plays",
    "played",
    "called",
    "met",
    "bought",
    "sold",
    "gave",
    "sent",
    "wrote",
    "writes",
    "married",
    "adopted",
    "owns",
    "runs",
    "ran",
    "leads",
    "led",
    "manages",
    "founded",
    "uses",
    "used",
    "acquired",
    "announced",
    "released",
    "visited",
    "found",
    "just",
    "also",
    "never",
    "always",
    "recently",
    "and",
    "speaks",
    "studies",
    "studied",
    "graduated",
    "drives",
    "reports",
    "depends",
    "became",
    "turned",
    "enjoys",
    "teaches",
    "taught",
    "helped",
    "helps",
    "won",
    "lost",
    "broke",
    "fixed",
    "isn't",
    "wasn't",
    "doesn't",
    "didn't",
    "hasn't",
];

/// Common words that names begin with: "New York", "The Great Gatsby". Function words
/// begin none.
fn is_part_of_names(lower: &str) -> bool {
    const PARTS: &[&str] = &[
        "art",
        "beautiful",
        "best",
        "big",
        "black",
        "blue",
        "christmas",
        "family",
        "first",
        "good",
        "grand",
        "great",
        "home",
        "last",
        "little",
        "long",
        "new",
        "old",
        "open",
        "own",
        "red",
        "right",
        "school",
        "super",
        "sweet",
        "three",
        "time",
        "two",
        "west",
        "white",
        "wonderful",
        "young",
    ];
    PARTS.contains(&lower)
}

/// A name as a run of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Which words.
    pub(crate) words: Range<usize>,
    /// Whether an honorific says that it is a person.
    pub(crate) person: bool,
}

/// The names in a text. `known` says whether a normalised name is known already.
pub(crate) fn runs(words: &[Word<'_>], known: impl Fn(&str) -> bool) -> Vec<Run> {
    let shouted = shouted(words);
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if !begins(&words[at]) || shouted[words[at].sentence.min(shouted.len() - 1)] {
            at += 1;
            continue;
        }
        let end = run_end(words, at);
        if let Some(run) = guarded(words, at..end, &known) {
            found.push(run);
        }
        at = end.max(at + 1);
    }
    found
}

/// For each sentence, whether it is shouted.
fn shouted(words: &[Word<'_>]) -> Vec<bool> {
    let sentences = words.last().map_or(1, |word| word.sentence + 1);
    let mut counts = vec![(0_u32, 0_u32); sentences];
    for word in words.iter().filter(|word| word.shape.is_none()) {
        let (all, upper) = &mut counts[word.sentence];
        *all += 1;
        *upper += u32::from(word.case == Case::Upper);
    }
    let is_shouted = |(all, upper): &(u32, u32)| {
        *all as usize >= SHOUTED_WORDS_MIN && f64::from(*upper) > f64::from(*all) * SHOUTED_SHARE
    };
    counts.iter().map(is_shouted).collect()
}

fn begins(word: &Word<'_>) -> bool {
    let mixed_name = word.shape.is_none()
        && word.case == Case::Mixed
        && word.text.chars().any(char::is_uppercase);
    (word.is_capital() || mixed_name)
        && word.lower != "i"
        && !word.lower.starts_with("i'")
        && !(word.case == Case::Upper && is_loud(&word.lower))
}

/// The end of a run that begins here.
fn run_end(words: &[Word<'_>], from: usize) -> usize {
    let mut end = from + 1;
    while end < words.len() && end - from < NAME_WORDS_MAX {
        let before = &words[end - 1];
        let word = &words[end];
        if word.gap != Gap::Space || before.possessive {
            break;
        }
        if begins(word) && !is_calendar(word) {
            end += 1;
            continue;
        }
        // "Bank of America", "Apollo 11", "University of the Arts"
        let number = word.case == Case::Lower
            && word.text.len() <= 4
            && word.text.bytes().all(|byte| byte.is_ascii_digit());
        if number && !is_common(&before.lower) {
            end += 1;
            break;
        }
        if !CONNECTORS.contains(&word.lower.as_str()) {
            break;
        }
        let skip = usize::from(words.get(end + 1).is_some_and(|next| next.lower == "the"));
        let Some(next) = words.get(end + 1 + skip) else { break };
        if !begins(next) || next.gap != Gap::Space || is_calendar(next) {
            break;
        }
        end += 2 + skip;
    }
    end
}

fn guarded(words: &[Word<'_>], run: Range<usize>, known: &impl Fn(&str) -> bool) -> Option<Run> {
    let mut run = run;
    let mut person = false;
    // What begins a sentence has its capital from there.
    while run.start < run.end {
        let first = &words[run.start];
        let honorific = HONORIFICS.contains(&first.lower.trim_end_matches('.'));
        if honorific && run.len() > 1 {
            person = true;
            run.start += 1;
        } else if (is_common(&first.lower)
            && (first.gap == Gap::Sentence || run.len() == 1 || first.case != Case::Upper))
            || is_calendar(first)
        {
            // A common word within a sentence may be the beginning of a title: "The Great
            // Gatsby"; there it stays when a name follows and it is no function word.
            if first.gap != Gap::Sentence && run.len() > 1 && is_part_of_names(&first.lower) {
                break;
            }
            run.start += 1;
            while run.start < run.end && !begins(&words[run.start]) {
                run.start += 1;
            }
        } else {
            break;
        }
    }
    let first = words.get(run.start).filter(|_| run.start < run.end)?;
    if run.len() == 1 {
        if is_calendar(first) || is_adjective(&first.lower) || first.text.chars().count() < 2 {
            return None;
        }
        let alone = first.gap == Gap::Sentence && first.case == Case::Capital && !person;
        if alone && !stands_alone(words, run.start, known) {
            return None;
        }
    }
    Some(Run { words: run, person })
}

/// Whether a capitalised word that begins a sentence is a name all the same.
fn stands_alone(words: &[Word<'_>], at: usize, known: &impl Fn(&str) -> bool) -> bool {
    let word = &words[at];
    if known(&word.lower) {
        return true;
    }
    let again = words.iter().enumerate().any(|(other, it)| {
        other != at && it.gap != Gap::Sentence && it.is_capital() && it.lower == word.lower
    });
    if again {
        return true;
    }
    let derived = ["ing", "ly", "ness", "ment", "tion", "ings"];
    if derived.iter().any(|ending| word.lower.ends_with(ending)) {
        return false;
    }
    if word.possessive {
        return true;
    }
    let Some(next) = words.get(at + 1) else { return false };
    match next.gap {
        Gap::Sentence => false,
        // "Anna, could you": somebody is spoken to.
        Gap::Break => false,
        Gap::Space => {
            let verb = AFTER_A_NAME.contains(&next.lower.as_str());
            // Plurals are seldom names: "Dogs are", "Kids and".
            verb && !(word.lower.ends_with('s') && next.lower == "and")
        }
    }
}

/// Titles in quotation marks: where the text between them stands, in bytes.
pub(crate) fn titles(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut open: Option<(usize, char)> = None;
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        match (letter, open) {
            ('\u{201c}' | '«', _) => open = Some((at + letter.len_utf8(), letter)),
            ('\u{201d}', Some((from, '\u{201c}')))
            | ('»', Some((from, '«')))
            | ('"', Some((from, '"'))) => {
                if is_title(&text[from..at]) {
                    found.push(trimmed(text, from..at));
                }
                open = None;
            }
            ('"', None) if !before.is_alphanumeric() => open = Some((at + 1, '"')),
            ('\n', _) => open = None,
            _ => {}
        }
        before = letter;
    }
    found
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let inner = &text[range.clone()];
    let kept = inner.trim_end_matches([',', '.', ';', ':', ' ']);
    let lead = kept.len() - kept.trim_start().len();
    range.start + lead..range.start + kept.len()
}

fn is_title(inner: &str) -> bool {
    let words: Vec<&str> = inner.split_whitespace().collect();
    let Some(first) = words.first() else { return false };
    if words.len() > TITLE_WORDS_MAX || inner.contains(['?', '\n']) && words.len() > 4 {
        return false;
    }
    let capital = |word: &&&str| word.starts_with(|c: char| c.is_uppercase() || c.is_numeric());
    let capitals = words.iter().filter(capital).count();
    let long = words.iter().filter(|word| word.len() > 3).count().max(1);
    // A sentence that somebody said has one capital among its words.
    capital(&first)
        && (words.len() == 1 || capitals * 2 > long && capitals > 1)
        && !(words.len() == 1 && is_common(&first.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let words = words(text);
        runs(&words, |_| false)
            .into_iter()
            .map(|run| {
                text[words[run.words.start].start..words[run.words.end - 1].end()].to_owned()
            })
            .collect()
    }

    #[test]
    fn capitals_are_names_but_for_sentences_and_shouting() {
        let check = |text: &str, expected: &[&str]| assert_eq!(names(text), expected, "{text}");
        check("Yesterday I met Anna Smith in New York.", &["Anna Smith", "New York"]);
        check("Anna went to the Bank of America.", &["Anna", "Bank of America"]);
        check("Dinner was great. Dancing is fun.", &[]);
        check("Hey Tom! Thanks, Maria.", &["Tom", "Maria"]);
        check("THIS IS SO COOL and I LOVE IT SO MUCH", &[]);
        check("I work for NASA and IBM, OK?", &["NASA", "IBM"]);
        check("On Monday in May we learn Spanish.", &[]);
        check("We asked Dr. Ada Lovelace about Apollo 11.", &["Ada Lovelace", "Apollo 11"]);
        check("My iPhone broke. Anna's cat sleeps.", &["iPhone", "Anna"]);
        check("Cats sleep a lot.", &[]);
    }

    #[test]
    fn titles_stand_in_quotation_marks() {
        let found =
            |text: &str| titles(text).into_iter().map(|at| text[at].to_owned()).collect::<Vec<_>>();
        assert_eq!(
            found("I read \u{201c}The Left Hand of Darkness\u{201d} and \"Dune.\""),
            ["The Left Hand of Darkness", "Dune"]
        );
        assert!(found("He said \"I will come tomorrow\" and a 5\" pipe").is_empty());
    }
}
