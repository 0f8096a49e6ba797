//! Tools: what an agent may call in its runs, what a caller's rights leave of
//! that, the bounds of a run, and the record of each call.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::caller::{Caller, Permission, Scopes};
use crate::error::{Code, Fault};
use crate::json::JsonText;
use crate::named;
use crate::time::Timestamp;

/// Tools that an agent may list.
pub const AGENT_TOOLS_MAX: usize = 100;

named! {
    /// A tool that is built in.
    pub enum BuiltinTool {
        /// Searches the memories that the run's user may see.
        MemorySearch = "memory_search",
        /// Saves a memory of the run's user.
        MemorySave = "memory_save",
        /// Lists the files of the run's session.
        FileList = "file_list",
        /// Reads a text file of the run's session.
        FileRead = "file_read",
        /// Writes a text file of the run's session.
        FileWrite = "file_write",
        /// Makes a task.
        TaskCreate = "task_create",
        /// Lists tasks.
        TaskList = "task_list",
        /// Changes a task.
        TaskUpdate = "task_update",
        /// Reads a URL at a public address.
        HttpFetch = "http_fetch",
    }
}

impl BuiltinTool {
    /// What a caller must be allowed for a run of theirs to use it.
    pub const fn permission(self) -> Permission {
        match self {
            Self::MemorySearch => Permission::MemoriesRead,
            Self::MemorySave => Permission::MemoriesWrite,
            Self::FileList | Self::FileRead => Permission::SessionsRead,
            Self::FileWrite => Permission::SessionsWrite,
            Self::TaskCreate | Self::TaskUpdate => Permission::GoalsWrite,
            Self::TaskList => Permission::GoalsRead,
            Self::HttpFetch => Permission::ToolsCall,
        }
    }

    /// Whether a call changes something, so that it must not be made twice.
    pub const fn has_effects(self) -> bool {
        match self {
            Self::MemorySave | Self::FileWrite | Self::TaskCreate | Self::TaskUpdate => true,
            Self::MemorySearch
            | Self::FileList
            | Self::FileRead
            | Self::TaskList
            | Self::HttpFetch => false,
        }
    }
}

/// What an agent's list of tools names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentTool {
    /// A tool that is built in.
    Builtin(BuiltinTool),
    /// Tools of an MCP server.
    Mcp {
        /// Its name or id.
        server: String,
        /// These; all approved ones when this is empty.
        tools: Vec<String>,
    },
}

impl AgentTool {
    /// Reads an agent's list: `"memory_save"`, `{"type": "builtin", "name": ...}` or
    /// `{"type": "mcp", "server": ..., "tools": [...]}` each. Pointers of faults begin
    /// behind the list.
    pub fn list(value: &Value) -> Result<Vec<Self>, Fault> {
        let Value::Array(items) = value else {
            return Err(Fault::new("", "wrong_type", "must be a list"));
        };
        if items.len() > AGENT_TOOLS_MAX {
            let detail = format!("may have {AGENT_TOOLS_MAX} items");
            return Err(Fault::new("", "too_many", detail));
        }
        items.iter().enumerate().map(|(place, item)| Self::read(item, place)).collect()
    }

    /// Reads a stored list, which was read before.
    pub fn stored(list: &JsonText) -> Vec<Self> {
        let value = serde_json::from_str(list.as_str()).unwrap_or(Value::Null);
        Self::list(&value).unwrap_or_default()
    }

