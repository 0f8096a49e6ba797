//! What Agentry talks about: ids, entities, states and their transitions, the
//! log's event kinds, pages, the caller, the ports and the one error type.
//! Nothing here does I/O, and nothing here knows HTTP or SQL.

pub mod agents;
pub mod caller;
pub mod error;
pub mod ids;
pub mod keys;
pub mod log;
pub mod page;
pub mod ports;
pub mod runs;
pub mod sessions;
pub mod tasks;
pub mod text;
pub mod time;

/// Bytes of a client's own JSON value, such as `metadata`, at most.
pub const FREE_JSON_BYTES_MAX: usize = 64 * 1_024;

pub use caller::{Caller, Permission, Role};
pub use error::{Code, Error, Fault, Result};
pub use ids::{AgentId, JobId, KeyId, MessageId, OrgId, RunId, SessionId, WorkerId};
pub use page::{Order, Page, PageRequest};
pub use time::Timestamp;
