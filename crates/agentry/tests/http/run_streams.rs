//! The events of a run: from any place, after every kind of break, for fast and
//! slow readers, at any process.

use std::process::Command;

use agentry_testkit::{Answer, Behaviour, Chunking, ModelServer, WAIT_MAX};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::run_reader::{Reader, RunStream};
use crate::server::{Engine, Home, Process, Server, wait_until};

on_both_engines! {
    a_run_is_taken_up_again_at_every_place,
    a_reader_comes_back_after_a_break,
    a_run_that_is_killed_begins_again_for_its_readers,
    a_reader_ahead_of_what_is_stored_is_told,
    a_silent_stream_says_that_it_lives,
    a_slow_reader_is_told_and_holds_nobody_up,
    many_read_one_run,
    a_stopping_server_tells_its_readers,
    what_ends_at_once_is_stored_with_its_end_alone,
    a_request_that_comes_again_is_streamed_from_the_start,
    a_failed_run_says_so_in_its_stream,
    what_is_wrong_with_a_place_is_said,
    a_deleted_run_has_no_events,
    a_cancelled_run_ends_for_its_readers_with_what_it_said,
    only_its_client_cancels_a_run_by_leaving,
}

/// Characters of one to four bytes.
const TEXT: &str = "Grüße, 世界! 👋🏽 Ende";

/// Where the server finds the model.
fn near(model: &ModelServer) -> [(&'static str, String); 1] {
    [("AGENTRY_PROVIDERS__NEAR__BASE_URL", model.base_url())]
}

fn start(home: &Home, model: &ModelServer, more: &[(&str, &str)]) -> Process {
    let near = near(model);
    let mut environment: Vec<(&str, &str)> =
        near.iter().map(|(name, value)| (*name, value.as_str())).collect();
    environment.extend(more);
    Process::start_with(home, &environment)
}

/// Makes an agent that asks the model and remembers nothing; where its runs are.
async fn runs_of_agent(process: &Process) -> String {
    let body = json!({
        "name": "llm", "model": "compatible/near/m", "memory": {"recall": false, "remember": false},
    });
    let (status, agent) = process.post("/api/v1/agents", body).await;
    assert_eq!(status, StatusCode::CREATED, "{agent}");
    format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap())
}

/// Starts a run as a stream: its id, and the stream.
async fn stream(process: &Process, path: &str, body: &Value) -> (String, RunStream) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let response = process.request(Method::POST, path).json(&body).send().await.unwrap();
    let run = response.headers()["x-run-id"].to_str().unwrap().to_owned();
    (run, RunStream::of(response))
}

/// A model that says a character with each step.
fn spelt(text: &str) -> Behaviour {
    let chunking = Chunking { token_chars: 1, ..Chunking::default() };
    Behaviour { chunking, stepped: true, ..Behaviour::text(text) }
}

/// More steps than any model takes.
const ALL_STEPS: usize = 1 << 20;

/// The number of bytes of the run's text that the store has by now.
async fn stored_bytes(home: &Home) -> i64 {
    home.number("select coalesce(sum(octet_length(text)), 0) from run_chunk").await
}

