//! What a batch of episodes adds to the graph: nodes that are new and that are known,
//! where they are named, facts on their timelines with what they rest on, and edges.
//! The group's lane makes that nobody else draws from it meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agentry_domain::episodes::Episode;
use agentry_domain::facts::{
    Evidence, FACT_QUOTE_CHARS_MAX, FACT_TEXT_CHARS_MAX, Fact, FactObject,
};
use agentry_domain::graph::{
    EDGE_CO_MENTIONS, Edge, EdgeBody, GroupId, NODE_NAME_CHARS_MAX, Node, NodeBody,
    ORIGIN_EPISODES, normal_name,
};
use agentry_domain::{Code, EdgeId, Error, FactId, JsonText, NodeId, OrgId, Result, Timestamp};
use agentry_graph::extract::{
    EXTRACTOR, EXTRACTOR_VERSION, Effect, Kind, Named, Object, is_single,
};
use agentry_graph::structured::EXTRACTOR_MODEL_VERSION;
use agentry_graph::timeline::{Held, place};
use agentry_graph::wording::sentence;
use agentry_store::{FactClose, Mention, NodeNamed, Write};

use super::ingest::{ByModel, Read};
use crate::Engine;

/// Nodes of one episode that are said to be named together; in longer ones, the first.
const NAMED_TOGETHER_MAX: usize = 8;
/// Merges that are followed from one node to the next.
const MERGES_FOLLOWED_MAX: usize = 4;

/// What is to be stored.
pub(super) struct Drawn {
    pub(super) nodes: Vec<Node>,
    used: BTreeSet<NodeId>,
    mentions: Vec<Mention>,
    pub(super) facts: Vec<Fact>,
    closes: BTreeMap<FactId, FactClose>,
    evidence: Vec<(FactId, Evidence)>,
    edges: Vec<Edge>,
}

/// A fact on the timeline of its subject and predicate.
struct Told {
    id: FactId,
    object: FactObject,
    valid_at: Option<Timestamp>,
    invalid_at: Option<Timestamp>,
}

impl Told {
    fn held(&self) -> Held<FactId> {
        let valid_at = self.valid_at.unwrap_or(Timestamp::from_micros(i64::MIN));
        Held { fact: self.id, valid_at, invalid_at: self.invalid_at }
    }

    fn holds(&self, at: Timestamp) -> bool {
        self.valid_at.is_none_or(|from| from <= at) && self.invalid_at.is_none_or(|end| end > at)
    }
}

type Timelines = HashMap<(NodeId, String), Vec<Told>>;

