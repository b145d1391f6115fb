//! How a connection ends (RFC 6455, section 7): every transition towards the end is made here.

use std::fmt;
use std::io;

use super::reading::Stop;
use super::{CONTROL_FRAME_BYTES_MAX, Connection, Env, Liveness, OutOfMemory, Phase, Run, outbox};
use crate::buffer::Pool;
use crate::limits::{DISCARD_BYTES_MAX, Nanos};
use crate::protocol::close::{self, CloseCode};
use crate::protocol::frame::{Header, Opcode};
use crate::protocol::handshake::BadHandshake;
use crate::protocol::{Offence, Role};

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The peer closed, by a Close frame.
    Peer,
    /// We closed, for a reason that the code tells.
    Local,
    /// The peer broke a rule.
    Offence(Offence),
    /// The request was refused with this status.
    Refused(u16),
    /// The request was answered with an ordinary response.
    Answered,
    /// The server's answer was not the upgrade we asked for (client role).
    BadHandshake(BadHandshake),
    /// The handshake took too long.
    HandshakeTimeout,
    /// Nothing was heard after a ping.
    PongTimeout,
    /// The peer's stream ended without a Close frame.
    Gone,
    /// The transport failed.
    Failed(io::ErrorKind),
    /// TLS below failed, in the words of who noticed.
    Tls(TlsFault, String),
    /// A send made no progress for as long as it may: the peer does not read.
    SendTimeout,
    /// The node was short of memory, and of all connections this one held most beyond its share.
    OverShare,
    /// The node's memory was spent.
    OutOfMemory,
}

impl Cause {
    /// A short name for counters and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Cause::Peer => "peer",
            Cause::Local => "local",
            Cause::Offence(_) => "offence",
            Cause::Refused(_) => "refused",
            Cause::Answered => "answered",
            Cause::BadHandshake(_) => "bad-handshake",
            Cause::HandshakeTimeout => "handshake-timeout",
            Cause::PongTimeout => "pong-timeout",
            Cause::Gone => "gone",
            Cause::Failed(_) => "failed",
            Cause::Tls(fault, _) => fault.name(),
            Cause::SendTimeout => "send-timeout",
            Cause::OverShare => "over-share",
            Cause::OutOfMemory => "out-of-memory",
        }
    }
}

/// What of TLS failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFault {
    /// The two did not agree, one is not who it should be, or what came is not TLS.
    Handshake,
    /// The peer gave up, with an alert.
    Alert,
    /// A record was forged, damaged or malformed.
    Record,
}

impl TlsFault {
    /// A short name for counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            TlsFault::Handshake => "tls-handshake",
            TlsFault::Alert => "tls-alert",
            TlsFault::Record => "tls-record",
        }
    }
}

/// What a Close frame said (RFC 6455, 5.5.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CloseFrame {
    /// [`CloseCode::NO_STATUS`] when the frame was empty.
    pub code: CloseCode,
    /// At most 123 bytes; empty when none was given.
    pub reason: String,
}

impl fmt::Display for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => self.code.fmt(f),
            reason => write!(f, "{}: {reason}", self.code),
        }
    }
}

/// How a connection ended: for counters, the log and the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code that was sent or received; 1005 for an empty Close frame, 1006 without one.
    pub code: CloseCode,
    /// Why.
    pub cause: Cause,
    /// The peer's Close frame, if one came: its wish to close, or its answer to ours.
    pub peer_close: Option<CloseFrame>,
}

impl Closed {
    /// An end without a Close frame of the peer, so far.
    pub fn new(code: CloseCode, cause: Cause) -> Closed {
        Closed { code, cause, peer_close: None }
    }
}

/// What is to be done with the transport once the outbox has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Send FIN and go on receiving.
    Shutdown,
    /// Close.
    Close,
    /// Close now; what has not left is dropped.
    Abort,
}

/// A connection on its way out.
#[derive(Debug)]
pub(super) struct Ending {
    stage: Stage,
    closed: Box<Closed>,
    until: Nanos,
    fate: Option<Fate>,
    /// It had been a WebSocket.
    was_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// We sent Close and read frames until the peer's.
    CloseSent,
    /// Nothing more is read as frames; bytes are thrown away until FIN, so that no reset overtakes what we
    /// sent last.
    Discarding { left: u32 },
    /// Both Close frames are through, or nothing matters any more.
    Over,
}

