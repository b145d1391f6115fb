//! Violations in frames, messages and the closing handshake (RFC 6455, sections 5 to 8; RFC 7692).

use echoring::{Compression, Conn, Error, Message, Role, Settings, Transport};
use echoring_proto::ProtocolError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::counting::{held_bytes, peak_bytes, restart_peak};
use super::deflate::{bomb, reaching_back, stored};
use super::peer::{
    Attacks, BINARY, CLOSE, CONTINUATION, FIN, Frames, PING, PONG, ROLES, RSV1, TEXT, WIDE, open, read_frame,
};

/// The default limit of a message in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// An attack: its bytes, and what both ends are told.
struct Offence {
    name: String,
    bytes: Vec<u8>,
    told: ProtocolError,
    compressed: bool,
}

/// How the bytes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Whole,
    /// In the same write as the peer's part of the handshake.
    Early,
    ByteByByte,
}

/// How the application reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Messages,
    Streams,
    Discards,
}

fn headers(frames: Frames) -> Vec<Offence> {
    use ProtocolError::{
        FragmentedControl, LengthTopBit, Masked, MessageTooBig, NotMasked, NotMinimalLength,
        OversizedControl, ReservedBits, UnknownOpcode,
    };
    let mut rows = Vec::new();
    let mut row =
        |name: String, bytes: Vec<u8>, told| rows.push(Offence { name, bytes, told, compressed: false });
    for bits in (0x10..=0x70).step_by(0x10) {
        for opcode in [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] {
            row(
                format!("reserved bits {bits:#x} of {opcode}"),
                frames.frame(FIN | bits | opcode, b""),
                ReservedBits,
            );
        }
    }
    for opcode in (3..8).chain(11..16) {
        row(format!("opcode {opcode}"), frames.frame(FIN | opcode, b""), UnknownOpcode);
        row(format!("fragment of opcode {opcode}"), frames.frame(opcode, b"x"), UnknownOpcode);
    }
    for opcode in [CLOSE, PING, PONG] {
        row(format!("fragmented control frame {opcode}"), frames.frame(opcode, b""), FragmentedControl);
        for length in [126, 0xffff, 0x1_0000] {
            let bytes = frames.header(FIN | opcode, length);
            row(format!("control frame {opcode} of {length} bytes"), bytes, OversizedControl);
        }
    }
    for (form, lengths) in [(2, &[0_u64, 1, 125][..]), (8, &[0, 125, 126, 0xffff])] {
        for length in lengths {
            let bytes = frames.header_in_form(FIN | BINARY, *length, form);
            row(format!("length {length} in {form} bytes"), bytes, NotMinimalLength);
        }
    }
    for length in [1 << 63, u64::MAX] {
        row(format!("length {length:#x}"), frames.header(FIN | BINARY, length), LengthTopBit);
    }
    let too_big = MESSAGE_BYTES_MAX as u64 + 1;
    for length in [too_big, 1 << 31, 1 << 32, (1 << 63) - 1] {
        row(format!("message of {length} bytes"), frames.header(FIN | BINARY, length), MessageTooBig);
        row(format!("fragment of {length} bytes"), frames.header(TEXT, length), MessageTooBig);
        // The length decides; the masking key that follows is not waited for.
        let mut keyless = frames.header(FIN | TEXT, length);
        keyless.truncate(10);
        row(format!("message of {length} bytes, without a key"), keyless, MessageTooBig);
    }
    let begun = frames.frame(BINARY, &[7; 40_000]);
    for length in [MESSAGE_BYTES_MAX as u64 + 1 - 40_000, (1 << 63) - 1] {
        let bytes = [begun.clone(), frames.header(CONTINUATION, length)].concat();
        row(format!("fragments of 40,000 and {length} bytes"), bytes, MessageTooBig);
    }
    let (other, told) = match frames.0 {
        Role::Server => (Frames(Role::Client), NotMasked),
        Role::Client => (Frames(Role::Server), Masked),
    };
    for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
        row(format!("masking of the other role, frame {opcode}"), other.frame(FIN | opcode, b""), told);
    }
    rows
}

