use serde_json::json;

use super::*;

#[derive(Debug, PartialEq)]
struct Thing {
    name: String,
    size: i64,
    status: agentry_domain::agents::AgentStatus,
    user_id: Option<String>,
    metadata: String,
    recall: bool,
    parts: Vec<String>,
}

impl FromFields for Thing {
    fn read(fields: &mut Fields) -> Self {
        fields.not_supported_yet("tools", |tools| tools != &json!([]), "tools do not exist");
        Self {
            name: fields.text("name", 1..=5).about("A name.").required(),
            size: fields.integer("size", 1..=9).or(4),
            status: fields.choice("status").or(Default::default()),
            user_id: fields.external_id("user_id").optional(),
            metadata: fields.object("metadata").or("{}".to_owned()),
            recall: fields.nested("memory", |fields| fields.boolean("recall").or(true)).or(true),
            parts: fields
                .items("parts", 0..=2, |fields| fields.text("text", 1..=3).required())
                .or(Vec::new()),
        }
    }
}

fn read(value: Value) -> Result<Thing> {
    let Value::Object(object) = value else { panic!("not an object") };
    read_body(object, Vec::new())
}

fn faults(value: Value) -> Vec<(String, &'static str)> {
    let error = read(value).unwrap_err();
    error.faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
}

