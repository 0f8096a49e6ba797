//! The router with what must happen before it matches: a trailing slash is
//! dropped and an alias of a path becomes the path.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use http::uri::PathAndQuery;
use http::{Request, Uri};
use tower::Service;

/// Another place for a part of the API: paths that are `from`, or begin with it
/// and a slash, are served as `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The other path, without a trailing slash.
    pub from: &'static str,
    /// The path that the OpenAPI document lists.
    pub to: &'static str,
}

/// The whole HTTP application. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    router: Router,
    aliases: Arc<[Alias]>,
}

impl App {
    /// Puts normalisation before a router.
    pub fn new(router: Router, aliases: &[Alias]) -> Self {
        Self { router, aliases: aliases.into() }
    }
}

impl<B> Service<Request<B>> for App
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(path) = normalised(request.uri().path(), &self.aliases)
            && let Some(uri) = with_path(request.uri(), &path)
        {
            *request.uri_mut() = uri;
        }
        self.router.call(request.map(Body::new))
    }
}

/// The path to serve instead; none when it is already the one.
fn normalised(path: &str, aliases: &[Alias]) -> Option<String> {
    let mut kept = path;
    while kept.len() > 1 && kept.ends_with('/') {
        kept = &kept[..kept.len() - 1];
    }
    for alias in aliases {
        if let Some(rest) = kept.strip_prefix(alias.from)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return Some(format!("{}{rest}", alias.to));
        }
    }
    (kept.len() < path.len()).then(|| kept.to_owned())
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path_and_query = match uri.query() {
        Some(query) => PathAndQuery::from_str(&format!("{path}?{query}")),
        None => PathAndQuery::from_str(path),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_and_aliases_are_normalised_and_queries_kept() {
        let aliases = [
            Alias { from: "/api/graph", to: "/api/v1/graph" },
            Alias { from: "/events", to: "/api/v1/events" },
        ];
        for (sent, served) in [
            ("/", "/"),
            ("/api/v1/agents", "/api/v1/agents"),
            ("/api/v1/agents/", "/api/v1/agents"),
            ("/api/v1/agents///?limit=2", "/api/v1/agents?limit=2"),
            ("/api/graph", "/api/v1/graph"),
            ("/api/graph/nodes/?q=%2F", "/api/v1/graph/nodes?q=%2F"),
            ("/api/graphics", "/api/graphics"),
            ("/events/", "/api/v1/events"),
            ("//", "/"),
        ] {
            let uri: Uri = sent.parse().unwrap();
            let path = normalised(uri.path(), &aliases);
            let result = match path {
                Some(path) => with_path(&uri, &path).unwrap(),
                None => uri,
            };
            assert_eq!(result.to_string(), served, "{sent}");
        }
    }
}
