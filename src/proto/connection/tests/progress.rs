//! Messages that arrive slowly: each further kibibyte has its time, and a message as a whole has none.

use super::{Echo, client_frame, messages};
use crate::connection::{Cause, CloseMode, ConnectionConfig, MessageProgress, Times};
use crate::limits::{MESSAGE_PROGRESS_BYTES, Nanos, SECOND};
use crate::{CloseCode, Opcode, ProtocolError};

const KIB: usize = MESSAGE_PROGRESS_BYTES as usize;
const PAYLOAD_BYTES: usize = 200 * KIB;

fn config() -> ConnectionConfig {
    ConnectionConfig { max_message: 1 << 20, queue_bytes: 1 << 20, ..ConnectionConfig::default() }
}

/// Receives `bytes` in pieces of `piece_bytes`, with this time between them.
fn receive_slowly(echo: &mut Echo, bytes: &[u8], piece_bytes: usize, pause: Nanos) {
    for piece in bytes.chunks(piece_bytes) {
        echo.advance(pause);
        echo.receive(piece);
    }
}

#[test]
fn a_message_that_makes_progress_may_take_any_time() {
    let payload = vec![7; PAYLOAD_BYTES];
    let fragments: Vec<u8> = payload
        .chunks(100)
        .enumerate()
        .flat_map(|(at, part)| {
            let opcode = if at == 0 { Opcode::Binary } else { Opcode::Continuation };
            client_frame(opcode, (at + 1) * 100 >= PAYLOAD_BYTES, part)
        })
        .collect();
    for bytes in [client_frame(Opcode::Binary, true, &payload), fragments] {
        for whole in [false, true] {
            let mut echo = Echo::open_with(config(), whole);
            // More than an hour and a half for 200 KiB; the headers of the fragments are no progress.
            receive_slowly(&mut echo, &bytes, KIB + KIB / 10, 29 * SECOND);
            let (received, _) = messages(&echo.frames());
            assert_eq!(received, [(Opcode::Binary, payload.clone())]);
        }
    }
}

#[test]
fn each_further_kibibyte_has_its_time() {
    let bytes = client_frame(Opcode::Binary, true, &[7; PAYLOAD_BYTES]);
    for whole in [false, true] {
        let mut echo = Echo::open_with(config(), whole);
        let (front, rest) = bytes.split_at(10 * KIB);
        echo.receive(front);
        receive_slowly(&mut echo, &rest[..KIB - 1], 100, SECOND);
        assert_eq!(echo.close_code(), None);
        // A byte is missing.
        echo.advance(30 * SECOND - 11 * SECOND - 1);
        assert_eq!(echo.close_code(), None);
        let mut other = rest[KIB - 1..].chunks(1);
        if whole {
            echo.receive(other.next().expect("a byte"));
            echo.advance(30 * SECOND - 1);
            assert_eq!(echo.close_code(), None, "it came in time, and the next kibibyte has its own");
        }
        echo.advance(1);
        assert_eq!(echo.close_code(), Some(4009));
        let cause = echo.connection.closed().map(|closed| closed.cause.clone());
        assert_eq!(cause, Some(Cause::ProtocolError(ProtocolError::SlowMessage)));
    }
}

#[test]
fn the_end_of_a_message_is_progress_whatever_its_length() {
    let mut echo = Echo::open_with(config(), false);
    let bytes = client_frame(Opcode::Binary, true, &[7; KIB / 2]);
    let (front, back) = bytes.split_at(KIB / 4);
    echo.receive(front);
    for _ in 0..10 {
        // One message ends and the next begins in each span.
        echo.advance(29 * SECOND);
        echo.receive(&[back, front].concat());
    }
    assert_eq!(echo.close_code(), None);
    echo.advance(30 * SECOND);
    assert_eq!(echo.close_code(), Some(4009));
}

#[test]
fn time_in_which_nothing_is_read_does_not_count() {
    let mut echo = Echo::open_with(config(), false);
    let bytes = client_frame(Opcode::Binary, true, &[7; PAYLOAD_BYTES]);
    echo.receive(&bytes[..KIB]);
    for paused in [20 * SECOND, 100 * SECOND] {
        echo.advance(SECOND);
        echo.connection.set_backpressured(true, echo.now);
        assert_eq!(echo.connection.pause_wanted(&echo.config, false), Some(true));
        echo.advance(paused);
        echo.connection.set_backpressured(false, echo.now);
        assert_eq!(echo.connection.pause_wanted(&echo.config, false), Some(false));
        echo.connection.note_resumed(echo.now);
    }
    // The client had not yet heard that there is room.
    echo.advance(30 * SECOND - 1);
    assert_eq!(echo.close_code(), None);
    echo.advance(1);
    assert_eq!(echo.close_code(), Some(4009));
}

