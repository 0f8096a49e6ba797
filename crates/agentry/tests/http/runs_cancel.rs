//! Runs that end early: cancelled while they wait, while their model is asked and
//! while it speaks, by the same process and another, and because their client left.

use agentry_testkit::{Behaviour, WAIT_MAX};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::runs_bed::{Bed, Events, HALTING_BYTES, halting, said, start};
use crate::server::{Engine, answer, wait_until};

on_both_engines! {
    a_waiting_run_is_cancelled,
    a_run_is_cancelled_while_its_model_is_asked,
    a_run_is_cancelled_while_its_model_speaks,
    a_client_that_goes_away_cancels_its_run,
    a_client_that_stops_reading_cancels_its_run,
    a_run_goes_on_without_its_client_if_it_is_meant_to,
    a_run_is_waited_for,
    what_was_said_before_a_crash_is_kept_by_a_run_that_ends_then,
    what_was_said_before_a_crash_is_kept_by_a_run_whose_place_is_taken,
    a_revoked_key_ends_its_streams_and_what_waits_for_them,
}

async fn a_waiting_run_is_cancelled(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let session = bed.session().await;
    let (first, one) = bed.send_into(&session, json!({"message": "m1"})).await;
    let (second, two) = bed.send_into(&session, json!({"message": "m2"})).await;
    let (_, three) = bed.send_into(&session, json!({"message": "m3"})).await;
    let (status, run) = bed.cancel(&second).await;
    assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("cancelled")), "{run}");
    assert_eq!(run["error"]["code"], "run_cancelled");
    assert_eq!((&run["message"], &run["timings"]["run_ms"]), (&Value::Null, &Value::Null));
    let (status, run) = two.await.unwrap();
    assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("cancelled")), "{run}");
    assert_eq!(bed.cancel(&second).await.1["status"], "cancelled", "once more changes nothing");
    bed.model.release();
    for waiting in [one, three] {
        assert_eq!(waiting.await.unwrap().1["success"], true);
    }
    let expected = [("user", "m1"), ("assistant", "m1"), ("user", "m3"), ("assistant", "m3")];
    assert_eq!(bed.said(&session).await, said(&expected));
    let (status, run) = bed.cancel(&first).await;
    assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("succeeded")), "{run}");
    let missing = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(bed.cancel(missing).await.0, StatusCode::NOT_FOUND);
}

async fn a_run_is_cancelled_while_its_model_is_asked(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let session = bed.session().await;
    let (first, one) = bed.send_into(&session, json!({"message": "m1"})).await;
    let (_, two) = bed.send_into(&session, json!({"message": "m2"})).await;
    bed.model.wait_held(1).await;
    let (status, run) = bed.cancel(&first).await;
    assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("cancelled")), "{run}");
    assert_eq!((&run["message"], &run["stopping"]), (&Value::Null, &json!(false)));
    assert!(run["timings"]["run_ms"].is_number(), "{run}");
    // The provider's connection is closed, and the next one is asked for.
    bed.model.wait_abandoned(1).await;
    bed.model.wait_received(2).await;
    assert_eq!(one.await.unwrap().1["error"]["code"], "run_cancelled");
    bed.model.release();
    assert_eq!(two.await.unwrap().1["success"], true);
    let expected = [("user", "m1"), ("user", "m2"), ("assistant", "m2")];
    assert_eq!(bed.said(&session).await, said(&expected));
}

async fn a_run_is_cancelled_while_its_model_speaks(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.next(halting());
    bed.model.hold();
    let session = bed.session().await;
    let body = json!({"message": "m1", "session_id": session, "stream": true});
    let mut events = Events::of(bed.request(&body)).await;
    let text = events.text(HALTING_BYTES).await;
    let id = bed.ids(&session).await.remove(0);
    let (status, run) = bed.cancel(&id).await;
    assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("cancelled")), "{run}");
    bed.model.wait_abandoned(1).await;
    let partial = run["message"].as_str().unwrap();
    assert!(partial.starts_with(&text), "{partial} begins with {text}");
    let (name, last) = events.last().await;
    assert_eq!((name.as_str(), &last["status"]), ("run.finished", &json!("cancelled")));
    assert_eq!(last["message"], partial);
    let messages = bed.messages(&session).await;
    assert_eq!((messages.len(), &messages[1]["content"]), (2, &json!(partial)));
    assert_eq!(messages[1]["metadata"], json!({"partial": true, "run_status": "cancelled"}));
    bed.model.release();
    let (_, next) = bed.send_into(&session, json!({"message": "m2"})).await;
    assert_eq!(next.await.unwrap().1["success"], true);
}

