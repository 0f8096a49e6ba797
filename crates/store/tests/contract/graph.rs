//! Graphs: every field, the guards, and degrees, categories and counters that equal
//! what a model counts after any sequence of changes.

use std::collections::{BTreeMap, BTreeSet};

use agentry_domain::graph::{Category, Edge, EdgeBody, GroupId, NamePart, Node, NodeBody, hubs};
use agentry_domain::{Code, EdgeId, JsonText, NodeId, Order, OrgId, PageRequest, Tier};
use agentry_store::doctor::examine;
use agentry_store::graph::nodes::node_missing;
use agentry_store::{Outward, Store, Write};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::bed::{Bed, wait_until};
use crate::make;

fn group(name: &str) -> GroupId {
    GroupId::new(name)
}

fn body(kind: &str, name: &str) -> NodeBody {
    NodeBody {
        key: None,
        kind: kind.to_owned(),
        name: name.to_owned(),
        aliases: Vec::new(),
        language: None,
        properties: JsonText::empty(),
    }
}

fn node(group: &GroupId, body: NodeBody) -> Node {
    Node::new(NodeId::from_uuid(make::uuid()), group.clone(), body, "client", make::now())
}

fn edge(from: &Node, kind: &str, to: &Node) -> Edge {
    let body = EdgeBody {
        from: from.id,
        to: to.id,
        kind: kind.to_owned(),
        weight: 1.0,
        properties: JsonText::empty(),
    };
    let id = EdgeId::from_uuid(make::uuid());
    Edge::new(id, from.group_id.clone(), body, "client", make::now())
}

async fn insert(store: &Store, org: OrgId, nodes: &[Node]) {
    let mut write = Write::new(org);
    write.graph_nodes_insert(&nodes[0].group_id, nodes);
    store.write(write).await.unwrap();
}

async fn put(store: &Store, org: OrgId, edges: &[Edge]) -> u64 {
    let mut write = Write::new(org);
    let fresh = write.graph_edges_put(&edges[0].group_id, edges);
    let written = store.write(write).await.unwrap();
    fresh.of(&written)
}

/// The node as it is when what was appended is folded.
async fn has_degrees(store: &Store, org: OrgId, node: &Node, degrees: (u64, u64)) {
    wait_until("degrees are folded", || async {
        let found = store.graph_node_get(org, &node.group_id, node.id).await.unwrap().unwrap();
        (found.in_degree, found.out_degree) == degrees
    })
    .await;
}

