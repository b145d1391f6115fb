//! One end of a connection without a transport: the real state machine between an application and a kernel that follow a
//! script, called in the order in which the shard calls it.
//!
//! Never: checks of the output; the targets do that. Invariants of every moment (bounded memory, a deadline in every state,
//! silence after a protocol error) are asserted here.

use std::ops::Range;

use echoring_proto::buffer::{Budget, Buffer, Lease, Pool};
use echoring_proto::connection::{
    Cause, ChunkFlags, CloseMode, Closed, Codecs, Connection, ConnectionConfig, Entropy, Env, MessageKind,
    OutOfMemory, Piece, RestoreError, SINGLE_FRAME_BYTES_MAX, SINGLE_REPLY_START, SpanCursor, Step,
    TransportAction, echo_short, echo_single,
};
use echoring_proto::deflate::{self, Agreement, Direction};
use echoring_proto::handshake::{self, Dial};
use echoring_proto::limits::{Nanos, SECOND};
use echoring_proto::{CloseCode, Role};

use super::cursor::Choices;
use super::reference::{self, Message, Rules};

pub const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The application's treatment of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Echoes each message.
    Echo,
    /// Reads each message and sends nothing.
    Silent,
    /// Echoes some, reads others, and sends its own messages, pings and Close frames.
    Meddling,
}

/// The options of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub role: Role,
    pub app: App,
    /// The application takes whole messages.
    pub whole: bool,
    /// The application decides about the request only after the next receive.
    pub later: bool,
    /// The kernel takes sends partially or not at all, and time passes.
    pub rough: bool,
    /// Bytes of the node's budget.
    pub budget_bytes: u64,
}

impl Habits {
    pub fn plain(role: Role, app: App) -> Habits {
        Habits { role, app, whole: false, later: false, rough: false, budget_bytes: 1 << 30 }
    }
}

/// Why the sent bytes may lack expected frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// A Close frame replaced the frames that were queued after an unfinished send.
    pub queue: bool,
    /// The transport was cut, perhaps inside a frame.
    pub cut: bool,
}

pub struct Peer<'a> {
    pub connection: Connection,
    pub pool: Pool,
    codecs: Codecs,
    pub config: ConnectionConfig,
    entropy: Entropy,
    now: Nanos,
    habits: Habits,
    choices: Choices<'a>,
    /// Bytes that the transport has taken.
    pub sent: Vec<u8>,
    /// Bytes that arrived before another event started the end of the connection.
    pub heeded_bytes: usize,
    /// Offset of the current received span among all bytes.
    run_at: usize,
    /// All bytes that arrived while the transport was open, including the handshake.
    pub fed: Vec<u8>,
    /// Number of those bytes that belong to the handshake.
    pub opening_bytes: usize,
    /// Messages that the application received whole, except those that were answered before it saw them.
    pub shown: Vec<Message>,
    pub part: Option<Message>,
    pub pongs: Vec<Vec<u8>>,
    /// Messages that a scripted application sent or echoed.
    pub owed: Vec<Message>,
    pub owed_part: Option<Message>,
    plain_echo: bool,
    deciding: bool,
    /// Bytes that the driver took in this tick.
    staged_bytes: usize,
    pub fates: Vec<TransportAction>,
    pub lost: Lost,
    /// Whether any send was partial, or a piece of it refused.
    pub was_rough: bool,
    /// Frames that were queued besides echoes. Each may take a buffer of its own.
    meddled: usize,
    /// Whether this end, and not received bytes, started the end of the connection.
    pub ended_here: bool,
}

