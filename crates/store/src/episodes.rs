//! Episodes in the store: rows, their queue, and which nodes they name.
//!
//! A group has a row in `graph_queue` and a job in a lane of its own while episodes
//! of it wait. Every write that adds one, takes some or ends the job changes that row
//! first, so that two of them go one after the other: whoever finds nothing left ends
//! the job only if nothing came meanwhile.

use agentry_domain::episodes::{Episode, EpisodeKind, EpisodeState};
use agentry_domain::graph::GroupId;
use agentry_domain::jobs::JobKind;
use agentry_domain::{
    Code, EpisodeId, Error, JsonText, MessageId, NodeId, OrgId, Page, PageRequest, Timestamp,
    WorkerId,
};
use serde::Serialize;

use crate::graph::{hex, hex_list, rows_json};
use crate::jobs::{ClaimedJob, LANE_OPEN};
use crate::lists::{cursor, list_page};
use crate::sql::statements;
use crate::text::Scope;
use crate::value::{self, Columns, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

/// Episodes of a group; the key is the group.
pub(crate) const GRAPH_EPISODES: &str = "graph_episodes";

statements! {
    EPISODE_INSERT = "insert into graph_episode (org, group_id, id, hash, kind, role, speaker, \
        source, content, session_id, user_id, message, seq, occurred_at, ingested_at, state, \
        extractor, attempts, error, metadata) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
        $11, $12, $13, $13, $14, $15, $16, 0, null, $17)";
    EPISODE_GET = "select id, kind, role, speaker, source, content, session_id, user_id, message, \
        occurred_at, ingested_at, state, extractor, attempts, error, metadata from graph_episode \
        where org = $1 and group_id = $2 and id = $3";
    EPISODES_GET = sqlite "select e.id, e.kind, e.role, e.speaker, e.source, e.content, e.session_id, \
        e.user_id, e.message, e.occurred_at, e.ingested_at, e.state, e.extractor, e.attempts, \
        e.error, e.metadata from json_each($1) as j cross join graph_episode as e on e.org = $2 \
        and e.group_id = $3 and e.id = unhex(j.value)"
        postgres "select e.id, e.kind, e.role, e.speaker, e.source, e.content, e.session_id, \
        e.user_id, e.message, e.occurred_at, e.ingested_at, e.state, e.extractor, e.attempts, \
        e.error, e.metadata from json_array_elements_text($1::text::json) as j (value) \
        join graph_episode as e on e.org = $2 and e.group_id = $3 and e.id = decode(j.value, 'hex')";
    EPISODE_BY_HASH = "select id, kind, role, speaker, source, content, session_id, user_id, \
        message, occurred_at, ingested_at, state, extractor, attempts, error, metadata \
        from graph_episode where org = $1 and group_id = $2 and hash = $3 \
        and message is null";
    EPISODE_LIST_ASC = "select id, kind, role, speaker, source, content, session_id, user_id, \
        message, occurred_at, ingested_at, state, extractor, attempts, error, metadata \
        from graph_episode where org = $1 and group_id = $2 and id > $3 \
        order by id limit $4 offset $5";
    EPISODE_LIST_DESC = "select id, kind, role, speaker, source, content, session_id, user_id, \
        message, occurred_at, ingested_at, state, extractor, attempts, error, metadata \
        from graph_episode where org = $1 and group_id = $2 and id < $3 \
        order by id desc limit $4 offset $5";
    // By state, of those that are not done: the index has no others.
    EPISODE_STATE_ASC = "select id, kind, role, speaker, source, content, session_id, user_id, \
        message, occurred_at, ingested_at, state, extractor, attempts, error, metadata \
        from graph_episode where org = $1 and group_id = $2 and state = $3 and state <> 'done' \
        and id > $4 order by id limit $5 offset $6";
    EPISODE_STATE_DESC = "select id, kind, role, speaker, source, content, session_id, user_id, \
        message, occurred_at, ingested_at, state, extractor, attempts, error, metadata \
        from graph_episode where org = $1 and group_id = $2 and state = $3 and state <> 'done' \
        and id < $4 order by id desc limit $5 offset $6";
    EPISODE_STATE_COUNT = "select count(*) from (select 1 from graph_episode where org = $1 \
        and group_id = $2 and state = $3 and state <> 'done' limit $4) as counted";
    EPISODES_BEFORE = "select id, kind, role, speaker, source, content, session_id, user_id, \
        message, occurred_at, ingested_at, state, extractor, attempts, error, metadata \
        from graph_episode where org = $1 and group_id = $2 and session_id = $3 \
        and (seq, id) < ($4, $5) order by seq desc, id desc limit $6";
    EPISODES_AFTER = "select id, kind, role, speaker, source, content, session_id, user_id, \
        message, occurred_at, ingested_at, state, extractor, attempts, error, metadata \
        from graph_episode where org = $1 and group_id = $2 and session_id = $3 \
        and (seq, id) > ($4, $5) order by seq, id limit $6";
    // One of them gone, and nothing of the batch is stored. Whoever takes one that
    // waits changes the queue's row first, so that what is counted here stays so.
    EPISODES_WAIT = sqlite "select 1 where (select count(*) from json_each($1) as j \
        cross join graph_episode as e on e.org = $2 and e.group_id = $3 and e.id = unhex(j.value) \
        and e.state = 'pending') = $4"
        postgres "select 1 where (select count(*) from json_array_elements_text($1::text::json) \
        as j (value) join graph_episode as e on e.org = $2 and e.group_id = $3 \
        and e.id = decode(j.value, 'hex') and e.state = 'pending') = $4";
    EPISODES_DONE = sqlite "update graph_episode set state = 'done', extractor = $1, \
        attempts = attempts + 1, error = null where org = $2 and group_id = $3 \
        and id in (select unhex(value) from json_each($4))"
        postgres "update graph_episode set state = 'done', extractor = $1, \
        attempts = attempts + 1, error = null where org = $2 and group_id = $3 \
        and id in (select decode(value, 'hex') from json_array_elements_text($4::text::json) as value)";
    EPISODE_FAILED = "update graph_episode set attempts = attempts + 1, error = $1, state = $2 \
        where org = $3 and group_id = $4 and id = $5 and state = 'pending'";
    EPISODE_MOVE = "update graph_episode set state = $1, attempts = 0, error = null \
        where org = $2 and group_id = $3 and id = $4 and state = 'dead'";
    EPISODE_DELETE = "delete from graph_episode where org = $1 and group_id = $2 and id = $3";
    EPISODE_OF_USER = "select group_id, id, state from graph_episode where org = $1 and user_id = $2 \
        and user_id is not null and id < $3 order by group_id, id limit $4";
    EPISODE_OF_SESSION = sqlite "select group_id, id, state from graph_episode \
        where org = $1 and group_id = $2 and session_id = $3 and session_id is not null \
        order by seq, id limit $4"
        postgres "select group_id, id, state from graph_episode \
        where org = $1 and group_id = $2 and session_id = $3 order by seq, id limit $4";
    QUEUE_JOIN = "insert into graph_queue (org, lane, group_id, pending, since) \
        values ($1, $2, $3, 1, $4) on conflict (org, lane) do update \
        set pending = graph_queue.pending + 1 where graph_queue.pending < $5";
    // The group has a job for what is to be stored, though no episode waits.
    QUEUE_WAKE = "insert into graph_queue (org, lane, group_id, pending, since) \
        values ($1, $2, $3, 0, $4) on conflict (org, lane) do update \
        set pending = graph_queue.pending";
    QUEUE_TOUCH = "update graph_queue set pending = pending where org = $1 and lane = $2";
    QUEUE_GET = "select pending from graph_queue where org = $1 and lane = $2";
    QUEUE_GROUP = "select group_id from graph_queue where org = $1 and lane = $2";
    QUEUE_LEAVE = "update graph_queue set pending = pending - $1, since = $2 \
        where org = $3 and lane = $4";
    QUEUE_END = "delete from graph_queue where org = $1 and lane = $2 and pending <= 0 \
        and not exists (select 1 from graph_answer where graph_answer.org = graph_queue.org \
        and graph_answer.group_id = graph_queue.group_id)";
    scan QUEUE_ALL = sqlite "select coalesce(sum(pending), 0), coalesce(min(since), 0), count(*) \
        from graph_queue"
        postgres "select coalesce(sum(pending), 0)::bigint, coalesce(min(since), 0), count(*) \
        from graph_queue";
    GROUP_JOB_ADD = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at) values ($1, $2, $2, 1, $3, 1, 0, $4, 0, 0, $5, $5) \
        on conflict (org, id) do nothing";
    MENTIONS_INSERT = sqlite "insert into graph_mention (org, group_id, episode, span_start, node, \
        span_end) select $1, $2, unhex(value ->> 'e'), value ->> 's', unhex(value ->> 'n'), \
        value ->> 'u' from json_each($3) where true \
        on conflict (org, group_id, episode, span_start, node) do nothing"
        postgres "insert into graph_mention (org, group_id, episode, span_start, node, span_end) \
        select $1::bytea, $2::text, decode(r.e, 'hex'), r.s, decode(r.n, 'hex'), r.u \
        from json_to_recordset($3::text::json) as r (e text, s bigint, n text, u bigint) \
        on conflict (org, group_id, episode, span_start, node) do nothing";
    MENTIONS_OF = "select node, span_start, span_end from graph_mention where org = $1 \
        and group_id = $2 and episode = $3 order by span_start, node";
    MENTIONS_DELETE = "delete from graph_mention where org = $1 and group_id = $2 and episode = $3";
    NODE_MENTIONED = "select episode from graph_mention where org = $1 and group_id = $2 \
        and node = $3 order by episode desc limit $4";
    NODES_NAMED = sqlite "select n.name, n.node, n.kind, n.part from json_each($1) as j \
        cross join graph_node_name as n on n.org = $2 and n.group_id = $3 and n.name = j.value \
        and n.part < 2"
        postgres "select n.name, n.node, n.kind, n.part \
        from json_array_elements_text($1::text::json) as j (value) join graph_node_name as n \
        on n.org = $2 and n.group_id = $3 and n.name = j.value and n.part < 2";
    NODE_NAMES_NEWEST = "select name from graph_node where org = $1 and group_id = $2 \
        order by id desc limit $3";
    EDGES_BETWEEN = sqlite "select e.from_node, e.to_node, e.weight from json_each($1) as j \
        cross join graph_edge as e on e.org = $2 and e.group_id = $3 \
        and e.from_node = unhex(j.value ->> 'f') and e.kind = $4 and e.to_node = unhex(j.value ->> 't')"
        postgres "select e.from_node, e.to_node, e.weight \
        from json_to_recordset($1::text::json) as r (f text, t text) join graph_edge as e \
        on e.org = $2 and e.group_id = $3 and e.from_node = decode(r.f, 'hex') and e.kind = $4 \
        and e.to_node = decode(r.t, 'hex')";
    MERGE_INSERT = "insert into graph_merge (org, group_id, merged, into_node, cause, created_at) \
        values ($1, $2, $3, $4, $5, $6)";
    MERGE_DELETE = "delete from graph_merge where org = $1 and group_id = $2 and merged = $3 \
        and into_node = $4";
    MERGE_OF = "select merged, into_node, cause, created_at from graph_merge where org = $1 \
        and group_id = $2 and merged = $3";
    MERGES_INTO = "select merged, into_node, cause, created_at from graph_merge where org = $1 \
        and group_id = $2 and into_node = $3 order by merged limit $4";
}

