//! `/api/v1/graph`: nodes, edges, and everything that is asked about them, over a
//! graph that is counted by hand.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crud::{self, NOTHING, id, made};
use crate::on_both_engines;
use crate::server::{Engine, Process, Server, answer, wait_until};
use crate::socket::Socket;

const NODES: &str = "/api/v1/graph/nodes";
const EDGES: &str = "/api/v1/graph/edges";

on_both_engines! {
    nodes_keep_every_field,
    edges_keep_every_field,
    nodes_and_edges_take_effect_once,
    a_graph_is_as_it_was_counted_by_hand,
    traversals_go_where_edges_lead,
    symbols_are_asked_about,
    a_cyclic_graph_costs_no_more_than_its_bounds,
    a_node_goes_with_its_edges,
    events_are_filtered_by_group,
    what_is_wrong_is_said,
    statistics_say_how_old_they_are,
}

async fn nodes_keep_every_field(engine: Engine) {
    let server = Server::start(engine).await;
    let full = json!({
        "group_id": "default", "key": "f:1", "kind": "function", "name": "Store::write \u{1f511}",
        "aliases": ["write it", "put"], "language": "rust",
        "properties": {"line": 7, "n": 1.50, "deep": [null, {"a": []}]},
    });
    let node = crud::keeps_every_field(&server, NODES, &full).await;
    for (field, value) in [
        ("in_degree", json!(0)),
        ("out_degree", json!(0)),
        ("version", json!(1)),
        ("origin", json!("client")),
    ] {
        assert_eq!(node[field], value, "{field}");
    }
    let bare = made(&server, NODES, json!({"name": "bare"})).await;
    for (field, value) in [
        ("key", Value::Null),
        ("kind", json!("node")),
        ("aliases", json!([])),
        ("language", Value::Null),
        ("properties", json!({})),
        ("group_id", json!("default")),
    ] {
        assert_eq!(bare[field], value, "{field}");
    }
    let path = format!("{NODES}/{}", id(&node));
    let patch = json!({"name": "renamed", "properties": {"line": null, "new": 1}, "key": null});
    let (status, changed) = server.patch(&path, patch).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(changed["name"], "renamed");
    assert_eq!(changed["properties"], json!({"n": 1.50, "deep": [null, {"a": []}], "new": 1}));
    assert_eq!((&changed["key"], &changed["version"]), (&Value::Null, &json!(2)));
    assert_eq!(changed["aliases"], full["aliases"]);
    assert_eq!(server.get(&path).await.1, changed);
    // Both prefixes lead to it, with and without a slash at the end.
    let other = path.replace("/api/v1/", "/api/");
    assert_eq!(server.get(&other).await.1, changed);
    assert_eq!(server.get(&format!("{other}/")).await.1, changed);

    // The tag tells a node from itself with another edge.
    let tagged = async || {
        let response = server.request(Method::GET, &path).send().await.unwrap();
        response.headers()["etag"].to_str().unwrap().to_owned()
    };
    let tag = tagged().await;
    let known = || server.request(Method::GET, &path).header("if-none-match", &tag);
    assert_eq!(answer(known()).await.0, StatusCode::NOT_MODIFIED);
    made(&server, EDGES, json!({"from": bare["id"], "to": node["id"], "kind": "calls"})).await;
    wait_until(async || answer(known()).await.0 == StatusCode::OK).await;
    assert_eq!(server.get(&path).await.1["in_degree"], 1);
    let stale = server.request(Method::PATCH, &path).header("if-match", "\"1\"");
    let (status, _) = answer(stale.json(&json!({"name": "no"}))).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    let (_, list) = server.get(&format!("{NODES}?kind=function&order=asc&limit=1")).await;
    assert_eq!((&list["items"][0]["id"], &list["total"]), (&node["id"], &json!(1)));
}

