//! What an upstream can do wrong, over real sockets: each fault has its code, what was
//! said before it is kept and marked, other providers' runs do not notice, what is sent
//! again stays within its budget, and the breaker opens and closes again.

use std::time::{Duration, Instant};

use agentry_testkit::{Behaviour, Chunking, End, ModelServer};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::on_both_engines;
use crate::server::{Engine, Server};

on_both_engines! {
    each_fault_has_its_code_and_what_was_said_is_kept,
    a_gigabyte_is_not_read,
    retries_stay_within_their_budget,
    a_breaker_opens_and_recovers,
    the_fallback_answers_meanwhile,
}

fn settings<'a>(near: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut settings = vec![("AGENTRY_PROVIDERS__NEAR__BASE_URL", near)];
    settings.extend(more);
    settings
}

async fn run(server: &Server, model: &str, text: &str, timeout_ms: u64) -> Value {
    let body = json!({"name": "a", "model": model});
    let (status, agent) = server.post("/api/v1/agents", body).await;
    assert_eq!(status, StatusCode::CREATED, "{agent}");
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let (status, run) =
        server.post(&path, json!({"message": text, "timeout_ms": timeout_ms})).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    run
}

/// The reply of a run, as its session keeps it.
async fn kept(server: &Server, run: &Value) -> Option<Value> {
    let path = format!("/api/v1/sessions/{}/messages", run["session_id"].as_str().unwrap());
    let (_, messages) = server.get(&path).await;
    messages["items"].as_array().unwrap().iter().find(|it| it["role"] == "assistant").cloned()
}

async fn each_fault_has_its_code_and_what_was_said_is_kept(engine: Engine) {
    let (model, well) = (ModelServer::start().await, ModelServer::start().await);
    let near = model.base_url();
    // A server that speaks no TLS, asked for it.
    let far = near.replace("http://", "https://");
    let fine = well.base_url();
    let server = Server::start_with(
        engine,
        &settings(
            &near,
            &[
                ("AGENTRY_PROVIDERS__TLS__BASE_URL", &far),
                ("AGENTRY_PROVIDERS__WELL__BASE_URL", &fine),
                ("AGENTRY_OUTBOUND__RETRIES_MAX", "0"),
                ("AGENTRY_OUTBOUND__FIRST_BYTE_TIMEOUT_MS", "2500"),
                ("AGENTRY_OUTBOUND__IDLE_TIMEOUT_MS", "3000"),
            ],
        ),
    )
    .await;
    let hi = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n".as_slice();
    let half = [hi, b"data: {\"choices\":[{\"delta\":{\"content\":\"\xC3"].concat();
    let slow = Chunking { token_chars: 1, ..Chunking::default() };
    let one_a_second = Behaviour {
        chunking: slow,
        write_delay: Duration::from_secs(1),
        ..Behaviour::text("abcdefghijklmnop")
    };
    let far_ms = 60_000;
    for (what, behaviour, timeout_ms, code, text) in [
        ("500", Behaviour::error(500, "down"), far_ms, "model_failed", ""),
        (
            "429",
            Behaviour::status(429, &[("retry-after", "7")], "application/json", "{}"),
            far_ms,
            "model_rate_limited",
            "",
        ),
        (
            "garbage",
            Behaviour::events(&[hi, b"data: \x00\x01{]\n\n"]),
            far_ms,
            "model_bad_response",
            "Hi",
        ),
        (
            "not UTF-8",
            Behaviour::events(&[hi, b"data: \xFF\n\n"]),
            far_ms,
            "model_bad_response",
            "Hi",
        ),
        (
            "half closed within a character",
            Behaviour { end: End::CutAfter(1), ..Behaviour::events(&[&half]) },
            far_ms,
            "model_bad_response",
            "Hi",
        ),
        ("one byte a second", one_a_second, 4_500, "run_timed_out", "a"),
        ("never answers", Behaviour::silence(), far_ms, "model_timeout", ""),
        (
            "hangs in the middle",
            Behaviour { end: End::HangAfter(2), ..Behaviour::text("abcdefgh") },
            far_ms,
            "model_timeout",
            "abcd",
        ),
    ] {
        model.next(behaviour);
        let (failed, other) = tokio::join!(
            run(&server, "compatible/near/m", "x", timeout_ms),
            run(&server, "compatible/well/m", "x", far_ms),
        );
        assert_eq!(other["success"], true, "{what}: {other}");
        let took_ms = |run: &Value| run["timings"]["total_ms"].as_f64().unwrap();
        if took_ms(&failed) > 2_000.0 {
            // The other one did not wait for it.
            assert!(took_ms(&other) * 2.0 < took_ms(&failed), "{what}: {other}");
        }
        assert_eq!(failed["error"]["code"], code, "{what}: {failed}");
        assert_eq!(failed["success"], false, "{what}");
        let said = failed["message"].as_str().unwrap_or_default();
        assert!(said.starts_with(text), "{what}: {said:?}");
        let reply = kept(&server, &failed).await;
        assert_eq!(reply.is_some(), !said.is_empty(), "{what}");
        if let Some(reply) = reply {
            assert_eq!(reply["content"], said, "{what}");
            assert_eq!(reply["metadata"]["partial"], true, "{what}: {reply}");
        }
    }
    let failed = run(&server, "compatible/tls/m", "x", far_ms).await;
    assert_eq!(failed["error"]["code"], "model_unreachable", "{failed}");
    // A split character is no fault.
    let chunking = Chunking { write_bytes: Some(1), ..Chunking::default() };
    model.next(Behaviour { chunking, ..Behaviour::text("ä☃🦀") });
    let fine = run(&server, "compatible/near/m", "x", far_ms).await;
    assert_eq!(fine["message"], "ä☃🦀");
}