/// The lane of a group's job, which is also the job's id.
pub fn group_lane(org: OrgId, group: &GroupId) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"graph");
    hasher.update(&org.to_bytes());
    hasher.update(group.as_str().as_bytes());
    let mut lane = [0; 16];
    lane.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    lane
}

/// How much waits to be drawn from, in all groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphBacklog {
    /// Episodes.
    pub pending: u64,
    /// Not after the oldest of them came; none when none waits.
    pub since: Option<Timestamp>,
    /// Groups that have some.
    pub groups: u64,
}

/// Where an episode names a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The episode.
    pub episode: EpisodeId,
    /// The node.
    pub node: NodeId,
    /// The first byte, and the one after the last.
    pub span: (usize, usize),
}

/// A node that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNamed {
    /// The name, in normal form.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// What kind of thing it is.
    pub kind: String,
    /// Whether this is another name of it.
    pub is_alias: bool,
}

/// A node that is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMerge {
    /// It.
    pub merged: NodeId,
    /// The one that it is.
    pub into: NodeId,
    /// Who found out, and why.
    pub cause: String,
    /// When.
    pub created_at: Timestamp,
}

/// An episode that is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldEpisode {
    /// Its group.
    pub group: GroupId,
    /// Its id.
    pub id: EpisodeId,
    /// Whether it still waits.
    pub pending: bool,
}

