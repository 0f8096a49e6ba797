//! Recall from the graph: the episodes and the facts of a group that answer a question.
//!
//! Full text brings candidates of both; of episodes, neighbours in their session and
//! those that name what the question names join them. Facts are kept that held at the
//! moment asked about, as far as was known then. Episodes are ranked by
//! `agentry_graph::rank`; both lists are fused by rank, what repeats something is held
//! back, and what fits the budget comes back, each with its signals and its evidence.

use std::collections::{HashMap, HashSet};

use agentry_domain::episodes::Episode;
use agentry_domain::facts::{Evidence, Fact};
use agentry_domain::graph::{GroupId, normal_name};
use agentry_domain::text::terms;
use agentry_domain::{Caller, EpisodeId, FactId, NodeId, OrgId, Result, Timestamp};
use agentry_graph::extract::{dates_in, names_in};
use agentry_graph::rank::{Document, Question, Ranked, Signals, Statistics, Turn, Weighed, rank};
use agentry_store::{Scope, Sought, TextPool};

use crate::Engine;

/// Hits of a search when nobody says, and at most.
pub const GRAPH_HITS_DEFAULT: u32 = 10;
/// See [`GRAPH_HITS_DEFAULT`].
pub const GRAPH_HITS_MAX: u32 = 100;
/// Episodes whose words match best that are looked at.
const EPISODES_LOOKED_AT: usize = 200;
/// Of them, those whose neighbours are looked at.
const NEIGHBOURS_OF: usize = 150;
const BEFORE: u32 = 3;
const AFTER: u32 = 2;
/// Facts whose words match best that are looked at.
const FACTS_LOOKED_AT: usize = 64;
/// Names of the question whose nodes are looked at.
const NAMES_LOOKED_UP: usize = 4;
/// Nodes, and newest episodes of each, that the question's names bring.
const NAMED_NODES_MAX: usize = 8;
const NAMED_EPISODES: u32 = 16;
/// A fact answers when it has at least this share of the question's weight.
const FACT_COVERAGE_MIN: f64 = 0.5;
/// The constant of reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009).
const FUSION_K: f64 = 60.0;
/// What the rank of a fact counts beside that of an episode.
const FACT_WEIGHT: f64 = 1.0;
/// Episodes whose vectors are nearest to the question's that are looked at.
const EPISODES_NEAR: usize = 64;
/// What the rank by vectors counts beside that by all other signals.
const VECTOR_WEIGHT: f64 = 0.7;
/// Of how much of its words an episode repeats another one to be held back.
const REPEATS: f64 = 0.8;
/// What is left of the score of what is held back.
const REPEATED_SHARE: f64 = 0.5;

/// What is asked of the graph.
#[derive(Clone, Debug)]
pub struct GraphAsk {
    /// The group.
    pub group: GroupId,
    /// Words, or a question.
    pub query: String,
    /// The moment in the world that it is about; what the question says, or now.
    pub as_of: Option<Timestamp>,
    /// As far as was known then; all that is known.
    pub known_at: Option<Timestamp>,
    /// Hits at most.
    pub limit: usize,
    /// Bytes of the hits' texts together, at most.
    pub bytes_max: Option<usize>,
    /// Whether facts are wanted.
    pub facts: bool,
    /// Whether episodes are wanted.
    pub episodes: bool,
}

/// Something that answers.
#[derive(Clone, Debug)]
pub struct GraphHit {
    /// What it is.
    pub item: GraphItem,
    /// The fused score; comparable only within one search.
    pub score: f64,
    /// Its place in its own list, from 1.
    pub rank: usize,
    /// The share of the query's weight that it has, 0 to 1.
    pub coverage: f64,
    /// What its own score is made of.
    pub signals: Signals,
}

/// What a hit is.
#[derive(Clone, Debug)]
pub enum GraphItem {
    /// A fact, with what it rests on.
    Fact(Box<Fact>, Vec<Evidence>),
    /// An episode.
    Episode(Box<Episode>),
}

