//! The server's metrics: rate, errors and duration per route, connections, and
//! whatever the binary registers beside. Handles for a route's labels are
//! resolved once, when the route is registered, so that counting a request is a
//! few atomic operations.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::Code;
use http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::auth_failures::AuthFailures;
use crate::permits::Permits;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The media type of [`plain`].
pub const CONTENT_TYPE_PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same in Prometheus' older format, for whoever does not read OpenMetrics:
/// there a counter's own name ends in `_total`, and there is no end mark.
pub fn plain(openmetrics: &str) -> String {
    let lines = || openmetrics.lines().filter(|line| !line.is_empty());
    let counters: HashSet<&str> =
        lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let about = line.strip_prefix("# HELP ").map(|rest| ("# HELP ", rest));
        let about = about.or_else(|| Some(("# TYPE ", line.strip_prefix("# TYPE ")?)));
        match about.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if counters.contains(name) => {
                text.push_str(&format!("{what}{name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Upper bounds of the duration buckets, in seconds.
const SECONDS_BUCKETS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// What became of a request, as far as a rate of errors needs to know.
const OUTCOMES: [&str; 6] = ["cancelled", "1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: String,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    method: String,
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

/// The metrics of one process. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    requests: Family<OutcomeLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    errors: Vec<Counter>,
    in_flight: Gauge,
    connections: ConnectionMetrics,
}

/// Counters of the accept loop.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    /// Open now.
    pub open: Gauge,
    /// Accepted so far.
    pub accepted: Counter,
    /// Turned away because `connections_max` were open.
    pub refused: Counter,
    /// Closed by the server because the peer was too slow or idle.
    pub timed_out: Counter,
}

/// The handles of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    outcomes: [Counter; OUTCOMES.len()],
    seconds: Histogram,
}

impl RouteMetrics {
    /// Counts one request that took `elapsed` from its head to the end of its
    /// answer; without a status its client went away before there was one.
    pub fn observe(&self, status: Option<StatusCode>, elapsed: Duration) {
        let outcome = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        if let Some(counter) = self.outcomes.get(outcome) {
            counter.inc();
        }
        self.seconds.observe(elapsed.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("agentry");
        let requests = Family::<OutcomeLabels, Counter>::default();
        let seconds = Family::<RouteLabels, Histogram, fn() -> Histogram>::new_with_constructor(
            (|| Histogram::new(SECONDS_BUCKETS)) as fn() -> Histogram,
        );
        let errors = Family::<CodeLabels, Counter>::default();
        let in_flight = Gauge::default();
        let connections = ConnectionMetrics::default();
        registry.register("http_requests", "Requests by route and outcome", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's head to the end of its answer",
            seconds.clone(),
        );
        registry.register("http_errors", "Error answers by code", errors.clone());
        registry.register("http_requests_in_flight", "Requests being worked on", in_flight.clone());
        registry.register("http_connections", "Open connections", connections.open.clone());
        registry.register(
            "http_connections_accepted",
            "Accepted connections",
            connections.accepted.clone(),
        );
        registry.register(
            "http_connections_refused",
            "Connections turned away because the most were open",
            connections.refused.clone(),
        );
        registry.register(
            "http_connections_timed_out",
            "Connections closed because the peer was too slow or idle",
            connections.timed_out.clone(),
        );
        // Indexed by the place in Code::ALL, which is the enum's own order.
        let errors = Code::ALL
            .iter()
            .map(|code| errors.get_or_create_owned(&CodeLabels { code: code.as_str() }))
            .collect();
        Self(Arc::new(Inner {
            registry: Mutex::new(registry),
            requests,
            seconds,
            errors,
            in_flight,
            connections,
        }))
    }

    /// Registers more metrics or collectors; names get the prefix `agentry_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.0.registry.lock());
    }

    /// Shows how many places of each class are taken, and who waits for one.
    pub fn places(&self, places: Vec<(&'static str, Permits)>) {
        self.register(|registry| registry.register_collector(Box::new(Places(places))));
    }

    /// Shows which credentials were refused.
    pub fn auth_failures(&self, failures: Arc<AuthFailures>) {
        self.register(|registry| registry.register_collector(Box::new(Refused(failures))));
    }

    /// Resolves the handles of a route; call once per route.
    pub fn route(&self, method: &str, route: &str) -> RouteMetrics {
        let labels = RouteLabels { method: method.to_owned(), route: route.to_owned() };
        RouteMetrics {
            outcomes: OUTCOMES.map(|status| {
                self.0.requests.get_or_create_owned(&OutcomeLabels {
                    method: labels.method.clone(),
                    route: labels.route.clone(),
                    status,
                })
            }),
            seconds: self.0.seconds.get_or_create_owned(&labels),
        }
    }

    /// Counts an error answer.
    pub fn error(&self, code: Code) {
        if let Some(counter) = self.0.errors.get(code as usize) {
            counter.inc();
        }
    }

    /// The requests being worked on.
    pub fn in_flight(&self) -> &Gauge {
        &self.0.in_flight
    }

    /// The accept loop's counters.
    pub fn connections(&self) -> &ConnectionMetrics {
        &self.0.connections
    }

    /// Everything in OpenMetrics' text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.registry.lock())?;
        Ok(text)
    }
}

/// The places of each class, read when asked.
#[derive(Debug)]
struct Places(Vec<(&'static str, Permits)>);

impl Collector for Places {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Read = fn(&Permits) -> usize;
        let gauges: [(&str, &str, Read); 3] = [
            ("http_places_taken", "Places that requests have", Permits::taken),
            ("http_places", "Places that requests may have at once", Permits::max),
            ("http_requests_waiting", "Requests that wait for a place", Permits::waiting),
        ];
        for (name, help, read) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (class, permits) in &self.0 {
                let value = ConstGauge::new(i64::try_from(read(permits)).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&[("class", *class)])?)?;
            }
        }
        let (name, help) = ("http_requests_refused", "Requests that found no place in time");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (class, permits) in &self.0 {
            let refused = ConstCounter::new(permits.refused());
            refused.encode(family.encode_family(&[("class", *class)])?)?;
        }
        Ok(())
    }
}

/// Credentials that were refused, read when asked.
#[derive(Debug)]
struct Refused(Arc<AuthFailures>);

impl Collector for Refused {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let of = self.0.activity();
        for (name, help, value) in [
            ("auth_failures", "Keys, tickets and tokens that were refused", of.failed),
            (
                "auth_failures_limited",
                "Requests whose credential was not looked at: too many from there were refused",
                of.refused,
            ),
        ] {
            let counter = ConstCounter::new(value);
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        let networks = ConstGauge::new(i64::try_from(of.networks).unwrap_or(i64::MAX));
        networks.encode(encoder.encode_descriptor(
            "auth_failures_networks",
            "Networks whose refused credentials are counted",
            None,
            networks.metric_type(),
        )?)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_says_the_same() {
        let metrics = Metrics::new();
        metrics.route("GET", "/a").observe(Some(StatusCode::OK), Duration::from_millis(2));
        let text = plain(&metrics.encode().unwrap());
        for line in [
            "# TYPE agentry_http_requests_total counter",
            r#"agentry_http_requests_total{method="GET",route="/a",status="2xx"} 1"#,
            "# TYPE agentry_http_request_duration_seconds histogram",
            "# TYPE agentry_http_connections gauge",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn requests_and_errors_are_counted_under_their_labels() {
        let metrics = Metrics::new();
        let route = metrics.route("GET", "/things/{id}");
        route.observe(Some(StatusCode::OK), Duration::from_millis(2));
        route.observe(Some(StatusCode::NOT_FOUND), Duration::from_millis(1));
        route.observe(None, Duration::from_secs(1));
        for code in Code::ALL {
            metrics.error(*code);
        }
        let extra: Counter = Counter::default();
        extra.inc_by(3);
        metrics.register(|registry| registry.register("extra", "More", extra.clone()));
        let text = metrics.encode().unwrap();
        for line in [
            r#"agentry_http_requests_total{method="GET",route="/things/{id}",status="2xx"} 1"#,
            r#"agentry_http_requests_total{method="GET",route="/things/{id}",status="4xx"} 1"#,
            r#"agentry_http_requests_total{method="GET",route="/things/{id}",status="cancelled"} 1"#,
            r#"agentry_http_request_duration_seconds_count{method="GET",route="/things/{id}"} 3"#,
            "agentry_extra_total 3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        for code in Code::ALL {
            let line = format!("agentry_http_errors_total{{code=\"{code}\"}} 1");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