impl<'a> Peer<'a> {
    /// A server that waits for a request, or a client that has sent its own; `None` without memory.
    pub fn new(habits: Habits, config: ConnectionConfig, choices: Choices<'a>) -> Option<Peer<'a>> {
        let mut pool = Pool::new(Budget::new(habits.budget_bytes));
        let mut entropy = Entropy::new(7);
        let contexts = Budget::new(habits.budget_bytes.saturating_mul(8));
        let mut codecs = Codecs::new(config.compression, Lease::new(contexts, 1 << 10));
        let dial = Dial { host: "a".into(), path: "/echo".into(), ..Dial::default() };
        let config = ConnectionConfig { dial: Some(dial), ..config };
        let now = 100 * SECOND;
        let mut env =
            Env { pool: &mut pool, codecs: &mut codecs, config: &config, now, entropy: &mut entropy };
        let connection = match habits.role {
            Role::Server => Connection::server(&env),
            Role::Client => Connection::client(&mut env, habits.whole).ok()?,
        };
        let mut peer = Peer {
            connection,
            pool,
            codecs,
            config,
            entropy,
            now,
            habits,
            choices,
            sent: Vec::new(),
            heeded_bytes: 0,
            run_at: 0,
            fed: Vec::new(),
            opening_bytes: 0,
            shown: Vec::new(),
            part: None,
            pongs: Vec::new(),
            owed: Vec::new(),
            owed_part: None,
            plain_echo: false,
            deciding: false,
            staged_bytes: 0,
            fates: Vec::new(),
            lost: Lost::default(),
            was_rough: false,
            meddled: 0,
            ended_here: false,
        };
        peer.finish_turn();
        Some(peer)
    }

    /// A peer after the handshake, with an empty record; `None` if the memory did not suffice.
    pub fn open(habits: Habits, config: ConnectionConfig, choices: Choices<'a>) -> Option<Peer<'a>> {
        let mut peer = Peer::new(Habits { rough: false, later: false, ..habits }, config, choices)?;
        let head = peer.opening();
        peer.opening_bytes = head.len();
        peer.receive(&head);
        if !peer.connection.is_open() {
            return None;
        }
        peer.habits = habits;
        peer.sent.clear();
        peer.fed.clear();
        (peer.opening_bytes, peer.heeded_bytes) = (0, 0);
        Some(peer)
    }

    /// The handshake of the other end. It offers, or accepts, what this end allows.
    pub fn opening(&self) -> Vec<u8> {
        let mut offer = Vec::new();
        let preferences = self.codecs.preferences();
        if let Some(preferences) = preferences {
            deflate::write_offer(&mut offer, preferences);
        }
        if self.habits.role == Role::Server {
            let mut request = REQUEST.to_vec();
            if !offer.is_empty() {
                request.truncate(REQUEST.len() - 2);
                request.extend([b"Sec-WebSocket-Extensions: ", &offer[..], b"\r\n\r\n"].concat());
            }
            return request;
        }
        let at = self.sent.windows(5).position(|window| window == b"-Key:").expect("a request") + 6;
        let agreement = preferences.and_then(|own| deflate::agree([&offer[..]].into_iter(), own));
        let mut response = Vec::new();
        let key = self.sent[at..at + 24].try_into().expect("a key has 24 bytes");
        handshake::write_accept(&mut response, key, None, agreement.as_ref(), []);
        response
    }

    /// The negotiated compression of received and of sent messages.
    pub fn directions(&self) -> [Option<Direction>; 2] {
        let (agreement, role) = (self.connection.agreement(), self.habits.role);
        [
            agreement.map(|agreement| agreement.inbound(role)),
            agreement.map(|agreement| agreement.outbound(role)),
        ]
    }

    fn env(&mut self) -> (&mut Connection, Env<'_>) {
        let Peer { connection, pool, codecs, config, entropy, now, .. } = self;
        (connection, Env { pool, codecs, config, now: *now, entropy })
    }

    /// Whether the transport is open.
    pub fn is_connected(&self) -> bool {
        !self.fates.iter().any(|fate| *fate != TransportAction::Shutdown)
    }

    /// One tick: receives a span of bytes, and sends the results.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.is_connected() {
            return;
        }
        let was_over = self.connection.is_closing();
        let was_blocked = self.connection.is_blocked();
        self.run_at = self.fed.len();
        self.fed.extend_from_slice(bytes);
        if !self.ended_here {
            self.heeded_bytes = self.fed.len();
        }
        let mut bytes = bytes.to_vec();
        let mut cursor = SpanCursor::new();
        self.connection.begin_span(self.now);
        if self.plain_echo {
            if self.now.is_multiple_of(2) && echo_single(&mut bytes) {
                cursor = SpanCursor::at_end(bytes.len(), SINGLE_REPLY_START..bytes.len());
            } else {
                echo_short(&mut cursor, &mut bytes, self.config.max_message);
            }
            self.connection.resume_span(&cursor);
        } else if self.habits.app != App::Echo {
            self.show_short(&mut cursor, &mut bytes);
        }
        self.read(&mut cursor, &mut bytes);
        self.end_span(&cursor, &mut bytes);
        self.note_end(was_over, was_blocked);
        self.finish_turn();
    }

