//! Users: the people and programs that the callers' products serve, and the
//! names by which one is found.
//!
//! A user has an id of the server's, and may have one of the caller's, a mail
//! address and a phone number. Each of these is an *alias*: within an
//! organisation an alias leads to one user, whatever kind of name it is. Ids are
//! compared as they are, mail addresses without regard to case, phone numbers
//! without what only separates their digits.

use serde::{Deserialize, Serialize};

use crate::ids::UserId;
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::resources::{Entity, Resource};

/// Characters of a mail address at most (RFC 5321, section 4.5.3.1: 64 before
/// the at sign, 255 behind it).
pub const EMAIL_CHARS_MAX: usize = 320;
/// Characters of a phone number at most, separators among them.
pub const PHONE_NUMBER_CHARS_MAX: usize = 64;

/// A user.
pub type User = Entity<UserBody>;

/// What a user is. `user_data` and `metadata` belong to the client and are kept
/// as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserBody {
    /// The caller's own id, for good.
    pub user_id: Option<String>,
    /// A mail address.
    pub email: Option<String>,
    /// A phone number.
    pub phone_number: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// A JSON object.
    pub user_data: JsonText,
    /// A JSON object.
    pub metadata: JsonText,
}

impl Resource for UserBody {
    type Id = UserId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::User;

    fn also(&self, _id: UserId) {}
}

/// A text that leads to one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The text, in the form in which it is compared.
    pub text: String,
    /// The field that it comes from.
    pub field: &'static str,
}

impl UserBody {
    /// Everything that leads to this user, each text once, in the order in which
    /// two users must take them so that they do not wait for each other.
    pub fn aliases(&self, id: UserId) -> Vec<Alias> {
        let named = [
            Some(("id", id.to_string())),
            self.user_id.clone().map(|text| ("user_id", text)),
            self.email.as_deref().map(|text| ("email", email_alias(text))),
            self.phone_number.as_deref().map(|text| ("phone_number", phone_alias(text))),
        ];
        let mut aliases: Vec<Alias> =
            named.into_iter().flatten().map(|(field, text)| Alias { text, field }).collect();
        // The sort is stable, so that of two fields with one text the first stays.
        aliases.sort_by(|a, b| a.text.cmp(&b.text));
        aliases.dedup_by(|later, first| later.text == first.text);
        aliases
    }
}

/// What a client may mean by this text when it looks for a user, best first: an
/// id, a mail address, a phone number.
pub fn alias_candidates(text: &str) -> Vec<String> {
    let mut candidates = Vec::with_capacity(4);
    if let Ok(id) = text.parse::<UserId>() {
        candidates.push(id.to_string());
    }
    candidates.push(text.to_owned());
    if is_email(text) {
        candidates.push(email_alias(text));
    }
    if is_phone_number(text) {
        candidates.push(phone_alias(text));
    }
    let mut seen = Vec::with_capacity(candidates.len());
    candidates.retain(|candidate| {
        let fresh = !seen.contains(candidate);
        seen.push(candidate.clone());
        fresh
    });
    candidates
}

/// The form in which a mail address is compared: in lower case. What stands
/// before the at sign may tell cases apart (RFC 5321, section 2.4); nobody's does.
pub fn email_alias(email: &str) -> String {
    email.to_lowercase()
}

/// The form in which a phone number is compared: its digits, behind a plus sign
/// if it begins with one.
pub fn phone_alias(phone_number: &str) -> String {
    phone_number.chars().filter(|c| c.is_ascii_digit() || *c == '+').collect()
}

/// Whether a text has the form of a mail address: something on both sides of
/// one at sign, and no white space.
pub fn is_email(text: &str) -> bool {
    let sides = text.split_once('@');
    sides.is_some_and(|(local, host)| !local.is_empty() && !host.is_empty() && !host.contains('@'))
        && !text.contains(char::is_whitespace)
}

/// Whether a text has the form of a phone number: digits, at least one, with
/// spaces, brackets, dots, dashes and slashes between them, and a plus sign at
/// most in front.
pub fn is_phone_number(text: &str) -> bool {
    let rest = text.strip_prefix('+').unwrap_or(text);
    rest.chars().any(|c| c.is_ascii_digit())
        && rest.chars().all(|c| c.is_ascii_digit() || " ()./-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_addresses_and_phone_numbers_are_told_apart() {
        for (text, email, phone) in [
            ("ann@example.org", true, false),
            ("@example.org", false, false),
            ("ann@", false, false),
            ("a@b@c", false, false),
            ("a b@c", false, false),
            ("+49 (30) 12-34/5.6", false, true),
            ("5551234", false, true),
            ("+", false, false),
            ("1+2", false, false),
            ("call me", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_email(text), is_phone_number(text)), (email, phone), "{text}");
        }
        assert_eq!(phone_alias("+49 (30) 12-34/5.6"), "+4930123456");
        assert_eq!(email_alias("Ann@Example.ORG"), "ann@example.org");
    }

    #[test]
    fn a_text_is_an_id_before_it_is_anything_else() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(alias_candidates(text), expected, "{text}");
        };
        check("ann", &["ann"]);
        check("Ann@Example.org", &["Ann@Example.org", "ann@example.org"]);
        check("555-12", &["555-12", "55512"]);
        check("42", &["42"]);
        check(
            "01890A5D-AC96-774B-BCCE-B302099A8057",
            &["01890a5d-ac96-774b-bcce-b302099a8057", "01890A5D-AC96-774B-BCCE-B302099A8057"],
        );
    }

    #[test]
    fn each_text_leads_to_a_user_once() {
        let id: UserId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let user = UserBody {
            user_id: Some("ann@example.org".to_owned()),
            email: Some("Ann@example.org".to_owned()),
            phone_number: Some("+1 23".to_owned()),
            ..UserBody::default()
        };
        let found: Vec<_> =
            user.aliases(id).into_iter().map(|alias| (alias.field, alias.text)).collect();
        assert_eq!(
            found,
            [
                ("phone_number", "+123".to_owned()),
                ("id", id.to_string()),
                ("user_id", "ann@example.org".to_owned()),
            ]
        );
    }
}
