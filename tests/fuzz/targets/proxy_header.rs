//! Headers of the PROXY protocol: they are read as a second parser reads them, the result does not depend on how the bytes are
//! split, and a header that was written for a client names this client.
//!
//! Input: options, a script of chunk borders, then the bytes of a connection, or the fields of a header to write and what follows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use echoring_proto::limits::PROXY_HEADER_BYTES_MAX;
use echoring_proto::proxy_header::{ProxyHeader, ProxyHeaderError, parse};

use super::cursor::{Choices, Cursor};

type Parsed = Result<Option<ProxyHeader>, ProxyHeaderError>;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Inputs of up to so many bytes are cut at every place.
const CUT_EVERYWHERE_MAX: usize = 300;

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let options = cursor.byte();
    let choices = cursor.choices();
    if options & 1 == 0 {
        return check(cursor.rest(), choices);
    }
    let written = Written::new(&mut cursor);
    let stream = [&written.bytes[..], cursor.rest()].concat();
    let expected = if written.bytes.len() > PROXY_HEADER_BYTES_MAX {
        Err(ProxyHeaderError::TooLong)
    } else {
        Ok(Some(ProxyHeader { bytes: written.bytes.len(), client: written.client }))
    };
    assert_eq!(parse(&stream), expected, "{:x?}", written.bytes);
    check(&stream, choices);
}

/// A header, and the client that it names.
struct Written {
    bytes: Vec<u8>,
    client: Option<SocketAddr>,
}

impl Written {
    fn new(cursor: &mut Cursor<'_>) -> Written {
        let form = cursor.byte();
        let mut address = || match form & 2 {
            0 => IpAddr::V4(Ipv4Addr::from_bits(number(cursor.take(4)) as u32)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(number(cursor.take(16)))),
        };
        let (source, destination) = (address(), address());
        let ends = [source, destination].map(|address| SocketAddr::new(address, cursor.u16()));
        let (client, bytes) = match form >> 2 & 3 {
            0 => (None, format!("PROXY UNKNOWN {source} {destination}\r\n").into_bytes()),
            1 => (Some(ends[0]), line(ends)),
            local => {
                let bytes = usize::from(cursor.u16()) % (PROXY_HEADER_BYTES_MAX + 64);
                let fields = cursor.take(bytes);
                ((local == 2).then_some(ends[0]), binary(local == 3, ends, fields))
            }
        };
        Written { bytes, client }
    }
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Version 1.
fn line([source, destination]: [SocketAddr; 2]) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// Version 2, with fields behind the addresses.
fn binary(is_local: bool, ends: [SocketAddr; 2], fields: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for end in ends {
        match end.ip() {
            IpAddr::V4(address) => block.extend(address.octets()),
            IpAddr::V6(address) => block.extend(address.octets()),
        }
    }
    ends.iter().for_each(|end| block.extend(end.port().to_be_bytes()));
    block.extend(fields);
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21 - u8::from(is_local), if ends[0].is_ipv4() { 0x11 } else { 0x21 }]);
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

fn check(bytes: &[u8], choices: Choices<'_>) {
    let parsed = parse(bytes);
    assert_eq!(parsed, reference(bytes), "{bytes:x?}");
    check_cuts(bytes, parsed, choices);
    let Ok(Some(header)) = parsed else { return };
    assert!(header.bytes <= bytes.len().min(PROXY_HEADER_BYTES_MAX));
    let mut alone = bytes[..header.bytes].to_vec();
    assert_eq!(parse(&alone), Ok(Some(header)), "it needs nothing behind it");
    assert_eq!(parse(&alone[..header.bytes - 1]), Ok(None), "all of it is needed");
    alone.extend_from_slice(&alone.clone());
    assert_eq!(parse(&alone), Ok(Some(header)), "a second header belongs to the client");
    if let Some(client) = header.client {
        for again in [line([client; 2]), binary(false, [client; 2], &[])] {
            assert_eq!(parse(&again), Ok(Some(ProxyHeader { bytes: again.len(), client: Some(client) })));
        }
    }
}

/// However the bytes arrive, more are awaited until the result is known, which then stays the same.
fn check_cuts(bytes: &[u8], parsed: Parsed, mut choices: Choices<'_>) {
    let mut lengths: Vec<usize> = (0..=bytes.len().min(CUT_EVERYWHERE_MAX)).collect();
    let mut at = 0;
    for chunk in choices.chunks(bytes) {
        at += chunk.len();
        lengths.push(at);
    }
    lengths.sort_unstable();
    let mut settled = None;
    for length in lengths {
        let early = parse(&bytes[..length]);
        match settled {
            Some(settled) => assert_eq!(early, settled, "at {length} bytes"),
            None if early == Ok(None) => {}
            None => settled = Some(early),
        }
    }
    assert_eq!(settled.unwrap_or(Ok(None)), parsed, "in the end");
}

/// The parser again, from the specification: `haproxy/doc/proxy-protocol.txt`, sections 2.1 and 2.2.
fn reference(bytes: &[u8]) -> Parsed {
    if bytes.is_empty() {
        return Ok(None);
    }
    let start: &[u8] = if bytes[0] == b'P' { b"PROXY " } else { SIGNATURE };
    match bytes.iter().zip(start).all(|(byte, expected)| byte == expected) {
        false => Err(ProxyHeaderError::Missing),
        true if bytes.len() < start.len() => Ok(None),
        true if start == SIGNATURE => reference_binary(bytes),
        true => reference_line(bytes),
    }
}

