//! MCP servers: where tools of others are, how they are reached, and the
//! catalogue of what each offers.

use serde::{Deserialize, Serialize};

use crate::ids::{KeyId, McpServerId};
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::{Entity, Resource};

/// How long a call may take when its server does not say, in milliseconds.
pub const MCP_TIMEOUT_MS_DEFAULT: u32 = 30_000;
/// How long a call may be allowed to take, in milliseconds.
pub const MCP_TIMEOUT_MS_MAX: u32 = 600_000;
/// Bytes of a result when its server does not say.
pub const MCP_RESULT_BYTES_DEFAULT: u32 = 1_024 * 1_024;
/// Bytes of a result that may be allowed.
pub const MCP_RESULT_BYTES_MAX: u32 = 16 * 1_024 * 1_024;
/// Tools of one server at most.
pub const MCP_TOOLS_MAX: usize = 1_000;
/// The header of an API key whose server does not name one.
pub const MCP_KEY_HEADER_DEFAULT: &str = "X-API-Key";

named! {
    /// How a server is spoken to.
    #[derive(Default)]
    pub enum McpTransport {
        /// A process of this machine, over its standard input and output.
        #[default]
        Stdio = "stdio",
        /// A URL: streamable HTTP.
        Http = "http",
    }
}

named! {
    /// What a server over HTTP wants to see.
    #[derive(Default)]
    pub enum McpAuthKind {
        /// Nothing.
        #[default]
        None = "none",
        /// `Authorization: Bearer`.
        Bearer = "bearer",
        /// A header of its own.
        ApiKey = "api_key",
        /// A token by client credentials (RFC 6749, section 4.4).
        OAuth = "oauth",
    }
}

named! {
    /// Where a server is.
    #[derive(Default)]
    pub enum McpStatus {
        /// Nothing is connected, and no tool of it is called.
        #[default]
        Stopped = "stopped",
        /// It is being connected.
        Starting = "starting",
        /// It is connected, or will be when it is needed.
        Running = "running",
        /// It was to be connected and could not be.
        Error = "error",
    }
}

/// How this server shows who it is. The secret itself is elsewhere, sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpAuth {
    /// What is shown.
    #[serde(rename = "type")]
    pub kind: McpAuthKind,
    /// The header of an API key.
    pub header: Option<String>,
    /// Where tokens are issued.
    pub token_url: Option<String>,
    /// Who asks for a token.
    pub client_id: Option<String>,
    /// What the token is to be good for.
    pub scope: Option<String>,
}

/// Secrets that a request names: none leaves one as it is, `Some(None)` removes it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct McpSecretsGiven {
    /// The token, the API key or the client's secret.
    pub secret: Option<Option<String>>,
    /// Variables of the process's environment: a JSON object of texts.
    pub env: Option<Option<JsonText>>,
}

impl std::fmt::Debug for McpSecretsGiven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("McpSecretsGiven")
    }
}

/// The secrets of a server, as they are sealed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpSecrets {
    /// The token, the API key or the client's secret.
    pub secret: Option<String>,
    /// Variables of the process's environment.
    pub env: std::collections::BTreeMap<String, String>,
}

impl std::fmt::Debug for McpSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("McpSecrets")
    }
}

/// An MCP server.
pub type McpServer = Entity<McpServerBody>;

/// What an MCP server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpServerBody {
    /// What agents call it; unique within the organisation.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// How it is spoken to.
    #[serde(rename = "type")]
    pub transport: McpTransport,
    /// The program of a process.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables of its environment that are no secrets: a JSON object of texts.
    pub env: JsonText,
    /// Where it is, over HTTP.
    pub url: Option<String>,
    /// How this server shows who it is.
    pub auth: McpAuth,
    /// How long a call may take, in milliseconds.
    pub timeout_ms: u32,
    /// Bytes of a result.
    pub result_bytes_max: u32,
    /// The client's own.
    pub metadata: JsonText,
    /// Where it is; the engine's.
    pub status: McpStatus,
    /// Why it is in error; the engine's.
    pub status_detail: Option<String>,
    /// Whether there is a secret for `auth`; the engine's.
    pub has_secret: bool,
    /// Which variables of its environment are secrets; the engine's.
    pub secret_env_names: Vec<String>,
    /// The key that registered it.
    pub created_by: Option<KeyId>,
    /// The secrets of the request at hand, which are in no document.
    #[serde(skip)]
    pub given: McpSecretsGiven,
}

