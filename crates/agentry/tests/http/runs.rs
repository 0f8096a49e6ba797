//! Runs: a conversation, its order, its memory and its failures.

use std::collections::BTreeSet;

use agentry_testkit::{Behaviour, ModelServer};
use futures::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Server, wait_until};

on_both_engines! {
    a_run_without_a_session_gets_its_own,
    a_fact_is_found_among_a_thousand_others,
    what_nothing_answers_is_said_to_be_nothing,
    users_do_not_hear_of_each_other,
    runs_of_one_session_go_in_order,
    a_model_is_shown_history_and_memory,
    a_failing_model_is_a_failed_run,
    a_run_streams,
    a_slow_run_is_timed_out,
    a_full_queue_says_so,
    names_find_agents_and_say_when_they_are_ambiguous,
    what_is_wrong_is_said,
}

const RUN: &str = "/api/v1/agent/simple/run";

/// A server whose provider `near` is this one.
async fn with_model(engine: Engine, model: &ModelServer) -> Server {
    let url = model.base_url();
    Server::start_with(engine, &[("AGENTRY_PROVIDERS__NEAR__BASE_URL", &url)]).await
}

async fn agent_with_model(server: &Server) -> String {
    let (status, agent) = server
        .post(
            "/api/v1/agents",
            json!({"name": "llm", "model": "compatible/near/m", "instructions": "Be brief."}),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED);
    agent["id"].as_str().unwrap().to_owned()
}

