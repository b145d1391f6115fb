//! The simulated driver: a network in memory, a virtual clock, and faults drawn from a seed.
//!
//! It is for tests of everything above a driver. Each fault happens with real kernels too, only rarely; nothing
//! violates the contract. Receive memory is *poisoned* as soon as a real driver could reuse it, so that a test detects
//! a span that outlives its tick. It never uses the real clock, or randomness other than its network's, and real sockets only to stand
//! for connections between two drivers.

mod network;
mod random;
mod tick;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::addresses::Addresses;
use super::unsent::Unsent;
use super::{
    Description, Event, Features, Operations, Options, Released, RemoteAddress, Source, Span, Token, Waker,
    take_released,
};
use crate::limits::{RECEIVE_BYTES_MAX, SEND_PIECES_MAX};
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{Nanos, RECEIVE_CREDIT_BYTES};

pub use network::{ClientId, Heard, Network};
pub use random::{Faults, Random};

use network::NetworkState;
use tick::POISON;

/// Banks of receive memory. A tick fills one; sends that are consumed late use at most two others.
const BANKS: usize = 4;
/// Ticks after a pause in which bytes may still be reported.
const LATE_LOOKS_MAX: usize = 3;
/// Default receive memory.
const MEMORY_BYTES: usize = BANKS * 4 * RECEIVE_BYTES_MAX as usize;

/// One shard's driver on a [`Network`].
#[derive(Debug)]
pub struct Sim {
    network: Network,
    number: usize,
    slots: Vec<Slot>,
    connections_max: usize,
    notsent_lowat: u32,
    free: Vec<u32>,
    /// Connections with work at the next tick's start, in the order of requests.
    dirty: Vec<u32>,
    memory: Vec<u8>,
    /// The bank that the latest tick filled, and how far.
    bank: usize,
    filled: usize,
    /// Banks that are not poisoned.
    used: [bool; BANKS],
    /// Runs that the latest tick reported.
    spans: Vec<Span>,
    /// Events of the tick under way, each with its connection.
    found: Vec<(Option<u32>, Event)>,
    /// Connections that the latest tick gave up.
    released: Vec<(Token, Released)>,
    /// Connections whose peer address was requested.
    unaddressed: Vec<Token>,
    addresses: Addresses,
    accept_paused_ticks: u32,
    woken_late: bool,
    wakes: Vec<Waker>,
    /// Something was deferred to its next tick.
    busy: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Free,
    Connecting,
    Open,
    Leaving,
    Failed,
    Closing,
    Aborting,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    phase: Phase,
    wire: usize,
    side: usize,
    dirty: bool,
    paused: bool,
    ended: bool,
    half_closed: bool,
    shutdown: bool,
    staged: VecDeque<Source>,
    /// Ticks by which the staged sends are deferred.
    late_ticks: u8,
    /// The unsent rest of a short send.
    rest: Unsent,
    /// It has fallen behind.
    limited: bool,
    /// Its staged send asks for the time of the acknowledgement.
    stamped: bool,
    /// It was short in the latest tick: nothing more is sent before the next one.
    fresh: bool,
    /// Ticks in which no receive is armed.
    parked_ticks: u8,
    /// Bytes that are still reported although the connection is paused.
    late_bytes: usize,
    /// Ticks in which that may still happen: after them the cancellation is done.
    late_looks: u8,
}

impl Sim {
    fn new(network: Network, number: usize, options: &Options) -> Sim {
        let least = BANKS * RECEIVE_BYTES_MAX as usize;
        let bytes = match options.receive_bytes {
            0 => MEMORY_BYTES,
            bytes => bytes.max(least).next_multiple_of(least),
        };
        Sim {
            network,
            number,
            slots: Vec::new(),
            connections_max: options.connections as usize,
            notsent_lowat: options.notsent_lowat,
            free: Vec::new(),
            dirty: Vec::new(),
            memory: vec![POISON; bytes],
            bank: 0,
            filled: 0,
            used: [false; BANKS],
            spans: Vec::new(),
            found: Vec::new(),
            released: Vec::new(),
            unaddressed: Vec::new(),
            addresses: Addresses::default(),
            accept_paused_ticks: 0,
            woken_late: false,
            wakes: Vec::new(),
            busy: false,
        }
    }

    /// The network that this driver is on.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// This driver's number on its network.
    pub fn number(&self) -> usize {
        self.number
    }

    // ---- slots ----

    fn slot(&mut self, token: Token) -> Option<&mut Slot> {
        self.slots
            .get_mut(token.index as usize)
            .filter(|slot| slot.generation == token.generation && slot.phase != Phase::Free)
    }

