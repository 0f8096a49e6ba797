//! Webhooks: who registers one and what can be asked of it. What is new for them
//! is found by [`follower`], and sent by [`deliver`].

mod deliver;
mod follower;
mod signature;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::idempotency::Remembered;
use agentry_domain::log::EntityKind;
use agentry_domain::webhooks::{
    DeliveryState, WEBHOOK_SECRET_PREFIX, Webhook, WebhookBody, WebhookDelivery,
};
use agentry_domain::{
    Caller, Code, Document, Done, Error, Fault, Once, OrgId, Page, PageRequest, Permission, Result,
    Role, Timestamp, WebhookId,
};
use agentry_events::Filter;
use agentry_outbound::Url;
use agentry_store::Write;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use uuid::Uuid;

use crate::sealing::Sealed;
use crate::{Engine, entry, version_data};

pub(crate) use deliver::DeliveryPlaces;

/// How long the secret before the newest one signs too.
pub const SECRET_BEFORE_SIGNS_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Deliveries of one webhook that were asked for and not tried yet.
const ASKED_MAX: u32 = 100;
/// What deliveries that stand in no log are called.
const PING: &str = "ping";

/// The bounds of webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookLimits {
    /// Webhooks of one organisation.
    pub org_webhooks_max: u32,
    /// How long one try may take.
    pub timeout: Duration,
    /// Tries until a delivery is given up.
    pub attempts_max: u32,
    /// How long until the second try; each pause after that is twice as long.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Deliveries of one webhook that are remembered.
    pub deliveries_kept_max: u32,
    /// Deliveries that are under way at once in this process.
    pub delivering_max: usize,
}

impl Default for WebhookLimits {
    fn default() -> Self {
        Self {
            org_webhooks_max: 100,
            timeout: Duration::from_secs(15),
            attempts_max: 10,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(3_600),
            deliveries_kept_max: 1_000,
            delivering_max: 64,
        }
    }
}

/// What this process did for webhooks since it began.
#[derive(Debug, Default)]
pub(crate) struct DeliveryCounts {
    delivered: AtomicU64,
    failed: AtomicU64,
    given_up: AtomicU64,
}

