//! What becomes of a run whose session is busy: each policy's order and outcome,
//! alone and under a crowd.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agentry_testkit::Behaviour;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::runs_bed::{Bed, Events, HALTING_BYTES, halting, said};
use crate::server::{Engine, answer};

on_both_engines! {
    a_busy_session_can_refuse,
    an_interrupting_run_is_next_and_partial_text_stays,
    a_rollback_leaves_no_ghosts,
    what_waits_for_a_place_can_be_interrupted_too,
    merged_inputs_are_one_run,
    a_crowd_keeps_its_order_in_every_session,
    a_crowd_that_refuses_loses_nothing_it_took,
    a_crowd_that_merges_says_each_thing_once,
    a_crowd_that_interrupts_leaves_whole_turns,
    a_crowd_that_rolls_back_leaves_whole_turns,
}

async fn a_busy_session_can_refuse(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let session = bed.session().await;
    let (first, one) = bed.send_into(&session, json!({"message": "m1"})).await;
    for stream in [false, true] {
        let body = json!({
            "message": "no", "session_id": session, "if_busy": "reject", "stream": stream,
        });
        let (status, problem) = answer(bed.request(&body)).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("session_busy")));
        assert!(problem["detail"].as_str().unwrap().contains(&first), "{problem}");
        let chat = json!({
            "model": bed.agent, "messages": [{"role": "user", "content": "no"}],
            "metadata": {"session_id": session}, "if_busy": "reject", "stream": stream,
        });
        let chat = bed.process.request(Method::POST, "/v1/chat/completions").json(&chat);
        let (status, problem) = answer(chat).await;
        assert_eq!(
            (status, &problem["error"]["code"]),
            (StatusCode::CONFLICT, &json!("session_busy"))
        );
        assert!(problem["error"]["message"].as_str().unwrap().contains(&first), "{problem}");
    }
    bed.model.release();
    assert_eq!(one.await.unwrap().1["success"], true);
    let body = json!({"message": "m2", "session_id": session, "if_busy": "reject"});
    let (status, run) = answer(bed.request(&body)).await;
    assert_eq!((status, &run["if_busy"]), (StatusCode::OK, &json!("reject")), "{run}");
    assert_eq!(bed.ids(&session).await.len(), 2);
}

async fn an_interrupting_run_is_next_and_partial_text_stays(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.next(halting());
    bed.model.hold();
    let session = bed.session().await;
    let body = json!({"message": "m1", "session_id": session, "stream": true});
    let mut events = Events::of(bed.request(&body)).await;
    let text = events.text(HALTING_BYTES).await;
    let (_, waiting) = bed.send_into(&session, json!({"message": "m2"})).await;
    let first = bed.ids(&session).await.remove(0);
    let body = json!({"message": "m3", "if_busy": "interrupt"});
    let (_, interrupting) = bed.send_into(&session, body).await;
    let (name, last) = events.last().await;
    assert_eq!((name.as_str(), &last["status"]), ("run.finished", &json!("interrupted")));
    let partial = last["message"].as_str().unwrap().to_owned();
    assert!(partial.starts_with(&text), "{partial}");
    assert_eq!(last["error"]["code"], "run_interrupted");
    bed.model.wait_abandoned(1).await;
    bed.model.release();
    for waiting in [interrupting, waiting] {
        assert_eq!(waiting.await.unwrap().1["success"], true);
    }
    assert_eq!(bed.run(&first).await["message"], partial);
    let expected = [
        ("user", "m1"),
        ("assistant", &partial),
        ("user", "m3"),
        ("assistant", "m3"),
        ("user", "m2"),
        ("assistant", "m2"),
    ];
    assert_eq!(bed.said(&session).await, said(&expected));
    let metadata = bed.messages(&session).await[1]["metadata"].clone();
    assert_eq!(metadata, json!({"partial": true, "run_status": "interrupted"}));
    // The interrupting run's model was shown what had been said.
    let shown = bed.model.received()[1].body["messages"].clone();
    assert!(shown.as_array().unwrap().iter().any(|it| it["content"] == partial), "{shown}");
}

