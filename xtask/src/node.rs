//! Packages of npm in the build folder, at exactly the version that is named
//! here: nothing of them is committed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::packages::install;
use crate::workspace::{on_path, output, run, target};

/// The lint of OpenAPI documents: the newest that runs on the Node.js of Debian 12.
const REDOCLY: &str = "@redocly/cli";
const REDOCLY_VERSION: &str = "1.34.20";
/// OpenAI's own client: the newest that runs on the Node.js of Debian 12.
const OPENAI: &str = "openai";
const OPENAI_VERSION: &str = "6.30.1";
/// The official server that tries every part of the Model Context Protocol.
const EVERYTHING: &str = "@modelcontextprotocol/server-everything";
const EVERYTHING_VERSION: &str = "2026.8.31";
/// The oldest Node.js that they run on, as its major and minor version.
const NODE_MIN: (u32, u32) = (18, 17);

/// Makes `target/node` hold the lint and gives the script that Node.js runs.
///
/// # Errors
/// When Node.js is missing or too old and cannot be installed, or the package
/// cannot be had.
pub fn redocly() -> Result<PathBuf> {
    package("node", REDOCLY, REDOCLY_VERSION, "bin/cli.js")
}

/// Makes `target/node-openai` hold OpenAI's client and gives its module.
///
/// # Errors
/// As for [`redocly`].
pub fn openai() -> Result<PathBuf> {
    package("node-openai", OPENAI, OPENAI_VERSION, "index.mjs")
}

/// Makes `target/node-mcp` hold the official MCP server and gives its script.
///
/// # Errors
/// As for [`redocly`].
pub fn everything() -> Result<PathBuf> {
    package("node-mcp", EVERYTHING, EVERYTHING_VERSION, "dist/index.js")
}

/// Makes `target/NAME` hold a package, and gives a file of it.
fn package(name: &str, package: &str, version: &str, file: &str) -> Result<PathBuf> {
    if on_path("node").is_none() || on_path("npm").is_none() {
        install(&["nodejs", "npm"], "Node.js with npm")?;
    }
    let node = output(Command::new("node").arg("--version"))?;
    if parsed(&node).is_none_or(|node| node < NODE_MIN) {
        let (major, minor) = NODE_MIN;
        bail!("Node.js {major}.{minor} or later is needed, and this is {}", node.trim());
    }
    let dir = target().join(name);
    let place = dir.join("node_modules").join(package);
    let installed = std::fs::read_to_string(place.join("package.json")).unwrap_or_default();
    if !installed.contains(&format!("\"version\": \"{version}\"")) {
        std::fs::create_dir_all(&dir)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]);
        npm.args(["--loglevel", "error", "--prefix"]).arg(&dir);
        npm.arg(format!("{package}@{version}"));
        run(npm.stdin(Stdio::null()).stdout(Stdio::null()))?;
    }
    let file = place.join(file);
    file.is_file().then_some(file).with_context(|| format!("{package} did not bring its module"))
}

/// "v20.19.2", as its major and minor version.
fn parsed(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim().strip_prefix('v')?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(parsed("v20.19.2\n"), Some((20, 19)));
        assert!(parsed("v9.4.0") < parsed("v20.2.0"));
        assert_eq!(parsed("20"), None);
    }
}
