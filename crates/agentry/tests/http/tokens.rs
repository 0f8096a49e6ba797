//! Tokens of an identity provider: those that are good, every way in which one can
//! be wrong, and keys that come, go and cannot be fetched.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use agentry_testkit::identity_provider::{
    Alg, IdentityProvider, SigningKey, token_of_secret, unsigned,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};

on_both_engines! {
    a_token_names_organisation_user_and_role,
    a_holder_s_streams_and_tickets_work,
}

const AGENTS: &str = "/api/v1/agents";
const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "agentry";
const INSTALLATION: &str = "00000000-0000-7000-8000-000000000001";

/// A path that a key's id would lead to when it were taken for one.
const TRAVERSAL: &str = "../../../../../../../../dev/null";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now() + 300,
        "org_id": INSTALLATION, "role": "member"})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => {
            claims.as_object_mut().unwrap().remove(name);
        }
        value => claims[name] = value,
    }
    claims
}

async fn served(engine: Engine, keys: (&str, &str), more: &[(&str, &str)]) -> Server {
    let mut environment =
        vec![keys, ("AGENTRY_TOKENS__ISSUER", ISSUER), ("AGENTRY_TOKENS__AUDIENCES", AUDIENCE)];
    environment.extend(more);
    Server::start_with(engine, &environment).await
}

async fn status(server: &Process, token: &str) -> (StatusCode, Value) {
    answer(server.request_by(token, Method::GET, AGENTS)).await
}

async fn takes(server: &Process, token: &str, why: &str) {
    let (status, said) = status(server, token).await;
    assert_eq!(status, StatusCode::OK, "{why}: {said}");
}

async fn refuses(server: &Process, token: &str, why: &str) {
    let (status, said) = status(server, token).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{why}: {said}");
    assert_eq!(said["code"], "unauthenticated", "{why}");
}

async fn a_token_names_organisation_user_and_role(engine: Engine) {
    let key = SigningKey::new("one", Alg::Es256);
    let provider = IdentityProvider::start(&[&key]).await;
    let server = served(engine, ("AGENTRY_TOKENS__JWKS_URL", &provider.url()), &[]).await;
    let (_, org) = server.post("/api/v1/orgs", json!({"name": "theirs"})).await;
    let org = org["id"].as_str().unwrap().to_owned();
    let of = |org: &str, role: &str, sub: &str| {
        let mut claims = claims();
        (claims["org_id"], claims["role"], claims["sub"]) = (json!(org), json!(role), json!(sub));
        key.token(&claims)
    };
    let make = |token: String| {
        let request = server.request_by(&token, Method::POST, AGENTS);
        answer(request.json(&json!({"name": "canary"})))
    };
    // Within its organisation, and nowhere else.
    let (made, agent) = make(of(&org, "member", "ada")).await;
    assert_eq!(made, StatusCode::CREATED, "{agent}");
    let path = format!("{AGENTS}/{}", agent["id"].as_str().unwrap());
    let (ours, _) =
        answer(server.request_by(&of(INSTALLATION, "member", "ada"), Method::GET, &path)).await;
    assert_eq!(ours, StatusCode::NOT_FOUND);
    assert_eq!(server.get(&path).await.0, StatusCode::NOT_FOUND);
    // What its role may, and no more.
    assert_eq!(make(of(&org, "viewer", "ada")).await.0, StatusCode::FORBIDDEN);
    let mut listed = claims();
    listed["role"] = json!(["guest", "viewer", "member"]);
    takes(&server, &key.token(&listed), "a list of roles").await;
    for role in [json!("owner"), json!("admin"), json!("king"), json!(["guest"]), Value::Null] {
        refuses(&server, &key.token(&with("role", role.clone())), &role.to_string()).await;
    }
    refuses(&server, &of("01890a5d-ac96-774b-bcce-b302099a8057", "member", "ada"), "no such org")
        .await;
    refuses(&server, &key.token(&with("org_id", json!("x"))), "no id").await;
    refuses(&server, &key.token(&with("sub", Value::Null)), "nobody").await;
    // The audit names who it was.
    let theirs = json!({"name": "k", "role": "owner", "org_id": org});
    let owner = server.key_of(theirs).await;
    wait_until(|| async {
        let audit =
            server.request_by(&owner, Method::GET, "/api/v1/audit?event_type=agent.created");
        let (_, page) = answer(audit).await;
        let actor = &page["items"][0]["actor"];
        actor["kind"] == "token" && actor["issuer"] == ISSUER && actor["subject"] == "ada"
    })
    .await;
    // One who is limited is limited alone: each holder has a rate.
    let response = server.request_by(&of(&org, "member", "eve"), Method::GET, AGENTS);
    assert!(response.send().await.unwrap().headers().contains_key("ratelimit-remaining"));
}