async fn a_rollback_leaves_no_ghosts(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.next(halting());
    bed.model.hold();
    let secret = "The password of the vault is Zanzibar.";
    let (_, session) = bed.process.post("/api/v1/sessions", json!({"user_id": "ann"})).await;
    let session = session["id"].as_str().unwrap().to_owned();
    let body = json!({"message": secret, "session_id": session, "stream": true});
    let mut events = Events::of(bed.request(&body)).await;
    events.text(HALTING_BYTES).await;
    let first = bed.ids(&session).await.remove(0);
    let question = json!({"message": "What is the password of the vault?", "user_id": "ann"});
    let (_, run) = bed.process.post("/api/v1/agent/simple/run", question.clone()).await;
    assert!(run["message"].as_str().unwrap().contains("Zanzibar"), "it is known until then: {run}");
    let body = json!({"message": "m2", "if_busy": "rollback"});
    let (_, next) = bed.send_into(&session, body).await;
    let (name, last) = events.last().await;
    assert_eq!((name.as_str(), &last["status"]), ("run.finished", &json!("cancelled")));
    assert_eq!((&last["message"], &last["error"]["code"]), (&Value::Null, &json!("run_cancelled")));
    bed.model.release();
    assert_eq!(next.await.unwrap().1["success"], true);
    assert_eq!(bed.said(&session).await, said(&[("user", "m2"), ("assistant", "m2")]));
    let shown = bed.model.received()[1].body.to_string();
    assert!(!shown.contains("Zanzibar"), "{shown}");
    // Only the question, which another run asked, speaks of it.
    let recalled = bed.process.post("/api/v1/agent/simple/run", question).await.1;
    assert!(!recalled["message"].as_str().unwrap().contains("Zanzibar."), "{recalled}");
    assert_eq!(bed.run(&first).await["input"], secret, "the run tells what was asked");
    // The count of the session's messages agrees.
    let path = format!("/api/v1/sessions/{session}/messages");
    crate::server::wait_until(|| async { bed.process.get(&path).await.1["total"] == 2 }).await;
}

async fn what_waits_for_a_place_can_be_interrupted_too(engine: Engine) {
    let bed = Bed::with(engine, &[("AGENTRY_RUNS__EXECUTING_MAX", "1")]).await;
    bed.model.hold();
    let elsewhere = bed.session().await;
    let (_, held) = bed.send_into(&elsewhere, json!({"message": "holds the place"})).await;
    bed.model.wait_held(1).await;
    let session = bed.session().await;
    let (first, one) = bed.send_into(&session, json!({"message": "m1"})).await;
    let (_, two) = bed.send_into(&session, json!({"message": "m2"})).await;
    let (_, three) =
        bed.send_into(&session, json!({"message": "m3", "if_busy": "interrupt"})).await;
    let (_, four) = bed.send_into(&session, json!({"message": "m4", "if_busy": "interrupt"})).await;
    assert_eq!(bed.run(&first).await["status"], "queued", "nobody was at work on it");
    let (fifth, five) =
        bed.send_into(&session, json!({"message": "m5", "if_busy": "rollback"})).await;
    assert_eq!(four.await.unwrap().1["status"], "cancelled");
    assert_eq!(bed.run(&fifth).await["status"], "queued");
    bed.model.release();
    for waiting in [held, five, three, one, two] {
        assert_eq!(waiting.await.unwrap().1["success"], true);
    }
    let inputs: Vec<String> =
        bed.said(&session).await.into_iter().filter(|it| it.0 == "user").map(|it| it.1).collect();
    assert_eq!(inputs, ["m5", "m3", "m1", "m2"]);
}

async fn merged_inputs_are_one_run(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let session = bed.session().await;
    let (_, one) = bed.send_into(&session, json!({"message": "m1"})).await;
    let merge = |message: &str, metadata: Value| json!({"message": message, "if_busy": "merge", "metadata": metadata});
    // Nothing waits yet, so that it waits itself.
    let (second, two) = bed.send_into(&session, merge("m2", json!({"a": 1}))).await;
    let joined = |body: Value| {
        let mut body = body;
        body["session_id"] = json!(session);
        bed.send(&body)
    };
    let third = joined(merge("m3", json!({"b": 2})));
    crate::server::wait_until(|| async { bed.run(&second).await["merged"] == 1 }).await;
    let mut background = merge("m4", json!({}));
    background["background"] = json!(true);
    background["session_id"] = json!(session);
    let (status, run) = answer(bed.request(&background).header("idempotency-key", "m4")).await;
    assert_eq!((status, &run["id"]), (StatusCode::ACCEPTED, &json!(second)), "{run}");
    let (status, run) = answer(bed.request(&background).header("idempotency-key", "m4")).await;
    assert_eq!((status, &run["merged"]), (StatusCode::ACCEPTED, &json!(2)), "not twice: {run}");
    // One that asks for something else waits itself.
    let mut other = merge("m5", json!({}));
    other["system_prompt"] = json!("Be brief.");
    let (fifth, five) = bed.send_into(&session, other).await;
    assert_ne!(fifth, second);
    // The first client of a run that others joined may go.
    two.abort();
    let _ = two.await;
    let chat = json!({
        "model": bed.agent, "messages": [{"role": "user", "content": "m6"}],
        "metadata": {"session_id": session}, "if_busy": "merge",
    });
    let chat = bed.process.request(Method::POST, "/v1/chat/completions").json(&chat);
    let six = tokio::spawn(async move { chat.send().await.unwrap() });
    crate::server::wait_until(|| async { bed.run(&second).await["merged"] == 3 }).await;
    bed.model.release();
    assert_eq!(one.await.unwrap().1["success"], true);
    let input = "m2\n\nm3\n\nm4\n\nm6";
    let (status, run) = third.await.unwrap();
    assert_eq!(
        (status, &run["id"], &run["input"]),
        (StatusCode::OK, &json!(second), &json!(input))
    );
    assert_eq!((&run["metadata"]["a"], &run["metadata"]["b"]), (&json!(1), &json!(2)), "{run}");
    let six = six.await.unwrap();
    assert_eq!(six.headers()["x-run-id"], second.as_str());
    let six: Value = six.json().await.unwrap();
    assert_eq!(six["choices"][0]["message"]["content"], input);
    assert_eq!(five.await.unwrap().1["success"], true);
    let expected = [
        ("user", "m1"),
        ("assistant", "m1"),
        ("user", input),
        ("assistant", input),
        ("user", "m5"),
        ("assistant", "m5"),
    ];
    assert_eq!(bed.said(&session).await, said(&expected));
    assert_eq!(bed.model.received().len(), 3);
}

