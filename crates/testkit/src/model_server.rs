//! A model server that speaks the providers' protocols over a real socket, keeps what
//! it was sent, and behaves as badly as a test asks for. It knows no language:
//! it says what it was told to say.

mod behaviour;
mod embeddings;
mod protocol;
mod wire;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::ports::{Clock as _, SystemClock};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use self::behaviour::{Answer, Behaviour, Chunking, Embedding, End, Maker};
use self::protocol::Said;
pub use self::protocol::{Call, Protocol};
use crate::WAIT_MAX;

/// The model that it lists. It answers for any.
const MODEL: &str = "testkit-1";

/// The server. It stops when dropped.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

/// A request for an answer, as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it came to.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Value,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<Scripted>,
    counts: watch::Sender<Counts>,
    gate_open: watch::Sender<bool>,
    /// Writes that behaviours with `stepped` may make.
    steps: Semaphore,
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Scripted {
    next: VecDeque<Behaviour>,
    default: Behaviour,
    embedding: Embedding,
    key: Option<String>,
    received: Vec<Received>,
    said: Vec<String>,
    statements: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    received: usize,
    held: usize,
    abandoned: usize,
}

impl ModelServer {
    /// Starts one on a free port of the loopback.
    pub async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port is found");
        let address = listener.local_addr().expect("a bound socket has an address");
        let tasks = Tasks::default();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            counts: watch::Sender::new(Counts::default()),
            gate_open: watch::Sender::new(true),
            steps: Semaphore::new(0),
            stopping: tasks.stopping().clone(),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(completion))
            .route("/v1/messages", post(completion))
            .route("/api/chat", post(completion))
            .route("/v1beta/models/{method}", post(completion))
            .route("/v1/publishers/google/models/{method}", post(completion))
            .route(
                "/v1/projects/{project}/locations/{location}/publishers/google/models/{method}",
                post(completion),
            )
            .route("/v1/embeddings", post(embeddings::answer))
            .route("/api/embed", post(embeddings::answer))
            .route("/token", post(token))
            .route("/v1/models", get(models))
            .fallback(async || {
                let protocol = Protocol::OpenAi;
                refusal(protocol, StatusCode::NOT_FOUND, "unknown path", "unknown_url")
            })
            .with_state(shared.clone());
        let stopping = tasks.stopping().clone();
        tasks.spawn(async move {
            let serving = axum::serve(listener, router)
                .with_graceful_shutdown(stopping.cancelled_owned())
                .await;
            serving.expect("serving does not fail");
        });
        Self { address, shared, tasks }
    }

    /// What clients are configured with; ends in `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it is, without a path.
    pub fn root_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The forms that came to `/token`, where a service account's statement is exchanged
    /// for a token: that is whatever [`ModelServer::require_key`] demands.
    pub fn statements(&self) -> Vec<String> {
        self.shared.state.lock().statements.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this for the next request that has nothing to follow yet; several
    /// are used up in order.
    pub fn next(&self, behaviour: Behaviour) {
        self.shared.state.lock().next.push_back(behaviour);
    }

    /// Does this for every request that `next` does not cover.
    pub fn by_default(&self, behaviour: Behaviour) {
        self.shared.state.lock().default = behaviour;
    }

    /// Does this with texts that are to be turned into vectors.
    pub fn embed(&self, embedding: Embedding) {
        self.shared.state.lock().embedding = embedding;
    }

    /// Answers 401 from now on to whoever does not show this key.
    pub fn require_key(&self, key: &str) {
        self.shared.state.lock().key = Some(key.to_owned());
    }

    /// The requests for completions so far, refused ones included.
    pub fn received(&self) -> Vec<Received> {
        self.shared.state.lock().received.clone()
    }

    /// Closes the gate: requests are taken and kept waiting before their first
    /// byte, or before the write that their behaviour names.
    pub fn hold(&self) {
        self.shared.gate_open.send_replace(false);
    }

    /// Opens the gate.
    pub fn release(&self) {
        self.shared.gate_open.send_replace(true);
    }

    /// Lets behaviours with `stepped` write so many pieces more, all together.
    pub fn step(&self, writes: usize) {
        self.shared.steps.add_permits(writes);
    }

    /// The texts that it set out to say so far.
    pub fn said(&self) -> Vec<String> {
        self.shared.state.lock().said.clone()
    }

    /// Waits until so many requests have come, counted from the start.
    pub async fn wait_received(&self, count: usize) -> Vec<Received> {
        self.wait("requests", |counts| counts.received >= count).await;
        self.received()
    }

    /// Waits until so many requests wait at the gate.
    pub async fn wait_held(&self, count: usize) {
        self.wait("requests at the gate", |counts| counts.held >= count).await;
    }

    /// Waits until so many clients have gone before their answer was complete,
    /// counted from the start.
    pub async fn wait_abandoned(&self, count: usize) {
        self.wait("abandoned requests", |counts| counts.abandoned >= count).await;
    }

    /// Stops it and waits until its port is closed.
    pub async fn stop(self) {
        assert!(self.tasks.stop(WAIT_MAX).await, "the model server stops");
    }

    async fn wait(&self, what: &str, enough: impl FnMut(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        let waited = tokio::time::timeout(WAIT_MAX, counts.wait_for(enough)).await.is_ok();
        let counts = *self.shared.counts.borrow();
        assert!(waited, "waited in vain for {what}; there are {counts:?}");
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

async fn models() -> Json<Value> {
    let model = json!({"id": MODEL, "object": "model", "created": 0, "owned_by": "testkit"});
    Json(json!({"object": "list", "data": [model]}))
}

/// The exchange of RFC 7523, section 2.1.
async fn token(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let form = String::from_utf8_lossy(&body).into_owned();
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == "application/x-www-form-urlencoded");
    let key = {
        let mut state = shared.state.lock();
        state.statements.push(form.clone());
        state.key.clone().unwrap_or_default()
    };
    let is_statement = form.contains("assertion=") && form.contains("jwt-bearer");
    if !is_form || !is_statement {
        let body = json!({"error": "invalid_grant", "error_description": "no statement"});
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    Json(json!({"access_token": key, "expires_in": 3_599, "token_type": "Bearer"})).into_response()
}

fn protocol_of(path: &str) -> Protocol {
    match path {
        "/v1/messages" => Protocol::Anthropic,
        "/api/chat" => Protocol::Ollama,
        path if path.contains("/models/") => Protocol::Google,
        _ => Protocol::OpenAi,
    }
}

async fn completion(
    State(shared): State<Arc<Shared>>,
    uri: http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let protocol = protocol_of(uri.path());
    let mut request = serde_json::from_slice::<Value>(&body);
    if let Ok(request) = &mut request
        && protocol == Protocol::Google
        && uri.path().ends_with(":streamGenerateContent")
    {
        request["stream"] = true.into();
    }
    let shown = headers.clone();
    let (number, behaviour, key) = {
        let mut state = shared.state.lock();
        let body = request.as_ref().cloned().unwrap_or_default();
        let path = uri.path().to_owned();
        state.received.push(Received { path, headers, body });
        let behaviour = state.next.pop_front().unwrap_or_else(|| state.default.clone());
        (state.received.len(), behaviour, state.key.clone())
    };
    let mut present = Present { shared: shared.clone(), served: false };
    shared.counts.send_modify(|counts| counts.received += 1);
    if behaviour.hold_before_write.is_none() {
        shared.pass_gate().await;
    }
    if key.is_some_and(|key| !protocol.shows(&shown, &key)) {
        present.served = true;
        let status = StatusCode::UNAUTHORIZED;
        return refusal(protocol, status, "Incorrect API key", "invalid_api_key");
    }
    let request = request.map_err(|error| error.to_string());
    let request = match request.and_then(|request| protocol.checked(request, &shown)) {
        Ok(request) => request,
        Err(reason) => {
            present.served = true;
            return refusal(protocol, StatusCode::BAD_REQUEST, &reason, "invalid_value");
        }
    };
    shared.pause(behaviour.first_byte_delay).await;
    answer(protocol, number, &request, behaviour, present).await
}

async fn answer(
    protocol: Protocol,
    number: usize,
    request: &Value,
    behaviour: Behaviour,
    mut present: Present,
) -> Response {
    let text = |text: String| Said { text, calls: Vec::new() };
    let said = match &behaviour.answer {
        Answer::Text(said) => text(said.clone()),
        Answer::Calls(said, calls) => Said { text: said.clone(), calls: calls.clone() },
        Answer::Made(make) => text((make.0)(&protocol.last_content(request))),
        Answer::Echo => text(protocol.last_content(request)),
        Answer::Obliging => match oblige(request) {
            Ok(said) => said,
            Err(status) => {
                present.served = true;
                return refusal(protocol, status, "as it was asked to", "test_error");
            }
        },
        Answer::Numbered => text(format!("{number}: {}", protocol.last_content(request))),
        Answer::Raw { content_type, writes } => {
            let (content_type, writes) = (content_type.clone(), writes.clone());
            return paced(&content_type, writes, behaviour, present);
        }
        Answer::Refusal { status, message } => {
            present.served = true;
            let status = StatusCode::from_u16(*status).expect("a behaviour has a valid status");
            if status == StatusCode::NO_CONTENT {
                return status.into_response();
            }
            return refusal(protocol, status, message, "test_error");
        }
        Answer::Status { status, headers, content_type, body } => {
            present.served = true;
            return with_status(*status, headers, content_type, body);
        }
        Answer::Silence => {
            present.shared.stopping.cancelled().await;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    present.shared.state.lock().said.push(said.text.clone());
    let about = wire::About {
        id: format!("chatcmpl-{number}"),
        created_seconds: SystemClock.now().micros() / 1_000_000,
        request,
    };
    if protocol.wants_stream(request) && !behaviour.ignores_stream {
        let writes = protocol.stream(&about, &said, &behaviour);
        return paced(protocol.stream_type(), writes, behaviour, present);
    }
    let whole = protocol.whole(&about, &said, &behaviour).to_string();
    paced("application/json", vec![whole.into()], behaviour, present)
}

fn oblige(request: &Value) -> Result<Said, StatusCode> {
    let text = |text: String| Said { text, calls: Vec::new() };
    let last = Protocol::OpenAi.last_content(request);
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let role = messages.last().map_or("", |last| last["role"].as_str().unwrap_or_default());
    if let Some(status) = last.strip_prefix("fail ") {
        let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok());
        return Err(status.unwrap_or(StatusCode::IM_A_TEAPOT));
    }
    if last == "list" {
        let said = messages.iter().filter(|message| message["role"] != "system");
        let said: Vec<&Value> = said.map(|message| &message["content"]).collect();
        return Ok(text(json!(said).to_string()));
    }
    if request["response_format"]["type"] == "json_schema" {
        return Ok(text(json!({"city": "Bonn"}).to_string()));
    }
    match request["tools"][0]["function"]["name"].as_str() {
        Some(name) if role == "user" => {
            let calls = vec![Call::new(name, json!({"city": "Bonn"}))];
            Ok(Said { text: String::new(), calls })
        }
        _ => Ok(text(last)),
    }
}

fn refusal(protocol: Protocol, status: StatusCode, message: &str, code: &str) -> Response {
    (status, Json(protocol.refusal(status.as_u16(), message, code))).into_response()
}

fn with_status(
    status: u16,
    headers: &[(String, String)],
    content_type: &str,
    body: &str,
) -> Response {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a behaviour has a valid status");
    response.headers_mut().insert(header::CONTENT_TYPE, value(content_type));
    for (name, text) in headers {
        let name: HeaderName = name.parse().expect("a behaviour has valid header names");
        response.headers_mut().insert(name, value(text));
    }
    response
}

fn value(text: &str) -> HeaderValue {
    text.parse().expect("a behaviour has valid header values")
}

/// The body, piece by piece.
struct Writing {
    writes: std::vec::IntoIter<Bytes>,
    written: usize,
    behaviour: Behaviour,
    present: Present,
}

fn paced(
    content_type: &str,
    writes: Vec<Bytes>,
    behaviour: Behaviour,
    present: Present,
) -> Response {
    let writing = Writing { writes: writes.into_iter(), written: 0, behaviour, present };
    let body = futures::stream::try_unfold(writing, next_write);
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, value(content_type));
    response
}

async fn next_write(mut writing: Writing) -> Result<Option<(Bytes, Writing)>, &'static str> {
    let Writing { writes, written, behaviour, present } = &mut writing;
    match behaviour.end {
        End::CutAfter(after) if *written >= after => {
            // Not ready once: only then does hyper send what it was given.
            tokio::task::yield_now().await;
            present.served = true;
            return Err("cut, as the test asked");
        }
        End::HangAfter(after) if *written >= after => {
            present.shared.stopping.cancelled().await;
            return Err("the server stops");
        }
        _ => {}
    }
    if behaviour.hold_before_write == Some(*written) {
        present.shared.pass_gate().await;
    }
    let Some(bytes) = writes.next() else {
        present.served = true;
        return Ok(None);
    };
    if *written > 0 {
        present.shared.pause(behaviour.write_delay).await;
    }
    if behaviour.stepped {
        present.shared.take_step().await;
    }
    *written += 1;
    Ok(Some((bytes, writing)))
}

impl Shared {
    async fn pass_gate(&self) {
        let mut gate = self.gate_open.subscribe();
        if *gate.borrow_and_update() {
            return;
        }
        let _held = Held::new(self);
        tokio::select! {
            _ = gate.wait_for(|open| *open) => {}
            () = self.stopping.cancelled() => {}
        }
    }

    async fn take_step(&self) {
        tokio::select! {
            step = self.steps.acquire() => {
                step.expect("the steps are never closed").forget();
            }
            () = self.stopping.cancelled() => {}
        }
    }

    async fn pause(&self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// Counts a request among the held ones while it lives.
struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.counts.send_modify(|counts| counts.held += 1);
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.held -= 1);
    }
}

/// A request being served. When it goes away unserved, its client did.
struct Present {
    shared: Arc<Shared>,
    served: bool,
}

impl Drop for Present {
    fn drop(&mut self) {
        if !self.served && !self.shared.stopping.is_cancelled() {
            self.shared.counts.send_modify(|counts| counts.abandoned += 1);
        }
    }
}
