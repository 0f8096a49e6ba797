//! Episodes: taken in one write, findable as text at once, and drawn from in the
//! background ([`ingest`]). Nobody waits for that: a run's own episode belongs to the
//! write that ends the run, and is never refused.

mod answers;
mod asking;
mod drawn;
mod embedding;
mod ingest;
mod pressure;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::episodes::{Episode, EpisodeKind, EpisodeState, ModelWork};
use agentry_domain::graph::{GroupId, ORIGIN_EPISODES};
use agentry_domain::idempotency::Remembered;
use agentry_domain::runs::Run;
use agentry_domain::sessions::{Message, MessageRole};
use agentry_domain::{
    Caller, Code, Done, EpisodeId, Error, JsonText, NodeId, Once, OrgId, Page, PageRequest, Result,
    SessionId, Timestamp,
};
use agentry_graph::extract::{EXTRACTOR, EXTRACTOR_VERSION, Turn, extract};
use agentry_graph::gazetteer::Gazetteer;
use agentry_store::{Mention, OldEpisode, Write};
use tokio::sync::Semaphore;

use crate::Engine;
use crate::users::{USER_TRIES_MAX, user_ensure};

use embedding::Vectors;
pub(crate) use ingest::Gazetteers;
use pressure::Pressure;
pub use pressure::{GraphPause, GraphStanding};

/// Bytes of a message that is read in the write that ends its run, to tell whether there
/// is anything in it: some tens of microseconds.
const READ_AT_ONCE_BYTES_MAX: usize = 2_048;
/// Episodes that are forgotten after one look.
const FORGOTTEN_AT_ONCE: u32 = 100;
/// How long a caller waits before trying again when a group's queue is full.
const RETRY_FULL: Duration = Duration::from_secs(1);

/// The bounds of the graph's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphOptions {
    /// Whether episodes are taken and runs are remembered in the graph.
    pub enabled: bool,
    /// Episodes of one group that may wait to be drawn from.
    pub group_queue_episodes_max: u32,
    /// Groups that this process draws from at once.
    pub drawing_max: usize,
    /// From so many waiting episodes on, in all groups, `/ready` says so.
    pub backlog_episodes_noted: u64,
    /// How old the statistics of a group may be when they are answered.
    pub stats_age_max: Duration,
    /// From so many on, models are not asked about episodes.
    pub models_paused_from_episodes: u64,
    /// From so many on, and while they become more, episodes are not read.
    pub drawing_paused_from_episodes: u64,
    /// The model that draws from episodes after the rules, as `provider/model`.
    pub extraction_model: Option<String>,
    /// Tokens of the episodes that one call is about.
    pub extraction_batch_tokens: u32,
    /// How long a group is silent before fewer are asked about.
    pub extraction_idle: Duration,
    /// How long one call of a model about episodes may take.
    pub extraction_timeout: Duration,
    /// Groups that this process asks a model about at once, for each work of one.
    pub extracting_max: usize,
    /// How long a model is left alone the first time that its calls fail.
    pub model_breaker_open: Duration,
    /// The model that turns episodes into vectors, as `provider/model`.
    pub embedding_model: Option<String>,
    /// How long a search waits for the vector of what is asked.
    pub embedding_wait: Duration,
    /// Bytes of vectors in memory.
    pub vectors_bytes_max: usize,
}

impl Default for GraphOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            group_queue_episodes_max: 100_000,
            drawing_max: 2,
            backlog_episodes_noted: 10_000,
            stats_age_max: Duration::from_secs(1),
            models_paused_from_episodes: 20_000,
            drawing_paused_from_episodes: 100_000,
            extraction_model: None,
            extraction_batch_tokens: 1_500,
            extraction_idle: Duration::from_secs(3),
            extraction_timeout: Duration::from_secs(60),
            extracting_max: 2,
            model_breaker_open: Duration::from_secs(30),
            embedding_model: None,
            embedding_wait: Duration::from_millis(200),
            vectors_bytes_max: 64 << 20,
        }
    }
}