impl Ending {
    pub(super) fn reads_frames(&self) -> bool {
        self.stage == Stage::CloseSent
    }
}

impl Connection {
    /// Starts the closing handshake, behind the data that is queued. Does nothing when the end has begun.
    pub fn close(&mut self, code: CloseCode, reason: &str, env: &mut Env<'_>) {
        match self.phase {
            Phase::Open => {}
            Phase::Head { .. } | Phase::Deciding { .. } => {
                let closed = Closed::new(code, Cause::Local);
                return self.finish(closed, env.now + env.config.close_timeout);
            }
            Phase::Ending(_) => return,
        }
        if self.queue_close(code, reason, env).is_err() {
            return self.out_of_memory();
        }
        self.end(Stage::CloseSent, Closed::new(code, Cause::Local), None, env);
    }

    /// Like [`close`](Connection::close), but in front of the data that is queued, which is dropped. Returns the
    /// bytes dropped.
    pub fn close_overtaking(&mut self, code: CloseCode, reason: &str, env: &mut Env<'_>) -> u32 {
        if !self.is_open() {
            return 0;
        }
        let dropped = self.outbox.clear(env.pool);
        self.close(code, reason, env);
        dropped
    }

    /// Answers the peer's Close frame, when [`Config::answers_closes`](super::Config::answers_closes) left that to
    /// the application: called once, when the end has begun with [`Cause::Peer`].
    pub fn answer_close(&mut self, code: CloseCode, reason: &str, env: &mut Env<'_>) {
        if self.queue_close(code, reason, env).is_err() {
            self.out_of_memory();
        }
    }

    /// Ends without a word: for what the application found out.
    pub fn give_up(&mut self, cause: Cause) {
        if !self.is_ending() {
            self.finish(Closed::new(CloseCode::ABNORMAL, cause), Nanos::MAX);
        }
        self.abort();
    }

    /// The same at once, so that all memory goes back that no send is under way from.
    pub fn give_way(&mut self, cause: Cause, pool: &mut Pool) {
        self.give_up(cause);
        self.outbox.clear(pool);
        for buffer in [self.assembly.take(), self.reading.take_buffer()].into_iter().flatten() {
            pool.put(buffer);
        }
    }

    /// Like [`close_overtaking`](Connection::close_overtaking) for a peer that does not keep up: its answer is not
    /// waited for.
    pub fn close_at_once(&mut self, code: CloseCode, reason: &str, env: &mut Env<'_>) -> u32 {
        if !self.is_open() {
            return 0;
        }
        let dropped = self.outbox.clear(env.pool);
        if self.queue_close(code, reason, env).is_err() {
            self.out_of_memory();
        } else {
            self.half_close(Closed::new(code, Cause::Local), env);
        }
        dropped
    }

    /// Ends the stream without a Close frame, behind what is queued: for tests of what peers make of that. The peer sees
    /// 1006. Does nothing when the end has begun.
    pub fn hang_up(&mut self, env: &Env<'_>) {
        if self.is_open() {
            let closed = Closed::new(CloseCode::ABNORMAL, Cause::Local);
            self.finish(closed, env.now + env.config.close_timeout);
        }
    }

    /// The peer's text, shown in [`Delivery::Chunks`](super::Delivery::Chunks), is not UTF-8 (RFC 6455, 8.1).
    pub fn offend_by_text(&mut self, run: &mut Run, env: &mut Env<'_>) {
        self.offend(run, Offence::InvalidUtf8, env);
    }

    /// The peer broke a rule: a Close frame says which, and nothing more of the peer is read.
    #[cold]
    pub(super) fn offend(&mut self, run: &mut Run, offence: Offence, env: &mut Env<'_>) {
        let closed = Closed::new(offence.close_code(), Cause::Offence(offence));
        if let Phase::Ending(_) = self.phase {
            // Our Close frame is out; there is no second one.
            return self.half_close(closed, env);
        }
        if self.outbox.is_blocked() {
            // What waits behind an unfinished send would hold the Close frame up.
            run.block = 0..0;
            self.outbox.clear(env.pool);
        }
        if !self.is_open() || self.queue_close(closed.code, &offence.to_string(), env).is_ok() {
            self.half_close(closed, env);
        } else {
            self.out_of_memory();
        }
    }

