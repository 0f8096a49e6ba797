//! Every adapter against a server that speaks its provider's protocol over a socket,
//! and that refuses what the real one refuses. That the servers say what the real ones
//! say is shown by the providers' own clients (`agentry/tests/http/model_clients.rs`).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::chat::{
    Image, ImageSource, Part, Reasoning, ResponseFormat, ToolChoice, ToolResult, ToolSpec,
};
use agentry_domain::runs::Usage;
use agentry_domain::sessions::MessageRole;
use agentry_domain::{Code, Error};
use agentry_llm::{
    ChatMessage, FinishReason, Model, ModelEvent, ModelRequest, Models, Options, Price,
    ProviderKind, ProviderOptions, ToolCall,
};
use agentry_testkit::{Behaviour, Call, Chunking, End, ModelServer, TempDir};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use base64::Engine as _;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

const FAR: Duration = Duration::from_secs(60);
const KEY: &str = "sk-test-0123456789";
const KINDS: [ProviderKind; 6] = [
    ProviderKind::OpenAi,
    ProviderKind::Compatible,
    ProviderKind::Anthropic,
    ProviderKind::Gemini,
    ProviderKind::Vertex,
    ProviderKind::Ollama,
];

/// A provider of a kind at the server, and its model `m`.
fn options(kind: ProviderKind, server: &ModelServer) -> ProviderOptions {
    let root = server.root_url();
    let base_url = match kind {
        ProviderKind::OpenAi | ProviderKind::Compatible | ProviderKind::Vertex => {
            format!("{root}/v1")
        }
        ProviderKind::Gemini => format!("{root}/v1beta"),
        ProviderKind::Anthropic | ProviderKind::Ollama => root,
    };
    let price = Price { input: 1.0, cached_input: Some(0.5), output: 2.0 };
    ProviderOptions {
        kind: Some(kind),
        key: Some(KEY.to_owned()),
        prices: BTreeMap::from([("m".to_owned(), price)]),
        ..ProviderOptions::new(base_url)
    }
}

fn model_of(options: ProviderOptions) -> Arc<dyn Model> {
    let kind = options.kind;
    let outbound = agentry_outbound::Options { retries_max: 0, ..Default::default() };
    let providers = BTreeMap::from([("test".to_owned(), options)]);
    let models = Models::new(&Options { providers, outbound }).expect("the settings are valid");
    models.resolve(name(kind)).expect("it is configured")
}

fn name(kind: Option<ProviderKind>) -> &'static str {
    if kind == Some(ProviderKind::Compatible) { "compatible/test/m" } else { "test/m" }
}

fn user(text: &str) -> ChatMessage {
    ChatMessage::said(MessageRole::User, text)
}

fn request(messages: Vec<ChatMessage>) -> ModelRequest {
    ModelRequest::new(messages, Instant::now() + FAR)
}

fn weather() -> ToolSpec {
    ToolSpec {
        name: "get_weather".to_owned(),
        description: "The weather somewhere.".to_owned(),
        parameters: json!({"type": "object", "properties": {"city": {"type": "string"}}}),
        strict: false,
    }
}

#[derive(Debug, Default)]
struct Whole {
    answering: String,
    text: String,
    reasoning: Vec<Reasoning>,
    calls: Vec<ToolCall>,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
}

async fn read(model: &dyn Model, request: ModelRequest) -> (Whole, Option<Error>) {
    let mut whole = Whole::default();
    let mut stream = match model.respond(request).await {
        Ok(stream) => stream,
        Err(error) => return (whole, Some(error)),
    };
    while let Some(event) = stream.next().await {
        assert_eq!(whole.finish, None, "something came behind the end: {event:?}");
        match event {
            Ok(ModelEvent::Answering(model)) => whole.answering = model,
            Ok(ModelEvent::Delta(text)) => whole.text.push_str(&text),
            Ok(ModelEvent::Reasoning(piece)) => whole.reasoning.push(piece),
            Ok(ModelEvent::ToolCall(call)) => whole.calls.push(call),
            Ok(ModelEvent::Usage(usage)) => assert_eq!(whole.usage.replace(usage), None),
            Ok(ModelEvent::Finished(reason)) => whole.finish = Some(reason),
            Err(error) => return (whole, Some(error)),
        }
    }
    (whole, None)
}

