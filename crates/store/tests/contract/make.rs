//! Things to store, with ids and times that only grow.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use agentry_domain::agents::{Agent, AgentBody, AgentStatus, MemoryPolicy};
use agentry_domain::chat::{
    ChatMessage, Image, ImageSource, Part, ResponseFormat, ToolCall, ToolChoice, ToolResult,
    ToolSpec,
};
use agentry_domain::jobs::JobKind;
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::memories::{Memory, MemoryBody};
use agentry_domain::ports::{Entropy as _, SystemEntropy};
use agentry_domain::runs::{
    Handling, IfBusy, OnDisconnect, ResponseAsked, Run, RunRequest, RunStatus, Usage, UserGiven,
    Warning,
};
use agentry_domain::sessions::{Message, MessageRole, Session, SessionBody, SessionStatus};
use agentry_domain::{
    AgentId, Error, JobId, JsonText, MemoryId, MessageId, OrgId, RunId, SessionId, Timestamp,
    WorkerId,
};
use agentry_store::{ClaimedJob, Flow, NewJob, StoreError, Write};
use uuid::Uuid;

use crate::kept::WriteWhole as _;

static ENTROPY: LazyLock<SystemEntropy> = LazyLock::new(SystemEntropy::default);
static NOW: AtomicI64 = AtomicI64::new(1_790_000_000_000_000);

/// The next instant.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(NOW.fetch_add(1_000, Ordering::SeqCst))
}

pub(crate) fn uuid() -> Uuid {
    ENTROPY.uuid(now())
}

pub(crate) fn org() -> OrgId {
    OrgId::from_uuid(uuid())
}

pub(crate) fn worker() -> WorkerId {
    WorkerId::from_uuid(uuid())
}

pub(crate) fn job() -> JobId {
    JobId::from_uuid(uuid())
}

