//! One thread of the generator: users with a connection each, and one loop for
//! all of them, whatever paces it and whatever ends it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::connection::{Ask, Connection, Exchange, Wire};
use crate::dice::Dice;
use crate::expression::{Escape, Kept, NoValue, Scope};
use crate::http1::Keep;
use crate::ledger::{Effect, Item, Ledger, Names};
use crate::machine::{ThreadClock, ThreadUse};
use crate::pacing::Schedule;
use crate::queue::{Arrival, Queue};
use crate::recorder::{Failed, Outcome, Recorder, Taken, Times};
use crate::run_file::{Acknowledged, Metrics, Teardown};
use crate::scenario::{
    Acknowledge, AcknowledgedFields, Act, Flow, Load, SharedPlan, Step, Until, of_users,
};
use crate::subscription::Subscription;
use crate::timers::Timers;
use crate::tokens::Streamed;
use crate::transport::Connector;

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
/// What one user keeps in one of its lists; the oldest goes first.
const KEPT_MAX: usize = 1_000;
/// Connections of one thread that read acknowledged writes back.
const READERS: usize = 8;
/// Paths of each fault (lost, other than sent, not removed) that are named.
const LOST_SHOWN: usize = 20;

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

/// What a user has that may have to be taken back.
struct Retired {
    uid: u64,
    saved: Vec<Option<Value>>,
    kept: Kept,
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

    async fn step(
        &self,
        user: &mut User,
        step: &Step,
        (iteration, draws): (u64, &Cell<u64>),
        intended: Instant,
        eligible: Instant,
    ) -> (Instant, bool) {
        let plan = &self.shared.plan;
        let rendered = self.render(user, step, (iteration, draws));
        let sent = Instant::now();
        let request = match rendered {
            Ok(request) => request,
            Err(error) => {
                let times = Times { intended, eligible, sent, first_byte: None, done: sent };
                self.failed(step, &times, None, "no_value", &error.to_string());
                return (sent, false);
            }
        };
        let searched =
            !(step.save.is_empty() && step.keep.is_empty() && step.expect.json.is_empty());
        let keep = Keep {
            headers: !step.expect.headers.is_empty(),
            body_bytes: if searched { SEARCHED_BODY_BYTES_MAX } else { SHOWN_BODY_BYTES },
        };
        let ask = Ask {
            request: &request,
            head: step.request.head,
            keep,
            stream: step.stream,
            timeout: plan.timeout,
        };
        let mut exchange = user.connection.exchange(&self.wire, ask).await;
        let times = Times {
            intended,
            eligible,
            sent,
            first_byte: exchange.first_byte,
            done: exchange.done,
        };
        if exchange.connected {
            self.recorder.borrow_mut().connects += 1;
        }
        if let Some(failure) = &exchange.failure {
            let connecting = failure.is_of_connecting();
            user.failures_to_connect =
                if connecting { user.failures_to_connect.saturating_add(1) } else { 0 };
            self.failed(step, &times, Some(&exchange), failure.class, &failure.detail);
            self.note_failure(user, step, &exchange, &request);
            return (times.done, false);
        }
        user.failures_to_connect = 0;
        match judge(step, &mut exchange, searched, &self.scope(user, iteration, draws)) {
            Err((class, detail)) => {
                self.failed(step, &times, Some(&exchange), &class, &detail);
                self.note_failure(user, step, &exchange, &request);
                return (times.done, false);
            }
            Ok(Judged { saved, kept, streamed }) => {
                for (slot, value) in saved {
                    user.saved[slot] = Some(value);
                }
                for (list, value) in kept {
                    let items = &mut user.kept.borrow_mut()[list];
                    if items.len() == KEPT_MAX {
                        items.remove(0);
                    }
                    items.push(value);
                }
                let mut recorder = self.recorder.borrow_mut();
                let answer = &exchange.answer;
                let body = if recorder.wants_body(step.endpoint) { &answer.body[..] } else { &[] };
                let outcome = Outcome::Ok {
                    body_bytes: answer.body_bytes,
                    body,
                    streamed: streamed.as_ref(),
                };
                recorder.request(step.endpoint, &times, &outcome);
            }
        }
        if let Some(acknowledge) = &step.acknowledged {
            self.note(user, step.endpoint, acknowledge, &request, (iteration, draws));
        }
        (times.done, true)
    }

    fn render(
        &self,
        user: &mut User,
        step: &Step,
        (iteration, draws): (u64, &Cell<u64>),
    ) -> Result<Bytes, NoValue> {
        for (slot, template) in &step.with {
            let value = template.value(&self.scope(user, iteration, draws))?;
            user.saved[*slot] = Some(value);
        }
        step.request.render(&self.scope(user, iteration, draws))
    }

