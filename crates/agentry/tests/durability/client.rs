//! A client that makes, changes and deletes things by chance from a seed, one
//! request at a time, and keeps a ledger of it.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::ledger::{Effect, Kind, Step, Thing};
use crate::server::Process;

/// Sessions that all clients hold runs in.
const SHARED_SESSIONS: usize = 4;
/// How long an agent's instructions are when nobody says otherwise: longer than
/// a page of the database.
const INSTRUCTIONS_BYTES: usize = 6 << 10;

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Acknowledged,
    /// An answer that promises nothing.
    Refused {
        status: StatusCode,
        code: String,
        retry_after: bool,
    },
    /// No answer, or only a part of one.
    Lost,
}

/// Where a server is.
#[derive(Clone)]
pub(crate) struct Target {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Target {
    pub(crate) fn of(server: &Process) -> Self {
        Self { http: server.client.clone(), url: server.url.clone(), key: server.key.clone() }
    }
}

/// What a client may do next.
#[derive(Clone, Copy)]
enum Deed {
    AgentCreate,
    AgentPatch,
    AgentDelete,
    SessionCreate,
    SessionPatch,
    SessionDelete,
    MessageAppend,
    RunAlone,
    RunInOwn,
    RunInShared,
}

const DEEDS: &[(Deed, u32)] = &[
    (Deed::AgentCreate, 12),
    (Deed::AgentPatch, 12),
    (Deed::AgentDelete, 5),
    (Deed::SessionCreate, 10),
    (Deed::SessionPatch, 6),
    (Deed::SessionDelete, 4),
    (Deed::MessageAppend, 18),
    (Deed::RunAlone, 9),
    (Deed::RunInOwn, 10),
    (Deed::RunInShared, 14),
];

pub(crate) struct Client {
    name: String,
    chance: StdRng,
    asked: usize,
    instructions_bytes: usize,
    pub(crate) things: Vec<Thing>,
}

impl Client {
    /// A client that nobody knows yet; names must differ.
    pub(crate) fn new(name: &str, seed: u64) -> Self {
        let salt = name
            .bytes()
            .fold(seed, |salt, byte| salt.wrapping_mul(0x0100_0000_01b3).wrapping_add(byte.into()));
        Self {
            name: name.to_owned(),
            chance: StdRng::seed_from_u64(salt),
            asked: 0,
            instructions_bytes: INSTRUCTIONS_BYTES,
            things: Vec::new(),
        }
    }

    /// The same client, whose agents have so many bytes of instructions.
    pub(crate) fn with_instructions(mut self, bytes: usize) -> Self {
        self.instructions_bytes = bytes;
        self
    }

    /// Several clients.
    pub(crate) fn several(count: usize, seed: u64) -> Vec<Self> {
        (0..count).map(|n| Self::new(&format!("c{n}"), seed)).collect()
    }

    /// Makes one request, chosen by chance.
    pub(crate) async fn act(&mut self, target: &Target) -> Outcome {
        let all: u32 = DEEDS.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.chance.random_range(0..all);
        let deed = DEEDS.iter().find_map(|(deed, weight)| match drawn.checked_sub(*weight) {
            Some(rest) => {
                drawn = rest;
                None
            }
            None => Some(*deed),
        });
        match deed.unwrap() {
            Deed::AgentCreate => self.create_agent(target).await,
            Deed::AgentPatch => match self.any(Kind::Agent) {
                Some(agent) => self.patch(target, agent).await,
                None => self.create_agent(target).await,
            },
            Deed::AgentDelete => match self.any(Kind::Agent) {
                Some(agent) => self.delete(target, agent).await,
                None => self.create_agent(target).await,
            },
            Deed::SessionCreate => self.create_session(target).await,
            Deed::SessionPatch => match self.any(Kind::Session) {
                Some(session) => self.patch(target, session).await,
                None => self.create_session(target).await,
            },
            Deed::SessionDelete => match self.any(Kind::Session) {
                Some(session) => self.delete(target, session).await,
                None => self.create_session(target).await,
            },
            Deed::MessageAppend => match self.any(Kind::Session) {
                Some(session) => self.append(target, session).await,
                None => self.create_session(target).await,
            },
            Deed::RunAlone => self.run(target, json!({}), None).await,
            Deed::RunInOwn => match self.any(Kind::Session) {
                Some(session) => {
                    let place = json!({"session_id": self.things[session].id()});
                    self.run(target, place, Some(session)).await
                }
                None => self.create_session(target).await,
            },
            Deed::RunInShared => {
                let nth = self.chance.random_range(0..SHARED_SESSIONS);
                let name = format!("shared-{nth}");
                let place = json!({"session_name": name, "user_id": format!("user-{nth}")});
                self.run(target, place, None).await
            }
        }
    }

