//! `/api/v1/sessions/{session}/files`.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::crud::{NOTHING, id, made};
use crate::on_both_engines;
use crate::server::{Engine, Process, Server, answer, wait_until};

const SESSIONS: &str = "/api/v1/sessions";
const CHUNK: usize = 256 * 1_024;

on_both_engines! {
    bytes_come_back_as_they_were_put,
    a_file_is_replaced_as_a_whole,
    entity_tags_guard,
    lists_name_what_is_there,
    no_path_leaves_the_workspace,
    files_have_bounds,
    files_go_with_their_session,
}

async fn session(process: &Process) -> String {
    let created = made(process, SESSIONS, json!({})).await;
    format!("{SESSIONS}/{}/files", id(&created))
}

async fn put(process: &Process, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
    answer(process.request(Method::PUT, path).body(body)).await
}

async fn get(process: &Process, path: &str) -> Response {
    process.request(Method::GET, path).send().await.unwrap()
}

/// Bytes of this length that no two chunks share.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

async fn bytes_come_back_as_they_were_put(engine: Engine) {
    let server = Server::start(engine).await;
    let files = session(&server).await;
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK / 2] {
        let path = format!("{files}/a/{length}.bin");
        let sent = bytes(length, 7);
        let request = server
            .request(Method::PUT, &path)
            .header("content-type", "application/x-thing; v=\"1\"")
            .body(sent.clone());
        let (status, file) = answer(request).await;
        assert_eq!(status, StatusCode::CREATED, "{file}");
        assert_eq!(file["bytes"], json!(length));
        assert_eq!(file["path"], json!(format!("a/{length}.bin")));
        assert_eq!(file["media_type"], "application/x-thing; v=\"1\"");
        let read = get(&server, &path).await;
        assert_eq!(read.status(), StatusCode::OK);
        assert_eq!(read.headers()["content-type"], "application/x-thing; v=\"1\"");
        assert_eq!(read.headers()["content-length"], length.to_string());
        assert_eq!(read.headers()["etag"], format!("\"{}\"", file["version"]));
        assert!(read.bytes().await.unwrap() == sent, "{length}");
    }
    let (_, file) = put(&server, &format!("{files}/caf%C3%A9%20%231"), "x").await;
    assert_eq!(
        (&file["path"], &file["media_type"]),
        (&json!("caf\u{e9} #1"), &json!("application/octet-stream"))
    );
}

async fn a_file_is_replaced_as_a_whole(engine: Engine) {
    let server = Server::start(engine).await;
    let path = format!("{}/f", session(&server).await);
    let contents: Vec<Vec<u8>> =
        (0..4_u32).map(|seed| bytes(CHUNK + 1_000 * seed as usize, seed)).collect();
    assert_eq!(put(&server, &path, contents[0].clone()).await.0, StatusCode::CREATED);
    let puts = contents.iter().map(|content| put(&server, &path, content.clone()));
    let reads = (0..8).map(|_| async {
        // A reader of what is replaced meanwhile is cut off, and asks again.
        let read = get(&server, &path).await.bytes().await;
        assert!(read.map_or(true, |read| contents.iter().any(|content| *content == read)));
    });
    let (statuses, _) =
        tokio::join!(futures::future::join_all(puts), futures::future::join_all(reads));
    assert!(statuses.iter().all(|(status, _)| *status == StatusCode::OK), "{statuses:?}");
    let last = get(&server, &path).await.bytes().await.unwrap();
    assert!(contents.iter().any(|content| *content == last));

    // A body that breaks off leaves what was there.
    let address = server.url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 600000\r\n\r\n",
        server.key
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&bytes(400_000, 9)).await.unwrap();
    socket.shutdown().await.unwrap();
    let _ = socket.read_to_end(&mut Vec::new()).await;
    assert!(get(&server, &path).await.bytes().await.unwrap() == last);
}

async fn entity_tags_guard(engine: Engine) {
    let server = Server::start(engine).await;
    let path = format!("{}/f", session(&server).await);
    let with = |method: Method, name: &'static str, tag: &str| {
        server.request(method, &path).header(name, tag)
    };
    let (_, first) = put(&server, &path, "one").await;
    let tag = format!("\"{}\"", first["version"]);
    assert_eq!(answer(with(Method::GET, "if-none-match", &tag)).await.0, StatusCode::NOT_MODIFIED);
    let taken = answer(with(Method::PUT, "if-none-match", "*").body("new")).await;
    assert_eq!(
        (taken.0, &taken.1["code"]),
        (StatusCode::PRECONDITION_FAILED, &json!("precondition_failed"))
    );
    let (status, second) = answer(with(Method::PUT, "if-match", &tag).body("two")).await;
    assert_eq!((status, &second["id"]), (StatusCode::OK, &first["id"]));
    assert_eq!(second["created_at"], first["created_at"]);
    for stale in
        [with(Method::PUT, "if-match", &tag).body("three"), with(Method::DELETE, "if-match", &tag)]
    {
        assert_eq!(answer(stale).await.0, StatusCode::PRECONDITION_FAILED);
    }
    assert_eq!(get(&server, &path).await.text().await.unwrap(), "two");
    let tag = format!("\"{}\"", second["version"]);
    assert_eq!(answer(with(Method::DELETE, "if-match", &tag)).await.0, StatusCode::NO_CONTENT);
    assert_eq!(get(&server, &path).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.delete(&path).await, StatusCode::NOT_FOUND);
    assert_eq!(
        answer(with(Method::PUT, "if-match", &tag).body("x")).await.0,
        StatusCode::PRECONDITION_FAILED
    );
    // What is put anew does not have a tag that something had before.
    let (status, third) = answer(with(Method::PUT, "if-none-match", "*").body("three")).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(third["version"].as_i64() > second["version"].as_i64());
}