#[derive(Serialize)]
struct MentionRow {
    e: String,
    s: usize,
    n: String,
    u: usize,
}

#[derive(Serialize)]
struct PairRow {
    f: String,
    t: String,
}

fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The error of a batch whose episodes have changed meanwhile.
fn batch_changed() -> Error {
    Error::new(Code::Conflict, "an episode of the batch has changed")
}

impl Write {
    /// Stores a new episode, findable as text, and makes sure that its group has a job
    /// that draws from it. With `pending_max` the write fails with `graph_queue_full`
    /// when so many wait; an episode with the same hash is `already_exists`, unless it
    /// repeats a message.
    ///
    /// One that repeats a message is found as that, and takes no words of its own.
    pub fn episode_insert(&mut self, episode: &Episode, hash: [u8; 16], pending_max: Option<u32>) {
        let (org, group) = (self.org, episode.group_id.as_str().to_owned());
        if episode.state == EpisodeState::Pending {
            self.episode_enqueue(&episode.group_id, episode.ingested_at, pending_max);
        }
        self.add(
            &EPISODE_INSERT,
            values![
                org,
                group,
                episode.id,
                hash.to_vec(),
                episode.kind.as_str(),
                &episode.role,
                episode.speaker.as_ref(),
                &episode.source,
                &episode.content,
                episode.session_id.as_ref(),
                episode.user_id.as_ref(),
                episode.message,
                episode.occurred_at,
                episode.ingested_at,
                episode.state.as_str(),
                episode.extractor.as_ref(),
                episode.metadata.as_str().to_owned(),
            ],
        )
        .taken_means(|| Error::new(Code::AlreadyExists, "the group has this episode already"));
        self.count(GRAPH_EPISODES, episode.group_id.as_str().as_bytes(), 1);
        if episode.message.is_none() {
            let scope = Scope::episodes(org, &episode.group_id);
            self.text_insert_graph(episode.id.to_bytes(), scope, &episode.content);
        }
    }

