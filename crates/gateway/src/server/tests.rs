use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http_body_util::BodyExt as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;

struct Running {
    address: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    tasks: Tasks,
    stop: Stop,
    slow_begun: Arc<Notify>,
    slow_go_on: Arc<Notify>,
    served: tokio::task::JoinHandle<()>,
}

/// Serves `/` at once and `/slow` when it is told to.
async fn running(options: ServeOptions) -> Running {
    let slow_begun = Arc::new(Notify::new());
    let slow_go_on = Arc::new(Notify::new());
    let (begun, go_on) = (Arc::clone(&slow_begun), Arc::clone(&slow_go_on));
    let slow = move || async move {
        begun.notify_one();
        go_on.notified().await;
        "slow"
    };
    let router = Router::new().route("/", get(|| async { "fast" })).route("/slow", get(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Metrics::new();
    let readiness = Readiness::new();
    let tasks = Tasks::default();
    let stop = Stop::new();
    let served = tasks.spawn({
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        let (tasks, stop) = (tasks.clone(), stop.clone());
        async move {
            let app = App::new(router, &[]);
            serve(listener, app, &options, &metrics, &readiness, &tasks, &stop).await;
        }
    });
    Running { address, metrics, readiness, tasks, stop, slow_begun, slow_go_on, served }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn client(&self) -> http1::SendRequest<Body> {
        let io = TokioIo::new(self.connect().await);
        let (client, connection) = http1::handshake(io).await.unwrap();
        self.tasks.spawn(connection);
        client
    }
}

fn to(path: &str) -> Request<Body> {
    Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()
}

async fn text(response: http::Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn http_1_is_kept_alive_and_http_2_is_known_by_its_preface() {
    let server = running(ServeOptions::default()).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        client.ready().await.unwrap();
        assert_eq!(text(client.send_request(to("/")).await.unwrap()).await, "fast");
    }
    let io = TokioIo::new(server.connect().await);
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    server.tasks.spawn(connection);
    let request = Request::get("http://localhost/").body(Body::empty()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(text(response).await, "fast");
    assert_eq!(server.metrics.connections().accepted.get(), 2);
}

#[tokio::test]
async fn a_stop_finishes_what_was_begun_and_takes_nothing_new() {
    let server = running(ServeOptions::default()).await;
    let mut idle = server.client().await;
    assert_eq!(text(idle.send_request(to("/")).await.unwrap()).await, "fast");
    let mut busy = server.client().await;
    let answer = busy.send_request(to("/slow"));
    let checks = async {
        server.slow_begun.notified().await;
        assert!(server.readiness.report().ready);
        server.stop.begin();
        // The idle connection is closed at once, the busy one is not.
        while idle.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.readiness.report().ready);
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.served.is_finished());
        server.slow_go_on.notify_one();
    };
    let (answer, ()) = tokio::join!(answer, checks);
    assert_eq!(text(answer.unwrap()).await, "slow");
    server.served.await.unwrap();
    assert_eq!(server.metrics.connections().open.get(), 0);
}

#[tokio::test]
async fn until_the_notice_is_over_everything_is_served() {
    let notice = Duration::from_secs(3_600);
    let server = running(ServeOptions { notice, drain_max: notice, ..Default::default() }).await;
    let mut kept = server.client().await;
    assert_eq!(text(kept.send_request(to("/")).await.unwrap()).await, "fast");
    server.stop.begin();
    while server.readiness.report().ready {
        tokio::task::yield_now().await;
    }
    kept.ready().await.unwrap();
    assert_eq!(text(kept.send_request(to("/")).await.unwrap()).await, "fast");
    for _ in 0..10 {
        let mut fresh = server.client().await;
        assert_eq!(text(fresh.send_request(to("/")).await.unwrap()).await, "fast");
    }
    assert!(!server.served.is_finished());
    server.stop.now();
    server.served.await.unwrap();
    assert_eq!(server.metrics.connections().open.get(), 0);
}

#[tokio::test]
async fn a_drain_is_bounded_and_a_second_stop_ends_it() {
    for second in [false, true] {
        let drain_max = Duration::from_millis(if second { 3_600_000 } else { 1 });
        let server = running(ServeOptions { drain_max, ..Default::default() }).await;
        let mut busy = server.client().await;
        let answer = busy.send_request(to("/slow"));
        let stop = async {
            server.slow_begun.notified().await;
            server.stop.begin();
            if second {
                server.stop.now();
            }
        };
        let (answer, ()) = tokio::join!(answer, stop);
        assert!(answer.is_err(), "the request was cut off");
        server.served.await.unwrap();
        assert_eq!(server.metrics.connections().open.get(), 0);
    }
}

#[tokio::test]
async fn a_connection_too_many_is_told() {
    let server = running(ServeOptions { connections_max: 1, ..Default::default() }).await;
    let mut first = server.client().await;
    assert_eq!(text(first.send_request(to("/")).await.unwrap()).await, "fast");
    let mut second = server.connect().await;
    let mut told = String::new();
    second.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    assert!(told.contains("retry-after: 1"), "{told}");
    assert_eq!(server.metrics.connections().refused.get(), 1);
    // When the first goes its place can be had.
    drop(first);
    loop {
        let mut next = server.client().await;
        if let Ok(response) = next.send_request(to("/")).await
            && response.status().is_success()
        {
            break;
        }
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let header_read_within = Duration::from_millis(40);
    let server = running(ServeOptions { header_read_within, ..Default::default() }).await;
    let mut silent = server.connect().await;
    let mut half = server.connect().await;
    half.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }
    assert_eq!(server.metrics.connections().timed_out.get(), 2);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() {
    let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1_024]);
    let endless = move || {
        let chunk = chunk.clone();
        async move {
            Body::from_stream(futures::stream::repeat_with(move || {
                Ok::<_, Infallible>(chunk.clone())
            }))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, tasks, stop) = (Metrics::new(), Tasks::default(), Stop::new());
    let app = App::new(Router::new().route("/", get(endless)), &[]);
    let options = ServeOptions { write_stall_max: Duration::from_millis(40), ..Default::default() };
    let served = tasks.spawn({
        let (metrics, tasks, stop) = (metrics.clone(), tasks.clone(), stop.clone());
        async move {
            serve(listener, app, &options, &metrics, &Readiness::new(), &tasks, &stop).await;
        }
    });
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    while metrics.connections().timed_out.get() == 0 {
        tokio::task::yield_now().await;
    }
    stop.begin();
    served.await.unwrap();
    assert_eq!(metrics.connections().open.get(), 0);
}