const SESSIONS: usize = 10;
const MESSAGES: usize = 20;
/// Requests under way at once, over all sessions.
const CONCURRENCY: usize = 100;

/// What came of a crowd: for each session what its clients were answered.
struct Crowd {
    bed: Bed,
    sessions: Vec<String>,
    answers: Vec<Vec<(StatusCode, Value)>>,
}

/// Sends so many messages into each of so many sessions, each client as soon as
/// one of a hundred places is free.
async fn crowd(engine: Engine, policy: &str) -> Crowd {
    let bed = Bed::new(engine).await;
    bed.model.by_default(Behaviour {
        write_delay: Duration::from_millis(1),
        ..Behaviour::text("Yes, of course.")
    });
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(bed.session().await);
    }
    let places = Arc::new(tokio::sync::Semaphore::new(CONCURRENCY));
    let mut requests = Vec::new();
    for nth in 0..MESSAGES {
        for session in &sessions {
            let body = json!({
                "message": format!("m{nth}"), "session_id": session, "if_busy": policy,
            });
            let (request, places) = (bed.request(&body), Arc::clone(&places));
            let place = places.acquire_owned().await.unwrap();
            requests.push(tokio::spawn(async move {
                let answered = answer(request).await;
                drop(place);
                answered
            }));
        }
    }
    let mut answers: Vec<Vec<(StatusCode, Value)>> = vec![Vec::new(); SESSIONS];
    for (nth, request) in requests.into_iter().enumerate() {
        answers[nth % SESSIONS].push(request.await.unwrap());
    }
    Crowd { bed, sessions, answers }
}

impl Crowd {
    /// Every answer of a session that is a run, in the order of acceptance.
    fn runs(&self, nth: usize) -> Vec<&Value> {
        let accepted = self.answers[nth].iter().filter(|(status, _)| *status == StatusCode::OK);
        let mut runs: Vec<&Value> = accepted.map(|(_, run)| run).collect();
        runs.sort_by_key(|run| run["id"].as_str().unwrap());
        runs
    }