async fn edges_keep_every_field(engine: Engine) {
    let server = Server::start(engine).await;
    let one = made(&server, NODES, json!({"name": "one"})).await;
    let two = made(&server, NODES, json!({"name": "two"})).await;
    let full = json!({
        "group_id": "default", "from": one["id"], "to": two["id"], "kind": "calls",
        "weight": 0.1, "properties": {"line": 7, "a": [1.50]},
    });
    let edge = crud::keeps_every_field(&server, EDGES, &full).await;
    assert_eq!((&edge["version"], &edge["origin"]), (&json!(1), &json!("client")));
    let bare = json!({"from": two["id"], "to": one["id"], "kind": "calls"});
    let bare = made(&server, EDGES, bare).await;
    assert_eq!((&bare["weight"], &bare["properties"]), (&json!(1.0), &json!({})));
    let path = format!("{EDGES}/{}", id(&edge));
    let patch = json!({"weight": -7.25, "properties": {"line": null}, "kind": "calls"});
    let (status, changed) = server.patch(&path, patch).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(changed["weight"], -7.25);
    assert_eq!((&changed["properties"], &changed["version"]), (&json!({"a": [1.50]}), &json!(2)));
    assert_eq!(server.get(&path).await.1, changed);
    for field in ["from", "to", "kind", "group_id"] {
        let sent = if field == "from" { two["id"].clone() } else { json!(NOTHING) };
        let (status, problem) = server.patch(&path, json!({field: sent})).await;
        let expected = match field {
            // Another group has no such edge.
            "group_id" => (StatusCode::NOT_FOUND, Value::Null),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, json!("immutable")),
        };
        assert_eq!((status, problem["errors"][0]["code"].clone()), expected, "{field}");
    }
    let loops = json!({"from": one["id"], "to": one["id"], "kind": "calls"});
    crud::entity_tags_guard(&server, EDGES, loops, json!({"weight": 2})).await;
    let (_, list) = server.get(&format!("{EDGES}?order=asc")).await;
    assert_eq!((&list["items"], &list["total"]), (&json!([changed, bare]), &json!(2)));
}

