//! A server over streamable HTTP (MCP 2025-11-25, "Transports"): a POST for each
//! message, answered with JSON or with a stream of events that ends with the
//! answer. A stream that breaks before that is gone on with, where the server says
//! how. What a server says unasked comes on a stream of its own ([`listening`]).

mod listening;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::mcp_servers::MCP_TIMEOUT_MS_MAX;
use agentry_domain::{Code, Error, Result};
use agentry_outbound::{Ask, Client, PostJson, Reply, Url};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use rmcp::RoleClient;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, RequestId, ServerJsonRpcMessage,
    ServerResult,
};
use rmcp::transport::Transport;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connection::Link;
use crate::connector::Auth;
use crate::failure;
use crate::oauth::Tokens;
use crate::sse::EventData;
use crate::stdio::UNASKED_MAX;

/// Messages that were read and not taken yet.
const UNTAKEN_MAX: usize = 64;
/// The longest a POST and its answer take; each call has its own time-out before.
const POST_WITHIN: Duration = Duration::from_millis(MCP_TIMEOUT_MS_MAX as u64);
/// How often in a row a broken answer is gone on with that brings nothing new.
const RESUMES_MAX: u32 = 5;
/// How long until then when the server does not say.
const RESUME_AFTER: Duration = Duration::from_millis(200);
/// The longest that is waited for a stream because a server says so.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a stream may take to end behind its answer, so that its connection serves the
/// next call as well.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// How long a notification or the end of a session may take.
const TELL_WITHIN: Duration = Duration::from_secs(5);

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The transport.
pub(crate) struct Http {
    shared: Arc<Shared>,
    untaken: mpsc::Receiver<ServerJsonRpcMessage>,
}

struct Shared {
    client: Client,
    url: Url,
    auth: Auth,
    tokens: Option<Arc<Tokens>>,
    bytes_max: usize,
    link: Arc<Link>,
    read: mpsc::Sender<ServerJsonRpcMessage>,
    agreed: Mutex<Agreed>,
    /// Requests under way, which end when they are cancelled.
    asked: Mutex<HashMap<RequestId, CancellationToken>>,
    tasks: Tasks,
}

/// What is sent.
enum Sent {
    /// A message.
    Message(bytes::Bytes),
    /// That one listens, from behind an event or from now on.
    Listen(Option<HeaderValue>),
}

/// What the server said in its first answer.
#[derive(Clone, Default)]
struct Agreed {
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

/// A request that is under way.
struct Asked {
    shared: Arc<Shared>,
    id: RequestId,
    cancelled: CancellationToken,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.shared.asked.lock().remove(&self.id);
    }
}

impl Http {
    /// Opens a transport; nothing is sent yet. Its session ends with the link.
    pub(crate) fn open(
        client: Client,
        url: Url,
        auth: Auth,
        tokens: Option<Arc<Tokens>>,
        bytes_max: usize,
        tasks: &Tasks,
    ) -> (Self, Arc<Link>) {
        let link = Arc::new(Link::new(None));
        let (read, untaken) = mpsc::channel(UNTAKEN_MAX);
        let shared = Arc::new(Shared {
            client,
            url,
            auth,
            tokens,
            bytes_max,
            link: Arc::clone(&link),
            read,
            agreed: Mutex::default(),
            asked: Mutex::default(),
            tasks: tasks.clone(),
        });
        let (owned, stopping) = (Arc::clone(&shared), tasks.stopping().clone());
        tasks.spawn(async move {
            tokio::select! {
                () = owned.link.closing() => {}
                () = stopping.cancelled() => owned.link.close(),
            }
            owned.end_session().await;
            owned.link.ended();
        });
        (Self { shared, untaken }, link)
    }
}

