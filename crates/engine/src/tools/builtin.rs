//! The tools that are built in: what models are told of them, and what they do.
//! Each works with the run's user, session and organisation, whatever a model
//! writes, and needs the permission that the same thing needs over HTTP.

use agentry_domain::chat::ToolSpec;
use agentry_domain::files::{FILE_CHUNK_BYTES, FilePath};
use agentry_domain::memories::{MEMORY_HITS_MAX, MemoryBody};
use agentry_domain::tasks::{TaskBody, TaskStatus, name_of};
use agentry_domain::tools::{BuiltinTool, ToolOutcome};
use agentry_domain::{Caller, Code, Error, JsonText, PageRequest, Result, TaskId};
use agentry_store::{MemorySought, TaskFilter};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::CallWithin;
use super::arguments::{integer, required, text};
use crate::{Engine, FilePut};

/// Characters of a memory, a task or a query that a model may write.
const TEXT_CHARS_MAX: usize = 20_000;
const NAME_CHARS_MAX: usize = 200;
const PATH_CHARS_MAX: usize = 1_024;
/// Characters of a file that a model may write.
const FILE_CHARS_MAX: usize = 1_000_000;
/// Files and tasks that a model is told of at once.
const LISTED_MAX: u64 = 100;
const LISTED_DEFAULT: u64 = 20;
const MEMORIES_DEFAULT: u64 = 5;

/// What models are told of a tool.
pub(super) fn spec(tool: BuiltinTool) -> ToolSpec {
    let (description, properties, required): (&str, Value, &[&str]) = match tool {
        BuiltinTool::MemorySearch => (
            "Search what is remembered of the user. Gives the memories that fit best.",
            json!({
                "query": {"type": "string", "description": "What to look for, in words."},
                "limit": {"type": "integer", "minimum": 1, "maximum": MEMORY_HITS_MAX},
            }),
            &["query"],
        ),
        BuiltinTool::MemorySave => (
            "Remember something of the user for later conversations: one fact, in a whole sentence.",
            json!({
                "content": {"type": "string", "description": "What is to be remembered."},
                "name": {"type": "string", "description": "A short name for it."},
            }),
            &["content"],
        ),
        BuiltinTool::FileList => (
            "List the files of this conversation.",
            json!({"limit": {"type": "integer", "minimum": 1, "maximum": LISTED_MAX}}),
            &[],
        ),
        BuiltinTool::FileRead => (
            "Read a text file of this conversation.",
            json!({"path": {"type": "string"}}),
            &["path"],
        ),
        BuiltinTool::FileWrite => (
            "Write a text file of this conversation, in the place of what was there.",
            json!({
                "path": {"type": "string", "description": "Such as notes/plan.md."},
                "content": {"type": "string"},
            }),
            &["path", "content"],
        ),
        BuiltinTool::TaskCreate => (
            "Make a task.",
            json!({
                "description": {"type": "string", "description": "What is to be done."},
                "name": {"type": "string"},
            }),
            &["description"],
        ),
        BuiltinTool::TaskList => (
            "List tasks, the newest first.",
            json!({
                "status": status_schema(),
                "limit": {"type": "integer", "minimum": 1, "maximum": LISTED_MAX},
            }),
            &[],
        ),
        BuiltinTool::TaskUpdate => (
            "Change a task: how far it is, or what is to be done.",
            json!({
                "id": {"type": "string"},
                "status": status_schema(),
                "description": {"type": "string"},
                "result": {"type": "string", "description": "What came of it."},
            }),
            &["id"],
        ),
        BuiltinTool::HttpFetch => (
            "Fetch a web page or another text at a public http or https URL.",
            json!({"url": {"type": "string"}}),
            &["url"],
        ),
    };
    ToolSpec {
        name: tool.as_str().to_owned(),
        description: description.to_owned(),
        parameters: json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        }),
        strict: false,
    }
}

fn status_schema() -> Value {
    let names: Vec<&str> = TaskStatus::ALL.iter().map(|status| status.as_str()).collect();
    json!({"type": "string", "enum": names})
}

fn page(limit: u64) -> PageRequest {
    PageRequest { limit: u32::try_from(limit).unwrap_or(u32::MAX), ..PageRequest::default() }
}

