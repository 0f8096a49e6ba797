//! Bounds of what may wait, whose turn it is, and replies that serve several runs.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::runs_bed::Bed;
use crate::server::{Engine, answer, wait_until};

on_both_engines! {
    a_full_queue_of_an_organisation_says_so,
    a_full_queue_of_all_says_so,
    many_runs_of_one_user_do_not_hold_up_another,
    a_reply_is_used_again_where_the_agent_allows_it,
    equal_runs_at_once_share_a_reply,
}

async fn a_full_queue_of_an_organisation_says_so(engine: Engine) {
    is_bounded(engine, "AGENTRY_RUNS__ORG_QUEUE_RUNS_MAX", "org_queue_full").await;
}

async fn a_full_queue_of_all_says_so(engine: Engine) {
    is_bounded(engine, "AGENTRY_RUNS__QUEUE_RUNS_MAX", "queue_full").await;
}

async fn is_bounded(engine: Engine, setting: &str, code: &str) {
    let bed = Bed::with(engine, &[(setting, "2")]).await;
    bed.model.hold();
    let (busy, other) = (bed.session().await, bed.session().await);
    let mut waiting = Vec::new();
    for session in [&busy, &busy, &other, &other] {
        waiting.push(bed.send_into(session, json!({"message": "m"})).await);
    }
    let refuse = || async {
        let body = json!({"message": "m", "session_id": busy});
        let response = bed.request(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(response.headers().contains_key("retry-after"));
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], code);
        let bound = setting.trim_start_matches("AGENTRY_RUNS__").to_lowercase();
        assert!(problem["detail"].as_str().unwrap().contains(&bound), "{problem}");
    };
    refuse().await;
    // What is begun at once does not wait, and is taken.
    let idle = bed.session().await;
    let (_, begun) = bed.send_into(&idle, json!({"message": "m"})).await;
    // One that is cancelled makes room, and so does one that is begun.
    let second = waiting[1].0.clone();
    assert_eq!(bed.cancel(&second).await.1["status"], "cancelled");
    let (_, room) = bed.send_into(&busy, json!({"message": "m"})).await;
    refuse().await;
    bed.model.release();
    for waiting in waiting.into_iter().map(|(_, waiting)| waiting).chain([begun, room]) {
        assert_eq!(waiting.await.unwrap().0, StatusCode::OK);
    }
    bed.model.hold();
    for session in [&busy, &busy, &busy] {
        bed.send_into(session, json!({"message": "m", "on_disconnect": "continue"})).await;
    }
    refuse().await;
    bed.model.release();
}

/// Waiting runs of the first user, each in a session of its own.
const MANY: usize = 60;
/// Runs that the process carries out at once.
const EXECUTING: usize = 4;

