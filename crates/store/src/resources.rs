//! Resources in the store. Each is a table of one form: the key, the columns by
//! which it is found, its head, and its document as clients read it. A resource
//! says what its table and columns are ([`Table`]); the statements follow from
//! that, and are put together once, when they are first used.

use std::fmt::Write as _;

use agentry_domain::{Code, Document, Error, OrgId, Page, PageRequest, Resource, ResourceId};

use crate::lists::{cursor, list_page};
use crate::sql::Sql;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

/// A column by which a resource is found.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    name: &'static str,
    found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// By statements of the resource's own, or a unique index.
    Elsewhere,
    /// By a list's filter.
    Filter,
    /// By a list's filter, with the index `(org, column, id)`.
    Index,
}

impl Column {
    /// A column that lists do not filter by.
    pub const fn plain(name: &'static str) -> Self {
        Self { name, found: Found::Elsewhere }
    }

    /// A column that lists filter by while they go through the organisation's rows.
    pub const fn filter(name: &'static str) -> Self {
        Self { name, found: Found::Filter }
    }

    /// A column that lists filter by, with an index `(org, column, id)` that is
    /// called `TABLE_by_COLUMN`.
    pub const fn index(name: &'static str) -> Self {
        Self { name, found: Found::Index }
    }
}

/// A resource that has a table.
pub trait Table: Resource {
    /// The table.
    const TABLE: &'static str;
    /// The columns beside key, head and document.
    const COLUMNS: &'static [Column];
    /// The counter of an organisation's rows.
    const COUNTER: &'static str;
    /// What a list can be filtered by.
    type Filter: Default + PartialEq + Send + Sync;

    /// The values of [`Table::COLUMNS`].
    fn columns(&self) -> Vec<Value>;

    /// What is asked of each column that lists filter by, in the order of
    /// [`Table::COLUMNS`]; null for whatever.
    fn asked(filter: &Self::Filter) -> Vec<Value>;

    /// What it means that a unique index refuses a row.
    fn taken() -> Error {
        Error::new(Code::AlreadyExists, format!("this {} exists already", Self::KIND.as_str()))
    }

    /// The statements: a static, made by [`Statements::of`].
    fn statements() -> &'static Statements;
}

/// The statements of a resource's table.
#[derive(Debug)]
pub struct Statements {
    /// The table, and the counter of its rows.
    pub(crate) counted: (&'static str, &'static str),
    insert: Sql,
    update: Sql,
    delete: Sql,
    version: Sql,
    get: Sql,
    all: Direction,
    /// Lists with filters: for each indexed column one that begins with it, and
    /// last one that begins with none.
    filtered: Vec<Filtered>,
}

/// A list in both directions.
#[derive(Debug)]
struct Direction {
    ascending: Sql,
    descending: Sql,
}

#[derive(Debug)]
struct Filtered {
    /// The place among the filters of the column whose index is used.
    index: Option<usize>,
    list: Direction,
    count: Sql,
}

/// What [`document`] reads.
const DOCUMENT: &str = "id, version, created_at, updated_at, shape, document";

impl Statements {
    /// Puts the statements of a table together.
    pub fn of<R: Table>() -> Self {
        let table = R::TABLE;
        let named =
            |name: &str, text: String| Sql::composed(format!("{table}_{name}"), text.clone(), text);
        let columns: Vec<&str> = R::COLUMNS.iter().map(|column| column.name).collect();
        let head = ["version", "created_at", "updated_at", "shape", "document"];
        let all: Vec<&str> = ["org", "id"].into_iter().chain(columns.clone()).chain(head).collect();
        let changed: Vec<&str> =
            columns.iter().copied().chain(["version", "updated_at", "shape", "document"]).collect();
        let sets: Vec<String> =
            changed.iter().zip(1..).map(|(column, n)| format!("{column} = ${n}")).collect();
        let places: Vec<String> = (1..=all.len()).map(|n| format!("${n}")).collect();
        let (next, keys) = (sets.len() + 1, "where org = $1 and id = $2");
        let filters: Vec<Column> =
            R::COLUMNS.iter().copied().filter(|it| it.found != Found::Elsewhere).collect();
        let indexed = filters.iter().zip(0..).filter(|(column, _)| column.found == Found::Index);
        let leads = indexed.map(|(_, place)| Some(place)).chain([None]);
        Self {
            counted: (table, R::COUNTER),
            insert: named(
                "insert",
                format!("insert into {table} ({}) values ({})", all.join(", "), places.join(", ")),
            ),
            update: named(
                "update",
                format!(
                    "update {table} set {} where org = ${next} and id = ${} and version = ${}",
                    sets.join(", "),
                    next + 1,
                    next + 2
                ),
            ),
            delete: named("delete", format!("delete from {table} {keys} and version = $3")),
            version: named("version", format!("select version from {table} {keys}")),
            get: named("get", format!("select {DOCUMENT} from {table} {keys}")),
            all: Direction::of(table, "", "list", "org = $1", 2, ""),
            filtered: leads.map(|lead| Filtered::of(table, &filters, lead)).collect(),
        }
    }

