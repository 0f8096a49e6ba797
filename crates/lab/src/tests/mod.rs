//! Whole runs against the mock: what is recorded is what happened.

mod protocols;
mod recording;
mod reports;
mod sockets;
mod targets;
mod writes;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use crate::drive::{self, Finished, Options, RUN_FILE};
use crate::mock::{Delay, Mock, Tokens};
use crate::pacing::Schedule;
use crate::recorder::{Outcome, Recorder, Times};
use crate::run_file;
use crate::scenario::{Arrivals, Overrides, Plan, Profile, Stage, Surroundings};
use crate::summary::{EndpointSummary, Summary};
use crate::target::Target;
use crate::verdict::{Exit, judge};

pub(crate) fn mock(change: impl FnOnce(&mut crate::mock::Options)) -> Mock {
    let mut options = crate::mock::Options {
        tokens: Tokens { count: 20, per_event: 3, gap: Duration::from_millis(1), torn: true },
        ..crate::mock::Options::default()
    };
    change(&mut options);
    Mock::start(options).unwrap()
}

fn plan(url: &str, scenario: &str) -> Plan {
    let target = Overrides { target: Some(url.to_owned()), ..Overrides::default() };
    Plan::read(scenario, &target, &Surroundings { env: &|_| None, run: "r" }).unwrap()
}

fn options(out: Option<&Path>) -> Options {
    Options {
        scenario: "test".to_owned(),
        scenario_text: String::new(),
        run: "r".to_owned(),
        command: String::new(),
        threads: 2,
        out: out.map(Path::to_owned),
    }
}

fn run(plan: Plan, out: Option<&Path>) -> Finished {
    let (_keep, interrupt) = watch::channel(false);
    drive::drive(plan, &options(out), &interrupt, &mut |_, _| ()).unwrap()
}

/// Two endpoints, one of which fails sometimes, and writes that are read back.
const MIXED: &str = r#"
seed: 3
mix:
  read: {weight: 3, steps: [{get: "/x?errors=30%", expect: {json: {$.ok: true}}}]}
  write: {weight: 1, steps: [{post: /items, expect: {status: 201}, save: {id: $.id}, acknowledged: "/items/${id}"}]}
  chat: {weight: 1, steps: [{sse: /v1/chat/completions, json: {stream: true}, tokens: openai}]}
profiles: {normal: {closed: {users: 6}, iterations: 400}}
slo: [read.errors < 90%, write.errors < 1%]
"#;

#[cfg(feature = "terminal")]
/// A run in which one endpoint fails sometimes.
pub(crate) fn mixed_run(mock: &Mock) -> Summary {
    run(plan(&mock.url(), MIXED), None).summary
}

/// The mock over TLS, and a file that makes its certificate trusted.
fn secure_mock(dir: &Path, change: impl FnOnce(&mut crate::mock::Options)) -> (Mock, String) {
    let mock = mock(|options| {
        options.tls = true;
        change(options);
    });
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, mock.certificate().unwrap()).unwrap();
    (mock, ca.display().to_string())
}

/// What the mock says of itself, asked over whatever it speaks.
fn truth(mock: &Mock) -> Value {
    let asked = plan(
        &mock.url(),
        "tls: {insecure: true}\nmix: {a: {steps: [{get: /lab/record, expect: {status: 599}}]}}\n\
         profiles: {p: {closed: {users: 1}, iterations: 1}}",
    );
    // The body of an answer that is not expected is kept as a sample, up to 2 kB.
    let summary = run(asked, None).summary;
    serde_json::from_str(&summary.samples[0].body).unwrap()
}
