//! Where edges lead: traversals, subgraphs, who calls what.
//!
//! A traversal goes level by level, one read for each, until it has gone deep
//! enough, has the nodes that were asked for, or has looked at so many edges that it
//! stops: what it costs follows what was asked for, whatever the graph is like. A
//! node's depth is the length of the shortest way to it along the edges that were
//! read, in every order of the answer.

use std::collections::{HashMap, HashSet};

use agentry_domain::graph::{
    Direction, EDGE_CALLS, EDGE_CONTAINS, EDGES_READ_MIN, EDGES_READ_PER_NODE, Edge, GroupId,
    NamePart, Node, QueryType, SYMBOL_NODES_MAX, normal_name,
};
use agentry_domain::{Caller, EdgeId, NodeId, Result, named};
use agentry_store::graph::edges::Outward;

use crate::Engine;

/// The bound that ended a traversal: the nodes that were asked for.
const BY_LIMIT: &str = "limit";
/// The bound that ended a traversal: the edges that are looked at.
const BY_EDGES: &str = "edges_read";
/// Names that are looked at for a symbol, so that the best are among them.
const SYMBOL_NAMES_READ: u32 = 200;

/// What a traversal is asked for.
#[derive(Clone, Debug)]
pub struct Traverse {
    /// Where it begins.
    pub start: NodeId,
    /// In which order the nodes are given.
    pub query_type: QueryType,
    /// Which way edges are followed.
    pub direction: Direction,
    /// Which kinds of edges; all without.
    pub edge_kinds: Option<Vec<String>>,
    /// Steps from the first node at most.
    pub max_depth: u32,
    /// Nodes at most, with the first one.
    pub limit: u32,
}

/// A node that was reached.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The node.
    pub node: Node,
    /// Steps from the first node, by the shortest way.
    pub depth: u32,
    /// The edge by which it was first reached; none for the first node.
    pub via: Option<EdgeId>,
}

/// Where a traversal led.
#[derive(Clone, Debug)]
pub struct Traversed {
    /// The nodes, in the order that was asked for.
    pub nodes: Vec<Reached>,
    /// The edges that were followed between them.
    pub edges: Vec<Edge>,
    /// The bound that ended it early; none when it went as far as it was asked to.
    pub truncated_by: Option<&'static str>,
}

/// What a subgraph is asked for.
#[derive(Clone, Debug)]
pub struct SubgraphAsked {
    /// The nodes that it is around.
    pub nodes: Vec<NodeId>,
    /// Steps from these, either way, at most.
    pub depth: u32,
    /// Which kinds of edges; all without.
    pub edge_kinds: Option<Vec<String>>,
    /// Nodes at most.
    pub limit: u32,
}

/// Nodes and all edges between them.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// The nodes, the nearest first.
    pub nodes: Vec<Reached>,
    /// The edges between them.
    pub edges: Vec<Edge>,
    /// Nodes that were asked for and are not there.
    pub missing: Vec<NodeId>,
    /// The bound that left something out.
    pub truncated_by: Option<&'static str>,
}

named! {
    /// What is asked about a symbol.
    pub enum SymbolQuery {
        /// Who calls it.
        Callers = "callers",
        /// What it calls.
        Callees = "callees",
        /// What points to it in any way but to contain it.
        References = "references",
    }
}

/// An edge of a symbol.
#[derive(Clone, Debug)]
pub struct SymbolEdge {
    /// The node at its other end.
    pub node: Node,
    /// The edge.
    pub edge: Edge,
}

/// What was asked about a symbol.
#[derive(Clone, Debug)]
pub struct SymbolEdges {
    /// The nodes that are the symbol.
    pub symbols: Vec<Node>,
    /// Its edges, with what is at their other end.
    pub found: Vec<SymbolEdge>,
    /// Whether there are more.
    pub truncated: bool,
}

/// What a traversal has met so far.
struct Way {
    order: Vec<NodeId>,
    met: HashMap<NodeId, (u32, Option<EdgeId>)>,
    edges: Vec<Edge>,
    known: HashSet<EdgeId>,
    nodes_max: usize,
    truncated_by: Option<&'static str>,
}

