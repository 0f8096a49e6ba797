//! The layer that every request goes through, and the order of its steps. Each
//! concern has its own file; this one puts them in a row, so that a request pays
//! for one boxed future and one extension, not for a stack of layers.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agentry_domain::audit::Denial;
use agentry_domain::background::Tasks;
use agentry_domain::limits::{Allowance, Limited, Rate};
use agentry_domain::ports::{Audit, Authenticate, Entropy, Limit};
use agentry_domain::runs::RUN_TIMEOUT_MAX;
use agentry_domain::{Caller, Code, Error, OrgId, Permission, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body::Body as _;
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use crate::access_log::{self, Stages};
use crate::address::{Peer, TrustedProxies};
use crate::app::{Alias, App};
use crate::auth_failures::AuthFailures;
use crate::authenticate::{AccessMode, Shown, authenticate, check_origin, check_page, shown};
use crate::body::{self, Streamed};
use crate::context::{ErrorContext, Failure, RequestContext};
use crate::encoding::{self, Coding};
use crate::metrics::Metrics;
use crate::operations::{Access, Class, Operation, Table};
use crate::permits::{Patience, Permit, Permits};
use crate::request_id::{RequestId, RequestIds, X_REQUEST_ID};
use crate::tokens::Tokens;
use crate::trace;
use crate::websocket::Takeover;

/// Writes an error as an answer. `api` supplies it: only it knows the formats.
pub type Render = fn(&Error, &ErrorContext<'_>) -> Response;

/// The bounds of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeOptions {
    /// Bytes in a request's body at most.
    pub body_bytes_max: usize,
    /// Bytes in the body of a request that puts a file at most.
    pub transfer_bytes_max: usize,
    /// Bytes in the body of a request that imports at most.
    pub import_bytes_max: usize,
    /// Ordinary requests worked on at once at most; more are 503 `overloaded`.
    pub requests_in_flight_max: usize,
    /// Runs open at once at most. Apart from the ordinary ones, so that slow
    /// models cannot keep a read from being served.
    pub streams_in_flight_max: usize,
    /// Streams of events open at once at most. Apart from the runs, so that idle
    /// listeners cannot keep a run from being served.
    pub subscriptions_max: usize,
    /// Origins, such as `https://app.example`, whose pages may open streams
    /// beside those of the server's own.
    pub origins: Vec<String>,
    /// Requests, and apart from them runs and streams, that wait for a place at
    /// once at most.
    pub queue_requests_max: usize,
    /// Of those, requests of one organisation at most.
    pub queue_org_requests_max: usize,
    /// How long one waits for a place at most.
    pub queue_wait_max: Duration,
    /// Credentials from one address that may be refused; none sets no bound.
    pub auth_failures: Option<Rate>,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: TrustedProxies,
    /// Answers from this many bytes on are compressed.
    pub compressed_bytes_min: u64,
    /// What `Retry-After` says on 503 `overloaded`.
    pub overload_retry_after: Duration,
    /// A probe must be answered within this.
    pub probe_within: Duration,
    /// An ordinary request must be answered, and a stream begun, within this.
    pub request_within: Duration,
    /// A file must have arrived or gone out within this.
    pub transfer_within: Duration,
    /// An import must have arrived and be stored within this.
    pub import_within: Duration,
    /// A run must be answered, and its stream ended, within this. More than the
    /// longest time-out of a run, so that the run ends by its own rule and the
    /// caller hears `run_timed_out`.
    pub run_within: Duration,
    /// A stream ends after this; its client resumes.
    pub stream_age_max: Duration,
}

/// What one address may have refused when nothing else is configured: enough for a
/// client that asks every second with a key that was revoked, behind it or not.
const AUTH_FAILURES: Rate = match (NonZeroU32::new(60), NonZeroU32::new(200)) {
    (Some(per_minute), Some(burst)) => Rate { per_minute, burst },
    _ => Rate { per_minute: NonZeroU32::MIN, burst: NonZeroU32::MIN },
};

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            body_bytes_max: 1_024 * 1_024,
            transfer_bytes_max: 16 * 1_024 * 1_024,
            import_bytes_max: 1_024 * 1_024 * 1_024,
            requests_in_flight_max: 2_048,
            streams_in_flight_max: 4_096,
            subscriptions_max: 4_096,
            origins: Vec::new(),
            queue_requests_max: 256,
            queue_org_requests_max: 128,
            queue_wait_max: Duration::from_millis(250),
            auth_failures: Some(AUTH_FAILURES),
            trusted_proxies: TrustedProxies::default(),
            compressed_bytes_min: 1_024,
            overload_retry_after: Duration::from_secs(1),
            probe_within: Duration::from_secs(5),
            request_within: Duration::from_secs(30),
            transfer_within: Duration::from_secs(5 * 60),
            import_within: Duration::from_secs(60 * 60),
            run_within: RUN_TIMEOUT_MAX.saturating_add(Duration::from_secs(30)),
            stream_age_max: Duration::from_secs(24 * 3_600),
        }
    }
}

