//! The driver for hosts where io_uring is denied or too old: epoll and non-blocking sockets behind the
//! same contract as the ring.
//!
//! Edge triggering, so that a connection is registered once and pausing costs nothing: an edge that comes
//! while nobody reads is remembered as a mark. A turn sends what was staged, waits once, and reads every
//! ready connection once into the region, one behind the other; what does not fit keeps its place in a
//! queue. It must never read what its owner has not granted, and never wait outside of [`Driver::turn`].

mod outgoing;
mod slots;
mod sys;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use self::outgoing::{Leftovers, Staged};
use self::slots::{Marks, NONE, Phase, Slots};
use self::sys::{Poller, Timeout};
use super::addresses::{Addresses, peer_of};
use super::regions::Regions;
use super::{Description, Driver, Event, Features, Options, Source, Span, Token, Waker, clock};
use crate::buffer::Pool;
use crate::limits::{MILLISECOND, Nanos};

/// Bytes of one receive. A masked message of the default limit, 64 KiB and its header, fits into one when
/// the socket has it; and a connection that sends in bulk gets this much per turn, then the others have
/// theirs.
const RECEIVE_BYTES: usize = 68 * 1024;
/// Receive memory unless told otherwise: four full receives. Together with what is sent from it and the
/// kernel's own copies it stays in a second-level cache of 1 MiB.
const REGION_BYTES: usize = 4 * RECEIVE_BYTES;
/// The least that [`Options::receive_bytes`] makes.
const REGION_BYTES_MIN: usize = 16 * 1024;
/// Readiness reports taken in one turn. More would not save system calls worth naming, and would let the
/// first connection's reply wait for the last one's receive.
const REPORTS_PER_TURN: usize = 256;
/// Connections taken from one listener in one turn, so that a flood of them does not hold up the others.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause after an accept failed for want of descriptors or memory.
const ACCEPT_RETRY: Nanos = 100 * MILLISECOND;

/// What every connection's descriptor is registered for; writability is added when a send is short.
const INTEREST: i32 = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
/// The high half of a registration's data where it is not a connection's generation (24 bits).
const LISTENER: u32 = 1 << 31;
const WAKER: u32 = 1 << 30;

/// The epoll driver of one shard.
#[derive(Debug)]
pub struct Epoll {
    poller: Poller,
    waker: Waker,
    slots: Slots,
    staged: Staged,
    leftovers: Leftovers,
    /// Connections with something to do at the next turn's start, in the order it was asked for.
    dirty: Vec<u32>,
    /// Connections whose send was short in the latest turn.
    short: Vec<Token>,
    /// Connections that may have more to read, first in first out.
    ready: VecDeque<Token>,
    /// Connections that were paused after their end had shown and before it was read.
    hung_up: Vec<Token>,
    /// Connections whose peer's address was asked for.
    unaddressed: Vec<Token>,
    addresses: Addresses,
    /// Reports that arose outside of a turn.
    notices: Vec<Event>,
    listeners: Vec<Listener>,
    accepting: Accepting,
    reports: Vec<libc::epoll_event>,
    regions: Regions,
    /// First byte of the region that this turn has not used.
    filled: usize,
    /// Bytes of one receive.
    receive_bytes: usize,
}

#[derive(Debug)]
struct Listener {
    fd: OwnedFd,
    /// Reported by the latest wait.
    ready: bool,
}

/// Whether the listeners are registered with epoll. They are level-triggered, so that they must be taken
/// out while their connections cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    Yes,
    /// Every slot is taken; goes on when one is free.
    Full,
    /// Descriptors or memory ran out; tried again at this time.
    Failed {
        retry_at: Nanos,
    },
    /// The first try after a failure: a second failure in a row is not reported again.
    Retrying,
}

