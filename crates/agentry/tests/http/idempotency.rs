//! `Idempotency-Key`: however often a request is sent, it takes effect once,
//! and everybody hears the first answer.

use std::collections::BTreeSet;

use agentry_testkit::{Behaviour, ModelServer, TcpChaos};
use futures::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, wait_until};

on_both_engines! {
    fifty_at_once_have_one_effect,
    a_key_belongs_to_one_body_one_caller_and_one_path,
    what_was_changed_or_deleted_still_has_its_first_answer,
    a_long_answer_points_at_what_it_was_about,
    what_is_no_key_is_refused,
    a_refused_request_may_be_mended_and_sent_again,
    a_replay_of_a_run_waits_for_it,
    a_failed_run_stays_failed,
    an_answer_that_a_kill_swallowed_is_given_after_the_restart,
    a_run_that_a_kill_swallowed_is_the_same_run_after_the_restart,
}

/// So many send the same request at once.
const AT_ONCE: usize = 50;
const RUN: &str = "/api/v1/agent/simple/run";
const CHAT: &str = "/v1/chat/completions";

/// One answer.
#[derive(Clone, Debug, PartialEq)]
struct Heard {
    status: StatusCode,
    replayed: bool,
    location: Option<String>,
    body: String,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

async fn hear(request: RequestBuilder) -> Heard {
    let response = request.send().await.unwrap();
    let header =
        |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (replayed, location) = (header("idempotency-replayed"), header("location"));
    assert!(replayed.as_deref().is_none_or(|value| value == "true"));
    Heard {
        status: response.status(),
        replayed: replayed.is_some(),
        location,
        body: response.text().await.unwrap(),
    }
}

fn keyed(server: &Process, path: &str, key: &str, body: &Value) -> RequestBuilder {
    server.request(Method::POST, path).header("idempotency-key", key).json(body)
}

async fn send(server: &Process, path: &str, key: &str, body: &Value) -> Heard {
    hear(keyed(server, path, key, body)).await
}

/// The things that a list shows.
async fn items(server: &Process, list: &str) -> Vec<Value> {
    server.get(list).await.1["items"].as_array().unwrap().clone()
}

/// Sends one request so many times at once: all answers are equal, and all but
/// one say that they are replays.
async fn storm(server: &Process, path: &str, body: &Value) -> Heard {
    let key = format!("storm of {path} with {body}").chars().take(255).collect::<String>();
    let all = join_all((0..AT_ONCE).map(|_| send(server, path, &key, body))).await;
    let first: Vec<&Heard> = all.iter().filter(|heard| !heard.replayed).collect();
    assert_eq!(first.len(), 1, "{path}: {first:?}");
    assert!(first[0].status.is_success(), "{path}: {first:?}");
    for heard in &all {
        let expected = Heard { replayed: heard.replayed, ..first[0].clone() };
        assert_eq!(*heard, expected, "{path}");
    }
    let again = send(server, path, &key, body).await;
    assert_eq!(again, Heard { replayed: true, ..first[0].clone() }, "{path}");
    first[0].clone()
}

async fn fifty_at_once_have_one_effect(engine: Engine) {
    let server = Server::start(engine).await;

    let agent = storm(&server, "/api/v1/agents", &json!({"name": "only one"})).await;
    let named = items(&server, "/api/v1/agents?name=only%20one").await;
    assert_eq!(named, [agent.json()]);
    assert_eq!(
        agent.location.unwrap(),
        format!("/api/v1/agents/{}", named[0]["id"].as_str().unwrap())
    );

    let body = json!({"session_name": "desk", "user_id": "ann"});
    let session = storm(&server, "/api/v1/sessions", &body).await.json();
    assert_eq!(
        items(&server, "/api/v1/sessions?user_id=ann").await,
        std::slice::from_ref(&session)
    );

    let messages = format!("/api/v1/sessions/{}/messages", session["id"].as_str().unwrap());
    let body = json!({"role": "user", "content": "once upon a time", "metadata": {"n": 1.5}});
    let message = storm(&server, &messages, &body).await;
    assert_eq!(items(&server, &messages).await, [message.json()]);

    // Without a session, in one that there is, and in one that comes with the run.
    for (place, messages_there) in [
        (json!({}), 2),
        (json!({"session_id": session["id"]}), 3),
        (json!({"session_name": "made on the way", "user_id": "bob"}), 2),
    ] {
        let mut body = json!({"message": "hello"});
        body.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        let run = storm(&server, RUN, &body).await.json();
        assert_eq!(run["success"], true);
        let of_session = run["session_id"].as_str().unwrap();
        let runs = items(&server, &format!("/api/v1/runs?session_id={of_session}")).await;
        assert_eq!(runs, std::slice::from_ref(&run));
        let said = items(&server, &format!("/api/v1/sessions/{of_session}/messages")).await;
        assert_eq!(said.len(), messages_there, "{said:?}");
    }

    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": "simple", "messages": messages, "user": "cy",
        "metadata": {"session_name": "chat"}});
    let chat = storm(&server, CHAT, &body).await.json();
    let runs = items(&server, "/api/v1/runs?user_id=cy").await;
    assert_eq!(runs.len(), 1);
    assert_eq!(chat["id"], format!("chatcmpl-{}", runs[0]["run_id"].as_str().unwrap()));
}

