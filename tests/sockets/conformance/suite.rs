//! The tests that every driver must pass, simulated or real.

use std::io::ErrorKind;

use bytes::Bytes;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::RECEIVE_CREDIT_BYTES;
use echoring_runtime::driver::{Event, Operations, Options, Source, Span, Token};
use echoring_runtime::limits::SEND_PIECES_MAX;

#[allow(unused_imports, reason = "not every test binary runs the suite")]
pub use super::moving::{
    a_connection_goes_on_in_another_driver, a_connection_that_ends_does_not_move,
    a_full_driver_returns_the_socket, the_rest_of_a_short_send_is_told,
    what_is_staged_leaves_before_the_connection, what_is_unread_is_read_by_the_next_driver,
};
#[allow(unused_imports, reason = "not every test binary runs the suite")]
pub use super::taking_back::{
    only_what_is_shared_and_last_is_taken_back, what_is_taken_back_is_not_flushed,
    what_is_taken_back_is_not_sent,
};
use super::world::{Echo, Heard, Kit, Peer, Seen, World, assert_same, options, pattern};

pub fn a_run_rewritten_in_place_is_sent_back<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (_, mut a) = world.accept();
    let (_, mut b) = world.accept();
    let (mut heard_a, mut heard_b) = (Vec::new(), Vec::new());
    let (sent_a, sent_b) = (pattern(0, 90_000), pattern(7, 90_000));
    let (mut at_a, mut at_b) = (0, 0);
    let mut echo = Echo::default();
    // Small writes of both, so that runs of several connections lie side by side in one tick.
    world.until_with(
        "both echoes",
        |driver, _, event| echo.handle(driver, event, |span| span.iter_mut().for_each(|byte| *byte ^= 0x5a)),
        |_| {
            at_a += a.write(&sent_a[at_a..(at_a + 900).min(sent_a.len())]);
            at_b += b.write(&sent_b[at_b..(at_b + 900).min(sent_b.len())]);
            a.read(&mut heard_a);
            b.read(&mut heard_b);
            heard_a.len() == sent_a.len() && heard_b.len() == sent_b.len()
        },
    );
    assert_same(&heard_a, &sent_a.iter().map(|byte| byte ^ 0x5a).collect::<Vec<_>>());
    assert_same(&heard_b, &sent_b.iter().map(|byte| byte ^ 0x5a).collect::<Vec<_>>());
}

/// Received spans of one tick neither overlap nor change until the next one begins.
pub fn runs_of_one_turn_lie_apart<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let mut peers: Vec<_> = (0..8).map(|_| world.accept()).collect();
    let bytes = 300_000;
    let sent: Vec<_> = (0..peers.len()).map(|i| pattern(i * 1_000, bytes)).collect();
    let mut written = vec![0; peers.len()];
    while peers.iter().any(|(token, _)| world.received_bytes(*token) < bytes) {
        for (i, (_, peer)) in peers.iter_mut().enumerate() {
            written[i] += peer.write(&sent[i][written[i]..]);
        }
        let mut runs = Vec::new();
        world.tick_with(|driver, _, event| {
            if let Event::Received { span, .. } = event {
                for (other, _) in &runs {
                    let other: &Span = other;
                    let apart =
                        span.offset + span.bytes <= other.offset || other.offset + other.bytes <= span.offset;
                    assert!(apart, "{span:?} overlaps {other:?}");
                }
                runs.push((*span, driver.received(*span).to_vec()));
            }
        });
        for (span, bytes) in runs {
            assert_eq!(world.driver.received(span), bytes, "a span stays as it is until the next tick");
        }
    }
    for (i, (token, _)) in peers.iter().enumerate() {
        assert_same(&world.received(*token), &sent[i]);
    }
}