    /// The peer's Close frame: the first is answered with its own code, the second completes the handshake.
    pub(super) fn handle_close(
        &mut self,
        run: &mut Run,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), Stop> {
        let _ = run;
        let close = close::parse(payload)?;
        let peer_close = Some(CloseFrame { code: close.code, reason: close.reason.to_owned() });
        let closed = match &self.phase {
            Phase::Ending(ending) => Closed { peer_close, ..(*ending.closed).clone() },
            _ => {
                if env.config.answers_closes {
                    let key = self.key(env);
                    let echoed = &payload[..payload.len().min(2)];
                    let header = Header::new(Opcode::Close, true, key, echoed.len());
                    self.outbox.frame(env.pool, &header, echoed)?;
                }
                Closed { code: close.code, cause: Cause::Peer, peer_close }
            }
        };
        // The server closes TCP first (RFC 6455, 7.1.1); the client waits for that, up to the deadline.
        let fate = (self.role == Role::Server).then_some(Fate::Close);
        self.end(Stage::Over, closed, fate, env);
        Ok(())
    }

    fn queue_close(&mut self, code: CloseCode, reason: &str, env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        let mut payload = [0; 125];
        let payload_bytes =
            if code == CloseCode::NO_STATUS { 0 } else { close::write(&mut payload, code, reason) };
        let key = self.key(env);
        let mut encoded = [0; CONTROL_FRAME_BYTES_MAX];
        let frame = outbox::encode_control(&mut encoded, Opcode::Close, key, &payload[..payload_bytes]);
        self.outbox.raw(env.pool, frame)
    }

    /// Sends FIN behind what is queued and throws away what still comes.
    pub(super) fn half_close(&mut self, closed: Closed, env: &mut Env<'_>) {
        self.end(Stage::Discarding { left: DISCARD_BYTES_MAX }, closed, Some(Fate::Shutdown), env);
    }

    /// Ends without a word. What is queued still leaves, but not for longer than `until`: a peer that does not read would keep an
    /// unfinished send, and this connection with it, for ever.
    pub(super) fn finish(&mut self, closed: Closed, until: Nanos) {
        self.enter(Stage::Over, closed, until, Some(Fate::Close));
    }

    fn end(&mut self, stage: Stage, closed: Closed, fate: Option<Fate>, env: &Env<'_>) {
        let until = match &self.phase {
            Phase::Ending(ending) => ending.until,
            _ => env.now + env.config.close_timeout,
        };
        self.enter(stage, closed, until, fate);
    }

    fn enter(&mut self, stage: Stage, closed: Closed, until: Nanos, fate: Option<Fate>) {
        let was_open = self.was_open();
        // The pool gets back what there is of a head when the connection is released.
        if let Phase::Head { buffer, .. } = &mut self.phase
            && let Some(head) = buffer.take()
        {
            debug_assert!(self.assembly.is_none(), "no message comes before the handshake");
            self.assembly = Some(head);
        }
        self.held_up = false;
        self.phase = Phase::Ending(Ending { stage, closed: Box::new(closed), until, fate, was_open });
        self.deadline_moved = true;
    }

    /// No memory is left to say anything.
    #[cold]
    pub fn out_of_memory(&mut self) {
        self.finish(Closed::new(CloseCode::ABNORMAL, Cause::OutOfMemory), Nanos::MAX);
        self.abort();
    }

    /// TLS below failed. What is queued cannot be sent any more; an alert of the transport's own may.
    #[cold]
    pub fn tls_failed(&mut self, fault: TlsFault, detail: String, env: &mut Env<'_>) {
        self.outbox.clear(env.pool);
        let closed = match &self.phase {
            Phase::Ending(ending) => (*ending.closed).clone(),
            _ => Closed::new(CloseCode::ABNORMAL, Cause::Tls(fault, detail)),
        };
        self.half_close(closed, env);
    }

