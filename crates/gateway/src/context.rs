//! What the edge tells a handler about its request, and what a handler gives
//! back when it fails: an error of the domain, which the edge renders with the
//! request's id and path.

use std::sync::Arc;

use agentry_domain::{Caller, Error};
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use tokio::time::Instant;

use crate::request_id::RequestId;

/// One request, as the edge let it in. Stands in the request's extensions.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Its id.
    pub request_id: RequestId,
    /// When its answer must have begun.
    pub deadline: Instant,
    /// Who asks; none on open operations.
    pub caller: Option<Caller>,
}

/// Where an error happened, for the function that writes it.
#[derive(Clone, Copy, Debug)]
pub struct ErrorContext<'a> {
    /// The request's id.
    pub request_id: &'a RequestId,
    /// The request's path, after normalisation.
    pub path: &'a str,
}

/// Extracts the caller. A handler that takes it must stand behind a permission.
#[derive(Clone, Copy, Debug)]
pub struct Authenticated(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for Authenticated {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        parts
            .extensions
            .get::<RequestContext>()
            .and_then(|context| context.caller)
            .map(Self)
            .ok_or_else(|| Failure::from(Error::internal("an open operation asked for its caller")))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Failure::from(Error::internal("a request came around the edge")))
    }
}

/// A failed request on its way to the edge: an empty answer that carries the
/// error, which the edge replaces by the rendered one.
#[derive(Clone, Debug)]
pub struct Failure(pub Arc<Error>);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(Arc::new(error))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
