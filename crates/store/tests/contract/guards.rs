//! A write that breaks a rule is refused with the right code, and leaves
//! nothing; its neighbours in the group do not feel it.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use agentry_domain::idempotency::IDEMPOTENCY_KEPT;
use agentry_domain::sessions::MessageRole;
use agentry_domain::{Code, KeyId, Once, PageRequest, WorkerId};
use agentry_store::{AgentFilter, Scope, SessionFilter, Sought, Store, StoreError, Write};
use futures::future::join_all;

use crate::bed::{Bed, wait_until};
use crate::kept::{ReadWhole as _, WriteWhole as _};
use crate::make;

pub(crate) async fn a_changed_or_missing_thing_is_told_apart(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let agent = make::agent("ada");
    let session = make::session(Some("s"), None);
    store.write(make::agent_write(org, &agent)).await.unwrap();
    store.write(make::session_write(org, &session)).await.unwrap();
    let code = async |write: Write| make::refused(store.write(write).await).code;
    let write = |org, fill: &dyn Fn(&mut Write)| {
        let mut write = Write::new(org);
        fill(&mut write);
        write
    };
    let stale = agentry_domain::agents::Agent { version: 9, ..agent.clone() };
    assert_eq!(code(write(org, &|w| w.agent_update(&stale))).await, Code::PreconditionFailed);
    assert_eq!(code(write(org, &|w| w.agent_delete(agent.id, 9))).await, Code::PreconditionFailed);
    assert_eq!(code(write(other, &|w| w.agent_update(&agent))).await, Code::NotFound);
    assert_eq!(code(write(other, &|w| w.agent_delete(agent.id, 1))).await, Code::NotFound);
    let stale = agentry_domain::sessions::Session { version: 9, ..session.clone() };
    assert_eq!(code(write(org, &|w| w.session_update(&stale))).await, Code::PreconditionFailed);
    assert_eq!(
        code(write(org, &|w| w.session_delete(session.id, 9))).await,
        Code::PreconditionFailed
    );
    assert_eq!(code(write(other, &|w| w.session_update(&session))).await, Code::NotFound);
    assert_eq!(code(write(other, &|w| w.session_delete(session.id, 1))).await, Code::NotFound);
    assert_eq!(code(write(other, &|w| w.session_exists(session.id))).await, Code::NotFound);
    let again = store.write(make::agent_write(org, &agent)).await;
    assert_eq!(make::refused(again).code, Code::AlreadyExists);
    assert_eq!(store.agent_get(org, agent.id).await.unwrap(), Some(agent));
    assert_eq!(store.session_get(org, session.id).await.unwrap(), Some(session));
}

pub(crate) async fn a_name_is_unique_for_its_user(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let sessions: Vec<_> = (0..20).map(|_| make::session(Some("home"), Some("u1"))).collect();
    let tried =
        join_all(sessions.iter().map(|session| store.write(make::session_write(org, session))))
            .await;
    let (made, refused): (Vec<_>, Vec<_>) = tried.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    for result in refused {
        assert_eq!(make::refused(result).code, Code::AlreadyExists);
    }
    for user in [None, Some("u2")] {
        let session = make::session(Some("home"), user);
        store.write(make::session_write(org, &session)).await.unwrap();
    }
    let nobodys = make::session(Some("home"), None);
    let result = store.write(make::session_write(org, &nobodys)).await;
    assert_eq!(make::refused(result).code, Code::AlreadyExists);
    let page = PageRequest::default();
    let listed = store.session_list(org, &SessionFilter::default(), &page).await.unwrap();
    assert_eq!((listed.items.len(), listed.total), (3, 3));
}

/// A write that does a bit of everything and then breaks a rule.
fn doomed(org: agentry_domain::OrgId) -> Write {
    let session = make::session(None, None);
    let message = make::message(session.id, MessageRole::User, "unheard words");
    let mut write = make::agent_write(org, &make::agent("ghost"));
    write.session_put(&session);
    write.message_insert(&message);
    write.text_insert(message.id, session.id, Scope::user(org, "u"), &message.content);
    write.agent_update(&make::agent("missing"));
    write
}