    pub(crate) async fn create_agent(&mut self, target: &Target) -> Outcome {
        let mark = self.mark("agent");
        let body = json!({
            "name": mark, "description": "as it was made", "agent_type": "tested",
            "instructions": "語".repeat(self.instructions_bytes / "語".len()), "memory": {"limit": 7},
            "configuration": {"a": {"b": [1, null, "x"]}}, "metadata": {"made": self.asked},
            "resource_limits": {"cpu": 2},
        });
        let made = self.add(Kind::Agent, mark, None);
        self.ask(target, Method::POST, "/api/v1/agents".to_owned(), body.clone(), made, body).await
    }

    async fn create_session(&mut self, target: &Target) -> Outcome {
        let mark = self.mark("session");
        let body = json!({
            "session_name": mark, "user_id": self.name, "session_origin": "test",
            "metadata": {"made": self.asked},
        });
        let made = self.add(Kind::Session, mark, None);
        let path = "/api/v1/sessions".to_owned();
        self.ask(target, Method::POST, path, body.clone(), made, body).await
    }

    async fn patch(&mut self, target: &Target, thing: usize) -> Outcome {
        let (kind, id) = (self.things[thing].kind, self.things[thing].id().unwrap().to_owned());
        let step = format!("k{}", self.asked % 3);
        let status = match kind {
            Kind::Agent => ["active", "idle", "busy"].choose(&mut self.chance),
            _ => ["active", "paused", "completed"].choose(&mut self.chance),
        };
        let mut body = json!({"status": status.unwrap(), "metadata": {step: self.asked}});
        if kind == Kind::Agent {
            body["description"] = json!(format!("as change {} left it", self.asked));
        }
        let mut after = self.things[thing].state().unwrap().clone();
        for (field, value) in body.as_object().unwrap() {
            if field == "metadata" {
                let merged = value.as_object().unwrap().clone();
                after[field].as_object_mut().unwrap().extend(merged);
            } else {
                after[field] = value.clone();
            }
        }
        after["version"] = json!(after["version"].as_i64().unwrap() + 1);
        after.as_object_mut().unwrap().remove("updated_at");
        let path = format!("{}/{id}", list_of(kind));
        self.ask(target, Method::PATCH, path, body, thing, after).await
    }

    async fn delete(&mut self, target: &Target, thing: usize) -> Outcome {
        let (kind, id) = (self.things[thing].kind, self.things[thing].id().unwrap().to_owned());
        let path = format!("{}/{id}", list_of(kind));
        self.ask(target, Method::DELETE, path, Value::Null, thing, Value::Null).await
    }

    async fn append(&mut self, target: &Target, session: usize) -> Outcome {
        let id = self.things[session].id().unwrap().to_owned();
        let mark = self.mark("message");
        let body = json!({"role": "user", "content": mark, "metadata": {"n": self.asked}});
        let made = self.add(Kind::Message, mark, Some(session));
        let path = format!("/api/v1/sessions/{id}/messages");
        self.ask(target, Method::POST, path, body.clone(), made, body).await
    }

    async fn run(&mut self, target: &Target, place: Value, session: Option<usize>) -> Outcome {
        let mark = self.mark("run");
        let mut body = json!({"message": mark, "metadata": {"n": self.asked}});
        body.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        let made = self.add(Kind::Run, mark.clone(), session);
        let after = json!({"input": mark, "metadata": body["metadata"]});
        let path = "/api/v1/agent/simple/run".to_owned();
        self.ask(target, Method::POST, path, body, made, after).await
    }

