//! Connections as bytes: nearly all other tests put theirs into bytes and take them out behind every second span.

use proptest::prelude::*;

use super::compression::{NO_TAKEOVER, TAKEOVER, compressed_frame, config, deflated, text};
use super::*;
use crate::random::SplitMix64;

fn put(echo: &Echo) -> Vec<u8> {
    let mut bytes = Vec::new();
    echo.connection.put(&mut bytes, echo.now);
    bytes
}

fn take(echo: &mut Echo, bytes: &[u8]) -> Result<Connection, RestoreError> {
    let (_, mut env) = echo.env();
    Connection::take(&mut &bytes[..], &mut env)
}

/// Connections in many states, each with what is then sent to it.
fn states() -> Vec<Echo> {
    let message = client_frame(Opcode::Text, true, "grüße".repeat(50).as_bytes());
    let fragment = client_frame(Opcode::Text, false, "gr\u{fc}".as_bytes());
    let ping = client_frame(Opcode::Ping, true, b"are you there");
    let mut states = Vec::new();
    for part in [
        &[][..],
        &message[..1],
        &message[..5],
        &message[..9],
        &message[..200],
        &fragment,
        &fragment[..8],
        &ping[..9],
    ] {
        for whole in [false, true] {
            let mut echo = Echo::open_with(ConnectionConfig::default(), whole);
            echo.receive(part);
            states.push(echo);
        }
    }
    // A window of received messages, and a compressed message in it that is not complete.
    for part in [0, 3, 40] {
        let mut config = config(TAKEOVER, TAKEOVER);
        config.compression = config.compression.map(|compression| compression.level(1));
        let mut echo = Echo::compressed(config, b"permessage-deflate");
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&text(700))));
        echo.receive(&compressed_frame(Opcode::Text, false, &deflated(&text(700)))[..part]);
        states.push(echo);
    }
    let closes: [fn(&mut Echo); 4] = [
        |echo| {
            let (connection, mut env) = echo.env();
            connection.close(CloseCode::GOING_AWAY, "a restart", CloseMode::Graceful, &mut env);
        },
        |echo| {
            let (connection, mut env) = echo.env();
            connection.close(CloseCode::SLOW_CONSUMER, "", CloseMode::DropPeer, &mut env);
        },
        |echo| echo.receive(&client_frame(Opcode::Close, true, b"\x03\xe8bye")),
        |echo| echo.receive(&client_frame(Opcode::Continuation, true, b"of nothing")),
    ];
    for close in closes {
        let mut echo = Echo::open();
        close(&mut echo);
        states.push(echo);
    }
    states
}

#[test]
fn a_connection_in_its_handshake_or_at_its_end_does_not_move() {
    assert!(!Echo::new(ConnectionConfig::default()).connection.may_move());
    for cause in [Cause::PongTimeout, Cause::Gone, Cause::Failed(std::io::ErrorKind::ConnectionReset)] {
        let mut echo = Echo::open();
        assert!(echo.connection.may_move());
        echo.connection.abort(cause);
        assert!(!echo.connection.may_move());
    }
}

#[test]
fn every_state_is_what_it_was_and_its_deadline_as_far_away() {
    let mut moved = 0;
    for mut echo in states() {
        if !echo.connection.may_move() {
            continue;
        }
        moved += 1;
        let bytes = put(&echo);
        let left = echo.connection.deadline(&echo.config).saturating_sub(echo.now);
        let closed = echo.connection.closed().cloned();
        let (was_open, queued) = (echo.connection.was_open(), echo.connection.queued_bytes());
        // Another process has another clock.
        echo.now += 12_345 * SECOND;
        let continued = take(&mut echo, &bytes).expect("it was put");
        assert_eq!(continued.deadline(&echo.config).saturating_sub(echo.now), left);
        assert_eq!((continued.closed().cloned(), continued.was_open()), (closed, was_open));
        assert_eq!(continued.queued_bytes(), queued);
    }
    assert!(moved >= 21, "{moved}");
}