    /// One more episode of a group waits.
    fn episode_enqueue(&mut self, group: &GroupId, now: Timestamp, pending_max: Option<u32>) {
        let lane = group_lane(self.org, group);
        self.contend(lane);
        let most = pending_max.map_or(i64::MAX, i64::from);
        let probe = Probe::read(&QUEUE_GET, values![self.org, lane], move |pending| {
            let pending = pending.unwrap_or(0);
            Error::new(
                Code::GraphQueueFull,
                format!(
                    "{pending} episodes of this group wait already (graph.group_queue_episodes_max = {most})"
                ),
            )
        });
        let name = group.as_str().to_owned();
        self.add(&QUEUE_JOIN, values![self.org, lane, name, now, most]).expect_one(probe);
        self.group_job_add(lane, now);
    }

    fn group_job_add(&mut self, lane: [u8; 16], now: Timestamp) {
        self.add(&LANE_OPEN, values![self.org, lane]);
        let nobody = WorkerId::from_bytes([0; 16]);
        let kind = JobKind::Graph.as_str();
        self.add(&GROUP_JOB_ADD, values![self.org, lane, kind, nobody, now]);
    }

    /// Makes sure that a group has a job, which finds something to store.
    pub(crate) fn graph_wake(&mut self, group: &GroupId, now: Timestamp) {
        let lane = group_lane(self.org, group);
        self.contend(lane);
        self.add(&QUEUE_WAKE, values![self.org, lane, group.as_str().to_owned(), now]);
        self.group_job_add(lane, now);
    }

    /// Changes the row of a group's queue, so that others who do wait.
    pub(crate) fn graph_touch(&mut self, lane: [u8; 16]) {
        self.contend(lane);
        self.add(&QUEUE_TOUCH, values![self.org, lane]);
    }