async fn a_run_is_taken_up_again_at_every_place(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    // Half of it is said; then the model waits.
    let half: String = TEXT.chars().take(TEXT.chars().count() / 2).collect();
    model.step(1 + half.chars().count());
    let (run, mut first) = stream(&process, &path, &json!({"message": "x"})).await;
    let mut reader = Reader::default();
    reader.read_text(&mut first, half.len()).await;
    assert_eq!(reader.text, half);
    let mut open = Vec::new();
    for offset in 0..=half.len() {
        let boundary = half.floor_char_boundary(offset);
        let mut reader = Reader {
            text: half[..boundary].to_owned(),
            attempt: 1,
            after: Some(format!("1-{offset}")),
            ..Reader::default()
        };
        let response = reader.resume(&process, &run).send().await.unwrap();
        let mut stream = RunStream::of(response);
        reader.read_text(&mut stream, half.len()).await;
        assert_eq!(reader.text, half, "after {offset}");
        // Who claims to have a part of a character is told where it begins.
        assert_eq!(reader.resets, usize::from(boundary != offset), "after {offset}");
        open.push((reader, stream));
    }
    model.step(ALL_STEPS);
    reader.read_to_end(&mut first).await;
    let all = ["run.started", "message.delta", "message.completed", "run.finished"];
    assert_eq!(reader.names, all);
    for (mut reader, mut stream) in open {
        reader.read_to_end(&mut stream).await;
        assert_eq!(reader.text, TEXT);
        assert_eq!(reader.finished.unwrap()["message"], TEXT);
    }
    // It is over, and told again from any place, which comes from the message.
    for offset in 0..=TEXT.len() {
        let boundary = TEXT.floor_char_boundary(offset);
        let mut again =
            Reader { text: TEXT[..boundary].to_owned(), attempt: 1, ..Reader::default() };
        let path = format!("/api/v1/runs/{run}/events?after=1-{offset}");
        let response = process.request(Method::GET, &path).send().await.unwrap();
        again.read_to_end(&mut RunStream::of(response)).await;
        assert_eq!((again.text.as_str(), again.attempt), (TEXT, 1));
        assert_eq!(again.resets, usize::from(boundary != offset), "after {offset}");
        assert_eq!(again.finished, reader.finished);
    }
    let mut whole = Reader::default();
    whole.follow(&process, &run).await;
    assert_eq!((whole.text.as_str(), &whole.names[..]), (TEXT, &reader.names[..]));
    // What comes behind the text is told once too.
    let mut end =
        Reader { after: Some(format!("1-{}-1", TEXT.len())), attempt: 1, ..reader.clone() };
    end.names.clear();
    end.follow(&process, &run).await;
    assert_eq!(end.names, ["run.finished"]);
    let nothing = reader.resume(&process, &run).send().await.unwrap();
    assert_eq!(nothing.status(), StatusCode::NO_CONTENT);
    assert_eq!(stored_bytes(&home).await, 0, "the text is in the message alone");
}

async fn a_reader_comes_back_after_a_break(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    let keyed = process
        .request(Method::POST, &path)
        .header("idempotency-key", "k")
        .json(&json!({"message": "x", "stream": true}));
    let response = keyed.send().await.unwrap();
    let run = response.headers()["x-run-id"].to_str().unwrap().to_owned();
    let mut stream = RunStream::of(response);
    let mut reader = Reader::default();
    model.step(1);
    // Each connection carries a character, and is dropped.
    for said in 1..=TEXT.chars().count() {
        let bytes = TEXT.chars().take(said).map(char::len_utf8).sum();
        model.step(1);
        reader.read_text(&mut stream, bytes).await;
        drop(stream);
        stream = RunStream::of(reader.resume(&process, &run).send().await.unwrap());
    }
    model.step(ALL_STEPS);
    reader.read_to_end(&mut stream).await;
    assert_eq!((reader.text.as_str(), reader.resets), (TEXT, 0));
    assert_eq!(reader.finished.unwrap()["success"], true);
    assert_eq!(model.received().len(), 1);
}

async fn a_run_that_is_killed_begins_again_for_its_readers(engine: Engine) {
    let model = ModelServer::start().await;
    let chunking = Chunking { token_chars: 1, ..Chunking::default() };
    model.by_default(Behaviour { chunking, stepped: true, ..Behaviour::new(Answer::Numbered) });
    let home = Home::new(engine).await;
    let lease = [("AGENTRY_RUNS__LEASE_MS", "1000")];
    let process = start(&home, &model, &lease);
    let path = runs_of_agent(&process).await;
    model.step(12);
    let (run, mut stream) = stream(&process, &path, &json!({"message": "tell me more"})).await;
    let mut reader = Reader::default();
    reader.read_text(&mut stream, 11).await;
    assert_eq!(reader.text, "1: tell me ");
    wait_until(|| async { stored_bytes(&home).await == 11 }).await;
    process.kill();
    while let Some(told) = stream.event().await {
        reader.take(&told);
    }
    let process = start(&home, &model, &lease);
    model.step(ALL_STEPS);
    let mut second = Reader::default();
    tokio::join!(reader.follow(&process, &run), second.follow(&process, &run));
    for reader in [&reader, &second] {
        assert_eq!(reader.text, "2: tell me more");
        assert_eq!(
            (reader.attempt, reader.finished.as_ref().unwrap()["attempt"].as_i64()),
            (2, Some(2))
        );
    }
    assert_eq!(reader.resets, 1);
    assert_eq!(stored_bytes(&home).await, 0);
    assert_eq!(model.said(), ["1: tell me more", "2: tell me more"]);
}

