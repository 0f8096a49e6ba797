//! The job that asks a model about the episodes of a group. It has a lane of its own:
//! neither a reply nor what the rules read waits for it. Episodes wait until a batch of
//! them is full or the group is silent; then one call asks about all of them, and no
//! connection of the store is held meanwhile.
//!
//! What a model drew is checked, and kept as an answer in the write that takes the
//! episodes from the queue; the job of the group's own lane stores it (`super::answers`).
//! A crash before that write asks again, a crash behind it asks nothing twice.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentry_domain::episodes::{Episode, EpisodeKind, ModelWork};
use agentry_domain::facts::{Fact, FactObject};
use agentry_domain::graph::{GroupId, Node};
use agentry_domain::text::terms;
use agentry_domain::{Code, EpisodeId, Error, FactId, NodeId, OrgId, Result};
use agentry_graph::structured::{
    Found, INSTRUCTIONS, KNOWN_SHOWN_MAX, Material, ShownEntity, ShownFact, ShownTurn,
    TURN_SHOWN_BYTES_MAX, Unusable, schema,
};
use agentry_llm::{ChatMessage, ModelEvent, ModelRequest, ResponseFormat};
use agentry_outbound::breaker::Outcome;
use agentry_store::{Ask, Asking, ClaimedJob, FactFilter, Scope, Sought, StoredAnswer, Write};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::answers::{Answer, AnswerEntity, AnswerFact};
use super::drawn::merges;
use crate::Engine;

/// Episodes of one call at most.
const BATCH_EPISODES_MAX: u32 = 32;
/// Bytes that are counted as a token.
const BYTES_PER_TOKEN: usize = 4;
/// Episodes with fewer terms name and state nothing: "Thanks!"
const TERMS_MIN: usize = 2;
/// Batches of one group before others that wait get their turn.
const BATCHES_PER_TURN: u32 = 8;
/// A batch that is not full is asked about when its first episode waits this many times
/// as long as the group has to be silent.
const IDLES_MAX: u32 = 10;
/// How often the same episodes are asked about in vain before they are left to the rules;
/// from the half of that on, the first one alone is.
pub(super) const ASK_ATTEMPTS_MAX: i64 = 6;
/// The first wait after a call that failed; doubled for each further one, up to the last.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);
/// How long until it is looked again whether there is a model, when there is none.
pub(super) const NO_MODEL_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Facts that are looked at for each entity that the episodes name.
const FACTS_PER_ENTITY: u32 = 4;
/// Facts whose words match what is said that are looked at.
const FACTS_ALIKE: usize = 12;

/// Why a model did not help.
enum Vain {
    /// It could not be asked, or did not answer.
    Unanswered(Error),
    /// It answered twice, and nothing of that can be used.
    Unusable(Unusable),
}

/// What came of asking.
pub(super) enum Asked {
    /// Nothing waits any more, or others have their turn.
    Over,
    /// There is more to ask about at once.
    More,
    /// Not before then.
    Later { attempts: i64, after: Duration },
}

impl Engine {
    /// Adds to the write that stores what rules read of episodes that models may have
    /// a look at them.
    pub(super) fn asks_of(&self, write: &mut Write, group: &GroupId, batch: &[Episode]) {
        let options = &self.0.options.graph;
        let wanted = |work: ModelWork| match work {
            ModelWork::Extract => options.extraction_model.is_some(),
            ModelWork::Embed => options.embedding_model.is_some(),
        };
        let asks: Vec<Ask> = batch
            .iter()
            .filter(|it| it.kind == EpisodeKind::Text && terms(&it.content).len() >= TERMS_MIN)
            .map(|episode| Ask {
                episode: episode.id,
                tokens: tokens(&episode.content),
                at: episode.ingested_at,
            })
            .collect();
        let now = self.now();
        for work in ModelWork::ALL.iter().copied().filter(|work| wanted(*work)) {
            let due = match work {
                ModelWork::Extract => now.plus(options.extraction_idle),
                // Nothing is gained by waiting: what came meanwhile goes with it.
                ModelWork::Embed => now,
            };
            write.asks_insert(group, work, &asks, (now, due));
        }
    }