    /// Reads one by its id.
    pub(crate) fn by_id(&self) -> &Sql {
        &self.get
    }

    /// Every statement.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Sql> {
        let Direction { ascending, descending } = &self.all;
        [&self.insert, &self.update, &self.delete, &self.version, &self.get, ascending, descending]
            .into_iter()
            .chain(self.filtered.iter().flat_map(|filtered| {
                [&filtered.list.ascending, &filtered.list.descending, &filtered.count]
            }))
    }
}

impl Direction {
    /// `index` is SQLite's clause that names one. `first` is the number of the
    /// parameter after which the list goes on, which stands behind `known` and
    /// before `asked`.
    fn of(table: &str, index: &str, name: &str, known: &str, first: usize, asked: &str) -> Self {
        let last = asked.matches("is null").count() + first;
        let list = |way: &str, beyond: char, order: &str| {
            let from = |index: &str| {
                format!(
                    "select {DOCUMENT} from {table}{index} where {known} and id {beyond} \
                     ${first}{asked} order by id{order} limit ${} offset ${}",
                    last + 1,
                    last + 2
                )
            };
            Sql::composed(format!("{table}_{name}_{way}"), from(index), from(""))
        };
        Self { ascending: list("asc", '>', ""), descending: list("desc", '<', " desc") }
    }
}

impl Filtered {
    fn of(table: &str, filters: &[Column], index: Option<usize>) -> Self {
        let asked = |mut next: usize| {
            let mut text = String::new();
            for (place, column) in filters.iter().enumerate() {
                if Some(place) != index {
                    // Writing to a String cannot fail.
                    let _ = write!(text, " and ({} = ${next} or ${next} is null)", column.name);
                    next += 1;
                }
            }
            (text, next)
        };
        let lead = index.map(|place| filters[place].name);
        let known = lead.map_or("org = $1".to_owned(), |lead| format!("org = $1 and {lead} = $2"));
        let first = if index.is_some() { 3 } else { 2 };
        // Without statistics SQLite takes the order of the key for worth more
        // than a second column that is known, and would walk an organisation.
        let by = lead.map_or(String::new(), |lead| format!(" indexed by {table}_by_{lead}"));
        let name = lead.map_or("filter".to_owned(), |lead| format!("by_{lead}"));
        let (counted, limit) = asked(first);
        let count = |index: &str| {
            format!(
                "select count(*) from (select 1 from {table}{index} where {known}{counted} \
                 limit ${limit}) as counted"
            )
        };
        Self {
            index,
            list: Direction::of(table, &by, &name, &known, first, &asked(first + 1).0),
            count: Sql::composed(format!("{table}_{name}_count"), count(&by), count("")),
        }
    }
}

/// The error for a resource that is not there.
pub fn missing<R: Resource>(id: R::Id) -> Error {
    Error::not_found(R::KIND.as_str(), id)
}

/// The error for a resource that has another version than the one named.
pub fn changed<R: Resource>(id: R::Id, version: i64) -> Error {
    Error::new(
        Code::PreconditionFailed,
        format!("{} {id} has changed; its version is now {version}", R::KIND.as_str()),
    )
}

