//! The installation that a command on this machine is about: the server that
//! serves it, when one does, or its data directory, which the command then holds
//! so that no server starts meanwhile.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentry_outbound::{Ask, Client, Options, PostJson, Reply, Url};
use anyhow::Context as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::settings::Settings;
use crate::{TEXT_BYTES_MAX, owner};

/// Where a serving process says where it listens.
const URL_FILE_NAME: &str = "server.url";
/// A key for a command's requests, in place of the owner's.
const KEY_VARIABLE: &str = "AGENTRY_KEY";
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// How long a request of a command may take: a backup of much data is long.
const REQUEST_WITHIN: Duration = Duration::from_secs(3_600);
/// How long a command waits for the beginning of an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3_600);

/// Who has the installation.
pub(crate) enum Local {
    /// A server that runs.
    Served(Box<Server>),
    /// This command, for as long as the file is open; none when nobody can keep
    /// others away, as on PostgreSQL.
    Held(Option<File>),
}

/// A running server, and a key for it.
pub(crate) struct Server {
    client: Client,
    url: Url,
    key: HeaderValue,
}

/// Says where a process serves this data directory.
pub(crate) struct Announced(PathBuf);

impl Announced {
    pub(crate) fn write(data: &Path, url: &str) -> std::io::Result<Self> {
        std::fs::create_dir_all(data)?;
        let path = data.join(URL_FILE_NAME);
        std::fs::write(&path, format!("{url}\n"))?;
        Ok(Self(path))
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Local {
    /// Looks who has it.
    pub(crate) fn find(settings: &Settings) -> anyhow::Result<Self> {
        let data = &settings.data;
        if settings.database.is_some() {
            return Ok(
                Server::at(data)?.map_or(Self::Held(None), |server| Self::Served(Box::new(server)))
            );
        }
        anyhow::ensure!(data.is_dir(), "there is no data directory {}", data.display());
        match agentry_store::lock(data)? {
            Some(lock) => Ok(Self::Held(Some(lock))),
            None => {
                Server::at(data)?.map(|server| Self::Served(Box::new(server))).with_context(|| {
                    format!("a process serves {} and does not say where", data.display())
                })
            }
        }
    }
}

impl Server {
    /// The server that says that it serves this directory.
    fn at(data: &Path) -> anyhow::Result<Option<Self>> {
        let path = data.join(URL_FILE_NAME);
        let url = match std::fs::read_to_string(&path) {
            Ok(url) => url,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let key = match std::env::var(KEY_VARIABLE) {
            Ok(key) => key,
            Err(_) => owner::read(&data.join(owner::FILE_NAME))?.unwrap_or_default(),
        };
        let mut key = HeaderValue::from_str(&key).context("the key is no text of ASCII")?;
        key.set_sensitive(true);
        let options = Options { response_bytes_max: u64::MAX, ..Options::default() };
        let url = Url::parse(url.trim()).with_context(|| path.display().to_string())?;
        Ok(Some(Self { client: Client::new(&options)?, url, key }))
    }

    /// Sends a POST; whatever is no success is an error that says why.
    pub(crate) async fn post(&self, path: &str, body: &str) -> anyhow::Result<Reply> {
        let call = PostJson {
            url: self.url.join(path)?,
            headers: self.headers(),
            body: body.to_owned().into(),
            deadline: tokio::time::Instant::now() + REQUEST_WITHIN,
            first_byte_timeout: Some(ANSWER_WITHIN),
            idle_timeout: None,
        };
        let reply = self.client.post_json(call).await;
        self.success(reply.with_context(|| self.asking())?).await
    }

    /// Sends a request without a body; whatever is no success is an error that
    /// says why.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Reply> {
        let ask = Ask {
            method,
            url: self.url.join(path)?,
            headers: self.headers(),
            deadline: tokio::time::Instant::now() + REQUEST_WITHIN,
        };
        let reply = self.client.ask(ask).await;
        self.success(reply.with_context(|| self.asking())?).await
    }

    fn headers(&self) -> HeaderMap {
        HeaderMap::from_iter([(X_API_KEY, self.key.clone())])
    }

    fn asking(&self) -> String {
        format!("asking the server at {}, which {URL_FILE_NAME} names", self.url)
    }

    async fn success(&self, reply: Reply) -> anyhow::Result<Reply> {
        let status = reply.status();
        if status.is_success() {
            return Ok(reply);
        }
        let said = reply.bytes().await.unwrap_or_default();
        let said = String::from_utf8_lossy(&said[..said.len().min(TEXT_BYTES_MAX)]).into_owned();
        anyhow::bail!("the server at {} answers {status}: {}", self.url, detail_of(&said))
    }
}

/// What a problem says, with its faults when there are several, or all of it when
/// it is none.
fn detail_of(said: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(said).ok();
    let Some(problem) = problem.filter(|problem| problem["detail"].is_string()) else {
        return said.to_owned();
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let faults = problem["errors"].as_array().filter(|faults| faults.len() > 1);
    let faults = faults
        .into_iter()
        .flatten()
        .map(|fault| format!("{} {}", text(&fault["pointer"]), text(&fault["detail"])));
    [text(&problem["detail"])].into_iter().chain(faults).collect::<Vec<_>>().join("\n  ")
}
