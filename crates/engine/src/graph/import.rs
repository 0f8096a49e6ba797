//! Imports: nodes and edges in bulk, line after line as they arrive, so that a graph
//! of any size takes the memory of one batch.
//!
//! A batch is stored in one write, as a whole or not at all. A line that cannot be
//! stored is left out and reported; the others of its batch are stored without it.
//! A node with a key that the group has, and an edge of a kind between nodes that have
//! one, are changed: what is imported again, after a failure say, is there once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use agentry_domain::graph::{
    Edge, EdgeBody, GroupId, IMPORT_BATCH_BYTES, IMPORT_BATCH_LINES, IMPORT_FAULTS_MAX, Node,
    NodeBody, ORIGIN_CLIENT,
};
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::{Caller, Code, EdgeId, Error, Fault, JsonText, NodeId, Result, Timestamp};
use agentry_store::Write;
use futures::{Stream, StreamExt as _};
use tokio::time::Instant;

use crate::graph::group_data;
use crate::progress::PROGRESS_EVERY;
use crate::{Engine, entry};

/// Imports that go on at once in this process; each holds a batch.
pub(crate) const GRAPH_IMPORTS_MAX: usize = 8;
/// When to come again for a place.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How often a batch is tried again when others change what it goes by.
const BATCH_TRIES_MAX: u32 = 10;

/// A line that says something.
#[derive(Clone, Debug, PartialEq)]
pub enum ImportLine {
    /// A node.
    Node(NodeBody),
    /// An edge. Its ends are keys of nodes, or ids.
    Edge {
        /// Where it begins.
        from: String,
        /// Where it ends.
        to: String,
        /// What it says.
        kind: String,
        /// How much it counts.
        weight: f64,
        /// A JSON object of the client's.
        properties: JsonText,
    },
}

/// A line as it arrived.
#[derive(Clone, Debug)]
pub struct ImportItem {
    /// Its number, from 1.
    pub line: u64,
    /// Its bytes.
    pub bytes: usize,
    /// What it says, or what is wrong with it.
    pub said: Result<ImportLine, Vec<Fault>>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFault {
    /// Its number, from 1.
    pub line: u64,
    /// What.
    pub fault: Fault,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Its id, by which the log tells of it.
    pub id: [u8; 16],
    /// Lines that said something.
    pub lines: u64,
    /// Writes in which they were stored.
    pub batches: u64,
    /// Nodes that are new.
    pub nodes_created: u64,
    /// Nodes that were there and have changed.
    pub nodes_updated: u64,
    /// Nodes that were there just so.
    pub nodes_unchanged: u64,
    /// Edges that are new.
    pub edges_created: u64,
    /// Edges that were there, whether they have changed or not.
    pub edges_existing: u64,
    /// Lines that were left out.
    pub bad_lines: u64,
    /// What is wrong with the first of them.
    pub faults: Vec<LineFault>,
    /// Bytes of lines.
    bytes: u64,
}

impl ImportReport {
    fn fault(&mut self, line: u64, faults: Vec<Fault>) {
        self.bad_lines += 1;
        let room = IMPORT_FAULTS_MAX - self.faults.len();
        self.faults.extend(faults.into_iter().take(room).map(|fault| LineFault { line, fault }));
    }

    fn data(&self, group: &GroupId, bytes_total: Option<u64>) -> Result<String> {
        let total = bytes_total.map_or("null".to_owned(), |total| total.to_string());
        let numbers = format!(
            r#"{{"lines":{},"bytes":{},"bytes_total":{total},"nodes":{},"edges":{},"bad_lines":{}}}"#,
            self.lines,
            self.bytes,
            self.nodes_created + self.nodes_updated + self.nodes_unchanged,
            self.edges_created + self.edges_existing,
            self.bad_lines,
        );
        group_data(group, &numbers)
    }
}

/// Lines that are stored together.
#[derive(Default)]
struct Batch {
    nodes: Vec<(u64, NodeBody)>,
    edges: Vec<EdgeLine>,
    bytes: usize,
}

#[derive(Clone)]
struct EdgeLine {
    line: u64,
    from: String,
    to: String,
    kind: String,
    weight: f64,
    properties: JsonText,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.nodes.len() + self.edges.len() >= IMPORT_BATCH_LINES
            || self.bytes >= IMPORT_BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.edges.is_empty()
    }

    /// Keys that nodes have, or that edges may mean.
    fn keys(&self) -> Vec<&str> {
        let of_nodes = self.nodes.iter().filter_map(|(_, body)| body.key.as_deref());
        let of_edges = self.edges.iter().flat_map(|edge| [edge.from.as_str(), edge.to.as_str()]);
        let keys: HashSet<&str> = of_nodes.chain(of_edges).collect();
        keys.into_iter().collect()
    }
}

