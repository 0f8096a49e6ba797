//! The keeper: numbers the log, folds the counters and the degrees of nodes, and
//! tells whoever follows.
//!
//! Every process has one; the one that holds the sequencer's lock works, and the
//! others tell it that they wrote something. The lock is the session's, so it
//! is free again when the session ends, however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_postgres::Notification;

use crate::counters::{COUNTER_ENDED_DELETE, COUNTER_FOLD};
use crate::graph::degrees::DEGREE_FOLD;
use crate::log::{LOG_HEAD, LOG_SEQUENCE};
use crate::run_changes::RunSignal;
use crate::sql::{Sql, statements};
use crate::{Result, StoreError};

use super::connect::{Link, Purpose, Ran, Target, run};
use super::marks::MARK_EXPIRED_DELETE;
use super::pipeline::pipeline;

statements! {
    KEEPER_LOCK = sqlite "" postgres "select pg_try_advisory_lock($1)";
    KEEPER_NOTIFY = sqlite "" postgres "select pg_notify($1, $2)";
}

/// The sequencer's lock, an arbitrary number; it is per database.
const LOCK: i64 = 0x6167_656e_7472_7901;
/// The keeper says here how far the log is.
const CHANNEL_LOG: &str = "agentry_log";
/// Other processes say here that they wrote something.
const CHANNEL_PENDING: &str = "agentry_pending";
/// Every process says here which runs it began, added text to or ended.
const CHANNEL_RUNS: &str = "agentry_runs";
/// Entries that are numbered in one transaction.
const SEQUENCE_MAX: i64 = 2_000;
/// Changes that are folded in one transaction.
const FOLD_MAX: i64 = 5_000;
/// How long after a round the next one waits for company.
const GATHER: Duration = Duration::from_millis(10);
/// How often counters are folded while there is work.
const FOLD_EVERY: Duration = Duration::from_millis(100);
/// How often to look without having been told.
const POLL: Duration = Duration::from_millis(250);
/// The pause before a new session after one was lost.
const RECONNECT: Duration = Duration::from_millis(250);
/// How often expired marks are deleted.
const TIDY_EVERY: Duration = Duration::from_secs(3_600);
/// Rows that were moved or folded until the tables are vacuumed. They are
/// queues: what is dead at their front is walked over by every round.
const VACUUM_ROWS: i64 = 20_000;

/// What writers and the server tell the keeper, and it tells the followers.
pub(super) struct Signal {
    wake: Notify,
    holds: AtomicBool,
    /// This process wrote something that the holder may not know of.
    wrote: AtomicBool,
    head: watch::Sender<i64>,
    /// Runs that were changed here, to be told, and those that were told.
    pub(super) runs: RunSignal,
}

impl Signal {
    pub(super) fn new() -> Self {
        Self {
            wake: Notify::new(),
            holds: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
            head: watch::Sender::new(0),
            runs: RunSignal::new(),
        }
    }

    /// A write with log entries or counts was committed here.
    pub(super) fn written(&self) {
        self.wrote.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    fn advance(&self, seq: i64) {
        self.head.send_if_modified(|head| {
            let grows = seq > *head;
            *head = seq.max(*head);
            grows
        });
    }

    fn hear(&self, notification: &Notification) {
        if notification.channel() == CHANNEL_LOG {
            if let Ok(seq) = notification.payload().parse() {
                self.advance(seq);
            }
        } else if notification.channel() == CHANNEL_RUNS {
            self.runs.hear(notification.payload());
        } else if self.holds.load(Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }
}

pub(super) struct Keeper {
    target: Target,
    signal: Arc<Signal>,
}

/// What the holder remembers between rounds.
struct Holder {
    folded: Instant,
    tidied: Option<Instant>,
    moved_rows: i64,
}

impl Keeper {
    pub(super) fn new(target: Target, signal: Arc<Signal>) -> Self {
        Self { target, signal }
    }

    /// Works until the store stops.
    pub(super) async fn run(self) {
        let stopping = self.target.tasks.stopping().clone();
        while !stopping.is_cancelled() {
            let served = stopping.run_until_cancelled(self.serve()).await;
            self.signal.holds.store(false, Ordering::Relaxed);
            if let Some(Err(error)) = served {
                tracing::warn!(%error, "the keeper lost its session");
                stopping.run_until_cancelled(tokio::time::sleep(RECONNECT)).await;
            }
        }
    }

    /// Works on one session until it fails.
    async fn serve(&self) -> Result<()> {
        let signal = Arc::clone(&self.signal);
        let client = self.target.connect(Purpose::Keep, move |heard| signal.hear(heard)).await?;
        let link = Link::prepare(client, OWN.iter().copied()).await?;
        let listen =
            format!("listen {CHANNEL_LOG}; listen {CHANNEL_PENDING}; listen {CHANNEL_RUNS}");
        link.client.batch_execute(&listen).await?;
        // What was told while this process did not listen.
        self.signal.runs.missed();
        self.signal.advance(first(&one(&link, &LOG_HEAD, &[]).await?)?);
        let mut holder: Option<Holder> = None;
        loop {
            if holder.is_none() && self.try_lock(&link).await? {
                holder = Some(Holder { folded: Instant::now(), tidied: None, moved_rows: 0 });
            }
            match &mut holder {
                Some(holder) => self.round(&link, holder).await?,
                None => self.follow(&link).await?,
            }
            tell_runs(&link, &self.signal.runs).await?;
            tokio::time::sleep(GATHER).await;
            let look = Instant::now() + POLL;
            loop {
                tokio::select! {
                    () = self.signal.wake.notified() => break,
                    () = tokio::time::sleep_until(look) => break,
                    // Text of runs is told without a round: the log has nothing of it.
                    () = self.signal.runs.told() => {
                        tell_runs(&link, &self.signal.runs).await?;
                        tokio::time::sleep(GATHER).await;
                    }
                }
            }
        }
    }

    async fn try_lock(&self, link: &Link) -> Result<bool> {
        let locked = run(&link.client, link.statement(&KEEPER_LOCK)?, [LOCK]).await?;
        let holds = locked.rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false));
        self.signal.holds.store(holds, Ordering::Relaxed);
        if holds {
            tracing::debug!("this process keeps the log");
        }
        Ok(holds)
    }

