//! `lab stress`: the rate goes up by a factor until the target breaks, and the
//! break is named. Every step is an open load, so that a target that slows down
//! does not slow the load down with it.

use crate::command::{StressArgs, interrupted_by_signal, print, read_scenario, run_name};
use crate::drive;
use crate::hit;
use crate::report;
use crate::scenario::{Arrivals, Overrides, Plan, Profile, Surroundings};
use crate::summary::Summary;
use crate::units::{show_rate, show_seconds, show_share};
use crate::verdict::{Exit, judge};

/// Less of the offered rate than this is a break.
const ACHIEVED_MIN: f64 = 0.95;

/// # Errors
/// When nothing could be measured.
pub(crate) fn stress(args: &StressArgs) -> Result<Exit, String> {
    let interrupt = interrupted_by_signal()?;
    let mut rate = args.from;
    let mut held = None;
    print(&format!(
        "{:>12} {:>12} {:>9} {:>9} {:>9} {:>9}\n",
        "offered", "succeeded", "errors", "p50", "p95", "p99"
    ));
    for step in 1.. {
        let run = format!("{}-{step}", run_name());
        let plan = plan(args, &run, rate)?;
        let options = drive::Options {
            scenario: args.what.clone(),
            scenario_text: String::new(),
            run,
            command: format!("agentry lab stress {} --from {rate}/s", args.what),
            threads: args.threads,
            out: args.out.as_ref().map(|out| out.join(format!("step-{step:02}"))),
        };
        let finished = drive::drive(plan, &options, &interrupt, &mut |_, _| ());
        let summary = finished.map_err(|error| error.to_string())?.summary;
        let verdict = judge(&summary, &[]);
        if let Some(directory) = &options.out {
            report::write_all(directory, &summary, &verdict)
                .map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        row(&summary, rate);
        if *interrupt.borrow() {
            return Ok(Exit::Pass);
        }
        // Errors are the target's however late the generator was; times are not.
        let refused = errors(&summary, args);
        if let [reason, ..] = verdict.invalid.as_slice()
            && refused.is_none()
        {
            print(&format!("the generator was the limit, not the target: {reason}\n"));
            return Ok(Exit::Invalid);
        }
        if let Some(reason) = refused.or_else(|| slow(&summary, args)) {
            let held =
                held.map_or("no step held".to_owned(), |rate| format!("{} held", show_rate(rate)));
            print(&format!("it broke at {}: {reason}; {held}\n", show_rate(rate)));
            return Ok(Exit::Pass);
        }
        held = Some(rate);
        rate *= args.factor;
        if rate > args.to {
            break;
        }
    }
    print(&format!("it did not break up to {}\n", show_rate(held.unwrap_or_default())));
    Ok(Exit::Pass)
}

fn plan(args: &StressArgs, run: &str, rate: f64) -> Result<Plan, String> {
    let profile = Profile::open(rate, Arrivals::Poisson, args.users, args.step);
    if args.what.starts_with("http://") || args.what.starts_with("https://") {
        if args.target.is_some() {
            return Err("--target goes with a scenario, not with a URL".to_owned());
        }
        let (target, request) = hit::request(&args.what, "GET", &args.headers, None)?;
        let mut plan = Plan::single(target, request, false, profile.clone());
        plan.transport = args.transport.transport();
        return Ok(plan.at(profile, args.timeout));
    }
    if !args.headers.is_empty() {
        return Err("--header goes with a URL; a scenario has its own headers".to_owned());
    }
    let text = read_scenario(&args.what)?;
    let overrides = Overrides {
        target: args.target.clone(),
        protocol: args.transport.protocol,
        insecure: args.transport.insecure,
        ca: args.transport.ca.clone(),
        ..Overrides::default()
    };
    let env = |name: &str| std::env::var(name).ok();
    let plan = Plan::read(&text, &overrides, &Surroundings { env: &env, run })
        .map_err(|faults| report::faults(&args.what, &faults))?;
    Ok(plan.at(profile, args.timeout))
}

fn row(summary: &Summary, rate: f64) {
    let time = |q: f64| show_seconds(summary.all.ok.response.quantile(q));
    print(&format!(
        "{:>12} {:>12} {:>9} {:>9} {:>9} {:>9}\n",
        show_rate(rate),
        show_rate(summary.goodput()),
        show_share(summary.error_share()),
        time(0.5),
        time(0.95),
        time(0.99)
    ));
}

/// Too many errors, of those that were sent.
fn errors(summary: &Summary, args: &StressArgs) -> Option<String> {
    let errors = summary.all.error_share();
    (errors > args.errors).then(|| format!("{} errors", show_share(errors)))
}

/// Too slow, or too little of what was offered.
fn slow(summary: &Summary, args: &StressArgs) -> Option<String> {
    let p95 = summary.all.ok.response.quantile(0.95);
    if p95 > args.p95.as_secs_f64() {
        return Some(format!("the 95th percentile is {}", show_seconds(p95)));
    }
    let offered = summary.generator.offered as f64;
    let in_time = summary.rate() * summary.seconds();
    // An iteration has at least one request.
    let per_iteration = (summary.all.count() as f64 / offered.max(1.0)).max(1.0);
    let achieved = in_time / per_iteration / offered.max(1.0);
    (achieved < ACHIEVED_MIN)
        .then(|| format!("only {} of what was offered ended in time", show_share(achieved)))
}