impl GraphItem {
    fn text(&self) -> &str {
        match self {
            Self::Fact(fact, _) => &fact.text,
            Self::Episode(episode) => &episode.content,
        }
    }
}

impl Engine {
    /// What of a group answers a question best, best first.
    pub async fn graph_search(&self, caller: &Caller, ask: &GraphAsk) -> Result<Vec<GraphHit>> {
        let now = self.now();
        let (facts, episodes) = tokio::try_join!(
            async {
                if ask.facts {
                    self.facts_found(caller.org, ask, now).await
                } else {
                    Ok(Vec::new())
                }
            },
            async {
                if ask.episodes {
                    self.episodes_found(caller.org, ask, now).await
                } else {
                    Ok(Vec::new())
                }
            }
        )?;
        Ok(packed(fused(facts, episodes), ask))
    }

    /// The facts that answer, best first.
    pub(crate) async fn facts_found(
        &self,
        org: OrgId,
        ask: &GraphAsk,
        now: Timestamp,
    ) -> Result<Vec<GraphHit>> {
        // When it is about is no part of what is asked.
        let (query, about) = without_dates(&ask.query, now);
        let question = Question::of(&query, now);
        let sought = Sought::within(Scope::facts(org, &ask.group));
        let pool = self.0.store.text_pool(org, &sought, &question.terms, &[]).await?;
        if pool.found.is_empty() {
            return Ok(Vec::new());
        }
        let (found, statistics) = documents(pool);
        let weighed = Weighed::of(&question, &statistics, std::iter::empty());
        let mut best: Vec<(FactId, f64, f64)> = found
            .iter()
            .map(|(id, document)| {
                (FactId::from_bytes(*id), weighed.score(document), weighed.coverage(document))
            })
            .filter(|(_, _, coverage)| *coverage >= FACT_COVERAGE_MIN)
            .collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        best.truncate(FACTS_LOOKED_AT);
        let ids: Vec<FactId> = best.iter().map(|(id, ..)| *id).collect();
        let facts = self.0.store.facts_get(org, &ask.group, &ids).await?;
        let mut by: HashMap<FactId, Fact> = facts.into_iter().map(|fact| (fact.id, fact)).collect();
        let as_of = ask.as_of.or(about).unwrap_or(now);
        let known_at = ask.known_at.unwrap_or(Timestamp::from_micros(i64::MAX));
        let holding = holding(&by, as_of, known_at);
        let mut hits = Vec::new();
        for (id, score, coverage) in best {
            if !holding.contains(&id) {
                continue;
            }
            let Some(fact) = by.remove(&id) else { continue };
            let signals = Signals { text: score, ..Signals::default() };
            let item = GraphItem::Fact(Box::new(fact), Vec::new());
            hits.push(GraphHit { item, score, rank: hits.len() + 1, coverage, signals });
        }
        hits.truncate(ask.limit);
        let ids: Vec<FactId> = hits
            .iter()
            .filter_map(|hit| match &hit.item {
                GraphItem::Fact(fact, _) => Some(fact.id),
                GraphItem::Episode(_) => None,
            })
            .collect();
        let evidence = self.0.store.evidence_of(org, &ask.group, &ids).await?;
        for (hit, found) in hits.iter_mut().zip(evidence) {
            if let GraphItem::Fact(_, evidence) = &mut hit.item {
                *evidence = found;
            }
        }
        Ok(hits)
    }

