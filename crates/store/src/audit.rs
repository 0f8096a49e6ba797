//! The audit in the store: the log, asked for what somebody did, its seals, and
//! whether they hold.

use agentry_domain::audit::{CHAIN_BEGIN, ChainHead, EntriesHash, HASH_BYTES, Hash, Seal};
use agentry_domain::log::LoggedEntry;
use agentry_domain::page::FILTERED_TOTAL_MAX;
use agentry_domain::{Code, Error, KeyId, Order, OrgId, Page, PageRequest};
use rusqlite::params_from_iter;
use tokio_postgres::types::ToSql;

use crate::log::{LOG_HEAD, LOG_OLDEST, LOG_READ_ALL, entry};
use crate::postgres::Target;
use crate::sql::{Sql, statements};
use crate::sqlite::{self, FILE_NAME};
use crate::value::{self, Columns, RowRef, Value, values};
use crate::write::{Probe, Write};
use crate::{Map, Options, Result, Store, StoreError};

statements! {
    AUDIT_LIST_DESC = "select seq, org, at, kind, entity, id, actor, data, address from \
        (select seq, org, at, kind, entity, id, actor, data, address from log \
        where org = $1 and seq < $2 order by seq desc limit $3) as looked \
        where (actor = $4 or $4 is null) and (kind = $5 or $5 is null) \
        and (entity = $6 or $6 is null) and (id = $7 or $7 is null) \
        order by seq desc limit $8 offset $9";
    AUDIT_LIST_ASC = "select seq, org, at, kind, entity, id, actor, data, address from \
        (select seq, org, at, kind, entity, id, actor, data, address from log \
        where org = $1 and seq > $2 order by seq limit $3) as looked \
        where (actor = $4 or $4 is null) and (kind = $5 or $5 is null) \
        and (entity = $6 or $6 is null) and (id = $7 or $7 is null) \
        order by seq limit $8 offset $9";
    // How far the look of a list reaches.
    AUDIT_REACH_DESC = "select coalesce(min(seq), 0), count(*) from (select seq from log \
        where org = $1 and seq < $2 order by seq desc limit $3) as looked";
    AUDIT_REACH_ASC = "select coalesce(max(seq), 0), count(*) from (select seq from log \
        where org = $1 and seq > $2 order by seq limit $3) as looked";
    AUDIT_COUNT = "select count(*) from (select kind, entity, id, actor from log where org = $1 \
        order by seq desc limit $2) as looked where (actor = $3 or $3 is null) \
        and (kind = $4 or $4 is null) and (entity = $5 or $5 is null) and (id = $6 or $6 is null)";
    AUDIT_SEAL_INSERT = "insert into audit_seal (last, first, entries, chain) \
        values ($1, $2, $3, $4)";
    AUDIT_SEALS = "select first, last, entries, chain from audit_seal where last > $1 \
        order by last limit $2";
    AUDIT_HEAD_GET = "select seq, seals, chain, mark, trimmed from audit_head where one = 1";
    AUDIT_HEAD_MOVE = "update audit_head set seq = $1, seals = $2, chain = $3, mark = $4 \
        where one = 1 and seals = $5";
}

/// The follower that seals the log.
pub const AUDIT_FOLLOWER: &str = "audit";

/// Entries that one page of a list looks at, at most: who asks for something rare
/// goes on with the cursor.
const LOOKED_AT_MAX: u32 = 10_000;
/// Seals, or entries, that are read at once to be checked.
const CHECKED_AT_ONCE: u32 = 1_000;

/// Which entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// What this key or holder of tokens did.
    pub actor: Option<KeyId>,
    /// Of exactly this type.
    pub event_type: Option<String>,
    /// Of this kind of thing.
    pub entity_type: Option<String>,
    /// Of the thing with this id.
    pub entity_id: Option<[u8; 16]>,
}

