//! One transaction for several writes, in two flights: BEGIN with every
//! statement, and, when each did what it must, COMMIT.

use std::collections::HashMap;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::counters::COUNTER_ADD;
use crate::log::LOG_APPEND;
use crate::sql::Sql;
use crate::value::Value;
use crate::write::{CounterKey, Expect, Probe, Statement, Write, Written};
use crate::{Result, StoreError};

use super::connect::{Link, Ran, is_lost, run};
use super::marks::{MARK_GET, MARK_SET, Mark};
use super::pipeline::pipeline;
use super::values::owned;

/// Writes that only insert, in one group, from which on it pays to merge them.
const MERGED_MIN: usize = 3;
const BEGIN: &str = "begin isolation level read committed read write";

type Answer = std::result::Result<Ran, tokio_postgres::Error>;

/// A statement of a group.
#[derive(Clone, Copy)]
struct Place {
    write: usize,
    statement: usize,
}

/// Whose a request of the first flight is.
#[derive(Clone)]
enum Origin {
    /// One statement of one write.
    One(Place),
    /// The same statement of several writes.
    Several(Vec<usize>),
    /// The whole group's.
    Group,
}

/// How a transaction ended.
pub(super) enum Ended {
    /// It is on disk.
    Committed(Vec<Written>),
    /// Its COMMIT was sent and not answered.
    Unknown(Vec<Written>),
    /// Nothing of it is in the database: these writes did not do what they must.
    Refused(Vec<usize>),
    /// Nothing of it is in the database: the only write was refused, and why.
    Verdict(StoreError),
    /// Nothing of it is in the database: others were in the way.
    Again(StoreError),
    /// Nothing of it is in the database: the session is over.
    Lost(StoreError),
    /// Nothing of it is in the database: the storage failed.
    Failed(StoreError),
}

/// What went wrong in the first flight.
enum Wrong {
    /// A statement failed, and with it everything after it.
    Error { origin: Origin, error: tokio_postgres::Error, guards: Vec<Place> },
    /// Guards found what they must not: the first one of each write.
    Guards(Vec<Place>),
    /// A bug of ours, found here.
    Bug(StoreError),
}

/// Applies the writes in one transaction and commits it under a mark.
pub(super) async fn commit(link: &Link, mark: Mark, writes: &[&Write]) -> Ended {
    let written = match first_flight(link, mark, writes).await {
        Ok(written) => written,
        Err(wrong) => return undo(link, writes, wrong).await,
    };
    let mark_get = match link.statement(&MARK_GET) {
        Ok(statement) => statement,
        Err(error) => return roll_back(link, Ended::Failed(error)).await,
    };
    let requests: Vec<BoxFuture<'_, Answer>> = vec![
        async { link.client.batch_execute("commit").await.map(|()| nothing()) }.boxed(),
        run(&link.client, mark_get, [mark.writer]).boxed(),
    ];
    let mut answers = pipeline(requests).await.into_iter();
    match (answers.next(), answers.next()) {
        (Some(Ok(_)), Some(Ok(found))) => {
            match found.rows.first().map(|row| row.try_get::<_, i64>(0)) {
                Some(Ok(place)) if place == mark.place => Ended::Committed(written),
                _ => Ended::Failed(StoreError::Unavailable("a COMMIT was a ROLLBACK".into())),
            }
        }
        (Some(Err(error)), _) if !is_lost(&error) => {
            let again = stands_in_the_way(&error);
            let error = StoreError::from(error);
            if again { Ended::Again(error) } else { Ended::Failed(error) }
        }
        _ => Ended::Unknown(written),
    }
}

fn nothing() -> Ran {
    Ran { affected: 0, rows: Vec::new() }
}

fn stands_in_the_way(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| {
        [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
        ]
        .contains(state)
    })
}

