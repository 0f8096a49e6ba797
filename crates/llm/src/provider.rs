//! A model of a configured provider: the request in the provider's words, the call
//! through its upstream, and the answer read as it comes. What differs from one
//! protocol to another is behind [`Dialect`]; every failure becomes a code here.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::{Code, Error, Result};
use agentry_outbound::{Failure, PostJson, Reply, Upstream, Url, Verdict};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

use crate::answer::Answer;
use crate::embeddings::EmbeddingDialect;
use crate::failures;
use crate::lines::Lines;
use crate::model::{Model, ModelEvent, ModelRequest};
use crate::prices::Prices;
use crate::sse;

/// How long to wait for the body's end behind the answer's end. It comes at
/// once as a rule, and without it the connection cannot be used again.
const BODY_END_WAIT: Duration = Duration::from_millis(200);

/// A protocol that models are asked in.
#[async_trait]
pub(crate) trait Dialect: Send + Sync {
    /// Where a model is asked.
    fn url(&self, base: &Url, model: &str) -> Option<Url>;

    /// The request. `model_rejected` says what the provider cannot be asked for.
    fn body(&self, model: &str, request: &ModelRequest) -> Result<Value>;

    /// Headers beside those of every call; what has to be fetched for them is.
    async fn headers(&self, endpoint: &Endpoint, call: &ModelRequest) -> Result<HeaderMap>;

    /// How the documents of a stream are told apart.
    fn framing(&self) -> Framing {
        Framing::Events
    }

    /// How texts are turned into vectors, if the protocol has that.
    fn embeddings(&self) -> Option<&dyn EmbeddingDialect> {
        None
    }

    /// Takes one document of a stream, and gives what it says. What ends the answer
    /// is in `answer`, whose `cut` makes the last events.
    fn read(&self, endpoint: &Endpoint, data: &str, answer: &mut Answer)
    -> Result<Vec<ModelEvent>>;
}

/// How the documents of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    Events,
    /// Lines.
    Lines,
}

/// Where a provider is and how to talk to it.
pub(crate) struct Endpoint {
    pub(crate) name: String,
    /// What its models are called before their own name.
    pub(crate) prefix: String,
    pub(crate) base: Url,
    pub(crate) key: Option<String>,
    pub(crate) dialect: Box<dyn Dialect>,
    pub(crate) upstream: Upstream,
    pub(crate) prices: Prices,
    pub(crate) first_byte_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
}

impl Endpoint {
    /// The key as a header, which was found to fit when the settings were read.
    pub(crate) fn key_header(&self, name: HeaderName, before: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(key) = &self.key
            && let Ok(mut value) = HeaderValue::from_str(&format!("{before}{key}"))
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers
    }

