//! OpenAI's responses: runs, in the shape that OpenAI's clients speak. A response is
//! a run of its own, durable like any other; what it follows, and the conversation
//! that it belongs to, are sessions. There is nothing beside the store.

use std::ops::RangeInclusive;

use agentry_domain::agents::AgentBody;
use agentry_domain::chat::{ChatMessage, ResponseFormat, ToolChoice, ToolSpec};
use agentry_domain::runs::{
    Handling, IfBusy, MESSAGE_LIMIT_MAX, OnDisconnect, ResponseAsked, Run, RunRequest, RunStatus,
};
use agentry_domain::sessions::MessageRole;
use agentry_domain::{Caller, Code, Done, Error, Fault, Order, Result, RunId, SessionId};
use agentry_engine::{AgentRef, RunNew, SessionRef};
use agentry_gateway::{Authenticated, RequestContext};
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

use crate::answer::{Handled, json as answer_json, put, replay};
use crate::chat::reply;
use crate::extract::{PathName, Posted, Query};
use crate::fields::bounds::LABEL_CHARS_MAX;
use crate::fields::kinds::{Kind, Number, Site, Text};
use crate::fields::{Fields, FromFields, NOT_SUPPORTED_YET, Purpose};
use crate::openai::{
    Choice, Format, Shape, Tools, choice_json, format_json, parameters_json, tool_json,
};
use crate::response_items::{ITEMS_MAX, Items, id_behind, input, output, page, response_id};
use crate::response_stream::{self, Place};
use crate::run_stream::X_RUN_ID;
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

const MODEL_CHARS_MAX: usize = 300;
const INSTRUCTIONS_CHARS_MAX: usize = 200_000;
/// Characters of the ids that this surface gives out.
const ID_CHARS_MAX: usize = 64;
/// The label of sessions that are made here.
pub(crate) const ORIGIN: &str = "openai";
/// Items in a page of them.
pub(crate) const PAGE_ITEMS_MAX: i64 = 100;
/// The same, when it is not said.
pub(crate) const PAGE_ITEMS_DEFAULT: i64 = 20;

/// Body of a response.
pub struct ResponseCreate {
    model: String,
    turn: Vec<ChatMessage>,
    instructions: Option<String>,
    previous: Option<String>,
    conversation: Option<String>,
    tools: Vec<ToolSpec>,
    tool_choice: ToolChoice,
    parallel_tool_calls: Option<bool>,
    format: ResponseFormat,
    parameters: Map<String, Value>,
    user: Option<String>,
    metadata: String,
    background: bool,
    stream: bool,
    store: bool,
}

body_schema!(ResponseCreate, "ResponseCreate");

impl FromFields for ResponseCreate {
    fn read(fields: &mut Fields) -> Self {
        read_not_supported_yet(fields);
        let mut parameters = read_parameters(fields);
        let format = fields
            .nested("text", |fields| {
                let format = fields
                    .field("format", Format(Shape::Response))
                    .about("text, json_object or json_schema.")
                    .or(ResponseFormat::Text);
                let verbosity = fields
                    .text("verbosity", 1..=LABEL_CHARS_MAX)
                    .about("Goes to the model's provider.")
                    .optional();
                (format, verbosity)
            })
            .about("The form of the answer.")
            .optional();
        let (format, verbosity) = format.unwrap_or((ResponseFormat::Text, None));
        if let Some(verbosity) = verbosity {
            parameters.insert("verbosity".to_owned(), verbosity.into());
        }
        let response = Self {
            model: fields
                .text("model", 1..=MODEL_CHARS_MAX)
                .about("An agent's name or id, or `provider/model`.")
                .example("simple_agent")
                .required(),
            turn: fields
                .field("input", Items { max: ITEMS_MAX, or_text: true })
                .about("Text, or items: messages, calls of functions, and their outputs.")
                .required(),
            instructions: fields
                .text("instructions", 0..=INSTRUCTIONS_CHARS_MAX)
                .about("Replaces the agent's instructions, for this response.")
                .optional(),
            previous: fields
                .text("previous_response_id", 1..=ID_CHARS_MAX)
                .about("The response that this one follows.")
                .optional(),
            conversation: fields
                .field("conversation", ConversationRef)
                .about("The conversation that this belongs to: its id, or an object with it.")
                .optional(),
            tools: fields
                .field("tools", Tools(Shape::Response))
                .about("Functions that the client carries out; a response that calls them ends.")
                .or(Vec::new()),
            tool_choice: fields
                .field("tool_choice", Choice(Shape::Response))
                .about("`auto`, `none`, `required`, or a function.")
                .or(ToolChoice::Auto),
            parallel_tool_calls: fields
                .boolean("parallel_tool_calls")
                .about("Whether several functions may be called at once.")
                .optional(),
            format,
            parameters,
            user: fields
                .external_id("user")
                .about("The caller's id of the user; recall stays within it.")
                .optional(),
            metadata: fields
                .object("metadata")
                .about("The client's own, kept with the run.")
                .or("{}".to_owned()),
            background: fields
                .boolean("background")
                .about("Answer as soon as it is accepted; read or stream it later.")
                .or(false),
            stream: fields.boolean("stream").about("Answer with events as they come.").or(false),
            store: fields
                .boolean("store")
                .about(
                    "Whether it can be read and followed later; otherwise what was said in it \
                    is deleted once it is answered.",
                )
                .or(true),
        };
        if !response.store {
            for (name, is_sent) in [
                ("background", response.background),
                ("conversation", response.conversation.is_some()),
            ] {
                if is_sent {
                    fields.fault(name, "exclusive", "is of no use with store: false");
                }
            }
        }
        if response.previous.is_some() && response.conversation.is_some() {
            let detail = "send previous_response_id or conversation, not both";
            fields.fault("conversation", "exclusive", detail);
        }
        if fields.is_faultless() {
            check_turn(fields, &response.turn);
        }
        response
    }
}

