//! A TCP proxy that passes bytes until it is told to break: connections are
//! cut, bytes stop flowing, new connections are closed at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use agentry_domain::background::Tasks;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::WAIT_MAX;

const BUFFER_BYTES: usize = 16 * 1024;

/// The proxy. It stops when dropped.
#[derive(Debug)]
pub struct TcpChaos {
    address: SocketAddr,
    control: Arc<watch::Sender<Control>>,
    counts: Arc<watch::Sender<Counts>>,
    tasks: Tasks,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    made: usize,
    open: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Control {
    /// What clients send waits where it is.
    requests_stalled: bool,
    /// What servers send waits where it is.
    answers_stalled: bool,
    /// New connections are closed.
    refusing: bool,
    /// Connections of an earlier generation are cut.
    generation: u64,
}

impl TcpChaos {
    /// Starts one on a free port of the loopback, in front of `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port is found");
        let address = listener.local_addr().expect("a bound socket has an address");
        let control = Arc::new(watch::Sender::new(Control::default()));
        let counts = Arc::new(watch::Sender::new(Counts::default()));
        let tasks = Tasks::default();
        tasks.spawn(accept(listener, upstream, control.clone(), counts.clone(), tasks.clone()));
        Self { address, control, counts, tasks }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, in the middle of whatever it carries.
    pub fn cut(&self) {
        self.control.send_modify(|control| control.generation += 1);
    }

    /// Keeps every byte back, in both directions.
    pub fn stall(&self) {
        self.control.send_modify(|control| {
            control.requests_stalled = true;
            control.answers_stalled = true;
        });
    }

    /// Keeps back what servers send; they hear everything.
    pub fn stall_answers(&self) {
        self.control.send_modify(|control| control.answers_stalled = true);
    }

    /// Closes new connections as soon as they are made.
    pub fn refuse(&self) {
        self.control.send_modify(|control| control.refusing = true);
    }

    /// Passes bytes and connections again, those kept back first.
    pub fn resume(&self) {
        self.control.send_modify(|control| {
            control.requests_stalled = false;
            control.answers_stalled = false;
            control.refusing = false;
        });
    }

    /// How many connections were passed on since the start.
    pub fn connections_made(&self) -> usize {
        self.counts.borrow().made
    }

    /// Waits until exactly so many connections are open.
    pub async fn wait_open(&self, count: usize) {
        let mut counts = self.counts.subscribe();
        let waiting = counts.wait_for(|counts| counts.open == count);
        let waited = tokio::time::timeout(WAIT_MAX, waiting).await.is_ok();
        assert!(waited, "waited in vain for {count} open connections");
    }
}

impl Drop for TcpChaos {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    control: Arc<watch::Sender<Control>>,
    counts: Arc<watch::Sender<Counts>>,
    tasks: Tasks,
) {
    let stopping = tasks.stopping().clone();
    while let Some(Ok((client, _))) = stopping.run_until_cancelled(listener.accept()).await {
        if control.borrow().refusing {
            continue;
        }
        let (control, counts, stopping) = (control.subscribe(), counts.clone(), stopping.clone());
        counts.send_modify(|counts| {
            counts.made += 1;
            counts.open += 1;
        });
        tasks.spawn(async move {
            stopping.run_until_cancelled(pass(client, upstream, control)).await;
            counts.send_modify(|counts| counts.open -= 1);
        });
    }
}

/// Passes bytes both ways until either side ends or the connection is cut.
async fn pass(mut client: TcpStream, upstream: SocketAddr, mut control: watch::Receiver<Control>) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let generation = control.borrow().generation;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let (up, down) = (control.clone(), control.clone());
    let both = async {
        // A side that has finished sending may still be answered.
        tokio::join!(
            copy(&mut from_client, &mut to_server, up, |control| control.requests_stalled),
            copy(&mut from_server, &mut to_client, down, |control| control.answers_stalled),
        );
    };
    tokio::select! {
        () = both => {}
        _ = control.wait_for(|control| control.generation != generation) => {}
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut control: watch::Receiver<Control>,
    is_stalled: fn(&Control) -> bool,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if control.wait_for(|control| !is_stalled(control)).await.is_err() {
            break;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side may have gone already.
    let _ = to.shutdown().await;
}
