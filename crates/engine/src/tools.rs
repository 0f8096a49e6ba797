//! Which tools a run may call, and the calls. What an agent lists, what the caller
//! of the run may do, and what was approved of a server's catalogue decide that, in
//! this order; what a model asks for decides nothing.

mod arguments;
mod builtin;
mod fetch;

use std::collections::BTreeMap;
use std::time::Duration;

use agentry_domain::agents::Agent;
use agentry_domain::chat::{TOOL_NAME_CHARS_MAX, TOOLS_MAX, ToolCall, ToolSpec};
use agentry_domain::mcp_servers::{McpServer, McpServerBody, McpTool};
use agentry_domain::runs::Run;
use agentry_domain::tools::{AgentTool, BuiltinTool, RunLimits, ToolOutcome};
use agentry_domain::{Caller, Code, Error, McpServerId, Permission, Result, Role};
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::Engine;

/// Characters of a tool's description that a model is told.
const DESCRIPTION_CHARS_MAX: usize = 4_000;
/// Hexadecimal digits that tell names apart that had to be changed.
const NAME_HASH_DIGITS: usize = 8;

/// The tools that a run may call.
#[derive(Default)]
pub(crate) struct Offered {
    specs: Vec<ToolSpec>,
    by_name: BTreeMap<String, Offer>,
}

enum Offer {
    Builtin(BuiltinTool),
    Mcp { server: Box<McpServer>, tool: String, effects: bool },
}

/// What a call has to keep to.
pub(crate) struct CallWithin<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) agent: &'a Agent,
    pub(crate) run: &'a Run,
    pub(crate) deadline: Instant,
    pub(crate) limits: &'a RunLimits,
}

impl Offered {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn specs(&self) -> &[ToolSpec] {
        &self.specs
    }

    /// The MCP server that a tool is of.
    pub(crate) fn server(&self, name: &str) -> Option<String> {
        match self.by_name.get(name)? {
            Offer::Mcp { server, .. } => Some(server.name.clone()),
            Offer::Builtin(_) => None,
        }
    }

    /// Whether a call may change something; what is not offered is not called.
    pub(crate) fn has_effects(&self, name: &str) -> bool {
        match self.by_name.get(name) {
            Some(Offer::Builtin(tool)) => tool.has_effects(),
            Some(Offer::Mcp { effects, .. }) => *effects,
            None => false,
        }
    }

    fn add(&mut self, spec: ToolSpec, offer: Offer) {
        if self.by_name.insert(spec.name.clone(), offer).is_none() {
            self.specs.push(spec);
        }
    }
}

/// The caller as a tool of a run sees them: with their rights, and no more.
pub(crate) fn in_run(caller: &Caller, run: &Run) -> Caller {
    let scopes = run.request.handling.rights.scopes();
    Caller { role: Role::Member, scopes, ..*caller }
}

impl Engine {
    /// The tools that a run may call: those that its agent lists, without what its
    /// caller may not do.
    pub(crate) async fn tools_offered(
        &self,
        caller: &Caller,
        agent: &Agent,
        run: &Run,
    ) -> Result<Offered> {
        let caller = in_run(caller, run);
        let mut offered = Offered::default();
        for tool in AgentTool::stored(&agent.tools) {
            match tool {
                AgentTool::Builtin(tool) if caller.allows(tool.permission()) => {
                    offered.add(builtin::spec(tool), Offer::Builtin(tool));
                }
                AgentTool::Mcp { server, tools } if caller.allows(Permission::ToolsCall) => {
                    self.mcp_offered(&caller, &server, &tools, &mut offered).await?;
                }
                AgentTool::Builtin(_) | AgentTool::Mcp { .. } => {}
            }
        }
        let count = offered.specs.len() + run.request.client_tools.len();
        if count > TOOLS_MAX {
            let detail =
                format!("{count} tools are more than the {TOOLS_MAX} that a model is told of");
            return Err(Error::new(Code::RunLimitReached, detail));
        }
        Ok(offered)
    }