impl Way {
    fn begin(starts: &[NodeId], nodes_max: usize) -> Self {
        let mut way = Self {
            order: Vec::new(),
            met: HashMap::new(),
            edges: Vec::new(),
            known: HashSet::new(),
            nodes_max,
            truncated_by: None,
        };
        for start in starts {
            way.meet(*start, 0, None);
        }
        way
    }

    /// Whether the node is among those that were met.
    fn meet(&mut self, node: NodeId, depth: u32, via: Option<EdgeId>) -> bool {
        if self.met.contains_key(&node) {
            return true;
        }
        if self.order.len() == self.nodes_max {
            self.truncated_by = Some(BY_LIMIT);
            return false;
        }
        self.met.insert(node, (depth, via));
        self.order.push(node);
        true
    }

    /// Follows an edge to a node that is so deep.
    fn follow(&mut self, edge: Edge, to: NodeId, depth: u32) {
        if self.meet(to, depth, Some(edge.id)) && self.known.insert(edge.id) {
            self.edges.push(edge);
        }
    }

    /// The nodes so that each path comes to its end before the next: children in
    /// the order in which their edges were read.
    fn depth_first(&self) -> Vec<NodeId> {
        let mut next: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        for edge in &self.edges {
            next.entry(edge.body.from).or_default().push(edge.body.to);
            next.entry(edge.body.to).or_default().push(edge.body.from);
        }
        // Whoever was met was met by an edge from a node that is less deep, so this
        // comes to all of them.
        let (mut seen, mut order) = (HashSet::new(), Vec::new());
        let mut stack: Vec<NodeId> = self.order.first().copied().into_iter().collect();
        while let Some(node) = stack.pop() {
            if !seen.insert(node) {
                continue;
            }
            order.push(node);
            let children = next.get(&node).into_iter().flatten().rev();
            stack.extend(
                children.filter(|child| !seen.contains(child) && self.leads(node, **child)),
            );
        }
        order
    }

    fn leads(&self, from: NodeId, to: NodeId) -> bool {
        let depth = |node| self.met.get(&node).map_or(0, |(depth, _)| *depth);
        depth(to) > depth(from)
    }
}

fn edges_read_max(nodes: u32) -> u32 {
    (nodes * EDGES_READ_PER_NODE).max(EDGES_READ_MIN)
}

impl Engine {
    /// Where edges lead from a node.
    pub async fn graph_traverse(
        &self,
        caller: &Caller,
        group: &GroupId,
        asked: Traverse,
    ) -> Result<Traversed> {
        // The first node must be there.
        self.node_get(caller, group, asked.start).await?;
        let kinds = match (asked.query_type, asked.edge_kinds) {
            (QueryType::CallChain, None) => Some(vec![EDGE_CALLS.to_owned()]),
            (_, kinds) => kinds,
        };
        let mut way = Way::begin(&[asked.start], asked.limit as usize);
        let reach = (asked.direction, kinds.as_deref(), asked.max_depth);
        self.go(caller, group, &mut way, reach, edges_read_max(asked.limit)).await?;
        let order = match asked.query_type {
            QueryType::Bfs => way.order.clone(),
            QueryType::Dfs | QueryType::CallChain => way.depth_first(),
        };
        let nodes = self.reached(caller, group, &way, &order).await?;
        Ok(Traversed { nodes, edges: way.edges, truncated_by: way.truncated_by })
    }

    /// Goes on from the nodes that were met, level by level.
    async fn go(
        &self,
        caller: &Caller,
        group: &GroupId,
        way: &mut Way,
        (direction, kinds, max_depth): (Direction, Option<&[String]>, u32),
        edges_max: u32,
    ) -> Result<()> {
        let (mut begun, mut left) = (0, edges_max);
        for depth in 1..=max_depth {
            let level: Vec<NodeId> = way.order[begun..].to_vec();
            begun = way.order.len();
            if level.is_empty() || way.truncated_by.is_some() {
                break;
            }
            let ways = [(direction.goes_out(), Outward::Yes), (direction.goes_in(), Outward::No)];
            for (_, outward) in ways.into_iter().filter(|(goes, _)| *goes) {
                let store = &self.0.store;
                let mut edges = store
                    .graph_edges_at(caller.org, group, &level, (outward, kinds), left + 1)
                    .await?;
                if edges.len() > left as usize {
                    edges.truncate(left as usize);
                    way.truncated_by = Some(BY_EDGES);
                }
                left -= u32::try_from(edges.len()).unwrap_or(left);
                for edge in edges {
                    let to = match outward {
                        Outward::Yes => edge.body.to,
                        Outward::No => edge.body.from,
                    };
                    way.follow(edge, to, depth);
                }
            }
        }
        Ok(())
    }

