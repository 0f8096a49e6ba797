//! Requests that take effect once. What is remembered of one is written
//! together with its effect, so there is nothing in between to clean up: of
//! several at the same time one takes effect, and the others find its note.

use agentry_domain::idempotency::Remembered;
use agentry_domain::{Caller, Code, Error, Once, Result, Timestamp};
use agentry_store::Write;

use crate::Engine;

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
}
