//! Responses, which the server writes and the client parses, and the upgrade request of the client
//! (RFC 6455, sections 4.1 and 4.2.2).

#![forbid(unsafe_code)]

use std::io::Write as _;

use super::{Refusal, accept, has_bare_line_feed, key, lists, single, values};
use crate::deflate::{self, Agreement, Preferences};
use crate::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};

/// Appends the 101 response to `key`. The client must have offered `subprotocol` and the extension of `agreement`.
/// Names and values of `fields` must have passed [`check_field`](super::check_field). CR, LF and NUL in the strings
/// are removed.
pub fn write_accept<'a>(
    out: &mut Vec<u8>,
    key: &[u8; 24],
    subprotocol: Option<&str>,
    agreement: Option<&Agreement>,
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept(key));
    if let Some(subprotocol) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        append_text(out, subprotocol);
    }
    if let Some(agreement) = agreement {
        out.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
        deflate::write_response(out, agreement);
    }
    for (name, value) in fields {
        append_field(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends a refusal: its status, its headers, and a body of two lines, the reason and the hint.
pub fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    let Refusal { status, reason, headers, hint } = refusal;
    let body_bytes = reason.len() + hint.len() + 2;
    write_head(out, *status, "text/plain; charset=utf-8", headers, body_bytes);
    for line in [reason, hint] {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
}

/// Appends a complete response, after which the connection must be closed. `extra_headers` are header lines, each
/// terminated by CRLF, or empty; 426 gets `Upgrade: websocket` unless they name another protocol. `head_only` omits the body but declares its length, as a response to HEAD does.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    extra_headers: &str,
    body: &[u8],
    head_only: bool,
) {
    write_head(out, status, content_type, extra_headers, body.len());
    if !head_only {
        out.extend_from_slice(body);
    }
}

/// Appends the head of a stream of this type. The body ends with the connection (RFC 9112, 6.3), as the format delimits its events
/// itself: WHATWG HTML, 9.2.7, warns of chunks, because intermediaries may wait for whole ones. `extra_headers` are as in
/// [`write_response`].
pub fn write_event_stream_head(out: &mut Vec<u8>, content_type: &str, extra_headers: &str) {
    // nginx would hold events back until its buffer is full.
    let _ = write!(
        out,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {content_type}\r\nCache-Control: no-cache, no-transform\r\n\
         X-Accel-Buffering: no\r\n{extra_headers}\r\n"
    );
}

fn write_head(out: &mut Vec<u8>, status: u16, content_type: &str, extra_headers: &str, body_bytes: usize) {
    let reason = reason_phrase(status);
    let is_upgrade =
        |line: &str| line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("upgrade"));
    // It says to what (RFC 9110, 15.5.22).
    let upgrade = match status == 426 && !extra_headers.lines().any(is_upgrade) {
        true => "Upgrade: websocket\r\n",
        false => "",
    };
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {body_bytes}\r\n{upgrade}{extra_headers}\r\n"
    );
}

/// The reason phrase for a status (RFC 9110, section 15). Clients ignore it.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

/// Appends `text` without CR, LF and NUL, so that no value can start a new header line.
fn append_text(out: &mut Vec<u8>, text: &str) {
    append_value(out, text.as_bytes());
}

/// The same for a value that need not be text.
fn append_value(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value.iter().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
}

/// Appends a line break and a field.
fn append_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    append_text(out, name);
    out.extend_from_slice(b": ");
    append_value(out, value);
}

/// The parameters of an upgrade request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dial {
    /// The value of `Host`, as from [`Url::authority`](crate::Url::authority).
    pub host: String,
    /// Path and query, as in the request line.
    pub path: String,
    /// The `Origin` to send, if any.
    pub origin: Option<String>,
    /// Subprotocols to offer, in order of preference.
    pub subprotocols: Vec<String>,
    /// Further header fields. Values are bytes, because not all are text (RFC 9110, 5.5).
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Appends the upgrade request. `nonce` must be fresh and random (RFC 6455, 4.1). [`parse_response`] needs the same
/// `nonce` and the same compression `offer`. CR, LF and NUL in the strings are removed.
pub fn write_request(out: &mut Vec<u8>, dial: &Dial, nonce: [u8; 16], offer: Option<&Preferences>) {
    out.extend_from_slice(b"GET ");
    append_text(out, if dial.path.is_empty() { "/" } else { &dial.path });
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    append_text(out, &dial.host);
    out.extend_from_slice(
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ",
    );
    out.extend_from_slice(&key(nonce));
    if let Some(origin) = &dial.origin {
        out.extend_from_slice(b"\r\nOrigin: ");
        append_text(out, origin);
    }
    for (index, subprotocol) in dial.subprotocols.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"\r\nSec-WebSocket-Protocol: " } else { b", " });
        append_text(out, subprotocol);
    }
    if let Some(offer) = offer.filter(|_| deflate::AVAILABLE) {
        out.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
        deflate::write_offer(out, offer);
    }
    for (name, value) in &dial.headers {
        append_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// A 101 response that satisfies RFC 6455, 4.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Always 101.
    pub status: u16,
    /// The subprotocol that the server chose. [`Response::check_subprotocol`] checks it.
    pub subprotocol: Option<String>,
    /// The result of the compression offer.
    pub agreement: Option<Agreement>,
}

impl Response {
    /// Checks that the server chose one of the `offered` subprotocols, or none.
    ///
    /// # Errors
    /// [`BadHandshake::UnknownSubprotocol`].
    pub fn check_subprotocol(&self, offered: &[String]) -> Result<(), BadHandshake> {
        match &self.subprotocol {
            Some(chosen) if !offered.contains(chosen) => Err(BadHandshake::UnknownSubprotocol),
            _ => Ok(()),
        }
    }
}