    /// Another process keeps the log: tell it what was written here, and look
    /// how far it is, in case a notification was missed.
    async fn follow(&self, link: &Link) -> Result<()> {
        if self.signal.wrote.swap(false, Ordering::Relaxed) {
            notify(link, CHANNEL_PENDING, "").await?;
        }
        self.signal.advance(first(&one(link, &LOG_HEAD, &[]).await?)?);
        Ok(())
    }

    /// Numbers what waits and, now and then, folds and tidies.
    async fn round(&self, link: &Link, holder: &mut Holder) -> Result<()> {
        let fold = holder.folded.elapsed() >= FOLD_EVERY;
        loop {
            let (moved, head, folded) = sequence(link, fold).await?;
            if moved > 0 {
                self.signal.advance(head);
                notify(link, CHANNEL_LOG, &head.to_string()).await?;
            }
            holder.moved_rows += moved + folded;
            if moved < SEQUENCE_MAX && folded < FOLD_MAX {
                break;
            }
        }
        if fold {
            holder.folded = Instant::now();
        }
        if holder.moved_rows > VACUUM_ROWS {
            holder.moved_rows = 0;
            let vacuum = "vacuum (truncate false, skip_locked) log_pending, counter_change, \
                graph_degree_change";
            link.client.batch_execute(vacuum).await?;
        }
        if holder.tidied.is_none_or(|tidied| tidied.elapsed() > TIDY_EVERY) {
            holder.tidied = Some(Instant::now());
            one(link, &MARK_EXPIRED_DELETE, &[]).await?;
        }
        Ok(())
    }
}

/// One transaction: how many entries it numbered, up to which place, and how
/// many rows its fold changed.
async fn sequence(link: &Link, fold: bool) -> Result<(i64, i64, i64)> {
    let batch = |sql: &'static str| {
        async move {
            link.client.batch_execute(sql).await?;
            Ok(Ran { affected: 0, rows: Vec::new() })
        }
        .boxed()
    };
    let mut requests: Vec<BoxFuture<'_, Result<Ran>>> = vec![
        batch("begin isolation level read committed read write"),
        one(link, &LOG_SEQUENCE, &[SEQUENCE_MAX]).boxed(),
    ];
    if fold {
        // First the degrees, which change counters.
        requests.push(one(link, &DEGREE_FOLD, &[FOLD_MAX]).boxed());
        requests.push(one(link, &COUNTER_FOLD, &[FOLD_MAX]).boxed());
        requests.push(one(link, &COUNTER_ENDED_DELETE, &[]).boxed());
    }
    requests.push(batch("commit"));
    let answers: Vec<Ran> = pipeline(requests).await.into_iter().collect::<Result<_>>()?;
    let row = answers[1].rows.first().ok_or_else(nothing)?;
    let folded = if fold {
        let counters = i64::try_from(answers[3].affected).unwrap_or(i64::MAX);
        counters.max(first(&answers[2])?)
    } else {
        0
    };
    Ok((row.try_get(0)?, row.try_get(1)?, folded))
}

async fn one(link: &Link, sql: &'static Sql, values: &[i64]) -> Result<Ran> {
    Ok(run(&link.client, link.statement(sql)?, values).await?)
}

fn first(ran: &Ran) -> Result<i64> {
    Ok(ran.rows.first().ok_or_else(nothing)?.try_get(0)?)
}

fn nothing() -> StoreError {
    StoreError::Bug("the keeper's statement returned nothing".to_owned())
}

/// Tells the other processes which runs were changed here since the last time.
async fn tell_runs(link: &Link, runs: &RunSignal) -> Result<()> {
    for payload in runs.take() {
        notify(link, CHANNEL_RUNS, &payload).await?;
    }
    Ok(())
}

async fn notify(link: &Link, channel: &str, payload: &str) -> Result<()> {
    run(&link.client, link.statement(&KEEPER_NOTIFY)?, [channel, payload]).await?;
    Ok(())
}

static OWN: &[&Sql] = &[
    &KEEPER_LOCK,
    &KEEPER_NOTIFY,
    &LOG_HEAD,
    &LOG_SEQUENCE,
    &DEGREE_FOLD,
    &COUNTER_FOLD,
    &COUNTER_ENDED_DELETE,
    &MARK_EXPIRED_DELETE,
];
