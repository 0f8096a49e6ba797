//! The client against sockets that misbehave.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_outbound::{Client, Failure, Options, PostJson, Reply};
use agentry_testkit::{Behaviour, End, ModelServer, TcpChaos};
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const FAR: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(50);

fn call(url: &str) -> PostJson {
    PostJson {
        url: url.parse().expect("a test has valid URLs"),
        headers: HeaderMap::new(),
        body: Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#),
        deadline: Instant::now() + FAR,
        first_byte_timeout: None,
        idle_timeout: None,
    }
}

fn chat(server: &ModelServer) -> PostJson {
    call(&format!("{}/chat/completions", server.base_url()))
}

fn client(options: &Options) -> Client {
    Client::new(options).expect("a client is made")
}

async fn failure(client: &Client, call: PostJson) -> Failure {
    match client.post_json(call).await {
        Ok(reply) => reply.bytes().await.expect_err("it fails"),
        Err(failure) => failure,
    }
}

/// A server of one connection after another, each handed to `serve`.
async fn listen<F: Future<Output = ()> + Send>(
    tasks: &Tasks,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tasks.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            serve(socket).await;
        }
    });
    address
}

#[tokio::test]
async fn an_answer_comes_whole_or_in_pieces() {
    let server = ModelServer::start().await;
    let client = client(&Options::default());
    server.by_default(Behaviour::raw("text/plain", &[b"one ", b"two ", b"three"]));
    let reply = client.post_json(chat(&server)).await.unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.headers()["content-type"], "text/plain");
    assert_eq!(reply.bytes().await.unwrap(), "one two three");
    let reply = client.post_json(chat(&server)).await.unwrap();
    let pieces: Vec<Bytes> = reply.chunks().try_collect().await.unwrap();
    assert_eq!(pieces.concat(), b"one two three");
    assert_eq!(server.received()[0].headers["content-type"], "application/json");
}

#[tokio::test]
async fn every_status_is_an_answer_and_redirects_are_not_followed() {
    let server = ModelServer::start().await;
    let client = client(&Options::default());
    for status in [302, 307, 404, 500] {
        let to = server.base_url();
        server.next(Behaviour::status(status, &[("location", &to)], "text/plain", "x"));
        let reply = client.post_json(chat(&server)).await.unwrap();
        assert_eq!(reply.status(), status);
    }
    assert_eq!(server.received().len(), 4);
}

#[tokio::test]
async fn compressed_answers_are_handed_on_as_they_are() {
    let server = ModelServer::start().await;
    let client = client(&Options::default());
    server.next(Behaviour::status(200, &[("content-encoding", "gzip")], "text/plain", "as it is"));
    let reply = client.post_json(chat(&server)).await.unwrap();
    assert_eq!(reply.bytes().await.unwrap(), "as it is");
    assert!(!server.received()[0].headers.contains_key("accept-encoding"));
}

#[tokio::test]
async fn each_wait_has_its_own_failure() {
    let server = ModelServer::start().await;
    let client = client(&Options::default());
    let slow = || Behaviour { end: End::HangAfter(1), ..Behaviour::raw("text/plain", &[b"x"]) };

    server.by_default(Behaviour::silence());
    let patience = PostJson { first_byte_timeout: Some(SOON), ..chat(&server) };
    let failed = failure(&client, patience).await;
    assert!(matches!(failed, Failure::FirstByteTimeout { after: SOON }), "{failed:?}");

    server.by_default(slow());
    let patience = PostJson { idle_timeout: Some(SOON), ..chat(&server) };
    let failed = failure(&client, patience).await;
    assert!(matches!(failed, Failure::IdleTimeout { after: SOON }), "{failed:?}");

    for behaviour in [Behaviour::silence(), slow()] {
        server.by_default(behaviour);
        let deadline = Instant::now() + Duration::from_millis(200);
        let failed = failure(&client, PostJson { deadline, ..chat(&server) }).await;
        assert!(matches!(failed, Failure::Deadline), "{failed:?}");
    }

    let passed = PostJson { deadline: Instant::now(), ..chat(&server) };
    let failed = failure(&client, passed).await;
    assert!(matches!(failed, Failure::Deadline), "{failed:?}");
}