async fn read_ok(model: &dyn Model, request: ModelRequest) -> Whole {
    match read(model, request).await {
        (whole, None) => whole,
        (whole, Some(error)) => panic!("{error:?} behind {whole:?}"),
    }
}

#[tokio::test]
async fn a_reply_is_streamed_however_it_is_cut() {
    for kind in KINDS {
        let server = ModelServer::start().await;
        server.require_key(KEY);
        let model = model_of(options(kind, &server));
        let text = "Guten Morgen ☃ 🦀, liebe Welt äöü.";
        for write_bytes in [None, Some(1), Some(7), Some(4_096)] {
            let chunking = Chunking { write_bytes, ..Chunking::default() };
            server.next(Behaviour { chunking, ..Behaviour::text(text) });
            let whole = read_ok(&*model, request(vec![user("Hello")])).await;
            assert_eq!(whole.text, text, "{kind:?}");
            assert_eq!(whole.finish, Some(FinishReason::Stop), "{kind:?}");
            assert_eq!(whole.answering, name(Some(kind)), "{kind:?}");
            let usage = whole.usage.expect("it is counted");
            assert!(usage.input_tokens > Some(0) && usage.output_tokens > Some(0), "{kind:?}");
            assert!(usage.cost_nanos > Some(0), "{kind:?}: {usage:?}");
        }
        let finish_reason = "length".to_owned();
        server.next(Behaviour { finish_reason, ..Behaviour::text("x") });
        let whole = read_ok(&*model, request(vec![user("Hello")])).await;
        assert_eq!(whole.finish, Some(FinishReason::Length), "{kind:?}");
    }
}