impl AuditFilter {
    fn values(&self) -> Vec<Value> {
        let entity_id = self.entity_id.map_or(Value::Null, Value::from);
        values![self.actor, self.event_type.as_ref(), self.entity_type.as_ref(), entity_id]
    }
}

/// What came of looking at every seal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditVerdict {
    /// Where the chain ends, to be kept elsewhere and compared another time.
    pub head: Option<ChainHead>,
    /// Entries that agree with their seals.
    pub entries: u64,
    /// Seals.
    pub seals: u64,
    /// Entries that went with their age; their seals stay.
    pub trimmed: i64,
    /// The newest entries, which are not sealed yet.
    pub unsealed: i64,
    /// Whether the end of the chain is marked with the installation's key.
    pub is_marked: bool,
    /// What does not hold, in words; the first [`AuditVerdict::FAULTS_MAX`].
    pub faults: Vec<String>,
}

impl AuditVerdict {
    /// Faults that are told.
    pub const FAULTS_MAX: usize = 100;

    fn fault(&mut self, what: String) {
        if self.faults.len() < Self::FAULTS_MAX {
            self.faults.push(what);
        }
    }
}

/// The stored end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredHead {
    /// The end.
    pub head: ChainHead,
    /// Its mark.
    pub mark: Option<Hash>,
    /// Entries up to here went with their age.
    pub trimmed: i64,
}

impl Write {
    /// Adds a seal, and moves the end of the chain there. Guard: the end is where
    /// `before` says.
    pub fn audit_seal(
        &mut self,
        before: &ChainHead,
        seal: &Seal,
        (after, mark): (&ChainHead, Option<Hash>),
    ) {
        let mark = mark.map_or(Value::Null, |mark| Value::Bytes(mark.to_vec()));
        self.add(
            &AUDIT_HEAD_MOVE,
            values![after.seq, after.seals, after.chain.to_vec(), mark, before.seals],
        )
        .expect_one(Probe::always(|| Error::new(Code::Conflict, "another process seals the log")));
        self.add(
            &AUDIT_SEAL_INSERT,
            values![seal.last, seal.first, seal.entries.to_vec(), seal.chain.to_vec()],
        );
    }
}

impl Store {
    /// A page of an organisation's entries. It looks at
    /// 10,000 entries at most, and goes on by cursor. The total is that of the newest [`FILTERED_TOTAL_MAX`]
    /// entries.
    pub async fn audit_list(
        &self,
        org: OrgId,
        filter: &AuditFilter,
        page: &PageRequest,
    ) -> Result<Page<LoggedEntry>> {
        let (list, reach, edge) = match page.order {
            Order::Ascending => (&AUDIT_LIST_ASC, &AUDIT_REACH_ASC, 0),
            Order::Descending => (&AUDIT_LIST_DESC, &AUDIT_REACH_DESC, i64::MAX),
        };
        let from = page.after.map_or(edge, place_of);
        let mut asked = values![org, from, LOOKED_AT_MAX];
        asked.extend(filter.values());
        asked.extend(values![page.limit, page.offset]);
        let items = self.scan(list, asked, entry).await?;
        let two = |row: &mut Columns<'_>| Ok((row.int()?, row.int()?));
        let reached = self.scan(reach, values![org, from, LOOKED_AT_MAX], two).await?;
        let (end, looked) = reached.first().copied().unwrap_or((0, 0));
        let next = if items.len() == page.limit as usize {
            items.last().map(|item| item.seq).filter(|seq| *seq != end)
        } else {
            None
        };
        let next = next.or((looked == i64::from(LOOKED_AT_MAX)).then_some(end));
        let mut counted = values![org, FILTERED_TOTAL_MAX];
        counted.extend(filter.values());
        let total = self.scan(&AUDIT_COUNT, counted, value::int).await?;
        let total = total.first().copied().unwrap_or(0).unsigned_abs();
        let all = self.scan(&AUDIT_REACH_DESC, values![org, i64::MAX, FILTERED_TOTAL_MAX], two);
        let all = all.await?.first().map_or(0, |(_, looked)| *looked);
        let total_capped = all == i64::from(FILTERED_TOTAL_MAX);
        Ok(Page { items, total, total_capped, limit: page.limit, next: next.map(cursor_of) })
    }

