//! Processes are killed under load, again and again: our server with SIGKILL,
//! or the database under a server that stays. After each kill everything that
//! was acknowledged is there, nothing is there twice or by half, what was under
//! way has come about once or never, and every run that was accepted ends.
//!
//! The moment is given by a seed: so many acknowledgements after the start,
//! and then a spin of less than a millisecond.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentry_testkit::WAIT_MAX;
use agentry_testkit::postgres::{Cluster, Database};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;

use crate::client::{Client, Outcome, Target};
use crate::home::{copy_of, database_in};
use crate::invariants::{faults_on_postgres, faults_on_sqlite};
use crate::ledger::{Thing, faults, settle};
use crate::server::{Engine, Home, Process, wait_until};
use crate::world::World;
use crate::{is_soak, seed};

const CLIENTS: usize = 12;
/// Kills on one home; then a fresh one, so that looking at everything stays fast.
const KILLS_PER_HOME: usize = 12;
/// Acknowledgements until a kill, at most.
const ACKNOWLEDGEMENTS_MAX: usize = 150;
const SPIN_MAX: Duration = Duration::from_millis(1);
/// How long a server that was killed keeps its claims on PostgreSQL.
const LEASE: (&str, &str) = ("AGENTRY_RUNS__LEASE_MS", "1000");
/// What fails here fails on purpose, and is not worth a line each.
pub(crate) const QUIET: (&str, &str) = ("AGENTRY_LOG", "off");

/// How many times which way is killed, short and long; the long ones are more
/// than 500 together.
const SQLITE_KILLS: [usize; 2] = [12, 216];
const POSTGRES_KILLS: [usize; 2] = [12, 192];
const DATABASE_KILLS: [usize; 2] = [10, 108];

fn kills(short_and_long: [usize; 2]) -> usize {
    short_and_long[usize::from(is_soak())]
}

/// Where a server keeps its state, and how to look at it when it is dead.
struct Place {
    home: Home,
    database: Option<String>,
}

impl Place {
    async fn of_sqlite() -> Self {
        Self { home: Home::new(Engine::Sqlite).await, database: None }
    }

    async fn of_postgres(url: &str) -> Self {
        Self { home: Home::new(Engine::Sqlite).await, database: Some(url.to_owned()) }
    }

    fn serve(&self) -> Process {
        let mut environment = vec![LEASE, QUIET];
        environment.extend(self.database.as_deref().map(|url| ("AGENTRY_DATABASE", url)));
        Process::start_with(&self.home, &environment)
    }

    async fn faults(&self) -> Vec<String> {
        match &self.database {
            Some(url) => faults_on_postgres(url).await,
            None => faults_on_sqlite(&database_in(copy_of(self.home.data.path()).path())),
        }
    }
}

/// What a campaign did, for its last line.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    kills: usize,
    acknowledged: usize,
    unanswered: usize,
    /// Of those without an answer, the ones that had come about.
    came_about: usize,
    /// POSTs without an answer that were sent again with their key.
    asked_again: usize,
    /// Of those sent again, the ones that had come about before.
    had_come_about: usize,
}

impl Tally {
    fn say(&self, name: &str, began: Instant) {
        eprintln!(
            "{name}: {} kills in {:.0?}, {} requests acknowledged, {} changes unanswered of which \
             {} had come about, {} creations sent again of which {} had come about; nothing lost, \
             doubled or half-written",
            self.kills,
            began.elapsed(),
            self.acknowledged,
            self.unanswered,
            self.came_about,
            self.asked_again,
            self.had_come_about,
        );
    }
}

/// Lets clients work until one of `stops`: so many acknowledgements have come,
/// then the killer is told; each client ends when it is not acknowledged, or
/// when told to.
struct Load {
    acknowledged: AtomicUsize,
    enough: usize,
    reached: Notify,
    over: AtomicBool,
}

impl Load {
    fn until(enough: usize) -> Self {
        Self {
            acknowledged: AtomicUsize::new(0),
            enough,
            reached: Notify::new(),
            over: AtomicBool::new(false),
        }
    }

    async fn drive(&self, clients: &mut [Client], target: &Target) -> Vec<Outcome> {
        let all = clients.iter_mut().map(async |client| {
            while !self.over.load(Ordering::SeqCst) {
                let outcome = client.act(target).await;
                if outcome != Outcome::Acknowledged {
                    return outcome;
                }
                if self.acknowledged.fetch_add(1, Ordering::SeqCst) + 1 == self.enough {
                    self.reached.notify_one();
                }
            }
            Outcome::Acknowledged
        });
        let outcomes = futures::future::join_all(all).await;
        // Whoever waits for the kill goes on too when all of them ended before.
        self.reached.notify_one();
        outcomes
    }
}

