//! The edge over real sockets: what two could understand differently, compressed
//! bodies, slow clients, streams that are reset, and where a request came from.

use std::io::Write as _;
use std::time::Duration;

use agentry_testkit::{Behaviour, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::server::{Engine, Process, Server, answer, wait_until};

const AGENTS: &str = "/api/v1/agents";

async fn connect(server: &Process) -> TcpStream {
    TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Sends bytes and reads all that comes until the server closes.
async fn exchange(server: &Process, sent: &str) -> String {
    let mut stream = connect(server).await;
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let reading = tokio::time::timeout(agentry_testkit::WAIT_MAX, stream.read_to_end(&mut said));
    // A reset after the answer is a close as well.
    let _ = reading.await.expect("the server closes the connection");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggled_requests_are_refused() {
    let server = Server::start(Engine::Sqlite).await;
    let key = &server.key;
    let body = r#"{"name":"smuggled"}"#;
    let hidden = format!(
        "POST {AGENTS} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let head = format!("POST {AGENTS} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n");
    let length = hidden.len();
    for (name, rest) in [
        (
            "CL.TE",
            format!(
                "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "TE.CL",
            format!(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n{hidden}\r\n0\r\n\r\n"
            ),
        ),
        (
            "TE.TE",
            format!(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "TE with a blank",
            format!("Transfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        ("TE in disguise", format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}")),
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}")),
        (
            "the same length twice",
            format!("Content-Length: 0\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
        ("a list of lengths", format!("Content-Length: 0, {length}\r\n\r\n{hidden}")),
        ("a signed length", format!("Content-Length: +0\r\n\r\n{hidden}")),
        ("obs-fold", format!("X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}")),
        ("bare LF", format!("X-A: b\nContent-Length: 0\r\n\r\n{hidden}")),
        ("a head that ends with bare LF", format!("Content-Length: 0\n\n{hidden}")),
        ("a chunk with bare LF", format!("Transfer-Encoding: chunked\r\n\r\n0\n\n{hidden}")),
        (
            "a chunk that is longer",
            format!("Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n{hidden}"),
        ),
    ] {
        let said = exchange(&server, &format!("{head}{rest}")).await;
        assert!(said.starts_with("HTTP/1.1 4"), "{name}: {said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{name}: {said}");
        assert!(!said.contains("201"), "{name}: {said}");
    }
    // Behind a request for a WebSocket that is refused nothing is served.
    let said = exchange(
        &server,
        &format!("GET {AGENTS} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n{hidden}"),
    )
    .await;
    assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
    // What is clear is served: two requests in a row.
    let said = exchange(
        &server,
        &format!("{hidden}{}", hidden.replace("Host: a", "Host: a\r\nConnection: close")),
    )
    .await;
    assert_eq!(said.matches("HTTP/1.1 201").count(), 2, "{said}");
    let (_, agents) = server.get(AGENTS).await;
    let smuggled =
        agents["items"].as_array().unwrap().iter().filter(|agent| agent["name"] == "smuggled");
    assert_eq!(smuggled.count(), 2);
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_compressed_and_streams_do_not() {
    let server = Server::start(Engine::Sqlite).await;
    for n in 0..20 {
        server.post(AGENTS, json!({"name": format!("agent {n}")})).await;
    }
    let get = async |path: &str, accept: &str| {
        let request = server.request(Method::GET, path).header("accept-encoding", accept);
        request.send().await.unwrap()
    };
    let plain = get(AGENTS, "identity").await;
    assert_eq!(plain.headers()["vary"], "accept-encoding");
    let plain = plain.bytes().await.unwrap();
    for coding in ["gzip", "zstd"] {
        let response = get(AGENTS, coding).await;
        assert_eq!(response.headers()["content-encoding"], coding);
        assert_eq!(response.headers()["vary"], "accept-encoding");
        let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
        let body = response.bytes().await.unwrap();
        assert_eq!(body.len(), length);
        assert!(body.len() * 3 < plain.len(), "{} of {}", body.len(), plain.len());
        let mut back = Vec::new();
        match coding {
            "gzip" => {
                use std::io::Read as _;
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut back).unwrap();
            }
            _ => back = zstd::decode_all(&body[..]).unwrap(),
        }
        assert_eq!(back, plain);
    }
    let small = get("/health", "zstd, gzip").await;
    assert!(!small.headers().contains_key("content-encoding"));
    // An event comes at once, as it is.
    let mut stream = get("/events?after=0", "zstd, gzip").await;
    assert!(!stream.headers().contains_key("content-encoding"));
    let mut heard = String::new();
    while !heard.contains("agent.created") {
        heard.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_may_come_compressed_within_the_bound_of_all() {
    let server = Server::start(Engine::Sqlite).await;
    let agent = json!({"name": "packed"}).to_string();
    let send = async |method: Method, path: &str, coding: &str, body: Vec<u8>| {
        let request = server.request(method, path).header("content-encoding", coding);
        answer(request.header("content-type", "application/json").body(body)).await
    };
    for (coding, body) in [
        ("gzip", gzip(agent.as_bytes())),
        ("zstd", zstd::encode_all(agent.as_bytes(), 3).unwrap()),
        ("identity", agent.clone().into_bytes()),
    ] {
        let (status, made) = send(Method::POST, AGENTS, coding, body).await;
        assert_eq!((status, &made["name"]), (StatusCode::CREATED, &json!("packed")), "{coding}");
    }
    let bomb = vec![b' '; 1 << 30];
    for (coding, body) in
        [("gzip", gzip(&bomb)), ("zstd", zstd::encode_all(&bomb[..], 19).unwrap())]
    {
        assert!(body.len() < 1 << 20 || coding == "gzip");
        let (status, problem) = send(Method::POST, AGENTS, coding, body).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{coding}");
        assert_eq!(problem["code"], "body_too_large");
    }
    for coding in ["br", "deflate", "gzip, gzip", "nonsense"] {
        let (status, problem) = send(Method::POST, AGENTS, coding, gzip(agent.as_bytes())).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{coding}: {problem}");
    }
    let (status, problem) = send(Method::POST, AGENTS, "gzip", agent.into_bytes()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("malformed_json")));
    // A file is what was sent, so that it is not sent in another form.
    let (_, session) = server.post("/api/v1/sessions", json!({})).await;
    let file = format!("/api/v1/sessions/{}/files/a.txt", session["id"].as_str().unwrap());
    let (status, _) = send(Method::PUT, &file, "gzip", gzip(b"text")).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_come_is_given_up() {
    let settings = [("AGENTRY_HTTP__HEADER_READ_MS", "300"), ("AGENTRY_HTTP__IDLE_MS", "400")];
    let server = Server::start_with(Engine::Sqlite, &settings).await;
    for sent in ["", "GET / HTTP/1.1\r\nHost: a\r\nX-A: "] {
        assert_eq!(exchange(&server, sent).await, "", "{sent:?}");
    }
    // One who trickles is no better.
    let mut stream = connect(&server).await;
    let ended = tokio::time::timeout(agentry_testkit::WAIT_MAX, async {
        while stream.write_all(b"GET").await.is_ok() {
            let mut byte = [0; 1];
            let pause = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut byte));
            if matches!(pause.await, Ok(Ok(0) | Err(_))) {
                break;
            }
        }
    });
    ended.await.expect("it is given up");
    let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("agentry_http_connections_timed_out_total 3"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_at_once_cost_nobody_else() {
    let server = Server::start(Engine::Sqlite).await;
    let (mut client, connection) = h2::client::Builder::new()
        .handshake::<_, bytes::Bytes>(connect(&server).await)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let url = format!("{}{AGENTS}", server.url);
    let mut sent = 0;
    let flood = async {
        while sent < 20_000 {
            let Ok(ready) = client.clone().ready().await else { break };
            client = ready;
            let request = http::Request::get(&url).header("x-api-key", &server.key).body(());
            let Ok((answer, mut stream)) = client.send_request(request.unwrap(), true) else {
                break;
            };
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
            sent += 1;
        }
    };
    let others = async {
        for _ in 0..50 {
            assert_eq!(server.get(AGENTS).await.0, StatusCode::OK);
        }
    };
    futures::future::join(flood, others).await;
    drop(client);
    let _ = connection.await;
    // Nothing of it is left.
    wait_until(|| async {
        let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        metrics.contains("agentry_http_places_taken{class=\"requests\"} 0\n")
            && metrics.contains("agentry_http_requests_in_flight 1\n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_trusted_proxy_says_where_a_request_came_from() {
    for (trusted, expected) in [("", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.9")] {
        let mut settings = Vec::new();
        if !trusted.is_empty() {
            settings.push(("AGENTRY_HTTP__TRUSTED_PROXIES", trusted));
        }
        let server = Server::start_with(Engine::Sqlite, &settings).await;
        let request = server.request(Method::POST, AGENTS).json(&json!({"name": "x"}));
        let request = request.header("x-forwarded-for", "1.2.3.4, 203.0.113.9");
        let (status, made) = answer(request).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let path = format!("/api/v1/audit?entity_id={}", made["id"].as_str().unwrap());
        let (_, page): (_, Value) = server.get(&path).await;
        assert_eq!(page["items"][0]["address"], expected, "{page}");
    }
}

/// Requests of several clients, one after the other each: how long each took, in
/// order. Every one must succeed.
async fn normal_load(server: &Process, requests: usize) -> Vec<Duration> {
    let client = |_| async {
        let mut took = Vec::new();
        for _ in 0..requests {
            let begun = std::time::Instant::now();
            let (status, said) = server.get(AGENTS).await;
            assert_eq!(status, StatusCode::OK, "{said}");
            took.push(begun.elapsed());
        }
        took
    };
    let mut all = futures::future::join_all((0..4).map(client)).await.concat();
    all.sort_unstable();
    all
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

/// Slow in the head, in the body, and in reading.
const SLOW_MODES: [(&str, &[&str]); 3] = [
    ("header", &["-H", "-i", "2", "-u", "/api/v1/agents"]),
    ("body", &["-B", "-i", "2", "-s", "8192", "-t", "POST", "-u", "/api/v1/agents"]),
    ("read", &["-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32", "-u", "/openapi.json"]),
];

/// In its long form with slowhttptest, 2,000 connections in each mode, and then the
/// p99 of others is measured, too; in its short form with some of our own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_slow_clients_hold_nobody_up() {
    let settings = [("AGENTRY_HTTP__HEADER_READ_MS", "3000"), ("AGENTRY_LOG", "error")];
    let server = Server::start_with(Engine::Sqlite, &settings).await;
    if std::env::var_os("AGENTRY_TEST_SOAK").is_none() {
        let key = &server.key;
        let heads = [
            "GET /api/v1/agents HTTP/1.1\r\nHost: a\r\nX-A: ".to_owned(),
            format!(
                "POST {AGENTS} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\
                Content-Type: application/json\r\nContent-Length: 8192\r\n\r\n{{"
            ),
            "GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20),
        ];
        let mut slow = Vec::new();
        for n in 0..300 {
            let mut stream = connect(&server).await;
            stream.write_all(heads[n % heads.len()].as_bytes()).await.unwrap();
            slow.push(stream);
        }
        normal_load(&server, 50).await;
        drop(slow);
        return;
    }
    if xtask::workspace::on_path("slowhttptest").is_none() {
        xtask::packages::install(&["slowhttptest"], "slow clients").unwrap();
    }
    let alone = normal_load(&server, 2_000).await;
    for (name, arguments) in SLOW_MODES {
        let mut arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let path = arguments.pop().unwrap();
        arguments.push(format!("{}{path}", server.url));
        let mut slow = std::process::Command::new("slowhttptest")
            .args(["-c", "2000", "-r", "1000", "-l", "30", "-p", "5"])
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // As soon as most of them are there.
        wait_until(|| async {
            let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
            let metrics = metrics.text().await.unwrap();
            let open = metrics.lines().find_map(|it| it.strip_prefix("agentry_http_connections "));
            open.unwrap().parse::<u32>().unwrap() > 1_000
        })
        .await;
        let beside = normal_load(&server, 2_000).await;
        let (was, is) = (p99(&alone), p99(&beside));
        eprintln!("{name}: p99 {was:?} alone, {is:?} beside 2,000 slow connections");
        // Below a millisecond it is the scheduler that is measured.
        assert!(is <= (was * 2).max(Duration::from_millis(10)), "{name}: {was:?} to {is:?}");
        slow.kill().unwrap();
        slow.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_place_waits_a_little_in_a_short_queue() {
    let model = ModelServer::start().await;
    model.by_default(Behaviour::echo());
    let provider = model.base_url();
    let settings = [
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", provider.as_str()),
        ("AGENTRY_HTTP__STREAMS_IN_FLIGHT_MAX", "1"),
        ("AGENTRY_HTTP__QUEUE_REQUESTS_MAX", "1"),
        ("AGENTRY_HTTP__QUEUE_WAIT_MS", "1500"),
    ];
    let server = Server::start_with(Engine::Sqlite, &settings).await;
    let agent = json!({"name": "far", "model": "compatible/near/m"});
    let (_, agent) = server.post(AGENTS, agent).await;
    let path = format!("{AGENTS}/{}/runs", agent["id"].as_str().unwrap());
    let run = || server.request(Method::POST, &path).json(&json!({"message": "Hello"})).send();
    let is_refused = |response: reqwest::Response| async {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "overloaded", "{problem}");
    };
    model.hold();
    let first = tokio::spawn(run());
    model.wait_held(1).await;
    // In vain, for as long as it may wait.
    let begun = std::time::Instant::now();
    is_refused(run().await.unwrap()).await;
    assert!(begun.elapsed() >= Duration::from_millis(1_500));
    // One waits, and so the next one does not; then there is a place.
    let waits = tokio::spawn(run());
    wait_until(|| async {
        let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
        metrics.text().await.unwrap().contains("agentry_http_requests_waiting{class=\"runs\"} 1\n")
    })
    .await;
    is_refused(run().await.unwrap()).await;
    // Reads have places of their own.
    assert_eq!(server.get(AGENTS).await.0, StatusCode::OK);
    model.release();
    for run in [first, waits] {
        assert_eq!(run.await.unwrap().unwrap().status(), StatusCode::OK);
    }
}