fn version_guard<R: Table>(org: OrgId, id: R::Id) -> Probe {
    Probe::read(&R::statements().version, values![org, id.bytes()], move |version| match version {
        None => missing::<R>(id),
        Some(version) => changed::<R>(id, version),
    })
}

impl Write {
    /// Stores a new resource.
    pub fn resource_insert<R: Table>(&mut self, body: &R, document: &Document<R>) {
        let mut bound = values![self.org, document.id.bytes()];
        bound.extend(body.columns());
        bound.extend(values![
            document.version,
            document.created_at,
            document.updated_at,
            R::SHAPE,
            &document.json,
        ]);
        self.add(&R::statements().insert, bound).taken_means(R::taken);
        self.count(R::COUNTER, &[], 1);
    }

    /// Stores the next version of a resource, if nothing came between it and
    /// the version before.
    pub fn resource_update<R: Table>(&mut self, body: &R, document: &Document<R>) {
        self.contend(document.id.bytes());
        let guard = version_guard::<R>(self.org, document.id);
        let mut bound = body.columns();
        bound.extend(values![
            document.version,
            document.updated_at,
            R::SHAPE,
            &document.json,
            self.org,
            document.id.bytes(),
            document.version - 1,
        ]);
        self.add(&R::statements().update, bound).taken_means(R::taken).expect_one(guard);
    }

    /// Deletes a resource of this version.
    pub fn resource_delete<R: Table>(&mut self, id: R::Id, version: i64) {
        self.contend(id.bytes());
        let guard = version_guard::<R>(self.org, id);
        self.add(&R::statements().delete, values![self.org, id.bytes(), version]).expect_one(guard);
        self.count(R::COUNTER, &[], -1);
    }
}

impl Store {
    /// The resource with this id.
    pub async fn resource_get<R: Table>(
        &self,
        org: OrgId,
        id: R::Id,
    ) -> Result<Option<Document<R>>> {
        self.point(&R::statements().get, values![org, id.bytes()], document).await
    }

    /// A page of resources.
    pub async fn resource_list<R: Table>(
        &self,
        org: OrgId,
        filter: &R::Filter,
        page: &PageRequest,
    ) -> Result<Page<Document<R>>> {
        let id = |document: &Document<R>| document.id.bytes();
        let statements = R::statements();
        let (after, limit, offset) = cursor(page);
        if *filter == R::Filter::default() {
            let Direction { ascending, descending } = &statements.all;
            let sql = list_page(page, ascending, descending);
            let rows = self.list(page, sql, values![org, after, limit, offset], document).await?;
            let total = self.counter(org, R::COUNTER, &[]).await?;
            return Ok(Page::from_rows(rows, page, total, id));
        }
        let mut asked = R::asked(filter);
        let of = |filtered: &&Filtered| {
            filtered.index.is_none_or(|place| asked.get(place).is_some_and(|it| *it != Value::Null))
        };
        let Some(Filtered { index, list, count }) = statements.filtered.iter().find(of) else {
            return Err(StoreError::Bug(format!("{} has no filters", R::TABLE)));
        };
        let lead = index.map(|place| asked.remove(place));
        let sql = list_page(page, &list.ascending, &list.descending);
        let mut bound = values![org];
        bound.extend(lead.clone());
        bound.push(Value::from(after));
        bound.extend(asked.clone());
        bound.extend(values![limit, offset]);
        let rows = match index {
            Some(_) if asked.iter().all(|value| *value == Value::Null) => {
                self.list(page, sql, bound, document).await?
            }
            _ => self.scan(sql, bound, document).await?,
        };
        let filter = lead.into_iter().chain(asked).collect();
        self.filtered_page(rows, page, count, org, filter, id).await
    }
}

/// Reads a resource out of a row that begins with [`DOCUMENT`].
pub(crate) fn document<R: Table>(row: &mut Columns<'_>) -> Result<Document<R>> {
    let id = R::Id::of_bytes(row.id()?);
    let (version, created_at, updated_at) = (row.int()?, row.time()?, row.time()?);
    let stored = (row.int()?, row.text()?);
    Document::stored(id, version, created_at, updated_at, stored)
        .map_err(|error| StoreError::Bug(format!("{} {id}: {error:?}", R::TABLE)))
}
