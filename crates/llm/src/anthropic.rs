//! Anthropic's Messages protocol. Turns alternate there, so that what stands side by
//! side is one message of several blocks; results of tools are blocks of the user's.

use std::collections::{HashMap, HashSet};

use agentry_domain::chat::{ChatMessage, ImageSource, Part, Reasoning, ResponseFormat, ToolChoice};
use agentry_domain::runs::Usage;
use agentry_domain::{Code, Error, Result};
use agentry_outbound::Url;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::answer::{Answer, CallPiece, delta, other_reason};
use crate::failures;
use crate::model::{FinishReason, ModelEvent, ModelRequest};
use crate::parameters::{Parameters, arguments};
use crate::prompt;
use crate::provider::{Dialect, Endpoint};

const VERSION_NAME: HeaderName = HeaderName::from_static("anthropic-version");
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
/// The protocol wants a bound on the answer; this is one that every model takes.
const TOKENS_MAX_DEFAULT: u32 = 4_096;
/// What this is called where it is told apart from other protocols.
const PROTOCOL: &str = "anthropic";
/// Characters that the id of a call may have beside letters and digits.
const CALL_ID_MARKS: [char; 2] = ['_', '-'];
/// What is not a setting.
const OURS: &[&str] =
    &["model", "messages", "system", "stream", "tools", "tool_choice", "output_config"];

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anthropic;

#[async_trait]
impl Dialect for Anthropic {
    fn url(&self, base: &Url, _model: &str) -> Option<Url> {
        let mut url = base.clone();
        // Both forms of the base are in use.
        let has_version = url.path().trim_end_matches('/').ends_with("/v1");
        let path: &[&str] = if has_version { &["messages"] } else { &["v1", "messages"] };
        url.path_segments_mut().ok()?.pop_if_empty().extend(path);
        Some(url)
    }

    async fn headers(&self, endpoint: &Endpoint, _request: &ModelRequest) -> Result<HeaderMap> {
        // As the provider's own client does since its second version; `x-api-key`, the
        // older way, is taken too.
        let mut headers = endpoint.bearer();
        headers.insert(VERSION_NAME, VERSION);
        Ok(headers)
    }

    fn body(&self, model: &str, request: &ModelRequest) -> Result<Value> {
        let mut body = Map::new();
        let mut parameters = Parameters::of(&request.parameters, OURS);
        body.insert("model".to_owned(), model.into());
        let tokens_max = parameters.tokens_max().unwrap_or_else(|| TOKENS_MAX_DEFAULT.into());
        body.insert("max_tokens".to_owned(), tokens_max);
        if let Some(stops) = parameters.stops() {
            body.insert("stop_sequences".to_owned(), stops);
        }
        parameters.to("temperature", &mut body, "temperature");
        parameters.to("top_p", &mut body, "top_p");
        parameters.rest("Anthropic's protocol", &mut body)?;
        let (system, messages) = conversation(request)?;
        if !system.is_empty() {
            body.insert("system".to_owned(), system.join("\n\n").into());
        }
        body.insert("messages".to_owned(), messages.into());
        body.insert("stream".to_owned(), true.into());
        insert_tools(&mut body, request);
        match &request.response_format {
            ResponseFormat::Text => {}
            ResponseFormat::JsonObject => {
                return Err(Error::new(
                    Code::ModelRejected,
                    "Anthropic's protocol has JSON by a schema only (json_schema)",
                ));
            }
            ResponseFormat::JsonSchema { schema, .. } => {
                let format = json!({"type": "json_schema", "schema": schema});
                body.insert("output_config".to_owned(), json!({"format": format}));
            }
        }
        Ok(Value::Object(body))
    }

