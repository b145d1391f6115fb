//! The io_uring driver, which all published figures use.
//!
//! A tick is one `io_uring_enter`: it submits all sends of the tick, at most one per connection, and waits for the next
//! completions. Bytes are received into a ring of provided buffers, and replies are sent from there. It must never free
//! or reuse memory that the kernel may still access, and never make another system call in the steady state.
//!
//! | file | what it knows |
//! |---|---|
//! | `features` | what this kernel can do, by trying |
//! | `ring` | setup, the system call, tear-down |
//! | `entries` | operations, and the user data of their completions |
//! | `receive` | receive memory and who has it |
//! | `sends` | batches, and rests of short sends |
//! | `slots` | the table of connections |
//! | `connections` | a connection's life: what completions mean, what is submitted next |
//! | `listeners`, `dials` | accepting, connecting |

mod connections;
mod dials;
mod entries;
mod features;
mod listeners;
mod receive;
mod ring;
mod sends;
mod slots;
#[cfg(test)]
mod tests;

use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use socket2::SockRef;

use self::connections::{Completion, Connections};
use self::dials::Dials;
use self::entries::{Kind, message, poll};
use self::listeners::Listeners;
use self::receive::Receiver;
use self::ring::Ring;
use self::slots::{Phase, Slots};
use super::kernel_times::KernelTimes;
use super::notsent::NotsentLowat;
use super::unsent::Unsent;
use super::{
    Description, Event, Features, Operations, Options, Released, RemoteAddress, SendTimes, Source, Span,
    TcpInfo, Token, Waker, clock, take_released,
};
use crate::stats::DriverWork;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{Nanos, SECOND};

/// Submission queue entries before an extra trip to the kernel, whose cost is negligible for so many sends; a longer
/// queue costs more in cold memory, because every entry is written and read in turn.
const SUBMISSIONS: u32 = 512;
/// Completion queue entries: a trip brings a few hundred at most, or a flood of accepts as long as the listener's
/// queue. An overflow is survived: the kernel keeps the completions and reports it.
const COMPLETIONS: u32 = 4096;
/// How long tear-down waits for the kernel to release our memory before that memory is leaked.
const TEAR_DOWN_MAX: Nanos = 2 * SECOND;

/// The io_uring driver of one shard. It belongs to the thread that made it.
#[derive(Debug)]
pub struct Uring {
    /// First, so that it is closed before the memory that its operations use is freed.
    ring: Ring,
    connections: Kept<Connections>,
    listeners: Listeners,
    dials: Dials,
    waker: Waker,
    /// Shards to wake with the next trip to the kernel.
    wakes: Vec<Waker>,
    poll_armed: bool,
    used: Features,
    degraded: Features,
    /// A ring is entered by one thread only.
    not_send: PhantomData<*mut ()>,
}

/// The remedy when a ring cannot be set up, as the beginning of a sentence.
pub fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // Before Linux 5.12 the ring itself, and on every kernel what is registered with it, counts as locked memory.
        Some(libc::ENOMEM) => "raise the limit on locked memory (ulimit -l, LimitMEMLOCK=)",
        Some(libc::EMFILE | libc::ENFILE) => "raise the descriptor limit (ulimit -n, LimitNOFILE=)",
        Some(libc::EPERM | libc::EACCES) => {
            "allow io_uring (sysctl kernel.io_uring_disabled=0, a seccomp profile that permits it)"
        }
        Some(libc::ENOSYS) => "run on Linux 6.1 or later with io_uring, or permit it in the seccomp profile",
        _ => "run on Linux 6.1 or later",
    }
}

/// The features of the running kernel's io_uring for this driver, without setting up a shard.
///
/// # Errors
/// As for [`Uring::new`]; [`hint`] has the remedy.
pub fn probe() -> io::Result<Description> {
    let features = features::probe()?;
    Ok(Description { name: "uring", features, degraded: features::KNOWN.less(features) })
}

