//! Reading: from a run of received bytes to what the application is shown, and the replies that leave from it.

use super::{Core, send_pooled};
use crate::buffer::Buffer;
use crate::connection::{
    Chunk, Env, LONE_BYTES_MAX, LONE_REPLY_START, Marks, OutOfMemory, Piece, Run, Step, echo_lone, echo_short,
};
use crate::driver::{Driver, Source, Span, Token};
use crate::shard::context::{Context, Link};
use crate::shard::{Application, Disposition};

impl<D: Driver, A: Application> Core<D, A> {
    /// A run of bytes arrived. This is the path of every message, and the short ones of an echo end here: one
    /// look-up of the connection, one of the bytes, one send.
    #[inline]
    pub(in crate::shard) fn received(&mut self, application: &mut A, token: Token, span: Span) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        self.counters.bytes_in += u64::from(span.bytes);
        slot.connection.begin_run(self.now);
        if !slot.plain_echo {
            return self.received_any(application, token, span, Run::new());
        }
        debug_assert!(slot.connection.is_plain());
        let bytes = self.driver.received(span);
        if !echo_lone(bytes) {
            return self.received_short(application, token, span);
        }
        self.echoed += 1;
        const START: u32 = LONE_REPLY_START as u32;
        let reply = Span { offset: span.offset + START, bytes: span.bytes - START };
        if self.driver.send_received(token, reply) {
            self.counters.bytes_out += u64::from(reply.bytes);
        } else {
            let bytes = span.bytes as usize;
            self.end_plain(application, token, span, Run::read_to_the_end(bytes, LONE_REPLY_START..bytes));
        }
    }

    /// Several messages in one run, for a connection whose short ones are answered at once.
    #[inline(never)]
    fn received_short(&mut self, application: &mut A, token: Token, span: Span) {
        let mut run = Run::new();
        let bytes = self.driver.received(span);
        let echoed = echo_short(&mut run, bytes, self.config.connection.message_bytes_max);
        self.counters.messages_in += echoed;
        self.counters.messages_out += echoed;
        if run.position() == span.bytes as usize {
            let block = run.block();
            let piece = Span { offset: span.offset + block.start as u32, bytes: block.len() as u32 };
            if self.driver.send_received(token, piece) {
                self.counters.bytes_out += u64::from(piece.bytes);
                return;
            }
        }
        self.end_plain(application, token, span, run);
    }

    /// A run that began with short messages goes on in another way, or its replies were not taken.
    #[inline(never)]
    fn end_plain(&mut self, application: &mut A, token: Token, span: Span, run: Run) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.go_on(&run);
        }
        self.received_any(application, token, span, run);
    }

    /// What is not a short message to an echo: heads, fragments, control frames, long messages, messages that
    /// the application wants to see, and replies that must wait for others.
    #[inline(never)]
    fn received_any(&mut self, application: &mut A, token: Token, span: Span, run: Run) {
        let handshake = self.slots.get(token).is_some_and(|slot| slot.connection.is_in_handshake());
        self.pool.set_handshake(handshake);
        if !(self.sessions.has(token.index) && self.received_sealed(application, token, span)) {
            self.received_plain(application, token, span, run);
        }
        self.pool.set_handshake(false);
        if self.pool.is_pressed() {
            self.relieve(application);
        }
    }

    fn received_plain(&mut self, application: &mut A, token: Token, mut span: Span, mut run: Run) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.connection.is_between_messages()
            && slot.peer.as_ref().is_some_and(|peer| !application.echoes(peer))
        {
            self.show_short(application, token, &mut span, &mut run);
        }
        while let Some(head) = self.read(application, token, &mut span, &mut run) {
            self.request(application, token, head);
        }
        self.end_run(token, span, &run);
        self.look_for_plain_echo(application, token);
    }

    /// Finds out whether the next run may be answered the short way.
    pub(super) fn look_for_plain_echo(&mut self, application: &A, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        slot.plain_echo = !slot.dirty
            && !slot.leaving
            && !self.sessions.has(token.index)
            && self.config.connection.message_bytes_max >= LONE_BYTES_MAX as u64
            && slot.connection.is_plain()
            && slot.peer.as_ref().is_some_and(|peer| application.echoes(peer));
    }

    /// Shows the short messages at the front of a run to the application.
    #[inline(never)]
    fn show_short(&mut self, application: &mut A, token: Token, place: &mut impl Place<D>, run: &mut Run) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let Some(peer) = &mut slot.peer else { return };
        let bytes = place.bytes(&mut self.driver);
        let bytes_max = self.config.connection.message_bytes_max;
        while let Some((kind, at)) = slot.connection.next_short(run, bytes, bytes_max) {
            self.counters.messages_in += 1;
            let link = Link {
                token,
                peer: &mut *peer,
                mailboxes: &mut self.mailboxes,
                connection: &mut slot.connection,
                env: env!(self),
                counters: &mut self.counters,
            };
            let marks = Marks { kind, first: true, last: true, compressed: false };
            show_chunk(application, link, run, bytes, marks, Piece::Run(at));
            if !slot.connection.is_open() {
                break;
            }
        }
    }

    /// Reads a run until it is used up or a request head is complete.
    fn read(
        &mut self,
        application: &mut A,
        token: Token,
        place: &mut impl Place<D>,
        run: &mut Run,
    ) -> Option<Buffer> {
        let slot = self.slots.get_mut(token)?;
        let bytes = place.bytes(&mut self.driver);
        loop {
            let step = slot.connection.poll(run, bytes, &mut env!(self));
            match step {
                Step::Idle => return None,
                Step::Chunk(marks, piece) => {
                    self.counters.messages_in += u64::from(marks.last);
                    let link = link!(self, slot, token);
                    show_chunk(application, link, run, bytes, marks, piece);
                }
                Step::Ping(piece) => {
                    show_control(application, link!(self, slot, token), bytes, piece, A::ping);
                }
                Step::Pong(piece) => {
                    show_control(application, link!(self, slot, token), bytes, piece, A::pong);
                }
                Step::Head(head) => return Some(head),
                Step::Refused(refusal) => {
                    self.note_refusal(token, &refusal);
                    return self.read(application, token, place, run);
                }
                Step::Opened(response) => {
                    self.counters.opened += 1;
                    application.opened(&mut Context { core: self }, token, Some(&response));
                    return self.read(application, token, place, run);
                }
            }
        }
    }

    /// The run is read: its replies leave from where they lie, or are copied when they must wait.
    #[inline(never)]
    fn end_run(&mut self, token: Token, span: Span, run: &Run) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let connection = &mut slot.connection;
        let bytes = self.driver.received(span);
        match connection.end_run(run, bytes, &mut env!(self)) {
            Ok(None) => {}
            Ok(Some(block)) => {
                let piece = Span { offset: span.offset + block.start as u32, bytes: block.len() as u32 };
                if self.send_block(token, span, run, piece).is_err() {
                    self.with_connection(token, |connection, _| connection.out_of_memory());
                }
            }
            Err(OutOfMemory) => connection.out_of_memory(),
        }
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.needs_attention() && slot.mark_dirty() {
            self.dirty.push(token);
        }
    }

    /// Sends the replies that lie in a run behind what is queued before them. What the driver does not take
    /// is copied; a frame whose header it has taken goes on first.
    fn send_block(&mut self, token: Token, span: Span, run: &Run, piece: Span) -> Result<(), OutOfMemory> {
        let Some(slot) = self.slots.get_mut(token) else { return Ok(()) };
        let connection = &mut slot.connection;
        let mut taken = true;
        while let Some(buffer) = connection.pop() {
            taken = send_pooled(&mut self.driver, token, buffer, connection, &mut self.counters);
            if !taken {
                break;
            }
        }
        let mut headless = false;
        if taken && !run.head().is_empty() {
            let mut head = self.pool.get(run.head().len()).ok_or(OutOfMemory)?;
            head.append(run.head());
            match self.driver.send(token, Source::Pooled(head)) {
                Ok(()) => headless = true,
                Err(source) => {
                    taken = false;
                    if let Source::Pooled(head) = source {
                        self.pool.put(head);
                    }
                }
            }
        }
        if taken && self.driver.send_received(token, piece) {
            self.counters.bytes_out += u64::from(piece.bytes) + run.head().len() as u64;
            connection.block_sent();
            return Ok(());
        }
        let bytes = self.driver.received(span);
        if headless {
            connection.copy_headless_block(run, bytes, &mut env!(self))
        } else {
            connection.copy_block(run, bytes, &mut env!(self))
        }
    }

    /// Reads what had to wait, or was sealed. Replies cannot leave from there, so they are copied.
    pub(super) fn read_buffer(&mut self, application: &mut A, token: Token, buffer: &mut Buffer) {
        let mut run = Run::new();
        let bytes_max = self.config.connection.message_bytes_max;
        if let Some(slot) = self.slots.get_mut(token)
            && let Some(peer) = &slot.peer
            && slot.connection.is_between_messages()
        {
            if !application.echoes(peer) {
                self.show_short(application, token, buffer, &mut run);
            } else if slot.connection.is_plain() {
                let echoed = echo_short(&mut run, buffer.as_mut_slice(), bytes_max);
                slot.connection.go_on(&run);
                self.counters.messages_in += echoed;
                self.counters.messages_out += echoed;
            }
        }
        while let Some(head) = self.read(application, token, buffer, &mut run) {
            self.request(application, token, head);
        }
        let Some(slot) = self.slots.get_mut(token) else { return };
        let (connection, bytes) = (&mut slot.connection, buffer.as_slice());
        let copied = match connection.end_run(&run, bytes, &mut env!(self)) {
            Ok(Some(_)) => connection.copy_block(&run, bytes, &mut env!(self)),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if copied.is_err() {
            connection.out_of_memory();
        }
        self.touch(token);
    }
}

