//! Sessions in the store.

use agentry_domain::sessions::{Session, SessionStatus};
use agentry_domain::{Code, Error, OrgId, Page, PageRequest, SessionId};

use crate::counters::{COUNTER_FORGET, MESSAGES, SESSIONS};
use crate::lists::{cursor, list_page};
use crate::messages::{MESSAGE_COUNT_SESSION, MESSAGE_DELETE_SESSION};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

// A session of nobody has the user '' in the store: a unique index treats
// nulls as different, and nobody's sessions have unique names too.
statements! {
    SESSION_INSERT = "insert into session (org, id, name, user_id, origin, status, metadata, \
        version, created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    SESSION_UPDATE = "update session set name = $1, origin = $2, status = $3, metadata = $4, \
        version = version + 1, updated_at = $5 where org = $6 and id = $7 and version = $8";
    // The lock keeps the session from being deleted until the write is done; it
    // does not stand in the way of another such lock.
    SESSION_EXISTS = sqlite "select version from session where org = $1 and id = $2"
        postgres "select version from session where org = $1 and id = $2 for key share";
    SESSION_LOCK = sqlite "select version from session where org = $1 and id = $2"
        postgres "select version from session where org = $1 and id = $2 for update";
    SESSION_DELETE = "delete from session where org = $1 and id = $2 and version = $3 \
        and not exists (select 1 from lane where lane.org = $1 and lane.id = $2)";
    SESSION_VERSION = "select version from session where org = $1 and id = $2";
    SESSION_GET = "select id, name, user_id, origin, status, metadata, version, created_at, \
        updated_at from session where org = $1 and id = $2";
    SESSION_BY_NAME = "select id, name, user_id, origin, status, metadata, version, created_at, \
        updated_at from session where org = $1 and name = $2 order by user_id limit $3";
    SESSION_OF_USER = "select id, name, user_id, origin, status, metadata, version, created_at, \
        updated_at from session where org = $1 and name = $2 and user_id = $3";
    SESSION_LIST_DESC = "select id, name, user_id, origin, status, metadata, version, \
        created_at, updated_at from session where org = $1 and id < $2 \
        order by id desc limit $3 offset $4";
    SESSION_LIST_ASC = "select id, name, user_id, origin, status, metadata, version, \
        created_at, updated_at from session where org = $1 and id > $2 \
        order by id limit $3 offset $4";
    SESSION_FILTER_DESC = "select id, name, user_id, origin, status, metadata, version, \
        created_at, updated_at from session where org = $1 and id < $2 and status = $3 \
        order by id desc limit $4 offset $5";
    SESSION_FILTER_ASC = "select id, name, user_id, origin, status, metadata, version, \
        created_at, updated_at from session where org = $1 and id > $2 and status = $3 \
        order by id limit $4 offset $5";
    SESSION_FILTER_COUNT = "select count(*) from (select 1 from session where org = $1 \
        and status = $2 limit $3) as counted";
    SESSION_USER_DESC = "select id, name, user_id, origin, status, metadata, version, \
        created_at, updated_at from session where org = $1 and user_id = $2 and id < $3 \
        and (status = $4 or $4 is null) order by id desc limit $5 offset $6";
    SESSION_USER_ASC = "select id, name, user_id, origin, status, metadata, version, \
        created_at, updated_at from session where org = $1 and user_id = $2 and id > $3 \
        and (status = $4 or $4 is null) order by id limit $5 offset $6";
    SESSION_USER_COUNT = "select count(*) from (select 1 from session where org = $1 \
        and user_id = $2 and (status = $3 or $3 is null) limit $4) as counted";
}

/// Which sessions a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Of this user.
    pub user_id: Option<String>,
    /// In this status.
    pub status: Option<SessionStatus>,
}

/// The error for a session that is not there.
pub fn session_missing(id: SessionId) -> Error {
    Error::not_found("session", id)
}

fn version_guard(org: OrgId, id: SessionId) -> Probe {
    Probe::read(&SESSION_VERSION, values![org, id], move |version| match version {
        None => session_missing(id),
        Some(version) => Error::new(
            Code::PreconditionFailed,
            format!("session {id} has changed; its version is now {version}"),
        ),
    })
}

fn name_taken() -> Error {
    Error::new(Code::AlreadyExists, "this user already has a session of this name")
}

impl Write {
    /// Stores a new session; its name must be free for its user.
    pub fn session_insert(&mut self, session: &Session) {
        if let Some(name) = &session.name {
            // Two new sessions of one name wait for each other.
            let mut hasher = blake3::Hasher::new();
            hasher.update(name.as_bytes());
            hasher.update(session.user_id.as_deref().unwrap_or_default().as_bytes());
            let mut row = [0; 16];
            row.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
            self.contend(row);
        }
        self.add(
            &SESSION_INSERT,
            values![
                self.org,
                session.id,
                session.name.as_ref(),
                session.user_id.clone().unwrap_or_default(),
                session.origin.as_ref(),
                session.status.as_str(),
                &session.metadata,
                session.version,
                session.created_at,
                session.updated_at,
            ],
        )
        .taken_means(name_taken);
        self.count(SESSIONS, &[], 1);
    }

