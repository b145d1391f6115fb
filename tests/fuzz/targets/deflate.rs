//! permessage-deflate: inflates messages like another implementation and never beyond the bound, recovers deflated
//! messages, and negotiates parameters that both ends understand for any offer.
//!
//! Input: options, a bound, and messages with length prefixes, or the text of a header field.

use echoring_proto::deflate::{
    Deflater, Direction, Inflater, Preferences, accept_response, agree, write_offer, write_response,
};
use echoring_proto::{ProtocolError, Role};

use super::connection;
use super::cursor::Cursor;
use super::inflate::Inflation;

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let options = cursor.byte();
    let direction = Direction { context_takeover: options & 4 == 0, window_bits: 8 + (options >> 3 & 7) };
    match options & 3 {
        0 => check_inflating(direction, &mut cursor),
        1 => check_round_trip(direction, &mut cursor),
        2 => check_offer(cursor.byte(), cursor.rest()),
        _ => check_response(cursor.byte(), cursor.rest()),
    }
}

fn check_inflating(direction: Direction, cursor: &mut Cursor<'_>) {
    let bytes_max = [65_536, 0, 5, 100, 1_000, 32_768, 40_000, 1 << 20][usize::from(cursor.byte() & 7)];
    let mut inflater = Inflater::new(direction);
    let mut reference = Inflation::new(direction);
    let mut out = Vec::new();
    while !cursor.is_empty() {
        let length = usize::from(cursor.u16());
        let payload = cursor.take(length);
        let got = inflater.inflate(payload, &mut out, bytes_max);
        let expected = reference.inflate(payload, bytes_max);
        match (&got, &expected) {
            (Ok(bytes), Ok(message)) => assert!(out[..*bytes] == message[..], "another message"),
            (Err(offence), Err(other)) if offence == other => {}
            // At the bound, the following bytes may be read or not: the result is an error in both cases.
            (Err(ProtocolError::MessageTooBig | ProtocolError::BadCompression), Err(_)) => {}
            _ => panic!("{got:?}, but {:?}", expected.map(|message| message.len())),
        }
        assert!(out.capacity() <= bytes_max.max(out.len()) && out.len() <= bytes_max, "beyond the bound");
        if got.is_err() {
            // The connection ends; a later message finds the window unchanged.
            break;
        }
    }
    inflater.reset();
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let again = inflater.inflate(&hello, &mut out, 5).expect("RFC 7692, 7.2.3.1");
    assert_eq!(&out[..again], b"Hello", "what is reset is as new");
}

fn check_round_trip(direction: Direction, cursor: &mut Cursor<'_>) {
    if !direction.deflates() {
        return;
    }
    let level = 1 + cursor.byte() % 9;
    let mut deflater = Deflater::new(direction, level);
    let mut inflater = Inflater::new(direction);
    let mut window = Inflation::new(direction);
    let (mut compressed, mut out) = (Vec::new(), Vec::new());
    while !cursor.is_empty() {
        let (length, times) = (usize::from(cursor.byte()), usize::from(cursor.byte()));
        let unit = cursor.take(length);
        let message = unit.repeat(if times < 0xf0 { 1 + times / 64 } else { times });
        let bytes = deflater.deflate(&message, &mut compressed);
        assert!(bytes > 0, "a message is never empty on the wire");
        let got = inflater.inflate(&compressed[..bytes], &mut out, message.len());
        assert_eq!(got, Ok(message.len()));
        assert!(out[..message.len()] == message[..], "another message came back");
        let by_other = window.inflate(&compressed[..bytes], message.len());
        assert!(by_other.as_deref() == Ok(&message[..]), "another implementation reads it otherwise");
    }
}

/// For any offer, the server's answer respects the offer as far as the client can check.
fn check_offer(own: u8, offer: &[u8]) {
    let preferences = connection::compression(own).preferences;
    let agreement = agree([offer].into_iter(), &preferences);
    if let Some(agreement) = &agreement {
        let mut response = Vec::new();
        write_response(&mut response, agreement);
        assert!(response.is_ascii() && response.starts_with(b"permessage-deflate"));
    }
    // Field lines form one list, and an empty element changes nothing (RFC 9110, 5.6.1).
    assert_eq!(agree([offer, b" , "].into_iter(), &preferences), agreement);
    // Our server accepts our own offer, and our client accepts the answer.
    let client = connection::compression(offer.first().copied().unwrap_or(own)).preferences;
    check_own_offer(&client, &preferences);
}

fn check_own_offer(client: &Preferences, server: &Preferences) {
    let (mut offer, mut response) = (Vec::new(), Vec::new());
    write_offer(&mut offer, client);
    let agreement = agree([&offer[..]].into_iter(), server).expect("our own offer");
    write_response(&mut response, &agreement);
    let taken = accept_response([&response[..]].into_iter(), client);
    let taken = taken.expect("our own answer").expect("an agreement");
    assert_eq!(taken.inbound(Role::Server), agreement.inbound(Role::Server), "what the client sends");
    // A server may use a smaller window without naming it (RFC 7692, 7.1.2.1).
    let (known, used) = (taken.inbound(Role::Client), agreement.outbound(Role::Server));
    assert!(
        known.context_takeover == used.context_takeover && known.window_bits >= used.window_bits,
        "{known:?} {used:?}"
    );
    let within = |agreed: Direction, allowed: Direction| {
        agreed.window_bits <= allowed.window_bits && (!agreed.context_takeover || allowed.context_takeover)
    };
    for preferences in [client, server] {
        assert!(within(agreement.outbound(Role::Server), preferences.server), "{agreement:?}");
        assert!(within(agreement.inbound(Role::Server), preferences.client), "{agreement:?}");
    }
}

fn check_response(own: u8, response: &[u8]) {
    let preferences = connection::compression(own).preferences;
    let Ok(Some(agreement)) = accept_response([response].into_iter(), &preferences) else { return };
    let server = agreement.inbound(Role::Client);
    assert!(server.window_bits <= preferences.server.window_bits, "a window that was not offered");
    assert!(
        !server.context_takeover || preferences.server.context_takeover,
        "a context_takeover that was not offered"
    );
}
