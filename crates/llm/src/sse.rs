//! Server-sent events as the HTML standard defines them, reduced to their data.
//!
//! Our own, because the crate for it panics on a stream that begins with a byte
//! order mark, waits for ever on bytes that are not UTF-8, and bounds no line;
//! what a provider sends must not be able to do any of these to us.

/// The largest event that is read. A whole reply in one event fits.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadStream {
    #[error("an event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Takes the bytes of a stream, split anywhere, and gives the events' data.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    data: Vec<u8>,
    first_line_read: bool,
    // A line may end in CR LF, and the LF may come with the next bytes.
    after_cr: bool,
}

impl Decoder {
    /// Takes bytes off the front of `bytes` up to the end of the next event
    /// and gives its data; `None` when more bytes are needed.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<String>, BadStream> {
        loop {
            if self.after_cr && !bytes.is_empty() {
                self.after_cr = false;
                *bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + self.data.len() + part.len() > EVENT_BYTES_MAX {
                return Err(BadStream::TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else {
                *bytes = &[];
                return Ok(None);
            };
            self.after_cr = bytes[end] == b'\r';
            *bytes = &bytes[end + 1..];
            if let Some(data) = self.end_line()? {
                return Ok(Some(data));
            }
        }
    }

    /// The data of an event that the stream ended within. The standard drops
    /// it; here it may be the `[DONE]` of a server that ends without an empty
    /// line, and half a JSON document is told from a whole one by its reader.
    pub(crate) fn finish(&mut self) -> Option<String> {
        match self.end_line().ok()? {
            Some(data) => Some(data),
            // That ended a line; this ends the event.
            None => self.end_line().ok()?,
        }
    }

    fn end_line(&mut self) -> Result<Option<String>, BadStream> {
        let line = std::mem::take(&mut self.line);
        let mut text: &[u8] = &line;
        if !self.first_line_read {
            self.first_line_read = true;
            text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        }
        if text.is_empty() {
            return self.end_event();
        }
        let (field, value) = match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, &text[text.len()..]),
        };
        if field == b"data" {
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.data.push(b'\n');
        }
        Ok(None)
    }

    fn end_event(&mut self) -> Result<Option<String>, BadStream> {
        let mut data = std::mem::take(&mut self.data);
        // The LF behind the last data line; without one there was no data.
        if data.pop().is_none() {
            return Ok(None);
        }
        String::from_utf8(data).map(Some).map_err(|_| BadStream::NotUtf8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<String>, Option<String>), BadStream> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while let Some(data) = decoder.next(&mut rest)? {
                events.push(data);
            }
            assert!(rest.is_empty());
        }
        Ok((events, decoder.finish()))
    }

    #[track_caller]
    fn check(stream: &str, expected: &[&str], unfinished: Option<&str>) {
        let (events, rest) = decode(&[stream.as_bytes()]).unwrap();
        assert_eq!(events, expected);
        assert_eq!(rest.as_deref(), unfinished);
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        check("data: a\n\ndata: b\n\n", &["a", "b"], None);
        check("data: a\r\n\r\ndata: b\r\rdata: c\n\n", &["a", "b", "c"], None);
        check("data: a\ndata: b\n\n", &["a\nb"], None);
        check(": a comment\n\nevent: x\nid: 1\ndata:no space\nretry: 5\n\n", &["no space"], None);
        check("data:  two spaces\n\n", &[" two spaces"], None);
        check("event: without data\n\n\n\n", &[], None);
        check("data\n\n", &[""], None);
        check("\u{feff}data: behind a mark\n\n", &["behind a mark"], None);
        check("data: a\n\ndata: b", &["a"], Some("b"));
        check("data: a\n", &[], Some("a"));
    }

    #[test]
    fn what_is_not_utf8_or_too_large_ends_the_stream() {
        assert_eq!(decode(&[b"data: \xFF\n\n"]), Err(BadStream::NotUtf8));
        let line = vec![b'x'; EVENT_BYTES_MAX];
        assert_eq!(decode(&[b"data: ", &line]), Err(BadStream::TooLarge));
        let lines = [b"data: ".as_slice(), &line[..EVENT_BYTES_MAX / 2], b"\n"].concat();
        assert_eq!(decode(&[&lines, &lines, &lines]), Err(BadStream::TooLarge));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_split_makes_no_difference(
            lines in prop::collection::vec(("(data: |data:|: |event: |)", "[ -~äß☃🦀]{0,12}", "(\n|\r\n|\r)"), 0..24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        ) {
            let stream: String =
                lines.iter().flat_map(|(field, text, end)| [field, text, end]).map(String::as_str).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &stream.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces), decode(&[stream.as_bytes()]));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}