/// The first request of tools and their results, as the server took it.
async fn round_trip(kind: ProviderKind) -> (Whole, Value) {
    let server = ModelServer::start().await;
    let model = model_of(options(kind, &server));
    let mut asked = request(vec![user("How is the weather?")]);
    asked.instructions = "Be brief.".to_owned();
    asked.tools = vec![weather()];
    server.next(Behaviour::calls(&[
        Call::new("get_weather", json!({"city": "Bonn"})),
        Call::new("get_weather", json!({"city": "Köln"})),
    ]));
    let first = read_ok(&*model, asked.clone()).await;
    assert_eq!(first.finish, Some(FinishReason::ToolCalls), "{kind:?}");
    let cities: Vec<Value> =
        first.calls.iter().map(|call| serde_json::from_str(&call.arguments).unwrap()).collect();
    assert_eq!(cities, [json!({"city": "Bonn"}), json!({"city": "Köln"})], "{kind:?}");
    assert_ne!(first.calls[0].id, first.calls[1].id, "{kind:?}");
    let result = |call: &ToolCall, content: &str| {
        ChatMessage::Tool(ToolResult {
            call_id: call.id.clone(),
            name: call.name.clone(),
            content: content.to_owned(),
            is_error: false,
        })
    };
    let calls = first.calls.clone();
    asked.messages.push(ChatMessage::called("Let me see.", calls));
    asked.messages.push(result(&first.calls[0], "Fog."));
    asked.messages.push(result(&first.calls[1], r#"{"sky":"clear"}"#));
    server.next(Behaviour::text("Fog in Bonn, clear in Köln."));
    let second = read_ok(&*model, asked).await;
    assert_eq!(second.finish, Some(FinishReason::Stop), "{kind:?}");
    (second, server.received()[1].body.clone())
}

#[tokio::test]
async fn tools_are_called_and_answered() {
    for kind in KINDS {
        let (second, sent) = round_trip(kind).await;
        assert_eq!(second.text, "Fog in Bonn, clear in Köln.", "{kind:?}");
        let sent = sent.to_string();
        for part in ["Be brief.", "get_weather", "The weather somewhere.", "Let me see.", "Fog."] {
            assert!(sent.contains(part), "{kind:?}: {part} is not in {sent}");
        }
    }
}

/// What a model that thinks is sent with the results of its calls: what it thought, as its
/// provider gave it, and nothing of another provider's.
#[tokio::test]
async fn what_was_thought_goes_back_with_the_results() {
    let foreign = Reasoning { protocol: "elsewhere".to_owned(), block: json!({"x": "foreign"}) };
    for kind in KINDS {
        let server = ModelServer::start().await;
        let model = model_of(options(kind, &server));
        let calls =
            [Call::new("get_weather", json!({"city": "Bonn"})), Call::new("now", json!({}))];
        server.next(Behaviour { thinks: true, ..Behaviour::calls(&calls) });
        let mut asked = request(vec![user("How is the weather?")]);
        asked.tools = vec![weather()];
        let first = read_ok(&*model, asked.clone()).await;
        assert_eq!(first.text, "", "{kind:?}: a thought is not said");
        let results: Vec<ChatMessage> = first
            .calls
            .iter()
            .map(|call| {
                ChatMessage::Tool(ToolResult {
                    call_id: call.id.clone(),
                    name: call.name.clone(),
                    content: "Fog.".to_owned(),
                    is_error: false,
                })
            })
            .collect();
        let mut reasoning = first.reasoning.clone();
        reasoning.push(foreign.clone());
        let calls = first.calls.clone();
        asked.messages.push(ChatMessage::Assistant { text: "So.".to_owned(), calls, reasoning });
        asked.messages.extend(results);
        let second = read_ok(&*model, asked.clone()).await;
        assert_eq!(second.finish, Some(FinishReason::Stop), "{kind:?}");
        let sent = server.received()[1].body.clone();
        assert!(!sent.to_string().contains("foreign"), "{kind:?}: {sent}");
        let signature = "signature of chatcmpl-1";
        match kind {
            ProviderKind::OpenAi | ProviderKind::Compatible => {
                let said = &sent["messages"][1];
                assert_eq!(said["reasoning_content"], "I need get_weather and now.", "{sent}");
            }
            ProviderKind::Anthropic => {
                let blocks = &sent["messages"][1]["content"];
                let thought = json!({"type": "thinking", "thinking": "I need get_weather and now.",
                    "signature": signature});
                assert_eq!(blocks[0], thought);
                assert_eq!(blocks[1], json!({"type": "redacted_thinking", "data": signature}));
                assert_eq!(
                    (&blocks[2]["type"], &blocks[3]["type"]),
                    (&json!("text"), &json!("tool_use"))
                );
            }
            ProviderKind::Gemini | ProviderKind::Vertex => {
                let parts = &sent["contents"][1]["parts"];
                assert_eq!(parts[1]["thoughtSignature"], signature, "{parts}");
                assert_eq!(parts[2]["functionCall"]["name"], "now");
                assert_eq!(parts[2]["thoughtSignature"], Value::Null, "one has it for both");
            }
            ProviderKind::Ollama => {}
        }
        // When the user has spoken again it is of no use to those that say so.
        asked.messages.push(user("And now?"));
        asked.parameters = match kind {
            ProviderKind::Anthropic => {
                json!({"thinking": {"type": "disabled"}}).as_object().unwrap().clone()
            }
            _ => serde_json::Map::new(),
        };
        read_ok(&*model, asked).await;
        let sent = server.received()[2].body.to_string();
        let is_there = sent.contains("I need") || sent.contains(signature);
        let wanted = matches!(kind, ProviderKind::Gemini | ProviderKind::Vertex);
        assert_eq!(is_there, wanted, "{kind:?}: {sent}");
    }
}

/// A conversation that began with another provider: its calls have other ids, some of
/// them twice, and its tools are not offered any more.
#[tokio::test]
async fn calls_of_another_provider_are_taken() {
    let call = |id: &str| ToolCall {
        id: id.to_owned(),
        name: "look_up".to_owned(),
        arguments: "{}".to_owned(),
        signature: None,
    };
    let result = |id: &str| {
        ChatMessage::Tool(ToolResult {
            call_id: id.to_owned(),
            name: "look_up".to_owned(),
            content: format!("found {id}"),
            is_error: false,
        })
    };
    for kind in KINDS {
        let server = ModelServer::start().await;
        let model = model_of(options(kind, &server));
        let messages = vec![
            user("one"),
            ChatMessage::called("", vec![call("call_0")]),
            result("call_0"),
            user("two"),
            ChatMessage::called("", vec![call("call_0"), call("call_0#1")]),
            result("call_0#1"),
            result("call_0"),
            user("three"),
        ];
        read_ok(&*model, request(messages)).await;
        let body = server.received()[0].body.clone();
        if kind != ProviderKind::Anthropic {
            continue;
        }
        let blocks: Vec<&Value> = body["messages"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|message| message["content"].as_array().unwrap())
            .collect();
        let ids = |name: &str| -> Vec<&str> {
            blocks.iter().filter_map(|block| block[name].as_str()).collect()
        };
        assert_eq!(ids("id"), ["call_0", "call_0-2", "call_0_1"]);
        assert_eq!(ids("tool_use_id"), ["call_0", "call_0_1", "call_0-2"]);
        assert_eq!(body["tools"][0]["name"], "look_up", "what was called is known");
        assert_eq!(body["tool_choice"]["type"], "none");
    }
}

#[tokio::test]
async fn a_choice_of_tools_is_asked_for_or_refused() {
    for kind in KINDS {
        for choice in
            [ToolChoice::None, ToolChoice::Required, ToolChoice::Tool("get_weather".into())]
        {
            let server = ModelServer::start().await;
            let model = model_of(options(kind, &server));
            let mut asked = request(vec![user("Hello")]);
            asked.tools = vec![weather()];
            asked.tool_choice = choice.clone();
            let (_, error) = read(&*model, asked).await;
            let cannot = kind == ProviderKind::Ollama && choice != ToolChoice::None;
            assert_eq!(
                error.map(|error| error.code),
                cannot.then_some(Code::ModelRejected),
                "{kind:?}"
            );
            if cannot {
                assert!(server.received().is_empty(), "nothing is sent");
                continue;
            }
            let body = &server.received()[0].body;
            let said = match kind {
                ProviderKind::OpenAi | ProviderKind::Compatible => body["tool_choice"].clone(),
                ProviderKind::Anthropic => body["tool_choice"]["type"].clone(),
                ProviderKind::Gemini | ProviderKind::Vertex => {
                    body["toolConfig"]["functionCallingConfig"]["mode"].clone()
                }
                ProviderKind::Ollama => body["tools"].clone(),
            };
            let (none, required, one) = match kind {
                ProviderKind::OpenAi | ProviderKind::Compatible => {
                    let one = json!({"type": "function", "function": {"name": "get_weather"}});
                    (json!("none"), json!("required"), one)
                }
                ProviderKind::Anthropic => (json!("none"), json!("any"), json!("tool")),
                ProviderKind::Gemini | ProviderKind::Vertex => {
                    (json!("NONE"), json!("ANY"), json!("ANY"))
                }
                ProviderKind::Ollama => (Value::Null, Value::Null, Value::Null),
            };
            let expected = match choice {
                ToolChoice::None => none,
                ToolChoice::Required => required,
                ToolChoice::Tool(_) | ToolChoice::Auto => one,
            };
            assert_eq!(said, expected, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn a_schema_and_an_image_are_in_the_request() {
    let schema = json!({
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": false,
    });
    for kind in KINDS {
        let server = ModelServer::start().await;
        let model = model_of(options(kind, &server));
        let inline = ImageSource::Inline { media_type: "image/png".into(), base64: "iVBO".into() };
        let parts = vec![
            Part::Text { text: "What is this?".to_owned() },
            Part::Image(Image { source: inline, detail: Some("low".to_owned()) }),
        ];
        let mut asked = request(vec![ChatMessage::User { parts }]);
        asked.response_format = ResponseFormat::JsonSchema {
            name: "place".to_owned(),
            description: None,
            schema: schema.clone(),
            strict: true,
        };
        read_ok(&*model, asked).await;
        let body = server.received()[0].body.clone();
        let (form, image) = match kind {
            ProviderKind::OpenAi | ProviderKind::Compatible => (
                &body["response_format"]["json_schema"]["schema"],
                &body["messages"][0]["content"][1]["image_url"]["url"],
            ),
            ProviderKind::Anthropic => (
                &body["output_config"]["format"]["schema"],
                &body["messages"][0]["content"][1]["source"]["data"],
            ),
            ProviderKind::Gemini | ProviderKind::Vertex => (
                &body["generationConfig"]["responseJsonSchema"],
                &body["contents"][0]["parts"][1]["inlineData"]["data"],
            ),
            ProviderKind::Ollama => (&body["format"], &body["messages"][0]["images"][0]),
        };
        assert_eq!(form, &schema, "{kind:?}");
        let image = image.as_str().unwrap_or_default();
        assert!(image == "iVBO" || image == "data:image/png;base64,iVBO", "{kind:?}: {body}");
    }
}

#[tokio::test]
async fn settings_are_in_the_providers_words_or_refused() {
    let given = json!({"temperature": 0.5, "max_tokens": 7, "stop": "x"});
    for kind in KINDS {
        let server = ModelServer::start().await;
        let model = model_of(options(kind, &server));
        let mut asked = request(vec![user("Hello")]);
        asked.parameters = given.as_object().unwrap().clone();
        read_ok(&*model, asked).await;
        let body = server.received()[0].body.clone();
        let (temperature, tokens, stop) = match kind {
            ProviderKind::OpenAi | ProviderKind::Compatible => {
                (&body["temperature"], &body["max_tokens"], json!("x"))
            }
            ProviderKind::Anthropic => (&body["temperature"], &body["max_tokens"], json!(["x"])),
            ProviderKind::Gemini | ProviderKind::Vertex => {
                let config = &body["generationConfig"];
                (&config["temperature"], &config["maxOutputTokens"], json!(["x"]))
            }
            ProviderKind::Ollama => {
                let options = &body["options"];
                (&options["temperature"], &options["num_predict"], json!(["x"]))
            }
        };
        assert_eq!((temperature, tokens), (&json!(0.5), &json!(7)), "{kind:?}");
        assert!(body.to_string().contains(&stop.to_string()), "{kind:?}: {body}");
        let mut asked = request(vec![user("Hello")]);
        asked.parameters = json!({"logit_bias": {"1": 2}}).as_object().unwrap().clone();
        let (_, error) = read(&*model, asked).await;
        let has = matches!(kind, ProviderKind::OpenAi | ProviderKind::Compatible);
        assert_eq!(
            error.map(|error| error.code),
            (!has).then_some(Code::ModelRejected),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn every_failure_has_its_code_in_every_protocol() {
    for kind in KINDS {
        let server = ModelServer::start().await;
        let model = model_of(options(kind, &server));
        for (status, code) in [
            (400, Code::ModelRejected),
            (401, Code::ModelUnauthorized),
            (429, Code::ModelRateLimited),
            (500, Code::ModelFailed),
            (529, Code::ModelFailed),
        ] {
            server.next(Behaviour::error(status, "the server's reason"));
            let (_, error) = read(&*model, request(vec![user("Hello")])).await;
            let error = error.unwrap();
            assert_eq!(error.code, code, "{kind:?} {status}");
            assert!(error.detail.contains("the server's reason"), "{kind:?}: {error}");
        }
        // Cut in the middle of what is said: what came is kept, and it is no answer.
        server.next(Behaviour { end: End::CutAfter(4), ..Behaviour::text("abcdefghijklmnop") });
        let (whole, error) = read(&*model, request(vec![user("Hello")])).await;
        assert_eq!(error.unwrap().code, Code::ModelBadResponse, "{kind:?}");
        assert!(whole.text.starts_with("abcd"), "{kind:?}: {whole:?}");
        server.next(Behaviour {
            without_finish: true,
            without_done: true,
            ..Behaviour::text("abcdefgh")
        });
        let (whole, error) = read(&*model, request(vec![user("Hello")])).await;
        assert_eq!(error.unwrap().code, Code::ModelBadResponse, "{kind:?}");
        assert_eq!(whole.text, "abcdefgh", "{kind:?}");
        server.next(Behaviour::raw("text/event-stream", &[b"<html>\n\ndata: {]\n\n"]));
        let (_, error) = read(&*model, request(vec![user("Hello")])).await;
        assert_eq!(error.unwrap().code, Code::ModelBadResponse, "{kind:?}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_unauthorized_in_every_protocol() {
    for kind in KINDS {
        let server = ModelServer::start().await;
        server.require_key("another");
        let model = model_of(options(kind, &server));
        let (_, error) = read(&*model, request(vec![user("Hello")])).await;
        let error = error.unwrap();
        assert_eq!(error.code, Code::ModelUnauthorized, "{kind:?}");
        assert!(!error.chain().contains(KEY), "{kind:?}: {}", error.chain());
    }
}

/// A fresh key, in the form in which Google gives them out.
fn private_key() -> String {
    let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let base64 = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n")
}

#[tokio::test]
async fn a_service_account_has_one_token_for_many_calls() {
    let server = ModelServer::start().await;
    server.require_key("ya29.token");
    let dir = TempDir::new();
    let file = dir.path().join("account.json");
    let account = json!({"type": "service_account", "client_email": "a@p.iam.example",
        "private_key_id": "k1", "private_key": private_key(),
        "token_uri": format!("{}/token", server.root_url())});
    std::fs::write(&file, account.to_string()).unwrap();
    let model = model_of(ProviderOptions {
        key: None,
        project: Some("p".to_owned()),
        location: Some("europe-west4".to_owned()),
        credentials_file: Some(file),
        ..options(ProviderKind::Vertex, &server)
    });
    for _ in 0..3 {
        read_ok(&*model, request(vec![user("Hello")])).await;
    }
    assert_eq!(server.statements().len(), 1);
    let path = &server.received()[0].path;
    let expected =
        "/v1/projects/p/locations/europe-west4/publishers/google/models/m:streamGenerateContent";
    assert_eq!(path, expected);
}

#[tokio::test]
async fn the_next_model_is_asked_when_one_cannot_answer() {
    let (first, second) = (ModelServer::start().await, ModelServer::start().await);
    second.by_default(Behaviour::text("I am here."));
    let providers = BTreeMap::from([
        ("one".to_owned(), options(ProviderKind::OpenAi, &first)),
        ("two".to_owned(), options(ProviderKind::Anthropic, &second)),
    ]);
    let outbound = agentry_outbound::Options { retries_max: 0, ..Default::default() };
    let models = Models::new(&Options { providers, outbound }).unwrap();
    let model = models.resolve_first("one/m", &["two/m".to_owned()]).unwrap();
    for behaviour in [
        Behaviour::error(500, "down"),
        Behaviour::error(429, "slow down"),
        Behaviour::error(401, "who are you"),
        Behaviour { end: End::CutAfter(0), ..Behaviour::text("x") },
    ] {
        first.next(behaviour);
        let whole = read_ok(&*model, request(vec![user("Hello")])).await;
        assert_eq!((whole.text.as_str(), whole.answering.as_str()), ("I am here.", "two/m"));
    }
    // What is wrong with the request another provider need not see.
    first.next(Behaviour::error(400, "nonsense"));
    let (_, error) = read(&*model, request(vec![user("Hello")])).await;
    assert_eq!(error.unwrap().code, Code::ModelRejected);
    // What has begun to be said is not said again by another.
    first.next(Behaviour { end: End::CutAfter(3), ..Behaviour::text("abcdefghijkl") });
    let (whole, error) = read(&*model, request(vec![user("Hello")])).await;
    assert_eq!(error.unwrap().code, Code::ModelBadResponse);
    assert_eq!(whole.answering, "one/m");
    assert!(whole.text.starts_with("abcd"), "{whole:?}");
    assert_eq!(second.received().len(), 4);
}
