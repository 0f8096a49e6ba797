//! What every resource can do: be made, read, changed, deleted and listed. A
//! resource with rules of its own has a file that calls these.

use std::collections::{BTreeMap, BTreeSet};

use agentry_domain::idempotency::Remembered;
use agentry_domain::{
    Caller, Document, Done, Entity, Error, Once, Page, PageRequest, ResourceId, Result, Timestamp,
};
use agentry_store::resources::{changed, missing};
use agentry_store::{Table, Write};
use serde_json::value::RawValue;

use crate::guarded::until_unchanged;
use crate::{Engine, entry, version_data};

impl Engine {
    /// Makes a resource, once if the request says so.
    pub async fn resource_create<R: Table>(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: R,
    ) -> Result<Done<Document<R>>> {
        self.resource_create_with(caller, once, |_| body, |_, _| {}).await
    }

    /// Makes a resource whose body may depend on its id; `also` adds to the
    /// write that makes it.
    pub(crate) async fn resource_create_with<R: Table>(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: impl FnOnce(R::Id) -> R,
        also: impl FnOnce(&mut Write, &Entity<R>),
    ) -> Result<Done<Document<R>>> {
        self.resource_create_after(caller, once, async |id| Ok(body(id)), also).await
    }

    /// Makes a resource whose body takes looking things up, which happens only
    /// when the request did not take effect before.
    pub(crate) async fn resource_create_after<R: Table>(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: impl AsyncFnOnce(R::Id) -> Result<R>,
        also: impl FnOnce(&mut Write, &Entity<R>),
    ) -> Result<Done<Document<R>>> {
        if let Some(before) = self.remembered(caller, once).await? {
            return self.resource_replayed(caller, before).await;
        }
        let now = self.now();
        let id = R::Id::of_uuid(self.uuid(now));
        let entity = Entity::new(id, body(id).await?, now);
        let document = entity.document()?;
        let mut write = Write::new(caller.org);
        write.resource_insert(&entity.body, &document);
        let data = version_data(entity.version);
        write.log(entry(caller, now, R::KIND.created(), R::KIND, id.bytes(), data));
        also(&mut write, &entity);
        match self.write_once(caller, once, write, (id.bytes(), &document.json), now).await? {
            None => Ok(Done::now(document)),
            Some(before) => self.resource_replayed(caller, before).await,
        }
    }

    async fn resource_replayed<R: Table>(
        &self,
        caller: &Caller,
        before: Remembered,
    ) -> Result<Done<Document<R>>> {
        let (id, at) = (R::Id::of_bytes(before.id), Timestamp::from_micros(before.at));
        let value = match before.answer {
            Some(json) => Document::stored(id, 1, at, at, (R::SHAPE, json))?,
            None => self.resource_get(caller, id).await?,
        };
        Ok(Done { value, replayed: true })
    }

    /// The resource with this id.
    pub async fn resource_get<R: Table>(&self, caller: &Caller, id: R::Id) -> Result<Document<R>> {
        self.0.store.resource_get(caller.org, id).await?.ok_or_else(|| missing::<R>(id))
    }

    /// Changes a resource. With `if_match`, only if that is its version;
    /// otherwise the change is made on top of whatever came first.
    pub async fn resource_update<R: Table>(
        &self,
        caller: &Caller,
        id: R::Id,
        if_match: Option<i64>,
        change: impl Fn(&Entity<R>) -> Result<R> + Sync,
    ) -> Result<Document<R>> {
        self.resource_update_with(caller, id, if_match, change, |_, _, _| {}).await
    }

    /// Changes a resource; `also` adds to the write that does, and gets it as it
    /// was and as it will be.
    pub(crate) async fn resource_update_with<R: Table>(
        &self,
        caller: &Caller,
        id: R::Id,
        if_match: Option<i64>,
        change: impl Fn(&Entity<R>) -> Result<R> + Sync,
        also: impl Fn(&mut Write, &Entity<R>, &Entity<R>) + Sync,
    ) -> Result<Document<R>> {
        let change = |was: Entity<R>| {
            let changed = change(&was);
            std::future::ready(changed.map(|body| (was, body)))
        };
        self.resource_update_after(caller, id, if_match, change, also).await
    }

