//! What was acknowledged is there after the process was killed, and what was
//! under way goes on.

use agentry_testkit::{Behaviour, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, wait_until};

on_both_engines! {
    a_conversation_survives_a_kill,
    a_run_that_was_killed_is_begun_again,
    a_stop_finishes_what_was_begun,
}

async fn a_conversation_survives_a_kill(engine: Engine) {
    let Server { process, home } = Server::start(engine).await;
    let (_, agent) = process.post("/api/v1/agents", json!({"name": "kept"})).await;
    let body = json!({"message": "The ferry leaves at noon.", "user_id": "u", "session_name": "a"});
    let (_, run) = process.post("/api/v1/agent/simple/run", body).await;
    process.kill();

    let process = Process::start(&home);
    assert_eq!(
        process.get(&format!("/api/v1/agents/{}", agent["id"].as_str().unwrap())).await.1,
        agent
    );
    let (_, found) =
        process.get(&format!("/api/v1/runs/{}", run["run_id"].as_str().unwrap())).await;
    assert_eq!(found["message"], run["message"]);
    let body =
        json!({"message": "When does the ferry leave?", "user_id": "u", "session_name": "b"});
    let (_, run) = process.post("/api/v1/agent/simple/run", body).await;
    assert!(run["message"].as_str().unwrap().contains("noon"), "{run}");
}

async fn a_run_that_was_killed_is_begun_again(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("at last"));
    model.hold();
    let url = model.base_url();
    // On PostgreSQL the next process waits for the lease to end.
    let settings =
        [("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str()), ("AGENTRY_RUNS__LEASE_MS", "1000")];
    let home = Home::new(engine).await;
    let process = Process::start_with(&home, &settings);
    let (_, agent) =
        process.post("/api/v1/agents", json!({"name": "llm", "model": "compatible/near/m"})).await;
    let (_, session) = process.post("/api/v1/sessions", json!({})).await;
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let list = format!("/api/v1/runs?order=asc&session_id={}", session["id"].as_str().unwrap());
    for n in 0..2 {
        let body = json!({"message": format!("m{n}"), "session_id": session["id"]});
        let request = process.request(Method::POST, &path).json(&body);
        tokio::spawn(request.send());
        wait_until(|| async {
            process.get(&list).await.1["items"].as_array().unwrap().len() == n + 1
        })
        .await;
    }
    model.wait_held(1).await;
    process.kill();
    model.release();

    let process = Process::start_with(&home, &settings);
    wait_until(|| async {
        let (_, page) = process.get(&list).await;
        page["items"].as_array().unwrap().iter().all(|run| run["status"] == "succeeded")
    })
    .await;
    let (_, page) = process.get(&list).await;
    let attempts: Vec<&Value> =
        page["items"].as_array().unwrap().iter().map(|run| &run["attempt"]).collect();
    assert_eq!(attempts, [&json!(2), &json!(1)]);
    let messages =
        format!("/api/v1/sessions/{}/messages?order=asc", session["id"].as_str().unwrap());
    let (_, page) = process.get(&messages).await;
    let said: Vec<&Value> =
        page["items"].as_array().unwrap().iter().map(|message| &message["content"]).collect();
    assert_eq!(said, ["m0", "at last", "m1", "at last"]);
}

async fn a_stop_finishes_what_was_begun(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("finished"));
    model.hold();
    let url = model.base_url();
    let Server { process, home } =
        Server::start_with(engine, &[("AGENTRY_PROVIDERS__NEAR__BASE_URL", &url)]).await;
    let (_, agent) =
        process.post("/api/v1/agents", json!({"name": "llm", "model": "compatible/near/m"})).await;
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let request = process.request(Method::POST, &path).json(&json!({"message": "x"}));
    let run = tokio::spawn(async move { request.send().await.unwrap() });
    model.wait_held(1).await;
    let stopped = std::process::Command::new("kill")
        .args(["-TERM", &process.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    // It no longer takes connections, and still answers what it has taken.
    let fresh = reqwest::Client::new();
    wait_until(|| async { fresh.get(format!("{}/health", process.url)).send().await.is_err() })
        .await;
    model.release();
    let response = run.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.json::<Value>().await.unwrap()["message"], "finished");
    assert!(process.wait().success());
    drop(home);
}
