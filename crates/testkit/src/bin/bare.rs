//! The yardstick of the benches: axum answering `hello` and nothing else, with
//! the allocator and the runtime that `agentry serve` uses. What a request
//! costs here is what no server built on axum can save.
//!
//! `bare [ADDRESS]` listens there, by default on a free port of the loopback,
//! and says on stdout where.

use std::io::Write;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    axum::serve(listener, Router::new().route("/", get(|| async { "hello" }))).await
}
