//! Deleting in batches: what a purge and retention look for, and the writes that
//! delete it. Each says how much it deletes before it does, under guards that
//! make it so, so that the counts are exact.

use agentry_domain::runs::Run;
use agentry_domain::{Code, Error, MessageId, OrgId, RunId, SessionId, Timestamp};

use crate::counters::{COUNTER_FORGET, MESSAGES, RUNS};
use crate::sql::statements;
use crate::value::{self, Columns, values};
use crate::write::{Probe, Write};
use crate::{Result, Store};

statements! {
    PURGE_SESSIONS = sqlite "select id, version, updated_at from session \
        indexed by session_by_user_id where org = $1 and user_id = $2 and id > $3 and id < $4 \
        order by id limit $5"
        postgres "select id, version, updated_at from session where org = $1 and user_id = $2 \
        and id > $3 and id < $4 order by id limit $5";
    EXPIRE_SESSIONS = "select id, version, updated_at from session where org = $1 and id > $2 \
        and id < $3 order by id limit $4";
    EXPIRE_RUNS = "select id, session, message, finished_at from run where org = $1 and id > $2 and id < $3 and finished_at < $4 \
        order by id limit $5";
    PURGE_RUNS = sqlite "select id, session, message, finished_at from run \
        indexed by run_by_user_id where org = $1 and user_id = $2 and id > $3 and id < $4 \
        order by id limit $5"
        postgres "select id, session, message, finished_at from run where org = $1 \
        and user_id = $2 and id > $3 and id < $4 order by id limit $5";
    MESSAGE_IDS = "select id from message where org = $1 and session = $2 order by id limit $3";
    MESSAGE_IDS_RUN = "select id from message where org = $1 and session = $2 and id >= $3 \
        and run = $4 order by id limit 2400";
    RUN_IDS = sqlite "select id from run indexed by run_by_session where org = $1 \
        and session = $2 order by id limit $3"
        postgres "select id from run where org = $1 and session = $2 order by id limit $3";
    TEXT_OF_SESSION_COUNT = "select count(*) from text_doc where org = $1 and session = $2";
    TEXT_HAS = "select length from text_doc where org = $1 and id = $2";
    MESSAGE_RUN_FORGET = "update message set run = null where org = $1 and session = $2 \
        and id = $3";
    MESSAGE_DELETE_ONE = "delete from message where org = $1 and session = $2 and id = $3";
    RUN_DELETE_ONE = "delete from run where org = $1 and id = $2 and finished_at is not null";
}

/// A session that may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldSession {
    /// Its id.
    pub id: SessionId,
    /// Its version.
    pub version: i64,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What is in a session, up to a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Its first messages.
    pub messages: Vec<MessageId>,
    /// Its first runs.
    pub runs: Vec<RunId>,
}

/// A run of a user, wherever it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldRun {
    /// Its id.
    pub id: RunId,
    /// Its session.
    pub session: SessionId,
    /// Its input; none when it never began.
    pub message: Option<MessageId>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl From<&Run> for OldRun {
    fn from(run: &Run) -> Self {
        Self {
            id: run.id,
            session: run.session,
            message: run.message,
            finished_at: run.finished_at,
        }
    }
}

impl Write {
    /// Deletes a session of this version with all that is in it, if no run is
    /// under way and this is its newest message.
    pub fn session_purge(&mut self, session: &OldSession, newest: Option<MessageId>) {
        self.session_lock(session.id);
        let newest = newest.unwrap_or(MessageId::from_bytes([0; 16]));
        self.message_is_newest(session.id, newest);
        self.session_delete(session.id, session.version);
    }

    /// Deletes these messages of a session that is gone, and what recall knows
    /// of them.
    pub fn session_messages_purge(&mut self, session: SessionId, messages: &[MessageId]) {
        for message in messages {
            self.text_forget(message.to_bytes());
            self.add(&MESSAGE_DELETE_ONE, values![self.org, session, *message])
                .expect_one(Probe::always(|| gone("message")));
        }
        let n = i64::try_from(messages.len()).unwrap_or(i64::MAX);
        self.count(MESSAGES, &session.to_bytes(), -n);
    }

    /// Forgets the counter of a session that is empty and gone.
    pub fn session_counter_forget(&mut self, session: SessionId) {
        self.add(&COUNTER_FORGET, values![self.org, MESSAGES, session.to_bytes().to_vec()]);
    }

    /// These messages of a session are no longer those of a run.
    pub fn messages_run_forget(&mut self, session: SessionId, messages: &[MessageId]) {
        for message in messages {
            self.add(&MESSAGE_RUN_FORGET, values![self.org, session, *message]);
        }
    }