    /// Adds the approved tools of a server, as its catalogue was last read. Whether it
    /// is there is seen when one is called.
    async fn mcp_offered(
        &self,
        caller: &Caller,
        name: &str,
        only: &[String],
        offered: &mut Offered,
    ) -> Result<()> {
        let by_id = match name.parse::<McpServerId>() {
            Ok(id) => self.0.store.resource_get::<McpServerBody>(caller.org, id).await?,
            Err(_) => None,
        };
        let found = match by_id {
            Some(found) => Some(found),
            None => self.0.store.mcp_server_by_name(caller.org, name).await?,
        };
        let Some(server) = found else {
            tracing::warn!(server = name, "an agent lists an MCP server that is not there");
            return Ok(());
        };
        let server = server.entity()?;
        let is_wanted = |tool: &&McpTool| only.is_empty() || only.contains(&tool.name);
        let catalogue = self.mcp_catalogue_known(caller.org, server.id).await?;
        for tool in catalogue.tools.values().filter(is_wanted).filter(|it| it.is_approved()) {
            let spec = ToolSpec {
                name: model_name(&server.name, &tool.name),
                description: description(tool),
                parameters: serde_json::from_str(tool.input_schema.as_str())
                    .map_err(Error::internal)?,
                strict: false,
            };
            let effects = !is_read_only(tool);
            let (server, tool) = (server.clone(), tool.name.clone());
            offered.add(spec, Offer::Mcp { server: Box::new(server), tool, effects });
        }
        Ok(())
    }

    /// Carries a call out, if it may be. Whatever goes wrong, the model is told.
    pub(crate) fn tool_call<'a>(
        &'a self,
        within: &'a CallWithin<'a>,
        offered: &'a Offered,
        call: &'a ToolCall,
    ) -> BoxFuture<'a, ToolOutcome> {
        Box::pin(self.tool_called(within, offered, call))
    }

    async fn tool_called(
        &self,
        within: &CallWithin<'_>,
        offered: &Offered,
        call: &ToolCall,
    ) -> ToolOutcome {
        let Some(offer) = offered.by_name.get(&call.name) else {
            let detail = format!("there is no tool {:?} here", call.name);
            return ToolOutcome::refused(Code::Forbidden, detail);
        };
        let caller = in_run(within.caller, within.run);
        let arguments = match arguments::read(&call.arguments) {
            Ok(arguments) => arguments,
            Err(detail) => return ToolOutcome::refused(Code::ValidationFailed, detail),
        };
        let most = Instant::now() + Duration::from_millis(within.limits.call_timeout_ms);
        let until = most.min(within.deadline);
        let called: BoxFuture<'_, Result<ToolOutcome>> = match offer {
            Offer::Builtin(tool) => {
                Box::pin(self.builtin_call(&caller, within, *tool, &arguments, until))
            }
            Offer::Mcp { server, tool, .. } => {
                Box::pin(self.mcp_tool_in_run(&caller, server, tool, arguments.clone(), until))
            }
        };
        match tokio::time::timeout_at(until, called).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                let code = error.code;
                if code == Code::Internal {
                    tracing::error!(tool = call.name, error = %error.chain(), "a tool failed");
                }
                let detail = format!("{code}: {}", error.detail);
                match code {
                    Code::Forbidden | Code::ToolNotApproved | Code::ValidationFailed => {
                        ToolOutcome::refused(code, detail)
                    }
                    _ => ToolOutcome::failed(Some(code), detail),
                }
            }
            Err(_) => {
                let max = within.limits.call_timeout_ms;
                let detail = format!("the call took longer than it may (call_timeout_ms = {max})");
                ToolOutcome::failed(Some(Code::DeadlineExceeded), detail)
            }
        }
    }

    async fn mcp_tool_in_run(
        &self,
        caller: &Caller,
        server: &McpServer,
        tool: &str,
        arguments: Map<String, Value>,
        until: Instant,
    ) -> Result<ToolOutcome> {
        // It may have been stopped or changed since the run began.
        let known = self.mcp_known(caller.org, server.id).await?;
        let outcome = self.mcp_call(caller, &known, tool, arguments, Some(until)).await?;
        let text = told(&outcome.result).replace('\0', "\u{fffd}");
        if outcome.is_error {
            return Ok(ToolOutcome::failed(None, text));
        }
        Ok(ToolOutcome::succeeded(text))
    }
}

