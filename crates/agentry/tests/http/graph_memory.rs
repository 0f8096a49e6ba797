//! `/api/v1/graph/episodes`, `/facts` and `/search`, and what runs remember in the graph.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Home, Process, Server, answer, wait_until};

on_both_engines! {
    an_episode_is_found_at_once_and_drawn_from_soon,
    an_equal_episode_is_the_first_one,
    facts_follow_each_other_in_time,
    a_json_episode_becomes_facts,
    a_conversation_whose_facts_change_is_answered_as_of_then,
    two_groups_never_cross,
    what_was_put_aside_is_tried_again_or_dropped,
    a_merge_is_followed_and_undone,
    a_purge_and_a_deleted_session_leave_nothing,
    soak_a_kill_in_a_storm_loses_and_doubles_nothing,
    without_the_graph_the_rest_goes_on,
    what_is_wrong_is_said,
}

const EPISODES: &str = "/api/v1/graph/episodes";

async fn take(server: &Process, episode: Value) -> Value {
    let (status, taken) = server.post(EPISODES, episode).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{taken}");
    taken
}

fn at(episode: &Value) -> String {
    let (id, group) = (episode["id"].as_str().unwrap(), episode["group_id"].as_str().unwrap());
    format!("{EPISODES}/{id}?group_id={group}")
}

async fn seen(server: &Process, episode: &Value) -> Value {
    let (status, seen) = server.get(&at(episode)).await;
    assert_eq!(status, StatusCode::OK, "{seen}");
    seen
}

async fn drawn(server: &Process, episode: &Value) -> Value {
    wait_until(|| async { seen(server, episode).await["state"] == "done" }).await;
    seen(server, episode).await
}

/// Waits until nothing of a group is left to be drawn from.
async fn settled(server: &Process, group: &str) {
    let path = format!("{EPISODES}?state=pending&group_id={group}");
    wait_until(|| async { server.get(&path).await.1["items"] == json!([]) }).await;
}

