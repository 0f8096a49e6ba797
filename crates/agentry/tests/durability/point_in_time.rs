//! The recipe for PostgreSQL in docs/operations.md, followed as it stands there:
//! a base backup made while clients write, the archive of what was written, and
//! a restore elsewhere. Up to a moment between two writes it holds exactly what
//! was acknowledged until then; to the end of the archive, everything.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use agentry_testkit::WAIT_MAX;
use agentry_testkit::postgres::Cluster;
use tokio_postgres::NoTls;

use crate::client::{Client, Outcome, Target};
use crate::invariants::faults_on_postgres;
use crate::kill::{QUIET, at_rest};
use crate::ledger::{Thing, faults};
use crate::seed;
use crate::server::{Engine, Home, Process};
use crate::world::World;

const CLIENTS: usize = 8;
/// Acknowledgements in each part of the load, at least.
const ACKNOWLEDGEMENTS: usize = 150;
/// A moment in `recovery_target_time`, on the page.
const MOMENT: &str = "YYYY-MM-DD HH:MM:SS.ssssss+00";

/// The commands and settings of the recipe, in the order of the page.
struct Recipe {
    archiving: String,
    base_backup: String,
    recovery: String,
}

impl Recipe {
    fn read() -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
        let page = std::fs::read_to_string(page).unwrap();
        let recipe = page.split("### PostgreSQL\n").nth(1).expect("the page has the recipe");
        let recipe = recipe.split("\n## ").next().unwrap();
        let mut blocks = recipe.split("```\n").skip(1).step_by(2).map(str::to_owned);
        let mut next = || blocks.next().expect("the recipe has three blocks");
        Self { archiving: next(), base_backup: next(), recovery: next() }
    }
}

/// The page's directory, where this test has it.
fn placed(text: &str, backup: &Path) -> String {
    text.replace("/backup", backup.to_str().unwrap())
}

/// Lets the clients work until so much was acknowledged and `meanwhile` is over;
/// then nothing is under way.
async fn work(clients: &mut [Client], target: &Target, meanwhile: impl Future<Output = ()>) {
    let (acknowledged, over) = (tokio::sync::watch::Sender::new(0_usize), AtomicBool::new(false));
    let load = futures::future::join_all(clients.iter_mut().map(async |client| {
        while !over.load(Ordering::SeqCst) {
            assert_eq!(client.act(target).await, Outcome::Acknowledged);
            acknowledged.send_modify(|count| *count += 1);
        }
    }));
    let ending = async {
        let mut heard = acknowledged.subscribe();
        heard.wait_for(|count| *count >= ACKNOWLEDGEMENTS).await.unwrap();
        meanwhile.await;
        let enough = *heard.borrow() + ACKNOWLEDGEMENTS;
        heard.wait_for(|count| *count >= enough).await.unwrap();
        over.store(true, Ordering::SeqCst);
    };
    futures::future::join(load, ending).await;
}

async fn ask(url: &str, sql: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let answer = async move { client.query_one(sql, &[]).await.unwrap().get::<_, String>(0) };
    futures::future::join(answer, connection).await.0
}

/// Waits until what was written so far is in the archive.
async fn archived(url: &str) {
    let segment = ask(url, "select pg_walfile_name(pg_switch_wal())").await;
    let waiting = async {
        let sql = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
        while ask(url, sql).await < segment {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, waiting).await.expect("the segment is archived in time");
}

fn things_of(clients: &[Client]) -> Vec<Vec<Thing>> {
    clients.iter().map(|client| client.things.clone()).collect()
}

/// Serves what was restored, and compares it with what clients were told.
async fn holds(cluster: &Cluster, key: &Path, told: &[Vec<Thing>], what: &str) {
    let home = Home::new(Engine::Sqlite).await;
    std::fs::copy(key, home.data.path().join("owner.key")).unwrap();
    let environment =
        [QUIET, ("AGENTRY_DATABASE", cluster.url()), ("AGENTRY_RUNS__LEASE_MS", "1000")];
    let server = Process::start_with(&home, &environment);
    at_rest(&server).await;
    let world = World::of_server(&server).await;
    let mut found = faults(told, &world, &|_| true);
    found.extend(world.conversation_faults(true));
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
    server.kill();
    assert_eq!(faults_on_postgres(cluster.url()).await, Vec::<String>::new(), "{what}");
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_agentry"));
    doctor.args(["doctor", "--deep", "--database", cluster.url()]);
    let said = doctor.output().unwrap();
    assert!(said.status.success(), "{what}: {}", String::from_utf8_lossy(&said.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_backup_and_the_archive_restore_to_a_point_in_time() {
    let recipe = Recipe::read();
    let mut cluster = Cluster::start_with(|dir| placed(&recipe.archiving, &dir.join("backup")));
    let backup = cluster.directory().join("backup");
    cluster.make_directory(&backup.join("wal"));
    let home = Home::new(Engine::Sqlite).await;
    let server = Process::start_with(&home, &[QUIET, ("AGENTRY_DATABASE", cluster.url())]);
    let (mut clients, target) = (Client::several(CLIENTS, seed() + 50), Target::of(&server));

    let (_, address) = cluster.url().split_once('@').unwrap();
    let (host, port) = address.split_once('/').unwrap().0.split_once(':').unwrap();
    let command = placed(&recipe.base_backup, &backup).replace("HOST", host).replace("PORT", port);
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut command = cluster.command(&words);
    let making = async {
        let made = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    work(&mut clients, &target, making).await;
    at_rest(&server).await;
    let then = things_of(&clients);
    let sql =
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'";
    let moment = ask(cluster.url(), sql).await;
    work(&mut clients, &target, async {}).await;
    at_rest(&server).await;
    archived(cluster.url()).await;
    server.kill();
    cluster.kill();

    let recovery = placed(&recipe.recovery, &backup);
    assert!(recovery.contains(MOMENT), "{recovery}");
    let key = home.data.path().join("owner.key");
    let base = backup.join("base");
    let restored = Cluster::recover(&base, &recovery.replace(MOMENT, &moment));
    holds(&restored, &key, &then, &format!("at {moment}")).await;
    drop(restored);
    let to_the_end: Vec<&str> =
        recovery.lines().filter(|line| !line.starts_with("recovery_target_time")).collect();
    let restored = Cluster::recover(&base, &to_the_end.join("\n"));
    holds(&restored, &key, &things_of(&clients), "at the end").await;
    let (before, after) = (then.concat().len(), things_of(&clients).concat().len());
    assert!(before > ACKNOWLEDGEMENTS / 2 && after > before, "{before} and {after} things");
}
