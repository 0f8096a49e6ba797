//! The HTTP surfaces: REST under `/api/v1`, OpenAI's under `/v1`, and what the
//! server says about itself. Handlers extract, call the engine once and convert;
//! no rule of the business is learnt here.
//!
//! [`Api`] puts everything together behind the gateway's edge; [`openapi_json`]
//! is the document without a server.

pub mod admin_jobs;
pub mod aged;
pub mod agents;
pub mod answer;
pub mod audit;
pub mod backup;
pub mod chat;
pub mod conversations;
pub mod episodes;
pub mod error_pages;
pub mod events;
pub mod events_socket;
pub mod extract;
pub mod facts;
pub mod fields;
pub mod files;
pub mod goals;
pub mod graph;
pub mod graph_edges;
pub mod graph_import;
pub mod graph_nodes;
pub mod keys;
pub mod lists;
pub mod mcp_servers;
pub mod memories;
pub mod messages;
pub mod models;
pub mod openai;
pub mod openapi;
pub mod orgs;
pub mod plans;
pub mod problem;
pub mod response_items;
pub mod response_stream;
pub mod responses;
pub mod run_stream;
pub mod runs;
pub mod server;
pub mod sessions;
pub mod state;
pub mod tasks;
#[cfg(test)]
mod tests;
pub mod users;
pub mod webhooks;

use agentry_domain::limits::Work;
use agentry_domain::ports::Entropy;
use agentry_domain::{Error, Result};
use agentry_engine::Engine;
use agentry_events::Events;
use agentry_gateway::{Alias, App, Edge, Metrics, Operations, Readiness, Stop, op};
use bytes::Bytes;

pub use problem::render;

use state::{ApiState, Inner};

/// The HTTP surfaces, before the gateway's edge is put around them.
pub struct Api {
    engine: Engine,
    events: Events,
    metrics: Metrics,
    readiness: Readiness,
    stop: Stop,
}

impl Api {
    /// The surfaces of these use cases; `/metrics` and `/ready` show the others.
    pub fn new(
        engine: Engine,
        events: Events,
        metrics: Metrics,
        readiness: Readiness,
        stop: Stop,
    ) -> Self {
        Self { engine, events, metrics, readiness, stop }
    }

    /// The whole HTTP application. The edge must render errors with [`render`].
    pub fn behind(self, edge: Edge, entropy: &dyn Entropy) -> App {
        let Self { engine, events, metrics, readiness, stop } = self;
        let operations = operations();
        let document = document(&operations).map(Bytes::from).map_err(|error| error.chain());
        let state = ApiState::new(Inner { engine, events, metrics, readiness, stop, document });
        let (router, _document, table) = operations.finish(state, &edge.metrics);
        edge.around(router, table, ALIASES, entropy)
    }
}

/// Where parts of the API can be found beside their place.
const ALIASES: &[Alias] = &[
    Alias { from: "/api/v1/plans/tasks", to: "/api/v1/tasks" },
    Alias { from: "/api/graph", to: "/api/v1/graph" },
    Alias { from: "/events", to: "/api/v1/events" },
    Alias { from: "/ws", to: "/api/v1/ws" },
];

/// The OpenAPI document, as it is served at `/openapi.json`.
pub fn openapi_json() -> Result<String> {
    document(&operations())
}

fn document(operations: &Operations<ApiState>) -> Result<String> {
    let mut document = operations.document().clone();
    openapi::complete(&mut document, operations.rules());
    openapi::plain_paths(&mut document);
    openapi::without_unused(&mut document)?;
    document.to_pretty_json().map_err(Error::internal)
}