/// What the graph's workers of this process share.
pub(crate) struct GraphWork {
    /// Places for groups.
    pub(crate) places: Arc<Semaphore>,
    /// Places for asking a model, for each work of one: one that hangs holds up no
    /// other.
    extracting: Arc<Semaphore>,
    embedding: Arc<Semaphore>,
    pub(crate) gazetteers: Gazetteers,
    pub(crate) pressure: Pressure,
    pub(crate) vectors: Vectors,
    pub(crate) activity: GraphCounts,
}

impl GraphWork {
    pub(crate) fn new(options: &GraphOptions) -> Self {
        Self {
            places: Arc::new(Semaphore::new(options.drawing_max)),
            extracting: Arc::new(Semaphore::new(options.extracting_max)),
            embedding: Arc::new(Semaphore::new(options.extracting_max)),
            gazetteers: Gazetteers::default(),
            pressure: Pressure::new(options),
            vectors: Vectors::default(),
            activity: GraphCounts::default(),
        }
    }

    fn asking_places(&self, work: ModelWork) -> Arc<Semaphore> {
        Arc::clone(match work {
            ModelWork::Extract => &self.extracting,
            ModelWork::Embed => &self.embedding,
        })
    }
}

/// What the graph did in this process so far, for the metrics.
#[derive(Default)]
pub(crate) struct GraphCounts {
    pub(crate) drawn: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) facts: AtomicU64,
    pub(crate) lag_micros: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) repairs: AtomicU64,
    pub(crate) extracted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) left_to_rules: AtomicU64,
    pub(crate) ask_failures: AtomicU64,
    pub(crate) answers_given_up: AtomicU64,
    pub(crate) embedding_calls: AtomicU64,
    pub(crate) embedded: AtomicU64,
    pub(crate) questions_without: AtomicU64,
}

/// What the graph did in this process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphActivity {
    /// Episodes that were drawn from.
    pub drawn: u64,
    /// Episodes that were put aside.
    pub failed: u64,
    /// Facts that were stored.
    pub facts: u64,
    /// How long the newest batch had waited when it was done, in microseconds.
    pub lag_micros: u64,
    /// Calls of the extraction model, repairs among them.
    pub calls: u64,
    /// Calls that asked it to answer again.
    pub repairs: u64,
    /// Episodes that it answered about.
    pub extracted: u64,
    /// Parts of its answers that were refused.
    pub refused: u64,
    /// Episodes that no model did its work for, after it was asked in vain.
    pub left_to_rules: u64,
    /// Calls of models that failed.
    pub ask_failures: u64,
    /// Answers that could not be stored.
    pub answers_given_up: u64,
    /// Calls of the embedding model about episodes.
    pub embedding_calls: u64,
    /// Episodes that were turned into vectors.
    pub embedded: u64,
    /// Searches that went on without a vector of what was asked.
    pub questions_without: u64,
    /// How often the breaker of the extraction model opened.
    pub extraction_breaker_opened: u64,
    /// How often that of the embedding model did.
    pub embedding_breaker_opened: u64,
    /// Bytes of vectors in memory.
    pub vectors_bytes: u64,
}

/// An episode that a client sends.
#[derive(Clone, Debug)]
pub struct EpisodeNew {
    /// The group it goes into.
    pub group: GroupId,
    /// What its content is.
    pub kind: EpisodeKind,
    /// Who spoke.
    pub role: String,
    /// The name of who spoke.
    pub speaker: Option<String>,
    /// Where it comes from.
    pub source: String,
    /// What was said.
    pub content: String,
    /// The session it was said in.
    pub session_id: Option<String>,
    /// The user whose it is.
    pub user_id: Option<String>,
    /// When it was said; now when nobody says.
    pub occurred_at: Option<Timestamp>,
    /// The client's own.
    pub metadata: JsonText,
}

impl EpisodeNew {
    /// What tells it from others: everything that was sent.
    fn hash(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |text: Option<&str>| {
            let bytes = text.unwrap_or_default().as_bytes();
            hasher.update(&(bytes.len() as u64 + u64::from(text.is_some())).to_be_bytes());
            hasher.update(bytes);
        };
        part(Some(self.kind.as_str()));
        part(Some(&self.role));
        part(self.speaker.as_deref());
        part(Some(&self.source));
        part(Some(&self.content));
        part(self.session_id.as_deref());
        part(self.user_id.as_deref());
        part(self.occurred_at.map(|at| at.to_string()).as_deref());
        cut(&hasher)
    }
}

