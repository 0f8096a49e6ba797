//! The steps of a run: the model is asked, what it calls is carried out, all calls of
//! a step at once, and it is asked again with what came of them, until it has said
//! everything or a bound is met. Who decides what may be called is
//! [`crate::tools`]; what was called stands in the store before it has an effect.

use std::collections::HashSet;
use std::sync::Arc;

use agentry_domain::agents::Agent;
use agentry_domain::chat::{ChatMessage, ToolCall, ToolChoice, ToolResult};
use agentry_domain::runs::{Run, Usage};
use agentry_domain::tools::{RunCall, RunCallStatus, RunLimits, ToolNews, ToolOutcome};
use agentry_domain::{Caller, Code, Error, JsonText, Result};
use agentry_llm::{Model, ModelEvent, ModelRequest};
use agentry_store::{ClaimedJob, Write};
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use super::carry_out::Outcome;
use super::recorder::Recorder;
use crate::Engine;
use crate::live::Speaker;
use crate::tools::{CallWithin, Offered};

/// What stands between what a model says before and after it calls tools.
pub(super) const BETWEEN_STEPS: &str = "\n\n";

/// A run that is carried out.
pub(super) struct Work<'a> {
    pub(super) caller: &'a Caller,
    pub(super) agent: &'a Agent,
    pub(super) run: &'a Run,
    pub(super) job: &'a ClaimedJob,
    pub(super) speaker: &'a Speaker,
    pub(super) outcome: &'a mut Outcome,
    pub(super) offered: &'a Offered,
    pub(super) limits: RunLimits,
}

/// The calls of a run so far, and how many news of them were told.
struct Calls<'a> {
    tools: &'a mut Vec<RunCall>,
    news: u32,
    speaker: &'a Speaker,
}

impl Calls<'_> {
    fn begin(&mut self, call: RunCall) {
        let told =
            ToolNews { offset: call.started_offset, finished: false, call: Arc::new(call.clone()) };
        self.tools.push(call);
        self.news += 1;
        self.speaker.tool(told);
    }

    fn finish(&mut self, place: usize, outcome: ToolOutcome, at: agentry_domain::Timestamp) {
        let call = &mut self.tools[place];
        call.finish(outcome, self.news, at);
        let call = Arc::new(call.clone());
        self.news += 1;
        self.speaker.tool(ToolNews { offset: call.started_offset, finished: true, call });
    }
}

fn over(bound: &str, max: impl std::fmt::Display) -> Error {
    Error::new(Code::RunLimitReached, format!("the run reached a bound: {bound} = {max}"))
}

