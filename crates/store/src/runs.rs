//! Runs in the store. Who may write to a run is decided by its job's fence; see
//! `jobs`.

use std::time::Duration;

use agentry_domain::chat::{ChatMessage, ResponseFormat, ToolCall, ToolChoice, ToolSpec};
use agentry_domain::runs::{ResponseAsked, Run, RunError, RunRequest, RunStatus, Stop, Usage};
use agentry_domain::sessions::MessageRole;
use agentry_domain::{
    AgentId, Code, Error, MessageId, OrgId, Page, PageRequest, RunId, SessionId, Timestamp,
};

use agentry_domain::tools::RunCall;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::counters::{COUNTER_BELOW, RUNS, RUNS_WAITING};
use crate::lists::{cursor, list_page};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    RUN_INSERT = "insert into run (org, id, agent, session, user_id, status, message, \
        input, message_limit, given, system_prompt, context, parameters, timeout_ms, model, metadata, \
        attempt, created_at, started_at, user_given, warnings, handling, asked) values ($1, $2, $3, $4, $5, \
        $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)";
    RUN_START = "update run set status = $1, attempt = $2, started_at = $3, message = $4 \
        where org = $5 and id = $6 and finished_at is null and merged = $7";
    RUN_FINISH = "update run set status = $1, reply = $2, error_code = $3, error_detail = $4, \
        input_tokens = $5, output_tokens = $6, started_at = $7, finished_at = $8, message = $9, \
        fingerprint = $10, cached_from = $11, stop = $12, said = $13 \
        where org = $14 and id = $15 and finished_at is null and stop = $16 and merged = $17 \
        and attempt = $18";
    RUN_OPEN = "select stop from run where org = $1 and id = $2 and finished_at is null";
    RUN_STOP = "update run set stop = case when stop < $1 then $1 else stop end \
        where org = $2 and id = $3 and finished_at is null and (merged = 0 or $1 > 1)";
    RUN_MERGE = "update run set input = input || $1, metadata = $2, merged = merged + 1 \
        where org = $3 and id = $4 and status = 'queued' and stop = 0 and metadata = $5 \
        and length(input) <= $6";
    RUN_FORGET = "update run set input = '', given = null, system_prompt = null, context = null, \
        parameters = null, metadata = '{}', user_given = null, reply = null, message = null, \
        asked = $1, said = $2 where org = $3 and id = $4 and finished_at is not null";
    RUNS_STOPPING = "select org, id, stop from run where stop > 0 and finished_at is null";
    RUN_OF_FINGERPRINT = "select id from run where org = $1 and fingerprint = $2 \
        and finished_at > $3 and id < $4 order by id desc limit 1";
    RUN_DELETE_SESSION = "delete from run where org = $1 and session = $2";
    RUN_COUNT_SESSION = sqlite "insert into counter (org, kind, key, n) \
        select org, $1, x'', -count(*) from run where org = $2 and session = $3 group by org \
        on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "insert into counter_change (org, kind, key, n) \
        select org, $1, ''::bytea, -count(*) from run where org = $2 and session = $3 \
        group by org";
    RUN_GET = "select id, agent, session, user_id, status, message, input, message_limit, given, \
        system_prompt, context, parameters, timeout_ms, model, metadata, reply, error_code, \
        error_detail, input_tokens, output_tokens, attempt, created_at, started_at, finished_at, \
        user_given, warnings, handling, merged, stop, cached_from, asked, said from run where org = $1 and id = $2";
    RUN_LIST_DESC = "select id, agent, session, user_id, status, message, input, message_limit, given, \
        system_prompt, context, parameters, timeout_ms, model, metadata, reply, error_code, \
        error_detail, input_tokens, output_tokens, attempt, created_at, started_at, finished_at, \
        user_given, warnings, handling, merged, stop, cached_from, asked, said from run where org = $1 and id < $2 order by id desc limit $3 offset $4";
    RUN_LIST_ASC = "select id, agent, session, user_id, status, message, input, message_limit, given, \
        system_prompt, context, parameters, timeout_ms, model, metadata, reply, error_code, \
        error_detail, input_tokens, output_tokens, attempt, created_at, started_at, finished_at, \
        user_given, warnings, handling, merged, stop, cached_from, asked, said from run where org = $1 and id > $2 order by id limit $3 offset $4";
    RUN_FILTER_DESC = "select id, agent, session, user_id, status, message, input, message_limit, given, \
        system_prompt, context, parameters, timeout_ms, model, metadata, reply, error_code, \
        error_detail, input_tokens, output_tokens, attempt, created_at, started_at, finished_at, \
        user_given, warnings, handling, merged, stop, cached_from, asked, said from run where org = $1 and id < $2 and (agent = $3 or $3 is null) \
        and (user_id = $4 or $4 is null) and (status = $5 or $5 is null) \
        order by id desc limit $6 offset $7";
    RUN_FILTER_ASC = "select id, agent, session, user_id, status, message, input, message_limit, given, \
        system_prompt, context, parameters, timeout_ms, model, metadata, reply, error_code, \
        error_detail, input_tokens, output_tokens, attempt, created_at, started_at, finished_at, \
        user_given, warnings, handling, merged, stop, cached_from, asked, said from run where org = $1 and id > $2 and (agent = $3 or $3 is null) \
        and (user_id = $4 or $4 is null) and (status = $5 or $5 is null) \
        order by id limit $6 offset $7";
    RUN_FILTER_COUNT = "select count(*) from (select 1 from run where org = $1 \
        and (agent = $2 or $2 is null) and (user_id = $3 or $3 is null) \
        and (status = $4 or $4 is null) limit $5) as counted";
    RUN_SESSION_DESC = "select id, agent, session, user_id, status, message, input, message_limit, given, \
        system_prompt, context, parameters, timeout_ms, model, metadata, reply, error_code, \
        error_detail, input_tokens, output_tokens, attempt, created_at, started_at, finished_at, \
        user_given, warnings, handling, merged, stop, cached_from, asked, said from run where org = $1 and session = $2 and id < $3 and (agent = $4 or $4 is null) \
        and (user_id = $5 or $5 is null) and (status = $6 or $6 is null) \
        order by id desc limit $7 offset $8";
    RUN_SESSION_ASC = "select id, agent, session, user_id, status, message, input, message_limit, given, \
        system_prompt, context, parameters, timeout_ms, model, metadata, reply, error_code, \
        error_detail, input_tokens, output_tokens, attempt, created_at, started_at, finished_at, \
        user_given, warnings, handling, merged, stop, cached_from, asked, said from run where org = $1 and session = $2 and id > $3 and (agent = $4 or $4 is null) \
        and (user_id = $5 or $5 is null) and (status = $6 or $6 is null) \
        order by id limit $7 offset $8";
    RUN_SESSION_COUNT = "select count(*) from (select 1 from run where org = $1 \
        and session = $2 and (agent = $3 or $3 is null) and (user_id = $4 or $4 is null) \
        and (status = $5 or $5 is null) limit $6) as counted";
}

