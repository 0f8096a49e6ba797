//! Episodes that wait for a model, and what models said until it is stored.
//!
//! A group has, for each work that a model does for it, a row in `graph_asking` and a
//! job in a lane of its own while episodes wait. Every write that adds one or ends the
//! job changes that row first, so that the job ends only when nothing came meanwhile.
//! What was said goes to the group's own lane (`crate::episodes`), which alone changes
//! its graph.

use agentry_domain::episodes::ModelWork;
use agentry_domain::graph::GroupId;
use agentry_domain::jobs::JobKind;
use agentry_domain::{Code, EpisodeId, Error, OrgId, Timestamp, WorkerId};
use serde::Serialize;

use crate::graph::{hex, hex_list, rows_json};
use crate::jobs::{ClaimedJob, LANE_OPEN};
use crate::sql::statements;
use crate::value::{Columns, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    ASKS_INSERT = sqlite "insert into graph_ask (org, group_id, work, episode, tokens, at) \
        select $1, $2, $3, unhex(value ->> 'e'), value ->> 't', value ->> 'a' from json_each($4) \
        where true on conflict (org, group_id, work, episode) do nothing"
        postgres "insert into graph_ask (org, group_id, work, episode, tokens, at) \
        select $1::bytea, $2::text, $3::text, decode(r.e, 'hex'), r.t, r.a \
        from json_to_recordset($4::text::json) as r (e text, t bigint, a bigint) \
        on conflict (org, group_id, work, episode) do nothing";
    ASKS_OLDEST = "select episode, tokens, at from graph_ask where org = $1 and group_id = $2 \
        and work = $3 order by episode limit $4";
    ASKS_DELETE = sqlite "delete from graph_ask where org = $1 and group_id = $2 and work = $3 \
        and episode in (select unhex(value) from json_each($4))"
        postgres "delete from graph_ask where org = $1 and group_id = $2 and work = $3 \
        and episode in (select decode(value, 'hex') \
        from json_array_elements_text($4::text::json) as value)";
    scan ASKS_COUNT = "select work, count(*) from graph_ask group by work";
    ASKING_JOIN = "insert into graph_asking (org, lane, group_id, work, attempts) \
        values ($1, $2, $3, $4, 0) on conflict (org, lane) do update \
        set attempts = graph_asking.attempts";
    ASKING_TOUCH = "update graph_asking set attempts = $1 where org = $2 and lane = $3";
    ASKING_GET = "select group_id, work, attempts from graph_asking where org = $1 and lane = $2";
    ASKING_END = "delete from graph_asking where org = $1 and lane = $2 and not exists \
        (select 1 from graph_ask where graph_ask.org = graph_asking.org \
        and graph_ask.group_id = graph_asking.group_id and graph_ask.work = graph_asking.work)";
    ASKING_JOB_ADD = "insert into job (org, id, lane, position, kind, head, claimed, worker, \
        fence, attempts, next_at, created_at) values ($1, $2, $2, 1, $3, 1, 0, $4, 0, 0, $5, $6) \
        on conflict (org, id) do nothing";
    ANSWER_INSERT = "insert into graph_answer (org, group_id, id, body, created_at) \
        values ($1, $2, $3, $4, $5)";
    ANSWER_OLDEST = "select id, body from graph_answer where org = $1 and group_id = $2 \
        order by id limit 1";
    ANSWER_DELETE = "delete from graph_answer where org = $1 and group_id = $2 and id = $3";
    // They are there, and stay so until the write is done.
    EPISODES_PRESENT = sqlite "select 1 where (select count(*) from json_each($1) as j \
        cross join graph_episode as e on e.org = $2 and e.group_id = $3 \
        and e.id = unhex(j.value)) = $4"
        postgres "select 1 from (select count(*) as n from (select 1 from graph_episode \
        where org = $2 and group_id = $3 and id in (select decode(value, 'hex') \
        from json_array_elements_text($1::text::json) as value) order by id for key share) \
        as held) as counted where n = $4";
    EPISODES_DRAWN_TOO = sqlite "update graph_episode set extractor = $1 where org = $2 \
        and group_id = $3 and id in (select unhex(value) from json_each($4))"
        postgres "update graph_episode set extractor = $1 where org = $2 and group_id = $3 \
        and id in (select decode(value, 'hex') from json_array_elements_text($4::text::json) \
        as value)";
}

