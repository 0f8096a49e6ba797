//! How much callers may ask for: each limit by itself, what answers say of it, and
//! what is left of a day after a restart.

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};

on_both_engines! {
    a_key_is_held_to_its_rate_and_the_owner_is_not,
    an_end_user_is_held_to_a_rate,
    an_organisation_is_held_to_a_rate,
    each_kind_of_work_has_its_rate,
    another_tier_holds_within_a_second,
    the_day_s_requests_survive_a_restart,
    wrong_credentials_of_an_address_have_a_bound,
}

const AGENTS: &str = "/api/v1/agents";

/// No limits but those that the test sets; names are those of the settings.
fn limits<'a>(set: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![
        ("AGENTRY_LIMITS__STANDARD__KEY_PER_MINUTE", "0"),
        ("AGENTRY_LIMITS__STANDARD__USER_PER_MINUTE", "0"),
        ("AGENTRY_LIMITS__STANDARD__ORG_PER_MINUTE", "0"),
        ("AGENTRY_LIMITS__STANDARD__MEMORY_CREATION_PER_MINUTE", "0"),
        ("AGENTRY_LIMITS__STANDARD__RUNS_PER_MINUTE", "0"),
        ("AGENTRY_LIMITS__STANDARD__DAILY_REQUESTS", "0"),
    ];
    for (name, value) in set {
        all.retain(|(other, _)| other != name);
        all.push((name, value));
    }
    all
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    let value = headers.get(name).unwrap_or_else(|| panic!("there is {name}: {headers:?}"));
    value.to_str().unwrap().parse().unwrap()
}

async fn ask(server: &Process, secret: &str, path: &str) -> (StatusCode, HeaderMap, Value) {
    let response = server.request_by(secret, Method::GET, path).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    (status, headers, response.json().await.unwrap())
}

