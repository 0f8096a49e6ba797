//! Logging, and traces for whoever collects them: spans go to an OpenTelemetry
//! collector over OTLP (protobuf over HTTP), in batches, from a thread of its own.
//! Off by default, and then a span costs one look at a static.
//!
//! Spans of traces have the target `traces` and the level TRACE, so that no log
//! shows them. A request's `traceparent` (W3C Trace Context) is its span's parent,
//! and calls to providers carry their span's on.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{LogFormat, Settings};

/// What spans of traces are called by.
const TARGET: &str = "traces";

/// Traces that go to a collector; those that wait go when this is dropped.
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// Starts logging and, when a collector is configured, traces.
pub(crate) fn start(settings: &Settings) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_new(&settings.log).context("log")?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let provider = provider(settings)?;
    let spans = provider.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("agentry"));
        layer.with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE))
    });
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).init();
    if provider.is_some() {
        agentry_gateway::trace::link_with(link);
        agentry_outbound::carry_with(carry);
    }
    Ok(Telemetry(provider))
}

fn provider(settings: &Settings) -> anyhow::Result<Option<SdkTracerProvider>> {
    let Some(endpoint) = &settings.traces.endpoint else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()
        .context("traces.endpoint")?;
    // A caller that samples its trace has ours sampled, too.
    let ratio = Sampler::TraceIdRatioBased(settings.traces.sampled);
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(ratio)))
        .with_resource(Resource::builder().with_service_name("agentry").build())
        .build();
    Ok(Some(provider))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            self.0.insert(name, value);
        }
    }
}

/// Makes the span that a request names the parent of ours.
fn link(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    let _ = span.set_parent(parent);
}

/// Names the current span to whoever is called.
fn carry(headers: &mut HeaderMap) {
    let context = Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut HeadersMut(headers));
}