    fn read(
        &self,
        endpoint: &Endpoint,
        data: &str,
        answer: &mut Answer,
    ) -> Result<Vec<ModelEvent>> {
        let event: Event =
            serde_json::from_str(data).map_err(|error| failures::unreadable(endpoint, error))?;
        answer.begun = true;
        match event {
            Event::MessageStart { message } => {
                count(answer, &message.usage.unwrap_or_default());
            }
            Event::ContentBlockStart { index, content_block } => match &content_block {
                Block::Text { text } => return Ok(delta(text.clone())),
                Block::ToolUse { id, name } => {
                    let piece = CallPiece { key: index, id, name, ..CallPiece::default() };
                    answer.call(&piece).map_err(|error| failures::unreadable(endpoint, error))?;
                }
                Block::Thinking { .. } | Block::RedactedThinking { .. } => {
                    let block = serde_json::to_value(&content_block).map_err(Error::internal)?;
                    let taken = answer.thought(index, PROTOCOL, block);
                    taken.map_err(|error| failures::unreadable(endpoint, error))?;
                }
                Block::Other => {}
            },
            Event::ContentBlockDelta { index, delta: piece } => match piece {
                Piece::TextDelta { text } => return Ok(delta(text)),
                Piece::InputJsonDelta { partial_json } => {
                    let piece =
                        CallPiece { key: index, arguments: &partial_json, ..CallPiece::default() };
                    answer.call(&piece).map_err(|error| failures::unreadable(endpoint, error))?;
                }
                Piece::ThinkingDelta { thinking } => {
                    let taken = answer.thought_more(index, "thinking", &thinking);
                    taken.map_err(|error| failures::unreadable(endpoint, error))?;
                }
                Piece::SignatureDelta { signature } => {
                    let taken = answer.thought_more(index, "signature", &signature);
                    taken.map_err(|error| failures::unreadable(endpoint, error))?;
                }
                Piece::Other => {}
            },
            Event::MessageDelta { delta, usage } => {
                if let Some(reason) = delta.stop_reason {
                    answer.finish = Some(finish_reason(&reason));
                }
                count(answer, &usage.unwrap_or_default());
            }
            Event::MessageStop => return answer.cut(|| failures::incomplete(endpoint)),
            Event::Error { error } => return Err(failures::of_error_object(endpoint, &error)),
            Event::Other => {}
        }
        Ok(Vec::new())
    }
}

