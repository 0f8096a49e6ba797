//! Places for runs in this process, and who may take them.
//!
//! Whoever holds as many places as are free gets no further one: one user alone
//! fills half of them, and the next one always finds some, however many runs the
//! first has waiting and however long they take.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentry_domain::OrgId;
use agentry_store::Flow;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Whose places they are.
type Holder = (OrgId, Flow);

/// All places.
#[derive(Clone)]
pub(crate) struct Places(Arc<Inner>);

struct Inner {
    max: usize,
    taken: Mutex<Taken>,
    /// Whether jobs wait that found no place.
    wanted: AtomicBool,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<Holder, usize>,
}

/// A place; free again when it is dropped.
pub(crate) struct Place {
    inner: Arc<Inner>,
    holder: Holder,
    /// Whether somebody worked in it, so that its end is news.
    used: bool,
}

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Inner {
            max,
            taken: Mutex::default(),
            wanted: AtomicBool::new(false),
            freed: Notify::new(),
        }))
    }

    /// A place for this one, if it may have one more.
    pub(crate) fn take(&self, org: OrgId, flow: Flow) -> Option<Place> {
        let holder = (org, flow);
        let mut taken = self.0.taken.lock();
        if room(&taken, self.0.max, holder) == 0 {
            return None;
        }
        taken.all += 1;
        *taken.by.entry(holder).or_default() += 1;
        Some(Place { inner: Arc::clone(&self.0), holder, used: false })
    }

    /// How many further places this one may have.
    pub(crate) fn room(&self, org: OrgId, flow: Flow) -> usize {
        room(&self.0.taken.lock(), self.0.max, (org, flow))
    }

    /// How many are free.
    pub(crate) fn free(&self) -> usize {
        self.0.max.saturating_sub(self.0.taken.lock().all)
    }

    /// Says whether [`Places::freed`] is to be told of places that become free.
    pub(crate) fn want(&self, wanted: bool) {
        self.0.wanted.store(wanted, Ordering::SeqCst);
    }

    /// A place became free that was wanted.
    pub(crate) async fn freed(&self) {
        self.0.freed.notified().await;
    }
}

/// With `held` of `free + all` places, k more are fine while held + k - 1 stays
/// below free - (k - 1).
fn room(taken: &Taken, max: usize, holder: Holder) -> usize {
    let held = taken.by.get(&holder).copied().unwrap_or(0);
    let free = max.saturating_sub(taken.all);
    (free + 1).saturating_sub(held) / 2
}

impl Place {
    /// Whether it was taken for this one.
    pub(crate) fn is_of(&self, org: OrgId, flow: Flow) -> bool {
        self.holder == (org, flow)
    }

    /// Somebody works in it from now on.
    pub(crate) fn begin(&mut self) {
        self.used = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.inner.taken.lock();
        taken.all -= 1;
        if let Some(held) = taken.by.get_mut(&self.holder) {
            *held -= 1;
            if *held == 0 {
                taken.by.remove(&self.holder);
            }
        }
        drop(taken);
        if self.used && self.inner.wanted.load(Ordering::SeqCst) {
            self.inner.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_alone_gets_half_and_the_next_one_finds_a_place() {
        let org = OrgId::from_bytes([1; 16]);
        let (ann, bob) = (Flow::of_user("ann"), Flow::of_user("bob"));
        let places = Places::new(10);
        assert_eq!(places.room(org, ann), 5);
        let of_ann: Vec<Place> = std::iter::from_fn(|| places.take(org, ann)).collect();
        assert_eq!(of_ann.len(), 5);
        let of_bob: Vec<Place> = std::iter::from_fn(|| places.take(org, bob)).collect();
        assert_eq!((of_bob.len(), places.free()), (3, 2));
        assert!(places.take(org, ann).is_none());
        drop((of_ann, of_bob));
        assert_eq!((places.free(), places.room(org, ann)), (10, 5));
        let one = Places::new(1);
        let place = one.take(org, ann);
        assert!(place.is_some() && one.take(org, bob).is_none());
    }
}
