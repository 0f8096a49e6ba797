//! What Agentry talks about: ids, entities, states and their transitions, the
//! log's event kinds, pages, the caller, the ports and the one error type.
//! Nothing here does I/O, and nothing here knows HTTP or SQL.

pub mod agents;
pub mod audit;
pub mod background;
pub mod caller;
pub mod chat;
pub mod episodes;
pub mod error;
pub mod facts;
pub mod files;
pub mod goals;
pub mod graph;
pub mod idempotency;
pub mod ids;
pub mod jobs;
pub mod json;
pub mod keys;
pub mod limits;
pub mod log;
pub mod mcp_servers;
pub mod memories;
pub mod named;
pub mod orgs;
pub mod page;
pub mod plans;
pub mod ports;
pub mod resources;
pub mod runs;
pub mod sessions;
pub mod tasks;
pub mod text;
pub mod time;
pub mod tokens;
pub mod tools;
pub mod users;
pub mod webhooks;

pub use caller::{Caller, Permission, Role, Scopes};
pub use error::{Code, Error, Fault, Result};
pub use idempotency::{Done, Once};
pub use ids::{
    AgentId, EdgeId, EpisodeId, FactId, FileId, GoalId, JobId, KeyId, McpServerId, MemoryId,
    MessageId, NodeId, OrgId, PlanId, RunId, SessionId, TaskId, UserId, WebhookId, WorkerId,
};
pub use json::{FREE_JSON_BYTES_MAX, JsonText};
pub use limits::Tier;
pub use named::Named;
pub use page::{Order, Page, PageRequest};
pub use resources::{Document, Entity, Resource, ResourceId};
pub use time::Timestamp;
