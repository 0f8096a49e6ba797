//! Who may do what, made from `/openapi.json`, so that a new operation is covered
//! as soon as it is there: every operation without a credential, with one that is
//! none, has expired, was revoked, or does not hold its permission; and never a byte
//! of one organisation in what another one is answered.

use std::time::{Duration, SystemTime};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};
use crate::webhooks::SEALING_KEY;

on_both_engines! {
    every_operation_asks_for_a_credential_that_holds_its_permission,
    no_byte_of_an_organisation_reaches_another,
}

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
/// What needs no credential.
const OPEN: [&str; 4] = ["/errors/{code}", "/health", "/openapi.json", "/ready"];
/// What one organisation alone has, in all that it makes.
const CANARY: &str = "canary7f3a91";

struct Operation {
    method: Method,
    path: String,
    is_open: bool,
}

async fn operations(server: &Process) -> Vec<Operation> {
    let (_, document) = server.get("/openapi.json").await;
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS.iter().filter(|method| item[**method].is_object()) {
            let is_open = item[*method]["security"].as_array().is_some_and(Vec::is_empty);
            let method = method.to_uppercase().parse().unwrap();
            operations.push(Operation { method, path: path.clone(), is_open });
        }
    }
    assert!(operations.len() > 60, "the document shows too little");
    operations
}

/// A path with this in place of each parameter.
fn filled(path: &str, value: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { value } else { part });
    parts.collect::<Vec<_>>().join("/")
}

