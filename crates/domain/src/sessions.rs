//! Sessions and the messages in them.

use serde::{Deserialize, Serialize};

use crate::chat::ChatMessage;
use crate::ids::{MessageId, RunId, SessionId};
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};
use crate::time::Timestamp;

named! {
    /// Where a session is in its life. Clients set it.
    #[derive(Default)]
    pub enum SessionStatus {
        /// Going on.
        #[default]
        Active = "active",
        /// Set aside.
        Paused = "paused",
        /// Done.
        Completed = "completed",
        /// Ended by a failure.
        Crashed = "crashed",
    }
}

/// One conversation.
pub type Session = Entity<SessionBody>;

/// What a session is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionBody {
    /// The caller's name for it, unique per user.
    pub name: Option<String>,
    /// The caller's id of the user it belongs to.
    pub user_id: Option<String>,
    /// Where it came from: any label.
    pub origin: Option<String>,
    /// Where it is in its life.
    pub status: SessionStatus,
    /// A JSON object of the client's.
    pub metadata: JsonText,
}

/// The names that runs use for a session's fields.
#[derive(Serialize)]
pub struct SessionAlso<'a> {
    session_name: Option<&'a str>,
    session_origin: Option<&'a str>,
}

impl Resource for SessionBody {
    type Id = SessionId;
    type Also<'a> = SessionAlso<'a>;
    const KIND: EntityKind = EntityKind::Session;

    fn also(&self, _id: SessionId) -> SessionAlso<'_> {
        SessionAlso { session_name: self.name.as_deref(), session_origin: self.origin.as_deref() }
    }
}

named! {
    /// Who speaks. The texts are those of OpenAI's chat format.
    pub enum MessageRole {
        /// The instructions.
        System = "system",
        /// The person or program that asks.
        User = "user",
        /// The model.
        Assistant = "assistant",
        /// A tool: the outcome of a call of the model's.
        Tool = "tool",
    }
}

/// One message. Order by id is the order of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// The session it is in.
    pub session: SessionId,
    /// The run that it started or that wrote it; none when it was appended.
    pub run: Option<RunId>,
    /// Who speaks.
    pub role: MessageRole,
    /// What is said.
    pub content: String,
    /// All of it, when `role` and `content` are not: images, tool calls, the call
    /// that a result belongs to.
    pub chat: Option<ChatMessage>,
    /// A JSON object of the client's.
    pub metadata: String,
    /// When it was stored.
    pub created_at: Timestamp,
}

impl Message {
    /// What a model is shown of it.
    pub fn into_chat(self) -> ChatMessage {
        self.chat.unwrap_or_else(|| ChatMessage::said(self.role, self.content))
    }
}
