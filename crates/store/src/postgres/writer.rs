//! A writer: takes what waits, applies it as one transaction, and sees to it
//! that every write gets a true answer whatever happens on the way.
//!
//! When writes of a group do not do what they must, they are taken out and go
//! one by one afterwards, and the others go again. A session that is lost before
//! COMMIT was sent has applied nothing, so the group goes again on a new one; a
//! COMMIT without an answer is settled by the session's mark.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::write::{Write, Written};
use crate::{Result, StoreError};

use super::connect::{Link, Purpose, Target, run, statements};
use super::group::{Ended, commit};
use super::keeper::Signal;
use super::marks::{MARK_DELETE, MARK_MAKE, MARK_SETTLE, Mark};
use super::queue::{Queue, Waiting};

/// How often a group goes again without the writes that stood in its way,
/// before all of it goes one by one.
const GROUP_ROUNDS_MAX: u32 = 4;
/// How often a transaction that others were in the way of goes again.
const AGAIN_MAX: u32 = 8;
/// How often a transaction that lost its session goes again.
const LOST_MAX: u32 = 3;
/// The first pause between two attempts; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long writes are held while the server cannot be reached. After that they
/// are refused at once, each with one attempt, until the server is back.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a lost COMMIT is asked after before its writes are told that nothing
/// is known: longer than a session keeps its locks without a client.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// A session that writes, with its row for marks.
struct Session {
    link: Link,
    mark: Mark,
}

impl Session {
    async fn open(target: &Target) -> Result<Self> {
        let client = target.connect(Purpose::Write, |_| ()).await?;
        let mut link = Link::prepare(client, statements()).await?;
        link.prepare_merged().await?;
        let made = run(&link.client, link.statement(&MARK_MAKE)?, NO_VALUES).await?;
        let writer = made
            .rows
            .first()
            .ok_or_else(|| StoreError::Bug("MARK_MAKE returned nothing".to_owned()))?
            .try_get(0)?;
        Ok(Self { link, mark: Mark { writer, place: 0 } })
    }
}

const NO_VALUES: [i64; 0] = [];

pub(super) struct Writer {
    target: Target,
    queue: Arc<Queue>,
    signal: Arc<Signal>,
    session: Option<Session>,
    /// Since when the server cannot be reached.
    down_since: Option<Instant>,
}

impl Writer {
    /// A writer with its first session, on which every statement is prepared.
    pub(super) async fn open(
        target: Target,
        queue: Arc<Queue>,
        signal: Arc<Signal>,
    ) -> Result<Self> {
        let session = Some(Session::open(&target).await?);
        Ok(Self { target, queue, signal, session, down_since: None })
    }