async fn a_reader_ahead_of_what_is_stored_is_told(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(engine).await;
    // Nobody takes the run over while the test looks.
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    model.step(4);
    let (run, mut stream) = stream(&process, &path, &json!({"message": "x"})).await;
    let mut reader = Reader::default();
    reader.read_text(&mut stream, "Grü".len()).await;
    wait_until(|| async { stored_bytes(&home).await == 4 }).await;
    process.kill();
    home.execute("update job set next_at = 9000000000000000").await;
    let process = start(&home, &model, &[]);
    // As if more had come before the crash than was stored.
    reader.text.push_str("ße, lost");
    reader.after = Some(format!("1-{}", reader.text.len()));
    let mut stream = RunStream::of(reader.resume(&process, &run).send().await.unwrap());
    let told = stream.event().await.unwrap();
    assert_eq!((told.name.as_str(), &told.data), ("reset", &json!({"attempt": 1, "offset": 4})));
    reader.take(&told);
    assert_eq!(reader.text, "Grü");
}

async fn a_silent_stream_says_that_it_lives(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::silence());
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    let (run, mut first) = stream(&process, &path, &json!({"message": "x"})).await;
    let response = Reader::default().resume(&process, &run).send().await.unwrap();
    for stream in [&mut first, &mut RunStream::of(response)] {
        assert_eq!(stream.next().await.unwrap().name, "run.started");
        assert_eq!(stream.next().await.unwrap().comment, "heartbeat");
    }
}

async fn a_slow_reader_is_told_and_holds_nobody_up(engine: Engine) {
    // Far more than the buffers of two sockets hold.
    const TEXT_BYTES: usize = 10 * 1_024 * 1_024;
    const TOKEN_BYTES: usize = 16 * 1_024;
    let model = ModelServer::start().await;
    let text = "0123456789abcde\n".repeat(TEXT_BYTES / 16);
    let chunking = Chunking { token_chars: TOKEN_BYTES, ..Chunking::default() };
    model.by_default(Behaviour { chunking, stepped: true, ..Behaviour::text(text.clone()) });
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    // The slow one is the run's client, whose leaving would cancel it.
    let (run, mut asleep) = stream(&process, &path, &json!({"message": "x"})).await;
    let (mut slow, mut reader) = (Reader::default(), Reader::default());
    slow.take(&asleep.event().await.unwrap());
    let mut fast = RunStream::of(reader.resume(&process, &run).send().await.unwrap());
    model.step(1);
    // As fast as the fast one reads, so that it alone says how fast that is.
    while reader.text.len() < TEXT_BYTES {
        model.step(8);
        reader.read_text(&mut fast, reader.text.len() + 8 * TOKEN_BYTES).await;
    }
    // It had what there was, and then it fell behind.
    slow.read_to_end(&mut asleep).await;
    assert_eq!(slow.names.last().unwrap(), "reconnect");
    assert!(slow.text.len() < TEXT_BYTES && slow.finished.is_none());
    // What it missed comes out of the store while the run goes on.
    let mut again = RunStream::of(slow.resume(&process, &run).send().await.unwrap());
    slow.read_text(&mut again, TEXT_BYTES).await;
    model.step(ALL_STEPS);
    tokio::join!(slow.read_to_end(&mut again), reader.read_to_end(&mut fast));
    for reader in [&slow, &reader] {
        assert!(reader.text == text && reader.resets == 0);
        assert_eq!(reader.finished.as_ref().unwrap()["success"], true);
    }
}

async fn many_read_one_run(engine: Engine) {
    const READERS: usize = 100;
    let model = ModelServer::start().await;
    let text = TEXT.repeat(20);
    model.by_default(spelt(&text));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    let (run, mut first) = stream(&process, &path, &json!({"message": "x"})).await;
    let readers = (0..READERS).map(|nth| {
        let (process, run, model, text) = (&process, &run, &model, &text);
        async move {
            let mut reader = Reader::default();
            let mut stream = RunStream::of(reader.resume(process, run).send().await.unwrap());
            model.step(2 + nth % 3);
            // Some drop, and come back.
            if nth % 4 == 0 {
                reader.read_text(&mut stream, 1 + nth % 40).await;
                stream = RunStream::of(reader.resume(process, run).send().await.unwrap());
            }
            if nth == READERS - 1 {
                model.step(ALL_STEPS);
            }
            reader.read_to_end(&mut stream).await;
            assert!(reader.text == *text && reader.resets == 0);
        }
    });
    let mut reader = Reader::default();
    tokio::join!(join_all(readers), reader.read_to_end(&mut first));
    assert_eq!(reader.finished.unwrap()["message"], text);
    assert_eq!(model.received().len(), 1);
}