/// How many of these succeed; the others must be refused with this code.
async fn let_through(
    server: &Process,
    secret: &str,
    requests: &[(Method, &str, Option<Value>)],
    code: &str,
) -> usize {
    let mut through = 0;
    for (method, path, body) in requests {
        let request = server.request_by(secret, method.clone(), path);
        let (status, said) = answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await;
        if status.is_success() {
            through += 1;
        } else {
            assert_eq!((status, &said["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!(code)));
        }
    }
    through
}

async fn a_key_is_held_to_its_rate_and_the_owner_is_not(engine: Engine) {
    let settings = limits(&[
        ("AGENTRY_LIMITS__STANDARD__KEY_PER_MINUTE", "2"),
        ("AGENTRY_LIMITS__STANDARD__KEY_BURST", "3"),
    ]);
    let server = Server::start_with(engine, &settings).await;
    let secret = server.key_of(json!({"name": "k", "role": "member"})).await;
    for remaining in [2, 1, 0] {
        let (status, headers, _) = ask(&server, &secret, AGENTS).await;
        assert_eq!(status, StatusCode::OK);
        for prefix in ["ratelimit", "x-ratelimit"] {
            assert_eq!(number(&headers, &format!("{prefix}-limit")), 3);
            assert_eq!(number(&headers, &format!("{prefix}-remaining")), remaining);
            let reset = number(&headers, &format!("{prefix}-reset"));
            let whole = (3 - remaining) * 30;
            assert!((whole - 5..=whole).contains(&reset), "{reset} of {whole}");
        }
    }
    let (status, headers, problem) = ask(&server, &secret, AGENTS).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem["code"], "rate_limited");
    assert!(problem["detail"].as_str().unwrap().contains("key"), "{problem}");
    let after = number(&headers, "retry-after");
    assert!((20..=30).contains(&after), "one comes back every 30 s: {after}");
    assert_eq!(number(&headers, "ratelimit-remaining"), 0);
    // In OpenAI's shape where its clients look.
    let (status, _, problem) = ask(&server, &secret, "/v1/models").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem["error"]["type"], "rate_limit_error");
    let other = server.key_of(json!({"name": "other", "role": "member"})).await;
    assert_eq!(ask(&server, &other, AGENTS).await.0, StatusCode::OK);
    for _ in 0..20 {
        let response = server.request(Method::GET, AGENTS).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("ratelimit-limit"), "the owner has no limit");
    }
    let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains(r#"agentry_limits_refused_total{subject="key"} 2"#), "{metrics}");
}

async fn an_end_user_is_held_to_a_rate(engine: Engine) {
    let settings = limits(&[
        ("AGENTRY_LIMITS__STANDARD__USER_PER_MINUTE", "1"),
        ("AGENTRY_LIMITS__STANDARD__USER_BURST", "2"),
    ]);
    let server = Server::start_with(engine, &settings).await;
    let secret = server.key_of(json!({"name": "k", "role": "member"})).await;
    let memory = |user: &str| {
        let body = json!({"content": "x", "user_id": user});
        (Method::POST, "/api/v1/memories", Some(body))
    };
    let run = |user: &str| {
        let body = json!({"message": "Hello", "user_id": user});
        (Method::POST, "/api/v1/agent/simple/run", Some(body))
    };
    let asked = [memory("ada"), run("ada"), memory("ada"), run("ada"), memory("bob"), run("bob")];
    assert_eq!(let_through(&server, &secret, &asked, "rate_limited").await, 4);
    // Whoever names nobody is not held to it.
    let body = json!({"message": "Hello"});
    let nobody = vec![(Method::POST, "/api/v1/agent/simple/run", Some(body)); 4];
    assert_eq!(let_through(&server, &secret, &nobody, "rate_limited").await, 4);
    let memories = vec![json!({"content": "x", "user_id": "eve"}); 3];
    let many = json!({"memories": memories});
    let batch = [(Method::POST, "/api/v1/memories/batch", Some(many))];
    assert_eq!(let_through(&server, &secret, &batch, "rate_limited").await, 0);
}

async fn an_organisation_is_held_to_a_rate(engine: Engine) {
    let settings = limits(&[
        ("AGENTRY_LIMITS__STANDARD__ORG_PER_MINUTE", "1"),
        ("AGENTRY_LIMITS__STANDARD__ORG_BURST", "3"),
    ]);
    let server = Server::start_with(engine, &settings).await;
    let (_, org) = server.post("/api/v1/orgs", json!({"name": "theirs"})).await;
    assert_eq!(org["tier"], "standard");
    let key = |name: &str| json!({"name": name, "role": "owner", "org_id": org["id"]});
    let (one, two) = (server.key_of(key("one")).await, server.key_of(key("two")).await);
    let asked = vec![(Method::GET, AGENTS, None); 2];
    assert_eq!(let_through(&server, &one, &asked, "rate_limited").await, 2);
    assert_eq!(let_through(&server, &two, &asked, "rate_limited").await, 1);
    let ours = server.key_of(json!({"name": "ours", "role": "member"})).await;
    assert_eq!(let_through(&server, &ours, &asked, "rate_limited").await, 2);
}

async fn each_kind_of_work_has_its_rate(engine: Engine) {
    let settings = limits(&[
        ("AGENTRY_LIMITS__STANDARD__READS_PER_MINUTE", "1"),
        ("AGENTRY_LIMITS__STANDARD__READS_BURST", "4"),
        ("AGENTRY_LIMITS__STANDARD__RUNS_PER_MINUTE", "1"),
        ("AGENTRY_LIMITS__STANDARD__RUNS_BURST", "2"),
        ("AGENTRY_LIMITS__STANDARD__MEMORY_CREATION_PER_MINUTE", "1"),
        ("AGENTRY_LIMITS__STANDARD__MEMORY_CREATION_BURST", "3"),
    ]);
    let server = Server::start_with(engine, &settings).await;
    let secret = server.key_of(json!({"name": "k", "role": "member"})).await;
    for (method, path, body, through) in [
        (Method::GET, AGENTS, None, 4),
        (Method::POST, "/api/v1/agent/simple/run", Some(json!({"message": "Hello"})), 2),
        (Method::POST, "/api/v1/memories", Some(json!({"content": "x"})), 3),
        // Has no limit of its own.
        (Method::POST, AGENTS, Some(json!({"name": "a"})), 8),
    ] {
        let asked = vec![(method, path, body); 8];
        let passed = let_through(&server, &secret, &asked, "rate_limited").await;
        assert_eq!(passed, through, "{path}");
    }
}

async fn another_tier_holds_within_a_second(engine: Engine) {
    let settings = limits(&[
        ("AGENTRY_LIMITS__FREE__KEY_PER_MINUTE", "1"),
        ("AGENTRY_LIMITS__FREE__KEY_BURST", "1"),
        ("AGENTRY_LIMITS__ENTERPRISE__KEY_PER_MINUTE", "60000"),
        ("AGENTRY_LIMITS__ENTERPRISE__KEY_BURST", "777"),
    ]);
    let server = Server::start_with(engine, &settings).await;
    let (status, org) = server.post("/api/v1/orgs", json!({"name": "t", "tier": "free"})).await;
    assert_eq!((status, &org["tier"]), (StatusCode::CREATED, &json!("free")));
    let key = json!({"name": "k", "role": "owner", "org_id": org["id"]});
    let secret = server.key_of(key).await;
    assert_eq!(ask(&server, &secret, AGENTS).await.0, StatusCode::OK);
    assert_eq!(ask(&server, &secret, AGENTS).await.0, StatusCode::TOO_MANY_REQUESTS);
    let path = format!("/api/v1/orgs/{}", org["id"].as_str().unwrap());
    let (status, patched) = server.patch(&path, json!({"tier": "enterprise"})).await;
    assert_eq!((status, &patched["tier"]), (StatusCode::OK, &json!("enterprise")));
    assert_eq!(patched["name"], "t");
    assert_eq!(server.get(&path).await.1, patched);
    wait_until(|| async {
        let (status, headers, _) = ask(&server, &secret, AGENTS).await;
        status == StatusCode::OK && number(&headers, "ratelimit-limit") == 777
    })
    .await;
    for wrong in [json!({"tier": "gold"}), json!({"tier": 3})] {
        let (status, problem) = server.patch(&path, wrong).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(problem["errors"][0]["pointer"], "/tier");
    }
    let member = server.key_of(json!({"name": "m", "role": "admin"})).await;
    let patch = server.request_by(&member, Method::PATCH, &path).json(&json!({"tier": "free"}));
    assert_eq!(answer(patch).await.0, StatusCode::FORBIDDEN);
}

async fn the_day_s_requests_survive_a_restart(engine: Engine) {
    let home = Home::new(engine).await;
    let settings = limits(&[("AGENTRY_LIMITS__STANDARD__DAILY_REQUESTS", "5")]);
    let server = Process::start_with(&home, &settings);
    let secret = server.key_of(json!({"name": "k", "role": "member"})).await;
    let asked = vec![(Method::GET, AGENTS, None); 3];
    assert_eq!(let_through(&server, &secret, &asked, "daily_quota_exceeded").await, 3);
    wait_until(|| async { home.number("select coalesce(max(n), 0) from quota_use").await == 3 })
        .await;
    server.kill();
    let server = Process::start_with(&home, &settings);
    let (_, headers, _) = ask(&server, &secret, AGENTS).await;
    assert_eq!(
        (number(&headers, "ratelimit-limit"), number(&headers, "ratelimit-remaining")),
        (5, 1)
    );
    assert_eq!(let_through(&server, &secret, &asked, "daily_quota_exceeded").await, 1);
    let (status, headers, problem) = ask(&server, &secret, AGENTS).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem["code"], "daily_quota_exceeded");
    let after = number(&headers, "retry-after");
    assert!((1..=24 * 3_600).contains(&after), "until midnight: {after}");
    // What is refused is not counted.
    wait_until(|| async { home.number("select max(n) from quota_use").await == 5 }).await;
    assert_eq!(server.get(AGENTS).await.0, StatusCode::OK, "the owner has no limit");
}

