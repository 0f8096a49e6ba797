//! `/api/v1/users`: what leads to a user, and users that are made because
//! someone named them.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::on_both_engines;
use crate::server::{Engine, Server, answer, wait_until};

on_both_engines! {
    every_field_is_stored_and_returned,
    a_user_is_found_by_whatever_leads_to_it,
    what_leads_to_one_user_leads_to_no_other,
    put_and_patch_merge_and_aliases_follow,
    lists_are_filtered,
    a_deleted_user_is_gone_and_its_names_are_free,
    a_named_user_is_made_once,
    a_run_says_who_its_user_is,
}

const USERS: &str = "/api/v1/users";

fn path(user: &Value) -> String {
    format!("{USERS}/{}", user["id"].as_str().unwrap())
}

async fn create(server: &Server, body: Value) -> Value {
    let (status, user) = server.post(USERS, body).await;
    assert_eq!(status, StatusCode::CREATED, "{user}");
    user
}

async fn every_field_is_stored_and_returned(engine: Engine) {
    let server = Server::start(engine).await;
    let sent = json!({
        "user_id": "crm-7",
        "email": "Ann@Example.org",
        "phone_number": "+49 (30) 123-456",
        "name": "Ann \u{1f9ee}",
        "user_data": {"plan": {"n": [1, null]}},
        "metadata": {"k": 1.50},
    });
    let request = server.request(Method::POST, "/api/v1/users/").json(&sent);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let created: Value = response.json().await.unwrap();
    for (field, value) in sent.as_object().unwrap() {
        assert_eq!(&created[field], value, "{field}");
    }
    assert_eq!(location, path(&created));
    for at in [location.clone(), format!("{location}/")] {
        assert_eq!(server.get(&at).await, (StatusCode::OK, created.clone()));
    }
    let bare = create(&server, json!({})).await;
    let empty = [&bare["user_id"], &bare["email"], &bare["phone_number"], &bare["name"]];
    assert_eq!(empty, [&Value::Null; 4]);
    assert_eq!((&bare["user_data"], &bare["metadata"]), (&json!({}), &json!({})));

    let once = || {
        let request = server.request(Method::POST, USERS).header("idempotency-key", "k");
        answer(request.json(&json!({"user_id": "once"})))
    };
    let (first, second) = (once().await, once().await);
    assert_eq!((first.0, &first), (StatusCode::CREATED, &second));
}

async fn a_user_is_found_by_whatever_leads_to_it(engine: Engine) {
    let server = Server::start(engine).await;
    let ann = json!({"user_id": 42, "email": "ann@example.org", "phone_number": "+49 30 12"});
    let ann = create(&server, ann).await;
    assert_eq!(ann["user_id"], "42");
    let upper = ann["id"].as_str().unwrap().to_uppercase();
    for name in
        ["42", "ann@example.org", "ANN%40Example.ORG", "+493012", "+49%20(30)%201-2", &upper]
    {
        let (status, found) = server.get(&format!("{USERS}/{name}/")).await;
        assert_eq!((status, &found), (StatusCode::OK, &ann), "{name}");
    }
    for name in
        ["43", "nobody", "ben@example.org", "493012", "01890a5d-ac96-774b-bcce-b302099a8057"]
    {
        let (status, problem) = server.get(&format!("{USERS}/{name}")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    }
    let request = server.request(Method::GET, &path(&ann)).header("if-none-match", "\"1\"");
    assert_eq!(answer(request).await.0, StatusCode::NOT_MODIFIED);
}

async fn what_leads_to_one_user_leads_to_no_other(engine: Engine) {
    let server = Server::start(engine).await;
    let ann = json!({"user_id": "ann", "email": "ann@example.org", "phone_number": "+4930"});
    let ann = create(&server, ann).await;
    for (taken, named) in [
        (json!({"user_id": "ann"}), "ann"),
        (json!({"email": "ANN@example.org", "user_id": "other"}), "ann@example.org"),
        (json!({"phone_number": "+49-30"}), "+4930"),
        (json!({"user_id": "ann@example.org"}), "ann@example.org"),
        (json!({"user_id": ann["id"]}), ann["id"].as_str().unwrap()),
    ] {
        let (status, problem) = server.post(USERS, taken.clone()).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::CONFLICT, &json!("already_exists")),
            "{taken}"
        );
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
    // Of a user that could not be made nothing is left.
    assert_eq!(server.get(&format!("{USERS}/other")).await.0, StatusCode::NOT_FOUND);
    let made = (0..20).map(|_| server.post(USERS, json!({"email": "race@example.org"})));
    let made: Vec<_> = futures::future::join_all(made).await;
    let created = made.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    let refused = made.iter().filter(|(status, _)| *status == StatusCode::CONFLICT).count();
    assert_eq!((created, refused), (1, 19));
    wait_until(|| async { server.get(USERS).await.1["total"] == json!(2) }).await;
}