/// Which runs a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// In this session.
    pub session: Option<SessionId>,
    /// Of this agent.
    pub agent: Option<AgentId>,
    /// Of this user.
    pub user_id: Option<String>,
    /// In this status.
    pub status: Option<RunStatus>,
}

impl RunFilter {
    fn values(&self) -> Vec<Value> {
        values![
            self.agent,
            self.user_id.as_ref(),
            self.status.map_or(Value::Null, |status| Value::Static(status.as_str())),
        ]
    }
}

/// What a run's guard refuses: one that has ended is `conflict`; one of which more
/// became known than its writer knows is `precondition_failed`: read it again.
fn over(org: OrgId, id: RunId) -> Probe {
    Probe::read(&RUN_OPEN, values![org, id], move |open| match open {
        None => Error::new(Code::Conflict, format!("run {id} has already ended")),
        Some(_) => Error::new(Code::PreconditionFailed, format!("run {id} has changed")),
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Write {
    /// Stores a new run.
    pub fn run_insert(&mut self, run: &Run) {
        let request = &run.request;
        self.add(
            &RUN_INSERT,
            values![
                self.org,
                run.id,
                run.agent,
                run.session,
                run.user_id.as_ref(),
                run.status.as_str(),
                run.message,
                &request.input,
                request.message_limit.map_or(Value::Null, Value::from),
                given_to_json(&request.messages).as_ref(),
                request.system_prompt.as_ref(),
                request.context.as_ref(),
                request.parameters.as_ref(),
                request.timeout.map_or(Value::Null, |timeout| Value::Int(millis(timeout))),
                request.model.as_ref(),
                &run.metadata,
                run.attempt,
                run.created_at,
                run.started_at,
                request.user.as_ref().and_then(to_json),
                (!run.warnings.is_empty()).then(|| to_json(&run.warnings)).flatten(),
                to_json(&request.handling),
                Asked::of(request).as_ref().and_then(to_json),
            ],
        );
        self.count(RUNS, &[], 1);
    }

    /// Guard: fewer runs than this wait in the organisation, and fewer than that in
    /// all. Counts that other writes change at the same time may be passed by as many.
    pub fn run_queue_room(&mut self, org_max: u32, all_max: u32) {
        let full = |code, bound: &'static str, max: u32| {
            move || Error::new(code, format!("{max} runs wait already ({bound} = {max})"))
        };
        self.add(&COUNTER_BELOW, values![self.org, RUNS_WAITING, org_max])
            .expect_one(Probe::always(full(Code::OrgQueueFull, "org_queue_runs_max", org_max)));
        let all = OrgId::from_bytes([0; 16]);
        self.add(&COUNTER_BELOW, values![all, RUNS_WAITING, all_max])
            .expect_one(Probe::always(full(Code::QueueFull, "queue_runs_max", all_max)));
    }

    /// Counts runs that wait from now on, or no longer.
    pub fn run_waiting_count(&mut self, delta: i64) {
        self.count(RUNS_WAITING, &[], delta);
        self.count_in_all(RUNS_WAITING, delta);
    }

    /// Asks a run that has not ended to end early. One that others joined does not
    /// end because the client went away that was first.
    pub fn run_stop(&mut self, id: RunId, stop: Stop) {
        let org = self.org;
        self.run_changed(id);
        self.add(&RUN_STOP, values![Stop::number(Some(stop)), org, id]).expect_one(over(org, id));
    }

    /// Adds to the input of a run that waits, and has this metadata, if it stays
    /// within so many characters; otherwise the write fails with `conflict` or
    /// `precondition_failed`.
    pub fn run_merge(&mut self, run: &Run, more: &str, metadata: &str, chars_max: usize) {
        let room = chars_max.saturating_sub(more.chars().count());
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        let org = self.org;
        self.add(
            &RUN_MERGE,
            values![more.to_owned(), metadata.to_owned(), self.org, run.id, &run.metadata, room],
        )
        .expect_one(over(org, run.id));
    }

    /// Stores that a run was begun, and how often.
    pub fn run_begin(&mut self, run: &Run) {
        let org = self.org;
        self.add(
            &RUN_START,
            values![
                run.status.as_str(),
                run.attempt,
                run.started_at,
                run.message,
                self.org,
                run.id,
                run.merged,
            ],
        )
        .expect_one(over(org, run.id));
        self.run_changed(run.id);
    }

    /// Stores how a run ended that was read with this reason to stop. What was asked
    /// of it since is not in there, and fails the write with `precondition_failed`.
    pub fn run_finish(&mut self, run: &Run, known: Option<Stop>, fingerprint: Option<[u8; 16]>) {
        let org = self.org;
        self.add(
            &RUN_FINISH,
            values![
                run.status.as_str(),
                run.reply.as_ref(),
                run.error.as_ref().map_or(Value::Null, |error| Value::Static(error.code.as_str())),
                run.error.as_ref().map(|error| &error.detail),
                run.usage.input_tokens,
                run.usage.output_tokens,
                run.started_at,
                run.finished_at,
                run.message,
                fingerprint.map_or(Value::Null, Value::Id),
                run.cached_from,
                Stop::number(run.stop),
                Said::of(run).as_ref().and_then(to_json),
                self.org,
                run.id,
                Stop::number(known),
                run.merged,
                run.attempt,
            ],
        )
        .expect_one(over(org, run.id));
        if run.attempt > 0 && !self.without_chunks {
            self.run_chunks_delete(run.id);
        }
        if run.attempt > 0 && !self.without_tools {
            self.run_tools_delete(run.id);
        }
        self.run_changed(run.id);
    }

    /// Forgets what was said in a run that has ended; that it was, and what it cost, stays.
    pub fn run_forget(&mut self, run: &Run) {
        let asked = Asked { response: run.request.response, ..Asked::default() };
        let said = Said {
            calls: Vec::new(),
            tools: Vec::new(),
            reply_message: None,
            ..Said::of(run).unwrap_or_default()
        };
        self.add(&RUN_FORGET, values![to_json(&asked), to_json(&said), self.org, run.id]);
    }

    pub(crate) fn run_delete_session(&mut self, session: SessionId) {
        self.add(&RUN_COUNT_SESSION, values![RUNS, self.org, session]);
        self.add(&RUN_DELETE_SESSION, values![self.org, session]);
    }
}

impl Store {
    /// The run with this id.
    pub async fn run_get(&self, org: OrgId, id: RunId) -> Result<Option<Run>> {
        self.point(&RUN_GET, values![org, id], run).await
    }

    /// The runs that are to end early and have not, and why; of every organisation.
    pub async fn runs_stopping(&self) -> Result<Vec<(OrgId, RunId, Stop)>> {
        let rows = self.rows(&RUNS_STOPPING, values![], |row| {
            Ok((OrgId::from_bytes(row.id()?), RunId::from_bytes(row.id()?), row.int()?))
        });
        let known = |(org, id, stop)| Stop::of_number(stop).map(|stop| (org, id, stop));
        Ok(rows.await?.into_iter().filter_map(known).collect())
    }

    /// The newest run with this fingerprint that ended after a time and came before
    /// another one.
    pub async fn run_of_fingerprint(
        &self,
        org: OrgId,
        fingerprint: [u8; 16],
        ended_after: Timestamp,
        before: RunId,
    ) -> Result<Option<RunId>> {
        let bound = values![org, Value::Id(fingerprint), ended_after, before];
        self.point(&RUN_OF_FINGERPRINT, bound, |row| Ok(RunId::from_bytes(row.id()?))).await
    }

    /// A page of runs.
    pub async fn run_list(
        &self,
        org: OrgId,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<Run>> {
        let id = |run: &Run| run.id.to_bytes();
        let (after, limit, offset) = cursor(page);
        if *filter == RunFilter::default() {
            let sql = list_page(page, &RUN_LIST_ASC, &RUN_LIST_DESC);
            let rows = self.list(page, sql, values![org, after, limit, offset], run).await?;
            let total = self.counter(org, RUNS, &[]).await?;
            return Ok(Page::from_rows(rows, page, total, id));
        }
        if let Some(session) = filter.session {
            let sql = list_page(page, &RUN_SESSION_ASC, &RUN_SESSION_DESC);
            let mut bound = values![org, session, after];
            bound.extend(filter.values());
            bound.extend(values![limit, offset]);
            let rows = self.list(page, sql, bound, run).await?;
            let mut counted = values![session];
            counted.extend(filter.values());
            return self.filtered_page(rows, page, &RUN_SESSION_COUNT, org, counted, id).await;
        }
        let sql = list_page(page, &RUN_FILTER_ASC, &RUN_FILTER_DESC);
        let mut bound = values![org, after];
        bound.extend(filter.values());
        bound.extend(values![limit, offset]);
        let rows = self.scan(sql, bound, run).await?;
        self.filtered_page(rows, page, &RUN_FILTER_COUNT, org, filter.values(), id).await
    }
}

fn run(row: &mut Columns<'_>) -> Result<Run> {
    let id = RunId::from_bytes(row.id()?);
    let agent = AgentId::from_bytes(row.id()?);
    let session = SessionId::from_bytes(row.id()?);
    let user_id = row.opt_text()?;
    let status =
        RunStatus::parse(&row.text()?).ok_or_else(|| StoreError::unreadable("a run's status"))?;
    let message = row.opt_id()?.map(MessageId::from_bytes);
    let request = RunRequest {
        input: row.text()?,
        user: None,
        message_limit: row.opt_int()?.and_then(|limit| u32::try_from(limit).ok()),
        messages: row.opt_text()?.map_or_else(|| Ok(Vec::new()), |text| given_from_json(&text))?,
        system_prompt: row.opt_text()?,
        context: row.opt_text()?,
        parameters: row.opt_text()?,
        timeout: row.opt_int()?.map(|ms| Duration::from_millis(ms.unsigned_abs())),
        model: row.opt_text()?,
        ..RunRequest::default()
    };
    let metadata = row.text()?;
    let reply = row.opt_text()?;
    let error_code = row.opt_text()?;
    let error_detail = row.opt_text()?.unwrap_or_default();
    let mut run = Run {
        id,
        agent,
        session,
        user_id,
        status,
        message,
        request,
        metadata,
        reply,
        error: error_code.map(|code| RunError {
            code: Code::parse(&code).unwrap_or(Code::Internal),
            detail: error_detail,
        }),
        usage: Usage {
            input_tokens: row.opt_int()?.map(i64::unsigned_abs),
            output_tokens: row.opt_int()?.map(i64::unsigned_abs),
            ..Usage::default()
        },
        calls: Vec::new(),
        finish_reason: None,
        answered_by: None,
        reply_message: None,
        tools: Vec::new(),
        merged: 0,
        stop: None,
        cached_from: None,
        attempt: row.int()?,
        created_at: row.time()?,
        started_at: row.opt_time()?,
        finished_at: row.opt_time()?,
        warnings: Vec::new(),
    };
    run.request.user = row.opt_text()?.map(|text| of_json(&text)).transpose()?;
    if let Some(warnings) = row.opt_text()? {
        run.warnings = of_json(&warnings)?;
    }
    run.request.handling =
        row.opt_text()?.map(|text| of_json(&text)).transpose()?.unwrap_or_default();
    run.merged = row.int()?;
    run.stop = Stop::of_number(row.int()?);
    run.cached_from = row.opt_id()?.map(RunId::from_bytes);
    if let Some(asked) = row.opt_text()? {
        of_json::<Asked>(&asked)?.put_into(&mut run.request);
    }
    if let Some(said) = row.opt_text()? {
        of_json::<Said>(&said)?.put_into(&mut run);
    }
    Ok(run)
}

fn to_json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

fn of_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| StoreError::unreadable("what a run says of its request"))
}

/// A message as it stands in `given`: `[role, text]` when that is all of it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Given {
    Plain(String, String),
    Whole(ChatMessage),
}

