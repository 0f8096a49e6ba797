//! The relations that are read from sentences, as a table: what says them, what
//! they are called, and what they are about. Few and precise rather than many.
//! English.

use super::Kind;

/// What a relation's object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// A name.
    Name(Kind),
    /// A name or, when there is none, a few words.
    NameOrWords(Kind),
    /// A few words.
    Words,
}

/// What a sentence says of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It holds from then on.
    Holds,
    /// It held, and holds no longer.
    Held,
    /// It ends, or ended, then.
    Ends,
}

/// A relation and the words that say it.
pub(crate) struct Relation {
    pub(crate) says: &'static [&'static str],
    pub(crate) predicate: &'static str,
    pub(crate) wants: Wants,
    pub(crate) effect: Effect,
}

const fn holds(says: &'static [&'static str], predicate: &'static str, wants: Wants) -> Relation {
    Relation { says, predicate, wants, effect: Effect::Holds }
}

const fn ends(says: &'static [&'static str], predicate: &'static str, wants: Wants) -> Relation {
    Relation { says, predicate, wants, effect: Effect::Ends }
}

const PLACE: Wants = Wants::Name(Kind::Place);
const ORGANISATION: Wants = Wants::Name(Kind::Organisation);
const PERSON: Wants = Wants::Name(Kind::Person);
const NAME: Wants = Wants::Name(Kind::Name);
const ANYTHING: Wants = Wants::NameOrWords(Kind::Name);

/// The table. What is longer comes before what it begins with.
pub(crate) const RELATIONS: &[Relation] = &[
    holds(
        &[
            "live in",
            "lives in",
            "lived in",
            "living in",
            "live at",
            "based in",
            "reside in",
            "resides in",
            "moved to",
            "moved back to",
            "moved over to",
            "relocated to",
            "settled in",
            "settled down in",
            "live near",
        ],
        "lives_in",
        PLACE,
    ),
    ends(&["moved out of", "moved away from", "moved from", "relocated from"], "lives_in", PLACE),
    holds(
        &[
            "work at",
            "works at",
            "working at",
            "worked at",
            "work for",
            "works for",
            "working for",
            "worked for",
            "joined",
            "started at",
            "started working at",
            "started working for",
            "started a job at",
            "started a new job at",
            "got a job at",
            "got a new job at",
            "got hired at",
            "got hired by",
            "was hired by",
            "am employed at",
            "is employed at",
            "employed by",
            "signed with",
            "interning at",
            "intern at",
        ],
        "works_at",
        ORGANISATION,
    ),
    ends(
        &[
            "quit",
            "quit my job at",
            "left my job at",
            "left his job at",
            "left her job at",
            "resigned from",
            "was laid off from",
            "got laid off from",
            "was fired from",
            "got fired from",
            "lost my job at",
            "stopped working at",
            "stopped working for",
            "retired from",
        ],
        "works_at",
        ORGANISATION,
    ),
    holds(
        &[
            "work as a",
            "work as an",
            "works as a",
            "works as an",
            "working as a",
            "working as an",
            "worked as a",
            "worked as an",
            "became a",
            "became an",
            "became the",
            "was promoted to",
            "got promoted to",
            "started as a",
        ],
        "works_as",
        Wants::Words,
    ),
    holds(
        &["married", "got married to", "am married to", "is married to", "was married to"],
        "married_to",
        PERSON,
    ),
    ends(&["divorced", "got divorced from"], "married_to", PERSON),
    holds(&["am engaged to", "is engaged to", "got engaged to"], "engaged_to", PERSON),
    holds(&["am dating", "is dating", "started dating"], "dates", PERSON),
    ends(&["broke up with", "stopped dating"], "dates", PERSON),
    holds(&["am allergic to", "is allergic to", "allergic to"], "allergic_to", Wants::Words),
    holds(&["prefer", "prefers"], "prefers", ANYTHING),
    holds(
        &["like", "likes", "love", "loves", "enjoy", "enjoys", "adore", "adores"],
        "likes",
        ANYTHING,
    ),
    holds(
        &["hate", "hates", "dislike", "dislikes", "do not like", "does not like", "can not stand"],
        "dislikes",
        ANYTHING,
    ),
    holds(&["graduated from"], "graduated_from", ORGANISATION),
    holds(
        &["study at", "studies at", "studying at", "studied at", "enrolled at", "enrolled in"],
        "studies_at",
        ORGANISATION,
    ),
    holds(&["majored in", "major in", "am studying", "is studying"], "studies", Wants::Words),
    holds(&["speak", "speaks", "am fluent in", "is fluent in"], "speaks", NAME),
    holds(&["play the", "plays the", "played the"], "plays", Wants::Words),
    holds(&["was born in", "were born in", "grew up in", "come from", "comes from"], "from", PLACE),
    holds(
        &[
            "visited",
            "traveled to",
            "travelled to",
            "flew to",
            "went on a trip to",
            "took a trip to",
            "got back from",
            "came back from",
        ],
        "visited",
        PLACE,
    ),
    holds(&["drive a", "drives a", "drive an", "drives an"], "drives", ANYTHING),
    holds(&["bought a", "bought an", "bought the", "purchased a", "purchased the"], "bought", NAME),
    holds(&["own a", "owns a", "own the", "owns the", "owns"], "owns", NAME),
    holds(&["founded", "co-founded", "cofounded"], "founded", ORGANISATION),
    holds(&["acquired"], "acquired", ORGANISATION),
    holds(
        &[
            "lead the",
            "leads the",
            "leads",
            "manage the",
            "manages",
            "manages the",
            "am leading",
            "is leading",
        ],
        "leads",
        NAME,
    ),
    holds(&["report to", "reports to"], "reports_to", PERSON),
    holds(
        &["is located in", "is based in", "is headquartered in", "are located in"],
        "located_in",
        PLACE,
    ),
    holds(&["is the capital of"], "capital_of", PLACE),
    holds(
        &[
            "use",
            "uses",
            "am using",
            "is using",
            "switched to",
            "migrated to",
            "upgraded to",
            "runs on",
            "run on",
            "moved over to using",
        ],
        "uses",
        NAME,
    ),
    ends(
        &[
            "stopped using",
            "switched from",
            "switched away from",
            "migrated from",
            "migrated away from",
        ],
        "uses",
        NAME,
    ),
    holds(&["depends on", "depend on"], "depends_on", NAME),
    holds(&["adopted", "just adopted"], "has_pet", NAME),
    holds(&["met", "met up with"], "met", PERSON),
    holds(
        &["read", "am reading", "is reading", "finished reading"],
        "read",
        Wants::Name(Kind::Title),
    ),
    holds(&["watched", "am watching"], "watched", Wants::Name(Kind::Title)),
];

