//! MCP servers: registered with their secrets sealed, started and stopped, and
//! what they offer: a catalogue in which a tool is callable only as it was
//! approved. A connection is made when it is needed and kept
//! ([`connections`]); calls are made in [`calls`].

mod calls;
mod catalogue;
mod connections;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentry_domain::log::EntityKind;
use agentry_domain::mcp_servers::{
    McpAuthKind, McpSecrets, McpServer, McpServerBody, McpStatus, McpTransport,
};
use agentry_domain::orgs::INSTALLATION_ORG;
use agentry_domain::{
    Caller, Code, Document, Done, Error, Fault, McpServerId, Once, OrgId, Result,
};
use agentry_mcp::{Auth, Credentials, Target};
use agentry_outbound::Url;
use agentry_store::Write;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::sealing::Sealed;
use crate::{Engine, entry, version_data};

pub use calls::McpResult;
pub(crate) use catalogue::Catalogue;
pub(crate) use connections::{Connections, Known};

/// Headers that an API key cannot be in.
const HEADERS_RESERVED: [&str; 8] = [
    "accept",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "transfer-encoding",
];

/// The bounds of MCP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McpLimits {
    /// MCP servers of one organisation.
    pub org_servers_max: u32,
    /// How long it may take to start a server and to agree on a protocol.
    pub connect_timeout: Duration,
    /// Connections of this process.
    pub connections_max: usize,
    /// Calls of one server that are under way at once in this process.
    pub server_calls_max: usize,
    /// After how long a catalogue is asked for anew when somebody wants it.
    pub catalogue_age_max: Duration,
    /// Whether servers may be processes of this machine.
    pub stdio_allowed: bool,
}

impl Default for McpLimits {
    fn default() -> Self {
        Self {
            org_servers_max: 100,
            connect_timeout: Duration::from_secs(10),
            connections_max: 256,
            server_calls_max: 32,
            catalogue_age_max: Duration::from_secs(60),
            stdio_allowed: true,
        }
    }
}

/// How a server is.
#[derive(Clone, Debug)]
pub struct McpHealth {
    /// Where it is to be.
    pub status: McpStatus,
    /// Whether it answered.
    pub healthy: bool,
    /// How long its answer took.
    pub latency: Option<Duration>,
    /// Why it did not answer.
    pub error: Option<(Code, String)>,
}

fn sealed(org: OrgId, id: McpServerId) -> Sealed {
    Sealed { purpose: "mcp_server", org, id: id.to_bytes() }
}

fn invalid(pointer: &str, code: &'static str, detail: impl Into<String>) -> Error {
    Error::invalid(vec![Fault::new(pointer, code, detail)])
}