fn given_to_json(messages: &[ChatMessage]) -> Option<String> {
    if messages.is_empty() {
        return None;
    }
    let given = |message: &ChatMessage| match message.is_plain() {
        true => Given::Plain(message.role().as_str().to_owned(), message.text().into_owned()),
        false => Given::Whole(message.clone()),
    };
    to_json(&messages.iter().map(given).collect::<Vec<_>>())
}

fn given_from_json(text: &str) -> Result<Vec<ChatMessage>> {
    let wrong = || StoreError::unreadable("a run's given messages");
    let list: Vec<Given> = serde_json::from_str(text).map_err(|_| wrong())?;
    list.into_iter()
        .map(|given| match given {
            Given::Whole(message) => Ok(message),
            Given::Plain(role, text) => {
                let role = MessageRole::parse(&role).ok_or_else(wrong)?;
                Ok(ChatMessage::said(role, text))
            }
        })
        .collect()
}

/// What a run asks of its model beside its input; nothing of a plain one.
#[derive(PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Asked {
    turn: Vec<ChatMessage>,
    client_tools: Vec<ToolSpec>,
    tool_choice: ToolChoice,
    parallel_tool_calls: Option<bool>,
    response_format: ResponseFormat,
    response: Option<ResponseAsked>,
}

impl Asked {
    fn of(request: &RunRequest) -> Option<Self> {
        let asked = Self {
            turn: request.turn.clone(),
            client_tools: request.client_tools.clone(),
            tool_choice: request.tool_choice.clone(),
            parallel_tool_calls: request.parallel_tool_calls,
            response_format: request.response_format.clone(),
            response: request.response,
        };
        (asked != Self::default()).then_some(asked)
    }