async fn every_operation_asks_for_a_credential_that_holds_its_permission(engine: Engine) {
    // Hundreds of credentials that are none come from one address.
    let settings = [("AGENTRY_HTTP__AUTH_FAILURES_PER_MINUTE", "0")];
    let server = Server::start_with(engine, &settings).await;
    let soon = SystemTime::now() + Duration::from_millis(1_500);
    let soon = soon.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let soon = agentry_domain::Timestamp::from_micros(i64::try_from(soon).unwrap()).to_string();
    let expired = json!({"name": "expired", "role": "owner", "expires_at": soon});
    let expired = server.key_of(expired).await;
    let (_, revoked) = server.post("/api/v1/keys", json!({"name": "r", "role": "owner"})).await;
    let path = format!("/api/v1/keys/{}", revoked["id"].as_str().unwrap());
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    let revoked = revoked["secret"].as_str().unwrap().to_owned();
    let scoped = |scope: &str| json!({"name": scope, "role": "owner", "scopes": [scope]});
    // No operation needs both, so that one of them is refused by each.
    let narrow =
        [server.key_of(scoped("agents:read")).await, server.key_of(scoped("users:read")).await];
    let viewer = server.key_of(json!({"name": "viewer", "role": "viewer"})).await;
    wait_until(|| async {
        let request = server.request_by(&expired, Method::GET, "/api/v1/agents");
        answer(request).await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    let stranger = format!("ak_{}", "0".repeat(64));
    let (mut open, mut refused_to_viewers) = (Vec::new(), 0);
    for Operation { method, path, is_open } in operations(&server).await {
        if is_open {
            open.push(path);
            continue;
        }
        let called = format!("{method} {path}");
        let url = format!("{}{}", server.url, filled(&path, NOBODY));
        let ask = || server.client.request(method.clone(), &url).json(&json!({}));
        let mut requests = vec![("no credential", ask())];
        for header in [
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            "ak_x",
            "Bearer ak_",
            "Bearer \u{e9}",
            "Bearer a.b.c",
        ] {
            requests.push((header, ask().header("authorization", header)));
        }
        for key in ["", " ", "x", &stranger, &expired, &revoked] {
            requests.push(("a key that is none", ask().header("x-api-key", key)));
            requests.push(("a key that is none", ask().bearer_auth(key)));
        }
        // A ticket, or a subprotocol, opens streams alone, and only a good one.
        let with_ticket = format!("{url}?ticket=at_x");
        requests.push((
            "a ticket",
            server.client.request(method.clone(), &with_ticket).json(&json!({})),
        ));
        requests
            .push(("a subprotocol", ask().header("sec-websocket-protocol", "agentry.key.ak_x")));
        for (what, request) in requests {
            let (status, said) = answer(request).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{called}: {what}: {said}");
            let code = said["code"].as_str().or(said["error"]["code"].as_str());
            assert_eq!(code, Some("unauthenticated"), "{called}: {what}");
        }
        let mut forbidden = 0;
        for key in &narrow {
            let response = ask().bearer_auth(key).send().await.unwrap();
            forbidden += u32::from(response.status() == StatusCode::FORBIDDEN);
        }
        assert!(forbidden >= 1, "{called} asks for no permission");
        let by_viewer = ask().bearer_auth(&viewer).send().await.unwrap().status();
        refused_to_viewers += u32::from(by_viewer == StatusCode::FORBIDDEN);
        let asks = ["/search", "/subgraph", "/tickets", "/traverse"];
        let reads = method == Method::GET || asks.iter().any(|end| path.ends_with(end));
        assert!(reads || by_viewer == StatusCode::FORBIDDEN, "{called} by a viewer: {by_viewer}");
    }
    assert_eq!(open, OPEN);
    assert!(refused_to_viewers > 30, "{refused_to_viewers}");
}

/// Makes one of everything, with the canary in every text.
async fn make_everything(server: &Process, owner: &str) -> Vec<(&'static str, String)> {
    let post = async |path: &str, body: Value| {
        let (status, made) = answer(server.request_by(owner, Method::POST, path).json(&body)).await;
        assert!(status.is_success(), "{path}: {status} {made}");
        made
    };
    let id = |made: &Value| made["id"].as_str().or(made["run_id"].as_str()).unwrap().to_owned();
    let own = json!({"k": CANARY});
    let agent = id(&post("/api/v1/agents", json!({"name": CANARY, "metadata": own})).await);
    let run = json!({"message": format!("Remember {CANARY}"), "session_name": CANARY,
        "user_id": CANARY, "metadata": own});
    let run = post(&format!("/api/v1/agents/{agent}/runs"), run).await;
    let session = run["session_id"].as_str().unwrap().to_owned();
    let memory = json!({"content": CANARY, "name": CANARY, "user_id": CANARY});
    let memory = id(&post("/api/v1/memories", memory).await);
    let user = json!({"user_id": "u2", "name": CANARY, "email": "canary7f3a91@example.org"});
    let user = id(&post("/api/v1/users", user).await);
    let goal = json!({"agent_id": agent, "description": CANARY});
    let goal = id(&post("/api/v1/goals", goal).await);
    let plan = id(&post("/api/v1/plans", json!({"goal_id": goal, "name": CANARY})).await);
    let task = json!({"plan_id": plan, "agent_id": agent, "description": CANARY});
    let task = id(&post("/api/v1/tasks", task).await);
    let webhook = json!({"url": "https://canary7f3a91.example/hook"});
    let webhook = id(&post("/api/v1/webhooks", webhook).await);
    let key = id(&post("/api/v1/keys", json!({"name": CANARY, "role": "viewer"})).await);
    let path = format!("/api/v1/sessions/{session}/files/{CANARY}.txt");
    let put = server.request_by(owner, Method::PUT, &path).body(CANARY);
    assert!(put.send().await.unwrap().status().is_success());
    vec![
        ("/api/v1/agents/", agent),
        ("/api/v1/agent/", CANARY.to_owned()),
        ("/api/v1/sessions/", session),
        ("/api/v1/runs/", id(&run)),
        ("/api/v1/memories/", memory),
        ("/api/v1/users/", user),
        ("/api/v1/goals/", goal),
        ("/api/v1/plans/", plan),
        ("/api/v1/tasks/", task),
        ("/api/v1/webhooks/", webhook),
        ("/api/v1/keys/", key),
    ]
}

async fn no_byte_of_an_organisation_reaches_another(engine: Engine) {
    let home = Home::new(engine).await;
    let environment = [("AGENTRY_SEALING_KEY", SEALING_KEY)];
    let mut server = Process::start_with(&home, &environment);
    let owner_of = async |server: &Process, name: &str| {
        let org = json!({"name": name, "tier": "enterprise"});
        let (_, org) = server.post("/api/v1/orgs", org).await;
        let key = json!({"name": "k", "role": "owner", "org_id": org["id"]});
        server.key_of(key).await
    };
    let (theirs, ours) = (owner_of(&server, "theirs").await, owner_of(&server, "ours").await);
    let made = make_everything(&server, &theirs).await;
    let operations = operations(&server).await;
    for round in ["before a restart", "after a restart"] {
        let mut asked = 0;
        for Operation { method, path, is_open } in &operations {
            let of = made.iter().find(|(prefix, _)| path.starts_with(prefix));
            let has_id = path.contains('{');
            let is_stream = path.contains("/ws/") || path.ends_with("/events");
            if *is_open || path.starts_with("/api/v1/orgs") || (is_stream && !has_id) {
                continue;
            }
            let value = of.map_or(NOBODY, |(_, id)| id.as_str());
            let url = filled(path, value);
            let bodies = [
                json!({}),
                json!({"query": CANARY, "message": "x", "name": "x",
                "content": "x", "description": "x", "role": "viewer",
                "url": "https://example.org/hook", "messages": [{"role": "user", "content": "x"}]}),
            ];
            let bodies = if *method == Method::GET { &bodies[..1] } else { &bodies[..] };
            for body in bodies {
                let request = server.request_by(&ours, method.clone(), &url);
                let request = if *method == Method::GET { request } else { request.json(body) };
                let response = request.send().await.unwrap();
                let status = response.status();
                let headers = format!("{:?}", response.headers());
                let said = response.text().await.unwrap();
                // An error may repeat the name that was asked for; it has no other.
                let said = said.replace(&url, "").replace(&format!("agent {CANARY}"), "");
                let called = format!("{method} {url} {round}: {status}");
                assert!(!said.contains(CANARY) && !headers.contains(CANARY), "{called}: {said}");
                assert!(!has_id || !status.is_success(), "{called}: {said}");
                asked += 1;
            }
        }
        assert!(asked > 100, "{asked}");
        // The stream of all that happened, up to something of our own.
        let (_, own) = answer(
            server.request_by(&ours, Method::POST, "/api/v1/agents").json(&json!({"name": "own"})),
        )
        .await;
        let own = own["id"].as_str().unwrap().to_owned();
        let mut stream =
            server.request_by(&ours, Method::GET, "/events?after=0").send().await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        let mut heard = String::new();
        while !heard.contains(&own) {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            heard.push_str(&String::from_utf8_lossy(&chunk));
        }
        for id in made.iter().map(|(_, id)| id).filter(|id| *id != CANARY) {
            assert!(!heard.contains(id), "{round}: {heard}");
        }
        assert!(!heard.contains(CANARY), "{round}: {heard}");
        // And theirs is all still there.
        for (prefix, id) in made.iter().filter(|(_, id)| id != CANARY) {
            let read = server.request_by(&theirs, Method::GET, &format!("{prefix}{id}"));
            assert_eq!(answer(read).await.0, StatusCode::OK, "{prefix}{id} {round}");
        }
        server.kill();
        server = Process::start_with(&home, &environment);
    }
}
