//! Goals in the store. A goal stays while goals are below it, and they make no
//! circle.

use std::sync::LazyLock;

use agentry_domain::goals::{GOAL_DEPTH_MAX, GoalBody, GoalStatus};
use agentry_domain::{AgentId, Code, Document, Error, GoalId, OrgId};

use crate::resources::{Column, Statements, Table, changed, document, missing};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store};

statements! {
    // The lock keeps the goal from being deleted until the write is done.
    GOAL_EXISTS = sqlite "select version from goal where org = $1 and id = $2"
        postgres "select version from goal where org = $1 and id = $2 for key share";
    GOAL_LOCK = sqlite "select version from goal where org = $1 and id = $2"
        postgres "select version from goal where org = $1 and id = $2 for update";
    // Of two goals that are put below one another at the same time the second
    // one sees the first.
    GOAL_MOVE = sqlite "" postgres "select 1 from (select pg_advisory_xact_lock($1)) as locked";
    // A cross join is SQLite's way to say which comes first: without statistics
    // it would go through the organisation for each goal that is reached.
    GOAL_ABOVE = sqlite "with recursive reached (id, parent, depth) as (\
        select id, parent_goal_id, 1 from goal where org = $1 and id = $2 \
        union all select goal.id, goal.parent_goal_id, reached.depth + 1 from reached \
        cross join goal on goal.org = $1 and goal.id = reached.parent where reached.depth < $3) \
        select 1 from (select count(*) as goals, sum(case when id = $4 then 1 else 0 end) as met \
        from reached) as counted where goals < $3 and met = 0"
        postgres "with recursive reached (id, parent, depth) as (\
        select id, parent_goal_id, 1 from goal where org = $1 and id = $2 \
        union all select goal.id, goal.parent_goal_id, reached.depth + 1 from reached \
        join goal on goal.org = $1 and goal.id = reached.parent where reached.depth < $3) \
        select 1 from (select count(*) as goals, sum(case when id = $4 then 1 else 0 end) as met \
        from reached) as counted where goals < $3 and met = 0";
    GOAL_MET_ABOVE = sqlite "with recursive reached (id, parent, depth) as (\
        select id, parent_goal_id, 1 from goal where org = $1 and id = $2 \
        union all select goal.id, goal.parent_goal_id, reached.depth + 1 from reached \
        cross join goal on goal.org = $1 and goal.id = reached.parent where reached.depth < $3) \
        select count(*) from reached where id = $4"
        postgres "with recursive reached (id, parent, depth) as (\
        select id, parent_goal_id, 1 from goal where org = $1 and id = $2 \
        union all select goal.id, goal.parent_goal_id, reached.depth + 1 from reached \
        join goal on goal.org = $1 and goal.id = reached.parent where reached.depth < $3) \
        select count(*) from reached where id = $4";
    GOAL_DELETE = "delete from goal where org = $1 and id = $2 and version = $3 \
        and not exists (select 1 from goal as part where part.org = $1 \
        and part.parent_goal_id = $2)";
    GOAL_VERSION = "select version from goal where org = $1 and id = $2";
    // The goals nearest to the root come first, and so does the cut.
    GOAL_TREE = sqlite "with recursive reached (id, depth) as (\
        select id, 0 from goal where org = $1 and id = $2 \
        union all select goal.id, reached.depth + 1 from reached \
        cross join goal on goal.org = $1 and goal.parent_goal_id = reached.id \
        where reached.depth < $3) \
        select goal.id, version, created_at, updated_at, shape, document, parent_goal_id \
        from (select id, depth from reached limit $4) as counted \
        cross join goal on goal.org = $1 and goal.id = counted.id order by depth, goal.id"
        postgres "with recursive reached (id, depth) as (\
        select id, 0 from goal where org = $1 and id = $2 \
        union all select goal.id, reached.depth + 1 from reached \
        join goal on goal.org = $1 and goal.parent_goal_id = reached.id \
        where reached.depth < $3) \
        select goal.id, version, created_at, updated_at, shape, document, parent_goal_id \
        from (select id, depth from reached limit $4) as counted \
        join goal on goal.org = $1 and goal.id = counted.id order by depth, goal.id";
}

