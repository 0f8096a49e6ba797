//! Users: what leads to one, and those that are made because someone named them.
//!
//! Sessions, runs and memories name their user by an id of the caller's. The
//! write that is the first to name one makes it:
//!
//! ```text
//! let user = engine.user_unknown(caller, body.user_id.as_deref()).await?;
//! user_ensure(&mut write, caller, user.as_ref())?;
//! ```
//!
//! That is one read of a key when the user is known. When it is not, such a write
//! fails with `already_exists` if another one made the user in the meantime: look
//! again, as [`Engine::resource_create_for_user`] does.

use agentry_domain::log::EntityKind;
use agentry_domain::runs::{UserGiven, Warning};
use agentry_domain::users::{Alias, User, UserBody, alias_candidates, email_alias, phone_alias};
use agentry_domain::{Caller, Code, Document, Done, Entity, Error, JsonText, Once, Result, UserId};
use agentry_store::{Table, Write};

use crate::{Engine, entry, version_data};

/// How often a write is tried that makes a user whom others make too.
pub(crate) const USER_TRIES_MAX: u32 = 4;

impl Engine {
    /// Makes a user. 409 when something that leads to it leads to another one.
    pub async fn user_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: UserBody,
    ) -> Result<Done<Document<UserBody>>> {
        let also = |write: &mut Write, user: &User| {
            write.user_alias_insert(user.id, &user.aliases(user.id));
        };
        self.resource_create_with(caller, once, |_| body, also).await
    }

    /// The user to whom this text leads: an id, the caller's id, a mail address or
    /// a phone number, in this order.
    pub async fn user_find(&self, caller: &Caller, text: &str) -> Result<Document<UserBody>> {
        let found = self.0.store.user_by_alias(caller.org, &alias_candidates(text)).await?;
        let first = found.into_iter().next().map(|(_, user)| user);
        first.ok_or_else(|| Error::not_found("user", text))
    }

    /// Changes a user, and what leads to it.
    pub async fn user_update(
        &self,
        caller: &Caller,
        id: UserId,
        if_match: Option<i64>,
        change: impl Fn(&User) -> Result<UserBody> + Sync,
    ) -> Result<Document<UserBody>> {
        let also = |write: &mut Write, was: &User, will_be: &User| {
            let (before, after) = (was.aliases(was.id), will_be.aliases(was.id));
            write.user_alias_delete(was.id, &without(&before, &after));
            write.user_alias_insert(was.id, &without(&after, &before));
        };
        self.resource_update_with(caller, id, if_match, change, also).await
    }

    /// Deletes a user and what leads to it. What is the user's stays.
    pub async fn user_delete(
        &self,
        caller: &Caller,
        id: UserId,
        if_match: Option<i64>,
    ) -> Result<()> {
        let delete = |write: &mut Write, was: &Document<UserBody>| {
            delete_user(write, &was.entity()?, None);
            Ok(())
        };
        self.resource_delete_after(caller, id, if_match, delete).await
    }

    /// The user who is to be made because it is named for the first time; none
    /// when nobody is named, or somebody who is known.
    pub(crate) async fn user_unknown(
        &self,
        caller: &Caller,
        user_id: Option<&str>,
    ) -> Result<Option<User>> {
        let Some(user_id) = user_id else { return Ok(None) };
        if self.0.store.user_alias_holder(caller.org, user_id).await?.is_some() {
            return Ok(None);
        }
        let body = UserBody { user_id: Some(user_id.to_owned()), ..UserBody::default() };
        let now = self.now();
        Ok(Some(User::new(UserId::from_uuid(self.uuid(now)), body, now)))
    }

    /// The user whom a run names, by an id or by what it says of it.
    ///
    /// A user who is to be made begins with what is given; what leads to another
    /// user is left out of it. A user who is known stays as it is. Both are
    /// warnings: neither is a reason to refuse a run.
    pub(crate) async fn user_named(
        &self,
        caller: &Caller,
        user_id: Option<&str>,
        given: Option<&UserGiven>,
    ) -> Result<UserNamed> {
        let Some(given) = given else {
            let unknown = self.user_unknown(caller, user_id).await?;
            let user_id = user_id.map(str::to_owned);
            return Ok(UserNamed { user_id, unknown, warnings: Vec::new() });
        };
        let email = given.email.as_deref().map(email_alias);
        let phone_number = given.phone_number.as_deref().map(phone_alias);
        let texts: Vec<String> = [user_id.map(str::to_owned), email.clone(), phone_number.clone()]
            .into_iter()
            .flatten()
            .collect();
        let mut found = self.0.store.user_by_alias(caller.org, &texts).await?;
        let named = |(alias, _): &(String, _)| user_id.is_none_or(|user_id| user_id == alias);
        let known = found.iter().position(named).map(|nth| found.swap_remove(nth).1);
        if let Some(known) = known {
            let known = known.entity()?;
            let called = known.user_id.clone().unwrap_or_else(|| known.id.to_string());
            let user_id = user_id.map_or(called, str::to_owned);
            let warnings = unchanged(&known, given, &user_id)?;
            return Ok(UserNamed { user_id: Some(user_id), unknown: None, warnings });
        }
        let taken = |alias: &Option<String>| {
            alias.as_ref().is_some_and(|alias| found.iter().any(|(other, _)| other == alias))
        };
        let mut warnings = Vec::new();
        let mut free = |field: &str, text: &Option<String>, alias: &Option<String>| {
            if taken(alias) {
                warnings.push(warning(field, "taken", "leads to another user, and was left out"));
                return None;
            }
            text.clone()
        };
        let body = UserBody {
            user_id: user_id.map(str::to_owned),
            email: free("email", &given.email, &email),
            phone_number: free("phone_number", &given.phone_number, &phone_number),
            user_data: given.user_data.clone(),
            ..UserBody::default()
        };
        let now = self.now();
        let user = User::new(UserId::from_uuid(self.uuid(now)), body, now);
        let user_id = user_id.map_or_else(|| user.id.to_string(), str::to_owned);
        Ok(UserNamed { user_id: Some(user_id), unknown: Some(user), warnings })
    }

    /// Makes a resource that names a user, and the user if that is the first time.
    pub(crate) async fn resource_create_for_user<R: Table>(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        user_id: Option<&str>,
        body: R,
        also: impl Fn(&mut Write, &Entity<R>) + Sync,
    ) -> Result<Done<Document<R>>> {
        for _ in 1..USER_TRIES_MAX {
            let user = self.user_unknown(caller, user_id).await?;
            let document = user.as_ref().map(User::document).transpose()?;
            let with_user = |write: &mut Write, resource: &Entity<R>| {
                if let (Some(user), Some(document)) = (&user, &document) {
                    insert(write, caller, user, document);
                }
                also(write, resource);
            };
            let body = body.clone();
            let made = self.resource_create_with(caller, once, |_| body, with_user).await;
            match made {
                // Another one was made, of the user or of the resource.
                Err(error) if error.code == Code::AlreadyExists && user.is_some() => {}
                made => return made,
            }
        }
        self.resource_create_with(caller, once, |_| body, also).await
    }
}

