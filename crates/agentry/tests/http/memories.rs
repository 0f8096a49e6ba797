//! `/api/v1/memories`, and what runs recall of them.

use agentry_testkit::ModelServer;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Process, Server, answer};

on_both_engines! {
    every_field_is_stored_and_returned,
    a_patch_changes_what_is_found,
    a_batch_is_made_whole_or_not_at_all,
    a_batch_takes_effect_once,
    an_unknown_user_is_made,
    searches_keep_users_apart,
    searches_know_other_forms_of_a_word,
    filters_select,
    runs_recall_memories,
    what_is_wrong_is_said,
}

async fn found(server: &Process, search: Value) -> Vec<Value> {
    let (status, answer) = server.post("/api/v1/memories/search", search).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let hits = answer["hits"].as_array().unwrap();
    for hit in hits {
        assert!(hit["score"].as_f64().unwrap() > 0.0, "{hit}");
    }
    hits.iter().map(|hit| hit["memory"].clone()).collect()
}

async fn made(server: &Process, memory: Value) -> Value {
    let (status, created) = server.post("/api/v1/memories", memory).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    created
}

fn path(memory: &Value) -> String {
    format!("/api/v1/memories/{}", memory["id"].as_str().unwrap())
}

async fn every_field_is_stored_and_returned(engine: Engine) {
    let server = Server::start(engine).await;
    let sent = json!({
        "name": "Vault \u{1f511}",
        "content": "The combination is 7719.\nNever say it aloud.",
        "description": "how to open the vault",
        "user_id": "u-1",
        "agent_id": 12,
        "session_id": 7_000_000_000_i64,
        "read_mode": "manual",
        "access": "shared",
        "metadata": {"n": {"m": [1.50, null]}},
    });
    let created = made(&server, sent.clone()).await;
    for (field, value) in sent.as_object().unwrap() {
        let kept = if value.is_i64() { json!(value.to_string()) } else { value.clone() };
        assert_eq!(created[field], kept, "{field}");
    }
    assert_eq!(server.get(&path(&created)).await, (StatusCode::OK, created.clone()));
    let found = found(&server, json!({"query": "combination of the vault"})).await;
    assert_eq!(found, [created]);

    let bare = made(&server, json!({"content": "x"})).await;
    for (field, value) in [
        ("name", Value::Null),
        ("description", json!("")),
        ("user_id", Value::Null),
        ("agent_id", Value::Null),
        ("session_id", Value::Null),
        ("read_mode", json!("auto")),
        ("access", json!("private")),
        ("metadata", json!({})),
        ("version", json!(1)),
    ] {
        assert_eq!(bare[field], value, "{field}");
    }
}

