//! Encryption on the way to PostgreSQL: what a URL says of it in libpq's words,
//! and the connector that holds it to that. A server's certificate is always
//! checked, with its name: against the authorities of `sslrootcert`, a PEM file,
//! or else against those that browsers trust.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Result, StoreError};

/// A URL as the driver reads it, and the file of `sslrootcert`, which it does
/// not know. The modes that check a certificate are the driver's `require`.
pub(super) fn split(url: &str) -> (String, Option<PathBuf>) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let mut authorities = None;
    let mut rest = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslrootcert", file)) => {
                let file = percent_encoding::percent_decode_str(file).decode_utf8_lossy();
                authorities = Some(PathBuf::from(file.into_owned()));
            }
            Some(("sslmode", "verify-ca" | "verify-full")) => rest.push("sslmode=require"),
            _ => rest.push(pair),
        }
    }
    let query = rest.join("&");
    let url = if query.is_empty() { base.to_owned() } else { format!("{base}?{query}") };
    (url, authorities)
}

/// What opens encrypted connections.
///
/// # Errors
/// [`StoreError::Unavailable`] when the file of authorities has none or cannot
/// be read.
pub(super) fn connector(authorities: Option<&Path>) -> Result<MakeRustlsConnect> {
    // Fails when another provider is the process's already, which then is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Some(file) = authorities else { return Ok(MakeRustlsConnect::with_webpki_roots()) };
    let unusable = |why: String| {
        StoreError::Unavailable(format!("sslrootcert {}: {why}", file.display()).into())
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| unusable(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_the_driver_s_without_the_authorities() {
        let check = |url: &str, expected: &str, file: Option<&str>| {
            assert_eq!(split(url), (expected.to_owned(), file.map(PathBuf::from)), "{url}");
        };
        check("postgres://h/d", "postgres://h/d", None);
        check("postgres://h/d?sslmode=disable", "postgres://h/d?sslmode=disable", None);
        check("postgres://h/d?sslrootcert=/a%20b/ca.pem", "postgres://h/d", Some("/a b/ca.pem"));
        check(
            "postgres://h/d?sslmode=verify-full&sslrootcert=ca.pem&connect_timeout=3",
            "postgres://h/d?sslmode=require&connect_timeout=3",
            Some("ca.pem"),
        );
    }

    #[test]
    fn a_file_without_authorities_is_refused() {
        let directory = agentry_testkit::TempDir::new();
        let file = directory.path().join("ca.pem");
        let why = |file: &Path| connector(Some(file)).err().map(|error| format!("{error:?}"));
        assert!(why(&file).is_some_and(|why| why.contains("ca.pem")));
        std::fs::write(&file, "no certificate").unwrap();
        assert!(why(&file).is_some_and(|why| why.contains("holds no certificate")));
    }
}
