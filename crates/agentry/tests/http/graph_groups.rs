//! Two groups of one organisation, and the same group of another one, written at once
//! by many clients with the same keys and names: nothing crosses.

use std::collections::BTreeMap;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::on_both_engines;
use crate::server::{Engine, Server, answer, wait_until};

on_both_engines! {
    groups_that_are_written_at_once_do_not_cross,
}

/// Clients of each group.
const CLIENTS: u64 = 50;
/// What each of them does.
const STEPS: u64 = 6;
/// Imports that a process takes at once.
const IMPORTS: usize = 8;
/// Keys that all of them use.
const KEYS: u64 = 12;
const SEED: u64 = 20_261_121;

/// Whose client it is: with which key, in which group.
struct Side {
    key: String,
    group: &'static str,
    name: &'static str,
}

async fn groups_that_are_written_at_once_do_not_cross(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, org) =
        server.post("/api/v1/orgs", json!({"name": "other", "tier": "enterprise"})).await;
    let key = json!({"name": "theirs", "role": "owner", "org_id": org["id"]});
    let (_, key) = server.post("/api/v1/keys", key).await;
    let theirs = key["secret"].as_str().unwrap().to_owned();
    let own = server.key.clone();
    let sides = [
        Side { key: own.clone(), group: "a", name: "own a" },
        Side { key: own, group: "b", name: "own b" },
        Side { key: theirs, group: "a", name: "their a" },
    ];
    let ask = async |side: &Side, method: Method, path: &str, body: Option<&Value>| {
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}{path}{separator}group_id={}", server.url, side.group);
        let request = server.client.request(method, url).header("x-api-key", &side.key);
        let request = request.header("cache-control", "no-cache");
        answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    };
    let importing = Semaphore::new(IMPORTS);
    let client = async |side: &Side, nth: u64| {
        let mut rng = StdRng::seed_from_u64(SEED + nth * 1_000 + side.name.len() as u64);
        for _ in 0..STEPS {
            let (from, to) = (rng.random_range(0..KEYS), rng.random_range(0..KEYS));
            match rng.random_range(0..8) {
                0 | 1 => {
                    let body =
                        json!({"name": format!("n{from}"), "properties": {"side": side.name}});
                    let (status, _) =
                        ask(side, Method::POST, "/api/v1/graph/nodes", Some(&body)).await;
                    assert_eq!(status, StatusCode::CREATED);
                }
                2 => {
                    let path = format!("/api/v1/graph/nodes/search?name=n{from}&limit=1");
                    let (_, found) = ask(side, Method::GET, &path, None).await;
                    if let Some(id) = found["results"][0]["id"].as_str() {
                        let path = format!("/api/v1/graph/nodes/{id}");
                        let (status, _) = ask(side, Method::DELETE, &path, None).await;
                        // Another client may have been the first.
                        let ended =
                            [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND, StatusCode::CONFLICT];
                        assert!(ended.contains(&status), "{status}");
                    }
                }
                _ => {
                    let node = |key: u64| {
                        json!({
                            "type": "node", "key": key, "name": format!("n{key}"),
                            "properties": {"side": side.name},
                        })
                    };
                    let edge = json!({
                        "type": "edge", "from": from, "to": to, "kind": "calls",
                        "properties": {"side": side.name},
                    });
                    let lines = format!("{}\n{}\n{edge}\n", node(from), node(to));
                    let url = format!("{}/api/graph/import?group_id={}", server.url, side.group);
                    let request = server.client.post(url).header("x-api-key", &side.key);
                    let request =
                        request.header("content-type", "application/x-ndjson").body(lines);
                    // A process takes so many imports at once, and no more.
                    let _place = importing.acquire().await.unwrap();
                    let (status, report) = answer(request).await;
                    assert_eq!(status, StatusCode::OK, "{report}");
                    assert_eq!(report["bad_lines"], 0, "{report}");
                }
            }
        }
    };
    let clients = sides.iter().flat_map(|side| (0..CLIENTS).map(move |nth| (side, nth)));
    join_all(clients.map(|(side, nth)| client(side, nth))).await;

    for side in &sides {
        let all = async |what: &str| {
            let (mut found, mut cursor) = (BTreeMap::new(), String::new());
            loop {
                let path = format!("/api/v1/graph/{what}?limit=500{cursor}");
                let (_, page) = ask(side, Method::GET, &path, None).await;
                for item in page["items"].as_array().unwrap() {
                    found.insert(item["id"].as_str().unwrap().to_owned(), item.clone());
                }
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => return found,
                }
            }
        };
        let (nodes, edges) = (all("nodes").await, all("edges").await);
        assert!(
            nodes.len() > 10 && edges.len() > 10,
            "{}: {} {}",
            side.name,
            nodes.len(),
            edges.len()
        );
        for item in nodes.values().chain(edges.values()) {
            assert_eq!(item["properties"]["side"], side.name);
            assert_eq!(item["group_id"], side.group);
        }
        let mut degrees: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for edge in edges.values() {
            let end = |name: &str| edge[name].as_str().unwrap();
            assert!(nodes.contains_key(end("from")) && nodes.contains_key(end("to")), "{edge}");
            degrees.entry(end("from")).or_default().1 += 1;
            degrees.entry(end("to")).or_default().0 += 1;
        }
        // The counters say what is there, when what was appended is folded.
        let counted = (nodes.len() as u64, edges.len() as u64);
        wait_until(async || {
            let (_, stats) = ask(side, Method::GET, "/api/v1/graph/stats", None).await;
            let isolated = nodes.len() as u64 - degrees.len() as u64;
            (stats["total_nodes"].as_u64(), stats["total_relationships"].as_u64())
                == (Some(counted.0), Some(counted.1))
                && stats["categories"]["isolated"].as_u64() == Some(isolated)
        })
        .await;
        // And so do the degrees, which are folded apart from them.
        wait_until(async || {
            let path = "/api/v1/graph/categories/hubs?limit=500";
            let (_, hubs) = ask(side, Method::GET, path, None).await;
            hubs["nodes"].as_array().unwrap().iter().all(|hub| {
                let is = (hub["in_degree"].as_u64().unwrap(), hub["out_degree"].as_u64().unwrap());
                degrees.get(hub["id"].as_str().unwrap()) == Some(&is)
            })
        })
        .await;
        // From wherever one begins, one stays on this side.
        for start in edges.values().take(5) {
            let body = json!({"start_node": start["from"], "direction": "both", "max_depth": 9, "limit": 500});
            let (status, reached) =
                ask(side, Method::POST, "/api/v1/graph/traverse", Some(&body)).await;
            assert_eq!(status, StatusCode::OK, "{reached}");
            for node in reached["nodes"].as_array().unwrap() {
                assert_eq!(node["properties"]["side"], side.name);
            }
        }
        // What is on another side is not here.
        for other in sides.iter().filter(|other| other.name != side.name) {
            for id in nodes.keys().take(5) {
                let path = format!("/api/v1/graph/nodes/{id}");
                assert_eq!(ask(other, Method::GET, &path, None).await.0, StatusCode::NOT_FOUND);
                assert_eq!(ask(other, Method::DELETE, &path, None).await.0, StatusCode::NOT_FOUND);
            }
        }
    }
    let sides =
        "select count(*) from (select org, group_id from graph_node group by org, group_id) as it";
    let counts = server.home.number(sides).await;
    assert_eq!(counts, 3);
}
