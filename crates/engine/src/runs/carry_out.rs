//! Carrying a run out: history, recall, the model, and the finishing write.
//! No database connection is held while the model answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::agents::{Agent, AgentBody};
use agentry_domain::chat::{self, ChatMessage, Reasoning, ToolCall};
use agentry_domain::runs::{
    MESSAGE_LIMIT_DEFAULT, RUN_ATTEMPTS_MAX, Run, RunError, RunStatus, Stop,
};
use agentry_domain::sessions::{Message, MessageRole};
use agentry_domain::tools::RunCall;
use agentry_domain::{Caller, Code, Error, MessageId, Result, RunId};
use agentry_graph::extract::NAMELESS;
use agentry_llm::{Model, ModelRequest};
use agentry_store::{ClaimedJob, MemorySought, Scope, Write};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::left_behind::LeftBehind;
use super::reuse::{Reply, Reuse};
use super::steps::{self, Work};
use super::stop::withdraw_input;
use super::transcript::Transcript;
use super::{message_of, run_entry, store_input, timeout};
use crate::Engine;
use crate::episodes::run_group;
use crate::held::Held;
use crate::live::Speaker;
use crate::recall::Recall;
use crate::sessions::{scope, store_message};
use crate::tools::Offered;

/// The first wait before the outcome of a run is stored again, when the storage
/// failed; it doubles up to [`STORE_AGAIN_MAX`].
const STORE_AGAIN_FIRST: Duration = Duration::from_millis(100);
/// Passages that a model gets that only quotes: the best hits of a question that
/// was asked before are its earlier wordings.
const QUOTABLE_PASSAGES_MIN: usize = 20;
/// The longest wait between two tries.
const STORE_AGAIN_MAX: Duration = Duration::from_secs(5);

/// How long a run waits for a storage that cannot be read, before it fails.
const READ_AGAIN_FOR: Duration = Duration::from_secs(15);

/// What became of a run.
#[derive(Default)]
pub(super) struct Outcome {
    /// What the model said, up to its end or its failure.
    pub(super) text: String,
    pub(super) usage: agentry_domain::runs::Usage,
    /// The client's tools that the model called.
    pub(super) calls: Vec<ToolCall>,
    /// The tools that were called here.
    pub(super) tools: Vec<RunCall>,
    /// What the model thought before it called them, by step.
    pub(super) reasoning: BTreeMap<u32, Vec<Reasoning>>,
    /// The same of the client's.
    pub(super) calls_reasoning: Vec<Reasoning>,
    pub(super) finish_reason: Option<String>,
    pub(super) answered_by: Option<String>,
    error: Option<Error>,
    /// Whether what was said can be recalled later.
    remember: bool,
    /// Whether the text only repeats memory.
    quotes: bool,
    /// Whether chunks of the text may be in the store.
    pub(super) chunked: bool,
    /// The run whose reply it repeats.
    cached_from: Option<RunId>,
    /// What lets other runs use the reply.
    reuse: Option<Reuse>,
}

/// Where what a model says goes.
struct Said<'a> {
    job: &'a ClaimedJob,
    speaker: &'a Speaker,
    outcome: &'a mut Outcome,
}

/// How a run ends, ready to be stored.
struct End {
    run: Run,
    /// The messages that its calls here become, before the reply.
    called: Vec<(MessageId, ChatMessage)>,
    /// What a model is shown of the reply, when that is not its text.
    reply_shown: Option<ChatMessage>,
    /// What the model thought before it called the client's tools.
    calls_reasoning: Vec<Reasoning>,
    /// The reason to stop that was known.
    known: Option<Stop>,
    remember: bool,
    /// Chunks of the text may be in the store.
    chunked: bool,
    fingerprint: Option<[u8; 16]>,
}

