//! Connections that one driver gives up and another one continues.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use echoring_runtime::driver::{Event, Features, Operations, Options, Source, Token};

use super::world::{Heard, Kit, Peer, Seen, World, assert_same, options, pattern};

/// How often a connection moves while bytes go in both directions.
const MOVES: usize = 30;
/// Bytes in each direction meanwhile.
const BYTES: usize = 1 << 20;

impl<K: Kit> World<K> {
    /// Whether connections can be given up. A ring without `IORING_OP_FIXED_FD_INSTALL` keeps its direct descriptors.
    fn gives_up(&self) -> bool {
        let features = self.driver.describe().features;
        !features.has(Features::DIRECT) || features.has(Features::FD_INSTALL)
    }

    /// Gives `token` up, until it is released. Another one may have to be asked again.
    fn give_up(&mut self, token: Token) -> (OwnedFd, Vec<u8>) {
        let mut found = None;
        self.driver.release(token);
        self.until_with(
            "the connection is given up",
            |driver, _, event| match event {
                Event::Released { token: released } if *released == token => {
                    found = driver.take_released(token);
                    assert!(driver.take_released(token).is_none(), "there is one");
                }
                Event::Kept { token: kept } if *kept == token => driver.release(token),
                _ => {}
            },
            |world| world.has(&Seen::Released(token)),
        );
        let found = found.expect("it is there until the next tick");
        assert!(matches!(self.of(token).last(), Some(Seen::Released(_))));
        (found.socket, found.unsent)
    }
}

/// Two drivers, of which the first listens; `None` if that gives no connection up.
fn two_drivers<K: Kit>(kit: K, second: &Options) -> Option<(World<K>, World<K>)> {
    let here = World::new(kit);
    let there = here.beside(second);
    here.gives_up().then_some((here, there))
}

/// Bytes in both directions while the connection moves between two drivers, with something unread, unsent or neither.
pub fn a_connection_goes_on_in_another_driver<K: Kit>(kit: K) {
    let Some((mut here, mut there)) = two_drivers(kit, &options()) else { return };
    let (mut token, mut peer) = here.accept();
    let (to_us, to_peer) = (pattern(0, BYTES), pattern(77, BYTES));
    let (mut written, mut staged) = (0, 0);
    let (mut received, mut heard) = (Vec::new(), Vec::new());
    let mut rest: Option<Vec<u8>> = None;
    for turn in 0.. {
        written += peer.write(&to_us[written..(written + 7_000).min(BYTES)]);
        if turn % 3 > 0 {
            peer.read(&mut heard);
        }
        let unblocked = !here.is_blocked(token);
        if let Some(unsent) = rest.take().filter(|unsent| !unsent.is_empty()) {
            here.driver.send(token, Source::Shared(Bytes::from(unsent).into())).expect("it is new here");
        } else if unblocked && staged < BYTES {
            let piece = &to_peer[staged..(staged + 40_000).min(BYTES)];
            if here.driver.send(token, Source::Shared(Bytes::copy_from_slice(piece).into())).is_ok() {
                staged += piece.len();
            }
        }
        // Sometimes in the tick of the send, sometimes behind it.
        if turn % 2 == 0 {
            here.tick();
        }
        if turn < 3 * MOVES && turn % 3 == 2 {
            let (socket, unsent) = here.give_up(token);
            received.extend(here.received(token));
            std::mem::swap(&mut here, &mut there);
            token = here.driver.adopt(socket, turn % 2 == 0).expect("there is room");
            rest = Some(unsent);
        }
        if turn >= 3 * MOVES {
            here.tick();
            let all = received.len() + here.received_bytes(token);
            if all == BYTES && heard.len() == BYTES && staged == BYTES {
                break;
            }
            assert!(turn < 100_000, "{all} bytes came and {} went", heard.len());
        }
    }
    received.extend(here.received(token));
    assert_same(&received, &to_us);
    assert_same(&heard, &to_peer);
    here.driver.close(token);
    assert_eq!(here.read_to_end(&mut peer), b"");
    here.until("closed", |world| world.has(&Seen::Closed(token)));
}

/// The peer gets what the kernel has taken of a send, and the next driver is given the rest.
pub fn the_rest_of_a_short_send_is_told<K: Kit>(kit: K) {
    let Some((mut here, mut there)) = two_drivers(kit, &options()) else { return };
    let (token, mut peer) = here.accept();
    let staged = here.fill(token);
    let (socket, unsent) = here.give_up(token);
    assert!(!unsent.is_empty() && staged.ends_with(&unsent));
    let mut heard = here.read(&mut peer, staged.len() - unsent.len());
    let token = there.driver.adopt(socket, false).expect("there is room");
    there.driver.send(token, Source::Shared(Bytes::from(unsent).into())).expect("it is new here");
    heard.extend(there.read(&mut peer, staged.len() - heard.len()));
    assert_same(&heard, &staged);
}