    fn read(item: &Value, place: usize) -> Result<Self, Fault> {
        let fault = |name: &str, code, detail: &str| {
            let step = if name.is_empty() { String::new() } else { format!("/{name}") };
            Fault::new(format!("/{place}{step}"), code, detail.to_owned())
        };
        let builtin = |name: &str, step: &str| match BuiltinTool::parse(name) {
            Some(tool) => Ok(Self::Builtin(tool)),
            None => Err(fault(step, "unknown", &format!("there is no built-in tool {name:?}"))),
        };
        let object = match item {
            Value::String(name) => return builtin(name, ""),
            Value::Object(object) => object,
            _ => return Err(fault("", "wrong_type", "must be a name or an object")),
        };
        let text = |name: &str| match object.get(name) {
            Some(Value::String(text)) if !text.is_empty() && !text.contains('\0') => {
                Ok(text.as_str())
            }
            Some(Value::String(_)) => Err(fault(name, "malformed", "must be a name")),
            Some(_) => Err(fault(name, "wrong_type", "must be a string")),
            None => Err(fault(name, "required", "is required")),
        };
        match text("type")? {
            "builtin" => builtin(text("name")?, "name"),
            "mcp" => {
                let tools = match object.get("tools") {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::Array(names)) if names.len() <= AGENT_TOOLS_MAX => names
                        .iter()
                        .map(|name| name.as_str().map(str::to_owned))
                        .collect::<Option<_>>()
                        .ok_or_else(|| fault("tools", "wrong_type", "must be a list of names"))?,
                    Some(Value::Array(_)) => {
                        let detail = format!("may have {AGENT_TOOLS_MAX} items");
                        return Err(fault("tools", "too_many", &detail));
                    }
                    Some(_) => {
                        return Err(fault("tools", "wrong_type", "must be a list of names"));
                    }
                };
                Ok(Self::Mcp { server: text("server")?.to_owned(), tools })
            }
            "function" => Err(fault("type", "not_supported_yet", "functions of clients")),
            _ => Err(fault("type", "unknown", "must be builtin or mcp")),
        }
    }
}

/// What of a caller's rights the tools of their run may use. Kept with the run, so
/// that it is the same when a process carries it out that does not know the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolRights {
    /// [`Permission::MemoriesRead`].
    pub memories_read: bool,
    /// [`Permission::MemoriesWrite`].
    pub memories_write: bool,
    /// [`Permission::SessionsRead`].
    pub sessions_read: bool,
    /// [`Permission::SessionsWrite`].
    pub sessions_write: bool,
    /// [`Permission::GoalsRead`].
    pub goals_read: bool,
    /// [`Permission::GoalsWrite`].
    pub goals_write: bool,
    /// [`Permission::ToolsCall`].
    pub tools_call: bool,
}

impl ToolRights {
    /// What a caller has.
    pub const fn of(caller: &Caller) -> Self {
        Self {
            memories_read: caller.allows(Permission::MemoriesRead),
            memories_write: caller.allows(Permission::MemoriesWrite),
            sessions_read: caller.allows(Permission::SessionsRead),
            sessions_write: caller.allows(Permission::SessionsWrite),
            goals_read: caller.allows(Permission::GoalsRead),
            goals_write: caller.allows(Permission::GoalsWrite),
            tools_call: caller.allows(Permission::ToolsCall),
        }
    }

    /// The same as scopes.
    pub fn scopes(self) -> Scopes {
        let each = [
            (self.memories_read, Permission::MemoriesRead),
            (self.memories_write, Permission::MemoriesWrite),
            (self.sessions_read, Permission::SessionsRead),
            (self.sessions_write, Permission::SessionsWrite),
            (self.goals_read, Permission::GoalsRead),
            (self.goals_write, Permission::GoalsWrite),
            (self.tools_call, Permission::ToolsCall),
        ];
        Scopes::only(each.into_iter().filter(|(has, _)| *has).map(|(_, permission)| permission))
    }
}

