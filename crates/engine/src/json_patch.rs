//! RFC 7396 merge patches for the JSON objects that belong to clients.

use agentry_domain::{Error, FREE_JSON_BYTES_MAX, Fault, Result};
use serde_json::{Map, Value};

/// A merge patch for one stored object.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPatch(pub Value);

impl JsonPatch {
    /// The stored object of this field with the patch applied, as JSON text. A
    /// patch of null empties the object; one that makes it larger than
    /// [`FREE_JSON_BYTES_MAX`] is refused.
    pub(crate) fn apply(self, field: &str, stored: &str) -> Result<String> {
        let mut target: Value = serde_json::from_str(stored).map_err(Error::internal)?;
        merge(&mut target, self.0);
        if target.is_null() {
            target = Value::Object(Map::new());
        }
        let text = serde_json::to_string(&target).map_err(Error::internal)?;
        if text.len() > FREE_JSON_BYTES_MAX {
            let detail = format!("would have more than {FREE_JSON_BYTES_MAX} bytes");
            return Err(Error::invalid(vec![Fault::new(format!("/{field}"), "too_long", detail)]));
        }
        Ok(text)
    }
}

/// `MergePatch` of RFC 7396, section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_does_not_grow_past_its_bound() {
        let patch = |key: &str, chars| JsonPatch(serde_json::json!({ key: "x".repeat(chars) }));
        let stored = patch("a", 40_000).apply("metadata", "{}").unwrap();
        let error = patch("b", 40_000).apply("metadata", &stored).unwrap_err();
        assert_eq!(error.faults[0].pointer, "/metadata");
        assert!(patch("a", 50_000).apply("metadata", &stored).is_ok());
    }

    #[test]
    fn the_examples_of_rfc_7396() {
        let check = |target: &str, patch: &str, expected: &str| {
            let mut value: Value = serde_json::from_str(target).unwrap();
            merge(&mut value, serde_json::from_str(patch).unwrap());
            assert_eq!(value, serde_json::from_str::<Value>(expected).unwrap(), "{target} {patch}");
        };
        check(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#);
        check(r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#);
        check(r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
        check(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check(r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#);
        check("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
        check("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
    }
}