fn sequences(frames: Frames) -> Vec<Offence> {
    use ProtocolError::{BadCloseCode, BadClosePayload, BadCloseReason, InterleavedData, StrayContinuation};
    let mut rows = Vec::new();
    let mut row =
        |name: String, bytes: Vec<u8>, told| rows.push(Offence { name, bytes, told, compressed: false });
    row("continuation of nothing".into(), frames.frame(FIN | CONTINUATION, b"x"), StrayContinuation);
    row("fragment of nothing".into(), frames.frame(CONTINUATION, b""), StrayContinuation);
    let whole = [frames.frame(TEXT, b"a"), frames.frame(FIN | CONTINUATION, b"b")].concat();
    let stray = [whole, frames.frame(FIN | CONTINUATION, b"c")].concat();
    row("continuation behind the last".into(), stray, StrayContinuation);
    for (first, second) in [(TEXT, TEXT), (TEXT, BINARY), (BINARY, TEXT), (BINARY, BINARY)] {
        for last in [0, FIN] {
            let between = [frames.frame(first, b"a"), frames.frame(FIN | PING, b"p")].concat();
            let bytes = [between, frames.frame(last | second, b"b")].concat();
            row(format!("message {second} inside message {first}, FIN {last:#x}"), bytes, InterleavedData);
        }
    }
    row("Close of one byte".into(), frames.frame(FIN | CLOSE, b"\x03"), BadClosePayload);
    let codes = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 0xffff];
    for code in codes {
        row(format!("Close with {code}"), frames.close(code, b""), BadCloseCode);
    }
    for reason in [&b"\xff"[..], b"enough \xc3", b"\xed\xa0\x80", &[b'x'; 122], &[0x80; 123]] {
        let reason = if reason.is_ascii() { [reason, b"\xf0"].concat() } else { reason.to_vec() };
        row(format!("Close with the reason {reason:x?}"), frames.close(1000, &reason), BadCloseReason);
    }
    rows
}