    /// Guard and effect: these episodes, which waited, are done; the job is still this
    /// process's. `since` is when the newest of them came.
    pub fn episodes_done(
        &mut self,
        job: &ClaimedJob,
        group: &GroupId,
        ids: &[EpisodeId],
        extractor: &str,
        since: Timestamp,
    ) {
        let count = number(ids.len());
        self.contend(job.lane);
        self.add(&QUEUE_LEAVE, values![count, since, self.org, job.lane]);
        self.job_held(job);
        let list = hex_list(ids.iter().map(|id| id.to_bytes()));
        let (org, name) = (self.org, group.as_str().to_owned());
        let bound = values![list.clone(), org, name.clone(), count];
        self.add(&EPISODES_WAIT, bound).expect_one(Probe::always(batch_changed));
        self.add(&EPISODES_DONE, values![extractor.to_owned(), org, name, list]);
    }

    /// An episode that waited could not be drawn from: it stays, or is put aside.
    pub fn episode_failed(&mut self, job: &ClaimedJob, episode: &Episode, error: &str, dead: bool) {
        self.contend(job.lane);
        let taken = i64::from(dead);
        self.add(&QUEUE_LEAVE, values![taken, episode.ingested_at, self.org, job.lane]);
        self.job_held(job);
        let state = if dead { EpisodeState::Dead } else { EpisodeState::Pending };
        let name = episode.group_id.as_str().to_owned();
        self.add(
            &EPISODE_FAILED,
            values![error.to_owned(), state.as_str(), self.org, name, episode.id],
        )
        .expect_one(Probe::always(batch_changed));
    }

    /// Ends the job of a group for which nothing waits, no answer of a model either;
    /// otherwise `conflict`.
    pub fn graph_job_end(&mut self, job: &ClaimedJob) {
        self.graph_touch(job.lane);
        self.add(&QUEUE_END, values![self.org, job.lane])
            .expect_one(Probe::always(|| Error::new(Code::Conflict, "an episode came meanwhile")));
        self.job_end(job);
    }

    /// An episode that was put aside waits again.
    pub fn episode_retry(&mut self, group: &GroupId, id: EpisodeId, now: Timestamp) {
        self.episode_enqueue(group, now, None);
        self.episode_move(group, id, EpisodeState::Pending);
    }

    /// Nothing is to be drawn from an episode that was put aside.
    pub fn episode_drop(&mut self, group: &GroupId, id: EpisodeId) {
        self.episode_move(group, id, EpisodeState::Dropped);
    }

    fn episode_move(&mut self, group: &GroupId, id: EpisodeId, state: EpisodeState) {
        let name = group.as_str().to_owned();
        self.add(&EPISODE_MOVE, values![state.as_str(), self.org, name, id]).expect_one(
            Probe::always(move || Error::new(Code::Conflict, format!("episode {id} is not dead"))),
        );
    }

    /// Deletes an episode with what it names; the facts that rest on it are the
    /// caller's business.
    pub fn episode_delete(&mut self, episode: &OldEpisode, now: Timestamp) {
        let (org, name) = (self.org, episode.group.as_str().to_owned());
        if episode.pending {
            let lane = group_lane(org, &episode.group);
            self.contend(lane);
            self.add(&QUEUE_LEAVE, values![1_i64, now, org, lane]);
        }
        // First the row, which whoever draws from the episode holds: what was drawn by
        // then is seen by the statements behind this one.
        let gone = || Error::new(Code::Conflict, "an episode that was to be deleted is gone");
        self.add(&EPISODE_DELETE, values![org, name.clone(), episode.id])
            .expect_one(Probe::always(gone));
        self.add(&MENTIONS_DELETE, values![org, name, episode.id]);
        self.asks_forget(&episode.group, episode.id);
        self.vector_forget(&episode.group, episode.id);
        self.text_forget(episode.id.to_bytes());
        self.count(GRAPH_EPISODES, episode.group.as_str().as_bytes(), -1);
    }

    /// Stores where episodes name nodes.
    pub fn mentions_insert(&mut self, group: &GroupId, mentions: &[Mention]) {
        if mentions.is_empty() {
            return;
        }
        let row = |mention: &Mention| MentionRow {
            e: hex(mention.episode.to_bytes()),
            s: mention.span.0,
            n: hex(mention.node.to_bytes()),
            u: mention.span.1,
        };
        let rows: Vec<MentionRow> = mentions.iter().map(row).collect();
        let name = group.as_str().to_owned();
        self.add(&MENTIONS_INSERT, values![self.org, name, rows_json(&rows)]);
    }

