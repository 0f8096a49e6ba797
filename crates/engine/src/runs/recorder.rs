//! What a model says, told at once to whoever follows the run and stored in
//! chunks, beside the reading: nobody waits for the storage before he reads on,
//! and no database connection is held meanwhile.
//!
//! A reply that is complete within [`FLUSH_AFTER`] of its first word is stored
//! with the end of its run alone: two commits for a run stay two. What lasts
//! longer is stored as it comes, whoever watches, because somebody may come back
//! for it after a crash.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::{Code, Error, Result};
use agentry_store::{ClaimedJob, RunChunk, Store, Write};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::live::Speaker;

/// How long text waits to be stored at most.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// Bytes of text that do not wait longer.
const FLUSH_BYTES: usize = 4 * 1_024;
/// Bytes of text that may wait to be stored; the model is not read on beyond.
const UNSTORED_BYTES_MAX: usize = 256 * 1_024;
/// The pause after the storage failed.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Stores what is said in a run.
pub(super) struct Recorder<'a> {
    store: &'a Arc<Store>,
    job: &'a ClaimedJob,
    speaker: &'a Speaker,
    /// Whether chunks of this run may be in the store.
    stored_some: &'a mut bool,
    /// What is not known to be stored, and where it begins.
    unstored: String,
    offset: u64,
    /// When it is to be stored, if it is not too much before.
    due: Instant,
    /// Not before then.
    earliest: Instant,
    /// The write under way, and how much of `unstored` it stores.
    writing: Option<(BoxFuture<'static, Result<()>>, usize)>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(
        store: &'a Arc<Store>,
        job: &'a ClaimedJob,
        speaker: &'a Speaker,
        stored_some: &'a mut bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            store,
            job,
            speaker,
            stored_some,
            unstored: String::new(),
            offset: 0,
            due: now,
            earliest: now,
            writing: None,
        }
    }

    /// Another piece was said.
    pub(super) fn say(&mut self, text: &str) {
        self.speaker.text(text);
        if self.unstored.is_empty() {
            let now = Instant::now();
            self.due = now + FLUSH_AFTER;
            if self.offset == 0 {
                self.earliest = self.due;
            }
        }
        self.unstored.push_str(text);
    }

    /// Waits for something, and stores meanwhile what is due. It fails when the
    /// run is no longer this process's.
    pub(super) async fn beside<T>(&mut self, next: impl Future<Output = T>) -> Result<T> {
        let mut next = pin!(next);
        loop {
            if self.unstored.len() > UNSTORED_BYTES_MAX {
                self.store_some().await?;
                continue;
            }
            tokio::select! {
                biased;
                item = &mut next => return Ok(item),
                stored = self.store_some() => stored?,
            }
        }
    }

    /// Stores what is due, once; forever when nothing is there. May be dropped and
    /// called again.
    async fn store_some(&mut self) -> Result<()> {
        if self.writing.is_none() {
            if self.unstored.is_empty() {
                return pending().await;
            }
            let due = if self.unstored.len() >= FLUSH_BYTES { self.earliest } else { self.due };
            tokio::time::sleep_until(due.max(self.earliest)).await;
            self.writing = Some(self.write());
        }
        let Some((writing, bytes)) = &mut self.writing else { return Ok(()) };
        let (outcome, bytes) = (writing.await, *bytes);
        self.writing = None;
        match outcome {
            Ok(()) => {
                self.unstored.drain(..bytes);
                self.offset += bytes as u64;
                self.due = Instant::now() + FLUSH_AFTER;
                self.speaker.stored(self.offset);
                Ok(())
            }
            Err(error) if error.code.retryable() && error.code != Code::ShuttingDown => {
                tracing::warn!(run = %self.job.id, error = %error.chain(),
                    "text of a run could not be stored yet");
                self.earliest = Instant::now() + AGAIN_AFTER;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self) -> (BoxFuture<'static, Result<()>>, usize) {
        *self.stored_some = true;
        let mut write = Write::new(self.job.org);
        let chunk = RunChunk { offset: self.offset, text: self.unstored.clone() };
        write.run_chunk_append(self.job, chunk);
        let store = Arc::clone(self.store);
        let writing = async move { store.write(write).await.map(drop).map_err(Error::from) };
        (Box::pin(writing), self.unstored.len())
    }
}
