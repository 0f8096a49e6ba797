//! A scenario: YAML read into a [`Plan`] that can be carried out as it stands.
//! Reading finds every fault, each with its line and column; whatever is not
//! understood is a fault, so that nothing in a scenario is silently ignored.

mod kinds;
mod pieces;
mod profile;
mod request;
mod slo;
mod sockets;
mod steps;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use serde_json_path::JsonPath;

pub(crate) use kinds::{Kind, of_users};
pub(crate) use profile::{Arrivals, Load, Profile, Stage, Until};
pub(crate) use request::{Piece, Request, render};
pub(crate) use slo::{Figure, Measure, Slo, SocketCount, Subject};
pub(crate) use sockets::{Act, Connect, Wanted};

use crate::dice::Dice;
use crate::expression::{Escape, Kept, Names, NoValue, Scope, Template};
use crate::ledger::Effect;
use crate::run_file::RowKind;
use crate::target::Target;
use crate::tokens::Dialect;
use crate::transport::{Protocol, Transport};
use crate::units;
use crate::yaml::{Fault, Node, Tree};
use pieces::{Fields, Reader};

/// How long a request may take unless the scenario says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The largest scenario, in bytes.
const SCENARIO_BYTES_MAX: usize = 4 << 20;

/// The JSON Schema of scenarios. What it refuses is a fault; the reader finds
/// more, because it knows names, paths and expressions.
pub const SCHEMA: &str = include_str!("../../schema/scenario.schema.json");

/// The scenarios that come with the lab: name and text.
pub const SHIPPED: &[(&str, &str)] = &[
    ("agent_run", include_str!("../../scenarios/agent_run.yaml")),
    ("agents_goals_tasks", include_str!("../../scenarios/agents_goals_tasks.yaml")),
    ("full_api", include_str!("../../scenarios/full_api.yaml")),
    ("graph", include_str!("../../scenarios/graph.yaml")),
    ("realtime", include_str!("../../scenarios/realtime.yaml")),
    ("session_queue", include_str!("../../scenarios/session_queue.yaml")),
];

/// What a run does, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) transport: Transport,
    pub(crate) seed: u64,
    pub(crate) timeout: Duration,
    /// Names of endpoints, by number; rows of every table.
    pub(crate) endpoints: Vec<String>,
    /// By row, what its times are of.
    pub(crate) rows: Vec<RowKind>,
    /// What every user does once, before anything else.
    pub(crate) setup: Vec<Step>,
    pub(crate) flows: Vec<Flow>,
    /// At least one; every user is of one of them.
    pub(crate) kinds: Vec<Kind>,
    /// What every user does at the end, also of a run that was interrupted,
    /// after acknowledged writes have been read back. Its steps have no rows:
    /// it is no part of the load.
    pub(crate) teardown: Vec<Step>,
    /// Names of the teardown's steps, by number.
    pub(crate) teardown_names: Vec<String>,
    pub(crate) data: Vec<(String, Vec<Value>)>,
    /// How many slots what is saved needs.
    pub(crate) slots: usize,
    /// How many lists of what it made a user has.
    pub(crate) lists: usize,
    pub(crate) profile: Profile,
    pub(crate) slos: Vec<Slo>,
    pub(crate) watch: Watch,
    pub(crate) metrics: Option<Prometheus>,
}

/// A path that is asked for without a user.
#[derive(Debug)]
pub(crate) struct PlainGet {
    pub(crate) path: Template,
    /// The rest of the request, after the path.
    pub(crate) rest: Request,
}

/// Where the target says what it does.
#[derive(Debug)]
pub(crate) struct Prometheus {
    /// Elsewhere than the target itself.
    pub(crate) target: Option<Target>,
    pub(crate) request: PlainGet,
    /// Beginnings of names; all when empty.
    pub(crate) series: Vec<String>,
}

/// Which process is the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Nothing,
    /// The one that listens on the target's port on this machine, if any.
    Auto,
    Pid(u32),
}

/// One thing a user may do.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) name: String,
    pub(crate) weight: f64,
    pub(crate) steps: Vec<Step>,
    /// Lists of what a user made that must have something for it to do this.
    pub(crate) needs: Vec<usize>,
}

