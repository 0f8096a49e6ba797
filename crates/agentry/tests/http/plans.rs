//! `/api/v1/plans`.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::crud::{self, NOTHING, id, made};
use crate::on_both_engines;
use crate::server::{Engine, Server};

const PLANS: &str = "/api/v1/plans";

on_both_engines! {
    every_field_is_stored_and_changed_alone,
    entity_tags_guard,
    lists_page_and_filter,
    a_key_makes_one_plan,
    what_is_wrong_is_said,
}

async fn every_field_is_stored_and_changed_alone(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = made(&server, "/api/v1/agents", json!({"name": "a"})).await;
    let goal = made(&server, "/api/v1/goals", json!({"description": "g"})).await;
    let other = made(&server, "/api/v1/goals", json!({"description": "h"})).await;
    let full = json!({
        "name": "By train",
        "description": "slowly",
        "goal_id": goal["id"],
        "agent_id": agent["id"],
        "status": "active",
        "steps": [{"do": "pack"}, "leave", 3],
        "metadata": {"k": [1]},
    });
    let plan = crud::keeps_every_field(&server, PLANS, &full).await;
    assert_eq!(plan["plan_id"], plan["id"]);
    let mut bare = made(&server, PLANS, json!({"name": "bare"})).await;
    for (field, value) in [
        ("description", json!("")),
        ("status", json!("draft")),
        ("steps", json!([])),
        ("metadata", json!({})),
        ("goal_id", Value::Null),
        ("agent_id", Value::Null),
    ] {
        assert_eq!(bare[field], value, "{field}");
    }
    bare["name"] = json!("required");
    let second = made(&server, "/api/v1/agents", json!({"name": "b"})).await;
    let changes: [(&str, Value, &[&str]); 7] = [
        ("name", json!("By boat"), &[]),
        ("description", json!("quickly"), &[]),
        ("goal_id", other["id"].clone(), &[]),
        ("agent_id", second["id"].clone(), &[]),
        ("status", json!("cancelled"), &[]),
        ("steps", json!([]), &[]),
        ("metadata", json!({"k": 2}), &[]),
    ];
    crud::changes_one_field_at_a_time(&server, PLANS, full, &bare, &changes).await;
    // A plan stays when its goal and its agent go, and can be changed.
    assert_eq!(server.delete(&format!("/api/v1/goals/{}", id(&goal))).await, 204);
    assert_eq!(server.delete(&format!("/api/v1/agents/{}", id(&agent))).await, 204);
    let path = format!("{PLANS}/{}", id(&plan));
    assert_eq!(server.get(&path).await.1, plan);
    let (status, now) = server.patch(&path, json!({"status": "failed"})).await;
    assert_eq!((status, &now["goal_id"]), (StatusCode::OK, &goal["id"]));
}

async fn entity_tags_guard(engine: Engine) {
    let server = Server::start(engine).await;
    let patch = json!({"status": "active"});
    crud::entity_tags_guard(&server, PLANS, json!({"name": "p"}), patch).await;
}

async fn lists_page_and_filter(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = made(&server, "/api/v1/agents", json!({"name": "a"})).await;
    let goal = made(&server, "/api/v1/goals", json!({"description": "g"})).await;
    crud::lists_in_parts(&server, PLANS, |n| {
        let of = |some: bool, whose: &Value| if some { whose["id"].clone() } else { Value::Null };
        json!({
            "name": format!("p{n}"),
            "agent_id": of(n < 3, &agent),
            "goal_id": of(n > 1, &goal),
            "status": if n % 2 == 0 { "active" } else { "completed" },
        })
    })
    .await;
    let (agent, goal) = (id(&agent), id(&goal));
    crud::filters_select(
        &server,
        PLANS,
        &[
            (format!("agent_id={agent}"), 3),
            (format!("goal_id={goal}"), 5),
            (format!("goal_id={goal}&agent_id={agent}&status=active"), 1),
            ("status=completed".to_owned(), 3),
            (format!("goal_id={NOTHING}"), 0),
        ],
    )
    .await;
}

async fn a_key_makes_one_plan(engine: Engine) {
    let server = Server::start(engine).await;
    crud::one_key_makes_one(&server, PLANS, json!({"name": "p"})).await;
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    crud::refuses(
        &server,
        PLANS,
        &[
            (json!({}), 422, "required"),
            (json!({"name": 7}), 422, "wrong_type"),
            (json!({"name": "p", "status": "pending"}), 422, "not_allowed"),
            (json!({"name": "p", "steps": "none"}), 422, "wrong_type"),
            (json!({"name": "p", "steps": vec![0; 501]}), 422, "too_many"),
            (json!({"name": "p", "goal_id": NOTHING}), 404, "not_found"),
            (json!({"name": "p", "agent_id": NOTHING}), 404, "not_found"),
        ],
    )
    .await;
    assert_eq!(server.get(&format!("{PLANS}/{NOTHING}")).await.0, StatusCode::NOT_FOUND);
}
