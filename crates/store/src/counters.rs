//! Counters: how many there are, without counting.
//!
//! On SQLite they change in the write's own transaction. On PostgreSQL a change
//! is a row in `counter_change`, so that no row is hot, and the keeper folds
//! them within a second; a reader adds up what is folded and what is not.

use agentry_domain::OrgId;

use crate::sql::statements;
use crate::value::{self, values};
use crate::{Result, Store};

/// Jobs of an organisation that people look at.
pub(crate) const ADMIN_JOBS: &str = "admin_jobs";
/// Messages of a session; the key is the session.
pub(crate) const MESSAGES: &str = "messages";
/// Files of a session; the key is the session.
pub(crate) const FILES: &str = "files";
/// Runs of an organisation.
pub(crate) const RUNS: &str = "runs";
/// Runs of an organisation that wait and were never begun; under the id of none,
/// of all organisations.
pub(crate) const RUNS_WAITING: &str = "runs_waiting";
/// Documents in a scope of text search; the key is the scope.
pub(crate) const TEXT_DOCUMENTS: &str = "text_documents";
/// Tokens in all documents of a scope of text search; the key is the scope.
pub(crate) const TEXT_TOKENS: &str = "text_tokens";

statements! {
    COUNTER_GET = sqlite "select n from counter where org = $1 and kind = $2 and key = $3"
        postgres "select (coalesce((select n from counter \
        where org = $1 and kind = $2 and key = $3), 0) + coalesce((select sum(n) \
        from counter_change where org = $1 and kind = $2 and key = $3), 0))::bigint";
    COUNTER_BELOW = sqlite "select 1 where coalesce((select n from counter \
        where org = $1 and kind = $2 and key = x''), 0) < $3"
        postgres "select 1 where coalesce((select n from counter where org = $1 and kind = $2 \
        and key = ''), 0) + coalesce((select sum(n) from counter_change where org = $1 \
        and kind = $2 and key = ''), 0) < $3::bigint";
    COUNTER_ADD = sqlite "insert into counter (org, kind, key, n) values ($1, $2, $3, $4) \
        on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "insert into counter_change (org, kind, key, n) \
        select * from unnest($1::bytea[], $2::text[], $3::bytea[], $4::bigint[])";
    // On PostgreSQL a counter ends when its changes add up to nothing: a row
    // that was deleted here could be made again by a fold that goes on now.
    COUNTER_FORGET = sqlite "delete from counter where org = $1 and kind = $2 and key = $3"
        postgres "";
    scan COUNTER_FOLD = sqlite "" postgres "with taken as (delete from counter_change where ctid = \
        any (array(select ctid from counter_change limit $1)) returning org, kind, key, n) \
        insert into counter (org, kind, key, n) \
        select org, kind, key, sum(n)::bigint from taken group by org, kind, key \
        order by org, kind, key \
        on conflict (org, kind, key) do update set n = counter.n + excluded.n";
    COUNTER_ENDED_DELETE = sqlite "" postgres "delete from counter where n = 0 and key <> ''";
}

impl Store {
    /// The value of a counter; one that was never changed is 0.
    pub(crate) async fn counter(&self, org: OrgId, kind: &'static str, key: &[u8]) -> Result<u64> {
        let n = self.point(&COUNTER_GET, values![org, kind, key.to_vec()], value::int).await?;
        Ok(u64::try_from(n.unwrap_or(0)).unwrap_or(0))
    }
}
