//! Calls of an MCP server's tools, and its resources: within a time, a size and a
//! number at once.

use std::time::Duration;

use agentry_domain::idempotency::Progress;
use agentry_domain::log::EntityKind;
use agentry_domain::{Caller, Code, Error, McpServerId, Once, Result, WorkerId};
use agentry_mcp::{NotBegun, Outcome};
use agentry_store::Write;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Known;
use crate::{Engine, entry};

/// How long a request waits until it looks again what became of one with the same key
/// that another process has; it doubles.
const LOOK_AGAIN_FIRST: Duration = Duration::from_millis(20);
/// The longest such wait.
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(500);
/// How long before its own deadline a request stops to wait for another one.
const ANSWER_BEFORE: Duration = Duration::from_millis(250);
/// The longest wait before what came of a call is stored again, when the storage failed.
const STORE_AGAIN_MAX: Duration = Duration::from_secs(5);
/// The first one.
const STORE_AGAIN_FIRST: Duration = Duration::from_millis(100);

/// What a tool gave.
#[derive(Debug)]
pub struct McpResult {
    /// JSON: `content`, `structuredContent`, `isError` as the protocol has them.
    pub json: String,
    /// Whether it is the answer of an earlier request.
    pub replayed: bool,
}

/// Why a call gave nothing.
pub(crate) struct CallFailed {
    error: Error,
    /// Whether the server was asked, so that there may have been an effect.
    begun: bool,
}

impl CallFailed {
    fn before(error: Error) -> Self {
        Self { error, begun: false }
    }

    fn is_to_be_repeated(&self) -> bool {
        self.error.cause.as_ref().is_some_and(|it| it.is::<NotBegun>())
    }
}

impl From<CallFailed> for Error {
    fn from(failed: CallFailed) -> Self {
        failed.error
    }
}

/// A tool to be called.
struct Wanted {
    known: Known,
    tool: String,
    arguments: Map<String, Value>,
}

impl Engine {
    /// Calls a tool; with a key once, whoever asks and however often: the request is
    /// claimed before the call, and what came of it is remembered. A request with the
    /// same key waits for the answer, at most until `deadline`.
    pub async fn mcp_tool_call(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        id: McpServerId,
        (tool, arguments): (&str, Map<String, Value>),
        deadline: Instant,
    ) -> Result<McpResult> {
        let Some(once) = once else {
            let known = self.mcp_known(caller.org, id).await?;
            let outcome = self.mcp_call(caller, &known, tool, arguments, None).await?;
            return Ok(McpResult { json: outcome.json, replayed: false });
        };
        let mut wait = LOOK_AGAIN_FIRST;
        let until = deadline.checked_sub(ANSWER_BEFORE).unwrap_or(deadline);
        loop {
            // Heard from here on, so that nothing that ends before the look is missed.
            let settled = self.0.mcp.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if let Some(before) = self.remembered(caller, Some(once)).await? {
                match before.progress {
                    Progress::Over => return remembered_result(before.answer),
                    Progress::Failed(code, detail) => return Err(Error::new(code, detail)),
                    Progress::UnderWay(holder) if self.is_gone(holder).await? => {
                        let detail = "the process that called the tool for this Idempotency-Key \
                                      ended before the answer was there";
                        return Err(Error::new(Code::CallInterrupted, detail));
                    }
                    Progress::UnderWay(_) => {}
                }
                tokio::select! {
                    () = settled => {}
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(LOOK_AGAIN_MAX),
                    () = tokio::time::sleep_until(until) => {
                        let detail = "another request with this Idempotency-Key is under way";
                        return Err(Error::new(Code::Conflict, detail));
                    }
                }
                continue;
            }
            let known = self.mcp_known(caller.org, id).await?;
            let (engine, caller, once) = (self.clone(), *caller, once.clone());
            let wanted = Wanted { known, tool: tool.to_owned(), arguments: arguments.clone() };
            // It goes on without its client, who may ask again what came of it.
            let call = self
                .0
                .tasks
                .spawn(async move { engine.mcp_call_claiming(&caller, &once, wanted).await });
            if let Some(result) = call.await.map_err(Error::internal)?? {
                return Ok(result);
            }
        }
    }

    /// Whether a process that claimed something has ended.
    async fn is_gone(&self, holder: WorkerId) -> Result<bool> {
        Ok(holder != self.0.worker && !self.0.store.worker_lives(holder).await?)
    }