/// Every operation, with what it asks of its caller and its class.
fn operations() -> Operations<ApiState> {
    Operations::new(openapi::head())
        .with(op!(open, Probe, server::health_get))
        .with(op!(open, Probe, server::ready_get))
        .with(op!(open, Probe, server::openapi_get))
        .with(op!(open, Probe, error_pages::error_page_get))
        .with(op!(MetricsRead, Probe, server::metrics_get))
        .with(op!(AgentsWrite, Request, agents::agent_create))
        .with(op!(AgentsRead, Request, agents::agent_list))
        .with(op!(AgentsRead, Request, agents::agent_get))
        .with(op!(AgentsWrite, Request, agents::agent_update))
        .with(op!(AgentsWrite, Request, agents::agent_delete))
        .with(op!(AgentsRead, Request, agents::agent_summaries))
        .with(op!(SessionsWrite, Request, sessions::session_create))
        .with(op!(SessionsRead, Request, sessions::session_list))
        .with(op!(SessionsRead, Request, sessions::session_get))
        .with(op!(SessionsWrite, Request, sessions::session_update))
        .with(op!(SessionsWrite, Request, sessions::session_delete))
        .with(op!(SessionsRead, Request, messages::message_list))
        .with(op!(SessionsWrite, Request, messages::message_append))
        .with(op!(MemoriesWrite, Request, memories::memory_create).limited(Work::MemoryCreate))
        .with(
            op!(MemoriesWrite, Request, memories::memory_create_batch).limited(Work::MemoryCreate),
        )
        .with(op!(MemoriesRead, Request, memories::memory_search).limited(Work::Read))
        .with(op!(MemoriesRead, Request, memories::memory_list))
        .with(op!(MemoriesRead, Request, memories::memory_get))
        .with(op!(MemoriesWrite, Request, memories::memory_update))
        .with(op!(MemoriesWrite, Request, memories::memory_delete))
        .with(op!(GraphRead, Request, graph::graph_stats))
        .with(op!(GraphRead, Request, graph::graph_category))
        .with(op!(GraphRead, Request, graph::graph_traverse))
        .with(op!(GraphRead, Request, graph::graph_call_chain))
        .with(op!(GraphRead, Request, graph::graph_subgraph))
        .with(op!(GraphRead, Request, graph::graph_subgraph_query))
        .with(op!(GraphRead, Request, graph::graph_symbol))
        .with(op!(GraphWrite, Import, graph_import::graph_import))
        .with(op!(GraphWrite, Request, graph_nodes::node_create))
        .with(op!(GraphRead, Request, graph_nodes::node_list))
        .with(op!(GraphRead, Request, graph_nodes::node_search))
        .with(op!(GraphRead, Request, graph_nodes::node_get))
        .with(op!(GraphWrite, Request, graph_nodes::node_update))
        .with(op!(GraphWrite, Request, graph_nodes::node_delete))
        .with(op!(GraphWrite, Request, graph_edges::edge_create))
        .with(op!(GraphRead, Request, graph_edges::edge_list))
        .with(op!(GraphRead, Request, graph_edges::edge_get))
        .with(op!(GraphWrite, Request, graph_edges::edge_update))
        .with(op!(GraphWrite, Request, graph_edges::edge_delete))
        .with(op!(GraphWrite, Request, facts::node_merge))
        .with(op!(GraphWrite, Request, facts::node_unmerge))
        .with(op!(GraphWrite, Request, episodes::episode_create))
        .with(op!(GraphRead, Request, episodes::episode_list))
        .with(op!(GraphRead, Request, episodes::episode_get))
        .with(op!(Administer, Request, episodes::episode_retry))
        .with(op!(Administer, Request, episodes::episode_drop))
        .with(op!(GraphRead, Request, facts::fact_list))
        .with(op!(GraphRead, Request, facts::fact_get))
        .with(op!(GraphRead, Request, facts::graph_search))
        .with(op!(KeysWrite, Request, keys::key_create))
        .with(op!(KeysRead, Request, keys::key_list))
        .with(op!(KeysRead, Request, keys::key_get))
        .with(op!(KeysWrite, Request, keys::key_update))
        .with(op!(KeysWrite, Request, keys::key_delete))
        .with(op!(OrgsWrite, Request, orgs::org_create))
        .with(op!(OrgsRead, Request, orgs::org_list))
        .with(op!(OrgsRead, Request, orgs::org_get))
        .with(op!(OrgsWrite, Request, orgs::org_update))
        .with(op!(AuditRead, Request, audit::audit_list))
        .with(op!(SessionsRead, Request, files::file_list))
        .with(op!(SessionsWrite, Transfer, files::file_put))
        .with(op!(SessionsRead, Transfer, files::file_get))
        .with(op!(SessionsWrite, Transfer, files::file_delete))
        .with(op!(RunsWrite, Run, runs::run_create))
        .with(op!(RunsWrite, Run, runs::run_create_by_name))
        .with(op!(RunsRead, Request, runs::run_list))
        .with(op!(RunsRead, Request, runs::run_get))
        .with(op!(RunsRead, Stream, run_stream::run_event_stream))
        .with(op!(RunsWrite, Request, runs::run_cancel))
        .with(op!(RunsRead, Run, runs::run_wait).limited(Work::Read))
        .with(op!(UsersWrite, Request, users::user_create))
        .with(op!(UsersRead, Request, users::user_list))
        .with(op!(UsersRead, Request, users::user_get))
        .with(op!(UsersWrite, Request, users::user_update))
        .with(op!(UsersWrite, Request, users::user_put))
        .with(op!(UsersWrite, Request, users::user_delete))
        .with(op!(GoalsWrite, Request, goals::goal_create))
        .with(op!(GoalsRead, Request, goals::goal_list))
        .with(op!(GoalsRead, Request, goals::goal_get))
        .with(op!(GoalsWrite, Request, goals::goal_update))
        .with(op!(GoalsWrite, Request, goals::goal_delete))
        .with(op!(GoalsRead, Request, goals::goal_tree))
        .with(op!(GoalsWrite, Request, plans::plan_create))
        .with(op!(GoalsRead, Request, plans::plan_list))
        .with(op!(GoalsRead, Request, plans::plan_get))
        .with(op!(GoalsWrite, Request, plans::plan_update))
        .with(op!(GoalsWrite, Request, plans::plan_delete))
        .with(op!(GoalsWrite, Request, tasks::task_create))
        .with(op!(GoalsRead, Request, tasks::task_list))
        .with(op!(GoalsRead, Request, tasks::task_get))
        .with(op!(GoalsWrite, Request, tasks::task_update))
        .with(op!(GoalsWrite, Request, tasks::task_delete))
        .with(op!(Administer, Request, admin_jobs::admin_job_list))
        .with(op!(Administer, Request, admin_jobs::admin_job_get))
        .with(op!(RunsWrite, Run, chat::chat_completion_create))
        .with(op!(RunsWrite, Run, responses::response_create))
        .with(op!(RunsRead, Stream, responses::response_get))
        .with(op!(RunsWrite, Request, responses::response_delete))
        .with(op!(RunsWrite, Request, responses::response_cancel))
        .with(op!(RunsRead, Request, responses::response_input_list))
        .with(op!(SessionsWrite, Request, conversations::conversation_create))
        .with(op!(SessionsRead, Request, conversations::conversation_get))
        .with(op!(SessionsWrite, Request, conversations::conversation_update))
        .with(op!(SessionsWrite, Request, conversations::conversation_delete))
        .with(op!(SessionsRead, Request, conversations::conversation_item_list))
        .with(op!(SessionsWrite, Request, conversations::conversation_item_create))
        .with(op!(SessionsRead, Request, conversations::conversation_item_get))
        .with(op!(SessionsWrite, Request, conversations::conversation_item_delete))
        .with(op!(AgentsRead, Request, models::model_list))
        .with(op!(AgentsRead, Request, models::model_get))
        .with(op!(EventsRead, Stream, events::event_stream))
        .with(op!(EventsRead, Stream, events_socket::event_socket))
        .with(op!(EventsRead, Stream, events_socket::event_socket_filtered))
        .with(op!(EventsRead, Request, events::event_status))
        .with(op!(EventsRead, Request, events::ticket_create))
        .with(op!(WebhooksWrite, Request, webhooks::webhook_create))
        .with(op!(WebhooksRead, Request, webhooks::webhook_list))
        .with(op!(WebhooksRead, Request, webhooks::webhook_get))
        .with(op!(WebhooksWrite, Request, webhooks::webhook_update))
        .with(op!(WebhooksWrite, Request, webhooks::webhook_delete))
        .with(op!(WebhooksWrite, Request, webhooks::webhook_rotate))
        .with(op!(WebhooksWrite, Request, webhooks::webhook_ping))
        .with(op!(WebhooksWrite, Request, webhooks::webhook_replay))
        .with(op!(WebhooksRead, Request, webhooks::webhook_delivery_list))
        .with(op!(WebhooksWrite, Request, webhooks::webhook_delivery_retry))
        .with(op!(McpWrite, Request, mcp_servers::mcp_server_create))
        .with(op!(McpRead, Request, mcp_servers::mcp_server_list))
        .with(op!(McpRead, Request, mcp_servers::mcp_server_get))
        .with(op!(McpWrite, Request, mcp_servers::mcp_server_update))
        .with(op!(McpWrite, Request, mcp_servers::mcp_server_delete))
        .with(op!(McpWrite, Run, mcp_servers::mcp_server_start))
        .with(op!(McpWrite, Run, mcp_servers::mcp_server_stop))
        .with(op!(McpWrite, Run, mcp_servers::mcp_server_restart))
        .with(op!(McpRead, Run, mcp_servers::mcp_server_health))
        .with(op!(McpRead, Run, mcp_servers::mcp_tool_list))
        .with(op!(McpWrite, Request, mcp_servers::mcp_tool_approve))
        .with(op!(ToolsCall, Run, mcp_servers::mcp_tool_call))
        .with(op!(McpRead, Run, mcp_servers::mcp_resource_list))
        .with(op!(Administer, Run, backup::backup_create).limited(Work::Other))
}
