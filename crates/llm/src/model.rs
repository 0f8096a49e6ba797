//! What is asked of a model and what comes back.

use agentry_domain::Result;
use agentry_domain::chat::{
    ChatMessage, Reasoning, ResponseFormat, ToolCall, ToolChoice, ToolSpec,
};
use agentry_domain::ids::SessionId;
use agentry_domain::runs::Usage;
use agentry_domain::sessions::MessageRole;
use agentry_domain::time::Timestamp;
use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::{Map, Value};
use tokio::time::Instant;

/// Everything that a model is shown for one reply.
#[derive(Clone, Debug)]
pub struct ModelRequest {
    /// The system prompt; may be empty.
    pub instructions: String,
    /// JSON: background that the caller gave with the run.
    pub context: Option<String>,
    /// What was said before and may matter now, best first.
    pub recalled: Vec<Passage>,
    /// The conversation, oldest first; the input is the last one.
    pub messages: Vec<ChatMessage>,
    /// The tools that the model may call.
    pub tools: Vec<ToolSpec>,
    /// Whether it calls them.
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once; the provider's default when absent.
    pub parallel_tool_calls: Option<bool>,
    /// The form that the answer has to take.
    pub response_format: ResponseFormat,
    /// Settings for the provider, in OpenAI's words, such as `temperature`.
    pub parameters: Map<String, Value>,
    /// When the reply has to be complete.
    pub deadline: Instant,
}

impl ModelRequest {
    /// A request with nothing but a conversation.
    pub fn new(messages: Vec<ChatMessage>, deadline: Instant) -> Self {
        Self {
            instructions: String::new(),
            context: None,
            recalled: Vec::new(),
            messages,
            tools: Vec::new(),
            tool_choice: ToolChoice::default(),
            parallel_tool_calls: None,
            response_format: ResponseFormat::default(),
            parameters: Map::new(),
            deadline,
        }
    }
}

/// Something that was said before, or that is to be remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// What was said or is to be remembered.
    pub text: String,
    /// Where it comes from.
    pub source: Source,
    /// When it was said or written.
    pub at: Timestamp,
    /// BM25; comparable only within one request.
    pub score: f64,
    /// 0 to 1: the share of the query's term weight that the text holds.
    pub coverage: f64,
}

/// Where a passage comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A message.
    Message {
        /// Its session.
        session: SessionId,
        /// Who said it.
        role: MessageRole,
    },
    /// A memory.
    Memory,
    /// A fact that was drawn out of what was said.
    Fact,
}

/// A piece of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelEvent {
    /// Who answers, as `provider/model`; at most once, and then first. One that was
    /// asked in place of another says so by this.
    Answering(String),
    /// Text to append; never empty.
    Delta(String),
    /// A piece of what the model thought, of a reply that calls tools: its provider wants it
    /// back with their results.
    Reasoning(Reasoning),
    /// A call of a tool, whole. Text may come before and between calls.
    ToolCall(ToolCall),
    /// What the reply cost, as the provider counted; at most once.
    Usage(Usage),
    /// The reply is complete. The last item of a stream that did not fail.
    Finished(FinishReason),
}

/// Why a reply ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model had said everything.
    Stop,
    /// A bound on the reply's length was reached.
    Length,
    /// It waits for the results of the tools that it called.
    ToolCalls,
    /// The provider held the rest back.
    Filtered,
    /// Something else, in the provider's word.
    Other(String),
}

impl FinishReason {
    /// OpenAI's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Filtered => "content_filter",
            Self::Other(word) => word,
        }
    }

    /// Reads OpenAI's word.
    pub fn parse(word: &str) -> Self {
        match word {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" | "function_call" => Self::ToolCalls,
            "content_filter" => Self::Filtered,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Writes replies. An implementation:
/// - fails with a `model_*` code only, either before the stream or as its last item;
/// - ends a stream either with one `Finished` or with one error;
/// - tells each call of a tool once and whole, under an id that no other call of the
///   reply has, and ends a reply that calls tools with `ToolCalls`;
/// - takes a conversation that is `agentry_domain::chat::sound`;
/// - refuses with `model_rejected` what its provider cannot be asked for, and drops
///   nothing silently: `builtin/recall` alone ignores tools, and says so in its page;
/// - is done by the deadline;
/// - stops working, and lets its connection go, when the stream is dropped;
/// - never puts a credential into an error's detail.
#[async_trait]
pub trait Model: Send + Sync {
    /// Begins a reply. Returns once the provider has accepted the request.
    async fn respond(
        &self,
        request: ModelRequest,
    ) -> Result<BoxStream<'static, Result<ModelEvent>>>;

    /// Whether replies only quote memory, so that they must not be remembered
    /// again.
    fn quotes(&self) -> bool;
}
