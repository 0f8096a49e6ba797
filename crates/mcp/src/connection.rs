//! A connection to a server that agreed on a protocol: its tools, calls, resources.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentry_domain::mcp_servers::MCP_TOOLS_MAX;
use agentry_domain::{Code, Error, Result};
use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest,
    ErrorData, Implementation, ListResourcesRequest, ListToolsRequest, PaginatedRequestParams,
    PingRequest, ProtocolVersion,
};
use rmcp::service::{
    ClientInitializeError, NotificationContext, Peer, PeerRequestOptions, RunningService,
    ServiceError, serve_client,
};
use rmcp::transport::{DynamicTransportError, Transport};
use rmcp::{ClientHandler, RoleClient};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{self, NotBegun};
use crate::process::Complaint;

/// Pages of a catalogue at most.
const PAGES_MAX: usize = 100;
/// Characters of a version that is not known.
const VERSION_CHARS_MAX: usize = 40;
/// Resources that are listed at most.
const RESOURCES_MAX: usize = 1_000;

/// A tool that a server has.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// What people call it.
    pub title: Option<String>,
    /// What models are told of it.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub input_schema: Value,
    /// The JSON schema of its structured result.
    pub output_schema: Option<Value>,
    /// What the server says of its effects.
    pub annotations: Option<Value>,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// `content`, `structuredContent`, `isError` as the protocol has them.
    pub result: Value,
    /// The same as text.
    pub json: String,
    /// Whether the tool failed.
    pub is_error: bool,
}

/// What a transport and its connection know of each other: whether it is to end,
/// whether it has, and why.
pub(crate) struct Link {
    closing: CancellationToken,
    ended: CancellationToken,
    failure: Mutex<Option<(Code, String)>>,
    complaint: Option<Complaint>,
}

impl Link {
    pub(crate) fn new(complaint: Option<Complaint>) -> Self {
        Self {
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
            failure: Mutex::new(None),
            complaint,
        }
    }

    /// It is to end.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Nothing is left of it.
    pub(crate) fn ended(&self) {
        self.ended.cancel();
    }

    /// It is to end for this reason; the first one counts.
    pub(crate) fn fail(&self, error: &Error) {
        if !self.is_closing() {
            let why = (error.code, error.detail.clone().into_owned());
            self.failure.lock().get_or_insert(why);
        }
        self.close();
    }

    /// What is said of a server that went away.
    pub(crate) fn gone(&self) -> String {
        match self.complaint.as_ref().and_then(Complaint::last_line) {
            Some(line) => format!("the MCP server went away; it last wrote: {line}"),
            None => "the MCP server went away".to_owned(),
        }
    }

    fn why(&self) -> Error {
        match self.failure.lock().clone() {
            Some((code, detail)) => Error::new(code, detail),
            None => Error::new(Code::McpUnreachable, self.gone()),
        }
    }
}

/// What a server may ask of us, which is nothing, and may tell.
struct Handler {
    changed: Arc<Changed>,
    version: ProtocolVersion,
}

/// How often a server said that its tools changed.
#[derive(Default)]
struct Changed {
    times: AtomicU64,
    news: Notify,
}

/// The versions that are spoken, oldest first; the newest is asked for.
pub(crate) fn versions() -> &'static [ProtocolVersion] {
    ProtocolVersion::known_up_to(&ProtocolVersion::LATEST_WITH_INITIALIZE)
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let us = Implementation::new("agentry", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
            .with_protocol_version(self.version.clone())
    }

    fn on_tool_list_changed(
        &self,
        _context: NotificationContext<RoleClient>,
    ) -> impl Future<Output = ()> + Send + '_ {
        self.changed.times.fetch_add(1, Ordering::AcqRel);
        self.changed.news.notify_waiters();
        std::future::ready(())
    }
}

/// A connection. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    service: RunningService<RoleClient, Handler>,
    link: Arc<Link>,
    changed: Arc<Changed>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.close();
    }
}

/// Ends what was begun, unless it is said that it stands.
struct Unless(Option<Arc<Link>>);

impl Drop for Unless {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.close();
        }
    }
}