async fn a_run_without_a_session_gets_its_own(engine: Engine) {
    let server = Server::start(engine).await;
    let runs = (0..20).map(|_| server.post(RUN, json!({"message": "hello"})));
    let mut sessions = BTreeSet::new();
    for (status, run) in futures::future::join_all(runs).await {
        assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
        assert_eq!(run["status"], "succeeded");
        assert_eq!(run["input"], "hello");
        let id = run["run_id"].as_str().unwrap();
        assert_eq!(server.get(&format!("/api/v1/runs/{id}")).await.1["message"], run["message"]);
        sessions.insert(run["session_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(sessions.len(), 20);
}

async fn say(server: &Server, user: &str, session: &str, message: &str) -> String {
    let body = json!({"message": message, "user_id": user, "session_name": session});
    let (status, run) = server.post(RUN, body).await;
    assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
    run["message"].as_str().unwrap().to_owned()
}

/// Sentences that have nothing to do with the facts.
fn distractor(n: usize) -> String {
    const THINGS: [&str; 10] = [
        "train", "garden", "invoice", "recipe", "guitar", "museum", "printer", "bicycle",
        "meeting", "lamp",
    ];
    const DEEDS: [&str; 7] = [
        "was late",
        "needs repair",
        "looked lovely",
        "cost too much",
        "is new",
        "broke down",
        "was sold",
    ];
    format!("The {} number {n} {} on day {}.", THINGS[n % 10], DEEDS[n % 7], n % 365)
}

/// Fills sessions of a user with distractors, quickly.
async fn distract(server: &Server, user: &str, messages: usize) {
    let filled = (0..10).map(|n| async move {
        let (_, session) = server
            .post(
                "/api/v1/sessions",
                json!({"user_id": user, "session_name": format!("noise {n}")}),
            )
            .await;
        let path = format!("/api/v1/sessions/{}/messages", session["id"].as_str().unwrap());
        for m in 0..messages / 10 {
            let content = distractor(n * messages / 10 + m);
            let (status, _) = server.post(&path, json!({"role": "user", "content": content})).await;
            assert_eq!(status, StatusCode::CREATED);
        }
    });
    futures::future::join_all(filled).await;
}

async fn a_fact_is_found_among_a_thousand_others(engine: Engine) {
    let server = Server::start(engine).await;
    say(&server, "ann", "monday", "My dog is called Biscuit and he loves swimming.").await;
    distract(&server, "ann", 1_000).await;
    let reply = say(&server, "ann", "much later", "What is my dog called?").await;
    assert!(reply.contains("Biscuit"), "{reply}");
    // Asked again, its own earlier question is not the answer.
    let reply = say(&server, "ann", "later still", "What is my dog called?").await;
    assert!(reply.contains("Biscuit"), "{reply}");
}

async fn what_nothing_answers_is_said_to_be_nothing(engine: Engine) {
    let server = Server::start(engine).await;
    say(&server, "ann", "monday", "My dog is called Biscuit and he loves swimming.").await;
    distract(&server, "ann", 200).await;
    let questions = [
        "What is the capital of Mongolia?",
        "Who painted the ceiling?",
        "How tall is my sister?",
        "When does the opera begin?",
        "Which planet has rings?",
        "What is my passport's country?",
        "Where did we bury the treasure?",
        "Who won the chess tournament?",
        "How do volcanoes erupt?",
        "What did the dentist recommend?",
        "Which airline lost my suitcase?",
        "Who wrote the symphony?",
        "What colour is the neighbour's fence?",
        "When is grandmother's birthday?",
        "How much does uranium weigh?",
        "What is the wifi password?",
        "Where is the nearest pharmacy?",
        "Which language do penguins speak?",
        "Who invented the zipper?",
        "What is my blood type?",
    ];
    for question in questions {
        let reply = say(&server, "ann", "quiz", question).await;
        assert!(reply.contains("nothing found"), "{question}: {reply}");
    }
}

async fn users_do_not_hear_of_each_other(engine: Engine) {
    let server = Server::start(engine).await;
    say(&server, "ann", "s", "The alarm code is 4711.").await;
    let reply = say(&server, "bob", "s", "What is the alarm code?").await;
    assert!(reply.contains("nothing found"), "{reply}");
    let (_, run) = server.post(RUN, json!({"message": "What is the alarm code?"})).await;
    assert!(run["message"].as_str().unwrap().contains("nothing found"), "{run}");
    let reply = say(&server, "ann", "t", "What is the alarm code?").await;
    assert!(reply.contains("4711"), "{reply}");
    let (_, session) = server.get("/api/v1/sessions?user_id=ann&limit=1").await;
    let of_ann = session["items"][0]["id"].clone();
    let (status, problem) =
        server.post(RUN, json!({"message": "hi", "user_id": "bob", "session_id": of_ann})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
}

async fn runs_of_one_session_go_in_order(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::echo());
    model.hold();
    let server = with_model(engine, &model).await;
    let agent = agent_with_model(&server).await;
    let path = format!("/api/v1/agents/{agent}/runs");
    let (_, session) = server.post("/api/v1/sessions", json!({"session_name": "s"})).await;
    let session = session["id"].as_str().unwrap().to_owned();
    let mut waiting = Vec::new();
    for n in 0..8 {
        let request = server
            .request(Method::POST, &path)
            .json(&json!({"message": format!("m{n}"), "session_id": session}));
        waiting.push(tokio::spawn(async move {
            request.send().await.unwrap().json::<Value>().await.unwrap()
        }));
        // The next one is sent when this one is on disk.
        let list = format!("/api/v1/runs?session_id={session}");
        wait_until(|| async {
            server.get(&list).await.1["items"].as_array().unwrap().len() == n + 1
        })
        .await;
    }
    let (_, queued) = server.get(&format!("/api/v1/runs?session_id={session}&status=queued")).await;
    assert_eq!(queued["items"].as_array().unwrap().len(), 7);
    let (status, problem) =
        (server.delete(&format!("/api/v1/sessions/{session}")).await, Value::Null);
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    model.release();
    for (n, run) in futures::future::join_all(waiting).await.into_iter().enumerate() {
        let run = run.unwrap();
        assert_eq!(run["success"], true, "{run}");
        assert_eq!(run["input"], format!("m{n}"));
    }
    let (_, page) = server.get(&format!("/api/v1/sessions/{session}/messages?order=asc")).await;
    let said: Vec<(&str, &str)> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .collect();
    let inputs: Vec<&str> =
        said.iter().filter(|(role, _)| *role == "user").map(|(_, c)| *c).collect();
    assert_eq!(inputs, ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"]);
    for pair in said.chunks(2) {
        assert_eq!((pair[0].0, pair[1].0), ("user", "assistant"), "{said:?}");
    }
    // The last one was shown all that came before it.
    let last = model.received().pop().unwrap();
    let shown = last.body["messages"].as_array().unwrap().clone();
    let users = shown.iter().filter(|m| m["role"] == "user").count();
    let assistants = shown.iter().filter(|m| m["role"] == "assistant").count();
    assert_eq!((users, assistants), (8, 7), "{shown:?}");
}

async fn a_model_is_shown_history_and_memory(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("Noted."));
    let server = with_model(engine, &model).await;
    let agent = agent_with_model(&server).await;
    let path = format!("/api/v1/agents/{agent}/runs");
    server
        .post(
            &path,
            json!({"message": "My boat is called Marlin.", "user_id": 7, "session_name": "a"}),
        )
        .await;
    server
        .post(&path, json!({"message": "Good morning.", "user_id": 7, "session_name": "b"}))
        .await;
    let body = json!({
        "message": "What is my boat called?", "user_id": 7, "session_name": "b",
        "context": {"place": "harbour"}, "parameters": {"temperature": 0.5},
        "messages": [{"role": "assistant", "content": "Ahoy."}],
    });
    let (status, run) = server.post(&path, body).await;
    assert_eq!((status, &run["message"]), (StatusCode::OK, &json!("Noted.")), "{run}");
    let sent = model.received().pop().unwrap().body;
    assert_eq!(sent["model"], "m");
    assert_eq!(sent["temperature"], 0.5);
    let messages = sent["messages"].as_array().unwrap();
    let system = messages[0]["content"].as_str().unwrap();
    assert!(system.starts_with("Be brief."), "{system}");
    assert!(system.contains("Marlin") && system.contains("harbour"), "{system}");
    let said: Vec<&str> = messages[1..].iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["Good morning.", "Noted.", "Ahoy.", "What is my boat called?"]);
}

async fn a_failing_model_is_a_failed_run(engine: Engine) {
    let model = ModelServer::start().await;
    let server = with_model(engine, &model).await;
    let agent = agent_with_model(&server).await;
    let path = format!("/api/v1/agents/{agent}/runs");
    for (behaviour, code) in [
        (Behaviour::error(500, "broken"), "model_failed"),
        (Behaviour::error(401, "who are you"), "model_unauthorized"),
        (Behaviour::error(400, "no such parameter"), "model_rejected"),
        (Behaviour::error(429, "slow down"), "model_rate_limited"),
    ] {
        model.next(behaviour);
        let (status, run) = server.post(&path, json!({"message": "x", "session_name": "s"})).await;
        assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(false)), "{run}");
        assert_eq!(
            (&run["status"], &run["error"]["code"]),
            (&json!("failed"), &json!(code)),
            "{run}"
        );
        assert_eq!(run["message"], Value::Null);
    }
    // The session goes on.
    model.next(Behaviour::text("fine"));
    let (_, run) = server.post(&path, json!({"message": "y", "session_name": "s"})).await;
    assert_eq!(run["message"], "fine");
    let (_, agent) =
        server.post("/api/v1/agents", json!({"name": "lost", "model": "compatible/far/m"})).await;
    let lost = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let (_, run) = server.post(&lost, json!({"message": "x"})).await;
    assert_eq!(run["error"]["code"], "model_unknown", "{run}");
}

