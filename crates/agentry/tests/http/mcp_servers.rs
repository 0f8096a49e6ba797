//! `/mcp/servers`: kept, started and stopped, called; servers that hang, crash, fork
//! and flood; what is approved; who may do what; where calls may go.

use agentry_testkit::WAIT_MAX;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::crud::{changes_one_field_at_a_time, id, keeps_every_field, made};
use crate::mcp_bed::{SERVERS, SETTINGS, Script, act, call, is_there, server, started, text};
use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};
use crate::webhooks::SEALING_KEY;

on_both_engines!(
    every_field_is_kept_and_can_be_changed,
    secrets_are_sealed_and_in_no_answer,
    a_process_is_started_called_and_stopped,
    a_server_over_http_is_called_with_what_it_wants_to_see,
    what_a_server_says_unasked_is_heard,
    a_broken_answer_is_gone_on_with,
    a_token_that_is_taken_back_is_replaced,
    an_older_version_is_agreed_on_and_an_unknown_one_is_not,
    what_a_server_does_badly_hurts_nobody_else,
    a_changed_description_needs_approval,
    a_call_with_a_key_is_made_once,
    calls_with_one_key_at_once_are_one,
    what_went_wrong_with_a_key_is_remembered,
    a_claimed_call_outlives_its_client_and_not_its_process,
    another_organisation_sees_nothing,
);

fn full() -> Value {
    json!({
        "name": "files",
        "description": "What it is for.",
        "type": "stdio",
        "command": "/bin/true",
        "args": ["--one", ""],
        "env": {"LEVEL": "info"},
        "timeout_ms": 1234,
        "result_bytes_max": 4321,
        "metadata": {"k": [1]},
    })
}

async fn every_field_is_kept_and_can_be_changed(engine: Engine) {
    let server = server(engine).await;
    let kept = keeps_every_field(&server, SERVERS, &full()).await;
    assert_eq!(kept["auth"]["type"], "none");
    assert_eq!(kept["status"], "stopped");
    assert_eq!(kept["has_secret"], false);
    assert_eq!(kept["secret_env_names"], json!([]));
    assert_eq!(server.delete(&format!("{SERVERS}/{}", id(&kept))).await, StatusCode::NO_CONTENT);

    let bare = json!({
        "name": "required", "type": "required", "description": "", "args": [], "env": {},
        "timeout_ms": 30000, "result_bytes_max": 1_048_576, "metadata": {},
    });
    let changes = [
        ("description", json!("other"), &[][..]),
        ("args", json!(["x"]), &[]),
        ("env", json!({"LEVEL": "debug"}), &[]),
        ("timeout_ms", json!(9), &[]),
        ("result_bytes_max", json!(9), &[]),
        ("metadata", json!({"k": 2}), &[]),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut full = full();
        full["name"] = json!(format!("files-{n}"));
        changes_one_field_at_a_time(&server, SERVERS, full, &bare, std::slice::from_ref(change))
            .await;
    }

    for (body, pointer, code) in [
        (json!({"type": "stdio", "command": "x"}), "/name", "required"),
        (json!({"name": "a", "type": "stdio"}), "/command", "required"),
        (json!({"name": "a", "type": "http"}), "/url", "required"),
        (json!({"name": "a", "type": "sse", "url": "http://x"}), "/type", "not_supported_yet"),
        (
            json!({"name": "a", "type": "stdio", "command": "x", "env": {"A": 1}}),
            "/env",
            "malformed",
        ),
        (
            json!({"name": "a", "type": "stdio", "command": "x", "secret": "s"}),
            "/secret",
            "exclusive",
        ),
        (
            json!({"name": "a", "type": "http", "url": "https://mcp.example/", "auth": {"type": "bearer"}}),
            "/secret",
            "required",
        ),
        (
            json!({"name": "a", "type": "http", "url": "https://mcp.example/", "secret": "s",
                "auth": {"type": "api_key", "header": "Host"}}),
            "/auth/header",
            "not_allowed",
        ),
        (
            json!({"name": "a", "type": "http", "url": "https://mcp.example/", "secret": "s",
                "auth": {"type": "oauth", "client_id": "c"}}),
            "/auth/token_url",
            "required",
        ),
    ] {
        let (status, refused) = server.post(SERVERS, body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}: {refused}");
        assert_eq!(refused["errors"][0]["code"], code, "{body}: {refused}");
    }

    made(&server, SERVERS, full()).await;
    let (status, taken) = server.post(SERVERS, full()).await;
    assert_eq!((status, &taken["code"]), (StatusCode::CONFLICT, &json!("already_exists")));
}

