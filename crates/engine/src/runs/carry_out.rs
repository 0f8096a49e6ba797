//! Carrying a run out: history, recall, the model, and the finishing write.
//! No database connection is held while the model answers.

use std::sync::Arc;
use std::time::Duration;

use agentry_domain::agents::{Agent, AgentBody};
use agentry_domain::runs::{MESSAGE_LIMIT_DEFAULT, RUN_ATTEMPTS_MAX, Run, RunError, RunStatus};
use agentry_domain::sessions::{Message, MessageRole};
use agentry_domain::{Caller, Code, Error, MessageId, Result, RunId};
use agentry_llm::{ChatMessage, Model, ModelEvent, ModelRequest};
use agentry_store::{ClaimedJob, MemorySought, Write};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::recorder::Recorder;
use super::{run_entry, store_input, timeout};
use crate::Engine;
use crate::live::Speaker;
use crate::recall::Recall;
use crate::sessions::{scope, store_message};

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
struct Outcome {
    /// What the model said, up to its end or its failure.
    text: String,
    usage: agentry_domain::runs::Usage,
    error: Option<Error>,
    /// Whether the text only repeats memory.
    quotes: bool,
    /// Whether chunks of the text may be in the store.
    chunked: bool,
}

/// What becomes of what was said, beside the message.
#[derive(Clone, Copy, Default)]
struct Kept {
    /// Recall is to find the reply.
    remember: bool,
    /// Chunks of it may be in the store.
    chunked: bool,
}

/// Where what a model says goes.
struct Said<'a> {
    job: &'a ClaimedJob,
    speaker: Option<&'a Speaker>,
    outcome: &'a mut Outcome,
}

impl Engine {
    /// Carries out a run that was claimed from the queue.
    pub(crate) async fn carry_out_claimed(&self, job: ClaimedJob) {
        let _held = self.0.held.hold(job.id);
        let id = RunId::from_bytes(job.id.to_bytes());
        let speaker = Some(self.0.live.speaker(job.org, id));
        // The store's rows name no key; the entries of the log that follow are
        // the server's own doing.
        let caller = Caller { org: job.org, ..self.anyone() };
        let mut wait = STORE_AGAIN_FIRST;
        loop {
            match self.begin_claimed(&caller, &job, id).await {
                Ok((run, agent)) if run.status.is_final() => {
                    drop(agent);
                    return self
                        .store_outcome(&caller, &job, run, None, Kept::default(), speaker)
                        .await;
                }
                Ok((run, agent)) => {
                    return self.carry_out(caller, job, run, agent, speaker).await;
                }
                Err(error) => {
                    let again = error.code.retryable() && error.code != Code::ShuttingDown;
                    tracing::error!(run = %id, again, error = %error.chain(),
                        "a claimed run could not be begun");
                    if !again {
                        if let Some(speaker) = speaker {
                            speaker.finish(Err(error));
                        }
                        return;
                    }
                }
            }
            if !self.wait_to_store_again(&mut wait).await {
                return;
            }
        }
    }

