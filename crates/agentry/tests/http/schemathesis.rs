//! The OpenAPI document holds: schemathesis makes requests out of it (the
//! examples in it, the corners of each schema, what is within and beyond them by
//! chance, and operations one after the other as their answers lead), and holds
//! every answer to what the document says of it.
//!
//! What is not asked, and which refusals count as right although the document
//! allows the request, stands in [`HOOKS`] and [`NOT_ASKED`], each with its reason;
//! docs/how-it-is-tested.md says the same. A finding beyond that is a fault of
//! the server or of the document.

use std::path::Path;
use std::process::{Command, Output};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Server};
use crate::webhooks::SEALING_KEY;

on_both_engines! {
    what_the_document_says_holds_soak,
}

/// Cases for an operation and phase in the short form.
const CASES_MAX: &str = "5";
/// How long the long form goes on, in seconds.
const SOAK_S: &str = "1800";
/// How long one answer may take, in seconds: a debug build beside other tests.
const ANSWER_WITHIN_S: &str = "60";

/// Streams of events have no end, and an answer without one is never looked at. An import
/// takes whatever lines there are, and reports what is wrong with them.
const NOT_ASKED: &str = r"^/api/v1/(events|ws/events(/filtered)?|graph/import)$";

/// Refusals that are right although a schema allows the request.
const HOOKS: &str = r#"
import json
import os
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

FAULTS = {
    # Two fields that say the same, or contradict each other.
    "exclusive",
    # What is set for good, or depends on what another field says or on the time.
    "immutable", "out_of_range",
    # Formats are annotations in JSON Schema: an id, an instant, a cursor, a path.
    "malformed", "not_an_id", "not_a_cursor", "not_a_path",
    # Known, and documented as not built yet.
    "not_supported_yet",
}
# One of two fields is required, whichever.
EITHER_OF_TWO = {"/message", "/description", "/content"}

@schemathesis.hook
def before_call(context, case, kwargs):
    # Whoever revokes the own key is refused everything after that.
    own = os.environ["OWN_KEY_ID"]
    if "keys" in case.path and case.method in ("DELETE", "PATCH") and own in str(case.path_parameters):
        case.path_parameters["id"] = "01890a5d-ac96-774b-bcce-b302099a8057"
    # What was made up is neither started nor called.
    if "mcp/servers" in case.path and case.path.endswith(("start}", "start", "restart")):
        case.path_parameters["id"] = "01890a5d-ac96-774b-bcce-b302099a8057"
    # Nothing is to be delivered to where the examples point.
    if "webhooks" in case.path and isinstance(case.body, dict) and case.body.get("enabled", True) is True:
        case.body["enabled"] = False

def is_explained(response):
    # The condition names another version than there is.
    if response.status_code == 412:
        return True
    if response.status_code != 422:
        return False
    problem = json.loads(response.content)
    # OpenAI's shape has room for one fault of several, and its fields are texts
    # or lists of what has text, or known and not built yet.
    if "error" in problem:
        return True
    if problem["code"] == "idempotency_key_reused":
        return True
    return bool(problem.get("errors")) and all(
        fault["code"] in FAULTS
        or (fault["code"] == "required" and fault["pointer"] in EITHER_OF_TWO)
        # The role does not allow one of the scopes.
        or (fault["code"] == "not_allowed" and fault["pointer"] == "/scopes")
        # What an MCP server takes depends on its type and its auth, and where it is
        # allowed to be on the address.
        or ("mcp/servers" in response.request.url and fault["code"] in ("not_allowed", "required"))
        # What an agent may list is no matter of types alone.
        or (fault["code"] in ("unknown", "required") and fault["pointer"].startswith("/tools/"))
        for fault in problem["errors"]
    )

@schemathesis.check
def what_the_document_allows_is_accepted(ctx, response, case):
    return None if is_explained(response) else positive_data_acceptance(ctx, response, case)
"#;

/// A refusal of what the document forbids may also have another reason that came
/// first.
const SETTINGS: &str = r#"
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "411", "412", "413", "415", "422", "429"]
"#;

fn schemathesis(server: &Server, own: &str, dir: &Path, seed: &str, is_soak: bool) -> Output {
    std::fs::write(dir.join("hooks.py"), HOOKS).unwrap();
    std::fs::write(dir.join("schemathesis.toml"), SETTINGS).unwrap();
    let python = std::env::var("AGENTRY_TEST_PYTHON")
        .expect("AGENTRY_TEST_PYTHON is not set: run `make test`, which makes the environment");
    let mut command = Command::new(python);
    command.args(["-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"]);
    command.arg(format!("{}/openapi.json", server.url));
    command.args(["-H", &format!("X-API-Key: {}", server.key), "--seed", seed, "--no-color"]);
    command.args(["--exclude-path-regex", NOT_ASKED, "--request-timeout", ANSWER_WITHIN_S]);
    command.args(["--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure"]);
    command.args(["--exclude-checks", "positive_data_acceptance"]);
    // U+0000 is refused wherever it stands, which no schema says in short.
    command.args(["--generation-allow-x00", "false", "--generation-database", "none"]);
    command.args(["--report", "json", "--report-json-path", "report.json"]);
    match is_soak {
        true => command.args(["--max-time", SOAK_S]),
        false => command.args(["--max-examples", CASES_MAX]),
    };
    command
        .env("OWN_KEY_ID", own)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", dir)
        .current_dir(dir);
    command.output().unwrap()
}

async fn what_the_document_says_holds_soak(engine: Engine) {
    let is_soak = std::env::var_os("AGENTRY_TEST_SOAK").is_some_and(|value| value == "1");
    let seed = std::env::var("AGENTRY_TEST_SEED").unwrap_or_else(|_| "20261121".to_owned());
    eprintln!("the seed is {seed} (AGENTRY_TEST_SEED)");
    let server = Server::start_with(
        engine,
        &[
            ("AGENTRY_LOG", "error"),
            ("AGENTRY_SEALING_KEY", SEALING_KEY),
            // It shows each operation a key that is none.
            ("AGENTRY_HTTP__AUTH_FAILURES_PER_MINUTE", "0"),
        ],
    )
    .await;
    let (_, keys) = server.get("/api/v1/keys").await;
    let own = keys["items"][0]["id"].as_str().unwrap().to_owned();
    let dir = agentry_testkit::TempDir::new();
    let (server, dir, output) = tokio::task::spawn_blocking(move || {
        let output = schemathesis(&server, &own, dir.path(), &seed, is_soak);
        (server, dir, output)
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{talk}");
    let report = std::fs::read(dir.path().join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    for phase in ["examples", "coverage", "fuzzing", "stateful"] {
        assert_eq!(report["phases"][phase]["status"], "success", "{phase}: {said}");
    }
    let operations = &report["operations"];
    assert_eq!(operations["tested"], operations["selected"], "{said}");
    let left_out = operations["total"].as_i64().unwrap() - operations["selected"].as_i64().unwrap();
    assert_eq!(left_out, 4, "{said}");
    // Had it revoked its own key, everything after that was refused.
    let (status, agents) = server.get("/api/v1/agents").await;
    assert_eq!(status, StatusCode::OK, "{agents}");
    assert_ne!(agents["total"], json!(1), "nothing was made");
}