async fn a_key_belongs_to_one_body_one_caller_and_one_path(engine: Engine) {
    let server = Server::start(engine).await;
    let first = send(&server, "/api/v1/agents", "k", &json!({"name": "a"})).await;
    assert_eq!((first.status, first.replayed), (StatusCode::CREATED, false));
    for (path, other) in
        [("/api/v1/agents", json!({"name": "b"})), ("/api/v1/agents/", json!({"name": "b"}))]
    {
        let heard = send(&server, path, "k", &other).await;
        assert_eq!(heard.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(heard.code(), "idempotency_key_reused");
    }
    assert!(items(&server, "/api/v1/agents?name=b").await.is_empty());
    // The slash at the end is none of the path.
    let heard = send(&server, "/api/v1/agents/", "k", &json!({"name": "a"})).await;
    assert_eq!(heard, Heard { replayed: true, ..first });
    // The same key elsewhere is another request.
    let heard = send(&server, "/api/v1/sessions", "k", &json!({"name": "a"})).await;
    assert_eq!((heard.status, heard.replayed), (StatusCode::CREATED, false));
    let agent = first_id(&server).await;
    let runs = format!("/api/v1/agents/{agent}/runs");
    let by_id = send(&server, &runs, "k", &json!({"message": "x"})).await;
    let by_name = send(&server, RUN, "k", &json!({"message": "x"})).await;
    assert!(!by_id.replayed && !by_name.replayed);
    assert_ne!(by_id.json()["run_id"], by_name.json()["run_id"]);
}

async fn first_id(server: &Process) -> String {
    let (_, list) = server.get("/api/v1/agent/list").await;
    let simple = list.as_array().unwrap().iter().find(|agent| agent["name"] == "simple_agent");
    simple.unwrap()["id"].as_str().unwrap().to_owned()
}

async fn what_was_changed_or_deleted_still_has_its_first_answer(engine: Engine) {
    let server = Server::start(engine).await;
    for (list, body) in [
        ("/api/v1/agents", json!({"name": "a", "metadata": {"n": 1}})),
        ("/api/v1/sessions", json!({"session_name": "a", "metadata": {"n": 1}})),
    ] {
        let first = send(&server, list, "k", &body).await;
        let replay = Heard { replayed: true, ..first.clone() };
        let path = format!("{list}/{}", first.json()["id"].as_str().unwrap());
        let (status, _) = server.patch(&path, json!({"metadata": {"n": 2}})).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(send(&server, list, "k", &body).await, replay);
        assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
        assert_eq!(send(&server, list, "k", &body).await, replay);
        assert_eq!(server.get(&path).await.0, StatusCode::NOT_FOUND);
    }
    let (_, session) = server.post("/api/v1/sessions", json!({"session_name": "b"})).await;
    let body = json!({"role": "user", "content": "kept in mind"});
    let first = send(&server, "/api/v1/sessions/b/messages", "m", &body).await;
    let said = json!({"message": "hi", "session_id": session["id"]});
    let run = send(&server, RUN, "r", &said).await;
    assert_eq!(run.status, StatusCode::OK);
    let path = format!("/api/v1/sessions/{}", session["id"].as_str().unwrap());
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    let again = send(&server, "/api/v1/sessions/b/messages", "m", &body).await;
    assert_eq!(again, Heard { replayed: true, ..first });
    // A run is remembered as itself: when it went with its session there is none
    // to answer with, and no other one is made.
    let again = send(&server, RUN, "r", &said).await;
    assert_eq!((again.status, again.code()), (StatusCode::NOT_FOUND, "not_found".to_owned()));
}

async fn a_long_answer_points_at_what_it_was_about(engine: Engine) {
    let server = Server::start(engine).await;
    let body = json!({"name": "long", "instructions": "x".repeat(70_000)});
    let first = send(&server, "/api/v1/agents", "k", &body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let replay = Heard { replayed: true, ..first.clone() };
    assert_eq!(send(&server, "/api/v1/agents", "k", &body).await, replay);
    let path = format!("/api/v1/agents/{}", first.json()["id"].as_str().unwrap());
    let (_, patched) = server.patch(&path, json!({"description": "new"})).await;
    assert_eq!(send(&server, "/api/v1/agents", "k", &body).await.json(), patched);
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    assert_eq!(send(&server, "/api/v1/agents", "k", &body).await.status, StatusCode::NOT_FOUND);
    assert!(items(&server, "/api/v1/agents?name=long").await.is_empty());

    let (_, session) = server.post("/api/v1/sessions", json!({})).await;
    let messages = format!("/api/v1/sessions/{}/messages", session["id"].as_str().unwrap());
    let body = json!({"role": "user", "content": "y".repeat(70_000)});
    let first = send(&server, &messages, "k", &body).await;
    let replay = Heard { replayed: true, ..first };
    assert_eq!(send(&server, &messages, "k", &body).await, replay);
}

async fn what_is_no_key_is_refused(engine: Engine) {
    let server = Server::start(engine).await;
    let body = json!({"name": "never"});
    for key in [&b""[..], b" ", &[b'k'; 256], "schlüssel".as_bytes(), b"a\tb"] {
        let key = reqwest::header::HeaderValue::from_bytes(key).unwrap();
        let request = server.request(Method::POST, "/api/v1/agents").json(&body);
        let heard = hear(request.header("idempotency-key", &key)).await;
        assert_eq!(heard.status, StatusCode::UNPROCESSABLE_ENTITY, "{key:?}");
        assert_eq!(heard.json()["errors"][0]["pointer"], "header:Idempotency-Key", "{key:?}");
    }
    let two = server.request(Method::POST, "/api/v1/agents").json(&body);
    let two = two.header("idempotency-key", "a").header("idempotency-key", "b");
    assert_eq!(hear(two).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(items(&server, "/api/v1/agents?name=never").await.is_empty());
    let longest = "k".repeat(255);
    let heard = send(&server, "/api/v1/agents", &longest, &body).await;
    assert_eq!(heard.status, StatusCode::CREATED);
    assert!(send(&server, "/api/v1/agents", &longest, &body).await.replayed);
}

async fn a_refused_request_may_be_mended_and_sent_again(engine: Engine) {
    let server = Server::start(engine).await;
    let refused = send(&server, "/api/v1/agents", "k", &json!({"name": 7})).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    // It had no effect, so the key means nothing yet.
    let made = send(&server, "/api/v1/agents", "k", &json!({"name": "7"})).await;
    assert_eq!((made.status, made.replayed), (StatusCode::CREATED, false));
    let missing = "/api/v1/sessions/nobody/messages";
    let body = json!({"role": "user", "content": "x"});
    assert_eq!(send(&server, missing, "k", &body).await.status, StatusCode::NOT_FOUND);
    server.post("/api/v1/sessions", json!({"session_name": "nobody"})).await;
    let heard = send(&server, missing, "k", &body).await;
    assert_eq!((heard.status, heard.replayed), (StatusCode::CREATED, false));
}

/// A server with an agent whose model is this one, and the path of its runs.
async fn with_model(home: &Home, model: &ModelServer) -> (Process, String) {
    let process = restart_with_model(home, model);
    let (status, agent) =
        process.post("/api/v1/agents", json!({"name": "llm", "model": "compatible/near/m"})).await;
    assert_eq!(status, StatusCode::CREATED);
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    (process, path)
}

fn restart_with_model(home: &Home, model: &ModelServer) -> Process {
    let url = model.base_url();
    // On PostgreSQL the next process waits for the lease to end.
    let settings =
        [("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str()), ("AGENTRY_RUNS__LEASE_MS", "1000")];
    Process::start_with(home, &settings)
}

/// The names and the data of a stream's events.
fn events(stream: &str) -> Vec<(String, Value)> {
    let field = |event: &str, name: &str| {
        event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    stream
        .split("\n\n")
        .filter(|event| event.contains("data:"))
        .map(|event| {
            let data = field(event, "data:");
            (field(event, "event:"), serde_json::from_str(&data).unwrap_or(Value::Null))
        })
        .collect()
}

/// What a stream of a run says in all: its names without repetitions, its text.
fn told(stream: &str) -> (Vec<String>, String, Value) {
    let events = events(stream);
    let mut names: Vec<String> = events.iter().map(|(name, _)| name.clone()).collect();
    names.dedup();
    let pieces = events.iter().filter(|(name, _)| name == "message.delta");
    let text = pieces.map(|(_, data)| data["text"].as_str().unwrap()).collect();
    (names, text, events.last().unwrap().1.clone())
}

async fn a_replay_of_a_run_waits_for_it(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("Patience brings roses, they say."));
    model.hold();
    let home = Home::new(engine).await;
    let (server, runs) = with_model(&home, &model).await;
    let bodies = [
        (runs.as_str(), json!({"message": "x", "session_name": "whole"})),
        (runs.as_str(), json!({"message": "x", "session_name": "streamed", "stream": true})),
        (CHAT, json!({"model": "llm", "messages": [{"role": "user", "content": "x"}]})),
        (
            CHAT,
            json!({"model": "llm", "messages": [{"role": "user", "content": "x"}],
            "stream": true}),
        ),
    ];
    for (round, (path, body)) in bodies.iter().enumerate() {
        let key = format!("round {round}");
        let first = tokio::spawn(hear(keyed(&server, path, &key, body)));
        model.wait_held(1).await;
        // Those come while it goes on.
        let others: Vec<_> = (0..AT_ONCE - 1)
            .map(|_| tokio::spawn(hear(keyed(&server, path, &key, body))))
            .collect();
        // A run goes on when whoever asked for it went away, and who comes
        // later hears of it.
        let gone = tokio::spawn(hear(keyed(&server, path, &key, body)));
        gone.abort();
        model.release();
        let first = first.await.unwrap();
        assert_eq!((first.status, first.replayed), (StatusCode::OK, false));
        let late = hear(keyed(&server, path, &key, body)).await;
        let mut others: Vec<Heard> =
            join_all(others).await.into_iter().map(Result::unwrap).collect();
        others.push(late);
        for other in others {
            assert_eq!((other.status, other.replayed), (StatusCode::OK, true));
            if body["stream"] == true && *path != CHAT {
                assert_eq!(told(&other.body), told(&first.body));
                let (names, text, run) = told(&other.body);
                assert_eq!(
                    names,
                    ["run.started", "message.delta", "message.completed", "run.finished"]
                );
                assert_eq!(text, "Patience brings roses, they say.");
                assert_eq!(run["message"], text);
            } else if body["stream"] == true {
                assert_eq!(chunks(&other.body), chunks(&first.body));
            } else {
                assert_eq!(other.body, first.body);
            }
        }
        model.hold();
    }
    model.release();
    // One call of the model each.
    assert_eq!(model.received().len(), bodies.len());
    assert_eq!(items(&server, "/api/v1/runs").await.len(), bodies.len());
}

/// Ids and text of a streamed completion, which must end as such.
fn chunks(stream: &str) -> (BTreeSet<String>, String) {
    assert!(stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    let events = events(stream);
    let said = events.iter().filter(|(_, data)| !data.is_null());
    let ids = said.clone().map(|(_, data)| data["id"].as_str().unwrap().to_owned()).collect();
    let text = said.filter_map(|(_, data)| data["choices"][0]["delta"]["content"].as_str());
    (ids, text.collect())
}

async fn a_failed_run_stays_failed(engine: Engine) {
    let model = ModelServer::start().await;
    let home = Home::new(engine).await;
    let (server, runs) = with_model(&home, &model).await;
    model.next(Behaviour::error(401, "who are you"));
    let body = json!({"message": "x"});
    let first = send(&server, &runs, "k", &body).await;
    assert_eq!(first.json()["status"], "failed");
    assert_eq!(send(&server, &runs, "k", &body).await, Heard { replayed: true, ..first });
    model.next(Behaviour::error(401, "who are you"));
    let body = json!({"model": "llm", "messages": [{"role": "user", "content": "x"}]});
    let first = send(&server, CHAT, "k", &body).await;
    assert_eq!(first.status, StatusCode::BAD_GATEWAY);
    let again = send(&server, CHAT, "k", &body).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    assert_eq!(model.received().len(), 2);
}

/// Each kind of request takes effect, its answer is lost with the process, and
/// the same request to the next process is answered with the same thing.
async fn an_answer_that_a_kill_swallowed_is_given_after_the_restart(engine: Engine) {
    let home = Home::new(engine).await;
    let mut process = Process::start(&home);
    process.post("/api/v1/sessions", json!({"session_name": "there"})).await;
    let chat = json!({"model": "simple", "messages": [{"role": "user", "content": "x"}]});
    for (path, body, list) in [
        ("/api/v1/agents", json!({"name": "kept"}), "/api/v1/agents?name=kept"),
        ("/api/v1/sessions", json!({"user_id": "kept"}), "/api/v1/sessions?user_id=kept"),
        (
            "/api/v1/sessions/there/messages",
            json!({"role": "user", "content": "x"}),
            "/api/v1/sessions/there/messages",
        ),
        (RUN, json!({"message": "x", "user_id": "kept"}), "/api/v1/runs?user_id=kept"),
        (CHAT, with(&chat, "user", json!("chat")), "/api/v1/runs?user_id=chat"),
    ] {
        // Requests pass through, answers do not.
        let chaos = TcpChaos::start(process.url.strip_prefix("http://").unwrap().parse().unwrap());
        let chaos = chaos.await;
        chaos.stall_answers();
        let request = process
            .client
            .post(format!("http://{}{path}", chaos.address()))
            .header("x-api-key", &process.key)
            .header("idempotency-key", "k")
            .json(&body);
        let lost = tokio::spawn(request.send());
        wait_until(|| async { items(&process, list).await.len() == 1 }).await;
        process.kill();
        chaos.cut();
        assert!(lost.await.unwrap().is_err());
        process = Process::start(&home);
        let made = items(&process, list).await;
        let heard = send(&process, path, "k", &body).await;
        assert!(heard.status.is_success() && heard.replayed, "{heard:?}");
        match path {
            CHAT => {
                let id = made[0]["run_id"].as_str().unwrap();
                assert_eq!(heard.json()["id"], format!("chatcmpl-{id}"));
            }
            RUN => assert_eq!(heard.json()["run_id"], made[0]["run_id"]),
            _ => assert_eq!(heard.json(), made[0]),
        }
        assert_eq!(items(&process, list).await.len(), 1);
    }
}

fn with(body: &Value, field: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[field] = value;
    body
}

async fn a_run_that_a_kill_swallowed_is_the_same_run_after_the_restart(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("at last"));
    model.hold();
    let home = Home::new(engine).await;
    let (process, runs) = with_model(&home, &model).await;
    let (_, session) = process.post("/api/v1/sessions", json!({})).await;
    let list = format!("/api/v1/runs?order=asc&session_id={}", session["id"].as_str().unwrap());
    let body =
        |n| json!({"message": format!("m{n}"), "session_id": session["id"], "stream": n == 1});
    // One is begun, one waits behind it.
    for n in 0..2 {
        let request = keyed(&process, &runs, &format!("k{n}"), &body(n));
        tokio::spawn(request.send());
        wait_until(|| async { items(&process, &list).await.len() == n + 1 }).await;
    }
    model.wait_held(1).await;
    let before = items(&process, &list).await;
    process.kill();
    let process = restart_with_model(&home, &model);
    let again: Vec<_> = (0..2)
        .map(|n| tokio::spawn(hear(keyed(&process, &runs, &format!("k{n}"), &body(n)))))
        .collect();
    model.release();
    let heard: Vec<Heard> = join_all(again).await.into_iter().map(Result::unwrap).collect();
    assert!(heard.iter().all(|heard| heard.status == StatusCode::OK && heard.replayed));
    let after = items(&process, &list).await;
    assert_eq!(after.len(), 2);
    assert_eq!(heard[0].json(), after[0]);
    let (names, text, run) = told(&heard[1].body);
    assert_eq!((names[0].as_str(), text.as_str(), &run), ("run.started", "at last", &after[1]));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["run_id"], after["run_id"]);
        assert_eq!(after["message"], "at last");
    }
    assert_eq!((&after[0]["attempt"], &after[1]["attempt"]), (&json!(2), &json!(1)));
}