async fn a_stopping_server_tells_its_readers(engine: Engine) {
    let model = ModelServer::start().await;
    model.next(spelt("unheard of"));
    let home = Home::new(engine).await;
    let settings = [("AGENTRY_HTTP__DRAIN_MS", "1000"), ("AGENTRY_RUNS__LEASE_MS", "2000")];
    let process = start(&home, &model, &settings);
    let path = runs_of_agent(&process).await;
    model.step(6);
    let (run, mut first) = stream(&process, &path, &json!({"message": "x"})).await;
    let mut one = Reader::default();
    one.read_text(&mut first, 5).await;
    let mut two = Reader::default();
    let mut second = RunStream::of(two.resume(&process, &run).send().await.unwrap());
    let stopped = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
    assert!(stopped.unwrap().success());
    tokio::join!(one.read_to_end(&mut first), two.read_to_end(&mut second));
    for reader in [&one, &two] {
        assert_eq!(reader.names.last().unwrap(), "reconnect");
        assert_eq!(reader.text, "unhea");
    }
    // Before it gives up on the run, whose model says nothing more.
    process.kill();
    model.by_default(Behaviour::text("begun again"));
    let process = start(&home, &model, &settings);
    one.follow(&process, &run).await;
    assert_eq!((one.text.as_str(), one.attempt), ("begun again", 2));
    assert!(one.finished.is_some());
}

