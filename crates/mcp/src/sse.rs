//! Server-sent events as streamable HTTP uses them: the data of each event, in order, and
//! where and when to go on when the stream breaks (WHATWG HTML, "9.2.6 Interpreting an event
//! stream").

use std::time::Duration;

/// Bytes of an event's id that are kept.
const ID_BYTES_MAX: usize = 1_024;

/// Puts events together out of pieces that end anywhere.
#[derive(Debug, Default)]
pub(crate) struct EventData {
    line: Vec<u8>,
    data: String,
    has_data: bool,
    /// The last line ended with a carriage return, behind which a line feed is no
    /// second end.
    after_return: bool,
    /// The id that the event has which is being read.
    id: Option<String>,
    /// The id of the last event that was whole.
    last_id: Option<String>,
    retry: Option<Duration>,
}

/// An event is larger than is taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl EventData {
    /// The place behind the last event, if the server says where that is.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref().filter(|id| !id.is_empty())
    }

    /// How long to wait before going on, if the server says so.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// What follows comes on another stream: half an event is none.
    pub(crate) fn begin_again(&mut self) {
        let (last_id, retry) = (self.last_id.take(), self.retry);
        *self = Self { id: last_id.clone(), last_id, retry, ..Self::default() };
    }

    /// Takes a piece; the data of the events that it completes.
    pub(crate) fn push(&mut self, piece: &[u8], max: usize) -> Result<Vec<String>, TooLarge> {
        let mut events = Vec::new();
        for byte in piece {
            let skipped = self.after_return && *byte == b'\n';
            self.after_return = *byte == b'\r';
            match byte {
                b'\n' if skipped => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                byte => self.line.push(*byte),
            }
            if self.line.len() + self.data.len() > max {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            self.last_id.clone_from(&self.id);
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name == "data" {
            if self.has_data {
                self.data.push('\n');
            }
            self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
            self.has_data = true;
        }
        let value = value.strip_prefix(' ').unwrap_or(value);
        if name == "id" && value.len() <= ID_BYTES_MAX && !value.contains('\0') {
            self.id = Some(value.to_owned());
        }
        if name == "retry"
            && let Ok(millis) = value.parse()
        {
            self.retry = Some(Duration::from_millis(millis));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stream: &str, expected: &[&str]) {
        for size in [1, 2, 3, stream.len()] {
            let mut data = EventData::default();
            let mut events = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                events.extend(data.push(piece, 1_000).unwrap());
            }
            assert_eq!(events, expected, "{stream:?} in pieces of {size}");
        }
    }

    #[test]
    fn events_are_read_whatever_their_pieces() {
        check("data: a\n\n", &["a"]);
        check("event: message\ndata: {\"x\":\ndata: 1}\nid: 3\n\n", &["{\"x\":\n1}"]);
        check(": hello\r\n\r\ndata:b\r\n\r\ndata: c\r\rdata: ä\n\n", &["b", "c", "ä"]);
        check("id: 1\n\ndata\n\n", &[""]);
        check("data: never ended\n", &[]);
    }

    #[test]
    fn where_to_go_on_is_behind_the_last_whole_event() {
        let mut data = EventData::default();
        assert_eq!(data.last_id(), None);
        data.push(b"id: a\ndata: 1\n\nretry: 250\nid: b\nda", 99).unwrap();
        assert_eq!((data.last_id(), data.retry()), (Some("a"), Some(Duration::from_millis(250))));
        data.begin_again();
        assert_eq!(data.last_id(), Some("a"));
        assert_eq!(data.push(b"data: 2\n\n", 99).unwrap(), ["2"]);
        assert_eq!(data.last_id(), Some("a"), "an event without an id does not move it");
        // An event that only says where one is.
        assert_eq!(data.push(b"id: c\n\n", 99).unwrap(), Vec::<String>::new());
        assert_eq!(data.last_id(), Some("c"));
        data.push(b"id:\n\n", 99).unwrap();
        assert_eq!(data.last_id(), None, "the server forgot the place");
    }

    #[test]
    fn an_event_without_an_end_is_too_large() {
        let mut data = EventData::default();
        assert_eq!(data.push(&[b'x'; 100], 99), Err(TooLarge));
        let mut data = EventData::default();
        for _ in 0..9 {
            data.push(b"data: 123456789\n", 99).unwrap();
        }
        assert_eq!(data.push(b"data: 123456789\ndata: 1\n", 99), Err(TooLarge));
    }
}