impl Uring {
    /// A driver for up to `options.connections` connections, to be used on the calling thread only.
    ///
    /// # Errors
    /// `PermissionDenied` if io_uring is denied, `Unsupported` if the kernel is older than 6.1, or the kernel's error
    /// if descriptors or memory are exhausted.
    pub fn new(options: &Options) -> io::Result<Uring> {
        Self::with_queues(options, SUBMISSIONS, COMPLETIONS)
    }

    fn with_queues(options: &Options, submissions: u32, completions: u32) -> io::Result<Uring> {
        let mut used = features::probe()?.less(options.without);
        if options.finds_addresses && !used.has(Features::FD_INSTALL) {
            // A direct descriptor that cannot be installed has no name to look up.
            used = used.less(Features::DIRECT);
        }
        let kernel_times = KernelTimes::new(options.stamps_every, options.connections);
        if kernel_times.is_some() {
            // Error queues are read by ordinary system calls. A receive with control messages has no total, and fails where less is left
            // of a buffer than these need.
            let others = Features::INCREMENTAL.with(Features::RECEIVE_TOTAL).with(Features::DIRECT);
            used = used.less(others);
        }
        let mut ring = Ring::new(&mut used, submissions, completions)?;
        let direct = used.has(Features::DIRECT);
        if direct {
            ring.inner().submitter().register_files_sparse(options.connections).map_err(
                |error| match error.raw_os_error() {
                    Some(libc::EMFILE) => io::Error::new(
                        error.kind(),
                        "more connections than the descriptor limit allows in one ring",
                    ),
                    _ => error,
                },
            )?;
        }
        let is_counted = options.counts_retransmissions && (!direct || used.has(Features::FD_INSTALL));
        let incremental = used.has(Features::INCREMENTAL);
        // SAFETY: `Kept` frees the receiver behind the ring's last operation, or never.
        let receiver = unsafe { Receiver::new(ring.inner(), options.receive_bytes, incremental)? };
        ring.enable(&mut used)?;
        let waker = Waker::eventfd(Some(ring.duplicate()?))?;
        let connections = Connections::new(
            Slots::new(options.connections, direct),
            receiver,
            NotsentLowat::new(options.notsent_lowat),
            used,
            kernel_times,
            is_counted.then_some(0),
        );
        Ok(Uring {
            ring,
            connections: Kept { value: ManuallyDrop::new(connections), leak: false },
            listeners: Listeners::new(direct),
            dials: Dials::new(options.connections, direct),
            waker,
            wakes: Vec::new(),
            poll_armed: false,
            used,
            degraded: features::KNOWN.less(used),
            not_send: PhantomData,
        })
    }

    /// Queues everything except the sends of this tick's batch.
    #[inline]
    fn fill(&mut self, pool: &mut Pool) -> io::Result<()> {
        // Under load most ticks have nothing but sends.
        let idle = self.poll_armed
            && !self.connections.has_others()
            && self.dials.staged.is_empty()
            && !self.listeners.is_due();
        if idle { Ok(()) } else { self.fill_any(pool) }
    }

    #[inline(never)]
    fn fill_any(&mut self, pool: &mut Pool) -> io::Result<()> {
        self.connections.fill_others(&mut self.ring, pool)?;
        if std::mem::take(&mut self.connections.freed) {
            self.listeners.room_changed();
        }
        self.dials.fill(&mut self.connections, &mut self.ring)?;
        self.listeners.fill(&mut self.connections, &mut self.ring)?;
        if !self.poll_armed {
            self.poll_armed = true;
            let eventfd = self.waker.descriptor().expect("this waker was made with an eventfd");
            self.connections.in_flight += 1;
            // SAFETY: a poll names no memory, and the waker keeps the eventfd open.
            unsafe { self.ring.push(&poll(eventfd).user_data(Kind::WakePoll.numbered(0)))? };
        }
        Ok(())
    }

