//! What a result cannot claim. Each check has a name and rests on figures that
//! it quotes; it is silent where the figures that it needs are missing.
//!
//! Several results given together are the phases of one report.

mod checks;
mod evidence;
mod k6;
mod locust;
mod runs;

use std::path::Path;

pub(crate) use checks::{CHECKS, audit};
pub(crate) use evidence::Evidence;

use crate::drive::RUN_FILE;

/// Reads results of any kind that is known: a run file or its directory, a
/// Locust `_stats.csv`, a k6 summary, or figures and claims of a report written
/// down as YAML.
///
/// # Errors
/// When one is none of these, or broken.
pub(crate) fn read(paths: &[std::path::PathBuf]) -> Result<Evidence, String> {
    let mut evidence = Evidence::default();
    for path in paths {
        let path = if path.is_dir() { path.join(RUN_FILE) } else { path.clone() };
        let one = read_one(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        evidence.phases.extend(one.phases);
        evidence.claims.extend(one.claims);
    }
    Ok(evidence)
}

fn read_one(path: &Path) -> Result<Evidence, String> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    if extension == "jsonl" {
        return runs::read(path);
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    match extension.as_str() {
        "csv" => locust::read(&name, &text),
        "json" => k6::read(&name, &text),
        "yaml" | "yml" => evidence::read(&text),
        _ => Err("not a run file, a Locust _stats.csv, a k6 summary or YAML".to_owned()),
    }
}

#[cfg(test)]
mod tests;