pub(crate) async fn a_failed_write_leaves_nothing(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    for _ in 0..3 {
        assert_eq!(make::refused(store.write(doomed(org)).await).code, Code::NotFound);
    }
    let kept = make::agent("kept");
    store.write(make::agent_write(org, &kept)).await.unwrap();
    wait_until("the log has the one entry", || async { store.log_head().await.unwrap() == 1 })
        .await;
    let logged = store.log_read(org, 0, 10).await.unwrap();
    assert_eq!(logged.iter().map(|entry| entry.id).collect::<Vec<_>>(), [kept.id.to_bytes()]);
    let page = PageRequest::default();
    let agents = store.agent_list(org, &AgentFilter::default(), &page).await.unwrap();
    assert_eq!((agents.items, agents.total), (vec![kept], 1));
    let sessions = store.session_list(org, &SessionFilter::default(), &page).await.unwrap();
    assert_eq!((sessions.items.len(), sessions.total), (0, 0));
    let heard = Sought::within(Scope::user(org, "u"));
    let found = store.text_search(org, &heard, "unheard words", 5).await.unwrap();
    assert!(found.is_empty());
    assert!(store.activity().refused >= 3);
}

pub(crate) async fn a_failure_touches_no_other_write_of_its_group(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let good: Vec<_> = (0..60).map(|nth| make::agent(&format!("a{nth}"))).collect();
    let taken = make::session(Some("taken"), Some("u"));
    store.write(make::session_write(org, &taken)).await.unwrap();
    let writes = good.iter().enumerate().map(|(nth, agent)| {
        let store = &store;
        async move {
            store.write(make::agent_write(org, agent)).await.unwrap();
            match nth % 4 {
                // Fails by a guard.
                0 => assert_eq!(make::refused(store.write(doomed(org)).await).code, Code::NotFound),
                // Fails in the database.
                1 => {
                    let again = make::session(Some("taken"), Some("u"));
                    let result = store.write(make::session_write(org, &again)).await;
                    assert_eq!(make::refused(result).code, Code::AlreadyExists);
                }
                _ => {
                    let session = make::session(None, Some("u"));
                    store.write(make::session_write(org, &session)).await.unwrap();
                }
            }
        }
    });
    join_all(writes).await;
    let page = PageRequest { limit: 500, ..PageRequest::default() };
    let agents = store.agent_list(org, &AgentFilter::default(), &page).await.unwrap();
    assert_eq!((agents.items.len(), agents.total), (60, 60));
    let sessions = store.session_list(org, &SessionFilter::default(), &page).await.unwrap();
    assert_eq!((sessions.items.len(), sessions.total), (31, 31));
    assert_eq!(store.activity().writes, 1 + 60 + 30);
    assert_eq!(store.activity().refused, 30);
}

/// Something that holds the tables so that a write waits inside the database.
enum Obstacle {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client, tokio::task::JoinHandle<()>),
}

impl Obstacle {
    #[expect(clippy::disallowed_methods, reason = "awaited where the obstacle is removed")]
    async fn put(bed: &Bed) -> Self {
        match bed {
            Bed::Sqlite(directory) => {
                let path = directory.path().join("agentry.db");
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.execute_batch("begin immediate").unwrap();
                Self::Sqlite(connection)
            }
            Bed::Postgres(database) => {
                let (client, connection) =
                    tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
                let connection = tokio::spawn(async move { connection.await.unwrap() });
                let lock = "begin; lock table agent in exclusive mode";
                client.batch_execute(lock).await.unwrap();
                Self::Postgres(client, connection)
            }
        }
    }

    async fn remove(self) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch("rollback").unwrap(),
            Self::Postgres(client, connection) => {
                client.batch_execute("rollback").await.unwrap();
                drop(client);
                connection.await.unwrap();
            }
        }
    }
}

async fn waiting(store: &Store, count: u64) {
    wait_until("so many writes wait", || async { store.activity().waiting == count }).await;
}