    fn fill_wakes(&mut self) -> io::Result<()> {
        for (position, other) in self.wakes.iter().enumerate() {
            let Some(ring) = other.ring() else { continue };
            let entry = message(ring, Kind::WakeMessage.numbered(0));
            // SAFETY: a message names no memory, and `wakes` keeps the other ring open until it has been consumed.
            unsafe { self.ring.push(&entry.user_data(Kind::WakeSent.numbered(position as u32)))? };
        }
        Ok(())
    }

    /// Takes all completions that have arrived, and those that did not fit.
    fn reap(&mut self, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()> {
        let mut woken = false;
        loop {
            let Uring { connections, ring, .. } = self;
            let connections: &mut Connections = connections;
            let mut queue = ring.completions();
            let arrived = queue.len();
            let mut other = None;
            for entry in &mut queue {
                let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
                // Nearly every completion is one; the loop around them has to be a short one.
                if Kind::is_receive(user_data) {
                    connections.received(user_data, result, flags, events);
                } else {
                    other = Some(Completion { user_data, result, flags });
                    break;
                }
            }
            // All of them, unless the loop was left.
            let remaining = if other.is_some() { queue.len() } else { 0 };
            drop(queue);
            ring.work.completions += (arrived - remaining) as u64;
            if let Some(completion) = other {
                woken |= self.reap_other(completion, pool, events);
            } else if !self.ring.fetch_overflow()? {
                break;
            }
        }
        if woken {
            events.push(Event::Woken);
        }
        Ok(())
    }

    /// Handles a completion other than a receive's. Returns whether a waker was used.
    #[inline(never)]
    fn reap_other(&mut self, completion: Completion, pool: &mut Pool, events: &mut Vec<Event>) -> bool {
        let connections = &mut *self.connections;
        match Kind::of(completion.user_data) {
            Kind::Send => connections.send_ended(completion, pool),
            Kind::PartialSend => connections.partial_send_ended(completion, pool, events),
            kind @ (Kind::AcceptMany | Kind::AcceptOne) => {
                self.listeners.accepted(kind, completion, connections, events);
            }
            Kind::AcceptCancel => self.listeners.cancelled(completion, connections),
            Kind::Connect => connections.connected(completion, events),
            kind @ (Kind::CancelReceive
            | Kind::CancelPartialSend
            | Kind::CancelConnect
            | Kind::CancelEndPoll) => {
                connections.cancelled(completion, kind);
            }
            Kind::EndPoll => connections.end_polled(completion),
            Kind::Look => connections.looked(completion),
            Kind::Install => connections.installed(completion),
            Kind::InstallToLook => connections.installed_to_look(completion),
            Kind::InstallToLeave => connections.installed_to_leave(completion),
            Kind::Shutdown => connections.step_ended(completion),
            Kind::Close => {
                if let Some(file) = connections.closed(completion, events) {
                    self.dials.closed(file);
                    self.listeners.room_changed();
                }
            }
            Kind::WakePoll => {
                if !completion.more() {
                    connections.operation_ended();
                    self.poll_armed = false;
                }
                return true;
            }
            Kind::WakeMessage => return true,
            Kind::WakeSent => {
                // The other ring has ended or refuses; if a thread still waits there, the eventfd reaches it.
                if let Some(other) = self.wakes.get(completion.user_data as u32 as usize) {
                    other.wake();
                }
            }
            Kind::CloseOrphan => connections.operation_ended(),
            // Receives do not come here, and options may be refused.
            Kind::Receive | Kind::SetOption | Kind::Ignored => {}
        }
        false
    }
}

impl Operations for Uring {
    fn now(&self) -> Nanos {
        clock::now()
    }