    async fn reached(
        &self,
        caller: &Caller,
        group: &GroupId,
        way: &Way,
        order: &[NodeId],
    ) -> Result<Vec<Reached>> {
        let nodes = self.0.store.graph_nodes_get(caller.org, group, order).await?;
        let reached = |node: Node| {
            let (depth, via) = way.met.get(&node.id).copied().unwrap_or_default();
            Reached { node, depth, via }
        };
        Ok(nodes.into_iter().map(reached).collect())
    }

    /// Nodes, those around them, and all edges between them.
    pub async fn graph_subgraph(
        &self,
        caller: &Caller,
        group: &GroupId,
        asked: &SubgraphAsked,
    ) -> Result<Subgraph> {
        let store = &self.0.store;
        let there = store.graph_nodes_get(caller.org, group, &asked.nodes).await?;
        let there: Vec<NodeId> = there.iter().map(|node| node.id).collect();
        let missing = asked.nodes.iter().copied().filter(|id| !there.contains(id)).collect();
        let kinds = asked.edge_kinds.as_deref();
        let edges_max = edges_read_max(asked.limit);
        let mut way = Way::begin(&there, asked.limit as usize);
        let reach = (Direction::Both, kinds, asked.depth);
        self.go(caller, group, &mut way, reach, edges_max).await?;
        let mut edges = store
            .graph_edges_at(caller.org, group, &way.order, (Outward::Yes, kinds), edges_max + 1)
            .await?;
        if edges.len() > edges_max as usize {
            edges.truncate(edges_max as usize);
            way.truncated_by.get_or_insert(BY_EDGES);
        }
        edges.retain(|edge| way.met.contains_key(&edge.body.to));
        let nodes = self.reached(caller, group, &way, &way.order).await?;
        Ok(Subgraph { nodes, edges, missing, truncated_by: way.truncated_by })
    }

    /// Who calls a symbol, what it calls, or what refers to it. A symbol is the id, the
    /// key or the name of a node, or the end of its name.
    pub async fn graph_symbol(
        &self,
        caller: &Caller,
        group: &GroupId,
        (query, symbol): (SymbolQuery, &str),
        limit: u32,
    ) -> Result<SymbolEdges> {
        let symbols = self.symbol_nodes(caller, group, symbol).await?;
        let ids: Vec<NodeId> = symbols.iter().map(|node| node.id).collect();
        let calls = [EDGE_CALLS.to_owned()];
        let (outward, kinds) = match query {
            SymbolQuery::Callers => (Outward::No, Some(&calls[..])),
            SymbolQuery::Callees => (Outward::Yes, Some(&calls[..])),
            SymbolQuery::References => (Outward::No, None),
        };
        let edges_max = edges_read_max(limit);
        let store = &self.0.store;
        let mut edges =
            store.graph_edges_at(caller.org, group, &ids, (outward, kinds), edges_max + 1).await?;
        let mut truncated = edges.len() > edges_max as usize;
        if query == SymbolQuery::References {
            edges.retain(|edge| edge.body.kind != EDGE_CONTAINS);
        }
        truncated |= edges.len() > limit as usize;
        edges.truncate(limit as usize);
        let other = |edge: &Edge| match outward {
            Outward::Yes => edge.body.to,
            Outward::No => edge.body.from,
        };
        let mut ends: Vec<NodeId> = edges.iter().map(other).collect();
        ends.sort_unstable();
        ends.dedup();
        let nodes = store.graph_nodes_get(caller.org, group, &ends).await?;
        let nodes: HashMap<NodeId, Node> = nodes.into_iter().map(|node| (node.id, node)).collect();
        let found = edges
            .into_iter()
            .filter_map(|edge| Some(SymbolEdge { node: nodes.get(&other(&edge))?.clone(), edge }))
            .collect();
        Ok(SymbolEdges { symbols, found, truncated })
    }

