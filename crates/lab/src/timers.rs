//! Timers of one thread at the kernel's precision. The runtime's own timers
//! round up to whole milliseconds, which would be the generator's error in
//! every open-loop figure; a timerfd is late by the scheduler's delay alone.
//!
//! One timerfd serves all sleeps of its thread: the earliest arms it. Sleeps
//! work only while [`Timers::drive`] is polled on the same thread.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long before its time an exact sleep is awake: what a timer's interrupt
/// and the way through the scheduler take on a virtual machine.
const AWAKE_BEFORE: Duration = Duration::from_micros(50);
/// A wait is at least so many times as long as what of it is spent awake.
const AWAKE_PART: u32 = 15;

/// A handle; clones share the thread's timers.
#[derive(Clone, Debug)]
pub(crate) struct Timers {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    fd: AsyncFd<OwnedFd>,
    waiting: RefCell<BinaryHeap<Reverse<Waiting>>>,
}

/// A waker may be exchanged while its sleep waits.
type Slot = Rc<RefCell<Waker>>;

#[derive(Debug)]
struct Waiting {
    at: Instant,
    waker: Slot,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Timers {
    /// # Errors
    /// When the kernel gives no timer, or no runtime runs here.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, for descriptors that may close early; an \
                      OwnedFd stays open and stays the same"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { shared: Rc::new(Shared { fd, waiting: RefCell::default() }) })
    }

    /// Ready at `at`, at once when that is past.
    pub(crate) fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { timers: self.clone(), at, slot: None }
    }

    /// As [`Self::sleep_until`], and awake already when the time comes: what a
    /// kernel needs to wake a thread is longer than what the thread then does.
    /// Spins for at most [`AWAKE_BEFORE`], while others run, and only when that
    /// is a small part of the wait.
    pub(crate) async fn sleep_until_exactly(&self, at: Instant) {
        let left = at.saturating_duration_since(Instant::now());
        if left >= AWAKE_BEFORE * AWAKE_PART {
            self.sleep_until(at - AWAKE_BEFORE).await;
            while Instant::now() < at {
                tokio::task::yield_now().await;
            }
        } else {
            self.sleep_until(at).await;
        }
    }

    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(Instant::now() + duration)
    }

    /// Wakes whoever is due, for ever.
    ///
    /// # Errors
    /// When the timer cannot be read.
    pub(crate) async fn drive(&self) -> io::Result<()> {
        loop {
            let mut ready = self.shared.fd.readable().await?;
            let mut expirations = [0; 8];
            match rustix::io::read(self.shared.fd.get_ref(), &mut expirations) {
                Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            ready.clear_ready();
            let now = Instant::now();
            let mut waiting = self.shared.waiting.borrow_mut();
            while waiting.peek().is_some_and(|Reverse(first)| first.at <= now) {
                if let Some(Reverse(due)) = waiting.pop() {
                    due.waker.borrow().wake_by_ref();
                }
            }
            if let Some(Reverse(next)) = waiting.peek() {
                self.arm(next.at)?;
            }
        }
    }

    fn arm(&self, at: Instant) -> io::Result<()> {
        // Zero would disarm it.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(self.shared.fd.get_ref(), TimerfdTimerFlags::empty(), &value)?;
        Ok(())
    }

    fn wait(&self, at: Instant, waker: Slot) {
        let mut waiting = self.shared.waiting.borrow_mut();
        let earliest = waiting.peek().is_none_or(|Reverse(first)| at < first.at);
        waiting.push(Reverse(Waiting { at, waker }));
        if earliest && let Err(error) = self.arm(at) {
            // It was armed when it was made; it can only fail on a bad
            // argument, which is ours.
            debug_assert!(false, "the timer could not be set: {error}");
        }
    }
}

/// See [`Timers::sleep_until`].
#[derive(Debug)]
pub(crate) struct Sleep {
    timers: Timers,
    at: Instant,
    slot: Option<Slot>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        if let Some(slot) = &self.slot {
            slot.borrow_mut().clone_from(cx.waker());
        } else {
            let slot = Rc::new(RefCell::new(cx.waker().clone()));
            self.slot = Some(Rc::clone(&slot));
            self.timers.wait(self.at, slot);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_end_in_their_order_and_never_early() {
        use futures::stream::{FuturesUnordered, StreamExt as _};

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let timers = Timers::new().unwrap();
            loop {
                let start = Instant::now() + Duration::from_millis(20);
                let one = |ms: u64| {
                    let timers = timers.clone();
                    async move {
                        timers.sleep_until(start + Duration::from_millis(ms)).await;
                        assert!(Instant::now() >= start + Duration::from_millis(ms));
                        ms
                    }
                };
                let mut sleeps: FuturesUnordered<_> =
                    [9, 3, 6, 0, 3].map(one).into_iter().collect();
                // All of them wait before the first is due; a machine that was
                // busy for so long tries again.
                let waits = futures::poll!(sleeps.next()).is_pending();
                if !waits || Instant::now() >= start {
                    continue;
                }
                let order = tokio::select! {
                    ended = timers.drive() => panic!("{ended:?}"),
                    order = sleeps.collect::<Vec<_>>() => order,
                };
                assert_eq!(order, [0, 3, 3, 6, 9]);
                return;
            }
        });
    }
}
