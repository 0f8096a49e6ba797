//! A collector of traces: takes OTLP over HTTP, as protobuf, and keeps what came.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use agentry_domain::background::Tasks;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;

/// A span that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSpan {
    /// The trace, in base-16.
    pub trace: String,
    /// Its id, in base-16.
    pub id: String,
    /// Its parent's id; empty for the first.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// Attributes, as text.
    pub attributes: Vec<(String, String)>,
}

/// The collector's server. It stops when dropped.
pub struct TraceSink {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<SinkSpan>>>,
    tasks: Tasks,
}

impl TraceSink {
    /// Starts one.
    pub async fn start() -> Self {
        let spans = Arc::<Mutex<Vec<SinkSpan>>>::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        let tasks = Tasks::default();
        let stopping = tasks.stopping().clone();
        tasks.spawn(async move {
            let serving = axum::serve(listener, router);
            let _ = stopping.run_until_cancelled(serving.into_future()).await;
        });
        Self { address, spans, tasks }
    }

    /// Where to send spans.
    pub fn url(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// What came so far.
    pub fn spans(&self) -> Vec<SinkSpan> {
        self.spans.lock().clone()
    }
}

impl Drop for TraceSink {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn take(
    State(spans): State<Arc<Mutex<Vec<SinkSpan>>>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if headers.get(header::CONTENT_TYPE).is_none_or(|it| it != "application/x-protobuf") {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let came = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .map(|span| SinkSpan {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            name: span.name,
            attributes: span
                .attributes
                .into_iter()
                .map(|attribute| (attribute.key, format!("{:?}", attribute.value)))
                .collect(),
        });
    spans.lock().extend(came);
    StatusCode::OK
}
