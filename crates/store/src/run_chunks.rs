//! What a model has said so far in a run that has not ended, in chunks, so that
//! whoever follows the run can go on from any place, in any process and after a
//! crash. Chunks are written under the fence of the run's job, and the write
//! that ends the run deletes them: by then its reply holds their text.

use agentry_domain::runs::RunStatus;
use agentry_domain::{OrgId, RunId, SessionId};

use crate::sql::statements;
use crate::value::{Columns, values};
use crate::write::Write;
use crate::{ClaimedJob, Result, Store, StoreError};

statements! {
    RUN_CHUNK_INSERT = "insert into run_chunk (org, run, attempt, byte_offset, text) \
        values ($1, $2, $3, $4, $5) on conflict (org, run, attempt, byte_offset) \
        do update set text = excluded.text";
    RUN_CHUNK_DELETE = "delete from run_chunk where org = $1 and run = $2";
    // From the chunk on that holds the offset.
    RUN_CHUNK_READ = "select byte_offset, text from run_chunk where org = $1 and run = $2 \
        and attempt = $3 and byte_offset >= coalesce((select max(byte_offset) from run_chunk \
        where org = $1 and run = $2 and attempt = $3 and byte_offset <= $4), 0) \
        order by byte_offset limit $5";
    RUN_PROGRESS = "select session, status, attempt from run where org = $1 and id = $2";
}

/// A piece of what a model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunChunk {
    /// Where it begins in the attempt's text, in bytes of UTF-8.
    pub offset: u64,
    /// The piece.
    pub text: String,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunProgress {
    /// Its session.
    pub session: SessionId,
    /// Where it is.
    pub status: RunStatus,
    /// How often it was begun.
    pub attempt: i64,
}

impl Write {
    /// Stores a piece of a run's text, if its job is still this process's. A piece
    /// that may have been stored before is stored again, with what came to it.
    pub fn run_chunk_append(&mut self, job: &ClaimedJob, chunk: RunChunk) {
        self.job_held(job);
        let run = RunId::from_bytes(job.id.to_bytes());
        let offset = i64::try_from(chunk.offset).unwrap_or(i64::MAX);
        self.add(&RUN_CHUNK_INSERT, values![self.org, run, job.attempts, offset, chunk.text]);
        self.run_changed(run);
    }

    /// Says that the run that this write ends never had a chunk, and spares it the
    /// statement that would delete them.
    pub fn run_without_chunks(&mut self) {
        self.without_chunks = true;
    }

    /// Deletes the chunks of a run that ends with this write. It belongs behind
    /// the guard of the run's job: what was stored under the same fence is seen
    /// then, and nothing is stored afterwards.
    pub(crate) fn run_chunks_delete(&mut self, run: RunId) {
        self.add(&RUN_CHUNK_DELETE, values![self.org, run]);
    }
}

impl Store {
    /// The chunks of an attempt from the one on that holds this offset, in order,
    /// at most `limit`.
    pub async fn run_chunks(
        &self,
        org: OrgId,
        run: RunId,
        attempt: i64,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<RunChunk>> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        self.rows(&RUN_CHUNK_READ, values![org, run, attempt, offset, limit], chunk).await
    }

    /// How far a run is; none when there is no such run.
    pub async fn run_progress(&self, org: OrgId, run: RunId) -> Result<Option<RunProgress>> {
        self.point(&RUN_PROGRESS, values![org, run], progress).await
    }
}

fn chunk(row: &mut Columns<'_>) -> Result<RunChunk> {
    Ok(RunChunk { offset: row.int()?.unsigned_abs(), text: row.text()? })
}

fn progress(row: &mut Columns<'_>) -> Result<RunProgress> {
    Ok(RunProgress {
        session: SessionId::from_bytes(row.id()?),
        status: RunStatus::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("a run's status"))?,
        attempt: row.int()?,
    })
}