    /// The target acknowledged what has to be so from now on.
    fn note(
        &self,
        user: &User,
        endpoint: usize,
        acknowledge: &Acknowledge,
        request: &[u8],
        (iteration, draws): (u64, &Cell<u64>),
    ) {
        let mut path = Vec::new();
        let rendered = {
            let scope = self.scope(user, iteration, draws);
            acknowledge.path.render(&scope, &mut path, Escape::Url)
        };
        let mut ledger = self.ledger.borrow_mut();
        let (Ok(()), Ok(path)) = (rendered, String::from_utf8(path)) else {
            ledger.forgot();
            return;
        };
        let sent = sent_fields(acknowledge, request);
        let fields = sent.iter().map(|(name, value)| (name.as_str(), value));
        ledger.acknowledged(endpoint, path, acknowledge.effect, fields);
    }

    /// What failed may have been carried out all the same, unless the target
    /// said that it was the request's fault.
    fn note_failure(&self, user: &User, step: &Step, exchange: &Exchange, request: &[u8]) {
        let Some(acknowledge) = step.acknowledged.as_ref().filter(|ack| ack.changes) else {
            return;
        };
        if exchange.failure.is_none() && (400..500).contains(&exchange.answer.status) {
            return;
        }
        let mut path = Vec::new();
        let draws = Cell::new(0);
        let rendered = {
            let scope = self.scope(user, 0, &draws);
            acknowledge.path.render(&scope, &mut path, Escape::Url)
        };
        if let (Ok(()), Ok(path)) = (rendered, std::str::from_utf8(&path)) {
            let sent = sent_fields(acknowledge, request);
            let names = sent.iter().map(|(name, _)| name.as_str());
            self.ledger.borrow_mut().uncertain(path, acknowledge.effect, names);
        }
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

    fn failed(
        &self,
        step: &Step,
        times: &Times,
        exchange: Option<&Exchange>,
        class: &str,
        detail: &str,
    ) {
        let answer = exchange.map(|exchange| &exchange.answer);
        let body = answer.map_or(&[][..], |answer| &answer.body);
        self.failure(
            step.endpoint,
            times,
            &Failed {
                class,
                detail,
                status: answer.map(|answer| answer.status).filter(|status| *status > 0),
                body_bytes: answer.map_or(0, |answer| answer.body_bytes),
                body: &body[..body.len().min(SHOWN_BODY_BYTES)],
            },
        );
    }

    pub(crate) fn failure(&self, endpoint: usize, times: &Times, failed: &Failed<'_>) {
        self.recorder.borrow_mut().request(endpoint, times, &Outcome::Failed(*failed));
    }

    /// Asks for everything that was acknowledged.
    async fn read_back(&self) -> Acknowledged {
        let (not_remembered, items, names) = self.ledger.take().into_items();
        let mut sum = Acknowledged {
            acknowledged: items.len() as u64 + not_remembered,
            not_checked: not_remembered,
            ..Acknowledged::default()
        };
        let (left, names) = (RefCell::new(items.into_iter()), &names);
        let readers = (0..READERS).map(|_| async {
            let mut connection = Connection::default();
            let mut seen = Acknowledged::default();
            loop {
                let Some((path, item)) = left.borrow_mut().next() else { return seen };
                match item.effect {
                    Some(effect) if !*self.shared.interrupted.borrow() => {
                        self.read_one(&mut connection, (&path, &item, effect), names, &mut seen)
                            .await;
                    }
                    _ => seen.not_checked += 1,
                }
            }
        });
        for seen in futures::future::join_all(readers).await {
            sum.merge(seen);
        }
        sum
    }

    /// Every user's teardown; what fails is counted and the rest goes on.
    async fn tear_down(&self) -> Teardown {
        let retired = self.retired.take();
        let mut sum = Teardown { users: retired.len() as u64, ..Teardown::default() };
        let left = RefCell::new(retired.into_iter());
        let until = Instant::now() + TEARDOWN_GRACE;
        let users = (0..READERS).map(|_| async {
            let mut connection = Connection::default();
            let mut torn = Teardown::default();
            loop {
                let Some(user) = left.borrow_mut().next() else { return torn };
                if *self.shared.interrupted.borrow() && Instant::now() > until {
                    torn.not_done += 1;
                    continue;
                }
                self.tear_down_one(&mut connection, user, &mut torn).await;
            }
        });
        for torn in futures::future::join_all(users).await {
            sum.merge(torn);
        }
        sum
    }

    async fn tear_down_one(
        &self,
        connection: &mut Connection,
        mut user: Retired,
        torn: &mut Teardown,
    ) {
        for step in &self.shared.plan.teardown {
            // A step that takes from a list is done until nothing is in it.
            while self.take_back(connection, step, &mut user, torn).await {}
        }
    }

    /// Whether the step took something from a list.
    async fn take_back(
        &self,
        connection: &mut Connection,
        step: &Step,
        user: &mut Retired,
        torn: &mut Teardown,
    ) -> bool {
        let plan = &self.shared.plan;
        let draws = Cell::new(0);
        let items = |kept: &Kept| kept.borrow().iter().map(Vec::len).sum::<usize>();
        let before = items(&user.kept);
        for (slot, template) in &step.with {
            let value = template.value(&self.scope_of(user, &draws));
            user.saved[*slot] = value.ok();
        }
        let Ok(request) = step.request.render(&self.scope_of(user, &draws)) else {
            torn.skipped += 1;
            return false;
        };
        let took = items(&user.kept) < before;
        let searched =
            !(step.save.is_empty() && step.keep.is_empty() && step.expect.json.is_empty());
        let keep = Keep {
            headers: !step.expect.headers.is_empty(),
            body_bytes: if searched { SEARCHED_BODY_BYTES_MAX } else { 0 },
        };
        let (request, head) = (&*request, step.request.head);
        let ask = Ask { request, head, keep, stream: step.stream, timeout: plan.timeout };
        let mut exchange = connection.exchange(&self.wire, ask).await;
        torn.requests += 1;
        let judged = match &exchange.failure {
            Some(failure) => Err((failure.class.to_owned(), String::new())),
            None => judge(step, &mut exchange, searched, &self.scope_of(user, &draws)),
        };
        match judged {
            Ok(judged) => {
                for (slot, value) in judged.saved {
                    user.saved[slot] = Some(value);
                }
            }
            Err((class, _)) => {
                torn.failed += 1;
                let name = &plan.teardown_names[step.endpoint];
                *torn.failed_by_class.entry(format!("{name}: {class}")).or_default() += 1;
            }
        }
        took
    }

    fn scope_of<'a>(&'a self, user: &'a Retired, draws: &'a Cell<u64>) -> Scope<'a> {
        Scope {
            uid: user.uid,
            iteration: u64::MAX,
            saved: &user.saved,
            kept: &user.kept,
            data: &self.shared.plan.data,
            dice: self.draws,
            draws,
        }
    }

    async fn read_one(
        &self,
        connection: &mut Connection,
        (path, item, effect): (&str, &Item, Effect),
        names: &Names,
        seen: &mut Acknowledged,
    ) {
        let plan = &self.shared.plan;
        let step = plan.step(item.endpoint);
        let Some(acknowledge) = step.and_then(|step| step.acknowledged.as_ref()) else { return };
        let (nothing, no_lists) = (vec![None; plan.slots], Kept::default());
        let draws = Cell::new(0);
        let scope = Scope {
            uid: 0,
            iteration: 0,
            saved: &nothing,
            kept: &no_lists,
            data: &plan.data,
            dice: self.draws,
            draws: &draws,
        };
        let Ok(rest) = acknowledge.rest.render(&scope) else {
            seen.not_checked += 1;
            return;
        };
        let request = [b"GET ", path.as_bytes(), &rest].concat();
        let ask = Ask {
            request: &request,
            head: false,
            keep: Keep {
                headers: false,
                body_bytes: if item.has_fields() { SEARCHED_BODY_BYTES_MAX } else { 0 },
            },
            stream: None,
            timeout: plan.timeout,
        };
        let exchange = connection.exchange(&self.wire, ask).await;
        let mut show = |how: String| {
            show_lost(&mut seen.lost_paths, format!("{path}{how}"));
        };
        match (&exchange.failure, exchange.answer.status, effect) {
            (None, 200..=299, Effect::Kept) => {
                seen.found += 1;
                let body = serde_json::from_slice(&exchange.answer.body).unwrap_or_default();
                let differences = item.differences(&body, names);
                if !differences.is_empty() {
                    seen.changed += 1;
                    show(format!(" ({} not as it was sent)", differences.join(", ")));
                }
            }
            (None, 404 | 410, Effect::Kept) => {
                seen.lost += 1;
                show(String::new());
            }
            (None, 404 | 410, Effect::Gone) => seen.gone += 1,
            (None, 200..=299, Effect::Gone) => {
                seen.undone += 1;
                show(" (was removed)".to_owned());
            }
            (failure, status, _) => {
                seen.unknown += 1;
                let class = failure
                    .as_ref()
                    .map_or_else(|| format!("http_{status}"), |f| f.class.to_owned());
                *seen.unknown_by_class.entry(class).or_default() += 1;
            }
        }
    }
}

