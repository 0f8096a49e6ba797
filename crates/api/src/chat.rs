//! OpenAI's chat completions: a run in the shape that OpenAI's clients speak.
//! What a field would do and is not built is refused, not dropped.

use std::ops::RangeInclusive;

use agentry_domain::runs::{GivenMessage, Run, RunRequest, RunStatus};
use agentry_domain::sessions::MessageRole;
use agentry_domain::{Code, Done, Error, Fault, Result};
use agentry_engine::{AgentRef, RunEvent, RunHandle, RunNew, RunNews, SessionRef};
use agentry_gateway::{Authenticated, RequestContext};
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

use crate::answer::{Handled, json, put, replay};
use crate::body_schema;
use crate::extract::Posted;
use crate::fields::bounds::LABEL_CHARS_MAX;
use crate::fields::kinds::{EXTERNAL_ID_CHARS_MAX, Integer, Kind, MergePatch, Number, Site, Text};
use crate::fields::{Fields, FromFields, NOT_SUPPORTED_YET, Purpose};
use crate::messages::CONTENT_CHARS_MAX;
use crate::problem::{self, OpenAiError};
use crate::run_stream::{X_RUN_ID, began_again, event, sse};
use crate::runs::{AskedHandling, session_by_id};
use crate::state::ApiState;

/// Names the session of a completion, both ways.
const X_SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");
const MESSAGES_MAX: usize = 1_000;
const MODEL_CHARS_MAX: usize = 300;
const STOPS_MAX: usize = 4;
/// Choices that OpenAI allows; more than one is not built.
const CHOICES_MAX: i64 = 128;

/// Body of a completion.
pub struct ChatCreate {
    model: String,
    messages: Vec<ChatMessage>,
    parameters: Map<String, Value>,
    user: Option<String>,
    metadata: Map<String, Value>,
    stream: bool,
    include_usage: bool,
    asked: AskedHandling,
}

body_schema!(ChatCreate, "ChatCompletionCreate");

/// One message, as a client sends it.
#[derive(Debug)]
struct ChatMessage {
    role: ChatRole,
    content: String,
}

agentry_domain::named! {
    /// Who speaks, in OpenAI's words.
    enum ChatRole {
        /// The instructions.
        System = "system",
        /// The same, as newer models call it.
        Developer = "developer",
        /// The person or program that asks.
        User = "user",
        /// The model.
        Assistant = "assistant",
        /// The outcome of a tool call.
        Tool = "tool",
        /// The same, as it was called once.
        Function = "function",
    }
}

impl FromFields for ChatCreate {
    fn read(fields: &mut Fields) -> Self {
        read_not_supported_yet(fields);
        let chat = Self {
            model: fields
                .text("model", 1..=MODEL_CHARS_MAX)
                .about("An agent's name or id, or `provider/model`.")
                .example("simple_agent")
                .required(),
            messages: fields
                .items("messages", 1..=MESSAGES_MAX, read_message)
                .about("The last one must be the user's; it is the run's input.")
                .required(),
            parameters: read_parameters(fields),
            user: fields
                .external_id("user")
                .about("The caller's id of the user; recall stays within it.")
                .optional(),
            metadata: match fields
                .field("metadata", MergePatch)
                .about("Kept with the run. `session_id` or `session_name` in it name the session.")
                .optional()
            {
                Some(Value::Object(metadata)) => metadata,
                _ => Map::new(),
            },
            stream: fields.boolean("stream").about("Answer with chunks as they come.").or(false),
            include_usage: fields
                .nested("stream_options", |fields| {
                    fields.boolean("include_usage").about("Send a last chunk with usage.").or(false)
                })
                .about("For streams.")
                .or(false),
            asked: AskedHandling::read(fields),
        };
        if fields.is_faultless() {
            check_messages(fields, &chat.messages);
        }
        chat
    }
}

fn is_filled(value: &Value) -> bool {
    value != &Value::Array(Vec::new())
}

