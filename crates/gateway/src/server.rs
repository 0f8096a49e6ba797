//! The accept loop: bounded connections, HTTP/1.1 with keep-alive or HTTP/2 by
//! prior knowledge, and a stop that finishes what was begun. Signals belong to
//! the binary; it holds the [`Stop`].

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Write as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agentry_domain::background::Tasks;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use http::{HeaderValue, Request, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::address::Peer;
use crate::app::App;
use crate::metrics::{ConnectionMetrics, Metrics};
use crate::readiness::Readiness;
use crate::socket::{Activity, InRequest, Patience, Socket, Watch};

/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: usize = 64 * 1_024;
/// Requests at once on one HTTP/2 connection at most.
const HTTP2_STREAMS_MAX: u32 = 250;
/// Streams that a client opened and reset before they were taken up, on one
/// connection, until it is closed: a burst of them is an attack.
const HTTP2_RESETS_PENDING_MAX: usize = 20;
/// Streams that we had to reset on one connection, until it is closed.
const HTTP2_RESETS_LOCAL_MAX: usize = 200;
/// The wait after an accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Looks per time-out at a connection's activity: a time-out is exact to a
/// quarter of itself.
const LOOKS_PER_TIMEOUT: u32 = 4;
/// What a connection too many is told.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 0\r\n\r\n";

/// The bounds of the accept loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// Connections open at once at most; more are answered 503 and closed.
    pub connections_max: usize,
    /// How long a request's head may take.
    pub header_read_within: Duration,
    /// How long a peer may leave an answer unread.
    pub write_stall_max: Duration,
    /// How long a connection may do nothing between requests.
    pub idle_max: Duration,
    /// How long the server still accepts after readiness went off, for balancers
    /// that need time to see it.
    pub notice: Duration,
    /// How long requests under way may take to finish once the server stops.
    pub drain_max: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 8_192,
            header_read_within: Duration::from_secs(10),
            write_stall_max: Duration::from_secs(30),
            idle_max: Duration::from_secs(120),
            notice: Duration::ZERO,
            drain_max: Duration::from_secs(30),
        }
    }
}

/// Ends the server. Clones end the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    drain: CancellationToken,
    /// Cancelled when nothing more is accepted: connections end with what they have begun.
    finish: CancellationToken,
    part: CancellationToken,
    close: CancellationToken,
}

impl Stop {
    /// A server that goes on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that the server stops: after its notice it accepts nothing more and lets
    /// requests under way finish.
    pub fn begin(&self) {
        self.drain.cancel();
    }

    /// Closes everything at once.
    pub fn now(&self) {
        self.drain.cancel();
        self.finish.cancel();
        self.part.cancel();
        self.close.cancel();
    }

    /// Cancelled when the server begins to stop, for whatever goes on until then.
    pub fn closing(&self) -> CancellationToken {
        self.drain.child_token()
    }

    /// Cancelled soon before connections that have not finished are closed, for
    /// streams whose clients can be told to come back.
    pub fn parting(&self) -> CancellationToken {
        self.part.child_token()
    }

    /// Waits until the server begins to stop.
    pub async fn begun(&self) {
        self.drain.cancelled().await;
    }
}

/// Serves until `stop`, then returns when every connection is closed: by itself,
/// or by force after `drain_max`. Every task is spawned through `tasks`.
pub async fn serve(
    listener: TcpListener,
    app: App,
    options: &ServeOptions,
    metrics: &Metrics,
    readiness: &Readiness,
    tasks: &Tasks,
    stop: &Stop,
) {
    let places = Arc::new(Semaphore::new(options.connections_max));
    let server = Server {
        app,
        builder: Arc::new(builder(tasks)),
        patience: Patience {
            header_read: options.header_read_within,
            write_stall: options.write_stall_max,
            idle: options.idle_max,
        },
        metrics: metrics.connections().clone(),
        stop: stop.clone(),
    };
    {
        let mut accepting = pin!(server.accept(&listener, &places, tasks));
        tokio::select! {
            () = &mut accepting => {}
            () = stop.begun() => {}
        }
        readiness.stopping();
        tokio::select! {
            () = &mut accepting => {}
            () = tokio::time::sleep(options.notice) => {}
            () = stop.close.cancelled() => {}
        }
    }
    drop(listener);
    // Not before: a connection that is told to end takes no request any more, also one
    // that was just made.
    stop.finish.cancel();
    server.finish(&places, options).await;
}

struct Server {
    app: App,
    builder: Arc<Builder<Spawner>>,
    patience: Patience,
    metrics: ConnectionMetrics,
    stop: Stop,
}