    fn tick(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        let start = events.len();
        self.connections.begin();
        // Buffers finished by earlier ticks. Nobody may look at their bytes any more, but staged sends still
        // point into them.
        let mut finished = self.connections.receiver.finished();
        if self.connections.batch.len() == 0 {
            self.connections.receiver.give_back(finished);
            finished = 0;
        }
        self.connections.fill_sends(&mut self.ring)?;
        self.fill(pool)?;
        self.fill_wakes()?;
        if self.connections.waits_for_sends() {
            // A close or a half-close behind a send, or a receive that found no memory: the sends go first.
            self.ring.submit()?;
            self.dials.consumed();
            self.reap(pool, events)?;
            self.connections.settle(pool, finished);
            finished = 0;
            self.fill(pool)?;
        }
        let pending = events.len() > start || self.connections.has_events();
        let deadline = if pending { Some(0) } else { earlier(deadline, self.listeners.again_at()) };
        self.ring.submit_and_wait(deadline)?;
        self.dials.consumed();
        self.reap(pool, events)?;
        self.wakes.clear();
        self.connections.settle(pool, finished);
        self.connections.place_events(start, events);
        Ok(())
    }

    #[inline]
    fn received(&mut self, run: Span) -> &mut [u8] {
        self.connections.receiver.slice_mut(run)
    }

    #[inline]
    fn send(&mut self, token: Token, source: Source) -> Result<(), Source> {
        self.connections.send(token, source)
    }

    #[inline]
    fn send_received(&mut self, token: Token, run: Span) -> bool {
        self.connections.send_received(token, run)
    }

    fn unsent_bytes(&self, token: Token) -> usize {
        self.connections.unsent(token).map_or(0, Unsent::bytes)
    }

    fn held_bytes(&self, token: Token) -> usize {
        self.connections.unsent(token).map_or(0, Unsent::held_bytes)
    }

    fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        self.connections.unsent_shared(token)
    }

    fn take_back(&mut self, token: Token, bytes: usize) -> bool {
        self.connections.take_back(token, bytes)
    }

    fn stamp(&mut self, token: Token) -> bool {
        self.connections.stamp(token)
    }

    fn send_times(&mut self, token: Token, handed_at: Nanos) -> Option<SendTimes> {
        self.connections.send_times(token, handed_at)
    }

    fn set_notsent_lowat(&mut self, token: Token) {
        self.connections.set_notsent_lowat(token);
    }

    fn pause(&mut self, token: Token) {
        self.connections.pause(token);
    }

    fn resume(&mut self, token: Token) {
        self.connections.resume(token);
    }

    fn shutdown(&mut self, token: Token) {
        self.connections.shutdown(token);
    }

    fn close(&mut self, token: Token) {
        self.connections.close(token);
    }

    fn abort(&mut self, token: Token) {
        self.connections.abort(token);
    }

    fn release(&mut self, token: Token) {
        self.connections.release(token);
    }

    fn take_released(&mut self, token: Token) -> Option<Released> {
        take_released(&mut self.connections.released, token)
    }

    fn adopt(&mut self, socket: OwnedFd, has_fallen_behind: bool) -> Result<Token, OwnedFd> {
        // An operation on a socket that does not block would not wait.
        let is_usable = SockRef::from(&socket).set_nonblocking(false).is_ok();
        if !is_usable || self.connections.slots.room() <= self.listeners.claims() {
            return Err(socket);
        }
        let listening = self.listeners.is_listening();
        let token = self.dials.adopt(socket, listening, &mut self.connections.slots, &self.ring)?;
        self.connections.adopted(token, has_fallen_behind);
        Ok(token)
    }

    fn listen(&mut self, listener: OwnedFd, number: u8) -> io::Result<()> {
        self.dials.protect(&self.ring)?;
        self.connections.stamps.heed(&listener);
        if !self.used.has(Features::SOCKET_OPTIONS) {
            // Nothing can set it later. A Unix socket has no such option.
            let _ = self.connections.notsent.set(&listener);
        }
        self.listeners.add(listener, number);
        Ok(())
    }

    fn stop_listening(&mut self) {
        self.listeners.stop();
    }

    fn is_listening(&self) -> bool {
        self.listeners.is_listening()
    }