impl DeliveryCounts {
    /// A try ended so, and was stored.
    fn tried(&self, state: DeliveryState) {
        let count = match state {
            DeliveryState::Delivered => &self.delivered,
            DeliveryState::Waiting => &self.failed,
            DeliveryState::Dead => &self.given_up,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What this process did for webhooks since it began, and what it does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookActivity {
    /// Deliveries that arrived.
    pub delivered: u64,
    /// Tries that failed and are followed by another.
    pub failed: u64,
    /// Deliveries that were given up.
    pub given_up: u64,
    /// Webhooks that are being delivered to.
    pub delivering: u64,
}

/// A webhook that was just made.
#[derive(Debug)]
pub struct WebhookMade {
    /// The webhook.
    pub webhook: Done<Document<WebhookBody>>,
    /// What its receiver checks signatures with; none when the request was sent
    /// before. It is not shown again.
    pub secret: Option<String>,
}

fn sealed(org: OrgId, id: WebhookId) -> Sealed {
    Sealed { purpose: "webhook", org, id: id.to_bytes() }
}

fn secret_text(secret: &[u8]) -> String {
    format!("{WEBHOOK_SECRET_PREFIX}{}", BASE64_STANDARD.encode(secret))
}

/// What a webhook hears of: its lists, and without a list of kinds those that
/// administrators may follow.
fn filter_of(body: &WebhookBody) -> Filter {
    let given = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let may_hear = |kind: &EntityKind| Role::Admin.allows(Permission::to_follow(*kind));
    let entity_types = match given(&body.entity_types) {
        Some(names) => names.iter().filter_map(|name| EntityKind::parse(name)).collect(),
        None => EntityKind::ALL.iter().copied().filter(may_hear).collect(),
    };
    let ids = |ids: Vec<String>| {
        ids.iter().filter_map(|id| Uuid::try_parse(id).ok()).map(Uuid::into_bytes).collect()
    };
    Filter {
        event_types: given(&body.event_types),
        entity_types: Some(entity_types),
        entity_ids: given(&body.entity_ids).map(ids),
        group_ids: given(&body.group_ids).map(|groups| groups.into_iter().collect()),
        nothing: false,
    }
}

impl Engine {
    /// What this process did for webhooks.
    pub fn webhook_activity(&self) -> WebhookActivity {
        let counts = &self.0.deliveries;
        let free = self.0.delivering.available_permits();
        WebhookActivity {
            delivered: counts.delivered.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            given_up: counts.given_up.load(Ordering::Relaxed),
            delivering: self.0.options.webhooks.delivering_max.saturating_sub(free) as u64,
        }
    }

    /// Registers a webhook. Its secret is made here.
    pub async fn webhook_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: WebhookBody,
    ) -> Result<WebhookMade> {
        if self.remembered(caller, once).await?.is_none() {
            self.check_url(&body.url)?;
            check_may_hear(caller, &body)?;
        }
        let key = self.sealing().await?;
        let secret = self.0.entropy.secret();
        let closed = OnceLock::new();
        let body = WebhookBody { created_by: caller.key, ..body };
        let with_secret = async |id: WebhookId| {
            let text = key.seal(&sealed(caller.org, id), &secret, self.0.entropy.secret())?;
            let _ = closed.set(text);
            Ok(body)
        };
        let webhooks_max = self.0.options.webhooks.org_webhooks_max;
        let also = |write: &mut Write, webhook: &Webhook| {
            let secret = closed.get().map_or(&[][..], Vec::as_slice);
            write.webhook_feed_insert(webhook.id, secret, webhooks_max);
        };
        let webhook = self.resource_create_after(caller, once, with_secret, also).await?;
        self.0.webhooks_changed.notify_one();
        let secret = (!webhook.replayed).then(|| secret_text(&secret));
        Ok(WebhookMade { webhook, secret })
    }

    /// Changes a webhook. One that is disabled delivers nothing, and goes on where
    /// it stopped when it is enabled again.
    pub async fn webhook_update(
        &self,
        caller: &Caller,
        id: WebhookId,
        if_match: Option<i64>,
        change: impl Fn(&Webhook) -> Result<WebhookBody> + Sync,
    ) -> Result<Document<WebhookBody>> {
        let checked = |was: &Webhook| {
            let body = change(was)?;
            if body.url != was.url {
                self.check_url(&body.url)?;
            }
            if body.entity_types != was.entity_types {
                check_may_hear(caller, &body)?;
            }
            Ok(body)
        };
        let now = self.now();
        let also = |write: &mut Write, was: &Webhook, will_be: &Webhook| match (
            was.enabled,
            will_be.enabled,
        ) {
            (true, false) => write.webhook_pause(id),
            (false, true) => write.webhook_resume(id, now),
            _ => {}
        };
        let changed = self.resource_update_with(caller, id, if_match, checked, also).await?;
        self.0.webhooks_changed.notify_one();
        self.0.claimable.notify_one();
        Ok(changed)
    }

    /// Deletes a webhook with what waits for it and what is remembered of it.
    pub async fn webhook_delete(
        &self,
        caller: &Caller,
        id: WebhookId,
        if_match: Option<i64>,
    ) -> Result<()> {
        self.resource_delete_with::<WebhookBody>(caller, id, if_match, |write, was| {
            write.webhook_forget(was.id);
            write.resource_delete::<WebhookBody>(was.id, was.version);
        })
        .await
    }

    /// Makes another secret. The one before signs too, for a day. None when the
    /// request was sent before: it is not shown again.
    pub async fn webhook_rotate(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        id: WebhookId,
    ) -> Result<Option<String>> {
        let webhook = self.resource_get::<WebhookBody>(caller, id).await?;
        if self.remembered(caller, once).await?.is_some() {
            return Ok(None);
        }
        let (key, now) = (self.sealing().await?, self.now());
        let secret = self.0.entropy.secret();
        let text = key.seal(&sealed(caller.org, id), &secret, self.0.entropy.secret())?;
        let mut write = Write::new(caller.org);
        write.webhook_rotate(id, &text, now.plus(SECRET_BEFORE_SIGNS_FOR));
        let (kind, data) = (EntityKind::Webhook, version_data(webhook.version));
        write.log(entry(caller, now, "webhook.secret_rotated", kind, id.to_bytes(), data));
        let before = self.write_once(caller, once, write, (id.to_bytes(), ""), now).await?;
        Ok(before.is_none().then(|| secret_text(&secret)))
    }

    /// Sends an event that means nothing, to see whether it arrives.
    pub async fn webhook_ping(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        id: WebhookId,
    ) -> Result<Done<WebhookDelivery>> {
        let as_before = |before: Remembered| {
            let at = Timestamp::from_micros(before.at);
            Ok(Done { value: ping(before.id, id, at), replayed: true })
        };
        if let Some(before) = self.remembered(caller, once).await? {
            return as_before(before);
        }
        self.check_enabled(caller, id).await?;
        let now = self.now();
        let ping = ping(self.uuid(now).into_bytes(), id, now);
        let mut write = Write::new(caller.org);
        write.webhook_ask(id, now);
        write.webhook_delivery_save(id, &ping);
        write.webhook_asked_room(id, ASKED_MAX);
        if let Some(before) = self.write_once(caller, once, write, (ping.id, ""), now).await? {
            return as_before(before);
        }
        self.0.claimable.notify_one();
        Ok(Done::now(ping))
    }

    /// Tries a delivery once more that was delivered or given up.
    pub async fn webhook_delivery_retry(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        id: WebhookId,
        delivery: [u8; 16],
    ) -> Result<Done<WebhookDelivery>> {
        let mut replayed = self.remembered(caller, once).await?.is_some();
        if !replayed {
            self.check_enabled(caller, id).await?;
            let now = self.now();
            let mut write = Write::new(caller.org);
            write.webhook_ask(id, now);
            write.webhook_delivery_ask(id, delivery, now);
            write.webhook_asked_room(id, ASKED_MAX);
            let before = self.write_once(caller, once, write, (delivery, ""), now).await?;
            replayed = before.is_some();
            self.0.claimable.notify_one();
        }
        let found = self.0.store.webhook_delivery_get(caller.org, id, delivery).await?;
        let value =
            found.ok_or_else(|| Error::not_found("delivery", Uuid::from_bytes(delivery)))?;
        Ok(Done { value, replayed })
    }

    /// Delivers again what comes after a place of the log.
    pub async fn webhook_replay(&self, caller: &Caller, id: WebhookId, after: i64) -> Result<()> {
        self.check_enabled(caller, id).await?;
        let head = self.0.store.log_head().await?;
        if after > head {
            let detail = format!("is ahead of the log, whose newest place is {head}");
            return Err(Error::invalid(vec![Fault::new("/after", "out_of_range", detail)]));
        }
        let now = self.now();
        let mut write = Write::new(caller.org);
        write.webhook_replay(id, after, now);
        self.0.store.write(write).await?;
        self.0.claimable.notify_one();
        Ok(())
    }

    /// A page of a webhook's deliveries.
    pub async fn webhook_delivery_list(
        &self,
        caller: &Caller,
        id: WebhookId,
        state: Option<DeliveryState>,
        page: &PageRequest,
    ) -> Result<Page<WebhookDelivery>> {
        self.resource_get::<WebhookBody>(caller, id).await?;
        Ok(self.0.store.webhook_delivery_list(caller.org, id, state, page).await?)
    }

    async fn check_enabled(&self, caller: &Caller, id: WebhookId) -> Result<()> {
        let webhook = self.resource_get::<WebhookBody>(caller, id).await?.entity()?;
        if webhook.enabled {
            return Ok(());
        }
        Err(Error::new(Code::Conflict, "the webhook is disabled, and delivers nothing"))
    }

    /// Refuses what is no URL that may be called. A name is checked again, for what
    /// it resolves to, whenever a connection is made.
    fn check_url(&self, url: &str) -> Result<()> {
        let refused =
            |code, detail: String| Err(Error::invalid(vec![Fault::new("/url", code, detail)]));
        match Url::parse(url) {
            Err(error) => refused("malformed", format!("is no absolute URL: {error}")),
            Ok(url) => match self.0.webhook_client.check(&url) {
                Err(reason) => refused("not_allowed", reason.to_string()),
                Ok(()) => Ok(()),
            },
        }
    }
}

/// A test, as it is before it was tried.
fn ping(id: [u8; 16], webhook: WebhookId, at: Timestamp) -> WebhookDelivery {
    WebhookDelivery {
        id,
        seq: 0,
        event_type: PING.to_owned(),
        state: DeliveryState::Waiting,
        attempts: 0,
        status: None,
        error: None,
        body: format!(r#"{{"type":"ping","webhook_id":"{webhook}","timestamp":"{at}"}}"#),
        created_at: at,
        attempted_at: None,
        next_at: Some(at),
        finished_at: None,
        asked: true,
    }
}

/// A webhook hears of nothing that whoever registers it may not follow.
fn check_may_hear(caller: &Caller, body: &WebhookBody) -> Result<()> {
    let kinds = filter_of(body).entity_types.unwrap_or_default();
    match kinds.into_iter().find(|kind| !caller.may_follow(*kind)) {
        None => Ok(()),
        Some(kind) => Err(Error::new(
            Code::Forbidden,
            format!("this key may not follow {}; name the entity_types", kind.as_str()),
        )),
    }
}
