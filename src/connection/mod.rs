//! One WebSocket peer, in either role, as a state machine: handshake, open, closing, over.
//!
//! Bytes and `now` come in, steps and bytes go out; this module never does I/O, reads no clock and knows no
//! thread. A [`Connection`] is driven like this, by the shard, the simulator and the tests alike:
//!
//! 1. [`begin_run`](Connection::begin_run) with the time at which a run of received bytes is looked at;
//! 2. [`poll`](Connection::poll) until it says [`Step::Idle`]. Each other step is acted on before the next
//!    poll: a head is answered ([`accept`](Connection::accept), [`refuse`](Connection::refuse),
//!    [`respond`](Connection::respond)), a chunk may be sent back ([`echo`](Connection::echo));
//! 3. [`end_run`](Connection::end_run) tells which part of the run is to be sent from where it lies, between
//!    the buffers of [`pop`](Connection::pop) before it and those after it;
//! 4. when all that has left, [`take_fate`](Connection::take_fate) says whether the transport is to be closed.
//!
//! Beside runs, [`handle_timeout`](Connection::handle_timeout) is called when
//! [`deadline`](Connection::deadline) has passed, and the driver's news are told by
//! [`blocked`](Connection::blocked), [`unblocked`](Connection::unblocked) and [`ended`](Connection::ended).
//!
//! In a run, a reply that fits takes the place of the frame it answers. A server's header is four bytes
//! shorter than a client's, so replies never catch up with the reading:
//!
//! ```text
//! run    | frame 1 (answered) | frame 2 (answered) | frame 3 …
//! block      | reply 1 | reply 2 |   ^ read
//!            ^ start             ^ end
//! ```
#![forbid(unsafe_code)]

mod closing;
mod compression;
mod control;
mod entropy;
mod handshake;
mod outbox;
mod parking;
mod reading;
mod short;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::buffer::{Buffer, Pool};
use crate::limits::{self, Nanos, PARKED_BYTES_MAX, RECEIVE_CREDIT_BYTES};
use crate::protocol::Role;
use crate::protocol::deflate::Agreement;
use crate::protocol::frame::{HEADER_BYTES_MAX, Header, Opcode};
use crate::protocol::handshake::{Dial, Refusal, Response};

pub use closing::{Cause, CloseFrame, Closed, Fate, TlsFault};
pub use compression::{Codecs, Compressed, Compression};
pub use entropy::{Entropy, Seed};
pub use handshake::Reply;
pub use outbox::OutOfMemory;
pub use short::{LONE_BYTES_MAX, LONE_REPLY_START, echo_lone, echo_short};

use closing::Ending;
use compression::Session;
use outbox::Outbox;
use reading::{Message, Reading};

/// Bytes of the largest control frame: two of header, four of key, 125 of payload.
const CONTROL_FRAME_BYTES_MAX: usize = 6 + limits::CONTROL_PAYLOAD_BYTES_MAX;

/// The type of a message (RFC 6455, 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl Kind {
    pub(crate) fn opcode(self) -> Opcode {
        match self {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        }
    }
}

/// A piece of a message as an application sees it.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The message's type.
    pub kind: Kind,
    /// The message starts with this chunk.
    pub first: bool,
    /// The message ends with this chunk.
    pub last: bool,
    /// Unmasked, and in a text message valid UTF-8 as far as it goes: a sequence may go on in the next chunk.
    pub payload: &'a mut [u8],
}

/// Marks of a chunk without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The message's type.
    pub kind: Kind,
    /// The message starts here.
    pub first: bool,
    /// The message ends here.
    pub last: bool,
    /// It came compressed, so it is whole, and goes back compressed.
    pub compressed: bool,
}

/// Where the bytes of a step are.
#[derive(Debug)]
pub enum Piece {
    /// In the run, from first to one past the last.
    Run(Range<usize>),
    /// Assembled from several runs.
    Held(Buffer),
}

