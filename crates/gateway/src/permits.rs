//! How many requests are worked on at once. A permit is given or refused at
//! once, never waited for: waiting is what overload does to its victims.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A counter with a bound.
#[derive(Clone, Debug)]
pub struct Permits {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// One taken place; dropping it gives it back.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Permits {
    /// With this many places.
    pub fn new(max: usize) -> Self {
        Self { taken: Arc::default(), max }
    }

    /// A place, unless all are taken.
    pub fn take(&self) -> Option<Permit> {
        // Counting first and looking after keeps this to one atomic operation
        // when there is room; a refused taker puts its count back.
        let before = self.taken.fetch_add(1, Ordering::AcqRel);
        let permit = Permit(Arc::clone(&self.taken));
        (before < self.max).then_some(permit)
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// How many there are.
    pub fn max(&self) -> usize {
        self.max
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_places_come_back() {
        let permits = Permits::new(2);
        let first = permits.take().unwrap();
        let second = permits.take().unwrap();
        assert!(permits.take().is_none());
        assert_eq!(permits.taken(), 2, "a refusal takes nothing");
        drop(first);
        assert!(permits.take().is_some());
        drop(second);
        assert_eq!(permits.taken(), 0);
    }
}