async fn secrets_are_sealed_and_in_no_answer(engine: Engine) {
    let server = server(engine).await;
    let body = json!({
        "name": "kept", "type": "http", "url": "https://mcp.example/mcp",
        "auth": {"type": "bearer"}, "secret": "hush-bearer",
    });
    let kept = made(&server, SERVERS, body).await;
    assert_eq!(kept["has_secret"], true);
    let path = format!("{SERVERS}/{}", id(&kept));
    let process = json!({
        "name": "process", "type": "stdio", "command": "/bin/true",
        "secret_env": {"TOKEN": "hush-env"},
    });
    let process = made(&server, SERVERS, process).await;
    assert_eq!(process["secret_env_names"], json!(["TOKEN"]));
    for seen in [server.get(&path).await.1, server.get(SERVERS).await.1, kept.clone(), process] {
        assert!(!seen.to_string().contains("hush"), "{seen}");
    }
    // Nor in what is stored, in clear.
    let plain = match engine {
        Engine::Sqlite => "instr(cast(secrets as text), 'hush') > 0",
        Engine::Postgres => "position('hush'::bytea in secrets) > 0",
    };
    let sql = format!("select count(*) from mcp_state where {plain}");
    assert_eq!(server.home.number(&sql).await, 0);
    let sealed = "select count(*) from mcp_state where secrets is not null";
    assert_eq!(server.home.number(sealed).await, 2);

    // A secret does not go to another place by itself.
    let moved = json!({"url": "https://evil.example/mcp"});
    let (status, refused) = server.patch(&path, moved).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused["errors"][0]["pointer"], "/secret");
    let both = json!({"url": "https://other.example/mcp", "secret": "hush-again"});
    assert_eq!(server.patch(&path, both).await.0, StatusCode::OK);
    let gone = json!({"auth": {"type": "none"}, "secret": null});
    let (status, now) = server.patch(&path, gone).await;
    assert_eq!((status, &now["has_secret"]), (StatusCode::OK, &json!(false)));
    assert_eq!(server.home.number(sealed).await, 1);
}