/// Texts that are not UTF-8: each wrong sequence at each place, and at each border of fragments inside it.
fn texts(frames: Frames) -> Vec<Offence> {
    let wrong: [&[u8]; 14] = [
        b"\x80",
        b"\xbf",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc3(",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xef\xbf(",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xf5",
        b"\xfe",
        b"\xff",
    ];
    let cut: [&[u8]; 4] = [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xf4"];
    let mut rows = Vec::new();
    let mut row = |name: String, bytes: Vec<u8>| {
        rows.push(Offence { name, bytes, told: ProtocolError::InvalidUtf8, compressed: false });
    };
    let long = "grüße ".repeat(60);
    for bad in wrong {
        for (before, behind) in [("", ""), ("a", ""), ("", "b"), ("", &*long), (&*long, ""), (&*long, &*long)]
        {
            let text = [before.as_bytes(), bad, behind.as_bytes()].concat();
            let place = before.len();
            row(format!("{bad:x?} at {place} of {}", text.len()), frames.frame(FIN | TEXT, &text));
        }
        for at in 0..=bad.len() {
            let first = frames.frame(TEXT, &["€".as_bytes(), &bad[..at]].concat());
            let second = frames.frame(FIN | CONTINUATION, &bad[at..]);
            let ping = frames.frame(FIN | PING, b"");
            row(format!("{bad:x?} in fragments cut at {at}"), [first, ping, second].concat());
        }
    }
    for bad in cut {
        row(format!("text that ends in {bad:x?}"), frames.frame(FIN | TEXT, &["€".as_bytes(), bad].concat()));
        let fragments = [frames.frame(TEXT, bad), frames.frame(FIN | CONTINUATION, b"")].concat();
        row(format!("fragments that end in {bad:x?}"), fragments);
        let fragments = [frames.frame(TEXT, bad), frames.frame(CONTINUATION, b"x")].concat();
        row(format!("{bad:x?} before ASCII in the next fragment"), fragments);
    }
    rows
}

fn compressed(frames: Frames) -> Vec<Offence> {
    use ProtocolError::{BadCompression, InvalidUtf8, MessageTooBig, ReservedBits};
    let mut rows = Vec::new();
    let mut row =
        |name: String, bytes: Vec<u8>, told| rows.push(Offence { name, bytes, told, compressed: true });
    let message = |payload: &[u8]| frames.frame(FIN | RSV1 | BINARY, payload);
    for bytes in [MESSAGE_BYTES_MAX + 1, 100 * MESSAGE_BYTES_MAX] {
        row(format!("bomb of {bytes} bytes"), message(&bomb(bytes)), MessageTooBig);
        let payload = bomb(bytes);
        let (first, second) = payload.split_at(payload.len() / 2);
        let fragments = [frames.frame(RSV1 | TEXT, first), frames.frame(FIN | CONTINUATION, second)].concat();
        row(format!("bomb of {bytes} bytes in fragments"), fragments, MessageTooBig);
    }
    for length in [2 * MESSAGE_BYTES_MAX as u64, (1 << 63) - 1] {
        let bytes = frames.header(FIN | RSV1 | BINARY, length);
        row(format!("compressed message of {length} bytes"), bytes, MessageTooBig);
    }
    for (name, payload) in [
        ("a reserved kind of block", &[7][..]),
        ("a stored block with a wrong complement", &[0, 5, 0, 5, 0, 1, 2, 3, 4, 5]),
        ("a stored block that is cut", &[0, 5, 0, 0xfa, 0xff, 1, 2]),
        ("noise", &[0xff; 40]),
    ] {
        row(name.into(), message(payload), BadCompression);
    }
    row("a distance to before the beginning".into(), message(&reaching_back()), BadCompression);
    let text = frames.frame(FIN | RSV1 | TEXT, &stored(b"ab\xff"));
    row("inflated text that is not UTF-8".into(), text, InvalidUtf8);
    for opcode in [CLOSE, PING, PONG] {
        row(
            format!("compressed control frame {opcode}"),
            frames.frame(FIN | RSV1 | opcode, b""),
            ReservedBits,
        );
    }
    let continuation = [frames.frame(BINARY, b"a"), frames.frame(FIN | RSV1 | CONTINUATION, b"b")].concat();
    row("compressed continuation".into(), continuation, ReservedBits);
    for bits in [0x20, 0x10, 0x60, 0x50] {
        row(format!("reserved bits {bits:#x}"), frames.frame(FIN | bits | TEXT, b""), ReservedBits);
    }
    rows
}

async fn read_all<S: Transport>(conn: &mut Conn<S>, reading: Reading) -> (Vec<Message>, Error) {
    let mut messages = Vec::new();
    let end = match reading {
        Reading::Messages => loop {
            match conn.read().await {
                Ok(message) => messages.push(message),
                Err(end) => break end,
            }
        },
        Reading::Streams => loop {
            let mut payload = Vec::new();
            let read = match conn.next_reader().await {
                Ok(mut reader) => reader.read_to_end(&mut payload).await,
                Err(end) => break end,
            };
            match read {
                Ok(_) => messages.push(Message::from(payload)),
                Err(error) => break error.downcast().expect("an error of the connection"),
            }
        },
        Reading::Discards => conn.discard_reads().await,
    };
    (messages, end)
}

/// The attacker: sends `bytes`, with more behind them, and reads to the end. Returns the pongs and the code of the Close frame.
async fn attack(far: &mut DuplexStream, bytes: &[u8], delivery: Delivery) -> (Vec<Vec<u8>>, Option<u16>) {
    match delivery {
        Delivery::Early => {}
        // The connection may be over before all was sent.
        Delivery::Whole => drop(far.write_all(bytes).await),
        Delivery::ByteByByte => {
            for byte in bytes {
                if far.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
    let (mut pongs, mut code) = (Vec::new(), None);
    while let Some((first, payload)) = read_frame(far).await {
        assert_eq!(code, None, "a frame {first:#x} behind the Close frame");
        match first {
            first if first == FIN | CLOSE => {
                code = payload.first_chunk().map(|code| u16::from_be_bytes(*code))
            }
            first if first == FIN | PONG => pongs.push(payload),
            other => panic!("a frame {other:#x} that nobody sent"),
        }
    }
    (pongs, code)
}

async fn check(role: Role, offence: &Offence, delivery: Delivery, reading: Reading) {
    let frames = Frames(role);
    let settings = Settings::default().compression(offence.compressed.then(Compression::default));
    let before = [frames.frame(FIN | TEXT, b"before"), frames.frame(FIN | PING, b"heard")].concat();
    let behind = [frames.frame(FIN | PING, b"more"), frames.frame(FIN | TEXT, b"more")].concat();
    let bytes = [&before[..], &offence.bytes, &behind].concat();
    let early = if delivery == Delivery::Early { &bytes[..] } else { &[] };
    let (mut conn, mut far) = open(role, settings, WIDE, early).await;
    let before = held_bytes();
    restart_peak();
    let attacking = attack(&mut far, &bytes, delivery);
    let reading_all = async {
        let read = read_all(&mut conn, reading).await;
        // Both ends keep their word however often they are asked.
        for _ in 0..2 {
            let again = conn.read().await.expect_err("the end");
            assert!(matches!(again, Error::ProtocolError(told) if told == offence.told), "{again}");
        }
        assert!(conn.write("more").await.is_err());
        drop(conn);
        read
    };
    let ((pongs, code), (messages, end)) = tokio::join!(attacking, reading_all);
    assert!(matches!(end, Error::ProtocolError(told) if told == offence.told), "{end}");
    assert_eq!(code, Some(offence.told.close_code().0));
    assert_eq!(pongs.first().map(Vec::as_slice), Some(&b"heard"[..]), "pings before are answered");
    assert!(pongs.iter().all(|pong| pong != b"more"), "nothing behind it is answered");
    if reading != Reading::Discards {
        assert_eq!(messages.first().map(Message::as_bytes), Some(&b"before"[..]), "messages before are read");
        assert!(messages.iter().all(|message| message.as_bytes() != b"more"), "nothing behind it is read");
    }
    // Payload in the pipe, the connection's memory, and a message of the limit while it is inflated and handed over.
    let peak = peak_bytes() - before;
    assert!(peak < 7 * MESSAGE_BYTES_MAX as i64, "{peak} bytes");
}

fn check_all(rows: fn(Frames) -> Vec<Offence>, rows_min: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let mut attacks = Attacks::default();
    for role in ROLES {
        let rows = rows(Frames(role));
        assert!(rows.len() >= rows_min, "{} rows", rows.len());
        for row in &rows {
            let ways = [
                (Delivery::Whole, Reading::Messages),
                (Delivery::Whole, Reading::Streams),
                (Delivery::Whole, Reading::Discards),
                (Delivery::Early, Reading::Messages),
                (Delivery::ByteByByte, Reading::Messages),
                (Delivery::ByteByByte, Reading::Discards),
            ];
            for (delivery, reading) in ways {
                // Long attacks come whole, so that the table takes seconds.
                if delivery == Delivery::ByteByByte && row.bytes.len() > 2_000 {
                    continue;
                }
                let name = format!("{role:?}: {} ({delivery:?}, {reading:?})", row.name);
                attacks.run(&name, || runtime.block_on(check(role, row, delivery, reading)));
            }
        }
    }
}

#[test]
fn bad_headers_end_the_connection_with_their_code() {
    check_all(headers, 80);
}

#[test]
fn bad_sequences_and_closes_end_the_connection_with_their_code() {
    check_all(sequences, 25);
}

#[test]
fn text_that_is_not_utf8_ends_the_connection_wherever_it_is() {
    check_all(texts, 120);
}

#[test]
fn bad_compressed_messages_end_the_connection_with_their_code() {
    check_all(compressed, 15);
}