/// What [`Connection::poll`] found in a run.
#[derive(Debug)]
pub enum Step {
    /// The run is used up.
    Idle,
    /// A whole request head (server role), to be answered before the next poll.
    Head(Buffer),
    /// The request was refused; a refusal is queued.
    Refused(Refusal),
    /// The server agreed (client role).
    Opened(Response),
    /// Part of a message.
    Chunk(Marks, Piece),
    /// A ping's payload, when [`Pings`] asks for it.
    Ping(Piece),
    /// A pong's payload.
    Pong(Piece),
}

/// What is done about a peer's pings (RFC 6455, 5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pings {
    /// They are answered.
    #[default]
    Answered,
    /// They are answered, and then shown.
    AnsweredAndShown,
    /// They are shown; the application [answers](Connection::pong).
    Shown,
}

/// In which pieces messages are shown. Compressed ones are always whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Whole, whatever their length.
    Whole,
    /// Frames that span runs whole when they are not long, so that an echo sends one frame; see
    /// [`ASSEMBLED_FRAME_BYTES_MAX`](limits::ASSEMBLED_FRAME_BYTES_MAX).
    Frames,
    /// As their bytes come: nothing is collected. Text is not validated but by the application, while it collects it;
    /// see [`Connection::offend_by_text`].
    Chunks,
}

impl Delivery {
    /// Whole, or as suits an echo.
    fn of(whole: bool) -> Delivery {
        if whole { Delivery::Whole } else { Delivery::Frames }
    }
}

/// What holds for every connection of a shard.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of a message, at most; one of this size is allowed.
    pub message_bytes_max: u64,
    /// Bytes queued to a peer above which reading from it pauses.
    pub queue_bytes: u32,
    /// Whether reading goes on above that all the same. It is for whoever queues nothing because of what is read, as a load
    /// generator does: with a peer that answers each message before it reads the next, both would wait for ever.
    pub reads_when_full: bool,
    /// From accept or dial to the 101.
    pub handshake_timeout: Nanos,
    /// From the first byte of a message to its last.
    pub message_timeout: Nanos,
    /// Silence after which a ping is sent; 0 for never.
    pub ping_interval: Nanos,
    /// From the ping to any byte of the peer.
    pub pong_timeout: Nanos,
    /// From our Close frame to the end.
    pub close_timeout: Nanos,
    /// Time that a send may go without progress; 0 for any.
    pub send_timeout: Nanos,
    /// Pings that a peer may send in a second; from 2^16 on there is no limit.
    pub pings_per_second_max: u32,
    /// What is done about pings.
    pub pings: Pings,
    /// Whether a peer's Close frame is answered with its own code. If not, the application
    /// [answers](Connection::answer_close).
    pub answers_closes: bool,
    /// How messages are compressed, if the peer agrees; `None` for never.
    pub compression: Option<Compression>,
    /// The request of connections in the client role.
    pub dial: Option<Dial>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            queue_bytes: limits::QUEUE_BYTES_DEFAULT,
            reads_when_full: false,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            message_timeout: limits::MESSAGE_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            pong_timeout: limits::PONG_TIMEOUT,
            close_timeout: limits::CLOSE_TIMEOUT,
            send_timeout: limits::SEND_TIMEOUT,
            pings_per_second_max: limits::PINGS_PER_SECOND_MAX,
            pings: Pings::default(),
            answers_closes: true,
            compression: None,
            dial: None,
        }
    }
}

/// What a connection is lent for the length of a call.
#[derive(Debug)]
pub struct Env<'a> {
    /// Where buffers come from and go.
    pub pool: &'a mut Pool,
    /// What inflates and deflates.
    pub codecs: &'a mut Codecs,
    /// What holds for all connections.
    pub config: &'a Config,
    /// The time of this turn.
    pub now: Nanos,
    /// Masking keys.
    pub entropy: &'a mut Entropy,
}

