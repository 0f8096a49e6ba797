//! Sessions in the store.

use std::sync::LazyLock;

use agentry_domain::sessions::{SessionBody, SessionStatus};
use agentry_domain::{Code, Document, Error, OrgId, SessionId};

use crate::counters::{COUNTER_FORGET, MESSAGES};
use crate::messages::{MESSAGE_COUNT_SESSION, MESSAGE_DELETE_SESSION};
use crate::resources::{Column, Statements, Table, changed, document, missing};
use crate::sql::statements;
use crate::value::{Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store};

// A session of nobody has the user '' in the store: a unique index treats
// nulls as different, and nobody's sessions have unique names too.
statements! {
    // The lock keeps the session from being deleted until the write is done; it
    // does not stand in the way of another such lock.
    SESSION_EXISTS = sqlite "select version from session where org = $1 and id = $2"
        postgres "select version from session where org = $1 and id = $2 for key share";
    SESSION_LOCK = sqlite "select version from session where org = $1 and id = $2"
        postgres "select version from session where org = $1 and id = $2 for update";
    SESSION_DELETE = "delete from session where org = $1 and id = $2 and version = $3 \
        and not exists (select 1 from lane where lane.org = $1 and lane.id = $2)";
    SESSION_VERSION = "select version from session where org = $1 and id = $2";
    SESSION_BY_NAME = sqlite "select id, version, created_at, updated_at, shape, document \
        from session indexed by session_by_name where org = $1 and name = $2 \
        order by user_id limit $3"
        postgres "select id, version, created_at, updated_at, shape, document from session \
        where org = $1 and name = $2 order by user_id limit $3";
    SESSION_OF_USER = sqlite "select id, version, created_at, updated_at, shape, document \
        from session indexed by session_by_name where org = $1 and name = $2 and user_id = $3"
        postgres "select id, version, created_at, updated_at, shape, document from session \
        where org = $1 and name = $2 and user_id = $3";
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
    missing::<SessionBody>(id)
}

impl Table for SessionBody {
    const TABLE: &'static str = "session";
    const COLUMNS: &'static [Column] =
        &[Column::plain("name"), Column::index("user_id"), Column::filter("status")];
    const COUNTER: &'static str = "sessions";
    type Filter = SessionFilter;

    fn columns(&self) -> Vec<Value> {
        values![self.name.as_ref(), self.user_id.clone().unwrap_or_default(), self.status.as_str(),]
    }

    fn asked(filter: &SessionFilter) -> Vec<Value> {
        values![filter.user_id.as_ref(), filter.status.map(SessionStatus::as_str)]
    }

    fn taken() -> Error {
        Error::new(Code::AlreadyExists, "this user already has a session of this name")
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<SessionBody>);
        &STATEMENTS
    }
}

impl Write {
    /// Stores a new session; its name must be free for its user.
    pub fn session_insert(&mut self, body: &SessionBody, document: &Document<SessionBody>) {
        if let Some(name) = &body.name {
            // Two new sessions of one name wait for each other.
            let mut hasher = blake3::Hasher::new();
            hasher.update(name.as_bytes());
            hasher.update(body.user_id.as_deref().unwrap_or_default().as_bytes());
            let mut row = [0; 16];
            row.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
            self.contend(row);
        }
        self.resource_insert(body, document);
    }

    /// Guard: the session is still there, and stays until the write is done.
    pub fn session_exists(&mut self, id: SessionId) {
        self.contend(id.to_bytes());
        self.add(&SESSION_EXISTS, values![self.org, id])
            .expect_one(Probe::always(move || session_missing(id)));
    }

    /// Deletes a session of this version with its messages, its runs, its files
    /// and what recall knows of them. Its runs must have ended.
    pub fn session_delete(&mut self, id: SessionId, version: i64) {
        self.session_end(id, version);
        self.text_forget_session(id);
        self.add(&MESSAGE_COUNT_SESSION, values![MESSAGES, self.org, id]);
        self.add(&MESSAGE_DELETE_SESSION, values![self.org, id]);
        self.run_delete_session(id);
        self.file_delete_session(id);
        self.add(&COUNTER_FORGET, values![self.org, MESSAGES, id.to_bytes().to_vec()]);
    }

    /// Nobody else changes the session or what is in it until the write is done.
    pub(crate) fn session_lock(&mut self, id: SessionId) {
        self.contend(id.to_bytes());
        self.add(&SESSION_LOCK, values![self.org, id])
            .expect_one(Probe::always(move || session_missing(id)));
    }

    /// Deletes a session of this version and leaves what is in it, which nobody
    /// can add to after that. Its runs must have ended.
    pub fn session_end(&mut self, id: SessionId, version: i64) {
        // The lock is a statement of its own so that the next one sees every
        // run that was accepted before it.
        self.session_lock(id);
        let guard =
            Probe::read(&SESSION_VERSION, values![self.org, id], move |found| match found {
                None => session_missing(id),
                Some(found) if found == version => {
                    Error::new(Code::Conflict, format!("session {id} has runs that have not ended"))
                }
                Some(found) => changed::<SessionBody>(id, found),
            });
        self.add(&SESSION_DELETE, values![self.org, id, version]).expect_one(guard);
        self.count(SessionBody::COUNTER, &[], -1);
    }
}

impl Store {
    /// Sessions of this name, whoever's, at most `limit`.
    pub async fn session_by_name(
        &self,
        org: OrgId,
        name: &str,
        limit: u32,
    ) -> Result<Vec<Document<SessionBody>>> {
        self.rows(&SESSION_BY_NAME, values![org, name.to_owned(), limit], document).await
    }

    /// This user's session of this name.
    pub async fn session_of_user(
        &self,
        org: OrgId,
        user_id: Option<&str>,
        name: &str,
    ) -> Result<Option<Document<SessionBody>>> {
        let user_id = user_id.unwrap_or_default().to_owned();
        self.point(&SESSION_OF_USER, values![org, name.to_owned(), user_id], document).await
    }
}
