//! The proxy settings in environment variables.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use echoring_proto::Url;
use echoring_proto::tunnel::{BadProxy, ProxyKind, ProxyServer};

/// Proxies and exceptions from the environment.
#[derive(Clone)]
pub(super) struct EnvironmentProxies {
    plain: Option<ProxyServer>,
    secure: Option<ProxyServer>,
    exceptions: Vec<Exception>,
}

/// An element of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    All,
    Address(IpAddr, Option<u16>),
    Network(IpAddr, u8),
    /// A host name; with `below`, only its subdomains.
    Name {
        suffix: String,
        below: bool,
        port: Option<u16>,
    },
}

impl EnvironmentProxies {
    /// Reads the settings with `variable`.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<EnvironmentProxies, BadProxy> {
        let either = |name: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
            set(&name.to_ascii_lowercase()).or_else(|| set(name))
        };
        let server = |value: Option<String>| {
            value.map(|value| ProxyServer::parse_any(value.trim(), ProxyKind::Http)).transpose()
        };
        let all = server(either("ALL_PROXY"))?;
        let http = if variable("REQUEST_METHOD").is_some() { None } else { either("HTTP_PROXY") };
        Ok(EnvironmentProxies {
            plain: server(http)?.or_else(|| all.clone()),
            secure: server(either("HTTPS_PROXY"))?.or(all),
            exceptions: either("NO_PROXY").map(|list| exceptions(&list)).unwrap_or_default(),
        })
    }

    pub(super) fn to(&self, url: &Url) -> Option<&ProxyServer> {
        let server = if url.secure { self.secure.as_ref() } else { self.plain.as_ref() }?;
        let address = url.host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let host = url.host.trim_end_matches('.').to_ascii_lowercase();
        let local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let excepted =
            local || self.exceptions.iter().any(|exception| exception.is(&host, address, url.port));
        (!excepted).then_some(server)
    }
}

fn exceptions(list: &str) -> Vec<Exception> {
    list.split(',').map(str::trim).filter_map(Exception::parse).collect()
}

impl Exception {
    /// Elements that cannot be parsed are ignored, as other programs do.
    fn parse(text: &str) -> Option<Exception> {
        if text == "*" {
            return Some(Exception::All);
        }
        if let Some((network, bits)) = text.split_once('/') {
            let network: IpAddr = network.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            return (bits <= address_bits(network)).then_some(Exception::Network(network, bits));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Exception::Address(address.to_canonical(), None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Exception::Address(address.to_canonical(), port));
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let name = host.trim_matches('.');
        let suffix = format!(".{}", name.to_ascii_lowercase());
        (!name.is_empty()).then_some(Exception::Name { suffix, below: host.starts_with('.'), port })
    }

    fn is(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let fits = |listed: &Option<u16>| listed.is_none_or(|listed| listed == port);
        match self {
            Exception::All => true,
            Exception::Address(listed, listed_port) => address == Some(*listed) && fits(listed_port),
            Exception::Network(network, bits) => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Exception::Name { suffix, below, port: listed } => {
                address.is_none()
                    && fits(listed)
                    && (host.ends_with(suffix) || (!below && suffix.strip_prefix('.') == Some(host)))
            }
        }
    }
}

fn address_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    // Shift out the host bits; a shift by all bits would overflow.
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(variables: &[(&str, &str)]) -> EnvironmentProxies {
        let set =
            |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        EnvironmentProxies::read(set).expect("rules")
    }

    fn way(rules: &EnvironmentProxies, url: &str) -> Option<String> {
        rules.to(&Url::parse(url).expect("a URL")).map(ToString::to_string)
    }

    #[test]
    fn the_scheme_chooses_the_variable() {
        let both = rules(&[("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "http://secure:2")]);
        assert_eq!(way(&both, "ws://h").as_deref(), Some("http://plain:1"));
        assert_eq!(way(&both, "wss://h").as_deref(), Some("http://secure:2"));
        let all = rules(&[("ALL_PROXY", "socks5://all"), ("https_proxy", "secure:2"), ("HTTP_PROXY", " ")]);
        assert_eq!(way(&all, "ws://h").as_deref(), Some("socks5://all:1080"));
        assert_eq!(way(&all, "wss://h").as_deref(), Some("http://secure:2"));
        let lower = rules(&[("HTTP_PROXY", "http://upper:1"), ("http_proxy", "http://lower:1")]);
        assert_eq!(way(&lower, "ws://h").as_deref(), Some("http://lower:1"));
        let cgi = rules(&[("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(way(&cgi, "ws://h"), None);
        assert_eq!(way(&rules(&[]), "ws://h"), None);
        let bad = EnvironmentProxies::read(|name| (name == "ALL_PROXY").then(|| "ftp://h".to_owned()));
        assert_eq!(bad.err(), Some(BadProxy::Scheme));
    }

    #[test]
    fn exceptions_are_respected() {
        let cases: [(&str, &str, bool); 29] = [
            ("", "ws://localhost", true),
            ("", "ws://LOCALHOST.:80", true),
            ("", "ws://127.0.0.2", true),
            ("", "ws://[::1]", true),
            ("", "ws://example.com", false),
            ("*", "ws://example.com", true),
            ("example.com", "ws://example.com", true),
            ("example.com", "ws://a.EXAMPLE.com", true),
            ("example.com", "ws://notexample.com", false),
            ("example.com", "ws://example.com.evil", false),
            (".example.com", "ws://example.com", false),
            (".example.com", "ws://a.example.com", true),
            ("*.example.com", "ws://a.b.example.com", true),
            ("a, example.com ,b", "ws://example.com", true),
            ("example.com:8080", "ws://example.com:8080", true),
            ("example.com:8080", "ws://example.com", false),
            ("10.1.2.3", "ws://10.1.2.3:5", true),
            ("10.1.2.3:5", "ws://10.1.2.3:6", false),
            ("10.0.0.0/8", "ws://10.255.0.1", true),
            ("10.0.0.0/8", "ws://11.0.0.1", false),
            ("0.0.0.0/0", "ws://8.8.8.8", true),
            ("0.0.0.0/0", "ws://[2001:db8::1]", false),
            ("2001:db8::/32", "ws://[2001:db8::1]", true),
            ("2001:db8::/32", "ws://[2001:db9::1]", false),
            ("[2001:db8::1]:80", "ws://[2001:db8::1]", true),
            ("2001:db8::1", "ws://[2001:db8::1]:99", true),
            ("10.1.2.3", "ws://[::ffff:10.1.2.3]", true),
            ("10.0.0.0/33", "ws://10.0.0.1", false),
            (".", "ws://example.com", false),
        ];
        for (exceptions, url, excepted) in cases {
            let rules = rules(&[("ALL_PROXY", "http://p:1"), ("NO_PROXY", exceptions)]);
            assert_eq!(way(&rules, url).is_none(), excepted, "{exceptions:?} {url}");
        }
    }
}