pub fn all_pieces_of_a_turn_leave_in_order<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    peer.write(b"<in place>");
    let mut expected = Vec::new();
    world.until_with(
        "the peer's first bytes",
        |driver, pool, event| {
            let Event::Received { token, span } = event else { return };
            if !expected.is_empty() {
                return;
            }
            for i in 0..SEND_PIECES_MAX {
                let text = format!("[{i}]");
                let source = match i % 3 {
                    0 => {
                        let mut buffer = pool.get(text.len()).expect("within the budget");
                        buffer.append(text.as_bytes());
                        Source::Pooled(buffer)
                    }
                    1 => Source::Shared(Bytes::from(text.clone()).into()),
                    _ => Source::Received(*span),
                };
                match &source {
                    Source::Received(span) => expected.extend_from_slice(driver.received(*span)),
                    _ => expected.extend_from_slice(text.as_bytes()),
                }
                driver.send(*token, source).expect("as many pieces as the limit says");
            }
            let over = driver.send(*token, Source::Shared(Bytes::from_static(b"one too many").into()));
            assert!(matches!(over, Err(Source::Shared(shared)) if shared.bytes == "one too many"));
        },
        |world| world.received_bytes(token) > 0,
    );
    let heard = world.read(&mut peer, expected.len());
    assert_same(&heard, &expected);
    world.until("unblocked, if it was blocked", |world| !world.is_blocked(token));
    assert!(world.driver.send(token, Source::Shared(Bytes::from_static(b"again").into())).is_ok());
    assert_eq!(world.read(&mut peer, 5), b"again");
}

/// Bytes for a peer that does not read arrive complete and in order once it does, although the receive memory is reused
/// meanwhile.
pub fn a_short_send_is_finished_inside<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let (other, mut noisy) = world.accept();
    let mut expected = world.fill(token);
    assert!(world.driver.send(token, Source::Shared(Bytes::from_static(b"no").into())).is_err(), "blocked");
    for _ in 0..20 {
        noisy.write(&[0xee; 3_000]);
        world.tick();
    }
    assert!(world.is_blocked(token), "nothing was read");
    let unsent = world.driver.unsent_bytes(token);
    assert!(unsent > 0 && world.driver.unsent_bytes(other) == 0);
    let mut heard = world.read(&mut peer, expected.len() / 2);
    world.until("progress", |world| world.driver.unsent_bytes(token) < unsent);
    heard.extend(world.read(&mut peer, expected.len() - heard.len()));
    assert_same(&heard, &expected);
    world.until("unblocked", |world| !world.is_blocked(token));

    // The same with pieces that lie in the receive memory.
    let before = expected.len();
    while !world.is_blocked(token) {
        assert!(expected.len() - before < 64 << 20);
        let question = pattern(expected.len(), 10_000);
        let written = peer.write(&question);
        let known = world.received_bytes(token);
        world.until_with(
            "the question",
            |driver, pool, event| {
                let Event::Received { token: from, span } = event else { return };
                if *from != token {
                    return;
                }
                for round in 0..SEND_PIECES_MAX {
                    let bytes = driver.received(*span).to_vec();
                    let source = match round % 2 {
                        0 => Source::Received(*span),
                        _ => {
                            let mut buffer = pool.get(bytes.len()).expect("within the budget");
                            buffer.append(&bytes);
                            Source::Pooled(buffer)
                        }
                    };
                    if driver.send(token, source).is_err() {
                        break;
                    }
                    expected.extend_from_slice(&bytes);
                }
            },
            |world| world.received_bytes(token) >= known + written,
        );
        world.tick();
    }
    for _ in 0..20 {
        noisy.write(&[0xee; 3_000]);
        world.tick();
    }
    let heard = world.read(&mut peer, expected.len() - before);
    assert_same(&heard, &expected[before..]);
    world.until("unblocked again", |world| !world.is_blocked(token));
    assert!(world.driver.send(token, Source::Shared(Bytes::from_static(b"go on").into())).is_ok());
    assert_eq!(world.read(&mut peer, 5), b"go on");
}

pub fn a_paused_connection_is_not_read<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let sent = pattern(0, 16 << 20);
    let mut written = 0;
    let mut paused_at = None;
    world.until_with(
        "some bytes",
        |driver, _, event| {
            if let Event::Received { token, .. } = event {
                driver.pause(*token);
            }
        },
        |world| {
            let end = (written + 100_000).min(sent.len());
            written += peer.write(&sent[written..end]);
            world.received_bytes(token) > 0
        },
    );
    // One thread plays both sides, so that a cancellation has had its time after a few ticks.
    for tick in 0..60 {
        let end = (written + 100_000).min(sent.len());
        written += peer.write(&sent[written..end]);
        world.tick();
        if tick == 10 {
            paused_at = Some(world.received_bytes(token));
        }
    }
    let paused_at = paused_at.expect("ten ticks have passed");
    assert_eq!(world.received_bytes(token), paused_at, "paused");
    assert!(paused_at <= 2 * RECEIVE_CREDIT_BYTES as usize, "{paused_at} bytes came after a pause");
    world.driver.resume(token);
    world.driver.resume(token);
    world.until("all bytes", |world| {
        written += peer.write(&sent[written..]);
        world.received_bytes(token) == sent.len()
    });
    assert_same(&world.received(token), &sent);
}