    /// Works until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        while let Some(group) = queue.next_group().await {
            self.commit(group).await;
            queue.done();
        }
        if let Some(Session { link, mark }) = self.session.take()
            && let Ok(statement) = link.statement(&MARK_DELETE)
            && let Err(error) = run(&link.client, statement, [mark.writer]).await
        {
            tracing::debug!(%error, "a mark stays until it expires");
        }
    }

    /// Applies a group and answers each of its writes.
    async fn commit(&mut self, mut group: Vec<Waiting>) {
        group.sort_by_key(|waiting| waiting.write.contended);
        let mut alone = Vec::new();
        for _ in 0..GROUP_ROUNDS_MAX {
            group.retain(is_wanted);
            match self.apply(&group).await {
                Outcome::Refused(writes) => {
                    for write in writes.into_iter().rev() {
                        alone.push(group.remove(write));
                    }
                }
                outcome => {
                    self.answer(group.drain(..), outcome);
                    break;
                }
            }
        }
        for waiting in alone.into_iter().chain(group).filter(is_wanted) {
            let waiting = [waiting];
            let outcome = self.apply(&waiting).await;
            self.answer(waiting.into_iter(), outcome);
        }
    }

    fn answer(&self, group: impl ExactSizeIterator<Item = Waiting>, outcome: Outcome) {
        let counts = &self.queue.counts;
        let many = group.len() as u64;
        match outcome {
            Outcome::Committed(written) => {
                counts.commits.fetch_add(u64::from(many > 0), Ordering::Relaxed);
                counts.writes.fetch_add(many, Ordering::Relaxed);
                let mut news = false;
                for (waiting, written) in group.zip(written) {
                    news |= !waiting.write.log.is_empty() || !waiting.write.counts.is_empty();
                    if let Some(run) = waiting.write.run_changed {
                        self.signal.runs.tell(run);
                    }
                    let _ = waiting.answer.send(Ok(written));
                }
                if news {
                    self.signal.written();
                }
            }
            Outcome::Verdict(error) => answer_all(group, &counts.refused, error),
            Outcome::Failed(error) => {
                tracing::error!(writes = many, %error, "a group could not be committed");
                answer_all(group, &counts.failed, error);
            }
            Outcome::Refused(_) => {
                let error = StoreError::Bug("a write was refused without a verdict".to_owned());
                answer_all(group, &counts.failed, error);
            }
        }
    }

    /// Applies writes in one transaction, as often as it takes to know.
    async fn apply(&mut self, group: &[Waiting]) -> Outcome {
        if group.is_empty() {
            return Outcome::Committed(Vec::new());
        }
        let writes: Vec<&Write> = group.iter().map(|waiting| &waiting.write).collect();
        let (mut again, mut lost) = (0, 0);
        loop {
            let session = match self.session().await {
                Ok(session) => session,
                Err(error) => return Outcome::Failed(error),
            };
            session.mark.place += 1;
            let mark = session.mark;
            let ended = commit(&session.link, mark, &writes).await;
            match ended {
                Ended::Committed(written) => return Outcome::Committed(written),
                Ended::Refused(writes) => return Outcome::Refused(writes),
                Ended::Verdict(error) => return Outcome::Verdict(error),
                Ended::Failed(error) => {
                    self.session = None;
                    return Outcome::Failed(error);
                }
                Ended::Again(error) => {
                    again += 1;
                    tracing::debug!(%error, again, "a transaction goes again");
                    if again > AGAIN_MAX {
                        return Outcome::Failed(error);
                    }
                    tokio::time::sleep(PAUSE_MIN).await;
                }
                Ended::Lost(error) => {
                    self.session = None;
                    lost += 1;
                    tracing::warn!(%error, lost, "a session was lost before its commit");
                    if lost > LOST_MAX {
                        return Outcome::Failed(error);
                    }
                }
                Ended::Unknown(written) => {
                    self.session = None;
                    lost += 1;
                    tracing::warn!("a commit was not answered; its mark will tell");
                    match self.settle(mark).await {
                        Ok(true) => return Outcome::Committed(written),
                        Ok(false) if lost <= LOST_MAX => (),
                        Ok(false) => {
                            let error = StoreError::Unavailable("the session was lost".into());
                            return Outcome::Failed(error);
                        }
                        Err(error) => return Outcome::Failed(error),
                    }
                }
            }
        }
    }

    /// The session, or a new one, as long as there is patience.
    async fn session(&mut self) -> Result<&mut Session> {
        if self.session.as_ref().is_none_or(|session| session.link.client.is_closed()) {
            self.session = None;
            let opened = self.open_session().await?;
            self.session = Some(opened);
        }
        self.session.as_mut().ok_or(StoreError::Closed)
    }

    async fn open_session(&mut self) -> Result<Session> {
        let mut pause = PAUSE_MIN;
        loop {
            match Session::open(&self.target).await {
                Ok(session) => {
                    if self.down_since.take().is_some() {
                        tracing::info!("a writer has a new session");
                    }
                    return Ok(session);
                }
                Err(error) => {
                    let since = *self.down_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether the transaction under this mark was committed.
    async fn settle(&mut self, mark: Mark) -> Result<bool> {
        let begun = Instant::now();
        loop {
            match self.ask(mark).await {
                Ok(committed) => return Ok(committed),
                Err(error) if begun.elapsed() > SETTLE_WITHIN => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a lost commit cannot be asked after yet");
                    self.session = None;
                    tokio::time::sleep(PAUSE_MAX).await;
                }
            }
        }
    }

    async fn ask(&mut self, mark: Mark) -> Result<bool> {
        let session = self.session().await?;
        let statement = session.link.statement(&MARK_SETTLE)?;
        let found = run(&session.link.client, statement, [mark.writer]).await?;
        let place: Option<i64> = found.rows.first().map(|row| row.try_get(0)).transpose()?;
        Ok(place == Some(mark.place))
    }
}

/// How applying a group ended, for whoever waits.
enum Outcome {
    Committed(Vec<Written>),
    /// Nothing is done; these writes are in the way of the others.
    Refused(Vec<usize>),
    /// Nothing is done; the only write was refused.
    Verdict(StoreError),
    /// Nothing is known to be done.
    Failed(StoreError),
}

/// Whoever gave up before its turn gets nothing done.
fn is_wanted(waiting: &Waiting) -> bool {
    !waiting.answer.is_closed()
}

fn answer_all(group: impl Iterator<Item = Waiting>, count: &AtomicU64, error: StoreError) {
    let mut first = Some(error);
    for waiting in group {
        count.fetch_add(1, Ordering::Relaxed);
        let error = first
            .take()
            .unwrap_or_else(|| StoreError::Unavailable("the group's commit failed".into()));
        let _ = waiting.answer.send(Err(error));
    }
}
