//! A WebSocket client on a raw socket: it sends whatever bytes a test wants and
//! knows of RFC 6455 only how frames look.

use agentry_testkit::WAIT_MAX;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::server::Process;

/// The example of RFC 6455, section 1.3, and what has to be answered to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 15
    }

    /// The status code of a close frame.
    pub(crate) fn code(&self) -> Option<u16> {
        let bytes = self.payload.get(..2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

/// A masked frame with the shortest length.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(masked(payload));
    bytes
}

/// A whole message or control frame.
pub(crate) fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | opcode, payload)
}

pub(crate) fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

pub(crate) fn mask() -> [u8; 4] {
    MASK
}

/// The answer to a handshake.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// A client's end of a connection.
pub(crate) struct Socket {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Socket {
    /// Connects and sends the head of a request as it is.
    pub(crate) async fn request(url: &str, head: &str) -> (Self, Answer) {
        let address = url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        Self::of(stream).await
    }

    /// Reads the answer to a request that was sent.
    pub(crate) async fn of(stream: TcpStream) -> (Self, Answer) {
        let mut socket = Self { stream, read: Vec::new() };
        let end = loop {
            if let Some(end) = socket.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(socket.fill().await, "the connection ended before an answer");
        };
        let head = String::from_utf8(socket.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (socket, Answer { status, head })
    }

    /// The head of a handshake as it should be, with more headers.
    pub(crate) fn handshake(path: &str, headers: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\
             {headers}\r\n"
        )
    }

    /// Opens a WebSocket with the owner's key and reads `ready`.
    pub(crate) async fn open(process: &Process, path: &str) -> Self {
        Self::open_at(&process.url, &process.key, path).await.0
    }

    /// The same, and the place that `ready` names.
    pub(crate) async fn open_at(url: &str, key: &str, path: &str) -> (Self, i64) {
        let head = Self::handshake(path, &format!("X-API-Key: {key}\r\n"));
        let (mut socket, answer) = Self::request(url, &head).await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        let ready = socket.json().await;
        assert_eq!(ready["type"], "ready", "{ready}");
        (socket, ready["after"].as_i64().unwrap())
    }

    /// Opens a WebSocket when there is a server that lets it.
    pub(crate) async fn try_open(url: &str, key: &str, path: &str) -> Option<Self> {
        let mut stream = TcpStream::connect(url.strip_prefix("http://")?).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let head = Self::handshake(path, &format!("X-API-Key: {key}\r\n"));
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut socket = Self { stream, read: Vec::new() };
        let end = loop {
            if let Some(end) = socket.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if !socket.fill().await {
                return None;
            }
        };
        let head: Vec<u8> = socket.read.drain(..end).collect();
        head.starts_with(b"HTTP/1.1 101").then_some(socket)
    }

    async fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 * 1_024];
        match self.stream.read(&mut bytes).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.read.extend_from_slice(&bytes[..read]);
                true
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // A server that has closed resets; what it said before can still be read.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.send(&whole(TEXT, text.as_bytes())).await;
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        tokio::time::timeout(WAIT_MAX, self.frame_now()).await.expect("a frame comes in time")
    }

    /// The next frame, however long it takes.
    pub(crate) async fn frame_now(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, bytes)) = parse(&self.read) {
                self.read.drain(..bytes);
                return Some(frame);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next text, as JSON; pings of the server are left out.
    pub(crate) async fn json(&mut self) -> Value {
        loop {
            let frame = self.frame().await.expect("the connection is open");
            if frame.opcode() == PING {
                continue;
            }
            assert_eq!(frame.first, 0x80 | TEXT, "{frame:?}");
            return frame.json();
        }
    }

    /// Asks for a pong and gets it next: whatever had to come before has come.
    pub(crate) async fn pong(&mut self) {
        self.say("ping").await;
        assert_eq!(self.json().await["type"], "pong");
    }
}

/// A whole frame at the beginning, and how many bytes it has. A server must not
/// mask (RFC 6455, section 5.1).
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server's frame is not masked");
    let (length, begin) = match second {
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        127 => {
            let long: [u8; 8] = bytes.get(2..10)?.try_into().unwrap();
            (usize::try_from(u64::from_be_bytes(long)).unwrap(), 10)
        }
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(begin..begin + length)?.to_vec();
    Some((Frame { first, payload }, begin + length))
}
