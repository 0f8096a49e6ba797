//! The use cases of every resource, and the workers that carry runs
//! out. Rules are here; the store saves what it is given, and the edge
//! only converts.

mod agents;
mod audit;
mod backup;
mod conversations;
mod denials;
mod episodes;
mod facts;
mod files;
mod goals;
mod graph;
mod graph_recall;
mod graph_stats;
mod guarded;
mod held;
mod idempotency;
mod keys;
mod limits;
mod live;
mod mcp_servers;
mod memories;
mod orgs;
mod places;
mod plans;
mod progress;
mod purges;
mod recall;
mod resources;
mod retention;
mod run_events;
mod runs;
mod sealing;
mod sessions;
mod tasks;
mod tickets;
mod tokens;
mod tools;
mod users;
mod webhooks;
mod workers;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::files::FileLimits;
use agentry_domain::limits::Limits;
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::ports::{Clock, Entropy};
use agentry_domain::tools::RunLimits;
use agentry_domain::{Caller, Result, Timestamp, WorkerId};
use agentry_llm::Models;
use agentry_store::Store;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

pub use agentry_store::backup::Backup;
pub use agentry_store::{
    AgentFilter, AuditFilter, FactFilter, GoalFilter, GraphBacklog, KeyFilter, McpServerFilter,
    MemoryFilter, MemorySought, Mention, NodeMerge, OrgFilter, PlanFilter, RunFilter,
    SessionFilter, Table, TaskFilter, UserFilter, WebhookFilter,
};
pub use audit::Actor;
pub use episodes::{
    EpisodeNew, EpisodeSeen, GraphActivity, GraphOptions, GraphPause, GraphStanding,
};
pub use files::FilePut;
pub use goals::GoalTree;
pub use graph::{
    GraphMade, ImportItem, ImportLine, ImportReport, LineFault, NodesFound, Reached, Subgraph,
    SubgraphAsked, SymbolEdge, SymbolEdges, SymbolQuery, Traverse, Traversed,
};
pub use graph_recall::{GRAPH_HITS_DEFAULT, GRAPH_HITS_MAX, GraphAsk, GraphHit, GraphItem};
pub use graph_stats::GraphStatsAt;
pub use keys::{KeyActivity, KeyMade, KeySeen};
pub use limits::{LimitActivity, limits_default};
pub use mcp_servers::{McpHealth, McpLimits, McpResult};
pub use memories::MemoryHit;
pub use retention::Retention;
pub use run_events::{RunCursor, RunEvent, RunEvents, RunHandle, RunNews, Told};
pub use runs::{AgentRef, Attendance, Forgetting, RunNew, SessionRef};
pub use sealing::SealingKey;
pub use sessions::MessageNew;
pub use tickets::{TICKET_LIFETIME_MAX, TicketMade};
pub use webhooks::{SECRET_BEFORE_SIGNS_FOR, WebhookActivity, WebhookLimits, WebhookMade};

/// The bounds of the use cases.
#[derive(Clone, Debug)]
pub struct Options {
    /// Runs that one session may have at once, waiting and running.
    pub session_queue_runs_max: u32,
    /// Runs of one organisation that may wait at once.
    pub org_queue_runs_max: u32,
    /// Runs that may wait at once, of all organisations together.
    pub queue_runs_max: u32,
    /// Runs that this process carries out at once.
    pub runs_executing_max: usize,
    /// How long this process's claims last when it falls silent.
    pub lease: Duration,
    /// How much the files of sessions may take.
    pub files: FileLimits,
    /// How long things are kept.
    pub retention: Retention,
    /// The bounds of webhooks.
    pub webhooks: WebhookLimits,
    /// How much callers may ask for, by tier.
    pub limits: Limits,
    /// How long refusals gather until the log is told of them.
    pub denials_gathered_for: Duration,
    /// The bounds of MCP servers.
    pub mcp: McpLimits,
    /// The bounds of a run that calls tools.
    pub run_limits: RunLimits,
    /// The bounds of the graph's memory.
    pub graph: GraphOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            session_queue_runs_max: 1_000,
            org_queue_runs_max: 20_000,
            queue_runs_max: 100_000,
            runs_executing_max: 2_000,
            lease: Duration::from_secs(15),
            files: FileLimits::default(),
            retention: Retention::default(),
            webhooks: WebhookLimits::default(),
            limits: limits_default(),
            denials_gathered_for: Duration::from_secs(60),
            mcp: McpLimits::default(),
            run_limits: RunLimits::default(),
            graph: GraphOptions::default(),
        }
    }
}

