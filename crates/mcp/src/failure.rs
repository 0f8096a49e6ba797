//! What goes wrong with a server, in the words of the house.

use agentry_domain::{Code, Error};
use agentry_outbound::Failure;

/// A call over HTTP that came to nothing.
pub(crate) fn of_outbound(failure: Failure) -> Error {
    let (code, detail) = match &failure {
        Failure::Connect(_) | Failure::ConnectTimeout { .. } | Failure::Broken(_) => {
            (Code::McpUnreachable, "the MCP server cannot be reached".to_owned())
        }
        Failure::FirstByteTimeout { .. } | Failure::IdleTimeout { .. } | Failure::Deadline => {
            (Code::McpTimeout, "the MCP server did not answer in time".to_owned())
        }
        Failure::TooLarge { bytes_max } => {
            (Code::McpBadResponse, format!("the MCP server sent more than {bytes_max} bytes"))
        }
        Failure::Refused(refused) => (Code::McpUnreachable, refused.to_string()),
        _ => (Code::McpUnreachable, "the request cannot be made".to_owned()),
    };
    Error::new(code, detail).caused_by(failure)
}

/// Why a call failed that its server did not begin with, so that it may be made again.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the MCP server did not begin with it")]
pub struct NotBegun;

/// A session that is over: its server has forgotten it, and did nothing.
pub(crate) fn of_ended_session() -> Error {
    let detail = "the MCP server ended the session; the next call begins another one";
    Error::new(Code::McpUnreachable, detail).caused_by(NotBegun)
}

/// Whether a call may be made again.
pub(crate) fn is_not_begun(error: &Error) -> bool {
    error.cause.as_ref().is_some_and(|cause| cause.is::<NotBegun>())
}

/// A status that is no success.
pub(crate) fn of_status(status: http::StatusCode) -> Error {
    let detail = format!("the MCP server answered with status {}", status.as_u16());
    let code = match status.as_u16() {
        401 | 403 => Code::McpUnauthorized,
        408 | 504 => Code::McpTimeout,
        400..=499 => Code::McpRejected,
        _ => Code::McpUnreachable,
    };
    Error::new(code, detail)
}
