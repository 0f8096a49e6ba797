//! Calls of an MCP server's tools, and its resources: within a time, a size and a
//! number at once.

use std::time::Duration;

use agentry_domain::mcp_servers::McpServer;
use agentry_domain::{Caller, Code, Error, McpServerId, Once, Result};
use agentry_mcp::{NotBegun, Outcome};
use agentry_store::Write;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{Engine, entry};
use agentry_domain::log::EntityKind;

/// What a tool gave.
#[derive(Debug)]
pub struct McpResult {
    /// JSON: `content`, `structuredContent`, `isError` as the protocol has them.
    pub json: String,
    /// Whether it is the answer of an earlier request.
    pub replayed: bool,
}

impl Engine {
    /// Calls a tool, once if the request says so: what it gave is remembered.
    pub async fn mcp_tool_call(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        id: McpServerId,
        tool: &str,
        arguments: Map<String, Value>,
    ) -> Result<McpResult> {
        if let Some(before) = self.remembered(caller, once).await? {
            return remembered_result(before.answer);
        }
        let server = self.mcp_server(caller, id).await?;
        let outcome = self.mcp_call(caller, &server, tool, arguments, None).await?;
        let json = serde_json::to_string(&outcome.result).map_err(Error::internal)?;
        if once.is_some() {
            let (now, mut write) = (self.now(), Write::new(caller.org));
            let kind = EntityKind::McpServer;
            let data = format!(r#"{{"tool":{}}}"#, Value::from(tool));
            write.log(entry(caller, now, "mcp_server.tool_called", kind, id.to_bytes(), data));
            let noted = (id.to_bytes(), json.as_str());
            if let Some(before) = self.write_once(caller, once, write, noted, now).await? {
                return remembered_result(before.answer);
            }
        }
        Ok(McpResult { json, replayed: false })
    }

    /// Calls a tool of a server within its bounds and those of the caller.
    pub(crate) async fn mcp_call(
        &self,
        caller: &Caller,
        server: &McpServer,
        tool: &str,
        arguments: Map<String, Value>,
        until: Option<Instant>,
    ) -> Result<Outcome> {
        let timeout = Duration::from_millis(server.timeout_ms.into());
        let deadline = Instant::now() + timeout;
        let deadline = until.map_or(deadline, |until| until.min(deadline));
        let again = arguments.clone();
        match self.mcp_call_once(caller, server, tool, arguments, deadline).await {
            // The server had forgotten the session, and did nothing.
            Err(error) if error.cause.as_ref().is_some_and(|it| it.is::<NotBegun>()) => {
                self.mcp_call_once(caller, server, tool, again, deadline).await
            }
            outcome => outcome,
        }
    }

    async fn mcp_call_once(
        &self,
        caller: &Caller,
        server: &McpServer,
        tool: &str,
        arguments: Map<String, Value>,
        deadline: Instant,
    ) -> Result<Outcome> {
        let open = self.mcp_open(caller.org, server, deadline).await?;
        let catalogue = self.mcp_catalogue(caller, server, &open, deadline).await?;
        catalogue.callable(tool)?;
        let place = tokio::time::timeout_at(deadline, open.slot.calls.acquire()).await;
        let _place = place.map_err(|_| {
            Error::new(Code::McpTimeout, "too many calls of the MCP server were before this one")
        })?;
        let bytes_max = server.result_bytes_max as usize;
        open.connection.call(tool, arguments, deadline, bytes_max).await
    }

    /// The resources of a server, as it lists them.
    pub async fn mcp_resource_list(&self, caller: &Caller, id: McpServerId) -> Result<Vec<Value>> {
        let server = self.mcp_server(caller, id).await?;
        let deadline = Instant::now() + Duration::from_millis(server.timeout_ms.into());
        let open = self.mcp_open(caller.org, &server, deadline).await?;
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
