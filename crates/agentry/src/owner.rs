//! The owner's key: made at the first start, shown once on stderr, and kept in
//! `DIR/owner.key` for this machine's commands and for whoever missed it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use agentry_engine::Engine;
use anyhow::Context as _;

/// Where the key is kept in the data directory.
pub(crate) const FILE_NAME: &str = "owner.key";
/// Only the user who serves may read it.
const FILE_MODE: u32 = 0o600;

/// Makes sure that the installation has its owner. The key is on disk before
/// the store knows it: a crash in between leaves a key that the next start
/// takes, never an installation whose key nobody has.
pub(crate) async fn ensure(engine: &Engine, data: &Path) -> anyhow::Result<()> {
    if engine.installed().await? {
        return Ok(());
    }
    std::fs::create_dir_all(data).with_context(|| format!("creating {}", data.display()))?;
    let path = data.join(FILE_NAME);
    let secret = match read(&path)? {
        Some(secret) => secret,
        None => {
            let secret = engine.secret();
            keep(&path, &secret).with_context(|| format!("writing {}", path.display()))?;
            secret
        }
    };
    if engine.install(&secret).await? {
        eprintln!("owner key (shown once; kept in {}): {secret}", path.display());
    } else {
        std::fs::remove_file(&path).ok();
        tracing::warn!("another process made the owner key of this database; its file has it");
    }
    Ok(())
}

/// The key in this file, if there is one.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let mut secret = String::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_string(&mut secret)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", path.display()));
        }
    };
    let secret = secret.trim();
    Ok((!secret.is_empty()).then(|| secret.to_owned()))
}

/// Writes a secret so that only the user who serves may read it, and that it is on
/// disk.
pub(crate) fn keep(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(secret.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