    /// Sends a request about a thing and writes down what comes of it. `after`
    /// is what is known beforehand of the thing's next state; null when it goes.
    async fn ask(
        &mut self,
        target: &Target,
        method: Method,
        path: String,
        body: Value,
        thing: usize,
        after: Value,
    ) -> Outcome {
        let request = format!("{}-{}", self.name, self.asked);
        self.asked += 1;
        let (goes, is_post) = (method == Method::DELETE, method == Method::POST);
        let mut asked = target
            .http
            .request(method, format!("{}{path}", target.url))
            .header("x-api-key", &target.key)
            .header("x-request-id", &request);
        if !body.is_null() {
            asked = asked.json(&body);
        }
        let mut again = None;
        if is_post {
            asked = asked.header("idempotency-key", &request);
            again = Some((path.clone(), body));
        }
        let expected = if goes { Effect::Gone } else { Effect::Has(after) };
        let pending = Step { request: request.clone(), effect: expected, again };
        let Some(Answer { status, retry_after, body, .. }) = answer(asked).await else {
            self.things[thing].pending = Some(pending);
            return Outcome::Lost;
        };
        if status.is_success() {
            let effect = if goes { Effect::Gone } else { Effect::Is(body) };
            self.things[thing].steps.push(Step { request, effect, again: None });
            return Outcome::Acknowledged;
        }
        let code = body["code"].as_str().unwrap_or_default().to_owned();
        let is_expected = status.is_server_error() || status == StatusCode::CONFLICT;
        assert!(is_expected, "{path}: {status} {body}");
        // A disk that was full stored nothing; but a run takes two writes, and
        // the first of them may have been made. Of other failures of the server
        // nothing is known.
        let is_sure = status == StatusCode::CONFLICT || code == "storage_full";
        if !is_sure || self.things[thing].kind == Kind::Run {
            self.things[thing].pending = Some(pending);
        }
        Outcome::Refused { status, code, retry_after }
    }

    /// Sends every POST again that was never answered, with its key: how many,
    /// and how many of them had come about.
    ///
    /// # Panics
    /// When one of them is not answered as if it were the first time.
    pub(crate) async fn ask_again(&mut self, target: &Target) -> (usize, usize) {
        let (mut asked, mut had_come_about) = (0, 0);
        for thing in &mut self.things {
            let Some((path, body)) = thing.pending.as_ref().and_then(|step| step.again.clone())
            else {
                continue;
            };
            let request = thing.pending.take().unwrap().request;
            let sent = target
                .http
                .post(format!("{}{path}", target.url))
                .header("x-api-key", &target.key)
                .header("idempotency-key", &request)
                .json(&body);
            let heard = answer(sent).await.unwrap();
            assert!(heard.status.is_success(), "{path} again: {} {}", heard.status, heard.body);
            asked += 1;
            had_come_about += usize::from(heard.replayed);
            thing.steps.push(Step { request, effect: Effect::Is(heard.body), again: None });
        }
        (asked, had_come_about)
    }

    fn mark(&self, what: &str) -> String {
        format!("{what} {} of {}", self.asked, self.name)
    }

    fn add(&mut self, kind: Kind, mark: String, session: Option<usize>) -> usize {
        self.things.push(Thing::new(kind, mark, session));
        self.things.len() - 1
    }

    fn any(&mut self, kind: Kind) -> Option<usize> {
        let usable: Vec<usize> = (0..self.things.len())
            .filter(|thing| self.things[*thing].kind == kind && self.things[*thing].is_usable())
            .collect();
        usable.choose(&mut self.chance).copied()
    }
}

fn list_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Agent => "/api/v1/agents",
        Kind::Session => "/api/v1/sessions",
        Kind::Message | Kind::Run => unreachable!("they are not changed"),
    }
}

struct Answer {
    status: StatusCode,
    retry_after: bool,
    replayed: bool,
    body: Value,
}

/// The whole answer; none when the connection broke before its end.
async fn answer(asked: reqwest::RequestBuilder) -> Option<Answer> {
    let response = asked.send().await.ok()?;
    let status = response.status();
    let retry_after = response.headers().contains_key("retry-after");
    let replayed = response.headers().contains_key("idempotency-replayed");
    let text = response.bytes().await.ok()?;
    let body = serde_json::from_slice(&text).unwrap_or(Value::Null);
    Some(Answer { status, retry_after, replayed, body })
}
