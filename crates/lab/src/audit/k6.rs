//! Evidence from k6: the file of `--summary-export`, or the data of
//! `handleSummary`. k6 puts the times of failed requests in with the others.

use serde_json::Value;

use super::evidence::{Evidence, Phase, Row};

/// # Errors
/// When it has no HTTP metrics.
pub(super) fn read(name: &str, text: &str) -> Result<Evidence, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let metrics = &document["metrics"];
    // handleSummary has one level more.
    let metric = |name: &str| {
        let metric = &metrics[name];
        if metric["values"].is_object() { &metric["values"] } else { metric }
    };
    let (requests, duration) = (metric("http_reqs"), metric("http_req_duration"));
    if !requests["count"].is_number() || !duration["avg"].is_number() {
        return Err("no k6 summary: metrics.http_reqs and http_req_duration are missing".to_owned());
    }
    let failed = metric("http_req_failed");
    let share = failed["rate"].as_f64().or_else(|| failed["value"].as_f64());
    let count = requests["count"].as_f64();
    let vus = metric("vus_max");
    let phase = Phase {
        name: name.to_owned(),
        users: vus["max"].as_f64().or_else(|| vus["value"].as_f64()),
        times_include_failures: true,
        total: Row {
            requests: count,
            failures: share.zip(count).map(|(share, count)| share * count),
            rate: requests["rate"].as_f64(),
            min: duration["min"].as_f64(),
            mean: duration["avg"].as_f64(),
            p50: duration["med"].as_f64(),
            p95: duration["p(95)"].as_f64(),
            p99: duration["p(99)"].as_f64(),
            max: duration["max"].as_f64(),
            ..Row::default()
        },
        ..Phase::default()
    };
    Ok(Evidence { phases: vec![phase], claims: Vec::new() })
}
