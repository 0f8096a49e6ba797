//! Texts as vectors, in OpenAI's protocol and in Ollama's: of the words that they have,
//! so that texts with the same words are near to each other.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::behaviour::Embedding;
use super::protocol::Protocol;
use super::{Received, Shared, refusal};

/// Numbers of a vector.
const DIMENSIONS: usize = 64;
/// Texts that the real one takes at once.
const TEXTS_MAX: usize = 2_048;

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    uri: http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let protocol = if uri.path() == "/api/embed" { Protocol::Ollama } else { Protocol::OpenAi };
    let request = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let (embedding, key) = {
        let mut state = shared.state.lock();
        let received = Received {
            path: uri.path().to_owned(),
            headers: headers.clone(),
            body: request.clone(),
        };
        state.received.push(received);
        (state.embedding.clone(), state.key.clone())
    };
    shared.counts.send_modify(|counts| counts.received += 1);
    if key.is_some_and(|key| !protocol.shows(&headers, &key)) {
        return refusal(protocol, StatusCode::UNAUTHORIZED, "Incorrect API key", "invalid_api_key");
    }
    let texts = match texts(protocol, &request) {
        Ok(texts) => texts,
        Err(reason) => {
            return refusal(protocol, StatusCode::BAD_REQUEST, reason, "invalid_value");
        }
    };
    let words = match embedding {
        Embedding::Words(words) => words,
        Embedding::Raw(answer) => return Json(answer).into_response(),
        Embedding::Refusal(status) => {
            let status = StatusCode::from_u16(status).expect("a test has a valid status");
            return refusal(protocol, status, "as it was asked to", "test_error");
        }
        Embedding::Silence => {
            shared.stopping.cancelled().await;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    let vectors: Vec<Vec<f64>> = texts.iter().map(|text| vector(text, &words)).collect();
    let count: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
    Json(match protocol {
        Protocol::Ollama => json!({"model": request["model"], "embeddings": vectors,
            "total_duration": 1_000_000, "load_duration": 1_000, "prompt_eval_count": count}),
        _ => {
            let item = |(index, vector): (usize, &Vec<f64>)| {
                json!({"object": "embedding", "index": index, "embedding": vector})
            };
            let data: Vec<Value> = vectors.iter().enumerate().map(item).collect();
            json!({"object": "list", "data": data, "model": request["model"],
                "usage": {"prompt_tokens": count, "total_tokens": count}})
        }
    })
    .into_response()
}

fn texts(protocol: Protocol, request: &Value) -> Result<Vec<String>, &'static str> {
    if !request["model"].is_string() {
        return Err("model is missing");
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts: Option<Vec<String>> = match &request["input"] {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(text).collect(),
        _ => None,
    };
    let texts = texts.filter(|texts| (1..=TEXTS_MAX).contains(&texts.len()));
    let texts = texts.ok_or("input is a text or a list of texts")?;
    if protocol == Protocol::OpenAi && texts.iter().any(String::is_empty) {
        return Err("input cannot be an empty string");
    }
    let format = &request["encoding_format"];
    if protocol == Protocol::OpenAi && !format.is_null() && format != "float" {
        return Err("this server knows the encoding_format float alone");
    }
    Ok(texts)
}

fn vector(text: &str, same: &[(String, String)]) -> Vec<f64> {
    let mut vector = vec![0.0; DIMENSIONS];
    // No text is nothing.
    vector[0] = 0.01;
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        let word = same.iter().find(|(from, _)| *from == word).map_or(&word, |(_, to)| to);
        // FNV-1a.
        let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        vector[usize::try_from(hash % DIMENSIONS as u64).unwrap_or(0)] += 1.0;
    }
    vector
}
