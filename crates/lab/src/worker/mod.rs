//! One thread of the generator: users with a connection each, and one loop for
//! all of them, whatever paces it and whatever ends it.

mod read_back;
mod step;
mod teardown;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::connection::{Connection, Wire};
use crate::dice::Dice;
use crate::expression::{Kept, Scope};
use crate::ledger::Ledger;
use crate::machine::{ThreadClock, ThreadUse};
use crate::pacing::Schedule;
use crate::queue::{Arrival, Queue};
use crate::recorder::{Recorder, Taken};
use crate::run_file::{Acknowledged, Metrics, Teardown};
use crate::scenario::{Act, Flow, Load, SharedPlan, Step, Until, of_users};
use crate::subscription::Subscription;
use crate::timers::Timers;
use crate::transport::Connector;
use teardown::Retired;

/// A body that is searched is kept up to here, in bytes.
const SEARCHED_BODY_BYTES_MAX: usize = 8 << 20;
/// What is kept of a body that may have to be shown, in bytes.
const SHOWN_BODY_BYTES: usize = 2 << 10;
/// How long requests under way may take when the run is interrupted.
const INTERRUPTED_GRACE: Duration = Duration::from_secs(2);
/// How long the teardown of a run that was interrupted may take in each thread.
const TEARDOWN_GRACE: Duration = Duration::from_secs(30);
/// How long a user waits after a first failure to connect; twice as long after
/// each further one, up to a second.
const RECONNECT_AFTER: Duration = Duration::from_millis(10);
/// Arrivals that are made without letting users run.
const ARRIVALS_AT_ONCE: u32 = 32;
/// Connections of one thread that read acknowledged writes back.
const READERS: usize = 8;

/// What all threads of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: SharedPlan,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) connector: Connector,
    pub(crate) threads: usize,
    pub(crate) started: Instant,
    /// Iterations taken so far, in a closed load.
    pub(crate) taken: AtomicU64,
    /// Becomes true when the run is to end before its time.
    pub(crate) interrupted: watch::Receiver<bool>,
}

/// What a thread tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// The whole seconds since the start that ended, and what they brought.
    Second { thread: usize, second: u64, taken: Box<Taken>, used: ThreadUse, users: u64 },
    /// All requests have ended; the rest of the last second.
    Ended { thread: usize, taken: Box<Taken>, used: ThreadUse },
    /// The acknowledged writes have been read back.
    Audited(Box<Acknowledged>),
    /// All users have taken back what they made.
    TornDown(Box<Teardown>),
    /// What the target said of itself.
    Metrics(Box<Metrics>),
}

/// Runs one thread's share of the load.
///
/// # Errors
/// When the kernel gives no timer or no runtime.
pub(crate) fn run(shared: &Arc<Shared>, thread: usize, told: mpsc::Sender<Told>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let worker = Rc::new(Worker::new(Arc::clone(shared), thread)?);
        let timers = worker.timers.clone();
        tokio::select! {
            ended = timers.drive() => ended,
            () = worker.run(told) => Ok(()),
        }
    })
}

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    thread: usize,
    pub(crate) timers: Timers,
    pub(crate) wire: Wire,
    pub(crate) recorder: Rc<RefCell<Recorder>>,
    mix: Dice,
    draws: Dice,
    /// By kind of users, the shares of its flows added up.
    shares: Vec<Vec<f64>>,
    /// By user.
    kinds: Vec<u16>,
    under_way: Cell<u64>,
    users: Cell<u64>,
    ledger: RefCell<Ledger>,
    /// Some step asks for frames that came before it.
    pub(crate) keeps_frames: bool,
    /// Users that have gone, and what they have, where that is still needed.
    retired: RefCell<Vec<Retired>>,
}

/// What lets a user begin its next iteration.
enum Pacing {
    /// The user's own answers and pauses.
    Think {
        next: Instant,
        think: (Duration, Duration),
        dice: Dice,
        turn: u64,
    },
    Arrivals(Rc<Queue>),
}

