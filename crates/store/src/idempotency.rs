//! Which requests took effect already. The note is part of the effect's own
//! write, so that there is never one without the other; a second request with
//! the same key loses the race for the note and finds it then.

use agentry_domain::idempotency::{IDEMPOTENCY_ANSWER_BYTES_MAX, IDEMPOTENCY_KEPT, Remembered};
use agentry_domain::{Code, Error, KeyId, Once, OrgId, Timestamp};

use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    IDEMPOTENCY_GET = "select body, at, id, answer from idempotency where org = $1 \
        and caller = $2 and operation = $3 and key = $4 and at > $5";
    // One that is too old to count gives way.
    IDEMPOTENCY_SET = "insert into idempotency (org, caller, operation, key, body, at, id, answer) \
        values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (org, caller, operation, key) \
        do update set body = excluded.body, at = excluded.at, id = excluded.id, \
        answer = excluded.answer where idempotency.at <= $9";
    IDEMPOTENCY_FORGET = "delete from idempotency where org = $1 and id = $2";
    // The first row of an index.
    scan IDEMPOTENCY_OLDEST = "select at from idempotency order by at limit 1";
    IDEMPOTENCY_EXPIRE = sqlite "delete from idempotency where rowid in (select rowid \
        from idempotency where at <= $1 limit $2)"
        postgres "delete from idempotency where ctid = any (array(select ctid \
        from idempotency where at <= $1 limit $2))";
}

/// The time at which what is too old now was made.
fn expired(now: Timestamp) -> i64 {
    let kept = i64::try_from(IDEMPOTENCY_KEPT.as_micros()).unwrap_or(i64::MAX);
    now.micros().saturating_sub(kept)
}

fn key(org: OrgId, once: &Once) -> Vec<Value> {
    let caller = once.caller.map(KeyId::to_bytes).unwrap_or_default();
    values![org, caller, &once.operation, &once.key]
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
        self.add_first(&IDEMPOTENCY_SET, bound).expect_one(Probe::always(|| {
            Error::new(Code::AlreadyDone, "a request with this Idempotency-Key took effect already")
        }));
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
    Ok(Remembered {
        body: body.map_err(|_| StoreError::unreadable("the hash of a request"))?,
        at: row.int()?,
        id: row.id()?,
        answer: row.opt_text()?,
    })
}
