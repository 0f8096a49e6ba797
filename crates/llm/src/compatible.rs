//! Any server that speaks OpenAI's chat completions: sends the request, reads
//! the stream, or the plain JSON of a server that does not stream, and sorts
//! every failure into a code.

mod answer;
mod failures;
mod prompt;
mod sse;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::{Code, Result};
use agentry_outbound::{Client, Failure, PostJson, Reply, Url};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderValue, header};

use self::answer::Answer;
use crate::model::{Model, ModelEvent, ModelRequest};

/// How long to wait for the body's end behind the answer's end. It comes at
/// once as a rule, and without it the connection cannot be used again.
const BODY_END_WAIT: Duration = Duration::from_millis(200);

/// Where a provider is and how to talk to it.
pub(crate) struct Endpoint {
    name: String,
    url: Url,
    key: Option<String>,
    headers: HeaderMap,
    first_byte_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
}

impl Endpoint {
    /// `None` when the key cannot be put into a header.
    pub(crate) fn new(
        name: &str,
        url: Url,
        key: Option<&str>,
        first_byte_timeout: Option<Duration>,
        idle_timeout: Option<Duration>,
    ) -> Option<Self> {
        let mut headers = HeaderMap::new();
        let accepted = HeaderValue::from_static("text/event-stream, application/json");
        headers.insert(header::ACCEPT, accepted);
        if let Some(key) = key {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
            bearer.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, bearer);
        }
        let (name, key) = (name.to_owned(), key.map(str::to_owned));
        Some(Self { name, url, key, headers, first_byte_timeout, idle_timeout })
    }

    #[cfg(test)]
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One model of one provider.
pub(crate) struct Compatible {
    client: Client,
    endpoint: Arc<Endpoint>,
    model: String,
}

impl Compatible {
    pub(crate) fn new(client: Client, endpoint: Arc<Endpoint>, model: &str) -> Self {
        Self { client, endpoint, model: model.to_owned() }
    }
}

#[async_trait]
impl Model for Compatible {
    async fn respond(
        &self,
        request: ModelRequest,
    ) -> Result<BoxStream<'static, Result<ModelEvent>>> {
        let endpoint = self.endpoint.clone();
        let call = PostJson {
            url: endpoint.url.clone(),
            headers: endpoint.headers.clone(),
            deadline: request.deadline,
            body: prompt::body(&self.model, request),
            first_byte_timeout: endpoint.first_byte_timeout,
            idle_timeout: endpoint.idle_timeout,
        };
        let reply = self
            .client
            .post_json(call)
            .await
            .map_err(|failure| failures::of_transport(&endpoint, failure))?;
        if reply.status() != http::StatusCode::OK {
            return Err(failures::of_status(&endpoint, reply).await);
        }
        if is_event_stream(&reply) {
            return Ok(events(endpoint, reply.chunks()));
        }
        let whole = reply.bytes().await.map_err(|f| failures::of_transport(&endpoint, f))?;
        if whole.trim_ascii_start().starts_with(b"{") {
            let events = answer::read_whole(&endpoint, &whole)?;
            return Ok(futures::stream::iter(events.into_iter().map(Ok)).boxed());
        }
        // An event stream under another media type.
        Ok(events(endpoint, futures::stream::iter([Ok(whole)]).boxed()))
    }

    fn quotes(&self) -> bool {
        false
    }
}

fn is_event_stream(reply: &Reply) -> bool {
    reply.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(
        |value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"),
    )
}

struct Streaming {
    endpoint: Arc<Endpoint>,
    chunks: BoxStream<'static, Result<Bytes, Failure>>,
    decoder: sse::Decoder,
    answer: Answer,
    ready: VecDeque<Result<ModelEvent>>,
}

fn events(
    endpoint: Arc<Endpoint>,
    chunks: BoxStream<'static, Result<Bytes, Failure>>,
) -> BoxStream<'static, Result<ModelEvent>> {
    let streaming = Streaming {
        endpoint,
        chunks,
        decoder: sse::Decoder::default(),
        answer: Answer::default(),
        ready: VecDeque::new(),
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

impl Streaming {
    async fn reach_body_end(&mut self) {
        let end = async { while let Some(Ok(_)) = self.chunks.next().await {} };
        // Past the wait the connection is given up, and the reply is as good.
        let _ = tokio::time::timeout(BODY_END_WAIT, end).await;
    }

    /// Reads one piece of the body, or its end, into `ready`. A failure is
    /// queued behind what came whole before it, so that no text is lost.
    fn take(&mut self, chunk: Option<Result<Bytes, Failure>>) {
        let Self { endpoint, decoder, answer, ready, .. } = self;
        let mut queue = |outcome: Result<Vec<ModelEvent>>, answer: &mut Answer| match outcome {
            Ok(events) => ready.extend(events.into_iter().map(Ok)),
            Err(error) => {
                answer.give_up();
                ready.push_back(Err(error));
            }
        };
        match chunk {
            Some(Ok(bytes)) => {
                let mut rest: &[u8] = &bytes;
                while !answer.is_over() {
                    match decoder.next(&mut rest) {
                        Ok(Some(data)) => queue(answer.read(endpoint, &data), answer),
                        Ok(None) => break,
                        Err(bad) => queue(Err(failures::unreadable(endpoint, bad)), answer),
                    }
                }
            }
            Some(Err(failure)) => {
                queue(answer.cut(|| failures::of_transport(endpoint, failure)), answer);
            }
            None => {
                if let Some(data) = decoder.finish() {
                    match answer.read(endpoint, &data) {
                        // Half an event: what came before it decides.
                        Err(error) if error.code == Code::ModelBadResponse => {}
                        outcome => queue(outcome, answer),
                    }
                }
                if !answer.is_over() {
                    queue(answer.cut(|| failures::incomplete(endpoint)), answer);
                }
            }
        }
    }
}
