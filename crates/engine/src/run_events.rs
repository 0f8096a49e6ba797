//! The events of a run, as somebody reads them from any place in it: first what
//! is in the store, then what comes, and what one has had is dropped by its
//! place. So there is no gap and no double, also for whoever comes back after the
//! connection, the process or the machine went away.
//!
//! A reader holds one event and a place. Who is slower than the model falls
//! behind what is kept in memory and gets what it missed out of the store; who is
//! far behind is told to come back. Nobody else waits for it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::runs::Run;
use agentry_domain::tools::{RunCall, ToolNews, tool_news};
use agentry_domain::{Code, Error, Result, RunId, SessionId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Engine;
use crate::live::{LiveRun, State};
use crate::runs::Attendance;

/// Bytes of text in one event at most.
const DELTA_BYTES_MAX: usize = 64 * 1_024;
/// How far a reader that had everything may fall behind before it is told to come
/// back, in bytes.
const BEHIND_BYTES_MAX: u64 = 1_024 * 1_024;
/// Chunks that a reader takes out of the store at once.
const CHUNKS_AT_ONCE_MAX: u32 = 16;
/// How long a reader who is ahead of what is stored waits for the text to reach
/// it: another process may be about to store what it sent. Then the process that
/// sent it is gone, and the reader is told so.
const AHEAD_WITHIN: Duration = Duration::from_secs(1);
/// The pause when the store has not yet what memory has no longer.
const BEHIND_PAUSE: Duration = Duration::from_millis(20);

/// A place in a run: everything up to it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunCursor {
    /// Which time that the run was begun.
    pub attempt: i64,
    /// Bytes of UTF-8 of that attempt's text.
    pub offset: u64,
    /// News of tools.
    pub tools: u32,
    /// What was read behind the text.
    pub told: Told,
}

/// What was read behind a run's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// Nothing.
    Text,
    /// That the message is complete.
    Message,
    /// That the run has ended.
    End,
}

impl RunCursor {
    fn text(attempt: i64, offset: u64) -> Self {
        Self { attempt, offset, tools: 0, told: Told::Text }
    }
}

/// `ATTEMPT-OFFSET`, `.NEWS` when there was news of tools, and `-1` behind the message
/// or `-2` behind the end.
impl fmt::Display for RunCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempt, offset, tools, told } = self;
        write!(f, "{attempt}-{offset}")?;
        if *tools > 0 {
            write!(f, ".{tools}")?;
        }
        match told {
            Told::Text => Ok(()),
            Told::Message => f.write_str("-1"),
            Told::End => f.write_str("-2"),
        }
    }
}

/// Text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCursor;

impl FromStr for RunCursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let number = |digits: Option<&str>| {
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<i64>().ok())
        };
        let mut parts = text.split('-');
        let attempt = number(parts.next()).ok_or(NoCursor)?;
        let (offset, tools) = match parts.next().and_then(|place| place.split_once('.')) {
            Some((offset, tools)) => {
                let tools = number(Some(tools)).and_then(|tools| u32::try_from(tools).ok());
                (Some(offset), tools.filter(|tools| *tools > 0).ok_or(NoCursor)?)
            }
            None => (text.split('-').nth(1), 0),
        };
        let offset = number(offset).ok_or(NoCursor)?.unsigned_abs();
        let told = match (parts.next(), parts.next()) {
            (None, _) => Told::Text,
            (Some("1"), None) => Told::Message,
            (Some("2"), None) => Told::End,
            _ => return Err(NoCursor),
        };
        Ok(Self { attempt, offset, tools, told })
    }
}

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
    Delta(String),
    /// A call of a tool was begun.
    ToolStarted(Arc<RunCall>),
    /// A call of a tool ended.
    ToolFinished(Arc<RunCall>),
    /// What was read of the text behind the cursor, or of another attempt, is void.
    Reset,
    /// The reply is complete: the run has it.
    Completed(Arc<Run>),
    /// It ended.
    Finished(Arc<Run>),
    /// The reader has to come back with the cursor: it is too slow, or the process
    /// stops.
    Reconnect,
    /// The run was deleted.
    Expired,
}

