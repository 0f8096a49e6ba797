//! The `compatible` models against a real server on a socket: what they send,
//! how they read every way of cutting an answer, and which code each failure
//! becomes.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::runs::Usage;
use agentry_domain::sessions::MessageRole;
use agentry_domain::{Code, Error, Result, Timestamp};
use agentry_llm::{
    ChatMessage, FinishReason, Model, ModelEvent, ModelRequest, Models, Options, Passage,
    ProviderOptions, Source,
};
use agentry_testkit::{Behaviour, Chunking, End, ModelServer, TcpChaos};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Long enough to never pass in a test that does not want it to.
const FAR: Duration = Duration::from_secs(60);
/// For tests that want a time-out to pass.
const SOON_MS: u64 = 50;
const KEY: &str = "sk-test-0123456789";

fn provider(base_url: String) -> ProviderOptions {
    ProviderOptions { key: Some(KEY.to_owned()), ..ProviderOptions::new(base_url) }
}

fn model(provider: ProviderOptions) -> Arc<dyn Model> {
    model_within(provider, &agentry_outbound::Options::default())
}

fn model_within(provider: ProviderOptions, outbound: &agentry_outbound::Options) -> Arc<dyn Model> {
    // Each request is counted here, so that none is sent again.
    let outbound = agentry_outbound::Options {
        retries_max: 0,
        breaker_failures_min: 1_000,
        breaker_window_calls: 1_000,
        ..outbound.clone()
    };
    let providers = BTreeMap::from([("test".to_owned(), provider)]);
    let models = Models::new(&Options { providers, outbound }).expect("the settings are valid");
    models.resolve("compatible/test/org/small").expect("it is configured")
}

fn message(role: MessageRole, content: &str) -> ChatMessage {
    ChatMessage::said(role, content)
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
}

/// The first thing that a reply says, behind who says it.
async fn first_said(stream: &mut BoxStream<'static, Result<ModelEvent>>) -> ModelEvent {
    let answering = stream.next().await.unwrap().unwrap();
    assert!(matches!(answering, ModelEvent::Answering(_)), "{answering:?}");
    stream.next().await.unwrap().unwrap()
}

fn request() -> ModelRequest {
    let messages = vec![message(MessageRole::User, "Hello there")];
    ModelRequest::new(messages, Instant::now() + FAR)
}

#[derive(Debug, Default, PartialEq)]
struct Whole {
    text: String,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
}

/// Reads a reply to its end and checks what every stream promises: text is
/// never empty, usage comes once, `Finished` or an error is the last item.
async fn read(model: &dyn Model, request: ModelRequest) -> (Whole, Option<Error>) {
    let mut whole = Whole::default();
    let mut stream = match model.respond(request).await {
        Ok(stream) => stream,
        Err(error) => return (whole, Some(error)),
    };
    while let Some(event) = stream.next().await {
        assert_eq!(whole.finish, None, "something came behind the end: {event:?}");
        match event {
            Ok(ModelEvent::Delta(text)) => {
                assert!(!text.is_empty());
                whole.text.push_str(&text);
            }
            Ok(ModelEvent::Answering(model)) => {
                assert_eq!(
                    (model.as_str(), whole.text.as_str()),
                    ("compatible/test/org/small", "")
                );
            }
            Ok(ModelEvent::Reasoning(piece)) => panic!("nothing was thought: {piece:?}"),
            Ok(ModelEvent::ToolCall(call)) => panic!("nothing was to be called: {call:?}"),
            Ok(ModelEvent::Usage(usage)) => assert_eq!(whole.usage.replace(usage), None),
            Ok(ModelEvent::Finished(reason)) => whole.finish = Some(reason),
            Err(error) => {
                let after = stream.next().await;
                assert!(after.is_none(), "something came behind the failure: {after:?}");
                return (whole, Some(error));
            }
        }
    }
    assert!(whole.finish.is_some(), "a stream ended without saying so: {whole:?}");
    (whole, None)
}

async fn read_ok(model: &dyn Model, request: ModelRequest) -> Whole {
    match read(model, request).await {
        (whole, None) => whole,
        (whole, Some(error)) => panic!("{error:?} behind {whole:?}"),
    }
}

