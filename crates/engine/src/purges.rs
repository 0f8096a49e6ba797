//! Purges: deleting all that was a user's, as a job in a lane of its own.
//!
//! The write that deletes the user adds the job. From then on the job deletes in
//! small bulk writes, each of which also stores what was deleted and what is left
//! to do, guarded by the job's fence: a process that is killed takes nothing with
//! it, and another one goes on. A session goes as a whole: at once when it is
//! small; otherwise its row goes first, so that nobody sees it or adds to it, and
//! then what was in it. One in which a run is under way is left for a later round.
//! With each thing goes what is remembered of the request that made it, which
//! holds the answer.

use std::time::Duration;

use agentry_domain::jobs::{AdminJob, JobKind, JobState, PurgeRest, Purged};
use agentry_domain::log::EntityKind;
use agentry_domain::memories::MemoryBody;
use agentry_domain::sessions::SessionBody;
use agentry_domain::users::UserBody;
use agentry_domain::{
    Caller, Code, Error, JobId, MessageId, Order, OrgId, Page, PageRequest, Result, RunId,
    SessionId, Timestamp, UserId,
};
use agentry_store::{
    ClaimedJob, Flow, MemoryFilter, NewJob, OldRun, OldSession, SessionFilter, Write,
};

use crate::guarded::until_unchanged;
use crate::progress::{PROGRESS_EVERY, Told, of_purge};
use crate::users::delete_user;
use crate::{Engine, entry, version_data};

/// Sessions or runs that are looked up in one go.
const LOOKED_UP_MAX: u32 = 100;
/// Messages, and runs, that one write deletes.
pub(crate) const DELETED_AT_ONCE_MAX: usize = 200;
/// Runs elsewhere that one write deletes, with two messages each.
const RUNS_AT_ONCE_MAX: usize = 50;
/// How long until a purge looks again for what was under way, or tries again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A purge that this process has claimed.
struct Purge {
    job: ClaimedJob,
    record: AdminJob,
    rest: PurgeRest,
    /// When it was last told in this round how far it is.
    told_at: Option<Timestamp>,
}

