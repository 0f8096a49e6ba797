//! JSON documents one to a line, as they come over a socket: split anywhere, and
//! each bounded.

use crate::sse::BadStream;

/// The largest line that is read. A whole reply in one line fits.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Takes the bytes of a stream, split anywhere, and gives its lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// Takes bytes off the front of `bytes` up to the end of the next line that is
    /// not empty; `None` when more bytes are needed.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<String>, BadStream> {
        loop {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > LINE_BYTES_MAX {
                return Err(BadStream::TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else {
                *bytes = &[];
                return Ok(None);
            };
            *bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8(line).map_err(|_| BadStream::NotUtf8)?;
            if !line.trim().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// The line that the stream ended within, if there is one.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).ok()?;
        (!line.trim().is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_however_they_are_split() {
        let stream = "{\"a\":\"ä\"}\r\n\n{\"b\":1}\n{\"c\"".as_bytes();
        for size in 1..stream.len() {
            let mut lines = Lines::default();
            let mut read = Vec::new();
            for piece in stream.chunks(size) {
                let mut rest = piece;
                while let Some(line) = lines.next(&mut rest).unwrap() {
                    read.push(line.trim().to_owned());
                }
            }
            assert_eq!(read, ["{\"a\":\"ä\"}", "{\"b\":1}"], "{size}");
            assert_eq!(lines.finish().as_deref(), Some("{\"c\""));
        }
    }

    #[test]
    fn what_is_not_utf8_or_too_large_ends_the_stream() {
        assert_eq!(Lines::default().next(&mut &b"\xFF\n"[..]), Err(BadStream::NotUtf8));
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(Lines::default().next(&mut long.as_slice()), Err(BadStream::TooLarge));
    }
}