async fn a_run_streams(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("Grüße aus der großen, weiten Welt der Zeichen."));
    let server = with_model(engine, &model).await;
    let agent = agent_with_model(&server).await;
    let response = server
        .request(Method::POST, &format!("/api/v1/agents/{agent}/runs"))
        .json(&json!({"message": "x", "stream": true}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    let events: Vec<(&str, Value)> = text
        .split("\n\n")
        .filter(|event| event.contains("event:"))
        .map(|event| {
            let field =
                |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
            (field("event:"), serde_json::from_str(field("data:")).unwrap())
        })
        .collect();
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.first(), Some(&"run.started"));
    assert_eq!(names[names.len() - 2..], ["message.completed", "run.finished"], "{names:?}");
    let deltas: String = events
        .iter()
        .filter(|(name, _)| *name == "message.delta")
        .map(|(_, data)| data["text"].as_str().unwrap())
        .collect();
    let finished = &events.last().unwrap().1;
    assert_eq!(deltas, "Grüße aus der großen, weiten Welt der Zeichen.");
    assert_eq!(finished["message"], deltas);
    assert_eq!(
        server.get(&format!("/api/v1/runs/{}", finished["run_id"].as_str().unwrap())).await.1["message"],
        deltas
    );
}

async fn a_slow_run_is_timed_out(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::silence());
    let server = with_model(engine, &model).await;
    let agent = agent_with_model(&server).await;
    let (status, run) = server
        .post(&format!("/api/v1/agents/{agent}/runs"), json!({"message": "x", "timeout_ms": 300}))
        .await;
    assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("timed_out")), "{run}");
    assert_eq!(run["error"]["code"], "run_timed_out");
}