/// An iteration that begins.
struct Start {
    index: u64,
    intended: Instant,
    eligible: Instant,
}

pub(crate) struct User {
    uid: u64,
    connection: Connection,
    pub(crate) saved: Vec<Option<Value>>,
    kept: Kept,
    pub(crate) failures_to_connect: u32,
    pub(crate) subscription: Option<Box<Subscription>>,
    /// It may have made something.
    began: bool,
}

impl Worker {
    fn new(shared: Arc<Shared>, thread: usize) -> io::Result<Self> {
        let plan = &shared.plan;
        let receives = |step: &Step| matches!(step.socket.as_deref(), Some(Act::Receive { .. }));
        let keeps_frames = plan.steps().any(receives);
        let added_up = |shares: &Vec<f64>| {
            let mut sum = 0.0;
            let add = |share: &f64| {
                sum += share;
                sum
            };
            shares.iter().map(add).collect()
        };
        Ok(Self {
            shares: plan.kinds.iter().map(|kind| added_up(&kind.shares)).collect(),
            kinds: of_users(&plan.kinds, plan.profile.users()),
            timers: Timers::new()?,
            wire: Wire::new(shared.address, shared.connector.clone()),
            recorder: Rc::new(RefCell::new(Recorder::new(shared.started, plan.profile.warmup))),
            mix: Dice::new(plan.seed, "mix"),
            draws: Dice::new(plan.seed, "draws"),
            under_way: Cell::default(),
            users: Cell::default(),
            ledger: RefCell::default(),
            keeps_frames,
            retired: RefCell::default(),
            thread,
            shared,
        })
    }

    async fn run(self: &Rc<Self>, told: mpsc::Sender<Told>) {
        let mut clock = ThreadClock::start();
        {
            let load = self.load();
            tokio::pin!(load);
            let mut second = 0;
            loop {
                let ends = self.shared.started + Duration::from_secs(second + 1);
                tokio::select! {
                    () = &mut load => break,
                    () = self.timers.sleep_until(ends) => {}
                }
                let taken = Box::new(self.recorder.borrow_mut().take());
                let (thread, used, users) = (self.thread, clock.lap(), self.users.get());
                // Nobody listens any more only when the run has been given up.
                if told.send(Told::Second { thread, second, taken, used, users }).await.is_err() {
                    return;
                }
                second += 1;
            }
        }
        let taken = Box::new(self.recorder.borrow_mut().take());
        let ended = Told::Ended { thread: self.thread, taken, used: clock.lap() };
        if told.send(ended).await.is_err() {
            return;
        }
        let audited = self.read_back().await;
        if told.send(Told::Audited(Box::new(audited))).await.is_err() {
            return;
        }
        if !self.shared.plan.teardown.is_empty() {
            let torn = self.tear_down().await;
            // As above.
            drop(told.send(Told::TornDown(Box::new(torn))).await);
        }
    }