/// What a batch comes to, once it is known what is there.
#[derive(Default)]
struct Plan {
    new: Vec<Node>,
    /// As they were, and as they will be.
    changed: Vec<(Node, Node)>,
    unchanged: u64,
    /// Nodes by the key by which edges mean them.
    by_key: HashMap<String, NodeId>,
    edges: Vec<Edge>,
    /// Ends of edges that were there before.
    held: HashSet<NodeId>,
    faults: Vec<(u64, Vec<Fault>)>,
}

impl Engine {
    /// Takes nodes and edges in, line after line. Of the bytes that are to come the
    /// log says how many there are, if that is known.
    pub async fn graph_import(
        &self,
        caller: &Caller,
        group: &GroupId,
        bytes_total: Option<u64>,
        mut lines: impl Stream<Item = Result<ImportItem>> + Send + Unpin,
    ) -> Result<ImportReport> {
        let Ok(_place) = self.0.importing.try_acquire() else {
            let detail = format!("{GRAPH_IMPORTS_MAX} imports are going on; try again");
            return Err(Error::new(Code::Overloaded, detail).retry_after(RETRY_AFTER));
        };
        let id = self.uuid(self.now()).into_bytes();
        let mut import = Import {
            engine: self,
            caller,
            group,
            bytes_total,
            told: Instant::now(),
            stored: 0,
            report: ImportReport { id, ..ImportReport::default() },
        };
        let outcome = import.take(&mut lines).await;
        match outcome {
            Ok(()) => import.finish().await,
            Err(error) => Err(import.broken_off(error)),
        }
    }
}

struct Import<'a> {
    engine: &'a Engine,
    caller: &'a Caller,
    group: &'a GroupId,
    bytes_total: Option<u64>,
    /// When the log last told of it.
    told: Instant,
    /// The last line of the last batch that was stored.
    stored: u64,
    report: ImportReport,
}

