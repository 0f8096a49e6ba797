//! The shipped scenarios against the real server, both from the real binary:
//! every answer is right and every acknowledged write is there. It asserts
//! nothing about time, and a busy machine may make a run invalid without
//! making anything in it wrong.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
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
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
        let mut server = Self::of(&arguments);
        let key = std::fs::read_to_string(data.join("owner.key")).unwrap();
        key.trim().clone_into(&mut server.key);
        server
    }

    /// Anything that says where it listens.
    fn of(arguments: &[&str]) -> Self {
        let mut process = Command::new(AGENTRY)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { process, url, key: String::new() }
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
    for (scenario, requests) in [
        ("agent_run", 40),
        ("session_queue", 60),
        ("full_api", 60),
        ("realtime", 116),
        ("graph", 508),
    ] {
        let out = dir.path().join(scenario);
        let report = report(&server, scenario, &out);
        assert_eq!(report["all"]["requests"], requests, "{scenario}: {report:#}");
        assert_eq!(report["errors"], serde_json::json!([]), "{scenario}");
        let audit = &report["acknowledged"];
        assert_eq!(audit["found"], audit["acknowledged"], "{scenario}: {audit}");
        assert!(audit["found"].as_u64().is_some_and(|found| found > 20), "{scenario}: {audit}");
        for row in report["endpoints"].as_array().unwrap() {
            if let Some(socket) = row["socket"].as_object() {
                let amiss = ["lost", "doubled", "reordered", "closed"].map(|name| &socket[name]);
                assert!(amiss.iter().all(|count| **count == 0), "{scenario}: {socket:?}");
                assert!(socket["reconnects"].as_u64().is_some_and(|count| count > 3), "{socket:?}");
            }
        }
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.len() < 2_000_000 && page.contains(scenario));
        assert!(!page.contains("src=") && !page.contains("<link"), "nothing from elsewhere");
        let run = std::fs::read_to_string(out.join("run.jsonl")).unwrap();
        assert!(!run.contains(&server.key), "a key is in no file");
    }
}

/// Five seconds of users who each work on what they made.
#[test]
fn agents_goals_and_tasks_keep_every_field_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let report = report(&server, "agents_goals_tasks", &dir.path().join("out"));
    assert_eq!(report["errors"], serde_json::json!([]), "{report:#}");
    let audit = &report["acknowledged"];
    let count = |name: &str| audit[name].as_u64().unwrap();
    assert!(count("found") > 50, "{audit}");
    for fault in ["lost", "changed", "undone", "unknown", "not_checked"] {
        assert_eq!(count(fault), 0, "{audit}");
    }
    assert_eq!(count("found") + count("gone"), count("acknowledged"), "{audit}");
    let rows = report["endpoints"].as_array().unwrap();
    let initial = rows.iter().find(|row| row["name"] == "setup.agent (initial)").unwrap();
    assert_eq!(initial["requests"], 33);
}