#[test]
fn a_close_frame_comes_behind_a_fragment_whose_header_was_sent() {
    type End = fn(&mut Echo);
    let too_slow: End = |echo| echo.advance(30 * SECOND);
    let lags: End = |echo| {
        let (connection, mut env) = echo.env();
        assert_eq!(connection.close(CloseCode(4008), "slow consumer", CloseMode::DropPeer, &mut env), 0);
    };
    for (end, code) in [(too_slow, 4009), (lags, 4008)] {
        let mut echo = Echo::open_with(config(), false);
        let bytes = client_frame(Opcode::Binary, true, &[7; PAYLOAD_BYTES]);
        let (first, rest) = bytes.split_at(KIB);
        echo.receive(first);
        // A span that begins inside a frame has no room for the header of its reply, which is sent by itself. The kernel takes all of it
        // but two bytes, and nothing of the payload.
        echo.blocks_behind_header = true;
        echo.receive(&rest[..KIB]);
        end(&mut echo);
        echo.connection.unblocked(echo.now);
        echo.flush();
        let frames = echo.frames();
        assert_eq!(frames[1], (Opcode::Continuation, false, vec![7; KIB]), "{code}");
        assert_eq!(echo.close_code(), Some(code));
    }
}

#[test]
fn a_connection_may_have_progress_of_its_own() {
    let bytes = client_frame(Opcode::Binary, true, &[7; PAYLOAD_BYTES]);
    let own_times = [
        MessageProgress { bytes: 2 * MESSAGE_PROGRESS_BYTES, time: 10 * SECOND },
        MessageProgress::UNLIMITED,
        // More than a message may have: a limit of its whole time.
        MessageProgress { bytes: u32::MAX, time: 100 * SECOND },
    ];
    let own_times =
        own_times.map(|message_progress| Times { message_progress, ping_interval: 0, pong_timeout: 0 });
    let until_closed = |place: Option<u8>| {
        let config = ConnectionConfig { own_times: own_times.to_vec(), ping_interval: 0, ..config() };
        let mut echo = Echo::open_with(config, false);
        if let Some(place) = place {
            echo.connection.set_times(place);
        }
        let begun = echo.now;
        echo.receive(&bytes[..20]);
        for piece in bytes[20..].chunks(KIB).take(50) {
            echo.advance(9 * SECOND);
            if echo.close_code().is_some() {
                return Some((echo.now - begun) / SECOND);
            }
            echo.receive(piece);
        }
        echo.advance(1_000 * SECOND);
        echo.close_code().map(|_| (echo.now - begun) / SECOND)
    };
    assert_eq!(until_closed(None), Some(450 + 1_000));
    assert_eq!(until_closed(Some(0)), Some(18));
    assert_eq!(until_closed(Some(1)), None);
    assert_eq!(until_closed(Some(2)), Some(108));
}

#[test]
fn a_connection_may_have_pings_of_its_own() {
    let silent_for = |own: Option<(Nanos, Nanos)>| {
        let message_progress = MessageProgress::UNLIMITED;
        let times =
            own.map(|(ping_interval, pong_timeout)| Times { message_progress, ping_interval, pong_timeout });
        let config = ConnectionConfig { own_times: times.into_iter().collect(), ..config() };
        let mut echo = Echo::open_with(config, false);
        if own.is_some() {
            echo.connection.set_times(0);
        }
        let begun = echo.now;
        let mut pinged = None;
        for _ in 0..200 {
            echo.advance(SECOND);
            let has_ping = echo.frames().iter().any(|(opcode, ..)| *opcode == Opcode::Ping);
            pinged = pinged.or(has_ping.then_some((echo.now - begun) / SECOND));
            if echo.connection.is_closing() {
                return (pinged, Some((echo.now - begun) / SECOND));
            }
        }
        (pinged, None)
    };
    assert_eq!(silent_for(None), (Some(25), Some(35)));
    assert_eq!(silent_for(Some((3 * SECOND, 2 * SECOND))), (Some(3), Some(5)));
    assert_eq!(silent_for(Some((60 * SECOND, 30 * SECOND))), (Some(60), Some(90)));
    assert_eq!(silent_for(Some((0, 0))), (None, None));
}
