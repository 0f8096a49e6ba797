//! Disks that fail and disks that are full (SQLite). While the disk is broken,
//! writes are answered 507 `storage_full` or 503 `storage_unavailable` with
//! Retry-After, and reads go on; once it is well, writes succeed without a
//! restart, runs that were under way end, and everything acknowledged is there,
//! also when the process is killed in between.
//!
//! The shim `failsync` fails syncs and writes with one error or another. A disk
//! that really is full is a small tmpfs; where mounting is not allowed, that
//! test says so and the shim's ENOSPC is the test of a full disk.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentry_testkit::{Behaviour, ModelServer, TempDir, WAIT_MAX};
use futures::future::{join, join_all};
use reqwest::StatusCode;
use serde_json::json;

use crate::client::{Client, Outcome, Target};
use crate::home::{copy_of, database_in, shim};
use crate::invariants::faults_on_sqlite;
use crate::kill::{QUIET, Tally, at_rest, compare};
use crate::ledger::faults;
use crate::seed;
use crate::server::{Engine, Home, Process};
use crate::world::World;

const CLIENTS: usize = 8;
/// What each client does while the disk is well, and what it tries while not.
const DEEDS_WELL: usize = 8;
const DEEDS_BROKEN: usize = 4;
/// What is broken, in turn.
const BREAKS: &[&str] = &[
    "fsync EIO",
    "write ENOSPC",
    "fsync ENOSPC",
    "write EIO",
    "write ENOSPC\nfsync EIO",
    "fsync EDQUOT",
];

/// The file that tells the shim what to break.
struct Control {
    beside: TempDir,
}

impl Control {
    fn path(&self) -> PathBuf {
        self.beside.path().join("control")
    }

    fn say(&self, what: &str) {
        let unfinished = self.beside.path().join("unfinished");
        std::fs::write(&unfinished, format!("{what}\n")).unwrap();
        std::fs::rename(unfinished, self.path()).unwrap();
    }
}

fn is_said(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused { status, code, retry_after } => {
            let known = [
                (StatusCode::INSUFFICIENT_STORAGE, "storage_full"),
                (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable"),
            ];
            *retry_after && known.contains(&(*status, code.as_str()))
        }
        Outcome::Acknowledged | Outcome::Lost => false,
    }
}

fn is_coded(outcome: &Outcome, expected: &str) -> bool {
    matches!(outcome, Outcome::Refused { code, .. } if code == expected)
}

/// Every client acts so often at once with the others.
async fn all_act(clients: &mut [Client], target: &Target, deeds: usize) -> Vec<Outcome> {
    let acting = clients.iter_mut().map(async |client| {
        let mut outcomes = Vec::new();
        for _ in 0..deeds {
            outcomes.push(client.act(target).await);
        }
        outcomes
    });
    join_all(acting).await.into_iter().flatten().collect()
}

async fn writes_again(client: &mut Client, target: &Target) {
    let again = async { while client.create_agent(target).await != Outcome::Acknowledged {} };
    tokio::time::timeout(WAIT_MAX, again).await.expect("writes succeed again in time");
}

async fn faults_now(server: &Process, clients: &[Client]) -> Vec<String> {
    let things: Vec<_> = clients.iter().map(|client| client.things.clone()).collect();
    faults(&things, &World::of_server(server).await, &|_| true)
}

fn none(faults: &[String], when: &str) {
    assert!(faults.is_empty(), "{when}:\n{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_is_said_and_nothing_acknowledged_is_lost() {
    let home = Home::new(Engine::Sqlite).await;
    let control = Control { beside: TempDir::new() };
    control.say("");
    let model = ModelServer::start().await;
    model.by_default(Behaviour::text("said while the disk was broken"));
    let (preload, file, url) = (shim("failsync"), control.path(), model.base_url());
    let environment = [
        ("LD_PRELOAD", preload.as_str()),
        ("FAILSYNC_DIR", home.data.path().to_str().unwrap()),
        ("FAILSYNC_CONTROL", file.to_str().unwrap()),
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str()),
        QUIET,
    ];
    let mut server = Process::start_with(&home, &environment);
    let (status, held_by) =
        server.post("/api/v1/agents", json!({"name": "held", "model": "compatible/near/m"})).await;
    assert_eq!(status, StatusCode::CREATED);
    let path = format!("/api/v1/agents/{}/runs", held_by["id"].as_str().unwrap());
    let mut clients = Client::several(CLIENTS, seed());
    let mut tally = Tally::default();
    for (nth, what) in BREAKS.iter().chain(BREAKS).enumerate() {
        let target = Target::of(&server);
        let outcomes = all_act(&mut clients, &target, DEEDS_WELL).await;
        let refused = outcomes.iter().find(|outcome| **outcome != Outcome::Acknowledged);
        assert_eq!(refused, None, "before {what}");

        model.hold();
        let broken = async {
            model.wait_held(1).await;
            control.say(what);
            let outcomes = all_act(&mut clients, &target, DEEDS_BROKEN).await;
            // A sync that finds no room says so too late to be sure of anything.
            let code = if what.starts_with("write ENOSPC") {
                "storage_full"
            } else {
                "storage_unavailable"
            };
            for outcome in outcomes {
                assert!(is_said(&outcome) && is_coded(&outcome, code), "{what}: {outcome:?}");
            }
            none(&faults_now(&server, &clients).await, &format!("while {what}"));
            model.release();
        };
        let (held, ()) = join(server.post(&path, json!({"message": "wait"})), broken).await;
        assert!(held.0.is_server_error(), "a run whose end is not on disk: {held:?}");

        // Every other time the process is killed before the disk is well: what
        // it failed to commit may be in the log of writes, whole or in part.
        if nth % 2 == 1 {
            server.kill();
            control.say("");
            none(&faults_on_sqlite(&database_in(copy_of(home.data.path()).path())), what);
            server = Process::start_with(&home, &environment);
        }
        control.say("");
        writes_again(&mut clients[0], &Target::of(&server)).await;
        at_rest(&server).await;
        compare(&server, &mut clients, &mut tally, &format!("after {what}")).await;
    }
    server.kill();
    none(&faults_on_sqlite(&database_in(copy_of(home.data.path()).path())), "at the end");
    let server = Process::start_with(&home, &environment);
    compare(&server, &mut clients, &mut tally, "after the last start").await;
}