/// An event, and the place behind it.
#[derive(Clone, Debug)]
pub struct RunNews {
    /// Where to go on.
    pub cursor: RunCursor,
    /// What happened.
    pub event: RunEvent,
}

/// What a reader gets that is far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenSlow {
    /// The news that it has to come back.
    Tell,
    /// What it missed, out of the store.
    CatchUp,
}

/// A reader of a run's events. Of a run that was begun the first one is
/// [`RunEvent::Started`], the last one [`RunEvent::Finished`].
pub struct RunEvents {
    engine: Engine,
    live: Arc<LiveRun>,
    changed: watch::Receiver<()>,
    cursor: Option<RunCursor>,
    when_slow: WhenSlow,
    /// It has had everything that there was at some time.
    caught_up: bool,
    /// Since when it is ahead of what is known.
    ahead_since: Option<Instant>,
    troubles_seen: u64,
    over: bool,
    /// That whoever reads waits for the run, which ends when nobody does.
    attendance: Option<Attendance>,
}

/// A run that was accepted, and what comes of it.
pub struct RunHandle {
    /// The run as it was accepted.
    pub run: Run,
    /// What happens in it.
    pub(crate) events: RunEvents,
    /// That somebody waits for it, of a run that ends when nobody does.
    pub(crate) attendance: Option<Attendance>,
}

impl RunHandle {
    /// Waits for the end of the run, whatever its outcome. An error says that
    /// the outcome could not be stored.
    pub async fn finished(self) -> Result<Run> {
        let ended = self.events.finished().await;
        if let Some(attendance) = self.attendance {
            attendance.over();
        }
        ended
    }

    /// What happens in it, for a client that is there as long as it reads.
    pub fn followed(self) -> RunEvents {
        RunEvents { attendance: self.attendance, ..self.events }
    }
}

/// What there is for a reader.
enum Look {
    News(RunNews),
    Failed(Error),
    /// Nothing more.
    Over,
    /// Nothing yet.
    Wait,
    /// What comes next is no longer in memory; so much has come meanwhile.
    Behind(u64),
    /// It has had more than is known; the text ends there.
    Ahead(RunCursor, bool),
}

impl RunEvents {
    pub(crate) fn new(engine: Engine, live: Arc<LiveRun>, after: Option<RunCursor>) -> Self {
        let changed = live.changes();
        let troubles_seen = live.look(|state| state.troubles);
        Self {
            engine,
            changed,
            // Nothing was read before the run was begun.
            cursor: after.filter(|after| after.attempt > 0 || after.told > Told::Text),
            when_slow: WhenSlow::Tell,
            caught_up: false,
            ahead_since: None,
            troubles_seen,
            over: false,
            attendance: None,
            live,
        }
    }

    /// The same, for a reader that cannot come back.
    pub fn that_catch_up(mut self) -> Self {
        self.when_slow = WhenSlow::CatchUp;
        self
    }

    /// From now on the run goes on when the reader goes away.
    pub fn unattended(&mut self) {
        if let Some(attendance) = self.attendance.take() {
            attendance.over();
        }
    }

