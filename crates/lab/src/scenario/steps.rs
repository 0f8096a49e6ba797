//! The steps of `setup` and of the flows of `mix`.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::pieces::{Fields, Reader};
use super::request::{Pieces, Request};
use super::{Acknowledge, AcknowledgedFields, Expect, Expected, Flow, PlainGet, Step, sockets};
use crate::expression::{Escape, Names, Part, Template};
use crate::ledger::Effect;
use crate::tokens::Dialect;
use crate::yaml::{Node, Tree};

/// The key that names a step's path, and the method it stands for; `sse` is a
/// POST when it has a body and a GET when it has none.
const METHODS: &[(&str, &str)] = &[
    ("get", "GET"),
    ("post", "POST"),
    ("put", "PUT"),
    ("patch", "PATCH"),
    ("delete", "DELETE"),
    ("head", "HEAD"),
    ("sse", ""),
];
pub(super) const STEP_KEYS: &[&str] = &[
    "get",
    "post",
    "put",
    "patch",
    "delete",
    "head",
    "sse",
    "name",
    "headers",
    "json",
    "body",
    "expect",
    "with",
    "save",
    "keep",
    "tokens",
    "acknowledged",
    "connect",
    "track",
    "again",
    "resume",
    "send",
    "receive",
    "reconnect",
];
/// Endpoints of one scenario.
const ENDPOINTS_MAX: usize = 200;

/// What all steps share.
pub(super) struct Common<'a> {
    pub(super) names: &'a Names<'a>,
    host: String,
    headers: Vec<(String, Template)>,
}

impl<'a> Common<'a> {
    pub(super) fn read(
        reader: &mut Reader,
        headers: Option<&Node>,
        host: &str,
        names: &'a Names<'a>,
    ) -> Self {
        let headers = headers.map(|node| read_headers(reader, node, names)).unwrap_or_default();
        Self { names, host: host.to_owned(), headers }
    }
}

/// Every name that stands in any step under one of these keys, each once.
pub(super) fn names_under(fields: &Fields<'_>, keys: &[&str]) -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut visit = |steps: &Node| {
        let Tree::List(steps) = &steps.tree else { return };
        for step in steps {
            let Tree::Map(entries) = &step.tree else { continue };
            for (_, node) in entries.iter().filter(|(key, _)| keys.contains(&key.name.as_str())) {
                if let Tree::Map(saved) = &node.tree {
                    names.extend(saved.iter().map(|(key, _)| key.name.clone()));
                }
            }
        }
    };
    for key in ["setup", "teardown"] {
        if let Some(steps) = fields.get(key) {
            visit(steps);
        }
    }
    if let Some(Node { tree: Tree::Map(flows), .. }) = fields.get("mix") {
        for (_, flow) in flows {
            if let Tree::Map(entries) = &flow.tree {
                entries.iter().filter(|(key, _)| key.name == "steps").for_each(|(_, s)| visit(s));
            }
        }
    }
    names.into_iter().collect()
}

pub(super) fn read_mix(
    reader: &mut Reader,
    root: &Node,
    fields: &Fields<'_>,
    common: &Common<'_>,
    endpoints: &mut Vec<String>,
) -> Vec<Flow> {
    let Some(mix) = fields.get("mix") else {
        reader.fault(root, "`mix` is missing: what users do, with weights");
        return Vec::new();
    };
    let mut flows = Vec::new();
    for (key, node) in reader.entries(mix, "`mix`") {
        let Some(fields) = reader.fields(node, &["weight", "steps"]) else { continue };
        let weight = match fields.get("weight") {
            Some(node) => reader.positive(node),
            None => Some(1.0),
        };
        let Some(list) = fields.get("steps") else {
            reader.fault(node, format!("`{}` has no `steps`", key.name));
            continue;
        };
        let steps = read_steps(reader, list, &key.name, false, common, endpoints);
        if let Some(weight) = weight {
            let needs = needs(&steps);
            flows.push(Flow { name: key.name.clone(), weight, steps, needs });
        }
    }
    if let Tree::Map(entries) = &mix.tree
        && entries.is_empty()
    {
        reader.fault(mix, "`mix` has nothing to do");
    }
    flows
}

