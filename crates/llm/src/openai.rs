//! OpenAI's chat completions, which most other servers speak too. Unknown fields of
//! an answer are passed over, since every server adds its own.

use agentry_domain::Result;
use agentry_domain::chat::{
    ChatMessage, Image, ImageSource, Part, Reasoning, ResponseFormat, ToolChoice, ToolSpec,
};
use agentry_domain::runs::Usage;
use agentry_outbound::Url;
use async_trait::async_trait;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, CallPiece, delta};
use crate::embeddings::{EmbeddingDialect, numbers};
use crate::failures;
use crate::model::{FinishReason, ModelEvent, ModelRequest};
use crate::prompt;
use crate::provider::{Dialect, Endpoint};

/// What ends a stream.
const DONE: &str = "[DONE]";
/// What this is called where it is told apart from other protocols.
const PROTOCOL: &str = "openai";
/// Where servers say what their model thought, who want it back while it calls tools.
const REASONING_CONTENT: &str = "reasoning_content";
/// Characters kept of a finish reason that we do not know.
const FINISH_REASON_CHARS_MAX: usize = 64;

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenAi;

#[async_trait]
impl Dialect for OpenAi {
    fn url(&self, base: &Url, _model: &str) -> Option<Url> {
        let mut url = base.clone();
        url.path_segments_mut().ok()?.pop_if_empty().extend(["chat", "completions"]);
        Some(url)
    }

    async fn headers(&self, endpoint: &Endpoint, _request: &ModelRequest) -> Result<HeaderMap> {
        Ok(endpoint.bearer())
    }

    fn body(&self, model: &str, request: &ModelRequest) -> Result<Value> {
        let system = prompt::system(request);
        let system = system.map(|text| json!({"role": "system", "content": text}));
        // What was thought before the user spoke last is not wanted any more.
        let asked = |message: &ChatMessage| matches!(message, ChatMessage::User { .. });
        let turn = request.messages.iter().rposition(asked).unwrap_or(0);
        let said = request.messages.iter().enumerate().map(|(at, said)| message(said, at > turn));
        let messages: Vec<Value> = system.into_iter().chain(said).collect();
        // `parameters` go to the top level but cannot replace what we set ourselves.
        let mut body = request.parameters.clone();
        body.insert("model".to_owned(), model.into());
        body.insert("messages".to_owned(), messages.into());
        body.insert("stream".to_owned(), true.into());
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        insert_tools(&mut body, request);
        match &request.response_format {
            ResponseFormat::Text => {}
            format => {
                body.insert("response_format".to_owned(), response_format(format));
            }
        }
        Ok(Value::Object(body))
    }

    fn embeddings(&self) -> Option<&dyn EmbeddingDialect> {
        Some(self)
    }

    fn read(
        &self,
        endpoint: &Endpoint,
        data: &str,
        answer: &mut Answer,
    ) -> Result<Vec<ModelEvent>> {
        if data.trim() == DONE {
            // Some servers say that they are done, and not why.
            if answer.begun {
                answer.finish.get_or_insert(FinishReason::Stop);
            }
            return answer.cut(|| failures::incomplete(endpoint));
        }
        let chunk = parse(endpoint, data.as_bytes())?;
        answer.begun |= chunk.choices.is_some();
        if let Some(usage) = chunk.usage {
            answer.usage = Some(usage.into());
        }
        let Some(choice) = chunk.choices.and_then(first) else { return Ok(Vec::new()) };
        if let Some(reason) = &choice.finish_reason {
            answer.finish = Some(finish_reason(reason));
        } else if choice.message.is_some() {
            // A whole completion, which some servers give no reason for.
            answer.finish.get_or_insert(FinishReason::Stop);
        }
        let Some(mut said) = choice.delta.or(choice.message) else { return Ok(Vec::new()) };
        for (at, call) in said.tool_calls.take().into_iter().flatten().enumerate() {
            let function = call.function.unwrap_or_default();
            let piece = CallPiece {
                key: call.index.unwrap_or(at as u64),
                id: call.id.as_deref().unwrap_or_default(),
                name: function.name.as_deref().unwrap_or_default(),
                arguments: function.arguments.as_deref().unwrap_or_default(),
                signature: None,
            };
            answer.call(&piece).map_err(|error| failures::unreadable(endpoint, error))?;
        }
        if let Some(thought) = said.reasoning_content.take().filter(|text| !text.is_empty()) {
            let taken = match answer.has_thought(0) {
                true => answer.thought_more(0, REASONING_CONTENT, &thought),
                false => answer.thought(0, PROTOCOL, json!({REASONING_CONTENT: thought})),
            };
            taken.map_err(|error| failures::unreadable(endpoint, error))?;
        }
        Ok(delta(said.text()))
    }
}