impl Teardown {
    pub(crate) fn merge(&mut self, other: Self) {
        self.users += other.users;
        self.requests += other.requests;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_done += other.not_done;
        for (class, count) in other.failed_by_class {
            *self.failed_by_class.entry(class).or_default() += count;
        }
    }
}

/// Each fault has room of its own, so that a frequent one hides no other.
fn show_lost(shown: &mut Vec<String>, path: String) {
    let fault = |path: &str| match path.split_once(' ') {
        None => "lost",
        Some((_, "(was removed)")) => "undone",
        Some(_) => "changed",
    };
    let of_this = fault(&path);
    if shown.iter().filter(|path| fault(path) == of_this).count() < LOST_SHOWN {
        shown.push(path);
    }
}

impl Acknowledged {
    pub(crate) fn merge(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.found += other.found;
        self.lost += other.lost;
        self.changed += other.changed;
        self.gone += other.gone;
        self.undone += other.undone;
        self.unknown += other.unknown;
        self.not_checked += other.not_checked;
        for path in other.lost_paths {
            show_lost(&mut self.lost_paths, path);
        }
        for (class, count) in other.unknown_by_class {
            *self.unknown_by_class.entry(class).or_default() += count;
        }
    }
}

fn first_endpoint(flow: &Flow) -> usize {
    flow.steps.first().map_or(0, |step| step.endpoint)
}