async fn many_runs_of_one_user_do_not_hold_up_another(engine: Engine) {
    let executing = EXECUTING.to_string();
    let bed = Bed::with(engine, &[("AGENTRY_RUNS__EXECUTING_MAX", &executing)]).await;
    bed.model.hold();
    let send = async |user: &str, session: &str| {
        let body = json!({
            "message": "m", "user_id": user, "session_name": session, "background": true,
        });
        let (status, run) = answer(bed.request(&body)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{run}");
        run["id"].as_str().unwrap().to_owned()
    };
    let mut of_ann = Vec::new();
    for nth in 0..MANY {
        of_ann.push(send("ann", &format!("s{nth}")).await);
    }
    // One user alone gets half of the places, so that the next one finds some.
    bed.model.wait_held(EXECUTING / 2).await;
    let of_bob = send("bob", "only").await;
    bed.model.wait_held(EXECUTING / 2 + 1).await;
    assert_eq!(bed.run(&of_bob).await["status"], "running");
    // Others that find none are claimed in turn.
    let mut waiting = Vec::new();
    for user in ["cid", "dan", "eve", "fay"] {
        waiting.push(send(user, "only").await);
    }
    bed.model.release();
    let mut started = BTreeMap::new();
    for id in waiting.iter().chain(&of_ann) {
        bed.wait_status(id, "succeeded").await;
        started.insert(bed.run(id).await["started_at"].as_str().unwrap().to_owned(), id.clone());
    }
    let order: Vec<&String> = started.values().collect();
    let begun = order.iter().filter(|id| of_ann[..EXECUTING].contains(id)).count();
    for id in &waiting {
        let place = order.iter().position(|it| *it == id).unwrap();
        // Those that were under way, and one of hers for each of the others, with as
        // many as may be claimed in one go before they are seen.
        let bound = begun + 2 * waiting.len() + EXECUTING;
        assert!(place <= bound, "{id} began as number {place} of {}", order.len());
    }
}

async fn ask(bed: &Bed, message: &str, user: &str) -> Value {
    let body = json!({"message": message, "user_id": user});
    let (status, run) = answer(bed.request(&body)).await;
    assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
    run
}

const FORGETFUL: fn() -> Value = || json!({"recall": false, "remember": false});

async fn a_reply_is_used_again_where_the_agent_allows_it(engine: Engine) {
    let agent = json!({"memory": FORGETFUL(), "cache_ttl_s": 3_600});
    let bed = Bed::with_agent(engine, &[], agent).await;
    let first = ask(&bed, "How tall is it?", "ann").await;
    assert_eq!(first["cached_from"], Value::Null);
    let again = ask(&bed, "How tall is it?", "ann").await;
    assert_eq!((&again["cached_from"], &again["message"]), (&first["id"], &first["message"]));
    assert_ne!(again["id"], first["id"]);
    // A third one repeats the first too, and not the repetition.
    assert_eq!(ask(&bed, "How tall is it?", "ann").await["cached_from"], first["id"]);
    assert_eq!(ask(&bed, "How wide is it?", "ann").await["cached_from"], Value::Null);
    assert_eq!(ask(&bed, "How tall is it?", "bob").await["cached_from"], Value::Null);
    assert_eq!(bed.model.received().len(), 3);
    // Runs of nobody are equal within their session alone.
    for _ in 0..2 {
        let (_, run) = answer(bed.request(&json!({"message": "How tall is it?"}))).await;
        assert_eq!(run["cached_from"], Value::Null);
    }
    // A changed agent is another one; shared replies are anybody's.
    let path = format!("/api/v1/agents/{}", bed.agent);
    let (status, _) = bed.process.patch(&path, json!({"cache_shared": true})).await;
    assert_eq!(status, StatusCode::OK);
    let first = ask(&bed, "How tall is it?", "ann").await;
    assert_eq!(first["cached_from"], Value::Null);
    assert_eq!(ask(&bed, "How tall is it?", "bob").await["cached_from"], first["id"]);
    // The reply is said in the session like any other.
    let again = ask(&bed, "How tall is it?", "cid").await;
    let said = bed.said(again["session_id"].as_str().unwrap()).await;
    assert_eq!(said.len(), 2);
    let (status, _) = bed.process.patch(&path, json!({"cache_ttl_s": null})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ask(&bed, "How tall is it?", "ann").await["cached_from"], Value::Null);
}

async fn equal_runs_at_once_share_a_reply(engine: Engine) {
    // Whoever is late finds the reply in the store.
    let agent = json!({"memory": FORGETFUL(), "coalesce": true, "cache_ttl_s": 60});
    let bed = Bed::with_agent(engine, &[], agent).await;
    bed.model.hold();
    let send = |user: &str| {
        let body = json!({"message": "How tall is it?", "user_id": user});
        tokio::spawn(answer(bed.process.request(Method::POST, &bed.runs()).json(&body)))
    };
    let of_ann: Vec<_> = (0..5).map(|_| send("ann")).collect();
    let of_bob = send("bob");
    let list = "/api/v1/runs?status=running";
    wait_until(|| async { bed.process.get(list).await.1["items"].as_array().unwrap().len() == 6 })
        .await;
    bed.model.wait_held(2).await;
    bed.model.release();
    let mut asked = Vec::new();
    let mut shared = Vec::new();
    for run in of_ann {
        let (_, run) = run.await.unwrap();
        assert_eq!((&run["success"], &run["message"]), (&json!(true), &json!("How tall is it?")));
        match run["cached_from"].as_str() {
            None => asked.push(run["id"].as_str().unwrap().to_owned()),
            Some(from) => shared.push(from.to_owned()),
        }
    }
    let (_, run) = of_bob.await.unwrap();
    assert_eq!((&run["success"], &run["cached_from"]), (&json!(true), &Value::Null));
    assert_eq!(asked.len(), 1);
    assert_eq!(shared, vec![asked[0].clone(); 4]);
    assert_eq!(bed.model.received().len(), 2);
}
