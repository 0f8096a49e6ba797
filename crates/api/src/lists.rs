//! Lists: which part of one is asked for, and how a page is answered.

use std::fmt::Write as _;

use agentry_domain::page::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, PAGE_OFFSET_MAX};
use agentry_domain::{Document, Order, Page, PageRequest, Resource, Result};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::{Handled, json, json_text};
use crate::fields::Fields;

/// Room for what stands around a list's items.
const LIST_FRAME_BYTES: usize = 160;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The items.
    items: Vec<T>,
    /// How many there are in all.
    total: u64,
    /// Whether counting stopped before the end; only with filters.
    total_capped: bool,
    /// The most items that this page could have.
    limit: u32,
    /// Give it as `cursor` for the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Answers a page whose items are written by `item`.
pub fn list<'a, T, A: Serialize>(
    page: &'a Page<T>,
    order: Order,
    item: impl Fn(&'a T) -> Result<A>,
) -> Handled {
    let list = List {
        items: page.items.iter().map(item).collect::<Result<Vec<A>>>()?,
        total: page.total,
        total_capped: page.total_capped,
        limit: page.limit,
        next_cursor: page.next.map(|id| Cursor { order, id }.to_text()),
    };
    json(StatusCode::OK, &list)
}

/// Answers a page of documents, which are joined as they are.
pub fn documents<R: Resource>(page: &Page<Document<R>>, order: Order) -> Handled {
    let bytes: usize = page.items.iter().map(|document| document.json.len() + 1).sum();
    let mut json = String::with_capacity(bytes + LIST_FRAME_BYTES);
    json.push_str(r#"{"items":["#);
    for (nth, document) in page.items.iter().enumerate() {
        if nth > 0 {
            json.push(',');
        }
        json.push_str(&document.json);
    }
    let Page { total, total_capped, limit, .. } = page;
    // Writing to a String cannot fail.
    let _ = write!(json, r#"],"total":{total},"total_capped":{total_capped},"limit":{limit}"#);
    let _ = match page.next {
        Some(id) => write!(json, r#","next_cursor":"{}"}}"#, Cursor { order, id }.to_text()),
        None => write!(json, r#","next_cursor":null}}"#),
    };
    Ok(json_text(StatusCode::OK, json))
}

/// Reads which part of a list is asked for: by `limit` and `cursor`, or by `page`
/// and `page_size`. `order` is what holds when neither `order` nor a cursor says.
pub fn page_request(fields: &mut Fields, order: Order) -> PageRequest {
    let by_page = fields.has("page");
    let with_cursor = fields.has("cursor");
    let both_sizes = fields.has("limit") && fields.has("page_size");
    let size = 1..=i64::from(PAGE_ITEMS_MAX);
    let limit = fields
        .integer("limit", size.clone())
        .about("How many items at most.")
        .or(i64::from(PAGE_ITEMS_DEFAULT));
    let cursor = fields
        .text("cursor", 1..=CURSOR_CHARS)
        .about("Where to go on: the `next_cursor` of the page before.")
        .optional();
    let page = fields
        .integer("page", 1..=i64::from(PAGE_OFFSET_MAX))
        .about("The number of a page, from 1, instead of a cursor.")
        .optional();
    let page_size = fields.integer("page_size", size).about("Another name of `limit`.").optional();
    let asked_order = fields.choice::<Order>("order").about("The order, by creation.").optional();

    let limit = page_size.unwrap_or(limit);
    let offset = page.map_or(0, |page| (page - 1) * limit);
    if by_page && with_cursor {
        fields.fault("cursor", "exclusive", "goes with limit, not with page");
    }
    if both_sizes {
        fields.fault("page_size", "exclusive", "means the same as limit; send one");
    }
    if offset > i64::from(PAGE_OFFSET_MAX) {
        let detail = format!("skips more than {PAGE_OFFSET_MAX} items; go on with the cursor");
        fields.fault("page", "out_of_range", detail);
    }
    let cursor = cursor.and_then(|text| {
        let cursor = Cursor::parse(&text);
        if cursor.is_none() {
            fields.fault("cursor", "not_a_cursor", "is no next_cursor of a list");
        }
        cursor
    });
    if let (Some(cursor), Some(asked)) = (cursor, asked_order)
        && cursor.order != asked
    {
        fields.fault("order", "exclusive", "the cursor goes the other way");
    }
    PageRequest {
        limit: u32::try_from(limit).unwrap_or(PAGE_ITEMS_MAX),
        after: cursor.map(|cursor| cursor.id),
        offset: u32::try_from(offset).unwrap_or(PAGE_OFFSET_MAX),
        order: cursor.map(|cursor| cursor.order).or(asked_order).unwrap_or(order),
    }
}

/// Where a list goes on: opaque to clients, so that what it holds may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cursor {
    order: Order,
    id: [u8; 16],
}

const CURSOR_BYTES: usize = 1 + 16 + 2;
/// In base-16.
const CURSOR_CHARS: usize = CURSOR_BYTES * 2;

impl Cursor {
    fn to_text(self) -> String {
        let mut text = String::with_capacity(CURSOR_CHARS);
        for byte in self.bytes() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; CURSOR_BYTES];
        if text.len() != CURSOR_CHARS || !text.is_ascii() {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
        }
        let order = if bytes[0] == 0 { Order::Ascending } else { Order::Descending };
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[1..17]);
        let cursor = Self { order, id };
        (cursor.bytes() == bytes).then_some(cursor)
    }

    fn bytes(self) -> [u8; CURSOR_BYTES] {
        let mut bytes = [0; CURSOR_BYTES];
        bytes[0] = match self.order {
            Order::Ascending => 0,
            Order::Descending => 1,
        };
        bytes[1..17].copy_from_slice(&self.id);
        let check = check(&bytes[..17]);
        bytes[17..].copy_from_slice(&check.to_be_bytes());
        bytes
    }
}

/// Tells a mangled cursor from a whole one (FNV-1a, folded). It keeps no secret:
/// a made-up cursor only chooses where in one's own list to begin.
fn check(bytes: &[u8]) -> u16 {
    let hash = bytes
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{FromFields, read_query};

    struct Asked(PageRequest);

    impl FromFields for Asked {
        fn read(fields: &mut Fields) -> Self {
            Self(page_request(fields, Order::default()))
        }
    }

    fn asked(query: &[(&str, &str)]) -> Result<PageRequest, Vec<String>> {
        let pairs = query.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        read_query::<Asked>(pairs)
            .map(|asked| asked.0)
            .map_err(|error| error.faults.into_iter().map(|fault| fault.pointer).collect())
    }

    #[test]
    fn a_cursor_comes_back_whole_or_not_at_all() {
        for order in [Order::Ascending, Order::Descending] {
            let cursor = Cursor { order, id: [0xa5; 16] };
            let text = cursor.to_text();
            assert_eq!(Cursor::parse(&text), Some(cursor));
            for index in 0..text.len() {
                let mut mangled = text.clone().into_bytes();
                mangled[index] = if mangled[index] == b'0' { b'1' } else { b'0' };
                let mangled = String::from_utf8(mangled).unwrap();
                assert_eq!(Cursor::parse(&mangled), None, "{mangled}");
            }
        }
        for text in ["", "00", "zz", &"+1".repeat(CURSOR_BYTES), &"\u{e9}".repeat(CURSOR_BYTES)] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_part_is_asked_for_by_cursor_or_by_page() {
        assert_eq!(asked(&[]), Ok(PageRequest::default()));
        let cursor = Cursor { order: Order::Ascending, id: [7; 16] };
        assert_eq!(
            asked(&[("limit", "3"), ("cursor", &cursor.to_text())]),
            Ok(PageRequest { limit: 3, after: Some([7; 16]), offset: 0, order: Order::Ascending })
        );
        assert_eq!(
            asked(&[("page", "3"), ("page_size", "20"), ("order", "asc")]),
            Ok(PageRequest { limit: 20, after: None, offset: 40, order: Order::Ascending })
        );
    }

    #[test]
    fn what_makes_no_sense_is_a_fault() {
        let cursor = Cursor { order: Order::Ascending, id: [7; 16] }.to_text();
        for (query, fault) in [
            (&[("limit", "0")][..], "limit"),
            (&[("limit", "501")], "limit"),
            (&[("limit", "many")], "limit"),
            (&[("page", "0")], "page"),
            (&[("page", "5000"), ("page_size", "500")], "page"),
            (&[("cursor", "x")], "cursor"),
            (&[("cursor", cursor.as_str()), ("page", "2")], "cursor"),
            (&[("cursor", cursor.as_str()), ("order", "desc")], "order"),
            (&[("limit", "1"), ("page_size", "1")], "page_size"),
            (&[("order", "up")], "order"),
        ] {
            assert_eq!(asked(query), Err(vec![fault.to_owned()]), "{query:?}");
        }
    }
}