    fn put_into(self, request: &mut RunRequest) {
        request.turn = self.turn;
        request.client_tools = self.client_tools;
        request.tool_choice = self.tool_choice;
        request.parallel_tool_calls = self.parallel_tool_calls;
        request.response_format = self.response_format;
        request.response = self.response;
    }
}

/// What is known of a run's answer beside its text.
#[derive(PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Said {
    calls: Vec<ToolCall>,
    finish_reason: Option<String>,
    answered_by: Option<String>,
    cached_input_tokens: Option<u64>,
    cost_nanos: Option<u64>,
    reply_message: Option<MessageId>,
    tools: Vec<RunCall>,
}

impl Said {
    fn of(run: &Run) -> Option<Self> {
        let said = Self {
            calls: run.calls.clone(),
            finish_reason: run.finish_reason.clone(),
            answered_by: run.answered_by.clone(),
            cached_input_tokens: run.usage.cached_input_tokens,
            cost_nanos: run.usage.cost_nanos,
            reply_message: run.reply_message,
            tools: run.tools.clone(),
        };
        (said != Self::default()).then_some(said)
    }

    fn put_into(self, run: &mut Run) {
        run.calls = self.calls;
        run.finish_reason = self.finish_reason;
        run.answered_by = self.answered_by;
        run.usage.cached_input_tokens = self.cached_input_tokens;
        run.usage.cost_nanos = self.cost_nanos;
        run.reply_message = self.reply_message;
        run.tools = self.tools;
    }
}
