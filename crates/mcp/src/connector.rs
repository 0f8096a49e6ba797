//! What a server is connected with.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentry_domain::Result;
use agentry_domain::background::Tasks;
use agentry_outbound::{Client, Refused, Url};
use rmcp::model::ProtocolVersion;
use tokio::time::Instant;

use crate::connection::{Connection, Speaks};
use crate::http::Http;
use crate::oauth::Tokens;
use crate::process::Program;
use crate::stdio;

/// The bounds of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The largest message that is taken, in bytes.
    pub message_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { message_bytes_max: 16 * 1_024 * 1_024 }
    }
}

/// Where a server is and how it is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// A process of this machine.
    Process {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Its environment, beside `PATH`, `LANG`, `LC_ALL`, `HOME` and `TMPDIR`.
        env: BTreeMap<String, String>,
    },
    /// A URL that speaks streamable HTTP.
    Http {
        /// The URL.
        url: Url,
        /// What it wants to see.
        auth: Auth,
    },
}

/// What is shown to a server.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    None,
    /// `Authorization: Bearer`.
    Bearer(String),
    /// A header.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A bearer token that is got for it.
    ClientCredentials(Credentials),
}

/// What a token is got with (RFC 6749, section 4.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Where tokens are issued.
    pub token_url: Url,
    /// Who asks.
    pub client_id: String,
    /// What shows that.
    pub client_secret: String,
    /// What the token is to be good for.
    pub scope: Option<String>,
}

/// Makes connections. Clones are the same.
#[derive(Clone)]
pub struct Connector {
    client: Client,
    options: Options,
    tasks: Tasks,
}

impl Connector {
    /// One that calls URLs through this client, a guarded one when URLs come over the
    /// API.
    pub fn new(client: Client, options: Options, tasks: Tasks) -> Self {
        Self { client, options, tasks }
    }

    /// Whether a URL would be called, as far as it says by itself.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        self.client.check(url)
    }

    /// Connects to a server and agrees with it on a protocol. What was begun ends when
    /// that fails, or is given up.
    pub async fn connect(&self, target: Target, deadline: Instant) -> Result<Connection> {
        let mut version = ProtocolVersion::LATEST_WITH_INITIALIZE;
        loop {
            let begun = self.begin(&target, version, deadline).await;
            let Err(error) = &begun else { return begun };
            // Each time an older one, so that this ends.
            let speaks = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<Speaks>());
            let Some(Speaks(other)) = speaks else { return begun };
            version = other.clone();
        }
    }

    async fn begin(
        &self,
        target: &Target,
        version: ProtocolVersion,
        deadline: Instant,
    ) -> Result<Connection> {
        let bytes_max = self.options.message_bytes_max;
        match target.clone() {
            Target::Process { command, args, env } => {
                let program = Program { command, args, env };
                let started = stdio::start(&program, bytes_max, &self.tasks)?;
                Connection::begin(started, version, deadline).await
            }
            Target::Http { url, auth } => {
                let tokens = match &auth {
                    Auth::ClientCredentials(credentials) => {
                        Some(Arc::new(Tokens::new(self.client.clone(), credentials.clone())))
                    }
                    _ => None,
                };
                let opened =
                    Http::open(self.client.clone(), url, auth, tokens, bytes_max, &self.tasks);
                Connection::begin(opened, version, deadline).await
            }
        }
    }
}
