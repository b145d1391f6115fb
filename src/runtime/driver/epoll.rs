//! The driver for hosts where io_uring is denied or too old: epoll and non-blocking sockets behind the same contract as the
//! ring.
//!
//! It is edge-triggered, so a connection is registered once and pausing costs no system call: a flag records an edge
//! that comes during a pause. A tick sends the staged pieces, waits once, and reads every ready connection once into
//! the region; connections without room keep their position in a queue. It never reads without receive credit, and
//! never waits outside [`tick`](Operations::tick).

mod dials;
mod outgoing;
mod slots;
mod sys;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::SockRef;

use self::dials::WaitingDials;
use self::outgoing::{PartialSends, Staged};
use self::slots::{NONE, Phase, SlotFlags, Slots};
use self::sys::{Poller, Timeout};
use super::addresses::Addresses;
use super::kernel_times::KernelTimes;
use super::notsent::NotsentLowat;
use super::regions::Regions;
use super::sockets::{retransmissions, set_option, shutdown_write};
use super::stamps::{Asked, REPORTING, Stamps};
use super::{
    Description, Event, Features, Operations, Options, Released, RemoteAddress, SendTimes, Source, Span,
    TcpInfo, Token, Waker, clock, take_released,
};
use crate::stats::DriverWork;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// Bytes per receive. A masked message of the default limit, 64 KiB and its header, fits into one; a connection that
/// sends in bulk gets this much per tick, before the others have their turn.
const RECEIVE_BYTES: usize = 68 * 1024;
/// Default receive memory: four full receives. Together with the sends from it and the kernel's own copies it stays
/// in a second-level cache of 1 MiB.
const REGION_BYTES: usize = 4 * RECEIVE_BYTES;
/// Minimum of [`Options::receive_bytes`].
const REGION_BYTES_MIN: usize = 16 * 1024;
/// Readiness events per tick. More would hardly save system calls, and would delay the first connection's reply until
/// the last one's receive.
const REPORTS_PER_TICK: usize = 256;
/// Connections accepted from one listener per tick, so that a flood of them does not delay the others.
const ACCEPTS_PER_TICK: usize = 64;
/// Pause after an accept failed for lack of descriptors or memory.
const ACCEPT_RETRY: Nanos = 100 * MILLISECOND;

/// The interest of every connection; writability is added after a short send.
const INTEREST: i32 = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
/// The high half of a registration's data where it is not a connection's generation (24 bits).
const LISTENER: u32 = 1 << 31;
const WAKER: u32 = 1 << 30;

/// The epoll driver of one shard.
#[derive(Debug)]
pub struct Epoll {
    poller: Poller,
    work: DriverWork,
    waker: Waker,
    slots: Slots,
    staged: Staged,
    partial_sends: PartialSends,
    /// Connections with work at the next tick's start, in the order of requests.
    dirty: Vec<u32>,
    /// Connections whose send was short in the latest tick.
    short: Vec<Token>,
    /// Connections that may have more to read, first in first out.
    ready: VecDeque<Token>,
    /// Connections that were paused after their end was detected and before it was read.
    hung_up: Vec<Token>,
    /// Connections whose peer address was requested.
    unaddressed: Vec<Token>,
    addresses: Addresses,
    notsent: NotsentLowat,
    stamps: Stamps,
    kernel_times: Option<KernelTimes>,
    /// Connections that the latest tick gave up.
    released: Vec<(Token, Released)>,
    /// Events that arose outside a tick.
    notices: Vec<Event>,
    listeners: Vec<Listener>,
    accepting: Accepting,
    waiting_dials: WaitingDials,
    reports: Vec<libc::epoll_event>,
    regions: Regions,
    /// First unused byte of the region in this tick.
    filled: usize,
    /// Bytes per receive.
    receive_bytes: usize,
}

#[derive(Debug)]
struct Listener {
    fd: OwnedFd,
    number: u8,
    /// Reported by the latest wait.
    ready: bool,
}

/// Whether the listeners are registered with epoll. They are level-triggered, so that they must be taken
/// out while their connections cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    Yes,
    /// Every slot is in use; resumes when one is free.
    Full,
    /// Descriptors or memory are exhausted; retried at this time.
    Failed {
        retry_at: Nanos,
    },
    /// The first retry after a failure: a second failure in a row is not reported again.
    Retrying,
}

