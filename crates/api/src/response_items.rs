//! Items, which OpenAI's responses and conversations are made of: messages, calls of
//! functions, and their outputs. An item is one message of a session, under its id;
//! the text of a response has its run's id, which is known before it is said.

use agentry_domain::chat::{ChatMessage, Part, ToolCall, ToolResult};
use agentry_domain::runs::{Run, RunStatus};
use agentry_domain::sessions::{Message, MessageRole};
use agentry_domain::{MessageId, RunId};
use serde_json::{Value, json};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

use crate::fields::kinds::{Kind, Site};
use crate::fields::{NOT_SUPPORTED_YET, Purpose};
use crate::openai::{image_url, is_call_id, parts};

/// Items in one request.
pub(crate) const ITEMS_MAX: usize = 1_000;

/// 32 hexadecimal digits.
fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

/// `resp_` and the run's id.
pub(crate) fn response_id(run: RunId) -> String {
    format!("resp_{}", hex(run.to_bytes()))
}

/// The 16 bytes behind one of OpenAI's prefixes.
pub(crate) fn id_behind(text: &str, prefixes: &[&str]) -> Option<[u8; 16]> {
    let digits = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u128::from_str_radix(digits, 16).ok())?.map(u128::to_be_bytes)
}

/// The message that an item is.
pub(crate) fn item_message(text: &str) -> Option<MessageId> {
    id_behind(text, &["msg_", "fc_", "fco_"]).map(MessageId::from_bytes)
}

/// The id of the text of a response.
pub(crate) fn text_item_id(run: RunId) -> String {
    format!("msg_{}", hex(run.to_bytes()))
}

/// What is said or done, with the id of its message.
pub(crate) fn item(id: [u8; 16], said: &ChatMessage) -> Value {
    let id = hex(id);
    match said {
        ChatMessage::System { text } => json!({"type": "message", "id": format!("msg_{id}"),
            "status": "completed", "role": "system",
            "content": [{"type": "input_text", "text": text}]}),
        ChatMessage::User { parts } => {
            let part = |part: &Part| match part {
                Part::Text { text } => json!({"type": "input_text", "text": text}),
                Part::Image(image) => json!({"type": "input_image", "image_url": image_url(image),
                    "detail": image.detail.as_deref().unwrap_or("auto")}),
            };
            let content: Vec<Value> = parts.iter().map(part).collect();
            json!({"type": "message", "id": format!("msg_{id}"), "status": "completed",
                "role": "user", "content": content})
        }
        ChatMessage::Assistant { text, calls, .. } => match calls.first() {
            Some(call) => call_item(&format!("fc_{id}"), call, "completed"),
            None => text_item(&format!("msg_{id}"), text, "completed"),
        },
        ChatMessage::Tool(result) => json!({"type": "function_call_output",
            "id": format!("fco_{id}"), "call_id": result.call_id, "output": result.content,
            "status": "completed"}),
    }
}

/// A message as an item.
pub(crate) fn message_item(message: &Message) -> Value {
    let said = match message.clone().into_chat() {
        // All that was said, and not only what a model is shown of it.
        ChatMessage::Assistant { calls, .. } if calls.is_empty() => {
            ChatMessage::said(MessageRole::Assistant, message.content.clone())
        }
        said => said,
    };
    let id = match (message.run, &said) {
        (Some(run), ChatMessage::Assistant { calls, .. }) if calls.is_empty() => run.to_bytes(),
        _ => message.id.to_bytes(),
    };
    item(id, &said)
}

/// A message of the model's.
pub(crate) fn text_item(id: &str, text: &str, status: &str) -> Value {
    json!({"type": "message", "id": id, "status": status, "role": "assistant",
        "content": [text_part(text)]})
}

/// The text in a message of the model's.
pub(crate) fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// A call of a function.
pub(crate) fn call_item(id: &str, call: &ToolCall, status: &str) -> Value {
    json!({"type": "function_call", "id": id, "call_id": call.id, "name": call.name,
        "arguments": call.arguments, "status": status})
}

/// The ids of a run's calls.
pub(crate) fn call_item_ids(run: &Run) -> Vec<String> {
    run.call_messages().iter().map(|id| format!("fc_{}", hex(id.to_bytes()))).collect()
}

/// What came of a run.
pub(crate) fn output(run: &Run) -> Vec<Value> {
    let status = if run.status == RunStatus::Succeeded { "completed" } else { "incomplete" };
    let text = run.reply.as_deref().filter(|text| !text.is_empty());
    let said = text.map(|text| text_item(&text_item_id(run.id), text, status));
    let ids = call_item_ids(run);
    let calls = ids.iter().zip(&run.calls).map(|(id, call)| call_item(id, call, "completed"));
    said.into_iter().chain(calls).collect()
}

/// What a run was asked, as items.
pub(crate) fn input(run: &Run) -> Vec<Value> {
    let turn = match run.request.turn.as_slice() {
        [] => vec![ChatMessage::said(MessageRole::User, run.request.input.clone())],
        turn => turn.to_vec(),
    };
    // Without ids of its own while it waits, those that follow its own.
    let first = run.message.unwrap_or(MessageId::from_bytes(run.id.to_bytes()));
    let ids = (0..).map(|at| first.following(at).to_bytes());
    ids.zip(&turn).map(|(id, said)| item(id, said)).collect()
}