    /// Deletes these runs, which must have ended.
    pub fn runs_purge(&mut self, runs: impl Iterator<Item = RunId>) {
        for run in runs {
            self.add(&RUN_DELETE_ONE, values![self.org, run])
                .expect_one(Probe::always(|| gone("run")));
            self.count(RUNS, &[], -1);
        }
    }
}

/// Another process deleted it meanwhile.
fn gone(kind: &str) -> Error {
    Error::new(Code::Conflict, format!("a {kind} that was to be deleted is gone"))
}

fn old_session(row: &mut Columns<'_>) -> Result<OldSession> {
    Ok(OldSession {
        id: SessionId::from_bytes(row.id()?),
        version: row.int()?,
        updated_at: row.time()?,
    })
}

fn old_run(row: &mut Columns<'_>) -> Result<OldRun> {
    Ok(OldRun {
        id: RunId::from_bytes(row.id()?),
        session: SessionId::from_bytes(row.id()?),
        message: row.opt_id()?.map(MessageId::from_bytes),
        finished_at: row.opt_time()?,
    })
}

fn run_id(row: &mut Columns<'_>) -> Result<RunId> {
    Ok(RunId::from_bytes(row.id()?))
}

fn message_id(row: &mut Columns<'_>) -> Result<MessageId> {
    Ok(MessageId::from_bytes(row.id()?))
}

impl Store {
    /// Sessions of a user with ids between these two, oldest first.
    pub async fn session_of_user_old(
        &self,
        org: OrgId,
        user_id: &str,
        (after, before): ([u8; 16], [u8; 16]),
        limit: u32,
    ) -> Result<Vec<OldSession>> {
        let bound = values![org, user_id.to_owned(), after, before, limit];
        self.scan(&PURGE_SESSIONS, bound, old_session).await
    }

    /// Sessions with ids between these two, oldest first.
    pub async fn session_old(
        &self,
        org: OrgId,
        (after, before): ([u8; 16], [u8; 16]),
        limit: u32,
    ) -> Result<Vec<OldSession>> {
        self.scan(&EXPIRE_SESSIONS, values![org, after, before, limit], old_session).await
    }

    /// Runs of a user with ids between these two, oldest first.
    pub async fn run_of_user_old(
        &self,
        org: OrgId,
        user_id: &str,
        (after, before): ([u8; 16], [u8; 16]),
        limit: u32,
    ) -> Result<Vec<OldRun>> {
        let bound = values![org, user_id.to_owned(), after, before, limit];
        self.scan(&PURGE_RUNS, bound, old_run).await
    }

    /// Runs with ids between these two that ended before a time, oldest first.
    pub async fn run_old(
        &self,
        org: OrgId,
        (after, before): ([u8; 16], [u8; 16]),
        ended_before: Timestamp,
        limit: u32,
    ) -> Result<Vec<OldRun>> {
        let bound = values![org, after, before, ended_before, limit];
        self.scan(&EXPIRE_RUNS, bound, old_run).await
    }

    /// The first messages and runs of a session, at most `limit` of each.
    pub async fn session_contents(
        &self,
        org: OrgId,
        session: SessionId,
        limit: u32,
    ) -> Result<Contents> {
        let bound = || values![org, session, limit];
        Ok(Contents {
            messages: self.scan(&MESSAGE_IDS, bound(), message_id).await?,
            runs: self.scan(&RUN_IDS, bound(), run_id).await?,
        })
    }

    /// The messages of a run: its input and its reply.
    pub async fn run_messages(&self, org: OrgId, run: &OldRun) -> Result<Vec<MessageId>> {
        let Some(input) = run.message else { return Ok(Vec::new()) };
        let bound = values![org, run.session, input, run.id];
        self.scan(&MESSAGE_IDS_RUN, bound, message_id).await
    }

    /// How many messages of a session recall knows.
    pub async fn text_of_session(&self, org: OrgId, session: SessionId) -> Result<u64> {
        let counted = self.scan(&TEXT_OF_SESSION_COUNT, values![org, session], value::int).await?;
        Ok(counted.first().map_or(0, |n| n.unsigned_abs()))
    }

    /// How many of these messages recall knows.
    pub async fn text_of_messages(&self, org: OrgId, messages: &[MessageId]) -> Result<u64> {
        let lists = messages.iter().map(|message| values![org, *message]).collect();
        let found = self.scan_each(&TEXT_HAS, lists, value::int).await?;
        Ok(found.iter().filter(|rows| !rows.is_empty()).count() as u64)
    }
}