pub(crate) async fn nodes_and_edges_keep_every_field(bed: Bed) {
    let (store, org, group) = (bed.open().await, make::org(), group("g \u{1f511}"));
    let full = NodeBody {
        key: Some("k-1".to_owned()),
        kind: "function".to_owned(),
        name: "Store::write \u{e9}".to_owned(),
        aliases: vec!["write it".to_owned(), "\"quoted\\".to_owned()],
        language: Some("rust".to_owned()),
        properties: make::json(r#"{"line":7,"n":1.50,"t":"\u00e9\"x\""}"#),
    };
    let one = node(&group, full);
    let two = node(&group, body("class", "Two"));
    insert(&store, org, &[one.clone(), two.clone()]).await;
    let get = async |id| store.graph_node_get(org, &group, id).await.unwrap();
    assert_eq!(get(one.id).await, Some(one.clone()));
    assert_eq!(get(two.id).await, Some(two.clone()));
    let ids = [two.id, NodeId::from_uuid(make::uuid()), one.id];
    assert_eq!(store.graph_nodes_get(org, &group, &ids).await.unwrap(), [two.clone(), one.clone()]);
    let by_key = store.graph_nodes_by_key(org, &group, &["k-1", "k-2"]).await.unwrap();
    assert_eq!(by_key, std::slice::from_ref(&one));

    let mut first = edge(&one, "calls", &two);
    first.body.weight = 0.1;
    first.body.properties = make::json(r#"{"a":[1,null]}"#);
    let mut write = Write::new(org);
    write.graph_edge_insert(&first);
    store.write(write).await.unwrap();
    assert_eq!(store.graph_edge_get(org, &group, first.id).await.unwrap(), Some(first.clone()));
    let mut second = edge(&two, "uses", &one);
    second.body.weight = -12.25;
    assert_eq!(put(&store, org, std::slice::from_ref(&second)).await, 1);
    assert_eq!(store.graph_edge_get(org, &group, second.id).await.unwrap(), Some(second.clone()));

    // What comes again keeps its id, and what it was not to change.
    let mut again = edge(&one, "calls", &two);
    again.body.weight = 7.0;
    let others = edge(&two, "calls", &one);
    assert_eq!(put(&store, org, &[again.clone(), others]).await, 1);
    let found = store.graph_edge_get(org, &group, first.id).await.unwrap().unwrap();
    assert_eq!((found.version, found.body.weight), (2, 7.0));
    assert_eq!((found.created_at, found.updated_at), (first.created_at, again.created_at));
    assert_eq!(put(&store, org, &[again]).await, 0);
    let found = store.graph_edge_get(org, &group, first.id).await.unwrap().unwrap();
    assert_eq!(found.version, 2, "the same again is no change");

    let changed_body = EdgeBody { weight: 3.5, ..found.body.clone() };
    let changed = found.changed(changed_body, make::now());
    let mut write = Write::new(org);
    write.graph_edge_update(&changed);
    store.write(write).await.unwrap();
    assert_eq!(store.graph_edge_get(org, &group, first.id).await.unwrap(), Some(changed));

    has_degrees(&store, org, &one, (2, 1)).await;
    has_degrees(&store, org, &two, (1, 2)).await;
    store.close().await;
}

pub(crate) async fn nodes_are_listed_and_found_by_name(bed: Bed) {
    let (store, org, group) = (bed.open().await, make::org(), group("default"));
    let names = ["parse_config", "parseConfig::File", "Config", "write", "Write it"];
    let nodes: Vec<Node> = names
        .iter()
        .enumerate()
        .map(|(nth, name)| {
            node(&group, body(if nth % 2 == 0 { "function" } else { "class" }, name))
        })
        .collect();
    insert(&store, org, &nodes).await;
    let found = async |beginning: &str| {
        let found = store.graph_names_find(org, &group, beginning).await.unwrap();
        let place = |it: &agentry_store::NameMatch| {
            nodes.iter().position(|node| node.id == it.node).unwrap()
        };
        found.iter().map(|it| (it.name.clone(), place(it), it.part)).collect::<Vec<_>>()
    };
    let is = |name: &str, nth, part| (name.to_owned(), nth, part);
    assert_eq!(
        found("config").await,
        [
            is("config", 0, NamePart::End),
            is("config", 2, NamePart::Name),
            is("config file", 1, NamePart::End),
        ]
    );
    assert_eq!(found("writ").await.len(), 2);
    assert_eq!(found("zzz").await, []);
    let exactly = store.graph_names_are(org, &group, "write", 9).await.unwrap();
    assert_eq!(exactly.iter().map(|it| it.node).collect::<Vec<_>>(), [nodes[3].id]);

    let page = |limit, after, order| PageRequest { limit, after, offset: 0, order };
    let list = async |kind: Option<&str>, page: PageRequest| {
        store.graph_node_list(org, &group, kind, &page).await.unwrap()
    };
    let all = list(None, page(3, None, Order::Ascending)).await;
    assert_eq!((all.items.as_slice(), all.total), (&nodes[..3], 5));
    let rest = list(None, page(3, all.next, Order::Ascending)).await;
    assert_eq!((rest.items.as_slice(), rest.next), (&nodes[3..], None));
    let newest = list(None, page(1, None, Order::Descending)).await;
    assert_eq!(newest.items, nodes[4..]);
    let classes = list(Some("class"), page(9, None, Order::Ascending)).await;
    assert_eq!(classes.items, [nodes[1].clone(), nodes[3].clone()]);
    assert_eq!(classes.total, 2);
    let functions = list(Some("function"), page(1, None, Order::Descending)).await;
    assert_eq!((functions.items.as_slice(), functions.total), (&nodes[4..], 3));

    // Called otherwise and of another kind, it is found so, and no longer as it was.
    let renamed = nodes[0].changed(body("module", "settings"), make::now());
    let mut write = Write::new(org);
    write.graph_nodes_update(&group, &[(&nodes[0], &renamed)]);
    store.write(write).await.unwrap();
    assert_eq!(found("parse").await, [is("parseconfig file", 1, NamePart::Name)]);
    assert_eq!(found("settings").await, [is("settings", 0, NamePart::Name)]);
    let stats = store.graph_stats_of_kinds(org, &group).await.unwrap();
    let kinds = [("class", 2), ("function", 2), ("module", 1)];
    assert_eq!(stats.node_kinds, kinds.map(|(kind, n)| (kind.to_owned(), n)));
    assert_eq!((stats.nodes, stats.edges, stats.isolated), (5, 0, 5));

    let mut edges = [edge(&nodes[1], "a", &nodes[2]), edge(&nodes[2], "b", &nodes[1])];
    // Edges that are put together are made at one time.
    edges[1].created_at = edges[0].created_at;
    edges[1].updated_at = edges[0].updated_at;
    put(&store, org, &edges).await;
    let page = page(1, None, Order::Descending);
    let listed = store.graph_edge_list(org, &group, &page).await.unwrap();
    assert_eq!((listed.items.as_slice(), listed.total), (&edges[1..], 2));
    let page = PageRequest { after: listed.next, ..page };
    let listed = store.graph_edge_list(org, &group, &page).await.unwrap();
    assert_eq!((listed.items.as_slice(), listed.next), (&edges[..1], None));
    store.close().await;
}

pub(crate) async fn guards_of_graphs_tell_what_is_wrong(bed: Bed) {
    let (store, org, group) = (bed.open().await, make::org(), group("default"));
    let keyed = NodeBody { key: Some("k".to_owned()), ..body("x", "one") };
    let one = node(&group, keyed.clone());
    let two = node(&group, body("x", "two"));
    insert(&store, org, &[one.clone(), two.clone()]).await;
    let write = async |change: &dyn Fn(&mut Write)| {
        let mut write = Write::new(org);
        change(&mut write);
        store.write(write).await.map(|_| ())
    };
    let taken = node(&group, keyed.clone());
    let inserted =
        write(&|write| write.graph_nodes_insert(&group, std::slice::from_ref(&taken))).await;
    assert_eq!(make::refused(inserted).code, Code::AlreadyExists);
    // In another group, and in another organisation, it is free.
    let other = crate::graph::group("other");
    insert(&store, org, &[node(&other, keyed.clone())]).await;
    insert(&store, make::org(), &[taken]).await;
    let moved = two.changed(keyed, make::now());
    let updated = write(&|write| write.graph_nodes_update(&group, &[(&two, &moved)])).await;
    assert_eq!(make::refused(updated).code, Code::AlreadyExists);

    let renamed = two.changed(body("x", "2"), make::now());
    let update = |write: &mut Write| write.graph_nodes_update(&group, &[(&two, &renamed)]);
    write(&update).await.unwrap();
    assert_eq!(make::refused(write(&update).await).code, Code::PreconditionFailed);
    let absent = node(&group, body("x", "absent"));
    let update = |write: &mut Write| write.graph_nodes_update(&group, &[(&absent, &absent)]);
    assert_eq!(make::refused(write(&update).await).code, Code::NotFound);
    // Of several, one that changed keeps all from changing.
    let first = one.changed(body("x", "1"), make::now());
    let both = |write: &mut Write| {
        write.graph_nodes_update(&group, &[(&one, &first), (&two, &renamed)]);
    };
    assert_eq!(make::refused(write(&both).await).code, Code::PreconditionFailed);
    assert_eq!(store.graph_node_get(org, &group, one.id).await.unwrap(), Some(one.clone()));

    let first = edge(&one, "calls", &two);
    write(&|write| write.graph_edge_insert(&first)).await.unwrap();
    let same = edge(&one, "calls", &two);
    let inserted = write(&|write| write.graph_edge_insert(&same)).await;
    assert_eq!(make::refused(inserted).code, Code::AlreadyExists);
    let nowhere = edge(&one, "calls", &absent);
    let inserted = write(&|write| write.graph_edge_insert(&nowhere)).await;
    assert_eq!(make::refused(inserted).code, Code::NotFound);
    let across = Edge { group_id: other.clone(), ..edge(&one, "calls", &two) };
    let inserted = write(&|write| write.graph_edge_insert(&across)).await;
    assert_eq!(make::refused(inserted).code, Code::NotFound);
    let present = |ids: Vec<NodeId>| {
        move |write: &mut Write| {
            write.graph_nodes_present(&crate::graph::group("default"), &ids, || {
                node_missing(NodeId::from_bytes([0; 16]))
            });
        }
    };
    write(&present(vec![one.id, two.id, one.id])).await.unwrap();
    let refused = write(&present(vec![one.id, absent.id])).await;
    assert_eq!(make::refused(refused).code, Code::NotFound);

    let stale = Edge { version: 3, ..first.clone() };
    let updated = write(&|write| write.graph_edge_update(&stale)).await;
    assert_eq!(make::refused(updated).code, Code::PreconditionFailed);
    let deleted = write(&|write| write.graph_edge_delete(&stale)).await;
    assert_eq!(make::refused(deleted).code, Code::PreconditionFailed);
    let has_none = write(&|write| write.graph_node_has_no_edges(&one)).await;
    assert_eq!(make::refused(has_none).code, Code::PreconditionFailed);
    write(&|write| write.graph_edge_delete(&first)).await.unwrap();
    let deleted = write(&|write| write.graph_edge_delete(&first)).await;
    assert_eq!(make::refused(deleted).code, Code::NotFound);
    let deleted =
        write(&|write| write.graph_edges_delete(&group, std::slice::from_ref(&first))).await;
    assert_eq!(make::refused(deleted).code, Code::PreconditionFailed);
    write(&|write| write.graph_node_has_no_edges(&one)).await.unwrap();
    let delete = |write: &mut Write, node: &Node| {
        write.graph_node_lock(node);
        write.graph_node_delete(node);
    };
    let stale = Node { version: 7, ..one.clone() };
    let deleted = write(&|write| delete(write, &stale)).await;
    assert_eq!(make::refused(deleted).code, Code::PreconditionFailed);
    let deleted = write(&|write| delete(write, &absent)).await;
    assert_eq!(make::refused(deleted).code, Code::NotFound);
    has_degrees(&store, org, &one, (0, 0)).await;
    store.close().await;
}

pub(crate) async fn edges_are_read_from_either_end(bed: Bed) {
    let (store, org, group) = (bed.open().await, make::org(), group("default"));
    let nodes: Vec<Node> = (0..5).map(|n| node(&group, body("x", &format!("n{n}")))).collect();
    insert(&store, org, &nodes).await;
    let edges = [
        edge(&nodes[0], "a", &nodes[1]),
        edge(&nodes[0], "a", &nodes[2]),
        edge(&nodes[0], "b", &nodes[1]),
        edge(&nodes[3], "a", &nodes[0]),
        edge(&nodes[3], "c", &nodes[1]),
        edge(&nodes[4], "a", &nodes[4]),
    ];
    put(&store, org, &edges).await;
    let at = async |from: &[usize], outward, kinds: Option<&[&str]>, limit| {
        let ids: Vec<NodeId> = from.iter().map(|nth| nodes[*nth].id).collect();
        let kinds: Option<Vec<String>> =
            kinds.map(|kinds| kinds.iter().map(|kind| (*kind).to_owned()).collect());
        let found = store
            .graph_edges_at(org, &group, &ids, (outward, kinds.as_deref()), limit)
            .await
            .unwrap();
        let nth = |edge: &Edge| edges.iter().position(|it| it.id == edge.id).unwrap();
        found.iter().map(nth).collect::<Vec<_>>()
    };
    let (out, back) = (Outward::Yes, Outward::No);
    assert_eq!(at(&[0], out, None, 99).await, [0, 1, 2]);
    assert_eq!(at(&[3, 0], out, None, 99).await, [3, 4, 0, 1, 2]);
    assert_eq!(at(&[3, 0], out, None, 3).await, [3, 4, 0]);
    assert_eq!(at(&[0], out, Some(&["b"]), 99).await, [2]);
    assert_eq!(at(&[0, 3], out, Some(&["a", "c"]), 99).await, [0, 1, 3, 4]);
    assert_eq!(at(&[0, 3], out, Some(&["a", "c"]), 2).await, [0, 1]);
    assert_eq!(at(&[1], back, None, 99).await, [0, 2, 4]);
    assert_eq!(at(&[1, 0], back, Some(&["a"]), 99).await, [0, 3]);
    assert_eq!(at(&[4], out, None, 9).await, [5]);
    assert_eq!(at(&[4], back, None, 9).await, [5]);
    assert_eq!(at(&[], out, None, 9).await, [0; 0]);
    assert_eq!(at(&[0], out, Some(&[]), 9).await, [0; 0]);
    store.close().await;
}

/// What a group should be like.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<usize, Node>,
    edges: BTreeMap<(usize, usize, usize), Edge>,
}

impl Model {
    fn degrees(&self, nth: usize) -> (u64, u64) {
        let count = |of: &dyn Fn(&(usize, usize, usize)) -> bool| {
            self.edges.keys().filter(|key| of(key)).count() as u64
        };
        (count(&|(_, _, to)| *to == nth), count(&|(from, _, _)| *from == nth))
    }

    fn of(&self, category: Category) -> Vec<NodeId> {
        let each = || self.nodes.iter().map(|(nth, node)| (self.degrees(*nth), node.id));
        let only = |which: &dyn Fn((u64, u64)) -> bool| {
            let ids: BTreeSet<NodeId> =
                each().filter(|(degrees, _)| which(*degrees)).map(|(_, id)| id).collect();
            ids.into_iter().collect::<Vec<_>>()
        };
        match category {
            Category::EntryPoints => only(&|(i, o)| i == 0 && o > 0),
            Category::Leaves => only(&|(i, o)| i > 0 && o == 0),
            Category::Isolated => only(&|(i, o)| i + o == 0),
            Category::Hubs => {
                let mut ranked: Vec<(u64, NodeId)> =
                    each().map(|((i, o), id)| (i + o, id)).filter(|(n, _)| *n > 0).collect();
                ranked.sort_by_key(|(n, id)| (std::cmp::Reverse(*n), *id));
                let count = hubs(self.nodes.len() as u64, ranked.len() as u64);
                ranked.truncate(usize::try_from(count).unwrap());
                ranked.into_iter().map(|(_, id)| id).collect()
            }
        }
    }

    /// Whether the store says the same.
    async fn is_in(&self, store: &Store, org: OrgId, group: &GroupId) -> bool {
        let stats = store.graph_stats_of_kinds(org, group).await.unwrap();
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        for edge in self.edges.values() {
            *kinds.entry(edge.body.kind.clone()).or_default() += 1;
        }
        let kinds: Vec<(String, u64)> = kinds.into_iter().collect();
        if (stats.nodes, stats.edges) != (self.nodes.len() as u64, self.edges.len() as u64)
            || stats.edge_kinds != kinds
        {
            return false;
        }
        for category in Category::ALL {
            let expected = self.of(*category);
            let found = store.graph_category(org, group, *category, (0, 500)).await.unwrap();
            let ids: Vec<NodeId> = found.1.iter().map(|node| node.id).collect();
            if (found.0, &ids) != (expected.len() as u64, &expected) {
                return false;
            }
            for node in found.1 {
                let nth = self.nodes.iter().find(|(_, it)| it.id == node.id).unwrap().0;
                if (node.in_degree, node.out_degree) != self.degrees(*nth) {
                    return false;
                }
            }
            let part = store.graph_category(org, group, *category, (1, 2)).await.unwrap();
            let part: Vec<NodeId> = part.1.iter().map(|node| node.id).collect();
            if part != expected.iter().skip(1).take(2).copied().collect::<Vec<_>>() {
                return false;
            }
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Change {
    Nodes(Vec<usize>),
    /// From, kind, to; of these the ends that are there.
    Put(Vec<(usize, usize, usize)>),
    Insert(usize, usize, usize),
    DeleteEdge(usize),
    DeleteNode(usize),
}

fn changes() -> Vec<Change> {
    use proptest::prelude::*;
    let edge = || (0..12_usize, 0..2_usize, 0..12_usize);
    let change = prop_oneof![
        1 => proptest::collection::vec(0..12_usize, 1..4).prop_map(Change::Nodes),
        4 => proptest::collection::vec(edge(), 1..6).prop_map(Change::Put),
        3 => edge().prop_map(|(from, kind, to)| Change::Insert(from, kind, to)),
        2 => (0..50_usize).prop_map(Change::DeleteEdge),
        1 => (0..12_usize).prop_map(Change::DeleteNode),
    ];
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    proptest::collection::vec(change, 60..61).new_tree(&mut runner).unwrap().current()
}

const KINDS: [&str; 2] = ["calls", "contains"];

async fn apply(store: &Store, org: OrgId, group: &GroupId, model: &mut Model, change: Change) {
    let mut write = Write::new(org);
    match change {
        Change::Nodes(wanted) => {
            let fresh: BTreeSet<usize> =
                wanted.into_iter().filter(|nth| !model.nodes.contains_key(nth)).collect();
            let nodes: Vec<Node> =
                fresh.iter().map(|nth| node(group, body("x", &format!("n {nth}")))).collect();
            write.graph_nodes_insert(group, &nodes);
            model.nodes.extend(fresh.into_iter().zip(nodes));
        }
        Change::Put(wanted) => {
            let wanted: BTreeSet<_> = wanted
                .into_iter()
                .filter(|(from, _, to)| {
                    model.nodes.contains_key(from) && model.nodes.contains_key(to)
                })
                .collect();
            let edges: Vec<Edge> = wanted
                .iter()
                .map(|(from, kind, to)| edge(&model.nodes[from], KINDS[*kind], &model.nodes[to]))
                .collect();
            if !edges.is_empty() {
                write.graph_edges_put(group, &edges);
            }
            for (key, edge) in wanted.into_iter().zip(edges) {
                model.edges.entry(key).or_insert(edge);
            }
        }
        Change::Insert(from, kind, to) => {
            if let (Some(first), Some(last)) = (model.nodes.get(&from), model.nodes.get(&to))
                && !model.edges.contains_key(&(from, kind, to))
            {
                let edge = edge(first, KINDS[kind], last);
                write.graph_edge_insert(&edge);
                model.edges.insert((from, kind, to), edge);
            }
        }
        Change::DeleteEdge(nth) => {
            let key = model.edges.keys().nth(nth % model.edges.len().max(1)).copied();
            if let Some(edge) = key.and_then(|key| model.edges.remove(&key)) {
                write.graph_edges_delete(group, &[edge]);
            }
        }
        Change::DeleteNode(nth) => {
            if let Some(node) = model.nodes.remove(&nth) {
                let at = |key: &(usize, usize, usize)| key.0 == nth || key.2 == nth;
                let gone: Vec<Edge> =
                    model.edges.iter().filter(|(key, _)| at(key)).map(|it| it.1.clone()).collect();
                model.edges.retain(|key, _| !at(key));
                write.graph_node_lock(&node);
                write.graph_edges_delete(group, &gone);
                write.graph_node_has_no_edges(&node);
                write.graph_node_delete(&node);
            }
        }
    }
    store.write(write).await.unwrap();
}

pub(crate) async fn graphs_behave_as_their_model(bed: Bed) {
    let (store, org) = (bed.open().await, make::org());
    let groups = [group("default"), group("default2")];
    let mut models = [Model::default(), Model::default()];
    for (nth, change) in changes().into_iter().enumerate() {
        let of = nth % 2;
        apply(&store, org, &groups[of], &mut models[of], change).await;
        if nth % 10 == 9 {
            for (model, group) in models.iter().zip(&groups) {
                wait_until("the group is as its model", || model.is_in(&store, org, group)).await;
            }
        }
    }
    let mut write = Write::new(org);
    let named = agentry_domain::orgs::OrgBody { name: "default".to_owned(), tier: Tier::default() };
    let named = agentry_domain::orgs::Org::new(org, named, make::now());
    write.resource_insert(&named.body, &named.document().unwrap());
    store.write(write).await.unwrap();
    store.close().await;
    let checks = examine(&bed.options(), true).await.unwrap();
    let faulty: Vec<_> = checks.into_iter().filter(|check| check.faults > 0).collect();
    assert_eq!(faulty, []);
}

/// What is broken in a graph, and which check must say so.
const BREAKS: &[(&str, &str)] = &[
    (
        "update graph_degree set in_degree = in_degree + 1, degree = degree + 1 \
         where in_degree = 1 and out_degree = 1",
        "degrees of nodes are those of their edges",
    ),
    (
        "update graph_degree set category = 0 where category = 2",
        "categories of nodes follow from their degrees",
    ),
    (
        "update counter set n = n + 1 where kind = 'graph_leaves'",
        "nodes and edges are counted, and each kind and category of them",
    ),
    (
        "update graph_node_name set kind = 'y' where part = 2",
        "every node has its degrees and its names, and these their node",
    ),
    ("update graph_edge set to_node = id where kind = 'calls'", "every edge has both of its nodes"),
];

pub(crate) async fn the_doctor_recounts_graphs(bed: Bed) {
    let (store, org, group) = (bed.open().await, make::org(), group("default"));
    let nodes: Vec<Node> = (0..3).map(|n| node(&group, body("x", &format!("node {n}")))).collect();
    insert(&store, org, &nodes).await;
    put(&store, org, &[edge(&nodes[0], "calls", &nodes[1]), edge(&nodes[1], "uses", &nodes[2])])
        .await;
    has_degrees(&store, org, &nodes[2], (1, 0)).await;
    wait_until("what was appended is folded", || async {
        store.graph_stats(org, &group).await.unwrap().leaves == 1
    })
    .await;
    if let Bed::Postgres(database) = &bed {
        wait_until("no counter has changes left", || async {
            let left = "select (select count(*) from counter_change) \
                        + (select count(*) from graph_degree_change)";
            database.number(left).await.unwrap() == 0
        })
        .await;
    }
    store.close().await;
    let faulty = async || {
        let checks = examine(&bed.options(), true).await.unwrap();
        let faulty = checks.into_iter().filter(|check| check.faults > 0);
        faulty.map(|check| check.name).collect::<Vec<_>>()
    };
    assert_eq!(faulty().await, Vec::<String>::new());
    for (sql, name) in BREAKS {
        bed.execute(sql).await;
        assert!(faulty().await.iter().any(|it| it == name), "{sql}: {:?}", faulty().await);
    }
}
