//! Property tests: the replies do not depend on fragments, span boundaries, or the path that reads a frame.

use proptest::prelude::*;

use super::*;

/// A client message: whether it is text, its payload, and the boundaries of its fragments.
fn any_message() -> impl Strategy<Value = (bool, Vec<u8>, Vec<usize>)> {
    let text = proptest::collection::vec(any::<char>(), 0..60)
        .prop_map(|chars| (true, chars.into_iter().collect::<String>().into_bytes()));
    let binary = prop_oneof![0..200_usize, 60_000..70_000_usize].prop_map(|size| (false, vec![0x5a; size]));
    let cuts = proptest::collection::vec(0..300_usize, 0..3);
    (prop_oneof![text, binary], cuts).prop_map(|((text, payload), cuts)| (text, payload, cuts))
}

fn encode((text, payload, cuts): &(bool, Vec<u8>, Vec<usize>)) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(payload.len());
    let (mut bytes, mut from) = (Vec::new(), 0);
    for (index, to) in cuts.iter().enumerate() {
        let opcode = match (index, text) {
            (0, true) => Opcode::Text,
            (0, false) => Opcode::Binary,
            _ => Opcode::Continuation,
        };
        bytes.extend(client_frame(opcode, index + 1 == cuts.len(), &payload[from..*to]));
        from = *to;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The echoed messages are the same for all span boundaries and all times at which sends block.
    #[test]
    fn echoes_do_not_depend_on_span_boundaries_or_on_blocking(
        script in proptest::collection::vec(any_message(), 1..8),
        whole in any::<bool>(),
        odd in any::<bool>(),
        spans in proptest::collection::vec((1..9_000_usize, any::<bool>()), 1..60),
    ) {
        let bytes: Vec<u8> = script.iter().flat_map(encode).collect();
        let config = ConnectionConfig { max_message: 1 << 20, ..ConnectionConfig::default() };
        let mut echo = Echo::open_with(config, whole);
        echo.now += Nanos::from(odd);
        let mut rest = bytes.as_slice();
        for (size, block) in spans.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            if *block && !echo.connection.is_blocked() {
                echo.connection.blocked(1);
            }
            let (span, after) = rest.split_at((*size).min(rest.len()));
            echo.receive(span);
            rest = after;
            if !*block && echo.connection.is_blocked() {
                echo.connection.unblocked(echo.now);
                echo.flush();
            }
        }
        echo.connection.unblocked(echo.now);
        echo.flush();
        let expected: Vec<(Opcode, Vec<u8>)> = script
            .iter()
            .map(|(text, payload, _)| (if *text { Opcode::Text } else { Opcode::Binary }, payload.clone()))
            .collect();
        prop_assert_eq!(messages(&echo.frames()).0, expected);
    }
}

#[test]
fn a_single_frame_is_echoed_in_place_or_left_unchanged() {
    let key = [0x12, 0x80, 0x7f, 0xfe];
    let masked = |first: u8, payload: &[u8]| {
        let mut frame = vec![first, 0x80 | payload.len() as u8];
        frame.extend_from_slice(&key);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    };
    for bytes in 0..=SINGLE_FRAME_BYTES_MAX + 1 {
        let ascii = vec![b'a'; bytes];
        let word = "κόσμε";
        let greek = word.repeat(bytes / word.len()).into_bytes();
        let broken: Vec<u8> = (0..bytes).map(|at| if at + 1 == bytes { 0xff } else { b'a' }).collect();
        for (first, payload, is_echoed) in [
            (0x81, &ascii, true),
            (0x82, &ascii, true),
            (0x81, &greek, true),
            (0x81, &broken, bytes == 0),
            (0x82, &broken, true),
            (0x01, &ascii, false),
            (0x80, &ascii, false),
            (0x89, &ascii, false),
            (0xc1, &ascii, false),
        ] {
            let is_echoed = is_echoed && payload.len() <= SINGLE_FRAME_BYTES_MAX;
            let before = masked(first, payload);
            let mut span = before.clone();
            assert_eq!(echo_single(&mut span), is_echoed, "{first:#x}, {} bytes", payload.len());
            if is_echoed {
                assert_eq!(
                    span[SINGLE_REPLY_START..],
                    [&[first, payload.len() as u8], &payload[..]].concat()
                );
            } else {
                assert_eq!(span, before);
            }
            // Partial frames, further bytes and unmasked frames are left unchanged.
            let mut part = before[..before.len() - 1].to_vec();
            assert!(!echo_single(&mut part) && part == before[..before.len() - 1]);
            let mut more = [&before[..], &[0x81]].concat();
            assert!(!echo_single(&mut more) && more[..before.len()] == before);
            let mut unmasked = before.clone();
            unmasked[1] &= 0x7f;
            assert!(!echo_single(&mut unmasked));
        }
    }
}
