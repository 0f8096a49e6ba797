//! Users over HTTP.

use agentry_domain::users::{
    EMAIL_CHARS_MAX, PHONE_NUMBER_CHARS_MAX, User, UserBody, is_email, is_phone_number,
};
use agentry_domain::{Order, PageRequest};
use agentry_engine::UserFilter;
use agentry_gateway::Authenticated;
use axum::extract::State;
use serde_json::Value;
use utoipa::openapi::schema::Schema;

use crate::admin_jobs::{JobAnswer, accepted};
use crate::answer::{Handled, IfMatch, IfNoneMatch, created, no_content, tagged};
use crate::extract::{Json, PathName, Posted, Query};
use crate::fields::bounds::NAME_CHARS_MAX;
use crate::fields::kinds::{Kind, Site, Text, pattern_schema};
use crate::fields::{Change, Create, Fields, FromFields, Purpose, ResourceFields, Shown};
use crate::lists::{List, documents, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed};
use crate::query_parameters;
use crate::state::ApiState;

type UserCreate = Create<UserBody>;
type UserPatch = Change<UserBody>;
type UserShown = Shown<UserBody>;

impl ResourceFields for UserBody {
    const NAME: &'static str = "User";

    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self {
        Self {
            user_id: fields
                .external_id("user_id")
                .about("The caller's own id, for good: what sessions and runs call the user.")
                .fixed(was.map(|was| &was.user_id)),
            email: fields
                .field("email", Email)
                .about("A mail address; leads to one user, in whatever case it is written.")
                .optional_or_was(was.map(|was| &was.email)),
            phone_number: fields
                .field("phone_number", PhoneNumber)
                .about("A phone number; leads to one user, however it is separated.")
                .optional_or_was(was.map(|was| &was.phone_number)),
            name: fields
                .text("name", 1..=NAME_CHARS_MAX)
                .about("What people call it; need not be unique.")
                .optional_or_was(was.map(|was| &was.name)),
            user_data: fields.own_object("user_data", was.map(|was| &was.user_data)),
            metadata: fields.own_object("metadata", was.map(|was| &was.metadata)),
        }
    }
}

macro_rules! checked_text {
    ($($(#[$doc:meta])* $kind:ident, $chars:expr, $pattern:literal, $check:path, $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $kind;

        impl Kind for $kind {
            type Out = String;

            fn schema(&self, _purpose: Purpose) -> Schema {
                pattern_schema($chars, $pattern)
            }

            fn read(&self, value: Value, site: &mut Site<'_>) -> Option<String> {
                let text = Text::of(1..=$chars).read(value, site)?;
                if $check(&text) { Some(text) } else { site.fault("malformed", $what) }
            }

            fn placeholder(&self) -> String {
                String::new()
            }
        }
    )*};
}

checked_text! {
    /// A mail address.
    Email, EMAIL_CHARS_MAX, r"^[^@\s]+@[^@\s]+$", is_email, "must be a mail address";
    /// A phone number.
    PhoneNumber, PHONE_NUMBER_CHARS_MAX, r"^\+?[ ()./-]*[0-9][0-9 ()./-]*$", is_phone_number,
        "must be digits with spaces, brackets, dots, dashes and slashes, and a plus in front at most";
}

/// Which users.
pub struct UserQuery(UserFilter, PageRequest);

query_parameters!(UserQuery);

impl FromFields for UserQuery {
    fn read(fields: &mut Fields) -> Self {
        let filter = UserFilter {
            email: fields
                .text("email", 1..=EMAIL_CHARS_MAX)
                .about("With this mail address, in whatever case.")
                .optional(),
            phone_number: fields
                .text("phone_number", 1..=PHONE_NUMBER_CHARS_MAX)
                .alias("phone")
                .about("With this phone number, however it is separated.")
                .optional(),
            name: fields.text("name", 1..=NAME_CHARS_MAX).about("Exactly this name.").optional(),
        };
        Self(filter, page_request(fields, Order::default()))
    }
}

/// Create a user
///
/// A user is also made when a session or a run names one for the first time.
#[utoipa::path(
    post,
    path = "/api/v1/users",
    tag = "users",
    request_body = UserCreate,
    responses(
        (status = 201, description = "The user.", body = UserShown, headers(
            ("ETag" = String, description = "Its version."),
            ("Location" = String, description = "Where it is."),
        )),
        (status = 409, response = Conflict),
    ),
)]
pub async fn user_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Posted { once, body: Create(body) }: Posted<UserCreate>,
) -> Handled {
    created(state.engine.user_create(&caller, once.as_ref(), body).await?, "/api/v1/users")
}

/// List users
#[utoipa::path(
    get,
    path = "/api/v1/users",
    tag = "users",
    params(UserQuery),
    responses((status = 200, description = "A page of users.", body = List<UserShown>)),
)]
pub async fn user_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(UserQuery(filter, page)): Query<UserQuery>,
) -> Handled {
    let users = state.engine.resource_list::<UserBody>(&caller, &filter, &page).await?;
    documents(&users, page.order)
}

