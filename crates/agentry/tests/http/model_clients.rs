//! The doubles of the providers' servers, held to the providers' own clients: what they
//! say is understood by whoever knows the protocol best. Our adapters are then held to
//! the doubles (`llm/tests`), so that one misreading cannot hide in both.

use std::process::Command;

use agentry_testkit::{Behaviour, Call, ModelServer};
use serde_json::{Value, json};

const KEY: &str = "sk-of-the-double";
const TEXT: &str = "Guten Morgen, liebe Welt ☃.";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/model_servers.py");

#[tokio::test]
async fn the_providers_own_clients_understand_the_doubles() {
    let python = std::env::var("AGENTRY_TEST_PYTHON")
        .expect("AGENTRY_TEST_PYTHON is not set: run `make test`, which makes the environment");
    let server = ModelServer::start().await;
    server.require_key(KEY);
    let calls = [
        Call::new("get_weather", json!({"city": "Bonn"})),
        Call::new("get_weather", json!({"city": "Köln"})),
    ];
    for _provider in 0..4 {
        server.next(Behaviour::text(TEXT));
        server.next(Behaviour::text(TEXT));
        server.next(Behaviour::calls(&calls));
        server.next(Behaviour::calls(&calls));
        server.next(Behaviour::text(TEXT));
        server.next(Behaviour::error(429, "slow down"));
        // Whoever shows a wrong key is refused whatever comes next.
        server.next(Behaviour::text(TEXT));
    }
    let mut command = Command::new(python);
    command.arg(SCRIPT).args([&server.root_url(), KEY]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(done, json!(["openai", "anthropic", "google", "ollama"]));
    assert_eq!(server.received().len(), 28);
}
