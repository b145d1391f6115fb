//! A whole connection in either role, compared with a reference that reads all bytes at once. The bytes are arbitrary and
//! split anywhere, the kernel accepts any part of a send, time passes, and the application sends messages of its own.
//!
//! Input: two bytes of options, one more for compression if they enable it, a script of choices, and the wire, raw or as
//! frames made from it.

use echoring_proto::connection::{Cause, Compression, ConnectionConfig, TransportAction};
use echoring_proto::deflate::{Direction, Preferences};
use echoring_proto::limits::{MILLISECOND, SECOND};
use echoring_proto::{ProtocolError, Role};

use super::cursor::{Choices, Cursor};
use super::peer::{App, Habits, Peer};
use super::reference::{self, End, Heard, Message, Rules};
use super::wire;

/// Limit of pings per second when floods are tested.
const FLOOD: u32 = 8;

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let (options, limits) = (cursor.byte(), cursor.byte());
    let set = |bit: u8| options >> bit & 1 == 1;
    let role = if set(1) { Role::Client } else { Role::Server };
    let app = [App::Echo, App::Meddling, App::Echo, App::Silent][usize::from(options >> 2 & 3)];
    let habits = Habits {
        role,
        app,
        whole: set(4),
        later: set(6) && set(7),
        rough: set(5),
        budget_bytes: [1 << 30, 1 << 30, 70_000, 3_000][usize::from(limits >> 5 & 3)],
    };
    let floods = limits & 0x10 != 0;
    let config = ConnectionConfig {
        max_message: [1 << 16, 1 << 20, 300, 125][usize::from(limits & 3)],
        queue_bytes: [1 << 18, 1_000][usize::from(limits >> 2 & 1)],
        pings_per_second_max: if floods { FLOOD } else { u32::MAX },
        compression: (limits & 0x80 != 0).then(|| compression(cursor.byte())),
        ..ConnectionConfig::default()
    };
    let choices = cursor.choices();
    let wire = wire::wire(cursor.rest(), opposite(role), set(0));
    let peer = if set(7) {
        Peer::new(habits, config, choices.clone())
    } else {
        Peer::open(habits, config, choices.clone())
    };
    let Some(mut peer) = peer else { return };
    let handshake = if set(7) { peer.opening() } else { Vec::new() };
    if set(7) {
        peer.opening_bytes = handshake.len();
    }
    drive(&mut peer, &[handshake, wire].concat(), choices, habits.rough, floods);
    judge(&mut peer, habits, floods);
}

/// The negotiated parameters: all window sizes, with and without context takeover.
pub fn compression(options: u8) -> Compression {
    let direction =
        |options: u8| Direction { context_takeover: options & 1 == 0, window_bits: 8 + (options >> 1 & 7) };
    let preferences = Preferences { server: direction(options), client: direction(options.rotate_left(4)) };
    Compression::default()
        .preferences(preferences)
        .level(1 + options % 9)
        .threshold_bytes(u32::from(options >> 4) * 8)
}

pub fn opposite(role: Role) -> Role {
    match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    }
}

/// Feeds `bytes` in chunks, with the events that the script chooses between them.
fn drive(peer: &mut Peer<'_>, bytes: &[u8], mut choices: Choices<'_>, rough: bool, floods: bool) {
    let mut rest = bytes;
    while !rest.is_empty() && peer.is_connected() {
        let (chunk, behind) = rest.split_at(choices.chunk_bytes().min(rest.len()));
        peer.receive(chunk);
        rest = behind;
        if !rough {
            peer.decide();
            continue;
        }
        match choices.next() {
            0..=0x3f => peer.unblock(),
            0x40..=0x4f => peer.decide(),
            // Within the second in which pings are counted.
            0x50..=0x5f => peer.pass(MILLISECOND),
            0x60..=0x6f if !floods => peer.pass(9 * SECOND),
            0x70..=0x77 if !floods => peer.pass(26 * SECOND),
            0x80..=0x8f => peer.meddle(),
            0x93..=0xa7 => peer.change_place(),
            0x91 => peer.end(false),
            0x92 => peer.end(true),
            _ => {}
        }
    }
}