    /// One node is another one from now on. A node that is another one already is
    /// `already_exists`.
    pub fn node_merge(&mut self, group: &GroupId, merge: &NodeMerge) {
        let NodeMerge { merged, into, cause, created_at } = merge.clone();
        let name = group.as_str().to_owned();
        self.add(&MERGE_INSERT, values![self.org, name, merged, into, cause, created_at])
            .taken_means(|| Error::new(Code::AlreadyExists, "the node is merged already"));
    }

    /// One node is another one no longer.
    pub fn node_unmerge(&mut self, group: &GroupId, merged: NodeId, into: NodeId) {
        let name = group.as_str().to_owned();
        self.add(&MERGE_DELETE, values![self.org, name, merged, into]).expect_one(Probe::always(
            move || Error::not_found("merge", format!("of {merged} into {into}")),
        ));
    }
}

impl Store {
    /// The episode of a group with this id.
    pub async fn episode_get(
        &self,
        org: OrgId,
        group: &GroupId,
        id: EpisodeId,
    ) -> Result<Option<Episode>> {
        let bound = values![org, group.as_str().to_owned(), id];
        Ok(self.point(&EPISODE_GET, bound, episode).await?.map(|row| row.of(group)))
    }

    /// The episode of a group with this hash.
    pub async fn episode_by_hash(
        &self,
        org: OrgId,
        group: &GroupId,
        hash: [u8; 16],
    ) -> Result<Option<Episode>> {
        let bound = values![org, group.as_str().to_owned(), hash.to_vec()];
        Ok(self.point(&EPISODE_BY_HASH, bound, episode).await?.map(|row| row.of(group)))
    }

