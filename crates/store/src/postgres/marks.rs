//! What became of a transaction whose COMMIT was not answered.
//!
//! Each session that writes has a row of its own in `write_mark`; every
//! transaction puts its number there. The row is read in the flight of the
//! COMMIT: finding the number is the proof that it was a COMMIT and not the
//! ROLLBACK that PostgreSQL answers for a failed transaction, whose command tag
//! tokio-postgres keeps to itself. When the answer is lost, another session reads
//! the row under a lock, and so waits until the transaction has ended either way.
//!
//! `pg_xact_status` would need no table, but after a crash a transaction number
//! that never reached the disk is given out again.

use crate::sql::statements;

statements! {
    MARK_MAKE = sqlite "" postgres "insert into write_mark (place, at) \
        values (0, (extract(epoch from clock_timestamp()) * 1000000)::bigint) returning writer";
    MARK_SET = sqlite "" postgres "update write_mark set place = $2, \
        at = (extract(epoch from clock_timestamp()) * 1000000)::bigint where writer = $1";
    MARK_GET = sqlite "" postgres "select place from write_mark where writer = $1";
    MARK_SETTLE = sqlite "" postgres "select place from write_mark where writer = $1 for update";
    MARK_DELETE = sqlite "" postgres "delete from write_mark where writer = $1";
    // A session that is still there after so long makes itself a new row.
    scan MARK_EXPIRED_DELETE = sqlite "" postgres "delete from write_mark where at < \
        ((extract(epoch from clock_timestamp()) - 86400) * 1000000)::bigint";
}

/// One transaction of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) writer: i64,
    pub(super) place: i64,
}
