//! The address guard: calls to URLs that came through the API go to public
//! addresses only, so that nobody makes this server ask its own network.
//!
//! A host that is an address is checked as such, in whatever spelling: the URL
//! parser reads `127.1`, `0x7f000001`, `017700000001` and `2130706433` as the
//! address that they are (WHATWG URL, "IPv4 parser"). A name is looked up by the
//! connector itself, through [`GuardedResolver`], which hands on checked
//! addresses alone: nothing is looked up a second time between the check and the
//! connection, so an answer that changes in between does not help. Redirects are
//! not followed by anybody ([`crate::Client`]).

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

/// Names that lead into the machine or its surroundings whatever they resolve
/// to; each stands for all that end in it, too.
const NAMES_REFUSED: &[&str] =
    &["internal", "local", "home.arpa", "metadata", "metadata.goog", "instance-data"];
/// The name of this machine (RFC 6761, section 6.3), and all that end in it.
const LOOPBACK_NAME: &str = "localhost";
/// The metadata service of a large cloud that has a public address.
const METADATA_PUBLIC: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Blocks of IPv4 that are not for everybody (IANA special-purpose registry,
/// RFC 6890): the first address and the length of the prefix.
const V4_REFUSED: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (METADATA_PUBLIC, 32),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What everybody can reach over IPv6 (RFC 4291, section 2.4). What wraps IPv4,
/// such as mapped, compatible and NAT64 addresses, is outside of it, and so are
/// unique-local, link-local and multicast ones.
const V6_GLOBAL: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Blocks within it that are not for everybody: protocol assignments (with
/// Teredo, which wraps IPv4), documentation, 6to4 (which wraps IPv4).
const V6_REFUSED: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Why a URL is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Neither `http` nor `https`.
    #[error("only http and https URLs are called")]
    Scheme,
    /// A name or a password in the URL.
    #[error("a URL must not carry credentials")]
    Credentials,
    /// No host.
    #[error("the URL has no host")]
    NoHost,
    /// The host is, or has become, an address that is not public.
    #[error("the host is not at a public address")]
    Address,
    /// The host's name is one of this machine or its network.
    #[error("the host's name is not a public one")]
    Name,
}

/// Which targets are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Whether this machine's own loopback addresses are.
    pub loopback_allowed: bool,
}

impl Guard {
    /// Whether a URL may be called, as far as it says by itself; what its name
    /// resolves to is checked when a connection is made.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        match url.host() {
            None => Err(Refused::NoHost),
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            Some(Host::Domain(name)) => self.check_name(name),
        }
    }

    /// Whether a connection may be made to this address.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Refused> {
        if self.loopback_allowed && address.is_loopback() {
            return Ok(());
        }
        let is_public = match address {
            IpAddr::V4(address) => !V4_REFUSED.iter().any(|block| is_in_v4(address, *block)),
            IpAddr::V6(address) => {
                is_in_v6(address, V6_GLOBAL)
                    && !V6_REFUSED.iter().any(|block| is_in_v6(address, *block))
            }
        };
        if is_public { Ok(()) } else { Err(Refused::Address) }
    }

    fn check_name(&self, name: &str) -> Result<(), Refused> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_in = |domain: &&str| {
            name.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let is_loopback = is_in(&LOOPBACK_NAME) && !self.loopback_allowed;
        if name.is_empty() || is_loopback || NAMES_REFUSED.iter().any(is_in) {
            return Err(Refused::Name);
        }
        Ok(())
    }
}

fn is_in_v4(address: Ipv4Addr, (first, prefix): (Ipv4Addr, u32)) -> bool {
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= prefix
}

fn is_in_v6(address: Ipv6Addr, (first, prefix): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= prefix
}

/// Finds the addresses of a name. The system's resolver, and in tests another.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of this name.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// What the connector asks for addresses. It connects to nothing else.
#[derive(Clone)]
pub(crate) struct GuardedResolver {
    pub(crate) guard: Guard,
    pub(crate) lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup) = (self.guard, Arc::clone(&self.lookup));
        Box::pin(async move {
            guard.check_name(name.as_str())?;
            let mut addresses = lookup.lookup(name.as_str().to_owned()).await?;
            let found = addresses.len();
            // Those that are public stay: behind NAT64 a public name has a
            // wrapped address beside its own.
            addresses.retain(|address| guard.check_address(*address).is_ok());
            if addresses.is_empty() && found > 0 {
                return Err(Refused::Address.into());
            }
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// What the guard refused, if that is why a call failed.
pub(crate) fn refused_in(error: &reqwest::Error) -> Option<Refused> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return Some(refused.clone());
        }
        next = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(guard: Guard, url: &str) -> Result<(), Refused> {
        guard.check(&url.parse().unwrap_or_else(|error| panic!("{url}: {error}")))
    }

    const STRICT: Guard = Guard { loopback_allowed: false };

    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_spelling() {
        let refused = [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "0",
            "0.0.0.0",
            "１２７.0.0.1",
            "127%2e0%2e0%2e1",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "0300.0250.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.9",
            "192.88.99.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:8.8.8.8]",
            "[::127.0.0.1]",
            "[::8.8.8.8]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::8.8.8.8]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "[2002:a00:1::1]",
            "[2001:0:1:2:3:4:80ff:fffe]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[100::1]",
            "[5f00::1]",
        ];
        for host in refused {
            assert_eq!(
                checked(STRICT, &format!("http://{host}:80/x")),
                Err(Refused::Address),
                "{host}"
            );
        }
        for host in [
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "[2600::1]",
            "[2a00:1450:4001::1]",
            "[2001:200::1]",
            "[2003::1]",
        ] {
            assert_eq!(checked(STRICT, &format!("https://{host}/")), Ok(()), "{host}");
        }
    }

    #[test]
    fn names_of_the_machine_and_its_network_are_refused() {
        for name in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "x.localhost",
            "metadata",
            "metadata.google.internal",
            "METADATA.google.internal.",
            "instance-data.ec2.internal",
            "instance-data",
            "metadata.goog",
            "printer.local",
            "router.home.arpa",
            "host.docker.internal",
        ] {
            assert_eq!(checked(STRICT, &format!("http://{name}/")), Err(Refused::Name), "{name}");
        }
        for name in [
            "example.com",
            "notlocalhost",
            "mylocal",
            "metadata.example.com",
            "localhost.example.com",
        ] {
            assert_eq!(checked(STRICT, &format!("http://{name}/")), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_url_is_plain_http_without_credentials() {
        assert_eq!(checked(STRICT, "ftp://example.com/"), Err(Refused::Scheme));
        assert_eq!(checked(STRICT, "file:///etc/passwd"), Err(Refused::Scheme));
        assert_eq!(checked(STRICT, "unix:/run/docker.sock"), Err(Refused::Scheme));
        assert_eq!(checked(STRICT, "http://user@example.com/"), Err(Refused::Credentials));
        assert_eq!(checked(STRICT, "http://:secret@example.com/"), Err(Refused::Credentials));
        assert_eq!(checked(STRICT, "http://127.0.0.1:80@example.com/"), Err(Refused::Credentials));
    }

    #[test]
    fn loopback_can_be_allowed_and_nothing_else_with_it() {
        let open = Guard { loopback_allowed: true };
        for host in ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "x.localhost"] {
            assert_eq!(checked(open, &format!("http://{host}:1/")), Ok(()), "{host}");
        }
        for host in
            ["0.0.0.0", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "[::]", "metadata"]
        {
            assert!(checked(open, &format!("http://{host}:1/")).is_err(), "{host}");
        }
    }
}
