//! Google's `generateContent`, of the Gemini API and of Vertex AI alike; what
//! differs is where it is and who one is ([`crate::vertex`]). Calls have no ids of
//! their own as a rule and are matched by name, so that ids are made here.

use agentry_domain::chat::{ChatMessage, ImageSource, Part, ResponseFormat, ToolChoice};
use agentry_domain::runs::Usage;
use agentry_domain::{Code, Error, Result};
use agentry_outbound::Url;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, CallPiece, delta, other_reason};
use crate::failures;
use crate::model::{FinishReason, ModelEvent, ModelRequest};
use crate::parameters::{Parameters, arguments};
use crate::prompt;
use crate::provider::{Dialect, Endpoint};

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");
/// Models that reason want back the signature of each call of theirs. A call that came by
/// another protocol has none; this is the provider's own word for that.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";
/// What is not a setting.
const OURS: &[&str] =
    &["model", "contents", "messages", "systemInstruction", "stream", "tools", "toolConfig"];
/// Why an answer was held back.
const FILTERS: &[&str] = &[
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "LANGUAGE",
];

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemini;

#[async_trait]
impl Dialect for Gemini {
    fn url(&self, base: &Url, model: &str) -> Option<Url> {
        url(base, &["models", model])
    }

    async fn headers(&self, endpoint: &Endpoint, _request: &ModelRequest) -> Result<HeaderMap> {
        Ok(endpoint.key_header(API_KEY, ""))
    }

    fn body(&self, _model: &str, request: &ModelRequest) -> Result<Value> {
        body(request)
    }

    fn read(
        &self,
        endpoint: &Endpoint,
        data: &str,
        answer: &mut Answer,
    ) -> Result<Vec<ModelEvent>> {
        read(endpoint, data, answer)
    }
}

/// Where a model streams, below a base.
pub(crate) fn url(base: &Url, path: &[&str]) -> Option<Url> {
    let (model, path) = path.split_last()?;
    // It becomes one segment of the path, whatever is in it.
    let model = format!("{model}:streamGenerateContent");
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(path).push(&model);
    url.query_pairs_mut().append_pair("alt", "sse");
    Some(url)
}