impl Import<'_> {
    async fn take(
        &mut self,
        lines: &mut (impl Stream<Item = Result<ImportItem>> + Send + Unpin),
    ) -> Result<()> {
        let (mut batch, mut last) = (Batch::default(), 0);
        while let Some(item) = lines.next().await {
            let ImportItem { line, bytes, said } = item?;
            last = line;
            self.report.lines += 1;
            self.report.bytes += bytes as u64;
            batch.bytes += bytes;
            match said {
                Ok(ImportLine::Node(body)) => batch.nodes.push((line, body)),
                Ok(ImportLine::Edge { from, to, kind, weight, properties }) => {
                    batch.edges.push(EdgeLine { line, from, to, kind, weight, properties });
                }
                Err(faults) => self.report.fault(line, faults),
            }
            if batch.is_full() {
                self.store(&std::mem::take(&mut batch)).await?;
                self.stored = line;
            }
        }
        if !batch.is_empty() {
            self.store(&batch).await?;
        }
        self.stored = last;
        Ok(())
    }

    /// Stores a batch, again as long as others change what it goes by.
    async fn store(&mut self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            let plan = self.plan(batch).await?;
            match self.write(plan).await {
                Err(error)
                    if matches!(error.code, Code::PreconditionFailed | Code::AlreadyExists)
                        && tries < BATCH_TRIES_MAX =>
                {
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn plan(&self, batch: &Batch) -> Result<Plan> {
        let (store, org) = (&self.engine.0.store, self.caller.org);
        let known = store.graph_nodes_by_key(org, self.group, &batch.keys()).await?;
        let known: HashMap<String, Node> =
            known.into_iter().filter_map(|node| Some((node.body.key.clone()?, node))).collect();
        let now = self.engine.now();
        let mut plan = Plan::default();
        self.plan_nodes(&mut plan, batch, &known, now);
        // What is no key may be an id.
        let ids: HashSet<NodeId> = batch
            .edges
            .iter()
            .flat_map(|edge| [&edge.from, &edge.to])
            .filter(|end| !plan.by_key.contains_key(*end) && !known.contains_key(*end))
            .filter_map(|end| end.parse().ok())
            .collect();
        let ids: Vec<NodeId> = ids.into_iter().collect();
        let there = store.graph_nodes_get(org, self.group, &ids).await?;
        let there: HashSet<NodeId> = there.into_iter().map(|node| node.id).collect();
        let end = |text: &str| {
            let by_key = plan.by_key.get(text).copied().map(|id| (id, false));
            let known = || known.get(text).map(|node| (node.id, true));
            let by_id = || text.parse().ok().filter(|id| there.contains(id)).map(|id| (id, true));
            by_key.or_else(known).or_else(by_id)
        };
        let (mut edges, mut held, mut faults) = (BTreeMap::new(), HashSet::new(), Vec::new());
        for edge in &batch.edges {
            let (from, to) = (end(&edge.from), end(&edge.to));
            let (Some(from), Some(to)) = (from, to) else {
                let lost = [("/from", from.is_none()), ("/to", to.is_none())];
                let fault = |pointer| {
                    Fault::new(pointer, "not_found", "is neither the key nor the id of a node")
                };
                let lost = lost.into_iter().filter(|(_, is_lost)| *is_lost);
                faults.push((edge.line, lost.map(|(pointer, _)| fault(pointer)).collect()));
                continue;
            };
            held.extend([from, to].into_iter().filter(|(_, was)| *was).map(|(id, _)| id));
            // Of two edges of one kind between the same nodes the later one counts.
            edges.insert((from.0, to.0, edge.kind.clone()), edge.clone());
        }
        let made = |((from, to, kind), line): ((NodeId, NodeId, String), EdgeLine)| {
            let EdgeLine { weight, properties, .. } = line;
            let body = EdgeBody { from, to, kind, weight, properties };
            let id = EdgeId::from_uuid(self.engine.uuid(now));
            Edge::new(id, self.group.clone(), body, ORIGIN_CLIENT, now)
        };
        plan.edges = edges.into_iter().map(made).collect();
        (plan.held, plan.faults) = (held, faults);
        Ok(plan)
    }

    fn plan_nodes(
        &self,
        plan: &mut Plan,
        batch: &Batch,
        known: &HashMap<String, Node>,
        now: Timestamp,
    ) {
        // Of two lines with one key the later one counts.
        let mut last: HashMap<&str, u64> = HashMap::new();
        for (line, body) in &batch.nodes {
            if let Some(key) = &body.key {
                last.insert(key, *line);
            }
        }
        for (line, body) in &batch.nodes {
            let was = match &body.key {
                Some(key) if last.get(key.as_str()) != Some(line) => continue,
                Some(key) => known.get(key),
                None => None,
            };
            match was {
                Some(was) if was.body == *body => plan.unchanged += 1,
                Some(was) => plan.changed.push((was.clone(), was.changed(body.clone(), now))),
                None => {
                    let id = NodeId::from_uuid(self.engine.uuid(now));
                    if let Some(key) = &body.key {
                        plan.by_key.insert(key.clone(), id);
                    }
                    let (group, body) = (self.group.clone(), body.clone());
                    plan.new.push(Node::new(id, group, body, ORIGIN_CLIENT, now));
                }
            }
        }
    }

    async fn write(&mut self, plan: Plan) -> Result<()> {
        let Plan { new, changed, unchanged, edges, held, faults, .. } = plan;
        let mut write = Write::new(self.caller.org).bulk();
        write.graph_nodes_insert(self.group, &new);
        let changes: Vec<(&Node, &Node)> = changed.iter().map(|(was, is)| (was, is)).collect();
        write.graph_nodes_update(self.group, &changes);
        if !held.is_empty() {
            let held: Vec<NodeId> = held.into_iter().collect();
            let gone = || Error::new(Code::PreconditionFailed, "nodes of the group have gone");
            write.graph_nodes_present(self.group, &held, gone);
        }
        let fresh = (!edges.is_empty()).then(|| write.graph_edges_put(self.group, &edges));
        let now = self.engine.now();
        let mut report = self.report.clone();
        report.batches += 1;
        report.nodes_created += new.len() as u64;
        report.nodes_updated += changed.len() as u64;
        report.nodes_unchanged += unchanged;
        for (line, faults) in faults {
            report.fault(line, faults);
        }
        let due = self.told.elapsed() >= PROGRESS_EVERY;
        if due {
            let data = report.data(self.group, self.bytes_total)?;
            write.log(self.entry("graph.import_progress", now, data));
        }
        let written = self.engine.0.store.write(write).await?;
        if due {
            self.told = Instant::now();
        }
        let fresh = fresh.map_or(0, |fresh| fresh.of(&written));
        report.edges_created += fresh;
        report.edges_existing += edges.len() as u64 - fresh;
        self.report = report;
        Ok(())
    }

    fn entry(&self, kind: &'static str, at: Timestamp, data: String) -> LogEntry {
        entry(self.caller, at, kind, EntityKind::Graph, self.report.id, data)
    }

    async fn finish(self) -> Result<ImportReport> {
        let data = self.report.data(self.group, self.bytes_total)?;
        let mut write = Write::new(self.caller.org).bulk();
        write.log(self.entry("graph.imported", self.engine.now(), data));
        self.engine.0.store.write(write).await?;
        Ok(self.report)
    }

    /// Says how far it came, so that a client need not begin from the beginning.
    fn broken_off(self, mut error: Error) -> Error {
        let detail = match self.stored {
            0 => format!("{}; no line is stored", error.detail),
            line => format!("{}; the good lines up to line {line} are stored", error.detail),
        };
        error.detail = detail.into();
        error
    }
}
