//! Goodput under overload, with the lab: what a server answers well when it is asked
//! once, twice and five times what it can do, at times that do not wait for it, and
//! what it does five seconds later. The lab shares the machine with the server, so
//! that the highest rates show what both can do together.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::bench::build;
use crate::bench::targets::Target;
use crate::workspace::target;

/// How long each load lasts.
const SLICE: Duration = Duration::from_secs(10);
/// How long the server rests after the last overload.
const REST: Duration = Duration::from_secs(5);
/// Clients that find out what the server can do.
const CLIENTS: u32 = 64;
/// How many times that it is then asked for.
const FACTORS: [u32; 3] = [1, 2, 5];
/// What part of the best must be left under overload.
const GOODPUT_SHARE_MIN: f64 = 0.9;
const AGENT: &str = r#"{"name":"bench","description":"made by the bench"}"#;

/// One load.
#[derive(Debug, Serialize)]
pub struct Load {
    /// What it was.
    pub name: String,
    /// Requests a second that were to be sent.
    pub offered: f64,
    /// Requests a second that succeeded.
    pub succeeded: f64,
    /// What share failed, 429 and 503 among them.
    pub error_share: f64,
    /// How those that succeeded took, by quantile, as the lab reports it.
    pub response: Value,
    /// What the lab says of itself.
    pub notes: Value,
}

/// All loads.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which they were.
    pub loads: Vec<Load>,
}

/// Measures it.
///
/// # Errors
/// When the programs cannot be built or started.
pub fn bench(profile: &str, built: bool) -> Result<Report> {
    let programs = build(profile, built)?;
    let place = target().join("bench");
    std::fs::create_dir_all(&place)?;
    let place = tempfile::tempdir_in(place)?;
    let data = place.path().join("goodput");
    let server = Target::agentry(&programs.agentry, &data, None, None)?;
    let key = std::fs::read_to_string(data.join("owner.key"))?;
    let url = format!("http://{}/api/v1/agents", server.address);
    let hit = |name: &str, load: &[String]| {
        hit(&programs.agentry, &place.path().join("lab"), &url, key.trim(), (name, load))
    };
    let clients = ["--concurrency".to_owned(), CLIENTS.to_string()];
    let capacity = hit("closed, before", &clients)?;
    let best = capacity.succeeded;
    let mut loads = vec![capacity];
    for factor in FACTORS {
        let rate = ["--rate".to_owned(), format!("{:.0}/s", best * f64::from(factor))];
        loads.push(hit(&format!("open, {factor} times"), &rate)?);
    }
    rest();
    loads.push(hit("closed, after", &clients)?);
    Ok(Report { loads })
}

fn hit(
    agentry: &Path,
    out: &Path,
    url: &str,
    key: &str,
    (name, load): (&str, &[String]),
) -> Result<Load> {
    let mut lab = Command::new(agentry);
    lab.args(["lab", "hit", url, "--method", "POST", "--body", AGENT]);
    lab.args(["--header", &format!("X-API-Key: {key}")]);
    lab.args(["--header", "Content-Type: application/json"]);
    lab.args(["--duration", &format!("{}s", SLICE.as_secs())]).args(load);
    // An overloaded machine makes a run invalid; its report is there all the same.
    let output = lab.arg("--out").arg(out).output()?;
    let text = std::fs::read_to_string(out.join("report.json"))
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let report: Value = serde_json::from_str(&text)?;
    let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
    Ok(Load {
        name: name.to_owned(),
        offered: number("offered_per_second"),
        succeeded: number("succeeded_per_second"),
        error_share: number("error_share"),
        response: report["all"]["response"].clone(),
        notes: report["verdict"]["invalid"].clone(),
    })
}

impl Report {
    /// Whether enough was answered well under every overload.
    pub fn holds(&self) -> bool {
        let best = self.loads.iter().map(|load| load.succeeded).fold(0.0, f64::max);
        let mut open = self.loads.iter().filter(|load| load.name.starts_with("open"));
        open.all(|load| load.succeeded >= best * GOODPUT_SHARE_MIN)
    }

    /// The loads, for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<18}{:>12}{:>14}{:>10}{:>12}\n",
            "load", "offered/s", "succeeded/s", "failed", "p99 ms"
        );
        for load in &self.loads {
            let p99 = load.response["p99"].as_f64().unwrap_or(0.0);
            text.push_str(&format!(
                "{:<18}{:>12.0}{:>14.0}{:>9.1}%{:>12.1}\n",
                load.name,
                load.offered,
                load.succeeded,
                load.error_share * 100.0,
                p99 * 1e3
            ));
        }
        text
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what was too much is to be over before the next load"
)]
fn rest() {
    std::thread::sleep(REST);
}
