//! The edge between HTTP and the handlers: who is asking, how much, how long,
//! and what it looked like. Knows no route and no error format: `api` registers
//! operations with [`op!`] and injects how an error is written.
//!
//! The way of a request, outside in: [`server`] (connection bounds, header
//! time-out, drain) -> [`app`] (path normalisation) -> the axum router ->
//! [`edge`] (request id, metrics and access log, panic, deadline, authenticate,
//! rate limit, concurrency, body limit, authorise) -> handler. The edge sits behind the
//! router's match because class and permission belong to a (method, path
//! template), and only the router knows the template.

pub mod access_log;
pub mod address;
pub mod app;
pub mod auth_failures;
pub mod authenticate;
pub mod body;
pub mod context;
pub mod edge;
pub mod encoding;
mod framing;
pub mod metrics;
pub mod operations;
pub mod permits;
pub mod readiness;
pub mod request_id;
pub mod server;
mod socket;
pub mod tokens;
pub mod trace;
pub mod websocket;

pub use address::TrustedProxies;
pub use app::{Alias, App};
pub use authenticate::AccessMode;
pub use context::{Authenticated, ErrorContext, Failure, RequestContext};
pub use edge::{Edge, EdgeOptions, Render};
pub use metrics::Metrics;
pub use operations::{Access, Class, Op, Operations};
pub use readiness::{Flag, Readiness};
pub use request_id::RequestId;
pub use server::{ServeOptions, Stop, serve};
pub use tokens::{KeySource, TokenActivity, TokenOptions, Tokens};
pub use websocket::{CloseWhy, Incoming, WebSocket, WebSocketUpgrade};

/// What [`op!`] expands to; not for direct use.
#[doc(hidden)]
pub mod macro_support {
    pub use agentry_domain::Permission;
    pub use utoipa_axum::routes;
}
