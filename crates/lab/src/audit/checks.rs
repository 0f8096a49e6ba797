//! The checks. A tolerance is wide enough for rounding and for noise, so that a
//! finding is a flaw and not a matter of taste.

use super::evidence::{Claim, Evidence, Phase, Row};

/// Something that a result cannot claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The name of the check.
    pub(crate) check: &'static str,
    /// What is wrong, with the figures that show it.
    pub(crate) says: String,
}

type Check = fn(&Evidence) -> Vec<String>;

/// All checks by name, in the order in which they are made.
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("generator_bound", generator_bound),
    ("littles_law", littles_law),
    ("saturated", saturated),
    ("think_time_bound", think_time_bound),
    ("percentiles_out_of_order", percentiles_out_of_order),
    ("rows_do_not_add_up", rows_do_not_add_up),
    ("failures_do_not_add_up", failures_do_not_add_up),
    ("durations_do_not_add_up", durations_do_not_add_up),
    ("errors_in_latencies", errors_in_latencies),
    ("errors_as_throughput", errors_as_throughput),
    ("constant_bodies", constant_bodies),
    ("identical_rows", identical_rows),
    ("timer_not_component", timer_not_component),
    ("projection_beyond_data", projection_beyond_data),
    ("rates_of_separate_tests_added", rates_added),
    ("traffic_miscounted", traffic_miscounted),
    ("claim_from_easier_phase", claim_from_easier_phase),
    ("resources_unmeasured", resources_unmeasured),
    ("ratio_of_wrong_column", ratio_of_wrong_column),
    ("baseline_not_measured", baseline_not_measured),
];

/// Makes every check.
pub(crate) fn audit(evidence: &Evidence) -> Vec<Finding> {
    let findings = CHECKS.iter().flat_map(|(name, check)| {
        check(evidence).into_iter().map(move |says| Finding { check: name, says })
    });
    findings.collect()
}

fn generator_bound(evidence: &Evidence) -> Vec<String> {
    let invalid = evidence.phases.iter().flat_map(|phase| {
        phase.invalid.iter().map(move |reason| format!("{}: {reason}", phase.name))
    });
    let busy =
        evidence.phases.iter().filter(|phase| phase.invalid.is_empty()).filter_map(|phase| {
            let busy = phase.generator_busy.filter(|busy| *busy > 0.95)?;
            Some(format!(
                "{}: the generator's busiest thread ran {:.0} % of the time; the rate is the \
             generator's, not the target's",
                phase.name,
                busy * 100.0
            ))
        });
    invalid.chain(busy).collect()
}

/// The most that the mean can be: each value at the upper end of its part.
fn mean_at_most(row: &Row) -> Option<f64> {
    let (p50, p95, max) = (row.p50?, row.p95?, row.max?);
    let p99 = row.p99.unwrap_or(max);
    Some(0.5 * p50 + 0.45 * p95 + 0.04 * p99 + 0.01 * max)
}

/// N = X (R + Z): users, throughput, response time and pause belong together.
fn littles_law(evidence: &Evidence) -> Vec<String> {
    const TOLERANCE: f64 = 0.15;
    let mut findings = Vec::new();
    for phase in &evidence.phases {
        let (Some(users), Some(rate), Some(think)) =
            (phase.users, phase.total.rate, phase.think_seconds)
        else {
            continue;
        };
        let pauses = phase.requests_per_pause.unwrap_or(1.0).max(1e-9);
        let needed = (users / rate - think / pauses) * 1e3;
        // Failed requests may have taken any time.
        if rate <= 0.0 || phase.total.failure_share().unwrap_or_default() > 0.01 {
            continue;
        }
        let most = mean_at_most(&phase.total);
        let (stated, what) = match (phase.total.mean, most) {
            (Some(mean), _) => (mean, "the mean is"),
            (None, Some(most)) => (most, "the percentiles allow at most"),
            (None, None) => continue,
        };
        // Time that the generator itself takes may be in the cycle as well; a
        // residual below a tenth of the whole cycle cannot be told from it.
        let cycle = users / rate * 1e3;
        if needed - stated > TOLERANCE * stated && needed - stated > 0.1 * cycle {
            findings.push(format!(
                "{}: {users} users at {rate}/s need a mean of {needed:.1} ms; {what} {stated:.1} ms",
                phase.name
            ));
        }
    }
    findings
}