/// Sends to a connection that pauses at the first bytes, until some are unread. They are few, so that the kernel has
/// them all and the bytes behind them arrive. Returns how many were sent.
fn write_into_a_pause<K: Kit>(world: &mut World<K>, token: Token, peer: &mut K::Peer) -> usize {
    let pause = |driver: &mut K::Driver, _: &mut Pool, event: &Event| {
        if let Event::Received { token, .. } = event {
            driver.pause(*token);
        }
    };
    let mut written = 0;
    loop {
        written += peer.write(&pattern(written, 1_000));
        for _ in 0..10 {
            if world.received_bytes(token) < written {
                world.tick_with(pause);
            }
        }
        if world.received_bytes(token) < written {
            return written;
        }
    }
}

/// A paused connection still detects a reset, before and instead of the unread bytes.
pub fn a_reset_is_noticed_during_a_pause<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    write_into_a_pause(&mut world, token, &mut peer);
    peer.reset();
    world.until("the failure", |world| world.has(&Seen::Failed(token, ErrorKind::ConnectionReset)));
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
}

/// FIN behind unread bytes is reported once, no byte is lost, and a later reset is detected.
pub fn a_half_close_is_noticed_during_a_pause<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let written = write_into_a_pause(&mut world, token, &mut peer);
    peer.fin();
    let half_closed = Seen::HalfClosed(token);
    world.until("the half-close", |world| world.has(&half_closed));
    world.settle();
    world.driver.resume(token);
    world.driver.pause(token);
    world.settle();
    world.driver.resume(token);
    world.until("the end", |world| world.has(&Seen::Ended(token)));
    assert_same(&world.received(token), &pattern(0, written));
    assert_eq!(world.of(token).filter(|seen| **seen == half_closed).count(), 1);

    let (token, mut peer) = world.accept();
    write_into_a_pause(&mut world, token, &mut peer);
    peer.fin();
    world.until("the half-close", |world| world.has(&Seen::HalfClosed(token)));
    peer.reset();
    world.until("the failure", |world| world.of(token).any(|seen| matches!(seen, Seen::Failed(..))));
    world.driver.abort(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
}

/// Pausing at every event and resuming a tick later loses nothing, whatever is in flight.
pub fn pausing_and_resuming_loses_nothing<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let sent = pattern(0, 2 << 20);
    let mut written = 0;
    let (mut tick, mut ended) = (0_usize, false);
    world.until_with(
        "all bytes",
        |driver, _, event| {
            if let Event::Received { token, .. } = event {
                driver.pause(*token);
            }
        },
        |world| {
            written += peer.write(&sent[written..(written + 30_000).min(sent.len())]);
            tick += 1;
            match tick % 3 {
                0 => world.driver.resume(token),
                1 => {
                    world.driver.resume(token);
                    world.driver.pause(token);
                    world.driver.resume(token);
                }
                _ => {}
            }
            if written == sent.len() && !std::mem::replace(&mut ended, true) {
                peer.fin();
            }
            world.has(&Seen::Ended(token))
        },
    );
    assert_same(&world.received(token), &sent);
}

pub fn an_end_is_told_once_and_sending_goes_on<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    peer.write(b"last words");
    peer.fin();
    world.until("the end", |world| world.has(&Seen::Ended(token)));
    assert_eq!(world.received(token), b"last words");
    world.driver.send(token, Source::Shared(Bytes::from_static(b"still here").into())).expect("half open");
    assert_eq!(world.read(&mut peer, 10), b"still here");
    world.settle();
    assert_eq!(world.of(token).filter(|seen| matches!(seen, Seen::Ended(_))).count(), 1);
    world.driver.close(token);
    assert_eq!(world.read_to_end(&mut peer), b"");
    assert_eq!(world.of(token).last(), Some(&Seen::Closed(token)));
}