/// Sends a body that does not end, and gives how much of it was taken.
async fn endless(listener: TcpListener) -> u64 {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = vec![0; 16 * 1_024];
    let _ = socket.read(&mut head).await.unwrap();
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1073741824\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let line = format!(": {}\n", "x".repeat(64 * 1_024));
    let mut taken = 0;
    while taken < 1_073_741_824 && socket.write_all(line.as_bytes()).await.is_ok() {
        taken += line.len() as u64;
    }
    taken
}

async fn a_gigabyte_is_not_read(engine: Engine) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = format!("http://{}/v1", listener.local_addr().unwrap());
    let server =
        Server::start_with(engine, &settings(&near, &[("AGENTRY_OUTBOUND__RETRIES_MAX", "0")]))
            .await;
    let (failed, taken) =
        tokio::join!(run(&server, "compatible/near/m", "x", 60_000), endless(listener));
    assert_eq!(failed["error"]["code"], "model_bad_response", "{failed}");
    // The bound, and what was in the buffers between.
    assert!(taken < 64 * 1_024 * 1_024, "{taken} bytes were taken");
}

async fn metric(server: &Server, name: &str) -> u64 {
    let text = server.request(reqwest::Method::GET, "/metrics").send().await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name) && line.contains("near"));
    let value = line.and_then(|line| line.rsplit(' ').next()).expect("the metric is there");
    value.parse().unwrap()
}

async fn retries_stay_within_their_budget(engine: Engine) {
    let model = ModelServer::start().await;
    let near = model.base_url();
    let server = Server::start_with(
        engine,
        &settings(
            &near,
            &[
                ("AGENTRY_OUTBOUND__RETRY_WAIT_MS", "1"),
                ("AGENTRY_OUTBOUND__BREAKER_FAILURES_MIN", "1000"),
                ("AGENTRY_OUTBOUND__BREAKER_WINDOW_CALLS", "1000"),
            ],
        ),
    )
    .await;
    model.by_default(Behaviour::error(503, "busy"));
    for _ in 0..20 {
        let failed = run(&server, "compatible/near/m", "x", 60_000).await;
        assert_eq!(failed["error"]["code"], "model_failed", "{failed}");
    }
    let sent = model.received().len();
    assert!(sent > 20 && sent <= 24, "20 calls were sent {sent} times");
    assert_eq!(metric(&server, "agentry_model_calls_total").await, 20);
    assert_eq!(metric(&server, "agentry_model_retries_total").await, sent as u64 - 20);
    // What is saved up by calls that go well lets one that fails succeed.
    model.by_default(Behaviour::text("fine"));
    for _ in 0..5 {
        run(&server, "compatible/near/m", "x", 60_000).await;
    }
    model.next(Behaviour::status(429, &[("retry-after", "1")], "application/json", "{}"));
    let begun = Instant::now();
    let again = run(&server, "compatible/near/m", "x", 60_000).await;
    assert_eq!(again["message"], "fine", "{again}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After was not kept");
    // More than `retry_wait_max_ms` is for the caller to wait.
    model.next(Behaviour::status(429, &[("retry-after", "60")], "application/json", "{}"));
    let body =
        json!({"model": "compatible/near/m", "messages": [{"role": "user", "content": "x"}]});
    let answer = server.request(reqwest::Method::POST, "/v1/chat/completions").json(&body);
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
}

