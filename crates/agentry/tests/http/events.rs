//! Events: over WebSocket, as server-sent events, resumed, filtered, for pages.

use agentry_testkit::WAIT_MAX;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::runs_bed::{Bed, halting, start};
use crate::server::{Engine, Process, Server, wait_until};
use crate::socket::{CLOSE, Socket};

on_both_engines! {
    what_happens_is_heard_with_what_it_was,
    a_filter_is_applied_by_the_server,
    a_listener_resumes_where_it_stopped,
    an_expired_cursor_is_told,
    server_sent_events_are_the_same_log,
    a_ticket_opens_one_stream,
}

/// Makes agents and says their ids, in the order of the answers.
async fn make_agents(process: &Process, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    for nth in 0..count {
        let (status, agent) =
            process.post("/api/v1/agents", json!({"name": format!("a{nth}")})).await;
        assert_eq!(status, StatusCode::CREATED, "{agent}");
        ids.push(agent["id"].as_str().unwrap().to_owned());
    }
    ids
}

async fn what_happens_is_heard_with_what_it_was(engine: Engine) {
    let server = Server::start(engine).await;
    let mut socket = Socket::open(&server, "/ws/events").await;
    let (_, agent) = server.post("/api/v1/agents", json!({"name": "heard"})).await;
    let path = format!("/api/v1/agents/{}", agent["id"].as_str().unwrap());
    server.patch(&path, json!({"name": "changed", "metadata": {"a": 1}})).await;
    server.delete(&path).await;
    let mut last = 0;
    for (kind, data) in [
        ("agent.created", json!({"version": 1})),
        ("agent.updated", json!({"version": 2, "changed": ["metadata", "name"]})),
        ("agent.deleted", json!({"version": 2})),
    ] {
        let event = socket.json().await;
        assert_eq!(event["type"], "event", "{event}");
        assert_eq!(event["event_type"], kind, "{event}");
        assert_eq!(event["entity_type"], "agent");
        assert_eq!(event["entity_id"], agent["id"]);
        assert_eq!(event["data"], data);
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(event["seq"].as_i64().unwrap() > last);
        last = event["seq"].as_i64().unwrap();
    }
    let (_, run) = server.post("/api/v1/agent/simple/run", json!({"message": "Hello."})).await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "run.finished") {
        let event = socket.json().await;
        if event["entity_type"] == "run" {
            assert_eq!(event["data"]["session_id"], run["session_id"], "{event}");
        }
        kinds.push(event["event_type"].as_str().unwrap().to_owned());
    }
    assert!(kinds.contains(&"session.created".to_owned()), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "message.created").count(), 2, "{kinds:?}");
    let (status, found) = server.get("/ws/status").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(found["connections"], 1, "{found}");
    assert_eq!(found["oldest"], 0);
}

