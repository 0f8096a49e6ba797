//! The job of a group's lane: it takes the oldest episodes that wait, reads what they
//! say, and stores it, a batch in a write. First in, first out in a group; groups go
//! beside each other. What cannot be read is tried alone, and put aside when it was
//! tried too often; nobody else waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentry_domain::episodes::{EPISODE_ATTEMPTS_MAX, EPISODE_BATCH_MAX, Episode};
use agentry_domain::facts::Fact;
use agentry_domain::graph::{GroupId, normal_name};
use agentry_domain::{Code, Error, FactId, NodeId, OrgId, Result};
use agentry_graph::extract::{Extraction, Turn, extract};
use agentry_graph::gazetteer::{GAZETTEER_NAMES_MAX, Gazetteer};
use agentry_store::{ClaimedJob, Write};
use parking_lot::Mutex;

use super::drawn::Drawn;
use super::extractor;
use crate::Engine;

/// Groups whose names are kept at hand.
const GAZETTEERS_MAX: u64 = 256;
/// Batches of one group before others that wait get their turn.
const BATCHES_PER_TURN: u32 = 16;
/// How often a batch is read again because something in it changed.
const CHANGES_MAX: u32 = 8;
/// How long until a group that failed here is begun again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The names that groups know, of the groups that were worked on last.
pub(crate) struct Gazetteers(moka::sync::Cache<(OrgId, GroupId), Arc<Mutex<Gazetteer>>>);

impl Default for Gazetteers {
    fn default() -> Self {
        Self(moka::sync::Cache::new(GAZETTEERS_MAX))
    }
}

/// An episode with what it says.
pub(super) struct Read {
    pub(super) found: Extraction,
    /// For each name, the normal form of the known name that it is a spelling of.
    pub(super) known_as: Vec<Option<String>>,
    /// What is known besides when a model read it.
    pub(super) by_model: Option<ByModel>,
}

/// What is known of an episode that a model read, after the rules had read it.
pub(super) struct ByModel {
    /// What its facts say of their origin.
    pub(super) extractor: String,
    /// For each name, the node that it is, when the model says so.
    pub(super) nodes: Vec<Option<NodeId>>,
    /// For each fact, the known ones that it repeats and ends.
    pub(super) ties: Vec<Ties>,
    /// The nodes that the episode is known to name.
    pub(super) named: BTreeSet<NodeId>,
}

/// What a fact has to do with those that are known.
#[derive(Default)]
pub(super) struct Ties {
    /// The one that says the same.
    pub(super) same: Option<FactId>,
    /// Those that end with it.
    pub(super) ends: Vec<Fact>,
}

impl Engine {
    /// Carries out the job of a group, as far as that goes now.
    pub(crate) async fn graph_claimed(&self, job: ClaimedJob) {
        let _held = self.0.held.hold(job.id);
        let stopping = self.0.tasks.stopping().clone();
        let places = Arc::clone(&self.0.graph.places);
        let drawing = async {
            self.0.graph.pressure.drawing_allowed().await;
            let _place = places.acquire_owned().await;
            self.graph_draw(&job).await
        };
        let pause = match stopping.run_until_cancelled(drawing).await {
            Some(Ok(true)) => return,
            // Others have their turn.
            None | Some(Ok(false)) => Duration::ZERO,
            Some(Err(error)) => {
                tracing::warn!(job = %job.id, error = %error.chain(), "a group could not be drawn from");
                AGAIN_AFTER
            }
        };
        let mut write = Write::new(job.org);
        write.job_defer(&job, self.now().plus(pause));
        // When this fails the claim is found in nobody's hands, and given up then.
        if let Err(error) = self.0.store.write(write).await {
            let error = Error::from(error);
            tracing::debug!(job = %job.id, error = %error.chain(), "a claim could not be given up");
        }
        self.0.claimable.notify_one();
    }

