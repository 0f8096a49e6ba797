//! What a run called, as messages of its session, so that the model of a later run sees
//! it: each call, and what came of it, cut off behind a bound. The reply keeps all of the
//! text for people and for recall; what a model is shown of it is what was said behind the
//! last calls, and what was said before each is with them.
//!
//! Nothing of this is remembered: what a tool gives is no memory of what somebody said.

use std::collections::BTreeMap;

use agentry_domain::chat::{ChatMessage, Reasoning, ToolCall, ToolResult};
use agentry_domain::runs::MESSAGE_LIMIT_MAX;
use agentry_domain::sessions::{Message, MessageRole};
use agentry_domain::tools::{RunCall, RunCallStatus};
use agentry_domain::{MessageId, OrgId, Result, SessionId};

use super::steps::BETWEEN_STEPS;
use crate::Engine;

/// Calls of one run that its session has; of more, the last ones.
const CALLS_KEPT_MAX: usize = 500;
/// Messages about calls of tools that a model is shown beside what was said.
const CALL_MESSAGES_SHOWN_MAX: usize = 500;

/// What a run called and what came of it, in order.
pub(super) struct Transcript {
    /// Two messages for each call.
    pub(super) messages: Vec<ChatMessage>,
    /// What was said behind the last calls; none when nothing was called.
    pub(super) said_last: Option<String>,
}

impl Transcript {
    /// Of the calls of a run that has ended, with all of its text and what was thought in each step.
    pub(super) fn of(
        tools: &[RunCall],
        text: &str,
        reasoning: &BTreeMap<u32, Vec<Reasoning>>,
        output_bytes_max: u64,
    ) -> Self {
        let left_out = tools.len().saturating_sub(CALLS_KEPT_MAX);
        let (mut messages, mut from) = (Vec::new(), 0);
        for step in tools.chunk_by(|one, next| one.step == next.step) {
            let until = usize::try_from(step[0].started_offset).unwrap_or(usize::MAX);
            let mut said = piece(text, from, until);
            from = until;
            let mut thought = reasoning.get(&step[0].step).cloned().unwrap_or_default();
            for call in step {
                messages.push(ChatMessage::Assistant {
                    text: std::mem::take(&mut said),
                    calls: vec![called(call)],
                    reasoning: std::mem::take(&mut thought),
                });
            }
            messages.extend(step.iter().map(|call| result(call, output_bytes_max)));
        }
        // Where it begins in the middle of a step, what is left alone is not shown.
        messages.drain(..2 * left_out);
        let said_last = (!tools.is_empty()).then(|| piece(text, from, text.len()));
        Self { messages, said_last }
    }
}

/// What was said between two places, without what separates it from before.
fn piece(text: &str, from: usize, until: usize) -> String {
    let piece = text.get(from..until.min(text.len())).unwrap_or_default();
    piece.strip_prefix(BETWEEN_STEPS).unwrap_or(piece).to_owned()
}

fn called(call: &RunCall) -> ToolCall {
    let arguments = match serde_json::from_str(call.arguments.as_str()) {
        Ok(serde_json::Value::String(written)) => written,
        _ => call.arguments.as_str().to_owned(),
    };
    let (id, name) = (call.id.clone(), call.name.clone());
    ToolCall { id, name, arguments, signature: call.signature.clone() }
}

fn result(call: &RunCall, bytes_max: u64) -> ChatMessage {
    let output = call.output.as_deref().unwrap_or_default();
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut content = output.to_owned();
    if output.len() > bytes_max {
        content.truncate(output.floor_char_boundary(bytes_max));
        let (kept, all) = (content.len(), output.len());
        content.push_str(&format!("\n[cut off: {kept} of {all} bytes are kept]"));
    }
    ChatMessage::Tool(ToolResult {
        call_id: call.id.clone(),
        name: call.name.clone(),
        content,
        is_error: call.status != RunCallStatus::Succeeded,
    })
}

/// Whether a message is about a call of a tool and says nothing else.
fn is_about_a_call(message: &Message) -> bool {
    message.role == MessageRole::Tool
        || matches!(&message.chat, Some(ChatMessage::Assistant { calls, .. }) if !calls.is_empty())
}

impl Engine {
    /// The newest messages of a session before one of them, oldest first: `limit` of what
    /// was said, and between them what was called.
    pub(super) async fn history(
        &self,
        org: OrgId,
        session: SessionId,
        before: MessageId,
        limit: u32,
    ) -> Result<Vec<Message>> {
        let limit = limit.min(MESSAGE_LIMIT_MAX) as usize;
        let mut history = Vec::new();
        let (mut said, mut before) = (0, before);
        while said < limit {
            let asked = limit - said;
            let page = u32::try_from(asked).unwrap_or(u32::MAX);
            let mut older = self.0.store.message_history(org, session, before, page).await?;
            let read = older.len();
            said += older.iter().filter(|message| !is_about_a_call(message)).count();
            let Some(oldest) = older.first() else { break };
            before = oldest.id;
            older.append(&mut history);
            history = older;
            if read < asked || history.len() - said >= CALL_MESSAGES_SHOWN_MAX {
                break;
            }
        }
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::{JsonText, Timestamp};

    use super::*;

    fn call(id: &str, step: u32, started_offset: u64, output: &str) -> RunCall {
        RunCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            server: None,
            arguments: JsonText::known(r#"{"a":1}"#.to_owned()),
            signature: None,
            effects: false,
            status: RunCallStatus::Succeeded,
            output: Some(output.to_owned()),
            truncated: false,
            error_code: None,
            step,
            started_offset,
            started_news: 0,
            finished_news: Some(1),
            started_at: Timestamp::from_micros(1),
            finished_at: None,
        }
    }

    fn shape(transcript: &Transcript) -> Vec<String> {
        let one = |message: &ChatMessage| match message {
            ChatMessage::Assistant { text, calls, reasoning } => {
                format!("{text}[{}]{}", calls[0].id, reasoning.len())
            }
            message => message.text().into_owned(),
        };
        transcript.messages.iter().map(one).collect()
    }

    fn of(text: &str, tools: &[RunCall], bytes_max: u64) -> Transcript {
        let thought = Reasoning { protocol: "p".to_owned(), block: serde_json::Value::Null };
        let reasoning = BTreeMap::from([(2, vec![thought])]);
        Transcript::of(tools, text, &reasoning, bytes_max)
    }

    #[test]
    fn each_step_has_what_was_said_before_it() {
        let text = "First.\n\nThen.\n\nDone.";
        let tools = vec![call("a", 1, 6, "x"), call("b", 1, 6, "y"), call("c", 2, 13, "äöü")];
        let all = of(text, &tools, 4);
        let expected =
            ["First.[a]0", "[b]0", "x", "y", "Then.[c]1", "äö\n[cut off: 4 of 6 bytes are kept]"];
        assert_eq!(shape(&all), expected);
        assert_eq!(all.said_last.as_deref(), Some("Done."));
    }

    #[test]
    fn a_text_that_is_lost_is_no_error_and_many_calls_are_bounded() {
        let tools: Vec<RunCall> =
            (0..600).map(|n| call(&n.to_string(), n, u64::from(n), "")).collect();
        let all = of("", &tools, 4);
        assert_eq!(all.messages.len(), 2 * CALLS_KEPT_MAX);
        assert_eq!(shape(&all)[0], "[100]0");
        assert_eq!(of("x", &[], 4).said_last, None);
    }
}