/// A page of items: at most so many, behind one of them.
pub(crate) fn page(mut items: Vec<Value>, after: Option<&str>, limit: usize) -> Value {
    if let Some(after) = after {
        let at = items.iter().position(|item| item["id"] == after);
        items.drain(..at.map_or(items.len(), |at| at + 1));
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    list(&items, has_more)
}

/// A page that is complete.
pub(crate) fn list(items: &[Value], has_more: bool) -> Value {
    let id = |item: Option<&Value>| item.map(|item| item["id"].clone());
    json!({"object": "list", "first_id": id(items.first()), "last_id": id(items.last()),
        "has_more": has_more, "data": items})
}

/// Items as clients send them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Items {
    /// At most.
    pub(crate) max: usize,
    /// Whether text alone will do, which is the user's.
    pub(crate) or_text: bool,
}

impl Kind for Items {
    type Out = Vec<ChatMessage>;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let types = if self.or_text { vec![Type::String, Type::Array] } else { vec![Type::Array] };
        let item = json!({"type": "message", "role": "user", "content": "Hello"});
        let schema = ObjectBuilder::new().schema_type(SchemaType::Array(types));
        Schema::Object(schema.examples([json!([item])]).build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<ChatMessage>> {
        let items = match value {
            Value::String(_) if self.or_text => {
                return Some(vec![ChatMessage::User { parts: parts(&value, site)? }]);
            }
            Value::Array(items) => items,
            _ if self.or_text => {
                return site.fault("wrong_type", "must be text or a list of items");
            }
            _ => return site.fault("wrong_type", "must be a list of items"),
        };
        if items.len() > self.max {
            return site.fault("too_long", format!("must have {} items at most", self.max));
        }
        // What a model thought came with the rest of an earlier answer, and goes back with it:
        // what of it this server needs it has itself.
        let said = items.iter().enumerate().filter(|(_, item)| item["type"] != "reasoning");
        said.map(|(at, item)| read_item(at, item, site)).collect()
    }

    fn placeholder(&self) -> Vec<ChatMessage> {
        Vec::new()
    }
}

fn read_item(at: usize, item: &Value, site: &mut Site<'_>) -> Option<ChatMessage> {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    match text("type") {
        None | Some("message") => read_message(at, item, site),
        Some("function_call") => match (text("call_id"), text("name"), text("arguments")) {
            (Some(id), Some(name), Some(arguments)) if is_call_id(id) => {
                let (id, name) = (id.to_owned(), name.to_owned());
                let arguments = arguments.to_owned();
                let call = ToolCall { id, name, arguments, signature: None };
                Some(ChatMessage::called("", vec![call]))
            }
            _ => site.fault(
                "wrong_type",
                format!("item {at}: a call has a call_id, a name and arguments"),
            ),
        },
        Some("function_call_output") => {
            let output = item.get("output").unwrap_or(&Value::Null);
            let content = parts(output, site)?;
            if content.iter().any(|part| part.as_text().is_none()) {
                let detail = format!("item {at}: the output of a function is text");
                return site.fault(NOT_SUPPORTED_YET, detail);
            }
            let Some(call_id) = text("call_id").filter(|id| is_call_id(id)) else {
                return site.fault("wrong_type", format!("item {at} has no call_id"));
            };
            Some(ChatMessage::Tool(ToolResult {
                call_id: call_id.to_owned(),
                name: String::new(),
                content: content.iter().filter_map(Part::as_text).collect(),
                is_error: false,
            }))
        }
        Some(other) => {
            site.fault(NOT_SUPPORTED_YET, format!("item {at}: there are no {other:?} yet"))
        }
    }
}

fn read_message(at: usize, item: &Value, site: &mut Site<'_>) -> Option<ChatMessage> {
    let Some(content) = item.get("content") else {
        return site.fault("wrong_type", format!("item {at} has no content"));
    };
    let parts = parts(content, site)?;
    let has_image = parts.iter().any(|part| matches!(part, Part::Image(_)));
    let role = item.get("role").and_then(Value::as_str);
    if has_image && role != Some("user") {
        return site.fault(NOT_SUPPORTED_YET, format!("item {at}: only the user shows images"));
    }
    let text = || parts.iter().filter_map(Part::as_text).collect::<String>();
    match role {
        Some("user") => Some(ChatMessage::User { parts }),
        Some("assistant") => Some(ChatMessage::said(MessageRole::Assistant, text())),
        Some("system" | "developer") => Some(ChatMessage::System { text: text() }),
        Some(_) | None => {
            let detail = format!("item {at}: role must be user, assistant, system or developer");
            site.fault("not_allowed", detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let run = RunId::from_bytes([0xab; 16]);
        let written = response_id(run);
        assert_eq!(written, format!("resp_{}", "ab".repeat(16)));
        assert_eq!(id_behind(&written, &["resp_"]), Some(run.to_bytes()));
        assert_eq!(item_message(&text_item_id(run)).map(MessageId::to_bytes), Some([0xab; 16]));
        for wrong in ["", "resp_", "resp_xyz", "msg_ab", &"ab".repeat(16)] {
            assert_eq!(id_behind(wrong, &["resp_"]), None, "{wrong}");
        }
    }

    #[test]
    fn pages_begin_behind_an_item() {
        let items = || (0..5).map(|id| json!({"id": id.to_string()})).collect::<Vec<_>>();
        let ids = |page: &Value| {
            let data = page["data"].as_array().unwrap();
            data.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<String>()
        };
        let first = page(items(), None, 2);
        assert_eq!((ids(&first).as_str(), &first["has_more"]), ("01", &json!(true)));
        let last = page(items(), Some("2"), 2);
        assert_eq!((ids(&last).as_str(), &last["has_more"]), ("34", &json!(false)));
        assert_eq!(ids(&page(items(), Some("nobody"), 2)), "");
    }
}
