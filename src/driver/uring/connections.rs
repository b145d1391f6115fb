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
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::squeue::Flags;

use super::entries::{Completion, File, Kind, SendMaker, cancel};
use super::receive::{GROUP, Receiver};
use super::ring::{Ring, shut_down};
use super::sends::{Addresses, Batch, Rests};
use super::slots::{Marks, NONE, Phase, Receive, Slots, UNHEARD};
use crate::buffer::Pool;
use crate::driver::{Event, Features, Source, Span, Token};
use crate::limits::{RECEIVE_BYTES_MAX, RECEIVE_CREDIT_BYTES};

/// Everything that the kernel may point into, and the state of all connections.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) slots: Slots,
    pub(super) batch: Batch,
    rests: Rests,
    pub(super) receiver: Receiver,
    /// Operations that owe a last completion.
    pub(super) in_flight: u32,
    /// Connections to look at, each once.
    listed: Vec<u32>,
    /// Connections whose next step waits for this turn's sends.
    late: Vec<u32>,
    /// Connections whose receive found no memory, first in first out.
    parked: VecDeque<Token>,
    /// `Blocked` events; they go in front of the turn's others, so that no reply is staged in vain.
    blocked: Vec<Event>,
    /// `Failed` events; they go behind the turn's others, so that what was received before still counts.
    failed: Vec<Event>,
    /// Position of the latest `Received` event, and the user data of its receive.
    run_event: usize,
    run_owner: u64,
    /// Flags of fast sends.
    silent: Flags,
    maker: SendMaker,
    total: Option<u32>,
    install: bool,
}

impl Connections {
    pub(super) fn new(slots: Slots, receiver: Receiver, used: Features) -> Connections {
        let maker = SendMaker::new(slots.is_direct(), used.has(Features::SKIP_SUCCESS));
        Connections {
            maker,
            slots,
            batch: Batch::default(),
            rests: Rests::default(),
            receiver,
            in_flight: 0,
            listed: Vec::new(),
            late: Vec::new(),
            parked: VecDeque::new(),
            blocked: Vec::new(),
            failed: Vec::new(),
            run_event: 0,
            run_owner: UNHEARD,
            silent: if used.has(Features::SKIP_SUCCESS) { Flags::SKIP_SUCCESS } else { Flags::empty() },
            total: used.has(Features::RECEIVE_TOTAL).then_some(RECEIVE_CREDIT_BYTES),
            install: used.has(Features::FD_INSTALL),
        }
    }

    // ---- calls of the owner ----

    #[inline(always)]
    pub(super) fn send(&mut self, token: Token, source: Source) -> Result<(), Source> {
        let span = match source {
            Source::Received(span) => {
                // There is nothing in it to drop; not having to find that out saves a call for each message.
                std::mem::forget(source);
                span
            }
            source => return self.send_with(token, source),
        };
        match self.slots.get(token) {
            Some(slot) if slot.takes_sends() && self.batch.find(slot.staged, token.index).is_none() => {
                slot.staged = self.batch.start(Kind::Send.of_token(token), slot.file, span);
                Ok(())
            }
            _ => self.send_with(token, Source::Received(span)),
        }
    }

    /// Sends what is not in receive memory, or not the first of its turn, or not to be sent.
    #[inline(never)]
    fn send_with(&mut self, token: Token, source: Source) -> Result<(), Source> {
        let Some(slot) = self.slots.get(token) else { return Err(source) };
        if !slot.takes_sends() {
            return Err(source);
        }
        if let Some(position) = self.batch.find(slot.staged, token.index) {
            return self.batch.extend(position, source);
        }
        slot.staged = self.batch.start_with(Kind::Send.of_token(token), slot.file, source);
        Ok(())
    }

    /// Position of the connection's entry in this turn's batch, if it has one.
    fn staged(&mut self, index: u32) -> Option<u32> {
        self.batch.find(self.slots.at(index).staged, index)
    }

    pub(super) fn pause(&mut self, token: Token) {
        let total = self.total;
        let Some(slot) = self.slots.get(token) else { return };
        slot.marks.set(Marks::PAUSED);
        // With a total the credit runs out by itself.
        if total.is_none() && slot.receive == Receive::Armed {
            self.list(token.index);
        }
    }

    pub(super) fn resume(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.marks.clear(Marks::PAUSED);
        if slot.receive == Receive::Idle {
            self.list(token.index);
        }
    }

    pub(super) fn shutdown(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        slot.marks.set(Marks::SHUTDOWN);
        self.list(token.index);
    }