/// Phases whose users are known, by users; only those that differ in users.
fn by_users(evidence: &Evidence) -> Vec<(f64, f64, &Phase)> {
    let known = evidence.phases.iter();
    let mut known: Vec<(f64, f64, &Phase)> =
        known.filter_map(|phase| Some((phase.users?, phase.total.rate?, phase))).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    known.dedup_by(|a, b| a.0 == b.0);
    known
}

fn typical(row: &Row) -> Option<f64> {
    row.p95.or(row.mean).or(row.p50)
}

fn saturated(evidence: &Evidence) -> Vec<String> {
    let phases = by_users(evidence);
    let (Some(first), Some(last)) = (phases.first(), phases.last()) else { return Vec::new() };
    let (Some(before), Some(after)) = (typical(&first.2.total), typical(&last.2.total)) else {
        return Vec::new();
    };
    let more_users = last.0 / first.0;
    let rates = phases.iter().map(|(_, rate, _)| *rate);
    let (low, high) = (rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max));
    if more_users >= 2.0 && high / low < 1.1 && after / before > 0.5 * more_users {
        return vec![format!(
            "from {} to {} users the rate stays at {low} to {high}/s while times grow from {before} \
             to {after} ms: the target was full at {} users; it has no headroom",
            first.0, last.0, first.0
        )];
    }
    Vec::new()
}

fn think_time_bound(evidence: &Evidence) -> Vec<String> {
    let phases = by_users(evidence);
    let (Some(first), Some(last)) = (phases.first(), phases.last()) else { return Vec::new() };
    let cycles = phases.iter().map(|(users, rate, _)| users / rate);
    let (low, high) = (cycles.clone().fold(f64::INFINITY, f64::min), cycles.fold(0.0, f64::max));
    let Some(response) = last.2.total.p50.or(last.2.total.mean) else { return Vec::new() };
    let pause = low - response / 1e3;
    if last.0 / first.0 >= 2.0 && high / low < 1.2 && pause > 10.0 * response / 1e3 {
        return vec![format!(
            "from {} to {} users the rate grows with the users because each pauses about {pause:.2} \
             s; with answers in {response} ms that shows the pauses, not how the target scales",
            first.0, last.0
        )];
    }
    Vec::new()
}

/// Every row with its phase and name.
fn rows(evidence: &Evidence) -> impl Iterator<Item = (&Phase, &str, &Row)> {
    evidence.phases.iter().flat_map(|phase| {
        let endpoints = phase.endpoints.iter().map(|(name, row)| (name.as_str(), row));
        endpoints.chain([("total", &phase.total)]).map(move |(name, row)| (phase, name, row))
    })
}

fn percentiles_out_of_order(evidence: &Evidence) -> Vec<String> {
    let out_of_order = rows(evidence).filter_map(|(phase, name, row)| {
        let named = [
            ("min", row.min),
            ("p50", row.p50),
            ("p95", row.p95),
            ("p99", row.p99),
            ("max", row.max),
        ];
        let known: Vec<(&str, f64)> =
            named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let wrong = known.windows(2).find(|pair| pair[0].1 > pair[1].1 * 1.001)?;
        let ((low, a), (high, b)) = (wrong[0], wrong[1]);
        Some(format!("{} {name}: {low} is {a} ms and {high} is {b} ms", phase.name))
    });
    out_of_order.collect()
}

fn rows_do_not_add_up(evidence: &Evidence) -> Vec<String> {
    let sums = evidence.phases.iter().filter(|phase| !phase.endpoints.is_empty());
    sums.filter_map(|phase| {
        let total = phase.total.requests?;
        let parts: Option<Vec<f64>> = phase.endpoints.values().map(|row| row.requests).collect();
        let sum: f64 = parts?.iter().sum();
        ((sum - total).abs() > 0.01 * total).then(|| {
            format!("{}: the endpoints' {sum} requests are not the total's {total}", phase.name)
        })
    })
    .collect()
}

