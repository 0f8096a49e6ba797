//! `/api/v1/agents` and `/api/v1/agent/list`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Server, answer, wait_until};

on_both_engines! {
    every_field_is_stored_and_returned,
    a_fresh_server_has_one_agent,
    a_patch_merges_and_etags_guard,
    lists_page_by_cursor_and_by_number,
    concurrent_patches_lose_nothing,
    what_is_wrong_is_said,
}

async fn every_field_is_stored_and_returned(engine: Engine) {
    let server = Server::start(engine).await;
    let sent = json!({
        "name": "Ada \u{1f9ee}",
        "description": "counts",
        "agent_type": "calculator",
        "status": "idle",
        "model": "compatible/near/small",
        "instructions": "Be exact.\nAlways.",
        "memory": {"recall": false, "remember": true, "limit": 7},
        "configuration": {"a": {"b": [1, 2.5, null, "x"]}},
        "metadata": {"team": "blue"},
        "resource_limits": {"cpu": 2},
        "tools": ["memory_save", {"type": "mcp", "server": "files", "tools": ["read"]}],
        "limits": {
            "steps_max": 3, "tool_calls_max": null, "tokens_max": 1000, "cost_nanos_max": 5,
            "time_ms_max": 60000, "output_bytes_max": null,
        },
    });
    let (status, created) = server.post("/api/v1/agents", sent.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    for (field, value) in sent.as_object().unwrap() {
        assert_eq!(&created[field], value, "{field}");
    }
    let id = created["id"].as_str().unwrap();
    let did = created["did"].as_str().unwrap();
    assert!(did.starts_with("did:agent:ada") && did.ends_with(&id[id.len() - 8..]), "{did}");
    let (status, read) = server.get(&format!("/api/v1/agents/{id}")).await;
    assert_eq!((status, &read), (StatusCode::OK, &created));
    assert_eq!(server.delete(&format!("/api/v1/agents/{id}/")).await, StatusCode::NO_CONTENT);
    let (status, problem) = server.get(&format!("/api/v1/agents/{id}")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(problem["code"], "not_found");
}

async fn a_fresh_server_has_one_agent(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, list) = server.get("/api/v1/agent/list").await;
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["name"], "simple_agent");
    let fields: Vec<&String> = list[0].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["description", "id", "name"]);
}

async fn a_patch_merges_and_etags_guard(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, created) = server
        .post("/api/v1/agents", json!({"name": "a", "metadata": {"keep": 1, "drop": 2}}))
        .await;
    let path = format!("/api/v1/agents/{}", created["id"].as_str().unwrap());
    let first = server.request(Method::GET, &path).send().await.unwrap();
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();

    let unchanged = server.request(Method::GET, &path).header("if-none-match", &tag);
    assert_eq!(answer(unchanged).await.0, StatusCode::NOT_MODIFIED);

    let patch = json!({"description": "new", "metadata": {"drop": null, "add": [3]}});
    let (status, patched) =
        answer(server.request(Method::PATCH, &path).header("if-match", &tag).json(&patch)).await;
    assert_eq!(status, StatusCode::OK, "{patched}");
    assert_eq!(patched["name"], "a");
    assert_eq!(patched["description"], "new");
    assert_eq!(patched["metadata"], json!({"keep": 1, "add": [3]}));

    let (status, problem) =
        answer(server.request(Method::PATCH, &path).header("if-match", &tag).json(&patch)).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PRECONDITION_FAILED, &json!("precondition_failed"))
    );
    let (status, _) = answer(server.request(Method::DELETE, &path).header("if-match", &tag)).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(server.get(&path).await.1, patched);
}

