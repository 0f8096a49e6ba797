//! Builds the small preloaded libraries of `xtask/shims`: `powercut` journals
//! writes and syncs, `slowsync` delays syncs, `failsync` breaks the disk and
//! heals it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::packages::install;
use crate::workspace::{on_path, root, run};

/// Every shim there is; `NAME.c` becomes `NAME.so`.
pub const NAMES: &[&str] = &["powercut", "slowsync", "failsync"];

/// Builds every shim into a directory.
///
/// # Errors
/// When there is no C compiler or it refuses.
pub fn build(into: &Path) -> Result<()> {
    if on_path("cc").is_none() {
        install(&["gcc", "libc6-dev"], "a C compiler")?;
    }
    std::fs::create_dir_all(into)?;
    for name in NAMES {
        let source = root().join("xtask/shims").join(format!("{name}.c"));
        let made = library(into, name);
        let unfinished = into.join(format!(".{name}.{}", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]);
        cc.arg("-o").arg(&unfinished).arg(&source).arg("-pthread");
        run(cc.stdin(Stdio::null()))?;
        // Put in place whole: a running program may have the old one mapped.
        std::fs::rename(&unfinished, &made)
            .with_context(|| format!("cannot write {}", made.display()))?;
    }
    Ok(())
}

/// The file of a shim in the directory it was built into.
pub fn library(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.so"))
}