impl Drawn {
    pub(super) async fn of(
        engine: &Engine,
        org: OrgId,
        group: &GroupId,
        batch: &[Episode],
        read: &[Read],
    ) -> Result<Self> {
        let now = engine.now();
        let mut drawn = Self {
            nodes: Vec::new(),
            used: BTreeSet::new(),
            mentions: Vec::new(),
            facts: Vec::new(),
            closes: BTreeMap::new(),
            evidence: Vec::new(),
            edges: Vec::new(),
        };
        let nodes = drawn.name(engine, org, group, read, now).await?;
        let mut timelines = drawn.timelines(engine, org, group, read, &nodes).await?;
        let mut together: BTreeMap<(NodeId, NodeId), f64> = BTreeMap::new();
        let mut related: BTreeSet<(NodeId, String, NodeId)> = BTreeSet::new();
        for ((episode, read), nodes) in batch.iter().zip(read).zip(&nodes) {
            let by_model = read.by_model.as_ref();
            // What was read before is known to be named here.
            let is_known = |node: &NodeId| by_model.is_some_and(|by| by.named.contains(node));
            for (name, node) in read.found.names.iter().zip(nodes) {
                let Some(node) = node.filter(|node| !is_known(node)) else { continue };
                let mention = |span: &std::ops::Range<usize>| Mention {
                    episode: episode.id,
                    node,
                    span: (span.start, span.end),
                };
                // Whoever speaks is named by that.
                let spoken = name.spans.is_empty().then_some(0..0);
                drawn.mentions.extend(name.spans.iter().chain(&spoken).map(mention));
            }
            let mut named: Vec<NodeId> = Vec::new();
            for node in nodes.iter().flatten() {
                if !named.contains(node) && named.len() < NAMED_TOGETHER_MAX {
                    named.push(*node);
                }
            }
            for (nth, one) in named.iter().enumerate() {
                for other in &named[nth + 1..] {
                    if is_known(one) && is_known(other) {
                        continue;
                    }
                    let pair = (*one.min(other), *one.max(other));
                    *together.entry(pair).or_default() += 1.0;
                }
            }
            for (nth, found) in read.found.facts.iter().enumerate() {
                let Some(subject) = nodes[found.subject] else { continue };
                let ties = by_model.and_then(|by| by.ties.get(nth));
                let quote = episode.content.get(found.quote.clone()).unwrap_or_default();
                let quote = quote.chars().take(FACT_QUOTE_CHARS_MAX).collect();
                let evidence = Evidence { episode_id: episode.id, quote };
                if let Some(same) = ties.and_then(|ties| ties.same) {
                    drawn.evidence.push((same, evidence));
                    let timeline = timelines.entry((subject, found.predicate.clone())).or_default();
                    drawn.end(timeline, ties.map_or(&[], |it| &it.ends), found.valid_at, now);
                    continue;
                }
                let (object, called) = match &found.object {
                    Object::Named(nth) => match nodes[*nth] {
                        Some(node) => (FactObject::Node(node), read.found.names[*nth].name.clone()),
                        None => continue,
                    },
                    Object::Literal(text) => (FactObject::Text(text.clone()), text.clone()),
                };
                if let (FactObject::Node(node), Effect::Holds) = (&object, found.effect) {
                    if *node == subject {
                        continue;
                    }
                    related.insert((subject, found.predicate.clone(), *node));
                }
                let said =
                    sentence(&read.found.names[found.subject].name, &found.predicate, &called);
                let fact = Fact {
                    id: FactId::from_uuid(engine.uuid(now)),
                    group_id: group.clone(),
                    subject,
                    predicate: found.predicate.clone(),
                    object,
                    text: said.chars().take(FACT_TEXT_CHARS_MAX).collect(),
                    valid_at: Some(found.valid_at),
                    invalid_at: None,
                    created_at: now,
                    expired_at: None,
                    #[expect(clippy::cast_precision_loss, reason = "thousandths")]
                    confidence: found.confidence as f64 / 1_000.0,
                    extractor: by_model.map_or(EXTRACTOR, |by| &by.extractor).to_owned(),
                    extractor_version: by_model
                        .map_or(EXTRACTOR_VERSION, |_| EXTRACTOR_MODEL_VERSION)
                        .to_string(),
                    metadata: JsonText::empty(),
                };
                let timeline = timelines.entry((subject, found.predicate.clone())).or_default();
                drawn.tell(timeline, fact, found.effect, (evidence, episode.occurred_at), now);
                drawn.end(timeline, ties.map_or(&[], |it| &it.ends), found.valid_at, now);
            }
        }
        drawn.edges = edges(engine, org, group, &together, related, now).await?;
        drawn.used.extend(drawn.edges.iter().flat_map(|edge| [edge.body.from, edge.body.to]));
        for node in &drawn.nodes {
            drawn.used.remove(&node.id);
        }
        Ok(drawn)
    }

    /// Which node each name of each episode is.
    async fn name(
        &mut self,
        engine: &Engine,
        org: OrgId,
        group: &GroupId,
        read: &[Read],
        now: Timestamp,
    ) -> Result<Vec<Vec<Option<NodeId>>>> {
        let store = &engine.0.store;
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for read in read {
            wanted.extend(read.found.names.iter().map(|name| normal_name(&name.name)));
            wanted.extend(read.known_as.iter().flatten().cloned());
        }
        wanted.remove("");
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let found = store.nodes_named(org, group, &wanted).await?;
        let nodes: Vec<NodeId> = found.iter().map(|named| named.node).collect();
        let merged = merges(engine, org, group, nodes).await?;
        let mut by: HashMap<String, Vec<NodeNamed>> = HashMap::new();
        for mut named in found {
            named.node = *merged.get(&named.node).unwrap_or(&named.node);
            by.entry(named.name.clone()).or_default().push(named);
        }
        let mut all = Vec::with_capacity(read.len());
        for read in read {
            let mut nodes = Vec::with_capacity(read.found.names.len());
            let said = |nth: usize| -> Option<NodeId> {
                read.by_model.as_ref().and_then(|by: &ByModel| *by.nodes.get(nth)?)
            };
            for (nth, (name, known_as)) in read.found.names.iter().zip(&read.known_as).enumerate() {
                if let Some(node) = said(nth) {
                    self.used.insert(node);
                    nodes.push(Some(node));
                    continue;
                }
                let key = normal_name(&name.name);
                if key.is_empty() {
                    nodes.push(None);
                    continue;
                }
                let known =
                    pick(by.get(&key), name).or_else(|| pick(by.get(known_as.as_ref()?), name));
                if let Some(node) = known {
                    self.used.insert(node);
                    nodes.push(Some(node));
                    continue;
                }
                let id = NodeId::from_uuid(engine.uuid(now));
                let body = NodeBody {
                    key: None,
                    kind: name.kind.as_str().to_owned(),
                    name: name.name.chars().take(NODE_NAME_CHARS_MAX).collect(),
                    aliases: Vec::new(),
                    language: None,
                    properties: JsonText::empty(),
                };
                let kind = body.kind.clone();
                self.nodes.push(Node::new(id, group.clone(), body, ORIGIN_EPISODES, now));
                let named = NodeNamed { name: key.clone(), node: id, kind, is_alias: false };
                by.entry(key).or_default().push(named);
                nodes.push(Some(id));
            }
            all.push(nodes);
        }
        Ok(all)
    }