/// The bounds of one run. An agent may lower those of the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// How often the model is asked.
    pub steps_max: u32,
    /// Calls of tools, all steps together.
    pub tool_calls_max: u32,
    /// Calls of one step that run at once.
    pub parallel_calls_max: u32,
    /// Tokens read and written, as far as the provider counts them.
    pub tokens_max: u64,
    /// What they cost, in billionths of the currency of the configured prices; as far
    /// as there are prices.
    pub cost_nanos_max: Option<u64>,
    /// How long a run that may call tools takes, in milliseconds.
    pub time_ms_max: u64,
    /// Bytes of what its tools give and its model writes.
    pub output_bytes_max: u64,
    /// Bytes of what one call gives; the rest is cut off.
    pub call_output_bytes_max: u64,
    /// Bytes of what one call gave that its session keeps, for the models of later runs.
    pub history_output_bytes_max: u64,
    /// How long one call may take, in milliseconds.
    pub call_timeout_ms: u64,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            steps_max: 25,
            tool_calls_max: 100,
            parallel_calls_max: 8,
            tokens_max: 1_000_000,
            cost_nanos_max: None,
            time_ms_max: 3_600_000,
            output_bytes_max: 16 * 1_024 * 1_024,
            call_output_bytes_max: 64 * 1_024,
            history_output_bytes_max: 8 * 1_024,
            call_timeout_ms: 60_000,
        }
    }
}

/// What an agent lowers of [`RunLimits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentLimits {
    /// [`RunLimits::steps_max`].
    pub steps_max: Option<u32>,
    /// [`RunLimits::tool_calls_max`].
    pub tool_calls_max: Option<u32>,
    /// [`RunLimits::tokens_max`].
    pub tokens_max: Option<u64>,
    /// [`RunLimits::cost_nanos_max`].
    pub cost_nanos_max: Option<u64>,
    /// [`RunLimits::time_ms_max`].
    pub time_ms_max: Option<u64>,
    /// [`RunLimits::output_bytes_max`].
    pub output_bytes_max: Option<u64>,
}

impl RunLimits {
    /// The lower of both.
    pub fn lowered(self, by: &AgentLimits) -> Self {
        fn least<T: Ord + Copy>(bound: T, by: Option<T>) -> T {
            by.map_or(bound, |by| bound.min(by))
        }
        Self {
            steps_max: least(self.steps_max, by.steps_max),
            tool_calls_max: least(self.tool_calls_max, by.tool_calls_max),
            tokens_max: least(self.tokens_max, by.tokens_max),
            cost_nanos_max: match self.cost_nanos_max {
                Some(bound) => Some(least(bound, by.cost_nanos_max)),
                None => by.cost_nanos_max,
            },
            time_ms_max: least(self.time_ms_max, by.time_ms_max),
            output_bytes_max: least(self.output_bytes_max, by.output_bytes_max),
            ..self
        }
    }
}

named! {
    /// How far a call is.
    pub enum RunCallStatus {
        /// It was begun, and nobody knows yet what came of it.
        Started = "started",
        /// It gave something.
        Succeeded = "succeeded",
        /// It failed, as the tool or we say; the model was told.
        Failed = "failed",
        /// It was not made: the policy, a bound or the arguments forbid it.
        Refused = "refused",
    }
}

