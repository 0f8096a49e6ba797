//! The power is cut at every write of a script of 200 operations (SQLite).
//!
//! The real server runs under the shim `powercut`, which journals each write,
//! each sync and each 2xx answer; clients keep a ledger by request id. Then the
//! directory that a cut would have left is written out and opened, and
//! everything that was acknowledged before the cut must be in it, with every
//! field, and nothing by half.
//!
//! With everything unsynced dropped, what a cut leaves changes only where a sync
//! ends. A cut at any other write leaves what the cut before the next end of a
//! sync leaves, with no more acknowledged than there. So each cut right before
//! such an end is looked at, and the end of the journal, and by that every write
//! index. Where unsynced data reached the disk by chance or in torn sectors,
//! each index is a case of its own: a sample of them here. The soak form takes a
//! larger one, and then every index that writes, in two scripts of small things.
//!
//! That the look would find a loss is shown by the same journal with syncs
//! taken out, as of a store that does not wait for them.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use agentry_store::{Options, Store};
use agentry_testkit::TempDir;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use xtask::powercut::{Journal, Operation, Replay, Unsynced};

use crate::client::{Client, Outcome, Target};
use crate::home::{database_in, shim};
use crate::invariants::faults_on_sqlite;
use crate::kill::{QUIET, at_rest};
use crate::ledger::{Thing, faults};
use crate::server::{Engine, Home, Process};
use crate::world::World;
use crate::{is_soak, seed};

/// One client alone, so that each acknowledgement stands by itself.
const ALONE: usize = 60;
/// Several at once, so that writes share a commit.
const CLIENTS: usize = 10;
const TOGETHER: usize = 140;
/// Indexes at which unsynced data is kept by chance, in the short form.
const SAMPLED: usize = 240;
/// The same in the soak form, of the first script; of the others it takes all.
const SAMPLED_SOAK: usize = 2_400;
/// Cuts after which the real server starts and goes on.
const SERVED: usize = 8;
/// How large agents are, by script: so large that the log of writes is written
/// back while the server serves, and then small. The soak form has them all.
const INSTRUCTIONS_BYTES: [usize; 3] = [510_000, 6_000, 0];
const WRITE_AHEAD_LOG: &str = "agentry.db-wal";
/// So long that no beat of the lease writes beside what the clients ask for.
const LEASE: (&str, &str) = ("AGENTRY_RUNS__LEASE_MS", "3600000");

struct Recorded {
    journal: Journal,
    clients: Vec<Vec<Thing>>,
    /// Requests that were made one at a time.
    alone: HashSet<String>,
}

/// Runs the script under the shim and stops the server in order.
async fn record(seed: u64, instructions_bytes: usize) -> Recorded {
    let home = Home::new(Engine::Sqlite).await;
    let beside = TempDir::new();
    let log = beside.path().join("journal");
    let preload = shim("powercut");
    let environment = [
        ("LD_PRELOAD", preload.as_str()),
        ("POWERCUT_DIR", home.data.path().to_str().unwrap()),
        ("POWERCUT_LOG", log.to_str().unwrap()),
        LEASE,
        QUIET,
    ];
    let server = Process::start_with(&home, &environment);
    let target = Target::of(&server);
    let mut clients = vec![Client::new("alone", seed).with_instructions(instructions_bytes)];
    for _ in 0..ALONE {
        assert_eq!(clients[0].act(&target).await, Outcome::Acknowledged);
    }
    let several = Client::several(CLIENTS, seed).into_iter();
    clients.extend(several.map(|client| client.with_instructions(instructions_bytes)));
    let all = clients[1..].iter_mut().map(async |client| {
        for _ in 0..TOGETHER / CLIENTS {
            assert_eq!(client.act(&target).await, Outcome::Acknowledged);
        }
    });
    futures::future::join_all(all).await;
    let stopped = Command::new("kill").args(["-TERM", &server.id().to_string()]).status();
    assert!(stopped.unwrap().success());
    assert!(server.wait().success());
    let clients: Vec<Vec<Thing>> = clients.into_iter().map(|client| client.things).collect();
    let alone = clients[0].iter().flat_map(|thing| &thing.steps);
    let alone = alone.map(|step| step.request.clone()).collect();
    Recorded { journal: Journal::read(&log).unwrap(), clients, alone }
}

/// A place for directories that are written, looked at and removed: memory when
/// there is some, because what they would wait for on a disk is not the matter.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("agentry-cut-").tempdir_in(dir).unwrap()
}