/// Where the reading of a run stands, and the block of replies that lies in it. Plain positions: the bytes
/// are given anew with each call.
#[derive(Clone, Debug, Default)]
pub struct Run {
    read: usize,
    /// Bytes that its compressed messages became.
    inflated_bytes: usize,
    block: Range<usize>,
    /// The header of the block's first frame, when the block begins behind it.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: u8,
}

impl Run {
    /// A run at its first byte.
    pub fn new() -> Run {
        Run::default()
    }

    /// A run of `bytes` bytes that has been read and answered in `block`.
    pub fn read_to_the_end(bytes: usize, block: Range<usize>) -> Run {
        Run { read: bytes, block, ..Run::default() }
    }

    /// How far it has been read.
    #[inline]
    pub fn position(&self) -> usize {
        self.read
    }

    /// The header of the frame that the block begins with, when it does not lie in the run; else empty.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_bytes)]
    }

    /// The replies that lie in it.
    #[inline]
    pub fn block(&self) -> Range<usize> {
        self.block.clone()
    }
}

#[derive(Debug)]
enum Phase {
    /// Waiting for a whole head.
    Head { buffer: Option<Buffer>, nonce: Option<Box<[u8; 16]>>, until: Nanos },
    /// The request was shown to the application; what follows it waits.
    Deciding { key: Box<[u8; 24]>, until: Nanos },
    /// Messages flow.
    Open,
    /// The end has begun; see [`Ending`].
    Ending(Ending),
}

/// One peer. About a hundred bytes: an idle connection is this and nothing else.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    reading: Reading,
    message: Message,
    /// Assembles a frame that spans runs, or a whole message where those were asked for.
    assembly: Option<Buffer>,
    outbox: Outbox,
    /// What was agreed on compression.
    session: Option<Box<Session>>,
    /// When the peer was last heard, or took bytes after it had not; when it was pinged since, the time of that.
    heard_at: Nanos,
    /// When the unfinished message began; 0 when there is none.
    message_since: Nanos,
    /// Pings of the peer within the second `ping_second`.
    pings: u16,
    ping_second: u32,
    role: Role,
    delivery: Delivery,
    liveness: Liveness,
    reads_paused: bool,
    /// The application wants no more messages for now.
    held_up: bool,
    deadline_moved: bool,
}

/// What the peer was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    /// It sent or took bytes.
    Heard,
    /// It was pinged since.
    Pinged,
    /// It sent FIN, and bytes before that wait to be read.
    HalfClosed,
}

impl Connection {
    /// The server's end of a connection that was accepted now.
    pub fn server(env: &Env<'_>) -> Connection {
        Connection::new(Role::Server, None, env)
    }

    /// The client's end of a connection that was made now; its request is queued.
    ///
    /// # Errors
    /// When the node's memory is spent. A configuration without [`Config::dial`] sends no request.
    pub fn client(env: &mut Env<'_>, whole: bool) -> Result<Connection, OutOfMemory> {
        let nonce = env.entropy.nonce();
        let mut connection = Connection::new(Role::Client, Some(Box::new(nonce)), env);
        connection.delivery = Delivery::of(whole);
        connection.queue_request(env, nonce)?;
        Ok(connection)
    }

    /// An end of a connection whose handshake was done elsewhere.
    ///
    /// # Errors
    /// When the memory that `agreement` takes is spent: only possible for windows that are kept.
    pub fn opened(
        role: Role,
        agreement: Option<Agreement>,
        delivery: Delivery,
        env: &mut Env<'_>,
    ) -> Result<Connection, OutOfMemory> {
        let mut connection = Connection::new(role, None, env);
        connection.delivery = delivery;
        connection.phase = Phase::Open;
        if let Some(agreement) = agreement {
            connection.keep_agreement(agreement, env)?;
        }
        Ok(connection)
    }

