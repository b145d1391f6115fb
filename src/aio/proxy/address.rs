//! A proxy's URL.

#![forbid(unsafe_code)]

use std::fmt;

use crate::protocol::Url;
use crate::protocol::url::BadUrl;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Socks5,
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::aio) struct Server {
    pub(super) kind: Kind,
    pub(in crate::aio) host: String,
    pub(in crate::aio) port: u16,
    pub(super) credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

/// What is wrong with a proxy's URL. It is not repeated in the text, for it may have a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadProxy {
    /// Its scheme is none of `http`, `socks5` and `socks5h`, or not the one wanted. Proxies that are themselves
    /// reached by TLS are not supported.
    Scheme,
    /// User name or password are not percent-encoded UTF-8, or one is longer than 255 bytes, or has a control
    /// character.
    Credentials,
    /// Host or port.
    Address(BadUrl),
    /// It has a path, which a proxy has not.
    Path,
}

impl fmt::Display for BadProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadProxy::Scheme => f.write_str("a proxy's URL begins with http:// or socks5://"),
            BadProxy::Credentials => {
                f.write_str("the proxy's user name and password must be percent-encoded text")
            }
            BadProxy::Address(why) => write!(f, "the proxy's address is wrong: {why}"),
            BadProxy::Path => f.write_str("a proxy's URL ends with the port"),
        }
    }
}

impl std::error::Error for BadProxy {}

impl Server {
    /// A URL of that scheme, or one without a scheme.
    pub(super) fn parse(url: &str, kind: Kind) -> Result<Server, BadProxy> {
        match Server::parse_any(url, kind)? {
            server if server.kind == kind => Ok(server),
            _ => Err(BadProxy::Scheme),
        }
    }

    /// A URL of any scheme; without one it is of `default`.
    pub(super) fn parse_any(url: &str, default: Kind) -> Result<Server, BadProxy> {
        let (kind, rest) = match url.split_once("://") {
            None => (default, url),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => (Kind::Http, rest),
                "socks5" | "socks5h" => (Kind::Socks5, rest),
                _ => return Err(BadProxy::Scheme),
            },
        };
        // A password may have a slash or another @ only when it is encoded, but programs that do not encode are
        // common: the last @ counts.
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(Credentials::parse(credentials)?), address),
            None => (None, rest),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains(['/', '?', '#']) {
            return Err(BadProxy::Path);
        }
        // The grammar of host and port is that of our own URLs, with other default ports.
        let parsed = Url::parse(&format!("ws://{address}")).map_err(BadProxy::Address)?;
        let names_port = address
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
        let port = match kind {
            Kind::Socks5 if !names_port => 1080,
            _ => parsed.port,
        };
        Ok(Server { kind, host: parsed.host, port, credentials })
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
        // RFC 7617: no colon in a user name. RFC 1929: neither is empty.
        if user.is_empty() || user.contains(':') {
            return Err(BadProxy::Credentials);
        }
        Ok(Credentials { user, password })
    }
}

/// Decodes a part of a URL's user information, leniently: what needed no encoding may stand there as it is.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        decoded.push((digit(digits[0])? << 4 | digit(digits[1])?) as u8);
        rest = behind;
    }
    String::from_utf8(decoded).ok()
}

/// Without the credentials.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
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
            let server = Server::parse_any(url, Kind::Http).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(server.to_string(), shown, "{url}");
            let read = server.credentials.as_ref().map(|read| (&*read.user, &*read.password));
            assert_eq!(read, credentials, "{url}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_said() {
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
                Server::parse_any(url, Kind::Http).map(|server| server.to_string()),
                Err(bad),
                "{url}"
            );
        }
        assert_eq!(
            Server::parse("socks5://h", Kind::Http).map(|server| server.to_string()),
            Err(BadProxy::Scheme)
        );
        assert!(!BadProxy::Credentials.to_string().is_empty());
    }

    #[test]
    fn a_password_is_never_shown() {
        let proxy = super::super::Proxy::http("http://user:hush@h:1").expect("a proxy");
        assert!(!format!("{proxy:?}").contains("hush"));
    }
}
