//! What all resources have in common. A resource is its *body*, the fields that
//! clients set, with a head of the server's: id, version, times. Its *document*
//! is the JSON that clients read; the store keeps it as it is sent, so that a
//! read copies bytes and a list joins them.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::log::EntityKind;
use crate::time::Timestamp;

/// The typed id of a resource.
pub trait ResourceId:
    Copy + Eq + fmt::Debug + fmt::Display + FromStr + Serialize + Send + Sync + 'static
{
    /// Wraps a UUID that was made for this kind of thing.
    fn of_uuid(uuid: Uuid) -> Self;

    /// Reads the 16 bytes that the store keeps.
    fn of_bytes(bytes: [u8; 16]) -> Self;

    /// The 16 bytes, whose order is the order of creation.
    fn bytes(self) -> [u8; 16];
}

/// The body of a resource: what clients set, and what the server adds to it for good.
///
/// A field that a later version adds needs `#[serde(default)]`, and the change
/// a greater [`Resource::SHAPE`].
pub trait Resource:
    Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync + 'static
{
    /// Its id.
    type Id: ResourceId;
    /// Fields of the document that say again what another one says, such as
    /// `goal_id`; `()` for none.
    type Also<'a>: Serialize;
    /// What it is called, and its kind in the log.
    const KIND: EntityKind;
    /// The form of its documents. A stored document of another form is written
    /// anew from its body when it is read.
    const SHAPE: i64 = 1;

    /// See [`Resource::Also`].
    fn also(&self, id: Self::Id) -> Self::Also<'_>;
}

/// A resource with its head.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity<R: Resource> {
    /// Its id.
    pub id: R::Id,
    /// What clients set.
    pub body: R,
    /// Grows with every change, from 1; the entity tag.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl<R: Resource> Deref for Entity<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.body
    }
}

impl<R: Resource> Entity<R> {
    /// A resource that begins.
    pub fn new(id: R::Id, body: R, now: Timestamp) -> Self {
        Self { id, body, version: 1, created_at: now, updated_at: now }
    }

    /// The same resource with another body, as its next version.
    pub fn changed(&self, body: R, now: Timestamp) -> Self {
        Self { body, version: self.version + 1, updated_at: now, ..*self }
    }

    /// Its document.
    pub fn document(&self) -> Result<Document<R>> {
        #[derive(Serialize)]
        struct Form<'a, R: Resource> {
            id: R::Id,
            #[serde(flatten)]
            body: &'a R,
            #[serde(flatten)]
            also: R::Also<'a>,
            version: i64,
            created_at: Timestamp,
            updated_at: Timestamp,
        }
        let form = Form {
            id: self.id,
            body: &self.body,
            also: self.body.also(self.id),
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        };
        Ok(Document {
            id: self.id,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
            json: serde_json::to_string(&form).map_err(Error::internal)?,
            body: PhantomData,
        })
    }
}

/// A resource as clients read it.
pub struct Document<R: Resource> {
    /// Its id.
    pub id: R::Id,
    /// Its version.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The whole of it.
    pub json: String,
    body: PhantomData<fn() -> R>,
}

impl<R: Resource> Document<R> {
    /// A document out of the store. One of another [`Resource::SHAPE`] is
    /// written anew.
    pub fn stored(
        id: R::Id,
        version: i64,
        created_at: Timestamp,
        updated_at: Timestamp,
        (shape, json): (i64, String),
    ) -> Result<Self> {
        let stored = Self { id, version, created_at, updated_at, json, body: PhantomData };
        if shape == R::SHAPE { Ok(stored) } else { stored.entity()?.document() }
    }

    /// The resource itself.
    pub fn entity(&self) -> Result<Entity<R>> {
        Ok(Entity {
            id: self.id,
            body: serde_json::from_str(&self.json).map_err(Error::internal)?,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

impl<R: Resource> Clone for Document<R> {
    fn clone(&self) -> Self {
        Self { json: self.json.clone(), ..*self }
    }
}

impl<R: Resource> PartialEq for Document<R> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.version == other.version && self.json == other.json
    }
}

impl<R: Resource> fmt::Debug for Document<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.json)
    }
}