async fn wrong_credentials_of_an_address_have_a_bound(engine: Engine) {
    let settings = [
        ("AGENTRY_HTTP__AUTH_FAILURES_PER_MINUTE", "1"),
        ("AGENTRY_HTTP__AUTH_FAILURES_BURST", "3"),
        ("AGENTRY_HTTP__TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let server = Server::start_with(engine, &settings).await;
    let (near, far) = ("203.0.113.7", "203.0.113.8");
    let show = async |credential: &str, from: &str, path: &str| {
        let request = server.request_by(credential, Method::GET, path);
        let response = request.header("x-forwarded-for", from).send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.json::<Value>().await.unwrap())
    };
    let status = async |credential: &str, from: &str| show(credential, from, AGENTS).await.0;
    let (refused, limited) = (StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS);
    let (_, made) = server.post("/api/v1/keys", json!({"name": "used", "role": "member"})).await;
    let used = made["secret"].as_str().unwrap();
    assert_eq!(status(used, near).await, StatusCode::OK);
    // A key, a token and a ticket that are none; and what shows nothing does not count.
    for _ in 0..10 {
        let request = server.client.get(format!("{}{AGENTS}", server.url));
        assert_eq!(answer(request.header("x-forwarded-for", near)).await.0, refused);
    }
    for wrong in [&*format!("ak_{}", "0".repeat(64)), "a.b.c"] {
        assert_eq!(status(wrong, near).await, refused);
    }
    let ticket = format!("{}/events?ticket=at_{}", server.url, "0".repeat(64));
    let request = server.client.get(ticket).header("x-forwarded-for", near);
    assert_eq!(answer(request).await.0, refused);
    let (found, headers, problem) = show("ak_x", near, AGENTS).await;
    assert_eq!((found, &problem["code"]), (limited, &json!("too_many_auth_failures")));
    let after = number(&headers, "retry-after");
    assert!((30..=60).contains(&after), "one a minute: {after}");
    let (found, _, problem) = show("ak_x", near, "/v1/models").await;
    assert_eq!((found, &problem["error"]["type"]), (limited, &json!("rate_limit_error")));
    // Others are elsewhere, and who was here before is not held up by a neighbour.
    assert_eq!(status("ak_x", far).await, refused);
    assert_eq!(status(used, near).await, StatusCode::OK);
    // A key that nobody has seen yet waits here, until it was good somewhere.
    let fresh = server.key_of(json!({"name": "fresh", "role": "member"})).await;
    assert_eq!(status(&fresh, near).await, limited);
    assert_eq!(status(&fresh, far).await, StatusCode::OK);
    assert_eq!(status(&fresh, near).await, StatusCode::OK);
    // To have been good opens nothing.
    let path = format!("/api/v1/keys/{}", made["id"].as_str().unwrap());
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    assert_eq!(status(used, near).await, refused);
    let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "agentry_auth_failures_total 5",
        "agentry_auth_failures_limited_total 3",
        "agentry_auth_failures_networks 2",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
}
