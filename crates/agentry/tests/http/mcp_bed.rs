//! What tests of MCP servers and tools have in common: the test's own server, over
//! pipes and over HTTP, and the registering and starting of one.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agentry_testkit::{MCP_SERVER_PY, TempDir};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crud::{id, made};
use crate::server::{Engine, Process, Server, answer};
use crate::webhooks::SEALING_KEY;

pub(crate) const SERVERS: &str = "/api/v1/mcp/servers";
/// Loopback targets, a key for secrets, and a provider key that no child may see.
pub(crate) const SETTINGS: [(&str, &str); 3] = [
    ("AGENTRY_OUTBOUND__LOOPBACK_TARGETS_ALLOWED", "true"),
    ("AGENTRY_SEALING_KEY", SEALING_KEY),
    ("OPENAI_API_KEY", "sk-that-no-child-may-see"),
];

fn python() -> String {
    std::env::var("AGENTRY_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// The test's server as a file, and what its calls leave behind.
pub(crate) struct Script {
    dir: TempDir,
}

impl Script {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("mcp_server.py"), MCP_SERVER_PY).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mcp_server.py")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// The body that registers it as a process.
    pub(crate) fn stdio(&self, name: &str, more: &[&str]) -> Value {
        let script = self.path().to_string_lossy().into_owned();
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mut args = vec![script, "--dir".to_owned(), dir];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        json!({"name": name, "type": "stdio", "command": python(), "args": args})
    }

    /// Starts it over HTTP.
    pub(crate) fn http(&self, more: &[&str]) -> OverHttp {
        let mut command = Command::new(python());
        command.arg(self.path()).arg("--http").args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        OverHttp { child, url: line.trim().to_owned() }
    }
}

/// The test's server over HTTP; ends with its value.
pub(crate) struct OverHttp {
    child: Child,
    pub(crate) url: String,
}

impl OverHttp {
    /// The body that registers it.
    pub(crate) fn body(&self, name: &str) -> Value {
        json!({"name": name, "type": "http", "url": format!("{}/mcp", self.url)})
    }
}

impl Drop for OverHttp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that may call loopback targets and seal secrets.
pub(crate) async fn server(engine: Engine) -> Server {
    Server::start_with(engine, &SETTINGS).await
}

/// Sends a POST without a body.
pub(crate) async fn act(process: &Process, path: &str) -> (StatusCode, Value) {
    answer(process.request(Method::POST, path)).await
}

/// Registers a server and starts it; its path.
pub(crate) async fn started(process: &Process, body: Value) -> String {
    let server = made(process, SERVERS, body).await;
    assert_eq!(server["status"], "stopped");
    let path = format!("{SERVERS}/{}", id(&server));
    let (status, running) = act(process, &format!("{path}/start")).await;
    assert_eq!(status, StatusCode::OK, "{running}");
    assert_eq!(running["status"], "running");
    path
}

/// Calls a tool.
pub(crate) async fn call(
    process: &Process,
    server: &str,
    tool: &str,
    arguments: Value,
) -> (StatusCode, Value) {
    let path = format!("{server}/tools/{tool}/call");
    process.post(&path, json!({"arguments": arguments})).await
}

/// Calls a tool that gives a text.
pub(crate) async fn text(process: &Process, server: &str, tool: &str, arguments: Value) -> String {
    let (status, result) = call(process, server, tool, arguments).await;
    assert_eq!(status, StatusCode::OK, "{result}");
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

/// Whether a process is there, and no zombie.
pub(crate) fn is_there(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim();
    !state.is_empty() && !state.starts_with('Z')
}
