//! Backups over HTTP.

use agentry_gateway::Authenticated;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::{HeaderName, HeaderValue, header};

use crate::answer::{Handled, put};
use crate::openapi::Conflict;
use crate::state::ApiState;

/// Up to which entry of the log a backup has everything.
const X_LOG_POSITION: HeaderName = HeaderName::from_static("x-log-position");

/// Make a backup
///
/// Streams a file that `agentry restore` takes: the whole database at one moment, while it
/// is served. It holds every organisation, so that only the installation's owner and admins
/// may make one; one is made at a time. With PostgreSQL it is 409: that has tools of its own.
#[utoipa::path(
    post,
    path = "/api/v1/admin/backup",
    tag = "server",
    responses(
        (status = 200, description = "The backup.", body = String,
            content_type = "application/octet-stream",
            headers(("X-Log-Position" = i64, description = "The newest entry of the log in it."))),
        (status = 409, response = Conflict),
    ),
)]
pub async fn backup_create(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
) -> Handled {
    let backup = state.engine.backup(&caller).await?;
    let (bytes, log) = (backup.file_bytes(), backup.manifest.log);
    let mut response = Body::from_stream(backup.pieces()).into_response();
    let media_type = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    put(&mut response, header::CONTENT_LENGTH, &bytes.to_string());
    put(&mut response, X_LOG_POSITION, &log.to_string());
    Ok(response)
}
