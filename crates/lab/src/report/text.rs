//! The report as plain text.

use std::fmt::Write as _;

use super::sockets;
use crate::summary::{EndpointSummary, Summary};
use crate::units::{show_bytes, show_rate, show_seconds, show_share};
use crate::verdict::{Exit, Verdict};

/// For a terminal; at most 110 columns where names allow it.
pub(crate) fn text(summary: &Summary, verdict: &Verdict) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, summary, verdict);
    out
}

fn write_text(out: &mut String, summary: &Summary, verdict: &Verdict) -> std::fmt::Result {
    let header = &summary.header;
    writeln!(out, "\n{} ({}) on {}", header.scenario, header.profile, header.target)?;
    writeln!(out, "verdict: {}", verdict.exit().word())?;
    for reason in &verdict.invalid {
        writeln!(out, "  invalid: {reason}")?;
    }
    for fault in &verdict.broken {
        writeln!(out, "  broken: {fault}")?;
    }
    for threshold in &verdict.thresholds {
        let word = if threshold.holds { "holds" } else { "BROKEN" };
        writeln!(out, "  {word}: {} ({})", threshold.text, threshold.value)?;
    }
    writeln!(out, "limited by: {}", verdict.limited_by)?;
    writeln!(
        out,
        "{} requests in {}: {} ({} succeeded), errors {}",
        summary.all.count(),
        show_seconds(summary.seconds()),
        show_rate(summary.rate()),
        show_rate(summary.goodput()),
        show_share(summary.error_share())
    )?;
    let generator = &summary.generator;
    writeln!(
        out,
        "generator: {} threads, {:.1} us CPU a request, busiest thread {}, dispatch lag p99 {}, \
         waited for a CPU {}, {} connections",
        header.threads,
        generator.cpu_seconds * 1e6 / summary.all.count().max(1) as f64,
        show_share(generator.busiest_thread()),
        show_seconds(generator.dispatch_lag.quantile(0.99)),
        show_share(generator.scheduler_delay()),
        generator.connects
    )?;
    if let Some(cpus) = summary.target_cpus() {
        let last = summary.timeline.iter().rev().find_map(|point| point.target);
        let last = last.unwrap_or_default();
        writeln!(
            out,
            "target: {cpus:.2} CPUs, at the end {} resident, {} descriptors",
            show_bytes(last.resident_bytes as f64),
            last.descriptors
        )?;
    }
    writeln!(out)?;
    table(out, summary)?;
    streams(out, summary)?;
    websockets(out, summary)?;
    teardown(out, summary)?;
    if !summary.errors.is_empty() {
        writeln!(out, "\nerrors")?;
        for ((endpoint, class), count) in &summary.errors {
            writeln!(out, "{count:>9}  {}  {class}", name(summary, *endpoint))?;
        }
    }
    for note in &verdict.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

/// Several runs of one scenario, a line for each.
pub(crate) fn sweep(runs: &[(Exit, Summary)]) -> String {
    let mut out = format!(
        "\n{:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}\n",
        "users", "requests", "succeeded", "errors", "mean", "p50", "p95", "p99", "verdict"
    );
    for (exit, summary) in runs {
        let response = &summary.all.ok.response;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
            summary.header.load.users,
            summary.all.count(),
            show_rate(summary.goodput()),
            show_share(summary.error_share()),
            show_seconds(response.mean()),
            show_seconds(response.quantile(0.5)),
            show_seconds(response.quantile(0.95)),
            show_seconds(response.quantile(0.99)),
            exit.word()
        );
    }
    out
}

/// The name of an endpoint by its number.
pub(super) fn name(summary: &Summary, endpoint: usize) -> &str {
    summary.endpoints.get(endpoint).map_or("?", |row| row.name.as_str())
}

/// The rows of every table: endpoints that were asked, then all.
pub(super) fn rows(summary: &Summary) -> Vec<&EndpointSummary> {
    let asked = summary.endpoints.iter().filter(|row| row.count() > 0);
    asked.chain([&summary.all]).collect()
}

fn table(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let rows = rows(summary);
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default().max(8);
    writeln!(
        out,
        "{:width$} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "endpoint", "requests", "errors", "rate", "mean", "p50", "p95", "p99", "p99.9", "max"
    )?;
    for row in rows {
        let response = &row.ok.response;
        let time = |seconds: f64| {
            if response.is_empty() { "-".to_owned() } else { show_seconds(seconds) }
        };
        let rate = summary.rate_of(row);
        writeln!(
            out,
            "{:width$} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            row.name,
            row.count(),
            show_share(row.error_share()),
            show_rate(rate),
            time(response.mean()),
            time(response.quantile(0.5)),
            time(response.quantile(0.95)),
            time(response.quantile(0.99)),
            time(response.quantile(0.999)),
            time(response.max())
        )?;
    }
    writeln!(out, "Times are of answers that succeeded, from when each was intended to its end.")
}

fn streams(out: &mut String, summary: &Summary) -> std::fmt::Result {
    for row in &summary.endpoints {
        let Some(stream) = &row.ok.stream else { continue };
        writeln!(
            out,
            "{}: first token p50 {} p99 {}, gap p50 {} p99 {}, time per token p50 {}, {} tokens in \
             {} events{}",
            row.name,
            show_seconds(stream.first_token.quantile(0.5)),
            show_seconds(stream.first_token.quantile(0.99)),
            show_seconds(stream.gap.quantile(0.5)),
            show_seconds(stream.gap.quantile(0.99)),
            show_seconds(stream.time_per_token.quantile(0.5)),
            stream.tokens,
            stream.chunks,
            match stream.without_usage {
                0 => String::new(),
                n => format!("; {n} streams did not tell their tokens"),
            }
        )?;
    }
    Ok(())
}

fn websockets(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let times = sockets::times(summary);
    if !times.is_empty() {
        let width = times.iter().map(|line| line.row.chars().count()).max().unwrap_or_default();
        write!(out, "\n{:18} {:width$}", "WebSocket", "step")?;
        for head in sockets::TIMES {
            write!(out, " {head:>9}")?;
        }
        writeln!(out)?;
        for line in times {
            write!(out, "{:18} {:width$}", line.what, line.row)?;
            for cell in line.cells {
                write!(out, " {cell:>9}")?;
            }
            writeln!(out)?;
        }
    }
    for cells in sockets::deliveries(summary) {
        let mut cells = cells.iter().zip(sockets::DELIVERIES);
        if let Some((name, _)) = cells.next() {
            let told: Vec<String> =
                cells.map(|(cell, head)| format!("{head} {}", cell.text)).collect();
            writeln!(out, "{}: {}", name.text, told.join(", "))?;
        }
    }
    Ok(())
}

fn teardown(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let Some(torn) = summary.end.as_ref().and_then(|end| end.teardown.as_ref()) else {
        return Ok(());
    };
    writeln!(
        out,
        "\nteardown: {} users, {} requests, {} failed, {} steps had nothing to take back, {} users \
         had no turn",
        torn.users, torn.requests, torn.failed, torn.skipped, torn.not_done
    )?;
    for (step, count) in &torn.done_by_step {
        writeln!(out, "{count:>9}  {step}")?;
    }
    for (step, count) in &torn.failed_by_class {
        writeln!(out, "{count:>9}  FAILED {step}")?;
    }
    Ok(())
}
