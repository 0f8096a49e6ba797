//! The settings: the default file that is compiled in, a file, the environment
//! and the flags, each over the one before it. Unknown keys are refused.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentry_domain::limits::{Limits, Rate, TierLimits};
use agentry_domain::mcp_servers::MCP_TIMEOUT_MS_MAX;
use agentry_domain::tools::RunLimits;
use agentry_domain::{Role, Tier};
use agentry_engine::SealingKey;
use agentry_gateway::{EdgeOptions, KeySource, ServeOptions, TokenOptions, TrustedProxies};
use agentry_llm::ProviderOptions;
use anyhow::Context as _;
use config::{Config, Environment, File, FileFormat};
use serde::Deserialize;

/// The commented file with every setting.
pub(crate) const DEFAULT_FILE: &str = include_str!("../../../config.default.toml");

/// Who may use the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Auth {
    /// Whoever shows an API key.
    Keys,
    /// Everybody on this machine.
    None,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Every setting; config.default.toml says what each means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) database: Option<String>,
    #[serde(default, deserialize_with = "sealing_key")]
    pub(crate) sealing_key: Option<SealingKey>,
    pub(crate) replicas: NonZeroU32,
    pub(crate) auth: Auth,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) http: Http,
    pub(crate) tokens: TokenSettings,
    pub(crate) limits: BTreeMap<String, TierSettings>,
    pub(crate) audit: AuditSettings,
    pub(crate) traces: Traces,
    pub(crate) files: Files,
    pub(crate) runs: Runs,
    pub(crate) retention: Retention,
    pub(crate) store: Store,
    pub(crate) events: Events,
    pub(crate) webhooks: Webhooks,
    pub(crate) graph: Graph,
    pub(crate) mcp: Mcp,
    pub(crate) tools: Tools,
    pub(crate) outbound: agentry_outbound::Options,
    pub(crate) providers: BTreeMap<String, ProviderOptions>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    body_bytes_max: usize,
    connections_max: usize,
    requests_in_flight_max: usize,
    streams_in_flight_max: usize,
    subscriptions_max: usize,
    queue_requests_max: usize,
    queue_org_requests_max: usize,
    queue_wait_ms: u64,
    #[serde(deserialize_with = "list")]
    origins: Vec<String>,
    auth_failures_per_minute: u32,
    auth_failures_burst: u32,
    #[serde(deserialize_with = "list")]
    trusted_proxies: Vec<String>,
    compressed_bytes_min: u64,
    header_read_ms: u64,
    write_stall_ms: u64,
    idle_ms: u64,
    request_ms: u64,
    transfer_ms: u64,
    notice_ms: u64,
    drain_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenSettings {
    jwks_file: Option<PathBuf>,
    jwks_url: Option<String>,
    issuer: String,
    #[serde(deserialize_with = "list")]
    audiences: Vec<String>,
    org_claim: String,
    user_claim: String,
    role_claim: String,
    role_default: Option<String>,
    may_administer: bool,
    refresh_ms: u64,
}

