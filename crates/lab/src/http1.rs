//! The answer to one HTTP/1.1 request, read as its bytes arrive (RFC 9112). It
//! does no I/O and keeps no more of a body than it is told to, so that an
//! endless answer costs no memory.

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most header fields of an answer.
const HEADERS_MAX: usize = 100;
/// The longest line of chunk framing, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 4 << 10;

/// What of the answer is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// Header fields.
    pub(crate) headers: bool,
    /// Bytes of the body at most.
    pub(crate) body_bytes: usize,
}

/// Why these bytes are no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Garbage {
    #[error("not HTTP: {0}")]
    Head(String),
    #[error("the head is longer than 64 KiB or has more than 100 fields")]
    HeadTooLarge,
    #[error("the framing of the body is broken")]
    Framing,
}

/// An answer, as far as it has been read.
#[derive(Debug)]
pub(crate) struct Answer {
    keep: Keep,
    no_body: bool,
    head: Vec<u8>,
    state: State,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) body_bytes: u64,
    keep_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    Chunk(Chunk),
    UntilClose,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The size so far, digits read, bytes of the line read, whether the
    /// digits have ended.
    Size {
        size: u64,
        digits: u8,
        line: usize,
        ended: bool,
    },
    Data(u64),
    /// CR and LF after the data.
    DataEnd,
    /// Bytes of the current line of the trailer, and of all of it.
    Trailer {
        line: usize,
        all: usize,
    },
}

impl Chunk {
    const START: Self = Self::Size { size: 0, digits: 0, line: 0, ended: false };
}

impl Answer {
    /// `head_request`: the answer to HEAD has no body whatever it says.
    pub(crate) fn new(keep: Keep, head_request: bool) -> Self {
        Self {
            keep,
            no_body: head_request,
            head: Vec::new(),
            state: State::Head,
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
            body_bytes: 0,
            keep_alive: false,
        }
    }

