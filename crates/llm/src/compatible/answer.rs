//! The answer as it builds up: chunks of a stream, or one whole completion.
//! Unknown fields are passed over, since every server adds its own.

use agentry_domain::Result;
use agentry_domain::runs::Usage;
use serde::Deserialize;
use serde_json::Value;

use super::{Endpoint, failures};
use crate::model::{FinishReason, ModelEvent};

/// What ends a stream.
const DONE: &str = "[DONE]";
/// Characters kept of a finish reason that we do not know.
const FINISH_REASON_CHARS_MAX: usize = 64;

/// How far a streamed answer has come.
#[derive(Debug, Default)]
pub(super) struct Answer {
    begun: bool,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    over: bool,
}

impl Answer {
    /// Whether nothing more is to be read.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Nothing more is to be read, because it failed.
    pub(super) fn give_up(&mut self) {
        self.over = true;
    }

    /// Takes the data of one event.
    pub(super) fn read(&mut self, endpoint: &Endpoint, data: &str) -> Result<Vec<ModelEvent>> {
        if data.trim() == DONE {
            // Some servers say that they are done, and not why.
            if self.begun {
                self.finish.get_or_insert(FinishReason::Stop);
            }
            return self.cut(|| failures::incomplete(endpoint));
        }
        let chunk = parse(endpoint, data.as_bytes())?;
        self.begun |= chunk.choices.is_some();
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage.into());
        }
        let Some(choice) = chunk.choices.and_then(first) else { return Ok(Vec::new()) };
        if let Some(reason) = &choice.finish_reason {
            self.finish = Some(finish_reason(reason));
        }
        let text = choice.delta.or(choice.message).map(Said::text).unwrap_or_default();
        Ok(delta(text))
    }

    /// The stream is over. That is the answer's end when its finish was seen,
    /// however the connection ended, and otherwise what `failure` says.
    pub(super) fn cut(
        &mut self,
        failure: impl FnOnce() -> agentry_domain::Error,
    ) -> Result<Vec<ModelEvent>> {
        self.over = true;
        let finish = self.finish.take().ok_or_else(failure)?;
        Ok(ended(self.usage.take(), finish))
    }
}

/// The answer of a server that does not stream.
pub(super) fn read_whole(endpoint: &Endpoint, body: &[u8]) -> Result<Vec<ModelEvent>> {
    let completion = parse(endpoint, body)?;
    let Some(choice) = completion.choices.and_then(first) else {
        return Err(failures::incomplete(endpoint));
    };
    let Some(said) = choice.message.or(choice.delta) else {
        return Err(failures::incomplete(endpoint));
    };
    let finish = choice.finish_reason.as_deref().map_or(FinishReason::Stop, finish_reason);
    let mut events = delta(said.text());
    events.extend(ended(completion.usage.map(Usage::from), finish));
    Ok(events)
}

fn delta(text: String) -> Vec<ModelEvent> {
    if text.is_empty() { Vec::new() } else { vec![ModelEvent::Delta(text)] }
}

fn ended(usage: Option<Usage>, finish: FinishReason) -> Vec<ModelEvent> {
    usage.map(ModelEvent::Usage).into_iter().chain([ModelEvent::Finished(finish)]).collect()
}

fn finish_reason(word: &str) -> FinishReason {
    FinishReason::parse(&word.chars().take(FINISH_REASON_CHARS_MAX).collect::<String>())
}

fn parse(endpoint: &Endpoint, body: &[u8]) -> Result<Chunk> {
    let chunk: Chunk =
        serde_json::from_slice(body).map_err(|error| failures::unreadable(endpoint, error))?;
    match &chunk.error {
        Some(error) if !error.is_null() => Err(failures::of_error_object(endpoint, error)),
        // vLLM's form of an error within a stream.
        _ if chunk.object.as_deref() == Some("error") => {
            let error: Value = serde_json::from_slice(body)
                .map_err(|error| failures::unreadable(endpoint, error))?;
            Err(failures::of_error_object(endpoint, &error))
        }
        _ => Ok(chunk),
    }
}

/// Several choices come only when `parameters` asked for them; a run has one
/// reply.
fn first(choices: Vec<Choice>) -> Option<Choice> {
    choices.into_iter().find(|choice| choice.index.unwrap_or(0) == 0)
}

#[derive(Deserialize)]
struct Chunk {
    object: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<Counted>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u64>,
    delta: Option<Said>,
    message: Option<Said>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<Content>,
    refusal: Option<String>,
}

impl Said {
    fn text(self) -> String {
        match self.content {
            Some(Content::Text(text)) if !text.is_empty() => text,
            Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
            _ => self.refusal.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Counted {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl From<Counted> for Usage {
    fn from(counted: Counted) -> Self {
        Self { input_tokens: counted.prompt_tokens, output_tokens: counted.completion_tokens }
    }
}
