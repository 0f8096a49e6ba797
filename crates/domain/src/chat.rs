//! What passes between a run and its model beside plain text: messages with
//! images, tool calls and their results, the tools that a model may call, and the
//! form that its answer has to take. The serialised forms are what the store keeps.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sessions::MessageRole;

/// Characters of a tool's name at most; what every provider takes.
pub const TOOL_NAME_CHARS_MAX: usize = 64;
/// Tools that one request may offer to its model.
pub const TOOLS_MAX: usize = 128;

/// One message of a conversation, as a model is shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ChatMessage {
    /// Instructions within the conversation.
    System {
        /// What is said.
        text: String,
    },
    /// The person or program that asks.
    User {
        /// What is said and shown, in this order.
        parts: Vec<Part>,
    },
    /// The model.
    Assistant {
        /// What it said; may be empty when it called tools.
        #[serde(default)]
        text: String,
        /// The tools that it called, all at once.
        #[serde(default)]
        calls: Vec<ToolCall>,
        /// What it thought before it called them, for its own provider alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasoning: Vec<Reasoning>,
    },
    /// The outcome of a tool call.
    Tool(ToolResult),
}

impl ChatMessage {
    /// A message that is text. A tool's cannot be told without its call, so that
    /// text of that role is shown as the user's.
    pub fn said(role: MessageRole, text: impl Into<String>) -> Self {
        let text = text.into();
        match role {
            MessageRole::System => Self::System { text },
            MessageRole::User | MessageRole::Tool => {
                Self::User { parts: vec![Part::Text { text }] }
            }
            MessageRole::Assistant => Self::called(text, Vec::new()),
        }
    }

    /// What a model said, and the tools that it called.
    pub fn called(text: impl Into<String>, calls: Vec<ToolCall>) -> Self {
        Self::Assistant { text: text.into(), calls, reasoning: Vec::new() }
    }

    /// The same as clients see it: what a model thought is between it and its provider.
    pub fn shown(&self) -> Cow<'_, Self> {
        match self {
            Self::Assistant { text, calls, reasoning }
                if !reasoning.is_empty() || calls.iter().any(|call| call.signature.is_some()) =>
            {
                let bare = |call: &ToolCall| ToolCall { signature: None, ..call.clone() };
                Cow::Owned(Self::called(text.clone(), calls.iter().map(bare).collect()))
            }
            shown => Cow::Borrowed(shown),
        }
    }

    /// Who speaks.
    pub fn role(&self) -> MessageRole {
        match self {
            Self::System { .. } => MessageRole::System,
            Self::User { .. } => MessageRole::User,
            Self::Assistant { .. } => MessageRole::Assistant,
            Self::Tool(_) => MessageRole::Tool,
        }
    }

    /// All of its text.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::System { text } | Self::Assistant { text, .. } => text.into(),
            Self::Tool(result) => result.content.as_str().into(),
            Self::User { parts } => match parts.as_slice() {
                [Part::Text { text }] => text.into(),
                parts => parts.iter().filter_map(Part::as_text).collect::<String>().into(),
            },
        }
    }

    /// Whether its role and its text say all of it.
    pub fn is_plain(&self) -> bool {
        match self {
            Self::System { .. } => true,
            Self::User { parts } => matches!(parts.as_slice(), [Part::Text { .. }]),
            Self::Assistant { calls, reasoning, .. } => calls.is_empty() && reasoning.is_empty(),
            Self::Tool(_) => false,
        }
    }
}

/// A piece of what a user says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    Image(Image),
}

impl Part {
    /// Its text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            Self::Image(_) => None,
        }
    }
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Where it is.
    #[serde(flatten)]
    pub source: ImageSource,
    /// How closely to look, in OpenAI's words: `low`, `high`, `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// At an address that the provider fetches; this server never does.
    Url(String),
    /// In the message.
    Inline {
        /// Such as `image/png`.
        media_type: String,
        /// Its bytes in base64 (RFC 4648, section 4).
        base64: String,
    },
}

