//! The protocols that the server speaks, each as its own provider has it: where it is
//! asked, what it refuses, how its answers look. Written from the providers'
//! documentation, and held to it by their own clients (`tests/http/model_clients.rs`).

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::behaviour::{Behaviour, error_body};
use super::wire::{self, About};

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's `generateContent`.
    Google,
    /// Ollama's chat.
    Ollama,
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The function.
    pub name: String,
    /// An object.
    pub arguments: Value,
}

impl Call {
    /// Of this function.
    pub fn new(name: &str, arguments: Value) -> Self {
        Self { name: name.to_owned(), arguments }
    }
}

/// What is said, and what is called behind it.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
}

impl Protocol {
    /// Whether a request shows a key.
    pub(super) fn shows(self, headers: &HeaderMap, key: &str) -> bool {
        let is = |name: &str, value: &str| {
            headers.get(name).is_some_and(|shown| shown.as_bytes() == value.as_bytes())
        };
        let bearer = format!("Bearer {key}");
        match self {
            Self::OpenAi | Self::Ollama => is(header::AUTHORIZATION.as_str(), &bearer),
            // Both ways are in use; its own client changed from the first to the second.
            Self::Anthropic => is("x-api-key", key) || is(header::AUTHORIZATION.as_str(), &bearer),
            Self::Google => {
                is("x-goog-api-key", key) || is(header::AUTHORIZATION.as_str(), &bearer)
            }
        }
    }

    /// A refusal in the protocol's words.
    pub(super) fn refusal(self, status: u16, message: &str, code: &str) -> Value {
        match self {
            Self::OpenAi => error_body(message, code),
            Self::Anthropic => {
                let kind = match status {
                    401 => "authentication_error",
                    404 => "not_found_error",
                    429 => "rate_limit_error",
                    500.. => "api_error",
                    _ => "invalid_request_error",
                };
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            Self::Google => {
                let word = match status {
                    401 => "UNAUTHENTICATED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    500.. => "INTERNAL",
                    _ => "INVALID_ARGUMENT",
                };
                json!({"error": {"code": status, "message": message, "status": word}})
            }
            Self::Ollama => json!({"error": message}),
        }
    }

    /// What a real server refuses, too.
    pub(super) fn checked(self, request: Value, headers: &HeaderMap) -> Result<Value, String> {
        match self {
            Self::OpenAi => openai(&request)?,
            Self::Anthropic => anthropic(&request, headers)?,
            Self::Google => google(&request)?,
            Self::Ollama => ollama(&request)?,
        }
        Ok(request)
    }

    /// The text of the last message.
    pub(super) fn last_content(self, request: &Value) -> String {
        let list = if self == Self::Google { "contents" } else { "messages" };
        let last = request[list].as_array().and_then(|messages| messages.last());
        let Some(last) = last else { return String::new() };
        let content = if self == Self::Google { &last["parts"] } else { &last["content"] };
        match content {
            Value::String(text) => text.clone(),
            Value::Array(parts) if self != Self::OpenAi => {
                parts.iter().filter_map(|part| part["text"].as_str()).collect()
            }
            other => other.to_string(),
        }
    }

    /// Whether an answer is to be streamed. Google says so by where it is asked.
    pub(super) fn wants_stream(self, request: &Value) -> bool {
        // Ollama streams unless it is told not to.
        request["stream"].as_bool().unwrap_or(self == Self::Ollama)
    }

    /// The media type of a stream.
    pub(super) fn stream_type(self) -> &'static str {
        if self == Self::Ollama { "application/x-ndjson" } else { "text/event-stream" }
    }

    /// A stream, cut into writes as the behaviour says.
    pub(super) fn stream(self, about: &About<'_>, said: &Said, how: &Behaviour) -> Vec<Bytes> {
        match self {
            Self::OpenAi => wire::stream(about, said, how),
            Self::Anthropic => wire::anthropic_stream(about, said, how),
            Self::Google => wire::google_stream(about, said, how),
            Self::Ollama => wire::ollama_stream(about, said, how),
        }
    }

