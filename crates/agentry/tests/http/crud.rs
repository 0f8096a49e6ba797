//! What every resource shows in the same way: fields that come back, changes
//! of one field at a time, lists in parts, requests that take effect once.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Process, answer, wait_until};

/// An id that nothing has.
pub(crate) const NOTHING: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Makes one of a collection.
pub(crate) async fn made(process: &Process, collection: &str, body: Value) -> Value {
    let (status, created) = process.post(collection, body).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    created
}

pub(crate) fn id(of: &Value) -> &str {
    of["id"].as_str().unwrap()
}

/// Every field of `full` comes back from the POST, and from a GET and a list
/// after it.
pub(crate) async fn keeps_every_field(process: &Process, collection: &str, full: &Value) -> Value {
    let created = made(process, collection, full.clone()).await;
    for (field, value) in full.as_object().unwrap() {
        assert_eq!(&created[field], value, "{field}");
    }
    let path = format!("{collection}/{}", id(&created));
    assert_eq!(process.get(&path).await, (StatusCode::OK, created.clone()));
    assert_eq!(process.get(&format!("{path}/")).await.1, created);
    let (_, list) = process.get(&format!("{collection}?limit=1")).await;
    assert_eq!(list["items"], json!([created]));
    created
}

/// A PATCH of each field of `changes` changes it and what says the same, and
/// nothing else; `null` then makes it what `bare` has, or is refused when the
/// field cannot go.
pub(crate) async fn changes_one_field_at_a_time(
    process: &Process,
    collection: &str,
    full: Value,
    bare: &Value,
    changes: &[(&str, Value, &[&str])],
) {
    for (field, value, same) in changes {
        let was = made(process, collection, full.clone()).await;
        let path = format!("{collection}/{}", id(&was));
        let mut patch = json!({});
        patch[*field] = value.clone();
        let (status, now) = process.patch(&path, patch.clone()).await;
        assert_eq!(status, StatusCode::OK, "{field}: {now}");
        assert_eq!(process.get(&path).await.1, now);
        assert_eq!(now["version"], json!(was["version"].as_i64().unwrap() + 1));
        let changed: BTreeSet<&str> = was
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, value)| now[name.as_str()] != **value)
            .map(|(name, _)| name.as_str())
            .filter(|name| !["version", "updated_at"].contains(name))
            .collect();
        let expected: BTreeSet<&str> = same.iter().copied().chain([*field]).collect();
        assert_eq!(changed, expected, "{field}");

        patch[*field] = Value::Null;
        let (status, reset) = process.patch(&path, patch).await;
        match &bare[*field] {
            Value::String(text) if text == "required" => {
                assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
                assert_eq!(reset["errors"][0]["code"], "required");
            }
            default => assert_eq!((status, &reset[*field]), (StatusCode::OK, default), "{field}"),
        }
    }
}

/// Entity tags guard reads, changes and deletion.
pub(crate) async fn entity_tags_guard(
    process: &Process,
    collection: &str,
    body: Value,
    patch: Value,
) {
    let response = process.request(Method::POST, collection).json(&body).send().await.unwrap();
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    let path = response.headers()["location"].to_str().unwrap().to_owned();
    assert!(path.starts_with(&format!("{collection}/")), "{path}");
    let with = |method: Method, name: &'static str, value: &str| {
        process.request(method, &path).header(name, value)
    };
    let unchanged = answer(with(Method::GET, "if-none-match", &tag)).await;
    assert_eq!(unchanged.0, StatusCode::NOT_MODIFIED);
    let changed = answer(with(Method::PATCH, "if-match", &tag).json(&patch)).await;
    assert_eq!(changed.0, StatusCode::OK, "{}", changed.1);
    assert_eq!(answer(with(Method::GET, "if-none-match", &tag)).await, changed);
    for stale in
        [with(Method::PATCH, "if-match", &tag).json(&patch), with(Method::DELETE, "if-match", &tag)]
    {
        let (status, problem) = answer(stale).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::PRECONDITION_FAILED, &json!("precondition_failed"))
        );
    }
    let tag = format!("\"{}\"", changed.1["version"]);
    assert_eq!(answer(with(Method::DELETE, "if-match", &tag)).await.0, StatusCode::NO_CONTENT);
    assert_eq!(process.get(&path).await.0, StatusCode::NOT_FOUND);
    assert_eq!(process.patch(&path, patch).await.0, StatusCode::NOT_FOUND);
    assert_eq!(process.delete(&path).await, StatusCode::NOT_FOUND);
}