fn cut(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    hash
}

/// An episode with what is known of it.
#[derive(Clone, Debug)]
pub struct EpisodeSeen {
    /// The episode.
    pub episode: Episode,
    /// Which nodes it names.
    pub mentions: Vec<Mention>,
}

impl Engine {
    /// Takes an episode; one that was sent before comes back as it is.
    pub async fn episode_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        new: EpisodeNew,
    ) -> Result<Done<Episode>> {
        if !self.0.options.graph.enabled {
            return Err(Error::new(Code::GraphOff, "the server was started with --graph off"));
        }
        if let Some(before) = self.remembered(caller, once).await? {
            return self.episode_replayed(caller, &new.group, before).await;
        }
        let hash = new.hash();
        let mut tries = 1;
        loop {
            let known = self.0.store.episode_by_hash(caller.org, &new.group, hash).await?;
            if let Some(episode) = known {
                return Ok(Done::now(episode));
            }
            match self.episode_store(caller, once, &new, hash).await {
                // The same one, or the same user, came in between.
                Err(error) if error.code == Code::AlreadyExists && tries < USER_TRIES_MAX => {
                    tries += 1;
                }
                Err(error) if error.code == Code::GraphQueueFull => {
                    return Err(error.retry_after(RETRY_FULL));
                }
                done => return done,
            }
        }
    }

    async fn episode_store(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        new: &EpisodeNew,
        hash: [u8; 16],
    ) -> Result<Done<Episode>> {
        let user = self.user_unknown(caller, new.user_id.as_deref()).await?;
        let now = self.now();
        let episode = Episode {
            id: EpisodeId::from_uuid(self.uuid(now)),
            group_id: new.group.clone(),
            kind: new.kind,
            role: new.role.clone(),
            speaker: new.speaker.clone(),
            source: new.source.clone(),
            content: new.content.clone(),
            session_id: new.session_id.clone(),
            user_id: new.user_id.clone(),
            message: None,
            occurred_at: new.occurred_at.unwrap_or(now),
            ingested_at: now,
            state: EpisodeState::Pending,
            extractor: None,
            attempts: 0,
            error: None,
            metadata: new.metadata.clone(),
        };
        let mut write = Write::new(caller.org);
        let most = self.0.options.graph.group_queue_episodes_max;
        write.episode_insert(&episode, hash, Some(most));
        user_ensure(&mut write, caller, user.as_ref())?;
        let noted = (episode.id.to_bytes(), "");
        match self.write_once(caller, once, write, noted, now).await? {
            None => {
                self.0.claimable.notify_one();
                Ok(Done::now(episode))
            }
            Some(before) => self.episode_replayed(caller, &new.group, before).await,
        }
    }

    async fn episode_replayed(
        &self,
        caller: &Caller,
        group: &GroupId,
        before: Remembered,
    ) -> Result<Done<Episode>> {
        let id = EpisodeId::from_bytes(before.id);
        let episode = self.0.store.episode_get(caller.org, group, id).await?;
        let value = episode.ok_or_else(|| Error::not_found("episode", id))?;
        Ok(Done { value, replayed: true })
    }

    /// The episode with this id, and what it names.
    pub async fn episode_get(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: EpisodeId,
    ) -> Result<EpisodeSeen> {
        let episode = self.0.store.episode_get(caller.org, group, id).await?;
        let episode = episode.ok_or_else(|| Error::not_found("episode", id))?;
        let mentions = self.0.store.mentions_of(caller.org, group, id).await?;
        Ok(EpisodeSeen { episode, mentions })
    }

    /// A page of a group's episodes.
    pub async fn episode_list(
        &self,
        caller: &Caller,
        group: &GroupId,
        state: Option<EpisodeState>,
        page: PageRequest,
    ) -> Result<Page<Episode>> {
        Ok(self.0.store.episode_list(caller.org, group, state, &page).await?)
    }

    /// Lets an episode that was put aside be tried again.
    pub async fn episode_retry(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: EpisodeId,
    ) -> Result<Episode> {
        self.episode_get(caller, group, id).await?;
        let mut write = Write::new(caller.org);
        write.episode_retry(group, id, self.now());
        self.0.store.write(write).await?;
        self.0.claimable.notify_one();
        Ok(self.episode_get(caller, group, id).await?.episode)
    }

    /// Decides that nothing is to be drawn from an episode that was put aside.
    pub async fn episode_drop(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: EpisodeId,
    ) -> Result<Episode> {
        self.episode_get(caller, group, id).await?;
        let mut write = Write::new(caller.org);
        write.episode_drop(group, id);
        self.0.store.write(write).await?;
        Ok(self.episode_get(caller, group, id).await?.episode)
    }

    /// What the graph did in this process so far.
    pub fn graph_activity(&self) -> GraphActivity {
        let counts = &self.0.graph.activity;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        GraphActivity {
            drawn: read(&counts.drawn),
            failed: read(&counts.failed),
            facts: read(&counts.facts),
            lag_micros: read(&counts.lag_micros),
            calls: read(&counts.calls),
            repairs: read(&counts.repairs),
            extracted: read(&counts.extracted),
            refused: read(&counts.refused),
            left_to_rules: read(&counts.left_to_rules),
            ask_failures: read(&counts.ask_failures),
            answers_given_up: read(&counts.answers_given_up),
            embedding_calls: read(&counts.embedding_calls),
            embedded: read(&counts.embedded),
            questions_without: read(&counts.questions_without),
            extraction_breaker_opened: self.0.graph.pressure.opened(ModelWork::Extract),
            embedding_breaker_opened: self.0.graph.pressure.opened(ModelWork::Embed),
            vectors_bytes: self.0.graph.vectors.bytes() as u64,
        }
    }

    /// Adds to the write that ends a run what the graph is to remember of it.
    /// Whether something is to be drawn from it.
    pub(crate) fn episode_of_run(&self, write: &mut Write, run: &Run, message: &Message) -> bool {
        if !self.0.options.graph.enabled || message.content.trim().is_empty() {
            return false;
        }
        let mut episode = Episode {
            id: EpisodeId::from_bytes(message.id.to_bytes()),
            group_id: run_group(run.user_id.as_deref(), run.session),
            kind: EpisodeKind::Text,
            role: message.role.as_str().to_owned(),
            speaker: (message.role == MessageRole::Assistant).then(|| "assistant".to_owned()),
            source: "run".to_owned(),
            content: message.content.clone(),
            session_id: Some(run.session.to_string()),
            user_id: run.user_id.clone(),
            message: Some(message.id),
            occurred_at: message.created_at,
            ingested_at: message.created_at,
            state: EpisodeState::Pending,
            extractor: None,
            attempts: 0,
            error: None,
            metadata: JsonText::empty(),
        };
        // Most of what is said names nothing and states nothing: that is done with
        // this write, and costs no job.
        // A model may find something in it all the same.
        let options = &self.0.options.graph;
        let has_model = options.extraction_model.is_some() || options.embedding_model.is_some();
        let is_short = message.content.len() <= READ_AT_ONCE_BYTES_MAX;
        if !has_model && is_short && says_nothing(&episode) {
            episode.state = EpisodeState::Done;
            episode.extractor = Some(extractor());
        }
        // The same words in another run are another episode.
        let mut hasher = blake3::Hasher::new();
        hasher.update(&message.id.to_bytes());
        write.episode_insert(&episode, cut(&hasher), None);
        episode.state == EpisodeState::Pending
    }

    /// Adds to a write that an episode goes, with the facts that rest on it alone.
    pub(crate) async fn episode_forget(
        &self,
        write: &mut Write,
        org: OrgId,
        episode: &OldEpisode,
    ) -> Result<()> {
        let store = &self.0.store;
        let (count, alone) = store.facts_resting_on(org, &episode.group, episode.id).await?;
        write.episode_delete(episode, self.now());
        write.evidence_counted(&episode.group, episode.id, count);
        for fact in alone {
            write.fact_delete(&episode.group, fact);
        }
        write.evidence_delete(&episode.group, episode.id);
        Ok(())
    }
}