    /// Carries out a job that asks a model, as far as that goes now.
    pub(crate) async fn asking_claimed(&self, job: ClaimedJob) {
        let _held = self.0.held.hold(job.id);
        let stopping = self.0.tasks.stopping().clone();
        let asked = match stopping.run_until_cancelled(self.asking(&job)).await {
            Some(Ok(Asked::Over)) => return,
            Some(Ok(asked)) => asked,
            None => Asked::More,
            Some(Err(error)) => {
                tracing::warn!(job = %job.id, error = %error.chain(), "no model could be asked");
                Asked::Later { attempts: 0, after: AGAIN_AFTER }
            }
        };
        let mut write = Write::new(job.org).bulk();
        match asked {
            Asked::Later { attempts, after } => {
                write.asking_defer(&job, attempts, self.now().plus(after));
            }
            Asked::Over | Asked::More => write.job_defer(&job, self.now()),
        }
        // When this fails the claim is found in nobody's hands, and given up then.
        if let Err(error) = self.0.store.write(write).await {
            let error = Error::from(error);
            tracing::debug!(job = %job.id, error = %error.chain(), "a claim could not be given up");
        }
        self.0.claimable.notify_one();
    }

    async fn asking(&self, job: &ClaimedJob) -> Result<Asked> {
        let pressure = &self.0.graph.pressure;
        pressure.models_allowed().await;
        let Some(first) = self.0.store.asking_get(job.org, job.lane).await? else {
            let mut write = Write::new(job.org);
            write.job_end(job);
            self.0.store.write(write).await?;
            return Ok(Asked::Over);
        };
        let places = self.0.graph.asking_places(first.work);
        let _place = places.acquire_owned().await;
        let mut attempts = first.attempts;
        for _ in 0..BATCHES_PER_TURN {
            let asking = Asking { attempts, ..first.clone() };
            let asked = match asking.work {
                ModelWork::Extract => self.extraction_ask(job, &asking).await?,
                ModelWork::Embed => self.embedding_ask(job, &asking).await?,
            };
            match asked {
                Asked::More => attempts = 0,
                other => return Ok(other),
            }
        }
        Ok(Asked::More)
    }

    /// Ends the job when nothing waits.
    pub(super) async fn asking_over(&self, job: &ClaimedJob) -> Result<Asked> {
        let mut write = Write::new(job.org).bulk();
        write.asking_end(job);
        match self.0.store.write(write).await.map_err(Error::from) {
            Ok(_) => Ok(Asked::Over),
            // One came meanwhile, or another process has the job.
            Err(error) if error.code == Code::Conflict => Ok(Asked::More),
            Err(error) => Err(error),
        }
    }

    /// Notes that a call about some episodes failed; when they are asked about again, or
    /// none when they are left to the rules.
    pub(super) fn ask_failed(
        &self,
        asking: &Asking,
        episodes: usize,
        error: &Error,
    ) -> Option<Asked> {
        let counts = &self.0.graph.activity;
        counts.ask_failures.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(group = asking.group.as_str(), work = asking.work.as_str(),
            error = %error.chain(), "the graph's model did not answer");
        let attempts = asking.attempts + i64::from(is_about_episodes(error.code));
        if attempts < ASK_ATTEMPTS_MAX || episodes > 1 {
            let after = again_after(attempts).max(error.retry_after.unwrap_or_default());
            return Some(Asked::Later { attempts, after });
        }
        counts.left_to_rules.fetch_add(1, Ordering::Relaxed);
        None
    }

