//! The arguments of a call, as a model wrote them.

use agentry_domain::{Code, Error, Result};
use serde_json::{Map, Value};

/// Reads what must be a JSON object; nothing at all is an empty one.
pub(super) fn read(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("the arguments must be a JSON object".to_owned()),
        Err(error) => Err(format!("the arguments are not JSON: {error}")),
    }
}

fn wrong(name: &str, what: &str) -> Error {
    Error::new(Code::ValidationFailed, format!("{name}: {what}"))
}

/// Text that may be absent, of so many characters at most.
pub(super) fn text<'a>(
    arguments: &'a Map<String, Value>,
    name: &str,
    chars_max: usize,
) -> Result<Option<&'a str>> {
    match arguments.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.contains('\0') => {
            Err(wrong(name, "must not contain U+0000"))
        }
        Some(Value::String(text)) if text.len() > chars_max && text.chars().count() > chars_max => {
            Err(wrong(name, &format!("must have {chars_max} characters at most")))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(name, "must be a string")),
    }
}

/// Text that must be there, and not be empty.
pub(super) fn required<'a>(
    arguments: &'a Map<String, Value>,
    name: &str,
    chars_max: usize,
) -> Result<&'a str> {
    let found = text(arguments, name, chars_max)?.filter(|text| !text.is_empty());
    found.ok_or_else(|| wrong(name, "is required"))
}

/// A whole number in a range, or what it is when it is absent.
pub(super) fn integer(
    arguments: &Map<String, Value>,
    name: &str,
    default: u64,
    max: u64,
) -> Result<u64> {
    match arguments.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => match value.as_u64() {
            Some(number) if (1..=max).contains(&number) => Ok(number),
            _ => Err(wrong(name, &format!("must be a whole number from 1 to {max}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_model_writes_is_read_or_refused() {
        assert_eq!(read("").unwrap(), Map::new());
        assert_eq!(read(r#"{"a":1}"#).unwrap().len(), 1);
        for wrong in ["[]", "3", "{", "nonsense"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let Value::Object(given) = json!({"t": "abc", "e": "", "n": 3, "z": "a\0"}) else {
            panic!()
        };
        assert_eq!(text(&given, "t", 3).unwrap(), Some("abc"));
        assert_eq!(text(&given, "x", 3).unwrap(), None);
        for name in ["t", "n", "z"] {
            assert!(text(&given, name, 2).is_err(), "{name}");
        }
        assert!(required(&given, "e", 3).is_err());
        assert!(required(&given, "x", 3).is_err());
        assert_eq!(integer(&given, "n", 1, 5).unwrap(), 3);
        assert_eq!(integer(&given, "x", 2, 5).unwrap(), 2);
        assert!(integer(&given, "n", 1, 2).is_err());
        assert!(integer(&given, "t", 1, 2).is_err());
    }
}
