//! Delivering: the job of a webhook's lane. It first tries, once each, what
//! somebody asked for, then what stands in the log after the webhook's cursor, one
//! event after the other. The cursor moves in the write that stores what became of
//! a delivery: a process that is killed before it delivers again, under the same id.
//!
//! What cannot be delivered is tried again after a pause that grows, and given up
//! after a number of tries; only this webhook waits for it.

use std::sync::Arc;
use std::time::Duration;

use agentry_domain::webhooks::{DeliveryState, WebhookBody, WebhookDelivery, WebhookFeed};
use agentry_domain::{Code, Error, OrgId, Result, Timestamp, WebhookId};
use agentry_events::{Filter, event_json};
use agentry_outbound::{Failure, PostJson, Reply, Url};
use agentry_store::{ClaimedJob, FeedMove, Write};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use crate::Engine;

use super::signature::sign;
use super::{filter_of, sealed};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Entries that are read from the log at once.
const PAGE_ENTRIES: u32 = 250;
/// Deliveries that were asked for and are read at once.
const ASKED_AT_ONCE: u32 = 20;
/// Deliveries after which those that are too old are forgotten.
const PRUNE_EVERY: u32 = 100;
/// How long until a round that failed here is begun again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long the rest of an answer is waited for, whose status is all that counts.
/// A connection whose answer was read can be used again.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// What an event that tells of a gap is called.
const GAP: &str = "gap";

/// Places for deliveries in this process.
pub(crate) type DeliveryPlaces = Arc<Semaphore>;

/// A webhook as a round finds it.
struct Round {
    job: ClaimedJob,
    webhook: WebhookId,
    url: Url,
    filter: Filter,
    feed: WebhookFeed,
    secrets: Vec<Vec<u8>>,
    /// What the log was examined up to.
    examined: i64,
    /// Deliveries that were stored.
    saved: u32,
}

/// What a delivery is about.
struct Item {
    id: [u8; 16],
    /// Where the cursor is once it was delivered.
    seq: i64,
    event_type: String,
    body: String,
}

/// How a try ended.
struct Tried {
    status: Option<i64>,
    error: Option<String>,
    retry_after: Option<Duration>,
}

/// How a round ended.
enum End {
    /// The job ended or waits.
    Rested,
    /// Something was asked, or changed: look again.
    Again,
}

impl Engine {
    /// Carries out the job of a webhook, as far as that goes now.
    pub(crate) async fn webhook_claimed(&self, job: ClaimedJob) {
        let _held = self.0.held.hold(job.id);
        let stopping = self.0.tasks.stopping().clone();
        let places = Arc::clone(&self.0.delivering);
        let delivering = async {
            let _place = places.acquire_owned().await;
            self.webhook_deliver(job).await
        };
        let error = match stopping.run_until_cancelled(delivering).await {
            Some(Ok(())) => return,
            // A try that was cut off is made again; its id says so.
            None => None,
            Some(Err(error)) => Some(error),
        };
        let pause = if error.is_some() { AGAIN_AFTER } else { Duration::ZERO };
        if let Some(error) = error {
            tracing::warn!(webhook = %job.id, error = %error.chain(), "a webhook did not get on");
        }
        let mut write = Write::new(job.org);
        write.job_defer(&job, self.now().plus(pause));
        // When this fails the claim is found in nobody's hands, and given up then.
        if let Err(error) = self.0.store.write(write).await {
            let error = Error::from(error);
            tracing::debug!(webhook = %job.id, error = %error.chain(), "a claim could not be given up");
        }
    }