async fn read_err(model: &dyn Model, request: ModelRequest) -> (String, Error) {
    match read(model, request).await {
        (whole, Some(error)) => {
            for shown in [error.to_string(), format!("{error:?}"), error.chain()] {
                assert!(!shown.contains(KEY), "the key is shown: {shown}");
            }
            (whole.text, error)
        }
        (whole, None) => panic!("no failure: {whole:?}"),
    }
}

#[tokio::test]
async fn a_reply_is_streamed_with_its_usage() {
    let server = ModelServer::start().await;
    server.require_key(KEY);
    server.next(Behaviour::text("Good morning, dear world."));
    let model = model(provider(server.base_url()));
    let mut deltas = 0;
    let mut stream = model.respond(request()).await.unwrap();
    while let Some(event) = stream.next().await {
        deltas += usize::from(matches!(event.unwrap(), ModelEvent::Delta(_)));
    }
    assert_eq!(deltas, 7);

    server.next(Behaviour::text("Good morning, dear world."));
    let expected = Whole {
        text: "Good morning, dear world.".to_owned(),
        usage: Some(usage(2, 7)),
        finish: Some(FinishReason::Stop),
    };
    assert_eq!(read_ok(&*model, request()).await, expected);
    assert!(!model.quotes());
}

#[tokio::test]
async fn text_is_there_before_the_reply_is_complete() {
    let server = ModelServer::start().await;
    // Write 0 opens the message, write 1 is the first token.
    server.by_default(Behaviour { hold_before_write: Some(2), ..Behaviour::text("abcdefgh") });
    server.hold();
    let model = model(provider(server.base_url()));
    let mut stream = model.respond(request()).await.unwrap();
    let first = first_said(&mut stream).await;
    assert_eq!(first, ModelEvent::Delta("abcd".to_owned()));
    server.wait_held(1).await;
    server.release();
    let second = stream.next().await.unwrap().unwrap();
    assert_eq!(second, ModelEvent::Delta("efgh".to_owned()));
}

#[tokio::test]
async fn a_dropped_reply_lets_the_server_go() {
    let server = ModelServer::start().await;
    server.by_default(Behaviour { end: End::HangAfter(2), ..Behaviour::text("abcdefgh") });
    let model = model(provider(server.base_url()));
    let mut stream = model.respond(request()).await.unwrap();
    first_said(&mut stream).await;
    drop(stream);
    server.wait_abandoned(1).await;
}

