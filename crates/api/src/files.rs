//! The files of a session's workspace over HTTP, as bytes of any media type.

use agentry_domain::files::{
    FILE_CHUNK_BYTES, File, FilePath, MEDIA_TYPE_CHARS_MAX, MEDIA_TYPE_DEFAULT,
};
use agentry_domain::{
    Caller, Code, Error, Fault, FileId, Order, PageRequest, SessionId, Timestamp,
};
use agentry_engine::{Engine, FilePut};
use agentry_gateway::{Authenticated, Failure, body};
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::{Handled, IfMatch, IfNoneMatch, entity_tag, json, no_content, put};
use crate::extract::{PathName, Query};
use crate::fields::{Fields, FromFields};
use crate::lists::{List, list, page_request};
use crate::openapi::{Conflict, NotFound, PreconditionFailed, ValidationFailed};
use crate::query_parameters;
use crate::state::ApiState;

/// How often a file is looked up anew when it is replaced while it is read.
const READ_TRIES_MAX: u32 = 3;

/// What is known of a file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = File)]
pub struct FileAnswer<'a> {
    /// Its id, which stays when its content is replaced.
    #[schema(value_type = String, format = "uuid")]
    id: FileId,
    /// The session it is in.
    #[schema(value_type = String, format = "uuid")]
    session_id: SessionId,
    /// Its path.
    #[schema(example = "notes/plan.md")]
    path: &'a str,
    /// Its media type, as it was sent.
    #[schema(example = "text/markdown")]
    media_type: &'a str,
    /// Its size in bytes.
    bytes: u64,
    /// Grows with every content; the entity tag.
    version: i64,
    /// When it was first put.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When its content was put.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl<'a> FileAnswer<'a> {
    fn new(file: &'a File) -> agentry_domain::Result<Self> {
        Ok(Self {
            id: file.id,
            session_id: file.session,
            path: &file.path,
            media_type: &file.media_type,
            bytes: file.bytes,
            version: file.version,
            created_at: file.created_at,
            updated_at: file.updated_at,
        })
    }
}

/// A session and the path of a file in it.
#[derive(Clone, Debug)]
pub struct PathFile {
    session: String,
    path: FilePath,
}

impl<S: Send + Sync> FromRequestParts<S> for PathFile {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((session, path))) if !session.contains('\0') => {
                Ok(Self { session, path: FilePath::parse(&path)? })
            }
            // Bytes that are no text, or a name that cannot be stored.
            _ => Err(Failure::from(Error::not_found("path", parts.uri.path()))),
        }
    }
}

/// Which files.
pub struct FileQuery(PageRequest);

query_parameters!(FileQuery);

impl FromFields for FileQuery {
    fn read(fields: &mut Fields) -> Self {
        Self(page_request(fields, Order::default()))
    }
}

/// List a session's files
#[utoipa::path(
    get,
    path = "/api/v1/sessions/{session}/files",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        FileQuery,
    ),
    responses(
        (status = 200, description = "A page of files.", body = List<FileAnswer<'static>>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
pub async fn file_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(session): PathName,
    Query(FileQuery(page)): Query<FileQuery>,
) -> Handled {
    let session = state.engine.session_find(&caller, &session).await?.id;
    let files = state.engine.file_list(&caller, session, page).await?;
    list(&files, page.order, FileAnswer::new)
}

/// Put a file into a session's workspace
///
/// The body is the content, of any media type, which is kept. Whoever reads sees
/// what was there before until all of it has arrived.
#[utoipa::path(
    put,
    path = "/api/v1/sessions/{session}/files/{*path}",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        ("path" = String, Path, description = "Names with slashes between them, in NFC; no name is `.` or `..`."),
        ("If-Match" = Option<String>, Header, description = "Only in the place of this version."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only when there is none."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The file was replaced.", body = FileAnswer<'static>, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 201, description = "The file is new.", body = FileAnswer<'static>, headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn file_put(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathFile { session, path }: PathFile,
    IfMatch(if_match): IfMatch,
    known: IfNoneMatch,
    request: Request,
) -> Handled {
    let session = state.engine.session_find(&caller, &session).await?.id;
    let media_type = media_type(request.headers())?;
    let new = FilePut { path, media_type, if_match, if_new: known.is_any() };
    let parts = Box::pin(stream::try_unfold(request.into_body(), |mut body| async {
        Ok(body::next(&mut body).await?.map(|part| (part, body)))
    }));
    let (file, is_new) = state.engine.file_put(&caller, session, new, parts).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, &FileAnswer::new(&file)?)?;
    put(&mut response, header::ETAG, &entity_tag(file.version));
    Ok(response)
}

fn media_type(headers: &HeaderMap) -> agentry_domain::Result<String> {
    let Some(sent) = headers.get(header::CONTENT_TYPE) else {
        return Ok(MEDIA_TYPE_DEFAULT.to_owned());
    };
    match sent.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= MEDIA_TYPE_CHARS_MAX => Ok(text.to_owned()),
        _ => {
            let detail = format!("must have 1 to {MEDIA_TYPE_CHARS_MAX} characters of ASCII");
            let fault = Fault::new("header:Content-Type", "malformed", detail);
            Err(Error::invalid(vec![fault]))
        }
    }
}

