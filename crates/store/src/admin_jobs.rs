//! Jobs that people look at. Their work is in `jobs`; what is here outlives it,
//! and changes only in writes that the job's fence guards.

use agentry_domain::jobs::{AdminJob, JobKind, JobState};
use agentry_domain::{Error, JobId, OrgId, Page, PageRequest, Timestamp, UserId};
use serde::de::DeserializeOwned;

use crate::counters::ADMIN_JOBS;
use crate::lists::{cursor, list_page};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    ADMIN_JOB_INSERT = "insert into admin_job (org, id, kind, state, holder, rest, result, \
        created_at) values ($1, $2, $3, $4, $5, $6, $7, $8)";
    ADMIN_JOB_SAVE = "update admin_job set state = $1, rest = $2, result = $3, error = $4, \
        started_at = $5, finished_at = $6 where org = $7 and id = $8";
    ADMIN_JOB_GET = "select id, kind, state, holder, rest, result, error, created_at, started_at, \
        finished_at from admin_job where org = $1 and id = $2";
    ADMIN_JOB_LIST_ASC = "select id, kind, state, holder, rest, result, error, created_at, \
        started_at, finished_at from admin_job where org = $1 and id > $2 \
        order by id limit $3 offset $4";
    ADMIN_JOB_LIST_DESC = "select id, kind, state, holder, rest, result, error, created_at, \
        started_at, finished_at from admin_job where org = $1 and id < $2 \
        order by id desc limit $3 offset $4";
    EXPIRE_ADMIN_JOBS = "select id from admin_job where org = $1 and id > $2 and id < $3 \
        and finished_at < $4 order by id limit $5";
    ADMIN_JOB_DELETE = "delete from admin_job where org = $1 and id = $2 \
        and finished_at is not null";
}

fn text(value: &impl serde::Serialize) -> Value {
    // Numbers, texts and ids: nothing in it can fail to be written.
    Value::from(serde_json::to_string(value).ok())
}

impl Write {
    /// Stores a job that people look at.
    pub fn admin_job_insert(&mut self, job: &AdminJob) {
        self.add(
            &ADMIN_JOB_INSERT,
            values![
                self.org,
                job.id,
                job.kind.as_str(),
                job.state.as_str(),
                job.user,
                job.rest.as_ref().map_or(Value::Null, text),
                text(&job.result),
                job.created_at,
            ],
        );
        self.count(ADMIN_JOBS, &[], 1);
    }

    /// Stores how far a job is.
    pub fn admin_job_save(&mut self, job: &AdminJob) {
        let id = job.id;
        self.add(
            &ADMIN_JOB_SAVE,
            values![
                job.state.as_str(),
                job.rest.as_ref().map_or(Value::Null, text),
                text(&job.result),
                job.error.as_ref(),
                job.started_at,
                job.finished_at,
                self.org,
                id,
            ],
        )
        .expect_one(Probe::always(move || Error::not_found("job", id)));
    }

    /// Forgets a job that has ended.
    pub fn admin_job_delete(&mut self, id: JobId) {
        self.add(&ADMIN_JOB_DELETE, values![self.org, id])
            .expect_one(Probe::always(move || Error::not_found("job", id)));
        self.count(ADMIN_JOBS, &[], -1);
    }
}

impl Store {
    /// Jobs between these ids that ended before this time, oldest first.
    pub async fn admin_job_old(
        &self,
        org: OrgId,
        (after, before): ([u8; 16], [u8; 16]),
        ended_before: Timestamp,
        limit: u32,
    ) -> Result<Vec<JobId>> {
        let id = |row: &mut Columns<'_>| Ok(JobId::from_bytes(row.id()?));
        let bound = values![org, after, before, ended_before, limit];
        self.scan(&EXPIRE_ADMIN_JOBS, bound, id).await
    }

    /// The job with this id.
    pub async fn admin_job_get(&self, org: OrgId, id: JobId) -> Result<Option<AdminJob>> {
        self.point(&ADMIN_JOB_GET, values![org, id], job).await
    }

    /// A page of jobs.
    pub async fn admin_job_list(&self, org: OrgId, page: &PageRequest) -> Result<Page<AdminJob>> {
        let (after, limit, offset) = cursor(page);
        let sql = list_page(page, &ADMIN_JOB_LIST_ASC, &ADMIN_JOB_LIST_DESC);
        let rows = self.list(page, sql, values![org, after, limit, offset], job).await?;
        let total = self.counter(org, ADMIN_JOBS, &[]).await?;
        Ok(Page::from_rows(rows, page, total, |job| job.id.to_bytes()))
    }
}

fn job(row: &mut Columns<'_>) -> Result<AdminJob> {
    Ok(AdminJob {
        id: JobId::from_bytes(row.id()?),
        kind: JobKind::parse(&row.text()?).ok_or_else(|| StoreError::unreadable("a job's kind"))?,
        state: JobState::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("a job's state"))?,
        user: row.opt_id()?.map(UserId::from_bytes),
        rest: row.opt_text()?.map(|text| parsed(&text)).transpose()?,
        result: parsed(&row.text()?)?,
        error: row.opt_text()?,
        created_at: row.time()?,
        started_at: row.opt_time()?,
        finished_at: row.opt_time()?,
    })
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| StoreError::unreadable("how far a job is"))
}
