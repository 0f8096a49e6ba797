//! OpenAI's chat completions: a run in the shape that OpenAI's clients speak.
//! What a field would do and is not built is refused, not dropped.

use std::ops::RangeInclusive;

use agentry_domain::chat::{
    ChatMessage, Part, ResponseFormat, ToolCall, ToolChoice, ToolResult, ToolSpec,
};
use agentry_domain::runs::{Run, RunRequest, RunStatus};
use agentry_domain::sessions::MessageRole;
use agentry_domain::{Caller, Code, Done, Error, Fault, Result};
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
use crate::openai::{
    CALL_ID_CHARS_MAX, Calls, Choice, Content, Format, Shape, Tools, called, parameters_json,
};
use crate::problem::{self, OpenAiError};
use crate::run_stream::{Watched, X_RUN_ID, began_again, event, sse};
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
    messages: Vec<Option<ChatMessage>>,
    tools: Vec<ToolSpec>,
    tool_choice: ToolChoice,
    parallel_tool_calls: Option<bool>,
    response_format: ResponseFormat,
    parameters: Map<String, Value>,
    user: Option<String>,
    metadata: Map<String, Value>,
    stream: bool,
    include_usage: bool,
    asked: AskedHandling,
}

body_schema!(ChatCreate, "ChatCompletionCreate");

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
                .about("The last one must be the user's, or a tool's; it is the run's input.")
                .required(),
            tools: fields
                .field("tools", Tools(Shape::Chat))
                .about("Functions that the client carries out; a completion that calls them ends.")
                .or(Vec::new()),
            tool_choice: fields
                .field("tool_choice", Choice(Shape::Chat))
                .about("`auto`, `none`, `required`, or a function.")
                .or(ToolChoice::Auto),
            parallel_tool_calls: fields
                .boolean("parallel_tool_calls")
                .about("Whether several functions may be called at once.")
                .optional(),
            response_format: fields
                .field("response_format", Format(Shape::Chat))
                .about("The form of the answer: text, json_object or json_schema.")
                .or(ResponseFormat::Text),
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
    const OLD: &str = "functions are given as tools";
    fields.not_supported_yet("functions", is_filled, OLD);
    fields.not_supported_yet("function_call", |value| value.as_str() != Some("none"), OLD);
    fields.not_supported_yet("audio", |_| true, "replies are text");
    fields.not_supported_yet(
        "modalities",
        |value| value != &serde_json::json!(["text"]),
        "replies are text",
    );
    let is_on = |value: &Value| value != &Value::Bool(false);
    fields.not_supported_yet("logprobs", is_on, "token probabilities are not given");
    fields.not_supported_yet("top_logprobs", |_| true, "token probabilities are not given");
    fields.not_supported_yet("background", is_on, "a completion is waited for or streamed");
    fields.not_supported_yet("store", is_on, "completions are kept as runs");
    fields.not_supported_yet("prediction", |_| true, "predicted output is not used");
    fields.not_supported_yet("web_search_options", |_| true, "there is no web search");
    if fields.integer("n", 1..=CHOICES_MAX).about("Only 1 is supported yet.").or(1) > 1 {
        fields.fault("n", NOT_SUPPORTED_YET, "there is one choice per completion");
    }
}

