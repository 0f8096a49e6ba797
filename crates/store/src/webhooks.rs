//! Webhooks in the store. The log is their queue: each has a cursor in it, and a
//! job in a lane of its own while there is something for it.
//!
//! Every write that touches a webhook's feed, lane and job changes the row of the
//! feed first, so that two of them go one after the other: whoever finds that
//! there is nothing left ends the job only if nobody wanted more meanwhile.

use std::sync::LazyLock;

use agentry_domain::jobs::JobKind;
use agentry_domain::webhooks::{DeliveryState, WebhookBody, WebhookDelivery, WebhookFeed};
use agentry_domain::{
    Code, Document, Error, JobId, OrgId, Page, PageRequest, Timestamp, WebhookId, WorkerId,
};

use crate::jobs::{ClaimedJob, LANE_OPEN};
use crate::lists::{cursor, list_page};
use crate::resources::{Column, Statements, Table, document, missing};
use crate::sql::statements;
use crate::value::{self, Columns, Value, values};
use crate::write::{Probe, Write, Written};
use crate::{Result, Store, StoreError};

statements! {
    WEBHOOK_ROOM = "select 1 where (select count(*) from webhook where org = $1) <= $2";
    WEBHOOK_ENABLED = "select id, version, created_at, updated_at, shape, document from webhook \
        where org = $1 and enabled = 1 order by id";
    scan WEBHOOK_ANY = "select enabled from webhook where enabled = 1 limit 1";
    // As far back as somebody may have to be told of something.
    scan WEBHOOK_BEHIND = "select coalesce(min(cursor), 0) from webhook_feed";
    FEED_INSERT = "insert into webhook_feed (org, id, cursor, wanted, asked, secret) \
        values ($1, $2, (select seq from log_head where one = 1), 0, 0, $3)";
    FEED_GET = "select cursor, wanted, asked, secret, secret_before, secret_before_until \
        from webhook_feed where org = $1 and id = $2";
    FEED_DELETE = "delete from webhook_feed where org = $1 and id = $2";
    // What nothing waits for has no reason to be read again.
    FEED_WAKE = "update webhook_feed set cursor = case when wanted <= cursor and cursor < $1 \
        then $1 else cursor end, wanted = case when wanted < $2 then $2 else wanted end \
        where org = $3 and id = $4";
    FEED_ASK = "update webhook_feed set asked = asked + 1 where org = $1 and id = $2";
    FEED_CATCH_UP = "update webhook_feed set asked = asked + 1, \
        wanted = (select seq from log_head where one = 1) where org = $1 and id = $2";
    FEED_REPLAY = "update webhook_feed set cursor = $1, asked = asked + 1, \
        wanted = (select seq from log_head where one = 1) where org = $2 and id = $3";
    FEED_PAUSE = "update webhook_feed set asked = asked + 1, cursor = case when wanted <= cursor \
        and cursor < coalesce((select seq from follower where name = $1), 0) \
        then (select seq from follower where name = $1) else cursor end \
        where org = $2 and id = $3";
    FEED_ROTATE = "update webhook_feed set secret_before = secret, secret_before_until = $1, \
        secret = $2 where org = $3 and id = $4";
    FEED_MOVE = "update webhook_feed set cursor = $1 where org = $2 and id = $3 and cursor = $4 \
        returning asked";
    FEED_REST = "update webhook_feed set cursor = $1 where org = $2 and id = $3 and cursor = $4 \
        and asked = $5";
    FEED_END = "update webhook_feed set cursor = $1 where org = $2 and id = $3 and cursor = $4 \
        and asked = $5 and wanted <= $1";
    WEBHOOK_JOB_ADD = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at) values ($1, $2, $2, 1, $3, 1, 0, $4, 0, 0, $5, $5) \
        on conflict (org, id) do nothing";
    WEBHOOK_JOB_HURRY = "update job set next_at = $1 where org = $2 and id = $3 and claimed = 0 \
        and next_at > $1";
    WEBHOOK_JOB_DELETE = "delete from job where org = $1 and id = $2";
    WEBHOOK_LANE_DELETE = "delete from lane where org = $1 and id = $2";
    DELIVERY_SAVE = "insert into webhook_delivery (org, webhook, id, seq, event_type, state, \
        attempts, status, error, body, created_at, attempted_at, next_at, finished_at, asked) \
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
        on conflict (org, webhook, id) do update set state = excluded.state, \
        attempts = excluded.attempts, status = excluded.status, error = excluded.error, \
        attempted_at = excluded.attempted_at, next_at = excluded.next_at, \
        finished_at = excluded.finished_at, asked = excluded.asked";
    DELIVERY_GET = "select id, seq, event_type, state, attempts, status, error, body, created_at, \
        attempted_at, next_at, finished_at, asked from webhook_delivery \
        where org = $1 and webhook = $2 and id = $3";
    DELIVERY_ASKED = "select id, seq, event_type, state, attempts, status, error, body, \
        created_at, attempted_at, next_at, finished_at, asked from webhook_delivery \
        where org = $1 and webhook = $2 and state = 'waiting' and asked = 1 order by id limit $3";
    DELIVERY_BEGUN = "select id, seq, event_type, state, attempts, status, error, body, \
        created_at, attempted_at, next_at, finished_at, asked from webhook_delivery \
        where org = $1 and webhook = $2 and state = 'waiting' and asked = 0 order by id limit 1";
    DELIVERY_GIVE_UP = "update webhook_delivery set state = 'dead', error = $1, next_at = null, \
        finished_at = $2 where org = $3 and webhook = $4 and state = 'waiting' and asked = 0";
    DELIVERY_ASK = "update webhook_delivery set asked = 1, state = 'waiting', next_at = $1, \
        finished_at = null where org = $2 and webhook = $3 and id = $4 and state <> 'waiting'";
    DELIVERY_FOUND = "select attempts from webhook_delivery where org = $1 and webhook = $2 and id = $3";
    DELIVERY_ROOM = "select 1 where (select count(*) from webhook_delivery where org = $1 \
        and webhook = $2 and state = 'waiting' and asked = 1) <= $3";
    DELIVERY_LIST_ASC = "select id, seq, event_type, state, attempts, status, error, body, \
        created_at, attempted_at, next_at, finished_at, asked from webhook_delivery \
        where org = $1 and webhook = $2 and id > $3 and (state = $4 or $4 is null) \
        order by id limit $5 offset $6";
    DELIVERY_LIST_DESC = "select id, seq, event_type, state, attempts, status, error, body, \
        created_at, attempted_at, next_at, finished_at, asked from webhook_delivery \
        where org = $1 and webhook = $2 and id < $3 and (state = $4 or $4 is null) \
        order by id desc limit $5 offset $6";
    DELIVERY_COUNT = "select count(*) from (select 1 from webhook_delivery where org = $1 \
        and webhook = $2 and (state = $3 or $3 is null) limit $4) as counted";
    DELIVERY_PRUNE = "delete from webhook_delivery where org = $1 and webhook = $2 and asked = 0 \
        and id < (select id from webhook_delivery where org = $1 and webhook = $2 \
        order by id desc limit 1 offset $3)";
    DELIVERY_DELETE_ALL = "delete from webhook_delivery where org = $1 and webhook = $2";
    FOLLOWER_GET = "select seq from follower where name = $1";
    FOLLOWER_SAVE = "insert into follower (name, seq, holder, until) values ($1, $2, $3, 0) \
        on conflict (name) do update set seq = excluded.seq where follower.seq < excluded.seq";
    FOLLOWER_HOLD = sqlite "" postgres "insert into follower (name, seq, holder, until) \
        values ($1, 0, $2, (extract(epoch from clock_timestamp()) * 1000000)::bigint + $3) \
        on conflict (name) do update set holder = excluded.holder, until = excluded.until \
        where follower.holder = excluded.holder or follower.until < \
        (extract(epoch from clock_timestamp()) * 1000000)::bigint returning seq";
    FOLLOWER_LEAVE = "update follower set until = 0 where name = $1 and holder = $2";
}