impl Engine {
    /// Registers a server; nothing is started.
    pub async fn mcp_server_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: McpServerBody,
    ) -> Result<Done<Document<McpServerBody>>> {
        let closed = Mutex::new(None);
        let checked = async |id: McpServerId| {
            let none = McpSecrets::default();
            let (body, secrets) =
                self.mcp_checked(caller, McpServerBody { created_by: caller.key, ..body }, none)?;
            *closed.lock() = self.mcp_seal(caller.org, id, &secrets).await?;
            Ok(body)
        };
        let servers_max = self.0.options.mcp.org_servers_max;
        let also = |write: &mut Write, server: &McpServer| {
            write.mcp_state_insert(server.id, closed.lock().as_deref(), servers_max);
        };
        self.resource_create_after(caller, once, checked, also).await
    }

    /// Changes a server. Connections to it are made anew when it is elsewhere now or
    /// is shown other secrets. A secret does not move: who says where it goes, says
    /// it again.
    pub async fn mcp_server_update(
        &self,
        caller: &Caller,
        id: McpServerId,
        if_match: Option<i64>,
        change: impl Fn(&McpServer) -> Result<McpServerBody> + Sync,
    ) -> Result<Document<McpServerBody>> {
        let closed = Mutex::new(None);
        let has_moved = AtomicBool::new(false);
        let (change, closed, has_moved) = (&change, &closed, &has_moved);
        let checked = |was: McpServer| async move {
            let body = change(&was)?;
            if !body.is_at_the_place_of(&was) {
                if was.has_secret && body.given.secret.is_none() {
                    return Err(invalid("/secret", "required", MOVED));
                }
                if !was.secret_env_names.is_empty() && body.given.env.is_none() {
                    return Err(invalid("/secret_env", "required", MOVED));
                }
            }
            let names_some = body.given.secret.is_some() || body.given.env.is_some();
            let secrets = if names_some {
                self.mcp_secrets(caller.org, id).await?
            } else {
                McpSecrets { secret: was.has_secret.then(String::new), ..McpSecrets::default() }
            };
            let env_names = was.secret_env_names.clone();
            let (mut body, secrets) = self.mcp_checked(caller, body, secrets)?;
            *closed.lock() = if names_some {
                Some(self.mcp_seal(caller.org, id, &secrets).await?)
            } else {
                body.secret_env_names = env_names;
                None
            };
            Ok((was, body))
        };
        let changed = self
            .resource_update_after(caller, id, if_match, checked, |write, was, will_be| {
                let secrets = closed.lock().clone();
                if let Some(secrets) = &secrets {
                    write.mcp_secrets_set(id, secrets.as_deref());
                }
                if secrets.is_some() || !will_be.is_at_the_place_of(was) {
                    write.mcp_connections_end(id);
                    has_moved.store(true, Ordering::Relaxed);
                }
            })
            .await?;
        if has_moved.load(Ordering::Relaxed) {
            self.0.mcp.let_go(caller.org, id);
        }
        Ok(changed)
    }

    /// Deletes a server, its secrets and its catalogue, and lets go of it.
    pub async fn mcp_server_delete(
        &self,
        caller: &Caller,
        id: McpServerId,
        if_match: Option<i64>,
    ) -> Result<()> {
        self.resource_delete_with::<McpServerBody>(caller, id, if_match, |write, was| {
            write.mcp_server_delete(was.id, was.version);
        })
        .await?;
        self.0.mcp.let_go(caller.org, id);
        Ok(())
    }

    /// Connects to a server and reads its catalogue. The first one is approved by
    /// that. When it cannot be connected the server's status says so, and so does
    /// the error.
    pub async fn mcp_server_start(
        &self,
        caller: &Caller,
        id: McpServerId,
    ) -> Result<Document<McpServerBody>> {
        let server = self.mcp_server(caller, id).await?;
        let deadline = Instant::now() + self.0.options.mcp.connect_timeout;
        self.mcp_status_set(caller, id, McpStatus::Starting, None).await?;
        let begun = async {
            let open = self.mcp_connected(caller.org, &server, deadline).await?;
            self.mcp_catalogue_read(caller, &server, &open, deadline).await.map(drop)
        };
        match begun.await {
            Ok(()) => self.mcp_status_set(caller, id, McpStatus::Running, None).await,
            Err(error) => {
                self.0.mcp.let_go(caller.org, id);
                let detail = error.detail.clone().into_owned();
                self.mcp_status_set(caller, id, McpStatus::Error, Some(detail)).await?;
                Err(error)
            }
        }
    }

    /// Lets go of a server in every process: none of its tools is called.
    pub async fn mcp_server_stop(
        &self,
        caller: &Caller,
        id: McpServerId,
    ) -> Result<Document<McpServerBody>> {
        let mut write = Write::new(caller.org);
        write.mcp_connections_end(id);
        self.0.store.write(write).await?;
        let stopped = self.mcp_status_set(caller, id, McpStatus::Stopped, None).await?;
        self.0.mcp.end(caller.org, id).await;
        Ok(stopped)
    }

    /// Both, one after the other.
    pub async fn mcp_server_restart(
        &self,
        caller: &Caller,
        id: McpServerId,
    ) -> Result<Document<McpServerBody>> {
        self.mcp_server_stop(caller, id).await?;
        self.mcp_server_start(caller, id).await
    }

    /// Asks a server whether it is there.
    pub async fn mcp_server_health(&self, caller: &Caller, id: McpServerId) -> Result<McpHealth> {
        let server = self.mcp_server(caller, id).await?;
        let status = server.status;
        if status == McpStatus::Stopped {
            return Ok(McpHealth { status, healthy: false, latency: None, error: None });
        }
        let deadline = Instant::now() + self.0.options.mcp.connect_timeout;
        let asked = async {
            let open = self.mcp_connected(caller.org, &server, deadline).await?;
            let began = Instant::now();
            open.connection.ping(deadline).await?;
            Ok::<_, Error>(began.elapsed())
        };
        Ok(match asked.await {
            Ok(latency) => McpHealth { status, healthy: true, latency: Some(latency), error: None },
            Err(error) => {
                tracing::info!(server = %id, error = %error.chain(), "an MCP server is not well");
                let error = Some((error.code, error.detail.into_owned()));
                McpHealth { status, healthy: false, latency: None, error }
            }
        })
    }

    /// The server with this id.
    pub(crate) async fn mcp_server(&self, caller: &Caller, id: McpServerId) -> Result<McpServer> {
        self.resource_get::<McpServerBody>(caller, id).await?.entity()
    }

    async fn mcp_status_set(
        &self,
        caller: &Caller,
        id: McpServerId,
        status: McpStatus,
        detail: Option<String>,
    ) -> Result<Document<McpServerBody>> {
        let change = |was: &McpServer| {
            let status_detail = detail.clone();
            Ok(McpServerBody { status, status_detail, ..was.body.clone() })
        };
        self.resource_update(caller, id, None, change).await
    }

    /// Refuses what cannot work or leads where it must not, and takes the secrets of
    /// the request over.
    fn mcp_checked(
        &self,
        caller: &Caller,
        mut body: McpServerBody,
        mut secrets: McpSecrets,
    ) -> Result<(McpServerBody, McpSecrets)> {
        let given = std::mem::take(&mut body.given);
        if let Some(secret) = given.secret {
            secrets.secret = secret;
        }
        if let Some(env) = given.env {
            secrets.env = match &env {
                None => BTreeMap::new(),
                Some(env) => variables("/secret_env", env.as_str())?,
            };
        }
        match body.transport {
            McpTransport::Stdio => self.mcp_process_checked(caller, &body)?,
            McpTransport::Http => self.mcp_url_checked(&body, &secrets)?,
        }
        let wants_secret = body.auth.kind != McpAuthKind::None;
        if wants_secret && secrets.secret.is_none() {
            return Err(invalid("/secret", "required", "this kind of auth takes a secret"));
        }
        if !wants_secret && secrets.secret.is_some() {
            return Err(invalid("/secret", "exclusive", "auth is none, and takes no secret"));
        }
        body.has_secret = secrets.secret.is_some();
        body.secret_env_names = secrets.env.keys().cloned().collect();
        Ok((body, secrets))
    }

    /// Whoever registers a program runs it on this machine, which is no right of an
    /// organisation that merely has a place here.
    fn mcp_process_checked(&self, caller: &Caller, body: &McpServerBody) -> Result<()> {
        if caller.org != INSTALLATION_ORG {
            let detail = "processes are for the installation's own organisation";
            return Err(invalid("/type", "not_allowed", detail));
        }
        if !self.0.options.mcp.stdio_allowed {
            let detail = "this installation starts no processes (mcp.stdio_allowed)";
            return Err(invalid("/type", "not_allowed", detail));
        }
        if body.command.is_none() {
            return Err(invalid("/command", "required", "a stdio server has a command"));
        }
        if body.url.is_some() {
            return Err(invalid("/url", "exclusive", "a stdio server has no url"));
        }
        if body.auth.kind != McpAuthKind::None {
            let detail = "a stdio server gets its secrets through secret_env";
            return Err(invalid("/auth/type", "exclusive", detail));
        }
        variables("/env", body.env.as_str()).map(drop)
    }

    fn mcp_url_checked(&self, body: &McpServerBody, secrets: &McpSecrets) -> Result<()> {
        let Some(url) = &body.url else {
            return Err(invalid("/url", "required", "a server over http has a url"));
        };
        if body.command.is_some() || !body.args.is_empty() {
            return Err(invalid("/command", "exclusive", "a server over http has no command"));
        }
        if !secrets.env.is_empty() || body.env.as_str() != "{}" {
            return Err(invalid("/env", "exclusive", "a server over http has no environment"));
        }
        self.mcp_target_checked("/url", url)?;
        let auth = &body.auth;
        match auth.kind {
            McpAuthKind::None | McpAuthKind::Bearer => {}
            McpAuthKind::ApiKey => {
                let name = auth.header.as_deref().unwrap_or_default().to_ascii_lowercase();
                let reserved =
                    HEADERS_RESERVED.contains(&name.as_str()) || name.starts_with("mcp-");
                let fits = name.is_empty() || http::HeaderName::try_from(&name).is_ok();
                if reserved || !fits {
                    let detail = "must be the name of a header that is free";
                    return Err(invalid("/auth/header", "not_allowed", detail));
                }
            }
            McpAuthKind::OAuth => {
                let Some(token_url) = &auth.token_url else {
                    return Err(invalid("/auth/token_url", "required", "is required for oauth"));
                };
                self.mcp_target_checked("/auth/token_url", token_url)?;
                if auth.client_id.is_none() {
                    return Err(invalid("/auth/client_id", "required", "is required for oauth"));
                }
            }
        }
        let fits = |secret: &String| http::HeaderValue::try_from(secret).is_ok();
        if secrets.secret.as_ref().is_some_and(|secret| !fits(secret)) {
            let detail = "holds characters that no header can carry";
            return Err(invalid("/secret", "malformed", detail));
        }
        Ok(())
    }

    fn mcp_target_checked(&self, pointer: &str, url: &str) -> Result<()> {
        match Url::parse(url) {
            Err(error) => {
                Err(invalid(pointer, "malformed", format!("is no absolute URL: {error}")))
            }
            Ok(url) => self
                .0
                .mcp_connector
                .check(&url)
                .map_err(|refused| invalid(pointer, "not_allowed", refused.to_string())),
        }
    }

    async fn mcp_seal(
        &self,
        org: OrgId,
        id: McpServerId,
        secrets: &McpSecrets,
    ) -> Result<Option<Vec<u8>>> {
        if *secrets == McpSecrets::default() {
            return Ok(None);
        }
        let text = serde_json::to_vec(secrets).map_err(Error::internal)?;
        let random = self.0.entropy.secret();
        self.sealing().await?.seal(&sealed(org, id), &text, random).map(Some)
    }

    /// The secrets of a server.
    async fn mcp_secrets(&self, org: OrgId, id: McpServerId) -> Result<McpSecrets> {
        let Some(closed) = self.0.store.mcp_state(org, id).await?.secrets else {
            return Ok(McpSecrets::default());
        };
        let text = self.sealing().await?.open(&sealed(org, id), &closed)?;
        serde_json::from_slice(&text).map_err(|_| Error::internal("unreadable secrets"))
    }

    /// Says that a server's catalogue is another one now.
    fn mcp_tools_changed(&self, caller: &Caller, write: &mut Write, server: &McpServer) {
        let (kind, data) = (EntityKind::McpServer, version_data(server.version));
        let id = server.id.to_bytes();
        write.log(entry(caller, self.now(), "mcp_server.tools_changed", kind, id, data));
    }
}

