//! The log: each entry once, in order, without a gap.
//!
//! SQLite's one writer numbers the entries as it commits them. On PostgreSQL
//! writers append to `log_pending`, and the one process that holds the
//! sequencer's lock moves committed rows to `log`.

use agentry_domain::log::LoggedEntry;
use agentry_domain::{KeyId, OrgId, Timestamp};

use crate::sql::statements;
use crate::value::{self, Columns, values};
use crate::write::Write;
use crate::{Result, Store};

statements! {
    LOG_INSERT = sqlite "insert into log (seq, org, at, kind, entity, id, actor, data, \
        address) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)" postgres "";
    LOG_APPEND = sqlite "" postgres "insert into log_pending (org, at, kind, entity, id, actor, \
        data, address) select * from unnest($1::bytea[], $2::bigint[], $3::text[], $4::text[], \
        $5::bytea[], $6::bytea[], $7::text[], $8::text[])";
    // An entry whose place was taken early and whose transaction committed late
    // comes in a later batch: the order is that of places among what is visible.
    // The head moves by what was really taken, so there is no gap.
    LOG_SEQUENCE = sqlite "" postgres "with taken as (delete from log_pending where ctid = \
        any (array(select ctid from log_pending order by place limit $1)) \
        returning place, org, at, kind, entity, id, actor, data, address), \
        numbered as (select row_number() over (order by place) as n, taken.* from taken), \
        head as (update log_head set seq = seq + (select count(*) from taken) \
        where one = 1 and exists (select 1 from taken) \
        returning seq - (select count(*) from taken) as before), \
        moved as (insert into log (seq, org, at, kind, entity, id, actor, data, address) \
        select head.before + numbered.n, numbered.org, numbered.at, numbered.kind, \
        numbered.entity, numbered.id, numbered.actor, numbered.data, numbered.address from numbered, head \
        order by numbered.n returning seq) \
        select count(*), coalesce(max(seq), 0) from moved";
    LOG_HEAD = "select seq from log_head where one = 1";
    LOG_HEAD_SET = sqlite "update log_head set seq = $1 where one = 1" postgres "";
    // Without entries, the next one's place is the oldest that can be read on from.
    LOG_OLDEST = "select coalesce((select min(seq) from log), \
        (select seq from log_head where one = 1) + 1)";
    LOG_AGES = "select seq, at from log where seq >= $1 order by seq limit $2";
    LOG_TRIM = "delete from log where seq >= $1 and seq < $2";
    // What went with its age is told from what was taken away.
    LOG_TRIMMED = "update audit_head set trimmed = $1 where one = 1 and trimmed < $1";
    LOG_READ = "select seq, org, at, kind, entity, id, actor, data, address from log \
        where org = $1 and seq > $2 order by seq limit $3";
    LOG_READ_ALL = "select seq, org, at, kind, entity, id, actor, data, address from log \
        where seq > $1 order by seq limit $2";
}

impl Store {
    /// The place of the newest entry; 0 when there is none.
    pub async fn log_head(&self) -> Result<i64> {
        Ok(self.point(&LOG_HEAD, values![], value::int).await?.unwrap_or(0))
    }

    /// An organisation's entries after a place, at most `limit`.
    pub async fn log_read(&self, org: OrgId, after: i64, limit: u32) -> Result<Vec<LoggedEntry>> {
        self.scan(&LOG_READ, values![org, after, limit], entry).await
    }

    /// Every organisation's entries after a place, at most `limit`: for
    /// followers, which work for the whole installation.
    pub async fn log_read_all(&self, after: i64, limit: u32) -> Result<Vec<LoggedEntry>> {
        self.scan(&LOG_READ_ALL, values![after, limit], entry).await
    }
}

/// What the log keeps: entries that are young enough and few enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogKeep {
    /// Entries before this instant go.
    pub since: Timestamp,
    /// Of all organisations together, only so many of the newest stay.
    pub entries_max: i64,
}

impl Store {
    /// The place of the oldest entry that is still there; of the next one when
    /// there is none. A cursor is good when it is at least one less.
    pub async fn log_oldest(&self) -> Result<i64> {
        Ok(self.point(&LOG_OLDEST, values![], value::int).await?.unwrap_or(1))
    }

    /// Deletes entries that need not be kept from the front of the log, at most
    /// `limit`, behind every interactive write that waits; how many. What stays
    /// is one piece without a gap: an old entry behind a younger one stays too.
    pub async fn log_trim(&self, keep: LogKeep, limit: u32) -> Result<u32> {
        let first = self.log_oldest().await?;
        let too_many = self.log_head().await? - keep.entries_max;
        let ages = self.scan(&LOG_AGES, values![first, limit], |row| Ok((row.int()?, row.time()?)));
        let goes = ages
            .await?
            .into_iter()
            .take_while(|(seq, at)| *seq <= too_many || *at < keep.since)
            .count();
        let count = u32::try_from(goes).unwrap_or(limit);
        if count > 0 {
            let mut write = Write::new(SYSTEM).bulk();
            let end = first + i64::from(count);
            write.add(&LOG_TRIM, values![first, end]);
            write.add(&LOG_TRIMMED, values![end - 1]);
            self.write(write).await?;
        }
        Ok(count)
    }
}

/// No organisation: the log is trimmed for the whole installation.
const SYSTEM: OrgId = OrgId::from_bytes([0; 16]);

pub(crate) fn entry(row: &mut Columns<'_>) -> Result<LoggedEntry> {
    Ok(LoggedEntry {
        seq: row.int()?,
        org: OrgId::from_bytes(row.id()?),
        at: row.time()?,
        kind: row.text()?,
        entity: row.text()?,
        id: row.id()?,
        actor: row.opt_id()?.map(KeyId::from_bytes),
        data: row.text()?,
        address: row.opt_text()?,
    })
}