impl Epoll {
    /// A driver for up to `options.connections` connections.
    ///
    /// # Errors
    /// When descriptors or memory are used up.
    pub fn new(options: &Options) -> io::Result<Epoll> {
        let bytes = match options.receive_bytes {
            0 => REGION_BYTES,
            bytes => bytes.max(REGION_BYTES_MIN).next_multiple_of(REGION_BYTES_MIN),
        };
        let poller = Poller::new()?;
        let waker = Waker::eventfd(None)?;
        let eventfd = waker.descriptor().expect("this waker was made with an eventfd");
        // Edge-triggered: each write is an edge, so the counter never needs to be read.
        poller.add(eventfd, libc::EPOLLIN | libc::EPOLLET, data(0, WAKER))?;
        Ok(Epoll {
            poller,
            waker,
            slots: Slots::new(options.connections),
            staged: Staged::default(),
            leftovers: Leftovers::default(),
            dirty: Vec::new(),
            short: Vec::new(),
            ready: VecDeque::new(),
            hung_up: Vec::new(),
            unaddressed: Vec::new(),
            addresses: Addresses::default(),
            notices: Vec::new(),
            listeners: Vec::new(),
            accepting: Accepting::Yes,
            reports: vec![libc::epoll_event { events: 0, u64: 0 }; REPORTS_PER_TURN],
            regions: Regions::new(bytes)?,
            filled: 0,
            receive_bytes: RECEIVE_BYTES.min(bytes / 4),
        })
    }

    /// Does what was staged for every connection that has something staged.
    fn settle_staged(&mut self, pool: &mut Pool, events: &mut Vec<Event>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for &index in &dirty {
            let slot = self.slots.at(index);
            slot.marks.clear(Marks::STAGED);
            if slot.phase == Phase::Aborting {
                self.release(index, pool, events);
                continue;
            }
            if slot.staged_count > 0 {
                self.send_staged(index, pool, events);
            }
            self.settle_end(index, pool, events);
        }
        dirty.clear();
        self.dirty = dirty;
        self.staged.clear();
    }

