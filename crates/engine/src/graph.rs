//! Graphs: nodes and edges of a group, found by name, by category and by where they
//! lead. What is imported in bulk is in `import`, where edges lead is in `traverse`.

mod import;
mod traverse;

use std::collections::{BTreeMap, HashSet};

use agentry_domain::graph::{
    Category, Edge, EdgeBody, GroupId, NAMES_READ_MAX, NamePart, Node, NodeBody, ORIGIN_CLIENT,
    normal_name,
};
use agentry_domain::idempotency::Remembered;
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::{
    Caller, Code, Done, EdgeId, Error, NodeId, Once, Order, Page, PageRequest, Result, Timestamp,
};
use agentry_store::Write;
use agentry_store::graph::edges::{Outward, edge_changed, edge_missing};
use agentry_store::graph::nodes::{NameMatch, node_changed, node_missing};
use serde::Serialize;

use crate::guarded::until_unchanged;
use crate::resources::change_data;
use crate::{Engine, entry, version_data};

pub(crate) use import::GRAPH_IMPORTS_MAX;
pub use import::{ImportItem, ImportLine, ImportReport, LineFault};
pub use traverse::{
    Reached, Subgraph, SubgraphAsked, SymbolEdge, SymbolEdges, SymbolQuery, Traverse, Traversed,
};

/// Edges that are deleted in one write. A node with more loses the others before.
const EDGES_DELETED_AT_ONCE_MAX: u32 = 1_000;
/// How often the deletion of a node is tried again when edges come in between.
const DELETE_TRIES_MAX: u32 = 10;

/// A node or an edge that was made, as clients read it.
#[derive(Clone, Debug)]
pub struct GraphMade<I> {
    /// Its id.
    pub id: I,
    /// Its version.
    pub version: i64,
    /// The whole of it.
    pub json: String,
}

/// What a search for nodes found.
#[derive(Clone, Debug)]
pub struct NodesFound {
    /// The nodes: those whose name it is first, then those whose name begins so.
    pub nodes: Vec<Node>,
    /// How many there are.
    pub total: u64,
    /// Whether there are more than were counted.
    pub total_capped: bool,
}