/// The numbers of a tier; 0 is none.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TierSettings {
    key_per_minute: u32,
    key_burst: u32,
    user_per_minute: u32,
    user_burst: u32,
    org_per_minute: u32,
    org_burst: u32,
    reads_per_minute: u32,
    reads_burst: u32,
    memory_creation_per_minute: u32,
    memory_creation_burst: u32,
    runs_per_minute: u32,
    runs_burst: u32,
    daily_requests: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Traces {
    pub(crate) endpoint: Option<String>,
    pub(crate) sampled: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditSettings {
    denials_gathered_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    file_bytes_max: usize,
    session_bytes_max: u64,
    session_files_max: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runs {
    session_queue_runs_max: u32,
    org_queue_runs_max: u32,
    queue_runs_max: u32,
    executing_max: usize,
    lease_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    sessions_s: u64,
    runs_s: u64,
    admin_jobs_s: u64,
    uploads_s: u64,
    every_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    writes_waiting_max: usize,
    postgres_readers_max: usize,
    postgres_writers_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Events {
    ring_bytes_max: usize,
    retention_hours: u64,
    retention_entries_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Graph {
    enabled: bool,
    group_queue_episodes_max: u32,
    drawing_max: usize,
    backlog_episodes_noted: u64,
    stats_age_max_s: u64,
    models_paused_from_episodes: u64,
    drawing_paused_from_episodes: u64,
    #[serde(default)]
    extraction_model: Option<String>,
    extraction_batch_tokens: u32,
    extraction_idle_ms: u64,
    extraction_timeout_ms: u64,
    extracting_max: usize,
    model_breaker_open_ms: u64,
    #[serde(default)]
    embedding_model: Option<String>,
    embedding_wait_ms: u64,
    vectors_bytes_max: usize,
    import_bytes_max: usize,
    import_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhooks {
    org_webhooks_max: u32,
    timeout_ms: u64,
    attempts_max: u32,
    backoff_min_ms: u64,
    backoff_max_ms: u64,
    deliveries_kept_max: u32,
    delivering_max: usize,
}

/// Reads a list or, as the environment has one, a text with commas.
fn list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Given::deserialize(from)? {
        Given::List(list) => list,
        Given::Text(text) => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mcp {
    org_servers_max: u32,
    connect_timeout_ms: u64,
    connections_max: usize,
    server_calls_max: usize,
    message_bytes_max: usize,
    catalogue_age_max_ms: u64,
    stdio_allowed: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tools {
    steps_max: u32,
    tool_calls_max: u32,
    parallel_calls_max: u32,
    tokens_max: u64,
    cost_nanos_max: u64,
    time_ms_max: u64,
    output_bytes_max: u64,
    call_output_bytes_max: u64,
    history_output_bytes_max: u64,
    call_timeout_ms: u64,
}

/// Reads the sealing key; what it says is in no message.
fn sealing_key<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SealingKey>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let key = SealingKey::parse(&text);
    key.map(Some).ok_or_else(|| serde::de::Error::custom("must be 32 bytes in base-64"))
}

/// One process's part of a rate, rounded up; none for 0 a minute, and a burst of 0 is as
/// much as comes in a minute.
fn rate(per_minute: u32, burst: u32, replicas: NonZeroU32) -> Option<Rate> {
    let part = |of: u32| NonZeroU32::new(of.div_ceil(replicas.get()));
    let per_minute = part(per_minute)?;
    Some(Rate { per_minute, burst: part(burst).unwrap_or(per_minute) })
}

impl TierSettings {
    fn limits(&self, replicas: NonZeroU32) -> TierLimits {
        let rate = |per_minute, burst| rate(per_minute, burst, replicas);
        TierLimits {
            key: rate(self.key_per_minute, self.key_burst),
            user: rate(self.user_per_minute, self.user_burst),
            org: rate(self.org_per_minute, self.org_burst),
            reads: rate(self.reads_per_minute, self.reads_burst),
            memory_creation: rate(self.memory_creation_per_minute, self.memory_creation_burst),
            runs: rate(self.runs_per_minute, self.runs_burst),
            daily_requests: (self.daily_requests > 0).then_some(self.daily_requests),
        }
    }
}

/// What the flags say; what they do not say comes from elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) database: Option<String>,
    pub(crate) auth: Option<Auth>,
    pub(crate) graph: Option<Switch>,
}

/// Bytes of a webhook's answer that are read at most.
const WEBHOOK_ANSWER_BYTES_MAX: u64 = 64 * 1_024;
/// Bytes of a page that are read for an agent at most.
const FETCH_BYTES_MAX: u64 = 2 * 1_024 * 1_024;
/// Unused connections that are kept for each host that pages come from.
const FETCH_IDLE_CONNECTIONS_MAX: usize = 1;
/// Unused connections that are kept for each host that webhooks are at.
const WEBHOOK_IDLE_CONNECTIONS_MAX: usize = 2;

/// The first part of a setting's name in the environment.
const ENVIRONMENT_PREFIX: &str = "AGENTRY";

impl Settings {
    /// Reads the settings of this process.
    pub(crate) fn load(file: Option<&Path>, flags: &Flags) -> anyhow::Result<Self> {
        Self::load_from(file, flags, std::env::vars().collect())
    }

    fn load_from(
        file: Option<&Path>,
        flags: &Flags,
        environment: HashMap<String, String>,
    ) -> anyhow::Result<Self> {
        let defaults = Config::builder()
            .add_source(File::from_str(DEFAULT_FILE, FileFormat::Toml))
            .build()
            .context("the default settings")?;
        let known: Vec<String> = defaults
            .cache
            .clone()
            .into_table()?
            .into_keys()
            .chain(["database".to_owned(), "sealing_key".to_owned()])
            .map(|key| format!("{ENVIRONMENT_PREFIX}_{}", key.to_ascii_uppercase()))
            .collect();
        // Other programs' variables may begin with AGENTRY_ too (a client's key,
        // say); only what is meant as a setting is read as one.
        let ours = environment
            .into_iter()
            .filter(|(name, _)| {
                known.iter().any(|known| {
                    name.strip_prefix(known.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with("__"))
                })
            })
            .collect();
        let mut builder = Config::builder().add_source(defaults);
        if let Some(file) = file {
            builder = builder.add_source(File::from(file).format(FileFormat::Toml));
        }
        let settings: Settings = builder
            .add_source(
                Environment::with_prefix(ENVIRONMENT_PREFIX)
                    .prefix_separator("_")
                    .separator("__")
                    .source(Some(ours)),
            )
            .set_override_option("listen", flags.listen.map(|listen| listen.to_string()))?
            .set_override_option(
                "data",
                flags.data.as_ref().map(|data| data.to_string_lossy().into_owned()),
            )?
            .set_override_option("database", flags.database.clone())?
            .set_override_option("graph.enabled", flags.graph.map(|graph| graph == Switch::On))?
            .set_override_option(
                "auth",
                flags.auth.map(|auth| match auth {
                    Auth::Keys => "keys",
                    Auth::None => "none",
                }),
            )?
            .build()
            .and_then(Config::try_deserialize)
            .context("the settings cannot be read")?;
        settings.check()?;
        Ok(settings)
    }

    /// Refuses combinations that are dangerous or cannot work.
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.auth == Auth::Keys || self.listen.ip().is_loopback(),
            "auth = \"none\" is for a loopback address only, not for {}",
            self.listen
        );
        // Who reaches this server from elsewhere must not reach what listens on
        // this machine alone.
        anyhow::ensure!(
            !self.outbound.loopback_targets_allowed || self.listen.ip().is_loopback(),
            "outbound.loopback_targets_allowed is for a server on a loopback address only, not \
             for {}",
            self.listen
        );
        let positive = [
            ("http.body_bytes_max", self.http.body_bytes_max),
            ("files.file_bytes_max", self.files.file_bytes_max),
            ("http.connections_max", self.http.connections_max),
            ("http.requests_in_flight_max", self.http.requests_in_flight_max),
            ("http.streams_in_flight_max", self.http.streams_in_flight_max),
            ("http.subscriptions_max", self.http.subscriptions_max),
            ("events.ring_bytes_max", self.events.ring_bytes_max),
            ("runs.executing_max", self.runs.executing_max),
            ("graph.import_bytes_max", self.graph.import_bytes_max),
            ("graph.drawing_max", self.graph.drawing_max),
            ("graph.extracting_max", self.graph.extracting_max),
            ("graph.group_queue_episodes_max", self.graph.group_queue_episodes_max as usize),
            ("webhooks.delivering_max", self.webhooks.delivering_max),
            ("mcp.connections_max", self.mcp.connections_max),
            ("mcp.server_calls_max", self.mcp.server_calls_max),
            ("mcp.message_bytes_max", self.mcp.message_bytes_max),
            ("tools.steps_max", self.tools.steps_max as usize),
            ("tools.parallel_calls_max", self.tools.parallel_calls_max as usize),
            ("webhooks.attempts_max", self.webhooks.attempts_max as usize),
            ("webhooks.deliveries_kept_max", self.webhooks.deliveries_kept_max as usize),
            ("store.writes_waiting_max", self.store.writes_waiting_max),
            ("store.postgres_readers_max", self.store.postgres_readers_max),
            ("store.postgres_writers_max", self.store.postgres_writers_max),
        ];
        for (name, value) in positive {
            anyhow::ensure!(value > 0, "{name} must be at least 1");
        }
        for name in self.limits.keys() {
            anyhow::ensure!(Tier::parse(name).is_some(), "limits.{name}: there is no such tier");
        }
        self.trusted_proxies()?;
        self.token_options()?;
        anyhow::ensure!(
            (0.0..=1.0).contains(&self.traces.sampled),
            "traces.sampled must be from 0 to 1"
        );
        for (name, value) in [
            ("session_queue_runs_max", self.runs.session_queue_runs_max),
            ("org_queue_runs_max", self.runs.org_queue_runs_max),
            ("queue_runs_max", self.runs.queue_runs_max),
        ] {
            anyhow::ensure!(value > 0, "runs.{name} must be at least 1");
        }
        anyhow::ensure!(self.runs.lease_ms >= 1_000, "runs.lease_ms must be at least 1000");
        anyhow::ensure!(
            self.retention.uploads_s.saturating_mul(1_000) > self.http.transfer_ms,
            "retention.uploads_s must be longer than http.transfer_ms: a file may be arriving"
        );
        anyhow::ensure!(
            self.graph.drawing_paused_from_episodes >= self.graph.models_paused_from_episodes,
            "graph.drawing_paused_from_episodes must not be below graph.models_paused_from_episodes"
        );
        anyhow::ensure!(self.retention.every_ms >= 100, "retention.every_ms must be at least 100");
        Ok(())
    }

    pub(crate) fn store_options(&self) -> agentry_store::Options {
        agentry_store::Options {
            data: self.data.clone(),
            database: self.database.clone(),
            writes_waiting_max: self.store.writes_waiting_max,
            postgres_readers_max: self.store.postgres_readers_max,
            postgres_writers_max: self.store.postgres_writers_max,
        }
    }

    pub(crate) fn engine_options(&self) -> agentry_engine::Options {
        agentry_engine::Options {
            session_queue_runs_max: self.runs.session_queue_runs_max,
            org_queue_runs_max: self.runs.org_queue_runs_max,
            queue_runs_max: self.runs.queue_runs_max,
            runs_executing_max: self.runs.executing_max,
            lease: Duration::from_millis(self.runs.lease_ms),
            files: agentry_domain::files::FileLimits {
                file_bytes_max: self.files.file_bytes_max as u64,
                session_bytes_max: self.files.session_bytes_max,
                session_files_max: self.files.session_files_max,
            },
            retention: self.retention(),
            webhooks: self.webhook_limits(),
            limits: self.limits(),
            denials_gathered_for: Duration::from_millis(self.audit.denials_gathered_ms),
            mcp: self.mcp_limits(),
            run_limits: self.run_limits(),
            graph: self.graph_options(),
        }
    }

    pub(crate) fn graph_options(&self) -> agentry_engine::GraphOptions {
        agentry_engine::GraphOptions {
            enabled: self.graph.enabled,
            group_queue_episodes_max: self.graph.group_queue_episodes_max,
            drawing_max: self.graph.drawing_max,
            backlog_episodes_noted: self.graph.backlog_episodes_noted,
            stats_age_max: Duration::from_secs(self.graph.stats_age_max_s),
            models_paused_from_episodes: self.graph.models_paused_from_episodes,
            drawing_paused_from_episodes: self.graph.drawing_paused_from_episodes,
            extraction_model: self.graph.extraction_model.clone().filter(|_| self.graph.enabled),
            extraction_batch_tokens: self.graph.extraction_batch_tokens,
            extraction_idle: Duration::from_millis(self.graph.extraction_idle_ms),
            extraction_timeout: Duration::from_millis(self.graph.extraction_timeout_ms),
            extracting_max: self.graph.extracting_max,
            model_breaker_open: Duration::from_millis(self.graph.model_breaker_open_ms),
            embedding_model: self.graph.embedding_model.clone().filter(|_| self.graph.enabled),
            embedding_wait: Duration::from_millis(self.graph.embedding_wait_ms),
            vectors_bytes_max: self.graph.vectors_bytes_max,
        }
    }

    fn mcp_limits(&self) -> agentry_engine::McpLimits {
        agentry_engine::McpLimits {
            org_servers_max: self.mcp.org_servers_max,
            connect_timeout: Duration::from_millis(self.mcp.connect_timeout_ms),
            connections_max: self.mcp.connections_max,
            server_calls_max: self.mcp.server_calls_max,
            catalogue_age_max: Duration::from_millis(self.mcp.catalogue_age_max_ms),
            stdio_allowed: self.mcp.stdio_allowed,
        }
    }

    fn run_limits(&self) -> RunLimits {
        RunLimits {
            steps_max: self.tools.steps_max,
            tool_calls_max: self.tools.tool_calls_max,
            parallel_calls_max: self.tools.parallel_calls_max,
            tokens_max: self.tools.tokens_max,
            cost_nanos_max: (self.tools.cost_nanos_max > 0).then_some(self.tools.cost_nanos_max),
            time_ms_max: self.tools.time_ms_max,
            output_bytes_max: self.tools.output_bytes_max,
            call_output_bytes_max: self.tools.call_output_bytes_max,
            history_output_bytes_max: self.tools.history_output_bytes_max,
            call_timeout_ms: self.tools.call_timeout_ms,
        }
    }

    /// How MCP servers over HTTP are called: each call has its own deadline.
    pub(crate) fn mcp_outbound(&self) -> agentry_outbound::Options {
        agentry_outbound::Options {
            response_bytes_max: self.mcp.message_bytes_max as u64,
            first_byte_timeout_ms: MCP_TIMEOUT_MS_MAX.into(),
            idle_timeout_ms: MCP_TIMEOUT_MS_MAX.into(),
            ..self.outbound.clone()
        }
    }

    /// How connections to MCP servers are made.
    pub(crate) fn mcp_options(&self) -> agentry_mcp::Options {
        agentry_mcp::Options { message_bytes_max: self.mcp.message_bytes_max }
    }

    /// How models are asked for the graph: once, since its jobs come again by themselves,
    /// and no longer than the job waits.
    pub(crate) fn graph_outbound(&self) -> agentry_outbound::Options {
        agentry_outbound::Options {
            retries_max: 0,
            first_byte_timeout_ms: self.graph.extraction_timeout_ms,
            ..self.outbound.clone()
        }
    }

    /// How pages are fetched for agents.
    pub(crate) fn fetch_outbound(&self) -> agentry_outbound::Options {
        agentry_outbound::Options {
            response_bytes_max: FETCH_BYTES_MAX,
            idle_connections_per_host_max: FETCH_IDLE_CONNECTIONS_MAX,
            ..self.outbound.clone()
        }
    }

    /// How much callers may ask for.
    fn limits(&self) -> Limits {
        let of = |tier: Tier| {
            let of = self.limits.get(tier.as_str());
            of.map(|tier| tier.limits(self.replicas)).unwrap_or_default()
        };
        Limits {
            free: of(Tier::Free),
            standard: of(Tier::Standard),
            enterprise: of(Tier::Enterprise),
        }
    }

    /// Connections open at once at most.
    pub(crate) fn connections_max(&self) -> usize {
        self.http.connections_max
    }

    /// Whether some proxy is trusted to say whom it speaks for.
    pub(crate) fn has_trusted_proxies(&self) -> bool {
        !self.http.trusted_proxies.is_empty()
    }

    /// Whether keys are limited that nothing else is said of.
    pub(crate) fn limits_keys(&self) -> bool {
        self.limits().of(Tier::default()).key.is_some()
    }

    /// Whether credentials that are refused have a bound.
    pub(crate) fn limits_auth_failures(&self) -> bool {
        self.http.auth_failures_per_minute > 0
    }

    /// Whether balancers are given notice of a stop.
    pub(crate) fn notices(&self) -> bool {
        self.http.notice_ms > 0
    }

    fn trusted_proxies(&self) -> anyhow::Result<TrustedProxies> {
        TrustedProxies::parse(&self.http.trusted_proxies)
            .map_err(|text| anyhow::anyhow!("http.trusted_proxies: {text} is no network"))
    }

    /// Whose tokens are taken, if any are.
    pub(crate) fn token_options(&self) -> anyhow::Result<Option<TokenOptions>> {
        let tokens = &self.tokens;
        let keys = match (&tokens.jwks_file, &tokens.jwks_url) {
            (None, None) => return Ok(None),
            (Some(file), None) => KeySource::File(file.clone()),
            (None, Some(url)) => {
                let is_url = url.starts_with("https://") || url.starts_with("http://");
                anyhow::ensure!(is_url, "tokens.jwks_url: {url} is no URL");
                KeySource::Url(url.clone())
            }
            (Some(_), Some(_)) => anyhow::bail!("tokens: jwks_file or jwks_url, not both"),
        };
        anyhow::ensure!(!tokens.issuer.is_empty(), "tokens.issuer must be set");
        anyhow::ensure!(!tokens.audiences.is_empty(), "tokens.audiences must not be empty");
        anyhow::ensure!(tokens.refresh_ms >= 1_000, "tokens.refresh_ms must be at least 1000");
        let role = |text: &String| {
            Role::parse(text)
                .with_context(|| format!("tokens.role_default: there is no role {text}"))
        };
        Ok(Some(TokenOptions {
            keys,
            issuer: tokens.issuer.clone(),
            audiences: tokens.audiences.clone(),
            org_claim: tokens.org_claim.clone(),
            user_claim: tokens.user_claim.clone(),
            role_claim: tokens.role_claim.clone(),
            role_default: tokens.role_default.as_ref().map(role).transpose()?,
            may_administer: tokens.may_administer,
            refresh: Duration::from_millis(tokens.refresh_ms),
        }))
    }

    fn webhook_limits(&self) -> agentry_engine::WebhookLimits {
        agentry_engine::WebhookLimits {
            org_webhooks_max: self.webhooks.org_webhooks_max,
            timeout: Duration::from_millis(self.webhooks.timeout_ms),
            attempts_max: self.webhooks.attempts_max,
            backoff_min: Duration::from_millis(self.webhooks.backoff_min_ms),
            backoff_max: Duration::from_millis(self.webhooks.backoff_max_ms),
            deliveries_kept_max: self.webhooks.deliveries_kept_max,
            delivering_max: self.webhooks.delivering_max,
        }
    }

    /// How webhooks are called. Their answers mean nothing beside the status, and
    /// no more of them is read than lets a connection be used again.
    pub(crate) fn webhook_outbound(&self) -> agentry_outbound::Options {
        agentry_outbound::Options {
            response_bytes_max: WEBHOOK_ANSWER_BYTES_MAX,
            idle_connections_per_host_max: WEBHOOK_IDLE_CONNECTIONS_MAX,
            ..self.outbound.clone()
        }
    }

    fn retention(&self) -> agentry_engine::Retention {
        let kept = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        agentry_engine::Retention {
            sessions: kept(self.retention.sessions_s),
            runs: kept(self.retention.runs_s),
            admin_jobs: kept(self.retention.admin_jobs_s),
            uploads: Duration::from_secs(self.retention.uploads_s),
            every: Duration::from_millis(self.retention.every_ms),
        }
    }

    pub(crate) fn events_options(&self) -> agentry_events::Options {
        agentry_events::Options {
            ring_bytes_max: self.events.ring_bytes_max,
            retention: Duration::from_secs(self.events.retention_hours.saturating_mul(3_600)),
            retention_entries_max: self.events.retention_entries_max,
        }
    }

    pub(crate) fn edge_options(&self) -> EdgeOptions {
        EdgeOptions {
            body_bytes_max: self.http.body_bytes_max,
            transfer_bytes_max: self.files.file_bytes_max,
            transfer_within: Duration::from_millis(self.http.transfer_ms),
            import_bytes_max: self.graph.import_bytes_max,
            import_within: Duration::from_millis(self.graph.import_ms),
            requests_in_flight_max: self.http.requests_in_flight_max,
            streams_in_flight_max: self.http.streams_in_flight_max,
            subscriptions_max: self.http.subscriptions_max,
            origins: self.http.origins.clone(),
            queue_requests_max: self.http.queue_requests_max,
            queue_org_requests_max: self.http.queue_org_requests_max,
            queue_wait_max: Duration::from_millis(self.http.queue_wait_ms),
            auth_failures: rate(
                self.http.auth_failures_per_minute,
                self.http.auth_failures_burst,
                self.replicas,
            ),
            // Checked when the settings were read.
            trusted_proxies: self.trusted_proxies().unwrap_or_default(),
            compressed_bytes_min: self.http.compressed_bytes_min,
            request_within: Duration::from_millis(self.http.request_ms),
            ..EdgeOptions::default()
        }
    }

    pub(crate) fn serve_options(&self) -> ServeOptions {
        ServeOptions {
            connections_max: self.http.connections_max,
            header_read_within: Duration::from_millis(self.http.header_read_ms),
            write_stall_max: Duration::from_millis(self.http.write_stall_ms),
            idle_max: Duration::from_millis(self.http.idle_ms),
            notice: Duration::from_millis(self.http.notice_ms),
            drain_max: Duration::from_millis(self.http.drain_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(environment: &[(&str, &str)], flags: &Flags) -> anyhow::Result<Settings> {
        let environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::load_from(None, flags, environment)
    }

    #[test]
    fn the_default_file_says_what_the_components_default_to() {
        let settings = load(&[], &Flags::default()).unwrap();
        assert_eq!(settings.outbound, agentry_outbound::Options::default());
        assert_eq!(settings.edge_options(), EdgeOptions::default());
        assert_eq!(settings.events_options(), agentry_events::Options::default());
        assert_eq!(settings.serve_options(), ServeOptions::default());
        assert_eq!(settings.retention(), agentry_engine::Retention::default());
        assert_eq!(settings.webhook_limits(), agentry_engine::WebhookLimits::default());
        assert_eq!(settings.limits(), agentry_engine::limits_default());
        let engine = agentry_engine::Options::default();
        assert_eq!(settings.engine_options().denials_gathered_for, engine.denials_gathered_for);
        assert_eq!(settings.token_options().unwrap(), None);
        assert_eq!(settings.mcp_limits(), agentry_engine::McpLimits::default());
        assert_eq!(settings.mcp_options(), agentry_mcp::Options::default());
        assert_eq!(settings.run_limits(), RunLimits::default());
        assert_eq!(settings.graph_options(), agentry_engine::GraphOptions::default());
        assert_eq!(settings.sealing_key, None);
        assert!(settings.providers.is_empty());
        assert_eq!(settings.database, None);
    }

    #[test]
    fn the_environment_comes_over_the_file_and_flags_over_both() {
        let environment = [
            ("AGENTRY_LISTEN", "127.0.0.1:1"),
            ("AGENTRY_RUNS__LEASE_MS", "2000"),
            ("AGENTRY_PROVIDERS__NEAR__BASE_URL", "http://127.0.0.1:9/v1"),
            ("AGENTRY_DATABASE", "postgres://localhost/x"),
            ("AGENTRY_KEY", "a client's"),
            ("AGENTRY_HTTP__ORIGINS", "https://a.example, https://b.example"),
        ];
        let flags = Flags { listen: Some("127.0.0.1:2".parse().unwrap()), ..Flags::default() };
        let settings = load(&environment, &flags).unwrap();
        assert_eq!(settings.listen, "127.0.0.1:2".parse().unwrap());
        assert_eq!(settings.runs.lease_ms, 2_000);
        assert_eq!(settings.http.origins, ["https://a.example", "https://b.example"]);
        assert_eq!(settings.providers["near"].base_url.as_deref(), Some("http://127.0.0.1:9/v1"));
        assert_eq!(settings.database.as_deref(), Some("postgres://localhost/x"));
    }

    #[test]
    fn each_replica_has_its_part_of_every_rate() {
        let settings = load(&[("AGENTRY_REPLICAS", "3")], &Flags::default()).unwrap();
        let (limits, alone) = (settings.limits(), agentry_engine::limits_default());
        let part = |rate: Rate| (rate.per_minute.get().div_ceil(3), rate.burst.get().div_ceil(3));
        for tier in [Tier::Free, Tier::Standard, Tier::Enterprise] {
            let (rate, whole) = (limits.of(tier).key.unwrap(), alone.of(tier).key.unwrap());
            assert_eq!((rate.per_minute.get(), rate.burst.get()), part(whole));
            // The store adds up all processes' days, and what had no rate has none.
            assert_eq!(limits.of(tier).daily_requests, alone.of(tier).daily_requests);
            assert_eq!(limits.of(tier).reads, None);
        }
        let failures = settings.edge_options().auth_failures.unwrap();
        assert_eq!((failures.per_minute.get(), failures.burst.get()), (20, 67));
        assert!(load(&[("AGENTRY_REPLICAS", "0")], &Flags::default()).is_err());
    }

    #[test]
    fn what_is_unknown_or_dangerous_is_refused() {
        let refused = |environment: &[(&str, &str)]| {
            assert!(load(environment, &Flags::default()).is_err(), "{environment:?}");
        };
        refused(&[("AGENTRY_RUNS__LEAES_MS", "2000")]);
        refused(&[("AGENTRY_AUTH", "none"), ("AGENTRY_LISTEN", "0.0.0.0:80")]);
        refused(&[("AGENTRY_AUTH", "sometimes")]);
        refused(&[
            ("AGENTRY_OUTBOUND__LOOPBACK_TARGETS_ALLOWED", "true"),
            ("AGENTRY_LISTEN", "0.0.0.0:80"),
        ]);
        refused(&[("AGENTRY_RETENTION__UPLOADS_S", "300")]);
        refused(&[("AGENTRY_STORE__WRITES_WAITING_MAX", "0")]);
        refused(&[("AGENTRY_PROVIDERS__X__KIND", "mystery")]);
        refused(&[("AGENTRY_GRAPH__DRAWING_PAUSED_FROM_EPISODES", "1")]);
        refused(&[("AGENTRY_SEALING_KEY", "too short")]);
        refused(&[("AGENTRY_TOKENS__JWKS_URL", "https://id.example/keys")]);
        refused(&[("AGENTRY_TOKENS__ISSUER", "x"), ("AGENTRY_TOKENS__JWKS_URL", "no url")]);
    }
}
