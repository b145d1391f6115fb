//! The suite's environment: one driver, its pool, a record of its events, and peers that never block.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_runtime::driver::{Event, Operations, Options, Source, Token};

/// How a driver and its peers are made.
pub trait Kit {
    type Driver: Operations;
    type Peer: Peer;

    /// A listening driver; called once, before any `dial`.
    fn driver(&mut self, options: &Options) -> Self::Driver;

    /// A new peer, connected or about to be.
    fn dial(&mut self) -> Self::Peer;

    /// A second driver, which listens nowhere. A simulated one is on the same network.
    fn beside(&self, options: &Options) -> (Self, Self::Driver)
    where
        Self: Sized;

    /// Lets time pass between two ticks where time is simulated.
    fn pass_time(&mut self) {}
}

/// The result of a peer's read.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    Bytes,
    End,
    Reset,
}

/// The other end of a connection. No call blocks.
pub trait Peer {
    /// Sends what is accepted now and returns how much that was.
    fn write(&mut self, bytes: &[u8]) -> usize;
    /// Appends what has arrived.
    fn read(&mut self, into: &mut Vec<u8>) -> Heard;
    fn fin(&mut self);
    fn reset(self);
}

/// One event, with the bytes that it pointed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Accepted(Token),
    Connected(Token),
    Received(Token, Vec<u8>),
    Ended(Token),
    HalfClosed(Token),
    Blocked(Token, u32),
    Unblocked(Token),
    Failed(Token, std::io::ErrorKind),
    Closed(Token),
    Released(Token),
    Kept(Token),
    Addressed(Token, Option<SocketAddr>),
    Acknowledged(Token, Nanos),
    Arrived(Token, Option<Nanos>),
    Woken,
    AcceptFailed,
}

pub struct World<K: Kit> {
    pub kit: K,
    pub driver: K::Driver,
    pub pool: Pool,
    pub seen: Vec<Seen>,
    events: Vec<Event>,
}

impl<K: Kit> World<K> {
    pub fn new(kit: K) -> World<K> {
        World::with_options(kit, &options())
    }

    pub fn with_options(mut kit: K, options: &Options) -> World<K> {
        let driver = kit.driver(options);
        World::around(kit, driver)
    }

    fn around(kit: K, driver: K::Driver) -> World<K> {
        World { kit, driver, pool: Pool::standalone(), seen: Vec::new(), events: Vec::new() }
    }

    /// A second driver, which listens nowhere.
    pub fn beside(&self, options: &Options) -> World<K> {
        let (kit, driver) = self.kit.beside(options);
        World::around(kit, driver)
    }

    /// One tick whose events are only recorded.
    pub fn tick(&mut self) {
        self.tick_with(|_, _, _| {});
    }

    /// One tick; `react` is called with each event in order, after it was recorded.
    pub fn tick_with(&mut self, mut react: impl FnMut(&mut K::Driver, &mut Pool, &Event)) {
        let deadline = self.driver.now() + 2 * MILLISECOND;
        self.events.clear();
        self.driver.tick(&mut self.pool, Some(deadline), &mut self.events).expect("the driver works");
        for event in &self.events {
            let seen = record(&mut self.driver, event);
            self.seen.push(seen);
            react(&mut self.driver, &mut self.pool, event);
        }
        self.kit.pass_time();
    }