pub(crate) fn agent(name: &str) -> Agent {
    let id = AgentId::from_uuid(uuid());
    let at = now();
    let body = AgentBody {
        name: name.to_owned(),
        description: format!("what {name} is for: é, ü, 漢, '\"\\"),
        agent_type: "general".to_owned(),
        status: AgentStatus::Created,
        model: "builtin/recall".to_owned(),
        fallback_models: vec!["openai/m".to_owned(), "ollama/n".to_owned()],
        instructions: "Answer.\nBriefly.".to_owned(),
        tools: json(r#"["one"]"#),
        limits: agentry_domain::tools::AgentLimits {
            steps_max: Some(3),
            cost_nanos_max: Some(4),
            ..Default::default()
        },
        memory: MemoryPolicy { recall: true, remember: false, limit: 7 },
        cache_ttl_s: 60,
        coalesce: true,
        cache_shared: true,
        configuration: json(r#"{"c":1}"#),
        metadata: json(r#"{"m":2}"#),
        resource_limits: json(r#"{"r":3}"#),
        did: format!("did:agent:{name}:00000000"),
    };
    Agent::new(id, body, at)
}

pub(crate) fn json(text: &str) -> JsonText {
    JsonText::known(text.to_owned())
}

pub(crate) fn session(name: Option<&str>, user_id: Option<&str>) -> Session {
    let at = now();
    let body = SessionBody {
        name: name.map(str::to_owned),
        user_id: user_id.map(str::to_owned),
        origin: Some("test".to_owned()),
        status: SessionStatus::Active,
        metadata: json(r#"{"s":1}"#),
    };
    Session::new(SessionId::from_uuid(uuid()), body, at)
}

pub(crate) fn memory(body: MemoryBody) -> Memory {
    Memory::new(MemoryId::from_uuid(uuid()), body, now())
}

/// A write that stores a memory.
pub(crate) fn memory_write(org: OrgId, memory: &Memory) -> Write {
    let mut write = Write::new(org);
    write.resource_insert(&memory.body, &memory.document().unwrap());
    write.memory_index(memory.id, memory);
    write
}

pub(crate) fn message(session: SessionId, role: MessageRole, content: &str) -> Message {
    Message {
        id: MessageId::from_uuid(uuid()),
        session,
        run: None,
        role,
        content: content.to_owned(),
        chat: None,
        metadata: "{}".to_owned(),
        created_at: now(),
    }
}

pub(crate) fn call(id: &str) -> ToolCall {
    let (id, name, arguments) = (id.to_owned(), "look".to_owned(), "{}".to_owned());
    ToolCall { id, name, arguments, signature: None }
}

/// A queued run with every field that a caller may give.
pub(crate) fn run(agent: AgentId, session: SessionId, user_id: Option<&str>) -> Run {
    Run {
        id: RunId::from_uuid(uuid()),
        agent,
        session,
        user_id: user_id.map(str::to_owned),
        status: RunStatus::Queued,
        message: None,
        request: RunRequest {
            input: "What is my dog's name?".to_owned(),
            user: Some(UserGiven {
                email: Some("ann@example.org".to_owned()),
                phone_number: None,
                user_data: json(r#"{"u":[1]}"#),
            }),
            message_limit: Some(12),
            messages: vec![
                ChatMessage::said(MessageRole::System, "Be kind."),
                ChatMessage::called("", vec![call("c1")]),
                ChatMessage::Tool(ToolResult {
                    call_id: "c1".to_owned(),
                    name: "look".to_owned(),
                    content: "nothing".to_owned(),
                    is_error: true,
                }),
            ],
            turn: vec![ChatMessage::User {
                parts: vec![
                    Part::Text { text: "What is my dog's name?".to_owned() },
                    Part::Image(Image {
                        source: ImageSource::Url("https://host/dog.png".to_owned()),
                        detail: None,
                    }),
                ],
            }],
            client_tools: vec![ToolSpec {
                name: "look".to_owned(),
                description: "Looks.".to_owned(),
                parameters: serde_json::json!({"type": "object"}),
                strict: true,
            }],
            tool_choice: ToolChoice::Tool("look".to_owned()),
            parallel_tool_calls: Some(false),
            response_format: ResponseFormat::JsonSchema {
                name: "dog".to_owned(),
                description: None,
                schema: serde_json::json!({"type": "object"}),
                strict: true,
            },
            system_prompt: Some("You are a cat.".to_owned()),
            context: Some(r#"{"place":"home"}"#.to_owned()),
            parameters: Some(r#"{"temperature":0}"#.to_owned()),
            timeout: Some(Duration::from_millis(1_234)),
            model: Some("compatible/x/y".to_owned()),
            response: Some(ResponseAsked {
                previous: Some(RunId::from_uuid(uuid())),
                in_conversation: true,
                unstored: true,
            }),
            handling: Handling {
                if_busy: IfBusy::Rollback,
                on_disconnect: OnDisconnect::Continue,
                background: true,
                rights: agentry_domain::tools::ToolRights {
                    memories_read: true,
                    ..Default::default()
                },
            },
        },
        metadata: r#"{"run":1}"#.to_owned(),
        reply: None,
        error: None,
        usage: Usage::default(),
        calls: Vec::new(),
        reply_message: None,
        tools: Vec::new(),
        finish_reason: None,
        answered_by: None,
        merged: 0,
        stop: None,
        cached_from: None,
        attempt: 0,
        created_at: now(),
        started_at: None,
        finished_at: None,
        warnings: vec![Warning {
            pointer: "/user/email".to_owned(),
            code: "taken".to_owned(),
            detail: "leads to another user".to_owned(),
        }],
    }
}

pub(crate) fn entry(kind: &'static str, id: [u8; 16]) -> LogEntry {
    LogEntry {
        at: now(),
        kind,
        entity: EntityKind::Agent,
        id,
        actor: None,
        address: None,
        data: r#"{"d":1}"#.to_owned(),
    }
}

/// A write that stores an agent.
pub(crate) fn agent_write(org: OrgId, agent: &Agent) -> Write {
    let mut write = Write::new(org);
    write.agent_insert(agent);
    write.log(entry("agent.created", agent.id.to_bytes()));
    write
}

/// A write that stores a session.
pub(crate) fn session_write(org: OrgId, session: &Session) -> Write {
    let mut write = Write::new(org);
    write.session_put(session);
    write
}

/// Whose jobs are that are nobody's in particular.
pub(crate) fn flow() -> Flow {
    Flow::of_user("somebody")
}

/// A run's job that is due now.
pub(crate) fn new_job(lane: [u8; 16]) -> NewJob {
    NewJob { id: job(), lane, kind: JobKind::Run, flow: flow(), at: now() }
}

/// The claim of a job that was begun at once.
pub(crate) fn begun(org: OrgId, id: JobId, lane: [u8; 16], worker: WorkerId) -> ClaimedJob {
    ClaimedJob { org, id, lane, kind: JobKind::Run, worker, fence: 1, attempts: 1, flow: flow() }
}

/// The rule that was broken.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Error {
    match result {
        Err(StoreError::Refused(error)) => error,
        other => panic!("expected a refusal, found {other:?}"),
    }
}