async fn put_and_patch_merge_and_aliases_follow(engine: Engine) {
    let server = Server::start(engine).await;
    let ann = json!({"email": "ann@example.org", "name": "Ann", "user_data": {"a": 1, "b": 2}});
    let ann = create(&server, ann).await;
    let ben = create(&server, json!({"email": "ben@example.org"})).await;
    let change = |method: Method, user: &str, body: Value| {
        answer(server.request(method, &format!("{USERS}/{user}")).json(&body))
    };
    let patch = json!({"email": "new@example.org", "user_data": {"a": null}});
    let (status, changed) = change(Method::PATCH, "ann@example.org", patch).await;
    assert_eq!((status, &changed["name"]), (StatusCode::OK, &json!("Ann")), "{changed}");
    assert_eq!(changed["user_data"], json!({"b": 2}));
    let (status, changed) =
        change(Method::PUT, "new@example.org", json!({"phone_number": "+1 2"})).await;
    assert_eq!((status, &changed["email"]), (StatusCode::OK, &json!("new@example.org")));
    assert_eq!(server.get(&format!("{USERS}/+12")).await.1, changed);
    assert_eq!(server.get(&format!("{USERS}/ann@example.org")).await.0, StatusCode::NOT_FOUND);
    // The address that was given up is free for another one.
    let (status, _) =
        change(Method::PUT, ben["id"].as_str().unwrap(), json!({"email": "ann@example.org"})).await;
    assert_eq!(status, StatusCode::OK);
    for method in [Method::PUT, Method::PATCH] {
        let (status, problem) =
            change(method, "ann@example.org", json!({"email": "NEW@example.org"})).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("already_exists")));
        assert!(problem["detail"].as_str().unwrap().contains("new@example.org"), "{problem}");
    }
    let guarded = server.request(Method::PUT, &path(&ann)).header("if-match", "\"1\"");
    let (status, _) = answer(guarded.json(&json!({"name": "x"}))).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    let (status, problem) = change(Method::PATCH, "+12", json!({"email": 3, "name": ""})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");
}

async fn lists_are_filtered(engine: Engine) {
    let server = Server::start(engine).await;
    for n in 0..6 {
        let body = json!({
            "name": format!("n{}", n % 2), "email": format!("u{n}@example.org"),
            "phone_number": format!("+1-{n}"),
        });
        create(&server, body).await;
    }
    let named = async |query: &str| {
        let (status, page) = server.get(&format!("{USERS}?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let emails: Vec<String> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["email"].as_str().unwrap()[..2].to_owned())
            .collect();
        (emails.join(" "), page["total"].clone())
    };
    assert_eq!(named("name=n1&order=asc").await, ("u1 u3 u5".to_owned(), json!(3)));
    assert_eq!(named("email=U4@Example.org").await, ("u4".to_owned(), json!(1)));
    assert_eq!(named("phone=%2B1%203").await, ("u3".to_owned(), json!(1)));
    assert_eq!(named("phone_number=%2B13&name=n1").await, ("u3".to_owned(), json!(1)));
    assert_eq!(named("phone_number=%2B13&name=n0").await, (String::new(), json!(0)));
    wait_until(|| async { server.get(USERS).await.1["total"] == json!(6) }).await;
    assert_eq!(named("limit=2&order=asc").await.0, "u0 u1");
}

async fn a_deleted_user_is_gone_and_its_names_are_free(engine: Engine) {
    let server = Server::start(engine).await;
    let sent = json!({"user_id": "u", "email": "u@example.org", "phone_number": "+12"});
    let user = create(&server, sent.clone()).await;
    let guarded = server.request(Method::DELETE, &path(&user)).header("if-match", "\"7\"");
    assert_eq!(answer(guarded).await.0, StatusCode::PRECONDITION_FAILED);
    assert_eq!(server.delete(&format!("{USERS}/U@example.org/")).await, StatusCode::NO_CONTENT);
    for name in [user["id"].as_str().unwrap(), "u", "u@example.org", "+12"] {
        assert_eq!(server.get(&format!("{USERS}/{name}")).await.0, StatusCode::NOT_FOUND);
        assert_eq!(server.delete(&format!("{USERS}/{name}")).await, StatusCode::NOT_FOUND);
    }
    let again = create(&server, sent).await;
    assert_ne!(again["id"], user["id"]);
}

async fn a_named_user_is_made_once(engine: Engine) {
    let server = Server::start(engine).await;
    let made = (0..20).map(|n| {
        let body = json!({"user_id": 7, "session_name": format!("s{n}")});
        server.post("/api/v1/sessions", body)
    });
    for (status, session) in futures::future::join_all(made).await {
        assert_eq!((status, &session["user_id"]), (StatusCode::CREATED, &json!("7")), "{session}");
    }
    let (status, user) = server.get(&format!("{USERS}/7")).await;
    assert_eq!((status, &user["user_id"]), (StatusCode::OK, &json!("7")));
    wait_until(|| async { server.get(USERS).await.1["total"] == json!(1) }).await;
    // A run that names one makes it too, also in a session that is there.
    let (_, session) = server.post("/api/v1/sessions", json!({})).await;
    let runs = (0..10).map(|_| {
        let body = json!({"message": "hi", "user_id": "ben", "session_id": session["id"]});
        server.post("/api/v1/agent/simple/run", body)
    });
    for (status, run) in futures::future::join_all(runs).await {
        assert_eq!((status, &run["user_id"]), (StatusCode::OK, &json!("ben")), "{run}");
    }
    assert_eq!(server.delete(&format!("{USERS}/ben")).await, StatusCode::NO_CONTENT);
    // A name that is taken stays so, whoever makes the user.
    let body = json!({"user_id": "7", "session_name": "s0"});
    let (status, problem) = server.post("/api/v1/sessions", body).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("already_exists")));
    // Whatever leads to a user names it.
    let ann = create(&server, json!({"email": "ann@example.org"})).await;
    for name in [ann["id"].clone(), ann["email"].clone()] {
        let (status, _) = server.post("/api/v1/sessions", json!({"user_id": name})).await;
        assert_eq!(status, StatusCode::CREATED);
    }
    wait_until(|| async { server.get(USERS).await.1["total"] == json!(2) }).await;
}

