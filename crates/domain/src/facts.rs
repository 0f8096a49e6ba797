//! Facts: what holds of a node of the graph, from when and until when, since when
//! that is known, and which words of which episodes say so.

use serde::{Deserialize, Serialize};

use crate::graph::GroupId;
use crate::ids::{EpisodeId, FactId, NodeId};
use crate::json::JsonText;
use crate::time::Timestamp;

/// Characters of a fact's text at most; a longer one is cut.
pub const FACT_TEXT_CHARS_MAX: usize = 1_000;
/// Characters of the words that a fact rests on; longer ones are cut.
pub const FACT_QUOTE_CHARS_MAX: usize = 500;
/// Pieces of evidence that are shown with a fact, the oldest.
pub const FACT_EVIDENCE_SHOWN_MAX: u32 = 5;
/// Facts of one subject and predicate that are compared with a new one, the newest.
pub const FACTS_COMPARED_MAX: u32 = 200;

/// What a fact says of its subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FactObject {
    /// A relation to another node.
    Node(NodeId),
    /// A value.
    Text(String),
}

/// A fact.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its id.
    pub id: FactId,
    /// The group it is in.
    pub group_id: GroupId,
    /// What it is about.
    pub subject: NodeId,
    /// The relation, in snake case.
    pub predicate: String,
    /// To what.
    pub object: FactObject,
    /// The fact as a sentence.
    pub text: String,
    /// From when it holds in the world; none when that is not known.
    pub valid_at: Option<Timestamp>,
    /// Until when; none when it still does.
    pub invalid_at: Option<Timestamp>,
    /// Since when it is known here.
    pub created_at: Timestamp,
    /// Since when it is known here that it ends.
    pub expired_at: Option<Timestamp>,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    /// What drew it out of an episode.
    pub extractor: String,
    /// That one's version.
    pub extractor_version: String,
    /// More about it.
    pub metadata: JsonText,
}

impl Fact {
    /// Whether it holds at a moment, as far as was known at another.
    pub fn holds(&self, at: Timestamp, known_at: Timestamp) -> bool {
        let known = self.created_at <= known_at;
        let begun = self.valid_at.is_none_or(|from| from <= at);
        let end_known = self.expired_at.is_none_or(|since| since <= known_at);
        let ended = self.invalid_at.is_some_and(|until| until <= at && end_known);
        known && begun && !ended
    }
}

/// The words of an episode that a fact rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The episode.
    pub episode_id: EpisodeId,
    /// Its words.
    pub quote: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_holds_on_both_axes() {
        let at = Timestamp::from_micros;
        let id = [1; 16];
        let fact = Fact {
            id: FactId::from_bytes(id),
            group_id: GroupId::default(),
            subject: NodeId::from_bytes(id),
            predicate: "lives_in".to_owned(),
            object: FactObject::Text("Porto".to_owned()),
            text: String::new(),
            valid_at: Some(at(10)),
            invalid_at: Some(at(20)),
            created_at: at(12),
            expired_at: Some(at(25)),
            confidence: 1.0,
            extractor: String::new(),
            extractor_version: String::new(),
            metadata: JsonText::empty(),
        };
        for (world, known, expected) in [
            (15, 30, true),
            (15, 11, false),
            (9, 30, false),
            (20, 30, false),
            // Before anybody knew that it had ended.
            (22, 24, true),
        ] {
            assert_eq!(fact.holds(at(world), at(known)), expected, "{world} {known}");
        }
    }
}
