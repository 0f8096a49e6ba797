//! Installing what the machine lacks, where that is possible: Debian's
//! packages, as root. Everywhere else it says which package is missing.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{is_root, on_path, run};

/// Installs Debian packages.
///
/// # Errors
/// When this is not a Debian machine, the user is not root, or apt-get fails;
/// `purpose` says in the message what the packages are for.
pub fn install(packages: &[&str], purpose: &str) -> Result<()> {
    let wanted = packages.join(" ");
    if on_path("apt-get").is_none() || !is_root()? {
        bail!("{purpose} is missing: install it first (on Debian: apt-get install {wanted})");
    }
    eprintln!("installing {wanted} for {purpose}");
    run(&mut apt(&["update", "-qq"]))
        .and_then(|()| {
            let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
            run(install.args(packages))
        })
        .with_context(|| format!("{purpose} is missing and could not be installed"))
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    // stdout carries results alone, so apt's talk is thrown away; what goes
    // wrong it says on stderr.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}
