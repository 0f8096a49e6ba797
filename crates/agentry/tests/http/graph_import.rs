//! `POST /api/v1/graph/import`: what is stored of lines, and what is said of them.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::graph::settled;
use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer};

const IMPORT: &str = "/api/v1/graph/import";

on_both_engines! {
    lines_become_nodes_and_edges,
    bad_lines_are_left_out_and_told,
    what_is_imported_again_is_there_once,
    many_lines_are_stored_in_batches,
    a_kill_leaves_whole_batches,
    what_is_no_import_is_refused,
}

async fn import(process: &Process, query: &str, lines: String) -> Value {
    let request = process.request(Method::POST, &format!("{IMPORT}{query}"));
    let request = request.header("content-type", "application/x-ndjson").body(lines);
    let (status, report) = answer(request).await;
    assert_eq!(status, StatusCode::OK, "{report}");
    report
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

async fn lines_become_nodes_and_edges(engine: Engine) {
    let server = Server::start(engine).await;
    let node = json!({
        "type": "node", "key": "k1", "kind": "function", "name": "main", "aliases": ["start"],
        "language": "rust", "properties": {"line": 1.50, "more": [null]},
    });
    let edge = json!({
        "type": "edge", "from": "k1", "to": 7, "kind": "calls", "weight": 2.5,
        "properties": {"at": [3]},
    });
    // The edge may come before its nodes, in the same batch.
    let other = json!({"type": "node", "key": 7, "name": "helper"});
    let report =
        import(&server, "?group_id=code", lines(&[edge.clone(), node.clone(), other])).await;
    assert_eq!(report["lines"], 3);
    assert_eq!(report["nodes"], json!({"created": 2, "updated": 0, "unchanged": 0}));
    assert_eq!(report["edges"], json!({"created": 1, "existing": 0}));
    assert_eq!((&report["bad_lines"], &report["errors"]), (&json!(0), &json!([])));
    let (_, found) = server.get("/api/graph/nodes/search?group_id=code&name=main").await;
    let main = &found["results"][0];
    for (field, value) in node.as_object().unwrap().iter().filter(|(field, _)| *field != "type") {
        assert_eq!(&main[field], value, "{field}");
    }
    let (_, edges) = server.get("/api/v1/graph/edges?group_id=code").await;
    let made = &edges["items"][0];
    for field in ["kind", "weight", "properties"] {
        assert_eq!(made[field], edge[field], "{field}");
    }
    assert_eq!(made["from"], main["id"]);
    // An id leads to a node too.
    let by_id = json!({"type": "edge", "from": made["to"], "to": main["id"], "kind": "calls"});
    let report = import(&server, "?group_id=code", lines(&[by_id])).await;
    assert_eq!(report["edges"]["created"], 1, "{report}");
    settled(&server, "code", (2, 2)).await;
}

async fn bad_lines_are_left_out_and_told(engine: Engine) {
    let server = Server::start(engine).await;
    let long = json!({"type": "node", "name": "x", "properties": {"x": "y".repeat(300_000)}});
    let text = [
        r#"{"type":"node","key":"a","name":"a"}"#,
        "not json",
        "",
        r#"{"type":"node","key":"b"}"#,
        r#"{"type":"edge","from":"a","to":"b","kind":"k"}"#,
        r#"{"type":"comet","name":"c"}"#,
        r#"{"type":"edge","from":"a","to":"a","kind":"k"}"#,
        &long.to_string(),
        r#"{"type":"node","key":"c","name":"c"}"#,
    ]
    .join("\n");
    let report = import(&server, "", text).await;
    assert_eq!((&report["lines"], &report["bad_lines"]), (&json!(8), &json!(5)), "{report}");
    let told: Vec<String> = report["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let text = |name: &str| it[name].as_str().unwrap();
            format!("{} {} {}", it["line"], text("pointer"), text("code"))
        })
        .filter(|told| !told.starts_with("6 /name"))
        .collect();
    for expected in [
        "2  malformed_json",
        "4 /name required",
        "5 /to not_found",
        "6 /type not_allowed",
        "8  too_long",
    ] {
        assert!(told.iter().any(|told| told == expected), "{expected}: {told:?}");
    }
    assert_eq!(report["nodes"]["created"], 2);
    assert_eq!(report["edges"]["created"], 1);
    settled(&server, "default", (2, 1)).await;
    // Many bad lines are counted, and the first of them told.
    let report = import(&server, "", "?\n".repeat(1_500)).await;
    assert_eq!(report["bad_lines"], 1_500);
    assert_eq!(report["errors"].as_array().unwrap().len(), 1_000);
}