    /// Where the chain of seals ends.
    pub async fn audit_head(&self) -> Result<StoredHead> {
        let head = self.point(&AUDIT_HEAD_GET, values![], head).await?;
        head.ok_or_else(|| StoreError::unreadable("the end of the chain of seals"))
    }
}

/// A place of the log as lists have their cursors.
fn cursor_of(seq: i64) -> [u8; 16] {
    u128::from(seq.unsigned_abs()).to_be_bytes()
}

fn place_of(cursor: [u8; 16]) -> i64 {
    i64::try_from(u128::from_be_bytes(cursor)).unwrap_or(i64::MAX)
}

fn head(row: &mut Columns<'_>) -> Result<StoredHead> {
    let head = ChainHead { seq: row.int()?, seals: row.int()?, chain: hash(row.bytes()?)? };
    let mark = row.opt_bytes()?.map(hash).transpose()?;
    Ok(StoredHead { head, mark, trimmed: row.int()? })
}

fn seal(row: &mut Columns<'_>) -> Result<Seal> {
    let (first, last) = (row.int()?, row.int()?);
    Ok(Seal { first, last, entries: hash(row.bytes()?)?, chain: hash(row.bytes()?)? })
}

fn hash(bytes: Vec<u8>) -> Result<Hash> {
    <[u8; HASH_BYTES]>::try_from(bytes).map_err(|_| StoreError::unreadable("a hash"))
}

/// One look at the stored data at one moment, beside whoever serves it.
enum Look {
    Sqlite(rusqlite::Connection),
    Postgres(Box<tokio_postgres::Client>),
}

impl Look {
    async fn begin(options: &Options) -> Result<Self> {
        if let Some(url) = &options.database {
            let client = Target::parse(url)?.look_around().await?;
            client.batch_execute("begin isolation level repeatable read read only").await?;
            return Ok(Self::Postgres(Box::new(client)));
        }
        let connection = sqlite::open_reader(&options.data.join(FILE_NAME))?;
        connection.execute_batch("begin")?;
        Ok(Self::Sqlite(connection))
    }

    async fn rows<T>(&self, sql: &'static Sql, values: &[Value], map: Map<T>) -> Result<Vec<T>> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql.sqlite)?;
                let mut rows = statement.query(params_from_iter(values))?;
                let mut found = Vec::new();
                while let Some(row) = rows.next()? {
                    found.push(map(&mut Columns::new(RowRef::Sqlite(row)))?);
                }
                Ok(found)
            }
            Self::Postgres(client) => {
                let values: Vec<&(dyn ToSql + Sync)> =
                    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
                let rows = client.query(sql.postgres, &values).await?;
                let read = |row| map(&mut Columns::new(RowRef::Postgres(row)));
                rows.iter().map(read).collect()
            }
        }
    }

    async fn one<T>(&self, sql: &'static Sql, map: Map<T>) -> Result<T> {
        let mut rows = self.rows(sql, &[], map).await?;
        rows.pop().ok_or_else(|| StoreError::unreadable("a row that is always there"))
    }
}

