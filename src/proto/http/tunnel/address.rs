//! A proxy's URL.

#![forbid(unsafe_code)]

use std::fmt;

use crate::url::{BadUrl, Url, percent_decode};

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// RFC 1928.
    Socks5,
}

/// One proxy. Shown without its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyServer {
    /// Its protocol.
    pub kind: ProxyKind,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port; 80 or 1080 if the URL has none.
    pub port: u16,
    pub(super) credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

crate::error_enum! {
    /// The problem with a proxy's URL. The text does not repeat the URL, because it may contain a password.
    ///
    /// ```
    /// use echoring_proto::tunnel::{BadProxy, ProxyKind, ProxyServer};
    ///
    /// let refused = ProxyServer::parse("https://proxy.example:3128", ProxyKind::Http);
    /// assert!(matches!(refused, Err(BadProxy::Scheme)));
    /// ```
    #[derive(Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum BadProxy {
        /// The scheme is not `http`, `socks5` or `socks5h`, or not the expected one. Proxies over TLS are not supported.
        Scheme = "a proxy's URL must begin with http:// or socks5://";
        /// User name or password are not percent-encoded UTF-8, exceed 255 bytes, or contain a control character.
        Credentials = "the proxy's user name and password must be percent-encoded text";
        /// Host or port are invalid.
        Address(why: BadUrl) = "invalid proxy address: {why}";
        /// The URL has a path.
        Path = "a proxy's URL must not have a path";
    }
}

impl ProxyServer {
    /// Parses a URL of this kind, with or without a scheme.
    ///
    /// # Errors
    /// The problem with the URL.
    pub fn parse(url: &str, kind: ProxyKind) -> Result<ProxyServer, BadProxy> {
        match ProxyServer::parse_any(url, kind)? {
            server if server.kind == kind => Ok(server),
            _ => Err(BadProxy::Scheme),
        }
    }

    /// Parses a URL of any kind; without a scheme it is of kind `default`.
    ///
    /// # Errors
    /// The problem with the URL.
    pub fn parse_any(url: &str, default: ProxyKind) -> Result<ProxyServer, BadProxy> {
        let (kind, rest) = match url.split_once("://") {
            None => (default, url),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => (ProxyKind::Http, rest),
                "socks5" | "socks5h" => (ProxyKind::Socks5, rest),
                _ => return Err(BadProxy::Scheme),
            },
        };
        // A password should contain a slash or another @ only percent-encoded, but many programs do not encode: the
        // last @ separates.
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(Credentials::parse(credentials)?), address),
            None => (None, rest),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains(['/', '?', '#']) {
            return Err(BadProxy::Path);
        }
        // Host and port have the grammar of our own URLs, with other default ports.
        let parsed = Url::parse(&format!("ws://{address}")).map_err(BadProxy::Address)?;
        let names_port = address
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
        let port = match kind {
            ProxyKind::Socks5 if !names_port => 1080,
            _ => parsed.port,
        };
        Ok(ProxyServer { kind, host: parsed.host, port, credentials })
    }
}

impl Credentials {
    fn parse(text: &str) -> Result<Credentials, BadProxy> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let decoded = |part: &str| {
            percent_decode(part)
                .filter(|part| part.len() <= 255 && !part.chars().any(char::is_control))
                .ok_or(BadProxy::Credentials)
        };
        let (user, password) = (decoded(user)?, decoded(password)?);
        // RFC 7617: no colon in a user name. RFC 1929: neither may be empty.
        if user.is_empty() || user.contains(':') {
            return Err(BadProxy::Credentials);
        }
        Ok(Credentials { user, password })
    }
}

impl fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        let host = &self.host;
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{}", self.port),
            false => write!(f, "{scheme}://{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_from_urls() {
        let cases = [
            ("http://proxy:3128", "http://proxy:3128", None),
            ("HTTP://proxy", "http://proxy:80", None),
            ("proxy:8080", "http://proxy:8080", None),
            ("http://[::1]:3128/", "http://[::1]:3128", None),
            ("socks5://10.0.0.1", "socks5://10.0.0.1:1080", None),
            ("socks5h://[::1]", "socks5://[::1]:1080", None),
            ("socks5://h:80", "socks5://h:80", None),
            ("http://u:p@h:1", "http://h:1", Some(("u", "p"))),
            ("http://u%40x:p%3Aq%2F@h:1", "http://h:1", Some(("u@x", "p:q/"))),
            ("http://u@h:1", "http://h:1", Some(("u", ""))),
            ("http://u:a@b@h:1", "http://h:1", Some(("u", "a@b"))),
        ];
        for (url, shown, credentials) in cases {
            let server =
                ProxyServer::parse_any(url, ProxyKind::Http).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(server.to_string(), shown, "{url}");
            let read = server.credentials.as_ref().map(|read| (&*read.user, &*read.password));
            assert_eq!(read, credentials, "{url}");
        }
    }

    #[test]
    fn invalid_proxy_urls_are_refused() {
        let cases = [
            ("https://proxy", BadProxy::Scheme),
            ("socks4://proxy", BadProxy::Scheme),
            ("http://", BadProxy::Address(BadUrl::NoHost)),
            ("http://h:0", BadProxy::Address(BadUrl::Port)),
            ("http://h:x", BadProxy::Address(BadUrl::Port)),
            ("http://h/path", BadProxy::Path),
            ("http://h?q", BadProxy::Path),
            ("http://%zz:p@h", BadProxy::Credentials),
            ("http://:p@h", BadProxy::Credentials),
            ("http://u%3A:p@h", BadProxy::Credentials),
            ("http://u:%0d%0a@h", BadProxy::Credentials),
        ];
        for (url, bad) in cases {
            assert_eq!(
                ProxyServer::parse_any(url, ProxyKind::Http).map(|server| server.to_string()),
                Err(bad),
                "{url}"
            );
        }
        assert_eq!(
            ProxyServer::parse("socks5://h", ProxyKind::Http).map(|server| server.to_string()),
            Err(BadProxy::Scheme)
        );
        assert!(!BadProxy::Credentials.to_string().is_empty());
    }

    #[test]
    fn a_password_is_never_shown() {
        let proxy = ProxyServer::parse("http://user:hush@h:1", ProxyKind::Http).expect("a proxy");
        assert!(!format!("{proxy:?} {proxy}").contains("hush"));
    }
}
