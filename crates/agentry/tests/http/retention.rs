//! What is older than configured goes by itself.

use agentry_testkit::{Behaviour, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Server, wait_until};

on_both_engines! {
    old_sessions_go_with_all_that_is_in_them,
    old_runs_go_and_their_messages_stay,
}

const RUN: &str = "/api/v1/agent/simple/run";
const OFTEN: (&str, &str) = ("AGENTRY_RETENTION__EVERY_MS", "100");

async fn old_sessions_go_with_all_that_is_in_them(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("at last"));
    model.hold();
    let url = model.base_url();
    let settings = [
        OFTEN,
        ("AGENTRY_RETENTION__SESSIONS_S", "1"),
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", &url),
    ];
    let server = Server::start_with(engine, &settings).await;
    let (_, agent) =
        server.post("/api/v1/agents", json!({"name": "llm", "model": "compatible/near/m"})).await;
    let body = json!({"message": "wait", "session_name": "busy"});
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let busy = tokio::spawn(server.request(Method::POST, &path).json(&body).send());
    model.wait_held(1).await;

    let body = json!({"message": "The safe opens with 7719.", "user_id": "ann"});
    let (status, run) = server.post(RUN, body).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    let session = format!("/api/v1/sessions/{}", run["session_id"].as_str().unwrap());
    wait_until(|| async { server.get(&session).await.0 == StatusCode::NOT_FOUND }).await;
    let run = format!("/api/v1/runs/{}", run["run_id"].as_str().unwrap());
    assert_eq!(server.get(&run).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get(&format!("{session}/messages")).await.0, StatusCode::NOT_FOUND);
    // Older than that one, and in use.
    assert_eq!(server.get("/api/v1/sessions/busy").await.0, StatusCode::OK);
    model.release();
    assert_eq!(busy.await.unwrap().unwrap().status(), StatusCode::OK);
    wait_until(|| async {
        let (_, page) = server.get("/api/v1/sessions").await;
        page["items"] == json!([]) && page["total"] == json!(0)
    })
    .await;
    wait_until(|| async { server.get("/api/v1/runs").await.1["total"] == json!(0) }).await;
    assert_eq!(server.get("/api/v1/users/ann").await.0, StatusCode::OK);
}

async fn old_runs_go_and_their_messages_stay(engine: Engine) {
    let settings = [OFTEN, ("AGENTRY_RETENTION__RUNS_S", "1")];
    let server = Server::start_with(engine, &settings).await;
    let (_, run) = server.post(RUN, json!({"message": "hi", "session_name": "kept"})).await;
    let path = format!("/api/v1/runs/{}", run["run_id"].as_str().unwrap());
    wait_until(|| async { server.get(&path).await.0 == StatusCode::NOT_FOUND }).await;
    wait_until(|| async { server.get("/api/v1/runs").await.1["total"] == json!(0) }).await;
    let (status, messages) = server.get("/api/v1/sessions/kept/messages").await;
    assert_eq!(status, StatusCode::OK);
    let said: Vec<&Value> =
        messages["items"].as_array().unwrap().iter().map(|message| &message["role"]).collect();
    assert_eq!(said, ["user", "assistant"]);
}
