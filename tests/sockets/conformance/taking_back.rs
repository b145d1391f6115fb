//! Taking back the rest of a short send: a reader that falls behind waits for one frame, and not for a batch of them.

use std::io::Read;

use bytes::Bytes;
use echoring_proto::buffer::Pool;
use echoring_runtime::driver::{Event, Features, Operations, Options, Shared, Source, Token};
use echoring_runtime::limits::SEND_PIECES_MAX;

use super::sockets::{Make, SocketKit};
use super::world::{Kit, Peer, Seen, World, assert_same, pattern};

/// Bytes per frame of the log below: coprime to the kernel's units.
const FRAME_BYTES: usize = 1_009;
/// Frames per piece.
const PIECE_FRAMES: usize = 70;
/// Frames after which the log repeats itself.
const LOG_FRAMES: usize = 1_500;
/// Bytes that a reading peer receives at most before its driver must have been blocked as often as a test needs.
const BYTES_MAX: usize = 128 << 20;

/// One reader's cursor in an endless log of frames; the tag of a piece is its end.
struct Cursor {
    log: Bytes,
    at: usize,
    /// Everything that must arrive, in order.
    expected: Vec<u8>,
    blocked: bool,
    /// How often something was taken back, a piece was dropped whole, and a pooled one stayed in front.
    taken_back: usize,
    whole: usize,
    foreign: usize,
}

impl Cursor {
    fn new() -> Cursor {
        let log = Bytes::from(pattern(0, LOG_FRAMES * FRAME_BYTES));
        Cursor { log, at: 0, expected: Vec::new(), blocked: false, taken_back: 0, whole: 0, foreign: 0 }
    }

    /// Stages as much of the log as one send has room for.
    fn stage<D: Operations>(&mut self, driver: &mut D, token: Token) {
        for _ in 0..SEND_PIECES_MAX {
            let start = self.at % self.log.len();
            // Not all of one size: a piece that ends the log may be shorter.
            let end = self.log.len().min(start + PIECE_FRAMES * FRAME_BYTES);
            let tag = (self.at + end - start) as u64;
            let shared = Shared { bytes: self.log.slice(start..end), tag };
            // What was staged before may not have gone yet.
            if driver.send(token, Source::Shared(shared)).is_err() {
                return;
            }
            self.expected.extend_from_slice(&self.log[start..end]);
            self.at += end - start;
        }
    }

    /// Stages bytes that are not from the log.
    fn stage_pong<D: Operations>(&mut self, driver: &mut D, pool: &mut Pool, token: Token) {
        let pong = format!("<pong {}>", self.at);
        let mut buffer = pool.get(pong.len()).expect("within the budget");
        buffer.append(pong.as_bytes());
        driver.send(token, Source::Pooled(buffer)).expect("it was unblocked just now");
        self.expected.extend_from_slice(pong.as_bytes());
    }

    /// The send was short: takes back every completely unsent frame, except that of the very first byte.
    fn take_back<D: Operations>(&mut self, driver: &mut D, token: Token, unsent: usize) {
        let mut left = unsent;
        while let Some((tag, bytes)) = driver.unsent_shared(token) {
            assert_eq!(tag as usize, self.at, "the last piece comes first");
            assert!(bytes <= left && bytes <= PIECE_FRAMES * FRAME_BYTES);
            let start = self.at - bytes;
            let kept = if left > bytes { 0 } else { FRAME_BYTES - start % FRAME_BYTES };
            let taken = bytes - kept;
            assert!(driver.take_back(token, taken / 2) && driver.take_back(token, taken - taken / 2));
            self.at -= taken;
            self.expected.truncate(self.expected.len() - taken);
            left -= taken;
            self.taken_back += usize::from(taken > 0);
            self.whole += usize::from(kept == 0);
            if kept > 0 {
                assert_eq!(driver.unsent_shared(token), Some((tag, kept)), "the frame to be finished");
                return;
            }
        }
        assert!((1..100).contains(&left), "{left} bytes of a pong are left");
        self.foreign += 1;
    }

    /// One tick of a driver with this cursor on `token`.
    fn tick<K: Kit>(&mut self, world: &mut World<K>, token: Token) {
        let (mut told, mut gone) = (false, false);
        world.tick_with(|driver, pool, event| match event {
            Event::Blocked { token: of, unsent } if *of == token => {
                assert!(!self.blocked);
                (self.blocked, told) = (true, true);
                self.take_back(driver, token, *unsent as usize);
            }
            Event::Unblocked { token: of } if *of == token => {
                assert!(self.blocked && !told, "a rest is not gone on with in the tick that told of it");
                self.blocked = false;
                self.stage_pong(driver, pool, token);
            }
            Event::Failed { token: of, .. } | Event::Closed { token: of } => gone |= *of == token,
            _ => {}
        });
        assert!(!gone);
        if !told {
            assert_eq!(world.driver.unsent_shared(token), None, "only the tick that told of it knows");
            assert!(!world.driver.take_back(token, 0));
        }
    }