    /// Claims a call, makes it, and notes what came of it; none when another request was
    /// before this one.
    async fn mcp_call_claiming(
        &self,
        caller: &Caller,
        once: &Once,
        wanted: Wanted,
    ) -> Result<Option<McpResult>> {
        let Wanted { known, tool, arguments } = wanted;
        let mut claim = Write::new(caller.org);
        claim.idempotency_claim(once, known.server.id.to_bytes(), self.0.worker, self.now());
        match self.0.store.write(claim).await.map_err(Error::from) {
            Ok(_) => {}
            Err(error) if error.code == Code::AlreadyDone => return Ok(None),
            Err(error) => return Err(error),
        }
        let called = self.mcp_call(caller, &known, &tool, arguments, None).await;
        let (answer, begun) = match called {
            Ok(outcome) => (Ok(outcome.json), true),
            Err(CallFailed { error, begun }) => (Err(error), begun),
        };
        let mut wait = STORE_AGAIN_FIRST;
        loop {
            let (now, mut write) = (self.now(), Write::new(caller.org));
            if begun {
                let said = answer.as_ref().map(String::as_str);
                write.idempotency_settle(once, self.0.worker, said);
                let kind = EntityKind::McpServer;
                let data = format!(r#"{{"tool":{}}}"#, Value::from(tool.as_str()));
                let at = known.server.id.to_bytes();
                write.log(entry(caller, now, "mcp_server.tool_called", kind, at, data));
            } else {
                write.idempotency_release(once, self.0.worker);
            }
            let Err(error) = self.0.store.write(write).await.map_err(Error::from) else { break };
            tracing::error!(server = %known.server.id, error = %error.chain(),
                "what a tool gave could not be stored");
            if !error.code.retryable() || error.code == Code::ShuttingDown {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(STORE_AGAIN_MAX),
                () = self.0.tasks.stopping().cancelled() => return Err(error),
            }
        }
        self.0.mcp.settled.notify_waiters();
        Ok(Some(McpResult { json: answer?, replayed: false }))
    }

    /// Calls a tool of a server within its bounds and those of the caller.
    pub(crate) async fn mcp_call(
        &self,
        caller: &Caller,
        known: &Known,
        tool: &str,
        arguments: Map<String, Value>,
        until: Option<Instant>,
    ) -> Result<Outcome, CallFailed> {
        let timeout = Duration::from_millis(known.server.timeout_ms.into());
        let deadline = Instant::now() + timeout;
        let deadline = until.map_or(deadline, |until| until.min(deadline));
        let again = arguments.clone();
        match self.mcp_call_once(caller, known, tool, arguments, deadline).await {
            // The server had forgotten the session, and did nothing.
            Err(failed) if failed.is_to_be_repeated() => {
                self.mcp_call_once(caller, known, tool, again, deadline).await
            }
            outcome => outcome,
        }
    }

    async fn mcp_call_once(
        &self,
        caller: &Caller,
        known: &Known,
        tool: &str,
        arguments: Map<String, Value>,
        deadline: Instant,
    ) -> Result<Outcome, CallFailed> {
        let before = CallFailed::before;
        let server = &known.server;
        let open = self.mcp_open(caller.org, known, deadline).await.map_err(before)?;
        let catalogue = self.mcp_catalogue(caller, server, &open, deadline).await;
        catalogue.map_err(before)?.callable(tool).map_err(before)?;
        let place = tokio::time::timeout_at(deadline, open.slot.calls.acquire()).await;
        let _place = place.map_err(|_| {
            let detail = "too many calls of the MCP server were before this one";
            before(Error::new(Code::McpTimeout, detail))
        })?;
        let bytes_max = server.result_bytes_max as usize;
        let called = open.connection.call(tool, arguments, deadline, bytes_max).await;
        called.map_err(|error| {
            let mut failed = CallFailed { error, begun: true };
            // It was not let in, or its session was not known.
            failed.begun =
                !failed.is_to_be_repeated() && failed.error.code != Code::McpUnauthorized;
            failed
        })
    }

    /// The resources of a server, as it lists them.
    pub async fn mcp_resource_list(&self, caller: &Caller, id: McpServerId) -> Result<Vec<Value>> {
        let known = self.mcp_known(caller.org, id).await?;
        let deadline = Instant::now() + Duration::from_millis(known.server.timeout_ms.into());
        let open = self.mcp_open(caller.org, &known, deadline).await?;
        open.connection.resources(deadline).await
    }
}

fn remembered_result(answer: Option<String>) -> Result<McpResult> {
    let gone = || {
        let detail = "the tool was called for this request, and what it gave was too long to keep";
        Error::new(Code::Conflict, detail)
    };
    Ok(McpResult { json: answer.ok_or_else(gone)?, replayed: true })
}
