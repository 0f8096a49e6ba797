//! A response as OpenAI's events, from its beginning or from any place in it, whether
//! it goes on or is over, in this process or another.
//!
//! The number of an event is the place behind it, as it follows from what is stored:
//! which attempt of the run it is, and how many bytes of text it has said. So whoever
//! comes back with a number gets what is missing, however the text was cut into
//! deltas before. Numbers grow and leave gaps.

use agentry_domain::runs::Run;
use agentry_domain::{Caller, Code, Error, Result};
use agentry_engine::{Forgetting, RunCursor, RunEvent, RunEvents, RunNews, Told};
use agentry_gateway::RequestContext;
use axum::response::Response;
use axum::response::sse::Event;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::problem;
use crate::response_items::{call_item, call_item_ids, text_item, text_item_id, text_part};
use crate::responses::{response, status};
use crate::run_stream::{Watched, began_again, event, sse};
use crate::state::ApiState;

/// Bits of a number that are the place within an attempt; a reply is far shorter.
const ATTEMPT_SHIFT: u32 = 32;
/// The places before the text, in their order.
const CREATED: i64 = 0;
const IN_PROGRESS: i64 = 1;
const ITEM_ADDED: i64 = 2;
const TEXT_BEGUN: i64 = 3;

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the last event that it has; -1 when it has none.
    after: i64,
}

impl Place {
    /// It has had nothing.
    pub(crate) fn beginning() -> Self {
        Self { after: -1 }
    }

    /// It has had the event with this number.
    pub(crate) fn after(number: Option<i64>) -> Self {
        Self { after: number.unwrap_or(-1) }
    }

    /// The same place in the run's events; none for its beginning.
    pub(crate) fn cursor(self, run: &Run) -> Option<RunCursor> {
        if self.after < 0 {
            return None;
        }
        let attempt = (self.after >> ATTEMPT_SHIFT) + 1;
        let within = self.after - base(attempt);
        let offset = u64::try_from(within - TEXT_BEGUN).ok().filter(|offset| *offset > 0)?;
        // What comes behind the text is told again; its numbers say what was had.
        let text = run.reply.as_deref().map_or(0, str::len) as u64;
        let offset = if run.status.is_final() { offset.min(text) } else { offset };
        Some(RunCursor { attempt, offset, tools: 0, told: Told::Text })
    }
}

fn base(attempt: i64) -> i64 {
    attempt.saturating_sub(1) << ATTEMPT_SHIFT
}

/// Answers with the events behind a place. The run is forgotten behind them, if it is to be.
pub(crate) fn answer(
    events: RunEvents,
    run: Run,
    model: String,
    place: Place,
    (state, caller, context): (&ApiState, &Caller, &RequestContext),
    forgetting: Option<Forgetting>,
) -> Response {
    let cursor = place.cursor(&run);
    let mut writer = Writer {
        run,
        model,
        after: place.after,
        attempt: cursor.map_or(1, |cursor| cursor.attempt),
        said: cursor.map_or(0, |cursor| cursor.offset),
        request_id: context.request_id.as_str().to_owned(),
        failed: false,
        _forgetting: forgetting,
    };
    let first = writer.created();
    let events = Watched::new(events, state, caller);
    let told = stream::unfold((events, writer), |(mut events, mut writer)| async move {
        if writer.failed {
            return None;
        }
        let told = writer.write(events.next().await?);
        if writer.failed {
            // That the stream ends here is not the client's doing.
            events.unattended();
        }
        Some((stream::iter(told), (events, writer)))
    });
    sse(stream::iter(first).chain(told.flatten()).map(Ok))
}

/// Writes a run's events as a response's.
struct Writer {
    run: Run,
    model: String,
    after: i64,
    attempt: i64,
    /// Bytes of text up to here.
    said: u64,
    request_id: String,
    failed: bool,
    /// Until the client has it.
    _forgetting: Option<Forgetting>,
}

impl Writer {
    fn created(&mut self) -> Vec<Event> {
        let status = if self.run.status.is_final() { "in_progress" } else { status(&self.run).0 };
        let response = self.unfinished(status);
        self.event(CREATED, "response.created", json!({"response": response})).into_iter().collect()
    }

    /// The response as it was before its end.
    fn unfinished(&self, status: &str) -> Value {
        let mut response = response(&self.run, &self.model);
        response["status"] = status.into();
        response["output"] = json!([]);
        for unknown in ["usage", "error", "incomplete_details", "completed_at"] {
            response[unknown] = Value::Null;
        }
        response
    }