async fn a_process_is_started_called_and_stopped(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let mut body = script.stdio("own", &[]);
    body["env"] = json!({"LEVEL": "info"});
    body["secret_env"] = json!({"TOKEN": "hush"});
    let path = started(&server, body).await;

    let (status, tools) = server.get(&format!("{path}/tools")).await;
    assert_eq!(status, StatusCode::OK, "{tools}");
    assert_eq!(tools["total"], 19, "all pages");
    let echo = tools["items"].as_array().unwrap().iter().find(|it| it["name"] == "echo").unwrap();
    assert_eq!(echo["approved"], true);
    assert_eq!(echo["input_schema"]["properties"]["text"]["type"], "string");
    assert_eq!(echo["annotations"]["readOnlyHint"], true);

    assert_eq!(
        text(&server, &path, "echo", json!({"text": "häl\u{2028}lo"})).await,
        "häl\u{2028}lo"
    );
    let (_, sum) = call(&server, &path, "add", json!({"a": 2, "b": 3})).await;
    assert_eq!(sum["structuredContent"], json!({"sum": 5}));
    let (status, failed) = call(&server, &path, "fail", json!({})).await;
    assert_eq!((status, &failed["isError"]), (StatusCode::OK, &json!(true)));
    let (status, unknown) = call(&server, &path, "no such tool", json!({})).await;
    assert_eq!((status, &unknown["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));

    // Its environment is its own.
    let env: Value = serde_json::from_str(&text(&server, &path, "env", json!({})).await).unwrap();
    let env = env.as_object().unwrap();
    assert_eq!(env["LEVEL"], "info");
    assert_eq!(env["TOKEN"], "hush");
    for (name, value) in env {
        assert!(!name.starts_with("AGENTRY"), "{name}");
        assert!(!value.as_str().unwrap().contains("sk-that"), "{name}");
    }
    let place: Value =
        serde_json::from_str(&text(&server, &path, "where", json!({})).await).unwrap();
    assert_eq!(place["mode"], "0o700");
    assert_eq!(place["cwd"], env["HOME"]);

    let (_, health) = server.get(&format!("{path}/health")).await;
    assert_eq!((&health["healthy"], &health["status"]), (&json!(true), &json!("running")));
    let (_, resources) = server.get(&format!("{path}/resources")).await;
    assert_eq!(resources["items"][0]["uri"], "test://one");

    let (status, stopped) = act(&server, &format!("{path}/stop")).await;
    assert_eq!((status, &stopped["status"]), (StatusCode::OK, &json!("stopped")));
    let cwd = place["cwd"].as_str().unwrap();
    assert!(!std::path::Path::new(cwd).exists(), "its directory went with it");
    let (status, refused) = call(&server, &path, "echo", json!({"text": "x"})).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("mcp_server_stopped")));
    let (_, tools) = server.get(&format!("{path}/tools")).await;
    assert_eq!(tools["total"], 19, "as they were last");
    let (status, again) = act(&server, &format!("{path}/restart")).await;
    assert_eq!((status, &again["status"]), (StatusCode::OK, &json!("running")), "{again}");
    assert_eq!(text(&server, &path, "echo", json!({"text": "b"})).await, "b");

    // Another process of ours connects it again by itself.
    let Server { process, home } = server;
    process.kill();
    let process = Process::start_with(&home, &SETTINGS);
    assert_eq!(text(&process, &path, "echo", json!({"text": "c"})).await, "c");
    assert_eq!(process.delete(&path).await, StatusCode::NO_CONTENT);
    assert_eq!(home.count("mcp_state").await, 0);
}

async fn a_server_over_http_is_called_with_what_it_wants_to_see(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let plain = script.http(&[]);
    let path = started(&server, plain.body("plain")).await;
    assert_eq!(text(&server, &path, "echo", json!({"text": "a"})).await, "a");
    // A session that is over is begun again.
    assert_eq!(text(&server, &path, "expire", json!({})).await, "expired");
    assert_eq!(text(&server, &path, "echo", json!({"text": "b"})).await, "b");

    let stream = script.http(&["--sse"]);
    let path = started(&server, stream.body("stream")).await;
    assert_eq!(text(&server, &path, "echo", json!({"text": "c"})).await, "c");
    assert_eq!(text(&server, &path, "describe", json!({"text": "other"})).await, "changed");

    for (name, args, auth) in [
        ("bearer", &["--bearer", "right"][..], json!({"type": "bearer"})),
        (
            "header",
            &["--header", "X-Their-Key", "right"],
            json!({"type": "api_key", "header": "X-Their-Key"}),
        ),
    ] {
        let theirs = script.http(args);
        let mut body = theirs.body(name);
        body["auth"] = auth;
        body["secret"] = json!("wrong");
        let refused = made(&server, SERVERS, body).await;
        let path = format!("{SERVERS}/{}", id(&refused));
        let (status, error) = act(&server, &format!("{path}/start")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{error}");
        assert_eq!(error["code"], "mcp_unauthorized");
        assert_eq!(server.get(&path).await.1["status"], "error");
        assert_eq!(server.patch(&path, json!({"secret": "right"})).await.0, StatusCode::OK);
        assert_eq!(act(&server, &format!("{path}/start")).await.0, StatusCode::OK);
        assert_eq!(text(&server, &path, "echo", json!({"text": "d"})).await, "d");
    }

    let theirs = script.http(&["--token", "us", "hush"]);
    let mut body = theirs.body("oauth");
    body["auth"] = json!({
        "type": "oauth", "token_url": format!("{}/token", theirs.url), "client_id": "us",
    });
    body["secret"] = json!("hush");
    let path = started(&server, body).await;
    assert_eq!(text(&server, &path, "echo", json!({"text": "e"})).await, "e");
}

/// How many catalogues in the store hold a text.
async fn catalogued(server: &Server, text: &str) -> i64 {
    let sql = format!("select count(*) from mcp_state where catalogue like '%{text}%'");
    server.home.number(&sql).await
}

async fn what_a_server_says_unasked_is_heard(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let theirs = script.http(&["--listen"]);
    let path = started(&server, theirs.body("talks")).await;
    assert_eq!(text(&server, &path, "describe", json!({"text": "second"})).await, "changed");
    // Nobody asks for its tools, and they are known.
    wait_until(|| async { catalogued(&server, "second").await == 1 }).await;
    let (status, refused) = call(&server, &path, "echo", json!({"text": "x"})).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("tool_not_approved")));
    // What changed while nobody listened is found out when somebody does again.
    assert_eq!(text(&server, &path, "deafen", json!({"text": "third"})).await, "deaf");
    wait_until(|| async { catalogued(&server, "third").await == 1 }).await;
    assert_eq!(text(&server, &path, "describe", json!({"text": "fourth"})).await, "changed");
    wait_until(|| async { catalogued(&server, "fourth").await == 1 }).await;
    // Its session ends, and with the next one it is listened to again.
    assert_eq!(text(&server, &path, "expire", json!({})).await, "expired");
    assert_eq!(text(&server, &path, "add", json!({"a": 1, "b": 2})).await, "3");
    assert_eq!(text(&server, &path, "describe", json!({"text": "fifth"})).await, "changed");
    wait_until(|| async { catalogued(&server, "fifth").await == 1 }).await;
    // A server that stops listens to nobody any more.
    assert_eq!(act(&server, &format!("{path}/stop")).await.0, StatusCode::OK);
}

