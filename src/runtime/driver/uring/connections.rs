//! The connections of a ring: what their completions mean, and what they submit next.
//!
//! All changes of a connection's phase are here. Calls of the owner and completions only note facts in the slot
//! and *list* the connection; [`Connections::advance`] looks at the facts and submits what follows from them:
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
//!                         Ending ─ closed ─▶ Free
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use io_uring::squeue::Flags;
use io_uring::{SubmissionQueue, cqueue};

use super::entries::{File, Kind, PlainSend, cancel, token_of};
use super::receive::{GROUP, Receiver};
use super::ring::Ring;
use super::sends::{Batch, PartialSends, Staged};
use super::slots::{NONE, Phase, Receive, Slot, SlotFlags, Slots};
use crate::driver::addresses::{Addresses, PeerAddress, peer_of};
use crate::driver::sockets::shutdown_write;
use crate::driver::unsent::Unsent;
use crate::driver::{Event, Features, Source, Span, Token};
use crate::limits::RECEIVE_BYTES_MAX;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::RECEIVE_CREDIT_BYTES;

/// Queues the entries at the front that are stretches of receive memory, as long as there is room: a loop of its own, for
/// nearly every message of an echo goes through it. Returns the other entries.
#[inline(never)]
fn push_received<'a>(
    queue: &mut SubmissionQueue<'_>,
    mut entries: std::slice::Iter<'a, Staged>,
    receiver: &Receiver,
    plain_send: PlainSend,
) -> std::slice::Iter<'a, Staged> {
    while !queue.is_full()
        && let Some(staged) = entries.as_slice().first()
        && let Some(span) = staged.span()
    {
        entries.next();
        let entry = plain_send.entry(staged.file, receiver.address(span), span.bytes, staged.user_data);
        // SAFETY: the bytes stay until `settle`, which comes after the entry has been consumed, and with it
        // copied or refused: spans are recycled only there. Nothing is refused, since there is room.
        let _ = unsafe { queue.push(&entry) };
    }
    entries
}

/// A completion, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Completion {
    /// Whether the operation goes on.
    #[inline]
    pub(super) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The ordinary descriptor that the operation made, if it succeeded.
    ///
    /// # Safety
    /// The operation must be one that makes an ordinary descriptor, and nobody else may take the descriptor.
    pub(super) unsafe fn descriptor(self) -> Option<OwnedFd> {
        // SAFETY: the kernel made this descriptor for the driver, and the caller takes it once.
        (self.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(self.result) })
    }
}

/// Flags of a completion that brought bytes into a buffer (`IORING_CQE_F_BUFFER`), of an operation
/// (`IORING_CQE_F_MORE`) and with a buffer (`IORING_CQE_F_BUF_MORE`) that go on.
const GOES_ON: u32 = 1 | 1 << 1 | 1 << 4;
/// Place of the buffer's number in a completion's flags.
const BUFFER_SHIFT: u32 = 16;

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
    /// The memory of `listed` while that is gone through, and the other way round.
    spare_list: Vec<u32>,
    /// Connections whose next step waits for this tick's sends.
    late: Vec<u32>,
    /// Connections whose receive found no memory, first in first out.
    parked: VecDeque<Token>,
    /// Times that a receive found no memory.
    pub(super) buffer_stalls: u64,
    /// `Blocked` events; they go in front of the tick's others, so that no reply is staged in vain.
    blocked: Vec<Event>,
    /// `Failed` events; they go behind the tick's others, so that what was received before still counts. And
    /// `Addressed` and `HalfClosed` ones, which come as well.
    last: Vec<Event>,
    pub(super) addresses: Addresses,
    /// User data of the latest receive, and the position of its event.
    run_user_data: u64,
    span_event: usize,
    plain_send: PlainSend,
    /// Flags of fast sends.
    silent: Flags,
    total: Option<u32>,
    install: bool,
}

/// Out of line, so that the usual path keeps its registers.
#[cold]
#[inline(never)]
fn grow(events: &mut Vec<Event>) {
    events.reserve(64);
}

