//! Episodes as vectors, where a model for that is configured: made in the background and
//! kept in the store, compared in this process, exactly, with those of a question.
//!
//! Nothing waits for it but a search, and that for `embedding_wait` at most: without a
//! question's vector it goes by the words alone. The vectors of the groups that are asked
//! about are kept in memory up to `vectors_bytes_max`; of a group that has more, the
//! newest are compared.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentry_domain::episodes::{Episode, ModelWork};
use agentry_domain::graph::GroupId;
use agentry_domain::{Code, EpisodeId, Error, OrgId, Result, Timestamp};
use agentry_llm::{EMBEDDING_TEXTS_MAX, Embedder};
use agentry_outbound::breaker::Outcome;
use agentry_store::{Asking, ClaimedJob, EpisodeVector, Write};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::asking::{ASK_ATTEMPTS_MAX, Asked, NO_MODEL_AGAIN_AFTER, again_after};
use crate::Engine;

/// Episodes that one call turns into vectors.
const EMBED_EPISODES_MAX: u32 = 64;
/// Bytes of a text that are turned into a vector; what models take is of this order.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Vectors that are read from the store at once.
const VECTORS_READ: u32 = 256;
/// Vectors that other processes may have stored later than their times say.
const OVERLAP: Duration = Duration::from_secs(10);
/// Texts are answered with an episode at least this near to them.
const SIMILARITY_MIN: f32 = 0.2;
/// What a vector in memory takes beside its numbers, in bytes.
const ENTRY_BYTES: usize = 64;
/// What a group takes beside its vectors, in bytes.
const GROUP_BYTES: usize = 512;

const _: () = assert!(EMBED_EPISODES_MAX as usize <= EMBEDDING_TEXTS_MAX);

/// The vectors of a group, in memory.
#[derive(Default)]
struct GroupVectors {
    dimensions: usize,
    numbers: Vec<f32>,
    episodes: Vec<EpisodeId>,
    known: HashSet<EpisodeId>,
    newest: Option<(Timestamp, EpisodeId)>,
}

impl GroupVectors {
    /// Adds those of a model; how many bytes all take then.
    fn add_all(&mut self, some: &[EpisodeVector], model: &str) -> usize {
        for of in some {
            self.newest = self.newest.max(Some(of.place()));
            if of.model == model {
                self.add(of);
            }
        }
        self.bytes()
    }

    fn bytes(&self) -> usize {
        self.numbers.capacity() * size_of::<f32>() + self.episodes.capacity() * ENTRY_BYTES
    }

    fn add(&mut self, of: &EpisodeVector) {
        if self.episodes.is_empty() {
            self.dimensions = of.vector.len();
        }
        // A model that changes its dimensions under one name has vectors that cannot be
        // compared with the others.
        if of.vector.len() == self.dimensions && self.known.insert(of.episode) {
            self.numbers.extend_from_slice(&of.vector);
            self.episodes.push(of.episode);
        }
    }

    /// The nearest episodes to a vector, with the cosine of the angle, nearest first.
    fn nearest(&self, to: &[f32], count: usize) -> Vec<(EpisodeId, f32)> {
        if to.len() != self.dimensions || self.dimensions == 0 {
            return Vec::new();
        }
        // The farthest of the nearest is on top. Cosines are ordered by their bits once
        // they are above 0.
        let mut best: BinaryHeap<Reverse<(u32, EpisodeId)>> = BinaryHeap::with_capacity(count + 1);
        for (numbers, episode) in self.numbers.chunks_exact(self.dimensions).zip(&self.episodes) {
            let cosine: f32 = numbers.iter().zip(to).map(|(a, b)| a * b).sum();
            if cosine >= SIMILARITY_MIN {
                best.push(Reverse((cosine.to_bits(), *episode)));
                if best.len() > count {
                    best.pop();
                }
            }
        }
        let mut nearest: Vec<(EpisodeId, f32)> =
            best.into_iter().map(|Reverse((bits, id))| (id, f32::from_bits(bits))).collect();
        nearest.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        nearest
    }
}

type Key = (OrgId, GroupId);

struct Kept {
    vectors: Arc<Mutex<GroupVectors>>,
    bytes: usize,
    used: u64,
}

/// The vectors that this process has in memory.
#[derive(Default)]
pub(crate) struct Vectors(Mutex<Groups>);

#[derive(Default)]
struct Groups {
    by: HashMap<Key, Kept>,
    /// What all of them take.
    bytes: usize,
    /// How often any was asked about.
    uses: u64,
}

impl Groups {
    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.by.remove(key) {
            self.bytes -= kept.bytes;
        }
    }
}

impl Vectors {
    fn of(&self, key: &Key) -> Arc<Mutex<GroupVectors>> {
        let mut groups = self.0.lock();
        groups.uses += 1;
        let used = groups.uses;
        if let Some(kept) = groups.by.get_mut(key) {
            kept.used = used;
            return Arc::clone(&kept.vectors);
        }
        let kept = Kept { vectors: Arc::default(), bytes: GROUP_BYTES, used };
        let vectors = Arc::clone(&kept.vectors);
        groups.bytes += GROUP_BYTES;
        groups.by.insert(key.clone(), kept);
        vectors
    }

