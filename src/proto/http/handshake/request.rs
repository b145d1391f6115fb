//! Parsing of the request head, for the server (RFC 9112, section 3; RFC 6455, section 4.2.1).

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use super::{Refusal, elements, has_bare_line_feed, is_token, list, lists, single, values};
use crate::http::url::percent_decode_if;
use crate::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};

/// A complete request head, borrowed from the bytes it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method as sent; methods are case-sensitive.
    pub method: &'a str,
    /// The request target as sent.
    pub target: &'a str,
    /// The path of the target, percent-encoded as sent. `*` for `OPTIONS *`.
    pub path: &'a str,
    /// The text after the first `?`, or empty.
    pub query: &'a str,
    /// The requested authority: that of an absolute target, else the `Host` field; empty if a request of HTTP/1.0 has neither.
    pub host: &'a str,
    /// HTTP/1.0, which has no upgrades: load balancers check health with it.
    is_http_1_0: bool,
    headers: &'a [httparse::Header<'a>],
}

/// Parses the request head at the start of `bytes` and passes it to `f` with its length. `None` when the head is
/// incomplete.
///
/// # Errors
/// A [`Refusal`], as soon as the bytes prove that the head is not acceptable: 400 when it is malformed, 431 above
/// [`HEAD_BYTES_DEFAULT`] or [`HEADERS_MAX`], 505 for an HTTP version other than 1.1 and 1.0.
pub fn with_request<R>(bytes: &[u8], f: impl FnOnce(&Request<'_>, usize) -> R) -> Result<Option<R>, Refusal> {
    with_request_up_to(bytes, HEAD_BYTES_DEFAULT, f)
}

/// As [`with_request`], for a head of at most `max_header` bytes.
///
/// # Errors
/// Those of [`with_request`].
pub fn with_request_up_to<R>(
    bytes: &[u8],
    max_header: usize,
    f: impl FnOnce(&Request<'_>, usize) -> R,
) -> Result<Option<R>, Refusal> {
    let head = &bytes[..bytes.len().min(max_header)];
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let head_bytes = match parsed.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if has_bare_line_feed(head) => return Err(Refusal::MALFORMED),
        Ok(httparse::Status::Partial) if bytes.len() >= max_header => return Err(Refusal::HEAD_TOO_BIG),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TOO_MANY_HEADERS),
        Err(httparse::Error::Version) if names_other_version(head) => return Err(Refusal::VERSION),
        Err(_) => return Err(Refusal::MALFORMED),
    };
    if has_bare_line_feed(&head[..head_bytes]) {
        return Err(Refusal::MALFORMED);
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(Refusal::MALFORMED) };
    let is_http_1_0 = parsed.version == Some(0);
    Ok(Some(f(&Request::new(method, target, is_http_1_0, parsed.headers)?, head_bytes)))
}

/// Passes to `f` a request that another HTTP server has parsed before it handed over the connection. The rules are
/// those of [`with_request`], except that the length of the head is not checked.
///
/// # Errors
/// A [`Refusal`]: 400 when the request is malformed, 431 above [`HEADERS_MAX`].
pub fn with_fields<'a, R>(
    method: &'a str,
    target: &'a str,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    f: impl FnOnce(&Request<'_>) -> R,
) -> Result<R, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut count = 0;
    for (name, value) in fields {
        *headers.get_mut(count).ok_or(Refusal::TOO_MANY_HEADERS)? = httparse::Header { name, value };
        count += 1;
    }
    Ok(f(&Request::new(method, target, false, &headers[..count])?))
}

/// Whether the request line has three parts and the last begins with `HTTP/` and a digit. Otherwise the version error
/// of httparse means a malformed line.
fn names_other_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    version.strip_prefix(b"HTTP/").and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit)
}

