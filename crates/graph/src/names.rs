//! Names of entities: the form under which they are compared, and how alike two
//! of them are.

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Bytes of a normalised name; a longer one is cut.
pub const NAME_BYTES_MAX: usize = 256;
/// Names that share at least this much of their trigrams (Dice's coefficient) are
/// taken for one.
const ALIKE_MIN: f64 = 0.86;
/// Shorter names are alike only when they are the same.
const ALIKE_LETTERS_MIN: usize = 8;

/// The form under which a name is looked up: lower case, without accents, marks of
/// punctuation at its ends, and doubled white space. Empty when nothing is left.
pub fn normalised(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut gap = false;
    let letters = name.nfkd().filter(|letter| !is_combining_mark(*letter));
    for letter in letters.flat_map(char::to_lowercase) {
        if letter.is_whitespace() || letter.is_control() {
            gap = !text.is_empty();
            continue;
        }
        if gap {
            text.push(' ');
            gap = false;
        }
        text.push(if letter == '\u{2019}' { '\'' } else { letter });
    }
    let kept = text.trim_matches(|c: char| c.is_ascii_punctuation() && !"@#/+~.".contains(c));
    let kept = kept.trim_end_matches(['.', ' ']).trim_start();
    let kept = kept.strip_prefix("the ").filter(|rest| !rest.is_empty()).unwrap_or(kept);
    kept[..kept.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}

/// Whether two normalised names are so much alike that they are one name spelt in
/// two ways. Digits make the difference between versions, so they must be the same.
pub fn alike(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    if one.len().min(other.len()) < ALIKE_LETTERS_MIN || digits(one).ne(digits(other)) {
        return false;
    }
    if one.split(' ').count() != other.split(' ').count() {
        return false;
    }
    // Two words' first letters tell people apart: "Tom Becker", "Tim Becker".
    let initials =
        |name: &str| name.split(' ').filter_map(|word| word.chars().next()).collect::<String>();
    if initials(one) != initials(other) {
        return false;
    }
    // Of a name of several words all but one must be the same: otherwise a first
    // name is another person's.
    let differing = one.split(' ').zip(other.split(' ')).filter(|(a, b)| a != b);
    let short = differing.clone().any(|(a, b)| a.len().min(b.len()) < 5);
    if short || differing.count() > 1 {
        return false;
    }
    dice(one, other) >= ALIKE_MIN
}

/// The trigrams of a name, sorted; its ends count as letters.
pub(crate) fn trigrams(name: &str) -> Vec<[char; 3]> {
    let letters: Vec<char> = ['^'].into_iter().chain(name.chars()).chain(['$']).collect();
    let mut found: Vec<[char; 3]> =
        letters.windows(3).map(|window| [window[0], window[1], window[2]]).collect();
    found.sort_unstable();
    found
}

fn dice(one: &str, other: &str) -> f64 {
    let (one, other) = (trigrams(one), trigrams(other));
    let (mut a, mut b, mut shared) = (0, 0, 0_u32);
    while a < one.len() && b < other.len() {
        match one[a].cmp(&other[b]) {
            std::cmp::Ordering::Less => a += 1,
            std::cmp::Ordering::Greater => b += 1,
            std::cmp::Ordering::Equal => (a, b, shared) = (a + 1, b + 1, shared + 1),
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "names have at most a few hundred letters")]
    let all = (one.len() + other.len()) as f64;
    2.0 * f64::from(shared) / all
}

fn digits(name: &str) -> impl Iterator<Item = char> + '_ {
    name.chars().filter(char::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_one_form() {
        let check = |name: &str, expected: &str| assert_eq!(normalised(name), expected, "{name}");
        check("  Ada   Lovelace ", "ada lovelace");
        check("Café Müller.", "cafe muller");
        check("The Hague", "hague");
        check("\u{201c}Dune\u{201d}", "\u{201c}dune\u{201d}");
        check("@ada", "@ada");
        check("!!!", "");
    }

    #[test]
    fn only_spellings_of_one_name_are_alike() {
        let check = |one: &str, other: &str, expected: bool| {
            assert_eq!(alike(one, other), expected, "{one} / {other}");
            assert_eq!(alike(other, one), expected, "{other} / {one}");
        };
        check("northwind traders", "northwind trader", true);
        check("constantinople", "constantinoples", true);
        check("jon", "john", false);
        check("joanna", "johanna", false);
        check("tom becker", "tim becker", false);
        check("release 1.24", "release 1.25", false);
        check("anna smith", "anna smythe", false);
        check("springfield high", "springfield", false);
    }
}
