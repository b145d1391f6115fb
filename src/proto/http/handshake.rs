//! The HTTP/1.1 upgrade (RFC 6455, section 4) for both roles, and the other HTTP responses of the server.
//!
//! Heads are parsed in place (httparse) and passed to a closure, so a handshake allocates nothing.
//!
//! Never: bodies, keep-alive, or the meaning of a path.

#![forbid(unsafe_code)]

mod field;
mod forwarded;
mod host;
mod intermediary;
mod origin;
mod refusal;
mod request;
mod response;

pub use field::{BadField, check_field, check_subprotocols};
pub use forwarded::forwarded_client;
pub use host::HostPolicy;
pub use intermediary::{VIA, hop_by_hop_fields, identifies_client, is_hop_by_hop, is_only_chunked};
pub use origin::OriginPolicy;
pub use refusal::Refusal;
pub use request::{
    Request, SubprotocolPreference, Upgrade, is_authority, is_subprotocol, offered_subprotocols,
    percent_decode_path, with_fields, with_request, with_request_up_to,
};
pub use response::{
    BadHandshake, Dial, Response, ResponseHead, parse_response, parse_response_head, write_accept,
    write_event_stream_head, write_refusal, write_request, write_response,
};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Appended to the key before hashing (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` for `key` (RFC 6455, 4.2.2).
fn accept(key: &[u8; 24]) -> [u8; 28] {
    let mut sha1 = sha1_smol::Sha1::new();
    sha1.update(key);
    sha1.update(GUID);
    let mut text = [0; 28];
    let written = STANDARD.encode_slice(sha1.digest().bytes(), &mut text);
    debug_assert_eq!(written, Ok(28), "20 bytes encode to 28 characters");
    text
}

/// The `Sec-WebSocket-Key` of a nonce (RFC 6455, 4.1).
fn key(nonce: [u8; 16]) -> [u8; 24] {
    let mut text = [0; 24];
    let written = STANDARD.encode_slice(nonce, &mut text);
    debug_assert_eq!(written, Ok(24), "16 bytes encode to 24 characters");
    text
}

/// The values of all fields called `name`, in order, without surrounding white space.
fn values<'a>(headers: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> + Clone {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value.trim_ascii())
}

/// The value of a field that a head may have once; `Err` if it has more.
fn single<'a>(headers: &'a [httparse::Header<'a>], name: &'a str) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = values(headers, name);
    let value = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(value) }
}

/// A head has more than one of a field.
#[derive(Debug, PartialEq, Eq)]
struct Repeated;

/// The elements of comma-separated lists (RFC 9110, 5.6.1). Empty elements are skipped.
fn elements<'a>(values: impl Iterator<Item = &'a [u8]> + Clone) -> impl Iterator<Item = &'a [u8]> + Clone {
    values.flat_map(list)
}

/// The elements of one such list.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether the lists in the fields called `name` contain `token`, ignoring case.
fn lists(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    elements(values(headers, name)).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether `text` is a token (RFC 9110, 5.6.2).
fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether a line of `head` ends with LF alone. RFC 9112, 2.2, allows recipients to accept it as a line terminator.
/// Here it is malformed, because a proxy in front may see one line where this parser would see two.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let following = head.get(1..).unwrap_or_default();
    let is_bare = |(&before, &byte): (&u8, &u8)| byte == b'\n' && before != b'\r';
    // Without an early exit the compiler vectorises the loop.
    head.starts_with(b"\n") || head.iter().zip(following).fold(false, |found, pair| found | is_bare(pair))
}

#[cfg(test)]
mod tests;
