//! `ws:` and `wss:` URLs (RFC 6455, section 3).
//!
//! Never: resolving names, or schemes other than these two.

#![forbid(unsafe_code)]

use std::fmt;

/// A parsed WebSocket URL.
///
/// ```
/// # use echoring_proto as echoring;
/// use echoring::Url;
///
/// let url = Url::parse("wss://live.example/broadcast?since=7")?;
/// assert_eq!((url.host.as_str(), url.port, url.secure), ("live.example", 443, true));
/// assert_eq!(url.path, "/broadcast?since=7");
/// # Ok::<(), echoring_proto::url::BadUrl>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Url {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port of the URL; 80 or 443 when it has none.
    pub port: u16,
    /// Path and query, at least `/`.
    pub path: String,
    /// The scheme is `wss`.
    pub secure: bool,
}

crate::error_enum! {
    /// The reason why a URL is invalid. The text is one line.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum BadUrl {
        /// It does not begin with `ws://` or `wss://`.
        Scheme = "a WebSocket URL begins with ws:// or wss://";
        /// It has a fragment, which a WebSocket URL must not have (RFC 6455, 3).
        Fragment = "a WebSocket URL has no fragment (#...)";
        /// It has a user name or password.
        UserInfo = "user names and passwords in the URL are not supported";
        /// It has no host.
        NoHost = "the URL has no host";
        /// The host has invalid characters, or the text in brackets is not an IPv6 address.
        Host = "the URL's host is malformed";
        /// The port is not a number from 1 to 65535.
        Port = "the URL's port is not a number from 1 to 65535";
        /// The path or query has a space, a control character or a non-ASCII character.
        Path = "the URL's path must be percent-encoded ASCII";
    }
}

impl Url {
    /// Parses `ws://host[:port][/path][?query]`, or `wss://`.
    ///
    /// # Errors
    /// The first error in the URL.
    pub fn parse(text: &str) -> Result<Url, BadUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
        let secure = match scheme {
            _ if scheme.eq_ignore_ascii_case("ws") => false,
            _ if scheme.eq_ignore_ascii_case("wss") => true,
            _ => return Err(BadUrl::Scheme),
        };
        if rest.contains('#') {
            return Err(BadUrl::Fragment);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(BadUrl::UserInfo);
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            // An empty port means the default port (RFC 3986, 3.2.3).
            None | Some("") => default_port(secure),
            Some(port) if !port.bytes().all(|byte| byte.is_ascii_digit()) => return Err(BadUrl::Port),
            Some(port) => port.parse().ok().filter(|&port| port != 0).ok_or(BadUrl::Port)?,
        };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadUrl::Path);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { host: host.to_owned(), port, path, secure })
    }

    /// The value of the `Host` field: an IPv6 address has brackets, the default port is omitted.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.secure) { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

const fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// Decodes percent-encoding (RFC 3986, 2.1), such as that of user information; unencoded characters are accepted. `None` if a `%` is
/// not followed by two hexadecimal digits, or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    percent_decode_if(text, |_| true)
}

/// The same, but also `None` for an unencoded byte that `is_accepted` does not accept.
pub(super) fn percent_decode_if(text: &str, is_accepted: impl Fn(u8) -> bool) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            if !is_accepted(byte) {
                return None;
            }
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

/// The host without the brackets of an IPv6 address, and the text after the colon of the port.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), BadUrl> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(BadUrl::Host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| BadUrl::Host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(BadUrl::Host),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(BadUrl::NoHost);
    }
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !host.bytes().all(is_host) {
        return Err(BadUrl::Host);
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls() {
        let cases = [
            ("ws://localhost", "localhost", 80, "/", false, "localhost"),
            ("WSS://example.com", "example.com", 443, "/", true, "example.com"),
            ("ws://127.0.0.1:9001/echo?x=1", "127.0.0.1", 9001, "/echo?x=1", false, "127.0.0.1:9001"),
            ("wss://h:80/", "h", 80, "/", true, "h:80"),
            ("ws://h:80/", "h", 80, "/", false, "h"),
            ("ws://h?q", "h", 80, "/?q", false, "h"),
            ("ws://h:/a", "h", 80, "/a", false, "h"),
            ("ws://[::1]", "::1", 80, "/", false, "[::1]"),
            ("ws://[fe80::1]:81/%20", "fe80::1", 81, "/%20", false, "[fe80::1]:81"),
        ];
        for (text, host, port, path, secure, authority) in cases {
            let url = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((&*url.host, url.port, &*url.path, url.secure), (host, port, path, secure), "{text}");
            assert_eq!(url.authority(), authority, "{text}");
            assert_eq!(Url::parse(&url.to_string()), Ok(url), "{text}");
        }
    }

    #[test]
    fn bad_urls() {
        let cases = [
            ("", BadUrl::Scheme),
            ("localhost:9001", BadUrl::Scheme),
            ("http://localhost", BadUrl::Scheme),
            ("ws:/localhost", BadUrl::Scheme),
            ("ws://localhost/#top", BadUrl::Fragment),
            ("ws://localhost#", BadUrl::Fragment),
            ("ws://user:secret@localhost", BadUrl::UserInfo),
            ("ws://", BadUrl::NoHost),
            ("ws:///path", BadUrl::NoHost),
            ("ws://:80", BadUrl::NoHost),
            ("ws://a b", BadUrl::Host),
            ("ws://exämple.com", BadUrl::Host),
            ("ws://[::1", BadUrl::Host),
            ("ws://[localhost]", BadUrl::Host),
            ("ws://[::1]x", BadUrl::Host),
            ("ws://h:port", BadUrl::Port),
            ("ws://h:0", BadUrl::Port),
            ("ws://h:65536", BadUrl::Port),
            ("ws://h:+80", BadUrl::Port),
            ("ws://::1", BadUrl::NoHost),
            ("ws://h/a b", BadUrl::Path),
            ("ws://h/ä", BadUrl::Path),
            ("ws://h/a\r\nX: y", BadUrl::Path),
        ];
        for (text, error) in cases {
            assert_eq!(Url::parse(text), Err(error), "{text}");
            assert!(!error.to_string().contains('\n'));
        }
    }
}
