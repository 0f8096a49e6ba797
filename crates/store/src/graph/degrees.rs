//! How many edges each node has, and which category that makes of it.
//!
//! On SQLite both change in the write that changes the edges: what the nodes
//! counted for before is taken from the categories' counters, the degrees change,
//! and what the nodes count for now is added. On PostgreSQL the changes of degrees
//! are appended, and the keeper folds them and moves the nodes between categories.

use agentry_domain::graph::{Category, GroupId, Node, hubs};
use agentry_domain::{NodeId, OrgId};

use crate::graph::nodes::{NODES_BY_CATEGORY, NODES_BY_DEGREE, node};
use crate::graph::{hex, hex_list, rows_json};
use crate::sql::statements;
use crate::value::values;
use crate::write::Write;
use crate::{Result, Store};

statements! {
    // The category follows from the degrees; so it is not asked for.
    DEGREE_CATEGORIES = sqlite "insert into counter (org, kind, key, n) select d.org, \
        case d.category when 0 then 'graph_isolated' when 1 then 'graph_entry_points' \
        else 'graph_leaves' end, cast(d.group_id as blob), $1 * count(*) from json_each($2) as j \
        cross join graph_degree as d on d.org = $3 and d.group_id = $4 and d.node = unhex(j.value) \
        where d.category < 3 group by d.category \
        on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "";
    DEGREES_CHANGE = sqlite "with counted as materialized (select unhex(value ->> 'n') as node, \
        value ->> 'i' as i, value ->> 'o' as o from json_each($1)) \
        update graph_degree set in_degree = in_degree + counted.i, \
        out_degree = out_degree + counted.o, degree = degree + counted.i + counted.o, \
        category = case when in_degree + counted.i > 0 \
        then case when out_degree + counted.o > 0 then 3 else 2 end \
        else case when out_degree + counted.o > 0 then 1 else 0 end end \
        from counted where graph_degree.org = $2 \
        and graph_degree.group_id = $3 and graph_degree.node = counted.node"
        postgres "insert into graph_degree_change (org, group_id, node, in_degree, out_degree) \
        select $2::bytea, $3::text, decode(r.n, 'hex'), r.i, r.o \
        from json_to_recordset($1::text::json) as r (n text, i bigint, o bigint)";
    DEGREES_INSERT = sqlite "insert into graph_degree (org, group_id, node, in_degree, \
        out_degree, degree, category) select $1, $2, unhex(value), 0, 0, 0, 0 from json_each($3)"
        postgres "insert into graph_degree (org, group_id, node, in_degree, out_degree, degree, \
        category) select $1::bytea, $2::text, decode(value, 'hex'), 0, 0, 0, 0 \
        from json_array_elements_text($3::text::json) as value";
    // What a node counted for goes with it. What is appended for a node that is
    // gone is dropped by the fold.
    DEGREE_DELETE = sqlite "delete from graph_degree where org = $1 and group_id = $2 and node = $3"
        postgres "with gone as (delete from graph_degree where org = $1 and group_id = $2 \
        and node = $3 returning org, group_id, category) \
        insert into counter_change (org, kind, key, n) select org, \
        case category when 0 then 'graph_isolated' when 1 then 'graph_entry_points' \
        else 'graph_leaves' end, convert_to(group_id, 'UTF8'), -1 from gone where category < 3";
    // The keeper alone changes degrees, so what it reads of them at the beginning
    // is what they were, unless the node is deleted in between.
    scan DEGREE_FOLD = sqlite "" postgres "with taken as (delete from graph_degree_change \
        where ctid = any (array(select ctid from graph_degree_change limit $1)) \
        returning org, group_id, node, in_degree, out_degree), \
        sums as (select org, group_id, node, sum(in_degree)::bigint as i, \
        sum(out_degree)::bigint as o from taken group by org, group_id, node), \
        was as (select d.org, d.group_id, d.node, d.category from sums join graph_degree as d \
        on d.org = sums.org and d.group_id = sums.group_id and d.node = sums.node), \
        changed as (update graph_degree as d set in_degree = d.in_degree + sums.i, \
        out_degree = d.out_degree + sums.o, degree = d.degree + sums.i + sums.o, \
        category = case when d.in_degree + sums.i > 0 \
        then case when d.out_degree + sums.o > 0 then 3 else 2 end \
        else case when d.out_degree + sums.o > 0 then 1 else 0 end end from sums \
        where d.org = sums.org and d.group_id = sums.group_id and d.node = sums.node \
        returning d.org, d.group_id, d.node, d.category), \
        moves as (select changed.org, changed.group_id, was.category as was, \
        changed.category as is_now from was join changed on changed.org = was.org \
        and changed.group_id = was.group_id and changed.node = was.node \
        where was.category <> changed.category), \
        sides as (select org, group_id, was as category, -1 as n from moves \
        union all select org, group_id, is_now, 1 from moves), \
        counted as (insert into counter_change (org, kind, key, n) select org, \
        case category when 0 then 'graph_isolated' when 1 then 'graph_entry_points' \
        else 'graph_leaves' end, convert_to(group_id, 'UTF8'), sum(n)::bigint from sides \
        where category < 3 group by org, group_id, category having sum(n) <> 0) \
        select count(*) from taken";
}

