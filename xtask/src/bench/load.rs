//! Drives one target for a slice of time with `agentry lab run` and says what
//! came of it, from the run file that it leaves: the house has one load
//! generator. Its closed loop drives; a run that the lab calls invalid because
//! the machine was busy still counts, since what is compared are interleaved
//! slices and never a single one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde::Deserialize;
use serde_json::{Value, json};

/// How long a slice measures.
pub const SLICE: Duration = Duration::from_millis(400);
/// What comes before it: connections are made in it.
const WARMUP: Duration = Duration::from_millis(50);
const THREADS: u32 = 2;
/// The version of the run file that is read here.
const RUN_FILE_SCHEMA: u64 = 1;
const SIGNIFICANT_DIGITS: u8 = 3;

/// One of the things that are asked.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// How often, beside the others.
    pub weight: u32,
    /// The key of a step in a scenario: get, post.
    pub method: &'static str,
    /// The path; `${pick(ids)}` in it stands for one of `ids`.
    pub path: &'static str,
    /// A JSON body, when there is one.
    pub body: Option<&'static str>,
    /// Whether the answer is a streamed completion whose tokens are timed.
    pub tokens: bool,
}

/// What is asked, over and over.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Sent as `x-api-key` when there is one.
    pub key: Option<String>,
    /// What is asked.
    pub mix: Vec<Request>,
    /// What the paths pick from.
    pub ids: Vec<String>,
    /// How long a slice measures.
    pub slice: Duration,
}

impl Requests {
    /// A scenario of one step for each request; JSON is YAML.
    fn scenario(&self, connections: u32) -> Result<Value> {
        let mut mix = serde_json::Map::new();
        for (nth, Request { weight, method, path, body, tokens }) in self.mix.iter().enumerate() {
            let mut step = if *tokens {
                json!({"sse": path, "tokens": "openai"})
            } else {
                json!({ (*method): path })
            };
            if let Some(body) = body {
                step["json"] = serde_json::from_str(body)?;
            }
            mix.insert(format!("bench_{nth}"), json!({"weight": weight, "steps": [step]}));
        }
        let mut scenario = json!({
            "mix": mix,
            "profiles": {"slice": {
                "closed": {"users": connections},
                "for": format!("{}ms", (WARMUP + self.slice).as_millis()),
                "warmup": format!("{}ms", WARMUP.as_millis()),
            }},
            "watch": {"pid": "none"},
        });
        if self.key.is_some() {
            scenario["headers"] = json!({"X-API-Key": "${env.AGENTRY_KEY}"});
        }
        if !self.ids.is_empty() {
            scenario["data"] = json!({"ids": self.ids});
        }
        Ok(scenario)
    }
}

/// What came of a slice, or of several merged.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests that ended, the warm-up left out.
    pub requests: u64,
    /// Requests that ended, the warm-up included.
    pub requests_with_warmup: u64,
    /// How long it took, the warm-up left out.
    pub micros: u64,
    /// Those that did not end as the scenario expects, the warm-up included.
    pub failed: u64,
    /// CPU time of the generator's threads, the warm-up included.
    pub generator_cpu: Duration,
    /// How long those that succeeded took, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// How long the first token of those that are streamed took, in nanoseconds.
    pub first_tokens: Histogram<u64>,
}

impl Outcome {
    /// Of no slice.
    ///
    /// # Errors
    /// Never: the histogram's bounds are right.
    pub fn none() -> Result<Self> {
        Ok(Self {
            requests: 0,
            requests_with_warmup: 0,
            micros: 0,
            failed: 0,
            generator_cpu: Duration::ZERO,
            latencies: Histogram::new(SIGNIFICANT_DIGITS)?,
            first_tokens: Histogram::new(SIGNIFICANT_DIGITS)?,
        })
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 * 1e6 / self.micros.max(1) as f64
    }