fn spin(chance: &mut StdRng) {
    let until = Instant::now() + chance.random_range(Duration::ZERO..SPIN_MAX);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Waits until no run waits or goes on.
pub(crate) async fn at_rest(server: &Process) {
    wait_until(|| async {
        for status in ["queued", "running"] {
            let (_, page) = server.get(&format!("/api/v1/runs?limit=1&status={status}")).await;
            if page["items"].as_array().is_none_or(|items| !items.is_empty()) {
                return false;
            }
        }
        true
    })
    .await;
}

fn things_of(clients: &[Client]) -> Vec<Vec<Thing>> {
    clients.iter().map(|client| client.things.clone()).collect()
}

/// Compares what the clients know with what a server at rest shows, and takes
/// that for known.
pub(crate) async fn compare(
    server: &Process,
    clients: &mut [Client],
    tally: &mut Tally,
    when: &str,
) {
    let world = World::of_server(server).await;
    let mut found = faults(&things_of(clients), &world, &|_| true);
    found.extend(world.conversation_faults(true));
    assert!(found.is_empty(), "{when}:\n{}", found.join("\n"));
    for client in clients {
        let (open, came_about) = settle(&mut client.things, &world);
        tally.unanswered += open;
        tally.came_about += came_about;
    }
}

async fn ask_again(clients: &mut [Client], target: &Target, tally: &mut Tally) {
    for client in clients {
        let (asked, had_come_about) = client.ask_again(target).await;
        tally.asked_again += asked;
        tally.had_come_about += had_come_about;
    }
}

/// Kills the server on one home so many times.
async fn kill_the_server(place: &Place, kills: usize, chance: &mut StdRng, tally: &mut Tally) {
    let mut clients = Client::several(CLIENTS, chance.random());
    let mut server = place.serve();
    for kill in 0..kills {
        let load = Load::until(chance.random_range(1..=ACKNOWLEDGEMENTS_MAX));
        let target = Target::of(&server);
        let killing = async {
            load.reached.notified().await;
            tokio::task::block_in_place(|| {
                spin(chance);
                server.kill();
            });
        };
        let (outcomes, ()) =
            futures::future::join(load.drive(&mut clients, &target), killing).await;
        for outcome in outcomes {
            assert_eq!(outcome, Outcome::Lost, "kill {kill}");
        }
        tally.kills += 1;
        tally.acknowledged += load.acknowledged.load(Ordering::SeqCst);
        let found = place.faults().await;
        assert!(found.is_empty(), "after kill {kill}:\n{}", found.join("\n"));
        server = place.serve();
        at_rest(&server).await;
        ask_again(&mut clients, &Target::of(&server), tally).await;
        compare(&server, &mut clients, tally, &format!("after kill {kill}")).await;
    }
    server.kill();
    let found = place.faults().await;
    assert!(found.is_empty(), "at the end:\n{}", found.join("\n"));
}

/// Kills the database under a server that stays, so many times.
async fn kill_the_database(
    cluster: &mut Cluster,
    kills: usize,
    chance: &mut StdRng,
    tally: &mut Tally,
) {
    let place = Place::of_postgres(cluster.url()).await;
    let server = place.serve();
    let mut clients = Client::several(CLIENTS, chance.random());
    for kill in 0..kills {
        let load = Load::until(chance.random_range(1..=ACKNOWLEDGEMENTS_MAX));
        let target = Target::of(&server);
        let killing = async {
            load.reached.notified().await;
            tokio::task::block_in_place(|| {
                spin(chance);
                cluster.kill();
                cluster.start_again();
            });
            load.over.store(true, Ordering::SeqCst);
        };
        let (outcomes, ()) =
            futures::future::join(load.drive(&mut clients, &target), killing).await;
        for outcome in outcomes {
            let is_said = match &outcome {
                Outcome::Acknowledged => true,
                Outcome::Refused { code, retry_after, .. } => {
                    code == "storage_unavailable" && *retry_after
                }
                Outcome::Lost => false,
            };
            assert!(is_said, "kill {kill}: {outcome:?}");
        }
        tally.kills += 1;
        tally.acknowledged += load.acknowledged.load(Ordering::SeqCst);
        // The server comes back by itself.
        let back =
            async { while clients[0].create_agent(&target).await != Outcome::Acknowledged {} };
        tokio::time::timeout(WAIT_MAX, back).await.expect("writes are taken again in time");
        wait_until(|| async { server.get("/api/v1/agents?limit=1").await.0.is_success() }).await;
        at_rest(&server).await;
        ask_again(&mut clients, &Target::of(&server), tally).await;
        compare(&server, &mut clients, tally, &format!("after kill {kill}")).await;
        let found = place.faults().await;
        assert!(found.is_empty(), "after kill {kill}:\n{}", found.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_killed_server_on_sqlite_keeps_what_it_acknowledged() {
    let (began, mut tally) = (Instant::now(), Tally::default());
    let mut chance = StdRng::seed_from_u64(seed());
    while tally.kills < kills(SQLITE_KILLS) {
        let place = Place::of_sqlite().await;
        kill_the_server(&place, KILLS_PER_HOME, &mut chance, &mut tally).await;
    }
    tally.say("SIGKILL on SQLite", began);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_killed_server_on_postgres_keeps_what_it_acknowledged() {
    let (began, mut tally) = (Instant::now(), Tally::default());
    let mut chance = StdRng::seed_from_u64(seed() + 1);
    while tally.kills < kills(POSTGRES_KILLS) {
        let database = Database::create().await;
        let place = Place::of_postgres(database.url()).await;
        kill_the_server(&place, KILLS_PER_HOME, &mut chance, &mut tally).await;
    }
    tally.say("SIGKILL on PostgreSQL", began);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn soak_a_killed_database_keeps_what_was_acknowledged_and_the_server_comes_back() {
    let (began, mut tally) = (Instant::now(), Tally::default());
    let mut chance = StdRng::seed_from_u64(seed() + 2);
    while tally.kills < kills(DATABASE_KILLS) {
        let mut cluster = Cluster::start();
        let here = KILLS_PER_HOME.min(kills(DATABASE_KILLS) - tally.kills);
        kill_the_database(&mut cluster, here, &mut chance, &mut tally).await;
    }
    tally.say("PostgreSQL killed as by -m immediate", began);
}
