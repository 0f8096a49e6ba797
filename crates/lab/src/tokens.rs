//! Server-sent events, read as their bytes arrive, and the tokens in them.
//!
//! Tokens are counted from the server's own `usage`, never from the number of
//! events, because an event may carry several; the first token is the first
//! content that is not empty. An event may be torn over any number of packets.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// The longest line of a stream, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;
/// How many gaps of one stream are kept; later ones are counted alone.
const GAPS_MAX: usize = 100_000;

/// What the events mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's chat completions.
    OpenAi,
    /// Nothing is known: every event with data counts as content.
    Events,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct EventStream {
    dialect: Dialect,
    line: Vec<u8>,
    data: String,
    fault: Option<&'static str>,
    finished: bool,
    first_token: Option<Instant>,
    last_content: Option<Instant>,
    /// Between one event with content and the next.
    gaps: Vec<Duration>,
    chunks: u64,
    tokens: Option<u64>,
}

/// What a stream showed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Streamed {
    pub(crate) first_token: Option<Instant>,
    pub(crate) gaps: Vec<Duration>,
    /// Events with content.
    pub(crate) chunks: u64,
    /// As the server's usage says.
    pub(crate) tokens: Option<u64>,
    /// From the first content to the last, over the tokens between them.
    pub(crate) time_per_token: Option<Duration>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<u64>,
}

impl EventStream {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            line: Vec::new(),
            data: String::new(),
            fault: None,
            finished: false,
            first_token: None,
            last_content: None,
            gaps: Vec::new(),
            chunks: 0,
            tokens: None,
        }
    }

    /// Takes the next bytes of the body, which arrived at `now`.
    pub(crate) fn feed(&mut self, bytes: &[u8], now: Instant) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() > LINE_BYTES_MAX {
                self.fault = Some("stream_line_too_long");
                return;
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.line_read(&line, now);
                self.line = line;
                self.line.clear();
            }
        }
    }

    fn line_read(&mut self, line: &[u8], now: Instant) {
        let Ok(line) = std::str::from_utf8(line) else {
            self.fault = Some("stream_garbage");
            return;
        };
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            if !data.is_empty() {
                self.event(&data, now);
            }
        } else if let Some(data) = line.strip_prefix("data:") {
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
        }
    }

    fn event(&mut self, data: &str, now: Instant) {
        if self.dialect == Dialect::Events {
            self.content(now);
            return;
        }
        if data == "[DONE]" {
            self.finished = true;
            return;
        }
        let Ok(chunk) = serde_json::from_str::<Chunk>(data) else {
            self.fault = Some("stream_garbage");
            return;
        };
        if chunk.error.is_some() {
            self.fault = Some("stream_error");
        }
        if let Some(tokens) = chunk.usage.and_then(|usage| usage.completion_tokens) {
            self.tokens = Some(tokens);
        }
        let full = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let has_content =
            chunk.choices.iter().filter_map(|choice| choice.delta.as_ref()).any(|d| {
                full(&d.content)
                    || full(&d.reasoning_content)
                    || d.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
            });
        if has_content {
            self.content(now);
        }
    }

    fn content(&mut self, now: Instant) {
        self.chunks += 1;
        self.first_token.get_or_insert(now);
        if let Some(before) = self.last_content.replace(now)
            && self.gaps.len() < GAPS_MAX
        {
            self.gaps.push(now - before);
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// The class of failure: an error event, broken events, or an end that was
    /// not announced.
    pub(crate) fn end(self) -> Result<Streamed, &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.dialect == Dialect::OpenAi && !self.finished {
            return Err("stream_cut");
        }
        let spread = self.first_token.zip(self.last_content).map(|(first, last)| last - first);
        let time_per_token = spread.zip(self.tokens).and_then(|(spread, tokens)| {
            let steps = u32::try_from(tokens.checked_sub(1)?).ok()?;
            spread.checked_div(steps)
        });
        Ok(Streamed {
            first_token: self.first_token,
            gaps: self.gaps,
            chunks: self.chunks,
            tokens: self.tokens,
            time_per_token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"one two \"}}]}\r\n\r\n",
        "event: x\ndata: {\"choices\":[{\"delta\":\ndata: {\"content\":\"three \"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"four five\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"completion_tokens\":5}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn tokens_are_those_of_usage_however_the_bytes_are_torn() {
        for size in [1, 2, 13, 60, STREAM.len()] {
            let start = Instant::now();
            let mut stream = EventStream::new(Dialect::OpenAi);
            // The n-th byte arrives at n microseconds.
            for (n, piece) in STREAM.as_bytes().chunks(size).enumerate() {
                let end = ((n + 1) * size).min(STREAM.len()) as u64;
                stream.feed(piece, start + Duration::from_micros(end));
            }
            let streamed = stream.end().unwrap();
            assert_eq!((streamed.tokens, streamed.chunks), (Some(5), 3), "{size}");
            assert_eq!(streamed.gaps.len(), 2);
            if size == 1 {
                let at = |text: &str| (STREAM.find(text).unwrap() + text.len()) as u64;
                let first = at("one two \"}}]}\r\n\r\n");
                let last = at("four five\"}}]}\n\n");
                assert_eq!(streamed.first_token, Some(start + Duration::from_micros(first)));
                let spread = Duration::from_micros(last - first);
                assert_eq!(streamed.time_per_token, Some(spread / 4));
            }
        }
    }

    #[test]
    fn streams_that_break_say_how() {
        let end = |text: &str| {
            let mut stream = EventStream::new(Dialect::OpenAi);
            stream.feed(text.as_bytes(), Instant::now());
            stream.end().map(|streamed| streamed.chunks)
        };
        assert_eq!(end("data: {\"choices\":[]}\n\n"), Err("stream_cut"));
        assert_eq!(end("data: {\"error\":{\"message\":\"x\"}}\n\n"), Err("stream_error"));
        assert_eq!(end("data: {oops\n\ndata: [DONE]\n\n"), Err("stream_garbage"));
        assert_eq!(end("data: [DONE]\n\n"), Ok(0));
    }
}
