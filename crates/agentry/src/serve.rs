//! `agentry serve`: wires the parts together, listens, and stops in order.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentry_api::Api;
use agentry_domain::background::Tasks;
use agentry_domain::ports::{Authenticate, SystemClock, SystemEntropy};
use agentry_domain::tokens::Claims;
use agentry_domain::{Caller, Result};
use agentry_engine::{Engine, Parts};
use agentry_events::Events;
use agentry_gateway::{AccessMode, Edge, Metrics, Readiness, Stop, Tokens, serve};
use agentry_llm::Models;
use agentry_store::Store;
use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::event_metrics;
use crate::graph_metrics;
use crate::local::Announced;
use crate::owner;
use crate::sealing;
use crate::settings::{Auth, Settings};
use crate::telemetry;
use crate::{
    key_metrics, limit_metrics, model_metrics, process_metrics, store_metrics, task_metrics,
    token_metrics, webhook_metrics,
};

/// How long background tasks may take to end, once the last connection closed.
const TASKS_END_WITHIN: Duration = Duration::from_secs(10);
/// How often the storage is asked whether it answers.
const STORAGE_ASKED_EVERY: Duration = Duration::from_secs(2);

/// Everybody is the owner: `--auth none`.
struct Anyone(Caller);

#[async_trait::async_trait]
impl Authenticate for Anyone {
    async fn authenticate(&self, _secret: &str) -> Result<Caller> {
        Ok(self.0)
    }

    async fn redeem(&self, _ticket: &str) -> Result<Caller> {
        Ok(self.0)
    }

    async fn accept_token(&self, _claims: &Claims) -> Result<Caller> {
        Ok(self.0)
    }
}

/// Serves until a signal says to stop.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    // Until the end: the last spans go when it is dropped.
    let _telemetry = telemetry::start(&settings)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve_until_stopped(settings))
}

async fn serve_until_stopped(settings: Settings) -> anyhow::Result<()> {
    let tasks = Tasks::default();
    let store = open(&settings).await?;
    let entropy = Arc::new(SystemEntropy::default());
    let stop = Stop::new();
    let events = Events::start(agentry_events::Parts {
        store: Arc::clone(&store),
        clock: Arc::new(SystemClock),
        tasks: tasks.clone(),
        options: settings.events_options(),
        closing: stop.closing(),
    });
    let engine = engine(&settings, &store, entropy.clone(), &tasks, stop.closing())?;
    owner::ensure(&engine, &settings.data).await?;
    sealing::ensure(&engine, &settings).await?;
    engine.start_workers().await?;

    let metrics = Metrics::new();
    store_metrics::register(&metrics, Arc::clone(&store));
    event_metrics::register(&metrics, events.clone());
    model_metrics::register(&metrics, engine.models());
    task_metrics::register(&metrics, tasks.clone());
    webhook_metrics::register(&metrics, engine.clone());
    limit_metrics::register(&metrics, engine.clone());
    key_metrics::register(&metrics, engine.clone());
    process_metrics::register(&metrics);
    let readiness = Readiness::new();
    watch_storage(&engine, &readiness, &tasks);
    let noted = settings.graph_options().backlog_episodes_noted;
    graph_metrics::register(&metrics, &readiness, &engine, noted);

    let api =
        Api::new(engine.clone(), events.clone(), metrics.clone(), readiness.clone(), stop.clone());
    let (mode, authenticate): (_, Arc<dyn Authenticate>) = match settings.auth {
        Auth::Keys => (AccessMode::Keys, Arc::new(engine.clone())),
        Auth::None => (AccessMode::Loopback, Arc::new(Anyone(engine.anyone()))),
    };
    let tokens = tokens(&settings, &tasks)?;
    if let Some(tokens) = &tokens {
        token_metrics::register(&metrics, tokens.clone());
    }
    let edge = Edge {
        options: settings.edge_options(),
        mode,
        authenticate,
        tokens,
        limit: Arc::new(engine.clone()),
        audit: Arc::new(engine.clone()),
        metrics: metrics.clone(),
        render: agentry_api::render,
        tasks: tasks.clone(),
    };
    let app = api.behind(edge, entropy.as_ref());

    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("listening on {}", settings.listen))?;
    stop_on_signals(&stop, &tasks)?;
    let announced = announce(&listener, &settings.data)?;
    let options = settings.serve_options();
    serve(listener, app, &options, &metrics, &readiness, &tasks, &stop).await;

    drop(announced);
    if !tasks.stop(TASKS_END_WITHIN).await {
        tracing::warn!("some tasks did not end in time; their runs go on at the next start");
    }
    // Tells the other processes at once; without it they find out when the
    // lease ends.
    if let Err(error) = engine.stop_workers().await {
        tracing::warn!(error = %error.chain(), "the lease could not be given up");
    }
    store.close().await;
    Ok(())
}

