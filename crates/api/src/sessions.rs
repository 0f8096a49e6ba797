//! Sessions over HTTP. The messages in them are in [`crate::messages`].

use agentry_domain::sessions::{Session, SessionStatus};
use agentry_domain::{Order, PageRequest, Result, SessionId, Timestamp};
use agentry_engine::{SessionChange, SessionFilter, SessionNew};
use agentry_gateway::Authenticated;
use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::agents::merge_patch;
use crate::answer::{Handled, IfMatch, IfNoneMatch, created, no_content, raw, tagged};
use crate::extract::{Json, PathName, Query};
use crate::fields::{Fields, FromFields};
use crate::lists::{List, list, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::state::ApiState;
use crate::{body_schema, query_parameters};

/// Characters of the label that says where a session came from.
pub(crate) const ORIGIN_CHARS_MAX: usize = 200;

/// A session: one conversation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionAnswer<'a> {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: SessionId,
    /// The caller's name for it, unique per user.
    name: Option<&'a str>,
    /// The same, as runs call it.
    session_name: Option<&'a str>,
    /// The caller's id of the user it belongs to.
    user_id: Option<&'a str>,
    /// Where it came from: any label.
    origin: Option<&'a str>,
    /// The same, as runs call it.
    session_origin: Option<&'a str>,
    /// Where it is in its life. Clients set it.
    #[schema(example = "active")]
    status: &'static str,
    /// The client's own.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// Grows with every change, from 1; the entity tag is it in quotes.
    version: i64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl<'a> SessionAnswer<'a> {
    fn new(session: &'a Session) -> Result<Self> {
        Ok(Self {
            id: session.id,
            name: session.name.as_deref(),
            session_name: session.name.as_deref(),
            user_id: session.user_id.as_deref(),
            origin: session.origin.as_deref(),
            session_origin: session.origin.as_deref(),
            status: session.status.as_str(),
            metadata: raw(&session.metadata)?,
            version: session.version,
            created_at: session.created_at,
            updated_at: session.updated_at,
        })
    }
}

/// Body of a creation.
pub struct SessionCreate(SessionNew);

body_schema!(SessionCreate, "SessionCreate");

impl FromFields for SessionCreate {
    fn read(fields: &mut Fields) -> Self {
        Self(SessionNew {
            name: fields
                .external_id("name")
                .alias("session_name")
                .about("The caller's name for it, unique per user.")
                .optional(),
            user_id: fields
                .external_id("user_id")
                .about("The caller's id of the user it belongs to.")
                .optional(),
            origin: fields
                .text("origin", 1..=ORIGIN_CHARS_MAX)
                .alias("session_origin")
                .about("Where it came from: any label.")
                .optional(),
            status: fields
                .choice("status")
                .about("Where it is in its life.")
                .or(SessionStatus::default()),
            metadata: fields
                .object("metadata")
                .about("The client's own, kept as it is.")
                .or("{}".to_owned()),
        })
    }
}

/// Body of a change.
pub struct SessionPatch(SessionChange);

body_schema!(SessionPatch, "SessionPatch");

impl FromFields for SessionPatch {
    fn read(fields: &mut Fields) -> Self {
        fields.not_supported_yet("user_id", |_| true, "a session stays with its user");
        Self(SessionChange {
            name: fields.external_id("name").alias("session_name").change_or_remove(),
            origin: fields
                .text("origin", 1..=ORIGIN_CHARS_MAX)
                .alias("session_origin")
                .change_or_remove(),
            status: fields.choice("status").change_or(SessionStatus::default()),
            metadata: merge_patch(fields, "metadata"),
        })
    }
}

/// Which sessions.
pub struct SessionQuery(SessionFilter, PageRequest);

query_parameters!(SessionQuery);

impl FromFields for SessionQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = SessionFilter {
            user_id: fields.external_id("user_id").about("Of this user.").optional(),
            status: fields.choice::<SessionStatus>("status").about("This status.").optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create a session
#[utoipa::path(
    post,
    path = "/api/v1/sessions",
    tag = "sessions",
    request_body = SessionCreate,
    responses(
        (status = 201, description = "The session.", body = SessionAnswer<'static>, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 409, response = Conflict),
    ),
)]
pub async fn session_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Json(SessionCreate(new)): Json<SessionCreate>,
) -> Handled {
    let session = state.engine.session_create(&caller, new).await?;
    let location = format!("/api/v1/sessions/{}", session.id);
    created(&SessionAnswer::new(&session)?, &location, session.version)
}

