//! `/v1`: the official OpenAI client for Python talks to the server, streamed
//! and not.

use std::process::Command;

use agentry_testkit::{Behaviour, Chunking, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::run_reader::{Reader, RunStream};
use crate::server::{Engine, Server};

on_both_engines! {
    the_python_client_has_a_conversation,
    a_completion_is_streamed_as_it_comes,
    errors_have_openai_s_shape,
}

/// The Python of the environment that `make test` makes.
fn python() -> String {
    std::env::var("AGENTRY_TEST_PYTHON")
        .expect("AGENTRY_TEST_PYTHON is not set: run `make test`, which makes the environment")
}

const SCRIPT: &str = r#"
import json, sys
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2])
model = sys.argv[3]
say = lambda text, **more: client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": text}], user="py", **more)

first = say("The library closes at nine.", metadata={"session_name": "one"})
assert first.object == "chat.completion" and first.choices[0].finish_reason == "stop", first
whole = say("When does the library close?", metadata={"session_name": "two"}).choices[0].message.content
pieces, usage = [], None
with say("When does the library close?", stream=True, stream_options={"include_usage": True},
         metadata={"session_name": "three"}) as stream:
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
models = [m.id for m in client.models.list()]
print(json.dumps({"whole": whole, "streamed": "".join(pieces), "pieces": len(pieces), "models": models}))
"#;

async fn the_python_client_has_a_conversation(engine: Engine) {
    let server = Server::start(engine).await;
    let script = server.home.data.path().join("conversation.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let output = tokio::task::spawn_blocking({
        let (url, key) = (server.url.clone(), server.key.clone());
        move || {
            Command::new(python()).arg(script).args([&url, &key, "simple_agent"]).output().unwrap()
        }
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["whole"].as_str().unwrap().contains("nine"), "{said}");
    assert!(said["streamed"].as_str().unwrap().contains("nine"), "{said}");
    assert!(said["pieces"].as_u64().unwrap() > 0, "{said}");
    assert!(said["models"].as_array().unwrap().contains(&json!("simple_agent")), "{said}");
}

/// Each piece comes when the model says it, not when it has said everything.
async fn a_completion_is_streamed_as_it_comes(engine: Engine) {
    let text = "So weiß, so früh.";
    let model = ModelServer::start().await;
    let chunking = Chunking { token_chars: 1, ..Chunking::default() };
    model.by_default(Behaviour { chunking, stepped: true, ..Behaviour::text(text) });
    let url = model.base_url();
    let server = Server::start_with(engine, &[("AGENTRY_PROVIDERS__NEAR__BASE_URL", &url)]).await;
    let body = json!({
        "model": "compatible/near/m", "messages": [{"role": "user", "content": "x"}], "stream": true,
    });
    let response =
        server.request(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
    let run = response.headers()["x-run-id"].to_str().unwrap().to_owned();
    let mut stream = RunStream::of(response);
    model.step(1);
    for said in text.chars() {
        model.step(1);
        let content = loop {
            let chunk = stream.next().await.unwrap().data;
            match chunk["choices"][0]["delta"]["content"].as_str() {
                Some(content) if !content.is_empty() => break content.to_owned(),
                _ => {}
            }
        };
        assert_eq!(content, said.to_string());
    }
    model.step(100);
    let mut last = Value::Null;
    while let Some(told) = stream.next().await {
        last = told.data;
    }
    assert_eq!(last, "[DONE]");
    // It is a run like any other, which can be followed as one.
    let mut reader = Reader::default();
    reader.follow(&server, &run).await;
    assert_eq!(reader.text, text);
}

async fn errors_have_openai_s_shape(engine: Engine) {
    let model = ModelServer::start().await;
    let url = model.base_url();
    let server = Server::start_with(engine, &[("AGENTRY_PROVIDERS__NEAR__BASE_URL", &url)]).await;
    let chat = |body: Value| server.post("/v1/chat/completions", body);
    let messages = json!([{"role": "user", "content": "x"}]);
    let (status, body) = chat(json!({"model": "nobody", "messages": messages})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    assert!(body["error"]["message"].is_string() && body["error"]["code"].is_string(), "{body}");
    let (status, body) = chat(json!({"model": "simple", "messages": []})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let tools = json!([{"type": "web_search"}]);
    let (status, body) =
        chat(json!({"model": "simple", "messages": messages, "tools": tools})).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("not_supported_yet"))
    );
    model.next(Behaviour::error(500, "broken"));
    let (status, body) = chat(json!({"model": "compatible/near/m", "messages": messages})).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::BAD_GATEWAY, &json!("model_failed")),
        "{body}"
    );
}