    /// Draws from what waits; whether nothing is left.
    async fn graph_draw(&self, job: &ClaimedJob) -> Result<bool> {
        let store = &self.0.store;
        let (mut at_once, mut changes) = (EPISODE_BATCH_MAX, 0);
        for _ in 0..BATCHES_PER_TURN {
            let Some(group) = store.graph_lane_group(job.org, job.lane).await? else {
                let mut write = Write::new(job.org);
                write.job_end(job);
                store.write(write).await?;
                return Ok(true);
            };
            if self.0.graph.pressure.is_drawing_paused() {
                return Ok(false);
            }
            if let Some(answer) = store.answer_oldest(job.org, &group).await? {
                match self.answer_store(job, &group, &answer).await {
                    Ok(()) => changes = 0,
                    Err(error) if changes < CHANGES_MAX && changed(&error) => changes += 1,
                    Err(error) => return Err(error),
                }
                continue;
            }
            let batch = store.episodes_pending(job.org, &group, at_once).await?;
            if batch.is_empty() {
                let mut write = Write::new(job.org);
                write.graph_job_end(job);
                match store.write(write).await.map_err(Error::from) {
                    Ok(_) => return Ok(true),
                    // One came meanwhile.
                    Err(error) if error.code == Code::Conflict && changes < CHANGES_MAX => {
                        changes += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            // The last batch ends the job with it, unless one comes meanwhile.
            let ends = changes == 0 && batch.len() < at_once as usize;
            match self.graph_batch(job, &group, (&batch, ends)).await {
                Ok(()) if ends => return Ok(true),
                Ok(()) => (at_once, changes) = (EPISODE_BATCH_MAX, 0),
                Err(error) if changes < CHANGES_MAX && changed(&error) => changes += 1,
                Err(error) if error.code.retryable() || error.code == Code::Conflict => {
                    return Err(error);
                }
                Err(_) if batch.len() > 1 => at_once = 1,
                Err(error) => {
                    if let Some(episode) = batch.first() {
                        self.graph_failed(job, episode, &error).await?;
                    }
                }
            }
        }
        Ok(false)
    }

    async fn graph_failed(&self, job: &ClaimedJob, episode: &Episode, error: &Error) -> Result<()> {
        let dead = episode.attempts + 1 >= EPISODE_ATTEMPTS_MAX;
        tracing::warn!(
            episode = %episode.id, dead, error = %error.chain(),
            "what an episode says could not be stored"
        );
        let mut write = Write::new(job.org);
        write.episode_failed(job, episode, &error.detail, dead);
        self.0.store.write(write).await?;
        if dead {
            self.0.graph.activity.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn graph_batch(
        &self,
        job: &ClaimedJob,
        group: &GroupId,
        (batch, ends): (&[Episode], bool),
    ) -> Result<()> {
        let gazetteer = self.gazetteer(job.org, group).await?;
        let episodes = batch.to_vec();
        let shared = Arc::clone(&gazetteer);
        // It takes a processor for milliseconds, which the threads that answer
        // requests have not.
        let read = tokio::task::spawn_blocking(move || {
            let known = shared.lock();
            episodes.iter().map(|episode| read(episode, &known)).collect::<Vec<Read>>()
        })
        .await
        .map_err(Error::internal)?;
        let drawn = Drawn::of(self, job.org, group, batch, &read).await?;
        let facts = drawn.facts.len() as u64;
        let fresh: Vec<String> = drawn.nodes.iter().map(|node| node.body.name.clone()).collect();
        let Some(last) = batch.last() else { return Ok(()) };
        let mut write = Write::new(job.org).bulk();
        let ids: Vec<_> = batch.iter().map(|episode| episode.id).collect();
        write.episodes_done(job, group, &ids, &extractor(), last.ingested_at);
        drawn.add_to(&mut write, group);
        self.asks_of(&mut write, group, batch);
        if ends {
            write.graph_job_end(job);
        }
        self.0.store.write(write).await?;
        {
            let mut known = gazetteer.lock();
            for name in &fresh {
                known.add(name);
            }
        }
        let counts = &self.0.graph.activity;
        counts.drawn.fetch_add(batch.len() as u64, Ordering::Relaxed);
        counts.facts.fetch_add(facts, Ordering::Relaxed);
        let waited = batch.first().map(|first| self.now().since(first.ingested_at));
        let waited = waited.map_or(0, |waited| u64::try_from(waited.as_micros()).unwrap_or(0));
        counts.lag_micros.store(waited, Ordering::Relaxed);
        Ok(())
    }

    /// The names that a group knows.
    pub(crate) async fn gazetteer(
        &self,
        org: OrgId,
        group: &GroupId,
    ) -> Result<Arc<Mutex<Gazetteer>>> {
        let key = (org, group.clone());
        if let Some(known) = self.0.graph.gazetteers.0.get(&key) {
            return Ok(known);
        }
        let most = u32::try_from(GAZETTEER_NAMES_MAX).unwrap_or(u32::MAX);
        let names = self.0.store.node_names_newest(org, group, most).await?;
        let mut gazetteer = Gazetteer::default();
        for name in &names {
            gazetteer.add(name);
        }
        let gazetteer = Arc::new(Mutex::new(gazetteer));
        self.0.graph.gazetteers.0.insert(key, Arc::clone(&gazetteer));
        Ok(gazetteer)
    }
}

/// Whether an episode or a node was deleted or changed meanwhile.
fn changed(error: &Error) -> bool {
    matches!(error.code, Code::Conflict | Code::NotFound | Code::PreconditionFailed)
}

fn read(episode: &Episode, known: &Gazetteer) -> Read {
    let turn = Turn {
        text: &episode.content,
        speaker: Some(episode.first_person()),
        at: episode.occurred_at,
    };
    let found = extract(&turn, known);
    let known_as =
        |name: &agentry_graph::extract::Named| known.alike(&name.normalised).map(normal_name);
    Read { known_as: found.names.iter().map(known_as).collect(), found, by_model: None }
}
