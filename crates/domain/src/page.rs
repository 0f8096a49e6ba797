//! Lists come in pages: by cursor (the id after which to go on) or by number.

use crate::named;

/// Items in one page when the caller does not say.
pub const PAGE_ITEMS_DEFAULT: u32 = 50;
/// Items in one page at most.
pub const PAGE_ITEMS_MAX: u32 = 500;
/// Rows a page number may skip; a caller who goes on further uses the cursor,
/// whose cost does not grow.
pub const PAGE_OFFSET_MAX: u32 = 100_000;
/// Filtered lists are counted up to this many.
pub const FILTERED_TOTAL_MAX: u32 = 10_000;

named! {
    /// The order of a list, by id and so by creation.
    #[derive(Default)]
    pub enum Order {
        /// Oldest first.
        Ascending = "asc",
        /// Newest first.
        #[default]
        Descending = "desc",
    }
}

/// Which part of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// How many items, 1 to [`PAGE_ITEMS_MAX`].
    pub limit: u32,
    /// The id after which to go on, in the list's order.
    pub after: Option<[u8; 16]>,
    /// How many items to skip; only with page numbers, and then `after` is none.
    pub offset: u32,
    /// The order.
    pub order: Order,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: PAGE_ITEMS_DEFAULT, after: None, offset: 0, order: Order::default() }
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// How many there are in all.
    pub total: u64,
    /// Whether counting stopped at [`FILTERED_TOTAL_MAX`].
    pub total_capped: bool,
    /// The limit that was applied.
    pub limit: u32,
    /// The cursor of the next page; none on the last.
    pub next: Option<[u8; 16]>,
}

impl<T> Page<T> {
    /// Makes a page of up to `limit` items out of `limit + 1` rows: the extra
    /// row says that there is a next page.
    pub fn from_rows(
        mut items: Vec<T>,
        request: &PageRequest,
        total: u64,
        id: impl Fn(&T) -> [u8; 16],
    ) -> Self {
        let limit = request.limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(id) } else { None };
        Self { items, total, total_capped: false, limit: request.limit, next }
    }

    /// The same page of something else.
    pub fn map<U>(self, map: impl FnMut(T) -> U) -> Page<U> {
        let Self { items, total, total_capped, limit, next } = self;
        Page { items: items.into_iter().map(map).collect(), total, total_capped, limit, next }
    }
}
