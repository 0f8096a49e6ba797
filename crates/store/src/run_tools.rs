//! The calls of tools in a run that has not ended, so that whoever follows it
//! sees them, in any process and after a crash, and so that a call with effects
//! is not made twice. They are written under the fence of the run's job; the
//! write that ends the run folds them into its row.

use agentry_domain::tools::RunCall;
use agentry_domain::{Error, OrgId, RunId};

use crate::sql::statements;
use crate::value::{self, Columns, values};
use crate::write::Write;
use crate::{ClaimedJob, Result, Store, StoreError};

statements! {
    RUN_TOOL_SAVE = "insert into run_tool (org, run, position, attempt, effects, document) \
        values ($1, $2, $3, $4, $5, $6) on conflict (org, run, position) do update set \
        attempt = excluded.attempt, effects = excluded.effects, document = excluded.document";
    RUN_TOOL_LIST = "select document from run_tool where org = $1 and run = $2 and attempt = $3 \
        order by position";
    RUN_TOOL_EFFECTS = "select effects from run_tool where org = $1 and run = $2 and effects = 1 limit 1";
    RUN_TOOL_DELETE = "delete from run_tool where org = $1 and run = $2";
}

impl Write {
    /// Stores calls of a run as they are now, if its job is still this process's.
    pub fn run_tools_save(&mut self, job: &ClaimedJob, calls: &[(u32, &RunCall)]) -> Result<()> {
        self.job_held(job);
        let run = RunId::from_bytes(job.id.to_bytes());
        for (position, call) in calls {
            let document = serde_json::to_string(call).map_err(Error::internal)?;
            let bound =
                values![self.org, run, i64::from(*position), job.attempts, call.effects, document,];
            self.add(&RUN_TOOL_SAVE, bound);
        }
        self.run_changed(run);
        Ok(())
    }

    /// Says that the run that this write ends called no tool, and spares it the
    /// statement that would delete its calls.
    pub fn run_without_tools(&mut self) {
        self.without_tools = true;
    }

    /// Forgets the calls of a run. It belongs behind the guard of the run's job.
    pub fn run_tools_delete(&mut self, run: RunId) {
        self.add(&RUN_TOOL_DELETE, values![self.org, run]);
    }
}

impl Store {
    /// The calls of an attempt of a run that has not ended, in order.
    pub async fn run_tools(&self, org: OrgId, run: RunId, attempt: i64) -> Result<Vec<RunCall>> {
        self.rows(&RUN_TOOL_LIST, values![org, run, attempt], call).await
    }

    /// Whether a call of a run was begun that may have changed something.
    pub async fn run_tools_had_effects(&self, org: OrgId, run: RunId) -> Result<bool> {
        let found = self.point(&RUN_TOOL_EFFECTS, values![org, run], value::int).await?;
        Ok(found.is_some())
    }
}

fn call(row: &mut Columns<'_>) -> Result<RunCall> {
    serde_json::from_str(&row.text()?).map_err(|_| StoreError::unreadable("a call of a run"))
}
