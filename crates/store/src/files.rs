//! Files of sessions in the store: a row for what is known of a file, and its
//! content in chunks under an id of its own. A content is put under a new id,
//! so that a file changes at once and readers never see half of two.
//!
//! A content that is still arriving is noted in `file_upload`; what was left
//! behind by a process that ended goes with the next upload of its session, or
//! when retention finds it.

use agentry_domain::files::{FILE_CHUNK_BYTES, File, FileLimits};
use agentry_domain::{Code, Error, FileId, OrgId, Page, PageRequest, SessionId, Timestamp};

use crate::counters::{COUNTER_FORGET, FILES};
use crate::lists::{cursor, list_page};
use crate::sessions::{SESSION_LOCK, session_missing};
use crate::sql::statements;
use crate::value::{Columns, values};
use crate::write::{Probe, Write};
use crate::{Result, Store};

statements! {
    FILE_GET = sqlite "select id, session, path, media_type, bytes, content, version, created_at, \
        updated_at from session_file indexed by session_file_by_path \
        where org = $1 and session = $2 and path = $3"
        postgres "select id, session, path, media_type, bytes, content, version, created_at, \
        updated_at from session_file where org = $1 and session = $2 and path = $3";
    FILE_LIST_ASC = "select id, session, path, media_type, bytes, content, version, created_at, \
        updated_at from session_file where org = $1 and session = $2 and id > $3 \
        order by id limit $4 offset $5";
    FILE_LIST_DESC = "select id, session, path, media_type, bytes, content, version, created_at, \
        updated_at from session_file where org = $1 and session = $2 and id < $3 \
        order by id desc limit $4 offset $5";
    FILE_FITS = sqlite "select 1 from (select coalesce(sum(bytes), 0) as used, \
        count(*) as files from session_file where org = $1 and session = $2 and path <> $3) \
        as counted where used + $4 <= $5 and files < $6"
        postgres "select 1 from (select coalesce(sum(bytes), 0)::bigint as used, \
        count(*) as files from session_file where org = $1 and session = $2 and path <> $3) \
        as counted where used + $4 <= $5 and files < $6";
    FILE_INSERT = "insert into session_file (org, session, id, path, media_type, bytes, content, \
        version, created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    FILE_UPDATE = "update session_file set media_type = $1, bytes = $2, content = $3, \
        version = $4, updated_at = $5 where org = $6 and session = $7 and id = $8 and version = $9";
    FILE_DELETE = "delete from session_file where org = $1 and session = $2 and id = $3 \
        and version = $4";
    FILE_COUNT_SESSION = sqlite "" postgres "insert into counter_change (org, kind, key, n) \
        select org, $1, session, -count(*) from session_file where org = $2 and session = $3 \
        group by org, session";
    FILE_DELETE_SESSION = "delete from session_file where org = $1 and session = $2";
    FILE_CHUNK_INSERT = "insert into file_chunk (org, content, n, data) values ($1, $2, $3, $4)";
    FILE_CHUNK_GET = "select data from file_chunk where org = $1 and content = $2 and n = $3";
    FILE_CHUNK_DELETE = "delete from file_chunk where org = $1 and content = $2";
    FILE_CHUNK_DELETE_SESSION = "delete from file_chunk where org = $1 and content in \
        (select content from session_file where session_file.org = $1 and session = $2)";
    FILE_UPLOAD_INSERT = "insert into file_upload (org, session, content, at) \
        values ($1, $2, $3, $4)";
    FILE_UPLOAD_EXISTS = "select at from file_upload where org = $1 and session = $2 \
        and content = $3";
    // Of the whole installation, by its index.
    FILE_UPLOAD_OLD = "select org, session, content from file_upload where at < $1 \
        order by at limit $2";
    FILE_UPLOAD_DELETE = "delete from file_upload where org = $1 and session = $2 and content = $3";
    FILE_UPLOAD_CHUNK_DELETE_OLD = "delete from file_chunk where org = $1 and content in \
        (select content from file_upload where file_upload.org = $1 and session = $2 and at < $3)";
    FILE_UPLOAD_DELETE_OLD = "delete from file_upload where org = $1 and session = $2 and at < $3";
}