    /// A whole answer.
    pub(super) fn whole(self, about: &About<'_>, said: &Said, how: &Behaviour) -> Value {
        match self {
            Self::OpenAi => wire::whole(about, said, how),
            Self::Anthropic => wire::anthropic_whole(about, said, how),
            Self::Google => wire::google_whole(about, said, how),
            Self::Ollama => wire::ollama_whole(about, said, how),
        }
    }
}

fn messages<'r>(request: &'r Value, name: &str) -> Result<&'r Vec<Value>, String> {
    let messages = request[name].as_array().filter(|messages| !messages.is_empty());
    messages.ok_or_else(|| format!("{name} is missing or empty"))
}

fn model(request: &Value) -> Result<(), String> {
    if request["model"].is_string() { Ok(()) } else { Err("model is missing".to_owned()) }
}

fn openai(request: &Value) -> Result<(), String> {
    model(request)?;
    let mut called: Vec<&str> = Vec::new();
    for (at, message) in messages(request, "messages")?.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if !matches!(role, "system" | "developer" | "user" | "assistant" | "tool") {
            return Err(format!("messages[{at}].role is missing or unknown"));
        }
        if !called.is_empty() && role != "tool" {
            return Err(format!("messages[{at}]: tool calls {called:?} have no results"));
        }
        let calls = message["tool_calls"].as_array();
        if message["content"].is_null() && calls.is_none() {
            return Err(format!("messages[{at}].content is missing"));
        }
        for call in calls.into_iter().flatten() {
            let function = &call["function"];
            if !function["name"].is_string() || !function["arguments"].is_string() {
                return Err(format!("messages[{at}].tool_calls have no name or arguments"));
            }
            called.push(call["id"].as_str().ok_or("a tool call has no id")?);
        }
        if role == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            let Some(place) = called.iter().position(|called| *called == id) else {
                return Err(format!("messages[{at}] answers the unknown tool call {id:?}"));
            };
            called.remove(place);
        }
    }
    if !called.is_empty() {
        return Err(format!("tool calls {called:?} have no results"));
    }
    if !request["stream_options"].is_null() && request["stream"] != true {
        return Err("stream_options is only allowed with stream".to_owned());
    }
    for tool in request["tools"].as_array().into_iter().flatten() {
        if tool["type"] != "function" || !tool["function"]["name"].is_string() {
            return Err("a tool is a function with a name".to_owned());
        }
    }
    if request["tools"].is_null() && !request["tool_choice"].is_null() {
        return Err("tool_choice is only allowed with tools".to_owned());
    }
    let format = &request["response_format"];
    if format["type"] == "json_schema" {
        let form = &format["json_schema"];
        if !form["schema"].is_object() {
            return Err("response_format.json_schema.schema is missing".to_owned());
        }
        if form["strict"] == true {
            strict(&form["schema"])?;
        }
    }
    Ok(())
}

/// What a schema has to be for a model to be held to it.
fn strict(schema: &Value) -> Result<(), String> {
    if let Some(properties) = schema["properties"].as_object() {
        if schema["additionalProperties"] != false {
            return Err("'additionalProperties' is required to be false".to_owned());
        }
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (name, property) in properties {
            if !required.iter().any(|required| required == name.as_str()) {
                return Err(format!("'required' must hold every property: {name} is missing"));
            }
            strict(property)?;
        }
    }
    if schema["items"].is_object() {
        strict(&schema["items"])?;
    }
    Ok(())
}

