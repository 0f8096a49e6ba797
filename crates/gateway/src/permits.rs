//! How many requests are worked on at once. Who finds no place waits in a short
//! queue for a short while, so that a burst is smoothed and not refused; who finds
//! the queue full, or waits in vain, is refused: a longer wait is what overload
//! does to its victims.
//!
//! The queue is fair to organisations. A place that becomes free goes to the next
//! organisation in turn, and within one to whoever waits longest, so that one that
//! asks for ten times its share holds up itself. One alone may have only so much of
//! the queue; and when the queue is full all the same, the organisation that has most
//! of it makes room for one that has less: its newest request is refused.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use agentry_domain::OrgId;
use ahash::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a queue for places may be, and how long one waits in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Requests that wait at once at most.
    pub waiting_max: usize,
    /// Requests of one organisation that wait at once at most.
    pub org_waiting_max: usize,
    /// How long each waits at most.
    pub wait_max: Duration,
}

/// A counter with a bound and a queue.
#[derive(Clone, Debug)]
pub struct Permits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    taken: AtomicUsize,
    max: usize,
    /// As many as are in the queue; read without its lock.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    patience: Patience,
    refused: AtomicU64,
}

/// Those who wait, by their organisation; requests of nobody are one more.
#[derive(Debug, Default)]
struct Queue {
    lanes: HashMap<Option<OrgId>, VecDeque<Waiter>, RandomState>,
    /// The organisations that wait, the next one first.
    turns: VecDeque<Option<OrgId>>,
    len: usize,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    /// Gets the place, or is dropped when there is none.
    place: oneshot::Sender<Permit>,
}

/// One taken place; dropping it gives it back.
#[derive(Debug)]
pub struct Permit(Arc<Inner>);

/// A place in the queue; dropping it leaves the queue.
struct Queued {
    inner: Arc<Inner>,
    org: Option<OrgId>,
    ticket: u64,
    place: oneshot::Receiver<Permit>,
}

impl Queue {
    /// Puts one at the end of its organisation's lane.
    fn push(&mut self, org: Option<OrgId>, place: oneshot::Sender<Permit>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let lane = self.lanes.entry(org).or_default();
        if lane.is_empty() {
            self.turns.push_back(org);
        }
        lane.push_back(Waiter { ticket, place });
        self.len += 1;
        ticket
    }

    /// Takes whose turn it is.
    fn pop(&mut self) -> Option<Waiter> {
        let org = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&org)?;
        let waiter = lane.pop_front()?;
        self.len -= 1;
        if lane.is_empty() {
            self.lanes.remove(&org);
        } else {
            self.turns.push_back(org);
        }
        Some(waiter)
    }

    /// Takes one out, if it is still there.
    fn leave(&mut self, org: Option<OrgId>, ticket: u64) -> Option<Waiter> {
        let lane = self.lanes.get_mut(&org)?;
        let at = lane.iter().position(|waiter| waiter.ticket == ticket)?;
        let waiter = lane.remove(at)?;
        self.len -= 1;
        if lane.is_empty() {
            self.lanes.remove(&org);
            self.turns.retain(|turn| *turn != org);
        }
        Some(waiter)
    }

    fn of(&self, org: Option<OrgId>) -> usize {
        self.lanes.get(&org).map_or(0, VecDeque::len)
    }

    /// Makes room for one more of this organisation, if another one has more than it
    /// would have then: the newest of the one that has most.
    fn displace(&mut self, org: Option<OrgId>) -> Option<Waiter> {
        let (most, lane) = self.lanes.iter().max_by_key(|(_, lane)| lane.len())?;
        let newest = lane.back()?.ticket;
        let (most, len) = (*most, lane.len());
        if len > self.of(org) + 1 { self.leave(most, newest) } else { None }
    }
}

impl Permits {
    /// With this many places.
    pub fn new(max: usize, patience: Patience) -> Self {
        Self(Arc::new(Inner {
            taken: AtomicUsize::new(0),
            max,
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            patience,
            refused: AtomicU64::new(0),
        }))
    }

    /// A place for this organisation, at once or after a short wait; none when there
    /// is too much to do.
    pub async fn take(&self, org: Option<OrgId>) -> Option<Permit> {
        // Who waits already goes first.
        if self.0.waiting.load(Ordering::SeqCst) == 0
            && let Some(permit) = self.0.try_take()
        {
            return Some(permit);
        }
        let permit = match self.0.enter(org) {
            Some(queued) => queued.wait().await,
            None => None,
        };
        if permit.is_none() {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Acquire)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Acquire)
    }

    /// How many were refused so far.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn max(&self) -> usize {
        self.0.max
    }
}