/// The lists that steps take or pick from and did not fill themselves before.
fn needs(steps: &[Step]) -> Vec<usize> {
    let (mut needs, mut filled) = (Vec::new(), Vec::new());
    for step in steps {
        let mut read = Vec::new();
        for (_, template) in &step.with {
            template.kept_lists(&mut read);
        }
        step.request.kept_lists(&mut read);
        needs.extend(read.into_iter().filter(|list| !filled.contains(list)));
        filled.extend(step.keep.iter().map(|(list, _)| *list));
    }
    needs.sort_unstable();
    needs.dedup();
    needs
}

/// A flow of one step gives the step its name; a step of several is called
/// `flow.name` or `flow.n`. What happens once for each user is marked so, and
/// has a row of its own.
pub(super) fn read_steps(
    reader: &mut Reader,
    list: &Node,
    flow: &str,
    once: bool,
    common: &Common<'_>,
    endpoints: &mut Vec<String>,
) -> Vec<Step> {
    let items = reader.list(list, "`steps`");
    if items.is_empty() {
        reader.fault(list, format!("`{flow}` has no steps"));
    }
    let mut steps = Vec::new();
    for (number, node) in (1..).zip(items) {
        let Some(fields) = reader.fields(node, STEP_KEYS) else { continue };
        let name = match fields.get("name").and_then(|node| reader.text(node)) {
            Some(name) => format!("{flow}.{name}"),
            None if items.len() == 1 && !once => flow.to_owned(),
            None => format!("{flow}.{number}"),
        };
        let name = if once { format!("{name} (initial)") } else { name };
        if endpoints.contains(&name) {
            reader.fault(node, format!("there are two steps called `{name}`"));
        }
        if endpoints.len() == ENDPOINTS_MAX {
            reader.fault(node, "a scenario has at most 200 steps");
            return steps;
        }
        endpoints.push(name);
        steps.extend(read_step(reader, node, &fields, common, endpoints.len() - 1));
    }
    steps
}

/// Steps that come after everything that is measured.
pub(super) fn read_teardown(
    reader: &mut Reader,
    list: &Node,
    common: &Common<'_>,
    names: &mut Vec<String>,
) -> Vec<Step> {
    let steps = read_steps(reader, list, "teardown", false, common, names);
    for step in &steps {
        if step.acknowledged.is_some() {
            reader.fault(list, "nothing is read back after a `teardown`: no `acknowledged` in it");
        }
        if step.socket.is_some() {
            reader.fault(list, "sockets are closed before the `teardown`: it has HTTP alone");
        }
    }
    steps
}

/// A path of the target that is asked for with the common headers alone.
pub(super) fn read_plain_get(
    reader: &mut Reader,
    node: &Node,
    common: &Common<'_>,
) -> Option<PlainGet> {
    Some(PlainGet { path: read_path(reader, node, common)?, rest: end_of_head(common) })
}

