//! The run file: JSON lines, appended as the run goes. The first is a header,
//! then one line for each second, samples of failed answers, and an end. A run
//! that was killed has no end and may have a torn last line; what stands before
//! it is read all the same. `schema/run.schema.json` describes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sketch::Sketch;

/// Changes when a reader of the old form would misread the new one.
pub(crate) const SCHEMA_VERSION: u32 = 1;
/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line {
    Header(Box<Header>),
    Interval(Box<Interval>),
    Sample(Sample),
    Metrics(Metrics),
    End(End),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) schema: u32,
    /// RFC 3339, UTC.
    pub(crate) started_at: String,
    pub(crate) lab: String,
    pub(crate) scenario: String,
    /// The scenario as it was read; empty for a single URL.
    pub(crate) scenario_text: String,
    pub(crate) profile: String,
    pub(crate) seed: u64,
    /// What `${run}` was.
    pub(crate) run: String,
    pub(crate) target: String,
    pub(crate) load: LoadHeader,
    pub(crate) warmup_seconds: f64,
    pub(crate) timeout_seconds: f64,
    pub(crate) endpoints: Vec<String>,
    /// By endpoint; empty in files that were written before there was this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rows: Vec<RowKind>,
    pub(crate) slo: Vec<String>,
    pub(crate) threads: usize,
    pub(crate) machine: Machine,
    /// The command that does it again, without secrets.
    pub(crate) command: String,
}

/// What the times of a row are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RowKind {
    /// A request and its answer.
    #[default]
    Request,
    /// The same, and the answer is a stream of events.
    Stream,
    /// A WebSocket's handshake.
    Connect,
    /// A frame, sent and not waited for.
    Send,
    /// A frame, until one that answers it.
    RoundTrip,
    /// Until the frames that are waited for have come.
    Receive,
    /// A WebSocket's handshake after it was broken off.
    Reconnect,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LoadHeader {
    /// closed or open.
    pub(crate) model: String,
    pub(crate) users: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) think_seconds: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ramp_per_second: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) arrivals: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) stages: Vec<StageHeader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iterations: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StageHeader {
    pub(crate) from_per_second: f64,
    pub(crate) to_per_second: f64,
    pub(crate) seconds: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) system: String,
    pub(crate) cpus: usize,
    pub(crate) cpu_model: String,
    pub(crate) memory_bytes: u64,
    /// Whether the target runs on the same machine and shares its CPUs.
    pub(crate) shared_with_target: bool,
}

/// What ended in one second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Since the start; the last may be shorter than a second.
    pub(crate) second: u64,
    pub(crate) seconds: f64,
    /// Intended before the end of the warm-up: not in the results.
    pub(crate) warmup: bool,
    pub(crate) endpoints: Vec<EndpointInterval>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<ErrorCount>,
    pub(crate) generator: Generator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<TargetUse>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EndpointInterval {
    /// Into `endpoints` of the header.
    pub(crate) endpoint: usize,
    pub(crate) ok: bool,
    pub(crate) count: u64,
    /// Bodies alone.
    pub(crate) body_bytes: u64,
    /// From intended to done.
    pub(crate) response: Sketch,
    /// From sent to done.
    pub(crate) service: Sketch,
    /// From sent to the first byte.
    pub(crate) first_byte: Sketch,
    /// How many different bodies were seen, up to 3.
    pub(crate) bodies: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<Box<StreamInterval>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) socket: Option<Box<SocketInterval>>,
}

/// What came over the WebSockets that a step opened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SocketInterval {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// From the moment that a frame carries to its arrival.
    pub(crate) lag: Sketch,
    /// From asking to go on to the first frame after that.
    pub(crate) resume: Sketch,
    /// Numbers that never came.
    pub(crate) lost: u64,
    /// Numbers that came again.
    pub(crate) doubled: u64,
    /// Numbers that came after a larger one.
    pub(crate) reordered: u64,
    /// Connections made again.
    pub(crate) reconnects: u64,
    /// Of those, how many went on with the very number that was due.
    pub(crate) resumed: u64,
    /// Connections that the target ended.
    pub(crate) closed: u64,
    /// Frames that waited for a step until newer ones took their place.
    pub(crate) forgotten: u64,
}

