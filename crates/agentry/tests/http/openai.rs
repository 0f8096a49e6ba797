//! `/v1`: the official OpenAI client for Python talks to the server, streamed
//! and not.

use std::process::Command;

use agentry_testkit::{Answer, Behaviour, Call, Chunking, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::run_reader::{Reader, RunStream};
use crate::runs_bed::{Bed, Events, start};
use crate::server::{Engine, Server, answer, wait_until};

on_both_engines! {
    the_python_client_has_a_conversation,
    a_completion_is_streamed_as_it_comes,
    errors_have_openai_s_shape,
    a_response_that_is_not_stored_leaves_nothing,
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

/// Nothing of what was said is left; how many runs it was.
async fn forgotten(bed: &Bed) -> i64 {
    let said = "select (select count(*) from message) + (select count(*) from text_doc) \
        + (select count(*) from run_chunk) + (select count(*) from run_tool) \
        + (select count(*) from run where input <> '' or reply is not null or said like '%secret%' \
        or asked like '%secret%' or finished_at is null)";
    let left = bed.home.number(said).await;
    if left == 0 { bed.home.count("run").await } else { -left }
}

async fn a_response_that_is_not_stored_leaves_nothing(engine: Engine) {
    let lease = [("AGENTRY_RUNS__LEASE_MS", "1000")];
    let bed = Bed::with_agent(engine, &lease, json!({})).await;
    let ask = |more: Value| {
        let mut body = json!({
            "model": "llm", "input": [
                {"role": "user", "content": "my secret"}, {"role": "user", "content": "secret again"},
            ], "store": false, "user": "ann",
            "instructions": "Keep the secret.", "metadata": {"k": "secret"},
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bed.process.request(Method::POST, "/v1/responses").json(&body)
    };
    let (status, response) = answer(ask(json!({}))).await;
    assert_eq!((status, &response["store"]), (StatusCode::OK, &json!(false)), "{response}");
    assert_eq!(response["output"][0]["content"][0]["text"], "secret again");
    wait_until(|| async { forgotten(&bed).await == 1 }).await;
    let (_, runs) = bed.process.get("/api/v1/runs").await;
    let run = &runs["items"][0];
    assert_eq!((&run["status"], &run["input"]), (&json!("succeeded"), &json!("")), "{run}");
    assert!(run["usage"]["output_tokens"].as_u64() > Some(0), "what it cost stays: {run}");

    // One that calls tools here, as a stream.
    let tools = json!({"tools": ["memory_search"]});
    let agent = format!("/api/v1/agents/{}", bed.agent);
    assert_eq!(bed.process.patch(&agent, tools).await.0, StatusCode::OK);
    let call = Call::new("memory_search", json!({"query": "secret"}));
    bed.model.next(Behaviour::new(Answer::Calls("The secret is".to_owned(), vec![call])));
    let mut stream = Events::of(ask(json!({"stream": true}))).await;
    let mut last = Value::Null;
    while let Some((_, data)) = stream.next().await {
        last = serde_json::from_str(&data).unwrap();
    }
    assert_eq!(last["type"], "response.completed", "{last}");
    wait_until(|| async { forgotten(&bed).await == 2 }).await;

    // One whose client goes away.
    bed.model.hold();
    let leaving = tokio::spawn(ask(json!({})).send());
    bed.model.wait_held(1).await;
    leaving.abort();
    wait_until(|| async { forgotten(&bed).await == 3 }).await;
    bed.model.release();

    // One whose process is killed, which another one carries out again.
    bed.model.hold();
    let cut = tokio::spawn(ask(json!({})).send());
    bed.model.wait_held(1).await;
    let Bed { model, process, home, agent } = bed;
    process.kill();
    assert!(cut.await.unwrap().is_err());
    let bed = Bed { process: start(&home, &model, &lease), model, home, agent };
    bed.model.release();
    wait_until(|| async { forgotten(&bed).await == 4 }).await;
}