impl Engine {
    /// Forgets the episodes of a session that is gone, with what rests on them alone.
    pub(crate) async fn session_episodes_forget(
        &self,
        org: OrgId,
        session: SessionId,
        user_id: Option<&str>,
    ) -> Result<()> {
        let (group, id) = (run_group(user_id, session), session.to_string());
        loop {
            let store = &self.0.store;
            let some = store.episode_of_session(org, &group, &id, FORGOTTEN_AT_ONCE).await?;
            if some.is_empty() {
                return Ok(());
            }
            self.episodes_forget(org, &some).await?;
        }
    }

    /// Forgets all episodes of a user that came before an id; how many there were.
    pub(crate) async fn user_episodes_forget(
        &self,
        org: OrgId,
        user_id: &str,
        before: [u8; 16],
    ) -> Result<u64> {
        let mut forgotten = 0;
        loop {
            let store = &self.0.store;
            let some = store.episode_of_user_old(org, user_id, before, FORGOTTEN_AT_ONCE).await?;
            if some.is_empty() {
                return Ok(forgotten);
            }
            if self.0.tasks.stopping().is_cancelled() {
                return Err(Error::new(Code::ShuttingDown, "the server is shutting down"));
            }
            self.episodes_forget(org, &some).await?;
            forgotten += some.len() as u64;
        }
    }