    /// Marks a claimed run as begun. One that was begun too often comes back
    /// with its last status, yet to be stored.
    async fn begin_claimed(
        &self,
        caller: &Caller,
        job: &ClaimedJob,
        id: RunId,
    ) -> Result<(Run, Option<Agent>)> {
        let run = self.0.store.run_get(job.org, id).await?;
        let mut run = run.ok_or_else(|| Error::internal("a job without its run"))?;
        if !run.status.may_become(RunStatus::Running) {
            return Err(Error::internal("a job whose run has ended"));
        }
        if job.attempts > RUN_ATTEMPTS_MAX {
            run.status = RunStatus::Interrupted;
            run.error = Some(RunError {
                code: Code::RunInterrupted,
                detail: format!("the run was begun {RUN_ATTEMPTS_MAX} times and never ended"),
            });
            return Ok((run, None));
        }
        let agent = self.0.store.resource_get::<AgentBody>(job.org, run.agent).await?;
        let agent = agent.map(|agent| agent.entity()).transpose()?;
        let is_first = run.message.is_none();
        let now = self.now();
        if is_first {
            let newest = self.0.store.message_newest(job.org, run.session).await?;
            run.message = Some(self.message_id(now, newest));
        }
        run.status = RunStatus::Running;
        run.attempt = job.attempts;
        run.started_at = run.started_at.or(Some(now));
        let mut write = Write::new(job.org);
        write.job_held(job);
        write.run_begin(&run);
        if is_first {
            let remember = agent.as_ref().is_some_and(|agent| agent.memory.remember);
            store_input(&mut write, caller, &run, remember, now);
        }
        write.log(run_entry(caller, now, "run.started", &run));
        self.0.store.write(write).await?;
        Ok((run, agent))
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
        speaker: Option<Speaker>,
    ) {
        if let Some(speaker) = &speaker {
            speaker.begin(&run);
        }
        let deadline = Instant::now() + timeout(&run.request);
        let mut outcome = Outcome::default();
        let remember = agent.as_ref().is_some_and(|agent| agent.memory.remember);
        let ended = match &agent {
            None => Ok(Err(Error::not_found("agent", run.agent))),
            Some(agent) => {
                let said = Said { job: &job, speaker: speaker.as_ref(), outcome: &mut outcome };
                let answer = self.answer(&caller, agent, &run, deadline, said);
                tokio::time::timeout_at(deadline, answer).await
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
        run.usage = outcome.usage;
        match outcome.error {
            None => {
                run.status = RunStatus::Succeeded;
                run.reply = Some(outcome.text);
            }
            Some(error) => {
                tracing::info!(run = %run.id, error = %error.chain(), "a run did not succeed");
                run.status = match error.code {
                    Code::RunTimedOut => RunStatus::TimedOut,
                    _ => RunStatus::Failed,
                };
                run.error = Some(RunError { code: error.code, detail: error.detail.into_owned() });
            }
        }
        let reply = run.reply.is_some().then(|| self.message_id(self.now(), run.message));
        let kept = Kept { remember: remember && !outcome.quotes, chunked: outcome.chunked };
        self.store_outcome(&caller, &job, run, reply, kept, speaker).await;
    }

    async fn answer(
        &self,
        caller: &Caller,
        agent: &Agent,
        run: &Run,
        deadline: Instant,
        Said { job, speaker, outcome }: Said<'_>,
    ) -> Result<()> {
        let model = self.0.models.resolve(run.request.model.as_ref().unwrap_or(&agent.model))?;
        outcome.quotes = model.quotes();
        let request = self.model_request_read(caller, agent, run, deadline, &model).await?;
        let mut events = model.respond(request).await?;
        let mut recorder = Recorder::new(&self.0.store, job, speaker, &mut outcome.chunked);
        while let Some(event) = recorder.beside(events.next()).await? {
            match event? {
                ModelEvent::Delta(text) => {
                    // No text of ours has it, and PostgreSQL stores none.
                    let text = text.replace('\0', "\u{fffd}");
                    outcome.text.push_str(&text);
                    recorder.say(&text);
                }
                ModelEvent::Usage(usage) => outcome.usage = usage,
                ModelEvent::Finished(_) => {}
            }
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
                self.0.store.message_history(caller.org, run.session, input, limit).await?
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
                query: &request.input,
                asked_in: run.message,
                limit: if quotes { limit.max(QUOTABLE_PASSAGES_MIN) } else { limit },
                shown: if quotes { &[] } else { &history },
            };
            self.recall(caller, recall).await?
        } else {
            Vec::new()
        };
        let said = history.into_iter().map(|message| (message.role, message.content));
        let given = request.messages.iter().map(|given| (given.role, given.content.clone()));
        let input = (MessageRole::User, request.input.clone());
        let messages = said
            .chain(given)
            .chain([input])
            .map(|(role, content)| ChatMessage { role, content })
            .collect();
        let parameters = match &request.parameters {
            Some(text) => serde_json::from_str(text).map_err(Error::internal)?,
            None => serde_json::Map::new(),
        };
        Ok(ModelRequest {
            instructions: request.system_prompt.as_ref().unwrap_or(&agent.instructions).clone(),
            context: request.context.clone(),
            recalled,
            messages,
            parameters,
            deadline,
        })
    }

    /// The finishing write: the run, its reply, the end of its job and the
    /// promotion of the next, together. When the storage fails, the listener
    /// hears of it, and the write is tried until it succeeds, this process
    /// stops, or the job is another's.
    async fn store_outcome(
        &self,
        caller: &Caller,
        job: &ClaimedJob,
        mut run: Run,
        reply: Option<MessageId>,
        kept: Kept,
        mut speaker: Option<Speaker>,
    ) {
        run.finished_at = Some(self.now());
        let mut wait = STORE_AGAIN_FIRST;
        loop {
            let (write, promoted) = finishing_write(caller, job, &run, reply, kept);
            match self.0.store.write(write).await.map_err(Error::from) {
                Ok(written) => {
                    if written.promoted(promoted) {
                        self.0.claimable.notify_one();
                    }
                    match speaker {
                        Some(speaker) => speaker.finish(Ok(run)),
                        None => self.0.live.ended(&run),
                    }
                    return;
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
}

fn finishing_write(
    caller: &Caller,
    job: &ClaimedJob,
    run: &Run,
    reply: Option<MessageId>,
    kept: Kept,
) -> (Write, usize) {
    let at = run.finished_at.unwrap_or(run.created_at);
    let mut write = Write::new(caller.org);
    let promoted = write.job_end(job);
    // An earlier attempt may have left some.
    if !kept.chunked && job.attempts == 1 {
        write.run_without_chunks();
    }
    write.run_finish(run);
    if let (Some(id), Some(content)) = (reply, &run.reply) {
        let message = Message {
            id,
            session: run.session,
            run: Some(run.id),
            role: MessageRole::Assistant,
            content: content.clone(),
            metadata: "{}".to_owned(),
            created_at: at,
        };
        let scope = scope(caller, run.user_id.as_deref(), run.session);
        store_message(&mut write, caller, &message, kept.remember.then_some(scope));
    }
    write.log(run_entry(caller, at, "run.finished", run));
    (write, promoted)
}
