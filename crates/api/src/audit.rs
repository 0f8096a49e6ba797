//! Who did what, when and from where, over HTTP.

use std::collections::BTreeMap;

use agentry_domain::log::LoggedEntry;
use agentry_domain::{KeyId, Order, PageRequest, Result, Timestamp};
use agentry_engine::{Actor, AuditFilter};
use agentry_gateway::Authenticated;
use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::answer::{Handled, raw};
use crate::extract::Query;
use crate::fields::{Fields, FromFields};
use crate::lists::{List, list, page_request};
use crate::query_parameters;
use crate::state::ApiState;

/// Characters of an event's type.
const EVENT_TYPE_CHARS_MAX: usize = 100;
/// Characters of an id.
const ID_CHARS_MAX: usize = 36;

/// Who did something.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditActor)]
pub struct ActorAnswer<'a> {
    /// `key`, or `token` of an identity provider.
    #[schema(example = "key")]
    kind: &'static str,
    /// The key's id, or the one under which the token's holder acts.
    #[schema(value_type = String, format = "uuid")]
    id: KeyId,
    /// Who signed the token.
    issuer: Option<&'a str>,
    /// Whom the token is about.
    subject: Option<&'a str>,
}

/// Something that was done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct EntryAnswer<'a> {
    /// Its place in the log.
    seq: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Who did it; null for the server itself, and for those who are not known.
    actor: Option<ActorAnswer<'a>>,
    /// From where; null for the server itself.
    #[schema(example = "192.0.2.7")]
    address: Option<&'a str>,
    /// What was done. `access.denied` counts refusals of a minute or so.
    #[schema(example = "agent.updated")]
    event_type: &'a str,
    /// What kind of thing it was done to.
    #[schema(example = "agent")]
    entity_type: &'a str,
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    entity_id: Uuid,
    /// More about it.
    #[schema(value_type = Object)]
    data: &'a RawValue,
}

fn entry<'a>(
    entry: &'a LoggedEntry,
    actors: &'a BTreeMap<KeyId, Actor>,
) -> Result<EntryAnswer<'a>> {
    let actor = entry.actor.map(|id| match actors.get(&id) {
        Some(Actor::Token { id, issuer, subject }) => {
            ActorAnswer { kind: "token", id: *id, issuer: Some(issuer), subject: Some(subject) }
        }
        Some(Actor::Key(_)) | None => ActorAnswer { kind: "key", id, issuer: None, subject: None },
    });
    Ok(EntryAnswer {
        seq: entry.seq,
        at: entry.at,
        actor,
        address: entry.address.as_deref(),
        event_type: &entry.kind,
        entity_type: &entry.entity,
        entity_id: Uuid::from_bytes(entry.id),
        data: raw(&entry.data)?,
    })
}

/// Which entries.
pub struct AuditQuery(AuditFilter, PageRequest);

query_parameters!(AuditQuery);

impl FromFields for AuditQuery {
    fn read(fields: &mut Fields) -> Self {
        let actor = fields
            .reference::<KeyId>("actor")
            .about("What this key, or holder of tokens, did.")
            .optional();
        let event_type = fields
            .text("event_type", 1..=EVENT_TYPE_CHARS_MAX)
            .about("Exactly this type, such as `key.created`.")
            .optional();
        let entity_type = fields
            .text("entity_type", 1..=EVENT_TYPE_CHARS_MAX)
            .about("What was done to this kind of thing, such as `agent`.")
            .optional();
        let entity_id =
            fields.text("entity_id", 1..=ID_CHARS_MAX).about("What was done to this thing.");
        let entity_id = entity_id.optional().and_then(|text| {
            let id = Uuid::parse_str(&text).ok();
            if id.is_none() {
                fields.fault("entity_id", "not_an_id", "is no id");
            }
            id
        });
        let filter = AuditFilter {
            actor,
            event_type,
            entity_type,
            entity_id: entity_id.map(Uuid::into_bytes),
        };
        Self(filter, page_request(fields, Order::Descending))
    }
}

/// List what was done
///
/// Newest first, from the log, for as long as it is kept. A page looks at 10,000 entries
/// at most: one with a filter may have fewer items than asked for, and a `next_cursor`.
/// `total` counts among the newest 10,000 entries.
#[utoipa::path(
    get,
    path = "/api/v1/audit",
    tag = "audit",
    params(AuditQuery),
    responses((status = 200, description = "A page of it.", body = List<EntryAnswer<'static>>)),
)]
pub async fn audit_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(AuditQuery(filter, page)): Query<AuditQuery>,
) -> Handled {
    let (found, actors) = state.engine.audit_list(&caller, &filter, &page).await?;
    list(&found, page.order, |item| entry(item, &actors))
}