    /// What is known of everything that the batch says something about.
    async fn timelines(
        &self,
        engine: &Engine,
        org: OrgId,
        group: &GroupId,
        read: &[Read],
        nodes: &[Vec<Option<NodeId>>],
    ) -> Result<Timelines> {
        let mut wanted: BTreeSet<(NodeId, &str)> = BTreeSet::new();
        for (read, nodes) in read.iter().zip(nodes) {
            for fact in &read.found.facts {
                let subject = nodes[fact.subject].filter(|node| self.used.contains(node));
                wanted.extend(subject.map(|subject| (subject, fact.predicate.as_str())));
            }
        }
        let wanted: Vec<(NodeId, &str)> = wanted.into_iter().collect();
        if wanted.is_empty() {
            return Ok(Timelines::new());
        }
        let found = engine.0.store.facts_of(org, group, &wanted).await?;
        let told = |fact: Fact| Told {
            id: fact.id,
            object: fact.object,
            valid_at: fact.valid_at,
            invalid_at: fact.invalid_at,
        };
        Ok(wanted
            .into_iter()
            .zip(found)
            .map(|((subject, predicate), facts)| {
                let key = (subject, predicate.to_owned());
                (key, facts.into_iter().map(told).collect())
            })
            .collect())
    }

    /// Puts a fact on its timeline.
    fn tell(
        &mut self,
        timeline: &mut Vec<Told>,
        mut fact: Fact,
        effect: Effect,
        (evidence, told_at): (Evidence, Timestamp),
        now: Timestamp,
    ) {
        let at = fact.valid_at.unwrap_or(now);
        let same = timeline.iter().position(|told| told.object == fact.object && told.holds(at));
        match effect {
            Effect::Holds => {
                if let Some(nth) = same {
                    self.evidence.push((timeline[nth].id, evidence));
                    return;
                }
                if is_single(&fact.predicate) {
                    // It holds when it is told, too. What was told to hold later than it
                    // is said to have begun has ended by then, and it began after that.
                    let between = |told: &Told| {
                        told.valid_at.is_some_and(|from| from > at && from <= told_at)
                    };
                    let at = if timeline.iter().any(between) { told_at } else { at };
                    fact.valid_at = Some(at);
                    let others: Vec<Held<FactId>> = timeline.iter().map(Told::held).collect();
                    let placed = place(&others, at);
                    fact.invalid_at = placed.invalid_at;
                    fact.expired_at = placed.invalid_at.map(|_| now);
                    for (id, end) in placed.closes {
                        self.close(timeline, id, end, now);
                    }
                }
            }
            Effect::Ends | Effect::Held => {
                if let Some(nth) = same {
                    let id = timeline[nth].id;
                    self.close(timeline, id, at, now);
                    self.evidence.push((id, evidence));
                    return;
                }
                // It held before, since nobody knows when.
                fact.valid_at = None;
                fact.invalid_at = Some(at);
                fact.expired_at = Some(now);
                let told = timeline.iter().find(|told| told.object == fact.object);
                if let Some(told) = told {
                    self.evidence.push((told.id, evidence));
                    return;
                }
            }
        }
        timeline.push(Told {
            id: fact.id,
            object: fact.object.clone(),
            valid_at: fact.valid_at,
            invalid_at: fact.invalid_at,
        });
        self.evidence.push((fact.id, evidence));
        self.facts.push(fact);
    }

    /// Ends known facts that something contradicts, at the moment from which that holds.
    /// What began after it is newer, and stays.
    fn end(&mut self, timeline: &mut [Told], ended: &[Fact], at: Timestamp, now: Timestamp) {
        for fact in ended {
            let told = timeline.iter().find(|told| told.id == fact.id);
            let closed = self.closes.get(&fact.id).map(|close| close.invalid_at);
            let until = closed.or(told.map_or(fact.invalid_at, |told| told.invalid_at));
            let is_newer = fact.valid_at.is_some_and(|from| from > at);
            if !is_newer && until.is_none_or(|until| until > at) {
                self.close(timeline, fact.id, at, now);
            }
        }
    }

