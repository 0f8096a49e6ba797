//! Tasks in the store. What a task depends on stands in a table of its own, by
//! which a task stays while others depend on it, and which has no circles.

use std::sync::LazyLock;

use agentry_domain::tasks::{TASK_DEPENDENCIES_REACHED_MAX, TaskBody, TaskStatus};
use agentry_domain::{AgentId, Code, Error, TaskId};

use crate::goals::change_lock;
use crate::resources::{Column, Statements, Table, changed, missing};
use crate::sql::statements;
use crate::value::{Value, values};
use crate::write::{Probe, Write};

statements! {
    // The lock keeps the task from being deleted until the write is done.
    TASK_EXISTS = sqlite "select version from task where org = $1 and id = $2"
        postgres "select version from task where org = $1 and id = $2 for key share";
    TASK_LOCK = sqlite "select version from task where org = $1 and id = $2"
        postgres "select version from task where org = $1 and id = $2 for update";
    // Of two changes that close a circle together the second one sees the first.
    TASK_CHAIN = sqlite "" postgres "select 1 from (select pg_advisory_xact_lock($1)) as locked";
    TASK_NEEDS = "insert into task_dependency (org, task, needs) values ($1, $2, $3)";
    TASK_NEEDS_NOTHING = "delete from task_dependency where org = $1 and task = $2";
    TASK_REACHED = sqlite "with recursive reached (id) as (\
        select needs from task_dependency where org = $1 and task = $2 \
        union select needs from reached \
        cross join task_dependency on task_dependency.org = $1 and task_dependency.task = reached.id) \
        select 1 from (select count(*) as tasks, sum(case when id = $2 then 1 else 0 end) as met \
        from (select id from reached limit $3) as cut) as counted \
        where tasks < $3 and (met is null or met = 0)"
        postgres "with recursive reached (id) as (\
        select needs from task_dependency where org = $1 and task = $2 \
        union select needs from reached \
        join task_dependency on task_dependency.org = $1 and task_dependency.task = reached.id) \
        select 1 from (select count(*) as tasks, sum(case when id = $2 then 1 else 0 end) as met \
        from (select id from reached limit $3) as cut) as counted \
        where tasks < $3 and (met is null or met = 0)";
    TASK_MET = sqlite "with recursive reached (id) as (\
        select needs from task_dependency where org = $1 and task = $2 \
        union select needs from reached \
        cross join task_dependency on task_dependency.org = $1 and task_dependency.task = reached.id) \
        select count(*) from (select id from reached limit $3) as counted where id = $2"
        postgres "with recursive reached (id) as (\
        select needs from task_dependency where org = $1 and task = $2 \
        union select needs from reached \
        join task_dependency on task_dependency.org = $1 and task_dependency.task = reached.id) \
        select count(*) from (select id from reached limit $3) as counted where id = $2";
    TASK_DELETE = "delete from task where org = $1 and id = $2 and version = $3 \
        and not exists (select 1 from task_dependency where task_dependency.org = $1 \
        and task_dependency.needs = $2)";
    TASK_VERSION = "select version from task where org = $1 and id = $2";
}

/// Which tasks a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Of this plan.
    pub plan_id: Option<String>,
    /// Of this agent.
    pub agent_id: Option<AgentId>,
    /// In this status.
    pub status: Option<TaskStatus>,
    /// Exactly this type.
    pub task_type: Option<String>,
}

impl Table for TaskBody {
    const TABLE: &'static str = "task";
    const COLUMNS: &'static [Column] = &[
        Column::index("plan_id"),
        Column::index("agent_id"),
        Column::filter("status"),
        Column::filter("task_type"),
    ];
    const COUNTER: &'static str = "tasks";
    type Filter = TaskFilter;

    fn columns(&self) -> Vec<Value> {
        values![self.plan_id.as_ref(), self.agent_id, self.status.as_str(), self.task_type.as_ref(),]
    }

    fn asked(filter: &TaskFilter) -> Vec<Value> {
        values![
            filter.plan_id.as_ref(),
            filter.agent_id,
            filter.status.map(TaskStatus::as_str),
            filter.task_type.as_ref(),
        ]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<TaskBody>);
        &STATEMENTS
    }
}

impl Write {
    /// Says what a new task depends on; guard: all of it is there, and stays
    /// until the write is done.
    pub fn task_depends_on(&mut self, task: TaskId, needs: &[TaskId]) {
        for needed in needs.iter().copied() {
            self.add(&TASK_EXISTS, values![self.org, needed])
                .expect_one(Probe::always(move || missing::<TaskBody>(needed)));
        }
        for needed in needs.iter().copied() {
            self.add(&TASK_NEEDS, values![self.org, task, needed]);
        }
    }

    /// Says what a task depends on from now on; guard: all of it is there, none
    /// of it depends on the task, and in all it is fewer than
    /// [`TASK_DEPENDENCIES_REACHED_MAX`] tasks.
    pub fn task_depends_on_now(&mut self, task: TaskId, needs: &[TaskId]) {
        self.add(&TASK_CHAIN, values![change_lock("task", self.org)]);
        self.add(&TASK_NEEDS_NOTHING, values![self.org, task]);
        self.task_depends_on(task, needs);
        let asked = || values![self.org, task, TASK_DEPENDENCIES_REACHED_MAX];
        let guard = Probe::read(&TASK_MET, asked(), move |met| {
            let detail = match met {
                Some(0) | None => format!(
                    "task {task} would depend on {TASK_DEPENDENCIES_REACHED_MAX} tasks or more"
                ),
                Some(_) => format!("task {task} would depend on itself"),
            };
            Error::new(Code::Conflict, detail)
        });
        let values = asked();
        self.add(&TASK_REACHED, values).expect_one(guard);
    }

    /// Deletes a task of this version that no task depends on.
    pub fn task_delete(&mut self, id: TaskId, version: i64) {
        self.contend(id.to_bytes());
        // The lock is a statement of its own so that the next one sees every
        // task that came to depend on this one before it.
        self.add(&TASK_LOCK, values![self.org, id])
            .expect_one(Probe::always(move || missing::<TaskBody>(id)));
        let guard = Probe::read(&TASK_VERSION, values![self.org, id], move |found| match found {
            None => missing::<TaskBody>(id),
            Some(found) if found == version => Error::new(
                Code::Conflict,
                format!("tasks depend on task {id}; delete them first, or change them"),
            ),
            Some(found) => changed::<TaskBody>(id, found),
        });
        self.add(&TASK_DELETE, values![self.org, id, version]).expect_one(guard);
        self.add(&TASK_NEEDS_NOTHING, values![self.org, id]);
        self.count(TaskBody::COUNTER, &[], -1);
    }
}
