//! Whether the server should be sent requests: a list of named checks, and off
//! for good once it begins to stop.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

type Check = Box<dyn Fn() -> Result<(), Cow<'static, str>> + Send + Sync>;
type Note = Box<dyn Fn() -> Option<Cow<'static, str>> + Send + Sync>;

/// The server's readiness. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Default)]
struct Inner {
    checks: RwLock<Vec<(&'static str, Check)>>,
    notes: RwLock<Vec<(&'static str, Note)>>,
    stopping: AtomicBool,
}

/// What one check said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its name.
    pub name: &'static str,
    /// Why it does not pass; none when it does.
    pub problem: Option<Cow<'static, str>>,
    /// What is to be known of it all the same.
    pub note: Option<Cow<'static, str>>,
}

/// What every check said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether all pass and the server is not stopping.
    pub ready: bool,
    /// Each check, in the order of registration.
    pub checks: Vec<Checked>,
}

/// A check that is set from outside; it does not pass until [`Flag::set`].
#[derive(Clone, Debug)]
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    /// Lets the check pass, or not.
    pub fn set(&self, passes: bool) {
        self.0.store(passes, Ordering::Release);
    }
}

impl Readiness {
    /// Without checks: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check. It is called on every question and must neither block nor
    /// be slow.
    pub fn check(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<(), Cow<'static, str>> + Send + Sync + 'static,
    ) {
        self.0.checks.write().push((name, Box::new(check)));
    }

    /// Adds something that always passes, and says when it has something to say. It is
    /// called as checks are.
    pub fn note(
        &self,
        name: &'static str,
        note: impl Fn() -> Option<Cow<'static, str>> + Send + Sync + 'static,
    ) {
        self.0.notes.write().push((name, Box::new(note)));
    }

    /// Adds a check that its owner sets, such as "warm".
    pub fn flag(&self, name: &'static str) -> Flag {
        let flag = Flag(Arc::default());
        let state = Arc::clone(&flag.0);
        self.check(name, move || {
            if state.load(Ordering::Acquire) { Ok(()) } else { Err(Cow::Borrowed("not yet")) }
        });
        flag
    }

    /// Turns readiness off for good.
    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Asks every check.
    pub fn report(&self) -> Report {
        let mut checks: Vec<Checked> = self
            .0
            .checks
            .read()
            .iter()
            .map(|(name, check)| Checked { name, problem: check().err(), note: None })
            .collect();
        let notes = self.0.notes.read();
        checks.extend(notes.iter().map(|(name, note)| Checked {
            name,
            problem: None,
            note: note(),
        }));
        let problem = self
            .0
            .stopping
            .load(Ordering::Acquire)
            .then_some(Cow::Borrowed("the server is shutting down"));
        checks.push(Checked { name: "accepting", problem, note: None });
        Report { ready: checks.iter().all(|check| check.problem.is_none()), checks }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("report", &self.report()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_checks_must_pass_until_the_end() {
        let readiness = Readiness::new();
        let warm = readiness.flag("warm");
        readiness.check("store", || Ok(()));
        assert!(!readiness.report().ready);
        warm.set(true);
        let report = readiness.report();
        assert!(report.ready);
        let names: Vec<_> = report.checks.iter().map(|check| check.name).collect();
        assert_eq!(names, ["warm", "store", "accepting"]);
        readiness.stopping();
        assert!(!readiness.report().ready);
    }
}
