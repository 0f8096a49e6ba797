//! Typed ids. Each is a UUIDv7 (RFC 9562), so that order by id is order by
//! creation; a session's id cannot be passed where an agent's is wanted.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// An id that is not a UUID in text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct NotAnId;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that was made for this kind of thing.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Reads the 16 bytes that the store keeps.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes, big-endian, whose order is the order of creation.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                Uuid::try_parse(text).map(Self).map_err(|_| NotAnId)
            }
        }

        impl crate::resources::ResourceId for $name {
            fn of_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            fn of_bytes(bytes: [u8; 16]) -> Self {
                Self::from_bytes(bytes)
            }

            fn bytes(self) -> [u8; 16] {
                self.to_bytes()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut buffer = Uuid::encode_buffer();
                serializer.serialize_str(self.0.hyphenated().encode_lower(&mut buffer))
            }
        }
    )*};
}

id! {
    /// An organisation: the first part of every key.
    OrgId,
    /// An agent.
    AgentId,
    /// A session: one conversation.
    SessionId,
    /// A message in a session.
    MessageId,
    /// A run: one message handled by one agent.
    RunId,
    /// An API key.
    KeyId,
    /// A user of the callers' products.
    UserId,
    /// A memory.
    MemoryId,
    /// A goal.
    GoalId,
    /// A plan.
    PlanId,
    /// A task.
    TaskId,
    /// A file of a session.
    FileId,
    /// A webhook.
    WebhookId,
    /// A node of a graph.
    NodeId,
    /// An edge of a graph.
    EdgeId,
    /// An MCP server.
    McpServerId,
    /// An episode: something that was said or happened.
    EpisodeId,
    /// A fact of a graph.
    FactId,
    /// A job in a lane.
    JobId,
    /// A process that claims jobs.
    WorkerId,
}

impl MessageId {
    /// The id so many places behind this one, for messages that are made together: the
    /// random end of the id counts on, so that their order is their place.
    pub fn following(self, places: usize) -> Self {
        let id = u128::from_be_bytes(self.to_bytes()).wrapping_add(places as u128);
        Self::from_bytes(id.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_text_and_bytes() {
        let id: AgentId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(id.to_string(), "01890a5d-ac96-774b-bcce-b302099a8057");
        assert_eq!(AgentId::from_bytes(id.to_bytes()), id);
        assert_eq!("simple".parse::<AgentId>(), Err(NotAnId));
    }
}
