//! Plans: the steps by which a goal is to be reached.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, GoalId, PlanId};
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};

named! {
    /// How far a plan is. Clients set it.
    #[derive(Default)]
    pub enum PlanStatus {
        /// Being made.
        #[default]
        Draft = "draft",
        /// Being followed.
        Active = "active" | "in_progress",
        /// Followed to its end.
        Completed = "completed",
        /// Followed in vain.
        Failed = "failed",
        /// Given up.
        Cancelled = "cancelled",
    }
}

/// A plan.
pub type Plan = Entity<PlanBody>;

/// What a plan is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanBody {
    /// What people call it; need not be unique.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// The goal it is for; the goal was there when this was set.
    pub goal_id: Option<GoalId>,
    /// Whose it is; the agent was there when this was set.
    pub agent_id: Option<AgentId>,
    /// How far it is.
    pub status: PlanStatus,
    /// A JSON array of the client's.
    pub steps: JsonText,
    /// A JSON object of the client's.
    pub metadata: JsonText,
}

impl Default for PlanBody {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            goal_id: None,
            agent_id: None,
            status: PlanStatus::default(),
            steps: JsonText::empty_list(),
            metadata: JsonText::empty(),
        }
    }
}

/// Another name of a plan's id.
#[derive(Serialize)]
pub struct PlanAlso {
    plan_id: PlanId,
}

impl Resource for PlanBody {
    type Id = PlanId;
    type Also<'a> = PlanAlso;
    const KIND: EntityKind = EntityKind::Plan;

    fn also(&self, id: PlanId) -> PlanAlso {
        PlanAlso { plan_id: id }
    }
}