/// Who a run is for.
pub(crate) struct UserNamed {
    /// What the run calls the user.
    pub(crate) user_id: Option<String>,
    /// The user, when it is to be made.
    pub(crate) unknown: Option<User>,
    /// What of the request has no effect.
    pub(crate) warnings: Vec<Warning>,
}

fn warning(field: &str, code: &str, detail: &str) -> Warning {
    let (pointer, code) = (format!("/user/{field}"), code.to_owned());
    Warning { pointer, code, detail: detail.to_owned() }
}

/// What is given of a user who is known, and is not so.
fn unchanged(known: &User, given: &UserGiven, user_id: &str) -> Result<Vec<Warning>> {
    let same = |form: fn(&str) -> String, one: &Option<String>, other: &Option<String>| {
        one.is_none() || one.as_deref().map(form) == other.as_deref().map(form)
    };
    let json = |text: &JsonText| {
        serde_json::from_str::<serde_json::Value>(text.as_str()).map_err(Error::internal)
    };
    let same_data =
        given.user_data == JsonText::empty() || json(&given.user_data)? == json(&known.user_data)?;
    let fields = [
        ("email", same(email_alias, &given.email, &known.email)),
        ("phone_number", same(phone_alias, &given.phone_number, &known.phone_number)),
        ("user_data", same_data),
    ];
    let detail = format!("user {user_id} is known already; a run does not change it");
    let changed = fields.into_iter().filter(|(_, same)| !same);
    Ok(changed.map(|(field, _)| warning(field, "known", &detail)).collect())
}

/// Adds to a write the user that it is the first to name.
pub(crate) fn user_ensure(write: &mut Write, caller: &Caller, user: Option<&User>) -> Result<()> {
    if let Some(user) = user {
        insert(write, caller, user, &user.document()?);
    }
    Ok(())
}

fn insert(write: &mut Write, caller: &Caller, user: &User, document: &Document<UserBody>) {
    write.user_alias_insert(user.id, &user.aliases(user.id));
    write.resource_insert(&user.body, document);
    let (kind, data) = (EntityKind::User, version_data(user.version));
    write.log(entry(caller, user.created_at, kind.created(), kind, user.id.to_bytes(), data));
}

/// Adds to a write that a user ends, if it is still as it was, and of the version
/// that the client named.
pub(crate) fn delete_user(write: &mut Write, was: &User, if_match: Option<i64>) {
    write.resource_delete::<UserBody>(was.id, if_match.unwrap_or(was.version));
    write.user_alias_delete(was.id, &was.aliases(was.id));
}

/// Those of the first whose texts are not among the second.
fn without(aliases: &[Alias], others: &[Alias]) -> Vec<Alias> {
    let stays = |alias: &&Alias| !others.iter().any(|other| other.text == alias.text);
    aliases.iter().filter(stays).cloned().collect()
}