    /// The key as a bearer token.
    pub(crate) fn bearer(&self) -> HeaderMap {
        self.key_header(header::AUTHORIZATION, "Bearer ")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One model of one provider.
pub(crate) struct Provided {
    endpoint: Arc<Endpoint>,
    model: String,
}

impl Provided {
    pub(crate) fn new(endpoint: Arc<Endpoint>, model: &str) -> Self {
        Self { endpoint, model: model.to_owned() }
    }

    async fn call(&self, request: &ModelRequest) -> Result<PostJson> {
        let endpoint = &*self.endpoint;
        let dialect = &endpoint.dialect;
        let url = dialect.url(&endpoint.base, &self.model).ok_or_else(|| {
            Error::new(Code::ModelUnknown, format!("{:?} is no model's name", self.model))
        })?;
        let body = dialect.body(&self.model, request)?.to_string();
        let mut headers = dialect.headers(endpoint, request).await?;
        let accepted = HeaderValue::from_static("text/event-stream, application/json");
        headers.insert(header::ACCEPT, accepted);
        Ok(PostJson {
            url,
            headers,
            body: body.into(),
            deadline: request.deadline,
            first_byte_timeout: endpoint.first_byte_timeout,
            idle_timeout: endpoint.idle_timeout,
        })
    }
}

#[async_trait]
impl Model for Provided {
    async fn respond(
        &self,
        request: ModelRequest,
    ) -> Result<BoxStream<'static, Result<ModelEvent>>> {
        let endpoint = self.endpoint.clone();
        let call = self.call(&request).await?;
        let (reply, verdict) = endpoint
            .upstream
            .post_json(call)
            .await
            .map_err(|failure| failures::of_transport(&endpoint, failure))?;
        if reply.status() != http::StatusCode::OK {
            let status = reply.status();
            let error = failures::of_status(&endpoint, reply).await;
            match error.code {
                // It is there and says what it does not like.
                Code::ModelRejected | Code::ModelUnauthorized => verdict.succeeded(),
                _ if status.is_redirection() => verdict.succeeded(),
                _ => verdict.failed(),
            }
            return Err(error);
        }
        let framing = endpoint.dialect.framing();
        let chunks = if framing == Framing::Events && !is_event_stream(&reply) {
            // Plain JSON of a server that does not stream, or an event stream under
            // another media type: which, its first byte says.
            let whole = match reply.bytes().await {
                Ok(whole) => whole,
                Err(failure) => {
                    verdict.failed();
                    return Err(failures::of_transport(&endpoint, failure));
                }
            };
            let is_json = whole.trim_ascii_start().starts_with(b"{");
            let framing = if is_json { Framing::Lines } else { framing };
            let whole = if is_json { flat(&whole) } else { whole };
            let chunks = futures::stream::iter([Ok(whole)]).boxed();
            return Ok(self.events(chunks, verdict, framing));
        } else {
            reply.chunks()
        };
        Ok(self.events(chunks, verdict, framing))
    }

    fn quotes(&self) -> bool {
        false
    }
}

/// A JSON document on one line. Line ends outside of texts mean nothing, and within
/// texts JSON has none.
fn flat(json: &Bytes) -> Bytes {
    json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

fn is_event_stream(reply: &Reply) -> bool {
    reply.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(
        |value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"),
    )
}

enum Decoder {
    Events(sse::Decoder),
    Lines(Lines),
}

impl Decoder {
    fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<String>, sse::BadStream> {
        match self {
            Self::Events(decoder) => decoder.next(bytes),
            Self::Lines(lines) => lines.next(bytes),
        }
    }

    fn finish(&mut self) -> Option<String> {
        match self {
            Self::Events(decoder) => decoder.finish(),
            Self::Lines(lines) => lines.finish(),
        }
    }
}

struct Streaming {
    endpoint: Arc<Endpoint>,
    model: String,
    chunks: BoxStream<'static, Result<Bytes, Failure>>,
    decoder: Decoder,
    answer: Answer,
    verdict: Option<Verdict>,
    ready: VecDeque<Result<ModelEvent>>,
}

impl Provided {
    fn events(
        &self,
        chunks: BoxStream<'static, Result<Bytes, Failure>>,
        verdict: Verdict,
        framing: Framing,
    ) -> BoxStream<'static, Result<ModelEvent>> {
        let endpoint = self.endpoint.clone();
        let answering = format!("{}/{}", endpoint.prefix, self.model);
        let streaming = Streaming {
            endpoint,
            model: self.model.clone(),
            chunks,
            decoder: match framing {
                Framing::Events => Decoder::Events(sse::Decoder::default()),
                Framing::Lines => Decoder::Lines(Lines::default()),
            },
            answer: Answer::default(),
            verdict: Some(verdict),
            ready: VecDeque::from([Ok(ModelEvent::Answering(answering))]),
        };
        futures::stream::unfold(streaming, |mut streaming| async move {
            while streaming.ready.is_empty() && !streaming.answer.is_over() {
                let chunk = streaming.chunks.next().await;
                streaming.take(chunk);
                if matches!(streaming.ready.back(), Some(Ok(ModelEvent::Finished(_)))) {
                    streaming.reach_body_end().await;
                }
            }
            streaming.ready.pop_front().map(|event| (event, streaming))
        })
        .fuse()
        .boxed()
    }
}

impl Streaming {
    async fn reach_body_end(&mut self) {
        let end = async { while let Some(Ok(_)) = self.chunks.next().await {} };
        // Past the wait the connection is given up, and the reply is as good.
        let _ = tokio::time::timeout(BODY_END_WAIT, end).await;
    }

    /// Reads one piece of the body, or its end, into `ready`. A failure is
    /// queued behind what came whole before it, so that no text is lost.
    fn take(&mut self, chunk: Option<Result<Bytes, Failure>>) {
        match chunk {
            Some(Ok(bytes)) => {
                let mut rest: &[u8] = &bytes;
                while !self.answer.is_over() {
                    match self.decoder.next(&mut rest) {
                        Ok(Some(data)) => {
                            let read = self.read(&data);
                            self.queue(read);
                        }
                        Ok(None) => break,
                        Err(bad) => {
                            self.queue(Err(failures::unreadable(&self.endpoint, bad)));
                        }
                    }
                }
            }
            Some(Err(failure)) => {
                let cut = self.answer.cut(|| failures::of_transport(&self.endpoint, failure));
                self.queue(cut);
            }
            None => {
                if let Some(data) = self.decoder.finish() {
                    match self.read(&data) {
                        // Half an event: what came before it decides.
                        Err(error) if error.code == Code::ModelBadResponse => {}
                        outcome => self.queue(outcome),
                    }
                }
                if !self.answer.is_over() {
                    let cut = self.answer.cut(|| failures::incomplete(&self.endpoint));
                    self.queue(cut);
                }
            }
        }
    }

    fn read(&mut self, data: &str) -> Result<Vec<ModelEvent>> {
        let Self { endpoint, answer, .. } = self;
        endpoint.dialect.read(endpoint, data, answer)
    }

    fn queue(&mut self, outcome: Result<Vec<ModelEvent>>) {
        let failed = outcome.is_err();
        match outcome {
            Ok(events) => {
                let priced = events.into_iter().map(|event| Ok(self.priced(event)));
                let priced: Vec<_> = priced.collect();
                self.ready.extend(priced);
            }
            Err(error) => {
                self.answer.give_up();
                self.ready.push_back(Err(error));
            }
        }
        if self.answer.is_over()
            && let Some(verdict) = self.verdict.take()
        {
            if failed {
                verdict.failed();
            } else {
                verdict.succeeded();
            }
        }
    }

    fn priced(&self, event: ModelEvent) -> ModelEvent {
        match event {
            ModelEvent::Usage(usage) => {
                ModelEvent::Usage(self.endpoint.prices.priced(&self.model, usage))
            }
            event => event,
        }
    }
}