/// Whether the future is still not done after one look.
async fn pends<F: Future>(future: &mut std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

async fn one_writer(bed: &Bed, waiting_max: usize) -> Store {
    let mut options = bed.options();
    options.postgres_writers_max = 1;
    options.writes_waiting_max = waiting_max;
    Store::open(&options).await.unwrap()
}

pub(crate) async fn a_write_that_was_given_up_before_its_turn_is_not_applied(bed: Bed) {
    let store = one_writer(&bed, 10).await;
    let org = make::org();
    let [first, given_up, last] = ["first", "given up", "last"].map(make::agent);
    let obstacle = Obstacle::put(&bed).await;
    let mut at_work = pin!(store.write(make::agent_write(org, &first)));
    assert!(pends(&mut at_work).await);
    waiting(&store, 0).await;
    {
        let mut waits = pin!(store.write(make::agent_write(org, &given_up)));
        assert!(pends(&mut waits).await);
        waiting(&store, 1).await;
    }
    let mut after = pin!(store.write(make::agent_write(org, &last)));
    assert!(pends(&mut after).await);
    obstacle.remove().await;
    at_work.await.unwrap();
    after.await.unwrap();
    assert!(store.agent_get(org, first.id).await.unwrap().is_some());
    assert!(store.agent_get(org, last.id).await.unwrap().is_some());
    assert_eq!(store.agent_get(org, given_up.id).await.unwrap(), None);
}

pub(crate) async fn too_many_waiting_writes_are_refused(bed: Bed) {
    let store = one_writer(&bed, 2).await;
    let org = make::org();
    let obstacle = Obstacle::put(&bed).await;
    let mut at_work = pin!(store.write(make::agent_write(org, &make::agent("a"))));
    assert!(pends(&mut at_work).await);
    waiting(&store, 0).await;
    let mut second = pin!(store.write(make::agent_write(org, &make::agent("b")).bulk()));
    let mut third = pin!(store.write(make::agent_write(org, &make::agent("c"))));
    assert!(pends(&mut second).await && pends(&mut third).await);
    let refused = store.write(make::agent_write(org, &make::agent("d"))).await;
    assert!(matches!(refused, Err(StoreError::Overloaded)), "{refused:?}");
    // The lease is one more all the same: without it this process would lose its runs.
    let worker = WorkerId::from_uuid(make::uuid());
    let mut beat = pin!(store.worker_beat(worker, Duration::from_secs(15)));
    assert!(pends(&mut beat).await);
    waiting(&store, 3).await;
    obstacle.remove().await;
    beat.await.unwrap();
    at_work.await.unwrap();
    second.await.unwrap();
    third.await.unwrap();
    let page = PageRequest::default();
    let agents = store.agent_list(org, &AgentFilter::default(), &page).await.unwrap();
    assert_eq!(agents.total, 3);
}

pub(crate) async fn who_writes_too_much_waits_for_itself(bed: Bed) {
    const MANY: u64 = 600;
    /// More than any transaction has.
    const GROUP_MAX: i64 = 256;
    let store = one_writer(&bed, 10_000).await;
    let (greedy, modest) = (make::org(), make::org());
    let obstacle = Obstacle::put(&bed).await;
    let mut at_work = pin!(store.write(make::agent_write(greedy, &make::agent("first"))));
    assert!(pends(&mut at_work).await);
    waiting(&store, 0).await;
    let agents: Vec<_> = (0..MANY).map(|nth| make::agent(&format!("a{nth}"))).collect();
    let writes = agents.iter().map(|agent| store.write(make::agent_write(greedy, agent)));
    let mut writes = pin!(join_all(writes));
    assert!(pends(&mut writes).await);
    waiting(&store, MANY).await;
    let mut last = pin!(store.write(make::agent_write(modest, &make::agent("last"))));
    assert!(pends(&mut last).await);
    waiting(&store, MANY + 1).await;
    let stands = |in_use, waiting, taken| {
        let [_, writers] = store.pools();
        assert_eq!((writers.name, writers.size), ("writers", 1));
        (writers.in_use, writers.waiting, writers.taken) == (in_use, waiting, taken)
    };
    wait_until("one is written, and the others wait", || async { stands(1, MANY + 1, 1) }).await;
    obstacle.remove().await;
    at_work.await.unwrap();
    for written in writes.await {
        written.unwrap();
    }
    last.await.unwrap();
    let all = i64::try_from(MANY).unwrap() + 2;
    wait_until("all is in the log", || async { store.log_head().await.unwrap() == all }).await;
    // It came last, and its turn was in the next transaction.
    let logged = store.log_read(modest, 0, 10).await.unwrap();
    assert!(logged[0].seq <= 1 + GROUP_MAX, "{}", logged[0].seq);
    wait_until("nobody writes", || async { stands(0, 0, MANY + 2) }).await;
    assert!(store.pools()[1].waited > Duration::ZERO);
    let page = PageRequest::default();
    store.agent_list(greedy, &AgentFilter::default(), &page).await.unwrap();
    let [scans, _] = store.pools();
    assert_eq!((scans.name, scans.in_use, scans.waiting), ("scans", 0, 0));
    assert!(scans.taken > 0 && scans.size > 0);
}

pub(crate) async fn a_request_is_remembered_for_a_day(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let once = Once {
        caller: None,
        operation: "POST /api/v1/agents".to_owned(),
        key: "k".to_owned(),
        body: [7; 32],
    };
    let began = make::now();
    let day = IDEMPOTENCY_KEPT;
    let almost = began.plus(day - Duration::from_micros(1));
    let noted = |name: &str, at, answer: &str| {
        let agent = make::agent(name);
        let mut write = make::agent_write(org, &agent);
        write.idempotency_set(&once, agent.id.to_bytes(), answer, at);
        (agent.id, write)
    };
    let found = async |once: &Once, org, at| store.idempotency_get(org, once, at).await.unwrap();

    let (first, write) = noted("first", began, "the answer");
    store.write(write).await.unwrap();
    let remembered = found(&once, org, almost).await.unwrap();
    assert_eq!((remembered.id, remembered.body), (first.to_bytes(), once.body));
    assert_eq!(remembered.answer.as_deref(), Some("the answer"));
    // Of another caller, operation, key or organisation nothing is known.
    let others = [
        Once { caller: Some(KeyId::from_uuid(make::uuid())), ..once.clone() },
        Once { operation: "POST /api/v1/sessions".to_owned(), ..once.clone() },
        Once { key: "K".to_owned(), ..once.clone() },
    ];
    for other in &others {
        assert_eq!(found(other, org, began).await, None, "{other:?}");
    }
    assert_eq!(found(&once, make::org(), began).await, None);

    // A second effect is refused as a whole, whatever else is wrong with it.
    let (second, write) = noted("second", almost, "");
    assert_eq!(make::refused(store.write(write).await).code, Code::AlreadyDone);
    assert_eq!(store.agent_get(org, second).await.unwrap(), None);
    let mut again = make::agent_write(org, &store.agent_get(org, first).await.unwrap().unwrap());
    again.idempotency_set(&once, first.to_bytes(), "", almost);
    assert_eq!(make::refused(store.write(again).await).code, Code::AlreadyDone);

    // A day later it is forgotten, and the key is free.
    assert_eq!(found(&once, org, began.plus(day)).await, None);
    let (third, write) = noted("third", began.plus(day), &"x".repeat(64 * 1_024 + 1));
    store.write(write).await.unwrap();
    let remembered = found(&once, org, began.plus(day)).await.unwrap();
    // A long answer is not kept, only what it was about.
    assert_eq!((remembered.id, remembered.answer), (third.to_bytes(), None));

    assert_eq!(store.idempotency_oldest().await.unwrap(), Some(began.plus(day)));
    for (at, left) in
        [(began.plus(day * 2 - Duration::from_micros(1)), true), (began.plus(day * 2), false)]
    {
        let mut write = Write::new(make::org()).bulk();
        write.idempotency_expire(at, 10);
        store.write(write).await.unwrap();
        assert_eq!(store.idempotency_oldest().await.unwrap().is_some(), left);
    }
}