impl Inner {
    fn try_take(self: &Arc<Self>) -> Option<Permit> {
        // A count that went past the bound for a moment would make whoever gives a
        // place on believe that there is none.
        let more = |taken| (taken < self.max).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        taken.is_ok().then(|| Permit(Arc::clone(self)))
    }

    /// Joins the queue; none when there is no room in it.
    fn enter(self: &Arc<Self>, org: Option<OrgId>) -> Option<Queued> {
        let (sender, place) = oneshot::channel();
        let mut queue = self.queue.lock();
        if queue.of(org) >= self.patience.org_waiting_max {
            return None;
        }
        let displaced = match queue.len >= self.patience.waiting_max {
            true => Some(queue.displace(org)?),
            false => None,
        };
        let ticket = queue.push(org, sender);
        // A place that became free before this was to be seen was given to nobody.
        let left_over = self.give_out(&mut queue);
        drop(queue);
        drop((displaced, left_over));
        Some(Queued { inner: Arc::clone(self), org, ticket, place })
    }

    /// Gives free places to those whose turn it is. What nobody took is to be dropped
    /// when the queue's lock is not held any more: that wants the queue, too.
    #[must_use]
    fn give_out(self: &Arc<Self>, queue: &mut Queue) -> Option<Permit> {
        // Seen by whoever gives a place back from now on.
        self.waiting.store(queue.len, Ordering::SeqCst);
        let mut free = None;
        while queue.len > 0 {
            free = free.or_else(|| self.try_take());
            let Some(permit) = free.take() else { break };
            if let Some(waiter) = queue.pop() {
                // It comes back when the waiter went away.
                free = waiter.place.send(permit).err();
            }
        }
        self.waiting.store(queue.len, Ordering::SeqCst);
        free
    }
}

