//! `DELETE /api/v1/users/{user}?purge=true`: all that was a user's goes, and the
//! job says how much, also when its process is killed.

use agentry_testkit::{Behaviour, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};
use crate::socket::Socket;

on_both_engines! {
    all_that_was_the_users_goes_and_nothing_else,
    a_purge_survives_kills,
    a_run_under_way_is_waited_for,
    how_far_it_is_is_heard,
    what_was_answered_to_its_requests_goes_too,
}

const RUN: &str = "/api/v1/agent/simple/run";
/// More than one write deletes.
const LARGE: usize = 450;

async fn say(server: &Process, body: Value) -> Value {
    let (status, run) = server.post(RUN, body).await;
    assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
    run
}

async fn purge(server: &Process, user: &str) -> Value {
    let path = format!("/api/v1/users/{user}?purge=true");
    let response = server.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let job: Value = response.json().await.unwrap();
    assert_eq!(location, format!("/api/v1/admin/jobs/{}", job["id"].as_str().unwrap()));
    assert_eq!((&job["kind"], &job["result"]["users"]), (&json!("purge"), &json!(1)));
    job
}

async fn look(server: &Process, job: &Value) -> Value {
    let path = format!("/api/v1/admin/jobs/{}/", job["id"].as_str().unwrap());
    let (status, job) = server.get(&path).await;
    assert_eq!(status, StatusCode::OK, "{job}");
    job
}

async fn finished(server: &Process, job: &Value) -> Value {
    wait_until(|| async { look(server, job).await["state"] == "succeeded" }).await;
    look(server, job).await
}

async fn total(server: &Process, path: &str) -> Value {
    server.get(path).await.1["total"].clone()
}

