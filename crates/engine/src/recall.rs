//! Recall: what was said before, and which memories there are, that may help
//! with what is asked now.

use std::collections::HashSet;

use agentry_domain::graph::GroupId;
use agentry_domain::memories::MemoryBody;
use agentry_domain::sessions::Message;
use agentry_domain::{Caller, Document, MemoryId, MessageId, Result};
use agentry_llm::{Passage, Source};
use agentry_store::{Hit, Scope, Sought};

use crate::Engine;
use crate::graph_recall::{GraphAsk, GraphItem};

/// Hits that are looked at for each passage wanted: the best hits of a question
/// that was asked before are those earlier questions.
const HITS_PER_PASSAGE: usize = 4;
/// Hits that are looked at in any case.
const HITS_MIN: usize = 20;

/// What a run wants to recall.
pub(crate) struct Recall<'a> {
    /// Where what was said is looked for; none when nothing was said yet.
    pub(crate) said: Option<Scope>,
    /// Which memories are looked at.
    pub(crate) memories: Sought,
    /// The group whose facts are looked at, and who says "I" in it.
    pub(crate) facts: Option<(GroupId, String)>,
    /// What is asked, and the message that asks it.
    pub(crate) query: &'a str,
    pub(crate) asked_in: Option<MessageId>,
    /// Passages at most.
    pub(crate) limit: usize,
    /// Messages that the model is shown anyway; empty when it is to get all.
    pub(crate) shown: &'a [Message],
}

impl Engine {
    /// The passages that answer best, best first.
    pub(crate) async fn recall(&self, caller: &Caller, recall: Recall<'_>) -> Result<Vec<Passage>> {
        let hits = (recall.limit * HITS_PER_PASSAGE).max(HITS_MIN);
        let said = recall.said.map(Sought::within);
        let places: Vec<&Sought> = [&recall.memories].into_iter().chain(&said).collect();
        let store = &self.0.store;
        let mut found =
            store.text_search_each(caller.org, &places, recall.query, hits).await?.into_iter();
        let (memories, said) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
        let said = self.recall_said(caller, &recall, said).await?;
        let memories = self.recall_memories(caller, &recall, memories).await?;
        let facts = self.recall_facts(caller, &recall).await?;
        let mut passages = in_turn(said, memories, recall.limit);
        let best = passages.iter().map(|passage| passage.coverage).fold(0.0, f64::max);
        // A fact says what holds at the moment asked about; what was said says what held
        // when it was said.
        let (answers, helps): (Vec<Passage>, Vec<Passage>) =
            facts.into_iter().partition(|fact| fact.coverage >= best);
        passages.splice(0..0, answers);
        passages.extend(helps);
        passages.truncate(recall.limit);
        Ok(passages)
    }

    async fn recall_facts(&self, caller: &Caller, recall: &Recall<'_>) -> Result<Vec<Passage>> {
        let Some((group, speaker)) = &recall.facts else { return Ok(Vec::new()) };
        let ask = GraphAsk {
            group: group.clone(),
            query: recall.query.to_owned(),
            as_of: None,
            known_at: None,
            limit: recall.limit,
            bytes_max: None,
            facts: true,
            episodes: false,
        };
        let found = self.facts_found(caller.org, &ask, self.now()).await?;
        let of_oneself = asks_of_oneself(recall.query);
        let mut passages = Vec::new();
        for hit in found {
            let GraphItem::Fact(fact, evidence) = hit.item else { continue };
            if of_oneself && !fact.text.starts_with(speaker.as_str()) {
                continue;
            }
            // What was just told is no memory of it.
            let quote = evidence.last().map(|evidence| evidence.quote.as_str()).unwrap_or_default();
            if quote.trim() == recall.query.trim() {
                continue;
            }
            passages.push(Passage {
                text: fact.text,
                source: Source::Fact,
                at: fact.valid_at.unwrap_or(fact.created_at),
                score: hit.score,
                coverage: hit.coverage,
            });
        }
        Ok(passages)
    }

    async fn recall_said(
        &self,
        caller: &Caller,
        recall: &Recall<'_>,
        hits: Vec<Hit>,
    ) -> Result<Vec<Passage>> {
        let shown: HashSet<MessageId> = recall.shown.iter().map(|message| message.id).collect();
        let mut passages = Vec::new();
        for hit in hits {
            if passages.len() == recall.limit {
                break;
            }
            let id = MessageId::from_bytes(hit.id);
            if Some(id) == recall.asked_in || shown.contains(&id) {
                continue;
            }
            // Gone when the session was deleted since the search.
            let found = self.0.store.message_get(caller.org, hit.session, id).await?;
            let Some(message) = found else { continue };
            if message.content.trim() == recall.query.trim() {
                continue;
            }
            passages.push(Passage {
                text: message.content,
                source: Source::Message { session: hit.session, role: message.role },
                at: message.created_at,
                score: hit.score,
                coverage: hit.coverage,
            });
        }
        Ok(passages)
    }

    async fn recall_memories(
        &self,
        caller: &Caller,
        recall: &Recall<'_>,
        mut hits: Vec<Hit>,
    ) -> Result<Vec<Passage>> {
        if hits.is_empty() {
            return Ok(Vec::new());
        }
        hits.truncate(recall.limit);
        let found = self.memories_of_hits(caller, &hits).await?;
        found.into_iter().map(|(hit, memory)| memory_passage(&hit, &memory)).collect()
    }

    /// Hits with their memories, without those that are gone since the search.
    pub(crate) async fn memories_of_hits(
        &self,
        caller: &Caller,
        hits: &[Hit],
    ) -> Result<Vec<(Hit, Document<MemoryBody>)>> {
        let ids: Vec<MemoryId> = hits.iter().map(|hit| MemoryId::from_bytes(hit.id)).collect();
        let found = self.0.store.memory_get_each(caller.org, &ids).await?;
        let mut found = found.into_iter().peekable();
        let with = |hit: &Hit| {
            let memory = found.next_if(|memory| memory.id.to_bytes() == hit.id)?;
            Some((hit.clone(), memory))
        };
        Ok(hits.iter().filter_map(with).collect())
    }
}

/// Whether somebody asks about themselves.
fn asks_of_oneself(query: &str) -> bool {
    let words = query.split(|c: char| !c.is_alphanumeric());
    words.map(str::to_lowercase).any(|word| matches!(word.as_str(), "i" | "my" | "me" | "mine"))
}

fn memory_passage(hit: &Hit, memory: &Document<MemoryBody>) -> Result<Passage> {
    let body = memory.entity()?.body;
    // What it is called and what it is about are often half of what it says.
    let about: Vec<&str> = [body.name.as_deref().unwrap_or_default(), &body.description]
        .into_iter()
        .filter(|text| !text.is_empty())
        .chain([body.content.as_str()])
        .collect();
    Ok(Passage {
        text: about.join(": "),
        source: Source::Memory,
        at: memory.updated_at,
        score: hit.score,
        coverage: hit.coverage,
    })
}

/// Two ranked lists as one: the best of both, the second best of both, and so
/// on. Their scores are not comparable, since each has its own statistics; of
/// two of one rank that comes first which holds more of the query.
fn in_turn(one: Vec<Passage>, other: Vec<Passage>, limit: usize) -> Vec<Passage> {
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut fused = Vec::new();
    while fused.len() < limit {
        match (one.next(), other.next()) {
            (None, None) => break,
            (Some(a), Some(b)) if b.coverage > a.coverage => fused.extend([b, a]),
            (a, b) => fused.extend(a.into_iter().chain(b)),
        }
    }
    fused.truncate(limit);
    fused
}