    /// Changes a resource, where the change takes looking things up: it gets what
    /// was, and gives it back with what will be.
    pub(crate) async fn resource_update_after<R: Table, F>(
        &self,
        caller: &Caller,
        id: R::Id,
        if_match: Option<i64>,
        change: impl Fn(Entity<R>) -> F + Sync,
        also: impl Fn(&mut Write, &Entity<R>, &Entity<R>) + Sync,
    ) -> Result<Document<R>>
    where
        F: Future<Output = Result<(Entity<R>, R)>> + Send,
    {
        until_unchanged(if_match, || async {
            let was = self.resource_get::<R>(caller, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(changed::<R>(id, was.version));
            }
            let before = was.json.clone();
            let (was, body) = change(was.entity()?).await?;
            let now = self.now();
            let will_be = was.changed(body, now);
            let document = will_be.document()?;
            let mut write = Write::new(caller.org);
            write.resource_update(&will_be.body, &document);
            let data = change_data(&before, &document.json, document.version)?;
            write.log(entry(caller, now, R::KIND.updated(), R::KIND, id.bytes(), data));
            also(&mut write, &was, &will_be);
            self.0.store.write(write).await?;
            Ok(document)
        })
        .await
    }

    /// Deletes a resource; see [`Engine::resource_update`] for `if_match`.
    pub async fn resource_delete<R: Table>(
        &self,
        caller: &Caller,
        id: R::Id,
        if_match: Option<i64>,
    ) -> Result<()> {
        self.resource_delete_with::<R>(caller, id, if_match, |write, was| {
            write.resource_delete::<R>(was.id, was.version);
        })
        .await
    }

    /// Deletes a resource; `delete` says what that takes.
    pub(crate) async fn resource_delete_with<R: Table>(
        &self,
        caller: &Caller,
        id: R::Id,
        if_match: Option<i64>,
        delete: impl Fn(&mut Write, &Document<R>) + Sync,
    ) -> Result<()> {
        let delete = |write: &mut Write, was: &Document<R>| {
            delete(write, was);
            Ok(())
        };
        self.resource_delete_after(caller, id, if_match, delete).await
    }

    /// Deletes a resource, where what that takes is in its body: `delete` may
    /// find that it cannot be read.
    pub(crate) async fn resource_delete_after<R: Table>(
        &self,
        caller: &Caller,
        id: R::Id,
        if_match: Option<i64>,
        delete: impl Fn(&mut Write, &Document<R>) -> Result<()> + Sync,
    ) -> Result<()> {
        until_unchanged(if_match, || async {
            let was = self.resource_get::<R>(caller, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(changed::<R>(id, was.version));
            }
            let mut write = Write::new(caller.org);
            delete(&mut write, &was)?;
            let data = version_data(was.version);
            write.log(entry(caller, self.now(), R::KIND.deleted(), R::KIND, id.bytes(), data));
            self.0.store.write(write).await?;
            Ok(())
        })
        .await
    }

    /// A page of resources.
    pub async fn resource_list<R: Table>(
        &self,
        caller: &Caller,
        filter: &R::Filter,
        page: &PageRequest,
    ) -> Result<Page<Document<R>>> {
        Ok(self.0.store.resource_list(caller.org, filter, page).await?)
    }
}

/// Fields of the head, which every change changes.
const HEAD: [&str; 2] = ["version", "updated_at"];

/// What is said of a change: the new version, and which fields of the document
/// have another value now.
pub(crate) fn change_data(was: &str, is: &str, version: i64) -> Result<String> {
    let fields = |json| serde_json::from_str::<BTreeMap<&str, &RawValue>>(json);
    let was = fields(was).map_err(Error::internal)?;
    let is = fields(is).map_err(Error::internal)?;
    let differs =
        |name: &&str| was.get(name).map(|raw| raw.get()) != is.get(name).map(|raw| raw.get());
    let names: BTreeSet<&str> = was.keys().chain(is.keys()).copied().collect();
    let changed: Vec<&str> =
        names.into_iter().filter(|name| !HEAD.contains(name)).filter(differs).collect();
    let changed = serde_json::to_string(&changed).map_err(Error::internal)?;
    Ok(format!(r#"{{"version":{version},"changed":{changed}}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_the_fields_that_differ() {
        let was = r#"{"id":"x","name":"a","metadata":{"k":1},"gone":1,"version":1,"updated_at":1}"#;
        let is = r#"{"id":"x","name":"b","metadata":{"k":1},"new":2,"version":2,"updated_at":2}"#;
        assert_eq!(
            change_data(was, is, 2).unwrap(),
            r#"{"version":2,"changed":["gone","name","new"]}"#
        );
        assert_eq!(change_data(is, is, 3).unwrap(), r#"{"version":3,"changed":[]}"#);
    }
}