async fn a_breaker_opens_and_recovers(engine: Engine) {
    let model = ModelServer::start().await;
    let near = model.base_url();
    let server = Server::start_with(
        engine,
        &settings(
            &near,
            &[
                ("AGENTRY_OUTBOUND__RETRIES_MAX", "0"),
                ("AGENTRY_OUTBOUND__BREAKER_FAILURES_MIN", "3"),
                ("AGENTRY_OUTBOUND__BREAKER_OPEN_MS", "200"),
                ("AGENTRY_OUTBOUND__BREAKER_PROBES", "1"),
                ("AGENTRY_OUTBOUND__BREAKER_RAMP_CALLS", "1"),
            ],
        ),
    )
    .await;
    model.by_default(Behaviour::error(500, "down"));
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "model_circuit_open") {
        let failed = run(&server, "compatible/near/m", "x", 60_000).await;
        codes.push(failed["error"]["code"].as_str().unwrap().to_owned());
        assert!(codes.len() < 20, "it does not open: {codes:?}");
    }
    let sent = model.received().len();
    assert_eq!(sent, 3, "nothing is sent while it is open");
    let body =
        json!({"model": "compatible/near/m", "messages": [{"role": "user", "content": "x"}]});
    let answer = server.request(reqwest::Method::POST, "/v1/chat/completions").json(&body);
    let answer = answer.send().await.unwrap();
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        assert!(answer.headers().contains_key("retry-after"));
    }
    model.by_default(Behaviour::text("back"));
    let until = Instant::now() + Duration::from_secs(30);
    let mut well = 0;
    while well < 10 {
        let run = run(&server, "compatible/near/m", "x", 60_000).await;
        well = if run["success"] == true { well + 1 } else { 0 };
        assert!(Instant::now() < until, "it does not recover: {run}");
    }
    assert_eq!(metric(&server, "agentry_model_breaker{").await, 0);
    assert!(metric(&server, "agentry_model_breaker_opened_total").await >= 1);
    assert!(metric(&server, "agentry_model_calls_refused_total").await >= 1);
}

async fn the_fallback_answers_meanwhile(engine: Engine) {
    let (model, other) = (ModelServer::start().await, ModelServer::start().await);
    let (near, far) = (model.base_url(), other.base_url());
    let more = [
        ("AGENTRY_PROVIDERS__FAR__BASE_URL", far.as_str()),
        ("AGENTRY_OUTBOUND__RETRIES_MAX", "0"),
    ];
    let server = Server::start_with(engine, &settings(&near, &more)).await;
    model.by_default(Behaviour::error(500, "down"));
    other.by_default(Behaviour::text("I am here."));
    let fallbacks = json!(["compatible/far/b", "builtin/recall"]);
    let body = json!({"name": "a", "model": "compatible/near/a", "fallback_models": fallbacks});
    let (status, agent) = server.post("/api/v1/agents", body).await;
    assert_eq!(status, StatusCode::CREATED, "{agent}");
    assert_eq!(agent["fallback_models"], fallbacks);
    let path = format!("/api/v1/agents/{}", agent["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.1["fallback_models"], fallbacks);
    let (_, run) = server.post(&format!("{path}/runs"), json!({"message": "x"})).await;
    assert_eq!(run["message"], "I am here.", "{run}");
    assert_eq!(run["answered_by"], "compatible/far/b", "{run}");
    assert_eq!(run["finish_reason"], "stop", "{run}");
    other.by_default(Behaviour::error(503, "down, too"));
    let (_, run) = server.post(&format!("{path}/runs"), json!({"message": "x"})).await;
    assert_eq!(run["success"], true, "{run}");
    let (_, refused) =
        server.post("/api/v1/agents", json!({"name": "a", "fallback_models": "x"})).await;
    assert_eq!(refused["code"], "validation_failed", "{refused}");
}