/// The error for a file that is not there.
pub fn file_missing(path: &str) -> Error {
    Error::not_found("file", path)
}

fn file_changed(path: &str) -> Error {
    Error::new(Code::PreconditionFailed, format!("file {path} has changed"))
}

fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Write {
    /// Begins a content that arrives in several writes; what was begun in the
    /// session before `stale` and never ended goes.
    pub fn file_upload_begin(
        &mut self,
        session: SessionId,
        content: [u8; 16],
        now: Timestamp,
        stale: Timestamp,
    ) {
        self.session_exists(session);
        self.add(&FILE_UPLOAD_CHUNK_DELETE_OLD, values![self.org, session, stale]);
        self.add(&FILE_UPLOAD_DELETE_OLD, values![self.org, session, stale]);
        self.add(&FILE_UPLOAD_INSERT, values![self.org, session, content, now]);
    }

    /// Adds a chunk to a content that was begun.
    pub fn file_upload_chunk(
        &mut self,
        session: SessionId,
        content: [u8; 16],
        n: u32,
        data: Vec<u8>,
    ) {
        self.session_exists(session);
        self.add(&FILE_UPLOAD_EXISTS, values![self.org, session, content])
            .expect_one(Probe::always(move || session_missing(session)));
        self.file_chunk_insert(content, n, data);
    }

    /// Gives up a content that was begun.
    pub fn file_upload_end(&mut self, session: SessionId, content: [u8; 16]) {
        self.contend(session.to_bytes());
        self.add(&FILE_UPLOAD_DELETE, values![self.org, session, content]);
        self.add(&FILE_CHUNK_DELETE, values![self.org, content]);
    }

    /// Adds a chunk to a content.
    pub fn file_chunk_insert(&mut self, content: [u8; 16], n: u32, data: Vec<u8>) {
        self.add(&FILE_CHUNK_INSERT, values![self.org, content, n, data]);
    }

    /// Puts a file in the place of what was at its path, if that is still the
    /// same and the session's files do not take more than they may.
    pub fn file_put(&mut self, was: Option<&File>, file: &File, limits: &FileLimits) {
        let (session, path) = (file.session, file.path.clone());
        self.contend(session.to_bytes());
        // One after the other, so that what each is counted with is there.
        self.add(&SESSION_LOCK, values![self.org, session])
            .expect_one(Probe::always(move || session_missing(session)));
        let ended = self.add(&FILE_UPLOAD_DELETE, values![self.org, session, file.content]);
        // Of a content with several chunks the first ones are there only as long
        // as its note is.
        if file.bytes > FILE_CHUNK_BYTES as u64 {
            ended.expect_one(Probe::always(|| {
                Error::new(Code::Conflict, "the upload took too long, and was given up")
            }));
        }
        let (bytes_max, files_max) = (limits.session_bytes_max, limits.session_files_max);
        let fits =
            values![self.org, session, &path, whole(file.bytes), whole(bytes_max), files_max,];
        self.add(&FILE_FITS, fits).expect_one(Probe::always(move || {
            let detail = format!(
                "the session's files may have {bytes_max} bytes together and number {files_max}"
            );
            Error::new(Code::QuotaExceeded, detail)
        }));
        match was {
            None => {
                let row = values![
                    self.org,
                    session,
                    file.id,
                    &file.path,
                    &file.media_type,
                    whole(file.bytes),
                    file.content,
                    file.version,
                    file.created_at,
                    file.updated_at,
                ];
                self.add(&FILE_INSERT, row).taken_means(move || file_changed(&path));
                self.count(FILES, &session.to_bytes(), 1);
            }
            Some(was) => {
                let row = values![
                    &file.media_type,
                    whole(file.bytes),
                    file.content,
                    file.version,
                    file.updated_at,
                    self.org,
                    session,
                    was.id,
                    was.version,
                ];
                self.add(&FILE_UPDATE, row).expect_one(Probe::always(move || file_changed(&path)));
                self.add(&FILE_CHUNK_DELETE, values![self.org, was.content]);
            }
        }
    }

    /// Deletes a file, if it is still the same.
    pub fn file_delete(&mut self, was: &File) {
        let path = was.path.clone();
        self.session_exists(was.session);
        self.add(&FILE_DELETE, values![self.org, was.session, was.id, was.version])
            .expect_one(Probe::always(move || file_changed(&path)));
        self.add(&FILE_CHUNK_DELETE, values![self.org, was.content]);
        self.count(FILES, &was.session.to_bytes(), -1);
    }

    /// Deletes the files of a session, whose row is locked or gone.
    pub fn file_delete_session(&mut self, session: SessionId) {
        let (all, key) = (Timestamp::from_micros(i64::MAX), session.to_bytes().to_vec());
        self.add(&FILE_UPLOAD_CHUNK_DELETE_OLD, values![self.org, session, all]);
        self.add(&FILE_UPLOAD_DELETE_OLD, values![self.org, session, all]);
        self.add(&FILE_CHUNK_DELETE_SESSION, values![self.org, session]);
        self.add(&FILE_COUNT_SESSION, values![FILES, self.org, session]);
        self.add(&FILE_DELETE_SESSION, values![self.org, session]);
        self.add(&COUNTER_FORGET, values![self.org, FILES, key]);
    }
}

