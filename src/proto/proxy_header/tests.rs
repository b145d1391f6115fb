//! Tables of headers, and properties over all prefixes and changes of them.

use super::*;
use crate::random::SplitMix64;

fn client(address: &str, bytes: usize) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    Ok(Some(ProxyHeader { bytes, client: Some(address.parse().expect("an address")) }))
}

fn nobody(bytes: usize) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    Ok(Some(ProxyHeader { bytes, client: None }))
}

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

const BLOCK4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];

fn block6() -> Vec<u8> {
    let mut block = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).octets().to_vec();
    block.extend(Ipv6Addr::LOCALHOST.octets());
    block.extend([0x30, 0x39, 0, 80]);
    block
}

#[test]
fn lines_of_version_1_name_the_client() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", client("192.0.2.7:56324", 41)),
        ("PROXY TCP6 2001:db8::9 ::1 12345 80\r\n", client("[2001:db8::9]:12345", 37)),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 0 65535\r\nGET /", client("192.0.2.7:0", 39)),
        ("PROXY UNKNOWN\r\n", nobody(15)),
        ("PROXY UNKNOWN ff:: what ever 1 2\r\n", nobody(34)),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 56324 443", Ok(None)),
        ("PROXY", Ok(None)),
        ("", Ok(None)),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 56324 65536\r\n", Err(ProxyHeaderError::Malformed)),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 056324 443\r\n", Err(ProxyHeaderError::Malformed)),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 +5 443\r\n", Err(ProxyHeaderError::Malformed)),
        ("PROXY TCP4 192.0.2.07 10.0.0.1 5 443\r\n", Err(ProxyHeaderError::Malformed)),
        ("PROXY TCP4 ::1 ::1 5 443\r\n", Err(ProxyHeaderError::Malformed)),
        ("PROXY TCP4 192.0.2.7  10.0.0.1 5 443\r\n", Err(ProxyHeaderError::Malformed)),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 5 443 \r\n", Err(ProxyHeaderError::Malformed)),
        ("PROXY UDP4 192.0.2.7 10.0.0.1 5 443\r\n", Err(ProxyHeaderError::Unknown)),
        ("PROXY \r\n", Err(ProxyHeaderError::Malformed)),
        ("GET / HTTP/1.1\r\n", Err(ProxyHeaderError::Missing)),
        ("proxy TCP4", Err(ProxyHeaderError::Missing)),
    ] {
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
    }
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'a'; 200]].concat();
    assert_eq!(parse(&endless), Err(ProxyHeaderError::TooLong));
    assert_eq!(parse(&endless[..106]), Ok(None));
}

#[test]
fn headers_of_version_2_name_the_client_whatever_follows_the_addresses() {
    let with_fields = |block: &[u8]| [block, &[0x04, 0, 2, 1, 2][..]].concat();
    for (header, expected) in [
        (binary(0x21, 0x11, &BLOCK4), client("192.0.2.7:56324", 28)),
        (binary(0x21, 0x11, &with_fields(&BLOCK4)), client("192.0.2.7:56324", 33)),
        (binary(0x21, 0x21, &block6()), client("[2001:db8::9]:12345", 52)),
        (binary(0x21, 0x21, &with_fields(&block6())), client("[2001:db8::9]:12345", 57)),
        (binary(0x20, 0x00, &[]), nobody(16)),
        (binary(0x20, 0x11, &BLOCK4), nobody(28)),
        (binary(0x20, 0xff, &[1, 2, 3]), nobody(19)),
        (binary(0x21, 0x00, &[]), nobody(16)),
        (binary(0x21, 0x00, &BLOCK4), nobody(28)),
        (binary(0x21, 0x31, &[0; 216]), nobody(232)),
        (binary(0x21, 0x12, &BLOCK4), nobody(28)),
        (binary(0x21, 0x11, &BLOCK4[..11]), Err(ProxyHeaderError::Malformed)),
        (binary(0x21, 0x21, &BLOCK4), Err(ProxyHeaderError::Malformed)),
        (binary(0x21, 0x41, &BLOCK4), Err(ProxyHeaderError::Unknown)),
        (binary(0x22, 0x11, &BLOCK4), Err(ProxyHeaderError::Unknown)),
        (binary(0x11, 0x11, &BLOCK4), Err(ProxyHeaderError::Version)),
        (binary(0x20, 0, &vec![0; PROXY_HEADER_BYTES_MAX - 15]), Err(ProxyHeaderError::TooLong)),
        (binary(0x20, 0, &vec![0; PROXY_HEADER_BYTES_MAX - 16]), nobody(PROXY_HEADER_BYTES_MAX)),
    ] {
        assert_eq!(parse(&header), expected, "{header:02x?}");
    }
}

fn samples() -> Vec<Vec<u8>> {
    vec![
        b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::9 ::1 12345 80\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary(0x21, 0x11, &BLOCK4),
        binary(0x21, 0x21, &[block6(), vec![3, 0, 4, 1, 2, 3, 4]].concat()),
        binary(0x20, 0, &[]),
    ]
}

#[test]
fn a_header_that_arrives_in_pieces_is_the_same_header() {
    for header in samples() {
        let whole = parse(&header).expect("valid").expect("complete");
        assert_eq!(whole.bytes, header.len());
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(None), "{cut} bytes of {header:02x?}");
        }
        let followed = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&followed), Ok(Some(whole)));
    }
}

#[test]
fn no_bytes_make_it_panic_and_more_bytes_never_change_its_mind() {
    let mut random = SplitMix64::new(7);
    let samples = samples();
    for _ in 0..200_000 {
        let mut bytes = samples[random.next_u64() as usize % samples.len()].clone();
        for _ in 0..random.next_u64() % 4 {
            let at = random.next_u64() as usize % bytes.len();
            bytes[at] = random.next_u64() as u8;
        }
        bytes.extend(random.next_u64().to_le_bytes());
        let decided = parse(&bytes);
        if let Ok(Some(header)) = decided {
            assert!(header.bytes <= bytes.len() && header.bytes <= PROXY_HEADER_BYTES_MAX);
        }
        let cut = random.next_u64() as usize % (bytes.len() + 1);
        match parse(&bytes[..cut]) {
            Ok(None) => {}
            early => assert_eq!(early, decided, "{bytes:02x?} at {cut}"),
        }
    }
}
