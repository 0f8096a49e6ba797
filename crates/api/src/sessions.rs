//! Sessions over HTTP. The messages in them are in [`crate::messages`].

use agentry_domain::sessions::{Session, SessionBody, SessionStatus};
use agentry_domain::{Order, PageRequest};
use agentry_engine::SessionFilter;
use agentry_gateway::Authenticated;
use axum::extract::State;

use crate::answer::{Handled, IfMatch, IfNoneMatch, created, no_content, tagged};
use crate::extract::{Json, PathName, Posted, Query};
use crate::fields::{Change, Create, Fields, FromFields, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::query_parameters;
use crate::state::ApiState;

/// Characters of the label that says where a session came from.
pub(crate) const ORIGIN_CHARS_MAX: usize = 200;

type SessionCreate = Create<SessionBody>;
type SessionPatch = Change<SessionBody>;
type SessionShown = Shown<SessionBody>;

impl ResourceFields for SessionBody {
    const NAME: &'static str = "Session";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        Self {
            name: fields
                .external_id("name")
                .alias("session_name")
                .about("The caller's name for it, unique per user.")
                .optional_or_was(was.map(|was| &was.name)),
            user_id: fields
                .external_id("user_id")
                .about("The caller's id of the user it belongs to, for good.")
                .fixed(was.map(|was| &was.user_id)),
            origin: fields
                .text("origin", 1..=ORIGIN_CHARS_MAX)
                .alias("session_origin")
                .about("Where it came from: any label.")
                .optional_or_was(was.map(|was| &was.origin)),
            status: fields
                .choice("status")
                .about("Where it is in its life. Clients set it.")
                .or_was(SessionStatus::default(), was.map(|was| &was.status)),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
        }
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
        (status = 201, description = "The session.", body = SessionShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 409, response = Conflict),
    ),
)]
pub async fn session_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<SessionCreate>,
) -> Handled {
    created(state.engine.session_create(&caller, once.as_ref(), body).await?, "/api/v1/sessions")
}

/// List sessions
#[utoipa::path(
    get,
    path = "/api/v1/sessions",
    tag = "sessions",
    params(SessionQuery),
    responses(
        (status = 200, description = "A page of sessions.", body = List<SessionShown>),
    ),
)]
pub async fn session_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(SessionQuery(filter, page)): Query<SessionQuery>,
) -> Handled {
    let sessions = state.engine.resource_list::<SessionBody>(&caller, &filter, &page).await?;
    documents(&sessions, page.order)
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
        (status = 200, description = "The session.", body = SessionShown, headers(
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
    known.answer(state.engine.session_find(&caller, &name).await?)
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
        (status = 200, description = "The session.", body = SessionShown, headers(
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
    Json(change): Json<SessionPatch>,
) -> Handled {
    let id = state.engine.session_find(&caller, &name).await?.id;
    let changed = |was: &Session| change.apply(was);
    tagged(state.engine.resource_update(&caller, id, version, changed).await?)
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
    use agentry_domain::Result;
    use serde_json::{Value, json};

    use super::*;
    use crate::fields::{read_body, read_change};

    fn read(value: Value) -> SessionBody {
        let Value::Object(object) = value else { panic!("not an object") };
        read_body::<SessionCreate>(object, Vec::new()).unwrap().0
    }

    fn change(was: &SessionBody, value: Value) -> Result<SessionBody> {
        let Value::Object(object) = value else { panic!("not an object") };
        read_change(object, Vec::new(), was)
    }

    #[test]
    fn a_session_needs_nothing_and_ids_may_be_numbers() {
        assert_eq!(read(json!({})).name, None);
        let session = read(json!({"name": 7, "user_id": "u"}));
        assert_eq!((session.name.as_deref(), session.user_id.as_deref()), (Some("7"), Some("u")));
    }

    #[test]
    fn a_patch_removes_what_is_null_and_keeps_the_user() {
        let was = read(json!({"name": "n", "user_id": "u", "origin": "web"}));
        let patch = json!({"session_name": null, "status": "paused"});
        let expected = SessionBody { name: None, status: SessionStatus::Paused, ..was.clone() };
        assert_eq!(change(&was, patch).unwrap(), expected);
        assert_eq!(change(&was, json!({"user_id": "u"})).unwrap(), was);
        for other in [json!({"user_id": "other"}), json!({"user_id": null})] {
            let error = change(&was, other).unwrap_err();
            assert_eq!(error.faults[0].code, "immutable");
        }
    }
}
