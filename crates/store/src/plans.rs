//! Plans in the store.

use std::sync::LazyLock;

use agentry_domain::plans::{PlanBody, PlanStatus};
use agentry_domain::{AgentId, GoalId};

use crate::resources::{Column, Statements, Table};
use crate::value::{Value, values};

/// Which plans a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanFilter {
    /// For this goal.
    pub goal_id: Option<GoalId>,
    /// Of this agent.
    pub agent_id: Option<AgentId>,
    /// In this status.
    pub status: Option<PlanStatus>,
}

impl Table for PlanBody {
    const TABLE: &'static str = "plan";
    const COLUMNS: &'static [Column] =
        &[Column::index("goal_id"), Column::index("agent_id"), Column::filter("status")];
    const COUNTER: &'static str = "plans";
    type Filter = PlanFilter;

    fn columns(&self) -> Vec<Value> {
        values![self.goal_id, self.agent_id, self.status.as_str()]
    }

    fn asked(filter: &PlanFilter) -> Vec<Value> {
        values![filter.goal_id, filter.agent_id, filter.status.map(PlanStatus::as_str)]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<PlanBody>);
        &STATEMENTS
    }
}