/// Out of line: a connection's further runs of a tick are rare.
#[cold]
#[inline(never)]
fn extend_received(batch: &mut Batch, position: usize, span: Span) -> bool {
    batch.extend(position, Source::Received(span)).is_ok()
}

impl Connections {
    pub(super) fn new(slots: Slots, receiver: Receiver, used: Features) -> Connections {
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
            run_user_data: 0,
            span_event: 0,
            silent,
            total: used.has(Features::RECEIVE_TOTAL).then_some(RECEIVE_CREDIT_BYTES),
            install: used.has(Features::FD_INSTALL),
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

    pub(super) fn unsent_bytes(&self, token: Token) -> usize {
        self.unsent(token).map_or(0, Unsent::bytes)
    }

    pub(super) fn held_bytes(&self, token: Token) -> usize {
        self.unsent(token).map_or(0, Unsent::held_bytes)
    }

    fn unsent(&self, token: Token) -> Option<&Unsent> {
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

    pub(super) fn close(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        match slot.phase {
            Phase::Open => {
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

    /// Has the connection at `index` looked at before the next trip to the kernel.
    pub(super) fn list(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if !slot.flags.has(SlotFlags::LISTED) {
            slot.flags.set(SlotFlags::LISTED);
            self.listed.push(index);
        }
    }

    // ---- submissions ----

    /// Starts a tick: the runs of the previous one are over.
    #[inline]
    pub(super) fn begin(&mut self) {
        // No receive is named so.
        self.run_user_data = 0;
        self.addresses.begin();
    }

    /// Queues the staged sends, one operation for each connection.
    pub(super) fn fill_sends(&mut self, ring: &mut Ring) -> io::Result<()> {
        let Connections { batch, receiver, plain_send, silent, .. } = self;
        let direct = self.slots.is_direct();
        let (mut entries, mut messages) = batch.entries();
        let mut fill = |queue: &mut SubmissionQueue<'_>| loop {
            entries = push_received(queue, entries.clone(), receiver, *plain_send);
            // Here is one of another kind, unless all are queued or there is no room.
            while let Some(staged) = entries.as_slice().first().filter(|staged| staged.span().is_none()) {
                if queue.is_full() {
                    return false;
                }
                entries.next();
                let (number, user_data, more) = (staged.file, staged.user_data, staged.flags());
                let address = |span| receiver.address(span);
                let entry = if let Some((piece, bytes)) = messages.single(staged, address) {
                    plain_send.entry_with(number, piece, bytes, user_data, more)
                } else if staged.is_dropped() {
                    continue;
                } else {
                    let message = messages.message(staged, address);
                    File { number, direct }.send_message(message, more, *silent).user_data(user_data)
                };
                // SAFETY: as in `push_received`; the vectors of a message stay until the batch is cleared in `settle`.
                let _ = unsafe { queue.push(&entry) };
            }
            if entries.as_slice().is_empty() {
                return true;
            }
            if queue.is_full() {
                return false;
            }
        };
        while !ring.fill_queue(&mut fill) {
            ring.submit()?;
        }
        Ok(())
    }

    /// Whether facts were noted that something follows from.
    #[inline]
    pub(super) fn has_others(&self) -> bool {
        !self.listed.is_empty() || !self.parked.is_empty()
    }

    /// Queues what follows from the facts noted since the last time.
    pub(super) fn fill_others(&mut self, ring: &mut Ring, pool: &mut Pool) -> io::Result<()> {
        if !self.has_others() {
            return Ok(());
        }
        // Those that found no memory go first: behind connections whose credit was just spent they would find
        // none again, for ever.
        let others = self.listed.len();
        self.unpark();
        self.listed.rotate_left(others);
        let mut listed = std::mem::replace(&mut self.listed, std::mem::take(&mut self.spare_list));
        for &index in &listed {
            self.slots.at(index).flags.clear(SlotFlags::LISTED);
            self.advance(index, ring, pool)?;
        }
        listed.clear();
        self.spare_list = listed;
        Ok(())
    }

    /// Whether a step waits for this tick's sends, or a receive for the memory that they use.
    pub(super) fn waits_for_sends(&self) -> bool {
        !self.late.is_empty() || (!self.parked.is_empty() && self.receiver.finished() > 0)
    }

    /// The one place where a connection's state leads to submissions.
    fn advance(&mut self, index: u32, ring: &mut Ring, pool: &mut Pool) -> io::Result<()> {
        let slot = self.slots.at(index);
        match slot.phase {
            Phase::Free | Phase::Connecting | Phase::Ending => Ok(()),
            Phase::Open => {
                self.resume_partial_send(index, ring)?;
                self.arm_or_stop(index, ring)?;
                self.look_for_address(index, ring)?;
                self.half_close(index, ring)
            }
            Phase::Failed => {
                self.drop_partial_send(index, pool);
                Ok(())
            }
            Phase::Draining if self.batch.position(slot.staged).is_some() => {
                self.late.push(index);
                Ok(())
            }
            Phase::Draining if slot.partial_send != NONE => self.resume_partial_send(index, ring),
            Phase::Draining | Phase::Cancelling => {
                slot.phase = Phase::Cancelling;
                self.drop_partial_send(index, pool);
                self.end(index, ring)
            }
        }
    }

    fn push(&mut self, ring: &mut Ring, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        self.in_flight += 1;
        // SAFETY: entries that come here name either no memory of their own (receives write into buffers that the
        // receiver keeps until the ring is gone), or a rest, whose pieces and their vectors stay where they are until its
        // completion. They name sockets of slots in use, which only the slot's own close closes.
        unsafe { ring.push(entry) }
    }

    fn resume_partial_send(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if slot.partial_send == NONE || slot.flags.has(SlotFlags::PARTIAL_SEND_ARMED) {
            return Ok(());
        }
        // Events of short sends are only held between a tick's first sends and its end, and a fresh rest is then one
        // of theirs: its owner may still take back some of it.
        if slot.flags.has(SlotFlags::FRESH) && !self.blocked.is_empty() {
            return Ok(());
        }
        slot.flags.clear(SlotFlags::FRESH);
        slot.flags.set(SlotFlags::PARTIAL_SEND_ARMED);
        let next = self.partial_sends.get(slot.partial_send).next();
        self.push(ring, &file.send_when_possible(next).user_data(Kind::PartialSend.of_token(token)))
    }

    /// Gives up what is left of a short send, unless the kernel has it.
    fn drop_partial_send(&mut self, index: u32, pool: &mut Pool) {
        let slot = self.slots.at(index);
        if slot.partial_send != NONE && !slot.flags.has(SlotFlags::PARTIAL_SEND_ARMED) {
            self.partial_sends.take(slot.partial_send).unsent.clear(pool);
            slot.partial_send = NONE;
        }
    }

    fn arm_or_stop(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let total = self.total;
        let slot = self.slots.at(index);
        let paused = slot.flags.has(SlotFlags::PAUSED);
        if slot.receive == Receive::Idle && !paused {
            slot.receive = Receive::Armed;
            let cap = total.unwrap_or(RECEIVE_BYTES_MAX);
            let entry = file.receive(GROUP, cap, total);
            return self.push(ring, &entry.user_data(Kind::Receive.of_token(token)));
        }
        let cancelling = SlotFlags::CANCEL_ARMED.with(SlotFlags::CANCEL_FOUND);
        if slot.receive == Receive::Armed && paused && total.is_none() && !slot.flags.has(cancelling) {
            // Not by descriptor: that could hit a rest that is waiting for room. By user data a
            // cancellation can miss; its completion then lists the connection again.
            slot.flags.set(SlotFlags::CANCEL_ARMED);
            let entry = cancel(Kind::Receive.of_token(token));
            return self.push(ring, &entry.user_data(Kind::CancelReceive.of_token(token)));
        }
        if paused && matches!(slot.receive, Receive::Idle | Receive::Over) {
            return self.watch_end(index, ring);
        }
        Ok(())
    }

    /// While nothing is received, a poll tells of the peer's end. It stays armed from the first time on: without an end
    /// the kernel has nothing to do for it.
    fn watch_end(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if slot.flags.has(SlotFlags::BROKEN) {
            self.fail(token, libc::ECONNRESET);
        } else if !slot.flags.has(SlotFlags::END_POLLED.with(SlotFlags::SHUTDOWN)) {
            slot.flags.set(SlotFlags::END_POLLED);
            return self.push(ring, &file.poll_end().user_data(Kind::EndPoll.of_token(token)));
        }
        Ok(())
    }

    /// A direct descriptor has no name for `getpeername`, so that an ordinary one is made for the look.
    fn look_for_address(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if !slot.flags.has(SlotFlags::UNADDRESSED) || slot.flags.has(SlotFlags::BUSY) {
            return Ok(());
        }
        slot.flags.clear(SlotFlags::UNADDRESSED);
        if file.direct && self.install {
            slot.flags.set(SlotFlags::BUSY);
            return self.push(ring, &file.install().user_data(Kind::InstallToLook.of_token(token)));
        }
        let address = (!file.direct).then(|| {
            // SAFETY: the slot's socket is open as long as the slot is in use.
            let socket = unsafe { file.borrow() };
            peer_of(&socket)
        });
        self.addresses.keep(token, address.unwrap_or(PeerAddress::Unknown));
        self.last.push(Event::Addressed { token });
        Ok(())
    }

    fn half_close(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if !slot.flags.has(SlotFlags::SHUTDOWN)
            || slot.flags.has(SlotFlags::SHUT.with(SlotFlags::BUSY))
            || slot.partial_send != NONE
        {
            return Ok(());
        }
        if self.batch.position(slot.staged).is_some() {
            self.late.push(index);
            return Ok(());
        }
        slot.flags.set(SlotFlags::SHUT);
        if !file.direct {
            // SAFETY: the slot's socket is open as long as the slot is in use.
            shutdown_write(unsafe { file.borrow() });
            return Ok(());
        }
        slot.flags.set(SlotFlags::BUSY);
        let entry = if self.install && !slot.flags.has(SlotFlags::INSTALL_REFUSED) {
            file.install().user_data(Kind::Install.of_token(token))
        } else {
            file.shutdown().user_data(Kind::Shutdown.of_token(token))
        };
        self.push(ring, &entry)
    }

    /// Ends what the kernel has of a connection, one operation after the other, then the connection.
    ///
    /// An operation is named by its user data, which the kernel looks up in a table; by descriptor it would go
    /// through all operations of the ring, and many closes at once would take seconds. While an operation is
    /// between two states a look-up misses it. It is tried again by descriptor when the work that the kernel
    /// had deferred has been done, and has not ended it.
    fn end(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if slot.flags.has(SlotFlags::CANCEL_ARMED.with(SlotFlags::CANCEL_FOUND).with(SlotFlags::BUSY)) {
            return Ok(());
        }
        if let Some((operation, cancellation)) = slot.under_way() {
            slot.flags.set(SlotFlags::CANCEL_ARMED);
            let entry = if slot.flags.has(SlotFlags::CANCEL_MISSED) {
                file.cancel_all()
            } else {
                cancel(operation.of_token(token))
            };
            return self.push(ring, &entry.user_data(cancellation.of_token(token)));
        }
        slot.phase = Phase::Ending;
        self.push(ring, &file.close().user_data(Kind::Close.of_token(token)))
    }

    /// Lists as many of those that found no memory as there may be memory for now, the longest waiting first.
    fn unpark(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let room = self.receiver.available_bytes();
        if room == 0 {
            return;
        }
        let count = (room / RECEIVE_BYTES_MAX as usize).max(1);
        for _ in 0..count {
            let Some(token) = self.parked.pop_front() else { return };
            if let Some(slot) = self.slots.get(token)
                && slot.receive == Receive::Parked
            {
                slot.receive = Receive::Idle;
                self.list(token.index);
            }
        }
    }

    /// The kernel has consumed the batch and its failures have been reaped: forgets it, and gives the
    /// `finished` oldest buffers back, which nothing points into any more.
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

    /// Tells of short sends, and sees to it that the next tick goes on with them.
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

    // ---- completions ----

    /// The last completion of an operation came.
    pub(super) fn operation_ended(&mut self) {
        self.in_flight = self.in_flight.checked_sub(1).expect("an operation has one last completion");
    }

    /// A receive brought something. The usual case, which is on the path of every message: it goes on, and so
    /// does its buffer; everything else is [`received_any`](Connections::received_any).
    #[inline(always)]
    pub(super) fn received(&mut self, user_data: u64, result: i32, flags: u32, events: &mut Vec<Event>) {
        if flags & GOES_ON != GOES_ON || result <= 0 {
            return self.received_any(user_data, result, flags, events);
        }
        let Some(span) = self.receiver.take_more((flags >> BUFFER_SHIFT) as u16, result as u32) else {
            return;
        };
        if self.slots.hears(token_of(user_data)) {
            self.report(user_data, span, events);
        }
    }

    /// A receive brought something, or ended, or both.
    #[inline(never)]
    fn received_any(&mut self, user_data: u64, result: i32, flags: u32, events: &mut Vec<Event>) {
        let bytes = result.max(0) as u32;
        // Accounted for before anything else: a stale receive uses memory like any other.
        let span = cqueue::buffer_select(flags)
            .and_then(|id| self.receiver.take(id, bytes, cqueue::buffer_more(flags)));
        let token = token_of(user_data);
        if let Some(span) = span
            && span.bytes > 0
            && self.slots.hears(token)
        {
            self.report(user_data, span, events);
        }
        if !cqueue::more(flags) {
            self.receive_ended(token, result, events);
        }
    }

    #[inline]
    fn report(&mut self, user_data: u64, span: Span, events: &mut Vec<Event>) {
        if user_data == self.run_user_data
            && let Some(Event::Received { span: before, .. }) = events.get_mut(self.span_event)
            && before.offset + before.bytes == span.offset
        {
            before.bytes += span.bytes;
            return;
        }
        self.run_user_data = user_data;
        self.span_event = events.len();
        if events.len() == events.capacity() {
            grow(events);
        }
        events.push(Event::Received { token: token_of(user_data), span });
    }

    #[cold]
    fn receive_ended(&mut self, token: Token, result: i32, events: &mut Vec<Event>) {
        self.operation_ended();
        let Some(slot) = self.slots.get(token) else { return };
        slot.receive = Receive::Idle;
        slot.flags.clear(SlotFlags::CANCEL_FOUND.with(SlotFlags::CANCEL_MISSED));
        match -result {
            // The credit is spent, or completions overflowed, or it was cancelled for a pause or an end.
            ..0 | libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.list(token.index),
            0 => {
                slot.receive = Receive::Over;
                if slot.phase == Phase::Open {
                    events.push(Event::Ended { token });
                }
                self.list(token.index);
            }
            libc::ENOBUFS if slot.phase == Phase::Open => {
                slot.receive = Receive::Parked;
                self.buffer_stalls += 1;
                self.parked.push_back(token);
            }
            libc::ENOBUFS => self.list(token.index),
            error => {
                slot.receive = Receive::Over;
                self.fail(token, error);
            }
        }
    }

    /// A fast send was not silent: it was short or refused (or success is reported on this kernel).
    pub(super) fn send_ended(&mut self, completion: Completion, pool: &mut Pool) {
        let token = token_of(completion.user_data);
        let Some(slot) = self.slots.get(token) else { return };
        let Some(position) = self.batch.position(slot.staged) else { return };
        let sent = match completion.result {
            sent @ 0.. => sent as usize,
            // No room, or a moment's lack of memory: the slow way waits.
            error if matches!(-error, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => 0,
            error => return self.fail(token, -error),
        };
        if sent >= self.batch.bytes(position) {
            return;
        }
        let receiver = &self.receiver;
        let Ok(rest) = self.batch.partial_send(position, sent, pool, |span| receiver.slice(span)) else {
            return self.fail(token, libc::ENOMEM);
        };
        let unsent = u32::try_from(rest.unsent.bytes()).unwrap_or(u32::MAX);
        slot.partial_send = self.partial_sends.keep(rest);
        if slot.phase == Phase::Open {
            slot.flags.set(SlotFlags::FRESH);
            // It is listed when the tick is over.
            return self.blocked.push(Event::Blocked { token, unsent });
        }
        self.list(token.index);
    }

    /// The kernel took some of a short send's rest, or refused it.
    pub(super) fn partial_send_ended(
        &mut self,
        completion: Completion,
        pool: &mut Pool,
        events: &mut Vec<Event>,
    ) {
        self.operation_ended();
        let token = token_of(completion.user_data);
        let Some(slot) = self.slots.get(token) else { return };
        slot.flags.clear(SlotFlags::PARTIAL_SEND_ARMED);
        // While a receive is armed these are about it, since it is cancelled first.
        if slot.receive != Receive::Armed {
            slot.flags.clear(SlotFlags::CANCEL_FOUND.with(SlotFlags::CANCEL_MISSED));
        }
        if slot.partial_send == NONE {
            return;
        }
        let error = match completion.result {
            sent @ 0.. => {
                let unsent = &mut self.partial_sends.get(slot.partial_send).unsent;
                unsent.advance(sent as usize, pool);
                if unsent.bytes() == 0 {
                    self.partial_sends.take(slot.partial_send);
                    slot.partial_send = NONE;
                    if slot.phase == Phase::Open {
                        events.push(Event::Unblocked { token });
                    }
                }
                return self.list(token.index);
            }
            error => -error,
        };
        match error {
            libc::EAGAIN | libc::EINTR => self.list(token.index),
            // Only an end cancels sends.
            error => {
                if slot.phase == Phase::Draining {
                    slot.phase = Phase::Cancelling;
                }
                self.fail(token, error);
            }
        }
    }

    /// The peer sent FIN or a reset, or the poll for that is over.
    pub(super) fn end_polled(&mut self, completion: Completion) {
        let token = token_of(completion.user_data);
        if !completion.more() {
            self.operation_ended();
        }
        let Some(slot) = self.slots.get(token) else { return };
        if !completion.more() {
            slot.flags.clear(SlotFlags::END_POLLED);
            if slot.under_way().is_none() {
                slot.flags.clear(SlotFlags::CANCEL_FOUND.with(SlotFlags::CANCEL_MISSED));
            }
            // A poll that could not be armed is not tried again before the next pause.
            if completion.result >= 0 || slot.phase != Phase::Open {
                self.list(token.index);
            }
        }
        let slot = self.slots.at(token.index);
        if completion.result < 0 || slot.phase != Phase::Open {
            return;
        }
        let has = |flags: libc::c_short| completion.result & i32::from(flags) != 0;
        if has(libc::POLLERR) {
            slot.flags.set(SlotFlags::BROKEN);
            if slot.flags.has(SlotFlags::PAUSED) && slot.receive != Receive::Armed {
                self.fail(token, libc::ECONNRESET);
            }
        } else if slot.receive != Receive::Over && !slot.flags.has(SlotFlags::HALF_CLOSED) {
            slot.flags.set(SlotFlags::HALF_CLOSED);
            self.last.push(Event::HalfClosed { token });
        }
    }

    pub(super) fn connected(&mut self, completion: Completion, events: &mut Vec<Event>) {
        self.operation_ended();
        let token = token_of(completion.user_data);
        let Some(slot) = self.slots.get(token) else { return };
        slot.flags
            .clear(SlotFlags::CONNECT_ARMED.with(SlotFlags::CANCEL_FOUND).with(SlotFlags::CANCEL_MISSED));
        if slot.phase == Phase::Connecting {
            if completion.result < 0 {
                return self.fail(token, -completion.result);
            }
            slot.phase = Phase::Open;
            events.push(Event::Connected { token });
        }
        self.list(token.index);
    }

    /// A connection failed. Its owner is told once, unless it has done with it.
    fn fail(&mut self, token: Token, error: i32) {
        let slot = self.slots.at(token.index);
        match slot.phase {
            Phase::Connecting | Phase::Open => {
                slot.phase = Phase::Failed;
                self.last.push(Event::Failed { token, error: io::Error::from_raw_os_error(error).kind() });
            }
            Phase::Draining => slot.phase = Phase::Cancelling,
            _ => {}
        }
        self.list(token.index);
    }

    /// A cancellation is over. A cancelled operation still owes its last completion, which lists the connection.
    pub(super) fn cancelled(&mut self, completion: Completion, cancellation: Kind) {
        self.operation_ended();
        let token = token_of(completion.user_data);
        let Some(slot) = self.slots.get(token) else { return };
        let by_descriptor = slot.flags.has(SlotFlags::CANCEL_MISSED);
        slot.flags.clear(SlotFlags::CANCEL_ARMED);
        let still = slot.under_way().is_some_and(|(_, its)| its == cancellation);
        match completion.result {
            _ if by_descriptor || !still => self.list(token.index),
            0 => slot.flags.set(SlotFlags::CANCEL_FOUND),
            _ => {
                slot.flags.set(SlotFlags::CANCEL_MISSED);
                self.list(token.index);
            }
        }
    }

    /// A half-close through the ring is over.
    pub(super) fn step_ended(&mut self, completion: Completion) {
        self.operation_ended();
        let token = token_of(completion.user_data);
        if let Some(slot) = self.slots.get(token) {
            slot.flags.clear(SlotFlags::BUSY);
            self.list(token.index);
        }
    }

    /// A temporary descriptor for a half-close arrived, or none could be made.
    pub(super) fn installed(&mut self, completion: Completion) {
        // SAFETY: an install makes an ordinary descriptor, and this is its only completion.
        if let Some(descriptor) = unsafe { completion.descriptor() } {
            shutdown_write(descriptor.as_fd());
        } else if let Some(slot) = self.slots.get(token_of(completion.user_data)) {
            slot.flags.set(SlotFlags::INSTALL_REFUSED);
            slot.flags.clear(SlotFlags::SHUT);
        }
        self.step_ended(completion);
    }

    /// A temporary descriptor for a look at the peer's address arrived, or none could be made.
    pub(super) fn installed_to_look(&mut self, completion: Completion) {
        // SAFETY: an install makes an ordinary descriptor, and this is its only completion.
        let descriptor = unsafe { completion.descriptor() };
        let token = token_of(completion.user_data);
        if self.slots.get(token).is_some_and(|slot| slot.phase == Phase::Open) {
            self.addresses.keep(token, descriptor.as_ref().map_or(PeerAddress::Unknown, peer_of));
            self.last.push(Event::Addressed { token });
        }
        self.step_ended(completion);
    }

    /// A connection is gone while the driver is dropped: nobody closes its descriptor again.
    pub(super) fn forget_closed(&mut self, completion: Completion) {
        let token = token_of(completion.user_data);
        if self.slots.get(token).is_some() {
            self.slots.release(token.index);
        }
    }

    /// A connection is gone. Returns the number of its socket.
    pub(super) fn closed(&mut self, completion: Completion, events: &mut Vec<Event>) -> Option<u32> {
        self.operation_ended();
        let token = token_of(completion.user_data);
        let file = self.slots.get(token)?.file;
        self.slots.release(token.index);
        events.push(Event::Closed { token });
        Some(file)
    }
}
