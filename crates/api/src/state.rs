//! What handlers work with.

use std::sync::Arc;

use agentry_engine::Engine;
use agentry_events::Events;
use agentry_gateway::{Metrics, Readiness, Stop};
use bytes::Bytes;

/// Shared by every handler; cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Inner>);

/// What is in an [`ApiState`].
pub struct Inner {
    /// The use cases.
    pub engine: Engine,
    /// The log, to be listened to.
    pub events: Events,
    /// The server's metrics.
    pub metrics: Metrics,
    /// Whether the server should be sent requests.
    pub readiness: Readiness,
    /// When the server stops.
    pub stop: Stop,
    /// The OpenAPI document as JSON, or why there is none.
    pub document: Result<Bytes, String>,
}

impl ApiState {
    /// Puts it together.
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl std::ops::Deref for ApiState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