/// Sends BEGIN and every statement, and checks every answer.
async fn first_flight(
    link: &Link,
    mark: Mark,
    writes: &[&Write],
) -> std::result::Result<Vec<Written>, Wrong> {
    let counts = Counts::of(writes);
    let entries = Entries::of(writes);
    let client = &link.client;
    let merged = Merged::of(link, writes);
    let mut origins = vec![Origin::Group];
    let mut requests: Vec<BoxFuture<'_, Answer>> = Vec::new();
    requests.push(async { client.batch_execute(BEGIN).await.map(|()| nothing()) }.boxed());
    for (write, it) in writes.iter().enumerate().filter(|(write, _)| !merged.holds(*write)) {
        for (statement, it) in it.statements.iter().enumerate() {
            if it.sql.postgres.is_empty() {
                continue;
            }
            let prepared = link.statement(it.sql).map_err(Wrong::Bug)?;
            origins.push(Origin::One(Place { write, statement }));
            requests.push(run(client, prepared, &it.values).boxed());
        }
    }
    for insert in &merged.inserts {
        origins.push(Origin::Several(insert.writes.clone()));
        requests.push(run(client, insert.statement, &insert.columns).boxed());
    }
    let full_text = writes.iter().flat_map(|write| &write.full_text);
    for (sql, values) in full_text.filter(|(sql, _)| !sql.postgres.is_empty()) {
        requests.push(run(client, link.statement(sql).map_err(Wrong::Bug)?, values).boxed());
    }
    if !counts.n.is_empty() {
        let prepared = link.statement(&COUNTER_ADD).map_err(Wrong::Bug)?;
        requests.push(run(client, prepared, counts.values()).boxed());
    }
    if !entries.at.is_empty() {
        let prepared = link.statement(&LOG_APPEND).map_err(Wrong::Bug)?;
        requests.push(run(client, prepared, entries.values()).boxed());
    }
    let prepared = link.statement(&MARK_SET).map_err(Wrong::Bug)?;
    requests.push(run(client, prepared, [mark.writer, mark.place]).boxed());
    check(writes, &origins, pipeline(requests).await)
}

/// Goes through the answers: BEGIN, the writes' statements, ours, the mark.
/// Requests after the last origin are the group's.
fn check(
    writes: &[&Write],
    origins: &[Origin],
    answers: Vec<Answer>,
) -> std::result::Result<Vec<Written>, Wrong> {
    let mut written = vec![Written::default(); writes.len()];
    let mut guards: Vec<Place> = Vec::new();
    let mut last = 0;
    for (nth, answer) in answers.into_iter().enumerate() {
        let origin = origins.get(nth).unwrap_or(&Origin::Group);
        let ran = match answer {
            Ok(ran) => ran,
            Err(error) => return Err(Wrong::Error { origin: origin.clone(), error, guards }),
        };
        last = ran.affected;
        let Origin::One(place) = *origin else { continue };
        let statement = &writes[place.write].statements[place.statement];
        let stands = matches!(statement.expect, Expect::Any) || ran.affected == 1;
        if !stands && guards.last().is_none_or(|seen| seen.write != place.write) {
            guards.push(place);
        }
        if statement.returns {
            let rows = ran.rows.iter().map(owned).collect::<Result<_>>().map_err(Wrong::Bug)?;
            written[place.write].rows.push((place.statement, rows));
        }
    }
    if !guards.is_empty() {
        return Err(Wrong::Guards(guards));
    }
    // The mark's own row may have been tidied away after a day without writes.
    if last != 1 {
        let error = StoreError::Unavailable("the session's mark is gone".into());
        return Err(Wrong::Bug(error));
    }
    Ok(written)
}