#[tokio::test]
async fn the_request_holds_everything_the_model_is_shown() {
    let server = ModelServer::start().await;
    let model = model(provider(server.base_url()));
    let recalled = Passage {
        text: "My dog is called Rex.".to_owned(),
        source: Source::Message {
            session: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            role: MessageRole::User,
        },
        at: Timestamp::from_micros(0),
        score: 1.0,
        coverage: 1.0,
    };
    let parameters = json!({"temperature": 0, "stream": false, "messages": "x", "model": "y"});
    let request = ModelRequest {
        instructions: "Be brief.".to_owned(),
        context: Some(r#"{"city":"Bonn"}"#.to_owned()),
        recalled: vec![recalled],
        messages: vec![
            message(MessageRole::User, "Hello"),
            message(MessageRole::Assistant, "Good day"),
            message(MessageRole::User, "What is my dog's name? ☃ \"quoted\"\n"),
        ],
        parameters: parameters.as_object().unwrap().clone(),
        ..request()
    };
    read_ok(&*model, request).await;
    let received = server.received();
    let [one] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!(one.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(one.headers["content-type"], "application/json");
    let body = &one.body;
    assert_eq!(body["model"], "org/small");
    assert_eq!(body["stream"], true);
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    assert_eq!(body["temperature"], 0);
    let messages = body["messages"].as_array().unwrap();
    let roles: Vec<&Value> = messages.iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    let system = messages[0]["content"].as_str().unwrap();
    for part in ["Be brief.", "Bonn", "My dog is called Rex."] {
        assert!(system.contains(part), "{part}: {system}");
    }
    assert_eq!(messages[3]["content"], "What is my dog's name? ☃ \"quoted\"\n");
}

#[tokio::test]
async fn without_a_key_none_is_sent() {
    let server = ModelServer::start().await;
    read_ok(&*model(ProviderOptions::new(server.base_url())), request()).await;
    assert!(!server.received()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = ModelServer::start().await;
    let proxy = TcpChaos::start(server.address()).await;
    let model = model(provider(format!("http://{}/v1", proxy.address())));
    for _ in 0..20 {
        read_ok(&*model, request()).await;
    }
    // One, and on a machine that stalls another now and then.
    let made = proxy.connections_made();
    assert!(made < 5, "20 calls made {made} connections");
}

#[tokio::test]
async fn servers_that_differ_are_read_all_the_same() {
    let server = ModelServer::start().await;
    let model = model(provider(server.base_url()));
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"data: {{"choices":[{{"delta":{{"content":{delta}}},"finish_reason":{finish}}}]}}"#
        )
    };
    let text = |expected: &str, finish: FinishReason| Whole {
        text: expected.to_owned(),
        usage: None,
        finish: Some(finish),
    };
    let (hi, end) = (chunk("\"Hi\"", "null"), chunk("\"\"", "\"length\""));
    let unindexed = format!("{hi}\n\n{end}\n\ndata: [DONE]\n\n");
    let no_done = format!("{hi}\n\n{end}\n\n");
    let no_reason = format!("{hi}\n\ndata: [DONE]\n\n");
    let no_last_line_end = format!("{hi}\n\ndata: [DONE]");
    let marked = format!("\u{feff}{hi}\n\n{end}\n\n");
    let half_behind_the_end = format!("{hi}\n\n{end}\n\ndata: {{\"cho");
    let other_choice = format!(
        "data: {{\"choices\":[{{\"index\":1,\"delta\":{{\"content\":\"no\"}},\"finish_reason\":\"stop\"}}]}}\n\n{unindexed}"
    );
    let parts = format!("{}\n\n{end}\n\n", chunk(r#"[{"type":"text","text":"Hi"}]"#, "null"));
    let filtered = format!("{hi}\n\n{}\n\n", chunk("null", "\"content_filter\""));
    for (stream, expected) in [
        (&unindexed, text("Hi", FinishReason::Length)),
        (&no_done, text("Hi", FinishReason::Length)),
        (&no_reason, text("Hi", FinishReason::Stop)),
        (&no_last_line_end, text("Hi", FinishReason::Stop)),
        (&marked, text("Hi", FinishReason::Length)),
        (&half_behind_the_end, text("Hi", FinishReason::Length)),
        (&other_choice, text("Hi", FinishReason::Length)),
        (&parts, text("Hi", FinishReason::Length)),
        (&filtered, text("Hi", FinishReason::Filtered)),
    ] {
        for media_type in ["text/event-stream", "Text/Event-Stream; charset=utf-8", "text/plain"] {
            server.next(Behaviour::raw(media_type, &[stream.as_bytes()]));
            assert_eq!(read_ok(&*model, request()).await, expected, "{media_type} {stream}");
        }
    }

    // The connection ends badly, but only when the reply was already complete.
    server.next(Behaviour { end: End::CutAfter(1), ..Behaviour::events(&[no_done.as_bytes()]) });
    assert_eq!(read_ok(&*model, request()).await, text("Hi", FinishReason::Length));
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_read_all_the_same() {
    let server = ModelServer::start().await;
    let model = model(provider(server.base_url()));
    server.next(Behaviour { ignores_stream: true, ..Behaviour::text("Good ☃ day") });
    let expected = Whole {
        text: "Good ☃ day".to_owned(),
        usage: Some(usage(2, 3)),
        finish: Some(FinishReason::Stop),
    };
    assert_eq!(read_ok(&*model, request()).await, expected);
    for body in ["{}", r#"{"choices":[]}"#, r#"{"choices":[{}]}"#, r#"{"choices":"#] {
        server.next(Behaviour::raw("application/json", &[body.as_bytes()]));
        let (_, error) = read_err(&*model, request()).await;
        assert_eq!(error.code, Code::ModelBadResponse, "{body}: {error}");
    }
}

#[tokio::test]
async fn every_status_has_its_code() {
    let server = ModelServer::start().await;
    let model = model(provider(server.base_url()));
    for (status, code) in [
        (204, Code::ModelBadResponse),
        (302, Code::ModelBadResponse),
        (400, Code::ModelRejected),
        (401, Code::ModelUnauthorized),
        (403, Code::ModelUnauthorized),
        (404, Code::ModelRejected),
        (408, Code::ModelTimeout),
        (422, Code::ModelRejected),
        (429, Code::ModelRateLimited),
        (500, Code::ModelFailed),
        (502, Code::ModelFailed),
        (529, Code::ModelFailed),
    ] {
        server.next(Behaviour::error(status, "the server's reason"));
        let (_, error) = read_err(&*model, request()).await;
        assert_eq!(error.code, code, "{status}");
        assert_eq!(error.retry_after, None);
        assert!(error.detail.contains("\"test\""), "{error}");
        if status >= 400 {
            assert!(error.detail.contains("the server's reason"), "{error}");
        }
    }
    // Every status was answered by one request: nothing was sent twice.
    assert_eq!(server.received().len(), 12);

    server.next(Behaviour::status(429, &[("retry-after", "7")], "application/json", "{}"));
    let (_, error) = read_err(&*model, request()).await;
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (server, other) = (ModelServer::start().await, ModelServer::start().await);
    let target = format!("{}/chat/completions", other.base_url());
    server.next(Behaviour::status(307, &[("location", &target)], "text/plain", ""));
    let (_, error) = read_err(&*model(provider(server.base_url())), request()).await;
    assert_eq!(error.code, Code::ModelBadResponse);
    assert_eq!(other.received().len(), 0);
}

#[tokio::test]
async fn the_providers_message_is_bounded_and_never_holds_the_key() {
    let server = ModelServer::start().await;
    let model = model(provider(server.base_url()));
    let long = format!("Incorrect API key {KEY} {}", "x".repeat(2_000));
    for media_type in ["application/json", "text/plain"] {
        let body = match media_type {
            "text/plain" => long.clone(),
            _ => json!({"error": {"message": long}}).to_string(),
        };
        server.next(Behaviour::status(401, &[], media_type, &body));
        let (_, error) = read_err(&*model, request()).await;
        assert!(error.detail.contains("Incorrect API key [key] xxx"), "{error}");
        assert!(error.detail.chars().count() < 600, "{error}");
    }
    server.next(Behaviour::status(502, &[], "text/html", "<html>secret internals</html>"));
    let (_, error) = read_err(&*model, request()).await;
    assert!(!error.detail.contains("internals"), "{error}");
}

#[tokio::test]
async fn what_is_not_the_protocol_is_a_bad_response_behind_the_text_that_came() {
    let server = ModelServer::start().await;
    let model = model(provider(server.base_url()));
    let hi = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    let with = |rest: &str| format!("{hi}{rest}").into_bytes();
    for (stream, text) in [
        (Vec::new(), ""),
        (b"<html>not a model</html>".to_vec(), ""),
        (b"data: [DONE]\n\n".to_vec(), ""),
        (b"data: {\"foo\":1}\n\n".to_vec(), ""),
        (hi.as_bytes().to_vec(), "Hi"),
        (with("data: {\"choices\":\n\n"), "Hi"),
        (with("data: {\"choices\":7}\n\n"), "Hi"),
        (with("data: hello\n\n"), "Hi"),
        ([hi.as_bytes(), b"data: \xFF\xFE\n\n"].concat(), "Hi"),
    ] {
        server.next(Behaviour::events(&[&stream]));
        let (came, error) = read_err(&*model, request()).await;
        let stream = String::from_utf8_lossy(&stream);
        assert_eq!(error.code, Code::ModelBadResponse, "{stream}: {error:?}");
        assert_eq!(came, text, "{stream}");
    }
    for (behaviour, text) in [
        (Behaviour { end: End::CutAfter(2), ..Behaviour::text("abcdefgh") }, "abcd"),
        (Behaviour { end: End::CutAfter(0), ..Behaviour::text("abcdefgh") }, ""),
        (Behaviour { without_finish: true, without_done: true, ..Behaviour::text("abcd") }, "abcd"),
    ] {
        server.next(behaviour);
        let (came, error) = read_err(&*model, request()).await;
        assert_eq!((error.code, came.as_str()), (Code::ModelBadResponse, text), "{error:?}");
    }
}

#[tokio::test]
async fn an_error_within_the_stream_has_its_code() {
    let server = ModelServer::start().await;
    let model = model(provider(server.base_url()));
    let hi = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    for (event, code) in [
        (json!({"error": {"message": "reason", "type": "server_error"}}), Code::ModelFailed),
        (json!({"error": {"message": "reason", "code": 429}}), Code::ModelRateLimited),
        (json!({"error": {"message": "reason", "code": 400}}), Code::ModelRejected),
        (json!({"object": "error", "message": "reason", "code": 400}), Code::ModelRejected),
        (json!({"error": "reason"}), Code::ModelFailed),
    ] {
        for end in ["\n\n", ""] {
            server.next(Behaviour::events(&[format!("{hi}data: {event}{end}").as_bytes()]));
            let (came, error) = read_err(&*model, request()).await;
            assert_eq!((error.code, came.as_str()), (code, "Hi"), "{event}");
            assert!(error.detail.contains("reason"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_unreachable() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let model = model(provider(format!("http://{address}/v1")));
    let (_, error) = read_err(&*model, request()).await;
    assert_eq!(error.code, Code::ModelUnreachable);
    assert!(error.chain().contains("refused"), "{}", error.chain());
}

/// On a busy machine a time-out may pass before anything came, so only the code
/// and the reason are certain, and that no other text came.
#[tokio::test]
async fn every_time_out_is_a_model_timeout() {
    let server = ModelServer::start().await;
    let base = || provider(server.base_url());
    let hanging = || Behaviour { end: End::HangAfter(2), ..Behaviour::text("abcdefgh") };
    let soon = Some(SOON_MS);
    let until = |wait| ModelRequest { deadline: Instant::now() + wait, ..request() };
    for (behaviour, provider, wait, reason) in [
        (
            Behaviour::silence(),
            ProviderOptions { first_byte_timeout_ms: soon, ..base() },
            FAR,
            "begin within 50 ms",
        ),
        (hanging(), ProviderOptions { idle_timeout_ms: soon, ..base() }, FAR, "for 50 ms"),
        (Behaviour::silence(), base(), Duration::from_millis(SOON_MS), "deadline"),
        (hanging(), base(), Duration::from_millis(4 * SOON_MS), "deadline"),
    ] {
        server.by_default(behaviour);
        let (came, error) = read_err(&*model(provider), until(wait)).await;
        assert_eq!(error.code, Code::ModelTimeout, "{reason}: {error:?}");
        assert!(error.detail.contains(reason), "{reason}: {error}");
        assert!("abcd".starts_with(&came), "{reason}: {came}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let server = ModelServer::start().await;
    let outbound = agentry_outbound::Options { response_bytes_max: 4_096, ..Default::default() };
    let model = model_within(provider(server.base_url()), &outbound);
    for ignores_stream in [false, true] {
        server.next(Behaviour { ignores_stream, ..Behaviour::text("x".repeat(10_000)) });
        let (_, error) = read_err(&*model, request()).await;
        assert_eq!(error.code, Code::ModelBadResponse);
        assert!(error.detail.contains("4096"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn however_the_answer_is_cut_the_text_is_the_same(
        text in "[ -~äß☃🦀\n]{0,60}",
        token_chars in 1_usize..6,
        events_per_write in 1_usize..6,
        write_bytes in prop::option::of(1_usize..60),
        crlf: bool,
        comments: bool,
        without_done: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let whole = runtime.block_on(async {
            let server = ModelServer::start().await;
            let chunking = Chunking { token_chars, events_per_write, write_bytes, crlf, comments };
            server.next(Behaviour { chunking, without_done, ..Behaviour::text(text.clone()) });
            read_ok(&*model(provider(server.base_url())), request()).await
        });
        prop_assert_eq!(whole.text, text);
        prop_assert_eq!(whole.finish, Some(FinishReason::Stop));
        prop_assert!(whole.usage.is_some());
    }
}
