//! `builtin/recall`: no language model and no network. It quotes what was said
//! before, with when and where, and says so when it found nothing. The same
//! request always gets the same reply.

mod questions;
mod terms;

use agentry_domain::chat::{ChatMessage, ResponseFormat, ToolChoice};
use agentry_domain::sessions::MessageRole;
use agentry_domain::time::Timestamp;
use agentry_domain::{Code, Error, Result};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use unicode_segmentation::UnicodeSegmentation as _;

use self::terms::{Stems, Terms};
use crate::model::{FinishReason, Model, ModelEvent, ModelRequest, Passage, Source};

/// A passage that holds less of the question's term weight is no answer.
const COVERAGE_MIN: f64 = 0.5;
/// Passages quoted in one reply.
const QUOTES_MAX: usize = 3;
/// A further passage is quoted when it covers nearly as much as the best one.
const FURTHER_COVERAGE_SHARE: f64 = 0.9;
/// Characters of one quotation.
const QUOTE_CHARS_MAX: usize = 600;
/// Bytes of the conversation that are searched, the newest.
const HISTORY_BYTES_MAX: usize = 256 * 1024;
/// Words in one piece of the streamed reply.
const DELTA_WORDS: usize = 4;

/// The model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recall;

#[async_trait]
impl Model for Recall {
    async fn respond(
        &self,
        request: ModelRequest,
    ) -> Result<BoxStream<'static, Result<ModelEvent>>> {
        // It reads no tools, and says nothing of them; what cannot be left out is refused.
        let demand = match (&request.tool_choice, &request.response_format) {
            (ToolChoice::Required | ToolChoice::Tool(_), _) => Some("calls no tools"),
            (_, ResponseFormat::Text) => None,
            (_, ResponseFormat::JsonObject | ResponseFormat::JsonSchema { .. }) => {
                Some("writes plain text, no JSON")
            }
        };
        if let Some(what) = demand {
            return Err(Error::new(Code::ModelRejected, format!("builtin/recall {what}")));
        }
        let text = reply(&request.messages, &request.recalled);
        let deltas = deltas(&text).into_iter().map(ModelEvent::Delta);
        let events: Vec<_> = deltas.chain([ModelEvent::Finished(FinishReason::Stop)]).collect();
        Ok(futures::stream::iter(events.into_iter().map(Ok)).boxed())
    }

    fn quotes(&self) -> bool {
        true
    }
}

/// Something to quote.
#[derive(Debug, PartialEq)]
struct Found {
    text: String,
    place: Place,
    coverage: f64,
}

/// Where something was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// What was recalled, and when it was said or written.
    Recalled(Source, Timestamp),
    /// The conversation at hand; its user said it.
    Here,
}

fn reply(messages: &[ChatMessage], recalled: &[Passage]) -> String {
    let (input, history) = match messages.split_last() {
        Some((input, history)) => (input.text(), history),
        None => ("".into(), messages),
    };
    let input = input.as_ref();
    let terms = Terms::of(input);
    let mut found = in_passages(input, &terms, recalled);
    if found.is_empty() {
        // Recall normally covers this session too. It does not when the agent's
        // recall is off or the conversation came with the request.
        found = in_history(input, &terms, history);
    }
    keep_the_best(&mut found);
    match (questions::asks(input), found.is_empty()) {
        (true, true) => "I am sorry, I looked through what I can remember of our conversations, \
            and there is nothing found that answers this."
            .to_owned(),
        (true, false) => format!("Here is what I remember.\n{}", quotations(&found, &terms)),
        (false, true) => "Noted. I looked for something related in what I can remember of our \
            conversations: nothing found."
            .to_owned(),
        (false, false) => {
            format!("Noted. It may go with this:\n{}", quotations(&found, &terms))
        }
    }
}

fn in_passages(input: &str, terms: &Terms, recalled: &[Passage]) -> Vec<Found> {
    recalled
        .iter()
        .filter(|passage| passage.coverage >= COVERAGE_MIN)
        .filter(|passage| says_something(&passage.text, input, terms))
        .map(|passage| Found {
            text: passage.text.clone(),
            place: Place::Recalled(passage.source, passage.at),
            coverage: passage.coverage,
        })
        .collect()
}

/// Searches the conversation itself, newest first among equals. Replies are
/// left out: they may be quotations of what is searched here anyway.
fn in_history(input: &str, terms: &Terms, history: &[ChatMessage]) -> Vec<Found> {
    let mut bytes = 0;
    let said: Vec<(&ChatMessage, Stems)> = history
        .iter()
        .rev()
        .filter(|message| message.role() == MessageRole::User)
        .take_while(|message| {
            bytes += message.text().len();
            bytes <= HISTORY_BYTES_MAX
        })
        .map(|message| (message, Stems::of(&message.text())))
        .collect();
    let texts: Vec<&Stems> = said.iter().map(|(_, stems)| stems).collect();
    let weighted = terms.weighted_by(&texts);
    let mut found: Vec<Found> = said
        .iter()
        .map(|(message, stems)| (message, weighted.coverage(stems)))
        .filter(|(message, coverage)| {
            *coverage >= COVERAGE_MIN && says_something(&message.text(), input, terms)
        })
        .map(|(message, coverage)| Found {
            text: message.text().into_owned(),
            place: Place::Here,
            coverage,
        })
        .collect();
    found.sort_by(|a, b| b.coverage.total_cmp(&a.coverage));
    found
}