/// One power cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Before this record.
    at: usize,
    unsynced: Unsynced,
}

/// Opens what a cut left and says what is wrong with it.
async fn faults_after(replay: &Replay<'_>, cut: Cut, clients: &[Vec<Thing>]) -> Vec<String> {
    let dir = scratch();
    replay.write_to(dir.path(), cut.unsynced).unwrap();
    let store = match Store::open(&Options::sqlite(dir.path())).await {
        Ok(store) => store,
        Err(error) => return vec![format!("it does not open: {error:?}")],
    };
    let world = World::of_store(&store).await;
    let is_installed = !store.org_ids().await.unwrap().is_empty();
    store.close().await;
    let acknowledged: HashSet<&str> =
        replay.acknowledged().iter().map(|ack| ack.request_id.as_str()).collect();
    let mut found = faults(clients, &world, &|request| acknowledged.contains(request));
    found.extend(world.conversation_faults(false));
    found.extend(faults_on_sqlite(&database_in(dir.path())));
    let key = std::fs::read_to_string(dir.path().join("owner.key")).unwrap_or_default();
    if is_installed && key.trim().is_empty() {
        found.push("it is installed and nobody has its key".to_owned());
    }
    found
}

/// Starts the real server on what a cut left, lets it finish what was under
/// way, and says what is wrong with what it then shows.
async fn faults_served(replay: &Replay<'_>, cut: Cut, clients: &[Vec<Thing>]) -> Vec<String> {
    let home = Home::new(Engine::Sqlite).await;
    replay.write_to(home.data.path(), cut.unsynced).unwrap();
    let server = Process::start_with(&home, &[QUIET]);
    at_rest(&server).await;
    let world = World::of_server(&server).await;
    let acknowledged: HashSet<&str> =
        replay.acknowledged().iter().map(|ack| ack.request_id.as_str()).collect();
    let mut found = faults(clients, &world, &|request| acknowledged.contains(request));
    found.extend(world.conversation_faults(true));
    server.kill();
    found.extend(faults_on_sqlite(&database_in(home.data.path())));
    found
}

/// Looks at every cut, on all cores: what is wrong.
fn look(journal: &Journal, clients: &[Vec<Thing>], cuts: &[Cut]) -> Vec<String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let looking: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let mut replay = Replay::new(journal, None).unwrap();
                    let mut all = Vec::new();
                    while let Some(cut) = cuts.get(next.fetch_add(1, Ordering::SeqCst)) {
                        replay.advance_to(cut.at).unwrap();
                        let found = runtime.block_on(faults_after(&replay, *cut, clients));
                        all.extend(found.into_iter().map(|fault| format!("{cut:?}: {fault}")));
                    }
                    all
                })
            })
            .collect();
        looking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn dropped(journal: &Journal) -> Vec<Cut> {
    let cuts = journal.cuts_before_syncs().into_iter();
    cuts.map(|at| Cut { at, unsynced: Unsynced::Dropped }).collect()
}

/// Whether the database's file was written between two acknowledgements.
fn is_written_back(journal: &Journal) -> bool {
    let is_ack =
        |index: &usize| matches!(journal.records[*index].operation, Operation::Acknowledge(_));
    let all = 0..journal.records.len();
    let (first, last) = (all.clone().find(is_ack), all.rev().find(is_ack));
    journal.records[first.unwrap()..last.unwrap()].iter().any(|record| {
        record.path == "agentry.db" && matches!(record.operation, Operation::Write { .. })
    })
}

/// The indexes before each of which something reached the page cache.
fn after_writes(journal: &Journal) -> Vec<usize> {
    let records = journal.records.iter().enumerate();
    records
        .filter(|(_, record)| {
            let is_data = matches!(
                record.operation,
                Operation::Write { .. } | Operation::Truncate { .. } | Operation::Allocate { .. }
            );
            is_data || matches!(record.operation, Operation::Create | Operation::Unlink)
        })
        .map(|(index, _)| index + 1)
        .collect()
}