    async fn symbol_nodes(
        &self,
        caller: &Caller,
        group: &GroupId,
        symbol: &str,
    ) -> Result<Vec<Node>> {
        let store = &self.0.store;
        if let Ok(id) = symbol.parse::<NodeId>()
            && let Some(node) = store.graph_node_get(caller.org, group, id).await?
        {
            return Ok(vec![node]);
        }
        let by_key = store.graph_nodes_by_key(caller.org, group, &[symbol]).await?;
        let ids = match by_key.first() {
            Some(node) => vec![node.id],
            None => {
                let name = normal_name(symbol);
                let names =
                    store.graph_names_are(caller.org, group, &name, SYMBOL_NAMES_READ).await?;
                let whole = names.iter().any(|it| it.part != NamePart::End);
                let mut ids: Vec<NodeId> = names
                    .iter()
                    .filter(|it| !whole || it.part != NamePart::End)
                    .map(|it| it.node)
                    .collect();
                ids.sort_unstable();
                ids.dedup();
                ids.truncate(SYMBOL_NODES_MAX as usize);
                ids
            }
        };
        Ok(store.graph_nodes_get(caller.org, group, &ids).await?)
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::graph::{EDGE_WEIGHT_DEFAULT, EdgeBody};
    use agentry_domain::{JsonText, Timestamp};

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    fn edge(from: u8, to: u8) -> Edge {
        let body = EdgeBody {
            from: node(from),
            to: node(to),
            kind: EDGE_CALLS.to_owned(),
            weight: EDGE_WEIGHT_DEFAULT,
            properties: JsonText::empty(),
        };
        let mut id = [from; 16];
        id[15] = to;
        let now = Timestamp::from_micros(0);
        Edge::new(EdgeId::from_bytes(id), GroupId::default(), body, "client", now)
    }

    /// 1 to 2 and 3, 2 to 4, 3 to 4 and 5.
    fn way(nodes_max: usize) -> Way {
        let mut way = Way::begin(&[node(1)], nodes_max);
        for (from, to, depth) in [(1, 2, 1), (1, 3, 1), (2, 4, 2), (3, 4, 2), (3, 5, 2)] {
            way.follow(edge(from, to), node(to), depth);
        }
        way
    }

    #[test]
    fn a_node_is_as_deep_as_its_shortest_way() {
        let mut way = way(10);
        way.follow(edge(4, 1), node(1), 3);
        assert_eq!(way.order, [1, 2, 3, 4, 5].map(node));
        let depths: Vec<u32> = way.order.iter().map(|id| way.met[id].0).collect();
        assert_eq!(depths, [0, 1, 1, 2, 2]);
        assert_eq!(way.edges.len(), 6, "the edge back and the second one to 4 are there too");
        assert_eq!(way.met[&node(4)].1, Some(edge(2, 4).id));
        assert_eq!(way.truncated_by, None);
    }

    #[test]
    fn depth_first_ends_each_path_before_the_next() {
        assert_eq!(way(10).depth_first(), [1, 2, 4, 3, 5].map(node));
    }

    #[test]
    fn what_would_be_too_many_nodes_is_left_out_with_its_edges() {
        let way = way(3);
        assert_eq!(way.order, [1, 2, 3].map(node));
        assert_eq!(way.edges.len(), 2);
        assert_eq!(way.truncated_by, Some(BY_LIMIT));
    }

    #[test]
    fn a_way_back_adds_no_node() {
        let mut way = Way::begin(&[node(1)], 10);
        way.follow(edge(1, 1), node(1), 1);
        assert_eq!((way.order.len(), way.edges.len()), (1, 1));
        assert_eq!(way.depth_first(), [node(1)]);
    }
}
