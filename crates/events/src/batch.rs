//! Entries of the log in the form in which clients get them, written once for
//! all of them. A server's WebSocket frames are not masked (RFC 6455, section
//! 5.1), so a frame is the same bytes for every client, and consecutive frames
//! can be sent as they lie here with one call.

use std::fmt::Write as _;
use std::ops::Range;

use agentry_domain::log::{EntityKind, LoggedEntry};
use bytes::Bytes;

/// A text frame that is a whole message (RFC 6455, section 5.2).
const TEXT_FRAME: u8 = 0x81;
/// Bytes of an event in most cases.
const EVENT_BYTES_USUAL: usize = 320;
const ID_HEX_BYTES: usize = 36;

/// A run of entries of one organisation, in order.
#[derive(Debug)]
pub struct Batch {
    entries: Box<[Entry]>,
    frames: Bytes,
}

/// Where an entry lies in its batch, and what filters look at.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its place in the log.
    pub seq: i64,
    /// What it is about; none for a kind that only a newer version knows.
    pub entity: Option<EntityKind>,
    /// The entity's id.
    pub id: [u8; 16],
    frame: u32,
    text: u32,
    end: u32,
    kind: u32,
    kind_bytes: u8,
}

impl Batch {
    /// Writes entries down.
    pub(crate) fn encode(entries: &[LoggedEntry]) -> Self {
        let mut frames = Vec::with_capacity(entries.len() * EVENT_BYTES_USUAL);
        let mut text = String::with_capacity(EVENT_BYTES_USUAL);
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            text.clear();
            let kind = write_event(&mut text, entry);
            let frame = offset(frames.len());
            frame_header(&mut frames, text.len());
            let begin = offset(frames.len());
            frames.extend_from_slice(text.as_bytes());
            found.push(Entry {
                seq: entry.seq,
                entity: EntityKind::parse(&entry.entity),
                id: entry.id,
                frame,
                text: begin,
                end: offset(frames.len()),
                kind: begin + offset(kind.start),
                kind_bytes: u8::try_from(kind.len()).unwrap_or(u8::MAX),
            });
        }
        // What is kept should take what it is counted as.
        frames.shrink_to_fit();
        Self { entries: found.into(), frames: frames.into() }
    }

    /// Its entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The WebSocket frames of some of its entries, as one piece.
    pub fn frames(&self, entries: Range<usize>) -> &[u8] {
        match (self.entries.get(entries.start), self.entries[entries].last()) {
            (Some(first), Some(last)) => &self.frames[first.frame as usize..last.end as usize],
            _ => &[],
        }
    }

    /// The JSON of an entry.
    pub fn json(&self, entry: &Entry) -> &[u8] {
        &self.frames[entry.text as usize..entry.end as usize]
    }

    /// What happened, such as `agent.created`.
    pub fn kind(&self, entry: &Entry) -> &[u8] {
        let start = entry.kind as usize;
        &self.frames[start..start + usize::from(entry.kind_bytes)]
    }

    /// Where in [`Batch::frames`] of a range an entry's frame ends.
    pub fn frame_end(&self, from: usize, entry: usize) -> usize {
        (self.entries[entry].end - self.entries[from].frame) as usize
    }

    pub(crate) fn bytes(&self) -> usize {
        self.frames.len() + std::mem::size_of_val(&*self.entries)
    }

    pub(crate) fn last_seq(&self) -> i64 {
        self.entries.last().map_or(0, |entry| entry.seq)
    }

    /// The first entry after a cursor; the number of entries when there is none.
    pub(crate) fn after(&self, cursor: i64) -> usize {
        self.entries.partition_point(|entry| entry.seq <= cursor)
    }
}

/// The JSON of one entry, as every client gets it.
pub fn event_json(entry: &LoggedEntry) -> String {
    let mut text = String::with_capacity(EVENT_BYTES_USUAL);
    write_event(&mut text, entry);
    text
}

/// A batch is bounded far below 4 GiB by the page that it was made of.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Writes the event as JSON and says where its type stands. Nothing needs to be
/// escaped: types and entities are words of our own, ids and times are formatted
/// here, and `data` is JSON already.
fn write_event(text: &mut String, entry: &LoggedEntry) -> Range<usize> {
    let _ = write!(text, "{{\"type\":\"event\",\"seq\":{},\"event_type\":\"", entry.seq);
    let start = text.len();
    text.push_str(&entry.kind);
    let kind = start..text.len();
    text.push_str("\",\"entity_type\":\"");
    text.push_str(&entry.entity);
    text.push_str("\",\"entity_id\":\"");
    push_id(text, entry.id);
    let _ = write!(text, "\",\"timestamp\":\"{}\",\"data\":", entry.at);
    text.push_str(&entry.data);
    text.push('}');
    kind
}

/// An id as UUIDs are written (RFC 9562, section 4).
fn push_id(text: &mut String, id: [u8; 16]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    text.reserve(ID_HEX_BYTES);
    for (nth, byte) in id.into_iter().enumerate() {
        if matches!(nth, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// The header of an unmasked text frame (RFC 6455, section 5.2): lengths take
/// the shortest of the three forms.
fn frame_header(frames: &mut Vec<u8>, bytes: usize) {
    frames.push(TEXT_FRAME);
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(short), _) if short < 126 => frames.push(short),
        (_, Ok(medium)) => {
            frames.push(126);
            frames.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frames.push(127);
            frames.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use agentry_domain::{OrgId, Timestamp};

    use super::*;

    pub(crate) fn entry(seq: i64, kind: &str, entity: &str, data: &str) -> LoggedEntry {
        LoggedEntry {
            seq,
            org: OrgId::from_bytes([1; 16]),
            at: Timestamp::from_micros(0),
            kind: kind.to_owned(),
            entity: entity.to_owned(),
            id: [0xab; 16],
            actor: None,
            address: None,
            data: data.to_owned(),
        }
    }

    #[test]
    fn an_event_is_json_in_one_frame() {
        let long = format!("{{\"x\":\"{}\"}}", "y".repeat(70_000));
        let batch = Batch::encode(&[
            entry(7, "agent.created", "agent", "{}"),
            entry(9, "run.finished", "run", &long),
        ]);
        let [first, second] = batch.entries() else { panic!("two entries") };
        let json: serde_json::Value = serde_json::from_slice(batch.json(first)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "event", "seq": 7, "event_type": "agent.created", "entity_type": "agent",
                "entity_id": "abababab-abab-abab-abab-abababababab",
                "timestamp": "1970-01-01T00:00:00.000000Z", "data": {},
            })
        );
        assert_eq!(batch.kind(second), b"run.finished");
        let frame = batch.frames(0..1);
        let bytes = batch.json(first).len();
        assert_eq!(&frame[..2], [0x81, 126]);
        assert_eq!(usize::from(u16::from_be_bytes([frame[2], frame[3]])), bytes);
        assert_eq!(batch.frame_end(0, 0), frame.len());
        let frame = batch.frames(1..2);
        assert_eq!(frame[..2], [0x81, 127]);
        assert_eq!(frame.len(), 10 + batch.json(second).len());
        assert_eq!(batch.frames(0..2).len(), batch.frame_end(0, 1));
        assert_eq!((batch.after(0), batch.after(7), batch.after(8), batch.after(9)), (0, 1, 1, 2));
    }
}