/// What a model is told of a result: its texts, and of everything else what it is.
fn told(result: &Value) -> String {
    let pieces = result.get("content").and_then(Value::as_array);
    let texts: Vec<String> = pieces
        .into_iter()
        .flatten()
        .map(|piece| match piece.get("text").and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => match piece.get("type").and_then(Value::as_str) {
                Some(kind @ ("image" | "audio")) => {
                    let media_type = piece.get("mimeType").and_then(Value::as_str);
                    format!("[{kind} {}]", media_type.unwrap_or_default())
                }
                _ => piece.to_string(),
            },
        })
        .collect();
    match (texts.is_empty(), result.get("structuredContent")) {
        (true, Some(structured)) => structured.to_string(),
        _ => texts.join("\n"),
    }
}

fn description(tool: &McpTool) -> String {
    let text = tool.description.as_deref().or(tool.title.as_deref()).unwrap_or_default();
    text.chars().take(DESCRIPTION_CHARS_MAX).collect()
}

/// Whether its server says that it changes nothing, which somebody approved.
fn is_read_only(tool: &McpTool) -> bool {
    let annotations = tool.annotations.as_ref();
    let read = annotations.and_then(|it| serde_json::from_str::<Value>(it.as_str()).ok());
    read.and_then(|it| it.get("readOnlyHint")?.as_bool()).unwrap_or(false)
}

/// What a model calls a server's tool: both names, in what every provider takes.
fn model_name(server: &str, tool: &str) -> String {
    let plain = |text: &str| -> String {
        let taken = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        text.chars().map(|c| if taken(c) { c } else { '_' }).collect()
    };
    let whole = format!("{server}__{tool}");
    let name = plain(&whole);
    if name == whole && name.len() <= TOOL_NAME_CHARS_MAX {
        return name;
    }
    let hash = blake3::hash(format!("{server}\0{tool}").as_bytes()).to_hex();
    let kept: String = name.chars().take(TOOL_NAME_CHARS_MAX - NAME_HASH_DIGITS - 1).collect();
    format!("{kept}_{}", &hash[..NAME_HASH_DIGITS])
}

#[cfg(test)]
mod tests {
    use agentry_domain::chat::is_tool_name;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_what_every_provider_takes_and_stay_apart() {
        assert_eq!(model_name("files", "read-file"), "files__read-file");
        let long = "x".repeat(200);
        let names = [
            model_name("my files", "read.file"),
            model_name("my_files", "read.file"),
            model_name("my files", "read_file"),
            model_name(&long, "a"),
            model_name(&long, "b"),
            model_name("ä", "ö"),
        ];
        for (n, name) in names.iter().enumerate() {
            assert!(is_tool_name(name), "{name}");
            assert!(!names[..n].contains(name), "{name} stands twice");
        }
    }

    #[test]
    fn a_model_is_told_texts_and_what_else_there_is() {
        let result = json!({"content": [
            {"type": "text", "text": "a"},
            {"type": "image", "mimeType": "image/png", "data": "AAAA"},
            {"type": "text", "text": "b"},
        ]});
        assert_eq!(told(&result), "a\n[image image/png]\nb");
        let structured = json!({"content": [], "structuredContent": {"n": 1}});
        assert_eq!(told(&structured), r#"{"n":1}"#);
    }
}