/// Where a run's bytes lie. They are asked for anew whenever the shard is needed as a whole in between.
trait Place<D> {
    fn bytes<'a>(&'a mut self, driver: &'a mut D) -> &'a mut [u8];
}

impl<D: Driver> Place<D> for Span {
    #[inline(always)]
    fn bytes<'a>(&'a mut self, driver: &'a mut D) -> &'a mut [u8] {
        driver.received(*self)
    }
}

impl<D> Place<D> for Buffer {
    fn bytes<'a>(&'a mut self, _: &'a mut D) -> &'a mut [u8] {
        self.as_mut_slice()
    }
}

/// Shows a chunk and carries out what the application wants done with it.
#[inline]
fn show_chunk<A: Application>(
    application: &mut A,
    mut link: Link<'_, A>,
    run: &mut Run,
    bytes: &mut [u8],
    marks: Marks,
    mut piece: Piece,
) {
    let Marks { kind, first, last, .. } = marks;
    let payload = match &mut piece {
        Piece::Run(at) => &mut bytes[at.clone()],
        Piece::Held(buffer) => buffer.as_mut_slice(),
    };
    let disposition = application.chunk(&mut link, Chunk { kind, first, last, payload });
    if disposition == Disposition::Echo && link.connection.is_open() {
        link.counters.messages_out += u64::from(last);
        if link.connection.echo(run, bytes, marks, piece, &mut link.env).is_err() {
            link.connection.out_of_memory();
        }
    } else if let Piece::Held(buffer) = piece {
        link.env.pool.put(buffer);
    }
}

/// Shows the payload of a ping or a pong.
fn show_control<A: Application>(
    application: &mut A,
    mut link: Link<'_, A>,
    bytes: &[u8],
    piece: Piece,
    show: impl FnOnce(&mut A, &mut Link<'_, A>, &[u8]),
) {
    match piece {
        Piece::Run(at) => show(application, &mut link, &bytes[at]),
        Piece::Held(buffer) => {
            show(application, &mut link, buffer.as_slice());
            link.env.pool.put(buffer);
        }
    }
}