/// Whether a text can answer: it is not what was just asked, and what it says,
/// its questions left out, still holds at least half of the matching terms.
fn says_something(text: &str, input: &str, terms: &Terms) -> bool {
    if questions::same(text, input) {
        return false;
    }
    let statements = questions::without_questions(text);
    if statements.len() == text.trim().len() {
        return true;
    }
    let matching = terms.found_in(&Stems::of(text));
    let stated = terms.found_in(&Stems::of(&statements));
    stated > 0 && stated * 2 >= matching
}

/// Found comes best first; what is said twice is quoted once.
fn keep_the_best(found: &mut Vec<Found>) {
    let Some(best) = found.first().map(|first| first.coverage) else { return };
    // A fact that answers says what holds then; what was said may hold no longer.
    let is_fact = |found: &Found| matches!(found.place, Place::Recalled(Source::Fact, _));
    if found.first().is_some_and(is_fact) {
        found.retain(is_fact);
    }
    let mut kept: Vec<Found> = Vec::with_capacity(QUOTES_MAX);
    for candidate in found.drain(..) {
        if kept.len() < QUOTES_MAX
            && candidate.coverage >= best * FURTHER_COVERAGE_SHARE
            && kept.iter().all(|earlier| !questions::same(&earlier.text, &candidate.text))
        {
            kept.push(candidate);
        }
    }
    *found = kept;
}

fn quotations(found: &[Found], terms: &Terms) -> String {
    let lines: Vec<String> = found.iter().map(|found| quotation(found, terms)).collect();
    lines.join("\n")
}

fn quotation(found: &Found, terms: &Terms) -> String {
    let text = excerpt(found.text.trim(), terms);
    let Place::Recalled(source, at) = found.place else {
        return format!("You said earlier in this conversation: \u{201c}{text}\u{201d}");
    };
    // RFC 3339 in UTC: the first 10 characters are the day, then 'T', then hours
    // and minutes.
    let at = at.to_string();
    let (day, time) = (at.get(..10).unwrap_or(&at), at.get(11..16).unwrap_or_default());
    let (session, role) = match source {
        Source::Message { session, role } => (session, role),
        Source::Fact => {
            return format!("As far as I know: \u{201c}{text}\u{201d} (since {day})");
        }
        Source::Memory => {
            return format!("A memory says: \u{201c}{text}\u{201d} ({day} {time} UTC)");
        }
    };
    let who = match role {
        MessageRole::User => "You said",
        MessageRole::Assistant => "I said",
        MessageRole::System => "A note said",
        MessageRole::Tool => "A tool said",
    };
    format!("{who}: \u{201c}{text}\u{201d} ({day} {time} UTC, session {session})")
}

/// A long text cut to the part around the sentence that holds most of the terms.
fn excerpt(text: &str, terms: &Terms) -> String {
    if text.chars().count() <= QUOTE_CHARS_MAX {
        return text.to_owned();
    }
    let mut best = (0, 0);
    for (start, sentence) in text.split_sentence_bound_indices() {
        let matching = terms.found_in(&Stems::of(sentence));
        if matching > best.1 {
            best = (start, matching);
        }
    }
    let from = &text[best.0..];
    let end = from.char_indices().nth(QUOTE_CHARS_MAX).map_or(from.len(), |(end, _)| end);
    let before = if best.0 > 0 { "… " } else { "" };
    let after = if end < from.len() { " …" } else { "" };
    format!("{before}{}{after}", from[..end].trim_end())
}