const MOVED: &str = "the server is elsewhere or is run in another way, so that its secrets have to \
                     be said again, or removed with null";

/// Variables of an environment out of a JSON object of texts.
fn variables(pointer: &str, json: &str) -> Result<BTreeMap<String, String>> {
    let refused = |detail: &str| invalid(pointer, "malformed", detail.to_owned());
    let read = serde_json::from_str::<BTreeMap<String, String>>(json);
    let env = read.map_err(|_| refused("must be an object of texts"))?;
    let is_name = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
    if !env.iter().all(|(name, value)| is_name(name) && !value.contains('\0')) {
        return Err(refused("must have names without = and values without U+0000"));
    }
    Ok(env)
}

/// Where and how a server is connected.
fn target(body: &McpServerBody, secrets: McpSecrets) -> Result<Target> {
    let unreadable = || Error::internal("a stored MCP server that cannot be read");
    if body.transport == McpTransport::Stdio {
        let mut env = variables("/env", body.env.as_str())?;
        env.extend(secrets.env);
        return Ok(Target::Process {
            command: body.command.clone().ok_or_else(unreadable)?,
            args: body.args.clone(),
            env,
        });
    }
    let url = |text: &Option<String>| {
        text.as_ref().and_then(|text| Url::parse(text).ok()).ok_or_else(unreadable)
    };
    let secret = secrets.secret.unwrap_or_default();
    let auth =
        match body.auth.kind {
            McpAuthKind::None => Auth::None,
            McpAuthKind::Bearer => Auth::Bearer(secret),
            McpAuthKind::ApiKey => Auth::Header {
                name: body.auth.header.clone().unwrap_or_else(|| {
                    agentry_domain::mcp_servers::MCP_KEY_HEADER_DEFAULT.to_owned()
                }),
                value: secret,
            },
            McpAuthKind::OAuth => Auth::ClientCredentials(Credentials {
                token_url: url(&body.auth.token_url)?,
                client_id: body.auth.client_id.clone().unwrap_or_default(),
                client_secret: secret,
                scope: body.auth.scope.clone(),
            }),
        };
    Ok(Target::Http { url: url(&body.url)?, auth })
}
