//! Who did what, when and from where; who was refused; and whether an edit, a
//! deletion and a truncation of it are found.

use std::process::{Command, Output};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};

on_both_engines! {
    what_was_done_is_listed_with_who_and_from_where,
    refusals_are_gathered,
    an_untouched_log_agrees_with_its_seals,
    an_edit_is_found,
    a_deletion_is_found,
    a_truncation_is_found,
    a_chain_made_anew_is_found,
}

const AUDIT: &str = "/api/v1/audit";
/// The key of the installation, where no file has it.
const KEYED: [(&str, &str); 3] = [
    // Whoever comes after one that was killed waits for its lease.
    ("AGENTRY_RUNS__LEASE_MS", "1000"),
    ("AGENTRY_SEALING_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    ("AGENTRY_AUDIT__DENIALS_GATHERED_MS", "200"),
];

async fn items(server: &Process, query: &str) -> Vec<Value> {
    let (status, page) = server.get(&format!("{AUDIT}?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["items"].as_array().unwrap().clone()
}

async fn what_was_done_is_listed_with_who_and_from_where(engine: Engine) {
    let server = Server::start(engine).await;
    let (_, owner) = server.get("/api/v1/keys").await;
    let owner = owner["items"][0]["id"].clone();
    let (_, agent) = server.post("/api/v1/agents", json!({"name": "ada"})).await;
    let id = agent["id"].as_str().unwrap();
    server.patch(&format!("/api/v1/agents/{id}"), json!({"name": "eve"})).await;
    let of_agent = format!("entity_id={id}");
    wait_until(|| async { items(&server, &of_agent).await.len() == 2 }).await;
    let found = items(&server, &of_agent).await;
    assert_eq!(found[0]["event_type"], "agent.updated");
    assert_eq!(found[0]["data"]["changed"], json!(["name"]));
    assert_eq!(found[1]["event_type"], "agent.created");
    for entry in &found {
        assert_eq!(entry["actor"]["kind"], "key");
        assert_eq!(entry["actor"]["id"], owner);
        assert_eq!(entry["address"], "127.0.0.1");
        assert_eq!(entry["entity_type"], "agent");
        assert_eq!(entry["entity_id"], id);
    }
    let updates = items(&server, "event_type=agent.updated&entity_type=agent").await;
    assert_eq!(updates, found[..1]);
    // Page by page it is the same as at once, both ways.
    for order in ["asc", "desc"] {
        let all = items(&server, &format!("order={order}&limit=500")).await;
        let (mut seen, mut path) = (Vec::new(), format!("{AUDIT}?order={order}&limit=2"));
        loop {
            let (_, page) = server.get(&path).await;
            seen.extend(page["items"].as_array().unwrap().clone());
            let Some(next) = page["next_cursor"].as_str() else { break };
            path = format!("{AUDIT}?limit=2&cursor={next}");
        }
        assert_eq!(seen, all, "{order}");
        assert!(all.len() >= 4, "{all:?}");
    }
    assert_eq!(
        items(&server, "actor=01890a5d-ac96-774b-bcce-b302099a8057").await,
        [] as [Value; 0]
    );
    assert_eq!(items(&server, "entity_type=king").await, [] as [Value; 0]);
    for wrong in ["entity_id=x", "actor=x"] {
        let (status, problem) = server.get(&format!("{AUDIT}?{wrong}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {problem}");
    }
    // Another organisation sees its own alone.
    let (_, org) = server.post("/api/v1/orgs", json!({"name": "o"})).await;
    let theirs = json!({"name": "k", "role": "owner", "org_id": org["id"]});
    let theirs = server.key_of(theirs).await;
    let (_, page) = answer(server.request_by(&theirs, Method::GET, AUDIT)).await;
    let page = page.to_string();
    assert!(!page.contains(id) && !page.contains("agent.created"), "{page}");
    let member = server.key_of(json!({"name": "m", "role": "member"})).await;
    let (status, _) = answer(server.request_by(&member, Method::GET, AUDIT)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

async fn refusals_are_gathered(engine: Engine) {
    let server = Server::start_with(engine, &KEYED).await;
    let (_, viewer) = server.post("/api/v1/keys", json!({"name": "v", "role": "viewer"})).await;
    let secret = viewer["secret"].as_str().unwrap();
    for _ in 0..7 {
        let refused = server.request_by(secret, Method::POST, "/api/v1/agents");
        assert_eq!(answer(refused.json(&json!({"name": "x"}))).await.0, StatusCode::FORBIDDEN);
        let unknown = server.request_by("ak_unknown", Method::GET, "/api/v1/agents");
        assert_eq!(answer(unknown).await.0, StatusCode::UNAUTHORIZED);
    }
    let told = |code: &'static str| {
        let server = &server;
        async move {
            let denied = items(server, "event_type=access.denied").await;
            let of_code: Vec<Value> =
                denied.into_iter().filter(|entry| entry["data"]["code"] == code).collect();
            let count: u64 =
                of_code.iter().map(|entry| entry["data"]["count"].as_u64().unwrap()).sum();
            (of_code, count)
        }
    };
    wait_until(|| async { told("forbidden").await.1 == 7 }).await;
    wait_until(|| async { told("unauthenticated").await.1 == 7 }).await;
    let (forbidden, _) = told("forbidden").await;
    assert!(forbidden.len() < 7, "they are gathered: {forbidden:?}");
    assert_eq!(forbidden[0]["actor"]["id"], viewer["id"]);
    assert_eq!(forbidden[0]["address"], "127.0.0.1");
    let (unknown, _) = told("unauthenticated").await;
    assert!(unknown.len() < 7, "they are gathered: {unknown:?}");
    assert_eq!(unknown[0]["actor"], Value::Null);
    assert_eq!(unknown[0]["address"], "127.0.0.1");
}

/// A home with a log that is sealed in several pieces, and nobody who serves it.
async fn sealed(engine: Engine) -> Home {
    let home = Home::new(engine).await;
    for round in 0..2 {
        let server = Process::start_with(&home, &KEYED);
        for n in 0..5 {
            let (status, _) =
                server.post("/api/v1/agents", json!({"name": format!("{round}-{n}")})).await;
            assert_eq!(status, StatusCode::CREATED);
        }
        wait_until(|| async {
            let open = "select (select seq from log_head) - (select seq from audit_head)";
            let made = "select count(*) from log where kind = 'agent.created'";
            home.number(open).await == 0 && home.number(made).await == 6 + round * 5
        })
        .await;
        stop(server);
    }
    home
}

/// Ends a server as its operator does, so that the next one need not wait for its lease.
fn stop(server: Process) {
    let id = server.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(server.wait().success());
}

fn verify(home: &Home, more: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentry"));
    command.args(["audit", "verify"]).args(&home.arguments("")[1..]).args(more).envs(KEYED);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(!said.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (status.success(), said)
}

fn end(said: &str) -> &str {
    said.lines().find_map(|line| line.strip_prefix("end: ")).unwrap()
}

async fn an_untouched_log_agrees_with_its_seals(engine: Engine) {
    let home = sealed(engine).await;
    let (holds, said) = verify(&home, &[]);
    assert!(holds, "{said}");
    assert!(said.contains("entries agree with"), "{said}");
    assert!(home.count("audit_seal").await >= 2, "the log was sealed in pieces");
    // An end that was told is there later on, when there is more.
    let before = end(&said).to_owned();
    let server = Process::start_with(&home, &KEYED);
    server.post("/api/v1/agents", json!({"name": "more"})).await;
    wait_until(|| async {
        home.number("select (select seq from log_head) - (select seq from audit_head)").await == 0
            && home.number("select count(*) from log where kind = 'agent.created'").await == 12
    })
    .await;
    // Beside the server, too.
    let (holds, said) = verify(&home, &["--expect", &before]);
    assert!(holds, "{said}");
    assert_ne!(end(&said), before);
    let (holds, said) = verify(&home, &["--expect", &before.replacen(':', ":1", 1)]);
    assert!(!holds && said.contains("is not there any more"), "{said}");
}

async fn an_edit_is_found(engine: Engine) {
    for edit in [
        "update log set data = '{}' where seq = 4",
        "update log set actor = null where seq = 4",
        "update log set address = '10.0.0.1' where seq = 4",
        "update log set at = at + 1 where seq = 4",
        "update log set kind = 'agent.deleted' where seq = 4",
    ] {
        let home = sealed(engine).await;
        home.execute(edit).await;
        let (holds, said) = verify(&home, &[]);
        assert!(!holds && said.contains("was changed"), "{edit}: {said}");
    }
}

async fn a_deletion_is_found(engine: Engine) {
    for (deletion, fault) in [
        ("delete from log where seq = 5", "are gone"),
        ("delete from log where seq < 4", "are gone, and not for their age"),
        ("delete from audit_seal where last = (select min(last) from audit_seal)", "taken out"),
        ("delete from log", "are gone"),
    ] {
        let home = sealed(engine).await;
        home.execute(deletion).await;
        let (holds, said) = verify(&home, &[]);
        assert!(!holds && said.contains(fault), "{deletion}: {said}");
    }
}

async fn a_truncation_is_found(engine: Engine) {
    // The newest entries alone; with their seals; with the end of the chain.
    let entries = "delete from log where seq > (select min(last) from audit_seal); \
        update log_head set seq = (select min(last) from audit_seal)";
    let seals = "delete from audit_seal where last > (select seq from log_head)";
    let end = "update audit_head set seq = (select coalesce(max(last), 0) from audit_seal), \
        seals = (select count(*) from audit_seal), chain = (select chain from audit_seal \
        order by last desc limit 1)";
    for (truncation, fault) in [
        (entries.to_owned(), "the log ends at entry"),
        (format!("{entries}; {seals}"), "there are"),
        (format!("{entries}; {seals}; {end}"), "this installation's mark"),
    ] {
        let home = sealed(engine).await;
        home.execute(&truncation).await;
        let (holds, said) = verify(&home, &[]);
        assert!(!holds && said.contains(fault), "{truncation}: {said}");
    }
}

async fn a_chain_made_anew_is_found(engine: Engine) {
    let home = sealed(engine).await;
    // As the server itself does it, but without the installation's key.
    home.execute("update log set data = '{}' where seq = 4").await;
    let none = match engine {
        Engine::Sqlite => format!("x'{}'", "00".repeat(32)),
        Engine::Postgres => format!("'\\x{}'", "00".repeat(32)),
    };
    home.execute(&format!(
        "delete from audit_seal; update audit_head set seq = 0, seals = 0, mark = null, \
         chain = {none}"
    ))
    .await;
    let mut other = KEYED;
    other[1].1 = "HxIeHRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgE=";
    let server = Process::start_with(&home, &other);
    wait_until(|| async {
        home.number("select (select seq from log_head) - (select seq from audit_head)").await == 0
    })
    .await;
    server.kill();
    let (holds, said) = verify(&home, &[]);
    assert!(!holds && said.contains("this installation's mark"), "{said}");
}
