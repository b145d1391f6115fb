//! The completions of connections: each notes facts in the slot, and lists the connection if something follows from them.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::Connections;
use crate::driver::kernel_times::received_parts;
use crate::driver::sockets::{retransmissions, shutdown_write};
use crate::driver::uring::entries::{Kind, token_of};
use crate::driver::uring::slots::{NONE, Phase, Receive, Slot, SlotFlags};
use crate::driver::{Event, Released, Span, Token, take_released};
use echoring_proto::buffer::Pool;

/// A completion, taken apart.
#[derive(Clone, Copy)]
pub(in crate::driver::uring) struct Completion {
    pub(in crate::driver::uring) user_data: u64,
    pub(in crate::driver::uring) result: i32,
    pub(in crate::driver::uring) flags: u32,
}

impl Completion {
    /// Whether the operation continues.
    #[inline]
    pub(in crate::driver::uring) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The ordinary descriptor that the operation made, if it succeeded.
    ///
    /// # Safety
    /// The operation must be one that makes an ordinary descriptor, and nobody else may take the descriptor.
    pub(in crate::driver::uring) unsafe fn descriptor(self) -> Option<OwnedFd> {
        // SAFETY: the kernel made this descriptor for the driver, and the caller takes it once.
        (self.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(self.result) })
    }
}

/// Flags of a completion that brought bytes into a buffer (`IORING_CQE_F_BUFFER`), of an operation
/// (`IORING_CQE_F_MORE`) and with a buffer (`IORING_CQE_F_BUF_MORE`) that continue.
const GOES_ON: u32 = 1 | 1 << 1 | 1 << 4;
/// Place of the buffer's number in a completion's flags.
const BUFFER_SHIFT: u32 = 16;

/// Out of line, so that the usual path keeps its registers.
#[cold]
#[inline(never)]
fn grow(events: &mut Vec<Event>) {
    events.reserve(64);
}

impl Connections {
    /// The last completion of an operation came.
    pub(in crate::driver::uring) fn operation_ended(&mut self) {
        self.in_flight = self.in_flight.checked_sub(1).expect("an operation has one last completion");
    }

    /// An operation of a connection has ended. Returns the connection, if it still exists.
    fn ended(&mut self, completion: Completion) -> Option<(Token, &mut Slot)> {
        self.operation_ended();
        let token = token_of(completion.user_data);
        self.slots.get(token).map(|slot| (token, slot))
    }

