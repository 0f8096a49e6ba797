//! What models do for the graph: they are asked about batches of episodes after the rules
//! have read them, and what they answer is checked; texts become vectors. Whatever they do
//! wrong, everything else goes on.

use std::collections::BTreeSet;

use agentry_testkit::{Behaviour, Embedding, ModelServer, Received};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, wait_until};

on_both_engines! {
    one_call_reads_a_batch_and_adds_what_the_rules_do_not_see,
    what_a_model_contradicts_ends_and_what_it_repeats_is_evidence,
    what_is_invented_is_refused,
    what_cannot_be_read_is_asked_for_once_more_and_then_the_rules_stand,
    a_model_that_hangs_holds_up_nothing,
    a_storm_of_429_opens_the_breaker_and_it_recovers,
    a_kill_between_the_call_and_the_write_loses_and_doubles_nothing,
    a_backlog_pauses_models_and_then_reading_and_both_go_on,
    what_was_deleted_while_the_model_was_asked_is_not_brought_back,
    vectors_find_what_words_do_not,
    ollama_makes_vectors_too,
    a_search_goes_on_without_vectors,
    a_purge_takes_vectors_away,
}

const EPISODES: &str = "/api/v1/graph/episodes";
const EXTRACTION: (&str, &str) = ("AGENTRY_GRAPH__EXTRACTION_MODEL", "compatible/near/m");
const EMBEDDING: (&str, &str) = ("AGENTRY_GRAPH__EMBEDDING_MODEL", "compatible/near/e");
const SOON: (&str, &str) = ("AGENTRY_GRAPH__EXTRACTION_IDLE_MS", "100");
/// A search whose vector must come has time for it on a machine that is busy.
const PATIENT: (&str, &str) = ("AGENTRY_GRAPH__EMBEDDING_WAIT_MS", "20000");

struct Bed {
    model: ModelServer,
    server: Server,
}