/// Which webhooks a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookFilter {
    /// Whether anything is delivered to them.
    pub enabled: Option<bool>,
}

impl Table for WebhookBody {
    const TABLE: &'static str = "webhook";
    const COLUMNS: &'static [Column] = &[Column::filter("enabled")];
    const COUNTER: &'static str = "webhooks";
    type Filter = WebhookFilter;

    fn columns(&self) -> Vec<Value> {
        values![self.enabled]
    }

    fn asked(filter: &WebhookFilter) -> Vec<Value> {
        values![filter.enabled.map(u64::from)]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<WebhookBody>);
        &STATEMENTS
    }
}

/// The follower that feeds webhooks.
pub const WEBHOOK_FOLLOWER: &str = "webhooks";

/// How a round of deliveries leaves a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedMove {
    /// The webhook.
    pub webhook: WebhookId,
    /// Where its cursor was.
    pub from: i64,
    /// Where it is to be.
    pub to: i64,
    /// What was seen of [`WebhookFeed::asked`].
    pub asked: i64,
}

fn missing_webhook(id: WebhookId) -> Probe {
    Probe::always(move || missing::<WebhookBody>(id))
}

/// Somebody wants something of the webhook meanwhile.
fn moved() -> Probe {
    Probe::always(|| Error::new(Code::Conflict, "the webhook has more to do"))
}