async fn a_broken_answer_is_gone_on_with(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let dir = script.dir().to_string_lossy().into_owned();
    let theirs = script.http(&["--sse", "--dir", &dir]);
    let path = started(&server, theirs.body("breaks")).await;
    for marks in ["x", "xx", "xxx"] {
        assert_eq!(text(&server, &path, "broken", json!({})).await, "mended");
        assert_eq!(script.read("marks"), marks, "it is called once");
    }
    assert_eq!(text(&server, &path, "echo", json!({"text": "a"})).await, "a");
}

async fn a_token_that_is_taken_back_is_replaced(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let theirs = script.http(&["--token", "us", "hush", "--listen"]);
    let mut body = theirs.body("oauth");
    body["auth"] = json!({
        "type": "oauth", "token_url": format!("{}/token", theirs.url), "client_id": "us",
    });
    body["secret"] = json!("hush");
    let path = started(&server, body).await;
    for round in ["a", "b"] {
        assert_eq!(text(&server, &path, "revoke", json!({})).await, "revoked");
        assert_eq!(text(&server, &path, "echo", json!({"text": round})).await, round);
    }
}

async fn an_older_version_is_agreed_on_and_an_unknown_one_is_not(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let mut bodies = Vec::new();
    let mut over_http = Vec::new();
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        for way in ["--version", "--only"] {
            bodies.push(script.stdio(&format!("{way} {version}"), &[way, version]));
            let theirs = script.http(&[way, version]);
            bodies.push(theirs.body(&format!("http {way} {version}")));
            over_http.push(theirs);
        }
    }
    for body in bodies {
        let path = started(&server, body).await;
        assert_eq!(text(&server, &path, "echo", json!({"text": "a"})).await, "a");
    }
    for way in ["--version", "--only"] {
        let unknown = made(&server, SERVERS, script.stdio(way, &[way, "1999-01-01"])).await;
        let (status, error) = act(&server, &format!("{SERVERS}/{}/start", id(&unknown))).await;
        assert_eq!((status, &error["code"]), (StatusCode::BAD_GATEWAY, &json!("mcp_bad_response")));
    }
}