async fn a_holder_s_streams_and_tickets_work(engine: Engine) {
    let key = SigningKey::new("one", Alg::EdDsa);
    let provider = IdentityProvider::start(&[&key]).await;
    let server = served(engine, ("AGENTRY_TOKENS__JWKS_URL", &provider.url()), &[]).await;
    // It ends a second from now, with the skew that is allowed.
    let ends = key.token(&with("exp", json!(now() - 57)));
    let mut stream = server.request_by(&ends, Method::GET, "/events").send().await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    let holds = key.token(&claims());
    let ticket = server.request_by(&holds, Method::POST, "/api/v1/events/tickets");
    let (made, ticket) = answer(ticket.json(&json!({}))).await;
    assert_eq!(made, StatusCode::CREATED, "{ticket}");
    let url = format!("{}/events?ticket={}", server.url, ticket["ticket"].as_str().unwrap());
    let mut open = server.client.get(&url).send().await.unwrap();
    assert_eq!(open.status(), StatusCode::OK);
    assert_eq!(server.client.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    // The stream of the token that ends, ends with it; the other one goes on.
    while let Ok(Some(_)) = stream.chunk().await {}
    server.post(AGENTS, json!({"name": "canary"})).await;
    let mut heard = String::new();
    while !heard.contains("agent.created") {
        let chunk = open.chunk().await.unwrap().expect("the stream goes on");
        heard.push_str(&String::from_utf8_lossy(&chunk));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_algorithm_and_the_skew() {
    let keys = [Alg::Rs256, Alg::Es256, Alg::EdDsa].map(|alg| SigningKey::new(alg.name(), alg));
    let home = Home::new(Engine::Sqlite).await;
    // From a file, beside keys that nobody here understands.
    let file = home.data.path().join("jwks.json");
    let mut set = vec![
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"}),
        json!({"kty": "FUTURE", "kid": "future"}),
    ];
    set.extend(keys.iter().map(SigningKey::jwk));
    std::fs::write(&file, json!({"keys": set}).to_string()).unwrap();
    let environment = [
        ("AGENTRY_TOKENS__JWKS_FILE", file.to_str().unwrap()),
        ("AGENTRY_TOKENS__ISSUER", ISSUER),
        ("AGENTRY_TOKENS__AUDIENCES", AUDIENCE),
    ];
    let server = Process::start_with(&home, &environment);
    for key in &keys {
        let why = key.alg.name();
        takes(&server, &key.token(&claims()), why).await;
        let aud = with("aud", json!(["others", AUDIENCE]));
        takes(&server, &key.token(&aud), why).await;
        takes(&server, &key.token(&with("exp", json!(now() - 30))), "within the skew").await;
        takes(&server, &key.token(&with("nbf", json!(now() + 30))), "within the skew").await;
        refuses(&server, &key.token(&with("exp", json!(now() - 90))), "expired").await;
        refuses(&server, &key.token(&with("nbf", json!(now() + 90))), "not yet").await;
        // Again, when it is remembered.
        let token = key.token(&with("sub", json!("again")));
        for _ in 0..3 {
            takes(&server, &token, why).await;
        }
    }
    let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("agentry_tokens_remembered_total 6"), "{metrics}");
    // A key that comes into the file is known at once.
    let new = SigningKey::new("new", Alg::Es256);
    std::fs::write(&file, json!({"keys": [new.jwk()]}).to_string()).unwrap();
    takes(&server, &new.token(&claims()), "a new key in the file").await;
    refuses(&server, &keys[0].token(&claims()), "a key that went").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attack_is_refused() {
    let keys = [Alg::Rs256, Alg::Es256, Alg::EdDsa].map(|alg| SigningKey::new(alg.name(), alg));
    let stranger = SigningKey::new("RS256", Alg::Rs256);
    let provider = IdentityProvider::start(&[&keys[0], &keys[1], &keys[2]]).await;
    let evil = IdentityProvider::start(&[&stranger]).await;
    let url = provider.url();
    let server = served(Engine::Sqlite, ("AGENTRY_TOKENS__JWKS_URL", &url), &[]).await;
    let rsa = &keys[0];
    takes(&server, &rsa.token(&claims()), "the token that the others are made from").await;
    let head = |name: &str, value: Value| {
        let mut head = json!({"alg": "RS256", "typ": "JWT", "kid": "RS256"});
        head[name] = value;
        head
    };

    // No signature, in every spelling.
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let bare = unsigned(&head("alg", json!(none)), &claims());
        refuses(&server, &format!("{bare}."), none).await;
        let signature = rsa.token(&claims());
        let signature = signature.rsplit('.').next().unwrap();
        refuses(&server, &format!("{bare}.{signature}"), none).await;
    }
    let bare = unsigned(&head("alg", json!("RS256")), &claims());
    refuses(&server, &format!("{bare}."), "an empty signature").await;
    // The public key taken for a shared secret.
    for key in &keys {
        let jwk = key.jwk().to_string();
        let raw = key.public_pem();
        for secret in [raw.as_bytes(), raw.trim().as_bytes(), jwk.as_bytes(), b""] {
            for alg in ["HS256", "HS384", "HS512"] {
                let head = json!({"alg": alg, "typ": "JWT", "kid": key.id});
                let token = token_of_secret(&head, &claims(), secret);
                refuses(&server, &token, "a shared secret").await;
            }
        }
    }
    // Another way of signing than the key's.
    for alg in ["RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "HS256"] {
        refuses(&server, &rsa.token_with(&head("alg", json!(alg)), &claims()), alg).await;
    }
    let confused = json!({"alg": "ES256", "kid": "RS256"});
    refuses(&server, &keys[1].token_with(&confused, &claims()), "another key's id").await;
    // Ids that lead somewhere.
    for id in [
        json!(TRAVERSAL),
        json!("/dev/null"),
        json!("' or '1'='1"),
        json!("RS256\u{0}"),
        json!(""),
        json!("x".repeat(5_000)),
        json!({"a": 1}),
        json!(["RS256"]),
    ] {
        let why = format!("{id:.40}");
        refuses(&server, &rsa.token_with(&head("kid", id), &claims()), &why).await;
    }
    let id = head("kid", json!(TRAVERSAL));
    refuses(&server, &token_of_secret(&id, &claims(), b""), "the empty file as a secret").await;
    // Keys that the token brings, or says where to find.
    let evil_url = evil.url();
    for (name, value) in [
        ("jwk", stranger.jwk()),
        ("jku", json!(evil_url)),
        ("x5u", json!(evil_url)),
        ("x5c", json!(["MIIB"])),
    ] {
        for key in [&stranger, rsa] {
            let token = key.token_with(&head(name, value.clone()), &claims());
            refuses(&server, &token, name).await;
        }
    }
    assert_eq!(evil.fetches(), 0, "nobody asked the token's own provider");
    refuses(&server, &stranger.token(&claims()), "a stranger's key under a known id").await;
    // Claims.
    for (name, value) in [
        ("iss", json!("https://evil.example")),
        ("iss", json!("https://id.example/")),
        ("iss", Value::Null),
        ("aud", json!("others")),
        ("aud", json!(["others", "more"])),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("exp", Value::Null),
        ("exp", json!("tomorrow")),
        ("exp", json!(now() - 3_600)),
        ("exp", json!(0)),
        ("nbf", json!(now() + 3_600)),
    ] {
        let why = format!("{name} {value}");
        refuses(&server, &rsa.token(&with(name, value)), &why).await;
    }
    // Changed on the way, and what is no token.
    let token = rsa.token(&claims());
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let stronger = unsigned(&head("alg", json!("RS256")), &with("role", json!("service")));
    parts[1] = stronger.split('.').nth(1).unwrap().to_owned();
    refuses(&server, &parts.join("."), "other claims").await;
    for wrong in ["..", "a.b.c", "e30.e30.", "e30.e30.e30", &token[..token.len() - 4]] {
        refuses(&server, wrong, wrong).await;
    }
    refuses(&server, &format!("{token}.{token}"), "two in one").await;
    takes(&server, &token, "and it is still good itself").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_known_are_asked_for_once_a_minute() {
    let known = SigningKey::new("known", Alg::Es256);
    let provider = IdentityProvider::start(&[&known]).await;
    let url = provider.url();
    let server = served(Engine::Sqlite, ("AGENTRY_TOKENS__JWKS_URL", &url), &[]).await;
    takes(&server, &known.token(&claims()), "known").await;
    let before = provider.fetches();
    let strangers = (0..50).map(|n| {
        let token = SigningKey::new(&format!("s{n}"), Alg::Es256).token(&claims());
        let server = &server;
        async move { refuses(server, &token, "a stranger").await }
    });
    futures::future::join_all(strangers).await;
    assert_eq!(provider.fetches() - before, 1);
    // A provider that is away takes nobody's keys along.
    provider.down(true);
    takes(&server, &known.token(&with("sub", json!("bob"))), "the provider is away").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_away_from_the_start_is_waited_for() {
    let key = SigningKey::new("one", Alg::Es256);
    let provider = IdentityProvider::start(&[&key]).await;
    provider.down(true);
    let url = provider.url();
    let server = served(Engine::Sqlite, ("AGENTRY_TOKENS__JWKS_URL", &url), &[]).await;
    let token = key.token(&claims());
    let response = server.request_by(&token, Method::GET, AGENTS).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "token_keys_unavailable");
    assert_eq!(server.get(AGENTS).await.0, StatusCode::OK, "keys are good as ever");
    provider.down(false);
    wait_until(|| async { status(&server, &token).await.0 == StatusCode::OK }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_without_a_false_reject() {
    let old = SigningKey::new("old", Alg::Es256);
    let new = SigningKey::new("new", Alg::EdDsa);
    let provider = IdentityProvider::start(&[&old]).await;
    let url = provider.url();
    let server = served(Engine::Sqlite, ("AGENTRY_TOKENS__JWKS_URL", &url), &[]).await;
    takes(&server, &old.token(&claims()), "the old key").await;
    let (rotated, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (taken, by_new) = (AtomicU64::new(0), AtomicU64::new(0));
    let clients = (0..8).map(|client| {
        let (old, new, server) = (&old, &new, &server);
        let (rotated, done, taken, by_new) = (&rotated, &done, &taken, &by_new);
        async move {
            let mut n = 0;
            while !done.load(Ordering::Acquire) {
                // Each token is a new one, so that none is remembered.
                n += 1;
                let claims = with("sub", json!(format!("{client}-{n}")));
                let is_new = rotated.load(Ordering::Acquire);
                let key = if is_new { new } else { old };
                takes(server, &key.token(&claims), "while keys rotate").await;
                taken.fetch_add(1, Ordering::AcqRel);
                by_new.fetch_add(u64::from(is_new), Ordering::AcqRel);
            }
        }
    });
    let rotation = async {
        wait_until(|| async { taken.load(Ordering::Acquire) > 100 }).await;
        // The provider shows the next key beside the old one, and then signs with it.
        provider.show(&[&old, &new]);
        rotated.store(true, Ordering::Release);
        wait_until(|| async { by_new.load(Ordering::Acquire) > 100 }).await;
        done.store(true, Ordering::Release);
    };
    futures::future::join(futures::future::join_all(clients), rotation).await;
    assert!(by_new.load(Ordering::Acquire) > 100);
}