/// What the use cases work with.
pub struct Parts {
    /// Durable state.
    pub store: Arc<Store>,
    /// The model providers.
    pub models: Models,
    /// The same for the graph: what fails or hangs there takes no connection from a run,
    /// and opens no breaker of one.
    pub graph_models: Models,
    /// Calls webhooks; a guarded one.
    pub webhook_client: agentry_outbound::Client,
    /// Connects MCP servers; through a guarded client.
    pub mcp: agentry_mcp::Connector,
    /// Fetches pages for agents; a guarded one.
    pub fetch_client: agentry_outbound::Client,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes ids and secrets.
    pub entropy: Arc<dyn Entropy>,
    /// Owns what runs in the background.
    pub tasks: Tasks,
    /// Cancelled when the server begins to stop: connections that end from then on
    /// say nothing of their clients.
    pub closing: CancellationToken,
    /// The bounds.
    pub options: Options,
}

/// The use cases. A cheap handle; clones share everything.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    store: Arc<Store>,
    models: Models,
    graph_models: Models,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    tasks: Tasks,
    options: Options,
    worker: WorkerId,
    live: live::Live,
    held: held::HeldJobs,
    closing: CancellationToken,
    places: places::Places,
    /// A job may have become claimable.
    claimable: Notify,
    answers: runs::Answers,
    callers: keys::Callers,
    sealing_key: OnceLock<SealingKey>,
    webhook_client: agentry_outbound::Client,
    mcp_connector: agentry_mcp::Connector,
    mcp: mcp_servers::Connections,
    fetch_client: agentry_outbound::Client,
    /// Places for deliveries to webhooks in this process.
    delivering: webhooks::DeliveryPlaces,
    deliveries: webhooks::DeliveryCounts,
    /// A webhook was made or changed here.
    webhooks_changed: Notify,
    /// Places for imports of graphs.
    importing: Semaphore,
    key_uses: keys::KeyUses,
    counted: limits::Counted,
    denials: denials::Denials,
    holders: tokens::Holders,
    graph: episodes::GraphWork,
    graph_stats: graph_stats::StatsSeen,
}

impl Engine {
    /// Puts the use cases together. [`Engine::start_workers`] begins the work.
    pub fn new(parts: Parts) -> Self {
        let mcp_limits = parts.options.mcp;
        let worker = parts.entropy.uuid(parts.clock.now());
        Self(Arc::new(Inner {
            places: places::Places::new(parts.options.runs_executing_max),
            counted: limits::Counted::new(parts.options.limits),
            denials: denials::Denials::default(),
            holders: tokens::Holders::default(),
            closing: parts.closing,
            delivering: Arc::new(Semaphore::new(parts.options.webhooks.delivering_max)),
            deliveries: webhooks::DeliveryCounts::default(),
            graph: episodes::GraphWork::new(&parts.options.graph),
            graph_stats: graph_stats::StatsSeen::new(parts.options.graph.stats_age_max),
            store: parts.store,
            models: parts.models,
            graph_models: parts.graph_models,
            clock: parts.clock,
            entropy: parts.entropy,
            tasks: parts.tasks,
            options: parts.options,
            worker: WorkerId::from_uuid(worker),
            live: live::Live::default(),
            held: held::HeldJobs::default(),
            claimable: Notify::new(),
            answers: runs::Answers::default(),
            callers: keys::Callers::default(),
            sealing_key: OnceLock::new(),
            webhook_client: parts.webhook_client,
            mcp: mcp_servers::Connections::new(
                mcp_limits.connections_max,
                mcp_limits.server_calls_max,
            ),
            mcp_connector: parts.mcp,
            fetch_client: parts.fetch_client,
            webhooks_changed: Notify::new(),
            importing: Semaphore::new(graph::GRAPH_IMPORTS_MAX),
            key_uses: keys::KeyUses::default(),
        }))
    }

    /// The models that are configured, as `provider/model`.
    pub fn model_names(&self) -> Vec<String> {
        self.0.models.names()
    }

    /// The models themselves.
    pub fn models(&self) -> agentry_llm::Models {
        self.0.models.clone()
    }

    /// Whether the storage answers.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.0.store.ping().await?)
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn uuid(&self, now: Timestamp) -> uuid::Uuid {
        self.0.entropy.uuid(now)
    }
}

/// An entry of the log about something a caller did.
///
/// `data` is what somebody needs who follows: which version it is now and which
/// fields changed, and for messages and runs where they belong, so that a client
/// can tell what concerns it and whether what it has is old. It is not the thing
/// itself: that may have kilobytes, and would be written twice, and read by
/// people who may see events and not every field.
fn entry(
    caller: &Caller,
    at: Timestamp,
    kind: &'static str,
    entity: EntityKind,
    id: [u8; 16],
    data: String,
) -> LogEntry {
    LogEntry { at, kind, entity, id, actor: caller.key, address: caller.address, data }
}

/// What is said of a thing that was made or deleted.
fn version_data(version: i64) -> String {
    format!(r#"{{"version":{version}}}"#)
}