    /// The next event; none after the last one. May be dropped and called again;
    /// nothing is lost.
    pub async fn next(&mut self) -> Option<Result<RunNews>> {
        self.live.want_text();
        while !self.over {
            // Before looking, so that a change after the look is seen by the wait.
            self.changed.mark_unchanged();
            let live = Arc::clone(&self.live);
            let look = live.look(|state| self.look(state));
            if !matches!(look, Look::Ahead(..)) {
                self.ahead_since = None;
            }
            match look {
                Look::News(news) => return Some(Ok(self.tell(news))),
                Look::Failed(error) => {
                    self.end_here();
                    return Some(Err(error));
                }
                Look::Over => self.end_here(),
                Look::Wait => self.wait().await,
                Look::Behind(bytes)
                    if bytes > BEHIND_BYTES_MAX
                        && self.caught_up
                        && self.when_slow == WhenSlow::Tell =>
                {
                    return self.reconnect().map(Ok);
                }
                Look::Behind(_) => match self.catch_up().await {
                    Ok(Some(news)) => return Some(Ok(self.tell(news))),
                    // The run's end is on its way to us.
                    Ok(None) => drop(tokio::time::timeout(BEHIND_PAUSE, self.wait()).await),
                    Err(error) => {
                        self.end_here();
                        return Some(Err(error));
                    }
                },
                Look::Ahead(end, certain) => {
                    let since = *self.ahead_since.get_or_insert_with(Instant::now);
                    if certain || since.elapsed() >= AHEAD_WITHIN {
                        self.ahead_since = None;
                        let news = RunNews { cursor: end, event: RunEvent::Reset };
                        return Some(Ok(self.tell(news)));
                    }
                    let until = since + AHEAD_WITHIN;
                    drop(tokio::time::timeout_at(until, self.wait()).await);
                }
            }
        }
        None
    }

    /// Whether nothing comes after the last event that was read.
    pub(crate) fn is_over(&mut self) -> bool {
        let live = Arc::clone(&self.live);
        matches!(live.look(|state| self.look(state)), Look::Over)
    }

    /// Ends it with the news that the reader has to come back; none when the last
    /// event was told.
    pub fn reconnect(&mut self) -> Option<RunNews> {
        let goes_on = !self.over;
        self.end_here();
        let cursor = self.cursor.unwrap_or(RunCursor::text(0, 0));
        goes_on.then_some(RunNews { cursor, event: RunEvent::Reconnect })
    }

    /// Waits for the end of the run alone.
    async fn finished(self) -> Result<Run> {
        let stopping = self.engine.0.tasks.stopping().clone();
        let mut turned = self.live.turns();
        loop {
            turned.mark_unchanged();
            let ended = self.live.look(|state| match &state.end {
                Some(run) => Some(Ok(Arc::clone(run))),
                None if state.gone => Some(Err(Error::not_found("run", self.live.id))),
                None => state.trouble_since(self.troubles_seen).map(Err),
            });
            if let Some(ended) = ended {
                return ended.map(Arc::unwrap_or_clone);
            }
            self.engine.run_follow(&self.live);
            tokio::select! {
                // The sender is in the live run that we hold, so this cannot fail.
                _ = turned.changed() => {}
                () = stopping.cancelled() => return Err(stopped()),
            }
        }
    }

    /// Waits for a change, and sees to it that there will be one.
    async fn wait(&mut self) {
        self.engine.run_follow(&self.live);
        // The sender is in the live run that we hold, so this cannot fail.
        let _ = self.changed.changed().await;
    }

    fn tell(&mut self, news: RunNews) -> RunNews {
        self.cursor = Some(news.cursor);
        if matches!(news.event, RunEvent::Finished(_) | RunEvent::Expired) {
            self.end_here();
        }
        news
    }

    /// Nothing more is told, and that is not the reader's doing.
    fn end_here(&mut self) {
        self.over = true;
        self.unattended();
    }

