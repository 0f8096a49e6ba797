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

use crate::tokens::{Tokens, is_token};
use crate::websocket::subprotocols;

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

/// What a request shows of who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<'r> {
    /// A key.
    Key(&'r str),
    /// A ticket, for one stream.
    Ticket(&'r str),
    /// Nothing that can be read; this says what to send.
    Nothing(&'static str),
}

/// What a subprotocol begins with that carries a key.
const SUBPROTOCOL_KEY: &str = "agentry.key.";
/// What a subprotocol begins with that carries a ticket.
const SUBPROTOCOL_TICKET: &str = "agentry.ticket.";
/// The query parameter that carries a ticket. It is no secret any more once it
/// could be read in somebody's log.
const QUERY_TICKET: &str = "ticket";

/// Finds the caller, by a key or, where a provider is configured, by its token.
/// With [`AccessMode::Loopback`] the port is asked with the
/// empty secret.
pub async fn authenticate(
    mode: AccessMode,
    port: &dyn Authenticate,
    tokens: Option<&Tokens>,
    shown: Shown<'_>,
) -> Result<Caller> {
    match (mode, shown) {
        (AccessMode::Loopback, _) => port.authenticate("").await,
        (AccessMode::Keys, Shown::Key(secret)) => match tokens.filter(|_| is_token(secret)) {
            Some(tokens) => tokens.authenticate(secret, port).await,
            None => port.authenticate(secret).await,
        },
        (AccessMode::Keys, Shown::Ticket(ticket)) => port.redeem(ticket).await,
        (AccessMode::Keys, Shown::Nothing(detail)) => {
            Err(Error::new(Code::Unauthenticated, detail))
        }
    }
}

/// Reads what a request shows: `X-API-Key`, else `Authorization: Bearer`. A
/// stream may also be opened with a subprotocol or a ticket, because pages in a
/// browser cannot send headers with it.
pub fn shown<'r>(headers: &'r HeaderMap, uri: &'r Uri, is_stream: bool) -> Shown<'r> {
    if let Some(key) = headers.get(X_API_KEY) {
        let key = key.to_str().map(|key| Shown::Key(key.trim()));
        return key.unwrap_or(Shown::Nothing("X-API-Key holds no key"));
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let Ok(value) = value.to_str() else {
            return Shown::Nothing("Authorization holds no key");
        };
        return match value.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Shown::Key(key.trim()),
            _ => Shown::Nothing("Authorization must be `Bearer` and a key"),
        };
    }
    let of_stream = is_stream.then(|| of_stream(headers, uri)).flatten();
    of_stream.unwrap_or(Shown::Nothing("send a key as X-API-Key or as Authorization: Bearer"))
}

fn of_stream<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Option<Shown<'r>> {
    for name in subprotocols(headers) {
        if let Some(key) = name.strip_prefix(SUBPROTOCOL_KEY) {
            return Some(Shown::Key(key));
        }
        if let Some(ticket) = name.strip_prefix(SUBPROTOCOL_TICKET) {
            return Some(Shown::Ticket(ticket));
        }
    }
    let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == QUERY_TICKET).map(|(_, ticket)| Shown::Ticket(ticket))
}

/// Refuses a stream that a page from elsewhere opens: no browser asks first
/// whether it may, as it does for other requests (RFC 6455, section 10.2).
pub fn check_page(allowed: &[String], headers: &HeaderMap, uri: &Uri) -> Result<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(http::uri::Authority::as_str),
    };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let is_own =
        matches!((authority, host), (Some(from), Some(to)) if from.eq_ignore_ascii_case(to));
    if is_own || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    Err(Error::new(
        Code::Forbidden,
        "pages of this origin may not open streams; the setting http.origins lists those that may",
    ))
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
        let nothing = None;
        for (pairs, expected) in [
            (&[("x-api-key", "ak_1")][..], Some(Shown::Key("ak_1"))),
            (&[("authorization", "Bearer ak_2")][..], Some(Shown::Key("ak_2"))),
            (&[("authorization", "bearer  ak_2")][..], Some(Shown::Key("ak_2"))),
            (
                &[("x-api-key", "ak_1"), ("authorization", "Bearer ak_2")][..],
                Some(Shown::Key("ak_1")),
            ),
            (&[("authorization", "Basic YTpi")][..], nothing),
            (&[("authorization", "ak_2")][..], nothing),
            (&[("sec-websocket-protocol", "agentry.key.ak_3")][..], nothing),
            (&[][..], nothing),
        ] {
            let headers = headers(pairs);
            let uri = Uri::from_static("/api/v1/agents?ticket=at_1");
            match shown(&headers, &uri, false) {
                Shown::Nothing(_) => assert_eq!(expected, nothing, "{pairs:?}"),
                found => assert_eq!(Some(found), expected, "{pairs:?}"),
            }
        }
    }

    #[test]
    fn a_stream_may_be_opened_with_a_subprotocol_or_a_ticket() {
        for (pairs, uri, expected) in [
            (&[("x-api-key", "ak_1")][..], "/ws/events?ticket=at_1", Some(Shown::Key("ak_1"))),
            (
                &[("sec-websocket-protocol", "agentry.events, agentry.key.ak_3")][..],
                "/ws/events",
                Some(Shown::Key("ak_3")),
            ),
            (
                &[("sec-websocket-protocol", "agentry.ticket.at_2")][..],
                "/ws/events?ticket=at_1",
                Some(Shown::Ticket("at_2")),
            ),
            (&[][..], "/events?after=3&ticket=at_1", Some(Shown::Ticket("at_1"))),
            (&[][..], "/events?tickets=at_1", None),
            (&[][..], "/events", None),
        ] {
            let (headers, parsed) = (headers(pairs), Uri::from_static(uri));
            match shown(&headers, &parsed, true) {
                Shown::Nothing(_) => assert_eq!(expected, None, "{pairs:?} {uri}"),
                found => assert_eq!(Some(found), expected, "{pairs:?} {uri}"),
            }
        }
    }

    #[test]
    fn a_page_from_elsewhere_opens_no_stream() {
        let allowed = ["https://app.example".to_owned()];
        for (host, origin, passes) in [
            ("agents.example", None, true),
            ("agents.example", Some("https://agents.example"), true),
            ("Agents.Example:8881", Some("http://agents.example:8881"), true),
            ("agents.example", Some("https://app.example"), true),
            ("agents.example", Some("http://app.example"), false),
            ("agents.example", Some("https://agents.example:444"), false),
            ("agents.example", Some("https://agents.example.evil"), false),
            ("agents.example", Some("null"), false),
            ("agents.example", Some(""), false),
        ] {
            let mut pairs = vec![("host", host)];
            pairs.extend(origin.map(|origin| ("origin", origin)));
            let checked = check_page(&allowed, &headers(&pairs), &Uri::from_static("/events"));
            assert_eq!(checked.is_ok(), passes, "{host} {origin:?}");
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