    fn write(&mut self, news: Result<RunNews>) -> Vec<Event> {
        let RunNews { cursor, event } = match news {
            Ok(news) => news,
            Err(error) => return vec![self.failed(&error)],
        };
        match event {
            RunEvent::Started { .. } => {
                self.attempt = cursor.attempt;
                let response = json!({"response": self.unfinished("in_progress")});
                let event = self.event(IN_PROGRESS, "response.in_progress", response);
                event.into_iter().collect()
            }
            RunEvent::Delta(text) => {
                let is_first = cursor.offset == text.len() as u64;
                self.said = cursor.offset;
                let begun = if is_first { self.text_begun() } else { Vec::new() };
                let id = text_item_id(self.run.id);
                let delta = json!({"item_id": id, "output_index": 0, "content_index": 0,
                    "delta": text, "logprobs": []});
                let at = self.text_end();
                let delta = self.event(at, "response.output_text.delta", delta);
                begun.into_iter().chain(delta).collect()
            }
            RunEvent::Reset if self.said == 0 => {
                self.attempt = cursor.attempt;
                Vec::new()
            }
            RunEvent::Reset => vec![self.failed(&began_again())],
            RunEvent::Finished(run) => self.end(&run),
            RunEvent::Expired => {
                vec![self.failed(&Error::new(Code::NotFound, "the response was deleted"))]
            }
            RunEvent::ToolStarted(_)
            | RunEvent::ToolFinished(_)
            | RunEvent::Completed(_)
            | RunEvent::Reconnect => Vec::new(),
        }
    }

    /// The place behind the text so far.
    fn text_end(&self) -> i64 {
        TEXT_BEGUN.saturating_add_unsigned(self.said)
    }

    fn text_begun(&self) -> Vec<Event> {
        let id = text_item_id(self.run.id);
        let mut item = text_item(&id, "", "in_progress");
        item["content"] = json!([]);
        let added = json!({"output_index": 0, "item": item});
        let part = json!({"item_id": id, "output_index": 0, "content_index": 0,
            "part": text_part("")});
        [
            self.event(ITEM_ADDED, "response.output_item.added", added),
            self.event(TEXT_BEGUN, "response.content_part.added", part),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What comes behind the text, all of which follows from the run.
    fn end(&mut self, run: &Run) -> Vec<Event> {
        self.run = run.clone();
        let text = run.reply.as_deref().unwrap_or_default();
        self.said = text.len() as u64;
        let mut rest: Vec<(&str, Value)> = Vec::new();
        let (state, _) = status(run);
        let item_status =
            if matches!(state, "completed" | "incomplete") { "completed" } else { "incomplete" };
        let mut output_index = 0;
        if !text.is_empty() {
            let id = text_item_id(run.id);
            let at = json!({"item_id": id, "output_index": 0, "content_index": 0});
            let with = |name: &str, value: Value| {
                let mut with = at.clone();
                with[name] = value;
                with
            };
            let mut done = with("text", text.into());
            done["logprobs"] = json!([]);
            rest.push(("response.output_text.done", done));
            rest.push(("response.content_part.done", with("part", text_part(text))));
            let item = text_item(&id, text, item_status);
            rest.push(("response.output_item.done", json!({"output_index": 0, "item": item})));
            output_index = 1;
        }
        for (id, call) in call_item_ids(run).iter().zip(&run.calls) {
            let mut item = call_item(id, call, "in_progress");
            item["arguments"] = "".into();
            let added = json!({"output_index": output_index, "item": item});
            rest.push(("response.output_item.added", added));
            let delta = json!({"item_id": id, "output_index": output_index,
                "delta": call.arguments});
            rest.push(("response.function_call_arguments.delta", delta));
            let done = json!({"item_id": id, "output_index": output_index, "name": call.name,
                "arguments": call.arguments});
            rest.push(("response.function_call_arguments.done", done));
            let item = call_item(id, call, "completed");
            let done = json!({"output_index": output_index, "item": item});
            rest.push(("response.output_item.done", done));
            output_index += 1;
        }
        let last = match state {
            "completed" => "response.completed",
            "failed" => "response.failed",
            // It was cancelled, or held back.
            _ => "response.incomplete",
        };
        rest.push((last, json!({"response": response(run, &self.model)})));
        let first = self.text_end() + 1;
        let told = (first..).zip(rest).filter_map(|(at, (kind, data))| self.event(at, kind, data));
        told.collect()
    }

    /// An event, unless the reader has it.
    fn event(&self, at: i64, kind: &str, mut data: Value) -> Option<Event> {
        let number = base(self.attempt) + at;
        if number <= self.after {
            return None;
        }
        data["type"] = kind.into();
        data["sequence_number"] = number.into();
        Some(event(Some(kind), &data))
    }

    fn failed(&mut self, error: &Error) -> Event {
        problem::log(error, &self.request_id);
        self.failed = true;
        let data = json!({"type": "error", "code": error.code.as_str(),
            "message": error.detail, "param": null,
            "sequence_number": base(self.attempt) + self.text_end()});
        event(Some("error"), &data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_place() {
        for (number, place) in [(None, -1), (Some(0), 0), (Some(7), 7)] {
            assert_eq!(Place::after(number).after, place);
        }
        assert_eq!(base(1), 0);
        assert_eq!(base(3), 2 << 32);
        // Five attempts of four gigabytes are whole numbers in every language.
        assert!(base(6) < 1 << 53);
    }
}