#[test]
fn what_is_sent_is_read_and_the_rest_is_the_default() {
    let thing = read(json!({"name": "n", "unknown": [1], "status": null})).unwrap();
    let default = Thing {
        name: "n".into(),
        size: 4,
        status: Default::default(),
        user_id: None,
        metadata: "{}".into(),
        recall: true,
        parts: Vec::new(),
    };
    assert_eq!(thing, default);
    let thing = read(json!({
        "name": "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", "size": 5.0, "status": "busy", "user_id": 42,
        "metadata": {"b": 1.5, "a": [null]}, "memory": {"recall": false},
        "parts": [{"text": "a"}, {"text": "b"}], "tools": [],
    }))
    .unwrap();
    assert_eq!(thing.name.chars().count(), 5);
    assert_eq!(thing.size, 5);
    assert_eq!(thing.status.as_str(), "busy");
    assert_eq!(thing.user_id.as_deref(), Some("42"));
    assert_eq!(thing.metadata, r#"{"a":[null],"b":1.5}"#);
    assert!(!thing.recall);
    assert_eq!(thing.parts, ["a", "b"]);
}

#[test]
fn every_fault_is_listed_with_its_pointer() {
    let found = faults(json!({
        "name": "too long", "size": 10, "status": "gone", "user_id": 1.5, "metadata": [],
        "memory": {"recall": "yes"}, "parts": [{"text": ""}, 3], "tools": ["x"],
    }));
    let expected = [
        ("/tools", "not_supported_yet"),
        ("/name", "too_long"),
        ("/size", "out_of_range"),
        ("/status", "not_allowed"),
        ("/user_id", "wrong_type"),
        ("/metadata", "wrong_type"),
        ("/memory/recall", "wrong_type"),
        ("/parts/0/text", "too_short"),
        ("/parts/1", "wrong_type"),
    ];
    assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    assert_eq!(faults(json!({})), [("/name".to_owned(), "required")]);
    assert_eq!(faults(json!({"name": null})), [("/name".to_owned(), "required")]);
    let error = read(json!({"name": "n", "tools": ["x"]})).unwrap_err();
    assert_eq!(error.code, Code::NotSupportedYet);
}

#[test]
fn a_free_object_is_bounded() {
    let big =
        json!({"name": "n", "metadata": {"x": "y".repeat(agentry_domain::FREE_JSON_BYTES_MAX)}});
    assert_eq!(faults(big), [("/metadata".to_owned(), "too_large")]);
}

#[test]
fn a_merge_patch_tells_absence_null_and_value_apart() {
    use agentry_domain::agents::{AgentBody, AgentStatus};

    let was = AgentBody {
        name: "was".into(),
        description: "was".into(),
        status: AgentStatus::Busy,
        metadata: JsonText::known(r#"{"a":1,"b":{"c":2}}"#.into()),
        did: "did".into(),
        ..AgentBody::default()
    };
    let change = |value: Value| {
        let Value::Object(object) = value else { panic!("not an object") };
        read_change::<AgentBody>(object, Vec::new(), &was)
    };
    assert_eq!(change(json!({})).unwrap(), was);
    let nulls = change(json!({"description": null, "status": null, "metadata": null})).unwrap();
    assert_eq!((nulls.description.as_str(), nulls.status), ("", AgentStatus::Created));
    assert_eq!(nulls.metadata, JsonText::empty());
    let values = change(json!({
        "name": "is", "memory": {"recall": false}, "metadata": {"a": null, "b": {"d": 3}},
    }))
    .unwrap();
    assert_eq!((values.name.as_str(), values.did.as_str()), ("is", "did"));
    assert_eq!((values.memory.recall, values.memory.limit), (false, was.memory.limit));
    assert_eq!(values.metadata.as_str(), r#"{"b":{"c":2,"d":3}}"#);
    let error = change(json!({"name": null, "status": "gone"})).unwrap_err();
    let pointers: Vec<_> = error.faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/name", "/status"]);
}

#[test]
fn another_name_serves_when_the_first_is_absent() {
    struct Said(String);
    impl FromFields for Said {
        fn read(fields: &mut Fields) -> Self {
            Self(fields.text("message", 1..=9).alias("message_content").required())
        }
    }
    let said = |value: Value| {
        let Value::Object(object) = value else { panic!("not an object") };
        read_body::<Said>(object, Vec::new()).map(|said| said.0)
    };
    assert_eq!(said(json!({"message": "a"})).unwrap(), "a");
    assert_eq!(said(json!({"message": null, "message_content": "b"})).unwrap(), "b");
    assert_eq!(said(json!({"message": "a", "message_content": "b"})).unwrap(), "a");
    assert_eq!(said(json!({})).unwrap_err().faults[0].pointer, "/message");
    let long = said(json!({"message_content": "0123456789"})).unwrap_err();
    assert_eq!(long.faults[0].pointer, "/message_content");
}

#[test]
fn a_query_is_read_from_text() {
    struct Query(i64, Option<bool>);
    impl FromFields for Query {
        fn read(fields: &mut Fields) -> Self {
            Self(fields.integer("limit", 1..=500).or(50), fields.boolean("all").optional())
        }
    }
    let read = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        read_query::<Query>(pairs.collect())
    };
    let query = read(&[("limit", "3"), ("limit", "7"), ("all", "true")]).unwrap();
    assert_eq!((query.0, query.1), (7, Some(true)));
    let error = read(&[("limit", "x"), ("all", "1"), ("n", "\0")]).err().unwrap();
    let pointers: Vec<_> = error.faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["n", "limit", "all"]);
}

#[test]
fn the_description_says_what_the_reader_does() {
    let RefOr::T(schema) = schema::<Thing>() else { panic!("a reference") };
    let schema = serde_json::to_value(schema).unwrap();
    assert_eq!(schema["required"], json!(["name"]));
    let properties = &schema["properties"];
    assert_eq!(
        properties["name"],
        json!({"type": "string", "description": "A name.", "minLength": 1, "maxLength": 5})
    );
    assert_eq!(properties["size"]["default"], 4);
    assert_eq!(properties["size"]["maximum"], 9);
    assert_eq!(properties["status"]["type"], json!(["string", "null"]));
    assert_eq!(properties["status"]["enum"].as_array().unwrap().last(), Some(&Value::Null));
    assert_eq!(properties["parts"]["items"]["required"], json!(["text"]));
    assert_eq!(properties["memory"]["properties"]["recall"]["default"], true);
}