/// One request of a flow.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) endpoint: usize,
    /// Slots that get a value before the request is made.
    pub(crate) with: Vec<(usize, Template)>,
    pub(crate) request: Request,
    pub(crate) expect: Expect,
    /// Slot and where its value stands in the answer.
    pub(crate) save: Vec<(usize, JsonPath)>,
    /// List and where what goes into it stands in the answer.
    pub(crate) keep: Vec<(usize, JsonPath)>,
    pub(crate) stream: Option<Dialect>,
    pub(crate) acknowledged: Option<Acknowledge>,
    /// What is done with the user's WebSocket instead of an HTTP request; the
    /// request is then the handshake's.
    pub(crate) socket: Option<Box<Act>>,
}

impl Step {
    fn kind(&self) -> RowKind {
        match self.socket.as_deref() {
            None if self.stream.is_some() => RowKind::Stream,
            None => RowKind::Request,
            Some(Act::Connect(_)) => RowKind::Connect,
            Some(Act::Send { answer: None, .. }) => RowKind::Send,
            Some(Act::Send { answer: Some(_), .. }) => RowKind::RoundTrip,
            Some(Act::Receive { .. }) => RowKind::Receive,
            Some(Act::Reconnect { .. }) => RowKind::Reconnect,
        }
    }
}

/// What has to be so after the run when a step was acknowledged.
#[derive(Debug)]
pub(crate) struct Acknowledge {
    pub(crate) path: Template,
    /// Whether it has to be there or gone.
    pub(crate) effect: Effect,
    /// What of it has to be as it was sent.
    pub(crate) fields: AcknowledgedFields,
    /// Whether a failure of it may have changed what was there.
    pub(crate) changes: bool,
    /// The rest of the request, after the path.
    pub(crate) rest: Request,
}

/// Which fields of a request's body are held against what is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AcknowledgedFields {
    None,
    /// All.
    Sent,
    Named(Vec<String>),
}

impl AcknowledgedFields {
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Sent => true,
            Self::Named(names) => names.iter().any(|known| known == name),
        }
    }
}

/// What an answer has to be.
#[derive(Debug)]
pub(crate) struct Expect {
    pub(crate) status: Vec<(u16, u16)>,
    /// Lower-case name and exact value.
    pub(crate) headers: Vec<(String, Template)>,
    /// Where, and the exact value; none means that something stands there.
    pub(crate) json: Vec<(JsonPath, Option<Expected>)>,
}

/// An exact value.
#[derive(Debug)]
pub(crate) enum Expected {
    Is(Value),
    /// Pieces of JSON that vary.
    Renders(Vec<Piece>),
}

impl Expected {
    /// # Errors
    /// When an expression has no value now.
    pub(crate) fn value(&self, scope: &Scope<'_>) -> Result<Cow<'_, Value>, NoValue> {
        match self {
            Self::Is(value) => Ok(Cow::Borrowed(value)),
            Self::Renders(pieces) => {
                let mut bytes = Vec::new();
                render(pieces, scope, &mut bytes)?;
                // Whatever is inserted is escaped, so this is JSON.
                Ok(Cow::Owned(serde_json::from_slice(&bytes).unwrap_or_default()))
            }
        }
    }
}

impl Expect {
    pub(crate) fn status_is_right(&self, status: u16) -> bool {
        self.status.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

/// What the command line says instead of the scenario.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Another target.
    pub target: Option<String>,
    /// Which profile.
    pub profile: Option<String>,
    /// How long, instead of the profile's.
    pub duration: Option<Duration>,
    /// How many iterations, instead of a duration.
    pub requests: Option<u64>,
    /// How many users, closed.
    pub concurrency: Option<u32>,
    /// How long a request may take.
    pub timeout: Option<Duration>,
    /// Only these flows.
    pub only: Vec<String>,
    /// Another seed.
    pub seed: Option<u64>,
    /// Which HTTP.
    pub protocol: Option<Protocol>,
    /// Any certificate will do.
    pub insecure: bool,
    /// The only certificates that are trusted.
    pub ca: Option<PathBuf>,
}

/// Where a scenario's `${env.NAME}` and `${run}` come from.
pub struct Surroundings<'a> {
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// A text that differs for each run.
    pub run: &'a str,
}

impl Plan {
    /// # Errors
    /// Every fault, in the order of the text; faults of the overrides stand at
    /// 0:0.
    pub(crate) fn read(
        text: &str,
        overrides: &Overrides,
        around: &Surroundings<'_>,
    ) -> Result<Self, Vec<Fault>> {
        if text.len() > SCENARIO_BYTES_MAX {
            let message = "a scenario is at most 4 MiB".to_owned();
            return Err(vec![Fault { at: crate::yaml::At::default(), message }]);
        }
        let root = Node::parse(text).map_err(|fault| vec![fault])?;
        let mut reader = Reader::default();
        let plan = read_plan(&mut reader, &root, overrides, around);
        let mut faults = reader.faults;
        faults.sort();
        faults.dedup();
        match plan {
            Some(plan) if faults.is_empty() => Ok(plan),
            _ => Err(faults),
        }
    }