impl Engine {
    /// Carries out a run that was claimed from the queue.
    pub(crate) async fn carry_out_claimed(&self, job: ClaimedJob) {
        let held = self.0.held.hold(job.id);
        let id = RunId::from_bytes(job.id.to_bytes());
        let speaker = self.0.live.speaker(job.org, id);
        // The store's rows name no key; the entries of the log that follow are
        // the server's own doing.
        let caller = Caller { org: job.org, ..self.anyone() };
        let mut wait = STORE_AGAIN_FIRST;
        loop {
            match self.begin_claimed(&caller, &job, id).await {
                // What it was asked is in the session now, and it goes no further.
                Ok(Begun::Now(run, _)) if run.stop.is_some() => {
                    let (read, outcome) = (run.stop, Outcome::default());
                    return self.store_outcome(&caller, &job, *run, outcome, read, speaker).await;
                }
                Ok(Begun::Now(run, agent)) => {
                    let agent = agent.map(|agent| *agent);
                    return self.carry_out(caller, job, *run, agent, speaker, held).await;
                }
                Ok(Begun::Never(run, error, left)) => {
                    let read = run.stop;
                    let LeftBehind { text, tools } = left;
                    let outcome = Outcome { text, tools, error, ..Outcome::default() };
                    return self.store_outcome(&caller, &job, *run, outcome, read, speaker).await;
                }
                // It was joined by another one since it was read.
                Err(error) if error.code == Code::PreconditionFailed => continue,
                Err(error) => {
                    let again = error.code.retryable() && error.code != Code::ShuttingDown;
                    tracing::error!(run = %id, again, error = %error.chain(),
                        "a claimed run could not be begun");
                    if !again {
                        speaker.finish(Err(error));
                        return;
                    }
                }
            }
            if !self.wait_to_store_again(&mut wait).await {
                return;
            }
        }
    }

    /// Marks a claimed run as begun, unless it is to end at once.
    async fn begin_claimed(&self, caller: &Caller, job: &ClaimedJob, id: RunId) -> Result<Begun> {
        let run = self.0.store.run_get(job.org, id).await?;
        let mut run = run.ok_or_else(|| Error::internal("a job without its run"))?;
        if run.status.is_final() {
            return Err(Error::internal("a job whose run has ended"));
        }
        // An interruption ends only what is under way, so that what it ends has begun.
        let is_interrupted = run.stop == Some(Stop::Interrupt);
        if run.stop.is_some() && !(is_interrupted && run.status == RunStatus::Queued) {
            let left = self.left_behind(job.org, &run).await?;
            return Ok(Begun::Never(Box::new(run), None, left));
        }
        if job.attempts > RUN_ATTEMPTS_MAX {
            let detail = format!("the run was begun {RUN_ATTEMPTS_MAX} times and never ended");
            let error = Error::new(Code::RunInterrupted, detail);
            let left = self.left_behind(job.org, &run).await?;
            return Ok(Begun::Never(Box::new(run), Some(error), left));
        }
        // What was begun before the process ended that had the run is not done twice.
        if job.attempts > 1 && self.0.store.run_tools_had_effects(job.org, id).await? {
            let detail = "the process that had the run ended after it called a tool that may \
                          have had an effect";
            let error = Error::new(Code::RunInterrupted, detail);
            let left = self.left_behind(job.org, &run).await?;
            return Ok(Begun::Never(Box::new(run), Some(error), left));
        }
        let agent = self.0.store.resource_get::<AgentBody>(job.org, run.agent).await?;
        let agent = agent.map(|agent| agent.entity()).transpose()?;
        let waited = run.status == RunStatus::Queued;
        let is_first = run.message.is_none();
        let now = self.now();
        if is_first {
            let newest = self.0.store.message_newest(job.org, run.session).await?;
            run.message = Some(self.message_id(now, newest));
        }
        run.become_status(RunStatus::Running)?;
        run.attempt = job.attempts;
        run.started_at = run.started_at.or(Some(now));
        let mut write = Write::new(job.org);
        write.job_held(job);
        write.run_begin(&run);
        if job.attempts > 1 {
            write.run_tools_delete(run.id);
        }
        if waited {
            write.run_waiting_count(-1);
        }
        if is_first {
            let remember = agent.as_ref().is_some_and(|agent| agent.memory.remember);
            store_input(&mut write, caller, &run, remember, now);
        }
        write.log(run_entry(caller, now, "run.started", &run));
        self.0.store.write(write).await?;
        Ok(Begun::Now(Box::new(run), agent.map(Box::new)))
    }