pub fn a_reset_is_a_failure_and_the_owner_lets_go<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, peer) = world.accept();
    peer.reset();
    let failed = Seen::Failed(token, ErrorKind::ConnectionReset);
    world.until("the failure", |world| world.has(&failed));
    world.settle();
    assert_eq!(world.of(token).last(), Some(&failed), "a failed connection waits for its owner");
    assert!(world.driver.send(token, Source::Shared(Bytes::from_static(b"x").into())).is_err());
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));

    let (token, peer) = world.accept();
    world.fill(token);
    peer.reset();
    world.until("a blocked connection fails, too", |world| {
        world.of(token).any(|seen| matches!(seen, Seen::Failed(..)))
    });
    world.driver.abort(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
}

pub fn after_a_shutdown_receiving_goes_on<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    world.driver.send(token, Source::Shared(Bytes::from_static(b"bye").into())).expect("open");
    world.driver.shutdown(token);
    assert!(world.driver.send(token, Source::Shared(Bytes::from_static(b"x").into())).is_err(), "shut down");
    assert_eq!(world.read_to_end(&mut peer), b"bye");
    world.write(&mut peer, b"one more thing");
    world.until("bytes after our FIN", |world| world.received(token) == b"one more thing");
    peer.fin();
    world.until("the end", |world| world.has(&Seen::Ended(token)));
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));

    // A FIN waits behind what a short send left.
    let (token, mut peer) = world.accept();
    let expected = world.fill(token);
    world.driver.shutdown(token);
    assert_same(&world.read_to_end(&mut peer), &expected);
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
}

pub fn a_close_flushes_first<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    world.driver.send(token, Source::Shared(Bytes::from_static(b"short").into())).expect("open");
    world.driver.close(token);
    assert_eq!(world.read_to_end(&mut peer), b"short");

    let (token, mut peer) = world.accept();
    let expected = world.fill(token);
    let before = world.of(token).count();
    world.driver.close(token);
    world.settle();
    assert_eq!(world.of(token).count(), before, "no event while it closes");
    assert_same(&world.read_to_end(&mut peer), &expected);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    assert_eq!(world.of(token).count(), before + 1, "only Closed follows");

    // What is staged and short for the first time in the closing tick is flushed as well.
    let (token, mut peer) = world.accept();
    let mut expected = Vec::new();
    for _ in 0..SEND_PIECES_MAX {
        let piece = pattern(expected.len(), 200_000);
        expected.extend_from_slice(&piece);
        world.driver.send(token, Source::Shared(Bytes::from(piece).into())).expect("open");
    }
    world.driver.close(token);
    assert_same(&world.read_to_end(&mut peer), &expected);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    assert_eq!(world.of(token).count(), 2, "accepted and closed");
}

pub fn an_abort_drops_what_is_unsent<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let staged = world.fill(token);
    world.driver.close(token);
    world.tick();
    world.driver.abort(token);
    world.driver.abort(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    let mut heard = Vec::new();
    world.until("the peer hears of it", |_| matches!(peer.read(&mut heard), Heard::End | Heard::Reset));
    assert!(heard.len() < staged.len());
    assert_same(&heard, &staged[..heard.len()]);

    let (token, mut peer) = world.accept();
    peer.write(b"unheard");
    world.driver.abort(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    world.settle();
    assert_eq!(world.of(token).last(), Some(&Seen::Closed(token)));
}

/// An address request is answered once while bytes flow, and not after a close.
pub fn an_address_is_told_to_who_asks<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let (other, _quiet) = world.accept();
    peer.write(b"before");
    world.driver.find_address(token);
    assert_eq!(world.driver.address(token), None, "not known yet");
    world.until("the address", |world| world.of(token).any(|seen| matches!(seen, Seen::Addressed(..))));
    world.until("the bytes", |world| world.received(token) == b"before");
    world.driver.send(token, Source::Shared(Bytes::from_static(b"behind").into())).expect("open");
    assert_eq!(world.read(&mut peer, 6), b"behind");
    world.settle();
    assert_eq!(world.driver.address(token), None, "forgotten with the tick that told it");
    let told =
        |world: &World<K>, token| world.of(token).filter(|seen| matches!(seen, Seen::Addressed(..))).count();
    assert_eq!((told(&world, token), told(&world, other)), (1, 0));

    // Together with a half-close, which takes the same way through the kernel.
    world.driver.find_address(token);
    world.driver.shutdown(token);
    assert_eq!(world.read_to_end(&mut peer), b"");
    world.until("the address again", |world| told(world, token) == 2);

    world.driver.find_address(other);
    world.driver.close(other);
    world.until("closed", |world| world.has(&Seen::Closed(other)));
    world.driver.find_address(other);
    world.settle();
    assert_eq!(told(&world, other), 0, "only Closed follows a close");
    assert_eq!(world.of(other).last(), Some(&Seen::Closed(other)));

    // The close of a connection waits for what it is asked for.
    for close in [Operations::close, Operations::abort] {
        let (token, _peer) = world.accept();
        world.driver.find_address(token);
        world.tick();
        close(&mut world.driver, token);
        world.until("closed", |world| world.has(&Seen::Closed(token)));
        assert_eq!(world.of(token).last(), Some(&Seen::Closed(token)));
    }
}

