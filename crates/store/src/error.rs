//! What can go wrong in the store, and what callers hear of it.

use std::time::Duration;

use agentry_domain::{Code, Error};

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A rule of the caller's: a guard failed, a unique value is taken.
    #[error(transparent)]
    Refused(#[from] Error),
    /// A unique value is taken, and the statement did not say what that means.
    #[error("a unique value is taken")]
    Taken,
    /// The disk is full.
    #[error("the disk is full")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk or the database server failed; nothing is known to be written.
    #[error("the storage failed")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Too many writes wait.
    #[error("too many writes are waiting")]
    Overloaded,
    /// The caller went away or its deadline passed.
    #[error("the request was given up")]
    GivenUp,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// Stored data is not what it should be, or a statement is wrong: a bug.
    #[error("the store is inconsistent: {0}")]
    Bug(String),
}

impl StoreError {
    pub(crate) fn unreadable(what: &str) -> Self {
        StoreError::Bug(format!("a column does not hold {what}"))
    }
}

/// How long a caller waits before trying again while the storage fails.
const RETRY_STORAGE: Duration = Duration::from_secs(5);
/// How long a caller waits before trying again when too many writes wait.
const RETRY_OVERLOADED: Duration = Duration::from_secs(1);

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(error) => error,
            StoreError::Taken => Error::new(Code::AlreadyExists, "a unique value is already taken"),
            StoreError::Full(_) => {
                Error::new(Code::StorageFull, "the disk is full; nothing was stored")
                    .retry_after(RETRY_STORAGE)
                    .caused_by(error)
            }
            StoreError::Unavailable(_) => {
                Error::new(Code::StorageUnavailable, "the storage failed; nothing was acknowledged")
                    .retry_after(RETRY_STORAGE)
                    .caused_by(error)
            }
            StoreError::Overloaded => {
                Error::new(Code::Overloaded, "too many writes are waiting (writes_waiting_max)")
                    .retry_after(RETRY_OVERLOADED)
            }
            StoreError::GivenUp => {
                Error::new(Code::DeadlineExceeded, "the request's deadline passed in the store")
            }
            StoreError::Closed => Error::new(Code::ShuttingDown, "the server is shutting down"),
            StoreError::Bug(_) => Error::internal(error),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ffi;
        let Some(failure) = error.sqlite_error() else {
            return StoreError::Bug(error.to_string());
        };
        match (failure.code, failure.extended_code) {
            (_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => {
                StoreError::Taken
            }
            (rusqlite::ErrorCode::DiskFull, _) => StoreError::Full(error.into()),
            (rusqlite::ErrorCode::OperationInterrupted, _) => StoreError::GivenUp,
            (
                rusqlite::ErrorCode::SystemIoFailure
                | rusqlite::ErrorCode::CannotOpen
                | rusqlite::ErrorCode::OutOfMemory
                | rusqlite::ErrorCode::DatabaseBusy
                | rusqlite::ErrorCode::ReadOnly
                | rusqlite::ErrorCode::DatabaseCorrupt
                | rusqlite::ErrorCode::NotADatabase,
                _,
            ) => StoreError::Unavailable(error.into()),
            _ => StoreError::Bug(error.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        let Some(found) = error.as_db_error() else {
            let outside = std::error::Error::source(&error)
                .is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
            return if error.is_closed() || outside {
                StoreError::Unavailable(error.into())
            } else {
                // A value that does not fit its parameter, a column that is read
                // as what it is not.
                StoreError::Bug(chain(&error))
            };
        };
        let state = found.code();
        if *state == SqlState::UNIQUE_VIOLATION {
            StoreError::Taken
        } else if *state == SqlState::DISK_FULL {
            StoreError::Full(error.into())
        } else if *state == SqlState::QUERY_CANCELED {
            StoreError::GivenUp
        } else if matches!(&state.code()[..2], "08" | "53" | "55" | "57" | "58" | "40" | "25") {
            // Connection, resources, locks, operator intervention, system,
            // rollback and read-only: the server's state, not the statement's fault.
            StoreError::Unavailable(error.into())
        } else {
            StoreError::Bug(chain(&error))
        }
    }
}

fn chain(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