/// The reply in groups of words, with the white space that follows each.
fn deltas(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    words.chunks(DELTA_WORDS).map(<[&str]>::concat).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(content: &str) -> ChatMessage {
        ChatMessage::said(MessageRole::User, content)
    }

    fn passage(text: &str, coverage: f64) -> Passage {
        Passage {
            text: text.to_owned(),
            source: Source::Message {
                session: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                role: MessageRole::User,
            },
            at: Timestamp::from_micros(1_790_000_000_000_000),
            score: coverage * 10.0,
            coverage,
        }
    }

    const NOTHING: &str = "nothing found";

    #[test]
    fn a_passage_is_quoted_with_when_and_where() {
        let answer = reply(
            &[user("What is the name of my dog?")],
            &[passage("The name of my dog is Rex.", 1.0)],
        );
        assert_eq!(
            answer,
            "Here is what I remember.\nYou said: “The name of my dog is Rex.” (2026-09-21 14:13 \
             UTC, session 01890a5d-ac96-774b-bcce-b302099a8057)"
        );
    }

    #[test]
    fn a_memory_is_quoted_as_one() {
        let memory = Passage { source: Source::Memory, ..passage("The dog is named Rex.", 1.0) };
        let answer = reply(&[user("How is the dog named?")], &[memory]);
        assert_eq!(
            answer,
            "Here is what I remember.\nA memory says: “The dog is named Rex.” (2026-09-21 14:13 \
             UTC)"
        );
    }

    #[test]
    fn what_covers_too_little_or_only_asks_is_no_answer() {
        let question = "What is the name of my dog?";
        for (text, coverage) in [
            ("The name of my boat is Anna.", 0.49),
            ("what is the name of my dog", 1.0),
            ("Do you know the name of my dog?", 1.0),
            ("Where did the dog get its name?", 1.0),
            ("Tell me the name of my dog.", 1.0),
            ("Good morning. What was the name of my dog?", 1.0),
        ] {
            let answer = reply(&[user(question)], &[passage(text, coverage)]);
            assert!(answer.contains(NOTHING), "{text}: {answer}");
        }
    }

    #[test]
    fn a_statement_beside_a_question_is_an_answer() {
        let question = "What is the name of my dog?";
        for text in [
            "My dog's name is Rex. Is that not nice?",
            "When I was ten I named my dog Rex.",
            "Will you believe it? We gave our dog the name Rex.",
        ] {
            let answer = reply(&[user(question)], &[passage(text, 1.0)]);
            assert!(answer.contains("Rex"), "{text}: {answer}");
        }
    }

    #[test]
    fn the_conversation_itself_is_searched_when_nothing_was_recalled() {
        let history = [
            user("My sister lives in Lisbon."),
            user("I parked the car on level 3."),
            ChatMessage::said(MessageRole::Assistant, "The car is parked."),
            user("Where did I park my car?"),
        ];
        let answer = reply(&history, &[]);
        assert!(answer.contains("level 3"), "{answer}");
        assert!(answer.contains("earlier in this conversation"), "{answer}");
        assert!(!answer.contains("Lisbon"), "{answer}");
        assert!(!answer.contains("The car is parked"), "{answer}");
    }

    #[test]
    fn the_newest_of_what_answers_equally_comes_first() {
        let history =
            [user("The code is one."), user("The code is two."), user("What is the code?")];
        let answer = reply(&history, &[]);
        let at = |text: &str| answer.find(text).unwrap();
        assert!(at("two") < at("one"), "{answer}");
    }

    #[test]
    fn a_conversation_that_shares_a_common_word_answers_nothing() {
        let history = [
            user("My dog's name is Rex."),
            user("My boat's name is Anna."),
            user("What is my cat's name?"),
        ];
        assert!(reply(&history, &[]).contains(NOTHING));
        assert!(reply(&[user("What was that again?")], &[]).contains(NOTHING));
        assert!(reply(&[], &[]).contains(NOTHING));
    }

    #[test]
    fn a_statement_is_noted_with_what_goes_with_it() {
        let alone = reply(&[user("My dog is called Rex.")], &[]);
        assert!(alone.starts_with("Noted.") && alone.contains(NOTHING), "{alone}");
        let same = reply(&[user("My dog is Rex.")], &[passage("my dog is rex", 1.0)]);
        assert!(same.contains(NOTHING), "{same}");
        let related = reply(&[user("Rex likes tuna.")], &[passage("My dog is Rex.", 0.6)]);
        assert!(related.starts_with("Noted.") && related.contains("My dog is Rex."), "{related}");
    }

    #[test]
    fn only_the_best_are_quoted_and_each_once() {
        let recalled = [
            passage("The code is 1.", 1.0),
            passage("the code is 1", 1.0),
            passage("The code is 2.", 0.95),
            passage("The code is 3.", 0.8),
            passage("The code is 4.", 0.95),
            passage("The code is 5.", 0.95),
        ];
        let answer = reply(&[user("What is the code?")], &recalled);
        let quoted: Vec<bool> =
            (1..=5).map(|code| answer.contains(&format!("The code is {code}."))).collect();
        assert_eq!(quoted, [true, true, false, true, false], "{answer}");
        assert!(!answer.contains("the code is 1\u{201d}"), "{answer}");
    }

    #[test]
    fn a_long_text_is_cut_to_the_sentence_that_answers() {
        let long = format!(
            "{} The vault opens with 4711. {}",
            "Noise. ".repeat(200),
            "More. ".repeat(200)
        );
        let answer = reply(&[user("How does the vault open?")], &[passage(&long, 1.0)]);
        assert!(answer.contains("4711"), "{answer}");
        assert!(answer.chars().count() < QUOTE_CHARS_MAX + 200, "{answer}");
    }

    proptest! {
        #[test]
        fn pieces_add_up_and_nothing_panics(input in ".{0,80}", text in ".{0,900}") {
            let answer = reply(&[user(&text), user(&input)], &[passage(&text, 1.0)]);
            let pieces = deltas(&answer);
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            prop_assert_eq!(pieces.concat(), answer);
        }
    }
}
