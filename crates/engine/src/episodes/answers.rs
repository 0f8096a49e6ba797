//! What a model said of some episodes, stored by the job of the group's own lane: once,
//! whatever was merged, ended or deleted since the model was asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::Ordering;

use agentry_domain::episodes::Episode;
use agentry_domain::facts::Fact;
use agentry_domain::graph::GroupId;
use agentry_domain::{Code, EpisodeId, Error, FactId, NodeId, OrgId, Result, Timestamp};
use agentry_graph::extract::{Effect, Extraction, Fact as Stated, Kind, Named, Object};
use agentry_graph::names::normalised;
use agentry_graph::structured::{CONFIDENCE_MODEL, EXTRACTOR_MODEL, places};
use agentry_store::{ClaimedJob, StoredAnswer, Write};
use serde::{Deserialize, Serialize};

use super::drawn::{Drawn, merges};
use super::extractor;
use super::ingest::{ByModel, Read, Ties};
use crate::Engine;

/// What a model found, with ids in place of what it saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Who found it, as `provider/model`.
    pub(super) model: String,
    /// The episodes that it was asked about.
    pub(super) episodes: Vec<EpisodeId>,
    pub(super) entities: Vec<AnswerEntity>,
    pub(super) facts: Vec<AnswerFact>,
}

