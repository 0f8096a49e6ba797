//! Answers as bytes, in each protocol: the pieces of a stream, or one whole answer.

use bytes::Bytes;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Chunking};
use super::protocol::Said;

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
pub(super) fn stream(about: &About<'_>, said: &Said, behaviour: &Behaviour) -> Vec<Bytes> {
    let mut documents = vec![chunk(about, &json!({"role": "assistant", "content": ""}), None)];
    if let Some(thought) = thought(said, behaviour) {
        for piece in tokens(&thought, behaviour.chunking.token_chars) {
            documents.push(chunk(about, &json!({"reasoning_content": piece}), None));
        }
    }
    let tokens = tokens(&said.text, behaviour.chunking.token_chars);
    documents.extend(tokens.iter().map(|token| chunk(about, &json!({"content": token}), None)));
    for (at, call) in openai_calls(about, said).into_iter().enumerate() {
        // As the real one does: first who is called, then with what, piece by piece.
        let arguments = call["function"]["arguments"].as_str().unwrap_or_default().to_owned();
        let mut first = call;
        first["index"] = at.into();
        first["function"]["arguments"] = "".into();
        documents.push(chunk(about, &json!({"tool_calls": [first]}), None));
        for piece in self::tokens(&arguments, behaviour.chunking.token_chars) {
            let piece = json!({"index": at, "function": {"arguments": piece}});
            documents.push(chunk(about, &json!({"tool_calls": [piece]}), None));
        }
    }
    if !behaviour.without_finish {
        documents.push(chunk(about, &json!({}), Some(finish_reason(said, behaviour))));
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

/// What is thought before functions are called.
fn thought(said: &Said, behaviour: &Behaviour) -> Option<String> {
    let names: Vec<&str> = said.calls.iter().map(|call| call.name.as_str()).collect();
    (behaviour.thinks && !names.is_empty()).then(|| format!("I need {}.", names.join(" and ")))
}

fn finish_reason<'a>(said: &Said, behaviour: &'a Behaviour) -> &'a str {
    match behaviour.finish_reason.as_str() {
        "stop" if !said.calls.is_empty() => "tool_calls",
        reason => reason,
    }
}

fn openai_calls(about: &About<'_>, said: &Said) -> Vec<Value> {
    let call = |(at, call): (usize, &super::protocol::Call)| {
        let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
        json!({"id": format!("call_{}_{at}", about.id), "type": "function", "function": function})
    };
    said.calls.iter().enumerate().map(call).collect()
}

/// One whole completion.
pub(super) fn whole(about: &About<'_>, said: &Said, behaviour: &Behaviour) -> Value {
    let calls = openai_calls(about, said);
    let content = match said.text.as_str() {
        "" if !calls.is_empty() => Value::Null,
        text => text.into(),
    };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    json!({
        "id": about.id,
        "object": "chat.completion",
        "created": about.created_seconds,
        "model": about.model(),
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_reason(said, behaviour),
        }],
        "usage": about.usage(tokens(&said.text, behaviour.chunking.token_chars).len()),
    })
}

fn anthropic_reason(said: &Said, behaviour: &Behaviour) -> &'static str {
    match behaviour.finish_reason.as_str() {
        _ if !said.calls.is_empty() => "tool_use",
        "length" => "max_tokens",
        "content_filter" => "refusal",
        _ => "end_turn",
    }
}