/// What is said of something in a group: the group first, which filters look for.
fn group_data(group: &GroupId, more: &str) -> Result<String> {
    let name = serde_json::to_string(group).map_err(Error::internal)?;
    let rest = more.strip_prefix('{').unwrap_or(more);
    Ok(format!(r#"{{"group_id":{name},{rest}"#))
}

fn json(of: &impl Serialize) -> Result<String> {
    serde_json::to_string(of).map_err(Error::internal)
}

impl Engine {
    /// Some nodes of a category, and how many it has.
    pub async fn graph_category(
        &self,
        caller: &Caller,
        group: &GroupId,
        category: Category,
        part: (u32, u32),
    ) -> Result<(u64, Vec<Node>)> {
        Ok(self.0.store.graph_category(caller.org, group, category, part).await?)
    }

    /// Makes a node, once if the request says so.
    pub async fn node_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        group: GroupId,
        body: NodeBody,
    ) -> Result<Done<GraphMade<NodeId>>> {
        if let Some(before) = self.remembered(caller, once).await? {
            return self.node_replayed(caller, &group, before).await;
        }
        let now = self.now();
        let id = NodeId::from_uuid(self.uuid(now));
        let node = Node::new(id, group, body, ORIGIN_CLIENT, now);
        let group = &node.group_id;
        let json = json(&node)?;
        let mut write = Write::new(caller.org);
        write.graph_nodes_insert(group, std::slice::from_ref(&node));
        write.log(self.node_entry(caller, now, EntityKind::Node.created(), &node)?);
        match self.write_once(caller, once, write, (id.to_bytes(), &json), now).await? {
            None => Ok(Done::now(GraphMade { id, version: node.version, json })),
            Some(before) => self.node_replayed(caller, group, before).await,
        }
    }

    async fn node_replayed(
        &self,
        caller: &Caller,
        group: &GroupId,
        before: Remembered,
    ) -> Result<Done<GraphMade<NodeId>>> {
        let id = NodeId::from_bytes(before.id);
        let value = match before.answer {
            Some(json) => GraphMade { id, version: 1, json },
            None => {
                let node = self.node_get(caller, group, id).await?;
                GraphMade { id, version: node.version, json: json(&node)? }
            }
        };
        Ok(Done { value, replayed: true })
    }

    fn node_entry(
        &self,
        caller: &Caller,
        at: Timestamp,
        kind: &'static str,
        node: &Node,
    ) -> Result<LogEntry> {
        let data = group_data(&node.group_id, &version_data(node.version))?;
        Ok(entry(caller, at, kind, EntityKind::Node, node.id.to_bytes(), data))
    }

    /// The node of a group with this id.
    pub async fn node_get(&self, caller: &Caller, group: &GroupId, id: NodeId) -> Result<Node> {
        let found = self.0.store.graph_node_get(caller.org, group, id).await?;
        found.ok_or_else(|| node_missing(id))
    }

    /// The id of the node of a group with this id or this key.
    pub async fn node_find(&self, caller: &Caller, group: &GroupId, text: &str) -> Result<NodeId> {
        let store = &self.0.store;
        if let Ok(id) = text.parse()
            && store.graph_node_get(caller.org, group, id).await?.is_some()
        {
            return Ok(id);
        }
        let by_key = store.graph_nodes_by_key(caller.org, group, &[text]).await?;
        by_key.first().map(|node| node.id).ok_or_else(|| Error::not_found("node", text))
    }

    /// A page of a group's nodes, or of those of one kind.
    pub async fn node_list(
        &self,
        caller: &Caller,
        group: &GroupId,
        kind: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Node>> {
        Ok(self.0.store.graph_node_list(caller.org, group, kind, page).await?)
    }

    /// Changes a node. With `if_match`, only if that is its version; otherwise the
    /// change is made on top of whatever came first.
    pub async fn node_update(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: NodeId,
        if_match: Option<i64>,
        change: impl Fn(&NodeBody) -> Result<NodeBody> + Sync,
    ) -> Result<Node> {
        until_unchanged(if_match, || async {
            let was = self.node_get(caller, group, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(node_changed(id, was.version));
            }
            let now = self.now();
            let will_be = was.changed(change(&was.body)?, now);
            let mut write = Write::new(caller.org);
            write.graph_nodes_update(group, &[(&was, &will_be)]);
            let data = change_data(&json(&was.body)?, &json(&will_be.body)?, will_be.version)?;
            let data = group_data(group, &data)?;
            let kind = EntityKind::Node;
            write.log(entry(caller, now, kind.updated(), kind, id.to_bytes(), data));
            self.0.store.write(write).await?;
            Ok(will_be)
        })
        .await
    }

    /// Deletes a node with its edges. With many of them most go before it, in writes
    /// of their own.
    pub async fn node_delete(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: NodeId,
        if_match: Option<i64>,
    ) -> Result<()> {
        let mut tries = 0;
        loop {
            let was = self.node_get(caller, group, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(node_changed(id, was.version));
            }
            match self.node_delete_now(caller, &was).await {
                Err(Error { code: Code::PreconditionFailed, .. }) if tries < DELETE_TRIES_MAX => {
                    tries += 1;
                }
                Err(Error { code: Code::PreconditionFailed, .. }) => {
                    let detail = format!("node {id} gets edges while it is being deleted");
                    return Err(Error::new(Code::Conflict, detail));
                }
                outcome => return outcome,
            }
        }
    }

    async fn node_delete_now(&self, caller: &Caller, was: &Node) -> Result<()> {
        let group = &was.group_id;
        let edges = loop {
            let edges = self.edges_of(caller, was).await?;
            if edges.len() <= EDGES_DELETED_AT_ONCE_MAX as usize {
                break edges;
            }
            let mut write = Write::new(caller.org).bulk();
            write.graph_edges_delete(group, &edges);
            self.0.store.write(write).await?;
        };
        let now = self.now();
        let mut write = Write::new(caller.org);
        write.graph_node_lock(was);
        write.graph_edges_delete(group, &edges);
        write.graph_node_has_no_edges(was);
        write.graph_node_delete(was);
        write.log(self.node_entry(caller, now, EntityKind::Node.deleted(), was)?);
        self.0.store.write(write).await?;
        Ok(())
    }

    /// Edges that begin or end at a node, each once: all of them, or more than can be
    /// deleted at once.
    async fn edges_of(&self, caller: &Caller, node: &Node) -> Result<Vec<Edge>> {
        let store = &self.0.store;
        let (ids, limit) = ([node.id], EDGES_DELETED_AT_ONCE_MAX + 1);
        let mut edges = Vec::new();
        for outward in [Outward::Yes, Outward::No] {
            let group = &node.group_id;
            edges.extend(
                store.graph_edges_at(caller.org, group, &ids, (outward, None), limit).await?,
            );
        }
        let mut seen = HashSet::new();
        edges.retain(|edge: &Edge| seen.insert(edge.id));
        Ok(edges)
    }

    /// The nodes of a group that are called so, and of this kind.
    pub async fn node_search(
        &self,
        caller: &Caller,
        group: &GroupId,
        (name, kind): (Option<&str>, Option<&str>),
        limit: u32,
    ) -> Result<NodesFound> {
        let Some(name) = name else {
            let page = PageRequest { limit, order: Order::Ascending, ..PageRequest::default() };
            let Page { items, total, .. } = self.node_list(caller, group, kind, &page).await?;
            return Ok(NodesFound { nodes: items, total, total_capped: false });
        };
        let sought = normal_name(name);
        if sought.is_empty() {
            return Ok(NodesFound { nodes: Vec::new(), total: 0, total_capped: false });
        }
        let names = self.0.store.graph_names_find(caller.org, group, &sought).await?;
        let total_capped = names.len() == NAMES_READ_MAX as usize;
        let ids = ranked(names, &sought, kind);
        let total = ids.len() as u64;
        let first = &ids[..ids.len().min(limit as usize)];
        let nodes = self.0.store.graph_nodes_get(caller.org, group, first).await?;
        Ok(NodesFound { nodes, total, total_capped })
    }

    /// Makes an edge, once if the request says so.
    pub async fn edge_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        group: GroupId,
        body: EdgeBody,
    ) -> Result<Done<GraphMade<EdgeId>>> {
        if let Some(before) = self.remembered(caller, once).await? {
            return self.edge_replayed(caller, &group, before).await;
        }
        let now = self.now();
        let id = EdgeId::from_uuid(self.uuid(now));
        let edge = Edge::new(id, group, body, ORIGIN_CLIENT, now);
        let json = json(&edge)?;
        let mut write = Write::new(caller.org);
        write.graph_edge_insert(&edge);
        write.log(self.edge_entry(caller, now, EntityKind::Edge.created(), &edge)?);
        match self.write_once(caller, once, write, (id.to_bytes(), &json), now).await? {
            None => Ok(Done::now(GraphMade { id, version: edge.version, json })),
            Some(before) => self.edge_replayed(caller, &edge.group_id, before).await,
        }
    }

    async fn edge_replayed(
        &self,
        caller: &Caller,
        group: &GroupId,
        before: Remembered,
    ) -> Result<Done<GraphMade<EdgeId>>> {
        let id = EdgeId::from_bytes(before.id);
        let value = match before.answer {
            Some(json) => GraphMade { id, version: 1, json },
            None => {
                let edge = self.edge_get(caller, group, id).await?;
                GraphMade { id, version: edge.version, json: json(&edge)? }
            }
        };
        Ok(Done { value, replayed: true })
    }

    fn edge_entry(
        &self,
        caller: &Caller,
        at: Timestamp,
        kind: &'static str,
        edge: &Edge,
    ) -> Result<LogEntry> {
        let data = group_data(&edge.group_id, &version_data(edge.version))?;
        Ok(entry(caller, at, kind, EntityKind::Edge, edge.id.to_bytes(), data))
    }

    /// The edge of a group with this id.
    pub async fn edge_get(&self, caller: &Caller, group: &GroupId, id: EdgeId) -> Result<Edge> {
        let found = self.0.store.graph_edge_get(caller.org, group, id).await?;
        found.ok_or_else(|| edge_missing(id))
    }

    /// A page of a group's edges.
    pub async fn edge_list(
        &self,
        caller: &Caller,
        group: &GroupId,
        page: &PageRequest,
    ) -> Result<Page<Edge>> {
        Ok(self.0.store.graph_edge_list(caller.org, group, page).await?)
    }

    /// Changes an edge's weight and properties; see [`Engine::node_update`] for
    /// `if_match`.
    pub async fn edge_update(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: EdgeId,
        if_match: Option<i64>,
        change: impl Fn(&EdgeBody) -> Result<EdgeBody> + Sync,
    ) -> Result<Edge> {
        until_unchanged(if_match, || async {
            let was = self.edge_get(caller, group, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(edge_changed(id, was.version));
            }
            let now = self.now();
            let will_be = was.changed(change(&was.body)?, now);
            let mut write = Write::new(caller.org);
            write.graph_edge_update(&will_be);
            let data = change_data(&json(&was.body)?, &json(&will_be.body)?, will_be.version)?;
            let data = group_data(group, &data)?;
            let kind = EntityKind::Edge;
            write.log(entry(caller, now, kind.updated(), kind, id.to_bytes(), data));
            self.0.store.write(write).await?;
            Ok(will_be)
        })
        .await
    }

    /// Deletes an edge; see [`Engine::node_update`] for `if_match`.
    pub async fn edge_delete(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: EdgeId,
        if_match: Option<i64>,
    ) -> Result<()> {
        until_unchanged(if_match, || async {
            let was = self.edge_get(caller, group, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(edge_changed(id, was.version));
            }
            let mut write = Write::new(caller.org);
            write.graph_edge_delete(&was);
            write.log(self.edge_entry(caller, self.now(), EntityKind::Edge.deleted(), &was)?);
            self.0.store.write(write).await?;
            Ok(())
        })
        .await
    }
}

/// The nodes that names lead to, each once, the most telling first: who is called
/// exactly so, whose name ends so, whose name begins so, who has a later word that
/// begins so; of these the shorter name, and then the older node.
fn ranked(names: Vec<NameMatch>, sought: &str, kind: Option<&str>) -> Vec<NodeId> {
    let mut best: BTreeMap<NodeId, (u8, usize)> = BTreeMap::new();
    for found in names {
        if kind.is_some_and(|kind| kind != found.kind) {
            continue;
        }
        let is_end = found.part == NamePart::End;
        let rank = match (found.name == sought, is_end) {
            (true, false) => 0,
            (true, true) => 1,
            (false, false) => 2,
            (false, true) => 3,
        };
        let place = (rank, found.name.len());
        let known = best.entry(found.node).or_insert(place);
        *known = place.min(*known);
    }
    let mut ranked: Vec<(NodeId, (u8, usize))> = best.into_iter().collect();
    ranked.sort_by_key(|(id, place)| (*place, *id));
    ranked.into_iter().map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_nodes_in_the_order_of_how_much_they_tell() {
        let node = |n| NodeId::from_bytes([n; 16]);
        let name = |name: &str, n, part| NameMatch {
            name: name.to_owned(),
            node: node(n),
            part,
            kind: if n == 9 { "class" } else { "function" }.to_owned(),
        };
        let names = || {
            vec![
                name("write", 5, NamePart::End),
                name("write", 4, NamePart::Name),
                name("write", 9, NamePart::Name),
                name("write all", 3, NamePart::Name),
                name("write at", 2, NamePart::Alias),
                name("write through", 1, NamePart::End),
                name("write through", 4, NamePart::End),
            ]
        };
        let found = |kind| ranked(names(), "write", kind);
        assert_eq!(found(None), [4, 9, 5, 2, 3, 1].map(node));
        assert_eq!(found(Some("class")), [node(9)]);
        assert_eq!(found(Some("module")), []);
    }

    #[test]
    fn the_group_stands_first_in_what_is_said() {
        let group = GroupId::new("a\"b");
        assert_eq!(
            group_data(&group, r#"{"version":2}"#).unwrap(),
            r#"{"group_id":"a\"b","version":2}"#
        );
    }
}