/// A file system in memory, of a size, over a directory.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    const SIZE: &'static str = "size=48m";
    const SIZE_GROWN: &'static str = "remount,size=256m";

    fn mount(dir: &'a Path) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", Self::SIZE, "tmpfs"]).arg(dir);
        command.status().is_ok_and(|status| status.success()).then_some(Self(dir))
    }

    /// What an administrator does about a full disk.
    fn grow(&self) {
        let mut command = Command::new("mount");
        let grown = command.args(["-o", Self::SIZE_GROWN]).arg(self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Lazily: a process that was killed may not be gone altogether.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// Takes all the room there is.
fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    let piece = [0; 64 << 10];
    while file.write_all(&piece).is_ok() {}
}

/// Makes agents until there is no room: the log of writes may have some left.
async fn until_refused(client: &mut Client, target: &Target) {
    /// More than fit.
    const AGENTS_MAX: usize = 2_000;
    for _ in 0..AGENTS_MAX {
        let outcome = client.create_agent(target).await;
        if outcome != Outcome::Acknowledged {
            assert!(is_said(&outcome), "{outcome:?}");
            return;
        }
    }
    panic!("the disk never was full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_nothing_acknowledged_is_lost() {
    /// Large, so that the disk is full soon.
    const INSTRUCTIONS_BYTES: usize = 510_000;
    let home = Home::new(Engine::Sqlite).await;
    let Some(small) = Small::mount(home.data.path()) else {
        eprintln!("mounting is not allowed here; the shim's ENOSPC is the test of a full disk");
        return;
    };
    let mut server = Process::start_with(&home, &[QUIET]);
    let mut clients = Client::several(CLIENTS, seed());
    let mut tally = Tally::default();

    // Somebody else takes all the room, and gives it back.
    let ballast = home.data.path().join("ballast");
    for round in 0..4 {
        let target = Target::of(&server);
        let outcomes = all_act(&mut clients, &target, DEEDS_WELL).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Acknowledged), "{outcomes:?}");
        fill(&ballast);
        until_refused(&mut clients[0], &target).await;
        let outcomes = all_act(&mut clients, &target, DEEDS_BROKEN).await;
        let strange = outcomes.iter().find(|it| !is_said(it) && **it != Outcome::Acknowledged);
        let strange = strange.filter(|it| !is_conflict(it));
        assert_eq!(strange, None, "round {round}");
        none(&faults_now(&server, &clients).await, "while the disk is full");
        if round % 2 == 0 {
            std::fs::remove_file(&ballast).unwrap();
        } else {
            server.kill();
            std::fs::remove_file(&ballast).unwrap();
            none(&faults_on_sqlite(&database_in(copy_of(home.data.path()).path())), "full");
            server = Process::start_with(&home, &[QUIET]);
        }
        writes_again(&mut clients[0], &Target::of(&server)).await;
        at_rest(&server).await;
        compare(&server, &mut clients, &mut tally, &format!("after full round {round}")).await;
    }

    // The database itself takes all the room: its log of writes cannot be
    // written back any more, and then not grow.
    let mut large = Client::new("large", seed()).with_instructions(INSTRUCTIONS_BYTES);
    let target = Target::of(&server);
    until_refused(&mut large, &target).await;
    clients.push(large);
    none(&faults_now(&server, &clients).await, "while the disk is full of data");
    // A server that starts on it reads too.
    server.kill();
    fill(&ballast);
    server = Process::start_with(&home, &[QUIET]);
    let target = Target::of(&server);
    none(&faults_now(&server, &clients).await, "after a start on a full disk");
    until_refused(&mut clients[0], &target).await;
    std::fs::remove_file(&ballast).unwrap();
    small.grow();
    writes_again(&mut clients[0], &target).await;
    at_rest(&server).await;
    compare(&server, &mut clients, &mut tally, "after the disk was full of data").await;
    server.kill();
    none(&faults_on_sqlite(&database_in(copy_of(home.data.path()).path())), "at the end");
    let server = Process::start_with(&home, &[QUIET]);
    compare(&server, &mut clients, &mut tally, "after the last start").await;
    server.kill();
    drop(small);
}

/// A session whose run has not ended cannot be deleted, whatever the disk does.
fn is_conflict(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { status, .. } if *status == StatusCode::CONFLICT)
}
