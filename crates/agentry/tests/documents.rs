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

#[test]
fn the_printed_settings_are_the_default_file() {
    assert_eq!(in_repository("config.default.toml"), printed("settings"));
}