#[test]
fn a_sweep_runs_once_for_each_number_of_users_and_sums_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let out = dir.path().join("out");
    let ran = Command::new(AGENTRY)
        .args(["lab", "run", "agent_run", "--requests", "20", "--sweep", "1,3"])
        .args(["--target", &server.url, "--out"])
        .arg(&out)
        .env("AGENTRY_KEY", &server.key)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    let table: Vec<Vec<&str>> =
        text.lines().rev().take(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((table[1][0], table[1][1], table[0][0], table[0][1]), ("1", "20", "3", "20"));
    for users in [1, 3] {
        assert!(out.join(format!("c{users}/report.html")).is_file());
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

/// Exit code, stdout, stderr.
fn lab(args: &[&str]) -> (Option<i32>, String, String) {
    let ran = Command::new(AGENTRY).arg("lab").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
}

#[test]
fn what_cannot_be_run_says_why_and_exits_so() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.yaml");
    std::fs::write(&bad, "target: http://127.0.0.1:1\nmix:\n  a: {steps: [{get: x, wait: 1}]}\n")
        .unwrap();
    let bad = bad.to_str().unwrap();
    let (code, out, _) = lab(&["check", bad]);
    assert_eq!(code, Some(1));
    assert!(out.contains("bad.yaml:3:21: a path begins with `/`"), "{out}");
    assert!(out.contains("bad.yaml:3:24: `wait` is not known here"), "{out}");
    let (code, out, err) = lab(&["run", bad]);
    assert_eq!((code, out.as_str()), (Some(4), ""));
    assert!(err.contains("bad.yaml:3:21"), "{err}");

    assert_eq!(lab(&["check", "full_api"]).0, Some(0));
    let (code, _, err) = lab(&["run", "nowhere"]);
    assert!(code == Some(4) && err.contains("shipped scenarios are agent_run"), "{err}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, err) = lab(&["hit", &format!("http://{free}/")]);
    assert!(code == Some(4) && err.contains("cannot be reached"), "{err}");

    let figures = dir.path().join("figures.yaml");
    std::fs::write(
        &figures,
        "phases: [{name: peak, users: 200}]\nclaims: [{kind: projection, users: 1000}]\n",
    )
    .unwrap();
    let (code, out, _) = lab(&["audit", figures.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(out.starts_with("projection_beyond_data: 1000 users"), "{out}");
}

#[test]
fn stress_names_what_broke() {
    let mock = Server::of(&["lab", "mock", "--errors", "60%"]);
    let (code, out, err) =
        lab(&["stress", &mock.url, "--from", "100/s", "--step", "300ms", "--errors", "5%"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("it broke at 100/s:") && out.contains("% errors; no step held"), "{out}");
}

#[test]
fn calibration_holds_every_distribution_against_the_truth() {
    let (code, out, err) = lab(&["calibrate", "--duration", "300ms"]);
    // A busy machine is what it may find.
    assert!([Some(0), Some(4)].contains(&code), "{err}");
    assert_eq!(out.matches(", 300 requests\n").count(), 5, "{out}");
    assert_eq!(out.matches("measured").count(), 15, "{out}");
    assert!(out.contains("path: a client that"), "{out}");
    assert!(out.contains("of the generator's CPU a request"), "{out}");
}

/// A terminal of our own: what shows it, and the end for programs.
fn pty() -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let shows = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&shows).unwrap();
    unlockpt(&shows).unwrap();
    let size = rustix::termios::Winsize { ws_row: 30, ws_col: 110, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&shows, size).unwrap();
    let name = ptsname(&shows, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    (File::from(shows), terminal)
}

/// Starts the lab as a shell would, in the foreground of a terminal.
fn lab_on(terminal: &File, args: &[&str]) -> Child {
    let end = || Stdio::from(terminal.try_clone().unwrap());
    // The terminal becomes its own, so that a typed Ctrl-C is a signal to it.
    let mut command = Command::new("setsid");
    command.args(["--ctty", AGENTRY, "lab"]).args(args).env("TERM", "xterm-256color");
    command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
}

#[test]
fn a_terminal_shows_the_run_live_and_is_given_back_after_ctrl_c() {
    use rustix::termios::{LocalModes, tcgetattr};
    const LEAVES: &str = "\u{1b}[?1049l\u{1b}[?25h";
    let mock = Server::of(&["lab", "mock"]);
    for (twice, target) in [(false, "/"), (true, "/hang")] {
        let (mut shows, terminal) = pty();
        let modes = || {
            let now = tcgetattr(&terminal).unwrap();
            (now.local_modes, now.input_modes, now.output_modes)
        };
        let before = modes();
        assert!(before.0.contains(LocalModes::ECHO));
        let mut lab = lab_on(&terminal, &["hit", &format!("{}{target}", mock.url)]);
        // Whoever does not read what a terminal shows stops who writes to it.
        let (read, reads) = std::sync::mpsc::channel();
        let mut shown = shows.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = shown.read(&mut bytes) {
                if read.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        let mut seen = String::new();
        let mut until = |parts: &[&str]| {
            while !parts.iter().any(|part| seen.contains(part)) {
                seen.push_str(&reads.recv().unwrap());
            }
            seen.clone()
        };
        until(&["\u{1b}[?1049h"]);
        // The view of the first second.
        until(&["Ctrl-C"]);
        assert_ne!(modes(), before);
        shows.write_all(b"\x03").unwrap();
        // Two that come together are one signal.
        if twice && !until(&["ending", LEAVES]).contains(LEAVES) {
            shows.write_all(b"\x03").unwrap();
        }
        let last = if twice { LEAVES } else { "Times are of answers" };
        let seen = until(&[last]);
        let code = lab.wait().unwrap().code();
        assert_eq!(modes(), before, "{code:?}");
        let (_, after) = seen.rsplit_once(LEAVES).unwrap();
        // Twice ends at once, unless the requests under way ended before.
        assert!(if twice { [Some(130), Some(4)] } else { [Some(0), Some(4)] }.contains(&code));
        assert!(twice || after.contains("verdict: "), "{after}");
    }
}

/// The shell bounds the size of every file that the run writes.
#[test]
fn a_disk_that_fills_up_ends_the_file_and_not_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Server::of(&["lab", "mock"]);
    let out = dir.path().join("out");
    let ran = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh", AGENTRY, "lab", "hit"])
        .args([mock.url.as_str(), "--duration", "4s", "--concurrency", "2", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(4));
    let talk = String::from_utf8_lossy(&ran.stderr);
    assert!(talk.contains("what was written before stands"), "{talk}");
    let shown = String::from_utf8_lossy(&ran.stdout);
    assert!(shown.contains("requests in 4.0"), "{shown}");
    // What is on the disk is read up to its last whole line.
    let read = Command::new(AGENTRY)
        .args(["lab", "report"])
        .arg(&out)
        .arg("--out")
        .arg(dir.path().join("again"))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&read.stdout);
    assert!(shown.contains("it was killed"), "{shown}");
}