async fn what_a_server_does_badly_hurts_nobody_else(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let mut bad = script.stdio("bad", &[]);
    bad["timeout_ms"] = json!(1500);
    bad["result_bytes_max"] = json!(10_000);
    let bad = started(&server, bad).await;
    let other = Script::new();
    let good = started(&server, other.stdio("good", &[])).await;

    for (tool, arguments, status, code) in [
        ("hang", json!({}), StatusCode::GATEWAY_TIMEOUT, "mcp_timeout"),
        ("reject", json!({}), StatusCode::BAD_GATEWAY, "mcp_rejected"),
        ("big", json!({"bytes": 10_000}), StatusCode::BAD_GATEWAY, "mcp_bad_response"),
        ("crash", json!({}), StatusCode::BAD_GATEWAY, "mcp_unreachable"),
        ("flood", json!({}), StatusCode::BAD_GATEWAY, "mcp_bad_response"),
        ("garbage", json!({}), StatusCode::BAD_GATEWAY, "mcp_bad_response"),
    ] {
        let wrong = call(&server, &bad, tool, arguments);
        // Another server answers meanwhile.
        let right = text(&server, &good, "echo", json!({"text": tool}));
        let ((got, error), echoed) = tokio::join!(wrong, right);
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{tool}: {error}");
        assert_eq!(echoed, tool);
        // And so does this one, when it is needed again.
        assert_eq!(text(&server, &bad, "echo", json!({"text": "x"})).await, "x", "after {tool}");
    }
    assert_eq!(text(&server, &bad, "cancelled", json!({})).await, "0", "a new process since then");
    call(&server, &bad, "hang", json!({})).await;
    wait_until(|| async { text(&server, &bad, "cancelled", json!({})).await == "1" }).await;

    // What it starts goes with it.
    let pids = text(&server, &bad, "fork", json!({})).await;
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_there(pid)), "{pids:?}");
    assert_eq!(act(&server, &format!("{bad}/stop")).await.0, StatusCode::OK);
    assert!(!pids.iter().any(|pid| is_there(pid)), "{pids:?}");

    for (args, status, code, says) in [
        (&["--exit"][..], StatusCode::BAD_GATEWAY, "mcp_unreachable", "no licence was found"),
        (&["--silent"], StatusCode::GATEWAY_TIMEOUT, "mcp_timeout", "in time"),
        (&["--deaf"], StatusCode::GATEWAY_TIMEOUT, "mcp_timeout", "in time"),
    ] {
        let quick = [SETTINGS[0], SETTINGS[1], ("AGENTRY_MCP__CONNECT_TIMEOUT_MS", "1000")];
        let server = Server::start_with(engine, &quick).await;
        let never = made(&server, SERVERS, script.stdio("never", args)).await;
        let path = format!("{SERVERS}/{}", id(&never));
        let (got, error) = act(&server, &format!("{path}/start")).await;
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{args:?}: {error}");
        assert!(error["detail"].as_str().unwrap().contains(says), "{error}");
        let (_, now) = server.get(&path).await;
        assert_eq!(now["status"], "error");
        assert!(now["status_detail"].as_str().unwrap().contains(says), "{now}");
    }
    let missing = json!({"name": "missing", "type": "stdio", "command": "/no/such/program"});
    let missing = made(&server, SERVERS, missing).await;
    let (_, error) = act(&server, &format!("{SERVERS}/{}/start", id(&missing))).await;
    assert_eq!(error["code"], "mcp_unreachable");

    // A server that stops leaves nothing behind.
    act(&server, &format!("{bad}/start")).await;
    std::fs::remove_file(script.dir().join("pids")).unwrap();
    let pids = text(&server, &bad, "fork", json!({})).await;
    let Server { process, home: _home } = server;
    let pid = rustix::process::Pid::from_raw(process.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(process.wait().success());
    assert!(!pids.split_whitespace().any(is_there), "{pids}");
}

async fn a_changed_description_needs_approval(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let path = started(&server, script.stdio("own", &[])).await;
    let tool = async |name: &str| {
        let (_, tools) = server.get(&format!("{path}/tools")).await;
        let tools = tools["items"].as_array().unwrap().clone();
        tools.into_iter().find(|tool| tool["name"] == name).unwrap_or(Value::Null)
    };
    let before = tool("echo").await;
    call(&server, &path, "describe", json!({"text": "Says it, and sends me your files."})).await;
    wait_until(|| async { tool("echo").await["approved"] == false }).await;
    let now = tool("echo").await;
    assert_ne!(now["fingerprint"], before["fingerprint"]);
    assert_eq!(tool("new").await["approved"], false, "nor does a tool that comes later");
    assert_eq!(tool("add").await["approved"], true);
    let (status, refused) = call(&server, &path, "echo", json!({"text": "x"})).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("tool_not_approved")));

    let approve = format!("{path}/tools/echo/approve");
    let old = json!({"fingerprint": before["fingerprint"]});
    let (status, stale) = server.post(&approve, old).await;
    assert_eq!((status, &stale["code"]), (StatusCode::CONFLICT, &json!("conflict")));
    let seen = json!({"fingerprint": now["fingerprint"]});
    let (status, approved) = server.post(&approve, seen).await;
    assert_eq!((status, &approved["approved"]), (StatusCode::OK, &json!(true)));
    assert_eq!(text(&server, &path, "echo", json!({"text": "x"})).await, "x");
    let (status, _) = server.post(&format!("{path}/tools/nothing/approve"), json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

async fn a_call_with_a_key_is_made_once(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let path = started(&server, script.stdio("own", &[])).await;
    let mark = || {
        let request = server.request(Method::POST, &format!("{path}/tools/mark/call"));
        request.header("idempotency-key", "k1").json(&json!({"arguments": {}}))
    };
    let first = answer(mark()).await;
    assert_eq!(first.0, StatusCode::OK, "{}", first.1);
    let again = mark().send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.json::<Value>().await.unwrap(), first.1);
    assert_eq!(script.read("marks"), "x");
}

/// A call of `mark` with an `Idempotency-Key`: its status, whether it was replayed, its body.
async fn keyed(
    process: &Process,
    server: &str,
    key: &str,
    arguments: &Value,
) -> (StatusCode, bool, Value) {
    let request = process.request(Method::POST, &format!("{server}/tools/mark/call"));
    let request = request.header("idempotency-key", key).json(&json!({"arguments": arguments}));
    let response = request.send().await.unwrap();
    let replayed = response.headers().contains_key("idempotency-replayed");
    (response.status(), replayed, response.json().await.unwrap())
}

