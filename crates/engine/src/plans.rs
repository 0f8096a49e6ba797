//! Plans: for which goal, and whose.

use agentry_domain::goals::GoalBody;
use agentry_domain::plans::{Plan, PlanBody};
use agentry_domain::{Caller, Document, Done, Once, PlanId, Result};

use crate::Engine;

impl Engine {
    /// Makes a plan. Its goal and its agent must be there.
    pub async fn plan_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: PlanBody,
    ) -> Result<Done<Document<PlanBody>>> {
        let checked = async |_| self.plan_checked(caller, None, body).await;
        self.resource_create_after(caller, once, checked, |_, _| {}).await
    }

    /// Changes a plan; a new goal and a new agent must be there.
    pub async fn plan_update(
        &self,
        caller: &Caller,
        id: PlanId,
        if_match: Option<i64>,
        change: impl Fn(&Plan) -> Result<PlanBody> + Sync,
    ) -> Result<Document<PlanBody>> {
        let change = &change;
        let changed = |was: Plan| async move {
            let body = self.plan_checked(caller, Some(&was), change(&was)?).await?;
            Ok((was, body))
        };
        self.resource_update_after(caller, id, if_match, changed, |_, _, _| {}).await
    }

    async fn plan_checked(
        &self,
        caller: &Caller,
        was: Option<&Plan>,
        body: PlanBody,
    ) -> Result<PlanBody> {
        if let Some(agent) = body.agent_id
            && was.and_then(|was| was.agent_id) != Some(agent)
        {
            self.agent_get(caller, agent).await?;
        }
        if let Some(goal) = body.goal_id
            && was.and_then(|was| was.goal_id) != Some(goal)
        {
            self.resource_get::<GoalBody>(caller, goal).await?;
        }
        Ok(body)
    }
}