impl Engine {
    /// Calls a tool that is built in.
    pub(super) async fn builtin_call(
        &self,
        caller: &Caller,
        within: &CallWithin<'_>,
        tool: BuiltinTool,
        arguments: &Map<String, Value>,
        until: Instant,
    ) -> Result<ToolOutcome> {
        let permission = tool.permission();
        if !caller.allows(permission) {
            let detail =
                format!("the caller of this run may not do this ({})", permission.as_str());
            return Err(Error::new(Code::Forbidden, detail));
        }
        let given = match tool {
            BuiltinTool::MemorySearch => self.memory_search_tool(caller, within, arguments).await?,
            BuiltinTool::MemorySave => self.memory_save_tool(caller, within, arguments).await?,
            BuiltinTool::FileList => self.file_list_tool(caller, within, arguments).await?,
            BuiltinTool::FileRead => return self.file_read_tool(caller, within, arguments).await,
            BuiltinTool::FileWrite => self.file_write_tool(caller, within, arguments).await?,
            BuiltinTool::TaskCreate => self.task_create_tool(caller, within, arguments).await?,
            BuiltinTool::TaskList => self.task_list_tool(caller, arguments).await?,
            BuiltinTool::TaskUpdate => self.task_update_tool(caller, arguments).await?,
            BuiltinTool::HttpFetch => return self.http_fetch(arguments, until).await,
        };
        Ok(ToolOutcome::succeeded(given.to_string()))
    }

    async fn memory_search_tool(
        &self,
        caller: &Caller,
        within: &CallWithin<'_>,
        arguments: &Map<String, Value>,
    ) -> Result<Value> {
        let query = required(arguments, "query", TEXT_CHARS_MAX)?;
        let limit = integer(arguments, "limit", MEMORIES_DEFAULT, MEMORY_HITS_MAX.into())?;
        let user = within.run.user_id.as_deref();
        let agent = within.agent.id.to_string();
        let sought = MemorySought::in_run(user, &agent, caller.org);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let found = self.memories_ranked(caller, &sought, query, limit).await?;
        let memories = found.iter().map(|hit| {
            let MemoryBody { name, content, .. } = hit.memory.entity()?.body;
            let (id, at) = (hit.memory.id, hit.memory.updated_at);
            Ok(json!({"id": id, "name": name, "content": content, "at": at, "score": hit.score}))
        });
        Ok(json!({"memories": memories.collect::<Result<Vec<_>>>()?}))
    }

    async fn memory_save_tool(
        &self,
        caller: &Caller,
        within: &CallWithin<'_>,
        arguments: &Map<String, Value>,
    ) -> Result<Value> {
        let run = within.run;
        let body = MemoryBody {
            name: text(arguments, "name", NAME_CHARS_MAX)?.map(str::to_owned),
            content: required(arguments, "content", TEXT_CHARS_MAX)?.to_owned(),
            user_id: run.user_id.clone(),
            agent_id: Some(within.agent.id.to_string()),
            session_id: Some(run.session.to_string()),
            metadata: JsonText::known(json!({"run_id": run.id}).to_string()),
            ..MemoryBody::default()
        };
        let made = self.memory_create(caller, None, body).await?;
        Ok(json!({"id": made.value.id}))
    }

    async fn file_list_tool(
        &self,
        caller: &Caller,
        within: &CallWithin<'_>,
        arguments: &Map<String, Value>,
    ) -> Result<Value> {
        let limit = integer(arguments, "limit", LISTED_DEFAULT, LISTED_MAX)?;
        let files = self.file_list(caller, within.run.session, page(limit)).await?;
        let listed: Vec<Value> = files
            .items
            .iter()
            .map(|file| json!({"path": file.path, "bytes": file.bytes, "media_type": file.media_type}))
            .collect();
        Ok(json!({"files": listed, "total": files.total}))
    }

    async fn file_read_tool(
        &self,
        caller: &Caller,
        within: &CallWithin<'_>,
        arguments: &Map<String, Value>,
    ) -> Result<ToolOutcome> {
        let path = FilePath::parse(required(arguments, "path", PATH_CHARS_MAX)?)?;
        let file = self.file_get(caller, within.run.session, &path).await?;
        let most = usize::try_from(within.limits.call_output_bytes_max).unwrap_or(usize::MAX);
        let chunks = file.bytes.div_ceil(FILE_CHUNK_BYTES as u64);
        let mut content = Vec::new();
        for n in 0..u32::try_from(chunks).unwrap_or(u32::MAX) {
            if content.len() > most {
                break;
            }
            let Some(chunk) = self.file_chunk(caller, &file, n).await? else {
                return Err(Error::new(Code::Conflict, "the file was replaced meanwhile"));
            };
            content.extend_from_slice(&chunk);
        }
        content.truncate(most.saturating_add(4));
        let is_whole = content.len() as u64 == file.bytes;
        let text = match String::from_utf8(content) {
            Ok(text) => text,
            // A cut may be within a character.
            Err(error) if !is_whole && error.utf8_error().error_len().is_none() => {
                let end = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                bytes.truncate(end);
                String::from_utf8(bytes).map_err(Error::internal)?
            }
            Err(_) => {
                let detail = "the file is no text in UTF-8";
                return Ok(ToolOutcome::failed(Some(Code::ValidationFailed), detail));
            }
        };
        let outcome = ToolOutcome::succeeded(text.replace('\0', "\u{fffd}")).cut(most);
        Ok(ToolOutcome { truncated: outcome.truncated || !is_whole, ..outcome })
    }

