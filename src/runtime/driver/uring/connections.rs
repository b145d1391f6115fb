//! The connections of a ring: the meaning of their completions, and their next submissions.
//!
//! All changes of a connection's phase are here and in the two parts. Calls of the owner (here) and [`completions`] only
//! note facts in the slot and *list* the connection. [`submissions`] reads the facts and submits the next operations:
//!
//! ```text
//! Connecting ─ connected ─▶ Open ─ error ─▶ Failed
//!     │                      │                │
//!     │ close, abort         │ close          │ close, abort
//!     │                      ▼                │
//!     │                   Draining            │     until all sends are copied
//!     │                      │                │
//!     └────────────▶ Cancelling ◀─────────────┘     until the kernel has nothing of it under way
//!                            │
//!                         Counting                  if retransmissions are counted, until the kernel has told them
//!                            │
//!                         Ending ─ closed ─▶ Free
//! ```
//!
//! An open connection that its owner [gives up](Connections::release) is *leaving* until the kernel has nothing of it under way. An
//! ordinary descriptor is then made of its socket, and the direct one ends.

mod completions;
mod submissions;

use std::collections::VecDeque;
use std::io;

use io_uring::squeue::Flags;

use super::entries::{Kind, PlainSend};
use super::receive::Receiver;
use super::sends::{Batch, PartialSends};
use super::slots::{NONE, Phase, Receive, Slot, SlotFlags, Slots};
use crate::driver::addresses::Addresses;
use crate::driver::kernel_times::{ARRIVAL_BYTES, KernelTimes};
use crate::driver::notsent::NotsentLowat;
use crate::driver::sockets::message;
use crate::driver::stamps::{Asked, Stamps};
use crate::driver::unsent::Unsent;
use crate::driver::{Event, Features, Released, SendTimes, Source, Span, Token};
use crate::limits::STAMPS_MAX;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{Nanos, RECEIVE_CREDIT_BYTES};

pub(super) use completions::Completion;

/// Everything that the kernel may point into, and the state of all connections.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) slots: Slots,
    pub(super) batch: Batch,
    partial_sends: PartialSends,
    pub(super) receiver: Receiver,
    /// Operations that owe a last completion.
    pub(super) in_flight: u32,
    /// Connections to look at, each once.
    listed: Vec<u32>,
    /// The memory of `listed` while that list is processed, and vice versa.
    spare_list: Vec<u32>,
    /// Connections whose next step waits for this tick's sends.
    late: Vec<u32>,
    /// Connections whose receive found no memory, first in first out.
    parked: VecDeque<Token>,
    /// Times that a receive found no memory.
    pub(super) buffer_stalls: u64,
    /// `Blocked` events; they go in front of the tick's others, so that no reply is staged in vain.
    blocked: Vec<Event>,
    /// `Failed` events; they follow the tick's other events, so that earlier received bytes still count. And
    /// `Addressed` and `HalfClosed` ones, which come as well.
    last: Vec<Event>,
    pub(super) addresses: Addresses,
    pub(super) notsent: NotsentLowat,
    pub(super) stamps: Stamps,
    /// The kernel's times of all connections. Receives have the header beside it then.
    kernel_times: Option<KernelTimes>,
    /// Segments that connections which have ended sent again, if they are counted.
    pub(super) retransmissions: Option<u64>,
    receive_header: Box<libc::msghdr>,
    /// Connections that are given up, and have a descriptor that none but them knows of.
    leaving: Vec<(Token, Released)>,
    /// Connections that the latest tick gave up.
    pub(super) released: Vec<(Token, Released)>,
    /// Options to be set with the next trip to the kernel.
    options: Vec<(Token, SocketOption)>,
    /// User data of the latest receive, and the position of its event.
    run_user_data: u64,
    span_event: usize,
    /// A slot was freed without a close.
    pub(super) freed: bool,
    plain_send: PlainSend,
    /// Flags of fast sends.
    silent: Flags,
    total: Option<u32>,
    install: bool,
    sets_options: bool,
}

/// An option of a connection's socket.
#[derive(Clone, Copy, Debug)]
enum SocketOption {
    /// `TCP_NOTSENT_LOWAT`.
    NotsentLowat,
    /// `SO_TIMESTAMPING`: the times that stamped sends ask for are reported.
    Timestamping,
}

/// Out of line: a connection rarely has further spans in a tick.
#[cold]
#[inline(never)]
fn extend_received(batch: &mut Batch, position: usize, span: Span) -> bool {
    batch.extend(position, Source::Received(span)).is_ok()
}