impl Transport<RoleClient> for Http {
    type Error = Error;

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let asked = match &item {
            ClientJsonRpcMessage::Request(request) => {
                let cancelled = CancellationToken::new();
                shared.asked.lock().insert(request.id.clone(), cancelled.clone());
                let id = request.id.clone();
                Some(Asked { shared: Arc::clone(&shared), id, cancelled })
            }
            _ => None,
        };
        if let ClientJsonRpcMessage::Notification(notification) = &item
            && let ClientNotification::CancelledNotification(cancelled) = &notification.notification
            && let Some(id) = &cancelled.params.request_id
            && let Some(token) = shared.asked.lock().get(id)
        {
            token.cancel();
        }
        let is_ready = matches!(&item, ClientJsonRpcMessage::Notification(notification)
            if matches!(notification.notification, ClientNotification::InitializedNotification(_)));
        async move {
            let Some(asked) = asked else {
                let deadline = Instant::now() + TELL_WITHIN;
                shared.post(&item, deadline).await?;
                if is_ready {
                    let listening = Arc::clone(&shared).listen();
                    shared.tasks.spawn(listening);
                }
                return Ok(());
            };
            tokio::select! {
                () = asked.cancelled.cancelled() => Ok(()),
                () = shared.link.closing() => {
                    Err(Error::new(Code::McpUnreachable, "the connection was ended"))
                }
                answered = shared.ask(&item, &asked.id) => answered,
            }
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        let link = Arc::clone(&self.shared.link);
        tokio::select! {
            message = self.untaken.recv() => message,
            () = link.closing() => None,
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.shared.link.close();
        Ok(())
    }
}

impl Shared {
    /// Sends a request, and reads on until its answer came.
    async fn ask(&self, item: &ClientJsonRpcMessage, id: &RequestId) -> Result<()> {
        let is_first = matches!(item, ClientJsonRpcMessage::Request(request)
            if matches!(request.request, ClientRequest::InitializeRequest(_)));
        let reply = self.post(item, Instant::now() + POST_WITHIN).await?;
        let session = reply.headers().get(SESSION_ID).cloned();
        let media_type = reply.headers().get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|it| it.to_str().ok()).unwrap_or_default();
        let is_stream = media_type.starts_with("text/event-stream");
        if !is_stream && !media_type.starts_with("application/json") {
            let detail = format!("the MCP server answered with {media_type:?}");
            return Err(Error::new(Code::McpBadResponse, detail));
        }
        if !is_stream {
            let body = reply.bytes().await.map_err(failure::of_outbound)?;
            let message: ServerJsonRpcMessage =
                serde_json::from_slice(&body).map_err(|_| unreadable())?;
            if !answers(&message, id) {
                return Err(unreadable());
            }
            return self.take(message, is_first, session).await;
        }
        let mut answer = Answer { id, is_first, session, unasked: 0 };
        let mut events = EventData::default();
        let mut reply = reply;
        let (mut resumes, mut place) = (0, None);
        loop {
            let broken = match self.read(reply, &mut events, &mut answer).await {
                Ok(true) => return Ok(()),
                Ok(false) => broken_off(),
                Err(error) if error.code == Code::McpBadResponse => return Err(error),
                Err(error) => error,
            };
            // Of the first answer nobody knows yet in which session it is.
            let known = events.last_id().filter(|_| !is_first).map(str::to_owned);
            let Some(last) = known else { return Err(broken) };
            resumes = if place.as_ref() == Some(&last) { resumes + 1 } else { 0 };
            if resumes == RESUMES_MAX {
                return Err(broken);
            }
            tokio::time::sleep(events.retry().unwrap_or(RESUME_AFTER).min(RETRY_MAX)).await;
            reply = self.resume(&last).await?;
            events.begin_again();
            place = Some(last);
        }
    }

    /// Goes on with an answer behind an event.
    async fn resume(&self, last: &str) -> Result<Reply> {
        let last = HeaderValue::from_str(last).map_err(|_| broken_off())?;
        let deadline = Instant::now() + POST_WITHIN;
        let reply = self.send_one(&Sent::Listen(Some(last)), deadline).await?;
        // The call was begun: that its session is over, or that nothing can be gone on with,
        // does not undo it.
        if reply.status().is_success() { Ok(reply) } else { Err(broken_off()) }
    }

    /// Reads a stream until its end, or until the answer came: whether it did.
    async fn read(
        &self,
        reply: Reply,
        events: &mut EventData,
        answer: &mut Answer<'_>,
    ) -> Result<bool> {
        let mut chunks = reply.chunks();
        while let Some(piece) = chunks.next().await {
            let piece = piece.map_err(failure::of_outbound)?;
            for message in self.messages(&piece, events)? {
                let is_last = answers(&message, answer.id);
                let is_first = answer.is_first && is_last;
                self.take(message, is_first, answer.session.clone()).await?;
                if is_last {
                    // What is read to its end leaves a connection behind, for the next call.
                    self.tasks.spawn(async move {
                        let drained = async { while let Some(Ok(_)) = chunks.next().await {} };
                        let _ = tokio::time::timeout(DRAIN_WITHIN, drained).await;
                    });
                    return Ok(true);
                }
                answer.unasked += 1;
                if answer.unasked > UNASKED_MAX {
                    return Err(endless());
                }
            }
        }
        Ok(false)
    }

    /// The messages that a piece of a stream completes.
    fn messages(&self, piece: &[u8], events: &mut EventData) -> Result<Vec<ServerJsonRpcMessage>> {
        let too_large = |_| {
            let detail = format!("the MCP server sent more than {} bytes", self.bytes_max);
            Error::new(Code::McpBadResponse, detail)
        };
        let data = events.push(piece, self.bytes_max).map_err(too_large)?;
        let said = data.iter().filter(|data| !data.trim().is_empty());
        said.map(|data| serde_json::from_str(data).map_err(|_| unreadable())).collect()
    }