impl Server {
    /// Accepts for ever.
    async fn accept(&self, listener: &TcpListener, places: &Arc<Semaphore>, tasks: &Tasks) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // A peer that went away again says nothing about us; running
                    // out of descriptors does, and spinning would not help.
                    if !is_of_the_peer(&error) {
                        tracing::error!(%error, "cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                self.metrics.refused.inc();
                refuse(stream);
                continue;
            };
            self.metrics.accepted.inc();
            let place = Place::new(place, &self.metrics);
            tasks.spawn(self.connection(stream, Peer(peer), place));
        }
    }

    /// Serves one connection until it ends.
    fn connection(
        &self,
        stream: TcpStream,
        peer: Peer,
        place: Place,
    ) -> impl Future<Output = ()> + Send + 'static {
        let activity = Activity::new();
        let service = ConnectionService {
            app: self.app.clone(),
            activity: Arc::clone(&activity),
            place: place.clone(),
            peer,
        };
        let builder = Arc::clone(&self.builder);
        let patience = self.patience;
        let metrics = self.metrics.clone();
        // A token of its own: waiting on the shared one would have every poll of
        // every connection take the same lock.
        let finish = self.stop.finish.child_token();
        let close = self.stop.close.child_token();
        async move {
            let _place = place;
            // Without it a small answer waits for the peer's delayed
            // acknowledgement; when it cannot be set the answer is only slower.
            let _ = stream.set_nodelay(true);
            let socket = TokioIo::new(Socket::new(stream, Arc::clone(&activity)));
            let mut connection = pin!(builder.serve_connection_with_upgrades(socket, service));
            let mut given_up = pin!(give_up(&activity, patience));
            tokio::select! {
                biased;
                // How a connection ends, well or not, is its peer's business.
                _ = connection.as_mut() => return,
                () = finish.cancelled() => {}
                () = given_up.as_mut() => {
                    metrics.timed_out.inc();
                    return;
                }
            }
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                _ = connection.as_mut() => {}
                () = close.cancelled() => {}
                () = given_up => {
                    metrics.timed_out.inc();
                }
            }
        }
    }

    /// Waits for the open connections, by force at the end of the bound.
    async fn finish(&self, places: &Semaphore, options: &ServeOptions) {
        let all = u32::try_from(options.connections_max).unwrap_or(u32::MAX);
        let drain_max = async {
            tokio::time::sleep(options.drain_max * 3 / 4).await;
            self.stop.part.cancel();
            tokio::time::sleep(options.drain_max / 4).await;
        };
        let drained = tokio::select! {
            _ = places.acquire_many(all) => true,
            () = drain_max => false,
            () = self.stop.close.cancelled() => false,
        };
        if drained {
            return;
        }
        let open = options.connections_max - places.available_permits();
        tracing::warn!(open, "closing connections that did not finish in time");
        self.stop.close.cancel();
        let _ = places.acquire_many(all).await;
    }
}

/// A connection's place among those that may be open. It is counted until the
/// last clone is dropped: a connection that became a WebSocket is one still.
#[derive(Clone)]
pub(crate) struct Place {
    _held: Arc<OpenConnection>,
}

struct OpenConnection {
    metrics: ConnectionMetrics,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, metrics: &ConnectionMetrics) -> Self {
        metrics.open.inc();
        Self { _held: Arc::new(OpenConnection { metrics: metrics.clone(), _permit: permit }) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.open.dec();
    }
}

/// Returns when the peer has had its time.
async fn give_up(activity: &Activity, patience: Patience) {
    let shortest = patience.header_read.min(patience.write_stall).min(patience.idle);
    let tick = (shortest / LOOKS_PER_TIMEOUT).max(Duration::from_millis(1));
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    ticks.tick().await;
    let mut watch = Watch::default();
    loop {
        ticks.tick().await;
        if let Some(why) = watch.look(activity, tick, patience) {
            tracing::debug!(?why, "connection given up");
            return;
        }
    }
}

fn builder(tasks: &Tasks) -> Builder<Spawner> {
    let mut builder = Builder::new(Spawner(tasks.clone()));
    // The connection's own watch replaces this time-out; see socket.rs.
    builder.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_LOCAL_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX));
    builder
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// Tells a connection too many that it is one, without waiting for it: the few
/// bytes fit the empty send buffer, and a peer that cannot take them finds the
/// connection closed.
fn refuse(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(REFUSAL);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

/// Spawns hyper's HTTP/2 streams where every task is spawned.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// The application as one connection sees it.
struct ConnectionService {
    app: App,
    activity: Arc<Activity>,
    place: Place,
    peer: Peer,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        request.extensions_mut().insert(self.peer);
        let upgrades = request.headers().contains_key(header::UPGRADE);
        if upgrades {
            request.extensions_mut().insert(self.place.clone());
        }
        let in_request = self.activity.request(request.version() == Version::HTTP_2);
        Answering { future: self.app.clone().call(request), upgrades, _in_request: in_request }
    }
}

pin_project_lite::pin_project! {
    /// An answer being made, which keeps its connection from being idle.
    struct Answering {
        #[pin]
        future: RouteFuture<Infallible>,
        upgrades: bool,
        _in_request: InRequest,
    }
}

impl Future for Answering {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = std::task::ready!(this.future.poll(cx));
        // What follows a request for a WebSocket is not looked at, so that nothing
        // may follow one that is refused.
        if *this.upgrades
            && let Ok(response) = &mut answer
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests;
