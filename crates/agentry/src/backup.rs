//! `agentry backup`, `agentry restore` and `agentry doctor`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentry_domain::ports::{Clock as _, SystemClock};
use agentry_store::backup::{self, Manifest};
use agentry_store::doctor;
use anyhow::Context as _;
use futures::StreamExt as _;

use crate::local::Local;
use crate::settings::Settings;

const BACKUP_PATH: &str = "/api/v1/admin/backup";
/// A backup that is not whole yet.
const PARTIAL_EXTENSION: &str = "partial";

/// Makes a backup of the installation, whether it is served or not. The file
/// appears when it is whole, was read back and is on disk.
pub(crate) async fn make(settings: &Settings, file: &Path) -> anyhow::Result<String> {
    anyhow::ensure!(!file.exists(), "{} is there already", file.display());
    let partial = Partial::create(file)?;
    match Local::find(settings)? {
        Local::Served(server) => {
            let mut pieces = server.post(BACKUP_PATH, "{}").await?.chunks();
            let mut to = &partial.file;
            while let Some(piece) = pieces.next().await {
                to.write_all(&piece.context("the backup broke off")?)?;
            }
        }
        Local::Held(lock) => {
            anyhow::ensure!(
                settings.database.is_none(),
                "the state is in PostgreSQL: back it up with PostgreSQL's own tools, as \
                 docs/operations.md describes"
            );
            backup::make(&settings.data, SystemClock.now())?.write(&mut &partial.file)?;
            drop(lock);
        }
    }
    let manifest = partial.keep(file)?;
    Ok(format!("{}: {}", file.display(), described(&manifest)))
}

fn described(manifest: &Manifest) -> String {
    format!(
        "{} bytes of data up to entry {} of the log, schema {}, made by agentry {} at {}",
        manifest.bytes, manifest.log, manifest.schema, manifest.version, manifest.made_at
    )
}

/// A file that goes away unless it is kept.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn create(file: &Path) -> anyhow::Result<Self> {
        let mut path = file.as_os_str().to_owned();
        path.push(format!(".{PARTIAL_EXTENSION}"));
        let path = PathBuf::from(path);
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
        let file = file.with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn keep(self, file: &Path) -> anyhow::Result<Manifest> {
        self.file.sync_all()?;
        let manifest = backup::verify(&self.path)?;
        std::fs::rename(&self.path, file)?;
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(manifest)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Puts a backup into a data directory that nobody serves.
pub(crate) fn restore(settings: &Settings, file: &Path, force: bool) -> anyhow::Result<String> {
    anyhow::ensure!(
        settings.database.is_none(),
        "this restores backups of SQLite; docs/operations.md has the recipe for PostgreSQL"
    );
    let data = &settings.data;
    let restored = backup::restore(file, data, force, SystemClock.now())
        .with_context(|| format!("restoring {}", file.display()))?;
    let mut said = format!("{}: {}", data.display(), described(&restored.manifest));
    if let Some(aside) = restored.aside {
        said.push_str(&format!("\nwhat was there before is in {}", aside.display()));
    }
    if !restored.has_key {
        said.push_str("\nthe keys of the installation that was backed up open it");
    }
    Ok(said)
}

/// Looks whether what is stored agrees with itself: a line for each check, and
/// failure when one of them does not hold.
pub(crate) async fn examine(settings: &Settings, deep: bool) -> anyhow::Result<(String, ExitCode)> {
    let options = settings.store_options();
    anyhow::ensure!(
        settings.database.is_some() || agentry_store::exists(&options.data),
        "there is no data in {}",
        options.data.display()
    );
    let checks = doctor::examine(&options, deep).await?;
    let mut said = Vec::new();
    let mut faulty = 0;
    for check in &checks {
        let verdict = match check.faults {
            0 => "ok".to_owned(),
            faults => format!("FAULTY ({faults})"),
        };
        faulty += usize::from(check.faults > 0);
        said.push(format!("{verdict:>12}  {}", check.name));
        said.extend(check.details.iter().map(|detail| format!("{:>12}  {detail}", "")));
    }
    said.push(format!("{} checks, {faulty} faulty", checks.len()));
    let code = if faulty == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok((said.join("\n"), code))
}