fn failures_do_not_add_up(evidence: &Evidence) -> Vec<String> {
    let mut findings: Vec<String> = rows(evidence)
        .filter_map(|(phase, name, row)| {
            let (failures, requests) = (row.failures?, row.requests?);
            let stated = row.failures_percent?;
            let counted = failures / requests * 100.0;
            ((counted - stated).abs() > 0.05 * stated.max(1.0)).then(|| {
                format!(
                    "{} {name}: {failures} failures of {requests} are {counted:.1} %, not {stated} %",
                    phase.name
                )
            })
        })
        .collect();
    findings.extend(evidence.phases.iter().filter_map(|phase| {
        let total = phase.total.failures?;
        let parts: Option<Vec<f64>> = phase.endpoints.values().map(|row| row.failures).collect();
        let parts = parts.filter(|parts| !parts.is_empty())?;
        let sum: f64 = parts.iter().sum();
        ((sum - total).abs() > (0.01 * total).max(0.5)).then(|| {
            format!("{}: the endpoints' {sum} failures are not the total's {total}", phase.name)
        })
    }));
    findings
}

fn durations_do_not_add_up(evidence: &Evidence) -> Vec<String> {
    let parts: Option<Vec<f64>> = evidence.phases.iter().map(|phase| phase.minutes).collect();
    let Some(parts) = parts.filter(|parts| !parts.is_empty()) else { return Vec::new() };
    let sum: f64 = parts.iter().sum();
    let claims = evidence.claims.iter().filter_map(|claim| match claim {
        Claim::Duration { minutes } if (minutes - sum).abs() > 0.01 * sum => {
            Some(format!("the phases' {sum} minutes are not the {minutes} that are stated"))
        }
        _ => None,
    });
    claims.collect()
}

fn errors_in_latencies(evidence: &Evidence) -> Vec<String> {
    let mixed = evidence.phases.iter().filter(|phase| phase.times_include_failures);
    mixed
        .filter_map(|phase| {
            let share = phase.total.failure_share().filter(|share| *share >= 0.01)?;
            Some(format!(
                "{}: {:.1} % of the requests failed, and their times are in the percentiles; a \
                 fast failure makes them look better, a time-out worse",
                phase.name,
                share * 100.0
            ))
        })
        .collect()
}

fn errors_as_throughput(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for claim in &evidence.claims {
        let Claim::BestRate { rate } = claim else { continue };
        for phase in &evidence.phases {
            let (Some(measured), Some(share)) = (phase.total.rate, phase.total.failure_share())
            else {
                continue;
            };
            if (measured - rate).abs() <= 0.005 * rate && share > 0.05 {
                let failed = share * 100.0;
                findings.push(format!(
                    "the best rate, {rate}/s of {}, has {failed:.1} % failures in it",
                    phase.name
                ));
            }
        }
    }
    findings
}

fn constant_bodies(evidence: &Evidence) -> Vec<String> {
    const ENOUGH: f64 = 50.0;
    let constant = rows(evidence).filter(|(_, _, row)| {
        let succeeded = row.requests.unwrap_or_default() - row.failures.unwrap_or_default();
        row.should_vary && row.bodies == Some(1) && succeeded >= ENOUGH
    });
    constant
        .map(|(phase, name, row)| {
            let requests = row.requests.unwrap_or_default();
            format!(
                "{} {name}: {requests} requests for different things had one and the same answer: \
                 a placeholder",
                phase.name
            )
        })
        .collect()
}

fn identical_rows(evidence: &Evidence) -> Vec<String> {
    /// Fewer figures, or rows with hardly any requests, may agree by chance.
    const FIGURES_MIN: usize = 4;
    let figures =
        |row: &Row| [row.requests, row.mean, row.min, row.p50, row.p95, row.p99, row.max, row.rate];
    let mut findings = Vec::new();
    for (n, phase) in evidence.phases.iter().enumerate() {
        for other in &evidence.phases[n + 1..] {
            for (name, row) in &phase.endpoints {
                let Some(theirs) = other.endpoints.get(name) else { continue };
                let pairs = figures(row).into_iter().zip(figures(theirs));
                let known: Vec<(f64, f64)> = pairs.filter_map(|(a, b)| a.zip(b)).collect();
                if known.len() >= FIGURES_MIN && known.iter().all(|(a, b)| a == b) {
                    findings.push(format!(
                        "{name}: all {} figures are the same in {} and {}: one was copied",
                        known.len(),
                        phase.name,
                        other.name
                    ));
                }
            }
        }
    }
    findings
}

