//! How much of the evidence for a question recall finds: a server, and the script that
//! stores conversations in it and asks their questions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guarded::{Guarded, Spec};
use crate::workspace::{cargo, root, run, target};

/// A debug build compiles its statements slowly; a first start migrates.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cargo profile of the server.
    pub profile: String,
    /// Takes the program as it was built before.
    pub built: bool,
    /// A file in the shape of LoCoMo.
    pub data: PathBuf,
    /// A `postgres://` URL, to keep the state there.
    pub database: Option<String>,
    /// Where the results go, as JSON.
    pub out: Option<PathBuf>,
}

/// Runs it; whether every floor holds.
///
/// # Errors
/// When the server does not build or start, or the script cannot be run.
pub fn bench(options: &Options) -> Result<bool> {
    if !options.built {
        let mut build = cargo();
        build.args(["build", "--profile", &options.profile, "-p", "agentry", "--bin", "agentry"]);
        run(&mut build)?;
    }
    let dir = target().join(if options.profile == "dev" { "debug" } else { &options.profile });
    let place = target().join("bench");
    std::fs::create_dir_all(&place)?;
    let place = tempfile::tempdir_in(place)?;
    let (_server, address, key) = serve(&dir.join("agentry"), place.path(), options)?;
    let mut script = std::process::Command::new("python3");
    script.arg(root().join("bench/recall/recall.py")).arg("--data").arg(&options.data);
    script.args(["--url", &format!("http://{address}"), "--key", &key]);
    if let Some(out) = &options.out {
        script.arg("--out").arg(out);
    }
    Ok(script.status().context("python3 bench/recall/recall.py")?.success())
}

fn serve(program: &Path, place: &Path, options: &Options) -> Result<(Guarded, String, String)> {
    let data = place.join("data");
    let mut command = vec![program.to_string_lossy().into_owned(), "serve".to_owned()];
    command.extend(["--listen", "127.0.0.1:0", "--data"].map(str::to_owned));
    command.push(data.to_string_lossy().into_owned());
    if let Some(url) = &options.database {
        command.extend(["--database".to_owned(), url.clone()]);
    }
    let mut server = Guarded::start(Spec::new(command, &place.join("server.log")))?;
    let address = server.wait_for(READY_WITHIN, |line| {
        line.strip_prefix("listening on http://").map(|address| address.trim().to_owned())
    })?;
    let key = std::fs::read_to_string(data.join("owner.key"))?.trim().to_owned();
    Ok((server, address, key))
}
