//! The steps that speak WebSocket: `connect`, `send`, `receive`, `reconnect`.

use std::sync::Arc;
use std::time::Duration;

use serde_json_path::JsonPath;

use super::Expected;
use super::pieces::{Fields, Reader};
use super::request::{Piece, Pieces, Request};
use super::steps::{self, Common};
use crate::expression::{Escape, Template};
use crate::socket::Track;
use crate::units;
use crate::yaml::{Node, Tree};

/// The keys that say what a step does with the user's socket.
pub(super) const ACTS: &[&str] = &["connect", "send", "receive", "reconnect"];
/// Frames that one step may wait for.
const RECEIVED_MAX: u64 = 1_000_000;

/// What a step does with the user's socket.
#[derive(Debug)]
pub(crate) enum Act {
    /// Opens it; one that is open is closed before.
    Connect(Connect),
    /// Sends a frame, and waits for one that answers it.
    Send { frame: Vec<Piece>, answer: Option<Wanted> },
    /// Waits for so many frames since the last that a step took.
    Receive { count: u64, wanted: Wanted },
    /// Breaks it off, stays away, opens it again and asks to go on.
    Reconnect { away: Duration },
}

/// See [`Act::Connect`].
#[derive(Debug, Default)]
pub(crate) struct Connect {
    pub(crate) track: Arc<Track>,
    /// What is asked for instead when connecting again.
    pub(crate) again: Option<Request>,
    /// What is sent after connecting again.
    pub(crate) resume: Option<Vec<Piece>>,
}

impl Connect {
    pub(super) fn tracking(&self) -> Tracking {
        Tracking {
            seq: self.track.seq.is_some(),
            time: self.track.time.is_some(),
            goes_on: self.again.is_some() || self.resume.is_some(),
        }
    }
}

/// What can be told of the frames of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tracking {
    /// Whether they carry a number.
    pub(super) seq: bool,
    /// Whether they carry a moment.
    pub(super) time: bool,
    /// Whether it asks to go on when it is opened again.
    pub(super) goes_on: bool,
}

/// A frame that a step waits for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) json: Vec<(JsonPath, Option<Expected>)>,
    /// A part of its text.
    pub(crate) text: Option<Template>,
}

/// What the step does, when it is one of these.
pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>, common: &Common<'_>) -> Option<Act> {
    if fields.get("connect").is_some() {
        return Some(Act::Connect(read_connect(reader, fields, common)));
    }
    for key in ["track", "again", "resume"] {
        if let Some(node) = fields.get(key) {
            reader.fault(node, format!("`{key}` goes with `connect`"));
        }
    }
    if let Some(node) = fields.get("send") {
        let frame = read_frame(reader, node, common);
        let answer = fields.get("expect").map(|node| read_wanted(reader, node, common));
        return Some(Act::Send { frame, answer });
    }
    if let Some(node) = fields.get("receive") {
        let count = reader.whole(node).unwrap_or(1);
        if !(1..=RECEIVED_MAX).contains(&count) {
            reader.fault(node, format!("`receive` is from 1 to {RECEIVED_MAX}"));
        }
        let wanted = fields.get("expect").map(|node| read_wanted(reader, node, common));
        return Some(Act::Receive { count, wanted: wanted.unwrap_or_default() });
    }
    let node = fields.get("reconnect")?;
    let away = reader.parsed(node, units::duration).unwrap_or_default();
    Some(Act::Reconnect { away })
}

fn read_connect(reader: &mut Reader, fields: &Fields<'_>, common: &Common<'_>) -> Connect {
    if let Some(node) = fields.get("expect") {
        reader.fault(node, "a `connect` expects to be connected");
    }
    let again = fields
        .get("again")
        .and_then(|node| steps::read_request(reader, "GET", node, None, fields, common));
    let resume = fields.get("resume").map(|node| read_frame(reader, node, common));
    let mut track = Track { save: steps::read_save(reader, fields, common), ..Track::default() };
    if let Some(node) = fields.get("track") {
        read_track(reader, node, &mut track);
    }
    Connect { track: Arc::new(track), again, resume }
}

fn read_track(reader: &mut Reader, node: &Node, track: &mut Track) {
    let Some(fields) = reader.fields(node, &["seq", "source", "time", "where"]) else { return };
    let mut path =
        |key: &str| fields.get(key).and_then(|node| reader.parsed(node, steps::json_path));
    (track.seq, track.source, track.time) = (path("seq"), path("source"), path("time"));
    if let Some(node) = fields.get("where") {
        for (key, node) in reader.entries(node, "`where`") {
            match steps::json_path(&key.name) {
                Ok(path) => track.matching.push((path, Some(node.to_json()))),
                Err(message) => reader.fault_at(key.at, message),
            }
        }
    }
    if fields.get("seq").is_none() && fields.get("time").is_none() {
        reader.fault(node, "`track` needs `seq` or `time`");
    }
    if let (Some(node), None) = (fields.get("source"), fields.get("seq")) {
        reader.fault(node, "`source` says whose `seq` it is, and there is none");
    }
}

/// Text as it stands; anything else as JSON.
fn read_frame(reader: &mut Reader, node: &Node, common: &Common<'_>) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    if let Tree::Text(_) = node.tree {
        if let Some(template) = steps::read_template(reader, node, common.names) {
            pieces.template(&template, Escape::None);
        }
    } else {
        steps::json_body(reader, node, common.names, &mut pieces);
    }
    pieces.finish()
}

fn read_wanted(reader: &mut Reader, node: &Node, common: &Common<'_>) -> Wanted {
    let Some(fields) = reader.fields(node, &["json", "has", "text"]) else {
        return Wanted::default();
    };
    let json = steps::read_expected_json(reader, &fields, common);
    let text = fields.get("text").and_then(|node| steps::read_template(reader, node, common.names));
    Wanted { json, text }
}