/// A call of a tool, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// What the result is matched by; made here when the provider gives none.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON as the model wrote it: an object as a rule, and whether it is one is
    /// for whoever carries the call out to check.
    pub arguments: String,
    /// What Google's protocol wants back with the call, of a model that reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// A piece of what a model thought, as its provider gave it. A provider that wants it back
/// with the results of the calls behind it gets it unchanged; nobody else reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasoning {
    /// The protocol that it is of, such as `anthropic`.
    pub protocol: String,
    /// The piece, in that protocol's words.
    pub block: Value,
}

/// What became of a tool call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// The call's.
    pub call_id: String,
    /// The tool. Some providers match by it; empty when whoever gave the result
    /// did not say, and then the call says.
    #[serde(default)]
    pub name: String,
    /// What the model is told, text or JSON.
    pub content: String,
    /// Whether the call failed.
    #[serde(default)]
    pub is_error: bool,
}

/// A tool that a model may call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// `[A-Za-z0-9_-]`, 1 to [`TOOL_NAME_CHARS_MAX`] characters.
    pub name: String,
    /// When and how to use it.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of its arguments, an object's.
    pub parameters: Value,
    /// Whether the arguments must keep to the schema, where the provider can hold
    /// its model to it.
    #[serde(default)]
    pub strict: bool,
}

/// Whether a model calls tools.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// At least one.
    Required,
    /// This one.
    Tool(String),
}

/// The form that an answer has to take.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that keeps to a schema.
    JsonSchema {
        /// What the schema is called; `[A-Za-z0-9_-]`.
        name: String,
        /// What it is for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// The schema.
        schema: Value,
        /// Whether the provider must hold its model to it.
        #[serde(default)]
        strict: bool,
    },
}