/// Opens the store that the settings name.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Arc<Store>> {
    let store = Store::open(&settings.store_options())
        .await
        .map_err(agentry_domain::Error::from)
        .map_err(|error| anyhow::anyhow!(error.chain()))
        .context("opening the store")?;
    Ok(Arc::new(store))
}

/// The use cases on a store.
pub(crate) fn engine(
    settings: &Settings,
    store: &Arc<Store>,
    entropy: Arc<SystemEntropy>,
    tasks: &Tasks,
    closing: CancellationToken,
) -> anyhow::Result<Engine> {
    let webhook_client = agentry_outbound::Client::guarded(&settings.webhook_outbound())?;
    let mcp_client = agentry_outbound::Client::guarded(&settings.mcp_outbound())?;
    let mcp = agentry_mcp::Connector::new(mcp_client, settings.mcp_options(), tasks.clone());
    let fetch_client = agentry_outbound::Client::guarded(&settings.fetch_outbound())?;
    let providers = agentry_llm::Options {
        providers: settings.providers.clone(),
        outbound: settings.outbound.clone(),
    };
    let graph_providers =
        agentry_llm::Options { outbound: settings.graph_outbound(), ..providers.clone() };
    let graph_models = Models::new(&graph_providers)?;
    let graph = settings.graph_options();
    if let Some(model) = &graph.extraction_model {
        let found =
            graph_models.resolve(model).map_err(|error| named("graph.extraction_model", &error))?;
        anyhow::ensure!(!found.quotes(), "graph.extraction_model: {model} only quotes");
    }
    if let Some(model) = &graph.embedding_model {
        graph_models.embedder(model).map_err(|error| named("graph.embedding_model", &error))?;
    }
    Ok(Engine::new(Parts {
        store: Arc::clone(store),
        models: Models::new(&providers)?,
        graph_models,
        webhook_client,
        mcp,
        fetch_client,
        clock: Arc::new(SystemClock),
        entropy,
        tasks: tasks.clone(),
        closing,
        options: settings.engine_options(),
    }))
}

/// A setting's model that cannot be asked.
fn named(setting: &str, error: &agentry_domain::Error) -> anyhow::Error {
    anyhow::anyhow!("{setting}: {}", error.detail)
}

/// What checks an identity provider's tokens, when there is one.
fn tokens(settings: &Settings, tasks: &Tasks) -> anyhow::Result<Option<Tokens>> {
    let Some(options) = settings.token_options()? else { return Ok(None) };
    // Whoever configures this server says where the keys are, as with providers.
    let tokens = Tokens::new(options, agentry_outbound::Client::new(&settings.outbound)?);
    tokens.keep(tasks);
    Ok(Some(tokens))
}

/// Says where: on stdout, in one line, and to commands on this machine.
fn announce(listener: &TcpListener, data: &Path) -> anyhow::Result<Option<Announced>> {
    let url = format!("http://{}", listener.local_addr()?);
    // A full disk is no reason not to serve what is on it.
    let announced = Announced::write(data, &url);
    if let Err(error) = &announced {
        tracing::warn!(%error, "commands on this machine will not find this server");
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on {url}")?;
    stdout.flush()?;
    Ok(announced.ok())
}

/// Keeps the readiness check of the storage current.
fn watch_storage(engine: &Engine, readiness: &Readiness, tasks: &Tasks) {
    let storage = readiness.flag("storage");
    // It answered a moment ago, when the owner was looked up.
    storage.set(true);
    let (engine, stopping) = (engine.clone(), tasks.stopping().clone());
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(STORAGE_ASKED_EVERY) => {}
            }
            let answers = engine.ping().await;
            if let Err(error) = &answers {
                tracing::error!(error = %error.chain(), "the storage does not answer");
            }
            storage.set(answers.is_ok());
        }
    });
}

/// The first SIGTERM or SIGINT lets requests finish, the second ends at once.
fn stop_on_signals(stop: &Stop, tasks: &Tasks) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopping) = (stop.clone(), tasks.stopping().clone());
    tasks.spawn(async move {
        for round in 0.. {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if round == 0 {
                tracing::info!("stopping: requests under way may finish");
                stop.begin();
            } else {
                tracing::info!("stopping at once");
                stop.now();
            }
        }
    });
    Ok(())
}