    /// Ticks until `done`.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut World<K>) -> bool) {
        self.until_with(what, |_, _, _| {}, &mut done);
    }

    /// Ticks with `react` until `done`, for at most ten seconds.
    pub fn until_with(
        &mut self,
        what: &str,
        mut react: impl FnMut(&mut K::Driver, &mut Pool, &Event),
        mut done: impl FnMut(&mut World<K>) -> bool,
    ) {
        let give_up = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < give_up, "never came: {what}; the last events: {:?}", self.tail());
            self.tick_with(&mut react);
        }
    }

    /// A few ticks, enough for anything that could still happen.
    pub fn settle(&mut self) {
        for _ in 0..10 {
            self.tick();
        }
    }

    /// A peer and the token of its connection.
    pub fn accept(&mut self) -> (Token, K::Peer) {
        self.accept_by(Kit::dial)
    }

    /// The same with a peer that `dial` makes.
    pub fn accept_by(&mut self, dial: impl FnOnce(&mut K) -> K::Peer) -> (Token, K::Peer) {
        let known = self.accepted().len();
        let peer = dial(&mut self.kit);
        self.until("a connection is accepted", |world| world.accepted().len() > known);
        (self.accepted()[known], peer)
    }

    pub fn accepted(&self) -> Vec<Token> {
        self.seen
            .iter()
            .filter_map(|seen| if let Seen::Accepted(t) = seen { Some(*t) } else { None })
            .collect()
    }

    /// All bytes received from `token` so far.
    pub fn received(&self, token: Token) -> Vec<u8> {
        let mut all = Vec::new();
        for seen in &self.seen {
            if let Seen::Received(from, bytes) = seen
                && *from == token
            {
                all.extend_from_slice(bytes);
            }
        }
        all
    }

    pub fn received_bytes(&self, token: Token) -> usize {
        self.of(token).map(|seen| if let Seen::Received(_, bytes) = seen { bytes.len() } else { 0 }).sum()
    }

    /// All events of `token`, in order.
    pub fn of(&self, token: Token) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(move |seen| token_of(seen) == Some(token))
    }

    pub fn has(&self, seen: &Seen) -> bool {
        self.seen.contains(seen)
    }

    pub fn is_blocked(&self, token: Token) -> bool {
        let blocked = self.of(token).filter(|seen| matches!(seen, Seen::Blocked(..))).count();
        let unblocked = self.of(token).filter(|seen| matches!(seen, Seen::Unblocked(_))).count();
        assert!(blocked == unblocked || blocked == unblocked + 1, "Blocked and Unblocked alternate");
        blocked > unblocked
    }

    /// Ticks until `peer` has read `bytes` more, or the stream has ended.
    pub fn read(&mut self, peer: &mut K::Peer, bytes: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        self.until("the peer's bytes arrive", |_| {
            let last = peer.read(&mut heard);
            heard.len() >= bytes || matches!(last, Heard::End | Heard::Reset)
        });
        heard
    }

    /// Ticks until `peer` sees the end of the stream; returns the bytes before it.
    pub fn read_to_end(&mut self, peer: &mut K::Peer) -> Vec<u8> {
        let mut heard = Vec::new();
        self.until("the stream ends", |_| {
            let last = peer.read(&mut heard);
            assert_ne!(last, Heard::Reset, "the stream ends in order");
            last == Heard::End
        });
        heard
    }

    /// Ticks until `peer` has written all of `bytes`.
    pub fn write(&mut self, peer: &mut K::Peer, mut bytes: &[u8]) {
        self.until("the peer's bytes leave", |_| {
            bytes = &bytes[peer.write(bytes)..];
            bytes.is_empty()
        });
    }

    /// Stages large shared pieces until the kernel accepts no more, and returns everything that was staged.
    pub fn fill(&mut self, token: Token) -> Vec<u8> {
        let mut staged = Vec::new();
        while !self.is_blocked(token) {
            assert!(staged.len() < 64 << 20, "a peer that does not read takes only so much");
            let piece = pattern(staged.len(), 200_000);
            staged.extend_from_slice(&piece);
            self.driver.send(token, Source::Shared(Bytes::from(piece).into())).expect("not blocked");
            // A send may be short for a passing reason; only a full peer keeps it so.
            self.tick();
            for _ in 0..20 {
                if self.is_blocked(token) {
                    self.tick();
                }
            }
        }
        staged
    }

    fn tail(&self) -> Vec<String> {
        let skipped = self.seen.len().saturating_sub(12);
        self.seen[skipped..].iter().map(|seen| format!("{seen:.60?}")).collect()
    }
}

