//! `/api/v1/sessions` and their messages.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Server};

on_both_engines! {
    every_field_is_stored_and_returned,
    a_name_is_unique_per_user,
    messages_are_kept_in_order,
    deleting_a_session_forgets_it,
}

async fn every_field_is_stored_and_returned(engine: Engine) {
    let server = Server::start(engine).await;
    let sent = json!({
        "session_name": "holidays",
        "user_id": 42,
        "session_origin": "web",
        "status": "paused",
        "metadata": {"n": {"m": []}},
    });
    let (status, created) = server.post("/api/v1/sessions", sent).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    assert_eq!(created["name"], "holidays");
    assert_eq!(created["user_id"], "42");
    assert_eq!(created["origin"], "web");
    assert_eq!(created["status"], "paused");
    assert_eq!(created["metadata"], json!({"n": {"m": []}}));
    let id = created["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v1/sessions/{id}")).await.1, created);
    assert_eq!(server.get("/api/v1/sessions/holidays").await.1, created);
    let (_, patched) = server
        .patch(
            &format!("/api/v1/sessions/{id}"),
            json!({"status": "completed", "session_name": "h2"}),
        )
        .await;
    assert_eq!(
        (patched["status"].clone(), patched["name"].clone()),
        (json!("completed"), json!("h2"))
    );
    let (_, of_user) = server.get("/api/v1/sessions?user_id=42").await;
    assert_eq!(of_user["items"], json!([patched]));
    assert_eq!(server.get("/api/v1/sessions?user_id=43").await.1["items"], json!([]));
    assert_eq!(server.get("/api/v1/sessions?status=active").await.1["items"], json!([]));
}

async fn a_name_is_unique_per_user(engine: Engine) {
    let server = Server::start(engine).await;
    let make = |user: Value| {
        server.post("/api/v1/sessions", json!({"session_name": "s", "user_id": user}))
    };
    assert_eq!(make(json!("a")).await.0, StatusCode::CREATED);
    let (status, problem) = make(json!("a")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("already_exists")));
    assert_eq!(make(json!("b")).await.0, StatusCode::CREATED);
    let (status, problem) = server.get("/api/v1/sessions/s").await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("ambiguous_name")));
}

async fn messages_are_kept_in_order(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, session) = server.post("/api/v1/sessions", json!({})).await;
    let path = format!("/api/v1/sessions/{}/messages", session["id"].as_str().unwrap());
    for n in 0..12 {
        let role = if n % 2 == 0 { "user" } else { "assistant" };
        let sent = json!({"role": role, "content": format!("m{n}"), "metadata": {"n": n}});
        let (status, created) = server.post(&path, sent).await;
        assert_eq!((status, &created["metadata"]), (StatusCode::CREATED, &json!({"n": n})));
    }
    let (_, page) = server.get(&format!("{path}?order=asc&limit=7")).await;
    let contents: Vec<&Value> =
        page["items"].as_array().unwrap().iter().map(|message| &message["content"]).collect();
    assert_eq!(contents, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, rest) = server.get(&format!("{path}?order=asc&limit=7&cursor={cursor}")).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 5);
    assert_eq!(rest["next_cursor"], Value::Null);
    let missing = "/api/v1/sessions/01890a5d-ac96-774b-bcce-b302099a8057/messages";
    assert_eq!(server.get(missing).await.0, StatusCode::NOT_FOUND);
    let (status, _) = server.post(missing, json!({"role": "user", "content": "x"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

async fn deleting_a_session_forgets_it(engine: Engine) {
    let server = Server::start(engine).await;
    let say = |message: &'static str, session: &'static str| {
        server.post(
            "/api/v1/agent/simple/run",
            json!({"message": message, "user_id": "u", "session_name": session}),
        )
    };
    let (_, first) = say("The vault's combination is 7719.", "one").await;
    let (_, second) = say("What is the combination of the vault?", "two").await;
    assert!(second["message"].as_str().unwrap().contains("7719"), "{second}");
    let session = first["session_id"].as_str().unwrap();
    assert_eq!(server.delete(&format!("/api/v1/sessions/{session}")).await, StatusCode::NO_CONTENT);
    let run = format!("/api/v1/runs/{}", first["run_id"].as_str().unwrap());
    assert_eq!(server.get(&run).await.0, StatusCode::NOT_FOUND);
    let (_, third) = say("Tell me: which combination has the vault?", "three").await;
    assert!(third["message"].as_str().unwrap().contains("nothing found"), "{third}");
}
