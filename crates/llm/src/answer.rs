//! An answer as it builds up, whatever protocol it comes in: calls of tools come in
//! pieces, and why it ended may be said before what it cost.

use agentry_domain::chat::{Reasoning, ToolCall};
use agentry_domain::runs::Usage;
use agentry_domain::{Error, Result};
use serde_json::Value;

use crate::model::{FinishReason, ModelEvent};

/// Characters kept of a finish reason that we do not know.
const FINISH_REASON_CHARS_MAX: usize = 64;
/// Calls of tools that are taken from one answer.
const CALLS_MAX: usize = 128;
/// Bytes of what a model thought for one answer.
const REASONING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the arguments of all calls of one answer.
const ARGUMENTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How far an answer has come.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Whether it said anything of the protocol.
    pub(crate) begun: bool,
    /// Why it ended, once that was said.
    pub(crate) finish: Option<FinishReason>,
    /// What it cost, as far as that was said.
    pub(crate) usage: Option<Usage>,
    calls: Vec<Building>,
    reasoning: Vec<(u64, Reasoning)>,
    reasoning_bytes: usize,
    over: bool,
}

/// A call that is still being written.
#[derive(Debug)]
struct Building {
    /// What its pieces are told apart by.
    key: u64,
    call: ToolCall,
}

/// A piece of a call; what is empty adds nothing.
#[derive(Debug, Default)]
pub(crate) struct CallPiece<'a> {
    pub(crate) key: u64,
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) arguments: &'a str,
    /// Of a model that reasons, in Google's protocol.
    pub(crate) signature: Option<&'a str>,
}

/// There is more of something than any answer has.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the calls of tools in one answer, or what was thought for it, are too many or too large")]
pub(crate) struct TooMuch;

impl Answer {
    /// Whether nothing more is to be read.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Nothing more is to be read, because it failed.
    pub(crate) fn give_up(&mut self) {
        self.over = true;
    }

    /// The number of calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.len() as u64
    }

    /// Takes a piece of a call.
    pub(crate) fn call(&mut self, piece: &CallPiece<'_>) -> Result<(), TooMuch> {
        let at = match self.calls.iter().position(|building| building.key == piece.key) {
            // Some servers number every call 0 and give each its own id.
            Some(at) if piece.id.is_empty() || piece.id == self.calls[at].call.id => at,
            Some(at) if self.calls[at].call.id.is_empty() => at,
            Some(_) | None => {
                if self.calls.len() == CALLS_MAX {
                    return Err(TooMuch);
                }
                let (id, name, arguments) = (String::new(), String::new(), String::new());
                // Before those of the same key, so that what follows finds the newest.
                let call = ToolCall { id, name, arguments, signature: None };
                self.calls.insert(0, Building { key: piece.key, call });
                0
            }
        };
        let ToolCall { id, name, arguments, signature } = &mut self.calls[at].call;
        if id.is_empty() {
            piece.id.clone_into(id);
        }
        if name.is_empty() {
            piece.name.clone_into(name);
        }
        arguments.push_str(piece.arguments);
        if let Some(given) = piece.signature {
            self.reasoning_bytes += given.len();
            *signature = Some(given.to_owned());
        }
        let bytes: usize = self.calls.iter().map(|building| building.call.arguments.len()).sum();
        let is_too_much = bytes > ARGUMENTS_BYTES_MAX || self.reasoning_bytes > REASONING_BYTES_MAX;
        if is_too_much { Err(TooMuch) } else { Ok(()) }
    }

    /// Takes a piece of what the model thought: the beginning of the block with this key.
    pub(crate) fn thought(
        &mut self,
        key: u64,
        protocol: &str,
        block: Value,
    ) -> Result<(), TooMuch> {
        self.grown(block.to_string().len())?;
        let protocol = protocol.to_owned();
        self.reasoning.push((key, Reasoning { protocol, block }));
        Ok(())
    }

    /// Takes more of a field of the block with this key, if there is one.
    pub(crate) fn thought_more(
        &mut self,
        key: u64,
        field: &str,
        more: &str,
    ) -> Result<(), TooMuch> {
        self.grown(more.len())?;
        let found = self.reasoning.iter_mut().rev().find(|(at, _)| *at == key);
        if let Some((_, Reasoning { block: Value::Object(block), .. })) = found {
            match block.get_mut(field) {
                Some(Value::String(text)) => text.push_str(more),
                _ => drop(block.insert(field.to_owned(), more.into())),
            }
        }
        Ok(())
    }

    /// Whether there is a block with this key.
    pub(crate) fn has_thought(&self, key: u64) -> bool {
        self.reasoning.iter().any(|(at, _)| *at == key)
    }

    fn grown(&mut self, bytes: usize) -> Result<(), TooMuch> {
        self.reasoning_bytes += bytes;
        if self.reasoning_bytes > REASONING_BYTES_MAX { Err(TooMuch) } else { Ok(()) }
    }

    /// The stream is over. That is the answer's end when its finish was seen,
    /// however the connection ended, and otherwise what `failure` says.
    pub(crate) fn cut(&mut self, failure: impl FnOnce() -> Error) -> Result<Vec<ModelEvent>> {
        self.over = true;
        let mut finish = self.finish.take().ok_or_else(failure)?;
        // Newest first, as they were put in.
        let mut calls: Vec<ToolCall> =
            self.calls.drain(..).rev().map(|building| building.call).collect();
        calls.retain(|call| !call.name.is_empty());
        for (at, call) in calls.iter_mut().enumerate() {
            if call.id.is_empty() {
                call.id = format!("call_{at}");
            }
            if call.arguments.trim().is_empty() {
                "{}".clone_into(&mut call.arguments);
            }
        }
        if !calls.is_empty() && finish == FinishReason::Stop {
            finish = FinishReason::ToolCalls;
        }
        // Wanted back with the results of calls, and of no use without.
        let thought = self.reasoning.drain(..).filter(|_| !calls.is_empty());
        let thought: Vec<_> = thought.map(|(_, piece)| ModelEvent::Reasoning(piece)).collect();
        let calls = calls.into_iter().map(ModelEvent::ToolCall);
        let usage = self.usage.take().map(ModelEvent::Usage);
        Ok(thought
            .into_iter()
            .chain(calls)
            .chain(usage)
            .chain([ModelEvent::Finished(finish)])
            .collect())
    }
}