    /// The same, only to look at.
    fn peek(&self, token: Token) -> Option<&Slot> {
        self.slots
            .get(token.index as usize)
            .filter(|slot| slot.generation == token.generation && slot.phase != Phase::Free)
    }

    fn token(&self, index: u32) -> Token {
        Token { index, generation: self.slots[index as usize].generation }
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < self.connections_max
    }

    fn insert(&mut self, wire: usize, side: usize, phase: Phase) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let generation = self.slots[index as usize].generation;
        self.slots[index as usize] = Slot { generation, phase, wire, side, ..Slot::default() };
        self.token(index)
    }

    fn mark_dirty(&mut self, token: Token) {
        if let Some(slot) = self.slot(token)
            && !slot.dirty
        {
            slot.dirty = true;
            self.dirty.push(token.index);
        }
    }

    fn report(&mut self, index: u32, event: Event) {
        self.found.push((Some(index), event));
    }

    /// Frees a slot and closes its side of the wire.
    fn remove(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) {
        let token = self.token(index);
        let slot = &mut self.slots[index as usize];
        discard(slot, pool);
        state.close(slot.wire, slot.side);
        self.free_slot(index);
        self.report(index, Event::Closed { token });
    }

    fn free_slot(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.phase = Phase::Free;
        slot.generation = (slot.generation + 1) & 0xff_ffff;
        self.free.push(index);
    }

    fn fail(&mut self, index: u32, error: ErrorKind, state: &mut NetworkState, pool: &mut Pool) {
        let token = self.token(index);
        let slot = &mut self.slots[index as usize];
        discard(slot, pool);
        if slot.phase == Phase::Closing {
            return self.remove(index, state, pool);
        }
        slot.phase = Phase::Failed;
        self.report(index, Event::Failed { token, error });
    }

    fn assert_reported(&self, span: Span) {
        let within = self.spans.iter().any(|whole| {
            whole.offset <= span.offset && span.offset + span.bytes <= whole.offset + whole.bytes
        });
        assert!(within, "{span:?} is no part of what the latest tick received");
    }
}

impl Operations for Sim {
    fn now(&self) -> Nanos {
        self.network.now()
    }