    /// Until everything that was begun has ended.
    async fn load(self: &Rc<Self>) {
        let mut users = JoinSet::new();
        let queue = Rc::new(Queue::default());
        let mut interrupted = self.shared.interrupted.clone();
        let work = async {
            match &self.shared.plan.profile.load {
                Load::Closed { users: count, think, ramp } => {
                    self.begin_closed(*count, *think, *ramp, &mut users);
                }
                Load::Open { arrivals, stages, users: count } => {
                    let plan = &self.shared.plan;
                    let schedule = Schedule::new(stages, *arrivals, plan.seed, &plan.profile.name);
                    self.make_arrivals(schedule, *count, &queue, &mut users).await;
                    queue.close();
                    let late = self.timers.sleep(plan.timeout);
                    tokio::pin!(late);
                    loop {
                        tokio::select! {
                            () = &mut late => break,
                            ended = users.join_next() => if ended.is_none() { break },
                        }
                    }
                    self.not_sent(&queue);
                }
            }
            while users.join_next().await.is_some() {}
            // The last pauses belong to the run: nothing was due in them.
            if let Until::Elapsed(lasts) = self.shared.plan.profile.until {
                self.timers.sleep_until(self.shared.started + lasts).await;
            }
        };
        tokio::select! {
            () = work => return,
            // An error means that nobody can interrupt any more; the run goes on.
            Ok(_) = interrupted.wait_for(|interrupted| *interrupted) => {}
        }
        drop(queue.give_up());
        let until = Instant::now() + INTERRUPTED_GRACE;
        while self.under_way.get() > 0 && Instant::now() < until {
            tokio::select! {
                _ = users.join_next(), if !users.is_empty() => {}
                () = self.timers.sleep(Duration::from_millis(1)) => {}
            }
        }
        // Those that have something to take back say so as they go.
        let all = async { while users.join_next().await.is_some() {} };
        if !self.shared.plan.teardown.is_empty() {
            let late = self.timers.sleep(INTERRUPTED_GRACE);
            tokio::select! { () = all => {}, () = late => {} }
        }
    }

    /// Which users are this thread's.
    fn mine(&self, count: u32) -> impl Iterator<Item = u64> + use<> {
        (self.thread as u64..u64::from(count)).step_by(self.shared.threads)
    }

    fn begin_closed(
        self: &Rc<Self>,
        count: u32,
        think: (Duration, Duration),
        ramp: Option<f64>,
        users: &mut JoinSet<()>,
    ) {
        for uid in self.mine(count) {
            let begins =
                ramp.map_or(Duration::ZERO, |ramp| Duration::from_secs_f64(uid as f64 / ramp));
            let next = self.shared.started + begins;
            let dice = Dice::new(self.shared.plan.seed, "think").fork(uid);
            let pacing = Pacing::Think { next, think, dice, turn: 0 };
            users.spawn_local(Rc::clone(self).user(uid, pacing));
        }
    }

    async fn make_arrivals(
        self: &Rc<Self>,
        schedule: Schedule,
        count: u32,
        queue: &Rc<Queue>,
        users: &mut JoinSet<()>,
    ) {
        let mut ready = self.mine(count);
        let begin = |uid, users: &mut JoinSet<()>| {
            let pacing = Pacing::Arrivals(Rc::clone(queue));
            users.spawn_local(Rc::clone(self).user(uid, pacing));
        };
        // What users have to prepare, they prepare before they are needed.
        if !self.shared.plan.setup.is_empty() {
            ready.by_ref().for_each(|uid| begin(uid, users));
        }
        let (threads, thread) = (self.shared.threads as u64, self.thread as u64);
        let mine = schedule.filter(|(index, _)| index % threads == thread);
        let mut at_once = 0;
        for (index, offset) in mine {
            let intended = self.shared.started + offset;
            if Instant::now() < intended {
                self.timers.sleep_until_exactly(intended).await;
                at_once = 0;
            } else if at_once == ARRIVALS_AT_ONCE {
                tokio::task::yield_now().await;
                at_once = 0;
            }
            at_once += 1;
            if !queue.has_idle()
                && let Some(uid) = ready.next()
            {
                begin(uid, users);
            }
            let mut recorder = self.recorder.borrow_mut();
            recorder.phase(intended).offered += 1;
            match queue.push(Arrival { index, intended }) {
                Some(waiting) => recorder.queue_max = recorder.queue_max.max(waiting as u64),
                None => {
                    let flow = self.flow(index);
                    let phase = recorder.phase(intended);
                    phase.shed += 1;
                    phase.error(first_endpoint(flow), "not_sent_queue_full");
                }
            }
        }
    }

    /// Arrivals that waited until the end of the run and a time-out more.
    fn not_sent(&self, queue: &Queue) {
        let mut recorder = self.recorder.borrow_mut();
        for arrival in queue.give_up() {
            let flow = self.flow(arrival.index);
            let phase = recorder.phase(arrival.intended);
            phase.shed += 1;
            phase.error(first_endpoint(flow), "not_sent_in_time");
        }
    }