async fn a_patch_changes_what_is_found(engine: Engine) {
    let server = Server::start(engine).await;
    let memory =
        made(&server, json!({"content": "Ada prefers tea", "user_id": "u", "name": "n"})).await;
    let by = |query: &str| json!({"query": query, "user_id": "u"});
    assert_eq!(found(&server, by("tea")).await, std::slice::from_ref(&memory));
    let patch = json!({"content": "Ada prefers coffee", "metadata": {"a": 1}});
    let (status, patched) = server.patch(&path(&memory), patch).await;
    assert_eq!(status, StatusCode::OK, "{patched}");
    assert_eq!((&patched["version"], &patched["name"]), (&json!(2), &json!("n")));
    assert!(found(&server, by("tea")).await.is_empty());
    assert_eq!(found(&server, by("coffee")).await, std::slice::from_ref(&patched));
    let for_v = || json!({"query": "coffee", "user_id": "v"});
    assert!(found(&server, for_v()).await.is_empty());
    let (_, shared) = server.patch(&path(&memory), json!({"access": "shared"})).await;
    assert_eq!(found(&server, for_v()).await, [shared]);
    let (status, problem) = server.patch(&path(&memory), json!({"user_id": "v"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["code"], "immutable");
    let stale = server.request(Method::PATCH, &path(&memory)).header("if-match", "\"1\"");
    let (status, _) = answer(stale.json(&json!({"content": "water"}))).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert!(found(&server, by("water")).await.is_empty());
    assert_eq!(server.delete(&path(&memory)).await, StatusCode::NO_CONTENT);
    assert_eq!(server.get(&path(&memory)).await.0, StatusCode::NOT_FOUND);
    assert!(found(&server, by("coffee")).await.is_empty());
}

async fn a_batch_is_made_whole_or_not_at_all(engine: Engine) {
    let server = Server::start(engine).await;
    let memories: Vec<Value> =
        (0..100).map(|n| json!({"content": format!("fact{n} of many"), "name": "b"})).collect();
    let (status, answer) =
        server.post("/api/v1/memories/batch", json!({"memories": memories})).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let items = answer["items"].as_array().unwrap();
    for (sent, made) in memories.iter().zip(items) {
        assert_eq!(made["content"], sent["content"]);
        assert_eq!(server.get(&path(made)).await.1, *made);
    }
    assert_eq!(items.len(), 100);
    assert_eq!(found(&server, json!({"query": "fact99"})).await, [items[99].clone()]);

    let broken = json!({"memories": [{"content": "good"}, {"content": 7}, 3, {"name": "n"}]});
    let (status, problem) = server.post("/api/v1/memories/batch", broken).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let faults = problem["errors"].as_array().unwrap();
    let pointers: Vec<_> = faults.iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/memories/1/content", "/memories/2", "/memories/3/content"]);
    assert!(found(&server, json!({"query": "good"})).await.is_empty());
    for wrong in [json!([]), json!(vec![json!({"content": "x"}); 101]), json!("x")] {
        let (status, _) = server.post("/api/v1/memories/batch", json!({"memories": wrong})).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let (_, all) = server.get("/api/v1/memories?name=b&limit=500").await;
    assert_eq!((all["items"].as_array().unwrap().len(), &all["total"]), (100, &json!(100)));
}

async fn a_batch_takes_effect_once(engine: Engine) {
    let server = Server::start(engine).await;
    // The second is too long to be remembered as it was.
    for (key, content) in [("short", "x".to_owned()), ("long", "word ".repeat(9_000))] {
        let body = json!({"memories": [{"content": content}, {"content": content}]});
        let send = || async {
            let request = server.request(Method::POST, "/api/v1/memories/batch");
            let request = request.header("idempotency-key", key).json(&body);
            let response = request.send().await.unwrap();
            let replayed = response.headers().contains_key("idempotency-replayed");
            assert_eq!(response.status(), StatusCode::CREATED);
            (replayed, response.json::<Value>().await.unwrap())
        };
        let answers = futures::future::join_all((0..10).map(|_| send())).await;
        assert_eq!(answers.iter().filter(|(replayed, _)| !replayed).count(), 1);
        assert!(answers.iter().all(|(_, answer)| *answer == answers[0].1));
    }
    let (_, all) = server.get("/api/v1/memories?access=private").await;
    assert_eq!(all["total"], 4);
}

async fn an_unknown_user_is_made(engine: Engine) {
    let server = Server::start(engine).await;
    let one = made(&server, json!({"content": "x", "user_id": "first"})).await;
    assert_eq!(one["user_id"], "first");
    let both =
        ["first", "second", "second", "third"].map(|user| json!({"content": "y", "user_id": user}));
    let send = || server.post("/api/v1/memories/batch", json!({"memories": both}));
    for (status, answer) in futures::future::join_all((0..5).map(|_| send())).await {
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    for user in ["first", "second", "third"] {
        let (status, found) = server.get(&format!("/api/v1/users/{user}")).await;
        assert_eq!((status, &found["user_id"]), (StatusCode::OK, &json!(user)));
    }
}

async fn searches_keep_users_apart(engine: Engine) {
    let server = Server::start(engine).await;
    let content = "The garden key hangs in the shed";
    let memory = |fields: Value| {
        let mut memory = json!({"content": content});
        memory.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        made(&server, memory)
    };
    let own = memory(json!({"user_id": "a", "agent_id": "x", "read_mode": "manual"})).await;
    let shared = memory(json!({"user_id": "a", "access": "shared", "session_id": 5})).await;
    let other = memory(json!({"user_id": "b"})).await;
    let nobody = memory(json!({})).await;
    let ids = |memories: Vec<Value>| {
        let mut ids: Vec<String> = memories.iter().map(|it| it["id"].to_string()).collect();
        ids.sort_unstable();
        ids
    };
    let of = |memories: &[&Value]| ids(memories.iter().map(|it| (*it).clone()).collect());
    let search = |fields: Value| {
        let mut search = json!({"query": "Where is the garden's key?"});
        search.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        found(&server, search)
    };
    for (fields, expected) in [
        (json!({}), of(&[&shared, &nobody])),
        (json!({"user_id": "a"}), of(&[&own, &shared, &nobody])),
        (json!({"user_id": "b"}), of(&[&other, &shared, &nobody])),
        (json!({"user_id": "stranger"}), of(&[&shared, &nobody])),
        (json!({"user_id": "a", "agent_id": "x"}), of(&[&own])),
        (json!({"agent_id": "x"}), of(&[])),
        (json!({"session_id": "5"}), of(&[&shared])),
    ] {
        assert_eq!(ids(search(fields.clone()).await), expected, "{fields}");
    }
    assert_eq!(search(json!({"user_id": "a", "limit": 1})).await.len(), 1);
    assert!(
        found(&server, json!({"query": "Where is the garden of the emperor's palace?"}))
            .await
            .is_empty()
    );
    for nothing in ["zebra", "the of and", "\u{a7} ' \" & | ( ) *"] {
        assert!(found(&server, json!({"query": nothing, "user_id": "a"})).await.is_empty());
    }
}

async fn searches_know_other_forms_of_a_word(engine: Engine) {
    let server = Server::start(engine).await;
    let bought = made(&server, json!({"content": "We bought the bicycle lock in spring"})).await;
    let other = made(&server, json!({"content": "The bicycle lock is sold out"})).await;
    for nth in 0..8 {
        made(&server, json!({"content": format!("Nothing of note on day {nth}")})).await;
    }
    let hits = found(&server, json!({"query": "When did we buy the bicycle lock?"})).await;
    assert_eq!(hits, [bought, other]);
}

async fn filters_select(engine: Engine) {
    let server = Server::start(engine).await;
    let one = made(
        &server,
        json!({"content": "1", "name": "n", "user_id": 1, "agent_id": "a", "session_id": "s"}),
    )
    .await;
    let two =
        made(&server, json!({"content": "2", "read_mode": "manual", "access": "shared"})).await;
    for (filter, expected) in [
        ("", json!([two, one])),
        ("order=asc", json!([one, two])),
        ("name=n", json!([one])),
        ("user_id=1", json!([one])),
        ("agent_id=a", json!([one])),
        ("session_id=s", json!([one])),
        ("user_id=1&agent_id=a&session_id=s&name=n&read_mode=auto&access=private", json!([one])),
        ("user_id=1&read_mode=manual", json!([])),
        ("read_mode=manual", json!([two])),
        ("access=shared", json!([two])),
        ("user_id=2", json!([])),
    ] {
        let (status, page) = server.get(&format!("/api/v1/memories?{filter}")).await;
        assert_eq!((status, &page["items"]), (StatusCode::OK, &expected), "{filter}");
    }
}

async fn runs_recall_memories(engine: Engine) {
    let model = ModelServer::start().await;
    let server =
        Server::start_with(engine, &[("AGENTRY_PROVIDERS__NEAR__BASE_URL", &model.base_url())])
            .await;
    made(&server, json!({"content": "The vault opens with 7719.", "user_id": "ada"})).await;
    made(&server, json!({"content": "12 o'clock", "name": "Lunch", "description": "when"})).await;
    made(&server, json!({"content": "The cellar opens with 1.", "read_mode": "manual"})).await;
    let ask = |message: &'static str, user: Value| {
        let body = json!({"message": message, "user_id": user});
        async {
            let (status, run) = server.post("/api/v1/agent/simple/run", body).await;
            assert_eq!(status, StatusCode::OK, "{run}");
            run["message"].as_str().unwrap().to_owned()
        }
    };
    let said = ask("With what does the vault open?", json!("ada")).await;
    assert!(said.contains("A memory says") && said.contains("7719"), "{said}");
    for user in [json!("bob"), Value::Null] {
        let said = ask("With what does the vault open?", user.clone()).await;
        assert!(said.contains("nothing found"), "{said}");
        let said = ask("When is lunch?", user.clone()).await;
        assert!(said.contains("Lunch: when: 12 o'clock"), "{said}");
        let said = ask("With what does the cellar open?", user).await;
        assert!(said.contains("nothing found"), "{said}");
    }

    let agent = json!({"name": "near", "model": "compatible/near/m"});
    let (_, agent) = server.post("/api/v1/agents", agent).await;
    let id = agent["id"].as_str().unwrap();
    let own = json!({"content": "The attic opens with 4.", "agent_id": id});
    made(&server, own).await;
    let body = json!({"message": "With what does the attic open?", "user_id": "ada"});
    let (_, run) = server.post(&format!("/api/v1/agents/{id}/runs"), body).await;
    assert_eq!(run["success"], true, "{run}");
    let shown = model.received().last().unwrap().body.to_string();
    assert!(shown.contains("a memory:") && shown.contains("The attic opens with 4."), "{shown}");
    let said = ask("With what does the attic open?", json!("ada")).await;
    assert!(!said.contains("opens with 4"), "{said}");

    let (_, deaf) =
        server.post("/api/v1/agents", json!({"name": "deaf", "memory": {"recall": false}})).await;
    let body = json!({"message": "When is lunch?"});
    let path = format!("/api/v1/agents/{}/runs", deaf["id"].as_str().unwrap());
    let (_, run) = server.post(&path, body).await;
    assert!(run["message"].as_str().unwrap().contains("nothing found"), "{run}");
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    let wrong = json!({"user_id": 1.5, "read_mode": "never", "access": 1, "metadata": []});
    let (status, problem) = server.post("/api/v1/memories", wrong).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let mut pointers: Vec<&str> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["pointer"].as_str().unwrap())
        .collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/access", "/content", "/metadata", "/read_mode", "/user_id"]);
    for wrong in [json!({}), json!({"query": ""}), json!({"query": "x", "limit": 51})] {
        let (status, _) = server.post("/api/v1/memories/search", wrong).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let missing = "/api/v1/memories/01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(server.get(missing).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.patch(missing, json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.delete(missing).await, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/v1/memories/seven").await.0, StatusCode::NOT_FOUND);
}
