//! `agentry keys`: the same rules and answers, whether a server has the
//! installation or the command finds it unserved.

use std::process::{Command, Output};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process};

on_both_engines! {
    keys_are_made_listed_and_revoked_beside_a_server_and_without_one,
    what_is_wrong_is_said_and_nothing_is_made,
}

/// What the command needs to find the installation.
fn keys(home: &Home, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentry"));
    command.arg("keys").args(arguments).arg("--data").arg(home.data.path());
    if let Some(url) = home.database_url() {
        command.args(["--database", url]);
    }
    command.output().unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(reason), "{reason:?} is not in {said:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

fn listed(home: &Home) -> Vec<Value> {
    serde_json::from_str(&succeeded(&keys(home, &["list", "--json"]))).unwrap()
}

fn named<'a>(keys: &'a [Value], name: &str) -> &'a Value {
    keys.iter().find(|key| key["name"] == name).unwrap()
}

async fn opens(server: &Process, secret: &str) -> StatusCode {
    let agents = server.client.get(format!("{}/api/v1/agents", server.url));
    agents.bearer_auth(secret).send().await.unwrap().status()
}

/// Ends a server as a crash does. Its directory still says where it was; with
/// SQLite the lock tells that it is not there any more.
fn stopped(home: &Home, server: Process) {
    server.kill();
    if home.database_url().is_some() {
        refused(&keys(home, &["list"]), "server.url");
        std::fs::remove_file(home.data.path().join("server.url")).unwrap();
    }
}

/// Makes a key with everything that can be said of one, and gives its secret.
fn make(home: &Home, name: &str) -> String {
    let made = keys(
        home,
        &[
            "create",
            "--name",
            name,
            "--role",
            "service",
            "--scope",
            "agents:read",
            "--scope",
            "runs:write",
            "--expires-at",
            "2126-01-02T03:04:05Z",
        ],
    );
    let secret = succeeded(&made).trim().to_owned();
    assert!(secret.starts_with("ak_") && secret.len() == "ak_".len() + 64, "{secret}");
    // Scripts take stdout as it is, so the talk beside it is on stderr.
    assert!(String::from_utf8_lossy(&made.stderr).contains("(service)"), "{made:?}");
    secret
}

async fn keys_are_made_listed_and_revoked_beside_a_server_and_without_one(engine: Engine) {
    let home = Home::new(engine).await;
    let server = Process::start(&home);
    let beside = make(&home, "beside");
    assert_eq!(opens(&server, &beside).await, StatusCode::OK);
    stopped(&home, server);
    let without = make(&home, "without");
    let all = listed(&home);
    let names: Vec<&Value> = all.iter().map(|key| &key["name"]).collect();
    assert_eq!(names, ["owner", "beside", "without"]);
    let (one, other) = (named(&all, "beside"), named(&all, "without"));
    for field in ["role", "scopes", "expires_at", "version"] {
        assert_eq!(one[field], other[field], "{field}");
    }
    assert_eq!(one["scopes"], json!(["agents:read", "runs:write"]));
    assert_eq!(other["prefix"], without[..10]);
    let table = succeeded(&keys(&home, &["list"]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("ID ") && lines[1].contains("owner"), "{table}");
    assert!(lines[3].contains(&without[..10]) && lines[3].contains("agents:read,runs:write"));
    assert!(!table.contains(&without[10..]) && !table.contains(&beside[10..]));

    let server = Process::start(&home);
    assert_eq!(opens(&server, &without).await, StatusCode::OK);
    // The answers are the server's own.
    let (_, page) = server.get("/api/v1/keys?order=asc").await;
    let known = |keys: &Value| {
        let mut keys = keys.clone();
        keys.as_array_mut().unwrap().iter_mut().for_each(|key| key["last_used_at"] = Value::Null);
        keys
    };
    assert_eq!(known(&page["items"]), known(&json!(listed(&home))));
    let (one, other) = (one["id"].as_str().unwrap(), other["id"].as_str().unwrap());
    assert_eq!(succeeded(&keys(&home, &["revoke", other])), "");
    assert_eq!(opens(&server, &without).await, StatusCode::UNAUTHORIZED);
    assert_eq!(opens(&server, &beside).await, StatusCode::OK);
    stopped(&home, server);
    succeeded(&keys(&home, &["revoke", one]));
    assert_eq!(listed(&home).len(), 1);
    let server = Process::start(&home);
    assert_eq!(opens(&server, &beside).await, StatusCode::UNAUTHORIZED);

    // The key of another organisation.
    let (_, org) = server.post("/api/v1/orgs", json!({"name": "other"})).await;
    let org = org["id"].as_str().unwrap();
    let made =
        keys(&home, &["create", "--name", "theirs", "--role", "owner", "--org", org, "--json"]);
    let made: Value = serde_json::from_str(&succeeded(&made)).unwrap();
    assert_eq!(opens(&server, made["secret"].as_str().unwrap()).await, StatusCode::OK);
    assert_eq!(listed(&home).len(), 1, "it stands in its own organisation");
}

async fn what_is_wrong_is_said_and_nothing_is_made(engine: Engine) {
    let home = Home::new(engine).await;
    let server = Process::start(&home);
    let owner = listed(&home)[0]["id"].as_str().unwrap().to_owned();
    let wrong = |home: &Home| {
        refused(&keys(home, &["create", "--name", "x", "--role", "king"]), "/role");
        let several = keys(home, &["create", "--name", "", "--role", "king"]);
        refused(&several, "/name");
        refused(&several, "/role");
        let fly = ["create", "--name", "x", "--role", "member", "--scope", "agents:fly"];
        refused(&keys(home, &fly), "/scopes/0");
        let stronger = ["create", "--name", "x", "--role", "viewer", "--scope", "agents:write"];
        refused(&keys(home, &stronger), "/scopes");
        refused(&keys(home, &["revoke", "seven"]), "no id");
        refused(
            &keys(home, &["revoke", "01890a5d-ac96-774b-bcce-b302099a8057"]),
            "there is no key",
        );
        refused(&keys(home, &["revoke", &owner]), "last owner key");
        assert_eq!(listed(home).len(), 1);
    };
    wrong(&home);
    stopped(&home, server);
    wrong(&home);
    let nowhere = Home::new(engine).await;
    let missing = if engine == Engine::Sqlite { "there is no data" } else { "never served" };
    refused(&keys(&nowhere, &["list"]), missing);
}