impl Store {
    /// The file at a path.
    pub async fn file_get(
        &self,
        org: OrgId,
        session: SessionId,
        path: &str,
    ) -> Result<Option<File>> {
        self.point(&FILE_GET, values![org, session, path.to_owned()], file).await
    }

    /// A page of a session's files.
    pub async fn file_list(
        &self,
        org: OrgId,
        session: SessionId,
        page: &PageRequest,
    ) -> Result<Page<File>> {
        let (after, limit, offset) = cursor(page);
        let sql = list_page(page, &FILE_LIST_ASC, &FILE_LIST_DESC);
        let rows = self.list(page, sql, values![org, session, after, limit, offset], file).await?;
        let total = self.counter(org, FILES, &session.to_bytes()).await?;
        Ok(Page::from_rows(rows, page, total, |file| file.id.to_bytes()))
    }

    /// How many files a session has.
    pub async fn file_count(&self, org: OrgId, session: SessionId) -> Result<u64> {
        self.counter(org, FILES, &session.to_bytes()).await
    }

    /// Contents of the whole installation that began to arrive before this time,
    /// the oldest first: organisation, session and content.
    pub async fn file_upload_old(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(OrgId, SessionId, [u8; 16])>> {
        let upload = |row: &mut Columns<'_>| {
            Ok((OrgId::from_bytes(row.id()?), SessionId::from_bytes(row.id()?), row.id()?))
        };
        self.scan(&FILE_UPLOAD_OLD, values![before, limit], upload).await
    }

    /// A chunk of a content; none when the content was replaced or deleted.
    pub async fn file_chunk(
        &self,
        org: OrgId,
        content: [u8; 16],
        n: u32,
    ) -> Result<Option<Vec<u8>>> {
        let data = |row: &mut Columns<'_>| row.bytes();
        Ok(self.scan(&FILE_CHUNK_GET, values![org, content, n], data).await?.pop())
    }
}

fn file(row: &mut Columns<'_>) -> Result<File> {
    Ok(File {
        id: FileId::from_bytes(row.id()?),
        session: SessionId::from_bytes(row.id()?),
        path: row.text()?,
        media_type: row.text()?,
        bytes: row.int()?.unsigned_abs(),
        content: row.id()?,
        version: row.int()?,
        created_at: row.time()?,
        updated_at: row.time()?,
    })
}