crate::error_enum! {
    /// The reason why a response does not open a WebSocket connection.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum BadHandshake {
        /// The server answered with a status other than 101.
        Status(status: u16) = "the server answered {status} {} instead of 101", reason_phrase(*status);
        /// `Upgrade` does not contain websocket, or `Connection` does not contain upgrade.
        MissingUpgrade = "the server's 101 lacks Upgrade or Connection";
        /// `Sec-WebSocket-Accept` does not match the key of the request.
        WrongAccept = "the server's Sec-WebSocket-Accept does not match the key";
        /// The server chose a subprotocol that was not offered.
        UnknownSubprotocol = "the server chose a subprotocol that was not offered";
        /// The server chose an extension, or parameters of one, that was not offered (RFC 6455, 4.1; RFC 7692, 5.1).
        BadExtension = "the server chose an extension, or parameters of it, that were not offered";
        /// The bytes are not an HTTP/1.1 response.
        Malformed = "the server's answer is not an HTTP/1.1 response";
        /// The head exceeds [`HEAD_BYTES_DEFAULT`] or [`HEADERS_MAX`].
        HeadTooBig = "the server's response head is too big";
    }
}

/// The result of the compression offer.
fn agreement(
    headers: &[httparse::Header<'_>],
    offer: Option<&Preferences>,
) -> Result<Option<Agreement>, BadHandshake> {
    let mut extensions = values(headers, "sec-websocket-extensions");
    match offer.filter(|_| deflate::AVAILABLE) {
        Some(offer) => deflate::accept_response(extensions, offer).map_err(|_| BadHandshake::BadExtension),
        None if extensions.all(<[u8]>::is_empty) => Ok(None),
        None => Err(BadHandshake::BadExtension),
    }
}

/// Parses the response at the start of `bytes` and returns it with its length. `None` when more bytes are needed.
/// Interim responses (100, 103) are skipped.
///
/// # Errors
/// The reason why the response does not open a connection, as soon as the head is complete or certainly invalid.
pub fn parse_response(
    bytes: &[u8],
    nonce: [u8; 16],
    offer: Option<&Preferences>,
) -> Result<Option<(Response, usize)>, BadHandshake> {
    read_final(bytes, |status, headers| match status {
        101 => check_upgrade(headers, nonce, offer).map(Some),
        100..=199 => Ok(None),
        status => Err(BadHandshake::Status(status)),
    })
}

/// Passes the status and the fields of each head to `read` until that returns something, and returns it with the length
/// of the heads. Together they have at most [`HEAD_BYTES_DEFAULT`]. `None` when more bytes are needed.
fn read_final<R>(
    bytes: &[u8],
    mut read: impl FnMut(u16, &[httparse::Header<'_>]) -> Result<Option<R>, BadHandshake>,
) -> Result<Option<(R, usize)>, BadHandshake> {
    let within = &bytes[..bytes.len().min(HEAD_BYTES_DEFAULT)];
    let mut start = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        let head_bytes = match parsed.parse(&within[start..]) {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_DEFAULT => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(BadHandshake::HeadTooBig);
            }
            Err(_) => return Err(BadHandshake::Malformed),
        };
        if has_bare_line_feed(&within[start..start + head_bytes]) {
            return Err(BadHandshake::Malformed);
        }
        let status = parsed.code.unwrap_or_default();
        // HTTP/1.0 has neither interim responses nor upgrades (RFC 9110, 15.2).
        if (100..=199).contains(&status) && parsed.version != Some(1) {
            return Err(BadHandshake::Malformed);
        }
        start += head_bytes;
        if let Some(read) = read(status, parsed.headers)? {
            return Ok(Some((read, start)));
        }
    }
}

/// Checks a 101 response by RFC 6455, 4.1, and returns its subprotocol and extension.
fn check_upgrade(
    headers: &[httparse::Header<'_>],
    nonce: [u8; 16],
    offer: Option<&Preferences>,
) -> Result<Response, BadHandshake> {
    if !lists(headers, "upgrade", "websocket") || !lists(headers, "connection", "upgrade") {
        return Err(BadHandshake::MissingUpgrade);
    }
    if single(headers, "sec-websocket-accept") != Ok(Some(&accept(&key(nonce)))) {
        return Err(BadHandshake::WrongAccept);
    }
    let agreement = agreement(headers, offer)?;
    let chosen = single(headers, "sec-websocket-protocol").map_err(|_| BadHandshake::UnknownSubprotocol)?;
    let chosen = chosen.map(str::from_utf8).transpose().map_err(|_| BadHandshake::UnknownSubprotocol)?;
    let subprotocol = chosen.map(str::to_owned);
    Ok(Response { status: 101, subprotocol, agreement })
}

/// The head of a response as received, for callers that need more than [`parse_response`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// Names and values in order, without white space around the values.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// Parses the head at the start of `bytes`, with any status, and returns it with its length. `None` when it is
/// incomplete. Interim responses are skipped.
///
/// # Errors
/// [`BadHandshake::Malformed`] and [`BadHandshake::HeadTooBig`].
pub fn parse_response_head(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, BadHandshake> {
    read_final(bytes, |status, headers| {
        let field =
            |header: &httparse::Header<'_>| (header.name.to_owned(), header.value.trim_ascii().to_vec());
        let is_interim = matches!(status, 100 | 102..=199);
        Ok((!is_interim).then(|| ResponseHead { status, fields: headers.iter().map(field).collect() }))
    })
}
