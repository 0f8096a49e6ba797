//! Metrics as others read them: Prometheus' own tools, the dashboard and the alerts
//! in `deploy/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentry_testkit::identity_provider::{Alg, IdentityProvider, SigningKey};
use agentry_testkit::trace_sink::{SinkSpan, TraceSink};
use agentry_testkit::{Behaviour, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Engine, Process, Server, answer, wait_until};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}

fn tool(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.unwrap_or_else(|| panic!("{variable} is not set: run `make test`")).into()
}

/// A server of which every metric can be seen, with something to be counted.
async fn busy() -> (Server, IdentityProvider) {
    let provider = IdentityProvider::start(&[&SigningKey::new("one", Alg::Es256)]).await;
    let url = provider.url();
    let settings = [
        ("AGENTRY_TOKENS__JWKS_URL", url.as_str()),
        ("AGENTRY_TOKENS__ISSUER", "https://id.example"),
        ("AGENTRY_TOKENS__AUDIENCES", "agentry"),
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", "http://127.0.0.1:9/v1"),
    ];
    let server = Server::start_with(Engine::Sqlite, &settings).await;
    server.post("/api/v1/agents", json!({"name": "a"})).await;
    server.get("/api/v1/agents").await;
    server.get("/api/v1/agents/none").await;
    (server, provider)
}

async fn metrics(server: &Process, accept: &str) -> (String, String) {
    let request = server.request(Method::GET, "/metrics").header("accept", accept);
    let response = request.send().await.unwrap();
    let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    (media_type, response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_has_nothing_to_say_of_the_metrics() {
    let (server, _provider) = busy().await;
    let (media_type, text) = metrics(&server, "text/plain").await;
    assert!(media_type.starts_with("text/plain; version=0.0.4"), "{media_type}");
    let path = server.home.data.path().join("metrics.txt");
    std::fs::write(&path, &text).unwrap();
    let checked = Command::new(tool("AGENTRY_TEST_PROMTOOL"))
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}");
    let (media_type, text) = metrics(&server, "*/*").await;
    assert!(media_type.starts_with("application/openmetrics-text"), "{media_type}");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn every_alert_fires_when_it_is_to() {
    let checked = |arguments: [&str; 3]| {
        let output = Command::new(tool("AGENTRY_TEST_PROMTOOL")).args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    };
    let (rules, tests) = (deploy("prometheus/alerts.yml"), deploy("prometheus/alerts.test.yml"));
    checked(["check", "rules", rules.to_str().unwrap()]);
    checked(["test", "rules", tests.to_str().unwrap()]);
    // And each alert that there is has its test, in both ways.
    let (rules, tests) =
        (std::fs::read_to_string(rules).unwrap(), std::fs::read_to_string(tests).unwrap());
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 8, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert} is quiet");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} fires");
    }
}

/// The names of our metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("agentry_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_is_named_is_there() {
    let (server, _provider) = busy().await;
    let (_, text) = metrics(&server, "text/plain").await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<&str> =
        samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    for file in ["grafana/agentry.json", "prometheus/alerts.yml", "prometheus/alerts.test.yml"] {
        let names = named(&std::fs::read_to_string(deploy(file)).unwrap());
        assert!(names.len() > 8, "{file}: {names:?}");
        for name in names {
            assert!(there.contains(name.as_str()), "{file} names {name}, which is not there");
        }
    }
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(deploy("grafana/agentry.json")).unwrap())
            .unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_scrapes_us() {
    let (server, _provider) = busy().await;
    let key = json!({"name": "prometheus", "role": "admin", "scopes": ["metrics"]});
    let key = server.key_of(key).await;
    let directory = server.home.data.path();
    std::fs::write(directory.join("metrics.key"), key).unwrap();
    // The configuration that is shipped, at this server.
    let target = server.url.strip_prefix("http://").unwrap();
    let configuration = std::fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
    let configuration = configuration.replace("127.0.0.1:8881", target).replace("15s", "1s");
    std::fs::write(directory.join("prometheus.yml"), configuration).unwrap();
    std::fs::copy(deploy("prometheus/alerts.yml"), directory.join("alerts.yml")).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut prometheus = Command::new(tool("AGENTRY_TEST_PROMETHEUS"))
        .arg(format!("--config.file={}", directory.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()))
        .arg(format!("--web.listen-address={free}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ask = |query: &str| {
        let url = format!("http://{free}/api/v1/query?query={query}");
        let client = &server.client;
        async move {
            let Ok(response) = client.get(url).send().await else { return Value::Null };
            response.json::<Value>().await.unwrap_or_default()["data"]["result"].clone()
        }
    };
    let value = |result: &Value| result[0]["value"][1].as_str().map(str::to_owned);
    wait_until(|| async { value(&ask("up").await).as_deref() == Some("1") }).await;
    wait_until(|| async {
        let made = ask("sum(agentry_http_requests_total{status=%222xx%22})").await;
        value(&made).is_some_and(|count| count.parse::<f64>().unwrap() >= 2.0)
    })
    .await;
    let buckets = ask("count(agentry_http_request_duration_seconds_bucket)").await;
    assert!(value(&buckets).is_some(), "{buckets}");
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
    let by_key = server.request_by("ak_none", Method::GET, "/metrics");
    assert_eq!(answer(by_key).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_reaches_from_the_request_to_the_provider() {
    let (sink, model) = (TraceSink::start().await, ModelServer::start().await);
    model.by_default(Behaviour::echo());
    let (endpoint, provider) = (sink.url(), model.base_url());
    let settings = [
        ("AGENTRY_TRACES__ENDPOINT", endpoint.as_str()),
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", provider.as_str()),
    ];
    let server = Server::start_with(Engine::Sqlite, &settings).await;
    let agent = json!({"name": "far", "model": "compatible/near/m"});
    let (_, agent) = server.post("/api/v1/agents", agent).await;
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = server.request(Method::POST, &path).json(&json!({"message": "Hello"}));
    let (status, run) =
        answer(request.header("traceparent", format!("00-{trace}-{parent}-01"))).await;
    assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
    let of_trace = || -> Vec<SinkSpan> {
        sink.spans().into_iter().filter(|span| span.trace == trace).collect()
    };
    let named = |spans: &[SinkSpan], name: &str| {
        spans.iter().find(|span| span.name.starts_with(name)).cloned()
    };
    wait_until(|| async {
        let spans = of_trace();
        ["POST /api", "store.write", "POST"].iter().all(|name| named(&spans, name).is_some())
            && spans.len() >= 4
    })
    .await;
    let spans = of_trace();
    let request = named(&spans, "POST /api/v1/agents/{id}/runs").unwrap();
    assert_eq!(request.parent, parent);
    let has = |key: &str| request.attributes.iter().any(|(name, _)| name == key);
    assert!(has("http.route") && has("http.response.status_code"), "{request:?}");
    // Every other one is below it, and the provider heard of its own.
    for span in spans.iter().filter(|span| span.id != request.id) {
        assert!(spans.iter().any(|above| above.id == span.parent), "{span:?}");
    }
    let call = spans.iter().find(|span| span.name == "POST").unwrap();
    let heard = model.received()[0].headers["traceparent"].to_str().unwrap().to_owned();
    assert_eq!(heard, format!("00-{trace}-{}-01", call.id));
    // Without a trace of its own a request begins one.
    server.get("/api/v1/agents").await;
    wait_until(|| async {
        let list = named(&sink.spans(), "GET /api/v1/agents");
        list.is_some_and(|span| span.parent.is_empty() && span.trace != trace)
    })
    .await;
}