    /// Sends the pieces staged for a connection as one operation.
    fn send_staged(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        let token = self.slots.token(index);
        let slot = self.slots.at(index);
        let Some(fd) = slot.fd.as_ref() else { return };
        let (fd, last) = (fd.as_fd(), slot.phase == Phase::Closing);
        let (total, result) = match self.staged.single(slot, &self.regions) {
            Some(bytes) => (bytes.len(), sys::send(fd, bytes, last)),
            None => {
                let send = |pieces: &[io::IoSlice<'_>]| sys::send_pieces(fd, pieces, last);
                (self.staged.bytes(slot), self.staged.with_pieces(slot, &self.regions, send))
            }
        };
        let sent = match result {
            Ok(sent) => sent,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return self.fail(index, e.kind(), pool, events),
        };
        if sent == total {
            return self.staged.discard(slot, pool);
        }
        if !slot.marks.has(Marks::WRITE_ARMED) {
            let interest = INTEREST | libc::EPOLLOUT;
            let armed = self.poller.modify(fd.as_raw_fd(), interest, data(index, token.generation));
            if let Err(e) = armed {
                return self.fail(index, e.kind(), pool, events);
            }
            slot.marks.set(Marks::WRITE_ARMED);
        }
        if self.leftovers.keep(slot, sent, &mut self.staged, &self.regions, pool).is_err() {
            return self.fail(index, io::ErrorKind::OutOfMemory, pool, events);
        }
        if slot.phase == Phase::Open {
            slot.marks.set(Marks::FRESH);
            self.short.push(token);
            events.push(Event::Blocked { token, unsent: (total - sent) as u32 });
        }
    }

    /// Goes on with the sends that were short in the previous turn, where the kernel took bytes again before it was
    /// over: their owners have had the time to take some of them back.
    fn resume_short(&mut self, count: usize, pool: &mut Pool, events: &mut Vec<Event>) {
        for at in 0..count {
            let token = self.short[at];
            let Some(slot) = self.slots.get(token) else { continue };
            slot.marks.clear(Marks::FRESH);
            if slot.marks.has(Marks::WRITABLE) {
                slot.marks.clear(Marks::WRITABLE);
                if slot.unfinished != NONE {
                    self.send_leftovers(token.index, pool, events);
                }
            }
        }
        self.short.drain(..count);
    }

    /// Goes on with what a short send left.
    fn send_leftovers(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        loop {
            let slot = self.slots.at(index);
            let Some(fd) = slot.fd.as_ref().map(AsFd::as_fd) else { return };
            match self.leftovers.with_pieces(slot, |pieces| sys::send_pieces(fd, pieces, false)) {
                Ok(sent) => {
                    if self.leftovers.advance(slot, sent, pool) {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => return self.fail(index, e.kind(), pool, events),
            }
        }
        if self.slots.at(index).phase == Phase::Open {
            events.push(Event::Unblocked { token: self.slots.token(index) });
        }
        self.settle_end(index, pool, events);
    }

    /// Sends the FIN and closes the descriptor that were asked for, once all bytes are with the kernel.
    fn settle_end(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        let slot = self.slots.at(index);
        if slot.unfinished != NONE {
            return;
        }
        if slot.phase == Phase::Closing {
            return self.release(index, pool, events);
        }
        if slot.phase == Phase::Open
            && slot.marks.has(Marks::SHUTDOWN)
            && let Some(fd) = &slot.fd
        {
            sys::shutdown_write(fd.as_fd());
        }
    }

    /// Reports a failure; a connection that was closing anyway is released.
    fn fail(&mut self, index: u32, error: io::ErrorKind, pool: &mut Pool, events: &mut Vec<Event>) {
        let slot = self.slots.at(index);
        self.staged.discard(slot, pool);
        self.leftovers.discard(slot, pool);
        if slot.phase == Phase::Closing {
            return self.release(index, pool, events);
        }
        slot.phase = Phase::Failed;
        events.push(Event::Failed { token: self.slots.token(index), error });
    }

    fn release(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        let token = self.slots.token(index);
        let slot = self.slots.at(index);
        self.staged.discard(slot, pool);
        self.leftovers.discard(slot, pool);
        self.slots.remove(index);
        events.push(Event::Closed { token });
    }

    /// Whether another receive would not fit into the region in this turn.
    fn is_full(&self) -> bool {
        self.filled + self.receive_bytes > self.regions.bytes()
    }

    /// Receives once, or keeps the connection in the queue when the region is full.
    fn receive(&mut self, token: Token, pool: &mut Pool, events: &mut Vec<Event>) {
        loop {
            let full = self.is_full();
            let Some(slot) = self.slots.get(token) else { return };
            if slot.phase != Phase::Open || slot.marks.has(Marks::PAUSED.with(Marks::ENDED)) {
                return;
            }
            if full {
                slot.marks.set(Marks::QUEUED);
                return self.ready.push_back(token);
            }
            let Some(fd) = &slot.fd else { return };
            let address = self.regions.address(self.filled);
            // SAFETY: `filled + receive_bytes` is within the region. Spans reported by this turn end at
            // `filled`, those of earlier turns are void, and `&mut self` excludes any slice of the region.
            match unsafe { sys::receive(fd.as_fd(), address, self.receive_bytes) } {
                Ok(0) => {
                    slot.marks.set(Marks::ENDED);
                    slot.marks.clear(Marks::READABLE);
                    return events.push(Event::Ended { token });
                }
                Ok(bytes) => {
                    report_received(token, self.filled, bytes, events);
                    self.filled += bytes;
                    if bytes == self.receive_bytes {
                        slot.marks.set(Marks::QUEUED);
                        return self.ready.push_back(token);
                    }
                    // A short receive has emptied the socket: whatever comes now is a new edge. Only an
                    // end that was reported together with these bytes has to be fetched.
                    if !slot.marks.has(Marks::HANGUP) {
                        return slot.marks.clear(Marks::READABLE);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return slot.marks.clear(Marks::READABLE);
                }
                Err(e) => return self.fail(token.index, e.kind(), pool, events),
            }
        }
    }

    /// Handles one readiness report of a connection.
    fn report(&mut self, token: Token, mask: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        let has = |flags: i32| mask & flags as u32 != 0;
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase == Phase::Connecting {
            let Some(fd) = &slot.fd else { return };
            match sys::socket_error(fd.as_fd()) {
                Ok(()) if has(libc::EPOLLOUT) => {
                    slot.phase = Phase::Open;
                    events.push(Event::Connected { token });
                }
                Ok(()) => return,
                Err(e) => return self.fail(token.index, e.kind(), pool, events),
            }
        } else if slot.unfinished != NONE && has(libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) {
            if slot.marks.has(Marks::FRESH) {
                slot.marks.set(Marks::WRITABLE);
            } else {
                self.send_leftovers(token.index, pool, events);
            }
        }
        let Some(slot) = self.slots.get(token) else { return };
        if !has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLERR | libc::EPOLLHUP) {
            return;
        }
        slot.marks.set(Marks::READABLE);
        if has(libc::EPOLLRDHUP | libc::EPOLLERR | libc::EPOLLHUP) {
            slot.marks.set(Marks::HANGUP);
            if slot.marks.has(Marks::PAUSED) {
                return self.notice_end(token, pool, events);
            }
        }
        if !slot.marks.has(Marks::QUEUED) {
            self.receive(token, pool, events);
        }
    }

    /// The peer of a paused connection has sent FIN or a reset, perhaps behind bytes that are not read.
    fn notice_end(&mut self, token: Token, pool: &mut Pool, events: &mut Vec<Event>) {
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase != Phase::Open || !slot.marks.has(Marks::PAUSED) || slot.marks.has(Marks::SHUTDOWN) {
            return;
        }
        let Some(fd) = &slot.fd else { return };
        if let Err(error) = sys::socket_error(fd.as_fd()) {
            self.fail(token.index, error.kind(), pool, events);
        } else if !slot.marks.has(Marks::ENDED.with(Marks::HALF_CLOSED)) {
            slot.marks.set(Marks::HALF_CLOSED);
            events.push(Event::HalfClosed { token });
        }
    }

    /// Reads those that had more, in the order in which they asked.
    fn receive_queued(&mut self, pool: &mut Pool, events: &mut Vec<Event>) {
        for _ in 0..self.ready.len() {
            // Stopping here keeps the places of those who wait.
            if self.is_full() {
                return;
            }
            let Some(token) = self.ready.pop_front() else { return };
            if let Some(slot) = self.slots.get(token) {
                slot.marks.clear(Marks::QUEUED);
                self.receive(token, pool, events);
            }
        }
    }

    /// How long the wait may last: not at all when there is something to report or to read.
    fn timeout(&self, deadline: Option<Nanos>, idle: bool) -> Timeout {
        let retry = match self.accepting {
            Accepting::Failed { retry_at } => Some(retry_at),
            _ => None,
        };
        let until = match (deadline, retry) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match until {
            _ if !idle => Timeout::Now,
            None => Timeout::Never,
            Some(until) => match until.saturating_sub(clock::now()) {
                0 => Timeout::Now,
                left => Timeout::After(Duration::from_nanos(left)),
            },
        }
    }

    // ---- listeners ----

    fn register_listener(&self, position: usize) -> io::Result<()> {
        // Exclusive: a listener that several shards share wakes one of them per connection, not all.
        let interest = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
        self.poller.add(self.listeners[position].fd.as_raw_fd(), interest, data(position as u32, LISTENER))
    }

    /// Takes all listeners out of epoll until `state` is over.
    fn park_listeners(&mut self, state: Accepting) {
        self.accepting = state;
        for listener in &mut self.listeners {
            listener.ready = false;
            // One that was not registered is out already.
            let _ = self.poller.remove(listener.fd.as_raw_fd());
        }
    }

    /// Puts parked listeners back when the reason is gone.
    fn unpark_listeners(&mut self) {
        self.accepting = match self.accepting {
            Accepting::Full if self.slots.has_room() => Accepting::Yes,
            Accepting::Failed { retry_at } if retry_at <= clock::now() => Accepting::Retrying,
            _ => return,
        };
        if (0..self.listeners.len()).any(|position| self.register_listener(position).is_err()) {
            self.park_listeners(Accepting::Failed { retry_at: clock::now() + ACCEPT_RETRY });
        }
    }

    /// Takes connections from the listeners that have some.
    fn accept(&mut self, events: &mut Vec<Event>) {
        for position in 0..self.listeners.len() {
            if !std::mem::take(&mut self.listeners[position].ready) {
                continue;
            }
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.slots.has_room() {
                    return self.park_listeners(Accepting::Full);
                }
                let error = match sys::accept(self.listeners[position].fd.as_fd()) {
                    Ok(fd) => match self.adopt(fd, Phase::Open, INTEREST) {
                        Ok(token) => {
                            self.accepting = Accepting::Yes;
                            events.push(Event::Accepted { token });
                            continue;
                        }
                        Err(error) => error,
                    },
                    Err(error) => error,
                };
                match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.accepting = Accepting::Yes;
                        break;
                    }
                    Some(
                        errno @ (libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC),
                    ) => {
                        if self.accepting != Accepting::Retrying {
                            events.push(Event::AcceptFailed { errno });
                        }
                        let retry_at = clock::now() + ACCEPT_RETRY;
                        return self.park_listeners(Accepting::Failed { retry_at });
                    }
                    // The peer is gone already, a firewall said no, a signal came: the next one may do.
                    _ => {}
                }
            }
        }
    }