/// Read a file
///
/// Its bytes, with the media type that it was put with. When it is replaced
/// while it is read, the answer breaks off.
#[utoipa::path(
    get,
    path = "/api/v1/sessions/{session}/files/{*path}",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        ("path" = String, Path, description = "Its path."),
        ("If-None-Match" = Option<String>, Header, description = "The version one has."),
    ),
    responses(
        (status = 200, description = "The content.", body = Vec<u8>, content_type = "application/octet-stream", headers(
            ("ETag" = String, description = "Its version."),
        )),
        (status = 304, description = "It has not changed."),
        (status = 404, response = NotFound),
        (status = 422, response = ValidationFailed),
        (status = 409, response = Conflict),
    ),
)]
pub async fn file_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathFile { session, path }: PathFile,
    known: IfNoneMatch,
) -> Handled {
    let session = state.engine.session_find(&caller, &session).await?.id;
    for _ in 0..READ_TRIES_MAX {
        let file = state.engine.file_get(&caller, session, &path).await?;
        if let Some(unchanged) = known.not_modified(file.version) {
            return Ok(unchanged);
        }
        if file.bytes == 0 {
            return Ok(given(&file, Body::empty()));
        }
        if let Some(first) = state.engine.file_chunk(&caller, &file, 0).await? {
            let body = content(state.engine.clone(), caller, file.clone(), first);
            return Ok(given(&file, body));
        }
    }
    let detail = "the file was replaced again and again while it was read";
    Err(Failure::from(Error::new(Code::Conflict, detail)))
}

/// The chunks of a file, each read when the one before is on its way.
fn content(engine: Engine, caller: Caller, file: File, first: Bytes) -> Body {
    if file.bytes <= FILE_CHUNK_BYTES as u64 {
        return Body::from(first);
    }
    let state = (engine, caller, file, 0_u32, Some(first));
    Body::from_stream(stream::try_unfold(state, |(engine, caller, file, n, first)| async move {
        if u64::from(n) * FILE_CHUNK_BYTES as u64 >= file.bytes {
            return Ok::<_, Error>(None);
        }
        let chunk = match first {
            Some(first) => first,
            None => engine
                .file_chunk(&caller, &file, n)
                .await?
                .ok_or_else(|| Error::new(Code::Conflict, "the file was replaced"))?,
        };
        Ok(Some((chunk, (engine, caller, file, n + 1, None))))
    }))
}

/// The answer with a file's content. What it holds is the client's: a browser
/// must neither guess another type nor run it as a page of this server.
fn given(file: &File, body: Body) -> Response {
    let mut response = body.into_response();
    let media_type = HeaderValue::from_str(&file.media_type)
        .unwrap_or_else(|_| HeaderValue::from_static(MEDIA_TYPE_DEFAULT));
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    put(&mut response, header::CONTENT_LENGTH, &file.bytes.to_string());
    put(&mut response, header::ETAG, &entity_tag(file.version));
    put(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(&mut response, header::CONTENT_SECURITY_POLICY, "sandbox");
    response
}

/// Delete a file
#[utoipa::path(
    delete,
    path = "/api/v1/sessions/{session}/files/{*path}",
    tag = "sessions",
    params(
        ("session" = String, Path, description = "Its id or, when only one has it, its name."),
        ("path" = String, Path, description = "Its path."),
        ("If-Match" = Option<String>, Header, description = "Only if this is its version."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, response = NotFound),
        (status = 422, response = ValidationFailed),
        (status = 409, response = Conflict),
        (status = 412, response = PreconditionFailed),
    ),
)]
pub async fn file_delete(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathFile { session, path }: PathFile,
    IfMatch(version): IfMatch,
) -> Handled {
    let session = state.engine.session_find(&caller, &session).await?.id;
    state.engine.file_delete(&caller, session, &path, version).await?;
    Ok(no_content())
}
