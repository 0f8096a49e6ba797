//! The report as Markdown, to be pasted where people talk.

use std::fmt::{Result, Write as _};

use super::text::{name, rows};
use super::{series, sockets};
use crate::summary::Summary;
use crate::units::{show_rate, show_seconds, show_share};
use crate::verdict::Verdict;

/// Series of the target's that are listed.
const SERIES_SHOWN: usize = 40;

pub(super) fn markdown(summary: &Summary, verdict: &Verdict) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_markdown(&mut out, summary, verdict);
    out
}

fn write_markdown(out: &mut String, summary: &Summary, verdict: &Verdict) -> Result {
    let header = &summary.header;
    writeln!(out, "# {} ({}): {}\n", header.scenario, header.profile, verdict.exit().word())?;
    for fault in verdict.invalid.iter().chain(&verdict.broken) {
        writeln!(out, "- **{fault}**")?;
    }
    for threshold in &verdict.thresholds {
        let word = if threshold.holds { "holds" } else { "**broken**" };
        writeln!(out, "- `{}`: {word}, {}", threshold.text, threshold.value)?;
    }
    writeln!(
        out,
        "\n{} requests to {} in {}: {}, {} of them succeeded, errors {}. Limited by: {}\n",
        summary.all.count(),
        header.target,
        show_seconds(summary.seconds()),
        show_rate(summary.rate()),
        show_rate(summary.goodput()),
        show_share(summary.error_share()),
        verdict.limited_by
    )?;
    writeln!(out, "| endpoint | requests | errors | rate | mean | p50 | p95 | p99 | max |")?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in rows(summary) {
        let response = &row.ok.response;
        let time = |seconds: f64| {
            if response.is_empty() { "-".to_owned() } else { show_seconds(seconds) }
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name.replace('|', "\\|"),
            row.count(),
            show_share(row.error_share()),
            show_rate(summary.rate_of(row)),
            time(response.mean()),
            time(response.quantile(0.5)),
            time(response.quantile(0.95)),
            time(response.quantile(0.99)),
            time(response.max())
        )?;
    }
    if !summary.errors.is_empty() {
        writeln!(out, "\n| errors | endpoint | class |\n|--:|---|---|")?;
        for ((endpoint, class), count) in &summary.errors {
            writeln!(out, "| {count} | {} | `{class}` |", name(summary, *endpoint))?;
        }
    }
    websockets(out, summary)?;
    teardown(out, summary)?;
    target_series(out, summary)?;
    writeln!(out)?;
    for note in &verdict.notes {
        writeln!(out, "- {note}")?;
    }
    writeln!(out, "\n```\n{}\n```", header.command)
}

/// Within a cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn websockets(out: &mut String, summary: &Summary) -> Result {
    let times = sockets::times(summary);
    if !times.is_empty() {
        writeln!(out, "\n## WebSockets\n\n{}\n", sockets::ABOUT_TIMES)?;
        writeln!(out, "| time of | step | {} |", sockets::TIMES.join(" | "))?;
        writeln!(out, "|---|---|{}", "--:|".repeat(sockets::TIMES.len()))?;
        for line in times {
            let row = escaped(&line.row);
            writeln!(out, "| {} | {row} | {} |", line.what, line.cells.join(" | "))?;
        }
    }
    let deliveries = sockets::deliveries(summary);
    if !deliveries.is_empty() {
        writeln!(out, "\n{}\n", sockets::ABOUT_DELIVERIES)?;
        writeln!(out, "| {} |", sockets::DELIVERIES.join(" | "))?;
        writeln!(out, "|---|{}", "--:|".repeat(sockets::DELIVERIES.len() - 1))?;
        for cells in deliveries {
            let cells = cells.iter().map(|cell| match cell.bad {
                true => format!("**{}**", escaped(&cell.text)),
                false => escaped(&cell.text),
            });
            writeln!(out, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
        }
    }
    Ok(())
}

fn teardown(out: &mut String, summary: &Summary) -> Result {
    let Some(torn) = summary.end.as_ref().and_then(|end| end.teardown.as_ref()) else {
        return Ok(());
    };
    writeln!(
        out,
        "\n## Teardown\n\n{} users took back what they had made in {} requests, of which {} failed; \
         {} steps had nothing to take back, {} users had no turn.\n",
        torn.users, torn.requests, torn.failed, torn.skipped, torn.not_done
    )?;
    for (step, count) in &torn.done_by_step {
        writeln!(out, "- {count} done: `{step}`")?;
    }
    for (step, count) in &torn.failed_by_class {
        writeln!(out, "- **{count} failed: `{step}`**")?;
    }
    Ok(())
}

/// The series that are drawn in the page, from their first value to their last.
fn target_series(out: &mut String, summary: &Summary) -> Result {
    let (listed, _) = series::listed(summary);
    if listed.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n## What the target says of itself\n")?;
    writeln!(out, "| series | first | last | least | most |\n|---|--:|--:|--:|--:|")?;
    for [series, rest @ ..] in listed.iter().take(SERIES_SHOWN) {
        writeln!(out, "| `{}` | {} |", escaped(series), rest.join(" | "))?;
    }
    match listed.len().saturating_sub(SERIES_SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "\n{more} more changed; report.html and report.json have them."),
    }
}
