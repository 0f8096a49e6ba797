//! Facts as sentences: what search indexes and people read.

/// Relations that are nouns: "Ada's sister is Anna".
const NOUNS: &[&str] = &[
    "address",
    "age",
    "aunt",
    "birthday",
    "boss",
    "boyfriend",
    "brother",
    "children",
    "city",
    "colleague",
    "company",
    "cousin",
    "daughter",
    "daughters",
    "doctor",
    "email",
    "father",
    "fiance",
    "friend",
    "girlfriend",
    "grandfather",
    "grandmother",
    "hometown",
    "husband",
    "manager",
    "mother",
    "name",
    "neighbour",
    "nickname",
    "partner",
    "phone",
    "role",
    "roommate",
    "sister",
    "son",
    "sons",
    "status",
    "teacher",
    "timezone",
    "title",
    "type",
    "uncle",
    "version",
    "wife",
];

/// A fact as a sentence.
pub fn sentence(subject: &str, predicate: &str, object: &str) -> String {
    let verb = match predicate {
        "has_pet" => "has the pet",
        "from" => "comes from",
        "dates" => "is dating",
        "married_to" => "is married to",
        "engaged_to" => "is engaged to",
        "allergic_to" => "is allergic to",
        "located_in" => "is located in",
        "capital_of" => "is the capital of",
        "diet" => "is",
        _ => "",
    };
    if !verb.is_empty() {
        return format!("{subject} {verb} {object}");
    }
    if NOUNS.contains(&predicate) || predicate.starts_with("favourite_") {
        return format!("{subject}'s {} is {object}", predicate.replace('_', " "));
    }
    format!("{subject} {} {object}", predicate.replace('_', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_read_as_sentences() {
        assert_eq!(sentence("Ada", "lives_in", "Porto"), "Ada lives in Porto");
        assert_eq!(sentence("Ada", "sister", "Anna"), "Ada's sister is Anna");
        assert_eq!(sentence("Ada", "favourite_colour", "green"), "Ada's favourite colour is green");
    }
}