fn read_not_supported_yet(fields: &mut Fields) {
    const NO_TOOLS: &str = "there are no tools yet";
    fields.not_supported_yet("tools", is_filled, NO_TOOLS);
    fields.not_supported_yet("functions", is_filled, NO_TOOLS);
    let demands = |value: &Value| !matches!(value.as_str(), Some("none" | "auto"));
    fields.not_supported_yet("tool_choice", demands, NO_TOOLS);
    fields.not_supported_yet("function_call", demands, NO_TOOLS);
    fields.not_supported_yet("audio", |_| true, "replies are text");
    fields.not_supported_yet(
        "modalities",
        |value| value != &serde_json::json!(["text"]),
        "replies are text",
    );
    fields.not_supported_yet(
        "response_format",
        |value| value.get("type").and_then(Value::as_str) != Some("text"),
        "replies are free text",
    );
    let is_on = |value: &Value| value != &Value::Bool(false);
    fields.not_supported_yet("logprobs", is_on, "token probabilities are not given");
    fields.not_supported_yet("background", is_on, "a completion is waited for or streamed");
    fields.not_supported_yet("store", is_on, "completions are kept as runs");
    fields.not_supported_yet("prediction", |_| true, "predicted output is not used");
    fields.not_supported_yet("web_search_options", |_| true, NO_TOOLS);
    if fields.integer("n", 1..=CHOICES_MAX).about("Only 1 is supported yet.").or(1) > 1 {
        fields.fault("n", NOT_SUPPORTED_YET, "there is one choice per completion");
    }
}

fn read_message(fields: &mut Fields) -> ChatMessage {
    const NO_TOOLS: &str = "there are no tools yet";
    fields.not_supported_yet("tool_calls", is_filled, NO_TOOLS);
    fields.not_supported_yet("function_call", |_| true, NO_TOOLS);
    let role = fields.choice::<ChatRole>("role").about("Who speaks.").required();
    if matches!(role, ChatRole::Tool | ChatRole::Function) {
        fields.fault("role", NOT_SUPPORTED_YET, NO_TOOLS);
    }
    let content = fields.field("content", ChatContent).about("Text, or text parts.").required();
    ChatMessage { role, content }
}

/// What goes to the model's provider as it is.
fn read_parameters(fields: &mut Fields) -> Map<String, Value> {
    const ABOUT: &str = "Goes to the model's provider.";
    let mut parameters = Map::new();
    let mut number = |name: &'static str, range: RangeInclusive<f64>| {
        if let Some(value) = fields.field(name, Number { range }).about(ABOUT).optional() {
            parameters.insert(name.to_owned(), value);
        }
    };
    number("temperature", 0.0..=2.0);
    number("top_p", 0.0..=1.0);
    number("presence_penalty", -2.0..=2.0);
    number("frequency_penalty", -2.0..=2.0);
    let mut integer = |name: &'static str, min: i64| {
        let kind = Integer::between(min..=i64::MAX);
        if let Some(value) = fields.field(name, kind).about(ABOUT).optional() {
            parameters.insert(name.to_owned(), Value::from(value));
        }
    };
    integer("max_tokens", 1);
    integer("max_completion_tokens", 1);
    integer("seed", i64::MIN);
    for name in ["reasoning_effort", "verbosity"] {
        let kind = Text::of(1..=LABEL_CHARS_MAX);
        if let Some(value) = fields.field(name, kind).about(ABOUT).optional() {
            parameters.insert(name.to_owned(), Value::from(value));
        }
    }
    if let Some(value) = fields.field("stop", Stop).about(ABOUT).optional() {
        parameters.insert("stop".to_owned(), value);
    }
    if let Some(value) = fields.field("logit_bias", MergePatch).about(ABOUT).optional() {
        parameters.insert("logit_bias".to_owned(), value);
    }
    parameters
}

fn check_messages(fields: &mut Fields, messages: &[ChatMessage]) {
    let Some(last) = messages.last() else { return };
    if last.role != ChatRole::User {
        let at = format!("/messages/{}", messages.len() - 1);
        fields.fault_at(&at, NOT_SUPPORTED_YET, "the last message must be the user's");
    } else if last.content.is_empty() {
        let at = format!("/messages/{}/content", messages.len() - 1);
        fields.fault_at(&at, "too_short", "must have 1 character or more");
    }
}

/// The content of a message: text, or a list of parts that are text.
#[derive(Clone, Copy, Debug)]
struct ChatContent;