impl SocketInterval {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.lag.merge(&other.lag);
        self.resume.merge(&other.resume);
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.reconnects += other.reconnects;
        self.resumed += other.resumed;
        self.closed += other.closed;
        self.forgotten += other.forgotten;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StreamInterval {
    /// From sent to the first content that is not empty.
    pub(crate) first_token: Sketch,
    /// Between contents.
    pub(crate) gap: Sketch,
    /// From the first content to the last, over the tokens between.
    pub(crate) time_per_token: Sketch,
    pub(crate) chunks: u64,
    /// As the target's usage says.
    pub(crate) tokens: u64,
    pub(crate) without_usage: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ErrorCount {
    pub(crate) endpoint: usize,
    pub(crate) class: String,
    pub(crate) count: u64,
}

/// The lab itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Generator {
    /// From when a request could have gone out to when it did.
    pub(crate) dispatch_lag: Sketch,
    /// Iterations that were due in this second.
    pub(crate) offered: u64,
    /// Iterations that found the queue full and were not made.
    pub(crate) shed: u64,
    /// The most that waited for a free user.
    pub(crate) queue_max: u64,
    pub(crate) connects: u64,
    pub(crate) users: u64,
    pub(crate) cpu_seconds: f64,
    /// The most that one thread was busy, from 0 to 1.
    pub(crate) busiest_thread: f64,
    /// The most that one thread was ready and did not run, from 0 to 1.
    pub(crate) scheduler_delay: f64,
}

/// The target's process, from procfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetUse {
    /// Used in this second.
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

/// A failed answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) endpoint: usize,
    pub(crate) class: String,
    /// Since the start, in seconds.
    pub(crate) at: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    pub(crate) detail: String,
    /// Its beginning.
    pub(crate) body: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct End {
    /// Since the start.
    pub(crate) seconds: f64,
    /// The load as planned, or who ended it before.
    pub(crate) complete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acknowledged: Option<Acknowledged>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) teardown: Option<Teardown>,
}

/// What the target said of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Metrics {
    /// Since the start, in seconds.
    pub(crate) at: f64,
    /// Those that changed since they were read before.
    pub(crate) series: BTreeMap<String, f64>,
    /// Series past the bound of what is kept.
    pub(crate) not_kept: u64,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
}

/// What users did after the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Teardown {
    /// Users that had something to do.
    pub(crate) users: u64,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Steps that had nothing to take back: what they need was never saved.
    pub(crate) skipped: u64,
    /// Users whose turn did not come in time.
    pub(crate) not_done: u64,
    /// Requests that succeeded, by step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) done_by_step: BTreeMap<String, u64>,
    /// Requests by step and class of failure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failed_by_class: BTreeMap<String, u64>,
}

/// The audit of acknowledged writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Acknowledged {
    pub(crate) acknowledged: u64,
    /// Answered 2xx when it was read back.
    pub(crate) found: u64,
    /// Answered 404 or 410.
    pub(crate) lost: u64,
    /// Found, with other fields than were acknowledged.
    #[serde(default)]
    pub(crate) changed: u64,
    /// Removed, and gone.
    #[serde(default)]
    pub(crate) gone: u64,
    /// Removed, and found all the same.
    #[serde(default)]
    pub(crate) undone: u64,
    /// Answered something else, or not at all.
    pub(crate) unknown: u64,
    /// Past the bound of what is remembered, or changed by a write whose
    /// outcome is not known.
    pub(crate) not_checked: u64,
    /// The first paths that were lost, changed or not gone, and how.
    pub(crate) lost_paths: Vec<String>,
    /// Paths by status of what could not be told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unknown_by_class: BTreeMap<String, u64>,
}

/// Appends lines, each flushed, so that a kill costs at most the last.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
}

impl Writer {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)? })
    }

    pub(crate) fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes)
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// A run as it was read.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) header: Header,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) metrics: Vec<Metrics>,
    /// None when the run was killed.
    pub(crate) end: Option<End>,
    /// Whether the last line was torn.
    pub(crate) torn: bool,
}

/// # Errors
/// When it is no run file of a version that this lab knows, with the number of
/// the line that is wrong.
pub(crate) fn read(path: &Path) -> Result<Run, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let mut reader = BufReader::new(file);
    let mut header = None;
    let (mut intervals, mut samples, mut end, mut torn) = (Vec::new(), Vec::new(), None, false);
    let mut metrics = Vec::new();
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let mut limited = io::Read::take(&mut reader, LINE_BYTES_MAX as u64);
        let read = limited.read_until(b'\n', &mut bytes);
        if read.map_err(|error| format!("{shown}: {error}"))? == 0 {
            break;
        }
        match serde_json::from_slice(&bytes) {
            Ok(Line::Header(line)) if header.is_none() => header = Some(*line),
            Ok(_) if header.is_none() => return Err(format!("{shown}:{number}: no header")),
            Ok(Line::Header(_)) => return Err(format!("{shown}:{number}: a second header")),
            Ok(Line::Interval(line)) => intervals.push(*line),
            Ok(Line::Sample(line)) => samples.push(line),
            Ok(Line::Metrics(line)) => metrics.push(line),
            Ok(Line::End(line)) => end = Some(line),
            // Only a line that was being written has no end.
            Err(_) if !bytes.ends_with(b"\n") && header.is_some() => torn = true,
            Err(error) => return Err(format!("{shown}:{number}: {error}")),
        }
    }
    let header = header.ok_or_else(|| format!("{shown}: no header"))?;
    if header.schema != SCHEMA_VERSION {
        let version = header.schema;
        return Err(format!("{shown}: version {version}; this lab reads {SCHEMA_VERSION}"));
    }
    Ok(Run { header, intervals, samples, metrics, end, torn })
}
