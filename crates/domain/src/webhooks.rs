//! Webhooks: URLs that hear of events, in the order of the log, each at least
//! once and always under the same id.

use serde::{Deserialize, Serialize};

use crate::ids::{KeyId, WebhookId};
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};
use crate::time::Timestamp;

/// What every secret begins with (Standard Webhooks).
pub const WEBHOOK_SECRET_PREFIX: &str = "whsec_";

/// A webhook, without its secret.
pub type Webhook = Entity<WebhookBody>;

/// What a webhook is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookBody {
    /// Where deliveries go.
    pub url: String,
    /// What it is for.
    pub description: String,
    /// Whether anything is delivered.
    pub enabled: bool,
    /// Types of events, as the filter of a socket names them; all when this is empty.
    pub event_types: Vec<String>,
    /// Kinds of things; all when this is empty.
    pub entity_types: Vec<String>,
    /// Ids of things; all when this is empty.
    pub entity_ids: Vec<String>,
    /// Groups of graphs; when this is empty, all, and what is in no group.
    #[serde(default)]
    pub group_ids: Vec<String>,
    /// The client's own.
    pub metadata: JsonText,
    /// The key that registered it.
    pub created_by: Option<KeyId>,
}

impl Resource for WebhookBody {
    type Id = WebhookId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::Webhook;
    const SHAPE: i64 = 2;

    fn also(&self, _id: WebhookId) {}
}

/// How far a webhook is in the log, and what signs its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookFeed {
    /// Everything up to this place was delivered, given up or did not concern it.
    pub cursor: i64,
    /// Up to here there is something that concerns it.
    pub wanted: i64,
    /// Grows whenever somebody asks for something: a retry, a replay, a test.
    pub asked: i64,
    /// The secret, sealed.
    pub secret: Vec<u8>,
    /// The secret before this one, sealed, and until when it signs too.
    pub secret_before: Option<(Vec<u8>, Timestamp)>,
}

named! {
    /// Where a delivery is.
    pub enum DeliveryState {
        /// It is tried, or tried again at `next_at`.
        Waiting = "waiting",
        /// The receiver answered with a 2xx status.
        Delivered = "delivered",
        /// It was given up.
        Dead = "dead",
    }
}

/// A delivery: one event on its way to one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookDelivery {
    /// Its id, the same whenever it is tried: `webhook-id`.
    pub id: [u8; 16],
    /// The event's place in the log; 0 for what does not stand in it.
    pub seq: i64,
    /// The event's type, or `ping` or `gap`.
    pub event_type: String,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it was tried since it last began.
    pub attempts: i64,
    /// The status of the last answer.
    pub status: Option<i64>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// What is sent.
    pub body: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last tried.
    pub attempted_at: Option<Timestamp>,
    /// When it is tried next.
    pub next_at: Option<Timestamp>,
    /// When it was delivered or given up.
    pub finished_at: Option<Timestamp>,
    /// Whether somebody asked for it, so that it is tried once, out of order.
    pub asked: bool,
}