fn anthropic_message(about: &About<'_>, content: &[Value]) -> Value {
    json!({"id": format!("msg_{}", about.id), "type": "message", "role": "assistant",
        "model": about.model(), "content": content, "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 0, "output_tokens": 1}})
}

fn anthropic_block(about: &About<'_>, at: usize, call: &super::protocol::Call) -> Value {
    json!({"type": "tool_use", "id": format!("toolu_{}_{at}", about.id), "name": call.name,
        "input": call.arguments})
}

/// What proves a thought to be its provider's.
fn signature(about: &About<'_>) -> String {
    format!("signature of {}", about.id)
}

/// An event stream with named events, as Anthropic's server sends it.
pub(super) fn anthropic_stream(
    about: &About<'_>,
    said: &Said,
    behaviour: &Behaviour,
) -> Vec<Bytes> {
    let mut documents = vec![
        json!({"type": "message_start", "message": anthropic_message(about, &[])}),
        json!({"type": "ping"}),
    ];
    let pieces = tokens(&said.text, behaviour.chunking.token_chars);
    let mut index = 0;
    if let Some(thought) = thought(said, behaviour) {
        let block = json!({"type": "thinking", "thinking": "", "signature": ""});
        documents.push(json!({"type": "content_block_start", "index": 0, "content_block": block}));
        for piece in tokens(&thought, behaviour.chunking.token_chars) {
            let delta = json!({"type": "thinking_delta", "thinking": piece});
            documents.push(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
        }
        let delta = json!({"type": "signature_delta", "signature": signature(about)});
        documents.push(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
        documents.push(json!({"type": "content_block_stop", "index": 0}));
        let block = json!({"type": "redacted_thinking", "data": signature(about)});
        documents.push(json!({"type": "content_block_start", "index": 1, "content_block": block}));
        documents.push(json!({"type": "content_block_stop", "index": 1}));
        index = 2;
    }
    if !pieces.is_empty() {
        let block = json!({"type": "text", "text": ""});
        documents.push(json!({"type": "content_block_start", "index": index,
            "content_block": block}));
        for piece in &pieces {
            let delta = json!({"type": "text_delta", "text": piece});
            documents.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        documents.push(json!({"type": "content_block_stop", "index": index}));
        index += 1;
    }
    for (at, call) in said.calls.iter().enumerate() {
        let mut block = anthropic_block(about, at, call);
        block["input"] = json!({});
        documents.push(json!({"type": "content_block_start", "index": index,
            "content_block": block}));
        for piece in tokens(&call.arguments.to_string(), behaviour.chunking.token_chars) {
            let delta = json!({"type": "input_json_delta", "partial_json": piece});
            documents.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        documents.push(json!({"type": "content_block_stop", "index": index}));
        index += 1;
    }
    if !behaviour.without_finish {
        let delta = json!({"stop_reason": anthropic_reason(said, behaviour),
            "stop_sequence": null});
        documents.push(json!({"type": "message_delta", "delta": delta,
            "usage": {"output_tokens": pieces.len() + 1}}));
    }
    if !behaviour.without_done {
        documents.push(json!({"type": "message_stop"}));
    }
    let named = |document: &Value| {
        let end = if behaviour.chunking.crlf { "\r\n" } else { "\n" };
        let name = document["type"].as_str().unwrap_or_default();
        format!("event: {name}{end}{}", event(&document.to_string(), behaviour.chunking))
    };
    writes(&documents.iter().map(named).collect::<Vec<_>>(), behaviour.chunking)
}

/// One whole message.
pub(super) fn anthropic_whole(about: &About<'_>, said: &Said, behaviour: &Behaviour) -> Value {
    let text = (!said.text.is_empty()).then(|| json!({"type": "text", "text": said.text}));
    let calls = said.calls.iter().enumerate().map(|(at, call)| anthropic_block(about, at, call));
    let mut message = anthropic_message(about, &text.into_iter().chain(calls).collect::<Vec<_>>());
    message["stop_reason"] = anthropic_reason(said, behaviour).into();
    message
}

fn google_chunk(about: &About<'_>, parts: &[Value], reason: Option<&str>) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if let Some(reason) = reason {
        candidate["finishReason"] = reason.into();
    }
    json!({"candidates": [candidate], "modelVersion": "testkit-1", "responseId": about.id,
        "usageMetadata": {"promptTokenCount": 10, "cachedContentTokenCount": 4,
            "candidatesTokenCount": 3, "totalTokenCount": 13}})
}

fn google_reason(behaviour: &Behaviour) -> &'static str {
    match behaviour.finish_reason.as_str() {
        "length" => "MAX_TOKENS",
        "content_filter" => "SAFETY",
        _ => "STOP",
    }
}

fn google_calls(said: &Said) -> impl Iterator<Item = Value> {
    let call = |call: &super::protocol::Call| json!({"functionCall": {"name": call.name, "args": call.arguments}});
    said.calls.iter().map(call)
}

/// An event stream without an event that ends it, as Google's server sends it.
pub(super) fn google_stream(about: &About<'_>, said: &Said, behaviour: &Behaviour) -> Vec<Bytes> {
    let pieces = tokens(&said.text, behaviour.chunking.token_chars);
    let text = |piece: &String| google_chunk(about, &[json!({"text": piece})], None);
    let mut documents: Vec<Value> = pieces.iter().map(text).collect();
    if let Some(thought) = thought(said, behaviour) {
        let part = json!({"text": thought, "thought": true});
        documents.insert(0, google_chunk(about, &[part], None));
    }
    for (at, mut call) in google_calls(said).enumerate() {
        // Of calls that are made at once, the first one has the signature.
        if behaviour.thinks && at == 0 {
            call["thoughtSignature"] = signature(about).into();
        }
        documents.push(google_chunk(about, &[call], None));
    }
    if !behaviour.without_finish {
        let last = vec![json!({"text": ""})];
        documents.push(google_chunk(about, &last, Some(google_reason(behaviour))));
    }
    let events: Vec<String> =
        documents.iter().map(|document| event(&document.to_string(), behaviour.chunking)).collect();
    writes(&events, behaviour.chunking)
}

/// One whole answer.
pub(super) fn google_whole(about: &About<'_>, said: &Said, behaviour: &Behaviour) -> Value {
    let text = (!said.text.is_empty()).then(|| json!({"text": said.text}));
    let parts: Vec<Value> = text.into_iter().chain(google_calls(said)).collect();
    google_chunk(about, &parts, Some(google_reason(behaviour)))
}

fn ollama_document(about: &About<'_>, content: &str, calls: &[Value]) -> Value {
    let mut message = json!({"role": "assistant", "content": content});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    json!({"model": about.model(), "created_at": "2026-11-01T08:00:00.123456789Z",
        "message": message, "done": false})
}

fn ollama_calls(said: &Said) -> Vec<Value> {
    let call = |call: &super::protocol::Call| json!({"function": {"name": call.name, "arguments": call.arguments}});
    said.calls.iter().map(call).collect()
}

fn ollama_ended(mut document: Value, written: usize, behaviour: &Behaviour) -> Value {
    document["done"] = true.into();
    document["done_reason"] = behaviour.finish_reason.as_str().into();
    for (name, value) in [
        ("total_duration", 5_000_000),
        ("load_duration", 1_000_000),
        ("prompt_eval_count", 10),
        ("prompt_eval_duration", 1_000_000),
        ("eval_count", written as u64),
        ("eval_duration", 3_000_000),
    ] {
        document[name] = value.into();
    }
    document
}

/// Documents one to a line, as Ollama's server sends them.
pub(super) fn ollama_stream(about: &About<'_>, said: &Said, behaviour: &Behaviour) -> Vec<Bytes> {
    let pieces = tokens(&said.text, behaviour.chunking.token_chars);
    let mut documents: Vec<Value> =
        pieces.iter().map(|piece| ollama_document(about, piece, &[])).collect();
    let calls = ollama_calls(said);
    if !calls.is_empty() {
        documents.push(ollama_document(about, "", &calls));
    }
    if !behaviour.without_finish {
        let last = ollama_document(about, "", &[]);
        documents.push(ollama_ended(last, pieces.len(), behaviour));
    }
    let lines: Vec<String> = documents.iter().map(|document| format!("{document}\n")).collect();
    writes(&lines, behaviour.chunking)
}

/// One whole answer.
pub(super) fn ollama_whole(about: &About<'_>, said: &Said, behaviour: &Behaviour) -> Value {
    let written = tokens(&said.text, behaviour.chunking.token_chars).len();
    let document = ollama_document(about, &said.text, &ollama_calls(said));
    ollama_ended(document, written, behaviour)
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