impl Kind for ChatContent {
    type Out = String;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let object = ObjectBuilder::new()
            .schema_type(SchemaType::Array(vec![Type::String, Type::Array]))
            .max_length(Some(CONTENT_CHARS_MAX));
        Schema::Object(object.build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<String> {
        let parts = match value {
            Value::String(text) => return Text::of(0..=CONTENT_CHARS_MAX).read(text.into(), site),
            Value::Array(parts) => parts,
            _ => return site.fault("wrong_type", "must be text or a list of parts"),
        };
        let mut content = String::new();
        for (index, part) in parts.iter().enumerate() {
            match (part.get("type").and_then(Value::as_str), part.get("text")) {
                (Some("text"), Some(Value::String(text))) => content.push_str(text),
                (Some("text") | None, _) => {
                    return site.fault("wrong_type", format!("part {index} has no text"));
                }
                (Some(_), _) => {
                    let detail = format!("part {index} is not text");
                    return site.fault(NOT_SUPPORTED_YET, detail);
                }
            }
        }
        Some(content)
    }

    fn placeholder(&self) -> String {
        String::new()
    }
}

/// Where generation stops: text, or up to four texts.
#[derive(Clone, Copy, Debug)]
struct Stop;

impl Kind for Stop {
    type Out = Value;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let object =
            ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Array]));
        Schema::Object(object.build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Value> {
        let fits = match &value {
            Value::String(_) => true,
            Value::Array(stops) => stops.len() <= STOPS_MAX && stops.iter().all(Value::is_string),
            _ => false,
        };
        if fits { Some(value) } else { site.fault("wrong_type", "must be text or up to 4 texts") }
    }

    fn placeholder(&self) -> Value {
        Value::Null
    }
}

impl ChatCreate {
    /// What the run is asked: the last message is the input, instructions are the
    /// system prompt, the others are given as they are.
    fn request(&mut self) -> RunRequest {
        let input = self.messages.pop().map(|message| message.content).unwrap_or_default();
        let mut instructions = Vec::new();
        let mut given = Vec::new();
        for ChatMessage { role, content } in self.messages.drain(..) {
            let role = match role {
                ChatRole::System | ChatRole::Developer => {
                    instructions.push(content);
                    continue;
                }
                ChatRole::User => MessageRole::User,
                // Others were refused.
                ChatRole::Assistant | ChatRole::Tool | ChatRole::Function => MessageRole::Assistant,
            };
            given.push(GivenMessage { role, content });
        }
        let parameters = std::mem::take(&mut self.parameters);
        RunRequest {
            input,
            messages: given,
            system_prompt: (!instructions.is_empty()).then(|| instructions.join("\n\n")),
            parameters: (!parameters.is_empty()).then(|| Value::Object(parameters).to_string()),
            ..RunRequest::default()
        }
    }

    /// The session: by header, or by `session_id` or `session_name` in the metadata.
    fn session(&self, headers: &HeaderMap) -> Result<SessionRef> {
        let id = self.metadata_text("session_id")?;
        let name = self.metadata_text("session_name")?;
        let header = headers.get(X_SESSION_ID).map(|value| value.to_str().unwrap_or_default());
        match (header, id, name) {
            (None, None, None) => Ok(SessionRef::None),
            (Some(id), None, None) => session_by_id(id),
            (None, Some(id), None) => session_by_id(&id),
            (None, None, Some(name)) => Ok(SessionRef::Name(name)),
            _ => Err(Error::invalid(vec![Fault::new(
                "/metadata",
                "exclusive",
                "name the session once: by X-Session-Id, session_id or session_name",
            )])),
        }
    }

    fn metadata_text(&self, name: &str) -> Result<Option<String>> {
        let text = match self.metadata.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => String::new(),
        };
        if (1..=EXTERNAL_ID_CHARS_MAX).contains(&text.chars().count()) {
            return Ok(Some(text));
        }
        Err(Error::invalid(vec![Fault::new(
            format!("/metadata/{name}"),
            "wrong_type",
            format!("must be a string of 1 to {EXTERNAL_ID_CHARS_MAX} characters or an integer"),
        )]))
    }
}

