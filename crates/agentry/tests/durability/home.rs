//! Homes that are copied, watched by a shim or full.

use std::path::{Path, PathBuf};

use agentry_testkit::TempDir;
use xtask::shims;

/// A file of a shim, from `make test`.
pub(crate) fn shim(name: &str) -> String {
    let dir = std::env::var_os("AGENTRY_TEST_SHIMS")
        .expect("AGENTRY_TEST_SHIMS is not set: run `make test`, which builds the shims");
    shims::library(Path::new(&dir), name).to_str().unwrap().to_owned()
}

/// Copies the files of a directory as they are now, whoever writes them.
pub(crate) fn copy_of(dir: &Path) -> TempDir {
    let copy = TempDir::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        // SQLite makes this one again, out of the log of writes.
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// The database in a data directory.
pub(crate) fn database_in(data: &Path) -> PathBuf {
    data.join("agentry.db")
}