    /// Gives a socket a slot and registers it.
    fn adopt(&mut self, fd: OwnedFd, phase: Phase, interest: i32) -> io::Result<Token> {
        let number = fd.as_raw_fd();
        let token = self.slots.insert(fd, phase).map_err(|_| slots_taken())?;
        match self.poller.add(number, interest, data(token.index, token.generation)) {
            Ok(()) => Ok(token),
            Err(error) => {
                self.slots.remove(token.index);
                Err(error)
            }
        }
    }

    /// Answers those who asked for an address, as far as their connections are still there.
    fn find_addresses(&mut self, events: &mut Vec<Event>) {
        for token in std::mem::take(&mut self.unaddressed) {
            let Some(slot) = self.slots.get(token).filter(|slot| slot.phase == Phase::Open) else { continue };
            let address = slot.fd.as_ref().and_then(peer_of);
            self.addresses.keep(token, address);
            events.push(Event::Addressed { token });
        }
    }

    /// Puts a connection on the list of those with something to do, once.
    fn mark_staged(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if !slot.marks.has(Marks::STAGED) {
            slot.marks.set(Marks::STAGED);
            self.dirty.push(index);
        }
    }
}

impl Driver for Epoll {
    fn now(&self) -> Nanos {
        clock::now()
    }

    fn turn(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        events.append(&mut self.notices);
        let short = self.short.len();
        self.settle_staged(pool, events);
        if short > 0 {
            self.resume_short(short, pool, events);
        }
        self.addresses.begin();
        if !self.unaddressed.is_empty() {
            self.find_addresses(events);
        }
        while let Some(token) = self.hung_up.pop() {
            self.notice_end(token, pool, events);
        }
        self.filled = 0;
        if self.accepting != Accepting::Yes {
            self.unpark_listeners();
        }
        let timeout = self.timeout(deadline, events.len() == before && self.ready.is_empty());
        let count = self.poller.wait(&mut self.reports, timeout)?;
        self.receive_queued(pool, events);
        for position in 0..count {
            let libc::epoll_event { events: mask, u64: data } = self.reports[position];
            let (index, kind) = (data as u32, (data >> 32) as u32);
            match kind {
                WAKER => events.push(Event::Woken),
                LISTENER => {
                    if let Some(listener) = self.listeners.get_mut(index as usize) {
                        listener.ready = true;
                    }
                }
                generation => self.report(Token { index, generation }, mask, pool, events),
            }
        }
        self.accept(events);
        Ok(())
    }