fn check_turn(fields: &mut Fields, turn: &[ChatMessage]) {
    let is_empty = |said: &ChatMessage| said.is_plain() && said.text().is_empty();
    match turn.last().map(ChatMessage::role) {
        Some(MessageRole::User) if turn.last().is_some_and(is_empty) => {
            fields.fault("input", "too_short", "must have 1 character or more");
        }
        None => fields.fault("input", "too_short", "must have 1 item or more"),
        Some(MessageRole::User | MessageRole::Tool) => {}
        Some(MessageRole::System | MessageRole::Assistant) => {
            let detail = "the last item must be the user's, or the output of a function";
            fields.fault("input", NOT_SUPPORTED_YET, detail);
        }
    }
}

fn read_not_supported_yet(fields: &mut Fields) {
    let asks_for_more = |value: &Value| {
        let names = value.as_array().map(Vec::as_slice);
        !names.is_some_and(|names| names.iter().all(is_included))
    };
    fields.not_supported_yet("include", asks_for_more, "there is no more to include");
    fields.not_supported_yet("prompt", |_| true, "prompts are agents here: name one as model");
    fields.not_supported_yet("max_tool_calls", |_| true, "no tools are carried out by number");
    let some = |value: &Value| value != &json!(0);
    fields.not_supported_yet("top_logprobs", some, "token probabilities are not given");
    fields.not_supported_yet(
        "truncation",
        |value| value != "disabled",
        "what a model is shown is bounded by the conversation's newest messages",
    );
    fields.not_supported_yet("context_management", |_| true, "conversations are not compacted");
    fields.not_supported_yet("moderation", |_| true, "there is no moderation");
}

/// What an item has in any case, or would have if there were such items.
const INCLUDED: [&str; 6] = [
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
];

fn is_included(name: &Value) -> bool {
    name.as_str().is_some_and(|name| INCLUDED.contains(&name))
}

/// What goes to the model's provider, under the names of chat completions.
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
    let tokens_max = fields.integer("max_output_tokens", 1..=i64::MAX).about(ABOUT).optional();
    if let Some(tokens_max) = tokens_max {
        parameters.insert("max_completion_tokens".to_owned(), tokens_max.into());
    }
    for name in ["service_tier", "prompt_cache_key", "safety_identifier"] {
        let kind = Text::of(1..=LABEL_CHARS_MAX);
        if let Some(value) = fields.field(name, kind).about(ABOUT).optional() {
            parameters.insert(name.to_owned(), value.into());
        }
    }
    let effort = fields
        .nested("reasoning", |fields| {
            fields.not_supported_yet("summary", |_| true, "reasoning is not told");
            fields.text("effort", 1..=LABEL_CHARS_MAX).about(ABOUT).optional()
        })
        .about("How much to think.")
        .optional();
    if let Some(effort) = effort.flatten() {
        parameters.insert("reasoning_effort".to_owned(), effort.into());
    }
    parameters
}

/// A conversation: its id, or an object with it.
#[derive(Clone, Copy, Debug)]
struct ConversationRef;

