//! `/api/v1/keys` and `/api/v1/orgs`: who may do what, until when, and where.

use std::process::Command;
use std::time::{Duration, SystemTime};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};
use crate::webhooks::SEALING_KEY;

on_both_engines! {
    every_field_is_stored_and_returned,
    a_secret_is_answered_once,
    each_role_does_what_it_may,
    scopes_narrow_the_role,
    nobody_makes_a_stronger_key,
    an_expired_or_revoked_key_opens_nothing,
    a_revocation_reaches_other_processes,
    the_last_owner_key_stays,
    organisations_see_nothing_of_each_other,
    the_last_use_is_shown_and_survives_a_restart,
}

const KEYS: &str = "/api/v1/keys";
const MISSING: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn path(key: &Value) -> String {
    format!("{KEYS}/{}", key["id"].as_str().unwrap())
}

fn secret(key: &Value) -> &str {
    key["secret"].as_str().unwrap()
}

async fn made(server: &Process, key: Value) -> Value {
    let (status, created) = server.post(KEYS, key).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    created
}

/// Sends a request with another key than the owner's.
async fn by(
    server: &Process,
    secret: &str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> (StatusCode, Value) {
    let request = server.client.request(method, format!("{}{path}", server.url));
    let request = request.bearer_auth(secret);
    answer(match body {
        Some(body) => request.json(body),
        None => request,
    })
    .await
}

async fn get_by(server: &Process, secret: &str, path: &str) -> StatusCode {
    by(server, secret, Method::GET, path, None).await.0
}

/// This long from now, as RFC 3339.
fn later(after: Duration) -> String {
    let at = SystemTime::now() + after;
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    agentry_domain::Timestamp::from_micros(i64::try_from(at.as_micros()).unwrap()).to_string()
}

async fn every_field_is_stored_and_returned(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, first) = server.get(KEYS).await;
    assert_eq!(first["items"][0]["role"], "owner");
    let owner = first["items"][0]["id"].clone();
    let sent = json!({"name": "billing", "role": "service",
        "scopes": ["agents:read", "runs:write"], "expires_at": "2126-01-02T03:04:05+01:00"});
    let created = made(&server, sent).await;
    let secret = secret(&created).to_owned();
    assert_eq!(secret.len(), "ak_".len() + 64);
    assert_eq!(created["prefix"], secret[..10]);
    assert_eq!(created["scopes"], json!(["agents:read", "runs:write"]));
    assert_eq!(created["expires_at"], "2126-01-02T02:04:05.000000Z");
    assert_eq!((&created["name"], &created["role"]), (&json!("billing"), &json!("service")));
    assert_eq!(created["created_by"], owner);
    let (_, read) = server.get(&path(&created)).await;
    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("secret");
    assert_eq!(read, expected);
    let (_, patched) =
        server.patch(&path(&created), json!({"name": "b2", "expires_at": null})).await;
    assert_eq!((&patched["name"], &patched["expires_at"]), (&json!("b2"), &Value::Null));
    for fixed in [json!({"role": "viewer"}), json!({"scopes": []})] {
        let (status, problem) = server.patch(&path(&created), fixed).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(problem["errors"][0]["code"], "immutable");
    }
    let (_, services) = server.get(&format!("{KEYS}?role=service")).await;
    assert_eq!(services["items"], json!([patched]));
    let (_, all) = server.get(KEYS).await;
    assert!(!all.to_string().contains(&secret[10..]));
    let fields: Vec<&String> = all["items"][0].as_object().unwrap().keys().collect();
    let expected = ["created_at", "created_by", "expires_at", "id", "last_used_at", "name"];
    let expected = [&expected[..], &["prefix", "role", "scopes", "updated_at", "version"]];
    assert_eq!(fields, expected.concat());
    wait_until(|| async { server.get(KEYS).await.1["total"] == json!(2) }).await;
    for (wrong, pointer) in [
        (json!({"role": "viewer"}), "/name"),
        (json!({"name": "x"}), "/role"),
        (json!({"name": "x", "role": "king"}), "/role"),
        (json!({"name": "x", "role": "member", "scopes": ["agents:fly"]}), "/scopes/0"),
        (json!({"name": "x", "role": "member", "scopes": ["runs:read", "runs:read"]}), "/scopes/1"),
        (json!({"name": "x", "role": "viewer", "scopes": ["agents:write"]}), "/scopes"),
        (json!({"name": "x", "role": "member", "expires_at": "soon"}), "/expires_at"),
        (
            json!({"name": "x", "role": "member", "expires_at": "2001-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (json!({"name": "x", "role": "member", "org_id": "seven"}), "/org_id"),
    ] {
        let (status, problem) = server.post(KEYS, wrong.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{wrong}");
    }
}

async fn a_secret_is_answered_once(engine: Engine) {
    let server = Server::start(engine).await;
    let body = json!({"name": "once", "role": "viewer"});
    let send = || async {
        let request = server.request(Method::POST, KEYS).header("idempotency-key", "k");
        answer(request.json(&body)).await
    };
    let answers = futures::future::join_all((0..20).map(|_| send())).await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::CREATED));
    let secrets: Vec<&str> = answers.iter().filter_map(|(_, key)| key["secret"].as_str()).collect();
    assert_eq!(secrets.len(), 1);
    assert!(answers.iter().all(|(_, key)| key["id"] == answers[0].1["id"]));
    assert!(answers.iter().all(|(_, key)| key.as_object().unwrap().contains_key("secret")));
    assert_eq!(get_by(&server, secrets[0], "/api/v1/agents").await, StatusCode::OK);
}

async fn each_role_does_what_it_may(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = json!({"name": "a"});
    let key = json!({"name": "k", "role": "viewer"});
    let org = json!({"name": "o"});
    let run = json!({"message": "Hello"});
    let memory = json!({"content": "x"});
    let sample = [
        (Method::GET, "/api/v1/agents", None, "vmsao"),
        (Method::GET, "/api/v1/memories", None, "vmsao"),
        (Method::POST, "/api/v1/memories/search", Some(json!({"query": "x"})), "vmsao"),
        (Method::GET, "/api/v1/sessions", None, "vmsao"),
        (Method::GET, "/api/v1/runs", None, "vmsao"),
        (Method::GET, "/api/v1/users", None, "vmsao"),
        (Method::POST, "/api/v1/agents", Some(agent), "msao"),
        (Method::POST, "/api/v1/agent/simple/run", Some(run), "msao"),
        (Method::POST, "/api/v1/memories", Some(memory), "msao"),
        (Method::POST, "/api/v1/sessions", Some(json!({})), "msao"),
        (Method::GET, "/metrics", None, "ao"),
        (Method::GET, KEYS, None, "ao"),
        (Method::POST, KEYS, Some(key), "ao"),
        (Method::GET, "/api/v1/orgs", None, "o"),
        (Method::POST, "/api/v1/orgs", Some(org), "o"),
    ];
    for role in ["viewer", "member", "service", "admin", "owner"] {
        let key = made(&server, json!({"name": role, "role": role})).await;
        for (method, path, body, who) in &sample {
            let (status, answer) =
                by(&server, secret(&key), method.clone(), path, body.as_ref()).await;
            let may = who.contains(&role[..1]);
            assert_eq!(status.is_success(), may, "{role}: {method} {path}: {answer}");
            assert!(may || status == StatusCode::FORBIDDEN, "{role}: {method} {path}: {answer}");
        }
    }
}

async fn scopes_narrow_the_role(engine: Engine) {
    let server = Server::start(engine).await;
    let metrics = json!({"name": "m", "role": "admin", "scopes": ["metrics"]});
    let metrics = made(&server, metrics).await;
    assert_eq!(get_by(&server, secret(&metrics), "/metrics").await, StatusCode::OK);
    let (status, problem) = by(&server, secret(&metrics), Method::GET, KEYS, None).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    let narrow = json!({"name": "n", "role": "owner", "scopes": ["memories:write", "agents:read"]});
    let narrow = made(&server, narrow).await;
    let memory = json!({"content": "x"});
    let (status, _) =
        by(&server, secret(&narrow), Method::POST, "/api/v1/memories", Some(&memory)).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(get_by(&server, secret(&narrow), "/api/v1/agents").await, StatusCode::OK);
    for refused in ["/api/v1/memories", "/api/v1/sessions", KEYS, "/metrics", "/api/v1/orgs"] {
        assert_eq!(get_by(&server, secret(&narrow), refused).await, StatusCode::FORBIDDEN);
    }
}

async fn nobody_makes_a_stronger_key(engine: Engine) {
    let server = Server::start(engine).await;
    let admin = made(&server, json!({"name": "a", "role": "admin"})).await;
    let scoped = json!({"name": "s", "role": "admin", "scopes": ["keys:write", "agents:read"]});
    let scoped = made(&server, scoped).await;
    let until = later(Duration::from_secs(3_600));
    let passing = made(&server, json!({"name": "p", "role": "admin", "expires_at": until})).await;
    let forever = json!({"name": "x", "role": "viewer"});
    let within = json!({"name": "x", "role": "viewer", "expires_at": until});
    for (maker, key, made) in [
        (&admin, json!({"name": "x", "role": "owner"}), false),
        (&admin, json!({"name": "x", "role": "owner", "scopes": ["agents:read"]}), false),
        (&admin, json!({"name": "x", "role": "admin"}), true),
        (&admin, json!({"name": "x", "role": "service"}), true),
        (&scoped, json!({"name": "x", "role": "viewer"}), false),
        (&scoped, json!({"name": "x", "role": "admin"}), false),
        (&scoped, json!({"name": "x", "role": "viewer", "scopes": ["runs:read"]}), false),
        (&scoped, json!({"name": "x", "role": "viewer", "scopes": ["agents:read"]}), true),
        (&passing, forever, false),
        (&passing, within, true),
    ] {
        let (status, answer) = by(&server, secret(maker), Method::POST, KEYS, Some(&key)).await;
        let expected = if made { StatusCode::CREATED } else { StatusCode::FORBIDDEN };
        assert_eq!(status, expected, "{key}: {answer}");
    }
    // Nor does one touch a stronger one.
    let (_, owners) = server.get(&format!("{KEYS}?role=owner")).await;
    let owner = path(&owners["items"][0]);
    let rename = json!({"name": "mine"});
    for (method, body) in [(Method::PATCH, Some(&rename)), (Method::DELETE, None)] {
        let (status, _) = by(&server, secret(&admin), method, &owner, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    let longer = json!({"expires_at": null});
    let own = path(&passing);
    let (status, _) = by(&server, secret(&passing), Method::PATCH, &own, Some(&longer)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let elsewhere = json!({"name": "x", "role": "viewer", "org_id": MISSING});
    let (status, _) = by(&server, secret(&admin), Method::POST, KEYS, Some(&elsewhere)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(server.post(KEYS, elsewhere).await.0, StatusCode::NOT_FOUND);
}

async fn an_expired_or_revoked_key_opens_nothing(engine: Engine) {
    let server = Server::start(engine).await;
    let key = made(&server, json!({"name": "r", "role": "member"})).await;
    assert_eq!(get_by(&server, secret(&key), "/api/v1/agents").await, StatusCode::OK);
    assert_eq!(server.delete(&path(&key)).await, StatusCode::NO_CONTENT);
    let (status, problem) = by(&server, secret(&key), Method::GET, "/api/v1/agents", None).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthenticated")));
    assert_eq!(server.get(&path(&key)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.delete(&path(&key)).await, StatusCode::NOT_FOUND);

    let key = made(&server, json!({"name": "e", "role": "member"})).await;
    assert_eq!(get_by(&server, secret(&key), "/api/v1/agents").await, StatusCode::OK);
    let soon = json!({"expires_at": later(Duration::from_secs(2))});
    assert_eq!(server.patch(&path(&key), soon).await.0, StatusCode::OK);
    wait_until(|| async {
        get_by(&server, secret(&key), "/api/v1/agents").await == StatusCode::UNAUTHORIZED
    })
    .await;
    let (_, read) = server.get(&path(&key)).await;
    assert!(read["expires_at"].as_str().unwrap() <= later(Duration::ZERO).as_str());
}

async fn a_revocation_reaches_other_processes(engine: Engine) {
    // An SQLite store has one process only.
    if engine == Engine::Sqlite {
        return;
    }
    let server = Server::start(engine).await;
    let other = Process::start(&server.home);
    let key = made(&server, json!({"name": "r", "role": "member"})).await;
    assert_eq!(get_by(&other, secret(&key), "/api/v1/agents").await, StatusCode::OK);
    assert_eq!(server.delete(&path(&key)).await, StatusCode::NO_CONTENT);
    wait_until(|| async {
        get_by(&other, secret(&key), "/api/v1/agents").await == StatusCode::UNAUTHORIZED
    })
    .await;
}

async fn the_last_owner_key_stays(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, owners) = server.get(&format!("{KEYS}?role=owner")).await;
    let first = owners["items"][0].clone();
    let far = later(Duration::from_secs(86_400));
    // One who may do less, or not for so long, does not replace an owner.
    let scopes = json!(["keys:write"]);
    made(&server, json!({"name": "less", "role": "owner", "scopes": scopes})).await;
    for _ in 0..2 {
        assert_eq!(server.delete(&path(&first)).await, StatusCode::CONFLICT);
        let (status, _) = server.patch(&path(&first), json!({"expires_at": far})).await;
        assert_eq!(status, StatusCode::CONFLICT);
    }
    let second = made(&server, json!({"name": "two", "role": "owner"})).await;
    // Each ends the other's at the same time: one stays.
    let (of_first, of_second) = (path(&first), path(&second));
    let (one, two) = tokio::join!(
        server.delete(&of_second),
        by(&server, secret(&second), Method::DELETE, &of_first, None)
    );
    let gone = [one, two.0].iter().filter(|status| **status == StatusCode::NO_CONTENT).count();
    assert_eq!(gone, 1, "{one} {two:?}");
    let stays = if one == StatusCode::NO_CONTENT { &server.key } else { secret(&second) };
    assert_eq!(get_by(&server, stays, KEYS).await, StatusCode::OK);
}

async fn organisations_see_nothing_of_each_other(engine: Engine) {
    let server = Server::start_with(engine, &[("AGENTRY_SEALING_KEY", SEALING_KEY)]).await;
    let (status, org) = server.post("/api/v1/orgs", json!({"name": "second"})).await;
    assert_eq!(status, StatusCode::CREATED, "{org}");
    let org_path = format!("/api/v1/orgs/{}", org["id"].as_str().unwrap());
    assert_eq!(server.get(&org_path).await, (StatusCode::OK, org.clone()));
    let (_, orgs) = server.get("/api/v1/orgs?order=asc").await;
    assert_eq!((&orgs["items"][0]["name"], &orgs["items"][1]), (&json!("default"), &org));
    let key = json!({"name": "theirs", "role": "owner", "org_id": org["id"]});
    let key = made(&server, key).await;
    let their = secret(&key);
    // The key is theirs, and not ours.
    assert_eq!(get_by(&server, their, &path(&key)).await, StatusCode::OK);
    assert_eq!(server.get(&path(&key)).await.0, StatusCode::NOT_FOUND);
    for path in ["/api/v1/orgs", org_path.as_str()] {
        assert_eq!(get_by(&server, their, path).await, StatusCode::FORBIDDEN);
    }

    // One of each of ours.
    let body = json!({"message": "The garden is green.", "user_id": "u", "session_name": "s"});
    let (_, run) = server.post("/api/v1/agent/simple/run", body).await;
    let memory = json!({"content": "The garden is green.", "access": "shared"});
    let (_, memory) = server.post("/api/v1/memories", memory).await;
    let (_, agents) = server.get("/api/v1/agents").await;
    let agent = &agents["items"][0]["id"];
    let goal = json!({"description": "a green garden", "agent_id": agent});
    let (_, goal) = server.post("/api/v1/goals", goal).await;
    let (_, plan) = server.post("/api/v1/plans", json!({"name": "p", "goal_id": goal["id"]})).await;
    let task = json!({"description": "water it", "agent_id": agent, "plan_id": plan["id"]});
    let (_, task) = server.post("/api/v1/tasks", task).await;
    let webhook = json!({"url": "https://hooks.example.org/agentry", "enabled": false});
    let (_, webhook) = server.post("/api/v1/webhooks", webhook).await;
    let mcp = json!({"name": "own", "type": "stdio", "command": "/no/such/program"});
    let (_, mcp) = server.post("/api/v1/mcp/servers", mcp).await;
    let (_, users) = server.get("/api/v1/users").await;
    let (_, keys) = server.get(KEYS).await;
    server.post("/api/v1/users", json!({"user_id": "gone"})).await;
    let purge = server.request(Method::DELETE, "/api/v1/users/gone?purge=true");
    let (_, job) = answer(purge).await;
    let ours = [
        ("agents", agents["items"][0]["id"].clone()),
        ("sessions", run["session_id"].clone()),
        ("runs", run["run_id"].clone()),
        ("users", users["items"][0]["id"].clone()),
        ("memories", memory["id"].clone()),
        ("keys", keys["items"][0]["id"].clone()),
        ("goals", goal["id"].clone()),
        ("plans", plan["id"].clone()),
        ("tasks", task["id"].clone()),
        ("webhooks", webhook["id"].clone()),
        ("mcp", mcp["id"].clone()),
        ("orgs", org["id"].clone()),
        ("admin", job["id"].clone()),
    ];
    let (_, document) = server.get("/openapi.json").await;
    let mut tried = 0;
    for (template, item) in document["paths"].as_object().unwrap() {
        let Some(rest) = template.strip_prefix("/api/v1/") else { continue };
        let Some(begin) = rest.find('{') else { continue };
        let kind = rest.split('/').next().unwrap();
        let Some((_, id)) = ours.iter().find(|(name, _)| *name == kind) else {
            // A graph has ids of several kinds; `bad_input` and `access` ask for each.
            assert!(["agent", "graph"].contains(&kind), "{template}: which id is ours?");
            continue;
        };
        let end = rest.find('}').unwrap();
        let id = id.as_str().expect(template);
        let filled = format!("/api/v1/{}{id}{}", &rest[..begin], &rest[end + 1..]);
        for method in item.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let body = json!({
                "message": "x", "role": "user", "content": "x", "name": "x", "after": 0
            });
            let body = (method != Method::GET && method != Method::DELETE).then_some(&body);
            let (status, answer) = by(&server, their, method.clone(), &filled, body).await;
            let expected =
                if kind == "orgs" { StatusCode::FORBIDDEN } else { StatusCode::NOT_FOUND };
            assert_eq!(status, expected, "{method} {template}: {answer}");
            tried += 1;
        }
    }
    assert!(tried > 15, "{tried} operations are too few");
    let lists =
        ["agents", "sessions", "runs", "users", "memories", "goals", "plans", "tasks", "webhooks"];
    for list in lists {
        let (status, page) =
            by(&server, their, Method::GET, &format!("/api/v1/{list}"), None).await;
        assert_eq!((status, &page["items"]), (StatusCode::OK, &json!([])), "{list}");
    }
    let (_, theirs) = by(&server, their, Method::GET, KEYS, None).await;
    assert_eq!(theirs["items"].as_array().unwrap().len(), 1);
    let query = json!({"query": "Is the garden green?", "user_id": "u"});
    let (_, found) =
        by(&server, their, Method::POST, "/api/v1/memories/search", Some(&query)).await;
    assert_eq!(found["hits"], json!([]));
    let (_, ours) = server.post("/api/v1/memories/search", query).await;
    assert_eq!(ours["hits"].as_array().unwrap().len(), 1);
}

async fn the_last_use_is_shown_and_survives_a_restart(engine: Engine) {
    let home = Home::new(engine).await;
    let server = Process::start(&home);
    let before = later(Duration::ZERO);
    let key = made(&server, json!({"name": "seldom", "role": "viewer"})).await;
    assert_eq!(key["last_used_at"], Value::Null);
    let read = async || server.get(&path(&key)).await.1;
    assert_eq!(read().await["last_used_at"], Value::Null);
    assert_eq!(get_by(&server, secret(&key), "/api/v1/agents").await, StatusCode::OK);
    wait_until(|| async { !read().await["last_used_at"].is_null() }).await;
    let used = read().await["last_used_at"].as_str().unwrap().to_owned();
    assert!(before < used && used < later(Duration::ZERO), "{before} {used}");
    // It is no change of the key's.
    assert_eq!(read().await["version"], json!(1));
    let (_, page) = server.get(KEYS).await;
    let keys = page["items"].as_array().unwrap();
    assert!(keys.iter().all(|key| key["last_used_at"].is_string()), "{page}");
    let (_, changed) = server.patch(&path(&key), json!({"name": "rarely"})).await;
    assert_eq!(changed["last_used_at"], json!(used));

    // A server that is asked to stop writes down what it knows.
    let id = server.id().to_string();
    assert!(Command::new("kill").arg(id).status().unwrap().success());
    server.wait();
    let server = Process::start(&home);
    assert_eq!(server.get(&path(&key)).await.1["last_used_at"], json!(used));
    // Another use is a later one, soon.
    let later_use = || async {
        assert_eq!(get_by(&server, secret(&key), "/api/v1/agents").await, StatusCode::OK);
        server.get(&path(&key)).await.1["last_used_at"].as_str().unwrap() > used.as_str()
    };
    wait_until(later_use).await;
}