    /// Gives a message to whoever waits for it; the first answer says what was agreed.
    async fn take(
        &self,
        message: ServerJsonRpcMessage,
        is_first: bool,
        session: Option<HeaderValue>,
    ) -> Result<()> {
        if is_first && let ServerJsonRpcMessage::Response(response) = &message {
            let version = match &response.result {
                ServerResult::InitializeResult(result) => {
                    HeaderValue::try_from(result.protocol_version.to_string()).ok()
                }
                _ => None,
            };
            *self.agreed.lock() = Agreed { session, version };
        }
        let gone = |_| Error::new(Code::McpUnreachable, "the connection was ended");
        self.read.send(message).await.map_err(gone)
    }

    /// Sends a message, and refuses what is no success.
    async fn post(&self, item: &ClientJsonRpcMessage, deadline: Instant) -> Result<Reply> {
        let body: bytes::Bytes = serde_json::to_vec(item).map_err(Error::internal)?.into();
        let reply = self.send_one(&Sent::Message(body), deadline).await?;
        let status = reply.status();
        if status.is_success() {
            return Ok(reply);
        }
        if status == StatusCode::NOT_FOUND && self.agreed.lock().session.is_some() {
            // Whoever asked ends the connection, and may ask again over another one.
            return Err(failure::of_ended_session());
        }
        Err(failure::of_status(status))
    }

    /// Sends something; once more with another token when the first one was refused,
    /// which says that nothing was done.
    async fn send_one(&self, sent: &Sent, deadline: Instant) -> Result<Reply> {
        let mut refused = None;
        loop {
            let mut headers = self.headers(refused.as_ref(), deadline).await?;
            let shown = headers.get(header::AUTHORIZATION).cloned();
            let url = self.url.clone();
            let reply = match sent {
                Sent::Message(body) => {
                    let both = HeaderValue::from_static("application/json, text/event-stream");
                    headers.insert(header::ACCEPT, both);
                    let call = PostJson {
                        url,
                        headers,
                        body: body.clone(),
                        deadline,
                        first_byte_timeout: None,
                        idle_timeout: None,
                    };
                    self.client.post_json(call).await
                }
                Sent::Listen(last) => {
                    let events = HeaderValue::from_static("text/event-stream");
                    headers.insert(header::ACCEPT, events);
                    if let Some(last) = last {
                        headers.insert(LAST_EVENT_ID, last.clone());
                    }
                    self.client.ask(Ask { method: Method::GET, url, headers, deadline }).await
                }
            };
            let reply = reply.map_err(failure::of_outbound)?;
            let is_refused = reply.status() == StatusCode::UNAUTHORIZED;
            if is_refused && self.tokens.is_some() && refused.is_none() && shown.is_some() {
                refused = shown;
                continue;
            }
            return Ok(reply);
        }
    }

    async fn headers(&self, refused: Option<&HeaderValue>, deadline: Instant) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let unusable = || Error::internal("a stored secret that no header can carry");
        let shown = match &self.auth {
            Auth::None => None,
            Auth::Bearer(token) => Some((header::AUTHORIZATION, format!("Bearer {token}"))),
            Auth::Header { name, value } => {
                Some((HeaderName::try_from(name).map_err(|_| unusable())?, value.clone()))
            }
            Auth::ClientCredentials(_) => None,
        };
        if let Some((name, value)) = shown {
            let mut value = HeaderValue::try_from(value).map_err(|_| unusable())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(tokens) = &self.tokens {
            headers.insert(header::AUTHORIZATION, tokens.token(refused, deadline).await?);
        }
        let Agreed { session, version } = self.agreed.lock().clone();
        if let Some(session) = session {
            headers.insert(SESSION_ID, session);
        }
        if let Some(version) = version {
            headers.insert(PROTOCOL_VERSION, version);
        }
        Ok(headers)
    }

    /// Tells the server that its session is over, if it began one.
    async fn end_session(&self) {
        if self.agreed.lock().session.is_none() {
            return;
        }
        let deadline = Instant::now() + TELL_WITHIN;
        let Ok(headers) = self.headers(None, deadline).await else { return };
        let ask = Ask { method: Method::DELETE, url: self.url.clone(), headers, deadline };
        // It may not know that, and forgets by itself.
        drop(self.client.ask(ask).await);
    }
}

fn answers(message: &ServerJsonRpcMessage, id: &RequestId) -> bool {
    match message {
        ServerJsonRpcMessage::Response(response) => response.id == *id,
        ServerJsonRpcMessage::Error(error) => error.id.as_ref() == Some(id),
        _ => false,
    }
}

/// The answer that is waited for.
struct Answer<'a> {
    id: &'a RequestId,
    is_first: bool,
    session: Option<HeaderValue>,
    /// Messages that came before it.
    unasked: u32,
}

fn broken_off() -> Error {
    let detail = "the MCP server ended its answer before it was there";
    Error::new(Code::McpUnreachable, detail)
}

fn endless() -> Error {
    let detail = "the MCP server sends without end what nobody asked for";
    Error::new(Code::McpBadResponse, detail)
}

fn unreadable() -> Error {
    Error::new(Code::McpBadResponse, "the MCP server sent what is no message")
}