    fn connect(&mut self, address: &RemoteAddress, source: Option<SocketAddr>) -> io::Result<Token> {
        if self.connections.slots.room() <= self.listeners.claims() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "every connection slot is taken"));
        }
        let listening = self.listeners.is_listening();
        self.dials.connect(address, source, listening, &mut self.connections, &self.ring)
    }

    fn find_address(&mut self, token: Token) {
        self.connections.find_address(token);
    }

    fn address(&self, token: Token) -> Option<SocketAddr> {
        self.connections.addresses.of(token)
    }

    fn find_tcp_info(&mut self, token: Token) {
        self.connections.addresses.want_tcp(token);
        self.find_address(token);
    }

    fn tcp_info(&self, token: Token) -> Option<TcpInfo> {
        self.connections.addresses.tcp(token)
    }

    fn generation_at(&self, index: u32) -> Option<u32> {
        self.connections.slots.generation(index)
    }

    fn is_unix(&self, token: Token) -> bool {
        self.connections.addresses.is_unix(token)
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, other: &Waker) {
        if other.ring().is_some() {
            self.wakes.push(other.clone());
        } else {
            other.wake();
        }
    }

    fn describe(&self) -> Description {
        Description { name: "uring", features: self.used, degraded: self.degraded }
    }

    fn work(&self) -> DriverWork {
        let Connections { buffer_stalls, retransmissions, .. } = *self.connections;
        DriverWork { buffer_stalls, retransmissions, ..self.ring.work }
    }
}

impl Drop for Uring {
    /// Ends every operation and waits for its completion before any memory is freed. The kernel tears a ring down
    /// asynchronously, so closing it is not enough.
    fn drop(&mut self) {
        let give_up_at = clock::now() + TEAR_DOWN_MAX;
        self.ring.cancel_everything();
        while self.connections.in_flight > 0 && clock::now() < give_up_at {
            // Runs the kernel's deferred work, without waiting.
            let _ = self.ring.enter(0, 0, None);
            let connections = &mut *self.connections;
            for entry in self.ring.completions() {
                let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
                let (kind, completion) = (Kind::of(user_data), Completion { user_data, result, flags });
                let made_descriptor = match kind {
                    Kind::Install | Kind::InstallToLook | Kind::InstallToLeave => true,
                    Kind::AcceptMany | Kind::AcceptOne => !connections.slots.is_direct(),
                    _ => false,
                };
                if made_descriptor {
                    // SAFETY: such an operation makes an ordinary descriptor, and nobody hears of it any more.
                    drop(unsafe { completion.descriptor() });
                }
                if kind == Kind::Close && result >= 0 {
                    connections.forget_closed(completion);
                }
                let counted = !matches!(
                    kind,
                    Kind::Send | Kind::WakeMessage | Kind::WakeSent | Kind::SetOption | Kind::Ignored
                );
                if counted && !completion.more() {
                    connections.in_flight = connections.in_flight.saturating_sub(1);
                }
            }
        }
        self.connections.leak = self.connections.in_flight > 0;
        if self.connections.slots.is_direct() {
            // Peers see the end now and not when the kernel gets to it. (With something still under way,
            // older kernels would wait here.)
            if !self.connections.leak {
                self.ring.release_files();
            }
        } else {
            let leak = self.connections.leak;
            let open = self.connections.slots.iter().filter(|slot| !leak || slot.phase != Phase::Ending);
            for slot in open {
                // SAFETY: a slot in use owns its ordinary descriptor. The ring has closed those whose close it has
                // reported, and may yet close those whose close it has not.
                drop(unsafe { OwnedFd::from_raw_fd(slot.file as RawFd) });
            }
        }
    }
}

fn earlier(one: Option<Nanos>, other: Option<Nanos>) -> Option<Nanos> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A value that is leaked if the kernel may still use it.
#[derive(Debug)]
struct Kept<T> {
    value: ManuallyDrop<T>,
    leak: bool,
}

impl<T> std::ops::Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> std::ops::DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if !self.leak {
            // SAFETY: this is the value's only drop, and nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