/// The instructions, and the turns.
fn conversation(request: &ModelRequest) -> Result<(Vec<String>, Vec<Value>)> {
    let mut system: Vec<String> = prompt::system(request).into_iter().collect();
    let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
    let mut ids = CallIds::default();
    // Who switched it off has no use for what was thought before.
    let thinks = request.parameters.get("thinking").is_none_or(|it| it["type"] != "disabled");
    for message in &request.messages {
        let (role, blocks) = match message {
            ChatMessage::System { text } => {
                system.push(text.clone());
                continue;
            }
            ChatMessage::User { parts } => ("user", parts.iter().map(block).collect()),
            ChatMessage::Assistant { text, calls, reasoning } => {
                let ours = |it: &&Reasoning| thinks && it.protocol == PROTOCOL;
                let thought = reasoning.iter().filter(ours).map(|it| it.block.clone());
                let mut blocks: Vec<Value> = thought.collect();
                // An empty block of text is refused.
                if !text.is_empty() {
                    blocks.push(json!({"type": "text", "text": text}));
                }
                for call in calls {
                    let input = arguments(&call.arguments)?;
                    let id = ids.of_call(&call.id);
                    blocks.push(json!({"type": "tool_use", "id": id, "name": call.name,
                        "input": input}));
                }
                ("assistant", blocks)
            }
            ChatMessage::Tool(result) => {
                let id = ids.of_result(&result.call_id);
                let mut block = json!({"type": "tool_result", "tool_use_id": id,
                    "content": result.content});
                if result.is_error {
                    block["is_error"] = true.into();
                }
                ("user", vec![block])
            }
        };
        match turns.last_mut() {
            Some((before, earlier)) if *before == role => earlier.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    turns.retain(|(_, blocks)| !blocks.is_empty());
    let turn = |(role, blocks)| json!({"role": role, "content": Value::Array(blocks)});
    Ok((system, turns.into_iter().map(turn).collect()))
}

/// The ids of calls as this protocol takes them: of few characters, and each once. Those of
/// earlier runs may be another provider's, which counts from 0 in each answer.
#[derive(Default)]
struct CallIds {
    taken: HashSet<String>,
    open: HashMap<String, String>,
}

impl CallIds {
    fn of_call(&mut self, id: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || CALL_ID_MARKS.contains(&c);
        let plain: String = id.chars().map(|c| if fits(c) { c } else { '_' }).collect();
        let mut own = plain.clone();
        let mut n = 1;
        while !self.taken.insert(own.clone()) {
            n += 1;
            own = format!("{plain}-{n}");
        }
        self.open.insert(id.to_owned(), own.clone());
        own
    }

    fn of_result(&mut self, id: &str) -> String {
        self.open.remove(id).unwrap_or_else(|| id.to_owned())
    }
}

fn block(part: &Part) -> Value {
    match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Image(image) => {
            let source = match &image.source {
                ImageSource::Url(url) => json!({"type": "url", "url": url}),
                ImageSource::Inline { media_type, base64 } => {
                    json!({"type": "base64", "media_type": media_type, "data": base64})
                }
            };
            json!({"type": "image", "source": source})
        }
    }
}

fn insert_tools(body: &mut Map<String, Value>, request: &ModelRequest) {
    if request.tools.is_empty() {
        insert_tools_called(body, request);
        return;
    }
    let tools = request.tools.iter().map(|tool| {
        let mut spec = json!({"name": tool.name, "input_schema": tool.parameters});
        if !tool.description.is_empty() {
            spec["description"] = tool.description.as_str().into();
        }
        if tool.strict {
            spec["strict"] = true.into();
        }
        spec
    });
    body.insert("tools".to_owned(), tools.collect());
    let mut choice = match &request.tool_choice {
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::None => json!({"type": "none"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Tool(name) => json!({"type": "tool", "name": name}),
    };
    match request.parallel_tool_calls {
        Some(parallel) if request.tool_choice != ToolChoice::None => {
            choice["disable_parallel_tool_use"] = (!parallel).into();
        }
        _ => {}
    }
    body.insert("tool_choice".to_owned(), choice);
}

/// Tools that were called earlier in the conversation have to be known, also where none may
/// be called any more.
fn insert_tools_called(body: &mut Map<String, Value>, request: &ModelRequest) {
    let mut names: Vec<&str> = Vec::new();
    for message in &request.messages {
        let ChatMessage::Assistant { calls, .. } = message else { continue };
        for call in calls {
            if !names.contains(&call.name.as_str()) {
                names.push(&call.name);
            }
        }
    }
    if names.is_empty() {
        return;
    }
    let tool = |name: &str| json!({"name": name, "input_schema": {"type": "object"}});
    body.insert("tools".to_owned(), names.into_iter().map(tool).collect());
    body.insert("tool_choice".to_owned(), json!({"type": "none"}));
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::Filtered,
        other => other_reason(other),
    }
}

/// Counts are told twice, and the later ones are of the whole message.
fn count(answer: &mut Answer, counted: &Counted) {
    let usage = answer.usage.get_or_insert_with(Usage::default);
    if let Some(input) = counted.input_tokens {
        let read = counted.cache_read_input_tokens.unwrap_or(0);
        let written = counted.cache_creation_input_tokens.unwrap_or(0);
        usage.input_tokens = Some(input.saturating_add(read).saturating_add(written));
        usage.cached_input_tokens = counted.cache_read_input_tokens;
    }
    if counted.output_tokens.is_some() {
        usage.output_tokens = counted.output_tokens;
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Started,
    },
    ContentBlockStart {
        index: u64,
        content_block: Block,
    },
    ContentBlockDelta {
        index: u64,
        delta: Piece,
    },
    MessageDelta {
        delta: Ended,
        usage: Option<Counted>,
    },
    MessageStop,
    Error {
        error: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Started {
    usage: Option<Counted>,
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        #[serde(default)]
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
    },
    Thinking {
        #[serde(default)]
        thinking: String,
        #[serde(default)]
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Piece {
    TextDelta {
        text: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    SignatureDelta {
        signature: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Ended {
    stop_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Counted {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}
