//! One HTTP step of a user: the request is made, its answer judged, and what
//! the target promised noted.

use std::cell::Cell;
use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;

use super::{SEARCHED_BODY_BYTES_MAX, SHOWN_BODY_BYTES, User, Worker};
use crate::connection::{Ask, Exchange};
use crate::expression::{Escape, NoValue, Scope};
use crate::http1::Keep;
use crate::recorder::{Failed, Outcome, Times};
use crate::scenario::{Acknowledge, AcknowledgedFields, Step};
use crate::tokens::Streamed;

/// What one user keeps in one of its lists; the oldest goes first.
const KEPT_MAX: usize = 1_000;

impl Worker {
    pub(super) async fn step(
        &self,
        user: &mut User,
        step: &Step,
        (iteration, draws): (u64, &Cell<u64>),
        intended: Instant,
        eligible: Instant,
    ) -> (Instant, bool) {
        let plan = &self.shared.plan;
        let rendered = self.render(user, step, (iteration, draws));
        let sent = Instant::now();
        let request = match rendered {
            Ok(request) => request,
            Err(error) => {
                let times = Times { intended, eligible, sent, first_byte: None, done: sent };
                self.failed(step, &times, None, "no_value", &error.to_string());
                return (sent, false);
            }
        };
        let searched =
            !(step.save.is_empty() && step.keep.is_empty() && step.expect.json.is_empty());
        let keep = Keep {
            headers: !step.expect.headers.is_empty(),
            body_bytes: if searched { SEARCHED_BODY_BYTES_MAX } else { SHOWN_BODY_BYTES },
        };
        let ask = Ask {
            request: &request,
            head: step.request.head,
            keep,
            stream: step.stream,
            timeout: plan.timeout,
        };
        let mut exchange = user.connection.exchange(&self.wire, ask).await;
        let times = Times {
            intended,
            eligible,
            sent,
            first_byte: exchange.first_byte,
            done: exchange.done,
        };
        if exchange.connected {
            self.recorder.borrow_mut().connects += 1;
        }
        if let Some(failure) = &exchange.failure {
            let connecting = failure.is_of_connecting();
            user.failures_to_connect =
                if connecting { user.failures_to_connect.saturating_add(1) } else { 0 };
            self.failed(step, &times, Some(&exchange), failure.class, &failure.detail);
            self.note_failure(user, step, &exchange, &request);
            return (times.done, false);
        }
        user.failures_to_connect = 0;
        match judge(step, &mut exchange, searched, &self.scope(user, iteration, draws)) {
            Err((class, detail)) => {
                self.failed(step, &times, Some(&exchange), &class, &detail);
                self.note_failure(user, step, &exchange, &request);
                return (times.done, false);
            }
            Ok(Judged { saved, kept, streamed }) => {
                for (slot, value) in saved {
                    user.saved[slot] = Some(value);
                }
                for (list, value) in kept {
                    let items = &mut user.kept.borrow_mut()[list];
                    if items.len() == KEPT_MAX {
                        items.remove(0);
                    }
                    items.push(value);
                }
                let mut recorder = self.recorder.borrow_mut();
                let answer = &exchange.answer;
                let body = if recorder.wants_body(step.endpoint) { &answer.body[..] } else { &[] };
                let outcome = Outcome::Ok {
                    body_bytes: answer.body_bytes,
                    body,
                    streamed: streamed.as_ref(),
                };
                recorder.request(step.endpoint, &times, &outcome);
            }
        }
        if let Some(acknowledge) = &step.acknowledged {
            self.note(user, step.endpoint, acknowledge, &request, (iteration, draws));
        }
        (times.done, true)
    }

    fn render(
        &self,
        user: &mut User,
        step: &Step,
        (iteration, draws): (u64, &Cell<u64>),
    ) -> Result<Bytes, NoValue> {
        for (slot, template) in &step.with {
            let value = template.value(&self.scope(user, iteration, draws))?;
            user.saved[*slot] = Some(value);
        }
        step.request.render(&self.scope(user, iteration, draws))
    }

    /// The target acknowledged what has to be so from now on.
    fn note(
        &self,
        user: &User,
        endpoint: usize,
        acknowledge: &Acknowledge,
        request: &[u8],
        (iteration, draws): (u64, &Cell<u64>),
    ) {
        let mut path = Vec::new();
        let rendered = {
            let scope = self.scope(user, iteration, draws);
            acknowledge.path.render(&scope, &mut path, Escape::Url)
        };
        let mut ledger = self.ledger.borrow_mut();
        let (Ok(()), Ok(path)) = (rendered, String::from_utf8(path)) else {
            ledger.forgot();
            return;
        };
        let sent = sent_fields(acknowledge, request);
        let fields = sent.iter().map(|(name, value)| (name.as_str(), value));
        ledger.acknowledged(endpoint, path, acknowledge.effect, fields);
    }