async fn calls_with_one_key_at_once_are_one(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let path = started(&server, script.stdio("own", &[])).await;
    // Another process of ours, where several may share a store.
    let other = match engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(Process::start_with(&server.home, &SETTINGS)),
    };
    let arguments = json!({"gate": "gate"});
    let asked = (0..12).map(|n| {
        let process = other.as_ref().filter(|_| n % 2 == 1).unwrap_or(&server.process);
        keyed(process, &path, "k", &arguments)
    });
    let opened = async {
        wait_until(|| async { !script.read("marks").is_empty() }).await;
        // Whose body is another one need not wait to hear so.
        let (status, _, reused) = keyed(&server, &path, "k", &json!({})).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{reused}");
        assert_eq!(reused["code"], "idempotency_key_reused");
        std::fs::write(script.dir().join("gate"), "").unwrap();
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(asked), opened);
    for (status, _, result) in &answers {
        assert_eq!(*status, StatusCode::OK, "{result}");
        assert_eq!(result["content"][0]["text"], "marked");
    }
    assert_eq!(answers.iter().filter(|(_, replayed, _)| !replayed).count(), 1);
    assert_eq!(script.read("marks"), "x", "it was called once");
    let logged = "select count(*) from log where kind = 'mcp_server.tool_called'";
    wait_until(|| async { server.home.number(logged).await == 1 }).await;
}

async fn what_went_wrong_with_a_key_is_remembered(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let mut body = script.stdio("own", &[]);
    body["timeout_ms"] = json!(1500);
    let path = started(&server, body).await;
    for (key, arguments, status, code, marks) in [
        ("refused", json!({"fail": true}), StatusCode::BAD_GATEWAY, "mcp_rejected", "x"),
        ("late", json!({"hang": true}), StatusCode::GATEWAY_TIMEOUT, "mcp_timeout", "xx"),
    ] {
        for time in ["first", "again"] {
            let (got, _, error) = keyed(&server, &path, key, &arguments).await;
            assert_eq!((got, &error["code"]), (status, &json!(code)), "{key} {time}: {error}");
            assert_eq!(script.read("marks"), marks, "{key} {time}");
        }
    }
    // What was never begun may be made later.
    assert_eq!(act(&server, &format!("{path}/stop")).await.0, StatusCode::OK);
    let (status, _, error) = keyed(&server, &path, "later", &json!({})).await;
    assert_eq!((status, &error["code"]), (StatusCode::CONFLICT, &json!("mcp_server_stopped")));
    assert_eq!(act(&server, &format!("{path}/start")).await.0, StatusCode::OK);
    let (status, replayed, result) = keyed(&server, &path, "later", &json!({})).await;
    assert_eq!((status, replayed), (StatusCode::OK, false), "{result}");
    assert_eq!(script.read("marks"), "xxx");
}

async fn a_claimed_call_outlives_its_client_and_not_its_process(engine: Engine) {
    let quick = [SETTINGS[0], SETTINGS[1], SETTINGS[2], ("AGENTRY_RUNS__LEASE_MS", "1000")];
    let (server, script) = (Server::start_with(engine, &quick).await, Script::new());
    let path = started(&server, script.stdio("own", &[])).await;
    // Its client goes away, and asks again what came of it.
    let gated = json!({"gate": "gate"});
    tokio::select! {
        _ = keyed(&server, &path, "left", &gated) => panic!("the gate was shut"),
        () = wait_until(|| async { script.read("marks") == "x" }) => {}
    }
    std::fs::write(script.dir().join("gate"), "").unwrap();
    let (status, replayed, result) = keyed(&server, &path, "left", &gated).await;
    assert_eq!((status, replayed), (StatusCode::OK, true), "{result}");
    assert_eq!(script.read("marks"), "x");
    // Its process is killed, between the call and its answer.
    let never = json!({"gate": "never"});
    tokio::select! {
        _ = keyed(&server, &path, "cut", &never) => panic!("the gate was shut"),
        () = wait_until(|| async { script.read("marks") == "xx" }) => {}
    }
    let Server { process, home } = server;
    process.kill();
    let process = Process::start_with(&home, &quick);
    for _ in 0..2 {
        let (status, _, error) = keyed(&process, &path, "cut", &never).await;
        assert_eq!(status, StatusCode::CONFLICT, "{error}");
        assert_eq!(error["code"], "call_interrupted", "{error}");
    }
    assert_eq!(script.read("marks"), "xx", "it was called once");
    let (status, _, _) = keyed(&process, &path, "left", &gated).await;
    assert_eq!(status, StatusCode::OK, "what was answered before still is");
}