impl Connection {
    /// Agrees on a protocol: on this version, or on an older one that is spoken here. When
    /// the server refuses it and says which ones it speaks, the error says which to ask for.
    pub(crate) async fn begin<T>(
        (transport, link): (T, Arc<Link>),
        version: ProtocolVersion,
        deadline: Instant,
    ) -> Result<Self>
    where
        T: Transport<RoleClient, Error = Error> + 'static,
    {
        let mut unless = Unless(Some(Arc::clone(&link)));
        let changed = Arc::new(Changed::default());
        let handler = Handler { changed: Arc::clone(&changed), version: version.clone() };
        let begun = tokio::time::timeout_at(deadline, serve_client(handler, transport)).await;
        let service = match begun {
            Ok(Ok(service)) => service,
            Ok(Err(error)) => {
                let failed = link.failure.lock().is_some();
                if failed {
                    return Err(link.why().caused_by(error));
                }
                let known = match &error {
                    ClientInitializeError::TransportError { error, .. } => known_in(error),
                    ClientInitializeError::JsonRpcError(refusal) => {
                        if let Some(other) = spoken_of(refusal).filter(|other| *other < version) {
                            let detail = "the MCP server speaks an older version";
                            let error = Error::new(Code::McpBadResponse, detail);
                            return Err(error.caused_by(Speaks(other)));
                        }
                        None
                    }
                    _ => None,
                };
                let known = known.unwrap_or_else(|| {
                    let detail = "the MCP server does not speak the protocol";
                    Error::new(Code::McpBadResponse, detail)
                });
                return Err(known.caused_by(error));
            }
            Err(_) => {
                let detail = "the MCP server did not agree on a protocol in time";
                return Err(Error::new(Code::McpTimeout, detail));
            }
        };
        let agreed = service.peer_info().map(|it| it.protocol_version.clone());
        if !agreed.as_ref().is_some_and(|agreed| versions().contains(agreed)) {
            let agreed = agreed.map(|it| it.to_string()).unwrap_or_default();
            let agreed: String = agreed.chars().take(VERSION_CHARS_MAX).collect();
            let detail =
                format!("the MCP server speaks version {agreed:?}, which is not known here");
            return Err(Error::new(Code::McpBadResponse, detail));
        }
        unless.0 = None;
        Ok(Self(Arc::new(Inner { service, link, changed })))
    }

    /// Whether it stands, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.0.link.is_closing() && !self.0.service.is_closed()
    }

    /// How often the server said so far that its tools changed.
    pub fn changes(&self) -> u64 {
        self.0.changed.times.load(Ordering::Acquire)
    }

    /// Waits until it has said so another time.
    pub async fn changed_since(&self, changes: u64) {
        let news = self.0.changed.news.notified();
        if self.changes() == changes {
            news.await;
        }
    }

    /// Ends it; calls under way fail.
    pub fn close(&self) {
        self.0.link.close();
        self.0.service.cancellation_token().cancel();
    }

    /// Waits until nothing is left of it: of a process, until its group is gone.
    pub async fn ended(&self) {
        self.0.link.ended.cancelled().await;
    }

    /// The tools of the server, all pages.
    pub async fn tools(&self, deadline: Instant) -> Result<Vec<Found>> {
        let list = |cursor| {
            let params = PaginatedRequestParams::default().with_cursor(cursor);
            ClientRequest::ListToolsRequest(ListToolsRequest {
                params: Some(params),
                ..ListToolsRequest::default()
            })
        };
        let tools = self.pages("tools", MCP_TOOLS_MAX, list, deadline).await?;
        tools.into_iter().map(found).collect()
    }

    /// The resources of the server, all pages; none of one that has none.
    pub async fn resources(&self, deadline: Instant) -> Result<Vec<Value>> {
        let has_some =
            self.0.service.peer_info().is_some_and(|it| it.capabilities.resources.is_some());
        if !has_some {
            return Ok(Vec::new());
        }
        let list = |cursor| {
            let params = PaginatedRequestParams::default().with_cursor(cursor);
            ClientRequest::ListResourcesRequest(ListResourcesRequest {
                params: Some(params),
                ..ListResourcesRequest::default()
            })
        };
        self.pages("resources", RESOURCES_MAX, list, deadline).await
    }

    /// Asks whether the server is there.
    pub async fn ping(&self, deadline: Instant) -> Result<()> {
        self.ask(ClientRequest::PingRequest(PingRequest::default()), deadline).await.map(drop)
    }

    /// Calls a tool. Its result has at most so many bytes as JSON.
    pub async fn call(
        &self,
        tool: &str,
        arguments: Map<String, Value>,
        deadline: Instant,
        bytes_max: usize,
    ) -> Result<Outcome> {
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let result = self.ask(request, deadline).await?;
        let json = serde_json::to_string(&result).map_err(Error::internal)?;
        let bytes = json.len();
        if bytes > bytes_max {
            let detail = format!("the tool gave {bytes} bytes, and may give {bytes_max}");
            return Err(Error::new(Code::McpBadResponse, detail));
        }
        if !result.get("content").is_some_and(Value::is_array) {
            let detail = "the MCP server answered a call with what is no result";
            return Err(Error::new(Code::McpBadResponse, detail));
        }
        let is_error = result.get("isError").and_then(Value::as_bool).unwrap_or(false);
        Ok(Outcome { result, json, is_error })
    }

    async fn pages(
        &self,
        name: &str,
        max: usize,
        list: impl Fn(Option<String>) -> ClientRequest,
        deadline: Instant,
    ) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let mut page = self.ask(list(cursor.take()), deadline).await?;
            let items = page.get_mut(name).map(Value::take);
            let Some(Value::Array(items)) = items else {
                let detail = format!("the MCP server answered without {name}");
                return Err(Error::new(Code::McpBadResponse, detail));
            };
            all.extend(items);
            if all.len() > max {
                let detail = format!("the MCP server has more than {max} {name}");
                return Err(Error::new(Code::McpBadResponse, detail));
            }
            match page.get("nextCursor").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => cursor = Some(next.to_owned()),
                _ => return Ok(all),
            }
        }
        let detail = format!("the MCP server has more than {PAGES_MAX} pages of {name}");
        Err(Error::new(Code::McpBadResponse, detail))
    }

    /// Asks something; the answer's result as JSON.
    async fn ask(&self, request: ClientRequest, deadline: Instant) -> Result<Value> {
        let peer: &Peer<RoleClient> = self.0.service.peer();
        let within = deadline.saturating_duration_since(Instant::now());
        let options = PeerRequestOptions::with_timeout(within);
        let asked = async {
            let handle = peer.send_cancellable_request(request, options).await?;
            handle.await_response().await
        };
        // The request's own time-out tells the server; this one holds in any case.
        let late = deadline + std::time::Duration::from_millis(250);
        match tokio::time::timeout_at(late, asked).await {
            Ok(Ok(result)) => serde_json::to_value(&result).map_err(Error::internal),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(Error::new(Code::McpTimeout, "the MCP server did not answer in time")),
        }
    }

    fn failed(&self, error: ServiceError) -> Error {
        match error {
            ServiceError::Timeout { .. } => {
                Error::new(Code::McpTimeout, "the MCP server did not answer in time")
            }
            ServiceError::McpError(data) => {
                let said: String =
                    data.message.chars().filter(|c| !c.is_control()).take(500).collect();
                Error::new(Code::McpRejected, format!("the MCP server refused: {said}"))
            }
            ServiceError::TransportSend(sent) if known_in(&sent).is_some() => {
                let known = known_in(&sent).unwrap_or_else(|| self.0.link.why());
                if !failure::is_not_begun(&known) {
                    return known.caused_by(sent);
                }
                self.0.link.fail(&known);
                self.close();
                known
            }
            error if self.0.link.is_closing() || !self.is_open() => {
                self.0.link.why().caused_by(error)
            }
            error => Error::new(Code::McpBadResponse, "the MCP server answered something else")
                .caused_by(error),
        }
    }
}

