//! API keys over HTTP.

use agentry_domain::keys::{Key, KeyBody};
use agentry_domain::{Document, KeyId, Order, OrgId, PageRequest, Permission, Role};
use agentry_engine::{KeyFilter, KeyMade, KeySeen};
use agentry_gateway::Authenticated;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, no_content, tagged};
use crate::extract::{Json, PathId, Posted, Query};
use crate::fields::bounds::NAME_CHARS_MAX;
use crate::fields::kinds::{Choices, Instant, Text, Time, Uuid};
use crate::fields::{Change, Fields, FromFields, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

const PREFIX_CHARS_MAX: usize = 20;
const ID_CHARS_MAX: usize = 36;

type KeyPatch = Change<KeyBody>;
type KeyShown = Shown<KeyBody>;

impl ResourceFields for KeyBody {
    const NAME: &'static str = "Key";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        let name = fields
            .text("name", 1..=NAME_CHARS_MAX)
            .about("What people call it.")
            .example("billing service")
            .required_or_was(was.map(|was| &was.name));
        let role = fields.choice("role").about(
            "What its holder is, for good: `owner` may do everything, `admin` everything but what \
             concerns owners, `member` and `service` work with the resources, `viewer` reads.",
        );
        let role = match was {
            None => role.required(),
            Some(was) => role.fixed(Some(&Some(was.role))).unwrap_or(was.role),
        };
        let scopes = fields.field("scopes", Choices::<Permission>::new()).about(
            "What its holder may do of what the role allows, for good; all of it when this is \
             empty. A `write` does not bring the `read`.",
        );
        let scopes = match was {
            None => scopes.or(Vec::new()),
            Some(was) => scopes.fixed(Some(&Some(was.scopes.clone()))).unwrap_or_default(),
        };
        let expires_at = fields
            .field("expires_at", Instant)
            .about("From when on it opens nothing; null for never.")
            .optional_or_was(was.map(|was| &was.expires_at));
        let (prefix, created_by) = match was {
            None => (String::new(), None),
            Some(was) => (was.prefix.clone(), was.created_by),
        };
        Self { name, role, scopes, expires_at, prefix, created_by }
    }

    fn made(fields: &mut Fields) {
        let prefix = Text::of(1..=PREFIX_CHARS_MAX);
        fields.made("prefix", prefix, "How its secret begins, to tell keys apart.");
        fields.made_optional("created_by", Uuid, "The key that made it.", true);
        let used = "When it was last used, a second late at most; its version stays the same.";
        fields.made_optional("last_used_at", Time, used, true);
    }
}

/// Body of a new key.
#[derive(Clone, Debug)]
pub struct KeyCreate {
    /// The key.
    pub body: KeyBody,
    /// The organisation that it opens, when the request names one.
    pub org: Option<OrgId>,
}

body_schema!(KeyCreate, "KeyCreate");

impl FromFields for KeyCreate {
    fn read(fields: &mut Fields) -> Self {
        let body = KeyBody::fields(fields, None);
        let org = fields
            .text("org_id", 1..=ID_CHARS_MAX)
            .about(
                "The organisation that it opens; only the installation's owner may name another.",
            )
            .optional();
        let org = org.and_then(|org| {
            let id = org.parse().ok();
            if id.is_none() {
                fields.fault("org_id", "malformed", "is no id");
            }
            id
        });
        Self { body, org }
    }
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyCreated {
    #[serde(flatten)]
    #[schema(value_type = KeyShown)]
    key: KeyShown,
    /// What its holder shows. This answer alone has it; null when the request was sent before.
    #[schema(example = "ak_...")]
    secret: Option<String>,
}

/// Which keys.
pub struct KeyQuery(KeyFilter, PageRequest);

query_parameters!(KeyQuery);

impl FromFields for KeyQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = KeyFilter {
            name: fields.text("name", 1..=NAME_CHARS_MAX).about("Exactly this name.").optional(),
            role: fields.choice::<Role>("role").about("Of this role.").optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create a key
///
/// The answer has its secret, which is not stored and not shown again. Nobody makes
/// a key that may do more than the own one, or that lasts longer.
#[utoipa::path(
    post,
    path = "/api/v1/keys",
    tag = "keys",
    request_body = KeyCreate,
    responses(
        (status = 201, description = "The key.", body = KeyCreated, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 404, response = NotFound),
    ),
)]
pub async fn key_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: KeyCreate { body, org } }: Posted<KeyCreate>,
) -> Handled {
    let made = state.engine.key_create(&caller, once.as_ref(), org, body).await?;
    let KeyMade { key, secret } = made;
    let mut key = key.map(|key| seen((key, None)));
    add(&mut key.value.json, "secret", secret.as_deref());
    created(key, "/api/v1/keys")
}

/// The key with what is not in its document, because it changes without it.
fn seen((mut key, used): KeySeen) -> Document<KeyBody> {
    add(&mut key.json, "last_used_at", used.map(|used| used.to_string()).as_deref());
    key
}

/// Adds a field to a document, which is an object. The text is base-16 or an
/// instant: nothing in it has to be escaped.
fn add(document: &mut String, name: &str, text: Option<&str>) {
    document.pop();
    match text {
        Some(text) => document.push_str(&format!(r#","{name}":"{text}"}}"#)),
        None => document.push_str(&format!(r#","{name}":null}}"#)),
    }
}

/// List keys
#[utoipa::path(
    get,
    path = "/api/v1/keys",
    tag = "keys",
    params(KeyQuery),
    responses((status = 200, description = "A page of keys.", body = List<KeyShown>)),
)]
pub async fn key_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(KeyQuery(filter, page)): Query<KeyQuery>,
) -> Handled {
    let keys = state.engine.key_list(&caller, &filter, &page).await?;
    documents(&keys.map(seen), page.order)
}

/// Read a key
#[utoipa::path(
    get,
    path = "/api/v1/keys/{id}",
    tag = "keys",
    params(
        ("id" = String, Path, description = "The key's id.", format = "uuid"),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The key.", body = KeyShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn key_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<KeyId>,
    known: IfNoneMatch,
) -> Handled {
    known.answer(seen(state.engine.key_get(&caller, id).await?))
}

/// Change a key
///
/// What is absent stays; `null` makes a field the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/keys/{id}",
    tag = "keys",
    params(
        ("id" = String, Path, description = "The key's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = KeyPatch,
    responses(
        (status = 200, description = "The key.", body = KeyShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn key_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<KeyId>,
    IfMatch(version): IfMatch,
    Json(change): Json<KeyPatch>,
) -> Handled {
    let changed = |was: &Key| change.apply(was);
    let key = state.engine.key_update(&caller, id, version, changed).await?;
    let (_, used) = state.engine.key_get(&caller, id).await?;
    tagged(seen((key, used)))
}

/// Revoke a key
///
/// It opens nothing from then on. 409 for the last owner's.
#[utoipa::path(
    delete,
    path = "/api/v1/keys/{id}",
    tag = "keys",
    params(
        ("id" = String, Path, description = "The key's id.", format = "uuid"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn key_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<KeyId>,
    IfMatch(version): IfMatch,
) -> Handled {
    state.engine.key_delete(&caller, id, version).await?;
    Ok(no_content())
}
