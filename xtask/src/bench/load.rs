//! Drives one target with wrk for a slice of time and says what came of it.
//! wrk's own duration is in whole seconds; it ends early and reports properly
//! on SIGINT, which is how a slice is shorter.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::packages::install;
use crate::workspace::{on_path, root};

/// How long a slice lasts; wrk adds up to 0.1 s until its threads look up.
pub const SLICE: Duration = Duration::from_millis(400);
const WRK_THREADS: u32 = 2;

/// The requests that are sent in turn.
#[derive(Clone, Debug)]
pub struct Requests {
    /// The HTTP method.
    pub method: &'static str,
    /// Sent as `x-api-key` when there is one.
    pub key: Option<String>,
    /// A JSON body, when there is one.
    pub body: Option<&'static str>,
    /// At least one path.
    pub paths: Vec<String>,
}

impl Requests {
    /// A Lua table for bench/wrk.lua. Keys, bodies and paths are our own and
    /// hold no long bracket.
    fn to_lua(&self) -> String {
        let mut lua = format!("return {{ method = [[{}]], headers = {{ ", self.method);
        if let Some(key) = &self.key {
            let _ = write!(lua, "[\"x-api-key\"] = [[{key}]], ");
        }
        if let Some(body) = self.body {
            let _ = write!(lua, "[\"content-type\"] = [[application/json]] }}, body = [[{body}]]");
        } else {
            lua.push('}');
        }
        lua.push_str(", paths = {\n");
        for path in &self.paths {
            let _ = writeln!(lua, "  [[{path}]],");
        }
        lua.push_str("} }\n");
        lua
    }
}

/// What came of a slice, or of several merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Answered requests.
    pub requests: u64,
    /// How long it took.
    pub micros: u64,
    /// Read from the target.
    pub bytes: u64,
    /// Answers with a status from 400, broken connections and time-outs.
    pub failed: u64,
    /// Microseconds and how many requests took them.
    pub latencies: BTreeMap<u64, u64>,
}

impl Outcome {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 * 1e6 / self.micros.max(1) as f64
    }

    /// Takes another slice in.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.micros += other.micros;
        self.bytes += other.bytes;
        self.failed += other.failed;
        for (micros, times) in &other.latencies {
            *self.latencies.entry(*micros).or_default() += times;
        }
    }

    /// The latency, in microseconds, that this share of requests did not exceed.
    pub fn percentile(&self, share: f64) -> u64 {
        let total: u64 = self.latencies.values().sum();
        let rank = (share * total as f64).ceil() as u64;
        let mut below = 0;
        for (micros, times) in &self.latencies {
            below += times;
            if below >= rank {
                return *micros;
            }
        }
        0
    }
}

/// Requests to one address, ready to be driven.
#[derive(Debug)]
pub struct Driver {
    script: PathBuf,
    url: String,
    connections: u32,
}

impl Driver {
    /// Writes the requests down where wrk finds them; `name` is the file's.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn new(
        dir: &Path,
        name: &str,
        address: &str,
        connections: u32,
        requests: &Requests,
    ) -> Result<Self> {
        let script = dir.join(format!("{name}.lua"));
        std::fs::write(&script, requests.to_lua())?;
        Ok(Self { script, url: format!("http://{address}"), connections })
    }

    /// Drives the target for one slice.
    ///
    /// # Errors
    /// When wrk cannot run or reports nothing.
    pub fn slice(&self) -> Result<Outcome> {
        let mut timeout = Command::new("timeout");
        timeout.arg("--signal=INT").arg(format!("{}", SLICE.as_secs_f64())).arg("wrk");
        timeout.arg(format!("--threads={}", WRK_THREADS.min(self.connections)));
        timeout.arg(format!("--connections={}", self.connections));
        timeout.args(["--duration=60s", "--timeout=10s", "--script"]);
        timeout.arg(root().join("bench/wrk.lua")).arg(&self.url);
        timeout.env("WRK_REQUESTS", &self.script).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = timeout.output().context("cannot start wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let result = text
            .lines()
            .find_map(|line| line.strip_prefix("RESULT "))
            .with_context(|| format!("wrk reported nothing: {text}"))?;
        parse(result)
    }
}

/// Makes sure that wrk is there.
///
/// # Errors
/// When it is missing and cannot be installed.
pub fn ensure_wrk() -> Result<()> {
    if on_path("wrk").is_none() {
        install(&["wrk"], "the load generator wrk")?;
    }
    Ok(())
}

fn parse(result: &str) -> Result<Outcome> {
    #[derive(Deserialize)]
    struct Line {
        requests: u64,
        micros: u64,
        bytes: u64,
        failed: u64,
        latencies: Vec<(u64, u64)>,
    }
    let Line { requests, micros, bytes, failed, latencies } = serde_json::from_str(result)?;
    Ok(Outcome { requests, micros, bytes, failed, latencies: latencies.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_merge_by_their_histograms() {
        let line = |latencies| {
            let text = format!(
                r#"{{"requests":3,"micros":1000000,"bytes":9,"failed":1,"latencies":{latencies}}}"#
            );
            parse(&text).unwrap()
        };
        let mut merged = line("[[10,2],[30,1]]");
        merged.merge(&line("[[10,1],[90,2]]"));
        assert_eq!((merged.requests, merged.failed), (6, 2));
        assert!((merged.rate() - 3.0).abs() < 1e-9);
        assert_eq!(merged.percentile(0.5), 10);
        assert_eq!(merged.percentile(0.6), 30);
        assert_eq!(merged.percentile(0.99), 90);
    }

    #[test]
    fn requests_become_a_lua_table() {
        let requests = Requests {
            method: "POST",
            key: Some("ak_1".to_owned()),
            body: Some("{}"),
            paths: vec!["/a".to_owned()],
        };
        assert_eq!(
            requests.to_lua(),
            "return { method = [[POST]], headers = { [\"x-api-key\"] = [[ak_1]], \
             [\"content-type\"] = [[application/json]] }, body = [[{}]], paths = {\n  [[/a]],\n} }\n"
        );
    }
}
