//! Changes that are guarded by the version that was read.

use agentry_domain::{Code, Error, Result};

/// How often a change without `If-Match` is tried again when another came first.
const UPDATE_TRIES_MAX: u32 = 10;

/// Reads, changes and writes until nothing came in between. With `If-Match` the
/// caller named the version, so there is one try.
pub(crate) async fn until_unchanged<T, F>(
    if_match: Option<i64>,
    attempt: impl Fn() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut tries = 1;
    loop {
        match attempt().await {
            Err(Error { code: Code::PreconditionFailed, .. })
                if if_match.is_none() && tries < UPDATE_TRIES_MAX =>
            {
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}