impl Epoll {
    /// A driver for up to `options.connections` connections.
    ///
    /// # Errors
    /// If descriptors or memory are exhausted.
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
            work: DriverWork {
                retransmissions: options.counts_retransmissions.then_some(0),
                ..DriverWork::default()
            },
            waker,
            slots: Slots::new(options.connections),
            staged: Staged::default(),
            partial_sends: PartialSends::default(),
            dirty: Vec::new(),
            short: Vec::new(),
            ready: VecDeque::new(),
            hung_up: Vec::new(),
            unaddressed: Vec::new(),
            addresses: Addresses::default(),
            notsent: NotsentLowat::new(options.notsent_lowat),
            stamps: Stamps::default(),
            kernel_times: KernelTimes::new(options.stamps_every, options.connections),
            released: Vec::new(),
            notices: Vec::new(),
            listeners: Vec::new(),
            accepting: Accepting::Yes,
            waiting_dials: WaitingDials::default(),
            reports: vec![libc::epoll_event { events: 0, u64: 0 }; REPORTS_PER_TICK],
            regions: Regions::new(bytes)?,
            filled: 0,
            receive_bytes: RECEIVE_BYTES.min(bytes / 4),
        })
    }

    /// Carries out the staged work of every connection.
    fn settle_staged(&mut self, pool: &mut Pool, events: &mut Vec<Event>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        if let Some(times) = &mut self.kernel_times {
            times.begin_tick();
        }
        for &index in &dirty {
            let slot = self.slots.at(index);
            slot.flags.clear(SlotFlags::STAGED);
            if slot.phase == Phase::Aborting {
                self.remove(index, pool, events);
                continue;
            }
            if slot.staged_count > 0 {
                self.send_staged(index, pool, events);
            }
            if self.slots.at(index).phase == Phase::Leaving {
                self.leave(index, pool, events);
                continue;
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
        let mut asked = slot.flags.has(SlotFlags::STAMPED).then_some(Asked::Acknowledgement);
        slot.flags.clear(SlotFlags::STAMPED);
        if let Some(times) = &mut self.kernel_times
            && times.carry(index, self.staged.bytes(slot), fd)
        {
            asked = Some(Asked::Stages);
        }
        let (total, result) = match (self.staged.single(slot, &self.regions), asked) {
            (Some(bytes), None) => (bytes.len(), sys::send(fd, bytes, last)),
            _ => {
                let send = |pieces: &[io::IoSlice<'_>]| match asked {
                    Some(asked) => sys::send_stamped(fd, pieces, last, asked),
                    None => sys::send_pieces(fd, pieces, last),
                };
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
        self.stamps.void(token);
        if let Some(times) = &mut self.kernel_times {
            times.void(index);
        }
        if !slot.flags.has(SlotFlags::WRITE_ARMED) {
            let interest = INTEREST | libc::EPOLLOUT;
            let armed = self.poller.modify(fd, interest, data(index, token.generation));
            if let Err(e) = armed {
                return self.fail(index, e.kind(), pool, events);
            }
            slot.flags.set(SlotFlags::WRITE_ARMED);
        }
        if self.partial_sends.keep(slot, sent, &mut self.staged, &self.regions, pool).is_err() {
            return self.fail(index, io::ErrorKind::OutOfMemory, pool, events);
        }
        if slot.phase == Phase::Open {
            slot.flags.set(SlotFlags::FRESH);
            self.short.push(token);
            events.push(Event::Blocked { token, unsent: (total - sent) as u32 });
        }
    }

    /// Resumes the sends that were short in the previous tick, if the kernel has become writable meanwhile: until then,
    /// their owners could take some bytes back.
    fn resume_short(&mut self, count: usize, pool: &mut Pool, events: &mut Vec<Event>) {
        for at in 0..count {
            let token = self.short[at];
            let Some(slot) = self.slots.get(token) else { continue };
            slot.flags.clear(SlotFlags::FRESH);
            if slot.flags.has(SlotFlags::WRITABLE) {
                slot.flags.clear(SlotFlags::WRITABLE);
                if slot.unfinished != NONE {
                    self.send_partial_sends(token.index, pool, events);
                }
            }
        }
        self.short.drain(..count);
    }

    /// Resumes a partial send.
    fn send_partial_sends(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        loop {
            let slot = self.slots.at(index);
            let Some(fd) = slot.fd.as_ref().map(AsFd::as_fd) else { return };
            match self.partial_sends.with_pieces(slot, |pieces| sys::send_pieces(fd, pieces, false)) {
                Ok(sent) => {
                    if self.partial_sends.advance(slot, sent, pool) {
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

    /// Sends the requested FIN or closes the descriptor, once all bytes are with the kernel.
    fn settle_end(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        let slot = self.slots.at(index);
        if slot.unfinished != NONE {
            return;
        }
        if slot.phase == Phase::Closing {
            return self.remove(index, pool, events);
        }
        if slot.phase == Phase::Open
            && slot.flags.has(SlotFlags::SHUTDOWN)
            && let Some(fd) = &slot.fd
        {
            shutdown_write(fd.as_fd());
        }
    }

    /// Reports a failure; a connection that was closing anyway is released.
    fn fail(&mut self, index: u32, error: io::ErrorKind, pool: &mut Pool, events: &mut Vec<Event>) {
        let slot = self.slots.at(index);
        self.staged.discard(slot, pool);
        self.partial_sends.discard(slot, pool);
        if slot.phase == Phase::Closing {
            return self.remove(index, pool, events);
        }
        slot.phase = Phase::Failed;
        events.push(Event::Failed { token: self.slots.token(index), error });
    }

    fn remove(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        let token = self.slots.token(index);
        let slot = self.slots.at(index);
        self.staged.discard(slot, pool);
        self.partial_sends.discard(slot, pool);
        if let (Some(count), Some(fd)) = (&mut self.work.retransmissions, &slot.fd) {
            *count += retransmissions(fd.as_fd());
        }
        self.slots.remove(index);
        self.notsent.end(index);
        self.stamps.forget(token);
        events.push(Event::Closed { token });
    }

    /// Whether another receive would not fit into the region in this tick.
    fn is_full(&self) -> bool {
        self.filled + self.receive_bytes > self.regions.bytes()
    }

    /// Receives once, or keeps the connection in the queue when the region is full.
    fn receive(&mut self, token: Token, pool: &mut Pool, events: &mut Vec<Event>) {
        loop {
            let full = self.is_full();
            let Some(slot) = self.slots.get(token) else { return };
            if slot.phase != Phase::Open || slot.flags.has(SlotFlags::PAUSED.with(SlotFlags::ENDED)) {
                return;
            }
            if full {
                slot.flags.set(SlotFlags::QUEUED);
                return self.ready.push_back(token);
            }
            let Some(fd) = &slot.fd else { return };
            let room = Span { offset: self.filled as u32, bytes: self.receive_bytes as u32 };
            let memory = self.regions.slice_mut(room);
            let times = self.kernel_times.as_mut().filter(|times| times.samples(token.index));
            let received = match times {
                None => sys::receive(fd.as_fd(), memory),
                Some(times) => sys::receive_stamped(fd.as_fd(), memory).map(|(bytes, control)| {
                    if bytes > 0 {
                        let at = times.arrival(token.index, fd.as_fd(), &control);
                        events.push(Event::Arrived { token, at });
                    }
                    bytes
                }),
            };
            match received {
                Ok(0) => {
                    slot.flags.set(SlotFlags::ENDED);
                    slot.flags.clear(SlotFlags::READABLE);
                    return events.push(Event::Ended { token });
                }
                Ok(bytes) => {
                    report_received(token, self.filled, bytes, events);
                    self.filled += bytes;
                    if bytes == self.receive_bytes {
                        slot.flags.set(SlotFlags::QUEUED);
                        return self.ready.push_back(token);
                    }
                    // A short receive has emptied the socket: further bytes cause a new edge. Only an
                    // end that was reported together with these bytes has to be fetched.
                    if !slot.flags.has(SlotFlags::HANGUP) {
                        return slot.flags.clear(SlotFlags::READABLE);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return slot.flags.clear(SlotFlags::READABLE);
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
                    if let Some(times) = &mut self.kernel_times {
                        times.begin(token.index, fd.as_fd());
                    }
                    slot.phase = Phase::Open;
                    events.push(Event::Connected { token });
                }
                Ok(()) => return,
                Err(e) => return self.fail(token.index, e.kind(), pool, events),
            }
        } else if slot.unfinished != NONE && has(libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) {
            if slot.flags.has(SlotFlags::FRESH) {
                slot.flags.set(SlotFlags::WRITABLE);
            } else {
                self.send_partial_sends(token.index, pool, events);
            }
        }
        let Some(slot) = self.slots.get(token) else { return };
        if !has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLERR | libc::EPOLLHUP) {
            return;
        }
        slot.flags.set(SlotFlags::READABLE);
        // A failure is a hang-up too. An error alone is a time in the error queue.
        if has(libc::EPOLLRDHUP | libc::EPOLLHUP) {
            slot.flags.set(SlotFlags::HANGUP);
            if slot.flags.has(SlotFlags::PAUSED) {
                return self.notice_end(token, pool, events);
            }
        }
        if !slot.flags.has(SlotFlags::QUEUED) {
            self.receive(token, pool, events);
        }
    }

    /// The peer of a paused connection has sent FIN or a reset, perhaps behind unread bytes.
    fn notice_end(&mut self, token: Token, pool: &mut Pool, events: &mut Vec<Event>) {
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase != Phase::Open
            || !slot.flags.has(SlotFlags::PAUSED)
            || slot.flags.has(SlotFlags::SHUTDOWN)
        {
            return;
        }
        let Some(fd) = &slot.fd else { return };
        if let Err(error) = sys::socket_error(fd.as_fd()) {
            self.fail(token.index, error.kind(), pool, events);
        } else if !slot.flags.has(SlotFlags::ENDED.with(SlotFlags::HALF_CLOSED)) {
            slot.flags.set(SlotFlags::HALF_CLOSED);
            events.push(Event::HalfClosed { token });
        }
    }

    /// Reads the connections that had more, in order.
    fn receive_queued(&mut self, pool: &mut Pool, events: &mut Vec<Event>) {
        for _ in 0..self.ready.len() {
            // Stopping here keeps the order of the queue.
            if self.is_full() {
                return;
            }
            let Some(token) = self.ready.pop_front() else { return };
            if let Some(slot) = self.slots.get(token) {
                slot.flags.clear(SlotFlags::QUEUED);
                self.receive(token, pool, events);
            }
        }
    }

    /// Looks at the error queues in which the acknowledgements of stamped sends may be.
    fn look(&mut self, events: &mut Vec<Event>) {
        let Epoll { stamps, slots, .. } = self;
        let mut found = Vec::new();
        stamps.look(|token, look| {
            let fd = slots.peek(token).and_then(|slot| slot.fd.as_ref());
            if fd.is_some_and(|fd| sys::look(fd.as_fd(), look)) {
                found.push(token);
            }
        });
        let acknowledged = |token| Some(Event::Acknowledged { token, at: stamps.found(token)? });
        events.extend(found.into_iter().filter_map(acknowledged));
    }

    /// How long the wait may last: zero if there is something to report or to read.
    fn timeout(&self, deadline: Option<Nanos>, idle: bool) -> Timeout {
        let retry = match self.accepting {
            Accepting::Failed { retry_at } => Some(retry_at),
            _ => None,
        };
        let retry = [retry, self.waiting_dials.retry_at()].into_iter().flatten();
        let until = retry.chain(deadline).min();
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
        self.poller.add(self.listeners[position].fd.as_fd(), interest, data(position as u32, LISTENER))
    }

    /// Removes all listeners from epoll until `state` is over.
    fn park_listeners(&mut self, state: Accepting) {
        self.accepting = state;
        for listener in &mut self.listeners {
            listener.ready = false;
            // One that was not registered is out already.
            let _ = self.poller.remove(listener.fd.as_fd());
        }
    }

    /// Restores parked listeners when the reason is gone.
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
            for _ in 0..ACCEPTS_PER_TICK {
                if !self.slots.has_room() {
                    return self.park_listeners(Accepting::Full);
                }
                let accepted = sys::accept(self.listeners[position].fd.as_fd());
                let inserted = accepted
                    .and_then(|fd| self.insert(fd, Phase::Open, INTEREST).map_err(|(_, error)| error));
                let error = match inserted {
                    Ok(token) => {
                        self.accepting = Accepting::Yes;
                        events.push(Event::Accepted { token, listener: self.listeners[position].number });
                        continue;
                    }
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
                    // The peer disconnected, a firewall rejected it, or a signal came: try the next one.
                    _ => {}
                }
            }
        }
    }

    /// Gives a socket a slot and registers it, or returns it.
    fn insert(&mut self, fd: OwnedFd, phase: Phase, interest: i32) -> Result<Token, (OwnedFd, io::Error)> {
        let token = self.slots.insert(fd, phase).map_err(|fd| (fd, slots_taken()))?;
        let slot = self.slots.at(token.index);
        let added = slot
            .fd
            .as_ref()
            .map(|fd| self.poller.add(fd.as_fd(), interest, data(token.index, token.generation)));
        if let Some(Err(error)) = added
            && let Some(fd) = slot.fd.take()
        {
            self.slots.remove(token.index);
            return Err((fd, error));
        }
        Ok(token)
    }

    /// Gives a connection up, whose staged pieces were sent.
    fn leave(&mut self, index: u32, pool: &mut Pool, events: &mut Vec<Event>) {
        let token = self.slots.token(index);
        let slot = self.slots.at(index);
        let Some(socket) = slot.fd.take() else { return };
        // One that is registered can be removed.
        let _ = self.poller.remove(socket.as_fd());
        let unsent = if slot.unfinished == NONE { Vec::new() } else { self.partial_sends.of(slot).copied() };
        self.partial_sends.discard(slot, pool);
        self.slots.remove(index);
        let has_fallen_behind = self.notsent.has(index);
        self.notsent.end(index);
        self.stamps.forget(token);
        self.released.push((token, Released { socket, unsent, has_fallen_behind }));
        events.push(Event::Released { token });
    }

    /// Looks up the addresses that were asked for, before FIN is sent: a socket that both ends have closed has no peer.
    fn look_up_addresses(&mut self) {
        for &token in &self.unaddressed {
            if let Some(slot) = self.slots.get(token).filter(|slot| slot.phase == Phase::Open) {
                self.addresses.look(token, slot.fd.as_ref());
            }
        }
    }

    /// Reports them behind the ends of connections, so that a client that reconnects at once does not count twice.
    fn report_addresses(&mut self, events: &mut Vec<Event>) {
        for token in std::mem::take(&mut self.unaddressed) {
            if self.slots.get(token).is_some_and(|slot| slot.phase == Phase::Open) {
                events.push(Event::Addressed { token });
            }
        }
    }

    /// Lists a connection for the next tick's start, once.
    fn mark_staged(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if !slot.flags.has(SlotFlags::STAGED) {
            slot.flags.set(SlotFlags::STAGED);
            self.dirty.push(index);
        }
    }
}

impl Operations for Epoll {
    fn now(&self) -> Nanos {
        clock::now()
    }

    fn tick(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        self.released.clear();
        events.append(&mut self.notices);
        self.addresses.begin();
        if !self.unaddressed.is_empty() {
            self.look_up_addresses();
        }
        let short = self.short.len();
        self.settle_staged(pool, events);
        if short > 0 {
            self.resume_short(short, pool, events);
        }
        if !self.unaddressed.is_empty() {
            self.report_addresses(events);
        }
        while let Some(token) = self.hung_up.pop() {
            self.notice_end(token, pool, events);
        }
        self.filled = 0;
        if self.waiting_dials.retry_at().is_some() {
            self.dial_again(pool, events);
        }
        if self.accepting != Accepting::Yes {
            self.unpark_listeners();
        }
        let timeout = self.timeout(deadline, events.len() == before && self.ready.is_empty());
        let count = self.poller.wait(&mut self.reports, timeout)?;
        self.work.enters += 1;
        self.work.completions += count as u64;
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
        if !self.stamps.is_empty() {
            self.look(events);
        }
        Ok(())
    }

    fn received(&mut self, span: Span) -> &mut [u8] {
        self.regions.slice_mut(span)
    }

    fn send(&mut self, token: Token, source: Source) -> Result<(), Source> {
        let Some(slot) = self.slots.get(token) else { return Err(source) };
        if slot.phase != Phase::Open || slot.unfinished != NONE || slot.flags.has(SlotFlags::SHUTDOWN) {
            return Err(source);
        }
        self.staged.push(slot, source)?;
        self.mark_staged(token.index);
        Ok(())
    }

    fn unsent_bytes(&self, token: Token) -> usize {
        let slot = self.slots.peek(token).filter(|slot| slot.unfinished != NONE);
        slot.map_or(0, |slot| self.partial_sends.of(slot).bytes())
    }

    fn held_bytes(&self, token: Token) -> usize {
        let slot = self.slots.peek(token).filter(|slot| slot.unfinished != NONE);
        slot.map_or(0, |slot| self.partial_sends.of(slot).held_bytes())
    }

    fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        let slot = self.slots.peek(token).filter(|slot| slot.may_take_back())?;
        self.partial_sends.of(slot).last_shared()
    }

    fn take_back(&mut self, token: Token, bytes: usize) -> bool {
        let Some(slot) = self.slots.peek(token).filter(|slot| slot.may_take_back()) else { return false };
        self.partial_sends.of_mut(slot).take_back(bytes)
    }

    fn stamp(&mut self, token: Token) -> bool {
        let Some(slot) = self.slots.get(token).filter(|slot| slot.staged_count > 0) else { return false };
        let Some(fd) = &slot.fd else { return false };
        let is_possible = !self.notsent.has(token.index)
            && set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, REPORTING).is_ok()
            && self.stamps.add(token);
        if is_possible {
            slot.flags.set(SlotFlags::STAMPED);
        }
        is_possible
    }

    fn send_times(&mut self, token: Token, handed_at: Nanos) -> Option<SendTimes> {
        let socket = self.slots.peek(token)?.fd.as_ref()?;
        self.kernel_times.as_mut()?.of(token.index, socket.as_fd(), handed_at)
    }

    fn set_notsent_lowat(&mut self, token: Token) {
        if let Some(slot) = self.slots.peek(token)
            && let Some(fd) = &slot.fd
            && self.notsent.begin(token.index)
        {
            // A Unix socket has no such option.
            let _ = self.notsent.set(fd);
        }
    }

    fn pause(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        let was_paused = slot.flags.has(SlotFlags::PAUSED);
        slot.flags.set(SlotFlags::PAUSED);
        if !was_paused && slot.flags.has(SlotFlags::HANGUP) {
            self.hung_up.push(token);
        }
    }

    fn resume(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.flags.clear(SlotFlags::PAUSED);
        if slot.flags.has(SlotFlags::READABLE) && !slot.flags.has(SlotFlags::QUEUED) {
            slot.flags.set(SlotFlags::QUEUED);
            self.ready.push_back(token);
        }
    }

    fn shutdown(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase == Phase::Open && !slot.flags.has(SlotFlags::SHUTDOWN) {
            slot.flags.set(SlotFlags::SHUTDOWN);
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

    fn release(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase != Phase::Open {
            return;
        }
        if slot.flags.has(SlotFlags::SHUTDOWN) {
            return self.notices.push(Event::Kept { token });
        }
        slot.phase = Phase::Leaving;
        self.mark_staged(token.index);
    }

    fn take_released(&mut self, token: Token) -> Option<Released> {
        take_released(&mut self.released, token)
    }

    fn adopt(&mut self, socket: OwnedFd, has_fallen_behind: bool) -> Result<Token, OwnedFd> {
        if SockRef::from(&socket).set_nonblocking(true).is_err() {
            return Err(socket);
        }
        let token = self.insert(socket, Phase::Open, INTEREST).map_err(|(socket, _)| socket)?;
        if has_fallen_behind {
            self.notsent.begin(token.index);
        }
        Ok(token)
    }

    fn listen(&mut self, listener: OwnedFd, number: u8) -> io::Result<()> {
        SockRef::from(&listener).set_nonblocking(true)?;
        self.stamps.heed(&listener);
        self.listeners.push(Listener { fd: listener, number, ready: false });
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

    fn is_listening(&self) -> bool {
        !self.listeners.is_empty()
    }

    fn connect(&mut self, address: &RemoteAddress, source: Option<SocketAddr>) -> io::Result<Token> {
        self.dial(address, source)
    }

    fn find_address(&mut self, token: Token) {
        self.unaddressed.push(token);
    }

    fn address(&self, token: Token) -> Option<SocketAddr> {
        self.addresses.of(token)
    }

    fn find_tcp_info(&mut self, token: Token) {
        self.addresses.want_tcp(token);
        self.find_address(token);
    }

    fn tcp_info(&self, token: Token) -> Option<TcpInfo> {
        self.addresses.tcp(token)
    }

    fn generation_at(&self, index: u32) -> Option<u32> {
        self.slots.generation(index)
    }

    fn is_unix(&self, token: Token) -> bool {
        self.addresses.is_unix(token)
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

    fn work(&self) -> DriverWork {
        self.work
    }
}

/// Reports bytes of the region, as part of the previous span where that is adjacent and of the same
/// connection.
fn report_received(token: Token, offset: usize, bytes: usize, events: &mut Vec<Event>) {
    if let Some(Event::Received { token: last, span }) = events.last_mut()
        && *last == token
        && (span.offset + span.bytes) as usize == offset
    {
        span.bytes += bytes as u32;
        return;
    }
    let span = Span { offset: offset as u32, bytes: bytes as u32 };
    events.push(Event::Received { token, span });
}

fn slots_taken() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, "every connection slot is taken")
}

/// The data of a registration: an index, and a generation or `LISTENER` or `WAKER`.
fn data(index: u32, kind: u32) -> u64 {
    u64::from(kind) << 32 | u64::from(index)
}
