//! Requests that take effect once, however often they are sent.

use std::time::Duration;

use crate::error::Code;
use crate::ids::{KeyId, WorkerId};

/// How long an `Idempotency-Key` is remembered.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Characters of an `Idempotency-Key` at most.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// Bytes of an answer that is remembered as it was; of a longer one only what
/// it was about.
pub const IDEMPOTENCY_ANSWER_BYTES_MAX: usize = 64 * 1_024;

/// A request that is to take effect once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Who sends it; the key means nothing to others.
    pub caller: Option<KeyId>,
    /// Method and path.
    pub operation: String,
    /// The client's key.
    pub key: String,
    /// The hash of its body: the same key with another body is a mistake.
    pub body: [u8; 32],
}

/// What is remembered of a request that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The hash of its body.
    pub body: [u8; 32],
    /// When it took effect, in microseconds since 1970.
    pub at: i64,
    /// What it made.
    pub id: [u8; 16],
    /// The answer, unless it was too long.
    pub answer: Option<String>,
    /// How far it is.
    pub progress: Progress,
}

/// How far a request is. What happens here is noted with its effect, and is over then; an
/// effect that is somebody else's is claimed before it is caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It took effect; the answer is known.
    Over,
    /// This process causes the effect, or ended while it did.
    UnderWay(WorkerId),
    /// It failed, and may have had an effect.
    Failed(Code, String),
}

/// The outcome of a request that may have been sent before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// The outcome.
    pub value: T,
    /// Whether it is the outcome of an earlier request with the same key.
    pub replayed: bool,
}

impl<T> Done<T> {
    /// An outcome of this very request.
    pub fn now(value: T) -> Self {
        Self { value, replayed: false }
    }

    /// The same, of another form.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Done<U> {
        Done { value: map(self.value), replayed: self.replayed }
    }
}
