//! The reports of a run: text for the terminal, and files for others.

mod data;
mod html;
mod markdown;
mod series;
mod sockets;
mod svg;
mod text;

use std::io;
use std::path::Path;

use crate::run_file;
use crate::scenario::Slo;
use crate::summary::Summary;
use crate::verdict::Verdict;
use crate::yaml::Fault;

pub(crate) use text::{sweep, text};

/// All faults of a scenario, each with its place.
pub(crate) fn faults(name: &str, faults: &[Fault]) -> String {
    let lines: Vec<String> = faults
        .iter()
        .map(|fault| match fault.at.line {
            0 => format!("{name}: {}", fault.message),
            _ => format!("{name}:{fault}"),
        })
        .collect();
    lines.join("\n")
}

/// A run file summed up, with the thresholds of its scenario.
///
/// # Errors
/// When it is no run file, with the line.
pub(crate) fn read(path: &Path) -> Result<(Summary, Vec<Slo>), String> {
    let summary = Summary::of(run_file::read(path)?);
    let slos = crate::scenario::thresholds(&summary.header.slo, &summary.header.endpoints)?;
    Ok((summary, slos))
}

/// Writes every report into the directory.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write_all(directory: &Path, summary: &Summary, verdict: &Verdict) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let page = html::html(summary, verdict).map_err(io::Error::other)?;
    let mut json = serde_json::to_string_pretty(&data::json(summary, verdict))?;
    json.push('\n');
    for (name, contents) in [
        ("report.txt", text(summary, verdict)),
        ("report.html", page),
        ("report.md", markdown::markdown(summary, verdict)),
        ("report.json", json),
        ("report.csv", data::csv(summary)),
        ("junit.xml", data::junit(summary, verdict)),
    ] {
        std::fs::write(directory.join(name), contents)?;
    }
    Ok(())
}