impl Connections {
    pub(super) fn new(
        slots: Slots,
        receiver: Receiver,
        notsent: NotsentLowat,
        used: Features,
        kernel_times: Option<KernelTimes>,
        retransmissions: Option<u64>,
    ) -> Connections {
        let mut receive_header = Box::new(message(std::ptr::null(), 0));
        receive_header.msg_controllen = ARRIVAL_BYTES as _;
        let silent = if used.has(Features::SKIP_SUCCESS) { Flags::SKIP_SUCCESS } else { Flags::empty() };
        Connections {
            plain_send: PlainSend::new(slots.is_direct(), silent),
            slots,
            batch: Batch::default(),
            partial_sends: PartialSends::default(),
            receiver,
            in_flight: 0,
            listed: Vec::with_capacity(64),
            spare_list: Vec::with_capacity(64),
            late: Vec::new(),
            parked: VecDeque::new(),
            buffer_stalls: 0,
            blocked: Vec::new(),
            last: Vec::new(),
            addresses: Addresses::default(),
            notsent,
            stamps: Stamps::default(),
            kernel_times,
            retransmissions,
            receive_header,
            leaving: Vec::new(),
            released: Vec::new(),
            options: Vec::new(),
            run_user_data: 0,
            span_event: 0,
            freed: false,
            silent,
            total: used.has(Features::RECEIVE_TOTAL).then_some(RECEIVE_CREDIT_BYTES),
            install: used.has(Features::FD_INSTALL),
            sets_options: used.has(Features::SOCKET_OPTIONS),
        }
    }

    // ---- calls of the owner ----

    #[inline]
    pub(super) fn send(&mut self, token: Token, source: Source) -> Result<(), Source> {
        let Some(slot) = self.slots.get(token).filter(|slot| slot.takes_sends()) else { return Err(source) };
        if let Some(position) = self.batch.position(slot.staged) {
            return self.batch.extend(position, source);
        }
        slot.staged = self.batch.next_number();
        self.batch.start(slot.file, Kind::Send.of_token(token), source);
        Ok(())
    }

    #[inline]
    pub(super) fn send_received(&mut self, token: Token, span: Span) -> bool {
        let Some(slot) = self.slots.get(token).filter(|slot| slot.takes_sends()) else { return false };
        if let Some(position) = self.batch.position(slot.staged) {
            return extend_received(&mut self.batch, position, span);
        }
        slot.staged = self.batch.next_number();
        self.batch.start_received(slot.file, Kind::Send.of_token(token), span);
        true
    }

    /// The rest of a partial send.
    pub(super) fn unsent(&self, token: Token) -> Option<&Unsent> {
        let rest = self.slots.peek(token)?.partial_send;
        (rest != NONE).then(|| self.partial_sends.unsent(rest))
    }