fn reference_line(bytes: &[u8]) -> Parsed {
    const LINE_BYTES_MAX: usize = 107;
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = (1..within.len()).find(|&at| within[at - 1] == b'\r' && within[at] == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProxyHeaderError::TooLong) };
    };
    let Ok(line) = std::str::from_utf8(&within[..end - 1]) else { return Err(ProxyHeaderError::Malformed) };
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    let client = match words[..] {
        ["UNKNOWN", ..] => Ok(None),
        ["TCP4", source, destination, port, own_port] => {
            let address = ipv4(source).map(IpAddr::from);
            Ok(address.filter(|_| ipv4(destination).is_some()).zip(port_of(port)).zip(port_of(own_port)))
        }
        ["TCP6", source, destination, port, own_port] => {
            let address = ipv6(source).map(IpAddr::from);
            Ok(address.filter(|_| ipv6(destination).is_some()).zip(port_of(port)).zip(port_of(own_port)))
        }
        [_, _, _, _, _] => Err(ProxyHeaderError::Unknown),
        _ => Err(ProxyHeaderError::Malformed),
    }?;
    if words[0] != "UNKNOWN" && client.is_none() {
        return Err(ProxyHeaderError::Malformed);
    }
    let client = client.map(|((address, port), _)| SocketAddr::new(address, port));
    Ok(Some(ProxyHeader { bytes: end + 1, client }))
}

/// A number in decimal digits without leading zeros.
fn decimal(text: &str, max: u32) -> Option<u32> {
    let mut number = 0;
    for byte in text.bytes() {
        number = number * 10 + char::from(byte).to_digit(10)?;
        if number > max {
            return None;
        }
    }
    let is_short = !text.is_empty() && (text.len() == 1 || !text.starts_with('0'));
    is_short.then_some(number)
}

fn port_of(text: &str) -> Option<u16> {
    decimal(text, u16::MAX.into()).map(|port| port as u16)
}

fn ipv4(text: &str) -> Option<[u8; 4]> {
    let octets: Option<Vec<u8>> =
        text.split('.').map(|octet| decimal(octet, 255).map(|octet| octet as u8)).collect();
    octets?.try_into().ok()
}

/// RFC 4291, section 2.2.
fn ipv6(text: &str) -> Option<[u16; 8]> {
    let Some((head, tail)) = text.split_once("::") else { return groups(text, true)?.try_into().ok() };
    let (mut all, tail) = (groups(head, false)?, groups(tail, true)?);
    // The two colons stand for one group at least.
    let zeros = 8_usize.checked_sub(all.len() + tail.len()).filter(|zeros| *zeros > 0)?;
    all.resize(all.len() + zeros, 0);
    all.extend(tail);
    all.try_into().ok()
}

/// Groups of 16 bits between colons, the last two of them perhaps as an IPv4 address.
fn groups(text: &str, may_end_in_ipv4: bool) -> Option<Vec<u16>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let mut words: Vec<&str> = text.split(':').collect();
    let ipv4 = match words.pop_if(|last| may_end_in_ipv4 && last.contains('.')) {
        Some(last) => Some(ipv4(last)?),
        None => None,
    };
    let mut groups = Vec::new();
    for word in words {
        let is_hex = (1..=4).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        groups.push(u16::from_str_radix(word, 16).ok().filter(|_| is_hex)?);
    }
    if let Some([a, b, c, d]) = ipv4 {
        groups.extend([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
    }
    Some(groups)
}

fn reference_binary(bytes: &[u8]) -> Parsed {
    let mut cursor = Cursor::new(&bytes[SIGNATURE.len()..]);
    if !cursor.is_empty() && bytes[SIGNATURE.len()] & 0xf0 != 0x20 {
        return Err(ProxyHeaderError::Version);
    }
    if bytes.len() < SIGNATURE.len() + 4 {
        return Ok(None);
    }
    let (command, family, length) = (cursor.byte() & 0x0f, cursor.byte(), usize::from(cursor.u16()));
    let header_bytes = SIGNATURE.len() + 4 + length;
    if header_bytes > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    if bytes.len() < header_bytes {
        return Ok(None);
    }
    let header = |client| Ok(Some(ProxyHeader { bytes: header_bytes, client }));
    // The bytes of an address of IP.
    let address_bytes = match (command, family) {
        (0, _) | (1, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => return header(None),
        (1, 0x11) => 4,
        (1, 0x21) => 16,
        _ => return Err(ProxyHeaderError::Unknown),
    };
    if length < 2 * address_bytes + 4 {
        return Err(ProxyHeaderError::Malformed);
    }
    let source = number(cursor.take(address_bytes));
    let _destination = cursor.take(address_bytes);
    let address = match address_bytes {
        4 => IpAddr::V4(Ipv4Addr::from_bits(source as u32)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(source)),
    };
    header(Some(SocketAddr::new(address, cursor.u16())))
}