/// Authority (of an absolute target), path and query of a request target (RFC 9112, 3.2).
fn split_target<'a>(method: &str, target: &'a str) -> Option<(Option<&'a str>, &'a str, &'a str)> {
    // URIs are ASCII (RFC 3986), and clients never send the fragment (RFC 9110, 7.1).
    if target.contains('#') || !target.is_ascii() {
        return None;
    }
    fn split(target: &str) -> (&str, &str) {
        target.split_once('?').unwrap_or((target, ""))
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        let (path, query) = split(target);
        return Some((None, path, query));
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = split(rest);
    is_authority(authority).then_some((Some(authority), if path.is_empty() { "/" } else { path }, query))
}

/// The value of the only `Host` field (RFC 9112, 3.2), which HTTP/1.0 does not know.
fn host<'a>(headers: &'a [httparse::Header<'a>], is_http_1_0: bool) -> Result<&'a str, Refusal> {
    let host = match single(headers, "host") {
        Ok(Some(host)) => host,
        Ok(None) if is_http_1_0 => return Ok(""),
        _ => return Err(Refusal::HOST),
    };
    str::from_utf8(host).ok().filter(|host| is_authority(host)).ok_or(Refusal::HOST)
}

/// Whether `text` is `host[:port]` (RFC 3986, 3.2.2 and 3.2.3), with a name, an IPv4 address, or an IPv6 address in
/// brackets, and without a user name.
pub fn is_authority(text: &str) -> bool {
    let (is_host, after) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => (address.parse::<Ipv6Addr>().is_ok(), after),
        None => {
            let (name, after) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_registered_name(name), after)
        }
    };
    let is_port = match after.strip_prefix(':') {
        // An empty port is allowed and means the default port (RFC 3986, 3.2.3).
        Some(port) => {
            port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
        }
        None => after.is_empty(),
    };
    is_host && is_port
}

/// Whether `text` is a non-empty registered name with valid percent-encoding.
fn is_registered_name(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let Some((digits, after)) = rest.split_first_chunk::<2>() else { return false };
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return false;
            }
            rest = after;
        } else if !byte.is_ascii_alphanumeric() && !b"-._~!$&'()*+;=".contains(&byte) {
            return false;
        }
    }
    !text.is_empty()
}

impl<'a> Request<'a> {
    fn new(
        method: &'a str,
        target: &'a str,
        is_http_1_0: bool,
        headers: &'a [httparse::Header<'a>],
    ) -> Result<Request<'a>, Refusal> {
        let (authority, path, query) = split_target(method, target).ok_or(Refusal::TARGET)?;
        let host = authority.unwrap_or(host(headers, is_http_1_0)?);
        Ok(Request { method, target, path, query, host, is_http_1_0, headers })
    }

    /// All fields in order, with names as sent and values without surrounding white space.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + Clone {
        self.headers.iter().map(|header| (header.name, header.value.trim_ascii()))
    }

    /// The value of the first field called `name`, ignoring case, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let header = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        str::from_utf8(header.value).ok().map(str::trim_ascii)
    }

    /// The values of all fields called `name`, ignoring case, in order.
    pub fn values(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + Clone {
        values(self.headers, name)
    }

    /// The value of the first `name=value` in the query, as sent. A `name` without `=` has an empty value.
    pub fn query_value(&self, name: &str) -> Option<&'a str> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }

    /// Whether the method is HEAD, so that the response must not contain a body.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The WebSocket upgrade that the client requests. `None` for other requests.
    ///
    /// A request with a WebSocket key but without `Upgrade` has passed a proxy that removed the field. It is refused
    /// with a hint about proxies.
    ///
    /// # Errors
    /// A [`Refusal`] when the request violates RFC 6455, 4.2.1.
    pub fn upgrade(&self) -> Result<Option<Upgrade<'a>>, Refusal> {
        let headers = self.headers;
        let is_requested = lists(headers, "upgrade", "websocket");
        if !is_requested && values(headers, "sec-websocket-key").next().is_none() {
            return Ok(None);
        }
        if self.is_http_1_0 {
            return Err(Refusal::VERSION);
        }
        if self.method != "GET" {
            return Err(Refusal::METHOD);
        }
        if !is_requested {
            return Err(Refusal::NO_UPGRADE);
        }
        if !lists(headers, "connection", "upgrade") {
            return Err(Refusal::NO_CONNECTION_UPGRADE);
        }
        if single(headers, "sec-websocket-version") != Ok(Some(b"13")) {
            return Err(Refusal::WEBSOCKET_VERSION);
        }
        let Ok(Some(key)) = single(headers, "sec-websocket-key") else { return Err(Refusal::KEY) };
        let key = <&[u8; 24]>::try_from(key).ok().filter(|key| is_key(key)).ok_or(Refusal::KEY)?;
        if values(headers, "transfer-encoding").next().is_some() || declares_body(headers) {
            return Err(Refusal::BODY);
        }
        if !elements(values(headers, "sec-websocket-protocol")).all(is_token) {
            return Err(Refusal::SUBPROTOCOL);
        }
        Ok(Some(Upgrade { key: *key, host: self.host, origin: self.origin()?, headers }))
    }

    /// The origin of the page that makes the request; `None` without the field.
    ///
    /// # Errors
    /// [`Refusal::BAD_ORIGIN`] if the field is repeated or not text.
    pub fn origin(&self) -> Result<Option<&'a str>, Refusal> {
        let origin = single(self.headers, "origin").map_err(|_| Refusal::BAD_ORIGIN)?;
        origin.map(str::from_utf8).transpose().map_err(|_| Refusal::BAD_ORIGIN)
    }
}

