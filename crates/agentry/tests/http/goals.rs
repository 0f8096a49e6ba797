//! `/api/v1/goals`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crud::{self, NOTHING, id, made};
use crate::on_both_engines;
use crate::server::{Engine, Process, Server, answer};

const GOALS: &str = "/api/v1/goals";

on_both_engines! {
    every_field_is_stored_and_returned,
    a_patch_changes_one_field,
    entity_tags_guard,
    lists_page_and_filter,
    a_key_makes_one_goal,
    what_is_wrong_is_said,
    goals_are_parts_of_goals,
    a_tree_is_shown_from_its_root,
    two_goals_are_not_put_below_one_another,
}

async fn agent(process: &Process, name: &str) -> Value {
    made(process, "/api/v1/agents", json!({ "name": name })).await
}

fn full(agent: &Value, parent: &Value) -> Value {
    json!({
        "agent_id": agent["id"],
        "description": "Reach Lisbon \u{1f682}\nby train",
        "success_criteria": ["arrived", {"before": "noon"}, 7, null, [1.5]],
        "priority": 9,
        "status": "completed",
        "goal_type": "travel",
        "parent_goal_id": parent["id"],
        "constraints": {"budget": {"eur": 120.50}},
        "decomposition_strategy": "sequential",
        "metadata": {"team": "blue", "n": [null]},
    })
}

async fn every_field_is_stored_and_returned(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = agent(&server, "Ada").await;
    let parent = made(&server, GOALS, json!({"description": "Travel"})).await;
    let goal = crud::keeps_every_field(&server, GOALS, &full(&agent, &parent)).await;
    assert_eq!(goal["goal_id"], goal["id"]);
    assert_eq!(goal["goal_text"], goal["description"]);
    assert_eq!(goal["agent_did"], agent["did"]);
    assert_eq!(goal["version"], 1);

    let bare = made(&server, GOALS, json!({"goal_text": "Rest", "status": "in_progress"})).await;
    for (field, value) in [
        ("description", json!("Rest")),
        ("status", json!("active")),
        ("success_criteria", json!([])),
        ("priority", json!(5)),
        ("constraints", json!({})),
        ("metadata", json!({})),
        ("agent_id", Value::Null),
        ("agent_did", Value::Null),
        ("goal_type", Value::Null),
        ("parent_goal_id", Value::Null),
        ("decomposition_strategy", Value::Null),
    ] {
        assert_eq!(bare[field], value, "{field}");
    }
    // The agent's going leaves the goal as it is, and the goal can be changed.
    let path = format!("{GOALS}/{}", id(&goal));
    assert_eq!(server.delete(&format!("/api/v1/agents/{}", id(&agent))).await, 204);
    assert_eq!(server.get(&path).await.1, goal);
    let (status, now) = server.patch(&path, json!({"priority": 1})).await;
    assert_eq!((status, &now["agent_did"]), (StatusCode::OK, &agent["did"]));
}

async fn a_patch_changes_one_field(engine: Engine) {
    let server = Server::start(engine).await;
    let (first, second) = (agent(&server, "first").await, agent(&server, "second").await);
    let parent = made(&server, GOALS, json!({"description": "Travel"})).await;
    let other = made(&server, GOALS, json!({"description": "Rest"})).await;
    let mut bare = made(&server, GOALS, json!({"description": "bare"})).await;
    bare["description"] = json!("required");
    bare["goal_text"] = json!("required");
    let changes: [(&str, Value, &[&str]); 11] = [
        ("agent_id", second["id"].clone(), &["agent_did"]),
        ("description", json!("Reach Porto"), &["goal_text"]),
        ("goal_text", json!("Reach Porto"), &["description"]),
        ("success_criteria", json!([{"done": true}]), &[]),
        ("priority", json!(2), &[]),
        ("status", json!("failed"), &[]),
        ("goal_type", json!("rest"), &[]),
        ("parent_goal_id", other["id"].clone(), &[]),
        ("constraints", json!({"time": 1}), &[]),
        ("decomposition_strategy", json!("parallel"), &[]),
        ("metadata", json!({"team": "red"}), &[]),
    ];
    crud::changes_one_field_at_a_time(&server, GOALS, full(&first, &parent), &bare, &changes).await;
    // Objects are merged.
    let goal = made(&server, GOALS, full(&first, &parent)).await;
    let patch = json!({"metadata": {"team": null, "size": 3}});
    let (_, now) = server.patch(&format!("{GOALS}/{}", id(&goal)), patch).await;
    assert_eq!(now["metadata"], json!({"n": [null], "size": 3}));
    let (_, now) = server.patch(&format!("{GOALS}/{}", id(&goal)), json!({"agent_id": null})).await;
    assert_eq!(now["agent_did"], Value::Null);
    let missing = json!({"agent_id": NOTHING});
    let (status, problem) = server.patch(&format!("{GOALS}/{}", id(&goal)), missing).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    let (_, now) =
        server.patch(&format!("{GOALS}/{}", id(&goal)), json!({"status": "in_progress"})).await;
    assert_eq!(now["status"], "active");
}