impl Bed {
    async fn new(engine: Engine, settings: &[(&str, &str)]) -> Self {
        let model = ModelServer::start().await;
        model.by_default(Behaviour::made(guards));
        let url = model.base_url();
        let mut all = vec![("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str())];
        all.extend(settings);
        let server = Server::start_with(engine, &all).await;
        Self { model, server }
    }

    /// The requests for completions so far.
    fn asked(&self) -> Vec<Received> {
        let mut all = self.model.received();
        all.retain(|it| it.path.ends_with("/chat/completions"));
        all
    }
}

/// What a model would find in "NAME guards PLACE." and in nothing else.
fn guards(prompt: &str) -> String {
    let Ok(shown) = serde_json::from_str::<Value>(prompt) else { return "{}".to_owned() };
    let mut entities: Vec<Value> = Vec::new();
    let mut facts = Vec::new();
    let mut integer = |name: &str, kind: &str| {
        let known = shown["known_entities"].as_array().unwrap().iter();
        let known = known.chain(entities.iter()).find(|it| it["name"] == name);
        if let Some(known) = known {
            return known["entity"].as_u64().unwrap();
        }
        let next = shown["first_new_entity"].as_u64().unwrap() + entities.len() as u64;
        entities.push(json!({"entity": next, "name": name, "kind": kind, "duplicate_of": null}));
        next
    };
    for turn in shown["turns"].as_array().unwrap() {
        let text = turn["text"].as_str().unwrap();
        let Some((name, place)) = text.trim_end_matches('.').split_once(" guards ") else {
            continue;
        };
        let known = shown["known_facts"].as_array().unwrap().iter();
        let of_this = known.filter(|fact| fact["text"].as_str().unwrap().starts_with(name));
        let (same, other): (Vec<&Value>, Vec<&Value>) =
            of_this.partition(|fact| fact["text"].as_str().unwrap().ends_with(place));
        let contradicts: Vec<&Value> = other.iter().map(|fact| &fact["fact"]).collect();
        facts.push(json!({"subject": integer(name, "person"), "predicate": "guards",
            "object_entity": integer(place, "place"), "object_text": null, "turn": turn["turn"],
            "quote": text, "valid_at": null, "duplicate_of": same.first().map(|it| &it["fact"]),
            "contradicts": contradicts}));
    }
    json!({"entities": entities, "facts": facts}).to_string()
}

async fn take(server: &Process, episode: Value) -> Value {
    let (status, taken) = server.post(EPISODES, episode).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{taken}");
    taken
}

/// Waits until nothing is left to be read, asked about or stored.
async fn settled(home: &Home) {
    // One look at both: what leaves one of them comes into the other in the same write.
    let left = "select (select count(*) from graph_queue) + (select count(*) from graph_asking)";
    wait_until(|| async { home.number(left).await == 0 }).await;
    assert_eq!(home.count("graph_ask").await + home.count("graph_answer").await, 0);
    assert_eq!(home.number("select count(*) from job where kind like 'graph%'").await, 0);
}

async fn facts(server: &Process, query: &str) -> Vec<Value> {
    let (status, page) = server.get(&format!("/api/v1/graph/facts?limit=500&{query}")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["items"].as_array().unwrap().clone()
}

async fn search(server: &Process, query: &str) -> Vec<Value> {
    let (status, answer) = server.post("/api/v1/graph/search", json!({"query": query})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["hits"].as_array().unwrap().clone()
}

async fn metric(server: &Process, name: &str) -> u64 {
    let metrics = server.request(Method::GET, "/metrics").send().await.unwrap();
    let text = metrics.text().await.unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("agentry_")?.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("there is no {name} in {text}")).parse().unwrap()
}

/// What `/ready` notes about the graph.
async fn noted(server: &Process) -> String {
    let (status, report) = server.get("/ready").await;
    assert_eq!(status, StatusCode::OK, "{report}");
    report.to_string()
}

fn doctor(home: &Home) {
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_agentry"));
    doctor.args(home.arguments("doctor")).arg("--deep");
    let output = doctor.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

async fn one_call_reads_a_batch_and_adds_what_the_rules_do_not_see(engine: Engine) {
    const EACH: usize = 24;
    let bed = Bed::new(engine, &[EXTRACTION, SOON]).await;
    let server = &bed.server;
    // What comes while the first call is under way goes into the second one.
    bed.model.hold();
    take(server, json!({"content": "Rex0 guards Harbour0."})).await;
    bed.model.wait_held(1).await;
    for nth in 1..EACH {
        take(server, json!({"content": format!("Rex{nth} guards Harbour{nth}.")})).await;
    }
    take(server, json!({"content": "Thanks!"})).await;
    take(server, json!({"json": {"name": "Ada", "age": 36}})).await;
    // The rules have read everything before any answer came.
    wait_until(|| async { server.home.count("graph_queue").await == 0 }).await;
    assert_eq!(facts(server, "predicate=guards").await, Vec::<Value>::new());
    bed.model.release();
    settled(&server.home).await;

    let stored = facts(server, "predicate=guards").await;
    let texts: BTreeSet<&str> = stored.iter().map(|it| it["text"].as_str().unwrap()).collect();
    assert_eq!((texts.len(), stored.len()), (EACH, EACH), "{texts:?}");
    for fact in &stored {
        assert_eq!(fact["extractor"], "model:compatible/near/m");
        let evidence = &fact["evidence"][0];
        let path = format!("{EPISODES}/{}", evidence["episode_id"].as_str().unwrap());
        let (_, episode) = server.get(&path).await;
        assert_eq!(episode["content"], evidence["quote"]);
        assert_eq!(episode["extractor"], "rules/1 model:compatible/near/m");
        assert_eq!(fact["valid_at"], episode["occurred_at"]);
    }
    let calls = bed.asked();
    assert!(calls.len() * 10 <= EACH * 3, "{} calls for {EACH} episodes", calls.len());
    assert_eq!(metric(server, "graph_extraction_calls_total").await, calls.len() as u64);
    assert_eq!(metric(server, "graph_extraction_episodes_total").await, EACH as u64);
    assert_eq!(metric(server, "graph_extraction_refusals_total").await, 0);
    for call in &calls {
        let format = &call.body["response_format"];
        assert_eq!(
            (&format["type"], &format["json_schema"]["strict"]),
            (&json!("json_schema"), &json!(true))
        );
        let shown = call.body["messages"][1]["content"].as_str().unwrap();
        assert!(!shown.contains("Thanks") && !shown.contains("\"Ada\""), "{shown}");
        let ids = stored.iter().map(|fact| fact["subject"].as_str().unwrap());
        assert!(ids.into_iter().all(|id| !shown.contains(id)), "no id is shown");
    }
    // Nodes and edges are there once, whoever found them.
    let nodes = server.home.number("select count(*) from graph_node where name = 'Rex1'").await;
    assert_eq!(nodes, 1);
    doctor(&server.home);
}

async fn what_a_model_contradicts_ends_and_what_it_repeats_is_evidence(engine: Engine) {
    let bed = Bed::new(engine, &[EXTRACTION, SOON]).await;
    let server = &bed.server;
    for (content, at) in [
        ("Rex guards Porto.", "2024-01-01T00:00:00Z"),
        ("Rex guards Lisbon.", "2026-01-01T00:00:00Z"),
        ("Well, Rex guards Lisbon.", "2026-03-01T00:00:00Z"),
        // It comes late, and ends nothing that is newer.
        ("Rex guards Paris.", "2019-01-01T00:00:00Z"),
    ] {
        let content = content.trim_start_matches("Well, ");
        take(server, json!({"content": content, "occurred_at": at})).await;
        settled(&server.home).await;
    }
    let stored = facts(server, "predicate=guards").await;
    let of = |place: &str| {
        let found = stored.iter().find(|it| it["text"].as_str().unwrap().ends_with(place));
        found.unwrap_or_else(|| panic!("{place}: {stored:?}")).clone()
    };
    assert_eq!(stored.len(), 3, "{stored:?}");
    assert_eq!(of("Porto")["invalid_at"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(of("Lisbon")["invalid_at"], json!(null));
    assert_eq!(of("Lisbon")["evidence"].as_array().unwrap().len(), 2);
    assert_eq!(of("Paris")["valid_at"], "2019-01-01T00:00:00.000000Z");
    let shown = bed.asked()[1].body["messages"][1]["content"].as_str().unwrap().to_owned();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["known_facts"][0]["text"], "Rex guards Porto");
    let then = facts(server, "predicate=guards&as_of=2025-01-01T00:00:00Z").await;
    assert!(then.iter().any(|it| it["text"] == "Rex guards Porto"), "{then:?}");
    doctor(&server.home);
}

async fn what_is_invented_is_refused(engine: Engine) {
    let bed = Bed::new(engine, &[EXTRACTION, SOON]).await;
    let server = &bed.server;
    let fact = |change: Value| {
        let mut fact = json!({"subject": 101, "predicate": "guards", "object_entity": null,
            "object_text": "the gate", "turn": 1, "quote": "Rex guards the gate",
            "valid_at": null, "duplicate_of": null, "contradicts": []});
        fact.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        fact
    };
    let entities = json!([
        {"entity": 101, "name": "Rex", "kind": "animal", "duplicate_of": null},
        {"entity": 102, "name": "Atlantis", "kind": "place", "duplicate_of": null},
        {"entity": 103, "name": "Rex", "kind": "animal", "duplicate_of": 99},
    ]);
    let facts_said = [
        fact(json!({})),
        fact(json!({"subject": 7_000})),
        fact(json!({"turn": 0})),
        fact(json!({"turn": 2})),
        fact(json!({"object_entity": -1})),
        fact(json!({"contradicts": [500]})),
        fact(json!({"duplicate_of": 500})),
        fact(json!({"quote": "Rex guards the whole city"})),
        fact(json!({"quote": ""})),
        fact(json!({"valid_at": "the other day"})),
    ];
    let said = json!({"entities": entities, "facts": facts_said}).to_string();
    bed.model.by_default(Behaviour::text(said));
    take(server, json!({"content": "Rex guards the gate every night."})).await;
    settled(&server.home).await;
    let stored = facts(server, "predicate=guards").await;
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert_eq!(stored[0]["text"], "Rex guards the gate");
    assert_eq!(
        server.home.number("select count(*) from graph_node where name = 'Atlantis'").await,
        0
    );
    assert_eq!(metric(server, "graph_extraction_refusals_total").await, 11);
    assert_eq!(bed.asked().len(), 1, "what is left is good enough");
    doctor(&server.home);
}

async fn what_cannot_be_read_is_asked_for_once_more_and_then_the_rules_stand(engine: Engine) {
    let bed = Bed::new(engine, &[EXTRACTION, SOON]).await;
    let server = &bed.server;
    let content = "Rex guards Porto.";
    let good = json!({"entities": [
            {"entity": 50, "name": "Rex", "kind": "animal", "duplicate_of": null},
        ], "facts": [{"subject": 50, "predicate": "guards", "object_entity": null,
            "object_text": "Porto", "turn": 1, "quote": content, "valid_at": null,
            "duplicate_of": null, "contradicts": []}]});
    bed.model.next(Behaviour::text("{\"entities\": ["));
    bed.model.next(Behaviour::text(good.to_string()));
    take(server, json!({"content": content})).await;
    settled(&server.home).await;
    assert_eq!(facts(server, "predicate=guards").await.len(), 1);
    let asked = bed.asked();
    assert_eq!(asked.len(), 2);
    let messages = asked[1].body["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert_eq!(messages[2]["content"], "{\"entities\": [");
    assert!(messages[3]["content"].as_str().unwrap().contains("not the JSON"), "{messages:?}");
    assert_eq!(metric(server, "graph_extraction_repairs_total").await, 1);

    // Twice in vain: what the rules read stands.
    bed.model.by_default(Behaviour::text("I would rather talk about the weather."));
    take(server, json!({"content": "Tom lives in Oslo. Rex guards Oslo."})).await;
    settled(&server.home).await;
    assert_eq!(bed.asked().len(), 4);
    assert_eq!(facts(server, "predicate=guards").await.len(), 1);
    assert_eq!(facts(server, "predicate=lives_in").await[0]["extractor"], "rules");
    assert_eq!(metric(server, "graph_model_episodes_left_total").await, 1);
}

async fn a_model_that_hangs_holds_up_nothing(engine: Engine) {
    let bed = Bed::new(engine, &[EXTRACTION, SOON]).await;
    let server = &bed.server;
    bed.model.hold();
    let body = |text: &str| json!({"message": text, "session_name": "home", "user_id": "ada"});
    let run = async |text: &str| {
        let (status, run) = server.post("/api/v1/agent/simple_agent/run", body(text)).await;
        assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
        run["message"].as_str().unwrap().to_owned()
    };
    run("I live in Lisbon.").await;
    bed.model.wait_held(1).await;
    // All of this happens while the graph's model says nothing.
    run("My dog is Rex.").await;
    let episode =
        take(server, json!({"content": "Tom lives in Oslo.", "group_id": "user:ada"})).await;
    let path = format!("{EPISODES}/{}?group_id=user:ada", episode["id"].as_str().unwrap());
    wait_until(|| async { server.get(&path).await.1["state"] == "done" }).await;
    let found = facts(server, "group_id=user:ada&predicate=lives_in").await;
    assert_eq!(found.len(), 2, "{found:?}");
    let reply = run("Where do I live?").await;
    assert!(reply.contains("Lisbon"), "{reply}");
    assert_eq!(bed.asked().len(), 1, "the first call still has no answer");
    assert_eq!(server.home.count("graph_answer").await, 0);
    bed.model.release();
    settled(&server.home).await;
    assert!(bed.asked().len() > 1);
}

async fn a_storm_of_429_opens_the_breaker_and_it_recovers(engine: Engine) {
    let open = ("AGENTRY_GRAPH__MODEL_BREAKER_OPEN_MS", "1500");
    let bed = Bed::new(engine, &[EXTRACTION, SOON, open]).await;
    let server = &bed.server;
    bed.model.by_default(Behaviour::error(429, "slow down"));
    for nth in 0..6 {
        let episode = json!({"content": "Rex guards Porto.", "group_id": format!("g{nth}")});
        take(server, episode).await;
    }
    wait_until(|| async { metric(server, "graph_extraction_breaker_opened_total").await > 0 })
        .await;
    wait_until(|| async { noted(server).await.contains("the extraction model fails") }).await;
    // The rest goes on.
    let episode = take(server, json!({"content": "Tom lives in Oslo."})).await;
    let path = format!("{EPISODES}/{}", episode["id"].as_str().unwrap());
    wait_until(|| async { server.get(&path).await.1["state"] == "done" }).await;
    assert_eq!(facts(server, "predicate=lives_in").await.len(), 1);

    bed.model.by_default(Behaviour::made(guards));
    settled(&server.home).await;
    for nth in 0..6 {
        let found = facts(server, &format!("group_id=g{nth}&predicate=guards")).await;
        assert_eq!(found.len(), 1, "{nth}");
    }
    wait_until(|| async { !noted(server).await.contains("the extraction model fails") }).await;
    assert_eq!(metric(server, "graph_model_episodes_left_total").await, 0, "no limit loses one");
}

async fn a_kill_between_the_call_and_the_write_loses_and_doubles_nothing(engine: Engine) {
    const GROUPS: usize = 8;
    const ROUNDS: usize = 3;
    let home = Home::new(engine).await;
    let model = ModelServer::start().await;
    model.by_default(Behaviour::made(guards));
    let url = model.base_url();
    let settings = [
        ("AGENTRY_PROVIDERS__NEAR__BASE_URL", url.as_str()),
        ("AGENTRY_RUNS__LEASE_MS", "1000"),
        EXTRACTION,
        SOON,
    ];
    // The answer is on its way when the process ends.
    model.hold();
    let server = Process::start_with(&home, &settings);
    take(&server, json!({"content": "Rex guards Porto.", "group_id": "g0"})).await;
    model.wait_held(1).await;
    server.kill();
    model.release();
    // And in the middle of many of them, wherever they are.
    for round in 0..ROUNDS {
        let server = Process::start_with(&home, &settings);
        let before = model.received().len();
        for nth in 0..GROUPS {
            let episode = json!({"content": format!("Rex{round} guards Oslo."),
                "group_id": format!("g{nth}")});
            take(&server, episode).await;
        }
        model.wait_received(before + round + 2).await;
        server.kill();
    }
    let server = Process::start_with(&home, &settings);
    settled(&home).await;
    for nth in 0..GROUPS {
        let stored = facts(&server, &format!("group_id=g{nth}&predicate=guards")).await;
        let expected = if nth == 0 { ROUNDS + 1 } else { ROUNDS };
        assert_eq!(stored.len(), expected, "{nth}: {stored:?}");
        let once = |fact: &Value| fact["evidence"].as_array().unwrap().len() == 1;
        assert!(stored.iter().all(once), "{stored:?}");
    }
    doctor(&home);
}

async fn a_backlog_pauses_models_and_then_reading_and_both_go_on(engine: Engine) {
    let settings = [
        EXTRACTION,
        SOON,
        ("AGENTRY_GRAPH__MODELS_PAUSED_FROM_EPISODES", "100"),
        ("AGENTRY_GRAPH__DRAWING_PAUSED_FROM_EPISODES", "1000"),
    ];
    let bed = Bed::new(engine, &settings).await;
    let server = &bed.server;
    take(server, json!({"content": "Rex guards Porto."})).await;
    settled(&server.home).await;
    // Somebody else's flood: a group whose episodes nobody reads here.
    let blob = if engine == Engine::Sqlite { "x'99'" } else { "'\\x99'::bytea" };
    let row = format!("insert into graph_queue values ({blob}, {blob}, 'flood', 200, 1)");
    server.home.execute(&row).await;
    wait_until(|| async { noted(server).await.contains("models are paused") }).await;
    let calls = bed.asked().len();
    let episode = take(server, json!({"content": "Rex guards Oslo. Tom lives in Rome."})).await;
    let path = format!("{EPISODES}/{}", episode["id"].as_str().unwrap());
    wait_until(|| async { server.get(&path).await.1["state"] == "done" }).await;
    assert_eq!(metric(server, "graph_paused").await, 1);

    let grow = "update graph_queue set pending = pending + 1000 where group_id = 'flood'";
    wait_until(|| async {
        server.home.execute(grow).await;
        noted(server).await.contains("drawing and models are paused")
    })
    .await;
    let taken = take(server, json!({"content": "Ann lives in Paris."})).await;
    let hits = search(server, "Paris").await;
    assert_eq!(hits[0]["id"], taken["id"], "found as text");
    let path = format!("{EPISODES}/{}", taken["id"].as_str().unwrap());
    assert_eq!(bed.asked().len(), calls, "no model was asked while they are paused");
    // The flood ends, though what it left is still there: reading goes on.
    wait_until(|| async { server.get(&path).await.1["state"] == "done" }).await;
    assert_eq!(metric(server, "graph_paused").await, 1);
    assert_eq!(bed.asked().len(), calls);
    server.home.execute("delete from graph_queue where group_id = 'flood'").await;
    settled(&server.home).await;
    assert!(bed.asked().len() > calls);
    wait_until(|| async { !noted(server).await.contains("paused") }).await;
}

async fn what_was_deleted_while_the_model_was_asked_is_not_brought_back(engine: Engine) {
    let bed = Bed::new(engine, &[EXTRACTION, SOON]).await;
    let server = &bed.server;
    bed.model.hold();
    for (session, message) in [("home", "Rex guards Porto."), ("away", "Rex guards Oslo.")] {
        let body = json!({"message": message, "session_name": session, "user_id": "ada"});
        let (status, run) = server.post("/api/v1/agent/simple_agent/run", body).await;
        assert_eq!(status, StatusCode::OK, "{run}");
    }
    bed.model.wait_held(1).await;
    let (_, sessions) = server.get("/api/v1/sessions").await;
    let sessions = sessions["items"].as_array().unwrap();
    let away = sessions.iter().find(|it| it["session_name"] == "away").unwrap();
    let path = format!("/api/v1/sessions/{}", away["id"].as_str().unwrap());
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    let left = "select count(*) from graph_episode where content like '%Oslo%'";
    wait_until(|| async { server.home.number(left).await == 0 }).await;
    bed.model.release();
    settled(&server.home).await;
    let stored = facts(server, "group_id=user:ada&predicate=guards").await;
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert_eq!(stored[0]["text"], "Rex guards Porto");
    doctor(&server.home);
}

fn same_words() -> Embedding {
    let pairs = [("canine", "dog"), ("residence", "house")];
    Embedding::Words(pairs.map(|(one, other)| (one.to_owned(), other.to_owned())).to_vec())
}

async fn embedded(bed: &Bed, contents: &[&str]) -> Vec<Value> {
    let mut taken = Vec::new();
    for content in contents {
        taken.push(take(&bed.server, json!({"content": content})).await);
    }
    settled(&bed.server.home).await;
    taken
}

const SAID: [&str; 4] = [
    "The dog sleeps all day.",
    "We painted the house green.",
    "Tea is at five.",
    "Heavy rain fell.",
];

async fn vectors_find_what_words_do_not(engine: Engine) {
    let bed = Bed::new(engine, &[EMBEDDING, PATIENT]).await;
    bed.model.embed(same_words());
    let taken = embedded(&bed, &SAID).await;
    let server = &bed.server;
    assert_eq!(server.home.count("graph_vector").await, 4);
    let calls = bed.model.received();
    assert!(calls.iter().all(|it| it.path == "/v1/embeddings" && it.body["model"] == "e"));
    let hits = search(server, "canine").await;
    assert_eq!(hits[0]["id"], taken[0]["id"], "{hits:?}");
    let signals = &hits[0]["signals"];
    assert!(signals["vector"].as_f64().unwrap() > 0.3, "{signals}");
    assert_eq!(signals["text"], 0.0);
    // What has the words has both.
    let hits = search(server, "the green house").await;
    let signals = &hits[0]["signals"];
    assert_eq!(hits[0]["id"], taken[1]["id"], "{hits:?}");
    assert!(signals["vector"].as_f64().unwrap() > 0.3 && signals["text"].as_f64().unwrap() > 0.0);
    // What comes later is found, too, though the group's vectors are in memory.
    let later = embedded(&bed, &["Their canine barks."]).await;
    let hits = search(server, "dog").await;
    let ids: BTreeSet<&str> = hits.iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert!(ids.contains(later[0]["id"].as_str().unwrap()), "{hits:?}");
    assert!(metric(server, "graph_vectors_bytes").await > 0);
    // In another group there is nothing.
    let body = json!({"query": "canine", "group_id": "other"});
    let (_, answer) = server.post("/api/v1/graph/search", body).await;
    assert_eq!(answer["hits"], json!([]));
    doctor(&server.home);
}

async fn ollama_makes_vectors_too(engine: Engine) {
    let model = ModelServer::start().await;
    model.embed(same_words());
    let url = model.root_url();
    let settings = [
        ("AGENTRY_PROVIDERS__OLLAMA__BASE_URL", url.as_str()),
        ("AGENTRY_GRAPH__EMBEDDING_MODEL", "ollama/nomic-embed-text"),
        PATIENT,
    ];
    let server = Server::start_with(engine, &settings).await;
    let bed = Bed { model, server };
    let taken = embedded(&bed, &SAID).await;
    let hits = search(&bed.server, "residence").await;
    assert_eq!(hits[0]["id"], taken[1]["id"], "{hits:?}");
    assert!(bed.model.received().iter().all(|it| it.path == "/api/embed"));
}

async fn a_search_goes_on_without_vectors(engine: Engine) {
    let open = ("AGENTRY_GRAPH__MODEL_BREAKER_OPEN_MS", "600000");
    let bed = Bed::new(engine, &[EMBEDDING, open]).await;
    let server = &bed.server;
    let taken = embedded(&bed, &SAID).await;
    for embedding in
        [Embedding::Silence, Embedding::Refusal(500), Embedding::Raw(json!({"data": []}))]
    {
        bed.model.embed(embedding);
        let before = bed.model.received().len();
        let hits = search(server, "dog").await;
        assert_eq!(hits[0]["id"], taken[0]["id"], "{hits:?}");
        assert_eq!(hits[0]["signals"]["vector"], 0.0);
        assert_eq!(bed.model.received().len(), before + 1, "it was asked, and in vain");
    }
    wait_until(|| async {
        search(server, "dog").await;
        noted(server).await.contains("the embedding model fails")
    })
    .await;
    // It is left alone now: searches wait no longer, and episodes are taken and read.
    let before = bed.model.received().len();
    assert_eq!(search(server, "dog").await[0]["id"], taken[0]["id"]);
    let episode = take(server, json!({"content": "The cat lives in Oslo."})).await;
    let path = format!("{EPISODES}/{}", episode["id"].as_str().unwrap());
    wait_until(|| async { server.get(&path).await.1["state"] == "done" }).await;
    assert_eq!(search(server, "cat").await[0]["id"], episode["id"]);
    assert_eq!(bed.model.received().len(), before);
    assert_eq!(server.home.count("graph_ask").await, 1, "it waits for the model");
}

async fn a_purge_takes_vectors_away(engine: Engine) {
    let bed = Bed::new(engine, &[EMBEDDING, PATIENT]).await;
    let server = &bed.server;
    for user in ["ada", "tom"] {
        let body = json!({"message": format!("The dog of {user} barks."), "user_id": user});
        server.post("/api/v1/agent/simple_agent/run", body).await;
    }
    settled(&server.home).await;
    let vectors = server.home.count("graph_vector").await;
    let ask = json!({"query": "dog", "group_id": "user:ada"});
    let (_, found) = server.post("/api/v1/graph/search", ask.clone()).await;
    assert!(found["hits"][0]["signals"]["vector"].as_f64().unwrap() > 0.0, "{found}");
    let (_, user) = server.get("/api/v1/users/ada").await;
    let path = format!("/api/v1/users/{}?purge=true", user["id"].as_str().unwrap());
    assert_eq!(server.delete(&path).await, StatusCode::ACCEPTED);
    wait_until(|| async {
        server.home.number("select count(*) from graph_episode where user_id = 'ada'").await == 0
    })
    .await;
    let left = server.home.count("graph_vector").await;
    assert!(left > 0 && left < vectors, "{left} of {vectors}");
    let (_, found) = server.post("/api/v1/graph/search", ask).await;
    assert_eq!(found["hits"], json!([]));
    doctor(&server.home);
}