async fn lists_page_by_cursor_and_by_number(engine: Engine) {
    let server = Server::start(engine).await;
    for n in 0..24 {
        let kind = if n % 2 == 0 { "even" } else { "odd" };
        server.post("/api/v1/agents", json!({"name": format!("n{n}"), "agent_type": kind})).await;
    }
    // A counter may lag a second on PostgreSQL; the list itself never does.
    wait_until(|| async { server.get("/api/v1/agents?limit=1").await.1["total"] == json!(25) })
        .await;
    let mut seen: Vec<Value> = Vec::new();
    let mut path = "/api/v1/agents?limit=10&order=asc".to_owned();
    loop {
        let (_, page) = server.get(&path).await;
        assert_eq!(page["limit"], 10);
        seen.extend(page["items"].as_array().unwrap().iter().map(|agent| agent["name"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/agents?limit=10&order=asc&cursor={cursor}"),
            None => break,
        }
    }
    let expected: Vec<Value> = std::iter::once(json!("simple_agent"))
        .chain((0..24).map(|n| json!(format!("n{n}"))))
        .collect();
    assert_eq!(seen, expected);
    let (_, third) = server.get("/api/v1/agents?page=3&page_size=10").await;
    let names: Vec<&Value> =
        third["items"].as_array().unwrap().iter().map(|agent| &agent["name"]).collect();
    assert_eq!(names, ["n3", "n2", "n1", "n0", "simple_agent"]);
    let (_, odd) = server.get("/api/v1/agents?agent_type=odd&limit=5").await;
    assert_eq!((odd["total"].clone(), odd["total_capped"].clone()), (json!(12), json!(false)));
    assert_eq!(odd["items"][0]["name"], "n23");
    let (_, named) = server.get("/api/v1/agents?name=n7").await;
    assert_eq!(named["items"].as_array().unwrap().len(), 1);
    for wrong in
        ["limit=0", "limit=501", "limit=x", "order=up", "cursor=zz", "page=0", "status=odd"]
    {
        let (status, problem) = server.get(&format!("/api/v1/agents?{wrong}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {problem}");
    }
}

async fn concurrent_patches_lose_nothing(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, created) = server.post("/api/v1/agents", json!({"name": "a"})).await;
    let path = format!("/api/v1/agents/{}", created["id"].as_str().unwrap());
    let patches = (0..5).map(|n| {
        let (server, path) = (&server, &path);
        async move {
            let mut patch = serde_json::Map::new();
            patch.insert(format!("k{n}"), json!(n));
            server.patch(path, json!({"metadata": patch})).await
        }
    });
    for (status, body) in futures::future::join_all(patches).await {
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    let (_, read) = server.get(&path).await;
    assert_eq!(read["metadata"], json!({"k0": 0, "k1": 1, "k2": 2, "k3": 3, "k4": 4}));
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    let (status, problem) = server
        .post("/api/v1/agents", json!({"name": 7, "status": "sleepy", "memory": {"limit": 0}}))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let mut pointers: Vec<&str> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/memory/limit", "/name", "/status"], "{problem}");

    let (status, problem) =
        server.post("/api/v1/agents", json!({"name": "a", "tools": [{"type": "function"}]})).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("not_supported_yet"))
    );

    let raw = |body: &'static str, kind: &'static str| {
        answer(
            server.request(Method::POST, "/api/v1/agents").header("content-type", kind).body(body),
        )
    };
    assert_eq!(raw("{", "application/json").await.1["code"], "malformed_json");
    assert_eq!(raw("{}", "text/plain").await.1["code"], "unsupported_media_type");
    assert_eq!(
        raw(r#"{"name":"a\u0000"}"#, "application/json").await.1["code"],
        "validation_failed"
    );

    let (status, problem) =
        answer(server.client.get(format!("{}/api/v1/agents", server.url))).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthenticated")));
    let kind = problem["type"].as_str().unwrap();
    assert_eq!(kind, "/errors/unauthenticated");
    let page = server.client.get(format!("{}{kind}", server.url)).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let (status, problem) = answer(server.request(Method::PUT, "/api/v1/agents")).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed"))
    );
    assert_eq!(server.get("/api/v1/nothing").await.1["code"], "not_found");
}
