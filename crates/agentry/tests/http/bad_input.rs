//! Whatever is wrong with a request, the answer is a documented one: never a
//! failure of the server, a panic or a hang. What is sent is made from
//! `/openapi.json`, so that a new operation is covered as soon as it is there.

use std::collections::BTreeSet;
use std::time::Duration;

use agentry_domain::Code;
use futures::StreamExt as _;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::on_both_engines;
use crate::server::{Engine, Server, answer};
use crate::webhooks::SEALING_KEY;

on_both_engines! {
    whatever_is_wrong_is_said_by_a_documented_code,
    what_another_organisation_has_is_not_there,
}

/// Requests under way at once.
const AT_ONCE: usize = 4;
/// An answer that takes longer is a hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How deep the deepest body is nested.
const DEPTH: usize = 100_000;
/// An id of nothing.
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// What stands in the path in place of a name or an id, written as it is sent.
const PATH_TRICKS: [&str; 16] = [
    NOBODY,
    "..",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5cboot.ini",
    "%00",
    "a%00b",
    "%ff%fe",
    "%",
    "%zz",
    "%F0%9F%92%A9",
    "'%20or%20'1'='1",
    "-1",
    "99999999999999999999999999",
    "null",
    ";x=1",
    "%20",
];
const QUERY_TRICKS: [&str; 10] =
    ["", "%00", "%ff", "-1", "0", "99999999999999999999999", "1e999", "null", "%F0%9F%92%A9", "[]"];
const HEADER_TRICKS: [&[u8]; 6] =
    [b"", b"\xff\xfe", b"\"", b"W/\"99999999999999999999\"", b",,,", b"0"];

/// One operation of the document.
#[derive(Clone)]
struct Operation {
    method: &'static str,
    path: String,
    about: Value,
}

/// A request, and whether it must be refused or may also succeed.
struct Case {
    what: String,
    target: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    must_refuse: bool,
}

struct Document(Value);

impl Document {
    fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for method in METHODS {
                if item[method].is_object() {
                    let (path, about) = (path.clone(), item[method].clone());
                    operations.push(Operation { method, path, about });
                }
            }
        }
        operations
    }

    /// A schema without a reference at its top.
    fn resolved<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        while let Some(reference) = schema["$ref"].as_str() {
            schema = self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        }
        if let Some(first) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            let real = first.iter().find(|schema| schema["type"] != "null");
            return real.map_or(schema, |schema| self.resolved(schema));
        }
        schema
    }

    /// The schema of an operation's body.
    fn body<'a>(&'a self, operation: &'a Operation) -> Option<&'a Value> {
        let schema = operation.about.pointer("/requestBody/content/application~1json/schema")?;
        Some(self.resolved(schema))
    }

    /// A body that an operation takes.
    fn good(&self, operation: &Operation) -> Option<Value> {
        let schema = self.body(operation)?;
        let mut body = self.sample(schema);
        for name in NEEDED {
            if types(&schema["properties"][name]).contains(&"string".to_owned()) {
                body[name] = json!("x");
            }
        }
        Some(body)
    }

    /// A value that a schema takes, as small as can be.
    fn sample(&self, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        for given in ["example", "default"] {
            if !schema[given].is_null() {
                return schema[given].clone();
            }
        }
        if let Some(first) = schema["examples"].get(0).or(schema["enum"].get(0)) {
            return first.clone();
        }
        match types(schema).first().map_or("object", String::as_str) {
            "string" if schema["format"] == "uuid" => json!(NOBODY),
            "string" => json!("x"),
            "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1)),
            "boolean" => json!(false),
            "array" => json!([self.sample(&schema["items"])]),
            "null" => Value::Null,
            _ => self.sample_object(schema),
        }
    }

    fn sample_object(&self, schema: &Value) -> Value {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let fields = required.iter().map(|name| {
            let name = name.as_str().unwrap();
            (name.to_owned(), self.sample(&schema["properties"][name]))
        });
        Value::Object(fields.collect())
    }
}

/// Of two names of a field neither is required by the document, and one is there.
const NEEDED: [&str; 3] = ["description", "message", "name"];