async fn a_client_that_goes_away_cancels_its_run(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let session = bed.session().await;
    let (first, one) = bed.send_into(&session, json!({"message": "m1"})).await;
    let (second, two) = bed.send_into(&session, json!({"message": "m2"})).await;
    let (third, three) = bed.send_into(&session, json!({"message": "m3"})).await;
    bed.model.wait_held(1).await;
    // One that waits, then the one under way.
    two.abort();
    bed.wait_status(&second, "cancelled").await;
    one.abort();
    bed.wait_status(&first, "cancelled").await;
    bed.model.wait_abandoned(1).await;
    bed.model.release();
    assert_eq!(three.await.unwrap().1["success"], true);
    assert_eq!(bed.run(&third).await["on_disconnect"], "cancel");
    let detail = bed.run(&first).await["error"]["message"].clone();
    assert!(detail.as_str().unwrap().contains("went away"), "{detail}");
    let expected = [("user", "m1"), ("user", "m3"), ("assistant", "m3")];
    assert_eq!(bed.said(&session).await, said(&expected));
}

async fn a_client_that_stops_reading_cancels_its_run(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    for surface in ["rest", "openai"] {
        bed.model.next(halting());
        let session = bed.session().await;
        let request = if surface == "rest" {
            bed.request(&json!({"message": "m", "session_id": session, "stream": true}))
        } else {
            bed.process.request(Method::POST, "/v1/chat/completions").json(&json!({
                "model": bed.agent, "stream": true, "metadata": {"session_id": session},
                "messages": [{"role": "user", "content": "m"}],
            }))
        };
        let mut events = Events::of(request).await;
        if surface == "rest" {
            events.text(HALTING_BYTES).await;
        } else {
            events.next().await.unwrap();
        }
        let id = bed.ids(&session).await.remove(0);
        drop(events);
        bed.wait_status(&id, "cancelled").await;
        if surface == "rest" {
            let run = bed.run(&id).await;
            assert!(run["message"].as_str().unwrap().len() >= HALTING_BYTES, "{run}");
        }
    }
    // Nobody reads a stream that was never begun.
    let body = json!({"model": bed.agent, "messages": [{"role": "user", "content": "m"}]});
    let request = bed.process.request(Method::POST, "/v1/chat/completions").json(&body);
    let before = bed.model.received().len();
    let waiting = tokio::spawn(answer(request));
    bed.model.wait_received(before + 1).await;
    waiting.abort();
    let list = "/api/v1/runs?status=cancelled";
    wait_until(|| async { bed.process.get(list).await.1["items"].as_array().unwrap().len() == 3 })
        .await;
}

