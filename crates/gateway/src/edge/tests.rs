use std::collections::HashMap;
use std::convert::Infallible;

use agentry_domain::ids::OrgId;
use agentry_domain::ports::SystemEntropy;
use agentry_domain::{Permission, Role};
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tower::ServiceExt as _;
use utoipa::openapi::OpenApi;

use super::*;
use crate::context::Authenticated;
use crate::op;
use crate::operations::Operations;

/// Keys `owner` and `viewer`, and `other` of another organisation; everything else is
/// unknown.
struct Keys;

#[async_trait::async_trait]
impl Authenticate for Keys {
    async fn authenticate(&self, secret: &str) -> Result<Caller> {
        let role = match secret {
            "owner" | "" => Role::Owner,
            "viewer" => Role::Viewer,
            "other" => Role::Owner,
            _ => return Err(Error::new(Code::Unauthenticated, "unknown key")),
        };
        let org = if secret == "other" { 2 } else { 1 };
        Ok(Caller::of(OrgId::from_bytes([org; 16]), None, role))
    }

    async fn redeem(&self, ticket: &str) -> Result<Caller> {
        self.authenticate(ticket.trim_start_matches("at_")).await
    }

    async fn accept_token(&self, _claims: &agentry_domain::tokens::Claims) -> Result<Caller> {
        Err(Error::new(Code::Unauthenticated, "no tokens here"))
    }
}

#[async_trait::async_trait]
impl Limit for Keys {
    async fn check(&self, _caller: &Caller, _work: agentry_domain::limits::Work) -> Limited {
        Limited::FREE
    }
}

impl Audit for Keys {
    fn denied(&self, _denial: Denial<'_>) {}
}

fn render(error: &Error, context: &ErrorContext<'_>) -> Response {
    let status = match error.code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::TooManyAuthFailures => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let text = format!("{} {} {}", error.code, context.path, context.request_id.as_str());
    (status, text).into_response()
}

#[utoipa::path(get, path = "/open", responses((status = 200)))]
async fn open() -> &'static str {
    "open"
}

#[utoipa::path(get, path = "/role", responses((status = 200)))]
async fn role(Authenticated(caller): Authenticated) -> &'static str {
    caller.role.as_str()
}

#[utoipa::path(post, path = "/things", responses((status = 200)))]
async fn echo(body: Body) -> Result<Bytes, Failure> {
    Ok(body::read(body).await?)
}

#[utoipa::path(get, path = "/things", responses((status = 200)))]
async fn fails() -> Failure {
    Failure::from(Error::internal("broken on purpose"))
}

#[utoipa::path(get, path = "/panics", responses((status = 200)))]
async fn panics() -> &'static str {
    panic!("on purpose")
}

#[utoipa::path(get, path = "/streams", responses((status = 200)))]
async fn streams(State(go_on): State<Arc<Notify>>) -> Body {
    let chunks = futures::stream::once(async move {
        go_on.notified().await;
        Ok::<_, Infallible>(Bytes::from("end"))
    });
    Body::from_stream(chunks)
}

#[utoipa::path(get, path = "/silent", responses((status = 200)))]
async fn silent() {
    std::future::pending::<()>().await;
}

struct Harness {
    app: App,
    metrics: Metrics,
    go_on: Arc<Notify>,
}

fn harness(mode: AccessMode) -> Harness {
    harness_with(mode, EdgeOptions::default())
}

fn harness_with(mode: AccessMode, options: EdgeOptions) -> Harness {
    let go_on = Arc::new(Notify::new());
    let metrics = Metrics::new();
    let (router, _document, table) = Operations::new(OpenApi::default())
        .with(op!(open, Probe, open))
        .with(op!(AgentsRead, Request, role))
        .with(op!(AgentsWrite, Request, echo))
        .with(op!(AgentsRead, Request, fails))
        .with(op!(AgentsRead, Request, panics))
        .with(op!(RunsRead, Stream, streams))
        .with(op!(RunsRead, Run, silent))
        .finish(Arc::clone(&go_on), &metrics);
    let options = EdgeOptions {
        body_bytes_max: 10,
        streams_in_flight_max: 1,
        subscriptions_max: 1,
        run_within: Duration::from_millis(5),
        ..options
    };
    let edge = Edge {
        options,
        mode,
        authenticate: Arc::new(Keys),
        tokens: None,
        limit: Arc::new(Keys),
        audit: Arc::new(Keys),
        metrics: metrics.clone(),
        render,
        tasks: Tasks::default(),
    };
    Harness { app: edge.around(router, table, &[], &SystemEntropy::default()), metrics, go_on }
}

