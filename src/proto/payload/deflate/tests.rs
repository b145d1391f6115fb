//! Tests of the codecs: the examples of RFC 7692, hostile input, and a second implementation as the peer.

use miniz_oxide::deflate::core as miniz_deflate;
use miniz_oxide::inflate::core as miniz;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use proptest::prelude::*;
use zlib_rs::{Deflate, DeflateFlush};

use super::*;
use crate::ProtocolError;

const TAKEOVER: Direction = Direction { context_takeover: true, window_bits: 15 };
const NO_TAKEOVER: Direction = Direction { context_takeover: false, window_bits: 15 };
const BYTES_MAX: usize = 1 << 20;
/// "Hello" as RFC 7692 compresses it (7.2.3.1).
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn inflate(inflater: &mut Inflater, payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    inflate_within(inflater, payload, BYTES_MAX)
}

fn inflate_within(
    inflater: &mut Inflater,
    payload: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, ProtocolError> {
    let mut out = Vec::new();
    let inflated = inflater.inflate(payload, &mut out, bytes_max);
    assert!(out.capacity() <= bytes_max, "{} bytes for a bound of {bytes_max}", out.capacity());
    inflated.map(|bytes| out[..bytes].to_vec())
}

fn deflate(deflater: &mut Deflater, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = deflater.deflate(message, &mut out);
    out[..bytes].to_vec()
}

/// One or more blocks, the last one final, as one-shot libraries write them. `history` is the preceding output.
fn final_block(history: &[u8], message: &[u8]) -> Vec<u8> {
    let mut deflate = Deflate::new(6, false, 15);
    if !history.is_empty() {
        deflate.set_dictionary(history).expect("a dictionary");
    }
    let mut out = vec![0; message.len() * 2 + 64];
    deflate.compress(message, &mut out, DeflateFlush::Finish).expect("any input");
    out.truncate(deflate.total_out() as usize);
    out
}

/// Text that compresses moderately.
fn compressible(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("{{\"id\":{},\"at\":{}}},", state >> 20, state >> 28).as_bytes());
    }
    text.truncate(bytes);
    text
}