    fn show_short(&mut self, cursor: &mut SpanCursor, bytes: &mut [u8]) {
        let bytes_max = self.config.max_message;
        while self.connection.is_between_messages()
            && let Some((kind, at)) = self.connection.next_short(cursor, bytes, bytes_max)
        {
            self.show(cursor, bytes, ChunkFlags::whole(kind), Piece::InSpan(at));
        }
    }

    fn read(&mut self, cursor: &mut SpanCursor, bytes: &mut [u8]) {
        let offended =
            matches!(self.connection.closed(), Some(Closed { cause: Cause::ProtocolError(_), .. }));
        loop {
            let (connection, mut env) = self.env();
            let step = connection.poll(cursor, bytes, &mut env);
            assert!(!offended || matches!(step, Step::Idle), "{step:?} was read after an offence");
            match step {
                Step::Idle => break,
                Step::Head(head) => self.answer(head),
                Step::Chunk(flags, piece) => self.show(cursor, bytes, flags, piece),
                Step::Pong(piece) => {
                    let payload = self.taken(bytes, piece);
                    self.pongs.push(payload);
                }
                Step::Ping(_) => panic!("a ping was shown to nobody who asked"),
                Step::Refused(_) | Step::Opened(_) => {}
            }
        }
        assert!(
            self.connection.is_closing() || cursor.position() == bytes.len(),
            "something was left unread"
        );
    }

    fn answer(&mut self, head: Buffer) {
        let preferences = self.codecs.preferences().copied();
        let verdict = handshake::with_request(head.as_slice(), |request, _| {
            let upgrade = request.upgrade()?.ok_or(handshake::Refusal::MALFORMED)?;
            Ok((upgrade.key, preferences.and_then(|own| deflate::agree(upgrade.extensions(), &own))))
        });
        self.pool.put(head);
        match verdict {
            Ok(Some(Ok((key, agreement)))) => self.agree(key, agreement),
            Ok(Some(Err(refusal))) | Err(refusal) => {
                let (connection, mut env) = self.env();
                connection.refuse(&refusal, &mut env);
            }
            Ok(None) => {
                let (connection, mut env) = self.env();
                connection.refuse(&handshake::Refusal::MALFORMED, &mut env);
            }
        }
        self.deciding = self.connection.is_deciding();
    }

    fn agree(&mut self, key: [u8; 24], agreement: Option<Agreement>) {
        let (later, whole) = (self.habits.later, self.habits.whole);
        let (connection, mut env) = self.env();
        let agreed = agreement.map_or(Ok(()), |agreement| connection.agree(agreement, &mut env));
        if later {
            connection.decide_later(Some(key));
        } else if agreed.and_then(|()| connection.accept(Some(key), None, &[], whole, &mut env)).is_err() {
            connection.abort(Cause::OutOfMemory);
        }
    }

    fn taken(&mut self, bytes: &[u8], piece: Piece) -> Vec<u8> {
        match piece {
            Piece::InSpan(at) => bytes[at].to_vec(),
            Piece::Buffered(buffer) => {
                let payload = buffer.as_slice().to_vec();
                self.pool.put(buffer);
                payload
            }
        }
    }

