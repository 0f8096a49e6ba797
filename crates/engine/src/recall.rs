//! Recall: what was said before, and which memories there are, that may help
//! with what is asked now.

use std::collections::HashSet;

use agentry_domain::graph::GroupId;
use agentry_domain::sessions::Message;
use agentry_domain::{Caller, MessageId, Result};
use agentry_llm::{Passage, Source};
use agentry_store::{Hit, Scope, Sought};

use crate::Engine;
use crate::graph_recall::{GraphAsk, GraphItem};
use crate::memories::{MemoryHit, memory_text};

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
        let (said, memories) = tokio::try_join!(
            async {
                let Some(scope) = recall.said else { return Ok(Vec::new()) };
                let store = &self.0.store;
                let within = Sought::within(scope);
                Ok(store.text_search(caller.org, &within, recall.query, hits).await?)
            },
            self.memories_ranked(caller, &recall.memories, recall.query, recall.limit),
        )?;
        let said = self.recall_said(caller, &recall, said).await?;
        let memories = memories.iter().map(memory_passage).collect::<Result<_>>()?;
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
}

/// Whether somebody asks about themselves.
fn asks_of_oneself(query: &str) -> bool {
    let words = query.split(|c: char| !c.is_alphanumeric());
    words.map(str::to_lowercase).any(|word| matches!(word.as_str(), "i" | "my" | "me" | "mine"))
}

fn memory_passage(hit: &MemoryHit) -> Result<Passage> {
    Ok(Passage {
        text: memory_text(&hit.memory)?,
        source: Source::Memory,
        at: hit.memory.updated_at,
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
