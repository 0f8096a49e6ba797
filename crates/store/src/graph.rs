//! The knowledge graph in the store: how much there is of what, and what the
//! files below it have in common. Nodes are in `nodes`, edges in `edges`, and how
//! many edges each node has in `degrees`.
//!
//! Several rows go in with one statement, which takes them as one JSON text: an
//! import writes a thousand lines so, and a single node is a list of one. Ids
//! stand in it in base 16.

pub(crate) mod degrees;
pub mod edges;
pub mod nodes;

use agentry_domain::OrgId;
use agentry_domain::graph::{GraphStats, GroupId, STATS_KINDS_MAX};

use crate::sql::statements;
use crate::value::{Columns, values};
use crate::{Result, Store};

pub use edges::Outward;
pub use nodes::NameMatch;

/// Nodes of a group; the key is the group.
pub(crate) const GRAPH_NODES: &str = "graph_nodes";
/// Edges of a group; the key is the group.
pub(crate) const GRAPH_EDGES: &str = "graph_edges";
/// Nodes of a kind in a group; the key is [`kind_key`].
pub(crate) const GRAPH_NODE_KINDS: &str = "graph_node_kinds";
/// Edges of a kind in a group; the key is [`kind_key`].
pub(crate) const GRAPH_EDGE_KINDS: &str = "graph_edge_kinds";
/// Nodes of a group without edges; the key is the group.
pub(crate) const GRAPH_ISOLATED: &str = "graph_isolated";
/// Nodes of a group where edges only begin; the key is the group.
pub(crate) const GRAPH_ENTRY_POINTS: &str = "graph_entry_points";
/// Nodes of a group where edges only end; the key is the group.
pub(crate) const GRAPH_LEAVES: &str = "graph_leaves";

statements! {
    GRAPH_COUNTS = sqlite "select kind, n from counter where org = $1 and kind in ('graph_nodes', \
        'graph_edges', 'graph_isolated', 'graph_entry_points', 'graph_leaves') and key = $2"
        postgres "select kinds.kind, (coalesce((select n from counter where org = $1 \
        and kind = kinds.kind and key = $2), 0) + coalesce((select sum(n) from counter_change \
        where org = $1 and kind = kinds.kind and key = $2), 0))::bigint from (values \
        ('graph_nodes'), ('graph_edges'), ('graph_isolated'), ('graph_entry_points'), \
        ('graph_leaves')) as kinds (kind)";
    GRAPH_KIND_COUNTS = sqlite "select key, n from counter where org = $1 and kind = $2 \
        and key > $3 and key < $4 and n > 0 order by key limit $5"
        postgres "select key, sum(n)::bigint from (select key, n from counter where org = $1 \
        and kind = $2 and key > $3 and key < $4 union all select key, n from counter_change \
        where org = $1 and kind = $2 and key > $3 and key < $4) as changes group by key \
        having sum(n) > 0 order by key limit $5";
}

/// The key of a counter of things of one kind in a group. No group's name has
/// U+0000, so that no group's kinds stand among another's.
pub(crate) fn kind_key(group: &GroupId, kind: &str) -> Vec<u8> {
    let mut key = group.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(kind.as_bytes());
    key
}

/// An id in base 16.
pub(crate) fn hex(id: [u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    id.into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Ids as a JSON list.
pub(crate) fn hex_list(ids: impl IntoIterator<Item = [u8; 16]>) -> String {
    let mut list = String::from("[");
    for id in ids {
        if list.len() > 1 {
            list.push(',');
        }
        list.push('"');
        list.push_str(&hex(id));
        list.push('"');
    }
    list.push(']');
    list
}

/// Rows as a JSON list.
pub(crate) fn rows_json(rows: &[impl serde::Serialize]) -> String {
    // Texts, whole and finite numbers: nothing in it can fail to be written.
    serde_json::to_string(rows).unwrap_or_default()
}

impl Store {
    /// How much there is in a group: counters and no counting. On PostgreSQL they
    /// may be a second old.
    pub async fn graph_stats(&self, org: OrgId, group: &GroupId) -> Result<GraphStats> {
        let key = group.as_str().as_bytes().to_vec();
        let count = |row: &mut Columns<'_>| Ok((row.text()?, row.int()?.unsigned_abs()));
        let mut stats = GraphStats::default();
        for (kind, n) in self.rows(&GRAPH_COUNTS, values![org, key], count).await? {
            match kind.as_str() {
                GRAPH_NODES => stats.nodes = n,
                GRAPH_EDGES => stats.edges = n,
                GRAPH_ISOLATED => stats.isolated = n,
                GRAPH_ENTRY_POINTS => stats.entry_points = n,
                GRAPH_LEAVES => stats.leaves = n,
                _ => {}
            }
        }
        Ok(stats)
    }

    /// The same with the kinds of nodes and edges.
    pub async fn graph_stats_of_kinds(&self, org: OrgId, group: &GroupId) -> Result<GraphStats> {
        let mut stats = self.graph_stats(org, group).await?;
        if stats.nodes > 0 {
            stats.node_kinds = self.graph_kind_counts(org, group, GRAPH_NODE_KINDS).await?;
        }
        if stats.edges > 0 {
            stats.edge_kinds = self.graph_kind_counts(org, group, GRAPH_EDGE_KINDS).await?;
        }
        Ok(stats)
    }

    async fn graph_kind_counts(
        &self,
        org: OrgId,
        group: &GroupId,
        counter: &'static str,
    ) -> Result<Vec<(String, u64)>> {
        let first = kind_key(group, "");
        let mut last = first.clone();
        // No key of the group begins with anything greater.
        last.pop();
        last.push(1);
        let begins = first.len();
        let count = |row: &mut Columns<'_>| Ok((row.bytes()?, row.int()?.unsigned_abs()));
        let bound = values![org, counter, first, last, STATS_KINDS_MAX];
        let counts = self.rows(&GRAPH_KIND_COUNTS, bound, count).await?;
        let kind = |key: Vec<u8>| String::from_utf8_lossy(&key[begins.min(key.len())..]).into();
        Ok(counts.into_iter().map(|(key, n)| (kind(key), n)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_in_base_16() {
        assert_eq!(hex_list([]), "[]");
        let ids = [[0x0f; 16], [0xa5; 16]];
        let (one, two) = ("0f".repeat(16), "a5".repeat(16));
        assert_eq!(hex_list(ids), format!("[\"{one}\",\"{two}\"]"));
    }

    #[test]
    fn no_group_s_kinds_are_among_another_s() {
        let group = |name: &str| GroupId::new(name);
        assert!(kind_key(&group("a"), "z") < kind_key(&group("ab"), ""));
        assert!(!kind_key(&group("ab"), "c").starts_with(&kind_key(&group("a"), "")));
    }
}
