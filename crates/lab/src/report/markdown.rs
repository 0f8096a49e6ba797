//! The report as Markdown, to be pasted where people talk.

use std::fmt::{Result, Write as _};

use super::text::{name, rows};
use crate::summary::Summary;
use crate::units::{show_rate, show_seconds, show_share};
use crate::verdict::Verdict;

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
    writeln!(out)?;
    for note in &verdict.notes {
        writeln!(out, "- {note}")?;
    }
    writeln!(out, "\n```\n{}\n```", header.command)
}
