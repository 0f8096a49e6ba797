//! How a connection is made: plain or over TLS, and which HTTP is spoken on it.
//! Every connection makes a full handshake of its own, as that of a client that
//! was never there before: no session is resumed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connection::Failure;
use crate::target::Target;

/// The names of the protocols in a TLS handshake (RFC 7301).
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What the target chooses over TLS; HTTP/1.1 without it.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113, 3.3).
    Http2,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "http1" => Ok(Self::Http1),
            "http2" => Ok(Self::Http2),
            _ => Err(format!("a protocol is auto, http1 or http2, not `{text}`")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        })
    }
}

/// What the scenario or the command line says of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// Which HTTP.
    pub protocol: Protocol,
    /// Any certificate will do.
    pub insecure: bool,
    /// A PEM file; what it certifies is trusted, and nothing else.
    pub ca: Option<PathBuf>,
}

/// Makes connections to one target.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    protocol: Protocol,
    tls: Option<Tls>,
}

#[derive(Clone, Debug)]
struct Tls {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// WebSockets begin with HTTP/1.1.
    http1: Arc<ClientConfig>,
}

/// A connection, by what is spoken on it.
#[derive(Debug)]
pub(crate) enum Made {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    PlainH2(TcpStream),
    TlsH2(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// # Errors
    /// A sentence about the certificates that cannot be read.
    pub(crate) fn connector(&self, target: &Target) -> Result<Connector, String> {
        let protocol = self.protocol;
        if !target.is_secure() {
            return Ok(Connector { protocol, tls: None });
        }
        let name = ServerName::try_from(target.host().to_owned())
            .map_err(|error| format!("`{}` is no name for TLS: {error}", target.host()))?;
        let mut http1 = self.client_config()?;
        http1.resumption = Resumption::disabled();
        http1.alpn_protocols = vec![HTTP1.to_vec()];
        let mut config = http1.clone();
        config.alpn_protocols = match protocol {
            Protocol::Auto => vec![H2.to_vec(), HTTP1.to_vec()],
            Protocol::Http1 => vec![HTTP1.to_vec()],
            Protocol::Http2 => vec![H2.to_vec()],
        };
        let tls = Tls { name, config: Arc::new(config), http1: Arc::new(http1) };
        Ok(Connector { protocol, tls: Some(tls) })
    }

    fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?;
        if self.insecure {
            let verifier = Arc::new(Anyone(provider));
            return Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth());
        }
        Ok(builder.with_root_certificates(self.roots()?).with_no_client_auth())
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.ca else {
            // A store in which some certificates cannot be read has others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        let shown = path.display();
        let read = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("{shown}: {error}"))?;
        if read.is_empty() {
            return Err(format!("{shown}: no certificate in it"));
        }
        for certificate in read {
            roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
        }
        Ok(roots)
    }
}

impl Connector {
    /// Whether making a connection asks more of the target than to accept it.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<Made, Failure> {
        let stream = tcp(address).await?;
        let Some(tls) = &self.tls else {
            return Ok(match self.protocol {
                Protocol::Http2 => Made::PlainH2(stream),
                Protocol::Auto | Protocol::Http1 => Made::Plain(stream),
            });
        };
        // Large, and not part of every plain user's memory.
        let stream = Box::pin(shake(stream, tls.name.clone(), &tls.config)).await?;
        let chosen = stream.get_ref().1.alpn_protocol();
        if chosen == Some(H2) {
            return Ok(Made::TlsH2(stream));
        }
        if self.protocol == Protocol::Http2 {
            return Err(Failure::new("connect_tls", "the target does not offer HTTP/2"));
        }
        Ok(Made::Tls(stream))
    }

    /// A connection on which HTTP/1.1 is spoken, whatever the others speak.
    pub(crate) async fn connect_http1(&self, address: SocketAddr) -> Result<Made, Failure> {
        let stream = tcp(address).await?;
        let Some(tls) = &self.tls else { return Ok(Made::Plain(stream)) };
        Ok(Made::Tls(Box::pin(shake(stream, tls.name.clone(), &tls.http1)).await?))
    }
}

async fn tcp(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| {
        let class = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect_refused",
            io::ErrorKind::TimedOut => "connect_timeout",
            _ => "connect_failed",
        };
        Failure::new(class, error.to_string())
    })?;
    stream.set_nodelay(true).map_err(|error| Failure::new("connect_failed", error.to_string()))?;
    Ok(stream)
}

async fn shake(
    stream: TcpStream,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
) -> Result<Box<TlsStream<TcpStream>>, Failure> {
    let shaken = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    shaken.map(Box::new).map_err(|error| {
        let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let detail = match told {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                format!("its certificate is not trusted: {reason}; --ca FILE or --insecure")
            }
            Some(rustls::Error::InvalidMessage(_)) => format!("it does not speak TLS: {error}"),
            _ => format!("the TLS handshake failed: {error}"),
        };
        Failure::new("connect_tls", detail)
    })
}

/// Takes any certificate, and still checks that the other side holds its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
