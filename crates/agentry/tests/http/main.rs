//! The HTTP contract, at the HTTP boundary: the real binary, real sockets, a
//! fresh store for each test, on both engines. The modules mirror the URL tree.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod access;
mod agents;
mod audit;
mod bad_input;
mod crud;
mod durability;
mod edge;
mod events;
mod events_clients;
mod events_crowd;
mod files;
mod goals;
mod graph;
mod graph_groups;
mod graph_import;
mod graph_memory;
mod graph_models;
mod idempotency;
mod keys;
mod keys_command;
mod limits;
mod mcp_bed;
mod mcp_servers;
mod memories;
mod model_clients;
mod model_faults;
mod openai;
mod openai_clients;
mod plans;
mod production;
mod purges;
mod receiver;
mod retention;
mod rfc6455;
mod run_reader;
mod run_streams;
mod run_streams_crowd;
mod runs;
mod runs_bed;
mod runs_busy;
mod runs_cancel;
mod runs_queue;
mod schemathesis;
mod seeing;
mod server;
mod sessions;
mod socket;
mod tasks;
mod tokens;
mod tools;
mod users;
mod webhooks;

/// Makes a test of an async function for each engine.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::server::Engine::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::server::Engine::Postgres).await;
            })*
        }
    };
}
pub(crate) use on_both_engines;