async fn another_organisation_sees_nothing(engine: Engine) {
    let (server, script) = (server(engine).await, Script::new());
    let path = started(&server, script.stdio("own", &[])).await;
    let (_, org) = server.post("/api/v1/orgs", json!({"name": "other"})).await;
    let key = async |org: Option<&Value>, role: &str| {
        let mut body = json!({"name": role, "role": role});
        if let Some(org) = org {
            body["org_id"] = org["id"].clone();
        }
        let (status, key) = server.post("/api/v1/keys", body).await;
        assert_eq!(status, StatusCode::CREATED, "{key}");
        key["secret"].as_str().unwrap().to_owned()
    };
    let ask = async |method: Method, path: String, key: &str| {
        let request = server.client.request(method, format!("{}{path}", server.url));
        answer(request.header("x-api-key", key).json(&json!({}))).await
    };
    let theirs = key(Some(&org), "admin").await;
    for (method, action) in [
        (Method::GET, ""),
        (Method::PATCH, ""),
        (Method::DELETE, ""),
        (Method::POST, "/start"),
        (Method::POST, "/stop"),
        (Method::POST, "/restart"),
        (Method::GET, "/health"),
        (Method::GET, "/tools"),
        (Method::GET, "/resources"),
        (Method::POST, "/tools/echo/call"),
        (Method::POST, "/tools/echo/approve"),
    ] {
        let (status, _) = ask(method.clone(), format!("{path}{action}"), &theirs).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {action}");
    }
    // A program on this machine is nothing that another organisation may register.
    let body = json!({"name": "theirs", "type": "stdio", "command": "/bin/sh"});
    let request = server.client.post(format!("{}{SERVERS}", server.url));
    let (status, refused) = answer(request.header("x-api-key", &theirs).json(&body)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert_eq!(refused["errors"][0]["code"], "not_allowed", "{refused}");
    // Within the organisation: members call, administrators decide, viewers look.
    let member = key(None, "member").await;
    let viewer = key(None, "viewer").await;
    let called = format!("{path}/tools/echo/call");
    assert_eq!(ask(Method::POST, called.clone(), &member).await.0, StatusCode::OK);
    assert_eq!(ask(Method::POST, called, &viewer).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(Method::GET, format!("{path}/tools"), &viewer).await.0, StatusCode::OK);
    for (method, action) in [
        (Method::POST, "/start"),
        (Method::POST, "/stop"),
        (Method::POST, "/tools/echo/approve"),
        (Method::DELETE, ""),
    ] {
        let (status, _) = ask(method.clone(), format!("{path}{action}"), &member).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {action}");
    }
    let body = json!({"name": "mine", "type": "stdio", "command": "/bin/sh"});
    let request = server.client.post(format!("{}{SERVERS}", server.url));
    let (status, _) = answer(request.header("x-api-key", &member).json(&body)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

/// Without leave to call loopback targets, no byte gets to one: at registration, by a
/// redirect, or by a token's issuer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_reaches_an_address_that_is_not_public() {
    let canary = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = canary.local_addr().unwrap().port();
    let home = Home::new(Engine::Sqlite).await;
    let process = Process::start_with(&home, &[("AGENTRY_SEALING_KEY", SEALING_KEY)]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "169.254.169.254",
        "metadata.google.internal",
        "[fe80::1]",
        "10.0.0.1",
    ] {
        let url = format!("http://{host}:{port}/mcp");
        let body = json!({"name": "x", "type": "http", "url": url});
        let (status, refused) = process.post(SERVERS, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{host}: {refused}");
        assert_eq!(refused["errors"][0]["code"], "not_allowed", "{host}");
        let body = json!({
            "name": "x", "type": "http", "url": "https://mcp.example/", "secret": "s",
            "auth": {"type": "oauth", "client_id": "c", "token_url": url},
        });
        let (status, refused) = process.post(SERVERS, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{host}: {refused}");
        assert_eq!(refused["errors"][0]["pointer"], "/auth/token_url");
    }
    // One that was registered when loopback was allowed is checked again.
    process.kill();
    let process = Process::start_with(&home, &SETTINGS);
    let body = json!({"name": "x", "type": "http", "url": format!("http://127.0.0.1:{port}/")});
    let kept = made(&process, SERVERS, body).await;
    process.kill();
    let process = Process::start_with(&home, &[("AGENTRY_SEALING_KEY", SEALING_KEY)]);
    let (status, error) = act(&process, &format!("{SERVERS}/{}/start", id(&kept))).await;
    assert_eq!((status, &error["code"]), (StatusCode::BAD_GATEWAY, &json!("mcp_unreachable")));
    process.kill();
    // A redirect is not followed.
    let script = Script::new();
    let theirs = script.http(&[]);
    let process = Process::start_with(&home, &SETTINGS);
    let body = json!({"name": "r", "type": "http", "url": format!("{}/redirect", theirs.url)});
    let kept = made(&process, SERVERS, body).await;
    let (_, error) = act(&process, &format!("{SERVERS}/{}/start", id(&kept))).await;
    assert!(error["detail"].as_str().unwrap().contains("307"), "{error}");
    let silent = tokio::time::timeout(std::time::Duration::from_millis(1), canary.accept()).await;
    if let Ok(Ok((mut met, _))) = silent {
        let mut byte = [0];
        let read = tokio::time::timeout(WAIT_MAX, met.read(&mut byte)).await;
        panic!("somebody came to the canary: {read:?}");
    }
}

/// The official server that tries every part of the protocol, over both transports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_everything_server_works_over_both_transports() {
    let script = std::env::var("AGENTRY_TEST_MCP_EVERYTHING")
        .expect("AGENTRY_TEST_MCP_EVERYTHING is set: run the tests with `make test`");
    let server = server(Engine::Sqlite).await;
    let body =
        json!({"name": "pipes", "type": "stdio", "command": "node", "args": [script, "stdio"]});
    let over_pipes = started(&server, body).await;
    everything_works(&server, &over_pipes).await;

    // It cannot be asked for a free port; one that was free a moment ago is.
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap().port()
    };
    let mut theirs = tokio::process::Command::new("node");
    theirs.args([&script, "streamableHttp"]).env("PORT", port.to_string()).kill_on_drop(true);
    let _theirs = theirs.stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until(|| async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() })
        .await;
    let body =
        json!({"name": "http", "type": "http", "url": format!("http://127.0.0.1:{port}/mcp")});
    let over_http = started(&server, body).await;
    everything_works(&server, &over_http).await;
}

async fn everything_works(process: &Process, path: &str) {
    let (status, tools) = process.get(&format!("{path}/tools")).await;
    assert_eq!(status, StatusCode::OK, "{tools}");
    let names: Vec<&str> = tools["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"echo") && names.len() > 5, "{names:?}");
    let echoed = text(process, path, "echo", json!({"message": "häl\nlo"})).await;
    assert!(echoed.contains("häl\nlo"), "{echoed}");
    let sum = text(process, path, "get-sum", json!({"a": 20, "b": 22})).await;
    assert!(sum.contains("42"), "{sum}");
    let (status, image) = call(process, path, "get-tiny-image", json!({})).await;
    assert_eq!(status, StatusCode::OK, "{image}");
    let pieces = image["content"].as_array().unwrap();
    assert!(pieces.iter().any(|it| it["type"] == "image" && it["mimeType"] == "image/png"));
    let weather = json!({"location": "New York"});
    let (_, structured) = call(process, path, "get-structured-content", weather).await;
    assert!(structured["structuredContent"].is_object(), "{structured}");
    // It tells how far it is while it works.
    let long = json!({"duration": 1, "steps": 3});
    let (status, done) = call(process, path, "trigger-long-running-operation", long).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    let (_, wrong) = call(process, path, "get-sum", json!({"a": "no number"})).await;
    assert!(wrong["isError"] == true || wrong["code"] == "mcp_rejected", "{wrong}");
    let (_, resources) = process.get(&format!("{path}/resources")).await;
    assert!(resources["total"].as_u64().unwrap() > 0, "{resources}");
    let (_, health) = process.get(&format!("{path}/health")).await;
    assert_eq!(health["healthy"], true, "{health}");
}

/// Killed outright, a server says nothing to its children; they are ended all the same,
/// also those that do not read their input any more, and what they started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_leaves_no_process_behind() {
    let (server, script) = (server(Engine::Sqlite).await, Script::new());
    let path = started(&server, script.stdio("own", &[])).await;
    let pids = text(&server, &path, "fork", json!({})).await;
    assert!(pids.split_whitespace().all(is_there), "{pids}");
    let Server { process, home: _home } = server;
    process.kill();
    wait_until(|| async { !pids.split_whitespace().any(is_there) }).await;
}