    fn close(&mut self, timeline: &mut [Told], id: FactId, end: Timestamp, now: Timestamp) {
        if let Some(told) = timeline.iter_mut().find(|told| told.id == id) {
            told.invalid_at = Some(end);
        }
        match self.facts.iter_mut().find(|fact| fact.id == id) {
            Some(fresh) => {
                fresh.invalid_at = Some(end);
                fresh.expired_at = Some(now);
            }
            None => {
                self.closes.insert(id, FactClose { id, invalid_at: end, expired_at: now });
            }
        }
    }

    /// Adds everything to a write.
    pub(super) fn add_to(self, write: &mut Write, group: &GroupId) {
        let used: Vec<NodeId> = self.used.into_iter().collect();
        if !used.is_empty() {
            write.graph_nodes_present(group, &used, || {
                Error::new(Code::Conflict, "a node that an episode names is gone")
            });
        }
        write.graph_nodes_insert(group, &self.nodes);
        write.mentions_insert(group, &self.mentions);
        write.facts_insert(group, &self.facts);
        let closes: Vec<FactClose> = self.closes.into_values().collect();
        write.facts_close(group, &closes);
        write.evidence_insert(group, &self.evidence);
        if !self.edges.is_empty() {
            write.graph_edges_put(group, &self.edges);
        }
    }
}

/// The node that a name is, of those that have the name: one of the same kind or, of
/// things that are told apart by no shape, any; a name before an alias.
fn pick(all: Option<&Vec<NodeNamed>>, name: &Named) -> Option<NodeId> {
    let by_shape = |kind: &str| {
        matches!(
            Kind::parse(kind),
            Some(
                Kind::Handle
                    | Kind::Tag
                    | Kind::Url
                    | Kind::Email
                    | Kind::Path
                    | Kind::Version
                    | Kind::Identifier
            )
        )
    };
    let wanted = name.kind.as_str();
    let fits =
        |named: &&NodeNamed| named.kind == wanted || (!by_shape(&named.kind) && !by_shape(wanted));
    let order = |named: &&NodeNamed| (named.kind != wanted, named.is_alias, named.node);
    all?.iter().filter(fits).min_by_key(order).map(|named| named.node)
}

/// What each of these nodes is read as, of those that are another one.
pub(super) async fn merges(
    engine: &Engine,
    org: OrgId,
    group: &GroupId,
    mut look: Vec<NodeId>,
) -> Result<HashMap<NodeId, NodeId>> {
    let mut merged: HashMap<NodeId, NodeId> = HashMap::new();
    for _ in 0..MERGES_FOLLOWED_MAX {
        if look.is_empty() {
            break;
        }
        let next = engine.0.store.node_merges_of(org, group, &look).await?;
        look = next.iter().map(|merge| merge.into).collect();
        for merge in next {
            for into in merged.values_mut().filter(|into| **into == merge.merged) {
                *into = merge.into;
            }
            merged.insert(merge.merged, merge.into);
        }
    }
    Ok(merged)
}

/// The edges between nodes that are named together, one more than there were for each
/// episode, and those that facts say.
async fn edges(
    engine: &Engine,
    org: OrgId,
    group: &GroupId,
    together: &BTreeMap<(NodeId, NodeId), f64>,
    related: BTreeSet<(NodeId, String, NodeId)>,
    now: Timestamp,
) -> Result<Vec<Edge>> {
    let pairs: Vec<(NodeId, NodeId)> = together.keys().copied().collect();
    let known = engine.0.store.edges_between(org, group, EDGE_CO_MENTIONS, &pairs).await?;
    let known: HashMap<(NodeId, NodeId), f64> = known.into_iter().collect();
    let edge = |from, kind: String, to, weight| {
        let properties = JsonText::empty();
        let body = EdgeBody { from, to, kind, weight, properties };
        Edge::new(EdgeId::from_uuid(engine.uuid(now)), group.clone(), body, ORIGIN_EPISODES, now)
    };
    let mut edges: Vec<Edge> = Vec::with_capacity(together.len() + related.len());
    for ((from, to), n) in together {
        let before = known.get(&(*from, *to)).copied().unwrap_or(0.0);
        edges.push(edge(*from, EDGE_CO_MENTIONS.to_owned(), *to, before + n));
    }
    for (from, kind, to) in related {
        edges.push(edge(from, kind, to, 1.0));
    }
    Ok(edges)
}
