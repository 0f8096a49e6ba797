//! Backups made under load and restored elsewhere hold everything that was
//! acknowledged up to the entry of the log that they name, and nothing after
//! it. A file of which a part is missing, changed or newer is refused, and
//! leaves the directory as it was.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use agentry_store::{Options, Store};
use agentry_testkit::TempDir;
use agentry_testkit::postgres::Database;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Client, Outcome, Target};
use crate::home::{copy_of, database_in};
use crate::invariants::faults_on_sqlite;
use crate::kill::{QUIET, at_rest};
use crate::ledger::{Effect, Kind, Thing, faults};
use crate::seed;
use crate::server::{Engine, Home, Process};
use crate::world::World;

const CLIENTS: usize = 8;
/// Backups that are made one after the other while clients write.
const BACKUPS: usize = 3;
/// Acknowledgements between two backups, at least.
const BETWEEN: usize = 60;
/// Entries of the log that are read in one go.
const ENTRIES_AT_ONCE: u32 = 5_000;

/// Runs a command of the binary.
fn agentry<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentry"));
    command.args(arguments).env(QUIET.0, QUIET.1).output().unwrap()
}

fn backup(data: &Path, file: &Path) -> Output {
    agentry([OsStr::new("backup"), file.as_os_str(), "--data".as_ref(), data.as_os_str()])
}

fn restore(file: &Path, data: &Path, more: &[&str]) -> Output {
    let arguments = [OsStr::new("restore"), file.as_os_str(), "--data".as_ref(), data.as_os_str()];
    agentry(arguments.into_iter().chain(more.iter().map(OsStr::new)))
}

fn doctor(data: &Path, more: &[&str]) -> Output {
    let arguments = [OsStr::new("doctor"), "--data".as_ref(), data.as_os_str()];
    agentry(arguments.into_iter().chain(more.iter().map(OsStr::new)))
}

fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(reason), "{reason:?} is not in {said:?}");
}

/// The place in the log up to which a backup has everything.
fn position(file: &Path) -> i64 {
    let bytes = std::fs::read(file).unwrap();
    let line = bytes.split(|byte| *byte == b'\n').nth(1).unwrap();
    serde_json::from_slice::<Value>(line).unwrap()["log"].as_i64().unwrap()
}

/// The places in the log of what happened to each thing, in order.
async fn places(data: &Path) -> HashMap<(String, String), Vec<i64>> {
    let copy = copy_of(data);
    let store = Store::open(&Options::sqlite(copy.path())).await.unwrap();
    let mut places: HashMap<(String, String), Vec<i64>> = HashMap::new();
    let mut after = 0;
    loop {
        let entries = store.log_read_all(after, ENTRIES_AT_ONCE).await.unwrap();
        let Some(last) = entries.last() else { break };
        after = last.seq;
        for entry in &entries {
            let id = uuid_text(entry.id);
            let what = match entry.kind.as_str() {
                "run.created" | "run.started" | "run.finished" => entry.kind.as_str(),
                _ => "changed",
            };
            places.entry((what.to_owned(), id)).or_default().push(entry.seq);
        }
    }
    store.close().await;
    places
}

fn uuid_text(id: [u8; 16]) -> String {
    agentry_domain::RunId::from_bytes(id).to_string()
}

