//! Evidence from our own run files.

use std::collections::BTreeMap;
use std::path::Path;

use super::evidence::{Evidence, Phase, Row};
use crate::report;
use crate::run_file::EndpointInterval;
use crate::scenario::{Overrides, Plan, Surroundings};
use crate::summary::{EndpointSummary, Summary};
use crate::verdict::judge;

/// A run that is shorter says nothing of steady load, in seconds.
const STEADY_SECONDS: f64 = 5.0;

pub(super) fn read(path: &Path) -> Result<Evidence, String> {
    let (summary, slos) = report::read(path)?;
    Ok(Evidence { phases: vec![phase(&summary, &judge(&summary, &slos).invalid)], claims: vec![] })
}

pub(super) fn phase(summary: &Summary, invalid: &[String]) -> Phase {
    let header = &summary.header;
    let vary = should_vary(summary);
    let endpoints: BTreeMap<String, Row> = summary
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.count() > 0)
        .map(|endpoint| {
            let mut row = row(summary, endpoint);
            row.should_vary = vary.contains(&endpoint.name);
            (endpoint.name.clone(), row)
        })
        .collect();
    let closed = header.load.model == "closed" && summary.seconds() >= STEADY_SECONDS;
    let pauses = summary.generator.offered;
    Phase {
        name: format!("{} {}", header.scenario, header.profile),
        users: closed.then(|| mean_users(summary)),
        think_seconds: header.load.think_seconds.map(|[low, high]| f64::midpoint(low, high)),
        requests_per_pause: (pauses > 0).then(|| summary.all.count() as f64 / pauses as f64),
        minutes: Some(summary.seconds() / 60.0),
        resources_measured: summary.target_cpus().is_some(),
        times_include_failures: false,
        invalid: invalid.to_vec(),
        generator_busy: Some(summary.generator.busiest_thread()),
        total: row(summary, &summary.all),
        endpoints,
    }
}

/// As many as had begun, second by second.
fn mean_users(summary: &Summary) -> f64 {
    let whole = summary.timeline.iter().filter(|point| !point.warmup && point.users > 0);
    let (sum, count) = whole.fold((0, 0), |(sum, count), point| (sum + point.users, count + 1));
    if count == 0 { f64::from(summary.header.load.users) } else { sum as f64 / f64::from(count) }
}

fn row(summary: &Summary, endpoint: &EndpointSummary) -> Row {
    let EndpointInterval { response, bodies, .. } = &endpoint.ok;
    let time = |seconds: f64| (!response.is_empty()).then_some(seconds * 1e3);
    Row {
        requests: Some(endpoint.count() as f64),
        failures: Some(endpoint.failed.count as f64),
        failures_percent: None,
        rate: Some(summary.rate_of(endpoint)),
        min: time(response.min()),
        mean: time(response.mean()),
        p50: time(response.quantile(0.5)),
        p95: time(response.quantile(0.95)),
        p99: time(response.quantile(0.99)),
        max: time(response.max()),
        bodies: Some(*bodies),
        should_vary: false,
    }
}

/// Endpoints that read something that differs from one request to the next, by
/// the scenario itself: a path with a saved value in it.
fn should_vary(summary: &Summary) -> Vec<String> {
    let env = |_: &str| Some(String::new());
    let around = Surroundings { env: &env, run: "" };
    let target = Overrides { target: Some(summary.header.target.clone()), ..Overrides::default() };
    let Ok(plan) = Plan::read(&summary.header.scenario_text, &target, &around) else {
        return Vec::new();
    };
    let steps = plan.flows.iter().flat_map(|flow| &flow.steps);
    let reads = steps.filter(|step| step.stream.is_none() && step.request.reads_saved());
    reads.filter_map(|step| plan.endpoints.get(step.endpoint).cloned()).collect()
}
