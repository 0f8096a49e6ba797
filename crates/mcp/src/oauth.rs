//! Tokens by client credentials (RFC 6749, section 4.4): got when one is needed,
//! once for all who need it, and used until shortly before they end.

use std::time::Duration;

use agentry_domain::{Code, Error, Result};
use agentry_outbound::{Client, PostForm};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::connector::Credentials;
use crate::failure;

/// How long before its end a token is not used any more.
const BEFORE_END: Duration = Duration::from_secs(30);
/// How long a token is used whose end its issuer does not say.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// The longest a token is used.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The tokens of one connection.
pub(crate) struct Tokens {
    client: Client,
    credentials: Credentials,
    current: Mutex<Option<(HeaderValue, Instant)>>,
}

#[derive(Deserialize)]
struct Issued {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<u64>,
}

impl Tokens {
    pub(crate) fn new(client: Client, credentials: Credentials) -> Self {
        Self { client, credentials, current: Mutex::new(None) }
    }

    /// A token, as the value of `Authorization`; a new one in the place of `refused`.
    pub(crate) async fn token(
        &self,
        refused: Option<&HeaderValue>,
        deadline: Instant,
    ) -> Result<HeaderValue> {
        let mut current = self.current.lock().await;
        if let Some((token, ends)) = &*current
            && refused != Some(token)
            && *ends > Instant::now()
        {
            return Ok(token.clone());
        }
        let (token, ends) = self.ask(deadline).await?;
        *current = Some((token.clone(), ends));
        Ok(token)
    }

    async fn ask(&self, deadline: Instant) -> Result<(HeaderValue, Instant)> {
        let Credentials { token_url, client_id, client_secret, scope } = &self.credentials;
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            encoded(client_id),
            encoded(client_secret)
        );
        if let Some(scope) = scope {
            form.push_str("&scope=");
            form.push_str(&encoded(scope));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let call = PostForm { url: token_url.clone(), headers, form, deadline };
        let reply = self.client.post_form(call).await.map_err(failure::of_outbound)?;
        let status = reply.status();
        if status != StatusCode::OK {
            let code = match status.as_u16() {
                400 | 401 | 403 => Code::McpUnauthorized,
                _ => Code::McpUnreachable,
            };
            let detail = format!("who issues tokens answered with status {}", status.as_u16());
            return Err(Error::new(code, detail));
        }
        let body = reply.bytes().await.map_err(failure::of_outbound)?;
        let unreadable = || Error::new(Code::McpBadResponse, "who issues tokens issued none");
        let issued: Issued = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let is_bearer = issued.token_type.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        let value = HeaderValue::try_from(format!("Bearer {}", issued.access_token));
        let mut value = value.ok().filter(|_| is_bearer).ok_or_else(unreadable)?;
        value.set_sensitive(true);
        let lifetime = issued.expires_in.map_or(LIFETIME_DEFAULT, Duration::from_secs);
        let used = lifetime.min(LIFETIME_MAX).saturating_sub(BEFORE_END);
        Ok((value, Instant::now() + used))
    }
}