async fn a_run_says_who_its_user_is(engine: Engine) {
    let server = Server::start(engine).await;
    let run = async |user_id: Value, user: Value| {
        let body = json!({"message": "hi", "user_id": user_id, "user": user});
        let (status, run) = server.post("/api/v1/agent/simple/run", body).await;
        assert_eq!((status, &run["success"]), (StatusCode::OK, &json!(true)), "{run}");
        let id = run["run_id"].as_str().unwrap();
        assert_eq!(server.get(&format!("/api/v1/runs/{id}")).await.1, run);
        run
    };
    let codes = |run: &Value| {
        let warnings = run["warnings"].as_array().unwrap();
        let code = |warning: &Value| {
            format!(
                "{} {}",
                warning["pointer"].as_str().unwrap(),
                warning["code"].as_str().unwrap()
            )
        };
        warnings.iter().map(code).collect::<Vec<_>>().join(", ")
    };
    let given =
        json!({"email": "Ann@example.org", "phone_number": "+1 2", "user_data": {"k": [1]}});
    let first = run(json!(7), given.clone()).await;
    assert_eq!((&first["user"], &first["user_id"]), (&given, &json!("7")));
    assert_eq!(codes(&first), "");
    let (_, ann) = server.get(&format!("{USERS}/7")).await;
    for field in ["email", "phone_number", "user_data"] {
        assert_eq!(ann[field], given[field], "{field}");
    }
    // Said again it is the same; what differs changes nothing, and is said.
    assert_eq!(codes(&run(json!("7"), given.clone()).await), "");
    let other = json!({"email": "new@example.org", "user_data": {"k": 2}});
    let again = run(json!("7"), other).await;
    assert_eq!(codes(&again), "/user/email known, /user/user_data known");
    assert_eq!(server.get(&format!("{USERS}/7")).await.1, ann);
    // What leads to another user is left out.
    let ben = run(json!("ben"), json!({"email": "ann@example.org", "phone_number": "+3"})).await;
    assert_eq!(codes(&ben), "/user/email taken");
    let (_, ben) = server.get(&format!("{USERS}/+3")).await;
    assert_eq!((&ben["user_id"], &ben["email"]), (&json!("ben"), &Value::Null));
    // Without an id the address says who it is.
    let known = run(Value::Null, json!({"email": "ANN@example.org"})).await;
    assert_eq!((&known["user_id"], codes(&known).as_str()), (&json!("7"), ""));
    let made = run(Value::Null, json!({"email": "new@example.org"})).await;
    let (_, new) = server.get(&format!("{USERS}/new@example.org")).await;
    assert_eq!(made["user_id"], new["id"]);
    assert_eq!(run(Value::Null, json!({"email": "new@example.org"})).await["user_id"], new["id"]);
    wait_until(|| async { server.get(USERS).await.1["total"] == json!(3) }).await;
    let body = json!({"message": "hi", "user_id": "7", "user": {"email": "none"}});
    let (status, problem) = server.post("/api/v1/agent/simple/run", body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["errors"][0]["pointer"], "/user/email");
}
