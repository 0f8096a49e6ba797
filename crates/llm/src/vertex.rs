//! Google's protocol at Vertex AI: below a project and a location, for whoever has
//! the token of a service account, which is had for a signed statement and kept
//! until shortly before it ends (RFC 7523, section 2.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentry_domain::{Code, Error, Result};
use agentry_outbound::{PostJson, Upstream, Url};
use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::failures;
use crate::gemini;
use crate::model::{ModelEvent, ModelRequest};
use crate::provider::{Dialect, Endpoint};

/// What the token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long a statement is good for; the most that is taken.
const STATEMENT_S: u64 = 3_600;
/// A token is renewed so long before it ends.
const RENEWED_BEFORE: Duration = Duration::from_secs(120);
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";

/// The protocol, for one project.
pub(crate) struct Vertex {
    path: Vec<String>,
    account: Option<Account>,
}

impl Vertex {
    /// In a project's location, for a service account.
    pub(crate) fn in_project(project: &str, location: &str, account: Account) -> Self {
        let path = ["projects", project, "locations", location, "publishers", "google", "models"];
        Self { path: path.map(str::to_owned).to_vec(), account: Some(account) }
    }

    /// With an API key, which names the project.
    pub(crate) fn with_key() -> Self {
        let path = ["publishers", "google", "models"].map(str::to_owned).to_vec();
        Self { path, account: None }
    }
}

#[async_trait]
impl Dialect for Vertex {
    fn url(&self, base: &Url, model: &str) -> Option<Url> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).chain([model]).collect();
        gemini::url(base, &path)
    }

    async fn headers(&self, endpoint: &Endpoint, request: &ModelRequest) -> Result<HeaderMap> {
        let Some(account) = &self.account else {
            return Ok(endpoint.key_header(gemini::API_KEY, ""));
        };
        let token = account.token(endpoint, request.deadline).await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, token);
        Ok(headers)
    }

    fn body(&self, _model: &str, request: &ModelRequest) -> Result<Value> {
        gemini::body(request)
    }

    fn read(
        &self,
        endpoint: &Endpoint,
        data: &str,
        answer: &mut Answer,
    ) -> Result<Vec<ModelEvent>> {
        gemini::read(endpoint, data, answer)
    }
}

/// A service account, and its newest token.
pub(crate) struct Account {
    email: String,
    key_id: Option<String>,
    key: RsaKeyPair,
    token_url: Url,
    /// Asked for apart from the models, so that neither's troubles are the other's.
    upstream: Upstream,
    /// Whoever needs one while another fetches it waits for that.
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    bearer: HeaderValue,
    renew_at: Instant,
}

#[derive(Deserialize)]
struct File {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    token_uri: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

impl Account {
    /// Reads the JSON that Google gives out for a service account's key.
    pub(crate) fn read(json: &str, upstream: Upstream) -> Result<Self, String> {
        let file: File = serde_json::from_str(json)
            .map_err(|_| "credentials_file is not that of a service account".to_owned())?;
        let token_url = file.token_uri.parse();
        let token_url = token_url.map_err(|_| "token_uri is not a URL".to_owned())?;
        let key = rsa_key(&file.private_key).ok_or("private_key is not an RSA key in PKCS #8")?;
        let (email, key_id) = (file.client_email, file.private_key_id);
        Ok(Self { email, key_id, key, token_url, upstream, token: Mutex::new(None) })
    }

    async fn token(&self, endpoint: &Endpoint, deadline: Instant) -> Result<HeaderValue> {
        let mut token = self.token.lock().await;
        if let Some(token) = &*token
            && Instant::now() < token.renew_at
        {
            return Ok(token.bearer.clone());
        }
        let fetched = self.fetch(endpoint, deadline).await?;
        let bearer = fetched.bearer.clone();
        *token = Some(fetched);
        Ok(bearer)
    }

    async fn fetch(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Token> {
        let statement = self.statement().ok_or_else(|| Error::internal("RSA could not sign"))?;
        let asked_at = Instant::now();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, FORM);
        let call = PostJson {
            url: self.token_url.clone(),
            headers,
            body: format!("grant_type={GRANT}&assertion={statement}").into(),
            deadline,
            first_byte_timeout: endpoint.first_byte_timeout,
            idle_timeout: endpoint.idle_timeout,
        };
        let sent = self.upstream.post_json(call).await;
        let (reply, verdict) = sent.map_err(|failure| failures::of_transport(endpoint, failure))?;
        let status = reply.status();
        if status != StatusCode::OK {
            let error = failures::of_status(endpoint, reply).await;
            verdict.succeeded();
            // A statement that is refused is a key that is.
            let code = if status.is_client_error() && error.code == Code::ModelRejected {
                Code::ModelUnauthorized
            } else {
                error.code
            };
            return Err(Error { code, ..error });
        }
        let body = reply.bytes().await;
        let body = body.map_err(|failure| failures::of_transport(endpoint, failure))?;
        let granted: Granted =
            serde_json::from_slice(&body).map_err(|error| failures::unreadable(endpoint, error))?;
        verdict.succeeded();
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", granted.access_token))
            .map_err(|error| failures::unreadable(endpoint, error))?;
        bearer.set_sensitive(true);
        let lives = Duration::from_secs(granted.expires_in).saturating_sub(RENEWED_BEFORE);
        Ok(Token { bearer, renew_at: asked_at + lives })
    }

    /// Who we are, signed: a JSON Web Token.
    fn statement(&self) -> Option<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut head = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            head["kid"] = id.as_str().into();
        }
        let claims = json!({"iss": self.email, "scope": SCOPE, "aud": self.token_url.as_str(),
            "iat": now, "exp": now + STATEMENT_S});
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encoded(&head), encoded(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The key in a PEM block (RFC 7468).
fn rsa_key(pem: &str) -> Option<RsaKeyPair> {
    let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (base64, _) = rest.split_once("-----END PRIVATE KEY-----")?;
    let base64: String = base64.split_whitespace().collect();
    RsaKeyPair::from_pkcs8(&STANDARD.decode(base64).ok()?).ok()
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("email", &self.email).finish_non_exhaustive()
    }
}