impl Write {
    /// Makes the feed of a new webhook, which begins with what comes next.
    /// Guard: its organisation has no more than `webhooks_max`.
    pub fn webhook_feed_insert(&mut self, id: WebhookId, secret: &[u8], webhooks_max: u32) {
        self.add(&WEBHOOK_ROOM, values![self.org, webhooks_max]).expect_one(Probe::always(
            move || {
                Error::new(
                    Code::QuotaExceeded,
                    format!("an organisation may have {webhooks_max} webhooks"),
                )
            },
        ));
        self.add(&FEED_INSERT, values![self.org, id, secret.to_vec()]);
    }

    /// There is something for a webhook: it stands in the log behind `examined`,
    /// and its last place so far is `last`.
    pub fn webhook_wake(&mut self, id: WebhookId, examined: i64, last: i64, now: Timestamp) {
        self.contend(id.to_bytes());
        self.add(&FEED_WAKE, values![examined, last, self.org, id]);
        self.webhook_job(id, now);
    }

    /// A webhook goes on where it stopped.
    pub fn webhook_resume(&mut self, id: WebhookId, now: Timestamp) {
        self.contend(id.to_bytes());
        self.add(&FEED_CATCH_UP, values![self.org, id]).expect_one(missing_webhook(id));
        self.webhook_job(id, now);
        self.webhook_hurry(id, now);
    }

    /// A webhook stops, and will go on with what comes from now on or waits for it.
    pub fn webhook_pause(&mut self, id: WebhookId) {
        self.contend(id.to_bytes());
        self.add(&FEED_PAUSE, values![WEBHOOK_FOLLOWER, self.org, id])
            .expect_one(missing_webhook(id));
    }

    /// A webhook gets everything again that comes after a place.
    pub fn webhook_replay(&mut self, id: WebhookId, after: i64, now: Timestamp) {
        self.contend(id.to_bytes());
        self.add(&FEED_REPLAY, values![after, self.org, id]).expect_one(missing_webhook(id));
        // It comes again if it is behind that place.
        self.add(&DELIVERY_GIVE_UP, values!["left behind by a replay", now, self.org, id]);
        self.webhook_job(id, now);
        self.webhook_hurry(id, now);
    }

    /// Somebody asked for a delivery that the same write stores.
    pub fn webhook_ask(&mut self, id: WebhookId, now: Timestamp) {
        self.contend(id.to_bytes());
        self.add(&FEED_ASK, values![self.org, id]).expect_one(missing_webhook(id));
        self.webhook_job(id, now);
        self.webhook_hurry(id, now);
    }

    fn webhook_job(&mut self, id: WebhookId, now: Timestamp) {
        let nobody = WorkerId::from_bytes([0; 16]);
        self.add(&LANE_OPEN, values![self.org, id]);
        let kind = JobKind::Webhook.as_str();
        self.add(&WEBHOOK_JOB_ADD, values![self.org, id, kind, nobody, now]);
    }

    /// A job that waits for its next try goes at once.
    fn webhook_hurry(&mut self, id: WebhookId, now: Timestamp) {
        self.add(&WEBHOOK_JOB_HURRY, values![now, self.org, id]);
    }

    /// Signs with another secret from now on, and until `until` with the one
    /// before, too.
    pub fn webhook_rotate(&mut self, id: WebhookId, secret: &[u8], until: Timestamp) {
        self.add(&FEED_ROTATE, values![until, secret.to_vec(), self.org, id])
            .expect_one(missing_webhook(id));
    }

    /// Deletes what belongs to a webhook beside its row: its feed, its job, its lane
    /// and its deliveries.
    pub fn webhook_forget(&mut self, id: WebhookId) {
        self.contend(id.to_bytes());
        self.add(&FEED_DELETE, values![self.org, id]);
        self.add(&WEBHOOK_LANE_DELETE, values![self.org, id]);
        self.add(&WEBHOOK_JOB_DELETE, values![self.org, id]);
        self.add(&DELIVERY_DELETE_ALL, values![self.org, id]);
    }