    pub(super) fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        self.partial_sends.unsent(self.slots.peek(token)?.fresh_partial_send()?).last_shared()
    }

    pub(super) fn take_back(&mut self, token: Token, bytes: usize) -> bool {
        let fresh = self.slots.peek(token).and_then(Slot::fresh_partial_send);
        fresh.is_some_and(|rest| self.partial_sends.get(rest).unsent.take_back(bytes))
    }

    pub(super) fn set_notsent_lowat(&mut self, token: Token) {
        if self.slots.get(token).is_some() && self.notsent.begin(token.index) && self.sets_options {
            self.options.push((token, SocketOption::NotsentLowat));
        }
    }

    pub(super) fn stamp(&mut self, token: Token) -> bool {
        let Some(slot) = self.slots.get(token) else { return false };
        let Some(position) = self.batch.position(slot.staged) else { return false };
        let is_possible = self.sets_options && !self.notsent.has(token.index);
        if !is_possible || !self.stamps.add(token) {
            return false;
        }
        self.batch.stamp(position, Asked::Acknowledgement);
        // All at once: later stamps and their acknowledgements must not allocate.
        self.options.reserve(STAMPS_MAX.saturating_sub(self.options.len()));
        self.last.reserve(STAMPS_MAX.saturating_sub(self.last.len()));
        self.options.push((token, SocketOption::Timestamping));
        true
    }

    pub(super) fn send_times(&mut self, token: Token, handed_at: Nanos) -> Option<SendTimes> {
        let times = self.kernel_times.as_mut().filter(|_| self.slots.peek(token).is_some())?;
        // SAFETY: with these times sockets are ordinary descriptors, and that of a slot in use is open.
        let socket = unsafe { self.slots.file(token.index).borrow() };
        times.of(token.index, socket, handed_at)
    }

    pub(super) fn pause(&mut self, token: Token) {
        let total = self.total;
        let Some(slot) = self.slots.get(token) else { return };
        slot.flags.set(SlotFlags::PAUSED);
        // With a total the credit runs out by itself.
        if total.is_none() || slot.receive != Receive::Armed {
            self.list(token.index);
        }
    }

    pub(super) fn resume(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.flags.clear(SlotFlags::PAUSED);
        if slot.receive == Receive::Idle {
            self.list(token.index);
        }
    }

    pub(super) fn shutdown(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.flags.set(SlotFlags::SHUTDOWN);
        self.list(token.index);
    }

    pub(super) fn find_address(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.flags.set(SlotFlags::UNADDRESSED);
        self.list(token.index);
    }

    pub(super) fn release(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase != Phase::Open {
            return;
        }
        if slot.flags.has(SlotFlags::SHUTDOWN) {
            return self.last.push(Event::Kept { token });
        }
        slot.phase = Phase::Leaving;
        self.list(token.index);
    }

    /// A connection in `slots` that another driver has given up.
    pub(super) fn adopted(&mut self, token: Token, has_fallen_behind: bool) {
        if has_fallen_behind {
            self.notsent.begin(token.index);
        }
        self.list(token.index);
    }

    pub(super) fn close(&mut self, token: Token) {
        self.forget_leaving(token);
        let Some(slot) = self.slots.get(token) else { return };
        match slot.phase {
            Phase::Open | Phase::Leaving => {
                slot.phase = Phase::Draining;
                if let Some(position) = self.batch.position(slot.staged)
                    && slot.partial_send == NONE
                {
                    self.batch.end_with(position);
                }
            }
            Phase::Connecting | Phase::Failed => return self.abort(token),
            _ => return,
        }
        self.list(token.index);
    }

    pub(super) fn abort(&mut self, token: Token) {
        self.forget_leaving(token);
        let Some(slot) = self.slots.get(token) else { return };
        if slot.phase >= Phase::Cancelling {
            return;
        }
        slot.phase = Phase::Cancelling;
        if let Some(position) = self.batch.position(slot.staged) {
            self.batch.drop_entry(position);
            slot.staged = 0;
        }
        self.list(token.index);
    }

    /// The connection ends here after all. Dropping the descriptor does not end it: the direct one is open.
    fn forget_leaving(&mut self, token: Token) {
        self.leaving.retain(|(leaving, _)| *leaving != token);
    }

    /// Lists the connection at `index`, to be processed before the next trip to the kernel.
    pub(super) fn list(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if !slot.flags.has(SlotFlags::LISTED) {
            slot.flags.set(SlotFlags::LISTED);
            self.listed.push(index);
        }
    }

    // ---- the tick ----

    /// Starts a tick: the received spans of the previous one are over.
    #[inline]
    pub(super) fn begin(&mut self) {
        // No receive has this user data.
        self.run_user_data = 0;
        self.released.clear();
        self.addresses.begin();
    }

    /// The kernel has consumed the batch and its failures have been reaped: forgets it, and returns the `finished`
    /// oldest buffers, which no operation references.
    #[inline]
    pub(super) fn settle(&mut self, pool: &mut Pool, finished: usize) {
        self.batch.clear(pool);
        self.receiver.give_back(finished);
        while let Some(index) = self.late.pop() {
            self.list(index);
        }
    }

    /// Moves the events that have a place of their own into `events`, of which the tick's start at `start`.
    #[inline]
    pub(super) fn place_events(&mut self, start: usize, events: &mut Vec<Event>) {
        if !self.blocked.is_empty() {
            self.place_blocked(start, events);
        }
        if !self.last.is_empty() {
            events.append(&mut self.last);
        }
    }

    /// Reports partial sends, and lists their connections, so that the next tick resumes them.
    #[cold]
    fn place_blocked(&mut self, start: usize, events: &mut Vec<Event>) {
        for at in 0..self.blocked.len() {
            if let Event::Blocked { token, .. } = self.blocked[at] {
                self.list(token.index);
            }
        }
        events.splice(start..start, self.blocked.drain(..));
    }

    /// Whether events wait to be placed.
    pub(super) fn has_events(&self) -> bool {
        !self.blocked.is_empty() || !self.last.is_empty()
    }

    /// A connection failed. Its owner gets one event, unless it has closed the connection.
    fn fail(&mut self, token: Token, error: i32) {
        let slot = self.slots.at(token.index);
        match slot.phase {
            Phase::Connecting | Phase::Open | Phase::Leaving => {
                slot.phase = Phase::Failed;
                self.last.push(Event::Failed { token, error: io::Error::from_raw_os_error(error).kind() });
            }
            Phase::Draining => slot.phase = Phase::Cancelling,
            _ => {}
        }
        self.list(token.index);
    }
}