/// A message; none after a fault.
fn read_message(fields: &mut Fields) -> Option<ChatMessage> {
    fields.not_supported_yet("function_call", |_| true, "functions are given as tools");
    fields.not_supported_yet("audio", |_| true, "messages are text and images");
    let role = fields.choice::<ChatRole>("role").about("Who speaks.").required();
    let content = fields
        .field("content", Content)
        .about("Text, or parts: text and, of the user, images. May be null beside `tool_calls`.")
        .optional();
    let calls = fields
        .field("tool_calls", Calls)
        .about("Of the assistant: the functions that it called.")
        .or(Vec::new());
    let call_id = fields
        .text("tool_call_id", 1..=CALL_ID_CHARS_MAX)
        .about("Of a tool: the call that this is the outcome of.")
        .optional();
    if !fields.is_faultless() {
        return None;
    }
    let is_called = role == ChatRole::Assistant && !calls.is_empty();
    let Some(parts) = content.or_else(|| is_called.then(Vec::new)) else {
        fields.fault("content", "required", "is missing");
        return None;
    };
    let has_image = parts.iter().any(|part| matches!(part, Part::Image(_)));
    if has_image && role != ChatRole::User {
        fields.fault("content", NOT_SUPPORTED_YET, "only the user shows images");
        return None;
    }
    if !calls.is_empty() && role != ChatRole::Assistant {
        fields.fault("tool_calls", "not_allowed", "only the assistant calls tools");
        return None;
    }
    let text = || parts.iter().filter_map(Part::as_text).collect::<String>();
    match role {
        ChatRole::System | ChatRole::Developer => Some(ChatMessage::System { text: text() }),
        ChatRole::User => Some(ChatMessage::User { parts }),
        ChatRole::Assistant => Some(ChatMessage::called(text(), calls)),
        ChatRole::Tool => match call_id {
            Some(call_id) => Some(ChatMessage::Tool(ToolResult {
                call_id,
                name: String::new(),
                content: text(),
                is_error: false,
            })),
            None => {
                fields.fault("tool_call_id", "required", "is missing");
                None
            }
        },
        ChatRole::Function => {
            fields.fault("role", NOT_SUPPORTED_YET, "functions are given as tools");
            None
        }
    }
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
    for name in
        ["reasoning_effort", "verbosity", "service_tier", "prompt_cache_key", "safety_identifier"]
    {
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

fn check_messages(fields: &mut Fields, messages: &[Option<ChatMessage>]) {
    let Some(Some(last)) = messages.last() else { return };
    let at = messages.len() - 1;
    match last.role() {
        MessageRole::Tool => {}
        MessageRole::User if last.is_plain() && last.text().is_empty() => {
            let at = format!("/messages/{at}/content");
            fields.fault_at(&at, "too_short", "must have 1 character or more");
        }
        MessageRole::User => {}
        MessageRole::System | MessageRole::Assistant => {
            let at = format!("/messages/{at}");
            let detail = "the last message must be the user's or a tool's";
            fields.fault_at(&at, NOT_SUPPORTED_YET, detail);
        }
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
    /// What the run is asked: the last message, or the results of tools at the end, are
    /// its turn; instructions are the system prompt; the others are given as they are.
    fn request(&mut self, is_in_session: bool) -> Result<RunRequest> {
        let mut given: Vec<ChatMessage> = self.messages.drain(..).flatten().collect();
        let results = given.iter().rev().take_while(|it| it.role() == MessageRole::Tool).count();
        let turn = given.split_off(given.len().saturating_sub(results.max(1)));
        // In a session the calls may be those of its last run.
        if !is_in_session {
            check_results(&given, &turn)?;
        }
        let mut instructions = Vec::new();
        given.retain(|message| match message {
            ChatMessage::System { text } => {
                instructions.push(text.clone());
                false
            }
            _ => true,
        });
        let input: Vec<_> = turn.iter().map(ChatMessage::text).collect();
        Ok(RunRequest {
            input: input.join("\n"),
            messages: given,
            // A plain turn is its input.
            turn: if turn.iter().all(ChatMessage::is_plain) { Vec::new() } else { turn.clone() },
            client_tools: std::mem::take(&mut self.tools),
            tool_choice: std::mem::take(&mut self.tool_choice),
            parallel_tool_calls: self.parallel_tool_calls,
            response_format: std::mem::take(&mut self.response_format),
            system_prompt: (!instructions.is_empty()).then(|| instructions.join("\n\n")),
            parameters: parameters_json(std::mem::take(&mut self.parameters)),
            ..RunRequest::default()
        })
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

/// The outcome of a call that nobody made would be lost on the model.
fn check_results(given: &[ChatMessage], turn: &[ChatMessage]) -> Result<()> {
    for message in given.iter().chain(turn) {
        if let ChatMessage::Tool(result) = message
            && !called(given).any(|id| id == result.call_id)
        {
            return Err(Error::invalid(vec![Fault::new(
                "/messages",
                "unknown_tool_call",
                format!("no message before has the tool call {:?}", result.call_id),
            )]));
        }
    }
    Ok(())
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
    /// `stop`, `length`, `tool_calls`, `content_filter`, or the provider's word.
    #[schema(example = "stop")]
    finish_reason: &'a str,
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
    /// The text; null when there are calls alone.
    content: Option<&'a str>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    refusal: (),
    /// The client's functions that it calls, if it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ChatToolCall<'a>>,
}

/// A call of a function of the client's.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatToolCall<'a> {
    /// Its place, in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// What the result names.
    id: &'a str,
    /// Always `function`.
    #[serde(rename = "type")]
    #[schema(example = "function")]
    kind: &'static str,
    /// The function.
    function: ChatFunction<'a>,
}

/// Which function is called with what.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatFunction<'a> {
    /// Its name.
    name: &'a str,
    /// JSON, as the model wrote it.
    arguments: &'a str,
}

impl<'a> ChatToolCall<'a> {
    fn new(index: Option<usize>, call: &'a ToolCall) -> Self {
        let function = ChatFunction { name: &call.name, arguments: &call.arguments };
        Self { index, id: &call.id, kind: "function", function }
    }
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
    /// Of the tokens read.
    prompt_tokens_details: ChatUsageDetails,
}

/// Of the tokens read.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ChatUsageDetails {
    /// Those that the provider had in its cache.
    cached_tokens: u64,
}

impl ChatUsage {
    fn of(run: &Run) -> Self {
        let prompt_tokens = run.usage.input_tokens.unwrap_or(0);
        let completion_tokens = run.usage.output_tokens.unwrap_or(0);
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        let cached_tokens = run.usage.cached_input_tokens.unwrap_or(0);
        let prompt_tokens_details = ChatUsageDetails { cached_tokens };
        Self { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details }
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
    /// Why it ended, in the last chunk of the reply.
    finish_reason: Option<&'a str>,
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
    /// The calls, each whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ChatToolCall<'a>>,
}

/// Complete a chat
///
/// The last message, which must be the user's or a tool's, becomes the input of a run. Name a
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
    let is_in_session = !matches!(session, SessionRef::None);
    let new = RunNew {
        agent: AgentRef::Model(chat.model.clone()),
        session,
        origin: Some("openai".to_owned()),
        user_id: chat.user.take(),
        request: RunRequest { handling, ..chat.request(is_in_session)? },
        metadata: Value::Object(std::mem::take(&mut chat.metadata)).to_string(),
    };
    let Done { value: handle, replayed } = state.engine.run_start(&caller, once, new).await?;
    let (run, session) = (handle.run.id.to_string(), handle.run.session.to_string());
    let mut response = if chat.stream {
        let model = (chat.model, chat.include_usage);
        stream(handle, model, &state, &caller, &context)
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
            message: ChatReply {
                role: "assistant",
                content: (run.calls.is_empty() || !content.is_empty()).then_some(content),
                refusal: (),
                tool_calls: run.calls.iter().map(|call| ChatToolCall::new(None, call)).collect(),
            },
            finish_reason: finish_reason(run),
            logprobs: (),
        }],
        usage: ChatUsage::of(run),
    };
    json(StatusCode::OK, &completion)
}

