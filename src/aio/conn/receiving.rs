//! From the transport to messages: one event at a time, so that whoever reads may stop between any two of them.
//!
//! Reading never waits for writing: two ends that both did would wait for each other. What a peer can make this end
//! queue is bounded all the same: pongs to what one read brings, and behind an unfinished send to the latest few.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::core::{Core, Transport};
use super::error::{End, Error};
use super::heartbeat::{Beat, Pulse};
use super::message::Message;
use super::sending::Writing;
use crate::connection::{Cause, CloseFrame, Fate, Kind, Marks, Piece, Run, Step};
use crate::limits::{CONN_READ_BYTES_MAX, CONTROL_PAYLOAD_BYTES_MAX};
use crate::protocol::frame::HEADER_BYTES_MAX;
use crate::protocol::utf8::Text;
use crate::protocol::{Offence, Role};

/// Something that whoever reads is told between messages.
#[derive(Debug)]
pub(super) enum Notice {
    Ping(Control),
    Pong(Control),
    /// The peer closes, and waits for an answer.
    Close(CloseFrame),
}

/// What came of reading.
pub(super) enum Event {
    /// The message under way has grown.
    Grown,
    Notice(Notice),
}

/// What was wanted, or something to be told before.
pub(super) enum Found<T> {
    Wanted(T),
    Notice(Notice),
}

/// A control frame's payload.
#[derive(Debug)]
pub(super) struct Control {
    bytes: [u8; CONTROL_PAYLOAD_BYTES_MAX],
    len: u8,
}

impl Control {
    fn new(payload: &[u8]) -> Control {
        let mut bytes = [0; CONTROL_PAYLOAD_BYTES_MAX];
        bytes[..payload.len()].copy_from_slice(payload);
        Control { bytes, len: payload.len() as u8 }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The message under way, as far as it has arrived and was not given to a [`MessageReader`](super::MessageReader). It
/// stays here when a read is given up, so that the next goes on with it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// None between messages.
    kind: Option<Kind>,
    /// Of a binary message.
    bytes: Vec<u8>,
    /// Of a text, which is validated on its way here.
    text: Text,
    /// How many of these bytes a reader has taken.
    taken: usize,
    /// Its last byte is there.
    whole: bool,
    /// Nobody wants the rest of it.
    skipped: bool,
}

impl Incoming {
    /// Takes a piece, of whose frame `left` bytes are still to come. Tells whether anybody wants it.
    fn grow(&mut self, marks: Marks, payload: &[u8], left: u64) -> Result<bool, Offence> {
        match marks.kind {
            Kind::Text => {
                let text = self.text.string();
                let wanted = room_for(text.len(), text.capacity(), marks, payload.len(), left);
                text.reserve_exact(wanted);
                self.text.push(payload)?;
                if marks.last {
                    self.text.finish()?;
                }
            }
            Kind::Binary if self.skipped => {}
            Kind::Binary => {
                let wanted = room_for(self.bytes.len(), self.bytes.capacity(), marks, payload.len(), left);
                self.bytes.reserve_exact(wanted);
                self.bytes.extend_from_slice(payload);
            }
        }
        if self.skipped {
            self.text.string().clear();
            self.skipped = !marks.last;
            return Ok(false);
        }
        self.kind = Some(marks.kind);
        self.whole = marks.last;
        Ok(true)
    }

    /// The message, once it is whole.
    pub(super) fn take(&mut self) -> Option<Message> {
        if !self.whole {
            return None;
        }
        let Incoming { kind, bytes, mut text, .. } = std::mem::take(self);
        Some(match kind {
            Some(Kind::Text) => Message::Text(std::mem::take(text.string())),
            _ => Message::Binary(Bytes::from(bytes)),
        })
    }

    /// The type of the message under way.
    pub(super) fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Some of the message's bytes, none when it is over. `None` when more have to come first.
    pub(super) fn give(&mut self, out: &mut ReadBuf<'_>) -> Option<()> {
        let present = if self.kind == Some(Kind::Text) { self.text.as_str().as_bytes() } else { &self.bytes };
        let rest = &present[self.taken..];
        if rest.is_empty() {
            return self.whole.then_some(());
        }
        let given = rest.len().min(out.remaining());
        out.put_slice(&rest[..given]);
        self.taken += given;
        if self.taken == present.len() {
            self.bytes.clear();
            self.text.string().clear();
            self.taken = 0;
        }
        Some(())
    }

