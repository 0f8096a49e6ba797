//! Goodput under overload, with the lab: what a server answers well when it is asked
//! once, twice and five times what it can do, at times that do not wait for it, and
//! what it does five seconds later. Then two organisations ask, one for its share and
//! one for ten times that: what the first one waits beside the second, and alone. No
//! limits of a tier are set, so that nothing but the server's own order helps it. The
//! lab shares the machine with the server, so that the highest rates show what both can
//! do together.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bench::targets::Target;
use crate::bench::{build, http};
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
/// Organisations that share what the server can do; one of them asks for all of it.
const TENANTS: u32 = 10;
/// How long the loads of tenants run before they are measured.
const WARMUP: Duration = Duration::from_secs(2);
/// How many times as long as alone a tenant may wait beside one that asks for too much,
/// at the 99th percentile.
const NEIGHBOUR_FACTOR_MAX: f64 = 2.0;
/// What share of a tenant's requests may fail beside it.
const TENANT_ERROR_SHARE_MAX: f64 = 0.01;
const TENANT_ALONE: &str = "tenant, alone";
const TENANT_BESIDE: &str = "tenant, beside";
const NEIGHBOUR: &str = "its neighbour";
/// Nobody is limited.
const SETTINGS: [(&str, &str); 5] = [
    ("AGENTRY_LIMITS__ENTERPRISE__KEY_PER_MINUTE", "0"),
    ("AGENTRY_LIMITS__ENTERPRISE__USER_PER_MINUTE", "0"),
    ("AGENTRY_LIMITS__ENTERPRISE__ORG_PER_MINUTE", "0"),
    ("AGENTRY_LIMITS__ENTERPRISE__MEMORY_CREATION_PER_MINUTE", "0"),
    ("AGENTRY_LIMITS__ENTERPRISE__RUNS_PER_MINUTE", "0"),
];
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
    let server = Target::agentry_with(&programs.agentry, &data, None, None, &SETTINGS)?;
    let key = std::fs::read_to_string(data.join("owner.key"))?;
    let lab = Lab {
        agentry: &programs.agentry,
        place: place.path(),
        url: format!("http://{}/api/v1/agents", server.address),
    };
    let hit = |name: &str, load: &[String]| lab.hit(key.trim(), name, SLICE, load);
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
    rest();
    loads.extend(tenants(&lab, &server.address, key.trim(), best)?);
    Ok(Report { loads })
}

/// What a tenant waits that asks for its share: alone, and beside one that asks for ten
/// times its own.
fn tenants(lab: &Lab<'_>, address: &str, owner: &str, best: f64) -> Result<Vec<Load>> {
    let share = best / f64::from(TENANTS);
    let (tenant, neighbour) =
        (organisation(address, owner, "tenant")?, organisation(address, owner, "neighbour")?);
    let rate = |rate: f64| {
        let warmup = format!("{}s", WARMUP.as_secs());
        ["--rate".to_owned(), format!("{rate:.0}/s"), "--warmup".to_owned(), warmup]
    };
    let alone = lab.hit(&tenant, TENANT_ALONE, SLICE, &rate(share))?;
    let (beside, neighbour) = std::thread::scope(|scope| {
        // It begins with the other and ends after it.
        let all = SLICE + 2 * WARMUP;
        let asks = rate(share * f64::from(TENANTS));
        let neighbour = scope.spawn(move || lab.hit(&neighbour, NEIGHBOUR, all, &asks));
        let beside = lab.hit(&tenant, TENANT_BESIDE, SLICE, &rate(share))?;
        let neighbour = neighbour.join().map_err(|_| anyhow::anyhow!("a load panicked"))??;
        anyhow::Ok((beside, neighbour))
    })?;
    Ok(vec![alone, beside, neighbour])
}

/// The key of a new organisation.
fn organisation(address: &str, owner: &str, name: &str) -> Result<String> {
    let body = json!({"name": name, "tier": "enterprise"}).to_string();
    let org = http::post(address, "/api/v1/orgs", owner, &body)?;
    let body = json!({"name": name, "role": "member", "org_id": org["id"]}).to_string();
    let key = http::post(address, "/api/v1/keys", owner, &body)?;
    Ok(key["secret"].as_str().context("a new key has no secret")?.to_owned())
}

/// What loads the server.
struct Lab<'a> {
    agentry: &'a Path,
    /// Where its reports go, each in a directory of its own.
    place: &'a Path,
    url: String,
}

impl Lab<'_> {
    fn hit(&self, key: &str, name: &str, duration: Duration, load: &[String]) -> Result<Load> {
        let out = self.place.join(name.replace([' ', ','], "-"));
        let mut lab = Command::new(self.agentry);
        lab.args(["lab", "hit", &self.url, "--method", "POST", "--body", AGENT]);
        lab.args(["--header", &format!("X-API-Key: {key}")]);
        lab.args(["--header", "Content-Type: application/json"]);
        lab.args(["--duration", &format!("{}s", duration.as_secs())]).args(load);
        // An overloaded machine makes a run invalid; its report is there all the same.
        let output = lab.arg("--out").arg(&out).output()?;
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
}

impl Report {
    /// Whether enough was answered well under every overload, and a tenant's wait
    /// beside a greedy one is near what it is alone.
    pub fn holds(&self) -> bool {
        self.goodput_holds() && self.tenant_holds()
    }

    fn tenant_holds(&self) -> bool {
        let named = |name: &str| self.loads.iter().find(|load| load.name == name);
        let p99 = |load: &Load| load.response["p99"].as_f64();
        let (Some(alone), Some(beside)) = (named(TENANT_ALONE), named(TENANT_BESIDE)) else {
            return false;
        };
        let (Some(before), Some(after)) = (p99(alone), p99(beside)) else { return false };
        after <= before * NEIGHBOUR_FACTOR_MAX && beside.error_share <= TENANT_ERROR_SHARE_MAX
    }

    fn goodput_holds(&self) -> bool {
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
        let verdict = |holds: bool| if holds { "holds" } else { "does not hold" };
        text.push_str(&format!(
            "goodput under overload {}; a tenant beside one at {TENANTS} times its share {}\n",
            verdict(self.goodput_holds()),
            verdict(self.tenant_holds())
        ));
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