    /// Waits before the storage is tried again, longer each time; `false` when
    /// this process stops.
    async fn wait_to_store_again(&self, wait: &mut Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(*wait) => {
                *wait = (*wait * 2).min(STORE_AGAIN_MAX);
                true
            }
            () = self.0.tasks.stopping().cancelled() => false,
        }
    }

    /// Carries out a run that this process has begun, and stores how it ended.
    pub(crate) async fn carry_out(
        &self,
        caller: Caller,
        job: ClaimedJob,
        mut run: Run,
        agent: Option<Agent>,
        speaker: Speaker,
        mut held: Held,
    ) {
        speaker.begin(&run);
        let deadline = Instant::now() + timeout(&run.request);
        let read = run.stop;
        let remember = agent.as_ref().is_some_and(|agent| agent.memory.remember);
        let remember = remember && !run.is_unstored();
        let mut outcome = Outcome { remember, ..Outcome::default() };
        let ended = match &agent {
            None => Ok(Err(Error::not_found("agent", run.agent))),
            Some(agent) => {
                let said = Said { job: &job, speaker: &speaker, outcome: &mut outcome };
                let answer = self.answer(&caller, agent, &run, deadline, said);
                // What is dropped here closes the connection to the model's provider.
                tokio::select! {
                    biased;
                    stop = held.stopped() => {
                        run.stop = run.stop.max(Some(stop));
                        Ok(Ok(()))
                    }
                    ended = tokio::time::timeout_at(deadline, answer) => ended,
                }
            }
        };
        match ended {
            Ok(Ok(())) => {}
            // The model keeps the same deadline and may be the first to say so.
            Ok(Err(error)) if Instant::now() < deadline => outcome.error = Some(error),
            Ok(Err(_)) | Err(_) => {
                let limit = timeout(&run.request).as_millis();
                outcome.error = Some(Error::new(
                    Code::RunTimedOut,
                    format!("the run took longer than its {limit} ms (timeout_ms)"),
                ));
            }
        }
        self.store_outcome(&caller, &job, run, outcome, read, speaker).await;
    }

    /// How a run ends, from what came of it and what was asked of it.
    fn end_of(&self, run: &Run, outcome: &Outcome, known: Option<Stop>) -> Result<End> {
        let mut run = run.clone();
        run.usage = outcome.usage;
        run.cached_from = outcome.cached_from;
        run.finish_reason.clone_from(&outcome.finish_reason);
        run.answered_by.clone_from(&outcome.answered_by);
        if !outcome.tools.is_empty() {
            run.tools.clone_from(&outcome.tools);
        }
        steps::given_up(&mut run.tools, self.now());
        let text = || Some(outcome.text.clone()).filter(|text| !text.is_empty());
        match (run.stop, &outcome.error) {
            (Some(stop), _) => {
                let status = match run.status {
                    RunStatus::Queued => RunStatus::Cancelled,
                    _ => stop.status(),
                };
                run.become_status(status)?;
                run.error = Some(stop.error());
                run.reply = if stop == Stop::Rollback { None } else { text() };
                run.cached_from = None;
            }
            (None, None) => {
                run.become_status(RunStatus::Succeeded)?;
                run.reply = Some(outcome.text.clone());
                run.calls.clone_from(&outcome.calls);
            }
            (None, Some(error)) => {
                tracing::info!(run = %run.id, error = %error.chain(), "a run did not succeed");
                let status = match (run.status, error.code) {
                    (RunStatus::Queued, _) => RunStatus::Cancelled,
                    (_, Code::RunTimedOut) => RunStatus::TimedOut,
                    (_, Code::RunInterrupted) => RunStatus::Interrupted,
                    _ => RunStatus::Failed,
                };
                run.become_status(status)?;
                run.reply = text();
                let detail = error.detail.clone().into_owned();
                run.error = Some(RunError { code: error.code, detail });
            }
        }
        run.finished_at = Some(self.now());
        let succeeded = run.status == RunStatus::Succeeded;
        let newest = run.turn_messages().pop();
        let first = self.message_id(self.now(), newest);
        let bytes_max = self.0.options.run_limits.history_output_bytes_max;
        let whole = Transcript::of(&run.tools, &outcome.text, &outcome.reasoning, bytes_max);
        // Of what is withdrawn nothing stays; what was never begun has no place to stay.
        let stays = run.stop != Some(Stop::Rollback) && run.message.is_some();
        let called = if stays { whole.messages } else { Vec::new() };
        let called: Vec<_> =
            called.into_iter().enumerate().map(|(at, said)| (first.following(at), said)).collect();
        let is_there = run.reply.is_some() || !called.is_empty();
        run.reply_message = is_there.then(|| first.following(called.len()));
        let reply_shown = whole.said_last.map(|said| ChatMessage::called(said, Vec::new()));
        Ok(End {
            called,
            reply_shown,
            calls_reasoning: outcome.calls_reasoning.clone(),
            known,
            // Half a reply is no memory, and neither is one that only repeats it.
            remember: succeeded && outcome.remember && !outcome.quotes,
            chunked: outcome.chunked,
            fingerprint: outcome
                .reuse
                .as_ref()
                .and_then(Reuse::kept_as)
                .filter(|_| succeeded && !run.is_unstored()),
            run,
        })
    }

    async fn answer(
        &self,
        caller: &Caller,
        agent: &Agent,
        run: &Run,
        deadline: Instant,
        Said { job, speaker, outcome }: Said<'_>,
    ) -> Result<()> {
        let model = match &run.request.model {
            Some(model) => self.0.models.resolve(model)?,
            None => self.0.models.resolve_first(&agent.model, &agent.fallback_models)?,
        };
        outcome.quotes = model.quotes();
        let mut request = self.model_request_read(caller, agent, run, deadline, &model).await?;
        // A model that only quotes calls nothing.
        let offered = match model.quotes() {
            true => Offered::default(),
            false => self.tools_offered(caller, agent, run).await?,
        };
        // What tools do for one run they have not done for another.
        if offered.is_empty() {
            outcome.reuse = match self.reuse(caller, agent, run, &request).await? {
                Reply::Known { text, from } => {
                    outcome.text.push_str(&text);
                    outcome.cached_from = Some(from);
                    speaker.text(&text);
                    return Ok(());
                }
                Reply::Unknown(reuse) => reuse,
            };
        }
        let limits = self.0.options.run_limits.lowered(&agent.limits);
        let ends_at = if offered.is_empty() { deadline } else { steps::ends_at(&limits) };
        request.tools.splice(0..0, offered.specs().iter().cloned());
        let work = Work {
            caller,
            agent,
            run,
            job,
            speaker,
            outcome: &mut *outcome,
            offered: &offered,
            limits,
        };
        let steps: BoxFuture<'_, Result<()>> = Box::pin(self.take_steps(work, &model, request));
        match tokio::time::timeout_at(deadline.min(ends_at), steps).await {
            Ok(taken) => taken?,
            Err(_) if ends_at < deadline => return Err(steps::took_too_long(&limits)),
            Err(_) => return Err(Error::new(Code::RunTimedOut, "the run took too long")),
        }
        match &outcome.reuse {
            Some(reuse) if outcome.calls.is_empty() => reuse.tell(&outcome.text),
            _ => {}
        }
        Ok(())
    }

    /// What the model is asked. Nothing has been said yet, so a storage that
    /// fails for a moment (a database that is started again) is asked again.
    async fn model_request_read(
        &self,
        caller: &Caller,
        agent: &Agent,
        run: &Run,
        deadline: Instant,
        model: &Arc<dyn Model>,
    ) -> Result<ModelRequest> {
        let patience = Instant::now() + READ_AGAIN_FOR;
        let mut wait = STORE_AGAIN_FIRST;
        loop {
            match self.model_request(caller, agent, run, deadline, model).await {
                Err(error)
                    if error.code == Code::StorageUnavailable
                        && Instant::now() + wait < patience
                        && self.wait_to_store_again(&mut wait).await => {}
                request => return request,
            }
        }
    }

    async fn model_request(
        &self,
        caller: &Caller,
        agent: &Agent,
        run: &Run,
        deadline: Instant,
        model: &Arc<dyn Model>,
    ) -> Result<ModelRequest> {
        let request = &run.request;
        let history = match run.message {
            None => Vec::new(),
            Some(input) => {
                let limit = request.message_limit.unwrap_or(MESSAGE_LIMIT_DEFAULT);
                self.history(caller.org, run.session, input, limit).await?
            }
        };
        let recalled = if agent.memory.recall {
            // One that quotes wants the best hits, wherever they are, and enough
            // of them to leave earlier questions out; a language model has the
            // conversation before it already.
            let limit = agent.memory.limit as usize;
            let quotes = model.quotes();
            let user = run.user_id.as_deref();
            // A session of nobody in which nothing was said has no past.
            let has_past = user.is_some() || !history.is_empty();
            let recall = Recall {
                said: has_past.then(|| scope(caller, user, run.session)),
                memories: MemorySought::in_run(user, &agent.id.to_string(), caller.org),
                facts: (has_past && self.0.options.graph.enabled)
                    .then(|| (run_group(user, run.session), user.unwrap_or(NAMELESS).to_owned())),
                query: &request.input,
                asked_in: run.message,
                limit: if quotes { limit.max(QUOTABLE_PASSAGES_MIN) } else { limit },
                shown: if quotes { &[] } else { &history },
            };
            self.recall(caller, recall).await?
        } else {
            Vec::new()
        };
        let turn = match request.turn.as_slice() {
            [] => vec![ChatMessage::said(MessageRole::User, request.input.clone())],
            turn => turn.to_vec(),
        };
        let said = history.into_iter().map(Message::into_chat);
        let messages = said.chain(request.messages.iter().cloned()).chain(turn).collect();
        let parameters = match &request.parameters {
            Some(text) => serde_json::from_str(text).map_err(Error::internal)?,
            None => serde_json::Map::new(),
        };
        Ok(ModelRequest {
            instructions: request.system_prompt.as_ref().unwrap_or(&agent.instructions).clone(),
            context: request.context.clone(),
            recalled,
            messages: chat::sound(messages),
            tools: request.client_tools.clone(),
            tool_choice: request.tool_choice.clone(),
            parallel_tool_calls: request.parallel_tool_calls,
            response_format: request.response_format.clone(),
            parameters,
            deadline,
        })
    }

    /// The finishing write: the run, its reply, the end of its job and the
    /// promotion of the next, together. When the storage fails, the listener
    /// hears of it, and the write is tried until it succeeds, this process
    /// stops, or the job is another's. `read` is the reason to stop that the run was
    /// read with.
    async fn store_outcome(
        &self,
        caller: &Caller,
        job: &ClaimedJob,
        mut run: Run,
        outcome: Outcome,
        read: Option<Stop>,
        speaker: Speaker,
    ) {
        let mut speaker = Some(speaker);
        let mut known = read;
        let mut wait = STORE_AGAIN_FIRST;
        loop {
            let stored = self.store_end(caller, job, &run, &outcome, known).await;
            match stored {
                Ok(ended) => {
                    // Nobody waits for one that was begun again, whose process ended.
                    let forgotten = (ended.is_unstored() && job.attempts > 1).then_some(ended.id);
                    match speaker {
                        Some(speaker) => speaker.finish(Ok(ended)),
                        None => self.0.live.ended(&ended),
                    }
                    if let Some(run) = forgotten {
                        drop(self.run_forgetting(caller, run));
                    }
                    return;
                }
                // Its reason to stop is not the one that was known; which it is now
                // says the store.
                Err(error) if error.code == Code::PreconditionFailed => {
                    match self.0.store.run_get(job.org, run.id).await {
                        Ok(Some(now)) => {
                            known = now.stop;
                            run.stop = run.stop.max(now.stop);
                            run.merged = now.merged;
                            continue;
                        }
                        Ok(None) => return,
                        Err(error) => {
                            tracing::error!(run = %run.id, %error, "a run cannot be read");
                        }
                    }
                }
                Err(error) => {
                    let again = error.code.retryable() && error.code != Code::ShuttingDown;
                    tracing::error!(run = %run.id, again, error = %error.chain(),
                        "the outcome of a run could not be stored");
                    if let Some(speaker) = speaker.take() {
                        speaker.finish(Err(error));
                    }
                    if !again {
                        return;
                    }
                }
            }
            if !self.wait_to_store_again(&mut wait).await {
                return;
            }
        }
    }

    async fn store_end(
        &self,
        caller: &Caller,
        job: &ClaimedJob,
        run: &Run,
        outcome: &Outcome,
        known: Option<Stop>,
    ) -> Result<Run> {
        let mut end = self.end_of(run, outcome, known)?;
        let waited = run.status == RunStatus::Queued;
        let (mut write, promoted) = finishing_write(caller, job, &mut end, waited);
        let remembered = outcome.remember && self.remember_run(&mut write, &end);
        let written = self.0.store.write(write).await?;
        if written.promoted(promoted) || remembered {
            self.0.claimable.notify_one();
        }
        Ok(end.run)
    }
}