    fn tick(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        let network = self.network.clone();
        let before = events.len();
        self.busy = false;
        self.released.clear();
        self.wakes.drain(..).for_each(|waker| waker.wake());
        let mut state = network.state();
        self.settle(&mut state, pool);
        self.addresses.begin();
        self.recycle(&mut state);
        loop {
            self.look(&mut state, pool);
            self.hand_over(&mut state, events);
            let busy = self.busy || !self.dirty.is_empty() || !self.unaddressed.is_empty();
            let now = state.now();
            let node = &mut state.nodes[self.number];
            node.busy = busy;
            node.deadline = deadline;
            if events.len() > before || busy || deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(());
            }
            drop(state);
            let Some(wait) = network.waiting() else { return Ok(()) };
            if !wait(self.number) {
                return Ok(());
            }
            state = network.state();
        }
    }

    fn received(&mut self, span: Span) -> &mut [u8] {
        self.assert_reported(span);
        &mut self.memory[span.offset as usize..][..span.bytes as usize]
    }

    fn send(&mut self, token: Token, source: Source) -> Result<(), Source> {
        if let Source::Received(span) = &source {
            self.assert_reported(*span);
        }
        let Some(slot) = self.slot(token) else { return Err(source) };
        if slot.phase != Phase::Open
            || slot.rest.bytes() > 0
            || slot.shutdown
            || slot.staged.len() == SEND_PIECES_MAX
        {
            return Err(source);
        }
        if !slot.staged.is_empty() {
            let NetworkState { random, faults, .. } = &mut *self.network.state();
            if random.chance(faults.refused_piece) {
                return Err(source);
            }
        }
        let Some(slot) = self.slot(token) else { return Err(source) };
        slot.staged.push_back(source);
        self.mark_dirty(token);
        Ok(())
    }

    fn unsent_bytes(&self, token: Token) -> usize {
        self.peek(token).map_or(0, |slot| slot.rest.bytes())
    }

    fn held_bytes(&self, token: Token) -> usize {
        self.peek(token).map_or(0, |slot| slot.rest.held_bytes())
    }

    fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        self.peek(token).filter(|slot| slot.fresh)?.rest.last_shared()
    }

    fn take_back(&mut self, token: Token, bytes: usize) -> bool {
        self.slot(token).is_some_and(|slot| slot.fresh && slot.rest.take_back(bytes))
    }

    fn stamp(&mut self, token: Token) -> bool {
        let Some(slot) = self.slot(token).filter(|slot| !slot.staged.is_empty()) else { return false };
        !std::mem::replace(&mut slot.stamped, true)
    }

    fn set_notsent_lowat(&mut self, token: Token) {
        let bytes = self.notsent_lowat as usize;
        let Some(slot) = self.slot(token).filter(|_| bytes > 0) else { return };
        slot.limited = true;
        let (wire, side) = (slot.wire, slot.side);
        self.network.state().limit(wire, side, bytes);
    }

    fn pause(&mut self, token: Token) {
        let network = self.network.clone();
        let NetworkState { random, faults, .. } = &mut *network.state();
        let Some(slot) = self.slot(token) else { return };
        if random.chance(faults.endless_receive) || std::mem::replace(&mut slot.paused, true) {
            return;
        }
        if random.chance(faults.late_data) {
            slot.late_bytes = random.between(1, RECEIVE_CREDIT_BYTES as usize);
            slot.late_looks = random.between(1, LATE_LOOKS_MAX) as u8;
        }
    }

    fn resume(&mut self, token: Token) {
        if let Some(slot) = self.slot(token) {
            slot.paused = false;
            slot.late_bytes = 0;
            self.network.state().nodes[self.number].touched = true;
        }
    }

    fn shutdown(&mut self, token: Token) {
        let Some(slot) = self.slot(token) else { return };
        if slot.phase == Phase::Open && !slot.shutdown {
            slot.shutdown = true;
            self.mark_dirty(token);
        }
    }

    fn close(&mut self, token: Token) {
        let Some(slot) = self.slot(token) else { return };
        if slot.phase != Phase::Aborting {
            slot.phase = Phase::Closing;
            self.mark_dirty(token);
        }
    }

    fn abort(&mut self, token: Token) {
        let Some(slot) = self.slot(token) else { return };
        slot.phase = Phase::Aborting;
        self.mark_dirty(token);
    }

    fn release(&mut self, token: Token) {
        let Some(slot) = self.slot(token) else { return };
        if slot.phase != Phase::Open {
            return;
        }
        if slot.shutdown {
            self.network.state().nodes[self.number].touched = true;
            return self.report(token.index, Event::Kept { token });
        }
        slot.phase = Phase::Leaving;
        self.mark_dirty(token);
    }

    fn take_released(&mut self, token: Token) -> Option<Released> {
        take_released(&mut self.released, token)
    }

    fn adopt(&mut self, socket: OwnedFd, has_fallen_behind: bool) -> Result<Token, OwnedFd> {
        if !self.has_room() {
            return Err(socket);
        }
        let (wire, side) = self.network.state().take_up(socket, self.number);
        let token = self.insert(wire, side, Phase::Open);
        if has_fallen_behind {
            self.set_notsent_lowat(token);
        }
        Ok(token)
    }

    fn listen(&mut self, listener: OwnedFd, _: u8) -> io::Result<()> {
        drop(listener);
        self.network.state().nodes[self.number].listening = true;
        Ok(())
    }

    fn stop_listening(&mut self) {
        let mut state = self.network.state();
        state.nodes[self.number].listening = false;
        for wire in std::mem::take(&mut state.nodes[self.number].backlog) {
            state.requeue(wire);
        }
    }

    fn is_listening(&self) -> bool {
        self.network.state().nodes[self.number].listening
    }

    fn connect(&mut self, _: &RemoteAddress, _: Option<SocketAddr>) -> io::Result<Token> {
        if !self.has_room() {
            return Err(io::Error::new(ErrorKind::QuotaExceeded, "every connection slot is taken"));
        }
        let mut state = self.network.state();
        let wire = state.dial(Some(self.number), None);
        state.nodes[self.number].touched = true;
        drop(state);
        Ok(self.insert(wire, 0, Phase::Connecting))
    }

    fn find_address(&mut self, token: Token) {
        self.unaddressed.push(token);
    }

    fn address(&self, token: Token) -> Option<SocketAddr> {
        self.addresses.of(token)
    }

    fn generation_at(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).map(|slot| slot.generation)
    }

    fn is_unix(&self, token: Token) -> bool {
        self.addresses.is_unix(token)
    }

    fn waker(&self) -> Waker {
        Waker::flag(self.network.state().nodes[self.number].woken.clone())
    }

    fn wake(&mut self, other: &Waker) {
        // With the next trip to the kernel, as a ring does it.
        self.wakes.push(other.clone());
    }

    fn describe(&self) -> Description {
        Description { name: "sim", features: Features::NONE, degraded: Features::NONE }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop_listening();
        let mut state = self.network.state();
        for slot in self.slots.iter().filter(|slot| slot.phase != Phase::Free) {
            state.close(slot.wire, slot.side);
        }
    }
}

fn discard(slot: &mut Slot, pool: &mut Pool) {
    slot.staged.drain(..).for_each(|source| source.give_back(pool));
    slot.rest.clear(pool);
}