async fn a_filter_is_applied_by_the_server(engine: Engine) {
    let server = Server::start(engine).await;
    let mut quiet = Socket::open(&server, "/ws/events/filtered").await;
    let mut sessions =
        Socket::open(&server, "/api/v1/ws/events?entity_types=session&event_types=*").await;
    let mut watcher = Socket::open(&server, "/ws/events").await;

    let made = make_agents(&server, 3).await;
    quiet.pong().await;
    let ids = json!({"action": "filter", "entity_ids": [made[1]], "event_types": ["agent.*"]});
    quiet.say(&ids.to_string()).await;
    assert_eq!(quiet.json().await["type"], "filtered");
    for id in &made {
        server.delete(&format!("/api/v1/agents/{id}")).await;
    }
    let (_, session) = server.post("/api/v1/sessions", json!({})).await;
    assert_eq!(quiet.json().await["entity_id"], made[1].as_str());
    let event = sessions.json().await;
    assert_eq!(
        (&event["event_type"], &event["entity_id"]),
        (&json!("session.created"), &session["id"])
    );

    // A filter narrows and widens while the connection lasts.
    for _ in 0..7 {
        watcher.json().await;
    }
    watcher.say(r#"{"action":"filter","event_types":["session.deleted"]}"#).await;
    assert_eq!(watcher.json().await["event_types"], json!(["session.deleted"]));
    make_agents(&server, 2).await;
    let path = format!("/api/v1/sessions/{}", session["id"].as_str().unwrap());
    server.delete(&path).await;
    assert_eq!(watcher.json().await["event_type"], "session.deleted");
    watcher.say(r#"{"action":"filter"}"#).await;
    assert_eq!(watcher.json().await["type"], "filtered");
    make_agents(&server, 1).await;
    assert_eq!(watcher.json().await["event_type"], "agent.created");

    for (text, code) in [
        (r#"{"action":"filter","entity_types":["agents"]}"#, "validation_failed"),
        (r#"{"action":"filter","group_id":["g"]}"#, "malformed_json"),
        (r#"{"action":"dance"}"#, "validation_failed"),
        ("hello", "malformed_json"),
    ] {
        watcher.say(text).await;
        assert_eq!(watcher.json().await["code"], code, "{text}");
    }
    let many: Vec<String> = (0..257).map(|nth| format!("t{nth}")).collect();
    watcher.say(&json!({"action": "filter", "event_types": many}).to_string()).await;
    assert_eq!(watcher.json().await["errors"][0]["pointer"], "/event_types");
    let (status, problem) = server.get("/events?entity_types=agents&after=x").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");
}

async fn a_listener_resumes_where_it_stopped(engine: Engine) {
    let server = Server::start(engine).await;
    let (mut socket, ready) = Socket::open_at(&server.url, &server.key, "/ws/events").await;
    let made = make_agents(&server, 30).await;
    let mut seqs = Vec::new();
    for id in &made[..10] {
        let event = socket.json().await;
        assert_eq!(event["entity_id"], id.as_str());
        seqs.push(event["seq"].as_i64().unwrap());
    }
    drop(socket);
    // From the log, by the query; and again by a message, from the beginning.
    let path = format!("/ws/events?after={}", seqs[9]);
    let mut socket = Socket::open(&server, &path).await;
    for id in &made[10..] {
        assert_eq!(socket.json().await["entity_id"], id.as_str());
    }
    socket.say(&json!({"action": "resume", "after": ready}).to_string()).await;
    assert_eq!(socket.json().await, json!({"type": "resumed", "after": ready}));
    for id in &made {
        assert_eq!(socket.json().await["entity_id"], id.as_str());
    }
    let more = make_agents(&server, 2).await;
    for id in &more {
        assert_eq!(socket.json().await["entity_id"], id.as_str());
    }
    // A cursor that is ahead of the log is of no use either.
    socket.say(r#"{"action":"resume","after":1000000}"#).await;
    assert_eq!(socket.json().await["type"], "resumed");
    assert_eq!(socket.json().await["type"], "expired");
    socket.pong().await;
}

async fn an_expired_cursor_is_told(engine: Engine) {
    let settings = [("AGENTRY_EVENTS__RETENTION_ENTRIES_MAX", "20")];
    let server = Server::start_with(engine, &settings).await;
    let made = make_agents(&server, 60).await;
    // Retention looks now and then; what it keeps is the newest.
    let oldest = async || server.get("/ws/status").await.1["oldest"].as_i64().unwrap();
    wait_until(|| async { oldest().await > 0 }).await;
    let oldest = oldest().await;
    let mut socket = Socket::open(&server, "/ws/events?after=3").await;
    assert_eq!(socket.json().await, json!({"type": "expired", "oldest": oldest}));
    socket.say(&json!({"action": "resume", "after": oldest}).to_string()).await;
    assert_eq!(socket.json().await["type"], "resumed");
    let first = socket.json().await;
    assert_eq!(first["seq"], oldest + 1);
    let mut last = first;
    while last["entity_id"] != made[59].as_str() {
        let next = socket.json().await;
        assert_eq!(next["seq"].as_i64().unwrap(), last["seq"].as_i64().unwrap() + 1);
        last = next;
    }
    // Server-sent events go on with the oldest by themselves.
    let mut stream = Stream::open(&server, "/events?after=3", &[]).await;
    assert_eq!(stream.next().await.0, "ready");
    assert_eq!(
        stream.next().await,
        ("expired".to_owned(), json!({"type": "expired", "oldest": oldest}))
    );
    assert_eq!(stream.next().await.1["seq"], oldest + 1);
}

/// A stream of server-sent events.
struct Stream {
    response: reqwest::Response,
    text: String,
    id: String,
}

impl Stream {
    async fn open(process: &Process, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = process.request(Method::GET, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new(), id: String::new() }
    }

    /// The next event's name and data.
    async fn next(&mut self) -> (String, Value) {
        let reading = async {
            loop {
                if let Some((event, rest)) = self.text.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    self.text = rest;
                    let field = |name: &str| {
                        event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                    };
                    if let Some(id) = field("id: ") {
                        self.id = id;
                    }
                    if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                        return (name, serde_json::from_str(&data).unwrap());
                    }
                    continue;
                }
                let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(WAIT_MAX, reading).await.expect("an event comes in time")
    }
}

async fn server_sent_events_are_the_same_log(engine: Engine) {
    let server = Server::start(engine).await;
    let mut socket = Socket::open(&server, "/ws/events").await;
    let mut stream = Stream::open(&server, "/events", &[]).await;
    assert_eq!(stream.next().await.0, "ready");
    let made = make_agents(&server, 20).await;
    for id in &made[..10] {
        let (name, event) = stream.next().await;
        assert_eq!(name, "agent.created");
        assert_eq!(event["entity_id"], id.as_str());
        assert_eq!(event, socket.json().await);
        assert_eq!(stream.id, event["seq"].to_string());
    }
    let id = stream.id.clone();
    drop(stream);
    let headers = [("last-event-id", id.as_str())];
    let mut stream = Stream::open(&server, "/api/v1/events?after=0", &headers).await;
    assert_eq!(stream.next().await.0, "ready");
    for id in &made[10..] {
        assert_eq!(stream.next().await.1["entity_id"], id.as_str());
    }
    let path = "/events?event_types=session.*";
    let mut filtered = Stream::open(&server, path, &[]).await;
    assert_eq!(filtered.next().await.0, "ready");
    make_agents(&server, 3).await;
    server.post("/api/v1/sessions", json!({})).await;
    assert_eq!(filtered.next().await.0, "session.created");
}

async fn a_ticket_opens_one_stream(engine: Engine) {
    let server = Server::start(engine).await;
    let ticket = async || {
        let (status, made) = server.post("/events/tickets", json!({})).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made["ticket"].as_str().unwrap().to_owned()
    };
    let open = async |path: &str, headers: &str| {
        let (socket, answer) =
            Socket::request(&server.url, &Socket::handshake(path, headers)).await;
        (socket, answer.status)
    };
    let first = ticket().await;
    let by_query = format!("/ws/events?ticket={first}");
    let (mut socket, status) = open(&by_query, "").await;
    assert_eq!(status, 101);
    assert_eq!(socket.json().await["type"], "ready");
    assert_eq!(open(&by_query, "").await.1, 401, "a ticket is good once");

    let protocols =
        format!("Sec-WebSocket-Protocol: agentry.events, agentry.ticket.{}\r\n", ticket().await);
    assert_eq!(open("/ws/events", &protocols).await.1, 101);
    assert_eq!(open("/ws/events", &protocols).await.1, 401);
    assert_eq!(open("/ws/events?ticket=at_0", "").await.1, 401);
    assert_eq!(open("/ws/events", "").await.1, 401);

    // It opens streams and nothing else.
    let path = format!("{}/api/v1/agents?ticket={}", server.url, ticket().await);
    assert_eq!(server.client.get(path).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let path = format!("{}/events?ticket={}", server.url, ticket().await);
    assert_eq!(server.client.get(path).send().await.unwrap().status(), StatusCode::OK);
    let (status, _) = server.post("/events/tickets", json!({"lifetime_ms": 60_001})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

/// The cases of requirements row 5: so many connections, each gets every one of
/// so many messages, in order.
async fn broadcast(connections: usize, messages: usize) {
    let server = Server::start(Engine::Sqlite).await;
    let mut sockets = Vec::with_capacity(connections);
    for _ in 0..connections {
        sockets.push(Socket::open(&server, "/ws/events?event_types=agent.created").await);
    }
    let process: &Process = &server;
    let writers = 16.min(messages);
    let writing = join_all((0..writers).map(|nth| {
        make_agents(process, messages / writers + usize::from(nth < messages % writers))
    }));
    let reading = join_all(sockets.iter_mut().map(async |socket| {
        let mut seen = Vec::with_capacity(messages);
        while seen.len() < messages {
            let event = socket.json().await;
            assert_eq!(event["type"], "event", "{event}");
            seen.push((event["seq"].as_i64().unwrap(), event["entity_id"].clone()));
        }
        seen
    }));
    let (made, seen) = tokio::join!(writing, reading);
    let made: usize = made.iter().map(Vec::len).sum();
    assert_eq!(made, messages);
    for one in &seen {
        assert!(one.is_sorted_by(|one, next| one.0 < next.0), "out of order");
        assert_eq!(one, &seen[0], "all hear the same");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_connections_hear_a_hundred_messages() {
    broadcast(10, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_connections_hear_a_thousand_messages() {
    broadcast(50, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_connections_hear_a_thousand_messages() {
    broadcast(100, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_connections_hear_five_thousand_messages() {
    broadcast(10, 5_000).await;
}

/// Recovery cycles: a client that is cut off again and again hears each event
/// once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_recovers_from_twenty_cuts() {
    let server = Server::start(Engine::Sqlite).await;
    let process: &Process = &server;
    let (mut socket, mut cursor) = Socket::open_at(&server.url, &server.key, "/ws/events").await;
    let mut heard: Vec<Value> = Vec::new();
    let writing = make_agents(process, 400);
    let reading = async {
        for _cycle in 0..20 {
            for _ in 0..20 {
                let event = socket.json().await;
                assert!(event["seq"].as_i64().unwrap() > cursor, "{event}");
                cursor = event["seq"].as_i64().unwrap();
                heard.push(event["entity_id"].clone());
            }
            drop(std::mem::replace(
                &mut socket,
                Socket::open(process, &format!("/ws/events?after={cursor}")).await,
            ));
        }
        heard
    };
    let (made, heard) = tokio::join!(writing, reading);
    assert_eq!(heard, made.iter().map(|id| json!(id)).collect::<Vec<_>>());
}

/// A client that does not read is told that it lags and may resume; another one
/// beside it notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_is_told_and_resumes() {
    let settings = [("AGENTRY_EVENTS__RING_BYTES_MAX", "20000")];
    let server = Server::start_with(Engine::Sqlite, &settings).await;
    let process: &Process = &server;
    let mut slow = Socket::open(process, "/ws/events").await;
    let mut quick = Socket::open(process, "/ws/events").await;
    // More than what sockets buffer on the way, which the kernel decides.
    let messages = 12_000;
    let writing = join_all((0..24).map(|_| make_agents(process, messages / 24)));
    let reading = async {
        let mut seqs = Vec::with_capacity(messages);
        while seqs.len() < messages {
            let event = quick.json().await;
            // The ring of this test is small, so even a quick client may lag.
            if event["type"] == "lagged" {
                let after = seqs.last().copied().unwrap_or(event["from"].as_i64().unwrap() - 1);
                quick.say(&json!({"action": "resume", "after": after}).to_string()).await;
                while quick.json().await["type"] != "resumed" {}
                continue;
            }
            seqs.push(event["seq"].as_i64().unwrap());
        }
        seqs
    };
    let (_, all) = tokio::join!(writing, reading);
    assert!(all.is_sorted_by(|one, next| one < next), "each once and in order");
    let mut seen: Vec<i64> = Vec::new();
    let mut lagged = 0;
    while seen.last() != all.last() {
        let event = slow.json().await;
        match event["type"].as_str().unwrap() {
            "event" => seen.push(event["seq"].as_i64().unwrap()),
            "lagged" => {
                lagged += 1;
                let last = seen.last().copied().unwrap_or(all[0] - 1);
                assert!(event["from"].as_i64().unwrap() <= last + 1, "{event} after {last}");
                slow.say(&json!({"action": "resume", "after": last}).to_string()).await;
                while slow.json().await["type"] != "resumed" {}
            }
            other => panic!("{other}"),
        }
    }
    assert!(lagged > 0, "the slow client was never told");
    assert_eq!(seen, all);
}

/// A stop ends streams with a reason, so that clients go elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_closes_streams() {
    let Server { process, home } = Server::start(Engine::Sqlite).await;
    let mut socket = Socket::open(&process, "/ws/events").await;
    let mut stream = Stream::open(&process, "/events", &[]).await;
    stream.next().await;
    let stopped = std::process::Command::new("kill")
        .args(["-TERM", &process.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    let frame = socket.frame().await.unwrap();
    assert_eq!((frame.opcode(), frame.code()), (CLOSE, Some(1001)));
    assert_eq!(socket.frame().await, None);
    while stream.response.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
    assert!(process.wait().success());
    drop(home);
}

/// Tells a process to stop.
fn signal(process: &Process, name: &str) {
    let id = process.id().to_string();
    let sent = std::process::Command::new("kill").args([name, &id]).status().unwrap();
    assert!(sent.success());
}

/// The first signal lets everything finish and says so; the second one waits for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    // Nothing but the second signal can end it while the test lasts.
    let settings = [("AGENTRY_HTTP__NOTICE_MS", "3600000"), ("AGENTRY_HTTP__DRAIN_MS", "3600000")];
    let bed = Bed::with(Engine::Sqlite, &settings).await;
    bed.model.next(halting());
    bed.model.hold();
    let session = bed.session().await;
    let body = json!({"message": "m", "session_id": session, "stream": true});
    let mut run = bed.request(&body).send().await.unwrap();
    let mut heard = String::new();
    while !heard.contains("message.delta") {
        let chunk = run.chunk().await.unwrap().expect("the stream goes on");
        heard.push_str(&String::from_utf8_lossy(&chunk));
    }
    let id = bed.ids(&session).await.remove(0);
    let mut socket = Socket::open(&bed.process, "/ws/events").await;
    let mut stream = Stream::open(&bed.process, "/events", &[]).await;
    stream.next().await;
    signal(&bed.process, "-TERM");
    let ready = || async {
        // A connection of its own each time: those that were open are let go.
        let client = reqwest::Client::new();
        client.get(format!("{}/ready", bed.process.url)).send().await.unwrap().status()
    };
    wait_until(|| async { ready().await == StatusCode::SERVICE_UNAVAILABLE }).await;
    // Listeners are told to go elsewhere, and what was begun goes on.
    let frame = socket.frame().await.unwrap();
    assert_eq!((frame.opcode(), frame.code()), (CLOSE, Some(1001)));
    while stream.response.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
    let client = reqwest::Client::new();
    let url = format!("{}/api/v1/runs/{id}", bed.process.url);
    let still = client.get(url).header("x-api-key", &bed.process.key).send().await.unwrap();
    assert_eq!(still.json::<Value>().await.unwrap()["status"], "running");
    signal(&bed.process, "-INT");
    let Bed { model, process, home, .. } = bed;
    let ended = tokio::task::spawn_blocking(move || process.wait());
    let ended = tokio::time::timeout(WAIT_MAX, ended).await;
    assert!(ended.expect("it ends without waiting for anybody").unwrap().success());
    // The run's client sees its stream break without the run's end, and the run is carried
    // on by whoever comes next.
    while let Ok(Some(chunk)) = run.chunk().await {
        heard.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(!heard.contains("run.finished"), "{heard}");
    model.release();
    let process = start(&home, &model, &[]);
    let path = format!("/api/v1/runs/{id}");
    wait_until(|| async { process.get(&path).await.1["status"] == "succeeded" }).await;
}

/// The bound of open streams is its own, and a place comes back with its stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_have_a_bound() {
    let server =
        Server::start_with(Engine::Sqlite, &[("AGENTRY_HTTP__SUBSCRIPTIONS_MAX", "2")]).await;
    let one = Socket::open(&server, "/ws/events").await;
    let mut two = Stream::open(&server, "/events", &[]).await;
    two.next().await;
    let head = Socket::handshake("/ws/events", &format!("X-API-Key: {}\r\n", server.key));
    let (_, answer) = Socket::request(&server.url, &head).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(server.get("/api/v1/agents").await.0, StatusCode::OK);
    drop(one);
    crate::server::wait_until(|| async {
        Socket::request(&server.url, &head).await.1.status == 101
    })
    .await;
}
