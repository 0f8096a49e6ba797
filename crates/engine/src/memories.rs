//! Memories: made one by one or many at once, found from the moment they are
//! acknowledged, and recalled by runs.

use std::collections::{BTreeSet, HashMap};

use agentry_domain::idempotency::{IDEMPOTENCY_ANSWER_BYTES_MAX, Remembered};
use agentry_domain::log::EntityKind;
use agentry_domain::memories::{Memory, MemoryBody};
use agentry_domain::{Caller, Code, Done, Error, MemoryId, Once, Resource as _, Result, Timestamp};
use agentry_graph::rank::{Document, Question, Ranked, Turn, Weighed, rank};
use agentry_store::{MemorySought, Sought, Write};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::graph_recall::documents;
use crate::users::{USER_TRIES_MAX, user_ensure};
use crate::{Engine, entry, version_data};

/// A search has found nothing when no hit holds this share of its query's weight.
const COVERAGE_MIN: f64 = 0.5;
/// Memories whose words match best that are looked at, for each hit and in any case.
const LOOKED_AT_PER_HIT: usize = 3;
const LOOKED_AT_MIN: usize = 30;

type Stored = agentry_domain::Document<MemoryBody>;

/// A memory that answers a search.
#[derive(Clone, Debug)]
pub struct MemoryHit {
    /// Comparable only within one search.
    pub score: f64,
    /// 0 to 1: the share of the query's term weight that the memory holds.
    pub coverage: f64,
    /// The memory.
    pub memory: Stored,
}

impl Engine {
    /// Makes a memory, once if the request says so, and its user if that is the
    /// first time that it is named.
    pub async fn memory_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: MemoryBody,
    ) -> Result<Done<Stored>> {
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
    ) -> Result<Done<Vec<Stored>>> {
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
    ) -> Result<Done<Vec<Stored>>> {
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
    ) -> Result<Done<Vec<Stored>>> {
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
                    value.push(Stored::stored(id, 1, at, at, stored)?);
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
    ) -> Result<Stored> {
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
        let hits = self.memories_ranked(caller, &sought, query, limit).await?;
        if hits.iter().all(|hit| hit.coverage < COVERAGE_MIN) {
            return Ok(Vec::new());
        }
        Ok(hits)
    }

    /// The memories that answer a query best, best first, ranked as the graph's episodes
    /// are: irregular forms and everyday synonyms count, words side by side, and what kind
    /// of answer is asked for.
    pub(crate) async fn memories_ranked(
        &self,
        caller: &Caller,
        sought: &Sought,
        query: &str,
        limit: usize,
    ) -> Result<Vec<MemoryHit>> {
        let question = Question::of(query, self.now());
        let (terms, kindred) = (&question.terms, &question.kindred);
        let pool = self.0.store.text_pool(caller.org, sought, terms, kindred).await?;
        if pool.found.is_empty() {
            return Ok(Vec::new());
        }
        let (found, statistics) = documents(pool);
        let weighed = Weighed::of(&question, &statistics, std::iter::empty());
        let mut best: Vec<(MemoryId, f64, Document)> = found
            .into_iter()
            .map(|(id, document)| (MemoryId::from_bytes(id), weighed.score(&document), document))
            .collect();
        // Equal ones: the newer one.
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        best.truncate((limit * LOOKED_AT_PER_HIT).max(LOOKED_AT_MIN));
        let ids: Vec<MemoryId> = best.iter().map(|(id, ..)| *id).collect();
        let memories = self.0.store.memory_get_each(caller.org, &ids).await?;
        let mut tokens: HashMap<MemoryId, Document> =
            best.into_iter().map(|(id, _, document)| (id, document)).collect();
        let texts: Vec<String> = memories.iter().map(memory_text).collect::<Result<_>>()?;
        let mut turns: Vec<Turn<'_>> = Vec::with_capacity(memories.len());
        for (memory, text) in memories.iter().zip(&texts) {
            let document = tokens.remove(&memory.id);
            turns.push(Turn {
                text,
                document: document.unwrap_or(Document { tokens: Vec::new() }),
                speaker: None,
                at: memory.updated_at,
                // Each stands alone.
                session: turns.len(),
                before: [None; 3],
                after: [None; 2],
            });
        }
        let ranked = rank(&question, &statistics, &turns);
        let mut memories: Vec<Option<Stored>> = memories.into_iter().map(Some).collect();
        let hits = ranked.into_iter().filter(|it| it.score > 0.0).take(limit);
        Ok(hits
            .filter_map(|Ranked { turn, score, coverage, .. }| {
                Some(MemoryHit { score, coverage, memory: memories[turn].take()? })
            })
            .collect())
    }
}

/// A memory as people read it: what it is called and what it is about are often half of
/// what it says.
pub(crate) fn memory_text(memory: &Stored) -> Result<String> {
    let body = memory.entity()?.body;
    let about: Vec<&str> = [body.name.as_deref().unwrap_or_default(), &body.description]
        .into_iter()
        .filter(|text| !text.is_empty())
        .chain([body.content.as_str()])
        .collect();
    Ok(about.join(": "))
}

/// What is remembered of a batch: its answer, a list of documents, or a list of
/// ids when that is too long.
fn batch_note(documents: &[Stored]) -> String {
    let listed = |items: Vec<String>| format!("[{}]", items.join(","));
    let whole = listed(documents.iter().map(|document| document.json.clone()).collect());
    if whole.len() <= IDEMPOTENCY_ANSWER_BYTES_MAX {
        return whole;
    }
    listed(documents.iter().map(|document| format!("\"{}\"", document.id)).collect())
}