impl Kind for ConversationRef {
    type Out = String;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let types = SchemaType::Array(vec![Type::String, Type::Object]);
        Schema::Object(ObjectBuilder::new().schema_type(types).build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<String> {
        let id = match &value {
            Value::String(id) => Some(id.as_str()),
            value => value.get("id").and_then(Value::as_str),
        };
        match id.filter(|id| !id.is_empty()) {
            Some(id) => Some(id.to_owned()),
            None => site.fault("wrong_type", "must be an id, or an object with one"),
        }
    }

    fn placeholder(&self) -> String {
        String::new()
    }
}

/// The session of a conversation's id.
pub(crate) fn conversation_session(id: &str) -> Result<SessionId> {
    let bytes = id_behind(id, &["conv_"]);
    bytes.map(SessionId::from_bytes).ok_or_else(|| Error::not_found("conversation", id))
}

/// `conv_` and the session's id.
pub(crate) fn conversation_id(session: SessionId) -> String {
    format!("conv_{:032x}", u128::from_be_bytes(session.to_bytes()))
}

/// The run of a response's id; other runs are no responses.
async fn response_run(state: &ApiState, caller: &Caller, id: &str) -> Result<Run> {
    let missing = || Error::not_found("response", id);
    let run = id_behind(id, &["resp_"]).map(RunId::from_bytes).ok_or_else(missing)?;
    match state.engine.run_get(caller, run).await {
        Ok(run) if run.request.response.is_some() && !run.is_unstored() => Ok(run),
        Ok(_) => Err(missing()),
        Err(error) if error.code == Code::NotFound => Err(missing()),
        Err(error) => Err(error),
    }
}

impl ResponseCreate {
    fn request(&mut self, asked: ResponseAsked, handling: Handling) -> RunRequest {
        let turn = std::mem::take(&mut self.turn);
        let input: Vec<_> = turn
            .iter()
            .filter(|said| matches!(said.role(), MessageRole::User | MessageRole::Tool))
            .map(ChatMessage::text)
            .collect();
        let parameters = std::mem::take(&mut self.parameters);
        RunRequest {
            input: input.join("\n"),
            turn: match turn.as_slice() {
                // A plain turn is its input.
                [one] if one.is_plain() => Vec::new(),
                _ => turn.clone(),
            },
            message_limit: Some(MESSAGE_LIMIT_MAX),
            client_tools: std::mem::take(&mut self.tools),
            tool_choice: std::mem::take(&mut self.tool_choice),
            parallel_tool_calls: self.parallel_tool_calls,
            response_format: std::mem::take(&mut self.format),
            system_prompt: self.instructions.take(),
            parameters: parameters_json(parameters),
            response: Some(asked),
            handling,
            ..RunRequest::default()
        }
    }
}

/// Create a response
///
/// A run of an agent, or of a model. With `background` the answer is the response as it was
/// accepted, to be read or streamed later; with `stream` it is events. Functions that it calls
/// are the client's: their outputs go into the `input` of a response that follows it, by
/// `previous_response_id` or in the same `conversation`.
#[utoipa::path(
    post,
    path = "/v1/responses",
    operation_id = "response_create",
    tag = "openai",
    request_body = ResponseCreate,
    responses(
        (status = 200, description = "The response.", content(
            (Value = "application/json"),
            (Value = "text/event-stream"),
        ), headers(("X-Run-Id" = String, description = "The run's id."))),
    ),
)]
pub async fn response_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    context: RequestContext,
    Posted { body: mut create, once }: Posted<ResponseCreate>,
) -> Handled {
    let goes_on = create.background || once.is_some();
    let handling = Handling {
        if_busy: IfBusy::Enqueue,
        on_disconnect: if goes_on { OnDisconnect::Continue } else { OnDisconnect::Cancel },
        background: create.background,
        ..Handling::default()
    };
    if once.is_some() && !create.store {
        let detail = "what is not kept cannot be answered again";
        return Err(Error::not_supported("Idempotency-Key", detail).into());
    }
    let mut asked = ResponseAsked { unstored: !create.store, ..ResponseAsked::default() };
    let session = match (&create.previous, &create.conversation) {
        (Some(previous), _) => {
            let previous = response_run(&state, &caller, previous).await?;
            asked.previous = Some(previous.id);
            asked.in_conversation = previous.request.response.is_some_and(|it| it.in_conversation);
            let session = state.engine.run_follow_up(&caller, &previous).await?;
            asked.in_conversation &= session == previous.session;
            SessionRef::Id(session)
        }
        (None, Some(conversation)) => {
            asked.in_conversation = true;
            SessionRef::Id(conversation_session(conversation)?)
        }
        (None, None) => SessionRef::None,
    };
    let new = RunNew {
        agent: AgentRef::Model(create.model.clone()),
        session,
        origin: Some(ORIGIN.to_owned()),
        user_id: create.user.take(),
        metadata: std::mem::take(&mut create.metadata),
        request: create.request(asked, handling),
    };
    let Done { value: handle, replayed } = state.engine.run_start(&caller, once, new).await?;
    let run = handle.run.id.to_string();
    let forgetting = asked.unstored.then(|| state.engine.run_forgetting(&caller, handle.run.id));
    let mut response = if create.stream {
        let place = Place::beginning();
        let accepted = handle.run.clone();
        let events = handle.followed().that_catch_up();
        let of = (&state, &caller, &context);
        response_stream::answer(events, accepted, create.model, place, of, forgetting)
    } else if create.background {
        answer_json(StatusCode::OK, &response(&handle.run, &create.model))?
    } else {
        let run = handle.finished().await?;
        if !matches!(run.status, RunStatus::Succeeded | RunStatus::Cancelled) {
            reply(&run)?;
        }
        answer_json(StatusCode::OK, &response(&run, &create.model))?
    };
    put(&mut response, X_RUN_ID, &run);
    Ok(replay(response, replayed))
}