/// Rolls back and says what the transaction's end means.
async fn undo(link: &Link, writes: &[&Write], wrong: Wrong) -> Ended {
    match wrong {
        Wrong::Bug(error @ StoreError::Unavailable(_)) => roll_back(link, Ended::Lost(error)).await,
        Wrong::Bug(error) => roll_back(link, Ended::Failed(error)).await,
        Wrong::Error { error, .. } if is_lost(&error) => Ended::Lost(error.into()),
        Wrong::Error { error, .. } if stands_in_the_way(&error) => {
            roll_back(link, Ended::Again(error.into())).await
        }
        // What a failed guard let through is no wonder: the guard's is the verdict.
        Wrong::Error { guards, .. } if !guards.is_empty() => {
            match roll_back(link, Ended::Refused(vec![])).await {
                Ended::Refused(_) => refuse(link, writes, &guards).await,
                ended => ended,
            }
        }
        Wrong::Error { origin, error, .. } => {
            let ended = match (StoreError::from(error), writes) {
                (error @ (StoreError::Full(_) | StoreError::Unavailable(_)), _) => {
                    Ended::Failed(error)
                }
                (error, [write]) => match origin {
                    Origin::One(place) => {
                        Ended::Verdict(taken(error, &write.statements[place.statement]))
                    }
                    _ => Ended::Verdict(error),
                },
                (_, writes) => Ended::Refused(match origin {
                    Origin::One(place) => vec![place.write],
                    Origin::Several(writes) => writes,
                    // One of them does not fit in; alone, the others do.
                    Origin::Group => (0..writes.len()).collect(),
                }),
            };
            roll_back(link, ended).await
        }
        Wrong::Guards(guards) => {
            // The transaction stands, so a probe sees what its guard saw.
            let ended = refuse(link, writes, &guards).await;
            roll_back(link, ended).await
        }
    }
}

/// The verdict on a single write; of several, which ones it concerns.
async fn refuse(link: &Link, writes: &[&Write], places: &[Place]) -> Ended {
    if let ([write], [place, ..]) = (writes, places)
        && let Expect::One(probe) = &write.statements[place.statement].expect
    {
        return ask(link, probe).await;
    }
    Ended::Refused(places.iter().map(|place| place.write).collect())
}

fn taken(error: StoreError, statement: &Statement) -> StoreError {
    match (&error, &statement.taken) {
        (StoreError::Taken, Some(taken)) => StoreError::Refused(taken()),
        _ => error,
    }
}

async fn ask(link: &Link, probe: &Probe) -> Ended {
    let found = match &probe.read {
        None => Ok(None),
        Some((sql, values)) => first_int(link, sql, values).await,
    };
    match found {
        Ok(found) => Ended::Verdict(StoreError::Refused((probe.verdict)(found))),
        Err(error @ StoreError::Unavailable(_)) => Ended::Lost(error),
        Err(error) => Ended::Failed(error),
    }
}

async fn first_int(link: &Link, sql: &'static Sql, values: &[Value]) -> Result<Option<i64>> {
    let ran = run(&link.client, link.statement(sql)?, values).await?;
    Ok(ran.rows.first().map(|row| row.try_get(0)).transpose()?.flatten())
}

async fn roll_back(link: &Link, ended: Ended) -> Ended {
    match link.client.batch_execute("rollback").await {
        Ok(()) => ended,
        // Whatever it was, it is over with the session; a verdict stays one.
        Err(error) => match ended {
            Ended::Verdict(_) | Ended::Failed(_) => ended,
            _ => Ended::Lost(error.into()),
        },
    }
}

/// The inserts of writes that only insert: one statement for each kind of row.
///
/// Such a write asks nothing of the others of its group and is asked nothing by
/// them, so its rows may go in at any time of the transaction.
struct Merged<'a> {
    inserts: Vec<Insert<'a>>,
    /// Which writes are in `inserts`.
    writes: Vec<bool>,
}

struct Insert<'a> {
    sql: &'static Sql,
    statement: &'a tokio_postgres::Statement,
    /// The values of all its rows, column by column.
    columns: Vec<Vec<&'a Value>>,
    writes: Vec<usize>,
}

