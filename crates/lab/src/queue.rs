//! The arrivals of an open load that wait for a free user, within one thread.
//! Bounded; whoever finds it full is told.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Instant;

/// How many arrivals may wait in one thread.
const WAITING_MAX: usize = 100_000;

/// An iteration that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) index: u64,
    pub(crate) intended: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: RefCell<VecDeque<Arrival>>,
    /// Users without work; the one that came last is taken first, because its
    /// connection is the warmest.
    idle: RefCell<Vec<Waker>>,
    closed: Cell<bool>,
}

impl Queue {
    /// How many wait now; none when it is full.
    pub(crate) fn push(&self, arrival: Arrival) -> Option<usize> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == WAITING_MAX {
            return None;
        }
        waiting.push_back(arrival);
        if let Some(user) = self.idle.borrow_mut().pop() {
            user.wake();
        }
        Some(waiting.len())
    }

    /// Whether some user waits for work.
    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.borrow().is_empty()
    }

    /// The next arrival; none when no more will come.
    pub(crate) async fn pop(&self) -> Option<Arrival> {
        poll_fn(|cx| {
            if let Some(arrival) = self.waiting.borrow_mut().pop_front() {
                return Poll::Ready(Some(arrival));
            }
            if self.closed.get() {
                return Poll::Ready(None);
            }
            self.idle.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// No more will come; those that wait are still handed out.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Those that nobody will take any more.
    pub(crate) fn give_up(&self) -> Vec<Arrival> {
        self.close();
        self.waiting.borrow_mut().drain(..).collect()
    }
}
