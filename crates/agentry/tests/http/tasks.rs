//! `/api/v1/tasks`, also at `/api/v1/plans/tasks`.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::crud::{self, NOTHING, id, made};
use crate::on_both_engines;
use crate::server::{Engine, Server};

const TASKS: &str = "/api/v1/tasks";
const PLAN_TASKS: &str = "/api/v1/plans/tasks";

on_both_engines! {
    every_field_is_stored_and_returned,
    a_patch_changes_one_field,
    the_other_path_serves_the_same,
    entity_tags_guard,
    lists_page_and_filter,
    a_key_makes_one_task,
    what_is_wrong_is_said,
    dependencies_make_no_circle,
    two_tasks_do_not_come_to_depend_on_one_another,
}

async fn every_field_is_stored_and_returned(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = made(&server, "/api/v1/agents", json!({"name": "a"})).await;
    let first = made(&server, TASKS, json!({"description": "Pack"})).await;
    let full = json!({
        "plan_id": "plan-7",
        "agent_id": agent["id"],
        "name": "Tickets",
        "description": "Book the train\nto Lisbon",
        "task_type": "booking",
        "input_data": {"seats": [1, 2], "window": null},
        "output_data": {"price": 120.50},
        "depends_on": [first["id"]],
        "status": "blocked",
        "metadata": {"k": 1},
    });
    let task = crud::keeps_every_field(&server, TASKS, &full).await;
    assert_eq!(task["task_id"], task["id"]);
    assert_eq!(task["inputs"], task["input_data"]);
    assert_eq!(task["outputs"], task["output_data"]);

    for (field, value) in [
        ("name", json!("Pack")),
        ("description", json!("Pack")),
        ("status", json!("pending")),
        ("input_data", json!({})),
        ("output_data", json!({})),
        ("depends_on", json!([])),
        ("metadata", json!({})),
        ("plan_id", Value::Null),
        ("agent_id", Value::Null),
        ("task_type", Value::Null),
    ] {
        assert_eq!(first[field], value, "{field}");
    }
    let sent = json!({
        "plan_id": 42, "name": "only a name", "inputs": {"a": 1}, "outputs": {"b": 2},
        "status": "in_progress",
    });
    let task = made(&server, TASKS, sent).await;
    assert_eq!(task["plan_id"], "42");
    assert_eq!(task["description"], "");
    assert_eq!((&task["input_data"], &task["output_data"]), (&json!({"a": 1}), &json!({"b": 2})));
    assert_eq!(task["status"], "running");
    let long = made(&server, TASKS, json!({"description": "x".repeat(300)})).await;
    assert_eq!(long["name"], "x".repeat(80));
}