fn request(method: &str, path: &str, key: &str) -> http::request::Builder {
    let builder = http::Request::builder().method(method).uri(path);
    if key.is_empty() { builder } else { builder.header("x-api-key", key) }
}

async fn send(app: &App, request: Request) -> (StatusCode, String, HashMap<String, String>) {
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap(), headers)
}

async fn get(app: &App, path: &str, key: &str) -> (StatusCode, String) {
    let request = request("GET", path, key).body(Body::empty()).unwrap();
    let (status, body, _) = send(app, request).await;
    (status, body)
}

#[tokio::test]
async fn a_role_gets_what_it_is_allowed() {
    let Harness { app, .. } = harness(AccessMode::Keys);
    assert_eq!(get(&app, "/open", "").await, (StatusCode::OK, "open".into()));
    assert_eq!(get(&app, "/role", "owner").await, (StatusCode::OK, "owner".into()));
    assert_eq!(get(&app, "/role", "viewer").await, (StatusCode::OK, "viewer".into()));
    assert_eq!(get(&app, "/role", "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&app, "/role", "wrong").await.0, StatusCode::UNAUTHORIZED);
    let post = request("POST", "/things", "viewer").body(Body::from("x")).unwrap();
    assert_eq!(send(&app, post).await.0, StatusCode::FORBIDDEN);
    assert!(Role::Owner.allows(Permission::AgentsWrite));
    let post = request("POST", "/things/", "owner").body(Body::from("x")).unwrap();
    assert_eq!(send(&app, post).await.1, "x", "with a trailing slash too");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_without_a_key() {
    let Harness { app, metrics, .. } = harness(AccessMode::Keys);
    let (status, body) = get(&app, "/nowhere", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.starts_with("not_found /nowhere "), "{body}");
    let delete = request("DELETE", "/things", "").body(Body::empty()).unwrap();
    let (status, body, headers) = send(&app, delete).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body.starts_with("method_not_allowed /things"), "{body}");
    let mut allowed: Vec<_> = headers["allow"].split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    let text = metrics.encode().unwrap();
    assert!(
        text.contains(r#"http_requests_total{method="any",route="unmatched",status="4xx"} 2"#),
        "{text}"
    );
}

#[tokio::test]
async fn every_answer_carries_the_request_id() {
    let Harness { app, .. } = harness(AccessMode::Keys);
    for (path, key) in [("/open", ""), ("/role", ""), ("/nowhere", ""), ("/panics", "owner")] {
        let sent = request("GET", path, key).header("x-request-id", "mine").body(Body::empty());
        let (_, _, headers) = send(&app, sent.unwrap()).await;
        assert_eq!(headers["x-request-id"], "mine", "{path}");
        let sent = request("GET", path, key).body(Body::empty());
        let (_, _, headers) = send(&app, sent.unwrap()).await;
        assert!(!headers["x-request-id"].is_empty());
    }
}

#[tokio::test]
async fn a_failure_or_a_panic_is_rendered_and_counted() {
    let Harness { app, metrics, .. } = harness(AccessMode::Keys);
    for path in ["/things", "/panics"] {
        let (status, body) = get(&app, path, "owner").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(body.starts_with(&format!("internal {path} ")), "{body}");
    }
    let text = metrics.encode().unwrap();
    assert!(text.contains(r#"agentry_http_errors_total{code="internal"} 2"#), "{text}");
    assert!(
        text.contains(r#"http_requests_total{method="GET",route="/panics",status="5xx"} 1"#),
        "{text}"
    );
    assert!(text.contains("agentry_http_requests_in_flight 0"), "{text}");
}

#[tokio::test]
async fn a_body_past_the_limit_is_refused_with_or_without_a_length() {
    let Harness { app, .. } = harness(AccessMode::Keys);
    let fits = request("POST", "/things", "owner").body(Body::from("0123456789")).unwrap();
    assert_eq!(send(&app, fits).await.0, StatusCode::OK);
    let over = request("POST", "/things", "owner").body(Body::from("0123456789a")).unwrap();
    assert_eq!(send(&app, over).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let chunks = ["01234", "56789", "a"].map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
    let body = Body::from_stream(futures::stream::iter(chunks));
    let over = request("POST", "/things", "owner").body(body).unwrap();
    assert_eq!(send(&app, over).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_stream_holds_its_permit_until_it_ends() {
    let Harness { app, metrics, go_on } = harness(AccessMode::Keys);
    let open = || request("GET", "/streams", "owner").body(Body::empty()).unwrap();
    let first = app.clone().oneshot(open()).await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let in_flight = "agentry_http_requests_in_flight 1";
    assert!(metrics.encode().unwrap().contains(in_flight));

    let second = app.clone().oneshot(open()).await.unwrap();
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&app, "/role", "owner").await.0, StatusCode::OK, "reads go on");

    go_on.notify_one();
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "end");
    let third = app.clone().oneshot(open()).await.unwrap();
    assert_eq!(third.status(), StatusCode::OK);
    drop(third);
    assert!(metrics.encode().unwrap().contains("agentry_http_requests_in_flight 0"));
}

#[tokio::test]
async fn one_organisation_does_not_take_the_whole_queue() {
    let options = EdgeOptions {
        queue_requests_max: 4,
        queue_org_requests_max: 1,
        queue_wait_max: Duration::from_secs(60),
        ..EdgeOptions::default()
    };
    let Harness { app, go_on, .. } = harness_with(AccessMode::Keys, options);
    let open = |key| {
        let request = request("GET", "/streams", key).body(Body::empty()).unwrap();
        app.clone().oneshot(request)
    };
    let first = open("owner").await.unwrap();
    let mut second = std::pin::pin!(open("owner"));
    assert!(futures::poll!(second.as_mut()).is_pending());
    let too_many = open("owner").await.unwrap();
    assert_eq!(too_many.status(), StatusCode::SERVICE_UNAVAILABLE);
    let mut other = std::pin::pin!(open("other"));
    assert!(futures::poll!(other.as_mut()).is_pending());
    for waits in [second.as_mut(), other.as_mut()] {
        assert!(futures::poll!(waits).is_pending());
    }
    drop(first);
    let second = second.await.unwrap();
    assert_eq!(second.status(), StatusCode::OK);
    assert!(futures::poll!(other.as_mut()).is_pending());
    go_on.notify_one();
    assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "end");
    assert_eq!(other.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn wrong_keys_of_an_address_have_a_bound_and_good_ones_pass() {
    let rate = Rate { per_minute: NonZeroU32::MIN, burst: NonZeroU32::MIN.saturating_add(1) };
    let options = EdgeOptions { auth_failures: Some(rate), ..EdgeOptions::default() };
    let Harness { app, metrics, .. } = harness_with(AccessMode::Keys, options);
    let ask = async |key: &str, from: [u8; 4]| {
        let mut request = request("GET", "/role", key).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer((from, 1).into()));
        send(&app, request).await.0
    };
    let (near, far) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    assert_eq!(ask("owner", far).await, StatusCode::OK);
    for expected in [StatusCode::UNAUTHORIZED; 2] {
        assert_eq!(ask("wrong", near).await, expected);
    }
    for (key, from, expected) in [
        ("wrong", near, StatusCode::TOO_MANY_REQUESTS),
        // Seen good before, from wherever; not yet; and elsewhere.
        ("owner", near, StatusCode::OK),
        ("viewer", near, StatusCode::TOO_MANY_REQUESTS),
        ("", near, StatusCode::UNAUTHORIZED),
        ("viewer", far, StatusCode::OK),
        ("viewer", near, StatusCode::OK),
        ("wrong", far, StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(ask(key, from).await, expected, "{key} from {from:?}");
    }
    let text = metrics.encode().unwrap();
    assert!(text.contains("agentry_auth_failures_limited_total 2\n"), "{text}");
}

#[tokio::test]
async fn a_deadline_passes_and_the_permit_comes_back() {
    let Harness { app, .. } = harness(AccessMode::Keys);
    for _ in 0..2 {
        let (status, body) = get(&app, "/silent", "owner").await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert!(body.starts_with("deadline_exceeded /silent "), "{body}");
    }
}

#[tokio::test]
async fn without_keys_a_page_from_elsewhere_is_refused() {
    let Harness { app, .. } = harness(AccessMode::Loopback);
    for (host, origin, path, expected) in [
        ("127.0.0.1:8881", None, "/role", StatusCode::OK),
        ("localhost:8881", Some("http://localhost:3000"), "/role", StatusCode::OK),
        ("localhost:8881", Some("http://evil.example"), "/role", StatusCode::FORBIDDEN),
        ("evil.example", None, "/role", StatusCode::FORBIDDEN),
        ("evil.example", None, "/open", StatusCode::FORBIDDEN),
        ("evil.example", None, "/nowhere", StatusCode::FORBIDDEN),
    ] {
        let mut sent = request("GET", path, "").header("host", host);
        if let Some(origin) = origin {
            sent = sent.header("origin", origin);
        }
        let (status, _, _) = send(&app, sent.body(Body::empty()).unwrap()).await;
        assert_eq!(status, expected, "{host} {origin:?} {path}");
    }
}
