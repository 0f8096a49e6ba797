//! Requests that take effect once. What is remembered of one is written
//! together with its effect, so there is nothing in between to clean up: of
//! several at the same time one takes effect, and the others find its note.

use std::time::Duration;

use agentry_domain::idempotency::{IDEMPOTENCY_KEPT, Remembered};
use agentry_domain::{Caller, Code, Error, Once, Result, Timestamp};
use agentry_store::Write;

use crate::Engine;

/// How often requests that are too old to count are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Requests that are forgotten in one write.
const FORGOTTEN_AT_ONCE_MAX: u32 = 1_000;

impl Engine {
    /// What is remembered of this request, if it took effect before. The same
    /// key with another body is an error.
    pub(crate) async fn remembered(
        &self,
        caller: &Caller,
        once: Option<&Once>,
    ) -> Result<Option<Remembered>> {
        let Some(once) = once else { return Ok(None) };
        let found = self.0.store.idempotency_get(caller.org, once, self.now()).await?;
        match found {
            Some(found) if found.body != once.body => Err(Error::new(
                Code::IdempotencyKeyReused,
                "this Idempotency-Key was sent before with another body",
            )),
            found => Ok(found),
        }
    }

    /// Applies a write that makes the thing with this id and is answered with
    /// this text. When the request took effect before, the write does not, and
    /// what is remembered comes back.
    pub(crate) async fn write_once(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        mut write: Write,
        (id, answer): ([u8; 16], &str),
        now: Timestamp,
    ) -> Result<Option<Remembered>> {
        if let Some(once) = once {
            write.idempotency_set(once, id, answer, now);
        }
        match self.0.store.write(write).await.map_err(Error::from) {
            Ok(_) => Ok(None),
            Err(error) if error.code == Code::AlreadyDone => {
                let found = self.remembered(caller, once).await?;
                found.map(Some).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what is too old to count, until this process stops.
    pub(crate) async fn forget_requests(&self) {
        let stopping = self.0.tasks.stopping().clone();
        loop {
            match self.forget_some_requests().await {
                // There may be more than one write takes.
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "old requests could not be forgotten");
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(FORGET_EVERY) => {}
            }
        }
    }

    /// Whether there was something to forget.
    async fn forget_some_requests(&self) -> Result<bool> {
        let now = self.now();
        let oldest = self.0.store.idempotency_oldest().await?;
        if oldest.is_none_or(|at| now.since(at) < IDEMPOTENCY_KEPT) {
            return Ok(false);
        }
        let mut write = Write::new(self.anyone().org).bulk();
        write.idempotency_expire(now, FORGOTTEN_AT_ONCE_MAX);
        self.0.store.write(write).await?;
        Ok(true)
    }
}