/// The types that a schema names.
fn types(schema: &Value) -> Vec<String> {
    match &schema["type"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(several) => {
            several.iter().map(|one| one.as_str().unwrap().to_owned()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a value breaks what a schema says of its type and its bounds.
fn breaks(schema: &Value, value: &Value) -> bool {
    let types = types(schema);
    let has = |name: &str| types.is_empty() || types.iter().any(|kind| kind == name);
    match value {
        // Whoever sends null may mean that nothing is given.
        Value::Null => false,
        Value::Bool(_) => !has("boolean"),
        Value::Number(number) if number.is_f64() && number.as_f64().unwrap().fract() != 0.0 => {
            !has("number")
        }
        Value::Number(number) => {
            let above =
                schema["maximum"].as_f64().is_some_and(|most| number.as_f64().unwrap() > most);
            let below =
                schema["minimum"].as_f64().is_some_and(|least| number.as_f64().unwrap() < least);
            // An id of the caller's may be a number.
            (!has("number") && !has("integer")) || (!has("string") && (above || below))
        }
        Value::String(text) => {
            let long =
                schema["maxLength"].as_u64().is_some_and(|most| text.chars().count() as u64 > most);
            let other = schema["enum"].as_array().is_some_and(|all| !all.contains(value));
            !has("string") || long || other
        }
        Value::Array(_) => !has("array"),
        Value::Object(_) => !has("object"),
    }
}

/// Puts values into a path's parameters.
fn filled(path: &str, values: &[(String, String)]) -> String {
    values
        .iter()
        .fold(path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
}

fn parameters(operation: &Operation, place: &str) -> Vec<String> {
    let all = operation.about["parameters"].as_array().cloned().unwrap_or_default();
    let of_place = all.iter().filter(|parameter| parameter["in"] == place);
    of_place.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

/// What makes each parameter of a path mean something that is there: the newest
/// thing of the list before it, or the first agent.
async fn known(server: &Server, operation: &Operation) -> Vec<(String, String)> {
    let mut values = Vec::new();
    for name in parameters(operation, "path") {
        let before = operation.path.split(&format!("/{{{name}}}")).next().unwrap();
        let (_, page) = server.get(before).await;
        let id = page["items"][0]["id"].as_str().or(page["items"][0]["run_id"].as_str());
        values.push((name, id.unwrap_or("simple").to_owned()));
    }
    values
}

const JSON: (&str, &[u8]) = ("content-type", b"application/json");

fn with_body(
    what: impl Into<String>,
    target: &str,
    body: impl Into<Vec<u8>>,
    must_refuse: bool,
) -> Case {
    Case {
        what: what.into(),
        target: target.to_owned(),
        headers: vec![(JSON.0, JSON.1.to_vec())],
        body: body.into(),
        must_refuse,
    }
}

/// Everything that is sent to one operation.
fn cases(document: &Document, operation: &Operation, values: &[(String, String)]) -> Vec<Case> {
    let target = filled(&operation.path, values);
    let body = document.body(operation);
    let good = body.map(|schema| document.sample(schema).to_string()).unwrap_or_default();
    let json = || vec![(JSON.0, JSON.1.to_vec())];
    let mut cases = Vec::new();
    for (name, _) in values {
        for trick in PATH_TRICKS.iter().map(|trick| (*trick).to_owned()).chain(["x".repeat(4_000)])
        {
            let mut values = values.to_vec();
            values.iter_mut().find(|(one, _)| one == name).unwrap().1.clone_from(&trick);
            let target = filled(&operation.path, &values);
            let what = format!("{trick:.40} as {name}");
            cases.push(Case {
                what,
                target,
                headers: json(),
                body: good.clone().into(),
                must_refuse: false,
            });
        }
    }
    // What deletes would leave nothing to be wrong about.
    if operation.method == "delete" {
        return cases;
    }
    for name in parameters(operation, "query") {
        for trick in QUERY_TRICKS.iter().map(|trick| (*trick).to_owned()).chain(["x".repeat(4_000)])
        {
            let what = format!("{trick:.40} as {name}");
            let target = format!("{target}?{name}={trick}&{name}={trick}");
            cases.push(Case {
                what,
                target,
                headers: json(),
                body: good.clone().into(),
                must_refuse: false,
            });
        }
    }
    for name in parameters(operation, "header") {
        for trick in HEADER_TRICKS {
            let name: &'static str = name.clone().leak();
            let what = format!("{trick:?} as {name}");
            let headers = vec![(JSON.0, JSON.1.to_vec()), (name, trick.to_vec())];
            let target = target.clone();
            cases.push(Case {
                what,
                target,
                headers,
                body: good.clone().into(),
                must_refuse: false,
            });
        }
    }
    if let Some(schema) = body {
        cases.extend(of_body(&target, &good));
        cases.extend(of_fields(document, schema, &target));
    }
    cases
}

/// Bodies that are wrong as such.
fn of_body(target: &str, good: &str) -> Vec<Case> {
    let nested = |open: &str, close: &str, depth: usize| {
        format!(r#"{{"x":{}{}}}"#, open.repeat(depth), close.repeat(depth))
    };
    let keys = |count: usize| {
        let each: Vec<String> = (0..count).map(|n| format!(r#""k{n}":0"#)).collect();
        format!("{{{}}}", each.join(","))
    };
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("half an object", b"{".to_vec()),
        ("two values", b"{} {}".to_vec()),
        ("a word", b"nonsense".to_vec()),
        ("single quotes", b"{'a':1}".to_vec()),
        ("a comma too many", br#"{"a":1,}"#.to_vec()),
        ("NaN", br#"{"a":NaN}"#.to_vec()),
        ("a number out of range", br#"{"a":1e999}"#.to_vec()),
        ("a lone surrogate", br#"{"a":"\ud800"}"#.to_vec()),
        ("a lone surrogate in a key", br#"{"\udfff":1}"#.to_vec()),
        ("U+0000", br#"{"a":"\u0000"}"#.to_vec()),
        ("U+0000 in a key", br#"{"\u0000":1}"#.to_vec()),
        ("no UTF-8", b"{\"a\":\"\xff\xc0\x80\"}".to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("a control character", b"{\"a\":\"\x01\"}".to_vec()),
        ("an array", b"[]".to_vec()),
        ("a string", b"\"text\"".to_vec()),
        ("null", b"null".to_vec()),
        ("deep arrays", nested("[", "]", 200).into()),
        ("deeper arrays", nested("[", "]", DEPTH).into()),
        ("deeper objects", nested(r#"{"a":"#, "1}", 200).into()),
        ("arrays without an end", format!(r#"{{"x":{}"#, "[".repeat(DEPTH)).into()),
        ("a million keys", keys(1_000_000).into()),
    ];
    let mut cases: Vec<Case> =
        wrong.into_iter().map(|(what, body)| with_body(what, target, body, true)).collect();
    cases.push(with_body("fifty thousand keys", target, keys(50_000), false));
    for media_type in
        ["", "text/plain", "application/xml", "multipart/form-data; boundary=x", "\u{1f4a9}"]
    {
        let mut case = with_body(format!("as {media_type}"), target, good, true);
        case.headers = vec![("content-type", media_type.into())];
        cases.push(case);
    }
    let mut untyped = with_body("as nothing", target, good, true);
    untyped.headers.clear();
    cases.push(untyped);
    cases
}

/// Bodies of which one field is wrong.
fn of_fields(document: &Document, schema: &Value, target: &str) -> Vec<Case> {
    let good = document.sample_object(schema);
    let mut cases = Vec::new();
    let Some(fields) = schema["properties"].as_object() else { return cases };
    for (name, field) in fields {
        let field = document.resolved(field);
        let too_long = field["maxLength"].as_u64().and_then(|most| usize::try_from(most + 1).ok());
        let values = [
            json!(true),
            json!(-1),
            json!(0.5),
            json!(u64::MAX),
            json!(1e300),
            json!(""),
            json!("x".repeat(too_long.unwrap_or(100_000))),
            json!("\u{202e}\u{1f4a9}\u{ffff}"),
            json!([]),
            json!([[[]]]),
            json!([null, 1, "x", {}]),
            json!({}),
            json!({"": {"": [{}]}}),
            Value::Null,
        ];
        for value in values {
            let wrong = breaks(field, &value);
            let mut body = good.as_object().cloned().unwrap_or_default();
            let what = format!("{name} = {:.60}", value.to_string());
            body.insert(name.clone(), value);
            cases.push(with_body(what, target, Value::Object(body).to_string(), wrong));
        }
        let missing: Map<String, Value> =
            good.as_object().unwrap().clone().into_iter().filter(|(key, _)| key != name).collect();
        cases.push(with_body(
            format!("no {name}"),
            target,
            Value::Object(missing).to_string(),
            false,
        ));
        let digits = "9".repeat(400);
        let body = format!(r#"{{"{name}":{digits}}}"#);
        cases.push(with_body(format!("{name} of 400 digits"), target, body, false));
    }
    cases
}

/// An answer: its status, and its body unless that may go on for ever.
struct Heard {
    status: u16,
    body: Vec<u8>,
}

/// Sends a request byte by byte as it is, past all that a client would mend.
async fn send(server: &Server, method: &str, case: &Case) -> Result<Heard, String> {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {}\r\nconnection: close\r\n",
        method.to_uppercase(),
        case.target,
        server.key,
    )
    .into_bytes();
    for (name, value) in &case.headers {
        head.extend_from_slice(format!("{name}: ").as_bytes());
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(format!("content-length: {}\r\n\r\n", case.body.len()).as_bytes());
    let (mut from, mut to) = stream.split();
    // A body that is refused early is not read to its end.
    let sending = async {
        let _ = to.write_all(&head).await;
        let _ = to.write_all(&case.body).await;
    };
    let hearing = async {
        let mut heard = Vec::new();
        let mut piece = [0; 8_192];
        loop {
            match from.read(&mut piece).await {
                Ok(0) | Err(_) => return heard,
                Ok(read) => heard.extend_from_slice(&piece[..read]),
            }
            let begun = heard.windows(4).any(|end| end == b"\r\n\r\n");
            if begun && !heard.starts_with(b"HTTP/1.1 4") && !heard.starts_with(b"HTTP/1.1 5") {
                return heard;
            }
        }
    };
    let both = async {
        let mut hearing = std::pin::pin!(hearing);
        tokio::select! {
            heard = &mut hearing => heard,
            () = sending => hearing.await,
        }
    };
    let heard = tokio::time::timeout(ANSWER_WITHIN, both).await.map_err(|_| "a hang".to_owned())?;
    let text = String::from_utf8_lossy(&heard);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("no answer: {text:.100}"))?;
    let body =
        heard.windows(4).position(|end| end == b"\r\n\r\n").map(|end| heard[end + 4..].to_vec());
    Ok(Heard { status, body: body.unwrap_or_default() })
}

/// What is wrong with an answer.
fn fault(operation: &Operation, case: &Case, heard: &Heard) -> Option<String> {
    let Heard { status, body } = heard;
    let text = String::from_utf8_lossy(body);
    if *status >= 500 {
        return Some(format!("{status}: {text:.300}"));
    }
    if case.must_refuse && !(400..500).contains(status) {
        return Some(format!("{status}, and should be refused"));
    }
    // Paths that lead elsewhere are answered as whatever is there.
    let is_here = case.target.split('?').next().is_some_and(|target| {
        !target.contains("..") && !target.contains('%') && !target.contains(';')
    });
    if is_here && operation.about["responses"][status.to_string()].is_null() {
        return Some(format!("{status} is not documented: {text:.300}"));
    }
    // The answer to a request that is no HTTP has no body.
    if *status < 400 || (*status == 400 && body.is_empty()) {
        return None;
    }
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = problem["code"].as_str().or(problem["error"]["code"].as_str());
    let is_code = code.is_some_and(|code| Code::ALL.iter().any(|known| known.as_str() == code));
    (!is_code).then(|| format!("{status} without a documented code: {text:.300}"))
}

/// Something of each kind, so that more than the absence of it is met.
async fn make_of_each(server: &Server, document: &Document, operations: &[Operation]) {
    for operation in operations.iter().filter(|it| it.method == "post" && !it.path.contains('{')) {
        if let Some(body) = document.good(operation) {
            let (status, answer) = server.post(&operation.path, body.clone()).await;
            assert!(!status.is_server_error(), "{} {body}: {status} {answer}", operation.path);
        }
    }
}

async fn whatever_is_wrong_is_said_by_a_documented_code(engine: Engine) {
    let settings = [("AGENTRY_LOG", "error"), ("AGENTRY_SEALING_KEY", SEALING_KEY)];
    let server = Server::start_with(engine, &settings).await;
    let (status, document) = server.get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let document = Document(document);
    let operations = document.operations();
    make_of_each(&server, &document, &operations).await;
    let (mut asked, mut statuses, mut faults) = (0, BTreeSet::new(), Vec::new());
    for operation in &operations {
        let values = known(&server, operation).await;
        let cases = cases(&document, operation, &values);
        asked += cases.len();
        let heard = futures::stream::iter(&cases)
            .map(async |case| (case, send(&server, operation.method, case).await))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for (case, heard) in heard {
            let found = match heard {
                Ok(heard) => {
                    statuses.insert(heard.status);
                    fault(operation, case, &heard)
                }
                Err(fault) => Some(fault),
            };
            let called = format!("{} {}, {}", operation.method, operation.path, case.what);
            faults.extend(found.map(|fault| format!("{called}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(asked > 1_000 && statuses.len() > 8, "{asked} requests, {statuses:?}");
    assert_eq!(server.get("/health").await.0, StatusCode::OK);
    eprintln!("{} operations, {asked} requests, answered with {statuses:?}", operations.len());
}

/// The list with the things that a field of a body names, when it must name one
/// that is there.
fn list_of(operation: &Operation, name: &str, schema: &Value) -> Option<&'static str> {
    let of_items = &schema["items"];
    if schema["format"] != "uuid" && of_items["format"] != "uuid" {
        let is_run = operation.path.ends_with("/run") || operation.path.ends_with("/runs");
        return (is_run && name == "session_id").then_some("/api/v1/sessions");
    }
    match name {
        "agent_id" => Some("/api/v1/agents"),
        "goal_id" | "parent_goal_id" => Some("/api/v1/goals"),
        "depends_on" => Some("/api/v1/tasks"),
        "from" | "to" => Some("/api/v1/graph/nodes"),
        _ => None,
    }
}

/// Every operation is asked for what another organisation has, by an owner: in
/// its path, and in the fields of its body. It is not there, and stays as it is.
async fn what_another_organisation_has_is_not_there(engine: Engine) {
    let settings = [("AGENTRY_LOG", "error"), ("AGENTRY_SEALING_KEY", SEALING_KEY)];
    let server = Server::start_with(engine, &settings).await;
    let document = Document(server.get("/openapi.json").await.1);
    let operations = document.operations();
    make_of_each(&server, &document, &operations).await;
    server.post("/api/v1/users", json!({"user_id": "gone"})).await;
    assert_eq!(server.delete("/api/v1/users/gone?purge=true").await, StatusCode::ACCEPTED);
    let other = json!({"name": "other", "tier": "enterprise"});
    let (_, org) = server.post("/api/v1/orgs", other).await;
    let key = json!({"name": "theirs", "role": "owner", "org_id": org["id"]});
    let (_, key) = server.post("/api/v1/keys", key).await;
    let by_them = async |method: &str, path: &str, body: Option<&Value>| {
        let method = method.to_ascii_uppercase().parse().unwrap();
        let request = server.client.request(method, format!("{}{path}", server.url));
        let request = request.bearer_auth(key["secret"].as_str().unwrap());
        answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    };
    let newest = async |list: &str| server.get(list).await.1["items"][0]["id"].clone();
    let (mut asked, mut faults, mut kept) = (0, Vec::new(), BTreeSet::new());
    for operation in &operations {
        let mut values = known(&server, operation).await;
        let is_agent = |name: &str| ["agent", "model"].contains(&name);
        for (_, value) in values.iter_mut().filter(|(name, _)| is_agent(name)) {
            *value = newest("/api/v1/agents").await.as_str().unwrap().to_owned();
        }
        let body = document.body(operation);
        let good = document.good(operation);
        let target = filled(&operation.path, &values);
        let called = format!("{} {}", operation.method, operation.path);
        // The pages of the error codes are everybody's.
        if !values.is_empty() && !operation.path.starts_with("/errors/") {
            let (status, problem) = by_them(operation.method, &target, good.as_ref()).await;
            // Only the installation's owner may ask for organisations at all.
            let is_refused = operation.path.starts_with("/api/v1/orgs/") && status == 403;
            if status != StatusCode::NOT_FOUND && !is_refused {
                faults.push(format!("{called}: {status} {problem}"));
            }
            asked += 1;
            if operation.method == "get" && server.get(&target).await.0.is_success() {
                kept.insert(target.clone());
            }
        }
        let properties = body.and_then(|schema| schema["properties"].as_object());
        for (name, schema) in properties.into_iter().flatten() {
            let (Some(list), true) = (list_of(operation, name, schema), operation.method == "post")
            else {
                continue;
            };
            let (mut body, theirs) = (good.clone().unwrap(), newest(list).await);
            assert!(theirs.is_string(), "there is nothing in {list}");
            let is_list = types(schema).iter().any(|one| one == "array");
            body[name] = if is_list { json!([theirs]) } else { theirs };
            // In a run of an agent that is their own.
            let (_, agent) = by_them("post", "/api/v1/agents", Some(&json!({"name": "own"}))).await;
            let own: Vec<(String, String)> = values
                .iter()
                .map(|(name, _)| (name.clone(), agent["id"].as_str().unwrap().to_owned()))
                .collect();
            let target = filled(&operation.path, &own);
            let (status, problem) = by_them("post", &target, Some(&body)).await;
            if status != StatusCode::NOT_FOUND {
                faults.push(format!("{called} with {name}: {status} {problem}"));
            }
            asked += 1;
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(asked > 40 && kept.len() > 8, "{asked} requests, {kept:?}");
    for target in kept {
        assert_eq!(server.get(&target).await.0, StatusCode::OK, "{target}");
    }
}