    /// The episodes that answer, best first.
    async fn episodes_found(
        &self,
        org: OrgId,
        ask: &GraphAsk,
        now: Timestamp,
    ) -> Result<Vec<GraphHit>> {
        let store = &self.0.store;
        let question = Question::of(&ask.query, now);
        let sought = Sought::within(Scope::episodes(org, &ask.group));
        let (pool, near) = tokio::try_join!(
            async {
                let kindred = &question.kindred;
                Ok(store.text_pool(org, &sought, &question.terms, kindred).await?)
            },
            self.episodes_near(org, &ask.group, &ask.query, EPISODES_NEAR),
        )?;
        let (found, statistics) = documents(pool);
        let weighed = Weighed::of(&question, &statistics, std::iter::empty());
        let mut best: Vec<(EpisodeId, f64)> = found
            .iter()
            .map(|(id, document)| (EpisodeId::from_bytes(*id), weighed.score(document)))
            .collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        best.truncate(EPISODES_LOOKED_AT);
        let mut ids: Vec<EpisodeId> = best.into_iter().map(|(id, _)| id).collect();
        ids.extend(self.episodes_naming(org, &ask.group, &ask.query).await?);
        ids.extend(near.iter().map(|(id, _)| *id));
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        let known_at = ask.known_at.unwrap_or(Timestamp::from_micros(i64::MAX));
        let episodes = store.episodes_get(org, &ask.group, &ids).await?;
        let mut by: HashMap<EpisodeId, Episode> =
            episodes.into_iter().map(|episode| (episode.id, episode)).collect();
        let in_session = |id: &&EpisodeId| by.get(id).is_some_and(|it| it.session_id.is_some());
        let around: Vec<EpisodeId> =
            ids.iter().filter(in_session).take(NEIGHBOURS_OF).copied().collect();
        let middles: Vec<&Episode> = around.iter().filter_map(|id| by.get(id)).collect();
        let neighbours = store.episodes_around(org, &ask.group, &middles, (BEFORE, AFTER)).await?;
        let mut links = Links::default();
        for (id, (before, after)) in around.iter().zip(neighbours) {
            // As they were said: from the furthest before to the furthest after.
            let order = before.iter().rev().map(|it| it.id);
            let order: Vec<EpisodeId> =
                order.chain([*id]).chain(after.iter().map(|it| it.id)).collect();
            for pair in order.windows(2) {
                links.before.insert(pair[1], pair[0]);
                links.after.insert(pair[0], pair[1]);
            }
            for episode in before.into_iter().chain(after) {
                by.entry(episode.id).or_insert(episode);
            }
        }
        let tokens: HashMap<[u8; 16], Document> = found.into_iter().collect();
        let mut all: Vec<Episode> =
            by.into_values().filter(|it| it.ingested_at <= known_at).collect();
        if let Some(as_of) = ask.as_of {
            all.retain(|episode| episode.occurred_at <= as_of);
        }
        // In the order of what was said, so that neighbours of neighbours are known too.
        all.sort_by(|a, b| {
            (&a.session_id, a.occurred_at, a.id).cmp(&(&b.session_id, b.occurred_at, b.id))
        });
        let ranked = {
            let turns = turns(&all, &tokens, &links);
            rank(&question, &statistics, &turns)
        };
        let ranked = with_vectors(ranked, &all, &near);
        let mut all: Vec<Option<Episode>> = all.into_iter().map(Some).collect();
        let hits = ranked.into_iter().filter(|ranked| ranked.score > 0.0).take(ask.limit);
        Ok(hits
            .enumerate()
            .filter_map(|(nth, Ranked { turn, score, coverage, signals })| {
                let episode = all[turn].take()?;
                let item = GraphItem::Episode(Box::new(episode));
                Some(GraphHit { item, score, rank: nth + 1, coverage, signals })
            })
            .collect())
    }

