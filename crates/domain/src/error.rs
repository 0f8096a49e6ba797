//! The one error that reaches the edge. A code says what kind of failure it
//! is, `detail` is written for the caller, and the cause stays private: it is
//! logged once, at the edge, and never sent.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $title:literal;)*) => {
        /// What kind of failure it was. The text form is stable and has a page
        /// in docs/errors.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The stable snake_case text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// A short title for people.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    MalformedJson = "malformed_json", "The body is not valid JSON";
    /// Fields have wrong types or break rules; `faults` lists every one.
    ValidationFailed = "validation_failed", "The request breaks a rule";
    /// A known field or header whose behaviour does not exist yet.
    NotSupportedYet = "not_supported_yet", "This is not supported yet";
    /// The media type of the body is not the one the operation reads.
    UnsupportedMediaType = "unsupported_media_type", "The media type is not supported";
    /// The body is larger than `body_bytes_max`.
    BodyTooLarge = "body_too_large", "The body is too large";
    /// No key, or one that is not valid.
    Unauthenticated = "unauthenticated", "A valid API key is needed";
    /// The caller's role does not allow the operation.
    Forbidden = "forbidden", "The caller may not do this";
    /// No such thing, or one of another organisation.
    NotFound = "not_found", "There is no such resource";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", "The method is not allowed here";
    /// The path speaks WebSocket and the request does not.
    UpgradeRequired = "upgrade_required", "This path speaks WebSocket";
    /// The thing changed between reading and writing.
    Conflict = "conflict", "The request conflicts with the current state";
    /// A request with this `Idempotency-Key` took effect already. Never leaves
    /// the server: the answer is that request's.
    AlreadyDone = "already_done", "The request took effect already";
    /// The process ended that called a tool for a request with an `Idempotency-Key`.
    CallInterrupted = "call_interrupted", "The call was interrupted";
    /// An `Idempotency-Key` came again with another body.
    IdempotencyKeyReused = "idempotency_key_reused", "The Idempotency-Key belongs to another request";
    /// A unique value is taken.
    AlreadyExists = "already_exists", "The value is already taken";
    /// A name means several things; the ids are listed.
    AmbiguousName = "ambiguous_name", "The name is ambiguous";
    /// There would be more of something than there may be.
    QuotaExceeded = "quota_exceeded", "There is no room left for this";
    /// `If-Match` did not match.
    PreconditionFailed = "precondition_failed", "The resource has changed";
    /// The session already has `session_queue_runs_max` waiting runs.
    SessionQueueFull = "session_queue_full", "The session's queue is full";
    /// The organisation already has `org_queue_runs_max` waiting runs.
    OrgQueueFull = "org_queue_full", "The organisation's queue is full";
    /// The installation already has `queue_runs_max` waiting runs.
    QueueFull = "queue_full", "The server's queue is full";
    /// The group already has `group_queue_episodes_max` waiting episodes.
    GraphQueueFull = "graph_queue_full", "The group's queue of episodes is full";
    /// The graph is switched off.
    GraphOff = "graph_off", "The knowledge graph is switched off";
    /// The session has a run under way, and the request asked not to wait.
    SessionBusy = "session_busy", "The session has a run under way";
    /// A bound of the whole process is reached.
    Overloaded = "overloaded", "The server is at its limit";
    /// The server is stopping.
    ShuttingDown = "shutting_down", "The server is shutting down";
    /// The request's deadline passed.
    DeadlineExceeded = "deadline_exceeded", "The deadline passed";
    /// The caller asks more often than its limits allow.
    RateLimited = "rate_limited", "Too many requests";
    /// Too many credentials from the request's address were refused.
    TooManyAuthFailures = "too_many_auth_failures", "Too many failed authentications";
    /// The organisation has had its requests of the day.
    DailyQuotaExceeded = "daily_quota_exceeded", "The day's requests are used up";
    /// The keys that tokens are signed with could not be fetched yet.
    TokenKeysUnavailable = "token_keys_unavailable", "Tokens cannot be checked at the moment";
    /// The disk is full.
    StorageFull = "storage_full", "There is no space left to store this";
    /// The storage answers with errors.
    StorageUnavailable = "storage_unavailable", "The storage is not available";
    /// The key that secrets are sealed with is not there, or another one is.
    SealingKeyMissing = "sealing_key_missing", "The key that secrets are sealed with is missing";
    /// A model that no configured provider offers.
    ModelUnknown = "model_unknown", "The model is not known";
    /// The provider could not be reached.
    ModelUnreachable = "model_unreachable", "The model's provider cannot be reached";
    /// The provider did not answer in time.
    ModelTimeout = "model_timeout", "The model did not answer in time";
    /// The provider refused the credentials.
    ModelUnauthorized = "model_unauthorized", "The model's provider refused the credentials";
    /// The provider refused the request.
    ModelRejected = "model_rejected", "The model's provider refused the request";
    /// The provider asks to slow down.
    ModelRateLimited = "model_rate_limited", "The model's provider limits the rate";
    /// The provider failed.
    ModelFailed = "model_failed", "The model's provider failed";
    /// The provider failed so often that it is not asked for a while.
    ModelCircuitOpen = "model_circuit_open", "The model's provider is left alone for a while";
    /// The provider answered something that is not its protocol.
    ModelBadResponse = "model_bad_response", "The model's provider sent an unreadable answer";
    /// An MCP server that is stopped was to be used.
    McpServerStopped = "mcp_server_stopped", "The MCP server is stopped";
    /// A tool that nobody approved as it is now was to be called.
    ToolNotApproved = "tool_not_approved", "The tool is not approved";
    /// An MCP server could not be started or reached, or went away.
    McpUnreachable = "mcp_unreachable", "The MCP server cannot be reached";
    /// An MCP server did not answer in time.
    McpTimeout = "mcp_timeout", "The MCP server did not answer in time";
    /// An MCP server, or who issues its tokens, refused the credentials.
    McpUnauthorized = "mcp_unauthorized", "The MCP server refused the credentials";
    /// An MCP server answered with an error of its protocol.
    McpRejected = "mcp_rejected", "The MCP server refused the request";
    /// An MCP server sent something that is too large or no answer.
    McpBadResponse = "mcp_bad_response", "The MCP server sent an unusable answer";
    /// A run met one of its bounds.
    RunLimitReached = "run_limit_reached", "The run reached one of its limits";
    /// The run took longer than its `timeout_ms`.
    RunTimedOut = "run_timed_out", "The run took longer than allowed";
    /// Somebody ended the run, or its client went away.
    RunCancelled = "run_cancelled", "The run was cancelled";
    /// The process ended while the run was going on, or another run took its place.
    RunInterrupted = "run_interrupted", "The run was interrupted";
    /// A bug of ours.
    Internal = "internal", "Something went wrong on our side";
}