/// List sessions
#[utoipa::path(
    get,
    path = "/api/v1/sessions",
    tag = "sessions",
    params(SessionQuery),
    responses(
        (status = 200, description = "A page of sessions.", body = List<SessionAnswer<'static>>),
    ),
)]
pub async fn session_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(SessionQuery(filter, page)): Query<SessionQuery>,
) -> Handled {
    let sessions = state.engine.session_list(&caller, filter, page).await?;
    list(&sessions, page.order, SessionAnswer::new)
}

/// Read a session
#[utoipa::path(
    get,
    path = "/api/v1/sessions/{session}",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The session.", body = SessionAnswer<'static>, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn session_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(name): PathName,
    known: IfNoneMatch,
) -> Handled {
    let session = state.engine.session_find(&caller, &name).await?;
    if let Some(not_modified) = known.not_modified(session.version) {
        return Ok(not_modified);
    }
    tagged(&SessionAnswer::new(&session)?, session.version)
}

/// Change a session
///
/// What is absent stays; `null` removes a field or makes it the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/sessions/{session}",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = SessionPatch,
    responses(
        (status = 200, description = "The session.", body = SessionAnswer<'static>, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn session_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(name): PathName,
    IfMatch(version): IfMatch,
    Json(SessionPatch(change)): Json<SessionPatch>,
) -> Handled {
    let id = state.engine.session_find(&caller, &name).await?.id;
    let session = state.engine.session_update(&caller, id, change, version).await?;
    tagged(&SessionAnswer::new(&session)?, session.version)
}

/// Delete a session
///
/// With its messages and runs; 409 while a run in it has not ended.
#[utoipa::path(
    delete,
    path = "/api/v1/sessions/{session}",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn session_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(name): PathName,
    IfMatch(version): IfMatch,
) -> Handled {
    let id = state.engine.session_find(&caller, &name).await?.id;
    state.engine.session_delete(&caller, id, version).await?;
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fields::read_body;

    fn read<T: FromFields>(value: Value) -> Result<T> {
        let Value::Object(object) = value else { panic!("not an object") };
        read_body(object, Vec::new())
    }

    #[test]
    fn a_session_needs_nothing_and_ids_may_be_numbers() {
        let SessionCreate(new) = read(json!({})).unwrap();
        assert_eq!(new.name, None);
        let SessionCreate(new) = read(json!({"name": 7, "user_id": "u"})).unwrap();
        assert_eq!((new.name.as_deref(), new.user_id.as_deref()), (Some("7"), Some("u")));
    }

    #[test]
    fn a_patch_removes_what_is_null_and_keeps_the_user() {
        let SessionPatch(change) = read(json!({"session_name": null, "status": "paused"})).unwrap();
        assert_eq!(change.name, Some(None));
        assert_eq!(change.origin, None);
        assert_eq!(change.status, Some(SessionStatus::Paused));
        let SessionPatch(change) = read(json!({"name": null, "origin": "web"})).unwrap();
        assert_eq!((change.name, change.origin), (Some(None), Some(Some("web".into()))));
        let error = read::<SessionPatch>(json!({"user_id": "other"})).err().unwrap();
        assert_eq!(error.code, agentry_domain::Code::NotSupportedYet);
    }
}