/// How a run stands, in OpenAI's word, and why it is incomplete.
pub(crate) fn status(run: &Run) -> (&'static str, Option<&'static str>) {
    match run.status {
        RunStatus::Queued => ("queued", None),
        RunStatus::Running => ("in_progress", None),
        RunStatus::Succeeded => match run.finish_reason.as_deref() {
            Some("length") => ("incomplete", Some("max_output_tokens")),
            Some("content_filter") => ("incomplete", Some("content_filter")),
            _ => ("completed", None),
        },
        RunStatus::Cancelled => ("cancelled", None),
        RunStatus::Failed | RunStatus::Interrupted | RunStatus::TimedOut => ("failed", None),
    }
}

/// A run as a response.
pub(crate) fn response(run: &Run, model: &str) -> Value {
    let request = &run.request;
    let (status, incomplete) = status(run);
    let asked = request.response.unwrap_or_default();
    let parameters: Value = request
        .parameters
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let error = run.error.as_ref().filter(|_| status == "failed");
    let usage = run.status.is_final().then(|| {
        let (input, output) =
            (run.usage.input_tokens.unwrap_or(0), run.usage.output_tokens.unwrap_or(0));
        json!({"input_tokens": input, "output_tokens": output,
            "total_tokens": input.saturating_add(output),
            "input_tokens_details": {
                "cached_tokens": run.usage.cached_input_tokens.unwrap_or(0),
                "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0}})
    });
    let seconds = |at: agentry_domain::Timestamp| at.micros().div_euclid(1_000_000);
    let conversation = asked.in_conversation.then(|| json!({"id": conversation_id(run.session)}));
    json!({
        "id": response_id(run.id),
        "object": "response",
        "created_at": seconds(run.created_at),
        "completed_at": run.finished_at.filter(|_| status == "completed").map(seconds),
        "status": status,
        "background": request.handling.background,
        "error": error.map(|error| json!({"code": error.code.as_str(), "message": error.detail})),
        "incomplete_details": incomplete.map(|reason| json!({"reason": reason})),
        "instructions": request.system_prompt,
        "max_output_tokens": parameters.get("max_completion_tokens"),
        "metadata": serde_json::from_str::<Value>(&run.metadata).unwrap_or_else(|_| json!({})),
        "model": model,
        "output": output(run),
        "parallel_tool_calls": request.parallel_tool_calls.unwrap_or(true),
        "previous_response_id": asked.previous.map(response_id),
        "conversation": conversation,
        "reasoning": {"effort": parameters.get("reasoning_effort"), "summary": null},
        "store": !run.is_unstored(),
        "temperature": parameters.get("temperature"),
        "text": {"format": format_json(&request.response_format),
            "verbosity": parameters.get("verbosity").cloned().unwrap_or_else(|| "medium".into())},
        "tool_choice": choice_json(&request.tool_choice),
        "tools": request.client_tools.iter().map(tool_json).collect::<Vec<_>>(),
        "top_p": parameters.get("top_p"),
        "truncation": "disabled",
        "usage": usage,
        "user": run.user_id,
    })
}

/// What a response was asked of: the model, or the agent by its name.
async fn model_of(state: &ApiState, caller: &Caller, run: &Run) -> Result<String> {
    if let Some(model) = &run.request.model {
        return Ok(model.clone());
    }
    match state.engine.resource_get::<AgentBody>(caller, run.agent).await {
        Ok(agent) => Ok(agent.entity()?.body.name),
        Err(error) if error.code == Code::NotFound => Ok(run.agent.to_string()),
        Err(error) => Err(error),
    }
}

/// From where a response is told.
pub struct ResponseQuery {
    stream: bool,
    starting_after: Option<i64>,
}

query_parameters!(ResponseQuery);

impl FromFields for ResponseQuery {
    fn read(fields: &mut Fields) -> Self {
        Self {
            stream: fields.boolean("stream").about("Answer with events.").or(false),
            starting_after: fields
                .integer("starting_after", 0..=i64::MAX)
                .about("The `sequence_number` of the last event that one has.")
                .optional(),
        }
    }
}

/// Read a response, or follow it
///
/// With `stream` as events: from its beginning, or after the one with the number
/// `starting_after`, whether it goes on or is over. A number is a place in the response: they
/// grow, and are not without gaps.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    operation_id = "response_get",
    tag = "openai",
    params(("id" = String, Path, description = "The response's id."), ResponseQuery),
    responses(
        (status = 200, description = "The response.", content(
            (Value = "application/json"),
            (Value = "text/event-stream"),
        )),
    ),
)]
pub async fn response_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
    Query(query): Query<ResponseQuery>,
    context: RequestContext,
) -> Handled {
    let run = response_run(&state, &caller, &id).await?;
    let model = model_of(&state, &caller, &run).await?;
    if !query.stream {
        if query.starting_after.is_some() {
            let fault = Fault::new("starting_after", "exclusive", "is for streams");
            return Err(Error::invalid(vec![fault]).into());
        }
        return answer_json(StatusCode::OK, &response(&run, &model));
    }
    let place = Place::after(query.starting_after);
    let events = state.engine.run_events(&caller, run.id, place.cursor(&run)).await?;
    match events {
        Some(events) => {
            let events = events.that_catch_up();
            let of = (&state, &caller, &context);
            Ok(response_stream::answer(events, run, model, place, of, None))
        }
        None => answer_json(StatusCode::OK, &response(&run, &model)),
    }
}