async fn all_that_was_the_users_goes_and_nothing_else(engine: Engine) {
    let server = Server::start(engine).await;
    let ann = json!({"user_id": "ann", "email": "ann@example.org"});
    let (_, ann) = server.post("/api/v1/users", ann).await;
    let mut gone = Vec::new();
    for (name, user) in [("a", "ann"), ("b", "ann"), ("c", "ann@example.org")] {
        let body = json!({"message": format!("The safe of {name} opens with 7719."),
            "user_id": user, "session_name": name});
        let run = say(&server, body).await;
        gone.push(format!("/api/v1/runs/{}", run["run_id"].as_str().unwrap()));
        gone.push(format!("/api/v1/sessions/{}", run["session_id"].as_str().unwrap()));
    }
    let large = format!("{}/messages", gone[1]);
    let said = (0..LARGE).map(|n| {
        let content = format!("Box number {n} holds pearls.");
        server.post(&large, json!({"role": "user", "content": content}))
    });
    for (status, _) in futures::future::join_all(said).await {
        assert_eq!(status, StatusCode::CREATED);
    }
    for session in [&gone[1], &gone[3]] {
        let path = format!("{session}/files/notes/a.txt");
        let put = server.request(Method::PUT, &path).body("two boxes").send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
    }
    // A session of nobody, in which others speak too.
    let (_, shared) = server.post("/api/v1/sessions", json!({})).await;
    let shared_messages = format!("/api/v1/sessions/{}/messages", shared["id"].as_str().unwrap());
    for user in [json!("ann"), json!("ben"), Value::Null] {
        let body = json!({"message": format!("Hello from {user}."), "user_id": user,
            "session_id": shared["id"]});
        let run = say(&server, body).await;
        if user == json!("ann") {
            gone.push(format!("/api/v1/runs/{}", run["run_id"].as_str().unwrap()));
        }
    }
    for (user, access) in [("ann", "private"), ("ann", "shared"), ("ben", "private")] {
        let body = json!({"content": "A pearl costs 31.", "user_id": user, "access": access});
        assert_eq!(server.post("/api/v1/memories", body).await.0, StatusCode::CREATED);
    }
    let body = json!({"message": "My tent is green.", "user_id": "ben", "session_name": "a"});
    let kept = say(&server, body).await;

    let job = purge(&server, "Ann@example.org").await;
    assert_eq!(job["user"], ann["id"]);
    let job = finished(&server, &job).await;
    let result = &job["result"];
    assert_eq!(
        [&result["sessions"], &result["runs"], &result["messages"], &result["memories"]],
        [&json!(3), &json!(4), &json!(8 + LARGE), &json!(2)],
        "{job}"
    );
    assert_eq!(result["files"], 2, "{job}");
    assert!(result["documents"].as_u64().unwrap() >= LARGE as u64, "{job}");
    assert!(job["error"].is_null() && job["finished_at"].is_string(), "{job}");
    assert_eq!(server.get("/api/v1/admin/jobs").await.1["items"], json!([job]));
    for path in &gone {
        assert_eq!(server.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for name in ["ann", "ann@example.org", ann["id"].as_str().unwrap()] {
        let (status, _) = server.get(&format!("/api/v1/users/{name}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    // What is others' is there, and is counted as it is.
    let (_, messages) = server.get(&shared_messages).await;
    assert_eq!(messages["items"].as_array().unwrap().len(), 4);
    let (_, memories) = server.get("/api/v1/memories").await;
    assert_eq!(memories["items"].as_array().unwrap().len(), 1);
    let run = format!("/api/v1/runs/{}", kept["run_id"].as_str().unwrap());
    assert_eq!(server.get(&run).await.0, StatusCode::OK);
    wait_until(|| async {
        total(&server, &shared_messages).await == json!(4)
            && total(&server, "/api/v1/sessions").await == json!(2)
            && total(&server, "/api/v1/runs").await == json!(3)
            && total(&server, "/api/v1/users").await == json!(1)
    })
    .await;
    let asked = json!({"message": "What about my tent?", "user_id": "ben"});
    let reply = say(&server, asked).await;
    assert!(reply["message"].as_str().unwrap().contains("green"), "{reply}");
    let asked = json!({"message": "What opens the safe?", "user_id": "ann"});
    let reply = say(&server, asked).await;
    assert!(reply["message"].as_str().unwrap().contains("nothing found"), "{reply}");
}

async fn a_purge_survives_kills(engine: Engine) {
    const SESSIONS: usize = 60;
    // On PostgreSQL the next process waits for the lease to end.
    let settings = [("AGENTRY_RUNS__LEASE_MS", "1000")];
    let home = Home::new(engine).await;
    let mut process = Process::start_with(&home, &settings);
    let runs = (0..SESSIONS).map(|n| {
        let message = format!("Note {n} is about ships.");
        say(&process, json!({"message": message, "user_id": 42, "session_name": n}))
    });
    futures::future::join_all(runs).await;
    let (_, session) = process.get("/api/v1/sessions/7").await;
    let large = format!("/api/v1/sessions/{}/messages", session["id"].as_str().unwrap());
    let said = (0..LARGE).map(|n| {
        process.post(&large, json!({"role": "user", "content": format!("Ship number {n}.")}))
    });
    futures::future::join_all(said).await;
    let job = purge(&process, "42").await;
    let mut seen = 0;
    for _ in 0..3 {
        // Killed each time that it got on.
        wait_until(|| async {
            let job = look(&process, &job).await;
            job["state"] == "succeeded" || job["result"]["sessions"].as_u64().unwrap() > seen
        })
        .await;
        seen = look(&process, &job).await["result"]["sessions"].as_u64().unwrap();
        process.kill();
        process = Process::start_with(&home, &settings);
    }
    let job = finished(&process, &job).await;
    let result = &job["result"];
    assert_eq!(
        (&result["sessions"], &result["runs"], &result["messages"]),
        (&json!(SESSIONS), &json!(SESSIONS), &json!(2 * SESSIONS + LARGE)),
        "{job}"
    );
    for path in ["/api/v1/sessions", "/api/v1/runs", "/api/v1/users"] {
        assert_eq!(process.get(path).await.1["items"], json!([]), "{path}");
        wait_until(|| async { total(&process, path).await == json!(0) }).await;
    }
}

async fn a_run_under_way_is_waited_for(engine: Engine) {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("at last"));
    model.hold();
    let url = model.base_url();
    let server = Server::start_with(engine, &[("AGENTRY_PROVIDERS__NEAR__BASE_URL", &url)]).await;
    let (_, agent) =
        server.post("/api/v1/agents", json!({"name": "llm", "model": "compatible/near/m"})).await;
    let idle = say(&server, json!({"message": "one", "user_id": "u", "session_name": "s"})).await;
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let body = json!({"message": "two", "user_id": "u", "session_name": "busy"});
    let busy = tokio::spawn(server.request(Method::POST, &path).json(&body).send());
    model.wait_held(1).await;

    let job = purge(&server, "u").await;
    wait_until(|| async { look(&server, &job).await["result"]["sessions"] == json!(1) }).await;
    let idle = format!("/api/v1/sessions/{}", idle["session_id"].as_str().unwrap());
    assert_eq!(server.get(&idle).await.0, StatusCode::NOT_FOUND);
    // The session with the run is there as a whole, and its run ends.
    let (status, session) = server.get("/api/v1/sessions/busy").await;
    assert_eq!(status, StatusCode::OK, "{session}");
    assert_eq!(look(&server, &job).await["state"], "running");
    model.release();
    let (status, run) = answer_of(busy).await;
    assert_eq!((status, &run["message"]), (StatusCode::OK, &json!("at last")));
    let job = finished(&server, &job).await;
    assert_eq!((&job["result"]["sessions"], &job["result"]["runs"]), (&json!(2), &json!(2)));
    assert_eq!(server.get("/api/v1/sessions/busy").await.0, StatusCode::NOT_FOUND);
    let missing = "/api/v1/admin/jobs/01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(answer(server.request(Method::GET, missing)).await.0, StatusCode::NOT_FOUND);
}

async fn answer_of(
    sent: tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>,
) -> (StatusCode, Value) {
    let response = sent.await.unwrap().unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn how_far_it_is_is_heard(engine: Engine) {
    let server = Server::start(engine).await;
    let member = json!({"name": "member", "role": "member"});
    let (_, member) = server.post("/api/v1/keys", member).await;
    for name in ["a", "b", "c"] {
        say(&server, json!({"message": "Hello.", "user_id": "ann", "session_name": name})).await;
    }
    let mut socket = Socket::open(&server, "/ws/events?entity_types=job").await;
    let job = purge(&server, "ann").await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|event: &Value| event["event_type"] != "job.finished") {
        let event = socket.json().await;
        assert_eq!((&event["entity_type"], &event["entity_id"]), (&json!("job"), &job["id"]));
        heard.push(event);
    }
    let [first, between @ .., last] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(
        (&first["event_type"], &first["data"]),
        (&json!("job.created"), &json!({"kind": "purge"}))
    );
    assert!(!between.is_empty());
    let mut done = 0;
    for event in between {
        assert_eq!(
            (&event["event_type"], &event["data"]["total"]),
            (&json!("job.progress"), &json!(3))
        );
        let now = event["data"]["done"].as_u64().unwrap();
        assert!((done..=3).contains(&now), "{event}");
        done = now;
    }
    assert_eq!(last["data"], json!({"kind": "purge", "done": 3, "total": 3}));
    if engine == Engine::Sqlite {
        let backup = server.request(Method::POST, "/api/v1/admin/backup").send().await.unwrap();
        assert_eq!(backup.status(), StatusCode::OK);
        drop(backup);
        let mut event = socket.json().await;
        while event["event_type"] == "job.progress" {
            event = socket.json().await;
        }
        let data = &event["data"];
        assert_eq!(
            (&event["event_type"], &data["kind"]),
            (&json!("job.finished"), &json!("backup"))
        );
        assert!(data["done"].as_u64().unwrap() > 0 && data["done"] == data["total"]);
    }
    // Whoever may not look at jobs hears nothing of them.
    let url = format!("{}/ws/events?entity_types=job", server.url);
    let member = member["secret"].as_str().unwrap();
    let refused = server.client.get(url).header("x-api-key", member);
    let refused = refused.header("connection", "upgrade").header("upgrade", "websocket");
    let refused = refused
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", crate::socket::KEY);
    assert_eq!(answer(refused).await.0, StatusCode::FORBIDDEN);
}

async fn what_was_answered_to_its_requests_goes_too(engine: Engine) {
    let server = Server::start(engine).await;
    let once = async |user: &str, path: &str, body: Value| {
        let key = format!("{user} {path}");
        let request = server.request(Method::POST, path).header("idempotency-key", key);
        let (status, made) = answer(request.json(&body)).await;
        assert!(status.is_success(), "{path}: {made}");
        made
    };
    for user in ["ann", "ben"] {
        once(user, "/api/v1/users", json!({"user_id": user, "name": "Secret"})).await;
        let body = json!({"user_id": user, "session_name": "s"});
        let session = once(user, "/api/v1/sessions", body).await;
        let messages = format!("/api/v1/sessions/{}/messages", session["id"].as_str().unwrap());
        once(user, &messages, json!({"role": "user", "content": "My pin is 7719."})).await;
        let body = json!({"message": "What is it?", "user_id": user, "session_name": "s"});
        once(user, RUN, body).await;
        let body = json!({"content": "A pearl costs 31.", "user_id": user});
        once(user, "/api/v1/memories", body).await;
    }
    assert_eq!(server.home.count("idempotency").await, 2 * 5);
    let job = purge(&server, "ann").await;
    finished(&server, &job).await;
    assert_eq!(server.home.count("idempotency").await, 5);
    // Whoever sends it again makes it again; the others' requests are known still.
    let body = json!({"user_id": "ann", "name": "Secret"});
    let made = once("ann", "/api/v1/users", body).await;
    assert_eq!(server.get("/api/v1/users/ann").await.1["id"], made["id"]);
}