async fn what_ends_at_once_is_stored_with_its_end_alone(engine: Engine) {
    const RUNS: i64 = 20;
    let model = ModelServer::start().await;
    // More than what is stored at once when a run lasts.
    model.by_default(Behaviour::text("All of it at once. ".repeat(500)));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    let writes = || async {
        let metrics = process.request(Method::GET, "/metrics").send().await.unwrap();
        let text = metrics.text().await.unwrap();
        let line =
            text.lines().find(|line| line.starts_with("agentry_store_writes_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as i64
    };
    let before = writes().await;
    for _ in 0..RUNS {
        let body = json!({"message": "hello", "user_id": "u"});
        let (status, run) = process.post("/api/v1/agent/simple/run", body).await;
        assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
    }
    // The lease is renewed now and then.
    let recalled = writes().await - before;
    assert!((2 * RUNS..2 * RUNS + 4).contains(&recalled), "{recalled} writes");
    let (_, mut events) = stream(&process, &path, &json!({"message": "x"})).await;
    let mut reader = Reader::default();
    reader.read_to_end(&mut events).await;
    assert_eq!(reader.finished.unwrap()["success"], true);
}

async fn a_request_that_comes_again_is_streamed_from_the_start(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    let send = || {
        let body = json!({"message": "x", "stream": true});
        process.request(Method::POST, &path).header("idempotency-key", "once").json(&body).send()
    };
    model.step(6);
    let mut first = RunStream::of(send().await.unwrap());
    let mut one = Reader::default();
    one.read_text(&mut first, 4).await;
    let again = send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let mut again = RunStream::of(again);
    let mut two = Reader::default();
    two.read_text(&mut again, 4).await;
    model.step(ALL_STEPS);
    tokio::join!(one.read_to_end(&mut first), two.read_to_end(&mut again));
    let mut three = Reader::default();
    three.read_to_end(&mut RunStream::of(send().await.unwrap())).await;
    for reader in [&one, &two, &three] {
        assert_eq!(reader.text, TEXT);
        assert_eq!(reader.names, one.names);
        assert_eq!(reader.finished, one.finished);
    }
    assert_eq!(model.received().len(), 1);
}

async fn a_failed_run_says_so_in_its_stream(engine: Engine) {
    let model = ModelServer::start().await;
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    model.next(Behaviour::error(500, "broken"));
    let (run, mut events) = stream(&process, &path, &json!({"message": "x"})).await;
    let mut reader = Reader::default();
    reader.read_to_end(&mut events).await;
    assert_eq!(reader.names, ["run.started", "run.finished"]);
    assert_eq!(reader.finished.as_ref().unwrap()["error"]["code"], "model_failed");
    let mut again = Reader::default();
    again.follow(&process, &run).await;
    assert_eq!((again.names, again.finished), (reader.names, reader.finished));
}

async fn what_is_wrong_with_a_place_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, run) = server.post("/api/v1/agent/simple/run", json!({"message": "x"})).await;
    let path = format!("/api/v1/runs/{}/events", run["id"].as_str().unwrap());
    for wrong in ["7", "a-b", "1-2-3", "-1-2", "1-1-1-1"] {
        let (status, problem) = server.get(&format!("{path}?after={wrong}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
        assert_eq!(problem["errors"][0]["pointer"], "after", "{problem}");
        let by_header = server.request(Method::GET, &path).header("last-event-id", wrong);
        let (status, problem) = crate::server::answer(by_header).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
        assert_eq!(problem["errors"][0]["pointer"], "header:Last-Event-ID", "{problem}");
    }
    // A place that the run never had is behind or beside it: told, and the end.
    for (after, attempt, offset) in [("1-99999", 1, None), ("7-3", 1, Some(0))] {
        let request = server.request(Method::GET, &format!("{path}?after={after}"));
        let mut stream = RunStream::of(request.send().await.unwrap());
        let told = stream.event().await.unwrap();
        assert_eq!((told.name.as_str(), &told.data["attempt"]), ("reset", &json!(attempt)));
        let length = run["message"].as_str().unwrap().len();
        assert_eq!(told.data["offset"], offset.unwrap_or(length));
    }
    let missing = "/api/v1/runs/01890a5d-ac96-774b-bcce-b302099a8057/events";
    assert_eq!(server.get(missing).await.0, StatusCode::NOT_FOUND);
}

async fn a_deleted_run_has_no_events(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    model.step(3);
    let (run, mut events) = stream(&process, &path, &json!({"message": "x"})).await;
    let mut reader = Reader::default();
    reader.read_text(&mut events, 2).await;
    wait_until(|| async { stored_bytes(&home).await == 2 }).await;
    process.kill();
    // As if it had been deleted while this process was away.
    home.execute("update job set next_at = 9000000000000000").await;
    let process = start(&home, &model, &[]);
    let mut stream = RunStream::of(reader.resume(&process, &run).send().await.unwrap());
    home.execute("delete from run_chunk; delete from job; delete from lane; delete from run").await;
    if engine == Engine::Postgres {
        // Hints come from processes, and this was none: it looks by itself.
        let told = stream.event().await.unwrap();
        assert_eq!((told.name.as_str(), &told.data["run_id"]), ("expired", &json!(run)));
        assert!(stream.event().await.is_none());
    }
    let gone = reader.resume(&process, &run).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

async fn a_cancelled_run_ends_for_its_readers_with_what_it_said(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    model.step(4);
    let (run, mut first) = stream(&process, &path, &json!({"message": "x"})).await;
    let (mut one, mut two) = (Reader::default(), Reader::default());
    one.read_text(&mut first, "Grü".len()).await;
    let mut second = RunStream::of(two.resume(&process, &run).send().await.unwrap());
    two.read_text(&mut second, "Grü".len()).await;
    wait_until(|| async { stored_bytes(&home).await == 4 }).await;
    let cancel = format!("/api/v1/runs/{run}/cancel");
    let (status, cancelled) = process.post(&cancel, json!({})).await;
    assert_eq!((status, &cancelled["status"]), (StatusCode::OK, &json!("cancelled")));
    tokio::join!(one.read_to_end(&mut first), two.read_to_end(&mut second));
    let mut late = Reader::default();
    late.follow(&process, &run).await;
    for reader in [&one, &two, &late] {
        assert_eq!((reader.text.as_str(), reader.resets), ("Grü", 0));
        let end = ["run.started", "message.delta", "message.completed", "run.finished"];
        assert_eq!(reader.names, end);
        assert_eq!(reader.finished.as_ref(), Some(&cancelled));
    }
    assert_eq!(stored_bytes(&home).await, 0, "the text is in the message alone");
}

async fn only_its_client_cancels_a_run_by_leaving(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(engine).await;
    let process = start(&home, &model, &[]);
    let path = runs_of_agent(&process).await;
    model.step(2);
    let (run, mut first) = stream(&process, &path, &json!({"message": "x"})).await;
    let (mut one, mut two) = (Reader::default(), Reader::default());
    one.read_text(&mut first, 1).await;
    let mut second = RunStream::of(two.resume(&process, &run).send().await.unwrap());
    two.read_text(&mut second, 1).await;
    drop(second);
    model.step(2);
    one.read_text(&mut first, "Grü".len()).await;
    drop(first);
    two.follow(&process, &run).await;
    assert_eq!(two.text, "Grü");
    assert_eq!(two.finished.unwrap()["status"], "cancelled");
}

/// A run that one process carries out is followed and waited for at another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_tells_the_same() {
    let model = ModelServer::start().await;
    model.by_default(spelt(TEXT));
    let home = Home::new(Engine::Postgres).await;
    let [here, there] = [start(&home, &model, &[]), start(&home, &model, &[])];
    let path = runs_of_agent(&here).await;
    let (_, session) = here.post("/api/v1/sessions", json!({})).await;
    // The one who started it goes away, and comes back elsewhere.
    let body = json!({"message": "x", "session_id": session["id"], "on_disconnect": "continue"});
    model.step(1);
    let (run, mut first) = stream(&here, &path, &body).await;
    let mut one = Reader::default();
    let mut two = Reader::default();
    let mut second = RunStream::of(two.resume(&there, &run).send().await.unwrap());
    // The same session is busy: this one waits, there.
    let mut keyed = body.clone();
    keyed["message"] = json!("y");
    let waiting = tokio::spawn(there.request(Method::POST, &path).json(&keyed).send());
    let list = format!("/api/v1/runs?session_id={}", session["id"].as_str().unwrap());
    wait_until(|| async { here.get(&list).await.1["items"].as_array().unwrap().len() == 2 }).await;
    for said in 1..=TEXT.chars().count() / 2 {
        let bytes = TEXT.chars().take(said).map(char::len_utf8).sum();
        model.step(1);
        tokio::join!(one.read_text(&mut first, bytes), two.read_text(&mut second, bytes));
        assert_eq!(one.text, two.text);
    }
    // They change places, with what they had.
    first = RunStream::of(two.resume(&here, &run).send().await.unwrap());
    second = RunStream::of(one.resume(&there, &run).send().await.unwrap());
    model.step(ALL_STEPS);
    tokio::join!(two.read_to_end(&mut first), one.read_to_end(&mut second));
    for reader in [&one, &two] {
        assert_eq!((reader.text.as_str(), reader.resets), (TEXT, 0));
        assert_eq!(reader.finished, one.finished);
    }
    let next = tokio::time::timeout(WAIT_MAX, waiting).await.unwrap().unwrap().unwrap();
    let next: Value = next.json().await.unwrap();
    assert_eq!((&next["message"], &next["success"]), (&json!(TEXT), &json!(true)), "{next}");
}

/// A process that is killed: its readers go on at another, which takes the run over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_moves_to_another_process_with_its_readers() {
    let model = ModelServer::start().await;
    let chunking = Chunking { token_chars: 1, ..Chunking::default() };
    model.by_default(Behaviour { chunking, stepped: true, ..Behaviour::new(Answer::Numbered) });
    let home = Home::new(Engine::Postgres).await;
    let lease = [("AGENTRY_RUNS__LEASE_MS", "1000")];
    let [here, there] = [start(&home, &model, &lease), start(&home, &model, &lease)];
    let path = runs_of_agent(&here).await;
    model.step(9);
    let (run, mut first) = stream(&here, &path, &json!({"message": "who goes there"})).await;
    let (mut one, mut two) = (Reader::default(), Reader::default());
    one.read_text(&mut first, 8).await;
    let mut second = RunStream::of(two.resume(&there, &run).send().await.unwrap());
    two.read_text(&mut second, 8).await;
    here.kill();
    model.step(ALL_STEPS);
    one.read_to_end(&mut first).await;
    tokio::join!(one.follow(&there, &run), two.read_to_end(&mut second));
    for reader in [&one, &two] {
        assert_eq!((reader.text.as_str(), reader.resets), ("2: who goes there", 1));
        assert!(reader.finished.is_some());
    }
}
