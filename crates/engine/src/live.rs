//! What a run tells whoever waits for it in this process. The listener is a
//! hint: the run's end is in the store, and whoever missed it reads it there.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use agentry_domain::runs::Run;
use agentry_domain::{Code, Error, OrgId, Result, RunId, SessionId};
use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::runs::Attendance;

/// Pieces of a reply that wait for a slow reader; when more come, it is told
/// that it lagged and gets the whole reply at the end.
pub(crate) const RUN_EVENTS_WAITING_MAX: usize = 1_024;

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// It was begun.
    Started {
        /// The run.
        run: RunId,
        /// Its session.
        session: SessionId,
    },
    /// A piece of the reply.
    Delta(Arc<str>),
    /// The reader was too slow and missed pieces; the end has the whole reply.
    Lagged,
    /// It ended; the run has the whole reply.
    Finished(Box<Run>),
}

/// The executing side of a listener.
pub(crate) struct Speaker {
    events: mpsc::Sender<RunEvent>,
    finished: oneshot::Sender<Outcome>,
    lagged: bool,
}

/// How a run ended, and whether the listener missed pieces of it.
struct Outcome {
    run: Result<Run>,
    lagged: bool,
}

/// A run's events, as they happen, and then its end. Of a run that was begun
/// the first one is [`RunEvent::Started`].
pub struct RunEvents {
    events: mpsc::Receiver<RunEvent>,
    finished: Option<oneshot::Receiver<Outcome>>,
    /// The beginning, for whoever came later.
    begun: Option<RunEvent>,
    has_begun: bool,
    /// The end, while other news goes before it.
    held: Option<Result<Run>>,
}

/// A run that was accepted, and what comes of it.
pub struct RunHandle {
    /// The run as it was accepted.
    pub run: Run,
    /// What happens in it.
    pub events: RunEvents,
    /// That somebody waits for it, of a run that ends when nobody does.
    pub(crate) attendance: Option<Attendance>,
}

/// A connected pair.
pub(crate) fn listener() -> (Speaker, RunEvents) {
    let (events, events_of) = mpsc::channel(RUN_EVENTS_WAITING_MAX);
    let (finished, finished_of) = oneshot::channel();
    (
        Speaker { events, finished, lagged: false },
        RunEvents {
            events: events_of,
            finished: Some(finished_of),
            begun: None,
            has_begun: false,
            held: None,
        },
    )
}

impl RunEvents {
    /// The same events, for a listener of a run that may have begun before.
    pub(crate) fn of(mut self, run: &Run) -> Self {
        self.begun = started(run);
        self
    }
}

fn started(run: &Run) -> Option<RunEvent> {
    run.started_at.map(|_| RunEvent::Started { run: run.id, session: run.session })
}

impl Speaker {
    pub(crate) fn say(&mut self, event: RunEvent) {
        if self.lagged {
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            self.lagged = true;
        }
    }

    /// Tells how it ended. The listener may have gone; the store has it all.
    pub(crate) fn finish(self, run: Result<Run>) {
        let _ = self.finished.send(Outcome { run, lagged: self.lagged });
    }

    /// Whether anyone still listens.
    pub(crate) fn is_heard(&self) -> bool {
        !self.finished.is_closed()
    }
}

impl RunHandle {
    /// Waits for the end of the run, whatever its outcome. An error says that
    /// the outcome could not be stored.
    pub async fn finished(self) -> Result<Run> {
        // Nobody reads the pieces; without a receiver they cost nothing.
        drop(self.events.events);
        let ended = match self.events.finished {
            Some(finished) => finished.await.map_or_else(|_| Err(stopped()), |outcome| outcome.run),
            None => Err(stopped()),
        };
        if let Some(attendance) = self.attendance {
            attendance.over();
        }
        ended
    }

    /// What happens in it, for a client that is there as long as it reads.
    pub fn followed(self) -> impl futures::Stream<Item = Result<RunEvent>> + Send + 'static {
        let Self { events, mut attendance, .. } = self;
        events.inspect(move |event| {
            if matches!(event, Ok(RunEvent::Finished(_)) | Err(_))
                && let Some(attendance) = attendance.take()
            {
                attendance.over();
            }
        })
    }
}