async fn facts(server: &Process, query: &str) -> Vec<Value> {
    let (status, page) = server.get(&format!("/api/v1/graph/facts?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["items"].as_array().unwrap().clone()
}

fn texts(items: &[Value]) -> BTreeSet<String> {
    items.iter().map(|item| item["text"].as_str().unwrap().to_owned()).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn search(server: &Process, body: Value) -> Vec<Value> {
    let (status, answer) = server.post("/api/v1/graph/search", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["hits"].as_array().unwrap().clone()
}

async fn an_episode_is_found_at_once_and_drawn_from_soon(engine: Engine) {
    let server = Server::start(engine).await;
    let sent = json!({
        "content": "I moved to Lisbon last month. My sister Anna works at Northwind Traders.",
        "role": "user", "speaker": "Ada", "source": "chat", "session_id": 7, "user_id": "u-1",
        "group_id": "family", "occurred_at": "2026-05-17T10:00:00Z", "metadata": {"n": [1.50]},
    });
    let taken = take(&server, sent.clone()).await;
    for (field, value) in sent.as_object().unwrap() {
        let kept = match field.as_str() {
            "session_id" => json!("7"),
            "occurred_at" => json!("2026-05-17T10:00:00.000000Z"),
            _ => value.clone(),
        };
        assert_eq!(taken[field], kept, "{field}");
    }
    let hits =
        search(&server, json!({"query": "Lisbon", "group_id": "family", "facts": false})).await;
    assert_eq!(hits[0]["id"], taken["id"]);
    assert!(hits[0]["signals"]["text"].as_f64().unwrap() > 0.0, "{hits:?}");

    let seen = drawn(&server, &taken).await;
    assert_eq!(seen["extractor"], "rules/1");
    assert!(seen["mentions"].as_array().unwrap().len() >= 4, "{seen}");
    let stored = facts(&server, "group_id=family").await;
    let expected =
        set(&["Ada lives in Lisbon", "Ada's sister is Anna", "Anna works at Northwind Traders"]);
    assert_eq!(texts(&stored), expected);
    let lives = stored.iter().find(|fact| fact["predicate"] == "lives_in").unwrap();
    assert_eq!(lives["valid_at"], "2026-04-01T00:00:00.000000Z");
    assert_eq!(lives["evidence"][0]["episode_id"], taken["id"]);
    assert_eq!(lives["evidence"][0]["quote"], "I moved to Lisbon last month.");
    let one = format!("/api/v1/graph/facts/{}?group_id=family", lives["id"].as_str().unwrap());
    assert_eq!(server.get(&one).await, (StatusCode::OK, lives.clone()));

    let hits =
        search(&server, json!({"query": "Where does Ada live?", "group_id": "family"})).await;
    assert!(hits.iter().any(|hit| hit["type"] == "fact" && hit["text"] == "Ada lives in Lisbon"));
    assert_eq!(
        search(&server, json!({"query": "Where does Ada live?"})).await,
        Vec::<Value>::new()
    );
    // The graph's own calls see what was drawn.
    let (_, nodes) = server.get("/api/v1/graph/nodes/search?name=anna&group_id=family").await;
    assert_eq!(nodes["total_count"], 1, "{nodes}");
    assert_eq!(nodes["results"][0]["kind"], "person");
    // A token budget is kept to.
    let ask = json!({"query": "Where does Ada live?", "group_id": "family", "tokens_max": 8});
    let hits = search(&server, ask).await;
    let bytes: usize = hits.iter().map(|hit| hit["text"].as_str().unwrap().len()).sum();
    assert!(bytes <= 32 && !hits.is_empty(), "{hits:?}");
}

async fn an_equal_episode_is_the_first_one(engine: Engine) {
    let server = Server::start(engine).await;
    let episode = json!({"content": "The vault opens with 7719."});
    let first = take(&server, episode.clone()).await;
    assert_eq!(take(&server, episode.clone()).await["id"], first["id"]);
    let other =
        take(&server, json!({"content": "The vault opens with 7719.", "role": "assistant"})).await;
    assert_ne!(other["id"], first["id"]);
    let elsewhere = json!({"content": "The vault opens with 7719.", "group_id": "g"});
    assert_ne!(take(&server, elsewhere).await["id"], first["id"]);
    let keyed =
        || server.request(Method::POST, EPISODES).header("idempotency-key", "k").json(&episode);
    let (_, again) = answer(keyed()).await;
    assert_eq!(again["id"], first["id"]);
    let (_, page) = server.get(EPISODES).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
}

async fn facts_follow_each_other_in_time(engine: Engine) {
    let server = Server::start(engine).await;
    let told = [
        ("2024-03-01T00:00:00Z", "I moved to Porto."),
        ("2026-06-01T00:00:00Z", "I moved to Lisbon."),
        // It comes late, and closes nothing that is newer.
        ("2019-01-01T00:00:00Z", "I live in Paris."),
        ("2025-01-01T00:00:00Z", "I'm allergic to peanuts."),
    ];
    for (when, content) in told {
        take(&server, json!({"content": content, "speaker": "Ada", "occurred_at": when})).await;
    }
    settled(&server, "default").await;
    let lives = |as_of: &'static str| {
        let server = &server;
        async move { texts(&facts(server, &format!("predicate=lives_in{as_of}")).await) }
    };
    let all = ["Ada lives in Lisbon", "Ada lives in Paris", "Ada lives in Porto"];
    assert_eq!(lives("").await, set(&all));
    assert_eq!(lives("&as_of=2026-07-01T00:00:00Z").await, set(&all[..1]));
    assert_eq!(lives("&as_of=2025-07-01T00:00:00Z").await, set(&all[2..]));
    assert_eq!(lives("&as_of=2020-07-01T00:00:00Z").await, set(&all[1..2]));
    assert_eq!(lives("&as_of=2018-07-01T00:00:00Z").await, set(&[]));
    // Nothing was known then.
    assert_eq!(lives("&known_at=2026-06-30T00:00:00Z&as_of=2026-06-30T00:00:00Z").await, set(&[]));
    for (as_of, expected) in [(json!(null), all[0]), (json!("2024-06-01T00:00:00Z"), all[2])] {
        let ask = json!({"query": "Where does Ada live?", "as_of": as_of, "episodes": false});
        let hits = search(&server, ask).await;
        assert_eq!((hits.len(), &hits[0]["text"]), (1, &json!(expected)), "{hits:?}");
    }
    // What has several objects at a time closes nothing.
    take(&server, json!({"content": "I am allergic to cats.", "speaker": "Ada"})).await;
    settled(&server, "default").await;
    let allergies = facts(&server, "predicate=allergic_to").await;
    assert!(allergies.len() == 2 && allergies.iter().all(|fact| fact["invalid_at"].is_null()));
    // What is said again is evidence, and no second fact.
    take(&server, json!({"content": "By the way, I live in Lisbon.", "speaker": "Ada"})).await;
    settled(&server, "default").await;
    let lisbon = facts(&server, "predicate=lives_in").await;
    let lisbon = lisbon.iter().find(|fact| fact["text"] == all[0]).unwrap();
    assert_eq!(lisbon["evidence"].as_array().unwrap().len(), 2, "{lisbon}");
}

async fn a_json_episode_becomes_facts(engine: Engine) {
    let server = Server::start(engine).await;
    let document =
        json!({"name": "Ada Byron", "worksAt": {"name": "Acme", "city": "London"}, "age": 36});
    let taken = take(&server, json!({"json": document})).await;
    assert_eq!((&taken["kind"], &taken["content"]), (&json!("json"), &json!(document.to_string())));
    drawn(&server, &taken).await;
    let expected = ["Ada Byron works at Acme", "Acme's city is London", "Ada Byron's age is 36"];
    assert_eq!(texts(&facts(&server, "").await), set(&expected));
}

async fn say(server: &Process, session: &str, message: &str) -> String {
    let body = json!({"message": message, "session_name": session, "user_id": "ada"});
    let (status, run) = server.post("/api/v1/agent/simple_agent/run", body).await;
    assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
    run["message"].as_str().unwrap().to_owned()
}

async fn a_conversation_whose_facts_change_is_answered_as_of_then(engine: Engine) {
    let server = Server::start(engine).await;
    for message in [
        "I have lived in Porto since 2019.",
        "The weather is lovely today.",
        "I work at Initech.",
        "My dog Rex likes the beach.",
        "I'm allergic to peanuts.",
        "I moved to Lisbon last week.",
        "I joined Globex on Monday.",
        "My favourite colour is dark green.",
    ] {
        say(&server, "home", message).await;
    }
    settled(&server, "user:ada").await;
    let now = say(&server, "other", "Where do I live?").await;
    assert!(now.contains("Lisbon") && !now.contains("Porto"), "{now}");
    let before = say(&server, "other", "Where did I live last year?").await;
    assert!(before.contains("Porto") && !before.contains("Lisbon"), "{before}");
    let works = say(&server, "other", "Where do I work?").await;
    assert!(works.contains("Globex") && !works.contains("Initech"), "{works}");
    let colour = say(&server, "other", "What is my favourite colour?").await;
    assert!(colour.contains("dark green"), "{colour}");
    // Nobody else knows.
    let body = json!({"message": "Where do I live?", "user_id": "tom"});
    let (_, run) = server.post("/api/v1/agent/simple_agent/run", body).await;
    assert!(!run["message"].as_str().unwrap().contains("Lisbon"), "{run}");
}

async fn two_groups_never_cross(engine: Engine) {
    const EACH: usize = 25;
    let server = Server::start(engine).await;
    let groups = [("left", "Porto"), ("right", "Oslo")];
    let posts = groups.iter().flat_map(|(group, city)| {
        (0..EACH).map(move |nth| {
            let content = format!("Ada{nth} lives in {city}. Ada{nth} met Tom Stone.");
            json!({"content": content, "group_id": group})
        })
    });
    futures::future::join_all(posts.map(|post| take(&server, post))).await;
    for (group, city) in groups {
        settled(&server, group).await;
        let stored =
            facts(&server, &format!("group_id={group}&predicate=lives_in&limit=500")).await;
        assert_eq!(stored.len(), EACH, "{group}");
        let here = |fact: &Value| fact["text"].as_str().unwrap().ends_with(city);
        assert!(stored.iter().all(here), "{stored:?}");
        let (_, nodes) =
            server.get(&format!("/api/v1/graph/nodes?group_id={group}&limit=500")).await;
        let names: Vec<&str> = nodes["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        // Each name once, though many episodes named it.
        assert_eq!(names.iter().filter(|name| **name == "Tom Stone").count(), 1, "{names:?}");
        assert_eq!(names.iter().filter(|name| **name == city).count(), 1);
        for (other, elsewhere) in groups {
            let hits =
                search(&server, json!({"query": elsewhere, "group_id": group, "limit": 100})).await;
            assert_eq!(hits.is_empty(), other != group, "{group} {elsewhere}");
        }
    }
}

async fn what_was_put_aside_is_tried_again_or_dropped(engine: Engine) {
    let server = Server::start(engine).await;
    let mut taken = Vec::new();
    for content in ["I live in Porto.", "I live in Oslo."] {
        taken.push(take(&server, json!({"content": content})).await);
    }
    settled(&server, "default").await;
    server
        .home
        .execute("update graph_episode set state = 'dead', error = 'by hand', attempts = 5")
        .await;
    let (_, dead) = server.get(&format!("{EPISODES}?state=dead")).await;
    assert_eq!(dead["items"].as_array().unwrap().len(), 2, "{dead}");
    let path = |nth: usize, what: &str| {
        format!("{EPISODES}/{}/{what}", taken[nth]["id"].as_str().unwrap())
    };
    let (status, again) = server.post(&path(0, "retry"), json!({})).await;
    assert_eq!((status, &again["error"]), (StatusCode::ACCEPTED, &json!(null)), "{again}");
    let (status, dropped) = server.post(&path(1, "drop"), json!({})).await;
    assert_eq!((status, &dropped["state"]), (StatusCode::OK, &json!("dropped")), "{dropped}");
    drawn(&server, &taken[0]).await;
    let (status, _) = server.post(&path(0, "retry"), json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(server.home.count("graph_queue").await, 0);
}

async fn a_merge_is_followed_and_undone(engine: Engine) {
    let server = Server::start(engine).await;
    take(&server, json!({"content": "Robert Stone lives in Porto. Bobby lives in Rome."})).await;
    settled(&server, "default").await;
    let node = async |name: &str| {
        let (_, found) = server.get(&format!("/api/v1/graph/nodes/search?name={name}")).await;
        found["results"][0]["id"].as_str().unwrap().to_owned()
    };
    let (robert, bobby) = (node("robert%20stone").await, node("bobby").await);
    let path = format!("/api/v1/graph/nodes/{robert}/merge");
    let (status, merge) =
        server.post(&path, json!({"node_id": bobby, "cause": "a nickname"})).await;
    assert_eq!((status, &merge["merged"]), (StatusCode::CREATED, &json!(bobby)), "{merge}");
    let (status, _) = server.post(&path, json!({"node_id": bobby})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let circle = format!("/api/v1/graph/nodes/{bobby}/merge");
    assert_eq!(server.post(&circle, json!({"node_id": robert})).await.0, StatusCode::CONFLICT);
    take(&server, json!({"content": "Bobby works at Initech."})).await;
    settled(&server, "default").await;
    assert_eq!(facts(&server, "predicate=works_at").await[0]["subject"], json!(robert));
    // What was known of the other one is read with this one's, while they are one.
    let of_robert = format!("subject={robert}");
    let read = texts(&facts(&server, &of_robert).await);
    assert_eq!(
        read,
        set(&["Robert Stone lives in Porto", "Bobby lives in Rome", "Bobby works at Initech"])
    );
    let undo = format!("{path}/{bobby}");
    assert_eq!(answer(server.request(Method::DELETE, &undo)).await.0, StatusCode::NO_CONTENT);
    assert_eq!(answer(server.request(Method::DELETE, &undo)).await.0, StatusCode::NOT_FOUND);
    take(&server, json!({"content": "Bobby drives a Volvo."})).await;
    settled(&server, "default").await;
    assert_eq!(facts(&server, "predicate=drives").await[0]["subject"], json!(bobby));
}

async fn a_purge_and_a_deleted_session_leave_nothing(engine: Engine) {
    let server = Server::start(engine).await;
    say(&server, "home", "I live in Porto with Anna Smith.").await;
    say(&server, "away", "My sister is Maria.").await;
    let posted = json!({"content": "I met Anna Smith.", "user_id": "ada", "group_id": "club"});
    take(&server, posted).await;
    take(&server, json!({"content": "Tom Stone met Anna Smith.", "group_id": "club"})).await;
    settled(&server, "user:ada").await;
    settled(&server, "club").await;
    let (_, sessions) = server.get("/api/v1/sessions?name=away").await;
    let away = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["session_name"] == "away")
        .unwrap();
    let path = format!("/api/v1/sessions/{}", away["id"].as_str().unwrap());
    assert_eq!(answer(server.request(Method::DELETE, &path)).await.0, StatusCode::NO_CONTENT);
    let left = texts(&facts(&server, "group_id=user:ada").await);
    assert_eq!(left, set(&["ada lives in Porto"]));

    let (_, user) = server.get("/api/v1/users/ada").await;
    let path = format!("/api/v1/users/{}?purge=true", user["id"].as_str().unwrap());
    let (status, job) = answer(server.request(Method::DELETE, &path)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    let path = format!("/api/v1/admin/jobs/{}", job["id"].as_str().unwrap());
    wait_until(|| async { server.get(&path).await.1["state"] == "succeeded" }).await;
    let (_, job) = server.get(&path).await;
    assert!(job["result"]["episodes"].as_u64().unwrap() >= 2, "{job}");
    assert_eq!(facts(&server, "group_id=user:ada").await, Vec::<Value>::new());
    let (_, nodes) = server.get("/api/v1/graph/nodes?group_id=user:ada").await;
    assert_eq!(nodes["items"], json!([]));
    // What rests on somebody else's words as well stays.
    let (_, nodes) = server.get("/api/v1/graph/nodes?group_id=club").await;
    let names: BTreeSet<&str> =
        nodes["items"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(names.contains("Anna Smith") && names.contains("Tom Stone"), "{names:?}");
    assert_eq!(
        search(&server, json!({"query": "Porto Anna", "group_id": "user:ada"})).await,
        Vec::<Value>::new()
    );
}

/// Episodes that are acknowledged in all, and before each kill; in short and in long.
const STORM: [(usize, usize); 2] = [(180, 60), (20_000, 1_500)];
const STORM_CLIENTS: usize = 50;

async fn soak_a_kill_in_a_storm_loses_and_doubles_nothing(engine: Engine) {
    let is_soak = std::env::var_os("AGENTRY_TEST_SOAK").is_some_and(|value| value == "1");
    let (total, each) = STORM[usize::from(is_soak)];
    let home = Home::new(engine).await;
    let lease = [("AGENTRY_RUNS__LEASE_MS", "1000")];
    let mut kept: Vec<Value> = Vec::new();
    let mut round = 0;
    while kept.len() < total {
        let server = Process::start_with(&home, &lease);
        let enough = tokio::sync::Notify::new();
        let acknowledged = tokio::sync::Mutex::new(Vec::new());
        let post = |nth: usize| {
            let (server, enough, acknowledged) = (&server, &enough, &acknowledged);
            async move {
                let content = format!("Person{round}x{nth} works at Acme. I met Tom Stone.");
                let sent =
                    server.request(Method::POST, EPISODES).json(&json!({"content": content}));
                let Ok(reply) = sent.send().await else { return };
                let taken = reply.status() == StatusCode::ACCEPTED;
                let Ok(body) = reply.json::<Value>().await else { return };
                if taken {
                    let mut all = acknowledged.lock().await;
                    all.push(body);
                    if all.len() == each {
                        enough.notify_one();
                    }
                }
            }
        };
        let storm = futures::stream::iter((0..2 * each).map(post));
        let storm = storm.buffer_unordered(STORM_CLIENTS).collect::<Vec<()>>();
        tokio::select! {
            _ = storm => {}
            () = enough.notified() => {}
        }
        server.kill();
        kept.append(&mut *acknowledged.lock().await);
        round += 1;
    }
    let server = Process::start_with(&home, &lease);
    // What is left to be read after the last kill is read in the time that any wait has.
    settled(&server, "default").await;
    // Each is there once, and nothing of its facts and mentions is twice or missing.
    let ids: BTreeSet<&str> = kept.iter().map(|episode| episode["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), kept.len());
    for chunk in kept.chunks(STORM_CLIENTS) {
        let states = chunk.iter().map(|episode| seen(&server, episode));
        for episode in futures::future::join_all(states).await {
            assert_eq!(episode["state"], "done", "{episode}");
        }
    }
    let all = home.count("graph_episode").await;
    assert!(all >= i64::try_from(kept.len()).unwrap());
    let works = home.number("select count(*) from graph_fact where predicate = 'works_at'").await;
    assert_eq!(works, all, "one fact for each episode");
    let speakers = home.number("select count(*) from graph_fact_evidence").await;
    assert_eq!(speakers, 2 * all, "what each episode says is evidence once");
    assert_eq!(home.number("select count(*) from graph_node where name = 'Tom Stone'").await, 1);
    wait_until(|| async { home.count("graph_queue").await == 0 }).await;
    assert_eq!(home.number("select count(*) from job where kind = 'graph'").await, 0);
    server.kill();
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_agentry"));
    doctor.args(home.arguments("doctor")).arg("--deep");
    let output = doctor.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

async fn without_the_graph_the_rest_goes_on(engine: Engine) {
    let home = Home::new(engine).await;
    let server = Process::start_with(&home, &[("AGENTRY_GRAPH__ENABLED", "false")]);
    let (status, refused) = server.post(EPISODES, json!({"content": "I live in Porto."})).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("graph_off")),
        "{refused}"
    );
    say(&server, "home", "I live in Porto.").await;
    let reply = say(&server, "home", "Where do I live?").await;
    assert!(reply.contains("Porto"), "{reply}");
    assert_eq!(home.count("graph_episode").await, 0);
    assert_eq!(search(&server, json!({"query": "Porto"})).await, Vec::<Value>::new());
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    for (body, pointer) in [
        (json!({}), "/content"),
        (json!({"content": ""}), "/content"),
        (json!({"content": "a", "json": {}}), "/json"),
        (json!({"json": "text"}), "/json"),
        (json!({"content": "a", "occurred_at": "yesterday"}), "/occurred_at"),
    ] {
        let (status, refused) = server.post(EPISODES, body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {refused}");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}: {refused}");
    }
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(server.get(&format!("{EPISODES}/{nobody}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get(&format!("/api/v1/graph/facts/{nobody}")).await.0, StatusCode::NOT_FOUND);
    let (status, _) = server.post("/api/v1/graph/search", json!({"query": ""})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        server.get(&format!("{EPISODES}?state=done")).await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}
