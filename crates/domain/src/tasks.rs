//! Tasks: pieces of work, and which of them wait for which. Background tasks of
//! the process are in [`crate::background`].

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, TaskId};
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};

/// Tasks that one task depends on directly at most.
pub const TASK_DEPENDENCIES_MAX: usize = 100;
/// Tasks that one task depends on, directly or through others, at most when
/// what it depends on is changed.
pub const TASK_DEPENDENCIES_REACHED_MAX: u32 = 10_000;
/// Characters of its description that name a task without a name.
pub const TASK_NAME_START_CHARS: usize = 80;

named! {
    /// How far a task is. Clients set any.
    #[derive(Default)]
    pub enum TaskStatus {
        /// Not begun.
        #[default]
        Pending = "pending",
        /// Being worked on.
        Running = "running" | "in_progress",
        /// Done.
        Completed = "completed",
        /// Not done.
        Failed = "failed",
        /// Waiting for something.
        Blocked = "blocked",
        /// Left out.
        Skipped = "skipped",
    }
}

/// A task.
pub type Task = Entity<TaskBody>;

/// What a task is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskBody {
    /// The caller's own id of the plan it belongs to.
    pub plan_id: Option<String>,
    /// Who does it; the agent was there when this was set.
    pub agent_id: Option<AgentId>,
    /// What people call it.
    pub name: String,
    /// What is to be done.
    pub description: String,
    /// A label.
    pub task_type: Option<String>,
    /// What it works on: a JSON object of the client's.
    pub input_data: JsonText,
    /// What came of it: a JSON object of the client's.
    pub output_data: JsonText,
    /// Tasks that come before it; they are there, and make no circle.
    pub depends_on: Vec<TaskId>,
    /// How far it is.
    pub status: TaskStatus,
    /// A JSON object of the client's.
    pub metadata: JsonText,
}

/// The name of a task that was given none: its description's first line, cut
/// after [`TASK_NAME_START_CHARS`] characters.
pub fn name_of(description: &str) -> String {
    let line = description.trim_start().lines().next().unwrap_or_default();
    line.chars().take(TASK_NAME_START_CHARS).collect::<String>().trim_end().to_owned()
}

/// Other names of a task's fields.
#[derive(Serialize)]
pub struct TaskAlso<'a> {
    task_id: TaskId,
    inputs: &'a JsonText,
    outputs: &'a JsonText,
}

impl Resource for TaskBody {
    type Id = TaskId;
    type Also<'a> = TaskAlso<'a>;
    const KIND: EntityKind = EntityKind::Task;

    fn also(&self, id: TaskId) -> TaskAlso<'_> {
        TaskAlso { task_id: id, inputs: &self.input_data, outputs: &self.output_data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_by_its_description_s_start() {
        let long = "\u{e9}".repeat(TASK_NAME_START_CHARS + 1);
        for (description, name) in [
            ("Book a flight", "Book a flight"),
            ("\n  Book a flight \nto Lisbon", "Book a flight"),
            (long.as_str(), &long[..TASK_NAME_START_CHARS * 2]),
            (" \n ", ""),
        ] {
            assert_eq!(name_of(description), name, "{description:?}");
        }
    }
}
