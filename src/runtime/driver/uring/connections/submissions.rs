//! The submissions of connections: staged sends, and the operations that follow from the facts noted since the last
//! trip to the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use io_uring::SubmissionQueue;

use super::{Connections, SocketOption};
use crate::driver::sockets::{retransmissions, shutdown_write};
use crate::driver::stamps::{Asked, REPORTING};
use crate::driver::unsent::Unsent;
use crate::driver::uring::entries::{File, Kind, PlainSend, cancel, token_of};
use crate::driver::uring::receive::{GROUP, Receiver};
use crate::driver::uring::ring::Ring;
use crate::driver::uring::sends::Staged;
use crate::driver::uring::slots::{NONE, Phase, Receive, SlotFlags};
use crate::driver::{Event, Released};
use crate::limits::RECEIVE_BYTES_MAX;
use echoring_proto::buffer::Pool;

/// Queues the entries at the front that are received spans, as long as there is room. It is a loop of its own, because
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

impl Connections {
    /// Queues the staged sends, one operation for each connection.
    pub(in crate::driver::uring) fn fill_sends(&mut self, ring: &mut Ring) -> io::Result<()> {
        self.note_sends();
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

    /// Has the kernel's times of the staged sends noted.
    #[inline]
    fn note_sends(&mut self) {
        let Connections { batch, slots, kernel_times: Some(times), .. } = self else { return };
        times.begin_tick();
        for position in 0..batch.len() {
            let Some(user_data) = batch.user_data(position) else { continue };
            let index = token_of(user_data).index;
            // SAFETY: with these times sockets are ordinary descriptors, and that of a staged send is open.
            let socket = unsafe { slots.file(index).borrow() };
            if times.carry(index, batch.bytes(position), socket) {
                batch.stamp(position, Asked::Stages);
            }
        }
    }

    /// Whether facts were noted that something follows from.
    #[inline]
    pub(in crate::driver::uring) fn has_others(&self) -> bool {
        !self.listed.is_empty()
            || !self.parked.is_empty()
            || !self.options.is_empty()
            || !self.stamps.is_empty()
    }

    /// Queues the work that follows from the facts noted since the last time.
    pub(in crate::driver::uring) fn fill_others(
        &mut self,
        ring: &mut Ring,
        pool: &mut Pool,
    ) -> io::Result<()> {
        if !self.has_others() {
            return Ok(());
        }
        self.set_options(ring)?;
        self.look(ring)?;
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

    /// Sets options of sockets, in front of what is sent next. Nothing depends on whether that works: a Unix socket has none of
    /// them.
    fn set_options(&mut self, ring: &mut Ring) -> io::Result<()> {
        while let Some((token, option)) = self.options.pop() {
            if self.slots.get(token).is_none_or(|slot| slot.phase != Phase::Open) {
                continue;
            }
            let file = self.slots.file(token.index);
            let entry = match option {
                SocketOption::NotsentLowat => {
                    file.set_option(libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, self.notsent.value())
                }
                SocketOption::Timestamping => {
                    file.set_option(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &REPORTING)
                }
            };
            let entry = entry.flags(self.silent).user_data(Kind::SetOption.of_token(token));
            // SAFETY: the values stay until the ring is gone, and the socket is that of a slot in use.
            unsafe { ring.push(&entry)? };
        }
        Ok(())
    }

    /// Looks at the error queues in which the acknowledgements of stamped sends may be.
    fn look(&mut self, ring: &mut Ring) -> io::Result<()> {
        if self.stamps.is_empty() {
            return Ok(());
        }
        let Connections { stamps, slots, in_flight, .. } = self;
        let mut result = Ok(());
        stamps.look(|token, look| {
            if slots.get(token).is_some_and(|slot| slot.phase == Phase::Open) && result.is_ok() {
                let entry = slots.file(token.index).look(look.begin()).user_data(Kind::Look.of_token(token));
                *in_flight += 1;
                // SAFETY: the stamps keep a look until the ring is gone, and the socket is that of a slot in use.
                result = unsafe { ring.push(&entry) };
            }
        });
        result
    }

    /// Whether a step waits for this tick's sends, or a receive for the memory that they use.
    pub(in crate::driver::uring) fn waits_for_sends(&self) -> bool {
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
            Phase::Leaving if self.batch.position(slot.staged).is_some() => {
                self.late.push(index);
                Ok(())
            }
            Phase::Leaving => self.leave(index, ring, pool),
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
            Phase::Counting if slot.flags.has(SlotFlags::BUSY) => Ok(()),
            Phase::Counting => self.close_socket(index, ring),
        }
    }

    fn push(&mut self, ring: &mut Ring, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        self.in_flight += 1;
        // SAFETY: entries that come here name either no memory of their own (receives write into buffers that the receiver keeps until the
        // ring is gone, and their header is kept as long), or a partial send, whose pieces and their vectors stay where they are until
        // its completion. They name sockets of slots in use, which only the slot's own close closes.
        unsafe { ring.push(entry) }
    }

    fn resume_partial_send(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if slot.partial_send == NONE || slot.flags.has(SlotFlags::PARTIAL_SEND_ARMED) {
            return Ok(());
        }
        // Events of partial sends are only held between a tick's first sends and its end, and a fresh partial send then
        // has one of them: its owner may still take back some of it.
        if slot.flags.has(SlotFlags::FRESH) && !self.blocked.is_empty() {
            return Ok(());
        }
        slot.flags.clear(SlotFlags::FRESH);
        slot.flags.set(SlotFlags::PARTIAL_SEND_ARMED);
        let next = self.partial_sends.get(slot.partial_send).next();
        self.push(ring, &file.send_when_possible(next).user_data(Kind::PartialSend.of_token(token)))
    }

    /// Drops a partial send, unless the kernel has it.
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
            let is_timed = self.kernel_times.as_ref().is_some_and(|times| times.samples(token.index));
            let entry = match is_timed {
                false => file.receive(GROUP, cap, total),
                true => file.receive_messages(GROUP, &raw const *self.receive_header),
            };
            return self.push(ring, &entry.user_data(Kind::Receive.of_token(token)));
        }
        let cancelling = SlotFlags::CANCEL_ARMED.with(SlotFlags::CANCEL_FOUND);
        if slot.receive == Receive::Armed && paused && total.is_none() && !slot.flags.has(cancelling) {
            // Not by descriptor: that could hit a partial send that is waiting for room. By user data a
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

    /// While nothing is received, a poll reports the peer's end. It stays armed from the first time on: without an end
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
        // SAFETY: the slot's socket is open as long as the slot is in use.
        let socket = (!file.direct).then(|| unsafe { file.borrow() });
        self.addresses.look(token, socket.as_ref());
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

    /// Ends the kernel's operations on a connection one after the other, then the connection.
    fn end(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        if self.end_operations(index, ring)? && self.count_retransmissions(index, ring)? {
            self.close_socket(index, ring)?;
        }
        Ok(())
    }

    /// Counts what a connection has sent again, if that is to be counted. Returns whether it is done: an ordinary descriptor is first made
    /// of a direct one, which has no name for `getsockopt`.
    fn count_retransmissions(&mut self, index: u32, ring: &mut Ring) -> io::Result<bool> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let Some(count) = &mut self.retransmissions else { return Ok(true) };
        if !file.direct {
            // SAFETY: the slot's socket is open as long as the slot is in use.
            *count += retransmissions(unsafe { file.borrow() });
            return Ok(true);
        }
        let slot = self.slots.at(index);
        slot.phase = Phase::Counting;
        slot.flags.set(SlotFlags::BUSY);
        self.push(ring, &file.install().user_data(Kind::InstallToLook.of_token(token))).map(|()| false)
    }