    /// The application receives a chunk and decides about it.
    fn show(&mut self, cursor: &mut SpanCursor, bytes: &mut [u8], flags: ChunkFlags, piece: Piece) {
        let payload = match &piece {
            Piece::InSpan(at) => &bytes[at.clone()],
            Piece::Buffered(buffer) => buffer.as_slice(),
        };
        assert_eq!(flags.first, self.part.is_none(), "only a message's first chunk is marked so");
        let text = flags.kind == MessageKind::Text;
        let part = self.part.get_or_insert_with(|| Message { text, ..Message::default() });
        assert_eq!(part.text, text, "a message has one kind");
        part.payload.extend_from_slice(payload);
        if flags.last {
            self.shown.extend(self.part.take());
        }
        let begins = flags.first
            && match self.habits.app {
                App::Echo => true,
                App::Silent => false,
                App::Meddling => self.choices.next() & 1 == 1,
            };
        if begins {
            self.owed_part = Some(Message { text, ..Message::default() });
        }
        if let Some(owed) = &mut self.owed_part
            && self.connection.is_open()
        {
            owed.payload.extend_from_slice(payload);
            if flags.last {
                self.owed.extend(self.owed_part.take());
            }
            let (connection, mut env) = self.env();
            if connection.echo(cursor, bytes, flags, piece, &mut env).is_err() {
                connection.abort(Cause::OutOfMemory);
            }
        } else if let Piece::Buffered(buffer) = piece {
            self.pool.put(buffer);
        }
        if self.habits.app == App::Meddling && self.owed_part.is_none() {
            self.meddle();
            if self.ended_here {
                self.heeded_bytes = self.heeded_bytes.min(self.run_at + cursor.position());
            }
        }
    }

    /// The application sends something of its own, while none of its messages is unfinished.
    pub fn meddle(&mut self) {
        if !self.connection.is_open() || self.owed_part.is_some() {
            return;
        }
        let what = self.choices.next();
        if self.habits.app != App::Meddling && what & 7 < 2 {
            return;
        }
        let payload = vec![b'm'; usize::from(what >> 3) * usize::from(what & 1) * 40];
        let (connection, mut env) = self.env();
        let done = match what & 7 {
            0 | 1 => {
                let done = connection.send(MessageKind::Binary, &payload, &mut env);
                self.owed.push(Message { payload, ..Message::default() });
                done
            }
            2 => connection.ping(&payload[..payload.len().min(125)], &mut env),
            3 if what == 0x33 => {
                connection.close(CloseCode(4_000), "enough", CloseMode::Graceful, &mut env);
                Ok(())
            }
            3 if what == 0x3b => {
                self.lost.queue |=
                    connection.close(CloseCode::SLOW_CONSUMER, "slow", CloseMode::DropPeer, &mut env) > 0;
                Ok(())
            }
            _ => Ok(()),
        };
        self.meddled += usize::from(what & 7 < 3);
        if done.is_err() {
            self.connection.abort(Cause::OutOfMemory);
        }
        self.ended_here |= self.connection.is_closing();
    }