/// Whether `Content-Length` is present and not a single zero. RFC 9112, 6.3, allows to merge repeated fields with
/// equal values, but a proxy in front may treat them differently.
fn declares_body(headers: &[httparse::Header<'_>]) -> bool {
    match single(headers, "content-length") {
        Ok(None) => false,
        Ok(Some(length)) => length.is_empty() || length.iter().any(|&digit| digit != b'0'),
        Err(_) => true,
    }
}

/// Whether `key` is the base64 encoding of 16 bytes. The four unused bits of its last character are not checked:
/// decoders differ here, and the accept hash covers the text as sent.
fn is_key(key: &[u8; 24]) -> bool {
    let (digits, padding) = key.split_at(22);
    padding == b"=="
        && digits.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

/// A WebSocket upgrade that satisfies RFC 6455, 4.2.1.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade<'a> {
    /// The `Sec-WebSocket-Key` as sent, for [`write_accept`](super::write_accept).
    pub key: [u8; 24],
    /// The requested authority.
    pub host: &'a str,
    /// The origin of the page. Browsers always send one.
    pub origin: Option<&'a str>,
    headers: &'a [httparse::Header<'a>],
}

impl<'a> Upgrade<'a> {
    /// The values of `Sec-WebSocket-Extensions`, in order.
    pub fn extensions(&self) -> impl Iterator<Item = &'a [u8]> + Clone {
        values(self.headers, "sec-websocket-extensions")
    }

    /// The offered subprotocols, in the order of preference of the client.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> + Clone {
        values(self.headers, "sec-websocket-protocol").flat_map(offered_subprotocols)
    }

    /// The first subprotocol that the client offers and the server supports, in the order that `preference` selects.
    /// `None` when they have none in common; the connection then uses no subprotocol (RFC 6455, 4.2.2). The
    /// comparison is case-sensitive.
    pub fn subprotocol<'s>(
        &self,
        supported: &[&'s str],
        preference: SubprotocolPreference,
    ) -> Option<&'s str> {
        let is_supported = |name: &str| supported.iter().copied().find(|&other| other == name);
        match preference {
            SubprotocolPreference::Server => {
                supported.iter().copied().find(|&name| self.subprotocols().any(|offered| offered == name))
            }
            SubprotocolPreference::Client => self.subprotocols().find_map(is_supported),
        }
    }
}

/// The endpoint whose order of preference selects the subprotocol (RFC 6455, 1.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubprotocolPreference {
    /// The server's.
    #[default]
    Server,
    /// The client's.
    Client,
}

/// The names that a value of `Sec-WebSocket-Protocol` lists, in order (RFC 6455, 4.2.1). Invalid ones are skipped; a valid upgrade has
/// none.
pub fn offered_subprotocols(value: &[u8]) -> impl Iterator<Item = &str> + Clone {
    list(value).filter(|name| is_token(name)).filter_map(|name| str::from_utf8(name).ok())
}

/// Whether `name` is a valid name of a subprotocol: a token (RFC 6455, 4.1).
pub fn is_subprotocol(name: &str) -> bool {
    is_token(name.as_bytes())
}

/// Decodes the percent-encoding of a path or of a part of it. `None` for a `%` without two hexadecimal digits, for
/// `?`, `#` and bytes that are not visible ASCII, and for a result that is not UTF-8. Characters such as `|`, which
/// RFC 3986 requires to be encoded, are accepted, because browsers send them unencoded.
pub fn percent_decode_path(path: &str) -> Option<String> {
    percent_decode_if(path, |byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
}