/// A completion.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion<'a> {
    /// `chatcmpl-` and the run's id.
    id: String,
    /// Always `chat.completion`.
    #[schema(example = "chat.completion")]
    object: &'static str,
    /// When the run was accepted, in seconds since 1970.
    created: i64,
    /// As asked for.
    model: &'a str,
    /// Always one.
    choices: [ChatChoice<'a>; 1],
    /// Tokens; zero when the provider did not count them.
    usage: ChatUsage,
}

/// The reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice<'a> {
    /// Always 0.
    index: u32,
    /// The reply.
    message: ChatReply<'a>,
    /// Always `stop`.
    #[schema(example = "stop")]
    finish_reason: &'static str,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    logprobs: (),
}

/// The reply's text.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatReply<'a> {
    /// Always `assistant`.
    #[schema(example = "assistant")]
    role: &'static str,
    /// The text.
    content: &'a str,
    /// Always null.
    #[schema(value_type = Option<String>)]
    refusal: (),
}

/// Tokens; zero when the provider did not count them.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ChatUsage {
    /// Tokens read.
    prompt_tokens: u64,
    /// Tokens written.
    completion_tokens: u64,
    /// Both.
    total_tokens: u64,
}

impl ChatUsage {
    fn of(run: &Run) -> Self {
        let prompt_tokens = run.usage.input_tokens.unwrap_or(0);
        let completion_tokens = run.usage.output_tokens.unwrap_or(0);
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self { prompt_tokens, completion_tokens, total_tokens }
    }
}

/// A piece of a streamed completion.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletionChunk<'a> {
    /// `chatcmpl-` and the run's id.
    id: &'a str,
    /// Always `chat.completion.chunk`.
    #[schema(example = "chat.completion.chunk")]
    object: &'static str,
    /// When the run was accepted, in seconds since 1970.
    created: i64,
    /// As asked for.
    model: &'a str,
    /// One, or none in the chunk with usage.
    choices: Vec<ChatChunkChoice<'a>>,
    /// In the last chunk, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<ChatUsage>>,
}

/// A piece of the reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunkChoice<'a> {
    /// Always 0.
    index: u32,
    /// What is new.
    delta: ChatDelta<'a>,
    /// `stop` in the last chunk of the reply.
    finish_reason: Option<&'static str>,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    logprobs: (),
}

/// What is new in a piece.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChatDelta<'a> {
    /// `assistant`, in the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

/// Complete a chat
///
/// The last message, which must be the user's, becomes the input of a run. Name a
/// session with the header `X-Session-Id` or with `session_id` or `session_name` in
/// `metadata`; the answer names it in `X-Session-Id`. With `stream` the answer is chunks,
/// then `[DONE]`. `if_busy` and `on_disconnect` are as in a run, beside OpenAI's own fields.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "chat_completion_create",
    tag = "openai",
    params(("X-Session-Id" = Option<String>, Header, description = "The session's id.")),
    request_body = ChatCreate,
    responses(
        (status = 200, description = "The completion.", content(
            (ChatCompletion<'static> = "application/json"),
            (ChatCompletionChunk<'static> = "text/event-stream"),
        ), headers(
            ("X-Session-Id" = String, description = "The session's id."),
            ("X-Run-Id" = String, description = "The run's id."),
        )),
    ),
)]
pub async fn chat_completion_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    context: RequestContext,
    Posted { body: mut chat, once }: Posted<ChatCreate>,
) -> Handled {
    let session = chat.session(&headers)?;
    let handling = chat.asked.settle(once.as_ref())?;
    let new = RunNew {
        agent: AgentRef::Model(chat.model.clone()),
        session,
        origin: Some("openai".to_owned()),
        user_id: chat.user.take(),
        request: RunRequest { handling, ..chat.request() },
        metadata: Value::Object(std::mem::take(&mut chat.metadata)).to_string(),
    };
    let Done { value: handle, replayed } = state.engine.run_start(&caller, once, new).await?;
    let (run, session) = (handle.run.id.to_string(), handle.run.session.to_string());
    let mut response = if chat.stream {
        stream(handle, chat.model, chat.include_usage, &context)
    } else {
        completion(&chat.model, &handle.finished().await?)?
    };
    put(&mut response, X_RUN_ID, &run);
    put(&mut response, X_SESSION_ID, &session);
    Ok(replay(response, replayed))
}