/// Acknowledgements of requests that were made alone and left before what they wrote to
/// the log of writes had been synced. Of what is not synced then a part may be the
/// server's own, which works on in the background; so one is early when nothing was synced
/// either that was written since the acknowledgement before it.
fn early(recorded: &Recorded) -> Vec<String> {
    let mut written = None;
    let mut begun: Vec<(u64, Option<usize>)> = Vec::new();
    let mut synced = None;
    let mut early = Vec::new();
    let mut seen = 0;
    let mut before = None;
    for (index, record) in recorded.journal.records.iter().enumerate() {
        let is_log = record.path == WRITE_AHEAD_LOG;
        match &record.operation {
            Operation::Write { .. } if is_log => written = Some(index),
            Operation::SyncBegin { number } if is_log => begun.push((*number, written)),
            Operation::SyncEnd { number } if is_log => {
                let at = begun.iter().position(|(begun, _)| begun == number).unwrap();
                synced = synced.max(begun.remove(at).1);
            }
            Operation::Acknowledge(ack) if recorded.alone.contains(&ack.request_id) => {
                seen += 1;
                if synced < written && synced <= before {
                    early.push(format!("{} at record {index}", ack.request_id));
                }
                before = Some(index);
            }
            _ => {}
        }
    }
    assert_eq!(seen, recorded.alone.len(), "the shim saw every acknowledgement");
    early
}

/// The journal of a store that answers without waiting for the disk: the syncs
/// of the log of writes from the middle on never come.
fn without_syncs(journal: &Journal) -> Journal {
    let middle = journal.records.len() / 2;
    let kept = journal.records.iter().enumerate().filter(|(index, record)| {
        let is_sync = matches!(record.operation, Operation::SyncEnd { .. });
        !(is_sync && *index > middle && record.path == WRITE_AHEAD_LOG)
    });
    Journal { records: kept.map(|(_, record)| record.clone()).collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_power_cut_at_any_write_loses_nothing_acknowledged() {
    let scripts = if is_soak() { INSTRUCTIONS_BYTES.len() } else { 1 };
    for (nth, bytes) in INSTRUCTIONS_BYTES.into_iter().enumerate().take(scripts) {
        let seed = seed() + nth as u64;
        let began = Instant::now();
        let recorded = record(seed, bytes).await;
        let Recorded { journal, clients, .. } = &recorded;
        let acknowledged = clients.iter().flatten().map(|thing| thing.steps.len()).sum::<usize>();
        assert_eq!(acknowledged, ALONE + TOGETHER);
        assert!(
            nth > 0 || is_written_back(journal),
            "the log of writes never went into the database"
        );
        let early = early(&recorded);
        assert!(early.is_empty(), "acknowledged before it was synced:\n{}", early.join("\n"));

        let mut cuts = dropped(journal);
        let syncs = cuts.len();
        let writes = after_writes(journal);
        let mut chance = StdRng::seed_from_u64(seed);
        let sampled = if is_soak() { SAMPLED_SOAK } else { SAMPLED };
        let kept: Vec<usize> = if nth > 0 {
            writes.clone()
        } else {
            (0..sampled).map(|_| writes[chance.random_range(0..writes.len())]).collect()
        };
        cuts.extend(kept.iter().enumerate().map(|(nth, at)| {
            let unsynced = Unsynced::Subset { seed: seed + *at as u64, torn: nth % 2 == 0 };
            Cut { at: *at, unsynced }
        }));
        // The replay only goes forward.
        cuts.sort_by_key(|cut| cut.at);
        let found = tokio::task::block_in_place(|| look(journal, clients, &cuts));
        assert!(found.is_empty(), "{} faults, such as:\n{}", found.len(), found[0]);
        eprintln!(
            "power cut, seed {seed}: {} records, {} of them writes; {syncs} states with all that \
             was unsynced dropped and {} with some of it kept, in {:.0?}",
            journal.records.len(),
            writes.len(),
            kept.len(),
            began.elapsed(),
        );

        let mut replay = Replay::new(journal, None).unwrap();
        for nth in 1..=SERVED {
            let cut = cuts[cuts.len() * nth / SERVED - 1];
            replay.advance_to(cut.at).unwrap();
            let found = faults_served(&replay, cut, clients).await;
            assert!(found.is_empty(), "served after {cut:?}:\n{}", found.join("\n"));
        }

        let weak = without_syncs(journal);
        let last = [Cut { at: weak.records.len(), unsynced: Unsynced::Dropped }];
        let middle = weak.cuts_before_syncs();
        let found = tokio::task::block_in_place(|| {
            let before_the_end = Cut { at: middle[middle.len() / 2], unsynced: Unsynced::Dropped };
            look(&weak, clients, &[before_the_end, last[0]])
        });
        assert!(!found.is_empty(), "a store that does not sync is not found out");
    }
}
