//! JSON that belongs to clients: kept as text, changed by merge patches.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::{Error, Fault, Result};

/// Bytes of a client's own JSON value, such as `metadata`, at most.
pub const FREE_JSON_BYTES_MAX: usize = 64 * 1_024;

/// A JSON value as text, which stands in other JSON as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(String);

impl JsonText {
    /// Takes what is known to be JSON: read by a parser, or stored after that.
    pub fn known(text: String) -> Self {
        Self(text)
    }

    /// An empty object.
    pub fn empty() -> Self {
        Self("{}".to_owned())
    }

    /// An empty list.
    pub fn empty_list() -> Self {
        Self("[]".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.0
    }

    /// This object with a merge patch (RFC 7396) applied; `null` empties it.
    /// One that would be larger than [`FREE_JSON_BYTES_MAX`] is a fault of this
    /// field.
    pub fn merged(&self, field: &str, patch: Value) -> Result<Self> {
        let mut target: Value = serde_json::from_str(&self.0).map_err(Error::internal)?;
        merge(&mut target, patch);
        if target.is_null() {
            target = Value::Object(Map::new());
        }
        let text = serde_json::to_string(&target).map_err(Error::internal)?;
        if text.len() > FREE_JSON_BYTES_MAX {
            let detail = format!("would have more than {FREE_JSON_BYTES_MAX} bytes");
            return Err(Error::invalid(vec![Fault::new(format!("/{field}"), "too_long", detail)]));
        }
        Ok(Self(text))
    }
}

impl Default for JsonText {
    fn default() -> Self {
        Self::empty()
    }
}

impl serde::Serialize for JsonText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for JsonText {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        Ok(Self(Box::<str>::from(raw).into_string()))
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
        let patch = |key: &str, chars| serde_json::json!({ key: "x".repeat(chars) });
        let stored = JsonText::empty().merged("metadata", patch("a", 40_000)).unwrap();
        let error = stored.merged("metadata", patch("b", 40_000)).unwrap_err();
        assert_eq!(error.faults[0].pointer, "/metadata");
        assert!(stored.merged("metadata", patch("a", 50_000)).is_ok());
    }

    #[test]
    fn numbers_stand_as_they_were_sent() {
        let text = JsonText::known(r#"{"n":1.50,"big":123456789012345678901234567890}"#.to_owned());
        let written = serde_json::to_string(&text).unwrap();
        assert_eq!(written, text.as_str());
        assert_eq!(serde_json::from_str::<JsonText>(&written).unwrap(), text);
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
        check(r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#);
        check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
        check(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check(r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#);
        check("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
        check("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
    }
}