    /// What is queued cannot be sent: the transport never came to carry it.
    pub fn drop_queue(&mut self, env: &mut Env<'_>) {
        self.outbox.clear(env.pool);
    }

    /// Instead of being closed, the transport has said that nothing follows. The peer's last words are read and thrown
    /// away until it does the same, for no longer than an end may take.
    pub fn linger(&mut self) {
        if let Phase::Ending(ending) = &mut self.phase {
            ending.stage = Stage::Discarding { left: DISCARD_BYTES_MAX };
            self.deadline_moved = true;
        }
    }

    /// Whether what arrives is looked at; else it is thrown away, whatever it is.
    #[inline]
    pub fn reads(&self) -> bool {
        !matches!(&self.phase, Phase::Ending(ending) if !ending.reads_frames())
    }

    /// Whether the transport is to be closed without waiting for what is queued.
    pub fn is_cut(&self) -> bool {
        matches!(&self.phase, Phase::Ending(Ending { fate: Some(Fate::Abort), .. }))
    }

    fn abort(&mut self) {
        if let Phase::Ending(ending) = &mut self.phase {
            ending.fate = Some(Fate::Abort);
        }
    }

    /// Bytes arrived that nobody will read.
    pub(super) fn discard(&mut self, bytes: usize) {
        if let Phase::Ending(Ending { stage: Stage::Discarding { left }, fate, .. }) = &mut self.phase {
            *left = left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
            if *left == 0 {
                *fate = Some(Fate::Abort);
            }
        }
    }

    /// The peer sent FIN. It may still read what is queued to it, but until `until` at most.
    pub fn ended(&mut self, until: Nanos) {
        if !matches!(self.phase, Phase::Ending(_)) {
            self.finish(Closed::new(CloseCode::ABNORMAL, Cause::Gone), until);
        }
        if let Phase::Ending(ending) = &mut self.phase
            && ending.fate != Some(Fate::Abort)
        {
            ending.fate = Some(Fate::Close);
            ending.until = ending.until.min(until);
            self.deadline_moved = true;
        }
    }

    /// The peer sent FIN, and bytes before it are still to be read. It may have closed or read on: if reading stays
    /// paused, a ping finds out, which a peer that has closed answers with a reset.
    pub fn half_closed(&mut self, now: Nanos) {
        if self.is_open() {
            self.liveness = Liveness::HalfClosed;
            self.heard_at = now;
            self.deadline_moved = true;
        }
    }

    /// The transport failed.
    pub fn failed(&mut self, error: io::ErrorKind) {
        if !matches!(self.phase, Phase::Ending(_)) {
            let cause = match error {
                // What a short send left could not be kept.
                io::ErrorKind::OutOfMemory => Cause::OutOfMemory,
                error => Cause::Failed(error),
            };
            self.finish(Closed::new(CloseCode::ABNORMAL, cause), Nanos::MAX);
        }
        self.abort();
    }

    /// What is to be done with the transport, once: asked when the outbox has left and no send is unfinished.
    /// [`Fate::Abort`] does not wait for that.
    pub fn take_fate(&mut self) -> Option<Fate> {
        let fate = self.fate();
        if let Phase::Ending(ending) = &mut self.phase
            && fate.is_some()
        {
            ending.fate = None;
        }
        fate
    }

    /// What [`take_fate`](Connection::take_fate) would say.
    pub fn fate(&self) -> Option<Fate> {
        let Phase::Ending(ending) = &self.phase else { return None };
        ending.fate.filter(|fate| *fate == Fate::Abort || self.outbox.is_clear())
    }

    /// Whether it is, or was before its end began, a WebSocket: a request that was refused or merely answered
    /// never is.
    pub fn was_open(&self) -> bool {
        match &self.phase {
            Phase::Open => true,
            Phase::Ending(ending) => ending.was_open,
            Phase::Head { .. } | Phase::Deciding { .. } => false,
        }
    }

    /// Whether it may be ended to make memory: what is in its handshake holds little and for a short time, and what is
    /// about to be cut gives it back anyway.
    pub fn may_give_way(&self) -> bool {
        !self.is_in_handshake() && !self.is_cut()
    }