async fn lists_name_what_is_there(engine: Engine) {
    let server = Server::start(engine).await;
    let (files, other) = (session(&server).await, session(&server).await);
    let mut put_files = Vec::new();
    for n in 0..5 {
        put_files.push(put(&server, &format!("{files}/d/{n}"), vec![7; n]).await.1);
    }
    wait_until(|| async { server.get(&format!("{files}?limit=1")).await.1["total"] == 5 }).await;
    let (_, page) = server.get(&format!("{files}?limit=3&order=asc")).await;
    assert_eq!(page["items"], json!(put_files[..3]));
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, rest) = server.get(&format!("{files}?limit=3&cursor={cursor}")).await;
    assert_eq!((&rest["items"], &rest["next_cursor"]), (&json!(put_files[3..]), &Value::Null));
    let (_, second) = server.get(&format!("{files}?page=2&page_size=2&order=asc")).await;
    assert_eq!(second["items"], json!(put_files[2..4]));
    assert_eq!(server.get(&other).await.1["items"], json!([]));
    assert_eq!(get(&server, &format!("{other}/d/1")).await.status(), StatusCode::NOT_FOUND);
    let nowhere = format!("{SESSIONS}/{NOTHING}/files");
    assert_eq!(server.get(&nowhere).await.0, StatusCode::NOT_FOUND);
    assert_eq!(put(&server, &format!("{nowhere}/a"), "x").await.0, StatusCode::NOT_FOUND);
}

async fn no_path_leaves_the_workspace(engine: Engine) {
    let server = Server::start(engine).await;
    let files = session(&server).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let long = format!("{files}/{}", "x".repeat(256));
    // Clients tidy paths up before they send them, so these are sent as they are.
    for path in [
        "../f",
        "a/../../f",
        "./f",
        "a/./f",
        "..",
        "%2e%2e/f",
        "%2e%2e%2ff",
        "..%2f..%2ff",
        "%252e%252e/f",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "a//f",
        "a\\..\\f",
        "..%5cf",
        "a%00",
        "a%0a",
        "cafe%CC%81",
        "%C3%28",
    ]
    .iter()
    .map(|path| format!("{files}/{path}"))
    .chain([long])
    {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx",
            server.key
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        socket.read_to_end(&mut text).await.unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        let status = text.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "404", "422"].contains(&status), "{path}: {text}");
    }
    assert_eq!(server.get(&files).await.1["items"], json!([]));
}

async fn files_have_bounds(engine: Engine) {
    let server = Server::start_with(
        engine,
        &[
            ("AGENTRY_FILES__FILE_BYTES_MAX", "1000000"),
            ("AGENTRY_FILES__SESSION_BYTES_MAX", "1500000"),
            ("AGENTRY_FILES__SESSION_FILES_MAX", "3"),
        ],
    )
    .await;
    let files = session(&server).await;
    let path = |name: &str| format!("{files}/{name}");
    // Larger than other bodies may be, and as large as a file may be.
    assert_eq!(put(&server, &path("a"), bytes(1_000_000, 1)).await.0, StatusCode::CREATED);
    let (status, problem) = put(&server, &path("a"), bytes(1_000_001, 2)).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large"))
    );
    let (status, problem) = put(&server, &path("b"), bytes(600_000, 3)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("quota_exceeded")));
    assert_eq!(get(&server, &path("b")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(put(&server, &path("b"), bytes(500_000, 3)).await.0, StatusCode::CREATED);
    // What a file took does not count when it is replaced.
    assert_eq!(put(&server, &path("a"), bytes(1_000_000, 4)).await.0, StatusCode::OK);
    assert_eq!(server.delete(&path("b")).await, StatusCode::NO_CONTENT);
    for name in ["b", "c"] {
        assert_eq!(put(&server, &path(name), "x").await.0, StatusCode::CREATED);
    }
    let (status, problem) = put(&server, &path("d"), "x").await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("quota_exceeded")));
    assert_eq!(put(&server, &path("c"), "y").await.0, StatusCode::OK);
}

async fn files_go_with_their_session(engine: Engine) {
    let server = Server::start(engine).await;
    let created = made(&server, SESSIONS, json!({"session_name": "s"})).await;
    let path = format!("{SESSIONS}/{}/files/f", id(&created));
    assert_eq!(put(&server, &path, bytes(2 * CHUNK, 1)).await.0, StatusCode::CREATED);
    assert_eq!(get(&server, &format!("{SESSIONS}/s/files/f")).await.status(), StatusCode::OK);
    assert_eq!(server.delete(&format!("{SESSIONS}/s")).await, StatusCode::NO_CONTENT);
    assert_eq!(get(&server, &path).await.status(), StatusCode::NOT_FOUND);
    made(&server, SESSIONS, json!({"session_name": "s"})).await;
    assert_eq!(server.get(&format!("{SESSIONS}/s/files")).await.1["items"], json!([]));
}
