//! Which requests took effect already. The note is part of the effect's own
//! write, so that there is never one without the other; a second request with
//! the same key loses the race for the note and finds it then.

use agentry_domain::idempotency::{
    IDEMPOTENCY_ANSWER_BYTES_MAX, IDEMPOTENCY_KEPT, Progress, Remembered,
};
use agentry_domain::{Code, Error, KeyId, Once, OrgId, Timestamp, WorkerId};

use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    IDEMPOTENCY_GET = "select body, at, id, answer, state, holder from idempotency where org = $1 \
        and caller = $2 and operation = $3 and key = $4 and at > $5";
    // One that is too old to count gives way.
    IDEMPOTENCY_SET = "insert into idempotency (org, caller, operation, key, body, at, id, answer, \
        state, holder) values ($1, $2, $3, $4, $5, $6, $7, $8, 0, null) on conflict (org, caller, operation, key) \
        do update set body = excluded.body, at = excluded.at, id = excluded.id, \
        answer = excluded.answer, state = excluded.state, holder = excluded.holder \
        where idempotency.at <= $9";
    IDEMPOTENCY_CLAIM = "insert into idempotency (org, caller, operation, key, body, at, id, \
        answer, state, holder) values ($1, $2, $3, $4, $5, $6, $7, null, 1, $8) \
        on conflict (org, caller, operation, key) do update set body = excluded.body, \
        at = excluded.at, id = excluded.id, answer = excluded.answer, state = excluded.state, \
        holder = excluded.holder where idempotency.at <= $9";
    IDEMPOTENCY_SETTLE = "update idempotency set answer = $1, state = $2 where org = $3 \
        and caller = $4 and operation = $5 and key = $6 and state = 1 and holder = $7";
    IDEMPOTENCY_RELEASE = "delete from idempotency where org = $1 and caller = $2 \
        and operation = $3 and key = $4 and state = 1 and holder = $5";
    IDEMPOTENCY_FORGET = "delete from idempotency where org = $1 and id = $2";
    // The first row of an index.
    scan IDEMPOTENCY_OLDEST = "select at from idempotency order by at limit 1";
    IDEMPOTENCY_EXPIRE = sqlite "delete from idempotency where rowid in (select rowid \
        from idempotency where at <= $1 limit $2)"
        postgres "delete from idempotency where ctid = any (array(select ctid \
        from idempotency where at <= $1 limit $2))";
}

/// The states of a request.
const SETTLED: i64 = 0;
const CLAIMED: i64 = 1;
const FAILED: i64 = 2;

/// The time at which what is too old now was made.
fn expired(now: Timestamp) -> i64 {
    let kept = i64::try_from(IDEMPOTENCY_KEPT.as_micros()).unwrap_or(i64::MAX);
    now.micros().saturating_sub(kept)
}

fn key(org: OrgId, once: &Once) -> Vec<Value> {
    let caller = once.caller.map(KeyId::to_bytes).unwrap_or_default();
    values![org, caller, &once.operation, &once.key]
}

fn taken() -> Error {
    Error::new(Code::AlreadyDone, "a request with this Idempotency-Key took effect already")
}

impl Write {
    /// Guard: the request has not taken effect before. Otherwise the write
    /// fails with [`Code::AlreadyDone`], and [`Store::idempotency_get`] finds
    /// what is remembered. It comes before what was added already: what a
    /// request made is in its own way when it comes again.
    pub fn idempotency_set(&mut self, once: &Once, id: [u8; 16], answer: &str, now: Timestamp) {
        let short = answer.len() <= IDEMPOTENCY_ANSWER_BYTES_MAX;
        let mut bound = key(self.org, once);
        bound.extend(values![
            once.body.to_vec(),
            now,
            id,
            short.then(|| answer.to_owned()),
            expired(now),
        ]);
        self.add_first(&IDEMPOTENCY_SET, bound).expect_one(Probe::always(taken));
    }

    /// Guard: the request has not been made before. From now on it is this process's to
    /// cause its effect, and to settle or release it. Otherwise the write fails with
    /// [`Code::AlreadyDone`].
    pub fn idempotency_claim(
        &mut self,
        once: &Once,
        id: [u8; 16],
        holder: WorkerId,
        now: Timestamp,
    ) {
        let mut bound = key(self.org, once);
        bound.extend(values![once.body.to_vec(), now, id, holder, expired(now)]);
        self.add_first(&IDEMPOTENCY_CLAIM, bound).expect_one(Probe::always(taken));
    }

    /// Notes what a claimed request is answered.
    pub fn idempotency_settle(
        &mut self,
        once: &Once,
        holder: WorkerId,
        answer: Result<&str, &Error>,
    ) {
        let (text, state) = match answer {
            Ok(text) => (text.to_owned(), SETTLED),
            // A code has no spaces.
            Err(error) => (format!("{} {}", error.code, error.detail), FAILED),
        };
        let short = text.len() <= IDEMPOTENCY_ANSWER_BYTES_MAX;
        let mut bound = values![short.then_some(text), state];
        bound.extend(key(self.org, once));
        bound.extend(values![holder]);
        self.add(&IDEMPOTENCY_SETTLE, bound);
    }

    /// Forgets a claimed request that had no effect, so that it may be made again.
    pub fn idempotency_release(&mut self, once: &Once, holder: WorkerId) {
        let mut bound = key(self.org, once);
        bound.extend(values![holder]);
        self.add(&IDEMPOTENCY_RELEASE, bound);
    }

    /// Forgets the requests that made the thing with this id, and what they were
    /// answered.
    pub fn idempotency_forget(&mut self, id: [u8; 16]) {
        self.add(&IDEMPOTENCY_FORGET, values![self.org, id]);
    }

    /// Forgets requests of the whole installation that are too old to count, at
    /// most `limit`.
    pub fn idempotency_expire(&mut self, now: Timestamp, limit: u32) {
        self.add(&IDEMPOTENCY_EXPIRE, values![expired(now), limit]);
    }
}

impl Store {
    /// When the oldest request that is remembered took effect, whosever it is.
    pub async fn idempotency_oldest(&self) -> Result<Option<Timestamp>> {
        let at = |row: &mut Columns<'_>| row.time();
        self.point(&IDEMPOTENCY_OLDEST, values![], at).await
    }

    /// What is remembered of a request.
    pub async fn idempotency_get(
        &self,
        org: OrgId,
        once: &Once,
        now: Timestamp,
    ) -> Result<Option<Remembered>> {
        let mut bound = key(org, once);
        bound.push(Value::from(expired(now)));
        self.point(&IDEMPOTENCY_GET, bound, remembered).await
    }
}

fn remembered(row: &mut Columns<'_>) -> Result<Remembered> {
    let body = row.bytes()?.try_into();
    let body = body.map_err(|_| StoreError::unreadable("the hash of a request"))?;
    let (at, id, answer) = (row.int()?, row.id()?, row.opt_text()?);
    let (state, holder) = (row.int()?, row.opt_id()?);
    let progress = match (state, holder) {
        (SETTLED, _) => Progress::Over,
        (CLAIMED, Some(holder)) => Progress::UnderWay(WorkerId::from_bytes(holder)),
        (FAILED, _) => {
            let said = answer.as_deref().and_then(|text| text.split_once(' '));
            let known = said.and_then(|(code, detail)| Some((Code::parse(code)?, detail)));
            let (code, detail) = known.unwrap_or((Code::Internal, "the request failed"));
            Progress::Failed(code, detail.to_owned())
        }
        _ => return Err(StoreError::unreadable("how far a request is")),
    };
    Ok(Remembered { body, at, id, answer, progress })
}