impl futures::Stream for RunEvents {
    type Item = Result<RunEvent>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        if let Some(begun) = self.begun.take() {
            self.has_begun = true;
            return Poll::Ready(Some(Ok(begun)));
        }
        match self.events.poll_recv(context) {
            Poll::Ready(Some(event)) => {
                self.has_begun |= matches!(event, RunEvent::Started { .. });
                return Poll::Ready(Some(Ok(event)));
            }
            Poll::Ready(None) => {}
            Poll::Pending => return Poll::Pending,
        }
        if let Some(run) = self.held.take() {
            return Poll::Ready(Some(run.map(|run| RunEvent::Finished(Box::new(run)))));
        }
        let Some(finished) = &mut self.finished else { return Poll::Ready(None) };
        let outcome = std::task::ready!(std::pin::Pin::new(finished).poll(context));
        self.finished = None;
        let Outcome { run, lagged } =
            outcome.unwrap_or_else(|_| Outcome { run: Err(stopped()), lagged: false });
        if lagged {
            self.held = Some(run);
            return Poll::Ready(Some(Ok(RunEvent::Lagged)));
        }
        if let Some(begun) = run.as_ref().ok().filter(|_| !self.has_begun).and_then(started) {
            self.held = Some(run);
            return Poll::Ready(Some(Ok(begun)));
        }
        Poll::Ready(Some(run.map(|run| RunEvent::Finished(Box::new(run)))))
    }
}

fn stopped() -> Error {
    Error::new(Code::ShuttingDown, "the server stopped; the run goes on when it starts again")
}

/// Who waits for runs that this process does not carry out at the moment.
#[derive(Default)]
pub(crate) struct Live {
    /// Listeners of runs that wait in their session's queue.
    queued: Mutex<HashMap<RunId, (OrgId, Speaker)>>,
    /// Requests that came again while their run goes on, here or elsewhere.
    attached: Mutex<HashMap<RunId, (OrgId, Vec<Speaker>)>>,
}

impl Live {
    pub(crate) fn register(&self, org: OrgId, run: RunId, speaker: Speaker) {
        self.queued.lock().insert(run, (org, speaker));
    }

    pub(crate) fn take(&self, run: RunId) -> Option<Speaker> {
        self.queued.lock().remove(&run).map(|(_, speaker)| speaker)
    }

    /// Another listener of a run: it hears of the end.
    pub(crate) fn attach(&self, org: OrgId, run: RunId, speaker: Speaker) {
        let mut attached = self.attached.lock();
        let speakers = &mut attached.entry(run).or_insert_with(|| (org, Vec::new())).1;
        // Whoever asks again and again goes away in between.
        speakers.retain(Speaker::is_heard);
        speakers.push(speaker);
    }

    /// Forgets listeners of a run that went away.
    pub(crate) fn detach_unheard(&self, run: RunId) {
        let mut attached = self.attached.lock();
        if let Some((_, speakers)) = attached.get_mut(&run) {
            speakers.retain(Speaker::is_heard);
            if speakers.is_empty() {
                attached.remove(&run);
            }
        }
    }

    /// Tells everyone who waits that a run has ended and is stored.
    pub(crate) fn ended(&self, run: &Run) {
        let attached = self.attached.lock().remove(&run.id).map(|(_, speakers)| speakers);
        for speaker in self.take(run.id).into_iter().chain(attached.into_iter().flatten()) {
            speaker.finish(Ok(run.clone()));
        }
    }

    /// The runs that someone still waits for; the others are forgotten.
    pub(crate) fn waiting(&self) -> Vec<(OrgId, RunId)> {
        let mut queued = self.queued.lock();
        queued.retain(|_, (_, speaker)| speaker.is_heard());
        let mut attached = self.attached.lock();
        attached.retain(|_, (_, speakers)| {
            speakers.retain(Speaker::is_heard);
            !speakers.is_empty()
        });
        let queued = queued.iter().map(|(run, (org, _))| (*org, *run));
        queued.chain(attached.iter().map(|(run, (org, _))| (*org, *run))).collect()
    }
}