/// A path of another server, asked for without headers.
pub(super) fn bare_get(path: &str, host: &str) -> PlainGet {
    let mut rest = Pieces::default();
    rest.fixed(format!(" HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    let path = Template { parts: vec![Part::Literal(path.to_owned())] };
    PlainGet { path, rest: Request { pieces: rest.finish(), body: None, head: false } }
}

fn read_step(
    reader: &mut Reader,
    node: &Node,
    fields: &Fields<'_>,
    common: &Common<'_>,
    endpoint: usize,
) -> Option<Step> {
    let acts = sockets::ACTS.iter().map(|key| (*key, "GET"));
    let mut asked = METHODS
        .iter()
        .copied()
        .chain(acts)
        .filter_map(|(key, method)| Some((method, key, fields.get(key)?)));
    let Some((method, key, path)) = asked.next() else {
        let known: Vec<&str> = METHODS.iter().map(|(key, _)| *key).collect();
        let (known, acts) = (known.join(", "), sockets::ACTS.join(", "));
        reader.fault(node, format!("a step says what it asks: {known}, {acts}"));
        return None;
    };
    if let Some((_, other, at)) = asked.next() {
        reader.fault(at, format!("a step asks one thing; this one has `{key}` and `{other}`"));
    }
    if sockets::ACTS.contains(&key) {
        return read_socket_step(reader, key, path, fields, common, endpoint);
    }
    for key in ["track", "again", "resume"] {
        if let Some(node) = fields.get(key) {
            reader.fault(node, format!("`{key}` goes with `connect`"));
        }
    }
    let with = read_with(reader, fields, common);
    let body = read_body(reader, fields, common);
    let has_json = fields.get("json").is_some();
    let method = match (method, &body) {
        ("", Some(_)) => "POST",
        ("", None) => "GET",
        (method, _) => method,
    };
    let request = read_request(reader, method, path, body, fields, common);
    let stream = match (key, fields.get("tokens")) {
        ("sse", None) => Some(Dialect::Events),
        ("sse", Some(node)) => reader.parsed(node, |text| match text {
            "openai" => Ok(Dialect::OpenAi),
            "events" => Ok(Dialect::Events),
            _ => Err(format!("`tokens` is openai or events, not `{text}`")),
        }),
        (_, Some(node)) => {
            reader.fault(node, "`tokens` goes with `sse`");
            None
        }
        (_, None) => None,
    };
    let expect = match fields.get("expect") {
        Some(node) => read_expect(reader, node, common)?,
        None => Expect { status: vec![(200, 299)], headers: Vec::new(), json: Vec::new() },
    };
    let save = read_places(reader, fields.get("save"), "`save`", common.names.saved);
    let keep = read_places(reader, fields.get("keep"), "`keep`", common.names.kept);
    if stream.is_some() && !(save.is_empty() && keep.is_empty() && expect.json.is_empty()) {
        let message = "a stream is not JSON: `save`, `keep` and `expect.json` do not go with `sse`";
        reader.fault(node, message);
    }
    let acknowledged = fields
        .get("acknowledged")
        .and_then(|node| read_acknowledged(reader, node, common, method, has_json));
    let (request, socket) = (request?, None);
    Some(Step { endpoint, with, request, expect, save, keep, stream, acknowledged, socket })
}

/// What is drawn before the step is rendered, by the number of its name.
fn read_with(
    reader: &mut Reader,
    fields: &Fields<'_>,
    common: &Common<'_>,
) -> Vec<(usize, Template)> {
    let mut with = Vec::new();
    for (key, node) in fields.get("with").map_or(&[][..], |node| reader.entries(node, "`with`")) {
        let template = read_template(reader, node, common.names);
        let slot = common.names.saved.iter().position(|name| *name == key.name);
        with.extend(slot.zip(template));
    }
    with
}

/// Where in an answer something stands, by the number of its name.
fn read_places(
    reader: &mut Reader,
    node: Option<&Node>,
    what: &str,
    names: &[String],
) -> Vec<(usize, JsonPath)> {
    let mut places = Vec::new();
    for (key, node) in node.map_or(&[][..], |node| reader.entries(node, what)) {
        let path = reader.parsed(node, json_path);
        places.extend(names.iter().position(|name| *name == key.name).zip(path));
    }
    places
}

/// A path that has to answer after the run; `get` with the `fields` that it has
/// to show as they were sent; or a path that has to be `gone`.
fn read_acknowledged(
    reader: &mut Reader,
    node: &Node,
    common: &Common<'_>,
    method: &str,
    has_json: bool,
) -> Option<Acknowledge> {
    let mut fields = AcknowledgedFields::None;
    let (path, effect) = match &node.tree {
        Tree::Map(_) => {
            let keys = reader.fields(node, &["get", "gone", "fields"])?;
            if let Some(node) = keys.get("fields") {
                fields = read_acknowledged_fields(reader, node)?;
                if !has_json || keys.get("gone").is_some() {
                    reader.fault(node, "`fields` goes with `get`, in a step that sends `json`");
                }
            }
            match (keys.get("get"), keys.get("gone")) {
                (Some(path), None) => (path, Effect::Kept),
                (None, Some(path)) => (path, Effect::Gone),
                _ => {
                    reader.fault(node, "`acknowledged` has either `get` or `gone`");
                    return None;
                }
            }
        }
        _ => (node, Effect::Kept),
    };
    let path = read_path(reader, path, common)?;
    let changes = ["PUT", "PATCH", "DELETE"].contains(&method);
    Some(Acknowledge { path, effect, fields, changes, rest: end_of_head(common) })
}

fn read_acknowledged_fields(reader: &mut Reader, node: &Node) -> Option<AcknowledgedFields> {
    match &node.tree {
        Tree::Text(text) if text == "sent" => Some(AcknowledgedFields::Sent),
        Tree::List(items) => {
            let names = items.iter().map(|item| reader.text(item)).collect::<Option<_>>()?;
            Some(AcknowledgedFields::Named(names))
        }
        _ => {
            reader.fault(node, "`fields` is `sent`, or a list of names");
            None
        }
    }
}

/// A step that does something with the user's WebSocket.
fn read_socket_step(
    reader: &mut Reader,
    key: &str,
    path: &Node,
    fields: &Fields<'_>,
    common: &Common<'_>,
    endpoint: usize,
) -> Option<Step> {
    let mut strangers = vec!["json", "body", "tokens", "keep", "acknowledged"];
    if key != "connect" {
        strangers.push("headers");
    }
    for stranger in strangers {
        if let Some(node) = fields.get(stranger) {
            reader.fault(node, format!("`{stranger}` does not go with `{key}`"));
        }
    }
    let request = match key {
        "connect" => read_request(reader, "GET", path, None, fields, common),
        _ => Some(Request { pieces: Vec::new(), body: None, head: false }),
    };
    let save = match key {
        // What the socket's frames leave is saved as they come.
        "connect" => Vec::new(),
        "reconnect" => {
            for key in ["save", "expect"] {
                if let Some(node) = fields.get(key) {
                    reader.fault(node, format!("`{key}` does not go with `reconnect`"));
                }
            }
            Vec::new()
        }
        _ => read_save(reader, fields, common),
    };
    let socket = sockets::read(reader, fields, common).map(Box::new);
    let expect = Expect { status: Vec::new(), headers: Vec::new(), json: Vec::new() };
    let (with, keep) = (read_with(reader, fields, common), Vec::new());
    let (request, stream, acknowledged) = (request?, None, None);
    Some(Step { endpoint, with, request, expect, save, keep, stream, acknowledged, socket })
}

/// The places of `save`, by slot.
pub(super) fn read_save(
    reader: &mut Reader,
    fields: &Fields<'_>,
    common: &Common<'_>,
) -> Vec<(usize, JsonPath)> {
    read_places(reader, fields.get("save"), "`save`", common.names.saved)
}

/// What stands after the path of a request that has the common headers alone.
fn end_of_head(common: &Common<'_>) -> Request {
    let mut head = Pieces::default();
    head.fixed(format!(" HTTP/1.1\r\nhost: {}\r\n", common.host));
    for (name, value) in &common.headers {
        head.fixed(format!("{name}: "));
        head.template(value, Escape::Header);
        head.fixed("\r\n");
    }
    head.fixed("\r\n");
    Request { pieces: head.finish(), body: None, head: false }
}

/// A path, or what of a URL stands after the authority.
fn read_path(reader: &mut Reader, node: &Node, common: &Common<'_>) -> Option<Template> {
    let template = read_template(reader, node, common.names)?;
    let starts = match template.parts.first() {
        Some(Part::Literal(text)) => text.starts_with('/'),
        _ => false,
    };
    if !starts {
        reader.fault(node, "a path begins with `/`");
    }
    let bad = template.parts.iter().any(|part| match part {
        Part::Literal(text) => text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'#'),
        Part::Inserted(_) => false,
    });
    if bad {
        reader.fault(node, "a path has no spaces, control characters or `#`; encode them");
    }
    Some(template)
}

pub(super) fn read_template(
    reader: &mut Reader,
    node: &Node,
    names: &Names<'_>,
) -> Option<Template> {
    reader.parsed(node, |text| Template::compile(text, names))
}

fn read_headers(reader: &mut Reader, node: &Node, names: &Names<'_>) -> Vec<(String, Template)> {
    let mut headers = Vec::new();
    for (key, node) in reader.entries(node, "`headers`") {
        let name = key.name.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            reader.fault_at(key.at, format!("`{}` is no name of a header", key.name));
        } else if ["host", "content-length", "transfer-encoding", "connection"]
            .contains(&name.as_str())
        {
            reader.fault_at(key.at, format!("`{name}` is set by the lab"));
        }
        let Some(template) = read_template(reader, node, names) else { continue };
        let bad = |part: &Part| match part {
            Part::Literal(text) => text.bytes().any(|byte| byte.is_ascii_control()),
            Part::Inserted(_) => false,
        };
        if template.parts.iter().any(bad) {
            reader.fault(node, "a header has no control characters");
        }
        headers.push((name, template));
    }
    headers
}

