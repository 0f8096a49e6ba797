//! A client of a run's event stream that checks what it is told as it reads:
//! each piece begins where the one before it ended, and an id says how far one is.

use agentry_testkit::WAIT_MAX;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::server::Process;

/// One server-sent event, or a comment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) data: Value,
    pub(crate) comment: String,
}

/// The events of a response, one by one.
pub(crate) struct RunStream {
    response: Response,
    read: Vec<u8>,
    /// So far no event ends in what was read.
    looked: usize,
}

impl RunStream {
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, read: Vec::new(), looked: 0 }
    }

    /// The next event or comment; none at the end, however the stream ends.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        let next = tokio::time::timeout(WAIT_MAX, self.next_now());
        next.await.expect("a stream is not silent for so long")
    }

    async fn next_now(&mut self) -> Option<Told> {
        loop {
            let ends = self.read[self.looked..].windows(2).position(|bytes| bytes == b"\n\n");
            if let Some(end) = ends {
                let event: Vec<u8> = self.read.drain(..self.looked + end + 2).collect();
                self.looked = 0;
                return Some(parse(std::str::from_utf8(&event).unwrap()));
            }
            self.looked = self.read.len().saturating_sub(1);
            self.read.extend_from_slice(&self.response.chunk().await.ok()??);
        }
    }

    /// The next event; comments are passed over.
    pub(crate) async fn event(&mut self) -> Option<Told> {
        loop {
            let told = self.next().await?;
            if !told.name.is_empty() {
                return Some(told);
            }
        }
    }
}

fn parse(text: &str) -> Told {
    let mut told = Told::default();
    for line in text.lines() {
        match line.split_once(':').map(|(name, value)| (name, value.trim_start())) {
            Some(("", comment)) => told.comment = comment.to_owned(),
            Some(("id", id)) => told.id = id.to_owned(),
            Some(("event", name)) => told.name = name.to_owned(),
            // OpenAI's last one is no JSON.
            Some(("data", "[DONE]")) => told.data = Value::from("[DONE]"),
            Some(("data", data)) => told.data = serde_json::from_str(data).unwrap(),
            _ => {}
        }
    }
    told
}

/// What a client knows of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reader {
    pub(crate) text: String,
    pub(crate) attempt: i64,
    /// The id of the last event.
    pub(crate) after: Option<String>,
    /// The names of the events, a row of deltas as one.
    pub(crate) names: Vec<String>,
    pub(crate) finished: Option<Value>,
    pub(crate) resets: usize,
}

impl Reader {
    /// Attempt and offset of an id.
    fn place(id: &str) -> (i64, usize) {
        let mut parts = id.split('-');
        let mut number = || parts.next().unwrap().parse::<i64>().unwrap();
        (number(), usize::try_from(number()).unwrap())
    }

    /// Takes an event as a client has to.
    pub(crate) fn take(&mut self, told: &Told) {
        let field = |name: &str| told.data[name].as_str().unwrap().to_owned();
        if self.names.last().is_none_or(|last| last != "message.delta" || told.name != *last) {
            self.names.push(told.name.clone());
        }
        if told.name == "error" {
            return;
        }
        let (attempt, offset) = Self::place(&told.id);
        match told.name.as_str() {
            "run.started" => {
                assert_eq!((self.attempt, offset), (0, 0), "told once, first");
                self.attempt = attempt;
            }
            "message.delta" => {
                let piece = field("text");
                assert!(!piece.is_empty());
                assert_eq!(attempt, self.attempt, "no text of another attempt: {told:?}");
                assert_eq!(offset, self.text.len() + piece.len(), "no gap, no double: {told:?}");
                self.text.push_str(&piece);
            }
            "reset" => {
                assert_eq!(told.data["attempt"], attempt);
                assert_eq!(told.data["offset"], offset);
                self.attempt = attempt;
                self.text.truncate(offset);
                assert_eq!(self.text.len(), offset);
                self.resets += 1;
            }
            "message.completed" => assert_eq!(self.text, field("text")),
            "run.finished" => self.finished = Some(told.data.clone()),
            "reconnect" => assert_eq!(field("after"), told.id),
            other => panic!("{other}"),
        }
        assert!(offset <= self.text.len(), "{told:?}");
        self.after = Some(told.id.clone());
    }

    /// The request that goes on after what one has.
    pub(crate) fn resume(&self, process: &Process, run: &str) -> RequestBuilder {
        let request = process.request(Method::GET, &format!("/api/v1/runs/{run}/events"));
        match &self.after {
            Some(after) => request.header("last-event-id", after),
            None => request,
        }
    }

    /// Reads to the end of the stream.
    pub(crate) async fn read_to_end(&mut self, stream: &mut RunStream) {
        while let Some(told) = stream.event().await {
            self.take(&told);
        }
    }

    /// Goes on at a process until the stream ends there.
    pub(crate) async fn follow(&mut self, process: &Process, run: &str) {
        let response = self.resume(process, run).send().await.unwrap();
        self.read_to_end(&mut RunStream::of(response)).await;
    }

    /// Reads until there is so much text.
    pub(crate) async fn read_text(&mut self, stream: &mut RunStream, bytes: usize) {
        while self.text.len() < bytes {
            let told = stream.event().await.expect("the stream goes on");
            self.take(&told);
        }
    }
}
