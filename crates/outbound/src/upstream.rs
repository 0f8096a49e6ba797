//! An upstream that is asked often, such as a model provider: a pool of its own,
//! so that one that hangs takes no connection from another, a retry budget and a
//! breaker, and counts of what happened.
//!
//! A call is sent again only while nothing of its answer was handed on: when it
//! failed before the head of the answer, or when the head says that the upstream
//! could not serve it (429 and 5xx). That an upstream acted on a call that it
//! answered so is for whoever calls to know: asking a model twice costs twice and
//! changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::breaker::{Admission, Breaker, BreakerState, Outcome};
use crate::budget::RetryBudget;
use crate::failure::Failure;
use crate::options::Options;
use crate::post::{Client, PostJson};
use crate::reply::Reply;

/// The upstream. Clones share everything.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    client: Client,
    options: Options,
    breaker: Mutex<Breaker>,
    budget: Mutex<RetryBudget>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    retries: AtomicU64,
    retries_denied: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
}

/// What happened with an upstream since the process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamCounts {
    /// What it is called.
    pub name: String,
    /// Calls, without retries.
    pub calls: u64,
    /// Calls that were sent again.
    pub retries: u64,
    /// Retries that the budget did not allow.
    pub retries_denied: u64,
    /// Calls, retries among them, that failed.
    pub failures: u64,
    /// Calls that the breaker refused.
    pub refused: u64,
    /// How often the breaker opened.
    pub breaker_opened: u64,
    /// How the breaker stands.
    pub breaker: BreakerState,
}

impl Upstream {
    /// An upstream that the installation's owner configured, wherever it is.
    pub fn new(name: &str, options: &Options) -> Result<Self, Failure> {
        let client = Client::new(options)?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            client,
            options: options.clone(),
            breaker: Mutex::new(Breaker::new(options.breaker_rules())),
            budget: Mutex::new(RetryBudget::new(options.retry_budget_percent)),
            counts: Counts::default(),
        })))
    }

    /// Sends a call, again if it fails, may be sent again and there is time, and
    /// gives the answer with the word on it that the breaker is to get. Fails with
    /// [`Failure::BreakerOpen`] without sending anything when the upstream is left
    /// alone.
    pub async fn post_json(&self, call: PostJson) -> Result<(Reply, Verdict), Failure> {
        let inner = &*self.0;
        inner.counts.calls.fetch_add(1, Ordering::Relaxed);
        inner.budget.lock().earn();
        let mut retries = 0;
        loop {
            let verdict = self.admit()?;
            let sent = inner.client.post_json_once(call.clone()).await;
            let wait = match &sent {
                Ok(reply) if !is_transient(reply.status()) => {
                    let reply = sent?;
                    return Ok((reply, verdict));
                }
                Ok(reply) => {
                    // A limit on the rate is no sign of ill health.
                    let failed = reply.status() != StatusCode::TOO_MANY_REQUESTS;
                    verdict.tell(if failed { Outcome::Failure } else { Outcome::Unknown });
                    retry_after(reply.headers())
                }
                Err(failure) => {
                    verdict.tell(outcome_of(failure));
                    if !may_repeat(failure) {
                        return sent.map(|reply| (reply, self.no_verdict()));
                    }
                    None
                }
            };
            inner.counts.failures.fetch_add(1, Ordering::Relaxed);
            let wait = wait.unwrap_or_else(|| inner.options.retry_wait(retries));
            let in_time = Instant::now() + wait < call.deadline
                && wait <= Duration::from_millis(inner.options.retry_wait_max_ms);
            if retries == inner.options.retries_max || !in_time {
                return sent.map(|reply| (reply, self.no_verdict()));
            }
            if !inner.budget.lock().spend() {
                inner.counts.retries_denied.fetch_add(1, Ordering::Relaxed);
                return sent.map(|reply| (reply, self.no_verdict()));
            }
            drop(sent);
            tokio::time::sleep(wait).await;
            retries += 1;
            inner.counts.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> UpstreamCounts {
        let inner = &*self.0;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let breaker = inner.breaker.lock();
        UpstreamCounts {
            name: inner.name.clone(),
            calls: read(&inner.counts.calls),
            retries: read(&inner.counts.retries),
            retries_denied: read(&inner.counts.retries_denied),
            failures: read(&inner.counts.failures),
            refused: read(&inner.counts.refused),
            breaker_opened: breaker.opened(),
            breaker: breaker.state(),
        }
    }

    fn admit(&self) -> Result<Verdict, Failure> {
        let admitted = self.0.breaker.lock().admit(Instant::now());
        match admitted {
            Ok(admission) => Ok(Verdict { upstream: self.clone(), admission: Some(admission) }),
            Err(retry_after) => {
                self.0.counts.refused.fetch_add(1, Ordering::Relaxed);
                Err(Failure::BreakerOpen { retry_after })
            }
        }
    }

    fn no_verdict(&self) -> Verdict {
        Verdict { upstream: self.clone(), admission: None }
    }
}

/// What is still to be said of a call whose answer has begun. Dropped, it says that
/// nothing is known.
#[derive(Debug)]
pub struct Verdict {
    upstream: Upstream,
    admission: Option<Admission>,
}

impl Verdict {
    /// The answer was as it should be.
    pub fn succeeded(self) {
        self.tell(Outcome::Success);
    }

    /// The answer broke off, or was not what it should be.
    pub fn failed(self) {
        if self.admission.is_some() {
            self.upstream.0.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.tell(Outcome::Failure);
    }

    fn tell(mut self, outcome: Outcome) {
        self.say(outcome);
    }

    fn say(&mut self, outcome: Outcome) {
        if let Some(admission) = self.admission.take() {
            self.upstream.0.breaker.lock().tell(admission, outcome, Instant::now());
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.say(Outcome::Unknown);
    }
}

/// Whether the upstream could not serve a call that is all right.
fn is_transient(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

fn outcome_of(failure: &Failure) -> Outcome {
    match failure {
        Failure::Connect(_)
        | Failure::ConnectTimeout { .. }
        | Failure::FirstByteTimeout { .. }
        | Failure::IdleTimeout { .. }
        | Failure::TooLarge { .. }
        | Failure::Broken(_) => Outcome::Failure,
        // The caller's own time was over; or nothing was sent.
        Failure::Deadline
        | Failure::Refused(_)
        | Failure::Invalid(_)
        | Failure::BreakerOpen { .. } => Outcome::Unknown,
    }
}

/// Whether it makes sense to send a call again that failed before its answer began.
fn may_repeat(failure: &Failure) -> bool {
    match failure {
        Failure::Connect(_) | Failure::ConnectTimeout { .. } | Failure::Broken(_) => true,
        // Who waited as long as it may wait does not wait as long again.
        Failure::FirstByteTimeout { .. }
        | Failure::IdleTimeout { .. }
        | Failure::TooLarge { .. }
        | Failure::Deadline
        | Failure::Refused(_)
        | Failure::Invalid(_)
        | Failure::BreakerOpen { .. } => false,
    }
}

/// What `Retry-After` asks for, in seconds. Its other form, a date, is left out, as our
/// clock may not be theirs.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds: u64 = text.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
