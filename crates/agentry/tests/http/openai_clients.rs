//! OpenAI's own clients for Python and Node.js against the OpenAI surface: what they
//! can do with chat completions, responses and conversations, and the error of each
//! kind as they raise it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agentry_testkit::{Answer, Behaviour, Chunking, ModelServer};
use serde_json::Value;

use crate::on_both_engines;
use crate::server::{Engine, Server};

on_both_engines! {
    the_python_client_does_what_it_can,
    the_node_client_does_what_it_can,
}

fn clients() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"))
}

fn of_environment(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `make test`, which makes it"))
}

/// A model that obliges, a slow one, and the server.
async fn run(engine: Engine, program: String, script: &str, more: &[String]) -> Vec<Value> {
    let (model, slow) = (ModelServer::start().await, ModelServer::start().await);
    model.by_default(Behaviour::new(Answer::Obliging));
    let chunking = Chunking { token_chars: 1, ..Chunking::default() };
    let write_delay = Duration::from_millis(30);
    slow.by_default(Behaviour { chunking, write_delay, ..Behaviour::new(Answer::Echo) });
    let (near, far) = (model.base_url(), slow.base_url());
    let settings = [
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", near.as_str()),
        ("AGENTRY_PROVIDERS__SLOW__BASE_URL", far.as_str()),
        // Each failure is asked for once.
        ("AGENTRY_OUTBOUND__RETRIES_MAX", "0"),
    ];
    let server = Server::start_with(engine, &settings).await;
    let mut command = Command::new(program);
    command.arg(clients().join(script)).args([&server.url, &server.key]);
    command.args(["compatible/near/m", "compatible/slow/m"]).args(more);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stderr), output.stdout);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&told).unwrap_or_else(|_| panic!("{said}"))
}

async fn the_python_client_does_what_it_can(engine: Engine) {
    let python = of_environment("AGENTRY_TEST_PYTHON");
    let done = run(engine, python, "openai_surface.py", &[]).await;
    assert_eq!(done.len(), 18, "{done:?}");
}

async fn the_node_client_does_what_it_can(engine: Engine) {
    let sdk = [of_environment("AGENTRY_TEST_OPENAI_NODE")];
    let done = run(engine, "node".to_owned(), "openai_surface.mjs", &sdk).await;
    assert_eq!(done.len(), 12, "{done:?}");
}