/// Compares received and sent bytes with the reference.
fn judge(peer: &mut Peer<'_>, habits: Habits, floods: bool) {
    let was_open = peer.connection.was_open() || peer.connection.is_deciding();
    let directions = peer.directions();
    peer.finish();
    let Habits { role, app, .. } = habits;
    let [inbound_direction, outbound_direction] = directions;
    let rules = Rules {
        max_message: peer.config.max_message,
        pings_max: if floods { FLOOD as usize } else { usize::MAX },
        deflate: inbound_direction,
        ..Rules::of(role)
    };
    if !was_open && !peer.connection.was_open() {
        return;
    }
    let inbound = &peer.fed[peer.opening_bytes..];
    let all = reference::receive(inbound, rules);
    let heeded_bytes = peer.heeded_bytes.saturating_sub(peer.opening_bytes);
    let heeded = reference::receive(&inbound[..heeded_bytes], rules);
    judge_end(peer, role, &all, floods);
    let out_of_memory = peer.connection.closed().is_some_and(|closed| closed.cause == Cause::OutOfMemory);
    // Parked bytes are not read after another event has ended the connection.
    let left_deferred = peer.ended_here && inbound_direction.is_some();
    let heeded_all = !out_of_memory && !left_deferred;
    if app != App::Echo {
        assert_begins(&heeded.messages, &peer.shown, heeded_all, "messages shown");
        assert_begins(&heeded.pongs, &peer.pongs, heeded_all, "pongs shown");
    }
    judge_outbound(peer, habits, &heeded, outbound_direction, heeded_all);
}

/// The bytes determine how the connection ended, unless another event ended it before.
fn judge_end(peer: &Peer<'_>, role: Role, all: &Heard, floods: bool) {
    let cause = peer.connection.closed().map(|closed| (closed.cause.clone(), closed.code.0));
    if !peer.ended_here {
        let expected = match all.end {
            End::Open => None,
            End::Closed => {
                Some((Cause::Peer, reference::close_code(all.close.as_deref().unwrap_or_default())))
            }
            End::ProtocolError(offence) => Some((Cause::ProtocolError(offence), offence.close_code().0)),
        };
        assert_eq!(cause, expected);
        return;
    }
    match cause {
        Some((Cause::ProtocolError(ProtocolError::SlowMessage), _)) => {}
        Some((Cause::ProtocolError(offence), _)) => assert_eq!(all.end, End::ProtocolError(offence)),
        // After our Close frame the connection waits for the peer's; pings are no longer counted.
        Some((Cause::Local, _)) if !floods && all.end == End::Closed && role == Role::Server => {
            assert!(!peer.fates.is_empty(), "both Close frames are through");
        }
        Some(_) => {}
        None => panic!("ended, but without a cause"),
    }
}

/// The sent bytes are frames that the other end accepts, with the expected content.
fn judge_outbound(
    peer: &Peer<'_>,
    habits: Habits,
    heeded: &Heard,
    deflate: Option<Direction>,
    heeded_all: bool,
) {
    let outbound = behind_head(&peer.sent, peer.opening_bytes > 0);
    let heard = reference::receive(outbound, Rules { deflate, ..Rules::of(opposite(habits.role)) });
    let whole = !peer.lost.cut;
    match heard.end {
        End::ProtocolError(offence) => panic!("we sent what is an offence: {offence}"),
        End::Closed => assert_eq!(heard.used_bytes, outbound.len(), "bytes behind our Close frame"),
        End::Open => assert!(!whole || heard.frame_at == outbound.len(), "we sent half a frame"),
    }
    let complete = whole && !peer.lost.queue && (heeded_all || habits.app != App::Echo);
    let (owed, begun) = match habits.app {
        App::Echo => (&heeded.messages, heeded.unfinished.as_ref()),
        App::Silent | App::Meddling => (&peer.owed, peer.owed_part.as_ref()),
    };
    assert_begins(owed, &heard.messages, complete, "messages sent");
    if let Some(Message { text, payload, .. }) = &heard.unfinished {
        let owed = owed.get(heard.messages.len()).or(begun).expect("a message that nobody owed was begun");
        assert!(owed.text == *text && owed.payload.starts_with(payload), "another message was begun");
    }
    judge_pongs(peer, &heard.pongs, &heeded.pings, complete && heeded_all && !peer.was_rough);
    judge_close(peer, &heard, heeded, whole);
    if whole && deflate.is_none() {
        agree_with_the_other_end(outbound, opposite(habits.role), &heard);
    }
}

