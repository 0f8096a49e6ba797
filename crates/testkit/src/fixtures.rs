//! A directory of a test's own and a clock that a test moves.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use agentry_domain::Timestamp;
use agentry_domain::ports::Clock;

/// An empty directory that is removed with everything in it when dropped.
#[derive(Debug)]
pub struct TempDir(tempfile::TempDir);

impl TempDir {
    /// Makes it where the system keeps temporary files.
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("agentry-").tempdir().expect("a directory is made"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Default for TempDir {
    fn default() -> Self {
        Self::new()
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows this instant.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.micros()))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).expect("a move of less than 292,000 years");
        self.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// Moves it anywhere, also back.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.micros(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_shows_what_it_was_told() {
        let clock = ManualClock::at(Timestamp::from_micros(5));
        clock.advance(Duration::from_micros(7));
        assert_eq!(clock.now().micros(), 12);
        clock.set(Timestamp::from_micros(3));
        assert_eq!(clock.now().micros(), 3);
    }

    #[test]
    fn the_directory_goes_away() {
        let directory = TempDir::new();
        let path = directory.path().to_owned();
        std::fs::write(path.join("file"), b"x").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
