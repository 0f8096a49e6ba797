//! What tests need from the world, real enough to be wrong in real ways: a
//! model server on a socket, an identity provider, a TCP proxy that breaks connections, a database, a
//! clock that moves when told, directories that go away. For tests only;
//! everything here panics with a reason when it cannot do its part.

mod fixtures;
pub mod identity_provider;
mod model_server;
pub mod postgres;
mod tcp_chaos;
pub mod trace_sink;

pub use fixtures::{ManualClock, TempDir};
pub use model_server::{
    Answer, Behaviour, Call, Chunking, Embedding, End, Maker, ModelServer, Protocol, Received,
};
pub use tcp_chaos::TcpChaos;

use std::time::Duration;

/// How long a test waits for a condition before it fails: far longer than any
/// condition takes on a busy machine.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// An MCP server for Python, over pipes or HTTP, that behaves as badly as a test asks
/// for; its head says how it is started.
pub const MCP_SERVER_PY: &str = include_str!("mcp_server.py");
