//! What every resource can do: be made, read, changed, deleted and listed. A
//! resource with rules of its own has a file that calls these.

use agentry_domain::idempotency::Remembered;
use agentry_domain::{
    Caller, Document, Done, Entity, Once, Page, PageRequest, ResourceId, Result, Timestamp,
};
use agentry_store::resources::{changed, missing};
use agentry_store::{Table, Write};

use crate::guarded::until_unchanged;
use crate::{Engine, entry};

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
        if let Some(before) = self.remembered(caller, once).await? {
            return self.resource_replayed(caller, before).await;
        }
        let now = self.now();
        let id = R::Id::of_uuid(self.uuid(now));
        let entity = Entity::new(id, body(id), now);
        let document = entity.document()?;
        let mut write = Write::new(caller.org);
        write.resource_insert(&entity.body, &document);
        write.log(entry(caller, now, R::KIND.created(), R::KIND, id.bytes()));
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
        until_unchanged(if_match, || async {
            let was = self.resource_get::<R>(caller, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(changed::<R>(id, was.version));
            }
            let (was, now) = (was.entity()?, self.now());
            let will_be = was.changed(change(&was)?, now);
            let document = will_be.document()?;
            let mut write = Write::new(caller.org);
            write.resource_update(&will_be.body, &document);
            write.log(entry(caller, now, R::KIND.updated(), R::KIND, id.bytes()));
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
        until_unchanged(if_match, || async {
            let was = self.resource_get::<R>(caller, id).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                return Err(changed::<R>(id, was.version));
            }
            let mut write = Write::new(caller.org);
            delete(&mut write, &was);
            write.log(entry(caller, self.now(), R::KIND.deleted(), R::KIND, id.bytes()));
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
