//! The shipped scenarios against the real server, both from the real binary:
//! every answer is right and every acknowledged write is there. It asserts
//! nothing about time, and a busy machine may make a run invalid without
//! making anything in it wrong.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const AGENTRY: &str = env!("CARGO_BIN_EXE_agentry");

struct Server {
    process: Child,
    url: String,
    key: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let mut process = Command::new(AGENTRY)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        let key = std::fs::read_to_string(data.join("owner.key")).unwrap().trim().to_owned();
        Self { process, url, key }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn report(server: &Server, scenario: &str, out: &Path) -> Value {
    let ran = Command::new(AGENTRY)
        .args(["lab", "run", scenario, "--profile", "ci", "--target", &server.url, "--out"])
        .arg(out)
        .env("AGENTRY_KEY", &server.key)
        .output()
        .unwrap();
    let talk = String::from_utf8_lossy(&ran.stderr);
    let text = std::fs::read_to_string(out.join("report.json")).expect(&talk);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        ran.status.code(),
        report["verdict"]["exit_code"].as_i64().map(|c| c as i32),
        "{talk}"
    );
    report
}

#[test]
fn shipped_scenarios_are_answered_without_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    for (scenario, requests) in [("agent_run", 40), ("session_queue", 60), ("full_api", 60)] {
        let out = dir.path().join(scenario);
        let report = report(&server, scenario, &out);
        assert_eq!(report["all"]["requests"], requests, "{scenario}: {report:#}");
        assert_eq!(report["errors"], serde_json::json!([]), "{scenario}");
        let audit = &report["acknowledged"];
        assert_eq!(audit["found"], audit["acknowledged"], "{scenario}: {audit}");
        assert!(audit["found"].as_u64().is_some_and(|found| found > 20), "{scenario}: {audit}");
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.len() < 2_000_000 && page.contains(scenario));
        assert!(!page.contains("src=") && !page.contains("<link"), "nothing from elsewhere");
        let run = std::fs::read_to_string(out.join("run.jsonl")).unwrap();
        assert!(!run.contains(&server.key), "a key is in no file");
    }
}

#[test]
fn without_a_key_every_request_fails_and_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    server.key = "ak_wrong".to_owned();
    let report = report(&server, "agent_run", &dir.path().join("out"));
    assert_eq!(report["errors"][0]["class"], "http_401");
    assert_eq!(report["errors"][0]["count"], 40);
    let broken = report["verdict"]["thresholds"].as_array().unwrap();
    assert!(broken.iter().all(|threshold| threshold["holds"] == false), "{broken:?}");
}
