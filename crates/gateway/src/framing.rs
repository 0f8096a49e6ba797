//! Where requests begin and end on a connection of HTTP/1.1, more strictly than
//! the parser behind it. A proxy in front may see an end elsewhere than we do
//! wherever the rules leave room, and what one takes for a body is a request to
//! the other. So there is no room here: a line ends with CRLF (RFC 9112, section
//! 2.2 lets it be LF), a header is not folded, and a body has one length, said
//! once (section 6.3 lets `Transfer-Encoding` override `Content-Length`).
//!
//! It looks at what was read before the parser does, and keeps nothing but the
//! beginning of a line that has not ended.

/// Bytes of a line at most; the parser behind refuses longer heads as a whole.
const LINE_BYTES_MAX: usize = 64 * 1_024;
/// Digits of a length at most.
const LENGTH_DIGITS_MAX: usize = 16;
/// The first line of HTTP/2, which has frames and no lines.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What a connection must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A line ends without CR.
    BareLf,
    /// A header goes on in the next line.
    Folded,
    /// The length of a body is said twice, or in two ways.
    TwoLengths,
    /// The length of a body, or of a chunk, is none.
    Length,
    /// A transfer coding other than `chunked`.
    Coding,
    /// A chunk does not end where it says.
    Chunk,
    /// A line without an end.
    Long,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first line of the connection.
    First,
    /// The first line of a request, or empty ones before it.
    Request,
    /// Headers.
    Head,
    /// A body, with so many bytes to come.
    Body(u64),
    /// The length of a chunk.
    ChunkLength,
    /// A chunk, with so many bytes to come.
    Chunk(u64),
    /// The end of a chunk's line.
    ChunkEnd,
    /// What follows the last chunk.
    Trailers,
    /// Something else than HTTP/1.1.
    Other,
    /// Broken for good.
    Broken(Fault),
}

/// The lengths that a head says.
#[derive(Clone, Copy, Debug, Default)]
struct Lengths {
    content_length: Option<u64>,
    chunked: bool,
    becomes_websocket: bool,
}

/// Follows what one connection sends.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    lengths: Lengths,
    /// The beginning of the line that has not ended.
    line: Vec<u8>,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self { state: State::First, lengths: Lengths::default(), line: Vec::new() }
    }

    /// Looks at what was read next. After an error everything is one.
    pub(crate) fn check(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match self.state {
                State::Other => return Ok(()),
                State::Broken(fault) => return Err(fault),
                State::Body(left) => {
                    let (rest, left) = skip(bytes, left);
                    bytes = rest;
                    self.state = if left == 0 { State::Request } else { State::Body(left) };
                }
                State::Chunk(left) => {
                    let (rest, left) = skip(bytes, left);
                    bytes = rest;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                }
                State::First
                | State::Request
                | State::Head
                | State::ChunkLength
                | State::ChunkEnd
                | State::Trailers => match self.take_line(bytes) {
                    Ok(Some(rest)) => bytes = rest,
                    Ok(None) => return Ok(()),
                    Err(fault) => {
                        self.state = State::Broken(fault);
                        return Err(fault);
                    }
                },
            }
        }
        Ok(())
    }

    /// Takes a line off; none when it does not end here.
    fn take_line<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<&'b [u8]>, Fault> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            if self.line.len() + bytes.len() > LINE_BYTES_MAX {
                return Err(Fault::Long);
            }
            self.line.extend_from_slice(bytes);
            return Ok(None);
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if self.line.is_empty() {
            let line = line.strip_suffix(b"\r").ok_or(Fault::BareLf)?;
            self.end_line(line)?;
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            let line = whole.strip_suffix(b"\r").ok_or(Fault::BareLf)?;
            self.end_line(line)?;
        }
        Ok(Some(rest))
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.state = match self.state {
            State::First if line == HTTP2_PREFACE => State::Other,
            // Empty lines before a request are passed over (RFC 9112, section 2.2).
            state @ (State::First | State::Request) if line.is_empty() => state,
            State::First | State::Request => {
                self.lengths = Lengths::default();
                State::Head
            }
            State::Head if line.is_empty() => self.lengths.begin()?,
            State::Head => {
                self.lengths.header(line)?;
                State::Head
            }
            State::ChunkLength => match chunk_length(line)? {
                0 => State::Trailers,
                length => State::Chunk(length),
            },
            State::ChunkEnd if line.is_empty() => State::ChunkLength,
            State::ChunkEnd => return Err(Fault::Chunk),
            State::Trailers if line.is_empty() => State::Request,
            State::Trailers if line.first().is_some_and(|first| is_blank(*first)) => {
                return Err(Fault::Folded);
            }
            state => state,
        };
        Ok(())
    }
}

