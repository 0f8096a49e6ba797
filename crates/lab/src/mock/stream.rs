//! A chat completion in OpenAI's shape, whole or as server-sent events, whose
//! number of tokens is known: several tokens may share an event, and an event
//! may be torn over two chunks, as real servers and proxies do.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};

use crate::timers::Timers;

/// How long the second half of a torn event is held back, so that it travels
/// in a packet of its own.
const TORN_FOR: Duration = Duration::from_micros(300);
/// A token of the mock.
const TOKEN: &str = "token ";

/// The completion that every request gets.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// How many tokens it has; `usage` says so.
    pub count: u32,
    /// How many of them travel in one event; at least 1.
    pub per_event: u32,
    /// The time between two events.
    pub gap: Duration,
    /// Whether every event is torn over two chunks.
    pub torn: bool,
}

enum Step {
    Wait(Duration),
    Send(String),
    /// A moment to record.
    Is(&'static str),
}

impl Tokens {
    fn usage(self) -> Value {
        json!({
            "prompt_tokens": 1,
            "completion_tokens": self.count,
            "total_tokens": self.count + 1,
        })
    }

    pub(super) fn completion(self) -> Value {
        json!({
            "id": "chatcmpl-mock", "object": "chat.completion", "model": "mock", "created": 0,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": TOKEN.repeat(self.count as usize)},
                "finish_reason": "stop",
            }],
            "usage": self.usage(),
        })
    }

    /// The parts of the stream; `moment` hears `first_token` and `done` when
    /// they have been handed over.
    pub(super) fn stream(
        self,
        timers: Timers,
        moment: impl Fn(&str) + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        let steps = stream::iter(self.steps());
        steps
            .scan((timers, moment), |(timers, moment), step| {
                let part = match step {
                    Step::Wait(time) => (Some(timers.sleep(time)), None),
                    Step::Send(text) => (None, Some(Bytes::from(text))),
                    Step::Is(name) => {
                        moment(name);
                        (None, None)
                    }
                };
                async move {
                    if let Some(sleep) = part.0 {
                        sleep.await;
                    }
                    Some(part.1)
                }
            })
            .filter_map(|part| async move { part.map(Ok) })
    }

    fn steps(self) -> impl Iterator<Item = Step> {
        let per_event = self.per_event.max(1);
        let events = self.count.div_ceil(per_event);
        let role = event(&chunk(&json!({"role": "assistant", "content": ""}), &Value::Null));
        let content = (0..events).flat_map(move |n| {
            let tokens = per_event.min(self.count - n * per_event);
            let text = TOKEN.repeat(tokens as usize);
            let sent = event(&chunk(&json!({ "content": text }), &Value::Null));
            let pause = (n > 0).then_some(Step::Wait(self.gap));
            let first = (n == 0).then_some(Step::Is("first_token"));
            pause.into_iter().chain(self.torn_or_whole(sent)).chain(first)
        });
        let end = [
            event(&chunk(&json!({}), &json!("stop"))),
            event(&json!({
                "id": "chatcmpl-mock", "object": "chat.completion.chunk", "model": "mock",
                "created": 0, "choices": [], "usage": self.usage(),
            })),
            "data: [DONE]\n\n".to_owned(),
        ];
        self.torn_or_whole(role)
            .chain(content)
            .chain(end.into_iter().map(Step::Send))
            .chain([Step::Is("done")])
    }

    fn torn_or_whole(self, event: String) -> impl Iterator<Item = Step> {
        if !self.torn {
            return vec![Step::Send(event)].into_iter();
        }
        let (head, tail) = event.split_at(event.len() / 2);
        vec![Step::Send(head.to_owned()), Step::Wait(TORN_FOR), Step::Send(tail.to_owned())]
            .into_iter()
    }
}

fn chunk(delta: &Value, finish_reason: &Value) -> Value {
    json!({
        "id": "chatcmpl-mock", "object": "chat.completion.chunk", "model": "mock", "created": 0,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    })
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}