#[tokio::test]
async fn a_body_is_bounded_with_and_without_an_announced_length() {
    let server = ModelServer::start().await;
    let client = client(&Options { response_bytes_max: 8, ..Options::default() });
    for (body, fits) in [("12345678", true), ("123456789", false)] {
        server.next(Behaviour::status(200, &[], "text/plain", body));
        server.next(Behaviour::raw("text/plain", &[&body.as_bytes()[..5], &body.as_bytes()[5..]]));
        for announced in [true, false] {
            let reply = client.post_json(chat(&server)).await.unwrap();
            assert_eq!(reply.headers().contains_key("content-length"), announced);
            match reply.bytes().await {
                Ok(read) => assert!(fits && read == body),
                Err(failed) => {
                    assert!(!fits && matches!(failed, Failure::TooLarge { bytes_max: 8 }));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_broken_connection_is_broken_and_is_not_tried_again() {
    let server = ModelServer::start().await;
    let client = client(&Options::default());
    server.next(Behaviour { end: End::CutAfter(1), ..Behaviour::raw("text/plain", &[b"x", b"y"]) });
    let failed = failure(&client, chat(&server)).await;
    assert!(matches!(failed, Failure::Broken(_)), "{failed:?}");
    assert_eq!(server.received().len(), 1);

    // Cut after the request has arrived and before any answer: it may have had
    // an effect.
    let proxy = TcpChaos::start(server.address()).await;
    server.hold();
    let url = format!("http://{}/v1/chat/completions", proxy.address());
    let (failed, ()) = tokio::join!(failure(&client, call(&url)), async {
        server.wait_held(1).await;
        proxy.cut();
    });
    assert!(matches!(failed, Failure::Broken(_)), "{failed:?}");
    server.release();
    assert_eq!(server.received().len(), 2);
    assert_eq!(proxy.connections_made(), 1);
}

#[tokio::test]
async fn what_is_not_http_is_broken() {
    let tasks = Tasks::default();
    let address = listen(&tasks, |mut socket| async move {
        let mut request = [0; 1_024];
        let _ = socket.read(&mut request).await;
        let _ = socket.write_all(b"220 mail.example ESMTP\r\n").await;
    })
    .await;
    let failed = failure(&client(&Options::default()), call(&format!("http://{address}"))).await;
    assert!(matches!(failed, Failure::Broken(_)), "{failed:?}");
}

#[tokio::test]
async fn nobody_there_is_a_connect_failure_without_the_url() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/?api-key=secret");
    let failed = failure(&client(&Options::default()), call(&url)).await;
    assert!(matches!(failed, Failure::Connect(_)), "{failed:?}");
    assert!(!format!("{failed:?}").contains("secret"), "{failed:?}");
}

#[tokio::test]
async fn tls_that_does_not_come_about_is_tried_again_once_and_never_in_the_clear() {
    let tasks = Tasks::default();
    let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
    let address = listen(&tasks, move |mut socket| {
        let sent = sent.clone();
        async move {
            let mut first = [0; 1];
            let _ = socket.read(&mut first).await;
            let _ = sent.send(first[0]);
            let _ = socket.write_all(b"not a handshake at all").await;
        }
    })
    .await;
    let failed = failure(&client(&Options::default()), call(&format!("https://{address}"))).await;
    assert!(matches!(failed, Failure::Connect(_)), "{failed:?}");
    // Each connection began with a TLS handshake record, and there were two.
    assert_eq!([received.recv().await, received.recv().await], [Some(22), Some(22)]);
    assert!(received.is_empty());
}

#[tokio::test]
async fn a_handshake_that_hangs_is_a_connect_timeout() {
    let tasks = Tasks::default();
    let address = listen(&tasks, |socket| async move {
        // Kept open and never answered.
        let _socket = socket;
        std::future::pending::<()>().await;
    })
    .await;
    let client = client(&Options { connect_timeout_ms: 50, ..Options::default() });
    let failed = failure(&client, call(&format!("https://{address}"))).await;
    assert!(matches!(failed, Failure::ConnectTimeout { after: SOON }), "{failed:?}");
}

#[tokio::test]
async fn an_unused_reply_gives_its_connection_up() {
    let server = ModelServer::start().await;
    let client = client(&Options::default());
    server.next(Behaviour { end: End::HangAfter(1), ..Behaviour::raw("text/plain", &[b"x"]) });
    let reply: Reply = client.post_json(chat(&server)).await.unwrap();
    drop(reply);
    server.wait_abandoned(1).await;
}