impl Lengths {
    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.first().is_some_and(|first| is_blank(*first)) {
            return Err(Fault::Folded);
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Ok(()) };
        let name = line[..colon].trim_ascii_end();
        let value = || line[colon + 1..].trim_ascii();
        // Few headers have a name of these lengths, so that most are passed over
        // without a comparison.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.becomes_websocket |= value().eq_ignore_ascii_case(b"websocket");
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = decimal(value()).ok_or(Fault::Length)?;
                if self.chunked || self.content_length.replace(length).is_some() {
                    return Err(Fault::TwoLengths);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || self.content_length.is_some() {
                    return Err(Fault::TwoLengths);
                }
                if !value().eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Coding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// What follows the head.
    fn begin(self) -> Result<State, Fault> {
        if self.becomes_websocket {
            // When it does not become one the connection is closed.
            return Ok(State::Other);
        }
        Ok(match self.content_length {
            _ if self.chunked => State::ChunkLength,
            None | Some(0) => State::Request,
            Some(length) => State::Body(length),
        })
    }
}

/// Passes over as much of a body as there is: the rest, and what is to come.
fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (&bytes[here..], left - here as u64)
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn decimal(text: &[u8]) -> Option<u64> {
    let fits = (1..=LENGTH_DIGITS_MAX).contains(&text.len());
    let digits = fits && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

/// Reads the length of a chunk, without its extensions.
fn chunk_length(line: &[u8]) -> Result<u64, Fault> {
    let text = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let text = text.trim_ascii_end();
    if !(1..LENGTH_DIGITS_MAX).contains(&text.len()) {
        return Err(Fault::Length);
    }
    text.iter().try_fold(0, |n, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(Fault::Length)?;
        Ok(n * 16 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, byte by byte, and in pieces of three: where a read ends is chance.
    fn check(sent: &str) -> Result<(), Fault> {
        let mut verdicts = Vec::new();
        for size in [usize::MAX, 1, 3] {
            let mut framing = Framing::new();
            let mut pieces = sent.as_bytes().chunks(size.min(sent.len().max(1)));
            verdicts.push(pieces.try_for_each(|piece| framing.check(piece)));
        }
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{sent:?}: {verdicts:?}");
        verdicts[0]
    }

    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\n";

    #[test]
    fn what_two_could_understand_differently_is_refused() {
        for (rest, fault) in [
            (
                "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
                Fault::TwoLengths,
            ),
            ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", Fault::TwoLengths),
            ("Content-Length: 4\r\nContent-Length: 5\r\n\r\n", Fault::TwoLengths),
            ("Content-Length: 4\r\ncontent-length: 4\r\n\r\n", Fault::TwoLengths),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TwoLengths),
            ("Transfer-Encoding: identity\r\n\r\n", Fault::Coding),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n", Fault::Coding),
            ("Transfer-Encoding: xchunked\r\n\r\n", Fault::Coding),
            ("Content-Length : 4\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TwoLengths),
            ("Content-Length: 4, 4\r\n\r\n", Fault::Length),
            ("Content-Length: +4\r\n\r\n", Fault::Length),
            ("Content-Length: 0x4\r\n\r\n", Fault::Length),
            ("Content-Length: \r\n\r\n", Fault::Length),
            ("X: a\r\n b\r\n\r\n", Fault::Folded),
            ("X: a\r\n\tContent-Length: 3\r\n\r\n", Fault::Folded),
            ("X: a\nY: b\r\n\r\n", Fault::BareLf),
            ("X: a\r\n\n", Fault::BareLf),
            ("Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", Fault::BareLf),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", Fault::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n-1\r\n", Fault::Length),
            ("Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", Fault::Length),
            ("Transfer-Encoding: chunked\r\n\r\n\r\n", Fault::Length),
            ("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Fault::Length),
            ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n b\r\n\r\n", Fault::Folded),
            // Behind a whole request.
            ("Content-Length: 2\r\n\r\nok\r\nGET / HTTP/1.1\nHost: a\r\n\r\n", Fault::BareLf),
            (
                "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
                Fault::Folded,
            ),
        ] {
            assert_eq!(check(&format!("{POST}{rest}")), Err(fault), "{rest:?}");
        }
        assert_eq!(check("GET / HTTP/1.1\nHost: a\n\n"), Err(Fault::BareLf));
    }

    #[test]
    fn what_is_clear_passes() {
        for sent in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\na\nb\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n\n\n\n\r\nA\r\n0123456789\r\n\
             0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET /ws HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\n\u{1}\n\n frames",
            "GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\n\n",
        ] {
            assert_eq!(check(sent), Ok(()), "{sent:?}");
        }
        let second = "GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\n";
        assert_eq!(check(second), Err(Fault::BareLf), "HTTP/2 begins a connection or is none");
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(check(&endless), Err(Fault::Long));
    }
}
