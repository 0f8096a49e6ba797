//! What one thread of the generator saw since it was last asked. Memory follows
//! from the number of endpoints, never from the number of requests.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use crate::delivery::Delivered;
use crate::run_file::{
    EndpointInterval, ErrorCount, Generator, Sample, SocketInterval, StreamInterval,
};
use crate::sketch::Sketch;
use crate::tokens::Streamed;

/// Failed answers kept for each endpoint and class, in each thread.
const SAMPLES_PER_CLASS: u64 = 3;
/// Classes of errors for each endpoint; further ones are counted as `other`.
const CLASSES_MAX: usize = 200;
/// Different bodies that are told apart.
const BODIES_MAX: usize = 3;

/// The times of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// When it should have gone out.
    pub(crate) intended: Instant,
    /// From when nothing but the generator held it back.
    pub(crate) eligible: Instant,
    /// When the generator took it up; a connection that has to be made first
    /// is the target's time.
    pub(crate) sent: Instant,
    pub(crate) first_byte: Option<Instant>,
    pub(crate) done: Instant,
}

impl Times {
    /// What a client waited.
    pub(crate) fn response(&self) -> Duration {
        self.done.saturating_duration_since(self.intended)
    }

    /// What the target took.
    pub(crate) fn service(&self) -> Duration {
        self.done.saturating_duration_since(self.sent)
    }

