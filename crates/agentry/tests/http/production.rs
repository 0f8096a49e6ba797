//! `agentry doctor --production`: what is missing is said, with its command.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::server::{Engine, Home, Process};

fn examined(home: &Home, environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentry"));
    command.args(["doctor", "--production"]).args(&home.arguments("")[1..]);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said_with_its_command() {
    let home = Home::new(Engine::Sqlite).await;
    Process::start(&home).kill();
    let private = PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(home.data.path(), private).unwrap();
    let fit = [("AGENTRY_HTTP__CONNECTIONS_MAX", "16"), ("AGENTRY_LOG_FORMAT", "json")];
    let (holds, said) = examined(&home, &fit);
    assert!(holds && said.ends_with("17 things, 0 missing, 0 advised\n"), "{said}");
    // Each thing has its command.
    assert_eq!(said.matches("\n          $ ").count(), 17, "{said}");
    let with = |more: &[(&'static str, &'static str)]| [&fit, more].concat();
    for (settings, missing) in [
        (with(&[("AGENTRY_AUTH", "none")]), "MISSING  requests show a key"),
        (
            with(&[("AGENTRY_HTTP__CONNECTIONS_MAX", "1000000000")]),
            "MISSING  there is a descriptor",
        ),
        (
            with(&[("AGENTRY_OUTBOUND__LOOPBACK_TARGETS_ALLOWED", "true")]),
            "MISSING  calls to this machine's own addresses",
        ),
        (
            with(&[("AGENTRY_DATABASE", "postgres://a@db.example/a?sslmode=disable")]),
            "MISSING  the connection to PostgreSQL is encrypted",
        ),
    ] {
        let (holds, said) = examined(&home, &settings);
        assert!(!holds && said.contains(missing), "{settings:?}: {said}");
    }
    for (settings, advised) in [
        (with(&[("AGENTRY_LOG_FORMAT", "text")]), "ADVISED  the log is for programs"),
        (with(&[("AGENTRY_LISTEN", "0.0.0.0:80")]), "ADVISED  a proxy that speaks TLS"),
        (
            with(&[("AGENTRY_LIMITS__STANDARD__KEY_PER_MINUTE", "0")]),
            "ADVISED  callers are limited",
        ),
        (
            with(&[("AGENTRY_HTTP__AUTH_FAILURES_PER_MINUTE", "0")]),
            "ADVISED  wrong credentials are limited",
        ),
    ] {
        let (holds, said) = examined(&home, &settings);
        assert!(holds && said.contains(advised), "{settings:?}: {said}");
    }
    for name in ["owner.key", "sealing.key"] {
        let path = home.data.path().join(name);
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o644);
        let (holds, said) = examined(&home, &fit);
        assert!(!holds && said.contains("has the mode 644"), "{name}: {said}");
        assert!(said.contains(&format!("/{name}\n")), "{said}");
        mode(0o600);
    }
}