async fn a_full_queue_says_so(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("done"));
    model.hold();
    let url = model.base_url();
    let settings = [
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str()),
        ("AGENTRY_RUNS__SESSION_QUEUE_RUNS_MAX", "2"),
    ];
    let server = Server::start_with(engine, &settings).await;
    let agent = agent_with_model(&server).await;
    let path = format!("/api/v1/agents/{agent}/runs");
    let (_, session) = server.post("/api/v1/sessions", json!({})).await;
    let session = session["id"].as_str().unwrap().to_owned();
    let send = || {
        server
            .request(Method::POST, &path)
            .json(&json!({"message": "x", "session_id": session}))
            .send()
    };
    let list = format!("/api/v1/runs?session_id={session}");
    let accepted = |n: usize| {
        let (server, list) = (&server, &list);
        wait_until(move || async move {
            server.get(list).await.1["items"].as_array().unwrap().len() == n
        })
    };
    let first = tokio::spawn(send());
    accepted(1).await;
    let second = tokio::spawn(send());
    accepted(2).await;
    let refused = send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "session_queue_full");
    model.release();
    for run in [first, second] {
        assert_eq!(run.await.unwrap().unwrap().json::<Value>().await.unwrap()["success"], true);
    }
}

async fn names_find_agents_and_say_when_they_are_ambiguous(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, one) = server.post("/api/v1/agents", json!({"name": "twin"})).await;
    let (status, run) =
        server.post("/api/v1/agent/twin/run", json!({"message_content": "hi"})).await;
    assert_eq!((status, &run["agent_id"]), (StatusCode::OK, &one["id"]), "{run}");
    let (_, two) = server.post("/api/v1/agents", json!({"name": "twin"})).await;
    let (status, problem) = server.post("/api/v1/agent/twin/run", json!({"message": "hi"})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("ambiguous_name")));
    for id in [&one["id"], &two["id"]] {
        let id = id.as_str().unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(id), "{problem}");
        let (status, _) =
            server.post(&format!("/api/v1/agent/{id}/run"), json!({"message": "hi"})).await;
        assert_eq!(status, StatusCode::OK);
    }
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    let post = |body: Value| server.post(RUN, body);
    for (body, code) in [
        (json!({}), "validation_failed"),
        (json!({"message": 5}), "validation_failed"),
        (json!({"message": "x", "message_limit": 0}), "validation_failed"),
        (json!({"message": "x", "if_busy": "sometimes"}), "validation_failed"),
        (json!({"message": "x", "background": true, "stream": true}), "validation_failed"),
    ] {
        let (status, problem) = post(body.clone()).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)),
            "{body}"
        );
    }
    let missing = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(post(json!({"message": "x", "session_id": missing})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        server.post("/api/v1/agent/nobody/run", json!({"message": "x"})).await.0,
        StatusCode::NOT_FOUND
    );
}
