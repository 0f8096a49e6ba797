//! Sessions and the messages in them.

use crate::ids::{MessageId, RunId, SessionId};
use crate::time::Timestamp;

/// Where a session is in its life. Clients set it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionStatus {
    /// Going on.
    #[default]
    Active,
    /// Set aside.
    Paused,
    /// Done.
    Completed,
    /// Ended by a failure.
    Crashed,
}

impl SessionStatus {
    /// Every status.
    pub const ALL: &'static [Self] = &[Self::Active, Self::Paused, Self::Completed, Self::Crashed];

    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Crashed => "crashed",
        }
    }

    /// Reads the stable text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == text)
    }
}

/// One conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The caller's name for it, unique per user.
    pub name: Option<String>,
    /// The caller's id of the user it belongs to.
    pub user_id: Option<String>,
    /// Where it came from: any label.
    pub origin: Option<String>,
    /// Where it is in its life.
    pub status: SessionStatus,
    /// A JSON object of the client's.
    pub metadata: String,
    /// Grows with every change, from 1; the entity tag.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageRole {
    /// The instructions.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
}

impl MessageRole {
    /// Every role.
    pub const ALL: &'static [Self] = &[Self::System, Self::User, Self::Assistant];

    /// The stable text, the same as in OpenAI's chat format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// Reads the stable text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == text)
    }
}

/// One message. Order by id is the order of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A JSON object of the client's.
    pub metadata: String,
    /// When it was stored.
    pub created_at: Timestamp,
}