/// Bytes that do not compress.
fn incompressible(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[test]
fn the_examples_of_rfc_7692_inflate() {
    let table: &[(&str, &[u8], &[u8])] = &[
        ("7.2.3.1", &HELLO, b"Hello"),
        ("7.2.3.3", &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], b"Hello"),
        ("7.2.3.4", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
        (
            "7.2.3.5",
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
            b"Hello",
        ),
        ("7.2.3.6", &[0x00], b""),
    ];
    for direction in [TAKEOVER, NO_TAKEOVER] {
        let mut inflater = Inflater::new(direction);
        for (section, payload, expected) in table {
            assert_eq!(inflate(&mut inflater, payload).as_deref(), Ok(*expected), "{section}, {direction:?}");
        }
    }
}

#[test]
fn a_second_hello_of_rfc_7692_needs_the_window_of_the_first() {
    // 7.2.3.2.
    let second = [0xf2, 0x00, 0x11, 0x00, 0x00];
    for window_bits in WINDOW_BITS_MIN..=WINDOW_BITS_MAX {
        let mut inflater = Inflater::new(Direction { context_takeover: true, window_bits });
        for payload in [&HELLO[..], &second, &second, &HELLO, &second] {
            assert_eq!(inflate(&mut inflater, payload).as_deref(), Ok(&b"Hello"[..]));
        }
        inflater.reset();
        assert_eq!(inflate(&mut inflater, &second), Err(ProtocolError::BadCompression));
        let mut inflater = Inflater::new(Direction { context_takeover: false, window_bits });
        assert_eq!(inflate(&mut inflater, &HELLO).as_deref(), Ok(&b"Hello"[..]));
        assert_eq!(inflate(&mut inflater, &second), Err(ProtocolError::BadCompression));
        assert_eq!(inflate(&mut inflater, &HELLO).as_deref(), Ok(&b"Hello"[..]));
    }
}

#[test]
fn hello_deflates_as_in_rfc_7692() {
    let mut deflater = Deflater::new(TAKEOVER, 6);
    assert_eq!(deflate(&mut deflater, b"Hello"), HELLO);
    assert_eq!(deflate(&mut deflater, b""), [0x00]);
    assert_eq!(deflate(&mut deflater, b"Hello"), [0xf2, 0x00, 0x11, 0x00, 0x00]);
    deflater.reset();
    assert_eq!(deflate(&mut deflater, b"Hello"), HELLO);
    let mut deflater = Deflater::new(NO_TAKEOVER, 6);
    for _ in 0..3 {
        assert_eq!(deflate(&mut deflater, b"Hello"), HELLO);
    }
}

#[test]
fn an_empty_message_has_several_encodings() {
    let shapes: [&[u8]; 5] = [
        &[],
        &[0x00],
        &[0x02, 0x00],
        // A final block, without and with the empty block after it.
        &[0x03, 0x00],
        &[0x03, 0x00, 0x00],
    ];
    for direction in [TAKEOVER, NO_TAKEOVER] {
        let mut inflater = Inflater::new(direction);
        for bytes_max in [0, 1, BYTES_MAX] {
            for shape in shapes {
                assert_eq!(
                    inflate_within(&mut inflater, shape, bytes_max).as_deref(),
                    Ok(&b""[..]),
                    "{shape:x?}"
                );
            }
        }
    }
}

#[test]
fn a_message_continues_after_a_final_block() {
    for direction in [TAKEOVER, NO_TAKEOVER] {
        let mut inflater = Inflater::new(direction);
        let (one, two, three) = (compressible(3000, 1), compressible(50_000, 2), compressible(700, 3));
        let message = [&one[..], &two, &three].concat();
        let history = [&one[..], &two].concat();
        let second = final_block(&one, &two);
        let third = final_block(&history, &three);
        let payloads = [
            [&final_block(b"", &one)[..], &second, &third, &[0x00]].concat(),
            // Without the empty block that should follow.
            [&final_block(b"", &one)[..], &second, &third].concat(),
            // With empty blocks between them.
            [
                &final_block(b"", &one)[..],
                &[0x03, 0x00],
                &second,
                &[0x00, 0x00, 0x00, 0xff, 0xff],
                &third,
                &[0x00],
            ]
            .concat(),
        ];
        for payload in payloads {
            assert_eq!(inflate(&mut inflater, &payload).as_ref(), Ok(&message));
        }
    }
}

#[test]
fn the_window_survives_final_blocks_between_and_inside_messages() {
    for window_bits in [9, 12, 15] {
        let mut inflater = Inflater::new(Direction { context_takeover: true, window_bits });
        let window_bytes = 1 << window_bits;
        let mut history = Vec::new();
        for round in 0..60u32 {
            let message = compressible((round as usize * 61) % 900, round / 3);
            let latest = &history[history.len().saturating_sub(window_bytes - 262)..];
            let mut payload = final_block(latest, &message);
            if round % 3 > 0 {
                payload.push(0x00);
            }
            if round % 3 > 1 {
                let more = [latest, &message].concat();
                payload.pop();
                payload.extend(final_block(&more[more.len().saturating_sub(window_bytes - 262)..], &message));
                payload.push(0x00);
            }
            let expected = message.repeat(if round % 3 > 1 { 2 } else { 1 });
            assert_eq!(
                inflate(&mut inflater, &payload).as_ref(),
                Ok(&expected),
                "{round}, {window_bits} bits"
            );
            history.extend(expected);
        }
    }
}

#[test]
fn connections_that_share_an_inflater_keep_their_windows_apart() {
    let mut inflaters = [Inflater::new(NO_TAKEOVER), Inflater::new(NO_TAKEOVER), Inflater::new(TAKEOVER)];
    let (first, second) =
        (deflate(&mut Deflater::new(TAKEOVER, 6), b"Hello"), [0xf2, 0x00, 0x11, 0x00, 0x00]);
    let mut out = Vec::new();
    let mut windows: Vec<Window> = (8..=15).map(Window::new).collect();
    for (index, window) in windows.iter_mut().enumerate() {
        let inflater = &mut inflaters[index % 3];
        assert_eq!(
            inflater.inflate_after(window, &second, &mut out, 100),
            Err(ProtocolError::BadCompression)
        );
        assert_eq!(inflater.inflate_after(window, &first, &mut out, 100), Ok(5));
    }
    // Each window is used again after a message of another connection, after one of the inflater itself, after
    // invalid data, and after a final block.
    for round in 0..12 {
        for (index, window) in windows.iter_mut().enumerate() {
            let inflater = &mut inflaters[(index + round / 4) % 3];
            assert_eq!(inflater.inflate_after(window, &second, &mut out, 100), Ok(5));
            match round % 4 {
                0 => assert_eq!(inflater.inflate(&HELLO, &mut out, 100), Ok(5)),
                1 => assert_eq!(
                    inflater.inflate_after(window, &[0x07], &mut out, 100),
                    Err(ProtocolError::BadCompression)
                ),
                2 => assert_eq!(
                    inflater.inflate_after(window, &final_block(b"", b"Hello"), &mut out, 100),
                    Ok(5)
                ),
                _ => {}
            }
        }
    }
    windows[0].clear();
    assert_eq!(
        inflaters[0].inflate_after(&mut windows[0], &second, &mut out, 100),
        Err(ProtocolError::BadCompression)
    );
}

#[test]
fn a_truncated_message_is_an_error() {
    let text = compressible(2000, 7);
    let stored = [&[0x00, 0x05, 0x00, 0xfa, 0xff][..], b"Hello", &[0x00]].concat();
    let payloads = [
        deflate(&mut Deflater::new(NO_TAKEOVER, 1), &text),
        deflate(&mut Deflater::new(NO_TAKEOVER, 6), &text),
        deflate(&mut Deflater::new(NO_TAKEOVER, 6), &incompressible(300, 5)),
        [final_block(b"", &text), vec![0x00]].concat(),
        HELLO.to_vec(),
        stored,
    ];
    for direction in [TAKEOVER, NO_TAKEOVER] {
        for payload in &payloads {
            let mut inflater = Inflater::new(direction);
            let whole = inflate(&mut inflater, payload).expect("the message is complete");
            for bytes in 1..payload.len() {
                let cut = inflate(&mut inflater, &payload[..bytes]);
                if bytes + 1 == payload.len() && cut.as_ref() == Ok(&whole) {
                    // A message that ends with its final block is complete.
                    assert_eq!(payload[0] & 1, 1, "only a final block may lack the empty block after it");
                } else if payload[..bytes] == [0x00] {
                    // The header of a stored block alone is an empty message.
                    assert_eq!(cut.as_deref(), Ok(&b""[..]));
                } else {
                    assert_eq!(cut, Err(ProtocolError::BadCompression), "{bytes} of {payload:x?}");
                }
                // The error does not affect the next message.
                assert_eq!(inflate(&mut inflater, payload).as_ref(), Ok(&whole));
            }
        }
    }
}

#[test]
fn data_after_the_end_of_a_message_is_an_error() {
    let text = compressible(500, 9);
    let bodies =
        [deflate(&mut Deflater::new(NO_TAKEOVER, 6), &text), [final_block(b"", &text), vec![0x00]].concat()];
    for direction in [TAKEOVER, NO_TAKEOVER] {
        let mut inflater = Inflater::new(direction);
        for body in &bodies {
            for garbage in
                [&[0x00][..], &[0x07], &[0xff], &[0x00, 0x00], &[0x00, 0x00, 0xff, 0xff], b"garbage"]
            {
                let inflated = inflate(&mut inflater, &[&body[..], garbage].concat());
                assert_eq!(inflated, Err(ProtocolError::BadCompression), "{garbage:x?}");
            }
        }
        // A reserved block type; lengths that do not match; a distance before the first byte; too many codes.
        for bad in
            [&[0x06][..], &[0x07], &[0x00, 0x01, 0x00, 0x00, 0x00, 0x61], &[0x03, 0x02], &[0xfd, 0xff, 0xff]]
        {
            assert_eq!(inflate(&mut inflater, bad), Err(ProtocolError::BadCompression), "{bad:x?}");
        }
    }
}

#[test]
fn the_bound_is_exact_for_every_kind_of_block() {
    for bytes in [1, 2, 3, 257, 258, 259, 1023, 1024, 1025, 40_000] {
        for message in [vec![b'a'; bytes], compressible(bytes, 4), incompressible(bytes, 4)] {
            let payloads = [
                deflate(&mut Deflater::new(NO_TAKEOVER, 1), &message),
                deflate(&mut Deflater::new(NO_TAKEOVER, 9), &message),
                final_block(b"", &message),
                [final_block(b"", &message), vec![0x00]].concat(),
            ];
            for payload in payloads {
                for direction in [TAKEOVER, NO_TAKEOVER] {
                    let mut inflater = Inflater::new(direction);
                    assert_eq!(inflate_within(&mut inflater, &payload, bytes).as_ref(), Ok(&message));
                    for bytes_max in [bytes - 1, bytes / 2, 0] {
                        let inflated = inflate_within(&mut inflater, &payload, bytes_max);
                        assert_eq!(inflated, Err(ProtocolError::MessageTooBig), "{bytes_max} of {bytes}");
                    }
                    assert_eq!(inflate_within(&mut inflater, &payload, bytes).as_ref(), Ok(&message));
                }
            }
        }
    }
}

#[test]
fn a_scratch_buffer_above_the_bound_does_not_raise_it() {
    let payload = deflate(&mut Deflater::new(NO_TAKEOVER, 6), &[b'a'; 5000]);
    let mut out = vec![0; 100_000];
    let mut inflater = Inflater::new(NO_TAKEOVER);
    assert_eq!(inflater.inflate(&payload, &mut out, 4999), Err(ProtocolError::MessageTooBig));
    assert_eq!(inflater.inflate(&payload, &mut out, 5000), Ok(5000));
}

#[test]
fn a_decompression_bomb_stops_at_the_bound() {
    let bomb = deflate(&mut Deflater::new(NO_TAKEOVER, 9), &vec![0; 64 << 20]);
    assert!(bomb.len() < (64 << 20) / 900, "the bomb has {} bytes", bomb.len());
    for direction in [TAKEOVER, NO_TAKEOVER] {
        let mut inflater = Inflater::new(direction);
        // `inflate_within` also checks the allocated memory.
        assert_eq!(inflate_within(&mut inflater, &bomb, 64 << 10), Err(ProtocolError::MessageTooBig));
        inflater.reset();
        assert_eq!(inflate(&mut inflater, &HELLO).as_deref(), Ok(&b"Hello"[..]));
    }
}

#[test]
fn messages_of_16_mib_survive_a_round_trip() {
    for message in [compressible(16 << 20, 1), incompressible(16 << 20, 1)] {
        for direction in [TAKEOVER, NO_TAKEOVER] {
            let payload = deflate(&mut Deflater::new(direction, 1), &message);
            assert!(payload.len() <= message.len() + message.len() / 8 + 64);
            let inflated = inflate_within(&mut Inflater::new(direction), &payload, 16 << 20);
            assert!(inflated.as_ref() == Ok(&message), "16 MiB differ");
        }
    }
}

/// A second implementation, with a ring buffer of exactly the size of the window. A reference beyond the window
/// yields wrong data.
struct Peer {
    engine: Box<miniz::DecompressorOxide>,
    ring: Vec<u8>,
    position: usize,
}

impl Peer {
    fn new(window_bits: u8) -> Peer {
        let mut engine = Box::<miniz::DecompressorOxide>::default();
        engine.init();
        Peer { engine, ring: vec![0; 1 << window_bits], position: 0 }
    }

    fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let input = [payload, &TAIL].concat();
        let (mut used, mut message) = (0, Vec::new());
        loop {
            let more = miniz::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, consumed_now, produced) =
                miniz::decompress(&mut self.engine, &input[used..], &mut self.ring, self.position, more);
            used += consumed_now;
            message.extend_from_slice(&self.ring[self.position..self.position + produced]);
            self.position = (self.position + produced) % self.ring.len();
            match status {
                miniz_oxide::inflate::TINFLStatus::HasMoreOutput => {}
                miniz_oxide::inflate::TINFLStatus::NeedsMoreInput => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(used, input.len());
        message
    }
}

#[test]
fn a_deflater_stays_within_its_window() {
    let messages: Vec<Vec<u8>> = (0..24u32)
        .map(|n| match n % 4 {
            // Repetitions at distances beyond and within the smaller windows.
            0 => compressible(700, n / 8).repeat(3),
            1 => [compressible(300, 1), incompressible(400 << (n / 4), 2), compressible(300, 1)].concat(),
            2 => compressible(90 * n as usize, n / 6),
            _ => vec![b'x'; 300 * n as usize],
        })
        .collect();
    for level in [1, 2, 3, 6, 9] {
        for window_bits in 9..=15 {
            for context_takeover in [false, true] {
                let mut deflater = Deflater::new(Direction { context_takeover, window_bits }, level);
                let mut peer = Peer::new(window_bits);
                for message in messages.iter().chain(&messages) {
                    let payload = deflate(&mut deflater, message);
                    if !context_takeover {
                        peer = Peer::new(window_bits);
                    }
                    assert!(
                        peer.inflate(&payload) == *message,
                        "level {level}, {window_bits} bits, {context_takeover}"
                    );
                }
            }
        }
    }
}

#[test]
fn takeover_makes_similar_messages_shorter() {
    let message = compressible(1000, 3);
    let mut deflater = Deflater::new(TAKEOVER, 1);
    let (first, second) = (deflate(&mut deflater, &message), deflate(&mut deflater, &message));
    assert!(second.len() * 4 < first.len(), "{} then {}", first.len(), second.len());
    assert_eq!(deflate(&mut Deflater::new(NO_TAKEOVER, 1), &message).len(), first.len());
}

/// The result of the second implementation for a whole message.
fn oracle(payload: &[u8]) -> Option<Vec<u8>> {
    let input = [payload, &TAIL, &[0x03, 0x00]].concat();
    let mut out = vec![0; BYTES_MAX];
    let (mut used, mut written) = (0, 0);
    let mut engine = Box::<miniz::DecompressorOxide>::default();
    while used < input.len() && used != payload.len() || used == 0 {
        engine.init();
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, consumed_now, produced) =
            miniz::decompress(&mut engine, &input[used..], &mut out, written, flags);
        if status != miniz_oxide::inflate::TINFLStatus::Done {
            return None;
        }
        used += consumed_now;
        written += produced;
        // A final block may end with the removed tail, but not inside it.
        if used > payload.len() && used != payload.len() + TAIL.len() && used < input.len() {
            return None;
        }
    }
    out.truncate(written);
    Some(out)
}

