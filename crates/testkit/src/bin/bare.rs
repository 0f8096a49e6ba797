//! The yardstick of the benches: axum answering `hello` and nothing else, with
//! the allocator and the runtime that `agentry serve` uses. What a request
//! costs here is what no server built on axum can save. Load generators are
//! held against each other with it too; for their scenarios `/items` and
//! `/items/{id}` answer an item that never varies.
//!
//! `bare [ADDRESS]` listens there, by default on a free port of the loopback,
//! and says on stdout where.

use std::io::Write;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ITEM: &str = r#"{"id":"0199f3a2-7c11-7d2e-8f4b-2a6f3c9d1e57","success":true,"name":"item"}"#;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    let item = || async { ([(CONTENT_TYPE, "application/json")], ITEM) };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/items", post(item))
        .route("/items/{id}", get(item));
    axum::serve(listener, router).await
}
