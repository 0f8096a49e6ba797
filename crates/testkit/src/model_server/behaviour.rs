//! What the server does with a request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::protocol::Call;

/// One way to answer. The default writes a short text, at once and completely.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// What to say.
    pub answer: Answer,
    /// Think before calling functions, in the protocol's way, and say so: signatures,
    /// blocks of thoughts, or text beside the reply.
    pub thinks: bool,
    /// How to cut it into pieces.
    pub chunking: Chunking,
    /// Answer a request for a stream with plain JSON.
    pub ignores_stream: bool,
    /// The word for why the reply ended.
    pub finish_reason: String,
    /// Leave out the event with the finish reason.
    pub without_finish: bool,
    /// Leave out `[DONE]`.
    pub without_done: bool,
    /// Wait before the status line.
    pub first_byte_delay: Duration,
    /// Wait before each piece of the body but the first.
    pub write_delay: Duration,
    /// Wait at the gate before this piece of the body, counted from 0, as
    /// `ModelServer::hold` says.
    pub hold_before_write: Option<usize>,
    /// Wait before each piece of the body until `ModelServer::step` allows it.
    pub stepped: bool,
    /// How the body ends.
    pub end: End,
}

/// What to say.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This text.
    Text(String),
    /// Calls of functions, behind a text that may be empty.
    Calls(String, Vec<Call>),
    /// What this makes of the content of the request's last message.
    Made(Maker),
    /// The content of the request's last message.
    Echo,
    /// What a client's test wants to see, by what it asks: `fail 500` fails with that
    /// status, `list` lists all that was said, a schema gets JSON, a function that is
    /// offered is called for `{"city": "Bonn"}`, and anything else is said again. Of
    /// OpenAI's protocol alone.
    Obliging,
    /// The same behind the number of the request, so that no two answers agree.
    Numbered,
    /// A status with an error in the protocol's words.
    Refusal {
        /// The status.
        status: u16,
        /// What is wrong.
        message: String,
    },
    /// A status with headers and a body of the given media type.
    Status {
        /// The status.
        status: u16,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// The media type.
        content_type: String,
        /// The body.
        body: String,
    },
    /// 200 with exactly these pieces.
    Raw {
        /// The media type.
        content_type: String,
        /// The body.
        writes: Vec<Bytes>,
    },
    /// Nothing, ever.
    Silence,
}

/// Makes an answer of what was asked.
#[derive(Clone)]
pub struct Maker(pub(super) Arc<dyn Fn(&str) -> String + Send + Sync>);

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maker")
    }
}

/// What to do with texts that are to be turned into vectors.
#[derive(Clone, Debug)]
pub enum Embedding {
    /// Texts with the same words are near to each other. Of each pair the first word
    /// counts as the second one.
    Words(Vec<(String, String)>),
    /// A status with an error in the protocol's words.
    Refusal(u16),
    /// Exactly this answer.
    Raw(Value),
    /// Nothing, ever.
    Silence,
}

impl Default for Embedding {
    fn default() -> Self {
        Self::Words(Vec::new())
    }
}

/// How a streamed text is cut.
#[derive(Clone, Copy, Debug)]
pub struct Chunking {
    /// Characters in each token.
    pub token_chars: usize,
    /// Events in each write, when `write_bytes` does not say otherwise.
    pub events_per_write: usize,
    /// Bytes in each write, wherever that cuts, also within a character.
    pub write_bytes: Option<usize>,
    /// End lines with CR LF.
    pub crlf: bool,
    /// Put a comment before each event.
    pub comments: bool,
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As HTTP wants it.
    Complete,
    /// After so many writes the connection is closed in the middle.
    CutAfter(usize),
    /// After so many writes nothing more comes.
    HangAfter(usize),
}

impl Default for Chunking {
    fn default() -> Self {
        Self {
            token_chars: 4,
            events_per_write: 1,
            write_bytes: None,
            crlf: false,
            comments: false,
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::text("This is the test model.")
    }
}

impl Behaviour {
    /// Does this and nothing special beside.
    pub fn new(answer: Answer) -> Self {
        Self {
            answer,
            thinks: false,
            chunking: Chunking::default(),
            ignores_stream: false,
            finish_reason: "stop".to_owned(),
            without_finish: false,
            without_done: false,
            first_byte_delay: Duration::ZERO,
            write_delay: Duration::ZERO,
            hold_before_write: None,
            stepped: false,
            end: End::Complete,
        }
    }

    /// Says this text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Answer::Text(text.into()))
    }

    /// Calls these functions, all at once.
    pub fn calls(calls: &[Call]) -> Self {
        Self::new(Answer::Calls(String::new(), calls.to_vec()))
    }

    /// Says what this makes of what it was told last.
    pub fn made(make: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::new(Answer::Made(Maker(Arc::new(make))))
    }

    /// Says what it was told last.
    pub fn echo() -> Self {
        Self::new(Answer::Echo)
    }

    /// Answers with a status and an error in the protocol's words.
    pub fn error(status: u16, message: &str) -> Self {
        Self::new(Answer::Refusal { status, message: message.to_owned() })
    }

    /// Answers with a status and any body.
    pub fn status(status: u16, headers: &[(&str, &str)], content_type: &str, body: &str) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self::new(Answer::Status {
            status,
            headers: headers.iter().map(owned).collect(),
            content_type: content_type.to_owned(),
            body: body.to_owned(),
        })
    }

    /// Answers 200 with these bytes as an event stream, each in a write.
    pub fn events(writes: &[&[u8]]) -> Self {
        Self::raw("text/event-stream", writes)
    }

    /// Answers 200 with these bytes, each in a write.
    pub fn raw(content_type: &str, writes: &[&[u8]]) -> Self {
        Self::new(Answer::Raw {
            content_type: content_type.to_owned(),
            writes: writes.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect(),
        })
    }

    /// Never answers.
    pub fn silence() -> Self {
        Self::new(Answer::Silence)
    }
}

/// OpenAI's form of an error.
pub(super) fn error_body(message: &str, code: &str) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}})
}