    /// Takes the next bytes; pieces of the body go to `body` as well. True
    /// when the answer is complete.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut body: impl FnMut(u16, &[u8]),
    ) -> Result<bool, Garbage> {
        while self.state != State::Done && !bytes.is_empty() {
            match self.state {
                State::Head => {
                    let Some(used) = self.read_head(bytes)? else { return Ok(false) };
                    bytes = &bytes[used..];
                }
                State::Length(left) => {
                    let taken = take(bytes, left);
                    self.keep_body(&bytes[..taken], &mut body);
                    bytes = &bytes[taken..];
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                }
                State::Chunk(Chunk::Data(left)) => {
                    let taken = take(bytes, left);
                    self.keep_body(&bytes[..taken], &mut body);
                    bytes = &bytes[taken..];
                    let left = left - taken as u64;
                    let next = if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) };
                    self.state = State::Chunk(next);
                }
                State::Chunk(chunk) => {
                    self.state = framing(chunk, bytes[0])?;
                    bytes = &bytes[1..];
                }
                State::UntilClose => {
                    self.keep_body(bytes, &mut body);
                    bytes = &[];
                }
                State::Done => {}
            }
        }
        if !bytes.is_empty() {
            // More than was asked for: nothing that follows could be trusted.
            self.keep_alive = false;
        }
        Ok(self.state == State::Done)
    }

    /// The connection was closed. True when that is how the answer ends.
    pub(crate) fn closed(&mut self) -> bool {
        let ends = self.state == State::UntilClose;
        if ends {
            self.state = State::Done;
        }
        ends
    }

    /// Whether the next request may use the same connection.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.keep_alive && self.state == State::Done
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn keep_body(&mut self, bytes: &[u8], body: &mut impl FnMut(u16, &[u8])) {
        self.body_bytes += bytes.len() as u64;
        let room = self.keep.body_bytes.saturating_sub(self.body.len()).min(bytes.len());
        self.body.extend_from_slice(&bytes[..room]);
        body(self.status, bytes);
    }

    /// The head of an answer that came by other means than bytes of HTTP/1.1.
    pub(crate) fn head_read(&mut self, status: u16, headers: &http::HeaderMap) {
        self.status = status;
        if self.keep.headers {
            let text =
                |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let fields = headers.iter().map(|(name, value)| (name.to_string(), text(value)));
            self.headers.extend(fields);
        }
    }

    /// A piece of the body of such an answer.
    pub(crate) fn piece_read(&mut self, bytes: &[u8], mut body: impl FnMut(u16, &[u8])) {
        self.keep_body(bytes, &mut body);
    }

    /// The end of such an answer.
    pub(crate) fn finish(&mut self) {
        self.state = State::Done;
        self.keep_alive = true;
    }

    /// How many of these bytes belong to the head, once it is whole.
    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Garbage> {
        if self.head.is_empty() {
            let used = self.parse_head(bytes)?;
            if used.is_none() {
                self.head.extend_from_slice(bytes);
            }
            return Ok(used);
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let head = std::mem::take(&mut self.head);
        let used = self.parse_head(&head)?;
        if used.is_none() {
            self.head = head;
        }
        Ok(used.map(|used| used - before))
    }

    fn parse_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Garbage> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let used = match response.parse(bytes) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Garbage::HeadTooLarge);
            }
            Err(error) => return Err(Garbage::Head(error.to_string())),
        };
        let status = response.code.unwrap_or_default();
        if status == 101 || status < 100 {
            return Err(Garbage::Head(format!("status {status} was not asked for")));
        }
        if status < 200 {
            // An interim answer; the real one follows.
            return Ok(Some(used));
        }
        self.status = status;
        self.keep_alive = response.version == Some(1);
        let (mut length, mut chunked) = (None, false);
        for field in response.headers.iter() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let has = |token: &str| {
                let value = std::str::from_utf8(field.value).unwrap_or_default();
                value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
            };
            if is("content-length") {
                let text = std::str::from_utf8(field.value).ok();
                let value = text.and_then(|text| text.trim().parse::<u64>().ok());
                let value = value.ok_or(Garbage::Framing)?;
                if length.is_some_and(|before| before != value) {
                    return Err(Garbage::Framing);
                }
                length = Some(value);
            } else if is("transfer-encoding") {
                chunked |= has("chunked");
            } else if is("connection") {
                self.keep_alive = (self.keep_alive || has("keep-alive")) && !has("close");
            }
            if self.keep.headers {
                let value = String::from_utf8_lossy(field.value).into_owned();
                self.headers.push((field.name.to_owned(), value));
            }
        }
        self.state = match (chunked, length) {
            _ if self.no_body || status == 204 || status == 304 => State::Done,
            (true, _) => State::Chunk(Chunk::START),
            (false, Some(0)) => State::Done,
            (false, Some(length)) => State::Length(length),
            (false, None) => {
                self.keep_alive = false;
                State::UntilClose
            }
        };
        Ok(Some(used))
    }
}