fn timer_not_component(evidence: &Evidence) -> Vec<String> {
    /// No component takes the same time from its fastest to its slowest.
    const SPREAD_MIN: f64 = 0.03;
    let constant = rows(evidence).filter_map(|(phase, name, row)| {
        let (min, p99, requests) = (row.min?, row.p99?, row.requests?);
        (requests >= 100.0 && min >= 1.0 && p99 - min < SPREAD_MIN * min).then(|| {
            format!(
                "{} {name}: from min {min} ms to p99 {p99} ms nothing varies: a timer was timed",
                phase.name
            )
        })
    });
    let claimed = evidence.claims.iter().filter_map(|claim| match claim {
        Claim::Timed { component, stand_in: true } => {
            Some(format!("{component}: what was timed is a stand-in, not the component"))
        }
        _ => None,
    });
    constant.chain(claimed).collect()
}

fn projection_beyond_data(evidence: &Evidence) -> Vec<String> {
    /// As far as a fit may be carried.
    const TIMES_MAX: f64 = 2.0;
    let tested = evidence.phases.iter().filter_map(|phase| phase.users).fold(0.0, f64::max);
    let claims = evidence.claims.iter().filter_map(|claim| match claim {
        Claim::Projection { users } if *users > TIMES_MAX * tested => {
            Some(format!("{users} users are projected from data that ends at {tested}"))
        }
        _ => None,
    });
    claims.collect()
}

fn rates_added(evidence: &Evidence) -> Vec<String> {
    let rates: Vec<f64> = evidence.phases.iter().filter_map(|phase| phase.total.rate).collect();
    let sum: f64 = rates.iter().sum();
    let claims = evidence.claims.iter().filter_map(|claim| match claim {
        Claim::TotalRate { rate } if rates.len() > 1 && (rate - sum).abs() <= 0.005 * sum => {
            let parts: Vec<String> = rates.iter().map(ToString::to_string).collect();
            let parts = parts.join(" + ");
            Some(format!("{rate}/s is {parts}: rates of tests that did not run together"))
        }
        _ => None,
    });
    claims.collect()
}

fn traffic_miscounted(evidence: &Evidence) -> Vec<String> {
    let claims = evidence.claims.iter().filter_map(|claim| match claim {
        Claim::Traffic { users, calls_per_minute, rate_from, rate_to } => {
            let rate = users * calls_per_minute / 60.0;
            (rate < 0.8 * rate_from || rate > 1.2 * rate_to).then(|| {
                format!(
                    "{users} users at {calls_per_minute} calls a minute make {rate:.1}/s, not \
                     {rate_from} to {rate_to}/s"
                )
            })
        }
        _ => None,
    });
    claims.collect()
}

fn claim_from_easier_phase(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for claim in &evidence.claims {
        let Claim::Below { percentile, milliseconds } = claim else { continue };
        for phase in &evidence.phases {
            if let Some(value) = percentile.of(&phase.total)
                && value >= *milliseconds
            {
                findings.push(format!(
                    "{} below {milliseconds} ms is not so in {}: {value} ms",
                    percentile.name(),
                    phase.name
                ));
            }
        }
    }
    findings
}

fn resources_unmeasured(evidence: &Evidence) -> Vec<String> {
    let claimed = evidence.claims.iter().any(|claim| matches!(claim, Claim::NoLeaks));
    let measured = evidence.phases.iter().any(|phase| phase.resources_measured);
    if claimed && !measured {
        return vec!["no leaks are claimed, and no memory or descriptors were measured".to_owned()];
    }
    Vec::new()
}

fn ratio_of_wrong_column(evidence: &Evidence) -> Vec<String> {
    const MEASURES: &[&str] =
        &["time", "ns", "us", "ms", "mean", "median", "p50", "p95", "p99", "rate"];
    let claims = evidence.claims.iter().filter_map(|claim| match claim {
        Claim::Ratio { column } => {
            let words: Vec<String> =
                column.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
            let right = words.iter().any(|word| MEASURES.contains(&word.as_str()));
            (!right).then(|| format!("the ratio is of the column `{column}`, which is no measure"))
        }
        _ => None,
    });
    claims.collect()
}

fn baseline_not_measured(evidence: &Evidence) -> Vec<String> {
    let typed_in =
        evidence.claims.iter().any(|claim| matches!(claim, Claim::Baseline { measured: false }));
    if typed_in {
        return vec!["the baseline was typed in, not measured beside the result".to_owned()];
    }
    Vec::new()
}
