//! Lists: order, cursor, offset, filters, totals; and counters that agree with
//! what is there.

use std::collections::BTreeSet;

use agentry_domain::agents::{Agent, AgentStatus};
use agentry_domain::page::FILTERED_TOTAL_MAX;
use agentry_domain::runs::{Run, RunStatus};
use agentry_domain::sessions::{Message, MessageRole, Session, SessionStatus};
use agentry_domain::{Order, OrgId, Page, PageRequest};
use agentry_store::{AgentFilter, Result, RunFilter, SessionFilter, Store, Write};
use futures::future::join_all;

use crate::bed::Bed;
use crate::kept::{ReadWhole as _, WriteWhole as _};
use crate::make;

type Id = [u8; 16];

/// Reads a whole list page by page in both orders, and with offsets, and
/// compares each with the ids in order of creation.
async fn pages<T>(
    expected: &[Id],
    id: impl Fn(&T) -> Id,
    list: impl AsyncFn(&PageRequest) -> Result<Page<T>>,
) {
    for order in [Order::Ascending, Order::Descending] {
        let mut expected = expected.to_vec();
        if order == Order::Descending {
            expected.reverse();
        }
        let mut request = PageRequest { limit: 7, order, ..PageRequest::default() };
        let mut found = Vec::new();
        loop {
            let page = list(&request).await.unwrap();
            assert_eq!(page.total, expected.len() as u64);
            assert!(!page.total_capped);
            found.extend(page.items.iter().map(&id));
            request.after = page.next;
            if page.next.is_none() {
                break;
            }
            assert_eq!(page.items.len(), 7);
        }
        assert_eq!(found, expected, "{order:?}");
        let request = PageRequest { limit: 5, offset: 9, order, after: None };
        let page = list(&request).await.unwrap();
        let ids: Vec<Id> = page.items.iter().map(&id).collect();
        assert_eq!(ids, expected[9..14], "{order:?}");
        let request = PageRequest { limit: 500, offset: 0, order, after: None };
        assert_eq!(list(&request).await.unwrap().items.len(), expected.len());
    }
}

pub(crate) async fn every_list_has_its_order_its_cursor_and_its_total(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let session = make::session(None, Some("u"));
    let agent = make::agent("a");
    let (mut agents, mut sessions) = (vec![agent.id.to_bytes()], vec![session.id.to_bytes()]);
    let (mut messages, mut runs) = (Vec::new(), Vec::new());
    let mut write = make::agent_write(org, &agent);
    write.session_put(&session);
    for nth in 0..25 {
        let agent = make::agent(&format!("a{nth}"));
        write.agent_insert(&agent);
        agents.push(agent.id.to_bytes());
        let one = make::session(None, None);
        write.session_put(&one);
        sessions.push(one.id.to_bytes());
        let message = make::message(session.id, MessageRole::User, "x");
        write.message_insert(&message);
        messages.push(message.id.to_bytes());
        let run = make::run(agent.id, session.id, None);
        write.run_insert(&run);
        runs.push(run.id.to_bytes());
    }
    store.write(write).await.unwrap();
    let mut write = make::agent_write(other, &make::agent("foreign"));
    write.session_put(&make::session(None, None));
    write.run_insert(&make::run(agent.id, session.id, None));
    store.write(write).await.unwrap();

    pages(
        &agents,
        |agent: &Agent| agent.id.to_bytes(),
        async |page| store.agent_list(org, &AgentFilter::default(), page).await,
    )
    .await;
    pages(
        &sessions,
        |session: &Session| session.id.to_bytes(),
        async |page| store.session_list(org, &SessionFilter::default(), page).await,
    )
    .await;
    pages(
        &messages,
        |message: &Message| message.id.to_bytes(),
        async |page| store.message_list(org, session.id, page).await,
    )
    .await;
    pages(
        &runs,
        |run: &Run| run.id.to_bytes(),
        async |page| store.run_list(org, &RunFilter::default(), page).await,
    )
    .await;
    pages(
        &runs,
        |run: &Run| run.id.to_bytes(),
        async |page| {
            let filter = RunFilter { session: Some(session.id), ..RunFilter::default() };
            store.run_list(org, &filter, page).await
        },
    )
    .await;
}