    /// The bytes that read a path back, with the scenario's own headers.
    ///
    /// # Errors
    /// When an expression has no value without a user.
    pub(crate) fn plain_get(&self, asked: &PlainGet) -> Result<Vec<u8>, NoValue> {
        let (nothing, no_lists) = (vec![None; self.slots], Kept::default());
        let draws = std::cell::Cell::new(0);
        let dice = Dice::new(self.seed, "plain");
        let scope = Scope {
            uid: 0,
            iteration: 0,
            saved: &nothing,
            kept: &no_lists,
            data: &self.data,
            dice,
            draws: &draws,
        };
        let mut bytes = b"GET ".to_vec();
        asked.path.render(&scope, &mut bytes, Escape::Url)?;
        bytes.extend_from_slice(&asked.rest.render(&scope)?);
        Ok(bytes)
    }

    /// The step that has this row.
    pub(crate) fn step(&self, endpoint: usize) -> Option<&Step> {
        self.steps().find(|step| step.endpoint == endpoint)
    }

    /// Of the setup and of all flows.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.setup.iter().chain(self.flows.iter().flat_map(|flow| &flow.steps))
    }

    /// The same, at another load.
    pub(crate) fn at(mut self, profile: Profile, timeout: Duration) -> Self {
        self.profile = profile;
        self.timeout = timeout;
        self
    }

    /// The one request of `lab hit`.
    pub(crate) fn single(target: Target, request: Bytes, head: bool, profile: Profile) -> Self {
        Self {
            target,
            transport: Transport::default(),
            seed: 1,
            timeout: TIMEOUT,
            endpoints: vec!["hit".to_owned()],
            rows: vec![RowKind::Request],
            setup: Vec::new(),
            teardown: Vec::new(),
            teardown_names: Vec::new(),
            metrics: None,
            flows: vec![Flow {
                name: "hit".to_owned(),
                weight: 1.0,
                steps: vec![Step {
                    endpoint: 0,
                    with: vec![],
                    request: Request { pieces: vec![Piece::Fixed(request)], body: None, head },
                    expect: Expect { status: vec![(200, 399)], headers: vec![], json: vec![] },
                    save: vec![],
                    keep: vec![],
                    stream: None,
                    acknowledged: None,
                    socket: None,
                }],
                needs: vec![],
            }],
            kinds: vec![Kind { name: "users".to_owned(), weight: 1.0, shares: vec![1.0] }],
            data: Vec::new(),
            slots: 0,
            lists: 0,
            profile,
            slos: Vec::new(),
            watch: Watch::Auto,
        }
    }
}

const KEYS: &[&str] = &[
    "name",
    "description",
    "target",
    "protocol",
    "tls",
    "seed",
    "timeout",
    "headers",
    "data",
    "setup",
    "mix",
    "kinds",
    "teardown",
    "profiles",
    "slo",
    "watch",
];