async fn nodes_and_edges_take_effect_once(engine: Engine) {
    let server = Server::start(engine).await;
    let once = async |path: &str, body: &Value| {
        let request = server.request(Method::POST, path).header("idempotency-key", "k");
        answer(request.json(body)).await
    };
    let body = json!({"name": "one", "key": "k"});
    let (status, node) = once(NODES, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{node}");
    assert_eq!(once(NODES, &body).await, (status, node.clone()));
    let body = json!({"from": node["id"], "to": node["id"], "kind": "is"});
    let (status, edge) = once(EDGES, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{edge}");
    assert_eq!(once(EDGES, &body).await, (status, edge));
    let stats = settled(&server, "default", (1, 1)).await;
    assert_eq!(stats["relationship_types"], json!({"is": 1}));
}

/// The statistics of a group, when they count so many nodes and edges, and what was
/// appended is folded.
pub(crate) async fn settled(process: &Process, group: &str, count: (u64, u64)) -> Value {
    let path = format!("/api/v1/graph/stats?group_id={group}");
    wait_until(async || {
        let stats = fresh(process, &path).await;
        let categories = &stats["categories"];
        // Every node that is in none of these has edges that come and edges that go.
        let inner = |stats: &Value| {
            let of = |name: &str| categories[name].as_u64().unwrap();
            stats["total_nodes"].as_u64().unwrap()
                >= of("entry_points") + of("leaves") + of("isolated")
        };
        (stats["total_nodes"].as_u64(), stats["total_relationships"].as_u64())
            == (Some(count.0), Some(count.1))
            && inner(&stats)
    })
    .await;
    fresh(process, &path).await
}

/// An aggregate as it is, and not as it was a moment ago.
pub(crate) async fn fresh(process: &Process, path: &str) -> Value {
    let request = process.request(Method::GET, path).header("cache-control", "no-cache");
    answer(request).await.1
}

/// A graph of a program, by the names of its nodes:
///
/// ```text
/// main -calls-> parse -calls-> lex -calls-> read
/// main -calls-> run -calls-> eval -calls-> apply -calls-> eval
/// run -calls-> lex        eval -uses-> Value
/// app -contains-> main, parse, run
/// alone
/// ```
const CALLS: [(&str, &str, &str); 12] = [
    ("main", "calls", "parse"),
    ("parse", "calls", "lex"),
    ("lex", "calls", "read"),
    ("main", "calls", "run"),
    ("run", "calls", "eval"),
    ("eval", "calls", "apply"),
    ("apply", "calls", "eval"),
    ("run", "calls", "lex"),
    ("eval", "uses", "Value"),
    ("app", "contains", "main"),
    ("app", "contains", "parse"),
    ("app", "contains", "run"),
];
const NAMES: [(&str, &str); 10] = [
    ("app", "module"),
    ("main", "function"),
    ("parse", "function"),
    ("lex", "function"),
    ("read", "function"),
    ("run", "function"),
    ("eval", "function"),
    ("apply", "function"),
    ("Value", "class"),
    ("alone", "function"),
];

/// Makes it in a group: the nodes' ids by name.
async fn program(process: &Process, group: &str) -> BTreeMap<String, Value> {
    let mut ids = BTreeMap::new();
    for (name, kind) in NAMES {
        let body =
            json!({"group_id": group, "name": name, "kind": kind, "key": format!("k:{name}")});
        ids.insert(name.to_owned(), made(process, NODES, body).await["id"].clone());
    }
    for (from, kind, to) in CALLS {
        let body = json!({"group_id": group, "from": ids[from], "to": ids[to], "kind": kind});
        made(process, EDGES, body).await;
    }
    ids
}

fn names(nodes: &Value) -> Vec<&str> {
    nodes.as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect()
}

async fn a_graph_is_as_it_was_counted_by_hand(engine: Engine) {
    let server = Server::start(engine).await;
    program(&server, "code").await;
    // Something elsewhere that is not to be seen.
    made(&server, NODES, json!({"name": "main", "kind": "comet"})).await;
    let categories = async |name: &str, query: &str| {
        let path = format!("/api/graph/categories/{name}?group_id=code{query}");
        let (status, answer) = server.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["category"], name);
        answer
    };
    wait_until(async || {
        let leaves = categories("leaves", "").await;
        let entry_points = categories("entry_points", "").await;
        let isolated = categories("isolated", "").await;
        [leaves, entry_points, isolated].map(|it| it["total"].as_u64()) == [2, 1, 1].map(Some)
    })
    .await;
    let stats = fresh(&server, "/api/graph/stats?group_id=code").await;
    assert_eq!((&stats["total_nodes"], &stats["total_relationships"]), (&json!(10), &json!(12)));
    assert_eq!(stats["node_types"], json!({"class": 1, "function": 8, "module": 1}));
    assert_eq!(stats["relationship_types"], json!({"calls": 8, "contains": 3, "uses": 1}));
    let counted = json!({"entry_points": 1, "hubs": 3, "leaves": 2, "isolated": 1});
    assert_eq!(stats["categories"], counted);
    assert!(stats["execution_time_ms"].as_f64().unwrap() >= 0.0);

    assert_eq!(names(&categories("entry_points", "").await["nodes"]), ["app"]);
    assert_eq!(names(&categories("leaves", "").await["nodes"]), ["read", "Value"]);
    assert_eq!(names(&categories("isolated", "").await["nodes"]), ["alone"]);
    // A quarter of ten is three. run and eval have two in and two out; app, main, parse
    // and lex have three in all, and app is the oldest of them.
    let hubs = categories("hubs", "").await;
    assert_eq!(names(&hubs["nodes"]), ["run", "eval", "app"]);
    let degrees: Vec<_> = hubs["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["in_degree"], &it["out_degree"]))
        .collect();
    assert_eq!(degrees, [(&json!(2), &json!(2)), (&json!(2), &json!(2)), (&json!(0), &json!(3))]);
    let part = categories("hubs", "&offset=1&limit=1").await;
    assert_eq!((names(&part["nodes"]), &part["total"]), (vec!["eval"], &json!(3)));
    assert_eq!((&part["offset"], &part["limit"]), (&json!(1), &json!(1)));
    assert_eq!(names(&categories("hubs", "&offset=3").await["nodes"]), Vec::<&str>::new());
    assert_eq!(names(&categories("leaves", "&offset=1").await["nodes"]), ["Value"]);

    let search = async |query: &str| {
        let (status, found) =
            server.get(&format!("/api/graph/nodes/search?group_id=code{query}")).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        found
    };
    let found = search("&name=MAIN").await;
    assert_eq!((names(&found["results"]), &found["total_count"]), (vec!["main"], &json!(1)));
    assert_eq!(names(&search("&name=a").await["results"]), ["app", "apply", "alone"]);
    assert_eq!(names(&search("&name=a&kind=module").await["results"]), ["app"]);
    let found = search("&kind=function&limit=2").await;
    assert_eq!(
        (names(&found["results"]), &found["total_count"]),
        (vec!["main", "parse"], &json!(8))
    );
    assert_eq!(search("&name=nobody").await["total_count"], 0);
    assert_eq!(search("&name=--").await["total_count"], 0);
}

/// The names and depths of what a traversal reached.
fn reached(answer: &Value) -> Vec<(&str, u64)> {
    let nodes = answer["nodes"].as_array().unwrap();
    nodes.iter().map(|it| (it["name"].as_str().unwrap(), it["depth"].as_u64().unwrap())).collect()
}

async fn traversals_go_where_edges_lead(engine: Engine) {
    let server = Server::start(engine).await;
    let ids = program(&server, "code").await;
    let traverse = async |body: Value| {
        let (status, answer) = server.post("/api/graph/traverse?group_id=code", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let from = |name: &str, mut more: Value| {
        more["start_node"] = ids[name].clone();
        more
    };
    let answer = traverse(from("main", json!({"max_depth": 2}))).await;
    let levels = [("main", 0), ("parse", 1), ("run", 1), ("lex", 2), ("eval", 2)];
    assert_eq!(reached(&answer).into_iter().collect::<BTreeSet<_>>(), levels.into());
    assert_eq!(reached(&answer)[0], ("main", 0));
    assert_eq!(answer["edges"].as_array().unwrap().len(), 5);
    assert_eq!((&answer["truncated"], &answer["truncated_by"]), (&json!(false), &Value::Null));
    // Each node but the first says by which edge it was reached.
    for node in answer["nodes"].as_array().unwrap() {
        let via = answer["edges"].as_array().unwrap().iter().find(|edge| edge["id"] == node["via"]);
        assert_eq!(via.is_none(), node["depth"] == 0, "{node}");
        assert!(via.is_none_or(|edge| edge["to"] == node["id"]));
    }
    // A round trip ends, at whatever depth.
    let all = traverse(from("main", json!({"max_depth": 50}))).await;
    assert_eq!(reached(&all).len(), 8);
    assert_eq!(reached(&all).iter().find(|it| it.0 == "apply"), Some(&("apply", 3)));
    assert_eq!(all["edges"].as_array().unwrap().len(), 9);

    let back = traverse(from("lex", json!({"direction": "in", "edge_kinds": ["calls"]}))).await;
    let expected = [("lex", 0), ("parse", 1), ("run", 1), ("main", 2)];
    assert_eq!(reached(&back).into_iter().collect::<BTreeSet<_>>(), expected.into());
    let both = traverse(from("Value", json!({"direction": "both", "max_depth": 1}))).await;
    assert_eq!(reached(&both), [("Value", 0), ("eval", 1)]);
    let kinds = json!({"edge_kinds": ["uses", "contains"], "direction": "both"});
    assert_eq!(reached(&traverse(from("app", kinds)).await).len(), 4);
    let none = traverse(from("main", json!({"max_depth": 0}))).await;
    assert_eq!((reached(&none), &none["edges"]), (vec![("main", 0)], &json!([])));

    // Depth first: a path goes to its end, and depths stay those of the shortest way.
    let deep = traverse(from("run", json!({"query_type": "dfs", "edge_kinds": ["calls"]}))).await;
    let order = reached(&deep);
    assert_eq!(order.len(), 5);
    let place = |name| order.iter().position(|it| it.0 == name).unwrap();
    assert_eq!(place("read"), place("lex") + 1);
    assert_eq!(place("apply"), place("eval") + 1);
    let chain = traverse(from("main", json!({"query_type": "call_chain", "max_depth": 9}))).await;
    assert_eq!(reached(&chain).len(), 7, "not to what is only used");
    let path = format!(
        "/api/graph/call-chain/{}?group_id=code&max_depth=9",
        ids["main"].as_str().unwrap()
    );
    let (status, same) = server.get(&path).await;
    assert_eq!((status, reached(&same)), (StatusCode::OK, reached(&chain)));
    let (_, callers) = server.get("/api/graph/call-chain/k:read?group_id=code&direction=in").await;
    let callers: BTreeSet<_> = reached(&callers).into_iter().collect();
    assert_eq!(callers, [("read", 0), ("lex", 1), ("parse", 2), ("run", 2), ("main", 3)].into());

    // Fewer nodes than there are, and it says so.
    let few = traverse(from("main", json!({"max_depth": 9, "limit": 3}))).await;
    assert_eq!(reached(&few).len(), 3);
    assert_eq!((&few["truncated"], &few["truncated_by"]), (&json!(true), &json!("limit")));
    for edge in few["edges"].as_array().unwrap() {
        let nodes = few["nodes"].as_array().unwrap();
        for end in ["from", "to"] {
            assert!(nodes.iter().any(|node| node["id"] == edge[end]), "{edge}");
        }
    }

    let around =
        json!({"group_id": "code", "node_ids": [ids["eval"], ids["alone"], NOTHING], "depth": 1});
    let (status, sub) = server.post("/api/graph/subgraph", around).await;
    assert_eq!(status, StatusCode::OK, "{sub}");
    let expected: BTreeSet<_> = ["eval", "alone", "run", "apply", "Value"].into();
    assert_eq!(names(&sub["nodes"]).into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(sub["edges"].as_array().unwrap().len(), 4);
    assert_eq!(sub["missing"], json!([NOTHING]));
    let two = format!("{},{}", ids["run"].as_str().unwrap(), ids["lex"].as_str().unwrap());
    let (_, sub) =
        server.get(&format!("/api/graph/subgraph?group_id=code&depth=0&node_ids={two}")).await;
    assert_eq!(
        (names(&sub["nodes"]), sub["edges"].as_array().unwrap().len()),
        (vec!["run", "lex"], 1)
    );
}

async fn symbols_are_asked_about(engine: Engine) {
    let server = Server::start(engine).await;
    let ids = program(&server, "code").await;
    let twin = json!({"group_id": "code", "name": "other::Lex", "kind": "function"});
    let twin = made(&server, NODES, twin).await;
    let ask = async |query: &str, symbol: &str, more: &str| {
        let path = format!("/api/graph/query/{query}?group_id=code&symbol={symbol}{more}");
        let (status, answer) = server.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let others = |answer: &Value| {
        let found = answer["results"].as_array().unwrap();
        let name = |it: &Value| it["node"]["name"].as_str().unwrap().to_owned();
        found.iter().map(name).collect::<BTreeSet<_>>()
    };
    let is = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let by_id = ids["lex"].as_str().unwrap();
    for symbol in ["lex", "LEX", "k:lex", by_id] {
        let answer = ask("callers", symbol, "").await;
        assert_eq!(others(&answer), is(&["parse", "run"]), "{symbol}");
        assert_eq!(names(&answer["symbols"]), ["lex"], "the end of a name counts less");
    }
    assert_eq!(others(&ask("callees", "run", "").await), is(&["eval", "lex"]));
    assert_eq!(others(&ask("references", "main", "").await), is(&[]), "what contains is none");
    assert_eq!(others(&ask("references", "Value", "").await), is(&["eval"]));
    assert_eq!(others(&ask("callers", "Value", "").await), is(&[]));
    let few = ask("callers", "lex", "&limit=1").await;
    assert_eq!((&few["truncated"], &few["total"]), (&json!(true), &json!(1)));
    let path = format!("{NODES}/{}?group_id=code", ids["lex"].as_str().unwrap());
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    // Now it is the only one that is called so at its end.
    assert_eq!(ask("callers", "lex", "").await["symbols"][0]["id"], twin["id"]);
    assert_eq!(ask("callers", "nobody", "").await["symbols"], json!([]));
}

/// Everything leads to everything: 60 nodes, each to each, in two kinds.
async fn a_cyclic_graph_costs_no_more_than_its_bounds(engine: Engine) {
    let server = Server::start(engine).await;
    let mut lines = String::new();
    for n in 0..60 {
        lines += &json!({"type": "node", "key": n, "name": format!("n{n}")}).to_string();
        lines += "\n";
    }
    for (from, to) in (0..60).flat_map(|from| (0..60).map(move |to| (from, to))) {
        for kind in ["a", "b"] {
            lines += &json!({"type": "edge", "from": from, "to": to, "kind": kind}).to_string();
            lines += "\n";
        }
    }
    let request = server.request(Method::POST, "/api/graph/import");
    let request = request.header("content-type", "application/x-ndjson").body(lines);
    let (status, report) = answer(request).await;
    assert_eq!((status, &report["edges"]["created"]), (StatusCode::OK, &json!(7_200)), "{report}");
    for query_type in ["bfs", "dfs"] {
        let body = json!({
            "start_node": "0", "query_type": query_type, "direction": "both", "max_depth": 50,
            "limit": 10,
        });
        let (_, answer) = server.post("/api/graph/traverse", body).await;
        assert_eq!(answer["nodes"].as_array().unwrap().len(), 10);
        assert_eq!(answer["truncated_by"], "limit");
        assert!(answer["edges"].as_array().unwrap().len() <= 500);
        // There are 60 nodes and room for 60, but not for all the edges.
        let body =
            json!({"start_node": "0", "max_depth": 50, "limit": 61, "query_type": query_type});
        let (_, answer) = server.post("/api/graph/traverse", body).await;
        assert_eq!(answer["nodes"].as_array().unwrap().len(), 60);
        assert_eq!(answer["truncated_by"], "edges_read", "{query_type}");
        assert_eq!(answer["edges"].as_array().unwrap().len(), 61 * 20);
    }
}

async fn a_node_goes_with_its_edges(engine: Engine) {
    let server = Server::start(engine).await;
    let ids = program(&server, "code").await;
    let path = |name: &str| format!("{NODES}/{}?group_id=code", ids[name].as_str().unwrap());
    assert_eq!(server.delete(&path("eval")).await, StatusCode::NO_CONTENT);
    assert_eq!(server.get(&path("eval")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.delete(&path("eval")).await, StatusCode::NOT_FOUND);
    let stats = settled(&server, "code", (9, 8)).await;
    assert_eq!(stats["relationship_types"], json!({"calls": 5, "contains": 3}));
    // What only it led to stands alone now; where degrees are folded, a moment later.
    wait_until(async || {
        let (_, found) = server.get("/api/graph/categories/isolated?group_id=code").await;
        found["total"] == 3 && names(&found["nodes"]) == ["apply", "Value", "alone"]
    })
    .await;
    let (_, edges) = server.get(&format!("{EDGES}?group_id=code&limit=500")).await;
    for edge in edges["items"].as_array().unwrap() {
        assert!(edge["from"] != ids["eval"] && edge["to"] != ids["eval"]);
    }

    // One with more edges than are deleted at once.
    let mut lines = json!({"type": "node", "key": "hub", "name": "hub"}).to_string();
    for n in 0..1_300 {
        let node = json!({"type": "node", "key": n, "name": "spoke", "kind": "spoke"});
        let edge = json!({"type": "edge", "from": "hub", "to": n, "kind": "k"});
        lines += &format!("\n{node}\n{edge}");
    }
    let request = server.request(Method::POST, "/api/graph/import");
    let request = request.header("content-type", "application/x-ndjson").body(lines);
    let (_, report) = answer(request).await;
    assert_eq!(report["edges"]["created"], 1_300, "{report}");
    let (_, found) = server.get("/api/graph/nodes/search?name=hub").await;
    let path = format!("{NODES}/{}", id(&found["results"][0]));
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    settled(&server, "default", (1_300, 0)).await;
}

async fn events_are_filtered_by_group(engine: Engine) {
    let server = Server::start(engine).await;
    let mut of_a = Socket::open(&server, "/ws/events?group_ids=a").await;
    let mut either = Socket::open(&server, "/ws/events/filtered").await;
    either.say(r#"{"action":"filter","group_ids":["a"],"group_id":"b"}"#).await;
    assert_eq!(either.json().await["group_ids"], json!(["a", "b"]));
    let node =
        async |group: &str| made(&server, NODES, json!({"group_id": group, "name": "n"})).await;
    let (other, in_b, in_a) = (node("c").await, node("b").await, node("a").await);
    server.post("/api/v1/agents", json!({"name": "in no group"})).await;
    let edge = json!({"group_id": "a", "from": in_a["id"], "to": in_a["id"], "kind": "is"});
    let edge = made(&server, EDGES, edge).await;
    let event = of_a.json().await;
    assert_eq!(event["event_type"], "node.created", "{event}");
    assert_eq!(
        (&event["entity_id"], &event["data"]),
        (&in_a["id"], &json!({"group_id": "a", "version": 1}))
    );
    assert_eq!(of_a.json().await["entity_id"], edge["id"]);
    for id in [&in_b["id"], &in_a["id"], &edge["id"]] {
        assert_eq!(either.json().await["entity_id"], *id);
    }
    let lines = "{\"type\":\"node\",\"name\":\"x\"}\nbad\n";
    let request = server.request(Method::POST, "/api/graph/import?group_id=a");
    let request = request.header("content-type", "application/x-ndjson").body(lines);
    let (_, report) = answer(request).await;
    let event = of_a.json().await;
    assert_eq!(event["event_type"], "graph.imported", "{event}");
    assert_eq!(event["entity_id"], report["import_id"]);
    let told = json!({
        "group_id": "a", "lines": 2, "bytes": 29, "bytes_total": lines.len(), "nodes": 1,
        "edges": 0, "bad_lines": 1,
    });
    assert_eq!(event["data"], told);
    assert_ne!(other["group_id"], "a");
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    let node = made(&server, NODES, json!({"name": "n", "key": "k", "group_id": "g"})).await;
    let faults = async |path: &str, body: Value| {
        let (status, problem) = server.post(path, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        let faults = problem["errors"].as_array().unwrap().clone();
        let told = |it: &Value| {
            format!("{} {}", it["pointer"].as_str().unwrap(), it["code"].as_str().unwrap())
        };
        faults.iter().map(told).collect::<Vec<_>>()
    };
    let wrong = json!({"kind": "", "aliases": ["a", 7], "language": 3, "properties": []});
    assert_eq!(
        faults(NODES, wrong).await,
        [
            "/kind too_short",
            "/name required",
            "/aliases/1 wrong_type",
            "/language wrong_type",
            "/properties wrong_type"
        ]
    );
    assert_eq!(
        faults(EDGES, json!({"from": "k", "weight": "heavy"})).await,
        ["/from not_an_id", "/to required", "/kind required", "/weight wrong_type"]
    );
    let elsewhere = format!("{NODES}?group_id=g");
    assert_eq!(
        faults(&elsewhere, json!({"name": "n", "group_id": "h"})).await,
        ["/group_id exclusive"]
    );
    let traverse = json!({"query_type": "walk", "max_depth": 51, "limit": 0, "edge_kinds": []});
    assert_eq!(
        faults("/api/graph/traverse", traverse).await,
        [
            "/start_node required",
            "/query_type not_allowed",
            "/edge_kinds too_few",
            "/max_depth out_of_range",
            "/limit out_of_range"
        ]
    );
    let around = json!({"node_ids": ["x", node["id"]], "depth": 6});
    assert_eq!(
        faults("/api/graph/subgraph", around).await,
        ["/node_ids/0 not_an_id", "/depth out_of_range"]
    );
    let (status, problem) = server.post(&elsewhere, json!({"name": "other", "key": "k"})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("already_exists")));
    let edge = json!({"group_id": "g", "from": node["id"], "to": NOTHING, "kind": "k"});
    assert_eq!(server.post(EDGES, edge).await.0, StatusCode::NOT_FOUND);
    let start = json!({"start_node": node["id"]});
    assert_eq!(
        server.post("/api/graph/traverse", start).await.0,
        StatusCode::NOT_FOUND,
        "it is in another group"
    );
    for path in [
        format!("{NODES}/{}", id(&node)),
        format!("{NODES}/{NOTHING}?group_id=g"),
        format!("{NODES}/k?group_id=g"),
        format!("{EDGES}/{}?group_id=g", id(&node)),
        "/api/graph/categories/comets".to_owned(),
        "/api/graph/query/rumours?symbol=x".to_owned(),
        "/api/graph/call-chain/nobody".to_owned(),
    ] {
        assert_eq!(server.get(&path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in [
        "/api/graph/categories/hubs?limit=501",
        "/api/graph/query/callers",
        "/api/graph/stats?group_id=",
    ] {
        assert_eq!(server.get(path).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
    }
}

async fn statistics_say_how_old_they_are(engine: Engine) {
    const STATS: &str = "/api/v1/graph/stats?group_id=aged";
    // So long that the test is over before anything is too old.
    let settings = [("AGENTRY_GRAPH__STATS_AGE_MAX_S", "3600")];
    let server = Server::start_with(engine, &settings).await;
    let make = async |name: &str| {
        let body = json!({"name": name, "group_id": "aged"});
        assert_eq!(server.post(NODES, body).await.0, StatusCode::CREATED);
    };
    let get = async |header: (&str, &str)| {
        let request = server.request(Method::GET, STATS).header(header.0, header.1);
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        (status, headers, serde_json::from_str::<Value>(&text).unwrap_or_default())
    };
    const PLAIN: (&str, &str) = ("accept", "*/*");
    const FRESH: (&str, &str) = ("cache-control", "no-cache");
    make("one").await;
    settled(&server, "aged", (1, 0)).await;
    let (status, headers, stats) = get(PLAIN).await;
    assert_eq!((status, &stats["total_nodes"]), (StatusCode::OK, &json!(1)));
    assert_eq!(headers["cache-control"], "private, max-age=3600");
    let age: u64 = headers["age"].to_str().unwrap().parse().unwrap();
    assert!((1..3_600).contains(&age), "{age}");
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let (status, headers, _) = get(("if-none-match", &tag)).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    assert_eq!(headers["etag"], tag.as_str());
    // What was acknowledged meanwhile is in no aggregate yet, but in the list at once.
    make("two").await;
    let (_, nodes) = server.get(&format!("{NODES}?group_id=aged")).await;
    assert_eq!(nodes["total"], 2);
    let (_, headers, stats) = get(PLAIN).await;
    assert_eq!((&stats["total_nodes"], &headers["etag"].to_str().unwrap()), (&json!(1), &&*tag));
    // Whoever wants it as it is gets it, and so do those who ask after that.
    settled(&server, "aged", (2, 0)).await;
    let (_, headers, stats) = get(FRESH).await;
    assert_eq!(stats["total_nodes"], 2);
    assert_ne!(headers["etag"], tag.as_str());
    assert_eq!(get(PLAIN).await.2["total_nodes"], 2);
    assert_eq!(get(("if-none-match", &tag)).await.0, StatusCode::OK);
}