    /// Sends the replies in the received span, after everything that precedes them.
    fn end_span(&mut self, cursor: &SpanCursor, bytes: &mut [u8]) {
        let (connection, mut env) = self.env();
        let done = match connection.end_span(cursor, bytes, &mut env) {
            Ok(Some(block)) => self.send_replies(cursor, bytes, block),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if done.is_err() {
            self.connection.abort(Cause::OutOfMemory);
        }
        // The content of the region is lost after the tick.
        bytes.fill(0xdd);
    }

    fn send_replies(
        &mut self,
        cursor: &SpanCursor,
        bytes: &[u8],
        block: Range<usize>,
    ) -> Result<(), OutOfMemory> {
        let mut taken = self.send_queued();
        let mut headless = false;
        if taken && !cursor.detached_header().is_empty() {
            taken = self.send(cursor.detached_header());
            headless = taken;
        }
        if taken && self.send(&bytes[block]) {
            self.connection.replies_sent();
            return Ok(());
        }
        let (connection, mut env) = self.env();
        if headless {
            connection.copy_replies_behind_header(cursor, bytes, &mut env)
        } else {
            connection.copy_replies(cursor, bytes, &mut env)
        }
    }

    /// Sends the queue; false if the batch has no room for all of it.
    fn send_queued(&mut self) -> bool {
        while let Some(buffer) = self.connection.pop() {
            if !self.send(buffer.as_slice()) {
                self.connection.push_front(buffer);
                return false;
            }
            self.pool.put(buffer);
        }
        true
    }

    /// Adds a piece to the tick's batch, if there is room.
    fn send(&mut self, bytes: &[u8]) -> bool {
        assert!(!self.fates.contains(&TransportAction::Shutdown), "bytes behind the end of the stream");
        if self.connection.is_blocked() {
            return false;
        }
        if self.habits.rough && self.staged_bytes > 0 && self.choices.next() < 0x30 {
            self.was_rough = true;
            return false;
        }
        self.sent.extend_from_slice(bytes);
        self.staged_bytes += bytes.len();
        true
    }

    /// Sends the rest, carries out the connection's decisions, and lets the kernel take a part of the batch. The driver keeps
    /// the remainder and finishes it: the stream of bytes is the same, but the connection is blocked until then.
    fn finish_turn(&mut self) {
        loop {
            if !self.connection.is_blocked() {
                self.send_queued();
            }
            match self.connection.take_deferred(&self.config) {
                Some(deferred) => self.read_parked(deferred),
                None => break,
            }
        }
        if let Some(fate) = self.connection.take_transport_action() {
            assert!(!self.fates.contains(&fate), "{fate:?} was decided twice");
            self.lost.cut |= fate == TransportAction::Abort;
            self.fates.push(fate);
        }
        let _ = self.connection.pause_wanted(&self.config, false);
        let _ = self.connection.take_deadline_changed();
        let staged_bytes = std::mem::take(&mut self.staged_bytes);
        if self.habits.rough && staged_bytes > 0 && self.fates.is_empty() {
            let choice = usize::from(self.choices.next());
            if choice < 0x50 {
                self.was_rough = true;
                self.connection.blocked(staged_bytes.min(choice).max(1) as u32);
            }
        }
        self.plain_echo = self.habits.app == App::Echo
            && self.is_connected()
            && self.config.max_message >= SINGLE_FRAME_BYTES_MAX as u64
            && self.connection.may_echo_in_place();
        self.check_state();
    }

    /// The connection goes on from its bytes, in another place.
    pub fn change_place(&mut self) {
        if !self.is_connected() || self.connection.is_blocked() || !self.connection.may_move() {
            return;
        }
        let mut bytes = Vec::new();
        self.connection.put(&mut bytes, self.now);
        let (connection, mut env) = self.env();
        let mut rest = &bytes[..];
        match Connection::take(&mut rest, &mut env) {
            Ok(mut continued) => {
                assert!(rest.is_empty(), "bytes were left");
                std::mem::swap(connection, &mut continued);
                continued.release(env.pool, env.codecs);
            }
            // There was no room for both. It stays.
            Err(error) => assert_eq!(error, RestoreError::OutOfMemory),
        }
        self.finish_turn();
    }

    /// The kernel has taken the rest of a partial send.
    pub fn unblock(&mut self) {
        if self.connection.is_blocked() && self.is_connected() {
            self.connection.unblocked(self.now);
            self.finish_turn();
        }
    }

    /// The application decides about a waiting request.
    pub fn decide(&mut self) {
        if !std::mem::take(&mut self.deciding) {
            return;
        }
        let whole = self.habits.whole;
        let (connection, mut env) = self.env();
        if connection.accept(None, None, &[], whole, &mut env).is_err() {
            connection.abort(Cause::OutOfMemory);
        }
        self.finish_turn();
    }

    /// Reads deferred bytes. Replies cannot be sent from their buffer.
    fn read_parked(&mut self, mut deferred: Buffer) {
        let (was_over, was_blocked) = (self.connection.is_closing(), self.connection.is_blocked());
        let mut cursor = SpanCursor::new();
        self.run_at = self.opening_bytes;
        let mut bytes = deferred.as_slice().to_vec();
        self.read(&mut cursor, &mut bytes);
        deferred.as_mut_slice().fill(0xdd);
        self.pool.put(deferred);
        let (connection, mut env) = self.env();
        let done = match connection.end_span(&cursor, &bytes, &mut env) {
            Ok(Some(_)) => connection.copy_replies(&cursor, &bytes, &mut env),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if done.is_err() {
            self.connection.abort(Cause::OutOfMemory);
        }
        self.note_end(was_over, was_blocked);
    }

    pub fn pass(&mut self, time: Nanos) {
        self.now += time;
        if !self.is_connected() || self.connection.deadline(&self.config) > self.now {
            return;
        }
        let (was_over, was_blocked) = (self.connection.is_closing(), self.connection.is_blocked());
        let (connection, mut env) = self.env();
        connection.handle_timeout(&mut env);
        self.note_end(was_over, was_blocked);
        self.ended_here |= self.connection.is_closing();
        self.finish_turn();
    }

    /// The peer's stream ends, or the transport fails.
    pub fn end(&mut self, failed: bool) {
        if self.is_connected() {
            self.ended_here = true;
            if failed {
                self.connection.failed(std::io::ErrorKind::ConnectionReset);
            } else {
                self.connection.ended(self.now + self.config.close_timeout);
            }
            self.finish_turn();
        }
    }

    /// Sends everything that may be sent, then returns all memory.
    pub fn finish(&mut self) {
        self.habits.rough = false;
        self.decide();
        self.unblock();
        if self.is_connected() {
            self.finish_turn();
        }
        if self.is_connected() {
            assert_eq!(self.connection.queued_bytes(), 0, "nothing keeps the queue from leaving");
        }
        self.connection.release(&mut self.pool, &mut self.codecs);
        assert_eq!(self.bytes_in_use(), 0, "a connection that is over holds memory");
    }

    fn note_end(&mut self, was_over: bool, was_blocked: bool) {
        match self.connection.closed() {
            Some(Closed { cause: Cause::ProtocolError(_), .. }) if !was_over => {
                self.lost.queue |= was_blocked
            }
            Some(Closed { cause: Cause::OutOfMemory, .. }) => {
                self.lost.cut = true;
                self.ended_here = true;
            }
            _ => {}
        }
    }

    fn bytes_in_use(&mut self) -> usize {
        // The first call resets the demand, the second frees unused buffers.
        self.pool.trim();
        self.pool.trim();
        self.pool.used_bytes() as usize
    }

    /// Invariants between any two ticks.
    fn check_state(&mut self) {
        if !self.is_connected() {
            return;
        }
        let deadline = self.connection.deadline(&self.config);
        assert!(
            deadline < Nanos::MAX || self.connection.is_open(),
            "nothing ends this state: {:?}",
            self.connection.closed()
        );
        let queued_bytes = self.connection.queued_bytes() as usize;
        let mut bound = 2_048 + 8 * queued_bytes + 600 * self.meddled;
        if self.connection.agreement().is_some() {
            // Compressed messages wait until they are complete, and received spans until there is room for their output.
            bound += 4 * (self.fed.len() + self.config.max_message as usize);
        }
        let in_use = self.bytes_in_use();
        if in_use > bound {
            let behind = self.fed.get(self.opening_bytes..).unwrap_or_default();
            let rules = Rules { max_message: self.config.max_message, ..Rules::of(self.habits.role) };
            let heard = reference::receive(behind, rules);
            let unfinished = heard.unfinished.map_or(0, |message| message.payload.len());
            let unread =
                if self.connection.was_open() { behind.len() - heard.frame_at } else { self.fed.len() };
            assert!(
                in_use <= bound + 16 * (unfinished + unread),
                "{in_use} bytes for {queued_bytes} queued, {unfinished} of a message and {unread} unread"
            );
        }
    }
}