    /// The inputs that stand in a session, in order, of whole turns: each with what
    /// followed it.
    async fn turns(&self, nth: usize) -> Vec<(String, Option<String>)> {
        let mut turns: Vec<(String, Option<String>)> = Vec::new();
        for (role, content) in self.bed.said(&self.sessions[nth]).await {
            match (role.as_str(), turns.last_mut()) {
                ("user", _) => turns.push((content, None)),
                (_, Some((_, reply @ None))) => *reply = Some(content),
                (_, turn) => panic!("{content} after {turn:?}"),
            }
        }
        turns
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn a_crowd_keeps_its_order_in_every_session(engine: Engine) {
    let crowd = crowd(engine, "enqueue").await;
    for nth in 0..SESSIONS {
        let runs = crowd.runs(nth);
        assert_eq!(runs.len(), MESSAGES, "no errors");
        assert!(runs.iter().all(|run| run["success"] == true));
        let accepted: Vec<&str> = runs.iter().map(|run| text(&run["input"])).collect();
        let turns = crowd.turns(nth).await;
        let inputs: Vec<&str> = turns.iter().map(|(input, _)| input.as_str()).collect();
        assert_eq!(inputs.iter().collect::<BTreeSet<_>>().len(), MESSAGES, "each once");
        assert!(turns.iter().all(|(_, reply)| reply.as_deref() == Some("Yes, of course.")));
        // Runs that were accepted at the same instant by several requests may have
        // got their place in the lane in another order than their ids; whoever was
        // accepted before another one was sent comes before it.
        let started: Vec<&str> = {
            let mut runs = runs.clone();
            runs.sort_by_key(|run| text(&run["started_at"]));
            runs.iter().map(|run| text(&run["input"])).collect()
        };
        assert_eq!(inputs, started, "the session tells what happened, in order");
        for run in &runs {
            let input = text(&run["input"]);
            let before = |it: &&&Value| text(&it["finished_at"]) < text(&run["created_at"]);
            let place = |input: &str| inputs.iter().position(|it| *it == input).unwrap();
            for earlier in runs.iter().filter(before) {
                assert!(place(text(&earlier["input"])) < place(input));
            }
        }
        assert_eq!(accepted.len(), inputs.len());
    }
}

async fn a_crowd_that_refuses_loses_nothing_it_took(engine: Engine) {
    let crowd = crowd(engine, "reject").await;
    for nth in 0..SESSIONS {
        let runs = crowd.runs(nth);
        let refused = crowd.answers[nth].iter().filter(|(status, problem)| {
            *status == StatusCode::CONFLICT && problem["code"] == "session_busy"
        });
        assert_eq!(runs.len() + refused.count(), MESSAGES, "each taken or refused");
        assert!(!runs.is_empty() && runs.iter().all(|run| run["success"] == true));
        let accepted: Vec<&str> = runs.iter().map(|run| text(&run["input"])).collect();
        let turns = crowd.turns(nth).await;
        let inputs: Vec<&str> = turns.iter().map(|(input, _)| input.as_str()).collect();
        assert_eq!(inputs, accepted, "none waited, so that ids are the order");
        assert!(turns.iter().all(|(_, reply)| reply.is_some()));
    }
}

async fn a_crowd_that_merges_says_each_thing_once(engine: Engine) {
    let crowd = crowd(engine, "merge").await;
    for nth in 0..SESSIONS {
        let runs = crowd.runs(nth);
        assert_eq!(runs.len(), MESSAGES, "no errors");
        assert!(runs.iter().all(|run| run["success"] == true));
        let turns = crowd.turns(nth).await;
        assert!(turns.iter().all(|(_, reply)| reply.is_some()));
        let inputs: Vec<&str> = turns.iter().flat_map(|(input, _)| input.split("\n\n")).collect();
        assert_eq!(inputs.len(), MESSAGES, "each once: {inputs:?}");
        assert_eq!(inputs.iter().collect::<BTreeSet<_>>().len(), MESSAGES);
        assert!(turns.len() < MESSAGES, "some were merged");
        for (sent, (_, run)) in crowd.answers[nth].iter().enumerate() {
            let sent = format!("m{sent}");
            assert!(text(&run["input"]).split("\n\n").any(|it| it == sent), "{sent} is in {run}");
        }
    }
}

async fn a_crowd_that_interrupts_leaves_whole_turns(engine: Engine) {
    let crowd = crowd(engine, "interrupt").await;
    for nth in 0..SESSIONS {
        let runs = crowd.runs(nth);
        assert_eq!(runs.len(), MESSAGES, "no errors");
        let turns = crowd.turns(nth).await;
        // Every run began, since an interruption ends only what is under way.
        assert_eq!(turns.len(), MESSAGES);
        for run in &runs {
            let status = text(&run["status"]);
            assert!(["succeeded", "interrupted"].contains(&status), "{run}");
            let (_, reply) = turns.iter().find(|(input, _)| input == text(&run["input"])).unwrap();
            assert_eq!(reply.as_deref(), run["message"].as_str(), "{run}");
        }
        assert!(runs.iter().any(|run| run["status"] == "succeeded"));
    }
}

async fn a_crowd_that_rolls_back_leaves_whole_turns(engine: Engine) {
    let crowd = crowd(engine, "rollback").await;
    for nth in 0..SESSIONS {
        let runs = crowd.runs(nth);
        assert_eq!(runs.len(), MESSAGES, "no errors");
        let turns = crowd.turns(nth).await;
        let kept: BTreeSet<&str> = turns.iter().map(|(input, _)| input.as_str()).collect();
        let succeeded: BTreeSet<&str> = runs
            .iter()
            .filter(|run| run["status"] == "succeeded")
            .map(|run| text(&run["input"]))
            .collect();
        assert_eq!((turns.len(), &kept), (succeeded.len(), &succeeded));
        assert!(turns.iter().all(|(_, reply)| reply.as_deref() == Some("Yes, of course.")));
        let rest = runs.iter().filter(|run| run["status"] != "succeeded");
        assert!(rest.clone().all(|run| run["status"] == "cancelled" && run["message"].is_null()));
    }
}