fn take(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

/// What follows after one byte of chunk framing.
fn framing(chunk: Chunk, byte: u8) -> Result<State, Garbage> {
    let next = match chunk {
        Chunk::Size { line, .. } if line == CHUNK_LINE_BYTES_MAX => return Err(Garbage::Framing),
        Chunk::Size { digits: 0, .. } if byte == b'\n' => return Err(Garbage::Framing),
        Chunk::Size { size: 0, .. } if byte == b'\n' => Chunk::Trailer { line: 0, all: 0 },
        Chunk::Size { size, .. } if byte == b'\n' => Chunk::Data(size),
        Chunk::Size { size, digits, line, ended } => match (byte as char).to_digit(16) {
            Some(digit) if !ended => {
                if digits == 15 {
                    return Err(Garbage::Framing);
                }
                let size = size << 4 | u64::from(digit);
                Chunk::Size { size, digits: digits + 1, line: line + 1, ended }
            }
            // An extension, or the CR.
            _ if digits == 0 => return Err(Garbage::Framing),
            _ => Chunk::Size { size, digits, line: line + 1, ended: true },
        },
        Chunk::DataEnd => match byte {
            b'\r' => Chunk::DataEnd,
            b'\n' => Chunk::START,
            _ => return Err(Garbage::Framing),
        },
        Chunk::Trailer { line: 0, .. } if byte == b'\n' => return Ok(State::Done),
        Chunk::Trailer { all, .. } if all == HEAD_BYTES_MAX => return Err(Garbage::Framing),
        Chunk::Trailer { all, .. } if byte == b'\n' => Chunk::Trailer { line: 0, all: all + 1 },
        Chunk::Trailer { line, all } if byte == b'\r' => Chunk::Trailer { line, all: all + 1 },
        Chunk::Trailer { line, all } => Chunk::Trailer { line: line + 1, all: all + 1 },
        Chunk::Data(left) => Chunk::Data(left),
    };
    Ok(State::Chunk(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Keep = Keep { headers: true, body_bytes: usize::MAX };

    /// Reads it in pieces of every size and expects the same each time.
    fn read(bytes: &[u8]) -> (Result<bool, Garbage>, Answer) {
        let mut results = Vec::new();
        for size in [1, 2, 3, 7, bytes.len()] {
            let mut answer = Answer::new(ALL, false);
            let mut result = Ok(false);
            for piece in bytes.chunks(size) {
                result = answer.feed(piece, |_, _| ());
                if result.is_err() {
                    break;
                }
            }
            results.push((result, answer));
        }
        let (result, answer) = results.pop().unwrap();
        for (other_result, other) in results {
            assert_eq!(other_result.is_ok(), result.is_ok());
            assert_eq!((other.status, &other.body), (answer.status, &answer.body));
        }
        (result, answer)
    }

    #[test]
    fn lengths_chunks_and_closing_end_an_answer() {
        let (done, answer) = read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello");
        assert_eq!((done, answer.status, answer.keeps_alive()), (Ok(true), 200, true));
        assert_eq!(answer.body, b"hello");
        assert_eq!(answer.header("x-a"), Some("b"));

        let (done, answer) = read(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
        );
        assert_eq!((done, answer.keeps_alive()), (Ok(true), true));
        assert_eq!(answer.body, b"hello world");

        let (done, mut answer) = read(b"HTTP/1.0 200 OK\r\n\r\nuntil the end");
        assert_eq!(done, Ok(false));
        assert!(answer.closed() && !answer.keeps_alive());

        let (done, answer) = read(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!((done, answer.keeps_alive()), (Ok(true), true));
        let (done, answer) =
            read(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((done, answer.keeps_alive()), (Ok(true), false));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let (done, answer) = read(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
              HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}",
        );
        assert_eq!((done, answer.status), (Ok(true), 201));
    }

    #[test]
    fn garbage_is_named() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ] {
            assert!(read(bytes).0.is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let mut answer = Answer::new(ALL, false);
        let line = b"HTTP/1.1 200 OK\r\nX: ".iter().copied().chain([b'a'; HEAD_BYTES_MAX]);
        let bytes: Vec<u8> = line.collect();
        assert_eq!(answer.feed(&bytes, |_, _| ()), Err(Garbage::HeadTooLarge));
    }

    #[test]
    fn a_body_is_counted_and_only_its_beginning_kept() {
        let mut answer = Answer::new(Keep { headers: false, body_bytes: 3 }, false);
        let bytes = b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n123456789+";
        let mut seen = 0;
        assert_eq!(answer.feed(bytes, |_, piece| seen += piece.len()), Ok(true));
        assert_eq!((answer.body.as_slice(), answer.body_bytes, seen), (&b"123"[..], 9, 9));
        assert!(!answer.keeps_alive(), "a byte too many");
    }
}