/// The newest version that a server speaks which refused another one, if it says so and it
/// is spoken here (MCP 2025-11-25, "Lifecycle, Error Handling").
fn spoken_of(refusal: &ErrorData) -> Option<ProtocolVersion> {
    let theirs = refusal.data.as_ref()?.get("supported")?.as_array()?;
    let is_theirs = |known: &&ProtocolVersion| theirs.iter().any(|it| *it == known.as_str());
    versions().iter().rev().find(is_theirs).cloned()
}

/// The version that a server speaks which refused another one.
#[derive(Debug, thiserror::Error)]
#[error("it speaks {0}")]
pub(crate) struct Speaks(pub(crate) ProtocolVersion);

/// An error of a transport of ours, if that is what it is.
fn known_in(error: &DynamicTransportError) -> Option<Error> {
    let known = error.error.downcast_ref::<Error>()?;
    let same = Error::new(known.code, known.detail.clone());
    Some(if failure::is_not_begun(known) { same.caused_by(NotBegun) } else { same })
}

fn found(tool: Value) -> Result<Found> {
    let unreadable = || Error::new(Code::McpBadResponse, "the MCP server has an unreadable tool");
    let Value::Object(mut tool) = tool else { return Err(unreadable()) };
    let mut text = |name: &str| match tool.remove(name) {
        Some(Value::String(text)) => Some(text.replace('\0', "\u{fffd}")),
        _ => None,
    };
    let (name, title, description) = (text("name"), text("title"), text("description"));
    let mut json = |name: &str| tool.remove(name).filter(|value| !value.is_null());
    Ok(Found {
        name: name.filter(|name| !name.is_empty()).ok_or_else(unreadable)?,
        title,
        description,
        input_schema: json("inputSchema").filter(Value::is_object).ok_or_else(unreadable)?,
        output_schema: json("outputSchema"),
        annotations: json("annotations"),
    })
}