    async fn extraction_ask(&self, job: &ClaimedJob, asking: &Asking) -> Result<Asked> {
        let options = &self.0.options.graph;
        let attempts = asking.attempts;
        let Some(model) = &options.extraction_model else {
            return Ok(Asked::Later { attempts, after: NO_MODEL_AGAIN_AFTER });
        };
        let store = &self.0.store;
        let mut asks = store.asks_oldest(job.org, asking, BATCH_EPISODES_MAX + 1).await?;
        let (Some(oldest), Some(newest)) = (asks.first().copied(), asks.last().copied()) else {
            return self.asking_over(job).await;
        };
        let fits = fitting(&asks, options.extraction_batch_tokens);
        let is_full = fits < asks.len() || asks.len() > BATCH_EPISODES_MAX as usize;
        asks.truncate(fits);
        let now = self.now();
        let silent = newest.at.plus(options.extraction_idle);
        let waits = oldest.at.plus(options.extraction_idle * IDLES_MAX);
        if !is_full && attempts == 0 && now < silent && now < waits {
            return Ok(Asked::Later { attempts, after: silent.min(waits).since(now) });
        }
        if attempts * 2 >= ASK_ATTEMPTS_MAX {
            asks.truncate(1);
        }
        let ids: Vec<EpisodeId> = asks.iter().map(|ask| ask.episode).collect();
        let mut episodes = store.episodes_get(job.org, &asking.group, &ids).await?;
        episodes.sort_by_key(|episode| (episode.occurred_at, episode.id));
        let known = self.nearest(job.org, &asking.group, &episodes).await?;
        let material = material(&episodes, &known);
        let mut answer = None;
        if !episodes.is_empty() {
            let permit = match self.0.graph.pressure.admit(ModelWork::Extract) {
                Ok(permit) => permit,
                Err(after) => return Ok(Asked::Later { attempts, after }),
            };
            let asked = self.extraction_call(model, &material).await;
            let counts = &self.0.graph.activity;
            permit.tell(if asked.is_ok() { Outcome::Success } else { Outcome::Failure });
            match asked {
                Ok(found) => {
                    counts.extracted.fetch_add(episodes.len() as u64, Ordering::Relaxed);
                    answer = Some(kept(model, &found, &episodes, &known));
                }
                Err(Vain::Unusable(unusable)) => {
                    tracing::warn!(group = asking.group.as_str(), reason = %unusable,
                        "what a model said of episodes cannot be used");
                    counts.left_to_rules.fetch_add(episodes.len() as u64, Ordering::Relaxed);
                }
                Err(Vain::Unanswered(error)) => {
                    if let Some(later) = self.ask_failed(asking, ids.len(), &error) {
                        return Ok(later);
                    }
                }
            }
        }
        let mut write = Write::new(job.org).bulk();
        if let Some(answer) = answer.filter(|answer| !answer.is_empty()) {
            let now = self.now();
            let id = self.uuid(now).into_bytes();
            let body = serde_json::to_string(&answer).map_err(Error::internal)?;
            write.answer_insert(&asking.group, &StoredAnswer { id, body }, now);
        }
        write.asks_end(job, asking, &ids);
        store.write(write).await?;
        self.0.claimable.notify_one();
        Ok(Asked::More)
    }

    /// One call, and one more when nothing of its answer can be used.
    async fn extraction_call(
        &self,
        model: &str,
        material: &Material<'_>,
    ) -> std::result::Result<Found, Vain> {
        let counts = &self.0.graph.activity;
        let asks =
            ChatMessage::said(agentry_domain::sessions::MessageRole::User, material.prompt());
        let said = self.extraction_said(model, vec![asks.clone()]).await?;
        let noted = |refused: u32| {
            counts.refused.fetch_add(u64::from(refused), Ordering::Relaxed);
        };
        let reason = match material.check(&said) {
            Ok(found) => {
                noted(found.refused.total());
                return Ok(found);
            }
            Err(unusable) => {
                noted(unusable.refused.total().max(1));
                unusable.reason
            }
        };
        counts.repairs.fetch_add(1, Ordering::Relaxed);
        let was = ChatMessage::called(said, Vec::new());
        let again = ChatMessage::said(
            agentry_domain::sessions::MessageRole::User,
            format!("{reason} Answer again, in the form asked for, and with nothing else."),
        );
        let said = self.extraction_said(model, vec![asks, was, again]).await?;
        match material.check(&said) {
            Ok(found) => {
                noted(found.refused.total());
                Ok(found)
            }
            Err(unusable) => {
                noted(unusable.refused.total().max(1));
                Err(Vain::Unusable(unusable))
            }
        }
    }

