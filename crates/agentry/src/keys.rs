//! `agentry keys`: makes, lists and revokes API keys as the installation's owner,
//! through the server when one serves the installation, otherwise through the use
//! cases on its store, with the same rules and the same answers.

use std::sync::Arc;
use std::time::Duration;

use agentry_api::fields::read_body;
use agentry_api::keys::KeyCreate;
use agentry_domain::background::Tasks;
use agentry_domain::page::PAGE_ITEMS_MAX;
use agentry_domain::ports::SystemEntropy;
use agentry_domain::{Caller, Error, KeyId, Order, PageRequest};
use agentry_engine::{Engine, KeyFilter};
use agentry_store::Store;
use anyhow::Context as _;
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use crate::local::{Local, Server};
use crate::serve;
use crate::settings::Settings;

const KEYS_PATH: &str = "/api/v1/keys";
/// How long what runs beside a command may take to end.
const TASKS_END_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key, and print its secret: this once.
    Create {
        /// What people call it.
        #[arg(long)]
        name: String,
        /// What its holder is: owner, admin, member, viewer or service.
        #[arg(long)]
        role: String,
        /// What its holder may do of what the role allows, such as agents:read;
        /// several times for several. Everything without it.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// From when on it opens nothing, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// The organisation that it opens, when it is not the installation's.
        #[arg(long = "org", value_name = "ID")]
        org_id: Option<String>,
        /// Print the whole key as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the keys of the installation, without their secrets.
    List {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key: it opens nothing from then on.
    Revoke {
        /// The key's id.
        id: String,
    },
}

/// Carries a command out and gives what is to be printed.
pub(crate) async fn run(settings: &Settings, command: KeysCommand) -> anyhow::Result<String> {
    let keys = Keys::open(settings).await?;
    let said = match command {
        KeysCommand::Create { name, role, scopes, expires_at, org_id, json } => {
            let body = json!({"name": name, "role": role, "scopes": scopes,
                "expires_at": expires_at, "org_id": org_id});
            keys.create(body).await.map(|key| made(&key, json))
        }
        KeysCommand::List { json } => keys.list().await.map(|keys| listed(keys, json)),
        KeysCommand::Revoke { id } => {
            let id: Result<KeyId, _> = id.parse();
            match id {
                Ok(id) => keys.revoke(id).await.map(|()| String::new()),
                Err(_) => Err(anyhow::anyhow!("that is no id of a key; see: agentry keys list")),
            }
        }
    };
    keys.close().await;
    said
}

/// The keys of an installation, whoever has it.
enum Keys {
    Served(Box<Server>),
    Held { store: Arc<Store>, engine: Engine, tasks: Tasks, owner: Caller },
}

impl Keys {
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        match Local::find(settings)? {
            Local::Served(server) => Ok(Self::Served(server)),
            Local::Held(lock) => {
                anyhow::ensure!(
                    settings.database.is_some() || agentry_store::exists(&settings.data),
                    "there is no data in {}",
                    settings.data.display()
                );
                // The store takes the lock itself; whoever is faster serves, and
                // this command fails.
                drop(lock);
                let (store, tasks) = (serve::open(settings).await?, Tasks::default());
                let entropy = Arc::new(SystemEntropy::default());
                let engine =
                    serve::engine(settings, &store, entropy, &tasks, tasks.stopping().clone())?;
                anyhow::ensure!(engine.installed().await?, "it was never served: start it once");
                let owner = engine.anyone();
                Ok(Self::Held { store, engine, tasks, owner })
            }
        }
    }

    async fn create(&self, body: Value) -> anyhow::Result<Value> {
        match self {
            Self::Served(server) => {
                let reply = server.post(KEYS_PATH, &body.to_string()).await?;
                Ok(serde_json::from_slice(&reply.bytes().await?)?)
            }
            Self::Held { engine, owner, .. } => {
                let object = body.as_object().cloned().unwrap_or_default();
                let asked = read_body(object, Vec::new()).map_err(|error| told(&error))?;
                let KeyCreate { body, org } = asked;
                let made = engine
                    .key_create(owner, None, org, body)
                    .await
                    .map_err(|error| told(&error))?;
                let mut key: Value = serde_json::from_str(&made.key.value.json)?;
                key["last_used_at"] = Value::Null;
                key["secret"] = json!(made.secret);
                Ok(key)
            }
        }
    }

    /// Oldest first.
    async fn list(&self) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Served(server) => {
                let first = format!("{KEYS_PATH}?order=asc&limit={PAGE_ITEMS_MAX}");
                let (mut keys, mut next) = (Vec::new(), Some(first.clone()));
                while let Some(path) = next {
                    let page = server.ask(Method::GET, &path).await?.bytes().await?;
                    let mut page: Map<String, Value> = serde_json::from_slice(&page)?;
                    let items = page.get_mut("items").and_then(Value::as_array_mut);
                    keys.append(items.context("the server's answer is no list")?);
                    let cursor = page.get("next_cursor").and_then(Value::as_str);
                    next = cursor.map(|cursor| format!("{first}&cursor={cursor}"));
                }
                Ok(keys)
            }
            Self::Held { engine, owner, .. } => {
                let (mut keys, all) = (Vec::new(), KeyFilter::default());
                let order = Order::Ascending;
                let mut page = PageRequest { limit: PAGE_ITEMS_MAX, after: None, offset: 0, order };
                loop {
                    let found = engine.key_list(owner, &all, &page).await;
                    let found = found.map_err(|error| told(&error))?;
                    for (key, used) in &found.items {
                        let mut key: Value = serde_json::from_str(&key.json)?;
                        key["last_used_at"] = json!(used);
                        keys.push(key);
                    }
                    page.after = found.next;
                    if page.after.is_none() {
                        return Ok(keys);
                    }
                }
            }
        }
    }

    async fn revoke(&self, id: KeyId) -> anyhow::Result<()> {
        match self {
            Self::Served(server) => {
                server.ask(Method::DELETE, &format!("{KEYS_PATH}/{id}")).await?;
                Ok(())
            }
            Self::Held { engine, owner, .. } => {
                engine.key_delete(owner, id, None).await.map_err(|error| told(&error))
            }
        }
    }

    async fn close(self) {
        if let Self::Held { store, tasks, .. } = self {
            tasks.stop(TASKS_END_WITHIN).await;
            store.close().await;
        }
    }
}

