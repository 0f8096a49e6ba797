//! What tests of runs have in common: a server with a model that does what it is
//! told, and clients that wait, stream, or go away.

use std::pin::Pin;

use agentry_testkit::{Behaviour, ModelServer};
use futures::{Stream, StreamExt as _};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::server::{Engine, Home, Process, answer, wait_until};

/// A server, and an agent whose model is the test's.
pub(crate) struct Bed {
    pub(crate) model: ModelServer,
    pub(crate) process: Process,
    pub(crate) home: Home,
    pub(crate) agent: String,
}

/// A client's request under way.
pub(crate) type Waiting = JoinHandle<(StatusCode, Value)>;

impl Bed {
    pub(crate) async fn new(engine: Engine) -> Self {
        Self::with(engine, &[]).await
    }

    pub(crate) async fn with(engine: Engine, settings: &[(&str, &str)]) -> Self {
        Self::with_agent(engine, settings, json!({})).await
    }

    pub(crate) async fn with_agent(engine: Engine, settings: &[(&str, &str)], more: Value) -> Self {
        let model = ModelServer::start().await;
        model.by_default(Behaviour::echo());
        let home = Home::new(engine).await;
        let process = start(&home, &model, settings);
        let mut agent = json!({"name": "llm", "model": "compatible/near/m"});
        agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, agent) = process.post("/api/v1/agents", agent).await;
        assert_eq!(status, StatusCode::CREATED, "{agent}");
        Self { model, process, home, agent: agent["id"].as_str().unwrap().to_owned() }
    }

    /// A session of nobody.
    pub(crate) async fn session(&self) -> String {
        let (_, session) = self.process.post("/api/v1/sessions", json!({})).await;
        session["id"].as_str().unwrap().to_owned()
    }

    /// The path of the agent's runs.
    pub(crate) fn runs(&self) -> String {
        format!("/api/v1/agents/{}/runs", self.agent)
    }

    pub(crate) fn request(&self, body: &Value) -> RequestBuilder {
        self.process.request(Method::POST, &self.runs()).json(body)
    }

    /// Sends a run and waits for it elsewhere.
    pub(crate) fn send(&self, body: &Value) -> Waiting {
        tokio::spawn(answer(self.request(body)))
    }

    /// Sends a run into a session, and returns when it is on disk: its id, and what
    /// it will be answered.
    pub(crate) async fn send_into(&self, session: &str, body: Value) -> (String, Waiting) {
        let before = self.ids(session).await;
        let mut all = json!({"session_id": session});
        all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let waiting = self.send(&all);
        wait_until(|| async { self.ids(session).await.len() > before.len() }).await;
        let now = self.ids(session).await;
        (now.into_iter().find(|id| !before.contains(id)).unwrap(), waiting)
    }

    /// The ids of a session's runs, in order.
    pub(crate) async fn ids(&self, session: &str) -> Vec<String> {
        let path = format!("/api/v1/runs?order=asc&limit=500&session_id={session}");
        let (status, page) = self.process.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let runs = page["items"].as_array().unwrap();
        runs.iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn run(&self, id: &str) -> Value {
        let (status, run) = self.process.get(&format!("/api/v1/runs/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{run}");
        run
    }

    pub(crate) async fn cancel(&self, id: &str) -> (StatusCode, Value) {
        answer(self.process.request(Method::POST, &format!("/api/v1/runs/{id}/cancel"))).await
    }

    /// Waits until a run has a status.
    pub(crate) async fn wait_status(&self, id: &str, status: &str) {
        wait_until(|| async { self.run(id).await["status"] == status }).await;
    }

    /// Role and content of what was said in a session, in order.
    pub(crate) async fn said(&self, session: &str) -> Vec<(String, String)> {
        let messages = self.messages(session).await;
        let text = |message: &Value, name: &str| message[name].as_str().unwrap().to_owned();
        messages.iter().map(|it| (text(it, "role"), text(it, "content"))).collect()
    }

    pub(crate) async fn messages(&self, session: &str) -> Vec<Value> {
        let path = format!("/api/v1/sessions/{session}/messages?order=asc&limit=500");
        let (status, page) = self.process.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["items"].as_array().unwrap().clone()
    }
}

/// A process that serves a home with this model.
pub(crate) fn start(home: &Home, model: &ModelServer, settings: &[(&str, &str)]) -> Process {
    let url = model.base_url();
    let mut all = vec![("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str())];
    all.extend(settings);
    Process::start_with(home, &all)
}

/// One exchange, as pairs for comparing.
pub(crate) fn said(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect()
}

/// A stream of server-sent events that a client reads as far as it likes.
pub(crate) struct Events {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>,
    read: String,
}

impl Events {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.bytes_stream().map(|piece| piece.map(|bytes| bytes.to_vec()));
        Self { body: Box::pin(body), read: String::new() }
    }

    /// The next event: its name and data. None at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, String)> {
        loop {
            while let Some((event, rest)) = self.read.split_once("\n\n") {
                let field = |name: &str| {
                    let found = event.lines().find_map(|line| line.strip_prefix(name));
                    found.map(|text| text.trim().to_owned())
                };
                let found = field("data:").map(|data| (field("event:").unwrap_or_default(), data));
                self.read = rest.to_owned();
                if found.is_some() {
                    return found;
                }
            }
            let piece = self.body.next().await?.unwrap();
            self.read.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// Reads until this much text came.
    pub(crate) async fn text(&mut self, enough: usize) -> String {
        let mut text = String::new();
        while text.len() < enough {
            let (name, data) = self.next().await.expect("there is more to come");
            if name == "message.delta" {
                let data: Value = serde_json::from_str(&data).unwrap();
                text.push_str(data["text"].as_str().unwrap());
            }
        }
        text
    }

    /// Reads to the end: the last event with a name.
    pub(crate) async fn last(&mut self) -> (String, Value) {
        let mut last = None;
        while let Some((name, data)) = self.next().await {
            last = Some((name, serde_json::from_str(&data).unwrap_or(Value::Null)));
        }
        last.unwrap()
    }
}

/// Says these 12 characters, waits at the gate, and says the rest.
pub(crate) fn halting() -> Behaviour {
    Behaviour { hold_before_write: Some(3), ..Behaviour::text("Four beside four beside four.") }
}

/// How much a halting model says before the gate.
pub(crate) const HALTING_BYTES: usize = 4;