    fn look(&mut self, state: &State) -> Look {
        if let Some(run) = &state.end {
            return self.look_back(run, state);
        }
        if state.gone {
            let cursor = self.cursor.unwrap_or(RunCursor::text(0, 0));
            return Look::News(RunNews { cursor, event: RunEvent::Expired });
        }
        if let Some(error) = state.trouble_since(self.troubles_seen) {
            return Look::Failed(error);
        }
        let (Some(session), attempt) = (state.session, state.attempt) else { return Look::Wait };
        let Some(cursor) = self.cursor else { return self.started(session, attempt) };
        if cursor.attempt > attempt {
            // What is known here is older than what the reader had elsewhere.
            return Look::Ahead(RunCursor::text(attempt, 0), state.here);
        }
        if cursor.attempt < attempt {
            return reset(attempt, 0);
        }
        let end = state.text.end();
        let known = state.tools.len();
        if cursor.tools as usize > known {
            let tools = u32::try_from(known).unwrap_or(u32::MAX);
            let place = RunCursor { tools, ..RunCursor::text(attempt, cursor.offset.min(end)) };
            return Look::Ahead(place, state.here);
        }
        let next = state.tools.get(cursor.tools as usize);
        if let Some(news) = next
            && news.offset <= cursor.offset
        {
            return of_tool(cursor, news);
        }
        let until = next.map_or(u64::MAX, |news| news.offset);
        match state.text.from(cursor.offset) {
            _ if cursor.offset == end => {
                self.caught_up = true;
                Look::Wait
            }
            Some((text, at)) => piece(cursor, state.text.base(), text, at, until),
            None if cursor.offset > end => {
                let place = RunCursor { tools: cursor.tools, ..RunCursor::text(attempt, end) };
                Look::Ahead(place, state.here)
            }
            None => Look::Behind(end - cursor.offset),
        }
    }

    /// Looks at a run that has ended: what is missing of its reply, and the end.
    fn look_back(&self, run: &Arc<Run>, state: &State) -> Look {
        let attempt = run.attempt;
        let cursor = match self.cursor {
            None if attempt > 0 => return self.started(run.session, attempt),
            None => RunCursor::text(attempt, 0),
            Some(cursor) => cursor,
        };
        if cursor.attempt != attempt {
            return reset(attempt, 0);
        }
        let news = tool_news(&run.tools);
        let next = news.get(cursor.tools as usize).filter(|_| cursor.told == Told::Text);
        if let Some(news) = next
            && news.offset <= cursor.offset
        {
            return of_tool(cursor, news);
        }
        let until = next.map_or(u64::MAX, |news| news.offset);
        let Some(reply) = &run.reply else {
            // Without a reply what was said is no part of the outcome; whoever
            // followed it sees all of it that is still here.
            let rest = state.text.from(cursor.offset).filter(|_| state.attempt == attempt);
            return match (rest, next) {
                (Some((text, at)), _) if at < text.len() => {
                    piece(cursor, state.text.base(), text, at, until)
                }
                (_, Some(news)) => of_tool(cursor, news),
                _ => self.end(run, cursor),
            };
        };
        let end = reply.len() as u64;
        match usize::try_from(cursor.offset) {
            Ok(at) if cursor.offset < end => piece(cursor, 0, reply, at, until),
            _ if cursor.offset > end => reset(attempt, end),
            _ if cursor.told < Told::Message => Look::News(RunNews {
                cursor: RunCursor { told: Told::Message, ..cursor },
                event: RunEvent::Completed(Arc::clone(run)),
            }),
            _ => self.end(run, cursor),
        }
    }

    fn started(&self, session: SessionId, attempt: i64) -> Look {
        let event = RunEvent::Started { run: self.live.id, session };
        Look::News(RunNews { cursor: RunCursor::text(attempt, 0), event })
    }

    fn end(&self, run: &Arc<Run>, cursor: RunCursor) -> Look {
        if cursor.told == Told::End {
            return Look::Over;
        }
        let event = RunEvent::Finished(Arc::clone(run));
        Look::News(RunNews { cursor: RunCursor { told: Told::End, ..cursor }, event })
    }

