//! Other people's WebSockets: the client library `websockets` for Python, and a
//! real browser, which a script of the test drives over its DevTools protocol.

use std::process::Command;

use serde_json::Value;

use crate::server::{Engine, Server};

/// Runs a script of the test's Python with arguments; what it printed, as JSON.
async fn run(server: &Server, name: &str, script: &str, arguments: Vec<String>) -> Value {
    let python = std::env::var("AGENTRY_TEST_PYTHON")
        .expect("AGENTRY_TEST_PYTHON is not set: run `make test`, which makes the environment");
    let path = server.home.data.path().join(name);
    std::fs::write(&path, script).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(python).arg(path).args(arguments).output().unwrap()
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const LIBRARY: &str = r#"
import json, sys, urllib.request
from websockets.sync.client import connect

url, key = sys.argv[1], sys.argv[2]
ws_url = url.replace("http://", "ws://")
headers = {"X-API-Key": key}

def make(name):
    request = urllib.request.Request(url + "/api/v1/agents", json.dumps({"name": name}).encode(),
        {"X-API-Key": key, "Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["id"]

said = {}
with connect(ws_url + "/ws/events", additional_headers=headers) as ws:
    hear = lambda: json.loads(ws.recv(timeout=20))
    said["ready"] = hear()["type"]
    ws.send("ping")
    said["pong"] = hear()["type"]
    said["latency"] = ws.ping().wait(20)
    ws.send(json.dumps({"action": "filter", "event_types": ["agent.created"]}))
    said["filtered"] = hear()["type"]
    first = make("one")
    event = hear()
    said["heard"] = event["entity_id"] == first and event["event_type"] == "agent.created"
second = make("two")
with connect(ws_url + "/ws/events?after=%d" % event["seq"], additional_headers=headers) as ws:
    hear = lambda: json.loads(ws.recv(timeout=20))
    said["ready again"] = hear()["type"]
    said["resumed"] = hear()["entity_id"] == second
    ws.send(json.dumps({"action": "resume", "after": event["seq"] - 1}))
    said["answer"] = hear()["type"]
    said["both"] = [hear()["entity_id"] for _ in range(2)] == [first, second]
with connect(ws_url + "/ws/events", subprotocols=["agentry.events", "agentry.key." + key]) as ws:
    said["subprotocol"] = ws.subprotocol
print(json.dumps(said))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_library_connects_filters_pings_and_resumes() {
    let server = Server::start(Engine::Sqlite).await;
    let arguments = vec![server.url.clone(), server.key.clone()];
    let said = run(&server, "library.py", LIBRARY, arguments).await;
    for (what, expected) in [
        ("ready", "ready"),
        ("pong", "pong"),
        ("filtered", "filtered"),
        ("ready again", "ready"),
        ("answer", "resumed"),
        ("subprotocol", "agentry.events"),
    ] {
        assert_eq!(said[what], expected, "{said}");
    }
    assert!(said["heard"] == true && said["resumed"] == true && said["both"] == true, "{said}");
}

/// Starts the browser, opens a page of the server's own and runs a script in it.
const BROWSER: &str = r#"
import json, re, subprocess, sys, threading
from websockets.sync.client import connect

chromium, url, key, profile = sys.argv[1:5]
page = open(sys.argv[5]).read()
browser = subprocess.Popen([chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
    "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--user-data-dir=" + profile, "--remote-debugging-port=0", "about:blank"],
    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
try:
    for line in browser.stderr:
        found = re.search(r"DevTools listening on (ws://\S+)", line)
        if found:
            break
    threading.Thread(target=browser.stderr.read, daemon=True).start()
    with connect(found.group(1), max_size=None, open_timeout=60) as tools:
        number = 0
        def call(method, session=None, **params):
            global number
            number += 1
            message = {"id": number, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            tools.send(json.dumps(message))
            while True:
                answer = json.loads(tools.recv(timeout=120))
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]
        target = call("Target.createTarget", url=url + "/health")["targetId"]
        session = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        import time
        for _ in range(600):
            where = call("Runtime.evaluate", session, expression="location.href + document.readyState")
            if where["result"]["value"] == url + "/healthcomplete":
                break
            time.sleep(0.05)
        result = call("Runtime.evaluate", session, expression=page.replace("KEY", json.dumps(key)),
            awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        print(result["result"]["value"])
finally:
    browser.kill()
    browser.wait()
"#;

const PAGE: &str = r#"
(async () => {
  const key = KEY;
  const post = async (path, body) => (await fetch(path, {
    method: "POST", headers: {"x-api-key": key, "content-type": "application/json"},
    body: JSON.stringify(body),
  })).json();
  const ticket = async () => (await post("/api/v1/events/tickets", {})).ticket;
  const open = async (path, protocols) => {
    const socket = new WebSocket("ws://" + location.host + path, protocols);
    const waiting = [], wanted = [];
    socket.onmessage = (message) => {
      const text = JSON.parse(message.data);
      wanted.length ? wanted.shift()(text) : waiting.push(text);
    };
    await new Promise((done, failed) => { socket.onopen = done; socket.onerror = failed; });
    return {socket, hear: () => waiting.length ? waiting.shift() : new Promise((done) => wanted.push(done))};
  };
  const said = {};
  const one = await open("/ws/events/filtered", ["agentry.events", "agentry.ticket." + await ticket()]);
  said.protocol = one.socket.protocol;
  said.ready = (await one.hear()).type;
  one.socket.send("ping");
  said.pong = (await one.hear()).type;
  one.socket.send(JSON.stringify({action: "filter", event_types: ["agent.created"]}));
  said.filtered = (await one.hear()).type;
  const first = (await post("/api/v1/agents", {name: "one"})).id;
  const event = await one.hear();
  said.heard = event.entity_id === first;
  const closed = new Promise((done) => { one.socket.onclose = done; });
  one.socket.close(4000, "enough");
  const close = await closed;
  said.closed = [close.wasClean, close.code];
  const second = (await post("/api/v1/agents", {name: "two"})).id;
  const two = await open("/ws/events?after=" + event.seq + "&ticket=" + await ticket());
  said.readyAgain = (await two.hear()).type;
  said.resumed = (await two.hear()).entity_id === second;
  const events = new EventSource("/events?after=" + event.seq + "&ticket=" + await ticket());
  said.source = JSON.parse((await new Promise((done) =>
    events.addEventListener("agent.created", done))).data).entity_id === second;
  return JSON.stringify(said);
})()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_connects_filters_pings_and_resumes() {
    let chromium = std::env::var("AGENTRY_TEST_CHROMIUM")
        .expect("AGENTRY_TEST_CHROMIUM is not set: run `make test`, which finds a browser");
    let server = Server::start(Engine::Sqlite).await;
    let page = server.home.data.path().join("page.js");
    std::fs::write(&page, PAGE).unwrap();
    let profile = agentry_testkit::TempDir::new();
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let arguments =
        vec![chromium, server.url.clone(), server.key.clone(), text(profile.path()), text(&page)];
    let said = run(&server, "browser.py", BROWSER, arguments).await;
    for (what, expected) in [
        ("protocol", "agentry.events"),
        ("ready", "ready"),
        ("pong", "pong"),
        ("filtered", "filtered"),
        ("readyAgain", "ready"),
    ] {
        assert_eq!(said[what], expected, "{said}");
    }
    assert_eq!(said["closed"], serde_json::json!([true, 4000]), "{said}");
    for what in ["heard", "resumed", "source"] {
        assert_eq!(said[what], true, "{what}: {said}");
    }
}
