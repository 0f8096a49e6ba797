//! Virtual environments of Python in the build folder, each with the packages
//! of one committed requirements file, made again when that file changes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::packages::install;
use crate::workspace::{on_path, run, target};

/// Makes `target/NAME` hold the packages of a requirements file and gives its
/// interpreter.
///
/// # Errors
/// When Python 3 with venv is missing and cannot be installed, or the packages
/// cannot be had.
pub fn venv(name: &str, requirements: &Path) -> Result<PathBuf> {
    let wanted = std::fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let dir = target().join(name);
    let python = dir.join("bin/python");
    let stamp = dir.join("requirements.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted)
        && python.is_file()
    {
        return Ok(python);
    }
    if on_path("python3").is_none() {
        install(&["python3", "python3-venv"], "Python 3")?;
    }
    std::fs::create_dir_all(target())?;
    if make(&dir).is_err() {
        // Debian keeps ensurepip in a package of its own.
        install(&["python3-venv"], "Python's venv module")?;
        make(&dir)?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
    pip.arg(requirements).stdin(Stdio::null());
    run(&mut pip)?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}

fn make(dir: &Path) -> Result<()> {
    let mut command = Command::new("python3");
    command.args(["-m", "venv", "--clear"]).arg(dir);
    run(command.stdin(Stdio::null()).stdout(Stdio::null()))
}
