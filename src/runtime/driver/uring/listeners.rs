//! Listening sockets and the accepts armed on them.
//!
//! While there is plenty of room one multishot accept takes all connections. It cannot be slowed down, and a kernel
//! whose table of direct descriptors is full closes the client; so when room gets scarce it is replaced by single
//! accepts, never more of them than there are free slots.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::connections::{Completion, Connections};
use super::entries::{File, Kind, accept};
use super::ring::Ring;
use super::slots::Phase;
use crate::driver::{Event, clock};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// Free slots below which connections are taken one by one: the longest queue that Linux keeps by default,
/// all of which a multishot accept may bring at once.
const SCARCE: u32 = 4096;
/// Single accepts armed at once on a listener.
const SINGLE_MAX: u32 = 16;
/// Pause after the kernel had no descriptor or memory for a connection.
const RETRY: Nanos = 100 * MILLISECOND;
/// When the accepts of a new listener are armed again. For each connection the kernel wakes one of the rings that accept from the socket.
/// That may be the ring of a process or a shard that has just ended, which the kernel takes down a little later: the connection then waits
/// for a ring that looks at the socket.
const LOOKS: [Nanos; 3] = [100 * MILLISECOND, SECOND, 10 * SECOND];

#[derive(Debug, Default)]
struct Listener {
    fd: Option<OwnedFd>,
    number: u8,
    stopping: bool,
    many: bool,
    single: u32,
    cancelling: bool,
    retry_at: Option<Nanos>,
    added_at: Nanos,
    /// How many of [`LOOKS`] are over.
    looks: usize,
    /// The latest accept failed, and the owner knows.
    failing: bool,
}

impl Listener {
    /// It is closed, and no later completion names it.
    fn is_over(&self) -> bool {
        self.fd.is_none() && !self.many && self.single == 0 && !self.cancelling
    }

    fn is_armed(&self) -> bool {
        self.many || self.single > 0
    }

    /// When its accepts are armed again, although none has ended.
    fn looks_at(&self) -> Option<Nanos> {
        let delay = LOOKS.get(self.looks).filter(|_| self.fd.is_some())?;
        Some(self.added_at + delay)
    }

    /// Whether its accepts are to be armed again now.
    fn takes_a_look(&mut self) -> bool {
        let is_due = self.looks_at().is_some_and(|at| at <= clock::now());
        self.looks += usize::from(is_due);
        is_due
    }
}

/// All listening sockets of a driver.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    list: Vec<Listener>,
    /// Something changed that may lead to submissions.
    listed: bool,
    /// When accepts are armed again: of a listener whose accept has failed, or of a new one.
    again_at: Option<Nanos>,
    /// Connections for which there was no slot.
    orphans: Vec<u32>,
    direct: bool,
}

impl Listeners {
    pub(super) fn new(direct: bool) -> Listeners {
        Listeners { direct, ..Listeners::default() }
    }

    pub(super) fn add(&mut self, fd: OwnedFd, number: u8) {
        self.listed = true;
        let listener = Listener { fd: Some(fd), number, added_at: clock::now(), ..Listener::default() };
        match self.list.iter_mut().find(|listener| listener.is_over()) {
            Some(over) => *over = listener,
            None => self.list.push(listener),
        }
    }

    pub(super) fn stop(&mut self) {
        self.list.iter_mut().for_each(|listener| listener.stopping = true);
        self.listed = true;
    }

    /// Whether connections may be accepted now or later.
    pub(super) fn is_listening(&self) -> bool {
        self.list.iter().any(|listener| !listener.stopping || listener.is_armed())
    }

    /// Slots that armed accepts may take.
    pub(super) fn claims(&self) -> u32 {
        self.list.iter().map(|listener| listener.single).sum()
    }

    /// A slot became free.
    pub(super) fn room_changed(&mut self) {
        self.listed |= !self.list.is_empty();
    }

    /// When accepts are armed again. Asked in every tick.
    #[inline]
    pub(super) fn again_at(&self) -> Option<Nanos> {
        self.again_at
    }