impl<'a> Merged<'a> {
    fn of(link: &'a Link, writes: &[&'a Write]) -> Self {
        let only_inserts = |write: &&Write| {
            let mut statements = write.statements.iter();
            write.full_text.is_empty()
                && statements.all(|it| {
                    matches!(it.expect, Expect::Any) && !it.returns && link.merged(it.sql).is_some()
                })
        };
        let mut merged =
            Self { inserts: Vec::new(), writes: writes.iter().map(only_inserts).collect() };
        if merged.writes.iter().filter(|only_inserts| **only_inserts).count() < MERGED_MIN {
            merged.writes.fill(false);
        }
        for (nth, write) in writes.iter().enumerate() {
            if merged.writes[nth] {
                for statement in &write.statements {
                    merged.add(link, nth, statement);
                }
            }
        }
        merged
    }

    fn add(&mut self, link: &'a Link, write: usize, statement: &'a Statement) {
        let Some(prepared) = link.merged(statement.sql) else { return };
        let known = self.inserts.iter().position(|insert| std::ptr::eq(insert.sql, statement.sql));
        let place = known.unwrap_or_else(|| {
            let columns = vec![Vec::new(); statement.values.len()];
            let sql = statement.sql;
            self.inserts.push(Insert { sql, statement: prepared, columns, writes: Vec::new() });
            self.inserts.len() - 1
        });
        let insert = &mut self.inserts[place];
        for (column, value) in insert.columns.iter_mut().zip(&statement.values) {
            column.push(value);
        }
        if insert.writes.last() != Some(&write) {
            insert.writes.push(write);
        }
    }

    fn holds(&self, write: usize) -> bool {
        self.writes[write]
    }
}

/// The counter changes of a group, one per counter, as columns.
struct Counts<'a> {
    org: Vec<Vec<u8>>,
    kind: Vec<&'static str>,
    key: Vec<&'a [u8]>,
    n: Vec<i64>,
}

impl<'a> Counts<'a> {
    fn of(writes: &[&'a Write]) -> Self {
        let mut sums: HashMap<&'a CounterKey, i64> = HashMap::new();
        for (key, delta) in writes.iter().flat_map(|write| &write.counts) {
            *sums.entry(key).or_default() += delta;
        }
        let mut counts = Self { org: vec![], kind: vec![], key: vec![], n: vec![] };
        for (key, n) in sums.into_iter().filter(|(_, n)| *n != 0) {
            counts.org.push(key.org.to_bytes().to_vec());
            counts.kind.push(key.kind);
            counts.key.push(&key.key);
            counts.n.push(n);
        }
        counts
    }

    fn values(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.org, &self.kind, &self.key, &self.n]
    }
}

/// The log entries of a group, in order, as columns.
#[derive(Default)]
struct Entries<'a> {
    org: Vec<Vec<u8>>,
    at: Vec<i64>,
    kind: Vec<&'static str>,
    entity: Vec<&'static str>,
    id: Vec<&'a [u8]>,
    actor: Vec<Option<Vec<u8>>>,
    data: Vec<&'a str>,
    address: Vec<Option<String>>,
}

impl<'a> Entries<'a> {
    fn of(writes: &[&'a Write]) -> Self {
        let mut entries = Self::default();
        for (write, entry) in writes.iter().flat_map(|w| w.log.iter().map(move |e| (w, e))) {
            entries.org.push(write.org.to_bytes().to_vec());
            entries.at.push(entry.at.micros());
            entries.kind.push(entry.kind);
            entries.entity.push(entry.entity.as_str());
            entries.id.push(&entry.id);
            entries.actor.push(entry.actor.map(|actor| actor.to_bytes().to_vec()));
            entries.data.push(&entry.data);
            entries.address.push(entry.address.map(|address| address.to_string()));
        }
        entries
    }

    fn values(&self) -> [&(dyn ToSql + Sync); 8] {
        [
            &self.org,
            &self.at,
            &self.kind,
            &self.entity,
            &self.id,
            &self.actor,
            &self.data,
            &self.address,
        ]
    }
}