    fn new(role: Role, nonce: Option<Box<[u8; 16]>>, env: &Env<'_>) -> Connection {
        Connection {
            phase: Phase::Head { buffer: None, nonce, until: env.now + env.config.handshake_timeout },
            reading: Reading::default(),
            message: Message::default(),
            assembly: None,
            outbox: Outbox::default(),
            session: None,
            heard_at: env.now,
            message_since: 0,
            pings: 0,
            ping_second: 0,
            role,
            delivery: Delivery::Frames,
            liveness: Liveness::Heard,
            reads_paused: false,
            held_up: false,
            deadline_moved: true,
        }
    }

    /// Bytes of the node's budget that are taken for this connection, but those of an unfinished send, which the driver
    /// has.
    pub fn held_bytes(&self) -> u64 {
        let head = match &self.phase {
            Phase::Head { buffer, .. } => buffer.as_ref(),
            Phase::Deciding { .. } | Phase::Open | Phase::Ending(_) => None,
        };
        let buffers = [head, self.assembly.as_ref(), self.reading.buffer()].into_iter().flatten();
        let buffers: usize = buffers.map(Buffer::accounted_bytes).sum();
        buffers as u64 + self.outbox.held_bytes()
    }

    /// Whether messages may be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether the application has been asked and has not answered.
    pub fn is_deciding(&self) -> bool {
        matches!(self.phase, Phase::Deciding { .. })
    }

    /// Bytes queued to the peer, those of an unfinished send included.
    pub fn queued_bytes(&self) -> u32 {
        self.outbox.bytes()
    }

    /// Whether a send straight from other memory would keep the order and be taken.
    pub fn is_writable(&self) -> bool {
        self.is_open() && self.outbox.is_clear()
    }

    /// Starts a run of received bytes.
    #[inline]
    pub fn begin_run(&mut self, now: Nanos) {
        self.heard_at = now;
        self.liveness = Liveness::Heard;
    }

    /// Sends a piece back where it lies, or copies it into the outbox when it cannot lie there. What came compressed
    /// goes back so; what came plain was not worth it for the peer.
    ///
    /// # Errors
    /// When the node's memory is spent.
    #[inline]
    pub fn echo(
        &mut self,
        run: &mut Run,
        bytes: &mut [u8],
        marks: Marks,
        piece: Piece,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        let opcode = if marks.first { marks.kind.opcode() } else { Opcode::Continuation };
        match piece {
            Piece::Run(range) => self.reply(run, bytes, opcode, marks.last, range, env),
            Piece::Held(buffer) if marks.compressed => {
                let queued = self.send_message(marks.kind, buffer.as_slice(), env);
                env.pool.put(buffer);
                queued
            }
            Piece::Held(buffer) => self.reply_held(opcode, marks.last, buffer, env),
        }
    }

