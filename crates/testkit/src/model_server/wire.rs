//! OpenAI's chat completions as bytes: the chunks of a stream, or one whole
//! completion.

use bytes::Bytes;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Chunking};

/// What a completion says about itself.
pub(super) struct About<'a> {
    pub(super) id: String,
    pub(super) created_seconds: i64,
    pub(super) request: &'a Value,
}

impl About<'_> {
    fn model(&self) -> &Value {
        &self.request["model"]
    }

    pub(super) fn wants_stream(&self) -> bool {
        self.request["stream"].as_bool().unwrap_or(false)
    }

    fn wants_usage(&self) -> bool {
        self.request["stream_options"]["include_usage"].as_bool().unwrap_or(false)
    }

    /// A token read is a word, a token written is a piece.
    fn usage(&self, written: usize) -> Value {
        let read: usize = self.request["messages"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|message| message["content"].as_str())
            .map(|content| content.split_whitespace().count())
            .sum();
        json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written})
    }
}

/// A stream cut into writes as the behaviour says.
pub(super) fn stream(about: &About<'_>, text: &str, behaviour: &Behaviour) -> Vec<Bytes> {
    let mut documents = vec![chunk(about, &json!({"role": "assistant", "content": ""}), None)];
    let tokens = tokens(text, behaviour.chunking.token_chars);
    documents.extend(tokens.iter().map(|token| chunk(about, &json!({"content": token}), None)));
    if !behaviour.without_finish {
        documents.push(chunk(about, &json!({}), Some(&behaviour.finish_reason)));
    }
    if about.wants_usage() {
        let mut document = chunk(about, &json!({}), None);
        document["choices"] = json!([]);
        document["usage"] = about.usage(tokens.len());
        documents.push(document);
    }
    let mut events: Vec<String> =
        documents.iter().map(|document| event(&document.to_string(), behaviour.chunking)).collect();
    if !behaviour.without_done {
        events.push(event("[DONE]", behaviour.chunking));
    }
    writes(&events, behaviour.chunking)
}

/// One whole completion.
pub(super) fn whole(about: &About<'_>, text: &str, behaviour: &Behaviour) -> Value {
    json!({
        "id": about.id,
        "object": "chat.completion",
        "created": about.created_seconds,
        "model": about.model(),
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": null},
            "logprobs": null,
            "finish_reason": behaviour.finish_reason,
        }],
        "usage": about.usage(tokens(text, behaviour.chunking.token_chars).len()),
    })
}

fn chunk(about: &About<'_>, delta: &Value, finish_reason: Option<&str>) -> Value {
    let mut chunk = json!({
        "id": about.id,
        "object": "chat.completion.chunk",
        "created": about.created_seconds,
        "model": about.model(),
        "choices": [
            {"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason},
        ],
    });
    if about.wants_usage() {
        chunk["usage"] = Value::Null;
    }
    chunk
}

fn tokens(text: &str, token_chars: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(token_chars.max(1)).map(|token| token.iter().collect()).collect()
}

fn event(data: &str, chunking: Chunking) -> String {
    let end = if chunking.crlf { "\r\n" } else { "\n" };
    let comment = if chunking.comments { format!(": keep-alive{end}{end}") } else { String::new() };
    format!("{comment}data: {data}{end}{end}")
}

fn writes(events: &[String], chunking: Chunking) -> Vec<Bytes> {
    match chunking.write_bytes {
        Some(bytes) => {
            let whole = events.concat();
            whole.as_bytes().chunks(bytes.max(1)).map(Bytes::copy_from_slice).collect()
        }
        None => events
            .chunks(chunking.events_per_write.max(1))
            .map(|events| Bytes::from(events.concat()))
            .collect(),
    }
}
