//! Episodes: what was said or happened, as it came. The knowledge graph is drawn
//! out of them in the background; until then they are found as text.

use serde::{Deserialize, Serialize};

use crate::graph::GroupId;
use crate::ids::{EpisodeId, MessageId};
use crate::json::JsonText;
use crate::named;
use crate::time::Timestamp;

/// Characters of an episode's content at most.
pub const EPISODE_CONTENT_CHARS_MAX: usize = 100_000;
/// Characters of an episode's role, speaker and source at most.
pub const EPISODE_LABEL_CHARS_MAX: usize = 200;
/// Episodes that are drawn from in one write.
pub const EPISODE_BATCH_MAX: u32 = 64;
/// How often an episode is tried before it is put aside.
pub const EPISODE_ATTEMPTS_MAX: i64 = 5;

named! {
    /// What an episode's content is.
    #[derive(Default)]
    pub enum EpisodeKind {
        /// Text.
        #[default]
        Text = "text",
        /// A JSON object or list.
        Json = "json",
    }
}

named! {
    /// How far the extraction of an episode is.
    pub enum EpisodeState {
        /// It waits.
        Pending = "pending",
        /// The graph has what it says.
        Done = "done",
        /// It was tried too often, and waits for somebody to look at it.
        Dead = "dead",
        /// Somebody decided that nothing is to be drawn from it.
        Dropped = "dropped",
    }
}

named! {
    /// Which episodes a list can show alone: those that are not done.
    pub enum EpisodeAside {
        /// It waits.
        Pending = "pending",
        /// It was put aside.
        Dead = "dead",
        /// It was dropped.
        Dropped = "dropped",
    }
}

impl From<EpisodeAside> for EpisodeState {
    fn from(aside: EpisodeAside) -> Self {
        match aside {
            EpisodeAside::Pending => Self::Pending,
            EpisodeAside::Dead => Self::Dead,
            EpisodeAside::Dropped => Self::Dropped,
        }
    }
}

named! {
    /// What a model does with the episodes of a group.
    pub enum ModelWork {
        /// Draws out of them what they say.
        Extract = "extract",
        /// Turns them into vectors.
        Embed = "embed",
    }
}

/// Something that was said or happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// Its id.
    pub id: EpisodeId,
    /// The group it is in.
    pub group_id: GroupId,
    /// What its content is.
    pub kind: EpisodeKind,
    /// Who spoke: `user`, `assistant` or whatever the client calls it.
    pub role: String,
    /// The name of who spoke.
    pub speaker: Option<String>,
    /// Where it comes from, in the client's words.
    pub source: String,
    /// What was said.
    pub content: String,
    /// The session it was said in: the client's own id of one, or one of ours.
    pub session_id: Option<String>,
    /// The caller's id of the user whose it is.
    pub user_id: Option<String>,
    /// The message that it repeats.
    pub message: Option<MessageId>,
    /// When it was said.
    pub occurred_at: Timestamp,
    /// When it came.
    pub ingested_at: Timestamp,
    /// How far its extraction is.
    pub state: EpisodeState,
    /// What drew from it, with its version.
    pub extractor: Option<String>,
    /// How often that was tried.
    pub attempts: i64,
    /// Why it failed when it was last tried.
    pub error: Option<String>,
    /// A JSON object of the client's.
    pub metadata: JsonText,
}

impl Episode {
    /// The name of whoever speaks in the first person: the speaker, or the user, or
    /// what their role is.
    pub fn first_person(&self) -> &str {
        let named = self.speaker.as_deref().or(self.user_id.as_deref());
        named.unwrap_or(if self.role.is_empty() { "user" } else { &self.role })
    }
}
