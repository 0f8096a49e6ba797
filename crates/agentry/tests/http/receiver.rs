//! A receiver of webhooks, over a bare socket: it keeps what it gets and answers
//! as it is told to, also as no good receiver would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use agentry_testkit::WAIT_MAX;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::server::wait_until;

/// How it answers.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// With this status, after a while.
    Status(u16, Duration),
    /// Not at all.
    Hang,
    /// With a redirect to there.
    Redirect(String),
    /// With 200 and a gigabyte.
    Gigabyte,
}

/// A delivery as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Delivered {
    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The type of an event; the kind of message otherwise.
    pub(crate) fn event_type(&self) -> String {
        let json = self.json();
        let kind = if json["type"] == "event" { &json["event_type"] } else { &json["type"] };
        kind.as_str().unwrap().to_owned()
    }
}

struct State {
    behaviour: Mutex<Behaviour>,
    delivered: Mutex<Vec<Delivered>>,
    connections: AtomicUsize,
    bytes_sent: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            behaviour: Mutex::new(Behaviour::Status(204, Duration::ZERO)),
            delivered: Mutex::default(),
            connections: AtomicUsize::new(0),
            bytes_sent: AtomicU64::new(0),
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let _ = serve(socket, &state).await;
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock() = behaviour;
    }

    pub(crate) fn answer(&self, status: u16) {
        self.behave(Behaviour::Status(status, Duration::ZERO));
    }

    pub(crate) fn delivered(&self) -> Vec<Delivered> {
        self.state.delivered.lock().clone()
    }

    pub(crate) fn forget(&self) {
        self.state.delivered.lock().clear();
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.state.bytes_sent.load(Ordering::SeqCst)
    }

    /// Waits for so many deliveries; all that arrived until then.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Delivered> {
        wait_until(|| async { self.state.delivered.lock().len() >= count }).await;
        self.delivered()
    }
}

async fn serve(socket: TcpStream, state: &State) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            socket.read_line(&mut line).await?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await?;
        let body = String::from_utf8(body).unwrap();
        state.delivered.lock().push(Delivered { path, headers, body });
        let behaviour = state.behaviour.lock().clone();
        match behaviour {
            Behaviour::Status(status, after) => {
                tokio::time::sleep(after).await;
                let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\n\r\n");
                socket.write_all(answer.as_bytes()).await?;
            }
            Behaviour::Hang => tokio::time::sleep(WAIT_MAX * 10).await,
            Behaviour::Redirect(to) => {
                let answer =
                    format!("HTTP/1.1 307 There\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
                socket.write_all(answer.as_bytes()).await?;
            }
            Behaviour::Gigabyte => {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await?;
                let piece = vec![b'x'; 65_536];
                for _ in 0..16_384 {
                    socket.write_all(&piece).await?;
                    state.bytes_sent.fetch_add(65_536, Ordering::SeqCst);
                }
            }
        }
    }
}
