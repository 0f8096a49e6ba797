//! Runs as this process sees them while somebody here carries them out, follows
//! them or waits for them. A [`LiveRun`] is filled from one of two sides: by the
//! task that carries the run out here, or, when that is another process's or
//! nobody's, out of the store (`runs::follow`). Whoever reads it does not know
//! which. It is a hint: the run's end and its text are in the store, and what is
//! no longer here is read there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use agentry_domain::runs::Run;
use agentry_domain::tools::ToolNews;
use agentry_domain::{Code, Error, OrgId, Result, RunId, SessionId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// Bytes of a run's newest text that are kept in memory for those who follow it.
/// What the store does not have yet stays beyond that.
pub(crate) const RING_BYTES_MAX: usize = 256 * 1_024;

type Runs = Mutex<HashMap<RunId, Weak<LiveRun>>>;

/// The live runs of this process.
#[derive(Default)]
pub(crate) struct Live {
    runs: Arc<Runs>,
}

/// A run that somebody here has to do with; it is forgotten with the last of them.
pub(crate) struct LiveRun {
    pub(crate) org: OrgId,
    pub(crate) id: RunId,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// The same but for text, for those who wait for the end alone.
    turned: watch::Sender<()>,
    /// Wakes whoever fills it out of the store.
    pub(crate) hint: Arc<Notify>,
    /// Somebody wants more than the end.
    text_wanted: AtomicBool,
    runs: Weak<Runs>,
}

/// What is known of a run.
#[derive(Default)]
pub(crate) struct State {
    /// This process carries it out now.
    pub(crate) here: bool,
    /// A task fills it out of the store.
    followed: bool,
    /// The attempt that the text is of; 0 when none is known.
    pub(crate) attempt: i64,
    pub(crate) session: Option<SessionId>,
    pub(crate) text: Ring,
    /// What is known of the attempt's tools, in order.
    pub(crate) tools: Vec<ToolNews>,
    pub(crate) end: Option<Arc<Run>>,
    /// There is no such run any more.
    pub(crate) gone: bool,
    /// How often something failed that those who wait should hear of, and what
    /// it was the last time.
    pub(crate) troubles: u64,
    trouble: Option<(Code, String)>,
}

/// The newest text of an attempt.
#[derive(Default)]
pub(crate) struct Ring {
    /// Where in the attempt's text it begins, in bytes.
    base: u64,
    text: String,
    /// So much of the attempt's text is in the store.
    stored: u64,
}

impl Ring {
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.text.len() as u64
    }

    /// The text from a place on; none when that is not in the ring.
    pub(crate) fn from(&self, offset: u64) -> Option<(&str, usize)> {
        let at = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        (at <= self.text.len()).then_some((self.text.as_str(), at))
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.shrink();
    }

    fn stored(&mut self, stored: u64) {
        self.stored = self.stored.max(stored);
        self.shrink();
    }

    /// Drops the oldest of what the store has; only when there is twice too much,
    /// so that what stays is not moved with every piece.
    fn shrink(&mut self) {
        if self.text.len() <= 2 * RING_BYTES_MAX {
            return;
        }
        let stored = usize::try_from(self.stored.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let goes = (self.text.len() - RING_BYTES_MAX).min(stored);
        let goes = self.text.floor_char_boundary(goes);
        self.text.drain(..goes);
        self.base += goes as u64;
    }
}

impl State {
    /// What went wrong since somebody looked last.
    pub(crate) fn trouble_since(&self, seen: u64) -> Option<Error> {
        let (code, detail) = self.trouble.as_ref().filter(|_| self.troubles > seen)?;
        Some(Error::new(*code, detail.clone()))
    }

    fn begin(&mut self, attempt: i64, session: SessionId) {
        if self.attempt != attempt {
            self.attempt = attempt;
            self.text = Ring::default();
            self.tools.clear();
        }
        self.session = Some(session);
    }
}

impl Live {
    /// The live run of this id, which must be one of the organisation's.
    pub(crate) fn open(&self, org: OrgId, id: RunId) -> Arc<LiveRun> {
        let mut runs = self.runs.lock();
        if let Some(live) = runs.get(&id).and_then(Weak::upgrade) {
            return live;
        }
        let live = Arc::new(LiveRun {
            org,
            id,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            turned: watch::Sender::new(()),
            hint: Arc::default(),
            text_wanted: AtomicBool::new(false),
            runs: Arc::downgrade(&self.runs),
        });
        runs.insert(id, Arc::downgrade(&live));
        live
    }

    /// The executing side of a run.
    pub(crate) fn speaker(&self, org: OrgId, id: RunId) -> Speaker {
        Speaker { live: self.open(org, id), finished: false }
    }

    /// Tells everyone who waits that a run has ended and is stored.
    pub(crate) fn ended(&self, run: &Run) {
        let live = self.runs.lock().get(&run.id).and_then(Weak::upgrade);
        if let Some(live) = live {
            live.ended(Arc::new(run.clone()));
        }
    }

    /// A run may have gone on in another process.
    pub(crate) fn hint(&self, id: RunId) {
        // The last owner of a live run takes the lock when it goes, so that one
        // that is owned here must not go under the lock.
        let live = self.runs.lock().get(&id).and_then(Weak::upgrade);
        if let Some(live) = live {
            live.hint.notify_one();
        }
    }

    /// Any run may have gone on in another process.
    pub(crate) fn hint_all(&self) {
        let all: Vec<_> = self.runs.lock().values().filter_map(Weak::upgrade).collect();
        for live in all {
            live.hint.notify_one();
        }
    }
}

impl LiveRun {
    /// Told of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Told of each change but text.
    pub(crate) fn turns(&self) -> watch::Receiver<()> {
        self.turned.subscribe()
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.change_text(change);
        self.turned.send_replace(());
    }

    fn change_text(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.send_replace(());
    }

    /// From now on its text is wanted and not only its end.
    pub(crate) fn want_text(&self) {
        if !self.text_wanted.swap(true, Ordering::AcqRel) {
            self.hint.notify_one();
        }
    }

    pub(crate) fn is_text_wanted(&self) -> bool {
        self.text_wanted.load(Ordering::Acquire)
    }

    /// The right and the duty to fill it out of the store; nobody has it while it
    /// is carried out here.
    pub(crate) fn begin_following(&self) -> bool {
        let mut state = self.state.lock();
        let free = !state.here && !state.followed && state.end.is_none() && !state.gone;
        state.followed |= free;
        free
    }

    /// Whether it still has to be filled out of the store; when not, the duty is over.
    pub(crate) fn goes_on_following(&self) -> bool {
        let mut state = self.state.lock();
        state.followed = !state.here && state.end.is_none() && !state.gone;
        state.followed
    }

    /// The store says that this attempt was begun: where its text is read on.
    pub(crate) fn begun_elsewhere(&self, attempt: i64, session: SessionId) -> Option<u64> {
        let mut from = None;
        self.change(|state| {
            if !state.here && attempt >= state.attempt {
                state.begin(attempt, session);
                from = Some(state.text.end());
            }
        });
        from
    }

    /// Text of an attempt out of the store; what is here already is dropped.
    pub(crate) fn append_stored(&self, attempt: i64, offset: u64, text: &str) {
        self.change_text(|state| {
            if state.here || state.attempt != attempt {
                return;
            }
            let known = state.text.end().saturating_sub(offset);
            if let Some(new) = usize::try_from(known).ok().and_then(|known| text.get(known..))
                && offset <= state.text.end()
            {
                state.text.push(new);
            }
            state.text.stored(offset + text.len() as u64);
        });
    }

    /// News of the tools of an attempt out of the store.
    pub(crate) fn tools_stored(&self, attempt: i64, news: Vec<ToolNews>) {
        self.change_text(|state| {
            if !state.here && state.attempt == attempt && news.len() > state.tools.len() {
                state.tools = news;
            }
        });
    }

    pub(crate) fn ended(&self, run: Arc<Run>) {
        self.change(|state| {
            state.end = Some(run);
            state.here = false;
        });
    }

    pub(crate) fn gone(&self) {
        self.change(|state| state.gone = true);
    }
}

impl Drop for LiveRun {
    fn drop(&mut self) {
        if let Some(runs) = self.runs.upgrade() {
            let mut runs = runs.lock();
            // Another one may have its place by now.
            if runs.get(&self.id).is_some_and(|live| std::ptr::eq(live.as_ptr(), self)) {
                runs.remove(&self.id);
            }
        }
        // Whoever fills it finds that nobody wants it any more.
        self.hint.notify_one();
    }
}

/// The executing side of a run.
pub(crate) struct Speaker {
    live: Arc<LiveRun>,
    finished: bool,
}

impl Speaker {
    /// The run is carried out here from now on.
    pub(crate) fn begin(&self, run: &Run) {
        self.live.change(|state| {
            state.here = true;
            state.begin(run.attempt, run.session);
        });
    }

    /// A piece of the reply.
    pub(crate) fn text(&self, text: &str) {
        self.live.change_text(|state| state.text.push(text));
    }

    /// A call of a tool was begun or ended.
    pub(crate) fn tool(&self, news: ToolNews) {
        self.live.change_text(|state| state.tools.push(news));
    }

    /// So much of the text is in the store.
    pub(crate) fn stored(&self, stored: u64) {
        // Nobody waits for this.
        self.live.state.lock().text.stored(stored);
    }

    /// Tells how it ended; of an error, that its end could not be stored yet.
    pub(crate) fn finish(mut self, run: Result<Run>) {
        match run {
            Ok(run) => {
                self.finished = true;
                self.live.ended(Arc::new(run));
            }
            // Another process has the run now, and it goes on there.
            Err(error) if error.code == Code::Conflict => {}
            Err(error) => self.live.change(|state| {
                state.troubles += 1;
                state.trouble = Some((error.code, error.detail.into_owned()));
            }),
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        if !self.finished {
            // Whoever waits looks for another way to hear of the run.
            self.live.change(|state| state.here = false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_what_is_new_and_what_is_not_stored() {
        let mut ring = Ring::default();
        let piece = "äb".repeat(RING_BYTES_MAX / 3);
        for _ in 0..4 {
            ring.push(&piece);
        }
        assert_eq!(ring.base(), 0, "nothing of it is stored");
        let end = ring.end();
        ring.stored(end - 1_001);
        assert_eq!(ring.end(), end);
        assert!(ring.text.len() <= RING_BYTES_MAX + 1);
        assert_eq!(ring.from(ring.base() - 1), None);
        assert_eq!(ring.from(end).map(|(text, at)| text.len() - at), Some(0));
        assert_eq!(ring.from(end + 1), None);
    }

    #[test]
    fn a_live_run_is_forgotten_with_its_last_owner() {
        let live = Live::default();
        let (org, id) = (OrgId::from_bytes([1; 16]), RunId::from_bytes([2; 16]));
        let one = live.open(org, id);
        let two = live.open(org, id);
        assert!(Arc::ptr_eq(&one, &two));
        drop(one);
        assert_eq!(live.runs.lock().len(), 1);
        drop(two);
        assert_eq!(live.runs.lock().len(), 0);
    }

    #[test]
    fn text_out_of_the_store_is_added_once() {
        let live = Live::default();
        let run = live.open(OrgId::from_bytes([1; 16]), RunId::from_bytes([2; 16]));
        let session = SessionId::from_bytes([3; 16]);
        assert_eq!(run.begun_elsewhere(1, session), Some(0));
        run.append_stored(1, 0, "abc");
        run.append_stored(1, 1, "bcde");
        run.append_stored(1, 9, "a gap");
        run.append_stored(2, 0, "of another attempt");
        let text = || run.look(|state| state.text.from(0).map(|(text, _)| text.to_owned()));
        assert_eq!(text().as_deref(), Some("abcde"));
        assert_eq!(run.begun_elsewhere(2, session), Some(0));
        assert_eq!(text().as_deref(), Some(""));
        assert_eq!(run.begun_elsewhere(1, session), None, "an attempt does not come back");
    }
}
