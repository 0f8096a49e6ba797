//! PostgreSQL alone: sessions that are ended, commits whose answers are lost,
//! several processes at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use agentry_domain::{AgentId, OrgId, PageRequest};
use agentry_store::{AgentFilter, Options, Store, StoreError};
use agentry_testkit::TcpChaos;
use agentry_testkit::postgres::Database;
use futures::future::{join, join_all};

use crate::bed::wait_until;
use crate::kept::ReadWhole as _;
use crate::make;

const TASKS: usize = 16;
const WRITES: usize = 40;

const TERMINATE: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
    where datname = current_database() and application_name = 'agentry'";

/// Writes from many tasks while `disturb` goes on: the ids that were
/// acknowledged and those that were not.
async fn write_while<F: Future<Output = ()>>(
    store: &Store,
    org: OrgId,
    disturb: impl FnOnce(&'static AtomicBool) -> F,
) -> (BTreeSet<AgentId>, BTreeSet<AgentId>) {
    let done: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let writers = (0..TASKS).map(|_| async move {
        let (mut yes, mut no) = (Vec::new(), Vec::new());
        for nth in 0..WRITES {
            let agent = make::agent(&format!("a{nth}"));
            match store.write(make::agent_write(org, &agent)).await {
                Ok(_) => yes.push(agent.id),
                Err(StoreError::Unavailable(_)) => no.push(agent.id),
                Err(error) => panic!("{error:?}"),
            }
        }
        (yes, no)
    });
    let written = async {
        let written = join_all(writers).await;
        done.store(true, Ordering::SeqCst);
        written
    };
    let (written, ()) = join(written, disturb(done)).await;
    let (yes, no): (Vec<_>, Vec<_>) = written.into_iter().unzip();
    (yes.concat().into_iter().collect(), no.concat().into_iter().collect())
}

/// Everything acknowledged is there once, with its log entry and its count, and
/// nothing is there that nobody wrote.
async fn check(store: &Store, org: OrgId, yes: &BTreeSet<AgentId>, no: &BTreeSet<AgentId>) {
    let mut stored = BTreeSet::new();
    let mut page = PageRequest { limit: 500, ..PageRequest::default() };
    loop {
        let listed = store.agent_list(org, &AgentFilter::default(), &page).await.unwrap();
        stored.extend(listed.items.iter().map(|agent| agent.id));
        page.after = listed.next;
        if listed.next.is_none() {
            assert_eq!(listed.total, stored.len() as u64, "the counter is off");
            break;
        }
    }
    assert!(yes.is_subset(&stored), "something acknowledged is lost");
    assert!(stored.iter().all(|id| yes.contains(id) || no.contains(id)));
    let count = i64::try_from(stored.len()).unwrap();
    wait_until("the log has an entry for each", || async {
        store.log_head().await.unwrap() >= count
    })
    .await;
    let logged = store.log_read_all(0, 10_000).await.unwrap();
    let ids: BTreeSet<_> = logged.iter().map(|e| AgentId::from_bytes(e.id)).collect();
    assert_eq!((logged.len(), ids), (stored.len(), stored));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_survive_sessions_that_the_server_ends() {
    let database = Database::create().await;
    let store = Store::open(&Options::postgres(database.url())).await.unwrap();
    let org = make::org();
    let (yes, no) = write_while(&store, org, async |done| {
        let mut before = 0;
        while !done.load(Ordering::SeqCst) {
            // Each blow after some progress, so that the end is reached.
            let now = store.activity().writes;
            if now > before {
                before = now + 20;
                database.execute(TERMINATE).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(yes.len() + no.len(), TASKS * WRITES);
    check(&store, org, &yes, &no).await;
    database.execute(TERMINATE).await.unwrap();
    // Reads and writes go on without a restart.
    let agent = make::agent("after");
    store.write(make::agent_write(org, &agent)).await.unwrap();
    assert_eq!(store.agent_get(org, agent.id).await.unwrap(), Some(agent));
    store.close().await;
}

/// The server's address, and the same URL by way of the proxy.
fn through(url: &str, proxy: SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (server, name) = rest.rsplit_once('/').unwrap();
    let user = server.rsplit_once('@').map_or("", |(user, _)| user);
    format!("{scheme}://{user}@{proxy}/{name}")
}

fn server(url: &str) -> SocketAddr {
    let server = url.rsplit_once('/').unwrap().0;
    let host = server.rsplit_once('@').map_or(server, |(_, host)| host);
    host.trim_start_matches("postgres://").replace("localhost", "127.0.0.1").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_settled() {
    let database = Database::create().await;
    let proxy = TcpChaos::start(server(database.url())).await;
    let url = through(database.url(), proxy.address());
    let store = Store::open(&Options::postgres(url)).await.unwrap();
    let org = make::org();
    let (yes, no) = write_while(&store, org, async |done| {
        let mut before = 0;
        while !done.load(Ordering::SeqCst) {
            let now = store.activity().writes;
            if now > before {
                before = now + 10;
                proxy.cut();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(yes.len() + no.len(), TASKS * WRITES);
    check(&store, org, &yes, &no).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_said_so_and_comes_back() {
    let database = Database::create().await;
    let proxy = TcpChaos::start(server(database.url())).await;
    let url = through(database.url(), proxy.address());
    let store = Store::open(&Options::postgres(url)).await.unwrap();
    let org = make::org();
    proxy.refuse();
    proxy.cut();
    let read = store.agent_get(org, make::agent("x").id).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    let written = store.write(make::agent_write(org, &make::agent("x"))).await;
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    assert!(store.ping().await.is_err());
    proxy.resume();
    let agent = make::agent("y");
    store.write(make::agent_write(org, &agent)).await.unwrap();
    assert_eq!(store.agent_get(org, agent.id).await.unwrap(), Some(agent));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_may_start_at_once_and_one_takes_over_the_log() {
    let database = Database::create().await;
    let options = Options { postgres_writers_max: 1, ..Options::postgres(database.url()) };
    let opened = join_all((0..4).map(|_| Store::open(&options))).await;
    let stores: Vec<Store> = opened.into_iter().map(Result::unwrap).collect();
    let org = make::org();
    let mut left = stores.as_slice();
    for head in 1.. {
        let [store, others @ ..] = left else { break };
        // Whoever keeps the log is the one that leaves, at one time or another.
        store.write(make::agent_write(org, &make::agent("a"))).await.unwrap();
        for store in left {
            wait_until("every process hears of it", || async {
                *store.log_changed().borrow() == head
            })
            .await;
        }
        store.close().await;
        left = others;
    }
}
