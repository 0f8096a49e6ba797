//! Guards over families: what holds for every operation and every body.

use std::collections::HashSet;

use agentry_domain::agents::AgentBody;
use agentry_domain::goals::GoalBody;
use agentry_domain::memories::MemoryBody;
use agentry_domain::orgs::OrgBody;
use agentry_domain::plans::PlanBody;
use agentry_domain::sessions::SessionBody;
use agentry_domain::tasks::TaskBody;
use agentry_domain::users::UserBody;
use agentry_gateway::Access;
use serde_json::{Map, Value, json};

use super::*;
use crate::fields::{Create, FromFields, read_body};

fn parsed() -> Value {
    serde_json::from_str(&openapi_json().unwrap()).unwrap()
}

/// Every operation of the document: method, path, what it says.
fn described(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().clone();
        let path = path.clone();
        methods
            .into_iter()
            .map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[test]
fn the_document_and_the_table_list_the_same_operations() {
    let document = parsed();
    let in_document: HashSet<_> =
        described(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let operations = operations();
    let in_table: HashSet<_> = operations
        .rules()
        .iter()
        .map(|rule| (rule.method.to_string(), rule.path.replace("{*", "{")))
        .collect();
    assert_eq!(in_document, in_table);
    assert_eq!(in_table.len(), operations.rules().len(), "each stands once");
}

#[test]
fn only_the_listed_operations_are_open() {
    let open: HashSet<_> = operations()
        .rules()
        .iter()
        .filter(|rule| rule.access == Access::Open)
        .map(|rule| rule.path.clone())
        .collect();
    let expected = ["/health", "/ready", "/openapi.json", "/errors/{code}"];
    assert_eq!(open, expected.map(str::to_owned).into());
}

#[test]
fn every_operation_is_described_whole() {
    let document = parsed();
    assert_eq!(document["openapi"], "3.1.0");
    let tags: HashSet<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].clone()).collect();
    let mut ids = HashSet::new();
    for (method, path, operation) in described(&document) {
        let at = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].to_string()), "{at}: the id stands twice");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{at}");
        assert!(operation["tags"].as_array().unwrap().iter().all(|tag| tags.contains(tag)), "{at}");
        assert!(operation["security"].is_array(), "{at} says nothing of keys");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with(['1', '2'])), "{at}");
        assert!(responses.contains_key("403") && responses.contains_key("500"), "{at}");
        let has_body = operation.get("requestBody").is_some();
        // Where the path says it all.
        let silent = [
            "POST /api/v1/admin/backup",
            "POST /api/v1/graph/episodes/{id}/drop",
            "POST /api/v1/graph/episodes/{id}/retry",
            "POST /api/v1/mcp/servers/{id}/restart",
            "POST /api/v1/mcp/servers/{id}/start",
            "POST /api/v1/mcp/servers/{id}/stop",
            "POST /api/v1/runs/{id}/cancel",
            "POST /api/v1/webhooks/{id}/deliveries/{delivery}/retry",
            "POST /api/v1/webhooks/{id}/ping",
            "POST /api/v1/webhooks/{id}/rotate-secret",
            "POST /v1/responses/{id}/cancel",
        ];
        let says =
            matches!(method.as_str(), "POST" | "PATCH" | "PUT") && !silent.contains(&at.as_str());
        assert_eq!(has_body, says, "{at}");
        for status in ["400", "413", "415", "422"] {
            assert!(!has_body || responses.contains_key(status), "{at} lacks {status}");
        }
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')) {
            let name = name.trim_end_matches('}');
            let declared = operation["parameters"].as_array().into_iter().flatten();
            let mut declared = declared.filter(|parameter| parameter["in"] == "path");
            assert!(declared.any(|parameter| parameter["name"] == name), "{at} lacks {name}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(document: &Value, value: &Value) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(target)) = object.get("$ref") {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{target} is not there");
                }
                object.values().for_each(|value| check(document, value));
            }
            Value::Array(values) => values.iter().for_each(|value| check(document, value)),
            _ => {}
        }
    }
    let document = parsed();
    check(&document, &document);
}

/// Sends every typed property of a body with a wrong type, all at once, and
/// wants a fault for each: what the document describes is really read.
fn check_every_property<T: FromFields>() {
    let schema = fields::schema::<T>();
    let utoipa::openapi::RefOr::T(schema) = schema else { panic!("a reference") };
    let schema = serde_json::to_value(schema).unwrap();
    let mut body = Map::new();
    for (name, property) in schema["properties"].as_object().unwrap() {
        let wrong = match &property["type"] {
            Value::Null => continue,
            one if *one == "boolean" || *one == json!(["boolean", "null"]) => json!("text"),
            _ => json!(true),
        };
        body.insert(name.clone(), wrong);
    }
    let names: HashSet<_> = body.keys().map(|name| format!("/{name}")).collect();
    let error = read_body::<T>(body, Vec::new()).err().unwrap();
    let pointers: HashSet<_> = error.faults.into_iter().map(|fault| fault.pointer).collect();
    // Of two names for one field the first is read.
    let aliases = [
        "/goal_text",
        "/inputs",
        "/message_content",
        "/outputs",
        "/session_name",
        "/session_origin",
    ];
    for name in names.difference(&pointers) {
        assert!(aliases.contains(&name.as_str()), "{name} is described and not read");
    }
}

#[test]
fn every_described_property_is_read() {
    check_every_property::<Create<AgentBody>>();
    check_every_property::<Create<GoalBody>>();
    check_every_property::<Create<PlanBody>>();
    check_every_property::<Create<SessionBody>>();
    check_every_property::<Create<UserBody>>();
    check_every_property::<Create<TaskBody>>();
    check_every_property::<keys::KeyCreate>();
    check_every_property::<Create<OrgBody>>();
    check_every_property::<Create<MemoryBody>>();
    check_every_property::<memories::MemoryBatch>();
    check_every_property::<memories::MemorySearch>();
    check_every_property::<messages::MessageCreate>();
    check_every_property::<runs::RunCreate>();
    check_every_property::<chat::ChatCreate>();
}