fn anthropic(request: &Value, headers: &HeaderMap) -> Result<(), String> {
    if !headers.contains_key("anthropic-version") {
        return Err("anthropic-version: header is required".to_owned());
    }
    model(request)?;
    if !request["max_tokens"].is_u64() {
        return Err("max_tokens: Field required".to_owned());
    }
    let mut called: Vec<&str> = Vec::new();
    for (at, message) in messages(request, "messages")?.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if !matches!(role, "user" | "assistant") {
            return Err(format!("messages.{at}.role: must be user or assistant"));
        }
        if at == 0 && role != "user" {
            return Err("messages: first message must use the user role".to_owned());
        }
        let blocks = match &message["content"] {
            Value::String(text) if text.is_empty() => {
                return Err(format!("messages.{at}: content must not be empty"));
            }
            Value::String(_) => continue,
            Value::Array(blocks) if !blocks.is_empty() => blocks,
            _ => return Err(format!("messages.{at}.content: required")),
        };
        for block in blocks {
            match block["type"].as_str().unwrap_or_default() {
                "text" if block["text"].as_str().is_some_and(|text| !text.is_empty()) => {}
                "thinking" if role == "assistant" && block["thinking"].is_string() => {
                    if block["signature"].as_str().is_none_or(str::is_empty) {
                        return Err(format!("messages.{at}: invalid signature in thinking block"));
                    }
                }
                "redacted_thinking" if role == "assistant" && block["data"].is_string() => {}
                "image" if block["source"]["type"].is_string() => {}
                "tool_use" if role == "assistant" && block["input"].is_object() => {
                    called.push(block["id"].as_str().ok_or("tool_use.id: required")?);
                }
                "tool_result" if role == "user" => {
                    let id = block["tool_use_id"].as_str().unwrap_or_default();
                    let Some(place) = called.iter().position(|called| *called == id) else {
                        return Err(format!("messages.{at}: unexpected tool_use_id {id:?}"));
                    };
                    called.remove(place);
                }
                other => return Err(format!("messages.{at}: {other:?} cannot stand there")),
            }
        }
        if role == "user" && !called.is_empty() {
            return Err(format!("messages.{at}: tool_use {called:?} without tool_result"));
        }
    }
    for tool in request["tools"].as_array().into_iter().flatten() {
        if !tool["name"].is_string() || tool["input_schema"]["type"] != "object" {
            return Err("tools: name and input_schema of the type object are required".to_owned());
        }
    }
    let format = &request["output_config"]["format"];
    if !format.is_null() && (format["type"] != "json_schema" || !format["schema"].is_object()) {
        return Err("output_config.format: must be a json_schema with a schema".to_owned());
    }
    Ok(())
}

fn google(request: &Value) -> Result<(), String> {
    let mut called = 0;
    for (at, content) in messages(request, "contents")?.iter().enumerate() {
        let role = content["role"].as_str().unwrap_or("user");
        if !matches!(role, "user" | "model") {
            return Err("Please use a valid role: user, model.".to_owned());
        }
        let parts = content["parts"].as_array().filter(|parts| !parts.is_empty());
        let parts = parts.ok_or_else(|| format!("contents[{at}].parts must not be empty"))?;
        let answered = parts.iter().filter(|part| part["functionResponse"].is_object()).count();
        if answered != called {
            return Err("the number of function response parts must be equal to the number of \
                function call parts of the function call turn"
                .to_owned());
        }
        called = 0;
        for part in parts {
            let known = ["text", "inlineData", "fileData", "functionCall", "functionResponse"];
            if !known.iter().any(|name| !part[*name].is_null()) {
                return Err(format!("contents[{at}].parts: required oneof field 'data'"));
            }
            if let Some(call) = part["functionCall"].as_object() {
                called += 1;
                if !call.get("args").is_none_or(Value::is_object) {
                    return Err("function_call.args must be an object".to_owned());
                }
            }
            let response = &part["functionResponse"];
            if response.is_object() && !response["response"].is_object() {
                return Err("function_response.response must be an object".to_owned());
            }
        }
    }
    Ok(())
}

fn ollama(request: &Value) -> Result<(), String> {
    model(request)?;
    for message in messages(request, "messages")? {
        let role = message["role"].as_str().unwrap_or_default();
        if !matches!(role, "system" | "user" | "assistant" | "tool") {
            return Err(format!("invalid role: {role}"));
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            if !call["function"]["arguments"].is_object() {
                return Err("json: cannot unmarshal string into tool call arguments".to_owned());
            }
        }
    }
    Ok(())
}