impl Engine {
    /// Deletes a user, and what was the user's in the background.
    pub async fn user_purge(
        &self,
        caller: &Caller,
        id: UserId,
        if_match: Option<i64>,
    ) -> Result<AdminJob> {
        let job = until_unchanged(if_match, || async {
            let was = self.resource_get::<UserBody>(caller, id).await?.entity()?;
            let now = self.now();
            let user_ids = was.aliases(id).into_iter().map(|alias| alias.text).collect();
            let job = purge_of(JobId::from_uuid(self.uuid(now)), now, |record| {
                record.user = Some(id);
                record.rest = Some(PurgeRest { user_ids, ..PurgeRest::default() });
                record.result.users = 1;
            });
            let mut write = Write::new(caller.org);
            delete_user(&mut write, &was, if_match);
            let (kind, data) = (EntityKind::User, version_data(was.version));
            write.log(entry(caller, now, kind.deleted(), kind, id.to_bytes(), data));
            let (kind, data) = (EntityKind::Job, r#"{"kind":"purge"}"#.to_owned());
            write.log(entry(caller, now, kind.created(), kind, job.id.to_bytes(), data));
            write.idempotency_forget(id.to_bytes());
            purge_insert(&mut write, &job);
            self.0.store.write(write).await?;
            Ok(job)
        })
        .await?;
        self.0.claimable.notify_one();
        Ok(job)
    }

    /// The job with this id.
    pub async fn admin_job_get(&self, caller: &Caller, id: JobId) -> Result<AdminJob> {
        let found = self.0.store.admin_job_get(caller.org, id).await?;
        found.ok_or_else(|| Error::not_found("job", id))
    }

    /// A page of jobs.
    pub async fn admin_job_list(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<Page<AdminJob>> {
        Ok(self.0.store.admin_job_list(caller.org, &page).await?)
    }

    /// Deletes a session that is no longer wanted: at once when it is small,
    /// otherwise with a purge for what is in it.
    pub(crate) async fn session_expire(&self, org: OrgId, session: &OldSession) -> Result<()> {
        let contents = self.session_contents(org, session.id).await?;
        let found = self.0.store.resource_get::<SessionBody>(org, session.id).await?;
        let user_id = found.map(|it| it.entity()).transpose()?.and_then(|it| it.body.user_id);
        let now = self.now();
        let mut write = Write::new(org).bulk();
        if contents.is_small() {
            write.session_purge(session, contents.messages.last().copied());
        } else {
            write.session_end(session.id, session.version);
            purge_insert(
                &mut write,
                &purge_of(JobId::from_uuid(self.uuid(now)), now, |record| {
                    let emptying = Some(session.id);
                    record.rest = Some(PurgeRest { emptying, ..PurgeRest::default() });
                    record.result.sessions = 1;
                }),
            );
        }
        self.log_session_deleted(&mut write, session);
        self.0.store.write(write).await?;
        self.0.claimable.notify_one();
        self.session_episodes_forget(org, session.id, user_id.as_deref()).await
    }

    /// Carries out a purge that was claimed, as far as that goes now.
    pub(crate) async fn purge_claimed(&self, job: ClaimedJob) {
        let _held = self.0.held.hold(job.id);
        let error = match self.purge(job).await {
            Ok(true) => return,
            Ok(false) => None,
            Err(error) if error.code == Code::ShuttingDown => None,
            Err(error) => {
                tracing::warn!(job = %job.id, error = %error.chain(), "a purge did not get on");
                Some(error.detail.into_owned())
            }
        };
        // When this fails the claim is found in nobody's hands, and given up then.
        if let Err(error) = self.purge_defer(job, error).await {
            tracing::warn!(job = %job.id, error = %error.chain(), "a claim could not be given up");
        }
    }

    /// Gives a purge up for a while, with the reason.
    async fn purge_defer(&self, job: ClaimedJob, error: Option<String>) -> Result<()> {
        let record = self.0.store.admin_job_get(job.org, job.id).await?;
        let mut record = record.ok_or_else(|| Error::internal("a purge without its record"))?;
        record.error = error;
        let mut write = Write::new(job.org);
        write.job_defer(&job, self.now().plus(AGAIN_AFTER));
        write.admin_job_save(&record);
        self.0.store.write(write).await?;
        Ok(())
    }

    /// One round; whether nothing is left.
    async fn purge(&self, job: ClaimedJob) -> Result<bool> {
        let record = self.0.store.admin_job_get(job.org, job.id).await?;
        let record = record.ok_or_else(|| Error::internal("a purge without its record"))?;
        let rest = record.rest.clone().unwrap_or_default();
        let mut purge = Purge { job, record, rest, told_at: None };
        if purge.rest.total.is_none() {
            purge.rest.total = Some(self.purge_total(&purge).await?);
        }
        if let Some(session) = purge.rest.emptying {
            self.purge_contents(&mut purge, session).await?;
        }
        let mut is_done = true;
        for user_id in purge.rest.user_ids.clone() {
            is_done &= self.purge_sessions(&mut purge, &user_id).await?;
            is_done &= self.purge_runs(&mut purge, &user_id).await?;
            is_done &= self.purge_memories(&mut purge, &user_id).await?;
            let (org, before) = (purge.job.org, purge.job.id.to_bytes());
            let episodes = self.user_episodes_forget(org, &user_id, before).await?;
            if episodes > 0 {
                let (write, emptying) = (purge.begin(), purge.rest.emptying);
                let went = Purged { episodes, ..Purged::default() };
                self.purge_write(&mut purge, write, went, emptying).await?;
            }
        }
        if is_done {
            self.purge_end(purge).await?;
        }
        Ok(is_done)
    }

    /// Deletes a user's sessions; whether none is left.
    async fn purge_sessions(&self, purge: &mut Purge, user_id: &str) -> Result<bool> {
        let (org, before) = (purge.job.org, purge.job.id.to_bytes());
        let (mut after, mut is_done) = ([0; 16], true);
        loop {
            let store = &self.0.store;
            let batch =
                store.session_of_user_old(org, user_id, (after, before), LOOKED_UP_MAX).await?;
            let Some(last) = batch.last() else { return Ok(is_done) };
            after = last.id.to_bytes();
            for session in &batch {
                match self.purge_session(purge, session).await {
                    Ok(()) => {}
                    // It is being used: a run is under way, a message came, it changed.
                    Err(error)
                        if [Code::Conflict, Code::PreconditionFailed].contains(&error.code) =>
                    {
                        is_done = false;
                    }
                    // Somebody else deleted it.
                    Err(error) if error.code == Code::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn purge_session(&self, purge: &mut Purge, session: &OldSession) -> Result<()> {
        let org = purge.job.org;
        let contents = self.session_contents(org, session.id).await?;
        let files = self.0.store.file_count(org, session.id).await?;
        let mut write = purge.begin();
        self.log_session_deleted(&mut write, session);
        write.idempotency_forget(session.id.to_bytes());
        if contents.is_small() {
            forget_requests(&mut write, &contents.messages, &contents.runs);
            let documents = self.0.store.text_of_session(org, session.id).await?;
            write.session_purge(session, contents.messages.last().copied());
            let went = Purged {
                sessions: 1,
                messages: contents.messages.len() as u64,
                runs: contents.runs.len() as u64,
                files,
                documents,
                ..Purged::default()
            };
            return self.purge_write(purge, write, went, None).await;
        }
        write.session_end(session.id, session.version);
        write.file_delete_session(session.id);
        let went = Purged { sessions: 1, files, ..Purged::default() };
        self.purge_write(purge, write, went, Some(session.id)).await?;
        self.purge_contents(purge, session.id).await
    }

    /// Deletes what was in a session that is gone.
    async fn purge_contents(&self, purge: &mut Purge, session: SessionId) -> Result<()> {
        let org = purge.job.org;
        loop {
            let mut contents = self.session_contents(org, session).await?;
            let is_last = contents.is_small();
            contents.messages.truncate(DELETED_AT_ONCE_MAX);
            contents.runs.truncate(DELETED_AT_ONCE_MAX);
            let documents = self.0.store.text_of_messages(org, &contents.messages).await?;
            let mut write = purge.begin();
            write.session_messages_purge(session, &contents.messages);
            write.runs_purge(contents.runs.iter().copied());
            forget_requests(&mut write, &contents.messages, &contents.runs);
            if is_last {
                write.session_counter_forget(session);
            }
            let went = Purged {
                messages: contents.messages.len() as u64,
                runs: contents.runs.len() as u64,
                documents,
                ..Purged::default()
            };
            let emptying = (!is_last).then_some(session);
            self.purge_write(purge, write, went, emptying).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Deletes a user's runs in sessions of nobody, with what was said in them;
    /// whether none is left.
    async fn purge_runs(&self, purge: &mut Purge, user_id: &str) -> Result<bool> {
        let (org, before) = (purge.job.org, purge.job.id.to_bytes());
        let (mut after, mut is_done) = ([0; 16], true);
        loop {
            let store = &self.0.store;
            let batch = store.run_of_user_old(org, user_id, (after, before), LOOKED_UP_MAX).await?;
            let Some(last) = batch.last() else { return Ok(is_done) };
            after = last.id.to_bytes();
            let ended: Vec<OldRun> =
                batch.iter().filter(|run| run.finished_at.is_some()).copied().collect();
            is_done &= ended.len() == batch.len();
            for runs in ended.chunks(RUNS_AT_ONCE_MAX) {
                match self.purge_runs_some(purge, runs).await {
                    Ok(()) => {}
                    // A session was deleted in between, or another process has the job.
                    Err(error) if error.code == Code::Conflict => is_done = false,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn purge_runs_some(&self, purge: &mut Purge, runs: &[OldRun]) -> Result<()> {
        let org = purge.job.org;
        let mut write = purge.begin();
        let mut went = Purged { runs: runs.len() as u64, ..Purged::default() };
        write.runs_purge(runs.iter().map(|run| run.id));
        for run in runs {
            let messages: Vec<MessageId> = self.0.store.run_messages(org, run).await?;
            went.messages += messages.len() as u64;
            went.documents += self.0.store.text_of_messages(org, &messages).await?;
            write.session_messages_purge(run.session, &messages);
            forget_requests(&mut write, &messages, &[run.id]);
        }
        let emptying = purge.rest.emptying;
        self.purge_write(purge, write, went, emptying).await
    }

    /// Deletes a user's memories, private and shared; whether none is left.
    async fn purge_memories(&self, purge: &mut Purge, user_id: &str) -> Result<bool> {
        let (org, before) = (purge.job.org, purge.job.id.to_bytes());
        let filter = MemoryFilter { user_id: Some(user_id.to_owned()), ..MemoryFilter::default() };
        let order = Order::Ascending;
        let mut page = PageRequest { limit: LOOKED_UP_MAX, after: None, offset: 0, order };
        let mut is_done = true;
        loop {
            let mut found =
                self.0.store.resource_list::<MemoryBody>(org, &filter, &page).await?.items;
            found.retain(|memory| memory.id.to_bytes() < before);
            let Some(last) = found.last() else { return Ok(is_done) };
            page.after = Some(last.id.to_bytes());
            let mut write = purge.begin();
            for memory in &found {
                write.memory_delete(memory.id, memory.version);
                write.idempotency_forget(memory.id.to_bytes());
            }
            let went = Purged { memories: found.len() as u64, ..Purged::default() };
            let emptying = purge.rest.emptying;
            match self.purge_write(purge, write, went, emptying).await {
                Ok(()) => {}
                // One of them was changed or deleted meanwhile.
                Err(error)
                    if matches!(
                        error.code,
                        Code::Conflict | Code::PreconditionFailed | Code::NotFound
                    ) =>
                {
                    is_done = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Applies a write that deletes this much, and stores with it that it did.
    async fn purge_write(
        &self,
        purge: &mut Purge,
        mut write: Write,
        went: Purged,
        emptying: Option<SessionId>,
    ) -> Result<()> {
        if self.0.tasks.stopping().is_cancelled() {
            return Err(Error::new(Code::ShuttingDown, "the server is shutting down"));
        }
        let mut record = purge.record.clone();
        let rest = PurgeRest { emptying, ..purge.rest.clone() };
        record.state = JobState::Running;
        record.started_at = record.started_at.or(Some(self.now()));
        record.rest = Some(rest.clone());
        record.error = None;
        let result = &mut record.result;
        result.sessions += went.sessions;
        result.messages += went.messages;
        result.runs += went.runs;
        result.memories += went.memories;
        result.files += went.files;
        result.documents += went.documents;
        result.episodes += went.episodes;
        write.admin_job_save(&record);
        let now = self.now();
        let tells = purge.told_at.is_none_or(|at| now.since(at) >= PROGRESS_EVERY);
        if tells {
            write.log(of_purge(&record, rest.total).entry(Told::Progress, now));
        }
        self.0.store.write(write).await?;
        (purge.record, purge.rest) = (record, rest);
        if tells {
            purge.told_at = Some(now);
        }
        Ok(())
    }

    /// How much there is to delete; of a user with very much, at least so much.
    async fn purge_total(&self, purge: &Purge) -> Result<u64> {
        let (org, store) = (purge.job.org, &self.0.store);
        let page = PageRequest { limit: 1, ..PageRequest::default() };
        if let Some(session) = purge.rest.emptying {
            return Ok(store.message_list(org, session, &page).await?.total);
        }
        let mut total = 0;
        for user_id in &purge.rest.user_ids {
            let user_id = Some(user_id.clone());
            let sessions = SessionFilter { user_id: user_id.clone(), ..SessionFilter::default() };
            total += store.resource_list::<SessionBody>(org, &sessions, &page).await?.total;
            let memories = MemoryFilter { user_id, ..MemoryFilter::default() };
            total += store.resource_list::<MemoryBody>(org, &memories, &page).await?.total;
        }
        Ok(total)
    }

    async fn purge_end(&self, purge: Purge) -> Result<()> {
        let Purge { job, mut record, rest, .. } = purge;
        let now = self.now();
        record.state = JobState::Succeeded;
        // What the user was called is not kept either.
        record.rest = None;
        record.error = None;
        record.started_at = record.started_at.or(Some(now));
        record.finished_at = Some(now);
        let mut write = Write::new(job.org);
        write.job_end(&job);
        write.admin_job_save(&record);
        write.log(of_purge(&record, rest.total).entry(Told::Finished, now));
        self.0.store.write(write).await?;
        Ok(())
    }

    async fn session_contents(&self, org: OrgId, session: SessionId) -> Result<Contents> {
        let limit = u32::try_from(DELETED_AT_ONCE_MAX + 1).unwrap_or(u32::MAX);
        let found = self.0.store.session_contents(org, session, limit).await?;
        Ok(Contents { messages: found.messages, runs: found.runs })
    }

    /// The server's own doing: the entry names no key.
    fn log_session_deleted(&self, write: &mut Write, session: &OldSession) {
        let caller = Caller { org: write.org(), ..self.anyone() };
        let (kind, data) = (EntityKind::Session, version_data(session.version));
        let id = session.id.to_bytes();
        write.log(entry(&caller, self.now(), kind.deleted(), kind, id, data));
    }
}

/// The first messages and runs of a session.
struct Contents {
    messages: Vec<MessageId>,
    runs: Vec<RunId>,
}

impl Contents {
    /// Whether one write can delete all of it.
    fn is_small(&self) -> bool {
        self.messages.len() <= DELETED_AT_ONCE_MAX && self.runs.len() <= DELETED_AT_ONCE_MAX
    }
}

impl Purge {
    /// A write of this job's.
    fn begin(&self) -> Write {
        let mut write = Write::new(self.job.org).bulk();
        write.job_held(&self.job);
        write
    }
}

fn purge_of(
    id: JobId,
    now: agentry_domain::Timestamp,
    fill: impl FnOnce(&mut AdminJob),
) -> AdminJob {
    let mut record = AdminJob {
        id,
        kind: JobKind::Purge,
        state: JobState::Queued,
        user: None,
        rest: None,
        result: Purged::default(),
        error: None,
        created_at: now,
        started_at: None,
        finished_at: None,
    };
    fill(&mut record);
    record
}

/// What was answered to the requests that made these holds what they said.
fn forget_requests(write: &mut Write, messages: &[MessageId], runs: &[RunId]) {
    for message in messages {
        write.idempotency_forget(message.to_bytes());
    }
    for run in runs {
        write.idempotency_forget(run.to_bytes());
    }
}

fn purge_insert(write: &mut Write, record: &AdminJob) {
    write.admin_job_insert(record);
    write.job_add(&NewJob {
        id: record.id,
        lane: record.id.to_bytes(),
        kind: record.kind,
        flow: Flow::SERVER,
        at: record.created_at,
    });
}
