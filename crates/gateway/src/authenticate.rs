//! Who is asking. Reads the credential from the request and asks the domain's
//! [`Authenticate`] port whose it is; knows nothing of how keys are kept.
//!
//! Without keys (`--auth none`, loopback binds only) any page in the user's
//! browser could reach the server, so then the `Host` must be a loopback name
//! (against DNS rebinding) and a browser's `Origin` must be one too.

use std::net::IpAddr;

use agentry_domain::ports::Authenticate;
use agentry_domain::{Caller, Code, Error, Result};
use http::{HeaderMap, HeaderName, Uri, header};

/// The header for a key.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How callers prove who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessMode {
    /// By an API key.
    Keys,
    /// By being on this machine: no credential, but `Host` and `Origin` must be
    /// loopback.
    Loopback,
}

/// Finds the caller. With [`AccessMode::Loopback`] the port is asked with the
/// empty secret.
pub async fn authenticate(
    mode: AccessMode,
    port: &dyn Authenticate,
    headers: &HeaderMap,
) -> Result<Caller> {
    match mode {
        AccessMode::Keys => port.authenticate(credential(headers)?).await,
        AccessMode::Loopback => port.authenticate("").await,
    }
}

/// The secret that was shown: `X-API-Key`, else `Authorization: Bearer`.
fn credential(headers: &HeaderMap) -> Result<&str> {
    let refused = |detail| Error::new(Code::Unauthenticated, detail);
    if let Some(key) = headers.get(X_API_KEY) {
        let key = key.to_str().map_err(|_| refused("X-API-Key holds no key"))?;
        return Ok(key.trim());
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(refused("send a key as X-API-Key or as Authorization: Bearer"));
    };
    let value = value.to_str().map_err(|_| refused("Authorization holds no key"))?;
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(refused("Authorization must be `Bearer` and a key")),
    }
}

/// With [`AccessMode::Loopback`], refuses what did not come to a loopback name
/// or was sent by a page from elsewhere.
pub fn check_origin(mode: AccessMode, headers: &HeaderMap, uri: &Uri) -> Result<()> {
    if mode == AccessMode::Keys {
        return Ok(());
    }
    // HTTP/2 carries the host in the URI.
    let host = match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(http::uri::Authority::as_str),
    };
    if !host.is_some_and(is_loopback) {
        return Err(Error::new(
            Code::Forbidden,
            "without keys the server answers to loopback host names only",
        ));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if authority.is_some_and(is_loopback) {
        Ok(())
    } else {
        Err(Error::new(
            Code::Forbidden,
            "without keys the server answers to pages of this machine only",
        ))
    }
}

fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_credential_is_read_from_either_header() {
        for (pairs, expected) in [
            (&[("x-api-key", "ak_1")][..], Some("ak_1")),
            (&[("authorization", "Bearer ak_2")][..], Some("ak_2")),
            (&[("authorization", "bearer  ak_2")][..], Some("ak_2")),
            (&[("x-api-key", "ak_1"), ("authorization", "Bearer ak_2")][..], Some("ak_1")),
            (&[("authorization", "Basic YTpi")][..], None),
            (&[("authorization", "ak_2")][..], None),
            (&[][..], None),
        ] {
            let headers = headers(pairs);
            match credential(&headers) {
                Ok(secret) => assert_eq!(Some(secret), expected, "{pairs:?}"),
                Err(error) => {
                    assert_eq!(expected, None, "{pairs:?}");
                    assert_eq!(error.code, Code::Unauthenticated);
                }
            }
        }
    }

    #[test]
    fn without_keys_only_loopback_hosts_and_origins_pass() {
        for (host, origin, passes) in [
            (Some("localhost:8881"), None, true),
            (Some("127.0.0.1:8881"), None, true),
            (Some("127.8.8.8"), None, true),
            (Some("[::1]:8881"), None, true),
            (Some("LOCALHOST"), Some("http://localhost:5173"), true),
            (Some("localhost"), Some("https://[::1]"), true),
            (Some("evil.example"), None, false),
            (Some("localhost.evil.example"), None, false),
            (Some("localhost@evil.example"), None, false),
            (Some("10.0.0.1:8881"), None, false),
            (None, None, false),
            (Some("localhost"), Some("http://evil.example"), false),
            (Some("localhost"), Some("null"), false),
            (Some("localhost"), Some(""), false),
            (Some("localhost"), Some("http://localhost@evil.example"), false),
        ] {
            let mut pairs = Vec::new();
            pairs.extend(host.map(|host| ("host", host)));
            pairs.extend(origin.map(|origin| ("origin", origin)));
            let headers = headers(&pairs);
            let uri = Uri::from_static("/api");
            let checked = check_origin(AccessMode::Loopback, &headers, &uri);
            assert_eq!(checked.is_ok(), passes, "{host:?} {origin:?}");
            assert!(check_origin(AccessMode::Keys, &headers, &uri).is_ok());
        }
    }
}