    /// The next piece out of the store; none when it is not there.
    async fn catch_up(&self) -> Result<Option<RunNews>> {
        let Some(cursor) = self.cursor else { return Ok(None) };
        let store = &self.engine.0.store;
        let (org, run) = (self.live.org, self.live.id);
        let chunks = store
            .run_chunks(org, run, cursor.attempt, cursor.offset, CHUNKS_AT_ONCE_MAX)
            .await
            .map_err(Error::from)?;
        let Some(base) = chunks.first().map(|chunk| chunk.offset) else { return Ok(None) };
        let mut text = String::new();
        for chunk in chunks {
            if chunk.offset != base + text.len() as u64 {
                break;
            }
            text.push_str(&chunk.text);
        }
        let at = cursor.offset.checked_sub(base).and_then(|at| usize::try_from(at).ok());
        let next = self.live.look(|state| {
            let news = state.tools.get(cursor.tools as usize);
            news.filter(|_| state.attempt == cursor.attempt).map(|news| news.offset)
        });
        let until = next.unwrap_or(u64::MAX);
        let found = at.filter(|at| *at < text.len());
        match found.map(|at| piece(cursor, base, &text, at, until)) {
            Some(Look::News(news)) => Ok(Some(news)),
            _ => Ok(None),
        }
    }
}

fn reset(attempt: i64, offset: u64) -> Look {
    let cursor = RunCursor::text(attempt, offset);
    Look::News(RunNews { cursor, event: RunEvent::Reset })
}

/// What comes after a place of a text, or that the place is within a character,
/// which no event ends in.
/// It ends where the next news of a tool belongs.
fn piece(cursor: RunCursor, base: u64, text: &str, at: usize, until: u64) -> Look {
    if !text.is_char_boundary(at) {
        let place = RunCursor::text(cursor.attempt, base + text.floor_char_boundary(at) as u64);
        let cursor = RunCursor { tools: cursor.tools, ..place };
        return Look::News(RunNews { cursor, event: RunEvent::Reset });
    }
    let until = usize::try_from(until.saturating_sub(base)).unwrap_or(usize::MAX);
    let end = text.floor_char_boundary(at.saturating_add(DELTA_BYTES_MAX).min(until));
    let place = RunCursor::text(cursor.attempt, base + end as u64);
    Look::News(RunNews {
        cursor: RunCursor { tools: cursor.tools, ..place },
        event: RunEvent::Delta(text[at..end].to_owned()),
    })
}

/// The next news of a tool, at its place.
fn of_tool(cursor: RunCursor, news: &ToolNews) -> Look {
    let call = Arc::clone(&news.call);
    let event =
        if news.finished { RunEvent::ToolFinished(call) } else { RunEvent::ToolStarted(call) };
    Look::News(RunNews { cursor: RunCursor { tools: cursor.tools + 1, ..cursor }, event })
}

fn stopped() -> Error {
    Error::new(Code::ShuttingDown, "the server stopped; the run goes on when it starts again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for text in ["1-0", "3-57", "2-57-1", "1-9223372036854775807-2", "1-0.1", "1-57.12-2"] {
            assert_eq!(text.parse::<RunCursor>().map(|cursor| cursor.to_string()), Ok(text.into()));
        }
        for text in [
            "",
            "1",
            "1-",
            "-1-2",
            "1-2-3",
            "1-2-1-1",
            "1-+2",
            "a-b",
            "1-2-",
            "1-2.",
            "1-2.0",
            "1-2.x",
            "1-.2",
            "1-2.3.4",
            "1-99999999999999999999",
        ] {
            assert_eq!(text.parse::<RunCursor>(), Err(NoCursor), "{text}");
        }
    }

    #[test]
    fn a_piece_ends_and_begins_with_a_character() {
        let text = "ä".repeat(DELTA_BYTES_MAX);
        let Look::News(news) = piece(RunCursor::text(1, 10), 10, &text, 0, u64::MAX) else {
            panic!("a piece")
        };
        assert_eq!(news.cursor, RunCursor::text(1, 10 + DELTA_BYTES_MAX as u64));
        assert!(matches!(news.event, RunEvent::Delta(piece) if piece.len() == DELTA_BYTES_MAX));
        let Look::News(news) = piece(RunCursor::text(1, 13), 10, &text, 3, u64::MAX) else {
            panic!("a reset")
        };
        assert_eq!(news.cursor, RunCursor::text(1, 12));
        assert!(matches!(news.event, RunEvent::Reset));
    }
}