impl Engine {
    /// Asks the model, and carries out what it calls, until the run is over.
    pub(super) async fn take_steps(
        &self,
        work: Work<'_>,
        model: &Arc<dyn Model>,
        mut request: ModelRequest,
    ) -> Result<()> {
        let Work { caller, agent, run, job, speaker, outcome, offered, limits } = work;
        let Outcome {
            text,
            usage,
            tools,
            reasoning,
            calls_reasoning,
            chunked,
            calls,
            finish_reason,
            answered_by,
            ..
        } = outcome;
        let mut recorder = Recorder::new(&self.0.store, job, speaker, chunked);
        let mut begun = Calls { tools, news: 0, speaker };
        let mut given_bytes = 0;
        for step in 1.. {
            if step > limits.steps_max {
                return Err(over("steps_max", limits.steps_max));
            }
            let used = *usage;
            let (mut said, mut asked, mut thought) = (String::new(), Vec::new(), Vec::new());
            let mut events = recorder.beside(model.respond(request.clone())).await??;
            let mut counted = Usage::default();
            while let Some(event) = recorder.beside(events.next()).await? {
                match event? {
                    ModelEvent::Delta(piece) => {
                        // No text of ours has it, and PostgreSQL stores none.
                        let piece = piece.replace('\0', "\u{fffd}");
                        if said.is_empty() && !text.is_empty() {
                            text.push_str(BETWEEN_STEPS);
                            recorder.say(BETWEEN_STEPS);
                        }
                        said.push_str(&piece);
                        text.push_str(&piece);
                        recorder.say(&piece);
                        if text.len() as u64 + given_bytes > limits.output_bytes_max {
                            return Err(over("output_bytes_max", limits.output_bytes_max));
                        }
                    }
                    ModelEvent::Reasoning(piece) => thought.push(piece),
                    ModelEvent::ToolCall(call) => asked.push(call),
                    ModelEvent::Usage(usage) => counted = usage,
                    ModelEvent::Answering(model) => *answered_by = Some(model),
                    ModelEvent::Finished(reason) => {
                        *finish_reason = Some(reason.as_str().to_owned());
                    }
                }
            }
            *usage = used.plus(counted);
            let is_client_s = |call: &ToolCall| {
                !offered.has(&call.name)
                    && run.request.client_tools.iter().any(|tool| tool.name == call.name)
            };
            let (theirs, ours): (Vec<_>, Vec<_>) = asked.into_iter().partition(is_client_s);
            if ours.is_empty() {
                *calls = theirs;
                *calls_reasoning = thought;
                return Ok(());
            }
            reasoning.insert(step, thought.clone());
            if begun.tools.len() + ours.len() > limits.tool_calls_max as usize {
                return Err(over("tool_calls_max", limits.tool_calls_max));
            }
            check_used(usage, &limits)?;
            let first = begun.tools.len();
            let within =
                CallWithin { caller, agent, run, deadline: request.deadline, limits: &limits };
            self.call_all(
                &within,
                job,
                offered,
                (step, text.len() as u64),
                &ours,
                &mut begun,
                &mut recorder,
            )
            .await?;
            let done = &begun.tools[first..];
            let given = |call: &RunCall| call.output.as_ref().map_or(0, String::len) as u64;
            given_bytes += done.iter().map(given).sum::<u64>();
            if text.len() as u64 + given_bytes > limits.output_bytes_max {
                return Err(over("output_bytes_max", limits.output_bytes_max));
            }
            let results: Vec<ChatMessage> =
                ours.iter().zip(done).map(|(call, done)| result_of(call, done)).collect();
            let (text, reasoning) = (said, thought.clone());
            request.messages.push(ChatMessage::Assistant { text, calls: ours, reasoning });
            request.messages.extend(results);
            // Who had to call a tool has called one.
            request.tool_choice = ToolChoice::Auto;
            if !theirs.is_empty() {
                *calls = theirs;
                *calls_reasoning = thought;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Carries out the calls of a step. They stand in the store before the first one is
    /// made, so that none is made twice.
    #[expect(clippy::too_many_arguments, reason = "what a step has in its hands")]
    async fn call_all(
        &self,
        within: &CallWithin<'_>,
        job: &ClaimedJob,
        offered: &Offered,
        (step, offset): (u32, u64),
        ours: &[ToolCall],
        begun: &mut Calls<'_>,
        recorder: &mut Recorder<'_>,
    ) -> Result<()> {
        let first = begun.tools.len();
        let mut known: HashSet<String> = begun.tools.iter().map(|call| call.id.clone()).collect();
        for (n, call) in ours.iter().enumerate() {
            // Providers number the calls of each answer anew.
            let mut id = call.id.clone();
            if !known.insert(id.clone()) {
                id = format!("{id}#{}", first + n);
                known.insert(id.clone());
            }
            let now = self.now();
            begun.begin(RunCall {
                id,
                name: call.name.clone(),
                server: offered.server(&call.name),
                arguments: arguments_of(call),
                signature: call.signature.clone(),
                effects: offered.has_effects(&call.name),
                status: RunCallStatus::Started,
                output: None,
                truncated: false,
                error_code: None,
                step,
                started_offset: offset,
                started_news: begun.news,
                finished_news: None,
                started_at: now,
                finished_at: None,
            });
        }
        recorder.beside(self.store_calls(job, &begun.tools[first..], first)).await??;
        let at_once = within.limits.parallel_calls_max.max(1) as usize;
        let output_max = usize::try_from(within.limits.call_output_bytes_max).unwrap_or(usize::MAX);
        let mut each: Vec<BoxFuture<'_, (usize, ToolOutcome)>> = Vec::with_capacity(ours.len());
        for (n, call) in ours.iter().enumerate() {
            let called = self.tool_call(within, offered, call);
            each.push(Box::pin(async move { (n, called.await) }));
        }
        let mut running = stream::iter(each).buffer_unordered(at_once);
        while let Some((n, outcome)) = recorder.beside(running.next()).await? {
            begun.finish(first + n, outcome.cut(output_max), self.now());
        }
        drop(running);
        recorder.beside(self.store_calls(job, &begun.tools[first..], first)).await?
    }

    async fn store_calls(&self, job: &ClaimedJob, calls: &[RunCall], first: usize) -> Result<()> {
        let mut write = Write::new(job.org);
        let placed: Vec<(u32, &RunCall)> = calls
            .iter()
            .enumerate()
            .map(|(n, call)| (u32::try_from(first + n).unwrap_or(u32::MAX), call))
            .collect();
        write.run_tools_save(job, &placed)?;
        self.0.store.write(write).await?;
        Ok(())
    }
}

/// Refuses to go on when as much was used as may be.
fn check_used(usage: &Usage, limits: &RunLimits) -> Result<()> {
    let tokens = usage.input_tokens.unwrap_or(0).saturating_add(usage.output_tokens.unwrap_or(0));
    if tokens > limits.tokens_max {
        return Err(over("tokens_max", limits.tokens_max));
    }
    match (usage.cost_nanos, limits.cost_nanos_max) {
        (Some(cost), Some(max)) if cost > max => Err(over("cost_nanos_max", max)),
        _ => Ok(()),
    }
}

/// The arguments of a call as JSON: an object or, of what is none, the text that was
/// written.
fn arguments_of(call: &ToolCall) -> JsonText {
    let text = call.arguments.replace("\\u0000", "\\ufffd").replace('\0', "\u{fffd}");
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
    let json = match object {
        Ok(object) => serde_json::Value::Object(object),
        Err(_) if text.trim().is_empty() => serde_json::json!({}),
        Err(_) => serde_json::Value::String(text),
    };
    JsonText::known(json.to_string())
}

fn result_of(call: &ToolCall, done: &RunCall) -> ChatMessage {
    let content = done.output.clone().unwrap_or_default();
    ChatMessage::Tool(ToolResult {
        call_id: call.id.clone(),
        name: call.name.clone(),
        content,
        is_error: done.status != RunCallStatus::Succeeded,
    })
}

/// Ends what was under way when its run ended.
pub(super) fn given_up(calls: &mut [RunCall], at: agentry_domain::Timestamp) {
    let told = calls.iter().map(|call| 1 + u32::from(call.finished_news.is_some())).sum::<u32>();
    let open = calls.iter_mut().filter(|call| call.finished_news.is_none());
    for (call, news) in open.zip(told..) {
        let outcome = ToolOutcome::failed(None, "the run ended before the call did");
        call.finish(outcome, news, at);
    }
}

/// When a run that may call tools has to be over.
pub(super) fn ends_at(limits: &RunLimits) -> Instant {
    Instant::now() + std::time::Duration::from_millis(limits.time_ms_max)
}

/// It was not.
pub(super) fn took_too_long(limits: &RunLimits) -> Error {
    over("time_ms_max", limits.time_ms_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &str) -> ToolCall {
        let (id, name) = ("c".into(), "n".into());
        ToolCall { id, name, arguments: arguments.into(), signature: None }
    }

    #[test]
    fn arguments_are_an_object_or_what_was_written() {
        for (written, stored) in [
            (r#"{"a": 1}"#, r#"{"a":1}"#),
            ("", "{}"),
            ("  ", "{}"),
            ("[1]", r#""[1]""#),
            ("{\"a\"", r#""{\"a\"""#),
        ] {
            assert_eq!(arguments_of(&call(written)).as_str(), stored, "{written:?}");
        }
        assert!(!arguments_of(&call(r#"{"a":"\u0000"}"#)).as_str().contains("u0000"));
    }

    #[test]
    fn used_up_is_used_up() {
        let limits = RunLimits { tokens_max: 10, cost_nanos_max: Some(5), ..Default::default() };
        let usage = |input, output, cost| Usage {
            input_tokens: input,
            output_tokens: output,
            cost_nanos: cost,
            ..Usage::default()
        };
        assert!(check_used(&usage(Some(5), Some(5), Some(5)), &limits).is_ok());
        assert!(check_used(&usage(None, None, None), &limits).is_ok());
        for (usage, bound) in [
            (usage(Some(11), None, None), "tokens_max"),
            (usage(Some(1), Some(1), Some(6)), "cost_nanos_max"),
        ] {
            let error = check_used(&usage, &limits).unwrap_err();
            assert_eq!(error.code, Code::RunLimitReached);
            assert!(error.detail.contains(bound), "{error}");
        }
    }
}
