//! Goals: what is to be reached, by which agent, and the goals it is made of.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, GoalId};
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};

/// The most urgent a goal can be. The least urgent is 1.
pub const GOAL_PRIORITY_MAX: u32 = 10;
/// The priority of a goal that names none.
pub const GOAL_PRIORITY_DEFAULT: u32 = 5;
/// Goals above one another at most when a goal is put below another.
pub const GOAL_DEPTH_MAX: u32 = 50;
/// Goals in the answer that shows a tree at most.
pub const GOAL_TREE_GOALS_MAX: u32 = 1_000;

named! {
    /// How far a goal is. Clients set it.
    #[derive(Default)]
    pub enum GoalStatus {
        /// Not begun.
        #[default]
        Pending = "pending",
        /// Being worked on.
        Active = "active" | "in_progress",
        /// Reached.
        Completed = "completed",
        /// Not reached.
        Failed = "failed",
        /// Given up.
        Cancelled = "cancelled",
    }
}

/// A goal.
pub type Goal = Entity<GoalBody>;

/// What a goal is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoalBody {
    /// Whose it is; the agent was there when this was set.
    pub agent_id: Option<AgentId>,
    /// The agent's decentralised identifier, kept with its id.
    pub agent_did: Option<String>,
    /// What is to be reached.
    pub description: String,
    /// How one sees that it is reached: a JSON array of the client's.
    pub success_criteria: JsonText,
    /// 1 to [`GOAL_PRIORITY_MAX`], which is the most urgent.
    pub priority: u32,
    /// How far it is.
    pub status: GoalStatus,
    /// A label.
    pub goal_type: Option<String>,
    /// The goal that this one is a part of; goals make no circle.
    pub parent_goal_id: Option<GoalId>,
    /// A JSON object of the client's.
    pub constraints: JsonText,
    /// A label: how it is to be taken apart.
    pub decomposition_strategy: Option<String>,
    /// A JSON object of the client's.
    pub metadata: JsonText,
}

impl Default for GoalBody {
    fn default() -> Self {
        Self {
            agent_id: None,
            agent_did: None,
            description: String::new(),
            success_criteria: JsonText::empty_list(),
            priority: GOAL_PRIORITY_DEFAULT,
            status: GoalStatus::default(),
            goal_type: None,
            parent_goal_id: None,
            constraints: JsonText::empty(),
            decomposition_strategy: None,
            metadata: JsonText::empty(),
        }
    }
}

/// Other names of a goal's fields.
#[derive(Serialize)]
pub struct GoalAlso<'a> {
    goal_id: GoalId,
    goal_text: &'a str,
}

impl Resource for GoalBody {
    type Id = GoalId;
    type Also<'a> = GoalAlso<'a>;
    const KIND: EntityKind = EntityKind::Goal;

    fn also(&self, id: GoalId) -> GoalAlso<'_> {
        GoalAlso { goal_id: id, goal_text: &self.description }
    }
}