    /// Forgets episodes, the facts that rest on them alone, and the nodes that nothing
    /// else names.
    async fn episodes_forget(&self, org: OrgId, episodes: &[OldEpisode]) -> Result<()> {
        let store = &self.0.store;
        let mut named: BTreeSet<(GroupId, NodeId)> = BTreeSet::new();
        for episode in episodes {
            let mentions = store.mentions_of(org, &episode.group, episode.id).await?;
            named.extend(mentions.iter().map(|it| (episode.group.clone(), it.node)));
            let mut write = Write::new(org).bulk();
            self.episode_forget(&mut write, org, episode).await?;
            match self.0.store.write(write).await.map_err(Error::from) {
                // Somebody else forgot it.
                Err(error) if error.code == Code::Conflict => {}
                written => {
                    written?;
                }
            }
        }
        for episode in episodes {
            self.0.graph.vectors.forget(org, &episode.group);
        }
        let caller = Caller { org, ..self.anyone() };
        for (group, node) in named {
            if self.is_orphan(org, &group, node).await? {
                match self.node_delete(&caller, &group, node, None).await {
                    Err(error) if error.code == Code::NotFound => {}
                    deleted => deleted?,
                }
            }
        }
        Ok(())
    }

    /// Whether a node was drawn out of episodes of which none is left.
    async fn is_orphan(&self, org: OrgId, group: &GroupId, id: NodeId) -> Result<bool> {
        let store = &self.0.store;
        let Some(node) = store.graph_node_get(org, group, id).await? else { return Ok(false) };
        if node.origin != ORIGIN_EPISODES {
            return Ok(false);
        }
        let named = store.nodes_mentioned(org, group, &[id], 1).await?;
        Ok(named.iter().all(Vec::is_empty))
    }
}

/// Whether an episode names nothing but its speaker and states nothing, as far as that
/// can be told without what its group knows.
fn says_nothing(episode: &Episode) -> bool {
    let turn = Turn {
        text: &episode.content,
        speaker: Some(episode.first_person()),
        at: episode.occurred_at,
    };
    let found = extract(&turn, &Gazetteer::default());
    found.facts.is_empty() && found.names.iter().all(|name| name.spans.is_empty())
}

/// What draws from episodes, with its version.
pub(crate) fn extractor() -> String {
    format!("{EXTRACTOR}/{EXTRACTOR_VERSION}")
}

/// Where what is said in a run goes: to its user or, of nobody's, to its session.
pub(crate) fn run_group(user_id: Option<&str>, session: SessionId) -> GroupId {
    match user_id {
        Some(user_id) => GroupId::user(user_id),
        None => GroupId::session(session),
    }
}