impl Answer {
    pub(super) fn is_empty(&self) -> bool {
        self.entities.is_empty() && self.facts.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AnswerEntity {
    pub(super) name: String,
    pub(super) kind: String,
    /// The node that it is, if it was known.
    pub(super) node: Option<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AnswerFact {
    /// A place of [`Answer::entities`].
    pub(super) subject: usize,
    pub(super) predicate: String,
    /// A place of [`Answer::entities`], or a value.
    pub(super) object: std::result::Result<usize, String>,
    pub(super) episode: EpisodeId,
    pub(super) quote: Range<usize>,
    pub(super) valid_at: Option<Timestamp>,
    pub(super) same: Option<FactId>,
    pub(super) ends: Vec<FactId>,
}

/// What of that an answer names is there.
struct There {
    nodes: BTreeMap<NodeId, NodeId>,
    facts: HashMap<FactId, Fact>,
}

impl Engine {
    /// Stores an answer. One that cannot be stored is given up: the rules have read its
    /// episodes.
    pub(super) async fn answer_store(
        &self,
        job: &ClaimedJob,
        group: &GroupId,
        stored: &StoredAnswer,
    ) -> Result<()> {
        let counts = &self.0.graph.activity;
        match self.answer_write(job, group, stored).await {
            Ok(facts) => {
                counts.facts.fetch_add(facts, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.code.retryable() || is_change(error.code) => Err(error),
            Err(error) => {
                tracing::warn!(group = group.as_str(), error = %error.chain(),
                    "what a model said of episodes could not be stored");
                counts.answers_given_up.fetch_add(1, Ordering::Relaxed);
                let mut write = Write::new(job.org).bulk();
                write.answer_done(job, group, stored.id, &[], "");
                self.0.store.write(write).await?;
                Ok(())
            }
        }
    }

    async fn answer_write(
        &self,
        job: &ClaimedJob,
        group: &GroupId,
        stored: &StoredAnswer,
    ) -> Result<u64> {
        let store = &self.0.store;
        let answer: Answer = serde_json::from_str(&stored.body).map_err(Error::internal)?;
        let mut episodes = store.episodes_get(job.org, group, &answer.episodes).await?;
        episodes.sort_by_key(|episode| (episode.occurred_at, episode.id));
        let there = self.there(job.org, group, &answer).await?;
        let mut read = Vec::with_capacity(episodes.len());
        for episode in &episodes {
            let mentions = store.mentions_of(job.org, group, episode.id).await?;
            let named = mentions.into_iter().map(|mention| mention.node).collect();
            read.push(said_of(episode, &answer, &there, named));
        }
        let drawn = Drawn::of(self, job.org, group, &episodes, &read).await?;
        let facts = drawn.facts.len() as u64;
        let fresh: Vec<String> = drawn.nodes.iter().map(|node| node.body.name.clone()).collect();
        let ids: Vec<EpisodeId> = episodes.iter().map(|episode| episode.id).collect();
        let by = format!("{} {}", extractor(), by(&answer.model));
        let mut write = Write::new(job.org).bulk();
        write.answer_done(job, group, stored.id, &ids, &by);
        drawn.add_to(&mut write, group);
        store.write(write).await?;
        let gazetteer = self.gazetteer(job.org, group).await?;
        let mut known = gazetteer.lock();
        for name in &fresh {
            known.add(name);
        }
        Ok(facts)
    }

    async fn there(&self, org: OrgId, group: &GroupId, answer: &Answer) -> Result<There> {
        let store = &self.0.store;
        let wanted: Vec<NodeId> = answer.entities.iter().filter_map(|it| it.node).collect();
        let merged = merges(self, org, group, wanted.clone()).await?;
        let into = |node: NodeId| *merged.get(&node).unwrap_or(&node);
        let ids: Vec<NodeId> = wanted.iter().map(|node| into(*node)).collect();
        let found = store.graph_nodes_get(org, group, &ids).await?;
        let found: BTreeSet<NodeId> = found.into_iter().map(|node| node.id).collect();
        let is_there = |node: &NodeId| found.contains(&into(*node));
        let nodes = wanted.into_iter().filter(is_there).map(|node| (node, into(node))).collect();
        let ties = answer.facts.iter().flat_map(|fact| fact.ends.iter().copied().chain(fact.same));
        let ties: BTreeSet<FactId> = ties.collect();
        let ties: Vec<FactId> = ties.into_iter().collect();
        let facts = store.facts_get(org, group, &ties).await?;
        Ok(There { nodes, facts: facts.into_iter().map(|fact| (fact.id, fact)).collect() })
    }
}

fn is_change(code: Code) -> bool {
    matches!(code, Code::Conflict | Code::NotFound | Code::PreconditionFailed)
}

fn by(model: &str) -> String {
    format!("{EXTRACTOR_MODEL}:{model}")
}

/// What an answer says of one episode, as the rules would have said it.
fn said_of(episode: &Episode, answer: &Answer, there: &There, named: BTreeSet<NodeId>) -> Read {
    let facts: Vec<&AnswerFact> =
        answer.facts.iter().filter(|fact| fact.episode == episode.id).collect();
    let mut names: Vec<Named> = Vec::new();
    let mut nodes: Vec<Option<NodeId>> = Vec::new();
    let mut place_of: HashMap<usize, usize> = HashMap::new();
    for (nth, entity) in answer.entities.iter().enumerate() {
        let about = facts.iter().find(|fact| fact.subject == nth || fact.object == Ok(nth));
        let mut spans = places(&episode.content, &entity.name);
        if spans.is_empty() {
            // It is meant, in other words, by what a fact quotes.
            let Some(fact) = about else { continue };
            spans.push(fact.quote.clone());
        }
        place_of.insert(nth, names.len());
        names.push(Named {
            name: entity.name.clone(),
            normalised: normalised(&entity.name),
            kind: Kind::parse(&entity.kind).unwrap_or(Kind::Name),
            spans,
        });
        nodes.push(entity.node.and_then(|node| there.nodes.get(&node).copied()));
    }
    let mut stated = Vec::with_capacity(facts.len());
    let mut ties = Vec::with_capacity(facts.len());
    for fact in facts {
        let Some(subject) = place_of.get(&fact.subject).copied() else { continue };
        let object = match &fact.object {
            Ok(nth) => match place_of.get(nth) {
                Some(place) => Object::Named(*place),
                None => continue,
            },
            Err(text) => Object::Literal(text.clone()),
        };
        stated.push(Stated {
            subject,
            predicate: fact.predicate.clone(),
            object,
            effect: Effect::Holds,
            valid_at: fact.valid_at.unwrap_or(episode.occurred_at),
            quote: fact.quote.clone(),
            confidence: CONFIDENCE_MODEL,
        });
        ties.push(Ties {
            same: fact.same.filter(|id| there.facts.contains_key(id)),
            ends: fact.ends.iter().filter_map(|id| there.facts.get(id).cloned()).collect(),
        });
    }
    let known_as = vec![None; names.len()];
    let found = Extraction { names, speaker: None, facts: stated, dates: Vec::new() };
    let by_model = ByModel { extractor: by(&answer.model), nodes, ties, named };
    Read { found, known_as, by_model: Some(by_model) }
}