async fn what_is_imported_again_is_there_once(engine: Engine) {
    let server = Server::start(engine).await;
    let node = |key: &str, name: &str| json!({"type": "node", "key": key, "name": name});
    let edge = |from: &str, to: &str, weight: f64| json!({"type": "edge", "from": from, "to": to, "kind": "k", "weight": weight});
    let first = lines(&[node("a", "a"), node("b", "b"), edge("a", "b", 1.0)]);
    import(&server, "", first.clone()).await;
    let report = import(&server, "", first).await;
    assert_eq!(report["nodes"], json!({"created": 0, "updated": 0, "unchanged": 2}));
    assert_eq!(report["edges"], json!({"created": 0, "existing": 1}));
    let changed = lines(&[
        node("a", "first"),
        node("a", "renamed"),
        edge("a", "b", 4.0),
        edge("a", "b", 5.0),
        edge("b", "a", 1.0),
    ]);
    let report = import(&server, "", changed).await;
    assert_eq!(report["nodes"], json!({"created": 0, "updated": 1, "unchanged": 0}));
    assert_eq!(report["edges"], json!({"created": 1, "existing": 1}));
    settled(&server, "default", (2, 2)).await;
    let (_, found) = server.get("/api/graph/nodes/search?name=renamed").await;
    assert_eq!(found["results"][0]["version"], 2);
    let (_, edges) = server.get("/api/v1/graph/edges?order=asc").await;
    assert_eq!(
        (&edges["items"][0]["weight"], &edges["items"][0]["version"]),
        (&json!(5.0), &json!(2))
    );
    // A node without a key is a new one each time.
    let unnamed = lines(&[json!({"type": "node", "name": "x"})]);
    import(&server, "", unnamed.clone()).await;
    assert_eq!(import(&server, "", unnamed).await["nodes"]["created"], 1);
    settled(&server, "default", (4, 2)).await;
}

/// A ring of so many nodes, with a chord from each.
fn ring(nodes: u64) -> String {
    let mut text = String::new();
    for n in 0..nodes {
        text += &format!(
            "{{\"type\":\"node\",\"key\":{n},\"kind\":\"k{}\",\"name\":\"node {n}\"}}\n",
            n % 3
        );
    }
    for n in 0..nodes {
        let (next, far) = ((n + 1) % nodes, (n * 7 + 3) % nodes);
        text += &format!("{{\"type\":\"edge\",\"from\":{n},\"to\":{next},\"kind\":\"next\"}}\n");
        text += &format!("{{\"type\":\"edge\",\"from\":{n},\"to\":{far},\"kind\":\"far\"}}\n");
    }
    text
}

async fn many_lines_are_stored_in_batches(engine: Engine) {
    let server = Server::start(engine).await;
    let report = import(&server, "", ring(3_000)).await;
    assert_eq!(report["nodes"]["created"], 3_000, "{report}");
    assert_eq!((&report["edges"]["created"], &report["batches"]), (&json!(6_000), &json!(9)));
    let stats = settled(&server, "default", (3_000, 6_000)).await;
    assert_eq!(stats["node_types"], json!({"k0": 1_000, "k1": 1_000, "k2": 1_000}));
    assert_eq!(stats["relationship_types"], json!({"far": 3_000, "next": 3_000}));
}

async fn a_kill_leaves_whole_batches(engine: Engine) {
    let home = Home::new(engine).await;
    let server = Process::start(&home);
    let text = ring(4_000);
    let request = server.request(Method::POST, IMPORT);
    let request = request.header("content-type", "application/x-ndjson").body(text.clone());
    let sending = tokio::spawn(request.send());
    crate::server::wait_until(async || home.count("graph_node").await >= 2_000).await;
    server.kill();
    let _ = sending.await.unwrap();
    let (nodes, edges) = (home.count("graph_node").await, home.count("graph_edge").await);
    assert_eq!((nodes % 1_000, edges % 1_000), (0, 0), "{nodes} nodes, {edges} edges");
    // Sent again, all of it is there once, and the recount finds nothing.
    let server = Process::start(&home);
    let report = import(&server, "", text).await;
    assert_eq!(report["nodes"]["unchanged"], nodes, "{report}");
    settled(&server, "default", (4_000, 8_000)).await;
    server.kill();
    let binary = env!("CARGO_BIN_EXE_agentry");
    let mut doctor = std::process::Command::new(binary);
    doctor.args(home.arguments("doctor")).arg("--deep");
    let output = doctor.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

async fn what_is_no_import_is_refused(engine: Engine) {
    let server = Server::start_with(engine, &[("AGENTRY_GRAPH__IMPORT_BYTES_MAX", "1000")]).await;
    let post = || server.request(Method::POST, IMPORT);
    let (status, _) = answer(post().json(&json!({"type": "node"}))).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let ndjson = || post().header("content-type", "application/x-ndjson; charset=utf-8");
    let (status, problem) = answer(ndjson().header("idempotency-key", "k").body("")).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("not_supported_yet"))
    );
    let (status, problem) = answer(ndjson().body("x".repeat(2_000))).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large"))
    );
    let (status, report) = answer(ndjson().body("")).await;
    assert_eq!((status, &report["lines"]), (StatusCode::OK, &json!(0)));
}