impl Default for McpServerBody {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            transport: McpTransport::default(),
            command: None,
            args: Vec::new(),
            env: JsonText::empty(),
            url: None,
            auth: McpAuth::default(),
            timeout_ms: MCP_TIMEOUT_MS_DEFAULT,
            result_bytes_max: MCP_RESULT_BYTES_DEFAULT,
            metadata: JsonText::empty(),
            status: McpStatus::default(),
            status_detail: None,
            has_secret: false,
            secret_env_names: Vec::new(),
            created_by: None,
            given: McpSecretsGiven::default(),
        }
    }
}

impl McpServerBody {
    /// Whether its secrets would go to the same place, and to nobody else.
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        let place = |body: &Self| {
            let McpAuth { kind, header, token_url, client_id, .. } = body.auth.clone();
            let process = (body.command.clone(), body.args.clone(), body.env.clone());
            (body.transport, process, body.url.clone(), (kind, header, token_url, client_id))
        };
        place(self) == place(other)
    }
}

impl Resource for McpServerBody {
    type Id = McpServerId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::McpServer;

    fn also(&self, _id: McpServerId) {}
}

/// A tool of a server, as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpTool {
    /// Its name, unique within the server.
    pub name: String,
    /// What people call it.
    pub title: Option<String>,
    /// What models are told of it.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub input_schema: JsonText,
    /// The JSON schema of its structured result.
    pub output_schema: Option<JsonText>,
    /// What its server says of its effects; nobody vouches for that.
    pub annotations: Option<JsonText>,
    /// Tells this description of it from every other one.
    pub fingerprint: String,
    /// The description that was approved; it is called only as that.
    pub approved_fingerprint: Option<String>,
}

impl McpTool {
    /// Whether it may be called as it is now.
    pub fn is_approved(&self) -> bool {
        self.approved_fingerprint.as_ref() == Some(&self.fingerprint)
    }
}

/// What the store has of a server beside its document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct McpState {
    /// Its secrets, sealed; none when it has none.
    pub secrets: Option<Vec<u8>>,
    /// Its catalogue, a JSON list of [`McpTool`]; none when it was never connected.
    pub catalogue: Option<String>,
    /// Grows with every change of the catalogue.
    pub revision: i64,
    /// Grows whenever connections that were made before are to be made anew.
    pub epoch: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_holds_no_secret_that_was_given() {
        let given = McpSecretsGiven {
            secret: Some(Some("hush".to_owned())),
            env: Some(Some(JsonText::known(r#"{"TOKEN":"hush"}"#.to_owned()))),
        };
        let body = McpServerBody { given, ..McpServerBody::default() };
        assert!(!serde_json::to_string(&body).unwrap().contains("hush"));
        assert!(!format!("{body:?}").contains("hush"));
    }

    #[test]
    fn a_secret_s_place_is_what_it_would_be_sent_to() {
        let was = McpServerBody { url: Some("https://a.example".into()), ..Default::default() };
        let same = McpServerBody { name: "other".into(), timeout_ms: 1, ..was.clone() };
        assert!(same.is_at_the_place_of(&was));
        let moved = McpServerBody { url: Some("https://b.example".into()), ..was.clone() };
        assert!(!moved.is_at_the_place_of(&was));
        let args = McpServerBody { args: vec!["--dump".into()], ..was.clone() };
        assert!(!args.is_at_the_place_of(&was));
    }
}