/// Cancel a response
///
/// It keeps what it said so far. One that has ended stays as it is.
#[utoipa::path(
    post,
    path = "/v1/responses/{id}/cancel",
    operation_id = "response_cancel",
    tag = "openai",
    params(("id" = String, Path, description = "The response's id.")),
    responses(
        (status = 200, description = "The response.", body = Value),
    ),
)]
pub async fn response_cancel(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
) -> Handled {
    let run = response_run(&state, &caller, &id).await?;
    let run = state.engine.run_cancel(&caller, run.id).await?;
    let model = model_of(&state, &caller, &run).await?;
    answer_json(StatusCode::OK, &response(&run, &model))
}

/// Delete a response
///
/// With what was said in it, unless it belongs to a conversation. 409 before its end.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    operation_id = "response_delete",
    tag = "openai",
    params(("id" = String, Path, description = "The response's id.")),
    responses(
        (status = 200, description = "It is gone.", body = Value),
    ),
)]
pub async fn response_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
) -> Handled {
    let run = response_run(&state, &caller, &id).await?;
    state.engine.run_delete(&caller, &run).await?;
    answer_json(StatusCode::OK, &json!({"id": id, "object": "response", "deleted": true}))
}

/// Which items.
pub struct ItemQuery {
    pub(crate) limit: usize,
    pub(crate) order: Order,
    pub(crate) after: Option<String>,
}

query_parameters!(ItemQuery);

impl FromFields for ItemQuery {
    fn read(fields: &mut Fields) -> Self {
        let limit = fields
            .integer("limit", 1..=PAGE_ITEMS_MAX)
            .about("Items at most.")
            .or(PAGE_ITEMS_DEFAULT);
        let order = fields
            .choice::<Order>("order")
            .about("The oldest or the newest first.")
            .or(Order::Descending);
        Self {
            limit: usize::try_from(limit).unwrap_or(1),
            order,
            after: fields
                .text("after", 1..=ID_CHARS_MAX)
                .about("The id of the item before the first.")
                .optional(),
        }
    }
}

/// List what a response was asked
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    operation_id = "response_input_list",
    tag = "openai",
    params(("id" = String, Path, description = "The response's id."), ItemQuery),
    responses(
        (status = 200, description = "A page of items.", body = Value),
    ),
)]
pub async fn response_input_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(id): PathName,
    Query(query): Query<ItemQuery>,
) -> Handled {
    let run = response_run(&state, &caller, &id).await?;
    let mut items = input(&run);
    if query.order == Order::Descending {
        items.reverse();
    }
    answer_json(StatusCode::OK, &page(items, query.after.as_deref(), query.limit))
}
