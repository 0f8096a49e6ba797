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
use agentry_domain::users::{Alias, User, UserBody, alias_candidates};
use agentry_domain::{Caller, Code, Document, Done, Entity, Error, Once, Result, UserId};
use agentry_store::{Table, Write};

use crate::guarded::until_unchanged;
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
        until_unchanged(if_match, || async {
            let was = self.resource_get::<UserBody>(caller, id).await?.entity()?;
            let mut write = Write::new(caller.org);
            delete(&mut write, &was, if_match);
            let (kind, data) = (EntityKind::User, version_data(was.version));
            write.log(entry(caller, self.now(), kind.deleted(), kind, id.to_bytes(), data));
            self.0.store.write(write).await?;
            Ok(())
        })
        .await
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
fn delete(write: &mut Write, was: &User, if_match: Option<i64>) {
    write.resource_delete::<UserBody>(was.id, if_match.unwrap_or(was.version));
    write.user_alias_delete(was.id, &was.aliases(was.id));
}

/// Those of the first whose texts are not among the second.
fn without(aliases: &[Alias], others: &[Alias]) -> Vec<Alias> {
    let stays = |alias: &&Alias| !others.iter().any(|other| other.text == alias.text);
    aliases.iter().filter(stays).cloned().collect()
}