impl Queued {
    async fn wait(mut self) -> Option<Permit> {
        let until = Instant::now() + self.inner.patience.wait_max;
        match tokio::time::timeout_at(until, &mut self.place).await {
            Ok(place) => place.ok(),
            // It may have come at the last moment.
            Err(_elapsed) => self.place.try_recv().ok(),
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut queue = self.inner.queue.lock();
        let left = queue.leave(self.org, self.ticket);
        self.inner.waiting.store(queue.len, Ordering::SeqCst);
        drop(queue);
        drop(left);
        // A place that was given and never taken comes back with the channel, after this.
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            let left_over = self.0.give_out(&mut self.0.queue.lock());
            drop(left_over);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const NO_QUEUE: Patience =
        Patience { waiting_max: 0, org_waiting_max: 0, wait_max: Duration::ZERO };

    fn patience(waiting_max: usize, org_waiting_max: usize) -> Patience {
        Patience { waiting_max, org_waiting_max, wait_max: Duration::from_secs(60) }
    }

    fn org(n: u8) -> Option<OrgId> {
        Some(OrgId::from_bytes([n; 16]))
    }

    /// Who was served, or refused.
    type Served = (char, Option<Permit>);

    /// A place that is all taken, and those who wait for it.
    struct Crowd {
        permits: Permits,
        served: (mpsc::Sender<Served>, mpsc::Receiver<Served>),
    }

    impl Crowd {
        /// Of the organisation of this letter.
        async fn arrives(&self, name: char) {
            let (permits, served) = (self.permits.clone(), self.served.0.clone());
            let (before, refused) = (self.permits.waiting(), self.permits.refused());
            let of = org(name as u8);
            let arrival = async move {
                let permit = permits.take(of).await;
                served.send((name, permit)).unwrap();
            };
            agentry_domain::background::Tasks::default().spawn(arrival);
            while (self.permits.waiting(), self.permits.refused()) == (before, refused) {
                tokio::task::yield_now().await;
            }
        }

        /// Gives the place back again and again: who got it, in order.
        async fn order(&self, first: Permit) -> String {
            let mut order = String::new();
            let mut held = Some(first);
            while self.permits.waiting() > 0 {
                drop(held.take());
                let (name, permit) = loop {
                    match self.served.1.try_recv() {
                        Ok((name, Some(permit))) => break (name, permit),
                        Ok((_, None)) => {}
                        Err(_) => tokio::task::yield_now().await,
                    }
                };
                order.push(name);
                held = Some(permit);
            }
            order
        }
    }

    async fn crowd(patience: Patience) -> (Crowd, Permit) {
        let permits = Permits::new(1, patience);
        let first = permits.take(org(0)).await.unwrap();
        (Crowd { permits, served: mpsc::channel() }, first)
    }

    #[tokio::test]
    async fn the_bound_holds_and_places_come_back() {
        let permits = Permits::new(2, NO_QUEUE);
        let first = permits.take(None).await.unwrap();
        let second = permits.take(None).await.unwrap();
        assert!(permits.take(None).await.is_none());
        assert_eq!(permits.taken(), 2, "a refusal takes nothing");
        assert_eq!((permits.refused(), permits.waiting()), (1, 0));
        drop(first);
        assert!(permits.take(None).await.is_some());
        drop(second);
        assert_eq!(permits.taken(), 0);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_refused() {
        let patience = Patience { wait_max: Duration::from_millis(20), ..patience(1, 1) };
        let permits = Permits::new(1, patience);
        let _first = permits.take(None).await.unwrap();
        let begun = Instant::now();
        assert!(permits.take(None).await.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert_eq!((permits.taken(), permits.waiting(), permits.refused()), (1, 0, 1));
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_becomes_free_and_the_queue_is_short() {
        let permits = Permits::new(1, patience(1, 1));
        let first = permits.take(org(1)).await.unwrap();
        let (second, third, ()) = tokio::join!(permits.take(org(1)), permits.take(org(2)), async {
            assert_eq!(permits.waiting(), 1);
            drop(first);
        });
        assert!(second.is_some(), "it waited, and a place became free");
        assert!(third.is_none(), "the queue was full");
        drop(second);
        assert_eq!((permits.taken(), permits.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn places_go_round_over_the_organisations_that_wait() {
        for (arrived, served) in
            [("aaaaabbc", "abcabaaa"), ("aaaaab", "abaaaa"), ("abcabc", "abcabc"), ("aaa", "aaa")]
        {
            let (crowd, first) = crowd(patience(8, 8)).await;
            for name in arrived.chars() {
                crowd.arrives(name).await;
            }
            assert_eq!(crowd.order(first).await, served, "{arrived}");
            assert_eq!(crowd.permits.refused(), 0);
        }
    }

    #[tokio::test]
    async fn one_organisation_has_its_part_of_the_queue() {
        let (crowd, first) = crowd(patience(8, 3)).await;
        for name in "aaaaaabb".chars() {
            crowd.arrives(name).await;
        }
        assert_eq!(crowd.permits.refused(), 3);
        assert_eq!(crowd.order(first).await, "ababa");
    }

    #[tokio::test]
    async fn a_full_queue_makes_room_for_whoever_has_least_of_it() {
        let (crowd, first) = crowd(patience(4, 4)).await;
        for (arrives, refused) in [
            ('a', 0),
            ('a', 0),
            ('a', 0),
            ('a', 0),
            ('a', 1),
            // Each of these takes the place of the newest of the first one.
            ('b', 2),
            ('b', 3),
            // As many as the others have, and no more.
            ('b', 4),
            ('a', 5),
        ] {
            crowd.arrives(arrives).await;
            while crowd.permits.refused() < refused {
                tokio::task::yield_now().await;
            }
            assert_eq!(crowd.permits.refused(), refused, "{arrives}");
        }
        assert_eq!(crowd.order(first).await, "abab");
    }

    #[tokio::test]
    async fn who_goes_away_takes_nothing_along() {
        let permits = Permits::new(1, patience(2, 2));
        let first = permits.take(org(1)).await.unwrap();
        {
            let mut waits = std::pin::pin!(permits.take(org(2)));
            assert!(futures::poll!(waits.as_mut()).is_pending());
            assert_eq!(permits.waiting(), 1);
        }
        assert_eq!(permits.waiting(), 0, "it left the queue");
        {
            let mut waits = std::pin::pin!(permits.take(org(2)));
            assert!(futures::poll!(waits.as_mut()).is_pending());
            drop(first);
            assert_eq!((permits.taken(), permits.waiting()), (1, 0), "the place is its own");
        }
        assert_eq!(permits.taken(), 0, "and came back unused");
        assert!(permits.take(org(3)).await.is_some());
    }
}
