//! The MCP client: connections to servers of tools, over a process's standard
//! input and output or over streamable HTTP. It promises that a call ends by its
//! deadline, that nothing a server sends grows past a bound, that a process is
//! reaped with all of its group and sees nothing of this process's environment,
//! and that a URL is called through the client that it was given, which is a
//! guarded one for servers that came over the API. Which server is connected
//! when, and which tool may be called, is left to callers.

mod connection;
mod connector;
mod failure;
mod http;
mod oauth;
mod process;
mod sse;
mod stdio;

pub use connection::{Connection, Found, Outcome};
pub use connector::{Auth, Connector, Credentials, Options, Target};
pub use failure::NotBegun;
