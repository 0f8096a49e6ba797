//! A TCP proxy that passes bytes until it is told to break: connections are
//! cut, bytes stop flowing, new connections are closed at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use agentry_domain::tasks::Tasks;
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
    open: Arc<watch::Sender<usize>>,
    tasks: Tasks,
}

#[derive(Clone, Copy, Debug, Default)]
struct Control {
    /// Bytes wait where they are.
    stalled: bool,
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
        let open = Arc::new(watch::Sender::new(0));
        let tasks = Tasks::default();
        let (accepting, accepting_control, accepting_open) =
            (tasks.clone(), control.clone(), open.clone());
        tasks.spawn(async move {
            let stopping = accepting.stopping().clone();
            while let Some(Ok((client, _))) = stopping.run_until_cancelled(listener.accept()).await
            {
                if accepting_control.borrow().refusing {
                    continue;
                }
                let control = accepting_control.subscribe();
                let open = accepting_open.clone();
                let stopping = stopping.clone();
                accepting.spawn(async move {
                    open.send_modify(|open| *open += 1);
                    stopping.run_until_cancelled(pass(client, upstream, control)).await;
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { address, control, open, tasks }
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
        self.control.send_modify(|control| control.stalled = true);
    }

    /// Closes new connections as soon as they are made.
    pub fn refuse(&self) {
        self.control.send_modify(|control| control.refusing = true);
    }

    /// Passes bytes and connections again, those kept back first.
    pub fn resume(&self) {
        self.control.send_modify(|control| {
            control.stalled = false;
            control.refusing = false;
        });
    }

    /// Waits until exactly so many connections are open.
    pub async fn wait_open(&self, count: usize) {
        let mut open = self.open.subscribe();
        let waited = tokio::time::timeout(WAIT_MAX, open.wait_for(|open| *open == count)).await;
        assert!(waited.is_ok(), "waited in vain for {count} open connections");
    }
}

impl Drop for TcpChaos {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
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
            copy(&mut from_client, &mut to_server, up),
            copy(&mut from_server, &mut to_client, down),
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
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if control.wait_for(|control| !control.stalled).await.is_err() {
            break;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side may have gone already.
    let _ = to.shutdown().await;
}