/// The lane of the job that asks a model about a group, which is also the job's id.
pub fn asking_lane(org: OrgId, group: &GroupId, work: ModelWork) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"graph model");
    hasher.update(&org.to_bytes());
    hasher.update(work.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(group.as_str().as_bytes());
    let mut lane = [0; 16];
    lane.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    lane
}

/// An episode that waits for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The episode.
    pub episode: EpisodeId,
    /// About how many tokens it has.
    pub tokens: u32,
    /// When it came.
    pub at: Timestamp,
}

/// What a job that asks a model is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The group.
    pub group: GroupId,
    /// What the model is to do.
    pub work: ModelWork,
    /// How often the oldest episodes were asked about in vain.
    pub attempts: i64,
}

/// What a model said, until it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Its id.
    pub id: [u8; 16],
    /// What the engine made of it.
    pub body: String,
}

#[derive(Serialize)]
struct AskRow {
    e: String,
    t: u32,
    a: i64,
}

impl Write {
    /// Lets episodes wait for a model, and makes sure that their group has a job that
    /// asks it, from `due` on unless it has one already.
    pub fn asks_insert(
        &mut self,
        group: &GroupId,
        work: ModelWork,
        asks: &[Ask],
        (now, due): (Timestamp, Timestamp),
    ) {
        if asks.is_empty() {
            return;
        }
        let lane = asking_lane(self.org, group, work);
        let name = group.as_str().to_owned();
        self.contend(lane);
        self.add(&ASKING_JOIN, values![self.org, lane, name.clone(), work.as_str()]);
        self.add(&LANE_OPEN, values![self.org, lane]);
        let nobody = WorkerId::from_bytes([0; 16]);
        let kind = JobKind::GraphModel.as_str();
        self.add(&ASKING_JOB_ADD, values![self.org, lane, kind, nobody, due, now]);
        let row = |ask: &Ask| AskRow {
            e: hex(ask.episode.to_bytes()),
            t: ask.tokens,
            a: ask.at.micros(),
        };
        let rows: Vec<AskRow> = asks.iter().map(row).collect();
        self.add(&ASKS_INSERT, values![self.org, name, work.as_str(), rows_json(&rows)]);
    }

    /// Guard and effect: these episodes wait no longer; the job is still this process's.
    pub fn asks_end(&mut self, job: &ClaimedJob, asking: &Asking, ids: &[EpisodeId]) {
        self.contend(job.lane);
        self.add(&ASKING_TOUCH, values![0_i64, self.org, job.lane]);
        self.job_held(job);
        let list = hex_list(ids.iter().map(|id| id.to_bytes()));
        let name = asking.group.as_str().to_owned();
        self.add(&ASKS_DELETE, values![self.org, name, asking.work.as_str(), list]);
    }

    /// Guard: these episodes are there, and stay so until the write is done.
    pub fn episodes_present(&mut self, group: &GroupId, ids: &[EpisodeId]) {
        let list = hex_list(ids.iter().map(|id| id.to_bytes()));
        let count = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let gone = || Error::new(Code::Conflict, "an episode that a model saw is gone");
        self.add(&EPISODES_PRESENT, values![list, self.org, group.as_str().to_owned(), count])
            .expect_one(Probe::always(gone));
    }

    /// The oldest episodes were asked about in vain so often; the job is given up until
    /// a later time.
    pub fn asking_defer(&mut self, job: &ClaimedJob, attempts: i64, until: Timestamp) {
        self.contend(job.lane);
        self.add(&ASKING_TOUCH, values![attempts, self.org, job.lane]);
        self.job_defer(job, until);
    }