    pub(super) fn close(&mut self, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        match slot.phase {
            Phase::Open => {
                slot.phase = Phase::Draining;
                slot.heard = UNHEARD;
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
        slot.heard = UNHEARD;
        if let Some(position) = self.staged(token.index) {
            self.batch.drop_entry(position);
        }
        self.list(token.index);
    }

    /// Has the connection at `index` looked at before the next trip to the kernel.
    pub(super) fn list(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if !slot.marks.has(Marks::LISTED) {
            slot.marks.set(Marks::LISTED);
            self.listed.push(index);
        }
    }

    // ---- submissions ----

    /// Starts a turn: the runs of the previous one are over.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.run_owner = UNHEARD;
    }

    /// Queues the staged sends, one operation for each connection.
    pub(super) fn fill_sends(&mut self, ring: &mut Ring) -> io::Result<()> {
        self.batch.prepare();
        let direct = self.slots.is_direct();
        let mut position = 0;
        while position < self.batch.len() {
            // The bytes of all entries, and the batch with its vectors, stay until `settle`. That comes after
            // the entries have been consumed, and with them the bytes copied or refused.
            let mut queue = ring.queue();
            while let Some(staged) = self.batch.get(position)
                && let Some(span) = staged.span()
            {
                let address = self.receiver.address(span);
                let entry = self.maker.make(staged.file, address, span.bytes, staged.user_data);
                // SAFETY: see above.
                if unsafe { queue.push(&entry) }.is_err() {
                    break;
                }
                position += 1;
            }
            drop(queue);
            let Some(staged) = self.batch.get(position) else { break };
            if staged.span().is_some() {
                ring.submit()?;
                continue;
            }
            position += 1;
            if staged.is_dropped() {
                continue;
            }
            let (file, user_data) = (File { number: staged.file, direct }, staged.user_data);
            let message = self.batch.message(position - 1, &self.receiver);
            // SAFETY: see above.
            unsafe { ring.push(&file.send_message(message, self.silent).user_data(user_data))? };
        }
        Ok(())
    }

    /// Queues what follows from the facts noted since the last time.
    pub(super) fn fill_others(&mut self, ring: &mut Ring, pool: &mut Pool) -> io::Result<()> {
        // Those that found no memory go first: behind connections whose credit was just spent they would find
        // none again, for ever.
        let mut others = std::mem::take(&mut self.listed);
        self.unpark();
        self.listed.append(&mut others);
        let mut listed = std::mem::take(&mut self.listed);
        for &index in &listed {
            self.slots.at(index).marks.clear(Marks::LISTED);
            self.advance(index, ring, pool)?;
        }
        listed.clear();
        // Nothing lists a connection while it is advanced, except for what waits.
        std::mem::swap(&mut self.listed, &mut listed);
        self.listed.append(&mut listed);
        Ok(())
    }

    /// Whether a step waits for this turn's sends, or a receive for the memory that they use.
    pub(super) fn waits_for_sends(&self) -> bool {
        !self.late.is_empty() || (!self.parked.is_empty() && self.receiver.finished() > 0)
    }

    /// The one place where a connection's state leads to submissions.
    fn advance(&mut self, index: u32, ring: &mut Ring, pool: &mut Pool) -> io::Result<()> {
        let staged = self.staged(index).is_some();
        let slot = self.slots.at(index);
        match slot.phase {
            Phase::Free | Phase::Connecting | Phase::Ending => Ok(()),
            Phase::Open => {
                self.send_rest(index, ring)?;
                self.arm_or_stop(index, ring)?;
                self.half_close(index, ring)
            }
            Phase::Failed => {
                self.drop_rest(index, pool);
                Ok(())
            }
            Phase::Draining if staged => {
                self.late.push(index);
                Ok(())
            }
            Phase::Draining if slot.rest != NONE => self.send_rest(index, ring),
            Phase::Draining | Phase::Cancelling => {
                slot.phase = Phase::Cancelling;
                self.drop_rest(index, pool);
                self.end(index, ring)
            }
        }
    }

    fn push(&mut self, ring: &mut Ring, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        self.in_flight += 1;
        // SAFETY: entries that come here either name no memory of their own (receives write into buffers that
        // the receiver keeps until the ring is gone), or a rest that stays boxed until its completion.
        unsafe { ring.push(entry) }
    }

    fn send_rest(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if slot.rest == NONE || slot.marks.has(Marks::REST_ARMED) {
            return Ok(());
        }
        slot.marks.set(Marks::REST_ARMED);
        let message = self.rests.get(slot.rest).message();
        self.push(ring, &file.send_when_possible(message).user_data(Kind::Rest.of_token(token)))
    }

    /// Gives up what is left of a short send, unless the kernel has it.
    fn drop_rest(&mut self, index: u32, pool: &mut Pool) {
        let slot = self.slots.at(index);
        if slot.rest != NONE && !slot.marks.has(Marks::REST_ARMED) {
            self.rests.take(slot.rest).release(pool);
            slot.rest = NONE;
        }
    }

    fn arm_or_stop(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let total = self.total;
        let slot = self.slots.at(index);
        let paused = slot.marks.has(Marks::PAUSED);
        if slot.receive == Receive::Idle && !paused {
            slot.receive = Receive::Armed;
            let entry = file.receive(GROUP, RECEIVE_BYTES_MAX, total);
            return self.push(ring, &entry.user_data(Kind::Receive.of_token(token)));
        }
        if slot.receive == Receive::Armed && paused && total.is_none() && !slot.marks.has(Marks::CANCEL_ARMED)
        {
            // Not by descriptor: that could hit a rest that is waiting for room. By user data a
            // cancellation can miss; its completion then lists the connection again.
            slot.marks.set(Marks::CANCEL_ARMED);
            let entry = cancel(Kind::Receive.of_token(token));
            return self.push(ring, &entry.user_data(Kind::Cancel.of_token(token)));
        }
        Ok(())
    }

    fn half_close(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let staged = self.staged(index).is_some();
        let slot = self.slots.at(index);
        if !slot.marks.has(Marks::SHUTDOWN) || slot.marks.has(Marks::SHUT) || slot.rest != NONE {
            return Ok(());
        }
        if staged {
            self.late.push(index);
            return Ok(());
        }
        slot.marks.set(Marks::SHUT);
        if !file.direct {
            shut_down(file.number as RawFd);
            return Ok(());
        }
        slot.marks.set(Marks::BUSY);
        let entry = if self.install && !slot.marks.has(Marks::INSTALL_REFUSED) {
            file.install().user_data(Kind::Install.of_token(token))
        } else {
            file.shutdown().user_data(Kind::Shutdown.of_token(token))
        };
        self.push(ring, &entry)
    }

    /// Ends what the kernel has of a connection, then the connection.
    fn end(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let (file, token) = (self.slots.file(index), self.slots.token(index));
        let slot = self.slots.at(index);
        if slot.marks.has(Marks::CANCEL_ARMED.with(Marks::BUSY)) {
            return Ok(());
        }
        if slot.is_under_way() {
            slot.marks.set(Marks::CANCEL_ARMED);
            return self.push(ring, &file.cancel_all().user_data(Kind::Cancel.of_token(token)));
        }
        slot.phase = Phase::Ending;
        self.push(ring, &file.close().user_data(Kind::Close.of_token(token)))
    }

    /// Lists as many of those that found no memory as there may be memory for now, the longest waiting first.
    fn unpark(&mut self) {
        let room = self.receiver.available_bytes();
        if self.parked.is_empty() || room == 0 {
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

    /// Moves the events that have a place of their own into `events`, of which the turn's start at `start`.
    #[inline]
    pub(super) fn place_events(&mut self, start: usize, events: &mut Vec<Event>) {
        if !self.blocked.is_empty() {
            events.splice(start..start, self.blocked.drain(..));
        }
        if !self.failed.is_empty() {
            events.append(&mut self.failed);
        }
    }

    /// Whether events wait to be placed.
    pub(super) fn has_events(&self) -> bool {
        !self.blocked.is_empty() || !self.failed.is_empty()
    }

    // ---- completions ----

    /// Reports bytes that came. False when that is not all that a completion means, or when nobody wants to
    /// hear of them.
    #[inline(always)]
    pub(super) fn data(&mut self, completion: Completion, events: &mut Vec<Event>) -> bool {
        if !completion.is_data() || !self.slots.hears(completion.user_data) {
            return false;
        }
        self.report(completion, events);
        true
    }

    #[inline(always)]
    fn report(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let bytes = completion.result as u32;
        let Some(id) = completion.buffer() else { return };
        let Some(run) = self.receiver.take(id, bytes, completion.buffer_goes_on()) else { return };
        if self.run_owner == completion.user_data && self.extend_run(run, events) {
            return;
        }
        self.run_owner = completion.user_data;
        self.run_event = events.len();
        events.push(Event::Received { token: completion.token(), run });
    }

    /// Makes `run` part of the latest one if it starts where that ends.
    #[inline(never)]
    fn extend_run(&mut self, run: Span, events: &mut [Event]) -> bool {
        if let Some(Event::Received { run: before, .. }) = events.get_mut(self.run_event)
            && before.offset + before.bytes == run.offset
        {
            before.bytes += run.bytes;
            return true;
        }
        false
    }

    /// A receive brought something, or ended, or both.
    pub(super) fn received(&mut self, completion: Completion, events: &mut Vec<Event>) {
        if completion.result > 0 && self.slots.hears(completion.user_data) {
            self.report(completion, events);
        } else if let Some(id) = completion.buffer() {
            // A stale receive uses memory like any other.
            self.receiver.take(id, completion.result.max(0) as u32, completion.buffer_goes_on());
        }
        if !completion.more() {
            self.receive_ended(completion.token(), completion.result, events);
        }
    }

    #[cold]
    fn receive_ended(&mut self, token: Token, result: i32, events: &mut Vec<Event>) {
        self.in_flight -= 1;
        let Some(slot) = self.slots.get(token) else { return };
        slot.receive = Receive::Idle;
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
        let token = completion.token();
        let Some(slot) = self.slots.get(token) else { return };
        let Some(position) = self.batch.find(slot.staged, token.index) else { return };
        let sent = match completion.result {
            sent @ 0.. => sent as usize,
            // No room, or a moment's lack of memory: the slow way waits.
            error if matches!(-error, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => 0,
            error => return self.fail(token, -error),
        };
        if sent >= self.batch.bytes(position as usize - 1) {
            return;
        }
        let Some(rest) = self.batch.rest(position, sent, pool, &self.receiver) else {
            return self.fail(token, libc::ENOMEM);
        };
        let unsent = u32::try_from(rest.bytes()).unwrap_or(u32::MAX);
        let open = slot.phase == Phase::Open;
        slot.rest = self.rests.keep(rest);
        if open {
            self.blocked.push(Event::Blocked { token, unsent });
        }
        self.list(token.index);
    }

    /// The kernel took some of a short send's rest, or refused it.
    pub(super) fn rest_ended(&mut self, completion: Completion, pool: &mut Pool, events: &mut Vec<Event>) {
        self.in_flight -= 1;
        let token = completion.token();
        let Some(slot) = self.slots.get(token) else { return };
        slot.marks.clear(Marks::REST_ARMED);
        if slot.rest == NONE {
            return;
        }
        let error = match completion.result {
            sent @ 0.. => {
                let rest = self.rests.get(slot.rest);
                rest.advance(sent as usize, pool);
                if rest.bytes() == 0 {
                    self.rests.take(slot.rest).release(pool);
                    slot.rest = NONE;
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

    pub(super) fn connected(&mut self, completion: Completion, events: &mut Vec<Event>) {
        self.in_flight -= 1;
        let token = completion.token();
        let Some(slot) = self.slots.get(token) else { return };
        slot.marks.clear(Marks::CONNECT_ARMED);
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
                self.failed.push(Event::Failed { token, error: io::Error::from_raw_os_error(error).kind() });
            }
            Phase::Draining => slot.phase = Phase::Cancelling,
            _ => {}
        }
        self.list(token.index);
    }

    /// A cancellation or a half-close through the ring is over.
    pub(super) fn step_ended(&mut self, completion: Completion, mark: Marks) {
        self.in_flight -= 1;
        let token = completion.token();
        if let Some(slot) = self.slots.get(token) {
            slot.marks.clear(mark);
            // What a cancellation missed is still under way, and is found so.
            self.list(token.index);
        }
    }

    /// A temporary descriptor for a half-close arrived, or none could be made.
    pub(super) fn installed(&mut self, completion: Completion) {
        if completion.result >= 0 {
            // SAFETY: the kernel has just made this descriptor for us.
            let descriptor = unsafe { OwnedFd::from_raw_fd(completion.result) };
            shut_down(descriptor.as_raw_fd());
        } else if let Some(slot) = self.slots.get(completion.token()) {
            slot.marks.set(Marks::INSTALL_REFUSED);
            slot.marks.clear(Marks::SHUT);
        }
        self.step_ended(completion, Marks::BUSY);
    }

    /// A connection is gone. Returns the number of its socket.
    pub(super) fn closed(&mut self, completion: Completion, events: &mut Vec<Event>) -> Option<u32> {
        self.in_flight -= 1;
        let token = completion.token();
        let file = self.slots.get(token)?.file;
        self.slots.release(token.index);
        events.push(Event::Closed { token });
        Some(file)
    }
}