    fn close_socket(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        self.slots.at(index).phase = Phase::Ending;
        self.push(ring, &file.close().user_data(Kind::Close.of_token(token)))
    }

    /// Ends the kernel's operations on a connection one after the other. Returns whether none is left.
    ///
    /// An operation is named by its user data, which the kernel looks up in a table; by descriptor it would go
    /// through all operations of the ring, and many closes at once would take seconds. While an operation is
    /// between two states a look-up misses it. It is tried again by descriptor when the work that the kernel
    /// had deferred has been done, and has not ended it.
    fn end_operations(&mut self, index: u32, ring: &mut Ring) -> io::Result<bool> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if slot.flags.has(SlotFlags::CANCEL_ARMED.with(SlotFlags::CANCEL_FOUND).with(SlotFlags::BUSY)) {
            return Ok(false);
        }
        let Some((operation, cancellation)) = slot.under_way() else { return Ok(true) };
        slot.flags.set(SlotFlags::CANCEL_ARMED);
        let entry = if slot.flags.has(SlotFlags::CANCEL_MISSED) {
            file.cancel_all()
        } else {
            cancel(operation.of_token(token))
        };
        self.push(ring, &entry.user_data(cancellation.of_token(token))).map(|()| false)
    }

    /// Gives a connection up: ends its operations, makes an ordinary descriptor of a direct one, and ends that.
    fn leave(&mut self, index: u32, ring: &mut Ring, pool: &mut Pool) -> io::Result<()> {
        if !self.end_operations(index, ring)? {
            return Ok(());
        }
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let installed = self.leaving.iter().position(|(leaving, _)| *leaving == token);
        if file.direct && installed.is_none() {
            if !self.install {
                self.stay(token);
                return Ok(());
            }
            self.slots.at(index).flags.set(SlotFlags::BUSY);
            return self.push(ring, &file.install().user_data(Kind::InstallToLeave.of_token(token)));
        }
        let unsent = self.unsent(token).map(Unsent::copied).unwrap_or_default();
        self.drop_partial_send(index, pool);
        if let Some(at) = installed {
            self.leaving[at].1.unsent = unsent;
            return self.close_socket(index, ring);
        }
        // SAFETY: the slot's socket is open and the slot's alone; the slot is freed, so nothing else uses or closes it.
        let socket = unsafe { OwnedFd::from_raw_fd(file.number as RawFd) };
        let has_fallen_behind = self.notsent.has(index);
        self.forget(token);
        self.freed = true;
        self.released.push((token, Released { socket, unsent, has_fallen_behind }));
        self.last.push(Event::Released { token });
        Ok(())
    }

    /// Lists as many connections without memory as can now have some, the longest waiting first.
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
}