impl EdgeOptions {
    /// How long until the answer must have begun.
    fn deadline(&self, class: Class) -> Duration {
        match class {
            Class::Probe => self.probe_within,
            Class::Request | Class::Stream => self.request_within,
            Class::Transfer => self.transfer_within,
            Class::Import => self.import_within,
            Class::Run => self.run_within,
        }
    }

    /// How many bytes a request's body may have.
    fn body_bytes_max(&self, class: Class) -> usize {
        match class {
            Class::Transfer => self.transfer_bytes_max,
            Class::Import => self.import_bytes_max,
            Class::Probe | Class::Request | Class::Run | Class::Stream => self.body_bytes_max,
        }
    }

    /// How long until a streamed answer must have ended, from the request's head.
    fn age_max(&self, class: Class) -> Duration {
        match class {
            Class::Probe | Class::Request | Class::Transfer | Class::Import | Class::Run => {
                self.deadline(class)
            }
            Class::Stream => self.stream_age_max,
        }
    }
}

/// What the edge is made of.
pub struct Edge {
    /// Its bounds.
    pub options: EdgeOptions,
    /// How callers prove who they are.
    pub mode: AccessMode,
    /// Who a credential belongs to.
    pub authenticate: Arc<dyn Authenticate>,
    /// The tokens of an identity provider, when there is one.
    pub tokens: Option<Tokens>,
    /// How much callers may ask for.
    pub limit: Arc<dyn Limit>,
    /// Hears of those who were refused.
    pub audit: Arc<dyn Audit>,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// How errors are written.
    pub render: Render,
    /// Owns the connections that stopped to be HTTP.
    pub tasks: Tasks,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Edge {
    /// Puts the edge around a router: its table says what each operation needs,
    /// `aliases` which other paths lead to one.
    pub fn around(
        self,
        router: Router,
        table: Table,
        aliases: &[Alias],
        entropy: &dyn Entropy,
    ) -> App {
        let Self { options, mode, authenticate, tokens, limit, audit, metrics, render, tasks } =
            self;
        let patience = Patience {
            waiting_max: options.queue_requests_max,
            org_waiting_max: options.queue_org_requests_max,
            wait_max: options.queue_wait_max,
        };
        let [a, b, c, d, e, f, g, h, ..] = entropy.secret();
        let shared = Arc::new(Shared {
            requests: Permits::new(options.requests_in_flight_max, patience),
            streams: Permits::new(options.streams_in_flight_max, patience),
            subscriptions: Permits::new(options.subscriptions_max, patience),
            auth_failures: Arc::new(AuthFailures::new(options.auth_failures)),
            ids: RequestIds::new(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            options,
            mode,
            authenticate,
            tokens,
            limit,
            audit,
            metrics,
            render,
            table,
            tasks,
        });
        shared.metrics.places(shared.places());
        shared.metrics.auth_failures(Arc::clone(&shared.auth_failures));
        let router = router
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(EdgeLayer(shared));
        App::new(router, aliases)
    }
}

async fn not_found(uri: Uri) -> Failure {
    Failure::from(Error::not_found("path", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    Failure::from(Error::new(
        Code::MethodNotAllowed,
        format!("{} does not serve {method}; see the header Allow", uri.path()),
    ))
}

struct Shared {
    options: EdgeOptions,
    mode: AccessMode,
    authenticate: Arc<dyn Authenticate>,
    tokens: Option<Tokens>,
    limit: Arc<dyn Limit>,
    audit: Arc<dyn Audit>,
    metrics: Metrics,
    render: Render,
    table: Table,
    requests: Permits,
    streams: Permits,
    subscriptions: Permits,
    auth_failures: Arc<AuthFailures>,
    ids: RequestIds,
    tasks: Tasks,
}

#[derive(Clone)]
struct EdgeLayer(Arc<Shared>);

impl<I> Layer<I> for EdgeLayer {
    type Service = EdgeService<I>;

    fn layer(&self, inner: I) -> EdgeService<I> {
        EdgeService { shared: Arc::clone(&self.0), inner }
    }
}

#[derive(Clone)]
struct EdgeService<I> {
    shared: Arc<Shared>,
    inner: I,
}

impl<I> Service<Request> for EdgeService<I>
where
    I: Service<Request, Response = Response, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static,
    I::Future: Send + 'static,
{
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let ready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, ready);
        let flight = Flight::begin(&self.shared, &request);
        let span = flight.span.clone();
        Box::pin(async move { Ok(serve(flight, inner, request).await) }.instrument(span))
    }
}

/// One request under way. Dropping it, whether its answer ended or its client
/// went away, counts and logs the request and gives its permit back.
struct Flight {
    shared: Arc<Shared>,
    operation: Option<usize>,
    method: Method,
    uri: Uri,
    request_id: RequestId,
    started: Instant,
    status: Option<StatusCode>,
    permit: Option<Permit>,
    address: Option<IpAddr>,
    caller: Option<Caller>,
    allowance: Option<Allowance>,
    coding: Option<Coding>,
    /// Kept only when somebody reads them.
    stages: Option<Stages>,
    span: Span,
}

impl Flight {
    fn begin(shared: &Arc<Shared>, request: &Request) -> Self {
        let operation = request
            .extensions()
            .get::<MatchedPath>()
            .and_then(|path| shared.table.find(request.method(), path.as_str()));
        shared.metrics.in_flight().inc();
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let address =
            peer.map(|peer| shared.options.trusted_proxies.client(peer, request.headers()));
        let coding = match *request.method() {
            Method::HEAD => None,
            _ => Coding::accepted(request.headers()),
        };
        let route = operation.and_then(|index| shared.table.get(index));
        let route = route.map_or("unmatched", |operation| &operation.rule.path);
        let span = trace::span(request.method(), request.uri().path(), route, request.headers());
        Self {
            span,
            shared: Arc::clone(shared),
            operation,
            method: request.method().clone(),
            uri: request.uri().clone(),
            request_id: shared.ids.identify(request.headers()),
            started: Instant::now(),
            status: None,
            permit: None,
            address,
            caller: None,
            allowance: None,
            coding,
            stages: access_log::is_on().then(Stages::default),
        }
    }

    fn operation(&self) -> Option<&Operation> {
        self.operation.and_then(|index| self.shared.table.get(index))
    }

    fn class(&self) -> Class {
        self.operation().map_or(Class::Request, |operation| operation.rule.class)
    }

    /// Notes that a stage ended.
    fn ended(&mut self, stage: fn(&mut Stages) -> &mut Option<Duration>) {
        if let Some(stages) = &mut self.stages {
            *stage(stages) = Some(self.started.elapsed());
        }
    }

    /// Tells the audit of a refusal that is about who asked.
    fn denied(&self, error: &Error) {
        let is_told = matches!(
            error.code,
            Code::Unauthenticated | Code::Forbidden | Code::TooManyAuthFailures
        );
        if is_told {
            let (caller, address) = (self.caller.as_ref(), self.address);
            self.shared.audit.denied(Denial { caller, address, code: error.code });
        }
    }

    fn render(&self, error: &Error) -> Response {
        self.shared.metrics.error(error.code);
        let context = ErrorContext { request_id: &self.request_id, path: self.uri.path() };
        (self.shared.render)(error, &context)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.metrics.in_flight().dec();
        let elapsed = self.started.elapsed();
        let operation = self.operation();
        operation
            .map_or(self.shared.table.unmatched(), |operation| &operation.metrics)
            .observe(self.status, elapsed);
        access_log::write(&access_log::Line {
            method: &self.method,
            path: self.uri.path(),
            route: operation.map_or("unmatched", |operation| &operation.rule.path),
            status: self.status,
            elapsed,
            request_id: &self.request_id,
            address: self.address,
            key: self.caller.and_then(|caller| caller.key),
            stages: self.stages.unwrap_or_default(),
        });
    }
}

/// The steps: the answer is made under a deadline and with panics caught, its
/// error rendered, its id set; then the flight ends with the answer's body.
async fn serve<I>(mut flight: Flight, inner: I, request: Request) -> Response
where
    I: Service<Request, Response = Response, Error = std::convert::Infallible>,
{
    let class = flight.class();
    let within = flight.shared.options.deadline(class);
    let deadline = flight.started + within;
    let answering = std::panic::AssertUnwindSafe(answer(&mut flight, inner, request, deadline));
    let outcome = match tokio::time::timeout_at(deadline, answering.catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Error::internal(panic_text(panic.as_ref()))),
        Err(_elapsed) => Err(Error::new(
            Code::DeadlineExceeded,
            format!("there was no answer within {} ms", within.as_millis()),
        )),
    };
    let mut response = match outcome {
        Ok(mut response) => match response.extensions_mut().remove::<Failure>() {
            None => response,
            Some(Failure(error)) => {
                flight.denied(&error);
                flight.render(&error)
            }
        },
        Err(error) => flight.render(&error),
    };
    flight.ended(|stages| &mut stages.answered);
    response.headers_mut().insert(X_REQUEST_ID, flight.request_id.header());
    if let Some(allowance) = &flight.allowance {
        say(response.headers_mut(), allowance);
    }
    if response.body().size_hint().exact().is_some() {
        let bytes_min = flight.shared.options.compressed_bytes_min;
        response = encoding::compress(response, flight.coding, bytes_min).await;
    }
    flight.status = Some(response.status());
    trace::answered(&flight.span, response.status());
    if let Some(takeover) = response.extensions_mut().remove::<Takeover>() {
        let tasks = flight.shared.tasks.clone();
        tasks.spawn(async move {
            takeover.run().await;
            drop(flight);
        });
        return response;
    }
    // A body that is whole in memory is done with; only a streamed one keeps
    // its permit and its place in the metrics until it ends.
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let until = flight.started + flight.shared.options.age_max(class);
    response.map(|body| Streamed::wrap(body, until, flight))
}

async fn answer<I>(
    flight: &mut Flight,
    mut inner: I,
    mut request: Request,
    deadline: Instant,
) -> Result<Response>
where
    I: Service<Request, Response = Response, Error = std::convert::Infallible>,
{
    let caller = match admit(flight, &mut request).await {
        Ok(caller) => caller,
        Err(error) => {
            flight.denied(&error);
            let (parts, body) = request.into_parts();
            body::discard(body, &parts.headers).await;
            return Err(error);
        }
    };
    let request_id = flight.request_id.clone();
    request.extensions_mut().insert(RequestContext { request_id, deadline, caller });
    match inner.call(request).await {
        Ok(response) => Ok(response),
        Err(infallible) => match infallible {},
    }
}

/// Everything that may refuse a request before its handler sees it, in order.
async fn admit(flight: &mut Flight, request: &mut Request) -> Result<Option<Caller>> {
    let shared = Arc::clone(&flight.shared);
    check_origin(shared.mode, request.headers(), request.uri())?;
    // An unknown path or method is answered as such, without a key.
    let Some(rule) = flight.operation().map(|operation| &operation.rule) else { return Ok(None) };
    let (access, class, work) = (rule.access, rule.class, rule.work);
    let mut caller = match access {
        Access::Open => None,
        Access::Needs(_) => {
            if class == Class::Stream {
                check_page(&shared.options.origins, request.headers(), request.uri())?;
            }
            let shown = shown(request.headers(), request.uri(), class == Class::Stream);
            Some(identify(flight, shown).await?)
        }
    };
    if let Some(caller) = &mut caller {
        caller.address = flight.address;
        flight.caller = Some(*caller);
        flight.ended(|stages| &mut stages.authenticated);
        if caller.tier.is_some() && class != Class::Probe {
            let Limited { allowance, refused } = shared.limit.check(caller, work).await;
            flight.allowance = allowance;
            if let Some(refused) = refused {
                return Err(refused);
            }
        }
    }
    flight.permit = shared.permit(class, caller.map(|caller| caller.org)).await?;
    flight.ended(|stages| &mut stages.admitted);
    let body = std::mem::replace(request.body_mut(), Body::empty());
    match body::limit(body, shared.options.body_bytes_max(class)) {
        Ok(body) => *request.body_mut() = body,
        Err(refused) => {
            *request.body_mut() = refused.body;
            return Err(refused.error);
        }
    }
    if let (Access::Needs(permission), Some(caller)) = (access, &caller)
        && !caller.allows(permission)
    {
        return Err(Error::new(Code::Forbidden, refusal(caller, permission)));
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        plain(request, class, shared.options.body_bytes_max(class)).await?;
    }
    Ok(caller)
}

/// Finds the caller, unless too many who came from there were none.
async fn identify(flight: &Flight, shown: Shown<'_>) -> Result<Caller> {
    let shared = flight.shared.as_ref();
    let failures = &shared.auth_failures;
    let credential = match shown {
        Shown::Key(credential) | Shown::Ticket(credential) => Some(credential),
        Shown::Nothing(_) => None,
    };
    let counted = flight.address.zip(credential);
    if let Some((address, credential)) = counted {
        failures.check(address, credential, flight.started)?;
    }
    let port = shared.authenticate.as_ref();
    let found = authenticate(shared.mode, port, shared.tokens.as_ref(), shown).await;
    if let Some((address, credential)) = counted {
        match &found {
            // A ticket is good once.
            Ok(_) if matches!(shown, Shown::Ticket(_)) => {}
            Ok(_) => failures.succeeded(credential, flight.started),
            Err(error) if error.code == Code::Unauthenticated => {
                failures.failed(address, flight.started);
            }
            Err(_) => {}
        }
    }
    found
}

/// Makes a compressed body a plain one, within the bound of every body.
async fn plain(request: &mut Request, class: Class, bytes_max: usize) -> Result<()> {
    let Some(coding) = encoding::of_request(request.headers())? else { return Ok(()) };
    // What has a bound of its own is taken in as it comes, and not held as a whole.
    if matches!(class, Class::Transfer | Class::Import) {
        return Err(encoding::unsupported());
    }
    let body = std::mem::replace(request.body_mut(), Body::empty());
    let body = encoding::decompress(coding, &body::read(body).await?, bytes_max)?;
    request.headers_mut().remove(header::CONTENT_ENCODING);
    request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *request.body_mut() = Body::from(body);
    Ok(())
}

/// The headers of a limit: what the field's older clients read, and the names of
/// the IETF's draft.
const LIMIT_HEADERS: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("ratelimit-limit"),
        HeaderName::from_static("ratelimit-remaining"),
        HeaderName::from_static("ratelimit-reset"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit"),
        HeaderName::from_static("x-ratelimit-remaining"),
        HeaderName::from_static("x-ratelimit-reset"),
    ],
];