    /// Ticks until the peer's kernel accepts no more, something was taken back, and nothing more is staged.
    ///
    /// The `passers_by` are sent a message and closed meanwhile: on a ring, a tick with a close behind a send is two
    /// trips. And the peer sends so much that the first trip uses up the receive credit, so the connection has other
    /// work in the second one.
    fn fill<K: Kit>(
        &mut self,
        world: &mut World<K>,
        token: Token,
        peer: &mut K::Peer,
        mut passers_by: Vec<Token>,
    ) {
        let mut quiet = 0;
        while quiet < 20 {
            assert!(self.expected.len() < BYTES_MAX, "a peer that does not read takes only so much");
            if !self.blocked {
                self.stage(&mut world.driver, token);
                peer.write(&[0xcc; 400_000]);
                if let Some(other) = passers_by.pop() {
                    let word = Source::Shared(Bytes::from_static(b"bye").into());
                    world.driver.send(other, word).expect("open");
                    world.driver.close(other);
                }
            }
            self.tick(world, token);
            quiet = if self.blocked { quiet + 1 } else { 0 };
        }
    }
}

/// A slow reader gets the log unchanged and in order, whatever was taken back and staged again; urgent frames wait for
/// one frame at most.
pub fn what_is_taken_back_is_not_sent<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let (_, mut noisy) = world.accept();
    let mut cursor = Cursor::new();
    let passers_by: Vec<_> = (0..20).map(|_| world.accept()).collect();
    cursor.fill(&mut world, token, &mut peer, passers_by.iter().map(|(token, _)| *token).collect());
    let mut heard = Vec::new();
    let mut tick = 0;
    while cursor.taken_back < 20 || cursor.whole < 20 {
        assert!(cursor.expected.len() < BYTES_MAX, "{} times in so many bytes", cursor.taken_back);
        if !cursor.blocked {
            cursor.stage(&mut world.driver, token);
        }
        if tick % 3 == 0 {
            peer.read(&mut heard);
            noisy.write(&[0xee; 3_000]);
        }
        tick += 1;
        cursor.tick(&mut world, token);
    }
    // What was staged last may be short as well.
    while heard.len() < cursor.expected.len() {
        assert!(tick < 1_000_000, "{} of {} bytes arrive", heard.len(), cursor.expected.len());
        tick += 1;
        peer.read(&mut heard);
        cursor.tick(&mut world, token);
    }
    assert_same(&heard, &cursor.expected);
    world.until("unblocked", |world| !world.is_blocked(token));
    assert!(world.driver.send(token, Source::Shared(Bytes::from_static(b"go on").into())).is_ok());
    assert_eq!(world.read(&mut peer, 5), b"go on");
    assert!(!world.driver.take_back(token, 1));
}

/// What was not taken back is flushed before a close and before a FIN.
pub fn what_is_taken_back_is_not_flushed<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    for end in [Operations::close, Operations::shutdown] {
        let (token, mut peer) = world.accept();
        let mut cursor = Cursor::new();
        while cursor.taken_back == 0 {
            if !cursor.blocked {
                cursor.stage(&mut world.driver, token);
            }
            cursor.tick(&mut world, token);
        }
        // Still in the tick that told of the short send.
        let unsent = world.driver.unsent_shared(token);
        end(&mut world.driver, token);
        assert_eq!(world.driver.unsent_shared(token), unsent);
        assert_same(&world.read_to_end(&mut peer), &cursor.expected);
        world.driver.close(token);
        world.until("closed", |world| world.has(&Seen::Closed(token)));
        assert_eq!(world.driver.unsent_shared(token), None);
        assert!(!world.driver.take_back(token, 1), "nobody's any more");
    }
}