/// How a node's degrees change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DegreeChange {
    pub(crate) node: NodeId,
    pub(crate) incoming: i64,
    pub(crate) outgoing: i64,
}

#[derive(serde::Serialize)]
struct Row {
    n: String,
    i: i64,
    o: i64,
}

impl Write {
    /// Changes the degrees of nodes, each of which stands here once.
    pub(crate) fn degrees_change(&mut self, group: &GroupId, changes: &[DegreeChange]) {
        let rows: Vec<Row> = changes
            .iter()
            .map(|it| Row { n: hex(it.node.to_bytes()), i: it.incoming, o: it.outgoing })
            .collect();
        let nodes = hex_list(changes.iter().map(|it| it.node.to_bytes()));
        self.degree_categories(-1, &nodes, group);
        self.add(&DEGREES_CHANGE, values![rows_json(&rows), self.org, group.as_str().to_owned()]);
        self.degree_categories(1, &nodes, group);
    }

    /// Counts nodes, a JSON list of ids, so often in the categories that they are in.
    pub(crate) fn degree_categories(&mut self, times: i64, nodes: &str, group: &GroupId) {
        let group = group.as_str().to_owned();
        self.add(&DEGREE_CATEGORIES, values![times, nodes.to_owned(), self.org, group]);
    }

    /// Begins the degrees of nodes that are new.
    pub(crate) fn degrees_insert(&mut self, group: &GroupId, nodes: &[Node]) {
        let ids = hex_list(nodes.iter().map(|node| node.id.to_bytes()));
        self.add(&DEGREES_INSERT, values![self.org, group.as_str().to_owned(), ids]);
        let n = i64::try_from(nodes.len()).unwrap_or(i64::MAX);
        self.count(super::GRAPH_ISOLATED, group.as_str().as_bytes(), n);
    }

    /// Forgets the degrees of a node.
    pub(crate) fn degree_delete(&mut self, group: &GroupId, node: NodeId) {
        self.degree_categories(-1, &hex_list([node.to_bytes()]), group);
        self.add(&DEGREE_DELETE, values![self.org, group.as_str().to_owned(), node]);
    }
}

impl Store {
    /// Nodes of a category, in the order of their ids, hubs by how many edges they
    /// have and then by id; and how many there are in all. The cost follows `offset`
    /// and `limit`.
    pub async fn graph_category(
        &self,
        org: OrgId,
        group: &GroupId,
        category: Category,
        (offset, limit): (u32, u32),
    ) -> Result<(u64, Vec<Node>)> {
        let stats = self.graph_stats(org, group).await?;
        let total = match category {
            Category::Hubs => hubs(stats.nodes, stats.nodes.saturating_sub(stats.isolated)),
            _ => stats.of(category),
        };
        let left = total.saturating_sub(u64::from(offset));
        let limit = limit.min(u32::try_from(left).unwrap_or(u32::MAX));
        if limit == 0 {
            return Ok((total, Vec::new()));
        }
        let name = group.as_str().to_owned();
        let (sql, bound) = match category {
            Category::Hubs => (&NODES_BY_DEGREE, values![org, name, limit, offset]),
            Category::Isolated => (&NODES_BY_CATEGORY, values![org, name, 0_i64, limit, offset]),
            Category::EntryPoints => (&NODES_BY_CATEGORY, values![org, name, 1_i64, limit, offset]),
            Category::Leaves => (&NODES_BY_CATEGORY, values![org, name, 2_i64, limit, offset]),
        };
        let rows = self.graph_page((offset, limit), sql, bound, node).await?;
        Ok((total, rows.into_iter().map(|row| row.of(group)).collect()))
    }
}