impl Engine {
    /// Adds to the finishing write what the graph is to remember: what was asked, and the
    /// reply, if that is more than a repetition. Of what was withdrawn nothing is left.
    /// Whether there is something to draw from.
    fn remember_run(&self, write: &mut Write, end: &End) -> bool {
        let mut waits = false;
        let run = &end.run;
        let at = run.finished_at.unwrap_or(run.created_at);
        if let Some(id) = run.message {
            let asked_at = run.started_at.unwrap_or(at);
            let asked = ChatMessage::said(MessageRole::User, run.request.input.clone());
            waits |= self.episode_of_run(write, run, &message_of(run, id, asked, asked_at));
        }
        if let (Some(id), Some(reply), true) = (run.reply_message, &run.reply, end.remember) {
            let said = ChatMessage::said(MessageRole::Assistant, reply.clone());
            waits |= self.episode_of_run(write, run, &message_of(run, id, said, at));
        }
        waits
    }
}

/// What became of a claimed run.
enum Begun {
    /// It goes on.
    Now(Box<Run>, Option<Box<Agent>>),
    /// It is to end as it is: it was asked to, or for this reason. This it had said.
    Never(Box<Run>, Option<Error>, LeftBehind),
}

fn finishing_write(
    caller: &Caller,
    job: &ClaimedJob,
    end: &mut End,
    waited: bool,
) -> (Write, usize) {
    let at = end.run.finished_at.unwrap_or(end.run.created_at);
    let mut write = Write::new(caller.org);
    let promoted = write.job_end(job);
    if waited {
        write.run_waiting_count(-1);
    }
    if end.run.stop == Some(Stop::Rollback) {
        withdraw_input(&mut write, caller, &mut end.run, at);
    }
    // An earlier attempt may have left some.
    if !end.chunked && job.attempts == 1 {
        write.run_without_chunks();
    }
    if end.run.tools.is_empty() && job.attempts == 1 {
        write.run_without_tools();
    }
    let run = &end.run;
    write.run_finish(run, end.known, end.fingerprint);
    for (id, said) in std::mem::take(&mut end.called) {
        let message = message_of(run, id, said, at);
        // What was said before a call stands in the reply.
        let content = match message.role {
            MessageRole::Tool => message.content,
            _ => String::new(),
        };
        store_message(&mut write, caller, &Message { content, ..message }, None);
    }
    let scope = end.remember.then(|| scope(caller, run.user_id.as_deref(), run.session));
    store_reply(&mut write, caller, run, end.reply_shown.take(), scope);
    for (id, call) in run.call_messages().into_iter().zip(&run.calls) {
        let (text, calls) = (String::new(), vec![call.clone()]);
        let reasoning = std::mem::take(&mut end.calls_reasoning);
        let said = ChatMessage::Assistant { text, calls, reasoning };
        store_message(&mut write, caller, &message_of(run, id, said, at), None);
    }
    write.log(run_entry(caller, at, "run.finished", run));
    (write, promoted)
}

/// Adds the reply of a run that ends with this write as a message of its session, with a
/// word that it is not whole when the run did not succeed. `shown` is what models are
/// shown of it, if that is not its text.
pub(super) fn store_reply(
    write: &mut Write,
    caller: &Caller,
    run: &Run,
    shown: Option<ChatMessage>,
    scope: Option<Scope>,
) {
    let at = run.finished_at.unwrap_or(run.created_at);
    if let (Some(id), Some(content)) = (run.reply_message, &run.reply)
        && (run.calls.is_empty() || !content.is_empty())
    {
        let metadata = match run.status {
            RunStatus::Succeeded => "{}".to_owned(),
            status => format!(r#"{{"partial":true,"run_status":"{}"}}"#, status.as_str()),
        };
        let said = ChatMessage::said(MessageRole::Assistant, content.clone());
        let chat = shown.filter(|shown| shown.text() != content.as_str());
        let message = Message { metadata, chat, ..message_of(run, id, said, at) };
        store_message(write, caller, &message, scope);
    }
}