    /// What an iteration does that no user has taken up.
    fn flow(&self, index: u64) -> &Flow {
        self.drawn(0, self.mix.unit(index))
    }

    /// What an iteration does for this user. The turn of a flow that works on
    /// what the user has not made yet goes to the others, by their shares.
    fn flow_of(&self, user: &User, index: u64) -> &Flow {
        let uid = usize::try_from(user.uid).unwrap_or_default();
        let kind = self.kinds.get(uid).copied().unwrap_or_default().into();
        let drawn = self.mix.unit(index);
        let first = self.drawn(kind, drawn);
        let kept = user.kept.borrow();
        let possible = |flow: &Flow| flow.needs.iter().all(|list| !kept[*list].is_empty());
        if possible(first) {
            return first;
        }
        let plan = &self.shared.plan;
        let others = || plan.flows.iter().zip(&plan.kinds[kind].shares);
        let others = || others().filter(|(flow, share)| **share > 0.0 && possible(flow));
        let total: f64 = others().map(|(_, share)| share).sum();
        let mut left = self.mix.fork(1).unit(index) * total;
        let chosen = others().find(|(_, share)| {
            left -= **share;
            left < 0.0
        });
        // Without any it says that nothing is kept, which is a fault to be seen.
        chosen.or_else(|| others().next_back()).map_or(first, |(flow, _)| flow)
    }

    /// `drawn` from 0 to 1.
    fn drawn(&self, kind: usize, drawn: f64) -> &Flow {
        let (flows, sums) = (&self.shared.plan.flows, &self.shares[kind]);
        let total = sums.last().copied().unwrap_or_default();
        let chosen = sums.partition_point(|sum| *sum <= drawn * total);
        &flows[chosen.min(flows.len() - 1)]
    }

    async fn user(self: Rc<Self>, uid: u64, pacing: Pacing) {
        let saved = vec![None; self.shared.plan.slots];
        let connection = Connection::default();
        let kept = RefCell::new(vec![Vec::new(); self.shared.plan.lists]);
        let mut user = User {
            uid,
            connection,
            saved,
            kept,
            failures_to_connect: 0,
            subscription: None,
            began: false,
        };
        if self.shared.plan.teardown.is_empty() {
            self.live(&mut user, pacing).await;
        } else {
            tokio::select! {
                () = self.live(&mut user, pacing) => {}
                () = self.given_up() => {}
            }
        }
        if let Some(subscription) = user.subscription.take() {
            subscription.close().await;
        }
        if user.began {
            self.users.set(self.users.get() - 1);
            if !self.shared.plan.teardown.is_empty() {
                self.retired.borrow_mut().push(Retired { uid, saved: user.saved, kept: user.kept });
            }
        }
    }

    /// The whole of what a user does in the load.
    async fn live(&self, user: &mut User, mut pacing: Pacing) {
        if let Pacing::Think { next, .. } = &pacing {
            self.timers.sleep_until(*next).await;
        }
        user.began = true;
        self.users.set(self.users.get() + 1);
        if !self.set_up(user).await {
            return;
        }
        while let Some(start) = self.next(&mut pacing).await {
            let done = self.iterate(user, &start).await;
            if let Pacing::Think { next, think, dice, turn } = &mut pacing {
                let share = dice.unit(*turn);
                *turn += 1;
                *next = done + think.0 + (think.1 - think.0).mul_f64(share);
            }
            if user.failures_to_connect > 0 {
                let wait = RECONNECT_AFTER * (1 << (user.failures_to_connect - 1).min(7));
                self.timers.sleep(wait.min(Duration::from_secs(1))).await;
            }
        }
    }

