//! What every list has in common: the cursor's bounds, the direction, and the
//! count of a filtered list.

use agentry_domain::page::FILTERED_TOTAL_MAX;
use agentry_domain::{Order, OrgId, Page, PageRequest};

use crate::sql::Sql;
use crate::value::{self, Columns, Value, values};
use crate::{Result, Store};

/// Lists up to this long are read on the calling thread on SQLite; a thread hop
/// costs more than they do.
pub(crate) const INLINE_ROWS_MAX: u32 = 50;
/// Lists that skip more than this are not read on the calling thread.
pub(crate) const INLINE_OFFSET_MAX: u32 = 500;

/// The values of a list's `id < after`, limit and offset. One row more than
/// asked for is read: it says whether there is a next page.
pub(crate) fn cursor(page: &PageRequest) -> ([u8; 16], i64, i64) {
    let edge = match page.order {
        Order::Ascending => [0; 16],
        Order::Descending => [0xff; 16],
    };
    (page.after.unwrap_or(edge), i64::from(page.limit) + 1, i64::from(page.offset))
}

/// The statement for the list's direction.
pub(crate) fn list_page(
    page: &PageRequest,
    ascending: &'static Sql,
    descending: &'static Sql,
) -> &'static Sql {
    match page.order {
        Order::Ascending => ascending,
        Order::Descending => descending,
    }
}

impl Store {
    /// Reads a list by its key: where the caller is when it is short.
    pub(crate) async fn list<T: Send + 'static>(
        &self,
        page: &PageRequest,
        sql: &'static Sql,
        bound: Vec<Value>,
        map: fn(&mut Columns<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        if page.limit <= INLINE_ROWS_MAX && page.offset <= INLINE_OFFSET_MAX {
            self.rows(sql, bound, map).await
        } else {
            self.scan(sql, bound, map).await
        }
    }

    /// A page of a filtered list: counted up to [`FILTERED_TOTAL_MAX`].
    pub(crate) async fn filtered_page<T>(
        &self,
        rows: Vec<T>,
        page: &PageRequest,
        count: &'static Sql,
        org: OrgId,
        filter: Vec<Value>,
        id: impl Fn(&T) -> [u8; 16],
    ) -> Result<Page<T>> {
        let mut bound = values![org];
        bound.extend(filter);
        bound.push(Value::from(FILTERED_TOTAL_MAX));
        let counted = self.scan(count, bound, value::int).await?;
        let total = counted.first().copied().unwrap_or(0).unsigned_abs();
        let mut page = Page::from_rows(rows, page, total, id);
        page.total_capped = total >= u64::from(FILTERED_TOTAL_MAX);
        Ok(page)
    }
}
