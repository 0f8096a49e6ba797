//! What the binary prints and what lies in the repository are the same.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::Path;
use std::process::Command;

fn printed(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_agentry")).arg(command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn in_repository(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_openapi_document_is_current() {
    assert_eq!(
        in_repository("openapi.json"),
        printed("openapi"),
        "run `cargo run -p agentry -- openapi > openapi.json`"
    );
}

/// What the lint says that is meant to be: rule, place, and why.
const LINT_EXCEPTIONS: &[(&str, &str)] = &[
    // A WebSocket begins with 101; a 2xx would be a refusal that no client expects.
    ("operation-2xx-response", "#/paths/~1api~1v1~1ws~1events/get/responses"),
    ("operation-2xx-response", "#/paths/~1api~1v1~1ws~1events~1filtered/get/responses"),
];

#[test]
fn the_openapi_document_keeps_the_recommended_rules() {
    let script = std::env::var("AGENTRY_TEST_REDOCLY")
        .expect("AGENTRY_TEST_REDOCLY is not set: run `make test`, which installs the lint");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("openapi.json"), printed("openapi")).unwrap();
    let output = Command::new("node")
        .arg(script)
        .args(["lint", "openapi.json", "--extends", "recommended", "--format", "json"])
        .args(["--max-problems", "1000"])
        .env("REDOCLY_TELEMETRY", "off")
        .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value = said
        .find('{')
        .and_then(|start| serde_json::Deserializer::from_str(&said[start..]).into_iter().next())
        .unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
        .unwrap();
    let problems = report["problems"].as_array().expect("the lint lists its problems");
    let mut found: Vec<(&str, &str, &str)> = problems
        .iter()
        .map(|problem| {
            let place = problem["location"][0]["pointer"].as_str().unwrap();
            (problem["ruleId"].as_str().unwrap(), place, problem["message"].as_str().unwrap())
        })
        .collect();
    found.retain(|(rule, place, _)| !LINT_EXCEPTIONS.contains(&(*rule, *place)));
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(problems.len(), LINT_EXCEPTIONS.len(), "an exception is no longer needed");
}

#[test]
fn the_printed_settings_are_the_default_file() {
    assert_eq!(in_repository("config.default.toml"), printed("settings"));
}
