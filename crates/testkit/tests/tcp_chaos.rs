//! The proxy breaks what it is told to break.

use std::net::{Ipv4Addr, SocketAddr};

use agentry_domain::background::Tasks;
use agentry_testkit::TcpChaos;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Says back what it is told.
async fn echo(tasks: &Tasks) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn said_back(socket: &mut TcpStream, text: &str) -> bool {
    let mut back = vec![0; text.len()];
    socket.write_all(text.as_bytes()).await.is_ok()
        && socket.read_exact(&mut back).await.is_ok()
        && back == text.as_bytes()
}

#[tokio::test]
async fn bytes_pass_and_an_end_is_handed_on() {
    let tasks = Tasks::default();
    let proxy = TcpChaos::start(echo(&tasks).await).await;
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(said_back(&mut socket, "hello").await);
    socket.write_all(b"last words").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last words");
    drop(socket);
    proxy.wait_open(0).await;
    assert_eq!(proxy.connections_made(), 1);
}

#[tokio::test]
async fn a_cut_ends_what_is_open_and_nothing_later() {
    let tasks = Tasks::default();
    let proxy = TcpChaos::start(echo(&tasks).await).await;
    let mut before = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(said_back(&mut before, "hello").await);
    proxy.cut();
    assert!(!said_back(&mut before, "hello").await);
    let mut after = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(said_back(&mut after, "hello").await);
}

#[tokio::test]
async fn stalled_bytes_come_when_it_resumes_and_not_before() {
    let tasks = Tasks::default();
    let proxy = TcpChaos::start(echo(&tasks).await).await;
    let mut lost = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(said_back(&mut lost, "one").await);

    proxy.stall();
    lost.write_all(b"two").await.unwrap();
    proxy.cut();
    let mut back = Vec::new();
    // Whether it ends or is reset, nothing came through.
    let _ = lost.read_to_end(&mut back).await;
    assert!(back.is_empty());

    let mut kept = TcpStream::connect(proxy.address()).await.unwrap();
    kept.write_all(b"three").await.unwrap();
    proxy.resume();
    let mut back = [0; 5];
    kept.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"three");
}

#[tokio::test]
async fn refused_connections_end_at_once() {
    let tasks = Tasks::default();
    let proxy = TcpChaos::start(echo(&tasks).await).await;
    proxy.refuse();
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(!said_back(&mut refused, "hello").await);
    proxy.resume();
    let mut taken = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(said_back(&mut taken, "hello").await);
    assert_eq!(proxy.connections_made(), 1);
}