/// Says what is left of a limit; times are seconds from now, rounded up.
fn say(headers: &mut http::HeaderMap, allowance: &Allowance) {
    let reset = allowance.reset.as_secs() + u64::from(allowance.reset.subsec_nanos() > 0);
    let values = [allowance.limit, allowance.remaining, reset].map(HeaderValue::from);
    for names in LIMIT_HEADERS {
        for (name, value) in names.into_iter().zip(&values) {
            headers.insert(name, value.clone());
        }
    }
}

fn refusal(caller: &Caller, permission: Permission) -> String {
    let (role, permission_name) = (caller.role.as_str(), permission.as_str());
    if caller.role.allows(permission) {
        format!("the key's scopes do not hold {permission_name}")
    } else {
        format!("the role {role} does not allow this ({permission_name})")
    }
}

impl Shared {
    /// The places of each class, by its name in the metrics.
    fn places(&self) -> Vec<(&'static str, Permits)> {
        vec![
            ("requests", self.requests.clone()),
            ("runs", self.streams.clone()),
            ("subscriptions", self.subscriptions.clone()),
        ]
    }

    async fn permit(&self, class: Class, org: Option<OrgId>) -> Result<Option<Permit>> {
        let (permits, bound) = match class {
            Class::Probe => return Ok(None),
            Class::Request | Class::Transfer | Class::Import => {
                (&self.requests, "requests_in_flight_max")
            }
            Class::Run => (&self.streams, "streams_in_flight_max"),
            Class::Stream => (&self.subscriptions, "subscriptions_max"),
        };
        match permits.take(org).await {
            Some(permit) => Ok(Some(permit)),
            None => Err(Error::new(
                Code::Overloaded,
                format!("{bound} ({}) is reached; try again", permits.max()),
            )
            .retry_after(self.options.overload_retry_after)),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("panic: {text}")
}

#[cfg(test)]
mod tests;