/// Messages, some of which repeat parts of earlier ones.
fn conversation() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let message = prop_oneof![
        (0..3000usize, 0..4u32).prop_map(|(bytes, seed)| compressible(bytes, seed)),
        (0..70_000usize, 0..4u64).prop_map(|(bytes, seed)| incompressible(bytes, seed)),
        (0..70_000usize, any::<u8>()).prop_map(|(bytes, byte)| vec![byte; bytes]),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    prop::collection::vec(message, 1..12)
}

fn any_direction() -> impl Strategy<Value = Direction> {
    (any::<bool>(), 9..=15u8)
        .prop_map(|(context_takeover, window_bits)| Direction { context_takeover, window_bits })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn messages_survive_a_round_trip(messages in conversation(), direction in any_direction(), level in 1..=9u8) {
        let mut deflater = Deflater::new(direction, level);
        let mut inflater = Inflater::new(direction);
        let mut peer = Peer::new(direction.window_bits);
        let (mut scratch, mut out) = (Vec::new(), Vec::new());
        for message in &messages {
            let bytes = deflater.deflate(message, &mut scratch);
            let payload = &scratch[..bytes];
            prop_assert!(!payload.is_empty() && !payload.ends_with(&TAIL));
            let bytes = inflater.inflate(payload, &mut out, BYTES_MAX);
            prop_assert_eq!(bytes, Ok(message.len()));
            prop_assert!(out[..message.len()] == message[..]);
            if !direction.context_takeover {
                peer = Peer::new(direction.window_bits);
            }
            prop_assert!(peer.inflate(payload) == *message);
        }
    }

    #[test]
    fn messages_of_another_implementation_inflate(
        messages in conversation(),
        context_takeover in any::<bool>(),
        level in 0..=9i32,
    ) {
        let flags = miniz_deflate::create_comp_flags_from_zip_params(level, -15, 0);
        let mut engine = Box::new(miniz_deflate::CompressorOxide::new(flags));
        let mut inflater = Inflater::new(Direction { context_takeover, window_bits: 15 });
        for message in messages.iter().filter(|message| !message.is_empty()) {
            if !context_takeover {
                engine.reset();
            }
            let mut payload = vec![0; message.len() * 2 + 256];
            let (_, used, bytes) =
                miniz_deflate::compress(&mut engine, message, &mut payload, miniz_deflate::TDEFLFlush::Sync);
            prop_assert_eq!(used, message.len());
            let payload = payload[..bytes].strip_suffix(&TAIL).expect("a sync flush");
            prop_assert!(inflate(&mut inflater, payload).as_ref() == Ok(message));
        }
    }

    /// A connection keeps its own window, whichever inflater it uses and whatever that inflated before.
    #[test]
    fn shared_inflaters_give_the_same_results_as_separate_ones(
        conversations in prop::collection::vec((conversation(), 9..=15u8), 1..4),
        turns in prop::collection::vec((any::<prop::sample::Index>(), 0..2usize), 1..60),
    ) {
        let mut inflaters = [Inflater::new(NO_TAKEOVER), Inflater::new(NO_TAKEOVER)];
        let mut sides: Vec<_> = conversations
            .iter()
            .map(|(messages, window_bits)| {
                let direction = Direction { context_takeover: true, window_bits: *window_bits };
                (Deflater::new(direction, 6), Window::new(*window_bits), messages.iter().cycle().enumerate())
            })
            .collect();
        let mut out = Vec::new();
        for (index, inflater) in turns {
            let index = index.index(sides.len());
            let (deflater, window, messages) = &mut sides[index];
            let (number, message) = messages.next().expect("a cycle");
            let payload = deflate(deflater, message);
            let bytes = inflaters[inflater].inflate_after(window, &payload, &mut out, BYTES_MAX);
            prop_assert_eq!(bytes, Ok(message.len()), "message {} of {}", number, index);
            prop_assert!(out[..message.len()] == message[..]);
        }
    }

    /// A damaged message is an error or a different message. It never panics or exceeds the bound.
    #[test]
    fn damaged_messages_inflate_as_in_another_implementation(
        text in (1..3000usize, any::<u32>()).prop_map(|(bytes, seed)| compressible(bytes, seed)),
        level in 1..=9u8,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        appended in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut payload = deflate(&mut Deflater::new(NO_TAKEOVER, level), &text);
        for (index, byte) in damage {
            let index = index.index(payload.len());
            payload[index] = byte;
        }
        payload.extend(appended);
        let inflated = inflate(&mut Inflater::new(NO_TAKEOVER), &payload);
        prop_assert_eq!(&inflated, &inflate(&mut Inflater::new(TAKEOVER), &payload));
        if let Ok(message) = inflated {
            prop_assert!(oracle(&payload) == Some(message), "{payload:02x?}");
        }
    }

    #[test]
    fn any_bytes_are_handled(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6)) {
        for direction in [TAKEOVER, NO_TAKEOVER] {
            let mut inflater = Inflater::new(direction);
            for payload in &payloads {
                let _ = inflate_within(&mut inflater, payload, 1000);
            }
        }
    }
}