async fn entity_tags_guard(engine: Engine) {
    let server = Server::start(engine).await;
    let patch = json!({"status": "active"});
    crud::entity_tags_guard(&server, GOALS, json!({"description": "g"}), patch).await;
}

async fn lists_page_and_filter(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = agent(&server, "a").await;
    let whose = agent["id"].clone();
    crud::lists_in_parts(&server, GOALS, |n| {
        json!({
            "description": format!("g{n}"),
            "agent_id": if n < 3 { whose.clone() } else { Value::Null },
            "priority": n + 1,
            "status": if n % 2 == 0 { "active" } else { "failed" },
            "goal_type": if n == 6 { "odd" } else { "even" },
        })
    })
    .await;
    let (_, all) = server.get(GOALS).await;
    let root = all["items"][0]["id"].as_str().unwrap().to_owned();
    for n in 0..2 {
        let part = json!({"description": format!("part {n}"), "parent_goal_id": root});
        made(&server, GOALS, part).await;
    }
    let agent = id(&agent);
    crud::filters_select(
        &server,
        GOALS,
        &[
            (format!("agent_id={agent}"), 3),
            (format!("agent_id={agent}&status=active"), 2),
            (format!("agent_id={agent}&status=in_progress&priority=3"), 1),
            (format!("agent_id={NOTHING}"), 0),
            ("status=failed".to_owned(), 3),
            ("status=pending".to_owned(), 2),
            ("priority=7".to_owned(), 1),
            ("priority=5".to_owned(), 3),
            ("goal_type=odd".to_owned(), 1),
            (format!("parent_goal_id={root}"), 2),
            (format!("parent_goal_id={root}&agent_id={agent}"), 0),
        ],
    )
    .await;
    for wrong in ["status=odd", "priority=0", "priority=11", "agent_id=x", "limit=0", "cursor=zz"] {
        let (status, problem) = server.get(&format!("{GOALS}?{wrong}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {problem}");
    }
}

async fn a_key_makes_one_goal(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = agent(&server, "a").await;
    let body = json!({"description": "g", "agent_id": agent["id"]});
    crud::one_key_makes_one(&server, GOALS, body.clone()).await;
    // The answer stays, also when the same request would be refused by now.
    assert_eq!(server.delete(&format!("/api/v1/agents/{}", id(&agent))).await, 204);
    let again = server.request(Method::POST, GOALS).header("idempotency-key", "once").json(&body);
    assert_eq!(answer(again).await.0, StatusCode::CREATED);
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    crud::refuses(
        &server,
        GOALS,
        &[
            (json!({}), 422, "required"),
            (json!({"description": ""}), 422, "too_short"),
            (json!({"description": 7}), 422, "wrong_type"),
            (json!({"description": "g", "priority": 0}), 422, "out_of_range"),
            (json!({"description": "g", "priority": 11}), 422, "out_of_range"),
            (json!({"description": "g", "priority": "high"}), 422, "wrong_type"),
            (json!({"description": "g", "status": "done"}), 422, "not_allowed"),
            (json!({"description": "g", "success_criteria": {}}), 422, "wrong_type"),
            (json!({"description": "g", "success_criteria": vec![0; 201]}), 422, "too_many"),
            (
                json!({"description": "g", "success_criteria": ["x".repeat(70_000)]}),
                422,
                "too_large",
            ),
            (json!({"description": "g", "constraints": []}), 422, "wrong_type"),
            (json!({"description": "g", "agent_id": "x"}), 422, "not_an_id"),
            (json!({"description": "g", "agent_id": 7}), 422, "wrong_type"),
            (json!({"description": "g", "agent_id": NOTHING}), 404, "not_found"),
            (json!({"description": "g", "parent_goal_id": NOTHING}), 404, "not_found"),
        ],
    )
    .await;
    assert_eq!(server.get(GOALS).await.1["items"], json!([]));
    assert_eq!(server.get(&format!("{GOALS}/x")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get(&format!("{GOALS}/{NOTHING}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get(&format!("{GOALS}/{NOTHING}/tree")).await.0, StatusCode::NOT_FOUND);
    for later in ["plan", "execute"] {
        let goal = made(&server, GOALS, json!({"description": "g"})).await;
        let path = format!("{GOALS}/{}/{later}", id(&goal));
        assert_eq!(server.post(&path, json!({})).await.0, StatusCode::NOT_FOUND);
    }
}

async fn goals_are_parts_of_goals(engine: Engine) {
    let server = Server::start(engine).await;
    let mut chain = vec![made(&server, GOALS, json!({"description": "0"})).await];
    for n in 1..4 {
        let part = json!({"description": n.to_string(), "parent_goal_id": chain[n - 1]["id"]});
        chain.push(made(&server, GOALS, part).await);
    }
    let path = |n: usize| format!("{GOALS}/{}", id(&chain[n]));
    for (goal, parent) in [(0, 0), (0, 3), (1, 2)] {
        let patch = json!({"parent_goal_id": chain[parent]["id"]});
        let (status, problem) = server.patch(&path(goal), patch).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("conflict")));
        assert_eq!(server.get(&path(goal)).await.1, chain[goal]);
    }
    // What is above another stays until nothing is below it.
    assert_eq!(server.delete(&path(2)).await, StatusCode::CONFLICT);
    let patch = json!({"parent_goal_id": chain[0]["id"]});
    assert_eq!(server.patch(&path(3), patch).await.0, StatusCode::OK);
    assert_eq!(server.delete(&path(2)).await, StatusCode::NO_CONTENT);
    assert_eq!(server.delete(&path(3)).await, StatusCode::NO_CONTENT);
    let patch = json!({"parent_goal_id": null});
    assert_eq!(server.patch(&path(1), patch).await.1["parent_goal_id"], Value::Null);
    assert_eq!(server.delete(&path(0)).await, StatusCode::NO_CONTENT);
}

async fn a_tree_is_shown_from_its_root(engine: Engine) {
    let server = Server::start(engine).await;
    let mut names = vec![("root", made(&server, GOALS, json!({"description": "root"})).await)];
    for (name, parent) in [("a", 0), ("b", 0), ("a1", 1), ("a2", 1), ("a1x", 3)] {
        let part = json!({"description": name, "parent_goal_id": names[parent].1["id"]});
        names.push((name, made(&server, GOALS, part).await));
    }
    made(&server, GOALS, json!({"description": "elsewhere"})).await;
    let tree = |of: usize| {
        let path = format!("{GOALS}/{}/tree", id(&names[of].1));
        let server = &server;
        async move { server.get(&path).await.1 }
    };
    let shown = tree(0).await;
    assert_eq!((&shown["goals"], &shown["truncated"]), (&json!(6), &json!(false)));
    fn outline(node: &Value) -> Value {
        let parts: Vec<Value> = node["children"].as_array().unwrap().iter().map(outline).collect();
        json!([node["description"], parts])
    }
    assert_eq!(
        outline(&shown["root"]),
        json!(["root", [["a", [["a1", [["a1x", []]]], ["a2", []]]], ["b", []]]])
    );
    let mut leaf = tree(5).await["root"].clone();
    assert_eq!(leaf.as_object_mut().unwrap().remove("children"), Some(json!([])));
    assert_eq!(leaf, names[5].1);

    // Goals stand at most 50 above one another.
    let mut deepest = names[5].1.clone();
    for n in 5..=51 {
        let part = json!({"description": n.to_string(), "parent_goal_id": deepest["id"]});
        let (status, goal) = server.post(GOALS, part).await;
        let expected = if n <= 50 { StatusCode::CREATED } else { StatusCode::CONFLICT };
        assert_eq!(status, expected, "{n}: {goal}");
        deepest = goal;
    }
    assert_eq!(tree(0).await["goals"], 52);
}

async fn two_goals_are_not_put_below_one_another(engine: Engine) {
    let server = Server::start(engine).await;
    for round in 0..10 {
        let (a, b) = (
            made(&server, GOALS, json!({"description": format!("a{round}")})).await,
            made(&server, GOALS, json!({"description": format!("b{round}")})).await,
        );
        let below = |goal: &Value, parent: &Value| {
            let path = format!("{GOALS}/{}", id(goal));
            let patch = json!({"parent_goal_id": parent["id"]});
            let server = &server;
            async move { server.patch(&path, patch).await.0 }
        };
        let (one, other) = tokio::join!(below(&a, &b), below(&b, &a));
        let mut statuses = [one.as_u16(), other.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "round {round}");
    }
}
