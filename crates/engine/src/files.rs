//! Files of a session's workspace: taken in and given out chunk by chunk, so
//! that a file of any size takes the memory of one chunk.

use agentry_domain::files::{FILE_CHUNK_BYTES, File, FilePath};
use agentry_domain::log::EntityKind;
use agentry_domain::sessions::SessionBody;
use agentry_domain::{Caller, Code, Error, FileId, Page, PageRequest, Result, SessionId};
use agentry_store::Write;
use agentry_store::files::file_missing;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use crate::guarded::until_unchanged;
use crate::{Engine, entry};

/// A file that a client puts.
#[derive(Clone, Debug)]
pub struct FilePut {
    /// Where.
    pub path: FilePath,
    /// Its media type.
    pub media_type: String,
    /// Only in the place of this version.
    pub if_match: Option<i64>,
    /// Only when there is none.
    pub if_new: bool,
}

/// A content that is arriving.
struct Upload {
    session: SessionId,
    content: [u8; 16],
    /// Chunks that are stored.
    chunks: u32,
    /// Bytes that arrived.
    bytes: u64,
}

impl Engine {
    /// A page of a session's files.
    pub async fn file_list(
        &self,
        caller: &Caller,
        session: SessionId,
        page: PageRequest,
    ) -> Result<Page<File>> {
        self.resource_get::<SessionBody>(caller, session).await?;
        Ok(self.0.store.file_list(caller.org, session, &page).await?)
    }

    /// The file at a path.
    pub async fn file_get(
        &self,
        caller: &Caller,
        session: SessionId,
        path: &FilePath,
    ) -> Result<File> {
        let found = self.0.store.file_get(caller.org, session, path.as_str()).await?;
        found.ok_or_else(|| file_missing(path.as_str()))
    }

    /// A chunk of a file as it was when it was read; none when it was replaced
    /// or deleted since.
    pub async fn file_chunk(&self, caller: &Caller, file: &File, n: u32) -> Result<Option<Bytes>> {
        let chunk = self.0.store.file_chunk(caller.org, file.content, n).await?;
        Ok(chunk.map(Bytes::from))
    }

