//! Memories: made one by one or many at once, found from the moment they are
//! acknowledged, and recalled by runs.

use std::collections::BTreeSet;

use agentry_domain::idempotency::{IDEMPOTENCY_ANSWER_BYTES_MAX, Remembered};
use agentry_domain::log::EntityKind;
use agentry_domain::memories::{Memory, MemoryBody};
use agentry_domain::{
    Caller, Code, Document, Done, Error, MemoryId, Once, Resource as _, Result, Timestamp,
};
use agentry_store::{Hit, MemorySought, Write};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::users::{USER_TRIES_MAX, user_ensure};
use crate::{Engine, entry, version_data};

/// A search has found nothing when no hit holds this share of its query's weight.
const COVERAGE_MIN: f64 = 0.5;

/// A memory that answers a search.
#[derive(Clone, Debug)]
pub struct MemoryHit {
    /// BM25; comparable only within one search.
    pub score: f64,
    /// 0 to 1: the share of the query's term weight that the memory holds.
    pub coverage: f64,
    /// The memory.
    pub memory: Document<MemoryBody>,
}

impl Engine {
    /// Makes a memory, once if the request says so, and its user if that is the
    /// first time that it is named.
    pub async fn memory_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: MemoryBody,
    ) -> Result<Done<Document<MemoryBody>>> {
        self.limit_user(caller, body.user_id.as_deref())?;
        let also = |write: &mut Write, memory: &Memory| write.memory_index(memory.id, memory);
        let user = body.user_id.clone();
        self.resource_create_for_user(caller, once, user.as_deref(), body, also).await
    }

    /// Makes memories and the users that they are the first to name, all of
    /// them or none.
    pub async fn memory_create_batch(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        bodies: Vec<MemoryBody>,
    ) -> Result<Done<Vec<Document<MemoryBody>>>> {
        if let Some(before) = self.remembered(caller, once).await? {
            return self.memory_batch_replayed(caller, before).await;
        }
        for body in &bodies {
            self.limit_user(caller, body.user_id.as_deref())?;
        }
        let mut tries = 1;
        loop {
            match self.memory_batch_write(caller, once, &bodies).await {
                // Another request was the first to name one of the users.
                Err(error) if error.code == Code::AlreadyExists && tries < USER_TRIES_MAX => {
                    tries += 1;
                }
                made => return made,
            }
        }
    }

    async fn memory_batch_write(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        bodies: &[MemoryBody],
    ) -> Result<Done<Vec<Document<MemoryBody>>>> {
        let mut write = Write::new(caller.org);
        let users: BTreeSet<&str> = bodies.iter().filter_map(|it| it.user_id.as_deref()).collect();
        for user_id in users {
            let user = self.user_unknown(caller, Some(user_id)).await?;
            user_ensure(&mut write, caller, user.as_ref())?;
        }
        let now = self.now();
        let mut documents = Vec::with_capacity(bodies.len());
        for body in bodies {
            let memory = Memory::new(MemoryId::from_uuid(self.uuid(now)), body.clone(), now);
            let document = memory.document()?;
            write.resource_insert(&memory.body, &document);
            write.memory_index(memory.id, &memory);
            let id = memory.id.to_bytes();
            let (kind, data) = (EntityKind::Memory, version_data(memory.version));
            write.log(entry(caller, now, kind.created(), kind, id, data));
            documents.push(document);
        }
        let first = documents.first().map(|document| document.id.to_bytes()).unwrap_or_default();
        let noted = batch_note(&documents);
        match self.write_once(caller, once, write, (first, &noted), now).await? {
            None => Ok(Done::now(documents)),
            Some(before) => self.memory_batch_replayed(caller, before).await,
        }
    }

    /// The answer of a batch that took effect before: as it was or, when that
    /// was too long to keep, the memories as they are now, without those that
    /// are gone.
    async fn memory_batch_replayed(
        &self,
        caller: &Caller,
        before: Remembered,
    ) -> Result<Done<Vec<Document<MemoryBody>>>> {
        let at = Timestamp::from_micros(before.at);
        let note = before.answer.ok_or_else(|| Error::internal("a batch without its note"))?;
        let noted: Vec<Box<RawValue>> = serde_json::from_str(&note).map_err(Error::internal)?;
        let mut value = Vec::with_capacity(noted.len());
        for json in noted.iter().map(|noted| noted.get()) {
            match serde_json::from_str::<Value>(json).map_err(Error::internal)? {
                Value::String(id) => {
                    let id = id.parse().map_err(Error::internal)?;
                    value.extend(self.0.store.resource_get(caller.org, id).await?);
                }
                document => {
                    let id = document["id"].as_str().unwrap_or_default();
                    let id = id.parse().map_err(Error::internal)?;
                    let stored = (MemoryBody::SHAPE, json.to_owned());
                    value.push(Document::stored(id, 1, at, at, stored)?);
                }
            }
        }
        Ok(Done { value, replayed: true })
    }

    /// Changes a memory, and what search finds it by.
    pub async fn memory_update(
        &self,
        caller: &Caller,
        id: MemoryId,
        if_match: Option<i64>,
        change: impl Fn(&Memory) -> Result<MemoryBody> + Sync,
    ) -> Result<Document<MemoryBody>> {
        self.resource_update_with(caller, id, if_match, change, |write, was, will_be| {
            write.memory_index_again(id, was, will_be);
        })
        .await
    }

    /// Deletes a memory, and what search knows of it.
    pub async fn memory_delete(
        &self,
        caller: &Caller,
        id: MemoryId,
        if_match: Option<i64>,
    ) -> Result<()> {
        self.resource_delete_with::<MemoryBody>(caller, id, if_match, |write, was| {
            write.memory_delete(was.id, was.version);
        })
        .await
    }

    /// The memories that answer a query best, best first, at most `limit`; none
    /// when not one of them holds half of what is asked.
    pub async fn memory_search(
        &self,
        caller: &Caller,
        sought: MemorySought<'_>,
        query: &str,
        limit: usize,
    ) -> Result<Vec<MemoryHit>> {
        let sought = sought.in_search(caller.org);
        let hits = self.0.store.text_search(caller.org, &sought, query, limit).await?;
        if hits.iter().all(|hit| hit.coverage < COVERAGE_MIN) {
            return Ok(Vec::new());
        }
        let found = self.memories_of_hits(caller, &hits).await?;
        Ok(found
            .into_iter()
            .map(|(Hit { score, coverage, .. }, memory)| MemoryHit { score, coverage, memory })
            .collect())
    }
}

/// What is remembered of a batch: its answer, a list of documents, or a list of
/// ids when that is too long.
fn batch_note(documents: &[Document<MemoryBody>]) -> String {
    let listed = |items: Vec<String>| format!("[{}]", items.join(","));
    let whole = listed(documents.iter().map(|document| document.json.clone()).collect());
    if whole.len() <= IDEMPOTENCY_ANSWER_BYTES_MAX {
        return whole;
    }
    listed(documents.iter().map(|document| format!("\"{}\"", document.id)).collect())
}
