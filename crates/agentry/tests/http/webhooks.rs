//! Webhooks: as resources, and what their receivers get from a real server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crud::{NOTHING, entity_tags_guard};
use crate::on_both_engines;
use crate::receiver::{Behaviour, Delivered, Receiver};
use crate::server::{Engine, Home, Process, Server, answer, wait_until};

on_both_engines! {
    a_webhook_is_a_resource_whose_secret_is_shown_once,
    a_url_that_is_not_public_is_refused,
    only_who_may_hear_of_it_registers_a_webhook_for_it,
    events_arrive_in_order_and_signed,
    a_filter_decides_what_arrives,
    a_failing_receiver_is_tried_again_and_given_up,
    a_hanging_receiver_holds_up_only_itself,
    a_redirect_is_not_followed_and_a_gigabyte_is_not_read,
    what_was_delivered_is_replayed_under_the_same_ids,
    a_disabled_webhook_goes_on_where_it_stopped,
    what_is_past_retention_is_told_as_a_gap,
    a_new_secret_signs_beside_the_one_before,
    a_deleted_webhook_leaves_nothing_behind,
    a_kill_loses_no_event,
    what_is_asked_for_with_a_key_happens_once,
    there_are_only_so_many,
}

mod processes {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_process_goes_on_when_one_is_killed() {
        super::another_process_goes_on_when_one_is_killed().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_the_sealing_key_nothing_is_sealed() {
        super::without_the_sealing_key_nothing_is_sealed().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_sealing_key_stops_the_start() {
        super::another_sealing_key_stops_the_start();
    }
}

const WEBHOOKS: &str = "/api/v1/webhooks";
/// 32 bytes in base-64.
pub(crate) const SEALING_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const LOOPBACK: (&str, &str) = ("AGENTRY_OUTBOUND__LOOPBACK_TARGETS_ALLOWED", "true");
/// Impatient, so that tests see the end of it.
const SETTINGS: [(&str, &str); 6] = [
    LOOPBACK,
    ("AGENTRY_SEALING_KEY", SEALING_KEY),
    ("AGENTRY_WEBHOOKS__TIMEOUT_MS", "400"),
    ("AGENTRY_WEBHOOKS__ATTEMPTS_MAX", "3"),
    ("AGENTRY_WEBHOOKS__BACKOFF_MIN_MS", "20"),
    ("AGENTRY_WEBHOOKS__BACKOFF_MAX_MS", "50"),
];

async fn started(engine: Engine) -> Server {
    Server::start_with(engine, &SETTINGS).await
}

/// Registers a webhook; where it is, and its secret.
async fn registered(process: &Process, body: Value) -> (String, String) {
    let (status, webhook) = process.post(WEBHOOKS, body).await;
    assert_eq!(status, StatusCode::CREATED, "{webhook}");
    let secret = webhook["secret"].as_str().unwrap().to_owned();
    (format!("{WEBHOOKS}/{}", webhook["id"].as_str().unwrap()), secret)
}

async fn agent(process: &Process, name: &str) -> String {
    let (status, agent) = process.post("/api/v1/agents", json!({"name": name})).await;
    assert_eq!(status, StatusCode::CREATED, "{agent}");
    agent["id"].as_str().unwrap().to_owned()
}

/// A webhook's deliveries, oldest first.
async fn deliveries(process: &Process, webhook: &str, query: &str) -> Vec<Value> {
    let (status, list) = process.get(&format!("{webhook}/deliveries?order=asc{query}")).await;
    assert_eq!(status, StatusCode::OK, "{list}");
    list["items"].as_array().unwrap().clone()
}

/// Waits until a delivery of this type stands so; the delivery.
async fn delivery(process: &Process, webhook: &str, event_type: &str, state: &str) -> Value {
    let find = || async {
        let all = deliveries(process, webhook, "").await;
        all.into_iter().find(|it| it["event_type"] == event_type && it["state"] == state)
    };
    wait_until(|| async { find().await.is_some() }).await;
    find().await.unwrap()
}

fn ids_of_entities(delivered: &[Delivered]) -> Vec<String> {
    delivered.iter().map(|it| it.json()["entity_id"].as_str().unwrap().to_owned()).collect()
}

/// What the test's Python, which shares no code with the server, says of
/// signatures: whether each is right for one of these secrets, how many each
/// delivery has, and how old it is.
async fn check_signatures(delivered: &[Delivered], secret: &str, signatures: usize) {
    let python = std::env::var("AGENTRY_TEST_PYTHON")
        .expect("AGENTRY_TEST_PYTHON is not set: run `make test`, which makes the environment");
    let directory = agentry_testkit::TempDir::new();
    let (script, input) = (directory.path().join("check.py"), directory.path().join("in.json"));
    let rows: Vec<Value> =
        delivered.iter().map(|it| json!({"headers": it.headers, "body": it.body})).collect();
    std::fs::write(&input, serde_json::to_string(&rows).unwrap()).unwrap();
    std::fs::write(
        &script,
        r#"
import base64, hashlib, hmac, json, sys, time
secret = base64.b64decode(sys.argv[2].removeprefix("whsec_"))
assert len(secret) == 32
for row in json.load(open(sys.argv[1])):
    headers, body = row["headers"], row["body"]
    signed = f'{headers["webhook-id"]}.{headers["webhook-timestamp"]}.{body}'.encode()
    right = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    given = headers["webhook-signature"].split(" ")
    assert any(hmac.compare_digest(right, one) for one in given), (right, given)
    assert len(given) == int(sys.argv[3]), given
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 300
    assert headers["content-type"] == "application/json"
"#,
    )
    .unwrap();
    let (secret, signatures) = (secret.to_owned(), signatures.to_string());
    let ran = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(python);
        command.arg(script).arg(input).args([secret, signatures]).output().unwrap()
    });
    let output = ran.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn a_webhook_is_a_resource_whose_secret_is_shown_once(engine: Engine) {
    let server = started(engine).await;
    let full = json!({
        "url": "https://app.example/hook?a=b", "description": "tells the app", "enabled": false,
        "event_types": ["agent.*"], "entity_types": ["agent", "run"], "entity_ids": [NOTHING],
        "group_ids": ["code", "people"], "metadata": {"team": "blue"},
    });
    let post = || server.request(Method::POST, WEBHOOKS).header("idempotency-key", "one");
    let (status, mut created) = answer(post().json(&full)).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let secret = created.as_object_mut().unwrap().remove("secret").unwrap();
    assert!(secret.as_str().unwrap().starts_with("whsec_"));
    assert_eq!(secret.as_str().unwrap().len(), 50);
    for (field, value) in full.as_object().unwrap() {
        assert_eq!(&created[field], value, "{field}");
    }
    let path = format!("{WEBHOOKS}/{}", created["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await, (StatusCode::OK, created.clone()));
    let (_, list) = server.get(WEBHOOKS).await;
    assert_eq!(list["items"], json!([created]));
    // The answer of a request that was sent again has no secret.
    let (status, again) = answer(post().json(&full)).await;
    assert_eq!(
        (status, &again["id"], &again["secret"]),
        (StatusCode::CREATED, &created["id"], &Value::Null)
    );
    assert_eq!(server.get(&format!("{WEBHOOKS}?enabled=true")).await.1["total"], json!(0));
    assert_eq!(server.get(&format!("{WEBHOOKS}?enabled=false")).await.1["total"], json!(1));

    let (status, changed) =
        server.patch(&path, json!({"description": null, "entity_ids": []})).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!((&changed["description"], &changed["entity_ids"]), (&json!(""), &json!([])));
    assert_eq!(changed["event_types"], json!(["agent.*"]));
    // A disabled webhook is asked for nothing.
    for ask in ["ping", "replay"] {
        let (status, problem) = server.post(&format!("{path}/{ask}"), json!({"after": 0})).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("conflict")));
    }
    entity_tags_guard(&server, WEBHOOKS, full.clone(), json!({"description": "new"})).await;
    for (field, wrong) in [
        ("entity_types", json!(["comet"])),
        ("entity_ids", json!(["no id"])),
        ("event_types", json!("agent")),
        ("url", Value::Null),
    ] {
        let mut body = full.clone();
        body[field] = wrong;
        let (status, problem) = server.post(WEBHOOKS, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{problem}");
    }
    for path in ["", "/deliveries"] {
        let (status, _) = server.get(&format!("{WEBHOOKS}/{NOTHING}{path}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    for ask in ["ping", "rotate-secret", "replay", &format!("deliveries/{NOTHING}/retry")] {
        let asked = server.post(&format!("{WEBHOOKS}/{NOTHING}/{ask}"), json!({"after": 0})).await;
        assert_eq!(asked.0, StatusCode::NOT_FOUND, "{ask}");
    }
}

async fn a_url_that_is_not_public_is_refused(engine: Engine) {
    let key = ("AGENTRY_SEALING_KEY", SEALING_KEY);
    let server = Server::start_with(engine, &[key]).await;
    for (url, code) in [
        ("http://127.0.0.1/", "not_allowed"),
        ("http://127.1:8881/", "not_allowed"),
        ("http://2130706433/", "not_allowed"),
        ("http://0x7f.1/", "not_allowed"),
        ("http://[::ffff:10.0.0.1]/", "not_allowed"),
        ("http://[64:ff9b::a00:1]/", "not_allowed"),
        ("http://localhost/", "not_allowed"),
        ("http://169.254.169.254/latest/meta-data", "not_allowed"),
        ("http://metadata.google.internal/", "not_allowed"),
        ("https://user:secret@app.example/", "not_allowed"),
        ("ftp://app.example/", "not_allowed"),
        ("app.example/hook", "malformed"),
    ] {
        let (status, problem) = server.post(WEBHOOKS, json!({"url": url})).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{url}");
        assert_eq!(problem["errors"][0]["pointer"], "/url", "{problem}");
        assert_eq!(problem["errors"][0]["code"], code, "{url}: {problem}");
    }
    let (path, _) =
        registered(&server, json!({"url": "https://app.example/", "enabled": false})).await;
    let (status, _) = server.patch(&path, json!({"url": "http://10.0.0.1/"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

async fn only_who_may_hear_of_it_registers_a_webhook_for_it(engine: Engine) {
    let server = started(engine).await;
    let key = |body: Value| async {
        let (status, key) = server.post("/api/v1/keys", body).await;
        assert_eq!(status, StatusCode::CREATED, "{key}");
        key["secret"].as_str().unwrap().to_owned()
    };
    let url = "https://app.example/";
    let with = |key: String, body: Value| {
        answer(
            server
                .client
                .post(format!("{}{WEBHOOKS}", server.url))
                .header("x-api-key", key)
                .json(&body),
        )
    };
    for role in ["member", "viewer", "service"] {
        let key = key(json!({"name": role, "role": role})).await;
        assert_eq!(
            with(key, json!({"url": url, "enabled": false})).await.0,
            StatusCode::FORBIDDEN,
            "{role}"
        );
    }
    let admin = key(json!({"name": "admin", "role": "admin"})).await;
    assert_eq!(
        with(admin.clone(), json!({"url": url, "enabled": false})).await.0,
        StatusCode::CREATED
    );
    let orgs = json!({"url": url, "enabled": false, "entity_types": ["org"]});
    assert_eq!(with(admin, orgs.clone()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(with(server.key.clone(), orgs).await.0, StatusCode::CREATED);
    let scopes = json!(["webhooks:write", "agents:read"]);
    let narrow = key(json!({"name": "narrow", "role": "admin", "scopes": scopes})).await;
    assert_eq!(
        with(narrow.clone(), json!({"url": url, "enabled": false})).await.0,
        StatusCode::FORBIDDEN
    );
    let agents = json!({"url": url, "enabled": false, "entity_types": ["agent"]});
    assert_eq!(with(narrow, agents).await.0, StatusCode::CREATED);
}

async fn events_arrive_in_order_and_signed(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    if engine == Engine::Sqlite {
        // On PostgreSQL it gets its place in the log a moment after its answer.
        agent(&server, "before").await;
    }
    let (webhook, secret) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    let mut made = Vec::new();
    for nth in 0..20 {
        made.push(agent(&server, &format!("a{nth} é")).await);
    }
    let delivered = receiver.wait(20).await;
    assert_eq!(ids_of_entities(&delivered), made);
    check_signatures(&delivered, &secret, 1).await;
    let ids: BTreeSet<&str> = delivered.iter().map(Delivered::id).collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(delivered[0].path, "/hook");
    let event = delivered[0].json();
    assert_eq!((&event["type"], &event["event_type"]), (&json!("event"), &json!("agent.created")));
    assert_eq!(event["data"], json!({"version": 1}));
    let seqs: Vec<i64> = delivered.iter().map(|it| it.json()["seq"].as_i64().unwrap()).collect();
    assert!(seqs.is_sorted());
    // The same is in the list.
    wait_until(|| async { deliveries(&server, &webhook, "&state=delivered").await.len() == 20 })
        .await;
    let list = deliveries(&server, &webhook, "").await;
    let listed: BTreeSet<&str> = list.iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(listed, ids);
    for it in &list {
        assert_eq!(
            (&it["status"], &it["attempts"], &it["error"]),
            (&json!(204), &json!(1), &Value::Null)
        );
        assert!(it["finished_at"].is_string() && it["next_at"].is_null());
    }
    // A test says what it is.
    let (status, ping) = server.post(&format!("{webhook}/ping"), json!({})).await;
    assert_eq!((status, &ping["state"]), (StatusCode::ACCEPTED, &json!("waiting")), "{ping}");
    let delivered = receiver.wait(21).await;
    assert_eq!(
        (delivered[20].event_type(), delivered[20].id()),
        ("ping".to_owned(), ping["id"].as_str().unwrap())
    );
    check_signatures(&delivered[20..], &secret, 1).await;
    // One after the other over one connection.
    assert_eq!(receiver.connections(), 1);
}

async fn a_filter_decides_what_arrives(engine: Engine) {
    let server = started(engine).await;
    let (all, some) = (Receiver::start().await, Receiver::start().await);
    let kept = agent(&server, "kept").await;
    registered(&server, json!({"url": all.url()})).await;
    let (webhook, _) = registered(
        &server,
        json!({"url": some.url(), "event_types": ["agent.updated"], "entity_ids": [kept]}),
    )
    .await;
    let other = agent(&server, "other").await;
    for (id, name) in [(&other, "o1"), (&kept, "k1"), (&other, "o2"), (&kept, "k2")] {
        server.patch(&format!("/api/v1/agents/{id}"), json!({"name": name})).await;
    }
    let delivered = some.wait(2).await;
    assert_eq!(ids_of_entities(&delivered), [kept.as_str(), &kept]);
    // The registrations themselves, one agent and four changes.
    let types: Vec<String> = all.wait(7).await.iter().map(Delivered::event_type).collect();
    assert_eq!(types[..3], ["webhook.created", "webhook.created", "agent.created"]);
    assert!(types[3..].iter().all(|kind| kind == "agent.updated"));
    // A filter that is changed holds for what comes next.
    server.patch(&webhook, json!({"event_types": ["agent.deleted"], "entity_ids": null})).await;
    assert_eq!(server.delete(&format!("/api/v1/agents/{other}")).await, StatusCode::NO_CONTENT);
    // What came twice has the id that it had.
    wait_until(|| {
        let again = some.delivered();
        let mut new = again.iter().filter(|it| delivered.iter().all(|old| old.id() != it.id()));
        let first = new.next().map(Delivered::event_type);
        assert!(first.as_deref().is_none_or(|kind| kind == "agent.deleted"), "{first:?}");
        std::future::ready(first.is_some())
    })
    .await;
}

async fn a_failing_receiver_is_tried_again_and_given_up(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    let (webhook, secret) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    receiver.answer(500);
    let first = agent(&server, "first").await;
    let dead = delivery(&server, &webhook, "agent.created", "dead").await;
    assert_eq!((&dead["attempts"], &dead["status"]), (&json!(3), &json!(500)));
    assert_eq!(dead["error"], "the receiver answered 500");
    let tries = receiver.wait(3).await;
    assert_eq!(ids_of_entities(&tries), [first.as_str(), &first, &first]);
    let ids: BTreeSet<&str> = tries.iter().map(Delivered::id).collect();
    assert_eq!(Vec::from_iter(ids), [dead["id"].as_str().unwrap()]);
    // What was given up holds nothing up.
    receiver.answer(200);
    receiver.forget();
    let second = agent(&server, "second").await;
    assert_eq!(ids_of_entities(&receiver.wait(1).await), [second]);
    // Twice not, then yes.
    receiver.answer(503);
    let third = agent(&server, "third").await;
    receiver.wait(3).await;
    receiver.answer(200);
    let arrived = delivery_of(&server, &webhook, &receiver, &third).await;
    assert!(arrived["attempts"].as_i64().unwrap() >= 2, "{arrived}");
    // And the one that was given up, once more.
    receiver.forget();
    let retry = format!("{webhook}/deliveries/{}/retry", dead["id"].as_str().unwrap());
    let (status, asked) = server.post(&retry, json!({})).await;
    assert_eq!((status, &asked["id"]), (StatusCode::ACCEPTED, &dead["id"]), "{asked}");
    let again = receiver.wait(1).await;
    assert_eq!(
        (again[0].id(), ids_of_entities(&again)),
        (dead["id"].as_str().unwrap(), vec![first])
    );
    check_signatures(&again, &secret, 1).await;
    wait_until(|| async { deliveries(&server, &webhook, "&state=dead").await.is_empty() }).await;
    let unknown = server.post(&format!("{webhook}/deliveries/{NOTHING}/retry"), json!({})).await;
    assert_eq!(unknown.0, StatusCode::NOT_FOUND);
    // The second, the third and the one that was asked for; one that was given up after two
    // tries; and the third had as many tries as it took.
    let failed = 2 + arrived["attempts"].as_u64().unwrap() - 1;
    let counts = format!("deliveries_total 3,retries_total {failed},given_up_total 1");
    wait_until(|| async {
        let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let has =
            |count: &str| metrics.lines().any(|line| line == format!("agentry_webhook_{count}"));
        counts.split(',').all(has)
    })
    .await;
}

/// Waits until the event about a thing was delivered; the delivery.
async fn delivery_of(process: &Process, webhook: &str, receiver: &Receiver, of: &str) -> Value {
    let is_about = |it: &Delivered| it.json()["entity_id"] == of;
    wait_until(|| async { receiver.delivered().iter().any(is_about) }).await;
    let id = receiver.delivered().iter().find(|it| is_about(it)).unwrap().id().to_owned();
    let find = || async {
        let all = deliveries(process, webhook, "&state=delivered").await;
        all.into_iter().find(|it| it["id"] == id.as_str())
    };
    wait_until(|| async { find().await.is_some() }).await;
    find().await.unwrap()
}

async fn a_hanging_receiver_holds_up_only_itself(engine: Engine) {
    let server = started(engine).await;
    let (hangs, works) = (Receiver::start().await, Receiver::start().await);
    hangs.behave(Behaviour::Hang);
    let filter = json!(["agent.*"]);
    let (webhook, _) =
        registered(&server, json!({"url": hangs.url(), "event_types": filter})).await;
    registered(&server, json!({"url": works.url(), "event_types": filter})).await;
    agent(&server, "hangs").await;
    hangs.wait(1).await;
    // While one try hangs, the other webhook hears of everything.
    for nth in 0..10 {
        agent(&server, &format!("n{nth}")).await;
    }
    assert_eq!(works.wait(11).await.len(), 11);
    let dead = delivery(&server, &webhook, "agent.created", "dead").await;
    assert_eq!((&dead["attempts"], &dead["status"]), (&json!(3), &Value::Null));
    assert_eq!(dead["error"], "there was no answer in time");
}

async fn a_redirect_is_not_followed_and_a_gigabyte_is_not_read(engine: Engine) {
    let server = started(engine).await;
    let (receiver, canary) = (Receiver::start().await, Receiver::start().await);
    let (webhook, _) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    for to in [canary.url(), "http://169.254.169.254/".to_owned()] {
        receiver.behave(Behaviour::Redirect(to));
        agent(&server, "elsewhere").await;
    }
    wait_until(|| async { deliveries(&server, &webhook, "&state=dead").await.len() == 2 }).await;
    for dead in deliveries(&server, &webhook, "").await {
        assert_eq!((&dead["attempts"], &dead["status"]), (&json!(3), &json!(307)));
        assert_eq!(dead["error"], "the receiver answered 307; redirects are not followed");
    }
    assert_eq!(canary.connections(), 0);
    receiver.behave(Behaviour::Gigabyte);
    agent(&server, "much").await;
    let delivered = delivery(&server, &webhook, "agent.created", "delivered").await;
    assert_eq!((&delivered["attempts"], &delivered["status"]), (&json!(1), &json!(200)));
    // What the kernel's buffers hold, and not a gigabyte.
    assert!(receiver.bytes_sent() < 32 * 1_024 * 1_024, "{}", receiver.bytes_sent());
}

async fn what_was_delivered_is_replayed_under_the_same_ids(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    let (webhook, _) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    for nth in 0..5 {
        agent(&server, &format!("a{nth}")).await;
    }
    let before = receiver.wait(5).await;
    wait_until(|| async { deliveries(&server, &webhook, "&state=delivered").await.len() == 5 })
        .await;
    receiver.forget();
    let after = before[1].json()["seq"].clone();
    let (status, _) = server.post(&format!("{webhook}/replay"), json!({"after": after})).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let again = receiver.wait(3).await;
    let ids = |delivered: &[Delivered]| -> Vec<String> {
        delivered.iter().map(|it| it.id().to_owned()).collect()
    };
    assert_eq!(ids(&again), ids(&before[2..]));
    assert_eq!(again[0].body, before[2].body);
    // What comes next comes once.
    let last = agent(&server, "last").await;
    assert_eq!(ids_of_entities(&receiver.wait(4).await[3..]), [last]);
    let (status, problem) =
        server.post(&format!("{webhook}/replay"), json!({"after": 1_000_000})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
}

async fn what_is_asked_for_with_a_key_happens_once(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    let (webhook, first) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    let ask = async |path: &str| {
        let request = server.request(Method::POST, &format!("{webhook}/{path}"));
        let response = request.header("idempotency-key", "once").send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        let replayed = response.headers().get("idempotency-replayed").is_some();
        (replayed, response.json::<Value>().await.unwrap())
    };
    let (replayed, ping) = ask("ping").await;
    assert!(!replayed);
    receiver.wait(1).await;
    assert_eq!(ask("ping").await, (true, ping.clone()), "the first answer, not its state now");

    let retry = format!("deliveries/{}/retry", ping["id"].as_str().unwrap());
    let delivered = || async { deliveries(&server, &webhook, "&state=delivered").await.len() == 1 };
    wait_until(delivered).await;
    let (replayed, again) = ask(&retry).await;
    assert_eq!((replayed, &again["id"]), (false, &ping["id"]));
    receiver.wait(2).await;
    wait_until(delivered).await;
    assert!(ask(&retry).await.0);

    let (replayed, rotated) = ask("rotate-secret").await;
    assert!(!replayed && rotated["secret"].as_str().is_some_and(|second| second != first));
    assert_eq!(ask("rotate-secret").await, (true, json!({"secret": null})));

    // Two deliveries so far, and the next is the third: nothing went out twice.
    agent(&server, "after").await;
    let heard = receiver.wait(3).await;
    assert_eq!(heard[2].json()["event_type"], "agent.created");
    check_signatures(&heard[2..], rotated["secret"].as_str().unwrap(), 2).await;
}

async fn a_disabled_webhook_goes_on_where_it_stopped(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    let (webhook, _) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    let first = agent(&server, "first").await;
    let id = receiver.wait(1).await[0].id().to_owned();
    wait_until(|| async { deliveries(&server, &webhook, "&state=delivered").await.len() == 1 })
        .await;
    server.patch(&webhook, json!({"enabled": false})).await;
    let missed = [agent(&server, "missed").await, agent(&server, "too").await];
    let (status, _) = server.patch(&webhook, json!({"enabled": true})).await;
    assert_eq!(status, StatusCode::OK);
    let last = agent(&server, "last").await;
    let delivered = receiver.wait(4).await;
    let [a, b] = missed;
    assert_eq!(ids_of_entities(&delivered), [first, a, b, last]);
    assert_eq!(delivered[0].id(), id);
}

async fn what_is_past_retention_is_told_as_a_gap(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    let (webhook, secret) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    agent(&server, "first").await;
    let first = receiver.wait(1).await[0].json()["seq"].as_i64().unwrap();
    server.patch(&webhook, json!({"enabled": false})).await;
    for nth in 0..5 {
        agent(&server, &format!("gone{nth}")).await;
    }
    let newest = || async { server.get("/ws/status").await.1["newest"].as_i64().unwrap() };
    wait_until(|| async { newest().await >= first + 6 }).await;
    let newest = newest().await;
    server.home.execute(&format!("delete from log where seq < {newest}")).await;
    server.patch(&webhook, json!({"enabled": true})).await;
    let delivered = receiver.wait(3).await;
    let gap = delivered[1].json();
    assert_eq!((&gap["type"], &gap["oldest"]), (&json!("gap"), &json!(newest)));
    assert_eq!(gap["to"], json!(newest - 1));
    assert!(gap["from"].as_i64().unwrap() <= first + 1, "{gap}");
    assert_eq!(delivered[2].json()["seq"], json!(newest));
    check_signatures(&delivered, &secret, 1).await;
}

async fn a_new_secret_signs_beside_the_one_before(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    let (webhook, first) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    let (status, rotated) = server.post(&format!("{webhook}/rotate-secret"), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{rotated}");
    let second = rotated["secret"].as_str().unwrap();
    assert_ne!(first, second);
    agent(&server, "signed twice").await;
    let delivered = receiver.wait(1).await;
    check_signatures(&delivered, &first, 2).await;
    check_signatures(&delivered, second, 2).await;
    // Nothing that is stored gives a secret away.
    if engine == Engine::Sqlite {
        let data = server.home.data.path();
        let stored: Vec<u8> = ["agentry.db", "agentry.db-wal"]
            .iter()
            .flat_map(|name| std::fs::read(data.join(name)).unwrap_or_default())
            .collect();
        for secret in [first.as_str(), second] {
            let text = secret.strip_prefix("whsec_").unwrap().as_bytes();
            assert!(!stored.windows(text.len()).any(|part| part == text));
        }
        assert!(stored.windows(7).any(|part| part == b"agent.*"), "the right files are read");
    }
}

async fn a_deleted_webhook_leaves_nothing_behind(engine: Engine) {
    let server = started(engine).await;
    let receiver = Receiver::start().await;
    receiver.answer(500);
    let (webhook, _) =
        registered(&server, json!({"url": receiver.url(), "event_types": ["agent.*"]})).await;
    agent(&server, "never").await;
    receiver.wait(1).await;
    assert_eq!(server.delete(&webhook).await, StatusCode::NO_CONTENT);
    assert_eq!(server.get(&webhook).await.0, StatusCode::NOT_FOUND);
    // Another one begins with nothing of it.
    receiver.answer(200);
    let works = Receiver::start().await;
    registered(&server, json!({"url": works.url(), "event_types": ["agent.*"]})).await;
    let next = agent(&server, "next").await;
    assert_eq!(ids_of_entities(&works.wait(1).await), [next]);
    let (_, list) = server.get(WEBHOOKS).await;
    assert_eq!(list["total"], json!(1));
    // Among other things the doctor looks for jobs, places and deliveries without
    // their webhook.
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_agentry"));
    doctor.args(server.home.arguments("doctor"));
    let looked = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap();
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stdout));
}

async fn a_kill_loses_no_event(engine: Engine) {
    let home = Home::new(engine).await;
    let receiver = Receiver::start().await;
    receiver.behave(Behaviour::Status(200, Duration::from_millis(5)));
    let mut settings = SETTINGS.to_vec();
    settings.push(("AGENTRY_RUNS__LEASE_MS", "1000"));
    let mut process = Process::start_with(&home, &settings);
    let (webhook, secret) =
        registered(&process, json!({"url": receiver.url(), "event_types": ["agent.created"]}))
            .await;
    let mut made = BTreeSet::new();
    for round in 0..3 {
        for nth in 0..15 {
            made.insert(agent(&process, &format!("r{round} n{nth}")).await);
        }
        // In the middle of delivering.
        receiver.wait(round * 15 + 3).await;
        process.kill();
        process = Process::start_with(&home, &settings);
    }
    made.insert(agent(&process, "last").await);
    let arrived =
        || -> BTreeSet<String> { ids_of_entities(&receiver.delivered()).into_iter().collect() };
    wait_until(|| async { arrived().is_superset(&made) }).await;
    let delivered = receiver.delivered();
    assert_eq!(arrived(), made);
    check_signatures(&delivered, &secret, 1).await;
    // One id for each event, however often it came, and no event before another
    // one that happened earlier, but for what came again.
    let mut ids: BTreeMap<i64, &str> = BTreeMap::new();
    let mut newest = 0;
    for it in &delivered {
        let seq = it.json()["seq"].as_i64().unwrap();
        assert!(seq > newest || ids.contains_key(&seq), "{seq} came after {newest}");
        assert_eq!(*ids.entry(seq).or_insert(it.id()), it.id());
        newest = newest.max(seq);
    }
    assert_eq!(ids.len(), made.len());
    wait_until(|| async {
        deliveries(&process, &webhook, "&state=delivered&limit=100").await.len() == made.len()
    })
    .await;
}

async fn there_are_only_so_many(engine: Engine) {
    let mut settings = SETTINGS.to_vec();
    settings.push(("AGENTRY_WEBHOOKS__ORG_WEBHOOKS_MAX", "2"));
    let server = Server::start_with(engine, &settings).await;
    let body = json!({"url": "https://app.example/", "enabled": false});
    let (first, _) = registered(&server, body.clone()).await;
    registered(&server, body.clone()).await;
    let (status, problem) = server.post(WEBHOOKS, body.clone()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("quota_exceeded")));
    server.delete(&first).await;
    registered(&server, body).await;
}

async fn another_process_goes_on_when_one_is_killed() {
    let home = Home::new(Engine::Postgres).await;
    let receiver = Receiver::start().await;
    let mut settings = SETTINGS.to_vec();
    settings.push(("AGENTRY_RUNS__LEASE_MS", "1000"));
    let first = Process::start_with(&home, &settings);
    let second = Process::start_with(&home, &settings);
    let (_, secret) =
        registered(&first, json!({"url": receiver.url(), "event_types": ["agent.created"]})).await;
    let mut made = Vec::new();
    for nth in 0..20 {
        made.push(agent(if nth % 2 == 0 { &first } else { &second }, &format!("n{nth}")).await);
    }
    receiver.wait(20).await;
    // The first one feeds: it is where the webhook was made. Without it, and in
    // the middle of things, the other one goes on.
    for nth in 0..10 {
        made.push(agent(&first, &format!("m{nth}")).await);
    }
    first.kill();
    for nth in 0..10 {
        made.push(agent(&second, &format!("s{nth}")).await);
    }
    let expected: BTreeSet<String> = made.iter().cloned().collect();
    wait_until(|| async {
        let arrived: BTreeSet<String> =
            ids_of_entities(&receiver.delivered()).into_iter().collect();
        arrived == expected
    })
    .await;
    check_signatures(&receiver.delivered(), &secret, 1).await;
}

async fn without_the_sealing_key_nothing_is_sealed() {
    let server = Server::start_with(Engine::Postgres, &[LOOPBACK]).await;
    let (status, problem) = server.post(WEBHOOKS, json!({"url": "https://app.example/"})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem["code"], "sealing_key_missing");
    assert_eq!(server.get(WEBHOOKS).await.1["total"], json!(0));
}

fn another_sealing_key_stops_the_start() {
    use std::os::unix::fs::PermissionsExt as _;

    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runtime.block_on(async {
            let server = Server::start(Engine::Sqlite).await;
            let file = server.home.data.path().join("sealing.key");
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            let (path, _) =
                registered(&server, json!({"url": "https://app.example/", "enabled": false})).await;
            let Server { process, home } = server;
            process.kill();
            let mut command = home.command();
            let other = command.env("AGENTRY_SEALING_KEY", SEALING_KEY).output().unwrap();
            assert!(!other.status.success());
            let said = String::from_utf8_lossy(&other.stderr).into_owned();
            assert!(said.contains("sealed with another sealing_key"), "{said}");
            assert!(!said.contains(SEALING_KEY));
            // With the one that it had, also when it is in the settings.
            let key = std::fs::read_to_string(&file).unwrap();
            std::fs::remove_file(&file).unwrap();
            let process = Process::start_with(&home, &[("AGENTRY_SEALING_KEY", key.trim())]);
            assert_eq!(
                process.post(&format!("{path}/rotate-secret"), json!({})).await.0,
                StatusCode::OK
            );
            process.kill();
            // Without any it serves, and seals nothing.
            let process = Process::start(&home);
            assert!(!file.exists());
            let (status, _) = process.post(&format!("{path}/rotate-secret"), json!({})).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            // Once nothing is sealed any more, another key will do.
            assert_eq!(process.delete(&path).await, StatusCode::NO_CONTENT);
            process.kill();
            let process = Process::start_with(&home, &[("AGENTRY_SEALING_KEY", SEALING_KEY)]);
            registered(&process, json!({"url": "https://app.example/", "enabled": false})).await;
        });
    });
}