/// Read a user
#[utoipa::path(
    get,
    path = "/api/v1/users/{user}",
    tag = "users",
    params(
        ("user" = String, Path, description = "Its id, the caller's id of it, its mail address or its phone number."),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The user.", body = UserShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
    ),
)]
pub async fn user_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(user): PathName,
    known: IfNoneMatch,
) -> Handled {
    known.answer(state.engine.user_find(&caller, &user).await?)
}

/// Change a user
///
/// What is absent stays; `null` removes a field or makes it the default again.
#[utoipa::path(
    patch,
    path = "/api/v1/users/{user}",
    tag = "users",
    params(
        ("user" = String, Path, description = "Its id, the caller's id of it, its mail address or its phone number."),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = UserPatch,
    responses(
        (status = 200, description = "The user.", body = UserShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn user_update(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(user): PathName,
    IfMatch(version): IfMatch,
    Json(change): Json<UserPatch>,
) -> Handled {
    let id = state.engine.user_find(&caller, &user).await?.id;
    let changed = |was: &User| change.apply(was);
    tagged(state.engine.user_update(&caller, id, version, changed).await?)
}

/// Change a user, for clients that send PUT
///
/// The same as PATCH: what is absent stays.
#[utoipa::path(
    put,
    path = "/api/v1/users/{user}",
    tag = "users",
    params(
        ("user" = String, Path, description = "Its id, the caller's id of it, its mail address or its phone number."),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    request_body = UserPatch,
    responses(
        (status = 200, description = "The user.", body = UserShown, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn user_put(
    State(state): State<ApiState>,
    caller: Authenticated,
    user: PathName,
    version: IfMatch,
    change: Json<UserPatch>,
) -> Handled {
    user_update(State(state), caller, user, version, change).await
}

/// How to delete a user.
pub struct PurgeQuery {
    purge: bool,
}

query_parameters!(PurgeQuery);

impl FromFields for PurgeQuery {
    fn read(fields: &mut Fields) -> Self {
        Self {
            purge: fields
                .boolean("purge")
                .about("Whether all that was the user's goes too.")
                .or(false),
        }
    }
}

/// Delete a user
///
/// With what leads to it. What is the user's stays: its sessions, runs and
/// memories. With `purge` that is deleted too, by a job that counts what went;
/// sessions in which a run is under way go when it has ended. Whoever names the
/// user again makes a new one.
#[utoipa::path(
    delete,
    path = "/api/v1/users/{user}",
    tag = "users",
    params(
        ("user" = String, Path, description = "Its id, the caller's id of it, its mail address or its phone number."),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
        PurgeQuery,
    ),
    responses(
        (status = 202, description = "It is gone, and what was its goes.", body = JobAnswer<'static>, headers(
            ("Location" = String, description = "Where the job is."),
        )),
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn user_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(user): PathName,
    IfMatch(version): IfMatch,
    Query(PurgeQuery { purge }): Query<PurgeQuery>,
) -> Handled {
    let id = state.engine.user_find(&caller, &user).await?.id;
    if purge {
        return accepted(&state.engine.user_purge(&caller, id, version).await?);
    }
    state.engine.user_delete(&caller, id, version).await?;
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use agentry_domain::Result;
    use serde_json::json;

    use super::*;
    use crate::fields::{read_body, read_change};

    fn read(value: Value) -> Result<UserBody> {
        let Value::Object(object) = value else { panic!("not an object") };
        read_body::<UserCreate>(object, Vec::new()).map(|create| create.0)
    }

    #[test]
    fn a_user_needs_nothing_and_ids_may_be_numbers() {
        assert_eq!(read(json!({})).unwrap(), UserBody::default());
        assert_eq!(read(json!({"user_id": 42})).unwrap().user_id.as_deref(), Some("42"));
    }

    #[test]
    fn what_has_not_the_form_of_an_address_or_a_number_is_a_fault() {
        let error = read(json!({"email": "ann", "phone_number": "none"})).unwrap_err();
        let found: Vec<_> =
            error.faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
        assert_eq!(found, [("/email", "malformed"), ("/phone_number", "malformed")]);
    }

    #[test]
    fn a_patch_merges_and_keeps_the_callers_id() {
        let was = read(json!({"user_id": "u", "email": "a@b", "user_data": {"a": 1, "b": 2}}));
        let was = was.unwrap();
        let change = |value: Value| {
            let Value::Object(object) = value else { panic!("not an object") };
            read_change(object, Vec::new(), &was)
        };
        let changed = change(json!({"email": null, "user_data": {"a": null, "c": 3}})).unwrap();
        assert_eq!((changed.user_id.as_deref(), changed.email), (Some("u"), None));
        assert_eq!(changed.user_data.as_str(), r#"{"b":2,"c":3}"#);
        assert_eq!(change(json!({"user_id": "v"})).unwrap_err().faults[0].code, "immutable");
    }
}