    /// What the model answers.
    async fn extraction_said(
        &self,
        model: &str,
        messages: Vec<ChatMessage>,
    ) -> std::result::Result<String, Vain> {
        let within = self.0.options.graph.extraction_timeout;
        let request = ModelRequest {
            instructions: INSTRUCTIONS.to_owned(),
            response_format: ResponseFormat::JsonSchema {
                name: "knowledge_graph".to_owned(),
                description: None,
                schema: schema(),
                strict: true,
            },
            ..ModelRequest::new(messages, Instant::now() + within)
        };
        self.0.graph.activity.calls.fetch_add(1, Ordering::Relaxed);
        let model = self.0.graph_models.resolve(model).map_err(Vain::Unanswered)?;
        let mut events = model.respond(request).await.map_err(Vain::Unanswered)?;
        let mut said = String::new();
        while let Some(event) = events.next().await {
            if let ModelEvent::Delta(piece) = event.map_err(Vain::Unanswered)? {
                said.push_str(&piece);
                if said.len() > ANSWER_BYTES_MAX {
                    // It is cut, and so no JSON.
                    break;
                }
            }
        }
        Ok(said)
    }

    /// What a group knows that is nearest to what some episodes say: the nodes that the
    /// rules found in them, what holds of these, and facts with the same words.
    async fn nearest(&self, org: OrgId, group: &GroupId, episodes: &[Episode]) -> Result<Known> {
        let store = &self.0.store;
        let mut named: BTreeSet<NodeId> = BTreeSet::new();
        for episode in episodes {
            let mentions = store.mentions_of(org, group, episode.id).await?;
            named.extend(mentions.into_iter().map(|mention| mention.node));
        }
        let merged = merges(self, org, group, named.iter().copied().collect()).await?;
        let mut nodes: Vec<NodeId> = Vec::new();
        let add = |nodes: &mut Vec<NodeId>, node: NodeId| {
            let node = *merged.get(&node).unwrap_or(&node);
            if !nodes.contains(&node) && nodes.len() < KNOWN_SHOWN_MAX {
                nodes.push(node);
            }
        };
        named.into_iter().for_each(|node| add(&mut nodes, node));
        let now = self.now();
        let said: Vec<&str> = episodes.iter().map(|episode| episode.content.as_str()).collect();
        let sought = Sought::within(Scope::facts(org, group));
        let hits = store.text_search(org, &sought, &said.join("\n"), FACTS_ALIKE).await?;
        let ids: Vec<FactId> = hits.iter().map(|hit| FactId::from_bytes(hit.id)).collect();
        let mut facts = store.facts_get(org, group, &ids).await?;
        for node in &nodes {
            let filter =
                FactFilter { subject: Some(*node), as_of: Some(now), ..FactFilter::default() };
            let page = agentry_domain::PageRequest {
                limit: FACTS_PER_ENTITY,
                ..agentry_domain::PageRequest::default()
            };
            facts.extend(store.fact_list(org, group, &filter, &page).await?.items);
        }
        facts.retain(|fact| fact.invalid_at.is_none());
        facts.sort_by_key(|fact| fact.id);
        facts.dedup_by_key(|fact| fact.id);
        facts.truncate(KNOWN_SHOWN_MAX);
        for fact in &facts {
            add(&mut nodes, fact.subject);
            if let FactObject::Node(node) = fact.object {
                add(&mut nodes, node);
            }
        }
        let nodes = store.graph_nodes_get(org, group, &nodes).await?;
        Ok(Known { nodes, facts })
    }
}

/// What is known that a model is shown.
struct Known {
    nodes: Vec<Node>,
    facts: Vec<Fact>,
}