/// Text as an event; nothing for none.
pub(crate) fn delta(text: String) -> Vec<ModelEvent> {
    if text.is_empty() { Vec::new() } else { vec![ModelEvent::Delta(text)] }
}

/// A reason in the provider's word, bounded.
pub(crate) fn other_reason(word: &str) -> FinishReason {
    FinishReason::Other(word.chars().take(FINISH_REASON_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(answer: &mut Answer) -> Vec<ModelEvent> {
        answer.finish.get_or_insert(FinishReason::Stop);
        answer.cut(|| Error::internal("not reached")).unwrap()
    }

    fn call(id: &str, name: &str, arguments: &str) -> ModelEvent {
        let (id, name, arguments) = (id.to_owned(), name.to_owned(), arguments.to_owned());
        ModelEvent::ToolCall(ToolCall { id, name, arguments, signature: None })
    }

    #[test]
    fn calls_come_in_pieces_side_by_side() {
        let mut answer = Answer::default();
        for (key, id, name, arguments) in [
            (0, "a", "f", ""),
            (0, "", "", "{\"x\""),
            (1, "b", "g", ""),
            (0, "", "", ":1}"),
            (1, "", "", "{}"),
        ] {
            answer.call(&CallPiece { key, id, name, arguments, signature: None }).unwrap();
        }
        let finished = ModelEvent::Finished(FinishReason::ToolCalls);
        let expected = [call("a", "f", "{\"x\":1}"), call("b", "g", "{}"), finished];
        assert_eq!(ended(&mut answer), expected);
    }

    #[test]
    fn calls_that_share_a_number_are_told_apart_by_their_ids() {
        let mut answer = Answer::default();
        for (id, name, arguments) in [("a", "f", "{}"), ("b", "g", "{\"y\""), ("", "", ":2}")] {
            let piece = CallPiece { key: 0, id, name, arguments, signature: None };
            answer.call(&piece).unwrap();
        }
        let events = ended(&mut answer);
        assert_eq!(events[..2], [call("a", "f", "{}"), call("b", "g", "{\"y\":2}")]);
    }

    #[test]
    fn what_is_missing_is_made_up_and_what_is_too_much_is_refused() {
        let mut answer = Answer::default();
        answer.call(&CallPiece { name: "f", ..CallPiece::default() }).unwrap();
        assert_eq!(ended(&mut answer)[0], call("call_0", "f", "{}"));
        let mut answer = Answer::default();
        let arguments = &"x".repeat(ARGUMENTS_BYTES_MAX);
        answer.call(&CallPiece { arguments, ..CallPiece::default() }).unwrap();
        assert!(answer.call(&CallPiece { arguments: "x", ..CallPiece::default() }).is_err());
        let mut answer = Answer::default();
        for key in 0..CALLS_MAX as u64 {
            answer.call(&CallPiece { key, name: "f", ..CallPiece::default() }).unwrap();
        }
        assert!(answer.call(&CallPiece { key: 1_000, name: "f", ..CallPiece::default() }).is_err());
        let mut cut = Answer::default();
        assert!(cut.cut(|| Error::internal("cut")).is_err());
    }
}
