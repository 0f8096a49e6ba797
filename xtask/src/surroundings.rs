//! What the tests need around them, and running a command in it. The
//! environment says where each thing is:
//!
//! | variable | holds |
//! |---|---|
//! | `AGENTRY_TEST_POSTGRES` | `postgres://` URL of a superuser on a running cluster |
//! | `AGENTRY_TEST_POSTGRES_BIN` | the directory of `initdb` and `postgres` |
//! | `AGENTRY_TEST_POSTGRES_USER` | `UID:GID` that a test's own cluster runs as, when we are root |
//! | `AGENTRY_TEST_PYTHON` | a Python interpreter with `xtask/python/requirements.txt` |
//! | `AGENTRY_TEST_MCP_EVERYTHING` | the script of the official MCP server, for `node` |
//! | `AGENTRY_TEST_OPENAI_NODE` | the module of OpenAI's client, for `node` |
//! | `AGENTRY_TEST_REDOCLY` | the script of redocly's lint, for `node` |
//! | `AGENTRY_TEST_CHROMIUM` | a Chromium |
//! | `AGENTRY_TEST_PROMETHEUS` | a Prometheus |
//! | `AGENTRY_TEST_PROMTOOL` | its tool, `promtool` |
//! | `AGENTRY_TEST_SHIMS` | the directory of the built shims |
//! | `AGENTRY_TEST_SOAK` | `1` when tests with a long form shall take it |

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use crate::guarded::User;
use crate::packages::install;
use crate::workspace::{cargo, on_path, root, target};
use crate::{node, postgres, python, shims};

/// Everything that was made and started for the tests; gone when dropped.
#[derive(Debug)]
pub struct Surroundings {
    _cluster: postgres::Cluster,
    env: Vec<(&'static str, OsString)>,
}

impl Surroundings {
    /// Installs, builds and starts what the tests need.
    ///
    /// # Errors
    /// When something is missing that cannot be installed, built or started.
    pub fn prepare() -> Result<Self> {
        let shims_dir = target().join("shims");
        shims::build(&shims_dir)?;
        let requirements = root().join("xtask/python/requirements.txt");
        let python = python::venv("venv", &requirements)?;
        let redocly = node::redocly()?;
        let openai = node::openai()?;
        let everything = node::everything()?;
        let chromium = chromium()?;
        let (prometheus, promtool) = (prometheus("prometheus")?, prometheus("promtool")?);
        let binaries = postgres::binaries()?;
        let cluster = postgres::Cluster::start(&postgres::log_file("test"), None)
            .context("PostgreSQL for the tests does not start")?;
        let mut env: Vec<(&str, OsString)> = vec![
            ("AGENTRY_TEST_POSTGRES", cluster.url().into()),
            ("AGENTRY_TEST_POSTGRES_BIN", binaries.into()),
            ("AGENTRY_TEST_OPENAI_NODE", openai.into()),
            ("AGENTRY_TEST_MCP_EVERYTHING", everything.into()),
            ("AGENTRY_TEST_PYTHON", python.into()),
            ("AGENTRY_TEST_REDOCLY", redocly.into()),
            ("AGENTRY_TEST_CHROMIUM", chromium.into()),
            ("AGENTRY_TEST_PROMETHEUS", prometheus.into()),
            ("AGENTRY_TEST_PROMTOOL", promtool.into()),
            ("AGENTRY_TEST_SHIMS", shims_dir.into()),
        ];
        if let Some(User { uid, gid }) = postgres::server_user()? {
            env.push(("AGENTRY_TEST_POSTGRES_USER", format!("{uid}:{gid}").into()));
        }
        Ok(Self { _cluster: cluster, env })
    }

    /// Runs a command in these surroundings, its output passed through.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let program = command.get_program().to_string_lossy().into_owned();
        command.status().with_context(|| format!("cannot start {program}"))
    }
}

/// The browser that tests drive; installed when it is missing.
fn chromium() -> Result<PathBuf> {
    let find = || ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(on_path);
    if let Some(found) = find() {
        return Ok(found);
    }
    install(&["chromium"], "a browser")?;
    find().context("chromium was installed and is not on the path")
}

/// Prometheus, or its tool; installed when they are missing.
fn prometheus(program: &str) -> Result<PathBuf> {
    if let Some(found) = on_path(program) {
        return Ok(found);
    }
    install(&["prometheus"], "Prometheus")?;
    on_path(program).with_context(|| format!("{program} was installed and is not on the path"))
}

/// `cargo test` with these arguments; the whole workspace unless they choose
/// packages.
pub fn cargo_test(args: &[String]) -> Command {
    let ours = args.split(|arg| arg == "--").next().unwrap_or_default();
    let chosen = ours.iter().any(|arg| {
        arg == "-p" || arg.starts_with("--package") || arg == "--workspace" || arg == "--all"
    });
    let mut command = cargo();
    // One run shows everything that fails.
    command.args(["test", "--no-fail-fast"]);
    if !chosen {
        command.arg("--workspace");
    }
    command.args(args);
    command
}

/// The tests whose names contain `soak`, in their long form.
pub fn cargo_soak(args: &[String]) -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "soak"]).args(args).env("AGENTRY_TEST_SOAK", "1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_workspace_is_tested_unless_packages_are_chosen() {
        let words = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let command = cargo_test(&args);
            let words: Vec<String> =
                command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
            words.join(" ")
        };
        assert_eq!(words(&[]), "test --no-fail-fast --workspace");
        assert_eq!(
            words(&["jobs", "--", "--nocapture"]),
            "test --no-fail-fast --workspace jobs -- --nocapture"
        );
        assert_eq!(words(&["-p", "agentry-store"]), "test --no-fail-fast -p agentry-store");
        assert_eq!(words(&["x", "--", "-p"]), "test --no-fail-fast --workspace x -- -p");
    }
}