    /// The run was interrupted, and what was under way has ended or had its time.
    async fn given_up(&self) {
        let mut interrupted = self.shared.interrupted.clone();
        if interrupted.wait_for(|interrupted| *interrupted).await.is_err() {
            // Nobody can interrupt any more.
            std::future::pending::<()>().await;
        }
        let until = Instant::now() + INTERRUPTED_GRACE;
        while self.under_way.get() > 0 && Instant::now() < until {
            self.timers.sleep(Duration::from_millis(1)).await;
        }
    }

    /// Until it has worked, or the run is over: a user that could not prepare
    /// would only make more failures.
    async fn set_up(&self, user: &mut User) -> bool {
        let plan = &self.shared.plan;
        loop {
            let now = Instant::now();
            // Draws of their own, apart from those of iterations.
            let index = u64::MAX - user.uid;
            let start = Start { index, intended: now, eligible: now };
            if self.steps(user, &plan.setup, &start).await.1 {
                return true;
            }
            let again = Instant::now() + Duration::from_secs(1);
            if self.is_over(again) {
                return false;
            }
            self.timers.sleep_until(again).await;
        }
    }

    /// Whether nothing may begin at `at`.
    fn is_over(&self, at: Instant) -> bool {
        let over = match self.shared.plan.profile.until {
            Until::Elapsed(lasts) => at >= self.shared.started + lasts,
            Until::Iterations(count) => self.shared.taken.load(Ordering::Relaxed) >= count,
        };
        over || *self.shared.interrupted.borrow()
    }

    async fn next(&self, pacing: &mut Pacing) -> Option<Start> {
        match pacing {
            Pacing::Arrivals(queue) => {
                let free = Instant::now();
                let arrival = queue.pop().await?;
                let (index, intended) = (arrival.index, arrival.intended);
                Some(Start { index, intended, eligible: intended.max(free) })
            }
            Pacing::Think { next, .. } => {
                if self.is_over(*next) {
                    return None;
                }
                self.timers.sleep_until(*next).await;
                let index = self.shared.taken.fetch_add(1, Ordering::Relaxed);
                if matches!(self.shared.plan.profile.until, Until::Iterations(n) if index >= n) {
                    return None;
                }
                self.recorder.borrow_mut().phase(*next).offered += 1;
                Some(Start { index, intended: *next, eligible: *next })
            }
        }
    }

    /// When it was done.
    async fn iterate(&self, user: &mut User, start: &Start) -> Instant {
        self.under_way.set(self.under_way.get() + 1);
        let (done, _) = self.steps(user, &self.flow_of(user, start.index).steps, start).await;
        self.under_way.set(self.under_way.get() - 1);
        done
    }

    /// When they were done, and whether all worked; the first that fails ends
    /// them.
    async fn steps(&self, user: &mut User, steps: &[Step], start: &Start) -> (Instant, bool) {
        let draws = Cell::new(0);
        let (mut intended, mut eligible) = (start.intended, start.eligible);
        for step in steps {
            if let Some(subscription) = &user.subscription {
                subscription.feed.save_into(&mut user.saved);
            }
            let turn = (start.index, &draws);
            let (done, worked) = match &step.socket {
                None => self.step(user, step, turn, intended, eligible).await,
                // Boxed, so that users without a socket do not pay for it.
                Some(act) => {
                    Box::pin(self.socket_step(user, (step, act), turn, intended, eligible)).await
                }
            };
            if !worked {
                return (done, false);
            }
            (intended, eligible) = (done, done);
        }
        (intended, true)
    }

    pub(crate) fn scope<'a>(
        &'a self,
        user: &'a User,
        iteration: u64,
        draws: &'a Cell<u64>,
    ) -> Scope<'a> {
        Scope {
            uid: user.uid,
            iteration,
            saved: &user.saved,
            kept: &user.kept,
            data: &self.shared.plan.data,
            dice: self.draws,
            draws,
        }
    }
}

fn first_endpoint(flow: &Flow) -> usize {
    flow.steps.first().map_or(0, |step| step.endpoint)
}