/// Bytes that are staged before the release are sent. A send after it is refused.
pub fn what_is_staged_leaves_before_the_connection<K: Kit>(kit: K) {
    let Some((mut here, mut there)) = two_drivers(kit, &options()) else { return };
    let (token, mut peer) = here.accept();
    here.driver.send(token, Source::Shared(Bytes::from_static(b"before ").into())).expect("open");
    here.driver.release(token);
    assert!(here.driver.send(token, Source::Shared(Bytes::from_static(b"no").into())).is_err());
    let (socket, mut all) = here.give_up(token);
    all.extend_from_slice(b"and after");
    let token = there.driver.adopt(socket, false).expect("there is room");
    there.driver.send(token, Source::Shared(Bytes::from(all).into())).expect("open");
    assert_eq!(there.read(&mut peer, 16), b"before and after");
}

/// The next driver receives the bytes that nobody has read, and the end of the stream behind them.
pub fn what_is_unread_is_read_by_the_next_driver<K: Kit>(kit: K) {
    let Some((mut here, mut there)) = two_drivers(kit, &options()) else { return };
    let (token, mut peer) = here.accept();
    here.write(&mut peer, b"first");
    here.until("the first bytes", |world| world.received(token) == b"first");
    here.driver.pause(token);
    here.settle();
    let sent = pattern(5, 900);
    here.write(&mut peer, &sent);
    peer.fin();
    let (socket, _) = here.give_up(token);
    let mut all = here.received(token)[5..].to_vec();
    let token = there.driver.adopt(socket, false).expect("there is room");
    there.until("the end", |world| world.has(&Seen::Ended(token)));
    all.extend(there.received(token));
    assert_same(&all, &sent);
    there.driver.send(token, Source::Shared(Bytes::from_static(b"bye").into())).expect("open");
    there.driver.close(token);
    assert_eq!(there.read_to_end(&mut peer), b"bye");
}

/// One that sends no more stays, and one that is closed or aborted meanwhile ends as ever.
pub fn a_connection_that_ends_does_not_move<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    world.driver.shutdown(token);
    world.driver.release(token);
    world.until("it is kept", |world| world.has(&Seen::Kept(token)));
    world.write(&mut peer, b"still here");
    world.until("its bytes", |world| world.received(token) == b"still here");
    for aborts in [false, true] {
        let (token, mut peer) = world.accept();
        world.driver.send(token, Source::Shared(Bytes::from_static(b"last").into())).expect("open");
        world.tick();
        world.driver.release(token);
        if aborts {
            world.driver.abort(token)
        } else {
            world.driver.close(token)
        }
        world.until("closed", |world| world.has(&Seen::Closed(token)));
        assert!(!world.has(&Seen::Released(token)));
        let mut heard = Vec::new();
        world.until("the end", |_| matches!(peer.read(&mut heard), Heard::End | Heard::Reset));
    }
    if !world.gives_up() {
        let (token, mut peer) = world.accept();
        world.driver.release(token);
        world.until("it is kept", |world| world.has(&Seen::Kept(token)));
        world.write(&mut peer, b"still here");
        world.until("its bytes", |world| world.received(token) == b"still here");
    }
    let (token, peer) = world.accept();
    peer.reset();
    world.until("the reset", |world| world.has(&Seen::Failed(token, ErrorKind::ConnectionReset)));
    world.driver.release(token);
    world.settle();
    assert!(!world.has(&Seen::Released(token)));
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
}

/// A driver without room returns the socket, and the connection goes on where it was.
pub fn a_full_driver_returns_the_socket<K: Kit>(kit: K) {
    let Some((mut here, mut there)) = two_drivers(kit, &Options { connections: 1, ..options() }) else {
        return;
    };
    let (first, _peer) = here.accept();
    let (second, mut peer) = here.accept();
    let (socket, _) = here.give_up(first);
    there.driver.adopt(socket, false).expect("there is room for one");
    let (socket, _) = here.give_up(second);
    let socket = there.driver.adopt(socket, false).expect_err("it is full");
    let token = here.driver.adopt(socket, false).expect("its slot is free");
    here.write(&mut peer, b"still here");
    here.until("its bytes", |world| world.received(token) == b"still here");
}
