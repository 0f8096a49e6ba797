//! What a run had said whose process ended, when nobody carries it on: it was asked to
//! end, or was begun too often, or called what must not be called twice. Its text that
//! was stored becomes its partial reply, as that of a run that is ended while it speaks.

use agentry_domain::runs::{Run, RunStatus};
use agentry_domain::tools::RunCall;
use agentry_domain::{OrgId, Result};

use crate::Engine;

/// Chunks that are read at once.
const CHUNKS_AT_ONCE_MAX: u32 = 256;
/// Bytes of a text that are kept; what is behind them was shown and is gone.
const TEXT_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// What a run had said and called.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    pub(super) text: String,
    pub(super) tools: Vec<RunCall>,
}

impl Engine {
    /// What is stored of a run that was under way and that nobody has.
    pub(super) async fn left_behind(&self, org: OrgId, run: &Run) -> Result<LeftBehind> {
        let mut left = LeftBehind::default();
        if run.status != RunStatus::Running {
            return Ok(left);
        }
        let store = &self.0.store;
        left.tools = store.run_tools(org, run.id, run.attempt).await?;
        while left.text.len() < TEXT_BYTES_MAX {
            let before = left.text.len() as u64;
            let found =
                store.run_chunks(org, run.id, run.attempt, before, CHUNKS_AT_ONCE_MAX).await?;
            for chunk in found {
                // The one that ends where this begins comes along; behind a gap nothing
                // is worth anything.
                if chunk.offset == left.text.len() as u64 {
                    left.text.push_str(&chunk.text);
                }
            }
            if left.text.len() as u64 == before {
                break;
            }
        }
        Ok(left)
    }
}
