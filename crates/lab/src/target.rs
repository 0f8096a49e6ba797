//! What is measured: where it listens.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};

/// An HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    secure: bool,
    host: String,
    port: u16,
    authority: String,
}

impl Target {
    /// # Errors
    /// A sentence saying what is wrong with the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (target, path) = Self::with_path(url)?;
        if path != "/" {
            return Err(format!(
                "`{url}` has a path; a target is http://HOST:PORT or https://HOST:PORT"
            ));
        }
        Ok(target)
    }

    /// The target of a URL, and its path with the query.
    ///
    /// # Errors
    /// A sentence saying what is wrong with the URL.
    pub(crate) fn with_path(url: &str) -> Result<(Self, String), String> {
        let uri: http::Uri = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("`{url}` is no URL such as http://127.0.0.1:8881")),
        };
        let authority = uri.authority().ok_or_else(|| format!("`{url}` has no host"))?;
        if authority.as_str().contains('@') {
            return Err(format!("`{url}`: put credentials in a header, not in the URL"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let target = Self {
            secure,
            host,
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok((target, path))
    }

    /// `HOST:PORT` as in the header `Host`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Whether it is reached over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Looks the name up.
    ///
    /// # Errors
    /// When nothing has that name.
    pub(crate) fn resolve(&self) -> io::Result<SocketAddr> {
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "no address");
        addresses.next().ok_or_else(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let (target, path) = Target::with_path("http://127.0.0.1:80/a/b?c=d").unwrap();
        assert_eq!((target.authority(), path.as_str()), ("127.0.0.1:80", "/a/b?c=d"));
        assert_eq!(Target::parse("http://[::1]:9").unwrap().resolve().unwrap().port(), 9);
        let secure = Target::parse("https://example.org").unwrap();
        assert_eq!((secure.is_secure(), secure.port), (true, 443));
        assert_eq!(secure.url(), "https://example.org");
        for wrong in ["", "x", "ftp://x", "https://", "http://u:p@x", "http://x/path", "http://"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