    /// Moves a cursor, unless it was moved otherwise; the place says what was
    /// asked so far, see [`Written::webhook_asked`].
    pub fn webhook_move(&mut self, moved: &FeedMove) -> usize {
        self.contend(moved.webhook.to_bytes());
        let place = self.next();
        self.add(&FEED_MOVE, values![moved.to, self.org, moved.webhook, moved.from]).returning();
        place
    }

    /// Gives the job up until a later time, if nobody asked for anything meanwhile.
    pub fn webhook_rest(&mut self, moved: &FeedMove, job: &ClaimedJob, until: Timestamp) {
        let FeedMove { webhook, from, to, asked } = *moved;
        self.contend(webhook.to_bytes());
        self.add(&FEED_REST, values![to, self.org, webhook, from, asked]).expect_one(self::moved());
        self.job_defer(job, until);
    }

    /// Ends the job of a webhook that delivers nothing, if nobody asked for
    /// anything meanwhile.
    pub fn webhook_stop(&mut self, moved: &FeedMove, job: &ClaimedJob) {
        let FeedMove { webhook, from, to, asked } = *moved;
        self.contend(webhook.to_bytes());
        self.add(&FEED_REST, values![to, self.org, webhook, from, asked]).expect_one(self::moved());
        self.job_end(job);
    }

    /// Ends the job, if nothing more is wanted.
    pub fn webhook_end(&mut self, moved: &FeedMove, job: &ClaimedJob) {
        let FeedMove { webhook, from, to, asked } = *moved;
        self.contend(webhook.to_bytes());
        self.add(&FEED_END, values![to, self.org, webhook, from, asked]).expect_one(self::moved());
        self.job_end(job);
    }

    /// Stores how a delivery stands.
    pub fn webhook_delivery_save(&mut self, webhook: WebhookId, delivery: &WebhookDelivery) {
        self.add(
            &DELIVERY_SAVE,
            values![
                self.org,
                webhook,
                delivery.id,
                delivery.seq,
                &delivery.event_type,
                delivery.state.as_str(),
                delivery.attempts,
                delivery.status.map(i64::unsigned_abs),
                delivery.error.as_ref(),
                &delivery.body,
                delivery.created_at,
                delivery.attempted_at,
                delivery.next_at,
                delivery.finished_at,
                delivery.asked,
            ],
        );
    }

    /// Guard: no more than this many deliveries were asked for and not tried yet.
    pub fn webhook_asked_room(&mut self, webhook: WebhookId, asked_max: u32) {
        self.add(&DELIVERY_ROOM, values![self.org, webhook, asked_max]).expect_one(Probe::always(
            move || {
                let detail = format!("{asked_max} deliveries of this webhook wait to be tried");
                Error::new(Code::Overloaded, detail)
            },
        ));
    }

    /// Asks for a delivery again that was delivered or given up.
    pub fn webhook_delivery_ask(&mut self, webhook: WebhookId, id: [u8; 16], now: Timestamp) {
        let probe =
            Probe::read(
                &DELIVERY_FOUND,
                values![self.org, webhook, id],
                move |found| match found {
                    None => Error::not_found("delivery", JobId::from_bytes(id)),
                    Some(_) => Error::new(Code::Conflict, "the delivery is being tried already"),
                },
            );
        self.add(&DELIVERY_ASK, values![now, self.org, webhook, id]).expect_one(probe);
    }

    /// Forgets all but the newest deliveries of a webhook.
    pub fn webhook_deliveries_prune(&mut self, webhook: WebhookId, kept_max: u32) {
        self.add(&DELIVERY_PRUNE, values![self.org, webhook, kept_max.saturating_sub(1)]);
    }

    /// Stores how far a follower is.
    pub fn follower_save(&mut self, name: &'static str, seq: i64) {
        self.add(&FOLLOWER_SAVE, values![name, seq, WorkerId::from_bytes([0; 16])]);
    }
}

impl Written {
    /// What was asked of a webhook so far; none when its cursor was moved otherwise.
    pub fn webhook_asked(&self, place: usize) -> Option<i64> {
        match self.rows(place).first().map(Vec::as_slice) {
            Some([Value::Int(asked)]) => Some(*asked),
            _ => None,
        }
    }
}

/// No organisation: followers work for the whole installation.
const SYSTEM: OrgId = OrgId::from_bytes([0; 16]);

impl Store {
    /// An organisation's webhooks that something is delivered to.
    pub async fn webhook_enabled(&self, org: OrgId) -> Result<Vec<Document<WebhookBody>>> {
        self.scan(&WEBHOOK_ENABLED, values![org], document).await
    }

    /// Whether anything is delivered to any webhook of the installation.
    pub async fn webhook_any(&self) -> Result<bool> {
        Ok(self.point(&WEBHOOK_ANY, values![], value::int).await?.is_some())
    }