async fn a_patch_changes_one_field(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = made(&server, "/api/v1/agents", json!({"name": "a"})).await;
    let first = made(&server, TASKS, json!({"description": "first"})).await;
    let second = made(&server, TASKS, json!({"description": "second"})).await;
    let full = json!({
        "plan_id": "p", "name": "n", "description": "d", "task_type": "t",
        "input_data": {"i": 1}, "output_data": {"o": 1}, "depends_on": [first["id"]],
        "metadata": {"m": 1},
    });
    let mut bare = made(&server, TASKS, json!({"description": "d"})).await;
    bare["description"] = json!("");
    bare["inputs"] = json!({});
    bare["outputs"] = json!({});
    let changes: [(&str, Value, &[&str]); 12] = [
        ("plan_id", json!("q"), &[]),
        ("agent_id", agent["id"].clone(), &[]),
        ("name", json!("another"), &[]),
        ("description", json!("more"), &[]),
        ("task_type", json!("u"), &[]),
        ("input_data", json!({"i": 2}), &["inputs"]),
        ("inputs", json!({"j": 2}), &["input_data"]),
        ("output_data", json!({"o": [2]}), &["outputs"]),
        ("outputs", json!({"p": 2}), &["output_data"]),
        ("depends_on", json!([second["id"], first["id"]]), &[]),
        ("metadata", json!({"m": 2}), &[]),
        ("status", json!("skipped"), &[]),
    ];
    crud::changes_one_field_at_a_time(&server, TASKS, full, &bare, &changes).await;
    // Clients set any status, in any order.
    let path = format!("{TASKS}/{}", id(&first));
    for status in ["completed", "pending", "failed", "running", "blocked", "skipped", "running"] {
        let (_, now) = server.patch(&path, json!({"status": status})).await;
        assert_eq!(now["status"], status);
    }
    let (_, now) = server.patch(&path, json!({"status": "in_progress"})).await;
    assert_eq!(now["status"], "running");
    let (status, problem) = server.patch(&path, json!({"name": null, "description": null})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
}

async fn the_other_path_serves_the_same(engine: Engine) {
    let server = Server::start(engine).await;
    let task = made(&server, PLAN_TASKS, json!({"description": "d"})).await;
    for path in [
        format!("{TASKS}/{}", id(&task)),
        format!("{PLAN_TASKS}/{}", id(&task)),
        format!("{PLAN_TASKS}/{}/", id(&task)),
    ] {
        assert_eq!(server.get(&path).await, (StatusCode::OK, task.clone()), "{path}");
    }
    for path in [TASKS.to_owned(), PLAN_TASKS.to_owned(), format!("{PLAN_TASKS}/?limit=3")] {
        assert_eq!(server.get(&path).await.1["items"], json!([task]), "{path}");
    }
    let path = format!("{PLAN_TASKS}/{}", id(&task));
    assert_eq!(server.patch(&path, json!({"status": "running"})).await.1["status"], "running");
    assert_eq!(server.get("/api/v1/plans").await.1["items"], json!([]));
    assert_eq!(server.delete(&path).await, StatusCode::NO_CONTENT);
    assert_eq!(server.get(&format!("{TASKS}/{}", id(&task))).await.0, StatusCode::NOT_FOUND);
}

async fn entity_tags_guard(engine: Engine) {
    let server = Server::start(engine).await;
    let patch = json!({"status": "running"});
    crud::entity_tags_guard(&server, TASKS, json!({"description": "d"}), patch).await;
}

async fn lists_page_and_filter(engine: Engine) {
    let server = Server::start(engine).await;
    let agent = made(&server, "/api/v1/agents", json!({"name": "a"})).await;
    crud::lists_in_parts(&server, TASKS, |n| {
        json!({
            "description": format!("t{n}"),
            "plan_id": n / 4,
            "agent_id": if n < 3 { agent["id"].clone() } else { Value::Null },
            "status": if n % 2 == 0 { "running" } else { "failed" },
            "task_type": if n == 6 { "odd" } else { "even" },
        })
    })
    .await;
    let agent = id(&agent);
    crud::filters_select(
        &server,
        TASKS,
        &[
            ("plan_id=0".to_owned(), 4),
            ("plan_id=1&status=running".to_owned(), 2),
            (format!("plan_id=1&agent_id={agent}"), 0),
            (format!("agent_id={agent}&status=in_progress"), 2),
            ("status=failed".to_owned(), 3),
            ("task_type=odd".to_owned(), 1),
            ("plan_id=none".to_owned(), 0),
        ],
    )
    .await;
}

async fn a_key_makes_one_task(engine: Engine) {
    let server = Server::start(engine).await;
    let first = made(&server, TASKS, json!({"description": "first"})).await;
    let body = json!({"description": "d", "depends_on": [first["id"]]});
    crud::one_key_makes_one(&server, TASKS, body).await;
}

async fn what_is_wrong_is_said(engine: Engine) {
    let server = Server::start(engine).await;
    let first = made(&server, TASKS, json!({"description": "first"})).await;
    let twice = json!([first["id"], first["id"]]);
    crud::refuses(
        &server,
        TASKS,
        &[
            (json!({}), 422, "required"),
            (json!({"description": " \n"}), 422, "required"),
            (json!({"description": "d", "name": 7}), 422, "wrong_type"),
            (json!({"description": "d", "plan_id": 1.5}), 422, "wrong_type"),
            (json!({"description": "d", "status": "done"}), 422, "not_allowed"),
            (json!({"description": "d", "inputs": "x"}), 422, "wrong_type"),
            (json!({"description": "d", "depends_on": "x"}), 422, "wrong_type"),
            (json!({"description": "d", "depends_on": ["x"]}), 422, "not_an_id"),
            (json!({"description": "d", "depends_on": twice}), 422, "duplicate"),
            (json!({"description": "d", "depends_on": vec![NOTHING; 101]}), 422, "too_many"),
            (json!({"description": "d", "depends_on": [first["id"], NOTHING]}), 404, "not_found"),
            (json!({"description": "d", "agent_id": NOTHING}), 404, "not_found"),
        ],
    )
    .await;
    assert_eq!(server.get(TASKS).await.1["items"], json!([first]));
}

async fn dependencies_make_no_circle(engine: Engine) {
    let server = Server::start(engine).await;
    let mut tasks: Vec<Value> = Vec::new();
    for n in 0..4 {
        let needs: Vec<&str> = tasks.iter().map(id).collect();
        let body = json!({"description": n.to_string(), "depends_on": needs});
        tasks.push(made(&server, TASKS, body).await);
    }
    let path = |n: usize| format!("{TASKS}/{}", id(&tasks[n]));
    for (task, needs) in [(0, vec![0]), (0, vec![3]), (1, vec![0, 2]), (2, vec![0, 1, 2])] {
        let needs: Vec<&str> = needs.into_iter().map(|n| id(&tasks[n])).collect();
        let (status, problem) = server.patch(&path(task), json!({"depends_on": needs})).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("conflict")));
        assert_eq!(server.get(&path(task)).await.1, tasks[task]);
    }
    let (status, _) = server.patch(&path(3), json!({"depends_on": [NOTHING]})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // What others depend on stays until they do not.
    assert_eq!(server.delete(&path(2)).await, StatusCode::CONFLICT);
    let (status, now) = server.patch(&path(3), json!({"depends_on": [id(&tasks[0])]})).await;
    assert_eq!((status, &now["depends_on"]), (StatusCode::OK, &json!([id(&tasks[0])])));
    assert_eq!(server.delete(&path(2)).await, StatusCode::NO_CONTENT);
    // What was refused before is no circle any more.
    let (status, _) = server.patch(&path(3), json!({"depends_on": []})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = server.patch(&path(0), json!({"depends_on": [id(&tasks[3])]})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(server.delete(&path(3)).await, StatusCode::CONFLICT);
    assert_eq!(server.delete(&path(1)).await, StatusCode::NO_CONTENT);
    assert_eq!(server.delete(&path(0)).await, StatusCode::NO_CONTENT);
    assert_eq!(server.delete(&path(3)).await, StatusCode::NO_CONTENT);
}

async fn two_tasks_do_not_come_to_depend_on_one_another(engine: Engine) {
    let server = Server::start(engine).await;
    for round in 0..10 {
        let (a, b) = (
            made(&server, TASKS, json!({"description": format!("a{round}")})).await,
            made(&server, TASKS, json!({"description": format!("b{round}")})).await,
        );
        let needs = |task: &Value, needed: &Value| {
            let path = format!("{TASKS}/{}", id(task));
            let patch = json!({"depends_on": [needed["id"]]});
            let server = &server;
            async move { server.patch(&path, patch).await.0 }
        };
        let (one, other) = tokio::join!(needs(&a, &b), needs(&b, &a));
        let mut statuses = [one.as_u16(), other.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "round {round}");
    }
}