    /// Guard: the session is still there, and stays until the write is done.
    pub fn session_exists(&mut self, id: SessionId) {
        self.contend(id.to_bytes());
        self.add(&SESSION_EXISTS, values![self.org, id])
            .expect_one(Probe::always(move || session_missing(id)));
    }

    /// Stores a changed session, if its version is still the one it was read with.
    pub fn session_update(&mut self, session: &Session) {
        self.contend(session.id.to_bytes());
        let guard = version_guard(self.org, session.id);
        self.add(
            &SESSION_UPDATE,
            values![
                session.name.as_ref(),
                session.origin.as_ref(),
                session.status.as_str(),
                &session.metadata,
                session.updated_at,
                self.org,
                session.id,
                session.version,
            ],
        )
        .taken_means(name_taken)
        .expect_one(guard);
    }

    /// Deletes a session of this version with its messages, its runs and what
    /// recall knows of them. Its runs must have ended.
    pub fn session_delete(&mut self, id: SessionId, version: i64) {
        self.contend(id.to_bytes());
        // The lock is a statement of its own so that the next one sees every
        // run that was accepted before it.
        self.add(&SESSION_LOCK, values![self.org, id])
            .expect_one(Probe::always(move || session_missing(id)));
        let guard =
            Probe::read(&SESSION_VERSION, values![self.org, id], move |found| match found {
                None => session_missing(id),
                Some(found) if found == version => {
                    Error::new(Code::Conflict, format!("session {id} has runs that have not ended"))
                }
                Some(found) => Error::new(
                    Code::PreconditionFailed,
                    format!("session {id} has changed; its version is now {found}"),
                ),
            });
        self.add(&SESSION_DELETE, values![self.org, id, version]).expect_one(guard);
        self.text_forget_session(id);
        self.add(&MESSAGE_COUNT_SESSION, values![MESSAGES, self.org, id]);
        self.add(&MESSAGE_DELETE_SESSION, values![self.org, id]);
        self.run_delete_session(id);
        self.add(&COUNTER_FORGET, values![self.org, MESSAGES, id.to_bytes().to_vec()]);
        self.count(SESSIONS, &[], -1);
    }
}

impl Store {
    /// The session with this id.
    pub async fn session_get(&self, org: OrgId, id: SessionId) -> Result<Option<Session>> {
        self.point(&SESSION_GET, values![org, id], session).await
    }

    /// Sessions of this name, whoever's, at most `limit`.
    pub async fn session_by_name(
        &self,
        org: OrgId,
        name: &str,
        limit: u32,
    ) -> Result<Vec<Session>> {
        self.rows(&SESSION_BY_NAME, values![org, name.to_owned(), limit], session).await
    }

    /// This user's session of this name.
    pub async fn session_of_user(
        &self,
        org: OrgId,
        user_id: Option<&str>,
        name: &str,
    ) -> Result<Option<Session>> {
        let user_id = user_id.unwrap_or_default().to_owned();
        self.point(&SESSION_OF_USER, values![org, name.to_owned(), user_id], session).await
    }

    /// A page of sessions.
    pub async fn session_list(
        &self,
        org: OrgId,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<Session>> {
        let id = |session: &Session| session.id.to_bytes();
        let (after, limit, offset) = cursor(page);
        if *filter == SessionFilter::default() {
            let sql = list_page(page, &SESSION_LIST_ASC, &SESSION_LIST_DESC);
            let rows = self.list(page, sql, values![org, after, limit, offset], session).await?;
            let total = self.counter(org, SESSIONS, &[]).await?;
            return Ok(Page::from_rows(rows, page, total, id));
        }
        let status = filter.status.map_or(Value::Null, |status| Value::Static(status.as_str()));
        if let Some(user_id) = &filter.user_id {
            let sql = list_page(page, &SESSION_USER_ASC, &SESSION_USER_DESC);
            let bound = values![org, user_id, after, status.clone(), limit, offset];
            let rows = self.list(page, sql, bound, session).await?;
            let filter = values![user_id, status];
            return self.filtered_page(rows, page, &SESSION_USER_COUNT, org, filter, id).await;
        }
        let sql = list_page(page, &SESSION_FILTER_ASC, &SESSION_FILTER_DESC);
        let bound = values![org, after, status.clone(), limit, offset];
        let rows = self.scan(sql, bound, session).await?;
        self.filtered_page(rows, page, &SESSION_FILTER_COUNT, org, vec![status], id).await
    }
}

fn session(row: &mut Columns<'_>) -> Result<Session> {
    Ok(Session {
        id: SessionId::from_bytes(row.id()?),
        name: row.opt_text()?,
        user_id: Some(row.text()?).filter(|user| !user.is_empty()),
        origin: row.opt_text()?,
        status: SessionStatus::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("a session's status"))?,
        metadata: row.text()?,
        version: row.int()?,
        created_at: row.time()?,
        updated_at: row.time()?,
    })
}