    /// What failed may have been carried out all the same, unless the target
    /// said that it was the request's fault.
    fn note_failure(&self, user: &User, step: &Step, exchange: &Exchange, request: &[u8]) {
        let Some(acknowledge) = step.acknowledged.as_ref().filter(|ack| ack.changes) else {
            return;
        };
        if exchange.failure.is_none() && (400..500).contains(&exchange.answer.status) {
            return;
        }
        let mut path = Vec::new();
        let draws = Cell::new(0);
        let rendered = {
            let scope = self.scope(user, 0, &draws);
            acknowledge.path.render(&scope, &mut path, Escape::Url)
        };
        if let (Ok(()), Ok(path)) = (rendered, std::str::from_utf8(&path)) {
            let sent = sent_fields(acknowledge, request);
            let names = sent.iter().map(|(name, _)| name.as_str());
            self.ledger.borrow_mut().uncertain(path, acknowledge.effect, names);
        }
    }

    fn failed(
        &self,
        step: &Step,
        times: &Times,
        exchange: Option<&Exchange>,
        class: &str,
        detail: &str,
    ) {
        let answer = exchange.map(|exchange| &exchange.answer);
        let body = answer.map_or(&[][..], |answer| &answer.body);
        self.failure(
            step.endpoint,
            times,
            &Failed {
                class,
                detail,
                status: answer.map(|answer| answer.status).filter(|status| *status > 0),
                body_bytes: answer.map_or(0, |answer| answer.body_bytes),
                body: &body[..body.len().min(SHOWN_BODY_BYTES)],
            },
        );
    }

    pub(crate) fn failure(&self, endpoint: usize, times: &Times, failed: &Failed<'_>) {
        self.recorder.borrow_mut().request(endpoint, times, &Outcome::Failed(*failed));
    }
}

/// The fields of a request's JSON that are held against what is read back.
fn sent_fields(acknowledge: &Acknowledge, request: &[u8]) -> Vec<(String, Value)> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    if acknowledge.fields == AcknowledgedFields::None {
        return Vec::new();
    }
    let end = request.windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD);
    let body = end.map_or(&[][..], |end| &request[end + END_OF_HEAD.len()..]);
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter(|(name, _)| acknowledge.fields.has(name)).collect()
        }
        _ => Vec::new(),
    }
}

/// What an answer that is right brought.
pub(super) struct Judged {
    pub(super) saved: Vec<(usize, Value)>,
    kept: Vec<(usize, Value)>,
    streamed: Option<Streamed>,
}

/// Whether the answer is what the step expects; otherwise the class of failure
/// and a detail.
pub(super) fn judge(
    step: &Step,
    exchange: &mut Exchange,
    searched: bool,
    scope: &Scope<'_>,
) -> Result<Judged, (String, String)> {
    let answer = &exchange.answer;
    let fail = |class: String, detail: String| Err((class, detail));
    if !step.expect.status_is_right(answer.status) {
        return fail(format!("http_{}", answer.status), String::new());
    }
    for (name, expected) in &step.expect.headers {
        let mut wanted = Vec::new();
        if let Err(error) = expected.render(scope, &mut wanted, Escape::None) {
            return fail("no_value".to_owned(), error.to_string());
        }
        if answer.header(name).map(str::as_bytes) != Some(wanted.as_slice()) {
            let found = answer.header(name).unwrap_or("nothing");
            let wanted = String::from_utf8_lossy(&wanted);
            return fail(format!("expect_header:{name}"), format!("{found}, not {wanted}"));
        }
    }
    let streamed = match exchange.events.take().map(crate::tokens::EventStream::end) {
        Some(Ok(streamed)) => Some(streamed),
        Some(Err(class)) => return fail(class.to_owned(), String::new()),
        None => None,
    };
    let (mut saved, mut kept) = (Vec::new(), Vec::new());
    if searched {
        if answer.body_bytes > answer.body.len() as u64 {
            return fail("body_too_large".to_owned(), "to be searched".to_owned());
        }
        let body: Value = match serde_json::from_slice(&answer.body) {
            Ok(body) => body,
            Err(error) => return fail("not_json".to_owned(), error.to_string()),
        };
        for (path, expected) in &step.expect.json {
            let found = path.query(&body).first();
            let expected = match expected.as_ref().map(|expected| expected.value(scope)).transpose()
            {
                Ok(expected) => expected,
                Err(error) => return fail("no_value".to_owned(), error.to_string()),
            };
            let right = match &expected {
                None => found.is_some(),
                Some(expected) => found == Some(expected),
            };
            if !right {
                let found = found.map_or("nothing".to_owned(), Value::to_string);
                let detail = match expected {
                    None => "nothing stands there".to_owned(),
                    Some(expected) => format!("{found:.200}, not {expected}"),
                };
                return fail(format!("expect_json:{path}"), detail);
            }
        }
        for (places, what, found) in
            [(&step.save, "save", &mut saved), (&step.keep, "keep", &mut kept)]
        {
            for (number, path) in places {
                match path.query(&body).first() {
                    Some(value) => found.push((*number, value.clone())),
                    None => {
                        return fail(format!("{what}:{path}"), "nothing stands there".to_owned());
                    }
                }
            }
        }
    }
    Ok(Judged { saved, kept, streamed })
}
