//! What is older than configured goes by itself.

use agentry_domain::files::FILE_CHUNK_BYTES;
use agentry_testkit::{Behaviour, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};

on_both_engines! {
    old_sessions_go_with_all_that_is_in_them,
    old_runs_go_and_their_messages_stay,
    what_was_never_wholly_sent_goes,
    ended_jobs_are_forgotten,
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

async fn what_was_never_wholly_sent_goes(engine: Engine) {
    let settings =
        [OFTEN, ("AGENTRY_HTTP__TRANSFER_MS", "999"), ("AGENTRY_RETENTION__UPLOADS_S", "1")];
    let home = Home::new(engine).await;
    let server = Process::start(&home);
    server.post("/api/v1/sessions", json!({"session_name": "s"})).await;
    let path = "/api/v1/sessions/s/files";
    let whole = vec![7; 3 * FILE_CHUNK_BYTES];
    let put =
        server.request(Method::PUT, &format!("{path}/whole")).body(whole.clone()).send().await;
    assert_eq!(put.unwrap().status(), StatusCode::CREATED);
    // Two chunks arrive, and then the server is gone.
    let (more, body) = futures::channel::mpsc::unbounded::<std::io::Result<Vec<u8>>>();
    more.unbounded_send(Ok(vec![7; 2 * FILE_CHUNK_BYTES + 1])).unwrap();
    let body = reqwest::Body::wrap_stream(body);
    let half = server.request(Method::PUT, &format!("{path}/half")).body(body);
    let half = tokio::spawn(half.send());
    wait_until(|| async { home.count("file_upload").await == 1 }).await;
    wait_until(|| async { home.count("file_chunk").await == 3 + 2 }).await;
    server.kill();
    drop(more);
    assert!(half.await.unwrap().is_err());

    let server = Process::start_with(&home, &settings);
    wait_until(|| async { home.count("file_chunk").await == 3 }).await;
    assert_eq!(home.count("file_upload").await, 0);
    let read = server.request(Method::GET, &format!("{path}/whole")).send().await.unwrap();
    assert_eq!(read.bytes().await.unwrap(), whole);
    let (_, files) = server.get(path).await;
    assert_eq!(files["total"], json!(1), "{files}");
}

async fn ended_jobs_are_forgotten(engine: Engine) {
    let server =
        Server::start_with(engine, &[OFTEN, ("AGENTRY_RETENTION__ADMIN_JOBS_S", "1")]).await;
    server.post("/api/v1/users", json!({"user_id": "ann"})).await;
    let (status, job) =
        answer(server.request(Method::DELETE, "/api/v1/users/ann?purge=true")).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let job = format!("/api/v1/admin/jobs/{}", job["id"].as_str().unwrap());
    assert_eq!(server.get(&job).await.0, StatusCode::OK);
    wait_until(|| async { server.get(&job).await.0 == StatusCode::NOT_FOUND }).await;
    wait_until(|| async {
        let (_, page) = server.get("/api/v1/admin/jobs").await;
        page["items"] == json!([]) && page["total"] == json!(0)
    })
    .await;
}
