//! Goals: whose they are, and which is a part of which.

use std::collections::HashMap;

use agentry_domain::goals::{GOAL_DEPTH_MAX, GOAL_TREE_GOALS_MAX, Goal, GoalBody};
use agentry_domain::{Caller, Document, Done, GoalId, Once, Result};
use agentry_store::goals::GoalNode;
use agentry_store::resources::missing;

use crate::Engine;

/// A goal and the goals below it.
#[derive(Clone, Debug)]
pub struct GoalTree {
    /// The root first, then by distance from it.
    pub nodes: Vec<GoalNode>,
    /// Whether there are more than are shown: deeper than [`GOAL_DEPTH_MAX`], or
    /// more than [`GOAL_TREE_GOALS_MAX`].
    pub truncated: bool,
}

impl Engine {
    /// Makes a goal. Its agent and the goal above it must be there.
    pub async fn goal_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: GoalBody,
    ) -> Result<Done<Document<GoalBody>>> {
        let parent = body.parent_goal_id;
        let owned = async |_| self.goal_owned(caller, None, body).await;
        self.resource_create_after(caller, once, owned, |write, goal| {
            if let Some(parent) = parent {
                write.goal_put_below(goal.id, parent);
            }
        })
        .await
    }

    /// Changes a goal; a new agent and a new goal above it must be there.
    pub async fn goal_update(
        &self,
        caller: &Caller,
        id: GoalId,
        if_match: Option<i64>,
        change: impl Fn(&Goal) -> Result<GoalBody> + Sync,
    ) -> Result<Document<GoalBody>> {
        let change = &change;
        let changed = |was: Goal| async move {
            let body = self.goal_owned(caller, Some(&was), change(&was)?).await?;
            Ok((was, body))
        };
        self.resource_update_after(caller, id, if_match, changed, |write, was, will_be| {
            if let Some(parent) = will_be.parent_goal_id
                && was.parent_goal_id != Some(parent)
            {
                write.goal_put_below(id, parent);
            }
        })
        .await
    }

    /// The goal with the `agent_did` of its agent.
    async fn goal_owned(
        &self,
        caller: &Caller,
        was: Option<&Goal>,
        body: GoalBody,
    ) -> Result<GoalBody> {
        let agent_did = match (body.agent_id, was) {
            (None, _) => None,
            (Some(agent), Some(was)) if was.agent_id == Some(agent) => was.agent_did.clone(),
            (Some(agent), _) => Some(self.agent_get(caller, agent).await?.body.did),
        };
        Ok(GoalBody { agent_did, ..body })
    }

    /// Deletes a goal. 409 while goals are below it.
    pub async fn goal_delete(
        &self,
        caller: &Caller,
        id: GoalId,
        if_match: Option<i64>,
    ) -> Result<()> {
        self.resource_delete_with::<GoalBody>(caller, id, if_match, |write, was| {
            write.goal_delete(was.id, was.version);
        })
        .await
    }

    /// A goal and the goals below it.
    pub async fn goal_tree(&self, caller: &Caller, id: GoalId) -> Result<GoalTree> {
        // One more of each says whether there is more.
        let (depth, limit) = (GOAL_DEPTH_MAX + 1, GOAL_TREE_GOALS_MAX + 1);
        let mut nodes = self.0.store.goal_tree(caller.org, id, depth, limit).await?;
        if nodes.is_empty() {
            return Err(missing::<GoalBody>(id));
        }
        let found = nodes.len();
        nodes.truncate(GOAL_TREE_GOALS_MAX as usize);
        // A goal comes after the one that it is below.
        let mut depths = HashMap::from([(id, 0)]);
        nodes.retain(|node| {
            let above = node.parent.and_then(|parent| depths.get(&parent).copied());
            let depth = above.map_or(0, |above: u32| above + 1);
            depths.entry(node.goal.id).or_insert(depth);
            node.goal.id == id || depth <= GOAL_DEPTH_MAX
        });
        Ok(GoalTree { truncated: nodes.len() < found, nodes })
    }
}