impl Code {
    /// Whether the same request may succeed later without a change.
    pub const fn retryable(self) -> bool {
        match self {
            Code::SessionQueueFull
            | Code::OrgQueueFull
            | Code::QueueFull
            | Code::GraphQueueFull
            | Code::Overloaded
            | Code::ShuttingDown
            | Code::DeadlineExceeded
            | Code::RateLimited
            | Code::TooManyAuthFailures
            | Code::DailyQuotaExceeded
            | Code::TokenKeysUnavailable
            | Code::StorageFull
            | Code::StorageUnavailable
            | Code::ModelUnreachable
            | Code::ModelTimeout
            | Code::ModelRateLimited
            | Code::ModelFailed
            | Code::ModelCircuitOpen
            | Code::ModelBadResponse
            | Code::McpUnreachable
            | Code::McpTimeout
            | Code::McpBadResponse
            | Code::RunTimedOut
            | Code::RunInterrupted => true,
            Code::MalformedJson
            | Code::ValidationFailed
            | Code::NotSupportedYet
            | Code::UnsupportedMediaType
            | Code::BodyTooLarge
            | Code::Unauthenticated
            | Code::Forbidden
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::UpgradeRequired
            | Code::Conflict
            | Code::AlreadyDone
            | Code::CallInterrupted
            | Code::IdempotencyKeyReused
            | Code::AlreadyExists
            | Code::AmbiguousName
            | Code::QuotaExceeded
            | Code::PreconditionFailed
            | Code::SealingKeyMissing
            | Code::GraphOff
            | Code::SessionBusy
            | Code::RunCancelled
            | Code::ModelUnknown
            | Code::ModelUnauthorized
            | Code::ModelRejected
            | Code::McpServerStopped
            | Code::ToolNotApproved
            | Code::McpUnauthorized
            | Code::McpRejected
            | Code::RunLimitReached
            | Code::Internal => false,
        }
    }

    /// Reads the stable text; `None` for text that is no code.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One broken rule of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// A JSON pointer (RFC 6901) into the body, or the parameter's name.
    pub pointer: String,
    /// A short stable word, such as `required` or `too_long`.
    pub code: &'static str,
    /// What is wrong, for the caller.
    pub detail: String,
}

impl Fault {
    /// A fault at a pointer.
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

/// A failure, as the caller hears of it, with its private cause.
#[derive(thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Error {
    /// What kind of failure.
    pub code: Code,
    /// What happened and what to do, for the caller.
    pub detail: Cow<'static, str>,
    /// Every broken rule, for `validation_failed` and `not_supported_yet`.
    pub faults: Vec<Fault>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// Why, for the log alone.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a message for the caller.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), faults: Vec::new(), retry_after: None, cause: None }
    }

    /// `not_found` for a kind of thing and the id or name that was asked for.
    pub fn not_found(kind: &str, id: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {kind} {id}"))
    }

    /// `validation_failed` with every fault.
    pub fn invalid(faults: Vec<Fault>) -> Self {
        let detail = match faults.as_slice() {
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} rules are broken; see errors", many.len()),
        };
        Self { faults, ..Self::new(Code::ValidationFailed, detail) }
    }

    /// `not_supported_yet` at a pointer.
    pub fn not_supported(pointer: &str, detail: &str) -> Self {
        let fault = Fault::new(pointer, "not_supported_yet", detail);
        Self {
            faults: vec![fault],
            ..Self::new(Code::NotSupportedYet, format!("{pointer}: {detail}"))
        }
    }

    /// A bug of ours, or a failure with nothing to tell the caller.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "an unexpected error; the request id finds it in the log")
            .caused_by(cause)
    }

    /// Adds the private cause.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds when to try again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The whole chain of causes in one line, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_unique_and_readable() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(text.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{text}");
            assert!(seen.insert(text), "{text} stands twice");
            assert_eq!(Code::parse(text), Some(*code));
        }
    }

    #[test]
    fn the_cause_is_in_the_chain_and_not_in_the_detail() {
        let error = Error::internal("disk on fire");
        assert!(error.chain().contains("disk on fire"));
        assert!(!error.detail.contains("disk on fire"));
    }
}