    /// Notes how much a group takes, and forgets those that were asked about longest ago
    /// while all together take more than they may.
    fn keep(&self, key: &Key, bytes: usize, bytes_max: usize) {
        let mut groups = self.0.lock();
        let Some(kept) = groups.by.get_mut(key) else { return };
        let before = std::mem::replace(&mut kept.bytes, bytes + GROUP_BYTES);
        groups.bytes = groups.bytes - before + bytes + GROUP_BYTES;
        while groups.bytes > bytes_max {
            let others = groups.by.iter().filter(|(other, _)| *other != key);
            let oldest = others.min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            groups.remove(&oldest);
        }
    }

    pub(crate) fn forget(&self, org: OrgId, group: &GroupId) {
        self.0.lock().remove(&(org, group.clone()));
    }

    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Engine {
    fn embedder(&self) -> Option<Result<(Embedder, &str)>> {
        let name = self.0.options.graph.embedding_model.as_deref()?;
        Some(self.0.graph_models.embedder(name).map(|embedder| (embedder, name)))
    }

    /// Turns the oldest episodes that wait for it into vectors.
    pub(super) async fn embedding_ask(&self, job: &ClaimedJob, asking: &Asking) -> Result<Asked> {
        let attempts = asking.attempts;
        let Some(embedder) = self.embedder() else {
            return Ok(Asked::Later { attempts, after: NO_MODEL_AGAIN_AFTER });
        };
        let store = &self.0.store;
        let most = if attempts * 2 >= ASK_ATTEMPTS_MAX { 1 } else { EMBED_EPISODES_MAX };
        let asks = store.asks_oldest(job.org, asking, most).await?;
        if asks.is_empty() {
            return self.asking_over(job).await;
        }
        let ids: Vec<EpisodeId> = asks.iter().map(|ask| ask.episode).collect();
        let episodes = store.episodes_get(job.org, &asking.group, &ids).await?;
        let mut made: Vec<EpisodeVector> = Vec::new();
        if !episodes.is_empty() {
            let permit = match self.0.graph.pressure.admit(ModelWork::Embed) {
                Ok(permit) => permit,
                Err(after) => return Ok(Asked::Later { attempts, after }),
            };
            let counts = &self.0.graph.activity;
            counts.embedding_calls.fetch_add(1, Ordering::Relaxed);
            let deadline = Instant::now() + self.0.options.graph.extraction_timeout;
            let texts: Vec<&str> = episodes.iter().map(shown).collect();
            let vectors = match embedder {
                Ok((embedder, name)) => {
                    embedder.embed(&texts, deadline).await.map(|vectors| (vectors, name))
                }
                Err(error) => Err(error),
            };
            permit.tell(if vectors.is_ok() { Outcome::Success } else { Outcome::Failure });
            match vectors {
                Ok((vectors, name)) => {
                    let made_at = self.now();
                    let vector = |(episode, vector): (&Episode, Vec<f32>)| EpisodeVector {
                        episode: episode.id,
                        model: name.to_owned(),
                        made_at,
                        vector,
                    };
                    made = episodes.iter().zip(vectors).map(vector).collect();
                }
                Err(error) => {
                    if let Some(later) = self.ask_failed(asking, ids.len(), &error) {
                        return Ok(later);
                    }
                }
            }
        }
        let mut write = Write::new(job.org).bulk();
        write.asks_end(job, asking, &ids);
        let present: Vec<EpisodeId> = made.iter().map(|of| of.episode).collect();
        write.episodes_present(&asking.group, &present);
        for of in &made {
            write.vector_put(&asking.group, of);
        }
        match store.write(write).await.map_err(Error::from) {
            // An episode was deleted meanwhile: the others are asked about again.
            Err(error) if error.code == Code::Conflict => {
                Ok(Asked::Later { attempts, after: again_after(attempts) })
            }
            written => {
                written?;
                let embedded = &self.0.graph.activity.embedded;
                embedded.fetch_add(made.len() as u64, Ordering::Relaxed);
                Ok(Asked::More)
            }
        }
    }

    /// The episodes of a group that are nearest to a text, with the cosine of the angle.
    /// Empty without a model for that, and when it does not answer within the wait.
    pub(crate) async fn episodes_near(
        &self,
        org: OrgId,
        group: &GroupId,
        text: &str,
        count: usize,
    ) -> Result<Vec<(EpisodeId, f32)>> {
        let Some(embedder) = self.embedder() else { return Ok(Vec::new()) };
        let Some(vector) = self.vector_of_question(embedder, text).await else {
            return Ok(Vec::new());
        };
        let name = self.0.options.graph.embedding_model.as_deref().unwrap_or_default();
        let key = (org, group.clone());
        let vectors = self.0.graph.vectors.of(&key);
        let bytes_max = self.0.options.graph.vectors_bytes_max;
        self.vectors_read(&key, name, &vectors, bytes_max).await?;
        let bytes = vectors.lock().bytes();
        self.0.graph.vectors.keep(&key, bytes, bytes_max);
        // It takes a processor for milliseconds, which the threads that answer requests
        // have not.
        tokio::task::spawn_blocking(move || vectors.lock().nearest(&vector, count))
            .await
            .map_err(Error::internal)
    }

    async fn vector_of_question(
        &self,
        embedder: Result<(Embedder, &str)>,
        text: &str,
    ) -> Option<Vec<f32>> {
        let permit = self.0.graph.pressure.admit(ModelWork::Embed).ok()?;
        let deadline = Instant::now() + self.0.options.graph.embedding_wait;
        let asked = match embedder {
            Ok((embedder, _)) => {
                let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
                let texts = [text];
                let asked = embedder.embed(&texts, deadline);
                // The client's own wait may be longer than what is left.
                match tokio::time::timeout_at(deadline, asked).await {
                    Ok(asked) => asked,
                    Err(_) => Err(Error::new(Code::ModelTimeout, "no vector came in time")),
                }
            }
            Err(error) => Err(error),
        };
        permit.tell(if asked.is_ok() { Outcome::Success } else { Outcome::Failure });
        match asked {
            Ok(vectors) => vectors.into_iter().next(),
            Err(error) => {
                self.0.graph.activity.questions_without.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(error = %error.chain(), "a question has no vector");
                None
            }
        }
    }

    /// Reads what is new in the store, or all of a group as far as there is room. Two
    /// that read at once read the same, and each vector is added once.
    async fn vectors_read(
        &self,
        (org, group): &Key,
        model: &str,
        held: &Mutex<GroupVectors>,
        bytes_max: usize,
    ) -> Result<()> {
        let store = &self.0.store;
        let newest = held.lock().newest;
        if let Some((at, _)) = newest {
            let mut place = (at.minus(OVERLAP), EpisodeId::from_bytes([0; 16]));
            loop {
                let some = store.vectors_since(*org, group, place, VECTORS_READ).await?;
                let bytes = held.lock().add_all(&some, model);
                if bytes > bytes_max {
                    // The oldest have to go: it is read again, from the newest on.
                    *held.lock() = GroupVectors::default();
                    break;
                }
                match some.last() {
                    Some(last) if some.len() == VECTORS_READ as usize => place = last.place(),
                    _ => return Ok(()),
                }
            }
        }
        let mut place = None;
        loop {
            let some = store.vectors_before(*org, group, place, VECTORS_READ).await?;
            let bytes = held.lock().add_all(&some, model);
            place = some.last().map(EpisodeVector::place);
            // There has to be room for what comes next.
            if some.len() < VECTORS_READ as usize || bytes >= bytes_max / 2 {
                return Ok(());
            }
        }
    }
}

fn shown(episode: &Episode) -> &str {
    let text = episode.content.as_str();
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(nth: u8, vector: Vec<f32>) -> EpisodeVector {
        let episode = EpisodeId::from_bytes([nth; 16]);
        EpisodeVector { episode, model: "m".to_owned(), made_at: Timestamp::from_micros(1), vector }
    }

    #[test]
    fn the_nearest_come_first_and_each_once() {
        let mut group = GroupVectors::default();
        for (nth, numbers) in
            [(1, vec![1.0, 0.0]), (2, vec![0.6, 0.8]), (3, vec![-1.0, 0.0]), (1, vec![0.0, 1.0])]
        {
            group.add(&vector(nth, numbers));
        }
        group.add(&vector(4, vec![1.0, 0.0, 0.0]));
        let nearest = |to: &[f32], count| {
            let found = group.nearest(to, count).into_iter();
            found.map(|(id, cosine)| (id.to_bytes()[0], cosine)).collect::<Vec<_>>()
        };
        assert_eq!(nearest(&[1.0, 0.0], 9), [(1, 1.0), (2, 0.6)]);
        assert_eq!(nearest(&[0.0, 1.0], 1), [(2, 0.8)]);
        assert_eq!(nearest(&[1.0], 9), []);
    }

    #[test]
    fn what_was_asked_about_longest_ago_is_forgotten_first() {
        let vectors = Vectors::default();
        let org = OrgId::from_bytes([1; 16]);
        let key = |name: &str| (org, GroupId::new(name));
        for name in ["a", "b", "a", "c"] {
            vectors.of(&key(name));
            vectors.keep(&key(name), 4_000, 10_000);
        }
        let groups = vectors.0.lock();
        let mut left: Vec<&str> = groups.by.keys().map(|(_, group)| group.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["a", "c"]);
        assert_eq!(groups.bytes, 2 * (4_000 + GROUP_BYTES));
    }
}
