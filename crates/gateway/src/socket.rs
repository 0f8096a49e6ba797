//! One accepted connection's bytes, and whether they still move. A tick looks at
//! a few atomics that reads and writes leave behind; no timer is armed per
//! request, which hyper's own header time-out would do, and an idle connection,
//! a header that never ends and a peer that stops reading are all seen.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::framing::Framing;

/// What reads, writes and requests leave behind for the tick.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    moved: AtomicU32,
    head_pending: AtomicBool,
    write_blocked: AtomicBool,
    // HTTP/2 has frames outside of requests; after its first request only
    // idleness counts.
    framed: AtomicBool,
    requests: AtomicU32,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        // The first head is awaited from the moment of connecting.
        Arc::new(Self { head_pending: AtomicBool::new(true), ..Self::default() })
    }

    /// A request's head is complete; the answer is being made until the guard goes.
    pub(crate) fn request(self: &Arc<Self>, framed: bool) -> InRequest {
        if framed {
            self.framed.store(true, Ordering::Relaxed);
        }
        self.head_pending.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        InRequest(Arc::clone(self))
    }

    fn read(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        let waiting = self.requests.load(Ordering::Relaxed) == 0;
        if waiting && !self.framed.load(Ordering::Relaxed) {
            self.head_pending.store(true, Ordering::Relaxed);
        }
    }

    fn wrote(&self, blocked: bool) {
        if !blocked {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        // Most writes are not blocked and follow one that was not: looking first
        // keeps the line shared.
        if self.write_blocked.load(Ordering::Relaxed) != blocked {
            self.write_blocked.store(blocked, Ordering::Relaxed);
        }
    }
}

/// A request whose answer is being made.
#[derive(Debug)]
pub(crate) struct InRequest(Arc<Activity>);

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a connection may be in a state in which only the peer can move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    pub(crate) header_read: Duration,
    pub(crate) write_stall: Duration,
    pub(crate) idle: Duration,
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// The head of a request did not come in time.
    HeaderRead,
    /// The peer did not read what was sent.
    WriteStall,
    /// Nothing happened.
    Idle,
}

/// Adds up, tick by tick, how long a connection has not moved.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    last_moved: u32,
    in_head: Duration,
    blocked: Duration,
    idle: Duration,
}

impl Watch {
    /// Looks at the connection after another `tick`.
    pub(crate) fn look(
        &mut self,
        activity: &Activity,
        tick: Duration,
        patience: Patience,
    ) -> Option<GivenUp> {
        let moved = activity.moved.load(Ordering::Relaxed);
        let still = moved == self.last_moved;
        self.last_moved = moved;
        let more = |so_far: Duration, holds: bool| {
            if holds { so_far + tick } else { Duration::ZERO }
        };
        // A head that trickles in moves all the time and is still not complete.
        self.in_head = more(self.in_head, activity.head_pending.load(Ordering::Relaxed));
        self.blocked = more(self.blocked, still && activity.write_blocked.load(Ordering::Relaxed));
        self.idle = more(self.idle, still && activity.requests.load(Ordering::Relaxed) == 0);
        if self.in_head > patience.header_read {
            Some(GivenUp::HeaderRead)
        } else if self.blocked > patience.write_stall {
            Some(GivenUp::WriteStall)
        } else if self.idle > patience.idle {
            Some(GivenUp::Idle)
        } else {
            None
        }
    }
}

/// A TCP stream that reports to an [`Activity`].
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
    framing: Framing,
    /// What the parser still reads in place of what came.
    refused: Option<&'static [u8]>,
}

/// What the parser reads in place of what is not HTTP as it must be: no head and no
/// chunk has a NUL, so that it answers 400 and closes the connection. The empty line
/// makes it look: it waits for the end of a head.
const REFUSED: &[u8] = b"\0\r\n\r\n";

impl Socket {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity, framing: Framing::new(), refused: None }
    }

    /// Gives the parser as much of what it reads instead as there is room for, and
    /// then the end.
    fn refuse(&mut self, buffer: &mut ReadBuf<'_>) {
        let left = self.refused.unwrap_or_default();
        let (now, later) = left.split_at(left.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.refused = Some(later);
    }

    /// The stream, for what comes after HTTP.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused.is_some() {
            this.refuse(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.activity.read();
            if let Err(fault) = this.framing.check(&buffer.filled()[before..]) {
                tracing::debug!(?fault, "a connection is not HTTP as it must be");
                buffer.set_filled(before);
                this.refused = Some(REFUSED);
                this.refuse(buffer);
            }
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.activity.wrote(polled.is_pending());
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.activity.wrote(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(1);
    const PATIENCE: Patience = Patience {
        header_read: Duration::from_secs(3),
        write_stall: Duration::from_secs(4),
        idle: Duration::from_secs(6),
    };

    /// Ticks until the connection is given up, `each` before every tick.
    fn until(
        activity: &Arc<Activity>,
        each: impl Fn(&Activity),
        ticks_max: u32,
    ) -> Option<(u32, GivenUp)> {
        let mut watch = Watch::default();
        (1..=ticks_max).find_map(|tick| {
            each(activity);
            watch.look(activity, TICK, PATIENCE).map(|given_up| (tick, given_up))
        })
    }

    #[test]
    fn a_head_that_never_ends_is_given_up_even_when_it_trickles() {
        let activity = Activity::new();
        assert_eq!(until(&activity, |_| (), 10), Some((4, GivenUp::HeaderRead)));
        let activity = Activity::new();
        assert_eq!(until(&activity, Activity::read, 10), Some((4, GivenUp::HeaderRead)));
    }

    #[test]
    fn a_request_being_answered_is_waited_for() {
        let activity = Activity::new();
        let _answering = activity.request(false);
        assert_eq!(until(&activity, |_| (), 20), None);
    }

    #[test]
    fn between_requests_only_idleness_counts() {
        let activity = Activity::new();
        drop(activity.request(false));
        assert_eq!(until(&activity, |_| (), 20), Some((7, GivenUp::Idle)));
        // The next head began and stopped.
        drop(activity.request(false));
        activity.read();
        assert_eq!(until(&activity, |_| (), 20), Some((4, GivenUp::HeaderRead)));
    }

    #[test]
    fn a_peer_that_stops_reading_is_given_up() {
        let activity = Activity::new();
        let _answering = activity.request(false);
        activity.wrote(true);
        assert_eq!(until(&activity, |_| (), 20), Some((5, GivenUp::WriteStall)));
        activity.wrote(false);
        assert_eq!(until(&activity, |_| (), 20), None);
    }

    #[test]
    fn frames_between_requests_of_http_2_are_no_head() {
        let activity = Activity::new();
        drop(activity.request(true));
        assert_eq!(until(&activity, Activity::read, 20), None);
    }
}
