//! Runs whose model calls tools: all of a step at once, built-in ones and those of an
//! MCP server, streamed and kept, within what the agent lists, the caller may and the
//! bounds allow.

use agentry_testkit::{Answer, Behaviour, Call, ModelServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::crud::{id, made};
use crate::mcp_bed::{SETTINGS, Script, act, started};
use crate::on_both_engines;
use crate::runs_bed::{Bed, Events, start};
use crate::server::{Engine, Home, answer, wait_until};

on_both_engines!(
    a_model_plans_calls_three_tools_at_once_and_streams_its_answer,
    what_a_run_may_call_is_not_the_model_s_to_say,
    a_tool_that_fails_is_told_to_the_model,
    a_run_ends_at_its_bounds,
    files_and_tasks_are_the_run_s_own,
    a_run_that_had_an_effect_is_not_begun_again,
    a_run_without_an_effect_is_begun_again,
    what_was_called_is_in_the_session_and_the_next_model_sees_it,
    a_session_keeps_what_it_may_of_each_result,
    what_a_model_thought_goes_back_to_it_and_to_nobody_else,
);

/// An answer of the model: a text, and calls of tools behind it.
fn says(text: &str, calls: &[(&str, Value)]) -> Behaviour {
    let mut events = Vec::new();
    let mut event = |delta: Value, finish: Value| {
        let choice = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        events.push(format!("data: {}\n\n", json!({"id": "c", "choices": choice})));
    };
    event(json!({"role": "assistant", "content": ""}), Value::Null);
    if !text.is_empty() {
        event(json!({"content": text}), Value::Null);
    }
    for (n, (name, arguments)) in calls.iter().enumerate() {
        let function = json!({"name": name, "arguments": arguments.to_string()});
        let call = json!([{"index": n, "id": format!("call_{n}"), "type": "function", "function": function}]);
        event(json!({"tool_calls": call}), Value::Null);
    }
    event(json!({}), json!(if calls.is_empty() { "stop" } else { "tool_calls" }));
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
    events.push(format!("data: {}\n\n", json!({"id": "c", "choices": [], "usage": usage})));
    events.push("data: [DONE]\n\n".to_owned());
    let writes: Vec<&[u8]> = events.iter().map(String::as_bytes).collect();
    Behaviour::events(&writes)
}

/// The same, and another process soon takes over what a dead one had.
const QUICK: [(&str, &str); 3] = [SETTINGS[0], SETTINGS[1], ("AGENTRY_RUNS__LEASE_MS", "1000")];

async fn bed(engine: Engine, more: Value) -> Bed {
    Bed::with_agent(engine, &SETTINGS, more).await
}

/// Runs the agent: the run.
async fn run(bed: &Bed, body: &Value) -> Value {
    let (status, run) = answer(bed.request(body)).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    run
}

fn names(calls: &Value) -> Vec<&str> {
    calls.as_array().unwrap().iter().map(|call| call["name"].as_str().unwrap()).collect()
}

async fn a_model_plans_calls_three_tools_at_once_and_streams_its_answer(engine: Engine) {
    let tools = json!([
        "memory_search",
        "memory_save",
        {"type": "mcp", "server": "own", "tools": ["add"]},
    ]);
    let bed = bed(engine, json!({"tools": tools})).await;
    let script = Script::new();
    started(&bed.process, script.stdio("own", &[])).await;
    bed.model.next(says(
        "First I look, add and note.",
        &[
            ("memory_search", json!({"query": "the dog's name"})),
            ("own__add", json!({"a": 20, "b": 22})),
            ("memory_save", json!({"content": "The dog is called Rex.", "name": "dog"})),
        ],
    ));
    bed.model.next(says("It is 42, and Rex.", &[]));
    let body = json!({"message": "What is it?", "user_id": "ann", "stream": true});
    let mut stream = Events::of(bed.request(&body)).await;
    let mut told = Vec::new();
    let mut text = String::new();
    let mut finished = Value::Null;
    while let Some((name, data)) = stream.next().await {
        let data: Value = serde_json::from_str(&data).unwrap();
        match name.as_str() {
            "message.delta" => text.push_str(data["text"].as_str().unwrap()),
            "run.finished" => finished = data.clone(),
            _ => {}
        }
        if name.starts_with("tool.") {
            assert_eq!(text, "First I look, add and note.", "where it happened in the text");
            let name = format!("{name} {}", data["name"].as_str().unwrap());
            if name.starts_with("tool.finished") {
                assert_eq!(data["status"], "succeeded", "{data}");
                assert!(data["output"]["output"].is_string(), "{data}");
            }
            told.push(name);
        }
    }
    assert_eq!(text, "First I look, add and note.\n\nIt is 42, and Rex.");
    assert_eq!(
        told[..3],
        ["tool.started memory_search", "tool.started own__add", "tool.started memory_save"]
    );
    assert_eq!(told.len(), 6, "{told:?}");
    assert_eq!(finished["success"], true, "{finished}");
    assert_eq!(finished["message"], text.as_str());
    assert_eq!(names(&finished["tool_calls"]), ["memory_search", "own__add", "memory_save"]);
    assert_eq!(finished["tool_calls"][1]["server"], "own");
    assert_eq!(finished["tool_calls"][1]["arguments"], json!({"a": 20, "b": 22}));
    assert_eq!(finished["tool_outputs"][1]["output"], "42");
    assert_eq!(finished["usage"]["input_tokens"], 20, "both steps");

    // The model was told what came of it.
    let asked = bed.model.received();
    assert_eq!(asked.len(), 2);
    let offered: Vec<&str> = asked[0].body["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["function"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(offered, ["memory_search", "memory_save", "own__add"]);
    let messages = asked[1].body["messages"].as_array().unwrap();
    let results: Vec<&Value> = messages.iter().filter(|it| it["role"] == "tool").collect();
    assert_eq!(results.len(), 3);
    assert_eq!(results[1]["content"], "42");

    // It is kept, and told again from any place.
    let id = finished["id"].as_str().unwrap();
    assert_eq!(bed.run(id).await["tool_outputs"], finished["tool_outputs"]);
    let path = format!("/api/v1/runs/{id}/events");
    let mut again = Events::of(bed.process.request(Method::GET, &path)).await;
    let mut seen = Vec::new();
    while let Some((name, data)) = again.next().await {
        let data: Value = serde_json::from_str(&data).unwrap();
        if name.starts_with("tool.") {
            seen.push(format!("{name} {}", data["name"].as_str().unwrap()));
        }
    }
    assert_eq!(seen, told);
    let request = bed.process.request(Method::GET, &path).header("last-event-id", "1-27.2");
    let mut rest = Events::of(request).await;
    let (name, data) = rest.next().await.unwrap();
    assert_eq!((name.as_str(), data.contains("memory_save")), ("tool.started", true), "{data}");

    let sought = json!({"query": "what is the dog called", "user_id": "ann"});
    let (_, found) = bed.process.post("/api/v1/memories/search", sought).await;
    assert_eq!(found["hits"][0]["memory"]["content"], "The dog is called Rex.", "{found}");
    assert_eq!(bed.home.count("run_tool").await, 0, "they are in the run now");
}

async fn what_a_run_may_call_is_not_the_model_s_to_say(engine: Engine) {
    let bed = bed(engine, json!({"tools": ["memory_search", "memory_save"]})).await;
    let calls = [
        ("memory_save", json!({"content": "x"})),
        ("file_write", json!({"path": "a", "content": "b"})),
        ("own__echo", json!({})),
    ];
    let (_, key) = bed.process.post("/api/v1/keys", json!({
        "name": "narrow", "role": "member", "scopes": ["runs:write", "runs:read", "memories:read"],
    })).await;
    let key = key["secret"].as_str().unwrap();
    bed.model.next(says("", &calls));
    bed.model.next(says("done", &[]));
    let request = bed.process.client.post(format!("{}{}", bed.process.url, bed.runs()));
    let request = request.header("x-api-key", key).json(&json!({"message": "go"}));
    let (status, run) = answer(request).await;
    assert_eq!((status, &run["message"]), (StatusCode::OK, &json!("done")), "{run}");
    for call in run["tool_calls"].as_array().unwrap() {
        assert_eq!(call["status"], "refused", "{call}");
    }
    for output in run["tool_outputs"].as_array().unwrap() {
        assert_eq!(output["error_code"], "forbidden", "{output}");
    }
    let offered = bed.model.received()[0].body["tools"].clone();
    assert_eq!(offered.as_array().unwrap().len(), 1, "what it may: {offered}");
    assert_eq!(bed.home.count("memory").await, 0);

    // An approval that is missing is as good as a refusal.
    let script = Script::new();
    let server = started(&bed.process, script.stdio("own", &[])).await;
    let tools = json!([{"type": "mcp", "server": "own"}]);
    let agent = format!("/api/v1/agents/{}", bed.agent);
    assert_eq!(bed.process.patch(&agent, json!({"tools": tools})).await.0, StatusCode::OK);
    crate::mcp_bed::call(&bed.process, &server, "describe", json!({"text": "new"})).await;
    wait_until(|| async {
        let (_, tools) = bed.process.get(&format!("{server}/tools")).await;
        tools.to_string().contains("\"approved\":false")
    })
    .await;
    bed.model.next(says(
        "",
        &[("own__echo", json!({"text": "x"})), ("own__add", json!({"a": 1, "b": 1}))],
    ));
    bed.model.next(says("done", &[]));
    let run = run_of(&bed, &json!({"message": "go"})).await;
    assert_eq!(run["tool_calls"][0]["status"], "refused", "{run}");
    assert_eq!(run["tool_calls"][1]["status"], "succeeded", "{run}");
    act(&bed.process, &format!("{server}/stop")).await;
    bed.model.next(says("", &[("own__add", json!({"a": 1, "b": 1}))]));
    bed.model.next(says("done", &[]));
    let run = run_of(&bed, &json!({"message": "go"})).await;
    assert_eq!(run["tool_outputs"][0]["error_code"], "mcp_server_stopped", "{run}");
    assert_eq!(run["success"], true);
}

async fn run_of(bed: &Bed, body: &Value) -> Value {
    run(bed, body).await
}

async fn a_tool_that_fails_is_told_to_the_model(engine: Engine) {
    let tools = json!([{"type": "mcp", "server": "own"}, "http_fetch", "memory_search"]);
    let bed = bed(engine, json!({"tools": tools})).await;
    let script = Script::new();
    let mut body = script.stdio("own", &[]);
    body["timeout_ms"] = json!(700);
    started(&bed.process, body).await;
    bed.model.next(says(
        "",
        &[
            ("own__fail", json!({})),
            ("own__hang", json!({})),
            ("own__reject", json!({})),
            ("memory_search", json!({"limit": 1000})),
            ("own__big", json!({"bytes": 200_000})),
        ],
    ));
    bed.model.next(says("", &[("own__crash", json!({}))]));
    bed.model.next(says("", &[("own__echo", json!({"text": "still there"}))]));
    bed.model.next(says("done", &[]));
    let run = run(&bed, &json!({"message": "go"})).await;
    assert_eq!(run["message"], "done", "{run}");
    let outputs = run["tool_outputs"].as_array().unwrap();
    let codes: Vec<&Value> = outputs.iter().map(|it| &it["error_code"]).collect();
    assert_eq!(outputs[0]["output"], "it went wrong");
    assert_eq!(
        codes,
        [
            &Value::Null,
            &json!("mcp_timeout"),
            &json!("mcp_rejected"),
            &json!("validation_failed"),
            &Value::Null,
            &json!("mcp_unreachable"),
            &Value::Null,
        ]
    );
    assert_eq!(outputs[4]["truncated"], true);
    assert_eq!(outputs[4]["output"].as_str().unwrap().len(), 65_536);
    assert_eq!(outputs[6]["output"], "still there");
}

async fn a_run_ends_at_its_bounds(engine: Engine) {
    for (limits, bound) in [
        (json!({"steps_max": 2}), "steps_max = 2"),
        (json!({"tool_calls_max": 1}), "tool_calls_max = 1"),
        (json!({"tokens_max": 20}), "tokens_max = 20"),
        (json!({"output_bytes_max": 10}), "output_bytes_max = 10"),
        (json!({"time_ms_max": 300}), "time_ms_max = 300"),
    ] {
        let more = json!({"tools": ["task_list"], "limits": limits});
        let bed = bed(engine, more).await;
        let (_, agent) = bed.process.get(&format!("/api/v1/agents/{}", bed.agent)).await;
        let given = limits.as_object().unwrap().iter().next().unwrap();
        assert_eq!(&agent["limits"][given.0], given.1);
        if bound.starts_with("time") {
            bed.model.by_default(Behaviour::silence());
        } else {
            bed.model.by_default(says("again", &[("task_list", json!({}))]));
        }
        let run = run(&bed, &json!({"message": "go"})).await;
        assert_eq!(run["success"], false, "{run}");
        assert_eq!(run["error"]["code"], "run_limit_reached", "{run}");
        assert!(run["error"]["message"].as_str().unwrap().contains(bound), "{run}");
    }
}

async fn files_and_tasks_are_the_run_s_own(engine: Engine) {
    let tools =
        json!(["file_list", "file_read", "file_write", "task_create", "task_list", "task_update"]);
    let bed = bed(engine, json!({"tools": tools})).await;
    let session = bed.session().await;
    bed.model.next(says(
        "",
        &[
            ("file_write", json!({"path": "notes/plan.md", "content": "1. go"})),
            ("task_create", json!({"description": "Book a flight"})),
            ("file_write", json!({"path": "../up", "content": "x"})),
        ],
    ));
    bed.model.next(says(
        "",
        &[
            ("file_read", json!({"path": "notes/plan.md"})),
            ("file_list", json!({})),
            ("task_list", json!({"status": "pending"})),
            ("file_read", json!({"path": "nothing"})),
        ],
    ));
    bed.model.next(says("done", &[]));
    let first = run(&bed, &json!({"message": "go", "session_id": session})).await;
    let outputs = first["tool_outputs"].as_array().unwrap();
    assert_eq!(outputs[2]["error_code"], "validation_failed", "{first}");
    assert_eq!(outputs[3]["output"], "1. go");
    assert!(outputs[4]["output"].as_str().unwrap().contains("notes/plan.md"));
    let listed: Value = serde_json::from_str(outputs[5]["output"].as_str().unwrap()).unwrap();
    assert_eq!(outputs[6]["error_code"], "not_found");
    let task = listed["tasks"][0]["id"].as_str().unwrap();
    let path = format!("/api/v1/sessions/{session}/files/notes/plan.md");
    let kept = bed.process.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(kept.text().await.unwrap(), "1. go");

    let change = json!({"id": task, "status": "completed", "result": "booked"});
    bed.model.next(says("", &[("task_update", change), ("file_list", json!({}))]));
    bed.model.next(says("done", &[]));
    let other = run(&bed, &json!({"message": "go"})).await;
    assert!(!other["tool_outputs"][1]["output"].as_str().unwrap().contains("plan.md"), "{other}");
    let (_, task) = bed.process.get(&format!("/api/v1/tasks/{task}")).await;
    assert_eq!(
        (&task["status"], &task["output_data"]["result"]),
        (&json!("completed"), &json!("booked"))
    );
    let ids: Vec<&Value> =
        first["tool_calls"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    let unique: std::collections::BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
}

/// The providers that a conversation is carried on with, and where each is asked.
const PROVIDERS: [(&str, &str); 4] =
    [("openai", "/v1"), ("anthropic", ""), ("gemini", "/v1beta"), ("ollama", "")];

/// An agent of each provider in turn, all of them at one model server.
async fn bed_of_every_provider(engine: Engine, more: &[(&str, &str)]) -> Bed {
    let model = ModelServer::start().await;
    let settings: Vec<(String, String)> = PROVIDERS
        .iter()
        .flat_map(|(name, path)| {
            let name = name.to_uppercase();
            [
                (
                    format!("AGENTRY_PROVIDERS__{name}__BASE_URL"),
                    format!("{}{path}", model.root_url()),
                ),
                (format!("AGENTRY_PROVIDERS__{name}__KEY"), "sk".to_owned()),
            ]
        })
        .collect();
    let mut all: Vec<(&str, &str)> =
        settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    all.extend(more);
    let home = Home::new(engine).await;
    let process = start(&home, &model, &all);
    Bed { model, process, home, agent: String::new() }
}

fn calls(text: &str, calls: &[(&str, Value)]) -> Behaviour {
    let calls = calls.iter().map(|(name, arguments)| Call::new(name, arguments.clone())).collect();
    Behaviour::new(Answer::Calls(text.to_owned(), calls))
}

async fn what_was_called_is_in_the_session_and_the_next_model_sees_it(engine: Engine) {
    let mut bed = bed_of_every_provider(engine, &[]).await;
    let mut asked = 0;
    for (provider, _) in PROVIDERS {
        let body = json!({
            "name": provider, "model": format!("{provider}/m"), "tools": ["task_list", "file_read"],
        });
        bed.agent = id(&made(&bed.process, "/api/v1/agents", body).await).to_owned();
        let session = bed.session().await;
        bed.model.next(calls(
            "First I look.",
            &[
                ("task_list", json!({"status": "pending"})),
                ("file_read", json!({"path": "nothing"})),
            ],
        ));
        bed.model.next(calls("", &[("task_list", json!({}))]));
        bed.model.next(Behaviour::text("There is none."));
        let first = run(&bed, &json!({"message": "What is to do?", "session_id": session})).await;
        assert_eq!(first["message"], "First I look.\n\nThere is none.", "{first}");
        bed.model.next(Behaviour::text("Sure."));
        run(&bed, &json!({"message": "Really?", "session_id": session})).await;
        let listed = first["tool_outputs"][0]["output"].as_str().unwrap();
        let missing = first["tool_outputs"][1]["output"].as_str().unwrap();

        // Anybody may read it: each call, and what came of it.
        let messages = bed.messages(&session).await;
        let roles: Vec<&str> = messages.iter().map(|it| it["role"].as_str().unwrap()).collect();
        let expected = [
            "user",
            "assistant",
            "assistant",
            "tool",
            "tool",
            "assistant",
            "tool",
            "assistant",
            "user",
            "assistant",
        ];
        assert_eq!(roles, expected, "{provider}");
        for message in &messages[..8] {
            assert_eq!(message["run_id"], first["id"], "{message}");
        }
        let call = &messages[1]["chat"];
        assert_eq!((&call["text"], &messages[1]["content"]), (&json!("First I look."), &json!("")));
        assert_eq!(call["calls"][0]["name"], "task_list");
        assert_eq!(call["calls"][0]["id"], messages[3]["chat"]["call_id"]);
        assert_eq!(messages[3]["content"], listed);
        assert_eq!(messages[4]["chat"]["is_error"], true, "{}", messages[4]);
        assert_eq!(messages[7]["content"], first["message"]);
        assert_eq!(messages[7]["chat"]["text"], "There is none.");

        // And the model of the next run is told it in its own protocol's words.
        let received = bed.model.wait_received(asked + 4).await;
        let (sent, path) = (&received[asked + 3].body, &received[asked + 3].path);
        asked += 4;
        let at = |pointer: &str| sent.pointer(pointer).cloned().unwrap_or(Value::Null);
        let shapes = |list: &str| -> Vec<String> {
            let messages = sent[list].as_array().unwrap();
            messages.iter().map(|it| it["role"].as_str().unwrap().to_owned()).collect()
        };
        match provider {
            "openai" => {
                let expected =
                    ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant", "user"];
                assert_eq!(shapes("messages"), expected, "{path}");
                assert_eq!(at("/messages/1/content"), "First I look.");
                assert_eq!(at("/messages/1/tool_calls/0/function/name"), "task_list");
                let arguments = at("/messages/1/tool_calls/0/function/arguments");
                assert_eq!(arguments, r#"{"status":"pending"}"#);
                assert_eq!(at("/messages/1/tool_calls/1/id"), at("/messages/3/tool_call_id"));
                assert_eq!(at("/messages/2/content"), listed);
                assert_eq!(at("/messages/3/content"), missing);
                assert_eq!(at("/messages/6/content"), "There is none.");
            }
            "anthropic" => {
                let expected =
                    ["user", "assistant", "user", "assistant", "user", "assistant", "user"];
                assert_eq!(shapes("messages"), expected);
                assert_eq!(at("/messages/1/content/0/text"), "First I look.");
                assert_eq!(at("/messages/1/content/1/name"), "task_list");
                assert_eq!(at("/messages/1/content/1/input"), json!({"status": "pending"}));
                assert_eq!(at("/messages/1/content/1/id"), at("/messages/2/content/0/tool_use_id"));
                assert_eq!(at("/messages/2/content/0/content"), listed);
                assert_eq!(at("/messages/2/content/1/is_error"), true);
                assert_eq!(at("/messages/5/content/0/text"), "There is none.");
            }
            "gemini" => {
                let expected = ["user", "model", "user", "model", "user", "model", "user"];
                assert_eq!(shapes("contents"), expected);
                assert_eq!(at("/contents/1/parts/0/text"), "First I look.");
                let call = at("/contents/1/parts/1/functionCall");
                assert_eq!(call, json!({"name": "task_list", "args": {"status": "pending"}}));
                let response = at("/contents/2/parts/0/functionResponse");
                assert_eq!(response["name"], "task_list");
                assert_eq!(response["response"].to_string(), listed, "an object as it is");
                assert_eq!(at("/contents/2/parts/1/functionResponse/response/error"), missing);
            }
            _ => {
                let expected =
                    ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant", "user"];
                assert_eq!(shapes("messages"), expected, "{path}");
                let call = at("/messages/1/tool_calls/0/function");
                assert_eq!(call, json!({"name": "task_list", "arguments": {"status": "pending"}}));
                assert_eq!(at("/messages/2/tool_name"), "task_list");
                assert_eq!(at("/messages/2/content"), listed);
            }
        }
        // What a tool gave is no memory, and what was said is.
        let texts = "select count(*) from text_doc join message on message.id = text_doc.id \
            where message.chat like '%call_id%' or message.chat like '%calls%arguments%'";
        assert_eq!(bed.home.number(texts).await, 0);
        assert!(bed.home.count("text_doc").await > 0);
        // A bound on messages is one on what was said.
        bed.model.next(Behaviour::text("Yes."));
        let body = json!({"message": "And?", "session_id": session, "message_limit": 4});
        run(&bed, &body).await;
        let received = bed.model.wait_received(asked + 1).await;
        assert!(received[asked].body.to_string().contains("What is to do?"), "{provider}");
        bed.model.next(Behaviour::text("Yes."));
        let body = json!({"message": "And?", "session_id": session, "message_limit": 1});
        run(&bed, &body).await;
        let received = bed.model.wait_received(asked + 2).await;
        assert!(!received[asked + 1].body.to_string().contains("First I look"), "{provider}");
        asked += 2;
        let path = format!("/api/v1/sessions/{session}");
        assert_eq!(bed.process.delete(&path).await, StatusCode::NO_CONTENT);
    }
}

async fn a_session_keeps_what_it_may_of_each_result(engine: Engine) {
    let settings = [("AGENTRY_TOOLS__HISTORY_OUTPUT_BYTES_MAX", "20")];
    let bed =
        Bed::with_agent(engine, &settings, json!({"tools": ["file_write", "file_read"]})).await;
    let session = bed.session().await;
    let content = "0123456789".repeat(10);
    bed.model.next(says("", &[("file_write", json!({"path": "a", "content": content}))]));
    bed.model.next(says("", &[("file_read", json!({"path": "a"}))]));
    bed.model.next(says("read", &[]));
    let first = run(&bed, &json!({"message": "go", "session_id": session})).await;
    assert_eq!(first["tool_outputs"][1]["output"], content.as_str(), "the run has all of it");
    bed.model.next(says("done", &[]));
    run(&bed, &json!({"message": "go on", "session_id": session})).await;
    let received = bed.model.received();
    let in_run = received[2].body["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(in_run["content"], content.as_str(), "and so has its own model");
    let kept = received[3].body["messages"][4]["content"].clone();
    assert_eq!(kept, "01234567890123456789\n[cut off: 20 of 100 bytes are kept]");

    // A run that ends in the middle leaves what it did, and one that is withdrawn does not.
    bed.model.next(says("Now.", &[("file_read", json!({"path": "a"}))]));
    bed.model.next(Behaviour::error(400, "no more"));
    let failed = run(&bed, &json!({"message": "again", "session_id": session})).await;
    assert_eq!(failed["success"], false, "{failed}");
    let messages = bed.messages(&session).await;
    let last: Vec<&Value> = messages.iter().filter(|it| it["run_id"] == failed["id"]).collect();
    assert_eq!(last.len(), 4, "{last:?}");
    assert_eq!((&last[2]["role"], &last[3]["content"]), (&json!("tool"), &json!("Now.")));
    let path = format!("/api/v1/sessions/{session}");
    assert_eq!(bed.process.delete(&path).await, StatusCode::NO_CONTENT);
    assert_eq!(bed.home.count("message").await, 0);
}

async fn what_a_model_thought_goes_back_to_it_and_to_nobody_else(engine: Engine) {
    let mut bed = bed_of_every_provider(engine, &[]).await;
    for (provider, wanted) in [("anthropic", "I need task_list."), ("gemini", "signature of")] {
        let before = bed.model.received().len();
        let body = json!({
            "name": provider, "model": format!("{provider}/m"), "tools": ["task_list"],
        });
        bed.agent = id(&made(&bed.process, "/api/v1/agents", body).await).to_owned();
        let session = bed.session().await;
        bed.model.next(Behaviour { thinks: true, ..calls("", &[("task_list", json!({}))]) });
        bed.model.next(Behaviour::text("None."));
        let parameters = match provider {
            "anthropic" => json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            _ => json!({}),
        };
        let body = json!({"message": "go", "session_id": session, "parameters": parameters});
        let first = run(&bed, &body).await;
        assert_eq!(first["message"], "None.", "{first}");
        let mut body = body;
        body["message"] = json!("go on");
        bed.model.next(Behaviour::text("Still none."));
        run(&bed, &body).await;
        let received = bed.model.received();
        // In the run itself, and in the next one of the session.
        for sent in &received[before + 1..] {
            assert!(sent.body.to_string().contains(wanted), "{provider}: {}", sent.body);
        }
        // No client is told, and no other provider.
        let messages = json!(bed.messages(&session).await).to_string();
        assert!(!messages.contains(wanted) && messages.contains("task_list"), "{messages}");
        assert!(!bed.run(first["id"].as_str().unwrap()).await.to_string().contains(wanted));
        let other = json!({"model": "openai/m"});
        let agent = format!("/api/v1/agents/{}", bed.agent);
        assert_eq!(bed.process.patch(&agent, other).await.0, StatusCode::OK);
        bed.model.next(Behaviour::text("None here."));
        run(&bed, &json!({"message": "and you?", "session_id": session})).await;
        let sent = bed.model.received().pop().unwrap().body.to_string();
        assert!(!sent.contains(wanted) && sent.contains("task_list"), "{sent}");
    }
}

async fn crashed(engine: Engine, tool: &str, arguments: Value) -> (Bed, Script, String) {
    let tools = json!([{"type": "mcp", "server": "own"}]);
    let bed = Bed::with_agent(engine, &QUICK, json!({"tools": tools})).await;
    let script = Script::new();
    started(&bed.process, script.stdio("own", &[])).await;
    bed.model.next(says("Now.", &[(tool, arguments)]));
    let body = json!({"message": "go", "background": true});
    let (status, accepted) = answer(bed.request(&body)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let id = accepted["id"].as_str().unwrap().to_owned();
    (bed, script, id)
}

async fn a_run_that_had_an_effect_is_not_begun_again(engine: Engine) {
    let (bed, script, id) = crashed(engine, "own__mark", json!({"hang": true})).await;
    wait_until(|| async { script.read("marks") == "x" }).await;
    let running = bed.run(&id).await;
    assert_eq!(running["tool_calls"][0]["status"], "started", "{running}");
    let Bed { model, process, home, agent } = bed;
    process.kill();
    let bed = Bed { process: start(&home, &model, &QUICK), model, home, agent };
    bed.wait_status(&id, "interrupted").await;
    let ended = bed.run(&id).await;
    assert_eq!(ended["error"]["code"], "run_interrupted", "{ended}");
    assert_eq!(ended["tool_calls"][0]["status"], "failed", "{ended}");
    assert_eq!(script.read("marks"), "x", "it was called once");
    assert_eq!(bed.model.received().len(), 1);
    assert_eq!(bed.home.count("run_tool").await, 0);
}

async fn a_run_without_an_effect_is_begun_again(engine: Engine) {
    let tools = json!(["http_fetch"]);
    let bed = Bed::with_agent(engine, &QUICK, json!({"tools": tools})).await;
    let page = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", page.local_addr().unwrap());
    bed.model.next(says("Now.", &[("http_fetch", json!({"url": url}))]));
    let body = json!({"message": "go", "background": true});
    let (_, accepted) = answer(bed.request(&body)).await;
    let id = accepted["id"].as_str().unwrap().to_owned();
    let _held = page.accept().await.unwrap();
    let Bed { model, process, home, agent } = bed;
    process.kill();
    model.next(says("done", &[]));
    let bed = Bed { process: start(&home, &model, &QUICK), model, home, agent };
    bed.wait_status(&id, "succeeded").await;
    let ended = bed.run(&id).await;
    assert_eq!((&ended["attempt"], &ended["message"]), (&json!(2), &json!("done")));
    assert_eq!(ended["tool_calls"], json!([]), "those of the attempt that counts");
    assert_eq!(bed.home.count("run_tool").await, 0);
}

/// What a model asks to be fetched is fetched from public addresses alone, also
/// behind a redirect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_fetch_reaches_no_address_that_is_not_public() {
    let canary = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = canary.local_addr().unwrap().port();
    let more = json!({"tools": ["http_fetch"], "limits": {"tool_calls_max": 100}});
    let bed = Bed::with_agent(Engine::Sqlite, &[], more).await;
    let hosts = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "localhost.",
        "169.254.169.254",
        "metadata.google.internal",
        "[fe80::1]",
        "user@127.0.0.1",
    ];
    let calls: Vec<(&str, Value)> = hosts
        .iter()
        .map(|host| ("http_fetch", json!({"url": format!("http://{host}:{port}/x")})))
        .chain([("http_fetch", json!({"url": "file:///etc/passwd"}))])
        .collect();
    bed.model.next(says("", &calls));
    bed.model.next(says("done", &[]));
    let run = run(&bed, &json!({"message": "go"})).await;
    let outputs = run["tool_outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), calls.len());
    for (output, (_, arguments)) in outputs.iter().zip(&calls) {
        assert_eq!(output["error_code"], "forbidden", "{arguments}: {output}");
    }
    let met = tokio::time::timeout(std::time::Duration::from_millis(1), canary.accept()).await;
    assert!(met.is_err(), "somebody came to the canary");
}

/// Where loopback is allowed a page is read, redirects and all; one that leads to a
/// private address is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_fetch_reads_a_page_and_checks_where_it_leads() {
    let bed = bed(Engine::Sqlite, json!({"tools": ["http_fetch"]})).await;
    let page = pages().await;
    bed.model.next(says(
        "",
        &[
            ("http_fetch", json!({"url": format!("{page}/text")})),
            ("http_fetch", json!({"url": format!("{page}/there")})),
            ("http_fetch", json!({"url": format!("{page}/inside")})),
            ("http_fetch", json!({"url": format!("{page}/round")})),
            ("http_fetch", json!({"url": format!("{page}/missing")})),
        ],
    ));
    bed.model.next(says("done", &[]));
    let run = run(&bed, &json!({"message": "go"})).await;
    let outputs = run["tool_outputs"].as_array().unwrap();
    for fetched in &outputs[..2] {
        assert!(fetched["output"].as_str().unwrap().contains("what it says"), "{fetched}");
        assert_eq!(fetched["is_error"], false);
    }
    assert_eq!(outputs[2]["error_code"], "forbidden", "{}", outputs[2]);
    assert!(outputs[3]["output"].as_str().unwrap().contains("more than 5 times"));
    assert!(outputs[4]["output"].as_str().unwrap().contains("404"));
}

/// A page, and others that lead to it, elsewhere or round and round.
async fn pages() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4_096];
                let read = connection.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let leads = |to: &str| format!("HTTP/1.1 307 Go\r\nLocation: {to}\r\n");
                let (head, body) = match head.split(' ').nth(1).unwrap_or_default() {
                    "/text" => (
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n".to_owned(),
                        "what it says",
                    ),
                    "/there" => (leads("/text"), ""),
                    "/inside" => (leads("http://10.0.0.1/x"), ""),
                    "/round" => (leads("/round"), ""),
                    _ => ("HTTP/1.1 404 No\r\n".to_owned(), "nothing"),
                };
                let length = body.len();
                let answer =
                    format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

/// The model that is built in calls nothing, whatever its agent lists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_builtin_model_calls_no_tools() {
    let home = Home::new(Engine::Sqlite).await;
    let process = crate::server::Process::start(&home);
    let agent =
        json!({"name": "plain", "tools": ["memory_save", {"type": "mcp", "server": "none"}]});
    let agent = made(&process, "/api/v1/agents", agent).await;
    let path = format!("/api/v1/agents/{}/runs", agent["id"].as_str().unwrap());
    let (status, run) = process.post(&path, json!({"message": "Save this."})).await;
    assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
    assert_eq!(run["tool_calls"], json!([]));
}

/// OpenAI's own client, whose model is an agent that calls tools here: it streams the
/// answer, and hears nothing of the calls, which are not its own to make.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_client_streams_the_answer_of_a_run_that_calls_tools() {
    const CLIENT: &str = r#"
import os
from openai import OpenAI
client = OpenAI(base_url=os.environ["URL"] + "/v1", api_key=os.environ["KEY"])
messages = [{"role": "user", "content": "What is it?"}]
stream = client.chat.completions.create(model="llm", messages=messages, stream=True)
text, reason = "", None
for chunk in stream:
    for choice in chunk.choices:
        assert not choice.delta.tool_calls, choice
        text += choice.delta.content or ""
        reason = choice.finish_reason or reason
print(repr((text, reason)))
"#;
    let tools = json!([{"type": "mcp", "server": "own"}, "memory_save", "memory_search"]);
    let bed = bed(Engine::Sqlite, json!({"tools": tools})).await;
    let script = Script::new();
    started(&bed.process, script.stdio("own", &[])).await;
    bed.model.next(says(
        "I plan.",
        &[
            ("own__add", json!({"a": 40, "b": 2})),
            ("memory_save", json!({"content": "It is 42."})),
            ("memory_search", json!({"query": "42"})),
        ],
    ));
    bed.model.next(says("It is 42.", &[]));
    let python = std::env::var("AGENTRY_TEST_PYTHON")
        .expect("AGENTRY_TEST_PYTHON is not set: run `make test`, which makes the environment");
    let mut client = tokio::process::Command::new(python);
    client.args(["-c", CLIENT]).env("URL", &bed.process.url).env("KEY", &bed.process.key);
    let output = client.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.trim(), r"('I plan.\n\nIt is 42.', 'stop')", "{talk}");
    assert_eq!(bed.home.count("memory").await, 1);
}
