//! What can be read: everything that a server shows over HTTP, or everything
//! that a store holds, in the same form.

use std::collections::HashMap;

use agentry_domain::agents::AgentBody;
use agentry_domain::page::PAGE_ITEMS_MAX;
use agentry_domain::runs::Run;
use agentry_domain::sessions::{Message, SessionBody};
use agentry_domain::{Document, Order, OrgId, Page, PageRequest, ResourceId as _};
use agentry_store::{RunFilter, Store, Table};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::ledger::Kind;
use crate::server::Process;

/// Everything of one organisation, as the API writes it.
#[derive(Debug, Default)]
pub(crate) struct World {
    agents: Vec<Value>,
    sessions: Vec<Value>,
    runs: Vec<Value>,
    /// By session; in the order of the conversation.
    messages: HashMap<String, Vec<Value>>,
    by_mark: HashMap<(Place, String), Vec<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Agents,
    Sessions,
    Messages,
    Runs,
}

impl World {
    /// Everything that a server shows; each list's total must say how long it is.
    pub(crate) async fn of_server(server: &Process) -> Self {
        let agents = every(server, "/api/v1/agents").await;
        let sessions = every(server, "/api/v1/sessions").await;
        let runs = every(server, "/api/v1/runs").await;
        let mut messages = HashMap::new();
        for session in &sessions {
            let id = session["id"].as_str().unwrap();
            let of_session = every(server, &format!("/api/v1/sessions/{id}/messages")).await;
            messages.insert(id.to_owned(), of_session);
        }
        Self { agents, sessions, runs, messages, by_mark: HashMap::new() }.indexed()
    }

    /// Everything that a store holds; nothing when it was never installed.
    pub(crate) async fn of_store(store: &Store) -> Self {
        let Some(&org) = store.org_ids().await.unwrap().first() else { return Self::default() };
        let agents = documents::<AgentBody>(store, org);
        let sessions = documents::<SessionBody>(store, org);
        let runs = pages(
            run,
            |run| run.id.to_bytes(),
            async |page| store.run_list(org, &RunFilter::default(), &page).await.unwrap(),
        );
        let (agents, sessions, runs) = (agents.await, sessions.await, runs.await);
        let mut messages = HashMap::new();
        for session in &sessions {
            let id = session["id"].as_str().unwrap();
            let key = id.parse().unwrap();
            let of_session = pages(
                message,
                |message| message.id.to_bytes(),
                async |page| store.message_list(org, key, &page).await.unwrap(),
            );
            messages.insert(id.to_owned(), of_session.await);
        }
        Self { agents, sessions, runs, messages, by_mark: HashMap::new() }.indexed()
    }

    fn indexed(mut self) -> Self {
        let mut add = |place, mark: &Value, thing: &Value| {
            if let Some(mark) = mark.as_str() {
                self.by_mark.entry((place, mark.to_owned())).or_default().push(thing.clone());
            }
        };
        for agent in &self.agents {
            add(Place::Agents, &agent["name"], agent);
        }
        for session in &self.sessions {
            add(Place::Sessions, &session["session_name"], session);
        }
        for run in &self.runs {
            add(Place::Runs, &run["input"], run);
        }
        for message in self.messages.values().flatten() {
            // A run's messages are looked at with their run.
            if message["run_id"].is_null() {
                add(Place::Messages, &message["content"], message);
            }
        }
        self
    }

    /// The things with this mark.
    pub(crate) fn find(&self, kind: Kind, mark: &str) -> Vec<&Value> {
        let place = match kind {
            Kind::Agent => Place::Agents,
            Kind::Session => Place::Sessions,
            Kind::Message => Place::Messages,
            Kind::Run => Place::Runs,
        };
        self.by_mark.get(&(place, mark.to_owned())).into_iter().flatten().collect()
    }

    /// What is wrong with conversations: a run has one input and, once it
    /// succeeded, one reply right behind it; others have neither half.
    pub(crate) fn conversation_faults(&self, is_at_rest: bool) -> Vec<String> {
        let mut faults = Vec::new();
        for run in &self.runs {
            let said: Vec<(usize, &Value)> = self
                .messages
                .get(run["session_id"].as_str().unwrap())
                .into_iter()
                .flatten()
                .filter(|message| !message["run_id"].is_null())
                .enumerate()
                .filter(|(_, message)| message["run_id"] == run["id"])
                .collect();
            let status = run["status"].as_str().unwrap();
            let as_it_should = match (status, said.as_slice()) {
                ("queued", []) => !is_at_rest,
                ("running", [(_, input)]) => !is_at_rest && is_input(input, run),
                ("succeeded", [(at, input), (behind, reply)]) => {
                    is_input(input, run)
                        && *behind == at + 1
                        && reply["role"] == "assistant"
                        && reply["content"] == run["message"]
                }
                _ => false,
            };
            if !as_it_should {
                faults.push(format!("in the conversation of {run} is {said:?}"));
            }
        }
        faults
    }
}

fn is_input(message: &Value, run: &Value) -> bool {
    message["role"] == "user" && message["content"] == run["input"]
}

/// All pages of a list.
async fn every(server: &Process, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut next = format!("{path}?order=asc&limit={PAGE_ITEMS_MAX}");
    loop {
        let (status, page) = server.get(&next).await;
        assert_eq!(status, StatusCode::OK, "{next}: {page}");
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert_eq!(page["total"], json!(items.len()), "{path}");
            return items;
        };
        next = format!("{path}?order=asc&limit={PAGE_ITEMS_MAX}&cursor={cursor}");
    }
}

async fn pages<T>(
    write: fn(&T) -> Value,
    id: fn(&T) -> [u8; 16],
    read: impl AsyncFn(PageRequest) -> Page<T>,
) -> Vec<Value> {
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let page = PageRequest { limit: PAGE_ITEMS_MAX, after, offset: 0, order: Order::Ascending };
        let page = read(page).await;
        items.extend(page.items.iter().map(write));
        after = page.items.last().map(id);
        if page.next.is_none() {
            assert_eq!(page.total, items.len() as u64);
            return items;
        }
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Every resource of a kind, as clients read it.
async fn documents<R: Table>(store: &Store, org: OrgId) -> Vec<Value> {
    pages(
        |document: &Document<R>| parsed(&document.json),
        |document| document.id.bytes(),
        async |page| store.resource_list::<R>(org, &R::Filter::default(), &page).await.unwrap(),
    )
    .await
}

fn message(message: &Message) -> Value {
    json!({
        "id": message.id, "session_id": message.session, "run_id": message.run,
        "role": message.role.as_str(), "content": message.content,
        "metadata": parsed(&message.metadata), "created_at": message.created_at,
    })
}

fn run(run: &Run) -> Value {
    json!({
        "id": run.id, "agent_id": run.agent, "session_id": run.session, "user_id": run.user_id,
        "input": run.request.input, "message": run.reply, "status": run.status.as_str(),
        "metadata": parsed(&run.metadata), "attempt": run.attempt,
        "created_at": run.created_at, "started_at": run.started_at,
        "finished_at": run.finished_at,
    })
}
