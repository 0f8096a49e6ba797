//! Ollama's own protocol: JSON documents one to a line. Calls have no ids and come
//! whole; a tool cannot be demanded.

use agentry_domain::chat::{ChatMessage, ImageSource, Part, ResponseFormat, ToolChoice};
use agentry_domain::runs::Usage;
use agentry_domain::{Code, Error, Result};
use agentry_outbound::Url;
use async_trait::async_trait;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, CallPiece, delta, other_reason};
use crate::embeddings::{EmbeddingDialect, numbers};
use crate::failures;
use crate::model::{FinishReason, ModelEvent, ModelRequest};
use crate::openai;
use crate::parameters::{Parameters, arguments};
use crate::prompt;
use crate::provider::{Dialect, Endpoint, Framing};

/// What is not a setting.
const OURS: &[&str] = &["model", "messages", "stream", "tools", "format"];

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ollama;

#[async_trait]
impl Dialect for Ollama {
    fn url(&self, base: &Url, _model: &str) -> Option<Url> {
        let mut url = base.clone();
        url.path_segments_mut().ok()?.pop_if_empty().extend(["api", "chat"]);
        Some(url)
    }

    fn embeddings(&self) -> Option<&dyn EmbeddingDialect> {
        Some(self)
    }

    fn framing(&self) -> Framing {
        Framing::Lines
    }

    async fn headers(&self, endpoint: &Endpoint, _request: &ModelRequest) -> Result<HeaderMap> {
        Ok(endpoint.bearer())
    }

    fn body(&self, model: &str, request: &ModelRequest) -> Result<Value> {
        let mut body = Map::new();
        let mut parameters = Parameters::of(&request.parameters, OURS);
        let mut options = Map::new();
        parameters.to("options", &mut body, "options");
        if let Some(Value::Object(given)) = body.remove("options") {
            options = given;
        }
        if let Some(tokens_max) = parameters.tokens_max() {
            options.insert("num_predict".to_owned(), tokens_max);
        }
        if let Some(stops) = parameters.stops() {
            options.insert("stop".to_owned(), stops);
        }
        for name in
            ["temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty"]
        {
            parameters.to(name, &mut options, name);
        }
        parameters.rest("Ollama's protocol", &mut body)?;
        let system = prompt::system(request);
        let system = system.map(|text| Ok(json!({"role": "system", "content": text})));
        let messages: Vec<Value> = system
            .into_iter()
            .chain(request.messages.iter().map(message))
            .collect::<Result<_>>()?;
        body.insert("model".to_owned(), model.into());
        body.insert("messages".to_owned(), messages.into());
        body.insert("stream".to_owned(), true.into());
        if !options.is_empty() {
            body.insert("options".to_owned(), Value::Object(options));
        }
        insert_tools(&mut body, request)?;
        match &request.response_format {
            ResponseFormat::Text => {}
            ResponseFormat::JsonObject => {
                body.insert("format".to_owned(), "json".into());
            }
            ResponseFormat::JsonSchema { schema, .. } => {
                body.insert("format".to_owned(), schema.clone());
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
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|error| failures::unreadable(endpoint, error))?;
        if let Some(error) = &chunk.error {
            return Err(failures::of_error_object(endpoint, &json!({"error": error})));
        }
        answer.begun = true;
        let said = chunk.message.unwrap_or_default();
        for call in said.tool_calls.into_iter().flatten() {
            let number = answer.calls();
            // When it was said tells this answer's calls from another's.
            let at: String = chunk
                .created_at
                .as_deref()
                .unwrap_or_default()
                .chars()
                .filter(char::is_ascii_digit)
                .collect();
            let id = format!("call_{at}_{number}");
            let arguments = call.function.arguments.unwrap_or_else(|| json!({})).to_string();
            let name = &call.function.name;
            let piece =
                CallPiece { key: number, id: &id, name, arguments: &arguments, signature: None };
            answer.call(&piece).map_err(|error| failures::unreadable(endpoint, error))?;
        }
        let mut events = delta(said.content.unwrap_or_default());
        if chunk.done.unwrap_or(false) {
            answer.finish = Some(finish_reason(chunk.done_reason.as_deref().unwrap_or("stop")));
            if chunk.prompt_eval_count.is_some() || chunk.eval_count.is_some() {
                answer.usage = Some(Usage {
                    input_tokens: chunk.prompt_eval_count,
                    output_tokens: chunk.eval_count,
                    ..Usage::default()
                });
            }
            events.extend(answer.cut(|| failures::incomplete(endpoint))?);
        }
        Ok(events)
    }
}

impl EmbeddingDialect for Ollama {
    fn embedding_url(&self, base: &Url) -> Option<Url> {
        let mut url = base.clone();
        url.path_segments_mut().ok()?.pop_if_empty().extend(["api", "embed"]);
        Some(url)
    }

    fn embedding_body(&self, model: &str, texts: &[&str]) -> Value {
        json!({"model": model, "input": texts})
    }

    fn embedding_read(&self, answer: Value) -> Option<Vec<Vec<f64>>> {
        answer["embeddings"].as_array()?.iter().map(numbers).collect()
    }
}

fn message(message: &ChatMessage) -> Result<Value> {
    Ok(match message {
        ChatMessage::System { text } => json!({"role": "system", "content": text}),
        ChatMessage::User { parts } => {
            let mut images = Vec::new();
            for part in parts {
                match part {
                    Part::Text { .. } => {}
                    Part::Image(image) => match &image.source {
                        ImageSource::Inline { base64, .. } => images.push(base64.as_str()),
                        ImageSource::Url(_) => {
                            return Err(Error::new(
                                Code::ModelRejected,
                                "Ollama takes images in the message (data:), not by an address",
                            ));
                        }
                    },
                }
            }
            let mut said = json!({"role": "user", "content": message.text()});
            if !images.is_empty() {
                said["images"] = images.into();
            }
            said
        }
        ChatMessage::Assistant { text, calls, .. } => {
            let mut said = json!({"role": "assistant", "content": text});
            if !calls.is_empty() {
                let call = |call: &agentry_domain::chat::ToolCall| -> Result<Value> {
                    let arguments = arguments(&call.arguments)?;
                    Ok(json!({"function": {"name": call.name, "arguments": arguments}}))
                };
                said["tool_calls"] = calls.iter().map(call).collect::<Result<_>>()?;
            }
            said
        }
        ChatMessage::Tool(result) => {
            json!({"role": "tool", "tool_name": result.name, "content": result.content})
        }
    })
}

fn insert_tools(body: &mut Map<String, Value>, request: &ModelRequest) -> Result<()> {
    let refused = match (&request.tool_choice, request.parallel_tool_calls) {
        _ if request.tools.is_empty() => return Ok(()),
        // Without tools none is called.
        (ToolChoice::None, _) => return Ok(()),
        (ToolChoice::Required | ToolChoice::Tool(_), _) => "demand a tool",
        (ToolChoice::Auto, Some(false)) => "hold its model to one tool call at a time",
        (ToolChoice::Auto, _) => {
            body.insert("tools".to_owned(), request.tools.iter().map(openai::tool).collect());
            return Ok(());
        }
    };
    Err(Error::new(Code::ModelRejected, format!("Ollama cannot {refused}")))
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        other => other_reason(other),
    }
}

#[derive(Deserialize)]
struct Chunk {
    created_at: Option<String>,
    message: Option<Said>,
    done: Option<bool>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Said {
    content: Option<String>,
    tool_calls: Option<Vec<Called>>,
}

#[derive(Deserialize)]
struct Called {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: Option<Value>,
}