    /// Bytes kept for it.
    #[cfg(test)]
    pub(super) fn held_bytes(&mut self) -> usize {
        self.bytes.capacity() + self.text.string().capacity()
    }

    /// What is left of it is not wanted.
    pub(super) fn skip(&mut self) {
        let rest_comes = self.kind.is_some() && !self.whole;
        let skipped = rest_comes || self.skipped;
        let mut text = if skipped { std::mem::take(&mut self.text) } else { Text::default() };
        // A character may be cut: what comes of it is validated all the same.
        *text.string() = String::new();
        *self = Incoming { skipped, text, ..Incoming::default() };
    }
}

/// By how many bytes a buffer of `len` has to grow for a piece of a message. It grows with what has arrived, not with what
/// was announced: the `left` bytes of the frame are only a ceiling.
fn room_for(len: usize, capacity: usize, marks: Marks, piece_bytes: usize, left: u64) -> usize {
    let needed = len + piece_bytes;
    if needed <= capacity {
        return 0;
    }
    let ceiling = match (marks.last, left) {
        (true, _) => needed,
        // A frame is over, and others follow: as ever, by a factor.
        (false, 0) => needed * 2,
        (false, left) => needed.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)),
    };
    (needed * 4).min(ceiling) - len
}

impl<S: Transport> Core<S> {
    /// Reads until `want` finds what it looks for. Loses nothing when it is not polled again.
    pub(super) fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        want: &mut impl FnMut(&mut Incoming) -> Option<T>,
    ) -> Poll<Result<Found<T>, Error>> {
        loop {
            if let Some(wanted) = want(&mut self.incoming) {
                return Poll::Ready(Ok(Found::Wanted(wanted)));
            }
            match ready!(self.poll_event(cx))? {
                Event::Grown => {}
                Event::Notice(notice) => return Poll::Ready(Ok(Found::Notice(notice))),
            }
        }
    }

    /// The next event. What has to be answered on the way is queued and leaves as far as the transport takes it.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Error>> {
        self.look_at_clock();
        self.beat();
        loop {
            // What is queued leaves before the transport is read, not before each message that is here already: what is
            // fed between two of them leaves together.
            let flushed = match self.unread.is_empty() || !self.connection.is_open() {
                true => self.poll_flush(cx),
                false => Poll::Pending,
            };
            if let Some(end) = &self.end {
                return Poll::Ready(Err(end.error()));
            }
            if let Some(frame) = self.unanswered.take() {
                return Poll::Ready(Ok(Event::Notice(Notice::Close(frame))));
            }
            let stuck = if self.reads_nothing_more() {
                self.poll_end(flushed, cx).is_pending()
            } else if !self.unread.is_empty() {
                let queued_bytes = self.connection.queued_bytes();
                let event = self.look();
                // An answer to a control frame is not held back.
                if self.connection.queued_bytes() > queued_bytes {
                    let _ = self.poll_flush(cx);
                }
                if let Some(event) = event {
                    return Poll::Ready(Ok(event));
                }
                false
            } else {
                self.poll_fill(cx).is_pending()
            };
            if stuck && self.poll_timers(cx)?.is_pending() {
                self.put_tools_away();
                return Poll::Pending;
            }
        }
    }

    /// The first event in what was received.
    fn look(&mut self) -> Option<Event> {
        let (shows_pongs, was_open) = (self.shows_pongs, self.connection.is_open());
        let (event, read) = self.with(|connection, env, bytes, incoming| {
            let mut run = Run::new();
            connection.begin_run(env.now);
            let step = connection.poll(&mut run, bytes, env);
            let idle = matches!(step, Step::Idle);
            let mut show = |piece: Piece, see: &mut dyn FnMut(&[u8])| match piece {
                Piece::Run(at) => see(&bytes[at]),
                Piece::Held(buffer) => {
                    see(buffer.as_slice());
                    env.pool.put(buffer);
                }
            };
            let mut event = None;
            let mut is_text = true;
            match step {
                Step::Chunk(marks, piece) => show(piece, &mut |payload| match incoming.grow(
                    marks,
                    payload,
                    connection.frame_bytes_left(),
                ) {
                    Ok(wanted) => event = wanted.then_some(Event::Grown),
                    Err(_) => is_text = false,
                }),
                Step::Ping(piece) => show(piece, &mut |payload| {
                    event = Some(Event::Notice(Notice::Ping(Control::new(payload))));
                }),
                Step::Pong(piece) => show(piece, &mut |payload| {
                    event = shows_pongs.then(|| Event::Notice(Notice::Pong(Control::new(payload))));
                }),
                Step::Idle | Step::Head(_) | Step::Refused(_) | Step::Opened(_) => {}
            }
            if !is_text {
                *incoming = Incoming::default();
                connection.offend_by_text(&mut run, env);
            }
            connection.note_unfinished(env);
            let answered = connection.end_run(&run, bytes, env).and_then(|block| match block {
                Some(_) => connection.copy_block(&run, bytes, env),
                None => Ok(()),
            });
            if answered.is_err() {
                connection.out_of_memory();
            }
            (event, if idle { bytes.len() } else { run.position() })
        });
        self.unread.start += read;
        self.note_ending(was_open);
        event
    }

    /// Those who wait are told when the end begins, and whoever reads when it has to be answered.
    fn note_ending(&mut self, was_open: bool) {
        if !was_open || self.connection.is_open() {
            return;
        }
        self.changed = true;
        let Some(closed) = self.connection.closed() else { return };
        if closed.cause == Cause::Peer && !self.config.answers_closes {
            self.unanswered = closed.peer_close.clone();
        }
    }

    fn reads_nothing_more(&mut self) -> bool {
        if self.connection.is_open() {
            return false;
        }
        self.fate = self.connection.take_fate().or(self.fate);
        let all_read = self.eof && self.unread.is_empty();
        self.fate.is_some() || all_read || !self.connection.reads_frames()
    }

    /// Receives into an empty input.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // In the middle of a long frame as much as is left of it, and of the next frame what is there.
        let left = usize::try_from(self.connection.frame_bytes_left()).unwrap_or(usize::MAX);
        let bytes = match left {
            0 => self.read_buffer_bytes,
            left => {
                self.read_buffer_bytes.max(left.saturating_add(HEADER_BYTES_MAX).min(CONN_READ_BYTES_MAX))
            }
        };
        let tools = self.toolbox.open(self.config.compression);
        let mut input = ReadBuf::new(tools.input(bytes));
        let received = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut input));
        let received = received.map(|()| input.filled().len());
        if let Some(pulse) = &mut self.pulse {
            pulse.heard();
        }
        match received {
            Ok(0) => self.ended(),
            Ok(received) => self.unread = 0..received,
            // What a TLS peer's stream that ends without a word of goodbye is called.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.ended(),
            Err(error) => {
                self.eof = true;
                self.changed = true;
                self.end_with(End::io(&error));
                self.connection.failed(error.kind());
            }
        }
        Poll::Ready(())
    }

    fn ended(&mut self) {
        self.eof = true;
        self.changed = true;
        let until = self.with(|_, env, _, _| env.now + env.config.close_timeout);
        self.connection.ended(until);
    }

    /// Nothing more is read: what is queued leaves, the transport is shut down, and then it is over.
    fn poll_end(&mut self, flushed: Poll<()>, cx: &mut Context<'_>) -> Poll<()> {
        if self.fate != Some(Fate::Abort) {
            ready!(flushed);
            if self.fate.is_some() && self.write_end.is_none() {
                // What it comes to makes no difference any more.
                let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            }
            if self.fate == Some(Fate::Shutdown) {
                // A reset by what was not read would overtake what we said last.
                while self.poll_discard(cx).is_ready() && !self.eof {}
            }
        }
        let end = self.end_of_connection();
        self.end_with(end);
        Poll::Ready(())
    }

    /// Throws received bytes away.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unread = 0..0;
        ready!(self.poll_fill(cx));
        if !self.unread.is_empty() {
            self.look();
        }
        self.unread = 0..0;
        if self.connection.take_fate() == Some(Fate::Abort) {
            self.eof = true;
        }
        Poll::Ready(())
    }

    fn end_of_connection(&self) -> End {
        let Some(closed) = self.connection.closed() else { return End::Broken };
        if let Some(frame) = &closed.peer_close {
            return End::Closed(frame.clone());
        }
        match &closed.cause {
            Cause::Offence(offence) => End::Offence(*offence),
            Cause::PongTimeout => End::PongTimeout,
            Cause::OutOfMemory => End::OutOfMemory,
            Cause::Local if !self.eof => End::CloseTimeout,
            Cause::Failed(kind) => End::Io(*kind, kind.to_string()),
            _ => self.write_end.clone().unwrap_or(End::Broken),
        }
    }

    /// It is over; the first end counts.
    fn end_with(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.changed = true;
        self.unread = 0..0;
        self.drop_queue();
    }

    /// Waits for time to pass. Ready when something was done about it.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        loop {
            if self.read_deadline.is_some_and(|at| at <= self.now) {
                return Err(Error::ReadTimeout);
            }
            if self.machine_deadline().is_some_and(|at| at <= self.now) {
                let was_open = self.connection.is_open();
                self.with(|connection, env, _, _| connection.handle_timeout(env));
                self.note_ending(was_open);
                return Ok(Poll::Ready(()));
            }
            if self.judge_silence() || self.beat() {
                return Ok(Poll::Ready(()));
            }
            let pulse = self.pulse.as_ref().filter(|_| self.connection.is_open());
            let times = [self.read_deadline, self.machine_deadline(), pulse.map(|pulse| pulse.next())];
            let Some(at) = times.into_iter().flatten().min() else { return Ok(Poll::Pending) };
            if self.read_timer.poll(at, cx).is_pending() {
                return Ok(Poll::Pending);
            }
            self.look_at_clock();
        }
    }

    /// Ends the connection when the peer gave no sign of life in time. Asked when there is nothing to read.
    fn judge_silence(&mut self) -> bool {
        let blocked = self.connection.is_blocked();
        let Some(pulse) = self.pulse.as_mut().filter(|_| self.connection.is_open()) else { return false };
        if pulse.dead_at().is_none_or(|at| at > self.now) {
            return false;
        }
        if blocked {
            pulse.excuse(self.now);
            return false;
        }
        self.connection.give_up(Cause::PongTimeout);
        self.changed = true;
        true
    }

    /// Queues the heartbeat that is due, if one is.
    pub(super) fn beat(&mut self) -> bool {
        if !self.connection.is_open() {
            return false;
        }
        let Some(beat) = self.pulse.as_mut().and_then(|pulse| pulse.due(self.now)) else { return false };
        // A peer that does not take what it is sent is sent no more, and a fragmented message is not interrupted.
        let unheard = self.connection.is_blocked() && self.pulse.as_ref().is_some_and(Pulse::is_unanswered);
        let waits = unheard
            || self.connection.queued_bytes() > self.config.queue_bytes
            || matches!((&beat, &self.writing), (Beat::Text(_), Writing::Fragments | Writing::Torn));
        if waits {
            return false;
        }
        let queued = self.with(|connection, env, _, _| match &beat {
            Beat::Ping(payload) => connection.ping(payload, env),
            Beat::Text(text) => connection.send(Kind::Text, text.as_bytes(), env),
        });
        match queued {
            Ok(()) => {
                if let Some(pulse) = &mut self.pulse {
                    pulse.sent(self.now);
                }
            }
            Err(_) => self.connection.out_of_memory(),
        }
        true
    }

    /// Reads to the end of the connection and throws away what comes. A client waits for the server to end the stream
    /// too (RFC 6455, 7.1.1).
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let error = loop {
            match ready!(self.poll_event(cx)) {
                Ok(Event::Notice(Notice::Close(frame))) => self.answer_close(&frame),
                Ok(_) => self.incoming.skip(),
                Err(Error::ReadTimeout) => self.read_deadline = None,
                Err(error) => break error,
            }
        };
        while self.role == Role::Client && error.is_clean() && !self.eof {
            self.look_at_clock();
            let Some(at) = self.machine_deadline().filter(|at| *at > self.now) else { break };
            if self.poll_discard(cx).is_pending() {
                ready!(self.read_timer.poll(at, cx));
            }
        }
        self.put_tools_away();
        Poll::Ready(error)
    }

    /// Answers the peer's Close frame with `frame`'s code.
    pub(super) fn answer_close(&mut self, frame: &CloseFrame) {
        self.changed = true;
        self.with(|connection, env, _, _| connection.answer_close(frame.code, &frame.reason, env));
    }
}