    /// Takes another slice in.
    ///
    /// # Errors
    /// Never: the histogram grows.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.requests += other.requests;
        self.requests_with_warmup += other.requests_with_warmup;
        self.micros += other.micros;
        self.failed += other.failed;
        self.generator_cpu += other.generator_cpu;
        self.latencies.add(&other.latencies)?;
        self.first_tokens.add(&other.first_tokens)?;
        Ok(())
    }

    /// The latency, in microseconds, that this share of requests did not exceed.
    pub fn percentile_micros(&self, share: f64) -> u64 {
        self.latencies.value_at_quantile(share) / 1000
    }

    /// The time to the first token, in microseconds, that this share of streams did
    /// not exceed.
    pub fn first_token_micros(&self, share: f64) -> u64 {
        self.first_tokens.value_at_quantile(share) / 1000
    }

    /// From the text of a run file (`crates/lab/schema/run.schema.json`).
    fn of_run_file(text: &str) -> Result<Self> {
        let mut outcome = Self::none()?;
        let (mut warmup, mut ended) = (0.0, None);
        for line in text.lines() {
            match serde_json::from_str(line).context("a line of the run file")? {
                Line::Header { schema, warmup_seconds } => {
                    ensure!(schema == RUN_FILE_SCHEMA, "a run file of version {schema}");
                    warmup = warmup_seconds;
                }
                Line::Interval { warmup, endpoints, generator } => {
                    outcome.generator_cpu += Duration::try_from_secs_f64(generator.cpu_seconds)?;
                    for part in endpoints {
                        outcome.requests_with_warmup += part.count;
                        outcome.failed += if part.ok { 0 } else { part.count };
                        if warmup {
                            continue;
                        }
                        outcome.requests += part.count;
                        if part.ok {
                            outcome.latencies.add(decode(&part.response)?)?;
                            if let Some(stream) = part.stream {
                                outcome.first_tokens.add(decode(&stream.first_token)?)?;
                            }
                        }
                    }
                }
                Line::End { seconds } => ended = Some(seconds),
                Line::Other => {}
            }
        }
        let ended: f64 = ended.context("the run file has no end")?;
        outcome.micros = ((ended - warmup) * 1e6) as u64;
        Ok(outcome)
    }
}

/// What of a run file matters here.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Header {
        schema: u64,
        warmup_seconds: f64,
    },
    Interval {
        warmup: bool,
        endpoints: Vec<Part>,
        generator: Generator,
    },
    End {
        seconds: f64,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Part {
    ok: bool,
    count: u64,
    response: String,
    #[serde(default)]
    stream: Option<Streamed>,
}

#[derive(Deserialize)]
struct Streamed {
    first_token: String,
}

#[derive(Deserialize)]
struct Generator {
    cpu_seconds: f64,
}

/// HdrHistogram's V2 encoding in base64.
fn decode(text: &str) -> Result<Histogram<u64>> {
    let bytes = STANDARD.decode(text)?;
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| anyhow::anyhow!("a histogram: {error:?}"))
}

/// Requests to one address, ready to be driven.
#[derive(Debug)]
pub struct Driver {
    agentry: PathBuf,
    scenario: PathBuf,
    out: PathBuf,
    url: String,
    key: Option<String>,
    connections: u32,
}