    async fn file_write_tool(
        &self,
        caller: &Caller,
        within: &CallWithin<'_>,
        arguments: &Map<String, Value>,
    ) -> Result<Value> {
        let path = FilePath::parse(required(arguments, "path", PATH_CHARS_MAX)?)?;
        let content = text(arguments, "content", FILE_CHARS_MAX)?.unwrap_or_default();
        let put = FilePut {
            path,
            media_type: "text/plain; charset=utf-8".to_owned(),
            if_match: None,
            if_new: false,
        };
        let body = futures::stream::iter([Ok(Bytes::from(content.to_owned()))]);
        let (file, is_new) = self.file_put(caller, within.run.session, put, body).await?;
        Ok(json!({"path": file.path, "bytes": file.bytes, "created": is_new}))
    }

    async fn task_create_tool(
        &self,
        caller: &Caller,
        within: &CallWithin<'_>,
        arguments: &Map<String, Value>,
    ) -> Result<Value> {
        let description = required(arguments, "description", TEXT_CHARS_MAX)?;
        let name = text(arguments, "name", NAME_CHARS_MAX)?.filter(|name| !name.is_empty());
        let body = TaskBody {
            agent_id: Some(within.agent.id),
            name: name.map_or_else(|| name_of(description), str::to_owned),
            description: description.to_owned(),
            metadata: JsonText::known(json!({"run_id": within.run.id}).to_string()),
            ..TaskBody::default()
        };
        let made = self.task_create(caller, None, body).await?;
        Ok(json!({"id": made.value.id}))
    }

    async fn task_list_tool(
        &self,
        caller: &Caller,
        arguments: &Map<String, Value>,
    ) -> Result<Value> {
        let limit = integer(arguments, "limit", LISTED_DEFAULT, LISTED_MAX)?;
        let filter = TaskFilter { status: status(arguments)?, ..TaskFilter::default() };
        let tasks = self.resource_list::<TaskBody>(caller, &filter, &page(limit)).await?;
        let listed = tasks.items.iter().map(|task| {
            let TaskBody { name, description, status, .. } = task.entity()?.body;
            let status = status.as_str();
            Ok(json!({"id": task.id, "name": name, "description": description, "status": status}))
        });
        Ok(json!({"tasks": listed.collect::<Result<Vec<_>>>()?, "total": tasks.total}))
    }

    async fn task_update_tool(
        &self,
        caller: &Caller,
        arguments: &Map<String, Value>,
    ) -> Result<Value> {
        let id = required(arguments, "id", NAME_CHARS_MAX)?;
        let id: TaskId = id.parse().map_err(|_| Error::not_found("task", id))?;
        let (status, description) =
            (status(arguments)?, text(arguments, "description", TEXT_CHARS_MAX)?);
        let result = text(arguments, "result", TEXT_CHARS_MAX)?;
        let changed = self
            .task_update(caller, id, None, |was| {
                let mut body = was.body.clone();
                if let Some(status) = status {
                    body.status = status;
                }
                if let Some(description) = description {
                    body.description = description.to_owned();
                }
                if let Some(result) = result {
                    let result = json!({"result": result});
                    body.output_data = body.output_data.merged("result", result)?;
                }
                Ok(body)
            })
            .await?;
        let body = changed.entity()?.body;
        Ok(json!({"id": id, "name": body.name, "status": body.status.as_str()}))
    }
}

fn status(arguments: &Map<String, Value>) -> Result<Option<TaskStatus>> {
    let Some(name) = text(arguments, "status", NAME_CHARS_MAX)? else { return Ok(None) };
    let refused = || Error::new(Code::ValidationFailed, format!("status: there is no {name:?}"));
    TaskStatus::parse(name).map(Some).ok_or_else(refused)
}