/// An echo that stores what a blocked connection does not accept, as the shard above a driver does.
#[derive(Debug, Default)]
pub struct Echo {
    waiting: HashMap<Token, Vec<Vec<u8>>>,
}

impl Echo {
    /// Reacts to an event: bytes are rewritten in place by `rewrite` and sent back.
    pub fn handle<D: Operations>(&mut self, driver: &mut D, event: &Event, rewrite: impl Fn(&mut [u8])) {
        match event {
            Event::Received { token, span } => {
                rewrite(driver.received(*span));
                let waiting = self.waiting.entry(*token).or_default();
                if !waiting.is_empty() || driver.send(*token, Source::Received(*span)).is_err() {
                    waiting.push(driver.received(*span).to_vec());
                }
            }
            Event::Blocked { token, .. } => driver.pause(*token),
            Event::Unblocked { token } => {
                let waiting = self.waiting.entry(*token).or_default();
                while !waiting.is_empty() {
                    if driver
                        .send(*token, Source::Shared(Bytes::copy_from_slice(&waiting[0]).into()))
                        .is_err()
                    {
                        break;
                    }
                    waiting.remove(0);
                }
                driver.resume(*token);
            }
            _ => {}
        }
    }
}

fn record<D: Operations>(driver: &mut D, event: &Event) -> Seen {
    match event {
        Event::Accepted { token, .. } => Seen::Accepted(*token),
        Event::Connected { token } => Seen::Connected(*token),
        Event::Received { token, span } => Seen::Received(*token, driver.received(*span).to_vec()),
        Event::Ended { token } => Seen::Ended(*token),
        Event::HalfClosed { token } => Seen::HalfClosed(*token),
        Event::Blocked { token, unsent } => Seen::Blocked(*token, *unsent),
        Event::Unblocked { token } => Seen::Unblocked(*token),
        Event::Failed { token, error } => Seen::Failed(*token, *error),
        Event::Closed { token } => Seen::Closed(*token),
        Event::Released { token } => Seen::Released(*token),
        Event::Kept { token } => Seen::Kept(*token),
        Event::Addressed { token } => Seen::Addressed(*token, driver.address(*token)),
        Event::Acknowledged { token, at } => Seen::Acknowledged(*token, *at),
        Event::Arrived { token, at } => Seen::Arrived(*token, *at),
        Event::Woken => Seen::Woken,
        Event::AcceptFailed { .. } => Seen::AcceptFailed,
    }
}

fn token_of(seen: &Seen) -> Option<Token> {
    match seen {
        Seen::Accepted(token)
        | Seen::Connected(token)
        | Seen::Received(token, _)
        | Seen::Ended(token)
        | Seen::HalfClosed(token)
        | Seen::Blocked(token, _)
        | Seen::Unblocked(token)
        | Seen::Failed(token, _)
        | Seen::Addressed(token, _)
        | Seen::Acknowledged(token, _)
        | Seen::Arrived(token, _)
        | Seen::Released(token)
        | Seen::Kept(token)
        | Seen::Closed(token) => Some(*token),
        Seen::Woken | Seen::AcceptFailed => None,
    }
}

/// Options for a small driver with all available features.
pub fn options() -> Options {
    Options { connections: 256, ..Options::default() }
}

/// `bytes` bytes in which a lost, duplicated or moved range is visible; those from position `from` of an endless
/// stream.
pub fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes)
        .map(|at| (at ^ (at >> 8).wrapping_mul(31) ^ (at >> 16).wrapping_mul(131)) as u8)
        .collect()
}

/// Panics with the first difference instead of printing megabytes.
pub fn assert_same(heard: &[u8], expected: &[u8]) {
    if let Some(at) = heard.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("differs at byte {at} of {}: {:#x} for {:#x}", expected.len(), heard[at], expected[at]);
    }
    assert_eq!(heard.len(), expected.len(), "bytes heard and expected");
}