#[test]
fn what_the_kernel_did_not_take_is_sent_first() {
    let mut echo = Echo::open();
    echo.connection.blocked(7);
    echo.receive(&client_frame(Opcode::Text, true, b"behind it"));
    echo.receive(&client_frame(Opcode::Ping, true, b"not before it"));
    assert_eq!(echo.sent, b"");
    let Echo { connection, pool, .. } = &mut echo;
    connection.put_back(b"rest of", pool).expect("memory");
    echo.move_connection();
    echo.flush();
    assert_eq!(&echo.sent[..7], b"rest of");
    let expected =
        [(Opcode::Pong, true, b"not before it".to_vec()), (Opcode::Text, true, b"behind it".to_vec())];
    assert_eq!(frames(&echo.sent[7..]), expected);
}

#[test]
fn bytes_that_end_too_early_are_refused() {
    for mut echo in states().into_iter().filter(|echo| echo.connection.may_move()) {
        let bytes = put(&echo);
        // The second time there are free buffers for everything.
        let used = [0, 1].map(|_| {
            for end in 0..bytes.len() {
                assert_eq!(take(&mut echo, &bytes[..end]).err(), Some(RestoreError::Malformed), "{end}");
            }
            echo.pool.used_bytes()
        });
        assert_eq!(used[0], used[1], "nothing is kept");
    }
}

/// A reload, or the process that takes over, may have lowered the limit while a message was being received.
#[test]
fn an_unfinished_message_above_a_lowered_limit_ends_with_1009() {
    const LOWERED: u64 = 1_000;
    // Compressed it has half of its length.
    let mut random = SplitMix64::new(7);
    let payload: Vec<u8> = (0..200_000).map(|_| b'a' + (random.next_u64() % 16) as u8).collect();
    let message = client_frame(Opcode::Text, true, &payload);
    let mut fragments = client_frame(Opcode::Text, false, &payload[..1_500]);
    fragments.extend(client_frame(Opcode::Continuation, true, &payload[1_500..]));
    let squeezed = deflated(&payload);
    let compressed = compressed_frame(Opcode::Text, true, &squeezed);
    // Cut in the first frame, between two frames, in a later header and in a later frame.
    let cuts =
        [(&message, 300), (&message, 5_000), (&fragments, 1_508), (&fragments, 1_512), (&fragments, 9_000)];
    let plain = cuts.map(|(bytes, cut)| (false, bytes, cut));
    for (is_compressed, bytes, cut) in
        plain.into_iter().chain([300, 2_000].map(|cut| (true, &compressed, cut)))
    {
        for (whole, moves) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut config = ConnectionConfig { max_message: 300_000, ..config(NO_TAKEOVER, NO_TAKEOVER) };
            let mut echo = Echo::new(config.clone());
            echo.offer = is_compressed.then(|| b"permessage-deflate".to_vec());
            echo.whole = whole;
            echo.receive(REQUEST);
            echo.sent.clear();
            echo.stays = true;
            echo.receive(&bytes[..cut]);
            assert!(echo.connection.is_open());
            config.max_message = LOWERED;
            echo.config = config;
            if moves {
                let bytes = put(&echo);
                let continued = take(&mut echo, &bytes).expect("it was put");
                let (connection, env) = echo.env();
                connection.release(env.pool, env.codecs);
                *connection = continued;
                echo.flush();
            } else {
                echo.receive(&bytes[cut..cut + 1]);
            }
            let case = format!("compressed {is_compressed}, cut at {cut}, whole {whole}, moves {moves}");
            let end = echo
                .sent
                .windows(4)
                .position(|bytes| bytes[0] == 0x88 && bytes[2..] == 1009_u16.to_be_bytes());
            assert!(end.is_some(), "{case}: {:?}", echo.connection.closed());
            let closed = echo.connection.closed().expect("it ends");
            assert_eq!(closed.cause, Cause::ProtocolError(ProtocolError::MessageTooBig), "{case}");
        }
    }
}

proptest! {
    /// Arbitrary changes of the bytes cause no panic, neither in `take` nor in a connection that it returns.
    #[test]
    fn changed_bytes_are_read_without_a_panic(
        state in 0..30_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        received in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut states: Vec<_> = states().into_iter().filter(|echo| echo.connection.may_move()).collect();
        let count = states.len();
        let mut echo = states.swap_remove(state % count);
        let mut bytes = put(&echo);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(continued) = take(&mut echo, &bytes) {
            let (connection, env) = echo.env();
            connection.release(env.pool, env.codecs);
            *connection = continued;
            echo.flush();
            echo.receive(&received);
            echo.advance(SECOND);
            echo.advance(1000 * SECOND);
        }
    }
}