fn read_plan(
    reader: &mut Reader,
    root: &Node,
    overrides: &Overrides,
    around: &Surroundings<'_>,
) -> Option<Plan> {
    let fields = reader.fields(root, KEYS)?;
    for key in ["name", "description"] {
        fields.get(key).map(|node| reader.text(node));
    }
    let target = read_target(reader, root, &fields, overrides);
    let seed = fields.get("seed").and_then(|node| reader.whole(node));
    let timeout = fields.get("timeout").and_then(|node| reader.parsed(node, units::duration));
    let data = fields.get("data").map(|node| read_data(reader, node)).unwrap_or_default();
    let saved = steps::names_under(&fields, &["save", "with"]);
    let kept = steps::names_under(&fields, &["keep"]);
    let (env, run) = (around.env, around.run);
    let names = Names { data: &data, saved: &saved, kept: &kept, env, run };
    let mut endpoints = Vec::new();
    let host = target.as_ref().map(Target::authority).unwrap_or_default();
    let headers = fields.get("headers");
    let common = steps::Common::read(reader, headers, host, &names);
    let setup = fields
        .get("setup")
        .map(|node| steps::read_steps(reader, node, "setup", true, &common, &mut endpoints));
    let flows = steps::read_mix(reader, root, &fields, &common, &mut endpoints);
    let (rows, sockets) = {
        let all = || setup.iter().flatten().chain(flows.iter().flat_map(|flow| &flow.steps));
        let of = |endpoint: usize| all().find(|step| step.endpoint == endpoint);
        let rows = (0..endpoints.len()).map(|row| of(row).map(Step::kind).unwrap_or_default());
        let tracking = |step: &Step| match step.socket.as_deref() {
            Some(Act::Connect(connect)) => Some(connect.tracking()),
            _ => None,
        };
        let sockets = (0..endpoints.len()).map(|row| of(row).and_then(tracking));
        (rows.collect::<Vec<_>>(), sockets.collect::<Vec<_>>())
    };
    let kinds = kinds::read(reader, fields.get("kinds"), &flows);
    let (flows, kinds) = chosen(reader, flows, kinds, &overrides.only);
    let mut teardown_names = Vec::new();
    let teardown = fields
        .get("teardown")
        .map(|node| steps::read_teardown(reader, node, &common, &mut teardown_names));
    let profile = profile::choose(reader, fields.get("profiles"), overrides);
    let slos = fields.get("slo").map(|node| {
        slo::read(reader, node, slo::Rows { names: &endpoints, sockets: Some(&sockets) })
    });
    let watch = fields.get("watch").map_or(Some(Watch::Auto), |node| read_watch(reader, node));
    let metrics = fields.get("watch").and_then(|node| read_prometheus(reader, node, &common));
    let transport = read_transport(reader, &fields, overrides);
    Some(Plan {
        target: target?,
        transport,
        seed: overrides.seed.or(seed).unwrap_or(1),
        timeout: overrides.timeout.or(timeout).unwrap_or(TIMEOUT),
        endpoints,
        rows,
        setup: setup.unwrap_or_default(),
        flows,
        kinds,
        teardown: teardown.unwrap_or_default(),
        teardown_names,
        metrics,
        slots: saved.len(),
        lists: kept.len(),
        profile: profile?,
        slos: slos.unwrap_or_default(),
        watch: watch?,
        data,
    })
}

fn read_target(
    reader: &mut Reader,
    root: &Node,
    fields: &Fields<'_>,
    overrides: &Overrides,
) -> Option<Target> {
    let written = fields.get("target").and_then(|node| Some((node, reader.text(node)?)));
    if let Some(url) = &overrides.target {
        return match Target::parse(url) {
            Ok(target) => Some(target),
            Err(fault) => {
                reader.fault_of_overrides(format!("--target: {fault}"));
                None
            }
        };
    }
    let Some((node, url)) = written else {
        reader.fault(root, "`target` is missing, and --target was not given");
        return None;
    };
    match Target::parse(&url) {
        Ok(target) => Some(target),
        Err(fault) => {
            reader.fault(node, fault);
            None
        }
    }
}

fn read_transport(reader: &mut Reader, fields: &Fields<'_>, overrides: &Overrides) -> Transport {
    let protocol =
        fields.get("protocol").and_then(|node| reader.parsed(node, str::parse::<Protocol>));
    let mut transport = Transport {
        protocol: overrides.protocol.or(protocol).unwrap_or_default(),
        ..Transport::default()
    };
    if let Some(node) = fields.get("tls")
        && let Some(tls) = reader.fields(node, &["insecure", "ca"])
    {
        transport.insecure = tls.get("insecure").and_then(|node| reader.bool(node)) == Some(true);
        transport.ca = tls.get("ca").and_then(|node| reader.text(node)).map(PathBuf::from);
        if transport.insecure && transport.ca.is_some() {
            reader.fault(node, "`insecure` trusts everybody, `ca` only some; not both");
        }
    }
    // The command line says the whole of what is trusted.
    if overrides.insecure || overrides.ca.is_some() {
        transport.insecure = overrides.insecure;
        transport.ca.clone_from(&overrides.ca);
    }
    transport
}