/// Lists give all of a collection, newest first, by cursor and by page, and
/// what `filter` selects of it.
pub(crate) async fn lists_in_parts(
    process: &Process,
    collection: &str,
    body: impl Fn(usize) -> Value,
) {
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(made(process, collection, body(n)).await["id"].clone());
    }
    // A counter may lag a second on PostgreSQL; the list itself never does.
    wait_until(|| async { process.get(&format!("{collection}?limit=1")).await.1["total"] == 7 })
        .await;
    let of = |page: &Value| -> Vec<Value> {
        page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect()
    };
    for (order, expected) in
        [("asc", ids.clone()), ("desc", ids.iter().rev().cloned().collect::<Vec<_>>())]
    {
        let mut seen = Vec::new();
        let mut path = format!("{collection}?limit=3&order={order}");
        loop {
            let (status, page) = process.get(&path).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            seen.extend(of(&page));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            path = format!("{collection}?limit=3&cursor={cursor}");
        }
        assert_eq!(seen, expected);
        let paged = format!("{collection}?page=2&page_size=3&order={order}");
        assert_eq!(of(&process.get(&paged).await.1), expected[3..6]);
    }
}

/// Each query selects so many.
pub(crate) async fn filters_select(process: &Process, collection: &str, queries: &[(String, u64)]) {
    for (query, expected) in queries {
        let (status, page) = process.get(&format!("{collection}?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}: {page}");
        assert_eq!(page["items"].as_array().unwrap().len() as u64, *expected, "{query}");
        assert_eq!(
            (page["total"].clone(), page["total_capped"].clone()),
            (json!(expected), json!(false))
        );
    }
}

/// Fifty requests at once with one key make one, and answer the same.
pub(crate) async fn one_key_makes_one(process: &Process, collection: &str, body: Value) {
    let (_, before) = process.get(&format!("{collection}?limit=500")).await;
    let before = before["items"].as_array().unwrap().len();
    let request =
        || process.request(Method::POST, collection).header("idempotency-key", "once").json(&body);
    let answers =
        futures::future::join_all((0..50).map(|_| async { answer(request()).await })).await;
    for (status, created) in &answers {
        assert_eq!((*status, created), (StatusCode::CREATED, &answers[0].1));
    }
    let (_, after) = process.get(&format!("{collection}?limit=500")).await;
    assert_eq!(after["items"].as_array().unwrap().len(), before + 1);
    let again = request().send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let mut other = body.clone();
    other["metadata"] = json!({"another": "body"});
    let reused =
        process.request(Method::POST, collection).header("idempotency-key", "once").json(&other);
    let (status, problem) = answer(reused).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused"))
    );
}

/// Each body is refused with this status and this code, or this fault.
pub(crate) async fn refuses(process: &Process, collection: &str, bodies: &[(Value, u16, &str)]) {
    for (body, status, code) in bodies {
        let (found, problem) = process.post(collection, body.clone()).await;
        assert_eq!(found.as_u16(), *status, "{body}: {problem}");
        let said = if found == StatusCode::UNPROCESSABLE_ENTITY {
            &problem["errors"][0]["code"]
        } else {
            &problem["code"]
        };
        assert_eq!(said, code, "{body}: {problem}");
    }
}