    /// The episodes of a group with these ids, in no order, without those that are gone.
    pub async fn episodes_get(
        &self,
        org: OrgId,
        group: &GroupId,
        ids: &[EpisodeId],
    ) -> Result<Vec<Episode>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let list = hex_list(ids.iter().map(|id| id.to_bytes()));
        let bound = values![list, org, group.as_str().to_owned()];
        let rows = self.scan(&EPISODES_GET, bound, episode).await?;
        Ok(rows.into_iter().map(|row| row.of(group)).collect())
    }

    /// The episodes of a session around each of these: as many before, nearest first,
    /// and after.
    pub async fn episodes_around(
        &self,
        org: OrgId,
        group: &GroupId,
        around: &[&Episode],
        (before, after): (u32, u32),
    ) -> Result<Vec<(Vec<Episode>, Vec<Episode>)>> {
        let bound = |episode: &&Episode, limit: u32| {
            let session = episode.session_id.clone().unwrap_or_default();
            let name = group.as_str().to_owned();
            values![org, name, session, episode.occurred_at, episode.id, limit]
        };
        let lists = around.iter().map(|episode| bound(episode, before)).collect();
        let earlier = self.scan_each(&EPISODES_BEFORE, lists, episode).await?;
        let lists = around.iter().map(|episode| bound(episode, after)).collect();
        let later = self.scan_each(&EPISODES_AFTER, lists, episode).await?;
        let of = |rows: Vec<EpisodeRow>| rows.into_iter().map(|row| row.of(group)).collect();
        Ok(earlier.into_iter().map(of).zip(later.into_iter().map(of)).collect())
    }

    /// The oldest episodes of a group that wait.
    pub async fn episodes_pending(
        &self,
        org: OrgId,
        group: &GroupId,
        limit: u32,
    ) -> Result<Vec<Episode>> {
        let name = group.as_str().to_owned();
        let state = EpisodeState::Pending.as_str();
        let bound = values![org, name, state, [0; 16], limit, 0_i64];
        let rows = self.scan(&EPISODE_STATE_ASC, bound, episode).await?;
        Ok(rows.into_iter().map(|row| row.of(group)).collect())
    }

    /// A page of a group's episodes, or of those in one state other than done.
    pub async fn episode_list(
        &self,
        org: OrgId,
        group: &GroupId,
        state: Option<EpisodeState>,
        page: &PageRequest,
    ) -> Result<Page<Episode>> {
        let (after, limit, offset) = cursor(page);
        let name = group.as_str().to_owned();
        let Some(state) = state else {
            let sql = list_page(page, &EPISODE_LIST_ASC, &EPISODE_LIST_DESC);
            let bound = values![org, name.clone(), after, limit, offset];
            let rows = self.list(page, sql, bound, episode).await?;
            let total = self.counter(org, GRAPH_EPISODES, name.as_bytes()).await?;
            let rows = rows.into_iter().map(|row| row.of(group)).collect();
            return Ok(Page::from_rows(rows, page, total, |episode| episode.id.to_bytes()));
        };
        let sql = list_page(page, &EPISODE_STATE_ASC, &EPISODE_STATE_DESC);
        let bound = values![org, name.clone(), state.as_str(), after, limit, offset];
        let rows = self.list(page, sql, bound, episode).await?;
        let rows = rows.into_iter().map(|row| row.of(group)).collect();
        let filter = values![name, state.as_str()];
        self.filtered_page(rows, page, &EPISODE_STATE_COUNT, org, filter, |episode: &Episode| {
            episode.id.to_bytes()
        })
        .await
    }

    /// The group whose lane this is; none when nothing of it waits.
    pub async fn graph_lane_group(&self, org: OrgId, lane: [u8; 16]) -> Result<Option<GroupId>> {
        let name = |row: &mut Columns<'_>| Ok(GroupId::new(row.text()?));
        self.point(&QUEUE_GROUP, values![org, lane], name).await
    }

    /// How much waits in all groups.
    pub async fn graph_backlog(&self) -> Result<GraphBacklog> {
        let backlog = |row: &mut Columns<'_>| {
            let (pending, since, groups) = (row.int()?, row.int()?, row.int()?);
            Ok(GraphBacklog {
                pending: u64::try_from(pending).unwrap_or(0),
                since: (pending > 0).then_some(Timestamp::from_micros(since)),
                groups: groups.unsigned_abs(),
            })
        };
        Ok(self.point(&QUEUE_ALL, Vec::new(), backlog).await?.unwrap_or_default())
    }

    /// Episodes of a user that came before an id, in every group.
    pub async fn episode_of_user_old(
        &self,
        org: OrgId,
        user_id: &str,
        before: [u8; 16],
        limit: u32,
    ) -> Result<Vec<OldEpisode>> {
        let bound = values![org, user_id.to_owned(), before, limit];
        self.scan(&EPISODE_OF_USER, bound, old_episode).await
    }

    /// Episodes of a session in a group.
    pub async fn episode_of_session(
        &self,
        org: OrgId,
        group: &GroupId,
        session: &str,
        limit: u32,
    ) -> Result<Vec<OldEpisode>> {
        let bound = values![org, group.as_str().to_owned(), session.to_owned(), limit];
        self.scan(&EPISODE_OF_SESSION, bound, old_episode).await
    }

    /// What an episode names, in the order of its text.
    pub async fn mentions_of(
        &self,
        org: OrgId,
        group: &GroupId,
        episode: EpisodeId,
    ) -> Result<Vec<Mention>> {
        let bound = values![org, group.as_str().to_owned(), episode];
        let rows = self
            .rows(&MENTIONS_OF, bound, |row| {
                let at = |n: i64| usize::try_from(n).unwrap_or(0);
                Ok((NodeId::from_bytes(row.id()?), (at(row.int()?), at(row.int()?))))
            })
            .await?;
        Ok(rows.into_iter().map(|(node, span)| Mention { episode, node, span }).collect())
    }

    /// The newest episodes that name each of these nodes, at most `limit` of each.
    pub async fn nodes_mentioned(
        &self,
        org: OrgId,
        group: &GroupId,
        nodes: &[NodeId],
        limit: u32,
    ) -> Result<Vec<Vec<EpisodeId>>> {
        let name = group.as_str();
        let lists = nodes.iter().map(|node| values![org, name.to_owned(), *node, limit]).collect();
        let id = |row: &mut Columns<'_>| Ok(EpisodeId::from_bytes(row.id()?));
        self.scan_each(&NODE_MENTIONED, lists, id).await
    }

    /// The nodes of a group that have one of these names, which are in normal form.
    pub async fn nodes_named(
        &self,
        org: OrgId,
        group: &GroupId,
        names: &[&str],
    ) -> Result<Vec<NodeNamed>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let bound = values![rows_json(names), org, group.as_str().to_owned()];
        self.scan(&NODES_NAMED, bound, |row| {
            Ok(NodeNamed {
                name: row.text()?,
                node: NodeId::from_bytes(row.id()?),
                kind: row.text()?,
                is_alias: row.int()? == 1,
            })
        })
        .await
    }

    /// The weights of the edges of a kind between these nodes, as far as there are any.
    pub async fn edges_between(
        &self,
        org: OrgId,
        group: &GroupId,
        kind: &str,
        pairs: &[(NodeId, NodeId)],
    ) -> Result<Vec<((NodeId, NodeId), f64)>> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let row = |(from, to): &(NodeId, NodeId)| PairRow {
            f: hex(from.to_bytes()),
            t: hex(to.to_bytes()),
        };
        let rows: Vec<PairRow> = pairs.iter().map(row).collect();
        let bound = values![rows_json(&rows), org, group.as_str().to_owned(), kind.to_owned()];
        self.scan(&EDGES_BETWEEN, bound, |row| {
            let (from, to) = (NodeId::from_bytes(row.id()?), NodeId::from_bytes(row.id()?));
            Ok(((from, to), row.real()?))
        })
        .await
    }

    /// The names of a group's newest nodes.
    pub async fn node_names_newest(
        &self,
        org: OrgId,
        group: &GroupId,
        limit: u32,
    ) -> Result<Vec<String>> {
        let bound = values![org, group.as_str().to_owned(), limit];
        self.scan(&NODE_NAMES_NEWEST, bound, value::text).await
    }

    /// What these nodes are read as: each that is another one, with that one.
    pub async fn node_merges_of(
        &self,
        org: OrgId,
        group: &GroupId,
        nodes: &[NodeId],
    ) -> Result<Vec<NodeMerge>> {
        let name = group.as_str();
        let lists = nodes.iter().map(|node| values![org, name.to_owned(), *node]).collect();
        Ok(self.scan_each(&MERGE_OF, lists, merge).await?.into_iter().flatten().collect())
    }

    /// The nodes that are read as one of these, at most `limit` for each.
    pub async fn node_merges_into(
        &self,
        org: OrgId,
        group: &GroupId,
        nodes: &[NodeId],
        limit: u32,
    ) -> Result<Vec<NodeMerge>> {
        let name = group.as_str();
        let lists = nodes.iter().map(|node| values![org, name.to_owned(), *node, limit]).collect();
        Ok(self.scan_each(&MERGES_INTO, lists, merge).await?.into_iter().flatten().collect())
    }
}