/// Which goals a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoalFilter {
    /// Of this agent.
    pub agent_id: Option<AgentId>,
    /// Directly below this goal.
    pub parent_goal_id: Option<GoalId>,
    /// In this status.
    pub status: Option<GoalStatus>,
    /// Of this priority.
    pub priority: Option<u32>,
    /// Exactly this type.
    pub goal_type: Option<String>,
}

/// A goal of a tree.
#[derive(Clone, Debug)]
pub struct GoalNode {
    /// The goal.
    pub goal: Document<GoalBody>,
    /// The goal that it is directly below.
    pub parent: Option<GoalId>,
}

impl Table for GoalBody {
    const TABLE: &'static str = "goal";
    const COLUMNS: &'static [Column] = &[
        Column::index("parent_goal_id"),
        Column::index("agent_id"),
        Column::filter("status"),
        Column::filter("priority"),
        Column::filter("goal_type"),
    ];
    const COUNTER: &'static str = "goals";
    type Filter = GoalFilter;

    fn columns(&self) -> Vec<Value> {
        values![
            self.parent_goal_id,
            self.agent_id,
            self.status.as_str(),
            self.priority,
            self.goal_type.as_ref(),
        ]
    }

    fn asked(filter: &GoalFilter) -> Vec<Value> {
        values![
            filter.parent_goal_id,
            filter.agent_id,
            filter.status.map(GoalStatus::as_str),
            filter.priority.map(u64::from),
            filter.goal_type.as_ref(),
        ]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<GoalBody>);
        &STATEMENTS
    }
}

/// The number of a lock that PostgreSQL holds until the transaction ends: of
/// one kind of change in one organisation.
pub(crate) fn change_lock(kind: &str, org: OrgId) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes());
    hasher.update(&org.to_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_be_bytes(number)
}

impl Write {
    /// Guard: a goal may stand below this one, which stays until the write is
    /// done, is not below the first, and has fewer than [`GOAL_DEPTH_MAX`] goals
    /// above it.
    pub fn goal_put_below(&mut self, goal: GoalId, parent: GoalId) {
        self.add(&GOAL_EXISTS, values![self.org, parent])
            .expect_one(Probe::always(move || missing::<GoalBody>(parent)));
        self.add(&GOAL_MOVE, values![change_lock("goal", self.org)]);
        let asked = || values![self.org, parent, GOAL_DEPTH_MAX, goal];
        let guard = Probe::read(&GOAL_MET_ABOVE, asked(), move |met| {
            let detail = match met {
                Some(0) | None => {
                    format!("goal {parent} has {GOAL_DEPTH_MAX} goals above one another already")
                }
                Some(_) => format!("goal {parent} is below goal {goal}, or is that goal"),
            };
            Error::new(Code::Conflict, detail)
        });
        let values = asked();
        self.add(&GOAL_ABOVE, values).expect_one(guard);
    }

    /// Deletes a goal of this version that no goal is below.
    pub fn goal_delete(&mut self, id: GoalId, version: i64) {
        self.contend(id.to_bytes());
        // The lock is a statement of its own so that the next one sees every
        // goal that was put below this one before it.
        self.add(&GOAL_LOCK, values![self.org, id])
            .expect_one(Probe::always(move || missing::<GoalBody>(id)));
        let guard = Probe::read(&GOAL_VERSION, values![self.org, id], move |found| match found {
            None => missing::<GoalBody>(id),
            Some(found) if found == version => Error::new(
                Code::Conflict,
                format!("goals are below goal {id}; delete them first, or put them elsewhere"),
            ),
            Some(found) => changed::<GoalBody>(id, found),
        });
        self.add(&GOAL_DELETE, values![self.org, id, version]).expect_one(guard);
        self.count(GoalBody::COUNTER, &[], -1);
    }
}

impl Store {
    /// A goal and those below it down to this depth, the nearest first, at most
    /// `limit`.
    pub async fn goal_tree(
        &self,
        org: OrgId,
        root: GoalId,
        depth: u32,
        limit: u32,
    ) -> Result<Vec<GoalNode>> {
        self.scan(&GOAL_TREE, values![org, root, depth, limit], node).await
    }
}

fn node(row: &mut Columns<'_>) -> Result<GoalNode> {
    let goal = document(row)?;
    let parent = row.opt_id()?.map(GoalId::from_bytes);
    Ok(GoalNode { goal, parent })
}