/// The body and its media type.
fn read_body(
    reader: &mut Reader,
    fields: &Fields<'_>,
    common: &Common<'_>,
) -> Option<(Pieces, &'static str)> {
    let mut pieces = Pieces::default();
    match (fields.get("json"), fields.get("body")) {
        (None, None) => None,
        (Some(_), Some(node)) => {
            reader.fault(node, "a step has `json` or `body`, not both");
            None
        }
        (Some(node), None) => {
            json_body(reader, node, common.names, &mut pieces);
            Some((pieces, "application/json"))
        }
        (None, Some(node)) => {
            let template = read_template(reader, node, common.names)?;
            pieces.template(&template, Escape::None);
            Some((pieces, "text/plain; charset=utf-8"))
        }
    }
}

/// A text that is one expression alone keeps the expression's type: `"${uid}"`
/// is a number.
pub(super) fn json_body(reader: &mut Reader, node: &Node, names: &Names<'_>, into: &mut Pieces) {
    match &node.tree {
        Tree::Text(_) => {
            let Some(template) = read_template(reader, node, names) else { return };
            if let [Part::Inserted(expression)] = template.parts.as_slice() {
                into.varies(expression.clone(), Escape::Json);
            } else {
                into.fixed("\"");
                into.template(&template, Escape::JsonText);
                into.fixed("\"");
            }
        }
        Tree::List(items) => {
            into.fixed("[");
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    into.fixed(",");
                }
                json_body(reader, item, names, into);
            }
            into.fixed("]");
        }
        Tree::Map(entries) => {
            into.fixed("{");
            for (n, (key, value)) in entries.iter().enumerate() {
                if n > 0 {
                    into.fixed(",");
                }
                into.fixed(Value::from(key.name.as_str()).to_string());
                into.fixed(":");
                json_body(reader, value, names, into);
            }
            into.fixed("}");
        }
        _ => into.fixed(node.to_json().to_string()),
    }
}