/// Predicates of which one subject has one object at a time, sorted. What is read
/// from "my X is Y" is single-valued, too, unless it is a kind of person that one has
/// several of.
const SINGLE: &[&str] = &[
    "address",
    "age",
    "birthday",
    "boss",
    "boyfriend",
    "children",
    "city",
    "company",
    "dates",
    "diet",
    "drives",
    "email",
    "employer",
    "engaged_to",
    "father",
    "fiance",
    "from",
    "girlfriend",
    "hometown",
    "husband",
    "job",
    "lives_in",
    "located_in",
    "manager",
    "married_to",
    "mother",
    "name",
    "nickname",
    "partner",
    "phone",
    "phone_number",
    "reports_to",
    "role",
    "salary",
    "status",
    "timezone",
    "title",
    "version",
    "wife",
    "works_as",
    "works_at",
];

/// Whether one subject has one object of this predicate at a time.
pub fn is_single(predicate: &str) -> bool {
    predicate.starts_with("favourite_") || SINGLE.binary_search(&predicate).is_ok()
}

/// Nouns that say what a person or an animal is to somebody, with the kind.
pub(crate) fn relative(noun: &str) -> Option<(&'static str, Kind)> {
    let (name, kind) = match noun {
        "mother" | "mom" | "mum" | "mama" => ("mother", Kind::Person),
        "father" | "dad" | "papa" => ("father", Kind::Person),
        "sister" => ("sister", Kind::Person),
        "brother" => ("brother", Kind::Person),
        "wife" => ("wife", Kind::Person),
        "husband" => ("husband", Kind::Person),
        "partner" => ("partner", Kind::Person),
        "boyfriend" => ("boyfriend", Kind::Person),
        "girlfriend" => ("girlfriend", Kind::Person),
        "fiance" | "fiancée" | "fiancé" | "fiancee" => ("fiance", Kind::Person),
        "son" => ("son", Kind::Person),
        "daughter" => ("daughter", Kind::Person),
        "friend" | "buddy" => ("friend", Kind::Person),
        "cousin" => ("cousin", Kind::Person),
        "aunt" => ("aunt", Kind::Person),
        "uncle" => ("uncle", Kind::Person),
        "grandmother" | "grandma" => ("grandmother", Kind::Person),
        "grandfather" | "grandpa" => ("grandfather", Kind::Person),
        "neighbor" | "neighbour" => ("neighbour", Kind::Person),
        "boss" => ("boss", Kind::Person),
        "manager" => ("manager", Kind::Person),
        "colleague" | "coworker" | "co-worker" => ("colleague", Kind::Person),
        "roommate" | "flatmate" => ("roommate", Kind::Person),
        "teacher" => ("teacher", Kind::Person),
        "doctor" => ("doctor", Kind::Person),
        "dog" | "puppy" | "cat" | "kitten" | "pet" | "horse" | "parrot" | "hamster" | "rabbit" => {
            ("has_pet", Kind::Animal)
        }
        _ => return None,
    };
    Some((name, kind))
}

/// Things that are somebody's and of which one says what they are.
pub(crate) fn attribute(noun: &str) -> Option<&'static str> {
    Some(match noun {
        "name" => "name",
        "nickname" => "nickname",
        "email" | "e-mail" => "email",
        "phone" | "number" => "phone",
        "birthday" => "birthday",
        "address" => "address",
        "hometown" => "hometown",
        "job" | "occupation" | "profession" => "works_as",
        "title" => "title",
        "role" => "role",
        "age" => "age",
        "timezone" => "timezone",
        "company" | "employer" => "works_at",
        "password" | "pin" => return None,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_search() {
        for pair in SINGLE.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
    }

    #[test]
    fn there_are_about_thirty_relations() {
        let mut predicates: Vec<&str> =
            RELATIONS.iter().map(|relation| relation.predicate).collect();
        predicates.sort_unstable();
        predicates.dedup();
        assert!((25..=40).contains(&predicates.len()), "{}", predicates.len());
    }
}