impl Driver {
    /// Writes the requests down as a scenario; `name` is the file's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(
        agentry: &Path,
        dir: &Path,
        name: &str,
        address: &str,
        connections: u32,
        requests: &Requests,
    ) -> Result<Self> {
        let scenario = dir.join(format!("{name}.yaml"));
        std::fs::write(&scenario, requests.scenario(connections)?.to_string())?;
        Ok(Self {
            agentry: agentry.to_path_buf(),
            scenario,
            out: dir.join(format!("{name}.run")),
            url: format!("http://{address}"),
            key: requests.key.clone(),
            connections,
        })
    }

    /// Drives the target for one slice.
    ///
    /// # Errors
    /// When the lab cannot run or measured nothing.
    pub fn slice(&self) -> Result<Outcome> {
        let mut lab = Command::new(&self.agentry);
        lab.args(["lab", "run"]).arg(&self.scenario).args(["--target", &self.url]);
        lab.arg(format!("--threads={}", THREADS.min(self.connections)));
        lab.arg("--out").arg(&self.out).stdin(Stdio::null());
        lab.env("AGENTRY_KEY", self.key.as_deref().unwrap_or_default());
        let run_file = self.out.join("run.jsonl");
        if let Err(error) = std::fs::remove_file(&run_file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            bail!("{}: {error}", run_file.display());
        }
        let output = lab.output().context("cannot start agentry lab")?;
        let talk = String::from_utf8_lossy(&output.stderr);
        let text = std::fs::read_to_string(&run_file)
            .with_context(|| format!("the lab left no run: {talk}"))?;
        Outcome::of_run_file(&text).with_context(|| format!("the lab said: {talk}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

    fn histogram(millis: &[u64]) -> String {
        let mut histogram = Histogram::<u64>::new(SIGNIFICANT_DIGITS).unwrap();
        millis.iter().for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&histogram, &mut bytes).unwrap();
        STANDARD.encode(bytes)
    }

    #[test]
    fn slices_merge_by_their_histograms() {
        let run = |millis: &[u64]| {
            let part = |ok, count, millis: &[u64]| json!({"ok": ok, "count": count, "response": histogram(millis)});
            let interval = |warmup, parts: Value| {
                let generator = json!({"cpu_seconds": 0.25});
                json!({"type": "interval", "warmup": warmup, "endpoints": parts,
                    "generator": generator, "second": 0})
            };
            let lines = [
                json!({"type": "header", "schema": 1, "warmup_seconds": 0.5, "lab": "x"}),
                interval(true, json!([part(true, 7, &[1])])),
                json!({"type": "sample", "class": "x"}),
                interval(false, json!([part(true, 3, millis), part(false, 1, &[900])])),
                json!({"type": "end", "seconds": 1.5, "complete": true}),
            ];
            Outcome::of_run_file(&lines.map(|line| line.to_string()).join("\n")).unwrap()
        };
        let mut merged = run(&[10, 10, 30]);
        merged.merge(&run(&[10, 90, 90])).unwrap();
        assert_eq!((merged.requests, merged.requests_with_warmup, merged.failed), (8, 22, 2));
        assert_eq!((merged.micros, merged.generator_cpu), (2_000_000, Duration::from_secs(1)));
        assert!((merged.rate() - 4.0).abs() < 1e-9);
        for (share, millis) in [(0.5, 10), (0.6, 30), (0.99, 90)] {
            let found = merged.percentile_micros(share) as f64 / 1e3;
            assert!((found / f64::from(millis) - 1.0).abs() < 0.002, "{share}: {found}");
        }
    }

    #[test]
    fn a_run_without_an_end_measured_nothing() {
        let text = r#"{"type":"header","schema":1,"warmup_seconds":0}"#;
        assert!(Outcome::of_run_file(text).is_err());
        assert!(Outcome::of_run_file(&text.replace(":1,", ":2,")).is_err());
    }

    #[test]
    fn requests_become_a_scenario() {
        let path = "/a/${pick(ids)}";
        let post =
            Request { weight: 6, method: "post", path, body: Some(r#"{"a":1}"#), tokens: false };
        let get = Request { weight: 1, method: "get", path: "/b", body: None, tokens: false };
        let requests = Requests {
            key: Some("ak_1".to_owned()),
            mix: vec![post, get],
            ids: vec!["x".to_owned()],
            slice: SLICE,
        };
        let scenario = requests.scenario(50).unwrap();
        let mix = &scenario["mix"];
        assert_eq!(mix["bench_0"]["steps"][0], json!({"post": path, "json": {"a": 1}}));
        assert_eq!(mix["bench_0"]["weight"], 6);
        assert_eq!(mix["bench_1"]["steps"], json!([{"get": "/b"}]));
        assert_eq!(scenario["profiles"]["slice"]["closed"], json!({"users": 50}));
        assert!(!scenario.to_string().contains("ak_1"), "the key comes from the environment");
    }
}