    /// Ends a job that asks a model when no episode waits for it; otherwise `conflict`.
    pub fn asking_end(&mut self, job: &ClaimedJob) {
        self.contend(job.lane);
        // Whoever adds one changes this row first: what is looked for behind it is seen.
        self.add(&ASKING_TOUCH, values![0_i64, self.org, job.lane]);
        self.add(&ASKING_END, values![self.org, job.lane])
            .expect_one(Probe::always(|| Error::new(Code::Conflict, "an episode came meanwhile")));
        self.job_end(job);
    }

    /// Keeps what a model said of some episodes, until the group's own job stores it.
    pub fn answer_insert(&mut self, group: &GroupId, answer: &StoredAnswer, now: Timestamp) {
        self.graph_wake(group, now);
        let name = group.as_str().to_owned();
        self.add(&ANSWER_INSERT, values![self.org, name, answer.id, answer.body.clone(), now]);
    }

    /// Guard and effect: an answer is stored, once, and its episodes are there; the job
    /// of the group is still this process's.
    pub fn answer_done(
        &mut self,
        job: &ClaimedJob,
        group: &GroupId,
        answer: [u8; 16],
        episodes: &[EpisodeId],
        extractor: &str,
    ) {
        self.graph_touch(job.lane);
        self.job_held(job);
        let (org, name) = (self.org, group.as_str().to_owned());
        let gone = || Error::new(Code::Conflict, "what a model said is stored already");
        self.add(&ANSWER_DELETE, values![org, name.clone(), answer])
            .expect_one(Probe::always(gone));
        if episodes.is_empty() {
            return;
        }
        self.episodes_present(group, episodes);
        let list = hex_list(episodes.iter().map(|id| id.to_bytes()));
        self.add(&EPISODES_DRAWN_TOO, values![extractor.to_owned(), org, name, list]);
    }

    /// An episode waits for no model any more.
    pub(crate) fn asks_forget(&mut self, group: &GroupId, episode: EpisodeId) {
        let list = hex_list([episode.to_bytes()]);
        for work in ModelWork::ALL {
            let name = group.as_str().to_owned();
            self.add(&ASKS_DELETE, values![self.org, name, work.as_str(), list.clone()]);
        }
    }
}

impl Store {
    /// What the job of this lane asks a model about; none when no episode waits.
    pub async fn asking_get(&self, org: OrgId, lane: [u8; 16]) -> Result<Option<Asking>> {
        self.point(&ASKING_GET, values![org, lane], |row| {
            Ok(Asking {
                group: GroupId::new(row.text()?),
                work: ModelWork::parse(&row.text()?)
                    .ok_or_else(|| StoreError::unreadable("what a model is to do"))?,
                attempts: row.int()?,
            })
        })
        .await
    }

    /// The oldest episodes that wait for a model.
    pub async fn asks_oldest(&self, org: OrgId, asking: &Asking, limit: u32) -> Result<Vec<Ask>> {
        let name = asking.group.as_str().to_owned();
        let bound = values![org, name, asking.work.as_str(), limit];
        self.scan(&ASKS_OLDEST, bound, |row| {
            Ok(Ask {
                episode: EpisodeId::from_bytes(row.id()?),
                tokens: u32::try_from(row.int()?).unwrap_or(u32::MAX),
                at: row.time()?,
            })
        })
        .await
    }

    /// How many episodes wait for a model, for each work.
    pub async fn asks_count(&self) -> Result<Vec<(ModelWork, u64)>> {
        let count = |row: &mut Columns<'_>| Ok((row.text()?, row.int()?.unsigned_abs()));
        let rows = self.scan(&ASKS_COUNT, Vec::new(), count).await?;
        let work = |(text, n): (String, u64)| Some((ModelWork::parse(&text)?, n));
        Ok(rows.into_iter().filter_map(work).collect())
    }

    /// The oldest answer about a group that is to be stored.
    pub async fn answer_oldest(&self, org: OrgId, group: &GroupId) -> Result<Option<StoredAnswer>> {
        self.point(&ANSWER_OLDEST, values![org, group.as_str().to_owned()], |row| {
            Ok(StoredAnswer { id: row.id()?, body: row.text()? })
        })
        .await
    }
}