/// Looks whether the log agrees with its seals, and the seals with each other. The
/// end of the chain must have this key's mark, when there is a key, and must lie
/// at or behind `expected`, an end that was told earlier.
pub async fn verify(
    options: &Options,
    key: Option<&[u8; 32]>,
    expected: Option<ChainHead>,
) -> Result<AuditVerdict> {
    let look = Look::begin(options).await?;
    let mut verdict = AuditVerdict::default();
    let stored = look.one(&AUDIT_HEAD_GET, head).await?;
    let log_end = look.one(&LOG_HEAD, value::int).await?;
    let oldest = look.one(&LOG_OLDEST, value::int).await?;
    verdict.head = Some(stored.head);
    verdict.trimmed = stored.trimmed;
    verdict.unsealed = (log_end - stored.head.seq.max(stored.trimmed)).max(0);
    if oldest - 1 > stored.trimmed {
        verdict.fault(format!(
            "entries {} to {} are gone, and not for their age",
            stored.trimmed + 1,
            oldest - 1
        ));
    }
    let mut end = ChainHead::EMPTY;
    let mut met = expected.is_none_or(|expected| expected.seals == 0);
    loop {
        let seals =
            look.rows(&AUDIT_SEALS, &[end.seq.into(), CHECKED_AT_ONCE.into()], seal).await?;
        if seals.is_empty() {
            break;
        }
        for seal in seals {
            let what = format!("the seal of entries {} to {}", seal.first, seal.last);
            if !seal.follows(&end.chain) {
                verdict.fault(format!(
                    "{what} is not the one that follows: it or one before it was changed, taken \
                     out or put in"
                ));
            }
            if seal.first > stored.trimmed {
                check_entries(&look, &seal, &mut verdict).await?;
            }
            end = end.after(&seal);
            met |= expected == Some(end);
        }
    }
    verdict.seals = end.seals.unsigned_abs();
    if end != stored.head {
        verdict.fault(format!(
            "there are {} seals up to entry {}, and there were {} up to entry {}",
            end.seals, end.seq, stored.head.seals, stored.head.seq
        ));
    }
    if log_end < stored.head.seq {
        verdict.fault(format!(
            "the log ends at entry {log_end}, and was sealed up to entry {}",
            stored.head.seq
        ));
    }
    check_mark(&stored, key, &mut verdict);
    if let Some(expected) = expected.filter(|_| !met) {
        verdict.fault(format!(
            "there was a seal up to entry {} that is not there any more",
            expected.seq
        ));
    }
    Ok(verdict)
}

fn check_mark(stored: &StoredHead, key: Option<&[u8; 32]>, verdict: &mut AuditVerdict) {
    if stored.head == ChainHead::EMPTY {
        return;
    }
    let Some(key) = key else { return };
    match stored.mark {
        Some(mark) if mark == stored.head.mark(key) => verdict.is_marked = true,
        Some(_) => verdict.fault(
            "the end of the chain does not have this installation's mark: it was changed, or \
             the sealing key was"
                .to_owned(),
        ),
        None => verdict.fault(
            "the end of the chain has no mark: it was changed, or sealed without a sealing key"
                .to_owned(),
        ),
    }
}

async fn check_entries(look: &Look, seal: &Seal, verdict: &mut AuditVerdict) -> Result<()> {
    let mut hash = EntriesHash::default();
    let (mut after, mut count) = (seal.first - 1, 0);
    while after < seal.last {
        let wanted = (seal.last - after).min(i64::from(CHECKED_AT_ONCE));
        let entries = look.rows(&LOG_READ_ALL, &[after.into(), wanted.into()], entry).await?;
        let of_seal: Vec<&LoggedEntry> =
            entries.iter().take_while(|entry| entry.seq <= seal.last).collect();
        let Some(last) = of_seal.last() else { break };
        after = last.seq;
        count += of_seal.len() as i64;
        of_seal.iter().for_each(|entry| hash.add(entry));
    }
    let missing = seal.last - seal.first + 1 - count;
    if missing > 0 {
        verdict.fault(format!("of entries {} to {} {missing} are gone", seal.first, seal.last));
    } else if hash.finish() != seal.entries {
        verdict.fault(format!("one of the entries {} to {} was changed", seal.first, seal.last));
    } else {
        verdict.entries += count.unsigned_abs();
    }
    Ok(())
}

/// Whether a chain can go on from here: it is empty, or has this key's mark.
pub fn goes_on(stored: &StoredHead, key: Option<&[u8; 32]>) -> bool {
    stored.head.chain == CHAIN_BEGIN
        || key.is_none_or(|key| stored.mark == Some(stored.head.mark(key)))
}