impl EmbeddingDialect for OpenAi {
    fn embedding_url(&self, base: &Url) -> Option<Url> {
        let mut url = base.clone();
        url.path_segments_mut().ok()?.pop_if_empty().push("embeddings");
        Some(url)
    }

    fn embedding_body(&self, model: &str, texts: &[&str]) -> Value {
        json!({"model": model, "input": texts, "encoding_format": "float"})
    }

    fn embedding_read(&self, mut answer: Value) -> Option<Vec<Vec<f64>>> {
        let data = answer["data"].as_array_mut()?;
        // Some servers leave the index out, and keep the order.
        data.sort_by_key(|item| item["index"].as_u64().unwrap_or(0));
        data.iter().map(|item| numbers(&item["embedding"])).collect()
    }
}

/// A message of the conversation, with what was thought for it or without.
fn message(message: &ChatMessage, with_reasoning: bool) -> Value {
    match message {
        ChatMessage::System { text } => json!({"role": "system", "content": text}),
        ChatMessage::User { parts } => match parts.as_slice() {
            [Part::Text { text }] => json!({"role": "user", "content": text}),
            parts => {
                let parts: Vec<Value> = parts.iter().map(part).collect();
                json!({"role": "user", "content": parts})
            }
        },
        ChatMessage::Assistant { text, calls, .. } if calls.is_empty() => {
            json!({"role": "assistant", "content": text})
        }
        ChatMessage::Assistant { text, calls, reasoning } => {
            let call = |call: &agentry_domain::chat::ToolCall| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            };
            let calls: Vec<Value> = calls.iter().map(call).collect();
            let content = if text.is_empty() { Value::Null } else { text.as_str().into() };
            let mut said = json!({"role": "assistant", "content": content, "tool_calls": calls});
            let ours = |it: &&Reasoning| with_reasoning && it.protocol == PROTOCOL;
            for thought in reasoning.iter().filter(ours) {
                said[REASONING_CONTENT] = thought.block[REASONING_CONTENT].clone();
            }
            said
        }
        ChatMessage::Tool(result) => {
            json!({"role": "tool", "tool_call_id": result.call_id, "content": result.content})
        }
    }
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Image(Image { source, detail }) => {
            let url = match source {
                ImageSource::Url(url) => url.clone(),
                ImageSource::Inline { media_type, base64 } => {
                    format!("data:{media_type};base64,{base64}")
                }
            };
            let mut image = json!({"url": url});
            if let Some(detail) = detail {
                image["detail"] = detail.as_str().into();
            }
            json!({"type": "image_url", "image_url": image})
        }
    }
}

/// A tool in OpenAI's form, which Ollama takes too.
pub(crate) fn tool(tool: &ToolSpec) -> Value {
    let mut function = json!({"name": tool.name, "parameters": tool.parameters});
    if !tool.description.is_empty() {
        function["description"] = tool.description.as_str().into();
    }
    if tool.strict {
        function["strict"] = true.into();
    }
    json!({"type": "function", "function": function})
}