    /// The newest episodes that name what the question names.
    async fn episodes_naming(
        &self,
        org: OrgId,
        group: &GroupId,
        query: &str,
    ) -> Result<Vec<EpisodeId>> {
        let gazetteer = self.gazetteer(org, group).await?;
        let names = names_in(query, &gazetteer.lock());
        let names: Vec<String> =
            names.iter().take(NAMES_LOOKED_UP).map(|name| normal_name(name)).collect();
        let names: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let named = self.0.store.nodes_named(org, group, &names).await?;
        let nodes: Vec<NodeId> =
            named.iter().take(NAMED_NODES_MAX).map(|named| named.node).collect();
        // What was merged into them is what they are.
        let merged = self.0.store.node_merges_into(org, group, &nodes, NAMED_EPISODES).await?;
        let nodes: Vec<NodeId> =
            nodes.into_iter().chain(merged.into_iter().map(|merge| merge.merged)).collect();
        let found = self.0.store.nodes_mentioned(org, group, &nodes, NAMED_EPISODES).await?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Which episode was said before, and which after, each one of a session.
#[derive(Default)]
struct Links {
    before: HashMap<EpisodeId, EpisodeId>,
    after: HashMap<EpisodeId, EpisodeId>,
}

/// The next ones, nearest first, as far as they are known.
fn follow<const N: usize>(
    links: &HashMap<EpisodeId, EpisodeId>,
    from: EpisodeId,
) -> [Option<EpisodeId>; N] {
    let mut at = Some(from);
    [(); N].map(|()| {
        at = at.and_then(|id| links.get(&id).copied());
        at
    })
}

fn turns<'a>(
    all: &'a [Episode],
    tokens: &HashMap<[u8; 16], Document>,
    links: &Links,
) -> Vec<Turn<'a>> {
    let places: HashMap<EpisodeId, usize> =
        all.iter().enumerate().map(|(nth, episode)| (episode.id, nth)).collect();
    let mut sessions: HashMap<&str, usize> = HashMap::new();
    let mut alone = usize::MAX;
    let place = |id: Option<EpisodeId>| places.get(&id?).copied();
    all.iter()
        .map(|episode| {
            let session = match episode.session_id.as_deref() {
                Some(session) => {
                    let next = sessions.len();
                    *sessions.entry(session).or_insert(next)
                }
                // Without a session each is one.
                None => {
                    alone -= 1;
                    alone
                }
            };
            let known = tokens.get(&episode.id.to_bytes());
            let document =
                known.cloned().unwrap_or_else(|| Document { tokens: terms(&episode.content) });
            let before = follow::<3>(&links.before, episode.id);
            let after = follow::<2>(&links.after, episode.id);
            Turn {
                text: &episode.content,
                document,
                speaker: episode.speaker.as_deref(),
                at: episode.occurred_at,
                session,
                before: before.map(place),
                after: after.map(place),
            }
        })
        .collect()
}

pub(crate) fn documents(pool: TextPool) -> (Vec<([u8; 16], Document)>, Statistics) {
    let TextPool { documents, mean_length, counts, found } = pool;
    let found = found.into_iter().map(|it| (it.id, Document { tokens: it.tokens })).collect();
    (found, Statistics { documents, mean_length, counts })
}

/// A query without its expressions of time, and the last moment of what they mean.
fn without_dates(query: &str, now: Timestamp) -> (String, Option<Timestamp>) {
    let dates = dates_in(query, now);
    let mut text = String::with_capacity(query.len());
    let (mut at, mut about) = (0, None);
    for (span, period) in dates {
        text.push_str(query.get(at..span.start).unwrap_or_default());
        at = span.end;
        let end = period.ends().map(|end| Timestamp::from_micros(end.micros() - 1));
        // What goes on until now is asked as of now.
        about = about.or(end.filter(|end| *end < now));
    }
    text.push_str(query.get(at..).unwrap_or_default());
    (text, about)
}

/// Which of these facts hold. Of a subject and predicate of which none held yet, but one
/// has ended since, the first is taken to have held before it was told.
fn holding(
    facts: &HashMap<FactId, Fact>,
    as_of: Timestamp,
    known_at: Timestamp,
) -> HashSet<FactId> {
    let mut timelines: HashMap<(NodeId, &str), Vec<&Fact>> = HashMap::new();
    for fact in facts.values() {
        timelines.entry((fact.subject, fact.predicate.as_str())).or_default().push(fact);
    }
    let mut holding = HashSet::new();
    for timeline in timelines.values() {
        let held = timeline.iter().filter(|fact| fact.holds(as_of, known_at));
        let before = holding.len();
        holding.extend(held.map(|fact| fact.id));
        if holding.len() == before {
            let first = timeline
                .iter()
                .filter(|fact| fact.created_at <= known_at)
                .min_by_key(|fact| (fact.valid_at, fact.id));
            let told_since = first.filter(|fact| {
                fact.valid_at.is_some_and(|from| from > as_of) && fact.invalid_at.is_some()
            });
            holding.extend(told_since.map(|fact| fact.id));
        }
    }
    holding
}