    /// Puts a file, in the place of what was at its path; whether it is new.
    /// Nobody sees it before it is whole.
    pub async fn file_put(
        &self,
        caller: &Caller,
        session: SessionId,
        put: FilePut,
        body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<(File, bool)> {
        self.file_replaceable(caller, session, &put).await?;
        let content = self.uuid(self.now()).into_bytes();
        let mut upload = Upload { session, content, chunks: 0, bytes: 0 };
        let outcome = match self.file_receive(caller, &mut upload, body).await {
            Ok(last) => self.file_finish(caller, &upload, &put, &last).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() && upload.chunks > 0 {
            let mut write = Write::new(caller.org).bulk();
            write.file_upload_end(session, content);
            // What stays goes with the session's next upload.
            if let Err(error) = self.0.store.write(write).await {
                tracing::warn!(%error, "a given-up upload stays until the next one");
            }
        }
        outcome
    }

    /// What is at the path, if the client's conditions allow to replace it.
    async fn file_replaceable(
        &self,
        caller: &Caller,
        session: SessionId,
        put: &FilePut,
    ) -> Result<Option<File>> {
        let was = self.0.store.file_get(caller.org, session, put.path.as_str()).await?;
        let version = was.as_ref().map(|was| was.version);
        if (put.if_new && was.is_some()) || (put.if_match.is_some() && put.if_match != version) {
            return Err(Error::new(
                Code::PreconditionFailed,
                match version {
                    Some(version) => format!("the file's version is {version}"),
                    None => "the file is not there".to_owned(),
                },
            ));
        }
        Ok(was)
    }

    /// Stores what arrives but for the last chunk, which it gives back.
    async fn file_receive(
        &self,
        caller: &Caller,
        upload: &mut Upload,
        mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<Vec<u8>> {
        let bytes_max = self.0.options.files.file_bytes_max;
        let mut chunk: Vec<u8> = Vec::new();
        while let Some(part) = body.next().await {
            let mut part = part?;
            upload.bytes += part.len() as u64;
            if upload.bytes > bytes_max {
                return Err(Error::new(
                    Code::BodyTooLarge,
                    format!("a file may have {bytes_max} bytes (file_bytes_max)"),
                ));
            }
            while chunk.len() + part.len() > FILE_CHUNK_BYTES {
                chunk.extend_from_slice(&part.split_to(FILE_CHUNK_BYTES - chunk.len()));
                self.file_chunk_store(caller, upload, std::mem::take(&mut chunk)).await?;
            }
            chunk.extend_from_slice(&part);
        }
        Ok(chunk)
    }

    async fn file_chunk_store(
        &self,
        caller: &Caller,
        upload: &mut Upload,
        chunk: Vec<u8>,
    ) -> Result<()> {
        let (now, mut write) = (self.now(), Write::new(caller.org));
        if upload.chunks == 0 {
            let stale = now.minus(self.0.options.retention.uploads);
            write.file_upload_begin(upload.session, upload.content, now, stale);
        }
        write.file_upload_chunk(upload.session, upload.content, upload.chunks, chunk);
        self.0.store.write(write).await?;
        upload.chunks += 1;
        Ok(())
    }

    async fn file_finish(
        &self,
        caller: &Caller,
        upload: &Upload,
        put: &FilePut,
        last: &[u8],
    ) -> Result<(File, bool)> {
        // Without a condition another file that came first is replaced too.
        let condition = put.if_match.or(put.if_new.then_some(0));
        until_unchanged(condition, || async {
            let was = self.file_replaceable(caller, upload.session, put).await?;
            let now = self.now();
            let file = File {
                id: was.as_ref().map_or_else(|| FileId::from_uuid(self.uuid(now)), |was| was.id),
                session: upload.session,
                path: put.path.as_str().to_owned(),
                media_type: put.media_type.clone(),
                bytes: upload.bytes,
                content: upload.content,
                version: was.as_ref().map_or(0, |was| was.version + 1).max(now.micros()),
                created_at: was.as_ref().map_or(now, |was| was.created_at),
                updated_at: now,
            };
            let mut write = Write::new(caller.org);
            if !last.is_empty() {
                write.file_chunk_insert(upload.content, upload.chunks, last.to_vec());
            }
            write.file_put(was.as_ref(), &file, &self.0.options.files);
            let kind = EntityKind::File;
            let happened = if was.is_none() { kind.created() } else { kind.updated() };
            write.log(entry(caller, now, happened, kind, file.id.to_bytes(), file_data(&file)));
            self.0.store.write(write).await?;
            Ok((file, was.is_none()))
        })
        .await
    }

    /// Deletes a file; with `if_match`, only if that is its version.
    pub async fn file_delete(
        &self,
        caller: &Caller,
        session: SessionId,
        path: &FilePath,
        if_match: Option<i64>,
    ) -> Result<()> {
        until_unchanged(if_match, || async {
            let was = self.file_get(caller, session, path).await?;
            if let Some(wanted) = if_match
                && wanted != was.version
            {
                let detail = format!("the file's version is {}", was.version);
                return Err(Error::new(Code::PreconditionFailed, detail));
            }
            let mut write = Write::new(caller.org);
            write.file_delete(&was);
            let kind = EntityKind::File;
            let id = was.id.to_bytes();
            write.log(entry(caller, self.now(), kind.deleted(), kind, id, file_data(&was)));
            self.0.store.write(write).await?;
            Ok(())
        })
        .await
    }
}

/// What is said of a file that was put or deleted.
fn file_data(file: &File) -> String {
    let (version, session) = (file.version, file.session);
    format!(r#"{{"version":{version},"session_id":"{session}"}}"#)
}
