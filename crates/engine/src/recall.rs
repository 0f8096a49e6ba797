//! Recall: what was said before that may help with what is asked now.

use std::collections::HashSet;

use agentry_domain::sessions::Message;
use agentry_domain::{Caller, MessageId, Result};
use agentry_llm::Passage;
use agentry_store::Scope;

use crate::Engine;

/// Hits that are looked at for each passage wanted: the best hits of a question
/// that was asked before are those earlier questions.
const HITS_PER_PASSAGE: usize = 4;
/// Hits that are looked at in any case.
const HITS_MIN: usize = 20;

/// What a run wants to recall.
pub(crate) struct Recall<'a> {
    pub(crate) scope: Scope,
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
        let store = &self.0.store;
        let hits = store.text_search(caller.org, recall.scope, recall.query, hits).await?;
        let shown: HashSet<MessageId> = recall.shown.iter().map(|message| message.id).collect();
        let mut passages = Vec::new();
        for hit in hits {
            if passages.len() == recall.limit {
                break;
            }
            if Some(hit.message) == recall.asked_in || shown.contains(&hit.message) {
                continue;
            }
            // Gone when the session was deleted since the search.
            let found = store.message_get(caller.org, hit.session, hit.message).await?;
            let Some(message) = found else { continue };
            if message.content.trim() == recall.query.trim() {
                continue;
            }
            passages.push(Passage {
                text: message.content,
                session: hit.session,
                role: message.role,
                at: message.created_at,
                score: hit.score,
                coverage: hit.coverage,
            });
        }
        Ok(passages)
    }
}