fn completion(model: &str, run: &Run) -> Handled {
    let content = reply(run)?;
    let completion = ChatCompletion {
        id: completion_id(run),
        object: "chat.completion",
        created: created(run),
        model,
        choices: [ChatChoice {
            index: 0,
            message: ChatReply { role: "assistant", content, refusal: () },
            finish_reason: "stop",
            logprobs: (),
        }],
        usage: ChatUsage::of(run),
    };
    json(StatusCode::OK, &completion)
}

fn completion_id(run: &Run) -> String {
    format!("chatcmpl-{}", run.id)
}

fn created(run: &Run) -> i64 {
    run.created_at.micros().div_euclid(1_000_000)
}

/// The reply of a run that succeeded; its error otherwise, because OpenAI's
/// clients know of failures by the status.
fn reply(run: &Run) -> Result<&str> {
    if run.status == RunStatus::Succeeded {
        return Ok(run.reply.as_deref().unwrap_or_default());
    }
    Err(match &run.error {
        Some(error) => Error::new(error.code, error.detail.clone()),
        None => Error::new(Code::RunInterrupted, format!("the run is {}", run.status.as_str())),
    })
}

/// Answers with chunks.
fn stream(
    handle: RunHandle,
    model: String,
    include_usage: bool,
    context: &RequestContext,
) -> Response {
    let writer = Writer {
        id: completion_id(&handle.run),
        created: created(&handle.run),
        model,
        include_usage,
        request_id: context.request_id.as_str().to_owned(),
        sent_some: false,
        failed: false,
    };
    let delta = ChatDelta { role: Some("assistant"), content: Some("") };
    let first = writer.chunk(delta, None);
    // OpenAI's clients do not come back for the rest.
    let state = (handle.followed().that_catch_up(), writer);
    let chunks = stream::unfold(state, |(mut events, mut writer)| async move {
        if writer.failed {
            return None;
        }
        let chunks = writer.write(events.next().await?);
        if writer.failed {
            // That the stream ends here is not the client's doing.
            events.unattended();
        }
        Some((stream::iter(chunks), (events, writer)))
    });
    sse(stream::iter([first]).chain(chunks.flatten()).map(Ok))
}

struct Writer {
    id: String,
    created: i64,
    model: String,
    include_usage: bool,
    request_id: String,
    /// Whether a piece of the reply was sent.
    sent_some: bool,
    /// Whether the client was told of a failure, which is the end for it.
    failed: bool,
}

impl Writer {
    fn write(&mut self, news: Result<RunNews>) -> Vec<Event> {
        match news.map(|news| news.event) {
            Ok(RunEvent::Delta(text)) => {
                self.sent_some = true;
                vec![self.text(&text)]
            }
            Ok(RunEvent::Finished(run)) => match self.end(&run) {
                Ok(events) => events,
                Err(error) => vec![self.failed(&error)],
            },
            Ok(RunEvent::Reset) if self.sent_some => vec![self.failed(&began_again())],
            Ok(RunEvent::Expired) => {
                vec![self.failed(&Error::new(Code::NotFound, "the run was deleted"))]
            }
            Ok(
                RunEvent::Started { .. }
                | RunEvent::Reset
                | RunEvent::Completed(_)
                | RunEvent::Reconnect,
            ) => Vec::new(),
            Err(error) => vec![self.failed(&error)],
        }
    }

    fn end(&self, run: &Run) -> Result<Vec<Event>> {
        reply(run)?;
        let mut events = vec![self.chunk(ChatDelta::default(), Some("stop"))];
        if self.include_usage {
            events.push(self.event(Vec::new(), Some(ChatUsage::of(run))));
        }
        events.push(Event::default().data("[DONE]"));
        Ok(events)
    }

    fn text(&self, text: &str) -> Event {
        self.chunk(ChatDelta { role: None, content: Some(text) }, None)
    }

    fn chunk(&self, delta: ChatDelta<'_>, finish_reason: Option<&'static str>) -> Event {
        self.event(vec![ChatChunkChoice { index: 0, delta, finish_reason, logprobs: () }], None)
    }