/// Pongs may be fewer than pings, or overtake one that was queued with data, only after a partial send.
fn judge_pongs(peer: &Peer<'_>, pongs: &[Vec<u8>], pings: &[Vec<u8>], all: bool) {
    if all {
        assert_eq!(pongs, pings, "each ping is answered");
        return;
    }
    let mut unanswered = pings.to_vec();
    for pong in pongs {
        let at = unanswered.iter().position(|ping| ping == pong).expect("a pong that no ping asked for");
        unanswered.swap_remove(at);
    }
    if peer.connection.is_open() {
        assert!(pings.last().is_none_or(|last| pongs.contains(last)), "the latest ping is answered");
    }
}

fn judge_close(peer: &Peer<'_>, heard: &Heard, heeded: &Heard, whole: bool) {
    let Some(closed) = peer.connection.closed() else {
        assert_eq!(heard.close, None, "a Close frame on an open connection");
        return;
    };
    if !whole {
        return;
    }
    let sent = heard.close.as_deref().map(reference::close_code);
    match &closed.cause {
        Cause::ProtocolError(offence) if !peer.ended_here || *offence == ProtocolError::SlowMessage => {
            assert_eq!(sent, Some(offence.close_code().0));
        }
        Cause::Peer => {
            let received = heeded.close.as_deref().map(reference::close_code);
            assert!(received.is_some() && sent == received, "{sent:?} answers {received:?}");
        }
        Cause::Local => assert_eq!(sent, Some(closed.code.0)),
        _ => {}
    }
    if matches!(closed.cause, Cause::ProtocolError(_)) {
        assert!(peer.fates.contains(&TransportAction::Shutdown), "an offence half-closes: {:?}", peer.fates);
    }
}

/// The state machine in the opposite role receives the same.
fn agree_with_the_other_end(bytes: &[u8], role: Role, heard: &Heard) {
    let config = ConnectionConfig {
        max_message: 1 << 30,
        pings_per_second_max: u32::MAX,
        ..ConnectionConfig::default()
    };
    let habits = Habits::plain(role, App::Silent);
    let mut other = Peer::open(habits, config, Choices::default()).expect("memory for two");
    bytes.chunks(4_093).for_each(|chunk| other.receive(chunk));
    assert_eq!(other.shown, heard.messages);
    assert_eq!(other.pongs, heard.pongs);
    let code = other.connection.closed().map(|closed| closed.code.0);
    assert_eq!(code, heard.close.as_deref().map(reference::close_code));
    other.finish();
}

/// The bytes after the head of the handshake, if there was one.
fn behind_head(bytes: &[u8], headed: bool) -> &[u8] {
    if !headed {
        return bytes;
    }
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or(&[], |at| &bytes[at + 4..])
}

/// `got` equals `owed`, or is a prefix of it if it may be incomplete.
fn assert_begins<T: PartialEq + std::fmt::Debug>(owed: &[T], got: &[T], complete: bool, what: &str) {
    if complete {
        assert_eq!(got, owed, "{what}");
    } else {
        assert!(owed.starts_with(got), "{what}: {got:?} is no beginning of {owed:?}");
    }
}