    async fn webhook_deliver(&self, job: ClaimedJob) -> Result<()> {
        let webhook = WebhookId::from_bytes(job.id.to_bytes());
        loop {
            // Deleted meanwhile, and its job with it.
            let Some(feed) = self.0.store.webhook_feed(job.org, webhook).await? else {
                return Ok(());
            };
            let Some(body) = self.0.store.resource_get::<WebhookBody>(job.org, webhook).await?
            else {
                return Ok(());
            };
            let body = body.entity()?.body;
            let ended = if body.enabled {
                self.webhook_round(job, webhook, body, feed).await
            } else {
                self.webhook_stop(job, webhook, &feed).await
            };
            match ended {
                Ok(End::Rested) => return Ok(()),
                Ok(End::Again) => {}
                // Somebody asked for something, unless the job is no longer this
                // process's.
                Err(error) if error.code == Code::Conflict => {
                    if !self.webhook_is_held(&job).await? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn webhook_is_held(&self, job: &ClaimedJob) -> Result<bool> {
        let mut write = Write::new(job.org);
        write.job_held(job);
        match self.0.store.write(write).await.map_err(Error::from) {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the job of a webhook that is disabled; its cursor stays.
    async fn webhook_stop(
        &self,
        job: ClaimedJob,
        webhook: WebhookId,
        feed: &WebhookFeed,
    ) -> Result<End> {
        let moved = FeedMove { webhook, from: feed.cursor, to: feed.cursor, asked: feed.asked };
        let mut write = Write::new(job.org);
        write.webhook_stop(&moved, &job);
        self.0.store.write(write).await?;
        Ok(End::Rested)
    }

    async fn webhook_round(
        &self,
        job: ClaimedJob,
        webhook: WebhookId,
        body: WebhookBody,
        feed: WebhookFeed,
    ) -> Result<End> {
        let url = Url::parse(&body.url).map_err(Error::internal)?;
        let mut round = Round {
            secrets: self.webhook_secrets(job.org, webhook, &feed).await?,
            filter: filter_of(&body),
            examined: feed.cursor,
            job,
            webhook,
            url,
            feed,
            saved: 0,
        };
        if self.deliver_asked(&mut round).await? {
            return Ok(End::Again);
        }
        self.deliver_log(&mut round).await
    }

    /// What signs: the newest secret, and for a while the one before.
    async fn webhook_secrets(
        &self,
        org: OrgId,
        webhook: WebhookId,
        feed: &WebhookFeed,
    ) -> Result<Vec<Vec<u8>>> {
        let key = self.sealing().await?;
        let what = sealed(org, webhook);
        let mut secrets = vec![key.open(&what, &feed.secret)?];
        if let Some((before, until)) = &feed.secret_before
            && *until > self.now()
        {
            secrets.push(key.open(&what, before)?);
        }
        Ok(secrets)
    }

    /// Tries what was asked for, once each; whether there was something.
    async fn deliver_asked(&self, round: &mut Round) -> Result<bool> {
        let (org, webhook) = (round.job.org, round.webhook);
        let asked = self.0.store.webhook_deliveries_asked(org, webhook, ASKED_AT_ONCE).await?;
        for mut delivery in asked.iter().cloned() {
            let tried = self.webhook_try(round, delivery.id, &delivery.body).await;
            let now = self.now();
            let arrived = tried.error.is_none();
            delivery.state = if arrived { DeliveryState::Delivered } else { DeliveryState::Dead };
            delivery.attempts += 1;
            delivery.asked = false;
            (delivery.status, delivery.error) = (tried.status, tried.error);
            (delivery.attempted_at, delivery.next_at) = (Some(now), None);
            delivery.finished_at = Some(now);
            let mut write = Write::new(org);
            self.save_delivery(&mut write, round, &delivery);
            self.0.store.write(write).await?;
            self.0.deliveries.tried(delivery.state);
        }
        Ok(!asked.is_empty())
    }

    /// Delivers what stands in the log after the cursor.
    async fn deliver_log(&self, round: &mut Round) -> Result<End> {
        let (org, store) = (round.job.org, &self.0.store);
        loop {
            // Before the page: what it does not have up to here concerns nobody.
            let head = store.log_head().await?;
            let page = store.log_read(org, round.examined, PAGE_ENTRIES).await?;
            // After it: what was deleted meanwhile may be missing above.
            let oldest = store.log_oldest().await?;
            if round.examined + 1 < oldest {
                // What was begun is kept, and is tried to its end.
                let begun = store.webhook_delivery_begun(org, round.webhook).await?;
                let begun = begun.filter(|it| round.examined < it.seq && it.seq < oldest);
                let gap = match begun {
                    None => self.gap(round, oldest),
                    Some(WebhookDelivery { id, seq, event_type, body, .. }) => {
                        Item { id, seq, event_type, body }
                    }
                };
                if let Some(end) = self.deliver(round, gap).await? {
                    return Ok(end);
                }
                continue;
            }
            for entry in &page {
                if round.filter.fits(entry) {
                    let item = Item {
                        id: delivery_id(round.webhook, entry.seq, "event", entry.at),
                        seq: entry.seq,
                        event_type: entry.kind.clone(),
                        body: event_json(entry),
                    };
                    if let Some(end) = self.deliver(round, item).await? {
                        return Ok(end);
                    }
                }
                round.examined = entry.seq;
            }
            if page.len() < PAGE_ENTRIES as usize {
                round.examined = round.examined.max(head);
                let mut write = Write::new(org);
                write.webhook_end(&round.moved(round.examined), &round.job);
                store.write(write).await?;
                return Ok(End::Rested);
            }
        }
    }

    /// The event that tells that entries of the log are gone which nobody delivered.
    fn gap(&self, round: &Round, oldest: i64) -> Item {
        let (from, to, now) = (round.examined + 1, oldest - 1, self.now());
        Item {
            id: delivery_id(round.webhook, from, GAP, Timestamp::from_micros(0)),
            seq: to,
            event_type: GAP.to_owned(),
            body: format!(
                r#"{{"type":"gap","from":{from},"to":{to},"oldest":{oldest},"timestamp":"{now}"}}"#
            ),
        }
    }

    /// Tries to deliver one event. None when the next one may follow.
    async fn deliver(&self, round: &mut Round, item: Item) -> Result<Option<End>> {
        let org = round.job.org;
        let before = self.0.store.webhook_delivery_get(org, round.webhook, item.id).await?;
        let waiting = before.as_ref().filter(|it| it.state == DeliveryState::Waiting && !it.asked);
        let (began, next_at) = (self.now(), waiting.and_then(|it| it.next_at));
        if let Some(until) = next_at.filter(|until| *until > began) {
            return self.rest(round, until).await.map(Some);
        }
        let attempts = waiting.map_or(0, |it| it.attempts) + 1;
        // What was begun is sent as it was, whoever goes on with it.
        let body = before.as_ref().map_or(item.body, |it| it.body.clone());
        let tried = self.webhook_try(round, item.id, &body).await;
        let now = self.now();
        let limits = &self.0.options.webhooks;
        let failed = tried.error.is_some();
        let gives_up = failed && attempts >= i64::from(limits.attempts_max);
        let pause = self.pause(attempts, tried.retry_after);
        let next_at = (failed && !gives_up).then(|| now.plus(pause));
        let delivery = WebhookDelivery {
            id: item.id,
            seq: item.seq,
            event_type: item.event_type,
            state: match (failed, gives_up) {
                (false, _) => DeliveryState::Delivered,
                (true, true) => DeliveryState::Dead,
                (true, false) => DeliveryState::Waiting,
            },
            attempts,
            status: tried.status,
            error: tried.error,
            body,
            created_at: before.as_ref().map_or(began, |it| it.created_at),
            attempted_at: Some(now),
            next_at,
            finished_at: next_at.is_none().then_some(now),
            asked: false,
        };
        let mut write = Write::new(org);
        let to = if next_at.is_none() { item.seq } else { round.feed.cursor };
        let place = write.webhook_move(&round.moved(to));
        self.save_delivery(&mut write, round, &delivery);
        let asked = self.0.store.write(write).await?.webhook_asked(place);
        self.0.deliveries.tried(delivery.state);
        if let Some(until) = next_at {
            return self.rest(round, until).await.map(Some);
        }
        (round.feed.cursor, round.examined) = (to, to);
        Ok((asked != Some(round.feed.asked)).then_some(End::Again))
    }

    /// Gives the job up until then.
    async fn rest(&self, round: &Round, until: Timestamp) -> Result<End> {
        let mut write = Write::new(round.job.org);
        write.webhook_rest(&round.moved(round.feed.cursor), &round.job, until);
        self.0.store.write(write).await?;
        Ok(End::Rested)
    }

    fn save_delivery(&self, write: &mut Write, round: &mut Round, delivery: &WebhookDelivery) {
        write.job_held(&round.job);
        write.webhook_delivery_save(round.webhook, delivery);
        if round.saved.is_multiple_of(PRUNE_EVERY) {
            let kept_max = self.0.options.webhooks.deliveries_kept_max;
            write.webhook_deliveries_prune(round.webhook, kept_max);
        }
        round.saved += 1;
    }

    /// How long until the next try: twice as long as the pause before, or as long
    /// as the receiver asks for, within the bounds.
    fn pause(&self, attempts: i64, retry_after: Option<Duration>) -> Duration {
        let limits = &self.0.options.webhooks;
        let doublings = u32::try_from(attempts - 1).unwrap_or(u32::MAX).min(31);
        let pause = limits.backoff_min.saturating_mul(1 << doublings);
        pause.max(retry_after.unwrap_or_default()).min(limits.backoff_max)
    }

    /// Sends a delivery once.
    async fn webhook_try(&self, round: &Round, id: [u8; 16], body: &str) -> Tried {
        let deadline = Instant::now() + self.0.options.webhooks.timeout;
        let call = PostJson {
            url: round.url.clone(),
            headers: round.headers(id, body, self.now()),
            body: Bytes::copy_from_slice(body.as_bytes()),
            deadline,
            first_byte_timeout: None,
            idle_timeout: None,
        };
        match self.0.webhook_client.post_json(call).await {
            Ok(reply) => answered(reply).await,
            Err(failure) => {
                tracing::debug!(webhook = %round.webhook, ?failure, "a delivery failed");
                let error = match failure {
                    Failure::Deadline => "there was no answer in time".to_owned(),
                    failure => failure.to_string(),
                };
                Tried { status: None, error: Some(error), retry_after: None }
            }
        }
    }
}

/// What an answer means. Its body means nothing, and is read, within bounds, only
/// so that the connection can be used again.
async fn answered(reply: Reply) -> Tried {
    let status = reply.status();
    let seconds = reply.headers().get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let _ = tokio::time::timeout(DRAIN_WITHIN, reply.bytes()).await;
    let error = match status {
        status if status.is_success() => None,
        status if status.is_redirection() => {
            Some(format!("the receiver answered {}; redirects are not followed", status.as_u16()))
        }
        status => Some(format!("the receiver answered {}", status.as_u16())),
    };
    Tried {
        status: Some(status.as_u16().into()),
        error,
        retry_after: seconds.map(Duration::from_secs),
    }
}

impl Round {
    fn moved(&self, to: i64) -> FeedMove {
        FeedMove {
            webhook: self.webhook,
            from: self.feed.cursor,
            to: to.max(self.feed.cursor),
            asked: self.feed.asked,
        }
    }

    fn headers(&self, id: [u8; 16], body: &str, now: Timestamp) -> HeaderMap {
        let id = Uuid::from_bytes(id).hyphenated().to_string();
        let timestamp = now.micros() / 1_000_000;
        let signature = sign(&self.secrets, &id, timestamp, body);
        let values = [
            (WEBHOOK_ID, id),
            (WEBHOOK_TIMESTAMP, timestamp.to_string()),
            (WEBHOOK_SIGNATURE, signature),
        ];
        // All of it is ASCII of our own making.
        let value = |(name, text): (_, String)| Some((name, HeaderValue::try_from(text).ok()?));
        values.into_iter().filter_map(value).collect()
    }
}

/// The id of what one webhook hears of one place of the log: the same whenever and
/// by whomever it is delivered, and in the order of the events' times. Of the form
/// of a UUIDv7 (RFC 9562, section 5.7).
fn delivery_id(webhook: WebhookId, seq: i64, what: &str, at: Timestamp) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&webhook.to_bytes());
    hasher.update(&seq.to_be_bytes());
    hasher.update(what.as_bytes());
    let mut random = [0; 10];
    random.copy_from_slice(&hasher.finalize().as_bytes()[..10]);
    let millis = at.micros().max(0).unsigned_abs() / 1_000;
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_has_one_id_for_good() {
        let webhook = WebhookId::from_bytes([1; 16]);
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let id = delivery_id(webhook, 7, "event", at(9));
        assert_eq!(delivery_id(webhook, 7, "event", at(9)), id);
        assert_ne!(delivery_id(webhook, 8, "event", at(9)), id);
        assert_ne!(delivery_id(webhook, 7, GAP, at(9)), id);
        assert_ne!(delivery_id(WebhookId::from_bytes([2; 16]), 7, "event", at(9)), id);
        assert!(delivery_id(webhook, 1, "event", at(10)) > id);
        assert_eq!(Uuid::from_bytes(id).get_version_num(), 7);
    }
}