/// The request.
pub(crate) fn body(request: &ModelRequest) -> Result<Value> {
    let mut system: Vec<String> = prompt::system(request).into_iter().collect();
    let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for message in &request.messages {
        let (role, parts) = match message {
            ChatMessage::System { text } => {
                system.push(text.clone());
                continue;
            }
            ChatMessage::User { parts } => ("user", parts.iter().map(part).collect::<Result<_>>()?),
            ChatMessage::Assistant { text, calls, .. } => {
                let said = (!text.is_empty()).then(|| json!({"text": text}));
                let mut parts: Vec<Value> = said.into_iter().collect();
                // Of calls that are made at once, the first one has the signature of all.
                let is_signed = calls.iter().any(|call| call.signature.is_some());
                for call in calls {
                    let args = arguments(&call.arguments)?;
                    let mut part = json!({"functionCall": {"name": call.name, "args": args}});
                    let signature = call.signature.as_deref();
                    if let Some(signature) = signature.or((!is_signed).then_some(NO_SIGNATURE)) {
                        part["thoughtSignature"] = signature.into();
                    }
                    parts.push(part);
                }
                ("model", parts)
            }
            ChatMessage::Tool(result) => {
                let word = if result.is_error { "error" } else { "output" };
                // An object as it is, and anything else in one.
                let response = match serde_json::from_str::<Value>(&result.content) {
                    Ok(value @ Value::Object(_)) if !result.is_error => value,
                    Ok(_) | Err(_) => json!({word: result.content}),
                };
                let response = json!({"name": result.name, "response": response});
                ("user", vec![json!({"functionResponse": response})])
            }
        };
        match turns.last_mut() {
            Some((before, earlier)) if *before == role => earlier.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    turns.retain(|(_, parts)| !parts.is_empty());
    let turn = |(role, parts)| json!({"role": role, "parts": Value::Array(parts)});
    let contents: Vec<Value> = turns.into_iter().map(turn).collect();
    let mut body = Map::new();
    let (config, rest) = config(request)?;
    body.extend(rest);
    body.insert("contents".to_owned(), contents.into());
    if !system.is_empty() {
        let parts = json!([{"text": system.join("\n\n")}]);
        body.insert("systemInstruction".to_owned(), json!({"parts": parts}));
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    insert_tools(&mut body, request)?;
    Ok(Value::Object(body))
}

/// `generationConfig`, and what stands beside it.
fn config(request: &ModelRequest) -> Result<(Map<String, Value>, Map<String, Value>)> {
    let mut parameters = Parameters::of(&request.parameters, OURS);
    let (mut config, mut rest) = (Map::new(), Map::new());
    parameters.to("generationConfig", &mut rest, "generationConfig");
    if let Some(Value::Object(given)) = rest.remove("generationConfig") {
        config = given;
    }
    if let Some(tokens_max) = parameters.tokens_max() {
        config.insert("maxOutputTokens".to_owned(), tokens_max);
    }
    if let Some(stops) = parameters.stops() {
        config.insert("stopSequences".to_owned(), stops);
    }
    for (name, as_name) in [
        ("temperature", "temperature"),
        ("top_p", "topP"),
        ("top_k", "topK"),
        ("seed", "seed"),
        ("presence_penalty", "presencePenalty"),
        ("frequency_penalty", "frequencyPenalty"),
    ] {
        parameters.to(name, &mut config, as_name);
    }
    parameters.rest("Google's protocol", &mut rest)?;
    match &request.response_format {
        ResponseFormat::Text => {}
        ResponseFormat::JsonObject => {
            config.insert("responseMimeType".to_owned(), "application/json".into());
        }
        ResponseFormat::JsonSchema { schema, .. } => {
            config.insert("responseMimeType".to_owned(), "application/json".into());
            config.insert("responseJsonSchema".to_owned(), schema.clone());
        }
    }
    Ok((config, rest))
}

fn part(part: &Part) -> Result<Value> {
    match part {
        Part::Text { text } => Ok(json!({"text": text})),
        Part::Image(image) => match &image.source {
            ImageSource::Inline { media_type, base64 } => {
                Ok(json!({"inlineData": {"mimeType": media_type, "data": base64}}))
            }
            // Only files that were uploaded there, and those of a bucket, have addresses.
            ImageSource::Url(url) if url.starts_with("gs://") || url.contains("/v1beta/files/") => {
                Ok(json!({"fileData": {"fileUri": url}}))
            }
            ImageSource::Url(_) => Err(Error::new(
                Code::ModelRejected,
                "Google's protocol takes images in the message (data:), not by an address",
            )),
        },
    }
}

fn insert_tools(body: &mut Map<String, Value>, request: &ModelRequest) -> Result<()> {
    if request.tools.is_empty() {
        return Ok(());
    }
    if request.parallel_tool_calls == Some(false) {
        return Err(Error::new(
            Code::ModelRejected,
            "Google's protocol cannot be held to one tool call at a time",
        ));
    }
    let declarations: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| {
            json!({"name": tool.name, "description": tool.description,
                "parametersJsonSchema": tool.parameters})
        })
        .collect();
    body.insert("tools".to_owned(), json!([{"functionDeclarations": declarations}]));
    let calling = match &request.tool_choice {
        ToolChoice::Auto => json!({"mode": "AUTO"}),
        ToolChoice::None => json!({"mode": "NONE"}),
        ToolChoice::Required => json!({"mode": "ANY"}),
        ToolChoice::Tool(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
    };
    body.insert("toolConfig".to_owned(), json!({"functionCallingConfig": calling}));
    Ok(())
}

/// Takes one document of a stream.
pub(crate) fn read(
    endpoint: &Endpoint,
    data: &str,
    answer: &mut Answer,
) -> Result<Vec<ModelEvent>> {
    let chunk: Chunk =
        serde_json::from_str(data).map_err(|error| failures::unreadable(endpoint, error))?;
    if let Some(error) = &chunk.error {
        return Err(failures::of_error_object(endpoint, error));
    }
    if let Some(counted) = chunk.usage_metadata {
        let written = counted.candidates_token_count;
        let thought = counted.thoughts_token_count.unwrap_or(0);
        answer.usage = Some(Usage {
            input_tokens: counted.prompt_token_count,
            cached_input_tokens: counted.cached_content_token_count,
            output_tokens: written.map(|written| written.saturating_add(thought)),
            cost_nanos: None,
        });
    }
    if chunk.prompt_feedback.is_some_and(|feedback| feedback.block_reason.is_some()) {
        answer.begun = true;
        answer.finish = Some(FinishReason::Filtered);
    }
    let candidate = chunk.candidates.and_then(|all| all.into_iter().next());
    let Some(candidate) = candidate else { return Ok(Vec::new()) };
    answer.begun = true;
    if let Some(reason) = &candidate.finish_reason {
        answer.finish = Some(finish_reason(reason));
    }
    let mut said = String::new();
    for part in candidate.content.and_then(|content| content.parts).into_iter().flatten() {
        if let Some(call) = part.function_call {
            let arguments = call.args.unwrap_or_else(|| json!({})).to_string();
            let number = answer.calls();
            let id = call.id.filter(|id| !id.is_empty()).unwrap_or_else(|| {
                format!("call_{}_{number}", chunk.response_id.as_deref().unwrap_or("0"))
            });
            let piece = CallPiece {
                key: number,
                id: &id,
                name: &call.name,
                arguments: &arguments,
                signature: part.thought_signature.as_deref(),
            };
            answer.call(&piece).map_err(|error| failures::unreadable(endpoint, error))?;
        }
        if !part.thought.unwrap_or(false) {
            said.push_str(&part.text.unwrap_or_default());
        }
    }
    Ok(delta(said))
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        word if FILTERS.contains(&word) => FinishReason::Filtered,
        other => other_reason(&other.to_ascii_lowercase()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk {
    candidates: Option<Vec<Candidate>>,
    usage_metadata: Option<Counted>,
    prompt_feedback: Option<Feedback>,
    response_id: Option<String>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    parts: Option<Vec<Said>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    text: Option<String>,
    thought: Option<bool>,
    thought_signature: Option<String>,
    function_call: Option<Called>,
}

#[derive(Deserialize)]
struct Called {
    id: Option<String>,
    name: String,
    args: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counted {
    prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
}