    /// The cursor of the webhook that is furthest behind; 0 when there is none.
    pub async fn webhook_behind(&self) -> Result<i64> {
        Ok(self.point(&WEBHOOK_BEHIND, values![], value::int).await?.unwrap_or(0))
    }

    /// How far a webhook is.
    pub async fn webhook_feed(&self, org: OrgId, id: WebhookId) -> Result<Option<WebhookFeed>> {
        self.point(&FEED_GET, values![org, id], |row| {
            Ok(WebhookFeed {
                cursor: row.int()?,
                wanted: row.int()?,
                asked: row.int()?,
                secret: row.bytes()?,
                secret_before: row.opt_bytes()?.zip(row.opt_time()?),
            })
        })
        .await
    }

    /// A delivery of a webhook.
    pub async fn webhook_delivery_get(
        &self,
        org: OrgId,
        webhook: WebhookId,
        id: [u8; 16],
    ) -> Result<Option<WebhookDelivery>> {
        self.point(&DELIVERY_GET, values![org, webhook, id], delivery).await
    }

    /// Deliveries of a webhook that somebody asked for, at most `limit`.
    pub async fn webhook_deliveries_asked(
        &self,
        org: OrgId,
        webhook: WebhookId,
        limit: u32,
    ) -> Result<Vec<WebhookDelivery>> {
        self.scan(&DELIVERY_ASKED, values![org, webhook, limit], delivery).await
    }

    /// The delivery of the log that was begun and neither arrived nor was given up.
    pub async fn webhook_delivery_begun(
        &self,
        org: OrgId,
        webhook: WebhookId,
    ) -> Result<Option<WebhookDelivery>> {
        self.point(&DELIVERY_BEGUN, values![org, webhook], delivery).await
    }

    /// A page of a webhook's deliveries.
    pub async fn webhook_delivery_list(
        &self,
        org: OrgId,
        webhook: WebhookId,
        state: Option<DeliveryState>,
        page: &PageRequest,
    ) -> Result<Page<WebhookDelivery>> {
        let (after, limit, offset) = cursor(page);
        let sql = list_page(page, &DELIVERY_LIST_ASC, &DELIVERY_LIST_DESC);
        let state = state.map(DeliveryState::as_str);
        let bound = values![org, webhook, after, state, limit, offset];
        let rows = self.list(page, sql, bound, delivery).await?;
        let filter = values![webhook, state];
        self.filtered_page(rows, page, &DELIVERY_COUNT, org, filter, |delivery| delivery.id).await
    }

    /// How far a follower said it was; none when it never did.
    pub async fn follower_get(&self, name: &'static str) -> Result<Option<i64>> {
        self.point(&FOLLOWER_GET, values![name], value::int).await
    }

    /// Takes, or keeps, a follower's work for this long; whether this process has
    /// it. On SQLite there is one process, which always has.
    pub async fn follower_hold(
        &self,
        name: &'static str,
        worker: WorkerId,
        lease: std::time::Duration,
    ) -> Result<bool> {
        if self.is_sqlite() {
            return Ok(true);
        }
        let lease = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        let mut write = Write::new(SYSTEM);
        write.add(&FOLLOWER_HOLD, values![name, worker, lease]).returning();
        Ok(!self.write(write).await?.rows(0).is_empty())
    }

    /// Leaves a follower's work to other processes.
    pub async fn follower_leave(&self, name: &'static str, worker: WorkerId) -> Result<()> {
        let mut write = Write::new(SYSTEM);
        write.add(&FOLLOWER_LEAVE, values![name, worker]);
        self.write(write).await.map(|_| ())
    }

    /// Stores how far a follower is.
    pub async fn follower_moved(&self, name: &'static str, seq: i64) -> Result<()> {
        let mut write = Write::new(SYSTEM).bulk();
        write.follower_save(name, seq);
        self.write(write).await.map(|_| ())
    }
}

fn delivery(row: &mut Columns<'_>) -> Result<WebhookDelivery> {
    Ok(WebhookDelivery {
        id: row.id()?,
        seq: row.int()?,
        event_type: row.text()?,
        state: DeliveryState::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("a delivery's state"))?,
        attempts: row.int()?,
        status: row.opt_int()?,
        error: row.opt_text()?,
        body: row.text()?,
        created_at: row.time()?,
        attempted_at: row.opt_time()?,
        next_at: row.opt_time()?,
        finished_at: row.opt_time()?,
        asked: row.int()? != 0,
    })
}
