//! The mock's items: made, read, changed and removed, and on request
//! acknowledged without having been carried out.

use std::collections::HashMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};

/// How many items are kept; creating more answers 507.
const ITEMS_MAX: usize = 5_000_000;

/// Items by id, as they were sent.
#[derive(Debug, Default)]
pub(super) struct Items {
    kept: HashMap<u64, Box<str>>,
    made: u64,
}

impl Items {
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// `POST /items` makes one; `GET`, `PATCH` and `DELETE /items/{id}` read,
    /// change and remove it. With `lost` the answer to a write is what it
    /// should be, and nothing happens. None when the path is no such path.
    pub(super) fn answer(
        &mut self,
        method: &Method,
        path: &str,
        body: &[u8],
        lost: bool,
    ) -> Option<(StatusCode, Value)> {
        let rest = path.strip_prefix("/items")?;
        if *method == Method::POST && rest.is_empty() {
            return Some(self.make(body, lost));
        }
        let id = rest.strip_prefix('/')?;
        let found = id.parse().ok().filter(|id| self.kept.contains_key(id));
        let Some(number) = found else {
            return Some((StatusCode::NOT_FOUND, json!({ "id": id })));
        };
        let mut item = self.kept.get(&number).map(|text| text_to_item(text, id))?;
        Some(match *method {
            Method::PATCH => {
                let change: Value = serde_json::from_slice(body).unwrap_or_default();
                for (name, value) in change.as_object().into_iter().flatten() {
                    item[name] = value.clone();
                }
                if !lost {
                    self.kept.insert(number, item.to_string().into());
                }
                (StatusCode::OK, item)
            }
            Method::DELETE => {
                if !lost {
                    self.kept.remove(&number);
                }
                (StatusCode::OK, json!({ "id": id }))
            }
            _ => (StatusCode::OK, item),
        })
    }

    fn make(&mut self, body: &[u8], lost: bool) -> (StatusCode, Value) {
        if self.kept.len() == ITEMS_MAX {
            return (StatusCode::INSUFFICIENT_STORAGE, json!({"error": "full"}));
        }
        let id = self.made;
        self.made += 1;
        let text = std::str::from_utf8(body).unwrap_or_default();
        let item = text_to_item(text, &id.to_string());
        if !lost {
            self.kept.insert(id, text.into());
        }
        (StatusCode::CREATED, item)
    }
}

fn text_to_item(text: &str, id: &str) -> Value {
    let item = serde_json::from_str(text).ok().filter(Value::is_object);
    let mut item = item.unwrap_or_else(|| json!({}));
    item["id"] = id.into();
    item
}