    /// Whether something may follow from the present room and wishes.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.listed || self.again_at.is_some_and(|at| at <= clock::now())
    }

    /// Queues the operations that follow from the present room and requests.
    pub(super) fn fill(&mut self, connections: &mut Connections, ring: &mut Ring) -> io::Result<()> {
        if !self.is_due() {
            return Ok(());
        }
        self.listed = false;
        for number in self.orphans.drain(..) {
            let entry = File { number, direct: self.direct }.close().user_data(Kind::CloseOrphan.numbered(0));
            push(connections, ring, &entry)?;
        }
        let claimed = self.claims();
        let mut room = connections.slots.room().saturating_sub(claimed);
        for (id, listener) in self.list.iter_mut().enumerate() {
            let ends = listener.takes_a_look() || listener.stopping;
            let Some(fd) = listener.fd.as_ref().map(AsFd::as_fd) else { continue };
            let id = id as u32;
            // Apart, so that a node at the border does not change its mind with every connection.
            let plenty = room >= if listener.many { SCARCE } else { 2 * SCARCE };
            let unwanted = if plenty { listener.single > 0 } else { listener.many };
            if unwanted || (ends && listener.is_armed()) {
                if !listener.cancelling {
                    listener.cancelling = true;
                    let entry = File::descriptor(fd).cancel_all();
                    push(connections, ring, &entry.user_data(Kind::AcceptCancel.numbered(id)))?;
                }
                continue;
            }
            if listener.stopping {
                listener.fd = None;
                listener.retry_at = None;
                continue;
            }
            if listener.many || listener.retry_at.is_some_and(|at| at > clock::now()) {
                continue;
            }
            listener.retry_at = None;
            if plenty {
                listener.many = true;
                let entry = accept(fd, true, self.direct);
                push(connections, ring, &entry.user_data(Kind::AcceptMany.numbered(id)))?;
                continue;
            }
            while room > 0 && listener.single < SINGLE_MAX {
                listener.single += 1;
                room -= 1;
                let entry = accept(fd, false, self.direct);
                push(connections, ring, &entry.user_data(Kind::AcceptOne.numbered(id)))?;
            }
        }
        let times = self.list.iter().flat_map(|listener| [listener.retry_at, listener.looks_at()]);
        self.again_at = times.flatten().min();
        Ok(())
    }

    /// An accept brought a connection, or ended, or both.
    pub(super) fn accepted(
        &mut self,
        kind: Kind,
        completion: Completion,
        connections: &mut Connections,
        events: &mut Vec<Event>,
    ) {
        let listener = &mut self.list[completion.user_data as u32 as usize];
        if !completion.more() {
            connections.operation_ended();
            self.listed = true;
            match kind {
                Kind::AcceptMany => listener.many = false,
                _ => listener.single -= 1,
            }
        }
        if completion.result >= 0 {
            listener.failing = false;
            let file = completion.result as u32;
            // Also while it stops: the kernel has completed the client's connection.
            match connections.slots.take(file, Phase::Open) {
                Some(token) => {
                    events.push(Event::Accepted { token, listener: listener.number });
                    connections.list(token.index);
                    self.listed |= listener.many && connections.slots.room() < SCARCE;
                }
                None => {
                    self.orphans.push(file);
                    self.listed = true;
                }
            }
            return;
        }
        match -completion.result {
            // Cancelled, or the client gave up first: nothing that the owner could mend.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ECONNABORTED | libc::EPROTO => {}
            errno => {
                let at = clock::now() + RETRY;
                listener.retry_at = Some(at);
                self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
                if !listener.failing {
                    listener.failing = true;
                    events.push(Event::AcceptFailed { errno });
                }
            }
        }
    }

    /// A cancellation of accepts is over.
    pub(super) fn cancelled(&mut self, completion: Completion, connections: &mut Connections) {
        connections.operation_ended();
        self.listed = true;
        self.list[completion.user_data as u32 as usize].cancelling = false;
    }
}

fn push(connections: &mut Connections, ring: &mut Ring, entry: &io_uring::squeue::Entry) -> io::Result<()> {
    connections.in_flight += 1;
    // SAFETY: accepts, cancellations and closes name no memory. A listener is open until its accepts are over, and an
    // orphan belongs to nobody else.
    unsafe { ring.push(entry) }
}