    /// A receive brought something. The usual case, which is on the path of every message: the operation continues, and
    /// so does its buffer; everything else is [`received_any`](Connections::received_any).
    #[inline(always)]
    pub(in crate::driver::uring) fn received(
        &mut self,
        user_data: u64,
        result: i32,
        flags: u32,
        events: &mut Vec<Event>,
    ) {
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
    fn received_any(&mut self, user_data: u64, mut result: i32, flags: u32, events: &mut Vec<Event>) {
        let bytes = result.max(0) as u32;
        // Accounted for before anything else: a stale receive uses memory like any other.
        let mut span = cqueue::buffer_select(flags)
            .and_then(|id| self.receiver.take(id, bytes, cqueue::buffer_more(flags)));
        let token = token_of(user_data);
        if let Some(times) = &mut self.kernel_times
            && times.samples(token.index)
            && let Some(whole) = span
        {
            let (control, rest) = received_parts(self.receiver.memory(), whole);
            (span, result) = (Some(rest), rest.bytes as i32);
            if rest.bytes > 0 && self.slots.hears(token) {
                // SAFETY: with these times sockets are ordinary descriptors, and that of a slot in use is open.
                let socket = unsafe { self.slots.file(token.index).borrow() };
                events.push(Event::Arrived { token, at: times.arrival(token.index, socket, &control) });
            }
        }
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
                if matches!(slot.phase, Phase::Open | Phase::Leaving) {
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
    pub(in crate::driver::uring) fn send_ended(&mut self, completion: Completion, pool: &mut Pool) {
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
        self.stamps.void(token);
        if let Some(times) = &mut self.kernel_times {
            times.void(token.index);
        }
        let Ok(rest) = self.batch.partial_send(position, sent, pool, |span| receiver.slice(span)) else {
            return self.fail(token, libc::ENOMEM);
        };
        let unsent = u32::try_from(rest.unsent.bytes()).unwrap_or(u32::MAX);
        slot.partial_send = self.partial_sends.keep(rest);
        if matches!(slot.phase, Phase::Open | Phase::Leaving) {
            slot.flags.set(SlotFlags::FRESH);
            // It is listed when the tick is over.
            return self.blocked.push(Event::Blocked { token, unsent });
        }
        self.list(token.index);
    }

    /// The kernel accepted a part of a partial send's rest, or refused it.
    pub(in crate::driver::uring) fn partial_send_ended(
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
                    if matches!(slot.phase, Phase::Open | Phase::Leaving) {
                        events.push(Event::Unblocked { token });
                    }
                }
                return self.list(token.index);
            }
            error => -error,
        };
        match error {
            libc::EAGAIN | libc::EINTR => self.list(token.index),
            libc::ECANCELED if slot.phase == Phase::Leaving => self.list(token.index),
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
    pub(in crate::driver::uring) fn end_polled(&mut self, completion: Completion) {
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
        // An error alone is a time in the error queue.
        if has(libc::POLLERR) && has(libc::POLLHUP) {
            slot.flags.set(SlotFlags::BROKEN);
            if slot.flags.has(SlotFlags::PAUSED) && slot.receive != Receive::Armed {
                self.fail(token, libc::ECONNRESET);
            }
        } else if has(libc::POLLRDHUP)
            && slot.receive != Receive::Over
            && !slot.flags.has(SlotFlags::HALF_CLOSED)
        {
            slot.flags.set(SlotFlags::HALF_CLOSED);
            self.last.push(Event::HalfClosed { token });
        }
    }

    pub(in crate::driver::uring) fn connected(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Some((token, slot)) = self.ended(completion) else { return };
        slot.flags
            .clear(SlotFlags::CONNECT_ARMED.with(SlotFlags::CANCEL_FOUND).with(SlotFlags::CANCEL_MISSED));
        if slot.phase == Phase::Connecting {
            if completion.result < 0 {
                return self.fail(token, -completion.result);
            }
            slot.phase = Phase::Open;
            events.push(Event::Connected { token });
            if let Some(times) = &mut self.kernel_times {
                // SAFETY: with these times sockets are ordinary descriptors, and that of a slot in use is open.
                times.begin(token.index, unsafe { self.slots.file(token.index).borrow() });
            }
        }
        self.list(token.index);
    }

    /// A cancellation is over. A cancelled operation still owes its last completion, which lists the connection.
    pub(in crate::driver::uring) fn cancelled(&mut self, completion: Completion, cancellation: Kind) {
        let Some((token, slot)) = self.ended(completion) else { return };
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

    /// A look at the error queue is over.
    pub(in crate::driver::uring) fn looked(&mut self, completion: Completion) {
        let Some((token, _)) = self.ended(completion) else { return };
        if completion.result >= 0
            && let Some(at) = self.stamps.found(token)
        {
            self.last.push(Event::Acknowledged { token, at });
        }
    }

    /// A half-close through the ring is over.
    pub(in crate::driver::uring) fn step_ended(&mut self, completion: Completion) {
        if let Some((token, slot)) = self.ended(completion) {
            slot.flags.clear(SlotFlags::BUSY);
            self.list(token.index);
        }
    }

    /// A temporary descriptor for a half-close arrived, or none could be made.
    pub(in crate::driver::uring) fn installed(&mut self, completion: Completion) {
        // SAFETY: an install makes an ordinary descriptor, and this is its only completion.
        if let Some(descriptor) = unsafe { completion.descriptor() } {
            shutdown_write(descriptor.as_fd());
        } else if let Some(slot) = self.slots.get(token_of(completion.user_data)) {
            slot.flags.set(SlotFlags::INSTALL_REFUSED);
            slot.flags.clear(SlotFlags::SHUT);
        }
        self.step_ended(completion);
    }

    /// A temporary descriptor for a look at the socket arrived, or none could be made.
    pub(in crate::driver::uring) fn installed_to_look(&mut self, completion: Completion) {
        // SAFETY: an install makes an ordinary descriptor, and this is its only completion.
        let descriptor = unsafe { completion.descriptor() };
        let token = token_of(completion.user_data);
        match self.slots.get(token).map(|slot| slot.phase) {
            Some(Phase::Open) => {
                self.addresses.look(token, descriptor.as_ref());
                self.last.push(Event::Addressed { token });
            }
            Some(Phase::Counting) => {
                if let (Some(count), Some(descriptor)) = (&mut self.retransmissions, &descriptor) {
                    *count += retransmissions(descriptor.as_fd());
                }
            }
            _ => {}
        }
        self.step_ended(completion);
    }

    /// The descriptor of a connection that is given up arrived, or none could be made.
    pub(in crate::driver::uring) fn installed_to_leave(&mut self, completion: Completion) {
        // SAFETY: an install makes an ordinary descriptor, and this is its only completion.
        let descriptor = unsafe { completion.descriptor() };
        let token = token_of(completion.user_data);
        if self.slots.get(token).is_some_and(|slot| slot.phase == Phase::Leaving) {
            match descriptor {
                Some(socket) => {
                    let has_fallen_behind = self.notsent.has(token.index);
                    let released = Released { socket, unsent: Vec::new(), has_fallen_behind };
                    self.leaving.push((token, released));
                }
                None => self.stay(token),
            }
        }
        self.step_ended(completion);
    }

    /// A connection cannot be given up, and goes on.
    pub(super) fn stay(&mut self, token: Token) {
        self.slots.at(token.index).phase = Phase::Open;
        self.last.push(Event::Kept { token });
        self.list(token.index);
    }

    /// Frees the slot of a connection.
    pub(super) fn forget(&mut self, token: Token) {
        self.slots.release(token.index);
        self.notsent.end(token.index);
        self.stamps.forget(token);
    }

    /// A connection ended while the driver is dropped: its descriptor is not closed again.
    pub(in crate::driver::uring) fn forget_closed(&mut self, completion: Completion) {
        let token = token_of(completion.user_data);
        if self.slots.get(token).is_some() {
            self.slots.release(token.index);
        }
    }

    /// A connection is gone. Returns the number of its socket.
    pub(in crate::driver::uring) fn closed(
        &mut self,
        completion: Completion,
        events: &mut Vec<Event>,
    ) -> Option<u32> {
        let (token, slot) = self.ended(completion)?;
        let file = slot.file;
        self.forget(token);
        events.push(match take_released(&mut self.leaving, token) {
            Some(released) => {
                self.released.push((token, released));
                Event::Released { token }
            }
            None => Event::Closed { token },
        });
        Some(file)
    }
}