/// Why the reply ended; a reply that is used again does not say.
fn finish_reason(run: &Run) -> &str {
    run.finish_reason.as_deref().unwrap_or("stop")
}

fn completion_id(run: &Run) -> String {
    format!("chatcmpl-{}", run.id)
}

fn created(run: &Run) -> i64 {
    run.created_at.micros().div_euclid(1_000_000)
}

/// The reply of a run that succeeded; its error otherwise, because OpenAI's
/// clients know of failures by the status.
pub(crate) fn reply(run: &Run) -> Result<&str> {
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
    (model, include_usage): (String, bool),
    state: &ApiState,
    caller: &Caller,
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
    let (role, content) = (Some("assistant"), Some(""));
    let delta = ChatDelta { role, content, ..ChatDelta::default() };
    let first = writer.chunk(delta, None);
    // OpenAI's clients do not come back for the rest.
    let events = Watched::new(handle.followed().that_catch_up(), state, caller);
    let chunks = stream::unfold((events, writer), |(mut events, mut writer)| async move {
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
                | RunEvent::ToolStarted(_)
                | RunEvent::ToolFinished(_)
                | RunEvent::Completed(_)
                | RunEvent::Reconnect,
            ) => Vec::new(),
            Err(error) => vec![self.failed(&error)],
        }
    }

    fn end(&self, run: &Run) -> Result<Vec<Event>> {
        reply(run)?;
        let call = |(at, call)| ChatToolCall::new(Some(at), call);
        let calls = run.calls.iter().enumerate().map(call).map(|call| {
            self.chunk(ChatDelta { tool_calls: vec![call], ..ChatDelta::default() }, None)
        });
        let mut events: Vec<Event> = calls.collect();
        events.push(self.chunk(ChatDelta::default(), Some(finish_reason(run))));
        if self.include_usage {
            events.push(self.event(Vec::new(), Some(ChatUsage::of(run))));
        }
        events.push(Event::default().data("[DONE]"));
        Ok(events)
    }

    fn text(&self, text: &str) -> Event {
        self.chunk(ChatDelta { content: Some(text), ..ChatDelta::default() }, None)
    }

    fn chunk(&self, delta: ChatDelta<'_>, finish_reason: Option<&str>) -> Event {
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
        let request = chat.request(false).unwrap();
        assert_eq!(request.input, "cd");
        assert_eq!(request.system_prompt.as_deref(), Some("be kind\n\nbe brief"));
        let expected = [
            ChatMessage::said(MessageRole::User, "a"),
            ChatMessage::said(MessageRole::Assistant, "b"),
        ];
        assert_eq!(request.messages, expected);
        assert!(request.turn.is_empty());
        let parameters: Value = serde_json::from_str(&request.parameters.unwrap()).unwrap();
        assert_eq!(parameters, json!({"temperature": 0.5, "max_tokens": 9, "stop": ["x"]}));
    }

    #[test]
    fn what_is_not_built_is_refused_with_its_pointer() {
        let audio = json!([{"role": "user", "content": [{"type": "input_audio"}]}]);
        let function = json!([
            {"role": "function", "content": "x"}, {"role": "user", "content": "hi"},
        ]);
        let prefill = json!([
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": "I"},
        ]);
        for (name, value, pointer) in [
            ("tools", json!([{"type": "web_search"}]), "/tools"),
            ("functions", json!([{}]), "/functions"),
            ("function_call", json!("auto"), "/function_call"),
            ("n", json!(2), "/n"),
            ("audio", json!({}), "/audio"),
            ("modalities", json!(["text", "audio"]), "/modalities"),
            ("response_format", json!({"type": "grammar"}), "/response_format"),
            ("logprobs", json!(true), "/logprobs"),
            ("store", json!(true), "/store"),
            ("messages", audio, "/messages/0/content"),
            ("messages", function, "/messages/0/role"),
            ("messages", prefill, "/messages/1"),
        ] {
            let error = read(with(name, value)).err().unwrap();
            assert_eq!(error.code, Code::NotSupportedYet, "{name}: {error:?}");
            assert_eq!(error.faults[0].pointer, pointer);
        }
    }

    #[test]
    fn results_of_tools_are_a_turn_behind_their_calls() {
        let call = json!({"id": "c1", "type": "function",
            "function": {"name": "look", "arguments": "{}"}});
        let messages = |id: &str| {
            json!([
                {"role": "user", "content": [
                    {"type": "text", "text": "what is"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                ]},
                {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": id, "content": "a dog"},
            ])
        };
        let mut body = with("messages", messages("c1"));
        body["tools"] = json!([{"type": "function", "function": {"name": "look"}}]);
        body["response_format"] = json!({"type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}});
        let request = read(body).unwrap().request(false).unwrap();
        assert_eq!(request.input, "a dog");
        assert_eq!(request.turn[0].role(), MessageRole::Tool);
        assert_eq!(request.messages.len(), 2);
        assert!(!request.messages[0].is_plain());
        assert_eq!(request.client_tools[0].name, "look");
        assert!(matches!(request.response_format, ResponseFormat::JsonSchema { strict: true, .. }));
        let error = read(with("messages", messages("c2"))).unwrap().request(false).unwrap_err();
        assert_eq!(error.faults[0].code, "unknown_tool_call");
        assert!(read(with("messages", messages("c2"))).unwrap().request(true).is_ok());
        for broken in [
            json!([{"role": "tool", "content": "x"}]),
            json!([{"role": "user", "content": null}]),
            json!([{"role": "user", "content": "x", "tool_calls": [call]}]),
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ] {
            let error = read(with("messages", broken.clone())).err().expect("it is refused");
            assert_eq!(error.code, Code::ValidationFailed, "{broken}");
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