    /// Queues a message as one frame, compressed when that was agreed on and makes it shorter.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn send(&mut self, kind: Kind, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        self.send_message(kind, payload, env)
    }

    /// Queues a message as one frame that is not compressed.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn send_plain(&mut self, kind: Kind, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        self.send_fragment(kind, true, true, payload, env)
    }

    /// Queues a part of a message as one frame that is not compressed: the `first` names the kind, the `last` ends the
    /// message (RFC 6455, 5.4). Until then the caller queues no other message.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn send_fragment(
        &mut self,
        kind: Kind,
        first: bool,
        last: bool,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        let opcode = if first { kind.opcode() } else { Opcode::Continuation };
        let key = self.key(env);
        self.outbox.frame(env.pool, &Header::new(opcode, last, key, payload.len()), payload)
    }

    /// Queues a message that was encoded before, for all (server role: an encoded frame has no key). When
    /// `compressed`, from a window that this connection [shares](Connection::share_window).
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn send_encoded(&mut self, frame: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        debug_assert_eq!(self.role, Role::Server);
        self.outbox.raw(env.pool, frame)
    }

    /// Queues a ping, in front of data.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn ping(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        let key = self.key(env);
        self.outbox.control(env.pool, Opcode::Ping, key, payload, limits::QUEUED_PONGS_MAX)
    }

    /// Queues a ping behind what is queued, the response to the request being perhaps part of it.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn ping_behind(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        let key = self.key(env);
        self.outbox.frame(env.pool, &Header::new(Opcode::Ping, true, key, payload.len()), payload)
    }

    /// Queues a pong, in front of data. Past a number of queued ones only the latest is kept (RFC 6455, 5.5.3).
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn pong(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        let key = self.key(env);
        self.outbox.control(env.pool, Opcode::Pong, key, payload, limits::QUEUED_PONGS_MAX)
    }

    /// Whether buffers of a pool are in use for this connection, or contexts of its codecs are kept for it.
    pub fn owns_memory(&self) -> bool {
        !self.outbox.is_clear()
            || self.assembly.is_some()
            || !matches!(self.reading, Reading::Header { .. } | Reading::Payload(_))
            || self.session.as_ref().is_some_and(|session| session.keeps_context())
    }

    /// Whether nothing is queued and no send is unfinished.
    #[inline]
    pub fn has_clear_way(&self) -> bool {
        self.outbox.is_clear()
    }

    /// Whether anything but waiting for bytes is to be done for this connection.
    #[inline]
    pub fn needs_attention(&self) -> bool {
        !self.outbox.is_clear()
            || self.deadline_moved
            || self.reads_paused
            || self.held_up
            || !self.is_open()
            || self.reading.is_parked()
    }

    /// The next buffer to send. During a run: of those that go before the block. None any more when the connection
    /// is to be cut: where memory ran out, what should go before it may be missing.
    pub fn pop(&mut self) -> Option<Buffer> {
        if self.is_cut() { None } else { self.outbox.pop() }
    }

    /// Gives back what [`pop`](Connection::pop) gave and nobody took.
    pub fn unpop(&mut self, buffer: Buffer) {
        self.outbox.unpop(buffer);
    }

    /// The run is over. Returns the part of it that is to be sent from where it lies, after what
    /// [`pop`](Connection::pop) and then [`Run::head`] give, and before what `pop` gives once
    /// [`block_sent`](Connection::block_sent) was called. While a send is unfinished, the part is copied behind it instead.
    #[inline]
    pub fn end_run(
        &mut self,
        run: &Run,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Range<usize>>, OutOfMemory> {
        if run.block.is_empty() || self.is_cut() {
            self.outbox.end_block();
            return Ok(None);
        }
        if self.outbox.is_blocked() {
            self.outbox.insert_block(env.pool, run.head(), &bytes[run.block.clone()])?;
            return Ok(None);
        }
        Ok(Some(run.block.clone()))
    }

    /// The block of [`end_run`](Connection::end_run) is on its way.
    #[inline]
    pub fn block_sent(&mut self) {
        self.outbox.end_block();
    }

    /// The block of [`end_run`](Connection::end_run) could not be sent from where it lies.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn copy_block(&mut self, run: &Run, bytes: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        self.outbox.insert_block(env.pool, run.head(), &bytes[run.block.clone()])
    }

    /// Like [`copy_block`](Connection::copy_block), when [`Run::head`] is on its way already.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn copy_headless_block(
        &mut self,
        run: &Run,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        self.outbox.insert_torn(env.pool, &bytes[run.block.clone()])
    }

    /// The driver's last send was short by `unsent` bytes and goes on by itself.
    pub fn blocked(&mut self, unsent: u32) {
        self.outbox.block(unsent);
    }

    /// Of that send's rest, `bytes` are not sent after all; it goes on with fewer.
    pub fn taken_back(&mut self, bytes: u32) {
        self.outbox.take_back(bytes);
    }

    /// Bytes of a short send that the kernel had not taken when it was told of, less those
    /// [taken back](Connection::taken_back); 0 when no send is unfinished.
    pub fn unsent_bytes(&self) -> u32 {
        self.outbox.unsent_bytes()
    }

    /// The rest of a short send has been taken by the kernel. A pong is still waited for, from now on: the ping may have
    /// been in that send or behind it, and taking bytes is no answer.
    pub fn unblocked(&mut self, now: Nanos) {
        self.outbox.unblock();
        self.heard_at = now;
        self.deadline_moved = true;
    }

    /// No pong is waited for any more.
    fn answered(&mut self) {
        if self.liveness == Liveness::Pinged {
            self.liveness = Liveness::Heard;
        }
    }

    /// Whether a send is unfinished.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.outbox.is_blocked()
    }

    /// Whether reading should pause or resume now. Pauses when the queue passes its mark, resumes when it
    /// has fallen to half of it.
    #[inline]
    pub fn pause_wanted(&mut self, config: &Config) -> Option<bool> {
        let queued = self.queued_bytes();
        let mark = config.queue_bytes;
        let full = if self.reads_paused { queued > mark / 2 } else { queued > mark };
        let held = self.held_up || self.is_deciding() || self.reading.is_parked();
        if !full && !held && !self.reads_paused {
            return None;
        }
        let wanted = held || (full && !config.reads_when_full);
        (wanted != self.reads_paused).then(|| {
            self.reads_paused = wanted;
            wanted
        })
    }

    /// Whether reading, which is paused because the peer takes nothing, goes on for one more receive. Asked when its sends have
    /// made no progress for a while.
    ///
    /// Linux from 6.17 on drops a segment that reaches beyond a socket's receive window together with the acknowledgement
    /// in it, unless the receive queue is empty. When that window has shrunk to nothing, for many short segments are more
    /// than the socket may hold, a peer that begins to read again is not heard until something is read here.
    pub fn wants_one_more(&mut self, config: &Config) -> bool {
        let parked = if self.reading.is_parked() { self.reading.buffer().map_or(0, Buffer::len) } else { 0 };
        let has_room = self.queued_bytes() <= config.queue_bytes.saturating_add(RECEIVE_CREDIT_BYTES)
            && parked <= PARKED_BYTES_MAX - RECEIVE_CREDIT_BYTES as usize;
        let may = self.reads_paused && !self.held_up && !self.is_deciding() && has_room;
        if may {
            self.reads_paused = false;
        }
        may
    }

    /// Asks for no more messages, or for more again. What is under way still comes, see
    /// [`Driver::pause`](crate::driver::Driver::pause). Does nothing once the end has begun, since the peer's Close frame
    /// must be read.
    pub fn hold_up(&mut self, held_up: bool, now: Nanos) {
        if self.held_up && !held_up {
            // Whether the peer is alive could not be heard meanwhile.
            self.heard_at = now;
            self.answered();
            self.deadline_moved = true;
        }
        self.held_up = held_up && !self.is_ending();
    }

    /// Whether reading is, or is about to be, paused.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.reads_paused || self.held_up
    }

    /// Whether bytes may lie unread that the peer sent.
    fn is_reading_paused(&self) -> bool {
        self.is_paused() || self.reading.is_parked()
    }

    /// The masking key of the next frame: servers send none (RFC 6455, 5.1).
    fn key(&self, env: &mut Env<'_>) -> Option<[u8; 4]> {
        match self.role {
            Role::Server => None,
            Role::Client => Some(env.entropy.key()),
        }
    }

    /// Gives all buffers and contexts back; the connection is not used again.
    pub fn release(&mut self, pool: &mut Pool, codecs: &mut Codecs) {
        self.outbox.clear(pool);
        self.release_session(codecs);
        let head = match &mut self.phase {
            Phase::Head { buffer, .. } => buffer.take(),
            Phase::Deciding { .. } | Phase::Open | Phase::Ending(_) => None,
        };
        for buffer in [head, self.assembly.take(), self.reading.take_buffer()].into_iter().flatten() {
            pool.put(buffer);
        }
    }
}