fn read_data(reader: &mut Reader, node: &Node) -> Vec<(String, Vec<Value>)> {
    let Tree::Map(entries) = &node.tree else {
        reader.fault(node, format!("`data` is a mapping of lists, not {}", node.kind()));
        return Vec::new();
    };
    let mut data = Vec::new();
    for (key, node) in entries {
        match &node.tree {
            Tree::List(items) if !items.is_empty() => {
                data.push((key.name.clone(), items.iter().map(Node::to_json).collect()));
            }
            _ => reader.fault(node, format!("`{}` is a list with at least one item", key.name)),
        }
    }
    data
}

fn read_watch(reader: &mut Reader, node: &Node) -> Option<Watch> {
    let fields = reader.fields(node, &["pid", "prometheus", "series"])?;
    let Some(pid) = fields.get("pid") else { return Some(Watch::Nothing) };
    match &pid.tree {
        Tree::Text(text) if text == "auto" => Some(Watch::Auto),
        Tree::Text(text) if text == "none" => Some(Watch::Nothing),
        Tree::Int(number) if u32::try_from(*number).is_ok_and(|pid| pid > 0) => {
            u32::try_from(*number).ok().map(Watch::Pid)
        }
        _ => {
            reader.fault(pid, "`pid` is auto, none or the number of a process");
            None
        }
    }
}

fn read_prometheus(
    reader: &mut Reader,
    node: &Node,
    common: &steps::Common<'_>,
) -> Option<Prometheus> {
    let Tree::Map(entries) = &node.tree else { return None };
    let get = |name: &str| entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
    let Some(prometheus) = get("prometheus") else {
        if let Some(node) = get("series") {
            reader.fault(node, "`series` says what of `prometheus` is kept");
        }
        return None;
    };
    let mut series = Vec::new();
    if let Some(node) = get("series") {
        series.extend(reader.list(node, "`series`").iter().filter_map(|item| reader.text(item)));
    }
    let text = reader.text(prometheus)?;
    if text.starts_with('/') {
        let request = steps::read_plain_get(reader, prometheus, common)?;
        return Some(Prometheus { target: None, request, series });
    }
    match Target::with_path(&text) {
        Ok((target, path)) => {
            let request = steps::bare_get(&path, target.authority());
            Some(Prometheus { target: Some(target), request, series })
        }
        Err(fault) => {
            reader.fault(prometheus, fault);
            None
        }
    }
}

fn chosen(
    reader: &mut Reader,
    flows: Vec<Flow>,
    kinds: Vec<Kind>,
    only: &[String],
) -> (Vec<Flow>, Vec<Kind>) {
    if only.is_empty() {
        return (flows, kinds);
    }
    for name in only {
        if !flows.iter().any(|flow| flow.name == *name) {
            let known: Vec<&str> = flows.iter().map(|flow| flow.name.as_str()).collect();
            let known = known.join(", ");
            reader.fault_of_overrides(format!("--only {name}: the mix has {known}"));
        }
    }
    let kept: Vec<bool> = flows.iter().map(|flow| only.contains(&flow.name)).collect();
    let flows = flows.into_iter().filter(|flow| only.contains(&flow.name)).collect();
    (flows, kinds::only(kinds, &kept))
}

/// The text of a shipped scenario.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

/// Thresholds that a run file holds as text.
///
/// # Errors
/// What is wrong with the first that is wrong.
pub(crate) fn thresholds(texts: &[String], endpoints: &[String]) -> Result<Vec<Slo>, String> {
    let rows = slo::Rows { names: endpoints, sockets: None };
    texts.iter().map(|text| slo::parse(text, rows)).collect()
}

/// Shared by the threads of a run.
pub(crate) type SharedPlan = Arc<Plan>;

#[cfg(test)]
mod tests;