/// A call of a tool in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCall {
    /// What the model calls it; unique within the run.
    pub id: String,
    /// The tool, as the model names it.
    pub name: String,
    /// The name of the MCP server it is of.
    pub server: Option<String>,
    /// A JSON object; what the model wrote, as text, when that is none.
    pub arguments: JsonText,
    /// What the model's provider wants back with it ([`crate::chat::ToolCall::signature`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Whether it may change something.
    pub effects: bool,
    /// How far it is.
    pub status: RunCallStatus,
    /// What it gave, or what the model was told in its place.
    pub output: Option<String>,
    /// Whether more was given than is kept.
    pub truncated: bool,
    /// Why it failed.
    pub error_code: Option<String>,
    /// Which answer of the model asked for it, from 1.
    pub step: u32,
    /// How much text the run had when it was begun, in bytes of UTF-8.
    pub started_offset: u64,
    /// Its place among the run's news of tools.
    pub started_news: u32,
    /// The same for its end.
    pub finished_news: Option<u32>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl RunCall {
    /// Ends it.
    pub fn finish(&mut self, outcome: ToolOutcome, news: u32, at: Timestamp) {
        self.status = outcome.status;
        self.error_code = outcome.code.map(|code| code.as_str().to_owned());
        self.output = Some(outcome.output);
        self.truncated = outcome.truncated;
        self.finished_news = Some(news);
        self.finished_at = Some(at);
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolOutcome {
    /// How it ended.
    pub status: RunCallStatus,
    /// What the model is told.
    pub output: String,
    /// Whether more was given.
    pub truncated: bool,
    /// Why it failed.
    pub code: Option<Code>,
}

impl ToolOutcome {
    /// It gave this.
    pub fn succeeded(output: impl Into<String>) -> Self {
        let (status, output) = (RunCallStatus::Succeeded, output.into());
        Self { status, output, truncated: false, code: None }
    }

    /// It failed, and the model is told so.
    pub fn failed(code: Option<Code>, output: impl Into<String>) -> Self {
        let (status, output) = (RunCallStatus::Failed, output.into());
        Self { status, output, truncated: false, code }
    }

    /// It was not made.
    pub fn refused(code: Code, output: impl Into<String>) -> Self {
        Self { status: RunCallStatus::Refused, ..Self::failed(Some(code), output) }
    }

    /// The same, cut off behind so many bytes.
    pub fn cut(mut self, bytes_max: usize) -> Self {
        if self.output.len() > bytes_max {
            let end = self.output.floor_char_boundary(bytes_max);
            self.output.truncate(end);
            self.truncated = true;
        }
        self
    }
}

/// News of a run's tools: a call was begun or ended, in the order in which that
/// happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolNews {
    /// How much text the run had by then, in bytes of UTF-8.
    pub offset: u64,
    /// Whether the call ended.
    pub finished: bool,
    /// The call, as it was by then.
    pub call: std::sync::Arc<RunCall>,
}

/// The news that calls make up, in order. A model writes nothing while its calls
/// run, so that both are at one place in the text.
pub fn tool_news(calls: &[RunCall]) -> Vec<ToolNews> {
    let mut news = Vec::with_capacity(calls.len() * 2);
    for call in calls {
        let begun = RunCall {
            status: RunCallStatus::Started,
            output: None,
            truncated: false,
            error_code: None,
            finished_news: None,
            finished_at: None,
            ..call.clone()
        };
        let offset = call.started_offset;
        news.push((call.started_news, ToolNews { offset, finished: false, call: begun.into() }));
        if let Some(place) = call.finished_news {
            let call = std::sync::Arc::new(call.clone());
            news.push((place, ToolNews { offset, finished: true, call }));
        }
    }
    news.sort_by_key(|(place, _)| *place);
    // What is not known to have happened yet leaves a gap, behind which nothing is told.
    let known = news.iter().zip(0..).take_while(|((place, _), next)| place == next).count();
    news.into_iter().take(known).map(|(_, news)| news).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Role;
    use crate::ids::OrgId;

    #[test]
    fn an_agent_s_list_is_read_in_every_form() {
        let list = json!([
            "memory_save",
            {"type": "builtin", "name": "http_fetch"},
            {"type": "mcp", "server": "everything"},
            {"type": "mcp", "server": "x", "tools": ["echo"]},
        ]);
        let read = AgentTool::list(&list).unwrap();
        assert_eq!(
            read,
            [
                AgentTool::Builtin(BuiltinTool::MemorySave),
                AgentTool::Builtin(BuiltinTool::HttpFetch),
                AgentTool::Mcp { server: "everything".into(), tools: vec![] },
                AgentTool::Mcp { server: "x".into(), tools: vec!["echo".into()] },
            ]
        );
        for (list, pointer, code) in [
            (json!({}), "", "wrong_type"),
            (json!(["rm_rf"]), "/0", "unknown"),
            (json!(["memory_save", 7]), "/1", "wrong_type"),
            (json!([{"name": "x"}]), "/0/type", "required"),
            (json!([{"type": "builtin"}]), "/0/name", "required"),
            (json!([{"type": "builtin", "name": "x"}]), "/0/name", "unknown"),
            (json!([{"type": "mcp"}]), "/0/server", "required"),
            (json!([{"type": "mcp", "server": "a", "tools": "b"}]), "/0/tools", "wrong_type"),
            (json!([{"type": "function"}]), "/0/type", "not_supported_yet"),
            (json!([{"type": "?"}]), "/0/type", "unknown"),
        ] {
            let fault = AgentTool::list(&list).unwrap_err();
            assert_eq!((fault.pointer.as_str(), fault.code), (pointer, code), "{list}");
        }
    }

    #[test]
    fn rights_are_the_caller_s_and_no_more() {
        let org = OrgId::from_bytes([1; 16]);
        for role in Role::ALL {
            let caller = Caller::of(org, None, *role);
            let rights = ToolRights::of(&caller);
            let run = Caller { scopes: rights.scopes(), ..Caller::of(org, None, Role::Member) };
            for tool in BuiltinTool::ALL {
                let permission = tool.permission();
                assert_eq!(run.allows(permission), caller.allows(permission), "{role:?} {tool:?}");
            }
            assert!(!run.allows(Permission::KeysWrite));
        }
        let text = serde_json::to_string(&ToolRights::default()).unwrap();
        assert_eq!(serde_json::from_str::<ToolRights>(&text).unwrap(), ToolRights::default());
        assert_eq!(serde_json::from_str::<ToolRights>("{}").unwrap(), ToolRights::default());
    }

    #[test]
    fn an_agent_lowers_bounds_and_raises_none() {
        let ours = RunLimits::default();
        let by =
            AgentLimits { steps_max: Some(3), tokens_max: Some(u64::MAX), ..Default::default() };
        let both = ours.lowered(&by);
        assert_eq!(both.steps_max, 3);
        assert_eq!(both.tokens_max, ours.tokens_max);
    }

    fn call(started: u32, finished: Option<u32>, offset: u64) -> RunCall {
        RunCall {
            id: format!("c{started}"),
            name: "memory_search".into(),
            server: None,
            arguments: JsonText::empty(),
            signature: None,
            effects: false,
            status: RunCallStatus::Succeeded,
            output: Some("out".into()),
            truncated: false,
            error_code: None,
            step: 1,
            started_offset: offset,
            started_news: started,
            finished_news: finished,
            started_at: Timestamp::from_micros(1),
            finished_at: finished.map(|_| Timestamp::from_micros(2)),
        }
    }

    #[test]
    fn news_come_in_the_order_in_which_they_happened() {
        let calls = [call(0, Some(3), 5), call(1, Some(2), 5), call(4, None, 9)];
        let told: Vec<_> = tool_news(&calls)
            .iter()
            .map(|news| (news.call.id.clone(), news.finished, news.offset))
            .collect();
        let expected: Vec<(String, bool, u64)> = [
            ("c0", false, 5),
            ("c1", false, 5),
            ("c1", true, 5),
            ("c0", true, 5),
            ("c4", false, 9),
        ]
        .into_iter()
        .map(|(id, finished, offset)| (id.to_owned(), finished, offset))
        .collect();
        assert_eq!(told, expected);
        assert_eq!(tool_news(&calls)[0].call.output, None, "nothing is known before its end");
        assert_eq!(tool_news(&calls[1..]).len(), 0, "a gap is not passed");
    }

    #[test]
    fn an_output_is_cut_between_characters() {
        let cut = ToolOutcome::succeeded("äöü").cut(3);
        assert_eq!((cut.output.as_str(), cut.truncated), ("ä", true));
        assert!(!ToolOutcome::succeeded("abc").cut(3).truncated);
    }
}
