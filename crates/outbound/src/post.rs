//! Sending: one pool of connections, no redirects, no decompression, no
//! proxies from the environment, one repeat of a call that never connected. A
//! guarded client sends to public addresses only ([`crate::guard`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use reqwest::Url;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::failure::Failure;
use crate::guard::{Guard, GuardedResolver, Lookup, Refused, SystemLookup};
use crate::options::Options;
use crate::reply::{Limits, Reply};
use crate::trace;

/// How long to wait before connecting again: long enough for a listener that
/// is being replaced, short against every deadline.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The client. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) options: Arc<Options>,
    /// Which targets are allowed; none when whoever configured this
    /// installation named them.
    guard: Option<Guard>,
}

/// A JSON document to send, and how long its answer may take.
#[derive(Clone, Debug)]
pub struct PostJson {
    /// Where to.
    pub url: Url,
    /// Its headers; `Content-Type` is that of JSON when they do not say. Mark secret
    /// values as sensitive.
    pub headers: HeaderMap,
    /// The document, serialised.
    pub body: Bytes,
    /// When the whole call, the reading of its answer included, has to be over.
    pub deadline: Instant,
    /// Replaces the client's `first_byte_timeout_ms`.
    pub first_byte_timeout: Option<Duration>,
    /// Replaces the client's `idle_timeout_ms`.
    pub idle_timeout: Option<Duration>,
}

/// How often a connection is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connecting {
    Once,
    Twice,
}

impl Client {
    /// Makes the client and its pool. Without root certificates on the machine
    /// it works for plain HTTP, and every TLS call fails to connect.
    ///
    /// It calls whatever it is told to: it is for targets that the installation's
    /// owner configured. For those that came through the API there is
    /// [`Client::guarded`].
    pub fn new(options: &Options) -> Result<Self, Failure> {
        Self::build(options, None, || builder(options))
    }

    /// Makes a client that calls public addresses only, and this machine's own
    /// if the options allow it.
    pub fn guarded(options: &Options) -> Result<Self, Failure> {
        Self::guarded_with(options, Arc::new(SystemLookup))
    }

    /// The same, with another way to look names up.
    pub fn guarded_with(options: &Options, lookup: Arc<dyn Lookup>) -> Result<Self, Failure> {
        let guard = options.guard();
        let resolver = Arc::new(GuardedResolver { guard, lookup });
        let guarded = || builder(options).dns_resolver(Arc::clone(&resolver));
        Self::build(options, Some(guard), guarded)
    }

    /// Whether this client would call a URL, as far as that can be said before its
    /// name is looked up.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        self.guard.map_or(Ok(()), |guard| guard.check(url))
    }

    fn build(
        options: &Options,
        guard: Option<Guard>,
        builder: impl Fn() -> reqwest::ClientBuilder,
    ) -> Result<Self, Failure> {
        let http = match builder().build() {
            Ok(http) => http,
            Err(error) => {
                let http = builder()
                    .tls_certs_only([])
                    .build()
                    .map_err(|error| Failure::Invalid(error.into()))?;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no root certificates were found, so calls to https addresses will fail"
                );
                http
            }
        };
        Ok(Self { http, options: Arc::new(options.clone()), guard })
    }

    /// Sends the document and waits for the answer's status and headers.
    ///
    /// It is sent again, once, only when no connection came about; after that
    /// point the other side may already have acted on it.
    pub async fn post_json(&self, call: PostJson) -> Result<Reply, Failure> {
        self.post_within(call, Connecting::Twice).await
    }

    /// The same, sent once whatever happens.
    pub(crate) async fn post_json_once(&self, call: PostJson) -> Result<Reply, Failure> {
        self.post_within(call, Connecting::Once).await
    }

    async fn post_within(&self, call: PostJson, how: Connecting) -> Result<Reply, Failure> {
        let first_byte_timeout =
            call.first_byte_timeout.unwrap_or(self.options.first_byte_timeout());
        let first_byte_ends = Instant::now() + first_byte_timeout;
        let limits = Limits {
            deadline: call.deadline,
            idle_timeout: call.idle_timeout.unwrap_or(self.options.idle_timeout()),
            bytes_max: self.options.response_bytes_max,
        };
        let ends = first_byte_ends.min(call.deadline);
        let span = trace::span("POST", &call.url);
        let sending = self.send_connecting(call, how).instrument(span);
        match tokio::time::timeout_at(ends, sending).await {
            Ok(sent) => sent.map(|response| Reply::new(response, limits)),
            Err(_) if first_byte_ends < limits.deadline => {
                Err(Failure::FirstByteTimeout { after: first_byte_timeout })
            }
            Err(_) => Err(Failure::Deadline),
        }
    }

    async fn send_connecting(
        &self,
        mut call: PostJson,
        how: Connecting,
    ) -> Result<reqwest::Response, Failure> {
        trace::carry(&mut call.headers);
        if how == Connecting::Once {
            return self.send(call).await;
        }
        match self.send(call.clone()).await {
            Err(Failure::Connect(_)) => {
                tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
                self.send(call).await
            }
            outcome => outcome,
        }
    }

    async fn send(&self, call: PostJson) -> Result<reqwest::Response, Failure> {
        // The connector takes a host that is an address as it is, and asks no
        // resolver; so this is the check of those.
        self.check(&call.url).map_err(Failure::Refused)?;
        let mut headers = call.headers;
        let json = HeaderValue::from_static("application/json");
        headers.entry(header::CONTENT_TYPE).or_insert(json);
        self.http
            .post(call.url)
            .headers(headers)
            .body(call.body)
            .send()
            .await
            .map_err(|error| Failure::from_reqwest(error, self.options.connect_timeout()))
    }
}

fn builder(options: &Options) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("agentry/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout())
        .pool_max_idle_per_host(options.idle_connections_per_host_max)
        .pool_idle_timeout(Duration::from_millis(options.idle_connection_ms))
        // A redirect would carry the body and the key to a place that nobody
        // configured.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // Where calls go is in the configuration, not in whatever environment
        // the process was started from.
        .no_proxy()
}