    /// What the generator lost.
    pub(crate) fn dispatch_lag(&self) -> Duration {
        self.sent.saturating_duration_since(self.eligible)
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    Ok { body_bytes: u64, body: &'a [u8], streamed: Option<&'a Streamed> },
    Failed(Failed<'a>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed<'a> {
    pub(crate) class: &'a str,
    pub(crate) detail: &'a str,
    pub(crate) status: Option<u16>,
    pub(crate) body_bytes: u64,
    pub(crate) body: &'a [u8],
}

/// One phase of one thread: warm-up or measurement.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    /// By endpoint, succeeded and failed.
    cells: BTreeMap<(usize, bool), EndpointInterval>,
    errors: BTreeMap<(usize, String), u64>,
    pub(crate) dispatch_lag: Sketch,
    pub(crate) offered: u64,
    pub(crate) shed: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Recorder {
    started: Instant,
    warm_at: Instant,
    pub(crate) warmup: Phase,
    pub(crate) measured: Phase,
    pub(crate) queue_max: u64,
    pub(crate) connects: u64,
    pub(crate) samples: Vec<Sample>,
    /// Outlive the intervals, so that a long run samples no more than a short.
    sampled: BTreeMap<(usize, String), u64>,
    bodies: BTreeMap<usize, Vec<u64>>,
}

impl Recorder {
    pub(crate) fn new(started: Instant, warmup: Duration) -> Self {
        Self {
            started,
            warm_at: started + warmup,
            warmup: Phase::default(),
            measured: Phase::default(),
            queue_max: 0,
            connects: 0,
            samples: Vec::new(),
            sampled: BTreeMap::new(),
            bodies: BTreeMap::new(),
        }
    }

    /// The phase that a request intended then belongs to.
    pub(crate) fn phase(&mut self, intended: Instant) -> &mut Phase {
        if intended < self.warm_at { &mut self.warmup } else { &mut self.measured }
    }

    pub(crate) fn request(&mut self, endpoint: usize, times: &Times, outcome: &Outcome<'_>) {
        let bodies = match outcome {
            Outcome::Ok { body, .. } if !body.is_empty() => self.count_body(endpoint, body),
            _ => 0,
        };
        let phase = self.phase(times.intended);
        phase.dispatch_lag.record(times.dispatch_lag());
        let ok = matches!(outcome, Outcome::Ok { .. });
        let cell = phase.cells.entry((endpoint, ok)).or_insert_with(|| EndpointInterval {
            endpoint,
            ok,
            ..EndpointInterval::default()
        });
        cell.count += 1;
        cell.bodies = cell.bodies.max(bodies);
        cell.response.record(times.response());
        cell.service.record(times.service());
        if let Some(first_byte) = times.first_byte {
            cell.first_byte.record(first_byte.saturating_duration_since(times.sent));
        }
        match outcome {
            Outcome::Ok { body_bytes, streamed, .. } => {
                cell.body_bytes += body_bytes;
                if let Some(streamed) = streamed {
                    let stream = cell.stream.get_or_insert_default();
                    record_stream(stream, times.sent, streamed);
                }
            }
            Outcome::Failed(failed) => {
                cell.body_bytes += failed.body_bytes;
                phase.error(endpoint, failed.class);
                self.sample(endpoint, times, failed);
            }
        }
    }

    fn count_body(&mut self, endpoint: usize, body: &[u8]) -> u8 {
        let seen = self.bodies.entry(endpoint).or_default();
        if seen.len() < BODIES_MAX {
            let mut hasher = DefaultHasher::new();
            body.hash(&mut hasher);
            let hash = hasher.finish();
            if !seen.contains(&hash) {
                seen.push(hash);
            }
        }
        u8::try_from(seen.len()).unwrap_or(u8::MAX)
    }

    /// Whether the body of this endpoint's next answer tells anything new.
    pub(crate) fn wants_body(&self, endpoint: usize) -> bool {
        self.bodies.get(&endpoint).is_none_or(|seen| seen.len() < BODIES_MAX)
    }

    fn sample(&mut self, endpoint: usize, times: &Times, failed: &Failed<'_>) {
        let key = (endpoint, failed.class.to_owned());
        if self.sampled.len() == CLASSES_MAX && !self.sampled.contains_key(&key) {
            return;
        }
        let sampled = self.sampled.entry(key).or_default();
        if *sampled == SAMPLES_PER_CLASS {
            return;
        }
        *sampled += 1;
        self.samples.push(Sample {
            endpoint,
            class: failed.class.to_owned(),
            at: times.done.saturating_duration_since(self.started).as_secs_f64(),
            status: failed.status,
            detail: failed.detail.to_owned(),
            body: String::from_utf8_lossy(failed.body).into_owned(),
        });
    }

    /// What was recorded since the last time.
    pub(crate) fn take(&mut self) -> Taken {
        Taken {
            warmup: std::mem::take(&mut self.warmup),
            measured: std::mem::take(&mut self.measured),
            queue_max: std::mem::take(&mut self.queue_max),
            connects: std::mem::take(&mut self.connects),
            samples: std::mem::take(&mut self.samples),
        }
    }
}

/// One frame of a WebSocket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) bytes: u64,
    /// Since the moment that it carries.
    pub(crate) lag: Option<Duration>,
    /// By the number that it carries.
    pub(crate) delivered: Option<Delivered>,
    /// It is the first since the target was asked to go on, so long ago.
    pub(crate) resumed: Option<Duration>,
}

impl Recorder {
    /// What came over the sockets that this step opened.
    fn socket(&mut self, endpoint: usize, at: Instant) -> &mut SocketInterval {
        let cells = &mut self.phase(at).cells;
        let cell = cells.entry((endpoint, true)).or_insert_with(|| EndpointInterval {
            endpoint,
            ok: true,
            ..EndpointInterval::default()
        });
        cell.socket.get_or_insert_default()
    }

    pub(crate) fn frame(&mut self, endpoint: usize, at: Instant, frame: &Frame) {
        let socket = self.socket(endpoint, at);
        socket.frames += 1;
        socket.bytes += frame.bytes;
        if let Some(lag) = frame.lag {
            socket.lag.record(lag);
        }
        if let Some(resumed) = frame.resumed {
            socket.resume.record(resumed);
            socket.resumed += u64::from(frame.delivered == Some(Delivered::InOrder));
        }
        match frame.delivered {
            Some(Delivered::Again) => socket.doubled += 1,
            Some(Delivered::Late) => socket.reordered += 1,
            Some(Delivered::Early { lost }) => socket.lost += lost,
            Some(Delivered::First | Delivered::InOrder | Delivered::NotFollowed) | None => {}
        }
    }

    pub(crate) fn lost(&mut self, endpoint: usize, at: Instant, count: u64) {
        self.socket(endpoint, at).lost += count;
    }

    pub(crate) fn reconnected(&mut self, endpoint: usize, at: Instant) {
        self.socket(endpoint, at).reconnects += 1;
    }

    pub(crate) fn closed(&mut self, endpoint: usize, at: Instant) {
        self.socket(endpoint, at).closed += 1;
    }

    pub(crate) fn forgotten(&mut self, endpoint: usize, at: Instant) {
        self.socket(endpoint, at).forgotten += 1;
    }
}

fn record_stream(stream: &mut StreamInterval, sent: Instant, streamed: &Streamed) {
    if let Some(first) = streamed.first_token {
        stream.first_token.record(first.saturating_duration_since(sent));
    }
    for gap in &streamed.gaps {
        stream.gap.record(*gap);
    }
    if let Some(time) = streamed.time_per_token {
        stream.time_per_token.record(time);
    }
    stream.chunks += streamed.chunks;
    stream.tokens += streamed.tokens.unwrap_or_default();
    stream.without_usage += u64::from(streamed.tokens.is_none());
}

/// What one thread hands over.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) warmup: Phase,
    pub(crate) measured: Phase,
    pub(crate) queue_max: u64,
    pub(crate) connects: u64,
    pub(crate) samples: Vec<Sample>,
}

impl Phase {
    pub(crate) fn error(&mut self, endpoint: usize, class: &str) {
        let room = self.errors.len() < CLASSES_MAX;
        let key = (endpoint, class.to_owned());
        let key = if room || self.errors.contains_key(&key) {
            key
        } else {
            (endpoint, "other".to_owned())
        };
        *self.errors.entry(key).or_default() += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.errors.is_empty() && self.offered == 0
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (key, cell) in other.cells {
            match self.cells.entry(key) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(cell);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    entry.get_mut().merge(&cell);
                }
            }
        }
        for (key, count) in other.errors {
            *self.errors.entry(key).or_default() += count;
        }
        self.dispatch_lag.merge(&other.dispatch_lag);
        self.offered += other.offered;
        self.shed += other.shed;
    }

    /// Into the parts of an interval.
    pub(crate) fn into_parts(self) -> (Vec<EndpointInterval>, Vec<ErrorCount>, Generator) {
        let errors = self
            .errors
            .into_iter()
            .map(|((endpoint, class), count)| ErrorCount { endpoint, class, count })
            .collect();
        let generator = Generator {
            dispatch_lag: self.dispatch_lag,
            offered: self.offered,
            shed: self.shed,
            ..Generator::default()
        };
        (self.cells.into_values().collect(), errors, generator)
    }
}

impl EndpointInterval {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.body_bytes += other.body_bytes;
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.first_byte.merge(&other.first_byte);
        self.bodies = self.bodies.max(other.bodies);
        if let Some(theirs) = &other.stream {
            let ours = self.stream.get_or_insert_default();
            ours.first_token.merge(&theirs.first_token);
            ours.gap.merge(&theirs.gap);
            ours.time_per_token.merge(&theirs.time_per_token);
            ours.chunks += theirs.chunks;
            ours.tokens += theirs.tokens;
            ours.without_usage += theirs.without_usage;
        }
        if let Some(theirs) = &other.socket {
            self.socket.get_or_insert_default().merge(theirs);
        }
    }
}