/// A piece that is not shared cannot be taken back, nor can the pieces in front of it.
pub fn only_what_is_shared_and_last_is_taken_back<K: Kit>(kit: K) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let mut expected = Vec::new();
    while !world.is_blocked(token) {
        assert!(expected.len() < 64 << 20, "a peer that does not read takes only so much");
        let piece = pattern(expected.len(), 200_000);
        let mut buffer = world.pool.get(4).expect("within the budget");
        buffer.append(b"pong");
        expected.extend_from_slice(&piece);
        expected.extend_from_slice(b"pong");
        let shared = Shared { bytes: Bytes::from(piece), tag: 3 };
        world.driver.send(token, Source::Shared(shared)).expect("not blocked");
        world.driver.send(token, Source::Pooled(buffer)).expect("not blocked");
        world.tick_with(|driver, _, event| {
            if let Event::Blocked { token, .. } = event {
                assert_eq!(driver.unsent_shared(*token), None);
                assert!(!driver.take_back(*token, 1));
            }
        });
    }
    assert_same(&world.read(&mut peer, expected.len()), &expected);
    world.until("unblocked", |world| !world.is_blocked(token));
}

/// With `TCP_NOTSENT_LOWAT`, the kernel holds little for a peer that does not read, and what it holds arrives.
pub fn a_peer_that_fell_behind_has_little_in_the_kernel<D: Operations>(make: Make<D>) {
    const LOWAT: u32 = 8 * 1024;
    /// A small window, the option's bytes, and what the kernel allocates at once.
    const HELD_BYTES_MAX: usize = 192 * 1024;
    let mut world = World::with_options(
        SocketKit::tcp(make),
        &Options { notsent_lowat: LOWAT, ..super::world::options() },
    );
    let (token, mut peer) = world.accept_with(16 * 1024, 1 << 20);
    let driver = world.driver.describe();
    let has_one_for_all = driver.name == "uring" && !driver.features.has(Features::SOCKET_OPTIONS);
    let (mut cursor, mut heard) = (Cursor::new(), Vec::new());
    for is_limited in [false, true] {
        cursor.fill(&mut world, token, &mut peer, Vec::new());
        let held = cursor.expected.len() - heard.len() - world.driver.unsent_bytes(token);
        assert_eq!(held <= HELD_BYTES_MAX, is_limited || has_one_for_all, "{held} bytes");
        // Twice, as an owner may.
        world.driver.set_notsent_lowat(token);
        world.driver.set_notsent_lowat(token);
        assert!(!world.driver.stamp(token), "it is behind");
        while heard.len() < cursor.expected.len() {
            Peer::read(&mut peer, &mut heard);
            cursor.tick(&mut world, token);
        }
        assert_same(&heard, &cursor.expected);
    }
}

/// Sends with stamps fall short, and their times stay out of the way of the sends that wait for room: those are not left to worker
/// threads of the kernel.
pub fn stamps_of_short_sends_hold_up_nobody<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    for _ in 0..10 {
        let (token, mut peer) = world.accept_with(16 * 1024, 64 * 1024);
        let (mut cursor, mut heard) = (Cursor::new(), Vec::new());
        // One that is acknowledged, and not yet looked for.
        cursor.stage_pong(&mut world.driver, &mut world.pool, token);
        world.driver.stamp(token);
        cursor.tick(&mut world, token);
        while !cursor.blocked {
            cursor.stage(&mut world.driver, token);
            world.driver.stamp(token);
            cursor.tick(&mut world, token);
        }
        world.driver.set_notsent_lowat(token);
        for round in 0..200 {
            if !cursor.blocked {
                cursor.stage(&mut world.driver, token);
                assert!(!world.driver.stamp(token), "it is behind");
            }
            if round % 4 == 0 {
                Peer::read(&mut peer, &mut heard);
            }
            cursor.tick(&mut world, token);
        }
        assert_same(&heard, &cursor.expected[..heard.len()]);
        world.driver.abort(token);
        world.until("closed", |world| world.has(&Seen::Closed(token)));
    }
    let tasks = std::fs::read_dir("/proc/self/task").expect("this process").flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let workers = names.filter(|name| name.starts_with("iou-wrk")).count();
    assert_eq!(workers, 0);
}

/// A peer that reads during a tick makes room for the rest of its short send, which still waits for the next tick.
pub fn a_quick_reader_waits_for_the_owner_too<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let (token, mut peer) = world.accept();
    peer.set_nonblocking(false).expect("a socket");
    let reading = std::thread::spawn(move || {
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).map(|_| heard)
    });
    let mut cursor = Cursor::new();
    while cursor.taken_back < 20 && cursor.expected.len() < BYTES_MAX {
        if !cursor.blocked {
            cursor.stage(&mut world.driver, token);
        }
        cursor.tick(&mut world, token);
    }
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    let heard = reading.join().expect("a thread").expect("the stream ends in order");
    assert_same(&heard, &cursor.expected);
}