fn material<'a>(episodes: &'a [Episode], known: &Known) -> Material<'a> {
    let turn = |episode: &'a Episode| ShownTurn {
        speaker: episode.first_person(),
        text: &episode.content,
        at: episode.occurred_at,
    };
    let entity =
        |node: &Node| ShownEntity { name: node.body.name.clone(), kind: node.body.kind.clone() };
    let fact = |fact: &Fact| ShownFact { text: fact.text.clone(), valid_at: fact.valid_at };
    Material {
        turns: episodes.iter().map(turn).collect(),
        entities: known.nodes.iter().map(entity).collect(),
        facts: known.facts.iter().map(fact).collect(),
    }
}

/// What was found, with ids in place of the integers that the model saw.
fn kept(model: &str, found: &Found, episodes: &[Episode], known: &Known) -> Answer {
    use agentry_graph::structured::{FoundEntity, FoundFact, FoundObject};
    let entity = |entity: &FoundEntity| AnswerEntity {
        name: entity.name.clone(),
        kind: entity.kind.clone(),
        node: entity.known.map(|nth| known.nodes[nth].id),
    };
    let fact = |fact: &FoundFact| AnswerFact {
        subject: fact.subject,
        predicate: fact.predicate.clone(),
        object: match &fact.object {
            FoundObject::Entity(nth) => Ok(*nth),
            FoundObject::Text(text) => Err(text.clone()),
        },
        episode: episodes[fact.turn].id,
        quote: fact.quote.clone(),
        valid_at: fact.valid_at,
        same: fact.same.map(|nth| known.facts[nth].id),
        ends: fact.ends.iter().map(|nth| known.facts[*nth].id).collect(),
    };
    Answer {
        model: model.to_owned(),
        episodes: episodes.iter().map(|episode| episode.id).collect(),
        entities: found.entities.iter().map(entity).collect(),
        facts: found.facts.iter().map(fact).collect(),
    }
}

/// How many of these make a batch: at least one.
fn fitting(asks: &[Ask], tokens_max: u32) -> usize {
    let mut room = tokens_max;
    let fits = asks.iter().take(BATCH_EPISODES_MAX as usize).take_while(|ask| {
        let left = room.checked_sub(ask.tokens);
        room = left.unwrap_or(0);
        left.is_some()
    });
    fits.count().max(1)
}

fn tokens(content: &str) -> u32 {
    let bytes = content.len().min(TURN_SHOWN_BYTES_MAX);
    u32::try_from(bytes / BYTES_PER_TOKEN + 1).unwrap_or(u32::MAX)
}

pub(super) fn again_after(attempts: i64) -> Duration {
    let doubled = u32::try_from(attempts.clamp(0, 16)).unwrap_or(0);
    AGAIN_AFTER.saturating_mul(1 << doubled).min(AGAIN_AFTER_MAX)
}

/// Whether a failure may lie in what was asked about, not in whoever was asked alone.
fn is_about_episodes(code: Code) -> bool {
    matches!(
        code,
        Code::ModelTimeout | Code::ModelRejected | Code::ModelBadResponse | Code::ModelFailed
    )
}

#[cfg(test)]
mod tests {
    use agentry_domain::Timestamp;

    use super::*;

    #[test]
    fn a_batch_is_what_fits_and_at_least_one() {
        let ask = |tokens: u32| Ask {
            episode: EpisodeId::from_bytes([0; 16]),
            tokens,
            at: Timestamp::from_micros(0),
        };
        for (tokens, fits) in [
            (vec![900, 50, 40, 20], 3),
            (vec![5_000, 1], 1),
            (vec![1_000], 1),
            (vec![1; 100], BATCH_EPISODES_MAX as usize),
        ] {
            let asks: Vec<Ask> = tokens.iter().map(|it| ask(*it)).collect();
            assert_eq!(fitting(&asks, 1_000), fits, "{tokens:?}");
        }
    }

    #[test]
    fn waits_grow_to_a_bound() {
        assert_eq!(again_after(0), AGAIN_AFTER);
        assert_eq!(again_after(3), AGAIN_AFTER * 8);
        assert_eq!(again_after(i64::MAX), AGAIN_AFTER_MAX);
    }
}