pub fn a_stale_token_does_nothing<K: Kit>(kit: K) {
    let mut world = World::with_options(kit, &Options { connections: 4, ..options() });
    let (old, _peer) = world.accept();
    world.driver.close(old);
    world.until("closed", |world| world.has(&Seen::Closed(old)));
    let mut reused = None;
    let mut peers = Vec::new();
    for _ in 0..4 {
        let (token, peer) = world.accept();
        assert_ne!(token, old, "generations tell reuses apart");
        if token.index == old.index {
            reused = Some(token);
        }
        peers.push((token, peer));
    }
    let reused = reused.expect("four connections use all four indexes");
    assert!(world.driver.send(old, Source::Shared(Bytes::from_static(b"ghost").into())).is_err());
    world.driver.pause(old);
    world.driver.shutdown(old);
    world.driver.close(old);
    world.driver.abort(old);
    world.driver.resume(old);
    world.driver.find_address(old);
    world.settle();
    let (_, peer) = peers.iter_mut().find(|(token, _)| *token == reused).expect("kept");
    world.write(peer, b"alive");
    world.until("the new one is read", |world| world.received(reused) == b"alive");
    world.driver.send(reused, Source::Shared(Bytes::from_static(b"indeed").into())).expect("open");
    assert_eq!(world.read(peer, 6), b"indeed");
}

/// With a full table, a driver waits: the connection stays in the listener's queue and is accepted once a slot is free.
pub fn a_full_table_takes_nobody_until_one_leaves<K: Kit>(kit: K) {
    let mut world = World::with_options(kit, &Options { connections: 2, ..options() });
    let (first, _a) = world.accept();
    let (_, _b) = world.accept();
    let mut waiting = world.kit.dial();
    waiting.write(b"patient");
    world.settle();
    assert_eq!(world.accepted().len(), 2);
    world.driver.close(first);
    world.until("the third is taken", |world| world.accepted().len() == 3);
    let third = world.accepted()[2];
    world.until("and read", |world| world.received(third) == b"patient");
}

pub fn a_driver_that_stopped_listening_keeps_its_connections<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    world.driver.stop_listening();
    world.settle();
    world.write(&mut peer, b"here");
    world.until("still read", |world| world.received(token) == b"here");
    world.driver.send(token, Source::Shared(Bytes::from_static(b"there").into())).expect("open");
    assert_eq!(world.read(&mut peer, 5), b"there");
    assert_eq!(world.accepted().len(), 1);
}

/// Connections that send at full speed do not delay a quiet one for more than a few ticks.
pub fn a_flood_does_not_starve_a_quiet_connection<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let mut flooders: Vec<_> = (0..24).map(|_| world.accept().1).collect();
    let (token, mut quiet) = world.accept();
    let chunk = vec![0xaa; 1 << 20];
    for round in 1..=5 {
        for _ in 0..5 {
            for flooder in &mut flooders {
                flooder.write(&chunk);
            }
            world.tick();
        }
        quiet.write(b"?");
        let mut ticks = 0;
        while world.received_bytes(token) < round {
            for flooder in &mut flooders {
                flooder.write(&chunk);
            }
            world.tick();
            world.seen.retain(|seen| !matches!(seen, Seen::Received(from, _) if *from != token));
            ticks += 1;
            assert!(ticks < 60, "starved for {ticks} ticks");
        }
    }
}

pub fn a_wake_ends_the_wait_once<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let waker = world.driver.waker();
    waker.wake();
    world.until("the wake", |world| world.has(&Seen::Woken));
    world.settle();
    let woken = world.seen.iter().filter(|seen| **seen == Seen::Woken).count();
    assert_eq!(woken, 1, "one wake, one event");
    let other = waker.clone();
    world.driver.wake(&other);
    other.wake();
    world.until("the next wake", |world| {
        world.seen.iter().filter(|seen| **seen == Seen::Woken).count() > woken
    });
}
