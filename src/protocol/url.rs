//! `ws:` and `wss:` URLs (RFC 6455, section 3).
//!
//! Never: resolving names, or schemes other than these two.

#![forbid(unsafe_code)]

use std::fmt;

/// A parsed WebSocket URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    /// As given, else 80 or 443.
    pub port: u16,
    /// Path and query, at least `/`.
    pub path: String,
    /// `wss`.
    pub secure: bool,
}

/// What is wrong with a URL, in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadUrl {
    /// It does not begin with `ws://` or `wss://`.
    Scheme,
    /// It has a `#`, which a WebSocket URL must not have.
    Fragment,
    /// It has a user name or password.
    UserInfo,
    /// It names no host.
    NoHost,
    /// The host has characters that no host has, or is no IPv6 address between its brackets.
    Host,
    /// The port is no number from 1 to 65535.
    Port,
    /// The path or query has a space, a control character or a letter beyond ASCII.
    Path,
}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadUrl::Scheme => "a WebSocket URL begins with ws:// or wss://",
            BadUrl::Fragment => "a WebSocket URL has no fragment (#...)",
            BadUrl::UserInfo => "user names and passwords in the URL are not supported",
            BadUrl::NoHost => "the URL names no host",
            BadUrl::Host => "the URL's host is malformed",
            BadUrl::Port => "the URL's port is no number from 1 to 65535",
            BadUrl::Path => "the URL's path must be percent-encoded ASCII",
        })
    }
}

impl std::error::Error for BadUrl {}

impl Url {
    /// Parses `ws://host[:port][/path][?query]`, or `wss://`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
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
            // An empty port is the default one (RFC 3986, 3.2.3).
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

    /// Host and port as the `Host` field wants them: IPv6 addresses in brackets, the default port left out.
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

/// The host, without an IPv6 address's brackets, and the port's text if there is a colon for it.
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
