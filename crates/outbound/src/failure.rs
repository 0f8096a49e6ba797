//! The ways in which a call can fail. A status is not a failure here: whoever
//! called knows what it means.

use std::time::Duration;

use crate::guard::{Refused, refused_in};

/// Why there is no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection came about, so the request had no effect.
    #[error("no connection could be made")]
    Connect(#[source] Cause),
    /// No connection came about in time, so the request had no effect.
    #[error("no connection was made within {} ms", after.as_millis())]
    ConnectTimeout {
        /// The time-out.
        after: Duration,
    },
    /// The answer did not begin in time.
    #[error("the answer did not begin within {} ms", after.as_millis())]
    FirstByteTimeout {
        /// The time-out.
        after: Duration,
    },
    /// The answer stopped coming.
    #[error("nothing more of the answer came for {} ms", after.as_millis())]
    IdleTimeout {
        /// The time-out.
        after: Duration,
    },
    /// The caller's deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// The answer's body is larger than `response_bytes_max`.
    #[error("the answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection broke before the answer was complete")]
    Broken(#[source] Cause),
    /// The target is not one that may be called; nothing was sent.
    #[error("refused: {0}")]
    Refused(Refused),
    /// The upstream failed so often that it is left alone; nothing was sent.
    #[error("it failed too often and is left alone for {} ms", retry_after.as_millis())]
    BreakerOpen {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The request cannot be sent as it is, or the client cannot be made.
    #[error("the request cannot be made")]
    Invalid(#[source] Cause),
}

/// A cause, for the log.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Failure {
    /// Sorts what reqwest reports. The URL is taken out of it because a URL
    /// may carry credentials in its query.
    pub(crate) fn from_reqwest(error: reqwest::Error, connect_timeout: Duration) -> Self {
        let error = error.without_url();
        if let Some(refused) = refused_in(&error) {
            return Self::Refused(refused);
        }
        if error.is_builder() {
            Self::Invalid(error.into())
        } else if error.is_connect() && error.is_timeout() {
            Self::ConnectTimeout { after: connect_timeout }
        } else if error.is_connect() {
            Self::Connect(error.into())
        } else {
            Self::Broken(error.into())
        }
    }
}