pub(crate) async fn filters_select_and_count(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let mut write = Write::new(org);
    let (mut agents, mut sessions, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    let lane = [make::session(None, None).id, make::session(None, None).id];
    for nth in 0..24_usize {
        let mut agent = make::agent(["x", "y"][nth % 2]);
        agent.body.status = [AgentStatus::Created, AgentStatus::Idle, AgentStatus::Busy][nth % 3];
        agent.body.agent_type = ["general", "special"][nth / 12].to_owned();
        write.agent_insert(&agent);
        let mut session = make::session(None, [None, Some("u1"), Some("u2")][nth % 3]);
        session.body.status = [SessionStatus::Active, SessionStatus::Paused][nth / 12];
        write.session_put(&session);
        let mut run = make::run(agent.id, lane[nth % 2], session.user_id.as_deref());
        run.status = [RunStatus::Queued, RunStatus::Running][nth / 12];
        write.run_insert(&run);
        agents.push(agent);
        sessions.push(session);
        runs.push(run);
    }
    store.write(write).await.unwrap();
    let page = PageRequest { limit: 3, order: Order::Ascending, ..PageRequest::default() };

    for name in [None, Some("x"), Some("absent")] {
        for status in [None, Some(AgentStatus::Idle)] {
            for agent_type in [None, Some("special")] {
                let filter = AgentFilter {
                    name: name.map(str::to_owned),
                    status,
                    agent_type: agent_type.map(str::to_owned),
                };
                let wanted: Vec<_> = agents
                    .iter()
                    .filter(|agent| name.is_none_or(|name| agent.name == name))
                    .filter(|agent| status.is_none_or(|status| agent.status == status))
                    .filter(|agent| agent_type.is_none_or(|it| agent.agent_type == it))
                    .cloned()
                    .collect();
                same(&store.agent_list(org, &filter, &page).await.unwrap(), &wanted);
            }
        }
    }
    for user in [None, Some("u1"), Some("absent")] {
        for status in [None, Some(SessionStatus::Paused)] {
            let filter = SessionFilter { user_id: user.map(str::to_owned), status };
            let wanted: Vec<_> = sessions
                .iter()
                .filter(|session| user.is_none() || session.user_id.as_deref() == user)
                .filter(|session| status.is_none_or(|status| session.status == status))
                .cloned()
                .collect();
            same(&store.session_list(org, &filter, &page).await.unwrap(), &wanted);
        }
    }
    for session in [None, Some(lane[1])] {
        for agent in [None, Some(agents[5].id)] {
            for user in [None, Some("u2")] {
                for status in [None, Some(RunStatus::Queued)] {
                    let user_id = user.map(str::to_owned);
                    let filter = RunFilter { session, agent, user_id, status };
                    let wanted: Vec<_> = runs
                        .iter()
                        .filter(|run| session.is_none_or(|session| run.session == session))
                        .filter(|run| agent.is_none_or(|agent| run.agent == agent))
                        .filter(|run| user.is_none() || run.user_id.as_deref() == user)
                        .filter(|run| status.is_none_or(|status| run.status == status))
                        .cloned()
                        .collect();
                    same(&store.run_list(org, &filter, &page).await.unwrap(), &wanted);
                }
            }
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(page: &Page<T>, wanted: &[T]) {
    assert_eq!(page.items, wanted[..wanted.len().min(3)]);
    assert_eq!(page.total, wanted.len() as u64);
    assert_eq!(page.next.is_some(), wanted.len() > 3);
}

pub(crate) async fn a_filtered_total_is_capped(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let most = FILTERED_TOTAL_MAX as usize;
    let fill = async |count: usize| {
        let mut left = count;
        while left > 0 {
            let mut write = Write::new(org).bulk();
            for _ in 0..left.min(1_000) {
                write.session_put(&make::session(None, Some("busy")));
            }
            left = left.saturating_sub(1_000);
            store.write(write).await.unwrap();
        }
    };
    let filter = SessionFilter { user_id: Some("busy".to_owned()), status: None };
    let page = PageRequest { limit: 1, ..PageRequest::default() };
    let count = async || {
        let page = store.session_list(org, &filter, &page).await.unwrap();
        (page.total, page.total_capped)
    };
    fill(most - 1).await;
    assert_eq!(count().await, (u64::from(FILTERED_TOTAL_MAX) - 1, false));
    fill(51).await;
    assert_eq!(count().await, (u64::from(FILTERED_TOTAL_MAX), true));
    let all = store.session_list(org, &SessionFilter::default(), &page).await.unwrap();
    assert_eq!((all.total, all.total_capped), (u64::from(FILTERED_TOTAL_MAX) + 50, false));
}

/// Sessions, agents and runs that really are there.
async fn recount(store: &Store, org: OrgId) -> (usize, usize, usize) {
    let page = PageRequest { limit: 500, ..PageRequest::default() };
    let sessions = store.session_list(org, &SessionFilter::default(), &page).await.unwrap();
    let agents = store.agent_list(org, &AgentFilter::default(), &page).await.unwrap();
    let runs = store.run_list(org, &RunFilter::default(), &page).await.unwrap();
    assert_eq!(sessions.total, sessions.items.len() as u64);
    assert_eq!(agents.total, agents.items.len() as u64);
    assert_eq!(runs.total, runs.items.len() as u64);
    for session in &sessions.items {
        let messages = store.message_list(org, session.id, &page).await.unwrap();
        assert_eq!(messages.total, messages.items.len() as u64);
    }
    (sessions.items.len(), agents.items.len(), runs.items.len())
}

pub(crate) async fn counters_equal_a_recount(bed: Bed) {
    let store = bed.open().await;
    let orgs = [make::org(), make::org()];
    let work = (0..60_usize).map(|nth| {
        let (store, org) = (&store, orgs[nth % 2]);
        async move {
            let session = make::session(None, None);
            let agent = make::agent("a");
            let mut write = make::agent_write(org, &agent);
            write.session_put(&session);
            write.run_insert(&make::run(agent.id, session.id, None));
            store.write(write).await.unwrap();
            for _ in 0..nth % 4 {
                let mut write = Write::new(org);
                write.session_exists(session.id);
                write.message_insert(&make::message(session.id, MessageRole::User, "x"));
                store.write(write).await.unwrap();
            }
            if nth % 3 == 0 {
                let mut write = Write::new(org);
                write.session_delete(session.id, 1);
                write.agent_delete(agent.id, 1);
                store.write(write).await.unwrap();
            }
        }
    });
    join_all(work).await;
    for org in orgs {
        assert_eq!(recount(&store, org).await, (20, 20, 20));
    }
    if let Bed::Postgres(database) = &bed {
        // The same once everything is folded, and nothing stays of what is gone.
        let folded = "do $$ begin if exists (select 1 from counter_change) \
            or exists (select 1 from counter where n = 0) then raise 'not yet'; end if; end $$";
        crate::bed::wait_until("every change is folded", || async {
            database.execute(folded).await.is_ok()
        })
        .await;
        for org in orgs {
            assert_eq!(recount(&store, org).await, (20, 20, 20));
        }
    }
    let distinct: BTreeSet<_> = orgs.iter().map(|org| org.to_bytes()).collect();
    assert_eq!(distinct.len(), 2);
}