/// Episodes in their order by all signals, and those that are near as vectors in theirs,
/// as one list; as it is when none is near.
#[expect(clippy::cast_precision_loss, reason = "ranks are small")]
fn with_vectors(
    mut ranked: Vec<Ranked>,
    all: &[Episode],
    near: &[(EpisodeId, f32)],
) -> Vec<Ranked> {
    if near.is_empty() {
        return ranked;
    }
    let places: HashMap<EpisodeId, (usize, f32)> =
        near.iter().enumerate().map(|(nth, (id, cosine))| (*id, (nth, *cosine))).collect();
    for (nth, ranked) in ranked.iter_mut().enumerate() {
        let by_words = if ranked.score > 0.0 { 1.0 / (FUSION_K + nth as f64 + 1.0) } else { 0.0 };
        let by_vector = places.get(&all[ranked.turn].id).map_or(0.0, |(place, cosine)| {
            ranked.signals.vector = f64::from(*cosine);
            VECTOR_WEIGHT / (FUSION_K + *place as f64 + 1.0)
        });
        ranked.score = by_words + by_vector;
    }
    // It is stable: equal ones stay in their order by words.
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

/// Two ranked lists as one, by the ranks in both.
#[expect(clippy::cast_precision_loss, reason = "ranks are small")]
fn fused(facts: Vec<GraphHit>, episodes: Vec<GraphHit>) -> Vec<GraphHit> {
    // A fact counts for the episodes that it rests on as well.
    let mut rests: HashMap<EpisodeId, usize> = HashMap::new();
    for hit in &facts {
        if let GraphItem::Fact(_, evidence) = &hit.item {
            for evidence in evidence {
                rests.entry(evidence.episode_id).or_insert(hit.rank);
            }
        }
    }
    let part = |rank: usize, weight: f64| weight / (FUSION_K + rank as f64);
    let mut all: Vec<GraphHit> = Vec::with_capacity(facts.len() + episodes.len());
    for mut hit in facts {
        hit.score = part(hit.rank, FACT_WEIGHT);
        all.push(hit);
    }
    for mut hit in episodes {
        hit.score = part(hit.rank, 1.0);
        if let GraphItem::Episode(episode) = &hit.item
            && let Some(rank) = rests.get(&episode.id)
        {
            hit.score += part(*rank, FACT_WEIGHT / 2.0);
        }
        all.push(hit);
    }
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.rank.cmp(&b.rank)));
    all
}

/// The best that fit, without those that repeat a better one.
fn packed(hits: Vec<GraphHit>, ask: &GraphAsk) -> Vec<GraphHit> {
    let mut kept: Vec<(HashSet<String>, GraphHit)> = Vec::new();
    let mut held_back: Vec<GraphHit> = Vec::new();
    for mut hit in hits {
        let words: HashSet<String> = terms(hit.item.text()).into_iter().collect();
        let repeats =
            words.len() > 3 && kept.iter().any(|(other, _)| share(&words, other) >= REPEATS);
        if repeats {
            hit.score *= REPEATED_SHARE;
            held_back.push(hit);
        } else {
            kept.push((words, hit));
        }
    }
    let mut all: Vec<GraphHit> = kept.into_iter().map(|(_, hit)| hit).chain(held_back).collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.rank.cmp(&b.rank)));
    let mut room = ask.bytes_max.unwrap_or(usize::MAX);
    all.retain(|hit| {
        let bytes = hit.item.text().len();
        let fits = bytes <= room;
        room = room.saturating_sub(if fits { bytes } else { 0 });
        fits
    });
    all.truncate(ask.limit);
    all
}

#[expect(clippy::cast_precision_loss, reason = "texts have few words")]
fn share(one: &HashSet<String>, other: &HashSet<String>) -> f64 {
    let all = one.union(other).count().max(1);
    one.intersection(other).count() as f64 / all as f64
}
