//! The header of the PROXY protocol, versions 1 and 2: the client's address in front of a proxied connection's bytes.
//!
//! The parser decides from the bytes alone. Whether the sender may be believed is the caller's question: an address that
//! anybody may claim is worth nothing.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

/// The 12 bytes that begin a header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes that begin a header of version 1.
const WORD: &[u8] = b"PROXY ";
/// Bytes of a header of version 1, its CRLF included (section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// Bytes of the fixed part of version 2.
const FIXED_BYTES: usize = 16;

/// A header that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length in bytes; the client's own bytes follow.
    pub bytes: usize,
    /// The client. `None` if the proxy speaks for itself (`LOCAL`), or if the client has no address of IP (`UNKNOWN`,
    /// `UNSPEC`, a Unix socket).
    pub client: Option<SocketAddr>,
}

crate::happenings! {
    /// Why bytes are no header.
    #[non_exhaustive]
    pub enum ProxyHeaderError: reason {
        /// They begin with something else.
        Missing = "no PROXY header",
        /// The version is neither 1 nor 2.
        Version = "unknown version of the PROXY protocol",
        /// A command, family or protocol that the specification does not have.
        Unknown = "unknown command or address family in the PROXY header",
        /// An address, a port or a length is wrong.
        Malformed = "malformed PROXY header",
        /// It is longer than [`PROXY_HEADER_BYTES_MAX`].
        TooLong = "PROXY header too long",
    }
}

/// Reads the header at the front of `bytes`. `None` if more bytes are needed.
///
/// # Errors
/// See [`ProxyHeaderError`].
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    if begins(bytes, &SIGNATURE) {
        if bytes.len() < SIGNATURE.len() { Ok(None) } else { parse_binary(bytes) }
    } else if begins(bytes, WORD) {
        if bytes.len() < WORD.len() { Ok(None) } else { parse_line(bytes) }
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

/// Whether `bytes` begin with `start`, as far as they have arrived.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let known = bytes.len().min(start.len());
    bytes[..known] == start[..known]
}

fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return if within.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProxyHeaderError::TooLong) };
    };
    let line = std::str::from_utf8(&within[WORD.len()..end]).map_err(|_| ProxyHeaderError::Malformed)?;
    let client = line_client(line)?;
    Ok(Some(ProxyHeader { bytes: end + 2, client }))
}

/// The client of `TCP4 SOURCE DESTINATION PORT PORT`, or of `UNKNOWN` with anything behind it.
fn line_client(line: &str) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let [Some(source), Some(destination), Some(port), Some(own_port), None] =
        [words.next(), words.next(), words.next(), words.next(), words.next()]
    else {
        return Err(ProxyHeaderError::Malformed);
    };
    let (source, destination) = match family {
        "TCP4" => (source.parse().map(IpAddr::V4).ok(), destination.parse().map(IpAddr::V4).ok()),
        "TCP6" => (source.parse().map(IpAddr::V6).ok(), destination.parse().map(IpAddr::V6).ok()),
        _ => return Err(ProxyHeaderError::Unknown),
    };
    match (source, destination, decimal_port(port), decimal_port(own_port)) {
        (Some(source), Some(_), Some(port), Some(_)) => Ok(Some(SocketAddr::new(source, port))),
        _ => Err(ProxyHeaderError::Malformed),
    }
}

/// A port without signs and leading zeros.
fn decimal_port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if is_plain { word.parse().ok() } else { None }
}

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    if bytes.get(12).is_some_and(|byte| byte >> 4 != 2) {
        return Err(ProxyHeaderError::Version);
    }
    let Some(&[_, _, _, _, _, _, _, _, _, _, _, _, command, family, high, low]) =
        bytes.first_chunk::<FIXED_BYTES>()
    else {
        return Ok(None);
    };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(addresses) = bytes.get(FIXED_BYTES..length) else { return Ok(None) };
    let client = match command & 0x0f {
        // The rest is skipped, whatever it is.
        0 => None,
        1 => binary_client(family, addresses)?,
        _ => return Err(ProxyHeaderError::Unknown),
    };
    Ok(Some(ProxyHeader { bytes: length, client }))
}

/// The client in the address block. The fields after the addresses (type-length-value) are not read.
fn binary_client(family: u8, block: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    match family {
        0x11 => {
            let fields = block.first_chunk::<12>().ok_or(ProxyHeaderError::Malformed)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *fields;
            let address = Ipv4Addr::new(a, b, c, d);
            Ok(Some(SocketAddr::from((address, u16::from_be_bytes([high, low])))))
        }
        0x21 => {
            let fields = block.first_chunk::<36>().ok_or(ProxyHeaderError::Malformed)?;
            let mut octets = [0; 16];
            octets.copy_from_slice(&fields[..16]);
            let port = u16::from_be_bytes([fields[32], fields[33]]);
            Ok(Some(SocketAddr::from((Ipv6Addr::from(octets), port))))
        }
        // Unspecified, datagrams and Unix sockets: no address of a TCP client.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(None),
        _ => Err(ProxyHeaderError::Unknown),
    }
}

#[cfg(test)]
mod tests;
