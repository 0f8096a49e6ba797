//! The guarded client against a canary: a listener that no byte and no
//! connection may reach.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_outbound::guard::Lookup;
use agentry_outbound::{Client, Failure, Options, PostJson, Refused};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// A server that answers each connection once with this and counts them.
struct Counted {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Counted {
    async fn listen(at: SocketAddr, answer: String) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let (connections, tasks) = (Arc::new(AtomicUsize::new(0)), Tasks::default());
        let (counted, stopping) = (Arc::clone(&connections), tasks.stopping().clone());
        tasks.spawn(stopping.run_until_cancelled_owned(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4_096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        }));
        Ok(Self { address, connections, tasks })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

fn ok() -> String {
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".to_owned()
}

/// Answers from a list, each once; the last one for good.
struct Answers {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Answers {
    fn new(answers: &[&[IpAddr]]) -> Arc<Self> {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        Arc::new(Self { answers, asked: AtomicUsize::new(0) })
    }
}

impl Lookup for Answers {
    fn lookup(&self, _name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let nth = self.asked.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        let answer = self.answers[nth].clone();
        Box::pin(async move { Ok(answer) })
    }
}

async fn call(client: &Client, url: &str) -> Result<u16, Failure> {
    let call = PostJson {
        url: url.parse().expect("a test has valid URLs"),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{}"),
        deadline: Instant::now() + Duration::from_secs(60),
        first_byte_timeout: None,
        idle_timeout: None,
    };
    Ok(client.post_json(call).await?.status().as_u16())
}

fn strict() -> Options {
    Options::default()
}

fn loopback_allowed() -> Options {
    Options { loopback_targets_allowed: true, ..Options::default() }
}

/// Two servers on one port: one that may be called, at `::1`, and a canary at
/// `127.0.0.1`, which is where a connection to `0.0.0.0` arrives.
async fn allowed_and_canary() -> (Counted, Counted) {
    loop {
        let allowed =
            Counted::listen((Ipv6Addr::LOCALHOST, 0).into(), ok()).await.expect("it listens");
        let beside = (Ipv4Addr::LOCALHOST, allowed.address.port()).into();
        if let Ok(canary) = Counted::listen(beside, ok()).await {
            return (allowed, canary);
        }
    }
}

#[tokio::test]
async fn no_spelling_of_a_refused_address_is_connected_to() {
    let canary = Counted::listen((Ipv4Addr::UNSPECIFIED, 0).into(), ok()).await.unwrap();
    let port = canary.address.port();
    let client = Client::guarded(&strict()).unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "0",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "localhost",
        "localhost.",
        "a.localhost",
    ] {
        let failed = call(&client, &format!("http://{host}:{port}/")).await;
        assert!(matches!(failed, Err(Failure::Refused(_))), "{host}: {failed:?}");
    }
    assert_eq!(canary.connections(), 0);
    // The canary would have sung.
    let open = Client::new(&strict()).unwrap();
    assert_eq!(call(&open, &format!("http://127.1:{port}/")).await.unwrap(), 200);
    assert_eq!(canary.connections(), 1);
}

#[tokio::test]
async fn a_name_that_resolves_to_a_refused_address_is_not_connected_to() {
    let canary = Counted::listen((Ipv4Addr::UNSPECIFIED, 0).into(), ok()).await.unwrap();
    let url = format!("http://canary.example:{}/", canary.address.port());
    for address in
        ["127.0.0.1", "0.0.0.0", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"]
    {
        let lookup = Answers::new(&[&[address.parse().unwrap()]]);
        let client = Client::guarded_with(&strict(), lookup.clone()).unwrap();
        let failed = call(&client, &url).await;
        assert!(matches!(failed, Err(Failure::Refused(Refused::Address))), "{address}: {failed:?}");
        assert_eq!(lookup.asked.load(Ordering::SeqCst), 1);
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn an_answer_of_the_resolver_that_changes_does_not_help() {
    let (allowed, canary) = allowed_and_canary().await;
    let url = format!("http://rebound.example:{}/", allowed.address.port());
    let (good, bad) = (Ipv6Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into());
    let lookup = Answers::new(&[&[good], &[bad], &[good, bad], &[bad, good], &[bad]]);
    let client = Client::guarded_with(&loopback_allowed(), lookup.clone()).unwrap();
    // What was checked is what is connected to: each call looks up once.
    assert_eq!(call(&client, &url).await.unwrap(), 200);
    assert_eq!(lookup.asked.load(Ordering::SeqCst), 1);
    let failed = call(&client, &url).await;
    assert!(matches!(failed, Err(Failure::Refused(Refused::Address))), "{failed:?}");
    // Of several addresses those that are not allowed are left out.
    assert_eq!(call(&client, &url).await.unwrap(), 200);
    assert_eq!(call(&client, &url).await.unwrap(), 200);
    assert!(matches!(call(&client, &url).await, Err(Failure::Refused(Refused::Address))));
    assert_eq!((allowed.connections(), canary.connections()), (3, 0));
    assert_eq!(lookup.asked.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_call_that_is_tried_again_is_checked_again() {
    let canary = Counted::listen((Ipv4Addr::LOCALHOST, 0).into(), ok()).await.unwrap();
    let url = format!("http://rebound.example:{}/", canary.address.port());
    let (good, bad) = (Ipv6Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into());
    // Nobody listens at the first answer, so the client connects once more.
    let lookup = Answers::new(&[&[good], &[bad]]);
    let client = Client::guarded_with(&loopback_allowed(), lookup.clone()).unwrap();
    let failed = call(&client, &url).await;
    assert!(matches!(failed, Err(Failure::Refused(Refused::Address))), "{failed:?}");
    assert_eq!((lookup.asked.load(Ordering::SeqCst), canary.connections()), (2, 0));
}

#[tokio::test]
async fn redirects_to_anywhere_are_answers() {
    let canary = Counted::listen((Ipv4Addr::LOCALHOST, 0).into(), ok()).await.unwrap();
    let client = Client::guarded(&loopback_allowed()).unwrap();
    for to in [format!("http://{}/", canary.address), "http://169.254.169.254/".to_owned()] {
        for status in [301, 302, 303, 307, 308] {
            let answer = format!(
                "HTTP/1.1 {status} Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n"
            );
            let from = Counted::listen((Ipv4Addr::LOCALHOST, 0).into(), answer).await.unwrap();
            let answered = call(&client, &format!("http://{}/", from.address)).await.unwrap();
            assert_eq!((answered, from.connections()), (status, 1));
        }
    }
    assert_eq!(canary.connections(), 0);
}