fn insert_tools(body: &mut Map<String, Value>, request: &ModelRequest) {
    if request.tools.is_empty() {
        return;
    }
    body.insert("tools".to_owned(), request.tools.iter().map(tool).collect());
    match &request.tool_choice {
        ToolChoice::Auto => {}
        ToolChoice::None => {
            body.insert("tool_choice".to_owned(), "none".into());
        }
        ToolChoice::Required => {
            body.insert("tool_choice".to_owned(), "required".into());
        }
        ToolChoice::Tool(name) => {
            let choice = json!({"type": "function", "function": {"name": name}});
            body.insert("tool_choice".to_owned(), choice);
        }
    }
    if let Some(parallel) = request.parallel_tool_calls {
        body.insert("parallel_tool_calls".to_owned(), parallel.into());
    }
}

fn response_format(format: &ResponseFormat) -> Value {
    match format {
        ResponseFormat::Text => json!({"type": "text"}),
        ResponseFormat::JsonObject => json!({"type": "json_object"}),
        ResponseFormat::JsonSchema { name, description, schema, strict } => {
            let mut form = json!({"name": name, "schema": schema, "strict": strict});
            if let Some(description) = description {
                form["description"] = description.as_str().into();
            }
            json!({"type": "json_schema", "json_schema": form})
        }
    }
}

fn finish_reason(word: &str) -> FinishReason {
    FinishReason::parse(&word.chars().take(FINISH_REASON_CHARS_MAX).collect::<String>())
}

fn parse(endpoint: &Endpoint, body: &[u8]) -> Result<Chunk> {
    let chunk: Chunk =
        serde_json::from_slice(body).map_err(|error| failures::unreadable(endpoint, error))?;
    match &chunk.error {
        Some(error) if !error.is_null() => Err(failures::of_error_object(endpoint, error)),
        // vLLM's form of an error within a stream.
        _ if chunk.object.as_deref() == Some("error") => {
            let error: Value = serde_json::from_slice(body)
                .map_err(|error| failures::unreadable(endpoint, error))?;
            Err(failures::of_error_object(endpoint, &error))
        }
        _ => Ok(chunk),
    }
}

/// Several choices come only when `parameters` asked for them; a run has one
/// reply.
fn first(choices: Vec<Choice>) -> Option<Choice> {
    choices.into_iter().find(|choice| choice.index.unwrap_or(0) == 0)
}

#[derive(Deserialize)]
struct Chunk {
    object: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<Counted>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u64>,
    delta: Option<Said>,
    message: Option<Said>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<Content>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Called>>,
    reasoning_content: Option<String>,
}

impl Said {
    fn text(self) -> String {
        match self.content {
            Some(Content::Text(text)) if !text.is_empty() => text,
            Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
            _ => self.refusal.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
struct Called {
    index: Option<u64>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Default, Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<TextPart>),
}

#[derive(Deserialize)]
struct TextPart {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Counted {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl From<Counted> for Usage {
    fn from(counted: Counted) -> Self {
        Self {
            input_tokens: counted.prompt_tokens,
            cached_input_tokens: counted.prompt_tokens_details.and_then(|it| it.cached_tokens),
            output_tokens: counted.completion_tokens,
            cost_nanos: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::sessions::MessageRole;
    use tokio::time::Instant;

    use super::*;

    fn request() -> ModelRequest {
        ModelRequest::new(vec![ChatMessage::said(MessageRole::User, "Hi")], Instant::now())
    }

    #[test]
    fn parameters_are_added_and_replace_nothing_of_ours() {
        let parameters = json!({"temperature": 0.5, "model": "x", "messages": [], "stream": false,
            "stream_options": null});
        let parameters = parameters.as_object().unwrap().clone();
        let expected = json!({"temperature": 0.5, "model": "m", "stream": true,
            "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "Hi"}]});
        let body = OpenAi.body("m", &ModelRequest { parameters, ..request() }).unwrap();
        assert_eq!(body, expected);
    }

    #[test]
    fn the_path_is_appended_to_the_base() {
        for (base, expected) in [
            ("http://host/v1", "http://host/v1/chat/completions"),
            ("http://host/v1/", "http://host/v1/chat/completions"),
            ("http://host", "http://host/chat/completions"),
            ("http://host/d/x?api-version=1", "http://host/d/x/chat/completions?api-version=1"),
        ] {
            assert_eq!(OpenAi.url(&base.parse().unwrap(), "m").unwrap().as_str(), expected);
        }
    }
}