/// Whether a name is one that every provider takes for a tool.
pub fn is_tool_name(name: &str) -> bool {
    (1..=TOOL_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// A conversation that every provider takes: what the model said and called
/// together is one message, each call has its result behind it, and no result
/// stands without its call. A call whose result is missing gets one that says so;
/// a result without a call is left out. Both come about when a conversation was
/// cut, by `message_limit` or by a client that never answered.
pub fn sound(messages: Vec<ChatMessage>) -> Vec<ChatMessage> {
    let mut sound: Vec<ChatMessage> = Vec::with_capacity(messages.len());
    let mut open: Vec<ToolCall> = Vec::new();
    for message in messages {
        match message {
            ChatMessage::Tool(mut result) => {
                let Some(at) = open.iter().position(|call| call.id == result.call_id) else {
                    continue;
                };
                result.name = open.remove(at).name;
                sound.push(ChatMessage::Tool(result));
            }
            ChatMessage::Assistant { text, calls, reasoning } => {
                // Calls of one turn may be stored one by one.
                if let Some(ChatMessage::Assistant {
                    text: before,
                    calls: earlier,
                    reasoning: thought,
                }) = sound.last_mut()
                    && !(calls.is_empty() && earlier.is_empty())
                {
                    before.push_str(&text);
                    open.extend(calls.iter().cloned());
                    earlier.extend(calls);
                    thought.extend(reasoning);
                } else {
                    close(&mut sound, &mut open);
                    open.extend(calls.iter().cloned());
                    sound.push(ChatMessage::Assistant { text, calls, reasoning });
                }
            }
            other => {
                close(&mut sound, &mut open);
                sound.push(other);
            }
        }
    }
    close(&mut sound, &mut open);
    sound
}

fn close(sound: &mut Vec<ChatMessage>, open: &mut Vec<ToolCall>) {
    sound.extend(open.drain(..).map(|call| {
        ChatMessage::Tool(ToolResult {
            call_id: call.id,
            name: call.name,
            content: "no result was given".to_owned(),
            is_error: true,
        })
    }));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(id: &str) -> ToolCall {
        let (id, name, arguments) = (id.to_owned(), format!("tool_{id}"), "{}".to_owned());
        ToolCall { id, name, arguments, signature: None }
    }

    fn result(id: &str, content: &str) -> ChatMessage {
        ChatMessage::Tool(ToolResult {
            call_id: id.to_owned(),
            name: String::new(),
            content: content.to_owned(),
            is_error: false,
        })
    }

    fn assistant(text: &str, calls: &[&str]) -> ChatMessage {
        let calls = calls.iter().map(|id| call(id)).collect();
        ChatMessage::called(text, calls)
    }

    fn user(text: &str) -> ChatMessage {
        ChatMessage::said(MessageRole::User, text)
    }

    /// Who speaks, and of which call.
    fn shape(messages: &[ChatMessage]) -> Vec<String> {
        let one = |message: &ChatMessage| match message {
            ChatMessage::Assistant { text, calls, .. } => {
                let ids: Vec<&str> = calls.iter().map(|call| call.id.as_str()).collect();
                format!("assistant {text}[{}]", ids.join(","))
            }
            ChatMessage::Tool(result) => {
                format!("{} {} {}", result.name, result.content, result.is_error)
            }
            other => format!("{} {}", other.role().as_str(), other.text()),
        };
        messages.iter().map(one).collect()
    }

    #[test]
    fn a_conversation_is_made_sound() {
        let whole = vec![user("q"), assistant("", &["a", "b"]), result("b", "2"), result("a", "1")];
        let expected = ["user q", "assistant [a,b]", "tool_b 2 false", "tool_a 1 false"];
        assert_eq!(shape(&sound(whole)), expected);
        let pieces =
            vec![user("q"), assistant("so", &[]), assistant("", &["a"]), assistant("", &["b"])];
        let missing = [
            "user q",
            "assistant so[a,b]",
            "tool_a no result was given true",
            "tool_b no result was given true",
        ];
        assert_eq!(shape(&sound(pieces)), missing);
        let cut = vec![result("a", "1"), user("q"), assistant("x", &[]), assistant("y", &[])];
        assert_eq!(shape(&sound(cut)), ["user q", "assistant x[]", "assistant y[]"]);
        let late = vec![assistant("", &["a"]), user("never mind"), result("a", "1")];
        let expected = ["assistant [a]", "tool_a no result was given true", "user never mind"];
        assert_eq!(shape(&sound(late)), expected);
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let image = Image {
            source: ImageSource::Inline { media_type: "image/png".into(), base64: "AA==".into() },
            detail: Some("low".into()),
        };
        let linked = Image { source: ImageSource::Url("https://host/a.png".into()), detail: None };
        let parts = vec![
            Part::Text { text: "look ".into() },
            Part::Image(image),
            Part::Image(linked),
            Part::Text { text: "here".into() },
        ];
        let shown = ChatMessage::User { parts };
        assert_eq!(shown.text(), "look here");
        assert!(!shown.is_plain());
        for message in [shown, user("x"), assistant("y", &["a"]), result("a", "z")] {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<ChatMessage>(&text).unwrap(), message, "{text}");
        }
        for format in [
            json!({"type": "text"}),
            json!({"type": "json_object"}),
            json!({"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}),
        ] {
            let read: ResponseFormat = serde_json::from_value(format.clone()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), format);
        }
        for choice in [ToolChoice::Auto, ToolChoice::Tool("x".into())] {
            let text = serde_json::to_string(&choice).unwrap();
            assert_eq!(serde_json::from_str::<ToolChoice>(&text).unwrap(), choice);
        }
    }

    #[test]
    fn names_of_tools_are_what_every_provider_takes() {
        for (name, is_one) in
            [("get_weather", true), ("a-1", true), ("", false), ("a b", false), ("é", false)]
        {
            assert_eq!(is_tool_name(name), is_one, "{name}");
        }
        assert!(!is_tool_name(&"x".repeat(TOOL_NAME_CHARS_MAX + 1)));
    }
}