/// The fields of a request's JSON that are held against what is read back.
fn sent_fields(acknowledge: &Acknowledge, request: &[u8]) -> Vec<(String, Value)> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    if acknowledge.fields == AcknowledgedFields::None {
        return Vec::new();
    }
    let end = request.windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD);
    let body = end.map_or(&[][..], |end| &request[end + END_OF_HEAD.len()..]);
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter(|(name, _)| acknowledge.fields.has(name)).collect()
        }
        _ => Vec::new(),
    }
}

/// What an answer that is right brought.
struct Judged {
    saved: Vec<(usize, Value)>,
    kept: Vec<(usize, Value)>,
    streamed: Option<Streamed>,
}

/// Whether the answer is what the step expects; otherwise the class of failure
/// and a detail.
fn judge(
    step: &Step,
    exchange: &mut Exchange,
    searched: bool,
    scope: &Scope<'_>,
) -> Result<Judged, (String, String)> {
    let answer = &exchange.answer;
    let fail = |class: String, detail: String| Err((class, detail));
    if !step.expect.status_is_right(answer.status) {
        return fail(format!("http_{}", answer.status), String::new());
    }
    for (name, expected) in &step.expect.headers {
        let mut wanted = Vec::new();
        if let Err(error) = expected.render(scope, &mut wanted, Escape::None) {
            return fail("no_value".to_owned(), error.to_string());
        }
        if answer.header(name).map(str::as_bytes) != Some(wanted.as_slice()) {
            let found = answer.header(name).unwrap_or("nothing");
            let wanted = String::from_utf8_lossy(&wanted);
            return fail(format!("expect_header:{name}"), format!("{found}, not {wanted}"));
        }
    }
    let streamed = match exchange.events.take().map(crate::tokens::EventStream::end) {
        Some(Ok(streamed)) => Some(streamed),
        Some(Err(class)) => return fail(class.to_owned(), String::new()),
        None => None,
    };
    let (mut saved, mut kept) = (Vec::new(), Vec::new());
    if searched {
        if answer.body_bytes > answer.body.len() as u64 {
            return fail("body_too_large".to_owned(), "to be searched".to_owned());
        }
        let body: Value = match serde_json::from_slice(&answer.body) {
            Ok(body) => body,
            Err(error) => return fail("not_json".to_owned(), error.to_string()),
        };
        for (path, expected) in &step.expect.json {
            let found = path.query(&body).first();
            let expected = match expected.as_ref().map(|expected| expected.value(scope)).transpose()
            {
                Ok(expected) => expected,
                Err(error) => return fail("no_value".to_owned(), error.to_string()),
            };
            let right = match &expected {
                None => found.is_some(),
                Some(expected) => found == Some(expected),
            };
            if !right {
                let found = found.map_or("nothing".to_owned(), Value::to_string);
                let detail = match expected {
                    None => "nothing stands there".to_owned(),
                    Some(expected) => format!("{found:.200}, not {expected}"),
                };
                return fail(format!("expect_json:{path}"), detail);
            }
        }
        for (places, what, found) in
            [(&step.save, "save", &mut saved), (&step.keep, "keep", &mut kept)]
        {
            for (number, path) in places {
                match path.query(&body).first() {
                    Some(value) => found.push((*number, value.clone())),
                    None => {
                        return fail(format!("{what}:{path}"), "nothing stands there".to_owned());
                    }
                }
            }
        }
    }
    Ok(Judged { saved, kept, streamed })
}