/// What a client was told up to a place in the log. Nothing is open: each
/// request was answered.
fn until(things: &[Thing], position: i64, log: &HashMap<(String, String), Vec<i64>>) -> Vec<Thing> {
    let place = |what: &str, id: &str, nth: usize| {
        let of_thing = log.get(&(what.to_owned(), id.to_owned()));
        *of_thing
            .and_then(|places| places.get(nth))
            .unwrap_or_else(|| panic!("{what} {nth} of {id}"))
    };
    let mut cut = things.to_vec();
    for thing in &mut cut {
        assert!(thing.pending.is_none());
        let id = thing.steps.iter().find_map(|step| match &step.effect {
            Effect::Is(state) => Some(state["id"].as_str().unwrap().to_owned()),
            _ => None,
        });
        let Some(id) = id else { continue };
        if thing.kind != Kind::Run {
            let mut nth = 0..;
            thing.steps.retain(|_| place("changed", &id, nth.next().unwrap()) <= position);
        } else if place("run.created", &id, 0) > position {
            thing.steps.clear();
        } else if place("run.finished", &id, 0) > position {
            // It was under way, and is carried out again where it is restored.
            let Effect::Is(run) = &thing.steps[0].effect else { panic!("a run without a state") };
            let known = ["id", "session_id", "input", "metadata"];
            let known = known.map(|field| (field.to_owned(), run[field].clone()));
            thing.steps[0].effect = Effect::Has(known.into_iter().collect());
        }
    }
    cut
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_what_was_acknowledged_up_to_its_place_in_the_log() {
    let home = Home::new(Engine::Sqlite).await;
    let server = Process::start_with(&home, &[QUIET]);
    let mut clients = Client::several(CLIENTS, seed() + 40);
    let (target, over) = (Target::of(&server), AtomicBool::new(false));
    let (acknowledged, reached) = (tokio::sync::watch::Sender::new(0_usize), TempDir::new());
    let load = futures::future::join_all(clients.iter_mut().map(async |client| {
        while !over.load(Ordering::SeqCst) {
            assert_eq!(client.act(&target).await, Outcome::Acknowledged);
            acknowledged.send_modify(|count| *count += 1);
        }
    }));
    let files: Vec<_> = (0..BACKUPS).map(|nth| reached.path().join(format!("{nth}"))).collect();
    let backups = async {
        let mut heard = acknowledged.subscribe();
        for file in &files {
            let enough = *heard.borrow_and_update() + BETWEEN;
            heard.wait_for(|count| *count >= enough).await.unwrap();
            let (data, file) = (home.data.path().to_owned(), file.clone());
            let made = tokio::task::spawn_blocking(move || backup(&data, &file)).await.unwrap();
            succeeded(&made);
        }
        let enough = *heard.borrow_and_update() + BETWEEN;
        heard.wait_for(|count| *count >= enough).await.unwrap();
        over.store(true, Ordering::SeqCst);
    };
    futures::future::join(load, backups).await;
    at_rest(&server).await;
    server.kill();

    let log = places(home.data.path()).await;
    let mut before = 0;
    for file in &files {
        let position = position(file);
        assert!(position > before, "the load went on between backups");
        before = position;
        let elsewhere = Home::new(Engine::Sqlite).await;
        succeeded(&restore(file, elsewhere.data.path(), &[]));
        assert_eq!(faults_on_sqlite(&database_in(elsewhere.data.path())), Vec::<String>::new());
        let said = succeeded(&doctor(elsewhere.data.path(), &["--deep"]));
        assert!(said.contains(", 0 faulty"), "{said}");
        let key = |home: &Home| home.data.path().join("owner.key");
        std::fs::copy(key(&home), key(&elsewhere)).unwrap();
        let restored = Process::start_with(&elsewhere, &[QUIET]);
        at_rest(&restored).await;
        let world = World::of_server(&restored).await;
        let told: Vec<_> = clients.iter().map(|c| until(&c.things, position, &log)).collect();
        let known = told.iter().flatten().filter(|thing| !thing.steps.is_empty()).count();
        assert!(known > BETWEEN / 2, "{known} things are compared");
        let mut found = faults(&told, &world, &|_| true);
        found.extend(world.conversation_faults(true));
        assert!(found.is_empty(), "up to {position}:\n{}", found.join("\n"));
    }
    let everything = log.values().flatten().max().unwrap();
    assert!(*everything > before, "the load went on after the last backup");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_not_whole_or_newer_is_refused_and_changes_nothing() {
    let home = Home::new(Engine::Sqlite).await;
    let server = Process::start_with(&home, &[QUIET]);
    server.post("/api/v1/agents", json!({"name": "kept"})).await;
    let beside = TempDir::new();
    let file = beside.path().join("backup");
    succeeded(&backup(home.data.path(), &file));
    refused(&backup(home.data.path(), &file), "is there already");
    let whole = std::fs::read(&file).unwrap();
    let head = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0;

    let elsewhere = TempDir::new();
    let data = elsewhere.path().join("data");
    let tried = beside.path().join("tried");
    let mut cases: Vec<(&str, Vec<u8>)> = Vec::new();
    for length in [0, 1, 16, 17, head, head + 1, head + 100, whole.len() - 66, whole.len() - 1] {
        let reason = if length < 17 { "not a backup" } else { "truncated" };
        cases.push((reason, whole[..length].to_vec()));
    }
    for place in [head + 1, head + 5_000, whole.len() / 2, whole.len() - 66, whole.len() - 2] {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        cases.push(("corrupt", changed));
    }
    cases.push(("corrupt", [whole.as_slice(), b"x"].concat()));
    let replaced = |old: &str, new: &str| {
        let text = String::from_utf8(whole[..=head].to_vec()).unwrap();
        assert!(text.contains(old), "{text}");
        [text.replacen(old, new, 1).as_bytes(), &whole[head + 1..]].concat()
    };
    cases.push(("agentry backup 2", replaced("agentry backup 1", "agentry backup 2")));
    cases.push(("schema 9", replaced("\"schema\":", "\"schema\":9")));
    cases.push(("corrupt", replaced("\"log\":", "\"log\":1")));
    cases.push(("not a backup", b"SQLite format 3\0 and so on".to_vec()));
    for (nth, (reason, bytes)) in cases.iter().enumerate() {
        std::fs::write(&tried, bytes).unwrap();
        let output = restore(&tried, &data, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "case {nth} {reason}: {said}");
        let left: Vec<_> =
            std::fs::read_dir(&data).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"], "case {nth}");
    }

    // A directory that is served, or has something in it, is left alone.
    refused(&restore(&file, home.data.path(), &["--force"]), "another process serves");
    server.post("/api/v1/agents", json!({"name": "after the backup"})).await;
    server.kill();
    refused(&restore(&file, home.data.path(), &[]), "is not empty");
    let output = restore(&tried, home.data.path(), &["--force"]);
    assert!(!output.status.success());
    let server = Process::start_with(&home, &[QUIET]);
    assert_eq!(names(&server).await, ["after the backup", "kept", "simple_agent"]);
    server.kill();

    // With --force what was there is kept aside, and the key opens what it opened.
    let said = succeeded(&restore(&file, home.data.path(), &["--force"]));
    let server = Process::start_with(&home, &[QUIET]);
    assert_eq!(names(&server).await, ["kept", "simple_agent"]);
    let aside = said.lines().find_map(|line| line.strip_prefix("what was there before is in "));
    assert!(database_in(Path::new(aside.unwrap())).exists(), "{said}");
    server.kill();

    // One of another installation comes without its key.
    let other = Home::new(Engine::Sqlite).await;
    Process::start_with(&other, &[QUIET]).kill();
    let said = succeeded(&restore(&file, other.data.path(), &["--force"]));
    assert!(said.contains("keys of the installation that was backed up"), "{said}");
    assert!(!other.data.path().join("owner.key").exists());
}

async fn names(server: &Process) -> Vec<String> {
    let (_, page) = server.get("/api/v1/agents").await;
    let names = page["items"].as_array().unwrap().iter();
    names.map(|agent| agent["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_can_be_made_when_nobody_serves_and_streams_over_http_when_somebody_does() {
    let home = Home::new(Engine::Sqlite).await;
    let server = Process::start_with(&home, &[QUIET]);
    server.post("/api/v1/agents", json!({"name": "kept"})).await;
    let path = "/api/v1/admin/backup";
    let response = server.request(Method::POST, path).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let log = response.headers()["x-log-position"].to_str().unwrap().to_owned();
    let streamed = response.bytes().await.unwrap();
    let beside = TempDir::new();
    let (online, offline) = (beside.path().join("online"), beside.path().join("offline"));
    std::fs::write(&online, &streamed).unwrap();
    assert_eq!(position(&online).to_string(), log);
    let anyone = server.client.post(format!("{}{path}", server.url)).send().await.unwrap();
    assert_eq!(anyone.status(), StatusCode::UNAUTHORIZED);
    succeeded(&doctor(home.data.path(), &["--deep"]));
    // Nothing stays of the copies, and a kill leaves the log of writes unread.
    server.kill();
    let said = succeeded(&backup(home.data.path(), &offline));
    // What the log says of the first backup comes behind what that one holds.
    let to = position(&offline);
    assert!(to >= position(&online), "{to}");
    assert!(said.contains(&format!("up to entry {to} of the log")), "{said}");
    for entry in std::fs::read_dir(home.data.path()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().contains("tmp"), "{name:?} stays");
    }
    for file in [online, offline] {
        let elsewhere = TempDir::new();
        succeeded(&restore(&file, elsewhere.path(), &[]));
        let said = succeeded(&doctor(elsewhere.path(), &[]));
        assert!(said.contains(", 0 faulty"), "{said}");
    }
    refused(&doctor(&beside.path().join("nowhere"), &[]), "there is no data");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_the_doctor_looks_and_a_backup_is_sent_elsewhere() {
    let (home, database) = (Home::new(Engine::Sqlite).await, Database::create().await);
    let url = database.url().to_owned();
    let server = Process::start_with(&home, &[QUIET, ("AGENTRY_DATABASE", &url)]);
    let (status, problem) = server.post("/api/v1/admin/backup", json!({})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("conflict")));
    let mut client = Client::new("only", seed() + 41);
    let target = Target::of(&server);
    for _ in 0..BETWEEN {
        assert_eq!(client.act(&target).await, Outcome::Acknowledged);
    }
    let look = move || agentry(["doctor", "--deep", "--database", &url]);
    let said = succeeded(&tokio::task::spawn_blocking(look).await.unwrap());
    assert!(said.contains(", 0 faulty"), "{said}");
}