pub(super) fn read_request(
    reader: &mut Reader,
    method: &str,
    path: &Node,
    body: Option<(Pieces, &'static str)>,
    fields: &Fields<'_>,
    common: &Common<'_>,
) -> Option<Request> {
    let own = fields.get("headers").map(|node| read_headers(reader, node, common.names));
    let own = own.unwrap_or_default();
    let path = read_path(reader, path, common)?;
    let mut head = Pieces::default();
    head.fixed(method);
    head.fixed(" ");
    head.template(&path, Escape::Url);
    head.fixed(format!(" HTTP/1.1\r\nhost: {}\r\n", common.host));
    let inherited =
        common.headers.iter().filter(|(name, _)| !own.iter().any(|(other, _)| other == name));
    let mut typed = false;
    for (name, value) in inherited.chain(&own) {
        typed |= name == "content-type";
        head.fixed(format!("{name}: "));
        head.template(value, Escape::Header);
        head.fixed("\r\n");
    }
    let mut varying = None;
    match body {
        Some((body, media_type)) => {
            if !typed {
                head.fixed(format!("content-type: {media_type}\r\n"));
            }
            if let Some(bytes) = body.constant() {
                head.fixed(format!("content-length: {}\r\n\r\n", bytes.len()));
                head.fixed(bytes);
            } else {
                varying = Some(body.finish());
            }
        }
        // Without a length some servers wait for a body.
        None if ["POST", "PUT", "PATCH"].contains(&method) => {
            head.fixed("content-length: 0\r\n\r\n");
        }
        None => head.fixed("\r\n"),
    }
    Some(Request { pieces: head.finish(), body: varying, head: method == "HEAD" })
}

pub(super) fn json_path(text: &str) -> Result<JsonPath, String> {
    JsonPath::parse(text).map_err(|error| format!("`{text}` is no JSONPath: {error}"))
}

fn read_expect(reader: &mut Reader, node: &Node, common: &Common<'_>) -> Option<Expect> {
    let fields = reader.fields(node, &["status", "headers", "json", "has"])?;
    let status = match fields.get("status") {
        None => vec![(200, 299)],
        Some(Node { tree: Tree::List(items), .. }) => {
            items.iter().filter_map(|item| reader.parsed(item, status)).collect()
        }
        Some(node) => reader.parsed(node, status).into_iter().collect(),
    };
    let mut headers = Vec::new();
    if let Some(node) = fields.get("headers") {
        for (key, node) in reader.entries(node, "`headers`") {
            let value = read_template(reader, node, common.names);
            headers.extend(value.map(|value| (key.name.to_ascii_lowercase(), value)));
        }
    }
    Some(Expect { status, headers, json: read_expected_json(reader, &fields, common) })
}

/// `json` and `has` of an expectation.
pub(super) fn read_expected_json(
    reader: &mut Reader,
    fields: &Fields<'_>,
    common: &Common<'_>,
) -> Vec<(JsonPath, Option<Expected>)> {
    let mut json = Vec::new();
    if let Some(node) = fields.get("json") {
        for (key, node) in reader.entries(node, "`json`") {
            let mut pieces = Pieces::default();
            json_body(reader, node, common.names, &mut pieces);
            let expected = match pieces.constant() {
                // Expressions that never vary have been replaced.
                Some(bytes) => {
                    Expected::Is(serde_json::from_slice(bytes).unwrap_or_else(|_| node.to_json()))
                }
                None => Expected::Renders(pieces.finish()),
            };
            match json_path(&key.name) {
                Ok(path) => json.push((path, Some(expected))),
                Err(message) => reader.fault_at(key.at, message),
            }
        }
    }
    if let Some(node) = fields.get("has") {
        for node in reader.list(node, "`has`") {
            json.extend(reader.parsed(node, json_path).map(|path| (path, None)));
        }
    }
    json
}

/// `201`, or `2xx`.
fn status(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("`{text}` is no status such as 201 or 2xx");
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().map_err(|_| wrong())?;
        return if (2..=5).contains(&class) {
            Ok((class * 100, class * 100 + 99))
        } else {
            Err(wrong())
        };
    }
    let code: u16 = text.parse().map_err(|_| wrong())?;
    if (200..=599).contains(&code) { Ok((code, code)) } else { Err(wrong()) }
}