async fn a_run_goes_on_without_its_client_if_it_is_meant_to(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let mut ids = Vec::new();
    for (body, key) in [
        (json!({"message": "asked for", "on_disconnect": "continue"}), None),
        (json!({"message": "keyed"}), Some("k1")),
    ] {
        let session = bed.session().await;
        let mut body = body;
        body["session_id"] = json!(session);
        let mut request = bed.request(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let waiting = tokio::spawn(answer(request));
        wait_until(|| async { bed.ids(&session).await.len() == 1 }).await;
        bed.model.wait_held(ids.len() + 1).await;
        waiting.abort();
        let _ = waiting.await;
        ids.push(bed.ids(&session).await.remove(0));
    }
    let (status, run) =
        answer(bed.request(&json!({"message": "unattended", "background": true}))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{run}");
    ids.push(run["id"].as_str().unwrap().to_owned());
    bed.model.wait_held(3).await;
    // A run whose client is heard to have gone is cancelled; by then these would be too.
    let session = bed.session().await;
    let (gone, waiting) = bed.send_into(&session, json!({"message": "attended"})).await;
    waiting.abort();
    bed.wait_status(&gone, "cancelled").await;
    bed.model.release();
    for id in &ids {
        bed.wait_status(id, "succeeded").await;
        assert_eq!(bed.run(id).await["on_disconnect"], "continue");
    }
    let fault = json!({"message": "x", "background": true, "on_disconnect": "cancel"});
    let (status, problem) = answer(bed.request(&fault)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["pointer"], "/on_disconnect");
}

async fn a_run_is_waited_for(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let response = bed
        .request(&json!({"message": "hello", "background": true, "metadata": {"k": 1}}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let run: Value = response.json().await.unwrap();
    assert_eq!(location, format!("/api/v1/runs/{}", run["id"].as_str().unwrap()));
    assert_eq!((&run["background"], &run["metadata"]), (&json!(true), &json!({"k": 1})));
    assert!(["queued", "running"].contains(&run["status"].as_str().unwrap()), "{run}");
    let (status, run) = bed.process.get(&format!("{location}/wait?timeout_ms=0")).await;
    assert_eq!((status, &run["success"]), (StatusCode::ACCEPTED, &json!(false)), "{run}");
    // On PostgreSQL, also one that another process carries out.
    let other = match engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(start(&bed.home, &bed.model, &[])),
    };
    let waits: Vec<_> = [Some(&bed.process), other.as_ref()]
        .into_iter()
        .flatten()
        .map(|process| {
            tokio::spawn(answer(process.request(Method::GET, &format!("{location}/wait"))))
        })
        .collect();
    bed.model.release();
    for wait in waits {
        let (status, run) = wait.await.unwrap();
        assert_eq!((status, &run["message"]), (StatusCode::OK, &json!("hello")), "{run}");
    }
    let (status, run) = bed.process.get(&format!("{location}/wait?timeout_ms=0")).await;
    assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("succeeded")));
    let (status, _) = bed.process.get(&format!("{location}/wait?timeout_ms=300001")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

/// Two processes on one database: what one carries out the other cancels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_cancels_a_run() {
    let bed = Bed::new(Engine::Postgres).await;
    let other = start(&bed.home, &bed.model, &[]);
    bed.model.by_default(Behaviour::silence());
    let session = bed.session().await;
    let (first, one) = bed.send_into(&session, json!({"message": "m1"})).await;
    let (second, two) = bed.send_into(&session, json!({"message": "m2"})).await;
    bed.model.wait_received(1).await;
    for (id, waiting) in [(second, two), (first, one)] {
        let cancel = format!("/api/v1/runs/{id}/cancel");
        let (status, run) = answer(other.request(Method::POST, &cancel)).await;
        assert_eq!((status, &run["status"]), (StatusCode::OK, &json!("cancelled")), "{run}");
        assert_eq!(waiting.await.unwrap().1["status"], "cancelled");
    }
    bed.model.wait_abandoned(1).await;
}

/// How long another process waits for the jobs of one that was killed.
const LEASE: (&str, &str) = ("AGENTRY_RUNS__LEASE_MS", "1000");

/// A run whose model says something and then waits, when that is stored of so many:
/// its session, the run, what it said.
async fn speaking(bed: &Bed, runs: i64) -> (String, String, String) {
    bed.model.next(halting());
    let session = bed.session().await;
    let body = json!({"message": "m1", "session_id": session, "stream": true,
        "on_disconnect": "continue"});
    let mut events = Events::of(bed.request(&body)).await;
    let text = events.text(HALTING_BYTES).await;
    let stored = format!(
        "select count(*) from (select run from run_chunk group by run \
         having sum(length(text)) >= {}) as said",
        text.len()
    );
    wait_until(|| async { bed.home.number(&stored).await == runs }).await;
    let id = bed.ids(&session).await.remove(0);
    (session, id, text)
}

/// Kills the server, and starts another one after this happened.
async fn killed(bed: Bed, meanwhile: &str, settings: &[(&str, &str)]) -> Bed {
    let Bed { model, process, home, agent } = bed;
    process.kill();
    home.execute(meanwhile).await;
    let process = start(&home, &model, settings);
    Bed { model, process, home, agent }
}

async fn what_was_said_before_a_crash_is_kept_by_a_run_that_ends_then(engine: Engine) {
    // Asked to end by a write after which the process died; begun too often.
    for (meanwhile, status, code) in [
        ("update run set stop = 2", "cancelled", "run_cancelled"),
        ("update job set attempts = 5", "interrupted", "run_interrupted"),
    ] {
        let bed = Bed::with(engine, &[LEASE]).await;
        bed.model.hold();
        let (session, id, text) = speaking(&bed, 1).await;
        let bed = killed(bed, meanwhile, &[LEASE]).await;
        bed.wait_status(&id, status).await;
        let run = bed.run(&id).await;
        let partial = run["message"].as_str().unwrap();
        assert!(partial.starts_with(&text), "{partial:?} begins with {text:?}");
        assert_eq!((&run["error"]["code"], &run["attempt"]), (&json!(code), &json!(1)), "{run}");
        let messages = bed.messages(&session).await;
        assert_eq!((messages.len(), &messages[1]["content"]), (2, &json!(partial)));
        let metadata = json!({"partial": true, "run_status": status});
        assert_eq!(messages[1]["metadata"], metadata);
        assert_eq!(bed.home.count("run_chunk").await, 0);
        // Who had all of it and comes back hears of nothing but the end.
        let path = format!("/api/v1/runs/{id}/events?after=1-{}", partial.len());
        let mut events = Events::of(bed.process.request(Method::GET, &path)).await;
        let mut names = Vec::new();
        while let Some((name, _)) = events.next().await {
            names.push(name);
        }
        assert_eq!(names, ["message.completed", "run.finished"]);
        // The session goes on.
        bed.model.release();
        let (_, next) = bed.send_into(&session, json!({"message": "m2"})).await;
        assert_eq!(next.await.unwrap().1["success"], true);
    }
}

async fn what_was_said_before_a_crash_is_kept_by_a_run_whose_place_is_taken(engine: Engine) {
    let bed = Bed::with(engine, &[LEASE]).await;
    bed.model.hold();
    let mut runs = Vec::new();
    for nth in 1..=2 {
        runs.push(speaking(&bed, nth).await);
    }
    // One of them has the only place then, and the other one waits for it.
    let settings = [LEASE, ("AGENTRY_RUNS__EXECUTING_MAX", "1")];
    let bed = killed(bed, "update job set attempts = attempts", &settings).await;
    let attempts = async || {
        let mut attempts = Vec::new();
        for (_, id, _) in &runs {
            attempts.push(bed.run(id).await["attempt"].as_i64().unwrap());
        }
        attempts
    };
    wait_until(|| async { attempts().await.contains(&2) }).await;
    let waits = attempts().await.iter().position(|attempt| *attempt == 1).unwrap();
    let (session, id, text) = &runs[waits];
    let body = json!({"message": "m2", "if_busy": "interrupt"});
    let (_, next) = bed.send_into(session, body).await;
    bed.wait_status(id, "interrupted").await;
    let run = bed.run(id).await;
    let partial = run["message"].as_str().unwrap();
    assert!(partial.starts_with(text), "{partial:?} begins with {text:?}");
    bed.model.release();
    assert_eq!(next.await.unwrap().1["success"], true);
    let expected = [("user", "m1"), ("assistant", partial), ("user", "m2"), ("assistant", "m2")];
    assert_eq!(bed.said(session).await, said(&expected));
    let messages = bed.messages(session).await;
    assert_eq!(messages[1]["metadata"], json!({"partial": true, "run_status": "interrupted"}));
    bed.wait_status(&runs[1 - waits].1, "succeeded").await;
    assert_eq!(bed.home.count("run_chunk").await, 0);
}

async fn a_revoked_key_ends_its_streams_and_what_waits_for_them(engine: Engine) {
    let bed = Bed::new(engine).await;
    bed.model.hold();
    let make = json!({"name": "leaves", "role": "member"});
    let (_, key) = bed.process.post("/api/v1/keys", make).await;
    let by = |path: &str, body: Value| {
        bed.process.request_by(key["secret"].as_str().unwrap(), Method::POST, path).json(&body)
    };
    let sessions = [bed.session().await, bed.session().await, bed.session().await];
    let [waited_for, goes_on, of_openai] = &sessions;
    let run = |session: &str| json!({"message": "m", "session_id": session, "stream": true});
    let mut unattended = run(goes_on);
    unattended["on_disconnect"] = json!("continue");
    let chat = json!({"model": bed.agent, "stream": true, "metadata": {"session_id": of_openai},
        "messages": [{"role": "user", "content": "m"}]});
    let mut streams = Vec::new();
    for (path, body) in [
        (bed.runs(), run(waited_for)),
        (bed.runs(), unattended),
        ("/v1/chat/completions".to_owned(), chat),
    ] {
        bed.model.next(halting());
        let mut events = Events::of(by(&path, body)).await;
        events.next().await.unwrap();
        streams.push(events);
    }
    let path = format!("/api/v1/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(bed.process.delete(&path).await, StatusCode::NO_CONTENT);
    for mut stream in streams {
        let (_, last) = tokio::time::timeout(WAIT_MAX, stream.last()).await.unwrap();
        let code = last["code"].as_str().or(last["error"]["code"].as_str());
        assert_eq!(code, Some("unauthenticated"), "{last}");
    }
    // As if the clients had gone away.
    for session in [waited_for, of_openai] {
        let id = bed.ids(session).await.remove(0);
        bed.wait_status(&id, "cancelled").await;
        let detail = bed.run(&id).await["error"]["message"].clone();
        assert!(detail.as_str().unwrap().contains("went away"), "{detail}");
    }
    bed.model.release();
    let id = bed.ids(goes_on).await.remove(0);
    bed.wait_status(&id, "succeeded").await;
}