    fn event(&self, choices: Vec<ChatChunkChoice<'_>>, usage: Option<ChatUsage>) -> Event {
        let chunk = ChatCompletionChunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            // When usage is asked for every other chunk says null.
            usage: self.include_usage.then_some(usage),
        };
        event(None, &chunk)
    }

    fn failed(&mut self, error: &Error) -> Event {
        problem::log(error, &self.request_id);
        self.failed = true;
        event(None, &OpenAiError::new(error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fields::read_body;

    fn read(value: Value) -> Result<ChatCreate> {
        let Value::Object(object) = value else { panic!("not an object") };
        read_body(object, Vec::new())
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body[name] = value;
        body
    }

    #[test]
    fn messages_become_instructions_history_and_input() {
        let mut chat = read(json!({
            "model": "simple_agent",
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": [
                    {"type": "text", "text": "c"}, {"type": "text", "text": "d"},
                ]},
            ],
            "temperature": 0.5, "max_tokens": 9, "stop": ["x"], "user": "u",
            "tools": [], "tool_choice": "auto", "n": 1, "response_format": {"type": "text"},
            "store": false,
        }))
        .unwrap();
        assert_eq!(chat.user.as_deref(), Some("u"));
        let request = chat.request();
        assert_eq!(request.input, "cd");
        assert_eq!(request.system_prompt.as_deref(), Some("be kind\n\nbe brief"));
        let given: Vec<_> = request.messages.iter().map(|m| (m.role, m.content.as_str())).collect();
        assert_eq!(given, [(MessageRole::User, "a"), (MessageRole::Assistant, "b")]);
        let parameters: Value = serde_json::from_str(&request.parameters.unwrap()).unwrap();
        assert_eq!(parameters, json!({"temperature": 0.5, "max_tokens": 9, "stop": ["x"]}));
    }

    #[test]
    fn what_is_not_built_is_refused_with_its_pointer() {
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]);
        let tool = json!([
            {"role": "tool", "content": "x"}, {"role": "user", "content": "hi"},
        ]);
        let prefill = json!([
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": "I"},
        ]);
        for (name, value, pointer) in [
            ("tools", json!([{"type": "function"}]), "/tools"),
            ("functions", json!([{}]), "/functions"),
            ("tool_choice", json!("required"), "/tool_choice"),
            ("n", json!(2), "/n"),
            ("audio", json!({}), "/audio"),
            ("modalities", json!(["text", "audio"]), "/modalities"),
            ("response_format", json!({"type": "json_object"}), "/response_format"),
            ("logprobs", json!(true), "/logprobs"),
            ("store", json!(true), "/store"),
            ("messages", image, "/messages/0/content"),
            ("messages", tool, "/messages/0/role"),
            ("messages", prefill, "/messages/1"),
        ] {
            let error = read(with(name, value)).err().unwrap();
            assert_eq!(error.code, Code::NotSupportedYet, "{name}: {error:?}");
            assert_eq!(error.faults[0].pointer, pointer);
        }
    }

    #[test]
    fn broken_rules_are_all_listed() {
        let error = read(json!({
            "messages": [{"role": "user", "content": 5}], "temperature": 3, "top_p": "high",
            "stop": 1,
        }))
        .err()
        .unwrap();
        let mut pointers: Vec<_> = error.faults.iter().map(|f| f.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, ["/messages/0/content", "/model", "/stop", "/temperature", "/top_p"]);
    }

    #[test]
    fn a_session_is_named_once() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let mut headers = HeaderMap::new();
        let by = |metadata: Value, headers: &HeaderMap| {
            read(with("metadata", metadata)).unwrap().session(headers)
        };
        assert!(matches!(by(json!({"k": "v"}), &headers), Ok(SessionRef::None)));
        assert!(matches!(by(json!({"session_id": id}), &headers), Ok(SessionRef::Id(_))));
        let named = by(json!({"session_name": 7}), &headers);
        assert!(matches!(named, Ok(SessionRef::Name(name)) if name == "7"));
        let error = by(json!({"session_id": "x"}), &headers).unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        let error = by(json!({"session_name": []}), &headers).unwrap_err();
        assert_eq!(error.faults[0].pointer, "/metadata/session_name");
        headers.insert(X_SESSION_ID, id.parse().unwrap());
        assert!(matches!(by(json!({}), &headers), Ok(SessionRef::Id(_))));
        let error = by(json!({"session_name": "x"}), &headers).unwrap_err();
        assert_eq!(error.code, Code::ValidationFailed);
    }
}
