//! Where a request came from: the peer of the connection or, when that is a proxy
//! that is trusted, whom it says that it speaks for.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies in a row that are followed.
const HOPS_MAX: usize = 16;

/// The other end of the connection. Stands in the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Networks whose proxies are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Reads networks, such as `10.0.0.0/8`, and single addresses; the first that
    /// is neither is an error.
    pub fn parse(networks: &[String]) -> Result<Self, String> {
        let network = |text: &String| {
            let whole = || text.parse::<IpAddr>().ok().map(IpNet::from);
            text.parse::<IpNet>().ok().or_else(whole).ok_or_else(|| text.clone())
        };
        networks.iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whom a request came from. What a proxy that is not trusted says, or wrote
    /// before the first trusted one, counts for nothing.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if self.0.is_empty() || !self.has(client) {
            return client;
        }
        // The nearest proxy wrote last.
        let said = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let hops = said
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','))
            .take(HOPS_MAX);
        for hop in hops {
            let Some(address) = address_of(hop.trim()) else { break };
            client = address;
            if !self.has(client) {
                break;
            }
        }
        client
    }
}

/// Reads an address, which may have a port or stand in brackets.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let alone = || bare.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    alone().or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = ["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let trusted = TrustedProxies::parse(&trusted).unwrap();
        for (peer, said, client) in [
            ("192.0.2.1", &[][..], "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.1.2.3", &["203.0.113.9"][..], "203.0.113.9"),
            ("10.1.2.3", &["1.1.1.1, 203.0.113.9"][..], "203.0.113.9"),
            ("10.1.2.3", &["1.1.1.1", "203.0.113.9, 10.9.9.9"][..], "203.0.113.9"),
            ("10.1.2.3", &["203.0.113.9:4711"][..], "203.0.113.9"),
            ("10.1.2.3", &["[2001:db8::7]"][..], "2001:db8::7"),
            ("10.1.2.3", &["[2001:db8::7]:80"][..], "2001:db8::7"),
            ("10.1.2.3", &["203.0.113.9, unknown"][..], "10.1.2.3"),
            ("10.1.2.3", &["nonsense, 10.0.0.9"][..], "10.0.0.9"),
            ("10.1.2.3", &[][..], "10.1.2.3"),
            ("::ffff:10.1.2.3", &["::ffff:203.0.113.9"][..], "203.0.113.9"),
            ("::1", &["203.0.113.9"][..], "203.0.113.9"),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
            }
            let found = trusted.client(peer.parse().unwrap(), &headers);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {said:?}");
        }
        assert_eq!(
            TrustedProxies::parse(&["10.0.0.0/33".to_owned()]),
            Err("10.0.0.0/33".to_owned())
        );
    }
}