    fn received(&mut self, run: Span) -> &mut [u8] {
        self.regions.slice(run)
    }

    fn send(&mut self, token: Token, source: Source) -> Result<(), Source> {
        let Some(slot) = self.slots.get(token) else { return Err(source) };
        if slot.phase != Phase::Open || slot.unfinished != NONE || slot.marks.has(Marks::SHUTDOWN) {
            return Err(source);
        }
        self.staged.push(slot, source)?;
        self.mark_staged(token.index);
        Ok(())
    }

    fn unsent_bytes(&self, token: Token) -> usize {
        let slot = self.slots.peek(token).filter(|slot| slot.unfinished != NONE);
        slot.map_or(0, |slot| self.leftovers.of(slot).bytes())
    }

    fn held_bytes(&self, token: Token) -> usize {
        let slot = self.slots.peek(token).filter(|slot| slot.unfinished != NONE);
        slot.map_or(0, |slot| self.leftovers.of(slot).held_bytes())
    }

    fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        let slot = self.slots.peek(token).filter(|slot| slot.may_take_back())?;
        self.leftovers.of(slot).last_shared()
    }

    fn take_back(&mut self, token: Token, bytes: usize) -> bool {
        let Some(slot) = self.slots.peek(token).filter(|slot| slot.may_take_back()) else { return false };
        self.leftovers.of_mut(slot).take_back(bytes)
    }

    fn pause(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        let was_paused = slot.marks.has(Marks::PAUSED);
        slot.marks.set(Marks::PAUSED);
        if !was_paused && slot.marks.has(Marks::HANGUP) {
            self.hung_up.push(token);
        }
    }

    fn resume(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.marks.clear(Marks::PAUSED);
        if slot.marks.has(Marks::READABLE) && !slot.marks.has(Marks::QUEUED) {
            slot.marks.set(Marks::QUEUED);
            self.ready.push_back(token);
        }
    }

    fn shutdown(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase == Phase::Open && !slot.marks.has(Marks::SHUTDOWN) {
            slot.marks.set(Marks::SHUTDOWN);
            self.mark_staged(token.index);
        }
    }

    fn close(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase != Phase::Aborting {
            slot.phase = Phase::Closing;
            self.mark_staged(token.index);
        }
    }

    fn abort(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.phase = Phase::Aborting;
        self.mark_staged(token.index);
    }

    fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        sys::set_nonblocking(listener.as_fd())?;
        self.listeners.push(Listener { fd: listener, ready: false });
        if matches!(self.accepting, Accepting::Full | Accepting::Failed { .. }) {
            return Ok(());
        }
        let registered = self.register_listener(self.listeners.len() - 1);
        if registered.is_err() {
            self.listeners.pop();
        }
        registered
    }

    fn stop_listening(&mut self) {
        // Closing alone would not end the registration of a listener that other shards share.
        self.park_listeners(Accepting::Yes);
        self.listeners.clear();
    }

    fn connect(&mut self, address: SocketAddr, source: Option<SocketAddr>) -> io::Result<Token> {
        if !self.slots.has_room() {
            return Err(slots_taken());
        }
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            if source.port() == 0 {
                sys::bind_without_port(socket.as_fd())?;
            }
            socket.bind(&source.into())?;
        }
        let attempt = match socket.connect(&address.into()) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE)) => {
                return Err(e);
            }
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            result => result,
        };
        let token = self.adopt(socket.into(), Phase::Connecting, INTEREST | libc::EPOLLOUT)?;
        let slot = self.slots.at(token.index);
        slot.marks.set(Marks::WRITE_ARMED);
        if let Err(error) = attempt {
            slot.phase = Phase::Failed;
            self.notices.push(Event::Failed { token, error: error.kind() });
        }
        Ok(token)
    }

    fn find_address(&mut self, token: Token) {
        self.unaddressed.push(token);
    }

    fn address(&self, token: Token) -> Option<SocketAddr> {
        self.addresses.of(token)
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, other: &Waker) {
        other.wake();
    }

    fn describe(&self) -> Description {
        Description { name: "epoll", features: Features::NONE, degraded: Features::NONE }
    }
}

/// Reports bytes of the region, as part of the previous run where that is adjacent and of the same
/// connection.
fn report_received(token: Token, offset: usize, bytes: usize, events: &mut Vec<Event>) {
    if let Some(Event::Received { token: last, run }) = events.last_mut()
        && *last == token
        && (run.offset + run.bytes) as usize == offset
    {
        run.bytes += bytes as u32;
        return;
    }
    let run = Span { offset: offset as u32, bytes: bytes as u32 };
    events.push(Event::Received { token, run });
}

fn slots_taken() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, "every connection slot is taken")
}

/// What a registration carries: an index, and a generation or what else it is.
fn data(index: u32, kind: u32) -> u64 {
    u64::from(kind) << 32 | u64::from(index)
}