    /// Whether it has not come to be a WebSocket yet.
    pub fn is_in_handshake(&self) -> bool {
        matches!(self.phase, Phase::Head { .. } | Phase::Deciding { .. })
    }

    /// Whether frames of the peer are still read: until its Close frame, even behind ours.
    pub fn reads_frames(&self) -> bool {
        match &self.phase {
            Phase::Open => true,
            Phase::Ending(ending) => ending.reads_frames(),
            Phase::Head { .. } | Phase::Deciding { .. } => false,
        }
    }

    /// Whether the end has begun.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(_))
    }

    /// How the connection ended, once the end has begun.
    pub fn closed(&self) -> Option<&Closed> {
        match &self.phase {
            Phase::Ending(ending) => Some(&ending.closed),
            _ => None,
        }
    }

    /// When [`handle_timeout`](Connection::handle_timeout) is to be called; [`Nanos::MAX`] for never. It may
    /// move later without a word; whether it moved earlier tells
    /// [`take_deadline_moved`](Connection::take_deadline_moved).
    pub fn deadline(&self, config: &super::Config) -> Nanos {
        match &self.phase {
            Phase::Head { until, .. } | Phase::Deciding { until, .. } => *until,
            Phase::Ending(ending) => ending.until,
            Phase::Open => {
                let message = match self.message_since {
                    0 => Nanos::MAX,
                    since => since + config.message_timeout,
                };
                message.min(self.liveness_deadline(config))
            }
        }
    }

    /// While a send is unfinished, or we hold the peer up, its silence proves nothing: we may not be reading, and it
    /// may be busy reading what it has. A peer that is held up is pinged all the same: if it has closed, it answers with
    /// a reset, although its FIN may be stuck behind what we do not read.
    fn liveness_deadline(&self, config: &super::Config) -> Nanos {
        if self.liveness == Liveness::HalfClosed && self.is_reading_paused() {
            return self.heard_at + config.close_timeout;
        }
        if config.ping_interval == 0 || self.outbox.is_blocked() {
            return Nanos::MAX;
        }
        let wait = if self.liveness == Liveness::Pinged { config.pong_timeout } else { config.ping_interval };
        self.heard_at + wait
    }

    /// Whether the deadline may have moved to an earlier time since this was last asked.
    #[inline]
    pub fn take_deadline_moved(&mut self) -> bool {
        std::mem::take(&mut self.deadline_moved)
    }

    /// A deadline has passed. The next one is to be armed, whichever it is.
    pub fn handle_timeout(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        self.deadline_moved = true;
        match &self.phase {
            Phase::Head { until, .. } | Phase::Deciding { until, .. } => {
                if *until <= now {
                    let closed = Closed::new(CloseCode::ABNORMAL, Cause::HandshakeTimeout);
                    self.finish(closed, now + env.config.close_timeout);
                }
            }
            Phase::Ending(ending) => {
                if ending.until <= now {
                    self.abort();
                }
            }
            Phase::Open => self.handle_open_timeout(env),
        }
    }

    fn handle_open_timeout(&mut self, env: &mut Env<'_>) {
        if !self.is_in_message() {
            self.message_since = 0;
        } else if self.message_since + env.config.message_timeout <= env.now {
            if self.reads_paused {
                // We kept it from finishing; it gets its time anew.
                self.message_since = env.now;
                return;
            }
            return self.offend(&mut Run::new(), Offence::MessageTimeout, env);
        }
        if self.liveness_deadline(env.config) > env.now {
            return;
        }
        if self.held_up || (self.liveness == Liveness::HalfClosed && self.is_reading_paused()) {
            // Its answer would not be read. What is under way to it is as good as a ping.
            self.heard_at = env.now;
            self.answered();
            if self.outbox.is_clear() && self.ping(&[], env).is_err() {
                self.out_of_memory();
            }
            return;
        }
        if self.liveness == Liveness::Pinged {
            self.finish(Closed::new(CloseCode::ABNORMAL, Cause::PongTimeout), Nanos::MAX);
            return self.abort();
        }
        self.liveness = Liveness::Pinged;
        self.heard_at = env.now;
        self.outbox.shrink();
        if self.ping(&[], env).is_err() {
            self.out_of_memory();
        }
    }
}
