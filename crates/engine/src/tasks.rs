//! Tasks: who does them, and what each depends on.

use agentry_domain::tasks::{Task, TaskBody};
use agentry_domain::{Caller, Document, Done, Once, Result, TaskId};

use crate::Engine;

impl Engine {
    /// Makes a task. Its agent and what it depends on must be there.
    pub async fn task_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: TaskBody,
    ) -> Result<Done<Document<TaskBody>>> {
        let checked = async |_| self.task_checked(caller, None, body).await;
        self.resource_create_after(caller, once, checked, |write, task| {
            write.task_depends_on(task.id, &task.depends_on);
        })
        .await
    }

    /// Changes a task; a new agent and new dependencies must be there.
    pub async fn task_update(
        &self,
        caller: &Caller,
        id: TaskId,
        if_match: Option<i64>,
        change: impl Fn(&Task) -> Result<TaskBody> + Sync,
    ) -> Result<Document<TaskBody>> {
        let change = &change;
        let changed = |was: Task| async move {
            let body = self.task_checked(caller, Some(&was), change(&was)?).await?;
            Ok((was, body))
        };
        self.resource_update_after(caller, id, if_match, changed, |write, was, will_be| {
            if will_be.depends_on != was.depends_on {
                write.task_depends_on_now(id, &will_be.depends_on);
            }
        })
        .await
    }

    async fn task_checked(
        &self,
        caller: &Caller,
        was: Option<&Task>,
        body: TaskBody,
    ) -> Result<TaskBody> {
        if let Some(agent) = body.agent_id
            && was.and_then(|was| was.agent_id) != Some(agent)
        {
            self.agent_get(caller, agent).await?;
        }
        Ok(body)
    }

    /// Deletes a task. 409 while tasks depend on it.
    pub async fn task_delete(
        &self,
        caller: &Caller,
        id: TaskId,
        if_match: Option<i64>,
    ) -> Result<()> {
        self.resource_delete_with::<TaskBody>(caller, id, if_match, |write, was| {
            write.task_delete(was.id, was.version);
        })
        .await
    }
}