fn merge(row: &mut Columns<'_>) -> Result<NodeMerge> {
    Ok(NodeMerge {
        merged: NodeId::from_bytes(row.id()?),
        into: NodeId::from_bytes(row.id()?),
        cause: row.text()?,
        created_at: row.time()?,
    })
}

fn old_episode(row: &mut Columns<'_>) -> Result<OldEpisode> {
    Ok(OldEpisode {
        group: GroupId::new(row.text()?),
        id: EpisodeId::from_bytes(row.id()?),
        pending: row.text()? == EpisodeState::Pending.as_str(),
    })
}

/// An episode as its row has it, without the group, which every statement knows.
struct EpisodeRow(Episode);

impl EpisodeRow {
    fn of(self, group: &GroupId) -> Episode {
        Episode { group_id: group.clone(), ..self.0 }
    }
}

fn episode(row: &mut Columns<'_>) -> Result<EpisodeRow> {
    Ok(EpisodeRow(Episode {
        id: EpisodeId::from_bytes(row.id()?),
        group_id: GroupId::default(),
        kind: EpisodeKind::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("an episode's kind"))?,
        role: row.text()?,
        speaker: row.opt_text()?,
        source: row.text()?,
        content: row.text()?,
        session_id: row.opt_text()?,
        user_id: row.opt_text()?,
        message: row.opt_id()?.map(MessageId::from_bytes),
        occurred_at: row.time()?,
        ingested_at: row.time()?,
        state: EpisodeState::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("an episode's state"))?,
        extractor: row.opt_text()?,
        attempts: row.int()?,
        error: row.opt_text()?,
        metadata: JsonText::known(row.text()?),
    }))
}