/// What an error says to whoever asked, with its faults.
fn told(error: &Error) -> anyhow::Error {
    let faults = error.faults.iter().filter(|_| error.faults.len() > 1);
    let faults = faults.map(|fault| format!("\n  {} {}", fault.pointer, fault.detail));
    anyhow::anyhow!("{}{}", error.detail, faults.collect::<String>())
}

/// The secret alone goes to stdout, so that a script can take it.
fn made(key: &Value, as_json: bool) -> String {
    if as_json {
        return format!("{key:#}\n");
    }
    let [id, role] = ["id", "role"].map(|field| shown(&key[field]));
    eprintln!("key {id} ({role}); its secret is shown this once:");
    format!("{}\n", shown(&key["secret"]))
}

/// The columns of the list: what stands above each, and its field.
const COLUMNS: &[(&str, &str)] = &[
    ("ID", "id"),
    ("PREFIX", "prefix"),
    ("ROLE", "role"),
    ("NAME", "name"),
    ("SCOPES", "scopes"),
    ("EXPIRES", "expires_at"),
    ("LAST USED", "last_used_at"),
];

fn listed(keys: Vec<Value>, as_json: bool) -> String {
    if as_json {
        return format!("{:#}\n", Value::Array(keys));
    }
    let head = COLUMNS.iter().map(|(head, _)| (*head).to_owned()).collect();
    let row = |key: Value| COLUMNS.iter().map(|(_, field)| shown(&key[*field])).collect();
    let rows: Vec<Vec<String>> = [head].into_iter().chain(keys.into_iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(|n| width(n).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A field in a cell. Names are people's: what a terminal would act on is shown
/// as an escape.
fn shown(field: &Value) -> String {
    match field {
        Value::Null => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "all".to_owned(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        Value::String(text) => {
            let escaped =
                |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
            text.chars().map(escaped).collect::<String>()
        }
        other => other.to_string(),
    }
}
